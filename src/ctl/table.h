#pragma once

/*
 * table: rows of aligned columns for people. Cells are copied; the last column is cut to the terminal's width, others
 * never, since they hold what people copy (ids, names).
 */

#include <stdio.h>

#include "base/macro.h"

#define TABLE_COLUMNS_MAX 10

typedef struct Table Table;

typedef enum TableAlign {
        TABLE_LEFT,
        TABLE_RIGHT,
} TableAlign;

struct Table {
        size_t n_columns;
        TableAlign align[TABLE_COLUMNS_MAX];
        char **cells;                   /* the heading's first, then row by row */
        const char **colors;            /* SGR of each cell, or NULL */
        size_t n_cells;
        size_t capacity;
        bool failed;                    /* a cell could not be had: no memory */
};

#define TABLE_NULL {}

void table_deinit(Table *t);
void table_column(Table *t, const char *heading, TableAlign align);
/* The next cell; a row ends with its last column. A failure is kept for table_print(). */
void table_add(Table *t, const char *text);
void table_add_color(Table *t, const char *text, const char *color);
void table_addf(Table *t, const char *format, ...) _printf_(2, 3);
/* width 0: lines are not cut. -ENOMEM where a cell was lost. */
int table_print(const Table *t, FILE *f, unsigned width, bool color) _must_check_;

#include <stdarg.h>

#include "base/error.h"
#include "ctl/table.h"
#include "ctl/text.h"

#define TABLE_GAP 2
#define TABLE_LAST_MIN 8        /* the last column is cut to no less than this */

void table_deinit(Table *t) {
        for (size_t i = 0; i < t->n_cells; i++)
                free(t->cells[i]);
        free(t->cells);
        free(t->colors);
        *t = (Table)TABLE_NULL;
}

/* Owns text, which may be NULL where there was no memory for it. */
static void table_add_take(Table *t, char *text, const char *color) {
        if (text && t->n_cells == t->capacity) {
                size_t capacity = t->capacity ? t->capacity * 2 : 64;
                char **cells = reallocarray(t->cells, capacity, sizeof(*cells));
                if (cells)
                        t->cells = cells;
                const char **colors = reallocarray(t->colors, capacity, sizeof(*colors));
                if (colors)
                        t->colors = colors;
                if (cells && colors)
                        t->capacity = capacity;
        }
        if (!text || t->n_cells == t->capacity) {
                free(text);
                t->failed = true;
                return;
        }
        t->cells[t->n_cells] = text;
        t->colors[t->n_cells++] = color && *color ? color : NULL;
}

void table_column(Table *t, const char *heading, TableAlign align) {
        if (t->n_columns == TABLE_COLUMNS_MAX) {
                t->failed = true;
                return;
        }
        t->align[t->n_columns++] = align;
        table_add_take(t, strdup(heading), "\033[1m");
}

void table_add_color(Table *t, const char *text, const char *color) {
        table_add_take(t, strdup(text), color);
}

void table_add(Table *t, const char *text) {
        table_add_color(t, text, NULL);
}

void table_addf(Table *t, const char *format, ...) {
        char *text = NULL;
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&text, format, ap) < 0)
                text = NULL;
        va_end(ap);
        table_add_take(t, text, NULL);
}

static void table_print_cell(const Table *t, size_t i, FILE *f, unsigned column_width, unsigned cut, bool color) {
        const char *text = t->cells[i], *sgr = color ? t->colors[i] : NULL;
        size_t column = i % t->n_columns;
        unsigned width = text_width(text, strlen(text)), pad = column_width > width ? column_width - width : 0;
        bool last = column + 1 == t->n_columns;

        if (t->align[column] == TABLE_RIGHT)
                fprintf(f, "%*s", (int)pad, "");
        fputs(sgr ?: "", f);
        text_write_line(f, text, cut);
        fputs(sgr ? "\033[0m" : "", f);
        if (last || (column + 2 == t->n_columns && i + 1 < t->n_cells && !*t->cells[i + 1]))
                fputs(last ? "\n" : "", f);     /* no blanks at a line's end */
        else
                fprintf(f, "%*s", (int)((t->align[column] == TABLE_LEFT ? pad : 0) + TABLE_GAP), "");
}

int table_print(const Table *t, FILE *f, unsigned width, bool color) {
        unsigned widths[TABLE_COLUMNS_MAX] = {}, before = 0, cut = 0;

        if (t->failed)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < t->n_cells; i++)
                widths[i % t->n_columns] = MAX(widths[i % t->n_columns], text_width(t->cells[i], strlen(t->cells[i])));
        for (size_t c = 0; c + 1 < t->n_columns; c++)
                before += widths[c] + TABLE_GAP;
        if (width)
                cut = width > before + TABLE_LAST_MIN ? width - before : TABLE_LAST_MIN;
        for (size_t i = 0; i < t->n_cells; i++)
                table_print_cell(t, i, f, widths[i % t->n_columns], i % t->n_columns + 1 == t->n_columns ? cut : 0,
                                 color);
        return 0;
}

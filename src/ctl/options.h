#pragma once

/*
 * options: command lines by table. The table that parses a verb's options also prints its --help, so the two can't
 * differ. Options may stand before and after the positional arguments; `--` ends them; "-" is positional.
 */

#include <stdio.h>

#include "base/macro.h"

typedef struct Ctl Ctl;
typedef struct Option Option;
typedef struct OptionList OptionList;
typedef struct Verb Verb;

#define OPTION_LIST_MAX 64              /* values of one repeated option: labels, capabilities */

enum {
        _OPTIONS_E_SUCCESS,
        OPTIONS_E_HELP,                 /* --help or -h */
        OPTIONS_E_USAGE,                /* error says what, and the way out */
};

/* An option fills the one of its targets that is set. */
struct Option {
        const char *name;               /* "agent" for --agent; NULL ends the table */
        char letter;                    /* 'a' for -a, or 0 */
        const char *value;              /* "NAME" in the help; NULL: a flag */
        const char *help;
        bool *flag;
        const char **text;              /* the last one given */
        OptionList *list;               /* all that were given */
};

struct OptionList {
        const char *values[OPTION_LIST_MAX];
        size_t n;
};

struct Verb {
        const char *name;               /* "submit", or "key create" */
        const char *arguments;          /* "[PROMPT]" */
        const char *summary;            /* one line, no full stop */
        const char *details;            /* further paragraphs of the help, or NULL */
        int (*run)(Ctl *ctl, const Verb *verb, int argc, char **argv);
};

/*
 * Parses argv[0…argc−1] by two tables (common may be NULL). Positional arguments are moved to the front of argv, in
 * order; their number goes to *ret_n. With `stop`, parsing ends before the first of them, and *ret_n is its index.
 */
int options_parse(const Option *options, const Option *common, bool stop, int argc, char **argv, int *ret_n,
                  char ret_error[static 256]) _must_check_;
void options_print(FILE *f, const Option *options, const char *heading);
/* The candidate that is nearest to a mistyped word, or NULL where none is near. */
const char *options_nearest(const char *word, const char *const *candidates, size_t n);

#include "ctl/options.h"

#define HELP_COLUMN 28

/* Levenshtein's distance, of words up to 31 bytes; a larger one of longer words. */
static unsigned word_distance(const char *a, const char *b) {
        unsigned row[32];
        size_t n_a = strlen(a), n_b = strlen(b);

        if (n_a >= ELEMENTSOF(row) || n_b >= ELEMENTSOF(row))
                return ELEMENTSOF(row);
        for (unsigned j = 0; j <= n_b; j++)
                row[j] = j;
        for (size_t i = 1; i <= n_a; i++) {
                unsigned diagonal = row[0];
                row[0] = (unsigned)i;
                for (size_t j = 1; j <= n_b; j++) {
                        unsigned above = row[j], step = MIN(above, row[j - 1]) + 1;
                        row[j] = MIN(step, diagonal + (a[i - 1] != b[j - 1]));
                        diagonal = above;
                }
        }
        return row[n_b];
}

const char *options_nearest(const char *word, const char *const *candidates, size_t n) {
        const char *nearest = NULL;
        unsigned best = 3;

        for (size_t i = 0; i < n; i++) {
                unsigned d = *word && str_starts(candidates[i], word) ? 1 : word_distance(word, candidates[i]);
                if (d < best && d < strlen(candidates[i])) {
                        best = d;
                        nearest = candidates[i];
                }
        }
        return nearest;
}

static const Option *option_find(const Option *options, const char *name, size_t n_name, char letter) {
        for (const Option *o = options; o && o->name; o++)
                if (letter ? o->letter == letter : strlen(o->name) == n_name && memcmp(o->name, name, n_name) == 0)
                        return o;
        return NULL;
}

static int option_unknown(const Option *options, const Option *common, const char *argument,
                          char ret_error[static 256]) {
        const char *names[128], *nearest = NULL;
        char word[32];
        size_t n = 0;

        for (const Option *o = options; o && o->name && n < ELEMENTSOF(names); o++)
                names[n++] = o->name;
        for (const Option *o = common; o && o->name && n < ELEMENTSOF(names); o++)
                names[n++] = o->name;
        if (argument[1] == '-') {
                snprintf(word, sizeof(word), "%.*s", (int)strcspn(argument + 2, "="), argument + 2);
                nearest = options_nearest(word, names, n);
        }
        snprintf(ret_error, 256, "unknown option '%.80s'%s%s%s", argument, nearest ? "; did you mean --" : "",
                 nearest ?: "", nearest ? "?" : "");
        return OPTIONS_E_USAGE;
}

static int option_set(const Option *o, const char *value, char ret_error[static 256]) {
        if (o->flag)
                *o->flag = true;
        if (o->text)
                *o->text = value;
        if (o->list) {
                if (o->list->n >= OPTION_LIST_MAX) {
                        snprintf(ret_error, 256, "option --%s is given more than %d times", o->name, OPTION_LIST_MAX);
                        return OPTIONS_E_USAGE;
                }
                o->list->values[o->list->n++] = value;
        }
        return 0;
}

/* One argument that is an option; *i moves on to its value where that is an argument of its own. */
static int option_take(const Option *options, const Option *common, int argc, char **argv, int *i,
                       char ret_error[static 256]) {
        const char *argument = argv[*i], *value = NULL;
        const Option *o;

        if (argument[1] == '-') {
                size_t n = strcspn(argument + 2, "=");
                o = option_find(options, argument + 2, n, 0) ?: option_find(common, argument + 2, n, 0);
                if (argument[2 + n])
                        value = argument + 2 + n + 1;
        } else {
                o = option_find(options, NULL, 0, argument[1]) ?: option_find(common, NULL, 0, argument[1]);
                if (argument[2])
                        value = argument + 2;
        }
        if (!o)
                return option_unknown(options, common, argument, ret_error);
        if (!o->value && value) {
                snprintf(ret_error, 256, "option --%s takes no value", o->name);
                return OPTIONS_E_USAGE;
        }
        if (o->value && !value) {
                if (*i + 1 >= argc) {
                        snprintf(ret_error, 256, "option --%s needs a value: --%s %s", o->name, o->name, o->value);
                        return OPTIONS_E_USAGE;
                }
                value = argv[++*i];
        }
        return option_set(o, value, ret_error);
}

int options_parse(const Option *options, const Option *common, bool stop, int argc, char **argv, int *ret_n,
                  char ret_error[static 256]) {
        bool ended = false;
        int n = 0, r;

        for (int i = 0; i < argc; i++) {
                char *argument = argv[i];
                if (ended || argument[0] != '-' || !argument[1]) {
                        if (stop) {
                                *ret_n = i;
                                return 0;
                        }
                        argv[n++] = argument;
                } else if (streq(argument, "--"))
                        ended = true;
                else if (streq(argument, "--help") || streq(argument, "-h"))
                        return OPTIONS_E_HELP;
                else {
                        r = option_take(options, common, argc, argv, &i, ret_error);
                        if (r)
                                return r;
                }
        }
        *ret_n = stop ? argc : n;
        return 0;
}

void options_print(FILE *f, const Option *options, const char *heading) {
        if (!options || !options->name)
                return;
        fprintf(f, "\n%s:\n", heading);
        for (const Option *o = options; o->name; o++) {
                int n = fprintf(f, "  %c%c%s--%s%s%s", o->letter ? '-' : ' ', o->letter ?: ' ', o->letter ? ", " : "  ",
                                o->name, o->value ? " " : "", o->value ?: "");
                if (n >= HELP_COLUMN) {
                        fprintf(f, "\n");
                        n = 0;
                }
                fprintf(f, "%*s", HELP_COLUMN - n, "");
                for (const char *p = o->help; *p; p++) {
                        fputc(*p, f);
                        if (*p == '\n')
                                fprintf(f, "%*s", HELP_COLUMN, "");
                }
                fputc('\n', f);
        }
}

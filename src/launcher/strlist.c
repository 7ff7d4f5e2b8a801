#include "base/error.h"
#include "launcher/strlist.h"

void str_list_deinit(StrList *l) {
        for (size_t i = 0; i < l->n; i++)
                free(l->items[i]);
        free(l->items);
        *l = (StrList){};
}

int str_list_add_take(StrList *l, char *s) {
        /* Room is made in eights. */
        if (l->n % 8 == 0) {
                char **items = realloc(l->items, (l->n + 9) * sizeof(*items));

                if (!items)
                        return error_origin(-ENOMEM);
                l->items = items;
        }
        l->items[l->n++] = s;
        l->items[l->n] = NULL;
        return 0;
}

int str_list_add(StrList *l, const char *s) {
        _cleanup_free_ char *copy = strdup(s);
        int r;

        if (!copy)
                return error_origin(-ENOMEM);
        r = str_list_add_take(l, copy);
        if (r)
                return error_trace(r);
        copy = NULL;
        return 0;
}

void str_list_remove_variable(StrList *l, const char *name) {
        size_t n_name = strlen(name), n = 0;

        for (size_t i = 0; i < l->n; i++)
                if (strncmp(l->items[i], name, n_name) == 0 && l->items[i][n_name] == '=')
                        free(l->items[i]);
                else
                        l->items[n++] = l->items[i];
        l->n = n;
        if (l->items)
                l->items[n] = NULL;
}

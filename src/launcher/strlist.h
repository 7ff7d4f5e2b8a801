#pragma once

/* StrList: a growing, NULL-terminated array of owned strings, as execve(2) wants argv and envp. */

#include "base/macro.h"

typedef struct StrList StrList;

struct StrList {
        char **items;           /* NULL, or n strings and a NULL */
        size_t n;
};

void str_list_deinit(StrList *l);
/* Owns s on success. -ENOMEM. */
int str_list_add_take(StrList *l, char *s) _must_check_;
int str_list_add(StrList *l, const char *s) _must_check_;
/* Of an environment: removes every "NAME=…". */
void str_list_remove_variable(StrList *l, const char *name);

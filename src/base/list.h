#pragma once

/*
 * List: an intrusive, circular, doubly linked list. A ListLink is embedded in its owner and found again by
 * container_of; it knows whether it is linked, so unlinking twice is harmless.
 */

#include "base/macro.h"

typedef struct ListLink ListLink;
typedef ListLink List;

struct ListLink {
        ListLink *next;
        ListLink *prev;
};

#define LIST_INIT(l) { .next = &(l), .prev = &(l) }

static inline void list_init(List *l) {
        l->next = l->prev = l;
}

static inline bool list_is_linked(const ListLink *l) {
        return l->next && l->next != l;
}

static inline bool list_is_empty(const List *l) {
        return !list_is_linked(l);
}

/* Links `what` before `where`: at the tail, where `where` is the list itself. */
static inline void list_link_before(ListLink *where, ListLink *what) {
        what->prev = where->prev;
        what->next = where;
        where->prev->next = what;
        where->prev = what;
}

static inline void list_link_tail(List *l, ListLink *what) {
        list_link_before(l, what);
}

static inline void list_link_front(List *l, ListLink *what) {
        list_link_before(l->next, what);
}

static inline void list_unlink(ListLink *what) {
        if (what->next) {
                what->next->prev = what->prev;
                what->prev->next = what->next;
        }
        what->next = what->prev = NULL;
}

/* Unlinks and returns the first link, or NULL. */
static inline ListLink *list_pop(List *l) {
        ListLink *first = l->next;

        if (list_is_empty(l))
                return NULL;
        list_unlink(first);
        return first;
}

#define list_first_entry(l, type, member) \
        (list_is_empty(l) ? NULL : container_of((l)->next, type, member))

/* The body may unlink (and free) the current entry. */
#define list_for_each_safe(i, l)                                                        \
        for (ListLink *i = (l)->next, *_next_##i = i->next; i != (l);                   \
             i = _next_##i, _next_##i = i->next)

#pragma once

/*
 * IdMap: a hash table from Ids to intrusive nodes, for the objects of which there are a million: 24 bytes a node, key
 * included. The ids must be our own (id_new()): 62 of their bits are random, so they need no hash, and a client can't
 * build collisions.
 */

#include "base/id.h"

typedef struct IdMap IdMap;
typedef struct IdNode IdNode;

struct IdNode {
        IdNode *next;
        Id id;
};

struct IdMap {
        IdNode **buckets;
        size_t n_buckets;
        size_t n;
};

#define IDMAP_NULL {}

/* Frees the table alone: the nodes belong to their owners. */
void idmap_deinit(IdMap *m);
/* node->id is the key. -ENOMEM, -EEXIST. */
int idmap_insert(IdMap *m, IdNode *node) _must_check_;
/* The node must be in the map. */
void idmap_remove(IdMap *m, IdNode *node);
IdNode *idmap_find(const IdMap *m, const Id *id);

/* Iterates; the body may remove the current node. */
#define idmap_for_each(i, m)                                                                    \
        for (size_t _b_##i = 0; _b_##i < (m)->n_buckets; _b_##i++)                              \
                for (IdNode *i = (m)->buckets[_b_##i], *_n_##i = i ? i->next : NULL; i;         \
                     i = _n_##i, _n_##i = i ? i->next : NULL)

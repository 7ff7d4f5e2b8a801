#pragma once

/*
 * Map: a hash table from byte keys to intrusive nodes. The owner embeds a MapNode whose key points into the owner.
 * Separate chaining with power-of-two growth; keys are hashed by SipHash-2-4 with a per-process key, so a client that
 * chooses keys can't build collisions.
 */

#include "base/macro.h"

typedef struct Map Map;
typedef struct MapNode MapNode;

struct MapNode {
        MapNode *next;
        uint64_t hash;
        const void *key;
        size_t n_key;
        bool linked;
};

struct Map {
        MapNode **buckets;
        size_t n_buckets;
        size_t n;
};

#define MAP_NULL {}

/* Frees the table alone: the nodes belong to their owners, who no longer call map_remove() for them. */
void map_deinit(Map *m);
/* -ENOMEM, -EEXIST, -errno of getrandom(2). The key must live as long as the node is linked. */
int map_insert(Map *m, MapNode *node, const void *key, size_t n_key) _must_check_;
/* No-op for a node that is not linked. */
void map_remove(Map *m, MapNode *node);
MapNode *map_find(const Map *m, const void *key, size_t n_key);

/* The hash itself, for tests. */
uint64_t map_siphash(const uint8_t key[static 16], const void *data, size_t n);

/* Iterates; the body may remove the current node. */
#define map_for_each(i, m)                                                                      \
        for (size_t _b_##i = 0; _b_##i < (m)->n_buckets; _b_##i++)                              \
                for (MapNode *i = (m)->buckets[_b_##i], *_n_##i = i ? i->next : NULL; i;        \
                     i = _n_##i, _n_##i = i ? i->next : NULL)

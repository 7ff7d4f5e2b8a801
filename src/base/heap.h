#pragma once

/*
 * Heap: an intrusive binary min-heap of pointers. Each owner embeds a HeapNode, which remembers its place, so
 * removal and re-ordering cost O(log n) without a search. Sift-up and sift-down after CLRS, chapter 6.
 */

#include "base/macro.h"

typedef struct Heap Heap;
typedef struct HeapNode HeapNode;

/* True where a must leave the heap before b. */
typedef bool (*HeapLess)(const HeapNode *a, const HeapNode *b);

struct HeapNode {
        uint32_t place;         /* index + 1; 0: in no heap */
};

struct Heap {
        HeapNode **nodes;
        size_t n;
        size_t capacity;
        HeapLess less;
};

#define HEAP_INIT(less_fn) { .less = (less_fn) }

void heap_deinit(Heap *h);
/* -ENOMEM; the node must be in no heap. */
int heap_push(Heap *h, HeapNode *node) _must_check_;
/* No-op for a node that is in no heap. */
void heap_remove(Heap *h, HeapNode *node);
/* The node's key changed. No-op for a node that is in no heap. */
void heap_fix(Heap *h, HeapNode *node);

static inline HeapNode *heap_top(const Heap *h) {
        return h->n ? h->nodes[0] : NULL;
}

static inline bool heap_contains(const HeapNode *node) {
        return node->place > 0;
}

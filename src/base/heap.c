#include "base/error.h"
#include "base/heap.h"

void heap_deinit(Heap *h) {
        free(h->nodes);
        *h = (Heap)HEAP_INIT(h->less);
}

static void heap_put(Heap *h, size_t i, HeapNode *node) {
        h->nodes[i] = node;
        node->place = (uint32_t)(i + 1);
}

static void heap_up(Heap *h, size_t i) {
        HeapNode *node = h->nodes[i];

        for (; i > 0 && h->less(node, h->nodes[(i - 1) / 2]); i = (i - 1) / 2)
                heap_put(h, i, h->nodes[(i - 1) / 2]);
        heap_put(h, i, node);
}

static void heap_down(Heap *h, size_t i) {
        HeapNode *node = h->nodes[i];

        for (;;) {
                size_t child = 2 * i + 1;
                if (child >= h->n)
                        break;
                if (child + 1 < h->n && h->less(h->nodes[child + 1], h->nodes[child]))
                        child++;
                if (!h->less(h->nodes[child], node))
                        break;
                heap_put(h, i, h->nodes[child]);
                i = child;
        }
        heap_put(h, i, node);
}

int heap_push(Heap *h, HeapNode *node) {
        if (h->n == h->capacity) {
                size_t capacity = h->capacity ? h->capacity * 2 : 16;
                HeapNode **nodes = capacity < UINT32_MAX ? reallocarray(h->nodes, capacity, sizeof(*nodes)) : NULL;
                if (!nodes)
                        return error_origin(-ENOMEM);
                h->nodes = nodes;
                h->capacity = capacity;
        }
        heap_put(h, h->n++, node);
        heap_up(h, h->n - 1);
        return 0;
}

void heap_remove(Heap *h, HeapNode *node) {
        size_t i;

        if (!node->place)
                return;
        i = node->place - 1;
        node->place = 0;
        if (i == --h->n)
                return;
        heap_put(h, i, h->nodes[h->n]);
        heap_fix(h, h->nodes[i]);
}

void heap_fix(Heap *h, HeapNode *node) {
        if (!node->place)
                return;
        heap_up(h, node->place - 1);
        heap_down(h, node->place - 1);
}

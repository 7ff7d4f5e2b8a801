#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/heap.h"

#define N 500

typedef struct Item {
        HeapNode node;
        unsigned key;
} Item;

static bool item_less(const HeapNode *a, const HeapNode *b) {
        return container_of(a, Item, node)->key < container_of(b, Item, node)->key;
}

static unsigned top_key(const Heap *h) {
        return container_of(heap_top(h), Item, node)->key;
}

/* The smallest key of those that are in the heap, from the array alone. */
static unsigned model_min(const Item *items) {
        unsigned min = UINT32_MAX;

        for (size_t i = 0; i < N; i++)
                if (heap_contains(&items[i].node))
                        min = MIN(min, items[i].key);
        return min;
}

/* Random pushes, removals from the middle and key changes: the top is always the model's minimum. */
static void test_random(void **state) {
        _cleanup_(heap_deinit) Heap h = HEAP_INIT(item_less);
        static Item items[N];
        unsigned seed = 7;
        size_t n = 0;

        for (unsigned step = 0; step < 20000; step++) {
                Item *item = items + (unsigned)rand_r(&seed) % N;
                unsigned key = (unsigned)rand_r(&seed) % 1000;

                if (!heap_contains(&item->node)) {
                        item->key = key;
                        assert_int_equal(heap_push(&h, &item->node), 0);
                        n++;
                } else if (rand_r(&seed) % 2) {
                        heap_remove(&h, &item->node);
                        n--;
                } else {
                        item->key = key;
                        heap_fix(&h, &item->node);
                }
                assert_int_equal(h.n, n);
                if (n)
                        assert_int_equal(top_key(&h), model_min(items));
                else
                        assert_null(heap_top(&h));
        }
        /* Drained, it sorts. */
        for (unsigned last = 0; heap_top(&h); ) {
                assert_true(top_key(&h) >= last);
                last = top_key(&h);
                heap_remove(&h, heap_top(&h));
        }
}

static void test_absent(void **state) {
        _cleanup_(heap_deinit) Heap h = HEAP_INIT(item_less);
        Item a = { .key = 1 }, b = { .key = 2 };

        heap_remove(&h, &a.node);
        heap_fix(&h, &a.node);
        assert_null(heap_top(&h));
        assert_int_equal(heap_push(&h, &b.node), 0);
        heap_remove(&h, &a.node);
        assert_ptr_equal(heap_top(&h), &b.node);
        heap_remove(&h, &b.node);
        assert_false(heap_contains(&b.node));
        assert_null(heap_top(&h));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_random),
                cmocka_unit_test(test_absent),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

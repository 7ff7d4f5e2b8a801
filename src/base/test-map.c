#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "base/map.h"

#define N 3000

typedef struct Item {
        MapNode node;
        char key[16];
        unsigned visits;
} Item;

/* Vectors of the reference implementation: key 00..0f, input 00..n-1. */
static void test_siphash(void **state) {
        uint8_t key[16], data[64];

        for (size_t i = 0; i < sizeof(data); i++)
                data[i] = (uint8_t)i;
        memcpy(key, data, sizeof(key));
        assert_true(map_siphash(key, data, 0) == 0x726fdb47dd0e0e31);
        assert_true(map_siphash(key, data, 1) == 0x74f839c593dc67fd);
        assert_true(map_siphash(key, data, 7) == 0xab0200f58b01d137);
        assert_true(map_siphash(key, data, 8) == 0x93f5f5799a932462);
        assert_true(map_siphash(key, data, 15) == 0xa129ca6149be45e5);
        assert_true(map_siphash(key, data, 63) == 0x958a324ceb064572);
}

static void test_insert_find_remove(void **state) {
        static Item items[N];
        Map m = MAP_NULL;
        size_t n = 0;

        assert_null(map_find(&m, "x", 1));
        for (size_t i = 0; i < N; i++) {
                snprintf(items[i].key, sizeof(items[i].key), "key-%zu", i);
                assert_int_equal(map_insert(&m, &items[i].node, items[i].key, strlen(items[i].key)), 0);
        }
        assert_int_equal(m.n, N);
        for (size_t i = 0; i < N; i++)
                assert_ptr_equal(map_find(&m, items[i].key, strlen(items[i].key)), &items[i].node);
        assert_null(map_find(&m, "key-", 4));
        assert_null(map_find(&m, "key-0", 6));

        for (size_t i = 0; i < N; i += 2) {
                map_remove(&m, &items[i].node);
                map_remove(&m, &items[i].node);
        }
        assert_int_equal(m.n, N / 2);
        for (size_t i = 0; i < N; i++)
                assert_int_equal(map_find(&m, items[i].key, strlen(items[i].key)) != NULL, i % 2);

        /* Each is visited once, though the body removes it. */
        map_for_each(node, &m) {
                container_of(node, Item, node)->visits++;
                map_remove(&m, node);
                n++;
        }
        assert_int_equal(n, N / 2);
        assert_int_equal(m.n, 0);
        for (size_t i = 0; i < N; i++)
                assert_int_equal(items[i].visits, i % 2);
        map_deinit(&m);
}

static void test_duplicate(void **state) {
        Map m = MAP_NULL;
        MapNode a = {}, b = {}, empty = {};

        assert_int_equal(map_insert(&m, &a, "same", 4), 0);
        assert_int_equal(map_insert(&m, &b, "same", 4), -EEXIST);
        assert_false(b.linked);
        assert_ptr_equal(map_find(&m, "same", 4), &a);
        assert_int_equal(map_insert(&m, &b, "same\0", 5), 0);
        assert_int_equal(map_insert(&m, &empty, NULL, 0), 0);
        assert_ptr_equal(map_find(&m, "", 0), &empty);
        assert_int_equal(m.n, 3);
        map_deinit(&m);
        assert_null(map_find(&m, "same", 4));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_siphash),
                cmocka_unit_test(test_insert_find_remove),
                cmocka_unit_test(test_duplicate),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/idmap.h"

#include <cmocka.h>

static void test_many(void **state) {
        enum { N = 5000 };
        IdNode *nodes = calloc(N, sizeof(*nodes));
        IdMap map = IDMAP_NULL;
        size_t n = 0;

        assert_null(idmap_find(&map, &(Id){}));
        for (size_t i = 0; i < N; i++) {
                assert_int_equal(id_new(&nodes[i].id), 0);
                assert_int_equal(idmap_insert(&map, &nodes[i]), 0);
        }
        assert_int_equal(idmap_insert(&map, &(IdNode){ .id = nodes[7].id }), -EEXIST);
        for (size_t i = 0; i < N; i++)
                assert_ptr_equal(idmap_find(&map, &nodes[i].id), &nodes[i]);
        idmap_for_each(i, &map) {
                n++;
                if ((i - nodes) % 2)
                        idmap_remove(&map, i);
        }
        assert_int_equal(n, N);
        assert_int_equal(map.n, N / 2);
        for (size_t i = 0; i < N; i++)
                assert_ptr_equal(idmap_find(&map, &nodes[i].id), i % 2 ? NULL : &nodes[i]);
        idmap_deinit(&map);
        free(nodes);
}

/* Ids of one burst share their first bits: the buckets must not. */
static void test_spread(void **state) {
        enum { N = 4096 };
        static IdNode nodes[N];
        IdMap map = IDMAP_NULL;
        size_t longest = 0;

        for (size_t i = 0; i < N; i++) {
                assert_int_equal(id_new(&nodes[i].id), 0);
                assert_int_equal(idmap_insert(&map, &nodes[i]), 0);
        }
        for (size_t b = 0; b < map.n_buckets; b++) {
                size_t n = 0;
                for (IdNode *i = map.buckets[b]; i; i = i->next)
                        n++;
                longest = MAX(longest, n);
        }
        assert_in_range(longest, 1, 12);
        idmap_deinit(&map);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_many),
                cmocka_unit_test(test_spread),
        };
        return cmocka_run_group_tests_name("base-idmap", tests, NULL, NULL);
}

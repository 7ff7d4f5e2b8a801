#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/list.h"

typedef struct Item {
        int value;
        ListLink link;
} Item;

static void assert_order(List *l, const int *values, size_t n) {
        size_t i = 0;

        list_for_each_safe(link, l) {
                assert_true(i < n);
                assert_int_equal(container_of(link, Item, link)->value, values[i++]);
        }
        assert_int_equal(i, n);
}

static void test_order(void **state) {
        Item items[4] = { { 0 }, { 1 }, { 2 }, { 3 } };
        List l = LIST_INIT(l);

        assert_true(list_is_empty(&l));
        assert_null(list_pop(&l));
        assert_null(list_first_entry(&l, Item, link));
        list_link_tail(&l, &items[1].link);
        assert_true(list_is_linked(&items[1].link));
        list_link_tail(&l, &items[3].link);
        list_link_front(&l, &items[0].link);
        list_link_before(&items[3].link, &items[2].link);
        assert_order(&l, (int[]){ 0, 1, 2, 3 }, 4);
        assert_ptr_equal(list_first_entry(&l, Item, link), &items[0]);

        list_unlink(&items[2].link);
        list_unlink(&items[2].link);
        assert_false(list_is_linked(&items[2].link));
        assert_order(&l, (int[]){ 0, 1, 3 }, 3);
        assert_ptr_equal(list_pop(&l), &items[0].link);
        list_link_tail(&l, &items[0].link);
        assert_order(&l, (int[]){ 1, 3, 0 }, 3);

        /* The body may unlink. */
        list_for_each_safe(link, &l)
                list_unlink(link);
        assert_true(list_is_empty(&l));
        list_init(&l);
        assert_true(list_is_empty(&l));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_order),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

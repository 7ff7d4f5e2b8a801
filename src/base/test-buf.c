#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "base/buf.h"

static void test_queue(void **state) {
        _cleanup_(buf_deinit) Buf b = BUF_NULL;

        assert_int_equal(buf_size(&b), 0);
        assert_null(buf_data(&b));
        assert_int_equal(buf_append_str(&b, "hello "), 0);
        assert_int_equal(buf_printf(&b, "%s %d", "world", 42), 0);
        assert_int_equal(buf_size(&b), 14);
        assert_memory_equal(buf_data(&b), "hello world 42", 14);
        buf_consume(&b, 6);
        assert_memory_equal(buf_data(&b), "world 42", 8);
        buf_consume(&b, 8);
        assert_int_equal(buf_size(&b), 0);
        assert_int_equal(b.start, 0);
}

/* A queue of random appends and consumes holds what a plain array would. */
static void test_random(void **state) {
        static uint8_t model[1 << 20];
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        size_t in = 0, out = 0;
        unsigned seed = 1;

        for (size_t i = 0; i < sizeof(model); i++)
                model[i] = (uint8_t)(i * 2654435761u >> 24);
        while (in < sizeof(model)) {
                size_t n = MIN((size_t)(rand_r(&seed) % 3000), sizeof(model) - in);
                assert_int_equal(buf_append(&b, model + in, n), 0);
                in += n;
                n = MIN((size_t)(rand_r(&seed) % 3000), buf_size(&b));
                assert_memory_equal(buf_data(&b), model + out, n);
                buf_consume(&b, n);
                out += n;
                assert_int_equal(buf_size(&b), in - out);
        }
        assert_memory_equal(buf_data(&b), model + out, in - out);
}

static void test_bound(void **state) {
        _cleanup_(buf_deinit) Buf b = BUF_INIT(8);
        uint8_t *p = NULL;

        assert_int_equal(buf_append_str(&b, "12345"), 0);
        assert_int_equal(buf_append_str(&b, "6789"), BUF_E_FULL);
        assert_int_equal(buf_printf(&b, "%d", 6789), BUF_E_FULL);
        assert_int_equal(buf_reserve(&b, 4, &p), BUF_E_FULL);
        assert_null(p);
        assert_int_equal(buf_size(&b), 5);
        /* The bound is on what is held, not on what went through. */
        buf_consume(&b, 1);
        assert_int_equal(buf_printf(&b, "%d", 6789), 0);
        assert_memory_equal(buf_data(&b), "23456789", 8);
        assert_int_equal(buf_append_str(&b, ""), 0);
        assert_int_equal(buf_append_str(&b, "x"), BUF_E_FULL);
        assert_int_equal(buf_reserve(&b, SIZE_MAX, &p), BUF_E_FULL);
}

static void test_huge(void **state) {
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        uint8_t *p = NULL;

        assert_int_equal(buf_reserve(&b, SIZE_MAX, &p), -ENOMEM);
        assert_int_equal(buf_append_str(&b, "x"), 0);
        assert_int_equal(buf_reserve(&b, SIZE_MAX - 1, &p), -ENOMEM);
        assert_int_equal(buf_size(&b), 1);
}

static void test_take(void **state) {
        _cleanup_(buf_deinit) Buf b = BUF_INIT(4);
        _cleanup_free_ char *s = NULL, *empty = NULL;

        assert_int_equal(buf_append_str(&b, "abcd"), 0);
        buf_consume(&b, 1);
        assert_int_equal(buf_take_str(&b, &s), 0);
        assert_string_equal(s, "bcd");
        assert_int_equal(buf_size(&b), 0);
        assert_int_equal(b.max, 4);
        assert_int_equal(buf_take_str(&b, &empty), 0);
        assert_string_equal(empty, "");
}

static void test_trim(void **state) {
        _cleanup_(buf_deinit) Buf b = BUF_INIT(KIB(64));
        uint8_t *p;

        assert_int_equal(buf_reserve(&b, KIB(32), &p), 0);
        memset(p, 'x', KIB(32));
        buf_added(&b, KIB(32));
        buf_trim(&b, KIB(4));
        assert_true(b.capacity >= KIB(32));
        buf_clear(&b);
        buf_trim(&b, KIB(64));
        assert_non_null(b.data);
        buf_trim(&b, KIB(4));
        assert_null(b.data);
        assert_int_equal(b.max, KIB(64));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_queue),
                cmocka_unit_test(test_random),
                cmocka_unit_test(test_bound),
                cmocka_unit_test(test_huge),
                cmocka_unit_test(test_take),
                cmocka_unit_test(test_trim),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

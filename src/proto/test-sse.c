/* Server-sent events as text. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "proto/sse.h"

static void assert_event(const char *id, const char *event, const char *data, const char *expected) {
        Buf out = BUF_NULL;
        char *s = NULL;

        assert_int_equal(sse_write_event(&out, id, event, data, strlen(data)), 0);
        assert_int_equal(buf_take_str(&out, &s), 0);
        assert_string_equal(s, expected);
        free(s);
}

static void test_event(void **state) {
        assert_event("7", "text", "{}", "id: 7\nevent: text\ndata: {}\n\n");
        assert_event(NULL, NULL, "x", "data: x\n\n");
        assert_event("7", NULL, "", "id: 7\ndata: \n\n");
        /* Each of the three line ends splits, and nothing of the data can become a field of its own. */
        assert_event(NULL, NULL, "a\nb\rc\r\nd", "data: a\ndata: b\ndata: c\ndata: d\n\n");
        assert_event(NULL, NULL, "a\n", "data: a\ndata: \n\n");
        assert_event(NULL, NULL, "a\n\nevent: end", "data: a\ndata: \ndata: event: end\n\n");
        assert_event(NULL, NULL, "\r", "data: \ndata: \n\n");
        assert_event(NULL, NULL, " x", "data:  x\n\n");
}

static void test_others(void **state) {
        Buf out = BUF_NULL;
        char *s = NULL;

        assert_int_equal(sse_write_comment(&out, "heartbeat"), 0);
        assert_int_equal(sse_write_retry(&out, 1500), 0);
        assert_int_equal(buf_take_str(&out, &s), 0);
        assert_string_equal(s, ": heartbeat\n\nretry: 1500\n\n");
        free(s);
}

static void test_refused(void **state) {
        Buf out = BUF_NULL;

        assert_int_equal(sse_write_event(&out, "1\n2", NULL, "x", 1), -EINVAL);
        assert_int_equal(sse_write_event(&out, NULL, "a\rb", "x", 1), -EINVAL);
        assert_int_equal(sse_write_comment(&out, "a\ndata: b"), -EINVAL);
        assert_int_equal(buf_size(&out), 0);
        buf_deinit(&out);
}

/* An event that does not fit leaves nothing behind, however much of it would have. */
static void test_full(void **state) {
        const char *whole = "id: 7\nevent: text\ndata: a\ndata: b\n\n";

        for (size_t max = 1; max <= strlen(whole); max++) {
                Buf out = BUF_INIT(max);
                int r = sse_write_event(&out, "7", "text", "a\nb", 3);

                assert_int_equal(r, max < strlen(whole) ? -ENOBUFS : 0);
                assert_int_equal(buf_size(&out), max < strlen(whole) ? 0 : max);
                buf_deinit(&out);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_event),
                cmocka_unit_test(test_others),
                cmocka_unit_test(test_refused),
                cmocka_unit_test(test_full),
        };

        return cmocka_run_group_tests_name("sse", tests, NULL, NULL);
}

/*
 * The Nth allocation fails, for every N that an exchange comes to: the call says -ENOMEM, what was written so far stays
 * as it was, and the same call can be made again. The linker leads this program's allocations here (--wrap).
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "proto/http1.h"
#include "proto/sse.h"

static long fail_at = -1;               /* allocations until the one that fails; below 0: none does */
static unsigned n_failed;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);

static bool fails(void) {
        bool now = fail_at >= 0 && fail_at-- == 0;

        n_failed += now;
        return now;
}

void *__wrap_malloc(size_t n) {
        return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size) {
        return fails() ? NULL : __real_calloc(n, size);
}

/* Each way to write, in the order of an exchange; 1: there is no further one. */
static int write_all(Http1 *h, Buf *out, unsigned step) {
        static const HttpHeader header = { "X-Header", "0123456789012345678901234567890123456789", 40 };
        char data[1025];

        memset(data, 'a', sizeof(data));
        switch (step) {
        case 0:
                return http1_write_continue(h, out);
        case 1:
                return http1_write_response(h, out, &(Http1Response){ .status = 200, .streaming = true,
                                                                      .headers = &header, .n_headers = 1 });
        case 2:
                return http1_write_chunk(h, out, data, sizeof(data));
        case 3:
                return sse_write_event(out, "1", "text", data, sizeof(data));
        case 4:
                return sse_write_comment(out, "heartbeat");
        case 5:
                return sse_write_retry(out, 1000);
        case 6:
                return http1_write_end(h, out);
        default:
                return 1;
        }
}

/* A request with a head that grows over several allocations, and its answer; -ENOMEM from reading ends it. */
static int exchange(Buf *out) {
        static const char head[] = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n";
        _cleanup_(http1_freep) Http1 *h = NULL;
        Http1Event e = {};
        size_t consumed;
        int r;

        r = http1_new(&h);
        if (r)
                return r;
        r = http1_feed(h, (const uint8_t *)head, strlen(head), &consumed, &e);
        for (unsigned i = 0; r == 0 && i < 40; i++)
                r = http1_feed(h, (const uint8_t *)"X-Field: 012345678901234567890123456789\r\n", 41, &consumed, &e);
        if (r == 0)
                r = http1_feed(h, (const uint8_t *)"\r\n", 2, &consumed, &e);
        if (r)
                return r;
        assert_int_equal(e.type, HTTP1_REQUEST);
        assert_int_equal(e.n_headers, 43);

        for (unsigned step = 0; (r = write_all(h, out, step)) <= 0; step++) {
                size_t n = buf_size(out);

                if (r == 0)
                        continue;
                assert_int_equal(r, -ENOMEM);
                assert_int_equal(write_all(h, out, step), 0);
                assert_true(step == 0 || buf_size(out) > n);
        }
        return 0;
}

static void test_each_allocation_fails(void **state) {
        Buf whole = BUF_NULL;

        clock_freeze(1, USEC_PER_SEC);
        assert_int_equal(exchange(&whole), 0);
        for (long n = 0;; n++) {
                Buf out = BUF_NULL;
                int r;

                fail_at = n;
                n_failed = 0;
                r = exchange(&out);
                if (fail_at >= 0) {
                        fail_at = -1;
                        buf_deinit(&out);
                        assert_true(n >= 5);
                        break;
                }
                assert_int_equal(n_failed, 1);
                assert_true(r == 0 || r == -ENOMEM);
                if (r == 0) {
                        assert_int_equal(buf_size(&out), buf_size(&whole));
                        assert_memory_equal(buf_data(&out), buf_data(&whole), buf_size(&whole));
                } else
                        assert_int_equal(buf_size(&out), 0);
                buf_deinit(&out);
        }
        buf_deinit(&whole);
        clock_freeze(0, 0);
}

int main(void) {
        const struct CMUnitTest tests[] = { cmocka_unit_test(test_each_allocation_fails) };

        return cmocka_run_group_tests_name("proto-fault", tests, NULL, NULL);
}

/* Answers: what is written for which request, and what is refused to be written. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/clock.h"
#include "proto/test-http1-trace.h"

#define DATE "Date: Fri, 27 Nov 2026 14:08:57 GMT\r\n"
#define DATE_US (UINT64_C(1795788537) * USEC_PER_SEC)

static int setup(void **state) {
        clock_freeze(1, DATE_US);
        return 0;
}

static int teardown(void **state) {
        clock_freeze(0, 0);
        return 0;
}

/* A codec that has read these bytes up to HTTP1_REQUEST (and, with `to_end`, to HTTP1_END). */
static Http1 *codec_of(const char *request, bool to_end) {
        Http1EventType last = to_end ? HTTP1_END : HTTP1_REQUEST;
        size_t n = strlen(request), at = 0;
        Http1Event e = {};
        Http1 *h = NULL;

        assert_int_equal(http1_new(&h), 0);
        while (e.type != last) {
                size_t consumed;

                assert_int_equal(http1_feed(h, (const uint8_t *)request + at, n - at, &consumed, &e), 0);
                assert_int_not_equal(e.type, HTTP1_NEED_MORE);
                at += consumed;
        }
        return h;
}

static void assert_out(Buf *out, const char *expected) {
        char *s = NULL;

        assert_int_equal(buf_take_str(out, &s), 0);
        assert_string_equal(s, expected);
        free(s);
}

static void assert_answer(const char *request, const Http1Response *response, const char *expected, bool close) {
        _cleanup_(http1_freep) Http1 *h = codec_of(request, true);
        Buf out = BUF_NULL;

        assert_int_equal(http1_write_response(h, &out, response), 0);
        if (response->streaming) {
                assert_int_equal(http1_write_chunk(h, &out, "hello", 5), 0);
                assert_int_equal(http1_write_chunk(h, &out, "", 0), 0);
                assert_int_equal(http1_write_chunk(h, &out, "0123456789abcdef", 16), 0);
                assert_int_equal(http1_write_end(h, &out), 0);
        }
        assert_out(&out, expected);
        assert_int_equal(http1_must_close(h), close);
}

static const char get[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
static const char head[] = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
static const char get_close[] = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
static const char get_10[] = "GET / HTTP/1.0\r\n\r\n";
static const char get_10_keep[] = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";

static const Http1Response json = { .status = 200, .content_type = "application/json", .body = "{}", .n_body = 2 };
static const Http1Response events = { .status = 200, .content_type = "text/event-stream", .streaming = true };

static void test_whole(void **state) {
        static const HttpHeader headers[] = { { "Location", "/tasks/1", 8 }, { "X-Tab", "a\tb\xc3\xa9", 5 } };

        assert_answer(get, &json,
                      "HTTP/1.1 200 OK\r\n" DATE "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}", false);
        assert_answer(get, &(Http1Response){ .status = 201, .headers = headers, .n_headers = 2 },
                      "HTTP/1.1 201 Created\r\n" DATE "Location: /tasks/1\r\nX-Tab: a\tb\xc3\xa9\r\nContent-Length: 0\r\n\r\n",
                      false);
        assert_answer(get_close, &json,
                      "HTTP/1.1 200 OK\r\n" DATE
                      "Content-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
                      true);
        assert_answer(get, &(Http1Response){ .status = 503, .close = true },
                      "HTTP/1.1 503 Service Unavailable\r\n" DATE "Content-Length: 0\r\nConnection: close\r\n\r\n", true);
        assert_answer(get_10, &json,
                      "HTTP/1.1 200 OK\r\n" DATE
                      "Content-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
                      true);
        assert_answer(get_10_keep, &json,
                      "HTTP/1.1 200 OK\r\n" DATE
                      "Content-Type: application/json\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n{}",
                      false);
        assert_answer(get, &(Http1Response){ .status = 299 },
                      "HTTP/1.1 299 Unknown\r\n" DATE "Content-Length: 0\r\n\r\n", false);
}

static void test_bodiless(void **state) {
        assert_answer(head, &json,
                      "HTTP/1.1 200 OK\r\n" DATE "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n", false);
        assert_answer(head, &events,
                      "HTTP/1.1 200 OK\r\n" DATE "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
                      false);
        assert_answer("HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", &events,
                      "HTTP/1.1 200 OK\r\n" DATE "Content-Type: text/event-stream\r\nConnection: keep-alive\r\n\r\n", false);
        assert_answer(get, &(Http1Response){ .status = 204, .body = "x", .n_body = 1 },
                      "HTTP/1.1 204 No Content\r\n" DATE "\r\n", false);
        assert_answer(get, &(Http1Response){ .status = 204, .streaming = true },
                      "HTTP/1.1 204 No Content\r\n" DATE "\r\n", false);
        assert_answer(get, &(Http1Response){ .status = 304, .body = "x", .n_body = 1 },
                      "HTTP/1.1 304 Not Modified\r\n" DATE "\r\n", false);
        assert_answer(get_10_keep, &(Http1Response){ .status = 304, .streaming = true },
                      "HTTP/1.1 304 Not Modified\r\n" DATE "Connection: keep-alive\r\n\r\n", false);
}

static void test_streaming(void **state) {
        assert_answer(get, &events,
                      "HTTP/1.1 200 OK\r\n" DATE "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                      "5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n",
                      false);
        /* HTTP/1.0 reads until the connection closes, whatever it asked for. */
        assert_answer(get_10_keep, &events,
                      "HTTP/1.1 200 OK\r\n" DATE
                      "Content-Type: text/event-stream\r\nConnection: close\r\n\r\nhello0123456789abcdef",
                      true);
}

/* An answer to a request that is refused, or before any: its framing is HTTP/1.1's, and it closes. */
static void test_no_request(void **state) {
        _cleanup_(http1_freep) Http1 *h = NULL;
        Buf out = BUF_NULL;
        Http1Event e;
        size_t consumed;

        assert_int_equal(http1_new(&h), 0);
        assert_int_equal(http1_write_response(h, &out, &(Http1Response){ .status = 408 }), 0);
        assert_out(&out, "HTTP/1.1 408 Request Timeout\r\n" DATE "Content-Length: 0\r\nConnection: close\r\n\r\n");
        assert_true(http1_must_close(h));
        h = http1_free(h);

        /* In the middle of a head. */
        assert_int_equal(http1_new(&h), 0);
        assert_int_equal(http1_feed(h, (const uint8_t *)"GET / HTTP/1.1\r\nX", 17, &consumed, &e), 0);
        assert_int_equal(http1_write_response(h, &out, &(Http1Response){ .status = 408 }), 0);
        assert_true(http1_must_close(h));
        buf_clear(&out);
        h = http1_free(h);

        /* What comes after a HEAD is not a HEAD. */
        h = codec_of(head, true);
        assert_int_equal(http1_feed(h, (const uint8_t *)"\r\n\r\n", 4, &consumed, &e), 0);
        assert_int_equal(e.type, HTTP1_REFUSED);
        assert_int_equal(http1_write_response(h, &out, &(Http1Response){ .status = 400, .body = "no", .n_body = 2 }), 0);
        assert_out(&out, "HTTP/1.1 400 Bad Request\r\n" DATE "Content-Length: 2\r\nConnection: close\r\n\r\nno");
        assert_true(http1_must_close(h));
}

/* An answer before the request's body is in closes; after it, and without a body, it does not. */
static void test_early_answer(void **state) {
        static const char post[] = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
        static const char chunked[] = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        static const struct {
                const char *request;
                bool to_end;
                bool close;
        } cases[] = { { post, false, true },  { post, true, false },  { chunked, false, true },
                      { chunked, true, false }, { get, false, false }, { get, true, false } };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(http1_freep) Http1 *h = codec_of(cases[i].request, cases[i].to_end);
                Buf out = BUF_NULL;

                assert_int_equal(http1_write_response(h, &out, &(Http1Response){ .status = 401 }), 0);
                assert_int_equal(http1_must_close(h), cases[i].close);
                assert_int_equal(!!memmem(buf_data(&out), buf_size(&out), "\r\nConnection: close\r\n", 21), cases[i].close);
                buf_deinit(&out);
        }
}

/* The next request of a connection starts afresh. */
static void test_next_request(void **state) {
        _cleanup_(http1_freep) Http1 *h = codec_of(head, true);
        Buf out = BUF_NULL;
        Http1Event e;
        size_t consumed;

        assert_int_equal(http1_write_response(h, &out, &json), 0);
        buf_clear(&out);
        assert_int_equal(http1_feed(h, (const uint8_t *)get_close, strlen(get_close), &consumed, &e), 0);
        assert_int_equal(e.type, HTTP1_REQUEST);
        assert_false(http1_must_close(h));
        assert_int_equal(http1_write_response(h, &out, &json), 0);
        assert_true(http1_must_close(h));
        assert_non_null(memmem(buf_data(&out), buf_size(&out), "\r\n\r\n{}", 6));
        buf_deinit(&out);
}

static void test_continue(void **state) {
        static const char expect[] = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi";
        _cleanup_(http1_freep) Http1 *h = NULL, *g = NULL, *k = NULL;
        Buf out = BUF_NULL;
        Http1Event e;
        size_t consumed;

        h = codec_of(expect, false);
        assert_int_equal(http1_write_continue(h, &out), 0);
        assert_int_equal(http1_write_continue(h, &out), 0);
        assert_out(&out, "HTTP/1.1 100 Continue\r\n\r\n");

        /* The client did not wait. */
        g = codec_of(expect, false);
        assert_int_equal(http1_feed(g, (const uint8_t *)"h", 1, &consumed, &e), 0);
        assert_int_equal(e.type, HTTP1_BODY);
        assert_int_equal(http1_write_continue(g, &out), 0);
        assert_int_equal(buf_size(&out), 0);

        k = codec_of(get, false);
        assert_int_equal(http1_write_continue(k, &out), 0);
        assert_int_equal(buf_size(&out), 0);
        buf_deinit(&out);
}

static void assert_invalid(const Http1Response *response) {
        _cleanup_(http1_freep) Http1 *h = codec_of(get, true);
        Buf out = BUF_NULL;

        assert_int_equal(buf_append_str(&out, "before"), 0);
        assert_int_equal(http1_write_response(h, &out, response), -EINVAL);
        assert_out(&out, "before");
}

static void test_injection(void **state) {
        static const HttpHeader bad[] = {
                { "X", "a\r\nSet-Cookie: b", 16 }, { "X", "a\nb", 3 },    { "X", "a\rb", 3 },   { "X", "a\0b", 3 },
                { "X", "a\x7f", 2 },               { "X\r\nY", "a", 1 },  { "X: y", "a", 1 },   { "", "a", 1 },
                { "X ", "a", 1 },                  { "Content-Length", "5", 1 },                { "DATE", "now", 3 },
                { "transfer-encoding", "chunked", 7 },                    { "Connection", "close", 5 },
                { "Keep-Alive", "5", 1 },
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_invalid(&(Http1Response){ .status = 200, .headers = &bad[i], .n_headers = 1 });
        assert_invalid(&(Http1Response){ .status = 200, .content_type = "text/plain\r\nX: y" });
        assert_invalid(&(Http1Response){ .status = 199 });
        assert_invalid(&(Http1Response){ .status = 600 });
        assert_invalid(&(Http1Response){ .status = 200, .streaming = true, .body = "x", .n_body = 1 });
}

static void test_chunk_without_streaming(void **state) {
        _cleanup_(http1_freep) Http1 *h = codec_of(get, true);
        Buf out = BUF_NULL;

        assert_int_equal(http1_write_chunk(h, &out, "x", 1), -EINVAL);
        assert_int_equal(http1_write_end(h, &out), -EINVAL);
        assert_int_equal(http1_write_response(h, &out, &events), 0);
        assert_int_equal(http1_write_end(h, &out), 0);
        assert_int_equal(http1_write_chunk(h, &out, "x", 1), -EINVAL);
        buf_deinit(&out);
}

/* Whatever does not fit leaves out as it was, and can be written again when there is room. */
static void test_full(void **state) {
        for (size_t max = 1; max < 150; max++) {
                _cleanup_(http1_freep) Http1 *h = codec_of(get, true);
                Buf out = BUF_INIT(max);
                int r;

                r = http1_write_response(h, &out, &json);
                if (r == 0) {
                        assert_true(buf_size(&out) <= max);
                        assert_true(max > 100);
                } else {
                        assert_int_equal(r, -ENOBUFS);
                        assert_int_equal(buf_size(&out), 0);
                        out.max = 0;
                        assert_int_equal(http1_write_response(h, &out, &json), 0);
                }
                assert_int_equal(http1_write_response(h, &out, &events) == 0, out.max == 0);
                if (out.max == 0) {
                        size_t n = buf_size(&out);

                        out.max = n + 7;
                        assert_int_equal(http1_write_chunk(h, &out, "hello", 5), -ENOBUFS);
                        assert_int_equal(buf_size(&out), n);
                        out.max = n + 10;
                        assert_int_equal(http1_write_chunk(h, &out, "hello", 5), 0);
                        assert_int_equal(http1_write_end(h, &out), -ENOBUFS);
                        out.max = 0;
                        assert_int_equal(http1_write_end(h, &out), 0);
                }
                buf_deinit(&out);
        }
}

static void test_status_text(void **state) {
        assert_string_equal(http_status_text(200), "OK");
        assert_string_equal(http_status_text(431), "Request Header Fields Too Large");
        for (unsigned status = 0; status < 1000; status++)
                assert_non_null(http_status_text(status));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_whole),          cmocka_unit_test(test_bodiless),
                cmocka_unit_test(test_streaming),      cmocka_unit_test(test_no_request),
                cmocka_unit_test(test_early_answer),   cmocka_unit_test(test_next_request),
                cmocka_unit_test(test_continue),       cmocka_unit_test(test_injection),
                cmocka_unit_test(test_chunk_without_streaming), cmocka_unit_test(test_full),
                cmocka_unit_test(test_status_text),
        };

        return cmocka_run_group_tests_name("http1-write", tests, setup, teardown);
}

/* Requests that the HTTP/1.1 codec takes, fed whole, byte by byte and at every split. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "proto/test-http1-trace.h"

#define BODY_MAX 100

typedef struct Good {
        const char *name;
        const char *bytes;
        const char *trace;
} Good;

static const Good good[] = {
        { "the smallest",
          "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
          "REQUEST GET / HTTP/1.1 body=0 keep=1 expect=0\nhost: a\nEND\n" },
        { "one empty line first",
          "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
          "REQUEST GET / HTTP/1.1 body=0 keep=1 expect=0\nhost: a\nEND\n" },
        { "one empty line before each",
          "\r\nGET /1 HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
          "REQUEST GET /1 HTTP/1.1 body=0 keep=1 expect=0\nhost: a\nEND\n"
          "REQUEST GET /2 HTTP/1.1 body=0 keep=1 expect=0\nhost: a\nEND\n" },
        { "names to lower case, values trimmed and untouched",
          "GET / HTTP/1.1\r\nHOST:\t example.org:8377 \t\r\nX-A:a B\tc\r\nX-Empty:\r\nX-Blank: \t \r\nX-High: \xc3\xa9\r\n\r\n",
          "REQUEST GET / HTTP/1.1 body=0 keep=1 expect=0\nhost: example.org:8377\nx-a: a B\tc\nx-empty: \nx-blank: \n"
          "x-high: \xc3\xa9\nEND\n" },
        { "every token character in a name",
          "GET / HTTP/1.1\r\nHost: a\r\n!#$%&'*+-.^_`|~09azAZ: 1\r\n\r\n",
          "REQUEST GET / HTTP/1.1 body=0 keep=1 expect=0\nhost: a\n!#$%&'*+-.^_`|~09azaz: 1\nEND\n" },
        { "a target with every kind of character",
          "GET /a/b;c=1/%7Ex/:@!$&'()*+,-._~?q=a%20b&x=/?y HTTP/1.1\r\nHost: a\r\n\r\n",
          "REQUEST GET /a/b;c=1/%7Ex/:@!$&'()*+,-._~?q=a%20b&x=/?y HTTP/1.1 body=0 keep=1 expect=0\nhost: a\nEND\n" },
        { "OPTIONS *",
          "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
          "REQUEST OPTIONS * HTTP/1.1 body=0 keep=1 expect=0\nhost: a\nEND\n" },
        { "a method of nobody",
          "BREW /pot HTTP/1.1\r\nHost: a\r\n\r\n",
          "REQUEST BREW /pot HTTP/1.1 body=0 keep=1 expect=0\nhost: a\nEND\n" },
        { "a method in lower case is another method",
          "get / HTTP/1.1\r\nHost: a\r\n\r\n",
          "REQUEST get / HTTP/1.1 body=0 keep=1 expect=0\nhost: a\nEND\n" },
        { "absolute-form",
          "GET http://example.org:80/a?b HTTP/1.1\r\nHost: EXAMPLE.org:80\r\n\r\n",
          "REQUEST GET /a?b HTTP/1.1 body=0 keep=1 expect=0\nhost: EXAMPLE.org:80\nEND\n" },
        { "absolute-form without a path",
          "GET HTTPS://a HTTP/1.1\r\nHost: a\r\n\r\n",
          "REQUEST GET / HTTP/1.1 body=0 keep=1 expect=0\nhost: a\nEND\n" },
        { "absolute-form with a query alone",
          "GET http://[::1]:1?q HTTP/1.1\r\nHost: [::1]:1\r\n\r\n",
          "REQUEST GET /?q HTTP/1.1 body=0 keep=1 expect=0\nhost: [::1]:1\nEND\n" },
        { "absolute-form in HTTP/1.0 without Host",
          "GET http://a/x HTTP/1.0\r\n\r\n",
          "REQUEST GET /x HTTP/1.0 body=0 keep=0 expect=0\nEND\n" },
        { "Content-Length",
          "POST /t HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
          "REQUEST POST /t HTTP/1.1 body=1 keep=1 expect=0 length=5\nhost: a\ncontent-length: 5\nBODY 5 hello\nEND\n" },
        { "Content-Length with zeros before it",
          "POST /t HTTP/1.1\r\nHost: a\r\nContent-Length: 00000000000000000000000002\r\n\r\nhi",
          "REQUEST POST /t HTTP/1.1 body=1 keep=1 expect=0 length=2\nhost: a\n"
          "content-length: 00000000000000000000000002\nBODY 2 hi\nEND\n" },
        { "Content-Length: 0 is no body",
          "POST /t HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
          "REQUEST POST /t HTTP/1.1 body=0 keep=1 expect=0\nhost: a\ncontent-length: 0\nEND\n" },
        { "a GET with a body",
          "GET /t HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
          "REQUEST GET /t HTTP/1.1 body=1 keep=1 expect=0 length=2\nhost: a\ncontent-length: 2\nBODY 2 hi\nEND\n" },
        { "chunked",
          "POST /t HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA\r\n, world...\r\n0\r\n\r\n",
          "REQUEST POST /t HTTP/1.1 body=1 keep=1 expect=0\nhost: a\ntransfer-encoding: chunked\n"
          "BODY 15 hello, world...\nEND\n" },
        { "chunked in another case, extensions, trailers",
          "POST /t HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n002;a=b;c=\"d e\"\r\n\r\n\r\n0;last\r\n"
          "X-Sum: 1\r\nContent-Length: 5\r\n\r\n",
          "REQUEST POST /t HTTP/1.1 body=1 keep=1 expect=0\nhost: a\ntransfer-encoding: Chunked\nBODY 2 \r\n\nEND\n" },
        { "chunked and empty",
          "POST /t HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
          "REQUEST POST /t HTTP/1.1 body=1 keep=1 expect=0\nhost: a\ntransfer-encoding: chunked\nEND\n" },
        { "pipelined: bodies, an empty line between, none",
          "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi\r\nPOST /2 HTTP/1.1\r\nHost: b\r\n"
          "Transfer-Encoding: chunked\r\n\r\n1\r\n!\r\n0\r\n\r\nGET /3 HTTP/1.1\r\nHost: c\r\n\r\n",
          "REQUEST POST /1 HTTP/1.1 body=1 keep=1 expect=0 length=2\nhost: a\ncontent-length: 2\nBODY 2 hi\nEND\n"
          "REQUEST POST /2 HTTP/1.1 body=1 keep=1 expect=0\nhost: b\ntransfer-encoding: chunked\nBODY 1 !\nEND\n"
          "REQUEST GET /3 HTTP/1.1 body=0 keep=1 expect=0\nhost: c\nEND\n" },
        { "Connection: close",
          "GET / HTTP/1.1\r\nHost: a\r\nConnection: foo, ,CLOSE ,\r\n\r\n",
          "REQUEST GET / HTTP/1.1 body=0 keep=0 expect=0\nhost: a\nconnection: foo, ,CLOSE ,\nEND\n" },
        { "close beats keep-alive",
          "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
          "REQUEST GET / HTTP/1.1 body=0 keep=0 expect=0\nhost: a\nconnection: keep-alive\nconnection: close\nEND\n" },
        { "HTTP/1.0",
          "GET / HTTP/1.0\r\n\r\n",
          "REQUEST GET / HTTP/1.0 body=0 keep=0 expect=0\nEND\n" },
        { "HTTP/1.0 kept alive, and its next request is not",
          "GET /1 HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\nGET /2 HTTP/1.0\r\n\r\n",
          "REQUEST GET /1 HTTP/1.0 body=0 keep=1 expect=0\nconnection: Keep-Alive\nEND\n"
          "REQUEST GET /2 HTTP/1.0 body=0 keep=0 expect=0\nEND\n" },
        { "Expect: 100-continue",
          "POST /t HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\nhi",
          "REQUEST POST /t HTTP/1.1 body=1 keep=1 expect=1 length=2\nhost: a\nexpect: 100-Continue\ncontent-length: 2\n"
          "BODY 2 hi\nEND\n" },
        { "Expect without a body, and of HTTP/1.0, is ignored",
          "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n"
          "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
          "REQUEST GET / HTTP/1.1 body=0 keep=1 expect=0\nhost: a\nexpect: 100-continue\nEND\n"
          "REQUEST POST / HTTP/1.0 body=1 keep=0 expect=0 length=2\nexpect: 100-continue\ncontent-length: 2\n"
          "BODY 2 hi\nEND\n" },
        { "a body of just the allowed size, both ways",
          "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"
          "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
          "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n60\r\n"
          "012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345\r\n4\r\n"
          "6789\r\n0\r\n\r\n",
          "REQUEST PUT / HTTP/1.1 body=1 keep=1 expect=0 length=100\nhost: a\ncontent-length: 100\nBODY 100 "
          "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\nEND\n"
          "REQUEST PUT / HTTP/1.1 body=1 keep=1 expect=0\nhost: a\ntransfer-encoding: chunked\nBODY 100 "
          "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\nEND\n" },
};

static void assert_trace(const Good *g, Http1Trace *t, const char *how, size_t at) {
        char *text = NULL;

        if (t->broken)
                fail_msg("%s, %s %zu: %s", g->name, how, at, t->broken);
        assert_false(t->failed);
        assert_int_equal(buf_take_str(&t->text, &text), 0);
        if (!streq(text, g->trace))
                fail_msg("%s, %s %zu:\n--- expected\n%s--- got\n%s", g->name, how, at, g->trace, text);
        assert_false(http1_in_request(t->codec));
        free(text);
        http1_trace_deinit(t);
}

static void test_good(void **state) {
        for (size_t i = 0; i < ELEMENTSOF(good); i++) {
                const Good *g = &good[i];
                const uint8_t *bytes = (const uint8_t *)g->bytes;
                size_t n = strlen(g->bytes);
                Http1Trace t;

                http1_trace_init(&t, BODY_MAX);
                http1_trace_feed(&t, bytes, n);
                assert_trace(g, &t, "whole", n);

                http1_trace_init(&t, BODY_MAX);
                for (size_t k = 0; k < n; k++) {
                        http1_trace_feed(&t, bytes + k, 1);
                        http1_trace_feed(&t, NULL, 0);
                }
                assert_trace(g, &t, "byte by byte", n);

                for (size_t k = 1; k < n; k++) {
                        http1_trace_init(&t, BODY_MAX);
                        http1_trace_feed(&t, bytes, k);
                        http1_trace_feed(&t, bytes + k, n - k);
                        assert_trace(g, &t, "split at", k);
                }
        }
}

/* Feeds all of s, which must end in an event of this type. */
static Http1Event feed_to(Http1 *h, const char *s, Http1EventType type) {
        Http1Event e = {};
        size_t consumed;

        assert_int_equal(http1_feed(h, (const uint8_t *)s, strlen(s), &consumed, &e), 0);
        assert_int_equal(e.type, type);
        assert_int_equal(consumed, strlen(s));
        return e;
}

static void test_in_request(void **state) {
        _cleanup_(http1_freep) Http1 *h = NULL;

        assert_int_equal(http1_new(&h), 0);
        assert_false(http1_in_request(h));
        feed_to(h, "\r\n", HTTP1_NEED_MORE);
        assert_false(http1_in_request(h));
        feed_to(h, "P", HTTP1_NEED_MORE);
        assert_true(http1_in_request(h));
        feed_to(h, "OST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", HTTP1_REQUEST);
        assert_true(http1_in_request(h));
        feed_to(h, "x", HTTP1_BODY);
        assert_true(http1_in_request(h));
        feed_to(h, "", HTTP1_END);
        assert_false(http1_in_request(h));
        feed_to(h, "", HTTP1_NEED_MORE);
}

/* An event's strings live until the next request begins, while bodies and trailers pass by. */
static void test_strings_live(void **state) {
        _cleanup_(http1_freep) Http1 *h = NULL;
        Http1Event request;

        assert_int_equal(http1_new(&h), 0);
        request = feed_to(h, "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", HTTP1_REQUEST);
        feed_to(h, "3\r\nabc", HTTP1_BODY);
        feed_to(h, "\r\n0\r\nX-T: a long trailer, longer than the head was, so that a copy would have moved it\r\n\r\n",
                HTTP1_END);
        assert_string_equal(request.target, "/x");
        assert_string_equal(request.method_name, "POST");
        assert_string_equal(http1_header(&request, "host"), "a");
        assert_string_equal(http1_header(&request, "transfer-encoding"), "chunked");
        assert_null(http1_header(&request, "x-t"));
        assert_int_equal(request.method, HTTP_POST);
        assert_true(request.content_length == UINT64_MAX);
}

static void test_methods(void **state) {
        static const struct {
                const char *name;
                HttpMethod method;
        } methods[] = {
                { "GET", HTTP_GET },       { "HEAD", HTTP_HEAD },   { "POST", HTTP_POST },       { "PUT", HTTP_PUT },
                { "DELETE", HTTP_DELETE }, { "PATCH", HTTP_PATCH }, { "OPTIONS", HTTP_OPTIONS }, { "GETS", HTTP_METHOD_OTHER },
                { "GE", HTTP_METHOD_OTHER },
        };

        for (size_t i = 0; i < ELEMENTSOF(methods); i++) {
                _cleanup_(http1_freep) Http1 *h = NULL;
                char line[64];

                assert_int_equal(http1_new(&h), 0);
                snprintf(line, sizeof(line), "%s / HTTP/1.1\r\nHost: a\r\n\r\n", methods[i].name);
                assert_int_equal(feed_to(h, line, HTTP1_REQUEST).method, methods[i].method);
        }
}

static void test_percent_decode(void **state) {
        static const struct {
                const char *in;
                const char *out;        /* NULL: malformed */
        } cases[] = {
                { "", "" },           { "plain", "plain" }, { "a%20b%2Fc", "a b/c" }, { "%c3%A9", "\xc3\xa9" },
                { "a+b", "a+b" },     { "%25", "%" },       { "%2", NULL },           { "%", NULL },
                { "a%zz", NULL },     { "%0", NULL },       { "a%00b", NULL },        { "%%20", NULL },
                { "%2 0", NULL },     { "%+1", NULL },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                Buf out = BUF_NULL;
                char *s = NULL;

                assert_int_equal(buf_append_str(&out, "x"), 0);
                if (http_percent_decode(cases[i].in, strlen(cases[i].in), &out) != !!cases[i].out)
                        fail_msg("\"%s\"", cases[i].in);
                assert_int_equal(buf_take_str(&out, &s), 0);
                assert_string_equal(s + 1, cases[i].out ? cases[i].out : "");
                free(s);
        }
        /* A NUL that stands there by itself is refused too. */
        {
                Buf out = BUF_INIT(2);
                assert_false(http_percent_decode("a\0b", 3, &out));
                assert_false(http_percent_decode("abc", 3, &out));
                assert_int_equal(buf_size(&out), 0);
                buf_deinit(&out);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_good),
                cmocka_unit_test(test_in_request),
                cmocka_unit_test(test_strings_live),
                cmocka_unit_test(test_methods),
                cmocka_unit_test(test_percent_decode),
        };

        return cmocka_run_group_tests_name("http1", tests, NULL, NULL);
}

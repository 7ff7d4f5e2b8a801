/* Requests that the HTTP/1.1 codec refuses: what two parsers might read in two ways, and what is too large. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "proto/test-http1-trace.h"

#define BODY_MAX 100

typedef struct Refused {
        const char *name;
        unsigned status;
        const char *bytes;
        size_t n;
} Refused;

#define S(s) (s), sizeof(s) - 1
#define GET "GET / HTTP/1.1\r\n"
#define HOST GET "Host: a\r\n"
#define POST "POST / HTTP/1.1\r\nHost: a\r\n"
#define CHUNKED POST "Transfer-Encoding: chunked\r\n\r\n"

static const Refused refused[] = {
        /* two lengths */
        { "CL and TE", 400, S(POST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n") },
        { "TE and CL", 400, S(POST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n") },
        { "TE and CL: 0", 400, S(POST "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n") },
        { "TE twice", 400, S(POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n") },
        { "TE chunked, then identity", 400, S(POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n") },
        { "TE: chunked, gzip", 400, S(POST "Transfer-Encoding: chunked, gzip\r\n\r\n") },
        { "TE: gzip, chunked", 400, S(POST "Transfer-Encoding: gzip, chunked\r\n\r\n") },
        { "TE: chunked, chunked", 400, S(POST "Transfer-Encoding: chunked, chunked\r\n\r\n") },
        { "TE: identity", 400, S(POST "Transfer-Encoding: identity\r\n\r\n") },
        { "TE: xchunked", 400, S(POST "Transfer-Encoding: xchunked\r\n\r\n") },
        { "TE: chunked;a", 400, S(POST "Transfer-Encoding: chunked;a=b\r\n\r\n") },
        { "TE: \"chunked\"", 400, S(POST "Transfer-Encoding: \"chunked\"\r\n\r\n") },
        { "TE: ,chunked", 400, S(POST "Transfer-Encoding: ,chunked\r\n\r\n") },
        { "TE with a vertical tab", 400, S(POST "Transfer-Encoding: \x0b" "chunked\r\n\r\n") },
        { "TE empty", 400, S(POST "Transfer-Encoding:\r\n\r\n") },
        { "TE in HTTP/1.0", 400, S("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n") },
        { "TE with a space before the colon", 400, S(POST "Transfer-Encoding : chunked\r\n\r\n") },
        { "TE folded", 400, S(POST "Transfer-Encoding:\r\n chunked\r\n\r\n") },
        { "CL twice, different", 400, S(POST "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello") },
        { "CL twice, equal", 400, S(POST "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello") },
        { "CL: a list of equals", 400, S(POST "Content-Length: 5, 5\r\n\r\nhello") },
        { "CL: +5", 400, S(POST "Content-Length: +5\r\n\r\nhello") },
        { "CL: -5", 400, S(POST "Content-Length: -5\r\n\r\nhello") },
        { "CL: 5 5", 400, S(POST "Content-Length: 5 5\r\n\r\nhello") },
        { "CL: 0x5", 400, S(POST "Content-Length: 0x5\r\n\r\nhello") },
        { "CL: 5.0", 400, S(POST "Content-Length: 5.0\r\n\r\nhello") },
        { "CL: 5e1", 400, S(POST "Content-Length: 5e1\r\n\r\nhello") },
        { "CL empty", 400, S(POST "Content-Length:\r\n\r\n") },
        { "CL: an Arabic digit", 400, S(POST "Content-Length: \xd9\xa5\r\n\r\nhello") },
        { "CL over the bound", 413, S(POST "Content-Length: 101\r\n\r\n") },
        { "CL 2^63", 413, S(POST "Content-Length: 9223372036854775808\r\n\r\n") },
        { "CL 2^64 - 1", 413, S(POST "Content-Length: 18446744073709551615\r\n\r\n") },
        { "CL 2^64 + 5", 413, S(POST "Content-Length: 18446744073709551621\r\n\r\nhello") },
        { "CL of 40 digits", 413, S(POST "Content-Length: 9999999999999999999999999999999999999999\r\n\r\n") },
        { "CL of 40 digits and a letter", 400, S(POST "Content-Length: 9999999999999999999999999999999999999999x\r\n\r\n") },
        /* line ends and control characters */
        { "LF alone after the request line", 400, S("GET / HTTP/1.1\nHost: a\n\n") },
        { "LF alone after a field", 400, S(GET "Host: a\n\r\n") },
        { "LF alone at the end", 400, S(HOST "\n") },
        { "CR alone in the request line", 400, S("GET / HTTP/1.1\rHost: a\r\n\r\n") },
        { "CR alone in a field", 400, S(HOST "X: a\rY: b\r\n\r\n") },
        { "CR CR LF", 400, S(GET "Host: a\r\r\n\r\n") },
        { "NUL in a value", 400, S(HOST "X: a\0b\r\n\r\n") },
        { "NUL in a name", 400, S(HOST "X\0: a\r\n\r\n") },
        { "NUL in the target", 400, S("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n") },
        { "ESC in a value", 400, S(HOST "X: a\x1b[2J\r\n\r\n") },
        { "DEL in a value", 400, S(HOST "X: a\x7f\r\n\r\n") },
        { "two empty lines first", 400, S("\r\n\r\n" HOST "\r\n") },
        { "LF first", 400, S("\n" HOST "\r\n") },
        { "CR alone first", 400, S("\r" HOST "\r\n") },
        { "a TLS hello", 400, S("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03") },
        /* fields */
        { "obs-fold by space", 400, S(HOST "X: a\r\n b\r\n\r\n") },
        { "obs-fold by tab", 400, S(HOST "X: a\r\n\tb\r\n\r\n") },
        { "space before the first field", 400, S(GET " Host: a\r\n\r\n") },
        { "tab before the first field", 400, S(GET "\tX: a\r\nHost: a\r\n\r\n") },
        { "space before a colon", 400, S(GET "Host : a\r\n\r\n") },
        { "tab before a colon", 400, S(HOST "X\t: a\r\n\r\n") },
        { "no colon", 400, S(HOST "X\r\n\r\n") },
        { "no name", 400, S(HOST ": a\r\n\r\n") },
        { "space in a name", 400, S(HOST "X Y: a\r\n\r\n") },
        { "parenthesis in a name", 400, S(HOST "X(: a\r\n\r\n") },
        { "a name that is not ASCII", 400, S(HOST "X\xc3\xa9: a\r\n\r\n") },
        { "no Host", 400, S(GET "\r\n") },
        { "Host twice", 400, S(HOST "Host: a\r\n\r\n") },
        { "Host twice, different", 400, S(HOST "Host: b\r\n\r\n") },
        { "Host twice in HTTP/1.0", 400, S("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n") },
        { "Host empty", 400, S(GET "Host:\r\n\r\n") },
        { "Host a list", 400, S(GET "Host: a,b\r\n\r\n") },
        { "Host two words", 400, S(GET "Host: a b\r\n\r\n") },
        { "Host with userinfo", 400, S(GET "Host: u@a\r\n\r\n") },
        { "Host with a path", 400, S(GET "Host: a/b\r\n\r\n") },
        { "Host with a port that is none", 400, S(GET "Host: a:8o\r\n\r\n") },
        { "Host with a port too long", 400, S(GET "Host: a:123456\r\n\r\n") },
        { "Host with a port alone", 400, S(GET "Host: :80\r\n\r\n") },
        { "Host with an open bracket", 400, S(GET "Host: [::1\r\n\r\n") },
        { "Host with empty brackets", 400, S(GET "Host: []\r\n\r\n") },
        { "Host with text after the bracket", 400, S(GET "Host: [::1]x\r\n\r\n") },
        { "Connection: no list of tokens", 400, S(HOST "Connection: close keep-alive\r\n\r\n") },
        { "Connection: quoted", 400, S(HOST "Connection: \"close\"\r\n\r\n") },
        { "Expect: something else", 417, S(POST "Expect: 200-ok\r\nContent-Length: 1\r\n\r\n") },
        { "Expect: a list", 417, S(POST "Expect: 100-continue, x\r\nContent-Length: 1\r\n\r\n") },
        { "Expect empty", 417, S(POST "Expect:\r\nContent-Length: 1\r\n\r\n") },
        /* the request line */
        { "no version", 400, S("GET /\r\n\r\n") },
        { "a version in lower case", 400, S("GET / http/1.1\r\nHost: a\r\n\r\n") },
        { "HTTP/1", 400, S("GET / HTTP/1\r\nHost: a\r\n\r\n") },
        { "HTTP/1.10", 400, S("GET / HTTP/1.10\r\nHost: a\r\n\r\n") },
        { "HTTP/01.1", 400, S("GET / HTTP/01.1\r\nHost: a\r\n\r\n") },
        { "HTTP/1.1x", 400, S("GET / HTTP/1.1x\r\nHost: a\r\n\r\n") },
        { "HTTP/1,1", 400, S("GET / HTTP/1,1\r\nHost: a\r\n\r\n") },
        { "HTTP/1.2", 505, S("GET / HTTP/1.2\r\nHost: a\r\n\r\n") },
        { "HTTP/0.9", 505, S("GET / HTTP/0.9\r\nHost: a\r\n\r\n") },
        { "HTTP/2's preface", 505, S("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") },
        { "two spaces before the target", 400, S("GET  / HTTP/1.1\r\nHost: a\r\n\r\n") },
        { "two spaces before the version", 400, S("GET /  HTTP/1.1\r\nHost: a\r\n\r\n") },
        { "a space after the version", 400, S("GET / HTTP/1.1 \r\nHost: a\r\n\r\n") },
        { "a space first", 400, S(" GET / HTTP/1.1\r\nHost: a\r\n\r\n") },
        { "a tab after the method", 400, S("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n") },
        { "a tab before the version", 400, S("GET /\tHTTP/1.1\r\nHost: a\r\n\r\n") },
        { "a space in the target", 400, S("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n") },
        { "a method with a parenthesis", 400, S("G(T / HTTP/1.1\r\nHost: a\r\n\r\n") },
        { "a method of 33 bytes", 501, S("GETGETGETGETGETGETGETGETGETGETGET / HTTP/1.1\r\nHost: a\r\n\r\n") },
        { "CONNECT", 501, S("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n") },
        { "CONNECT with a path", 501, S("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n") },
        { "authority-form with GET", 400, S("GET a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n") },
        { "* with GET", 400, S("GET * HTTP/1.1\r\nHost: a\r\n\r\n") },
        { "a target without its slash", 400, S("GET tasks HTTP/1.1\r\nHost: a\r\n\r\n") },
        { "a fragment", 400, S("GET /#x HTTP/1.1\r\nHost: a\r\n\r\n") },
        { "a backslash", 400, S("GET /..\\x HTTP/1.1\r\nHost: a\r\n\r\n") },
        { "a target that is not ASCII", 400, S("GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n") },
        { "bad percent-encoding", 400, S("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n") },
        { "percent-encoding cut short", 400, S("GET /%2 HTTP/1.1\r\nHost: a\r\n\r\n") },
        { "absolute-form and another Host", 400, S("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n") },
        { "absolute-form without Host", 400, S("GET http://a/ HTTP/1.1\r\n\r\n") },
        { "absolute-form with userinfo", 400, S("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n") },
        { "absolute-form without authority", 400, S("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n") },
        { "absolute-form of another scheme", 400, S("GET ftp://a/x HTTP/1.1\r\nHost: a\r\n\r\n") },
        /* chunks */
        { "chunk size with a space after it", 400, S(CHUNKED "5 \r\nhello\r\n0\r\n\r\n") },
        { "chunk size with a space before it", 400, S(CHUNKED " 5\r\nhello\r\n0\r\n\r\n") },
        { "chunk size with a tab", 400, S(CHUNKED "5\t\r\nhello\r\n0\r\n\r\n") },
        { "chunk size 0x5", 400, S(CHUNKED "0x5\r\nhello\r\n0\r\n\r\n") },
        { "chunk size +5", 400, S(CHUNKED "+5\r\nhello\r\n0\r\n\r\n") },
        { "chunk size -1", 400, S(CHUNKED "-1\r\nhello\r\n0\r\n\r\n") },
        { "chunk size 5h", 400, S(CHUNKED "5h\r\nhello\r\n0\r\n\r\n") },
        { "chunk size empty", 400, S(CHUNKED "\r\nhello\r\n0\r\n\r\n") },
        { "chunk size empty with an extension", 400, S(CHUNKED ";a\r\nhello\r\n0\r\n\r\n") },
        { "chunk size of 17 digits", 400, S(CHUNKED "10000000000000005\r\nhello\r\n0\r\n\r\n") },
        { "chunk size 2^64 - 1", 413, S(CHUNKED "ffffffffffffffff\r\nhello") },
        { "chunks whose sum wraps", 413, S(CHUNKED "5\r\nhello\r\nfffffffffffffffe\r\n") },
        { "chunks over the bound", 413, S(CHUNKED "5\r\nhello\r\n60\r\n") },
        { "LF alone after a chunk size", 400, S(CHUNKED "5\nhello\r\n0\r\n\r\n") },
        { "CR alone after a chunk size", 400, S(CHUNKED "5\rhello\r\n0\r\n\r\n") },
        { "LF in a chunk extension", 400, S(CHUNKED "5;a\nb\r\nhello\r\n0\r\n\r\n") },
        { "NUL in a chunk extension", 400, S(CHUNKED "5;a\0\r\nhello\r\n0\r\n\r\n") },
        { "CR in a chunk extension", 400, S(CHUNKED "5;a\rb\r\nhello\r\n0\r\n\r\n") },
        { "junk where a chunk's CRLF belongs", 400, S(CHUNKED "5\r\nhelloXX0\r\n\r\n") },
        { "LF alone where a chunk's CRLF belongs", 400, S(CHUNKED "5\r\nhello\n0\r\n\r\n") },
        { "CR and junk where a chunk's CRLF belongs", 400, S(CHUNKED "5\r\nhello\rX0\r\n\r\n") },
        { "a chunk longer than its size", 400, S(CHUNKED "4\r\nhello\r\n0\r\n\r\n") },
        { "LF alone after the last chunk", 400, S(CHUNKED "0\r\n\n") },
        { "CR and junk after the last chunk", 400, S(CHUNKED "0\r\n\rX") },
        { "a request where the end belongs", 400, S(CHUNKED "0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n") },
        { "a folded trailer", 400, S(CHUNKED "0\r\nX: a\r\n b\r\n\r\n") },
        { "a trailer with a space before its colon", 400, S(CHUNKED "0\r\nX : a\r\n\r\n") },
        { "a trailer with NUL", 400, S(CHUNKED "0\r\nX: a\0\r\n\r\n") },
        { "a trailer with LF alone", 400, S(CHUNKED "0\r\nX: a\n\r\n") },
        { "a trailer without a name", 400, S(CHUNKED "0\r\n: a\r\n\r\n") },
        /* what is left over is the next request */
        { "bytes after a body", 400, S(POST "Content-Length: 4\r\n\r\nhello\r\n\r\n") },
};

static void assert_refused(const Refused *x, Http1Trace *t, const Http1Trace *whole, const char *how, size_t at) {
        Http1Event e = {};
        size_t consumed = 1;

        if (t->broken)
                fail_msg("%s, %s %zu: %s", x->name, how, at, t->broken);
        assert_false(t->failed);
        if (t->status != x->status)
                fail_msg("%s, %s %zu: status %u instead of %u", x->name, how, at, t->status, x->status);
        if (buf_size(&t->text) != buf_size(&whole->text) ||
            memcmp(buf_data(&t->text), buf_data(&whole->text), buf_size(&t->text)) != 0)
                fail_msg("%s, %s %zu: other events than whole", x->name, how, at);
        /* It stays refused, and the answer to it closes. */
        assert_int_equal(http1_feed(t->codec, (const uint8_t *)"GET", 3, &consumed, &e), 0);
        assert_int_equal(consumed, 0);
        assert_int_equal(e.type, HTTP1_REFUSED);
        assert_int_equal(e.status, x->status);
        assert_non_null(e.reason);
        assert_false(http1_in_request(t->codec));
}

static void refuse_one(const Refused *x) {
        const uint8_t *bytes = (const uint8_t *)x->bytes;
        Buf out = BUF_NULL;
        Http1Trace whole, t;

        http1_trace_init(&whole, BODY_MAX);
        http1_trace_feed(&whole, bytes, x->n);
        assert_refused(x, &whole, &whole, "whole", x->n);
        assert_int_equal(http1_write_response(whole.codec, &out, &(Http1Response){ .status = x->status }), 0);
        assert_non_null(memmem(buf_data(&out), buf_size(&out), "\r\nConnection: close\r\n", 21));
        assert_true(http1_must_close(whole.codec));
        buf_deinit(&out);

        http1_trace_init(&t, BODY_MAX);
        for (size_t k = 0; k < x->n; k++)
                http1_trace_feed(&t, bytes + k, 1);
        assert_refused(x, &t, &whole, "byte by byte", x->n);
        http1_trace_deinit(&t);

        /* The table is short; what is fed for a bound is long, and its splits are sampled. */
        for (size_t k = 1; k < x->n; k += x->n > 4096 ? 997 : 1) {
                http1_trace_init(&t, BODY_MAX);
                http1_trace_feed(&t, bytes, k);
                http1_trace_feed(&t, bytes + k, x->n - k);
                assert_refused(x, &t, &whole, "split at", k);
                http1_trace_deinit(&t);
        }
        http1_trace_deinit(&whole);
}

static void test_refused(void **state) {
        for (size_t i = 0; i < ELEMENTSOF(refused); i++)
                refuse_one(&refused[i]);
        print_message("# %zu refused requests\n", ELEMENTSOF(refused));
}

/* head, then n times piece, then tail: refused with status, or (0) taken as one whole request. */
static void assert_bound(unsigned status, const char *head, const char *piece, size_t n, const char *tail) {
        Buf b = BUF_NULL;

        assert_int_equal(buf_append_str(&b, head), 0);
        for (size_t i = 0; i < n; i++)
                assert_int_equal(buf_append_str(&b, piece), 0);
        assert_int_equal(buf_append_str(&b, tail), 0);
        if (status)
                refuse_one(&(Refused){ head, status, (const char *)buf_data(&b), buf_size(&b) });
        else {
                Http1Trace t;

                http1_trace_init(&t, BODY_MAX);
                http1_trace_feed(&t, buf_data(&b), buf_size(&b));
                assert_false(t.failed);
                assert_int_equal(t.status, 0);
                assert_int_equal(t.n_ended, 1);
                http1_trace_deinit(&t);
        }
        buf_deinit(&b);
}

static void test_bounds(void **state) {
        /* "GET /" and " HTTP/1.1" are 14 bytes. */
        assert_bound(0, "GET /", "a", HTTP1_REQUEST_LINE_MAX - 14, " HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_bound(414, "GET /", "a", HTTP1_REQUEST_LINE_MAX - 13, " HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_bound(414, "GET /", "a", HTTP1_REQUEST_LINE_MAX, "");
        /* "Host: a" and "X: " with their CRLFs are 14 bytes. */
        assert_bound(0, HOST "X: ", "a", HTTP1_HEADER_BYTES_MAX - 14, "\r\n\r\n");
        assert_bound(431, HOST "X: ", "a", HTTP1_HEADER_BYTES_MAX - 13, "\r\n\r\n");
        assert_bound(431, HOST "X: ", "a", 2 * HTTP1_HEADER_BYTES_MAX, "\r\n\r\n");
        assert_bound(0, HOST, "X: a\r\n", HTTP1_HEADERS_MAX - 1, "\r\n");
        assert_bound(431, HOST, "X: a\r\n", HTTP1_HEADERS_MAX, "\r\n");
        /* The size, its `;` and CRLF are 4 bytes. */
        assert_bound(0, CHUNKED "0;", "a", HTTP1_CHUNK_LINE_MAX - 4, "\r\n\r\n");
        assert_bound(400, CHUNKED "0;", "a", HTTP1_CHUNK_LINE_MAX - 3, "\r\n\r\n");
        /* The trailer's bound holds its last CRLF too. */
        assert_bound(0, CHUNKED "0\r\nX: ", "a", HTTP1_TRAILER_BYTES_MAX - 7, "\r\n\r\n");
        assert_bound(431, CHUNKED "0\r\nX: ", "a", HTTP1_TRAILER_BYTES_MAX - 6, "\r\n\r\n");
}

/* Extensions of many small chunks are bounded together. */
static void test_chunk_extensions(void **state) {
        char ext[201], piece[256];
        Http1Trace t;
        size_t n = 0;

        memset(ext, 'a', sizeof(ext) - 1);
        ext[sizeof(ext) - 1] = 0;
        snprintf(piece, sizeof(piece), "1;%s\r\nx\r\n", ext);
        http1_trace_init(&t, UINT64_MAX);
        http1_trace_feed(&t, (const uint8_t *)CHUNKED, strlen(CHUNKED));
        while (t.status == 0 && n < 1000) {
                http1_trace_feed(&t, (const uint8_t *)piece, strlen(piece));
                n++;
        }
        assert_int_equal(t.status, 400);
        assert_int_equal(n, HTTP1_CHUNK_EXT_MAX / (sizeof(ext) - 1) + 1);
        http1_trace_deinit(&t);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_refused),
                cmocka_unit_test(test_bounds),
                cmocka_unit_test(test_chunk_extensions),
        };

        return cmocka_run_group_tests_name("http1-refused", tests, NULL, NULL);
}

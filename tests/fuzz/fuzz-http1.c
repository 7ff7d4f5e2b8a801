/*
 * The HTTP/1.1 codec: any split gives the same events; what is accepted reads the same when it is written again in the
 * plainest form; and no text that is handed to an answer's header can add a line to it.
 */

#include "fuzz.h"
#include "proto/test-http1-trace.h"

#define BODY_MAX KIB(64)

static bool text_equal(const Http1Trace *a, const Http1Trace *b) {
        return buf_size(&a->text) == buf_size(&b->text) &&
               (buf_size(&a->text) == 0 || memcmp(buf_data(&a->text), buf_data(&b->text), buf_size(&a->text)) == 0);
}

/* Cut into pieces of `step` bytes. */
static void check_split(const Http1Trace *whole, const uint8_t *data, size_t n, size_t step) {
        Http1Trace t;

        http1_trace_init(&t, BODY_MAX);
        for (size_t at = 0; at < n; at += step)
                http1_trace_feed(&t, data + at, MIN(step, n - at));
        HOLDS(!t.failed);
        HOLDS(text_equal(whole, &t));
        HOLDS(http1_in_request(t.codec) == http1_in_request(whole->codec));
        http1_trace_deinit(&t);
}

/* Writes the complete requests of data as plainly as can be; the number of them. */
static unsigned rewrite(const uint8_t *data, size_t n, Buf *out) {
        _cleanup_(http1_freep) Http1 *h = NULL;
        size_t at = 0, n_complete = 0;
        unsigned n_requests = 0;
        bool chunked = false;

        HOLDS(http1_new(&h) == 0);
        http1_set_body_max(h, BODY_MAX);
        for (;;) {
                Http1Event e = {};
                size_t consumed = 0;

                HOLDS(http1_feed(h, data + at, n - at, &consumed, &e) == 0);
                at += consumed;
                if (e.type == HTTP1_NEED_MORE || e.type == HTTP1_REFUSED)
                        break;
                if (e.type == HTTP1_REQUEST) {
                        chunked = e.content_length == UINT64_MAX;
                        HOLDS(e.has_body == (e.content_length > 0));
                        HOLDS(e.target[0] == '/' || (e.target[0] == '*' && e.method == HTTP_OPTIONS));
                        HOLDS(e.n_headers <= HTTP1_HEADERS_MAX);
                        HOLDS(e.minor == 0 || http1_header(&e, "host"));
                        HOLDS(buf_printf(out, "%s %s HTTP/1.%u\r\n", e.method_name, e.target, e.minor) == 0);
                        for (size_t i = 0; i < e.n_headers; i++)
                                HOLDS(buf_printf(out, "%s:%s\r\n", e.headers[i].name, e.headers[i].value) == 0);
                        HOLDS(buf_append_str(out, "\r\n") == 0);
                } else if (e.type == HTTP1_BODY) {
                        if (chunked)
                                HOLDS(buf_printf(out, "%zX\r\n", e.n) == 0);
                        HOLDS(buf_append(out, e.data, e.n) == 0);
                        if (chunked)
                                HOLDS(buf_append_str(out, "\r\n") == 0);
                } else {
                        if (chunked)
                                HOLDS(buf_append_str(out, "0\r\n\r\n") == 0);
                        n_complete = buf_size(out);
                        n_requests++;
                }
        }
        out->end = out->start + n_complete;
        return n_requests;
}

/* The plain form is taken as a whole, says the same, and is its own plain form. */
static void check_rewrite(const Http1Trace *whole, const uint8_t *data, size_t n) {
        Buf plain = BUF_NULL, again = BUF_NULL;
        unsigned n_requests = rewrite(data, n, &plain);
        Http1Trace t;

        HOLDS(n_requests == whole->n_ended);
        http1_trace_init(&t, BODY_MAX);
        http1_trace_feed(&t, n_requests ? buf_data(&plain) : NULL, buf_size(&plain));
        HOLDS(!t.failed && t.status == 0);
        HOLDS(t.n_ended == n_requests && t.n_requests == n_requests);
        HOLDS(buf_size(&t.text) <= buf_size(&whole->text));
        HOLDS(n_requests == 0 || memcmp(buf_data(&t.text), buf_data(&whole->text), buf_size(&t.text)) == 0);
        if (n_requests) {
                HOLDS(rewrite(buf_data(&plain), buf_size(&plain), &again) == n_requests);
                HOLDS(buf_size(&again) == buf_size(&plain));
                HOLDS(memcmp(buf_data(&again), buf_data(&plain), buf_size(&again)) == 0);
        }
        http1_trace_deinit(&t);
        buf_deinit(&plain);
        buf_deinit(&again);
}

static size_t count_lines(const Buf *b) {
        size_t n = 0;

        for (size_t i = b->start; i < b->end; i++) {
                HOLDS(b->data[i] != '\r' || (i + 1 < b->end && b->data[i + 1] == '\n'));
                HOLDS(b->data[i] != '\n' || (i > b->start && b->data[i - 1] == '\r'));
                n += b->data[i] == '\n';
        }
        return n;
}

/* The bytes up to the first NUL are a name, the rest is a value. */
static void check_answer(const Http1Trace *whole, const uint8_t *data, size_t n) {
        const uint8_t *nul = n ? memchr(data, 0, n) : NULL;
        _cleanup_free_ char *name = NULL;
        Buf plain = BUF_NULL, out = BUF_NULL;
        HttpHeader f;
        int r;

        name = strndup(nul ? (const char *)data : "X", nul ? (size_t)(nul - data) : 1);
        HOLDS(name);
        f = (HttpHeader){ name, nul ? (const char *)nul + 1 : (const char *)data,
                          nul ? n - 1 - (size_t)(nul - data) : n };
        HOLDS(http1_write_response(whole->codec, &plain, &(Http1Response){ .status = 404 }) == 0);
        r = http1_write_response(whole->codec, &out,
                                 &(Http1Response){ .status = 404, .headers = &f, .n_headers = 1 });
        HOLDS(r == 0 || r == -EINVAL);
        if (r == 0)
                HOLDS(count_lines(&out) == count_lines(&plain) + 1);
        else
                HOLDS(buf_size(&out) == 0);
        buf_deinit(&plain);
        buf_deinit(&out);
}

static void check_decode(const uint8_t *data, size_t n) {
        Buf out = BUF_NULL;

        if (http_percent_decode((const char *)data, n, &out)) {
                HOLDS(buf_size(&out) <= n);
                HOLDS(buf_size(&out) == 0 || !memchr(buf_data(&out), 0, buf_size(&out)));
        } else
                HOLDS(buf_size(&out) == 0);
        buf_deinit(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        Http1Trace whole;

        http1_trace_init(&whole, BODY_MAX);
        http1_trace_feed(&whole, data, n);
        HOLDS(!whole.failed);
        check_split(&whole, data, n, 1);
        check_split(&whole, data, n, 7);
        check_split(&whole, data, n, n / 2 + 1);
        check_rewrite(&whole, data, n);
        check_answer(&whole, data, n);
        check_decode(data, n);
        http1_trace_deinit(&whole);
        return 0;
}

#pragma once

/*
 * The events of a codec as text, for the unit tests and the fuzzer: feeds bytes in pieces that are cut at given places
 * and writes down what came out, with a body's pieces joined, so that two ways to cut can be compared.
 *
 *     REQUEST GET /tasks HTTP/1.1 body=0 keep=1 expect=0
 *     host: a
 *     BODY 5 hello
 *     END
 *     REFUSED 400 Host is missing.
 *
 * Each piece is fed from an allocation of exactly its size, so that a sanitizer sees a read beyond it, and the
 * allocation is freed before the next piece, so that it sees a pointer kept to it.
 */

#include <stdarg.h>
#include <stdio.h>

#include "proto/http1.h"

typedef struct Http1Trace {
        Http1 *codec;
        Buf text;
        Buf body;
        unsigned status;                /* of the refusal; 0: none */
        unsigned n_requests;
        unsigned n_ended;
        bool failed;                    /* out of memory, or a rule of the contract was broken */
        const char *broken;
} Http1Trace;

static inline void http1_trace_deinit(Http1Trace *t) {
        http1_free(t->codec);
        buf_deinit(&t->text);
        buf_deinit(&t->body);
}

static inline void http1_trace_init(Http1Trace *t, uint64_t body_max) {
        *t = (Http1Trace){};
        t->failed = http1_new(&t->codec) != 0;
        if (!t->failed)
                http1_set_body_max(t->codec, body_max);
}

static inline void http1_trace_broken(Http1Trace *t, const char *rule) {
        t->failed = true;
        t->broken = rule;
}

static inline void http1_trace_event(Http1Trace *t, const Http1Event *e, const uint8_t *data, size_t n) {
        int r = 0;

        switch (e->type) {
        case HTTP1_NEED_MORE:
                break;
        case HTTP1_REQUEST:
                t->n_requests++;
                r = buf_printf(&t->text, "REQUEST %s %s HTTP/1.%u body=%d keep=%d expect=%d", e->method_name, e->target,
                               e->minor, e->has_body, e->keep_alive, e->expect_continue);
                if (r == 0 && e->has_body && e->content_length != UINT64_MAX)
                        r = buf_printf(&t->text, " length=%llu", (unsigned long long)e->content_length);
                if (r == 0)
                        r = buf_append_str(&t->text, "\n");
                for (size_t i = 0; r == 0 && i < e->n_headers; i++) {
                        if (strlen(e->headers[i].value) != e->headers[i].n_value)
                                http1_trace_broken(t, "n_value is the value's length");
                        r = buf_printf(&t->text, "%s: %s\n", e->headers[i].name, e->headers[i].value);
                }
                break;
        case HTTP1_BODY:
                if (e->data < data || e->n > n || e->data > data + n - e->n || e->n == 0)
                        http1_trace_broken(t, "a body points into the fed bytes, and is not empty");
                else
                        r = buf_append(&t->body, e->data, e->n);
                break;
        case HTTP1_END:
                t->n_ended++;
                if (buf_size(&t->body)) {
                        r = buf_printf(&t->text, "BODY %zu ", buf_size(&t->body));
                        if (r == 0)
                                r = buf_append(&t->text, buf_data(&t->body), buf_size(&t->body));
                        if (r == 0)
                                r = buf_append_str(&t->text, "\n");
                }
                buf_clear(&t->body);
                if (r == 0)
                        r = buf_append_str(&t->text, "END\n");
                break;
        case HTTP1_REFUSED:
                if (t->status)
                        break;
                t->status = e->status;
                r = buf_printf(&t->text, "REFUSED %u %s\n", e->status, e->reason);
                break;
        }
        if (r)
                t->failed = true;
}

/* Feeds one piece; nothing is fed after a refusal. */
static inline void http1_trace_feed(Http1Trace *t, const uint8_t *piece, size_t n) {
        _cleanup_free_ uint8_t *copy = NULL;
        size_t at = 0;

        if (t->failed || t->status)
                return;
        copy = malloc(n ? n : 1);
        if (!copy) {
                t->failed = true;
                return;
        }
        if (n)
                memcpy(copy, piece, n);
        for (;;) {
                Http1Event e = {};
                size_t consumed = 0;

                if (http1_feed(t->codec, copy + at, n - at, &consumed, &e) != 0 || consumed > n - at) {
                        t->failed = true;
                        return;
                }
                http1_trace_event(t, &e, copy + at, n - at);
                at += consumed;
                if (e.type == HTTP1_NEED_MORE && at != n)
                        http1_trace_broken(t, "HTTP1_NEED_MORE consumes everything");
                if (e.type == HTTP1_NEED_MORE || e.type == HTTP1_REFUSED || t->failed)
                        return;
        }
}

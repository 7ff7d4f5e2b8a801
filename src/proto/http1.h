#pragma once

/*
 * http1: an HTTP/1.1 codec without a socket (RFC 9112), server side; bytes in, events and bytes out.
 *
 * The parser is strict: whatever two parsers might read differently is refused with 400 and the connection is
 * closed after the answer: bare CR or LF as a line end, obs-fold, white space before a colon, white space in
 * the request target, duplicate or malformed Content-Length, Content-Length with Transfer-Encoding, a transfer coding
 * other than exactly `chunked`, Transfer-Encoding with HTTP/1.0, bad chunk sizes, chunk extensions with control
 * characters, no Host or two in HTTP/1.1, NUL and other control characters in field values.
 *
 * Where the standard leaves a choice:
 *   - one empty line (CRLF) before a request line is skipped, a second is refused (§2.2);
 *   - versions are 1.0 and 1.1; another number is 505, another spelling 400 (§2.3);
 *   - a target is origin-form, `*` with OPTIONS, or absolute-form, which is reduced to origin-form: its authority must
 *     be the one in Host, where there is a Host (§3.2.2). CONNECT is 501, authority-form with another method 400
 *     (§3.2.3);
 *   - a target's bytes are those of RFC 3986 §3.3 and §3.4 with well-formed %XX: `"<>\^`{|}`, `#` and bytes over 0x7e
 *     are refused;
 *   - trailer fields are checked like header fields, and dropped (§6.5.1);
 *   - an expectation other than 100-continue is 417, and 100-continue of HTTP/1.0 is ignored (RFC 9110 §10.1.1).
 *
 *     http1_feed(h, data, n, &consumed, &event) consumes bytes until it has an event or needs more; call it again
 *     with the rest until it says HTTP1_NEED_MORE.
 *
 * Strings of an event belong to the codec and live until the next request begins (HTTP1_REQUEST of the next).
 */

#include "base/buf.h"
#include "base/macro.h"

#define HTTP1_REQUEST_LINE_MAX  KIB(8)          /* RFC 9112 §3 recommends at least 8,000 octets */
#define HTTP1_HEADER_BYTES_MAX  KIB(32)         /* all fields together */
#define HTTP1_HEADERS_MAX       64
#define HTTP1_METHOD_MAX        32              /* longer than any registered method; beyond it 501 */
#define HTTP1_CHUNK_LINE_MAX    256             /* size, extensions, CRLF */
#define HTTP1_CHUNK_EXT_MAX     KIB(16)         /* extensions of one body together: they cost us and carry nothing */
#define HTTP1_TRAILER_BYTES_MAX KIB(4)
#define HTTP1_BODY_MAX_DEFAULT  MIB(4)          /* until http1_set_body_max() */

typedef struct Http1 Http1;
typedef struct Http1Event Http1Event;
typedef struct HttpHeader HttpHeader;

typedef enum HttpMethod {
        HTTP_GET,
        HTTP_HEAD,
        HTTP_POST,
        HTTP_PUT,
        HTTP_DELETE,
        HTTP_PATCH,
        HTTP_OPTIONS,
        HTTP_METHOD_OTHER,      /* well-formed, but not one of these: the router answers 501 */
} HttpMethod;

struct HttpHeader {
        const char *name;       /* lower case, NUL-terminated */
        const char *value;      /* without surrounding white space, NUL-terminated */
        size_t n_value;
};

typedef enum Http1EventType {
        HTTP1_NEED_MORE,        /* all bytes consumed */
        HTTP1_REQUEST,          /* request line and headers are in */
        HTTP1_BODY,             /* a piece of the body */
        HTTP1_END,              /* the request is complete */
        HTTP1_REFUSED,          /* status and reason say why: answer it and close; feed no more */
} Http1EventType;

struct Http1Event {
        Http1EventType type;
        /* HTTP1_REQUEST */
        HttpMethod method;
        const char *method_name;
        const char *target;             /* origin-form (absolute-form without its scheme and authority), or `*` */
        unsigned minor;                 /* HTTP/1.minor */
        const HttpHeader *headers;
        size_t n_headers;
        bool has_body;                  /* false for Content-Length: 0 too */
        uint64_t content_length;        /* UINT64_MAX where chunked */
        bool expect_continue;           /* call http1_write_continue() when the body is wanted */
        bool keep_alive;
        /* HTTP1_BODY: points into the fed bytes */
        const uint8_t *data;
        size_t n;
        /* HTTP1_REFUSED */
        unsigned status;                /* 400, 413, 414, 417, 431, 501, 505 */
        const char *reason;             /* one sentence, static */
};

/* 0 or -ENOMEM. */
int http1_new(Http1 **ret_http1) _must_check_;
Http1 *http1_free(Http1 *h);
DEFINE_CLEANUP(Http1, http1_free);

/* A body over body_max bytes is refused with 413 (before it is read where Content-Length says so). */
void http1_set_body_max(Http1 *h, uint64_t body_max);
/*
 * 0 or -ENOMEM. After HTTP1_REQUEST the answer may be written at any time, but the next request's bytes must not be fed
 * before the answer is complete: the codec remembers one request. After HTTP1_REFUSED it says so again and again.
 */
int http1_feed(Http1 *h, const uint8_t *data, size_t n, size_t *ret_consumed, Http1Event *ret_event) _must_check_;
/* True while a request has begun and not ended: the header and body timeouts apply. */
bool http1_in_request(const Http1 *h);

/* The first field of that name, or NULL. */
const char *http1_header(const Http1Event *e, const char *lower_name);

/*
 * Encoding. The codec remembers method, version and keep-alive of the current request, so it leaves out the body of an
 * answer to HEAD, of 204 and of 304, and writes `Connection: close` where it must: the client or the caller wants it,
 * the request was refused, a body streams to an HTTP/1.0 client, or a part of the request's body is still to come (an
 * early answer: what follows can't be told from a request by a client that did not wait for `100 Continue`).
 * It writes Date, Content-Length, Transfer-Encoding, Connection (and no Keep-Alive) itself.
 *
 * All return 0, -ENOMEM, -ENOBUFS where `out` is full, or -EINVAL; out is unchanged on failure. -EINVAL is: a status
 * outside 200–599; a header whose name is no token or is one of those above, or whose value holds CR, LF, NUL or
 * another control character (header injection); a body together with streaming; a chunk outside of a streaming answer.
 */
typedef struct Http1Response {
        unsigned status;
        const char *content_type;       /* NULL: none */
        const HttpHeader *headers;      /* extra fields */
        size_t n_headers;
        const void *body;               /* whole body, or NULL with streaming */
        size_t n_body;
        /* chunked body follows by http1_write_chunk()/http1_write_end(); HTTP/1.0: until close */
        bool streaming;
        bool close;                     /* close after this answer */
} Http1Response;

int http1_write_response(Http1 *h, Buf *out, const Http1Response *response) _must_check_;
/* A piece of a streaming body (§7.1); nothing is written for n = 0, HEAD, 204, 304. */
int http1_write_chunk(Http1 *h, Buf *out, const void *data, size_t n) _must_check_;
int http1_write_end(Http1 *h, Buf *out) _must_check_;
/* `100 Continue`, once and only where the client waits for it (RFC 9110 §10.1.1). */
int http1_write_continue(Http1 *h, Buf *out) _must_check_;
/* After the whole answer is written: must the connection close? */
bool http1_must_close(const Http1 *h);
/* "OK" for 200 and so on; never NULL. */
const char *http_status_text(unsigned status);

/*
 * Appends a percent-decoded component of a target (RFC 3986 §2.1); `+` stays `+`. False where it is malformed (bad %XX,
 * %00) or out is full; out is unchanged then.
 */
bool http_percent_decode(const char *s, size_t n, Buf *out);

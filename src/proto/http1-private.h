#pragma once

/*
 * What the two halves of the HTTP/1.1 codec share: http1.c reads requests, http1-write.c writes answers, and the
 * answer's framing depends on the request.
 */

#include "base/buf.h"
#include "proto/http1.h"

typedef enum Http1State {
        STATE_START,            /* between requests; one empty line is skipped */
        STATE_START_LF,
        STATE_REQUEST_LINE,
        STATE_FIELDS,
        STATE_REQUEST,          /* the head is complete; HTTP1_REQUEST is due */
        STATE_BODY,             /* `left` bytes of a body with Content-Length */
        STATE_CHUNK_SIZE,
        STATE_CHUNK_EXT,
        STATE_CHUNK_SIZE_LF,
        STATE_CHUNK_DATA,       /* `left` bytes of this chunk */
        STATE_CHUNK_DATA_CR,
        STATE_CHUNK_DATA_LF,
        STATE_TRAILER,          /* at the start of a trailer line */
        STATE_TRAILER_NAME,
        STATE_TRAILER_VALUE,
        STATE_TRAILER_LF,
        STATE_LAST_LF,
        STATE_END,              /* the request is complete; HTTP1_END is due */
        STATE_REFUSED,
        _STATE_N,
} Http1State;

typedef enum Http1Framing {
        FRAMING_NONE,           /* no streaming answer is open */
        FRAMING_CHUNKED,
        FRAMING_UNTIL_CLOSE,
        FRAMING_BODILESS,       /* a streaming answer to HEAD, or 204, 304: chunks vanish */
} Http1Framing;

struct Http1 {
        /* reading */
        Http1State state;
        bool cr;                        /* STATE_REQUEST_LINE, STATE_FIELDS: the last byte was CR */
        bool empty_line;                /* one was skipped before this request */
        Buf head;                       /* "METHOD\0target\0[authority\0]" and then "name\0value\0"… */
        size_t line;                    /* where the current line starts in head */
        size_t target;                  /* offset in head */
        size_t authority;               /* offset in head of an absolute-form target's; 0: none */
        size_t fields;                  /* offset in head of the first field */
        size_t n_field_bytes;
        size_t n_fields;
        HttpHeader headers[HTTP1_HEADERS_MAX];
        Http1State body_state;          /* follows STATE_REQUEST */
        uint64_t body_max;
        uint64_t left;                  /* bytes to come, of the body or the chunk */
        uint64_t n_body;                /* chunked: bytes announced so far */
        unsigned n_digits;              /* of the chunk size */
        size_t n_chunk_line;
        size_t n_chunk_ext;
        size_t n_trailer;
        Http1Event request;             /* as HTTP1_REQUEST gives it */
        unsigned status;                /* of the refusal */
        const char *reason;

        /* writing */
        bool continue_due;              /* the client waits for 100 Continue */
        bool close;                     /* after this answer */
        Http1Framing framing;
};

/* Character classes; a byte may be of several. */
enum {
        CHAR_TOKEN = 1,                 /* tchar, RFC 9110 §5.6.2 */
        CHAR_TARGET = 2,                /* pchar, `/` and `?`, RFC 3986 §3.3 and §3.4; `%` among them */
        CHAR_HOST = 4,                  /* reg-name without `,`; `%` among them */
        CHAR_HEX = 8,
};

extern const uint8_t http1_char_class[256];

static inline bool char_is(uint8_t c, unsigned classes) {
        return http1_char_class[c] & classes;
}

/* SP, HTAB, VCHAR, obs-text: what a field value may hold, RFC 9110 §5.5. */
static inline bool char_is_value(uint8_t c) {
        return (c >= 0x20 && c != 0x7f) || c == '\t';
}

static inline unsigned char_hex(uint8_t c) {
        return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
}

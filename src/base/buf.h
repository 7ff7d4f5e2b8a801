#pragma once

/*
 * Buf: a byte queue. Bytes are appended at the end and consumed at the front; a codec reads from one Buf and
 * writes to another. `max` bounds it (0: unbounded, only for what is bounded elsewhere): an append that would
 * pass it fails with BUF_E_FULL and changes nothing.
 */

#include "base/macro.h"

typedef struct Buf Buf;

enum {
        _BUF_E_SUCCESS,
        BUF_E_FULL,             /* the append would pass max; nothing was appended */
};

struct Buf {
        uint8_t *data;          /* start of the allocation */
        size_t start;           /* first unconsumed byte */
        size_t end;             /* one past the last byte */
        size_t capacity;
        size_t max;
};

#define BUF_NULL {}
#define BUF_INIT(max_bytes) { .max = (max_bytes) }

void buf_deinit(Buf *b);
/* Makes room for n more bytes and returns where to write them; commit with buf_added(). BUF_E_FULL, -ENOMEM. */
int buf_reserve(Buf *b, size_t n, uint8_t **ret_p) _must_check_;
int buf_append(Buf *b, const void *data, size_t n) _must_check_;
int buf_append_str(Buf *b, const char *s) _must_check_;
int buf_printf(Buf *b, const char *format, ...) _must_check_ _printf_(2, 3);
/* Drops n bytes at the front (n ≤ buf_size). */
void buf_consume(Buf *b, size_t n);
/* Gives the allocation back when the buffer is empty and larger than keep bytes. */
void buf_trim(Buf *b, size_t keep);
void buf_clear(Buf *b);
/* NUL-terminates without counting the NUL, takes the string out; the caller frees. BUF_E_FULL never. */
int buf_take_str(Buf *b, char **ret_s) _must_check_;

static inline size_t buf_size(const Buf *b) {
        return b->end - b->start;
}

static inline uint8_t *buf_data(const Buf *b) {
        return b->data ? b->data + b->start : NULL;
}

static inline void buf_added(Buf *b, size_t n) {
        b->end += n;
}

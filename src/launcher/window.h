#pragma once

/*
 * Window: what one output stream of an attempt has produced and the router has not yet acknowledged. Bytes are numbered
 * from the first one of the stream; [acked, end) is kept in a ring that grows by doubling up to `max` and is given back
 * when it empties, so a silent worker costs nothing. `sent` is where this connection's next OUTPUT begins: a new
 * connection sets it back to `acked`. A full window reads nothing, so the pipe fills and the worker blocks.
 *
 *     stream:   0 ……… acked ……… sent ……… end
 *               gone  │ kept, sent │ kept, to send
 */

#include "base/macro.h"

#define WINDOW_CAPACITY_MIN KIB(4)      /* a quiet worker's few lines */

typedef struct Window Window;

struct Window {
        uint8_t *data;
        size_t capacity;
        size_t head;            /* place of byte `acked` in data */
        size_t n;               /* bytes kept */
        size_t max;
        uint64_t acked;
        uint64_t sent;
};

enum {
        _WINDOW_E_SUCCESS,
        WINDOW_E_FULL,          /* no room: nothing was read */
        WINDOW_E_EOF,           /* the stream has ended */
        WINDOW_E_AGAIN,         /* nothing to read now */
};

#define WINDOW_INIT(max_bytes) { .max = (max_bytes) }

void window_deinit(Window *w);
/* One read(2) of at most `most` bytes from a non-blocking descriptor. -errno, or a WINDOW_E_. */
int window_read(Window *w, int fd, size_t most, size_t *ret_n) _must_check_;
/* The next bytes to send, at most `most`, contiguous; 0 where everything was sent. */
size_t window_peek(const Window *w, size_t most, const uint8_t **ret_data);
void window_sent(Window *w, size_t n);
/*
 * Everything before offset is durable. false: offset lies beyond what was sent (the peer is confused); nothing changes.
 */
bool window_ack(Window *w, uint64_t offset);
/* A new connection: send again from the first unacknowledged byte. */
void window_rewind(Window *w);

static inline uint64_t window_end(const Window *w) {
        return w->acked + w->n;
}

static inline bool window_is_full(const Window *w) {
        return w->n == w->max;
}

static inline bool window_is_sent(const Window *w) {
        return w->sent == w->acked + w->n;
}

#pragma once

/*
 * Stream: a connected byte stream (TCP or Unix) over ring operations.
 *
 * Receiving uses multishot recv into the reactor's buffer ring where the kernel has them, else single recvs.
 * Sending queues bytes and keeps one send in flight; stream_queued() is what a producer watches: it pulls the
 * next chunk in on_drain, so a slow client stops being produced for.
 *
 * Pausing is lazy: a receive that is in flight stays so until bytes arrive for the paused stream; it is then cancelled,
 * and the bytes that came before the cancellation took effect are kept (`held`, at most the buffer ring's size, since
 * the cancellation is submitted with the tick's end) and delivered first after stream_resume(). on_bytes is never
 * called while paused, nor from within a call into the stream. An end of input or a receive error met while paused
 * waits for stream_resume() too.
 *
 * Close is two-phase: stream_close() cancels what is in flight and closes the descriptor after the last
 * completion, then calls on_closed, after which the owner may free the Stream's memory. No other callback comes
 * after stream_close() was called.
 */

#include "reactor/reactor.h"

typedef struct Stream Stream;
typedef struct StreamVtable StreamVtable;

struct StreamVtable {
        /* n > 0 bytes, valid during the call only; the owner keeps what it can't use yet. n == 0: end of input. */
        void (*on_bytes)(Stream *stream, const uint8_t *data, size_t n);
        /* All that was queued is sent. */
        void (*on_drain)(Stream *stream);
        /* A send or receive failed (-errno); the owner closes. */
        void (*on_error)(Stream *stream, int error);
        /* The last completion is in and the descriptor is closed. */
        void (*on_closed)(Stream *stream);
};

struct Stream {
        const StreamVtable *vtable;
        Reactor *reactor;
        int fd;
        Op recv;
        Op send;
        Op poll;                /* the shutdown(2) after the last send */
        Buf queued;             /* not yet handed to the kernel */
        Buf sending;            /* in flight */
        Buf held;               /* received while paused */
        size_t queue_max;
        unsigned n_in_flight;
        bool reading;
        bool closing;
        bool shutdown_after_drain;
        bool shutdown_sent;
        bool send_failed;       /* nothing more is sent */
        bool recv_over;         /* the end or an error was seen: nothing more is received */
        bool recv_told;         /* … and the owner knows */
        int recv_error;         /* 0: the end */
        Defer wake;             /* sends what is queued, delivers what was held */
        Defer closed;
        void *scratch;          /* receive buffer where there is no buffer ring */
};

/* Takes the descriptor; reading starts with stream_resume(). queue_max bounds stream_send() (0: unbounded). */
void stream_init_take(Stream *stream, Reactor *reactor, int fd, const StreamVtable *vtable, size_t queue_max);
void stream_pause(Stream *stream);
void stream_resume(Stream *stream);
/*
 * Copies n bytes to the queue. BUF_E_FULL: would pass queue_max, nothing queued; -ENOMEM; -EPIPE after
 * stream_shutdown_write(), stream_close() or a failed send (the owner was told by on_error).
 */
int stream_send(Stream *stream, const void *data, size_t n) _must_check_;
/* Moves all of b into the queue (b is empty afterwards). Same errors; b is untouched on failure. */
int stream_send_buf(Stream *stream, Buf *b) _must_check_;
/* shutdown(SHUT_WR) once the queue is drained: the peer sees the end of output, input goes on. */
void stream_shutdown_write(Stream *stream);
void stream_close(Stream *stream);

static inline size_t stream_queued(const Stream *stream) {
        return buf_size(&stream->queued) + buf_size(&stream->sending);
}

#include <assert.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "reactor/ring.h"
#include "reactor/stream.h"

/* One receive where there is no buffer ring. */
#define STREAM_SCRATCH_SIZE KIB(16)
/* An idle stream keeps at most this much of a send buffer. */
#define STREAM_KEEP KIB(4)

static void stream_op_ended(Stream *s) {
        assert(s->n_in_flight > 0);
        if (--s->n_in_flight == 0 && s->closing)
                defer_schedule(&s->closed);
}

/* --- receiving --- */

static bool stream_can_deliver(const Stream *s) {
        return s->reading && !s->closing && buf_size(&s->held) == 0;
}

static void stream_arm(Stream *s) {
        if (!s->reading || s->closing || s->recv_over || s->recv.in_flight || buf_size(&s->held) > 0)
                return;
        if (reactor_features(s->reactor)->multishot_recv)
                op_recv_multishot(&s->recv, s->fd);
        else {
                if (!s->scratch)
                        s->scratch = malloc(STREAM_SCRATCH_SIZE);
                if (!s->scratch) {
                        s->recv_over = true;
                        s->recv_error = error_origin(-ENOMEM);
                        defer_schedule(&s->wake);
                        return;
                }
                op_recv(&s->recv, s->fd, s->scratch, STREAM_SCRATCH_SIZE);
        }
        s->n_in_flight++;
}

/* Tells the end or the error, once, after every byte was delivered. */
static void stream_tell_over(Stream *s) {
        if (!s->recv_over || s->recv_told || !stream_can_deliver(s))
                return;
        s->recv_told = true;
        if (s->recv_error)
                s->vtable->on_error(s, s->recv_error);
        else
                s->vtable->on_bytes(s, NULL, 0);
}

static void stream_received(Stream *s, const uint8_t *data, size_t n) {
        if (s->recv_over)       /* an earlier byte could not be held: nothing after the gap */
                return;
        if (stream_can_deliver(s)) {
                s->vtable->on_bytes(s, data, n);
                return;
        }
        if (buf_append(&s->held, data, n) != 0) {
                s->recv_over = true;
                s->recv_error = error_origin(-ENOMEM);
        }
}

static void stream_on_recv(Op *op, int res, bool more) {
        Stream *s = container_of(op, Stream, recv);

        if (s->closing)
                ;
        else if (res > 0)
                stream_received(s, op->has_buffer ? op_buffer(op) : s->scratch, (size_t)res);
        else if (res == -ENOBUFS)
                reactor_count_enobufs(s->reactor);
        else if (res != -ECANCELED && res != -EINTR && res != -EAGAIN && !s->recv_over) {
                s->recv_over = true;
                s->recv_error = res;
        }
        if (!s->closing) {
                stream_tell_over(s);
                if (more && (!s->reading || s->recv_over))
                        op_cancel(&s->recv);
        }
        if (!more) {
                stream_op_ended(s);
                stream_arm(s);
        }
}

static void stream_deliver_held(Stream *s) {
        while (s->reading && !s->closing && buf_size(&s->held) > 0) {
                Buf held = s->held;

                /* Taken out, so that on_bytes may close: the bytes live until it returns. */
                s->held = (Buf)BUF_NULL;
                s->vtable->on_bytes(s, buf_data(&held), buf_size(&held));
                buf_deinit(&held);
        }
        if (!s->closing)
                stream_tell_over(s);
        stream_arm(s);
}

void stream_pause(Stream *s) {
        s->reading = false;
}

void stream_resume(Stream *s) {
        if (s->closing)
                return;
        s->reading = true;
        if (buf_size(&s->held) > 0 || (s->recv_over && !s->recv_told))
                defer_schedule(&s->wake);
        else
                stream_arm(s);
}

/* --- sending --- */

static void stream_flush(Stream *s) {
        if (s->closing || s->send_failed || s->send.in_flight)
                return;
        if (buf_size(&s->sending) == 0) {
                Buf empty = s->sending;

                s->sending = s->queued;
                s->queued = empty;
        }
        if (buf_size(&s->sending) > 0) {
                op_send(&s->send, s->fd, buf_data(&s->sending), buf_size(&s->sending));
                s->n_in_flight++;
        } else if (s->shutdown_after_drain && !s->shutdown_sent) {
                s->shutdown_sent = true;
                op_shutdown(&s->poll, s->fd, SHUT_WR);
                s->n_in_flight++;
        }
}

static void stream_on_send(Op *op, int res, bool more) {
        Stream *s = container_of(op, Stream, send);

        stream_op_ended(s);
        if (s->closing)
                return;
        if (res < 0 && res != -EINTR && res != -EAGAIN) {
                s->send_failed = true;
                s->vtable->on_error(s, res);
                return;
        }
        if (res > 0)
                buf_consume(&s->sending, (size_t)res);
        if (stream_queued(s) == 0) {
                buf_trim(&s->sending, STREAM_KEEP);
                buf_trim(&s->queued, STREAM_KEEP);
                s->vtable->on_drain(s);
        }
        stream_flush(s);
}

/* ENOTCONN and the like: the peer is gone, which a receive or the next send tells. */
static void stream_on_shutdown(Op *op, int res, bool more) {
        stream_op_ended(container_of(op, Stream, poll));
}

static int stream_can_queue(const Stream *s, size_t n) {
        if (s->closing || s->send_failed || s->shutdown_after_drain)
                return error_origin(-EPIPE);
        if (s->queue_max && n > s->queue_max - MIN(s->queue_max, stream_queued(s)))
                return BUF_E_FULL;
        return 0;
}

int stream_send(Stream *s, const void *data, size_t n) {
        int r = stream_can_queue(s, n);

        if (r || n == 0)
                return r;
        r = buf_append(&s->queued, data, n);
        if (r)
                return error_trace(r);
        defer_schedule(&s->wake);
        return 0;
}

int stream_send_buf(Stream *s, Buf *b) {
        int r = stream_can_queue(s, buf_size(b));

        if (r || buf_size(b) == 0)
                return r;
        if (buf_size(&s->queued) > 0) {
                r = buf_append(&s->queued, buf_data(b), buf_size(b));
                if (r)
                        return error_trace(r);
                buf_clear(b);
        } else {
                Buf empty = s->queued;
                size_t max = b->max;

                s->queued = *b;
                s->queued.max = 0;
                *b = empty;
                b->max = max;
        }
        defer_schedule(&s->wake);
        return 0;
}

void stream_shutdown_write(Stream *s) {
        s->shutdown_after_drain = true;
        if (!s->closing)
                defer_schedule(&s->wake);
}

/* --- life --- */

static void stream_on_wake(Defer *defer) {
        Stream *s = container_of(defer, Stream, wake);

        stream_flush(s);
        stream_deliver_held(s);
}

static void stream_on_closed(Defer *defer) {
        Stream *s = container_of(defer, Stream, closed);

        assert(s->n_in_flight == 0);
        fd_close(steal_fd(&s->fd));
        buf_deinit(&s->queued);
        buf_deinit(&s->sending);
        buf_deinit(&s->held);
        free(steal_ptr(&s->scratch));
        s->vtable->on_closed(s);
}

void stream_init_take(Stream *s, Reactor *reactor, int fd, const StreamVtable *vtable, size_t queue_max) {
        *s = (Stream){ .vtable = vtable, .reactor = reactor, .fd = fd, .queue_max = queue_max };
        op_init(&s->recv, reactor, stream_on_recv);
        op_init(&s->send, reactor, stream_on_send);
        op_init(&s->poll, reactor, stream_on_shutdown);
        defer_init(&s->wake, reactor, stream_on_wake);
        defer_init(&s->closed, reactor, stream_on_closed);
}

void stream_close(Stream *s) {
        if (s->closing)
                return;
        s->closing = true;
        s->reading = false;
        defer_cancel(&s->wake);
        op_cancel(&s->recv);
        op_cancel(&s->send);
        op_cancel(&s->poll);
        if (s->n_in_flight == 0)
                defer_schedule(&s->closed);
}

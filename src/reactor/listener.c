#include <assert.h>

#include "base/fd.h"
#include "base/log.h"
#include "reactor/listener.h"
#include "reactor/ring.h"

#define LISTENER_RETRY_US (100 * USEC_PER_MSEC)

static void listener_arm(Listener *l) {
        if (l->closing || l->paused || l->exhausted || l->accept.in_flight)
                return;
        op_accept(&l->accept, l->fd, reactor_features(l->reactor)->multishot_accept);
}

/* Accepting failed for want of something, or for good: trying again at once would spin. */
static void listener_back_off(Listener *l, int error) {
        if (l->n_exhausted++ == 0)
                log_warning("accepting connections is suspended: %s; trying again when a connection ends or in 100 ms "
                            "(EMFILE: raise LimitNOFILE= or lower the limit of connections)", strerror(error));
        reactor_count_exhausted(l->reactor);
        l->exhausted = true;
        timer_set(&l->retry, reactor_now_us(l->reactor) + LISTENER_RETRY_US);
}

static void listener_on_accept(Op *op, int res, bool more) {
        Listener *l = container_of(op, Listener, accept);

        if (res >= 0 && l->closing)
                fd_close(res);
        else if (res >= 0) {
                l->n_accepted++;
                l->on_accept(l, res);
        } else if (!l->closing && !more)
                switch (-res) {
                case ECANCELED:
                case ECONNABORTED:
                case EINTR:
                case EAGAIN:
                case EPROTO:    /* this one connection's trouble, accept(2) */
                case EPERM:
                        break;
                default:
                        listener_back_off(l, -res);
                }
        if (more)
                return;
        if (l->closing)
                defer_schedule(&l->closed);
        else
                listener_arm(l);
}

static void listener_on_retry(Timer *timer) {
        Listener *l = container_of(timer, Listener, retry);

        l->exhausted = false;
        listener_arm(l);
}

static void listener_on_closed(Defer *defer) {
        Listener *l = container_of(defer, Listener, closed);

        assert(!l->accept.in_flight);
        fd_close(steal_fd(&l->fd));
        if (l->on_closed)
                l->on_closed(l);
}

void listener_init_take(Listener *l, Reactor *reactor, int fd, ListenerFn on_accept) {
        *l = (Listener){ .reactor = reactor, .fd = fd, .on_accept = on_accept };
        op_init(&l->accept, reactor, listener_on_accept);
        timer_init(&l->retry, reactor, listener_on_retry);
        defer_init(&l->closed, reactor, listener_on_closed);
}

void listener_start(Listener *l) {
        listener_arm(l);
}

void listener_pause(Listener *l) {
        if (l->closing || l->paused)
                return;
        l->paused = true;
        op_cancel(&l->accept);
}

void listener_resume(Listener *l) {
        l->paused = l->exhausted = false;
        timer_clear(&l->retry);
        listener_arm(l);
}

void listener_close(Listener *l, void (*on_closed)(Listener *listener)) {
        if (l->closing)
                return;
        l->closing = true;
        l->on_closed = on_closed;
        timer_clear(&l->retry);
        op_cancel(&l->accept);
        if (!l->accept.in_flight)
                defer_schedule(&l->closed);
}

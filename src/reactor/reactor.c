#include <assert.h>

#include "base/clock.h"
#include "base/error.h"
#include "reactor/ring.h"

/* Completions taken from the ring at once, and at most in one tick: timers and deferred work come in between. */
#define REACTOR_BATCH 128
#define REACTOR_BATCHES_MAX 16
/* Rounds of deferred work that schedules deferred work, in one tick. */
#define REACTOR_DEFER_ROUNDS_MAX 8
/* How soon submissions are tried again that the kernel did not take. */
#define REACTOR_BUSY_RETRY_US USEC_PER_MSEC

/* Timer.node.place of a timer that is in `unsorted`, for timer_is_set(). */
#define TIMER_UNSORTED UINT32_MAX

struct Reactor {
        Ring *ring;
        ReactorFeatures features;
        ReactorStats stats;
        Heap timers;
        List unsorted;          /* timers for which the heap could not grow */
        List pending;           /* ops to be handed to the ring, in order */
        List cancels;           /* running ops to be cancelled */
        List done;              /* ops that were cancelled while pending */
        List defers;
        size_t n_in_flight;
        uint64_t now_us;
        int exit_code;
        bool exiting;
        bool enabled;
};

static bool timer_less(const HeapNode *a, const HeapNode *b) {
        return container_of(a, Timer, node)->at_us < container_of(b, Timer, node)->at_us;
}

int reactor_new(Reactor **ret_reactor) {
        _cleanup_(reactor_freep) Reactor *reactor = calloc(1, sizeof(*reactor));
        int r;

        if (!reactor)
                return error_origin(-ENOMEM);
        reactor->timers = (Heap)HEAP_INIT(timer_less);
        list_init(&reactor->unsorted);
        list_init(&reactor->pending);
        list_init(&reactor->cancels);
        list_init(&reactor->done);
        list_init(&reactor->defers);
        r = ring_new(&reactor->ring, &reactor->features);
        if (r)
                return r > 0 ? r : error_trace(r);
        reactor->now_us = clock_monotonic_us();
        *ret_reactor = steal_ptr(&reactor);
        return 0;
}

Reactor *reactor_free(Reactor *reactor) {
        if (!reactor)
                return NULL;
        assert(reactor->n_in_flight == 0);
        assert(!heap_top(&reactor->timers) && list_is_empty(&reactor->unsorted));
        assert(list_is_empty(&reactor->defers));
        ring_free(reactor->ring);
        heap_deinit(&reactor->timers);
        free(reactor);
        return NULL;
}

int reactor_enable(Reactor *reactor) {
        int r;

        if (reactor->enabled)
                return 0;
        r = ring_enable(reactor->ring);
        if (r)
                return error_trace(r);
        reactor->enabled = reactor->features.restricted = true;
        return 0;
}

const ReactorFeatures *reactor_features(const Reactor *reactor) {
        return &reactor->features;
}

const ReactorStats *reactor_stats(const Reactor *reactor) {
        return &reactor->stats;
}

Ring *reactor_ring(Reactor *reactor) {
        return reactor->ring;
}

void reactor_count_enobufs(Reactor *reactor) {
        reactor->stats.n_enobufs++;
}

void reactor_count_exhausted(Reactor *reactor) {
        reactor->stats.n_exhausted++;
}

uint64_t reactor_now_us(const Reactor *reactor) {
        return reactor->now_us;
}

/* Hands waiting cancels and operations to the ring, as far as it has room. Cancels first: their ops are older. */
static void reactor_push(Reactor *reactor) {
        list_for_each_safe(i, &reactor->cancels) {
                if (!ring_push_cancel(reactor->ring, container_of(i, Op, ready)))
                        return;
                list_unlink(i);
                reactor->stats.n_ops++;
        }
        list_for_each_safe(i, &reactor->pending) {
                Op *op = container_of(i, Op, ready);

                if (!ring_push(reactor->ring, op))
                        return;
                list_unlink(i);
                op->state = OP_RUNNING;
                reactor->stats.n_ops++;
        }
}

static uint64_t reactor_timeout_us(Reactor *reactor, uint64_t timeout_us) {
        HeapNode *top = heap_top(&reactor->timers);
        uint64_t at_us = top ? container_of(top, Timer, node)->at_us : UINT64_MAX, now_us;

        if (!list_is_empty(&reactor->defers) || !list_is_empty(&reactor->done))
                return 0;
        list_for_each_safe(i, &reactor->unsorted)
                at_us = MIN(at_us, container_of(i, Timer, unsorted)->at_us);
        if (!list_is_empty(&reactor->pending) || !list_is_empty(&reactor->cancels))
                timeout_us = MIN(timeout_us, REACTOR_BUSY_RETRY_US);
        if (at_us == UINT64_MAX)
                return timeout_us;
        now_us = clock_monotonic_us();
        return MIN(timeout_us, at_us > now_us ? at_us - now_us : 0);
}

/* The op may be gone when this returns. */
static void reactor_call_back(Reactor *reactor, Op *op, const RingCompletion *c) {
        if (!c->more) {
                list_unlink(&op->ready);        /* a cancel that is not needed any more */
                op->state = OP_IDLE;
                op->in_flight = false;
                reactor->n_in_flight--;
        }
        op->has_buffer = c->has_buffer;
        op->buffer_id = c->buffer_id;
        op->fn(op, c->res, c->more);
        if (c->has_buffer)
                ring_buffer_return(reactor->ring, c->buffer_id);
}

static void reactor_run_completions(Reactor *reactor) {
        RingCompletion completions[REACTOR_BATCH];
        List done;
        size_t n;

        for (unsigned batch = 0; batch < REACTOR_BATCHES_MAX; batch++) {
                n = ring_reap(reactor->ring, completions, ELEMENTSOF(completions));
                for (size_t i = 0; i < n; i++)
                        reactor_call_back(reactor, completions[i].op, &completions[i]);
                reactor->stats.n_completions += n;
                if (n < ELEMENTSOF(completions))
                        break;
        }
        /* Only those that are here now: a callback may cancel again what it submits again. */
        list_init(&done);
        while (!list_is_empty(&reactor->done))
                list_link_tail(&done, list_pop(&reactor->done));
        while (!list_is_empty(&done)) {
                Op *op = container_of(list_pop(&done), Op, ready);

                reactor_call_back(reactor, op, &(RingCompletion){ .op = op, .res = -ECANCELED });
        }
}

static void timer_sort(Timer *timer) {
        Reactor *reactor = timer->reactor;

        timer->node.place = 0;
        if (heap_push(&reactor->timers, &timer->node) < 0) {
                timer->node.place = TIMER_UNSORTED;
                list_link_tail(&reactor->unsorted, &timer->unsorted);
        }
}

static void reactor_run_timers(Reactor *reactor) {
        List again;
        Timer *timer;

        list_init(&again);
        while (!list_is_empty(&reactor->unsorted))
                list_link_tail(&again, list_pop(&reactor->unsorted));
        while (!list_is_empty(&again)) {
                timer = container_of(list_pop(&again), Timer, unsorted);
                if (timer->at_us <= reactor->now_us) {
                        timer->node.place = 0;
                        timer->fn(timer);
                } else
                        timer_sort(timer);
        }
        /* At most as many as there are now: one that sets itself to the past again waits for the next tick. */
        for (size_t n = reactor->timers.n; n > 0; n--) {
                HeapNode *top = heap_top(&reactor->timers);

                timer = top ? container_of(top, Timer, node) : NULL;
                if (!timer || timer->at_us > reactor->now_us)
                        break;
                heap_remove(&reactor->timers, top);
                timer->fn(timer);
        }
}

static void reactor_run_defers(Reactor *reactor) {
        List round;

        for (unsigned n = 0; n < REACTOR_DEFER_ROUNDS_MAX && !list_is_empty(&reactor->defers); n++) {
                list_init(&round);
                while (!list_is_empty(&reactor->defers))
                        list_link_tail(&round, list_pop(&reactor->defers));
                while (!list_is_empty(&round)) {
                        Defer *defer = container_of(list_pop(&round), Defer, link);

                        defer->fn(defer);
                }
        }
}

int reactor_tick(Reactor *reactor, uint64_t timeout_us) {
        int r;

        /* A disabled ring takes nothing: submissions wait, the rest goes on. */
        if (reactor->enabled) {
                reactor_push(reactor);
                r = ring_wait(reactor->ring, reactor_timeout_us(reactor, timeout_us));
                if (r < 0)
                        return error_trace(r);
                if (r == RING_E_BUSY)
                        reactor->stats.n_busy++;
        }
        reactor->stats.n_ticks++;
        reactor->now_us = clock_monotonic_us();
        reactor_run_completions(reactor);
        reactor_run_timers(reactor);
        reactor_run_defers(reactor);
        return 0;
}

int reactor_run(Reactor *reactor) {
        int r;

        if (!reactor->enabled)
                return error_origin(-EINVAL);
        while (!reactor->exiting) {
                r = reactor_tick(reactor, UINT64_MAX);
                if (r)
                        return error_trace(r);
        }
        reactor->exiting = false;
        return reactor->exit_code;
}

void reactor_exit(Reactor *reactor, int code) {
        reactor->exiting = true;
        reactor->exit_code = code;
}

void op_init(Op *op, Reactor *reactor, OpFn fn) {
        *op = (Op){ .reactor = reactor, .fn = fn };
}

static void op_submit(Op *op, OpVerb verb, int fd, void *data, size_t n, uint64_t offset, uint32_t flags) {
        assert(!op->in_flight);
        op->verb = verb;
        op->fd = fd;
        op->data = data;
        op->n = n;
        op->offset = offset;
        op->flags = flags;
        op->state = OP_PENDING;
        op->in_flight = true;
        op->reactor->n_in_flight++;
        list_link_tail(&op->reactor->pending, &op->ready);
}

void op_poll(Op *op, int fd, uint32_t events, bool multishot) {
        op_submit(op, multishot ? OP_POLL_MULTISHOT : OP_POLL, fd, NULL, 0, 0, events);
}

void op_read(Op *op, int fd, void *data, size_t n, uint64_t offset) {
        op_submit(op, OP_READ, fd, data, n, offset, 0);
}

void op_write(Op *op, int fd, const void *data, size_t n, uint64_t offset) {
        op_submit(op, OP_WRITE, fd, (void *)data, n, offset, 0);
}

void op_send(Op *op, int fd, const void *data, size_t n) {
        op_submit(op, OP_SEND, fd, (void *)data, n, 0, MSG_NOSIGNAL);
}

void op_recv(Op *op, int fd, void *data, size_t n) {
        op_submit(op, OP_RECV, fd, data, n, 0, 0);
}

void op_recv_multishot(Op *op, int fd) {
        assert(op->reactor->features.multishot_recv);
        op_submit(op, OP_RECV_MULTISHOT, fd, NULL, 0, 0, 0);
}

void op_recvmsg(Op *op, int fd, struct msghdr *msg, int flags) {
        op_submit(op, OP_RECVMSG, fd, msg, 1, 0, (uint32_t)flags);
}

void op_sendmsg(Op *op, int fd, const struct msghdr *msg, int flags) {
        op_submit(op, OP_SENDMSG, fd, (void *)msg, 1, 0, (uint32_t)flags | MSG_NOSIGNAL);
}

void op_accept(Op *op, int fd, bool multishot) {
        op_submit(op, multishot ? OP_ACCEPT_MULTISHOT : OP_ACCEPT, fd, NULL, 0, 0, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

void op_fdatasync(Op *op, int fd) {
        op_submit(op, OP_FDATASYNC, fd, NULL, 0, 0, 0);
}

void op_shutdown(Op *op, int fd, int how) {
        op_submit(op, OP_SHUTDOWN, fd, NULL, 0, 0, (uint32_t)how);
}

const uint8_t *op_buffer(const Op *op) {
        assert(op->has_buffer);
        return ring_buffer(op->reactor->ring, op->buffer_id);
}

void op_cancel(Op *op) {
        switch (op->state) {
        case OP_PENDING:
                list_unlink(&op->ready);
                op->state = OP_DONE;
                list_link_tail(&op->reactor->done, &op->ready);
                break;
        case OP_RUNNING:
                /* Asking twice is harmless; waiting in the list already, it is asked once. */
                if (!list_is_linked(&op->ready))
                        list_link_tail(&op->reactor->cancels, &op->ready);
                break;
        case OP_IDLE:
        case OP_DONE:
                break;
        }
}

void timer_init(Timer *timer, Reactor *reactor, TimerFn fn) {
        *timer = (Timer){ .reactor = reactor, .fn = fn };
}

void timer_set(Timer *timer, uint64_t at_us) {
        timer->at_us = at_us;
        if (timer->node.place == TIMER_UNSORTED)
                return;
        if (timer->node.place)
                heap_fix(&timer->reactor->timers, &timer->node);
        else
                timer_sort(timer);
}

void timer_clear(Timer *timer) {
        if (timer->node.place == TIMER_UNSORTED) {
                list_unlink(&timer->unsorted);
                timer->node.place = 0;
        } else
                heap_remove(&timer->reactor->timers, &timer->node);
}

void defer_init(Defer *defer, Reactor *reactor, DeferFn fn) {
        *defer = (Defer){ .reactor = reactor, .fn = fn };
}

void defer_schedule(Defer *defer) {
        if (!list_is_linked(&defer->link))
                list_link_tail(&defer->reactor->defers, &defer->link);
}

void defer_cancel(Defer *defer) {
        list_unlink(&defer->link);
}

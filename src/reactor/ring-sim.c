#include <assert.h>
#include <poll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "reactor/ring-sim.h"
#include "reactor/ring.h"

/* Operations in flight in one simulation: allocated once, so that a test of failing allocations meets its own only. */
#define SIM_RUNNING_MAX 1024
#define SIM_COMPLETIONS_MAX (2 * SIM_RUNNING_MAX)
/* Completions of one multishot operation in one wait. */
#define SIM_MULTISHOT_MAX 3
#define SIM_DELAY_US 10
#define SIM_START_MONOTONIC_US (1000 * USEC_PER_SEC)
#define SIM_START_REALTIME_US (UINT64_C(1800000000) * USEC_PER_SEC)

typedef struct SimOp SimOp;

struct SimOp {
        Op *op;
        bool cancelled;
        short last_events;      /* multishot poll tells changes only */
};

struct Ring {
        RingSimOptions options;
        uint64_t random;
        bool enabled;
        SimOp running[SIM_RUNNING_MAX];
        size_t n_running;
        RingCompletion completions[SIM_COMPLETIONS_MAX];
        size_t completions_start, completions_end;
        bool lent[RING_SIM_N_BUFFERS_MAX];
        uint8_t buffers[RING_SIM_N_BUFFERS_MAX][RING_BUFFER_SIZE];
};

static RingSimOptions sim_options = { .seed = 1 };

void ring_sim_configure(const RingSimOptions *options) {
        sim_options = *options;
}

static bool sim_chance(Ring *ring, unsigned percent) {
        return percent > 0 && ring_sim_random(&ring->random, 100) < percent;
}

/* Of n bytes that could move: how many do. */
static size_t sim_short(Ring *ring, size_t n) {
        return n > 1 && sim_chance(ring, ring->options.short_percent) ? 1 + ring_sim_random(&ring->random, n) : n;
}

static void sim_advance(uint64_t us) {
        clock_freeze(clock_monotonic_us() + us, clock_realtime_us() + us);
}

int ring_new(Ring **ret_ring, ReactorFeatures *ret_features) {
        Ring *ring = calloc(1, sizeof(*ring));
        bool multishot;

        if (!ring)
                return error_origin(-ENOMEM);
        ring->options = sim_options;
        ring->random = sim_options.seed;
        if (ring->options.n_buffers == 0)
                ring->options.n_buffers = 4;
        assert(ring->options.n_buffers <= RING_SIM_N_BUFFERS_MAX);
        multishot = !ring->options.single_shot;
        clock_freeze(SIM_START_MONOTONIC_US, SIM_START_REALTIME_US);
        *ret_features = (ReactorFeatures){
                .defer_taskrun = true,
                .buffer_ring = multishot,
                .multishot_accept = multishot,
                .multishot_recv = multishot,
        };
        *ret_ring = ring;
        return 0;
}

Ring *ring_free(Ring *ring) {
        if (!ring)
                return NULL;
        assert(ring->n_running == 0);
        for (size_t i = 0; i < RING_SIM_N_BUFFERS_MAX; i++)
                assert(!ring->lent[i]);
        clock_freeze(0, 0);
        free(ring);
        return NULL;
}

int ring_enable(Ring *ring) {
        ring->enabled = true;
        return 0;
}

bool ring_push(Ring *ring, Op *op) {
        assert(ring->enabled);
        if (ring->n_running == SIM_RUNNING_MAX || sim_chance(ring, ring->options.full_percent))
                return false;
        ring->running[ring->n_running++] = (SimOp){ .op = op };
        return true;
}

bool ring_push_cancel(Ring *ring, Op *op) {
        if (sim_chance(ring, ring->options.full_percent))
                return false;
        for (size_t i = 0; i < ring->n_running; i++)
                if (ring->running[i].op == op)
                        ring->running[i].cancelled = true;
        return true;
}

/* --- trying one operation: -EAGAIN where it has to wait --- */

static int sim_result(ssize_t r) {
        return r < 0 ? -errno : (int)r;
}

static int sim_poll(int fd, uint32_t events) {
        struct pollfd p = { .fd = fd, .events = (short)events };

        if (poll(&p, 1, 0) < 0)
                return -errno;
        return p.revents & POLLNVAL ? -EBADF : p.revents ?: -EAGAIN;
}

static int sim_read_write(Ring *ring, Op *op) {
        size_t n = sim_short(ring, op->n);
        int r = sim_poll(op->fd, op->verb == OP_READ ? POLLIN : POLLOUT);

        if (r < 0)
                return r;
        if (op->verb == OP_READ)
                return sim_result(op->offset == UINT64_MAX ? read(op->fd, op->data, n) :
                                                             pread(op->fd, op->data, n, (off_t)op->offset));
        return sim_result(op->offset == UINT64_MAX ? write(op->fd, op->data, n) :
                                                     pwrite(op->fd, op->data, n, (off_t)op->offset));
}

static bool sim_reset(Ring *ring, Op *op) {
        if (ring->options.reset_permille == 0 ||
            ring_sim_random(&ring->random, 1000) >= ring->options.reset_permille)
                return false;
        (void)shutdown(op->fd, SHUT_RDWR);
        return true;
}

static int sim_recv_multishot(Ring *ring, Op *op, RingCompletion *c) {
        unsigned lent = 0, id;
        int r;

        if (sim_chance(ring, ring->options.enobufs_percent))
                return -ENOBUFS;
        for (id = 0; id < ring->options.n_buffers; id++)
                lent += ring->lent[id];
        if (lent == ring->options.n_buffers)
                return -ENOBUFS;
        do
                id = (unsigned)ring_sim_random(&ring->random, ring->options.n_buffers);
        while (ring->lent[id]);
        r = sim_result(recv(op->fd, ring->buffers[id], sim_short(ring, RING_BUFFER_SIZE), MSG_DONTWAIT));
        if (r > 0) {
                c->has_buffer = ring->lent[id] = true;
                c->buffer_id = (uint16_t)id;
        }
        return r;
}

static int sim_accept(Ring *ring, Op *op) {
        int r = sim_poll(op->fd, POLLIN);

        if (r < 0)
                return r;
        if (sim_chance(ring, ring->options.emfile_percent))
                return -EMFILE;
        return sim_result(accept4(op->fd, NULL, NULL, (int)op->flags));
}

static int sim_try(Ring *ring, Op *op, RingCompletion *c) {
        switch (op->verb) {
        case OP_POLL:
        case OP_POLL_MULTISHOT:
                return sim_poll(op->fd, op->flags);
        case OP_READ:
        case OP_WRITE:
                return sim_read_write(ring, op);
        case OP_SEND:
                if (sim_reset(ring, op))
                        return -ECONNRESET;
                return sim_result(send(op->fd, op->data, sim_short(ring, op->n), (int)op->flags | MSG_DONTWAIT));
        case OP_RECV:
                if (sim_reset(ring, op))
                        return -ECONNRESET;
                return sim_result(recv(op->fd, op->data, sim_short(ring, op->n), MSG_DONTWAIT));
        case OP_RECV_MULTISHOT:
                if (sim_reset(ring, op))
                        return -ECONNRESET;
                return sim_recv_multishot(ring, op, c);
        case OP_RECVMSG:
                return sim_result(recvmsg(op->fd, op->data, (int)op->flags | MSG_DONTWAIT));
        case OP_SENDMSG:
                return sim_result(sendmsg(op->fd, op->data, (int)op->flags | MSG_DONTWAIT));
        case OP_ACCEPT:
        case OP_ACCEPT_MULTISHOT:
                return sim_accept(ring, op);
        case OP_FDATASYNC:
                return sim_chance(ring, ring->options.sync_error_percent) ? -EIO : sim_result(fdatasync(op->fd));
        case OP_SHUTDOWN:
                return sim_result(shutdown(op->fd, (int)op->flags));
        case _OP_VERB_N:
                break;
        }
        abort();
}

/* --- waiting --- */

static bool sim_is_multishot(const Op *op) {
        return op->verb == OP_POLL_MULTISHOT || op->verb == OP_RECV_MULTISHOT || op->verb == OP_ACCEPT_MULTISHOT;
}

static bool sim_can_cancel(const Op *op) {
        return op->verb != OP_FDATASYNC;        /* a worker thread is at it */
}

static void sim_post(Ring *ring, RingCompletion c) {
        assert(ring->completions_end < SIM_COMPLETIONS_MAX);
        ring->completions[ring->completions_end++] = c;
}

/* Tries one running operation; false when its last completion is posted. */
static bool sim_run(Ring *ring, SimOp *s) {
        for (unsigned shots = 0;; shots++) {
                RingCompletion c = { .op = s->op };

                /* Half the time it gets on a little before the cancellation reaches it. */
                if (s->cancelled && sim_can_cancel(s->op) && sim_chance(ring, 50))
                        c.res = -ECANCELED;
                else if (shots == SIM_MULTISHOT_MAX)
                        return true;
                else
                        c.res = sim_try(ring, s->op, &c);
                if (s->op->verb == OP_POLL_MULTISHOT && c.res >= 0 && c.res == s->last_events)
                        return true;
                s->last_events = (short)(c.res >= 0 ? c.res : 0);
                if (c.res == -EAGAIN && !s->cancelled)
                        return true;
                if (c.res == -EAGAIN)
                        c.res = -ECANCELED;
                c.more = sim_is_multishot(s->op) && (c.res > 0 || (c.res == 0 && s->op->verb == OP_ACCEPT_MULTISHOT)) &&
                         !sim_chance(ring, ring->options.end_percent);
                sim_post(ring, c);
                if (!c.more)
                        return false;
        }
}

/* Tries all running operations in a random order; true where one was put off that might go on. */
static bool sim_run_all(Ring *ring) {
        bool delayed = false;
        size_t n = ring->n_running;

        for (size_t i = n; i > 1; i--) {
                size_t j = ring_sim_random(&ring->random, i);
                SimOp s = ring->running[i - 1];

                ring->running[i - 1] = ring->running[j];
                ring->running[j] = s;
        }
        ring->n_running = 0;
        for (size_t i = 0; i < n; i++) {
                SimOp *s = &ring->running[i];

                if (sim_chance(ring, ring->options.delay_percent)) {
                        delayed = true;
                        ring->running[ring->n_running++] = *s;
                } else if (sim_run(ring, s))
                        ring->running[ring->n_running++] = *s;
        }
        return delayed;
}

int ring_wait(Ring *ring, uint64_t timeout_us) {
        bool delayed;

        if (sim_chance(ring, ring->options.busy_percent))
                return RING_E_BUSY;
        if (ring->completions_start == ring->completions_end)
                ring->completions_start = ring->completions_end = 0;
        for (uint64_t waited_us = 0;; waited_us += SIM_DELAY_US) {
                delayed = sim_run_all(ring);
                if (ring->completions_start < ring->completions_end || waited_us >= timeout_us)
                        return 0;
                if (!delayed) {
                        if (timeout_us == UINT64_MAX)
                                return error_origin(-EDEADLK);
                        sim_advance(timeout_us - waited_us);
                        return 0;
                }
                sim_advance(MIN((uint64_t)SIM_DELAY_US, timeout_us - waited_us));
        }
}

size_t ring_reap(Ring *ring, RingCompletion *ret_completions, size_t n) {
        n = MIN(n, ring->completions_end - ring->completions_start);
        memcpy(ret_completions, &ring->completions[ring->completions_start], n * sizeof(*ret_completions));
        ring->completions_start += n;
        return n;
}

const uint8_t *ring_buffer(const Ring *ring, uint16_t buffer_id) {
        assert(ring->lent[buffer_id]);
        return ring->buffers[buffer_id];
}

void ring_buffer_return(Ring *ring, uint16_t buffer_id) {
        assert(ring->lent[buffer_id]);
        ring->lent[buffer_id] = false;
        memset(ring->buffers[buffer_id], 0xdd, RING_BUFFER_SIZE);       /* for who reads it after its callback */
}

#pragma once

/*
 * Reactor: one io_uring, one thread, completions instead of readiness.
 *
 * An Op is embedded in its owner. It is in flight from its submit call until its callback has run with
 * `more == false`; the owner counts its operations in flight and is freed only at zero (close is two-phase:
 * cancel, then wait for the last callback). Completions are reaped first and called back second, so a callback
 * may submit, cancel and free whatever has nothing in flight.
 *
 * A tick is: submit and wait → reap → callbacks → timers → deferred work (Defer). Callbacks come before timers, so
 * that what arrived in time is not timed out by a process that was stopped for a while. Work that several callbacks
 * of one tick want done once (a group commit) is a Defer.
 *
 * A submission only fills the Op and links it to a list; the tick hands the list to the ring. So a callback never
 * enters the kernel, a submission can't fail, one made before reactor_enable() simply waits, and an Op that the kernel
 * has not seen yet is cancelled without it.
 *
 * ring.c is the only file that includes liburing; ring-sim.c is its simulated twin for unit tests (seeded
 * short reads, reordering, errors; a virtual clock). Both implement the same ring.h.
 */

#include <sys/socket.h>

#include "base/buf.h"
#include "base/heap.h"
#include "base/list.h"
#include "base/macro.h"

typedef struct Defer Defer;
typedef struct Op Op;
typedef struct Reactor Reactor;
typedef struct Timer Timer;

/* res is a CQE's: negative errno or a count. more: the op stays in flight (multishot). */
typedef void (*OpFn)(Op *op, int res, bool more);
typedef void (*TimerFn)(Timer *timer);
typedef void (*DeferFn)(Defer *defer);

enum {
        _REACTOR_E_SUCCESS,
        REACTOR_E_NO_IO_URING,  /* io_uring_setup refused: disabled by sysctl, seccomp or kernel; said in the log */
};

typedef enum OpVerb {
        OP_POLL,
        OP_POLL_MULTISHOT,
        OP_READ,
        OP_WRITE,
        OP_SEND,
        OP_RECV,
        OP_RECV_MULTISHOT,      /* into the reactor's buffer ring */
        OP_RECVMSG,
        OP_SENDMSG,
        OP_ACCEPT,
        OP_ACCEPT_MULTISHOT,
        OP_FDATASYNC,
        OP_SHUTDOWN,
        _OP_VERB_N,
} OpVerb;

typedef enum OpState {
        OP_IDLE,
        OP_PENDING,             /* submitted, not in the ring yet */
        OP_RUNNING,             /* the ring has it */
        OP_DONE,                /* cancelled before the ring had it: its callback is due */
} OpState;

struct Op {
        Reactor *reactor;
        OpFn fn;
        /* The rest is the reactor's. */
        ListLink ready;         /* in its list of pending, to be cancelled, or done */
        OpState state;
        OpVerb verb;
        int fd;
        uint32_t flags;         /* poll events, message flags, how of shutdown(2) */
        void *data;             /* bytes or msghdr */
        size_t n;
        uint64_t offset;
        bool in_flight;
        bool has_buffer;        /* during a callback: buffer_id holds the received bytes, see op_buffer() */
        uint16_t buffer_id;
};

struct Timer {
        HeapNode node;
        Reactor *reactor;
        TimerFn fn;
        uint64_t at_us;         /* CLOCK_MONOTONIC */
        ListLink unsorted;      /* reactor's: set while the heap could not grow for want of memory */
};

struct Defer {
        ListLink link;
        Reactor *reactor;
        DeferFn fn;
};

/* What the kernel gave: for the log, `doctor` and tests. */
typedef struct ReactorFeatures {
        bool defer_taskrun;     /* SINGLE_ISSUER|DEFER_TASKRUN, 6.1 */
        bool buffer_ring;       /* IORING_REGISTER_PBUF_RING, 5.19 */
        bool multishot_accept;  /* 5.19 */
        bool multishot_recv;    /* 6.0 */
        bool restricted;        /* reactor_enable() has locked the ring's operations */
} ReactorFeatures;

/* Counters since reactor_new(). */
typedef struct ReactorStats {
        uint64_t n_ticks;
        uint64_t n_ops;         /* handed to the ring, cancels included */
        uint64_t n_completions;
        uint64_t n_enobufs;     /* multishot receives that found the buffer ring empty (normal; re-armed) */
        uint64_t n_exhausted;   /* accepts that found no descriptor or memory */
        uint64_t n_busy;        /* the kernel refused to take submissions for now (EAGAIN, EBUSY) */
} ReactorStats;

/* The ring starts disabled (IORING_SETUP_R_DISABLED); submissions queue up until reactor_enable(). */
int reactor_new(Reactor **ret_reactor) _must_check_;
/* Everything must be closed; asserts that no op is in flight and no timer is set. NULL is fine. */
Reactor *reactor_free(Reactor *reactor);
DEFINE_CLEANUP(Reactor, reactor_free);

/*
 * Registers the allow-list of operations (IORING_REGISTER_RESTRICTIONS) and enables the ring. After it, an
 * operation outside the list fails with -EACCES in the kernel, whoever submits it.
 */
int reactor_enable(Reactor *reactor) _must_check_;
const ReactorFeatures *reactor_features(const Reactor *reactor);
const ReactorStats *reactor_stats(const Reactor *reactor);

/* Runs until reactor_exit(); returns its code, or a negative errno when the ring fails. */
int reactor_run(Reactor *reactor) _must_check_;
/* Runs one tick; waits at most timeout_us (UINT64_MAX: until something happens). For tests. */
int reactor_tick(Reactor *reactor, uint64_t timeout_us) _must_check_;
void reactor_exit(Reactor *reactor, int code);
/* The tick's time, read once a tick (CLOCK_MONOTONIC, µs). */
uint64_t reactor_now_us(const Reactor *reactor);

/*
 * Single operations. `op` must not be in flight. They never fail at once for want of queue space: what the ring has
 * no room for waits in the reactor. Buffers and msghdrs stay the caller's and must live until the callback.
 */
void op_init(Op *op, Reactor *reactor, OpFn fn);
void op_poll(Op *op, int fd, uint32_t events, bool multishot);          /* poll(2) events; pidfds, sd-bus */
void op_read(Op *op, int fd, void *data, size_t n, uint64_t offset);    /* offset UINT64_MAX: current */
void op_write(Op *op, int fd, const void *data, size_t n, uint64_t offset);
void op_send(Op *op, int fd, const void *data, size_t n);               /* MSG_NOSIGNAL */
void op_recv(Op *op, int fd, void *data, size_t n);
void op_recv_multishot(Op *op, int fd);                                 /* where features.multishot_recv; op_buffer() */
/* res is a new CLOEXEC, non-blocking descriptor */
void op_accept(Op *op, int fd, bool multishot);
void op_recvmsg(Op *op, int fd, struct msghdr *msg, int flags);
void op_sendmsg(Op *op, int fd, const struct msghdr *msg, int flags);
void op_fdatasync(Op *op, int fd);                                      /* IORING_FSYNC_DATASYNC */
void op_shutdown(Op *op, int fd, int how);
/* The bytes that a multishot receive's callback was called for (its res of them); valid during the callback only. */
const uint8_t *op_buffer(const Op *op);
/* Asks the kernel to cancel; the callback still comes (usually -ECANCELED). No-op when not in flight. */
void op_cancel(Op *op);

void timer_init(Timer *timer, Reactor *reactor, TimerFn fn);
void timer_set(Timer *timer, uint64_t at_us);           /* absolute, CLOCK_MONOTONIC; moves a set timer */
void timer_clear(Timer *timer);                         /* no-op when not set */
static inline bool timer_is_set(const Timer *timer) {
        return heap_contains(&timer->node);
}

void defer_init(Defer *defer, Reactor *reactor, DeferFn fn);
/*
 * Runs once at the end of this tick; scheduled by a Defer, in a further round of the same tick (bounded), or the next.
 */
void defer_schedule(Defer *defer);
void defer_cancel(Defer *defer);

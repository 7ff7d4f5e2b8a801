#pragma once

/*
 * loop: the launcher's epoll loop, level-triggered and single-threaded. A LoopSource is embedded in its owner, which
 * outlives its registration; a source that is removed while a batch of events is being handled is not called any more
 * in that batch. Timers are one heap, served between batches.
 */

#include <sys/epoll.h>

#include "base/heap.h"
#include "base/macro.h"

/* Events taken from the kernel at once: enough for fairness, small enough for the stack. */
#define LOOP_BATCH 32

typedef struct Loop Loop;
typedef struct LoopSource LoopSource;
typedef struct LoopTimer LoopTimer;

struct LoopSource {
        int fd;                 /* -1: not registered; the descriptor stays the owner's */
        uint32_t events;
        void (*on_ready)(LoopSource *source, uint32_t events);
};

struct LoopTimer {
        HeapNode node;
        uint64_t at_us;         /* CLOCK_MONOTONIC */
        void (*on_timer)(LoopTimer *timer);
};

struct Loop {
        int epoll_fd;
        Heap timers;
        struct epoll_event batch[LOOP_BATCH];
        int n_batch;
        bool stopped;
};

#define LOOP_SOURCE_NULL { .fd = -1 }

int loop_init(Loop *loop) _must_check_;
void loop_deinit(Loop *loop);
/* -errno of epoll_ctl(2). */
int loop_add(Loop *loop, LoopSource *source, int fd, uint32_t events) _must_check_;
int loop_modify(Loop *loop, LoopSource *source, uint32_t events) _must_check_;
/* No-op for a source that is not registered. Comes before the close of the descriptor. */
void loop_remove(Loop *loop, LoopSource *source);
/* Arms or moves a timer. -ENOMEM. */
int loop_timer_set(Loop *loop, LoopTimer *timer, uint64_t at_us) _must_check_;
void loop_timer_clear(Loop *loop, LoopTimer *timer);
/* Runs until loop_stop(). -errno of epoll_wait(2). */
int loop_run(Loop *loop) _must_check_;
void loop_stop(Loop *loop);

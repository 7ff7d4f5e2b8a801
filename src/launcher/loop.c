#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "launcher/loop.h"

static bool loop_timer_less(const HeapNode *a, const HeapNode *b) {
        return container_of(a, LoopTimer, node)->at_us < container_of(b, LoopTimer, node)->at_us;
}

int loop_init(Loop *loop) {
        *loop = (Loop){ .epoll_fd = epoll_create1(EPOLL_CLOEXEC), .timers = HEAP_INIT(loop_timer_less) };
        if (loop->epoll_fd < 0)
                return error_origin(-errno);
        return 0;
}

void loop_deinit(Loop *loop) {
        fd_close(loop->epoll_fd);
        loop->epoll_fd = -1;
        heap_deinit(&loop->timers);
}

int loop_add(Loop *loop, LoopSource *source, int fd, uint32_t events) {
        struct epoll_event e = { .events = events, .data.ptr = source };

        if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0)
                return error_origin(-errno);
        source->fd = fd;
        source->events = events;
        return 0;
}

int loop_modify(Loop *loop, LoopSource *source, uint32_t events) {
        struct epoll_event e = { .events = events, .data.ptr = source };

        if (source->events == events)
                return 0;
        if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &e) < 0)
                return error_origin(-errno);
        source->events = events;
        return 0;
}

void loop_remove(Loop *loop, LoopSource *source) {
        if (source->fd < 0)
                return;
        (void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
        source->fd = -1;
        for (int i = 0; i < loop->n_batch; i++)
                if (loop->batch[i].data.ptr == source)
                        loop->batch[i].data.ptr = NULL;
}

int loop_timer_set(Loop *loop, LoopTimer *timer, uint64_t at_us) {
        timer->at_us = at_us;
        if (heap_contains(&timer->node)) {
                heap_fix(&loop->timers, &timer->node);
                return 0;
        }
        return error_trace(heap_push(&loop->timers, &timer->node));
}

void loop_timer_clear(Loop *loop, LoopTimer *timer) {
        heap_remove(&loop->timers, &timer->node);
}

static int loop_timeout_ms(const Loop *loop) {
        HeapNode *top = heap_top(&loop->timers);
        uint64_t now = clock_monotonic_us(), at;

        if (!top)
                return -1;
        at = container_of(top, LoopTimer, node)->at_us;
        /* Rounded up, so that the loop does not spin in the last millisecond. */
        return at <= now ? 0 : (int)MIN((at - now + USEC_PER_MSEC - 1) / USEC_PER_MSEC, UINT64_C(3600000));
}

static void loop_serve_timers(Loop *loop) {
        HeapNode *top;

        while ((top = heap_top(&loop->timers))) {
                LoopTimer *timer = container_of(top, LoopTimer, node);

                if (timer->at_us > clock_monotonic_us())
                        return;
                heap_remove(&loop->timers, &timer->node);
                timer->on_timer(timer);
        }
}

int loop_run(Loop *loop) {
        while (!loop->stopped) {
                int n = epoll_wait(loop->epoll_fd, loop->batch, LOOP_BATCH, loop_timeout_ms(loop));

                if (n < 0 && errno != EINTR)
                        return error_origin(-errno);
                loop->n_batch = MAX(n, 0);
                for (int i = 0; i < loop->n_batch; i++) {
                        LoopSource *source = loop->batch[i].data.ptr;

                        if (source)
                                source->on_ready(source, loop->batch[i].events);
                }
                loop->n_batch = 0;
                loop_serve_timers(loop);
        }
        return 0;
}

void loop_stop(Loop *loop) {
        loop->stopped = true;
}

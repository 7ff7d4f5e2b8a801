#pragma once

/* What the tests of this layer share: cmocka's order of includes, a ring, and a reactor or a skip with its reason. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "reactor/reactor.h"
#include "reactor/ring-sim.h"
#include "reactor/ring.h"

/* The same tests run over the real ring and over its twin. */
#ifndef TEST_SIM
#define TEST_SIM 0
#endif

static inline void test_configure(const RingSimOptions *options) {
#if TEST_SIM
        ring_sim_configure(options);
#else
        bool modern = !options->single_shot;

        ring_limit_features(&(ReactorFeatures){ modern, modern, modern, modern, true });
#endif
}

/* Enabled; skips the test where this machine refuses io_uring (the log says why). */
static inline Reactor *test_reactor_new(bool enable) {
        Reactor *reactor = NULL;
        int r = reactor_new(&reactor);

        if (r == REACTOR_E_NO_IO_URING) {
                print_message("# skipped: io_uring is refused on this machine\n");
                skip();
        }
        assert_int_equal(r, 0);
        if (enable)
                assert_int_equal(reactor_enable(reactor), 0);
        return reactor;
}

/* Ticks until the condition holds; the ring's own waiting is the only waiting. Ten seconds without it: failure. */
#define test_run_until(reactor, condition)                                                      \
        do {                                                                                    \
                uint64_t _start_us = reactor_now_us(reactor);                                   \
                while (!(condition)) {                                                          \
                        assert_int_equal(reactor_tick(reactor, 100 * USEC_PER_MSEC), 0);        \
                        assert_true(reactor_now_us(reactor) < _start_us + 10 * USEC_PER_SEC);   \
                }                                                                               \
        } while (0)

/* The twin itself: its clock, its errors, and that a seed repeats a run. */

#include "reactor/test-util.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "reactor/ring-sim.h"
#include "reactor/stream.h"

static unsigned n_fired;

static void on_timer(Timer *timer) {
        n_fired++;
}

static void test_clock(void **state) {
        _cleanup_(reactor_freep) Reactor *reactor = NULL;
        uint64_t start_us, real_us;
        Timer timer;

        ring_sim_configure(&(RingSimOptions){ .seed = 1 });
        reactor = test_reactor_new(true);
        start_us = reactor_now_us(reactor);
        real_us = clock_realtime_us();
        assert_int_equal(reactor_tick(reactor, 5), 0);
        assert_int_equal(reactor_now_us(reactor), start_us + 5);
        timer_init(&timer, reactor, on_timer);
        timer_set(&timer, start_us + 3600 * USEC_PER_SEC);
        n_fired = 0;
        assert_int_equal(reactor_tick(reactor, USEC_PER_SEC), 0);
        assert_int_equal(n_fired, 0);
        assert_int_equal(reactor_tick(reactor, UINT64_MAX), 0);
        assert_int_equal(n_fired, 1);
        assert_int_equal(reactor_now_us(reactor), start_us + 3600 * USEC_PER_SEC);
        assert_int_equal(clock_realtime_us(), real_us + 3600 * USEC_PER_SEC);
        /* Nothing can ever happen. */
        assert_int_equal(reactor_tick(reactor, UINT64_MAX), -EDEADLK);
        reactor = reactor_free(reactor);
        assert_true(clock_monotonic_us() != start_us + 3600 * USEC_PER_SEC);
}

typedef struct TestOp {
        Op op;
        int res;
        unsigned n;
} TestOp;

static void on_op(Op *op, int res, bool more) {
        TestOp *t = container_of(op, TestOp, op);

        t->res = res;
        t->n += !more;
}

static void test_errors(void **state) {
        _cleanup_(reactor_freep) Reactor *reactor = NULL;
        unsigned n_failed = 0;
        int fds[2], fd;
        char data[100];
        TestOp t = {};

        ring_sim_configure(&(RingSimOptions){ .seed = 2, .sync_error_percent = 50, .reset_permille = 1000 });
        reactor = test_reactor_new(true);
        op_init(&t.op, reactor, on_op);
        fd = memfd_create("test", MFD_CLOEXEC);
        for (unsigned i = 1; i <= 100; i++) {
                op_fdatasync(&t.op, fd);
                test_run_until(reactor, t.n == i);
                assert_true(t.res == 0 || t.res == -EIO);
                n_failed += t.res < 0;
        }
        assert_in_range(n_failed, 20, 80);
        close(fd);
        /* A reset is one for both ends. */
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        op_recv(&t.op, fds[0], data, sizeof(data));
        test_run_until(reactor, t.n == 101);
        assert_int_equal(t.res, -ECONNRESET);
        assert_int_equal(read(fds[1], data, sizeof(data)), 0);
        close(fds[0]);
        close(fds[1]);
}

/* A cancelled read may still come through: both happen, and neither loses a byte. */
static void test_cancel_races(void **state) {
        unsigned n_read = 0, n_cancelled = 0;

        for (uint64_t seed = 0; seed < 200; seed++) {
                _cleanup_(reactor_freep) Reactor *reactor = NULL;
                char data[10] = {};
                TestOp t = {};
                int fds[2];

                ring_sim_configure(&(RingSimOptions){ .seed = seed, .delay_percent = 50 });
                reactor = test_reactor_new(true);
                assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
                op_init(&t.op, reactor, on_op);
                op_recv(&t.op, fds[0], data, sizeof(data));
                assert_int_equal(reactor_tick(reactor, 0), 0);
                assert_int_equal(write(fds[1], "late", 4), 4);
                op_cancel(&t.op);
                test_run_until(reactor, t.n == 1);
                assert_true(t.res == 4 || t.res == -ECANCELED);
                *(t.res == 4 ? &n_read : &n_cancelled) += 1;
                assert_int_equal(recv(fds[0], data, sizeof(data), MSG_DONTWAIT), t.res == 4 ? -1 : 4);
                close(fds[0]);
                close(fds[1]);
        }
        assert_true(n_read > 20);
        assert_true(n_cancelled > 20);
}

/* The trace of an echo: the sizes in which the bytes come. */
typedef struct Trace {
        Stream stream;
        uint64_t hash;
        size_t n;
        bool closed;
} Trace;

static void trace_on_bytes(Stream *stream, const uint8_t *data, size_t n) {
        Trace *t = container_of(stream, Trace, stream);

        t->hash = (t->hash ^ n ^ reactor_now_us(stream->reactor)) * UINT64_C(0x100000001b3);
        t->n += n;
}

static void trace_on_drain(Stream *stream) {
}

static void trace_on_error(Stream *stream, int error) {
        fail_msg("%s", strerror(-error));
}

static void trace_on_closed(Stream *stream) {
        container_of(stream, Trace, stream)->closed = true;
}

static const StreamVtable trace_vtable = { trace_on_bytes, trace_on_drain, trace_on_error, trace_on_closed };

static uint64_t trace_run(uint64_t seed) {
        _cleanup_(reactor_freep) Reactor *reactor = NULL;
        static const uint8_t data[20000];
        Trace a = {}, b = {};
        int fds[2];

        ring_sim_configure(&(RingSimOptions)RING_SIM_LIVELY(seed));
        reactor = test_reactor_new(true);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        stream_init_take(&a.stream, reactor, fds[0], &trace_vtable, 0);
        stream_init_take(&b.stream, reactor, fds[1], &trace_vtable, 0);
        stream_resume(&b.stream);
        assert_int_equal(stream_send(&a.stream, data, sizeof(data)), 0);
        test_run_until(reactor, b.n == sizeof(data));
        stream_close(&a.stream);
        stream_close(&b.stream);
        test_run_until(reactor, a.closed && b.closed);
        return b.hash;
}

static void test_seed_repeats(void **state) {
        for (uint64_t seed = 0; seed < 50; seed++) {
                assert_int_equal(trace_run(seed), trace_run(seed));
                assert_int_not_equal(trace_run(seed), trace_run(seed + 1));
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_clock),
                cmocka_unit_test(test_errors),
                cmocka_unit_test(test_cancel_races),
                cmocka_unit_test(test_seed_repeats),
        };

        return cmocka_run_group_tests_name("ring-sim", tests, NULL, NULL);
}

/*
 * Every allocation fails once: a fixed run of streams, packets and timers is repeated, the Nth allocation of the Nth
 * run fails. Each run ends with an error that somebody was told of, without a leak, a hang or a lost byte before it.
 * Linked with --wrap for the allocating functions.
 */

#include "reactor/test-util.h"

#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "reactor/packet.h"
#include "reactor/stream.h"

#define N_TIMERS 40             /* more than the heap's first allocation holds */

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_reallocarray(void *p, size_t n, size_t size);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_reallocarray(void *p, size_t n, size_t size);

static unsigned long n_allocations, fail_at;

static bool must_fail(void) {
        if (fail_at == 0 || ++n_allocations != fail_at)
                return false;
        errno = ENOMEM;
        return true;
}

void *__wrap_malloc(size_t n) {
        return must_fail() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size) {
        return must_fail() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n) {
        return must_fail() ? NULL : __real_realloc(p, n);
}

void *__wrap_reallocarray(void *p, size_t n, size_t size) {
        return must_fail() ? NULL : __real_reallocarray(p, n, size);
}

/* --- streams: what is sent comes back over an echo, in bursts that meet a paused reader --- */

typedef struct FaultStream {
        Stream stream;
        bool echo;
        size_t n_received;
        int error;
        bool ended, closed;
} FaultStream;

static void fault_on_bytes(Stream *stream, const uint8_t *data, size_t n) {
        FaultStream *f = container_of(stream, FaultStream, stream);
        int r;

        f->ended = n == 0;
        for (size_t i = 0; i < n; i++)
                assert_int_equal(data[i], (uint8_t)(f->n_received + i));
        f->n_received += n;
        if (!f->echo || f->error)
                return;
        if (n == 0)
                stream_shutdown_write(stream);
        else {
                r = stream_send(stream, data, n);
                if (r)
                        f->error = r;
        }
}

static void fault_on_drain(Stream *stream) {
}

static void fault_on_error(Stream *stream, int error) {
        container_of(stream, FaultStream, stream)->error = error;
}

static void fault_on_closed(Stream *stream) {
        container_of(stream, FaultStream, stream)->closed = true;
}

static const StreamVtable fault_vtable = { fault_on_bytes, fault_on_drain, fault_on_error, fault_on_closed };

/* Returns whether everything arrived; otherwise somebody was told. */
static bool fault_streams_run(Reactor *reactor) {
        enum { N = 20000, PIECE = 700 };
        FaultStream a = {}, b = { .echo = true };
        uint8_t data[N];
        size_t sent = 0;
        int fds[2], r;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        stream_init_take(&a.stream, reactor, fds[0], &fault_vtable, 0);
        stream_init_take(&b.stream, reactor, fds[1], &fault_vtable, 0);
        stream_resume(&a.stream);
        stream_resume(&b.stream);
        for (size_t i = 0; i < N; i++)
                data[i] = (uint8_t)i;
        for (unsigned tick = 0; !a.ended && !a.error && !b.error; tick++) {
                size_t n = MIN((size_t)PIECE, N - sent);

                assert_true(tick < 10000);
                /* A pause while bytes are under way makes the stream hold them. */
                if (tick % 3 == 0)
                        stream_pause(&a.stream);
                if (tick % 3 == 2)
                        stream_resume(&a.stream);
                if (n > 0) {
                        size_t queued = stream_queued(&a.stream);

                        r = stream_send(&a.stream, data + sent, n);
                        if (r == 0)
                                sent += n;
                        else {
                                assert_int_equal(r, -ENOMEM);
                                assert_int_equal(stream_queued(&a.stream), queued);
                                a.error = r;
                        }
                        if (sent == N)
                                stream_shutdown_write(&a.stream);
                }
                assert_int_equal(reactor_tick(reactor, 0), 0);
        }
        stream_close(&a.stream);
        stream_close(&b.stream);
        test_run_until(reactor, a.closed && b.closed);
        assert_true(!a.error || a.error == -ENOMEM);
        assert_true(!b.error || b.error == -ENOMEM);
        if (a.error || b.error)
                return false;
        assert_int_equal(a.n_received, N);
        return true;
}

/* --- packets --- */

static size_t n_packets;
static bool packet_closed;

static void fault_on_packet(PacketSocket *socket, const uint8_t *data, size_t n, int *fds, size_t n_fds) {
        n_packets += n == 3 && n_fds == 1;
}

static void fault_packet_on_error(PacketSocket *socket, int error) {
        fail_msg("%s", strerror(-error));
}

static void fault_packet_on_closed(PacketSocket *socket) {
        packet_closed = true;
}

static bool fault_packets_run(Reactor *reactor) {
        PacketSocket sockets[2];
        bool complete = false;
        size_t n_sent = 0;
        int fds[2], fd, r;

        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
        for (size_t i = 0; i < 2; i++) {
                r = packet_init_take(&sockets[i], reactor, fds[i], 0);
                if (r) {
                        assert_int_equal(r, -ENOMEM);
                        close(fds[i]);
                        if (i == 0)
                                close(fds[1]);
                        else
                                goto close;
                        return false;
                }
                sockets[i].on_packet = fault_on_packet;
                sockets[i].on_drain = NULL;
                sockets[i].on_error = fault_packet_on_error;
                sockets[i].on_closed = fault_packet_on_closed;
        }
        n_packets = 0;
        packet_start(&sockets[1]);
        for (; n_sent < 3; n_sent++) {
                fd = dup(0);
                r = packet_send(&sockets[0], "abc", 3, &fd, 1);
                if (r) {
                        assert_int_equal(r, -ENOMEM);
                        assert_int_equal(close(fd), 0); /* still ours */
                        break;
                }
        }
        test_run_until(reactor, n_packets == n_sent);
        complete = n_sent == 3;
        packet_closed = false;
        packet_close(&sockets[1]);
        test_run_until(reactor, packet_closed);
close:
        packet_closed = false;
        packet_close(&sockets[0]);
        test_run_until(reactor, packet_closed);
        return complete;
}

/* --- timers: they go on without memory --- */

static unsigned n_fired;

static void fault_timer_fn(Timer *timer) {
        assert_true(timer->at_us <= reactor_now_us(timer->reactor));
        n_fired++;
}

static bool fault_timers_run(Reactor *reactor) {
        Timer timers[N_TIMERS];

        n_fired = 0;
        for (size_t i = 0; i < N_TIMERS; i++) {
                timer_init(&timers[i], reactor, fault_timer_fn);
                timer_set(&timers[i], reactor_now_us(reactor) + (i * 7 % N_TIMERS + 1) * USEC_PER_MSEC);
                assert_true(timer_is_set(&timers[i]));
        }
        timer_clear(&timers[0]);
        timer_clear(&timers[N_TIMERS - 1]);
        timer_set(&timers[1], reactor_now_us(reactor) + 1);
        assert_false(timer_is_set(&timers[N_TIMERS - 1]));
        for (unsigned tick = 0; n_fired < N_TIMERS - 2; tick++) {
                assert_true(tick < 1000);
                assert_int_equal(reactor_tick(reactor, USEC_PER_SEC), 0);
        }
        for (size_t i = 0; i < N_TIMERS; i++)
                assert_false(timer_is_set(&timers[i]));
        return true;
}

static unsigned test_nth_allocation(const RingSimOptions *options, bool (*run)(Reactor *reactor)) {
        unsigned n_incomplete = 0;

        for (unsigned long n = 1;; n++) {
                _cleanup_(reactor_freep) Reactor *reactor = NULL;
                bool complete;

                assert_true(n < 10000);
                test_configure(options);
                reactor = test_reactor_new(true);
                n_allocations = 0;
                fail_at = n;
                complete = run(reactor);
                fail_at = 0;
                n_incomplete += !complete;
                if (n_allocations < n) {
                        assert_true(complete);
                        return n_incomplete;
                }
        }
}

static void test_streams(void **state) {
        for (uint64_t seed = 0; seed < 20; seed++) {
                RingSimOptions options = RING_SIM_LIVELY(seed);

                options.single_shot = seed % 2;
                assert_true(test_nth_allocation(&options, fault_streams_run) > 0);
        }
}

static void test_packets(void **state) {
        RingSimOptions options = RING_SIM_LIVELY(1);

        assert_int_equal(test_nth_allocation(&options, fault_packets_run), 5);
}

static void test_timers(void **state) {
        assert_int_equal(test_nth_allocation(&(RingSimOptions){ .seed = 1 }, fault_timers_run), 0);
}

static void test_reactor(void **state) {
        Reactor *reactor = NULL;
        unsigned n = 0;

        do {
                n_allocations = 0;
                fail_at = ++n;
        } while (reactor_new(&reactor) == -ENOMEM);
        fail_at = 0;
        assert_true(n > 2);
        reactor_free(reactor);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_reactor),
                cmocka_unit_test(test_timers),
                cmocka_unit_test(test_streams),
                cmocka_unit_test(test_packets),
        };

        log_open("test-fault");
        return cmocka_run_group_tests_name("fault", tests, NULL, NULL);
}

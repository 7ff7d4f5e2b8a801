/*
 * Streams. Two streams are the ends of one connection; a seed decides the ring's behaviour and what
 * both owners do: send in pieces, pause, resume, shut down, close, from within callbacks and between ticks.
 */

#include "reactor/test-util.h"

#include <netinet/in.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "reactor/stream.h"

#define N_SEEDS (TEST_SIM ? 2000 : 100)

typedef struct End End;

struct End {
        Stream stream;
        End *peer;
        uint64_t *random;
        uint64_t key;           /* of the bytes that this end sends */
        size_t to_send;
        size_t sent;            /* accepted by stream_send */
        size_t received;
        bool may_close, may_pause;
        bool paused, in_call, shut, ended, failed, closing, closed;
        unsigned n_drained;
};

static uint8_t end_byte(uint64_t key, size_t i) {
        uint64_t v = (key + i) * UINT64_C(0x9e3779b97f4a7c15);

        return (uint8_t)(v >> 56);
}

static bool chance(End *e, unsigned percent) {
        return ring_sim_random(e->random, 100) < percent;
}

static void end_close(End *e) {
        e->closing = true;
        e->in_call = true;
        stream_close(&e->stream);
        e->in_call = false;
}

static void end_send(End *e) {
        uint8_t data[9000];
        size_t n = MIN(e->to_send - e->sent, 1 + ring_sim_random(e->random, chance(e, 20) ? sizeof(data) : 100));
        Buf b = BUF_NULL;
        int r;

        for (size_t i = 0; i < n; i++)
                data[i] = end_byte(e->key, e->sent + i);
        e->in_call = true;
        if (chance(e, 50))
                r = stream_send(&e->stream, data, n);
        else {
                assert_int_equal(buf_append(&b, data, n), 0);
                r = stream_send_buf(&e->stream, &b);
                assert_int_equal(buf_size(&b), r ? n : 0);
                buf_deinit(&b);
        }
        e->in_call = false;
        if (r == -EPIPE)
                assert_true(e->failed);
        else if (r == BUF_E_FULL)
                assert_true(stream_queued(&e->stream) + n > 20000);
        else {
                assert_int_equal(r, 0);
                e->sent += n;
        }
}

/* One random step of an owner. */
static void end_step(End *e) {
        if (e->closing)
                return;
        e->in_call = true;
        if (e->may_pause && chance(e, 20)) {
                e->paused = true;
                stream_pause(&e->stream);
        }
        if (e->paused && chance(e, 30)) {
                e->paused = false;
                stream_resume(&e->stream);
        }
        e->in_call = false;
        if (e->sent < e->to_send && !e->failed && chance(e, 40))
                end_send(e);
        if (e->sent == e->to_send && !e->shut && chance(e, 50)) {
                e->shut = true;
                stream_shutdown_write(&e->stream);
        }
        if (e->may_close && chance(e, 1))
                end_close(e);
}

static void end_check_called(End *e) {
        assert_false(e->in_call);
        assert_false(e->closing);
}

static void end_on_bytes(Stream *stream, const uint8_t *data, size_t n) {
        End *e = container_of(stream, End, stream);

        end_check_called(e);
        assert_false(e->paused);
        assert_false(e->ended);
        e->ended = n == 0;
        for (size_t i = 0; i < n; i++)
                if (data[i] != end_byte(e->peer->key, e->received + i))
                        fail_msg("byte %zu of %zu is wrong", e->received + i, e->peer->sent);
        e->received += n;
        assert_true(e->received <= e->peer->sent);
        if (chance(e, 50))
                end_step(e);
}

static void end_on_drain(Stream *stream) {
        End *e = container_of(stream, End, stream);

        end_check_called(e);
        assert_int_equal(stream_queued(stream), 0);
        e->n_drained++;
        if (chance(e, 50))
                end_step(e);
}

static void end_on_error(Stream *stream, int error) {
        End *e = container_of(stream, End, stream);

        end_check_called(e);
        assert_true(error < 0);
        e->failed = true;
        if (chance(e, 50))
                end_close(e);
}

static void end_on_closed(Stream *stream) {
        End *e = container_of(stream, End, stream);

        assert_false(e->in_call);
        assert_true(e->closing);
        assert_false(e->closed);
        e->closed = true;
        memset(&e->stream, 0xdd, sizeof(e->stream));    /* the owner's again */
}

static const StreamVtable end_vtable = { end_on_bytes, end_on_drain, end_on_error, end_on_closed };

static End *end_new(Reactor *reactor, int fd, uint64_t *random) {
        End *e = calloc(1, sizeof(*e));

        assert_non_null(e);
        *e = (End){ .random = random, .key = *random, .to_send = ring_sim_random(random, 60000) };
        stream_init_take(&e->stream, reactor, fd, &end_vtable, 20000);
        return e;
}

static void test_tcp_pair(int ret_fds[2]) {
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        socklen_t n = sizeof(address);

        assert_int_equal(bind(fd, (struct sockaddr *)&address, n), 0);
        assert_int_equal(listen(fd, 1), 0);
        assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &n), 0);
        ret_fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(ret_fds[0], (struct sockaddr *)&address, n), 0);
        ret_fds[1] = accept4(fd, NULL, NULL, SOCK_CLOEXEC | (ret_fds[0] % 2 ? SOCK_NONBLOCK : 0));
        assert_true(ret_fds[1] >= 0);
}

/* Both ends until everything has arrived, or both are closed. */
static void test_traffic(uint64_t seed, RingSimOptions options, bool may_close) {
        _cleanup_(reactor_freep) Reactor *reactor = NULL;
        uint64_t random = seed * 2 + 1;
        End *ends[2];
        int fds[2];

        options.single_shot = seed % 4 == 3;
        options.n_buffers = 1 + (unsigned)(seed % 5);
        test_configure(&options);
        reactor = test_reactor_new(seed % 3 > 0);
        if (!TEST_SIM && seed % 2)      /* the kernel's TCP has a time of its own, which a seed can't repeat */
                test_tcp_pair(fds);
        else
                assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        for (size_t i = 0; i < 2; i++) {
                ends[i] = end_new(reactor, fds[i], &random);
                ends[i]->may_pause = ring_sim_random(&random, 3) > 0;
                ends[i]->may_close = may_close;
        }
        for (size_t i = 0; i < 2; i++) {
                ends[i]->peer = ends[1 - i];
                stream_resume(&ends[i]->stream);
        }
        for (unsigned tick = 0;; tick++) {
                bool done = true;

                if (tick == 3)
                        assert_int_equal(reactor_enable(reactor), 0);
                for (size_t i = 0; i < 2; i++) {
                        end_step(ends[i]);
                        done = done && (ends[i]->ended || ends[i]->failed || ends[i]->closing);
                }
                if (done)
                        break;
                assert_true(tick < 100000);
                assert_int_equal(reactor_tick(reactor, TEST_SIM ? 0 : tick % 2 * USEC_PER_MSEC), 0);
        }
        for (size_t i = 0; i < 2; i++) {
                End *e = ends[i];

                if (!may_close && (!options.reset_permille || !TEST_SIM)) {
                        assert_int_equal(e->received, e->peer->to_send);
                        assert_true(e->to_send == 0 || e->n_drained > 0);
                        assert_false(e->failed);
                }
                if (!e->closing) {
                        end_close(e);
                        end_close(e);
                }
        }
        for (unsigned tick = 0; !ends[0]->closed || !ends[1]->closed; tick++) {
                assert_true(tick < 1000);
                assert_int_equal(reactor_tick(reactor, TEST_SIM ? 0 : USEC_PER_MSEC), 0);
        }
        for (size_t i = 0; i < 2; i++)
                free(ends[i]);
}

static void test_every_byte_once(void **state) {
        for (uint64_t seed = 0; seed < N_SEEDS; seed++)
                test_traffic(seed, (RingSimOptions)RING_SIM_LIVELY(seed), false);
}

static void test_quiet_ring(void **state) {
        for (uint64_t seed = 0; seed < N_SEEDS / 10; seed++)
                test_traffic(seed, (RingSimOptions){ .seed = seed }, false);
}

static void test_close_anywhere(void **state) {
        for (uint64_t seed = 0; seed < N_SEEDS; seed++)
                test_traffic(seed, (RingSimOptions)RING_SIM_LIVELY(seed), true);
}

static void test_shutdown_after_drain(void **state) {
        test_configure(&(RingSimOptions){ .seed = 1 });
        _cleanup_(reactor_freep) Reactor *reactor = test_reactor_new(true);
        uint64_t random = 1;
        uint8_t data[16];
        int fds[2];
        End *e;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        e = end_new(reactor, fds[0], &random);
        assert_int_equal(stream_send(&e->stream, "four", 4), 0);
        assert_int_equal(stream_send(&e->stream, "", 0), 0);
        assert_int_equal(stream_send(&e->stream, "teen", 4), 0);
        assert_int_equal(stream_queued(&e->stream), 8);
        assert_int_equal(stream_send(&e->stream, data, 20000), BUF_E_FULL);
        stream_shutdown_write(&e->stream);
        assert_int_equal(stream_send(&e->stream, "late", 4), -EPIPE);
        e->sent = e->to_send = 0;
        e->shut = true;
        for (unsigned i = 0; i < 10; i++)
                assert_int_equal(reactor_tick(reactor, 0), 0);
        assert_int_equal(read(fds[1], data, sizeof(data)), 8);
        assert_memory_equal(data, "fourteen", 8);
        assert_int_equal(read(fds[1], data, sizeof(data)), 0);
        assert_int_equal(e->n_drained, 1);      /* what is queued in one tick goes in one send */
        /* Bytes that nobody reads do not keep it from closing. */
        assert_int_equal(write(fds[1], "x", 1), 1);
        end_close(e);
        assert_int_equal(stream_send(&e->stream, "late", 4), -EPIPE);
        assert_int_equal(reactor_tick(reactor, 0), 0);
        assert_true(e->closed);
        close(fds[1]);
        free(e);
}

/* More comes in one tick than the buffers hold: streams left out are armed again, and all get their bytes. */
static void test_buffers_run_out(void **state) {
        enum { N = 20, SIZE = 60000 };
        _cleanup_(reactor_freep) Reactor *reactor = NULL;
        static End *ends[N];
        static uint8_t data[SIZE];
        uint64_t random = 1;
        size_t n_received = 0, n_closed = 0;
        int peers[N];

        test_configure(&(RingSimOptions){ .seed = 1 });
        reactor = test_reactor_new(true);
        for (size_t i = 0; i < N; i++) {
                int fds[2];

                assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
                ends[i] = end_new(reactor, fds[0], &random);
                ends[i]->peer = ends[i];
                ends[i]->sent = ends[i]->to_send = 0;
                ends[i]->shut = true;
                peers[i] = fds[1];
                stream_resume(&ends[i]->stream);
        }
        assert_int_equal(reactor_tick(reactor, 0), 0);
        for (unsigned round = 0; round < 3; round++) {
                for (size_t i = 0; i < N; i++) {
                        for (size_t k = 0; k < SIZE; k++)
                                data[k] = end_byte(ends[i]->key, ends[i]->sent + k);
                        ends[i]->sent += SIZE;
                        ends[i]->to_send += SIZE;
                        assert_int_equal(write(peers[i], data, SIZE), SIZE);
                }
                while (n_received < (size_t)N * SIZE * (round + 1)) {
                        n_received = 0;
                        assert_int_equal(reactor_tick(reactor, USEC_PER_SEC), 0);
                        for (size_t i = 0; i < N; i++)
                                n_received += ends[i]->received;
                }
        }
        if (reactor_features(reactor)->multishot_recv)
                assert_true(reactor_stats(reactor)->n_enobufs > 0);
        for (size_t i = 0; i < N; i++) {
                end_close(ends[i]);
                close(peers[i]);
        }
        while (n_closed < N) {
                n_closed = 0;
                assert_int_equal(reactor_tick(reactor, USEC_PER_SEC), 0);
                for (size_t i = 0; i < N; i++)
                        n_closed += ends[i]->closed;
        }
        for (size_t i = 0; i < N; i++)
                free(ends[i]);
}

static void test_resets(void **state) {
        for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
                RingSimOptions options = RING_SIM_LIVELY(seed);

                options.reset_permille = 5;
                test_traffic(seed, options, seed % 2);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_shutdown_after_drain),
                cmocka_unit_test(test_buffers_run_out),
                cmocka_unit_test(test_quiet_ring),
                cmocka_unit_test(test_every_byte_once),
                cmocka_unit_test(test_close_anywhere),
                cmocka_unit_test(test_resets),
        };

        log_open("test-stream");
        log_set_max_level(LOG_ERR);
        return cmocka_run_group_tests_name("stream", tests, NULL, NULL);
}

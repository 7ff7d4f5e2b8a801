/* Listeners: accepting over TCP and Unix sockets, pausing, running out of descriptors and recovering, closing. */

#include "reactor/test-util.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "reactor/listener.h"

#define N_CLIENTS 20

typedef struct TestListener {
        Listener listener;
        struct sockaddr_storage address;
        socklen_t n_address;
        int accepted[N_CLIENTS * 2];
        size_t n;
        bool pause_after_each;
        bool closed;
} TestListener;

static void on_accept(Listener *listener, int fd) {
        TestListener *t = container_of(listener, TestListener, listener);

        assert_false(t->closed);
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
        assert_true(t->n < ELEMENTSOF(t->accepted));
        t->accepted[t->n++] = fd;
        if (t->pause_after_each)
                listener_pause(listener);
}

static void on_closed(Listener *listener) {
        container_of(listener, TestListener, listener)->closed = true;
}

static void test_listener_init(TestListener *t, Reactor *reactor, int domain) {
        int fd = socket(domain, SOCK_STREAM | SOCK_CLOEXEC, 0);

        *t = (TestListener){};
        if (domain == AF_INET) {
                *(struct sockaddr_in *)&t->address =
                        (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
                t->n_address = sizeof(struct sockaddr_in);
        } else {
                t->address.ss_family = AF_UNIX;         /* autobind: an abstract address of the kernel's choice */
                t->n_address = sizeof(sa_family_t);
        }
        assert_int_equal(bind(fd, (struct sockaddr *)&t->address, t->n_address), 0);
        t->n_address = sizeof(t->address);
        assert_int_equal(getsockname(fd, (struct sockaddr *)&t->address, &t->n_address), 0);
        assert_int_equal(listen(fd, N_CLIENTS * 2), 0);
        listener_init_take(&t->listener, reactor, fd, on_accept);
}

static void test_connect(const TestListener *t, int *ret_fds, size_t n) {
        for (size_t i = 0; i < n; i++) {
                ret_fds[i] = socket(t->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
                assert_true(ret_fds[i] >= 0);
                assert_int_equal(connect(ret_fds[i], (const struct sockaddr *)&t->address, t->n_address), 0);
        }
}

static void test_close_all(const int *fds, size_t n) {
        for (size_t i = 0; i < n; i++)
                fd_close(fds[i]);
}

static void test_accept_on(RingSimOptions options, int domain) {
        _cleanup_(reactor_freep) Reactor *reactor = NULL;
        int clients[N_CLIENTS], late[N_CLIENTS];
        TestListener t;

        test_configure(&options);
        reactor = test_reactor_new(true);
        test_listener_init(&t, reactor, domain);
        test_connect(&t, clients, 5);
        listener_start(&t.listener);
        test_connect(&t, clients + 5, N_CLIENTS - 5);
        test_run_until(reactor, t.n == N_CLIENTS);
        assert_int_equal(t.listener.n_accepted, N_CLIENTS);
        /* What waits in the backlog at the close is not accepted, or closed: the clients see their end. */
        test_connect(&t, late, N_CLIENTS);
        listener_close(&t.listener, on_closed);
        listener_close(&t.listener, on_closed);
        assert_false(t.closed);
        test_run_until(reactor, t.closed);
        assert_int_equal(t.n, N_CLIENTS);
        for (size_t i = 0; i < N_CLIENTS; i++) {
                char c;

                assert_true(recv(late[i], &c, 1, 0) <= 0);
        }
        test_close_all(late, N_CLIENTS);
        test_close_all(clients, N_CLIENTS);
        test_close_all(t.accepted, t.n);
}

static void test_accept(void **state) {
        for (uint64_t seed = 0; seed < (TEST_SIM ? 200 : 8); seed++) {
                RingSimOptions options = RING_SIM_LIVELY(seed);

                options.emfile_percent = 2;
                options.single_shot = seed % 4 == 3;
                test_accept_on(options, seed % 2 ? AF_INET : AF_UNIX);
        }
}

static void test_pause(void **state) {
        for (uint64_t seed = 0; seed < (TEST_SIM ? 100 : 4); seed++) {
                RingSimOptions options = RING_SIM_LIVELY(seed);
                _cleanup_(reactor_freep) Reactor *reactor = NULL;
                int clients[N_CLIENTS];
                TestListener t;
                size_t before;

                options.single_shot = seed % 2;
                test_configure(&options);
                reactor = test_reactor_new(true);
                test_listener_init(&t, reactor, AF_UNIX);
                listener_start(&t.listener);
                assert_int_equal(reactor_tick(reactor, 0), 0);
                listener_pause(&t.listener);
                test_run_until(reactor, !t.listener.accept.in_flight);
                test_connect(&t, clients, N_CLIENTS);
                for (unsigned i = 0; i < 20; i++)
                        assert_int_equal(reactor_tick(reactor, 0), 0);
                assert_int_equal(t.n, 0);
                /* One connection that pauses is followed by those only that the kernel had accepted already. */
                t.pause_after_each = true;
                listener_resume(&t.listener);
                test_run_until(reactor, t.n > 0 && !t.listener.accept.in_flight);
                before = t.n;
                for (unsigned i = 0; i < 20; i++)
                        assert_int_equal(reactor_tick(reactor, 0), 0);
                assert_int_equal(t.n, before);
                if (options.single_shot)
                        assert_int_equal(before, 1);
                t.pause_after_each = false;
                listener_resume(&t.listener);
                test_run_until(reactor, t.n == N_CLIENTS);
                listener_close(&t.listener, NULL);
                for (unsigned i = 0; t.listener.fd >= 0; i++)
                        assert_int_equal(reactor_tick(reactor, 0), 0);
                test_close_all(clients, N_CLIENTS);
                test_close_all(t.accepted, t.n);
        }
}

/* Out of descriptors: no spin, one retry each 100 ms, and at once by listener_resume() when one was closed. */
static void test_exhausted(void **state) {
        for (uint64_t seed = 0; seed < 2; seed++) {
                _cleanup_(reactor_freep) Reactor *reactor = NULL;
                RingSimOptions options = { .seed = 1, .single_shot = seed % 2 };
                struct rlimit limit, low;
                int clients[3], filler;
                uint64_t start_us;
                TestListener t;
                unsigned ticks;

                test_configure(&options);
                reactor = test_reactor_new(true);
                test_listener_init(&t, reactor, AF_INET);
                listener_start(&t.listener);
                test_connect(&t, clients, 1);
                test_run_until(reactor, t.n == 1);
                /* The kernel reads the limit when an accept is armed. */
                listener_pause(&t.listener);
                test_run_until(reactor, !t.listener.accept.in_flight);
                test_connect(&t, clients + 1, 2);
                assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
                filler = fcntl(0, F_DUPFD_CLOEXEC, 0);  /* the lowest free number: as many as are open */
                assert_true(filler >= 0);
                low = (struct rlimit){ (rlim_t)filler + 1, limit.rlim_max };
                assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
                start_us = clock_monotonic_us();
                listener_resume(&t.listener);
                test_run_until(reactor, t.listener.n_exhausted == 1);
                assert_int_equal(reactor_stats(reactor)->n_exhausted, 1);
                for (ticks = 0; t.listener.n_exhausted < 3; ticks++)
                        assert_int_equal(reactor_tick(reactor, USEC_PER_SEC), 0);
                assert_true(clock_monotonic_us() >= start_us + 200 * USEC_PER_MSEC);
                assert_true(ticks < 10);
                assert_int_equal(t.n, 1);

                close(filler);
                start_us = clock_monotonic_us();
                listener_resume(&t.listener);
                test_run_until(reactor, t.n == 2);
                assert_true(clock_monotonic_us() < start_us + 90 * USEC_PER_MSEC);
                /* And without being told, by the timer. */
                assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
                test_run_until(reactor, t.n == 3);
                listener_close(&t.listener, on_closed);
                test_run_until(reactor, t.closed);
                test_close_all(clients, 3);
                test_close_all(t.accepted, t.n);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_accept),
                cmocka_unit_test(test_pause),
                cmocka_unit_test(test_exhausted),
        };

        log_open("test-listener");
        log_set_max_level(LOG_ERR);
        return cmocka_run_group_tests_name("listener", tests, NULL, NULL);
}

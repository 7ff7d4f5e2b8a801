/* Packets: order, whole messages, descriptors, bounds, protocol violations, closing with messages queued. */

#include "reactor/test-util.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "reactor/packet.h"

typedef struct TestSocket {
        PacketSocket socket;
        size_t n_received;
        size_t n_bytes_last;
        uint8_t first_byte_last;
        size_t n_fds_last;
        int fd_taken;
        unsigned n_drained;
        bool in_order, ended, closing, closed;
        int error;
} TestSocket;

/* Packet i: its length and every byte follow from i, and i % 3 descriptors. */
static size_t packet_size(size_t i) {
        return i % 7 == 6 ? PACKET_SIZE_MAX : 1 + i * 1237 % 5000;
}

static void on_packet(PacketSocket *socket, const uint8_t *data, size_t n, int *fds, size_t n_fds) {
        TestSocket *t = container_of(socket, TestSocket, socket);

        assert_false(t->closing || t->ended);
        if (n == 0) {
                t->ended = true;
                return;
        }
        t->n_bytes_last = n;
        t->first_byte_last = data[0];
        t->n_fds_last = n_fds;
        for (size_t i = 0; i < n_fds; i++)
                assert_true(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
        if (t->in_order) {
                assert_int_equal(n, packet_size(t->n_received));
                for (size_t i = 0; i < n; i++)
                        assert_int_equal(data[i], (uint8_t)(t->n_received + i));
                assert_int_equal(n_fds, t->n_received % 3);
        } else if (n_fds > 0 && t->fd_taken < 0)
                t->fd_taken = steal_fd(&fds[0]);
        t->n_received++;
}

static void on_drain(PacketSocket *socket) {
        TestSocket *t = container_of(socket, TestSocket, socket);

        assert_false(t->closing);
        assert_int_equal(socket->queued, 0);
        t->n_drained++;
}

static void on_error(PacketSocket *socket, int error) {
        TestSocket *t = container_of(socket, TestSocket, socket);

        assert_false(t->closing);
        t->error = error;
}

static void on_closed(PacketSocket *socket) {
        container_of(socket, TestSocket, socket)->closed = true;
}

static void test_socket_init(TestSocket *t, Reactor *reactor, int fd, size_t queued_max) {
        *t = (TestSocket){ .fd_taken = -1 };
        assert_int_equal(packet_init_take(&t->socket, reactor, fd, queued_max), 0);
        t->socket.on_packet = on_packet;
        t->socket.on_drain = on_drain;
        t->socket.on_error = on_error;
        t->socket.on_closed = on_closed;
}

static void test_socket_close(TestSocket *t, Reactor *reactor) {
        t->closing = true;
        packet_close(&t->socket);
        packet_close(&t->socket);
        assert_false(t->closed);
        assert_int_equal(packet_send(&t->socket, "x", 1, NULL, 0), -EPIPE);
        test_run_until(reactor, t->closed);
}

static void test_pair(int ret_fds[2]) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ret_fds), 0);
}

static size_t count_fds(void) {
        struct rlimit limit;
        size_t n = 0;

        assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
        for (int fd = 0; fd < (int)MIN(limit.rlim_cur, (rlim_t)1024); fd++)
                n += fcntl(fd, F_GETFD) >= 0;
        return n;
}

static void test_order_and_descriptors(void **state) {
        for (uint64_t seed = 0; seed < (TEST_SIM ? 100 : 5); seed++) {
                RingSimOptions options = RING_SIM_LIVELY(seed);
                _cleanup_(reactor_freep) Reactor *reactor = NULL;
                static uint8_t data[PACKET_SIZE_MAX];
                TestSocket a, b;
                size_t before = count_fds(), n = 30;
                int fds[2];

                test_configure(&options);
                reactor = test_reactor_new(true);
                test_pair(fds);
                test_socket_init(&a, reactor, fds[0], 0);
                test_socket_init(&b, reactor, fds[1], 0);
                b.in_order = true;
                packet_start(&a.socket);
                packet_start(&b.socket);
                for (size_t i = 0; i < n; i++) {
                        int sent[2] = { -1, -1 };

                        for (size_t k = 0; k < packet_size(i); k++)
                                data[k] = (uint8_t)(i + k);
                        for (size_t k = 0; k < i % 3; k++)
                                assert_true((sent[k] = fcntl(0, F_DUPFD_CLOEXEC, 0)) >= 0);
                        assert_int_equal(packet_send(&a.socket, data, packet_size(i), sent, i % 3), 0);
                        if (ring_sim_random(&options.seed, 2))
                                assert_int_equal(reactor_tick(reactor, 0), 0);
                }
                test_run_until(reactor, b.n_received == n && a.socket.queued == 0);
                assert_true(a.n_drained > 0);
                test_socket_close(&a, reactor);
                test_run_until(reactor, b.ended);
                test_socket_close(&b, reactor);
                assert_int_equal(a.error, 0);
                assert_int_equal(b.error, 0);
                reactor = reactor_free(reactor);
                assert_int_equal(count_fds(), before);
        }
}

static void test_taken_descriptor(void **state) {
        _cleanup_(reactor_freep) Reactor *reactor = test_reactor_new(true);
        struct stat sent, taken;
        size_t before = count_fds();
        TestSocket a, b;
        int fds[2], fd;

        test_pair(fds);
        test_socket_init(&a, reactor, fds[0], 0);
        test_socket_init(&b, reactor, fds[1], 0);
        packet_start(&b.socket);
        assert_int_equal(fd_new_sealed_memfd("test", "content", 7, &fd), 0);
        assert_int_equal(fstat(fd, &sent), 0);
        assert_int_equal(packet_send(&a.socket, "hello", 5, &fd, 1), 0);
        test_run_until(reactor, b.n_received == 1 && a.socket.queued == 0);
        assert_true(b.fd_taken >= 0);
        assert_int_equal(count_fds(), before + 3);      /* the sender's went with the packet */
        assert_int_equal(fstat(b.fd_taken, &taken), 0);
        assert_int_equal(sent.st_ino, taken.st_ino);
        close(b.fd_taken);
        test_socket_close(&a, reactor);
        test_socket_close(&b, reactor);
}

static void test_bounds(void **state) {
        _cleanup_(reactor_freep) Reactor *reactor = test_reactor_new(true);
        static uint8_t data[PACKET_SIZE_MAX + 1];
        int fds[2], five[5] = { 0, 0, 0, 0, 0 }, one = fcntl(0, F_DUPFD_CLOEXEC, 0);
        size_t before = count_fds();
        TestSocket a;

        test_pair(fds);
        test_socket_init(&a, reactor, fds[0], 100);
        assert_int_equal(packet_send(&a.socket, data, sizeof(data), NULL, 0), -EMSGSIZE);
        assert_int_equal(packet_send(&a.socket, data, 0, NULL, 0), -EINVAL);
        assert_int_equal(packet_send(&a.socket, data, 1, five, 5), -EINVAL);
        assert_int_equal(packet_send(&a.socket, data, 100, NULL, 0), 0);
        assert_int_equal(packet_send(&a.socket, data, 1, &one, 1), PACKET_E_FULL);
        assert_true(fcntl(one, F_GETFD) >= 0);          /* still the caller's */
        test_run_until(reactor, a.socket.queued == 0);
        assert_int_equal(packet_send(&a.socket, data, 1, &one, 1), 0);
        /* Closed with a packet and its descriptor unsent. */
        test_socket_close(&a, reactor);
        close(fds[1]);
        assert_int_equal(count_fds(), before - 1);
}

/* A full socket: messages wait in order, and those that the peer never reads are freed with their descriptors. */
static void test_blocked_peer(void **state) {
        _cleanup_(reactor_freep) Reactor *reactor = test_reactor_new(true);
        static uint8_t data[PACKET_SIZE_MAX];
        size_t before = count_fds(), n = 0;
        int fds[2], fd;
        TestSocket a;
        ssize_t k;

        test_pair(fds);
        test_socket_init(&a, reactor, fds[0], MIB(1));
        for (;; n++) {
                int r;

                data[0] = (uint8_t)n;
                fd = fcntl(0, F_DUPFD_CLOEXEC, 0);
                r = packet_send(&a.socket, data, sizeof(data), &fd, 1);
                if (r == PACKET_E_FULL)
                        break;
                assert_int_equal(r, 0);
                assert_int_equal(reactor_tick(reactor, 0), 0);
        }
        close(fd);
        assert_true(n > 16);
        assert_true(a.socket.queued > MIB(1) - PACKET_SIZE_MAX);
        for (size_t i = 0; i < n / 2; i++) {
                k = recv(fds[1], data, sizeof(data), MSG_DONTWAIT);
                while (k < 0) {
                        assert_int_equal(errno, EAGAIN);
                        assert_int_equal(reactor_tick(reactor, USEC_PER_MSEC), 0);
                        k = recv(fds[1], data, sizeof(data), MSG_DONTWAIT);
                }
                assert_int_equal(k, sizeof(data));
                assert_int_equal(data[0], i);
        }
        test_socket_close(&a, reactor);
        close(fds[1]);
        assert_int_equal(count_fds(), before);
}

static void test_send_raw(int fd, size_t n, size_t n_fds) {
        static uint8_t data[PACKET_SIZE_MAX * 2];
        _Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(sizeof(int) * 8)] = {};
        struct iovec iov = { data, n };
        struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

        if (n_fds > 0) {
                msg.msg_control = control;
                msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
                *CMSG_FIRSTHDR(&msg) = (struct cmsghdr){ CMSG_LEN(n_fds * sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
        }
        assert_int_equal(sendmsg(fd, &msg, 0), n);
}

static void test_violation(size_t n, size_t n_fds, bool no_descriptors, int error) {
        _cleanup_(reactor_freep) Reactor *reactor = test_reactor_new(true);
        size_t before = count_fds();
        struct rlimit limit, low;
        TestSocket b;
        int fds[2];

        test_pair(fds);
        test_socket_init(&b, reactor, fds[1], 0);
        packet_start(&b.socket);
        test_send_raw(fds[0], 10, 0);
        test_run_until(reactor, b.n_received == 1);
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
        low = (struct rlimit){ 3, limit.rlim_max };
        test_send_raw(fds[0], n, n_fds);
        if (no_descriptors)
                assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
        test_run_until(reactor, b.error);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
        assert_int_equal(b.error, error);
        assert_int_equal(b.n_received, 1);
        assert_false(b.socket.recv.in_flight);
        test_socket_close(&b, reactor);
        close(fds[0]);
        assert_int_equal(count_fds(), before);
}

static void test_violations(void **state) {
        test_violation(PACKET_SIZE_MAX + 1, 1, false, -EMSGSIZE);
        test_violation(10, PACKET_FDS_MAX + 2, false, -EPROTO);
        test_violation(10, 2, true, -EMFILE);
}

static void test_peer_gone(void **state) {
        _cleanup_(reactor_freep) Reactor *reactor = test_reactor_new(true);
        TestSocket a;
        int fds[2];

        test_pair(fds);
        test_socket_init(&a, reactor, fds[0], 0);
        close(fds[1]);
        assert_int_equal(packet_send(&a.socket, "x", 1, NULL, 0), 0);
        assert_int_equal(packet_send(&a.socket, "y", 1, NULL, 0), 0);
        test_run_until(reactor, a.error);
        assert_int_equal(a.error, -EPIPE);
        assert_int_equal(packet_send(&a.socket, "z", 1, NULL, 0), -EPIPE);
        packet_start(&a.socket);
        test_run_until(reactor, a.ended);
        test_socket_close(&a, reactor);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_order_and_descriptors),
                cmocka_unit_test(test_taken_descriptor),
                cmocka_unit_test(test_bounds),
                cmocka_unit_test(test_blocked_peer),
                cmocka_unit_test(test_violations),
                cmocka_unit_test(test_peer_gone),
        };

        log_open("test-packet");
        log_set_max_level(LOG_ERR);
        return cmocka_run_group_tests_name("packet", tests, NULL, NULL);
}

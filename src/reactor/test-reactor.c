/* The reactor over the real ring: timers, deferred work, single operations, cancelling, limits, confinement. */

#include "reactor/test-util.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "reactor/ring.h"

typedef struct TestOp {
        Op op;
        int res;
        unsigned n;
        unsigned n_ended;
} TestOp;

static void test_op_fn(Op *op, int res, bool more) {
        TestOp *t = container_of(op, TestOp, op);

        t->res = res;
        t->n++;
        if (!more)
                t->n_ended++;
}

static void test_op_init(TestOp *t, Reactor *reactor) {
        *t = (TestOp){};
        op_init(&t->op, reactor, test_op_fn);
}

typedef struct TestTimer {
        Timer timer;
        unsigned *counter;
        unsigned order;
} TestTimer;

static void test_timer_fn(Timer *timer) {
        TestTimer *t = container_of(timer, TestTimer, timer);

        t->order = ++*t->counter;
}

static void test_timers_order(void **state) {
        _cleanup_(reactor_freep) Reactor *reactor = test_reactor_new(true);
        static const unsigned after_ms[] = { 7, 1, 5, 3, 9, 2 };
        TestTimer timers[ELEMENTSOF(after_ms)];
        unsigned counter = 0, expected;
        uint64_t start_us = clock_monotonic_us();

        for (size_t i = 0; i < ELEMENTSOF(timers); i++) {
                timers[i] = (TestTimer){ .counter = &counter };
                timer_init(&timers[i].timer, reactor, test_timer_fn);
                assert_false(timer_is_set(&timers[i].timer));
                timer_set(&timers[i].timer, start_us + 1000000);
                timer_set(&timers[i].timer, start_us + after_ms[i] * USEC_PER_MSEC);
                assert_true(timer_is_set(&timers[i].timer));
        }
        timer_clear(&timers[4].timer);
        timer_clear(&timers[4].timer);
        assert_false(timer_is_set(&timers[4].timer));
        test_run_until(reactor, counter == 5);
        assert_true(reactor_now_us(reactor) >= start_us + 7 * USEC_PER_MSEC);
        for (size_t i = 0; i < ELEMENTSOF(timers); i++) {
                expected = i == 4 ? 0 : 1;
                for (size_t j = 0; i != 4 && j < ELEMENTSOF(timers); j++)
                        expected += j != 4 && after_ms[j] < after_ms[i];
                assert_int_equal(timers[i].order, expected);
        }
}

typedef struct TestDefer {
        Defer defer;
        Defer *next;
        unsigned n;
} TestDefer;

static void test_defer_fn(Defer *defer) {
        TestDefer *t = container_of(defer, TestDefer, defer);

        t->n++;
        if (t->next)
                defer_schedule(t->next);
}

static void test_defers(void **state) {
        _cleanup_(reactor_freep) Reactor *reactor = test_reactor_new(false);
        TestDefer first = {}, second = {}, forever = {};

        defer_init(&first.defer, reactor, test_defer_fn);
        defer_init(&second.defer, reactor, test_defer_fn);
        defer_init(&forever.defer, reactor, test_defer_fn);
        first.next = &second.defer;
        defer_schedule(&first.defer);
        defer_schedule(&first.defer);
        /* Also before the ring is enabled. */
        assert_int_equal(reactor_tick(reactor, UINT64_MAX), 0);
        assert_int_equal(first.n, 1);
        assert_int_equal(second.n, 1);
        assert_int_equal(reactor_enable(reactor), 0);
        assert_int_equal(reactor_enable(reactor), 0);

        /* One that always comes again ends the tick all the same, and keeps the next from waiting. */
        forever.next = &forever.defer;
        defer_schedule(&forever.defer);
        for (unsigned i = 0; i < 10; i++)
                assert_int_equal(reactor_tick(reactor, UINT64_MAX), 0);
        assert_true(forever.n >= 10);
        defer_cancel(&forever.defer);
        defer_cancel(&forever.defer);
        assert_int_equal(reactor_tick(reactor, 0), 0);
}

static void test_queued_before_enable(void **state) {
        _cleanup_(reactor_freep) Reactor *reactor = test_reactor_new(false);
        _cleanup_close_ int fd = eventfd(1, EFD_CLOEXEC);
        TestOp poll, cancelled;

        test_op_init(&poll, reactor);
        test_op_init(&cancelled, reactor);
        op_poll(&poll.op, fd, POLLIN, false);
        op_poll(&cancelled.op, fd, POLLOUT, false);
        op_cancel(&cancelled.op);
        op_cancel(&cancelled.op);
        assert_int_equal(cancelled.n, 0);       /* never from within the call */
        for (unsigned i = 0; i < 3; i++)
                assert_int_equal(reactor_tick(reactor, 0), 0);
        assert_int_equal(poll.n, 0);
        assert_int_equal(cancelled.n_ended, 1);
        assert_int_equal(cancelled.res, -ECANCELED);
        assert_false(reactor_features(reactor)->restricted);
        assert_int_equal(reactor_enable(reactor), 0);
        assert_true(reactor_features(reactor)->restricted);
        assert_int_equal(reactor_tick(reactor, 0), 0);
        assert_int_equal(poll.n_ended, 1);
        assert_int_equal(poll.res, POLLIN);
}

/* Many times the ring's size, at once: nothing fails, nothing is lost. */
static void test_more_than_the_ring_holds(void **state) {
        enum { N = 5000 };
        _cleanup_(reactor_freep) Reactor *reactor = test_reactor_new(true);
        _cleanup_close_ int fd = eventfd(0, EFD_CLOEXEC);
        TestOp *ops = calloc(N, sizeof(*ops));
        size_t n_ended = 0;

        assert_non_null(ops);
        for (size_t i = 0; i < N; i++) {
                test_op_init(&ops[i], reactor);
                op_poll(&ops[i].op, fd, POLLIN, false);
        }
        assert_int_equal(reactor_tick(reactor, 0), 0);
        for (size_t i = 0; i < N; i += 2)
                op_cancel(&ops[i].op);
        assert_int_equal(reactor_tick(reactor, 0), 0);
        assert_int_equal(eventfd_write(fd, 1), 0);      /* all that are left complete at once: the queue overflows */
        while (n_ended < N) {
                assert_int_equal(reactor_tick(reactor, USEC_PER_SEC), 0);
                n_ended = 0;
                for (size_t i = 0; i < N; i++)
                        n_ended += ops[i].n_ended;
        }
        for (size_t i = 0; i < N; i++) {
                assert_int_equal(ops[i].n, 1);
                assert_int_equal(ops[i].res, i % 2 ? POLLIN : -ECANCELED);
        }
        assert_true(reactor_stats(reactor)->n_completions >= N);
        free(ops);
}

static void test_multishot_poll(void **state) {
        _cleanup_(reactor_freep) Reactor *reactor = test_reactor_new(true);
        _cleanup_close_ int fd = eventfd(0, EFD_CLOEXEC);
        TestOp poll;

        test_op_init(&poll, reactor);
        op_poll(&poll.op, fd, POLLIN, true);
        for (unsigned i = 1; i <= 3; i++) {
                assert_int_equal(eventfd_write(fd, 1), 0);
                test_run_until(reactor, poll.n >= i);
                assert_true(poll.op.in_flight);
        }
        op_cancel(&poll.op);
        test_run_until(reactor, poll.n_ended == 1);
        assert_false(poll.op.in_flight);
        op_cancel(&poll.op);
        assert_int_equal(reactor_tick(reactor, 0), 0);
        assert_int_equal(poll.n_ended, 1);
}

static void test_file_operations(void **state) {
        _cleanup_(reactor_freep) Reactor *reactor = test_reactor_new(true);
        _cleanup_close_ int fd = open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        char data[8] = {};
        TestOp op;

        if (fd < 0) {
                print_message("# skipped: no O_TMPFILE here\n");
                skip();
        }
        test_op_init(&op, reactor);
        op_write(&op.op, fd, "durable", 7, 0);
        test_run_until(reactor, op.n_ended == 1);
        assert_int_equal(op.res, 7);
        op_fdatasync(&op.op, fd);
        test_run_until(reactor, op.n_ended == 2);
        assert_int_equal(op.res, 0);
        op_read(&op.op, fd, data, sizeof(data), 2);
        test_run_until(reactor, op.n_ended == 3);
        assert_int_equal(op.res, 5);
        assert_string_equal(data, "rable");
        op_fdatasync(&op.op, -1);
        test_run_until(reactor, op.n_ended == 4);
        assert_int_equal(op.res, -EBADF);
}

static void test_pidfd(void **state) {
        _cleanup_(reactor_freep) Reactor *reactor = test_reactor_new(true);
        _cleanup_close_ int pidfd = -1, out = -1;
        int ends[2], status;
        TestOp poll;
        pid_t pid;
        char c;

        assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                close(ends[1]);
                _exit(read(ends[0], &c, 1) == 0 ? 7 : 8);
        }
        close(ends[0]);
        out = ends[1];
        pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        assert_true(pidfd >= 0);
        test_op_init(&poll, reactor);
        op_poll(&poll.op, pidfd, POLLIN, false);
        assert_int_equal(reactor_tick(reactor, 0), 0);
        assert_int_equal(poll.n, 0);
        fd_close(steal_fd(&out));
        test_run_until(reactor, poll.n_ended == 1);
        assert_int_equal(poll.res, POLLIN);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

/* What would be used after its end is found at once, also in a release. */
static void test_free_with_something_in_flight(void **state) {
        reactor_free(test_reactor_new(false));  /* or skipped here, not in the child */
        for (unsigned kind = 0; kind < 3; kind++) {
                int status;
                pid_t pid = fork();

                assert_true(pid >= 0);
                if (pid == 0) {
                        Reactor *reactor = test_reactor_new(false);
                        TestTimer timer = {};
                        TestDefer defer = {};
                        TestOp op;

                        fd_close(STDERR_FILENO);
                        timer_init(&timer.timer, reactor, test_timer_fn);
                        defer_init(&defer.defer, reactor, test_defer_fn);
                        test_op_init(&op, reactor);
                        if (kind == 0)
                                op_poll(&op.op, STDIN_FILENO, POLLIN, false);
                        else if (kind == 1)
                                timer_set(&timer.timer, UINT64_MAX);
                        else
                                defer_schedule(&defer.defer);
                        signal(SIGABRT, SIG_DFL);
                        reactor_free(reactor);
                        _exit(0);
                }
                assert_int_equal(waitpid(pid, &status, 0), pid);
                assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
        }
}

static void test_exit_timer_fn(Timer *timer) {
        reactor_exit(timer->reactor, 42);
}

static void test_run_and_exit(void **state) {
        _cleanup_(reactor_freep) Reactor *reactor = test_reactor_new(false);
        Timer timer;

        assert_int_equal(reactor_run(reactor), -EINVAL);
        assert_int_equal(reactor_enable(reactor), 0);
        timer_init(&timer, reactor, test_exit_timer_fn);
        timer_set(&timer, reactor_now_us(reactor) + 1000);
        assert_int_equal(reactor_run(reactor), 42);
        reactor_exit(reactor, 3);
        assert_int_equal(reactor_run(reactor), 3);
}

/* The ring's own lock: what the seccomp filter can't see is refused by the kernel all the same. */
static void test_restrictions(void **state) {
        static const int refused[] = { IORING_OP_OPENAT, IORING_OP_OPENAT2, IORING_OP_SOCKET, IORING_OP_CONNECT,
                                       IORING_OP_UNLINKAT, IORING_OP_RENAMEAT, IORING_OP_URING_CMD, IORING_OP_NOP };
        _cleanup_(reactor_freep) Reactor *reactor = test_reactor_new(true);
        TestOp op;

        for (size_t i = 0; i < ELEMENTSOF(refused); i++)
                assert_int_equal(ring_submit_raw(reactor_ring(reactor), refused[i]), -EACCES);
        /* An allowed one gets as far as its bad descriptor. */
        assert_int_equal(ring_submit_raw(reactor_ring(reactor), IORING_OP_FSYNC), -EBADF);
        test_op_init(&op, reactor);
        op_fdatasync(&op.op, -1);
        test_run_until(reactor, op.n_ended == 1);
}

/* In a child: io_uring_setup fails with this errno, as under a container's profile. */
static int test_refused_child(unsigned error) {
        struct sock_filter filter[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog program = { ELEMENTSOF(filter), filter };
        Reactor *reactor = NULL;

        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
                return 77;
        return reactor_new(&reactor) == REACTOR_E_NO_IO_URING && !reactor ? 0 : 1;
}

static void test_refused(void **state) {
        static const unsigned errors[] = { ENOSYS, EPERM };

        for (size_t i = 0; i < ELEMENTSOF(errors); i++) {
                char text[1024];
                int ends[2], status;
                ssize_t n;
                pid_t pid;

                assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
                pid = fork();
                assert_true(pid >= 0);
                if (pid == 0) {
                        dup2(ends[1], STDERR_FILENO);
                        _exit(test_refused_child(errors[i]));
                }
                close(ends[1]);
                assert_int_equal(waitpid(pid, &status, 0), pid);
                n = read(ends[0], text, sizeof(text) - 1);
                close(ends[0]);
                assert_true(WIFEXITED(status));
                if (WEXITSTATUS(status) == 77) {
                        print_message("# skipped: no seccomp filters here\n");
                        skip();
                }
                assert_int_equal(WEXITSTATUS(status), 0);
                assert_true(n > 0);
                text[n] = 0;
                assert_ptr_equal(strchr(text, '\n'), text + n - 1);     /* one line */
                assert_non_null(strstr(text, "io_uring"));
                assert_non_null(strstr(text, "seccomp"));
        }
}

static int test_setup_old(void **state) {
        ring_limit_features(&(ReactorFeatures){});
        return 0;
}

static int test_teardown_old(void **state) {
        ring_limit_features(&(ReactorFeatures){ true, true, true, true, true });
        return 0;
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_timers_order),
                cmocka_unit_test(test_defers),
                cmocka_unit_test(test_queued_before_enable),
                cmocka_unit_test(test_more_than_the_ring_holds),
                cmocka_unit_test(test_multishot_poll),
                cmocka_unit_test(test_file_operations),
                cmocka_unit_test(test_pidfd),
                cmocka_unit_test(test_free_with_something_in_flight),
                cmocka_unit_test(test_run_and_exit),
                cmocka_unit_test(test_restrictions),
                cmocka_unit_test(test_refused),
                /* And as on a kernel before 5.19. */
                { "test_queued_before_enable_old", test_queued_before_enable, test_setup_old, test_teardown_old },
                { "test_more_than_the_ring_holds_old", test_more_than_the_ring_holds, test_setup_old, test_teardown_old },
                { "test_multishot_poll_old", test_multishot_poll, test_setup_old, test_teardown_old },
                { "test_restrictions_old", test_restrictions, test_setup_old, test_teardown_old },
        };

        log_open("test-reactor");
        log_set_max_level(LOG_ERR);
        return cmocka_run_group_tests_name("reactor", tests, NULL, NULL);
}

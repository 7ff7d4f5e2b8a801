/* Each check runs in a child, since confinement can't be taken back; the child's exit status is the errno it met. */

#include <linux/io_uring.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/confine.h"

#include <cmocka.h>

static int try_execve(void) {
        char *const argv[] = { (char *)"/bin/true", NULL };
        return execve(argv[0], argv, NULL) < 0 ? errno : 0;
}

static int try_fork(void) {
        long pid = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
        if (pid == 0)
                _exit(0);
        return pid < 0 ? errno : 0;
}

static int try_clone3(void) {
        return syscall(SYS_clone3, NULL, (size_t)0) < 0 ? errno : 0;
}

static int try_ptrace(void) {
        return ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0 ? errno : 0;
}

static int try_mount(void) {
        return mount("none", "/", "tmpfs", 0, NULL) < 0 ? errno : 0;
}

static int try_unshare(void) {
        return unshare(CLONE_NEWUSER) < 0 ? errno : 0;
}

static int try_inet_socket(void) {
        return socket(AF_INET, SOCK_STREAM, 0) < 0 ? errno : 0;
}

static int try_new_ring(void) {
        struct io_uring_params p = {};
        return syscall(SYS_io_uring_setup, 1, &p) < 0 ? errno : 0;
}

static int try_unix_socket(void) {
        return socket(AF_UNIX, SOCK_STREAM, 0) < 0 ? errno : 0;
}

static int try_core(void) {
        struct rlimit limit;
        return getrlimit(RLIMIT_CORE, &limit) < 0 ? errno : limit.rlim_max ? EEXIST : 0;
}

/* The errno that fn meets, 0 where it succeeds, -1 where confine() failed. */
static int confined(int (*fn)(void)) {
        int status;
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (pid == 0)
                _exit(confine() ? 255 : fn());
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        return WEXITSTATUS(status) == 255 ? -1 : WEXITSTATUS(status);
}

static void test_refused(void **state) {
        assert_int_equal(confined(try_execve), EPERM);
        assert_int_equal(confined(try_fork), EPERM);
        assert_int_equal(confined(try_clone3), EPERM);
        assert_int_equal(confined(try_ptrace), EPERM);
        assert_int_equal(confined(try_mount), EPERM);
        assert_int_equal(confined(try_unshare), EPERM);
        assert_int_equal(confined(try_inet_socket), EPERM);
        assert_int_equal(confined(try_new_ring), EPERM);
}

static void test_allowed(void **state) {
        assert_int_equal(confined(try_unix_socket), 0);
        assert_int_equal(confined(try_core), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_refused),
                cmocka_unit_test(test_allowed),
        };
        return cmocka_run_group_tests_name("daemon-confine", tests, NULL, NULL);
}

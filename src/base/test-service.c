#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "base/service.h"

/* Runs the body in a child, where LISTEN_PID can be right and descriptors 3… are free to be used. */
static void in_child(const char *n_fds, const char *names, bool right_pid, int (*body)(void)) {
        pid_t pid = fork();
        int status;

        assert_true(pid >= 0);
        if (pid == 0) {
                char text[32];
                int pipe_fds[2];

                for (int fd = 3; fd < 12; fd++)
                        close(fd);
                if (pipe2(pipe_fds, 0) < 0 || pipe_fds[0] != 3 || pipe_fds[1] != 4)
                        _exit(99);
                snprintf(text, sizeof(text), "%d", right_pid ? getpid() : getppid());
                setenv("LISTEN_PID", text, 1);
                if (n_fds)
                        setenv("LISTEN_FDS", n_fds, 1);
                if (names)
                        setenv("LISTEN_FDNAMES", names, 1);
                _exit(body());
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
}

#define CHECK(x) do { if (!(x)) return __LINE__ % 250 + 1; } while (0)

static int child_two(void) {
        ServiceFd fds[SERVICE_FDS_MAX];
        size_t n;

        CHECK(service_listen_fds(fds, &n) == 0 && n == 2);
        CHECK(fds[0].fd == 3 && streq(fds[0].name, "http"));
        CHECK(fds[1].fd == 4 && streq(fds[1].name, "control"));
        CHECK(fcntl(3, F_GETFD) & FD_CLOEXEC);
        CHECK(fcntl(4, F_GETFD) & FD_CLOEXEC);
        CHECK(!getenv("LISTEN_PID") && !getenv("LISTEN_FDS") && !getenv("LISTEN_FDNAMES"));
        CHECK(service_listen_fds(fds, &n) == 0 && n == 0);
        return 0;
}

static int child_unknown(void) {
        ServiceFd fds[SERVICE_FDS_MAX];
        size_t n;

        CHECK(service_listen_fds(fds, &n) == 0 && n == 2);
        CHECK(streq(fds[0].name, "unknown"));
        CHECK(streq(fds[1].name, "unknown"));
        return 0;
}

static int child_none(void) {
        ServiceFd fds[SERVICE_FDS_MAX];
        size_t n = 7;

        CHECK(service_listen_fds(fds, &n) == 0 && n == 0);
        CHECK(!getenv("LISTEN_FDS"));
        return 0;
}

static int child_invalid(void) {
        ServiceFd fds[SERVICE_FDS_MAX];
        size_t n = 7;

        CHECK(service_listen_fds(fds, &n) == -EINVAL && n == 7);
        CHECK(!getenv("LISTEN_FDS"));
        return 0;
}

static int child_closed(void) {
        ServiceFd fds[SERVICE_FDS_MAX];
        size_t n = 7;

        CHECK(service_listen_fds(fds, &n) == -EBADF && n == 7);
        return 0;
}

static void test_listen_fds(void **state) {
        char long_name[80];

        memset(long_name, 'x', sizeof(long_name) - 1);
        long_name[sizeof(long_name) - 1] = 0;
        in_child("2", "http:control", true, child_two);
        in_child("2", NULL, true, child_unknown);
        in_child("2", ":", true, child_unknown);
        in_child("0", NULL, true, child_none);
        in_child(NULL, NULL, true, child_none);
        in_child("2", "http:control", false, child_none);
        in_child("two", NULL, true, child_invalid);
        in_child("-1", NULL, true, child_invalid);
        in_child("17", NULL, true, child_invalid);
        in_child("2", long_name, true, child_invalid);
        in_child("3", NULL, true, child_closed);
}

static int notify_one(const char *path, bool abstract) {
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        char message[64];
        ssize_t n;

        memcpy(address.sun_path, path, strlen(path));
        if (abstract)
                address.sun_path[0] = 0;
        CHECK(bind(fd, (struct sockaddr *)&address,
                   (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path) + !abstract)) == 0);
        setenv("NOTIFY_SOCKET", path, 1);
        CHECK(service_notify_open() == 0);
        if (!abstract)
                unlink(path);           /* confined from here on: the open socket is enough */
        unsetenv("NOTIFY_SOCKET");
        CHECK(service_notify("READY=1\nSTATUS=up") == 0);
        n = recv(fd, message, sizeof(message), MSG_DONTWAIT);
        CHECK(n == 17 && memcmp(message, "READY=1\nSTATUS=up", 17) == 0);
        return 0;
}

static int child_notify_path(void) {
        char path[64];

        snprintf(path, sizeof(path), "/tmp/agent-router-test-notify-%d", getpid());
        return notify_one(path, false);
}

static int child_notify_abstract(void) {
        char path[64];

        snprintf(path, sizeof(path), "@agent-router-test-notify-%d", getpid());
        return notify_one(path, true);
}

static int child_notify_none(void) {
        unsetenv("NOTIFY_SOCKET");
        CHECK(service_notify("READY=1") == 0);
        setenv("NOTIFY_SOCKET", "relative", 1);
        CHECK(service_notify("READY=1") == -EAFNOSUPPORT);
        setenv("NOTIFY_SOCKET", "/nonexistent/agent-router", 1);
        CHECK(service_notify("READY=1") == -ENOENT);
        return 0;
}

static void test_notify(void **state) {
        in_child(NULL, NULL, true, child_notify_path);
        in_child(NULL, NULL, true, child_notify_abstract);
        in_child(NULL, NULL, true, child_notify_none);
}

static void test_watchdog(void **state) {
        char pid[32];

        unsetenv("WATCHDOG_PID");
        unsetenv("WATCHDOG_USEC");
        assert_int_equal(service_watchdog_interval_us(), 0);
        setenv("WATCHDOG_USEC", "30000000", 1);
        assert_int_equal(service_watchdog_interval_us(), 15000000);
        snprintf(pid, sizeof(pid), "%d", getpid());
        setenv("WATCHDOG_PID", pid, 1);
        assert_int_equal(service_watchdog_interval_us(), 15000000);
        setenv("WATCHDOG_PID", "1", 1);
        assert_int_equal(service_watchdog_interval_us(), 0);
        setenv("WATCHDOG_USEC", "often", 1);
        unsetenv("WATCHDOG_PID");
        assert_int_equal(service_watchdog_interval_us(), 0);
}

static void test_directories(void **state) {
        setenv("STATE_DIRECTORY", "/var/lib/agent-router:/var/lib/other", 1);
        setenv("RUNTIME_DIRECTORY", "", 1);
        setenv("CONFIGURATION_DIRECTORY", "/etc/agent-router", 1);
        unsetenv("CREDENTIALS_DIRECTORY");
        assert_string_equal(service_state_dir(), "/var/lib/agent-router");
        assert_string_equal(service_state_dir(), "/var/lib/agent-router");
        assert_null(service_runtime_dir());
        assert_string_equal(service_configuration_dir(), "/etc/agent-router");
        assert_null(service_credentials_dir());
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_listen_fds),
                cmocka_unit_test(test_notify),
                cmocka_unit_test(test_watchdog),
                cmocka_unit_test(test_directories),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

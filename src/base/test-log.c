#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/log.h"

/* What `body` writes to stderr. */
static char *capture(void (*body)(void)) {
        _cleanup_close_ int file = memfd_create("stderr", MFD_CLOEXEC), saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
        char *text = NULL;
        size_t n;

        assert_true(file >= 0 && saved >= 0);
        assert_int_equal(dup2(file, STDERR_FILENO), STDERR_FILENO);
        body();
        assert_int_equal(dup2(saved, STDERR_FILENO), STDERR_FILENO);
        assert_int_equal(lseek(file, 0, SEEK_SET), 0);
        assert_int_equal(fd_read_all(file, MIB(1), &text, &n), 0);
        return text;
}

static void say_fields(void) {
        log_field(LOG_INFO, (LogField[]){ { "TASK_ID", "t1" }, { "MESSAGE_ID", LOG_ID_TASK_STARTED }, { "AGENT", NULL },
                                          { "PRINCIPAL", "ci" }, {} }, "task %s started", "t1");
}

static void test_fields(void **state) {
        _cleanup_free_ char *text = NULL;

        log_open("agent-test");
        text = capture(say_fields);
        assert_string_equal(text, "agent-test: task t1 started [TASK_ID=t1] [PRINCIPAL=ci]\n");
}

static void say_levels(void) {
        log_debug("hidden");
        log_info("shown");
        log_set_max_level(LOG_DEBUG);
        log_debug("now shown");
        log_set_max_level(LOG_ERR);
        log_warning("hidden again");
        errno = EXDEV;
        log_error("error");
        assert_int_equal(errno, EXDEV);
        log_set_max_level(LOG_INFO);
}

static void test_levels(void **state) {
        _cleanup_free_ char *text = capture(say_levels);

        assert_string_equal(text, "agent-test: shown\nagent-test: now shown\nagent-test: error\n");
}

static void say_forged(void) {
        log_field(LOG_INFO, (LogField[]){ { "AGENT", "x\nagent-test: forged" }, {} }, "name %s", "a\nb\x1b[31m");
}

static void test_one_line(void **state) {
        _cleanup_free_ char *text = capture(say_forged);

        assert_string_equal(text, "agent-test: name a b [31m [AGENT=x agent-test: forged]\n");
}

static char long_value[KIB(40)];

static void say_long(void) {
        log_field(LOG_INFO, (LogField[]){ { "SMALL", "1" }, { "LONG", long_value }, {} }, "%s", long_value);
}

static void test_long(void **state) {
        _cleanup_free_ char *text = NULL;

        memset(long_value, 'x', sizeof(long_value) - 1);
        text = capture(say_long);
        assert_in_range(strlen(text), KIB(4) - 1, KIB(16));
        assert_int_equal(text[strlen(text) - 1], '\n');
        assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
        assert_non_null(strstr(text, " [SMALL=1]"));
}

/* One entry as journald gets it: NAME=value lines, and for a value of several lines its length in 64 bits. */
static void test_journal(void **state) {
        static const char forged[] = "AGENT\n\x0f\0\0\0\0\0\0\0a\nPRIORITY=0\n b\n";
        char entry[KIB(20)];
        ssize_t n;
        int fds[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
        log_take_journal(fds[0]);
        log_field(LOG_WARNING, (LogField[]){ { "TASK_ID", "t1" }, { "AGENT", "a\nPRIORITY=0\n b" }, { "NONE", NULL }, {} },
                  "task %s", "t1");
        n = read(fds[1], entry, sizeof(entry));
        assert_int_equal(n, 67 + sizeof(forged) - 1);
        assert_memory_equal(entry, "MESSAGE=task t1\nPRIORITY=4\nSYSLOG_IDENTIFIER=agent-test\nTASK_ID=t1\n", 67);
        assert_memory_equal(entry + 67, forged, sizeof(forged) - 1);

        /* What does not fit is left out, and the entry stays whole. */
        memset(long_value, 'x', sizeof(long_value) - 1);
        log_field(LOG_INFO, (LogField[]){ { "LONG", long_value }, { "LAST", "1" }, {} }, "%s", long_value);
        n = read(fds[1], entry, sizeof(entry));
        assert_true(n > (ssize_t)KIB(4) && n < (ssize_t)KIB(16));
        assert_memory_equal(entry + n - 7, "LAST=1\n", 7);

        /* A full socket drops, counts and does not wait. */
        for (unsigned i = 0; log_dropped() == 0; i++) {
                assert_true(i < 100000);
                log_info("again");
        }
        errno = EXDEV;
        log_info("again");
        assert_int_equal(errno, EXDEV);
        assert_int_equal(log_dropped(), 2);
        log_take_journal(-1);
        close(fds[1]);
}

static void test_environment(void **state) {
        setenv("AGENT_ROUTER_LOG_LEVEL", "warning", 1);
        log_open("agent-test");
        assert_int_equal(log_get_max_level(), LOG_WARNING);
        setenv("AGENT_ROUTER_LOG_LEVEL", "loud", 1);
        log_open("agent-test");
        assert_int_equal(log_get_max_level(), LOG_WARNING);
        unsetenv("AGENT_ROUTER_LOG_LEVEL");
        log_set_max_level(LOG_INFO);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_fields),
                cmocka_unit_test(test_levels),
                cmocka_unit_test(test_one_line),
                cmocka_unit_test(test_long),
                cmocka_unit_test(test_journal),
                cmocka_unit_test(test_environment),
        };
        unsetenv("JOURNAL_STREAM");
        return cmocka_run_group_tests(tests, NULL, NULL);
}

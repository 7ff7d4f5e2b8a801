#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "launcher/home.h"

static char directory[] = "/tmp/test-home-XXXXXX";
static int dir_fd = -1;

static int setup(void **state) {
        assert_non_null(mkdtemp(directory));
        dir_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(dir_fd >= 0);
        return 0;
}

static int teardown(void **state) {
        close(dir_fd);
        return rmdir(directory);
}

static void test_seed_and_empty(void **state) {
        SpecFile files[] = {
                { .path = (char *)"a", .mode = 0600, .content = (uint8_t *)"x", .n = 1 },
                { .path = (char *)"d/e/f", .mode = 0400, .content = (uint8_t *)"yz", .n = 2 },
        };
        Spec spec = { .files = files, .n_files = 2 };
        Failure failure = {};
        struct stat st;

        umask(0022);
        assert_int_equal(home_seed(dir_fd, &spec, &failure), 0);
        assert_int_equal(fstatat(dir_fd, "d/e/f", &st, 0), 0);
        assert_int_equal(st.st_mode & 07777, 0400);
        assert_int_equal(st.st_size, 2);
        /* What is there is not written over. */
        assert_int_equal(home_seed(dir_fd, &spec, &failure), -EEXIST);
        assert_string_equal(failure.stage, "home");
        assert_int_equal(home_empty(dir_fd), 0);
        assert_int_equal(fstatat(dir_fd, "a", &st, 0), -1);
}

static void test_seed_follows_no_link(void **state) {
        SpecFile file = { .path = (char *)"link/x", .mode = 0600, .content = (uint8_t *)"x", .n = 1 };
        Spec spec = { .files = &file, .n_files = 1 };
        Failure failure = {};

        assert_int_equal(symlinkat("/tmp", dir_fd, "link"), 0);
        assert_true(home_seed(dir_fd, &spec, &failure) < 0);
        file.path = (char *)"link";
        assert_true(home_seed(dir_fd, &spec, &failure) < 0);
        assert_int_equal(home_empty(dir_fd), 0);
}

/* Deep, and locked against its owner. */
static void test_empty_goes_deep(void **state) {
        _cleanup_close_ int at = dup(dir_fd);
        struct stat st;

        for (unsigned i = 0; i < 300; i++) {
                int next;

                assert_int_equal(mkdirat(at, "deep", 0700), 0);
                next = openat(at, "deep", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                assert_true(next >= 0);
                close(at);
                at = next;
        }
        assert_int_equal(fchmod(at, 0), 0);
        assert_int_equal(mkdirat(dir_fd, "locked", 0700), 0);
        assert_int_equal(mkdirat(dir_fd, "locked/inner", 0), 0);
        assert_int_equal(fchmodat(dir_fd, "locked", 0, 0), 0);
        assert_int_equal(symlinkat("/etc", dir_fd, "out"), 0);
        assert_int_equal(home_empty(dir_fd), 0);
        assert_int_equal(fstatat(dir_fd, "deep", &st, 0), -1);
        assert_int_equal(access("/etc/passwd", F_OK), 0);
}

/* Its owner still holds the home open, outside, and swaps a folder and a link to a file that is not its own. */
static void test_empty_changes_nothing_behind_a_link(void **state) {
        char victim[] = "/tmp/test-home-victim-XXXXXX";
        uint64_t end_us = clock_monotonic_us() + 2 * USEC_PER_SEC;
        int victim_fd = mkstemp(victim);
        struct stat st;
        pid_t swapper;

        assert_true(victim_fd >= 0);
        assert_int_equal(fchmod(victim_fd, 0644), 0);
        swapper = fork();
        if (swapper == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                for (;;) {
                        int home;

                        (void)mkdirat(dir_fd, "home", 0700);
                        home = openat(dir_fd, "home", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                        /* Until the home is gone. */
                        while (home >= 0 && (mkdirat(home, "a", 0700) == 0 || errno == EEXIST)) {
                                (void)!symlinkat(victim, home, "b");
                                for (unsigned i = 0; i < 100; i++)
                                        (void)renameat2(home, "a", home, "b", RENAME_EXCHANGE);
                        }
                        close(home);
                }
        }
        assert_true(swapper > 0);
        do {
                (void)!home_empty(dir_fd);
                assert_int_equal(fstat(victim_fd, &st), 0);
        } while ((st.st_mode & 07777) == 0644 && clock_monotonic_us() < end_us);
        kill(swapper, SIGKILL);
        assert_int_equal(waitpid(swapper, NULL, 0), swapper);
        assert_int_equal(home_empty(dir_fd), 0);
        close(victim_fd);
        assert_int_equal(unlink(victim), 0);
        assert_int_equal(st.st_mode & 07777, 0644);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_seed_and_empty),
                cmocka_unit_test(test_seed_follows_no_link),
                cmocka_unit_test(test_empty_goes_deep),
                cmocka_unit_test(test_empty_changes_nothing_behind_a_link),
        };

        return cmocka_run_group_tests(tests, setup, teardown);
}

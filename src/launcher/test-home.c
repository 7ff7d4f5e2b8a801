#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

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

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_seed_and_empty),
                cmocka_unit_test(test_seed_follows_no_link),
                cmocka_unit_test(test_empty_goes_deep),
        };

        return cmocka_run_group_tests(tests, setup, teardown);
}

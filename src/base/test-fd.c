#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/fd.h"

static char dir[] = "/tmp/agent-router-test-XXXXXX";
static int dir_fd = -1;

static int setup(void **state) {
        if (!mkdtemp(dir))
                return -1;
        dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return dir_fd < 0 ? -1 : 0;
}

static int teardown(void **state) {
        unlinkat(dir_fd, "sub/f", 0);
        unlinkat(dir_fd, "f", 0);
        unlinkat(dir_fd, "sub", AT_REMOVEDIR);
        fd_close(dir_fd);
        return rmdir(dir);
}

static void assert_file(const char *path, const char *content) {
        _cleanup_free_ char *data = NULL;
        size_t n;

        assert_int_equal(fd_read_file(dir_fd, path, 1000, &data, &n), 0);
        assert_int_equal(n, strlen(content));
        assert_string_equal(data, content);
}

static void test_atomic(void **state) {
        _cleanup_close_ int old = -1;
        _cleanup_free_ char *data = NULL;
        struct stat st;
        size_t n;

        assert_int_equal(fd_write_file_atomic(dir_fd, "f", "first", 5, 0640), 0);
        assert_file("f", "first");
        old = openat(dir_fd, "f", O_RDONLY | O_CLOEXEC);
        /* A temporary file left by a crash, and a symlink laid in its place, are neither followed nor in the way. */
        assert_int_equal(symlinkat("f", dir_fd, "f.new"), 0);
        assert_int_equal(fd_write_file_atomic(dir_fd, "f", "second!", 7, 0600), 0);
        assert_file("f", "second!");
        assert_int_equal(fstatat(dir_fd, "f", &st, AT_SYMLINK_NOFOLLOW), 0);
        assert_true(S_ISREG(st.st_mode));
        assert_int_equal(st.st_mode & 0777, 0600);
        assert_int_equal(faccessat(dir_fd, "f.new", F_OK, AT_SYMLINK_NOFOLLOW), -1);
        /* Who had it open still reads the first, whole. */
        assert_int_equal(fd_read_all(old, 100, &data, &n), 0);
        assert_string_equal(data, "first");

        assert_int_equal(mkdirat(dir_fd, "sub", 0700), 0);
        assert_int_equal(fd_write_file_atomic(dir_fd, "sub/f", "", 0, 0600), 0);
        assert_file("sub/f", "");
        assert_int_equal(fd_write_file_atomic(dir_fd, "absent/f", "x", 1, 0600), -ENOENT);
        /* A rename that fails leaves nothing behind. */
        assert_int_equal(fd_write_file_atomic(dir_fd, "sub", "x", 1, 0600), -EISDIR);
        assert_int_equal(faccessat(dir_fd, "sub.new", F_OK, 0), -1);
}

static void test_read(void **state) {
        _cleanup_free_ char *data = NULL, *untouched = NULL;
        _cleanup_free_ char *big = malloc(100000);
        size_t n = 77;

        memset(big, 'x', 100000);
        assert_int_equal(fd_write_file_atomic(dir_fd, "f", big, 100000, 0600), 0);
        assert_int_equal(fd_read_file(dir_fd, "f", 99999, &untouched, &n), FD_E_TOO_LARGE);
        assert_null(untouched);
        assert_int_equal(n, 77);
        assert_int_equal(fd_read_file(dir_fd, "f", 100000, &data, &n), 0);
        assert_int_equal(n, 100000);
        assert_int_equal(data[100000], 0);
        assert_memory_equal(data, big, 100000);
        assert_int_equal(fd_read_file(dir_fd, "absent", 10, &untouched, &n), -ENOENT);
        assert_int_equal(fd_read_file(dir_fd, ".", 10, &untouched, &n), -EISDIR);
}

static void test_sealed(void **state) {
        _cleanup_close_ int fd = -1;
        char data[8];

        assert_int_equal(fd_new_sealed_memfd("prompt", "hello", 5, &fd), 0);
        assert_int_equal(read(fd, data, sizeof(data)), 5);
        assert_memory_equal(data, "hello", 5);
        assert_int_equal(pwrite(fd, "x", 1, 0), -1);
        assert_int_equal(errno, EPERM);
        assert_int_equal(ftruncate(fd, 0), -1);
        assert_int_equal(ftruncate(fd, 100), -1);
        assert_ptr_equal(mmap(NULL, 5, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
        assert_int_equal(fcntl(fd, F_GET_SEALS), F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

static void test_ownership(void **state) {
        int pipe_fds[2], taken;

        assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
        taken = steal_fd(&pipe_fds[1]);
        assert_int_equal(pipe_fds[1], -1);
        assert_int_equal(fd_set_nonblock(pipe_fds[0], true), 0);
        assert_int_equal(read(pipe_fds[0], &(char){ 0 }, 1), -1);
        assert_int_equal(errno, EAGAIN);
        assert_int_equal(fd_set_nonblock(pipe_fds[0], false), 0);
        assert_false(fcntl(pipe_fds[0], F_GETFL) & O_NONBLOCK);
        {
                _cleanup_close_ _unused_ int scoped = taken;
        }
        assert_int_equal(fcntl(taken, F_GETFD), -1);
        errno = EXDEV;
        fd_close(-1);
        fd_close(pipe_fds[0]);
        assert_int_equal(errno, EXDEV);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_atomic),
                cmocka_unit_test(test_read),
                cmocka_unit_test(test_sealed),
                cmocka_unit_test(test_ownership),
        };
        return cmocka_run_group_tests(tests, setup, teardown);
}

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/fd.h"

int fd_read_all(int fd, size_t max, char **ret_data, size_t *ret_n) {
        _cleanup_free_ char *data = NULL;
        size_t n = 0, capacity = 0;

        for (;;) {
                ssize_t k;
                if (n + 1 >= capacity) {
                        size_t larger = capacity ? capacity * 2 : 4096;
                        char *p = realloc(data, larger);
                        if (!p)
                                return error_origin(-ENOMEM);
                        data = p;
                        capacity = larger;
                }
                k = read(fd, data + n, capacity - n - 1);
                if (k < 0 && errno == EINTR)
                        continue;
                if (k < 0)
                        return error_origin(-errno);
                if (k == 0)
                        break;
                n += (size_t)k;
                if (n > max)
                        return FD_E_TOO_LARGE;
        }
        data[n] = 0;
        *ret_data = steal_ptr(&data);
        *ret_n = n;
        return 0;
}

int fd_read_file(int dir_fd, const char *path, size_t max, char **ret_data, size_t *ret_n) {
        _cleanup_close_ int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

        if (fd < 0)
                return error_origin(-errno);
        return fd_read_all(fd, max, ret_data, ret_n);
}

int fd_write_all(int fd, const void *data, size_t n) {
        const char *p = data;

        while (n > 0) {
                ssize_t k = write(fd, p, n);
                if (k < 0 && errno == EINTR)
                        continue;
                if (k < 0)
                        return error_origin(-errno);
                p += k;
                n -= (size_t)k;
        }
        return 0;
}

int fd_new_sealed_memfd(const char *name, const void *data, size_t n, int *ret_fd) {
        _cleanup_close_ int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
        int r;

        if (fd < 0)
                return error_origin(-errno);
        r = fd_write_all(fd, data, n);
        if (r)
                return error_trace(r);
        if (lseek(fd, 0, SEEK_SET) < 0 ||
            fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
                return error_origin(-errno);
        *ret_fd = steal_fd(&fd);
        return 0;
}

int fd_write_file_atomic(int dir_fd, const char *path, const void *data, size_t n, mode_t mode) {
        _cleanup_free_ char *temporary = NULL, *parent = NULL;
        _cleanup_close_ int fd = -1, parent_fd = -1;
        char *slash;
        int r;

        if (asprintf(&temporary, "%s.new", path) < 0)
                return error_origin(-ENOMEM);
        if (unlinkat(dir_fd, temporary, 0) < 0 && errno != ENOENT)
                return error_origin(-errno);
        fd = openat(dir_fd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
        if (fd < 0)
                return error_origin(-errno);
        r = fd_write_all(fd, data, n);
        if (!r && fsync(fd) < 0)
                r = error_origin(-errno);
        if (!r && renameat(dir_fd, temporary, dir_fd, path) < 0)
                r = error_origin(-errno);
        if (r) {
                (void)unlinkat(dir_fd, temporary, 0);
                return r;
        }
        parent = strdup(path);
        if (!parent)
                return error_origin(-ENOMEM);
        slash = strrchr(parent, '/');
        if (slash)
                slash[slash == parent] = 0;
        parent_fd = openat(dir_fd, slash ? parent : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (parent_fd < 0 || fsync(parent_fd) < 0)
                return error_origin(-errno);
        return 0;
}

int fd_set_nonblock(int fd, bool nonblock) {
        int flags = fcntl(fd, F_GETFL);

        if (flags < 0 || fcntl(fd, F_SETFL, nonblock ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) < 0)
                return error_origin(-errno);
        return 0;
}

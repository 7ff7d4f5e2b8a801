#pragma once

/* File descriptors: ownership, and helpers that retry EINTR. */

#include <unistd.h>

#include "base/macro.h"

static inline void fd_close(int fd) {
        int saved = errno;

        if (fd >= 0)
                close(fd);
        errno = saved;
}

static inline void fd_closep(int *fd) {
        fd_close(*fd);
}
#define _cleanup_close_ _cleanup_(fd_closep)

static inline int steal_fd(int *fd) {
        int r = *fd;

        *fd = -1;
        return r;
}

enum {
        _FD_E_SUCCESS,
        FD_E_TOO_LARGE,         /* the file has more than max bytes */
};

/* Reads a whole file of at most max bytes; *ret_data is NUL-terminated beyond ret_n. -errno, FD_E_TOO_LARGE. */
int fd_read_file(int dir_fd, const char *path, size_t max, char **ret_data, size_t *ret_n) _must_check_;
/* The same from an open descriptor, from its current position to its end. */
int fd_read_all(int fd, size_t max, char **ret_data, size_t *ret_n) _must_check_;
/* Writes all n bytes, retrying short writes and EINTR (for blocking descriptors). */
int fd_write_all(int fd, const void *data, size_t n) _must_check_;
/* A memfd holding these bytes, sealed against writing, growing, shrinking and further seals, at offset 0. */
int fd_new_sealed_memfd(const char *name, const void *data, size_t n, int *ret_fd) _must_check_;
/* Replaces path atomically: temporary file beside it, fsync, rename, fsync of the directory. */
int fd_write_file_atomic(int dir_fd, const char *path, const void *data, size_t n, mode_t mode) _must_check_;
int fd_set_nonblock(int fd, bool nonblock) _must_check_;

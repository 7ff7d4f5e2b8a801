#include <fcntl.h>
#include <limits.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "launcher/etc.h"

#define ETC_REFRESH_US USEC_PER_SEC

const char *const etc_bound[] = { "alternatives", "ssl/certs", NULL };

static const char *const etc_files[] = {
        /* who and where */
        "passwd", "group", "nsswitch.conf", "hosts", "hostname", "resolv.conf", "host.conf", "gai.conf",
        "services", "protocols", "networks",
        /* the loader, time, language */
        "ld.so.cache", "ld.so.conf", "localtime", "timezone", "locale.conf", "locale.alias",
        /* programs */
        "os-release", "debian_version", "lsb-release", "mime.types", "magic", "profile", "bash.bashrc", "inputrc",
        "shells", "gitconfig", "ssl/openssl.cnf",
};
_Static_assert(ELEMENTSOF(etc_files) <= ETC_FILES, "a stamp for each file");

/* Written beside and renamed, so that a running sandbox sees the old text or the new. */
static int etc_write(Etc *etc, const char *name, const char *text, size_t n) {
        _cleanup_close_ int fd = openat(etc->fd, ".new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
        int r;

        if (fd < 0 || fchmod(fd, 0644) < 0)
                return error_origin(-errno);
        r = fd_write_all(fd, text, n);
        if (r)
                return error_trace(r);
        return renameat(etc->fd, ".new", etc->fd, name) < 0 ? error_origin(-errno) : 0;
}

/* A link into /usr is made again as a link: it leads to the same place in the sandbox. */
static int etc_link(Etc *etc, const char *name, const char *target) {
        if (unlinkat(etc->fd, name, 0) < 0 && errno != ENOENT)
                return error_origin(-errno);
        return symlinkat(target, etc->fd, name) < 0 ? error_origin(-errno) : 0;
}

static int etc_copy(Etc *etc, const char *name) {
        _cleanup_close_ int fd = -1;
        _cleanup_free_ char *text = NULL;
        char path[64], target[PATH_MAX];
        struct stat st;
        ssize_t k;
        size_t n;
        int r;

        snprintf(path, sizeof(path), "/etc/%s", name);
        k = readlink(path, target, sizeof(target) - 1);
        if (k > 0) {
                target[k] = 0;
                if (str_starts(target, "/usr/") || str_starts(target, "../usr/"))
                        return error_trace(etc_link(etc, name, target));
        }
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        if (fd < 0 || fstat(fd, &st) < 0)
                return error_origin(-errno);
        if (!S_ISREG(st.st_mode) || !(st.st_mode & S_IROTH))
                return error_origin(-EACCES);
        r = fd_read_all(fd, ETC_FILE_MAX, &text, &n);
        if (r)
                return error_fold(r);
        return error_trace(etc_write(etc, name, text, n));
}

void etc_refresh(Etc *etc) {
        uint64_t now = clock_monotonic_us();

        if (etc->refreshed_us && now - etc->refreshed_us < ETC_REFRESH_US)
                return;
        etc->refreshed_us = now;
        for (size_t i = 0; i < ELEMENTSOF(etc_files); i++) {
                struct stat st;
                char path[64];
                int r;

                snprintf(path, sizeof(path), "/etc/%s", etc_files[i]);
                if (stat(path, &st) < 0) {
                        if (etc->stamps[i].there && errno == ENOENT) {
                                (void)unlinkat(etc->fd, etc_files[i], 0);
                                etc->stamps[i].there = false;
                        }
                        continue;
                }
                if (etc->stamps[i].there && etc->stamps[i].device == st.st_dev && etc->stamps[i].inode == st.st_ino &&
                    etc->stamps[i].size == st.st_size &&
                    memcmp(&etc->stamps[i].changed, &st.st_ctim, sizeof(st.st_ctim)) == 0)
                        continue;
                r = etc_copy(etc, etc_files[i]);
                if (r < 0)
                        log_debug("%s is not shown to sandboxes: %s", path, strerror(-r));
                etc->stamps[i].there = true;
                etc->stamps[i].device = st.st_dev;
                etc->stamps[i].inode = st.st_ino;
                etc->stamps[i].size = st.st_size;
                etc->stamps[i].changed = st.st_ctim;
        }
}

int etc_init(Etc *etc, int runtime_fd) {
        static const char *const folders[] = { "etc", "etc/ssl", "etc/ssl/certs", "etc/alternatives" };

        for (size_t i = 0; i < ELEMENTSOF(folders); i++)
                if (mkdirat(runtime_fd, folders[i], 0755) < 0 && errno != EEXIST)
                        return error_origin(-errno);
        etc->fd = openat(runtime_fd, "etc", O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (etc->fd < 0)
                return error_origin(-errno);
        if (symlinkat("../proc/self/mounts", etc->fd, "mtab") < 0 && errno != EEXIST)
                return error_origin(-errno);
        etc_refresh(etc);
        return 0;
}

void etc_deinit(Etc *etc) {
        fd_close(etc->fd);
        etc->fd = -1;
}

#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "launcher/landlock.h"

/* Newer than the headers of Debian 12: linux/landlock.h of 6.12. */
#ifndef LANDLOCK_ACCESS_FS_TRUNCATE
#define LANDLOCK_ACCESS_FS_TRUNCATE (1ULL << 14)
#endif
#ifndef LANDLOCK_ACCESS_FS_IOCTL_DEV
#define LANDLOCK_ACCESS_FS_IOCTL_DEV (1ULL << 15)
#endif
#ifndef LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
#define LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET (1ULL << 0)
#define LANDLOCK_SCOPE_SIGNAL (1ULL << 1)
#endif

/* struct landlock_ruleset_attr of ABI 6; older kernels take a shorter one. */
typedef struct LandlockRuleset {
        uint64_t handled_access_fs;
        uint64_t handled_access_net;
        uint64_t scoped;
} LandlockRuleset;

#define LANDLOCK_READ (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define LANDLOCK_WRITE                                                                                                 \
        (LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |              \
         LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK |                    \
         LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_SYM | LANDLOCK_ACCESS_FS_REFER |                       \
         LANDLOCK_ACCESS_FS_TRUNCATE)
#define LANDLOCK_ALL                                                                                                   \
        (LANDLOCK_READ | LANDLOCK_WRITE | LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_MAKE_CHAR |                  \
         LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_IOCTL_DEV)
/* What a rule about a file, and not a folder, may grant. */
#define LANDLOCK_FILE                                                                                                  \
        (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_EXECUTE |                   \
         LANDLOCK_ACCESS_FS_TRUNCATE | LANDLOCK_ACCESS_FS_IOCTL_DEV)

static uint64_t landlock_handled(int abi) {
        uint64_t access = LANDLOCK_ALL;

        if (abi < 3)
                access &= ~LANDLOCK_ACCESS_FS_TRUNCATE;
        if (abi < 5)
                access &= ~LANDLOCK_ACCESS_FS_IOCTL_DEV;
        return access;
}

/* A path that is not there needs no rule. */
static int landlock_allow(int ruleset, const char *path, uint64_t access) {
        _cleanup_close_ int fd = open(path, O_PATH | O_CLOEXEC);
        struct landlock_path_beneath_attr rule = { .parent_fd = fd };
        struct stat st;

        if (fd < 0)
                return errno == ENOENT || errno == EACCES ? 0 : error_origin(-errno);
        if (fstat(fd, &st) < 0)
                return error_origin(-errno);
        rule.allowed_access = S_ISDIR(st.st_mode) ? access : access & LANDLOCK_FILE;
        if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
                return error_origin(-errno);
        return 0;
}

static int landlock_add_rules(int ruleset, uint64_t handled, const View *view, const Paths *paths) {
        const uint64_t read_only = LANDLOCK_READ | LANDLOCK_ACCESS_FS_EXECUTE;
        const uint64_t scratch = read_only | LANDLOCK_WRITE;
        static const struct {
                const char *path;
                uint64_t access;
        } rules[] = {
                /* Listing folders shows what the mounts show anyway. */
                { "/", LANDLOCK_ACCESS_FS_READ_DIR },
                { "/etc", LANDLOCK_READ },
                { "/proc", LANDLOCK_READ | LANDLOCK_ACCESS_FS_WRITE_FILE },
                /* The nodes that are mounted there, the task's GPUs among them; none can be made (MAKE_CHAR). */
                { "/dev", LANDLOCK_READ | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_TRUNCATE |
                                  LANDLOCK_ACCESS_FS_IOCTL_DEV },
                { "/dev/shm", LANDLOCK_READ | LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_WRITE },
                { "/tmp", LANDLOCK_READ | LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_WRITE },
                { "/run", LANDLOCK_READ | LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_WRITE },
        };
        char path[16];
        int r;

        for (size_t i = 0; i < ELEMENTSOF(rules); i++) {
                r = landlock_allow(ruleset, rules[i].path, rules[i].access & handled);
                if (r)
                        return error_trace(r);
        }
        for (size_t i = 0; i < view->n_entries; i++) {
                /* A link leads to where another entry is. */
                if (*view->entries[i].target)
                        continue;
                path[0] = '/';
                memccpy(path + 1, view->entries[i].name, 0, sizeof(path) - 1);
                r = landlock_allow(ruleset, path, read_only & handled);
                if (r)
                        return error_trace(r);
        }
        for (size_t i = 0; i < paths->n; i++) {
                r = landlock_allow(ruleset, paths->binds[i].path,
                                   (paths->binds[i].writable ? scratch : read_only) & handled);
                if (r)
                        return error_trace(r);
        }
        return 0;
}

int landlock_enter(int abi, const View *view, const Paths *paths, Failure *failure) {
        LandlockRuleset attr = {
                .handled_access_fs = landlock_handled(abi),
                .scoped = LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | LANDLOCK_SCOPE_SIGNAL,
        };
        size_t size = abi >= 6 ? sizeof(attr) : offsetof(LandlockRuleset, handled_access_net);
        _cleanup_close_ int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, size, 0);
        int r;

        if (ruleset < 0)
                return failure_set(failure, "landlock", errno, "no Landlock ruleset can be made: %s", strerror(errno));
        r = landlock_add_rules(ruleset, attr.handled_access_fs, view, paths);
        if (r)
                return failure_set(failure, "landlock", -r, "a Landlock rule can't be added: %s", strerror(-r));
        if (syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
                return failure_set(failure, "landlock", errno, "Landlock can't be entered: %s", strerror(errno));
        return 0;
}

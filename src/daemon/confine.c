#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/log.h"
#include "daemon/confine.h"

/*
 * What the reactor, SQLite, libcrypto, NSS lookups (key create --run-as) and libc need once everything is set up. Names
 * that this libseccomp or architecture does not know are skipped.
 */
static const char *const allowed[] = {
        /* the ring and the clock */
        "io_uring_enter", "clock_gettime", "clock_getres", "clock_nanosleep", "gettimeofday", "nanosleep", "time",
        /* files: the database and its log, manifests of agents that are probed again */
        "openat", "open", "close", "read", "pread64", "readv", "write", "pwrite64", "writev", "lseek", "ftruncate", "fallocate",
        "fsync", "fdatasync", "fcntl", "flock", "stat", "fstat", "lstat", "newfstatat", "statx", "fstatfs", "statfs", "access", "faccessat",
        "faccessat2", "readlink", "readlinkat", "getdents64", "unlink", "unlinkat", "rename", "renameat", "renameat2", "mkdir", "mkdirat",
        "fchmod", "fchown", "getcwd", "dup", "dup3", "ioctl", "pipe2", "memfd_create",
        /* sockets: the launcher, the journal, the service manager, name lookups; Unix ones only, see below */
        "connect", "sendto", "sendmsg", "sendmmsg", "recvfrom", "recvmsg", "getsockopt", "setsockopt", "getsockname", "getpeername",
        "bind", "shutdown", "poll", "ppoll", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "accept4",
        /* memory */
        "brk", "mmap", "munmap", "mremap", "madvise", "mprotect", "mlock", "munlock",
        /* itself */
        "getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getrandom", "uname", "sysinfo", "getrusage",
        "prlimit64", "sched_yield", "sched_getaffinity", "futex", "rseq", "set_robust_list", "restart_syscall",
        "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "signalfd4", "tgkill", "exit", "exit_group",
};

static void filter_releasep(scmp_filter_ctx *filter) {
        if (*filter)
                seccomp_release(*filter);
}

int confine(void) {
        _cleanup_(filter_releasep) scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
        int r;

        if (!filter)
                return error_origin(-ENOMEM);
        /* No core can be made, so none holds a prompt. */
        if (setrlimit(RLIMIT_CORE, &(struct rlimit){}) < 0 || prctl(PR_SET_DUMPABLE, 0) < 0)
                return error_origin(-errno);
        for (size_t i = 0; i < ELEMENTSOF(allowed); i++) {
                int number = seccomp_syscall_resolve_name(allowed[i]);
                if (number == __NR_SCMP_ERROR)
                        continue;
                r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 0);
                if (r < 0 && r != -EDOM)
                        return error_origin(r);
        }
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
        r = r ?: seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
        r = r ?: seccomp_attr_set(filter, SCMP_FLTATR_CTL_NNP, 1);
        r = r ?: seccomp_load(filter);
        if (r)
                return error_origin(r);
        return 0;
}

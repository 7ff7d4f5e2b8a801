#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "launcher/home.h"
#include "launcher/init-image.h"
#include "launcher/init.h"
#include "launcher/landlock.h"
#include "launcher/mounts.h"
#include "launcher/paths.h"
#include "launcher/sandbox.h"
#include "launcher/user.h"
#include "launcher/userns.h"


/* Where the descriptors stand once everything else is closed. */
enum {
        SANDBOX_FD_REPORT = 3,
        SANDBOX_FD_STATUS,
        SANDBOX_FD_INIT,        /* where there is one */
};

static _noreturn_ void sandbox_fail(Sandbox *s, const Failure *failure) {
        SandboxReport report = { .kind = SANDBOX_REPORT_FAILED, .failure = *failure };

        _Static_assert(sizeof(report) <= 4096, "one atomic write (PIPE_BUF)");
        (void)!write(s->report_fd, &report, sizeof(report));
        _exit(1);
}

static int sandbox_fail_ids(const char *what, Failure *failure) {
        int error = errno;

        return failure_set(failure, "user", error, "%s: %s; the launcher's service must keep CAP_SETUID, CAP_SETGID and CAP_SETPCAP", what, strerror(error));
}

static int sandbox_find_user(Sandbox *s, Failure *failure) {
        uid_t uid = s->user.uid;
        int r;

        if (s->user_known)
                return 0;
        r = user_by_uid(uid, &s->user);
        if (r == USER_E_UNKNOWN)
                return failure_set(failure, "user", ENOENT, "uid %u has no account on this machine; map the principal to a user that exists", (unsigned)uid);
        return r ? failure_set(failure, "user", -r, "the account of uid %u can't be read: %s", (unsigned)uid, strerror(-r)) : 0;
}

/*
 * Seeds the home and opens the task's folders as the task's user would; our own rights are back afterwards. By system
 * calls: the C library's functions would change all threads of the memory that we may share.
 */
static int sandbox_open_as_user(const Sandbox *s, int home_fd, Paths *paths, Failure *failure) {
        int r;

        r = paths_open_configured(paths, s->config, failure);
        if (r)
                return error_trace(r);
        if (!s->caps->userns &&
            (syscall(SYS_setgroups, s->user.n_groups, s->user.groups) < 0 ||
             syscall(SYS_setresgid, (gid_t)-1, s->user.gid, (gid_t)-1) < 0 ||
             syscall(SYS_setresuid, (uid_t)-1, s->user.uid, (uid_t)-1) < 0))
                return sandbox_fail_ids("the task's user can't be taken on", failure);
        umask(0022);
        r = home_seed(home_fd, s->spec, failure);
        if (!r)
                r = paths_open(paths, s->spec, s->config, failure);
        if (!s->caps->userns && syscall(SYS_setresuid, (uid_t)-1, 0, (uid_t)-1) < 0)
                return sandbox_fail_ids("our own user can't be taken back", failure);
        return error_trace(r);
}

/*
 * Loopback in a network namespace of its own, so that a test's local server works; without the right to it, it stays
 * down.
 */
static void sandbox_loopback_up(void) {
        _cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };

        if (fd >= 0)
                (void)ioctl(fd, SIOCSIFFLAGS, &request);
}

/* Drops every id and capability for good. */
static int sandbox_drop(const Sandbox *s, Failure *failure) {
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {};

        if (s->caps->unbounded && caps_drop_bounding() < 0)
                return sandbox_fail_ids("the capability bounding set can't be emptied", failure);
        if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
                return sandbox_fail_ids("the ambient capabilities can't be cleared", failure);
        if (!s->caps->userns &&
            (syscall(SYS_setresgid, s->user.gid, s->user.gid, s->user.gid) < 0 ||
             syscall(SYS_setresuid, s->user.uid, s->user.uid, s->user.uid) < 0))
                return sandbox_fail_ids("the task's user can't be taken on", failure);
        if (syscall(SYS_capset, &header, none) < 0)
                return sandbox_fail_ids("the capabilities can't be dropped", failure);
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                return sandbox_fail_ids("no_new_privs can't be set", failure);
        /* After the change of ids, which clears both. */
        (void)prctl(PR_SET_DUMPABLE, 0);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        return 0;
}

/*
 * No core of an agent, whose memory holds the prompt. To a core_pattern that is a pipe a limit of 0 means nothing,
 * but 1 is never piped and too small for a file (core(5)). It needs our rights still, where our own limit is 0 already.
 */
static int sandbox_forbid_cores(Failure *failure) {
        const struct rlimit one = { .rlim_cur = 1, .rlim_max = 1 }, none = {};

        if (setrlimit(RLIMIT_CORE, &one) < 0 && setrlimit(RLIMIT_CORE, &none) < 0)
                return failure_set(failure, "rlimits", errno, "core files can't be forbidden: %s", strerror(errno));
        return 0;
}

static int sandbox_set_limits(const Sandbox *s, Failure *failure) {
        const struct rlimit
                files = { .rlim_cur = SANDBOX_NOFILE_SOFT, .rlim_max = SANDBOX_NOFILE_HARD },
                size = { .rlim_cur = SANDBOX_FSIZE_MAX, .rlim_max = SANDBOX_FSIZE_MAX };
        rlim_t processes = s->caps->userns && s->pids_max ? s->pids_max + 1 : SANDBOX_NPROC_SHARED;
        struct rlimit limit;

        if (setrlimit(RLIMIT_FSIZE, &size) < 0)
                return failure_set(failure, "rlimits", errno, "resource limits can't be set: %s", strerror(errno));
        /* The hard limit may be lower already; then it is the limit. */
        if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
                limit.rlim_max = MIN(limit.rlim_max, files.rlim_max);
                limit.rlim_cur = MIN(limit.rlim_max, files.rlim_cur);
                (void)setrlimit(RLIMIT_NOFILE, &limit);
        }
        if (!s->pids_counted && getrlimit(RLIMIT_NPROC, &limit) == 0) {
                limit.rlim_max = limit.rlim_cur = MIN(limit.rlim_max, processes);
                (void)setrlimit(RLIMIT_NPROC, &limit);
        }
        return 0;
}

/* Puts the descriptors in their places and closes all others. */
static int sandbox_set_fds(Sandbox *s, Failure *failure) {
        const int from[] = { s->stdin_fd, s->stdout_fd, s->stderr_fd, s->report_fd, s->status_fd, s->init_fd };
        const size_t n = s->init_fd < 0 ? ELEMENTSOF(from) - 1 : ELEMENTSOF(from);
        int high[ELEMENTSOF(from)];

        for (size_t i = 0; i < n; i++) {
                /* Above the places, so that no dup3 overwrites one that is still to come. */
                high[i] = fcntl(from[i], F_DUPFD_CLOEXEC, (int)ELEMENTSOF(from));
                if (high[i] < 0)
                        return failure_set(failure, "descriptors", errno, "descriptors can't be arranged: %s", strerror(errno));
        }
        for (int i = 0; i < (int)n; i++)
                if (dup3(high[i], i, O_CLOEXEC) < 0 || (i < 3 && fcntl(i, F_SETFD, 0) < 0))
                        return failure_set(failure, "descriptors", errno, "descriptors can't be arranged: %s", strerror(errno));
        s->report_fd = SANDBOX_FD_REPORT;
        s->status_fd = SANDBOX_FD_STATUS;
        if (syscall(SYS_close_range, (unsigned)n, ~0U, 0) < 0)
                return failure_set(failure, "descriptors", errno, "descriptors can't be closed: %s", strerror(errno));
        return 0;
}

/* Agents go before the daemons when the machine runs out of memory. */
static void sandbox_set_oom_score(void) {
        _cleanup_close_ int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

        if (fd >= 0)
                (void)!write(fd, "200", 3);
}

static int sandbox_enter(Sandbox *s, Failure *failure) {
        _cleanup_close_ int home_fd = -1;
        Paths paths = { .n = 0 };
        int r = 0;

        if (s->caps->userns) {
                r = userns_map_self(s->user.uid, s->user.gid);
                if (r)
                        return failure_set(failure, "userns", -r, "the task's user can't be mapped into its namespace: %s", strerror(-r));
        }
        sandbox_set_oom_score();
        r = sandbox_find_user(s, failure);
        if (!r)
                r = home_new(s->tasks_path, &s->spec->attempt, s->user.uid, s->user.gid, &home_fd, failure);
        if (!r)
                r = sandbox_open_as_user(s, home_fd, &paths, failure);
        if (!r)
                r = paths_check(&paths, s->view, failure);
        if (!r)
                r = paths_add(&paths, VIEW_HOME, home_fd, true, failure);
        if (r)
                return error_trace(r);
        paths_sort(&paths);
        if (s->stdin_fd < 0) {
                s->stdin_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
                if (s->stdin_fd < 0)
                        return failure_set(failure, "descriptors", errno, "/dev/null can't be opened: %s", strerror(errno));
        }
        r = mounts_enter(&(MountPlan){ .view = s->view,
                                       .paths = &paths,
                                       .devices = s->devices,
                                       .uid = s->user.uid,
                                       .gid = s->user.gid,
                                       .userns = s->caps->userns,
                                       .proc_fresh = s->caps->proc_fresh,
                                       .proc_bound = s->caps->landlock_abi > 0 },
                         failure);
        if (r)
                return error_trace(r);
        /* Not in clone3: there it would begin at the launcher's cgroup. */
        (void)unshare(CLONE_NEWCGROUP);
        if (!s->spec->network)
                sandbox_loopback_up();
        r = sandbox_forbid_cores(failure);
        if (!r)
                r = sandbox_drop(s, failure);
        if (!r)
                r = sandbox_set_limits(s, failure);
        if (!r && s->caps->landlock_abi > 0)
                r = landlock_enter(s->caps->landlock_abi, s->view, &paths, failure);
        if (!r)
                r = sandbox_set_fds(s, failure);
        if (!r && chdir(s->spec->workspace ? s->spec->workspace : VIEW_HOME) < 0)
                r = failure_set(failure, "workspace", errno, "the working folder can't be entered: %s", strerror(errno));
        home_fd = -1;   /* closed with all others */
        return error_trace(r);
}

/* Runs in init's memory, on a stack of its own, until it execs. */
static int sandbox_agent(void *userdata) {
        Sandbox *s = userdata;
        SandboxReport ready = { .kind = SANDBOX_REPORT_READY };
        Failure failure = {};
        const char *program = s->spec->argv.items[0];
        char *no_environment[] = { NULL };
        int r;

        (void)setsid();
        (void)close(s->status_fd);
        (void)signal(SIGPIPE, SIG_DFL);         /* all others are the default's since our own start */
        (void)sigprocmask(SIG_SETMASK, s->signals, NULL);
        (void)!write(s->report_fd, &ready, sizeof(ready));
        r = seccomp_filter_install(s->filter);
        if (r) {
                (void)failure_set(&failure, "seccomp", -r, "the seccomp filter can't be installed: %s", strerror(-r));
                sandbox_fail(s, &failure);
        }
        (void)execve(program, s->spec->argv.items, s->spec->environment.items ?: no_environment);
        if (errno == ENOENT || errno == EACCES)
                (void)failure_set(&failure, "exec", errno, "%s can't be started inside the sandbox: %s; install it below /usr, or add its folder to read_only "
                                  "of the agent in agent-router.yaml", program, strerror(errno));
        else
                (void)failure_set(&failure, "exec", errno, "%s can't be started: %s", program, strerror(errno));
        sandbox_fail(s, &failure);
}

_noreturn_ void sandbox_run(Sandbox *s, void *stack) {
        Failure failure = {};
        SandboxReport left = { .kind = SANDBOX_REPORT_LEFT };
        bool shared = s->init_fd >= 0;
        sigset_t all;
        pid_t agent;

        (void)prctl(PR_SET_NAME, "agent-init");
        sigfillset(&all);
        /* No session of its own, which would cost a scheduling group: with all signals blocked, ours means nothing. */
        (void)sigprocmask(SIG_SETMASK, &all, NULL);
        if (sandbox_enter(s, &failure) < 0)
                sandbox_fail(s, &failure);
        /* As vfork(2): a copy of our memory, to be thrown away by execve, would cost more than all the rest. */
        agent = clone(sandbox_agent, stack, CLONE_VM | CLONE_VFORK | SIGCHLD, s);
        if (agent < 0) {
                (void)failure_set(&failure, "fork", errno, "the agent can't be forked: %s; raise sandbox.pids_max", strerror(errno));
                sandbox_fail(s, &failure);
        }
        if (shared)
                *s->alone = true;
        left.at_us = clock_monotonic_us();
        (void)!write(s->report_fd, &left, sizeof(left));
        /* Nothing of the agent's stays here: neither its secrets, nor its pipes. The last that goes is the report's. */
        if (!shared)
                spec_wipe_environment(s->spec);
        (void)syscall(SYS_close_range, STDIN_FILENO, SANDBOX_FD_REPORT, 0);
        if (!shared)
                init_run(agent, SANDBOX_FD_STATUS);
        /* The Sandbox may be gone from here on. */
        init_image_exec(SANDBOX_FD_INIT, agent, SANDBOX_FD_STATUS);
        _exit(1);
}

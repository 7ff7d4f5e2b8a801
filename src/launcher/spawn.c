#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "launcher/sandbox.h"
#include "launcher/spawn.h"

typedef struct SpawnPipes {
        int out[2], err[2], report[2], status[2];       /* read end, write end */
} SpawnPipes;

static void spawn_pipes_close(SpawnPipes *p) {
        int *pairs[] = { p->out, p->err, p->report, p->status };

        for (size_t i = 0; i < ELEMENTSOF(pairs); i++) {
                fd_close(pairs[i][0]);
                fd_close(pairs[i][1]);
        }
}

/* Our ends do not block; the child's do, as programs expect of their stdout. */
static int spawn_pipe(int pair[static 2]) {
        if (pipe2(pair, O_CLOEXEC) < 0)
                return error_origin(-errno);
        return error_trace(fd_set_nonblock(pair[0], true));
}

static int spawn_check_require(const Launcher *l, const Spec *spec, Failure *failure) {
        for (size_t i = 0; i < spec->require.n; i++) {
                const char *name = spec->require.items[i], *why;

                if (caps_has(&l->caps, name))
                        continue;
                why = caps_why_absent(&l->caps, name);
                return failure_set(failure, "require", EOPNOTSUPP,
                                   "sandbox.require wants %s, which this machine lacks (%s)", name,
                                   why ?: "unknown capability");
        }
        if (!l->caps.namespaces)
                return failure_set(failure, "require", EOPNOTSUPP, "no sandbox can be made here: %s",
                                   caps_why_absent(&l->caps, "userns") ?: caps_why_absent(&l->caps, "pidns") ?: "no namespaces");
        return 0;
}

static int spawn_check_user(Launcher *l, const Spec *spec, Sandbox *s, Failure *failure) {
        int64_t uid = spec->uid >= 0 ? spec->uid : l->config.worker_uid;

        if (uid < 0)
                return failure_set(failure, "user", ENOENT, "the worker user %s has no account here; make it (systemd-sysusers) or set sandbox.worker_user in "
                                   "agent-router.yaml, and restart the launcher", l->config.worker_user);
        if (l->caps.userns && uid != (int64_t)geteuid())
                return failure_set(failure, "user", EPERM,
                                   "this launcher runs as uid %u and can't run a task as uid %lld; use the system "
                                   "instance for other users",
                                   (unsigned)geteuid(), (long long)uid);
        if (uid == 0)
                return failure_set(failure, "user", EPERM, "a task never runs as root; map the principal to an ordinary user");
        if (!l->caps.userns && uid != l->config.worker_uid && uid < l->config.uid_min)
                return failure_set(failure, "user", EPERM,
                                   "uid %lld is below sandbox.uid_min (%u), so it is a system account; map the "
                                   "principal to a person's account, "
                                   "or lower uid_min",
                                   (long long)uid, (unsigned)l->config.uid_min);
        s->user = (User){ .uid = (uid_t)uid, .gid = getegid() };
        s->user_known = l->caps.userns || user_cache_get(&l->users, (uid_t)uid, &s->user) == 0;
        return 0;
}

/* The prompt: a memfd that nobody can change any more. */
static int spawn_check_stdin(int fd, Failure *failure) {
        const int wanted = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW;
        int seals = fd < 0 ? wanted : fcntl(fd, F_GET_SEALS);

        if (seals < 0 || (seals & wanted) != wanted)
                return failure_set(failure, "stdin", EINVAL, "stdin must come as a memfd sealed against writing, growing and shrinking");
        if (fd >= 0 && lseek(fd, 0, SEEK_SET) < 0)
                return failure_set(failure, "stdin", errno, "stdin can't be rewound: %s", strerror(errno));
        return 0;
}

static uint64_t spawn_bound(uint64_t asked, uint64_t bound) {
        return asked && bound ? MIN(asked, bound) : asked ?: bound;
}

static void spawn_set_limits(const Config *c, const Spec *spec, CgroupLimits *ret_limits) {
        *ret_limits = (CgroupLimits){
                .memory_max = spawn_bound(spec->memory_max, c->memory_max),
                .pids_max = (uint32_t)spawn_bound(spec->pids_max, c->pids_max),
                .cpu_percent = (uint32_t)spawn_bound(spec->cpu_percent, c->cpu_percent),
        };
}

static int spawn_fail_resources(const char *what, int error, Failure *failure) {
        return failure_set(
                failure, "resources", error,
                "%s: %s; the machine or the launcher's service is at a limit (LimitNOFILE=, TasksMax=, memory, disk)",
                what, strerror(error));
}

static int spawn_clone(Attempt *a, Sandbox *s, bool network) {
        struct clone_args args = {
                .flags = CLONE_PIDFD | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS |
                         (network ? 0 : CLONE_NEWNET) | (s->caps->userns ? CLONE_NEWUSER : 0) |
                         (a->cgroup.fd >= 0 ? CLONE_INTO_CGROUP : 0),
                .pidfd = (uint64_t)(uintptr_t)&a->pidfd,
                .exit_signal = SIGCHLD,
                .cgroup = a->cgroup.fd >= 0 ? (uint64_t)a->cgroup.fd : 0,
        };
        pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));

        if (pid == 0)
                sandbox_run(s);
        if (pid < 0)
                return spawn_fail_resources("the sandbox can't be cloned", errno, &a->failure);
        a->pid = pid;
        return 0;
}

static int spawn_prepare(Attempt *a, const Spec *spec, int stdin_fd, Sandbox *s, SpawnPipes *pipes) {
        Launcher *l = a->launcher;
        CgroupLimits limits;
        int r;

        r = spawn_check_require(l, spec, &a->failure);
        if (!r)
                r = gpus_check(&l->config.gpus, spec->gpus, spec->n_gpus, &a->failure);
        if (!r)
                r = spawn_check_user(l, spec, s, &a->failure);
        if (!r)
                r = spawn_check_stdin(stdin_fd, &a->failure);
        if (!r)
                r = seccomp_cache_get(&l->filters, spec->seccomp ?: SPAWN_PROFILE, &s->filter, &a->failure);
        if (r)
                return error_trace(r);
        r = spawn_pipe(pipes->out);
        if (!r)
                r = spawn_pipe(pipes->err);
        if (!r)
                r = spawn_pipe(pipes->report);
        if (!r)
                r = spawn_pipe(pipes->status);
        if (r)
                return spawn_fail_resources("pipes can't be made", -r, &a->failure);
        spawn_set_limits(&l->config, spec, &limits);
        r = cgroup_new(&l->cgroups, &a->id, &limits, &a->cgroup);
        if (r)
                return failure_set(&a->failure, "cgroup", -r, "the task's cgroup can't be made in %s: %s", l->cgroups.path ?: "?", strerror(-r));
        s->pids_max = limits.pids_max;
        s->pids_counted = a->cgroup.fd >= 0 && l->cgroups.pids;
        return 0;
}

int spawn(Attempt *a, Spec *spec, int stdin_fd) {
        Launcher *l = a->launcher;
        _cleanup_(spawn_pipes_close) SpawnPipes pipes = { { -1, -1 }, { -1, -1 }, { -1, -1 }, { -1, -1 } };
        Sandbox s = {
                .spec = spec,
                .config = &l->config,
                .caps = &l->caps,
                .view = &l->view,
                .tasks_path = l->homes.tasks_path,
                .signals = &l->signals,
                .stdin_fd = stdin_fd,
        };
        int r;

        r = spawn_prepare(a, spec, stdin_fd, &s, &pipes);
        if (r)
                return error_trace(r);
        etc_refresh(&l->view.etc);
        s.stdout_fd = pipes.out[1];
        s.stderr_fd = pipes.err[1];
        s.report_fd = pipes.report[1];
        s.status_fd = pipes.status[1];
        r = spawn_clone(a, &s, spec->network);
        if (r) {
                (void)!cgroup_remove(&l->cgroups, &a->cgroup);
                return error_trace(r);
        }
        a->streams[0].fd = steal_fd(&pipes.out[0]);
        a->streams[1].fd = steal_fd(&pipes.err[0]);
        a->report_fd = steal_fd(&pipes.report[0]);
        a->status_fd = steal_fd(&pipes.status[0]);
        return 0;
}

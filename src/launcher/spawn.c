#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "launcher/credential.h"
#include "launcher/sandbox.h"
#include "launcher/spawn.h"

struct Spawn {
        Spec spec;
        StrList devices;
        Sandbox sandbox;
};

typedef struct SpawnPipes {
        int out[2], err[2], report[2], status[2];       /* read end, write end */
} SpawnPipes;

Spawn *spawn_free(Spawn *p) {
        if (!p)
                return NULL;
        spec_deinit(&p->spec);
        str_list_deinit(&p->devices);
        free(p);
        return NULL;
}

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

static void spawn_run(void *userdata, void *stack, _Atomic(bool) *alone) {
        Sandbox *s = userdata;

        s->alone = alone;
        sandbox_run(s, stack);
}

/*
 * The child shares our memory where that is safe. Not in a user namespace: to write its maps a process must be
 * dumpable, which we never are. Not where the name service is to be asked, which allocates, takes locks, and waits.
 */
static int spawn_clone(Attempt *a, Sandbox *s, bool network) {
        static _Alignas(16) uint8_t stack[SANDBOX_STACK];
        struct clone_args args = {
                .flags = CLONE_PIDFD | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS |
                         (network ? 0 : CLONE_NEWNET) | (s->caps->userns ? CLONE_NEWUSER : 0) |
                         (a->cgroup.fd >= 0 ? CLONE_INTO_CGROUP : 0),
                .pidfd = (uint64_t)(uintptr_t)&a->pidfd,
                .exit_signal = SIGCHLD,
                .cgroup = a->cgroup.fd >= 0 ? (uint64_t)a->cgroup.fd : 0,
        };
        pid_t pid = -EAGAIN;

        if (s->user_known && !s->caps->userns) {
                s->init_fd = a->launcher->init_fd;
                pid = s->init_fd < 0 ? -EAGAIN : cloner_clone(&a->launcher->cloner, &args, spawn_run, s);
        }
        if (pid == -EAGAIN) {
                args.flags &= ~(uint64_t)(CLONE_VM | CLONE_VFORK | CLONE_PARENT_SETTID);
                s->init_fd = -1;
                pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
                if (pid == 0)
                        sandbox_run(s, stack + sizeof(stack));
                if (pid < 0)
                        pid = -errno;
        }
        if (pid < 0)
                return spawn_fail_resources("the sandbox can't be cloned", -pid, &a->failure);
        a->pid = pid;
        return 0;
}

/* Comes after all else that fills the environment: whichever GPUs a task was told of elsewhere, it sees its own. */
static int spawn_set_gpus(const Gpus *g, Spawn *p, Failure *failure) {
        int r;

        r = gpus_list_devices(g, p->spec.gpus, p->spec.n_gpus, GPU_DEV_DIR, &p->devices);
        if (!r)
                r = gpus_set_environment(g, p->spec.gpus, p->spec.n_gpus, &p->spec.environment);
        return r ? failure_set(failure, "gpu", -r, "no memory for the task's GPUs") : 0;
}

static int spawn_prepare(Attempt *a, Spawn *p, int stdin_fd, SpawnPipes *pipes) {
        Launcher *l = a->launcher;
        Sandbox *s = &p->sandbox;
        Spec *spec = &p->spec;
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
                r = credential_add_all(spec, &a->failure);
        if (!r)
                r = spawn_set_gpus(&l->config.gpus, p, &a->failure);
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
        _cleanup_(spawn_freep) Spawn *p = calloc(1, sizeof(*p));
        Sandbox *s;
        int r;

        if (!p)
                return spawn_fail_resources("no memory for the sandbox", ENOMEM, &a->failure);
        p->spec = *spec;
        *spec = (Spec){ .uid = -1 };
        s = &p->sandbox;
        *s = (Sandbox){
                .spec = &p->spec,
                .devices = &p->devices,
                .config = &l->config,
                .caps = &l->caps,
                .view = &l->view,
                .tasks_path = l->homes.tasks_path,
                .signals = &l->signals,
                .stdin_fd = stdin_fd,
                .init_fd = -1,
        };
        r = spawn_prepare(a, p, stdin_fd, &pipes);
        if (r)
                return error_trace(r);
        etc_refresh(&l->view.etc);
        s->stdout_fd = pipes.out[1];
        s->stderr_fd = pipes.err[1];
        s->report_fd = pipes.report[1];
        s->status_fd = pipes.status[1];
        r = spawn_clone(a, s, p->spec.network);
        if (r) {
                (void)!cgroup_remove(&l->cgroups, &a->cgroup);
                return error_trace(r);
        }
        a->spawn = steal_ptr(&p);
        a->streams[0].fd = steal_fd(&pipes.out[0]);
        a->streams[1].fd = steal_fd(&pipes.err[0]);
        a->report_fd = steal_fd(&pipes.report[0]);
        a->status_fd = steal_fd(&pipes.status[0]);
        return 0;
}

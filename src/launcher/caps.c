#include <linux/landlock.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "launcher/caps.h"
#include "launcher/userns.h"

void caps_deinit(Caps *c) {
        str_list_deinit(&c->present);
        str_list_deinit(&c->absent);
}

int caps_add(Caps *c, const char *name) {
        return error_trace(str_list_add(&c->present, name));
}

int caps_add_absent(Caps *c, const char *name, const char *format, ...) {
        _cleanup_free_ char *reason = NULL;
        char *line;
        va_list ap;
        int r;

        va_start(ap, format);
        r = vasprintf(&reason, format, ap);
        va_end(ap);
        if (r < 0) {
                reason = NULL;
                return error_origin(-ENOMEM);
        }
        if (asprintf(&line, "%s: %s", name, reason) < 0)
                return error_origin(-ENOMEM);
        r = str_list_add_take(&c->absent, line);
        if (r)
                free(line);
        return error_trace(r);
}

static bool caps_matches(const char *have, const char *wanted, char end) {
        size_t n = strlen(wanted);

        return strncmp(have, wanted, n) == 0 && (have[n] == end || have[n] == 0 || have[n] == '.');
}

bool caps_has(const Caps *c, const char *name) {
        for (size_t i = 0; i < c->present.n; i++)
                if (caps_matches(c->present.items[i], name, 0))
                        return true;
        return false;
}

const char *caps_why_absent(const Caps *c, const char *name) {
        for (size_t i = 0; i < c->absent.n; i++)
                if (caps_matches(c->absent.items[i], name, ':'))
                        return c->absent.items[i];
        return NULL;
}

/* The probe: the namespaces of a sandbox, and a fresh proc in them. The exit status says how far it came. */
static _noreturn_ void caps_probe_child(bool userns, uid_t uid, gid_t gid) {
        if (userns && userns_map_self(uid, gid) < 0)
                _exit(1);
        if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
                _exit(2);
        if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
                _exit(3);
        _exit(0);
}

/* The exit status of the probe, or -errno of clone3(2). */
static int caps_probe(bool userns) {
        struct clone_args args = {
                .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | (userns ? CLONE_NEWUSER : 0),
                .exit_signal = SIGCHLD,
        };
        uid_t uid = geteuid();
        gid_t gid = getegid();
        int status;
        pid_t pid;

        pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
        if (pid < 0)
                return -errno;
        if (pid == 0)
                caps_probe_child(userns, uid, gid);
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return -errno;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int caps_drop_bounding(void) {
        /* Up to the first that the kernel does not know. */
        for (unsigned long cap = 0; prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0; cap++)
                ;
        return errno == EINVAL ? 0 : error_origin(-errno);
}

static int caps_detect_namespaces(Caps *c) {
        int probe = caps_probe(c->userns), r;

        c->namespaces = probe == 0 || probe == 3;
        c->proc_fresh = probe == 0;
        if (!c->namespaces && c->userns) {
                r = caps_add_absent(c, "userns", "a user namespace can't be made (%s); allow it with sysctl kernel.unprivileged_userns_clone=1 "
                                    "(or kernel.apparmor_restrict_unprivileged_userns=0), or use the system instance",
                                    probe < 0 ? strerror(-probe) : "its ids can't be mapped");
                if (r)
                        return r;
        }
        if (!c->namespaces) {
                r = caps_add_absent(c, "pidns", "pid and mount namespaces can't be made (%s); the container or service must allow clone3 with CLONE_NEWPID "
                                    "and CLONE_NEWNS", probe < 0 ? strerror(-probe) : "mounts can't be changed");
                return r ? r : caps_add_absent(c, "mountns", "see pidns");
        }
        r = caps_add(c, "pidns");
        if (!r)
                r = caps_add(c, "mountns");
        if (!r && c->userns)
                r = caps_add(c, "userns");
        else if (!r)
                r = caps_probe(true) >= 0 ? caps_add(c, "userns")
                                          : caps_add_absent(c, "userns", "a user namespace can't be made; not needed, since this launcher runs as root");
        if (r)
                return r;
        return c->proc_fresh ? caps_add(c, "proc.fresh")
                             : caps_add_absent(c, "proc.fresh", "the kernel refuses a fresh /proc here, as it does in a container whose /proc is masked; "
                                               "run the container with an unmasked /proc (--security-opt systempaths=unconfined), or use the system instance");
}

static int caps_detect_landlock(Caps *c) {
        char name[32];
        int abi = (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

        if (abi < 0)
                return caps_add_absent(c, "landlock", "%s", errno == EOPNOTSUPP ? "disabled at boot; add landlock to the kernel's lsm= parameter"
                                                                                : "this kernel has none; Linux 5.19 or newer has it");
        /* ABI 1 refuses every rename across folders, which breaks git and npm. */
        if (abi < 2)
                return caps_add_absent(c, "landlock", "ABI 1 refuses to move files between folders, so it is not used; Linux 5.19 or newer has ABI 2");
        c->landlock_abi = abi;
        snprintf(name, sizeof(name), "landlock.%d", abi);
        return caps_add(c, name);
}

static int caps_detect_seccomp(Caps *c) {
        uint32_t action = SECCOMP_RET_ERRNO;

        if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) < 0)
                return caps_add_absent(c, "seccomp", "this kernel has no seccomp filters (CONFIG_SECCOMP_FILTER)");
        return caps_add(c, "seccomp");
}

/* What tasks share: an affinity (AllowedCPUs=, taskset) is ours and theirs. */
static void caps_measure(Caps *c) {
        /* The most that a kernel can be built for. */
        static cpu_set_t set[8192 / CPU_SETSIZE];
        struct sysinfo info;

        c->cpus = sched_getaffinity(0, sizeof(set), set) == 0 ? (uint32_t)CPU_COUNT_S(sizeof(set), set) : 1;
        if (sysinfo(&info) == 0)
                c->memory = (uint64_t)info.totalram * info.mem_unit;
}

int caps_detect(Caps *c) {
        int r;

        caps_measure(c);

        c->userns = geteuid() != 0;
        r = caps_detect_namespaces(c);
        if (!r)
                r = caps_detect_landlock(c);
        if (!r)
                r = caps_detect_seccomp(c);
        return error_trace(r);
}

#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "ctl/doctor.h"

/* How far the trial got, and what stopped it: written to a pipe by the trial itself. */
typedef enum Stage {
        STAGE_NAMESPACES,
        STAGE_PROC,
        STAGE_DONE,
} Stage;

typedef struct Trial {
        Stage stage;
        int error;
} Trial;

static void trial_tell(int fd, Stage stage, int error) {
        Trial t = { .stage = stage, .error = error };

        if (write(fd, &t, sizeof(t)) != (ssize_t)sizeof(t))
                _exit(1);
}

/* In a child, which makes a sandbox's namespaces: in user namespaces where it isn't root. */
static void trial_run(int fd, bool root) {
        const int flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;
        pid_t pid;

        if (unshare(root ? flags : flags | CLONE_NEWUSER) < 0) {
                trial_tell(fd, STAGE_NAMESPACES, errno);
                return;
        }
        pid = fork();
        if (pid < 0) {
                trial_tell(fd, STAGE_NAMESPACES, errno);
                return;
        }
        if (pid > 0) {
                waitpid(pid, NULL, 0);
                return;
        }
        if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
                trial_tell(fd, STAGE_NAMESPACES, errno);
        else if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
                trial_tell(fd, STAGE_PROC, errno);
        else
                trial_tell(fd, STAGE_DONE, 0);
        _exit(0);
}

static bool trial_start(bool root, Trial *ret_trial) {
        _cleanup_close_ int in = -1, out = -1;
        int pipe_fds[2];
        ssize_t n;
        pid_t pid;

        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                return false;
        in = pipe_fds[0];
        out = pipe_fds[1];
        pid = fork();
        if (pid < 0)
                return false;
        if (pid == 0) {
                trial_run(out, root);
                _exit(0);
        }
        fd_close(steal_fd(&out));
        n = read(in, ret_trial, sizeof(*ret_trial));
        waitpid(pid, NULL, 0);
        return n == (ssize_t)sizeof(*ret_trial);
}

static bool sysctl_is(const char *path, char value) {
        _cleanup_free_ char *data = NULL;
        size_t n;

        return fd_read_file(AT_FDCWD, path, 64, &data, &n) == 0 && data[0] == value && (n == 1 || data[1] == '\n');
}

static const char *namespaces_remedy(bool root, int error) {
        if (root)
                return "the container or service that this runs in lacks CAP_SYS_ADMIN: give it, or run as a plain user where "
                        "user namespaces are allowed";
        if (sysctl_is("/proc/sys/kernel/unprivileged_userns_clone", '0'))
                return "allow user namespaces: sysctl -w kernel.unprivileged_userns_clone=1, and the same in /etc/sysctl.d";
        if (error == ENOSPC || sysctl_is("/proc/sys/user/max_user_namespaces", '0'))
                return "allow user namespaces: sysctl -w user.max_user_namespaces=10000, and the same in /etc/sysctl.d";
        if (sysctl_is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", '1'))
                return "AppArmor restricts user namespaces: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0";
        return "user namespaces are refused here; use the system instance, or, in a container, a seccomp profile that admits "
                "unshare and clone with namespaces";
}

void doctor_check_namespaces(Doctor *d) {
        const bool root = geteuid() == 0;
        Trial trial;

        if (!trial_start(root, &trial)) {
                doctor_report(d, DOCTOR_WARNING, "namespaces", "try again", "the trial ended without a report");
                return;
        }
        if (trial.stage == STAGE_NAMESPACES) {
                doctor_report(d, DOCTOR_MISSING, "namespaces", namespaces_remedy(root, trial.error), "%s", strerror(trial.error));
                return;
        }
        doctor_report(d, DOCTOR_OK, "namespaces", NULL, "pid, mount, ipc, uts%s", root ? "" : ", user");
        if (trial.stage == STAGE_PROC)
                doctor_report(d, DOCTOR_WARNING, "fresh /proc",
                              "something is mounted over parts of /proc (a container does that): docker run --security-opt "
                              "systempaths=unconfined, podman run --security-opt unmask=ALL; without it agents see the "
                              "processes of this machine", "%s", strerror(trial.error));
        else
                doctor_report(d, DOCTOR_OK, "fresh /proc", NULL, "agents see their own processes alone");
}

/* Whether a space-separated list holds a word. */
static bool list_has(const char *list, const char *word) {
        size_t n = strlen(word);

        for (const char *p = list; (p = strstr(p, word)); p += n)
                if ((p == list || p[-1] == ' ') && (p[n] == ' ' || p[n] == '\n' || !p[n]))
                        return true;
        return false;
}

/* The subtree that an instance gets from its manager: the system's root, or the person's user manager. */
static void cgroup_directory(char ret_path[static 128]) {
        unsigned uid = (unsigned)getuid();

        if (uid == 0)
                snprintf(ret_path, 128, "/sys/fs/cgroup");
        else
                snprintf(ret_path, 128, "/sys/fs/cgroup/user.slice/user-%u.slice/user@%u.service", uid, uid);
}

void doctor_check_cgroups(Doctor *d) {
        static const char *const wanted[] = { "memory", "pids", "cpu" };
        char path[128 + sizeof("/cgroup.controllers")], lacking[64] = "";
        _cleanup_free_ char *controllers = NULL;
        struct statfs fs;
        size_t n;

        if (statfs("/sys/fs/cgroup", &fs) < 0 || (unsigned long)fs.f_type != CGROUP2_SUPER_MAGIC) {
                doctor_report(d, DOCTOR_WARNING, "cgroup v2",
                              "boot with systemd.unified_cgroup_hierarchy=1; without it no limits of memory, processes and CPU",
                              "/sys/fs/cgroup is not the unified hierarchy");
                return;
        }
        cgroup_directory(path);
        memcpy(path + strlen(path), "/cgroup.controllers", sizeof("/cgroup.controllers"));
        if (fd_read_file(AT_FDCWD, path, KIB(4), &controllers, &n)) {
                doctor_report(d, DOCTOR_WARNING, "cgroup v2",
                              "systemd gives a user its own subtree: log in as that user, or loginctl enable-linger USER",
                              "%s is not there", path);
                return;
        }
        for (size_t i = 0; i < ELEMENTSOF(wanted); i++)
                if (!list_has(controllers, wanted[i]))
                        snprintf(lacking + strlen(lacking), sizeof(lacking) - strlen(lacking), "%s%s", *lacking ? ", " : "",
                                 wanted[i]);
        if (*lacking)
                doctor_report(d, DOCTOR_WARNING, "cgroup v2", getuid() == 0 ?
                              "the kernel or the container does not give these controllers: their limits are not enforced" :
                              "let systemd delegate them: Delegate=cpu memory pids in /etc/systemd/system/user@.service.d/delegate.conf",
                              "without the controllers %s", lacking);
        else if (access("/run/systemd/system", F_OK) < 0 && access("/sys/fs/cgroup/cgroup.procs", W_OK) < 0)
                doctor_report(d, DOCTOR_WARNING, "cgroup v2", "nothing delegates a subtree here: run under systemd, or mount "
                              "/sys/fs/cgroup writable in the container", "no systemd, and the hierarchy is read-only");
        else
                doctor_report(d, DOCTOR_OK, "cgroup v2", NULL, "memory, pids, cpu");
}

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "launcher/home.h"

/* From the first home thrown away to the janitor that removes it. */
#define HOMES_JANITOR_US USEC_PER_SEC

static void dir_closep(DIR **d) {
        if (*d)
                closedir(*d);
}

/* A folder's entries; the stream owns a descriptor of its own. */
static DIR *home_opendir(int dir_fd, const char *name) {
        int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        DIR *d;

        if (fd < 0)
                return NULL;
        d = fdopendir(fd);
        if (!d)
                fd_close(fd);
        return d;
}

static bool home_is_dots(const char *name) {
        return streq(name, ".") || streq(name, "..");
}

/* Removes the files of top_fd/name; folders in it move up to top_fd under fresh names, for a later turn. */
static int home_empty_one(int top_fd, const char *name, uint64_t *counter) {
        _cleanup_(dir_closep) DIR *d = NULL;
        struct dirent *e;

        (void)!fchmodat(top_fd, name, 0700, AT_SYMLINK_NOFOLLOW);
        d = home_opendir(top_fd, name);
        if (!d)
                return error_origin(-errno);
        while ((e = readdir(d))) {
                char fresh[32];

                if (home_is_dots(e->d_name))
                        continue;
                if (unlinkat(dirfd(d), e->d_name, 0) == 0)
                        continue;
                if (errno != EISDIR && errno != EPERM)
                        return error_origin(-errno);
                snprintf(fresh, sizeof(fresh), "up-%llu", (unsigned long long)(*counter)++);
                /* Its owner may still hold the folder open, and put a link in its place. */
                (void)!fchmodat(dirfd(d), e->d_name, 0700, AT_SYMLINK_NOFOLLOW);
                if (renameat(dirfd(d), e->d_name, top_fd, fresh) < 0)
                        return error_origin(-errno);
        }
        return unlinkat(top_fd, name, AT_REMOVEDIR) < 0 ? error_origin(-errno) : 0;
}

int home_empty(int dir_fd) {
        uint64_t counter = (uint64_t)getpid() << 32;
        bool again = true;
        int failed = 0;

        while (again && !failed) {
                _cleanup_(dir_closep) DIR *d = home_opendir(dir_fd, ".");
                struct dirent *e;

                if (!d)
                        return error_origin(-errno);
                again = false;
                while ((e = readdir(d))) {
                        int r;

                        if (home_is_dots(e->d_name))
                                continue;
                        again = true;
                        if (unlinkat(dir_fd, e->d_name, 0) == 0)
                                continue;
                        r = home_empty_one(dir_fd, e->d_name, &counter);
                        if (r < 0)
                                failed = r;
                }
        }
        return failed;
}

static _noreturn_ void home_janitor(int trash_fd) {
        int r;

        (void)prctl(PR_SET_NAME, "agent-janitor");
        /* A change of mode that follows no link goes by /proc/self, which is ours only where we are dumpable. */
        if (geteuid() != 0)
                (void)prctl(PR_SET_DUMPABLE, 1);
        /* Sockets and pipes of the launcher must not live on here. */
        if (dup3(trash_fd, 0, O_CLOEXEC) < 0)
                _exit(1);
        (void)syscall(SYS_close_range, 3, ~0U, 0);
        trash_fd = 0;
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)setpriority(PRIO_PROCESS, 0, 10);
        r = home_empty(trash_fd);
        _exit(MIN(-r, 255));
}

static void homes_start_janitor(Homes *h);

static void homes_on_janitor(LoopSource *source, uint32_t events) {
        Homes *h = container_of(source, Homes, janitor);
        int fd = source->fd;
        siginfo_t info = {};

        loop_remove(h->loop, source);
        while (waitid(P_PIDFD, (id_t)fd, &info, WEXITED) < 0 && errno == EINTR)
                ;
        fd_close(fd);
        if (info.si_code == CLD_EXITED && info.si_status)
                log_warning("the home of a finished task can't be removed: %s", strerror(info.si_status));
        if (h->again)
                homes_start_janitor(h);
}

static void homes_start_janitor(Homes *h) {
        pid_t pid;
        int fd;

        if (h->janitor.fd >= 0) {
                h->again = true;
                return;
        }
        h->again = false;
        pid = fork();
        if (pid == 0)
                home_janitor(h->trash_fd);
        fd = pid > 0 ? pidfd_open(pid, 0) : -1;
        if (fd < 0 || loop_add(h->loop, &h->janitor, fd, EPOLLIN) < 0) {
                log_warning("no janitor for finished tasks' homes: %s; the next one empties them too", strerror(errno));
                fd_close(fd);
        }
}

static void homes_on_janitor_timer(LoopTimer *timer) {
        homes_start_janitor(container_of(timer, Homes, janitor_timer));
}

static int homes_open_folder(int state_fd, const char *name, int *ret_fd) {
        int fd;

        if (mkdirat(state_fd, name, 0700) < 0 && errno != EEXIST)
                return error_origin(-errno);
        fd = openat(state_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return error_origin(-errno);
        *ret_fd = fd;
        return 0;
}

static void home_throw_away(Homes *h, const char *name) {
        char fresh[NAME_MAX + 1];

        snprintf(fresh, sizeof(fresh), "%.200s", name);
        if (renameat(h->tasks_fd, name, h->trash_fd, fresh) == 0 || errno == ENOENT)
                return;
        /* Whoever may not write to a folder may not move it (rename(2)); its owner may have seen to that. */
        if (errno != EACCES || fchmodat(h->tasks_fd, name, 0700, 0) < 0 ||
            renameat(h->tasks_fd, name, h->trash_fd, fresh) < 0)
                log_warning("the home of attempt %s can't be moved away: %s", name, strerror(errno));
}

int homes_init(Homes *h, Loop *loop, const char *state_dir) {
        _cleanup_close_ int state_fd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _cleanup_(dir_closep) DIR *d = NULL;
        struct dirent *e;
        int r;

        h->loop = loop;
        h->janitor.on_ready = homes_on_janitor;
        h->janitor_timer.on_timer = homes_on_janitor_timer;
        if (asprintf(&h->tasks_path, "%s/tasks", state_dir) < 0) {
                h->tasks_path = NULL;
                return error_origin(-ENOMEM);
        }
        if (state_fd < 0)
                return error_origin(-errno);
        r = homes_open_folder(state_fd, "tasks", &h->tasks_fd);
        if (!r)
                r = homes_open_folder(state_fd, "trash", &h->trash_fd);
        if (r)
                return error_trace(r);
        d = home_opendir(h->tasks_fd, ".");
        if (!d)
                return error_origin(-errno);
        while ((e = readdir(d)))
                if (!home_is_dots(e->d_name))
                        home_throw_away(h, e->d_name);
        homes_start_janitor(h);
        return 0;
}

void homes_deinit(Homes *h) {
        if (heap_contains(&h->janitor_timer.node)) {
                loop_timer_clear(h->loop, &h->janitor_timer);
                homes_start_janitor(h);
        }
        if (h->janitor.fd >= 0) {
                h->again = false;
                homes_on_janitor(&h->janitor, 0);
        }
        free(h->tasks_path);
        h->tasks_path = NULL;
        fd_close(h->tasks_fd);
        fd_close(h->trash_fd);
        h->tasks_fd = h->trash_fd = -1;
}

void home_discard(Homes *h, const Id *attempt) {
        char id[ID_TEXT_MAX];

        id_format(attempt, id);
        home_throw_away(h, id);
        if (!heap_contains(&h->janitor_timer.node) &&
            loop_timer_set(h->loop, &h->janitor_timer, clock_monotonic_us() + HOMES_JANITOR_US) < 0)
                homes_start_janitor(h);
}

int home_new(const char *tasks_path, const Id *attempt, uid_t uid, gid_t gid, int *ret_fd, Failure *failure) {
        _cleanup_close_ int tasks_fd = open(tasks_path, O_PATH | O_DIRECTORY | O_CLOEXEC), fd = -1;
        char id[ID_TEXT_MAX];

        id_format(attempt, id);
        if (tasks_fd < 0 || mkdirat(tasks_fd, id, 0700) < 0 ||
            (fd = openat(tasks_fd, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0 || fchown(fd, uid, gid) < 0)
                return failure_set(failure, "home", errno, "the task's home can't be made: %s; look at the launcher's state directory", strerror(errno));
        *ret_fd = steal_fd(&fd);
        return 0;
}

static int home_open_beneath(int dir_fd, const char *path, uint64_t flags, mode_t mode) {
        struct open_how how = { .flags = flags | O_CLOEXEC | O_NOFOLLOW,
                                .mode = mode,
                                .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS };
        int fd = (int)syscall(SYS_openat2, dir_fd, path, &how, sizeof(how));

        return fd < 0 ? error_origin(-errno) : fd;
}

static int home_seed_file(int home_fd, const SpecFile *file) {
        _cleanup_close_ int dir_fd = -1, fd = -1;
        const char *at = file->path, *slash;
        char name[NAME_MAX + 1];

        while ((slash = strchr(at, '/'))) {
                int next;

                snprintf(name, sizeof(name), "%.*s", (int)(slash - at), at);
                if (mkdirat(dir_fd < 0 ? home_fd : dir_fd, name, 0700) < 0 && errno != EEXIST)
                        return error_origin(-errno);
                next = home_open_beneath(dir_fd < 0 ? home_fd : dir_fd, name, O_RDONLY | O_DIRECTORY, 0);
                if (next < 0)
                        return next;
                fd_close(dir_fd);
                dir_fd = next;
                at = slash + 1;
        }
        fd = home_open_beneath(dir_fd < 0 ? home_fd : dir_fd, at, O_WRONLY | O_CREAT | O_EXCL, file->mode);
        if (fd < 0)
                return fd;
        return error_trace(fd_write_all(fd, file->content, file->n));
}

int home_seed(int home_fd, const Spec *spec, Failure *failure) {
        for (size_t i = 0; i < spec->n_files; i++) {
                int r = home_seed_file(home_fd, &spec->files[i]);

                if (r < 0)
                        return failure_set(failure, "home", -r, "the file %s can't be written into the task's home: %s", spec->files[i].path, strerror(-r));
        }
        return 0;
}

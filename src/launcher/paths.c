#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "launcher/paths.h"

/* openat2 answers EAGAIN where a rename raced with a walk that must stay beneath: worth a few tries, not many. */
#define PATHS_OPEN_TRIES 8

/* Folders that are made for each sandbox: nothing of the host is mounted there. */
static const char *const paths_reserved[] = { "/proc", "/dev", "/sys" };

static int paths_openat2(int dir_fd, const char *path, uint64_t flags, uint64_t resolve) {
        struct open_how how = { .flags = flags | O_CLOEXEC, .resolve = resolve };

        for (unsigned i = 0; i < PATHS_OPEN_TRIES; i++) {
                int fd = (int)syscall(SYS_openat2, dir_fd, path, &how, sizeof(how));

                if (fd >= 0 || errno != EAGAIN)
                        return fd >= 0 ? fd : error_origin(-errno);
        }
        return error_origin(-EAGAIN);
}

int paths_add(Paths *p, const char *path, int fd, bool writable, Failure *failure) {
        if (p->n == PATHS_MAX)
                return failure_set(failure, "mount", E2BIG, "more than %d paths; name a common parent instead", PATHS_MAX);
        p->binds[p->n++] = (PathsBind){ .path = path, .fd = fd, .writable = writable };
        return 0;
}

static int paths_fail_workspace(const char *path, int error, Failure *failure) {
        unsigned uid = (unsigned)geteuid();

        switch (error) {
        case ENOENT:
                return failure_set(failure, "workspace", error, "the workspace %s does not exist; make it, owned by uid %u", path, uid);
        case EACCES:
        case EPERM:
                return failure_set(failure, "workspace", error, "uid %u, which the task runs as, may not read and write the workspace %s; give it the rights "
                                   "(chown or setfacl, on the folders above too), or choose another folder", uid, path);
        case EROFS:
                return failure_set(failure, "workspace", error, "the workspace %s lies on a read-only file system; choose another folder", path);
        case EXDEV:
                return failure_set(failure, "workspace", error,
                                   "the workspace %s leads out of its root through a link; name the real folder, and "
                                   "have it below "
                                   "one of sandbox.workspace_roots",
                                   path);
        case ENOTDIR:
                return failure_set(failure, "workspace", error, "the workspace %s is not a folder; name one", path);
        default:
                return failure_set(failure, "workspace", error, "the workspace %s can't be opened: %s", path, strerror(error));
        }
}

static int paths_open_workspace(Paths *p, const Spec *spec, const Config *config, Failure *failure) {
        const char *root = NULL, *rest;
        _cleanup_close_ int root_fd = -1;
        int fd;

        for (size_t i = 0; i < config->workspace_roots.n && !root; i++)
                if (spec_path_is_within(spec->workspace, config->workspace_roots.items[i]))
                        root = config->workspace_roots.items[i];
        if (!root)
                return failure_set(failure, "workspace", EPERM, "the workspace %s is not below a workspace root (%s%s); add a folder above it to "
                                   "sandbox.workspace_roots in agent-router.yaml and restart the launcher, or choose a folder there",
                                   spec->workspace, config->workspace_roots.n ? config->workspace_roots.items[0] : "none is set",
                                   config->workspace_roots.n > 1 ? ", …" : "");
        root_fd = paths_openat2(AT_FDCWD, root, O_PATH | O_DIRECTORY, RESOLVE_NO_MAGICLINKS);
        if (root_fd < 0)
                return paths_fail_workspace(root, -root_fd, failure);
        rest = spec->workspace + strlen(root);
        fd = *rest ? paths_openat2(root_fd, rest + 1, O_PATH | O_DIRECTORY, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
                   : steal_fd(&root_fd);
        if (fd < 0)
                return paths_fail_workspace(spec->workspace, -fd, failure);
        if (syscall(SYS_faccessat2, fd, "", R_OK | W_OK | X_OK, AT_EACCESS | AT_EMPTY_PATH) < 0)
                return paths_fail_workspace(spec->workspace, errno, failure);
        return paths_add(p, spec->workspace, fd, true, failure);
}

static int paths_open_read_only(Paths *p, const char *path, Failure *failure) {
        int fd;

        for (size_t i = 0; i < p->n; i++)
                if (streq(p->binds[i].path, path))
                        return 0;
        fd = paths_openat2(AT_FDCWD, path, O_PATH, RESOLVE_NO_MAGICLINKS);
        if (fd < 0)
                return failure_set(failure, "read-only", -fd, "the read-only path %s can't be opened as uid %u: %s; give that user the rights, or show it to "
                                   "every task by sandbox.read_only in agent-router.yaml", path, (unsigned)geteuid(), strerror(-fd));
        return paths_add(p, path, fd, false, failure);
}

/* Already visible: below a folder that the administrator shows to every task. */
static bool paths_are_configured(const Config *config, const char *path) {
        for (size_t i = 0; i < config->read_only.n; i++)
                if (spec_path_is_within(path, config->read_only.items[i]))
                        return true;
        return false;
}

int paths_open_configured(Paths *p, const Config *config, Failure *failure) {
        int r = 0;

        for (size_t i = 0; r == 0 && i < config->read_only.n; i++)
                r = paths_open_read_only(p, config->read_only.items[i], failure);
        return error_trace(r);
}

int paths_open(Paths *p, const Spec *spec, const Config *config, Failure *failure) {
        int r = 0;

        if (spec->workspace)
                r = paths_open_workspace(p, spec, config, failure);
        for (size_t i = 0; r == 0 && i < spec->read_only.n; i++)
                if (!paths_are_configured(config, spec->read_only.items[i]))
                        r = paths_open_read_only(p, spec->read_only.items[i], failure);
        return error_trace(r);
}

static int paths_check_bind(const PathsBind *b, const View *view, Failure *failure) {
        const char *stage = b->writable ? "workspace" : "read-only", *protected;
        char link[32], real[PATH_MAX];
        ssize_t n;

        snprintf(link, sizeof(link), "/proc/self/fd/%d", b->fd);
        n = readlink(link, real, sizeof(real) - 1);
        if (n < 0)
                return failure_set(failure, stage, errno, "the real path of %s can't be found: %s; is /proc mounted?", b->path, strerror(errno));
        real[n] = 0;
        for (size_t i = 0; i < ELEMENTSOF(paths_reserved); i++)
                if (spec_path_is_within(real, paths_reserved[i]) || spec_path_is_within(b->path, paths_reserved[i]))
                        return failure_set(failure, stage, EPERM,
                                           "%s lies in %s, which every sandbox has of its own; choose another path",
                                           b->path, paths_reserved[i]);
        protected = view_protects(view, real);
        if (!protected)
                protected = view_protects(view, b->path);
        if (protected)
                return failure_set(
                        failure, stage, EPERM,
                        "%s would show %s, which belongs to agent-router itself; choose a folder that does not hold it",
                        b->path, protected);
        return 0;
}

int paths_check(const Paths *p, const View *view, Failure *failure) {
        for (size_t i = 0; i < p->n; i++) {
                int r = paths_check_bind(&p->binds[i], view, failure);

                if (r)
                        return error_trace(r);
        }
        return 0;
}

/* By insertion, since qsort() may allocate; a task has a handful. */
void paths_sort(Paths *p) {
        for (size_t i = 1; i < p->n; i++) {
                PathsBind b = p->binds[i];
                size_t k = i;

                for (; k > 0 && strcmp(p->binds[k - 1].path, b.path) > 0; k--)
                        p->binds[k] = p->binds[k - 1];
                p->binds[k] = b;
        }
}

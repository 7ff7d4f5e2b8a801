#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "launcher/mounts.h"

#define MOUNTS_SAFE (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)

static int mounts_fail(Failure *failure, const char *what, const char *path) {
        int error = errno;

        return failure_set(failure, "mount", error, "the sandbox's root: %s %s: %s", what, path, strerror(error));
}

/* Clones the tree at dir_fd/path (path "": the descriptor itself), sets attributes, and mounts it at root_fd/target. */
static int mounts_bind(int dir_fd, const char *path, uint64_t attributes, bool recursive, int root_fd,
                       const char *target, Failure *failure) {
        unsigned empty = *path ? 0 : AT_EMPTY_PATH, deep = recursive ? AT_RECURSIVE : 0;
        struct mount_attr attr = { .attr_set = attributes };
        _cleanup_close_ int tree = open_tree(dir_fd, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | empty | deep);

        if (tree < 0)
                return mounts_fail(failure, "cloning", target);
        if (attributes && mount_setattr(tree, "", AT_EMPTY_PATH | deep, &attr, sizeof(attr)) < 0)
                return mounts_fail(failure, "attributes of", target);
        if (move_mount(tree, "", root_fd, target, MOVE_MOUNT_F_EMPTY_PATH) < 0)
                return mounts_fail(failure, "mounting", target);
        return 0;
}

/* A new file system of this type; options are NULL-terminated pairs. */
static int mounts_new(const char *type, const char *const *options, unsigned attributes, int *ret_fd) {
        _cleanup_close_ int context = fsopen(type, FSOPEN_CLOEXEC);
        int fd;

        if (context < 0)
                return error_origin(-errno);
        for (; options[0]; options += 2)
                if (fsconfig(context, FSCONFIG_SET_STRING, options[0], options[1], 0) < 0)
                        return error_origin(-errno);
        if (fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
                return error_origin(-errno);
        fd = fsmount(context, FSMOUNT_CLOEXEC, attributes);
        if (fd < 0)
                return error_origin(-errno);
        *ret_fd = fd;
        return 0;
}

static int mounts_make_folders(const MountPlan *plan, int root_fd, Failure *failure) {
        static const struct {
                const char *path;
                mode_t mode;
                bool task;              /* belongs to the task */
        } folders[] = {
                { "etc", 0755, false }, { "proc", 0555, false }, { "dev", 0755, false }, { "dev/pts", 0755, false },
                { "dev/shm", 01777, false }, { "tmp", 01777, false }, { "run", 0755, true }, { "home", 0755, false },
                { &VIEW_HOME[1], 0755, false },
        };
        static const char *const links[][2] = {
                { "pts/ptmx", "dev/ptmx" }, { "/proc/self/fd", "dev/fd" }, { "/proc/self/fd/0", "dev/stdin" },
                { "/proc/self/fd/1", "dev/stdout" }, { "/proc/self/fd/2", "dev/stderr" },
        };

        for (size_t i = 0; i < ELEMENTSOF(folders); i++) {
                if (mkdirat(root_fd, folders[i].path, folders[i].mode) < 0 ||
                    (folders[i].mode & S_ISVTX && fchmodat(root_fd, folders[i].path, folders[i].mode, 0) < 0) ||
                    (folders[i].task && fchownat(root_fd, folders[i].path, plan->uid, plan->gid, 0) < 0))
                        return mounts_fail(failure, "making", folders[i].path);
        }
        for (size_t i = 0; i < ELEMENTSOF(links); i++)
                if (symlinkat(links[i][0], root_fd, links[i][1]) < 0)
                        return mounts_fail(failure, "making", links[i][1]);
        for (size_t i = 0; i < plan->view->n_entries; i++) {
                const char *target = plan->view->entries[i].target, *name = plan->view->entries[i].name;

                if (*target ? symlinkat(target, root_fd, name) < 0 : mkdirat(root_fd, name, 0755) < 0)
                        return mounts_fail(failure, "making", name);
        }
        return 0;
}

static int mounts_system(const MountPlan *plan, int root_fd, int etc_fd, Failure *failure) {
        char source[16], path[64];
        int r = 0;

        for (size_t i = 0; r == 0 && i < plan->view->n_entries; i++) {
                if (*plan->view->entries[i].target)
                        continue;
                snprintf(source, sizeof(source), "/%s", plan->view->entries[i].name);
                r = mounts_bind(AT_FDCWD, source, MOUNTS_SAFE | MOUNT_ATTR_RDONLY, true, root_fd, source + 1, failure);
        }
        if (r == 0)
                r = mounts_bind(etc_fd, "", MOUNTS_SAFE | MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC, true, root_fd, "etc",
                                failure);
        for (size_t i = 0; r == 0 && etc_bound[i]; i++) {
                snprintf(path, sizeof(path), "/etc/%s", etc_bound[i]);
                if (faccessat(AT_FDCWD, path, F_OK, AT_EACCESS) < 0)
                        continue;
                r = mounts_bind(AT_FDCWD, path, MOUNTS_SAFE | MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC, true, root_fd,
                                path + 1, failure);
        }
        return error_trace(r);
}

static int mounts_devices(const MountPlan *plan, int root_fd, Failure *failure) {
        static const char *const nodes[] = { "null", "zero", "full", "random", "urandom", "tty" };
        /* gid 5, tty, is not mapped into a user namespace. */
        const char *options[] = { "ptmxmode", "0666", "mode", "0620", plan->userns ? NULL : "gid", "5", NULL };
        _cleanup_close_ int pts = -1;
        char path[16];
        int r = 0;

        for (size_t i = 0; r == 0 && i < ELEMENTSOF(nodes); i++) {
                snprintf(path, sizeof(path), "/dev/%s", nodes[i]);
                if (mknodat(root_fd, path + 1, S_IFREG | 0644, 0) < 0)
                        return mounts_fail(failure, "making", path);
                r = mounts_bind(AT_FDCWD, path, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, false, root_fd, path + 1,
                                failure);
        }
        if (r)
                return error_trace(r);
        r = mounts_new("devpts", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, &pts);
        if (r < 0 || move_mount(pts, "", root_fd, "dev/pts", MOVE_MOUNT_F_EMPTY_PATH) < 0)
                return mounts_fail(failure, "mounting", "/dev/pts");
        return 0;
}

static int mounts_proc(const MountPlan *plan, int root_fd, Failure *failure) {
        /* The sandbox's init, which is not ours to look into, is not even listed. */
        static const char *const options[] = { "hidepid", "invisible", NULL };
        _cleanup_close_ int proc = -1;

        if (!plan->proc_fresh) {
                if (!plan->proc_bound)
                        return 0;
                return mounts_bind(AT_FDCWD, "/proc", MOUNTS_SAFE | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_RDONLY, true,
                                   root_fd, "proc", failure);
        }
        if (mounts_new("proc", options, MOUNTS_SAFE | MOUNT_ATTR_NOEXEC, &proc) < 0 ||
            move_mount(proc, "", root_fd, "proc", MOVE_MOUNT_F_EMPTY_PATH) < 0)
                return mounts_fail(failure, "mounting", "/proc");
        return 0;
}

/* Makes the place that a path is mounted at, with the folders above it, never through a link. */
static int mounts_make_place(int root_fd, int etc_fd, const char *path, bool folder) {
        _cleanup_close_ int dir_fd = -1;
        int base = root_fd, fd;
        const char *slash;
        char name[NAME_MAX + 1];

        path++;
        if (str_starts(path, "etc/")) {
                base = etc_fd;  /* the bound copy is read-only */
                path += strlen("etc/");
        }
        for (; (slash = strchr(path, '/')); path = slash + 1) {
                int next;

                snprintf(name, sizeof(name), "%.*s", (int)(slash - path), path);
                if (mkdirat(base, name, 0755) < 0 && errno != EEXIST)
                        return error_origin(-errno);
                next = openat(base, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                if (next < 0)
                        return error_origin(-errno);
                fd_close(dir_fd);
                base = dir_fd = next;
        }
        if (folder)
                return mkdirat(base, path, 0755) < 0 && errno != EEXIST ? error_origin(-errno) : 0;
        fd = openat(base, path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
        if (fd < 0 && errno != EROFS && errno != EACCES)
                return error_origin(-errno);
        fd_close(fd);
        return 0;
}

static int mounts_paths(const MountPlan *plan, int root_fd, int etc_fd, Failure *failure) {
        for (size_t i = 0; i < plan->paths->n; i++) {
                const PathsBind *b = &plan->paths->binds[i];
                struct stat st;
                int r;

                if (fstat(b->fd, &st) < 0 || mounts_make_place(root_fd, etc_fd, b->path, S_ISDIR(st.st_mode)) < 0)
                        return mounts_fail(failure, "making a place for", b->path);
                r = mounts_bind(b->fd, "", MOUNTS_SAFE | (b->writable ? 0 : MOUNT_ATTR_RDONLY), true, root_fd,
                                b->path + 1, failure);
                if (r)
                        return error_trace(r);
        }
        return 0;
}

/*
 * The nodes of the task's GPUs, at their own places. With the launcher's rights, since whose they are was decided;
 * whether the task's user may open them is up to their modes.
 */
static int mounts_gpus(const MountPlan *plan, int root_fd, int etc_fd, Failure *failure) {
        for (size_t i = 0; i < plan->devices->n; i++) {
                const char *path = plan->devices->items[i];
                _cleanup_close_ int fd = open(path, O_PATH | O_CLOEXEC);
                struct stat st;
                int r;

                if (fd < 0 || fstat(fd, &st) < 0)
                        return failure_set(failure, "gpu", errno, "the GPU's device %s can't be found: %s; load its driver "
                                           "(nvidia-modprobe, nvidia-persistenced), or correct resources.gpus in "
                                           "agent-router.yaml", path, strerror(errno));
                if (!S_ISCHR(st.st_mode))
                        return failure_set(failure, "gpu", ENODEV, "the GPU's device %s is no character device; correct "
                                           "resources.gpus in agent-router.yaml", path);
                r = mounts_make_place(root_fd, etc_fd, path, false);
                if (r)
                        return mounts_fail(failure, "making a place for", path);
                r = mounts_bind(fd, "", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, false, root_fd, path + 1, failure);
                if (r)
                        return error_trace(r);
        }
        return 0;
}

/* The writable folders of the tmpfs, mounted over themselves; the root itself then becomes read-only. */
static int mounts_scratch(int root_fd, Failure *failure) {
        static const char *const folders[] = { "tmp", "run", "dev/shm" };
        int r = 0;

        for (size_t i = 0; r == 0 && i < ELEMENTSOF(folders); i++)
                r = mounts_bind(root_fd, folders[i], 0, false, root_fd, folders[i], failure);
        return error_trace(r);
}

static int mounts_pivot(int root_fd, Failure *failure) {
        struct mount_attr read_only = { .attr_set = MOUNT_ATTR_RDONLY };

        if (mount_setattr(root_fd, "", AT_EMPTY_PATH, &read_only, sizeof(read_only)) < 0)
                return mounts_fail(failure, "attributes of", "/");
        /* Old and new root in one place: the old one lies over the new and is taken off (pivot_root(2), NOTES). */
        if (fchdir(root_fd) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
                return mounts_fail(failure, "pivoting into", "/");
        return 0;
}

int mounts_enter(const MountPlan *plan, Failure *failure) {
        static const char *const options[] = { "size", MOUNTS_SCRATCH_SIZE, "nr_inodes", MOUNTS_SCRATCH_INODES, "mode", "0755", NULL };
        _cleanup_close_ int root_fd = -1, runtime_fd = -1, etc_fd = -1;
        int r;

        umask(0);
        if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
                return mounts_fail(failure, "propagation of", "/");
        if (mounts_new("tmpfs", options, MOUNTS_SAFE, &root_fd) < 0)
                return mounts_fail(failure, "a tmpfs for", "/");
        r = mounts_make_folders(plan, root_fd, failure);
        if (r)
                return error_trace(r);
        runtime_fd = open(plan->view->runtime_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (runtime_fd < 0 || move_mount(root_fd, "", runtime_fd, "root", MOVE_MOUNT_F_EMPTY_PATH) < 0)
                return mounts_fail(failure, "mounting", "/");
        etc_fd = openat(runtime_fd, "etc", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (etc_fd < 0)
                return mounts_fail(failure, "opening", "/etc");
        r = mounts_system(plan, root_fd, etc_fd, failure);
        if (!r)
                r = mounts_scratch(root_fd, failure);
        if (!r)
                r = mounts_devices(plan, root_fd, failure);
        if (!r)
                r = mounts_gpus(plan, root_fd, etc_fd, failure);
        if (!r)
                r = mounts_proc(plan, root_fd, failure);
        if (!r)
                r = mounts_paths(plan, root_fd, etc_fd, failure);
        if (!r)
                r = mounts_pivot(root_fd, failure);
        umask(0022);
        return error_trace(r);
}

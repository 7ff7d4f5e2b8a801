#pragma once

/*
 * mounts: a sandbox's root, put together in its own mount namespace and pivoted into.
 *
 *     /                    tmpfs, read-only; bounded in size
 *     /usr /bin /lib …     the host's, read-only, or the links that they are
 *     /etc                 a few copied files (etc.h)
 *     /proc                fresh, of the pid namespace
 *     /dev                 null zero full random urandom tty, pts, shm, the usual links, and the task's GPUs
 *     /tmp /run /dev/shm   folders of the same tmpfs, writable
 *     /home/agent          the task's home
 *     workspace, read-only paths at their own places
 *
 * Everything is nosuid and nodev but the device nodes themselves. The new mount API is used throughout: a tree is
 * cloned, gets its attributes while nobody can reach it, and is moved into place by descriptor.
 */

#include "launcher/failure.h"
#include "launcher/paths.h"
#include "launcher/view.h"

/* One tmpfs holds the root and /tmp, /run, /dev/shm: its bound is a task's scratch space, counted by memory.max too. */
#define MOUNTS_SCRATCH_SIZE "1g"
#define MOUNTS_SCRATCH_INODES "262144"

typedef struct MountPlan MountPlan;

struct MountPlan {
        const View *view;
        const Paths *paths;     /* home among them */
        const StrList *devices; /* of the task's GPUs, below /dev */
        uid_t uid;
        gid_t gid;
        bool userns;
        bool proc_fresh;
        bool proc_bound;        /* without a fresh one: show the host's, since Landlock keeps its processes closed */
};

/*
 * In the child, with our own ids and in its own mount namespace. Afterwards "/" is the sandbox's. -errno with the
 * failure.
 */
int mounts_enter(const MountPlan *plan, Failure *failure) _must_check_;

#pragma once

/*
 * sandbox: the child's half of a spawn, in the order that holds: (namespaces and cgroup by clone3) → paths and home
 * with the task's own rights → mounts, pivot_root → capabilities and ids dropped for good, no_new_privs → rlimits →
 * Landlock → descriptors → fork of the agent → seccomp → execve. What remains is init (pid 1) and the agent.
 *
 * The report pipe carries at most one record of each kind; it closes on execve. The status pipe is init's.
 *
 * The process is the launcher's copy, or shares its memory (cloner.h says what that forbids) until it has become init
 * by an execve of its own. It is done with what it was given when the report pipe has closed.
 */

#include "launcher/caps.h"
#include "launcher/config.h"
#include "launcher/failure.h"
#include "launcher/seccomp.h"
#include "launcher/spec.h"
#include "launcher/user.h"
#include "launcher/view.h"

/* Limits of every task beside those of its cgroup. */
#define SANDBOX_NOFILE_SOFT 8192        /* Node and git are content with 1024; room for test runners */
#define SANDBOX_NOFILE_HARD 65536
#define SANDBOX_FSIZE_MAX (UINT64_C(16) << 30)  /* one file; a runaway log must not fill the disk alone */
/*
 * Processes where no cgroup counts them. In a user namespace the kernel counts each namespace by itself, so pids_max
 * holds as it is; else a limit is the user's over all its tasks, and only guards the machine.
 */
#define SANDBOX_NPROC_SHARED 16384

typedef struct Sandbox Sandbox;

/* The record that an agent which stands before its execve writes, a failure of any stage, the time of the execve. */
enum {
        SANDBOX_REPORT_READY = 1,
        SANDBOX_REPORT_FAILED,
        SANDBOX_REPORT_LEFT,    /* the agent has a memory of its own, or is dead */
};

typedef struct SandboxReport {
        uint32_t kind;
        uint64_t at_us;         /* CLOCK_MONOTONIC, of LEFT */
        Failure failure;
} SandboxReport;

/* Everything borrowed from the launcher. */
struct Sandbox {
        Spec *spec;
        const Config *config;
        const Caps *caps;
        const View *view;
        const SeccompFilter *filter;
        const StrList *devices; /* of the task's GPUs */
        const char *tasks_path;
        User user;
        bool user_known;        /* else the name service is asked, in the child */
        uint32_t pids_max;
        bool pids_counted;      /* by the cgroup */
        const sigset_t *signals; /* mask to restore for the agent */
        int stdin_fd;           /* -1: /dev/null */
        int stdout_fd;
        int stderr_fd;
        int report_fd;
        int status_fd;
        int init_fd;            /* the program to become init by, where the memory is the launcher's; else -1 */
        _Atomic(bool) *alone;   /* likewise: set when the agent has left it (cloner.h) */
};

/* Of the agent between clone and execve: a Failure, and the C library's own needs. */
#define SANDBOX_STACK KIB(64)

/* In the child of clone3; stack is the end of one of SANDBOX_STACK bytes. Never returns. */
_noreturn_ void sandbox_run(Sandbox *s, void *stack);

#pragma once

/*
 * init: pid 1 of a sandbox. It reaps, hands SIGTERM on to the agent, and when the agent has ended, ends everything else
 * in the namespace; then it tells the launcher how the agent ended. So a report means that nothing of the task runs any
 * more: the launcher need not wait for the kernel to take the namespace apart. It has the task's ids and no rights, but
 * is not dumpable, so the agent can't look into it. It ends by itself where the launcher is gone (the status pipe has
 * no reader).
 */

#include <sys/types.h>

#include "base/macro.h"

typedef struct InitStatus InitStatus;

/* What crosses the status pipe, once. */
struct InitStatus {
        uint32_t how;           /* LaunchHow: exited or signalled */
        uint32_t value;
        uint64_t cpu_us;        /* of everything that was reaped */
};

/* All signals must be blocked. Never returns. */
_noreturn_ void init_run(pid_t agent, int status_fd);

#pragma once

/*
 * confine: what the router gives up once it is up. A seccomp filter (default: EPERM) without execve, fork, clone,
 * ptrace, mount and the rest, no_new_privs, and no core dumps. io_uring operations are not seen by seccomp;
 * reactor_enable() restricts those in the ring itself.
 */

#include "base/macro.h"

/* -errno where the kernel refuses; the daemon does not run unconfined. */
int confine(void) _must_check_;

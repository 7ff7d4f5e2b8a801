#pragma once

/*
 * init-image: the program agent-router-init, which is part of this one, as a file to execute: in memory, executable by
 * everybody and readable by nobody, so that who executes it can't be looked into by processes of the same user
 * (execve(2), "dumpable").
 */

#include "base/macro.h"

/* -errno; -ENOSYS where there is no such program for this machine. */
int init_image_open(int *ret_fd) _must_check_;
/* In a sandbox's first process, all but its status pipe closed: becomes init. Returns where that fails. */
void init_image_exec(int image_fd, pid_t agent, int status_fd);

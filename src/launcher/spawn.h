#pragma once

/*
 * spawn: the launcher's half of a spawn. It judges what a SPAWN asks for against the configuration and what this
 * machine can do, makes the cgroup and the pipes, and clones the child, which runs sandbox_run(). Nothing here waits
 * for the child.
 */

#include "launcher/attempt.h"

#define SPAWN_PROFILE "agent"   /* the seccomp profile of a SPAWN that names none */

/*
 * On success the attempt has its pidfd, pipes and cgroup, and what the child was given, in Attempt.spawn: that is to be
 * kept until the report pipe has closed. The spec is taken in any case. -errno with attempt->failure filled, and
 * nothing left behind.
 */
int spawn(Attempt *a, Spec *spec, int stdin_fd) _must_check_;
Spawn *spawn_free(Spawn *p);
DEFINE_CLEANUP(Spawn, spawn_free);

#pragma once

/*
 * landlock: a second fence around the files, which holds even where a mount could be escaped: the same paths as the
 * mounts show, with the same rights. The network is left alone. From ABI 6 on, abstract Unix sockets and signals end at
 * the sandbox too; before that, abstract sockets of the host can be reached by a task that has the host's network.
 */

#include "launcher/failure.h"
#include "launcher/paths.h"
#include "launcher/view.h"

/* In the sandbox's root, with no_new_privs set. -errno with the failure. */
int landlock_enter(int abi, const View *view, const Paths *paths, Failure *failure) _must_check_;

#pragma once

/* userns: identity mapping of one uid and one gid in a user namespace that the caller has just entered by clone3(2). */

#include "base/macro.h"

/* -errno. The process is dumpable afterwards: /proc/self must be ours to write the maps. */
int userns_map_self(uid_t uid, gid_t gid) _must_check_;

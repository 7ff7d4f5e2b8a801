#pragma once

/*
 * caps: what this machine and this service can do, found out once at start. A capability has a name ("cgroup.memory",
 * "landlock.4"); what is absent is kept with its reason and remedy. Both go into HELLO, and a SPAWN's REQUIRE list is held
 * against them: nothing that is missing is papered over.
 */

#include "base/macro.h"
#include "launcher/strlist.h"

typedef struct Caps Caps;

struct Caps {
        StrList present;
        StrList absent;         /* "NAME: reason and remedy" */
        int landlock_abi;       /* 0: none that is usable */
        bool userns;            /* sandboxes are made in a user namespace, since we are not root */
        bool namespaces;        /* pid and mount namespaces work: without them nothing is spawned */
        bool proc_fresh;
        bool unbounded;         /* our bounding set is not empty, so a sandbox has to empty its own */
        uint32_t cpus;          /* that this service may use */
        uint64_t memory;        /* RAM of the machine, bytes */
};

void caps_deinit(Caps *c);
/* Detects everything but the cgroups, which add themselves. -ENOMEM. */
int caps_detect(Caps *c) _must_check_;
/*
 * Empties the bounding set, which means nothing to a process but what it may gain by execve(2). -errno: some of it
 * may be gone. The launcher's own is emptied when it has started, and inherited; in a user namespace it is full again.
 */
int caps_drop_bounding(void) _must_check_;
int caps_add(Caps *c, const char *name) _must_check_;
int caps_add_absent(Caps *c, const char *name, const char *format, ...) _must_check_ _printf_(3, 4);
/* True where a capability is named so, or so before a dot ("landlock" is met by "landlock.4"). */
bool caps_has(const Caps *c, const char *name);
/* Why it is absent, or NULL. */
const char *caps_why_absent(const Caps *c, const char *name);

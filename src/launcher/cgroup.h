#pragma once

/*
 * cgroup: the launcher's subtree of cgroup v2, one child per attempt.
 *
 *     <ours>/                      as systemd delegates it, or agent-router-<key> below a root cgroup
 *     <ours>/launcher/             this process: a cgroup with controllers on may hold no process itself
 *     <ours>/a-<attempt>/          one attempt
 *
 * Where no cgroup v2 is mounted or it is not ours to write, everything here is absent and said so; a sandbox is then
 * ended by its pid namespace alone, and has no memory or process limit.
 */

#include "base/id.h"
#include "base/macro.h"
#include "launcher/caps.h"

typedef struct Cgroups Cgroups;
typedef struct Cgroup Cgroup;
typedef struct CgroupLimits CgroupLimits;
typedef struct CgroupUsage CgroupUsage;

struct Cgroups {
        int fd;                 /* O_PATH of <ours>; -1: none */
        char *path;             /* for messages */
        bool made;              /* by us, and so removed by us */
        bool memory;
        bool pids;
        bool cpu;
        bool kill;
};

struct Cgroup {
        int fd;                 /* -1: none */
        char name[ID_TEXT_MAX + 2];
};

struct CgroupLimits {
        uint64_t memory_max;    /* bytes; 0: none */
        uint32_t pids_max;
        uint32_t cpu_percent;
};

struct CgroupUsage {
        uint32_t oom_kills;
        uint32_t pids_hit;
        uint64_t memory_peak;   /* bytes; 0: unknown */
        uint64_t cpu_us;        /* 0: unknown */
};

#define CGROUPS_NULL { .fd = -1 }
#define CGROUP_NULL { .fd = -1 }

/*
 * Finds or makes the subtree, moves this process into its leaf, turns the controllers on, kills and removes what an
 * earlier launcher left. `key` names the subtree where we make it, so that two instances never share one. -ENOMEM;
 * what the machine lacks goes to caps.
 */
int cgroups_init(Cgroups *c, uint64_t key, Caps *caps) _must_check_;
void cgroups_deinit(Cgroups *c);

/* Makes the attempt's cgroup with its limits; 0 with fd -1 where there is no subtree. -errno. */
int cgroup_new(const Cgroups *c, const Id *attempt, const CgroupLimits *limits, Cgroup *ret_cgroup) _must_check_;
/* SIGKILL to everything in it. false: not possible here. */
bool cgroup_kill(const Cgroups *c, const Cgroup *cgroup);
void cgroup_read_usage(const Cgroups *c, const Cgroup *cgroup, CgroupUsage *ret_usage);
/* -EBUSY while something lives in it: try again. */
int cgroup_remove(const Cgroups *c, Cgroup *cgroup) _must_check_;

#pragma once

/*
 * config: the launcher's part of agent-router.yaml, the sections `sandbox:` and `resources:`. Other sections are the
 * daemon's and are not looked at; unknown keys within these two are errors. Since this file says which folders the
 * workers of a root launcher may write, and which devices they may open, it must belong to root or to ourselves and be
 * writable by nobody else.
 */

#include "base/macro.h"
#include "launcher/gpu.h"
#include "launcher/strlist.h"

#define CONFIG_WORKSPACE_ROOT "/srv/agent-router"       /* the system instance's default */
#define CONFIG_WORKER_USER "agent-router-worker"
#define CONFIG_UID_MIN 1000
#define CONFIG_PATHS_MAX 64     /* each costs every task a mount */

typedef struct Config Config;

struct Config {
        StrList workspace_roots;
        StrList read_only;
        char *worker_user;
        int64_t worker_uid;     /* -1: there is no such account here */
        uid_t uid_min;
        /* Upper bounds and defaults of a task; 0: none. */
        uint64_t memory_max;
        uint32_t pids_max;
        uint32_t cpu_percent;
        Gpus gpus;              /* as declared */
        bool gpus_auto;         /* none is declared: look for them */
};

enum {
        _CONFIG_E_SUCCESS,
        CONFIG_E_INVALID,       /* ret_error says what, where and what was expected */
};

#define CONFIG_ERROR_MAX 512

/* Defaults alone where path is NULL or does not exist. */
int config_load(const char *path, Config *ret_config, char ret_error[static CONFIG_ERROR_MAX]) _must_check_;
void config_deinit(Config *c);

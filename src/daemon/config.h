#pragma once

/*
 * config: agent-router.yaml (agent-router.yaml(5)). The daemon reads all of it but the parts of sandbox and resources
 * that are the launcher's, which it only looks over. Without a file the defaults hold.
 *
 *   config.c         the file, its defaults, and the sections of a few scalars each
 *   config-queue.c   principals, groups, resources, pressure
 *   config-agents.c  agents, and the manifests that they are made of
 */

#include "adapter/adapter.h"
#include "api/api.h"
#include "base/yaml.h"
#include "sched/sched.h"

typedef struct Config Config;

#define CONFIG_AGENTS_MAX       SCHED_AGENTS_MAX
#define CONFIG_LIST_MAX         64      /* items of a list */
#define CONFIG_RUNNING_MAX      10000
#define CONFIG_QUEUED_MAX       10000000

struct Config {
        YamlDocument *document;         /* owns the strings */
        ApiConfig api;
        SchedConfig sched;
        const char **require;           /* sched.require */
        SchedLimitConfig *limits;       /* sched.limits */
        SchedGroupMatch *matches;       /* sched.matches */
        uint64_t drain_us;              /* at a stop, for running tasks to end */
        AdapterConfig *agents;
        size_t n_agents;
};

enum {
        _CONFIG_E_SUCCESS,
        CONFIG_E_INVALID,               /* ret_error says file:line:column, what was expected, and a hint */
};

/* path NULL: the defaults. */
int config_load(Config **ret_config, const char *path, char ret_error[static YAML_ERROR_MAX]) _must_check_;
Config *config_free(Config *config);
DEFINE_CLEANUP(Config, config_free);
/*
 * Loads a manifest for every agent found in configuration_dir/agents.d and data_dir/workers, the configured ones first
 * and in their order, without disabled ones. CONFIG_E_INVALID.
 */
typedef struct ConfigAdapters {
        Adapter *items[CONFIG_AGENTS_MAX];
        size_t n;
} ConfigAdapters;
void config_adapters_deinit(ConfigAdapters *adapters);
int config_load_adapters(const Config *config, const char *configuration_dir, const char *data_dir,
                         ConfigAdapters *ret_adapters, char ret_error[static YAML_ERROR_MAX]) _must_check_;

/* Names what of the launcher's part differs between the two; false: nothing does. */
bool config_launchers_part(const Config *a, const Config *b, char ret_names[static 256]) _must_check_;

/* ---- of this module: what is wrong is recorded in config->document; -ENOMEM ---- */

/* The scalars of a list, NULL-terminated; NULL where absent. They point into the document. */
char **config_read_list(YamlDocument *d, YamlNode *mapping, const char *key);
int config_read_queue(Config *config, YamlNode *root) _must_check_;
int config_read_agents(Config *config, YamlNode *root) _must_check_;
void config_free_agents(Config *config);

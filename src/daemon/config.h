#pragma once

/*
 * config: agent-router.yaml (agent-router.yaml(5)). The daemon reads limits, tasks, agents and the parts of sandbox
 * that it passes on; the launcher reads the rest of sandbox. Without a file the defaults hold.
 */

#include "adapter/adapter.h"
#include "api/api.h"
#include "base/yaml.h"
#include "sched/sched.h"

typedef struct Config Config;

#define CONFIG_AGENTS_MAX 64

struct Config {
        YamlDocument *document;         /* owns the strings */
        ApiConfig api;
        SchedConfig sched;
        const char **require;           /* sched.require */
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
 * and in their order, leaves out disabled ones, and adds them to the scheduler. CONFIG_E_INVALID.
 */
int config_load_agents(const Config *config, Sched *sched, const char *configuration_dir, const char *data_dir,
                       char ret_error[static YAML_ERROR_MAX]) _must_check_;

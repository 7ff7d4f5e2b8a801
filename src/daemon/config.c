#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/parse.h"
#include "daemon/config.h"

#define CONFIG_LIST_MAX 64              /* items of a list in the configuration */
/* The same as a task may ask for itself. */
#define CONFIG_TIMEOUT_MAX_US (7 * 24 * 3600 * USEC_PER_SEC)
#define CONFIG_BACKOFF_MAX_US (3600 * USEC_PER_SEC)

static void read_limits(Config *c, YamlNode *root) {
        YamlDocument *d = c->document;
        YamlNode *limits;
        uint64_t v;

        if (!yaml_get_mapping(d, root, "limits", &limits))
                return;
        if (yaml_get_u64(d, limits, "running", 1, 10000, &v))
                c->sched.running_max = (uint32_t)v;
        (void)yaml_get_u64(d, limits, "queued", 1, 10000000, &c->sched.queued_max);
        (void)yaml_get_u64(d, limits, "queued_per_principal", 1, 10000000, &c->sched.queued_per_principal_max);
        if (yaml_get_u64(d, limits, "connections", 1, 100000, &v))
                c->api.connections_max = (uint32_t)v;
        if (yaml_get_size(d, limits, "body", &v)) {
                if (v < KIB(1) || v > MIB(64))
                        yaml_fail(d, yaml_get(d, limits, "body"), "limits.body: expected a size from 1K to 64M");
                c->api.body_max = v;
        }
        yaml_end(d, limits);
}

static void read_tasks(Config *c, YamlNode *root) {
        YamlDocument *d = c->document;
        YamlNode *tasks;
        uint64_t v;

        if (!yaml_get_mapping(d, root, "tasks", &tasks))
                return;
        if (yaml_get_duration_us(d, tasks, "timeout", &v)) {
                if (v < USEC_PER_SEC || v > CONFIG_TIMEOUT_MAX_US)
                        yaml_fail(d, yaml_get(d, tasks, "timeout"), "tasks.timeout: expected a duration from 1s to 7d");
                c->sched.timeout_us = v;
        }
        if (yaml_get_duration_us(d, tasks, "backoff", &v)) {
                if (v > CONFIG_BACKOFF_MAX_US)
                        yaml_fail(d, yaml_get(d, tasks, "backoff"), "tasks.backoff: expected a duration of at most 1h");
                c->sched.backoff_us = v;
        }
        if (yaml_get_u64(d, tasks, "max_attempts", 1, 20, &v))
                c->sched.max_attempts = (uint32_t)v;
        if (yaml_get_size(d, tasks, "capture", &v)) {
                if (v < KIB(4) || v > MIB(256))
                        yaml_fail(d, yaml_get(d, tasks, "capture"), "tasks.capture: expected a size from 4K to 256M");
                c->sched.capture_max = v;
        }
        yaml_end(d, tasks);
}

/* The scalars of a list, NULL-terminated; NULL where absent. They point into the document. */
static char **read_list(YamlDocument *d, YamlNode *mapping, const char *key) {
        YamlNode *list;
        char **items;

        if (!yaml_get_sequence(d, mapping, key, &list))
                return NULL;
        if (list->n > CONFIG_LIST_MAX) {
                yaml_fail(d, list, "%s: expected at most %d items", key, CONFIG_LIST_MAX);
                return NULL;
        }
        items = calloc(list->n + 1, sizeof(*items));
        for (size_t i = 0; items && i < list->n; i++) {
                if (list->items[i]->kind != YAML_SCALAR) {
                        yaml_fail(d, list->items[i], "%s: expected a string", key);
                        free(items);
                        return NULL;
                }
                items[i] = list->items[i]->text;
        }
        return items;
}

static void read_sandbox(Config *c, YamlNode *root) {
        YamlDocument *d = c->document;
        YamlNode *sandbox;
        uint64_t v;

        if (!yaml_get_mapping(d, root, "sandbox", &sandbox))
                return;
        char **require = read_list(d, sandbox, "require");
        if (require) {
                free(c->require);
                c->require = (const char **)require;
                c->sched.require = c->require;
        }
        (void)yaml_get_size(d, sandbox, "memory_max", &c->sched.memory_max);
        if (yaml_get_u64(d, sandbox, "pids_max", 0, 4194304, &v))
                c->sched.pids_max = (uint32_t)v;
        if (yaml_get_u64(d, sandbox, "cpu_percent", 0, 100000, &v))
                c->sched.cpu_percent = (uint32_t)v;
        /* The launcher's own; it checks them. */
        (void)yaml_get(d, sandbox, "workspace_roots");
        (void)yaml_get(d, sandbox, "read_only");
        (void)yaml_get(d, sandbox, "worker_user");
        (void)yaml_get(d, sandbox, "uid_min");
        yaml_end(d, sandbox);
}

/* A mapping of scalars as "name=value" strings; the array and its strings are the caller's. */
static char **read_pairs(YamlDocument *d, YamlNode *mapping, const char *key) {
        YamlNode *pairs;
        char **items;

        if (!yaml_get_mapping(d, mapping, key, &pairs))
                return NULL;
        items = calloc(pairs->n + 1, sizeof(*items));
        for (size_t i = 0; items && i < pairs->n; i++) {
                if (pairs->items[i]->kind != YAML_SCALAR || pairs->n > CONFIG_LIST_MAX) {
                        yaml_fail(d, pairs->items[i], "%s: expected at most %d names, each with a string", key, CONFIG_LIST_MAX);
                        break;
                }
                if (asprintf(&items[i], "%s=%s", pairs->keys[i]->text, pairs->items[i]->text) < 0)
                        items[i] = NULL;
                pairs->keys[i]->seen = pairs->items[i]->seen = true;
        }
        return items;
}

static void read_agent(YamlDocument *d, const char *name, YamlNode *node, AdapterConfig *a) {
        const char *path;
        bool enabled;
        uint64_t v;

        a->name = name;
        if (!parse_name(name, 64))
                yaml_fail(d, node, "agents: '%s' is no name of an agent; expected letters, digits, '.', '_' and '-'", name);
        if (node->kind != YAML_MAPPING) {
                yaml_fail(d, node, "agents.%s: expected a mapping", name);
                return;
        }
        if (yaml_get_bool(d, node, "enabled", &enabled))
                a->disabled = !enabled;
        if (yaml_get_str(d, node, "path", &path)) {
                if (*path != '/')
                        yaml_fail(d, yaml_get(d, node, "path"), "agents.%s.path: expected an absolute path", name);
                a->path = (char *)path;
        }
        a->search = read_list(d, node, "search");
        a->settings = read_pairs(d, node, "settings");
        a->environment = read_pairs(d, node, "environment");
        a->credentials = read_pairs(d, node, "credentials");
        a->read_only = read_list(d, node, "read_only");
        if (yaml_get_u64(d, node, "concurrency", 1, 10000, &v))
                a->concurrency = (uint32_t)v;
        yaml_end(d, node);
}

static int read_agents(Config *c, YamlNode *root) {
        YamlDocument *d = c->document;
        YamlNode *agents;

        if (!yaml_get_mapping(d, root, "agents", &agents))
                return 0;
        if (agents->n > CONFIG_AGENTS_MAX) {
                yaml_fail(d, agents, "agents: expected at most %d", CONFIG_AGENTS_MAX);
                return 0;
        }
        c->agents = calloc(agents->n ?: 1, sizeof(*c->agents));
        if (!c->agents)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < agents->n; i++) {
                agents->keys[i]->seen = agents->items[i]->seen = true;
                read_agent(d, agents->keys[i]->text, agents->items[i], &c->agents[c->n_agents++]);
        }
        return 0;
}

static int config_defaults(Config *c) {
        static const char *const require[] = { "landlock", "seccomp", "pidns", NULL };

        c->api = (ApiConfig){ .body_max = MIB(4), .connections_max = 1024 };
        c->sched = (SchedConfig){
                .running_max = 100,
                .queued_max = 100000,
                .queued_per_principal_max = 50000,
                .timeout_us = 3600 * USEC_PER_SEC,
                .max_attempts = 1,
                .backoff_us = 5 * USEC_PER_SEC,
                .capture_max = MIB(8),
                .memory_max = (uint64_t)4 << 30,
                .pids_max = 1024,
        };
        c->require = calloc(ELEMENTSOF(require), sizeof(*c->require));
        if (!c->require)
                return error_origin(-ENOMEM);
        for (size_t i = 0; require[i]; i++)
                c->require[i] = require[i];
        c->sched.require = c->require;
        return 0;
}

int config_load(Config **ret_config, const char *path, char ret_error[static YAML_ERROR_MAX]) {
        _cleanup_(config_freep) Config *c = calloc(1, sizeof(*c));
        YamlDocument *d;
        uint64_t version;
        int r;

        if (!c)
                return error_origin(-ENOMEM);
        r = config_defaults(c);
        if (r)
                return error_trace(r);
        if (path) {
                r = yaml_load_file(AT_FDCWD, path, &c->document);
                d = c->document;
                if (r < 0) {
                        snprintf(ret_error, YAML_ERROR_MAX, "%s: %s", path, strerror(-r));
                        return CONFIG_E_INVALID;
                }
                if (!r && d->root->kind != YAML_MAPPING)
                        yaml_fail(d, d->root, "expected a mapping that begins with 'version: 1'");
                if (!d->failed) {
                        if (!yaml_get_u64(d, d->root, "version", 1, 1, &version) && !d->failed)
                                yaml_fail(d, d->root, "version: is required; expected 'version: 1'");
                        read_limits(c, d->root);
                        read_tasks(c, d->root);
                        read_sandbox(c, d->root);
                        r = read_agents(c, d->root);
                        if (r < 0)
                                return error_trace(r);
                        yaml_end(d, d->root);
                }
                if (d->failed) {
                        snprintf(ret_error, YAML_ERROR_MAX, "%s", d->error);
                        return CONFIG_E_INVALID;
                }
        }
        *ret_config = steal_ptr(&c);
        return 0;
}

static void pairs_free(char **pairs) {
        for (char **p = pairs; p && *p; p++)
                free(*p);
        free(pairs);
}

Config *config_free(Config *c) {
        if (!c)
                return NULL;
        for (size_t i = 0; i < c->n_agents; i++) {
                free(c->agents[i].search);
                free(c->agents[i].read_only);
                pairs_free(c->agents[i].settings);
                pairs_free(c->agents[i].environment);
                pairs_free(c->agents[i].credentials);
        }
        free(c->agents);
        free(c->require);
        yaml_free(c->document);
        free(c);
        return NULL;
}

/* ---- agents ---- */

typedef struct ManifestList {
        char *names[CONFIG_AGENTS_MAX];
        char *paths[CONFIG_AGENTS_MAX];
        size_t n;
} ManifestList;

static void manifest_list_deinit(ManifestList *l) {
        for (size_t i = 0; i < l->n; i++) {
                free(l->names[i]);
                free(l->paths[i]);
        }
}

static size_t manifest_find(const ManifestList *l, const char *name) {
        size_t i;

        for (i = 0; i < l->n; i++)
                if (streq(l->names[i], name))
                        break;
        return i;
}

/* The first of a name wins. */
static int manifest_add(ManifestList *l, const char *name, size_t n_name, char *path_take) {
        char *copy = path_take ? strndup(name, n_name) : NULL;

        if (!copy) {
                free(path_take);
                return error_origin(-ENOMEM);
        }
        if (manifest_find(l, copy) < l->n || l->n == CONFIG_AGENTS_MAX) {
                free(copy);
                free(path_take);
                return 0;
        }
        l->names[l->n] = copy;
        l->paths[l->n++] = path_take;
        return 0;
}

static int by_name(const struct dirent **a, const struct dirent **b) {
        return strcmp((*a)->d_name, (*b)->d_name);
}

/* configuration_dir/agents.d/NAME.yaml, data_dir/workers/NAME/agent.yaml. */
static int manifest_scan(ManifestList *l, const char *dir, const char *sub, const char *suffix) {
        _cleanup_free_ char *path = NULL;
        struct dirent **entries = NULL;
        int n, r = 0;

        if (!dir)
                return 0;
        if (asprintf(&path, "%s/%s", dir, sub) < 0)
                return error_origin(-ENOMEM);
        n = scandir(path, &entries, NULL, by_name);
        if (n < 0)
                return errno == ENOENT || errno == EACCES || errno == ENOTDIR ? 0 : error_origin(-errno);
        for (int i = 0; i < n; i++) {
                const char *name = entries[i]->d_name;
                size_t n_name = strlen(name);
                char *file = NULL;
                if (!r && *name != '.') {
                        if (*suffix == '.') {
                                if (n_name > strlen(suffix) && streq(name + n_name - strlen(suffix), suffix)) {
                                        if (asprintf(&file, "%s/%s", path, name) < 0)
                                                file = NULL;
                                        r = manifest_add(l, name, n_name - strlen(suffix), file);
                                }
                        } else {
                                if (asprintf(&file, "%s/%s/%s", path, name, suffix) < 0)
                                        file = NULL;
                                if (file && access(file, R_OK) < 0)
                                        free(file);
                                else
                                        r = manifest_add(l, name, n_name, file);
                        }
                }
                free(entries[i]);
        }
        free(entries);
        return r;
}

static int agent_load(Sched *sched, const char *path, const AdapterConfig *config,
                      char ret_error[static YAML_ERROR_MAX]) {
        _cleanup_(adapter_freep) Adapter *a = NULL;
        int r;

        r = adapter_load(&a, AT_FDCWD, path, config, ret_error);
        if (r > 0)
                return CONFIG_E_INVALID;
        if (r) {
                snprintf(ret_error, YAML_ERROR_MAX, "%s: %s", path, strerror(-r));
                return CONFIG_E_INVALID;
        }
        if (adapter_probe(a))
                log_notice("agent '%s' is not installed: %s", adapter_name(a), adapter_hint(a));
        r = sched_add_agent_take(sched, a);
        if (r)
                return error_trace(r);
        steal_ptr(&a);
        return 0;
}

int config_load_agents(const Config *c, Sched *sched, const char *configuration_dir, const char *data_dir,
                       char ret_error[static YAML_ERROR_MAX]) {
        _cleanup_(manifest_list_deinit) ManifestList found = {};
        int r;

        r = manifest_scan(&found, configuration_dir, "agents.d", ".yaml");
        r = r ?: manifest_scan(&found, data_dir, "workers", "agent.yaml");
        if (r)
                return error_trace(r);
        for (size_t i = 0; i < c->n_agents; i++) {
                size_t at = manifest_find(&found, c->agents[i].name);
                if (c->agents[i].disabled)
                        continue;
                if (at == found.n) {
                        snprintf(ret_error, YAML_ERROR_MAX, "agents.%s: there is no manifest of this name in %s/agents.d or %s/workers",
                                 c->agents[i].name, configuration_dir ?: "(no configuration directory)", data_dir);
                        return CONFIG_E_INVALID;
                }
                r = agent_load(sched, found.paths[at], &c->agents[i], ret_error);
                if (r)
                        return r;
        }
        for (size_t i = 0; i < found.n; i++) {
                const AdapterConfig plain = { .name = found.names[i] };
                bool configured = false;
                for (size_t j = 0; j < c->n_agents; j++)
                        configured |= streq(c->agents[j].name, found.names[i]);
                if (configured)
                        continue;
                r = agent_load(sched, found.paths[i], &plain, ret_error);
                if (r)
                        return r;
        }
        return 0;
}

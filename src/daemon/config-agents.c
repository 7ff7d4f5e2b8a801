#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/parse.h"
#include "daemon/config.h"

/* ---- agents ---- */

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
        const char *path, *account;
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
        a->search = config_read_list(d, node, "search");
        a->settings = read_pairs(d, node, "settings");
        a->environment = read_pairs(d, node, "environment");
        a->credentials = read_pairs(d, node, "credentials");
        a->read_only = config_read_list(d, node, "read_only");
        if (yaml_get_str(d, node, "account", &account)) {
                if (!parse_name(account, 64))
                        yaml_fail(d, yaml_get(d, node, "account"), "agents.%s.account: '%s' is no name; expected letters, "
                                  "digits, '.', '_' and '-'", name, account);
                a->account = (char *)account;
        }
        if (yaml_get_u64(d, node, "concurrency", 1, 10000, &v))
                a->concurrency = (uint32_t)v;
        yaml_end(d, node);
}

int config_read_agents(Config *c, YamlNode *root) {
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

static void pairs_free(char **pairs) {
        for (char **p = pairs; p && *p; p++)
                free(*p);
        free(pairs);
}

void config_free_agents(Config *c) {
        for (size_t i = 0; i < c->n_agents; i++) {
                free(c->agents[i].search);
                free(c->agents[i].read_only);
                pairs_free(c->agents[i].settings);
                pairs_free(c->agents[i].environment);
                pairs_free(c->agents[i].credentials);
        }
        free(c->agents);
}

/* ---- manifests ---- */

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

static int adapter_find(ConfigAdapters *adapters, const char *path, const AdapterConfig *config,
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
        if (adapters->n == CONFIG_AGENTS_MAX) {
                snprintf(ret_error, YAML_ERROR_MAX, "%s: one agent too many; expected at most %d", path, CONFIG_AGENTS_MAX);
                return CONFIG_E_INVALID;
        }
        adapters->items[adapters->n++] = steal_ptr(&a);
        return 0;
}

void config_adapters_deinit(ConfigAdapters *adapters) {
        for (size_t i = 0; i < adapters->n; i++)
                adapter_free(adapters->items[i]);
        adapters->n = 0;
}

int config_load_adapters(const Config *c, const char *configuration_dir, const char *data_dir,
                         ConfigAdapters *ret_adapters, char ret_error[static YAML_ERROR_MAX]) {
        _cleanup_(config_adapters_deinit) ConfigAdapters adapters = {};
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
                r = adapter_find(&adapters, found.paths[at], &c->agents[i], ret_error);
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
                r = adapter_find(&adapters, found.paths[i], &plain, ret_error);
                if (r)
                        return r;
        }
        *ret_adapters = adapters;
        adapters.n = 0;
        return 0;
}

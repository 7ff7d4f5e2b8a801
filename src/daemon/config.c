#include <fcntl.h>
#include <stdio.h>

#include "base/error.h"
#include "base/fd.h"
#include "daemon/config.h"

/* The same as a task may ask for itself. */
#define CONFIG_TIMEOUT_MAX_US (7 * 24 * 3600 * USEC_PER_SEC)
#define CONFIG_BACKOFF_MAX_US (3600 * USEC_PER_SEC)
#define CONFIG_DRAIN_MAX_US (24 * 3600 * USEC_PER_SEC)

static void read_limits(Config *c, YamlNode *root) {
        YamlDocument *d = c->document;
        YamlNode *limits;
        uint64_t v;

        if (!yaml_get_mapping(d, root, "limits", &limits))
                return;
        if (yaml_get_u64(d, limits, "running", 1, CONFIG_RUNNING_MAX, &v))
                c->sched.running_max = (uint32_t)v;
        (void)yaml_get_u64(d, limits, "queued", 1, CONFIG_QUEUED_MAX, &c->sched.queued_max);
        (void)yaml_get_u64(d, limits, "queued_per_principal", 1, CONFIG_QUEUED_MAX,
                           &c->sched.queued_per_principal_max);
        if (yaml_get_u64(d, limits, "running_per_principal", 1, CONFIG_RUNNING_MAX, &v))
                c->sched.running_per_principal_max = (uint32_t)v;
        if (yaml_get_size(d, limits, "queued_bytes", &v)) {
                if (v < MIB(1))
                        yaml_fail(d, yaml_get(d, limits, "queued_bytes"), "limits.queued_bytes: expected a size of at least 1M");
                c->sched.queued_bytes_max = v;
        }
        if (yaml_get_u64(d, limits, "connections", 1, 100000, &v))
                c->api.connections_max = (uint32_t)v;
        if (yaml_get_size(d, limits, "body", &v)) {
                if (v < KIB(1) || v > MIB(64))
                        yaml_fail(d, yaml_get(d, limits, "body"), "limits.body: expected a size from 1K to 64M");
                c->api.body_max = v;
        }
        if (yaml_get_size(d, limits, "batch_body", &v)) {
                if (v < KIB(1) || v > MIB(128))
                        yaml_fail(d, yaml_get(d, limits, "batch_body"), "limits.batch_body: expected a size from 1K to 128M");
                c->api.batch_body_max = v;
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

char **config_read_list(YamlDocument *d, YamlNode *mapping, const char *key) {
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
        char **require = config_read_list(d, sandbox, "require");
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

static void read_shutdown(Config *c, YamlNode *root) {
        YamlDocument *d = c->document;
        YamlNode *shutdown;

        if (!yaml_get_mapping(d, root, "shutdown", &shutdown))
                return;
        if (yaml_get_duration_us(d, shutdown, "drain", &c->drain_us) && c->drain_us > CONFIG_DRAIN_MAX_US)
                yaml_fail(d, yaml_get(d, shutdown, "drain"), "shutdown.drain: expected a duration of at most 1d");
        yaml_end(d, shutdown);
}

static int config_defaults(Config *c) {
        static const char *const require[] = { "landlock", "seccomp", "pidns", NULL };

        c->api = (ApiConfig){ .body_max = MIB(4), .batch_body_max = MIB(32), .connections_max = 1024 };
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
                .pressure = PRESSURE_CONFIG_DEFAULT,
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
                        read_shutdown(c, d->root);
                        r = config_read_queue(c, d->root);
                        r = r ?: config_read_agents(c, d->root);
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

Config *config_free(Config *c) {
        if (!c)
                return NULL;
        config_free_agents(c);
        free(c->limits);
        free(c->matches);
        free(c->require);
        yaml_free(c->document);
        free(c);
        return NULL;
}

/* ---- what is not ours ---- */

static const YamlNode *node_find(const YamlNode *mapping, const char *key) {
        if (mapping && mapping->kind == YAML_MAPPING)
                for (size_t i = 0; i < mapping->n; i++)
                        if (streq(mapping->keys[i]->text, key))
                                return mapping->items[i];
        return NULL;
}

static bool node_equal(const YamlNode *a, const YamlNode *b) {
        if (!a || !b || a->kind != b->kind || a->n != b->n)
                return a == b;
        if (a->kind == YAML_SCALAR)
                return a->n_text == b->n_text && memcmp(a->text, b->text, a->n_text) == 0;
        for (size_t i = 0; i < a->n; i++)
                if (!node_equal(a->items[i], b->items[i]) ||
                    (a->kind == YAML_MAPPING && !node_equal(a->keys[i], b->keys[i])))
                        return false;
        return true;
}

bool config_launchers_part(const Config *a, const Config *b, char ret_names[static 256]) {
        static const char *const table[][2] = {
                { "sandbox", "workspace_roots" }, { "sandbox", "read_only" }, { "sandbox", "worker_user" },
                { "sandbox", "uid_min" },         { "resources", "gpus" },
        };
        size_t n = 0;

        ret_names[0] = 0;
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                const YamlNode *x = node_find(a->document ? a->document->root : NULL, table[i][0]),
                               *y = node_find(b->document ? b->document->root : NULL, table[i][0]);
                if (node_equal(node_find(x, table[i][1]), node_find(y, table[i][1])))
                        continue;
                n += (size_t)snprintf(ret_names + n, 256 - n, "%s%s.%s", n ? ", " : "", table[i][0], table[i][1]);
        }
        return n > 0;
}

/* Who may run and queue how much, the machine's resources, and when it is under pressure. */

#include <stdio.h>

#include "base/error.h"
#include "base/parse.h"
#include "daemon/config.h"

#define CONFIG_NAMES_MAX        256     /* principals, groups */
#define CONFIG_WEIGHT_MAX       1000
#define CONFIG_NAME_MAX         64      /* as a group's in a request */
#define CONFIG_CPUS_MAX         1024    /* as a task may ask for */

static bool limits_make(Config *c, YamlNode *node, const char *what) {
        SchedLimitConfig *limits;

        if (node->n > CONFIG_NAMES_MAX) {
                yaml_fail(c->document, node, "%s: expected at most %d", what, CONFIG_NAMES_MAX);
                return false;
        }
        limits = reallocarray(c->limits, c->sched.n_limits + node->n + 1, sizeof(*limits));
        if (!limits)
                return false;
        c->sched.limits = c->limits = limits;
        return true;
}

/* What principals and groups have in common. */
static SchedLimitConfig *read_limit(Config *c, SchedLimitKind kind, YamlNode *key, YamlNode *node) {
        SchedLimitConfig *l = &c->limits[c->sched.n_limits];
        YamlDocument *d = c->document;
        uint64_t v;

        *l = (SchedLimitConfig){ .kind = kind, .name = key->text, .running = SCHED_NO_LIMIT };
        key->seen = node->seen = true;
        if (node->kind != YAML_MAPPING) {
                yaml_fail(d, node, "%s: expected a mapping", key->text);
                return NULL;
        }
        if (yaml_get_u64(d, node, "running", 1, CONFIG_RUNNING_MAX, &v))
                l->running = (uint32_t)v;
        (void)yaml_get_u64(d, node, "queued", 1, CONFIG_QUEUED_MAX, &l->queued);
        c->sched.n_limits++;
        return l;
}

/* "uid:1000" or "key:NAME/…", as GET /tasks shows them: a limit on anything else would have no effect. */
static bool is_principal(const char *name) {
        uint64_t uid;

        if (str_starts(name, "uid:"))
                return parse_u64_range(name + strlen("uid:"), 0, UINT32_MAX - 1, &uid);
        return str_starts(name, "key:") && strchr(name, '/');
}

static int read_principals(Config *c, YamlNode *root) {
        YamlDocument *d = c->document;
        YamlNode *principals;
        uint64_t v;

        if (!yaml_get_mapping(d, root, "principals", &principals))
                return 0;
        if (!limits_make(c, principals, "principals"))
                return d->failed ? 0 : error_origin(-ENOMEM);
        for (size_t i = 0; i < principals->n && !d->failed; i++) {
                YamlNode *key = principals->keys[i], *node = principals->items[i];
                SchedLimitConfig *l = read_limit(c, SCHED_PRINCIPAL, key, node);
                if (!is_principal(key->text))
                        yaml_fail(d, key, "principals: '%s' is no caller; expected uid:N or key:NAME/…, as a task's principal "
                                  "shows it", key->text);
                if (!l)
                        continue;
                if (yaml_get_u64(d, node, "weight", 1, CONFIG_WEIGHT_MAX, &v))
                        l->weight = (uint32_t)v;
                yaml_end(d, node);
        }
        return 0;
}

/* match: {label: "K=V"}. The text is cut in two where it stands. */
static void read_match(Config *c, const char *group, YamlNode *node) {
        YamlDocument *d = c->document;
        YamlNode *match, *label;
        const char *text;
        char *equals;

        if (!yaml_get_mapping(d, node, "match", &match))
                return;
        if (!yaml_get_str(d, match, "label", &text)) {
                yaml_fail(d, match, "groups.%s.match: expected {label: \"NAME=VALUE\"}", group);
                return;
        }
        label = yaml_get(d, match, "label");
        equals = strchr(label->text, '=');
        if (equals)
                *equals = 0;
        if (!equals || !parse_name(label->text, CONFIG_NAME_MAX))
                yaml_fail(d, label, "groups.%s.match.label: expected \"NAME=VALUE\", where NAME is letters, digits, '.', '_' "
                          "and '-'", group);
        else
                c->matches[c->sched.n_matches++] = (SchedGroupMatch){ group, label->text, equals + 1 };
        yaml_end(d, match);
}

static int read_groups(Config *c, YamlNode *root) {
        YamlDocument *d = c->document;
        YamlNode *groups;

        if (!yaml_get_mapping(d, root, "groups", &groups))
                return 0;
        if (!limits_make(c, groups, "groups"))
                return d->failed ? 0 : error_origin(-ENOMEM);
        c->sched.matches = c->matches = calloc(groups->n + 1, sizeof(*c->matches));
        if (!c->matches)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < groups->n && !d->failed; i++) {
                YamlNode *key = groups->keys[i], *node = groups->items[i];
                SchedLimitConfig *l = read_limit(c, SCHED_GROUP, key, node);
                if (!parse_name(key->text, CONFIG_NAME_MAX))
                        yaml_fail(d, key, "groups: '%s' is no name; expected letters, digits, '.', '_' and '-'", key->text);
                if (!l)
                        continue;
                (void)yaml_get_bool(d, node, "paused", &l->paused);
                read_match(c, key->text, node);
                yaml_end(d, node);
        }
        return 0;
}

/* ---- resources ---- */

/* The launcher's own, which checks them; here only that the keys are known. */
static void read_gpus(YamlDocument *d, YamlNode *resources) {
        static const char *const keys[] = { "name", "devices", "uuid", "memory", "shares" };
        YamlNode *gpus = yaml_get(d, resources, "gpus");

        if (!gpus || (gpus->kind == YAML_SCALAR && streq(gpus->text, "auto")))
                return;
        if (gpus->kind != YAML_SEQUENCE) {
                yaml_fail(d, gpus, "resources.gpus: expected auto, or a list of GPUs, each with name and devices");
                return;
        }
        for (size_t i = 0; i < gpus->n; i++) {
                YamlNode *gpu = gpus->items[i];
                if (gpu->kind != YAML_MAPPING) {
                        yaml_fail(d, gpu, "resources.gpus: expected a mapping with name and devices");
                        return;
                }
                for (size_t k = 0; k < ELEMENTSOF(keys); k++)
                        (void)yaml_get(d, gpu, keys[k]);
                yaml_end(d, gpu);
        }
}

static void read_resources(Config *c, YamlNode *root) {
        YamlDocument *d = c->document;
        YamlNode *resources;
        uint64_t v;

        if (!yaml_get_mapping(d, root, "resources", &resources))
                return;
        if (yaml_get_u64(d, resources, "cpus", 1, CONFIG_CPUS_MAX, &v))
                c->sched.cpus_milli = (uint32_t)v * 1000;
        if (yaml_get_size(d, resources, "memory", &v)) {
                if (v < MIB(1))
                        yaml_fail(d, yaml_get(d, resources, "memory"), "resources.memory: expected a size of at least 1M");
                c->sched.memory = v;
        }
        read_gpus(d, resources);
        yaml_end(d, resources);
}

/* ---- pressure ---- */

static void read_pressure(Config *c, YamlNode *root) {
        static const char *const names[_PRESSURE_KIND_N] = { "memory", "cpu", "io" };
        YamlDocument *d = c->document;
        YamlNode *pressure, *node;
        uint64_t v;

        if (!yaml_get_mapping(d, root, "pressure", &pressure))
                return;
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                if (!yaml_get_mapping(d, pressure, names[i], &node))
                        continue;
                if (yaml_get_u64(d, node, "launch", 0, 100, &v))
                        c->sched.pressure.launch[i] = (uint32_t)v;
                if (yaml_get_u64(d, node, "admit", 0, 100, &v))
                        c->sched.pressure.admit[i] = (uint32_t)v;
                yaml_end(d, node);
        }
        (void)yaml_get_size(d, pressure, "memory_available", &c->sched.pressure.available);
        yaml_end(d, pressure);
}

int config_read_queue(Config *c, YamlNode *root) {
        int r;

        r = read_principals(c, root);
        r = r ?: read_groups(c, root);
        if (r)
                return error_trace(r);
        read_resources(c, root);
        read_pressure(c, root);
        return 0;
}

#include <ctype.h>

#include "adapter/internal.h"
#include "base/error.h"
#include "base/parse.h"

/*
 * A manifest's top level. The functions here and in manifest-output.c read one key each and return false once an error
 * with its place is recorded in the document; the first one is what the caller reports. The Adapter is filled in place,
 * so whatever was read before a failure is freed with it.
 */

#if defined(__x86_64__)
#define MACHINE "x86_64"
#elif defined(__aarch64__)
#define MACHINE "aarch64"
#else
#error "agent-router supports x86-64 and arm64"
#endif

#define MANIFEST_VERSION 1
#define GRACE_DEFAULT_US (5 * USEC_PER_SEC)
/* A worker that ignores SIGTERM must not hold its slot for long. */
#define GRACE_MAX_US (300 * USEC_PER_SEC)
#define CONCURRENCY_DEFAULT 4

void *manifest_array(YamlDocument *d, const YamlNode *at, size_t n, size_t max, size_t size, const char *what) {
        void *p;

        if (n > max) {
                yaml_fail(d, at, "%zu %s; expected at most %zu", n, what, max);
                return NULL;
        }
        p = calloc(n + 1, size);
        if (!p)
                yaml_fail(d, at, "out of memory");
        return p;
}

bool manifest_dup(YamlDocument *d, const YamlNode *node, char **ret_s) {
        char *s;

        if (node->kind != YAML_SCALAR || node->n_text == 0) {
                yaml_fail(d, node, "expected a text that is not empty");
                return false;
        }
        if (node->n_text > MANIFEST_TEXT_MAX || memchr(node->text, 0, node->n_text)) {
                yaml_fail(d, node, "expected a text of at most %zu bytes without NUL", MANIFEST_TEXT_MAX);
                return false;
        }
        s = strdup(node->text);
        if (!s) {
                yaml_fail(d, node, "out of memory");
                return false;
        }
        free(*ret_s);
        *ret_s = s;
        return true;
}

bool manifest_list(YamlDocument *d, YamlNode *node, size_t max, char ***ret_list, size_t *ret_n) {
        YamlNode *const one[] = { node };
        YamlNode *const *items = node->kind == YAML_SEQUENCE ? node->items : one;
        size_t n = node->kind == YAML_SEQUENCE ? node->n : 1;
        char **list;

        if (node->kind == YAML_MAPPING) {
                yaml_fail(d, node, "expected a text or a list of texts");
                return false;
        }
        list = manifest_array(d, node, n, max, sizeof(*list), "entries");
        if (!list)
                return false;
        for (size_t i = 0; i < n; i++)
                if (!manifest_dup(d, items[i], &list[i])) {
                        strv_free(list);
                        return false;
                }
        strv_free(*ret_list);
        *ret_list = list;
        if (ret_n)
                *ret_n = n;
        return true;
}

bool manifest_got(YamlDocument *d, YamlNode *mapping, const char *key, bool got) {
        if (!got && !d->failed)
                yaml_fail(d, yaml_get(d, mapping, key), "%s: expected a value; leave the key out where there is none",
                          key);
        return got;
}

/* A key that must be there. */
static bool need(YamlDocument *d, YamlNode *mapping, const char *key, YamlNode **ret_node) {
        YamlNode *node = yaml_get(d, mapping, key);

        if (!node) {
                yaml_fail(d, mapping, "missing key '%s'", key);
                return false;
        }
        *ret_node = node;
        return true;
}

bool manifest_is_env_name(const char *s) {
        if (!isalpha((unsigned char)*s) && *s != '_')
                return false;
        for (; *s; s++)
                if (!isalnum((unsigned char)*s) && *s != '_')
                        return false;
        return true;
}

static bool load_identity(Adapter *a, YamlDocument *d, YamlNode *root, const AdapterConfig *config) {
        YamlNode *node;
        uint64_t version = 0, concurrency = CONCURRENCY_DEFAULT;

        if (!need(d, root, "version", &node))
                return false;
        if (!manifest_got(d, root, "version", yaml_get_u64(d, root, "version", 0, UINT32_MAX, &version)))
                return false;
        if (version != MANIFEST_VERSION) {
                yaml_fail(d, node, "manifest version %llu; expected %d: this agent-router reads no other",
                          (unsigned long long)version, MANIFEST_VERSION);
                return false;
        }
        if (!need(d, root, "name", &node) || !manifest_dup(d, node, &a->name))
                return false;
        if (!parse_name(a->name, MANIFEST_NAME_MAX)) {
                yaml_fail(d, node,
                          "'%s' is no agent name; expected at most %d letters, digits, '.', '_' or '-', first a letter "
                          "or digit",
                          a->name, MANIFEST_NAME_MAX);
                return false;
        }
        if (config && config->name && !streq(config->name, a->name)) {
                yaml_fail(d, node,
                          "the manifest is of '%s', but it was loaded for the agent '%s'; the directory and the name "
                          "must agree",
                          a->name, config->name);
                return false;
        }
        if (!need(d, root, "title", &node) || !manifest_dup(d, node, &a->title))
                return false;
        if (!need(d, root, "install", &node) || !manifest_dup(d, node, &a->hint))
                return false;
        node = yaml_get(d, root, "tested");
        if (node && !manifest_list(d, node, MANIFEST_LIST_MAX, &a->tested, NULL))
                return false;
        node = yaml_get(d, root, "capabilities");
        if (node) {
                size_t n;
                if (!manifest_list(d, node, MANIFEST_LIST_MAX, &a->capabilities, &n))
                        return false;
                for (size_t i = 0; i < n; i++)
                        if (!parse_name(a->capabilities[i], MANIFEST_NAME_MAX)) {
                                yaml_fail(d, node->kind == YAML_SEQUENCE ? node->items[i] : node,
                                          "'%s' is no capability; expected a name such as 'code' or 'shell'",
                                          a->capabilities[i]);
                                return false;
                        }
        }
        if (!manifest_optional(yaml_get_u64, d, root, "concurrency", 1, MANIFEST_CONCURRENCY_MAX, &concurrency))
                return false;
        a->concurrency = (uint32_t)concurrency;
        return true;
}

static bool load_settings(Adapter *a, YamlDocument *d, YamlNode *root) {
        YamlNode *node;

        if (!yaml_get(d, root, "settings"))
                return true;
        if (!manifest_got(d, root, "settings", yaml_get_mapping(d, root, "settings", &node)))
                return false;
        a->settings = manifest_array(d, node, node->n, MANIFEST_SETTINGS_MAX, sizeof(*a->settings), "settings");
        if (!a->settings)
                return false;
        for (size_t i = 0; i < node->n; i++) {
                Setting *s = &a->settings[a->n_settings++];
                YamlNode *value = node->items[i], *scalar = value;

                if (!manifest_dup(d, node->keys[i], &s->name))
                        return false;
                if (!parse_name(s->name, MANIFEST_NAME_MAX)) {
                        yaml_fail(d, node->keys[i],
                                  "'%s' is no name for a setting; expected letters, digits, '.', '_' or '-'", s->name);
                        return false;
                }
                if (value->kind == YAML_MAPPING) {
                        if (!manifest_optional(yaml_get_bool, d, value, "required", &s->required))
                                return false;
                        scalar = yaml_get(d, value, "default");
                        yaml_end(d, value);
                        if (d->failed)
                                return false;
                }
                if (scalar && scalar->kind != YAML_SCALAR) {
                        yaml_fail(d, scalar, "expected the setting's default (a text), or 'default:' and 'required:'");
                        return false;
                }
                s->value = strdup(scalar ? scalar->text : "");
                if (!s->value) {
                        yaml_fail(d, value, "out of memory");
                        return false;
                }
        }
        return true;
}

static bool load_group(Adapter *a, YamlDocument *d, YamlNode *item, Group *group) {
        YamlNode *const one[] = { item };
        YamlNode *const *items = one, *list;
        size_t n = 1;

        if (item->kind == YAML_MAPPING) {
                if (!condition_parse(a, d, item, &group->condition))
                        return false;
                if (!group->condition.n_when && !group->condition.n_unless) {
                        yaml_fail(d, item, "a group of arguments needs 'when:' or 'unless:' beside 'args:'");
                        return false;
                }
                if (!yaml_get(d, item, "args")) {
                        yaml_fail(d, item, "missing key 'args': the arguments that come and go with the condition");
                        return false;
                }
                if (!manifest_got(d, item, "args", yaml_get_sequence(d, item, "args", (YamlNode **)&list)))
                        return false;
                yaml_end(d, item);
                if (d->failed)
                        return false;
                items = list->items;
                n = list->n;
        } else if (item->kind == YAML_SEQUENCE) {
                yaml_fail(d, item, "expected an argument (a text) or a group ('when:' and 'args:')");
                return false;
        }
        group->args = manifest_array(d, item, n, MANIFEST_ARGS_MAX, sizeof(*group->args), "arguments");
        if (!group->args)
                return false;
        for (; group->n_args < n; group->n_args++)
                if (!template_parse(a, d, items[group->n_args], &group->args[group->n_args]))
                        return false;
        return true;
}

static bool load_command(Adapter *a, YamlDocument *d, YamlNode *root) {
        YamlNode *command, *node, *native;
        size_t n_args = 0;

        if (!need(d, root, "command", &node) ||
            !manifest_got(d, root, "command", yaml_get_mapping(d, root, "command", &command)))
                return false;
        node = yaml_get(d, command, "find");
        if (!node) {
                yaml_fail(d, command, "missing key 'find': the names under which the executable may be installed");
                return false;
        }
        if (!manifest_list(d, node, MANIFEST_LIST_MAX, &a->find, NULL))
                return false;
        for (size_t i = 0; a->find[i]; i++)
                if (a->find[i][0] != '/' && strchr(a->find[i], '/')) {
                        yaml_fail(d, node->kind == YAML_SEQUENCE ? node->items[i] : node,
                                  "'%s' is a relative path; expected a plain name or an absolute path", a->find[i]);
                        return false;
                }
        node = yaml_get(d, command, "package");
        if (node && !manifest_dup(d, node, &a->package))
                return false;
        native = NULL;
        if (!manifest_optional(yaml_get_mapping, d, command, "native", &native))
                return false;
        for (size_t i = 0; native && i < native->n; i++) {
                YamlNode *value = yaml_get(d, native, native->keys[i]->text);
                _cleanup_free_ char *path = NULL;

                if (!streq(native->keys[i]->text, "x86_64") && !streq(native->keys[i]->text, "aarch64")) {
                        yaml_fail(d, native->keys[i], "unknown architecture '%s'; expected x86_64 or aarch64",
                                  native->keys[i]->text);
                        return false;
                }
                if (!manifest_dup(d, value, &path))
                        return false;
                if (path[0] == '/' || strstr(path, "..") || !strchr(path, '/')) {
                        yaml_fail(d, value, "expected a path below node_modules, such as '@scope/package/bin/program'");
                        return false;
                }
                if (streq(native->keys[i]->text, MACHINE))
                        a->native = steal_ptr(&path);
        }
        node = yaml_get(d, command, "interpreter");
        if (node && !manifest_dup(d, node, &a->interpreter))
                return false;
        if (yaml_get(d, command, "args")) {
                if (!manifest_got(d, command, "args", yaml_get_sequence(d, command, "args", &node)))
                        return false;
                a->groups = manifest_array(d, node, node->n, MANIFEST_ARGS_MAX, sizeof(*a->groups), "arguments");
                if (!a->groups)
                        return false;
                for (size_t i = 0; i < node->n; i++) {
                        if (!load_group(a, d, node->items[i], &a->groups[a->n_groups++]))
                                return false;
                        n_args += a->groups[i].n_args;
                }
                if (n_args > MANIFEST_ARGS_MAX) {
                        yaml_fail(d, node, "%zu arguments; expected at most %d", n_args, MANIFEST_ARGS_MAX);
                        return false;
                }
        }
        yaml_end(d, command);
        return !d->failed;
}

/* A mapping from names to templates, each plain or {content_key: …, when: …, unless: …}. */
static bool load_named(Adapter *a, YamlDocument *d, YamlNode *root, const char *key, const char *content_key,
                       size_t max, NamedTemplate **ret_entries, size_t *n_entries) {
        YamlNode *node;

        if (!yaml_get(d, root, key))
                return true;
        if (!manifest_got(d, root, key, yaml_get_mapping(d, root, key, &node)))
                return false;
        *ret_entries = manifest_array(d, node, node->n, max, sizeof(**ret_entries), "entries");
        if (!*ret_entries)
                return false;
        for (size_t i = 0; i < node->n; i++) {
                NamedTemplate *entry = &(*ret_entries)[(*n_entries)++];
                YamlNode *value = node->items[i];

                if (!manifest_dup(d, node->keys[i], &entry->name))
                        return false;
                if (value->kind == YAML_MAPPING) {
                        YamlNode *content = yaml_get(d, value, content_key);
                        if (!content) {
                                yaml_fail(d, value, "missing key '%s'", content_key);
                                return false;
                        }
                        if (!condition_parse(a, d, value, &entry->condition))
                                return false;
                        yaml_end(d, value);
                        if (d->failed)
                                return false;
                        value = content;
                }
                if (!template_parse(a, d, value, &entry->value))
                        return false;
        }
        return true;
}

static bool load_environment(Adapter *a, YamlDocument *d, YamlNode *root) {
        YamlNode *node = yaml_get(d, root, "environment");

        if (!load_named(a, d, root, "environment", "value", MANIFEST_ENVIRONMENT_MAX, &a->environment,
                        &a->n_environment))
                return false;
        for (size_t i = 0; i < a->n_environment; i++)
                if (!manifest_is_env_name(a->environment[i].name)) {
                        yaml_fail(d, node->keys[i],
                                  "'%s' is no name for an environment variable; expected letters, digits and "
                                  "'_', first no digit",
                                  a->environment[i].name);
                        return false;
                }
        return true;
}

static bool load_home_files(Adapter *a, YamlDocument *d, YamlNode *root) {
        YamlNode *node = yaml_get(d, root, "home_files");

        if (!load_named(a, d, root, "home_files", "content", MANIFEST_HOME_FILES_MAX, &a->home_files, &a->n_home_files))
                return false;
        for (size_t i = 0; i < a->n_home_files; i++) {
                const char *path = a->home_files[i].name;
                if (path[0] == '/' || path[0] == '~' || strstr(path, "..") || path[strlen(path) - 1] == '/') {
                        yaml_fail(d, node->keys[i],
                                  "'%s' is no path below HOME; expected one such as '.config/tool.json'", path);
                        return false;
                }
        }
        return true;
}

static bool load_sandbox(Adapter *a, YamlDocument *d, YamlNode *root) {
        YamlNode *sandbox, *node;
        uint64_t pids = 0, cpu = 0;

        if (!yaml_get(d, root, "sandbox"))
                return true;
        if (!manifest_got(d, root, "sandbox", yaml_get_mapping(d, root, "sandbox", &sandbox)))
                return false;
        node = yaml_get(d, sandbox, "seccomp");
        if (node) {
                if (!manifest_dup(d, node, &a->seccomp))
                        return false;
                if (!parse_name(a->seccomp, MANIFEST_NAME_MAX)) {
                        yaml_fail(d, node,
                                  "'%s' is no profile name; expected the name of a file in the seccomp directory",
                                  a->seccomp);
                        return false;
                }
        }
        if (!manifest_optional(yaml_get_bool, d, sandbox, "network", &a->network))
                return false;
        if (yaml_get(d, sandbox, "read_only")) {
                if (!manifest_got(d, sandbox, "read_only", yaml_get_sequence(d, sandbox, "read_only", &node)))
                        return false;
                a->read_only = manifest_array(d, node, node->n, MANIFEST_LIST_MAX, sizeof(*a->read_only), "paths");
                if (!a->read_only)
                        return false;
                for (; a->n_read_only < node->n; a->n_read_only++) {
                        YamlNode *item = node->items[a->n_read_only];
                        if (item->kind == YAML_SCALAR && item->text[0] != '/' && item->text[0] != '$') {
                                yaml_fail(d, item, "'%s' is no absolute path", item->text);
                                return false;
                        }
                        if (!template_parse(a, d, item, &a->read_only[a->n_read_only]))
                                return false;
                }
        }
        if (!manifest_optional(yaml_get_size, d, sandbox, "memory_max", &a->memory_max))
                return false;
        if (!manifest_optional(yaml_get_u64, d, sandbox, "pids_max", 1, 1 << 20, &pids))
                return false;
        if (!manifest_optional(yaml_get_u64, d, sandbox, "cpu_percent", 1, 100000, &cpu))
                return false;
        a->pids_max = (uint32_t)pids;
        a->cpu_percent = (uint32_t)cpu;
        yaml_end(d, sandbox);
        return !d->failed;
}

static bool load_limits(Adapter *a, YamlDocument *d, YamlNode *root) {
        YamlNode *limits, *node;

        a->grace_us = GRACE_DEFAULT_US;
        if (!yaml_get(d, root, "limits"))
                return true;
        if (!manifest_got(d, root, "limits", yaml_get_mapping(d, root, "limits", &limits)))
                return false;
        if (!manifest_optional(yaml_get_duration_us, d, limits, "inactivity", &a->inactivity_us))
                return false;
        node = yaml_get(d, limits, "grace");
        if (node && !manifest_got(d, limits, "grace", yaml_get_duration_us(d, limits, "grace", &a->grace_us)))
                return false;
        if (a->grace_us > GRACE_MAX_US) {
                yaml_fail(d, node, "the grace between SIGTERM and SIGKILL is over %llu s",
                          (unsigned long long)(GRACE_MAX_US / USEC_PER_SEC));
                return false;
        }
        if (!manifest_optional(yaml_get_u64, d, limits, "prompt_chars", 1, UINT32_MAX, &a->prompt_chars_max))
                return false;
        yaml_end(d, limits);
        return !d->failed;
}

static bool load_stdin(YamlDocument *d, YamlNode *root) {
        YamlNode *node = yaml_get(d, root, "stdin");

        if (node && (node->kind != YAML_SCALAR || !streq(node->text, "prompt"))) {
                yaml_fail(d, node, "expected 'prompt': the prompt goes in by stdin");
                return false;
        }
        return true;
}

static bool condition_uses(const Condition *c, VariableKind kind) {
        for (size_t i = 0; i < c->n_when; i++)
                if (c->when[i].kind == kind)
                        return true;
        for (size_t i = 0; i < c->n_unless; i++)
                if (c->unless[i].kind == kind)
                        return true;
        return false;
}

bool manifest_uses_model(const Adapter *a) {
        for (size_t i = 0; i < a->n_groups; i++) {
                if (condition_uses(&a->groups[i].condition, VARIABLE_MODEL))
                        return true;
                for (size_t j = 0; j < a->groups[i].n_args; j++)
                        if (template_uses(&a->groups[i].args[j], VARIABLE_MODEL))
                                return true;
        }
        for (size_t i = 0; i < a->n_environment; i++)
                if (template_uses(&a->environment[i].value, VARIABLE_MODEL))
                        return true;
        for (size_t i = 0; i < a->n_home_files; i++)
                if (template_uses(&a->home_files[i].value, VARIABLE_MODEL))
                        return true;
        return false;
}

void manifest_load(Adapter *a, YamlDocument *d, const AdapterConfig *config) {
        YamlNode *root = d->root;

        if (root->kind != YAML_MAPPING) {
                yaml_fail(d, root, "expected a mapping with the keys version, name, title, install, command, output…");
                return;
        }
        /* Settings come first whatever the order in the file: templates refer to them. */
        if (!load_identity(a, d, root, config) || !load_settings(a, d, root) || !load_command(a, d, root) ||
            !load_environment(a, d, root) || !load_home_files(a, d, root) || !load_stdin(d, root) ||
            !load_sandbox(a, d, root) || !load_limits(a, d, root) || !manifest_output(a, d, root))
                return;
        yaml_end(d, root);
}

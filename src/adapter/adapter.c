#include <stdio.h>

#include "adapter/internal.h"
#include "base/error.h"

/* An Adapter's life: a manifest is read (manifest.c), the daemon's configuration is laid over it, and it is freed. */

#define SECCOMP_DEFAULT "agent"

char **strv_free(char **v) {
        for (char **s = v; s && *s; s++)
                free(*s);
        free(v);
        return NULL;
}

size_t strv_length(char **v) {
        size_t n = 0;

        while (v && v[n])
                n++;
        return n;
}

int strv_copy(char **v, char ***ret_copy) {
        char **copy = NULL;

        if (v) {
                copy = calloc(strv_length(v) + 1, sizeof(*copy));
                if (!copy)
                        return error_origin(-ENOMEM);
                for (size_t i = 0; v[i]; i++) {
                        copy[i] = strdup(v[i]);
                        if (!copy[i]) {
                                strv_free(copy);
                                return error_origin(-ENOMEM);
                        }
                }
        }
        *ret_copy = copy;
        return 0;
}

/* 0, ADAPTER_E_INVALID or a fatal error. */
static int apply_settings(Adapter *a, char **settings, char ret_error[static YAML_ERROR_MAX]) {
        for (; settings && *settings; settings++) {
                const char *equals = strchr(*settings, '=');
                size_t n = equals ? (size_t)(equals - *settings) : strlen(*settings), i;

                for (i = 0; i < a->n_settings; i++)
                        if (strlen(a->settings[i].name) == n && strncmp(a->settings[i].name, *settings, n) == 0)
                                break;
                if (i == a->n_settings) {
                        char known[256] = "";
                        for (i = 0; i < a->n_settings; i++) {
                                size_t used = strlen(known);
                                snprintf(known + used, sizeof(known) - used, "%s%s", used ? ", " : "",
                                         a->settings[i].name);
                        }
                        snprintf(ret_error, YAML_ERROR_MAX, "agents.%s.settings: no setting '%.*s'; this agent has %s",
                                 a->name, (int)MIN(n, (size_t)MANIFEST_NAME_MAX), *settings, *known ? known : "none");
                        return ADAPTER_E_INVALID;
                }
                free(a->settings[i].value);
                a->settings[i].value = strdup(equals ? equals + 1 : "");
                if (!a->settings[i].value)
                        return error_origin(-ENOMEM);
        }
        return 0;
}

static int apply_config(Adapter *a, const AdapterConfig *config, char ret_error[static YAML_ERROR_MAX]) {
        int r;

        if (config->path) {
                if (config->path[0] != '/') {
                        snprintf(ret_error, YAML_ERROR_MAX, "agents.%s.path: '%s' is no absolute path", a->name,
                                 config->path);
                        return ADAPTER_E_INVALID;
                }
                a->path = strdup(config->path);
                if (!a->path)
                        return error_origin(-ENOMEM);
        }
        for (size_t i = 0; config->environment && config->environment[i]; i++) {
                _cleanup_free_ char *name = strndup(config->environment[i], strcspn(config->environment[i], "="));
                if (!name)
                        return error_origin(-ENOMEM);
                if (!manifest_is_env_name(name) || !strchr(config->environment[i], '=')) {
                        snprintf(ret_error, YAML_ERROR_MAX,
                                 "agents.%s.environment: '%s' is no name for an environment variable", a->name, name);
                        return ADAPTER_E_INVALID;
                }
        }
        r = strv_copy(config->search, &a->search) ?: strv_copy(config->environment, &a->extra_environment) ?:
            strv_copy(config->credentials, &a->credentials) ?: strv_copy(config->read_only, &a->extra_read_only);
        if (r)
                return error_trace(r);
        if (config->account) {
                a->account = strdup(config->account);
                if (!a->account)
                        return error_origin(-ENOMEM);
        }
        if (config->concurrency)
                a->concurrency = config->concurrency;
        a->disabled = config->disabled;
        return apply_settings(a, config->settings, ret_error);
}

int adapter_load(Adapter **ret_adapter, int dir_fd, const char *manifest_path, const AdapterConfig *config,
                 char ret_error[static YAML_ERROR_MAX]) {
        _cleanup_(adapter_freep) Adapter *a = NULL;
        _cleanup_(yaml_freep) YamlDocument *d = NULL;
        int r;

        r = yaml_load_file(dir_fd, manifest_path, &d);
        if (r == YAML_E_INVALID) {
                snprintf(ret_error, YAML_ERROR_MAX, "%s", d->error);
                return ADAPTER_E_INVALID;
        }
        if (r)
                return error_fold(r);
        a = calloc(1, sizeof(*a));
        if (!a)
                return error_origin(-ENOMEM);
        a->n_refs = 1;
        manifest_load(a, d, config);
        if (d->failed) {
                snprintf(ret_error, YAML_ERROR_MAX, "%s", d->error);
                return ADAPTER_E_INVALID;
        }
        if (!a->seccomp) {
                a->seccomp = strdup(SECCOMP_DEFAULT);
                if (!a->seccomp)
                        return error_origin(-ENOMEM);
        }
        a->takes_model = manifest_uses_model(a);
        if (config) {
                r = apply_config(a, config, ret_error);
                if (r)
                        return r;
        }
        *ret_adapter = steal_ptr(&a);
        return 0;
}

Adapter *adapter_ref(Adapter *a) {
        a->n_refs++;
        return a;
}

Adapter *adapter_free(Adapter *a) {
        if (!a || --a->n_refs)
                return NULL;
        for (size_t i = 0; i < a->n_settings; i++) {
                free(a->settings[i].name);
                free(a->settings[i].value);
        }
        for (size_t i = 0; i < a->n_groups; i++) {
                condition_deinit(&a->groups[i].condition);
                for (size_t j = 0; j < a->groups[i].n_args; j++)
                        template_deinit(&a->groups[i].args[j]);
                free(a->groups[i].args);
        }
        for (size_t i = 0; i < a->n_environment; i++) {
                free(a->environment[i].name);
                condition_deinit(&a->environment[i].condition);
                template_deinit(&a->environment[i].value);
        }
        for (size_t i = 0; i < a->n_home_files; i++) {
                free(a->home_files[i].name);
                condition_deinit(&a->home_files[i].condition);
                template_deinit(&a->home_files[i].value);
        }
        for (size_t i = 0; i < a->n_read_only; i++)
                template_deinit(&a->read_only[i]);
        for (size_t i = 0; i < a->n_rules; i++)
                rule_deinit(&a->rules[i]);
        for (size_t i = 0; i < a->n_errors; i++)
                error_rule_deinit(&a->errors[i]);
        strv_free(a->tested);
        strv_free(a->capabilities);
        strv_free(a->find);
        strv_free(a->search);
        strv_free(a->extra_environment);
        strv_free(a->credentials);
        strv_free(a->extra_read_only);
        free(a->settings);
        free(a->groups);
        free(a->environment);
        free(a->home_files);
        free(a->read_only);
        free(a->rules);
        free(a->errors);
        free(a->name);
        free(a->title);
        free(a->hint);
        free(a->package);
        free(a->native);
        free(a->interpreter);
        free(a->seccomp);
        free(a->path);
        free(a->account);
        free(a->executable);
        free(a->interpreter_path);
        free(a->install);
        free(a);
        return NULL;
}

const char *adapter_name(const Adapter *a) {
        return a->name;
}

const char *adapter_title(const Adapter *a) {
        return a->title;
}

const char *adapter_account(const Adapter *a) {
        return a->account ?: a->name;
}

uint32_t adapter_concurrency(const Adapter *a) {
        return a->concurrency;
}

const char *const *adapter_capabilities(const Adapter *a) {
        static const char *const none[] = { NULL };

        return a->capabilities ? (const char *const *)a->capabilities : none;
}

bool adapter_has_capability(const Adapter *a, const char *capability) {
        for (const char *const *c = adapter_capabilities(a); *c; c++)
                if (streq(*c, capability))
                        return true;
        return false;
}

const char *adapter_executable(const Adapter *a) {
        return a->executable;
}

const char *adapter_hint(const Adapter *a) {
        return a->hint;
}

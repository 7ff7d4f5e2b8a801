#include <ctype.h>
#include <stdio.h>

#include "adapter/internal.h"
#include "base/error.h"
#include "base/parse.h"

/*
 * Adapter + task → AdapterCommand. The task's own words reach the command in three places only: the prompt as stdin,
 * the model (a short word that can't be taken for an option) and the workspace (an absolute path).
 */

#define MODEL_MAX 128

/* What every agent gets; the manifest and the configuration may override it. */
static const char *const environment_default[] = {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG=C.UTF-8",
        "TERM=dumb",
        "TMPDIR=/tmp",
};

typedef struct Strings {
        char **v;
        size_t n;
} Strings;

/* Always takes s. */
static int strings_push(Strings *strings, char *s) {
        char **v = reallocarray(strings->v, strings->n + 2, sizeof(*v));

        if (!v) {
                free(s);
                return error_origin(-ENOMEM);
        }
        strings->v = v;
        strings->v[strings->n++] = s;
        strings->v[strings->n] = NULL;
        return 0;
}

static int strings_add(Strings *strings, const char *s) {
        char *copy = strdup(s);

        return copy ? strings_push(strings, copy) : error_origin(-ENOMEM);
}

static void strings_deinit(Strings *strings) {
        strv_free(strings->v);
}

/* Adds "NAME=value", or replaces the one of that name. */
static int environment_set(Strings *environment, const char *name, size_t n_name, const char *value) {
        char *s = NULL;

        if (asprintf(&s, "%.*s=%s", (int)n_name, name, value) < 0)
                return error_origin(-ENOMEM);
        for (size_t i = 0; i < environment->n; i++)
                if (strncmp(environment->v[i], s, n_name + 1) == 0) {
                        free(environment->v[i]);
                        environment->v[i] = s;
                        return 0;
                }
        return strings_push(environment, s);
}

static int environment_assign(Strings *environment, const char *assignment) {
        size_t n = strcspn(assignment, "=");

        return environment_set(environment, assignment, n, assignment[n] ? assignment + n + 1 : "");
}

static int render_argv(const Adapter *a, const RenderContext *context, char ***ret_argv) {
        _cleanup_(strings_deinit) Strings argv = {};
        int r = 0;

        if (a->interpreter_path)
                r = strings_add(&argv, a->interpreter_path);
        if (!r)
                r = strings_add(&argv, a->executable);
        for (size_t i = 0; !r && i < a->n_groups; i++) {
                const Group *group = &a->groups[i];
                if (!condition_holds(&group->condition, context))
                        continue;
                for (size_t j = 0; !r && j < group->n_args; j++) {
                        char *arg;
                        r = template_render(&group->args[j], context, &arg);
                        if (!r)
                                r = strings_push(&argv, arg);
                }
        }
        if (r)
                return error_trace(r);
        *ret_argv = steal_ptr(&argv.v);
        return 0;
}

static int render_environment(const Adapter *a, const RenderContext *context, char ***ret_environment) {
        _cleanup_(strings_deinit) Strings environment = {};
        int r = 0;

        for (size_t i = 0; !r && i < ELEMENTSOF(environment_default); i++)
                r = strings_add(&environment, environment_default[i]);
        if (!r)
                r = environment_set(&environment, "HOME", strlen("HOME"), context->home);
        for (size_t i = 0; !r && i < a->n_environment; i++) {
                const NamedTemplate *entry = &a->environment[i];
                _cleanup_free_ char *value = NULL;
                if (!condition_holds(&entry->condition, context))
                        continue;
                r = template_render(&entry->value, context, &value);
                if (!r)
                        r = environment_set(&environment, entry->name, strlen(entry->name), value);
        }
        for (char **e = a->extra_environment; !r && e && *e; e++)
                r = environment_assign(&environment, *e);
        if (r)
                return error_trace(r);
        *ret_environment = steal_ptr(&environment.v);
        return 0;
}

static int render_read_only(const Adapter *a, const RenderContext *context, char ***ret_paths) {
        _cleanup_(strings_deinit) Strings paths = {};
        int r = 0;

        if (a->install && *a->install)
                r = strings_add(&paths, a->install);
        if (!r && a->interpreter_path && !str_starts(a->interpreter_path, "/usr/"))
                r = strings_add(&paths, a->interpreter_path);
        for (size_t i = 0; !r && i < a->n_read_only; i++) {
                char *path;
                r = template_render(&a->read_only[i], context, &path);
                if (r)
                        break;
                if (path[0] == '/')
                        r = strings_push(&paths, path);
                else
                        free(path); /* a variable that is empty here, such as ${workspace} */
        }
        for (char **p = a->extra_read_only; !r && p && *p; p++)
                r = strings_add(&paths, *p);
        if (!r && !paths.v)
                paths.v = calloc(1, sizeof(*paths.v));
        if (!r && !paths.v)
                r = error_origin(-ENOMEM);
        if (r)
                return error_trace(r);
        *ret_paths = steal_ptr(&paths.v);
        return 0;
}

static int render_home_files(const Adapter *a, const RenderContext *context, char ***ret_files) {
        _cleanup_(strings_deinit) Strings files = {};
        int r = 0;

        for (size_t i = 0; !r && i < a->n_home_files; i++) {
                const NamedTemplate *entry = &a->home_files[i];
                char *content;
                if (!condition_holds(&entry->condition, context))
                        continue;
                r = strings_add(&files, entry->name);
                if (!r)
                        r = template_render(&entry->value, context, &content);
                if (!r)
                        r = strings_push(&files, content);
        }
        if (!r && !files.v)
                files.v = calloc(1, sizeof(*files.v));
        if (!r && !files.v)
                r = error_origin(-ENOMEM);
        if (r)
                return error_trace(r);
        *ret_files = steal_ptr(&files.v);
        return 0;
}

static bool model_is_valid(const char *model) {
        size_t n = strlen(model);

        if (n == 0 || n > MODEL_MAX || !isalnum((unsigned char)model[0]))
                return false;
        for (; *model; model++)
                if (!isalnum((unsigned char)*model) && !strchr("._-:/@+", *model))
                        return false;
        return true;
}

static size_t count_code_points(const char *s, size_t n) {
        size_t count = 0;

        for (size_t i = 0; i < n; i++)
                count += ((unsigned char)s[i] & 0xc0) != 0x80;
        return count;
}

int adapter_check(const Adapter *a, const StoreTask *task, char ret_error[static YAML_ERROR_MAX]) {
        if (a->disabled) {
                snprintf(ret_error, YAML_ERROR_MAX, "the agent '%s' is disabled in the configuration", a->name);
                return ADAPTER_E_UNSUPPORTED;
        }
        if (task->model && !a->takes_model) {
                snprintf(ret_error, YAML_ERROR_MAX, "the agent '%s' has no choice of model; leave 'model' out",
                         a->name);
                return ADAPTER_E_UNSUPPORTED;
        }
        if (task->model && !model_is_valid(task->model)) {
                snprintf(ret_error, YAML_ERROR_MAX,
                         "not a model's name; expected 1 to %d letters, digits or . _ - : / @ +, first a "
                         "letter or digit",
                         MODEL_MAX);
                return ADAPTER_E_UNSUPPORTED;
        }
        if (task->workspace && task->workspace[0] != '/') {
                snprintf(ret_error, YAML_ERROR_MAX, "the workspace is no absolute path");
                return ADAPTER_E_UNSUPPORTED;
        }
        if (a->prompt_chars_max && task->n_prompt > a->prompt_chars_max && task->prompt) {
                size_t n = count_code_points(task->prompt, task->n_prompt);
                if (n > a->prompt_chars_max) {
                        snprintf(ret_error, YAML_ERROR_MAX,
                                 "the prompt has %zu characters; the agent '%s' takes at most %llu", n, a->name,
                                 (unsigned long long)a->prompt_chars_max);
                        return ADAPTER_E_UNSUPPORTED;
                }
        }
        return 0;
}

AdapterCommand *adapter_command_free(AdapterCommand *command) {
        if (!command)
                return NULL;
        strv_free(command->argv);
        strv_free(command->environment);
        strv_free(command->credentials);
        strv_free(command->read_only);
        strv_free(command->home_files);
        free(command->stdin_data);
        free(command);
        return NULL;
}

int adapter_render(const Adapter *a, const StoreTask *task, const char *home, AdapterCommand **ret_command,
                   char ret_error[static YAML_ERROR_MAX]) {
        _cleanup_(adapter_command_freep) AdapterCommand *command = NULL;
        RenderContext context = { .adapter = a, .workspace = task->workspace, .home = home, .model = task->model };
        int r;

        r = adapter_check(a, task, ret_error);
        if (r)
                return r;
        if (!a->executable) {
                snprintf(ret_error, YAML_ERROR_MAX, "the agent '%s' is not installed: %s", a->name, a->hint);
                return ADAPTER_E_UNSUPPORTED;
        }
        command = calloc(1, sizeof(*command));
        if (!command)
                return error_origin(-ENOMEM);
        r = render_argv(a, &context, &command->argv) ?: render_environment(a, &context, &command->environment) ?:
            render_read_only(a, &context, &command->read_only) ?:
            render_home_files(a, &context, &command->home_files) ?:
            strv_copy(a->credentials, &command->credentials);
        if (r)
                return error_trace(r);
        if (!command->credentials)
                command->credentials = calloc(1, sizeof(*command->credentials));
        command->stdin_data = malloc(task->n_prompt + 1);
        if (!command->credentials || !command->stdin_data)
                return error_origin(-ENOMEM);
        if (task->n_prompt)
                memcpy(command->stdin_data, task->prompt, task->n_prompt);
        command->stdin_data[task->n_prompt] = 0;
        command->n_stdin = task->n_prompt;
        command->seccomp = a->seccomp;
        command->network = a->network;
        command->memory_max = a->memory_max;
        command->pids_max = a->pids_max;
        command->cpu_percent = a->cpu_percent;
        command->inactivity_us = a->inactivity_us;
        command->grace_ms = (uint32_t)(a->grace_us / USEC_PER_MSEC);
        *ret_command = steal_ptr(&command);
        return 0;
}

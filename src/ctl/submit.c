#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/parse.h"
#include "ctl/batch-watch.h"
#include "ctl/client.h"
#include "ctl/send.h"
#include "ctl/text.h"
#include "ctl/watch.h"

#define PROMPT_MAX MIB(64)              /* read at most; the router's own limit (limits.body) is lower */

typedef struct Submit {
        const char *file, *agent, *model, *priority, *workspace, *timeout, *not_before, *max_attempts, *backoff;
        const char *idempotency_key, *patience, *group, *deadline, *gpus, *cpus, *memory, *max_tokens, *max_cost;
        const char *on, *on_unmet, *agents, *select;
        OptionList labels, metadata, capabilities, after;
        bool wait, follow;
} Submit;

static int submit_read_prompt(const Submit *s, int n, char **argv, char **ret_prompt, size_t *ret_n) {
        const char *path = s->file;
        _cleanup_close_ int fd = -1;
        int r;

        if (n > 1)
                return ctl_fail(CTL_USAGE, "%d prompts; expected one: put it in quotes", n);
        if (n == 1 && path)
                return ctl_fail(CTL_USAGE, "a prompt and --file are both given; expected one of them");
        if (n == 1 && !streq(argv[0], "-")) {
                *ret_prompt = strdup(argv[0]);
                *ret_n = strlen(argv[0]);
                return *ret_prompt ? 0 : error_origin(-ENOMEM);
        }
        if (n == 0 && !path && isatty(STDIN_FILENO))
                return ctl_fail(CTL_USAGE, "no prompt; expected one as an argument, by --file FILE, or on stdin");
        if (path && !streq(path, "-")) {
                fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
                if (fd < 0)
                        return ctl_fail(CTL_USAGE, "cannot read %s: %s", path, strerror(errno));
        } else
                path = "stdin";
        r = fd_read_all(fd < 0 ? STDIN_FILENO : fd, PROMPT_MAX, ret_prompt, ret_n);
        if (r == FD_E_TOO_LARGE)
                return ctl_fail(CTL_USAGE, "%s: more than %zu MiB; expected a prompt", path, PROMPT_MAX >> 20);
        if (r)
                return ctl_fail(CTL_USAGE, "cannot read %s: %s", path, strerror(-r));
        return 0;
}

static int submit_add_u64(json_object *body, const char *name, const char *option, const char *text, uint64_t max) {
        uint64_t v;

        if (!text)
                return 0;
        if (!parse_u64_range(text, 0, max, &v))
                return ctl_fail(CTL_USAGE, "--%s '%s': expected an integer from 0 to %" PRIu64, option, text, max);
        json_object_object_add(body, name, json_object_new_uint64(v));
        return 0;
}

/* Whole seconds, rounded up: the API's unit. */
static int submit_add_seconds(json_object *body, const char *name, const char *option, const char *text) {
        uint64_t us;

        if (!text)
                return 0;
        if (!parse_duration_us(text, &us))
                return ctl_fail(CTL_USAGE, "--%s '%s': expected a duration such as 30s, 10min or 2h", option, text);
        json_object_object_add(body, name, json_object_new_uint64(us / USEC_PER_SEC + (us % USEC_PER_SEC > 0)));
        return 0;
}

static int submit_add_pairs(json_object *body, const char *name, const char *option, const OptionList *list) {
        json_object *pairs;

        if (!list->n)
                return 0;
        pairs = json_object_new_object();
        json_object_object_add(body, name, pairs);
        for (size_t i = 0; i < list->n; i++) {
                const char *equals = strchr(list->values[i], '=');
                _cleanup_free_ char *key = equals ? strndup(list->values[i], (size_t)(equals - list->values[i])) : NULL;
                if (!key || !*key)
                        return ctl_fail(CTL_USAGE, "--%s '%s': expected KEY=VALUE", option, list->values[i]);
                if (json_object_object_get_ex(pairs, key, NULL))
                        return ctl_fail(CTL_USAGE, "--%s: '%s' is given twice", option, key);
                if (!utf8_is_valid(list->values[i], strlen(list->values[i])))
                        return ctl_fail(CTL_USAGE, "--%s '%s': expected UTF-8", option, key);
                json_object_object_add(pairs, key, json_object_new_string(equals + 1));
        }
        return 0;
}

/* "2026-01-31T09:30:00Z", or "+10min" from now. */
static int submit_add_time(json_object *body, const char *name, const char *option, const char *text) {
        char formatted[CLOCK_RFC3339_MAX];
        uint64_t us;

        if (!text)
                return 0;
        if (text[0] == '+' ? parse_duration_us(text + 1, &us) : !clock_parse_rfc3339(text, &us)) {
                if (text[0] == '+') {
                        clock_format_rfc3339(clock_realtime_us() + us, formatted);
                        text = formatted;
                }
                json_object_object_add(body, name, json_object_new_string(text));
                return 0;
        }
        return ctl_fail(CTL_USAGE, "--%s '%s': expected a time such as 2026-01-31T09:30:00Z, or +10min from now", option, text);
}

/* A relative path is this process's, where the router is on this machine. */
static int submit_add_workspace(Ctl *ctl, json_object *body, const char *path) {
        _cleanup_free_ char *absolute = NULL;

        if (!path)
                return 0;
        if (path[0] != '/') {
                if (!client_is_local(ctl))
                        return ctl_fail(CTL_USAGE, "--workspace '%s': expected an absolute path on the router's machine", path);
                absolute = realpath(path, NULL);
                if (!absolute)
                        return ctl_fail(CTL_USAGE, "--workspace '%s': %s", path, strerror(errno));
                path = absolute;
        }
        if (!utf8_is_valid(path, strlen(path)))
                return ctl_fail(CTL_USAGE, "--workspace: expected a path in UTF-8");
        json_object_object_add(body, "workspace", json_object_new_string(path));
        return 0;
}

static void submit_add_list(json_object *body, const char *name, const OptionList *list) {
        json_object *array;

        if (!list->n)
                return;
        array = json_object_new_array();
        json_object_object_add(body, name, array);
        for (size_t i = 0; i < list->n; i++)
                json_object_array_add(array, json_object_new_string(list->values[i]));
}

/* "codex,gemini" */
static int submit_add_agents(json_object *body, const char *names) {
        json_object *array;

        if (!names)
                return 0;
        if (!utf8_is_valid(names, strlen(names)))
                return ctl_fail(CTL_USAGE, "--agents: expected UTF-8");
        array = json_object_new_array();
        json_object_object_add(body, "agents", array);
        for (const char *p = names;; p++) {
                size_t n = strcspn(p, ",");
                if (!n)
                        return ctl_fail(CTL_USAGE, "--agents '%s': expected names with commas between, such as codex,gemini", names);
                json_object_array_add(array, json_object_new_string_len(p, (int)n));
                p += n;
                if (!*p)
                        return 0;
        }
}

static int submit_add_names(json_object *body, const Submit *s) {
        const struct { const char *name, *option, *value; } names[] = {
                { "agent", "agent", s->agent }, { "model", "model", s->model }, { "group", "group", s->group },
                { "on", "on", s->on }, { "on_unmet", "on-unmet", s->on_unmet }, { "select", "select", s->select },
        };

        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                if (names[i].value) {
                        if (!utf8_is_valid(names[i].value, strlen(names[i].value)))
                                return ctl_fail(CTL_USAGE, "--%s: expected UTF-8", names[i].option);
                        json_object_object_add(body, names[i].name, json_object_new_string(names[i].value));
                }
        submit_add_list(body, "capabilities", &s->capabilities);
        submit_add_list(body, "after", &s->after);
        return submit_add_agents(body, s->agents);
}

static int submit_add_resources(json_object *body, const Submit *s) {
        json_object *resources = json_object_new_object();
        uint64_t v;
        int r;

        json_object_object_add(body, "resources", resources);
        r = submit_add_u64(resources, "gpus", "gpus", s->gpus, 64);
        if (r)
                return r;
        if (s->cpus) {
                /* The form of an amount of money is that of an amount of anything. */
                if (!text_is_usd(s->cpus))
                        return ctl_fail(CTL_USAGE, "--cpus '%s': expected a number such as 2 or 0.5", s->cpus);
                json_object_object_add(resources, "cpus", json_tokener_parse(s->cpus));
        }
        if (s->memory) {
                if (!parse_size(s->memory, &v))
                        return ctl_fail(CTL_USAGE, "--memory '%s': expected a size such as 512M or 8G", s->memory);
                json_object_object_add(resources, "memory", json_object_new_uint64(v));
        }
        if (!json_object_object_length(resources))
                json_object_object_del(body, "resources");
        return 0;
}

static int submit_add_budget(json_object *body, const Submit *s) {
        if (s->max_cost) {
                if (!text_is_usd(s->max_cost))
                        return ctl_fail(CTL_USAGE, "--max-cost-usd '%s': expected dollars, such as 2.50", s->max_cost);
                json_object_object_add(body, "max_cost_usd", json_tokener_parse(s->max_cost));
        }
        return submit_add_u64(body, "max_tokens", "max-tokens", s->max_tokens, UINT64_C(1) << 53);
}

static int submit_make_body(Ctl *ctl, const Submit *s, const char *prompt, size_t n_prompt, json_object **ret_body) {
        _cleanup_(json_putp) json_object *body = json_object_new_object(), *retry = json_object_new_object();
        int r;

        if (n_prompt == 0)
                return ctl_fail(CTL_USAGE, "the prompt is empty");
        if (!utf8_is_valid(prompt, n_prompt))
                return ctl_fail(CTL_USAGE, "the prompt is not UTF-8 text");
        json_object_object_add(body, "prompt", json_object_new_string_len(prompt, (int)n_prompt));
        r = submit_add_names(body, s);
        if (!r)
                r = submit_add_u64(body, "priority", "priority", s->priority, 100);
        if (!r)
                r = submit_add_seconds(body, "timeout_s", "timeout", s->timeout);
        if (!r)
                r = submit_add_time(body, "not_before", "not-before", s->not_before);
        if (!r)
                r = submit_add_time(body, "deadline", "deadline", s->deadline);
        if (!r)
                r = submit_add_resources(body, s);
        if (!r)
                r = submit_add_budget(body, s);
        if (!r)
                r = submit_add_pairs(body, "labels", "label", &s->labels);
        if (!r)
                r = submit_add_pairs(body, "metadata", "metadata", &s->metadata);
        if (!r)
                r = submit_add_u64(retry, "max_attempts", "max-attempts", s->max_attempts, 1000);
        if (!r)
                r = submit_add_seconds(retry, "backoff_s", "backoff", s->backoff);
        if (!r)
                r = submit_add_workspace(ctl, body, s->workspace);
        if (r)
                return r;
        if (json_object_object_length(retry))
                json_object_object_add(body, "retry", steal_ptr(&retry));
        *ret_body = steal_ptr(&body);
        return 0;
}

static int submit_wait(Ctl *ctl, const Submit *s, uint64_t patience_us, const char *id) {
        _cleanup_(show_deinit) Show show = SHOW_INIT(ctl, stderr);
        Watch w = { .id = id, .show = s->follow ? &show : NULL, .patience_us = patience_us, .known = true };
        _cleanup_(json_putp) json_object *task = NULL;
        int r;

        r = watch_task(ctl, &w);
        if (r)
                return r;
        if (s->follow)
                return show_exit(w.state);
        r = watch_get(ctl, id, "", &task);
        if (r)
                return r;
        if (ctl->json)
                text_print_json(task);
        else
                show_result(ctl, task);
        return show_exit(w.state);
}

/* The tasks of several agents. */
static int submit_wait_set(Ctl *ctl, uint64_t patience_us, const char *id) {
        _cleanup_(json_putp) json_object *batch = NULL;
        int r;

        r = batch_watch(ctl, id, patience_us, &batch);
        if (r)
                return r;
        if (ctl->json)
                text_print_json(batch);
        else
                r = batch_print(ctl, batch);
        return r ?: batch_exit(batch);
}

static int submit_send(Ctl *ctl, const Submit *s, json_object *body, json_object **ret_task) {
        const int flags = JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE;
        size_t n;
        const char *text = json_object_to_json_string_length(body, flags, &n);

        return send_submission(ctl, "/v1/tasks", text, n, s->idempotency_key, ret_task);
}

int verb_submit(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        Submit s = {};
        const Option options[] = {
                { "agent", 'a', "NAME", "agent to run it (see: agent-routerctl agents)", .text = &s.agent },
                { "agents", 0, "NAME,NAME…", "several agents: the same task for each, under one id", .text = &s.agents },
                { "select", 0, "all|first", "with --agents: all results are wanted (all), or the first that\nsucceeds ends the others",
                  .text = &s.select },
                { "model", 'm', "NAME", "model that the agent is told to use", .text = &s.model },
                { "priority", 'p', "0-100", "higher runs first (50)", .text = &s.priority },
                { "workspace", 'C', "DIR", "directory that the agent may read and write", .text = &s.workspace },
                { "label", 'l', "KEY=VALUE", "label to find it by (repeatable)", .list = &s.labels },
                { "metadata", 0, "KEY=VALUE", "metadata kept with it (repeatable)", .list = &s.metadata },
                { "capability", 0, "NAME", "capability that its agent must have (repeatable)", .list = &s.capabilities },
                { "timeout", 't', "DURATION", "end an attempt after so long (10min)", .text = &s.timeout },
                { "not-before", 0, "TIME", "hold it until then: RFC 3339, or +DURATION", .text = &s.not_before },
                { "deadline", 0, "TIME", "give it up where it has not begun by then", .text = &s.deadline },
                { "group", 'g', "NAME", "group whose limit it shares", .text = &s.group },
                { "gpus", 0, "N", "GPUs that it has to itself", .text = &s.gpus },
                { "cpus", 0, "N", "CPUs that it needs, such as 0.5", .text = &s.cpus },
                { "memory", 0, "SIZE", "memory that it needs, such as 8G", .text = &s.memory },
                { "after", 0, "ID", "wait for this task (repeatable)", .list = &s.after },
                { "on", 0, "END", "with --after: success (the default), finish or failure", .text = &s.on },
                { "on-unmet", 0, "WHAT", "with --after: where they end otherwise, cancel it (the default),\nor run", .text = &s.on_unmet },
                { "max-tokens", 0, "N", "tokens that it may use", .text = &s.max_tokens },
                { "max-cost-usd", 0, "USD", "the same in dollars", .text = &s.max_cost },
                { "max-attempts", 0, "N", "attempts before it is given up", .text = &s.max_attempts },
                { "backoff", 0, "DURATION", "pause before the second attempt", .text = &s.backoff },
                { "idempotency-key", 0, "KEY", "the same key makes one task, however often it is sent", .text = &s.idempotency_key },
                { "file", 'f', "FILE", "read the prompt from a file, '-' for stdin", .text = &s.file },
                { "wait", 'w', NULL, "wait for the end, print the result's text", .flag = &s.wait },
                { "follow", 'F', NULL, "print what the agent says as it says it, until the end", .flag = &s.follow },
                { "patience", 0, "DURATION", "with --wait or --follow: how long a router that is gone\nis waited for (2min)",
                  .text = &s.patience },
                {},
        };
        _cleanup_(json_putp) json_object *body = NULL, *task = NULL;
        _cleanup_free_ char *prompt = NULL;
        uint64_t patience_us = WATCH_PATIENCE_US;
        size_t n_prompt = 0;
        int n, r;

        r = ctl_parse(ctl, verb, options, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (s.agents && s.follow)
                return ctl_fail(CTL_USAGE, "--agents and --follow are both given; several agents can't be followed at once: use --wait");
        if (s.patience && !watch_parse_patience(s.patience, &patience_us))
                return CTL_USAGE;
        r = submit_read_prompt(&s, n, argv, &prompt, &n_prompt);
        if (r)
                return r;
        r = submit_make_body(ctl, &s, prompt, n_prompt, &body);
        if (r)
                return r;
        r = submit_send(ctl, &s, body, &task);
        if (r)
                return r;
        if (s.wait || s.follow) {
                /* With --json, stdout is the events' or the task's alone. */
                if (!ctl->json && isatty(STDERR_FILENO))
                        fprintf(stderr, "task %s\n", text_member(task, "/id"));
                return s.agents ? submit_wait_set(ctl, patience_us, text_member(task, "/id"))
                                : submit_wait(ctl, &s, patience_us, text_member(task, "/id"));
        }
        if (ctl->json)
                text_print_json(task);
        else
                puts(text_member(task, "/id"));
        return CTL_OK;
}

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/id.h"
#include "base/json.h"
#include "base/parse.h"
#include "ctl/client.h"
#include "ctl/text.h"
#include "ctl/watch.h"

#define PROMPT_MAX MIB(64)              /* read at most; the router's own limit (limits.body) is lower */
#define SUBMIT_TRIES 8                  /* of a request that broke: 100 ms, doubled each time, 12.7 s in all */

typedef struct Submit {
        const char *file, *agent, *model, *priority, *workspace, *timeout, *not_before, *max_attempts, *backoff;
        const char *idempotency_key, *patience;
        OptionList labels, metadata, capabilities;
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
static int submit_add_not_before(json_object *body, const char *text) {
        char formatted[CLOCK_RFC3339_MAX];
        uint64_t us;

        if (!text)
                return 0;
        if (text[0] == '+' ? parse_duration_us(text + 1, &us) : !clock_parse_rfc3339(text, &us)) {
                if (text[0] == '+') {
                        clock_format_rfc3339(clock_realtime_us() + us, formatted);
                        text = formatted;
                }
                json_object_object_add(body, "not_before", json_object_new_string(text));
                return 0;
        }
        return ctl_fail(CTL_USAGE, "--not-before '%s': expected a time such as 2026-01-31T09:30:00Z, or +10min from now", text);
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

static int submit_add_names(json_object *body, const Submit *s) {
        const struct { const char *name, *value; } names[] = { { "agent", s->agent }, { "model", s->model } };
        json_object *array;

        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                if (names[i].value) {
                        if (!utf8_is_valid(names[i].value, strlen(names[i].value)))
                                return ctl_fail(CTL_USAGE, "--%s: expected UTF-8", names[i].name);
                        json_object_object_add(body, names[i].name, json_object_new_string(names[i].value));
                }
        if (!s->capabilities.n)
                return 0;
        array = json_object_new_array();
        json_object_object_add(body, "capabilities", array);
        for (size_t i = 0; i < s->capabilities.n; i++)
                json_object_array_add(array, json_object_new_string(s->capabilities.values[i]));
        return 0;
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
                r = submit_add_not_before(body, s->not_before);
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

/*
 * Sends with an idempotency key, the caller's or one of our own: where the connection breaks before the answer, nobody
 * knows whether the task is there, and sending again makes at most one.
 */
static int submit_send(Ctl *ctl, const Submit *s, json_object *body, json_object **ret_task) {
        _cleanup_(client_response_deinit) ClientResponse response = CLIENT_RESPONSE_NULL;
        char header[320], id_text[ID_TEXT_MAX];
        ClientRequest request = { .method = "POST", .path = "/v1/tasks", .headers = { header } };
        uint64_t pause_us = 100 * USEC_PER_MSEC;
        bool lost = false;
        Id id;
        int r;

        r = id_new(&id);
        if (r)
                return error_trace(r);
        id_format(&id, id_text);
        if (s->idempotency_key && (strlen(s->idempotency_key) > 255 || strpbrk(s->idempotency_key, "\r\n") ||
                                   !*s->idempotency_key))
                return ctl_fail(CTL_USAGE, "--idempotency-key: expected 1 to 255 bytes without a line break");
        snprintf(header, sizeof(header), "Idempotency-Key: %s", s->idempotency_key ?: id_text);
        request.body = json_object_to_json_string_length(body, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE,
                                                         &request.n_body);
        for (unsigned i = 0; ; i++) {
                r = client_perform(ctl, &request, &response);
                lost = lost || r == CLIENT_E_LOST;
                if (!lost || (r != CLIENT_E_LOST && r != CLIENT_E_UNREACHABLE) || i + 1 == SUBMIT_TRIES)
                        break;
                watch_pause(pause_us);
                pause_us *= 2;
        }
        if (r || response.status < 200 || response.status > 299)
                return client_fail(ctl, &request, &response, r);
        *ret_task = client_parse(buf_data(&response.body), buf_size(&response.body));
        if (!json_at(*ret_task, "/id"))
                return ctl_fail(CTL_BUSY, "the answer is no task; is this an agent-router?");
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
                puts(json_object_to_json_string_ext(task, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
        else
                show_result(ctl, task);
        return show_exit(w.state);
}

int verb_submit(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        Submit s = {};
        const Option options[] = {
                { "agent", 'a', "NAME", "agent to run it (see: agent-routerctl agents)", .text = &s.agent },
                { "model", 'm', "NAME", "model that the agent is told to use", .text = &s.model },
                { "priority", 'p', "0-100", "higher runs first (50)", .text = &s.priority },
                { "workspace", 'C', "DIR", "directory that the agent may read and write", .text = &s.workspace },
                { "label", 'l', "KEY=VALUE", "label to find it by (repeatable)", .list = &s.labels },
                { "metadata", 0, "KEY=VALUE", "metadata kept with it (repeatable)", .list = &s.metadata },
                { "capability", 0, "NAME", "capability that its agent must have (repeatable)", .list = &s.capabilities },
                { "timeout", 't', "DURATION", "end an attempt after so long (10min)", .text = &s.timeout },
                { "not-before", 0, "TIME", "hold it until then: RFC 3339, or +DURATION", .text = &s.not_before },
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
                return submit_wait(ctl, &s, patience_us, text_member(task, "/id"));
        }
        if (ctl->json)
                puts(json_object_to_json_string_ext(task, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
        else
                puts(text_member(task, "/id"));
        return CTL_OK;
}

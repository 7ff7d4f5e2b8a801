/*
 * submit: a task as POST /tasks and POST /batches take it. What a member may be is said here, and nothing is looked up:
 * whether the agent is there, and whether the tasks that it comes after are, is asked when it is submitted.
 */

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "api/submit.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/parse.h"

typedef struct Reading {
        Request *request;
        const char *pointer;            /* to the task in its document: "" or "/tasks/17" */
        JsonError *error;
        Submit *submit;
        size_t n_tasks;                 /* of its batch, which `after` may name by index; 0: none */
} Reading;

static void reading_fail(Reading *r, const char *member, const char *format, ...) _printf_(3, 4);

static void reading_fail(Reading *r, const char *member, const char *format, ...) {
        char pointer[sizeof(r->error->pointer)], detail[JSON_ERROR_MAX];
        va_list ap;

        va_start(ap, format);
        vsnprintf(detail, sizeof(detail), format, ap);
        va_end(ap);
        snprintf(pointer, sizeof(pointer), "%s%s", r->pointer, member);
        json_error_set(r->error, pointer, "%s", detail);
}

static const char *text_at(json_object *array, size_t i) {
        json_object *o = json_object_array_get_idx(array, i);

        return json_object_is_type(o, json_type_string) ? json_object_get_string(o) : "";
}

/* ---- members ---- */

static json_object *read_names(Reading *r, JsonReader *rd, const char *member, size_t max, const char **ret_names) {
        json_object *array;
        char at[64];

        if (!json_get_array(rd, member, 0, max, &array))
                return NULL;
        for (size_t i = 0; i < json_object_array_length(array); i++) {
                ret_names[i] = text_at(array, i);
                if (parse_name(ret_names[i], TASK_NAME_MAX))
                        continue;
                snprintf(at, sizeof(at), "/%s/%zu", member, i);
                reading_fail(r, at, "expected a name of letters, digits, '.', '_' and '-', at most %d bytes", TASK_NAME_MAX);
                return NULL;
        }
        return array;
}

static json_object *read_labels(Reading *r, JsonReader *rd) {
        json_object *labels;
        char at[128];

        if (!json_get_object(rd, "labels", 0, &labels))
                return NULL;
        if (json_object_object_length(labels) > TASK_LABELS_MAX) {
                reading_fail(r, "/labels", "expected at most %d labels", TASK_LABELS_MAX);
                return NULL;
        }
        json_object_object_foreach(labels, name, value) {
                if (parse_name(name, TASK_NAME_MAX) && json_object_is_type(value, json_type_string) &&
                    json_object_get_string_len(value) <= TASK_LABEL_VALUE_MAX)
                        continue;
                snprintf(at, sizeof(at), "/labels/%.*s", TASK_NAME_MAX, name);
                reading_fail(r, at, "expected a name of at most %d bytes with a string of at most %d bytes", TASK_NAME_MAX,
                             TASK_LABEL_VALUE_MAX);
                return NULL;
        }
        return labels;
}

json_object *submit_read_metadata(JsonReader *rd, const char *pointer) {
        json_object *metadata;
        char at[128];

        if (!json_get_object(rd, "metadata", 0, &metadata))
                return NULL;
        if (strlen(json_object_to_json_string_ext(metadata, JSON_C_TO_STRING_PLAIN) ?: "") <= TASK_METADATA_MAX)
                return metadata;
        snprintf(at, sizeof(at), "%s/metadata", pointer);
        json_error_set(rd->error, at, "expected at most %zu bytes of JSON", TASK_METADATA_MAX);
        return NULL;
}

void submit_read_budget(JsonReader *rd, uint64_t *ret_tokens, uint64_t *ret_microusd) {
        double usd = 0;

        (void)json_get_u64(rd, "max_tokens", 0, 1, STORE_USAGE_MAX, ret_tokens);
        if (json_get_double(rd, "max_cost_usd", 0, 0.000001, TASK_COST_USD_MAX, &usd))
                *ret_microusd = (uint64_t)llround(usd * 1e6);
}

static void read_time(Reading *r, JsonReader *rd, const char *member, uint64_t *ret_us) {
        const char *s;
        char at[64];

        if (!json_get_string(rd, member, 0, 1, 64, &s, NULL) || clock_parse_rfc3339(s, ret_us) == 0)
                return;
        snprintf(at, sizeof(at), "/%s", member);
        reading_fail(r, at, "expected a time as in RFC 3339, such as 2030-01-31T09:30:00Z");
}

static void read_retry(Reading *r, JsonReader *rd) {
        uint64_t max_attempts = 0;
        double backoff_s = 0;
        json_object *retry;
        char at[128];

        if (!json_get_object(rd, "retry", 0, &retry))
                return;
        snprintf(at, sizeof(at), "%s/retry", r->pointer);
        JsonReader nested = json_reader(retry, at, r->error);
        (void)json_get_u64(&nested, "max_attempts", 0, 1, TASK_ATTEMPTS_MAX, &max_attempts);
        (void)json_get_double(&nested, "backoff_s", 0, 0, TASK_BACKOFF_S_MAX, &backoff_s);
        (void)json_reader_end(&nested);
        r->submit->task.max_attempts = (uint32_t)max_attempts;
        r->submit->task.backoff_us = (uint64_t)(backoff_s * 1e6);
}

/* Bytes, or text such as "8G". */
static void read_memory(Reading *r, JsonReader *rd, uint64_t *ret_memory) {
        json_object *o = NULL;
        const char *s;

        json_object_object_get_ex(rd->object, "memory", &o);
        if (!json_object_is_type(o, json_type_string))
                (void)json_get_u64(rd, "memory", 0, 1, TASK_MEMORY_MAX, ret_memory);
        else if (json_get_string(rd, "memory", 0, 0, SIZE_MAX, &s, NULL) &&
                 (!parse_size(s, ret_memory) || !*ret_memory || *ret_memory > TASK_MEMORY_MAX))
                reading_fail(r, "/resources/memory", "expected bytes, or a size such as \"8G\"");
}

static void read_resources(Reading *r, JsonReader *rd) {
        StoreTask *t = &r->submit->task;
        json_object *resources;
        uint64_t gpus = 0;
        double cpus = 0;
        char at[128];

        if (!json_get_object(rd, "resources", 0, &resources))
                return;
        snprintf(at, sizeof(at), "%s/resources", r->pointer);
        JsonReader nested = json_reader(resources, at, r->error);
        (void)json_get_u64(&nested, "gpus", 0, 0, TASK_GPUS_MAX, &gpus);
        (void)json_get_double(&nested, "cpus", 0, 0, TASK_CPUS_MAX, &cpus);
        read_memory(r, &nested, &t->memory);
        (void)json_reader_end(&nested);
        t->gpus = (uint32_t)gpus;
        t->cpus_milli = (uint32_t)ceil(cpus * 1000);
}

/* An id, or in a batch "#3": the fourth task of it. */
static bool read_dependency(Reading *r, const char *s, Dependency *ret) {
        uint64_t index;

        if (*s != '#')
                return id_parse(s, &ret->id);
        if (!r->n_tasks || !parse_u64_range(s + 1, 0, r->n_tasks - 1, &index))
                return false;
        *ret = (Dependency){ .index = (uint32_t)index, .in_batch = true };
        return true;
}

static void read_after(Reading *r, JsonReader *rd) {
        Submit *s = r->submit;
        json_object *after;
        const char *word;
        char at[64];

        if (json_get_array(rd, "after", 0, SCHED_DEPENDENCIES_MAX, &after))
                for (size_t i = 0; i < json_object_array_length(after); i++) {
                        if (read_dependency(r, text_at(after, i), &s->after[s->n_after])) {
                                s->n_after++;
                                continue;
                        }
                        snprintf(at, sizeof(at), "/after/%zu", i);
                        reading_fail(r, at, r->n_tasks ? "expected a task's id, or \"#N\" for the task at index N of this batch"
                                                       : "expected a task's id");
                        return;
                }
        if (json_get_string(rd, "on", 0, 1, TASK_NAME_MAX, &word, NULL)) {
                s->on = streq(word, "success") ? STORE_ON_SUCCESS
                      : streq(word, "finish")  ? STORE_ON_FINISH
                      : streq(word, "failure") ? STORE_ON_FAILURE
                                               : 0;
                if (!s->on)
                        reading_fail(r, "/on", "expected \"success\", \"finish\" or \"failure\"");
        }
        if (json_get_string(rd, "on_unmet", 0, 1, TASK_NAME_MAX, &word, NULL)) {
                s->task.on_unmet = streq(word, "run") ? STORE_UNMET_RUN : STORE_UNMET_CANCEL;
                if (!streq(word, "run") && !streq(word, "cancel"))
                        reading_fail(r, "/on_unmet", "expected \"cancel\" or \"run\"");
        }
}

/* Several agents with the same task, which makes a batch of it. */
static void read_agents(Reading *r, JsonReader *rd, const char *agent) {
        Submit *s = r->submit;
        json_object *agents;
        const char *select = NULL;
        char at[64];

        agents = read_names(r, rd, "agents", TASK_AGENTS_MAX, s->agents);
        s->n_agents = agents ? json_object_array_length(agents) : 0;
        (void)json_get_string(rd, "select", 0, 1, TASK_NAME_MAX, &select, NULL);
        if (!agents) {
                if (select)
                        reading_fail(r, "/select", "expected together with agents");
                return;
        }
        if (r->n_tasks)
                reading_fail(r, "/agents", "not in a batch: give each agent a task of its own");
        if (!s->n_agents)
                reading_fail(r, "/agents", "expected at least one agent");
        if (agent)
                reading_fail(r, "/agents", "expected agent or agents, not both");
        for (size_t i = 0; i < s->n_agents; i++)
                for (size_t j = 0; j < i; j++)
                        if (streq(s->agents[i], s->agents[j])) {
                                snprintf(at, sizeof(at), "/agents/%zu", i);
                                reading_fail(r, at, "'%s' is named twice", s->agents[i]);
                        }
        s->select = select && streq(select, "first") ? STORE_SELECT_FIRST : STORE_SELECT_ALL;
        if (select && !streq(select, "first") && !streq(select, "all"))
                reading_fail(r, "/select", "expected \"all\" or \"first\"");
}

/* ---- the task ---- */

static int append_member(Buf *b, const char *name, json_object *o, const char *otherwise) {
        int r = buf_printf(b, "%s\"%s\":", buf_size(b) > 1 ? "," : "", name);

        if (r)
                return r;
        return o ? json_append(b, o) : buf_append_str(b, otherwise);
}

static int copy_str(char **ret_s, const char *s) {
        *ret_s = s ? strdup(s) : NULL;
        return s && !*ret_s ? error_origin(-ENOMEM) : 0;
}

int submit_read(Request *q, json_object *document, const char *pointer, size_t n_tasks, Submit *s, JsonError *e) {
        Reading reading = { .request = q, .pointer = pointer, .error = e, .submit = s, .n_tasks = n_tasks };
        JsonReader rd = json_reader(document, pointer, e);
        const char *prompt = NULL, *agent = NULL, *model = NULL, *workspace = NULL, *group = NULL;
        json_object *capabilities, *labels, *metadata;
        _cleanup_(buf_deinit) Buf request = BUF_NULL;
        uint64_t priority = 50;
        double timeout_s = 0;
        StoreTask *t = &s->task;
        int r;

        (void)json_get_string(&rd, "prompt", JSON_REQUIRED, 1, q->api->config.body_max, &prompt, &t->n_prompt);
        if (json_get_string(&rd, "agent", 0, 1, TASK_NAME_MAX, &agent, NULL) && !parse_name(agent, TASK_NAME_MAX))
                reading_fail(&reading, "/agent", "expected an agent's name; GET /agents lists them");
        if (json_get_string(&rd, "model", 0, 1, TASK_MODEL_MAX, &model, NULL))
                for (const char *p = model; *p; p++)
                        if (*p <= ' ' || *p > '~' || (p == model && *p == '-'))
                                reading_fail(&reading, "/model", "expected a model's name of printable ASCII that does not "
                                             "begin with '-'");
        (void)json_get_u64(&rd, "priority", 0, 0, 100, &priority);
        if (json_get_string(&rd, "workspace", 0, 1, TASK_WORKSPACE_MAX, &workspace, NULL) && *workspace != '/')
                reading_fail(&reading, "/workspace", "expected an absolute path");
        if (json_get_string(&rd, "group", 0, 1, TASK_NAME_MAX, &group, NULL) && !parse_name(group, TASK_NAME_MAX))
                reading_fail(&reading, "/group", "expected a name of letters, digits, '.', '_' and '-'");
        capabilities = read_names(&reading, &rd, "capabilities", TASK_CAPABILITIES_MAX, s->capabilities);
        labels = read_labels(&reading, &rd);
        metadata = submit_read_metadata(&rd, pointer);
        (void)json_get_double(&rd, "timeout_s", 0, 0.1, TASK_TIMEOUT_S_MAX, &timeout_s);
        read_time(&reading, &rd, "not_before", &t->not_before_us);
        read_time(&reading, &rd, "deadline", &t->deadline_us);
        read_retry(&reading, &rd);
        read_resources(&reading, &rd);
        submit_read_budget(&rd, &t->max_tokens, &t->max_cost_microusd);
        read_after(&reading, &rd);
        read_agents(&reading, &rd, agent);
        if (!json_reader_end(&rd))
                return JSON_E_INVALID;

        t->priority = (uint32_t)priority;
        t->timeout_us = (uint64_t)(timeout_s * 1e6);
        t->run_as_uid = q->principal.run_as_uid;
        t->usage = (StoreUsage)STORE_USAGE_UNKNOWN;
        t->prompt = malloc(t->n_prompt + 1);
        if (!t->prompt)
                return error_origin(-ENOMEM);
        memcpy(t->prompt, prompt, t->n_prompt);
        t->prompt[t->n_prompt] = 0;
        r = copy_str(&t->principal, q->principal.name);
        r = r ?: copy_str(&t->agent, agent);
        r = r ?: copy_str(&t->model, model);
        r = r ?: copy_str(&t->workspace, workspace);
        r = r ?: copy_str(&t->group, group);
        r = r ?: buf_append_str(&request, "{");
        r = r ?: append_member(&request, "capabilities", capabilities, "[]");
        r = r ?: append_member(&request, "labels", labels, "{}");
        r = r ?: append_member(&request, "metadata", metadata, "{}");
        r = r ?: buf_append_str(&request, "}");
        r = r ?: buf_take_str(&request, &t->request);
        return error_fold(r);
}

void submit_deinit(Submit *s) {
        free(s->task.principal);
        free(s->task.agent);
        free(s->task.candidates);
        free(s->task.model);
        free(s->task.group);
        free(s->task.prompt);
        free(s->task.workspace);
        free(s->task.request);
        free(s->task.reason);
        free(s->task.detail);
}

SchedRequest submit_request(const Submit *s, Id after[static SCHED_DEPENDENCIES_MAX]) {
        for (size_t i = 0; i < s->n_after; i++)
                after[i] = s->after[i].id;
        return (SchedRequest){ .capabilities = s->capabilities, .after = after, .n_after = s->n_after, .on = s->on };
}

/* At "{{": which of `after` the placeholder names by a number. SIZE_MAX: it is none, or has an id; *ret_n: its bytes. */
static size_t named_by_number(const Submit *s, const char *p, size_t n, size_t *ret_n, bool *ret_unknown) {
        static const char suffix[] = ".result}}";
        bool by_index = n > 9 && strncmp(p, "{{tasks.#", 9) == 0;
        size_t at = by_index ? 9 : 8, k;
        uint64_t v;
        char number[8];

        if (!by_index && (n < 8 || strncmp(p, "{{after.", 8) != 0))
                return SIZE_MAX;
        for (k = 0; at + k < n && k < sizeof(number) - 1 && p[at + k] >= '0' && p[at + k] <= '9'; k++)
                number[k] = p[at + k];
        number[k] = 0;
        if (!parse_u64(number, &v) || n - at - k < strlen(suffix) || strncmp(p + at + k, suffix, strlen(suffix)) != 0)
                return SIZE_MAX;
        *ret_n = at + k + strlen(suffix);
        for (size_t i = 0; i < s->n_after; i++)
                if (by_index ? s->after[i].in_batch && s->after[i].index == v : i == v)
                        return i;
        *ret_unknown = true;
        return SIZE_MAX;
}

int submit_name_results(Submit *s, const char *pointer, JsonError *e) {
        const char *at = s->task.prompt, *end = at + s->task.n_prompt;
        _cleanup_(buf_deinit) Buf out = BUF_INIT(SIZE_MAX);
        char id[ID_TEXT_MAX], member[sizeof(e->pointer)], *text;
        int r = 0;

        for (const char *p = at; !r && (p = memmem(p, (size_t)(end - p), "{{", 2));) {
                bool unknown = false;
                size_t n = 2, i = named_by_number(s, p, (size_t)(end - p), &n, &unknown);
                if (unknown) {
                        snprintf(member, sizeof(member), "%s/prompt", pointer);
                        json_error_set(e, member, "%.*s names a task that this one does not come after; name it in 'after'",
                                       (int)n, p);
                        return JSON_E_INVALID;
                }
                if (i != SIZE_MAX) {
                        id_format(&s->after[i].id, id);
                        r = buf_append(&out, at, (size_t)(p - at));
                        r = r ?: buf_printf(&out, "{{tasks.%s.result}}", id);
                        at = p + n;
                }
                p += n;
        }
        if (r || at == s->task.prompt)
                return error_fold(r);
        r = buf_append(&out, at, (size_t)(end - at));
        s->task.n_prompt = buf_size(&out);
        r = r ?: buf_take_str(&out, &text);
        if (r)
                return error_fold(r);
        free(s->task.prompt);
        s->task.prompt = text;
        return 0;
}

int submit_check_after(Request *q, const Submit *s, const char *pointer, JsonError *e) {
        char at[sizeof(e->pointer)];

        for (size_t i = 0; i < s->n_after; i++) {
                _cleanup_(store_task_freep) StoreTask *task = NULL;
                int r;

                if (s->after[i].in_batch)
                        continue;
                r = request_load_task(q, &s->after[i].id, 0, &task);
                if (r == STORE_E_NOT_FOUND) {
                        snprintf(at, sizeof(at), "%s/after/%zu", pointer, i);
                        json_error_set(e, at, "there is no such task");
                        return JSON_E_INVALID;
                }
                if (r)
                        return error_fold(r);
        }
        return 0;
}

/* ---- refusals ---- */

/* The member that is wrong, or NULL where the task is not to blame. */
static unsigned submit_status(int e, unsigned *ret_retry_after_s, const char **ret_member) {
        *ret_retry_after_s = 0;
        *ret_member = NULL;
        switch (e) {
        case SCHED_E_FULL:
        case SCHED_E_PRESSURE:
        case SCHED_E_UNAVAILABLE:
                *ret_retry_after_s = TASK_FULL_RETRY_S;
                return 503;
        case SCHED_E_QUOTA:
                *ret_retry_after_s = TASK_FULL_RETRY_S;
                return 429;
        case SCHED_E_NO_AGENT:
        case SCHED_E_NOT_INSTALLED:
                *ret_member = "/agent";
                return 422;
        default:
                *ret_member = "";
                return 422;
        }
}

void submit_problem(Request *q, int e, const char *pointer, const char *detail) {
        const char *member;
        unsigned status = submit_status(e, &q->retry_after_s, &member);
        char at[128];

        snprintf(at, sizeof(at), "%s%s", pointer, member ?: "");
        request_problem(q, status, member ? at : NULL, "%s", detail);
}

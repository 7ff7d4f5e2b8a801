/* task-json: a task as the API shows it. */

#include <inttypes.h>
#include <stdio.h>

#include "api/internal.h"
#include "base/clock.h"
#include "base/error.h"

int json_append_time(Buf *out, uint64_t realtime_us) {
        char text[CLOCK_RFC3339_MAX];

        if (!realtime_us)
                return buf_append_str(out, "null");
        clock_format_rfc3339(realtime_us, text);
        return buf_printf(out, "\"%s\"", text);
}

int json_append_str_or_null(Buf *out, const char *s) {
        return s ? json_append_string(out, s, strlen(s)) : buf_append_str(out, "null");
}

static int append_time(Buf *out, const char *name, uint64_t realtime_us) {
        return buf_printf(out, ",\"%s\":", name) ?: json_append_time(out, realtime_us);
}

static int append_str(Buf *out, const char *name, const char *s) {
        return buf_printf(out, ",\"%s\":", name) ?: json_append_str_or_null(out, s);
}

static int append_number(Buf *out, const char *name, int64_t v) {
        return v < 0 ? buf_printf(out, ",\"%s\":null", name) : buf_printf(out, ",\"%s\":%" PRId64, name, v);
}

static int append_usd(Buf *out, const char *name, int64_t microusd) {
        return buf_printf(out, ",\"%s\":", name) ?: json_append_usd(out, microusd);
}

int budget_append_json(Buf *out, uint64_t max_tokens, uint64_t max_cost_microusd) {
        return append_number(out, "max_tokens", max_tokens ? (int64_t)max_tokens : -1) ?:
               append_usd(out, "max_cost_usd", max_cost_microusd ? (int64_t)max_cost_microusd : -1);
}

int usage_append_json(Buf *out, const StoreUsage *u) {
        int r;

        if (u->input_tokens < 0 && u->output_tokens < 0 && u->cost_microusd < 0)
                return buf_append_str(out, ",\"usage\":null");
        r = buf_append_str(out, ",\"usage\":{\"unit\":\"tokens\"");
        r = r ?: append_number(out, "input_tokens", u->input_tokens);
        r = r ?: append_number(out, "cached_input_tokens", u->cached_input_tokens);
        r = r ?: append_number(out, "output_tokens", u->output_tokens);
        r = r ?: append_number(out, "reasoning_tokens", u->reasoning_tokens);
        r = r ?: append_usd(out, "cost_usd", u->cost_microusd);
        return r ?: buf_append_str(out, "}");
}

typedef struct AttemptContext {
        Buf *out;
        const char *agent;              /* the task's */
        unsigned n;
} AttemptContext;

static int append_attempt(const StoreAttempt *a, void *userdata) {
        AttemptContext *c = userdata;
        char id[ID_TEXT_MAX];
        int r;

        id_format(&a->id, id);
        r = buf_printf(c->out, "%s{\"number\":%u,\"id\":\"%s\"", c->n++ ? "," : "", a->number, id);
        r = r ?: append_str(c->out, "agent", a->agent ?: c->agent);
        r = r ?: append_time(c->out, "started_at", a->started_us);
        r = r ?: append_time(c->out, "execed_at", a->execed_us);
        r = r ?: append_time(c->out, "finished_at", a->finished_us);
        r = r ?: append_str(c->out, "outcome", a->outcome);
        r = r ?: append_str(c->out, "reason", a->reason);
        r = r ?: append_str(c->out, "detail", a->detail);
        r = r ?: append_number(c->out, "exit_code", a->exit_code);
        r = r ?: append_number(c->out, "signal", a->signal ?: -1);
        r = r ?: usage_append_json(c->out, &a->usage);
        r = r ?: append_number(c->out, "memory_peak_bytes", a->memory_peak ? (int64_t)a->memory_peak : -1);
        r = r ?: append_number(c->out, "cpu_us", a->cpu_us ? (int64_t)a->cpu_us : -1);
        r = r ?: append_number(c->out, "oom_kills", a->oom_kills);
        return r ?: buf_append_str(c->out, "}");
}

/* Copies the members of task->request (capabilities, metadata, labels), which the submit has validated. */
static int append_request(Buf *out, const char *request) {
        size_t n = request ? strlen(request) : 0;
        int r;

        if (n <= 2)
                return 0;
        r = buf_append_str(out, ",");
        return r ?: buf_append(out, request + 1, n - 2);
}

static int append_dependency(const Id *on, TaskState state, StoreCondition condition, void *userdata) {
        static const char *const words[] = {
                [STORE_ON_SUCCESS] = "success", [STORE_ON_FINISH] = "finish", [STORE_ON_FAILURE] = "failure",
        };
        AttemptContext *c = userdata;
        char id[ID_TEXT_MAX];

        id_format(on, id);
        return buf_printf(c->out, "%s{\"id\":\"%s\",\"state\":\"%s\",\"on\":\"%s\"}", c->n++ ? "," : "", id,
                          task_state_name(state), words[condition]);
}

/* The agents that may run it. */
static int append_candidates(Buf *out, const StoreTask *t) {
        int r = buf_append_str(out, ",\"candidates\":[");

        for (const char *p = t->candidates ?: t->agent; p && *p && !r; p += *p == ' ') {
                size_t n = strcspn(p, " ");
                r = p == (t->candidates ?: t->agent) ? 0 : buf_append_str(out, ",");
                r = r ?: json_append_string(out, p, n);
                p += n;
        }
        return r ?: buf_append_str(out, "]");
}

static int append_batch(Buf *out, const Id *batch) {
        char id[ID_TEXT_MAX];

        if (id_is_null(batch))
                return buf_append_str(out, ",\"batch\":null");
        id_format(batch, id);
        return buf_printf(out, ",\"batch\":\"%s\"", id);
}

static int append_waiting(Buf *out, Api *api, const StoreTask *t) {
        SchedWaiting w;
        int r;

        if (task_state_is_final(t->state) || !sched_waiting(api->sched, t, &w))
                return buf_append_str(out, ",\"waiting\":null");
        r = buf_printf(out, ",\"waiting\":{\"reason\":\"%s\"", w.reason);
        r = r ?: append_str(out, "detail", w.detail);
        r = r ?: append_time(out, "since", w.since_us);
        r = r ?: append_time(out, "until", w.until_us);
        return r ?: buf_append_str(out, "}");
}

/* What a list leaves out: it takes further reads. */
static int append_whole(Buf *out, Api *api, const StoreTask *t) {
        AttemptContext c = { .out = out, .agent = t->agent };
        int r;

        r = buf_append_str(out, ",\"after\":[");
        r = r ?: store_dependency_list(api->store, &t->id, append_dependency, &c);
        r = r ?: buf_printf(out, "],\"on_unmet\":\"%s\",\"attempts\":[", t->on_unmet == STORE_UNMET_RUN ? "run" : "cancel");
        c.n = 0;
        if (!r && t->n_attempts)
                r = store_attempt_list(api->store, &t->id, append_attempt, &c);
        r = r ?: buf_append_str(out, "],\"result\":");
        if (r || !t->result)
                return r ?: buf_append_str(out, "null");
        r = buf_append_str(out, "{\"text\":");
        r = r ?: json_append_string(out, t->result, t->n_result);
        return r ?: buf_printf(out, ",\"truncated\":%s}", t->result_truncated ? "true" : "false");
}

int task_append_json(Buf *out, Api *api, const StoreTask *t, bool whole) {
        char id[ID_TEXT_MAX];
        int r;

        id_format(&t->id, id);
        r = buf_printf(out, "{\"id\":\"%s\",\"state\":\"%s\"", id, task_state_name(t->state));
        r = r ?: append_str(out, "reason", t->reason);
        r = r ?: append_str(out, "detail", t->detail);
        r = r ?: append_waiting(out, api, t);
        r = r ?: append_str(out, "agent", t->agent);
        r = r ?: append_candidates(out, t);
        r = r ?: append_str(out, "model", t->model);
        r = r ?: append_number(out, "priority", t->priority);
        r = r ?: append_str(out, "principal", t->principal);
        r = r ?: append_str(out, "group", t->group);
        r = r ?: append_batch(out, &t->batch);
        r = r ?: append_str(out, "workspace", t->workspace);
        r = r ?: append_request(out, t->request);
        r = r ?: buf_printf(out, ",\"resources\":{\"gpus\":%u,\"cpus\":%.15g", t->gpus, (double)t->cpus_milli / 1000);
        r = r ?: append_number(out, "memory", t->memory ? (int64_t)t->memory : -1);
        r = r ?: buf_append_str(out, "}");
        r = r ?: budget_append_json(out, t->max_tokens, t->max_cost_microusd);
        r = r ?: buf_printf(out, ",\"timeout_s\":%.15g,\"retry\":{\"max_attempts\":%u,\"backoff_s\":%.15g},\"cancel_requested\":%s",
                            (double)t->timeout_us / 1e6, t->max_attempts, (double)t->backoff_us / 1e6,
                            t->cancel_requested ? "true" : "false");
        r = r ?: append_time(out, "not_before", t->not_before_us);
        r = r ?: append_time(out, "deadline", t->deadline_us);
        r = r ?: append_time(out, "created_at", t->created_us);
        r = r ?: append_time(out, "updated_at", t->updated_us);
        r = r ?: append_time(out, "started_at", t->started_us);
        r = r ?: append_time(out, "finished_at", t->finished_us);
        r = r ?: append_number(out, "n_attempts", t->n_attempts);
        r = r ?: usage_append_json(out, &t->usage);
        if (!r && whole)
                r = append_whole(out, api, t);
        return r ?: buf_append_str(out, "}");
}

/* tasks: POST /tasks, GET /tasks, GET /tasks/{id}, POST /tasks/{id}/cancel. */

#include <inttypes.h>
#include <stdio.h>

#include "api/internal.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/parse.h"

#define TASK_CAPABILITIES_MAX   16
#define TASK_NAME_MAX           64      /* agents, capabilities, labels' names */
#define TASK_MODEL_MAX          128
#define TASK_LABELS_MAX         32
#define TASK_LABEL_VALUE_MAX    256
#define TASK_METADATA_MAX       KIB(16) /* serialised */
#define TASK_WORKSPACE_MAX      4096    /* PATH_MAX */
#define TASK_TIMEOUT_S_MAX      (7 * 24 * 3600)
#define TASK_ATTEMPTS_MAX       20
#define TASK_BACKOFF_S_MAX      3600
#define TASK_LIST_LIMIT_MAX     500
#define TASK_LIST_LIMIT         50
#define TASK_TRANSCRIPT_MAX     MIB(4)          /* of one answer; transcript_next says where it goes on */
#define TASK_TRANSCRIPT_FULL    1000            /* no store result: TASK_TRANSCRIPT_MAX is reached */
#define TASK_IDEMPOTENCY_TTL_US (24 * 3600 * USEC_PER_SEC)
#define TASK_FULL_RETRY_S       10      /* Retry-After of a full queue */

/* ---- reading a submit ---- */

typedef struct Submit {
        StoreTask task;
        const char *capabilities[TASK_CAPABILITIES_MAX + 1];
} Submit;

static bool read_capabilities(JsonReader *rd, Submit *s, json_object **ret_array) {
        char pointer[64];
        json_object *array;

        if (!json_get_array(rd, "capabilities", 0, TASK_CAPABILITIES_MAX, &array))
                return !rd->error->set;
        for (size_t i = 0; i < json_object_array_length(array); i++) {
                json_object *o = json_object_array_get_idx(array, i);
                const char *name = json_object_is_type(o, json_type_string) ? json_object_get_string(o) : "";
                if (!parse_name(name, TASK_NAME_MAX)) {
                        snprintf(pointer, sizeof(pointer), "/capabilities/%zu", i);
                        json_error_set(rd->error, pointer, "expected a name of letters, digits, '.', '_' and '-', at most %d bytes", TASK_NAME_MAX);
                        return false;
                }
                s->capabilities[i] = name;
        }
        *ret_array = array;
        return true;
}

static bool read_labels(JsonReader *rd, json_object **ret_labels) {
        char pointer[128];
        json_object *labels;

        if (!json_get_object(rd, "labels", 0, &labels))
                return !rd->error->set;
        if (json_object_object_length(labels) > TASK_LABELS_MAX) {
                json_error_set(rd->error, "/labels", "expected at most %d labels", TASK_LABELS_MAX);
                return false;
        }
        json_object_object_foreach(labels, name, value) {
                if (!parse_name(name, TASK_NAME_MAX) || !json_object_is_type(value, json_type_string) ||
                    json_object_get_string_len(value) > TASK_LABEL_VALUE_MAX) {
                        snprintf(pointer, sizeof(pointer), "/labels/%.*s", TASK_NAME_MAX, name);
                        json_error_set(rd->error, pointer, "expected a name of at most %d bytes with a string of at most %d bytes",
                                       TASK_NAME_MAX, TASK_LABEL_VALUE_MAX);
                        return false;
                }
        }
        *ret_labels = labels;
        return true;
}

static int append_member(Buf *b, const char *name, json_object *o, const char *otherwise) {
        int r = buf_printf(b, "%s\"%s\":", buf_size(b) > 1 ? "," : "", name);

        if (r)
                return r;
        return o ? json_append(b, o) : buf_append_str(b, otherwise);
}

/* 0; JSON_E_INVALID with error set; -ENOMEM. Strings of the task are its own; capabilities belong to the document. */
static int read_submit(Request *q, json_object *document, Submit *s, JsonError *e) {
        JsonReader rd = json_reader(document, "", e);
        json_object *capabilities = NULL, *labels = NULL, *metadata = NULL, *retry = NULL;
        const char *prompt = NULL, *agent = NULL, *model = NULL, *workspace = NULL, *not_before = NULL;
        _cleanup_(buf_deinit) Buf request = BUF_NULL;
        uint64_t priority = 50, max_attempts = 0;
        double timeout_s = 0, backoff_s = 0;
        StoreTask *t = &s->task;
        int r = 0;

        (void)json_get_string(&rd, "prompt", JSON_REQUIRED, 1, q->api->config.body_max, &prompt, &t->n_prompt);
        if (json_get_string(&rd, "agent", 0, 1, TASK_NAME_MAX, &agent, NULL) && !parse_name(agent, TASK_NAME_MAX))
                json_error_set(e, "/agent", "expected an agent's name; GET /agents lists them");
        if (json_get_string(&rd, "model", 0, 1, TASK_MODEL_MAX, &model, NULL))
                for (const char *p = model; *p; p++)
                        if (*p <= ' ' || *p > '~' || (p == model && *p == '-'))
                                json_error_set(e, "/model", "expected a model's name of printable ASCII that does not begin with '-'");
        (void)json_get_u64(&rd, "priority", 0, 0, 100, &priority);
        if (json_get_string(&rd, "workspace", 0, 1, TASK_WORKSPACE_MAX, &workspace, NULL) && *workspace != '/')
                json_error_set(e, "/workspace", "expected an absolute path");
        (void)read_capabilities(&rd, s, &capabilities);
        (void)read_labels(&rd, &labels);
        if (json_get_object(&rd, "metadata", 0, &metadata) &&
            strlen(json_object_to_json_string_ext(metadata, JSON_C_TO_STRING_PLAIN) ?: "") > TASK_METADATA_MAX)
                json_error_set(e, "/metadata", "expected at most %zu bytes of JSON", TASK_METADATA_MAX);
        (void)json_get_double(&rd, "timeout_s", 0, 0.1, TASK_TIMEOUT_S_MAX, &timeout_s);
        if (json_get_string(&rd, "not_before", 0, 1, 64, &not_before, NULL) && clock_parse_rfc3339(not_before, &t->not_before_us))
                json_error_set(e, "/not_before", "expected a time as in RFC 3339, such as 2030-01-31T09:30:00Z");
        if (json_get_object(&rd, "retry", 0, &retry)) {
                JsonReader nested = json_reader(retry, "/retry", e);
                (void)json_get_u64(&nested, "max_attempts", 0, 1, TASK_ATTEMPTS_MAX, &max_attempts);
                (void)json_get_double(&nested, "backoff_s", 0, 0, TASK_BACKOFF_S_MAX, &backoff_s);
                (void)json_reader_end(&nested);
        }
        if (!json_reader_end(&rd))
                return JSON_E_INVALID;

        t->priority = (uint32_t)priority;
        t->timeout_us = (uint64_t)(timeout_s * 1e6);
        t->max_attempts = (uint32_t)max_attempts;
        t->backoff_us = (uint64_t)(backoff_s * 1e6);
        t->usage = (StoreUsage)STORE_USAGE_UNKNOWN;
        t->run_as_uid = q->principal.run_as_uid;
        t->prompt = malloc(t->n_prompt + 1);
        t->principal = strdup(q->principal.name);
        t->agent = agent ? strdup(agent) : NULL;
        t->model = model ? strdup(model) : NULL;
        t->workspace = workspace ? strdup(workspace) : NULL;
        if (!t->prompt || !t->principal || (agent && !t->agent) || (model && !t->model) || (workspace && !t->workspace))
                return error_origin(-ENOMEM);
        memcpy(t->prompt, prompt, t->n_prompt);
        t->prompt[t->n_prompt] = 0;
        r = buf_append_str(&request, "{");
        r = r ?: append_member(&request, "capabilities", capabilities, "[]");
        r = r ?: append_member(&request, "labels", labels, "{}");
        r = r ?: append_member(&request, "metadata", metadata, "{}");
        r = r ?: buf_append_str(&request, "}");
        r = r ?: buf_take_str(&request, &t->request);
        r = r ?: id_new(&t->id);
        return error_fold(r);
}

static void submit_deinit(Submit *s) {
        free(s->task.principal);
        free(s->task.agent);
        free(s->task.model);
        free(s->task.prompt);
        free(s->task.workspace);
        free(s->task.request);
        free(s->task.reason);
        free(s->task.detail);
}

/* ---- idempotency ---- */

/* The hash of what makes two requests the same: method, path, caller and body. */
static int request_hash(Request *q, uint8_t ret_hash[static AUTH_HASH_SIZE]) {
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        int r;

        r = buf_printf(&b, "POST %s\n", q->route->pattern);
        r = r ?: buf_append(&b, buf_data(&q->body), buf_size(&q->body));
        r = r ?: auth_hash(buf_data(&b), buf_size(&b), ret_hash);
        return error_fold(r);
}

/* True where the request was answered: a replay, another body under the same key, or a failure. */
static bool replay(Request *q, const uint8_t hash[static AUTH_HASH_SIZE]) {
        _cleanup_(store_idempotency_freep) StoreIdempotency *i = NULL;
        int r;

        r = store_idempotency_find(q->api->store, q->principal.name, q->idempotency_key, clock_realtime_us(), &i);
        if (r == STORE_E_NOT_FOUND)
                return false;
        if (r) {
                request_failed(q, r);
                return true;
        }
        if (memcmp(i->request_hash, hash, AUTH_HASH_SIZE) != 0) {
                request_problem(q, 422, NULL, "this Idempotency-Key was used with another request; use a new key for a new request");
                return true;
        }
        q->status = i->status;
        q->location = steal_ptr(&i->location);
        r = buf_append(&q->out, i->body, i->n_body);
        if (r)
                request_failed(q, r);
        else
                request_finish(q);      /* joins the first request's commit where that is still under way */
        return true;
}

static int remember(Request *q, const uint8_t hash[static AUTH_HASH_SIZE]) {
        StoreIdempotency i = {
                .principal = q->principal.name,
                .key = q->idempotency_key,
                .status = q->status,
                .body = (char *)buf_data(&q->out),
                .n_body = buf_size(&q->out),
                .location = q->location,
                .expires_us = clock_realtime_us() + TASK_IDEMPOTENCY_TTL_US,
        };

        memcpy(i.request_hash, hash, AUTH_HASH_SIZE);
        return store_idempotency_insert(q->api->store, &i);
}

/* ---- GET of one task ---- */

typedef struct TranscriptContext {
        Buf *out;
        bool with_raw;
        unsigned n;
        size_t start;
        uint64_t last;                  /* sequence of the last event that was looked at */
} TranscriptContext;

static int append_transcript(const StoreEvent *event, void *userdata) {
        TranscriptContext *c = userdata;

        int r;

        c->last = event->seq;
        if (streq(event->type, "raw") && !c->with_raw)
                return 0;
        r = c->n++ ? buf_append_str(c->out, ",") : 0;
        r = r ?: event_append_json(c->out, event, c->with_raw);
        return r ?: buf_size(c->out) - c->start >= TASK_TRANSCRIPT_MAX ? TASK_TRANSCRIPT_FULL : 0;
}

/* The events as "transcript", and "transcript_next": what to give as `after` for the rest, or null. */
static int answer_transcript(Request *q, const StoreTask *task) {
        TranscriptContext c = { .out = &q->out, .with_raw = q->with_raw };
        int r;

        r = buf_append_str(&q->out, ",\"transcript\":[");
        c.start = buf_size(&q->out);
        r = r ?: store_event_list(q->api->store, &task->id, q->transcript_after, UINT32_MAX, append_transcript, &c);
        if (r == TASK_TRANSCRIPT_FULL && c.last < task->last_seq)
                return buf_printf(&q->out, "],\"transcript_next\":%" PRIu64, c.last);
        if (r == TASK_TRANSCRIPT_FULL)
                r = 0;
        return r ?: buf_append_str(&q->out, "],\"transcript_next\":null");
}

/* Writes the task (with what the request asked to include) as the response's body. */
static int answer_task(Request *q, const StoreTask *task) {
        int r;

        buf_clear(&q->out);
        r = task_append_json(&q->out, q->api->store, task, true);
        if (!r && (q->with_prompt || q->with_transcript)) {
                q->out.end--;           /* reopens the object */
                if (q->with_prompt) {
                        r = buf_append_str(&q->out, ",\"prompt\":");
                        r = r ?: json_append_string(&q->out, task->prompt ?: "", task->n_prompt);
                }
                if (!r && q->with_transcript)
                        r = answer_transcript(q, task);
                r = r ?: buf_append_str(&q->out, "}");
        }
        r = r ?: buf_append_str(&q->out, "\n");
        return r;
}

/* Loads the task anew and answers with it: after a wait, and after a cancel. */
static void answer_again(Request *q) {
        _cleanup_(store_task_freep) StoreTask *task = NULL;
        int r;

        r = store_task_load(q->api->store, &q->task_id, STORE_TASK_RESULT | (q->with_prompt ? STORE_TASK_PROMPT : 0),
                            &task);
        r = r ?: answer_task(q, task);
        if (r)
                request_failed(q, r);
        else
                request_finish(q);
}

int api_task_get(Request *q) {
        _cleanup_(store_task_freep) StoreTask *task = NULL;
        _cleanup_free_ char *include = NULL, *after = NULL;
        int r;

        if (request_query(q, "after", &after) && !parse_u64(after, &q->transcript_after)) {
                request_problem(q, 400, NULL, "after: expected transcript_next of an earlier answer, or the seq of an event");
                return 0;
        }
        if (request_query(q, "include", &include)) {
                for (const char *p = include; *p; p += *p == ',') {
                        size_t n = strcspn(p, ",");
                        if (n == 10 && strncmp(p, "transcript", n) == 0)
                                q->with_transcript = true;
                        else if (n == 6 && strncmp(p, "prompt", n) == 0)
                                q->with_prompt = true;
                        else if (n == 3 && strncmp(p, "raw", n) == 0)
                                q->with_raw = q->with_transcript = true;
                        else {
                                request_problem(q, 400, NULL, "include: expected transcript, prompt or raw");
                                return 0;
                        }
                        p += n;
                }
        }
        task = request_task(q, STORE_TASK_RESULT | (q->with_prompt ? STORE_TASK_PROMPT : 0));
        if (!task)
                return 0;
        if (!task_state_is_final(task->state) &&
            request_wait_for_task(q, &task->id, request_prefer_wait(q), answer_again))
                return 0;
        r = answer_task(q, task);
        if (r)
                return r;
        request_finish(q);
        return 0;
}

/* ---- POST ---- */

static int on_submit_durable(Request *q) {
        unsigned wait_s = request_prefer_wait(q);

        if (wait_s && q->conn)
                (void)request_wait_for_task(q, &q->task_id, wait_s, answer_again);
        return 0;
}

static void submit_problem(Request *q, int e, const char *detail) {
        switch (e) {
        case SCHED_E_FULL:
        case SCHED_E_UNAVAILABLE:
                q->retry_after_s = TASK_FULL_RETRY_S;
                request_problem(q, 503, NULL, "%s", detail);
                break;
        case SCHED_E_QUOTA:
                q->retry_after_s = TASK_FULL_RETRY_S;
                request_problem(q, 429, NULL, "%s", detail);
                break;
        case SCHED_E_NO_AGENT:
        case SCHED_E_NOT_INSTALLED:
                request_problem(q, 422, "/agent", "%s", detail);
                break;
        default:
                request_problem(q, 422, "", "%s", detail);
        }
}

int api_task_post(Request *q) {
        _cleanup_(json_putp) json_object *document = NULL;
        _cleanup_(submit_deinit) Submit s = {};
        char detail[SCHED_DETAIL_MAX] = "", id[ID_TEXT_MAX];
        uint8_t hash[AUTH_HASH_SIZE];
        SchedTask *scheduled = NULL;
        JsonError e = {};
        int r, end;

        if (q->idempotency_key) {
                if (!*q->idempotency_key || strlen(q->idempotency_key) > REQUEST_IDEMPOTENCY_MAX) {
                        request_problem(q, 400, NULL, "Idempotency-Key: expected 1 to %d bytes", REQUEST_IDEMPOTENCY_MAX);
                        return 0;
                }
                r = request_hash(q, hash);
                if (r)
                        return r;
                if (replay(q, hash))
                        return 0;
        }
        document = request_json(q);
        if (!document)
                return 0;
        r = read_submit(q, document, &s, &e);
        if (r > 0) {
                request_json_problem(q, &e);
                return 0;
        }
        if (r)
                return r;

        r = store_begin(q->api->store);
        if (r)
                return r;
        r = sched_submit(q->api->sched, &s.task, &(SchedRequest){ .capabilities = s.capabilities }, &scheduled, detail);
        if (r > 0) {
                end = store_end(q->api->store, false);
                if (end)
                        return end;
                submit_problem(q, r, detail);
                return 0;
        }
        if (!r) {
                q->status = 201;
                id_format(&s.task.id, id);
                q->task_id = s.task.id;
                if (asprintf(&q->location, "/tasks/%s", id) < 0) {
                        q->location = NULL;
                        r = error_origin(-ENOMEM);
                }
        }
        r = r ?: answer_task(q, &s.task);
        if (!r && q->idempotency_key)
                r = remember(q, hash);
        end = store_end(q->api->store, r == 0);
        r = r ?: end;
        if (scheduled)
                sched_submitted(scheduled, r == 0);
        if (r)
                return r;
        q->on_durable = on_submit_durable;
        request_finish(q);
        return 0;
}

/* ---- cancel ---- */

int api_task_cancel(Request *q) {
        _cleanup_(store_task_freep) StoreTask *task = NULL;
        int r, end;

        if (buf_size(&q->body)) {
                request_problem(q, 400, "", "expected no body");
                return 0;
        }
        task = request_task(q, 0);
        if (!task)
                return 0;
        r = store_begin(q->api->store);
        if (r)
                return r;
        r = sched_cancel(q->api->sched, &task->id);
        end = store_end(q->api->store, r == 0);
        if (r == SCHED_E_FINAL) {
                /* Cancelling twice is no error; cancelling what has ended otherwise is. */
                if (task->state == TASK_CANCELLED)
                        answer_again(q);
                else
                        request_problem(q, 409, NULL, "the task has already ended: %s", task_state_name(task->state));
                return 0;
        }
        if (r == SCHED_E_UNAVAILABLE) {
                submit_problem(q, r, "the store takes no writes");
                return 0;
        }
        r = r ?: end;
        if (r)
                return r;
        answer_again(q);
        return 0;
}

/* ---- list ---- */

typedef struct ListContext {
        Request *request;
        size_t n;
        size_t limit;
        Id last;
        bool more;
} ListContext;

static int append_listed(const StoreTask *task, void *userdata) {
        ListContext *c = userdata;

        if (c->n == c->limit) {
                c->more = true;
                return 0;
        }
        c->last = task->id;
        return (c->n++ ? buf_append_str(&c->request->out, ",") : 0) ?:
               task_append_json(&c->request->out, c->request->api->store, task, false);
}

int api_task_list(Request *q) {
        _cleanup_free_ char *state = NULL, *agent = NULL, *label = NULL, *cursor = NULL, *limit = NULL;
        StoreTaskFilter f = {};
        ListContext c = { .request = q, .limit = TASK_LIST_LIMIT };
        char id[ID_TEXT_MAX], *equals;
        uint64_t v;
        Id next = {};
        int r;

        if (q->principal.role != ROLE_ADMIN)
                f.principal = q->principal.name;
        if (request_query(q, "state", &state) && !(f.state = task_state_from_name(state))) {
                request_problem(q, 400, NULL, "state: there is no state '%.64s'", state);
                return 0;
        }
        if (request_query(q, "agent", &agent))
                f.agent = agent;
        if (request_query(q, "label", &label)) {
                equals = strchr(label, '=');
                if (!equals) {
                        request_problem(q, 400, NULL, "label: expected NAME=VALUE");
                        return 0;
                }
                *equals = 0;
                f.label_name = label;
                f.label_value = equals + 1;
                if (!parse_name(f.label_name, TASK_NAME_MAX)) {
                        request_problem(q, 400, NULL, "label: expected NAME=VALUE");
                        return 0;
                }
        }
        if (request_query(q, "cursor", &cursor) && !id_parse(cursor, &f.before)) {
                request_problem(q, 400, NULL, "cursor: expected next_cursor of an earlier page");
                return 0;
        }
        if (request_query(q, "limit", &limit)) {
                if (!parse_u64_range(limit, 1, TASK_LIST_LIMIT_MAX, &v)) {
                        request_problem(q, 400, NULL, "limit: expected an integer from 1 to %d", TASK_LIST_LIMIT_MAX);
                        return 0;
                }
                c.limit = (size_t)v;
        }
        f.limit = c.limit + 1;          /* one more tells whether there is a next page */
        r = buf_append_str(&q->out, "{\"tasks\":[");
        r = r ?: store_task_list(q->api->store, &f, append_listed, &c, &next);
        r = r ?: buf_append_str(&q->out, "],\"next_cursor\":");
        /* A page may be short, even empty, and not be the last: the store looks at so many rows a call only. */
        if (c.more)
                next = c.last;
        if (!r && !id_is_null(&next)) {
                id_format(&next, id);
                r = buf_printf(&q->out, "\"%s\"}\n", id);
        } else
                r = r ?: buf_append_str(&q->out, "null}\n");
        if (r)
                return r;
        request_finish(q);
        return 0;
}

/* tasks: POST /tasks, GET /tasks, GET /tasks/{id}, POST /tasks/{id}/cancel. */

#include <inttypes.h>
#include <stdio.h>

#include "api/batch.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/parse.h"

#define TASK_LIST_LIMIT_MAX     500
#define TASK_LIST_LIMIT         50
#define TASK_TRANSCRIPT_MAX     MIB(4)          /* of one answer; transcript_next says where it goes on */
#define TASK_TRANSCRIPT_FULL    1000            /* no store result: TASK_TRANSCRIPT_MAX is reached */

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
        r = task_append_json(&q->out, q->api, task, true);
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

/* The tasks of several agents go by the id of their set, too. False: it is none. */
static bool answer_set(Request *q, int (*fn)(Request *q, StoreBatch *batch), int *ret_r) {
        StoreBatch *batch;
        Id id;

        if (!id_parse(q->params[0], &id) || request_load_batch(q, &id, &batch))
                return false;
        if (batch->select == STORE_SELECT_NONE) {
                store_batch_free(batch);
                return false;
        }
        *ret_r = fn(q, batch);
        return true;
}

static int batch_answer_taken(Request *q, StoreBatch *batch) {
        int r = batch_answer(q, batch);

        store_batch_free(batch);
        return r;
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
        if (answer_set(q, batch_answer_taken, &r))
                return r;
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

/* In a begin/end. SCHED_E_* with detail. */
static int submit_task(Request *q, Submit *s, SchedTask **ret_scheduled, char ret_detail[static SCHED_DETAIL_MAX]) {
        Id after[SCHED_DEPENDENCIES_MAX];
        SchedRequest request = submit_request(s, after);
        char id[ID_TEXT_MAX];
        int r;

        r = id_new(&s->task.id);
        if (r)
                return error_trace(r);
        r = sched_submit(q->api->sched, &s->task, &request, ret_scheduled, ret_detail);
        if (r)
                return r;
        q->status = 201;
        q->task_id = s->task.id;
        id_format(&s->task.id, id);
        if (asprintf(&q->location, "/tasks/%s", id) < 0) {
                q->location = NULL;
                return error_origin(-ENOMEM);
        }
        return 0;
}

int api_task_post(Request *q) {
        _cleanup_(json_putp) json_object *document = NULL;
        _cleanup_(submit_deinit) Submit s = {};
        char detail[SCHED_DETAIL_MAX] = "";
        uint8_t hash[AUTH_HASH_SIZE];
        SchedTask *scheduled = NULL;
        JsonError e = {};
        int r = 0, end;

        if (!idempotency_begin(q, hash, &r))
                return r;
        document = request_json(q);
        if (!document)
                return 0;
        r = submit_read(q, document, "", 0, &s, &e);
        if (!r && s.n_agents)
                return batch_submit_to_agents(q, document, &s, q->idempotency_key ? hash : NULL);
        r = r ?: submit_name_results(&s, "", &e);
        if (r > 0) {
                request_json_problem(q, &e);
                return 0;
        }
        r = r ?: submit_check_after(q, &s, "", &e);
        if (r > 0) {
                request_problem(q, 422, e.pointer, "%s", e.detail);
                return 0;
        }
        if (r)
                return r;

        r = store_begin(q->api->store);
        if (r)
                return r;
        r = submit_task(q, &s, &scheduled, detail);
        if (r > 0) {
                end = store_end(q->api->store, false);
                if (end)
                        return end;
                submit_problem(q, r, "", detail);
                return 0;
        }
        r = r ?: answer_task(q, &s.task);
        if (!r && q->idempotency_key)
                r = idempotency_remember(q, hash);
        end = store_end(q->api->store, r == 0);
        r = r ?: end;
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
        if (answer_set(q, batch_cancel, &r))
                return r;
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
                submit_problem(q, r, "", "the store takes no writes");
                return 0;
        }
        r = r ?: end;
        if (r)
                return r;
        answer_again(q);
        return 0;
}

/* ---- retry ---- */

int api_task_retry(Request *q) {
        _cleanup_(store_task_freep) StoreTask *task = NULL;
        char detail[SCHED_DETAIL_MAX] = "";
        SchedTask *scheduled = NULL;
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
        r = sched_requeue(q->api->sched, &task->id, &scheduled, detail);
        end = store_end(q->api->store, r == 0);
        if (r == SCHED_E_FINAL || r == SCHED_E_NOT_FINAL || r == SCHED_E_INVALID)
                request_problem(q, 409, NULL, "%s", detail);
        else if (r > 0)
                submit_problem(q, r, "", detail);
        if (r > 0)
                return 0;
        sched_submitted(scheduled, !r && !end);
        if (r || end)
                return r ?: end;
        answer_again(q);
        return 0;
}

/* ---- list ---- */

typedef struct ListContext {
        Request *request;
        size_t n_seen;
        size_t n;                       /* without those that are hidden */
        size_t limit;
        Id last;
        bool more;
} ListContext;

static int append_listed(const StoreTask *task, void *userdata) {
        ListContext *c = userdata;

        if (c->n_seen++ == c->limit) {
                c->more = true;
                return 0;
        }
        c->last = task->id;
        if (api_batch_is_hidden(c->request->api, &task->batch))
                return 0;
        return (c->n++ ? buf_append_str(&c->request->out, ",") : 0) ?:
               task_append_json(&c->request->out, c->request->api, task, false);
}

int api_task_list(Request *q) {
        _cleanup_free_ char *state = NULL, *agent = NULL, *label = NULL, *cursor = NULL, *limit = NULL;
        _cleanup_free_ char *group = NULL, *batch = NULL;
        StoreTaskFilter f = {};
        Id batch_id;
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
        if (request_query(q, "group", &group))
                f.group = group;
        if (request_query(q, "batch", &batch)) {
                if (!id_parse(batch, &batch_id)) {
                        request_problem(q, 400, NULL, "batch: expected the id of a batch");
                        return 0;
                }
                f.batch = &batch_id;
        }
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

/*
 * batch-submit: POST /batches, and POST /tasks with agents[]. All of the tasks or none: everything that can be said of
 * them is asked before the first is written; then they are written in many small requests to the store, under a batch
 * that says that it is unfinished until the last. Until then nobody sees it (Request.hidden), the scheduler starts none
 * of it, and what fails, or a crash, undoes it.
 *
 *     READ → CHECK → WRITE → QUEUE → the answer
 *                       ↘ UNDO → a refusal
 */

#include <stdio.h>

#include "api/batch.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/parse.h"

#define BATCH_UNDO_RETRY_US     USEC_PER_SEC    /* the store takes nothing at the moment */

typedef enum BatchPhase {
        BATCH_READ,
        BATCH_CHECK,
        BATCH_WRITE,
        BATCH_QUEUE,
        BATCH_ANSWER,
        BATCH_UNDO,
} BatchPhase;

typedef struct BatchJob {
        BatchPhase phase;
        BatchSplit split;
        BatchSpan *spans;
        json_object *submission;        /* of several agents: the one document */
        const char *agents[TASK_AGENTS_MAX];    /* of it */
        BatchOrder order;
        StoreBatch batch;
        Id *ids;
        size_t n, n_max;
        size_t i;                       /* tasks that the phase is done with */
        bool idempotent;
        uint8_t hash[AUTH_HASH_SIZE];
        struct {                        /* why it is undone */
                int error;              /* SCHED_E_*, or -errno */
                char pointer[64];
                char detail[SCHED_DETAIL_MAX];
        } refusal;
} BatchJob;

static void job_free(void *p) {
        BatchJob *j = p;

        if (!j)
                return;
        batch_split_deinit(&j->split);
        batch_order_deinit(&j->order);
        json_object_put(j->submission);
        free(j->spans);
        free(j->batch.principal);
        free(j->batch.metadata);
        free(j->ids);
        free(j);
}

static void job_freep(BatchJob **j) {
        job_free(*j);
}

static int job_new(Request *q, size_t n_max, const uint8_t *hash, BatchJob **ret_job) {
        _cleanup_(job_freep) BatchJob *j = calloc(1, sizeof(*j));
        int r;

        if (!j)
                return error_origin(-ENOMEM);
        j->n_max = n_max;
        j->spans = calloc(n_max, sizeof(*j->spans));
        j->ids = calloc(n_max, sizeof(*j->ids));
        j->batch.principal = strdup(q->principal.name);
        if (!j->spans || !j->ids || !j->batch.principal)
                return error_origin(-ENOMEM);
        r = batch_order_init(&j->order, n_max);
        r = r ?: id_new(&j->batch.id);
        if (r)
                return error_trace(r);
        j->idempotent = hash;
        if (hash)
                memcpy(j->hash, hash, sizeof(j->hash));
        *ret_job = steal_ptr(&j);
        return 0;
}

/* ---- one task ---- */

/* "" where the task is the document. */
static const char *task_pointer(const BatchJob *j, size_t i, char ret_pointer[static 64]) {
        if (j->submission)
                *ret_pointer = 0;
        else
                snprintf(ret_pointer, 64, "/tasks/%zu", i);
        return ret_pointer;
}

/* JSON_E_INVALID with e set. The submit belongs to *ret_document, where that is set. */
static int task_read(Request *q, BatchJob *j, size_t i, json_object **ret_document, Submit *s, JsonError *e) {
        JsonError syntax = {};
        char pointer[64];
        int r;

        task_pointer(j, i, pointer);
        if (j->submission) {
                r = submit_read(q, j->submission, "", 0, s, e);
                if (r)
                        return r;
                s->task.agent = strdup(j->agents[i]);
                if (!s->task.agent)
                        return error_origin(-ENOMEM);
        } else {
                r = json_parse(buf_data(&q->body) + j->spans[i].at, j->spans[i].n, JSON_DEPTH_MAX, ret_document,
                               &syntax);
                if (r == JSON_E_INVALID)
                        json_error_set(e, pointer, "%s", syntax.detail);
                r = r ?: submit_read(q, *ret_document, pointer, j->n, s, e);
                if (r)
                        return r;
        }
        s->task.id = j->ids[i];
        s->task.batch = j->batch.id;
        for (size_t k = 0; k < s->n_after; k++)
                if (s->after[k].in_batch)
                        s->after[k].id = j->ids[s->after[k].index];
        return submit_name_results(s, pointer, e);
}

static int job_name(BatchJob *j) {
        int r = 0;

        for (size_t i = 0; i < j->n && !r; i++)
                r = id_new(&j->ids[i]);
        return r;
}

/* ---- refusals ---- */

static void job_refuse(BatchJob *j, size_t i, int error, const char *detail) {
        j->refusal.error = error;
        task_pointer(j, i, j->refusal.pointer);
        if (j->submission && (error == SCHED_E_NO_AGENT || error == SCHED_E_NOT_INSTALLED))
                snprintf(j->refusal.pointer, sizeof(j->refusal.pointer), "/agents/%zu", i);
        snprintf(j->refusal.detail, sizeof(j->refusal.detail), "%s", detail);
}

static int job_answer_refusal(Request *q, BatchJob *j) {
        if (j->refusal.error < 0)
                request_failed(q, j->refusal.error);
        else if (str_starts(j->refusal.pointer, "/agents/"))
                request_problem(q, 422, j->refusal.pointer, "%s", j->refusal.detail);
        else
                submit_problem(q, j->refusal.error, j->refusal.pointer, j->refusal.detail);
        return BATCH_E_ANSWERED;
}

/* Writing failed, for this reason where none is said yet: what is written is taken back. */
static int job_undo_for(Request *q, BatchJob *j, int error) {
        if (!j->refusal.error && (error == STORE_E_FAILED || error == STORE_E_FULL))
                job_refuse(j, 0, SCHED_E_UNAVAILABLE, store_failure(q->api->store) ?: "the disk is full");
        else if (!j->refusal.error)
                j->refusal.error = error_fold(error);
        /* Those of the request that failed are in memory alone. */
        for (size_t i = 0; i < j->i; i++)
                sched_submitted_id(q->api->sched, &j->ids[j->order.order[i]], false);
        j->phase = BATCH_UNDO;
        return 0;
}

/*
 * ---- the phases: as much as the slice has room for ----
 *
 * 0: there is more to do. BATCH_E_END: the phase is over. BATCH_E_ANSWERED. JSON_E_INVALID with e set, in the first
 * two.
 */

static int read_rest(BatchJob *j, JsonError *e) {
        _cleanup_(json_putp) json_object *document = NULL;
        const char *on_denied, *text;
        json_object *metadata;
        int r;

        r = json_parse(buf_data(&j->split.rest), buf_size(&j->split.rest), JSON_DEPTH_MAX, &document, e);
        if (r)
                return r;
        JsonReader rd = json_reader(document, "", e);
        metadata = submit_read_metadata(&rd, "");
        submit_read_budget(&rd, &j->batch.max_tokens, &j->batch.max_cost_microusd);
        if (json_get_string(&rd, "on_denied", 0, 1, TASK_NAME_MAX, &on_denied, NULL)) {
                j->batch.refuse_all = streq(on_denied, "refuse_all");
                if (!j->batch.refuse_all && !streq(on_denied, "reject"))
                        json_error_set(e, "/on_denied", "expected \"reject\" or \"refuse_all\"");
        }
        if (!json_reader_end(&rd))
                return JSON_E_INVALID;
        if (metadata) {
                text = json_object_to_json_string_ext(metadata,
                                                      JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
                j->batch.metadata = text ? strdup(text) : NULL;
                if (!j->batch.metadata)
                        return error_origin(-ENOMEM);
        }
        return 0;
}

static int job_read(Request *q, BatchJob *j, Slice *slice, JsonError *e) {
        BatchSpan span;
        int r;

        while (slice_has_room(slice)) {
                r = batch_split_next(&j->split, &span, e);
                if (!r)
                        j->spans[j->n++] = span;
                if (r == BATCH_E_END)
                        return job_name(j) ?: read_rest(j, e) ?: BATCH_E_END;
                if (r && r != BATCH_E_MORE)
                        return r;
        }
        return 0;
}

static int check_task(Request *q, BatchJob *j, size_t i, JsonError *e) {
        _cleanup_(json_putp) json_object *document = NULL;
        _cleanup_(submit_deinit) Submit s = {};
        Id after[SCHED_DEPENDENCIES_MAX];
        char detail[SCHED_DETAIL_MAX] = "", pointer[64];
        SchedRequest request;
        int r;

        r = task_read(q, j, i, &document, &s, e);
        if (r)
                return r;
        r = submit_check_after(q, &s, task_pointer(j, i, pointer), e);
        if (r == JSON_E_INVALID) {
                request_problem(q, 422, e->pointer, "%s", e->detail);
                return BATCH_E_ANSWERED;
        }
        if (r)
                return r;
        request = submit_request(&s, after);
        r = sched_check(q->api->sched, &s.task, &request, i, detail);
        if (r > 0) {
                job_refuse(j, i, r, detail);
                return job_answer_refusal(q, j);
        }
        return r ?: batch_order_add(&j->order, &s);
}

static int job_check(Request *q, BatchJob *j, Slice *slice, JsonError *e) {
        char cycle[SCHED_DETAIL_MAX], pointer[64];
        uint32_t first;
        int r;

        for (; j->i < j->n; j->i++) {
                if (!slice_has_room(slice))
                        return 0;
                r = check_task(q, j, j->i, e);
                if (r)
                        return r;
        }
        r = batch_order_sort(&j->order, &first, cycle);
        if (r == BATCH_E_CYCLE) {
                snprintf(pointer, sizeof(pointer), "/tasks/%u/after", first);
                request_problem(q, 422, pointer, "these tasks wait for each other: %s", cycle);
                return BATCH_E_ANSWERED;
        }
        return r ?: BATCH_E_END;
}

static int append_answer(Request *q, BatchJob *j) {
        char id[ID_TEXT_MAX];
        int r;

        id_format(&j->batch.id, id);
        q->status = 201;
        if (asprintf(&q->location, "/%s/%s", j->submission ? "tasks" : "batches", id) < 0) {
                q->location = NULL;
                return error_origin(-ENOMEM);
        }
        if (j->submission)
                return batch_append_json(&q->out, q->api, &j->batch, true) ?: buf_append_str(&q->out, "\n");
        r = buf_printf(&q->out, "{\"id\":\"%s\",\"task_ids\":[", id);
        for (size_t i = 0; i < j->n && !r; i++) {
                id_format(&j->ids[i], id);
                r = buf_printf(&q->out, "%s\"%s\"", i ? "," : "", id);
        }
        return r ?: buf_append_str(&q->out, "]}\n");
}

/* With the first of its tasks. */
static int write_begin(Request *q, BatchJob *j) {
        j->batch.created_us = clock_realtime_us();
        q->hidden = j->batch.id;
        return store_event_last(q->api->store, &q->hidden_since) ?: store_batch_insert(q->api->store, &j->batch);
}

/* With the last: from here on there is the batch. */
static int write_end(Request *q, BatchJob *j) {
        int r;

        j->batch.n_tasks = (uint32_t)j->n;
        r = store_batch_update(q->api->store, &j->batch);
        r = r ?: append_answer(q, j);
        if (!r && j->idempotent)
                r = idempotency_remember(q, j->hash);
        return r;
}

static int write_task(Request *q, BatchJob *j, size_t i) {
        _cleanup_(json_putp) json_object *document = NULL;
        _cleanup_(submit_deinit) Submit s = {};
        char detail[SCHED_DETAIL_MAX] = "";
        Id after[SCHED_DEPENDENCIES_MAX];
        SchedRequest request;
        SchedTask *scheduled;
        JsonError e = {};
        int r;

        r = task_read(q, j, i, &document, &s, &e);
        if (r)
                return error_fold(r);   /* it could be read a moment ago */
        request = submit_request(&s, after);
        r = sched_submit(q->api->sched, &s.task, &request, &scheduled, detail);
        if (r > 0)
                job_refuse(j, i, r, detail);
        return r;
}

/* As many as the slice has room for, in one request to the store. */
static int job_write(Request *q, BatchJob *j, Slice *slice, JsonError *e) {
        size_t from = j->i;
        int r, end;

        r = store_begin(q->api->store);
        if (r)
                return job_undo_for(q, j, r);
        if (from == 0)
                r = write_begin(q, j);
        while (!r && j->i < j->n && (slice_has_room(slice) || j->i == from))
                r = write_task(q, j, j->order.order[j->i++]);
        if (!r && j->i == j->n)
                r = write_end(q, j);
        end = store_end(q->api->store, r == 0);
        r = r ?: end;
        if (r)
                return job_undo_for(q, j, r);
        if (j->i < j->n)
                return 0;
        request_unhide(q);
        return BATCH_E_END;
}

/* Into the queue, in the order of their making. */
static int job_queue(Request *q, BatchJob *j, Slice *slice, JsonError *e) {
        for (; j->i < j->n; j->i++) {
                if (!slice_has_room(slice))
                        return 0;
                sched_submitted_id(q->api->sched, &j->ids[j->order.order[j->i]], true);
        }
        return BATCH_E_END;
}

static int job_answer(Request *q, BatchJob *j, Slice *slice, JsonError *e) {
        request_finish(q);
        return BATCH_E_ANSWERED;
}

/* A failed store takes nothing any more: the next start undoes it. */
static int job_undo(Request *q, BatchJob *j, Slice *slice, JsonError *e) {
        bool done = false;
        int r, end;

        r = store_begin(q->api->store);
        if (r == STORE_E_FAILED)
                return job_answer_refusal(q, j);
        if (r)
                return r;
        r = store_batch_discard(q->api->store, &j->batch.id, MAX(slice->left, 1u), &done);
        slice->left = 0;
        end = store_end(q->api->store, r == 0);
        if (r == STORE_E_NOT_FOUND || (!r && !end && done))
                return job_answer_refusal(q, j);
        if (r || end) {
                q->paused_until_us = reactor_now_us(q->api->reactor) + BATCH_UNDO_RETRY_US;
                log_warning("a batch that failed can't be undone yet: %s", r < 0 ? strerror(-r) : "the disk is full");
        }
        return 0;
}

/* ---- from tick to tick ---- */

static int job_slice(Request *q, Slice *slice) {
        static int (*const phases[])(Request *, BatchJob *, Slice *, JsonError *) = {
                [BATCH_READ] = job_read, [BATCH_CHECK] = job_check, [BATCH_WRITE] = job_write,
                [BATCH_QUEUE] = job_queue, [BATCH_ANSWER] = job_answer, [BATCH_UNDO] = job_undo,
        };
        BatchJob *j = q->job;
        JsonError e = {};
        int r;

        while ((r = phases[j->phase](q, j, slice, &e)) == BATCH_E_END) {
                j->phase++;
                j->i = 0;
        }
        if (r == BATCH_E_ANSWERED)
                return 0;
        if (r == JSON_E_INVALID && e.set) {
                request_json_problem(q, &e);
                return 0;
        }
        return r;
}

static int job_start(Request *q, BatchJob *j) {
        q->job = j;
        q->job_free = job_free;
        request_start_job(q, job_slice);
        return 0;
}

int api_batch_post(Request *q) {
        uint8_t hash[AUTH_HASH_SIZE];
        BatchJob *j;
        int r;

        if (!idempotency_begin(q, hash, &r))
                return r;
        if (!request_is_json(q))
                return 0;
        r = job_new(q, BATCH_TASKS_MAX, q->idempotency_key ? hash : NULL, &j);
        if (r)
                return r;
        batch_split_init(&j->split, (const char *)buf_data(&q->body), buf_size(&q->body));
        return job_start(q, j);
}

int batch_submit_to_agents(Request *q, json_object *document, const Submit *s, const uint8_t *hash) {
        BatchJob *j;
        int r;

        r = job_new(q, s->n_agents, hash, &j);
        if (r)
                return r;
        j->phase = BATCH_CHECK;
        j->submission = json_object_get(document);
        j->n = s->n_agents;
        j->batch.select = s->select;
        memcpy(j->agents, s->agents, sizeof(j->agents));
        r = job_name(j);
        if (r) {
                job_free(j);
                return r;
        }
        return job_start(q, j);
}

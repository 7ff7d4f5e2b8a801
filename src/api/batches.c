/* batches: GET /batches, GET /batches/{id}, GET /batches/{id}/tasks. */

#include <inttypes.h>

#include "api/batch.h"
#include "base/error.h"
#include "base/parse.h"

/* ---- a batch as JSON ---- */

typedef struct TasksContext {
        Request *request;
        Buf *out;
        Api *api;
        size_t n, limit;
        bool whole;
        bool more;
        Id last;
} TasksContext;

static int append_task(const StoreTask *task, void *userdata) {
        TasksContext *c = userdata;

        if (c->n == c->limit) {
                c->more = true;
                return 0;
        }
        c->last = task->id;
        return (c->n++ ? buf_append_str(c->out, ",") : 0) ?: task_append_json(c->out, c->api, task, c->whole);
}

/* A set's tasks with what only a load of one gives. */
static int append_loaded(const StoreTask *listed, void *userdata) {
        _cleanup_(store_task_freep) StoreTask *task = NULL;
        TasksContext *c = userdata;
        int r;

        r = store_task_load(c->api->store, &listed->id, STORE_TASK_RESULT, &task);
        return r ? error_fold(r) : append_task(task, userdata);
}

static int append_counts(Buf *out, const StoreBatch *b, const uint64_t counts[static _TASK_STATE_N]) {
        uint64_t done = 0;
        unsigned n = 0;
        int r;

        r = buf_append_str(out, ",\"counts\":{");
        for (TaskState s = 1; s < _TASK_STATE_N && !r; s++) {
                if (!counts[s])
                        continue;
                r = buf_printf(out, "%s\"%s\":%" PRIu64, n++ ? "," : "", task_state_name(s), counts[s]);
                done += task_state_is_final(s) ? counts[s] : 0;
        }
        return r ?: buf_printf(out, "},\"done\":%" PRIu64 ",\"progress\":%.4g,\"state\":\"%s\"", done,
                               b->n_tasks ? (double)done / b->n_tasks : 0, done >= b->n_tasks ? "finished" : "running");
}

int batch_append_json(Buf *out, Api *api, const StoreBatch *b, bool with_tasks) {
        static const char *const selects[] = {
                [STORE_SELECT_NONE] = "null", [STORE_SELECT_ALL] = "\"all\"", [STORE_SELECT_FIRST] = "\"first\"",
        };
        uint64_t counts[_TASK_STATE_N] = {};
        char id[ID_TEXT_MAX];
        StoreUsage usage;
        int r;

        id_format(&b->id, id);
        r = buf_printf(out, "{\"id\":\"%s\",\"principal\":", id);
        r = r ?: json_append_string(out, b->principal, strlen(b->principal));
        r = r ?: buf_printf(out, ",\"metadata\":%s,\"select\":%s,\"on_denied\":\"%s\",\"cancel_requested\":%s,\"created_at\":",
                            b->metadata ?: "{}", selects[b->select], b->refuse_all ? "refuse_all" : "reject",
                            b->cancel_requested ? "true" : "false");
        r = r ?: json_append_time(out, b->created_us);
        r = r ?: buf_printf(out, ",\"n_tasks\":%u", b->n_tasks);
        r = r ?: store_batch_count(api->store, &b->id, counts, &usage);
        r = r ?: append_counts(out, b, counts);
        r = r ?: usage_append_json(out, &usage);
        r = r ?: budget_append_json(out, b->max_tokens, b->max_cost_microusd);
        if (!r && with_tasks) {
                TasksContext c = { .out = out, .api = api, .limit = TASK_AGENTS_MAX, .whole = true };
                r = buf_append_str(out, ",\"tasks\":[");
                r = r ?: store_batch_task_list(api->store, &b->id, NULL, TASK_AGENTS_MAX, append_loaded, &c);
                r = r ?: buf_append_str(out, "]");
        }
        return r ?: buf_append_str(out, "}");
}

/* ---- one batch ---- */

int request_load_batch(Request *q, const Id *id, StoreBatch **ret_batch) {
        _cleanup_(store_batch_freep) StoreBatch *batch = NULL;
        int r;

        r = store_batch_load(q->api->store, id, &batch);
        if (r)
                return r;
        /* Someone else's, or one that is being made, is as good as none. */
        if ((q->principal.role != ROLE_ADMIN && !streq(q->principal.name, batch->principal)) || !batch->n_tasks ||
            api_batch_is_hidden(q->api, id))
                return STORE_E_NOT_FOUND;
        *ret_batch = steal_ptr(&batch);
        return 0;
}

StoreBatch *request_batch(Request *q) {
        StoreBatch *batch = NULL;
        int r = STORE_E_NOT_FOUND;

        if (id_parse(q->params[0], &q->task_id))
                r = request_load_batch(q, &q->task_id, &batch);
        if (r == STORE_E_NOT_FOUND)
                request_problem(q, 404, NULL, "there is no such batch");
        else if (r)
                request_failed(q, r);
        return batch;
}

int batch_answer(Request *q, const StoreBatch *batch) {
        int r;

        buf_clear(&q->out);
        r = batch_append_json(&q->out, q->api, batch, batch->select != STORE_SELECT_NONE);
        r = r ?: buf_append_str(&q->out, "\n");
        if (r)
                return r;
        request_finish(q);
        return 0;
}

int api_batch_get(Request *q) {
        _cleanup_(store_batch_freep) StoreBatch *batch = request_batch(q);

        return batch ? batch_answer(q, batch) : 0;
}

/* ---- pages ---- */

/* ?cursor= and ?limit=; false: a problem was sent. */
static bool read_page(Request *q, Id *ret_cursor, size_t *ret_limit) {
        _cleanup_free_ char *cursor = NULL, *limit = NULL;
        uint64_t v = BATCH_LIST_LIMIT;

        if (request_query(q, "cursor", &cursor) && !id_parse(cursor, ret_cursor)) {
                request_problem(q, 400, NULL, "cursor: expected next_cursor of an earlier page");
                return false;
        }
        if (request_query(q, "limit", &limit) && !parse_u64_range(limit, 1, BATCH_LIST_LIMIT_MAX, &v)) {
                request_problem(q, 400, NULL, "limit: expected an integer from 1 to %d", BATCH_LIST_LIMIT_MAX);
                return false;
        }
        *ret_limit = (size_t)v;
        return true;
}

static int end_page(Request *q, bool more, const Id *last) {
        char id[ID_TEXT_MAX] = "";
        int r;

        if (more)
                id_format(last, id);
        r = buf_printf(&q->out, more ? "],\"next_cursor\":\"%s\"}\n" : "],\"next_cursor\":null}%s\n", id);
        if (r)
                return r;
        request_finish(q);
        return 0;
}

int api_batch_tasks(Request *q) {
        _cleanup_(store_batch_freep) StoreBatch *batch = NULL;
        TasksContext c = { .out = &q->out, .api = q->api };
        Id after = {};
        int r;

        if (!read_page(q, &after, &c.limit))
                return 0;
        batch = request_batch(q);
        if (!batch)
                return 0;
        r = buf_append_str(&q->out, "{\"tasks\":[");
        r = r ?: store_batch_task_list(q->api->store, &batch->id, &after, c.limit + 1, append_task, &c);
        return r ?: end_page(q, c.more, &c.last);
}

static int append_batch(const StoreBatch *batch, void *userdata) {
        TasksContext *c = userdata;

        if (c->n++ == c->limit) {
                c->more = true;
                return 0;
        }
        c->last = batch->id;
        if (!batch->n_tasks || api_batch_is_hidden(c->api, &batch->id))
                return 0;
        return (buf_data(c->out)[buf_size(c->out) - 1] == '}' ? buf_append_str(c->out, ",") : 0) ?:
               batch_append_json(c->out, c->api, batch, false);
}

int api_batch_list(Request *q) {
        const char *principal = q->principal.role == ROLE_ADMIN ? NULL : q->principal.name;
        TasksContext c = { .out = &q->out, .api = q->api };
        Id before = {};
        int r;

        if (!read_page(q, &before, &c.limit))
                return 0;
        r = buf_append_str(&q->out, "{\"batches\":[");
        r = r ?: store_batch_list(q->api->store, principal, &before, c.limit + 1, append_batch, &c);
        return r ?: end_page(q, c.more, &c.last);
}

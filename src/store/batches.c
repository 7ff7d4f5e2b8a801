/*
 * Batches, and the sums over their tasks.
 *
 * A batch has up to ten thousand tasks, and its progress is asked for all the time: how many tasks are in each state
 * and what they have used is kept beside the batch, and changes with each task (store_batch_account()).
 */

#include "base/error.h"
#include "store/internal.h"

#define BATCH_COLUMNS                                                                                           \
        "id, principal, metadata, n_tasks, selection, cancel_requested, refuse_all, max_tokens, max_cost_microusd, created_us"

StoreBatch *store_batch_free(StoreBatch *batch) {
        if (!batch)
                return NULL;
        free(batch->principal);
        free(batch->metadata);
        free(batch);
        return NULL;
}

/* ---- sums ---- */

static int batch_add_count(Store *store, const Id *batch, TaskState state, int64_t delta) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = stmt_get(&stmt, store, STMT_BATCH_ADD_COUNT,
                     "INSERT INTO batch_counts (batch, state, n_tasks) VALUES (?1, ?2, ?3) "
                     "ON CONFLICT (batch, state) DO UPDATE SET n_tasks = n_tasks + ?3");
        if (r)
                return r;
        stmt_bind_id(&stmt, batch);
        stmt_bind_i64(&stmt, state);
        stmt_bind_i64(&stmt, delta);
        return stmt_run(&stmt);
}

/* The sum with one summand replaced. What nobody knows stays unknown. */
static int64_t usage_replace(int64_t sum, int64_t old, int64_t value) {
        if (sum < 0 && value < 0)
                return -1;
        sum = MAX(sum, INT64_C(0)) - MAX(usage_value(old), INT64_C(0)) + MAX(usage_value(value), INT64_C(0));
        return MAX(INT64_C(0), MIN(sum, STORE_USAGE_MAX));
}

static int batch_load_usage(Store *store, const Id *batch, StoreUsage *ret_usage) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        bool row;
        int r;

        r = stmt_get(&stmt, store, STMT_BATCH_USAGE, "SELECT " STMT_USAGE_COLUMNS " FROM batches WHERE id = ?");
        if (r)
                return r;
        stmt_bind_id(&stmt, batch);
        r = stmt_step(&stmt, &row);
        if (r)
                return r;
        if (!row)
                return STORE_E_NOT_FOUND;
        *ret_usage = stmt_usage(&stmt);
        return 0;
}

static int batch_replace_usage(Store *store, const Id *batch, const StoreUsage *old, const StoreUsage *usage) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        StoreUsage sum;
        int r;

        r = batch_load_usage(store, batch, &sum);
        if (r)
                return r;
        sum.input_tokens = usage_replace(sum.input_tokens, old->input_tokens, usage->input_tokens);
        sum.cached_input_tokens =
                usage_replace(sum.cached_input_tokens, old->cached_input_tokens, usage->cached_input_tokens);
        sum.output_tokens = usage_replace(sum.output_tokens, old->output_tokens, usage->output_tokens);
        sum.reasoning_tokens = usage_replace(sum.reasoning_tokens, old->reasoning_tokens, usage->reasoning_tokens);
        sum.cost_microusd = usage_replace(sum.cost_microusd, old->cost_microusd, usage->cost_microusd);
        r = stmt_get(&stmt, store, STMT_BATCH_ADD_USAGE,
                     "UPDATE batches SET input_tokens = ?, cached_input_tokens = ?, output_tokens = ?, "
                     "reasoning_tokens = ?, cost_microusd = ? WHERE id = ?");
        if (r)
                return r;
        stmt_bind_usage(&stmt, &sum);
        stmt_bind_id(&stmt, batch);
        return stmt_run(&stmt);
}

int store_batch_account(Store *store, const Id *batch, const TaskState *old_state, const StoreUsage *old_usage,
                        TaskState state, const StoreUsage *usage) {
        static const StoreUsage unknown = STORE_USAGE_UNKNOWN;
        int r = 0;

        if (id_is_null(batch))
                return 0;
        if (!old_state || *old_state != state) {
                r = batch_add_count(store, batch, state, 1);
                if (!r && old_state)
                        r = batch_add_count(store, batch, *old_state, -1);
        }
        old_usage = old_usage ?: &unknown;
        if (!r && memcmp(old_usage, usage, sizeof(*usage)) != 0)
                r = batch_replace_usage(store, batch, old_usage, usage);
        return r;
}

int store_batch_count(Store *store, const Id *id, uint64_t counts[static _TASK_STATE_N], StoreUsage *ret_usage) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        uint64_t n_tasks[_TASK_STATE_N] = {};
        StoreUsage usage;
        int r;

        r = batch_load_usage(store, id, &usage);
        if (!r)
                r = stmt_get(&stmt, store, STMT_BATCH_COUNTS,
                             "SELECT state, n_tasks FROM batch_counts WHERE batch = ?");
        if (r)
                return r;
        stmt_bind_id(&stmt, id);
        for (;;) {
                uint64_t state;
                bool row;

                r = stmt_step(&stmt, &row);
                if (r)
                        return r;
                if (!row)
                        break;
                state = stmt_u64(&stmt);
                if (state < _TASK_STATE_N)
                        n_tasks[state] = stmt_u64(&stmt);
        }
        memcpy(counts, n_tasks, sizeof(n_tasks));
        *ret_usage = usage;
        return 0;
}

/* ---- records ---- */

int store_batch_insert(Store *store, const StoreBatch *batch) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = store_check_insert(store);
        if (!r)
                r = stmt_get(&stmt, store, STMT_BATCH_INSERT,
                             "INSERT INTO batches (" BATCH_COLUMNS ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
        if (r)
                return r;
        stmt_bind_id(&stmt, &batch->id);
        stmt_bind_str(&stmt, batch->principal);
        stmt_bind_str(&stmt, batch->metadata);
        stmt_bind_u64(&stmt, batch->n_tasks);
        stmt_bind_i64(&stmt, batch->select);
        stmt_bind_i64(&stmt, batch->cancel_requested);
        stmt_bind_i64(&stmt, batch->refuse_all);
        stmt_bind_u64(&stmt, batch->max_tokens);
        stmt_bind_u64(&stmt, batch->max_cost_microusd);
        stmt_bind_u64(&stmt, batch->created_us);
        return stmt_run(&stmt);
}

int store_batch_update(Store *store, const StoreBatch *batch) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = store_check_write(store);
        if (!r)
                r = stmt_get(&stmt, store, STMT_BATCH_UPDATE,
                             "UPDATE batches SET metadata = ?, n_tasks = ?, cancel_requested = ?, max_tokens = ?, "
                             "max_cost_microusd = ? WHERE id = ?");
        if (r)
                return r;
        stmt_bind_str(&stmt, batch->metadata);
        stmt_bind_u64(&stmt, batch->n_tasks);
        stmt_bind_i64(&stmt, batch->cancel_requested);
        stmt_bind_u64(&stmt, batch->max_tokens);
        stmt_bind_u64(&stmt, batch->max_cost_microusd);
        stmt_bind_id(&stmt, &batch->id);
        r = stmt_run(&stmt);
        if (r)
                return r;
        return stmt_changes(&stmt) == 1 ? 0 : STORE_E_NOT_FOUND;
}

static int batch_is_unfinished(Store *store, const Id *id) {
        _cleanup_(store_batch_freep) StoreBatch *batch = NULL;
        int r = store_batch_load(store, id, &batch);

        if (r)
                return r;
        return batch->n_tasks ? STORE_E_CONFLICT : 0;
}

int store_batch_discard(Store *store, const Id *id, size_t limit, bool *ret_done) {
        _cleanup_(stmt_put) Stmt tasks = STMT_NULL, batch = STMT_NULL;
        size_t n = 0;
        int r;

        r = store_check_write(store);
        if (!r)
                r = batch_is_unfinished(store, id);
        if (!r)
                r = stmt_get(&tasks, store, STMT_UNCACHED,
                             "DELETE FROM tasks WHERE n IN (SELECT n FROM tasks WHERE batch = ? LIMIT ?) "
                             "RETURNING state");
        if (r)
                return r;
        stmt_bind_id(&tasks, id);
        stmt_bind_u64(&tasks, limit);
        for (;; n++) {
                bool row;

                r = stmt_step(&tasks, &row);
                if (r)
                        return r;
                if (!row)
                        break;
                store_count_state(store, (TaskState)stmt_i64(&tasks), -1);
        }
        if (n < limit) {
                r = stmt_get(&batch, store, STMT_UNCACHED, "DELETE FROM batches WHERE id = ?");
                if (r)
                        return r;
                stmt_bind_id(&batch, id);
                r = stmt_run(&batch);
        }
        if (!r)
                *ret_done = n < limit;
        return r;
}

/* One of them; *ret_found false: there is none. */
static int batch_find_unfinished(Store *store, Id *ret_id, bool *ret_found) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = stmt_get(&stmt, store, STMT_UNCACHED, "SELECT id FROM batches WHERE n_tasks = 0 LIMIT 1");
        if (!r)
                r = stmt_step(&stmt, ret_found);
        if (!r && *ret_found)
                *ret_id = stmt_id(&stmt);
        return r;
}

int store_batch_discard_unfinished(Store *store, size_t *ret_n) {
        for (size_t n = 0;; n++) {
                bool found, done;
                Id id;
                int r, e;

                r = batch_find_unfinished(store, &id, &found);
                if (r)
                        return r;
                if (!found) {
                        *ret_n = n;
                        return 0;
                }
                r = store_begin(store);
                if (r)
                        return r;
                r = store_batch_discard(store, &id, SIZE_MAX, &done);
                e = store_end(store, r == 0);
                if (r || e)
                        return r ? r : e;
        }
}

static int batch_read(Stmt *stmt, StoreBatch **ret_batch) {
        _cleanup_(store_batch_freep) StoreBatch *b = calloc(1, sizeof(*b));

        if (!b)
                return error_origin(-ENOMEM);
        b->id = stmt_id(stmt);
        b->principal = stmt_str(stmt);
        b->metadata = stmt_str(stmt);
        b->n_tasks = stmt_u32(stmt);
        b->select = (StoreSelect)stmt_i64(stmt);
        b->cancel_requested = stmt_i64(stmt);
        b->refuse_all = stmt_i64(stmt);
        b->max_tokens = stmt_u64(stmt);
        b->max_cost_microusd = stmt_u64(stmt);
        b->created_us = stmt_u64(stmt);
        if (stmt->error)
                return stmt->error;
        *ret_batch = steal_ptr(&b);
        return 0;
}

int store_batch_load(Store *store, const Id *id, StoreBatch **ret_batch) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        bool row;
        int r;

        r = stmt_get(&stmt, store, STMT_BATCH_LOAD, "SELECT " BATCH_COLUMNS " FROM batches WHERE id = ?");
        if (r)
                return r;
        stmt_bind_id(&stmt, id);
        r = stmt_step(&stmt, &row);
        if (r)
                return r;
        return row ? batch_read(&stmt, ret_batch) : STORE_E_NOT_FOUND;
}

int store_batch_list(Store *store, const char *principal, const Id *before, size_t limit, StoreBatchFn fn,
                     void *userdata) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        _cleanup_(sqlite3_freep) char *sql = NULL;
        int r;

        sql = sqlite3_mprintf("SELECT " BATCH_COLUMNS " FROM batches WHERE 1%s%s ORDER BY id DESC LIMIT ?3",
                              principal ? " AND principal = ?1" : "",
                              before && !id_is_null(before) ? " AND id < ?2" : "");
        if (!sql)
                return error_origin(-ENOMEM);
        r = stmt_get(&stmt, store, STMT_UNCACHED, sql);
        if (r)
                return r;
        stmt_bind_str(&stmt, principal);
        stmt_bind_id(&stmt, before);
        stmt_bind_u64(&stmt, limit);
        for (;;) {
                _cleanup_(store_batch_freep) StoreBatch *batch = NULL;
                bool row;

                r = stmt_step(&stmt, &row);
                if (r || !row)
                        return r;
                r = batch_read(&stmt, &batch);
                if (!r)
                        r = fn(batch, userdata);
                if (r)
                        return r;
        }
}

int store_batch_task_list(Store *store, const Id *id, const Id *after, size_t limit, StoreTaskFn fn, void *userdata) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = stmt_get(&stmt, store, STMT_BATCH_TASK_LIST,
                     "SELECT " TASK_COLUMNS " FROM tasks t WHERE t.batch = ?1 AND t.id > coalesce(?2, x'') "
                     "ORDER BY t.id LIMIT ?3");
        if (r)
                return r;
        stmt_bind_id(&stmt, id);
        stmt_bind_id(&stmt, after);
        stmt_bind_u64(&stmt, limit);
        for (;;) {
                _cleanup_(store_task_freep) StoreTask *task = NULL;
                bool row;

                r = stmt_step(&stmt, &row);
                if (r || !row)
                        return r;
                r = store_task_read(&stmt, &task);
                if (!r)
                        r = fn(task, userdata);
                if (r)
                        return r;
        }
}

#include "base/error.h"
#include "store/internal.h"

#define LIVE_STATES "(1, 2, 3, 9, 10)"         /* as the index tasks_live spells it */

static const char *const state_names[_TASK_STATE_N] = {
        [TASK_QUEUED] = "queued",
        [TASK_DELAYED] = "delayed",
        [TASK_RUNNING] = "running",
        [TASK_SUCCEEDED] = "succeeded",
        [TASK_FAILED] = "failed",
        [TASK_CANCELLED] = "cancelled",
        [TASK_TIMED_OUT] = "timed_out",
        [TASK_DEAD] = "dead",
        [TASK_HELD] = "held",
        [TASK_BLOCKED] = "blocked",
        [TASK_REJECTED] = "rejected",
        [TASK_EXPIRED] = "expired",
};

_Static_assert(TASK_QUEUED == 1 && TASK_DELAYED == 2 && TASK_RUNNING == 3 && TASK_HELD == 9 && TASK_BLOCKED == 10,
               "LIVE_STATES spells these out");

const char *task_state_name(TaskState state) {
        return state > 0 && state < _TASK_STATE_N ? state_names[state] : "unknown";
}

TaskState task_state_from_name(const char *name) {
        for (size_t i = 1; i < _TASK_STATE_N; i++)
                if (streq(state_names[i], name))
                        return (TaskState)i;
        return 0;
}

StoreTask *store_task_free(StoreTask *task) {
        if (!task)
                return NULL;
        free(task->principal);
        free(task->agent);
        free(task->candidates);
        free(task->group);
        free(task->model);
        free(task->prompt);
        free(task->workspace);
        free(task->request);
        free(task->reason);
        free(task->detail);
        free(task->result);
        free(task);
        return NULL;
}

/* ---- writing ---- */

static int task_write_text(Store *store, StmtSlot slot, const char *sql, uint64_t n, const char *text, size_t n_text) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = stmt_get(&stmt, store, slot, sql);
        if (r)
                return r;
        stmt_bind_u64(&stmt, n);
        stmt_bind_blob(&stmt, text, n_text);
        return stmt_run(&stmt);
}

static int task_write_result(Store *store, uint64_t n, const StoreTask *task) {
        if (!task->result)
                return 0;
        return task_write_text(store, STMT_TASK_UPDATE_RESULT,
                               "INSERT INTO results (task, result) VALUES (?, ?) "
                               "ON CONFLICT (task) DO UPDATE SET result = excluded.result",
                               n, task->result, task->n_result);
}

static bool task_state_is_valid(TaskState state) {
        return state > 0 && state < _TASK_STATE_N;
}

/* What insert and update have in common, in the order of their columns. */
static void task_bind(Stmt *stmt, const StoreTask *t) {
        stmt_bind_i64(stmt, t->state);
        stmt_bind_str(stmt, t->agent);
        stmt_bind_str(stmt, t->candidates);
        stmt_bind_str(stmt, t->model);
        stmt_bind_u64(stmt, t->priority);
        stmt_bind_u64(stmt, t->max_tokens);
        stmt_bind_u64(stmt, t->max_cost_microusd);
        stmt_bind_u64(stmt, t->timeout_us);
        stmt_bind_u64(stmt, t->not_before_us);
        stmt_bind_u64(stmt, t->deadline_us);
        stmt_bind_u64(stmt, t->n_blockers);
        stmt_bind_u64(stmt, t->updated_us);
        stmt_bind_u64(stmt, t->ready_us);
        stmt_bind_u64(stmt, t->started_us);
        stmt_bind_u64(stmt, t->finished_us);
        stmt_bind_u64(stmt, t->n_attempts);
        stmt_bind_u64(stmt, t->max_attempts);
        stmt_bind_u64(stmt, t->backoff_us);
        stmt_bind_i64(stmt, t->cancel_requested);
        stmt_bind_str(stmt, t->reason);
        stmt_bind_str(stmt, t->detail);
        stmt_bind_i64(stmt, t->result_truncated);
        stmt_bind_usage(stmt, &t->usage);
}

int store_task_insert(Store *store, const StoreTask *task) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        uint64_t n;
        int r;

        if (!task_state_is_valid(task->state))
                return error_origin(-EINVAL);
        r = store_check_insert(store);
        if (!r)
                r = stmt_get(
                        &stmt, store, STMT_TASK_INSERT,
                        "INSERT INTO tasks (state, agent, candidates, model, priority, max_tokens, max_cost_microusd, "
                        "timeout_us, not_before_us, deadline_us, n_blockers, updated_us, ready_us, started_us, "
                        "finished_us, n_attempts, max_attempts, backoff_us, cancel_requested, reason, detail, "
                        "result_truncated, " STMT_USAGE_COLUMNS ", id, principal, run_as_uid, workspace, request, "
                        "created_us, batch, group_name, gpus, cpus_milli, memory, on_unmet) "
                        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, "
                        "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
        if (r)
                return r;
        task_bind(&stmt, task);
        stmt_bind_id(&stmt, &task->id);
        stmt_bind_str(&stmt, task->principal);
        stmt_bind_i64(&stmt, task->run_as_uid);
        stmt_bind_str(&stmt, task->workspace);
        stmt_bind_str(&stmt, task->request);
        stmt_bind_u64(&stmt, task->created_us);
        stmt_bind_id(&stmt, &task->batch);
        stmt_bind_str(&stmt, task->group);
        stmt_bind_u64(&stmt, task->gpus);
        stmt_bind_u64(&stmt, task->cpus_milli);
        stmt_bind_u64(&stmt, task->memory);
        stmt_bind_u64(&stmt, task->on_unmet);
        r = stmt_run(&stmt);
        if (r)
                return r;
        n = (uint64_t)sqlite3_last_insert_rowid(store->db);
        store_count_state(store, task->state, 1);
        if (task->prompt)
                r = task_write_text(store, STMT_TASK_INSERT_PROMPT, "INSERT INTO prompts (task, prompt) VALUES (?, ?)",
                                    n, task->prompt, task->n_prompt);
        if (!r)
                r = store_batch_account(store, &task->batch, NULL, NULL, task->state, &task->usage);
        return r ? r : task_write_result(store, n, task);
}

int store_task_update(Store *store, const StoreTask *task) {
        _cleanup_(stmt_put) Stmt find = STMT_NULL, stmt = STMT_NULL;
        StoreUsage old_usage;
        TaskState old_state;
        uint64_t n;
        Id batch;
        bool row;
        int r;

        if (!task_state_is_valid(task->state))
                return error_origin(-EINVAL);
        r = store_check_write(store);
        if (!r)
                r = stmt_get(&find, store, STMT_TASK_FIND, "SELECT n, state, batch, " STMT_USAGE_COLUMNS
                             " FROM tasks WHERE id = ?");
        if (r)
                return r;
        stmt_bind_id(&find, &task->id);
        r = stmt_step(&find, &row);
        if (r)
                return r;
        if (!row)
                return STORE_E_NOT_FOUND;
        n = stmt_u64(&find);
        old_state = (TaskState)stmt_i64(&find);
        batch = stmt_id(&find);
        old_usage = stmt_usage(&find);
        stmt_reset(&find);

        r = stmt_get(
                &stmt, store, STMT_TASK_UPDATE,
                "UPDATE tasks SET state = ?, agent = ?, candidates = ?, model = ?, priority = ?, max_tokens = ?, "
                "max_cost_microusd = ?, timeout_us = ?, not_before_us = ?, deadline_us = ?, n_blockers = ?, "
                "updated_us = ?, ready_us = ?, started_us = ?, finished_us = ?, n_attempts = ?, max_attempts = ?, "
                "backoff_us = ?, cancel_requested = ?, reason = ?, detail = ?, result_truncated = ?, "
                "input_tokens = ?, cached_input_tokens = ?, output_tokens = ?, reasoning_tokens = ?, "
                "cost_microusd = ? WHERE n = ?");
        if (r)
                return r;
        task_bind(&stmt, task);
        stmt_bind_u64(&stmt, n);
        r = stmt_run(&stmt);
        if (r)
                return r;
        store_count_state(store, old_state, -1);
        store_count_state(store, task->state, 1);
        r = store_batch_account(store, &batch, &old_state, &old_usage, task->state, &task->usage);
        return r ? r : task_write_result(store, n, task);
}

/* ---- reading ---- */

int store_task_read(Stmt *stmt, StoreTask **ret_task) {
        _cleanup_(store_task_freep) StoreTask *t = calloc(1, sizeof(*t));

        if (!t)
                return error_origin(-ENOMEM);
        t->id = stmt_id(stmt);
        t->principal = stmt_str(stmt);
        t->run_as_uid = stmt_i64(stmt);
        t->state = (TaskState)stmt_i64(stmt);
        t->agent = stmt_str(stmt);
        t->candidates = stmt_str(stmt);
        t->model = stmt_str(stmt);
        t->priority = stmt_u32(stmt);
        t->workspace = stmt_str(stmt);
        t->request = stmt_str(stmt);
        t->batch = stmt_id(stmt);
        t->group = stmt_str(stmt);
        t->gpus = stmt_u32(stmt);
        t->cpus_milli = stmt_u32(stmt);
        t->memory = stmt_u64(stmt);
        t->max_tokens = stmt_u64(stmt);
        t->max_cost_microusd = stmt_u64(stmt);
        t->timeout_us = stmt_u64(stmt);
        t->not_before_us = stmt_u64(stmt);
        t->deadline_us = stmt_u64(stmt);
        t->n_blockers = stmt_u32(stmt);
        t->on_unmet = (uint8_t)stmt_u32(stmt);
        t->created_us = stmt_u64(stmt);
        t->updated_us = stmt_u64(stmt);
        t->ready_us = stmt_u64(stmt);
        t->started_us = stmt_u64(stmt);
        t->finished_us = stmt_u64(stmt);
        t->n_attempts = stmt_u32(stmt);
        t->max_attempts = stmt_u32(stmt);
        t->backoff_us = stmt_u64(stmt);
        t->cancel_requested = stmt_i64(stmt);
        t->reason = stmt_str(stmt);
        t->detail = stmt_str(stmt);
        t->result_truncated = stmt_i64(stmt);
        t->usage = stmt_usage(stmt);
        t->last_seq = stmt_u64(stmt);
        if (stmt->error)
                return stmt->error;
        *ret_task = steal_ptr(&t);
        return 0;
}

int store_task_load(Store *store, const Id *id, int parts, StoreTask **ret_task) {
        _cleanup_(store_task_freep) StoreTask *task = NULL;
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        bool row;
        int r;

        r = stmt_get(&stmt, store, STMT_TASK_LOAD,
                     "SELECT " TASK_COLUMNS ", "
                     "CASE WHEN ?2 & 1 THEN (SELECT prompt FROM prompts WHERE task = t.n) END, "
                     "CASE WHEN ?2 & 2 THEN (SELECT result FROM results WHERE task = t.n) END "
                     "FROM tasks t WHERE t.id = ?1");
        if (r)
                return r;
        stmt_bind_id(&stmt, id);
        stmt_bind_i64(&stmt, parts);
        r = stmt_step(&stmt, &row);
        if (r)
                return r;
        if (!row)
                return STORE_E_NOT_FOUND;
        r = store_task_read(&stmt, &task);
        if (r)
                return r;
        task->prompt = stmt_bytes(&stmt, &task->n_prompt);
        task->result = stmt_bytes(&stmt, &task->n_result);
        if (stmt.error)
                return stmt.error;
        *ret_task = steal_ptr(&task);
        return 0;
}

_Static_assert(STORE_TASK_PROMPT == 1 && STORE_TASK_RESULT == 2, "store_task_load() spells these out");

/* Whether to look among the tasks of the filter's state, rather than among those of its principal. */
static bool task_state_is_rare(const Store *store, const StoreTaskFilter *filter) {
        uint64_t total = 0;

        for (size_t i = 0; i < _TASK_STATE_N; i++)
                total += store->counts[i];
        return filter->state < _TASK_STATE_N && store->counts[filter->state] < total / 8;
}

static int task_load_n(Store *store, uint64_t n, StoreTask **ret_task) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        bool row;
        int r;

        r = stmt_get(&stmt, store, STMT_TASK_LOAD_N, "SELECT " TASK_COLUMNS " FROM tasks t WHERE t.n = ?");
        if (r)
                return r;
        stmt_bind_u64(&stmt, n);
        r = stmt_step(&stmt, &row);
        if (r)
                return r;
        return row ? store_task_read(&stmt, ret_task) : error_origin(-EIO);
}

/*
 * One statement a set of filters, so that each has an index that gives the order: (batch, id), (state, id),
 * (principal, id) or (id). What the index does not know is a column of the statement, so that the rows that it turns
 * away are seen, and counted, here.
 */
int store_task_list(Store *store, const StoreTaskFilter *filter, StoreTaskFn fn, void *userdata, Id *ret_next) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        _cleanup_(sqlite3_freep) char *sql = NULL;
        bool by_batch = filter->batch;
        bool by_state = !by_batch && filter->state && (!filter->principal || task_state_is_rare(store, filter));
        bool by_principal = !by_batch && !by_state && filter->principal;
        size_t n_listed = 0, n_examined = 0;
        Id next = {};
        int r;

        sql = sqlite3_mprintf("SELECT t.n, t.id, 1%s%s%s%s%s FROM tasks t WHERE 1%s%s%s%s ORDER BY t.id DESC "
                              "LIMIT ?9",
                              filter->principal && !by_principal ? " AND t.principal = ?2" : "",
                              filter->state && !by_state ? " AND t.state = ?3" : "",
                              filter->agent ? " AND t.agent IS ?4" : "", filter->group ? " AND t.group_name IS ?5" : "",
                              filter->label_name ? " AND CASE WHEN json_valid(t.request) THEN EXISTS ("
                                                   "SELECT 1 FROM json_each(t.request, '$.labels') "
                                                   "WHERE key = ?6 AND value = ?7) ELSE 0 END"
                                                 : "",
                              id_is_null(&filter->before) ? "" : " AND t.id < ?1",
                              by_principal ? " AND t.principal = ?2" : "", by_state ? " AND t.state = ?3" : "",
                              by_batch ? " AND t.batch = ?8" : "");
        if (!sql)
                return error_origin(-ENOMEM);
        r = stmt_get(&stmt, store, STMT_UNCACHED, sql);
        if (r)
                return r;
        stmt_bind_id(&stmt, &filter->before);
        stmt_bind_str(&stmt, filter->principal);
        stmt_bind_i64(&stmt, filter->state);
        stmt_bind_str(&stmt, filter->agent);
        stmt_bind_str(&stmt, filter->group);
        stmt_bind_str(&stmt, filter->label_name);
        stmt_bind_str(&stmt, filter->label_name ? filter->label_value ?: "" : NULL);
        stmt_bind_id(&stmt, filter->batch);
        stmt_bind_u64(&stmt, MIN(filter->limit, SIZE_MAX - STORE_EXAMINE_MAX) + STORE_EXAMINE_MAX);
        while (n_listed < filter->limit) {
                _cleanup_(store_task_freep) StoreTask *task = NULL;
                uint64_t n;
                bool row;
                Id id;

                r = stmt_step(&stmt, &row);
                if (r)
                        return r;
                if (!row)
                        break;
                n = stmt_u64(&stmt);
                id = stmt_id(&stmt);
                if (stmt_i64(&stmt)) {
                        n_listed++;
                        r = task_load_n(store, n, &task);
                        if (!r)
                                r = fn(task, userdata);
                        if (r)
                                return r;
                } else if (++n_examined == STORE_EXAMINE_MAX) {
                        next = id;
                        break;
                }
        }
        if (ret_next)
                *ret_next = next;
        return 0;
}

int store_task_list_live(Store *store, StoreTaskFn fn, void *userdata) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = stmt_get(&stmt, store, STMT_TASK_LIST_LIVE,
                     "SELECT id, principal, state, agent, candidates, priority, batch, group_name, gpus, cpus_milli, "
                     "memory, max_tokens, max_cost_microusd, not_before_us, deadline_us, n_blockers, created_us, "
                     "ready_us, n_attempts, cancel_requested "
                     "FROM tasks INDEXED BY tasks_live WHERE state IN " LIVE_STATES " ORDER BY id");
        if (r)
                return r;
        for (;;) {
                StoreTask t = { .run_as_uid = -1, .usage = STORE_USAGE_UNKNOWN };
                size_t n_text;
                bool row;

                r = stmt_step(&stmt, &row);
                if (r || !row)
                        return r;
                t.id = stmt_id(&stmt);
                t.principal = (char *)stmt_peek_text(&stmt, &n_text);
                t.state = (TaskState)stmt_i64(&stmt);
                t.agent = (char *)stmt_peek_text(&stmt, &n_text);
                t.candidates = (char *)stmt_peek_text(&stmt, &n_text);
                t.priority = stmt_u32(&stmt);
                t.batch = stmt_id(&stmt);
                t.group = (char *)stmt_peek_text(&stmt, &n_text);
                t.gpus = stmt_u32(&stmt);
                t.cpus_milli = stmt_u32(&stmt);
                t.memory = stmt_u64(&stmt);
                t.max_tokens = stmt_u64(&stmt);
                t.max_cost_microusd = stmt_u64(&stmt);
                t.not_before_us = stmt_u64(&stmt);
                t.deadline_us = stmt_u64(&stmt);
                t.n_blockers = stmt_u32(&stmt);
                t.created_us = stmt_u64(&stmt);
                t.ready_us = stmt_u64(&stmt);
                t.n_attempts = stmt_u32(&stmt);
                t.cancel_requested = stmt_i64(&stmt);
                if (stmt.error)
                        return stmt.error;
                r = fn(&t, userdata);
                if (r)
                        return r;
        }
}

int store_task_prompt_size(Store *store, const Id *id, size_t *ret_n) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        bool row;
        int r;

        r = stmt_get(&stmt, store, STMT_TASK_PROMPT_SIZE,
                     "SELECT octet_length(p.prompt) FROM tasks t JOIN prompts p ON p.task = t.n WHERE t.id = ?");
        if (r)
                return r;
        stmt_bind_id(&stmt, id);
        r = stmt_step(&stmt, &row);
        if (r)
                return r;
        if (!row)
                return STORE_E_NOT_FOUND;
        *ret_n = stmt_u64(&stmt);
        return stmt.error;
}

int store_task_count(Store *store, uint64_t counts[static _TASK_STATE_N]) {
        memcpy(counts, store->counts, sizeof(store->counts));
        return 0;
}

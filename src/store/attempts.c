#include "base/error.h"
#include "store/internal.h"

#define ATTEMPT_COLUMNS                                                                                         \
        "a.id, t.id, a.number, a.open, a.generation, a.started_us, a.execed_us, a.finished_us, a.exit_code, "   \
        "a.signal, a.outcome, a.reason, a.detail, a.input_tokens, a.cached_input_tokens, a.output_tokens, "     \
        "a.reasoning_tokens, a.cost_microusd, a.stdout_offset, a.stderr_offset, a.stdout_flags, "               \
        "a.stderr_flags, a.captured_bytes, a.memory_peak, a.cpu_us, a.oom_kills, a.session, a.agent, a.gpus"
#define ATTEMPT_FROM " FROM attempts a JOIN tasks t ON t.n = a.task "

StoreAttempt *store_attempt_free(StoreAttempt *attempt) {
        if (!attempt)
                return NULL;
        free(attempt->agent);
        free(attempt->gpus);
        free(attempt->outcome);
        free(attempt->reason);
        free(attempt->detail);
        free(attempt->session);
        free(attempt);
        return NULL;
}

/* Everything but id, task and number: what insert and update have in common, in the order of their columns. */
static void attempt_bind(Stmt *stmt, const StoreAttempt *a) {
        stmt_bind_i64(stmt, a->open);
        stmt_bind_id(stmt, &a->generation);
        stmt_bind_u64(stmt, a->started_us);
        stmt_bind_u64(stmt, a->execed_us);
        stmt_bind_u64(stmt, a->finished_us);
        stmt_bind_i64(stmt, a->exit_code);
        stmt_bind_i64(stmt, a->signal);
        stmt_bind_str(stmt, a->outcome);
        stmt_bind_str(stmt, a->reason);
        stmt_bind_str(stmt, a->detail);
        stmt_bind_usage(stmt, &a->usage);
        stmt_bind_u64(stmt, a->stdout_offset);
        stmt_bind_u64(stmt, a->stderr_offset);
        stmt_bind_u64(stmt, a->stdout_flags);
        stmt_bind_u64(stmt, a->stderr_flags);
        stmt_bind_u64(stmt, a->captured_bytes);
        stmt_bind_u64(stmt, a->memory_peak);
        stmt_bind_u64(stmt, a->cpu_us);
        stmt_bind_u64(stmt, a->oom_kills);
        stmt_bind_str(stmt, a->session);
        stmt_bind_str(stmt, a->agent);
        stmt_bind_str(stmt, a->gpus);
}

int store_attempt_insert(Store *store, const StoreAttempt *attempt) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = store_check_write(store);
        if (!r)
                r = stmt_get(&stmt, store, STMT_ATTEMPT_INSERT,
                             "INSERT INTO attempts (open, generation, started_us, execed_us, finished_us, exit_code, "
                             "signal, outcome, reason, detail, " STMT_USAGE_COLUMNS ", stdout_offset, stderr_offset, "
                             "stdout_flags, stderr_flags, captured_bytes, memory_peak, cpu_us, oom_kills, session, "
                             "agent, gpus, number, id, task) "
                             "SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, "
                             "n FROM tasks WHERE id = ?");
        if (r)
                return r;
        attempt_bind(&stmt, attempt);
        stmt_bind_u64(&stmt, attempt->number);
        stmt_bind_id(&stmt, &attempt->id);
        stmt_bind_id(&stmt, &attempt->task_id);
        r = stmt_run(&stmt);
        if (r)
                return r;
        return stmt_changes(&stmt) == 1 ? 0 : STORE_E_NOT_FOUND;
}

int store_attempt_update(Store *store, const StoreAttempt *attempt) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = store_check_write(store);
        if (!r)
                r = stmt_get(
                        &stmt, store, STMT_ATTEMPT_UPDATE,
                        "UPDATE attempts SET open = ?, generation = ?, started_us = ?, execed_us = ?, finished_us = ?, "
                        "exit_code = ?, signal = ?, outcome = ?, reason = ?, detail = ?, input_tokens = ?, "
                        "cached_input_tokens = ?, output_tokens = ?, reasoning_tokens = ?, cost_microusd = ?, "
                        "stdout_offset = ?, stderr_offset = ?, stdout_flags = ?, stderr_flags = ?, captured_bytes = ?, "
                        "memory_peak = ?, cpu_us = ?, oom_kills = ?, session = ?, agent = ?, gpus = ? "
                        "WHERE id = ?");
        if (r)
                return r;
        attempt_bind(&stmt, attempt);
        stmt_bind_id(&stmt, &attempt->id);
        r = stmt_run(&stmt);
        if (r)
                return r;
        return stmt_changes(&stmt) == 1 ? 0 : STORE_E_NOT_FOUND;
}

static int attempt_read(Stmt *stmt, StoreAttempt **ret_attempt) {
        _cleanup_(store_attempt_freep) StoreAttempt *a = calloc(1, sizeof(*a));

        if (!a)
                return error_origin(-ENOMEM);
        a->id = stmt_id(stmt);
        a->task_id = stmt_id(stmt);
        a->number = stmt_u32(stmt);
        a->open = stmt_i64(stmt);
        a->generation = stmt_id(stmt);
        a->started_us = stmt_u64(stmt);
        a->execed_us = stmt_u64(stmt);
        a->finished_us = stmt_u64(stmt);
        a->exit_code = (int32_t)stmt_i64(stmt);
        a->signal = (int32_t)stmt_i64(stmt);
        a->outcome = stmt_str(stmt);
        a->reason = stmt_str(stmt);
        a->detail = stmt_str(stmt);
        a->usage = stmt_usage(stmt);
        a->stdout_offset = stmt_u64(stmt);
        a->stderr_offset = stmt_u64(stmt);
        a->stdout_flags = stmt_u32(stmt);
        a->stderr_flags = stmt_u32(stmt);
        a->captured_bytes = stmt_u64(stmt);
        a->memory_peak = stmt_u64(stmt);
        a->cpu_us = stmt_u64(stmt);
        a->oom_kills = stmt_u32(stmt);
        a->session = stmt_str(stmt);
        a->agent = stmt_str(stmt);
        a->gpus = stmt_str(stmt);
        if (stmt->error)
                return stmt->error;
        *ret_attempt = steal_ptr(&a);
        return 0;
}

int store_attempt_load(Store *store, const Id *id, StoreAttempt **ret_attempt) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        bool row;
        int r;

        r = stmt_get(&stmt, store, STMT_ATTEMPT_LOAD, "SELECT " ATTEMPT_COLUMNS ATTEMPT_FROM "WHERE a.id = ?");
        if (r)
                return r;
        stmt_bind_id(&stmt, id);
        r = stmt_step(&stmt, &row);
        if (r)
                return r;
        return row ? attempt_read(&stmt, ret_attempt) : STORE_E_NOT_FOUND;
}

static int attempt_each(Stmt *stmt, StoreAttemptFn fn, void *userdata) {
        for (;;) {
                _cleanup_(store_attempt_freep) StoreAttempt *attempt = NULL;
                bool row;
                int r;

                r = stmt_step(stmt, &row);
                if (r || !row)
                        return r;
                r = attempt_read(stmt, &attempt);
                if (!r)
                        r = fn(attempt, userdata);
                if (r)
                        return r;
        }
}

int store_attempt_list(Store *store, const Id *task_id, StoreAttemptFn fn, void *userdata) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = stmt_get(&stmt, store, STMT_ATTEMPT_LIST, "SELECT " ATTEMPT_COLUMNS ATTEMPT_FROM
                     "WHERE a.task = (SELECT n FROM tasks WHERE id = ?) ORDER BY a.number");
        if (r)
                return r;
        stmt_bind_id(&stmt, task_id);
        return attempt_each(&stmt, fn, userdata);
}

int store_attempt_list_open(Store *store, StoreAttemptFn fn, void *userdata) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = stmt_get(&stmt, store, STMT_ATTEMPT_LIST_OPEN,
                     "SELECT " ATTEMPT_COLUMNS ATTEMPT_FROM "WHERE a.open ORDER BY a.n");
        return r ? r : attempt_each(&stmt, fn, userdata);
}

/* Limits set at run time, and gates: what keeps tasks from being launched, and must outlive a restart. */

#include "base/error.h"
#include "store/internal.h"

#define LIMIT_COLUMNS                                                                                           \
        "kind, name, running, paused, weight, queued, max_tokens_day, max_cost_microusd_day, updated_us, updated_by"

/* ---- limits ---- */

int store_limit_put(Store *store, const StoreLimit *limit) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = store_check_write(store);
        if (!r)
                r = stmt_get(&stmt, store, STMT_LIMIT_PUT,
                             "INSERT OR REPLACE INTO limits (" LIMIT_COLUMNS ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
        if (r)
                return r;
        stmt_bind_str(&stmt, limit->kind);
        stmt_bind_str(&stmt, limit->name);
        stmt_bind_i64(&stmt, limit->running);
        stmt_bind_i64(&stmt, limit->paused);
        stmt_bind_u64(&stmt, limit->weight);
        stmt_bind_i64(&stmt, limit->queued);
        stmt_bind_i64(&stmt, limit->max_tokens_day);
        stmt_bind_i64(&stmt, limit->max_cost_microusd_day);
        stmt_bind_u64(&stmt, limit->updated_us);
        stmt_bind_str(&stmt, limit->updated_by);
        return stmt_run(&stmt);
}

int store_limit_delete(Store *store, const char *kind, const char *name) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = store_check_write(store);
        if (!r)
                r = stmt_get(&stmt, store, STMT_LIMIT_DELETE, "DELETE FROM limits WHERE kind = ? AND name = ?");
        if (r)
                return r;
        stmt_bind_str(&stmt, kind);
        stmt_bind_str(&stmt, name);
        r = stmt_run(&stmt);
        if (r)
                return r;
        return stmt_changes(&stmt) == 1 ? 0 : STORE_E_NOT_FOUND;
}

int store_limit_list(Store *store, StoreLimitFn fn, void *userdata) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = stmt_get(&stmt, store, STMT_LIMIT_LIST, "SELECT " LIMIT_COLUMNS " FROM limits ORDER BY kind, name");
        if (r)
                return r;
        for (;;) {
                StoreLimit limit = {};
                size_t n_text;
                bool row;

                r = stmt_step(&stmt, &row);
                if (r || !row)
                        return r;
                limit.kind = (char *)stmt_peek_text(&stmt, &n_text);
                limit.name = (char *)stmt_peek_text(&stmt, &n_text);
                limit.running = stmt_i64(&stmt);
                limit.paused = stmt_i64(&stmt);
                limit.weight = stmt_u32(&stmt);
                limit.queued = stmt_i64(&stmt);
                limit.max_tokens_day = stmt_i64(&stmt);
                limit.max_cost_microusd_day = stmt_i64(&stmt);
                limit.updated_us = stmt_u64(&stmt);
                limit.updated_by = (char *)stmt_peek_text(&stmt, &n_text);
                if (stmt.error)
                        return stmt.error;
                r = fn(&limit, userdata);
                if (r)
                        return r;
        }
}

/* ---- gates ---- */

int store_gate_put(Store *store, const StoreGate *gate) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = store_check_write(store);
        if (!r)
                r = stmt_get(&stmt, store, STMT_GATE_PUT,
                             "INSERT OR REPLACE INTO gates (account, until_us, reason) VALUES (?, ?, ?)");
        if (r)
                return r;
        stmt_bind_str(&stmt, gate->account);
        stmt_bind_u64(&stmt, gate->until_us);
        stmt_bind_str(&stmt, gate->reason);
        return stmt_run(&stmt);
}

int store_gate_delete(Store *store, const char *account) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = store_check_write(store);
        if (!r)
                r = stmt_get(&stmt, store, STMT_GATE_DELETE, "DELETE FROM gates WHERE account = ?");
        if (r)
                return r;
        stmt_bind_str(&stmt, account);
        r = stmt_run(&stmt);
        if (r)
                return r;
        return stmt_changes(&stmt) == 1 ? 0 : STORE_E_NOT_FOUND;
}

int store_gate_list(Store *store, StoreGateFn fn, void *userdata) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = stmt_get(&stmt, store, STMT_GATE_LIST, "SELECT account, until_us, reason FROM gates ORDER BY account");
        if (r)
                return r;
        for (;;) {
                StoreGate gate = {};
                size_t n_text;
                bool row;

                r = stmt_step(&stmt, &row);
                if (r || !row)
                        return r;
                gate.account = (char *)stmt_peek_text(&stmt, &n_text);
                gate.until_us = stmt_u64(&stmt);
                gate.reason = (char *)stmt_peek_text(&stmt, &n_text);
                if (stmt.error)
                        return stmt.error;
                r = fn(&gate, userdata);
                if (r)
                        return r;
        }
}

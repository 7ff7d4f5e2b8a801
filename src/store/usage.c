/*
 * What was used: a row a day, principal, agent and batch, to which each attempt adds.
 *
 * The numbers come from workers, which may say anything: a sum stops at STORE_USAGE_MAX, and a listing adds the rows up
 * as floating point, which does not overflow and is exact up to there.
 */

#include "base/error.h"
#include "store/internal.h"

#define USAGE_ADD(column)                                                                                       \
        column " = CASE WHEN excluded." column " < 0 THEN " column                                              \
        " ELSE min(max(" column ", 0) + excluded." column ", ?11) END, "
#define USAGE_SUM(column)                                                                                       \
        "CASE WHEN max(" column ") < 0 THEN -1 ELSE CAST(min(total(max(" column ", 0)), ?4) AS INTEGER) END, "

int store_usage_add(Store *store, uint32_t day, const char *principal, const char *agent, const Id *batch,
                    const StoreUsage *usage, uint32_t n_attempts) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        StoreUsage bounded = {
                .input_tokens = usage_value(usage->input_tokens),
                .cached_input_tokens = usage_value(usage->cached_input_tokens),
                .output_tokens = usage_value(usage->output_tokens),
                .reasoning_tokens = usage_value(usage->reasoning_tokens),
                .cost_microusd = usage_value(usage->cost_microusd),
        };
        bool has_batch = batch && !id_is_null(batch);
        int r;

        r = store_check_write(store);
        if (!r)
                r = stmt_get(&stmt, store, STMT_USAGE_ADD,
                             "INSERT INTO usage (day, principal, agent, batch, " STMT_USAGE_COLUMNS ", n_attempts) "
                             "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) "
                             "ON CONFLICT (day, principal, agent, batch) DO UPDATE SET "
                             USAGE_ADD("input_tokens") USAGE_ADD("cached_input_tokens") USAGE_ADD("output_tokens")
                             USAGE_ADD("reasoning_tokens") USAGE_ADD("cost_microusd")
                             "n_attempts = n_attempts + excluded.n_attempts");
        if (r)
                return r;
        stmt_bind_u64(&stmt, day);
        stmt_bind_str(&stmt, principal);
        stmt_bind_str(&stmt, agent);
        stmt_bind_blob(&stmt, has_batch ? (const char *)batch->bytes : "", has_batch ? sizeof(batch->bytes) : 0);
        stmt_bind_usage(&stmt, &bounded);
        stmt_bind_u64(&stmt, n_attempts);
        stmt_bind_i64(&stmt, STORE_USAGE_MAX);
        return stmt_run(&stmt);
}

int store_usage_list(Store *store, StoreUsageBy by, uint32_t from_day, uint32_t to_day, const char *principal,
                     StoreUsageFn fn, void *userdata) {
        static const char *const columns[] = {
                [STORE_BY_PRINCIPAL] = "principal",
                [STORE_BY_AGENT] = "agent",
                [STORE_BY_BATCH] = "batch",
                [STORE_BY_DAY] = "day",
        };
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        _cleanup_(sqlite3_freep) char *sql = NULL;
        int r;

        if (by >= ELEMENTSOF(columns))
                return error_origin(-EINVAL);
        sql = sqlite3_mprintf("SELECT %s, "
                              USAGE_SUM("input_tokens") USAGE_SUM("cached_input_tokens") USAGE_SUM("output_tokens")
                              USAGE_SUM("reasoning_tokens") USAGE_SUM("cost_microusd")
                              "sum(n_attempts) FROM usage "
                              "WHERE day BETWEEN ?1 AND ?2 AND (?3 IS NULL OR principal = ?3) GROUP BY %s ORDER BY %s",
                              by == STORE_BY_DAY ? "date(day * 86400, 'unixepoch')" : columns[by], columns[by],
                              columns[by]);
        if (!sql)
                return error_origin(-ENOMEM);
        r = stmt_get(&stmt, store, STMT_UNCACHED, sql);
        if (r)
                return r;
        stmt_bind_u64(&stmt, from_day);
        stmt_bind_u64(&stmt, to_day);
        stmt_bind_str(&stmt, principal);
        stmt_bind_i64(&stmt, STORE_USAGE_MAX);
        for (;;) {
                char batch[ID_TEXT_MAX] = "";
                const char *key = batch;
                StoreUsage sum;
                size_t n_key;
                bool row;

                r = stmt_step(&stmt, &row);
                if (r || !row)
                        return r;
                if (by == STORE_BY_BATCH) {
                        Id id = stmt_id(&stmt);

                        if (!id_is_null(&id))
                                id_format(&id, batch);
                } else {
                        key = stmt_peek_text(&stmt, &n_key);
                }
                sum = stmt_usage(&stmt);
                if (stmt.error)
                        return stmt.error;
                r = fn(key, &sum, stmt_u64(&stmt), userdata);
                if (r)
                        return r;
        }
}

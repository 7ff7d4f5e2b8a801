#include "base/clock.h"
#include "base/error.h"
#include "store/internal.h"

StoreIdempotency *store_idempotency_free(StoreIdempotency *i) {
        if (!i)
                return NULL;
        free(i->principal);
        free(i->key);
        free(i->body);
        free(i->location);
        free(i);
        return NULL;
}

int store_idempotency_insert(Store *store, const StoreIdempotency *i) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = store_check_insert(store);
        if (!r)
                r = stmt_get(
                        &stmt, store, STMT_IDEMPOTENCY_INSERT,
                        "INSERT INTO idempotency (principal, key, request_hash, status, body, location, expires_us) "
                        "VALUES (?, ?, ?, ?, ?, ?, ?) "
                        /* One that has expired, and was not pruned yet, is as good as none. */
                        "ON CONFLICT (principal, key) DO UPDATE SET request_hash = excluded.request_hash, "
                        "status = excluded.status, body = excluded.body, location = excluded.location, "
                        "expires_us = excluded.expires_us WHERE expires_us <= ?");
        if (r)
                return r;
        stmt_bind_str(&stmt, i->principal);
        stmt_bind_str(&stmt, i->key);
        stmt_bind_blob(&stmt, i->request_hash, sizeof(i->request_hash));
        stmt_bind_u64(&stmt, i->status);
        stmt_bind_blob(&stmt, i->body ?: "", i->n_body);
        stmt_bind_str(&stmt, i->location);
        stmt_bind_u64(&stmt, i->expires_us);
        stmt_bind_u64(&stmt, clock_realtime_us());
        r = stmt_run(&stmt);
        if (r)
                return r;
        return stmt_changes(&stmt) == 1 ? 0 : STORE_E_EXISTS;
}

int store_idempotency_find(Store *store, const char *principal, const char *key, uint64_t now_us,
                           StoreIdempotency **ret_i) {
        _cleanup_(store_idempotency_freep) StoreIdempotency *i = NULL;
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        bool row;
        int r;

        r = stmt_get(&stmt, store, STMT_IDEMPOTENCY_FIND,
                     "SELECT principal, key, request_hash, status, body, location, expires_us FROM idempotency "
                     "WHERE principal = ? AND key = ? AND expires_us > ?");
        if (r)
                return r;
        stmt_bind_str(&stmt, principal);
        stmt_bind_str(&stmt, key);
        stmt_bind_u64(&stmt, now_us);
        r = stmt_step(&stmt, &row);
        if (r)
                return r;
        if (!row)
                return STORE_E_NOT_FOUND;
        i = calloc(1, sizeof(*i));
        if (!i)
                return error_origin(-ENOMEM);
        i->principal = stmt_str(&stmt);
        i->key = stmt_str(&stmt);
        if (!stmt_fixed_blob(&stmt, i->request_hash, sizeof(i->request_hash)))
                return error_origin(-EIO);
        i->status = stmt_u32(&stmt);
        i->body = stmt_bytes(&stmt, &i->n_body);
        i->location = stmt_str(&stmt);
        i->expires_us = stmt_u64(&stmt);
        if (stmt.error)
                return stmt.error;
        *ret_i = steal_ptr(&i);
        return 0;
}

int store_idempotency_prune(Store *store, uint64_t now_us, size_t limit) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = store_check_write(store);
        if (!r)
                r = stmt_get(&stmt, store, STMT_IDEMPOTENCY_PRUNE,
                             "DELETE FROM idempotency WHERE rowid IN "
                             "(SELECT rowid FROM idempotency WHERE expires_us <= ? ORDER BY expires_us LIMIT ?)");
        if (r)
                return r;
        stmt_bind_u64(&stmt, now_us);
        stmt_bind_u64(&stmt, limit);
        return stmt_run(&stmt);
}

#include "base/error.h"
#include "store/internal.h"

#define KEY_COLUMNS "id, name, hash, role, run_as_uid, created_us, revoked_us, created_by"

StoreKey *store_key_free(StoreKey *key) {
        if (!key)
                return NULL;
        free(key->name);
        free(key->role);
        free(key->created_by);
        free(key);
        return NULL;
}

int store_key_insert(Store *store, const StoreKey *key) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = store_check_insert(store);
        if (!r)
                r = stmt_get(&stmt, store, STMT_KEY_INSERT,
                             "INSERT INTO keys (" KEY_COLUMNS ") VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
        if (r)
                return r;
        stmt_bind_id(&stmt, &key->id);
        stmt_bind_str(&stmt, key->name);
        stmt_bind_blob(&stmt, key->hash, sizeof(key->hash));
        stmt_bind_str(&stmt, key->role);
        stmt_bind_i64(&stmt, key->run_as_uid);
        stmt_bind_u64(&stmt, key->created_us);
        stmt_bind_u64(&stmt, key->revoked_us);
        stmt_bind_str(&stmt, key->created_by);
        return stmt_run(&stmt);
}

static int key_read(Stmt *stmt, StoreKey **ret_key) {
        _cleanup_(store_key_freep) StoreKey *key = calloc(1, sizeof(*key));

        if (!key)
                return error_origin(-ENOMEM);
        key->id = stmt_id(stmt);
        key->name = stmt_str(stmt);
        if (!stmt_fixed_blob(stmt, key->hash, sizeof(key->hash)))
                return error_origin(-EIO);
        key->role = stmt_str(stmt);
        key->run_as_uid = stmt_i64(stmt);
        key->created_us = stmt_u64(stmt);
        key->revoked_us = stmt_u64(stmt);
        key->created_by = stmt_str(stmt);
        if (stmt->error)
                return stmt->error;
        *ret_key = steal_ptr(&key);
        return 0;
}

int store_key_find(Store *store, const uint8_t hash[static 32], StoreKey **ret_key) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        bool row;
        int r;

        r = stmt_get(&stmt, store, STMT_KEY_FIND, "SELECT " KEY_COLUMNS " FROM keys WHERE hash = ? AND revoked_us = 0");
        if (r)
                return r;
        stmt_bind_blob(&stmt, hash, 32);
        r = stmt_step(&stmt, &row);
        if (r)
                return r;
        return row ? key_read(&stmt, ret_key) : STORE_E_NOT_FOUND;
}

int store_key_revoke(Store *store, const char *name, uint64_t at_us) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = store_check_write(store);
        if (!r)
                r = stmt_get(&stmt, store, STMT_KEY_REVOKE,
                             "UPDATE keys SET revoked_us = ? WHERE name = ? AND revoked_us = 0");
        if (r)
                return r;
        stmt_bind_u64(&stmt, at_us);
        stmt_bind_str(&stmt, name);
        r = stmt_run(&stmt);
        if (r)
                return r;
        return stmt_changes(&stmt) > 0 ? 0 : STORE_E_NOT_FOUND;
}

int store_key_list(Store *store, StoreKeyFn fn, void *userdata) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = stmt_get(&stmt, store, STMT_KEY_LIST, "SELECT " KEY_COLUMNS " FROM keys ORDER BY n");
        if (r)
                return r;
        for (;;) {
                _cleanup_(store_key_freep) StoreKey *key = NULL;
                bool row;

                r = stmt_step(&stmt, &row);
                if (r || !row)
                        return r;
                r = key_read(&stmt, &key);
                if (!r)
                        r = fn(key, userdata);
                if (r)
                        return r;
        }
}

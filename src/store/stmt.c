#include "base/error.h"
#include "store/internal.h"

/* A fatal error inside a request undoes the request, whatever its caller makes of it. */
static int stmt_fatal(Store *store, int error) {
        if (store->in_request && !store->request_error)
                store->request_error = error;
        return error < 0 ? error_origin(error) : error;
}

static int stmt_map_error(Store *store, int code) {
        int r;

        switch (code & 0xff) {
        case SQLITE_CONSTRAINT:
                return code == SQLITE_CONSTRAINT_FOREIGNKEY ? STORE_E_NOT_FOUND :
                       code == SQLITE_CONSTRAINT_UNIQUE || code == SQLITE_CONSTRAINT_PRIMARYKEY ? STORE_E_EXISTS :
                       stmt_fatal(store, -EINVAL);
        case SQLITE_FULL:
                r = stmt_fatal(store, STORE_E_FULL);
                break;
        case SQLITE_NOMEM:
                r = stmt_fatal(store, -ENOMEM);
                break;
        case SQLITE_TOOBIG:
                r = stmt_fatal(store, -EMSGSIZE);
                break;
        case SQLITE_BUSY:
        case SQLITE_LOCKED:
                r = stmt_fatal(store, -EBUSY);
                break;
        case SQLITE_CORRUPT:
        case SQLITE_NOTADB:
                r = stmt_fatal(store, -EIO);
                store_fail(store, "%s is damaged (%s): stop the service and restore the database from a backup",
                           store->path, sqlite3_errmsg(store->db));
                break;
        default:
                r = stmt_fatal(store, -EIO);
                break;
        }
        /* SQLite undoes the whole transaction for some errors; the other requests of the batch are then lost too. */
        if (store->txn_open && sqlite3_get_autocommit(store->db))
                store_fail(store, "a transaction on %s was undone: %s", store->path, sqlite3_errmsg(store->db));
        return r;
}

int stmt_get(Stmt *stmt, Store *store, StmtSlot slot, const char *sql) {
        sqlite3_stmt *s = slot == STMT_UNCACHED ? NULL : store->stmts[slot];
        unsigned flags = slot == STMT_UNCACHED ? 0 : SQLITE_PREPARE_PERSISTENT;
        int r;

        if (!s || sqlite3_stmt_busy(s)) {
                sqlite3_stmt *busy = s;

                r = sqlite3_prepare_v3(store->db, sql, -1, flags, &s, NULL);
                if (r != SQLITE_OK)
                        return stmt_map_error(store, sqlite3_extended_errcode(store->db));
                if (busy)
                        slot = STMT_UNCACHED;
                else if (slot != STMT_UNCACHED)
                        store->stmts[slot] = s;
        }
        *stmt = (Stmt){ .store = store, .sqlite = s, .slot = slot };
        return 0;
}

void stmt_reset(Stmt *stmt) {
        sqlite3_reset(stmt->sqlite);
        sqlite3_clear_bindings(stmt->sqlite);
        stmt->error = stmt->n_bound = stmt->n_read = 0;
}

void stmt_put(Stmt *stmt) {
        if (!stmt->sqlite)
                return;
        if (stmt->slot == STMT_UNCACHED)
                sqlite3_finalize(stmt->sqlite);
        else
                stmt_reset(stmt);
        *stmt = (Stmt)STMT_NULL;
}

int stmt_step(Stmt *stmt, bool *ret_row) {
        int r;

        if (stmt->error)
                return stmt->error;
        r = sqlite3_step(stmt->sqlite);
        if (r != SQLITE_ROW && r != SQLITE_DONE)
                return stmt->error = stmt_map_error(stmt->store, sqlite3_extended_errcode(stmt->store->db));
        stmt->n_read = 0;
        *ret_row = r == SQLITE_ROW;
        return 0;
}

int stmt_run(Stmt *stmt) {
        bool row;
        int r = stmt_step(stmt, &row);

        if (r)
                return r;
        if (!sqlite3_stmt_readonly(stmt->sqlite))
                stmt->store->stats.n_rows += stmt_changes(stmt);
        return 0;
}

size_t stmt_changes(const Stmt *stmt) {
        return (size_t)sqlite3_changes64(stmt->store->db);
}

static void stmt_bound(Stmt *stmt, int code) {
        if (code != SQLITE_OK && !stmt->error)
                stmt->error = stmt_map_error(stmt->store, code);
}

void stmt_bind_i64(Stmt *stmt, int64_t v) {
        stmt_bound(stmt, sqlite3_bind_int64(stmt->sqlite, ++stmt->n_bound, v));
}

void stmt_bind_u64(Stmt *stmt, uint64_t v) {
        stmt_bind_i64(stmt, (int64_t)MIN(v, (uint64_t)INT64_MAX));
}

void stmt_bind_id(Stmt *stmt, const Id *id) {
        if (id && id_is_null(id))
                id = NULL;
        stmt_bind_blob(stmt, id ? id->bytes : NULL, sizeof(id->bytes));
}

void stmt_bind_str(Stmt *stmt, const char *s) {
        stmt_bind_text(stmt, s, s ? strlen(s) : 0);
}

void stmt_bind_text(Stmt *stmt, const char *s, size_t n) {
        stmt->store->batch_bytes += n;
        stmt_bound(stmt, sqlite3_bind_text64(stmt->sqlite, ++stmt->n_bound, s, n, SQLITE_STATIC, SQLITE_UTF8));
}

void stmt_bind_blob(Stmt *stmt, const void *data, size_t n) {
        stmt->store->batch_bytes += data ? n : 0;
        stmt_bound(stmt, sqlite3_bind_blob64(stmt->sqlite, ++stmt->n_bound, data, n, SQLITE_STATIC));
}

void stmt_bind_usage(Stmt *stmt, const StoreUsage *usage) {
        stmt_bind_i64(stmt, usage->input_tokens);
        stmt_bind_i64(stmt, usage->cached_input_tokens);
        stmt_bind_i64(stmt, usage->output_tokens);
        stmt_bind_i64(stmt, usage->reasoning_tokens);
        stmt_bind_i64(stmt, usage->cost_microusd);
}

int64_t stmt_i64(Stmt *stmt) {
        return sqlite3_column_int64(stmt->sqlite, stmt->n_read++);
}

uint64_t stmt_u64(Stmt *stmt) {
        return (uint64_t)stmt_i64(stmt);
}

uint32_t stmt_u32(Stmt *stmt) {
        return (uint32_t)stmt_i64(stmt);
}

Id stmt_id(Stmt *stmt) {
        Id id = {};

        (void)stmt_fixed_blob(stmt, id.bytes, sizeof(id.bytes));
        return id;
}

const char *stmt_peek_text(Stmt *stmt, size_t *ret_n) {
        int column = stmt->n_read++;
        const char *s = (const char *)sqlite3_column_text(stmt->sqlite, column);

        if (!s && sqlite3_column_type(stmt->sqlite, column) != SQLITE_NULL && !stmt->error)
                stmt->error = stmt_fatal(stmt->store, -ENOMEM);
        *ret_n = s ? (size_t)sqlite3_column_bytes(stmt->sqlite, column) : 0;
        return s;
}

/* An empty blob is not NULL, though SQLite's pointer to it is. */
const char *stmt_peek_blob(Stmt *stmt, size_t *ret_n) {
        int column = stmt->n_read++;
        const char *s = sqlite3_column_blob(stmt->sqlite, column);

        *ret_n = s ? (size_t)sqlite3_column_bytes(stmt->sqlite, column) : 0;
        return !s && sqlite3_column_type(stmt->sqlite, column) == SQLITE_BLOB ? "" : s;
}

static char *stmt_copy(Stmt *stmt, const char *s, size_t n) {
        char *copy;

        if (!s)
                return NULL;
        copy = malloc(n + 1);
        if (!copy) {
                if (!stmt->error)
                        stmt->error = stmt_fatal(stmt->store, -ENOMEM);
                return NULL;
        }
        memcpy(copy, s, n);
        copy[n] = 0;
        return copy;
}

char *stmt_str(Stmt *stmt) {
        size_t n;
        const char *s = stmt_peek_text(stmt, &n);

        return stmt_copy(stmt, s, n);
}

char *stmt_bytes(Stmt *stmt, size_t *ret_n) {
        size_t n;
        const char *s = stmt_peek_blob(stmt, &n);
        char *copy = stmt_copy(stmt, s, n);

        *ret_n = copy ? n : 0;
        return copy;
}

bool stmt_fixed_blob(Stmt *stmt, void *ret_data, size_t n) {
        size_t n_stored;
        const char *s = stmt_peek_blob(stmt, &n_stored);

        if (!s || n_stored != n)
                return false;
        memcpy(ret_data, s, n);
        return true;
}

StoreUsage stmt_usage(Stmt *stmt) {
        StoreUsage usage;

        usage.input_tokens = stmt_i64(stmt);
        usage.cached_input_tokens = stmt_i64(stmt);
        usage.output_tokens = stmt_i64(stmt);
        usage.reasoning_tokens = stmt_i64(stmt);
        usage.cost_microusd = stmt_i64(stmt);
        return usage;
}

int store_exec(Store *store, const char *sql) {
        int r = sqlite3_exec(store->db, sql, NULL, NULL, NULL);

        return r == SQLITE_OK ? 0 : stmt_map_error(store, sqlite3_extended_errcode(store->db));
}

int store_query_u64(Store *store, const char *sql, uint64_t *ret_v) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        bool row;
        int r;

        r = stmt_get(&stmt, store, STMT_UNCACHED, sql);
        if (!r)
                r = stmt_step(&stmt, &row);
        if (r)
                return r;
        *ret_v = row ? stmt_u64(&stmt) : 0;
        return 0;
}

#include "base/error.h"
#include "store/internal.h"

int store_event_append(Store *store, const Id *task_id, const StoreEvent *event, uint64_t *ret_seq) {
        _cleanup_(stmt_put) Stmt find = STMT_NULL, append = STMT_NULL;
        uint64_t task, seq;
        bool row;
        int r;

        r = store_check_write(store);
        if (!r)
                r = stmt_get(&find, store, STMT_EVENT_FIND,
                             "SELECT n, (SELECT max(seq) FROM events WHERE task = tasks.n) FROM tasks WHERE id = ?");
        if (r)
                return r;
        stmt_bind_id(&find, task_id);
        r = stmt_step(&find, &row);
        if (r)
                return r;
        if (!row)
                return STORE_E_NOT_FOUND;
        task = stmt_u64(&find);
        seq = stmt_u64(&find) + 1;

        r = stmt_get(&append, store, STMT_EVENT_APPEND,
                     "INSERT INTO events (task, seq, attempt, at_us, type, data, raw, stream) "
                     "VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
        if (r)
                return r;
        stmt_bind_u64(&append, task);
        stmt_bind_u64(&append, seq);
        stmt_bind_u64(&append, event->attempt);
        stmt_bind_u64(&append, event->at_us);
        stmt_bind_str(&append, event->type);
        stmt_bind_text(&append, event->data, event->n_data);
        stmt_bind_blob(&append, event->raw, event->n_raw);
        stmt_bind_u64(&append, event->stream);
        r = stmt_run(&append);
        if (r)
                return r;
        *ret_seq = seq;
        return 0;
}

static int event_read(Stmt *stmt, StoreEvent *ret_event) {
        size_t n_type;

        *ret_event = (StoreEvent){};
        ret_event->seq = stmt_u64(stmt);
        ret_event->attempt = stmt_u32(stmt);
        ret_event->at_us = stmt_u64(stmt);
        ret_event->type = stmt_peek_text(stmt, &n_type);
        ret_event->data = stmt_peek_text(stmt, &ret_event->n_data);
        ret_event->raw = stmt_peek_blob(stmt, &ret_event->n_raw);
        ret_event->stream = stmt_u32(stmt);
        return stmt->error;
}

int store_event_list(Store *store, const Id *task_id, uint64_t after, size_t limit, StoreEventFn fn, void *userdata) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = stmt_get(&stmt, store, STMT_EVENT_LIST,
                     "SELECT seq, attempt, at_us, type, data, raw, stream FROM events "
                     "WHERE task = (SELECT n FROM tasks WHERE id = ?) AND seq > ? ORDER BY seq LIMIT ?");
        if (r)
                return r;
        stmt_bind_id(&stmt, task_id);
        stmt_bind_u64(&stmt, after);
        stmt_bind_u64(&stmt, limit);
        for (;;) {
                StoreEvent event;
                bool row;

                r = stmt_step(&stmt, &row);
                if (r || !row)
                        return r;
                r = event_read(&stmt, &event);
                if (!r)
                        r = fn(&event, userdata);
                if (r)
                        return r;
        }
}

int store_event_list_all(Store *store, uint64_t after, const char *principal, size_t limit, StoreEventAllFn fn,
                         void *userdata, uint64_t *ret_after) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        size_t n_listed = 0, n_examined = 0;
        int r;

        r = stmt_get(&stmt, store, STMT_EVENT_LIST_ALL,
                     "SELECT e.n, t.id, ?2 IS NULL OR t.principal = ?2, seq, attempt, at_us, type, data, raw, stream "
                     "FROM events e CROSS JOIN tasks t ON t.n = e.task WHERE e.n > ?1 ORDER BY e.n");
        if (r)
                return r;
        stmt_bind_u64(&stmt, after);
        stmt_bind_str(&stmt, principal);
        while (n_listed < limit && n_examined < STORE_EXAMINE_MAX) {
                StoreEvent event;
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
                        r = event_read(&stmt, &event);
                        if (!r)
                                r = fn(n, &id, &event, userdata);
                        if (r)
                                return r;
                } else
                        n_examined++;
                after = n;
        }
        *ret_after = after;
        return 0;
}

int store_event_last(Store *store, uint64_t *ret_n) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        bool row;
        int r;

        r = stmt_get(&stmt, store, STMT_EVENT_LAST, "SELECT max(n) FROM events");
        if (!r)
                r = stmt_step(&stmt, &row);
        if (r)
                return r;
        *ret_n = row ? stmt_u64(&stmt) : 0;
        return 0;
}

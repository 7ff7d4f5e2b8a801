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
                size_t n_type;
                bool row;

                r = stmt_step(&stmt, &row);
                if (r || !row)
                        return r;
                event.seq = stmt_u64(&stmt);
                event.attempt = stmt_u32(&stmt);
                event.at_us = stmt_u64(&stmt);
                event.type = stmt_peek_text(&stmt, &n_type);
                event.data = stmt_peek_text(&stmt, &event.n_data);
                event.raw = stmt_peek_blob(&stmt, &event.n_raw);
                event.stream = stmt_u32(&stmt);
                if (stmt.error)
                        return stmt.error;
                r = fn(&event, userdata);
                if (r)
                        return r;
        }
}

#include "base/error.h"
#include "store/internal.h"

int store_dependency_insert(Store *store, const Id *task, const Id *on, StoreCondition condition) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = store_check_insert(store);
        if (!r)
                r = stmt_get(&stmt, store, STMT_DEPENDENCY_INSERT,
                             "INSERT INTO dependencies (condition, task, on_task) "
                             "SELECT ?, a.n, b.n FROM tasks a, tasks b WHERE a.id = ? AND b.id = ?");
        if (r)
                return r;
        stmt_bind_i64(&stmt, condition);
        stmt_bind_id(&stmt, task);
        stmt_bind_id(&stmt, on);
        r = stmt_run(&stmt);
        if (r)
                return r;
        return stmt_changes(&stmt) == 1 ? 0 : STORE_E_NOT_FOUND;
}

int store_dependency_list(Store *store, const Id *task, StoreDependencyFn fn, void *userdata) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = stmt_get(&stmt, store, STMT_DEPENDENCY_LIST,
                     "SELECT t.id, t.state, d.condition FROM dependencies d CROSS JOIN tasks t ON t.n = d.on_task "
                     "WHERE d.task = (SELECT n FROM tasks WHERE id = ?) ORDER BY d.on_task");
        if (r)
                return r;
        stmt_bind_id(&stmt, task);
        for (;;) {
                TaskState state;
                bool row;
                Id on;

                r = stmt_step(&stmt, &row);
                if (r || !row)
                        return r;
                on = stmt_id(&stmt);
                state = (TaskState)stmt_i64(&stmt);
                r = fn(&on, state, (StoreCondition)stmt_i64(&stmt), userdata);
                if (r)
                        return r;
        }
}

int store_dependant_list(Store *store, const Id *on, StoreDependantFn fn, void *userdata) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r;

        r = stmt_get(&stmt, store, STMT_DEPENDANT_LIST,
                     "SELECT t.id, d.condition FROM dependencies d CROSS JOIN tasks t ON t.n = d.task "
                     "WHERE d.on_task = (SELECT n FROM tasks WHERE id = ?) AND t.state = ? ORDER BY d.task");
        if (r)
                return r;
        stmt_bind_id(&stmt, on);
        stmt_bind_i64(&stmt, TASK_BLOCKED);
        for (;;) {
                bool row;
                Id task;

                r = stmt_step(&stmt, &row);
                if (r || !row)
                        return r;
                task = stmt_id(&stmt);
                r = fn(&task, (StoreCondition)stmt_i64(&stmt), userdata);
                if (r)
                        return r;
        }
}

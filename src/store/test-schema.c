/* A database of the first schema, with rows in it, opens: they are as they were, and what is new has its default. */

#include "store/test-util.h"

/* An empty store of schema 1, as its program left it. */
static void make_first(Fixture *f) {
        assert_int_equal(store_exec(f->store, "PRAGMA foreign_keys = OFF"), 0);
        for (;;) {
                _cleanup_(sqlite3_freep) char *sql = NULL;
                _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
                size_t n;
                bool row;

                assert_int_equal(stmt_get(&stmt, f->store, STMT_UNCACHED,
                                          "SELECT name FROM sqlite_schema WHERE type = 'table' LIMIT 1"), 0);
                assert_int_equal(stmt_step(&stmt, &row), 0);
                if (!row)
                        break;
                sql = sqlite3_mprintf("DROP TABLE %s", stmt_peek_text(&stmt, &n));
                stmt_put(&stmt);
                assert_int_equal(store_exec(f->store, sql), 0);
        }
        assert_int_equal(store_exec(f->store, store_schema_migration(1)), 0);
        assert_int_equal(store_exec(f->store, "PRAGMA user_version = 1"), 0);
}

static int attempt_fn(const StoreAttempt *attempt, void *userdata) {
        assert_int_equal(attempt->number, 1);
        assert_int_equal(attempt->stdout_offset, 16);
        assert_string_equal(attempt->session, "s");
        assert_null(attempt->agent);
        (*(size_t *)userdata)++;
        return 0;
}

static int event_fn(const StoreEvent *event, void *userdata) {
        assert_string_equal(event->type, "text");
        (*(size_t *)userdata)++;
        return 0;
}

static int live_fn(const StoreTask *task, void *userdata) {
        assert_int_equal(task->state, TASK_QUEUED);
        assert_int_equal(task->ready_us, 14);
        (*(size_t *)userdata)++;
        return 0;
}

static void test_first_to_newest(void **state) {
        static const char *const rows =
                "INSERT INTO tasks VALUES (1, x'01020304050607080900010203040506', 'uid:1', 7, 1, 'codex', 'm', 50, '/w',"
                "  '{}', 11, 14, 13, 14, 15, 16, 2, 3, 17, 1, 'r', 'd', 1, 1, 2, 3, 4, 5);"
                "INSERT INTO tasks VALUES (2, x'02020304050607080900010203040506', 'uid:1', 7, 4, 'codex', NULL, 50,"
                "  NULL, NULL, 11, 12, 13, 14, 15, 16, 2, 3, 17, 1, 'r', 'd', 1, 1, 2, 3, 4, 5);"
                "INSERT INTO prompts VALUES (1, x'6869');"
                "INSERT INTO results VALUES (2, x'796f');"
                "INSERT INTO attempts VALUES (1, x'03020304050607080900010203040506', 2, 1, 0, NULL, 1, 2, 3, 0, 0,"
                "  'succeeded', NULL, NULL, 1, 2, 3, 4, 5, 16, 0, 0, 0, 0, 0, 0, 0, 's');"
                "INSERT INTO events VALUES (1, 2, 1, 1, 5, 'text', '{}', NULL, 1);"
                "INSERT INTO keys VALUES (1, x'04020304050607080900010203040506', 'ci', zeroblob(32), 'admin', -1, 1, 0,"
                "  'uid:0');";
        const Id live = { { 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6 } };
        const Id ended = { { 2, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6 } };
        const uint8_t hash[32] = {};
        _cleanup_(store_task_freep) StoreTask *a = NULL, *b = NULL;
        _cleanup_(store_key_freep) StoreKey *key = NULL;
        uint64_t counts[_TASK_STATE_N], version;
        char refused[STORE_REFUSED_MAX] = "";
        Fixture *f = *state;
        size_t n = 0;

        make_first(f);
        assert_int_equal(store_exec(f->store, rows), 0);
        fixture_close(f);
        fixture_open(f);
        assert_int_equal(store_query_u64(f->store, "PRAGMA user_version", &version), 0);
        assert_int_equal(version, store_schema_version());

        assert_int_equal(store_task_load(f->store, &live, STORE_TASK_PROMPT | STORE_TASK_RESULT, &a), 0);
        assert_string_equal(a->principal, "uid:1");
        assert_int_equal(a->run_as_uid, 7);
        assert_string_equal(a->model, "m");
        assert_string_equal(a->workspace, "/w");
        assert_int_equal(a->timeout_us, 11);
        assert_int_equal(a->backoff_us, 17);
        assert_true(a->cancel_requested);
        assert_int_equal(a->usage.cost_microusd, 5);
        assert_string_equal(a->prompt, "hi");
        assert_null(a->result);
        assert_null(a->candidates);
        assert_null(a->group);
        assert_true(id_is_null(&a->batch));
        assert_int_equal(a->gpus, 0);
        assert_int_equal(a->cpus_milli, 0);
        assert_int_equal(a->memory, 0);
        assert_int_equal(a->max_tokens, 0);
        assert_int_equal(a->max_cost_microusd, 0);
        assert_int_equal(a->deadline_us, 0);
        assert_int_equal(a->n_blockers, 0);
        assert_int_equal(a->on_unmet, STORE_UNMET_CANCEL);
        assert_int_equal(a->ready_us, 14);      /* queued since its delay was over */
        assert_int_equal(store_task_load(f->store, &ended, STORE_TASK_RESULT, &b), 0);
        assert_string_equal(b->result, "yo");
        assert_int_equal(b->ready_us, 0);
        assert_int_equal(b->last_seq, 1);
        assert_int_equal(store_task_count(f->store, counts), 0);
        assert_int_equal(counts[TASK_QUEUED], 1);
        assert_int_equal(counts[TASK_SUCCEEDED], 1);
        assert_int_equal(store_attempt_list(f->store, &ended, attempt_fn, &n), 0);
        assert_int_equal(store_event_list(f->store, &ended, 0, 10, event_fn, &n), 0);
        assert_int_equal(store_task_list_live(f->store, live_fn, &n), 0);
        assert_int_equal(n, 3);
        assert_int_equal(store_key_find(f->store, hash, &key), 0);

        /* And they are written to as any other. */
        a->state = TASK_RUNNING;
        a->n_blockers = 3;
        begin(f);
        assert_int_equal(store_task_update(f->store, a), 0);
        assert_int_equal(store_dependency_insert(f->store, &live, &ended, STORE_ON_SUCCESS), 0);
        end(f);
        assert_int_equal(fixture_wait(f), 0);
        assert_int_equal(store_verify(f->store, refused), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_first_to_newest, fixture_setup, fixture_teardown),
        };

        if (skip_without_io_uring())
                return 0;
        return cmocka_run_group_tests_name("store-schema", tests, NULL, NULL);
}

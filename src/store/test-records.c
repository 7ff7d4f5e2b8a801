/* Every record comes back as it went in, with all members set and with all that may be NULL; lists, pages, filters. */

#include "base/clock.h"
#include "store/test-util.h"

#define assert_str(a, b) do {                           \
        const char *_a = (a), *_b = (b);                \
        assert_true(!_a == !_b);                        \
        if (_a)                                         \
                assert_string_equal(_a, _b);            \
} while (0)

static void assert_usage(const StoreUsage *a, const StoreUsage *b) {
        assert_int_equal(a->input_tokens, b->input_tokens);
        assert_int_equal(a->cached_input_tokens, b->cached_input_tokens);
        assert_int_equal(a->output_tokens, b->output_tokens);
        assert_int_equal(a->reasoning_tokens, b->reasoning_tokens);
        assert_int_equal(a->cost_microusd, b->cost_microusd);
}

static void assert_task(const StoreTask *a, const StoreTask *b) {
        assert_memory_equal(&a->id, &b->id, sizeof(a->id));
        assert_str(a->principal, b->principal);
        assert_int_equal(a->run_as_uid, b->run_as_uid);
        assert_int_equal(a->state, b->state);
        assert_str(a->agent, b->agent);
        assert_str(a->candidates, b->candidates);
        assert_str(a->model, b->model);
        assert_int_equal(a->priority, b->priority);
        assert_str(a->workspace, b->workspace);
        assert_str(a->request, b->request);
        assert_memory_equal(&a->batch, &b->batch, sizeof(a->batch));
        assert_str(a->group, b->group);
        assert_int_equal(a->gpus, b->gpus);
        assert_int_equal(a->cpus_milli, b->cpus_milli);
        assert_int_equal(a->memory, b->memory);
        assert_int_equal(a->max_tokens, b->max_tokens);
        assert_int_equal(a->max_cost_microusd, b->max_cost_microusd);
        assert_int_equal(a->timeout_us, b->timeout_us);
        assert_int_equal(a->not_before_us, b->not_before_us);
        assert_int_equal(a->deadline_us, b->deadline_us);
        assert_int_equal(a->n_blockers, b->n_blockers);
        assert_int_equal(a->on_unmet, b->on_unmet);
        assert_int_equal(a->ready_us, b->ready_us);
        assert_int_equal(a->created_us, b->created_us);
        assert_int_equal(a->updated_us, b->updated_us);
        assert_int_equal(a->started_us, b->started_us);
        assert_int_equal(a->finished_us, b->finished_us);
        assert_int_equal(a->n_attempts, b->n_attempts);
        assert_int_equal(a->max_attempts, b->max_attempts);
        assert_int_equal(a->backoff_us, b->backoff_us);
        assert_int_equal(a->cancel_requested, b->cancel_requested);
        assert_str(a->reason, b->reason);
        assert_str(a->detail, b->detail);
        assert_int_equal(a->result_truncated, b->result_truncated);
        assert_usage(&a->usage, &b->usage);
}

static void insert(Fixture *f, const StoreTask *task) {
        begin(f);
        assert_int_equal(store_task_insert(f->store, task), 0);
        end(f);
}

static Id insert_batch(Fixture *f, const char *principal) {
        StoreBatch batch = { .id = test_id(), .principal = (char *)principal };

        begin(f);
        assert_int_equal(store_batch_insert(f->store, &batch), 0);
        end(f);
        return batch.id;
}

static StoreTask full_task(void) {
        return (StoreTask){
                .id = test_id(),
                .principal = (char *)"key:ci",
                .run_as_uid = 1000,
                .state = TASK_RUNNING,
                .agent = (char *)"codex",
                .candidates = (char *)"codex gemini",
                .model = (char *)"gpt-5",
                .priority = 99,
                .prompt = (char *)"a\0b",
                .n_prompt = 3,
                .workspace = (char *)"/srv/a b",
                .request = (char *)"{\"labels\":{\"team\":\"x\"}}",
                .group = (char *)"night",
                .gpus = 2,
                .cpus_milli = 1500,
                .memory = UINT64_C(8) << 30,
                .max_tokens = 21,
                .max_cost_microusd = 22,
                .deadline_us = 23,
                .n_blockers = 24,
                .on_unmet = STORE_UNMET_RUN,
                .ready_us = 25,
                .timeout_us = 11,
                .not_before_us = 12,
                .created_us = 13,
                .updated_us = 14,
                .started_us = 15,
                .finished_us = 16,
                .n_attempts = 2,
                .max_attempts = 3,
                .backoff_us = 17,
                .cancel_requested = true,
                .reason = (char *)"rate_limited",
                .detail = (char *)"später",
                .result = (char *)"",
                .n_result = 0,
                .result_truncated = true,
                .usage = { 1, 2, 3, 4, 5 },
        };
}

static void test_task_round_trip(void **state) {
        _cleanup_(store_task_freep) StoreTask *a = NULL, *b = NULL, *c = NULL;
        StoreTask full = full_task(), bare = { .id = test_id(), .principal = (char *)"uid:0", .state = TASK_QUEUED };
        Fixture *f = *state;

        full.batch = insert_batch(f, "key:ci");
        insert(f, &full);
        insert(f, &bare);
        assert_int_equal(store_task_load(f->store, &full.id, STORE_TASK_PROMPT | STORE_TASK_RESULT, &a), 0);
        assert_task(a, &full);
        assert_int_equal(a->n_prompt, 3);
        size_t n_prompt;
        assert_int_equal(store_task_prompt_size(f->store, &a->id, &n_prompt), 0);
        assert_int_equal(n_prompt, 3);
        assert_memory_equal(a->prompt, "a\0b", 4);
        assert_non_null(a->result);
        assert_int_equal(a->n_result, 0);
        assert_int_equal(a->last_seq, 0);
        assert_int_equal(store_task_load(f->store, &full.id, 0, &b), 0);
        assert_null(b->prompt);
        assert_null(b->result);
        assert_int_equal(store_task_load(f->store, &bare.id, STORE_TASK_PROMPT | STORE_TASK_RESULT, &c), 0);
        assert_task(c, &bare);
        assert_null(c->prompt);
        assert_null(c->result);
}

static void test_task_update(void **state) {
        StoreTask task = test_task("uid:1", TASK_QUEUED), other = test_task("uid:1", TASK_QUEUED), full = full_task();
        _cleanup_(store_task_freep) StoreTask *a = NULL, *b = NULL, *c = NULL;
        uint64_t counts[_TASK_STATE_N];
        Fixture *f = *state;

        insert(f, &task);
        insert(f, &other);
        full.id = task.id;
        full.result = (char *)"done";
        full.n_result = 4;
        begin(f);
        assert_int_equal(store_task_update(f->store, &full), 0);
        end(f);
        assert_int_equal(store_task_load(f->store, &task.id, STORE_TASK_PROMPT | STORE_TASK_RESULT, &a), 0);
        /* What a submit fixes stays. */
        assert_string_equal(a->principal, "uid:1");
        assert_string_equal(a->prompt, "say hello");
        assert_string_equal(a->request, "{}");
        assert_int_equal(a->created_us, 1);
        full.principal = a->principal;
        full.run_as_uid = -1;
        full.workspace = full.group = NULL;
        full.gpus = full.cpus_milli = full.on_unmet = 0;
        full.memory = 0;
        full.request = (char *)"{}";
        full.created_us = 1;
        assert_task(a, &full);
        assert_string_equal(a->result, "done");

        /* Loaded without its result, and written back: the result is still there. */
        assert_int_equal(store_task_load(f->store, &task.id, 0, &b), 0);
        b->state = TASK_SUCCEEDED;
        begin(f);
        assert_int_equal(store_task_update(f->store, b), 0);
        end(f);
        assert_int_equal(store_task_load(f->store, &task.id, STORE_TASK_RESULT, &c), 0);
        assert_string_equal(c->result, "done");
        assert_int_equal(store_task_count(f->store, counts), 0);
        assert_int_equal(counts[TASK_QUEUED], 1);
        assert_int_equal(counts[TASK_RUNNING], 0);
        assert_int_equal(counts[TASK_SUCCEEDED], 1);

        other.id = test_id();
        begin(f);
        assert_int_equal(store_task_update(f->store, &other), STORE_E_NOT_FOUND);
        assert_int_equal(store_task_insert(f->store, &task), STORE_E_EXISTS);
        end(f);
        assert_int_equal(store_task_load(f->store, &other.id, 0, &c), STORE_E_NOT_FOUND);
}

/* ---- lists ---- */

typedef struct Page {
        Id ids[64];
        size_t n;
        size_t stop_at;
} Page;

static int page_fn(const StoreTask *task, void *userdata) {
        Page *page = userdata;

        assert_null(task->prompt);
        page->ids[page->n++] = task->id;
        return page->n == page->stop_at ? 7 : 0;
}

static size_t list(Fixture *f, StoreTaskFilter filter, Page *ret_page) {
        Id next;

        *ret_page = (Page){};
        assert_int_equal(store_task_list(f->store, &filter, page_fn, ret_page, &next), 0);
        assert_true(id_is_null(&next));
        return ret_page->n;
}

static void test_task_pages(void **state) {
        Fixture *f = *state;
        Page page, all = {};
        Id ids[50];
        StoreTaskFilter filter = { .limit = 7 };

        for (size_t i = 0; i < ELEMENTSOF(ids); i++) {
                StoreTask task = test_task(i % 2 ? "uid:1" : "uid:2", i % 5 ? TASK_QUEUED : TASK_FAILED);

                task.agent = (char *)(i % 3 ? "codex" : "exec");
                task.request = (char *)(i % 10 ? "not JSON" : "{\"labels\":{\"a.\\\"b\":\"v\",\"n\":1}}");
                ids[i] = task.id;
                insert(f, &task);
        }
        /* Complete, newest first, nothing twice; rows that come in between change nothing. */
        for (;;) {
                StoreTask task = test_task("uid:3", TASK_HELD);

                insert(f, &task);
                if (id_is_null(&filter.before))
                        filter.before = ids[ELEMENTSOF(ids) - 1], filter.before.bytes[15]++;
                if (list(f, filter, &page) == 0)
                        break;
                assert_in_range(page.n, 1, 7);
                memcpy(all.ids + all.n, page.ids, page.n * sizeof(Id));
                all.n += page.n;
                filter.before = page.ids[page.n - 1];
        }
        assert_int_equal(all.n, ELEMENTSOF(ids));
        for (size_t i = 0; i < all.n; i++)
                assert_true(id_equal(&all.ids[i], &ids[ELEMENTSOF(ids) - 1 - i]));

        assert_int_equal(list(f, (StoreTaskFilter){ .limit = 64, .principal = "uid:1" }, &page), 25);
        assert_true(id_equal(&page.ids[0], &ids[49]));
        assert_int_equal(list(f, (StoreTaskFilter){ .limit = 64, .principal = "uid:9" }, &page), 0);
        assert_int_equal(list(f, (StoreTaskFilter){ .limit = 64, .state = TASK_FAILED }, &page), 10);
        assert_int_equal(list(f, (StoreTaskFilter){ .limit = 64, .state = TASK_FAILED, .principal = "uid:2" }, &page),
                         5);
        /* A rare state is looked for by its own index. */
        assert_int_equal(list(f, (StoreTaskFilter){ .limit = 64, .state = TASK_HELD, .principal = "uid:2" }, &page), 0);
        assert_true(list(f, (StoreTaskFilter){ .limit = 64, .state = TASK_HELD, .principal = "uid:3" }, &page) > 5);
        assert_int_equal(list(f, (StoreTaskFilter){ .limit = 64, .agent = "exec" }, &page), 17);
        assert_int_equal(list(f, (StoreTaskFilter){ .limit = 64, .label_name = "a.\"b", .label_value = "v" }, &page),
                         5);
        assert_int_equal(list(f, (StoreTaskFilter){ .limit = 64, .label_name = "a.\"b", .label_value = "w" }, &page),
                         0);
        assert_int_equal(list(f, (StoreTaskFilter){ .limit = 2, .label_name = "a.\"b", .label_value = "v",
                                                    .before = ids[10], .state = TASK_FAILED }, &page), 1);
        assert_true(id_equal(&page.ids[0], &ids[0]));

        page = (Page){ .stop_at = 3 };
        assert_int_equal(store_task_list(f->store, &(StoreTaskFilter){ .limit = 64 }, page_fn, &page, NULL), 7);
        assert_int_equal(page.n, 3);
}

static void test_task_filters(void **state) {
        Fixture *f = *state;
        Id batches[2] = { insert_batch(f, "uid:1"), insert_batch(f, "uid:2") }, ids[20];
        Page page;

        for (size_t i = 0; i < ELEMENTSOF(ids); i++) {
                StoreTask task = test_task(i % 2 ? "uid:1" : "uid:2", i % 5 ? TASK_QUEUED : TASK_FAILED);

                task.group = (char *)(i % 4 ? "a" : i % 8 ? "b" : NULL);
                task.batch = i < 10 ? batches[i % 2] : (Id){};
                ids[i] = task.id;
                insert(f, &task);
        }
        assert_int_equal(list(f, (StoreTaskFilter){ .limit = 64, .group = "a" }, &page), 15);
        assert_int_equal(list(f, (StoreTaskFilter){ .limit = 64, .group = "b" }, &page), 2);
        assert_int_equal(list(f, (StoreTaskFilter){ .limit = 64, .group = "c" }, &page), 0);
        assert_int_equal(list(f, (StoreTaskFilter){ .limit = 64, .batch = &batches[0] }, &page), 5);
        for (size_t i = 0; i < page.n; i++)
                assert_true(id_equal(&page.ids[i], &ids[8 - 2 * i]));
        assert_int_equal(list(f, (StoreTaskFilter){ .limit = 64, .batch = &batches[1], .principal = "uid:1",
                                                    .state = TASK_FAILED }, &page), 1);
        assert_true(id_equal(&page.ids[0], &ids[5]));
        assert_int_equal(list(f, (StoreTaskFilter){ .limit = 64, .batch = &batches[1], .principal = "uid:2" }, &page),
                         0);
        assert_int_equal(list(f, (StoreTaskFilter){ .limit = 2, .batch = &batches[1], .before = ids[5] }, &page), 2);
        assert_true(id_equal(&page.ids[0], &ids[3]));
}

/* A filter that matches nothing, or the oldest task only, costs a bounded number of rows a call, and ends. */
static void test_task_list_is_bounded(void **state) {
        StoreTaskFilter filter = { .limit = 10, .label_name = "k", .label_value = "v" };
        Fixture *f = *state;
        Page page = {};
        Id oldest, next, last;

        begin(f);
        for (size_t i = 0; i < 2 * STORE_EXAMINE_MAX + 1; i++) {
                StoreTask task = test_task("uid:1", TASK_QUEUED);

                if (i == 0) {
                        oldest = task.id;
                        task.request = (char *)"{\"labels\":{\"k\":\"v\"}}";
                }
                if (i == STORE_EXAMINE_MAX + 1)
                        last = task.id;
                assert_int_equal(store_task_insert(f->store, &task), 0);
        }
        end(f);
        assert_int_equal(store_task_list(f->store, &filter, page_fn, &page, &next), 0);
        assert_int_equal(page.n, 0);
        assert_true(id_equal(&next, &last));
        filter.before = next;
        assert_int_equal(store_task_list(f->store, &filter, page_fn, &page, &next), 0);
        assert_int_equal(page.n, 0);
        assert_false(id_is_null(&next));
        filter.before = next;
        assert_int_equal(store_task_list(f->store, &filter, page_fn, &page, &next), 0);
        assert_int_equal(page.n, 1);
        assert_true(id_equal(&page.ids[0], &oldest));
        assert_true(id_is_null(&next));
        filter.label_value = "w";
        assert_int_equal(store_task_list(f->store, &filter, page_fn, &page, &next), 0);
        assert_int_equal(page.n, 1);
        assert_true(id_is_null(&next));
}

static int first_sql_fn(unsigned type, void *userdata, void *statement, void *sql) {
        char **first = userdata;

        if (!*first)
                assert_non_null(*first = strdup(sql));
        return 0;
}

static int ignore_task_fn(const StoreTask *task, void *userdata) {
        return 0;
}

/* The plan of what store_task_list() (of store_task_list_live() where the filter is NULL) runs: one index, no sort. */
static void assert_plan(Fixture *f, const StoreTaskFilter *filter, const char *index) {
        _cleanup_(sqlite3_freep) char *sql = NULL;
        _cleanup_free_ char *first = NULL;
        sqlite3_stmt *s;
        const char *plan;

        sqlite3_trace_v2(f->store->db, SQLITE_TRACE_STMT, first_sql_fn, &first);
        if (filter)
                assert_int_equal(store_task_list(f->store, filter, ignore_task_fn, NULL, NULL), 0);
        else
                assert_int_equal(store_task_list_live(f->store, ignore_task_fn, NULL), 0);
        sqlite3_trace_v2(f->store->db, 0, NULL, NULL);
        assert_non_null(first);
        sql = sqlite3_mprintf("EXPLAIN QUERY PLAN %s", first);
        assert_int_equal(sqlite3_prepare_v2(f->store->db, sql, -1, &s, NULL), SQLITE_OK);
        assert_int_equal(sqlite3_step(s), SQLITE_ROW);
        plan = (const char *)sqlite3_column_text(s, 3);
        if (!strstr(plan, index))
                print_error("%s: %s\n", first, plan);
        assert_non_null(strstr(plan, index));
        while (sqlite3_step(s) == SQLITE_ROW)
                assert_null(strstr((const char *)sqlite3_column_text(s, 3), "TEMP B-TREE"));
        sqlite3_finalize(s);
}

static void test_task_list_uses_an_index(void **state) {
        Fixture *f = *state;
        Id id = test_id();

        assert_plan(f, &(StoreTaskFilter){ .limit = 1 }, "sqlite_autoindex_tasks_1");
        assert_plan(f, &(StoreTaskFilter){ .limit = 1, .before = id, .group = "g" }, "sqlite_autoindex_tasks_1");
        assert_plan(f, &(StoreTaskFilter){ .limit = 1, .principal = "a", .state = TASK_QUEUED, .before = id },
                    "tasks_by_principal (principal=? AND id<?)");
        assert_plan(f, &(StoreTaskFilter){ .limit = 1, .state = TASK_QUEUED, .before = id },
                    "tasks_by_state (state=? AND id<?)");
        assert_plan(f, &(StoreTaskFilter){ .limit = 1, .batch = &id, .before = id, .principal = "a",
                                           .state = TASK_QUEUED, .agent = "b" },
                    "tasks_by_batch (batch=? AND id<?)");
        assert_plan(f, NULL, "COVERING INDEX tasks_live");
        for (size_t i = 0; i < 20; i++) {
                StoreTask task = test_task("a", i ? TASK_QUEUED : TASK_HELD);

                insert(f, &task);
        }
        assert_plan(f, &(StoreTaskFilter){ .limit = 1, .principal = "a", .state = TASK_HELD, .before = id },
                    "tasks_by_state (state=? AND id<?)");
}

static int live_fn(const StoreTask *task, void *userdata) {
        StoreTask *expected = *(StoreTask **)userdata;

        assert_task(task, expected);
        (*(StoreTask **)userdata)++;
        return 0;
}

static void test_task_list_live(void **state) {
        StoreTask live[6], *next = live;
        Fixture *f = *state;
        size_t n = 0;

        for (TaskState s = 1; s < _TASK_STATE_N; s++) {
                StoreTask task = test_task("uid:1", s);

                insert(f, &task);
                if (!task_state_is_final(s)) {
                        live[n] = (StoreTask){ .id = task.id, .principal = task.principal, .run_as_uid = -1,
                                               .state = s, .agent = task.agent, .priority = task.priority,
                                               .created_us = 1, .usage = STORE_USAGE_UNKNOWN };
                        n++;
                }
                assert_int_equal(task_state_from_name(task_state_name(s)), s);
        }
        assert_int_equal(task_state_from_name("nonsense"), 0);
        assert_int_equal(n, 5);
        live[n] = full_task();
        live[n].batch = insert_batch(f, "uid:1");
        insert(f, &live[n]);
        /* What a scheduler has no use for is left out. */
        live[n].model = live[n].workspace = live[n].request = live[n].reason = live[n].detail = NULL;
        live[n].run_as_uid = -1;
        live[n].timeout_us = live[n].updated_us = live[n].started_us = live[n].finished_us = live[n].backoff_us = 0;
        live[n].max_attempts = live[n].on_unmet = 0;
        live[n].result_truncated = false;
        live[n++].usage = (StoreUsage)STORE_USAGE_UNKNOWN;
        assert_int_equal(store_task_list_live(f->store, live_fn, &next), 0);
        assert_ptr_equal(next, live + n);

        /* One that ends leaves the list, one that is taken up again comes back to its place. */
        for (size_t i = 0; i < 2; i++) {
                _cleanup_(store_task_freep) StoreTask *task = NULL;

                assert_int_equal(store_task_load(f->store, &live[0].id, 0, &task), 0);
                task->state = i ? TASK_DELAYED : TASK_EXPIRED;
                begin(f);
                assert_int_equal(store_task_update(f->store, task), 0);
                end(f);
                live[0].state = TASK_DELAYED;
                next = live + !i;
                assert_int_equal(store_task_list_live(f->store, live_fn, &next), 0);
                assert_ptr_equal(next, live + n);
        }
}

/* ---- attempts ---- */

static void assert_attempt(const StoreAttempt *a, const StoreAttempt *b) {
        assert_memory_equal(&a->id, &b->id, sizeof(a->id));
        assert_memory_equal(&a->task_id, &b->task_id, sizeof(a->id));
        assert_memory_equal(&a->generation, &b->generation, sizeof(a->id));
        assert_int_equal(a->number, b->number);
        assert_int_equal(a->open, b->open);
        assert_int_equal(a->started_us, b->started_us);
        assert_int_equal(a->execed_us, b->execed_us);
        assert_int_equal(a->finished_us, b->finished_us);
        assert_int_equal(a->exit_code, b->exit_code);
        assert_int_equal(a->signal, b->signal);
        assert_str(a->outcome, b->outcome);
        assert_str(a->reason, b->reason);
        assert_str(a->detail, b->detail);
        assert_usage(&a->usage, &b->usage);
        assert_int_equal(a->stdout_offset, b->stdout_offset);
        assert_int_equal(a->stderr_offset, b->stderr_offset);
        assert_int_equal(a->stdout_flags, b->stdout_flags);
        assert_int_equal(a->stderr_flags, b->stderr_flags);
        assert_int_equal(a->captured_bytes, b->captured_bytes);
        assert_int_equal(a->memory_peak, b->memory_peak);
        assert_int_equal(a->cpu_us, b->cpu_us);
        assert_int_equal(a->oom_kills, b->oom_kills);
        assert_str(a->session, b->session);
        assert_str(a->agent, b->agent);
}

static int attempt_count_fn(const StoreAttempt *attempt, void *userdata) {
        uint32_t *n = userdata;

        (*n)++;
        assert_int_equal(attempt->number, *n);
        return 0;
}

static void test_attempts(void **state) {
        StoreTask task = test_task("uid:1", TASK_RUNNING);
        StoreAttempt bare = { .id = test_id(), .task_id = task.id, .number = 1, .open = true, .exit_code = -1 };
        StoreAttempt full = {
                .id = test_id(),
                .task_id = task.id,
                .number = 2,
                .open = false,
                .generation = test_id(),
                .started_us = 1,
                .execed_us = 2,
                .finished_us = 3,
                .exit_code = 4,
                .signal = 9,
                .outcome = (char *)"failed",
                .reason = (char *)"quota",
                .detail = (char *)"d",
                .usage = { 1, 2, 3, 4, 5 },
                .stdout_offset = 6,
                .stderr_offset = 7,
                .stdout_flags = 8,
                .stderr_flags = 0xffffffff,
                .captured_bytes = 10,
                .memory_peak = 11,
                .cpu_us = 12,
                .oom_kills = 13,
                .session = (char *)"s",
                .agent = (char *)"gemini",
        };
        _cleanup_(store_attempt_freep) StoreAttempt *a = NULL, *b = NULL, *c = NULL;
        Fixture *f = *state;
        uint32_t n = 0;

        insert(f, &task);
        begin(f);
        assert_int_equal(store_attempt_insert(f->store, &bare), 0);
        assert_int_equal(store_attempt_insert(f->store, &full), 0);
        assert_int_equal(store_attempt_insert(f->store, &full), STORE_E_EXISTS);
        end(f);
        assert_int_equal(store_attempt_load(f->store, &bare.id, &a), 0);
        assert_attempt(a, &bare);
        assert_int_equal(store_attempt_load(f->store, &full.id, &b), 0);
        assert_attempt(b, &full);
        assert_int_equal(store_attempt_list(f->store, &task.id, attempt_count_fn, &n), 0);
        assert_int_equal(n, 2);
        n = 0;
        assert_int_equal(store_attempt_list_open(f->store, attempt_count_fn, &n), 0);
        assert_int_equal(n, 1);

        full.id = bare.id;
        full.number = 1;
        begin(f);
        assert_int_equal(store_attempt_update(f->store, &full), 0);
        end(f);
        assert_int_equal(store_attempt_load(f->store, &full.id, &c), 0);
        assert_attempt(c, &full);
        n = 0;
        assert_int_equal(store_attempt_list_open(f->store, attempt_count_fn, &n), 0);
        assert_int_equal(n, 0);

        full.id = full.task_id = test_id();
        begin(f);
        assert_int_equal(store_attempt_update(f->store, &full), STORE_E_NOT_FOUND);
        assert_int_equal(store_attempt_insert(f->store, &full), STORE_E_NOT_FOUND);
        end(f);
        assert_int_equal(store_attempt_load(f->store, &full.id, &c), STORE_E_NOT_FOUND);
}

/* ---- events ---- */

static int event_fn(const StoreEvent *event, void *userdata) {
        uint64_t *next = userdata;

        assert_int_equal(event->seq, *next);
        (*next)++;
        assert_int_equal(event->attempt, event->seq % 3);
        assert_int_equal(event->at_us, 1000 + event->seq);
        assert_string_equal(event->type, "text");
        assert_int_equal(event->n_data, strlen("{\"a\":1}"));
        assert_memory_equal(event->data, "{\"a\":1}", event->n_data);
        assert_int_equal(event->stream, 1);
        if (event->seq % 2) {
                assert_null(event->raw);
        } else {
                assert_int_equal(event->n_raw, 3);
                assert_memory_equal(event->raw, "x\0y", 3);
        }
        return 0;
}

static void test_events(void **state) {
        StoreTask a = test_task("uid:1", TASK_RUNNING), b = test_task("uid:1", TASK_RUNNING);
        _cleanup_(store_task_freep) StoreTask *task = NULL;
        Fixture *f = *state;
        Id unknown = test_id();
        uint64_t seq, next;

        insert(f, &a);
        insert(f, &b);
        for (uint64_t i = 1; i <= 20; i++) {
                StoreEvent event = { .attempt = (uint32_t)(i % 3),
                                     .at_us = 1000 + i,
                                     .type = "text",
                                     .data = "{\"a\":1}",
                                     .n_data = strlen("{\"a\":1}"),
                                     .raw = i % 2 ? NULL : "x\0y",
                                     .n_raw = i % 2 ? 0 : 3,
                                     .stream = 1 };
                begin(f);
                assert_int_equal(store_event_append(f->store, &a.id, &event, &seq), 0);
                assert_int_equal(seq, i);
                assert_int_equal(store_event_append(f->store, &b.id, &event, &seq), 0);
                assert_int_equal(seq, i);
                assert_int_equal(store_event_append(f->store, &unknown, &event, &seq), STORE_E_NOT_FOUND);
                end(f);
                /* One that is undone gives its number back. */
                begin(f);
                assert_int_equal(store_event_append(f->store, &a.id, &event, &seq), 0);
                assert_int_equal(seq, i + 1);
                assert_int_equal(store_end(f->store, false), 0);
        }
        next = 1;
        assert_int_equal(store_event_list(f->store, &a.id, 0, 100, event_fn, &next), 0);
        assert_int_equal(next, 21);
        next = 6;
        assert_int_equal(store_event_list(f->store, &a.id, 5, 7, event_fn, &next), 0);
        assert_int_equal(next, 13);
        next = 0;
        assert_int_equal(store_event_list(f->store, &a.id, 20, 7, event_fn, &next), 0);
        assert_int_equal(next, 0);
        assert_int_equal(store_task_load(f->store, &a.id, 0, &task), 0);
        assert_int_equal(task->last_seq, 20);
}

/* ---- keys ---- */

static int key_count_fn(const StoreKey *key, void *userdata) {
        (*(size_t *)userdata)++;
        return 0;
}

static void test_keys(void **state) {
        StoreKey key = { .id = test_id(),
                         .name = (char *)"ci",
                         .hash = { 1, 0, 2 },
                         .role = (char *)"admin",
                         .run_as_uid = 1000,
                         .created_us = 5,
                         .created_by = (char *)"uid:0" };
        StoreKey next = key;
        _cleanup_(store_key_freep) StoreKey *found = NULL, *again = NULL;
        Fixture *f = *state;
        size_t n = 0;

        next.id = test_id();
        next.hash[5] = 9;
        begin(f);
        assert_int_equal(store_key_insert(f->store, &key), 0);
        assert_int_equal(store_key_insert(f->store, &next), STORE_E_EXISTS);
        end(f);
        assert_int_equal(store_key_find(f->store, key.hash, &found), 0);
        assert_memory_equal(&found->id, &key.id, sizeof(Id));
        assert_memory_equal(found->hash, key.hash, 32);
        assert_string_equal(found->name, "ci");
        assert_string_equal(found->role, "admin");
        assert_string_equal(found->created_by, "uid:0");
        assert_int_equal(found->run_as_uid, 1000);
        assert_int_equal(found->created_us, 5);
        assert_int_equal(found->revoked_us, 0);
        assert_int_equal(store_key_find(f->store, next.hash, &again), STORE_E_NOT_FOUND);

        /* Revoked: not found any more, listed still, and the name is free. */
        begin(f);
        assert_int_equal(store_key_revoke(f->store, "ci", 77), 0);
        assert_int_equal(store_key_revoke(f->store, "ci", 78), STORE_E_NOT_FOUND);
        assert_int_equal(store_key_insert(f->store, &next), 0);
        end(f);
        assert_int_equal(store_key_find(f->store, key.hash, &again), STORE_E_NOT_FOUND);
        assert_int_equal(store_key_find(f->store, next.hash, &again), 0);
        assert_int_equal(store_key_list(f->store, key_count_fn, &n), 0);
        assert_int_equal(n, 2);
}

/* ---- idempotency ---- */

static void test_idempotency(void **state) {
        StoreIdempotency i = { .principal = (char *)"uid:1",
                               .key = (char *)"k",
                               .request_hash = { 4, 0, 5 },
                               .status = 201,
                               .body = (char *)"{\"id\":1}",
                               .n_body = 8,
                               .location = (char *)"/tasks/1",
                               .expires_us = 1000 };
        StoreIdempotency bare = { .principal = (char *)"uid:2", .key = (char *)"k", .expires_us = 2000 };
        _cleanup_(store_idempotency_freep) StoreIdempotency *found = NULL, *empty = NULL, *none = NULL;
        Fixture *f = *state;

        clock_freeze(1, 500);
        begin(f);
        assert_int_equal(store_idempotency_insert(f->store, &i), 0);
        assert_int_equal(store_idempotency_insert(f->store, &i), STORE_E_EXISTS);
        assert_int_equal(store_idempotency_insert(f->store, &bare), 0);
        end(f);
        assert_int_equal(store_idempotency_find(f->store, "uid:1", "k", 999, &found), 0);
        assert_memory_equal(found->request_hash, i.request_hash, 32);
        assert_string_equal(found->principal, "uid:1");
        assert_string_equal(found->key, "k");
        assert_int_equal(found->status, 201);
        assert_int_equal(found->n_body, 8);
        assert_string_equal(found->body, "{\"id\":1}");
        assert_string_equal(found->location, "/tasks/1");
        assert_int_equal(found->expires_us, 1000);
        assert_int_equal(store_idempotency_find(f->store, "uid:2", "k", 1, &empty), 0);
        assert_int_equal(empty->n_body, 0);
        assert_string_equal(empty->body, "");
        assert_null(empty->location);
        assert_int_equal(store_idempotency_find(f->store, "uid:1", "k", 1000, &none), STORE_E_NOT_FOUND);
        assert_int_equal(store_idempotency_find(f->store, "uid:3", "k", 1, &none), STORE_E_NOT_FOUND);

        /* Expired, not yet pruned: replaced. */
        clock_freeze(1, 1500);
        i.status = 202;
        i.expires_us = 3000;
        begin(f);
        assert_int_equal(store_idempotency_insert(f->store, &i), 0);
        assert_int_equal(store_idempotency_prune(f->store, 2500, 10), 0);
        end(f);
        assert_int_equal(store_idempotency_find(f->store, "uid:2", "k", 1, &none), STORE_E_NOT_FOUND);
        assert_int_equal(store_idempotency_find(f->store, "uid:1", "k", 1, &none), 0);
        assert_int_equal(none->status, 202);
        clock_freeze(0, 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_task_round_trip, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_task_update, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_task_pages, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_task_filters, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_task_list_is_bounded, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_task_list_uses_an_index, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_task_list_live, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_attempts, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_events, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_keys, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_idempotency, fixture_setup, fixture_teardown),
        };

        if (skip_without_io_uring())
                return 0;
        return cmocka_run_group_tests_name("store-records", tests, NULL, NULL);
}

/* Batches and their sums, dependencies, limits, gates, usage, and the events of all tasks. */

#include "store/test-util.h"

#define assert_str(a, b) do {                           \
        const char *_a = (a), *_b = (b);                \
        assert_true(!_a == !_b);                        \
        if (_a)                                         \
                assert_string_equal(_a, _b);            \
} while (0)

static void assert_usage(const StoreUsage *a, StoreUsage b) {
        assert_int_equal(a->input_tokens, b.input_tokens);
        assert_int_equal(a->cached_input_tokens, b.cached_input_tokens);
        assert_int_equal(a->output_tokens, b.output_tokens);
        assert_int_equal(a->reasoning_tokens, b.reasoning_tokens);
        assert_int_equal(a->cost_microusd, b.cost_microusd);
}

static void insert(Fixture *f, const StoreTask *task) {
        begin(f);
        assert_int_equal(store_task_insert(f->store, task), 0);
        end(f);
}

static void update(Fixture *f, const StoreTask *task) {
        begin(f);
        assert_int_equal(store_task_update(f->store, task), 0);
        end(f);
}

/* A row that the schema refuses costs its request, and no more. */
#define assert_refused(f, call) do {                                    \
        begin(f);                                                       \
        assert_int_equal((call), -EINVAL);                              \
        assert_int_equal(store_end((f)->store, true), -EINVAL);         \
        assert_null(store_failure((f)->store));                         \
} while (0)

/* ---- batches ---- */

static StoreBatch test_batch(const char *principal) {
        return (StoreBatch){ .id = test_id(), .principal = (char *)principal };
}

static void insert_batch(Fixture *f, const StoreBatch *batch) {
        begin(f);
        assert_int_equal(store_batch_insert(f->store, batch), 0);
        end(f);
}

static void assert_batch(const StoreBatch *a, const StoreBatch *b) {
        assert_memory_equal(&a->id, &b->id, sizeof(a->id));
        assert_str(a->principal, b->principal);
        assert_str(a->metadata, b->metadata);
        assert_int_equal(a->n_tasks, b->n_tasks);
        assert_int_equal(a->select, b->select);
        assert_int_equal(a->cancel_requested, b->cancel_requested);
        assert_int_equal(a->refuse_all, b->refuse_all);
        assert_int_equal(a->max_tokens, b->max_tokens);
        assert_int_equal(a->max_cost_microusd, b->max_cost_microusd);
        assert_int_equal(a->created_us, b->created_us);
}

static void test_batch_round_trip(void **state) {
        StoreBatch full = { .id = test_id(), .principal = (char *)"key:ci", .metadata = (char *)"{\"a\":1}",
                            .n_tasks = 3, .select = STORE_SELECT_FIRST, .cancel_requested = true, .refuse_all = true,
                            .max_tokens = 4, .max_cost_microusd = 5, .created_us = 6 };
        StoreBatch bare = test_batch("uid:1"), bad = test_batch("uid:1");
        _cleanup_(store_batch_freep) StoreBatch *a = NULL, *b = NULL, *c = NULL;
        Fixture *f = *state;

        insert_batch(f, &full);
        insert_batch(f, &bare);
        assert_int_equal(store_batch_load(f->store, &full.id, &a), 0);
        assert_batch(a, &full);
        assert_int_equal(store_batch_load(f->store, &bare.id, &b), 0);
        assert_batch(b, &bare);

        full.id = bare.id;
        begin(f);
        assert_int_equal(store_batch_insert(f->store, &full), STORE_E_EXISTS);
        assert_int_equal(store_batch_update(f->store, &full), 0);
        assert_int_equal(store_batch_update(f->store, &bad), STORE_E_NOT_FOUND);
        end(f);
        assert_int_equal(store_batch_load(f->store, &bare.id, &c), 0);
        /* What a submit fixes stays. */
        full.principal = bare.principal;
        full.select = bare.select;
        full.refuse_all = bare.refuse_all;
        full.created_us = bare.created_us;
        assert_batch(c, &full);
        assert_int_equal(store_batch_load(f->store, &bad.id, &c), STORE_E_NOT_FOUND);

        bad.select = 3;
        assert_refused(f, store_batch_insert(f->store, &bad));
}

/* What was not finished goes with all that is its tasks', and nothing else does. */
static void test_batch_discard(void **state) {
        StoreTask tasks[7], kept = test_task("uid:1", TASK_QUEUED);
        StoreBatch half = test_batch("uid:1"), other = test_batch("uid:1"), whole = test_batch("uid:1");
        _cleanup_(store_batch_freep) StoreBatch *loaded = NULL;
        _cleanup_(store_task_freep) StoreTask *task = NULL;
        StoreEvent event = { .type = "state", .data = "{}", .n_data = 2, .at_us = 1 };
        uint64_t counts[_TASK_STATE_N], seq;
        Fixture *f = *state;
        bool done = false;
        size_t n;

        whole.n_tasks = 1;
        kept.batch = whole.id;
        insert_batch(f, &half);
        insert_batch(f, &other);
        insert_batch(f, &whole);
        begin(f);
        assert_int_equal(store_task_insert(f->store, &kept), 0);
        for (size_t i = 0; i < ELEMENTSOF(tasks); i++) {
                tasks[i] = test_task("uid:1", i % 2 ? TASK_BLOCKED : TASK_QUEUED);
                tasks[i].batch = half.id;
                assert_int_equal(store_task_insert(f->store, &tasks[i]), 0);
                assert_int_equal(store_event_append(f->store, &tasks[i].id, &event, &seq), 0);
                assert_int_equal(store_dependency_insert(f->store, &tasks[i].id, &kept.id, STORE_ON_FINISH), 0);
        }
        end(f);
        begin(f);
        assert_int_equal(store_batch_discard(f->store, &whole.id, 5, &done), STORE_E_CONFLICT);
        assert_int_equal(store_batch_discard(f->store, &half.id, 5, &done), 0);
        assert_false(done);
        end(f);
        assert_int_equal(store_batch_load(f->store, &half.id, &loaded), 0);
        /* Undone with its request, it is as it was. */
        begin(f);
        assert_int_equal(store_batch_discard(f->store, &half.id, 5, &done), 0);
        assert_true(done);
        assert_int_equal(store_end(f->store, false), 0);
        assert_int_equal(store_task_count(f->store, counts), 0);
        assert_int_equal(counts[TASK_QUEUED] + counts[TASK_BLOCKED], 3);
        assert_int_equal(store_batch_discard_unfinished(f->store, &n), 0);
        assert_int_equal(n, 2);
        assert_int_equal(store_batch_discard_unfinished(f->store, &n), 0);
        assert_int_equal(n, 0);
        loaded = store_batch_free(loaded);
        assert_int_equal(store_batch_load(f->store, &half.id, &loaded), STORE_E_NOT_FOUND);
        assert_int_equal(store_task_load(f->store, &tasks[0].id, 0, &task), STORE_E_NOT_FOUND);
        assert_int_equal(store_task_load(f->store, &kept.id, 0, &task), 0);
        assert_int_equal(store_task_count(f->store, counts), 0);
        assert_int_equal(counts[TASK_QUEUED], 1);
        assert_int_equal(counts[TASK_BLOCKED], 0);
}

typedef struct Ids {
        Id ids[64];
        size_t n;
} Ids;

static int batch_fn(const StoreBatch *batch, void *userdata) {
        Ids *ids = userdata;

        ids->ids[ids->n++] = batch->id;
        return 0;
}

static int task_fn(const StoreTask *task, void *userdata) {
        Ids *ids = userdata;

        assert_null(task->prompt);
        assert_string_equal(task->request, "{}");
        ids->ids[ids->n++] = task->id;
        return 0;
}

static void test_batch_pages(void **state) {
        Fixture *f = *state;
        Ids all = {}, mine = {};
        Id ids[20];

        for (size_t i = 0; i < ELEMENTSOF(ids); i++) {
                StoreBatch batch = test_batch(i % 2 ? "uid:1" : "uid:2");

                ids[i] = batch.id;
                insert_batch(f, &batch);
        }
        for (size_t n = SIZE_MAX; n != all.n;) {
                n = all.n;
                assert_int_equal(store_batch_list(f->store, NULL, n ? &all.ids[n - 1] : NULL, 7, batch_fn, &all), 0);
                assert_in_range(all.n - n, 0, 7);
        }
        assert_int_equal(all.n, 20);
        for (size_t i = 0; i < all.n; i++)
                assert_true(id_equal(&all.ids[i], &ids[19 - i]));
        assert_int_equal(store_batch_list(f->store, "uid:1", &ids[19], 3, batch_fn, &mine), 0);
        assert_int_equal(mine.n, 3);
        for (size_t i = 0; i < mine.n; i++)
                assert_true(id_equal(&mine.ids[i], &ids[17 - 2 * i]));
        mine.n = 0;
        assert_int_equal(store_batch_list(f->store, "uid:3", &(Id){}, 3, batch_fn, &mine), 0);
        assert_int_equal(mine.n, 0);
}

static void test_batch_tasks(void **state) {
        StoreBatch batch = test_batch("uid:1"), other = test_batch("uid:1");
        Fixture *f = *state;
        Ids all = {};
        Id ids[20];

        insert_batch(f, &batch);
        insert_batch(f, &other);
        for (size_t i = 0; i < ELEMENTSOF(ids); i++) {
                StoreTask task = test_task("uid:1", TASK_QUEUED), between = test_task("uid:1", TASK_QUEUED);

                task.batch = batch.id;
                between.batch = i % 2 ? other.id : (Id){};
                ids[i] = task.id;
                insert(f, &task);
                insert(f, &between);
        }
        for (size_t n = SIZE_MAX; n != all.n;) {
                n = all.n;
                assert_int_equal(store_batch_task_list(f->store, &batch.id, n ? &all.ids[n - 1] : &(Id){}, 7, task_fn,
                                                       &all), 0);
                assert_in_range(all.n - n, 0, 7);
        }
        assert_int_equal(all.n, 20);
        assert_memory_equal(all.ids, ids, sizeof(ids));
        all.n = 0;
        assert_int_equal(store_batch_task_list(f->store, &ids[0], NULL, 7, task_fn, &all), 0);
        assert_int_equal(all.n, 0);

        /* A task of a batch that there is not. */
        StoreTask orphan = test_task("uid:1", TASK_QUEUED);
        orphan.batch = test_id();
        begin(f);
        assert_int_equal(store_task_insert(f->store, &orphan), STORE_E_NOT_FOUND);
        end(f);
}

static void test_batch_sums(void **state) {
        StoreBatch batch = test_batch("uid:1");
        uint64_t counts[_TASK_STATE_N];
        Fixture *f = *state;
        StoreTask tasks[3];
        StoreUsage usage;

        insert_batch(f, &batch);
        assert_int_equal(store_batch_count(f->store, &batch.id, counts, &usage), 0);
        for (size_t i = 0; i < ELEMENTSOF(counts); i++)
                assert_int_equal(counts[i], 0);
        assert_usage(&usage, (StoreUsage)STORE_USAGE_UNKNOWN);
        for (size_t i = 0; i < ELEMENTSOF(tasks); i++) {
                tasks[i] = test_task("uid:1", i ? TASK_QUEUED : TASK_BLOCKED);
                tasks[i].batch = batch.id;
                insert(f, &tasks[i]);
        }
        assert_int_equal(store_batch_count(f->store, &batch.id, counts, &usage), 0);
        assert_int_equal(counts[TASK_QUEUED], 2);
        assert_int_equal(counts[TASK_BLOCKED], 1);

        tasks[0].state = TASK_QUEUED;
        update(f, &tasks[0]);
        tasks[1].state = TASK_SUCCEEDED;
        tasks[1].usage = (StoreUsage){ 10, -1, 20, 0, 1 };
        update(f, &tasks[1]);
        update(f, &tasks[1]);
        tasks[2].state = TASK_RUNNING;
        tasks[2].usage = (StoreUsage){ 5, -1, -1, 2, INT64_MAX };
        update(f, &tasks[2]);
        assert_int_equal(store_batch_count(f->store, &batch.id, counts, &usage), 0);
        assert_int_equal(counts[TASK_QUEUED], 1);
        assert_int_equal(counts[TASK_BLOCKED], 0);
        assert_int_equal(counts[TASK_RUNNING], 1);
        assert_int_equal(counts[TASK_SUCCEEDED], 1);
        assert_usage(&usage, (StoreUsage){ 15, -1, 20, 2, STORE_USAGE_MAX });

        /* What is undone counts for nothing; what is replaced, once. */
        tasks[2].state = TASK_FAILED;
        tasks[2].usage = (StoreUsage){ 7, 1, -1, 2, 4 };
        begin(f);
        assert_int_equal(store_task_update(f->store, &tasks[2]), 0);
        assert_int_equal(store_end(f->store, false), 0);
        assert_int_equal(store_batch_count(f->store, &batch.id, counts, &usage), 0);
        assert_int_equal(counts[TASK_RUNNING], 1);
        assert_usage(&usage, (StoreUsage){ 15, -1, 20, 2, STORE_USAGE_MAX });
        update(f, &tasks[2]);
        assert_int_equal(store_batch_count(f->store, &batch.id, counts, &usage), 0);
        assert_int_equal(counts[TASK_RUNNING], 0);
        assert_int_equal(counts[TASK_FAILED], 1);
        assert_usage(&usage, (StoreUsage){ 17, 1, 20, 2, 4 });

        batch.id = test_id();
        assert_int_equal(store_batch_count(f->store, &batch.id, counts, &usage), STORE_E_NOT_FOUND);
}

/* ---- dependencies ---- */

typedef struct Edges {
        Id ids[8];
        TaskState states[8];
        StoreCondition conditions[8];
        size_t n;
} Edges;

static int dependency_fn(const Id *on, TaskState on_state, StoreCondition condition, void *userdata) {
        Edges *e = userdata;

        e->ids[e->n] = *on;
        e->states[e->n] = on_state;
        e->conditions[e->n++] = condition;
        return 0;
}

static int dependant_fn(const Id *task, StoreCondition condition, void *userdata) {
        Edges *e = userdata;

        e->ids[e->n] = *task;
        e->conditions[e->n++] = condition;
        return 0;
}

static void test_dependencies(void **state) {
        StoreTask first = test_task("uid:1", TASK_RUNNING), second = test_task("uid:1", TASK_FAILED);
        StoreTask a = test_task("uid:1", TASK_BLOCKED), b = test_task("uid:1", TASK_BLOCKED);
        Fixture *f = *state;
        Id unknown = test_id();
        Edges e = {};

        insert(f, &first);
        insert(f, &second);
        insert(f, &a);
        insert(f, &b);
        begin(f);
        assert_int_equal(store_dependency_insert(f->store, &a.id, &second.id, STORE_ON_FAILURE), 0);
        assert_int_equal(store_dependency_insert(f->store, &a.id, &first.id, STORE_ON_SUCCESS), 0);
        assert_int_equal(store_dependency_insert(f->store, &b.id, &first.id, STORE_ON_FINISH), 0);
        assert_int_equal(store_dependency_insert(f->store, &b.id, &first.id, STORE_ON_SUCCESS), STORE_E_EXISTS);
        assert_int_equal(store_dependency_insert(f->store, &unknown, &first.id, STORE_ON_SUCCESS), STORE_E_NOT_FOUND);
        assert_int_equal(store_dependency_insert(f->store, &b.id, &unknown, STORE_ON_SUCCESS), STORE_E_NOT_FOUND);
        end(f);

        assert_int_equal(store_dependency_list(f->store, &a.id, dependency_fn, &e), 0);
        assert_int_equal(e.n, 2);
        assert_true(id_equal(&e.ids[0], &first.id));
        assert_int_equal(e.states[0], TASK_RUNNING);
        assert_int_equal(e.conditions[0], STORE_ON_SUCCESS);
        assert_true(id_equal(&e.ids[1], &second.id));
        assert_int_equal(e.states[1], TASK_FAILED);
        assert_int_equal(e.conditions[1], STORE_ON_FAILURE);
        e.n = 0;
        assert_int_equal(store_dependant_list(f->store, &first.id, dependant_fn, &e), 0);
        assert_int_equal(e.n, 2);
        assert_true(id_equal(&e.ids[0], &a.id));
        assert_int_equal(e.conditions[0], STORE_ON_SUCCESS);
        assert_true(id_equal(&e.ids[1], &b.id));
        assert_int_equal(e.conditions[1], STORE_ON_FINISH);

        /* One that waits no longer is not told any more, and still says what it waited for. */
        a.state = TASK_QUEUED;
        update(f, &a);
        e.n = 0;
        assert_int_equal(store_dependant_list(f->store, &first.id, dependant_fn, &e), 0);
        assert_int_equal(e.n, 1);
        assert_true(id_equal(&e.ids[0], &b.id));
        e.n = 0;
        assert_int_equal(store_dependency_list(f->store, &a.id, dependency_fn, &e), 0);
        assert_int_equal(e.n, 2);
        e.n = 0;
        assert_int_equal(store_dependency_list(f->store, &unknown, dependency_fn, &e), 0);
        assert_int_equal(store_dependant_list(f->store, &unknown, dependant_fn, &e), 0);
        assert_int_equal(e.n, 0);

        assert_refused(f, store_dependency_insert(f->store, &b.id, &b.id, STORE_ON_SUCCESS));
        assert_refused(f, store_dependency_insert(f->store, &b.id, &second.id, 0));
        assert_refused(f, store_dependency_insert(f->store, &b.id, &second.id, 4));
}

/* ---- limits and gates ---- */

static int limit_fn(const StoreLimit *limit, void *userdata) {
        const StoreLimit **next = userdata, *expected = *next;

        assert_string_equal(limit->kind, expected->kind);
        assert_string_equal(limit->name, expected->name);
        assert_int_equal(limit->running, expected->running);
        assert_int_equal(limit->paused, expected->paused);
        assert_int_equal(limit->weight, expected->weight);
        assert_int_equal(limit->queued, expected->queued);
        assert_int_equal(limit->max_tokens_day, expected->max_tokens_day);
        assert_int_equal(limit->max_cost_microusd_day, expected->max_cost_microusd_day);
        assert_int_equal(limit->updated_us, expected->updated_us);
        assert_string_equal(limit->updated_by, expected->updated_by);
        (*next)++;
        return 0;
}

static StoreLimit test_limit(const char *kind, const char *name) {
        return (StoreLimit){ .kind = (char *)kind, .name = (char *)name, .running = -1, .queued = -1,
                             .max_tokens_day = -1, .max_cost_microusd_day = -1, .updated_by = (char *)"uid:0" };
}

static void test_limits(void **state) {
        StoreLimit limits[] = { test_limit("agent", "codex"), test_limit("global", ""), test_limit("group", "a"),
                                test_limit("group", "b"), test_limit("principal", "uid:1") };
        const StoreLimit *next = limits;
        StoreLimit bad;
        Fixture *f = *state;

        begin(f);
        for (size_t i = ELEMENTSOF(limits); i-- > 0;)
                assert_int_equal(store_limit_put(f->store, &limits[i]), 0);
        end(f);
        assert_int_equal(store_limit_list(f->store, limit_fn, &next), 0);
        assert_ptr_equal(next, limits + ELEMENTSOF(limits));

        /* Replaced as a whole. */
        limits[2] = (StoreLimit){ (char *)"group", (char *)"a", 0, true, 7, 8, 9, 10, 11, (char *)"key:ops" };
        begin(f);
        assert_int_equal(store_limit_put(f->store, &limits[2]), 0);
        assert_int_equal(store_limit_delete(f->store, "principal", "uid:1"), 0);
        assert_int_equal(store_limit_delete(f->store, "principal", "uid:1"), STORE_E_NOT_FOUND);
        assert_int_equal(store_limit_delete(f->store, "group", "codex"), STORE_E_NOT_FOUND);
        end(f);
        next = limits;
        assert_int_equal(store_limit_list(f->store, limit_fn, &next), 0);
        assert_ptr_equal(next, limits + 4);

        bad = test_limit("nonsense", "a");
        assert_refused(f, store_limit_put(f->store, &bad));
        bad = test_limit("global", "a");
        assert_refused(f, store_limit_put(f->store, &bad));
        bad = test_limit("agent", "");
        assert_refused(f, store_limit_put(f->store, &bad));
        bad = test_limit("agent", "a");
        bad.running = -2;
        assert_refused(f, store_limit_put(f->store, &bad));
        bad = test_limit("agent", "a");
        bad.updated_by = NULL;
        assert_refused(f, store_limit_put(f->store, &bad));
        next = limits;
        assert_int_equal(store_limit_list(f->store, limit_fn, &next), 0);
        assert_ptr_equal(next, limits + 4);
}

static int gate_fn(const StoreGate *gate, void *userdata) {
        const StoreGate **next = userdata, *expected = *next;

        assert_string_equal(gate->account, expected->account);
        assert_int_equal(gate->until_us, expected->until_us);
        assert_str(gate->reason, expected->reason);
        (*next)++;
        return 0;
}

static void test_gates(void **state) {
        StoreGate gates[] = { { (char *)"anthropic", 5, (char *)"rate_limited" }, { (char *)"openai", 6, NULL } };
        const StoreGate *next = gates;
        Fixture *f = *state;

        begin(f);
        assert_int_equal(store_gate_put(f->store, &gates[1]), 0);
        assert_int_equal(store_gate_put(f->store, &gates[0]), 0);
        gates[1].until_us = 9;
        gates[1].reason = (char *)"quota";
        assert_int_equal(store_gate_put(f->store, &gates[1]), 0);
        end(f);
        assert_int_equal(store_gate_list(f->store, gate_fn, &next), 0);
        assert_ptr_equal(next, gates + 2);
        begin(f);
        assert_int_equal(store_gate_delete(f->store, "openai"), 0);
        assert_int_equal(store_gate_delete(f->store, "openai"), STORE_E_NOT_FOUND);
        end(f);
        next = gates;
        assert_int_equal(store_gate_list(f->store, gate_fn, &next), 0);
        assert_ptr_equal(next, gates + 1);
        gates[0].account = NULL;
        assert_refused(f, store_gate_put(f->store, &gates[0]));
}

/* ---- usage ---- */

typedef struct Sums {
        char keys[8][64];
        StoreUsage sums[8];
        uint64_t n_attempts[8];
        size_t n;
} Sums;

static int usage_fn(const char *key, const StoreUsage *sum, uint64_t n_attempts, void *userdata) {
        Sums *s = userdata;

        snprintf(s->keys[s->n], sizeof(s->keys[0]), "%s", key);
        s->sums[s->n] = *sum;
        s->n_attempts[s->n++] = n_attempts;
        return 0;
}

static size_t sum_up(Fixture *f, StoreUsageBy by, uint32_t from, uint32_t to, const char *principal, Sums *ret_sums) {
        *ret_sums = (Sums){};
        assert_int_equal(store_usage_list(f->store, by, from, to, principal, usage_fn, ret_sums), 0);
        return ret_sums->n;
}

static void test_usage(void **state) {
        static const StoreUsage one = { 1, 2, 3, -1, 5 }, two = { 10, 20, 30, -1, -1 };
        static const StoreUsage big = { .input_tokens = INT64_MAX };
        Fixture *f = *state;
        char text[ID_TEXT_MAX];
        Id batch = test_id();
        Sums s;

        id_format(&batch, text);
        assert_int_equal(sum_up(f, STORE_BY_DAY, 0, UINT32_MAX, NULL, &s), 0);
        begin(f);
        assert_int_equal(store_usage_add(f->store, 20000, "uid:1", "codex", NULL, &one, 1), 0);
        assert_int_equal(store_usage_add(f->store, 20000, "uid:1", "codex", &(Id){}, &two, 2), 0);
        assert_int_equal(store_usage_add(f->store, 20000, "uid:1", "gemini", &batch, &one, 1), 0);
        assert_int_equal(store_usage_add(f->store, 20001, "uid:2", "codex", &batch, &one, 1), 0);
        end(f);
        assert_int_equal(sum_up(f, STORE_BY_DAY, 0, UINT32_MAX, NULL, &s), 2);
        assert_string_equal(s.keys[0], "2024-10-04");
        assert_string_equal(s.keys[1], "2024-10-05");
        assert_usage(&s.sums[0], (StoreUsage){ 12, 24, 36, -1, 10 });
        assert_int_equal(s.n_attempts[0], 4);
        assert_usage(&s.sums[1], one);
        assert_int_equal(sum_up(f, STORE_BY_PRINCIPAL, 20000, 20000, NULL, &s), 1);
        assert_string_equal(s.keys[0], "uid:1");
        assert_int_equal(sum_up(f, STORE_BY_PRINCIPAL, 20001, 20002, NULL, &s), 1);
        assert_string_equal(s.keys[0], "uid:2");
        assert_int_equal(sum_up(f, STORE_BY_AGENT, 0, UINT32_MAX, NULL, &s), 2);
        assert_string_equal(s.keys[0], "codex");
        assert_usage(&s.sums[0], (StoreUsage){ 12, 24, 36, -1, 10 });
        assert_string_equal(s.keys[1], "gemini");
        assert_int_equal(sum_up(f, STORE_BY_AGENT, 0, UINT32_MAX, "uid:2", &s), 1);
        assert_usage(&s.sums[0], one);
        assert_int_equal(sum_up(f, STORE_BY_BATCH, 0, UINT32_MAX, NULL, &s), 2);
        assert_string_equal(s.keys[0], "");
        assert_int_equal(s.n_attempts[0], 3);
        assert_string_equal(s.keys[1], text);
        assert_usage(&s.sums[1], (StoreUsage){ 2, 4, 6, -1, 10 });

        /* A worker that lies breaks no sum. */
        begin(f);
        for (size_t i = 0; i < 3; i++)
                assert_int_equal(store_usage_add(f->store, 30000, "uid:1", i ? "a" : "b", NULL, &big, 1), 0);
        end(f);
        assert_int_equal(sum_up(f, STORE_BY_DAY, 30000, 30000, NULL, &s), 1);
        assert_int_equal(s.sums[0].input_tokens, STORE_USAGE_MAX);
        assert_int_equal(s.n_attempts[0], 3);
}

/* ---- events of all tasks ---- */

typedef struct Events {
        uint64_t first, last;
        Id task;
        size_t n, n_other;
} Events;

static int event_fn(uint64_t n, const Id *task_id, const StoreEvent *event, void *userdata) {
        Events *e = userdata;

        assert_string_equal(event->type, "text");
        assert_int_equal(event->n_data, 2);
        assert_memory_equal(event->data, "{}", 2);
        assert_true(n > e->last);
        if (!e->n)
                e->first = n;
        e->last = n;
        e->n++;
        if (!id_equal(task_id, &e->task))
                e->n_other++;
        return 0;
}

static void append(Fixture *f, const Id *task, size_t n) {
        StoreEvent event = { .type = "text", .data = "{}", .n_data = 2 };
        uint64_t seq;

        begin(f);
        for (size_t i = 0; i < n; i++)
                assert_int_equal(store_event_append(f->store, task, &event, &seq), 0);
        end(f);
}

static void test_events_of_all(void **state) {
        StoreTask mine = test_task("uid:1", TASK_RUNNING), other = test_task("uid:2", TASK_RUNNING);
        Fixture *f = *state;
        Events e = { .task = mine.id };
        uint64_t after, last;

        assert_int_equal(store_event_last(f->store, &last), 0);
        assert_int_equal(last, 0);
        assert_int_equal(store_event_list_all(f->store, 0, NULL, 10, event_fn, &e, &after), 0);
        assert_int_equal(after, 0);
        insert(f, &mine);
        insert(f, &other);
        append(f, &mine.id, 3);
        append(f, &other.id, STORE_EXAMINE_MAX + 2);
        append(f, &mine.id, 2);
        assert_int_equal(store_event_last(f->store, &last), 0);
        assert_int_equal(last, STORE_EXAMINE_MAX + 7);

        /* Everybody's, in pages. */
        assert_int_equal(store_event_list_all(f->store, 0, NULL, 5, event_fn, &e, &after), 0);
        assert_int_equal(e.n, 5);
        assert_int_equal(e.n_other, 2);
        assert_int_equal(e.first, 1);
        assert_int_equal(after, 5);
        e.n = 0;
        assert_int_equal(store_event_list_all(f->store, after, NULL, SIZE_MAX, event_fn, &e, &after), 0);
        assert_int_equal(e.n, STORE_EXAMINE_MAX + 2);
        assert_int_equal(after, last);

        /* One principal's: those of others cost a bounded walk a call. */
        e = (Events){ .task = mine.id };
        assert_int_equal(store_event_list_all(f->store, 0, "uid:1", 10, event_fn, &e, &after), 0);
        assert_int_equal(e.n, 3);
        assert_int_equal(after, STORE_EXAMINE_MAX + 3);
        assert_int_equal(store_event_list_all(f->store, after, "uid:1", 10, event_fn, &e, &after), 0);
        assert_int_equal(e.n, 5);
        assert_int_equal(e.n_other, 0);
        assert_int_equal(after, last);
        assert_int_equal(store_event_list_all(f->store, after, "uid:1", 10, event_fn, &e, &after), 0);
        assert_int_equal(e.n, 5);
        assert_int_equal(after, last);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_batch_round_trip, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_batch_discard, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_batch_pages, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_batch_tasks, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_batch_sums, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_dependencies, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_limits, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_gates, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_usage, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_events_of_all, fixture_setup, fixture_teardown),
        };

        if (skip_without_io_uring())
                return 0;
        return cmocka_run_group_tests_name("store-queue", tests, NULL, NULL);
}

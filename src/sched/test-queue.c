/* The order of the queue, what holds tasks back, and what the end of one means to others. */

#include "sched/test-util.h"

#define JSON_OK "{\"type\":\"text\",\"text\":\"hi\"}\n{\"type\":\"done\",\"in\":3,\"out\":4}\n"
#define JSON_RATE_LIMITED "{\"type\":\"error\",\"message\":\"slow down\",\"status\":429}\n"
#define JSON_OVERLOADED "{\"type\":\"error\",\"message\":\"busy\",\"status\":503}\n"

static const char *const code[] = { "code", NULL };
static const char *const both_manifests[] = { MANIFEST_TEXT, MANIFEST_JSON, MANIFEST_OTHER, NULL };

/* A world of one slot in all, where nothing starts before world_go(). */
static void world_one_slot(World *w, uint64_t seed) {
        world_init(w, seed);
        w->config.running_max = 1;
        world_stop(w);
        world_start(w);
        w->launcher.down = true;
}

static void poll_succeed(World *w) {
        for (size_t i = 0; i < w->launcher.n; i++) {
                FakeAttempt *a = w->launcher.attempts[i];
                if (!a->spawned || a->exited)
                        continue;
                fake_print(a, 1, streq(a->agent, "json") ? JSON_OK : "hi\n");
                fake_exit(a, LAUNCH_HOW_EXITED, 0);
        }
}

static void world_go(World *w) {
        w->launcher.down = false;
        w->poll = poll_succeed;
        world_run_until(w, sched_stats(w->sched).n_live == 0);
}

static void assert_order(World *w, const char *expected) {
        _cleanup_(buf_deinit) Buf got = BUF_NULL;
        char *s;

        for (size_t i = 0; i < w->launcher.n; i++)
                assert_int_equal(buf_append_str(&got, w->launcher.attempts[i]->prompt), 0);
        assert_int_equal(buf_take_str(&got, &s), 0);
        assert_string_equal(s, expected);
        free(s);
}

static void assert_waits(World *w, const Id *id, const char *reason) {
        _cleanup_(store_task_freep) StoreTask *task = world_load(w, id);
        SchedWaiting waiting;

        assert_true(sched_waiting(w->sched, task, &waiting));
        assert_string_equal(waiting.reason, reason);
        assert_true(waiting.since_us > 0);
}

static void set_limit(World *w, const char *kind, const char *name, int64_t running, bool paused, uint32_t weight) {
        const StoreLimit limit = { .kind = (char *)kind, .name = (char *)name, .running = running, .paused = paused,
                                   .weight = weight, .queued = -1, .max_tokens_day = -1, .max_cost_microusd_day = -1,
                                   .updated_us = 1, .updated_by = (char *)"uid:0" };

        assert_int_equal(store_begin(w->store), 0);
        assert_int_equal(sched_limit_set(w->sched, &limit), 0);
        assert_int_equal(store_end(w->store, true), 0);
}

/* ---- order ---- */

/* One principal's many tasks don't make another's few wait for all of them. */
static void test_fair(void **state) {
        World w;

        world_one_slot(&w, 1);
        for (int i = 0; i < 6; i++)
                world_submit(&w, &(TaskSpec){ .agent = "json", .principal = "key:many", .prompt = "m", .priority = 50 });
        for (int i = 0; i < 2; i++)
                world_submit(&w, &(TaskSpec){ .agent = "text", .principal = "key:few", .prompt = "f", .priority = 50 });
        world_submit(&w, &(TaskSpec){ .agent = "json", .principal = "key:few", .prompt = "!", .priority = 51 });
        world_go(&w);
        assert_order(&w, "!mfmfmmmm");
        world_deinit(&w);
}

static void test_weights(void **state) {
        World w;

        world_one_slot(&w, 2);
        set_limit(&w, "principal", "key:b", -1, false, 3);
        for (int i = 0; i < 8; i++) {
                world_submit(&w, &(TaskSpec){ .agent = "json", .principal = "key:a", .prompt = "a", .priority = 50 });
                world_submit(&w, &(TaskSpec){ .agent = "json", .principal = "key:b", .prompt = "b", .priority = 50 });
        }
        world_go(&w);
        /* Three turns of b to one of a, until b has no more. */
        unsigned n_b = 0;
        for (size_t i = 0; i < 8; i++)
                n_b += streq(w.launcher.attempts[i]->prompt, "b");
        assert_int_equal(n_b, 6);
        world_deinit(&w);
}

/* Whoever was idle has not saved up turns. */
static void test_no_credit(void **state) {
        World w;

        world_one_slot(&w, 3);
        for (int i = 0; i < 6; i++)
                world_submit(&w, &(TaskSpec){ .agent = "json", .principal = "key:a", .prompt = "a", .priority = 50 });
        world_go(&w);
        w.poll = NULL;
        w.launcher.down = true;
        fake_hang_up(&w.launcher);
        world_pass(&w, USEC_PER_SEC);
        for (int i = 0; i < 3; i++)
                world_submit(&w, &(TaskSpec){ .agent = "json", .principal = "key:a", .prompt = "A", .priority = 50 });
        for (int i = 0; i < 3; i++)
                world_submit(&w, &(TaskSpec){ .agent = "json", .principal = "key:b", .prompt = "B", .priority = 50 });
        world_go(&w);
        assert_order(&w, "aaaaaaABABAB");
        world_deinit(&w);
}

/* A point of priority is worth SCHED_AGE_US of waiting, no more and no less. */
static void test_ageing(void **state) {
        World w;

        world_one_slot(&w, 4);
        world_submit(&w, &(TaskSpec){ .agent = "json", .prompt = "l", .priority = 10 });
        world_pass(&w, 9 * SCHED_AGE_US);
        world_submit(&w, &(TaskSpec){ .agent = "json", .prompt = "h", .priority = 20 });
        world_pass(&w, 2 * SCHED_AGE_US);
        world_submit(&w, &(TaskSpec){ .agent = "json", .prompt = "H", .priority = 20 });
        world_go(&w);
        assert_order(&w, "hlH");
        world_deinit(&w);
}

/* ---- what holds back ---- */

static void test_groups(void **state) {
        Id first, second, free_one;
        World w;

        world_init(&w, 5);
        set_limit(&w, "group", "refactor", 1, false, 0);
        first = world_submit(&w, &(TaskSpec){ .agent = "json", .group = "refactor" });
        second = world_submit(&w, &(TaskSpec){ .agent = "json", .group = "refactor" });
        free_one = world_submit(&w, &(TaskSpec){ .agent = "json" });
        world_pass(&w, USEC_PER_SEC);
        assert_int_equal(world_state(&w, &first), TASK_RUNNING);
        assert_int_equal(world_state(&w, &second), TASK_QUEUED);
        assert_int_equal(world_state(&w, &free_one), TASK_RUNNING);
        assert_waits(&w, &second, "limit");
        /* Raised while it waits; and all of it outlives a restart. */
        set_limit(&w, "group", "refactor", 2, false, 0);
        world_run_until(&w, world_state(&w, &second) == TASK_RUNNING);
        set_limit(&w, "group", "refactor", 2, true, 0);
        Id paused = world_submit(&w, &(TaskSpec){ .agent = "json", .group = "refactor" });
        world_pass(&w, USEC_PER_SEC);
        world_crash(&w);
        world_pass(&w, 5 * USEC_PER_SEC);
        assert_waits(&w, &paused, "paused");
        w.poll = poll_succeed;
        world_run_until(&w, sched_stats(w.sched).n_running == 0);
        assert_int_equal(world_state(&w, &paused), TASK_QUEUED);
        assert_int_equal(store_begin(w.store), 0);
        assert_int_equal(sched_limit_unset(w.sched, SCHED_GROUP, "refactor"), 0);
        assert_int_equal(sched_limit_unset(w.sched, SCHED_GROUP, "refactor"), SCHED_E_NOT_FOUND);
        assert_int_equal(store_end(w.store, true), 0);
        world_finish(&w, &paused);
        /* Nobody asks for it any more: it takes no memory. */
        assert_int_equal(w.sched->limits[SCHED_GROUP].n, 0);
        assert_int_equal(w.sched->flows.n, 0);
        world_deinit(&w);
}

static void test_drain(void **state) {
        Id running, waiting;
        World w;

        world_init(&w, 6);
        running = world_submit(&w, &(TaskSpec){ .agent = "json" });
        world_spawned(&w, 0);
        set_limit(&w, "global", "", -1, true, 0);
        waiting = world_submit(&w, &(TaskSpec){ .agent = "json" });
        w.poll = poll_succeed;
        world_run_until(&w, world_is_final(&w, &running));
        world_pass(&w, USEC_PER_SEC);
        assert_waits(&w, &waiting, "draining");
        assert_true(sched_stats(w.sched).draining);
        world_crash(&w);
        world_pass(&w, USEC_PER_SEC);
        assert_int_equal(world_state(&w, &waiting), TASK_QUEUED);
        set_limit(&w, "global", "", -1, false, 0);
        world_finish(&w, &waiting);
        world_deinit(&w);
}

/* A clock that jumps past a deadline: the timer comes later than the slot does. */
static void test_deadline_and_jump(void **state) {
        World w;
        Id id;

        world_one_slot(&w, 9);
        id = world_submit(&w, &(TaskSpec){ .agent = "json", .deadline_us = 3600 * USEC_PER_SEC });
        world_pass(&w, USEC_PER_SEC);
        clock_freeze(clock_monotonic_us(), clock_realtime_us() + 3600 * USEC_PER_SEC);
        w.launcher.down = false;
        world_finish(&w, &id);
        assert_int_equal(world_state(&w, &id), TASK_EXPIRED);
        assert_int_equal(w.launcher.n, 0);
        world_deinit(&w);
}

static void test_principal_limit(void **state) {
        World w;

        world_init(&w, 7);
        w.config.running_per_principal_max = 2;
        world_stop(&w);
        world_start(&w);
        for (int i = 0; i < 5; i++)
                world_submit(&w, &(TaskSpec){ .agent = "json", .principal = "key:a" });
        world_submit(&w, &(TaskSpec){ .agent = "json", .principal = "key:b" });
        world_pass(&w, USEC_PER_SEC);
        assert_int_equal(sched_stats(w.sched).n_running, 3);
        w.poll = poll_succeed;
        world_run_until(&w, sched_stats(w.sched).n_live == 0);
        assert_int_equal(w.launcher.n, 6);
        world_deinit(&w);
}

static void test_deadline(void **state) {
        Id late, in_time, refused;
        World w;

        world_one_slot(&w, 8);
        late = world_submit(&w, &(TaskSpec){ .agent = "json", .deadline_us = 60 * USEC_PER_SEC });
        in_time = world_submit(&w, &(TaskSpec){ .agent = "json", .deadline_us = 500 * USEC_PER_SEC });
        TaskSpec spec = { .agent = "json", .delay_us = 200 * USEC_PER_SEC, .deadline_us = 300 * USEC_PER_SEC };
        Id delayed = world_submit(&w, &spec);
        spec.deadline_us = 100 * USEC_PER_SEC;
        assert_int_equal(world_try_submit(&w, &spec, &refused), SCHED_E_INVALID);
        world_pass(&w, 59 * USEC_PER_SEC);
        assert_int_equal(world_state(&w, &late), TASK_QUEUED);
        world_pass(&w, 2 * USEC_PER_SEC);
        assert_int_equal(world_state(&w, &late), TASK_EXPIRED);
        world_crash(&w);
        world_pass(&w, 250 * USEC_PER_SEC);
        assert_int_equal(world_state(&w, &delayed), TASK_EXPIRED);
        /* One that runs is past it. */
        w.launcher.down = false;
        world_run_until(&w, world_state(&w, &in_time) == TASK_RUNNING);
        world_pass(&w, 300 * USEC_PER_SEC);
        assert_int_equal(world_state(&w, &in_time), TASK_RUNNING);
        w.poll = poll_succeed;
        world_finish(&w, &in_time);
        assert_int_equal(world_state(&w, &in_time), TASK_SUCCEEDED);
        world_deinit(&w);
}

/* ---- health ---- */

/* The account is rate-limited: the others don't burn their attempts on it, also not after a restart. */
static void test_gate(void **state) {
        Id limited, waiting;
        World w;

        world_init(&w, 9);
        limited = world_submit(&w, &(TaskSpec){ .agent = "json" });
        FakeAttempt *a = world_spawned(&w, 0);
        fake_print(a, 1, JSON_RATE_LIMITED);
        fake_exit(a, LAUNCH_HOW_EXITED, 1);
        world_run_until(&w, world_is_final(&w, &limited));
        waiting = world_submit(&w, &(TaskSpec){ .agent = "json" });
        Id other = world_submit(&w, &(TaskSpec){ .agent = "text" });
        w.poll = poll_succeed;
        world_run_until(&w, world_is_final(&w, &other));
        world_pass(&w, 10 * USEC_PER_SEC);
        assert_waits(&w, &waiting, "gate");
        assert_string_equal(sched_agent(w.sched, 1).gate_reason, "rate_limited");
        world_crash(&w);
        world_pass(&w, 10 * USEC_PER_SEC);
        assert_waits(&w, &waiting, "gate");
        assert_int_equal(w.launcher.n, 2);
        world_finish(&w, &waiting);
        assert_int_equal(world_state(&w, &waiting), TASK_SUCCEEDED);
        assert_int_equal(sched_agent(w.sched, 1).gate_until_us, 0);
        world_deinit(&w);
}

static void fail_one(World *w, size_t i, const char *how) {
        FakeAttempt *a = world_spawned(w, i);

        fake_print(a, 1, how);
        fake_exit(a, LAUNCH_HOW_EXITED, 1);
}

static void test_breaker(void **state) {
        Id ids[7], last;
        World w;

        world_init(&w, 10);
        for (size_t i = 0; i < 5; i++) {
                ids[i] = world_submit(&w, &(TaskSpec){ .agent = "json" });
                fail_one(&w, i, JSON_OVERLOADED);
                world_finish(&w, &ids[i]);
        }
        assert_int_equal(sched_agent(w.sched, 1).breaker, SCHED_BREAKER_OPEN);
        for (size_t i = 5; i < 7; i++)
                ids[i] = world_submit(&w, &(TaskSpec){ .agent = "json" });
        world_pass(&w, 20 * USEC_PER_SEC);
        assert_waits(&w, &ids[5], "breaker");
        assert_int_equal(w.launcher.n, 5);
        /* Half-open: one tries, the other waits for what comes of it. */
        world_spawned(&w, 5);
        world_pass(&w, 20 * USEC_PER_SEC);
        assert_int_equal(w.launcher.n, 6);
        assert_int_equal(sched_agent(w.sched, 1).breaker, SCHED_BREAKER_HALF_OPEN);
        fail_one(&w, 5, JSON_OVERLOADED);
        world_pass(&w, 30 * USEC_PER_SEC);
        assert_int_equal(sched_agent(w.sched, 1).breaker, SCHED_BREAKER_OPEN);
        assert_int_equal(w.launcher.n, 6);
        w.poll = poll_succeed;
        world_finish(&w, &ids[6]);
        assert_int_equal(world_state(&w, &ids[6]), TASK_SUCCEEDED);
        assert_int_equal(sched_agent(w.sched, 1).breaker, SCHED_BREAKER_CLOSED);
        /* A task's own failure is none of the agent's. */
        w.poll = NULL;
        for (size_t i = 0; i < 8; i++) {
                last = world_submit(&w, &(TaskSpec){ .agent = "text" });
                fake_exit(world_spawned(&w, 7 + i), LAUNCH_HOW_EXITED, 3);
                world_finish(&w, &last);
        }
        assert_int_equal(sched_agent(w.sched, 0).breaker, SCHED_BREAKER_CLOSED);
        world_deinit(&w);
}

/* One caller's failures don't close an agent for the others; an administrator may open what is closed. */
static void test_breaker_of_one(void **state) {
        World w;
        Id id;

        world_init(&w, 23);
        Id other = world_submit(&w, &(TaskSpec){ .agent = "text", .principal = "key:other", .delay_us = 9000 * USEC_PER_SEC });
        for (size_t i = 0; i < 8; i++) {
                id = world_submit(&w, &(TaskSpec){ .agent = "json", .principal = "key:one" });
                fail_one(&w, i, JSON_OVERLOADED);
                world_run_until(&w, world_is_final(&w, &id));
        }
        assert_int_equal(sched_agent(w.sched, 1).breaker, SCHED_BREAKER_CLOSED);
        id = world_submit(&w, &(TaskSpec){ .agent = "json", .principal = "key:other" });
        fail_one(&w, 8, JSON_OVERLOADED);
        world_run_until(&w, world_is_final(&w, &id));
        assert_int_equal(sched_agent(w.sched, 1).breaker, SCHED_BREAKER_OPEN);
        assert_int_equal(store_begin(w.store), 0);
        assert_int_equal(sched_agent_reset(w.sched, "none"), SCHED_E_NO_AGENT);
        assert_int_equal(sched_agent_reset(w.sched, "json"), 0);
        assert_int_equal(store_end(w.store, true), 0);
        assert_int_equal(sched_agent(w.sched, 1).breaker, SCHED_BREAKER_CLOSED);
        id = world_submit(&w, &(TaskSpec){ .agent = "json" });
        world_spawned(&w, 9);
        assert_int_equal(world_cancel(&w, &other), 0);
        w.poll = poll_succeed;
        world_run_until(&w, sched_stats(w.sched).n_live == 0);
        world_deinit(&w);
}

/* What an agent's output says of a wait is believed for an hour; then one task tries, and a success opens the gate. */
static void test_gate_of_days(void **state) {
        Id first, waiting[3];
        World w;

        world_init(&w, 24);
        first = world_submit(&w, &(TaskSpec){ .agent = "json" });
        fail_one(&w, 0, "{\"type\":\"error\",\"message\":\"try again in 6 days\",\"status\":429}\n");
        world_run_until(&w, world_is_final(&w, &first));
        for (size_t i = 0; i < 3; i++)
                waiting[i] = world_submit(&w, &(TaskSpec){ .agent = "json" });
        world_pass(&w, 3700 * USEC_PER_SEC);
        assert_int_equal(w.launcher.n, 2);
        w.poll = poll_succeed;
        world_run_until(&w, sched_stats(w.sched).n_live == 0);
        for (size_t i = 0; i < 3; i++)
                assert_int_equal(world_state(&w, &waiting[i]), TASK_SUCCEEDED);
        assert_int_equal(sched_agent(w.sched, 1).gate_until_us, 0);
        world_crash(&w);
        assert_int_equal(sched_agent(w.sched, 1).gate_until_us, 0);
        world_deinit(&w);
}

/* A task that names no agent moves on where one fails for reasons of its own. */
static void test_fallback(void **state) {
        World w;
        Id id;

        world_init(&w, 11);
        w.manifests = both_manifests;
        world_crash(&w);
        id = world_submit(&w, &(TaskSpec){ .capabilities = code });
        FakeAttempt *a = world_spawned(&w, 0);
        assert_string_equal(a->agent, "json");
        fake_print(a, 1, JSON_RATE_LIMITED);
        fake_exit(a, LAUNCH_HOW_EXITED, 1);
        a = world_spawned(&w, 1);
        assert_string_equal(a->agent, "other");
        world_pass(&w, USEC_PER_SEC);
        world_crash(&w);
        fake_print(a, 1, "well\n");
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        world_finish(&w, &id);
        StoreTask *task = world_load(&w, &id);
        assert_int_equal(task->state, TASK_SUCCEEDED);
        assert_string_equal(task->agent, "other");
        assert_string_equal(task->candidates, "json other");
        assert_int_equal(task->n_attempts, 2);
        store_task_free(task);
        /* While the first is gated, the next goes to the other at once; a full one is passed over too. */
        id = world_submit(&w, &(TaskSpec){ .capabilities = code });
        a = world_spawned(&w, 2);
        assert_string_equal(a->agent, "other");
        set_limit(&w, "agent", "other", 1, false, 0);
        Id waiting = world_submit(&w, &(TaskSpec){ .capabilities = code });
        world_pass(&w, USEC_PER_SEC);
        assert_waits(&w, &waiting, "gate");
        w.poll = poll_succeed;
        world_finish(&w, &waiting);
        world_deinit(&w);
}

/* Cancelled while it ran on an agent that is gone after the restart: no other agent runs it. */
static void test_cancelled_and_gone(void **state) {
        static const char *const without_json[] = { MANIFEST_TEXT, MANIFEST_OTHER, NULL };
        World w;
        Id id;

        world_init(&w, 16);
        w.manifests = both_manifests;
        world_crash(&w);
        w.launcher.obey_kill = false;
        id = world_submit(&w, &(TaskSpec){ .capabilities = code });
        assert_string_equal(world_spawned(&w, 0)->agent, "json");
        assert_int_equal(world_cancel(&w, &id), 0);
        world_pass(&w, USEC_PER_SEC);
        w.manifests = without_json;
        world_crash(&w);
        world_finish(&w, &id);
        assert_int_equal(world_state(&w, &id), TASK_CANCELLED);
        assert_int_equal(w.launcher.n, 1);
        world_deinit(&w);
}

/* Both fail: each had its turn, and that is the end. */
static void test_fallback_ends(void **state) {
        World w;
        Id id;

        world_init(&w, 12);
        w.manifests = both_manifests;
        world_crash(&w);
        id = world_submit(&w, &(TaskSpec){ .capabilities = code });
        fail_one(&w, 0, "{\"type\":\"error\",\"message\":\"who are you\",\"status\":401}\n");
        FakeAttempt *a = world_spawned(&w, 1);
        assert_string_equal(a->agent, "other");
        fake_exit(a, LAUNCH_HOW_EXITED, 1);
        world_finish(&w, &id);
        assert_int_equal(world_state(&w, &id), TASK_FAILED);
        assert_int_equal(w.launcher.n, 2);
        world_deinit(&w);
}

/* ---- resources ---- */

static unsigned live_attempts(const World *w, uint64_t *ret_gpus) {
        unsigned n = 0;

        *ret_gpus = 0;
        for (size_t i = 0; i < w->launcher.n; i++) {
                const FakeAttempt *a = w->launcher.attempts[i];
                if (a->forgotten)
                        continue;
                n++;
                /* Nobody holds what another holds: there is one share of each. */
                assert_int_equal(*ret_gpus & a->gpus, 0);
                *ret_gpus |= a->gpus;
        }
        return n;
}

static void test_gpus(void **state) {
        Id ids[6], none;
        uint64_t held;
        World w;

        world_init(&w, 16);
        w.launcher.n_gpus = 4;
        w.launcher.cpus = 8;
        w.launcher.memory = GIB(16);
        world_crash(&w);
        world_run_until(&w, launcher_client_is_ready(w.client));
        assert_int_equal(world_try_submit(&w, &(TaskSpec){ .agent = "json", .gpus = 5 }, &none), SCHED_E_UNSUPPORTED);
        assert_non_null(strstr(w.detail, "this machine has 4"));
        for (size_t i = 0; i < 6; i++)
                ids[i] = world_submit(&w, &(TaskSpec){ .agent = "json", .gpus = 1 });
        world_pass(&w, USEC_PER_SEC);
        assert_int_equal(live_attempts(&w, &held), 4);
        assert_int_equal(held, 0xf);
        assert_waits(&w, &ids[5], "resources");
        /* After a restart they still hold what they held. */
        world_crash(&w);
        world_pass(&w, USEC_PER_SEC);
        assert_int_equal(live_attempts(&w, &held), 4);
        fake_exit(w.launcher.attempts[2], LAUNCH_HOW_EXITED, 1);
        world_run_until(&w, w.launcher.n == 5);
        world_pass(&w, USEC_PER_SEC);
        assert_int_equal(live_attempts(&w, &held), 4);
        assert_int_equal(held, 0xf);
        w.poll = poll_succeed;
        world_run_until(&w, sched_stats(w.sched).n_live == 0);
        for (size_t i = 0; i < w.sched->resources.n_gpus; i++)
                assert_int_equal(w.sched->resources.gpus_used[i], 0);
        world_deinit(&w);
}

/* Shares: several a GPU, spread over them; CPUs and memory are counted too. */
static void test_shares(void **state) {
        World w;

        world_init(&w, 17);
        w.launcher.n_gpus = 2;
        w.launcher.gpu_shares = 2;
        w.launcher.cpus = 4;
        w.launcher.memory = GIB(8);
        world_crash(&w);
        for (size_t i = 0; i < 5; i++)
                world_submit(&w, &(TaskSpec){ .agent = "json", .gpus = 1 });
        world_pass(&w, USEC_PER_SEC);
        assert_int_equal(w.launcher.n, 4);
        assert_int_equal(w.sched->resources.gpus_used[0], 2);
        assert_int_equal(w.sched->resources.gpus_used[1], 2);
        assert_true(w.launcher.attempts[0]->gpus != w.launcher.attempts[1]->gpus);
        for (size_t i = 0; i < 3; i++)
                world_submit(&w, &(TaskSpec){ .agent = "json", .cpus_milli = 1500, .memory = GIB(1) });
        for (size_t i = 0; i < 3; i++)
                world_submit(&w, &(TaskSpec){ .agent = "json", .memory = GIB(3) });
        world_pass(&w, USEC_PER_SEC);
        /* Two of 1.5 CPUs and 1 GiB, two of 3 GiB. */
        assert_int_equal(w.launcher.n, 8);
        assert_int_equal(w.sched->resources.cpus_milli_used, 3000);
        assert_int_equal(w.sched->resources.memory_used, GIB(8));
        w.poll = poll_succeed;
        world_run_until(&w, sched_stats(w.sched).n_live == 0);
        assert_int_equal(w.sched->resources.cpus_milli_used, 0);
        assert_int_equal(w.sched->resources.memory_used, 0);
        world_deinit(&w);
}

/* A task that wants all of them gets its turn though small ones come without end. */
static void test_gang(void **state) {
        uint64_t held;
        World w;
        Id big;

        world_init(&w, 18);
        w.launcher.n_gpus = 4;
        w.launcher.cpus = 8;
        w.launcher.memory = GIB(16);
        world_crash(&w);
        for (size_t i = 0; i < 4; i++)
                world_submit(&w, &(TaskSpec){ .agent = "json", .gpus = 1, .prompt = "s" });
        world_spawned(&w, 3);
        big = world_submit(&w, &(TaskSpec){ .agent = "json", .gpus = 4, .prompt = "BIG" });
        /* Each second one ends and another comes. */
        for (unsigned i = 0; i < 120 && world_state(&w, &big) == TASK_QUEUED; i++) {
                world_submit(&w, &(TaskSpec){ .agent = "json", .gpus = 1, .prompt = "s" });
                if (i < w.launcher.n)
                        fake_exit(w.launcher.attempts[i], LAUNCH_HOW_EXITED, 1);
                world_pass(&w, USEC_PER_SEC);
        }
        assert_int_equal(world_state(&w, &big), TASK_RUNNING);
        assert_in_range(w.launcher.n, 10, 60);
        assert_int_equal(live_attempts(&w, &held), 1);
        /* What needs no GPU was never held up by it. */
        Id other = world_submit(&w, &(TaskSpec){ .agent = "text" });
        world_run_until(&w, world_state(&w, &other) == TASK_RUNNING);
        w.poll = poll_succeed;
        world_run_until(&w, sched_stats(w.sched).n_live == 0);
        world_deinit(&w);
}

/* A machine that has become smaller keeps no room for what it can't hold. */
static void test_too_large(void **state) {
        World w;
        Id big;

        world_init(&w, 25);
        w.launcher.n_gpus = 4;
        w.launcher.cpus = 8;
        w.launcher.memory = GIB(16);
        world_crash(&w);
        world_run_until(&w, launcher_client_is_ready(w.client));
        set_limit(&w, "global", "", -1, true, 0);
        big = world_submit(&w, &(TaskSpec){ .agent = "json", .gpus = 4, .memory = GIB(10) });
        world_pass(&w, USEC_PER_SEC);
        w.launcher.n_gpus = 2;
        fake_hang_up(&w.launcher);
        world_crash(&w);
        set_limit(&w, "global", "", -1, false, 0);
        world_pass(&w, 60 * USEC_PER_SEC);
        assert_waits(&w, &big, "resources");
        for (size_t i = 0; i < 5; i++)
                world_submit(&w, &(TaskSpec){ .agent = "json", .gpus = 1, .memory = GIB(1) });
        w.poll = poll_succeed;
        world_run_until(&w, sched_stats(w.sched).n_live == 1);
        assert_int_equal(world_cancel(&w, &big), 0);
        world_run_until(&w, sched_stats(w.sched).n_live == 0);
        assert_int_equal(world_try_submit(&w, &(TaskSpec){ .agent = "json", .memory = 1 }, &big), SCHED_E_INVALID);
        world_deinit(&w);
}

/* ---- budgets ---- */

static Id make_batch(World *w, uint64_t max_tokens) {
        const StoreBatch batch = { .id = test_id(), .principal = (char *)"uid:1", .metadata = (char *)"{}", .n_tasks = 9,
                                   .max_tokens = max_tokens, .created_us = 1 };

        assert_int_equal(store_begin(w->store), 0);
        assert_int_equal(store_batch_insert(w->store, &batch), 0);
        assert_int_equal(store_end(w->store, true), 0);
        return batch.id;
}

/* Reservations: those that start together share the budget; what they did not use goes to others; then it is over. */
static void test_batch_budget(void **state) {
        Id ids[9], batch, outside;
        unsigned n_done = 0;
        World w;

        world_init(&w, 19);
        batch = make_batch(&w, 30);
        for (size_t i = 0; i < ELEMENTSOF(ids); i++)
                ids[i] = world_submit(&w, &(TaskSpec){ .agent = "json", .batch = batch, .max_tokens = 10 });
        outside = world_submit(&w, &(TaskSpec){ .agent = "json" });
        world_pass(&w, USEC_PER_SEC);
        assert_int_equal(w.launcher.n, 4);
        assert_int_equal(world_state(&w, &outside), TASK_RUNNING);
        assert_waits(&w, &ids[8], "budget");
        world_crash(&w);
        world_pass(&w, USEC_PER_SEC);
        assert_int_equal(w.launcher.n, 4);
        w.poll = poll_succeed;
        world_run_until(&w, sched_stats(w.sched).n_live == 0);
        for (size_t i = 0; i < ELEMENTSOF(ids); i++) {
                StoreTask *task = world_load(&w, &ids[i]);
                n_done += task->state == TASK_SUCCEEDED;
                if (task->state != TASK_SUCCEEDED) {
                        assert_int_equal(task->state, TASK_FAILED);
                        assert_string_equal(task->reason, "budget");
                }
                store_task_free(task);
        }
        /* Seven tokens each: after four there are two left, which the fifth may try with. */
        assert_in_range(n_done, 4, 5);
        assert_int_equal(w.sched->budgets.n, 0);
        world_deinit(&w);
}

/* Told to use 5, it used 11: it is ended, and not tried again. */
static void test_over_budget(void **state) {
        World w;
        Id id;

        world_init(&w, 20);
        id = world_submit(&w, &(TaskSpec){ .agent = "json", .max_tokens = 5, .max_attempts = 3 });
        FakeAttempt *a = world_spawned(&w, 0);
        fake_print(a, 1, "{\"type\":\"done\",\"in\":10,\"out\":1}\n");
        world_run_until(&w, a->n_kills == 1);
        world_finish(&w, &id);
        StoreTask *task = world_load(&w, &id);
        assert_int_equal(task->n_attempts, 1);
        assert_int_equal(task->usage.input_tokens, 10);
        store_task_free(task);
        world_deinit(&w);
}

static void test_day_budget(void **state) {
        const StoreLimit limit = { .kind = (char *)"principal", .name = (char *)"uid:1", .running = -1, .queued = -1,
                                   .max_tokens_day = 20, .max_cost_microusd_day = -1, .updated_us = 1,
                                   .updated_by = (char *)"uid:0" };
        StoreLimit global = limit;
        Id ids[5], other;
        World w;

        world_init(&w, 21);
        global.kind = (char *)"global";
        global.name = (char *)"";
        assert_int_equal(store_begin(w.store), 0);
        assert_int_equal(sched_limit_set(w.sched, &limit), 0);
        assert_int_equal(sched_limit_set(w.sched, &global), SCHED_E_INVALID);
        assert_int_equal(store_end(w.store, true), 0);
        w.poll = poll_succeed;
        for (size_t i = 0; i < ELEMENTSOF(ids); i++)
                ids[i] = world_submit(&w, &(TaskSpec){ .agent = "json", .max_tokens = 10 });
        other = world_submit(&w, &(TaskSpec){ .agent = "json", .principal = "uid:2", .max_tokens = 10 });
        world_run_until(&w, world_is_final(&w, &other));
        world_pass(&w, 5 * USEC_PER_SEC);
        /* Two, and one with what is left; then it is used up until midnight. */
        assert_int_equal(w.launcher.n, 4);
        assert_waits(&w, &ids[4], "budget");
        world_crash(&w);
        world_pass(&w, 5 * USEC_PER_SEC);
        assert_int_equal(w.launcher.n, 4);
        assert_waits(&w, &ids[4], "budget");
        world_pass(&w, 24 * 3600 * USEC_PER_SEC);
        world_finish(&w, &ids[4]);
        assert_int_equal(world_state(&w, &ids[4]), TASK_SUCCEEDED);
        world_deinit(&w);
}

/* ---- dependencies ---- */

static void test_dependencies(void **state) {
        Id good, bad, after_both, after_bad, cleanup, anyway;
        World w;

        world_init(&w, 13);
        good = world_submit(&w, &(TaskSpec){ .agent = "text", .prompt = "g" });
        bad = world_submit(&w, &(TaskSpec){ .agent = "text", .prompt = "b" });
        Id two[] = { good, bad };
        after_both = world_submit(&w, &(TaskSpec){ .agent = "text", .after = two, .n_after = 2, .on = STORE_ON_FINISH });
        after_bad = world_submit(&w, &(TaskSpec){ .agent = "text", .after = &bad, .n_after = 1 });
        Id after_after = world_submit(&w, &(TaskSpec){ .agent = "text", .after = &after_bad, .n_after = 1 });
        cleanup = world_submit(&w, &(TaskSpec){ .agent = "text", .after = &bad, .n_after = 1, .on = STORE_ON_FAILURE });
        anyway = world_submit(&w, &(TaskSpec){ .agent = "text", .after = &bad, .n_after = 1,
                                               .on_unmet = STORE_UNMET_RUN });
        world_spawned(&w, 1);
        world_pass(&w, USEC_PER_SEC);
        assert_waits(&w, &after_both, "dependency");
        assert_int_equal(w.launcher.n, 2);
        fake_exit(w.launcher.attempts[0], LAUNCH_HOW_EXITED, 0);
        world_run_until(&w, world_is_final(&w, &good));
        world_crash(&w);
        world_pass(&w, USEC_PER_SEC);
        assert_int_equal(world_state(&w, &after_both), TASK_BLOCKED);
        fake_exit(w.launcher.attempts[1], LAUNCH_HOW_EXITED, 1);
        world_run_until(&w, world_is_final(&w, &bad));
        w.poll = poll_succeed;
        world_run_until(&w, sched_stats(w.sched).n_live == 0);
        assert_int_equal(world_state(&w, &after_both), TASK_SUCCEEDED);
        assert_int_equal(world_state(&w, &cleanup), TASK_SUCCEEDED);
        assert_int_equal(world_state(&w, &anyway), TASK_SUCCEEDED);
        /* What it waited for can't come any more: it is over, and so is what waited for it. */
        StoreTask *task = world_load(&w, &after_bad);
        assert_int_equal(task->state, TASK_CANCELLED);
        assert_string_equal(task->reason, "dependency");
        store_task_free(task);
        assert_int_equal(world_state(&w, &after_after), TASK_CANCELLED);
        /* Of tasks that have ended already: decided at once. */
        assert_int_equal(world_try_submit(&w, &(TaskSpec){ .agent = "text", .after = &bad, .n_after = 1 }, &after_bad), 0);
        assert_int_equal(world_state(&w, &after_bad), TASK_CANCELLED);
        after_both = world_submit(&w, &(TaskSpec){ .agent = "text", .after = &good, .n_after = 1 });
        world_finish(&w, &after_both);
        assert_int_equal(world_state(&w, &after_both), TASK_SUCCEEDED);
        Id none = test_id();
        assert_int_equal(world_try_submit(&w, &(TaskSpec){ .agent = "text", .after = &none, .n_after = 1 }, &bad),
                         SCHED_E_INVALID);
        world_deinit(&w);
}

/* Results of earlier tasks in the prompt, cut where they are large; a restart before the SPAWN makes no difference. */
static void test_results_in_prompt(void **state) {
        char prompt[512], id_text[ID_TEXT_MAX], *big = calloc(1, KIB(80));
        Id one, two, both[2], last, stranger;
        World w;

        assert_non_null(big);
        world_init(&w, 22);
        one = world_submit(&w, &(TaskSpec){ .agent = "text" });
        two = world_submit(&w, &(TaskSpec){ .agent = "text" });
        both[0] = one;
        both[1] = two;
        world_spawned(&w, 1);
        id_format(&one, id_text);
        snprintf(prompt, sizeof(prompt), "sum {{tasks.%s.result}} and {{after.1.result}}; {{not.this}} {{after.1.other}} {{",
                 id_text);
        TaskSpec spec = { .agent = "json", .prompt = prompt, .after = both, .n_after = 2 };
        last = world_submit(&w, &spec);
        spec.after = &two;
        spec.n_after = 1;
        assert_int_equal(world_try_submit(&w, &spec, &stranger), SCHED_E_INVALID);
        assert_non_null(strstr(w.detail, "name it in 'after'"));
        char *many = calloc(1, 300 * 18 + 1);
        assert_non_null(many);
        for (size_t i = 0; i < 300; i++)
                memcpy(many + i * 18, "{{after.0.result}}", 18);
        spec.prompt = many;
        assert_int_equal(world_try_submit(&w, &spec, &stranger), SCHED_E_INVALID);
        free(many);
        memset(big, 'x', KIB(70));
        for (size_t i = 0; i < 2; i++) {
                bool is_one = id_equal(&w.launcher.attempts[i]->task, &one);
                fake_print(w.launcher.attempts[i], 1, is_one ? "{{after.1.result}}" : big);
                fake_exit(w.launcher.attempts[i], LAUNCH_HOW_EXITED, 0);
        }
        w.launcher.deaf = true;
        world_run_until(&w, world_state(&w, &last) == TASK_RUNNING);
        world_pass(&w, USEC_PER_SEC);
        w.launcher.deaf = false;
        world_crash(&w);
        FakeAttempt *a = world_spawned(&w, 2);
        /* What came in by one result is not looked at again. */
        assert_int_equal(strncmp(a->prompt, "sum {{after.1.result}} and xxxx", 31), 0);
        assert_non_null(strstr(a->prompt, "x\n[the rest of this result is left out]\n; {{not.this}} {{after.1.other}} {{"));
        assert_in_range(strlen(a->prompt), KIB(64), KIB(65));
        w.poll = poll_succeed;
        world_finish(&w, &last);
        free(big);
        world_deinit(&w);
}

/* The first of a set to succeed ends the others, those that run and those that wait. */
static void test_first(void **state) {
        for (unsigned crash = 0; crash < 2; crash++) {
                StoreBatch batch = { .id = test_id(), .principal = (char *)"uid:1", .metadata = (char *)"{}", .n_tasks = 3,
                                     .select = STORE_SELECT_FIRST, .created_us = 1 };
                Id ids[3];
                World w;

                world_init(&w, 14);
                assert_int_equal(store_begin(w.store), 0);
                assert_int_equal(store_batch_insert(w.store, &batch), 0);
                assert_int_equal(store_end(w.store, true), 0);
                for (size_t i = 0; i < ELEMENTSOF(ids); i++)
                        ids[i] = world_submit(&w, &(TaskSpec){ .agent = "json", .batch = batch.id,
                                                               .delay_us = i == 2 ? 100 * USEC_PER_SEC : 0 });
                world_spawned(&w, 1);
                world_pass(&w, USEC_PER_SEC);
                if (crash)
                        world_crash(&w);
                fake_print(w.launcher.attempts[1], 1, JSON_OK);
                fake_exit(w.launcher.attempts[1], LAUNCH_HOW_EXITED, 0);
                world_run_until(&w, sched_stats(w.sched).n_live == 0);
                unsigned n = 0;
                for (size_t i = 0; i < ELEMENTSOF(ids); i++)
                        n += world_state(&w, &ids[i]) == TASK_CANCELLED;
                assert_int_equal(n, 2);
                assert_int_equal(w.launcher.n, 2);
                assert_int_equal(w.launcher.attempts[0]->n_kills, 1);
                world_deinit(&w);
        }
}

static void test_again(void **state) {
        SchedTask *t = NULL;
        World w;
        Id id;

        world_init(&w, 15);
        id = world_submit(&w, &(TaskSpec){ .agent = "text" });
        fake_exit(world_spawned(&w, 0), LAUNCH_HOW_EXITED, 1);
        world_finish(&w, &id);
        assert_int_equal(world_state(&w, &id), TASK_FAILED);
        assert_int_equal(store_begin(w.store), 0);
        assert_int_equal(sched_requeue(w.sched, &id, &t, w.detail), 0);
        assert_int_equal(store_end(w.store, true), 0);
        sched_submitted(t, true);
        w.poll = poll_succeed;
        world_finish(&w, &id);
        assert_int_equal(world_state(&w, &id), TASK_SUCCEEDED);
        assert_int_equal(store_begin(w.store), 0);
        assert_int_equal(sched_requeue(w.sched, &id, &t, w.detail), SCHED_E_FINAL);
        assert_int_equal(store_end(w.store, false), 0);
        StoreTask *task = world_load(&w, &id);
        assert_int_equal(task->n_attempts, 2);
        store_task_free(task);
        world_deinit(&w);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_fair),
                cmocka_unit_test(test_weights),
                cmocka_unit_test(test_no_credit),
                cmocka_unit_test(test_ageing),
                cmocka_unit_test(test_groups),
                cmocka_unit_test(test_drain),
                cmocka_unit_test(test_principal_limit),
                cmocka_unit_test(test_deadline),
                cmocka_unit_test(test_deadline_and_jump),
                cmocka_unit_test(test_gate),
                cmocka_unit_test(test_breaker),
                cmocka_unit_test(test_breaker_of_one),
                cmocka_unit_test(test_gate_of_days),
                cmocka_unit_test(test_fallback),
                cmocka_unit_test(test_cancelled_and_gone),
                cmocka_unit_test(test_fallback_ends),
                cmocka_unit_test(test_gpus),
                cmocka_unit_test(test_shares),
                cmocka_unit_test(test_gang),
                cmocka_unit_test(test_too_large),
                cmocka_unit_test(test_batch_budget),
                cmocka_unit_test(test_over_budget),
                cmocka_unit_test(test_day_budget),
                cmocka_unit_test(test_dependencies),
                cmocka_unit_test(test_results_in_prompt),
                cmocka_unit_test(test_first),
                cmocka_unit_test(test_again),
        };
        return cmocka_run_group_tests_name("sched-queue", tests, NULL, NULL);
}

/* Another configuration while tasks wait and run: limits, agents that come, change and go, groups, accounts. */

#include "sched/test-util.h"

#define JSON_OK "{\"type\":\"text\",\"text\":\"hi\"}\n{\"type\":\"done\",\"in\":3,\"out\":4}\n"
/* The same agent after an upgrade that says `end` where it said `done`. */
#define MANIFEST_JSON_NEW                                                                                              \
        "version: 1\nname: json\ntitle: Json 2\ninstall: none\ncapabilities: [code]\nconcurrency: 2\n"                 \
        "command: {find: [/bin/sh]}\noutput:\n  format: json-lines\n  events:\n"                                       \
        "    - {match: {/type: text}, emit: text, data: {text: /text}, answer: join}\n"                                \
        "    - match: {/type: end}\n      success: yes\n"

static const char *const code[] = { "code", NULL };

static int configure(World *w, const char *const *manifests) {
        Adapter *adapters[SCHED_AGENTS_MAX + 1] = {};
        size_t n = 0;
        int r;

        for (; manifests[n]; n++)
                adapters[n] = load_manifest(manifests[n]);
        r = sched_configure(w->sched, &w->config, adapters, n);
        for (size_t i = 0; i < n; i++)
                adapter_free(adapters[i]);
        return r;
}

static void configure_good(World *w, const char *const *manifests) {
        assert_int_equal(configure(w, manifests), 0);
}

static void assert_ended(World *w, const Id *id, TaskState state, const char *reason) {
        _cleanup_(store_task_freep) StoreTask *task = world_load(w, id);

        assert_int_equal(task->state, state);
        assert_string_equal(task->reason, reason);
}

static void test_limits(void **state) {
        static const SchedLimitConfig limits[] = {
                { .kind = SCHED_PRINCIPAL, .name = (char *)"key:a", .running = 1 },
                { .kind = SCHED_GROUP, .name = (char *)"g", .running = SCHED_NO_LIMIT, .paused = true },
        };
        Id id;
        World w;

        world_init(&w, 1);
        for (int i = 0; i < 6; i++)
                world_submit(&w, &(TaskSpec){ .agent = "json", .principal = "key:a" });
        world_run_until(&w, sched_stats(w.sched).n_running == 6);

        /* Fewer: what runs goes on, and nothing more starts. */
        w.config.running_max = 8;
        w.config.limits = limits;
        w.config.n_limits = ELEMENTSOF(limits);
        configure_good(&w, world_manifests);
        world_submit(&w, &(TaskSpec){ .agent = "json", .principal = "key:a" });
        world_submit(&w, &(TaskSpec){ .agent = "json", .principal = "key:b" });
        id = world_submit(&w, &(TaskSpec){ .agent = "json", .principal = "key:b", .group = "g" });
        world_pass(&w, USEC_PER_SEC);
        assert_int_equal(sched_stats(w.sched).n_running, 7);
        assert_int_equal(sched_stats(w.sched).n_waiting, 2);

        /* And back: what the limits held is let go. */
        w.config.n_limits = 0;
        configure_good(&w, world_manifests);
        world_run_until(&w, sched_stats(w.sched).n_running == 8);
        w.config.running_max = 10;
        configure_good(&w, world_manifests);
        world_run_until(&w, world_state(&w, &id) == TASK_RUNNING);
        assert_int_equal(sched_stats(w.sched).n_waiting, 0);
        world_deinit(&w);
}

/* Prompts are counted in bytes, also those from before a restart, and from before there was a limit. */
static void test_bytes(void **state) {
        Id id, done;
        World w;

        world_init(&w, 8);
        w.launcher.down = true;
        world_submit(&w, &(TaskSpec){ .agent = "json", .prompt = "0123456789" });
        world_pass(&w, USEC_PER_SEC);
        world_crash(&w);
        world_submit(&w, &(TaskSpec){ .agent = "json", .prompt = "0123456789" });
        w.config.queued_bytes_max = 30;
        configure_good(&w, world_manifests);
        assert_int_equal(world_try_submit(&w, &(TaskSpec){ .agent = "json", .prompt = "01234567890" }, &id), SCHED_E_FULL);
        done = world_submit(&w, &(TaskSpec){ .agent = "json", .prompt = "0123456789" });
        assert_int_equal(world_try_submit(&w, &(TaskSpec){ .agent = "json", .prompt = "0" }, &id), SCHED_E_FULL);
        assert_string_equal(w.detail, "the queue is full (tasks with prompts of 30 bytes wait or run)");
        world_pass(&w, USEC_PER_SEC);
        world_crash(&w);
        assert_int_equal(world_try_submit(&w, &(TaskSpec){ .agent = "json", .prompt = "0" }, &id), SCHED_E_FULL);
        assert_int_equal(world_cancel(&w, &done), 0);
        world_run_until(&w, world_is_final(&w, &done) && sched_stats(w.sched).n_live == 2);
        world_submit(&w, &(TaskSpec){ .agent = "json", .prompt = "0123456789" });
        world_deinit(&w);
}

/* An attempt under way keeps its manifest; the next has the new one. */
static void test_replaced(void **state) {
        static const char *const manifests[] = { MANIFEST_TEXT, MANIFEST_JSON_NEW, NULL };
        Id ids[4];
        World w;

        world_init(&w, 2);
        ids[0] = world_submit(&w, &(TaskSpec){ .agent = "json" });
        FakeAttempt *a = world_spawned(&w, 0);
        fake_print(a, 1, "{\"type\":\"text\",\"text\":\"hi\"}\n");
        world_pass(&w, USEC_PER_SEC);
        configure_good(&w, manifests);
        assert_string_equal(adapter_title(sched_agent(w.sched, 1).adapter), "Json 2");
        fake_print(a, 1, "{\"type\":\"done\",\"in\":3,\"out\":4}\n");
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        world_finish(&w, &ids[0]);
        assert_int_equal(world_state(&w, &ids[0]), TASK_SUCCEEDED);

        for (size_t i = 1; i < ELEMENTSOF(ids); i++)
                ids[i] = world_submit(&w, &(TaskSpec){ .agent = "json" });
        world_spawned(&w, 2);
        world_pass(&w, USEC_PER_SEC);
        /* The new concurrency. */
        assert_int_equal(w.launcher.n, 3);
        for (size_t i = 1; i < ELEMENTSOF(ids); i++) {
                a = world_spawned(&w, i);
                fake_print(a, 1, "{\"type\":\"text\",\"text\":\"hi\"}\n{\"type\":\"end\"}\n");
                fake_exit(a, LAUNCH_HOW_EXITED, 0);
                world_run_until(&w, world_is_final(&w, &ids[i]));
                assert_int_equal(world_state(&w, &ids[i]), TASK_SUCCEEDED);
        }
        world_deinit(&w);
}

/* What waits for an agent that is gone fails; what runs ends as it would, and is not tried again. */
static void test_gone(void **state) {
        static const char *const without[] = { MANIFEST_TEXT, MANIFEST_OTHER, NULL };
        Id runs, retried, queued, delayed, dependant, either, other;
        World w;

        world_init(&w, 3);
        w.config.running_max = 2;
        configure_good(&w, (const char *const[]){ MANIFEST_TEXT, MANIFEST_JSON, MANIFEST_OTHER, NULL });
        runs = world_submit(&w, &(TaskSpec){ .agent = "json" });
        retried = world_submit(&w, &(TaskSpec){ .agent = "json", .max_attempts = 3 });
        world_spawned(&w, 1);
        queued = world_submit(&w, &(TaskSpec){ .agent = "json" });
        delayed = world_submit(&w, &(TaskSpec){ .agent = "json", .delay_us = 3600 * USEC_PER_SEC });
        dependant = world_submit(&w, &(TaskSpec){ .agent = "text", .after = &queued, .n_after = 1,
                                                  .on = STORE_ON_FAILURE });
        either = world_submit(&w, &(TaskSpec){ .capabilities = code });
        other = world_submit(&w, &(TaskSpec){ .agent = "text" });
        configure_good(&w, without);
        assert_int_equal(sched_n_agents(w.sched), 2);
        assert_string_equal(adapter_name(sched_agent(w.sched, 1).adapter), "other");
        world_run_until(&w, world_is_final(&w, &queued) && world_is_final(&w, &delayed));
        assert_ended(&w, &queued, TASK_FAILED, "no_agent");
        assert_ended(&w, &delayed, TASK_FAILED, "no_agent");
        assert_int_equal(world_try_submit(&w, &(TaskSpec){ .agent = "json" }, &(Id){}), SCHED_E_NO_AGENT);

        fake_print(w.launcher.attempts[0], 1, JSON_OK);
        fake_exit(w.launcher.attempts[0], LAUNCH_HOW_EXITED, 0);
        fake_print(w.launcher.attempts[1], 1, "{\"type\":\"error\",\"message\":\"busy\",\"status\":503}\n");
        fake_exit(w.launcher.attempts[1], LAUNCH_HOW_EXITED, 1);
        world_run_until(&w, world_is_final(&w, &runs) && world_is_final(&w, &retried));
        assert_int_equal(world_state(&w, &runs), TASK_SUCCEEDED);
        assert_ended(&w, &retried, TASK_FAILED, "no_agent");

        /* The task that any of two may run goes to the one that is left. */
        for (size_t i = 2; i < 5; i++) {
                FakeAttempt *a = world_spawned(&w, i);
                assert_string_not_equal(a->agent, "json");
                fake_exit(a, LAUNCH_HOW_EXITED, 0);
        }
        world_finish(&w, &either);
        assert_true(world_is_final(&w, &other) && world_is_final(&w, &dependant));

        /* It comes back. */
        configure_good(&w, world_manifests);
        runs = world_submit(&w, &(TaskSpec){ .agent = "json" });
        assert_string_equal(world_spawned(&w, 5)->agent, "json");
        world_deinit(&w);
}

/* Many that wait: they fail over several turns, each once. */
static void test_many_gone(void **state) {
        World w;

        world_init(&w, 4);
        w.launcher.down = true;
        for (int i = 0; i < 700; i++)
                world_submit(&w, &(TaskSpec){ .agent = "json" });
        configure_good(&w, (const char *const[]){ MANIFEST_TEXT, NULL });
        world_run_until(&w, sched_stats(w.sched).n_live == 0);
        assert_int_equal(sched_stats(w.sched).n_waiting, 0);
        uint64_t counts[_TASK_STATE_N] = {};
        assert_int_equal(store_task_count(w.store, counts), 0);
        assert_int_equal(counts[TASK_FAILED], 700);
        world_deinit(&w);
}

/* The places of agents that are gone are taken again, but for those of agents that still run. */
static void test_places(void **state) {
        char text[SCHED_AGENTS_MAX][512];
        const char *manifests[SCHED_AGENTS_MAX + 1];
        World w;
        Id id;

        world_init(&w, 5);
        id = world_submit(&w, &(TaskSpec){ .agent = "text" });
        world_spawned(&w, 0);
        for (unsigned round = 0; round < 4; round++) {
                size_t n = SCHED_AGENTS_MAX / 2 - 1;
                for (size_t i = 0; i < n; i++) {
                        snprintf(text[i], sizeof(text[i]), "version: 1\nname: a%u-%zu\ntitle: A\ninstall: none\n"
                                 "command: {find: [/bin/sh]}\noutput: {format: text}\n", round, i);
                        manifests[i] = text[i];
                }
                manifests[n] = NULL;
                configure_good(&w, manifests);
                assert_int_equal(sched_n_agents(w.sched), n);
                Id other = world_submit(&w, &(TaskSpec){ .agent = round & 1 ? "a1-7" : NULL });
                FakeAttempt *a = world_spawned(&w, round + 1);
                assert_true(a->agent[0] == 'a');
                fake_exit(a, LAUNCH_HOW_EXITED, 0);
                world_run_until(&w, world_is_final(&w, &other));
                if (round == 1)
                        assert_string_equal(a->agent, "a1-7");
                if (round == 2)
                        break;
        }
        fake_print(w.launcher.attempts[0], 1, "hi\n");
        fake_exit(w.launcher.attempts[0], LAUNCH_HOW_EXITED, 0);
        world_finish(&w, &id);
        assert_int_equal(world_state(&w, &id), TASK_SUCCEEDED);

        for (size_t i = 0; i < SCHED_AGENTS_MAX; i++) {
                snprintf(text[i], sizeof(text[i]), "version: 1\nname: b-%zu\ntitle: B\ninstall: none\n"
                         "command: {find: [/bin/sh]}\noutput: {format: text}\n", i);
                manifests[i] = text[i];
        }
        manifests[SCHED_AGENTS_MAX] = NULL;
        assert_int_equal(configure(&w, manifests), -E2BIG);
        assert_int_equal(sched_n_agents(w.sched), SCHED_AGENTS_MAX / 2 - 1);
        world_deinit(&w);
}

static void test_groups(void **state) {
        static const SchedGroupMatch matches[] = { { "first", "team", "a" }, { "second", "kind", "batch" } };
        const struct { const char *request, *given, *expected; } table[] = {
                { "{\"labels\":{\"team\":\"a\",\"kind\":\"batch\"}}", NULL, "first" },
                { "{\"labels\":{\"team\":\"b\",\"kind\":\"batch\"}}", NULL, "second" },
                { "{\"labels\":{\"team\":\"b\"}}", NULL, NULL },
                { "{\"labels\":{}}", NULL, NULL },
                { "{}", NULL, NULL },
                { "{\"labels\":{\"team\":\"a\"}}", "own", "own" },
        };
        World w;

        world_init(&w, 6);
        w.config.matches = matches;
        w.config.n_matches = ELEMENTSOF(matches);
        configure_good(&w, world_manifests);
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                Id id = world_submit(&w, &(TaskSpec){ .agent = "text", .request = table[i].request,
                                                      .group = table[i].given });
                _cleanup_(store_task_freep) StoreTask *task = world_load(&w, &id);
                if (table[i].expected)
                        assert_string_equal(task->group, table[i].expected);
                else
                        assert_null(task->group);
        }
        world_deinit(&w);
}

/* Two agents, one account: the vendor's word to one is meant for both, also after a restart. */
static void test_account(void **state) {
        Adapter *adapters[] = { load_manifest(MANIFEST_TEXT), load_manifest_of(MANIFEST_JSON, "acme"),
                                load_manifest_of(MANIFEST_OTHER, "acme") };
        static const char *const manifests[] = { MANIFEST_TEXT, MANIFEST_JSON, MANIFEST_OTHER, NULL };
        SchedWaiting waiting;
        Id id;
        World w;

        world_init(&w, 7);
        w.manifests = manifests;
        assert_int_equal(sched_configure(w.sched, &w.config, adapters, ELEMENTSOF(adapters)), 0);
        id = world_submit(&w, &(TaskSpec){ .agent = "json" });
        FakeAttempt *a = world_spawned(&w, 0);
        fake_print(a, 1, "{\"type\":\"error\",\"message\":\"slow down\",\"status\":429}\n");
        fake_exit(a, LAUNCH_HOW_EXITED, 1);
        world_finish(&w, &id);
        assert_int_equal(sched_agent(w.sched, 0).gate_until_us, 0);
        for (size_t i = 1; i < 3; i++)
                assert_string_equal(sched_agent(w.sched, i).gate_reason, "rate_limited");
        id = world_submit(&w, &(TaskSpec){ .agent = "other" });
        world_pass(&w, USEC_PER_SEC);
        world_crash(&w);
        /* The world's agents have accounts of their own: they come to the one that the store knows. */
        assert_int_equal(sched_configure(w.sched, &w.config, adapters, ELEMENTSOF(adapters)), 0);
        world_pass(&w, USEC_PER_SEC);
        assert_string_equal(sched_agent(w.sched, 2).gate_reason, "rate_limited");
        StoreTask *task = world_load(&w, &id);
        assert_true(sched_waiting(w.sched, task, &waiting));
        assert_string_equal(waiting.reason, "gate");
        assert_int_equal(w.launcher.n, 1);
        store_task_free(task);
        for (size_t i = 0; i < ELEMENTSOF(adapters); i++)
                adapter_free(adapters[i]);
        world_deinit(&w);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_limits),
                cmocka_unit_test(test_bytes),
                cmocka_unit_test(test_replaced),
                cmocka_unit_test(test_gone),
                cmocka_unit_test(test_many_gone),
                cmocka_unit_test(test_places),
                cmocka_unit_test(test_groups),
                cmocka_unit_test(test_account),
        };
        return cmocka_run_group_tests_name("sched-configure", tests, NULL, NULL);
}

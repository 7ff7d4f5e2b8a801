/* The queue: order, limits, delays, cancelling, admission, recovery of what waits. */

#include "sched/test-util.h"

static void assert_order(World *w, const char *expected) {
        _cleanup_(buf_deinit) Buf got = BUF_NULL;
        char *s;

        for (size_t i = 0; i < w->launcher.n; i++)
                assert_int_equal(buf_append_str(&got, w->launcher.attempts[i]->prompt), 0);
        assert_int_equal(buf_take_str(&got, &s), 0);
        assert_string_equal(s, expected);
        free(s);
}

/* Every attempt exits well as soon as it runs. */
static void poll_succeed(World *w) {
        for (size_t i = 0; i < w->launcher.n; i++) {
                FakeAttempt *a = w->launcher.attempts[i];
                if (!a->spawned || a->exited)
                        continue;
                fake_print(a, 1, streq(a->agent, "json") ? "{\"type\":\"text\",\"text\":\"hi\"}\n{\"type\":\"done\",\"in\":3,\"out\":4}\n" : "hi\n");
                fake_exit(a, LAUNCH_HOW_EXITED, 0);
        }
}

static void test_order(void **state) {
        World w;

        world_init(&w, 1);
        w.config.running_max = 1;
        world_stop(&w);
        world_start(&w);
        w.launcher.down = true;
        /* Queued while there is no launcher: nothing starts. */
        world_submit(&w, &(TaskSpec){ .agent = "json", .prompt = "c", .priority = 10 });
        world_submit(&w, &(TaskSpec){ .agent = "text", .prompt = "a", .priority = 90 });
        world_submit(&w, &(TaskSpec){ .agent = "json", .prompt = "d", .priority = 10 });
        world_submit(&w, &(TaskSpec){ .agent = "text", .prompt = "e", .priority = 10 });
        world_submit(&w, &(TaskSpec){ .agent = "json", .prompt = "b", .priority = 50 });
        world_pass(&w, 10 * USEC_PER_SEC);
        assert_int_equal(w.launcher.n, 0);
        assert_int_equal(sched_stats(w.sched).n_waiting, 5);
        w.launcher.down = false;
        w.poll = poll_succeed;
        world_run_until(&w, sched_stats(w.sched).n_live == 0);
        assert_order(&w, "abcde");
        assert_int_equal(sched_stats(w.sched).n_running, 0);
        assert_int_equal(sched_stats(w.sched).n_waiting, 0);
        world_deinit(&w);
}

/* The order outlives a restart. */
static void test_order_after_restart(void **state) {
        World w;

        world_init(&w, 2);
        w.config.running_max = 1;
        w.launcher.down = true;
        world_submit(&w, &(TaskSpec){ .agent = "json", .prompt = "b", .priority = 10 });
        world_submit(&w, &(TaskSpec){ .agent = "json", .prompt = "c", .priority = 10 });
        world_submit(&w, &(TaskSpec){ .agent = "json", .prompt = "a", .priority = 11 });
        world_submit(&w, &(TaskSpec){ .agent = "text", .prompt = "d", .priority = 10 });
        world_pass(&w, USEC_PER_SEC);
        world_crash(&w);
        assert_int_equal(sched_stats(w.sched).n_waiting, 4);
        w.launcher.down = false;
        w.poll = poll_succeed;
        world_run_until(&w, sched_stats(w.sched).n_live == 0);
        assert_order(&w, "abcd");
        world_deinit(&w);
}

static void test_limits(void **state) {
        World w;

        world_init(&w, 3);
        for (int i = 0; i < 8; i++)
                world_submit(&w, &(TaskSpec){ .agent = "text", .priority = 90 });
        for (int i = 0; i < 12; i++)
                world_submit(&w, &(TaskSpec){ .agent = "json", .priority = 10 });
        world_pass(&w, 10 * USEC_PER_SEC);
        /* Three of the agent's own, and ten in all: a full agent holds up no other. */
        assert_int_equal(sched_agent(w.sched, 0).n_running, 3);
        assert_int_equal(sched_agent(w.sched, 1).n_running, 7);
        assert_int_equal(sched_stats(w.sched).n_running, 10);
        assert_int_equal(sched_stats(w.sched).n_waiting, 10);
        assert_int_equal(w.launcher.n, 10);
        w.poll = poll_succeed;
        world_run_until(&w, sched_stats(w.sched).n_live == 0);
        assert_int_equal(w.launcher.n, 20);
        assert_int_equal(sched_stats(w.sched).n_running, 0);
        world_deinit(&w);
}

static void test_not_before(void **state) {
        World w;
        Id id;

        world_init(&w, 4);
        w.poll = poll_succeed;
        id = world_submit(&w, &(TaskSpec){ .agent = "text", .delay_us = 100 * USEC_PER_SEC });
        world_pass(&w, 99 * USEC_PER_SEC);
        assert_int_equal(world_state(&w, &id), TASK_DELAYED);
        assert_int_equal(w.launcher.n, 0);
        world_pass(&w, 2 * USEC_PER_SEC);
        world_finish(&w, &id);
        assert_int_equal(world_state(&w, &id), TASK_SUCCEEDED);

        /* Over a restart, a part of the time outside. */
        id = world_submit(&w, &(TaskSpec){ .agent = "text", .delay_us = 100 * USEC_PER_SEC });
        world_pass(&w, 50 * USEC_PER_SEC);
        world_crash(&w);
        world_pass(&w, 49 * USEC_PER_SEC);
        assert_int_equal(world_state(&w, &id), TASK_DELAYED);
        world_pass(&w, 2 * USEC_PER_SEC);
        world_finish(&w, &id);
        world_deinit(&w);
}

static void test_admission(void **state) {
        World w;
        Id id, last;

        world_init(&w, 5);
        w.config.queued_max = 5;
        w.config.queued_per_principal_max = 3;
        world_stop(&w);
        world_start(&w);
        for (int i = 0; i < 3; i++)
                last = world_submit(&w, &(TaskSpec){ .agent = "text", .principal = "uid:1" });
        assert_int_equal(world_try_submit(&w, &(TaskSpec){ .agent = "text", .principal = "uid:1" }, &id), SCHED_E_QUOTA);
        world_submit(&w, &(TaskSpec){ .agent = "text", .principal = "uid:2" });
        world_submit(&w, &(TaskSpec){ .agent = "text", .principal = "uid:2" });
        assert_int_equal(world_try_submit(&w, &(TaskSpec){ .agent = "text", .principal = "uid:3" }, &id), SCHED_E_FULL);
        assert_int_equal(world_try_submit(&w, &(TaskSpec){ .agent = "none" }, &id), SCHED_E_FULL);
        /* What has ended makes room, and so after a restart. */
        assert_int_equal(world_cancel(&w, &last), 0);
        world_run_until(&w, sched_stats(w.sched).n_live == 4);
        assert_int_equal(world_try_submit(&w, &(TaskSpec){ .agent = "none" }, &id), SCHED_E_NO_AGENT);
        assert_non_null(strstr(w.detail, "no agent 'none'"));
        world_crash(&w);
        assert_int_equal(sched_stats(w.sched).n_live, 4);
        last = world_submit(&w, &(TaskSpec){ .agent = "text", .principal = "uid:1" });
        assert_int_equal(world_try_submit(&w, &(TaskSpec){ .agent = "text", .principal = "uid:2" }, &id), SCHED_E_FULL);
        w.poll = poll_succeed;
        world_run_until(&w, sched_stats(w.sched).n_live == 0);
        assert_int_equal(w.sched->limits[SCHED_PRINCIPAL].n, 0);
        world_deinit(&w);
}

static void test_cancel_waiting(void **state) {
        World w;
        Id queued, delayed, running;

        world_init(&w, 6);
        w.config.running_max = 1;
        world_stop(&w);
        world_start(&w);
        running = world_submit(&w, &(TaskSpec){ .agent = "text" });
        world_spawned(&w, 0);
        queued = world_submit(&w, &(TaskSpec){ .agent = "text" });
        delayed = world_submit(&w, &(TaskSpec){ .agent = "text", .delay_us = USEC_PER_SEC });
        /* Before their inserts are durable. */
        assert_int_equal(world_cancel(&w, &queued), 0);
        assert_int_equal(world_cancel(&w, &delayed), 0);
        assert_int_equal(world_cancel(&w, &queued), SCHED_E_FINAL);
        world_pass(&w, 10 * USEC_PER_SEC);
        assert_int_equal(world_state(&w, &queued), TASK_CANCELLED);
        assert_int_equal(world_state(&w, &delayed), TASK_CANCELLED);
        assert_int_equal(sched_stats(w.sched).n_live, 1);
        /* And after. */
        queued = world_submit(&w, &(TaskSpec){ .agent = "text" });
        delayed = world_submit(&w, &(TaskSpec){ .agent = "text", .delay_us = 100 * USEC_PER_SEC });
        world_pass(&w, USEC_PER_SEC);
        assert_int_equal(world_cancel(&w, &queued), 0);
        assert_int_equal(world_cancel(&w, &delayed), 0);
        world_pass(&w, USEC_PER_SEC);
        assert_int_equal(sched_stats(w.sched).n_live, 1);
        assert_int_equal(sched_stats(w.sched).n_waiting, 0);
        assert_int_equal(w.launcher.n, 1);
        assert_int_equal(world_cancel(&w, &queued), SCHED_E_FINAL);
        assert_int_equal(world_cancel(&w, &(Id){}), SCHED_E_NOT_FOUND);
        world_crash(&w);
        assert_int_equal(sched_stats(w.sched).n_live, 1);
        assert_int_equal(world_cancel(&w, &running), 0);
        world_finish(&w, &running);
        assert_int_equal(world_state(&w, &running), TASK_CANCELLED);
        world_deinit(&w);
}

/* A commit that fails: what was pending is forgotten, nothing runs that is not on disk. */
static void test_commit_fails(void **state) {
        const RingSimOptions options = { .seed = 7, .sync_error_percent = 100 };
        World w;
        Id id;

        world_init(&w, 7);
        world_pass(&w, USEC_PER_SEC);
        world_stop(&w);
        ring_sim_configure(&options);
        world_start(&w);
        world_run_until(&w, launcher_client_is_ready(w.client));
        world_submit(&w, &(TaskSpec){ .agent = "text" });
        id = world_submit(&w, &(TaskSpec){ .agent = "text", .delay_us = USEC_PER_SEC });
        assert_int_equal(world_cancel(&w, &id), 0);
        world_submit(&w, &(TaskSpec){ .agent = "json", .delay_us = USEC_PER_SEC });
        world_run_until(&w, store_failure(w.store));
        world_pass(&w, 5 * USEC_PER_SEC);
        assert_int_equal(sched_stats(w.sched).n_live, 0);
        assert_int_equal(sched_stats(w.sched).n_running, 0);
        assert_int_equal(sched_stats(w.sched).n_waiting, 0);
        assert_int_equal(w.launcher.n, 0);
        assert_int_equal(world_try_submit(&w, &(TaskSpec){ .agent = "text" }, &id), STORE_E_FAILED);
        world_deinit(&w);
}

typedef struct Watcher {
        SchedWatch watch;
        unsigned n;
        bool ended;
} Watcher;

static void on_watch(SchedWatch *watch, bool ended) {
        Watcher *watcher = container_of(watch, Watcher, watch);

        assert_false(watcher->ended);
        watcher->n++;
        watcher->ended = ended;
}

static void test_watch(void **state) {
        Watcher a = { .watch.fn = on_watch }, b = { .watch.fn = on_watch };
        World w;
        Id id;

        world_init(&w, 8);
        id = world_submit(&w, &(TaskSpec){ .agent = "text" });
        assert_true(sched_watch(w.sched, &id, &a.watch));
        assert_true(sched_watch(w.sched, &id, &b.watch));
        world_run_until(&w, w.launcher.n == 1 && w.launcher.attempts[0]->spawned);
        world_pass(&w, USEC_PER_SEC);
        sched_unwatch(&b.watch);
        b.n = a.n = 0;
        fake_print(w.launcher.attempts[0], 1, "one\n");
        world_run_until(&w, a.n > 0);
        fake_exit(w.launcher.attempts[0], LAUNCH_HOW_EXITED, 0);
        world_run_until(&w, a.ended);
        assert_int_equal(b.n, 0);
        assert_false(sched_watch(w.sched, &id, &b.watch));
        assert_false(list_is_linked(&a.watch.link));
        world_deinit(&w);
}

/* An agent that never pauses does not starve its watchers: they are told with each commit. */
static void poll_chat(World *w) {
        if (w->launcher.n && w->launcher.attempts[0]->spawned && buf_size(&w->launcher.attempts[0]->out[0]) < 100000)
                fake_print(w->launcher.attempts[0], 1, "on and on\n");
}

static void test_watch_chatty(void **state) {
        Watcher a = { .watch.fn = on_watch };
        World w;
        Id id;

        world_init(&w, 9);
        id = world_submit(&w, &(TaskSpec){ .agent = "text" });
        assert_true(sched_watch(w.sched, &id, &a.watch));
        w.poll = poll_chat;
        world_spawned(&w, 0);
        world_run_until(&w, buf_size(&w.launcher.attempts[0]->out[0]) > 10000);
        assert_in_range(a.n, 20, 100000);
        world_deinit(&w);
}

/* Tasks whose agent is gone from the configuration end with a reason, and their attempts with them. */
static int count_open(const StoreAttempt *attempt, void *userdata) {
        ++*(unsigned *)userdata;
        return 0;
}

static void test_agent_removed(void **state) {
        static const char *const only_json[] = { MANIFEST_JSON, NULL };
        unsigned n = 0;
        World w;
        Id running, queued, other;

        world_init(&w, 10);
        running = world_submit(&w, &(TaskSpec){ .agent = "text" });
        world_spawned(&w, 0);
        world_pass(&w, USEC_PER_SEC);
        queued = world_submit(&w, &(TaskSpec){ .agent = "text", .delay_us = 3600 * USEC_PER_SEC });
        other = world_submit(&w, &(TaskSpec){ .agent = "json", .delay_us = 10 * USEC_PER_SEC });
        world_pass(&w, USEC_PER_SEC);
        w.manifests = only_json;
        w.poll = poll_succeed;
        world_crash(&w);
        world_finish(&w, &other);
        StoreTask *task = world_load(&w, &running);
        assert_int_equal(task->state, TASK_FAILED);
        assert_string_equal(task->reason, "no_agent");
        store_task_free(task);
        assert_int_equal(world_state(&w, &queued), TASK_FAILED);
        assert_int_equal(world_state(&w, &other), TASK_SUCCEEDED);
        assert_int_equal(store_attempt_list_open(w.store, count_open, &n), 0);
        assert_int_equal(n, 0);
        /* The launcher is rid of it too. */
        world_run_until(&w, w.launcher.attempts[0]->forgotten);
        world_deinit(&w);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_order),
                cmocka_unit_test(test_order_after_restart),
                cmocka_unit_test(test_limits),
                cmocka_unit_test(test_not_before),
                cmocka_unit_test(test_admission),
                cmocka_unit_test(test_cancel_waiting),
                cmocka_unit_test(test_commit_fails),
                cmocka_unit_test(test_watch),
                cmocka_unit_test(test_watch_chatty),
                cmocka_unit_test(test_agent_removed),
        };
        return cmocka_run_group_tests_name("sched", tests, NULL, NULL);
}

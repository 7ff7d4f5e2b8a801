/*
 * One attempt from its row to its end: output, outcomes, cancelling, losses, restarts and a full store at every point.
 */

#include "sched/test-util.h"

#include <inttypes.h>

#include "base/parse.h"

/* ---- a store that is full when the test says so ---- */

int __real_store_event_append(Store *store, const Id *task_id, const StoreEvent *event, uint64_t *ret_seq);
int __wrap_store_event_append(Store *store, const Id *task_id, const StoreEvent *event, uint64_t *ret_seq);
int __real_store_attempt_update(Store *store, const StoreAttempt *attempt);
int __wrap_store_attempt_update(Store *store, const StoreAttempt *attempt);
int __real_store_task_update(Store *store, const StoreTask *task);
int __wrap_store_task_update(Store *store, const StoreTask *task);

static unsigned full_percent;
static uint64_t full_random;

static unsigned n_refused;

static bool store_is_full(void) {
        bool full = full_percent && ring_sim_random(&full_random, 100) < full_percent;

        n_refused += full;
        return full;
}

int __wrap_store_event_append(Store *store, const Id *task_id, const StoreEvent *event, uint64_t *ret_seq) {
        return store_is_full() ? STORE_E_FULL : __real_store_event_append(store, task_id, event, ret_seq);
}

int __wrap_store_attempt_update(Store *store, const StoreAttempt *attempt) {
        return store_is_full() ? STORE_E_FULL : __real_store_attempt_update(store, attempt);
}

int __wrap_store_task_update(Store *store, const StoreTask *task) {
        return store_is_full() ? STORE_E_FULL : __real_store_task_update(store, task);
}

/* ---- what the store says at the end ---- */

typedef struct AttemptSummary {
        Buf text;
        unsigned n, n_open;
        StoreUsage usage;
} AttemptSummary;

static int summarise_attempt(const StoreAttempt *a, void *userdata) {
        AttemptSummary *s = userdata;

        s->n++;
        s->n_open += a->open;
        s->usage = a->usage;
        return buf_printf(&s->text, "%s%s", buf_size(&s->text) ? " " : "", a->outcome ?: "open");
}

/* "outcome outcome …" of the task's attempts. */
static void assert_attempts(World *w, const Id *id, const char *expected) {
        AttemptSummary s = {};
        char *text;

        assert_int_equal(store_attempt_list(w->store, id, summarise_attempt, &s), 0);
        assert_int_equal(buf_take_str(&s.text, &text), 0);
        assert_string_equal(text, expected);
        free(text);
}

static unsigned count(const char *haystack, const char *needle) {
        unsigned n = 0;

        for (const char *p = haystack; (p = strstr(p, needle)); p += strlen(needle))
                n++;
        return n;
}

static void assert_ended(World *w, const Id *id, TaskState state, const char *reason, const char *result) {
        _cleanup_(store_task_freep) StoreTask *task = world_load(w, id);
        _cleanup_free_ char *events = world_events(w, id);
        char last[128];

        if (task->state != state || (reason && (!task->reason || !streq(task->reason, reason))))
                fail_msg("%s, %s: %s\n%s", task_state_name(task->state), task->reason ?: "-", task->detail ?: "-", events);
        if (result) {
                assert_non_null(task->result);
                assert_string_equal(task->result, result);
        }
        assert_true(task->finished_us > 0);
        /* The last event is the state, and there is one such. */
        snprintf(last, sizeof(last), "state {\"state\":\"%s\"", task_state_name(state));
        assert_int_equal(count(events, last), 1);
        assert_int_equal(count(strstr(events, last), "\nstate "), 0);
        assert_int_equal(sched_stats(w->sched).n_running, 0);
        for (size_t i = 0; i < sched_n_agents(w->sched); i++)
                assert_int_equal(sched_agent(w->sched, i).n_running, 0);
}

static void assert_events(World *w, const Id *id, const char *expected) {
        _cleanup_free_ char *events = world_events(w, id);

        assert_string_equal(events, expected);
}

static int on_usage(const char *key, const StoreUsage *sum, uint64_t n_attempts, void *userdata) {
        assert_string_equal(key, "json");
        assert_int_equal(sum->input_tokens, ((uint64_t *)userdata)[1]);
        assert_int_equal(n_attempts, ((uint64_t *)userdata)[0]);
        ((uint64_t *)userdata)[2]++;
        return 0;
}

/* Each attempt of the agent counts once in the sums of its day. */
static void assert_usage(World *w, uint64_t n_attempts, uint64_t input_tokens) {
        uint64_t expected[] = { n_attempts, input_tokens, 0 };
        uint32_t day = (uint32_t)(clock_realtime_us() / (86400 * USEC_PER_SEC));

        assert_int_equal(store_usage_list(w->store, STORE_BY_AGENT, day, day, "uid:1", on_usage, expected), 0);
        assert_int_equal(expected[2], 1);
}

/* ---- output ---- */

static void test_text(void **state) {
        World w;
        FakeAttempt *a;
        Id id;

        world_init(&w, 1);
        id = world_submit(&w, &(TaskSpec){ .agent = "text", .prompt = "the prompt" });
        a = world_spawned(&w, 0);
        assert_string_equal(a->prompt, "the prompt");
        assert_true(id_equal(&a->task, &id));
        fake_print(a, 1, "one\ntw");
        fake_print(a, 2, "oops\n");
        world_pass(&w, USEC_PER_SEC);
        /* Acknowledged to the line's end, not beyond. */
        assert_int_equal(a->acked[0], 4);
        assert_int_equal(a->acked[1], 5);
        fake_print(a, 1, "o\nthree");
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        world_finish(&w, &id);
        assert_ended(&w, &id, TASK_SUCCEEDED, "completed", "one\ntwo\nthree");
        assert_events(&w, &id,
                      "state {\"state\":\"queued\"}\n"
                      "state {\"state\":\"running\"}\n"
                      "text {\"text\":\"one\"}\n"
                      "output {\"stream\":\"stderr\",\"text\":\"oops\"}\n"
                      "text {\"text\":\"two\"}\n"
                      "text {\"text\":\"three\"}\n"
                      "result {\"text\":\"one\\ntwo\\nthree\"}\n"
                      "state {\"state\":\"succeeded\",\"reason\":\"completed\"}\n");
        assert_attempts(&w, &id, "succeeded");
        world_run_until(&w, a->forgotten);
        world_deinit(&w);
}

#define JSON_OUTPUT                                                                                             \
        "{\"type\":\"session\",\"id\":\"s-1\"}\n{\"type\":\"text\",\"text\":\"Gr\\u00fc\\u00df\"}\n"            \
        "{\"type\":\"tool\",\"name\":\"ls\"}\nnot json\n{\"type\":\"text\",\"text\":\" Gott\"}\n"               \
        "{\"type\":\"done\",\"in\":10,\"out\":2}\n"
#define JSON_EVENTS                                                                                             \
        "state {\"state\":\"queued\"}\n"                                                                        \
        "state {\"state\":\"running\"}\n"                                                                       \
        "raw {}\n"                                                                                              \
        "text {\"text\":\"Grüß\"}\n"                                                                            \
        "tool_call {\"name\":\"ls\"}\n"                                                                         \
        "output {\"stream\":\"stdout\",\"text\":\"not json\"}\n"                                                \
        "text {\"text\":\" Gott\"}\n"                                                                           \
        "usage {\"input_tokens\":10,\"output_tokens\":2}\n"                                                     \
        "result {\"text\":\"Grüß Gott\"}\n"                                                                     \
        "state {\"state\":\"succeeded\",\"reason\":\"completed\"}\n"

/* Pieces of every size up to the whole give the same events. */
static void test_every_split(void **state) {
        World w;
        Id id;

        world_init(&w, 2);
        for (size_t chunk = 1; chunk <= strlen(JSON_OUTPUT); chunk += chunk < 40 ? 1 : 37) {
                w.launcher.chunk = chunk;
                id = world_submit(&w, &(TaskSpec){ .agent = "json" });
                FakeAttempt *a = world_spawned(&w, w.launcher.n);
                fake_print(a, 1, JSON_OUTPUT);
                fake_exit(a, LAUNCH_HOW_EXITED, 0);
                world_finish(&w, &id);
                assert_ended(&w, &id, TASK_SUCCEEDED, "completed", "Grüß Gott");
                assert_events(&w, &id, JSON_EVENTS);
        }
        world_deinit(&w);
}

/*
 * A line of which the end can't be waited for: cut, said so once, and the next one is whole again; restarts in between.
 */
static void test_long_line(void **state) {
        World w;

        for (unsigned crash = 0; crash < 4; crash++) {
                _cleanup_free_ char *line = malloc(ADAPTER_LINE_MAX * 2 + 1);
                FakeAttempt *a;
                Id id;

                world_init(&w, 30 + crash);
                id = world_submit(&w, &(TaskSpec){ .agent = "text" });
                a = world_spawned(&w, 0);
                memset(line, 'x', ADAPTER_LINE_MAX * 2);
                line[ADAPTER_LINE_MAX * 2] = 0;
                fake_print(a, 1, "first\n");
                /* The first restart is before the cut, the second in the middle of what is dropped. */
                line[MIB(1) / 2] = 0;
                fake_print(a, 1, line);
                line[MIB(1) / 2] = 'x';
                world_pass(&w, USEC_PER_SEC);
                if (crash & 1)
                        world_crash(&w);
                fake_print(a, 1, line);
                world_run_until(&w, a->acked[0] == buf_size(&a->out[0]));
                if (crash & 2)
                        world_crash(&w);
                fake_print(a, 1, line);
                fake_print(a, 1, "\nlast\n");
                fake_exit(a, LAUNCH_HOW_EXITED, 0);
                world_finish(&w, &id);
                _cleanup_free_ char *events = world_events(&w, &id);
                assert_int_equal(count(events, "\ntruncated {\"what\":\"line\","), 1);
                assert_int_equal(count(events, "\ntext "), 3);
                assert_non_null(strstr(events, "\ntext {\"text\":\"last\"}\nresult "));
                /* The event is bounded though the result is not as small. */
                assert_non_null(strstr(events, "\",\"truncated\":true}\nstate "));
                assert_ended(&w, &id, TASK_SUCCEEDED, "completed", NULL);
                assert_int_equal(w.launcher.n, 1);
                world_deinit(&w);
        }
}

static void test_capture_limit(void **state) {
        World w;
        FakeAttempt *a;
        Id id;

        world_init(&w, 4);
        w.config.capture_max = KIB(4);
        world_stop(&w);
        world_start(&w);
        id = world_submit(&w, &(TaskSpec){ .agent = "json" });
        a = world_spawned(&w, 0);
        for (int i = 0; i < 200; i++)
                fake_print(a, 1, "{\"type\":\"tool\",\"name\":\"a tool of some length\"}\n");
        fake_print(a, 1, "{\"type\":\"text\",\"text\":\"the answer\"}\n{\"type\":\"done\",\"in\":1,\"out\":1}\n");
        world_run_until(&w, a->acked[0] == buf_size(&a->out[0]));
        /* What the outcome is made from is kept, for a router that restarts too. */
        world_crash(&w);
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        world_finish(&w, &id);
        _cleanup_free_ char *events = world_events(&w, &id);
        assert_int_equal(count(events, "\ntruncated {\"what\":\"output\",\"limit_bytes\":4096"), 1);
        assert_in_range(count(events, "\ntool_call "), 10, 100);
        assert_ended(&w, &id, TASK_SUCCEEDED, "completed", "the answer");
        world_deinit(&w);
}

/* ---- the end ---- */

static void test_retry(void **state) {
        uint64_t started_us;
        World w;
        Id id;

        world_init(&w, 5);
        id = world_submit(&w, &(TaskSpec){ .agent = "json", .max_attempts = 3, .backoff_us = 4 * USEC_PER_SEC });
        for (unsigned i = 0; i < 3; i++) {
                started_us = clock_monotonic_us();
                FakeAttempt *a = world_spawned(&w, i);
                /* Within 4 s after the first, within 8 s after the second. */
                if (i)
                        assert_in_range(clock_monotonic_us() - started_us, 0, i * 4 * USEC_PER_SEC + USEC_PER_SEC);
                fake_print(a, 1, "{\"type\":\"done\",\"in\":10,\"out\":1}\n{\"type\":\"error\",\"message\":\"busy\",\"status\":503}\n");
                fake_exit(a, LAUNCH_HOW_EXITED, 1);
                world_run_until(&w, world_state(&w, &id) == (i < 2 ? TASK_DELAYED : TASK_DEAD));
                assert_int_equal(w.launcher.n, i + 1);
        }
        world_finish(&w, &id);
        assert_ended(&w, &id, TASK_DEAD, "overloaded", NULL);
        assert_attempts(&w, &id, "failed failed failed");
        StoreTask *task = world_load(&w, &id);
        assert_int_equal(task->usage.input_tokens, 30);
        assert_int_equal(task->usage.output_tokens, 3);
        assert_int_equal(task->n_attempts, 3);
        store_task_free(task);
        assert_usage(&w, 3, 30);

        /* Succeeds the second time; a failure that no repeat would cure is not repeated. */
        id = world_submit(&w, &(TaskSpec){ .agent = "json", .max_attempts = 3 });
        FakeAttempt *a = world_spawned(&w, 3);
        fake_print(a, 1, "{\"type\":\"error\",\"message\":\"busy\",\"status\":503}\n");
        fake_exit(a, LAUNCH_HOW_EXITED, 1);
        a = world_spawned(&w, 4);
        fake_print(a, 1, JSON_OUTPUT);
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        world_finish(&w, &id);
        assert_ended(&w, &id, TASK_SUCCEEDED, "completed", "Grüß Gott");
        assert_attempts(&w, &id, "failed succeeded");
        id = world_submit(&w, &(TaskSpec){ .agent = "json", .max_attempts = 3 });
        a = world_spawned(&w, 5);
        fake_print(a, 1, "{\"type\":\"error\",\"message\":\"no\",\"status\":401}\n");
        fake_exit(a, LAUNCH_HOW_EXITED, 1);
        world_finish(&w, &id);
        assert_ended(&w, &id, TASK_FAILED, "authentication", NULL);
        world_deinit(&w);
}

static void test_timeouts(void **state) {
        World w;
        FakeAttempt *a;
        uint64_t started_us;
        Id id;

        world_init(&w, 6);
        id = world_submit(&w, &(TaskSpec){ .agent = "text", .timeout_us = 60 * USEC_PER_SEC });
        a = world_spawned(&w, 0);
        started_us = clock_monotonic_us();
        world_pass(&w, 30 * USEC_PER_SEC);
        /* It counts from the start, a restart included. */
        world_crash(&w);
        world_run_until(&w, a->n_kills);
        assert_in_range(clock_monotonic_us() - started_us, 59 * USEC_PER_SEC, 62 * USEC_PER_SEC);
        assert_int_equal(a->grace_ms, 3000);
        world_finish(&w, &id);
        assert_ended(&w, &id, TASK_TIMED_OUT, "timeout", NULL);
        assert_attempts(&w, &id, "timed_out");

        /* Ten minutes of silence. */
        id = world_submit(&w, &(TaskSpec){ .agent = "text", .timeout_us = 3600 * USEC_PER_SEC });
        a = world_spawned(&w, 1);
        world_pass(&w, 500 * USEC_PER_SEC);
        fake_print(a, 1, "still here\n");
        world_pass(&w, 500 * USEC_PER_SEC);
        assert_int_equal(a->n_kills, 0);
        world_pass(&w, 110 * USEC_PER_SEC);
        world_finish(&w, &id);
        assert_ended(&w, &id, TASK_TIMED_OUT, "inactivity", NULL);

        /* The launcher can't be reached for long: not the agent's fault. */
        id = world_submit(&w, &(TaskSpec){ .agent = "text", .timeout_us = 36000 * USEC_PER_SEC });
        a = world_spawned(&w, 2);
        world_pass(&w, USEC_PER_SEC);
        fake_hang_up(&w.launcher);
        w.launcher.down = true;
        world_pass(&w, 1000 * USEC_PER_SEC);
        w.launcher.down = false;
        fake_print(a, 1, "done\n");
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        world_finish(&w, &id);
        assert_ended(&w, &id, TASK_SUCCEEDED, "completed", "done");
        world_deinit(&w);
}

static void test_ends(void **state) {
        World w;
        FakeAttempt *a;
        Id id;

        world_init(&w, 7);
        id = world_submit(&w, &(TaskSpec){ .agent = "text" });
        a = world_spawned(&w, 0);
        fake_exit(a, LAUNCH_HOW_SIGNALLED, 11);
        world_finish(&w, &id);
        assert_ended(&w, &id, TASK_FAILED, "signal", NULL);
        id = world_submit(&w, &(TaskSpec){ .agent = "text" });
        a = world_spawned(&w, 1);
        a->pids_hit = 5;
        fake_exit(a, LAUNCH_HOW_EXITED, 3);
        world_finish(&w, &id);
        assert_ended(&w, &id, TASK_FAILED, "exit_status", NULL);
        StoreTask *task = world_load(&w, &id);
        assert_non_null(strstr(task->detail, "pids_max) 5 times"));
        store_task_free(task);
        /* Its init died: what it had printed is kept. */
        id = world_submit(&w, &(TaskSpec){ .agent = "text" });
        a = world_spawned(&w, 2);
        fake_print(a, 1, "half a li");
        fake_exit(a, LAUNCH_HOW_LOST, 0);
        world_finish(&w, &id);
        assert_ended(&w, &id, TASK_FAILED, "lost", NULL);
        _cleanup_free_ char *events = world_events(&w, &id);
        assert_non_null(strstr(events, "\ntext {\"text\":\"half a li\"}\n"));
        world_run_until(&w, a->forgotten);

        w.launcher.auto_spawn = false;
        id = world_submit(&w, &(TaskSpec){ .agent = "text", .max_attempts = 2 });
        fake_spawn_failed(&w.launcher, world_spawned(&w, 3), "workspace", ENOENT);
        world_finish(&w, &id);
        assert_ended(&w, &id, TASK_FAILED, "workspace", NULL);
        assert_attempts(&w, &id, "spawn_failed");
        /* One that passes is tried again. */
        id = world_submit(&w, &(TaskSpec){ .agent = "text", .max_attempts = 2 });
        fake_spawn_failed(&w.launcher, world_spawned(&w, 4), "clone", EAGAIN);
        a = world_spawned(&w, 5);
        fake_spawned(&w.launcher, a);
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        world_finish(&w, &id);
        assert_attempts(&w, &id, "spawn_failed succeeded");
        world_deinit(&w);
}

/* ---- cancelling ---- */

static void test_cancel(void **state) {
        World w;
        FakeAttempt *a;
        Id id;

        world_init(&w, 8);
        world_run_until(&w, launcher_client_is_ready(w.client));
        /* Its row is on the way to the disk. */
        id = world_submit(&w, &(TaskSpec){ .agent = "text" });
        assert_int_equal(world_state(&w, &id), TASK_RUNNING);
        assert_int_equal(world_cancel(&w, &id), 0);
        assert_int_equal(world_cancel(&w, &id), 0);
        world_finish(&w, &id);
        assert_ended(&w, &id, TASK_CANCELLED, "cancelled", NULL);
        assert_int_equal(w.launcher.n, 0);

        /* Its SPAWN waits for the launcher. */
        id = world_submit(&w, &(TaskSpec){ .agent = "text" });
        fake_hang_up(&w.launcher);
        w.launcher.down = true;
        world_pass(&w, 5 * USEC_PER_SEC);
        assert_int_equal(world_cancel(&w, &id), 0);
        world_finish(&w, &id);
        assert_ended(&w, &id, TASK_CANCELLED, "cancelled", NULL);
        w.launcher.down = false;
        world_run_until(&w, launcher_client_is_ready(w.client));
        assert_int_equal(w.launcher.n, 0);

        /* SPAWN was sent. */
        w.launcher.auto_spawn = false;
        id = world_submit(&w, &(TaskSpec){ .agent = "text" });
        a = world_spawned(&w, 0);
        assert_int_equal(world_cancel(&w, &id), 0);
        world_run_until(&w, a->n_kills);
        fake_spawned(&w.launcher, a);
        world_finish(&w, &id);
        assert_ended(&w, &id, TASK_CANCELLED, "cancelled", NULL);

        /* It runs, and the kill gets lost with the connection. */
        w.launcher.auto_spawn = true;
        id = world_submit(&w, &(TaskSpec){ .agent = "text" });
        a = world_spawned(&w, 1);
        world_pass(&w, USEC_PER_SEC);
        fake_hang_up(&w.launcher);
        assert_int_equal(world_cancel(&w, &id), 0);
        world_finish(&w, &id);
        assert_in_range(a->n_kills, 1, 2);
        assert_ended(&w, &id, TASK_CANCELLED, "cancelled", NULL);
        assert_attempts(&w, &id, "cancelled");

        /* It ignores the kill and ends well: done is done. */
        w.launcher.obey_kill = false;
        id = world_submit(&w, &(TaskSpec){ .agent = "text" });
        a = world_spawned(&w, 2);
        world_pass(&w, USEC_PER_SEC);
        assert_int_equal(world_cancel(&w, &id), 0);
        fake_print(a, 1, "done\n");
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        world_finish(&w, &id);
        assert_ended(&w, &id, TASK_SUCCEEDED, "completed", "done");

        /* A restart between the cancel and the kill. */
        w.launcher.obey_kill = true;
        id = world_submit(&w, &(TaskSpec){ .agent = "text" });
        a = world_spawned(&w, 3);
        world_pass(&w, USEC_PER_SEC);
        w.launcher.silent = true;
        assert_int_equal(world_cancel(&w, &id), 0);
        world_pass(&w, USEC_PER_SEC);
        world_crash(&w);
        w.launcher.silent = false;
        world_finish(&w, &id);
        assert_ended(&w, &id, TASK_CANCELLED, "cancelled", NULL);
        world_deinit(&w);
}

/* At every step of a task's life that ends in a retry: it is cancelled, in the store as in memory. */
static void test_cancel_every_step(void **state) {
        for (unsigned step = 0; step < 60; step++) {
                World w;
                Id id;

                world_init(&w, 900 + step);
                world_run_until(&w, launcher_client_is_ready(w.client));
                id = world_submit(&w, &(TaskSpec){ .agent = "text", .max_attempts = 5, .backoff_us = 3600 * USEC_PER_SEC });
                for (unsigned i = 0; i < step; i++) {
                        world_step(&w);
                        if (w.launcher.n == 1 && w.launcher.attempts[0]->spawned && !w.launcher.attempts[0]->exited)
                                fake_exit(w.launcher.attempts[0], LAUNCH_HOW_LOST, 0);
                }
                assert_int_equal(world_cancel(&w, &id), 0);
                if (step % 3 == 0) {
                        world_pass(&w, 100 * USEC_PER_MSEC);
                        world_crash(&w);
                }
                world_finish(&w, &id);
                assert_ended(&w, &id, TASK_CANCELLED, "cancelled", NULL);
                world_deinit(&w);
        }
}

/* ---- the launcher's losses ---- */

static void test_launcher_lost(void **state) {
        World w;
        FakeAttempt *a;
        Id once, twice;

        world_init(&w, 9);
        once = world_submit(&w, &(TaskSpec){ .agent = "text" });
        twice = world_submit(&w, &(TaskSpec){ .agent = "text", .max_attempts = 2 });
        world_spawned(&w, 1);
        world_pass(&w, USEC_PER_SEC);
        fake_restart(&w.launcher);
        a = world_spawned(&w, 2);
        assert_true(id_equal(&a->task, &twice));
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        world_finish(&w, &twice);
        assert_ended(&w, &once, TASK_FAILED, "lost", NULL);
        assert_attempts(&w, &once, "lost");
        assert_attempts(&w, &twice, "lost succeeded");

        /* The same launcher, and a SPAWN that never arrived: said again, the same attempt. */
        w.launcher.deaf = true;
        once = world_submit(&w, &(TaskSpec){ .agent = "text" });
        world_pass(&w, USEC_PER_SEC);
        assert_int_equal(w.launcher.n, 3);
        w.launcher.deaf = false;
        fake_hang_up(&w.launcher);
        a = world_spawned(&w, 3);
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        world_finish(&w, &once);
        assert_ended(&w, &once, TASK_SUCCEEDED, NULL, NULL);
        assert_attempts(&w, &once, "succeeded");

        /* And with a restart of the router in between. */
        w.launcher.deaf = true;
        once = world_submit(&w, &(TaskSpec){ .agent = "text", .prompt = "again" });
        world_pass(&w, USEC_PER_SEC);
        w.launcher.deaf = false;
        world_crash(&w);
        a = world_spawned(&w, 4);
        assert_string_equal(a->prompt, "again");
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        world_finish(&w, &once);
        assert_attempts(&w, &once, "succeeded");

        /*
         * Never sent to the old launcher, since the connection was gone: the new one gets it, and a restart finds it
         * there.
         */
        once = world_submit(&w, &(TaskSpec){ .agent = "text" });
        fake_restart(&w.launcher);
        a = world_spawned(&w, 5);
        world_pass(&w, USEC_PER_SEC);
        world_crash(&w);
        world_pass(&w, USEC_PER_SEC);
        fake_print(a, 1, "well\n");
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        world_finish(&w, &once);
        assert_ended(&w, &once, TASK_SUCCEEDED, NULL, "well");
        assert_int_equal(w.launcher.n, 6);

        /* A launcher that dies while it lists, after it has named the attempt: the next one does not hold it. */
        once = world_submit(&w, &(TaskSpec){ .agent = "text" });
        world_spawned(&w, 6);
        world_pass(&w, USEC_PER_SEC);
        w.launcher.list_unended = true;
        fake_hang_up(&w.launcher);
        world_pass(&w, USEC_PER_SEC);
        assert_int_equal(world_state(&w, &once), TASK_RUNNING);
        w.launcher.list_unended = false;
        fake_restart(&w.launcher);
        world_finish(&w, &once);
        assert_ended(&w, &once, TASK_FAILED, "lost", NULL);
        world_deinit(&w);
}

/* ---- restarts ---- */

/* Prints a piece at a time, then exits. */
static void poll_script(World *w) {
        static const char script[] = JSON_OUTPUT;

        for (size_t i = 0; i < w->launcher.n; i++) {
                FakeAttempt *a = w->launcher.attempts[i];
                size_t at = buf_size(&a->out[0]);
                if (!a->spawned || a->exited || !streq(a->agent, "json"))
                        continue;
                if (at < strlen(script))
                        assert_int_equal(buf_append(&a->out[0], script + at, MIN(strlen(script) - at, (size_t)29)), 0);
                else
                        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        }
}

/*
 * The router dies after every number of steps, once or twice: the launcher sees one attempt, the store each byte once.
 */
static void test_crash_every_step(void **state) {
        for (unsigned step = 0; step < 70; step++) {
                World w;
                Id id;

                world_init(&w, 7000 + step);
                w.launcher.auto_spawn = true;
                world_run_until(&w, launcher_client_is_ready(w.client));
                w.poll = poll_script;
                id = world_submit(&w, &(TaskSpec){ .agent = "json" });
                world_run_until(&w, w.sched->runs.next != &w.sched->runs);
                /* Acknowledged to the client: from here on it must not get lost. */
                Ack ack = {};
                store_wait(w.store, &ack.wait, ack_fn);
                world_run_until(&w, ack.called);
                for (unsigned i = 0; i < step; i++)
                        world_step(&w);
                world_crash(&w);
                if (step % 2) {
                        for (unsigned i = 0; i < step / 2; i++)
                                world_step(&w);
                        world_crash(&w);
                }
                world_finish(&w, &id);
                assert_ended(&w, &id, TASK_SUCCEEDED, "completed", "Grüß Gott");
                assert_events(&w, &id, JSON_EVENTS);
                assert_int_equal(w.launcher.n, 1);
                assert_attempts(&w, &id, "succeeded");
                StoreTask *task = world_load(&w, &id);
                assert_int_equal(task->usage.input_tokens, 10);
                store_task_free(task);
                assert_usage(&w, 1, 10);
                world_run_until(&w, w.launcher.attempts[0]->forgotten);
                world_deinit(&w);
        }
}

/* ---- a full store ---- */

static void test_full(void **state) {
        for (unsigned seed = 0; seed < 40; seed++) {
                World w;
                Id good, bad;

                world_init(&w, 40 + seed);
                world_run_until(&w, launcher_client_is_ready(w.client));
                w.poll = poll_script;
                good = world_submit(&w, &(TaskSpec){ .agent = "json" });
                bad = world_submit(&w, &(TaskSpec){ .agent = "text", .max_attempts = seed % 3 == 0 ? 2 : 1 });
                world_spawned(&w, 1);
                full_random = seed;
                full_percent = seed % 2 ? 100 : 40;
                world_pass(&w, 3 * USEC_PER_SEC);
                FakeAttempt *a = w.launcher.attempts[streq(w.launcher.attempts[0]->agent, "text") ? 0 : 1];
                fake_print(a, 1, "half");
                if (seed % 3 == 0)
                        fake_exit(a, LAUNCH_HOW_LOST, 0);
                else
                        fake_exit(a, LAUNCH_HOW_SIGNALLED, 9);
                world_pass(&w, 10 * USEC_PER_SEC);
                if (full_percent == 100) {
                        assert_int_equal(sched_stats(w.sched).n_running, 2);
                        assert_int_equal(world_state(&w, &good), TASK_RUNNING);
                }
                full_percent = 0;
                if (seed % 5 == 4)
                        world_crash(&w);
                world_run_until(&w, world_is_final(&w, &good));
                assert_events(&w, &good, JSON_EVENTS);
                StoreTask *task = world_load(&w, &good);
                assert_string_equal(task->result, "Grüß Gott");
                assert_int_equal(task->usage.input_tokens, 10);
                store_task_free(task);
                if (seed % 3 == 0) {
                        /* A loss is still one after the wait, and repeated. */
                        a = world_spawned(&w, 2);
                        fake_exit(a, LAUNCH_HOW_EXITED, 0);
                }
                world_finish(&w, &bad);
                assert_attempts(&w, &bad, seed % 3 == 0 ? "lost succeeded" : "failed");
                assert_attempts(&w, &good, "succeeded");
                assert_int_equal(w.launcher.n, seed % 3 == 0 ? 3 : 2);
                world_deinit(&w);
        }
}

/* A start that the full store refuses is tried again in a second, not at once. */
static void test_full_start(void **state) {
        World w;
        Id id;

        world_init(&w, 12);
        w.launcher.down = true;
        fake_hang_up(&w.launcher);
        id = world_submit(&w, &(TaskSpec){ .agent = "text" });
        world_pass(&w, USEC_PER_SEC);
        full_percent = 100;
        n_refused = 0;
        w.launcher.down = false;
        world_pass(&w, 10 * USEC_PER_SEC);
        assert_in_range(n_refused, 4, 12);
        full_percent = 0;
        fake_exit(world_spawned(&w, 0), LAUNCH_HOW_EXITED, 0);
        world_finish(&w, &id);
        world_deinit(&w);
}

/* A commit that fails: what it held is not begun, whatever else happens until the router is started anew. */
static void test_failed_commit(void **state) {
        World w;

        for (unsigned i = 0; i < 3; i++) {
                world_init(&w, 13 + i);
                w.launcher.down = true;
                fake_hang_up(&w.launcher);
                world_submit(&w, &(TaskSpec){ .agent = "text" });
                world_pass(&w, USEC_PER_SEC);
                world_stop(&w);
                ring_sim_configure(&(RingSimOptions){ .seed = 13 + i, .sync_error_percent = 100 });
                w.launcher.down = false;
                world_start(&w);
                world_run_until(&w, store_failure(w.store));
                if (i == 1)
                        fake_hang_up(&w.launcher);
                if (i == 2)
                        sched_retry_later(w.sched);
                world_pass(&w, 60 * USEC_PER_SEC);
                assert_int_equal(w.launcher.n, 0);
                world_deinit(&w);
        }
}

/* A spawn that failed while the store was full is no loss. */
static void test_full_spawn_failed(void **state) {
        World w;
        Id id;

        world_init(&w, 11);
        w.launcher.auto_spawn = false;
        id = world_submit(&w, &(TaskSpec){ .agent = "text" });
        FakeAttempt *a = world_spawned(&w, 0);
        full_percent = 100;
        fake_spawn_failed(&w.launcher, a, "workspace", ENOENT);
        world_pass(&w, 5 * USEC_PER_SEC);
        full_percent = 0;
        world_finish(&w, &id);
        assert_ended(&w, &id, TASK_FAILED, "workspace", NULL);
        assert_attempts(&w, &id, "spawn_failed");
        world_deinit(&w);
}

/* ---- anything may happen ---- */

static void poll_random(World *w) {
        static const char *const lines[] = {
                "{\"type\":\"text\",\"text\":\"a\"}\n", "{\"type\":\"tool\",\"name\":\"b\"}\n", "x\n", "{\"type\":\"te",
                "{\"type\":\"error\",\"message\":\"busy\",\"status\":503}\n", "{\"type\":\"done\",\"in\":1,\"out\":1}\n",
        };

        for (size_t i = 0; i < w->launcher.n; i++) {
                FakeAttempt *a = w->launcher.attempts[i];
                if (a->exited || a->forgotten)
                        continue;
                switch (ring_sim_random(&w->random, a->answered ? 30 : 4)) {
                case 0:
                        if (!a->answered && ring_sim_random(&w->random, 4) == 0 && w->launcher.fd >= 0)
                                fake_spawn_failed(&w->launcher, a, "clone", ring_sim_random(&w->random, 2) ? EAGAIN : EPERM);
                        else if (!a->answered && w->launcher.fd >= 0)
                                fake_spawned(&w->launcher, a);
                        break;
                case 1 ... 4:
                        if (a->spawned)
                                fake_print(a, 1 + (unsigned)ring_sim_random(&w->random, 2),
                                           lines[ring_sim_random(&w->random, ELEMENTSOF(lines))]);
                        break;
                case 5:
                        if (a->spawned)
                                fake_exit(a, LAUNCH_HOW_EXITED + (uint32_t)ring_sim_random(&w->random, 3),
                                          (uint32_t)ring_sim_random(&w->random, 2));
                        break;
                }
        }
}

static void assert_task_is_over(World *w, const Id *id) {
        _cleanup_(store_task_freep) StoreTask *task = world_load(w, id);
        _cleanup_free_ char *events = world_events(w, id);
        AttemptSummary s = {};

        assert_true(task_state_is_final(task->state));
        assert_int_equal(store_attempt_list(w->store, id, summarise_attempt, &s), 0);
        assert_int_equal(s.n, task->n_attempts);
        assert_int_equal(s.n_open, 0);
        assert_true(task->n_attempts <= task->max_attempts);
        buf_deinit(&s.text);
        /* One final state, as the last event. */
        assert_int_equal(count(events, "\"state\":\"succeeded\"") + count(events, "\"state\":\"failed\"") +
                         count(events, "\"state\":\"cancelled\"") + count(events, "\"state\":\"dead\"") +
                         count(events, "\"state\":\"timed_out\""), 1);
        assert_int_equal(count(events, "\"state\":\"running\""), task->n_attempts);
}

static uint64_t the_seed;       /* 0: no run has failed */

static int tell_seed(void **state) {
        if (the_seed)
                print_message("# again: SCHED_SEED=%" PRIu64 "\n", the_seed);
        return 0;
}

/* SCHED_SEED=N runs that seed alone; SCHED_SEEDS=N that many: for a long look by hand. */
static void test_random(void **state) {
        uint64_t end_us = clock_monotonic_us() + 6 * USEC_PER_SEC;
        const char *one = getenv("SCHED_SEED"), *many = getenv("SCHED_SEEDS");
        uint64_t first = 1, last = 300, seed;

        if (one) {
                assert_true(parse_u64(one, &first));
                last = first;
        } else if (many)
                assert_true(parse_u64(many, &last));
        for (seed = first; seed <= last && (one || many || seed <= 10 || clock_monotonic_us() < end_us); seed++) {
                the_seed = seed;
                Id ids[24];
                size_t n = 0;
                World w;

                clock_freeze(0, 0);
                world_init(&w, seed);
                w.config.running_max = 1 + (uint32_t)ring_sim_random(&w.random, 5);
                world_stop(&w);
                world_start(&w);
                w.launcher.auto_spawn = false;
                w.poll = poll_random;
                for (unsigned step = 0; step < 300; step++) {
                        world_step(&w);
                        switch (ring_sim_random(&w.random, 60)) {
                        case 0 ... 5:
                                if (n < ELEMENTSOF(ids) &&
                                    world_try_submit(
                                            &w,
                                            &(TaskSpec){
                                                    .agent = ring_sim_random(&w.random, 2) ? "text" : "json",
                                                    .priority = (uint32_t)ring_sim_random(&w.random, 100),
                                                    .delay_us = ring_sim_random(&w.random, 3)
                                                                        ? 0
                                                                        : ring_sim_random(&w.random, 5 * USEC_PER_SEC),
                                                    .timeout_us = 1 + ring_sim_random(&w.random, 10 * USEC_PER_SEC),
                                                    .max_attempts = 1 + (uint32_t)ring_sim_random(&w.random, 3) },
                                            &ids[n]) == 0)
                                        n++;
                                break;
                        case 6 ... 8:
                                if (n) {
                                        int r = world_cancel(&w, &ids[ring_sim_random(&w.random, n)]);
                                        assert_true(r == 0 || r == SCHED_E_FINAL || r == SCHED_E_UNAVAILABLE);
                                }
                                break;
                        case 9:
                                fake_hang_up(&w.launcher);
                                break;
                        case 10:
                                fake_restart(&w.launcher);
                                break;
                        case 11:
                                full_percent = (unsigned)ring_sim_random(&w.random, 2) * 30;
                                full_random = seed + step;
                                break;
                        case 12:
                                full_percent = 0;
                                if (ring_sim_random(&w.random, 4))
                                        break;
                                /* What is not acknowledged may be gone with a crash; this test keeps what it has. */
                                Ack ack = {};
                                store_wait(w.store, &ack.wait, ack_fn);
                                world_run_until(&w, ack.called);
                                world_crash(&w);
                                break;
                        case 13:
                                w.launcher.down = !w.launcher.down;
                                break;
                        case 14:
                                world_pass(&w, ring_sim_random(&w.random, 3 * USEC_PER_SEC));
                                break;
                        }
                        assert_true(sched_stats(w.sched).n_running <= w.config.running_max);
                }
                full_percent = 0;
                w.launcher.down = false;
                world_run_until(&w, sched_stats(w.sched).n_live == 0);
                assert_int_equal(sched_stats(w.sched).n_running, 0);
                assert_int_equal(sched_stats(w.sched).n_waiting, 0);
                assert_true(list_is_empty(&w.sched->runs));
                for (size_t i = 0; i < n; i++)
                        assert_task_is_over(&w, &ids[i]);
                /* The launcher holds nothing any more. */
                for (size_t i = 0; i < w.launcher.n; i++)
                        world_run_until(&w, w.launcher.attempts[i]->forgotten);
                world_deinit(&w);
        }
        the_seed = 0;
        print_message("# seeds %" PRIu64 " to %" PRIu64 "\n", first, seed - 1);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_text),
                cmocka_unit_test(test_every_split),
                cmocka_unit_test(test_long_line),
                cmocka_unit_test(test_capture_limit),
                cmocka_unit_test(test_retry),
                cmocka_unit_test(test_timeouts),
                cmocka_unit_test(test_ends),
                cmocka_unit_test(test_cancel),
                cmocka_unit_test(test_cancel_every_step),
                cmocka_unit_test(test_launcher_lost),
                cmocka_unit_test(test_crash_every_step),
                cmocka_unit_test(test_full),
                cmocka_unit_test(test_full_start),
                cmocka_unit_test(test_full_spawn_failed),
                cmocka_unit_test(test_failed_commit),
                cmocka_unit_test_teardown(test_random, tell_seed),
        };
        return cmocka_run_group_tests_name("sched-run", tests, NULL, NULL);
}

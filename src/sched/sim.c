/*
 * sim: scheduler, store and a launcher of the test's own, run from a seed with faults.
 *
 *     sim [--seed N | --seeds A..B] [--seconds S] [--trace]
 *
 * A seed decides what is submitted, cancelled, limited and paused, what the agents do, when processes die, the disk is
 * full, a commit fails, or a clock jumps, and how the ring orders its completions: the same seed is the same run, for
 * ids and back-offs come from it too. After some hundred steps the faults stop, and everything has to end. What must
 * hold is in sim-model.h.
 *
 * Seeds run in blocks, each block in a process of its own, so that a crash, an assertion or a hang costs one seed: its
 * number, the command that runs it again and its last steps are printed. One line of TAP a block.
 */

#include "sched/sim-model.h"

#include <assert.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "base/parse.h"

#define STEPS_N 400
#define BLOCK_SEEDS 20
/* Of one seed, which takes some 50 ms: what takes as long as this goes on for ever. */
#define SEED_SECONDS_MAX 120
/* Until all has ended once the faults have: gates of an hour and clocks that were set back are waited out. */
#define CALM_MAX_US (72 * 3600 * USEC_PER_SEC)
#define CLOCK_JUMP_MAX_US (2 * 3600 * USEC_PER_SEC)
#define FALLBACK_SECONDS 25

static_assert(SIM_TASKS_MAX < 64, "tasks of a request are bits of a word");

static const char *const manifests[] = { MANIFEST_TEXT, MANIFEST_JSON, MANIFEST_OTHER, NULL };
static const char *const fewer_manifests[] = { MANIFEST_TEXT, MANIFEST_JSON, NULL };
static const char *const agents[] = { "text", "json", "other" };
static const char *const principals[] = { "uid:1", "key:a", "key:b" };
static const char *const groups[] = { "refactor", "review" };
static const char *const code[] = { "code", NULL };

static Sim sim;

static uint64_t rnd(uint64_t n) {
        return ring_sim_random(&sim.w.random, n);
}

static bool chance(unsigned percent) {
        return rnd(100) < percent;
}

/* ---- acknowledgements ---- */

typedef enum SimVerb {
        SIM_SUBMIT,
        SIM_CANCEL,
        SIM_RETRY,
} SimVerb;

/* A request that waits for its durability; freed by its callback. */
typedef struct SimRequest {
        StoreWait wait;
        SimVerb verb;
        uint64_t tasks;                 /* bit n: of task n */
} SimRequest;

static void on_durable(StoreWait *wait, int error) {
        SimRequest *request = container_of(wait, SimRequest, wait);

        for (uint64_t bits = request->tasks; bits && !error && !sim.dying; bits &= bits - 1) {
                SimTask *t = &sim.tasks[__builtin_ctzll(bits)];
                if (request->verb == SIM_SUBMIT)
                        t->acked = true;
                else if (request->verb == SIM_CANCEL && !t->again)
                        t->cancelled = true;
        }
        free(request);
}

static void await(SimVerb verb, uint64_t tasks) {
        SimRequest *request = calloc(1, sizeof(*request));

        *request = (SimRequest){ .verb = verb, .tasks = tasks };
        store_wait(sim.w.store, &request->wait, on_durable);
}

/* ---- what clients do ---- */

/* Why a request may be refused. */
static void assert_refusal(int r) {
        if (r != SCHED_E_UNAVAILABLE && r != STORE_E_FULL && r != STORE_E_FAILED && r != SCHED_E_FINAL &&
            r != SCHED_E_NOT_FINAL && r != SCHED_E_INVALID && r != SCHED_E_NO_AGENT)
                fail_msg("a request failed with %d: %s", r, sim.w.detail);
}

static TaskSpec random_spec(Id after[static SIM_DEPENDENCIES_MAX]) {
        TaskSpec spec = {
                .agent = chance(40) ? NULL : agents[rnd(ELEMENTSOF(agents))],
                .capabilities = code,
                .principal = principals[rnd(ELEMENTSOF(principals))],
                .group = chance(50) ? NULL : groups[rnd(ELEMENTSOF(groups))],
                .priority = (uint32_t)(chance(50) ? 50 : rnd(101)),
                .delay_us = chance(20) ? 1 + rnd(20 * USEC_PER_SEC) : 0,
                .timeout_us = 1 + rnd(chance(50) ? 10 * USEC_PER_SEC : 900 * USEC_PER_SEC),
                .max_attempts = 1 + (uint32_t)rnd(3),
                .after = after,
                .on = (StoreCondition)(STORE_ON_SUCCESS + rnd(3)),
                .on_unmet = chance(30) ? STORE_UNMET_RUN : STORE_UNMET_CANCEL,
        };

        if (chance(15))
                spec.gpus = 1 + (uint32_t)rnd(SIM_GPUS);
        if (chance(15))
                spec.cpus_milli = 1 + (uint32_t)rnd(SIM_CPUS * 1000);
        if (chance(15))
                spec.memory = 1 + rnd(SIM_MEMORY);
        if (chance(15))
                spec.max_tokens = 1 + rnd(20);
        if (spec.agent && streq(spec.agent, "text"))
                spec.capabilities = NULL;
        if (chance(15))
                spec.deadline_us = spec.delay_us + 1 + rnd(60 * USEC_PER_SEC);
        while (chance(20) && spec.n_after < SIM_DEPENDENCIES_MAX && sim.n) {
                const SimTask *on = &sim.tasks[rnd(sim.n)];
                if (on->acked)
                        after[spec.n_after++] = on->id;
        }
        return spec;
}

static SimTask *add_task(const StoreTask *record, const TaskSpec *spec, bool first) {
        SimTask *t = &sim.tasks[sim.n];

        *t = (SimTask){ .id = record->id, .n = (unsigned)sim.n, .principal = spec->principal, .group = spec->group,
                        .batch = spec->batch, .first = first, .deadline_us = record->deadline_us,
                        .cpus_milli = spec->cpus_milli, .memory = spec->memory };
        sim.n++;
        return t;
}

/* One task, or several in one request, as a batch. */
static void submit(unsigned n) {
        bool first = n > 1 && chance(50);
        SchedTask *live[SIM_TASKS_MAX] = {};
        size_t from = sim.n, n_live = 0;
        StoreBatch batch = { .principal = (char *)principals[0], .metadata = (char *)"{}", .n_tasks = n,
                             .select = first ? STORE_SELECT_FIRST : STORE_SELECT_NONE, .created_us = 1 };
        int r, e;

        if (sim.n + n > SIM_TASKS_MAX || store_begin(sim.w.store))
                return;
        r = 0;
        if (n > 1) {
                batch.id = test_id();
                batch.max_tokens = chance(30) ? 1 + rnd(40) : 0;
                r = store_batch_insert(sim.w.store, &batch);
        }
        for (unsigned i = 0; i < n && !r; i++) {
                Id after[SIM_DEPENDENCIES_MAX];
                TaskSpec spec = random_spec(after);
                StoreTask *record;
                spec.batch = batch.id;
                record = world_task(&spec);
                add_task(record, &spec, first);
                const SchedRequest request = { .capabilities = spec.capabilities, .after = spec.after,
                                               .n_after = spec.n_after, .on = spec.on };
                r = sched_submit(sim.w.sched, record, &request, &live[n_live++], sim.w.detail);
                sim_log("submit task %u%s%s, %s, group %s, priority %u, after %zu: %d", sim.tasks[sim.n - 1].n,
                        n > 1 ? " of a batch" : "", first ? ", first of it" : "", spec.agent ?: "any agent",
                        spec.group ?: "-", spec.priority, spec.n_after, r);
                store_task_free(record);
        }
        e = store_end(sim.w.store, r == 0);
        r = r ?: e;
        for (size_t i = 0; i < n_live; i++)
                if (live[i])
                        sched_submitted(live[i], r == 0);
        if (r) {
                assert_refusal(r);
                sim.n = from;
                return;
        }
        shared->n_tasks += n;
        await(SIM_SUBMIT, ((UINT64_C(1) << n) - 1) << from);
}

static void cancel(const SimTask *t) {
        int r;

        if (!t->acked)
                return;
        r = world_cancel(&sim.w, &t->id);
        sim_log("cancel task %u: %d", t->n, r);
        if (r)
                assert_refusal(r);
        else
                await(SIM_CANCEL, UINT64_C(1) << t->n);
}

static void retry(SimTask *t) {
        SchedTask *live = NULL;
        int r, e;

        if (!t->acked || store_begin(sim.w.store))
                return;
        r = sched_requeue(sim.w.sched, &t->id, &live, sim.w.detail);
        e = store_end(sim.w.store, r == 0);
        r = r ?: e;
        sim_log("retry task %u: %d", t->n, r);
        if (!r) {
                t->again = true;
                t->cancelled = false;
        }
        if (live)
                sched_submitted(live, r == 0);
        if (r) {
                assert_refusal(r);
                return;
        }
        await(SIM_RETRY, UINT64_C(1) << t->n);
}

/* ---- what administrators do ---- */

typedef struct LimitName {
        const char *kind, *name;
} LimitName;

static const LimitName limit_names[] = {
        { "global", "" }, { "agent", "text" }, { "agent", "json" }, { "agent", "other" }, { "principal", "uid:1" },
        { "principal", "key:a" }, { "principal", "key:b" }, { "group", "refactor" }, { "group", "review" },
};

static void set_limit(const LimitName *which, bool paused) {
        bool daily = streq(which->kind, "agent") || streq(which->kind, "principal");
        StoreLimit limit = { .kind = (char *)which->kind, .name = (char *)which->name, .paused = paused,
                             .running = chance(30) ? -1 : (int64_t)rnd(4), .weight = (uint32_t)rnd(4), .queued = -1,
                             .max_tokens_day = daily && chance(20) ? 1 + (int64_t)rnd(40) : -1,
                             .max_cost_microusd_day = -1, .updated_us = 1,
                             .updated_by = (char *)"uid:0" };
        int r, e;

        if (store_begin(sim.w.store))
                return;
        r = sched_limit_set(sim.w.sched, &limit);
        e = store_end(sim.w.store, r == 0);
        r = r ?: e;
        sim_log("limit %s '%s': %lld running%s: %d", which->kind, which->name, (long long)limit.running,
                paused ? ", paused" : "", r);
        if (r)
                assert_refusal(r);
        sim_read_limits(&sim);
}

static int unset_limit(const LimitName *which) {
        SchedLimitKind kind;
        int r, e;

        assert_true(sched_limit_kind_parse(which->kind, &kind));
        r = store_begin(sim.w.store);
        if (r)
                return r;
        r = sched_limit_unset(sim.w.sched, kind, which->name);
        e = store_end(sim.w.store, r == 0);
        r = r ?: e;
        sim_log("limit %s '%s' unset: %d", which->kind, which->name, r);
        sim_read_limits(&sim);
        return r;
}

/* Another configuration: so many at once, and with the third agent or without it. */
static void reload(const char *const *with) {
        Adapter *adapters[ELEMENTSOF(manifests)] = {};
        size_t n = 0;

        sim.w.config.running_max = 1 + (uint32_t)rnd(6);
        sim.w.manifests = with;
        for (; with[n]; n++)
                adapters[n] = load_manifest(with[n]);
        sim_log("the configuration is read again: %u at once, %zu agents", sim.w.config.running_max, n);
        assert_int_equal(sched_configure(sim.w.sched, &sim.w.config, adapters, n), 0);
        for (size_t i = 0; i < n; i++)
                adapter_free(adapters[i]);
}

/* ---- what agents do ---- */

static void agent_step(FakeAttempt *a) {
        static const char *const lines[] = {
                "{\"type\":\"text\",\"text\":\"a\"}\n", "{\"type\":\"tool\",\"name\":\"b\"}\n", "x\n", "{\"type\":\"te",
                "{\"type\":\"error\",\"message\":\"busy\",\"status\":503}\n",
                "{\"type\":\"error\",\"message\":\"slow down\",\"status\":429}\n",
                "{\"type\":\"done\",\"in\":3,\"out\":4}\n",
        };

        switch (rnd(a->answered ? 40 : 4)) {
        case 0:
                if (!a->answered && chance(20))
                        fake_spawn_failed(&sim.w.launcher, a, "clone", chance(50) ? EAGAIN : EPERM);
                else if (!a->answered)
                        fake_spawned(&sim.w.launcher, a);
                break;
        case 1 ... 4:
                if (a->spawned)
                        fake_print(a, 1 + (unsigned)rnd(2), lines[rnd(ELEMENTSOF(lines))]);
                break;
        case 5:
                if (a->spawned)
                        fake_exit(a, LAUNCH_HOW_EXITED + (uint32_t)rnd(3), (uint32_t)rnd(2));
                break;
        case 6:
                if (!a->spawned)
                        break;
                fake_print(a, 1, streq(a->agent, "json") ? "{\"type\":\"text\",\"text\":\"a\"}\n{\"type\":\"done\"}\n" : "a\n");
                fake_exit(a, LAUNCH_HOW_EXITED, 0);
                break;
        }
}

static void agent_succeed(FakeAttempt *a) {
        if (!a->answered)
                fake_spawned(&sim.w.launcher, a);
        fake_print(a, 1, streq(a->agent, "json") ? "\n{\"type\":\"text\",\"text\":\"a\"}\n{\"type\":\"done\"}\n" : "a\n");
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
}

static void poll_agents(World *w) {
        static unsigned n_polls;

        for (size_t i = 0; i < w->launcher.n; i++) {
                FakeAttempt *a = w->launcher.attempts[i];
                if (a->exited || a->forgotten || (!a->answered && w->launcher.fd < 0))
                        continue;
                if (sim.calm)
                        agent_succeed(a);
                else
                        agent_step(a);
        }
        sim_check_launcher(&sim);
        if (n_polls++ % 4 == 0)
                sim_check_books(&sim);
}

/* ---- faults ---- */

static void on_opened(World *w) {
        sim_reload(&sim);
}

static void crash(const char *why) {
        sim_log("the router dies: %s", why);
        shared->n_crashes++;
        sim.dying = true;
        sim.full_percent = 0;
        char copy[64];
        fixture_make_dir(copy);
        copy_dir(sim.w.dir, copy);
        sim.sync_fails = false;
        world_stop(&sim.w);
        copy_dir(copy, sim.w.dir);
        fixture_remove_dir(copy);
        sim.dying = false;
        world_start(&sim.w);
}

static void jump(void) {
        uint64_t by_us = rnd(chance(50) ? CLOCK_JUMP_MAX_US : 5 * USEC_PER_SEC), now_us = clock_realtime_us();
        bool back = chance(50);

        sim_log("the clock jumps %s by %" PRIu64 " s", back ? "back" : "on", by_us / USEC_PER_SEC);
        shared->n_jumps++;
        sim.was_set_back |= back;
        clock_freeze(clock_monotonic_us(), back ? now_us - by_us : now_us + by_us);
}

static void launcher_fault(void) {
        FakeLauncher *l = &sim.w.launcher;

        shared->n_launchers_lost++;
        switch (rnd(6)) {
        case 0:
                sim_log("the launcher dies");
                fake_restart(l);
                break;
        case 1:
                sim_log("the launcher goes down");
                l->down = true;
                fake_hang_up(l);
                break;
        case 2:
                sim_log("the launcher hears no SPAWN");
                l->deaf = true;
                break;
        case 3:
                sim_log("the launcher says nothing of attempts");
                l->silent = true;
                break;
        case 4:
                sim_log("the launcher breaks off its LIST");
                l->list_unended = true;
                fake_hang_up(l);
                break;
        case 5:
                sim_log("the launcher hangs up");
                fake_hang_up(l);
                break;
        }
}

static void launcher_mend(void) {
        FakeLauncher *l = &sim.w.launcher;

        if (!l->down && !l->deaf && !l->list_unended && !l->silent)
                return;
        sim_log("the launcher is well again");
        /* What it has not heard went down with the connection. */
        if (l->deaf || l->list_unended)
                fake_hang_up(l);
        l->down = l->deaf = l->list_unended = l->silent = false;
}

/* ---- one seed ---- */

static void random_act(void) {
        switch (rnd(100)) {
        case 0 ... 13:
                submit(1);
                break;
        case 14 ... 15:
                submit(2 + (unsigned)rnd(4));
                break;
        case 16 ... 19:
                if (sim.n)
                        cancel(&sim.tasks[rnd(sim.n)]);
                break;
        case 20:
                for (size_t i = 0; i < sim.n; i++)
                        cancel(&sim.tasks[i]);
                break;
        case 21 ... 25:
                if (sim.n)
                        retry(&sim.tasks[rnd(sim.n)]);
                break;
        case 26 ... 29:
                set_limit(&limit_names[rnd(ELEMENTSOF(limit_names))], chance(30));
                break;
        case 30 ... 32:
                (void)unset_limit(&limit_names[rnd(ELEMENTSOF(limit_names))]);
                break;
        case 33 ... 34:
                launcher_fault();
                break;
        case 35 ... 39:
                launcher_mend();
                break;
        case 40:
                sim.full_percent = chance(30) ? 100 : 30;
                sim_log("the disk is %u%% full", sim.full_percent);
                break;
        case 41 ... 44:
                sim.full_percent = 0;
                break;
        case 45:
                sim_log("syncs fail");
                shared->n_failed_commits++;
                sim.sync_fails = true;
                break;
        case 46:
                crash("SIGKILL");
                break;
        case 47:
                jump();
                break;
        case 48 ... 52:
                world_pass(&sim.w, rnd(3 * USEC_PER_SEC));
                break;
        case 53:
                reload(chance(30) ? fewer_manifests : manifests);
                break;
        case 54:
                world_pass(&sim.w, rnd(90 * USEC_PER_SEC));
                break;
        }
}

static void step(void) {
        world_step(&sim.w);
        random_act();
        if (store_failure(sim.w.store) && chance(30))
                crash("its store failed, and the service manager starts it anew");
        sim_check_books(&sim);
}

static bool launcher_is_idle(void) {
        for (size_t i = 0; i < sim.w.launcher.n; i++)
                if (!sim.w.launcher.attempts[i]->forgotten)
                        return false;
        return true;
}

/* The faults are over: everything ends. */
static void calm_down(void) {
        uint64_t end_us = clock_monotonic_us() + CALM_MAX_US;

        sim_log("the faults are over");
        sim.full_percent = 0;
        sim.sync_fails = false;
        sim.calm = true;
        if (store_failure(sim.w.store))
                crash("its store had failed");
        launcher_mend();
        reload(manifests);
        sim.w.launcher.auto_spawn = sim.w.launcher.obey_kill = true;
        for (size_t i = 0; i < ELEMENTSOF(limit_names); i++) {
                int r = unset_limit(&limit_names[i]);
                assert_true(r == 0 || r == SCHED_E_NOT_FOUND);
        }
        while (sched_stats(sim.w.sched).n_live || !launcher_is_idle()) {
                if (clock_monotonic_us() > end_us) {
                        idmap_for_each(i, &sim.w.sched->tasks)
                                sim_log("task %u is %s", sim_find(&i->id)->n,
                                        task_state_name(container_of(i, SchedTask, node)->state));
                        fail_msg("not all ends");
                }
                world_pass(&sim.w, launcher_is_idle() ? 600 * USEC_PER_SEC : USEC_PER_SEC);
        }
        Ack ack = {};
        store_wait(sim.w.store, &ack.wait, ack_fn);
        while (!ack.called)
                world_step(&sim.w);
        assert_int_equal(ack.error, 0);
        sim_log("all has ended");
}

static void check_all_is_zero(void) {
        const Sched *s = sim.w.sched;

        sim_check_books(&sim);
        assert_int_equal(s->tasks.n, 0);
        assert_int_equal(s->flows.n, 0);
        assert_int_equal(s->n_waiting, 0);
        assert_int_equal(s->global->n_running, 0);
        assert_int_equal(s->delayed.n, 0);
        assert_int_equal(s->deadlines.n, 0);
        assert_int_equal(s->limits[SCHED_PRINCIPAL].n, 0);
        assert_int_equal(s->limits[SCHED_GROUP].n, 0);
        assert_true(list_is_empty(&s->runs));
        assert_true(list_is_empty(&s->parked_any));
        assert_true(list_is_empty(&s->parked_resources));
        assert_null(s->resources.first);
        assert_int_equal(s->budgets.n, 0);
        assert_int_equal(s->n_orphans, 0);
        for (size_t i = 0; i < s->n_agents; i++) {
                assert_int_equal(s->agents[i].limit->n_running, 0);
                assert_int_equal(s->agents[i].limit->n_live, 0);
                assert_false(s->agents[i].probing);
        }
        for (size_t i = 0; i < ELEMENTSOF(s->levels); i++)
                assert_true(list_is_empty(&s->levels[i].shares));
        for (size_t i = 0; i < sim.n; i++)
                if (!sim.tasks[i].gone)
                        sim_check_end(&sim, &sim.tasks[i]);
}

static void run_seed(void **state) {
        uint64_t seed = shared->seed;

        memset(&sim, 0, sizeof(sim));
        the_sim = &sim;
        shared->n_lines = 0;
        shared->digest = UINT64_C(0xcbf29ce484222325);
        id_freeze(seed);
        clock_freeze(0, 0);
        world_init(&sim.w, seed);
        sim.w.manifests = manifests;
        sim.w.launcher.n_gpus = SIM_GPUS;
        sim.w.launcher.gpu_shares = SIM_GPU_SHARES;
        sim.w.launcher.cpus = SIM_CPUS;
        sim.w.launcher.memory = SIM_MEMORY;
        sim.w.config.running_max = 1 + (uint32_t)rnd(6);
        sim.w.config.running_per_principal_max = chance(50) ? 0 : 1 + (uint32_t)rnd(4);
        world_stop(&sim.w);
        sim.w.opened = on_opened;
        world_start(&sim.w);
        sim.w.launcher.auto_spawn = chance(30);
        sim.w.launcher.obey_kill = chance(80);
        sim.w.launcher.chunk = chance(30) ? 7 : 0;
        sim.w.poll = poll_agents;
        for (sim.step = 0; sim.step < STEPS_N; sim.step++)
                step();
        calm_down();
        check_all_is_zero();
        /* A restart finds it all ended. */
        crash("once more");
        world_pass(&sim.w, USEC_PER_SEC);
        check_all_is_zero();
        sim_forget_limits(&sim);
        world_deinit(&sim.w);
        id_freeze(0);
}

/* ---- blocks ---- */

static int run_block(uint64_t first, uint64_t last) {
        for (shared->seed = first; shared->seed <= last; shared->seed++) {
                const struct CMUnitTest tests[] = { cmocka_unit_test(run_seed) };
                alarm(SEED_SECONDS_MAX);
                if (cmocka_run_group_tests_name("seed", tests, NULL, NULL))
                        return 1;
                shared->n_seeds++;
        }
        return 0;
}

/* Runs the seeds in a process; true where it ended well. The output of the last seed is in fd. */
static bool run_child(uint64_t first, uint64_t last, int fd, int *ret_status) {
        pid_t pid;

        fflush(stdout);
        if (ftruncate(fd, 0) < 0)
                abort();
        pid = fork();
        if (pid < 0)
                abort();
        if (pid == 0) {
                if (dup2(fd, STDOUT_FILENO) < 0)
                        abort();
                exit(run_block(first, last));
        }
        while (waitpid(pid, ret_status, 0) < 0)
                if (errno != EINTR)
                        abort();
        return WIFEXITED(*ret_status) && WEXITSTATUS(*ret_status) == 0;
}

static void tell_failure(const char *program, int fd, int status) {
        _cleanup_free_ char *text = NULL;
        unsigned n = MIN(shared->n_lines, (unsigned)SIM_LOG_LINES);
        size_t n_text;

        if (WIFSIGNALED(status))
                printf("# seed %" PRIu64 " died by signal %d%s\n", shared->seed, WTERMSIG(status),
                       WTERMSIG(status) == SIGALRM ? ": it does not end" : "");
        if (lseek(fd, 0, SEEK_SET) == 0 && fd_read_all(fd, MIB(16), &text, &n_text) == 0)
                for (char *line = text, *end; *line; line = end) {
                        end = line + strcspn(line, "\n");
                        printf("# %.*s\n", (int)(end - line), line);
                        end += *end == '\n';
                }
        for (unsigned i = shared->n_lines - n; i < shared->n_lines; i++)
                printf("# %s\n", shared->lines[i % SIM_LOG_LINES]);
        printf("# again: %s --seed %" PRIu64 "\n", program, shared->seed);
}

/* One line of TAP; on failure goes on behind the seed that failed. */
static bool tell_block(const char *program, unsigned n, uint64_t first, uint64_t last, int fd) {
        uint64_t from = first;
        int status;

        while (from <= last && !run_child(from, last, fd, &status)) {
                if (from == first || shared->seed > last)
                        printf("not ok %u - seeds %" PRIu64 " to %" PRIu64 "\n", n, first, last);
                tell_failure(program, fd, status);
                if (shared->seed > last)
                        return false;           /* at the end: a leak */
                from = shared->seed + 1;
                if (from > last)
                        return false;
        }
        if (from == first)
                printf("ok %u - seeds %" PRIu64 " to %" PRIu64 "\n", n, first, last);
        return from == first;
}

/* The same seed is the same run: without that, no failure could be had again. */
static bool tell_replay(uint64_t seed, int fd) {
        uint64_t digests[2] = {};
        int status;

        for (size_t i = 0; i < ELEMENTSOF(digests); i++)
                if (run_child(seed, seed, fd, &status))
                        digests[i] = shared->digest;
        printf("%s 1 - a seed is the same run twice\n", digests[0] == digests[1] ? "ok" : "not ok");
        return digests[0] == digests[1];
}

static int usage(void) {
        fprintf(stderr, "usage: sim [--seed N | --seeds A..B] [--seconds S] [--trace]\n");
        return 2;
}

static bool parse_seeds(char *s, uint64_t *ret_first, uint64_t *ret_last) {
        char *dots = strstr(s, "..");

        if (!dots)
                return false;
        *dots = 0;
        return parse_u64_range(s, 1, UINT64_MAX - 1, ret_first) &&
               parse_u64_range(dots + 2, *ret_first, UINT64_MAX - 1, ret_last);
}

int main(int argc, char **argv) {
        uint64_t first = 1, last = UINT64_MAX - 1, seconds = 0, start_us = clock_monotonic_us();
        bool given = false, good = true;
        unsigned n = 0;
        int fd;

        for (int i = 1; i < argc; i++) {
                const char *value = i + 1 < argc ? argv[i + 1] : "";
                if (streq(argv[i], "--trace"))
                        sim_traces = true;
                else if (streq(argv[i], "--seed") && parse_u64_range(value, 1, UINT64_MAX - 1, &first)) {
                        last = first;
                        given = true;
                        i++;
                } else if (streq(argv[i], "--seeds") && i + 1 < argc && parse_seeds(argv[i + 1], &first, &last)) {
                        given = true;
                        i++;
                } else if (streq(argv[i], "--seconds") && parse_u64_range(value, 1, 1000000, &seconds))
                        i++;
                else
                        return usage();
        }
        if (!given && !seconds)
                seconds = FALLBACK_SECONDS;
        fd = memfd_create("sim", MFD_CLOEXEC);
        shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (fd < 0 || shared == MAP_FAILED) {
                fprintf(stderr, "sim: %s\n", strerror(errno));
                return 1;
        }
        if (first != last)
                good = tell_replay(first, fd), n++;
        for (uint64_t seed = first; seed <= last; seed += BLOCK_SEEDS) {
                if (seconds && clock_monotonic_us() > start_us + seconds * USEC_PER_SEC)
                        break;
                n++;
                good &= tell_block(argv[0], n, seed, MIN(last, seed + BLOCK_SEEDS - 1), fd);
        }
        printf("1..%u\n", n);
        printf("# %" PRIu64 " seeds: %" PRIu64 " tasks, %" PRIu64 " attempts, %" PRIu64 " crashes, %" PRIu64
               " writes refused, %" PRIu64 " failed syncs, %" PRIu64 " launcher faults, %" PRIu64 " clock jumps\n",
               shared->n_seeds, shared->n_tasks, shared->n_starts, shared->n_crashes, shared->n_full,
               shared->n_failed_commits, shared->n_launchers_lost, shared->n_jumps);
        return good ? 0 : 1;
}

#pragma once

/*
 * What may happen in a simulation, each drawn from the seed: what clients ask for, what administrators set, what agents
 * print and how they end, and the faults.
 */

#include "sched/sim-model.h"

#include <assert.h>

#define CLOCK_JUMP_MAX_US (2 * 3600 * USEC_PER_SEC)

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

/* ---- one of these ---- */

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

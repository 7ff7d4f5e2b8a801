#pragma once

/*
 * What the simulation believes, and what must hold of the scheduler at every moment.
 *
 * The model hears what is written (the store's functions are wrapped at link time), so that it counts running attempts
 * by itself, and knows which limits were in force when one began. After a crash it is read anew from the store, where
 * every task that was acknowledged must be.
 */

#include "sched/test-util.h"

#include <inttypes.h>

#include "sched/run.h"

#define SIM_TASKS_MAX 48
#define SIM_DEPENDENCIES_MAX 3
#define SIM_GPUS 2
#define SIM_GPU_SHARES 2
#define SIM_CPUS 4
#define SIM_MEMORY MIB(8192)
#define SIM_LOG_LINES 60
#define SIM_LOG_WIDTH 160

typedef struct SimTask {
        Id id;
        unsigned n;                     /* its number, for the log */
        const char *principal;
        const char *group;              /* NULL: none */
        Id batch;
        bool first;                     /* the first success of its batch ends the others */
        bool acked;                     /* its submit was acknowledged: it must never be lost */
        bool gone;                      /* it was not, and a crash took it */
        bool cancelled;                 /* its cancel was acknowledged: it must not start any more */
        bool again;                     /* it was asked to run again after its end */
        uint32_t cpus_milli;
        uint64_t memory;
        bool open;                      /* an attempt is under way, by what is written */
        const char *agent;              /* of that attempt */
        uint64_t succeeded_us;          /* monotonic: when its success was first seen; 0: not */
        uint64_t deadline_us;
} SimTask;

/* Shared with the process that tells of a failure. */
typedef struct SimShared {
        uint64_t seed;                  /* that runs */
        uint64_t n_seeds;
        uint64_t digest;                /* of what the seed did */
        unsigned n_lines;
        char lines[SIM_LOG_LINES][SIM_LOG_WIDTH];
        uint64_t n_tasks, n_starts, n_crashes, n_full, n_failed_commits, n_launchers_lost, n_jumps;
} SimShared;

typedef struct Sim {
        World w;
        SimTask tasks[SIM_TASKS_MAX];
        size_t n;
        StoreLimit limits[16];          /* set at run time, as the store has them */
        size_t n_limits;
        bool dying;                     /* the router's process is gone: nobody hears its acknowledgements */
        bool calm;                      /* no more faults: agents succeed, the store is sound */
        unsigned full_percent;
        bool sync_fails;
        bool was_set_back;              /* the clock: what was due need not be any more */
        unsigned step;
        struct { SimTask *t; bool open, succeeded; const char *agent; } pending[256];    /* of the request under way */
        size_t n_pending;
} Sim;

static Sim *the_sim;
static SimShared *shared;
static bool sim_traces;

/* ---- the log ---- */

static void sim_log(const char *format, ...) _printf_(1, 2);

static void sim_log(const char *format, ...) {
        char *line = shared->lines[shared->n_lines++ % SIM_LOG_LINES];
        int n = snprintf(line, SIM_LOG_WIDTH, "%4u %" PRIu64 ".%06" PRIu64 " ", the_sim->step,
                         clock_monotonic_us() / USEC_PER_SEC, clock_monotonic_us() % USEC_PER_SEC);
        va_list ap;

        va_start(ap, format);
        vsnprintf(line + n, SIM_LOG_WIDTH - (size_t)n, format, ap);
        va_end(ap);
        for (const char *p = line; *p; p++)
                shared->digest = (shared->digest ^ (uint8_t)*p) * UINT64_C(0x100000001b3);      /* FNV-1a */
        if (sim_traces)
                fprintf(stderr, "%s\n", line);
}

static SimTask *sim_find(const Id *id) {
        for (size_t i = 0; i < the_sim->n; i++)
                if (id_equal(&the_sim->tasks[i].id, id))
                        return &the_sim->tasks[i];
        return NULL;
}

/* A name that lasts. */
static const char *sim_agent_name(const char *name) {
        static const char *const names[] = { "text", "json", "other" };

        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                if (streq(names[i], name))
                        return names[i];
        fail_msg("an attempt of an unknown agent '%s'", name);
        return NULL;
}

/* ---- limits ---- */

static const StoreLimit *sim_limit(const char *kind, const char *name) {
        for (size_t i = 0; i < the_sim->n_limits; i++)
                if (streq(the_sim->limits[i].kind, kind) && streq(the_sim->limits[i].name, name))
                        return &the_sim->limits[i];
        return NULL;
}

/* May one more of these start? `configured` is what holds where nothing is set at run time. */
static void sim_check_limit(const char *kind, const char *name, uint64_t configured) {
        const StoreLimit *l = sim_limit(kind, name);
        uint64_t max = l && l->running >= 0 ? (uint64_t)l->running : configured, n = 0;

        for (size_t i = 0; i < the_sim->n; i++) {
                const SimTask *t = &the_sim->tasks[i];
                const char *of = streq(kind, "agent")     ? t->agent
                               : streq(kind, "principal") ? t->principal
                               : streq(kind, "group")     ? t->group ?: ""
                                                          : "";
                n += t->open && streq(of, name);
        }
        if (n >= max)
                fail_msg("%s '%s' has %" PRIu64 " running, and %" PRIu64 " may: yet another starts", kind, name, n, max);
        if (l && l->paused)
                fail_msg("%s '%s' is paused, and a task of it starts", kind, name);
}

static void sim_check_machine(const SimTask *starts) {
        uint64_t cpus_milli = starts->cpus_milli, memory = starts->memory;

        for (size_t i = 0; i < the_sim->n; i++)
                if (the_sim->tasks[i].open) {
                        cpus_milli += the_sim->tasks[i].cpus_milli;
                        memory += the_sim->tasks[i].memory;
                }
        if (starts->cpus_milli)
                assert_true(cpus_milli <= SIM_CPUS * 1000);
        if (starts->memory)
                assert_true(memory <= SIM_MEMORY);
}

static void sim_check_budget(const SimTask *starts) {
        _cleanup_(store_batch_freep) StoreBatch *batch = NULL;
        uint64_t counts[_TASK_STATE_N];
        StoreUsage usage;

        if (id_is_null(&starts->batch))
                return;
        assert_int_equal(store_batch_load(the_sim->w.store, &starts->batch, &batch), 0);
        assert_int_equal(store_batch_count(the_sim->w.store, &starts->batch, counts, &usage), 0);
        if (batch->max_tokens && spending_of(&usage).tokens >= batch->max_tokens)
                fail_msg("task %u starts, and the budget of its batch is used up", starts->n);
}

/* ---- what a start must find ---- */

typedef struct SimDependencies {
        uint64_t deadline_us;
        bool run_anyway;
} SimDependencies;

static int sim_check_dependency(const Id *on, TaskState state, StoreCondition condition, void *userdata) {
        const SimDependencies *d = userdata;
        const SimTask *t = sim_find(on);
        bool met = condition == STORE_ON_FINISH || (condition == STORE_ON_SUCCESS) == (state == TASK_SUCCEEDED);

        /* What ran once more after its end may be anything by now. */
        if (t->again)
                return 0;
        if (!task_state_is_final(state))
                fail_msg("a task starts before task %u, which it waits for, has ended", t->n);
        if (!met && !d->run_anyway)
                fail_msg("a task starts though task %u, which it waits for, ended otherwise", t->n);
        return 0;
}

static void sim_check_start(const StoreAttempt *attempt) {
        SimTask *t = sim_find(&attempt->task_id);
        _cleanup_(store_task_freep) StoreTask *record = NULL;
        Sim *sim = the_sim;

        assert_non_null(t);
        t->agent = sim_agent_name(attempt->agent);
        sim_log("task %u starts on %s, attempt %u", t->n, t->agent, attempt->number);
        assert_int_equal(store_task_load(sim->w.store, &t->id, 0, &record), 0);
        assert_int_equal(record->state, TASK_QUEUED);
        assert_int_equal(attempt->number, record->n_attempts + 1);
        assert_true(record->n_attempts < MAX(record->max_attempts, 3u));
        if (t->open)
                fail_msg("task %u starts while an attempt of it is under way", t->n);
        if (t->cancelled)
                fail_msg("task %u starts after its cancel was acknowledged", t->n);
        if (record->not_before_us > clock_realtime_us() && !sim->was_set_back)
                fail_msg("task %u starts before its time", t->n);
        if (t->deadline_us && !record->started_us && !t->again && clock_realtime_us() >= t->deadline_us)
                fail_msg("task %u starts after its deadline", t->n);
        sim_check_limit("global", "", sim->w.config.running_max);
        sim_check_limit("agent", t->agent, streq(t->agent, "text") ? 3 : 100);
        sim_check_limit("principal", t->principal, sim->w.config.running_per_principal_max ?: SCHED_NO_LIMIT);
        if (t->group)
                sim_check_limit("group", t->group, SCHED_NO_LIMIT);
        sim_check_machine(t);
        sim_check_budget(t);
        if (!t->again) {
                SimDependencies d = { .run_anyway = record->on_unmet == STORE_UNMET_RUN };
                assert_int_equal(store_dependency_list(sim->w.store, &t->id, sim_check_dependency, &d), 0);
        }
        for (size_t i = 0; t->first && !t->again && i < sim->n; i++) {
                const SimTask *other = &sim->tasks[i];
                if (other != t && !other->again && id_equal(&other->batch, &t->batch) && other->succeeded_us &&
                    clock_monotonic_us() > other->succeeded_us + 2 * SCHED_STORE_RETRY_US)
                        fail_msg("task %u starts though task %u, of the same set, has succeeded", t->n, other->n);
        }
        for (size_t i = 0; i < sched_n_agents(sim->w.sched); i++) {
                SchedAgentInfo a = sched_agent(sim->w.sched, i);
                if (streq(adapter_name(a.adapter), t->agent) && a.gate_until_us)
                        fail_msg("task %u starts on %s, whose account is gated", t->n, t->agent);
        }
        shared->n_starts++;
}

/* ---- the store, wrapped ---- */

#define SIM_WRAP(name, ...)                     \
        int __real_##name(__VA_ARGS__);         \
        int __wrap_##name(__VA_ARGS__)
#define SIM_WRAP_FULL(name, parameters, arguments)                                      \
        int __real_##name parameters;                                                   \
        int __wrap_##name parameters;                                                   \
        int __wrap_##name parameters {                                                  \
                return sim_store_is_full() ? STORE_E_FULL : __real_##name arguments;    \
        }

static bool sim_store_is_full(void) {
        bool full = the_sim->full_percent && ring_sim_random(&the_sim->w.random, 100) < the_sim->full_percent;

        shared->n_full += full;
        return full;
}

SIM_WRAP_FULL(store_event_append, (Store *store, const Id *id, const StoreEvent *event, uint64_t *ret_seq),
              (store, id, event, ret_seq))
SIM_WRAP_FULL(store_task_insert, (Store *store, const StoreTask *task), (store, task))
SIM_WRAP_FULL(store_batch_insert, (Store *store, const StoreBatch *batch), (store, batch))
SIM_WRAP_FULL(store_limit_put, (Store *store, const StoreLimit *limit), (store, limit))
SIM_WRAP_FULL(store_limit_delete, (Store *store, const char *kind, const char *name), (store, kind, name))
SIM_WRAP_FULL(store_gate_put, (Store *store, const StoreGate *gate), (store, gate))
SIM_WRAP_FULL(store_dependency_insert, (Store *store, const Id *task, const Id *on, StoreCondition condition),
              (store, task, on, condition))
SIM_WRAP_FULL(store_usage_add, (Store *store, uint32_t day, const char *principal, const char *agent, const Id *batch,
                                const StoreUsage *usage, uint32_t n_attempts),
              (store, day, principal, agent, batch, usage, n_attempts))

SIM_WRAP(store_task_update, Store *store, const StoreTask *task);
SIM_WRAP(store_attempt_insert, Store *store, const StoreAttempt *attempt);
SIM_WRAP(store_attempt_update, Store *store, const StoreAttempt *attempt);
SIM_WRAP(store_begin, Store *store);
SIM_WRAP(store_end, Store *store, bool commit);
SIM_WRAP(fdatasync, int fd);

static void sim_note(const Id *task, bool open, const char *agent, bool succeeded) {
        Sim *sim = the_sim;

        assert_non_null(sim_find(task));
        assert_true(sim->n_pending < ELEMENTSOF(sim->pending));
        sim->pending[sim->n_pending].t = sim_find(task);
        sim->pending[sim->n_pending].agent = agent ? sim_agent_name(agent) : NULL;
        sim->pending[sim->n_pending].succeeded = succeeded;
        sim->pending[sim->n_pending++].open = open;
}

int __wrap_store_task_update(Store *store, const StoreTask *task) {
        if (sim_store_is_full())
                return STORE_E_FULL;
        if (task->state == TASK_SUCCEEDED)
                sim_note(&task->id, false, NULL, true);
        return __real_store_task_update(store, task);
}

int __wrap_store_attempt_insert(Store *store, const StoreAttempt *attempt) {
        sim_check_start(attempt);
        if (sim_store_is_full())
                return STORE_E_FULL;
        sim_note(&attempt->task_id, true, attempt->agent, false);
        return __real_store_attempt_insert(store, attempt);
}

int __wrap_store_attempt_update(Store *store, const StoreAttempt *attempt) {
        if (sim_store_is_full())
                return STORE_E_FULL;
        if (!attempt->open)
                sim_note(&attempt->task_id, false, attempt->agent, false);
        return __real_store_attempt_update(store, attempt);
}

int __wrap_store_begin(Store *store) {
        the_sim->n_pending = 0;
        return __real_store_begin(store);
}

int __wrap_store_end(Store *store, bool commit) {
        Sim *sim = the_sim;
        int r = __real_store_end(store, commit);

        for (size_t i = 0; i < sim->n_pending && r == 0 && commit; i++) {
                SimTask *t = sim->pending[i].t;
                t->open = sim->pending[i].open;
                t->agent = sim->pending[i].agent ?: t->agent;
                if (sim->pending[i].succeeded)
                        t->succeeded_us = clock_monotonic_us();
        }
        sim->n_pending = 0;
        return r;
}

int __wrap_fdatasync(int fd) {
        if (!the_sim->sync_fails)
                return __real_fdatasync(fd);
        errno = EIO;
        return -1;
}

/* ---- the scheduler's books, at any moment ---- */

/* What the runs hold of this is what is taken of it. */
static void sim_check_reserved(const Sched *s, const SchedBudget *b) {
        SchedSpending sum = {};

        list_for_each_safe(i, &s->runs) {
                const SchedRun *run = container_of(i, SchedRun, link);
                for (size_t k = 0; k < BUDGETS; k++)
                        if (run->charge.budgets[k] == b) {
                                sum.tokens += run->charge.reserved[k].tokens;
                                sum.microusd += run->charge.reserved[k].microusd;
                        }
        }
        assert_int_equal(b->reserved.tokens, sum.tokens);
        assert_int_equal(b->reserved.microusd, sum.microusd);
}

static void sim_check_resources(const Sched *s) {
        const SchedResources *m = &s->resources;
        uint64_t cpus_milli = 0, memory = 0, gpus = 0, used = 0;

        list_for_each_safe(i, &s->runs) {
                const SchedRun *run = container_of(i, SchedRun, link);
                cpus_milli += run->holds ? run->task->flow->key.cpus_milli : 0;
                memory += run->holds ? run->task->flow->key.memory : 0;
                gpus += run->holds ? run->task->flow->key.gpus : 0;
        }
        assert_int_equal(m->cpus_milli_used, cpus_milli);
        assert_int_equal(m->memory_used, memory);
        for (size_t i = 0; i < m->n_gpus; i++) {
                assert_true(m->gpus_used[i] <= SIM_GPU_SHARES);
                used += m->gpus_used[i];
        }
        /* Before a launcher has told of its GPUs they are not counted. */
        if (m->known)
                assert_int_equal(used, gpus);
}

typedef struct SimCount {
        uint64_t n_live;
        uint32_t n_running;
} SimCount;

static SimCount sim_count(const Sched *s, const SchedLimit *l) {
        SimCount c = {};

        list_for_each_safe(i, &s->runs) {
                const SchedRun *run = container_of(i, SchedRun, link);
                for (size_t k = 0; k < ELEMENTSOF(run->limits); k++)
                        c.n_running += run->limits[k] == l;
        }
        idmap_for_each(i, &s->tasks) {
                const SchedFlowKey *key = &container_of(i, SchedTask, node)->flow->key;
                bool one = (key->agents & (key->agents - 1)) == 0;
                c.n_live += key->principal == l || key->group == l ||
                            (one && s->agents[__builtin_ctzll(key->agents)].limit == l);
        }
        return c;
}

static void sim_check_flow(const Sched *s, const SchedFlow *f) {
        uint64_t n_tasks = 0, n_ready = 0;

        idmap_for_each(i, &s->tasks) {
                const SchedTask *t = container_of(i, SchedTask, node);
                bool leaving = t->extra && t->extra->next;
                if (t->flow != f)
                        continue;
                n_tasks++;
                n_ready += t->state == TASK_QUEUED && !leaving;
                assert_int_equal(heap_contains(&t->heap),
                                 !leaving && (t->state == TASK_QUEUED || t->state == TASK_DELAYED));
                if (!leaving)
                        assert_int_equal(t->run != NULL, t->state == TASK_RUNNING);
        }
        assert_int_equal(f->n_tasks, n_tasks);
        assert_int_equal(f->ready.n, n_ready);
        assert_int_equal(list_is_linked(&f->parked), f->block != SCHED_BLOCK_NONE);
        assert_int_equal(heap_contains(&f->heap), f->ready.n && f->block == SCHED_BLOCK_NONE);
        assert_int_equal(heap_contains(&f->share->by_pass), f->share->flows.n > 0);
        assert_int_equal(heap_contains(&f->share->by_age), f->share->flows.n > 0);
}

static void sim_check_books(Sim *sim) {
        const Sched *s = sim->w.sched;
        uint64_t n_waiting = 0;

        idmap_for_each(i, &s->tasks)
                n_waiting += task_is_waiting(container_of(i, SchedTask, node));
        assert_int_equal(s->n_waiting, n_waiting);
        for (SchedLimitKind k = 0; k < _SCHED_LIMIT_KIND_N; k++)
                map_for_each(i, &s->limits[k]) {
                        const SchedLimit *l = container_of(i, SchedLimit, node);
                        SimCount c = sim_count(s, l);
                        assert_int_equal(l->n_running, c.n_running);
                        assert_int_equal(l->n_live, c.n_live);
                        sim_check_reserved(s, &l->budget);
                }
        map_for_each(i, &s->budgets)
                sim_check_reserved(s, container_of(i, SchedBudget, node));
        sim_check_resources(s);
        map_for_each(i, &s->flows)
                sim_check_flow(s, container_of(i, SchedFlow, node));
        for (size_t i = 0; i < ELEMENTSOF(s->levels); i++)
                assert_int_equal(s->busy[i / 64] >> (i % 64) & 1, s->levels[i].by_age.n > 0);
}

/* No two processes of one task, and no GPU with more than it has shares, whatever the router believes. */
static void sim_check_launcher(const Sim *sim) {
        const FakeLauncher *l = &sim->w.launcher;
        unsigned shares[SIM_GPUS] = {};

        for (size_t i = 0; i < l->n; i++) {
                const FakeAttempt *a = l->attempts[i];
                if (a->forgotten || a->exited)
                        continue;
                for (size_t k = 0; k < SIM_GPUS; k++)
                        shares[k] += a->gpus >> k & 1;
                for (size_t k = 0; k < i; k++) {
                        const FakeAttempt *b = l->attempts[k];
                        if (!b->forgotten && !b->exited && id_equal(&a->task, &b->task))
                                fail_msg("task %u runs twice at once", sim_find(&a->task)->n);
                }
        }
        for (size_t k = 0; k < SIM_GPUS; k++)
                assert_true(shares[k] <= SIM_GPU_SHARES);
}

/* ---- the history of one task ---- */

typedef struct SimHistory {
        TaskState state;                /* 0: before the first event */
        unsigned n_final, n_lives, n_running;
        uint64_t seq;
        uint32_t attempt;
        const SimTask *t;
} SimHistory;

static TaskState state_of_event(const StoreEvent *event) {
        static const char start[] = "{\"state\":\"";
        char name[32] = "";
        size_t n;

        assert_true(event->n_data > strlen(start) && memcmp(event->data, start, strlen(start)) == 0);
        for (n = 0; n < sizeof(name) - 1 && event->data[strlen(start) + n] != '"'; n++)
                name[n] = event->data[strlen(start) + n];
        name[n] = 0;
        assert_true(task_state_from_name(name) != 0);
        return task_state_from_name(name);
}

static bool leads_to(TaskState from, TaskState to) {
        for (TaskEvent e = 0; e < _TASK_EVENT_N; e++)
                if (task_transition(from, e) == to)
                        return true;
        return false;
}

static int sim_read_event(const StoreEvent *event, void *userdata) {
        SimHistory *h = userdata;
        TaskState state;

        assert_int_equal(event->seq, ++h->seq);
        if (!streq(event->type, "state"))
                return 0;
        state = state_of_event(event);
        if (!h->state) {
                h->n_lives = 1;
                /* Where its dependencies had decided its fate, its first state is its last. */
                if (state != TASK_QUEUED && state != TASK_DELAYED && state != TASK_BLOCKED)
                        assert_int_equal(state, TASK_CANCELLED);
        } else {
                if (!leads_to(h->state, state))
                        fail_msg("task %u went from %s to %s", h->t->n, task_state_name(h->state), task_state_name(state));
                h->n_lives += task_state_is_final(h->state);
        }
        h->n_final += task_state_is_final(state);
        h->n_running += state == TASK_RUNNING;
        h->state = state;
        return 0;
}

static int sim_read_attempt(const StoreAttempt *a, void *userdata) {
        SimHistory *h = userdata;

        assert_int_equal(a->number, ++h->attempt);
        if (a->open || !a->outcome)
                fail_msg("attempt %u of task %u has no end", a->number, h->t->n);
        return 0;
}

/* The task has ended, as it should. */
static void sim_check_end(Sim *sim, const SimTask *t) {
        _cleanup_(store_task_freep) StoreTask *record = world_load(&sim->w, &t->id);
        SimHistory h = { .t = t };

        assert_true(task_state_is_final(record->state));
        assert_int_equal(store_event_list(sim->w.store, &t->id, 0, UINT32_MAX, sim_read_event, &h), 0);
        assert_int_equal(h.state, record->state);
        assert_int_equal(h.n_final, h.n_lives);
        assert_true(h.n_lives == 1 || t->again);
        assert_int_equal(h.n_running, record->n_attempts);
        assert_int_equal(store_attempt_list(sim->w.store, &t->id, sim_read_attempt, &h), 0);
        assert_int_equal(h.attempt, record->n_attempts);
        assert_false(t->open);
        if (t->cancelled && record->state != TASK_CANCELLED && record->state != TASK_SUCCEEDED &&
            !record->cancel_requested)
                fail_msg("the cancel of task %u was acknowledged and is forgotten", t->n);
}

/* ---- after a restart ---- */

static int sim_read_open(const StoreAttempt *a, void *userdata) {
        SimTask *t = sim_find(&a->task_id);

        assert_non_null(t);
        if (t->open)
                fail_msg("two attempts of task %u are under way", t->n);
        t->open = true;
        t->agent = sim_agent_name(a->agent);
        return 0;
}

static void sim_limit_free(StoreLimit *l) {
        free(l->kind);
        free(l->name);
        *l = (StoreLimit){};
}

static void sim_forget_limits(Sim *sim) {
        for (size_t i = 0; i < sim->n_limits; i++)
                sim_limit_free(&sim->limits[i]);
        sim->n_limits = 0;
}

static int sim_read_limit(const StoreLimit *row, void *userdata) {
        Sim *sim = userdata;
        StoreLimit *l = &sim->limits[sim->n_limits++];

        assert_true(sim->n_limits <= ELEMENTSOF(sim->limits));
        *l = *row;
        l->kind = strdup(row->kind);
        l->name = strdup(row->name);
        l->updated_by = NULL;
        return 0;
}

static void sim_read_limits(Sim *sim) {
        sim_forget_limits(sim);
        assert_int_equal(store_limit_list(sim->w.store, sim_read_limit, sim), 0);
}

/* What the store of the dead router holds: called before the new one looks at it, and changes it. */
static void sim_reload(Sim *sim) {
        Store *store = sim->w.store;

        for (size_t i = 0; i < sim->n; i++) {
                SimTask *t = &sim->tasks[i];
                _cleanup_(store_task_freep) StoreTask *record = NULL;
                int r = t->gone ? STORE_E_NOT_FOUND : store_task_load(store, &t->id, 0, &record);

                t->open = false;
                if (t->gone)
                        continue;
                if (r == STORE_E_NOT_FOUND && !t->acked) {
                        t->gone = true;
                        continue;
                }
                if (r)
                        fail_msg("task %u was acknowledged, and is lost", t->n);
                if (record->state != TASK_SUCCEEDED)
                        t->succeeded_us = 0;
                if (t->cancelled && !record->cancel_requested && !task_state_is_final(record->state))
                        fail_msg("the cancel of task %u was acknowledged, and is lost", t->n);
        }
        assert_int_equal(store_attempt_list_open(store, sim_read_open, sim), 0);
        sim_read_limits(sim);
        /* Nothing runs that the store does not know of. */
        for (size_t i = 0; i < sim->w.launcher.n; i++) {
                const FakeAttempt *a = sim->w.launcher.attempts[i];
                _cleanup_(store_attempt_freep) StoreAttempt *attempt = NULL;
                if (!a->forgotten && store_attempt_load(store, &a->id, &attempt))
                        fail_msg("an attempt of task %u runs, and the store does not know of it", sim_find(&a->task)->n);
        }
}

/*
 * run: one attempt, from its row in the store to its end.
 *
 *   COMMITTING   the attempt's row is on its way to the disk; nothing was spawned
 *   SPAWNING     SPAWN was sent, or (after a restart of the router) the launcher's LIST is awaited
 *   RUNNING      execve has happened; output comes
 *   EXITED       the exit record is here; the end is being written, or waits for the store
 *   ENDING       the end is on its way to the disk; then the launcher may forget the attempt
 */

#include <stdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "sched/run.h"

SchedRun *run_from_link(ListLink *link) {
        return container_of(link, SchedRun, link);
}

const char *run_held_gpus(const SchedRun *run) {
        return run->holds ? run->attempt->gpus : NULL;
}

SchedRun *run_free(SchedRun *run) {
        if (!run)
                return NULL;
        store_wait_cancel(&run->wait);
        timer_clear(&run->timeout);
        timer_clear(&run->inactivity);
        if (run->worker)
                worker_free(run->worker);
        for (size_t i = 0; i < ELEMENTSOF(run->streams); i++)
                buf_deinit(&run->streams[i].line);
        adapter_command_free(run->command);
        adapter_run_free(run->adapter);
        list_unlink(&run->link);
        if (run->task) {
                run->task->run = NULL;
                budget_release(run->sched, &run->charge);
                if (run->holds)
                        resource_give(run->sched, &run->task->flow->key, run->attempt->gpus);
                for (size_t i = 0; i < ELEMENTSOF(run->limits); i++)
                        limit_give(run->sched, run->limits[i]);
        }
        store_attempt_free(run->attempt);
        store_task_free(run->record);
        free(run);
        return NULL;
}

void run_log(const SchedRun *run, int level, const char *message_id, const char *text) {
        char task[ID_TEXT_MAX], attempt[ID_TEXT_MAX], pid[16] = "";

        id_format(&run->task->node.id, task);
        id_format(&run->attempt->id, attempt);
        if (run->worker)
                snprintf(pid, sizeof(pid), "%u", run->worker->pid);
        log_field(level, ((LogField[]){
                { "MESSAGE_ID", message_id },
                { "TASK_ID", task },
                { "ATTEMPT_ID", attempt },
                { "AGENT", run->record->agent },
                { "PRINCIPAL", run->record->principal },
                { "WORKER_PID", *pid ? pid : NULL },
                {} }), "task %s: %s", task, text);
}

/* ---- time ---- */

double run_seconds_between(uint64_t from_us, uint64_t to_us) {
        return to_us > from_us ? (double)(to_us - from_us) / 1e6 : 0;
}

void run_stop_worker(SchedRun *run) {
        if (run->worker && (run->phase == RUN_SPAWNING || run->phase == RUN_RUNNING))
                worker_kill(run->worker, run->grace_ms);
}

static void on_timeout(Timer *timer) {
        SchedRun *run = container_of(timer, SchedRun, timeout);

        run->timed_out = true;
        run->timeout_reason = "timeout";
        run_stop_worker(run);
}

void run_touch(SchedRun *run) {
        if (run->inactivity_us && run->phase == RUN_RUNNING && !run->timed_out)
                timer_set(&run->inactivity, clock_monotonic_us() + run->inactivity_us);
}

static void on_inactivity(Timer *timer) {
        SchedRun *run = container_of(timer, SchedRun, inactivity);

        /* What it prints can't reach us: that is no fault of the agent's. */
        if (run->blocked || !launcher_client_is_ready(run->sched->client)) {
                run_touch(run);
                return;
        }
        run->timed_out = true;
        run->timeout_reason = "inactivity";
        run_stop_worker(run);
}

/* The timeout counts from the attempt's start, a restart of the router included. */
void run_arm(SchedRun *run) {
        uint64_t age_us = 0, now_us = clock_realtime_us(),
                 from_us = run->attempt->execed_us ?: run->attempt->started_us;

        if (now_us > from_us)
                age_us = now_us - from_us;
        timer_set(&run->timeout,
                  clock_monotonic_us() + (run->record->timeout_us > age_us ? run->record->timeout_us - age_us : 0));
        run_touch(run);
}

/* ---- start ---- */

int run_new(SchedTask *task, SchedAgent *agent, StoreTask *record_take, SchedRun **ret_run) {
        Sched *s = task->flow->sched;
        SchedRun *run = calloc(1, sizeof(*run));
        int r;

        if (!run) {
                store_task_free(record_take);
                return error_origin(-ENOMEM);
        }
        run->sched = s;
        run->record = record_take;
        list_link_tail(&s->runs, &run->link);
        timer_init(&run->timeout, s->reactor, on_timeout);
        timer_init(&run->inactivity, s->reactor, on_inactivity);
        for (size_t i = 0; i < ELEMENTSOF(run->streams); i++)
                run->streams[i].line = (Buf)BUF_INIT(2 * LAUNCH_WINDOW);
        run->task = task;
        task->run = run;
        run->agent = agent;
        run->limits[0] = s->global;
        run->limits[1] = agent->limit;
        run->limits[2] = task->flow->key.principal;
        run->limits[3] = task->flow->key.group;
        for (size_t i = 0; i < ELEMENTSOF(run->limits); i++)
                limit_take(run->limits[i]);
        run->attempt = calloc(1, sizeof(*run->attempt));
        r = run->attempt ? adapter_run_new(&run->adapter, agent->adapter) : error_origin(-ENOMEM);
        if (r) {
                run_free(run);
                return error_trace(r);
        }
        *ret_run = run;
        return 0;
}

int run_render(SchedRun *run, char ret_error[static YAML_ERROR_MAX]) {
        int r;

        r = prompt_expand(run->sched, run->record);
        if (r == SCHED_E_INVALID) {
                snprintf(ret_error, YAML_ERROR_MAX, "the prompt is too large with the results that it asks for");
                return ADAPTER_E_UNSUPPORTED;
        }
        if (r)
                return error_trace(r);
        r = adapter_render(run->agent->adapter, run->record, RUN_HOME, &run->command, ret_error);
        if (r)
                return r;
        run->inactivity_us = run->command->inactivity_us;
        run->grace_ms = run->command->grace_ms;
        return 0;
}

/* It ends without an attempt: it can't be rendered for its agent any more (a changed manifest), or isn't wanted. */
static int run_refuse(SchedTask *task, StoreTask *record, TaskEvent event, const char *reason, const char *why) {
        Sched *s = task->flow->sched;
        int r;

        r = store_begin(s->store);
        if (r)
                return r;
        r = sched_write_state(s, record, event, reason, why);
        int e = store_end(s->store, r == 0);
        r = r ?: e;
        return r ?: task_settle_when_durable(task, record->state);
}

/* A batch's budget that is used up is the end; a day's comes again. */
static int run_wait_for_budget(SchedTask *task, SchedAgent *agent, StoreTask *record, const SchedBudgetBlock *block) {
        Sched *s = task->flow->sched;
        const SchedLimit *blocker = NULL;

        if (block->of_batch && block->used_up)
                return run_refuse(task, record, TASK_EVENT_FAIL, "budget", "the budget of its batch is used up");
        if (!block->of_batch)
                blocker = block->budget == &agent->limit->budget ? agent->limit : task->flow->key.principal;
        queue_park(task->flow, &block->budget->parked, SCHED_BLOCK_BUDGET, blocker);
        if (block->used_up) {
                s->waits_for_tomorrow = true;
                agent_health_arm(s);
        }
        return 0;
}

static void on_wait(StoreWait *wait, int error);

int run_start(SchedTask *task, SchedAgent *agent) {
        Sched *s = task->flow->sched;
        StoreTask *record = NULL;
        char error[YAML_ERROR_MAX] = "";
        SchedBudgetBlock block = {};
        SchedCharge charge = {};
        bool lost = false;
        SchedRun *run;
        int r;

        r = store_task_load(s->store, &task->node.id, STORE_TASK_PROMPT, &record);
        if (r)
                return r;
        /* The timer may come late, where the clock has jumped or the disk is full. */
        if (record->deadline_us && !record->started_us && record->deadline_us <= clock_realtime_us()) {
                r = run_refuse(task, record, TASK_EVENT_EXPIRE, "deadline", "its deadline passed before it could run");
                store_task_free(record);
                return r;
        }
        r = depend_is_lost(s, record, &lost);
        if (r || lost) {
                r = r ?: run_refuse(task, record, TASK_EVENT_CANCEL, "lost", "another of its set has succeeded");
                store_task_free(record);
                return r;
        }
        r = budget_try(s, record, agent, task->flow, &charge, &block);
        if (r || block.budget) {
                r = r ?: run_wait_for_budget(task, agent, record, &block);
                store_task_free(record);
                return r;
        }
        r = run_new(task, agent, record, &run);
        if (r) {
                budget_release(s, &charge);
                return error_trace(r);
        }
        run->charge = charge;
        run->picked_us = clock_monotonic_us();
        r = run_render(run, error);
        if (r > 0) {
                record = steal_ptr(&run->record);
                run_free(run);
                r = run_refuse(task, record, TASK_EVENT_FAIL, "unsupported", *error ? error : "its agent can't run it any more");
                store_task_free(record);
                return r;
        }
        if (!r)
                r = id_new(&run->attempt->id);
        if (r) {
                run_free(run);
                return error_trace(r);
        }
        run->attempt->task_id = task->node.id;
        run->attempt->number = run->record->n_attempts + 1;
        run->attempt->open = true;
        run->attempt->generation = s->generation;
        run->attempt->started_us = clock_realtime_us();
        run->attempt->exit_code = -1;
        run->attempt->usage = (StoreUsage)STORE_USAGE_UNKNOWN;
        run->record->n_attempts++;
        run->record->not_before_us = 0;
        r = sched_set_str(&run->record->agent, adapter_name(agent->adapter));
        r = r ?: sched_set_str(&run->attempt->agent, run->record->agent);
        r = r ?: resource_take(s, &task->flow->key, &run->attempt->gpus);
        run->holds = r == 0;
        if (r) {
                run_free(run);
                return error_trace(r);
        }
        if (!run->record->started_us) {
                run->record->started_us = run->attempt->started_us;
                metric_observe(s->metrics.queue_wait,
                               run_seconds_between(run->record->created_us, run->record->started_us));
        }
        run->record->cancel_requested = task->cancel_requested;

        r = store_begin(s->store);
        if (!r) {
                r = store_attempt_insert(s->store, run->attempt);
                r = r ?: sched_write_state(s, run->record, TASK_EVENT_PICK, NULL, NULL);
                int e = store_end(s->store, r == 0);
                r = r ?: e;
        }
        if (r) {
                run_free(run);
                return r;
        }
        queue_charge(task);
        task_dequeue(task);
        s->n_waiting--;
        task->state = TASK_RUNNING;
        agent_began(agent);
        run->phase = RUN_COMMITTING;
        /* The prompt is in the command now. */
        free(steal_ptr(&run->record->prompt));
        run->waiting = true;
        store_wait(s->store, &run->wait, on_wait);
        return 0;
}

/* The attempt's row as it is now. */
int run_save(SchedRun *run) {
        int r, e;

        r = store_begin(run->sched->store);
        if (r)
                return r;
        r = store_attempt_update(run->sched->store, run->attempt);
        e = store_end(run->sched->store, r == 0);
        return r ?: e;
}

void run_spawn(SchedRun *run) {
        Sched *s = run->sched;
        uint32_t gpus[LAUNCH_GPUS_MAX];
        WorkerSpec spec;
        int r;

        if (run->task->cancel_requested) {
                RunEnd end = { .outcome = "cancelled", .reason = "cancelled", .event = TASK_EVENT_CANCEL };
                if (run_write_end(run, &end))
                        sched_retry_later(s);
                return;
        }
        if (!run->command || !s->client || !launcher_client_is_ready(s->client))
                return;         /* on_ready comes back to it */
        if (!id_equal(&run->attempt->generation, &s->generation)) {
                /*
                 * Another launcher since the row was written: a restarted router must know whom to ask for the attempt.
                 */
                Id generation = run->attempt->generation;
                run->attempt->generation = s->generation;
                if (run_save(run)) {
                        run->attempt->generation = generation;
                        sched_retry_later(s);
                } else
                        run_commit(run);
                return;
        }
        spec = (WorkerSpec){
                .attempt = run->attempt->id,
                .task = run->task->node.id,
                .agent = run->record->agent,
                .argv = (const char *const *)run->command->argv,
                .environment = (const char *const *)run->command->environment,
                .credentials = (const char *const *)run->command->credentials,
                .read_only = (const char *const *)run->command->read_only,
                .home_files = (const char *const *)run->command->home_files,
                .require = s->config.require,
                .stdin_data = run->command->stdin_data,
                .n_stdin = run->command->n_stdin,
                .workspace = run->record->workspace,
                .seccomp = run->command->seccomp,
                .uid = run->record->run_as_uid,
                .gpus = gpus,
                .n_gpus = resource_gpus(run->attempt->gpus, gpus),
                /* What it has reserved is what it gets. */
                .memory_max = run->record->memory ?: run->command->memory_max ?: s->config.memory_max,
                .pids_max = run->command->pids_max ?: s->config.pids_max,
                .cpu_percent = run->record->cpus_milli ? MAX(run->record->cpus_milli / 10, 1u)
                                                       : run->command->cpu_percent ?: s->config.cpu_percent,
                .network = run->command->network,
        };
        r = launcher_spawn(s->client, &spec, run, &run->worker);
        if (r == WORKER_E_BUSY || r == WORKER_E_NOT_READY)
                return;         /* on_drain or on_ready comes back to it */
        if (r) {
                RunEnd end = { .outcome = "spawn_failed", .event = TASK_EVENT_FAIL, .retryable = r < 0,
                               .reason = r > 0 ? "too_large" : "spawn_failed",
                               .detail = r > 0 ? launcher_client_too_large(s->client)
                                               : "the launcher could not be asked: out of memory or descriptors" };
                if (run_write_end(run, &end))
                        sched_retry_later(s);
                return;
        }
        run->phase = RUN_SPAWNING;
}

/* ---- durability ---- */

void run_commit(SchedRun *run) {
        if (run->waiting)
                return;
        run->waiting = true;
        run->dirty = false;
        for (size_t i = 0; i < ELEMENTSOF(run->streams); i++)
                run->streams[i].waiting = run->streams[i].committed;
        store_wait(run->sched->store, &run->wait, on_wait);
}

static void on_wait(StoreWait *wait, int error) {
        SchedRun *run = container_of(wait, SchedRun, wait);

        /*
         * The store has failed: until a restart nothing is spawned, acknowledged or ended, for none of it is durable.
         * So it goes on waiting, as far as anybody asks.
         */
        if (error)
                return;
        run->waiting = false;
        if (run->phase == RUN_COMMITTING) {
                sched_notify(run->task, false);
                run_spawn(run);
                return;
        }
        for (unsigned i = 0; i < ELEMENTSOF(run->streams); i++)
                if (run->worker && run->streams[i].waiting > 0)
                        worker_acked(run->worker, i + 1, run->streams[i].waiting);
        if (run->phase == RUN_ENDING && !run->dirty) {
                run_ended(run);
                return;
        }
        /* Told after each commit: an agent that never pauses would leave its watchers waiting else. */
        sched_notify(run->task, false);
        if (run->dirty)
                run_commit(run);
}

/* ---- cancel, retry ---- */

void run_cancel(SchedRun *run) {
        /* EXITED and ENDING are past it. */
        if (run->phase == RUN_COMMITTING && !run->waiting)
                run_spawn(run); /* it waits for the launcher: looks at cancel_requested first */
        else
                run_stop_worker(run);
}

bool run_cancel_ending(SchedRun *run) {
        if (run->phase != RUN_ENDING)
                return false;
        run->next = TASK_CANCELLED;
        run->dirty = true;
        run_commit(run);
        return true;
}

void run_retry(SchedRun *run) {
        switch (run->phase) {
        case RUN_COMMITTING:
                if (!run->waiting)
                        run_spawn(run);
                break;
        case RUN_SPAWNING:
        case RUN_RUNNING:
                for (unsigned i = 0; i < ELEMENTSOF(run->streams); i++)
                        if (run_consume(run, i, false))
                                sched_retry_later(run->sched);
                break;
        case RUN_EXITED:
                if (run->has_end)
                        run_finish_without_record(run);
                else
                        run_finish(run);
                break;
        case RUN_ENDING:
                break;
        }
}

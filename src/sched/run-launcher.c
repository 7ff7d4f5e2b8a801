/*
 * run-launcher: what the launcher says of an attempt, and what a restarted router makes of the attempts in its store.
 */

#include <stdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "sched/run.h"

static void on_exited(Worker *worker, const WorkerExit *exit) {
        SchedRun *run = worker->userdata;

        if (!run || run->phase >= RUN_EXITED)
                return;
        run->exit = *exit;
        run->phase = RUN_EXITED;
        timer_clear(&run->timeout);
        timer_clear(&run->inactivity);
        if (exit->how == LAUNCH_HOW_LOST)
                run_lost(run, "its process ended without a report");
        else
                run_finish(run);
}

static void on_spawned(Worker *worker, uint64_t execed_at_us) {
        SchedRun *run = worker->userdata;
        uint64_t now_us = clock_monotonic_us();

        if (!run || run->phase != RUN_SPAWNING)
                return;
        run->phase = RUN_RUNNING;
        run->attempt->execed_us = clock_realtime_us() - (now_us - MIN(now_us, execed_at_us));
        if (run->picked_us)
                metric_observe(run->sched->metrics.latency, run_seconds_between(run->picked_us, execed_at_us));
        adapter_command_free(run->command);
        run->command = NULL;
        run_arm(run);
        run_log(run, LOG_INFO, LOG_ID_TASK_STARTED, "started");
        /* Where the store is full, the time goes with the next write. */
        if (run_save(run) == 0) {
                run->dirty = true;
                run_commit(run);
        }
        if (run->task->cancel_requested)
                run_stop_worker(run);
}

static bool stage_is_passing(int error) {
        return error == EAGAIN || error == ENOMEM || error == EMFILE || error == ENFILE || error == ENOSPC;
}

static void on_spawn_failed(Worker *worker, const char *stage, int error, const char *text) {
        SchedRun *run = worker->userdata;

        if (!run || run->phase >= RUN_EXITED)
                return;
        run->worker = NULL;     /* the client frees it */
        run_end_without_record(run, (RunEnd){ .outcome = "spawn_failed", .event = TASK_EVENT_FAIL,
                                              .reason = streq(stage, "workspace") ? "workspace" : "spawn_failed",
                                              .detail = text, .retryable = stage_is_passing(error),
                                              .is_exec = streq(stage, "exec") });
}

/* ---- recovery ---- */

static int copy_attempt(StoreAttempt *to, const StoreAttempt *from) {
        int r;

        *to = *from;
        to->agent = to->gpus = to->outcome = to->reason = to->detail = to->session = NULL;
        r = sched_set_str(&to->agent, from->agent);
        r = r ?: sched_set_str(&to->gpus, from->gpus);
        r = r ?: sched_set_str(&to->outcome, from->outcome);
        r = r ?: sched_set_str(&to->reason, from->reason);
        r = r ?: sched_set_str(&to->detail, from->detail);
        return r ?: sched_set_str(&to->session, from->session);
}

int run_recover(SchedTask *task, SchedAgent *agent, StoreTask *record_take, const StoreAttempt *attempt) {
        char error[YAML_ERROR_MAX];
        SchedRun *run;
        int r;

        r = run_new(task, agent, record_take, &run);
        if (r)
                return error_trace(r);
        r = copy_attempt(run->attempt, attempt);
        r = r ?: run_replay(run);
        if (r) {
                run_free(run);
                return error_trace(r);
        }
        run->streams[0].committed = attempt->stdout_offset;
        run->streams[0].flags = attempt->stdout_flags;
        run->streams[1].committed = attempt->stderr_offset;
        run->streams[1].flags = attempt->stderr_flags;
        /* Should it never have been sent, it can be rendered again; where not (a changed manifest), it is lost. */
        if (run_render(run, error) != 0)
                run->inactivity_us = 0;
        free(steal_ptr(&run->record->prompt));
        /* What it had reserved; where a budget has become smaller since, nothing. */
        SchedBudgetBlock block;
        r = budget_try(run->sched, run->record, agent, task->flow, &run->charge, &block);
        if (r) {
                run_free(run);
                return error_trace(r);
        }
        resource_retake(run->sched, &task->flow->key, run->attempt->gpus);
        run->holds = true;
        run->phase = RUN_SPAWNING;
        return 0;
}

static Worker *on_listed(LauncherClient *client, const Id *attempt, uint32_t pid) {
        Sched *s = launcher_client_userdata(client);

        list_for_each_safe(i, &s->runs) {
                SchedRun *run = container_of(i, SchedRun, link);
                if (!id_equal(&run->attempt->id, attempt))
                        continue;
                if (!run->worker) {
                        const uint64_t offsets[2] = { run->streams[0].committed, run->streams[1].committed };
                        if (worker_adopt(client, attempt, offsets, run, &run->worker))
                                return NULL;
                        adapter_command_free(run->command);
                        run->command = NULL;
                        /* Where the store does not know of its execve, on_spawned tells. */
                        if (run->phase == RUN_SPAWNING && run->attempt->execed_us)
                                run->phase = RUN_RUNNING;
                        if (run->phase == RUN_RUNNING)
                                run_arm(run);
                        if (run->task->cancel_requested)
                                run_stop_worker(run);
                }
                return run->worker;
        }
        return NULL;
}

static void on_ready(LauncherClient *client, const Id *generation) {
        Sched *s = launcher_client_userdata(client);
        char text[ID_TEXT_MAX];

        id_format(generation, text);
        s->generation = *generation;
        if (resource_discover(s))
                log_error("no memory for what the launcher tells of the machine: resources are as they were");
        log_field(LOG_INFO, ((LogField[]){ { "MESSAGE_ID", LOG_ID_LAUNCHER_READY }, { "LAUNCHER_GENERATION", text }, {} }),
                  "connected to the launcher");
        list_for_each_safe(i, &s->runs) {
                SchedRun *run = container_of(i, SchedRun, link);
                bool same = id_equal(&run->attempt->generation, generation);

                if ((run->worker && run->worker->listed) || run->phase == RUN_ENDING)
                        continue;
                if (run->phase == RUN_EXITED) {
                        /* Its exit record was here already; only the launcher's copy is gone. */
                        continue;
                }
                if (run->worker) {
                        worker_free(run->worker);
                        run->worker = NULL;
                }
                if (run->phase == RUN_COMMITTING) {
                        if (!run->waiting)
                                run_spawn(run);
                        continue;
                }
                /*
                 * The launcher keeps an attempt until the router says FORGET, which follows the durable end: one that
                 * this very launcher does not hold was never begun, and may be. Another launcher's are lost.
                 */
                if (same && run->command && run->phase == RUN_SPAWNING) {
                        run->phase = RUN_COMMITTING;    /* its row is durable; only the SPAWN is missing */
                        run_spawn(run);
                } else
                        run_lost(run, "the launcher that ran it is gone");
        }
        sched_kick(s);
}

static void on_lost(LauncherClient *client, int error) {
        log_field(LOG_WARNING, ((LogField[]){ { "MESSAGE_ID", LOG_ID_LAUNCHER_LOST }, {} }),
                  "the connection to the launcher is lost (%s): running agents go on, new ones wait until it is back",
                  error ? strerror(-error) : "closed");
}

static void on_drain(LauncherClient *client) {
        Sched *s = launcher_client_userdata(client);

        list_for_each_safe(i, &s->runs) {
                SchedRun *run = container_of(i, SchedRun, link);
                if (run->phase == RUN_COMMITTING && !run->waiting)
                        run_spawn(run);
        }
}

const LauncherVtable sched_launcher_vtable = {
        .on_drain = on_drain,
        .on_ready = on_ready,
        .on_listed = on_listed,
        .on_spawned = on_spawned,
        .on_spawn_failed = on_spawn_failed,
        .on_output = run_on_output,
        .on_exited = on_exited,
        .on_lost = on_lost,
};

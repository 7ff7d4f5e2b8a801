/*
 * run-end: how an attempt ends: what becomes of its task, the rows that say so, and what follows when they are durable.
 */

#include <stdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/random.h"
#include "sched/run.h"

static int run_attempt_end(SchedRun *run, const char *outcome, const char *reason, const char *detail) {
        int r;

        r = sched_set_str(&run->attempt->outcome, outcome);
        r = r ?: sched_set_str(&run->attempt->reason, reason);
        r = r ?: sched_set_str(&run->attempt->detail, detail);
        if (r)
                return error_trace(r);
        run->attempt->open = false;
        run->attempt->finished_us = clock_realtime_us();
        return store_attempt_update(run->sched->store, run->attempt);
}

/* To the sums that GET /usage shows, in the request that writes the attempt's end. */
static int run_write_usage(SchedRun *run) {
        const StoreTask *t = run->record;

        return store_usage_add(run->sched->store, (uint32_t)(run->attempt->finished_us / (24 * 3600 * USEC_PER_SEC)),
                               t->principal, t->agent, &t->batch, &run->attempt->usage, 1);
}

static void add_usage(int64_t *sum, int64_t v) {
        if (v >= 0)
                *sum = MAX(*sum, INT64_C(0)) + v;
}

/*
 * Full jitter (Brooker, "Exponential Backoff And Jitter", 2015): anywhere between now and the exponential bound, so that
 * tasks that failed together don't come back together. What the vendor asks for is waited out in any case.
 */
static uint64_t run_backoff(const SchedRun *run, uint64_t retry_after_us) {
        uint64_t bound_us = run->record->backoff_us, random = 0;

        for (uint32_t i = 1; i < run->record->n_attempts && bound_us < SCHED_BACKOFF_MAX_US; i++)
                bound_us *= 2;
        bound_us = MIN(bound_us, SCHED_BACKOFF_MAX_US);
        /* No entropy is no reason not to wait. */
        if (random_bytes(&random, sizeof(random)))
                random = bound_us / 2;
        return retry_after_us + random % (bound_us + 1);
}

/* Failures that say something of the agent or its account, not of the task. */
static bool is_agents_fault(const char *reason) {
        static const char *const reasons[] = { "rate_limited", "quota", "authentication", "overloaded", "network",
                                               "spawn_failed" };

        for (size_t i = 0; reason && i < ELEMENTSOF(reasons); i++)
                if (streq(reason, reasons[i]))
                        return true;
        return false;
}

static bool run_decide_elsewhere(const SchedRun *run, const RunEnd *end) {
        unsigned n = (unsigned)__builtin_popcountll(run->task->flow->key.agents);

        /* Each of the agents gets its turn even where the task asks for one attempt. */
        return n > 1 && is_agents_fault(end->reason) && run->record->n_attempts < MAX(run->record->max_attempts, n);
}

static TaskEvent run_decide(SchedRun *run, RunEnd *end) {
        run->avoid = 0;
        /* Done before the request to end it took effect is done. */
        if (end->event == TASK_EVENT_SUCCEED && !run->exit.killed)
                return TASK_EVENT_SUCCEED;
        if (run->task->cancel_requested) {
                end->outcome = "cancelled";
                end->reason = "cancelled";
                return TASK_EVENT_CANCEL;
        }
        if (end->event == TASK_EVENT_FAIL && run_decide_elsewhere(run, end)) {
                run->avoid = (uint8_t)(run->agent - run->sched->agents + 1);
                return TASK_EVENT_REQUEUE;
        }
        if (end->event != TASK_EVENT_FAIL || !end->retryable ||
            budget_is_over(&run->charge, &run->record->usage, &(StoreUsage)STORE_USAGE_UNKNOWN))
                return end->event;
        if (run->record->n_attempts >= run->record->max_attempts)
                return run->record->max_attempts > 1 ? TASK_EVENT_EXHAUST : TASK_EVENT_FAIL;
        run->next_due_us = run->record->not_before_us = clock_realtime_us() + run_backoff(run, end->retry_after_us);
        return TASK_EVENT_DELAY;
}

/* What a request that the store undid leaves as it was. */
typedef struct RunBefore {
        TaskState state;
        uint64_t updated_us, finished_us, not_before_us, captured_bytes;
} RunBefore;

static RunBefore run_before(const SchedRun *run) {
        return (RunBefore){ .state = run->record->state, .updated_us = run->record->updated_us,
                            .finished_us = run->record->finished_us, .not_before_us = run->record->not_before_us,
                            .captured_bytes = run->attempt->captured_bytes };
}

static void run_undo(SchedRun *run, const RunBefore *before) {
        run->record->state = before->state;
        run->record->updated_us = before->updated_us;
        run->record->finished_us = before->finished_us;
        run->record->not_before_us = before->not_before_us;
        run->attempt->captured_bytes = before->captured_bytes;
        run->attempt->open = true;
        run->attempt->finished_us = 0;
}

int run_write_end(SchedRun *run, RunEnd *end) {
        Sched *s = run->sched;
        const RunBefore before = run_before(run);
        TaskEvent event = run_decide(run, end);
        int r;

        r = store_begin(s->store);
        if (r) {
                run_undo(run, &before);
                return r;
        }
        run->record->cancel_requested = run->task->cancel_requested;
        if (event == TASK_EVENT_SUCCEED && end->text)
                r = run_append_result(run, end->text, end->n_text);
        r = r ?: run_attempt_end(run, end->outcome, end->reason, end->detail);
        r = r ?: run_write_usage(run);
        r = r ?: agent_ended(s, run->agent, run->limits[2], event == TASK_EVENT_SUCCEED,
                             end->is_exec ? "exec" : end->reason, end->retry_after_us);
        r = r ?: sched_write_state(s, run->record, event, end->reason, end->detail);
        int e = store_end(s->store, r == 0);
        r = r ?: e;
        if (r) {
                run_undo(run, &before);
                return r;
        }
        run->next = run->record->state;
        run->phase = RUN_ENDING;
        timer_clear(&run->timeout);
        timer_clear(&run->inactivity);
        metric_add(metric_get(s->metrics.attempts, end->outcome), 1);
        metric_observe(s->metrics.duration, run_seconds_between(run->attempt->started_us, run->attempt->finished_us));
        run->dirty = true;
        run_commit(run);
        return 0;
}

void run_ended(SchedRun *run) {
        SchedTask *task = run->task;
        TaskState next = run->next;
        uint8_t avoid = run->avoid;
        uint64_t due_us = run->next_due_us;
        char text[160];

        snprintf(text, sizeof(text), "attempt %u %s%s%s: %s", run->attempt->number, run->attempt->outcome,
                 run->attempt->reason ? ", " : "", run->attempt->reason ?: "", task_state_name(next));
        run_log(run, LOG_INFO, streq(run->attempt->outcome, "lost") ? LOG_ID_ATTEMPT_LOST : LOG_ID_TASK_FINISHED, text);
        if (run->worker) {
                worker_forget(run->worker);
                run->worker = NULL;
        }
        run_free(run);
        task->avoid = avoid;
        sched_settle(task, next, due_us);
}

static void run_add_usage(SchedRun *run, const StoreUsage *u) {
        StoreUsage *sum = &run->record->usage;

        add_usage(&sum->input_tokens, u->input_tokens);
        add_usage(&sum->cached_input_tokens, u->cached_input_tokens);
        add_usage(&sum->output_tokens, u->output_tokens);
        add_usage(&sum->reasoning_tokens, u->reasoning_tokens);
        add_usage(&sum->cost_microusd, u->cost_microusd);
}

static void run_count_usage(SchedRun *run, const StoreUsage *u) {
        const struct { const char *kind; int64_t n; } all[] = {
                { "input", u->input_tokens },
                { "cached_input", u->cached_input_tokens },
                { "output", u->output_tokens },
                { "reasoning", u->reasoning_tokens },
        };

        for (size_t i = 0; i < ELEMENTSOF(all); i++)
                if (all[i].n > 0)
                        metric_add(metric_get(run->sched->metrics.tokens, all[i].kind), (double)all[i].n);
}

static int run_set_result(SchedRun *run, const AdapterOutcome *o) {
        char *text;

        if (!o->text)
                return 0;
        text = malloc(o->n_text + 1);
        if (!text)
                return error_origin(-ENOMEM);
        memcpy(text, o->text, o->n_text);
        text[o->n_text] = 0;
        free(run->record->result);
        run->record->result = text;
        run->record->n_result = o->n_text;
        run->record->result_truncated = o->text_truncated;
        return 0;
}

/* The exit record is here: what is left of the output, then the outcome. Called again where the store was full. */
void run_finish(SchedRun *run) {
        Sched *s = run->sched;
        AdapterOutcome outcome = {};
        RunEnd end = {};
        char detail[RUN_DETAIL_MAX];
        StoreUsage before = run->record->usage;
        int r;

        r = run_consume(run, 0, true);
        r = r ?: run_consume(run, 1, true);
        if (r) {
                sched_retry_later(s);
                return;
        }
        adapter_run_finish(run->adapter, run->exit.how == LAUNCH_HOW_EXITED ? (int)run->exit.value : -1,
                           run->exit.how == LAUNCH_HOW_SIGNALLED ? (int)run->exit.value : 0, run->exit.oom_kills,
                           &outcome);
        run->attempt->exit_code = run->exit.how == LAUNCH_HOW_EXITED ? (int32_t)run->exit.value : -1;
        run->attempt->signal = run->exit.how == LAUNCH_HOW_SIGNALLED ? (int32_t)run->exit.value : 0;
        run->attempt->memory_peak = run->exit.memory_peak;
        run->attempt->cpu_us = run->exit.cpu_us;
        run->attempt->oom_kills = run->exit.oom_kills;
        run->attempt->usage = outcome.usage;

        end.reason = outcome.reason;
        end.detail = *outcome.detail ? outcome.detail : NULL;
        end.retryable = outcome.retryable;
        end.retry_after_us = outcome.retry_after_us;
        if (run->timed_out && !(outcome.succeeded && !run->exit.killed)) {
                end.outcome = "timed_out";
                end.reason = run->timeout_reason;
                end.event = TASK_EVENT_TIME_OUT;
                snprintf(detail, sizeof(detail), streq(run->timeout_reason, "timeout") ? "it ran longer than its timeout of %llu s"
                         : "it printed nothing for %llu s", (unsigned long long)((streq(run->timeout_reason, "timeout") ?
                         run->record->timeout_us : run->inactivity_us) / USEC_PER_SEC));
                end.detail = detail;
        } else if (run->over_budget && !(outcome.succeeded && !run->exit.killed)) {
                end.outcome = "failed";
                end.reason = "budget";
                end.event = TASK_EVENT_FAIL;
                end.retryable = false;
                end.detail = "it used more tokens or money than it may (max_tokens, max_cost_usd, or what was left of a budget)";
        } else if (outcome.succeeded) {
                end.outcome = "succeeded";
                end.event = TASK_EVENT_SUCCEED;
                if (!run->has_result && outcome.text) {
                        end.text = outcome.text;
                        end.n_text = outcome.n_text;
                }
        } else {
                end.outcome = "failed";
                end.event = TASK_EVENT_FAIL;
                if (run->exit.pids_hit) {
                        snprintf(detail, sizeof(detail), "%s%sit hit its limit of processes (pids_max) %u times",
                                 outcome.detail, *outcome.detail ? "; " : "", run->exit.pids_hit);
                        end.detail = detail;
                }
        }
        r = sched_set_str(&run->attempt->session, outcome.session);
        r = r ?: run_set_result(run, &outcome);
        if (!r) {
                run_add_usage(run, &outcome.usage);
                r = run_write_end(run, &end);
        }
        if (r) {
                run->record->usage = before;
                sched_retry_later(s);
        } else {
                run_count_usage(run, &outcome.usage);
                budget_spend(&run->charge, &outcome.usage);
                /* A budget that was set while it ran: the sums in the store have it. */
                if (!run->charge.budgets[1])
                        run->limits[2]->budget.day = 0;
                if (!run->charge.budgets[2])
                        run->limits[1]->budget.day = 0;
        }
}

/* An end that needs no exit record; again where the store was full. */
void run_finish_without_record(SchedRun *run) {
        RunEnd end = run->end;
        int r;

        r = run_consume(run, 0, true);
        r = r ?: run_consume(run, 1, true);
        r = r ?: run_write_end(run, &end);
        if (r)
                sched_retry_later(run->sched);
}

void run_end_without_record(SchedRun *run, RunEnd end) {
        snprintf(run->end_detail, sizeof(run->end_detail), "%s", end.detail ?: "");
        run->end = end;
        run->end.detail = *run->end_detail ? run->end_detail : NULL;
        run->has_end = true;
        run->phase = RUN_EXITED;
        timer_clear(&run->timeout);
        timer_clear(&run->inactivity);
        run_finish_without_record(run);
}

void run_lost(SchedRun *run, const char *detail) {
        run->exit = (WorkerExit){ .how = LAUNCH_HOW_LOST };
        run_end_without_record(run, (RunEnd){ .outcome = "lost", .reason = "lost", .detail = detail, .event = TASK_EVENT_FAIL,
                                              .retryable = true });
}

#include <stdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "sched/internal.h"

/* Starts in one go, and how long they may take: then others have their turn. */
#define PUMP_MAX        64
#define PUMP_US         (10 * USEC_PER_MSEC)

/* ---- the pump ---- */

void sched_pump(Sched *s) {
        SchedAgent *agent;
        SchedTask *t;
        uint64_t start_us = clock_monotonic_us();
        int r;

        if (s->draining) {
                if (!s->global->n_running && s->drained) {
                        s->drained(s->drained_userdata);
                        s->drained = NULL;
                }
                return;
        }
        sched_look(s);
        for (unsigned n = 0; !s->stopping && s->client && launcher_client_is_ready(s->client); n++) {
                /* The store is tried again in a second, and not before: a try that fails kicks the pump anew. */
                if (timer_is_set(&s->retry_timer))
                        break;
                if (n == PUMP_MAX || clock_monotonic_us() - start_us > PUMP_US) {
                        sched_kick(s);
                        break;
                }
                /* One may always run: a machine under constant pressure gets on with it, if slowly. */
                if (pressure_holds_launch(&s->pressure) && s->global->n_running)
                        break;
                t = queue_pick(s, &agent);
                if (!t)
                        break;
                r = run_start(t, agent);
                if (r == STORE_E_FULL || r == STORE_E_FAILED) {
                        sched_retry_later(s);
                        break;
                }
                if (r) {
                        log_error("can't start a task: %s", r < 0 ? strerror(-r) : "unexpected result");
                        sched_retry_later(s);
                        break;
                }
        }
}

static void on_pump(Defer *defer) {
        sched_pump(container_of(defer, Sched, pump));
}

static void on_depend(Defer *defer) {
        depend_turn(container_of(defer, Sched, depend));
}

void sched_kick(Sched *s) {
        if (!s->stopping)
                defer_schedule(&s->pump);
}

/* ---- pressure ---- */

static void look_now(Sched *s) {
        bool held = pressure_holds_launch(&s->pressure);

        pressure_look(&s->pressure, &s->config.pressure);
        s->pressure_us = clock_monotonic_us();
        for (PressureSource i = 0; i < PRESSURE_SOURCE_MEMINFO; i++)
                if (s->pressure.present[i])
                        metric_set(metric_get(s->metrics.pressure, pressure_source_name(i)),
                                   s->pressure.stalls[i].some / 10000.0);
        if (!held && pressure_holds_launch(&s->pressure))
                log_notice("nothing more is started for now: %s", s->pressure.detail);
        else if (held && !pressure_holds_launch(&s->pressure)) {
                log_notice("the machine's pressure has gone: tasks are started again");
                sched_kick(s);
        }
}

void sched_look(Sched *s) {
        uint64_t now_us = clock_monotonic_us();

        if (s->stopping || !pressure_is_known(&s->pressure))
                return;
        if (!s->pressure_us || now_us - s->pressure_us >= SCHED_PRESSURE_US)
                look_now(s);
        if (s->tasks.n && !timer_is_set(&s->pressure_timer))
                timer_set(&s->pressure_timer, now_us + SCHED_PRESSURE_US);
}

static void on_pressure(Timer *timer) {
        Sched *s = container_of(timer, Sched, pressure_timer);

        look_now(s);
        if (s->tasks.n)
                timer_set(timer, clock_monotonic_us() + SCHED_PRESSURE_US);
}

void sched_open_pressure(Sched *s) {
        pressure_open(&s->pressure);
}

const Pressure *sched_pressure(const Sched *s) {
        return &s->pressure;
}

/* ---- watching ---- */

bool sched_watch(Sched *s, const Id *id, SchedWatch *watch) {
        SchedTask *t = task_find(s, id);

        if (!t || !task_extra(t))
                return false;
        list_link_tail(&t->extra->watches, &watch->link);
        return true;
}

void sched_unwatch(SchedWatch *watch) {
        list_unlink(&watch->link);
}

static void on_tell(Defer *defer) {
        Sched *s = container_of(defer, Sched, tell);

        list_for_each_safe(i, &s->watches) {
                SchedWatch *watch = container_of(i, SchedWatch, link);
                watch->fn(watch, false);
        }
}

void sched_tell(Sched *s) {
        if (!list_is_empty(&s->watches))
                defer_schedule(&s->tell);
}

void sched_watch_all(Sched *s, SchedWatch *watch) {
        list_link_tail(&s->watches, &watch->link);
}

/* ---- timers ---- */

void sched_retry_later(Sched *s) {
        if (!s->stopping && !timer_is_set(&s->retry_timer))
                timer_set(&s->retry_timer, reactor_now_us(s->reactor) + SCHED_STORE_RETRY_US);
}

void sched_arm(Timer *timer, uint64_t due_us) {
        uint64_t now_us = clock_realtime_us();

        timer_set(timer, clock_monotonic_us() + (due_us > now_us ? MIN(due_us - now_us, SCHED_CLOCK_CHECK_US) : 0));
}

static void on_delayed(Timer *timer) {
        Sched *s = container_of(timer, Sched, delayed_timer);
        HeapNode *top;

        while ((top = heap_top(&s->delayed))) {
                SchedTask *t = container_of(top, SchedTask, heap);
                if (t->due_us > clock_realtime_us()) {
                        sched_arm(timer, t->due_us);
                        return;
                }
                if (sched_move(s, &t->node.id, TASK_EVENT_DUE, NULL, NULL)) {
                        timer_set(timer, reactor_now_us(s->reactor) + SCHED_STORE_RETRY_US);
                        return;
                }
                /* Whether this write is durable makes no difference: a crash before it makes the task due again. */
                sched_settle(t, TASK_QUEUED, 0);
        }
}

static void on_deadline(Timer *timer) {
        Sched *s = container_of(timer, Sched, deadline_timer);
        HeapNode *top;

        while ((top = heap_top(&s->deadlines))) {
                SchedTaskExtra *extra = container_of(top, SchedTaskExtra, deadline);
                SchedTask *t = extra->task;
                if (extra->deadline_us > clock_realtime_us()) {
                        sched_arm(timer, extra->deadline_us);
                        return;
                }
                /* It runs, or its end is on the way to the disk, or sched_submitted() puts it back. */
                if (!task_is_waiting(t) || extra->next || t->unsubmitted) {
                        heap_remove(&s->deadlines, top);
                        continue;
                }
                if (sched_move(s, &t->node.id, TASK_EVENT_EXPIRE, "deadline", "its deadline passed before it could run") ||
                    task_settle_when_durable(t, TASK_EXPIRED)) {
                        timer_set(timer, reactor_now_us(s->reactor) + SCHED_STORE_RETRY_US);
                        return;
                }
                heap_remove(&s->deadlines, top);
        }
}

/* A gate or a breaker opens, or a day begins; those for whom it is too early are parked again. */
static void on_health(Timer *timer) {
        Sched *s = container_of(timer, Sched, health_timer);

        for (size_t i = 0; i < s->n_agents; i++)
                queue_unpark(s, &s->agents[i].limit->parked);
        queue_unpark(s, &s->parked_any);
        s->waits_for_tomorrow = false;
        map_for_each(i, &s->limits[SCHED_AGENT])
                queue_unpark(s, &container_of(i, SchedLimit, node)->budget.parked);
        map_for_each(i, &s->limits[SCHED_PRINCIPAL])
                queue_unpark(s, &container_of(i, SchedLimit, node)->budget.parked);
        agent_health_arm(s);
}

static void on_retry(Timer *timer) {
        Sched *s = container_of(timer, Sched, retry_timer);

        list_for_each_safe(i, &s->runs)
                run_retry(run_from_link(i));
        if (s->depend_again && depend_recover(s)) {
                s->depend_again = true;
                sched_retry_later(s);
        }
        configure_retry(s);
        sched_kick(s);
}

/* ---- life ---- */

static bool delayed_less(const HeapNode *a, const HeapNode *b) {
        return container_of(a, SchedTask, heap)->due_us < container_of(b, SchedTask, heap)->due_us;
}

static bool deadline_less(const HeapNode *a, const HeapNode *b) {
        return container_of(a, SchedTaskExtra, deadline)->deadline_us <
               container_of(b, SchedTaskExtra, deadline)->deadline_us;
}

int sched_new(Sched **ret_sched, Reactor *reactor, Store *store, Metrics *metrics, const SchedConfig *config) {
        Sched *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return error_origin(-ENOMEM);
        s->reactor = reactor;
        s->store = store;
        s->config = *config;
        s->delayed = (Heap)HEAP_INIT(delayed_less);
        s->deadlines = (Heap)HEAP_INIT(deadline_less);
        timer_init(&s->delayed_timer, reactor, on_delayed);
        timer_init(&s->deadline_timer, reactor, on_deadline);
        timer_init(&s->health_timer, reactor, on_health);
        timer_init(&s->retry_timer, reactor, on_retry);
        timer_init(&s->pressure_timer, reactor, on_pressure);
        pressure_init(&s->pressure);
        defer_init(&s->pump, reactor, on_pump);
        defer_init(&s->tell, reactor, on_tell);
        defer_init(&s->depend, reactor, on_depend);
        list_init(&s->runs);
        list_init(&s->watches);
        s->metrics.submitted = metrics_family(metrics, METRIC_COUNTER, "agent_router_tasks_submitted_total",
                                              "Tasks accepted.", "agent");
        s->metrics.finished = metrics_family(metrics, METRIC_COUNTER, "agent_router_tasks_finished_total",
                                             "Tasks that reached a final state.", "state");
        s->metrics.attempts = metrics_family(metrics, METRIC_COUNTER, "agent_router_attempts_total",
                                             "Attempts ended, by outcome.", "outcome");
        s->metrics.tokens = metrics_family(metrics, METRIC_COUNTER, "agent_router_tokens_total",
                                           "Tokens that the agents reported.", "kind");
        s->metrics.latency = metric_get(metrics_family(metrics, METRIC_HISTOGRAM, "agent_router_start_latency_seconds",
                                        "From a task being picked to its agent's execve.", NULL), NULL);
        s->metrics.queue_wait = metric_get(metrics_family(metrics, METRIC_HISTOGRAM, "agent_router_queue_wait_seconds",
                                           "From submit to the first pick.", NULL), NULL);
        s->metrics.duration = metric_get(metrics_family(metrics, METRIC_HISTOGRAM, "agent_router_attempt_duration_seconds",
                                         "From an attempt's start to its end.", NULL), NULL);
        s->metrics.output_bytes = metric_get(metrics_family(metrics, METRIC_COUNTER, "agent_router_output_bytes_total",
                                             "Bytes of output read from agents.", NULL), NULL);
        s->metrics.truncated = metric_get(metrics_family(metrics, METRIC_COUNTER, "agent_router_output_truncated_total",
                                          "Times that output was cut for passing a limit.", NULL), NULL);
        s->metrics.breaker = metrics_family(metrics, METRIC_GAUGE, "agent_router_breaker_state",
                                            "Circuit breaker: 0 closed, 1 open, 2 half-open.", "agent");
        s->metrics.pressure = metrics_family(metrics, METRIC_GAUGE, "agent_router_pressure",
                                             "Part of the last ten seconds in which some waited for it, "
                                             "as of the last look (one a second while there are tasks).", "resource");
        queue_init(s);
        configure_init(s);
        r = limit_init(s);
        if (r) {
                sched_free(s);
                return error_fold(r);
        }
        *ret_sched = s;
        return 0;
}

Sched *sched_free(Sched *s) {
        if (!s)
                return NULL;
        sched_stop(s);
        idmap_for_each(i, &s->tasks)
                task_free(container_of(i, SchedTask, node));
        defer_cancel(&s->pump);
        defer_cancel(&s->tell);
        defer_cancel(&s->depend);
        free(s->dependants.ids);
        heap_deinit(&s->delayed);
        heap_deinit(&s->deadlines);
        queue_deinit(s);
        limit_deinit(s);
        resource_deinit(s);
        configure_deinit(s);
        pressure_deinit(&s->pressure);
        idmap_deinit(&s->tasks);
        map_deinit(&s->budgets);
        free(s);
        return NULL;
}

void sched_set_launcher(Sched *s, LauncherClient *client) {
        s->client = client;
}

void sched_stop(Sched *s) {
        s->stopping = true;
        timer_clear(&s->delayed_timer);
        timer_clear(&s->deadline_timer);
        timer_clear(&s->health_timer);
        timer_clear(&s->retry_timer);
        timer_clear(&s->pressure_timer);
        s->drained = NULL;
}

void sched_drain(Sched *s, void (*fn)(void *userdata), void *userdata) {
        s->draining = true;
        s->drained = fn;
        s->drained_userdata = userdata;
        sched_kick(s);
}

/* ---- looking ---- */

SchedStats sched_stats(const Sched *s) {
        return (SchedStats){ .n_live = s->tasks.n,
                             .n_waiting = s->n_waiting,
                             .n_running = s->global->n_running,
                             .draining = s->draining || limit_is_paused(s->global) };
}

const SchedConfig *sched_config(const Sched *s) {
        return &s->config;
}

/* What holds back a flow that is not parked, or why the whole queue stands still. */
static void explain_queue(const Sched *s, SchedWaiting *w) {
        SchedBlock block = limit_block(s->global);

        if (s->draining) {
                w->reason = "draining";
                snprintf(w->detail, sizeof(w->detail), "the router stops when what runs has ended");
        } else if (block == SCHED_BLOCK_PAUSED) {
                w->reason = "draining";
                snprintf(w->detail, sizeof(w->detail), "nothing is started: an administrator drains the router");
        } else if (!s->client || !launcher_client_is_ready(s->client)) {
                w->reason = "launcher";
                snprintf(w->detail, sizeof(w->detail), "the launcher is not connected");
        } else if (block == SCHED_BLOCK_LIMIT) {
                w->reason = "limit";
                snprintf(w->detail, sizeof(w->detail), "%u tasks run, the most that may at once", s->global->n_running);
        } else if (pressure_holds_launch(&s->pressure) && s->global->n_running) {
                w->reason = "pressure";
                snprintf(w->detail, sizeof(w->detail), "%s", s->pressure.detail);
        } else {
                w->reason = "order";
                snprintf(w->detail, sizeof(w->detail), "others come first");
        }
}

static void explain_flow(const Sched *s, const SchedFlow *f, SchedWaiting *w) {
        static const char *const reasons[] = {
                [SCHED_BLOCK_LIMIT] = "limit",     [SCHED_BLOCK_PAUSED] = "paused",
                [SCHED_BLOCK_GATE] = "gate",       [SCHED_BLOCK_BREAKER] = "breaker",
                [SCHED_BLOCK_RESOURCES] = "resources", [SCHED_BLOCK_NO_AGENT] = "paused",
                [SCHED_BLOCK_BUDGET] = "budget",
        };
        const char *kind = f->blocker ? sched_limit_kind_name(f->blocker->kind) : "";
        const char *name = f->blocker ? f->blocker->name : "";

        w->reason = reasons[f->block];
        for (size_t i = 0; i < s->n_agents; i++)
                if (f->blocker == s->agents[i].limit)
                        w->until_us = agent_until(&s->agents[i]);
        switch (f->block) {
        case SCHED_BLOCK_LIMIT:
                snprintf(w->detail, sizeof(w->detail), "%s '%s' runs %u, the most that it may at once", kind, name,
                         f->blocker ? f->blocker->n_running : 0);
                break;
        case SCHED_BLOCK_PAUSED:
                snprintf(w->detail, sizeof(w->detail), "%s '%s' is paused", kind, name);
                break;
        case SCHED_BLOCK_GATE:
                snprintf(w->detail, sizeof(w->detail), "the account of agent '%s' is rate-limited or its quota used up", name);
                break;
        case SCHED_BLOCK_NO_AGENT:
                snprintf(w->detail, sizeof(w->detail), "its agent is no longer configured");
                break;
        case SCHED_BLOCK_BREAKER:
                snprintf(w->detail, sizeof(w->detail), "agent '%s' has failed several times in a row", name);
                break;
        case SCHED_BLOCK_BUDGET:
                if (f->blocker)
                        w->until_us = budget_tomorrow_us();
                snprintf(w->detail, sizeof(w->detail), "%s%s%s%s: used, or reserved by what runs", f->blocker ? kind : "its batch",
                         f->blocker ? " '" : "", name, f->blocker ? "' has no more budget today" : " has no more budget");
                break;
        default:
                snprintf(w->detail, sizeof(w->detail), "not enough of the machine is free");
        }
}

bool sched_waiting(const Sched *s, const StoreTask *task, SchedWaiting *ret_waiting) {
        IdNode *node = idmap_find(&s->tasks, &task->id);
        const SchedTask *t = node ? container_of(node, SchedTask, node) : NULL;
        SchedWaiting w = { .since_us = task->ready_us ?: task->created_us };

        if (!t || !task_is_waiting(t))
                return false;
        switch (t->state) {
        case TASK_DELAYED:
                w.reason = "delayed";
                w.until_us = t->due_us;
                w.since_us = task->updated_us;
                snprintf(w.detail, sizeof(w.detail), "%s", task->n_attempts ? "it is tried again later" : "not_before lies ahead");
                break;
        case TASK_BLOCKED:
                w.reason = "dependency";
                w.since_us = task->created_us;
                snprintf(w.detail, sizeof(w.detail), "tasks that it comes after have not ended");
                break;
        case TASK_HELD:
                w.reason = "held";
                w.since_us = task->updated_us;
                snprintf(w.detail, sizeof(w.detail), "an operator has to release it");
                break;
        default:
                if (t->flow->block != SCHED_BLOCK_NONE && limit_block(s->global) == SCHED_BLOCK_NONE && !s->draining)
                        explain_flow(s, t->flow, &w);
                else
                        explain_queue(s, &w);
        }
        *ret_waiting = w;
        return true;
}

const LauncherClient *sched_launcher(const Sched *s) {
        return s->client;
}

const Id *sched_launcher_generation(const Sched *s) {
        return s->client && launcher_client_is_ready(s->client) ? &s->generation : NULL;
}

#include <stdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "sched/internal.h"

/* A clock that jumps must not leave a delayed task behind: look again at least this often. */
#define SCHED_DELAYED_CHECK_US (30 * USEC_PER_SEC)

static bool ready_less(const HeapNode *a, const HeapNode *b) {
        const SchedTask *x = container_of(a, SchedTask, heap), *y = container_of(b, SchedTask, heap);

        return x->priority != y->priority ? x->priority > y->priority : x->sequence < y->sequence;
}

static bool delayed_less(const HeapNode *a, const HeapNode *b) {
        return container_of(a, SchedTask, heap)->due_us < container_of(b, SchedTask, heap)->due_us;
}

int sched_set_str(char **p, const char *s) {
        char *copy = NULL;

        if (s) {
                copy = strdup(s);
                if (!copy)
                        return error_origin(-ENOMEM);
        }
        free(*p);
        *p = copy;
        return 0;
}

/* ---- principals ---- */

static int principal_charge(Sched *s, const char *name, SchedPrincipal **ret_principal) {
        MapNode *node = map_find(&s->principals, name, strlen(name));
        SchedPrincipal *p = node ? container_of(node, SchedPrincipal, node) : NULL;
        int r;

        if (!p) {
                p = calloc(1, sizeof(*p) + strlen(name) + 1);
                if (!p)
                        return error_origin(-ENOMEM);
                memcpy(p->name, name, strlen(name));
                r = map_insert(&s->principals, &p->node, p->name, strlen(name));
                if (r) {
                        free(p);
                        return error_fold(r);
                }
        }
        p->n_live++;
        *ret_principal = p;
        return 0;
}

static void principal_release(Sched *s, SchedPrincipal *p) {
        if (!p || --p->n_live)
                return;
        map_remove(&s->principals, &p->node);
        free(p);
}

/* ---- tasks ---- */

static SchedTask *task_free(SchedTask *t) {
        if (!t)
                return NULL;
        list_for_each_safe(i, &t->watches)
                list_unlink(i);
        store_wait_cancel(&t->wait);
        run_free(t->run);
        if (t->state == TASK_QUEUED || t->state == TASK_DELAYED)
                t->sched->n_waiting--;
        heap_remove(t->state == TASK_DELAYED ? &t->sched->delayed : &t->agent->ready, &t->heap);
        map_remove(&t->sched->tasks, &t->node);
        principal_release(t->sched, t->principal);
        free(t);
        return NULL;
}

static int task_new(Sched *s, const StoreTask *record, SchedAgent *agent, SchedTask **ret_task) {
        SchedTask *t;
        int r;

        t = calloc(1, sizeof(*t));
        if (!t)
                return error_origin(-ENOMEM);
        t->sched = s;
        t->agent = agent;
        t->id = record->id;
        t->priority = (uint8_t)record->priority;
        t->state = (uint8_t)record->state;
        t->due_us = record->not_before_us;
        t->sequence = s->sequence++;
        t->cancel_requested = record->cancel_requested;
        list_init(&t->watches);
        r = map_insert(&s->tasks, &t->node, t->id.bytes, sizeof(t->id.bytes));
        if (r) {
                free(t);
                return error_fold(r);
        }
        if (t->state == TASK_QUEUED || t->state == TASK_DELAYED)
                s->n_waiting++;
        r = principal_charge(s, record->principal, &t->principal);
        if (r) {
                task_free(t);
                return error_trace(r);
        }
        *ret_task = t;
        return 0;
}

static SchedTask *task_find(Sched *s, const Id *id) {
        MapNode *node = map_find(&s->tasks, id->bytes, sizeof(id->bytes));

        return node ? container_of(node, SchedTask, node) : NULL;
}

void sched_kick(Sched *s) {
        if (!s->stopping)
                defer_schedule(&s->pump);
}

void sched_retry_later(Sched *s) {
        if (!timer_is_set(&s->retry_timer))
                timer_set(&s->retry_timer, reactor_now_us(s->reactor) + SCHED_STORE_RETRY_US);
}

void sched_notify(SchedTask *t, bool ended) {
        list_for_each_safe(i, &t->watches) {
                SchedWatch *watch = container_of(i, SchedWatch, link);
                if (ended)
                        list_unlink(i);
                watch->fn(watch, ended);
        }
}

static void delayed_arm(Sched *s) {
        HeapNode *top = heap_top(&s->delayed);
        uint64_t now_us = clock_realtime_us(), due_us;

        if (!top) {
                timer_clear(&s->delayed_timer);
                return;
        }
        due_us = container_of(top, SchedTask, heap)->due_us;
        timer_set(&s->delayed_timer,
                  clock_monotonic_us() + (due_us > now_us ? MIN(due_us - now_us, SCHED_DELAYED_CHECK_US) : 0));
}

void sched_settle(SchedTask *t, TaskState state, uint64_t due_us) {
        Sched *s = t->sched;
        bool was_waiting = t->state == TASK_QUEUED || t->state == TASK_DELAYED;
        bool waits = state == TASK_QUEUED || state == TASK_DELAYED;

        heap_remove(t->state == TASK_DELAYED ? &s->delayed : &t->agent->ready, &t->heap);
        s->n_waiting = s->n_waiting - was_waiting + waits;
        t->state = (uint8_t)state;
        t->due_us = due_us;
        if (task_state_is_final(state)) {
                metric_add(metric_get(s->metrics.finished, task_state_name(state)), 1);
                sched_notify(t, true);
                task_free(t);
                sched_kick(s);
                return;
        }
        if (waits) {
                int r = heap_push(state == TASK_DELAYED ? &s->delayed : &t->agent->ready, &t->heap);
                if (r)
                        log_error("no memory to queue a task: it runs after a restart");
        }
        if (state == TASK_DELAYED)
                delayed_arm(s);
        sched_notify(t, false);
        sched_kick(s);
}

/* ---- writing a state ---- */

static int append_state_event(Sched *s, const StoreTask *record) {
        _cleanup_(buf_deinit) Buf data = BUF_NULL;
        StoreEvent event = { .type = "state", .attempt = record->n_attempts, .at_us = record->updated_us };
        uint64_t seq;
        int r;

        r = buf_printf(&data, "{\"state\":\"%s\"", task_state_name(record->state));
        if (!r && record->reason) {
                r = buf_append_str(&data, ",\"reason\":");
                r = r ?: json_append_string(&data, record->reason, strlen(record->reason));
        }
        if (!r && record->detail) {
                r = buf_append_str(&data, ",\"detail\":");
                r = r ?: json_append_string(&data, record->detail, strlen(record->detail));
        }
        r = r ?: buf_append_str(&data, "}");
        if (r)
                return error_fold(r);
        event.data = (const char *)buf_data(&data);
        event.n_data = buf_size(&data);
        return store_event_append(s->store, &record->id, &event, &seq);
}

int sched_write_state(Sched *s, StoreTask *record, TaskEvent event, const char *reason, const char *detail) {
        TaskState state = task_transition(record->state, event);
        int r;

        if (!state) {
                log_error("illegal transition: %s in state %s", task_event_name(event), task_state_name(record->state));
                return error_origin(-EPROTO);
        }
        r = sched_set_str(&record->reason, reason);
        r = r ?: sched_set_str(&record->detail, detail);
        if (r)
                return error_trace(r);
        record->state = state;
        record->updated_us = clock_realtime_us();
        if (task_state_is_final(state))
                record->finished_us = record->updated_us;
        r = store_task_update(s->store, record);
        if (r)
                return r;
        return append_state_event(s, record);
}

/* ---- picking ---- */

static SchedTask *pick_best(Sched *s) {
        SchedTask *best = NULL;

        for (size_t i = 0; i < s->n_agents; i++) {
                SchedAgent *a = &s->agents[i];
                HeapNode *top = heap_top(&a->ready);
                if (!top || a->n_running >= adapter_concurrency(a->adapter))
                        continue;
                if (!best || ready_less(top, &best->heap))
                        best = container_of(top, SchedTask, heap);
        }
        return best;
}

static void pump(Sched *s) {
        int r;

        while (!s->stopping && s->n_running < s->config.running_max && s->client &&
               launcher_client_is_ready(s->client)) {
                SchedTask *t = pick_best(s);
                if (!t)
                        break;
                r = run_start(t);
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
        pump(container_of(defer, Sched, pump));
}

/* ---- submit ---- */

static SchedAgent *agent_find(Sched *s, const char *name) {
        for (size_t i = 0; i < s->n_agents; i++)
                if (streq(adapter_name(s->agents[i].adapter), name))
                        return &s->agents[i];
        return NULL;
}

static bool agent_is_able(const SchedAgent *a, const char *const *capabilities) {
        for (; capabilities && *capabilities; capabilities++)
                if (!adapter_has_capability(a->adapter, *capabilities))
                        return false;
        return true;
}

static bool agent_is_installed(SchedAgent *a) {
        /* Found once is enough; what is missing is looked for again, so that an installation needs no restart. */
        return adapter_executable(a->adapter) || adapter_probe(a->adapter) == 0;
}

static int agent_choose(Sched *s, const StoreTask *task, const char *const *capabilities, SchedAgent **ret_agent,
                        char ret_detail[static SCHED_DETAIL_MAX]) {
        SchedAgent *a, *able = NULL;

        if (task->agent) {
                a = agent_find(s, task->agent);
                if (!a) {
                        snprintf(ret_detail, SCHED_DETAIL_MAX, "there is no agent '%s'; GET /agents lists them", task->agent);
                        return SCHED_E_NO_AGENT;
                }
                if (!agent_is_able(a, capabilities)) {
                        snprintf(ret_detail, SCHED_DETAIL_MAX, "agent '%s' lacks a capability that the task asks for; "
                                 "GET /agents lists what each can", task->agent);
                        return SCHED_E_NO_AGENT;
                }
                able = a;
        } else {
                for (size_t i = 0; i < s->n_agents; i++) {
                        a = &s->agents[i];
                        if (!agent_is_able(a, capabilities))
                                continue;
                        if (!able || (!agent_is_installed(able) && agent_is_installed(a)))
                                able = a;
                }
                if (!able) {
                        snprintf(ret_detail, SCHED_DETAIL_MAX, "%s; GET /agents lists what each can", s->n_agents ?
                                 "no agent has all the capabilities that the task asks for" : "no agent is configured");
                        return SCHED_E_NO_AGENT;
                }
        }
        if (!agent_is_installed(able)) {
                snprintf(ret_detail, SCHED_DETAIL_MAX, "agent '%s' is not installed: %s", adapter_name(able->adapter),
                         adapter_hint(able->adapter));
                return SCHED_E_NOT_INSTALLED;
        }
        *ret_agent = able;
        return 0;
}

int sched_submit(Sched *s, StoreTask *task, const char *const *capabilities, SchedTask **ret_task,
                 char ret_detail[static SCHED_DETAIL_MAX]) {
        MapNode *node = map_find(&s->principals, task->principal, strlen(task->principal));
        char error[YAML_ERROR_MAX] = "";
        SchedAgent *agent = NULL;
        SchedTask *t = NULL;
        int r;

        if (s->tasks.n >= s->config.queued_max) {
                snprintf(ret_detail, SCHED_DETAIL_MAX, "the queue is full (%zu tasks wait or run)", s->tasks.n);
                return SCHED_E_FULL;
        }
        if (node && container_of(node, SchedPrincipal, node)->n_live >= s->config.queued_per_principal_max) {
                snprintf(ret_detail, SCHED_DETAIL_MAX, "this caller already has %llu tasks that wait or run",
                         (unsigned long long)s->config.queued_per_principal_max);
                return SCHED_E_QUOTA;
        }
        r = agent_choose(s, task, capabilities, &agent, ret_detail);
        if (r)
                return r;
        r = sched_set_str(&task->agent, adapter_name(agent->adapter));
        if (r)
                return error_trace(r);
        r = adapter_check(agent->adapter, task, error);
        if (r > 0) {
                snprintf(ret_detail, SCHED_DETAIL_MAX, "%.*s", SCHED_DETAIL_MAX - 1, error);
                return SCHED_E_UNSUPPORTED;
        }
        if (r)
                return error_trace(r);

        task->created_us = task->updated_us = clock_realtime_us();
        task->state = task->not_before_us > task->created_us ? TASK_DELAYED : TASK_QUEUED;
        if (task->state == TASK_DELAYED) {
                r = sched_set_str(&task->reason, "not_before");
                if (r)
                        return error_trace(r);
        }
        task->timeout_us = task->timeout_us ?: s->config.timeout_us;
        task->max_attempts = task->max_attempts ?: s->config.max_attempts;
        task->backoff_us = task->backoff_us ?: s->config.backoff_us;
        r = store_task_insert(s->store, task);
        r = r ?: append_state_event(s, task);
        if (r == STORE_E_FULL || r == STORE_E_FAILED) {
                snprintf(ret_detail, SCHED_DETAIL_MAX, "the store takes no writes: %s", store_failure(s->store) ?: "the disk is full");
                return SCHED_E_UNAVAILABLE;
        }
        if (r)
                return error_fold(r);
        r = task_new(s, task, agent, &t);
        if (r)
                return error_trace(r);
        metric_add(metric_get(s->metrics.submitted, task->agent), 1);
        *ret_task = t;
        return 0;
}

static void on_submit_durable(StoreWait *wait, int error) {
        SchedTask *t = container_of(wait, SchedTask, wait);

        if (error)
                task_free(t);
        else
                t->durable = true;
}

void sched_submitted(SchedTask *t, bool kept) {
        Sched *s = t->sched;

        if (!kept) {
                task_free(t);
                return;
        }
        store_wait(s->store, &t->wait, on_submit_durable);
        sched_settle(t, t->state, t->due_us);
        /*
         * At once rather than in the Defer, which runs after the commit: with a free slot, task and attempt share one
         * sync.
         */
        pump(s);
}

/* ---- cancel ---- */

static void on_cancel_durable(StoreWait *wait, int error) {
        SchedTask *t = container_of(wait, SchedTask, wait);

        if (error) {
                if (!t->durable)
                        task_free(t);
                return;
        }
        t->durable = true;
        if (t->run)
                run_cancel(t->run);
        else
                sched_settle(t, TASK_CANCELLED, 0);
}

int sched_cancel(Sched *s, const Id *id) {
        _cleanup_(store_task_freep) StoreTask *record = NULL;
        SchedTask *t = task_find(s, id);
        int r;

        r = store_task_load(s->store, id, 0, &record);
        if (r == STORE_E_NOT_FOUND)
                return SCHED_E_NOT_FOUND;
        if (r)
                return error_fold(r);
        if (task_state_is_final(record->state))
                return SCHED_E_FINAL;
        if (!t)
                return error_origin(-ENOENT);
        if (t->cancel_requested)
                return 0;

        record->cancel_requested = true;
        if (record->state == TASK_RUNNING) {
                record->updated_us = clock_realtime_us();
                r = store_task_update(s->store, record);
        } else
                r = sched_write_state(s, record, TASK_EVENT_CANCEL, "cancelled", "cancelled while it waited");
        if (r == STORE_E_FULL || r == STORE_E_FAILED)
                return SCHED_E_UNAVAILABLE;
        if (r)
                return error_fold(r);
        t->cancel_requested = true;
        if (t->run && record->state == TASK_CANCELLED && run_cancel_ending(t->run))
                return 0;
        /* It must not be picked between now and the commit. */
        heap_remove(t->state == TASK_DELAYED ? &s->delayed : &t->agent->ready, &t->heap);
        store_wait_cancel(&t->wait);
        store_wait(s->store, &t->wait, on_cancel_durable);
        return 0;
}

/* ---- watching ---- */

bool sched_watch(Sched *s, const Id *id, SchedWatch *watch) {
        SchedTask *t = task_find(s, id);

        if (!t)
                return false;
        list_link_tail(&t->watches, &watch->link);
        return true;
}

void sched_unwatch(SchedWatch *watch) {
        list_unlink(&watch->link);
}

/* ---- timers ---- */

static void on_delayed(Timer *timer) {
        Sched *s = container_of(timer, Sched, delayed_timer);
        uint64_t now_us = clock_realtime_us();
        HeapNode *top;
        int r;

        while ((top = heap_top(&s->delayed)) && container_of(top, SchedTask, heap)->due_us <= now_us) {
                SchedTask *t = container_of(top, SchedTask, heap);
                _cleanup_(store_task_freep) StoreTask *record = NULL;

                r = store_begin(s->store);
                if (!r) {
                        r = store_task_load(s->store, &t->id, 0, &record);
                        r = r ?: sched_write_state(s, record, TASK_EVENT_DUE, NULL, NULL);
                        int e = store_end(s->store, r == 0);
                        r = r ?: e;
                }
                if (r) {
                        timer_set(timer, reactor_now_us(s->reactor) + SCHED_STORE_RETRY_US);
                        return;
                }
                /* Whether this write is durable makes no difference: a crash before it makes the task due again. */
                sched_settle(t, TASK_QUEUED, 0);
        }
        delayed_arm(s);
}

static void on_retry(Timer *timer) {
        Sched *s = container_of(timer, Sched, retry_timer);

        list_for_each_safe(i, &s->runs)
                run_retry(run_from_link(i));
        sched_kick(s);
}

/* ---- life ---- */

int sched_new(Sched **ret_sched, Reactor *reactor, Store *store, Metrics *metrics, const SchedConfig *config) {
        Sched *s = calloc(1, sizeof(*s));

        if (!s)
                return error_origin(-ENOMEM);
        s->reactor = reactor;
        s->store = store;
        s->config = *config;
        s->delayed = (Heap)HEAP_INIT(delayed_less);
        timer_init(&s->delayed_timer, reactor, on_delayed);
        timer_init(&s->retry_timer, reactor, on_retry);
        defer_init(&s->pump, reactor, on_pump);
        list_init(&s->runs);
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
        *ret_sched = s;
        return 0;
}

Sched *sched_free(Sched *s) {
        if (!s)
                return NULL;
        s->stopping = true;
        map_for_each(i, &s->tasks)
                task_free(container_of(i, SchedTask, node));
        timer_clear(&s->delayed_timer);
        timer_clear(&s->retry_timer);
        defer_cancel(&s->pump);
        heap_deinit(&s->delayed);
        for (size_t i = 0; i < s->n_agents; i++) {
                heap_deinit(&s->agents[i].ready);
                adapter_free(s->agents[i].adapter);
        }
        free(s->agents);
        map_deinit(&s->tasks);
        map_deinit(&s->principals);
        free(s);
        return NULL;
}

int sched_add_agent_take(Sched *s, Adapter *adapter) {
        SchedAgent *agents = reallocarray(s->agents, s->n_agents + 1, sizeof(*agents));

        if (!agents)
                return error_origin(-ENOMEM);
        s->agents = agents;
        s->agents[s->n_agents++] = (SchedAgent){ .adapter = adapter, .ready = HEAP_INIT(ready_less) };
        return 0;
}

void sched_set_launcher(Sched *s, LauncherClient *client) {
        s->client = client;
}

void sched_stop(Sched *s) {
        s->stopping = true;
        timer_clear(&s->delayed_timer);
        timer_clear(&s->retry_timer);
}

/* ---- recovery ---- */

static int on_live_task(const StoreTask *record, void *userdata) {
        Sched *s = userdata;
        SchedAgent *agent = agent_find(s, record->agent);
        SchedTask *t;
        int r;

        /* An agent that is no longer configured: the task is settled after the walk, see below. */
        if (!agent)
                return 0;
        r = task_new(s, record, agent, &t);
        if (r)
                return error_trace(r);
        t->durable = true;
        if (t->state == TASK_QUEUED)
                r = heap_push(&agent->ready, &t->heap);
        else if (t->state == TASK_DELAYED)
                r = heap_push(&s->delayed, &t->heap);
        return error_trace(r);
}

typedef struct IdList {
        Id *ids;
        size_t n;
} IdList;

static int id_list_add(IdList *l, const Id *id) {
        Id *ids = reallocarray(l->ids, l->n + 1, sizeof(*ids));

        if (!ids)
                return error_origin(-ENOMEM);
        l->ids = ids;
        l->ids[l->n++] = *id;
        return 0;
}

static int collect_orphan(const StoreTask *record, void *userdata) {
        void **args = userdata;

        return agent_find(args[0], record->agent) ? 0 : id_list_add(args[1], &record->id);
}

/* Tasks whose agent is no longer configured fail with a reason instead of waiting for ever. */
static int recover_orphans(Sched *s) {
        IdList orphans = {};
        int r;

        r = store_task_list_live(s->store, collect_orphan, (void *[]){ s, &orphans });
        for (size_t i = 0; r == 0 && i < orphans.n; i++) {
                _cleanup_(store_task_freep) StoreTask *record = NULL;
                r = store_begin(s->store);
                if (r)
                        break;
                r = store_task_load(s->store, &orphans.ids[i], 0, &record);
                r = r ?: sched_write_state(s, record, TASK_EVENT_FAIL, "no_agent", "its agent is no longer configured");
                int e = store_end(s->store, r == 0);
                r = r ?: e;
        }
        free(orphans.ids);
        return error_fold(r);
}

static int collect_orphan_attempt(const StoreAttempt *attempt, void *userdata) {
        void **args = userdata;

        return task_find(args[0], &attempt->task_id) ? 0 : id_list_add(args[1], &attempt->id);
}

/* The attempts of such tasks end with them; the launcher is told to kill what it holds of them by its LIST. */
static int recover_orphan_attempts(Sched *s) {
        IdList orphans = {};
        int r;

        r = store_attempt_list_open(s->store, collect_orphan_attempt, (void *[]){ s, &orphans });
        for (size_t i = 0; r == 0 && i < orphans.n; i++) {
                _cleanup_(store_attempt_freep) StoreAttempt *attempt = NULL;
                r = store_begin(s->store);
                if (r)
                        break;
                r = store_attempt_load(s->store, &orphans.ids[i], &attempt);
                r = r ?: sched_set_str(&attempt->outcome, "lost");
                r = r ?: sched_set_str(&attempt->reason, "no_agent");
                if (!r) {
                        attempt->open = false;
                        attempt->finished_us = clock_realtime_us();
                        r = store_attempt_update(s->store, attempt);
                }
                int e = store_end(s->store, r == 0);
                r = r ?: e;
        }
        free(orphans.ids);
        return error_fold(r);
}

static int collect_attempt(const StoreAttempt *attempt, void *userdata) {
        Sched *s = userdata;
        _cleanup_(store_task_freep) StoreTask *record = NULL;
        SchedTask *t = task_find(s, &attempt->task_id);
        int r;

        if (!t || t->state != TASK_RUNNING || t->run)
                return 0;
        r = store_task_load(s->store, &attempt->task_id, STORE_TASK_PROMPT, &record);
        if (r)
                return error_fold(r);
        return error_trace(run_recover(t, steal_ptr(&record), attempt));
}

/* A running task without an open attempt goes back to the queue (none is known to be written so; a net below). */
static int recover_without_attempt(Sched *s) {
        int r = 0;

        map_for_each(i, &s->tasks) {
                SchedTask *t = container_of(i, SchedTask, node);
                _cleanup_(store_task_freep) StoreTask *record = NULL;
                if (t->state != TASK_RUNNING || t->run)
                        continue;
                r = store_begin(s->store);
                if (r)
                        return error_fold(r);
                r = store_task_load(s->store, &t->id, 0, &record);
                r = r ?: sched_write_state(s, record, TASK_EVENT_REQUEUE, "requeued", "it had no attempt under way");
                int e = store_end(s->store, r == 0);
                r = r ?: e;
                if (r)
                        return error_fold(r);
                sched_settle(t, TASK_QUEUED, 0);
        }
        return 0;
}

int sched_recover(Sched *s) {
        int r;

        r = recover_orphans(s);
        r = r ?: store_task_list_live(s->store, on_live_task, s);
        r = r ?: recover_orphan_attempts(s);
        r = r ?: store_attempt_list_open(s->store, collect_attempt, s);
        r = r ?: recover_without_attempt(s);
        if (r)
                return error_fold(r);
        delayed_arm(s);
        if (s->tasks.n)
                log_info("recovered %zu tasks: %u running, %llu waiting", s->tasks.n, s->n_running,
                         (unsigned long long)s->n_waiting);
        return 0;
}

/* ---- looking ---- */

SchedStats sched_stats(const Sched *s) {
        return (SchedStats){ .n_live = s->tasks.n, .n_waiting = s->n_waiting, .n_running = s->n_running };
}

const SchedConfig *sched_config(const Sched *s) {
        return &s->config;
}

size_t sched_n_agents(const Sched *s) {
        return s->n_agents;
}

const SchedAgent *sched_agent(const Sched *s, size_t i) {
        return &s->agents[i];
}

const LauncherClient *sched_launcher(const Sched *s) {
        return s->client;
}

const Id *sched_launcher_generation(const Sched *s) {
        return s->client && launcher_client_is_ready(s->client) ? &s->generation : NULL;
}

#include <stdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "sched/internal.h"

static int refuse(char ret_detail[static SCHED_DETAIL_MAX], int r, const char *format, ...) _printf_(3, 4);

static int refuse(char ret_detail[static SCHED_DETAIL_MAX], int r, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        vsnprintf(ret_detail, SCHED_DETAIL_MAX, format, ap);
        va_end(ap);
        return r;
}

/* What the store has answered, as a result of ours. */
static int from_store(Sched *s, int r, char ret_detail[static SCHED_DETAIL_MAX]) {
        if (r == STORE_E_FULL || r == STORE_E_FAILED)
                return refuse(ret_detail, SCHED_E_UNAVAILABLE, "the store takes no writes: %s",
                              store_failure(s->store) ?: "the disk is full");
        return error_fold(r);
}

/* ---- agents ---- */

static bool agent_is_able(const SchedAgent *a, const char *const *capabilities) {
        if (a->gone)
                return false;
        for (; capabilities && *capabilities; capabilities++)
                if (!adapter_has_capability(a->adapter, *capabilities))
                        return false;
        return true;
}

/* The agent asked for. */
static int choose_named(Sched *s, const StoreTask *task, const char *const *capabilities, uint64_t *ret_agents,
                        char ret_detail[static SCHED_DETAIL_MAX]) {
        SchedAgent *a = agent_find(s, task->agent);

        if (!a)
                return refuse(ret_detail, SCHED_E_NO_AGENT, "there is no agent '%s'; GET /agents lists them", task->agent);
        if (!agent_is_able(a, capabilities))
                return refuse(ret_detail, SCHED_E_NO_AGENT, "agent '%s' lacks a capability that the task asks for; "
                              "GET /agents lists what each can", task->agent);
        if (!agent_is_installed(a))
                return refuse(ret_detail, SCHED_E_NOT_INSTALLED, "agent '%s' is not installed: %s",
                              adapter_name(a->adapter), adapter_hint(a->adapter));
        *ret_agents = agent_bit(s, a);
        return 0;
}

/* All agents that can and are there; the first is the one preferred. */
static int choose_able(Sched *s, const StoreTask *task, const char *const *capabilities, uint64_t *ret_agents,
                       char ret_detail[static SCHED_DETAIL_MAX]) {
        char error[YAML_ERROR_MAX] = "";
        SchedAgent *missing = NULL;
        uint64_t agents = 0;
        int r = 0;

        for (size_t i = 0; i < s->n_agents; i++) {
                SchedAgent *a = &s->agents[i];
                if (!agent_is_able(a, capabilities))
                        continue;
                if (!agent_is_installed(a)) {
                        missing = missing ?: a;
                        continue;
                }
                r = adapter_check(a->adapter, task, error);
                if (r < 0)
                        return error_trace(r);
                if (!r)
                        agents |= agent_bit(s, a);
        }
        *ret_agents = agents;
        if (agents)
                return 0;
        if (*error)
                return refuse(ret_detail, SCHED_E_UNSUPPORTED, "%s", error);
        if (missing)
                return refuse(ret_detail, SCHED_E_NOT_INSTALLED, "agent '%s' is not installed: %s",
                              adapter_name(missing->adapter), adapter_hint(missing->adapter));
        return refuse(ret_detail, SCHED_E_NO_AGENT, "%s; GET /agents lists what each can", s->n_agents ?
                      "no agent has all the capabilities that the task asks for" : "no agent is configured");
}

/* Sets agent (the preferred one) and candidates (where there are several). */
static int choose(Sched *s, StoreTask *task, const char *const *capabilities, uint64_t *ret_agents,
                  char ret_detail[static SCHED_DETAIL_MAX]) {
        _cleanup_(buf_deinit) Buf names = BUF_NULL;
        char error[YAML_ERROR_MAX] = "";
        uint64_t agents;
        int r;

        if (task->agent) {
                r = choose_named(s, task, capabilities, ret_agents, ret_detail);
                r = r ?: adapter_check(s->agents[__builtin_ctzll(*ret_agents)].adapter, task, error);
                return *error ? refuse(ret_detail, SCHED_E_UNSUPPORTED, "%s", error) : r;
        }
        r = choose_able(s, task, capabilities, &agents, ret_detail);
        if (r)
                return r;
        for (size_t i = 0; i < s->n_agents && !r; i++)
                if (agents & agent_bit(s, &s->agents[i]))
                        r = buf_printf(&names, "%s%s", buf_size(&names) ? " " : "", adapter_name(s->agents[i].adapter));
        r = r ?: sched_set_str(&task->agent, adapter_name(s->agents[__builtin_ctzll(agents)].adapter));
        if (!r && agents & (agents - 1))
                r = buf_take_str(&names, &task->candidates);
        if (r)
                return error_fold(r);
        *ret_agents = agents;
        return 0;
}

/* ---- submit ---- */

/* n_before: tasks of the same submission that are not yet counted, of whatever group. */
static int admit(Sched *s, const StoreTask *task, uint64_t n_before, char ret_detail[static SCHED_DETAIL_MAX]) {
        const struct { SchedLimitKind kind; const char *name; int error; } limits[] = {
                { SCHED_GLOBAL, "", SCHED_E_FULL },
                { SCHED_PRINCIPAL, task->principal, SCHED_E_QUOTA },
                { SCHED_GROUP, task->group, SCHED_E_QUOTA },
        };

        sched_look(s);
        if (pressure_holds_admit(&s->pressure))
                return refuse(ret_detail, SCHED_E_PRESSURE, "the machine is under pressure: %s", s->pressure.detail);
        if (s->config.queued_bytes_max && s->queued_bytes + task->n_prompt > s->config.queued_bytes_max)
                return refuse(ret_detail, SCHED_E_FULL, "the queue is full (tasks with prompts of %llu bytes wait or run)",
                              (unsigned long long)s->queued_bytes);
        for (size_t i = 0; i < ELEMENTSOF(limits); i++) {
                const SchedLimit *l = limits[i].name ? limit_find(s, limits[i].kind, limits[i].name) : NULL;
                uint64_t max, n;
                if (!l) {
                        /* Its first task. */
                        if (limits[i].name && limits[i].kind == SCHED_GROUP &&
                            s->limits[SCHED_GROUP].n >= SCHED_GROUPS_MAX &&
                            !limit_is_configured(s, SCHED_GROUP, limits[i].name))
                                return refuse(ret_detail, SCHED_E_QUOTA, "there are %d groups with tasks already, the most "
                                              "that is allowed", SCHED_GROUPS_MAX);
                        max = s->config.queued_per_principal_max;
                        if (limits[i].kind == SCHED_PRINCIPAL && max && n_before >= max)
                                return refuse(ret_detail, limits[i].error, "this caller may have %llu tasks that wait or "
                                              "run", (unsigned long long)max);
                        continue;
                }
                max = limit_queued_max(l);
                n = l == s->global ? s->tasks.n : l->n_live;
                if (n + (l->kind == SCHED_GROUP ? 0 : n_before) < max)
                        continue;
                if (l == s->global)
                        return refuse(ret_detail, limits[i].error, "the queue is full (%zu tasks wait or run)", s->tasks.n);
                if (n < max)
                        return refuse(ret_detail, limits[i].error, "this caller has %llu tasks that wait or run, and may "
                                      "have %llu", (unsigned long long)n, (unsigned long long)max);
                return refuse(ret_detail, limits[i].error, "%s%s%s already has %llu tasks that wait or run",
                              l->kind == SCHED_GROUP ? "group '" : "this caller", l->kind == SCHED_GROUP ? l->name : "",
                              l->kind == SCHED_GROUP ? "'" : "", (unsigned long long)max);
        }
        return 0;
}

static int insert_after(Sched *s, const StoreTask *task, const SchedRequest *request,
                        char ret_detail[static SCHED_DETAIL_MAX]) {
        int r = 0;

        for (size_t i = 0; i < request->n_after && !r; i++) {
                r = store_dependency_insert(s->store, &task->id, &request->after[i], request->on ?: STORE_ON_SUCCESS);
                if (r == STORE_E_NOT_FOUND)
                        return refuse(ret_detail, SCHED_E_INVALID, "after: the task that it waits for does not exist");
                if (r == STORE_E_EXISTS)
                        r = 0;          /* named twice */
        }
        return from_store(s, r, ret_detail);
}

/* A task that comes after others is blocked until they say what it is: at once, where all have ended. */
static int insert(Sched *s, StoreTask *task, const SchedRequest *request, char ret_detail[static SCHED_DETAIL_MAX]) {
        TaskEvent event = TASK_EVENT_BLOCK;
        bool waits;
        int r;

        task->created_us = task->updated_us = clock_realtime_us();
        waits = task->not_before_us > task->created_us;
        task->state = request->n_after ? TASK_BLOCKED : waits ? TASK_DELAYED : TASK_QUEUED;
        task->ready_us = task->state == TASK_QUEUED ? task->created_us : 0;
        r = from_store(s, store_task_insert(s->store, task), ret_detail);
        r = r ?: insert_after(s, task, request, ret_detail);
        if (!r && request->n_after)
                r = depend_judge(s, task, &event, ret_detail);
        if (r)
                return r;
        if (event == TASK_EVENT_BLOCK)
                r = sched_write_state_event(s, task);
        else
                r = sched_write_state(s, task, event, event == TASK_EVENT_CANCEL ? "dependency" : NULL,
                                      event == TASK_EVENT_CANCEL ? ret_detail : NULL);
        return from_store(s, r, ret_detail);
}

static int check(Sched *s, StoreTask *task, const SchedRequest *request, uint64_t n_before, uint64_t *ret_agents,
                 char ret_detail[static SCHED_DETAIL_MAX]) {
        int r;

        if (task->deadline_us && task->deadline_us <= MAX(clock_realtime_us(), task->not_before_us))
                return refuse(ret_detail, SCHED_E_INVALID, "deadline: it has passed, or lies before not_before");
        if (request->n_after > SCHED_DEPENDENCIES_MAX)
                return refuse(ret_detail, SCHED_E_INVALID, "after: expected at most %d tasks", SCHED_DEPENDENCIES_MAX);
        if (!prompt_check(task->prompt, task->n_prompt, request->after, request->n_after, ret_detail))
                return SCHED_E_INVALID;
        r = configure_group(s, task);
        r = r ?: admit(s, task, n_before, ret_detail);
        r = r ?: resource_check(s, task, ret_detail);
        return r ?: choose(s, task, request->capabilities, ret_agents, ret_detail);
}

int sched_check(Sched *s, StoreTask *task, const SchedRequest *request, uint64_t n_before,
                char ret_detail[static SCHED_DETAIL_MAX]) {
        uint64_t agents;

        return check(s, task, request, n_before, &agents, ret_detail);
}

int sched_submit(Sched *s, StoreTask *task, const SchedRequest *request, SchedTask **ret_task,
                 char ret_detail[static SCHED_DETAIL_MAX]) {
        static const SchedRequest nothing = {};
        SchedTask *t = NULL;
        uint64_t agents;
        int r;

        request = request ?: &nothing;
        r = check(s, task, request, 0, &agents, ret_detail);
        if (r)
                return r;
        task->timeout_us = task->timeout_us ?: s->config.timeout_us;
        task->max_attempts = task->max_attempts ?: s->config.max_attempts;
        task->backoff_us = task->backoff_us ?: s->config.backoff_us;
        r = insert(s, task, request, ret_detail);
        if (r)
                return r;
        metric_add(metric_get(s->metrics.submitted, task->agent), 1);
        if (task_state_is_final(task->state)) {
                *ret_task = NULL;
                return 0;
        }
        r = task_new(s, task, agents, &t);
        if (r)
                return error_trace(r);
        t->unsubmitted = true;
        *ret_task = t;
        return 0;
}

/* A deadline that passed while it was not yet submitted. */
static void put_back_deadline(Sched *s, SchedTask *t) {
        if (!t->extra || !t->extra->deadline_us || heap_contains(&t->extra->deadline))
                return;
        if (heap_push(&s->deadlines, &t->extra->deadline))
                log_error("no memory for a task's deadline: it expires after a restart");
        else
                sched_arm(&s->deadline_timer, t->extra->deadline_us);
}

void sched_submitted(SchedTask *t, bool kept) {
        Sched *s;

        if (!t)
                return;
        s = t->flow->sched;
        if (!kept || task_settle_when_durable(t, 0)) {
                task_free(t);
                return;
        }
        t->unsubmitted = false;
        put_back_deadline(s, t);
        sched_settle(t, t->state, t->due_us);
        depend_submitted(t);
        /*
         * At once rather than in the Defer, which runs after the commit: with a free slot, task and attempt share one
         * sync.
         */
        sched_pump(s);
}

void sched_submitted_id(Sched *s, const Id *id, bool kept) {
        SchedTask *t = task_find(s, id);

        if (t && t->unsubmitted && !(kept && t->cancel_requested))
                sched_submitted(t, kept);
}

/* ---- cancel ---- */

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
        return error_trace(task_settle_when_durable(t, TASK_CANCELLED));
}

/* ---- once more ---- */

static int requeue(Sched *s, const Id *id, bool among, SchedTask **ret_task, char ret_detail[static SCHED_DETAIL_MAX]) {
        _cleanup_(store_task_freep) StoreTask *record = NULL;
        TaskEvent event;
        uint64_t agents;
        int r;

        r = store_task_load(s->store, id, 0, &record);
        if (r == STORE_E_NOT_FOUND)
                return SCHED_E_NOT_FOUND;
        if (r)
                return error_fold(r);
        if (!task_state_is_final(record->state))
                return refuse(ret_detail, SCHED_E_NOT_FINAL, "it has not ended: there is nothing to run again");
        if (!task_transition(record->state, TASK_EVENT_RETRY))
                return refuse(ret_detail, SCHED_E_FINAL, "it %s: only a task that ended without success, and was not "
                              "rejected, runs again", task_state_name(record->state));
        if (task_find(s, id))
                return refuse(ret_detail, SCHED_E_NOT_FINAL, "its end is being written: try again");
        r = s->config.queued_bytes_max ? store_task_prompt_size(s->store, id, &record->n_prompt) : 0;
        if (r)
                return error_fold(r);
        r = admit(s, record, 0, ret_detail);
        if (r)
                return r;
        agents = recover_agents(s, record);
        if (!agents)
                return refuse(ret_detail, SCHED_E_NO_AGENT, "its agent is no longer configured");
        record->cancel_requested = false;
        record->not_before_us = record->deadline_us = record->finished_us = 0;
        record->max_attempts = record->n_attempts + s->config.max_attempts;
        r = depend_judge(s, record, &event, ret_detail);
        if (!r && event == TASK_EVENT_CANCEL && !among)
                return SCHED_E_INVALID;
        r = r ?: sched_write_state(s, record, TASK_EVENT_RETRY, NULL, NULL);
        if (!r && event != TASK_EVENT_DUE)
                r = sched_write_state(s, record, TASK_EVENT_BLOCK, NULL, NULL);
        if (r)
                return from_store(s, r, ret_detail);
        r = task_new(s, record, agents, ret_task);
        if (r)
                return error_trace(r);
        (*ret_task)->unsubmitted = true;
        (*ret_task)->judge = event != TASK_EVENT_DUE;
        return 0;
}

int sched_requeue(Sched *s, const Id *id, SchedTask **ret_task, char ret_detail[static SCHED_DETAIL_MAX]) {
        return requeue(s, id, false, ret_task, ret_detail);
}

int sched_requeue_among(Sched *s, const Id *id, char ret_detail[static SCHED_DETAIL_MAX]) {
        SchedTask *t;

        return requeue(s, id, true, &t, ret_detail);
}

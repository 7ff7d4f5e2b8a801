#include <stdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "sched/internal.h"

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

int id_list_add(IdList *l, const Id *id) {
        if (l->n == l->capacity) {
                size_t capacity = l->capacity ? l->capacity * 2 : 16;
                Id *ids = reallocarray(l->ids, capacity, sizeof(*ids));
                if (!ids)
                        return error_origin(-ENOMEM);
                l->ids = ids;
                l->capacity = capacity;
        }
        l->ids[l->n++] = *id;
        return 0;
}

/* ---- life ---- */

SchedTask *task_find(Sched *s, const Id *id) {
        IdNode *node = idmap_find(&s->tasks, id);

        return node ? container_of(node, SchedTask, node) : NULL;
}

static int task_flow(Sched *s, const StoreTask *record, uint64_t agents, SchedFlow **ret_flow) {
        SchedFlowKey key = { .agents = agents, .priority = record->priority, .gpus = record->gpus,
                             .cpus_milli = resource_cpus(record->cpus_milli),
                             .memory = resource_memory(record->memory) };
        int r;

        r = limit_ref(s, SCHED_PRINCIPAL, record->principal, &key.principal);
        if (!r && record->group)
                r = limit_ref(s, SCHED_GROUP, record->group, &key.group);
        r = r ?: budget_of_batch(s, &record->batch, &key.budget);
        if (key.budget)
                key.budget->n_refs++;
        r = r ?: queue_flow(s, &key, ret_flow);
        /* The flow has references of its own. */
        budget_unref(s, key.budget);
        limit_unref(s, key.principal);
        limit_unref(s, key.group);
        return error_trace(r);
}

/* An agent counts the tasks that no other may run. */
static void task_count(SchedTask *t, int n) {
        const SchedFlow *f = t->flow;
        SchedLimit *limits[] = { f->key.principal, f->key.group,
                                 (f->key.agents & (f->key.agents - 1)) == 0
                                         ? f->sched->agents[__builtin_ctzll(f->key.agents)].limit : NULL };

        for (size_t i = 0; i < ELEMENTSOF(limits); i++)
                if (limits[i])
                        limits[i]->n_live += (uint64_t)n;
}

int task_new(Sched *s, const StoreTask *record, uint64_t agents, SchedTask **ret_task) {
        SchedTask *t;
        int r;

        t = calloc(1, sizeof(*t));
        if (!t)
                return error_origin(-ENOMEM);
        t->node.id = record->id;
        t->state = (uint8_t)record->state;
        t->due_us = record->not_before_us;
        t->cancel_requested = record->cancel_requested;
        t->in_batch = !id_is_null(&record->batch);
        t->n_prompt = (uint32_t)MIN(record->n_prompt, (size_t)UINT32_MAX);
        s->order_us = t->order_us = MAX(s->order_us + 1, record->created_us);
        r = task_flow(s, record, agents, &t->flow);
        if (!r) {
                r = idmap_insert(&s->tasks, &t->node);
                if (r)
                        queue_flow_release(t->flow);
        }
        if (r) {
                free(t);
                return error_trace(r);
        }
        task_count(t, 1);
        s->queued_bytes += t->n_prompt;
        if (task_is_waiting(t))
                s->n_waiting++;
        if (record->deadline_us && task_is_waiting(t)) {
                SchedTaskExtra *extra = task_extra(t);
                if (extra) {
                        extra->deadline_us = record->deadline_us;
                        r = heap_push(&s->deadlines, &extra->deadline);
                } else
                        r = error_origin(-ENOMEM);
                if (r) {
                        task_free(t);
                        return error_trace(r);
                }
                extra = container_of(heap_top(&s->deadlines), SchedTaskExtra, deadline);
                sched_arm(&s->deadline_timer, extra->deadline_us);
        }
        *ret_task = t;
        return 0;
}

SchedTask *task_free(SchedTask *t) {
        Sched *s;

        if (!t)
                return NULL;
        s = t->flow->sched;
        run_free(t->run);
        if (task_is_waiting(t))
                s->n_waiting--;
        task_dequeue(t);
        if (t->extra) {
                list_for_each_safe(i, &t->extra->watches)
                        list_unlink(i);
                store_wait_cancel(&t->extra->wait);
                heap_remove(&s->deadlines, &t->extra->deadline);
                free(t->extra);
        }
        idmap_remove(&s->tasks, &t->node);
        task_count(t, -1);
        s->queued_bytes -= t->n_prompt;
        queue_flow_release(t->flow);
        free(t);
        return NULL;
}

SchedTaskExtra *task_extra(SchedTask *t) {
        if (!t->extra) {
                t->extra = calloc(1, sizeof(*t->extra));
                if (t->extra) {
                        t->extra->task = t;
                        list_init(&t->extra->watches);
                }
        }
        return t->extra;
}

void task_extra_drop(SchedTask *t) {
        if (!t->extra || t->extra->waiting || heap_contains(&t->extra->deadline) || !list_is_empty(&t->extra->watches))
                return;
        free(t->extra);
        t->extra = NULL;
}

/* ---- its place ---- */

int task_enqueue(SchedTask *t) {
        Sched *s = t->flow->sched;
        int r;

        if (!(t->flow->key.agents & s->agents_live))
                configure_orphan(s, t);
        if (t->state == TASK_QUEUED)
                return error_trace(queue_push(t));
        if (t->state != TASK_DELAYED)
                return 0;
        r = heap_push(&s->delayed, &t->heap);
        if (r)
                return error_trace(r);
        sched_arm(&s->delayed_timer, container_of(heap_top(&s->delayed), SchedTask, heap)->due_us);
        return 0;
}

void task_dequeue(SchedTask *t) {
        if (t->state == TASK_DELAYED)
                heap_remove(&t->flow->sched->delayed, &t->heap);
        else
                queue_remove(t);
}

void sched_notify(SchedTask *t, bool ended) {
        if (!t->extra)
                return;
        list_for_each_safe(i, &t->extra->watches) {
                SchedWatch *watch = container_of(i, SchedWatch, link);
                if (ended)
                        list_unlink(i);
                watch->fn(watch, ended);
        }
}

static void on_settle(StoreWait *wait, int error) {
        SchedTask *t = container_of(wait, SchedTaskExtra, wait)->task;
        TaskState next = t->extra->next;

        t->extra->waiting = false;
        if (error) {
                /* The store has failed: nothing goes on until a restart, which finds what was before. */
                if (!t->durable)
                        task_free(t);
                return;
        }
        t->durable = true;
        t->extra->next = 0;
        if (!next)
                task_extra_drop(t);
        else if (t->run)
                run_cancel(t->run);
        else
                sched_settle(t, next, 0);
}

int task_settle_when_durable(SchedTask *t, TaskState state) {
        SchedTaskExtra *extra = task_extra(t);

        if (!extra)
                return error_origin(-ENOMEM);
        /* It must not be picked between now and the commit. */
        if (state)
                task_dequeue(t);
        store_wait_cancel(&extra->wait);
        extra->next = state;
        extra->waiting = true;
        store_wait(t->flow->sched->store, &extra->wait, on_settle);
        return 0;
}

void sched_settle(SchedTask *t, TaskState state, uint64_t due_us) {
        Sched *s = t->flow->sched;
        Id id = t->node.id;
        bool in_batch = t->in_batch;

        task_dequeue(t);
        if (task_is_waiting(t))
                s->n_waiting--;
        t->state = (uint8_t)state;
        t->due_us = due_us;
        if (task_is_waiting(t))
                s->n_waiting++;
        if (task_state_is_final(state)) {
                metric_add(metric_get(s->metrics.finished, task_state_name(state)), 1);
                sched_notify(t, true);
                task_free(t);
                depend_ended(s, &id, state, in_batch);
                sched_kick(s);
                return;
        }
        if (task_enqueue(t))
                log_error("no memory to queue a task: it runs after a restart");
        sched_notify(t, false);
        sched_kick(s);
}

/* ---- writing a state ---- */

int sched_write_state_event(Sched *s, const StoreTask *record) {
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
        sched_tell(s);
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
        if (state == TASK_QUEUED)
                record->ready_us = record->updated_us;
        if (task_state_is_final(state))
                record->finished_us = record->updated_us;
        r = store_task_update(s->store, record);
        if (r)
                return r;
        return sched_write_state_event(s, record);
}

int sched_move(Sched *s, const Id *id, TaskEvent event, const char *reason, const char *detail) {
        _cleanup_(store_task_freep) StoreTask *record = NULL;
        int r, e;

        r = store_begin(s->store);
        if (r)
                return r;
        r = store_task_load(s->store, id, 0, &record);
        r = r ?: sched_write_state(s, record, event, reason, detail);
        e = store_end(s->store, r == 0);
        return r ?: e;
}

/* recover: the scheduler's memory made anew from the store, after a restart. */

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "sched/internal.h"

uint64_t recover_agents(Sched *s, const StoreTask *record) {
        uint64_t agents = 0;
        char name[64];
        SchedAgent *a;

        for (const char *p = record->candidates; p && *p; p += *p == ' ') {
                size_t n = strcspn(p, " ");
                if (n < sizeof(name)) {
                        memcpy(name, p, n);
                        name[n] = 0;
                        a = agent_find(s, name);
                        agents |= a ? agent_bit(s, a) : 0;
                }
                p += n;
        }
        a = agents ? NULL : agent_find(s, record->agent);
        return a ? agent_bit(s, a) : agents;
}

static int on_live_task(const StoreTask *record, void *userdata) {
        void **args = userdata;
        Sched *s = args[0];
        uint64_t agents = recover_agents(s, record);
        SchedTask *t;
        int r;

        /* None that is still configured: the task is settled after the walk, see below. */
        if (!agents)
                return id_list_add(args[1], &record->id);
        r = task_new(s, record, agents, &t);
        if (r)
                return error_trace(r);
        t->durable = true;
        return error_trace(task_enqueue(t));
}

/* Tasks whose agent is no longer configured fail with a reason instead of waiting for ever. */
static int recover_tasks(Sched *s) {
        IdList orphans = {};
        int r;

        r = store_task_list_live(s->store, on_live_task, (void *[]){ s, &orphans });
        for (size_t i = 0; r == 0 && i < orphans.n; i++)
                r = sched_move(s, &orphans.ids[i], TASK_EVENT_FAIL, "no_agent", "its agent is no longer configured");
        free(orphans.ids);
        return error_fold(r);
}

static int collect_orphan_attempt(const StoreAttempt *attempt, void *userdata) {
        void **args = userdata;

        return task_find(args[0], &attempt->task_id) && (!attempt->agent || agent_find(args[0], attempt->agent))
               ? 0 : id_list_add(args[1], &attempt->id);
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
        SchedAgent *agent;
        int r;

        if (!t || t->state != TASK_RUNNING || t->run)
                return 0;
        r = store_task_load(s->store, &attempt->task_id, STORE_TASK_PROMPT, &record);
        if (r)
                return error_fold(r);
        agent = agent_find(s, attempt->agent ?: record->agent);
        if (!agent)
                return 0;
        return error_trace(run_recover(t, agent, steal_ptr(&record), attempt));
}

/* A running task without an open attempt, for its agent is gone and another may run it, goes back to the queue. */
static int recover_without_attempt(Sched *s) {
        int r;

        idmap_for_each(i, &s->tasks) {
                SchedTask *t = container_of(i, SchedTask, node);
                if (t->state != TASK_RUNNING || t->run)
                        continue;
                if (t->cancel_requested) {
                        r = sched_move(s, &i->id, TASK_EVENT_CANCEL, "cancelled", "cancelled while it ran");
                        r = r ?: task_settle_when_durable(t, TASK_CANCELLED);
                } else {
                        r = sched_move(s, &i->id, TASK_EVENT_REQUEUE, "requeued", "it had no attempt under way");
                        if (!r)
                                sched_settle(t, TASK_QUEUED, 0);
                }
                if (r)
                        return error_fold(r);
        }
        return 0;
}

static int on_gate(const StoreGate *gate, void *userdata) {
        Sched *s = userdata;
        SchedAccount *account;
        int r;

        if (gate->until_us <= clock_realtime_us())
                return 0;
        r = configure_account(s, gate->account, &account);
        if (r)
                return error_trace(r);
        account->until_us = gate->until_us;
        return error_trace(sched_set_str(&account->reason, gate->reason));
}

/* A batch that the last router had not finished was never acknowledged: there is none. */
static int recover_batches(Sched *s) {
        size_t n = 0;
        int r;

        r = store_batch_discard_unfinished(s->store, &n);
        if (n)
                log_info("undid %zu batches that the last router had not finished", n);
        return error_fold(r);
}

int sched_recover(Sched *s) {
        int r;

        r = recover_batches(s);
        r = r ?: recover_tasks(s);
        r = r ?: limit_count_bytes(s, &s->config);
        r = r ?: recover_orphan_attempts(s);
        r = r ?: store_attempt_list_open(s->store, collect_attempt, s);
        r = r ?: recover_without_attempt(s);
        r = r ?: depend_recover(s);
        r = r ?: store_gate_list(s->store, on_gate, s);
        if (r)
                return error_fold(r);
        agent_health_arm(s);
        if (s->tasks.n)
                log_info("recovered %zu tasks: %u running, %llu waiting", s->tasks.n, s->global->n_running,
                         (unsigned long long)s->n_waiting);
        return 0;
}

/*
 * configure: another configuration in place of the one in force, while tasks wait and run.
 *
 * An agent keeps its place in Sched.agents (see SchedAgent). One that is gone takes no more tasks; those that no other
 * agent may run become orphans, which fail in later turns, a few at a time: there may be a million. Its place is taken
 * by another agent when nothing refers to it any more.
 */

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "sched/internal.h"

#define CONFIGURE_ORPHANS_TURN 256      /* failed between two looks at the sockets */

/* ---- accounts ---- */

int configure_account(Sched *s, const char *name, SchedAccount **ret_account) {
        SchedAccount *account;

        list_for_each_safe(i, &s->accounts) {
                account = container_of(i, SchedAccount, link);
                if (streq(account->name, name)) {
                        *ret_account = account;
                        return 0;
                }
        }
        account = calloc(1, sizeof(*account));
        if (account)
                account->name = strdup(name);
        if (!account || !account->name) {
                free(account);
                return error_origin(-ENOMEM);
        }
        list_link_tail(&s->accounts, &account->link);
        *ret_account = account;
        return 0;
}

/* ---- agents ---- */

static SchedAgent *place_find(Sched *s, const char *name) {
        for (size_t i = 0; i < s->n_agents; i++)
                if (streq(s->agents[i].limit->name, name))
                        return &s->agents[i];
        return NULL;
}

static bool place_is_free(const Sched *s, const SchedAgent *a) {
        if (!a->gone || a->limit->n_running)
                return false;
        map_for_each(i, &s->flows)
                if (container_of(i, SchedFlow, node)->key.agents & agent_bit(s, a))
                        return false;
        return true;
}

/*
 * Where an agent of this name is, or goes: one that is gone until it is put to use; none of those that are taken
 * already. -E2BIG, -ENOMEM.
 */
static int place_get(Sched *s, const char *name, uint64_t taken, SchedAgent **ret_agent) {
        SchedAgent *a = place_find(s, name);
        SchedLimit *limit;
        int r;

        for (size_t i = 0; !a && i < s->n_agents; i++)
                if (!(taken & agent_bit(s, &s->agents[i])) && place_is_free(s, &s->agents[i]))
                        a = &s->agents[i];
        if (a && streq(a->limit->name, name)) {
                *ret_agent = a;
                return 0;
        }
        if (!a && s->n_agents >= SCHED_AGENTS_MAX)
                return error_origin(-E2BIG);
        r = limit_ref(s, SCHED_AGENT, name, &limit);
        if (r)
                return error_trace(r);
        if (a) {
                adapter_free(a->adapter);
                limit_unref(s, a->limit);
        } else
                a = &s->agents[s->n_agents++];
        *a = (SchedAgent){ .limit = limit, .gone = true };
        *ret_agent = a;
        return 0;
}

static void agent_use_take(Sched *s, SchedAgent *a, Adapter *adapter, SchedAccount *account) {
        adapter_free(a->adapter);
        a->adapter = adapter;
        a->account = account;
        a->gone = false;
        s->agents_live |= agent_bit(s, a);
        limit_configure(s, a->limit);
        metric_set(metric_get(s->metrics.breaker, adapter_name(adapter)), a->breaker);
}

int sched_add_agent_take(Sched *s, Adapter *adapter) {
        SchedAccount *account;
        SchedAgent *a;
        int r;

        r = configure_account(s, adapter_account(adapter), &account);
        r = r ?: place_get(s, adapter_name(adapter), 0, &a);
        if (r)
                return error_trace(r);
        agent_use_take(s, a, adapter, account);
        return 0;
}

/* ---- orphans ---- */

void configure_orphan(Sched *s, const SchedTask *t) {
        if (id_list_add(&s->orphans, &t->node.id)) {
                s->orphans_again = true;
                sched_retry_later(s);
                return;
        }
        if (!s->stopping)
                defer_schedule(&s->orphans_defer);
}

static bool is_orphan(const Sched *s, const SchedTask *t) {
        return !(t->flow->key.agents & s->agents_live) && task_is_waiting(t);
}

static void orphans_collect(Sched *s) {
        s->orphans_again = false;
        idmap_for_each(i, &s->tasks)
                if (is_orphan(s, container_of(i, SchedTask, node)) && !s->orphans_again)
                        configure_orphan(s, container_of(i, SchedTask, node));
}

static void on_orphans(Defer *defer) {
        Sched *s = container_of(defer, Sched, orphans_defer);

        if (s->stopping)
                return;
        for (size_t n = 0; n < CONFIGURE_ORPHANS_TURN && s->orphans.n; n++) {
                SchedTask *t = task_find(s, &s->orphans.ids[s->orphans.n - 1]);
                /* Where its next state is on the way to the disk, that decides. */
                if (t && is_orphan(s, t) && !(t->extra && t->extra->next) &&
                    (sched_move(s, &t->node.id, TASK_EVENT_FAIL, "no_agent", "its agent is no longer configured") ||
                     task_settle_when_durable(t, TASK_FAILED))) {
                        sched_retry_later(s);
                        return;
                }
                s->orphans.n--;
        }
        if (s->orphans.n)
                defer_schedule(&s->orphans_defer);
        else {
                free(s->orphans.ids);
                s->orphans = (IdList){};
        }
}

void configure_retry(Sched *s) {
        if (s->orphans_again)
                orphans_collect(s);
        if (s->orphans.n)
                defer_schedule(&s->orphans_defer);
}

/* ---- a configuration ---- */

static void unpark_all(Sched *s) {
        for (SchedLimitKind k = 0; k < _SCHED_LIMIT_KIND_N; k++)
                map_for_each(i, &s->limits[k])
                        queue_unpark(s, &container_of(i, SchedLimit, node)->parked);
        queue_unpark(s, &s->parked_any);
        queue_unpark(s, &s->parked_resources);
}

int sched_configure(Sched *s, const SchedConfig *config, Adapter *const *adapters, size_t n) {
        SchedAccount *accounts[SCHED_AGENTS_MAX];
        SchedAgent *places[SCHED_AGENTS_MAX];
        uint64_t live = 0;
        int r = 0;

        if (n > SCHED_AGENTS_MAX)
                return error_origin(-E2BIG);
        /* All that may fail, before anything changes. */
        for (size_t i = 0; i < n && !r; i++) {
                r = configure_account(s, adapter_account(adapters[i]), &accounts[i]);
                r = r ?: place_get(s, adapter_name(adapters[i]), live, &places[i]);
                live |= r ? 0 : agent_bit(s, places[i]);
        }
        if (!s->config.queued_bytes_max)
                r = r ?: limit_count_bytes(s, config);
        if (r)
                return error_trace(r);

        s->config = *config;
        for (size_t i = 0; i < n; i++)
                agent_use_take(s, places[i], adapter_ref(adapters[i]), accounts[i]);
        for (size_t i = 0; i < s->n_agents; i++)
                s->agents[i].gone = !(live & agent_bit(s, &s->agents[i]));
        s->agents_live = live;
        for (SchedLimitKind k = 0; k < _SCHED_LIMIT_KIND_N; k++)
                map_for_each(i, &s->limits[k])
                        limit_configure(s, container_of(i, SchedLimit, node));
        resource_configure(s);
        s->pressure_us = 0;             /* the thresholds may be others */
        agent_health_arm(s);
        orphans_collect(s);
        unpark_all(s);
        return 0;
}

/* ---- groups ---- */

int configure_group(const Sched *s, StoreTask *task) {
        _cleanup_(json_putp) json_object *request = NULL;
        json_object *labels, *value;
        int r;

        if (task->group || !s->config.n_matches || !task->request)
                return 0;
        r = json_parse(task->request, strlen(task->request), JSON_DEPTH_MAX, &request, NULL);
        if (r)
                return error_fold(r);
        if (!json_object_object_get_ex(request, "labels", &labels) || !json_object_is_type(labels, json_type_object))
                return 0;
        for (size_t i = 0; i < s->config.n_matches; i++) {
                const SchedGroupMatch *m = &s->config.matches[i];
                if (json_object_object_get_ex(labels, m->key, &value) &&
                    streq(json_object_get_string(value) ?: "", m->value))
                        return error_trace(sched_set_str(&task->group, m->group));
        }
        return 0;
}

/* ---- life ---- */

void configure_init(Sched *s) {
        list_init(&s->accounts);
        defer_init(&s->orphans_defer, s->reactor, on_orphans);
}

void configure_deinit(Sched *s) {
        ListLink *i;

        defer_cancel(&s->orphans_defer);
        for (size_t k = 0; k < s->n_agents; k++)
                adapter_free(s->agents[k].adapter);
        while ((i = list_pop(&s->accounts))) {
                SchedAccount *account = container_of(i, SchedAccount, link);
                free(account->name);
                free(account->reason);
                free(account);
        }
        free(s->orphans.ids);
}

/*
 * limit: how many of a kind may run at once, or wait. The configuration's settings, and before them what an
 * administrator has set at run time, which is a row in the store. One SchedLimit for each agent, and for each principal
 * and group that has tasks or settings.
 */

#include "base/error.h"
#include "sched/internal.h"

static const char *const kind_names[_SCHED_LIMIT_KIND_N] = { "global", "agent", "principal", "group" };

const char *sched_limit_kind_name(SchedLimitKind kind) {
        return kind_names[kind];
}

bool sched_limit_kind_parse(const char *name, SchedLimitKind *ret_kind) {
        for (SchedLimitKind k = 0; k < _SCHED_LIMIT_KIND_N; k++)
                if (streq(kind_names[k], name)) {
                        *ret_kind = k;
                        return true;
                }
        return false;
}

/* ---- life ---- */

SchedLimit *limit_find(const Sched *s, SchedLimitKind kind, const char *name) {
        MapNode *node = map_find(&s->limits[kind], name, strlen(name));

        return node ? container_of(node, SchedLimit, node) : NULL;
}

bool limit_is_configured(const Sched *s, SchedLimitKind kind, const char *name) {
        for (size_t i = 0; i < s->config.n_limits; i++)
                if (s->config.limits[i].kind == kind && streq(s->config.limits[i].name, name))
                        return true;
        return false;
}

/* The configuration's part; what it does not say is no limit. */
void limit_configure(const Sched *s, SchedLimit *l) {
        const SchedAgent *a = l->kind == SCHED_AGENT ? agent_find((Sched *)s, l->name) : NULL;

        l->config = (SchedLimitConfig){ .kind = l->kind, .running = SCHED_NO_LIMIT };
        if (a)
                l->config.running = adapter_concurrency(a->adapter);
        if (l->kind == SCHED_PRINCIPAL) {
                l->config.running = s->config.running_per_principal_max ?: SCHED_NO_LIMIT;
                l->config.queued = s->config.queued_per_principal_max;
        }
        if (l->kind == SCHED_GLOBAL) {
                l->config.running = s->config.running_max;
                l->config.queued = s->config.queued_max;
        }
        for (size_t i = 0; i < s->config.n_limits; i++) {
                const SchedLimitConfig *c = &s->config.limits[i];
                if (c->kind != l->kind || !streq(c->name, l->name))
                        continue;
                l->config.running = MIN(l->config.running, c->running);
                if (c->kind == SCHED_PRINCIPAL && c->running != SCHED_NO_LIMIT)
                        l->config.running = c->running;
                l->config.queued = c->queued ?: l->config.queued;
                l->config.weight = c->weight;
                l->config.paused = c->paused;
        }
}

static int limit_new(Sched *s, SchedLimitKind kind, const char *name, SchedLimit **ret_limit) {
        size_t n = strlen(name);
        SchedLimit *l;
        int r;

        l = calloc(1, sizeof(*l) + n + 1);
        if (!l)
                return error_origin(-ENOMEM);
        l->kind = kind;
        memcpy(l->name, name, n);
        list_init(&l->parked);
        list_init(&l->budget.parked);
        limit_configure(s, l);
        r = map_insert(&s->limits[kind], &l->node, l->name, n);
        if (r) {
                free(l);
                return error_fold(r);
        }
        *ret_limit = l;
        return 0;
}

static StoreLimit *set_free(StoreLimit *set) {
        if (!set)
                return NULL;
        free(set->kind);
        free(set->name);
        free(set->updated_by);
        free(set);
        return NULL;
}

static void limit_free(Sched *s, SchedLimit *l) {
        map_remove(&s->limits[l->kind], &l->node);
        set_free(l->set);
        free(l);
}

int limit_ref(Sched *s, SchedLimitKind kind, const char *name, SchedLimit **ret_limit) {
        SchedLimit *l = limit_find(s, kind, name);
        int r;

        if (!l) {
                r = limit_new(s, kind, name, &l);
                if (r)
                        return error_trace(r);
        }
        l->n_refs++;
        *ret_limit = l;
        return 0;
}

void limit_unref(Sched *s, SchedLimit *l) {
        if (l && --l->n_refs == 0 && !l->set)
                limit_free(s, l);
}

static int set_copy(const StoreLimit *from, StoreLimit **ret_set) {
        StoreLimit *set = calloc(1, sizeof(*set));
        int r;

        if (!set)
                return error_origin(-ENOMEM);
        *set = *from;
        set->kind = set->name = set->updated_by = NULL;
        r = sched_set_str(&set->kind, from->kind);
        r = r ?: sched_set_str(&set->name, from->name);
        r = r ?: sched_set_str(&set->updated_by, from->updated_by);
        if (r) {
                set_free(set);
                return error_trace(r);
        }
        *ret_set = set;
        return 0;
}

/* A setting, in force from now on. */
static int limit_apply(Sched *s, SchedLimitKind kind, const StoreLimit *row) {
        StoreLimit *set = NULL;
        SchedLimit *l;
        int r;

        r = set_copy(row, &set);
        if (r)
                return error_trace(r);
        r = limit_ref(s, kind, row->name, &l);
        if (r) {
                set_free(set);
                return error_trace(r);
        }
        set_free(l->set);
        l->set = set;
        l->n_refs--;            /* the setting itself keeps it */
        queue_unpark(s, &l->parked);
        l->budget.day = 0;              /* what was used is read again */
        queue_unpark(s, &l->budget.parked);
        queue_unpark(s, &s->parked_any);
        return 0;
}

static int on_row(const StoreLimit *row, void *userdata) {
        SchedLimitKind kind;

        /* Of a newer program: it stays in the store, without effect. */
        if (!sched_limit_kind_parse(row->kind, &kind))
                return 0;
        return error_trace(limit_apply(userdata, kind, row));
}

int limit_init(Sched *s) {
        int r;

        r = limit_ref(s, SCHED_GLOBAL, "", &s->global);
        if (!r && s->store)
                r = store_limit_list(s->store, on_row, s);
        return error_trace(r);
}

void limit_deinit(Sched *s) {
        for (SchedLimitKind k = 0; k < _SCHED_LIMIT_KIND_N; k++) {
                map_for_each(i, &s->limits[k])
                        limit_free(s, container_of(i, SchedLimit, node));
                map_deinit(&s->limits[k]);
        }
}

/* ---- what is in force ---- */

uint32_t limit_running_max(const SchedLimit *l) {
        return l->set && l->set->running >= 0 ? (uint32_t)l->set->running : l->config.running;
}

uint64_t limit_queued_max(const SchedLimit *l) {
        return l->set && l->set->queued >= 0 ? (uint64_t)l->set->queued : l->config.queued ?: UINT64_MAX;
}

uint32_t limit_weight(const SchedLimit *l) {
        return (l->set ? l->set->weight : 0) ?: l->config.weight ?: 1;
}

bool limit_is_paused(const SchedLimit *l) {
        return l->set ? l->set->paused : l->config.paused;
}

SchedBlock limit_block(const SchedLimit *l) {
        return limit_is_paused(l) ? SCHED_BLOCK_PAUSED
             : l->n_running >= limit_running_max(l) ? SCHED_BLOCK_LIMIT
             : SCHED_BLOCK_NONE;
}

int limit_count_bytes(Sched *s, const SchedConfig *config) {
        if (!config->queued_bytes_max)
                return 0;
        idmap_for_each(i, &s->tasks) {
                SchedTask *t = container_of(i, SchedTask, node);
                size_t n;
                int r = store_task_prompt_size(s->store, &i->id, &n);
                if (r)
                        return error_fold(r);
                n = MIN(n, (size_t)UINT32_MAX);
                s->queued_bytes += n - t->n_prompt;
                t->n_prompt = (uint32_t)n;
        }
        return 0;
}

void limit_take(SchedLimit *l) {
        if (l)
                l->n_running++;
}

void limit_give(Sched *s, SchedLimit *l) {
        if (!l)
                return;
        l->n_running--;
        queue_unpark(s, &l->parked);
}

/* ---- administration ---- */

static SchedLimitInfo limit_info(const Sched *s, const SchedLimit *l) {
        uint64_t queued_max = limit_queued_max(l);

        return (SchedLimitInfo){ .kind = l->kind,
                                 .name = l->name,
                                 .running_max = limit_running_max(l),
                                 .n_running = l->n_running,
                                 .n_live = l->kind == SCHED_GLOBAL ? s->tasks.n : l->n_live,
                                 .queued_max = queued_max == UINT64_MAX ? 0 : queued_max,
                                 .weight = limit_weight(l),
                                 .paused = limit_is_paused(l),
                                 .set = l->set };
}

int sched_limit_list(const Sched *s, int (*fn)(const SchedLimitInfo *info, void *userdata), void *userdata) {
        SchedLimitInfo info;
        int r = 0;

        for (SchedLimitKind k = 0; k < _SCHED_LIMIT_KIND_N && r == 0; k++)
                map_for_each(i, &s->limits[k]) {
                        const SchedLimit *l = container_of(i, SchedLimit, node);
                        /* The place of an agent that is gone. */
                        if (k == SCHED_AGENT && !l->set && !l->n_live && !l->n_running &&
                            !agent_find((Sched *)s, l->name))
                                continue;
                        info = limit_info(s, l);
                        r = r ?: fn(&info, userdata);
                }
        return r;
}

int sched_limit_set(Sched *s, const StoreLimit *limit) {
        SchedLimitKind kind;
        int r;

        if (!sched_limit_kind_parse(limit->kind, &kind))
                return SCHED_E_INVALID;
        if (kind == SCHED_AGENT && !agent_find(s, limit->name))
                return SCHED_E_NO_AGENT;
        /* The sums of a day are kept by these two. */
        if (kind != SCHED_AGENT && kind != SCHED_PRINCIPAL &&
            (limit->max_tokens_day > 0 || limit->max_cost_microusd_day > 0))
                return SCHED_E_INVALID;
        r = store_limit_put(s->store, limit);
        if (r)
                return r == STORE_E_FULL || r == STORE_E_FAILED ? SCHED_E_UNAVAILABLE : error_fold(r);
        return error_trace(limit_apply(s, kind, limit));
}

int sched_limit_unset(Sched *s, SchedLimitKind kind, const char *name) {
        SchedLimit *l = limit_find(s, kind, name);
        int r;

        if (!l || !l->set)
                return SCHED_E_NOT_FOUND;
        r = store_limit_delete(s->store, sched_limit_kind_name(kind), name);
        if (r)
                return r == STORE_E_FULL || r == STORE_E_FAILED ? SCHED_E_UNAVAILABLE : error_fold(r);
        l->n_refs++;
        l->set = set_free(l->set);
        queue_unpark(s, &l->parked);
        l->budget.day = 0;              /* what was used is read again */
        queue_unpark(s, &l->budget.parked);
        queue_unpark(s, &s->parked_any);
        limit_unref(s, l);
        return 0;
}

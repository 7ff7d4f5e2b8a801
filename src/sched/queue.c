/*
 * queue: tasks that wait for a slot; see the head of internal.h for what contains what.
 *
 * Fairness inside a level is start-time fair queueing (Goyal, Vin and Cheng, 1996): a share's pass is its virtual
 * time, each start adds 1/weight, the smallest goes first, and who comes anew starts at the level's own time, so that
 * nobody saves up turns. A pick costs one look at each level in use and O(log n) in its heaps.
 */

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "sched/internal.h"

static bool task_less(const HeapNode *a, const HeapNode *b) {
        return container_of(a, SchedTask, heap)->order_us < container_of(b, SchedTask, heap)->order_us;
}

static uint64_t flow_order(const SchedFlow *f) {
        return container_of(heap_top(&f->ready), SchedTask, heap)->order_us;
}

static bool flow_less(const HeapNode *a, const HeapNode *b) {
        return flow_order(container_of(a, SchedFlow, heap)) < flow_order(container_of(b, SchedFlow, heap));
}

static uint64_t share_order(const SchedShare *share) {
        return flow_order(container_of(heap_top(&share->flows), SchedFlow, heap));
}

static bool age_less(const HeapNode *a, const HeapNode *b) {
        return share_order(container_of(a, SchedShare, by_age)) < share_order(container_of(b, SchedShare, by_age));
}

static bool pass_less(const HeapNode *a, const HeapNode *b) {
        const SchedShare *x = container_of(a, SchedShare, by_pass), *y = container_of(b, SchedShare, by_pass);

        return x->pass != y->pass ? x->pass < y->pass : share_order(x) < share_order(y);
}

/* ---- levels ---- */

void queue_init(Sched *s) {
        for (size_t i = 0; i < ELEMENTSOF(s->levels); i++) {
                s->levels[i].by_pass = (Heap)HEAP_INIT(pass_less);
                s->levels[i].by_age = (Heap)HEAP_INIT(age_less);
                list_init(&s->levels[i].shares);
        }
        list_init(&s->parked_any);
        list_init(&s->parked_resources);
}

void queue_deinit(Sched *s) {
        for (size_t i = 0; i < ELEMENTSOF(s->levels); i++) {
                heap_deinit(&s->levels[i].by_pass);
                heap_deinit(&s->levels[i].by_age);
        }
        map_deinit(&s->flows);
}

static void level_mark(Sched *s, const SchedLevel *level) {
        size_t i = (size_t)(level - s->levels);
        uint64_t bit = UINT64_C(1) << (i % 64);

        if (level->by_age.n)
                s->busy[i / 64] |= bit;
        else
                s->busy[i / 64] &= ~bit;
}

/* ---- shares ---- */

static int share_ref(Sched *s, SchedLevel *level, SchedLimit *principal, SchedShare **ret_share) {
        SchedShare *share;

        list_for_each_safe(i, &level->shares) {
                share = container_of(i, SchedShare, link);
                if (share->principal == principal) {
                        share->n_refs++;
                        *ret_share = share;
                        return 0;
                }
        }
        share = calloc(1, sizeof(*share));
        if (!share)
                return error_origin(-ENOMEM);
        share->level = level;
        share->principal = principal;
        share->flows = (Heap)HEAP_INIT(flow_less);
        share->n_refs = 1;
        list_link_tail(&level->shares, &share->link);
        *ret_share = share;
        return 0;
}

static void share_unref(SchedShare *share) {
        if (--share->n_refs)
                return;
        heap_deinit(&share->flows);
        list_unlink(&share->link);
        free(share);
}

/* Puts the share where its flows say. -ENOMEM: it is in no heap. */
static int share_place(Sched *s, SchedShare *share) {
        SchedLevel *level = share->level;
        int r = 0;

        if (!share->flows.n) {
                heap_remove(&level->by_pass, &share->by_pass);
                heap_remove(&level->by_age, &share->by_age);
        } else if (heap_contains(&share->by_pass)) {
                heap_fix(&level->by_pass, &share->by_pass);
                heap_fix(&level->by_age, &share->by_age);
        } else {
                share->pass = MAX(share->pass, level->pass);
                r = heap_push(&level->by_pass, &share->by_pass);
                r = r ?: heap_push(&level->by_age, &share->by_age);
                if (r)
                        heap_remove(&level->by_pass, &share->by_pass);
        }
        level_mark(s, level);
        return error_trace(r);
}

/* ---- flows ---- */

int queue_flow(Sched *s, const SchedFlowKey *key, SchedFlow **ret_flow) {
        MapNode *node = map_find(&s->flows, key, sizeof(*key));
        SchedFlow *f = node ? container_of(node, SchedFlow, node) : NULL;
        int r;

        if (f) {
                f->n_tasks++;
                *ret_flow = f;
                return 0;
        }
        f = calloc(1, sizeof(*f));
        if (!f)
                return error_origin(-ENOMEM);
        f->sched = s;
        f->key = *key;
        f->ready = (Heap)HEAP_INIT(task_less);
        f->n_tasks = 1;
        r = share_ref(s, &s->levels[key->priority], key->principal, &f->share);
        if (!r) {
                r = map_insert(&s->flows, &f->node, &f->key, sizeof(f->key));
                if (r)
                        share_unref(f->share);
        }
        if (r) {
                free(f);
                return error_fold(r);
        }
        key->principal->n_refs++;
        if (key->group)
                key->group->n_refs++;
        if (key->budget)
                key->budget->n_refs++;
        *ret_flow = f;
        return 0;
}

void queue_flow_release(SchedFlow *f) {
        Sched *s = f->sched;

        if (--f->n_tasks)
                return;
        list_unlink(&f->parked);
        heap_deinit(&f->ready);
        map_remove(&s->flows, &f->node);
        share_unref(f->share);
        limit_unref(s, f->key.principal);
        limit_unref(s, f->key.group);
        budget_unref(s, f->key.budget);
        free(f);
}

/* Puts the flow where its tasks and its obstacle say. */
static int flow_place(SchedFlow *f) {
        int r = 0;

        if (!f->ready.n || f->block != SCHED_BLOCK_NONE)
                heap_remove(&f->share->flows, &f->heap);
        else if (heap_contains(&f->heap))
                heap_fix(&f->share->flows, &f->heap);
        else
                r = heap_push(&f->share->flows, &f->heap);
        r = r ?: share_place(f->sched, f->share);
        if (r)
                heap_remove(&f->share->flows, &f->heap);
        return error_trace(r);
}

void queue_park(SchedFlow *f, List *where, SchedBlock block, const SchedLimit *blocker) {
        f->block = block;
        f->blocker = blocker;
        list_link_tail(where, &f->parked);
        if (flow_place(f))
                log_error("no memory to park a flow of tasks");
}

void queue_unpark(Sched *s, List *parked) {
        list_for_each_safe(i, parked) {
                SchedFlow *f = container_of(i, SchedFlow, parked);
                list_unlink(&f->parked);
                f->block = SCHED_BLOCK_NONE;
                f->blocker = NULL;
                if (flow_place(f)) {
                        log_error("no memory to look at a flow of tasks again: in a second");
                        queue_park(f, parked, SCHED_BLOCK_LIMIT, NULL);
                        sched_retry_later(s);
                        return;
                }
        }
        if (!s->stopping)
                sched_kick(s);
}

int queue_push(SchedTask *t) {
        SchedFlow *f = t->flow;
        int r;

        r = heap_push(&f->ready, &t->heap);
        if (r)
                return error_trace(r);
        r = flow_place(f);
        if (r)
                heap_remove(&f->ready, &t->heap);
        return error_trace(r);
}

void queue_remove(SchedTask *t) {
        SchedFlow *f = t->flow;

        if (!heap_contains(&t->heap))
                return;
        /* Taking things out of heaps needs no memory, and the order changes only where it was the first. */
        heap_remove(&f->ready, &t->heap);
        if (!f->ready.n) {
                heap_remove(&f->share->flows, &f->heap);
                resource_forget(f);
        } else
                heap_fix(&f->share->flows, &f->heap);
        if (share_place(f->sched, f->share))
                log_error("no memory to order the queue");
}

/* ---- picking ---- */

/* The agent that takes the flow's first task; NULL: block and blocker say why not. */
static SchedAgent *flow_agent(SchedFlow *f, SchedBlock *ret_block, const SchedLimit **ret_blocker) {
        SchedTask *head = container_of(heap_top(&f->ready), SchedTask, heap);
        SchedAgent *second = NULL;
        Sched *s = f->sched;

        *ret_block = SCHED_BLOCK_NONE;
        for (size_t i = 0; i < s->n_agents; i++) {
                SchedAgent *a = &s->agents[i];
                SchedBlock block;
                if (!(f->key.agents & agent_bit(s, a)))
                        continue;
                block = agent_block(a);
                if (block != SCHED_BLOCK_NONE) {
                        if (*ret_block == SCHED_BLOCK_NONE || *ret_block == SCHED_BLOCK_NO_AGENT) {
                                *ret_block = block;
                                *ret_blocker = a->limit;
                        }
                } else if (head->avoid == i + 1)
                        second = a;
                else
                        return a;
        }
        return second;
}

/* NULL: it was parked. */
static SchedAgent *flow_try(SchedFlow *f) {
        const SchedLimit *blocker = NULL;
        SchedLimit *limits[] = { f->key.principal, f->key.group };
        SchedBlock block;
        SchedAgent *a;

        for (size_t i = 0; i < ELEMENTSOF(limits); i++) {
                block = limits[i] ? limit_block(limits[i]) : SCHED_BLOCK_NONE;
                if (block != SCHED_BLOCK_NONE) {
                        resource_forget(f);
                        queue_park(f, &limits[i]->parked, block, limits[i]);
                        return NULL;
                }
        }
        a = flow_agent(f, &block, &blocker);
        if (a && resource_block(f) != SCHED_BLOCK_NONE) {
                queue_park(f, &f->sched->parked_resources, SCHED_BLOCK_RESOURCES, NULL);
                return NULL;
        }
        if (!a) {
                resource_forget(f);
                bool one = (f->key.agents & (f->key.agents - 1)) == 0;
                SchedLimit *limit = (SchedLimit *)blocker;
                queue_park(f, one && limit ? &limit->parked : &f->sched->parked_any, block, blocker);
        }
        return a;
}

static SchedLevel *level_best(Sched *s) {
        SchedLevel *best = NULL;
        int64_t best_rank = INT64_MIN;

        for (size_t w = 0; w < ELEMENTSOF(s->busy); w++)
                for (uint64_t bits = s->busy[w]; bits; bits &= bits - 1) {
                        size_t priority = w * 64 + (size_t)__builtin_ctzll(bits);
                        SchedLevel *level = &s->levels[priority];
                        const SchedShare *oldest = container_of(heap_top(&level->by_age), SchedShare, by_age);
                        /* The time now is the same for all: it needs no adding. */
                        int64_t rank = (int64_t)(priority * SCHED_AGE_US) - (int64_t)share_order(oldest);
                        if (rank >= best_rank) {
                                best = level;
                                best_rank = rank;
                        }
                }
        return best;
}

SchedTask *queue_pick(Sched *s, SchedAgent **ret_agent) {
        SchedLevel *level;

        if (limit_block(s->global) != SCHED_BLOCK_NONE)
                return NULL;
        while ((level = level_best(s))) {
                SchedShare *share = container_of(heap_top(&level->by_pass), SchedShare, by_pass);
                SchedFlow *f = container_of(heap_top(&share->flows), SchedFlow, heap);
                SchedAgent *a = flow_try(f);
                if (a) {
                        *ret_agent = a;
                        return container_of(heap_top(&f->ready), SchedTask, heap);
                }
        }
        return NULL;
}

void queue_charge(SchedTask *t) {
        SchedShare *share = t->flow->share;
        SchedLevel *level = share->level;

        level->pass = share->pass;
        share->pass += 1.0 / limit_weight(share->principal);
        heap_fix(&level->by_pass, &share->by_pass);
}

/*
 * budget: tokens and cost that a batch may use in all, and a principal or an agent in a day (UTC).
 *
 * What an attempt may need is reserved when it starts and replaced by what it did use when it ends: a hundred tasks
 * that start at once don't each see the same money. A task that says max_tokens or max_cost reserves that; another
 * what attempts under this budget have used on average, or BUDGET_GUESS_… while there was none. The last of a budget
 * goes to whoever comes first: its run may use what is left, and no more.
 *
 * What was used is in the store already (the sums of batches and days); reservations belong to the runs, and are made
 * again with them after a restart.
 */

#include <inttypes.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "sched/internal.h"

#define BUDGET_GUESS_TOKENS     20000
#define BUDGET_GUESS_MICROUSD   100000
#define DAY_US                  (24 * 3600 * USEC_PER_SEC)

static uint64_t known(int64_t v) {
        return v > 0 ? (uint64_t)v : 0;
}

SchedSpending spending_of(const StoreUsage *u) {
        /* Cached input is a part of input, reasoning one of output. */
        return (SchedSpending){ .tokens = known(u->input_tokens) + known(u->output_tokens),
                                .microusd = known(u->cost_microusd) };
}

static bool is_set(const SchedBudget *b) {
        return b && (b->max.tokens || b->max.microusd);
}

/* ---- batches ---- */

int budget_of_batch(Sched *s, const Id *id, SchedBudget **ret_budget) {
        _cleanup_(store_batch_freep) StoreBatch *batch = NULL;
        MapNode *node = map_find(&s->budgets, id->bytes, sizeof(id->bytes));
        uint64_t counts[_TASK_STATE_N];
        StoreUsage usage;
        SchedBudget *b;
        int r;

        *ret_budget = node ? container_of(node, SchedBudget, node) : NULL;
        /* The tasks of a batch come together: the last one without a budget is remembered. */
        if (node || id_is_null(id) || id_equal(id, &s->free_batch))
                return 0;
        r = store_batch_load(s->store, id, &batch);
        if (r)
                return error_fold(r);
        if (!batch->max_tokens && !batch->max_cost_microusd) {
                s->free_batch = *id;
                return 0;
        }
        r = store_batch_count(s->store, id, counts, &usage);
        if (r)
                return error_fold(r);
        b = calloc(1, sizeof(*b));
        if (!b)
                return error_origin(-ENOMEM);
        b->id = *id;
        b->max = (SchedSpending){ batch->max_tokens, batch->max_cost_microusd };
        b->spent = spending_of(&usage);
        list_init(&b->parked);
        r = map_insert(&s->budgets, &b->node, b->id.bytes, sizeof(b->id.bytes));
        if (r) {
                free(b);
                return error_fold(r);
        }
        *ret_budget = b;
        return 0;
}

/* Flows hold it; the last one lets it go. */
void budget_unref(Sched *s, SchedBudget *b) {
        if (!b || --b->n_refs)
                return;
        map_remove(&s->budgets, &b->node);
        free(b);
}

/* ---- days ---- */

static int add_day(const char *key, const StoreUsage *sum, uint64_t n_attempts, void *userdata) {
        void **args = userdata;
        SchedBudget *b = args[0];

        if (streq(key, args[1])) {
                b->spent = spending_of(sum);
                b->n_ended = n_attempts;
        }
        return 0;
}

/* The limit's budget of today; NULL: none is set. */
static int budget_of_day(Sched *s, SchedLimit *l, SchedBudget **ret_budget) {
        uint32_t today = (uint32_t)(clock_realtime_us() / DAY_US);
        SchedBudget *b = &l->budget;
        int r;

        *ret_budget = NULL;
        b->max = (SchedSpending){
                l->set && l->set->max_tokens_day > 0 ? (uint64_t)l->set->max_tokens_day : 0,
                l->set && l->set->max_cost_microusd_day > 0 ? (uint64_t)l->set->max_cost_microusd_day : 0,
        };
        if (!is_set(b))
                return 0;
        if (b->day != today) {
                b->spent = (SchedSpending){};
                b->n_ended = 0;
                r = store_usage_list(s->store, l->kind == SCHED_AGENT ? STORE_BY_AGENT : STORE_BY_PRINCIPAL, today,
                                     today, NULL, add_day, (void *[]){ b, l->name });
                if (r)
                        return error_fold(r);
                b->day = today;
        }
        *ret_budget = b;
        return 0;
}

uint64_t budget_tomorrow_us(void) {
        return (clock_realtime_us() / DAY_US + 1) * DAY_US;
}

/* ---- what a run asks of one ---- */

static uint64_t ask_of(uint64_t max, uint64_t spent, uint64_t n_ended, uint64_t task_max, uint64_t guess) {
        return !max ? 0 : task_max ?: n_ended ? MAX(spent / n_ended, UINT64_C(1)) : guess;
}

static uint64_t left_of(uint64_t max, uint64_t spent, uint64_t reserved) {
        return max > spent + reserved ? max - spent - reserved : 0;
}

typedef enum Room {
        ROOM_ENOUGH,
        ROOM_LATER,                     /* when a run under it ends */
        ROOM_NEVER,                     /* it is used up */
} Room;

static Room room_in(uint64_t max, uint64_t spent, uint64_t reserved, uint64_t *ask) {
        uint64_t left = left_of(max, spent, reserved);

        if (!max)
                return ROOM_ENOUGH;
        if (spent >= max)
                return reserved ? ROOM_LATER : ROOM_NEVER;
        if (*ask <= left)
                return ROOM_ENOUGH;
        if (reserved)
                return ROOM_LATER;
        *ask = left;
        return ROOM_ENOUGH;
}

static uint64_t may(uint64_t may_before, uint64_t max, uint64_t asked, uint64_t left) {
        return max ? MIN(may_before ?: UINT64_MAX, asked + left) : may_before;
}

/* It may use what it has reserved and what is left beside it. */
static void charge_take(SchedCharge *charge, size_t i, SchedBudget *b, const SchedSpending *asked) {
        charge->budgets[i] = b;
        charge->reserved[i] = *asked;
        b->reserved.tokens += asked->tokens;
        b->reserved.microusd += asked->microusd;
        charge->may.tokens = may(charge->may.tokens, b->max.tokens, asked->tokens,
                                 left_of(b->max.tokens, b->spent.tokens, b->reserved.tokens));
        charge->may.microusd = may(charge->may.microusd, b->max.microusd, asked->microusd,
                                   left_of(b->max.microusd, b->spent.microusd, b->reserved.microusd));
}

int budget_try(Sched *s, const StoreTask *record, SchedAgent *agent, SchedFlow *flow, SchedCharge *charge,
               SchedBudgetBlock *ret_block) {
        SchedBudget *budgets[BUDGETS] = { flow->key.budget };
        SchedSpending asked[BUDGETS] = {};
        int r;

        *ret_block = (SchedBudgetBlock){};
        r = budget_of_day(s, flow->key.principal, &budgets[1]);
        r = r ?: budget_of_day(s, agent->limit, &budgets[2]);
        if (r)
                return error_trace(r);
        for (size_t i = 0; i < BUDGETS; i++) {
                SchedBudget *b = budgets[i];
                Room room;
                if (!is_set(b))
                        continue;
                asked[i].tokens = ask_of(b->max.tokens, b->spent.tokens, b->n_ended, record->max_tokens,
                                         BUDGET_GUESS_TOKENS);
                asked[i].microusd = ask_of(b->max.microusd, b->spent.microusd, b->n_ended, record->max_cost_microusd,
                                           BUDGET_GUESS_MICROUSD);
                room = MAX(room_in(b->max.tokens, b->spent.tokens, b->reserved.tokens, &asked[i].tokens),
                           room_in(b->max.microusd, b->spent.microusd, b->reserved.microusd, &asked[i].microusd));
                if (room != ROOM_ENOUGH) {
                        *ret_block = (SchedBudgetBlock){ b, .used_up = room == ROOM_NEVER, .of_batch = i == 0 };
                        return 0;
                }
        }
        *charge = (SchedCharge){ .may = { record->max_tokens, record->max_cost_microusd } };
        for (size_t i = 0; i < BUDGETS; i++)
                if (is_set(budgets[i]))
                        charge_take(charge, i, budgets[i], &asked[i]);
        return 0;
}

void budget_spend(SchedCharge *charge, const StoreUsage *usage) {
        SchedSpending used = spending_of(usage);

        for (size_t i = 0; i < BUDGETS; i++)
                if (charge->budgets[i]) {
                        charge->budgets[i]->spent.tokens += used.tokens;
                        charge->budgets[i]->spent.microusd += used.microusd;
                        charge->budgets[i]->n_ended++;
                }
}

void budget_release(Sched *s, SchedCharge *charge) {
        for (size_t i = 0; i < BUDGETS; i++) {
                SchedBudget *b = charge->budgets[i];
                if (!b)
                        continue;
                b->reserved.tokens -= charge->reserved[i].tokens;
                b->reserved.microusd -= charge->reserved[i].microusd;
                queue_unpark(s, &b->parked);
        }
        *charge = (SchedCharge){};
}

bool budget_is_over(const SchedCharge *charge, const StoreUsage *before, const StoreUsage *now) {
        SchedSpending a = spending_of(before), b = spending_of(now);

        return (charge->may.tokens && a.tokens + b.tokens > charge->may.tokens) ||
               (charge->may.microusd && a.microusd + b.microusd > charge->may.microusd);
}

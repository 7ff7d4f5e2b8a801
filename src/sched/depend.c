/*
 * depend: what follows the end of a task for others.
 *
 * The store has the dependencies; a blocked task is judged anew from all of them each time that one ends, so nothing is
 * counted and a restart only has to judge again.
 */

#include <stdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "sched/internal.h"

typedef struct Judgement {
        unsigned n_pending, n_unmet;
        Id unmet;
        TaskState state;                /* of the one that is unmet */
} Judgement;

static int judge(const Id *on, TaskState state, StoreCondition condition, void *userdata) {
        Judgement *j = userdata;
        bool met = condition == STORE_ON_FINISH || (condition == STORE_ON_SUCCESS) == (state == TASK_SUCCEEDED);

        if (!task_state_is_final(state))
                j->n_pending++;
        else if (!met) {
                j->n_unmet++;
                j->unmet = *on;
                j->state = state;
        }
        return 0;
}

int depend_judge(Sched *s, const StoreTask *record, TaskEvent *ret_event, char ret_detail[static SCHED_DETAIL_MAX]) {
        char id[ID_TEXT_MAX];
        Judgement j = {};
        int r;

        r = store_dependency_list(s->store, &record->id, judge, &j);
        if (r)
                return error_fold(r);
        if (j.n_unmet && record->on_unmet != STORE_UNMET_RUN) {
                id_format(&j.unmet, id);
                snprintf(ret_detail, SCHED_DETAIL_MAX, "task %s, which it waited for, has ended: %s", id,
                         task_state_name(j.state));
                *ret_event = TASK_EVENT_CANCEL;
        } else if (j.n_pending)
                *ret_event = TASK_EVENT_BLOCK;
        else
                *ret_event = record->not_before_us > clock_realtime_us() ? TASK_EVENT_DELAY : TASK_EVENT_DUE;
        return 0;
}

/* Judges a blocked task and moves it. */
static int depend_move(Sched *s, SchedTask *t) {
        _cleanup_(store_task_freep) StoreTask *record = NULL;
        char detail[SCHED_DETAIL_MAX];
        TaskEvent event = TASK_EVENT_BLOCK;
        int r, e;

        r = store_begin(s->store);
        if (r)
                return r;
        r = store_task_load(s->store, &t->node.id, 0, &record);
        r = r ?: depend_judge(s, record, &event, detail);
        if (!r && event != TASK_EVENT_BLOCK)
                r = sched_write_state(s, record, event, event == TASK_EVENT_CANCEL ? "dependency" : NULL,
                                      event == TASK_EVENT_CANCEL ? detail : NULL);
        e = store_end(s->store, r == 0);
        r = r ?: e;
        if (r || event == TASK_EVENT_BLOCK)
                return r;
        if (event == TASK_EVENT_CANCEL)
                return error_trace(task_settle_when_durable(t, TASK_CANCELLED));
        /* Whether this write is durable makes no difference: after a crash before it, it is judged the same again. */
        sched_settle(t, record->state, record->not_before_us);
        return 0;
}

/* Blocked, and no end of it is on the way to the disk. */
static bool depend_may_move(SchedTask *t) {
        if (t->state != TASK_BLOCKED || t->cancel_requested || (t->extra && t->extra->next))
                return false;
        t->judge = t->judge || t->unsubmitted;
        return !t->unsubmitted;
}

void depend_submitted(SchedTask *t) {
        Sched *s = t->flow->sched;

        if (!t->judge)
                return;
        t->judge = false;
        if (depend_may_move(t) && depend_move(s, t)) {
                s->depend_again = true;
                sched_retry_later(s);
        }
}

#define DEPEND_TURN 256                 /* judged between two looks at the sockets */

static int add_dependant(const Id *task, StoreCondition condition, void *userdata) {
        return id_list_add(userdata, task);
}

static int add_loser(const StoreTask *task, void *userdata) {
        return task_state_is_final(task->state) ? 0 : id_list_add(userdata, &task->id);
}

static int cancel_if_live(Sched *s, const Id *id) {
        int r, e;

        r = store_begin(s->store);
        if (r)
                return r;
        r = sched_cancel(s, id);
        e = store_end(s->store, r == 0);
        return r == SCHED_E_FINAL ? 0 : r ?: e;
}

/* The first of a set to succeed ends the others. */
static int depend_first(Sched *s, const Id *id) {
        _cleanup_(store_task_freep) StoreTask *record = NULL;
        _cleanup_(store_batch_freep) StoreBatch *batch = NULL;
        IdList losers = {};
        int r;

        r = store_task_load(s->store, id, 0, &record);
        r = r ?: store_batch_load(s->store, &record->batch, &batch);
        if (r || batch->select != STORE_SELECT_FIRST)
                return r;
        r = store_batch_task_list(s->store, &batch->id, NULL, SIZE_MAX, add_loser, &losers);
        for (size_t i = 0; i < losers.n && !r; i++)
                r = cancel_if_live(s, &losers.ids[i]);
        free(losers.ids);
        return r;
}

/* A few at a time: thousands may wait for one. */
void depend_turn(Sched *s) {
        int r = 0;

        for (size_t n = 0; n < DEPEND_TURN && s->dependants.n && !r; n++) {
                SchedTask *t = task_find(s, &s->dependants.ids[s->dependants.n - 1]);
                r = t && depend_may_move(t) ? depend_move(s, t) : 0;
                s->dependants.n -= r == 0;
        }
        if (!s->dependants.n) {
                free(s->dependants.ids);
                s->dependants = (IdList){};
        }
        if (r) {
                s->depend_again = true;
                sched_retry_later(s);
        } else if (s->dependants.n && !s->stopping)
                defer_schedule(&s->depend);
}

void depend_ended(Sched *s, const Id *id, TaskState state, bool in_batch) {
        int r;

        if (s->stopping)
                return;
        r = store_dependant_list(s->store, id, add_dependant, &s->dependants);
        if (s->dependants.n)
                defer_schedule(&s->depend);
        if (!r && in_batch && state == TASK_SUCCEEDED)
                r = depend_first(s, id);
        if (r) {
                s->depend_again = true;
                sched_retry_later(s);
        }
}

int depend_is_lost(Sched *s, const StoreTask *record, bool *ret_lost) {
        _cleanup_(store_batch_freep) StoreBatch *batch = NULL;
        uint64_t counts[_TASK_STATE_N];
        StoreUsage usage;
        int r;

        *ret_lost = false;
        if (id_is_null(&record->batch))
                return 0;
        r = store_batch_load(s->store, &record->batch, &batch);
        if (r || batch->select != STORE_SELECT_FIRST)
                return error_fold(r);
        r = store_batch_count(s->store, &record->batch, counts, &usage);
        if (r)
                return error_fold(r);
        *ret_lost = counts[TASK_SUCCEEDED] > 0;
        return 0;
}

static int add_if_lost(Sched *s, const Id *id, IdList *losers) {
        _cleanup_(store_task_freep) StoreTask *record = NULL;
        bool lost = false;
        int r;

        r = store_task_load(s->store, id, 0, &record);
        r = r ?: depend_is_lost(s, record, &lost);
        return r || !lost ? r : id_list_add(losers, id);
}

int depend_recover(Sched *s) {
        IdList blocked = {}, losers = {};
        int r = 0;

        s->depend_again = false;
        idmap_for_each(i, &s->tasks) {
                SchedTask *t = container_of(i, SchedTask, node);
                /* Those that wait are looked at when it is their turn: there may be a million. */
                if (t->run && t->in_batch && !t->cancel_requested)
                        r = r ?: add_if_lost(s, &i->id, &losers);
                if (depend_may_move(t))
                        r = r ?: id_list_add(&blocked, &i->id);
        }
        for (size_t i = 0; i < blocked.n && !r; i++)
                r = depend_move(s, task_find(s, &blocked.ids[i]));
        for (size_t i = 0; i < losers.n && !r; i++)
                r = cancel_if_live(s, &losers.ids[i]);
        free(blocked.ids);
        free(losers.ids);
        return r;
}

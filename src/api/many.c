/*
 * many: what is done to many tasks at once: POST /batches/{id}/cancel and /retry, POST /tasks/cancel. They go on from
 * tick to tick, in requests to the store that each stand for themselves, and answer when the last is durable: a crash
 * in between, or a client that goes, leaves some done and some not, and asking again does the rest.
 */

#include <inttypes.h>
#include <stdio.h>

#include "api/batch.h"
#include "base/error.h"
#include "sched/state.h"

#define MANY_PAGE 50                    /* tasks looked at in one request to the store: a turn */

/* The live states, in the order in which a task goes through them: none slips by between two of them. */
static const TaskState live_states[] = { TASK_BLOCKED, TASK_HELD, TASK_DELAYED, TASK_QUEUED, TASK_RUNNING };

typedef struct ManyJob {
        StoreBatch *batch;              /* its tasks; NULL: those that the filter lets through */
        StoreTaskFilter filter;
        Id newest;                      /* made when it began: what is submitted later is left alone */
        char *principal, *agent, *group, *label;
        TaskState state;                /* the only one asked for; 0: all that are live */
        size_t i_state;
        Id at;                          /* where the next page begins */
        uint64_t n_round;               /* cancelled since the first state */
        uint64_t n;                     /* done in all */
        Id *requeued;
        size_t n_requeued, i_requeued;
        bool all_seen;
        int refused;                    /* SCHED_E_* that ended a retry */
        char detail[SCHED_DETAIL_MAX];
        /* one page */
        Request *request;
        Id ids[MANY_PAGE];
        size_t n_ids, n_seen;
        bool retry;
} ManyJob;

static void many_free(void *p) {
        ManyJob *j = p;

        if (!j)
                return;
        store_batch_free(j->batch);
        free(j->principal);
        free(j->agent);
        free(j->group);
        free(j->label);
        free(j->requeued);
        free(j);
}

/* What is requeued is still to be queued. */
static bool many_stop(void *p) {
        ManyJob *j = p;

        j->all_seen = true;
        return j->i_requeued == j->n_requeued;
}

static ManyJob *many_new(Request *q) {
        ManyJob *j = calloc(1, sizeof(*j));

        if (!j)
                return NULL;
        j->request = q;
        q->job = j;
        q->job_free = many_free;
        q->job_stop = many_stop;
        return j;
}

static int add_task(const StoreTask *task, void *userdata) {
        ManyJob *j = userdata;
        bool wanted = j->retry ? task_transition(task->state, TASK_EVENT_RETRY)
                               : !task_state_is_final(task->state) && !task->cancel_requested;

        j->n_seen++;
        j->at = task->id;
        if (wanted && !api_batch_is_hidden(j->request->api, &task->batch))
                j->ids[j->n_ids++] = task->id;
        return 0;
}

static void many_charge(const ManyJob *j, Slice *slice) {
        slice->left -= MIN(slice->left, (unsigned)MAX(j->n_seen, (size_t)1));
}

/*
 * Each in a request of its own: the scheduler has taken a task out of its queue when sched_cancel() returns, and would
 * not hear that another one's failure has undone the write.
 */
static int cancel_ids(Request *q, ManyJob *j) {
        int r, end;

        for (size_t i = 0; i < j->n_ids; i++) {
                r = store_begin(q->api->store);
                if (r)
                        return r;
                r = sched_cancel(q->api->sched, &j->ids[i]);
                end = store_end(q->api->store, r == 0);
                if (r && r != SCHED_E_FINAL)
                        return r == SCHED_E_UNAVAILABLE ? STORE_E_FAILED : error_fold(r);
                if (end)
                        return end;
                j->n += !r;
                j->n_round += !r;
        }
        return 0;
}

/* The next page of the batch's tasks. */
static int list_batch(Request *q, ManyJob *j) {
        int r;

        j->n_ids = j->n_seen = 0;
        r = store_batch_task_list(q->api->store, &j->batch->id, &j->at, MANY_PAGE, add_task, j);
        if (!r && j->n_seen < MANY_PAGE)
                j->all_seen = true;
        return r;
}

/* ---- cancelling a batch ---- */

static int cancel_batch_slice(Request *q, Slice *slice) {
        ManyJob *j = q->job;
        int r, end;

        r = store_begin(q->api->store);
        if (r)
                return r;
        if (!j->batch->cancel_requested) {
                j->batch->cancel_requested = true;
                r = store_batch_update(q->api->store, j->batch);
        }
        r = r ?: list_batch(q, j);
        end = store_end(q->api->store, r == 0);
        r = r ?: end;
        r = r ?: cancel_ids(q, j);
        if (r)
                return r;
        many_charge(j, slice);
        return j->all_seen ? batch_answer(q, j->batch) : 0;
}

static bool has_no_body(Request *q) {
        if (!buf_size(&q->body))
                return true;
        request_problem(q, 400, "", "expected no body");
        return false;
}

int batch_cancel(Request *q, StoreBatch *batch) {
        ManyJob *j = many_new(q);

        if (!j) {
                store_batch_free(batch);
                return error_origin(-ENOMEM);
        }
        j->batch = batch;
        request_start_job(q, cancel_batch_slice);
        return 0;
}

int api_batch_cancel(Request *q) {
        StoreBatch *batch;

        if (!has_no_body(q))
                return 0;
        batch = request_batch(q);
        return batch ? batch_cancel(q, batch) : 0;
}

/* ---- retrying a batch ---- */

static int requeue_ids(Request *q, ManyJob *j) {
        int r;

        for (size_t i = 0; i < j->n_ids; i++) {
                r = sched_requeue_among(q->api->sched, &j->ids[i], j->detail);
                if (r == SCHED_E_NOT_FINAL || r == SCHED_E_FINAL)
                        continue;
                if (r) {
                        j->refused = r;
                        j->all_seen = true;
                        return r < 0 ? r : 0;
                }
                j->requeued[j->n_requeued++] = j->ids[i];
        }
        return 0;
}

static int answer_retried(Request *q, ManyJob *j) {
        char detail[SCHED_DETAIL_MAX];
        int r;

        if (j->refused) {
                snprintf(detail, sizeof(detail), "%zu tasks run again, then: %.400s", j->n_requeued, j->detail);
                submit_problem(q, j->refused, "", detail);
                return 0;
        }
        r = buf_printf(&q->out, "{\"retried\":%zu}\n", j->n_requeued);
        if (r)
                return r;
        request_finish(q);
        return 0;
}

/* Written first, all of them, and then queued: each finds those that it comes after queued anew. */
static int retry_batch_slice(Request *q, Slice *slice) {
        ManyJob *j = q->job;
        size_t from = j->n_requeued;
        int r, end;

        if (!j->all_seen) {
                r = store_begin(q->api->store);
                if (r)
                        return r;
                if (j->batch->cancel_requested) {
                        j->batch->cancel_requested = false;
                        r = store_batch_update(q->api->store, j->batch);
                }
                r = r ?: list_batch(q, j);
                r = r ?: requeue_ids(q, j);
                end = store_end(q->api->store, r == 0);
                many_charge(j, slice);
                r = r ?: end;
                for (size_t i = from; r && i < j->n_requeued; i++)
                        sched_submitted_id(q->api->sched, &j->requeued[i], false);
                if (r) {
                        j->n_requeued = from;
                        j->all_seen = true;
                        j->refused = r == STORE_E_FULL || r == STORE_E_FAILED ? SCHED_E_UNAVAILABLE : error_fold(r);
                        snprintf(j->detail, sizeof(j->detail), "the store takes no writes");
                }
        }
        while (j->all_seen && slice_has_room(slice)) {
                if (j->i_requeued == j->n_requeued)
                        return j->refused < 0 ? j->refused : answer_retried(q, j);
                sched_submitted_id(q->api->sched, &j->requeued[j->i_requeued++], true);
        }
        return 0;
}

int api_batch_retry(Request *q) {
        _cleanup_(store_batch_freep) StoreBatch *batch = NULL;
        ManyJob *j;

        if (!has_no_body(q))
                return 0;
        batch = request_batch(q);
        if (!batch)
                return 0;
        j = many_new(q);
        if (!j)
                return error_origin(-ENOMEM);
        j->requeued = calloc(batch->n_tasks, sizeof(*j->requeued));
        if (!j->requeued)
                return error_origin(-ENOMEM);
        j->batch = steal_ptr(&batch);
        j->retry = true;
        request_start_job(q, retry_batch_slice);
        return 0;
}

/* ---- cancelling what a filter lets through ---- */

static int answer_cancelled(Request *q, const ManyJob *j) {
        int r;

        r = buf_printf(&q->out, "{\"cancelled\":%" PRIu64 "}\n", j->n);
        if (r)
                return r;
        request_finish(q);
        return 0;
}

/* One page of one state; rounds over the states until one finds nothing, since tasks move while it goes on. */
static int cancel_slice(Request *q, Slice *slice) {
        ManyJob *j = q->job;
        Id next = {};
        int r;

        j->n_ids = j->n_seen = 0;
        j->filter.state = j->state ?: live_states[j->i_state];
        j->filter.before = id_is_null(&j->at) ? j->newest : j->at;
        j->filter.limit = MANY_PAGE;
        r = store_task_list(q->api->store, &j->filter, add_task, j, &next);
        r = r ?: cancel_ids(q, j);
        if (r)
                return r;
        many_charge(j, slice);
        /* A short page that has a next one stopped among rows that the filter turns away. */
        if (!id_is_null(&next))
                j->at = next;
        else if (j->n_seen < MANY_PAGE) {
                j->at = (Id){};
                if (j->state || ++j->i_state == ELEMENTSOF(live_states)) {
                        if (!j->n_round)
                                return answer_cancelled(q, j);
                        j->i_state = 0;
                        j->n_round = 0;
                }
        }
        return 0;
}

static int copy(char **ret, const char *s) {
        *ret = s ? strdup(s) : NULL;
        return s && !*ret ? error_origin(-ENOMEM) : 0;
}

static int read_filter(ManyJob *j, json_object *document, JsonError *e) {
        JsonReader rd = json_reader(document, "", e);
        const char *state = NULL, *agent = NULL, *group = NULL, *label = NULL;
        bool all = false;
        char *equals;
        int r;

        (void)json_get_bool(&rd, "all", 0, &all);
        if (json_get_string(&rd, "state", 0, 1, TASK_NAME_MAX, &state, NULL)) {
                j->state = task_state_from_name(state);
                if (!j->state || task_state_is_final(j->state))
                        json_error_set(e, "/state", "expected a state of tasks that have not ended: queued, delayed, blocked, "
                                       "held or running");
        }
        (void)json_get_string(&rd, "agent", 0, 1, TASK_NAME_MAX, &agent, NULL);
        (void)json_get_string(&rd, "group", 0, 1, TASK_NAME_MAX, &group, NULL);
        if (json_get_string(&rd, "label", 0, 1, TASK_NAME_MAX + 1 + TASK_LABEL_VALUE_MAX, &label, NULL) &&
            !strchr(label, '='))
                json_error_set(e, "/label", "expected NAME=VALUE");
        if (!json_reader_end(&rd))
                return JSON_E_INVALID;
        if (all == (state || agent || group || label)) {
                json_error_set(e, all ? "/all" : "", "expected all: true, or at least one of state, agent, group and label");
                return JSON_E_INVALID;
        }
        r = copy(&j->agent, agent);
        r = r ?: copy(&j->group, group);
        r = r ?: copy(&j->label, label);
        if (r)
                return r;
        j->filter.agent = j->agent;
        j->filter.group = j->group;
        equals = j->label ? strchr(j->label, '=') : NULL;
        if (equals) {
                *equals = 0;
                j->filter.label_name = j->label;
                j->filter.label_value = equals + 1;
        }
        return 0;
}

int api_tasks_cancel(Request *q) {
        _cleanup_(json_putp) json_object *document = request_json(q);
        JsonError e = {};
        ManyJob *j;
        int r;

        if (!document)
                return 0;
        j = many_new(q);
        if (!j)
                return error_origin(-ENOMEM);
        r = read_filter(j, document, &e);
        if (r == JSON_E_INVALID) {
                request_json_problem(q, &e);
                return 0;
        }
        r = r ?: id_new(&j->newest);
        r = r ?: q->principal.role == ROLE_ADMIN ? 0 : copy(&j->principal, q->principal.name);
        if (r)
                return r;
        j->filter.principal = j->principal;
        request_start_job(q, cancel_slice);
        return 0;
}

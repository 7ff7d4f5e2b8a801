#pragma once

/*
 * batch: many tasks as one.
 *
 *   batch-split.c    the document, task by task
 *   batch-order.c    who waits for whom inside it
 *   batch-submit.c   its making
 *   batches.c        what there is of it to read
 *   many.c           cancelling and retrying many tasks
 *
 * Ten thousand tasks are a second's work, which no other client should have to wait for: each of these goes on from
 * tick to tick, in turns (jobs.c).
 */

#include "api/submit.h"
#include "base/clock.h"

typedef struct BatchOrder BatchOrder;
typedef struct BatchSpan BatchSpan;
typedef struct BatchSplit BatchSplit;

#define BATCH_TASKS_MAX         10000
#define BATCH_REST_MAX          KIB(64) /* of the document, without its tasks */
#define BATCH_LIST_LIMIT        50
#define BATCH_LIST_LIMIT_MAX    500

enum {
        _BATCH_E_SUCCESS,
        BATCH_E_MORE = 1000,            /* beyond the results of what is called: no task here, go on */
        BATCH_E_END,                    /* that was all */
        BATCH_E_CYCLE,
        BATCH_E_ANSWERED,
};

/* ---- batch-split.c: the document is never a tree as a whole ---- */

struct BatchSpan {
        size_t at, n;                   /* bytes of the body */
};

struct BatchSplit {
        const char *s;
        size_t n, i;
        size_t n_tasks;
        bool begun, has_tasks, in_tasks, after_member;
        Buf rest;                       /* the document without its tasks, whole at BATCH_E_END */
};

/* The body is the caller's, and stays. */
void batch_split_init(BatchSplit *split, const char *body, size_t n);
void batch_split_deinit(BatchSplit *split);
/* The next task's bytes, unchecked. BATCH_E_MORE, BATCH_E_END; JSON_E_INVALID with e set; -ENOMEM. */
int batch_split_next(BatchSplit *split, BatchSpan *ret_task, JsonError *e) _must_check_;

/* ---- batch-order.c ---- */

struct BatchOrder {
        uint32_t *edges;                /* what the tasks come after, task by task */
        uint32_t *ends;                 /* where a task's edges end */
        uint32_t *order;
        size_t n_edges, capacity, n;
};

int batch_order_init(BatchOrder *order, size_t n_max) _must_check_;
void batch_order_deinit(BatchOrder *order);
/* The next task comes after these. */
int batch_order_add(BatchOrder *order, const Submit *s) _must_check_;
/*
 * order->order: all tasks, each behind those that it comes after, else as they were given. BATCH_E_CYCLE: *ret_first
 * is the first that is in one, and ret_names tells it.
 */
int batch_order_sort(BatchOrder *order, uint32_t *ret_first, char ret_names[static SCHED_DETAIL_MAX]) _must_check_;

/* ---- batch-submit.c ---- */

/* POST /tasks with agents[]: s is read, and stays the caller's. */
int batch_submit_to_agents(Request *request, json_object *document, const Submit *s, const uint8_t *hash) _must_check_;

/* ---- batches.c ---- */

/* Answers with it; a set of several agents' tasks with those. */
int batch_answer(Request *request, const StoreBatch *batch) _must_check_;
/* with_tasks: whole, as members "tasks". */
int batch_append_json(Buf *out, Api *api, const StoreBatch *batch, bool with_tasks) _must_check_;
/* The batch {id}, where the caller may see it; the caller frees. NULL: a problem was sent. */
StoreBatch *request_batch(Request *request);
/* STORE_E_NOT_FOUND. */
int request_load_batch(Request *request, const Id *id, StoreBatch **ret_batch) _must_check_;

/* ---- many.c ---- */

/* Takes the batch, cancels its tasks and answers with it. */
int batch_cancel(Request *request, StoreBatch *batch) _must_check_;

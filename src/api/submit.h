#pragma once

/* submit: reading a task that a client submits, alone (POST /tasks) or in a batch (POST /batches). */

#include "api/internal.h"

typedef struct Dependency Dependency;
typedef struct Submit Submit;

#define TASK_CAPABILITIES_MAX   16
#define TASK_AGENTS_MAX         16      /* of one submission: each makes a task */
#define TASK_NAME_MAX           64      /* agents, capabilities, groups, labels' names */
#define TASK_MODEL_MAX          128
#define TASK_LABELS_MAX         32
#define TASK_LABEL_VALUE_MAX    256
#define TASK_METADATA_MAX       KIB(16) /* serialised */
#define TASK_WORKSPACE_MAX      4096    /* PATH_MAX */
#define TASK_TIMEOUT_S_MAX      (7 * 24 * 3600)
#define TASK_ATTEMPTS_MAX       20
#define TASK_BACKOFF_S_MAX      3600
#define TASK_GPUS_MAX           64
#define TASK_CPUS_MAX           1024
#define TASK_MEMORY_MAX         (UINT64_C(1) << 50)     /* more than a machine has: a slip of the pen */
#define TASK_COST_USD_MAX       1e9     /* in millionths still an integer that JSON carries */
#define TASK_FULL_RETRY_S       10      /* Retry-After of a full queue */

/* A task that this one comes after: in the store, or in the same batch. */
struct Dependency {
        Id id;
        uint32_t index;                 /* in the batch */
        bool in_batch;
};

struct Submit {
        StoreTask task;                 /* its strings are its own */
        const char *capabilities[TASK_CAPABILITIES_MAX + 1];    /* of the document, as agents[] */
        const char *agents[TASK_AGENTS_MAX];
        size_t n_agents;                /* 0: one task of one agent */
        StoreSelect select;
        Dependency after[SCHED_DEPENDENCIES_MAX];
        size_t n_after;
        StoreCondition on;              /* 0: not said */
};

/*
 * Reads the task at this pointer of a document ("" or "/tasks/17"); n_tasks: of its batch, 0 outside of one. Its id and
 * its batch are left to the caller. 0; JSON_E_INVALID with e set; -ENOMEM. Deinit in any case.
 */
int submit_read(Request *request, json_object *document, const char *pointer, size_t n_tasks, Submit *s, JsonError *e)
        _must_check_;
void submit_deinit(Submit *s);
/* Parts that a batch has, too. */
json_object *submit_read_metadata(JsonReader *rd, const char *pointer);
void submit_read_budget(JsonReader *rd, uint64_t *ret_tokens, uint64_t *ret_microusd);
/* For the scheduler, with the ids in after[]. */
SchedRequest submit_request(const Submit *s, Id after[static SCHED_DEPENDENCIES_MAX]);
/*
 * Where the ids of after[] are known: {{after.N.result}} and, in a batch, {{tasks.#N.result}} of the prompt become
 * {{tasks.ID.result}}, which the scheduler knows. JSON_E_INVALID with e set: a number that is not in after[].
 */
int submit_name_results(Submit *s, const char *pointer, JsonError *e) _must_check_;
/* The caller may only wait for tasks that it may see. JSON_E_INVALID with e set. */
int submit_check_after(Request *request, const Submit *s, const char *pointer, JsonError *e) _must_check_;
/* Answers with what a SCHED_E_* means; pointer: to the task in its document. */
void submit_problem(Request *request, int e, const char *pointer, const char *detail);

/* ---- idempotency.c ---- */

/* False: the request was answered (a replay, or another request under the same key), or failed with *ret_r. */
bool idempotency_begin(Request *request, uint8_t ret_hash[static AUTH_HASH_SIZE], int *ret_r);
/* In the begin/end of what the answer promises: the same request gets the same answer from now on. */
int idempotency_remember(Request *request, const uint8_t hash[static AUTH_HASH_SIZE]) _must_check_;

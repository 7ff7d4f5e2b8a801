#pragma once

/*
 * Store: an SQLCipher database in WAL mode with group commit.
 *
 * Group commit (DESIGN §3). All writes of a tick land in one open transaction; each request's writes are wrapped in a
 * savepoint (store_begin/store_end), so a request that fails undoes only itself. At the end of the tick a Defer COMMITs
 * (synchronous=NORMAL: WAL frames are written, nothing is synced) and submits an fdatasync of the WAL on the ring.
 * While a sync is in flight the next transaction stays open and gathers; it is committed when the sync has completed. A
 * StoreWait is called once the sync that covers everything written (or read) before store_wait() is durable; only then
 * may anything be acknowledged. A commit or sync that fails calls every waiter of the batch with an error and puts the
 * store into the failed state: writes are refused with STORE_E_FAILED from then on, /readyz says so, nothing is
 * retried.
 *
 * One connection does every read, write and checkpoint. Checkpoints are explicit and bounded and never sync on the
 * caller: a VFS shim skips xSync while one runs and the database file is synced on the ring before the next commit.
 *
 * Reads see the open transaction's writes: a reply built from a read waits with store_wait() too (at once where nothing
 * is pending).
 *
 * All strings in records that the store fills are owned by the record; free with the record's _free().
 */

#include "base/buf.h"
#include "base/id.h"
#include "base/list.h"
#include "base/macro.h"

typedef struct Reactor Reactor;
typedef struct Store Store;
typedef struct StoreAttempt StoreAttempt;
typedef struct StoreBatch StoreBatch;
typedef struct StoreEvent StoreEvent;
typedef struct StoreGate StoreGate;
typedef struct StoreIdempotency StoreIdempotency;
typedef struct StoreKey StoreKey;
typedef struct StoreLimit StoreLimit;
typedef struct StoreStats StoreStats;
typedef struct StoreTask StoreTask;
typedef struct StoreTaskFilter StoreTaskFilter;
typedef struct StoreUsage StoreUsage;
typedef struct StoreWait StoreWait;

#define STORE_KEY_SIZE 32               /* raw AES-256 key */
#define STORE_REFUSED_MAX 512
/*
 * How many rows that its filter turns away a list looks at in one call: some 4 ms of the reactor's time. A list that
 * stops there says where, and the next call goes on from that row.
 */
#define STORE_EXAMINE_MAX 1000
/* What a sum of tokens or of cost stops at: integers up to here survive JSON (RFC 8259 §6), and sums can't overflow. */
#define STORE_USAGE_MAX ((INT64_C(1) << 53) - 1)

enum {
        _STORE_E_SUCCESS,
        STORE_E_NOT_FOUND,
        STORE_E_EXISTS,                 /* unique key taken */
        STORE_E_CONFLICT,               /* the row is not in the state that the update expects */
        STORE_E_FULL,                   /* disk full or quota: this request is undone, the store goes on */
        STORE_E_FAILED,                 /* a commit or sync failed earlier: no more writes until a restart */
        STORE_E_REFUSED,                /* store_open(): wrong key, missing, truncated, corrupt, newer schema, in use */
};

/* Task states of DESIGN §4; stored as these numbers, never renumbered. */
typedef enum TaskState {
        TASK_QUEUED = 1,
        TASK_DELAYED = 2,
        TASK_RUNNING = 3,
        TASK_SUCCEEDED = 4,
        TASK_FAILED = 5,
        TASK_CANCELLED = 6,
        TASK_TIMED_OUT = 7,
        TASK_DEAD = 8,
        TASK_HELD = 9,
        TASK_BLOCKED = 10,
        TASK_REJECTED = 11,
        TASK_EXPIRED = 12,
        _TASK_STATE_N,
} TaskState;

const char *task_state_name(TaskState state);
/* 0 where there is no such state. */
TaskState task_state_from_name(const char *name);
static inline bool task_state_is_final(TaskState s) {
        return s != TASK_QUEUED && s != TASK_DELAYED && s != TASK_RUNNING && s != TASK_HELD && s != TASK_BLOCKED;
}

/* -1: unknown. Cost in millionths of a US dollar. */
struct StoreUsage {
        int64_t input_tokens;
        int64_t cached_input_tokens;
        int64_t output_tokens;
        int64_t reasoning_tokens;
        int64_t cost_microusd;
};
#define STORE_USAGE_UNKNOWN { -1, -1, -1, -1, -1 }

/* Which end of a task another one waits for; stored as these numbers. */
typedef enum StoreCondition {
        STORE_ON_SUCCESS = 1,
        STORE_ON_FINISH = 2,            /* any end */
        STORE_ON_FAILURE = 3,           /* any end but success */
} StoreCondition;

/* What becomes of a task whose dependency ended otherwise than it waits for; stored as these numbers. */
typedef enum StoreUnmet {
        STORE_UNMET_CANCEL = 0,
        STORE_UNMET_RUN = 1,
} StoreUnmet;

struct StoreTask {
        Id id;
        char *principal;                /* "uid:1000" or "key:NAME" */
        int64_t run_as_uid;             /* -1: the worker user */
        TaskState state;
        char *agent;                    /* the agent chosen (or asked for) */
        char *candidates;               /* names of the agents that may run it, space between; NULL: `agent` alone */
        char *model;                    /* may be NULL */
        uint32_t priority;              /* 0–100, higher first */
        char *prompt;                   /* NUL-terminated, n_prompt bytes; NULL where the load left it out */
        size_t n_prompt;
        char *workspace;                /* may be NULL */
        char *request;                  /* JSON of the other members as submitted: capabilities, metadata, labels… */
        Id batch;                       /* null: none. The batch is inserted before its tasks */
        char *group;                    /* of tasks that share a limit; may be NULL */
        uint32_t gpus;
        uint32_t cpus_milli;            /* thousandths of a CPU; 0: none asked for */
        uint64_t memory;                /* bytes; 0: none asked for */
        uint64_t max_tokens;            /* 0: no limit */
        uint64_t max_cost_microusd;     /* 0: no limit */
        uint64_t timeout_us;
        uint64_t not_before_us;         /* realtime; 0: at once. Also the end of a back-off */
        uint64_t deadline_us;           /* realtime; 0: none. It expires where it has not begun by then */
        uint32_t n_blockers;            /* dependencies that are not yet met */
        uint8_t on_unmet;               /* StoreUnmet */
        uint64_t created_us;            /* realtime */
        uint64_t updated_us;
        uint64_t ready_us;              /* realtime: when it last became queued; 0 never */
        uint64_t started_us;            /* first attempt; 0 none */
        uint64_t finished_us;           /* 0 none */
        uint32_t n_attempts;
        uint32_t max_attempts;
        uint64_t backoff_us;
        bool cancel_requested;
        char *reason;                   /* why it is in this state, a word such as "rate_limited"; may be NULL */
        char *detail;                   /* one sentence for people; may be NULL */
        char *result;                   /* final text; may be NULL */
        size_t n_result;
        bool result_truncated;
        StoreUsage usage;               /* sum over attempts */
        uint64_t last_seq;              /* sequence of its newest event */
};
StoreTask *store_task_free(StoreTask *task);
DEFINE_CLEANUP(StoreTask, store_task_free);

struct StoreAttempt {
        Id id;
        Id task_id;
        uint32_t number;                /* from 1 */
        char *agent;                    /* which ran it; NULL in a row older than this column: the task's */
        char *gpus;                     /* indexes of those it holds, space between; NULL: none */
        bool open;                      /* no end recorded yet */
        Id generation;                  /* the launcher's, null until SPAWNED */
        uint64_t started_us;            /* realtime: inserted */
        uint64_t execed_us;             /* realtime; 0 unknown */
        uint64_t finished_us;
        int32_t exit_code;              /* -1: none */
        int32_t signal;                 /* 0: none */
        /* "succeeded", "failed", "cancelled", "timed_out", "lost", "spawn_failed"; NULL while open */
        char *outcome;
        /* Classification: "authentication", "rate_limited", "quota", "permanent", "retryable"… */
        char *reason;
        char *detail;
        StoreUsage usage;
        uint64_t stdout_offset;         /* committed: what may be acknowledged */
        uint64_t stderr_offset;
        uint32_t stdout_flags;          /* the adapter's: e.g. in the middle of a cut line */
        uint32_t stderr_flags;
        uint64_t captured_bytes;        /* stored as events so far, against the capture limit */
        uint64_t memory_peak;           /* bytes, 0 unknown */
        uint64_t cpu_us;
        uint32_t oom_kills;
        char *session;                  /* the CLI's own session id; may be NULL */
};
StoreAttempt *store_attempt_free(StoreAttempt *attempt);
DEFINE_CLEANUP(StoreAttempt, store_attempt_free);

struct StoreEvent {
        uint64_t seq;                   /* per task, from 1, without gaps; set by append */
        uint32_t attempt;               /* number; 0: of the task itself */
        uint64_t at_us;                 /* realtime */
        /* "state", "text", "tool_call", "tool_result", "usage", "warning", "error", "result", "output", "truncated" */
        const char *type;
        const char *data;               /* JSON object */
        size_t n_data;
        const char *raw;                /* the CLI's own line; may be NULL */
        size_t n_raw;
        uint32_t stream;                /* 0, 1 stdout, 2 stderr */
};

struct StoreKey {
        Id id;
        char *name;                     /* unique among keys that are not revoked */
        uint8_t hash[32];               /* SHA-256 of the key's text */
        char *role;                     /* "submitter" or "admin" */
        int64_t run_as_uid;             /* -1: the worker user */
        uint64_t created_us;
        uint64_t revoked_us;            /* 0: valid */
        char *created_by;               /* principal */
};
StoreKey *store_key_free(StoreKey *key);
DEFINE_CLEANUP(StoreKey, store_key_free);

struct StoreIdempotency {
        char *principal;
        char *key;
        uint8_t request_hash[32];       /* SHA-256 of method, path and body */
        uint32_t status;
        char *body;
        size_t n_body;
        char *location;                 /* may be NULL */
        uint64_t expires_us;            /* realtime */
};
StoreIdempotency *store_idempotency_free(StoreIdempotency *i);
DEFINE_CLEANUP(StoreIdempotency, store_idempotency_free);

/* How the tasks of a batch belong together; stored as these numbers. */
typedef enum StoreSelect {
        STORE_SELECT_NONE = 0,          /* a plain batch */
        STORE_SELECT_ALL = 1,           /* one submission to several agents: all results are wanted */
        STORE_SELECT_FIRST = 2,         /* the first that succeeds ends the others */
} StoreSelect;

struct StoreBatch {
        Id id;
        char *principal;
        char *metadata;                 /* JSON object; may be NULL */
        uint32_t n_tasks;
        StoreSelect select;
        bool cancel_requested;
        bool refuse_all;                /* where a policy denies one of its tasks, it denies all */
        uint64_t max_tokens;            /* of all its tasks together; 0: no limit */
        uint64_t max_cost_microusd;     /* 0: no limit */
        uint64_t created_us;            /* realtime */
};
StoreBatch *store_batch_free(StoreBatch *batch);
DEFINE_CLEANUP(StoreBatch, store_batch_free);

/* A limit set at run time, which goes before the configuration's. -1: not set here. */
struct StoreLimit {
        char *kind;                     /* "global", "agent", "principal" or "group" */
        char *name;                     /* "" for global, and for nothing else */
        int64_t running;
        bool paused;
        uint32_t weight;                /* 0: the default */
        int64_t queued;
        int64_t max_tokens_day;
        int64_t max_cost_microusd_day;
        uint64_t updated_us;            /* realtime */
        char *updated_by;               /* principal */
};

/* An account that its provider has rate-limited: nothing that uses it is launched until then. */
struct StoreGate {
        char *account;
        uint64_t until_us;              /* realtime */
        char *reason;                   /* may be NULL */
};

struct StoreTaskFilter {
        const char *principal;          /* NULL: any */
        TaskState state;                /* 0: any */
        const char *agent;              /* NULL: any */
        const char *group;              /* NULL: any */
        const Id *batch;                /* NULL: any */
        const char *label_name;         /* NULL: any; matches request.labels[label_name] == label_value */
        const char *label_value;
        Id before;                      /* keyset: only ids smaller than this (newest first); null: from the newest */
        size_t limit;
};

struct StoreStats {
        uint64_t n_commits;
        uint64_t n_rows;                /* rows written */
        uint64_t n_syncs;
        uint64_t sync_us_last, sync_us_max, sync_us_total;
        uint64_t commit_us_max;
        uint64_t n_checkpoints;
        uint64_t checkpoint_us_max;     /* of the thread's time */
        uint64_t n_header_syncs;        /* of the WAL, on the thread: at its restart, and in checkpoints under load */
        uint64_t header_sync_us_max;
        uint64_t wal_bytes;
        uint64_t database_bytes;
        bool failed;
};

/* ---- opening ---- */

/*
 * Opens (or, in a directory that has never held one, creates) agent-router.db in dir. A marker file beside it says that
 * a database exists, so a missing or short one is refused untouched instead of being made anew. On STORE_E_REFUSED,
 * ret_refused says in one sentence what is wrong and what to do. The key is copied and wiped at close.
 */
int store_open(Store **ret_store, Reactor *reactor, const char *dir, const uint8_t key[static STORE_KEY_SIZE],
               char ret_refused[static STORE_REFUSED_MAX]) _must_check_;
/*
 * Flushes what is open, synchronously, checkpoints, closes. Waiters are called with -ECANCELED. A sync in flight is
 * waited for by running the reactor's ticks: not to be called from a callback of the reactor.
 */
Store *store_close(Store *store);
DEFINE_CLEANUP(Store, store_close);
const StoreStats *store_stats(Store *store);
/*
 * Reads the whole database: each page's HMAC, and the structure. Takes seconds a GiB: for tests and administration.
 * STORE_E_REFUSED, with the sentence.
 */
int store_verify(Store *store, char ret_refused[static STORE_REFUSED_MAX]) _must_check_;
/* NULL, or one sentence: why writes are refused. */
const char *store_failure(const Store *store);

/* ---- requests and durability ---- */

typedef void (*StoreWaitFn)(StoreWait *wait, int error);
struct StoreWait {
        ListLink link;
        Store *store;
        StoreWaitFn fn;
};

/* Starts a request's writes (a savepoint; opens the transaction). Not nested. STORE_E_FAILED. */
int store_begin(Store *store) _must_check_;
/* Keeps them (commit) or undoes them (!commit). Any store function that failed with a negative error undoes at end. */
int store_end(Store *store, bool commit) _must_check_;
/*
 * fn is called when all that was written or read up to now is durable: error 0, or -EIO where it will never be. Always
 * called from the reactor, never from inside store_wait(). The wait must stay until then, or be cancelled.
 */
void store_wait(Store *store, StoreWait *wait, StoreWaitFn fn);
void store_wait_cancel(StoreWait *wait);

/* ---- tasks (tasks.c) ---- */

int store_task_insert(Store *store, const StoreTask *task) _must_check_;
enum { STORE_TASK_PROMPT = 1, STORE_TASK_RESULT = 2 };
int store_task_load(Store *store, const Id *id, int parts, StoreTask **ret_task) _must_check_;
/*
 * Writes every member that can change after submit: state, agent, times, attempts, reason, result, usage… but not
 * last_seq, nor what a submit fixes (principal, prompt, workspace, request, batch, group, resources, on_unmet). A
 * result that is NULL leaves the stored one as it is (the task may have been loaded without it).
 */
int store_task_update(Store *store, const StoreTask *task) _must_check_;
/* fn returns 0 to go on; what else it returns is returned. Prompt and result are left out. fn must not write. */
typedef int (*StoreTaskFn)(const StoreTask *task, void *userdata);
/*
 * Newest first, at most filter->limit. Indexes answer for id, and for principal, state or batch; what else the filter
 * asks is checked row by row, and after STORE_EXAMINE_MAX rows that do not match, the call ends: ret_next is then the
 * `before` of the call that goes on, though fn may have been called for no row at all. It is the null id where the
 * limit was reached or there are no more rows. May be NULL where the filter has nothing to check row by row.
 */
int store_task_list(Store *store, const StoreTaskFilter *filter, StoreTaskFn fn, void *userdata, Id *ret_next)
        _must_check_;
/*
 * Every task that is not final, oldest first, with what a scheduler needs and nothing more: id, principal, state,
 * agent, candidates, priority, batch, group, gpus, cpus_milli, memory, max_tokens, max_cost_microusd, not_before_us,
 * deadline_us, n_blockers, created_us, ready_us, n_attempts and cancel_requested; all else is zero. The strings are
 * valid during the call of fn only. Ended tasks cost nothing here: an index of the live ones has all of it.
 */
int store_task_list_live(Store *store, StoreTaskFn fn, void *userdata) _must_check_;
/* Bytes of the prompt, which is not read for it. STORE_E_NOT_FOUND. */
int store_task_prompt_size(Store *store, const Id *id, size_t *ret_n) _must_check_;
/* counts[state] = tasks in that state. */
int store_task_count(Store *store, uint64_t counts[static _TASK_STATE_N]) _must_check_;

/* ---- batches (batches.c) ---- */

int store_batch_insert(Store *store, const StoreBatch *batch) _must_check_;
/* Writes metadata, n_tasks, cancel_requested and the limits. */
int store_batch_update(Store *store, const StoreBatch *batch) _must_check_;
int store_batch_load(Store *store, const Id *id, StoreBatch **ret_batch) _must_check_;
/*
 * Undoes a batch whose making was not finished, which n_tasks = 0 says: at most limit of its tasks with all that is
 * theirs, and after the last one the batch. STORE_E_CONFLICT where it is finished.
 */
int store_batch_discard(Store *store, const Id *id, size_t limit, bool *ret_done) _must_check_;
/* All such batches, at a start; *ret_n: how many there were. Has a begin/end of its own for each. */
int store_batch_discard_unfinished(Store *store, size_t *ret_n) _must_check_;
typedef int (*StoreBatchFn)(const StoreBatch *batch, void *userdata);
/* Newest first; principal NULL: anybody's; before NULL or null: from the newest, else only ids smaller than it. */
int store_batch_list(Store *store, const char *principal, const Id *before, size_t limit, StoreBatchFn fn,
                     void *userdata) _must_check_;
/* Of the batch's tasks: how many are in each state, and what they have used together. Kept as they change: no walk. */
int store_batch_count(Store *store, const Id *id, uint64_t counts[static _TASK_STATE_N], StoreUsage *ret_usage)
        _must_check_;
/*
 * Its tasks by id, which is the order of their making; after NULL or null: from the first, else only ids greater than
 * it. fn as for store_task_list().
 */
int store_batch_task_list(Store *store, const Id *id, const Id *after, size_t limit, StoreTaskFn fn, void *userdata)
        _must_check_;

/* ---- dependencies (dependencies.c) ---- */

/* `task` waits for `on`. STORE_E_NOT_FOUND: one of them; STORE_E_EXISTS: it does already. Cycles are the caller's. */
int store_dependency_insert(Store *store, const Id *task, const Id *on, StoreCondition condition) _must_check_;
typedef int (*StoreDependencyFn)(const Id *on, TaskState on_state, StoreCondition condition, void *userdata);
/* What the task waits for, or has waited for, oldest first. */
int store_dependency_list(Store *store, const Id *task, StoreDependencyFn fn, void *userdata) _must_check_;
typedef int (*StoreDependantFn)(const Id *task, StoreCondition condition, void *userdata);
/* The blocked tasks that wait for this one, oldest first. fn must not write. */
int store_dependant_list(Store *store, const Id *on, StoreDependantFn fn, void *userdata) _must_check_;

/* ---- limits and gates (limits.c) ---- */

/* Inserts or replaces the limit of this kind and name. -EINVAL for a kind or a number that there is not. */
int store_limit_put(Store *store, const StoreLimit *limit) _must_check_;
int store_limit_delete(Store *store, const char *kind, const char *name) _must_check_;
/* The strings are valid during the call only. */
typedef int (*StoreLimitFn)(const StoreLimit *limit, void *userdata);
/* By kind, then by name. */
int store_limit_list(Store *store, StoreLimitFn fn, void *userdata) _must_check_;

/* Inserts or replaces the account's gate. */
int store_gate_put(Store *store, const StoreGate *gate) _must_check_;
int store_gate_delete(Store *store, const char *account) _must_check_;
/* The strings are valid during the call only. */
typedef int (*StoreGateFn)(const StoreGate *gate, void *userdata);
/* By account; those whose time is over too. */
int store_gate_list(Store *store, StoreGateFn fn, void *userdata) _must_check_;

/* ---- usage (usage.c) ---- */

typedef enum StoreUsageBy {
        STORE_BY_PRINCIPAL,
        STORE_BY_AGENT,
        STORE_BY_BATCH,
        STORE_BY_DAY,
} StoreUsageBy;

/* Adds to the sums of that day (days since 1970-01-01, UTC). Unknowns add nothing. batch: NULL or null: none. */
int store_usage_add(Store *store, uint32_t day, const char *principal, const char *agent, const Id *batch,
                    const StoreUsage *usage, uint32_t n_attempts) _must_check_;
/* The key is a name, an id ("" for tasks in no batch) or a day as YYYY-MM-DD, valid during the call only. */
typedef int (*StoreUsageFn)(const char *key, const StoreUsage *sum, uint64_t n_attempts, void *userdata);
/* Sums from from_day to to_day, both included, by key; principal NULL: everybody's. */
int store_usage_list(Store *store, StoreUsageBy by, uint32_t from_day, uint32_t to_day, const char *principal,
                     StoreUsageFn fn, void *userdata) _must_check_;

/* ---- attempts (attempts.c) ---- */

int store_attempt_insert(Store *store, const StoreAttempt *attempt) _must_check_;
int store_attempt_update(Store *store, const StoreAttempt *attempt) _must_check_;
int store_attempt_load(Store *store, const Id *id, StoreAttempt **ret_attempt) _must_check_;
typedef int (*StoreAttemptFn)(const StoreAttempt *attempt, void *userdata);
int store_attempt_list(Store *store, const Id *task_id, StoreAttemptFn fn, void *userdata) _must_check_;
int store_attempt_list_open(Store *store, StoreAttemptFn fn, void *userdata) _must_check_;

/* ---- events (events.c) ---- */

/* Appends with the task's next sequence number, which it returns. */
int store_event_append(Store *store, const Id *task_id, const StoreEvent *event, uint64_t *ret_seq) _must_check_;
typedef int (*StoreEventFn)(const StoreEvent *event, void *userdata);
/* Events with seq > after, in order, at most limit. */
int store_event_list(Store *store, const Id *task_id, uint64_t after, size_t limit, StoreEventFn fn, void *userdata)
        _must_check_;

typedef int (*StoreEventAllFn)(uint64_t n, const Id *task_id, const StoreEvent *event, void *userdata);
/*
 * Events of all tasks (of the principal's, where it is not NULL) with a number greater than after, in the order of
 * their writing, at most limit. A call ends after STORE_EXAMINE_MAX events of others, too: ret_after is the `after` of
 * the call that goes on, and *ret_after == after where there was nothing to look at.
 */
int store_event_list_all(Store *store, uint64_t after, const char *principal, size_t limit, StoreEventAllFn fn,
                         void *userdata, uint64_t *ret_after) _must_check_;
/* The number of the newest event of all; 0 where there is none. */
int store_event_last(Store *store, uint64_t *ret_n) _must_check_;

/* ---- keys (keys.c) ---- */

int store_key_insert(Store *store, const StoreKey *key) _must_check_;
/* Valid keys only. */
int store_key_find(Store *store, const uint8_t hash[static 32], StoreKey **ret_key) _must_check_;
int store_key_revoke(Store *store, const char *name, uint64_t at_us) _must_check_;
typedef int (*StoreKeyFn)(const StoreKey *key, void *userdata);
int store_key_list(Store *store, StoreKeyFn fn, void *userdata) _must_check_;

/* ---- idempotency (idempotency.c) ---- */

int store_idempotency_insert(Store *store, const StoreIdempotency *i) _must_check_;
/* Unexpired only. */
int store_idempotency_find(Store *store, const char *principal, const char *key, uint64_t now_us,
                           StoreIdempotency **ret_i) _must_check_;
/* Removes at most limit expired rows. */
int store_idempotency_prune(Store *store, uint64_t now_us, size_t limit) _must_check_;

#pragma once

/*
 * Sched: which task runs next, on which agent, and the life of each attempt.
 *
 * The store is the truth; the scheduler keeps one small SchedTask for each task that is not final. Every step is
 * durable before it has an effect outside: an attempt is spawned once its row (and the task's, which may be in the same
 * commit) is, output is acknowledged to the launcher once its events are, a watcher is told once what it may read is.
 *
 *     sched_submit() → queue → pump() → attempt_insert → durable → launcher_spawn() (run.c)
 *     → output lines → adapter → events → durable → worker_acked(), watchers
 *     → exit → outcome → final state, delayed retry or another agent → durable → worker_forget(), watchers, dependants
 *
 * The order (queue.c). A task's rank is its priority, plus one point for every SCHED_AGE_US that it has waited; the
 * highest rank goes first. So a task of priority p is overtaken by tasks of priority q > p only where those came within
 * (q − p) × SCHED_AGE_US after it: at most 50 minutes for 0 against 100, however many come. Inside a priority,
 * principals take turns by weight (start-time fair queueing), and each principal's tasks run in the order of their
 * submission.
 *
 * What holds a task back is a limit (of all, its agent, its principal, its group), a pause, its agent's account that is
 * rate-limited (gate), its agent's failures (breaker), resources, or the machine's pressure: sched_waiting() tells.
 */

#include "adapter/adapter.h"
#include "base/heap.h"
#include "base/idmap.h"
#include "base/list.h"
#include "base/map.h"
#include "reactor/reactor.h"
#include "sched/pressure.h"
#include "sched/state.h"
#include "store/store.h"
#include "telemetry/metrics.h"
#include "worker/worker.h"

typedef struct Sched Sched;
typedef struct SchedAgentInfo SchedAgentInfo;
typedef struct SchedConfig SchedConfig;
typedef struct SchedGroupMatch SchedGroupMatch;
typedef struct SchedLimitConfig SchedLimitConfig;
typedef struct SchedLimitInfo SchedLimitInfo;
typedef struct SchedTask SchedTask;
typedef struct SchedWaiting SchedWaiting;
typedef struct SchedWatch SchedWatch;

#define SCHED_DETAIL_MAX 512
#define SCHED_AGENTS_MAX 64             /* candidates are a mask of 64 bits */
#define SCHED_GROUPS_MAX 1024           /* groups that have tasks or settings: each has memory of its own */
#define SCHED_AGE_US (30 * USEC_PER_SEC)
#define SCHED_NO_LIMIT UINT32_MAX
#define SCHED_DEPENDENCIES_MAX 64       /* of one task: their results may be asked for in its prompt */

enum {
        _SCHED_E_SUCCESS,
        SCHED_E_FULL,                   /* the queue as a whole is full: try again later */
        SCHED_E_QUOTA,                  /* this principal's share is used up */
        SCHED_E_PRESSURE,               /* the machine is short of memory, CPU or disk: try again later */
        SCHED_E_NO_AGENT,               /* no such agent, or none has the capabilities */
        SCHED_E_NOT_INSTALLED,          /* the agent's CLI is not there; detail says how to install it */
        SCHED_E_UNSUPPORTED,            /* the agent can't do what the task asks; nor has the machine such resources */
        SCHED_E_INVALID,                /* the task contradicts itself: detail says how */
        SCHED_E_NOT_FOUND,
        SCHED_E_FINAL,                  /* the task has already ended */
        SCHED_E_NOT_FINAL,              /* it has not ended: nothing to retry */
        SCHED_E_UNAVAILABLE,            /* the store takes no writes */
};

typedef enum SchedLimitKind {
        SCHED_GLOBAL,
        SCHED_AGENT,
        SCHED_PRINCIPAL,
        SCHED_GROUP,
        _SCHED_LIMIT_KIND_N,
} SchedLimitKind;

/* The configuration's part of a limit; what an administrator sets at run time goes before it. */
struct SchedLimitConfig {
        SchedLimitKind kind;
        char *name;                     /* "" for the global one */
        uint32_t running;               /* SCHED_NO_LIMIT: none */
        uint64_t queued;                /* 0: no limit of its own */
        uint32_t weight;                /* principals: share inside a priority; 0 is 1 */
        bool paused;
};

/* A task without a group whose labels have key: value joins this one; the first that matches does. */
struct SchedGroupMatch {
        const char *group;
        const char *key;
        const char *value;
};

struct SchedConfig {
        uint32_t running_max;           /* attempts at once, over all agents */
        uint64_t queued_max;            /* tasks that are not final */
        uint64_t queued_per_principal_max;
        uint32_t running_per_principal_max;     /* 0: no limit */
        uint64_t queued_bytes_max;      /* prompts of tasks that are not final; 0: no limit */
        const SchedLimitConfig *limits; /* the configuration's, which outlives the scheduler or sched_configure() */
        size_t n_limits;
        const SchedGroupMatch *matches; /* as long as limits */
        size_t n_matches;
        uint64_t timeout_us;            /* defaults for tasks that do not say */
        uint32_t max_attempts;
        uint64_t backoff_us;
        uint64_t capture_max;           /* bytes of output kept as events, an attempt */
        const char *const *require;     /* sandbox capabilities without which a spawn fails; NULL-terminated */
        uint64_t memory_max;
        uint32_t pids_max;
        uint32_t cpu_percent;
        uint32_t cpus_milli;            /* what tasks may reserve together; 0: no limit */
        uint64_t memory;                /* the same, in bytes */
        PressureConfig pressure;
};

/* Told (from the reactor) that the task has new durable events, or has ended: read the store. */
struct SchedWatch {
        ListLink link;
        void (*fn)(SchedWatch *watch, bool ended);
};

int sched_new(Sched **ret_sched, Reactor *reactor, Store *store, Metrics *metrics, const SchedConfig *config)
        _must_check_;
Sched *sched_free(Sched *sched);
DEFINE_CLEANUP(Sched, sched_free);
/* Takes the adapter; the order of adding is the order of preference. -E2BIG past SCHED_AGENTS_MAX. */
int sched_add_agent_take(Sched *sched, Adapter *adapter) _must_check_;
/*
 * Another configuration and other agents in place of those so far, while everything runs: limits and defaults hold from
 * now on. An agent of a known name is replaced for attempts that start later, and keeps its place in the order of
 * preference; a new one comes after those; of one that is gone the running attempts go on, and tasks that no other
 * agent may run fail. Adapters are borrowed. -E2BIG, also where agents that are gone still run: nothing has changed.
 */
int sched_configure(Sched *sched, const SchedConfig *config, Adapter *const *adapters, size_t n) _must_check_;
/* Opens what tells of the machine's pressure; without this call none is seen. Before the process is confined. */
void sched_open_pressure(Sched *sched);
/* Loads every task that is not final. Call once, before the launcher's connection starts. */
int sched_recover(Sched *sched) _must_check_;

/* The launcher's side. */
extern const LauncherVtable sched_launcher_vtable;      /* userdata: the Sched */
void sched_set_launcher(Sched *sched, LauncherClient *client);
/*
 * Starts nothing more; calls fn from the reactor as soon as nothing runs. Submits are still taken, and wait for the
 * next start of the program.
 */
void sched_drain(Sched *sched, void (*fn)(void *userdata), void *userdata);
/* Stops picking; running attempts are left alone (they belong to the launcher). */
void sched_stop(Sched *sched);

/* What a submit asks for beside the record. */
typedef struct SchedRequest {
        const char *const *capabilities;        /* NULL-terminated; may be NULL */
        const Id *after;                        /* tasks in the store, or earlier in the same begin/end */
        size_t n_after;
        StoreCondition on;                      /* of each of them; 0: success */
} SchedRequest;

/*
 * Submit, in the caller's store_begin()/store_end(): fills task->agent, candidates, timeouts and defaults, inserts it
 * and its first event. After store_end() call sched_submitted(), which queues the task (kept) or forgets it; a commit
 * that fails forgets it too. Where what it depends on has decided its fate it ends at once: *ret_task is NULL then.
 */
int sched_submit(Sched *sched, StoreTask *task, const SchedRequest *request, SchedTask **ret_task,
                 char ret_detail[static SCHED_DETAIL_MAX]) _must_check_;
void sched_submitted(SchedTask *task, bool kept);
/*
 * The same by id, for tasks whose sched_submitted() comes some ticks later: somebody may have cancelled it meanwhile.
 * No-op where it is not live.
 */
void sched_submitted_id(Sched *sched, const Id *id, bool kept);
/*
 * What sched_submit() would answer but for the store, of a task before which n_before others of the same submission
 * are to come. Fills task->agent and candidates.
 */
int sched_check(Sched *sched, StoreTask *task, const SchedRequest *request, uint64_t n_before,
                char ret_detail[static SCHED_DETAIL_MAX]) _must_check_;
/*
 * In the caller's begin/end too, one task in each: where it is undone after sched_cancel() has returned 0, the
 * scheduler does not know. A waiting task is cancelled by the write; a running one is killed when it is durable.
 */
int sched_cancel(Sched *sched, const Id *id) _must_check_;
/*
 * In the caller's begin/end: a task that ended without success is queued anew, with as many attempts as at first.
 * Then sched_submitted() as after a submit.
 */
int sched_requeue(Sched *sched, const Id *id, SchedTask **ret_task, char ret_detail[static SCHED_DETAIL_MAX])
        _must_check_;
/* The same of one among others: those that it comes after may be queued anew later, before sched_submitted_id(). */
int sched_requeue_among(Sched *sched, const Id *id, char ret_detail[static SCHED_DETAIL_MAX]) _must_check_;
/* False where the task is not live (it has ended, or never was). */
bool sched_watch(Sched *sched, const Id *id, SchedWatch *watch);
/* Told of every event written, of any task; what the watch then reads may not be durable yet: store_wait(). */
void sched_watch_all(Sched *sched, SchedWatch *watch);
void sched_unwatch(SchedWatch *watch);
/* There is more for those to read: they are told after this tick's callbacks. */
void sched_tell(Sched *sched);

/* ---- limits ---- */

struct SchedLimitInfo {
        SchedLimitKind kind;
        const char *name;
        uint32_t running_max;           /* in force; SCHED_NO_LIMIT: none */
        uint32_t n_running;
        uint64_t n_live;                /* waiting and running */
        uint64_t queued_max;            /* 0: no limit of its own */
        uint32_t weight;
        bool paused;
        const StoreLimit *set;          /* an administrator's setting, before the configuration's; NULL: none */
};

const char *sched_limit_kind_name(SchedLimitKind kind);
bool sched_limit_kind_parse(const char *name, SchedLimitKind *ret_kind);
/* Those that are set, or have live tasks. fn returns 0 to go on. */
int sched_limit_list(const Sched *sched, int (*fn)(const SchedLimitInfo *info, void *userdata), void *userdata)
        _must_check_;
/* Durable by the caller's begin/end; in force at once. SCHED_E_NO_AGENT: there is no agent of this name. */
int sched_limit_set(Sched *sched, const StoreLimit *limit) _must_check_;
/* Back to the configuration's. SCHED_E_NOT_FOUND: nothing was set at run time. */
int sched_limit_unset(Sched *sched, SchedLimitKind kind, const char *name) _must_check_;

/* ---- looking ---- */

/* Why a live task does not run. */
struct SchedWaiting {
        /* "order", "limit", "paused", "draining", "gate", "breaker", "resources", "budget", "pressure", "launcher",
           "dependency", "delayed", "held" */
        const char *reason;
        char detail[160];
        uint64_t since_us;              /* realtime */
        uint64_t until_us;              /* realtime; 0 where nobody can know */
};
/* False where the task runs or has ended. */
bool sched_waiting(const Sched *sched, const StoreTask *task, SchedWaiting *ret_waiting);

typedef enum SchedBreaker {
        SCHED_BREAKER_CLOSED,
        SCHED_BREAKER_OPEN,             /* nothing starts until a time */
        SCHED_BREAKER_HALF_OPEN,        /* one task tries */
} SchedBreaker;
const char *sched_breaker_name(SchedBreaker breaker);

struct SchedAgentInfo {
        const Adapter *adapter;
        uint32_t n_running;
        uint64_t n_live;                /* tasks that no other agent may run, and what runs */
        bool paused;
        SchedBreaker breaker;
        uint32_t n_failures;            /* in a row, of the kinds that open the breaker */
        uint64_t breaker_until_us;      /* realtime, while open */
        uint64_t gate_until_us;         /* realtime; 0: the account is not gated */
        const char *gate_reason;        /* "rate_limited" or "quota" */
};
/*
 * An administrator knows better: the gate before its account and its breaker are open from now on. In the caller's
 * begin/end. SCHED_E_NO_AGENT.
 */
int sched_agent_reset(Sched *sched, const char *name) _must_check_;
size_t sched_n_agents(const Sched *sched);
SchedAgentInfo sched_agent(const Sched *sched, size_t i);

typedef struct SchedStats {
        uint64_t n_live;
        uint64_t n_waiting;             /* not running */
        uint32_t n_running;
        bool draining;
} SchedStats;
SchedStats sched_stats(const Sched *sched);
const SchedConfig *sched_config(const Sched *sched);
/* As of the last look, which was at most a second ago while tasks wait or run. */
const Pressure *sched_pressure(const Sched *sched);
const LauncherClient *sched_launcher(const Sched *sched);
/* The launcher's generation where connected, else NULL. */
const Id *sched_launcher_generation(const Sched *sched);

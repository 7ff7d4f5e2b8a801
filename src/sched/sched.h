#pragma once

/*
 * Sched: which task runs next, and the life of each attempt.
 *
 * The store is the truth; the scheduler keeps one small SchedTask for each task that is not final, in a heap an agent
 * (priority, then order of submission) and a heap of delayed ones by due time. Every step is durable before it has an
 * effect outside: an attempt is spawned once its row (and the task's, which may be in the same commit) is, output is
 * acknowledged to the launcher once its events are, a watcher is told once what it may read is.
 *
 *     sched_submit() → ready heap → pump() → attempt_insert → durable → launcher_spawn() (run.c)
 *     → output lines → adapter → events → durable → worker_acked(), watchers
 *     → exit → outcome → final state or delayed retry → durable → worker_forget(), watchers
 */

#include "adapter/adapter.h"
#include "base/heap.h"
#include "base/list.h"
#include "base/map.h"
#include "reactor/reactor.h"
#include "sched/state.h"
#include "store/store.h"
#include "telemetry/metrics.h"
#include "worker/worker.h"

typedef struct Sched Sched;
typedef struct SchedAgent SchedAgent;
typedef struct SchedConfig SchedConfig;
typedef struct SchedPrincipal SchedPrincipal;
typedef struct SchedRun SchedRun;
typedef struct SchedTask SchedTask;
typedef struct SchedWatch SchedWatch;

#define SCHED_DETAIL_MAX 512

enum {
        _SCHED_E_SUCCESS,
        SCHED_E_FULL,                   /* the queue as a whole is full: try again later */
        SCHED_E_QUOTA,                  /* this principal's share is used up */
        SCHED_E_NO_AGENT,               /* no such agent, or none has the capabilities */
        SCHED_E_NOT_INSTALLED,          /* the agent's CLI is not there; detail says how to install it */
        SCHED_E_UNSUPPORTED,            /* the agent can't do what the task asks */
        SCHED_E_NOT_FOUND,
        SCHED_E_FINAL,                  /* the task has already ended */
        SCHED_E_UNAVAILABLE,            /* the store takes no writes */
};

struct SchedConfig {
        uint32_t running_max;           /* attempts at once, over all agents */
        uint64_t queued_max;            /* tasks that are not final */
        uint64_t queued_per_principal_max;
        uint64_t timeout_us;            /* defaults for tasks that do not say */
        uint32_t max_attempts;
        uint64_t backoff_us;
        uint64_t capture_max;           /* bytes of output kept as events, an attempt */
        const char *const *require;     /* sandbox capabilities without which a spawn fails; NULL-terminated */
        uint64_t memory_max;
        uint32_t pids_max;
        uint32_t cpu_percent;
};

struct SchedAgent {
        Adapter *adapter;
        Heap ready;
        uint32_t n_running;
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
/* Takes the adapter; the order of adding is the order of preference. */
int sched_add_agent_take(Sched *sched, Adapter *adapter) _must_check_;
/* Loads every task that is not final. Call once, before the launcher's connection starts. */
int sched_recover(Sched *sched) _must_check_;

/* The launcher's side. */
extern const LauncherVtable sched_launcher_vtable;      /* userdata: the Sched */
void sched_set_launcher(Sched *sched, LauncherClient *client);
/* Stops picking; running attempts are left alone (they belong to the launcher). */
void sched_stop(Sched *sched);

/*
 * Submit, in the caller's store_begin()/store_end(): fills task->agent, timeouts and defaults, inserts it and its first
 * event. After store_end() call sched_submitted(), which queues the task (kept) or forgets it; a commit that fails
 * forgets it too.
 */
int sched_submit(Sched *sched, StoreTask *task, const char *const *capabilities, SchedTask **ret_task,
                 char ret_detail[static SCHED_DETAIL_MAX]) _must_check_;
void sched_submitted(SchedTask *task, bool kept);
/*
 * In the caller's begin/end too. A waiting task is cancelled by the write; a running one is killed when it is durable.
 */
int sched_cancel(Sched *sched, const Id *id) _must_check_;
/* False where the task is not live (it has ended, or never was). */
bool sched_watch(Sched *sched, const Id *id, SchedWatch *watch);
void sched_unwatch(SchedWatch *watch);

typedef struct SchedStats {
        uint64_t n_live;
        uint64_t n_waiting;             /* queued or delayed */
        uint32_t n_running;
} SchedStats;
SchedStats sched_stats(const Sched *sched);
const SchedConfig *sched_config(const Sched *sched);
size_t sched_n_agents(const Sched *sched);
const SchedAgent *sched_agent(const Sched *sched, size_t i);
const LauncherClient *sched_launcher(const Sched *sched);
/* The launcher's generation where connected, else NULL. */
const Id *sched_launcher_generation(const Sched *sched);

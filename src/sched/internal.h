#pragma once

/* What sched.c (the queue) and run.c (one attempt) share. */

#include "sched/sched.h"

/* A principal's share of the queue. */
struct SchedPrincipal {
        MapNode node;
        uint64_t n_live;
        char name[];
};

struct SchedTask {
        MapNode node;                   /* by id */
        HeapNode heap;                  /* in its agent's ready heap, or in the delayed one */
        Sched *sched;
        SchedAgent *agent;
        SchedPrincipal *principal;
        SchedRun *run;
        List watches;
        StoreWait wait;                 /* submit or cancel is becoming durable */
        Id id;
        uint64_t sequence;              /* FIFO inside a priority */
        uint64_t due_us;                /* realtime, while delayed */
        uint8_t state;                  /* TaskState, as last written */
        uint8_t priority;
        bool durable;                   /* its insert is on disk */
        bool cancel_requested;
};

struct Sched {
        Reactor *reactor;
        Store *store;
        LauncherClient *client;
        SchedConfig config;
        SchedAgent *agents;
        size_t n_agents;
        Map tasks;
        Map principals;
        Heap delayed;
        Timer delayed_timer;
        Timer retry_timer;              /* the store was full */
        Defer pump;
        List runs;
        uint64_t sequence;
        uint64_t n_waiting;
        uint32_t n_running;
        Id generation;
        bool stopping;
        struct {
                MetricFamily *submitted, *finished, *attempts, *tokens;
                Metric *latency, *queue_wait, *duration, *output_bytes, *truncated;
        } metrics;
};

#define SCHED_BACKOFF_MAX_US    (300 * USEC_PER_SEC)
#define SCHED_STORE_RETRY_US    USEC_PER_SEC    /* how soon a full disk is tried again */

/* ---- sched.c ---- */

/* Writes the task's new state (and its state event); `record` holds the other members. In the caller's begin/end. */
int sched_write_state(Sched *sched, StoreTask *record, TaskEvent event, const char *reason, const char *detail)
        _must_check_;
/* After a durable change: puts the task where its state says, or ends it (and frees it). */
void sched_settle(SchedTask *task, TaskState state, uint64_t due_us);
void sched_notify(SchedTask *task, bool ended);
void sched_kick(Sched *sched);
/* Tries again in a second: the store is full or failed. */
void sched_retry_later(Sched *sched);
int sched_set_str(char **p, const char *s) _must_check_;

/* ---- run.c ---- */

/* Takes a queued task: writes its attempt and spawns it when durable. STORE_E_FULL, STORE_E_FAILED: nothing changed. */
int run_start(SchedTask *task) _must_check_;
/* A run found in the store at start, waiting for the launcher's LIST. */
int run_recover(SchedTask *task, StoreTask *record, const StoreAttempt *attempt) _must_check_;
void run_cancel(SchedRun *run);
/* True where the attempt's end is already written: the task, which would run again, is cancelled after it. */
bool run_cancel_ending(SchedRun *run) _must_check_;
/* Once more after a full store. */
void run_retry(SchedRun *run);
SchedRun *run_free(SchedRun *run);
SchedRun *run_from_link(ListLink *link);

#pragma once

/*
 * run: one attempt's state, shared by run.c (its life), run-end.c (how it ends), run-output.c (its output) and
 * run-launcher.c (what the launcher says of it, and recovery).
 */

#include "sched/internal.h"

#define RUN_HOME "/home/agent"          /* HOME as the task sees it; the launcher mounts it there */
/* Events that carry the outcome are kept past capture_max, up to this many times it. */
#define RUN_ESSENTIAL_FACTOR 2
#define RUN_LINE_CUT 1u                 /* StoreAttempt.stdout_flags: in the middle of a cut line */
/*
 * Text of the `result` event; the task's result has up to ADAPTER_RESULT_MAX, and an event stream carries it once more.
 */
#define RUN_RESULT_EVENT_MAX KIB(256)
#define RUN_DETAIL_MAX 320

typedef enum RunPhase {
        RUN_COMMITTING,
        RUN_SPAWNING,
        RUN_RUNNING,
        RUN_EXITED,
        RUN_ENDING,
} RunPhase;

/* What follows the end of an attempt, by outcome. */
typedef struct RunEnd {
        const char *outcome;            /* of the attempt */
        const char *reason;
        const char *detail;
        TaskEvent event;
        bool retryable;
        uint64_t retry_after_us;
        bool is_exec;                   /* the agent's program could not be started: none of the task's doing */
        const char *text;               /* of a `result` event to append; NULL: none */
        size_t n_text;
} RunEnd;

typedef struct RunStream {
        Buf line;                       /* received, not yet in the store */
        uint64_t committed;             /* offset of line's first byte */
        uint64_t waiting;               /* committed when the wait in flight began */
        uint32_t flags;
} RunStream;

struct SchedRun {
        ListLink link;
        Sched *sched;
        SchedTask *task;
        SchedAgent *agent;
        bool holds;                     /* resources */
        SchedCharge charge;
        bool over_budget;
        SchedLimit *limits[4];          /* charged: global, agent's, principal's, group's (or NULL) */
        StoreTask *record;
        StoreAttempt *attempt;
        AdapterRun *adapter;
        AdapterCommand *command;        /* until SPAWNED */
        Worker *worker;
        RunPhase phase;
        RunStream streams[2];
        StoreWait wait;
        bool waiting;
        bool dirty;                     /* something was written since the wait began */
        bool blocked;                   /* the store was full: output waits for the next try */
        bool stale;                     /* the adapter has seen lines that the store undid */
        bool has_result;                /* a `result` event was stored */
        bool timed_out;
        const char *timeout_reason;
        uint64_t picked_us;             /* monotonic */
        Timer timeout;
        Timer inactivity;
        uint64_t inactivity_us;
        uint32_t grace_ms;
        WorkerExit exit;
        RunEnd end;                     /* EXITED without an exit record: lost, or not spawned */
        char end_detail[RUN_DETAIL_MAX];
        bool has_end;
        TaskState next;                 /* ENDING: the state written */
        uint64_t next_due_us;
        uint8_t avoid;                  /* for the task: SchedTask.avoid */
};

/* ---- run.c ---- */
void run_log(const SchedRun *run, int level, const char *message_id, const char *text);
void run_stop_worker(SchedRun *run);
void run_touch(SchedRun *run);
void run_arm(SchedRun *run);
int run_new(SchedTask *task, SchedAgent *agent, StoreTask *record_take, SchedRun **ret_run) _must_check_;
int run_render(SchedRun *run, char ret_error[static YAML_ERROR_MAX]) _must_check_;
void run_spawn(SchedRun *run);
int run_save(SchedRun *run) _must_check_;
void run_commit(SchedRun *run);
double run_seconds_between(uint64_t from_us, uint64_t to_us);

/* ---- run-end.c ---- */
/* Writes attempt and task in one request: then the run is ENDING and a wait is under way, else nothing changed. */
int run_write_end(SchedRun *run, RunEnd *end) _must_check_;
/* What was written is durable. Frees the run, and the task where that is its end. */
void run_ended(SchedRun *run);
void run_finish(SchedRun *run);
void run_finish_without_record(SchedRun *run);
void run_lost(SchedRun *run, const char *detail);
void run_end_without_record(SchedRun *run, RunEnd end);

/* ---- run-output.c ---- */
int run_append(SchedRun *run, StoreEvent *event) _must_check_;
int run_append_result(SchedRun *run, const char *text, size_t n) _must_check_;
int run_append_truncated(SchedRun *run, unsigned stream, const char *what, uint64_t limit) _must_check_;
int run_replay(SchedRun *run) _must_check_;
int run_consume(SchedRun *run, unsigned i, bool last) _must_check_;
void run_on_output(Worker *worker, unsigned stream, uint64_t offset, const uint8_t *data, size_t n);

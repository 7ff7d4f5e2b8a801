#pragma once

/*
 * What the scheduler's files share:
 *
 *   sched.c    its life, the pump, timers, watching
 *   task.c     one task that is not final: its place in memory, and the writing of its state
 *   submit.c   admission, choice of agents, cancel, retry
 *   queue.c    what waits: order and fairness
 *   limit.c    limits, pauses, weights
 *   configure.c  another configuration in place of the one in force; the agents' places
 *   agent.c    agents' health: gates and breakers
 *   resource.c GPUs, CPUs and memory that tasks ask for
 *   budget.c   tokens and cost that may be used
 *   prompt.c   results of earlier tasks in a prompt
 *   depend.c   dependencies, and what else follows the end of a task
 *   recover.c  all of it again, from the store
 *   run*.c     one attempt
 *
 * The queue. Tasks that wait alike (same agents, principal, group, priority and resources) are one SchedFlow; a flow is
 * held back or not as a whole, so a task that can't run costs nothing while others do.
 *
 *     SchedLevel (a priority) → SchedShare (a principal's part of it) → SchedFlow → SchedTask
 *
 * A flow that can't run leaves the levels and is parked where its obstacle is (a limit, an agent, the resources); who
 * removes the obstacle unparks it.
 */

#include "sched/sched.h"

typedef struct SchedAccount SchedAccount;
typedef struct SchedAgent SchedAgent;
typedef struct SchedFlow SchedFlow;
typedef struct SchedLevel SchedLevel;
typedef struct SchedLimit SchedLimit;
typedef struct SchedRun SchedRun;
typedef struct SchedShare SchedShare;
typedef struct SchedTaskExtra SchedTaskExtra;

#define SCHED_PRIORITIES 101

typedef enum SchedBlock {
        SCHED_BLOCK_NONE,
        SCHED_BLOCK_LIMIT,
        SCHED_BLOCK_PAUSED,
        SCHED_BLOCK_GATE,
        SCHED_BLOCK_BREAKER,
        SCHED_BLOCK_RESOURCES,
        SCHED_BLOCK_NO_AGENT,           /* it is no longer configured */
        SCHED_BLOCK_BUDGET,
} SchedBlock;

/* Tokens are input and output together; cost is in millionths of a US dollar. */
typedef struct SchedSpending {
        uint64_t tokens, microusd;
} SchedSpending;

/* Of a batch, or of a principal's or an agent's day. */
typedef struct SchedBudget {
        MapNode node;                   /* of a batch: by its id */
        Id id;
        SchedSpending max;              /* 0: no bound */
        SchedSpending spent;
        SchedSpending reserved;         /* by what runs */
        uint64_t n_ended;               /* attempts in `spent` */
        uint32_t day;                   /* which it is, since the epoch */
        List parked;                    /* flows that wait for room */
        uint32_t n_refs;                /* flows */
} SchedBudget;

enum { BUDGETS = 3 };                   /* the batch's, the principal's, the agent's */

/* What one run holds of its budgets. */
typedef struct SchedCharge {
        SchedBudget *budgets[BUDGETS];
        SchedSpending reserved[BUDGETS];
        SchedSpending may;              /* the task, over all its attempts; 0: no bound */
} SchedCharge;

typedef struct SchedBudgetBlock {
        SchedBudget *budget;            /* which has no room; NULL: there is room */
        bool used_up;                   /* and nothing under it runs */
        bool of_batch;
} SchedBudgetBlock;

struct SchedLimit {
        MapNode node;                   /* by name, in the map of its kind */
        SchedLimitKind kind;
        uint32_t n_running;
        uint64_t n_live;
        List parked;                    /* flows that wait for it */
        uint32_t n_refs;                /* flows; agents */
        SchedLimitConfig config;        /* name is NULL */
        StoreLimit *set;                /* at run time; NULL: nothing */
        SchedBudget budget;             /* of the day */
        char name[];
};

/* Who pays: agents with the same credentials share what the vendor allows. */
struct SchedAccount {
        ListLink link;
        char *name;
        uint64_t until_us;              /* realtime; 0: open */
        char *reason;
        uint32_t n_times;               /* in a row, without a success between them */
};

/*
 * Its place in the array is its bit in masks and what SchedTask.avoid counts from: it stays, even of an agent that is
 * gone, for as long as a task refers to it.
 */
struct SchedAgent {
        Adapter *adapter;
        SchedLimit *limit;              /* and its name */
        SchedAccount *account;
        bool gone;                      /* no longer configured: takes no tasks */
        SchedBreaker breaker;
        uint32_t n_failures;
        uint32_t n_opened;              /* in a row */
        uint64_t breaker_until_us;      /* realtime */
        const SchedLimit *failed_for;   /* whose task the first of the failures was; to compare, not to look into */
        bool failed_for_many;           /* more than one principal's failed, or there is only one */
        bool probing;                   /* half-open, and the one task runs */
};

/* A principal's part of one priority. */
struct SchedShare {
        ListLink link;                  /* of its level, for the search by principal */
        SchedLevel *level;
        SchedLimit *principal;
        HeapNode by_pass;
        HeapNode by_age;
        Heap flows;                     /* that may run, by their oldest task */
        double pass;                    /* virtual time: each start adds 1/weight */
        uint32_t n_refs;
};

struct SchedLevel {
        Heap by_pass;                   /* shares: whose turn it is */
        Heap by_age;                    /* shares: with the oldest task */
        double pass;                    /* of the share that was served last: who comes anew starts here */
        List shares;
};

typedef struct SchedFlowKey {
        uint64_t agents;                /* bit i: agent i may run it */
        SchedLimit *principal;
        SchedLimit *group;              /* NULL: none */
        SchedBudget *budget;            /* its batch's; NULL: none */
        uint64_t memory;
        uint32_t gpus;
        uint32_t cpus_milli;
        uint64_t priority;
} SchedFlowKey;

struct SchedFlow {
        MapNode node;                   /* by key */
        SchedFlowKey key;
        Sched *sched;
        SchedShare *share;
        Heap ready;                     /* its queued tasks, by order */
        HeapNode heap;                  /* in the share */
        ListLink parked;
        SchedBlock block;               /* why it is parked */
        const SchedLimit *blocker;      /* the limit's, or the agent's */
        uint64_t n_tasks;               /* all that are not final */
};

struct SchedTask {
        IdNode node;
        HeapNode heap;                  /* in its flow's ready heap, or in the delayed one */
        uint8_t state;                  /* TaskState, as last written */
        uint8_t avoid;                  /* the agent that just failed it, + 1; 0: none */
        bool durable : 1;               /* its insert is on disk */
        bool cancel_requested : 1;
        bool in_batch : 1;
        bool unsubmitted : 1;           /* sched_submitted() is to come: it is in no queue, and nothing moves it */
        bool judge : 1;                 /* what its dependencies say is to be asked then */
        uint32_t n_prompt;              /* bytes, of Sched.queued_bytes */
        SchedFlow *flow;
        SchedRun *run;
        SchedTaskExtra *extra;
        uint64_t order_us;              /* of its submission, unique: FIFO, and what ageing counts from */
        uint64_t due_us;                /* realtime, while delayed */
};

/* What few tasks have at a time. */
struct SchedTaskExtra {
        SchedTask *task;
        List watches;
        StoreWait wait;                 /* submit or cancel is becoming durable */
        bool waiting;
        TaskState next;                 /* what it becomes when that is durable; 0: what it is */
        HeapNode deadline;
        uint64_t deadline_us;           /* realtime; 0: none */
};

/* What the machine has, and what running attempts hold of it. */
typedef struct SchedResources {
        LaunchGpu *gpus;
        uint32_t *gpus_used;            /* shares, by index */
        size_t n_gpus;
        uint32_t cpus_milli, cpus_milli_used;
        uint64_t memory, memory_used;
        SchedFlow *first;               /* waits longest of those that no room was found for */
        uint64_t first_since_us;        /* monotonic */
        bool known;                     /* a launcher has told of the machine */
} SchedResources;

typedef struct IdList {
        Id *ids;
        size_t n, capacity;
} IdList;

struct Sched {
        Reactor *reactor;
        Store *store;
        LauncherClient *client;
        SchedConfig config;
        SchedAgent agents[SCHED_AGENTS_MAX];
        size_t n_agents;                /* places, those of agents that are gone included */
        uint64_t agents_live;           /* bits of those that are not */
        List accounts;
        IdList orphans;                 /* tasks whose agents are all gone, to be failed */
        bool orphans_again;             /* no memory to note them: look at all */
        Defer orphans_defer;
        SchedLimit *global;
        Map limits[_SCHED_LIMIT_KIND_N];
        IdMap tasks;
        Map budgets;                    /* of batches */
        Id free_batch;                  /* the last one that was found to have none */
        bool waits_for_tomorrow;        /* flows are parked for a day's budget */
        Map flows;
        SchedLevel levels[SCHED_PRIORITIES];
        uint64_t busy[2];               /* bit p: level p has shares that may run */
        List parked_any;                /* flows of several agents, none of which can take them */
        List parked_resources;
        SchedResources resources;
        Heap delayed;
        Heap deadlines;
        Timer delayed_timer;
        Timer deadline_timer;
        Timer health_timer;             /* the next gate or breaker that opens */
        Timer retry_timer;              /* the store was full */
        Defer pump;
        List watches;                   /* of all tasks */
        Defer tell;
        List runs;
        uint64_t order_us;              /* the last one given out */
        uint64_t n_waiting;
        uint64_t queued_bytes;          /* prompts of all tasks; counted where there is a limit */
        IdList dependants;              /* of tasks that have ended: to be judged */
        Defer depend;
        bool depend_again;              /* the store was full when a task ended */
        Id generation;
        bool stopping;
        bool draining;                  /* to be stopped */
        void (*drained)(void *userdata);
        void *drained_userdata;
        Pressure pressure;
        uint64_t pressure_us;           /* of the last look; monotonic, 0: never */
        Timer pressure_timer;
        struct {
                MetricFamily *submitted, *finished, *attempts, *tokens, *breaker, *pressure;
                Metric *latency, *queue_wait, *duration, *output_bytes, *truncated;
        } metrics;
};

#define SCHED_PRESSURE_US       USEC_PER_SEC    /* between two looks at the machine */
#define SCHED_BACKOFF_MAX_US    (300 * USEC_PER_SEC)
#define SCHED_STORE_RETRY_US    USEC_PER_SEC    /* how soon a full disk is tried again */
/* A clock that jumps must not leave a delayed task behind: look again at least this often. */
#define SCHED_CLOCK_CHECK_US    (30 * USEC_PER_SEC)

/* ---- sched.c ---- */

void sched_pump(Sched *sched);
void sched_kick(Sched *sched);
/* Looks at the machine's pressure, where the last look is old. */
void sched_look(Sched *sched);
/* Tries again in a second: the store is full or failed. */
void sched_retry_later(Sched *sched);
/* Sets (or clears) a timer for the top of a heap of times by the real clock. */
void sched_arm(Timer *timer, uint64_t due_us);

/* ---- task.c ---- */

SchedTask *task_find(Sched *sched, const Id *id);
/* Charged to its limits; not yet in the queue. The record's strings are copied where needed. */
int task_new(Sched *sched, const StoreTask *record, uint64_t agents, SchedTask **ret_task) _must_check_;
SchedTask *task_free(SchedTask *task);
/* NULL: no memory. */
SchedTaskExtra *task_extra(SchedTask *task);
/* Frees what no longer says anything. */
void task_extra_drop(SchedTask *task);
/* Queued or delayed: into the heap that its state asks for. */
int task_enqueue(SchedTask *task) _must_check_;
void task_dequeue(SchedTask *task);
static inline bool task_is_waiting(const SchedTask *t) {
        return t->state == TASK_QUEUED || t->state == TASK_DELAYED || t->state == TASK_BLOCKED || t->state == TASK_HELD;
}
/* Writes the task's new state (and its state event); `record` holds the other members. In the caller's begin/end. */
int sched_write_state(Sched *sched, StoreTask *record, TaskEvent event, const char *reason, const char *detail)
        _must_check_;
/* The state event alone, of a record as it is. */
int sched_write_state_event(Sched *sched, const StoreTask *record) _must_check_;
/* Loads the task, applies the event and writes it, in a begin/end of its own. */
int sched_move(Sched *sched, const Id *id, TaskEvent event, const char *reason, const char *detail) _must_check_;
/* After a durable change: puts the task where its state says, or ends it (and frees it). */
void sched_settle(SchedTask *task, TaskState state, uint64_t due_us);
/* What was written becomes its state when it is durable; until then it is in no queue. -ENOMEM. */
int task_settle_when_durable(SchedTask *task, TaskState state) _must_check_;
void sched_notify(SchedTask *task, bool ended);
int sched_set_str(char **p, const char *s) _must_check_;
/* The owner frees ids. */
int id_list_add(IdList *list, const Id *id) _must_check_;

/* ---- queue.c ---- */

void queue_init(Sched *sched);
void queue_deinit(Sched *sched);
/* The flow of tasks of this kind, made where there is none. */
int queue_flow(Sched *sched, const SchedFlowKey *key, SchedFlow **ret_flow) _must_check_;
/* The task has left the flow: the last one frees it. */
void queue_flow_release(SchedFlow *flow);
int queue_push(SchedTask *task) _must_check_;
void queue_remove(SchedTask *task);
/* The task that goes first and can run now, and the agent for it; NULL: none. It stays in the queue. */
SchedTask *queue_pick(Sched *sched, SchedAgent **ret_agent);
/* It starts: its principal's turn is over. */
void queue_charge(SchedTask *task);
void queue_park(SchedFlow *flow, List *where, SchedBlock block, const SchedLimit *blocker);
/* The obstacle is gone (or may be): all flows of this list are looked at again. */
void queue_unpark(Sched *sched, List *parked);

/* ---- limit.c ---- */

int limit_init(Sched *sched) _must_check_;
void limit_deinit(Sched *sched);
/* Found or made; with a reference. */
int limit_ref(Sched *sched, SchedLimitKind kind, const char *name, SchedLimit **ret_limit) _must_check_;
void limit_unref(Sched *sched, SchedLimit *limit);
SchedLimit *limit_find(const Sched *sched, SchedLimitKind kind, const char *name);
bool limit_is_configured(const Sched *sched, SchedLimitKind kind, const char *name);
uint32_t limit_running_max(const SchedLimit *limit);
uint64_t limit_queued_max(const SchedLimit *limit);
uint32_t limit_weight(const SchedLimit *limit);
bool limit_is_paused(const SchedLimit *limit);
SchedBlock limit_block(const SchedLimit *limit);
/* Takes the configuration's part anew. */
void limit_configure(const Sched *sched, SchedLimit *limit);
/* Takes the prompts' sizes from the store, where the configuration limits them. */
int limit_count_bytes(Sched *sched, const SchedConfig *config) _must_check_;
void limit_take(SchedLimit *limit);
/* Unparks what waits for it. */
void limit_give(Sched *sched, SchedLimit *limit);

/* ---- agent.c ---- */

SchedAgent *agent_find(Sched *sched, const char *name);
static inline uint64_t agent_bit(const Sched *s, const SchedAgent *a) {
        return UINT64_C(1) << (a - s->agents);
}
bool agent_is_installed(SchedAgent *agent);
SchedBlock agent_block(const SchedAgent *agent);
/* When a gate or a breaker lets tasks through again; realtime, 0: no such time. */
uint64_t agent_until(const SchedAgent *agent);
/* An attempt has begun, and ended: reason and retry_after_us as the adapter gave them. In the caller's begin/end. */
void agent_began(SchedAgent *agent);
int agent_ended(Sched *sched, SchedAgent *agent, const SchedLimit *principal, bool succeeded, const char *reason,
                uint64_t retry_after_us) _must_check_;
void agent_health_arm(Sched *sched);

/* ---- resource.c ---- */

/* What is asked for and what there is, rounded up: tasks that ask for nearly the same are one flow. */
static inline uint32_t resource_cpus(uint32_t milli) {
        return (milli + 99) / 100 * 100;
}

static inline uint64_t resource_memory(uint64_t bytes) {
        return (bytes + MIB(64) - 1) / MIB(64) * MIB(64);
}

/* The launcher is connected: its machine, as it is now. */
int resource_discover(Sched *sched) _must_check_;
void resource_configure(Sched *sched);
void resource_deinit(Sched *sched);
/* SCHED_E_UNSUPPORTED where the machine will never have that much. */
int resource_check(const Sched *sched, const StoreTask *task, char ret_detail[static SCHED_DETAIL_MAX]) _must_check_;
/* RESOURCES where there is no room now, or it is kept for a task that waits for more. */
SchedBlock resource_block(SchedFlow *flow);
/* The flow waits for something else, or for nothing: no room is kept for it. */
void resource_forget(SchedFlow *flow);
/* Chooses the GPUs: `ret_gpus` is their indexes with spaces between (the caller frees), NULL where it asks for none. */
int resource_take(Sched *sched, const SchedFlowKey *key, char **ret_gpus) _must_check_;
/* The indexes in an attempt's row (StoreAttempt.gpus), as numbers; returns how many. */
size_t resource_gpus(const char *text, uint32_t ret_gpus[static LAUNCH_GPUS_MAX]);
/* Takes again what a running attempt holds. */
void resource_retake(Sched *sched, const SchedFlowKey *key, const char *gpus);
void resource_give(Sched *sched, const SchedFlowKey *key, const char *gpus);

/* ---- budget.c ---- */

SchedSpending spending_of(const StoreUsage *usage);
/* NULL: the batch has none. */
int budget_of_batch(Sched *sched, const Id *batch, SchedBudget **ret_budget) _must_check_;
void budget_unref(Sched *sched, SchedBudget *budget);
/* Reserves what the task may use, or says which budget has no room. */
int budget_try(Sched *sched, const StoreTask *record, SchedAgent *agent, SchedFlow *flow, SchedCharge *charge,
               SchedBudgetBlock *ret_block) _must_check_;
/* The attempt has used this. */
void budget_spend(SchedCharge *charge, const StoreUsage *usage);
/* It is over. */
void budget_release(Sched *sched, SchedCharge *charge);
/* The attempts before have used `before`, this one `now`: more than it may. */
bool budget_is_over(const SchedCharge *charge, const StoreUsage *before, const StoreUsage *now);
/* When the day ends, by the real clock. */
uint64_t budget_tomorrow_us(void);

/* ---- prompt.c ---- */

/* False where it names a task that is none of these. */
bool prompt_check(const char *prompt, size_t n, const Id *ids, size_t n_ids, char ret_detail[static SCHED_DETAIL_MAX]);
/* Puts the results in. SCHED_E_INVALID: it gets too large. */
int prompt_expand(Sched *sched, StoreTask *record) _must_check_;

/* ---- depend.c ---- */

/* What the task's dependencies say: TASK_EVENT_BLOCK (wait), TASK_EVENT_DUE (all met), TASK_EVENT_CANCEL (never). */
int depend_judge(Sched *sched, const StoreTask *record, TaskEvent *ret_event, char ret_detail[static SCHED_DETAIL_MAX])
        _must_check_;
/* The task has ended, durably: those that waited for it go on or end, the losers of its batch are cancelled. */
void depend_ended(Sched *sched, const Id *id, TaskState state, bool in_batch);
/* It may be moved now: what was put off while it was not yet submitted. */
void depend_submitted(SchedTask *task);
void depend_turn(Sched *sched);
/* True where another of its set has succeeded already. */
int depend_is_lost(Sched *sched, const StoreTask *record, bool *ret_lost) _must_check_;
/* Of all blocked tasks and all that run, after a restart. */
int depend_recover(Sched *sched) _must_check_;

/* ---- configure.c ---- */

void configure_init(Sched *sched);
void configure_deinit(Sched *sched);
/* Found or made. */
int configure_account(Sched *sched, const char *name, SchedAccount **ret_account) _must_check_;
/* The task waits and none of its agents is configured any more: it will fail, in a later turn. */
void configure_orphan(Sched *sched, const SchedTask *task);
void configure_retry(Sched *sched);
/* Where the task has no group, that of the first match. */
int configure_group(const Sched *sched, StoreTask *task) _must_check_;

/* ---- recover.c ---- */

/* The agents that may run it, as a mask; 0: none is configured any more. */
uint64_t recover_agents(Sched *sched, const StoreTask *record);

/* ---- run.c ---- */

/* Takes a queued task: writes its attempt and spawns it when durable. STORE_E_FULL, STORE_E_FAILED: nothing changed. */
int run_start(SchedTask *task, SchedAgent *agent) _must_check_;
/* A run found in the store at start, waiting for the launcher's LIST. */
int run_recover(SchedTask *task, SchedAgent *agent, StoreTask *record, const StoreAttempt *attempt) _must_check_;
void run_cancel(SchedRun *run);
/* True where the attempt's end is already written: the task, which would run again, is cancelled after it. */
bool run_cancel_ending(SchedRun *run) _must_check_;
/* Once more after a full store. */
void run_retry(SchedRun *run);
SchedRun *run_free(SchedRun *run);
SchedRun *run_from_link(ListLink *link);
/* Indexes with spaces between; NULL: none. */
const char *run_held_gpus(const SchedRun *run);

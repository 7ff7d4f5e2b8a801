/*
 * run: one attempt, from its row in the store to its end.
 *
 *   COMMITTING   the attempt's row is on its way to the disk; nothing was spawned
 *   SPAWNING     SPAWN was sent, or (after a restart of the router) the launcher's LIST is awaited
 *   RUNNING      execve has happened; output comes
 *   EXITED       the exit record is here; the end is being written, or waits for the store
 *   ENDING       the end is on its way to the disk; then the launcher may forget the attempt
 *
 * Output is a byte stream with offsets. Complete lines become events and move the attempt's committed offset to the
 * line's end, in one store request; when that is durable, the launcher is told (worker_acked). Bytes of an unfinished
 * line stay in `line` and unacknowledged, so a router that dies gets them again. A line longer than ADAPTER_LINE_MAX is
 * cut: what came is kept, the rest is dropped up to the newline, and an event says so.
 */

#include <stdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
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
        bool listed;                    /* the launcher's LIST has confirmed it */
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
};

static void run_spawn(SchedRun *run);
static void run_finish(SchedRun *run);
static void run_commit(SchedRun *run);

SchedRun *run_from_link(ListLink *link) {
        return container_of(link, SchedRun, link);
}

SchedTask *run_task(SchedRun *run) {
        return run->task;
}

SchedRun *run_free(SchedRun *run) {
        if (!run)
                return NULL;
        store_wait_cancel(&run->wait);
        timer_clear(&run->timeout);
        timer_clear(&run->inactivity);
        if (run->worker)
                worker_free(run->worker);
        for (size_t i = 0; i < ELEMENTSOF(run->streams); i++)
                buf_deinit(&run->streams[i].line);
        adapter_command_free(run->command);
        adapter_run_free(run->adapter);
        store_attempt_free(run->attempt);
        store_task_free(run->record);
        list_unlink(&run->link);
        if (run->task) {
                run->task->run = NULL;
                run->task->agent->n_running--;
                run->sched->n_running--;
        }
        free(run);
        return NULL;
}

static void run_log(const SchedRun *run, int level, const char *message_id, const char *text) {
        char task[ID_TEXT_MAX], attempt[ID_TEXT_MAX], pid[16] = "";

        id_format(&run->task->id, task);
        id_format(&run->attempt->id, attempt);
        if (run->worker)
                snprintf(pid, sizeof(pid), "%u", run->worker->pid);
        log_field(level, ((LogField[]){
                { "MESSAGE_ID", message_id },
                { "TASK_ID", task },
                { "ATTEMPT_ID", attempt },
                { "AGENT", run->record->agent },
                { "PRINCIPAL", run->record->principal },
                { "WORKER_PID", *pid ? pid : NULL },
                {} }), "task %s: %s", task, text);
}

/* ---- time ---- */

static double seconds_between(uint64_t from_us, uint64_t to_us) {
        return to_us > from_us ? (double)(to_us - from_us) / 1e6 : 0;
}

static void run_stop_worker(SchedRun *run) {
        if (run->worker && (run->phase == RUN_SPAWNING || run->phase == RUN_RUNNING))
                worker_kill(run->worker, run->grace_ms);
}

static void on_timeout(Timer *timer) {
        SchedRun *run = container_of(timer, SchedRun, timeout);

        run->timed_out = true;
        run->timeout_reason = "timeout";
        run_stop_worker(run);
}

static void run_touch(SchedRun *run) {
        if (run->inactivity_us && run->phase == RUN_RUNNING && !run->timed_out)
                timer_set(&run->inactivity, clock_monotonic_us() + run->inactivity_us);
}

static void on_inactivity(Timer *timer) {
        SchedRun *run = container_of(timer, SchedRun, inactivity);

        /* What it prints can't reach us: that is no fault of the agent's. */
        if (run->blocked || !launcher_client_is_ready(run->sched->client)) {
                run_touch(run);
                return;
        }
        run->timed_out = true;
        run->timeout_reason = "inactivity";
        run_stop_worker(run);
}

/* The timeout counts from the attempt's start, a restart of the router included. */
static void run_arm(SchedRun *run) {
        uint64_t age_us = 0, now_us = clock_realtime_us(),
                 from_us = run->attempt->execed_us ?: run->attempt->started_us;

        if (now_us > from_us)
                age_us = now_us - from_us;
        timer_set(&run->timeout,
                  clock_monotonic_us() + (run->record->timeout_us > age_us ? run->record->timeout_us - age_us : 0));
        run_touch(run);
}

/* ---- start ---- */

static int run_new(SchedTask *task, StoreTask *record_take, SchedRun **ret_run) {
        Sched *s = task->sched;
        SchedRun *run = calloc(1, sizeof(*run));
        int r;

        if (!run) {
                store_task_free(record_take);
                return error_origin(-ENOMEM);
        }
        run->sched = s;
        run->record = record_take;
        list_link_tail(&s->runs, &run->link);
        timer_init(&run->timeout, s->reactor, on_timeout);
        timer_init(&run->inactivity, s->reactor, on_inactivity);
        for (size_t i = 0; i < ELEMENTSOF(run->streams); i++)
                run->streams[i].line = (Buf)BUF_INIT(2 * LAUNCH_WINDOW);
        run->task = task;
        task->run = run;
        task->agent->n_running++;
        s->n_running++;
        run->attempt = calloc(1, sizeof(*run->attempt));
        r = run->attempt ? adapter_run_new(&run->adapter, task->agent->adapter) : error_origin(-ENOMEM);
        if (r) {
                run_free(run);
                return error_trace(r);
        }
        *ret_run = run;
        return 0;
}

static int run_render(SchedRun *run, char ret_error[static YAML_ERROR_MAX]) {
        int r;

        r = adapter_render(run->task->agent->adapter, run->record, RUN_HOME, &run->command, ret_error);
        if (r)
                return r;
        run->inactivity_us = run->command->inactivity_us;
        run->grace_ms = run->command->grace_ms;
        return 0;
}

/* The task can't be rendered for its agent any more (a changed manifest): it fails without an attempt. */
static int run_refuse(SchedTask *task, StoreTask *record, const char *why) {
        Sched *s = task->sched;
        int r;

        r = store_begin(s->store);
        if (r)
                return r;
        r = sched_write_state(s, record, TASK_EVENT_FAIL, "unsupported", why);
        int e = store_end(s->store, r == 0);
        r = r ?: e;
        if (!r)
                sched_settle(task, TASK_FAILED, 0);
        return r;
}

static void on_wait(StoreWait *wait, int error);

int run_start(SchedTask *task) {
        Sched *s = task->sched;
        StoreTask *record = NULL;
        char error[YAML_ERROR_MAX] = "";
        SchedRun *run;
        int r;

        r = store_task_load(s->store, &task->id, STORE_TASK_PROMPT, &record);
        if (r)
                return r;
        r = run_new(task, record, &run);
        if (r)
                return error_trace(r);
        run->picked_us = clock_monotonic_us();
        r = run_render(run, error);
        if (r > 0) {
                record = steal_ptr(&run->record);
                run_free(run);
                r = run_refuse(task, record, *error ? error : "its agent can't run it any more");
                store_task_free(record);
                return r;
        }
        if (!r)
                r = id_new(&run->attempt->id);
        if (r) {
                run_free(run);
                return error_trace(r);
        }
        run->attempt->task_id = task->id;
        run->attempt->number = run->record->n_attempts + 1;
        run->attempt->open = true;
        run->attempt->generation = s->generation;
        run->attempt->started_us = clock_realtime_us();
        run->attempt->exit_code = -1;
        run->attempt->usage = (StoreUsage)STORE_USAGE_UNKNOWN;
        run->record->n_attempts++;
        run->record->not_before_us = 0;
        if (!run->record->started_us) {
                run->record->started_us = run->attempt->started_us;
                metric_observe(s->metrics.queue_wait,
                               seconds_between(run->record->created_us, run->record->started_us));
        }
        run->record->cancel_requested = task->cancel_requested;

        r = store_begin(s->store);
        if (!r) {
                r = store_attempt_insert(s->store, run->attempt);
                r = r ?: sched_write_state(s, run->record, TASK_EVENT_PICK, NULL, NULL);
                int e = store_end(s->store, r == 0);
                r = r ?: e;
        }
        if (r) {
                run_free(run);
                return r;
        }
        heap_remove(&task->agent->ready, &task->heap);
        s->n_waiting--;
        task->state = TASK_RUNNING;
        run->phase = RUN_COMMITTING;
        /* The prompt is in the command now. */
        free(steal_ptr(&run->record->prompt));
        run->waiting = true;
        store_wait(s->store, &run->wait, on_wait);
        return 0;
}

static int run_attempt_end(SchedRun *run, const char *outcome, const char *reason, const char *detail) {
        int r;

        r = sched_set_str(&run->attempt->outcome, outcome);
        r = r ?: sched_set_str(&run->attempt->reason, reason);
        r = r ?: sched_set_str(&run->attempt->detail, detail);
        if (r)
                return error_trace(r);
        run->attempt->open = false;
        run->attempt->finished_us = clock_realtime_us();
        return store_attempt_update(run->sched->store, run->attempt);
}

static void add_usage(int64_t *sum, int64_t v) {
        if (v >= 0)
                *sum = MAX(*sum, INT64_C(0)) + v;
}

static TaskEvent run_decide(SchedRun *run, RunEnd *end) {
        uint64_t backoff_us;

        /* Done before the request to end it took effect is done. */
        if (end->event == TASK_EVENT_SUCCEED && !run->exit.killed)
                return TASK_EVENT_SUCCEED;
        if (run->task->cancel_requested) {
                end->outcome = "cancelled";
                end->reason = "cancelled";
                return TASK_EVENT_CANCEL;
        }
        if (end->event != TASK_EVENT_FAIL || !end->retryable)
                return end->event;
        if (run->record->n_attempts >= run->record->max_attempts)
                return run->record->max_attempts > 1 ? TASK_EVENT_EXHAUST : TASK_EVENT_FAIL;
        backoff_us = run->record->backoff_us;
        for (uint32_t i = 1; i < run->record->n_attempts && backoff_us < SCHED_BACKOFF_MAX_US; i++)
                backoff_us *= 2;
        backoff_us = MAX(MIN(backoff_us, SCHED_BACKOFF_MAX_US), end->retry_after_us);
        run->next_due_us = run->record->not_before_us = clock_realtime_us() + backoff_us;
        return TASK_EVENT_DELAY;
}

static int run_append(SchedRun *run, StoreEvent *event) {
        uint64_t seq;
        int r;

        event->attempt = run->attempt->number;
        event->at_us = clock_realtime_us();
        r = store_event_append(run->sched->store, &run->task->id, event, &seq);
        if (!r)
                run->attempt->captured_bytes += event->n_data + event->n_raw;
        return r;
}

/* The answer as an event, where the agent's own output had none: bounded, cut at a character's end. */
static int run_append_result(SchedRun *run, const char *text, size_t n) {
        _cleanup_(buf_deinit) Buf data = BUF_NULL;
        StoreEvent event = { .type = "result", .stream = 0 };
        bool truncated = n > RUN_RESULT_EVENT_MAX;
        int r;

        if (truncated)
                for (n = RUN_RESULT_EVENT_MAX; n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80; n--)
                        ;
        r = buf_append_str(&data, "{\"text\":");
        r = r ?: json_append_string(&data, text, n);
        r = r ?: buf_append_str(&data, truncated ? ",\"truncated\":true}" : "}");
        if (r)
                return error_fold(r);
        event.data = (const char *)buf_data(&data);
        event.n_data = buf_size(&data);
        return run_append(run, &event);
}

/* What a request that the store undid leaves as it was. */
typedef struct RunBefore {
        TaskState state;
        uint64_t updated_us, finished_us, not_before_us, captured_bytes;
} RunBefore;

static RunBefore run_before(const SchedRun *run) {
        return (RunBefore){ .state = run->record->state, .updated_us = run->record->updated_us,
                            .finished_us = run->record->finished_us, .not_before_us = run->record->not_before_us,
                            .captured_bytes = run->attempt->captured_bytes };
}

static void run_undo(SchedRun *run, const RunBefore *before) {
        run->record->state = before->state;
        run->record->updated_us = before->updated_us;
        run->record->finished_us = before->finished_us;
        run->record->not_before_us = before->not_before_us;
        run->attempt->captured_bytes = before->captured_bytes;
        run->attempt->open = true;
        run->attempt->finished_us = 0;
}

/*
 * Writes attempt and task in one request; on success the run is ENDING and a wait is under way, else nothing changed.
 */
static int run_write_end(SchedRun *run, RunEnd *end) {
        Sched *s = run->sched;
        const RunBefore before = run_before(run);
        TaskEvent event = run_decide(run, end);
        int r;

        r = store_begin(s->store);
        if (r) {
                run_undo(run, &before);
                return r;
        }
        run->record->cancel_requested = run->task->cancel_requested;
        if (event == TASK_EVENT_SUCCEED && end->text)
                r = run_append_result(run, end->text, end->n_text);
        r = r ?: run_attempt_end(run, end->outcome, end->reason, end->detail);
        r = r ?: sched_write_state(s, run->record, event, end->reason, end->detail);
        int e = store_end(s->store, r == 0);
        r = r ?: e;
        if (r) {
                run_undo(run, &before);
                return r;
        }
        run->next = run->record->state;
        run->phase = RUN_ENDING;
        timer_clear(&run->timeout);
        timer_clear(&run->inactivity);
        metric_add(metric_get(s->metrics.attempts, end->outcome), 1);
        metric_observe(s->metrics.duration, seconds_between(run->attempt->started_us, run->attempt->finished_us));
        run->dirty = true;
        run_commit(run);
        return 0;
}

static void run_ended(SchedRun *run) {
        SchedTask *task = run->task;
        TaskState next = run->next;
        uint64_t due_us = run->next_due_us;
        char text[160];

        snprintf(text, sizeof(text), "attempt %u %s%s%s: %s", run->attempt->number, run->attempt->outcome,
                 run->attempt->reason ? ", " : "", run->attempt->reason ?: "", task_state_name(next));
        run_log(run, LOG_INFO, streq(run->attempt->outcome, "lost") ? LOG_ID_ATTEMPT_LOST : LOG_ID_TASK_FINISHED, text);
        if (run->worker) {
                worker_forget(run->worker);
                run->worker = NULL;
        }
        run_free(run);
        sched_settle(task, next, due_us);
}

/* The attempt's row as it is now. */
static int run_save(SchedRun *run) {
        int r, e;

        r = store_begin(run->sched->store);
        if (r)
                return r;
        r = store_attempt_update(run->sched->store, run->attempt);
        e = store_end(run->sched->store, r == 0);
        return r ?: e;
}

static void run_spawn(SchedRun *run) {
        Sched *s = run->sched;
        WorkerSpec spec;
        int r;

        if (run->task->cancel_requested) {
                RunEnd end = { .outcome = "cancelled", .reason = "cancelled", .event = TASK_EVENT_CANCEL };
                if (run_write_end(run, &end))
                        sched_retry_later(s);
                return;
        }
        if (!run->command || !s->client || !launcher_client_is_ready(s->client))
                return;         /* on_ready comes back to it */
        if (!id_equal(&run->attempt->generation, &s->generation)) {
                /*
                 * Another launcher since the row was written: a restarted router must know whom to ask for the attempt.
                 */
                Id generation = run->attempt->generation;
                run->attempt->generation = s->generation;
                if (run_save(run)) {
                        run->attempt->generation = generation;
                        sched_retry_later(s);
                } else
                        run_commit(run);
                return;
        }
        spec = (WorkerSpec){
                .attempt = run->attempt->id,
                .task = run->task->id,
                .agent = run->record->agent,
                .argv = (const char *const *)run->command->argv,
                .environment = (const char *const *)run->command->environment,
                .credentials = (const char *const *)run->command->credentials,
                .read_only = (const char *const *)run->command->read_only,
                .home_files = (const char *const *)run->command->home_files,
                .require = s->config.require,
                .stdin_data = run->command->stdin_data,
                .n_stdin = run->command->n_stdin,
                .workspace = run->record->workspace,
                .seccomp = run->command->seccomp,
                .uid = run->record->run_as_uid,
                .memory_max = run->command->memory_max ?: s->config.memory_max,
                .pids_max = run->command->pids_max ?: s->config.pids_max,
                .cpu_percent = run->command->cpu_percent ?: s->config.cpu_percent,
                .network = run->command->network,
        };
        r = launcher_spawn(s->client, &spec, run, &run->worker);
        if (r == WORKER_E_BUSY || r == WORKER_E_NOT_READY)
                return;         /* on_drain or on_ready comes back to it */
        if (r) {
                RunEnd end = { .outcome = "spawn_failed", .event = TASK_EVENT_FAIL, .retryable = r < 0,
                               .reason = r > 0 ? "too_large" : "spawn_failed",
                               .detail = r > 0 ? launcher_client_too_large(s->client)
                                               : "the launcher could not be asked: out of memory or descriptors" };
                if (run_write_end(run, &end))
                        sched_retry_later(s);
                return;
        }
        run->phase = RUN_SPAWNING;
}

/* ---- durability ---- */

static void run_commit(SchedRun *run) {
        if (run->waiting)
                return;
        run->waiting = true;
        run->dirty = false;
        for (size_t i = 0; i < ELEMENTSOF(run->streams); i++)
                run->streams[i].waiting = run->streams[i].committed;
        store_wait(run->sched->store, &run->wait, on_wait);
}

static void on_wait(StoreWait *wait, int error) {
        SchedRun *run = container_of(wait, SchedRun, wait);

        run->waiting = false;
        if (error)
                return;         /* the store has failed: nothing is acknowledged, nothing ends, until a restart */
        if (run->phase == RUN_COMMITTING) {
                sched_notify(run->task, false);
                run_spawn(run);
                return;
        }
        for (unsigned i = 0; i < ELEMENTSOF(run->streams); i++)
                if (run->worker && run->streams[i].waiting > 0)
                        worker_acked(run->worker, i + 1, run->streams[i].waiting);
        if (run->phase == RUN_ENDING && !run->dirty) {
                run_ended(run);
                return;
        }
        /* Told after each commit: an agent that never pauses would leave its watchers waiting else. */
        sched_notify(run->task, false);
        if (run->dirty)
                run_commit(run);
}

/* ---- output ---- */

typedef struct LineContext {
        SchedRun *run;
        unsigned stream;
        const char *raw;
        size_t n_raw;
        unsigned n_events;
        bool kept;                      /* the line itself is in the store */
} LineContext;

/* What the outcome is made from, a line that only says something to the adapter (a session, a success) included. */
static bool event_is_essential(const char *type) {
        return streq(type, "text") || streq(type, "usage") || streq(type, "result") || streq(type, "error") || streq(type, "raw");
}

static int run_append_truncated(SchedRun *run, unsigned stream, const char *what, uint64_t limit) {
        char data[128];
        StoreEvent event = { .type = "truncated", .data = data, .stream = stream };

        metric_add(run->sched->metrics.truncated, 1);
        event.n_data = (size_t)snprintf(data, sizeof(data), "{\"what\":\"%s\",\"limit_bytes\":%llu,\"stream\":\"%s\"}", what,
                                        (unsigned long long)limit, stream == 1 ? "stdout" : "stderr");
        return run_append(run, &event);
}

static int on_event(void *userdata, const char *type, const char *data, size_t n_data) {
        LineContext *c = userdata;
        SchedRun *run = c->run;
        uint64_t max = run->sched->config.capture_max, kept = run->attempt->captured_bytes;
        StoreEvent event = { .type = type, .data = data, .n_data = n_data, .stream = c->stream };

        c->n_events++;
        if (kept > max && (kept > max * RUN_ESSENTIAL_FACTOR || !event_is_essential(type)))
                return 0;
        /* The line itself is kept once, with the first of its events that is. */
        if (!c->kept) {
                event.raw = c->raw;
                event.n_raw = c->n_raw;
        }
        c->kept = true;
        int r = run_append(run, &event);
        if (!r && streq(type, "result"))
                run->has_result = true;
        if (!r && kept <= max && run->attempt->captured_bytes > max)
                r = run_append_truncated(run, c->stream, "output", max);
        return r;
}

/* One line, or the kept beginning of one that is cut. In a store request. */
static int run_line(SchedRun *run, unsigned stream, const char *line, size_t n) {
        LineContext c = { .run = run, .stream = stream, .raw = line, .n_raw = n };
        int r;

        r = adapter_run_line(run->adapter, stream, line, n, on_event, &c);
        if (r)
                return r;
        /* A line that maps to nothing is kept all the same: what a restarted router replays must be whole. */
        return c.n_events ? 0 : on_event(&c, "raw", "{}", 2);
}

static uint32_t *run_flags(SchedRun *run, unsigned i) {
        return i == 0 ? &run->attempt->stdout_flags : &run->attempt->stderr_flags;
}

static void run_set_offset(SchedRun *run, unsigned i, uint64_t offset) {
        *(i == 0 ? &run->attempt->stdout_offset : &run->attempt->stderr_offset) = offset;
}

static int replay_event(const StoreEvent *event, void *userdata) {
        SchedRun *run = userdata;

        if (event->attempt != run->attempt->number)
                return 0;
        run->has_result |= streq(event->type, "result");
        return event->raw ? adapter_run_line(run->adapter, event->stream, event->raw, event->n_raw, NULL, NULL) : 0;
}

/* Brings the adapter to where the stored lines have left it: after a restart, and after lines that the store undid. */
static int run_replay(SchedRun *run) {
        AdapterRun *adapter = NULL;
        int r;

        r = adapter_run_new(&adapter, run->task->agent->adapter);
        if (r)
                return error_trace(r);
        adapter_run_free(run->adapter);
        run->adapter = adapter;
        run->has_result = false;
        r = store_event_list(run->sched->store, &run->task->id, 0, UINT32_MAX, replay_event, run);
        run->stale = r != 0;
        return error_fold(r);
}

/*
 * Turns what is buffered into events, line by line, in one store request; `last` takes an unfinished line too. The
 * adapter has seen a line before the store may refuse it (a full disk): then the adapter is made anew from what is
 * stored, and the line is offered again.
 */
static int run_consume(SchedRun *run, unsigned i, bool last) {
        RunStream *st = &run->streams[i];
        size_t used = 0, size = buf_size(&st->line);
        const char *data = (const char *)buf_data(&st->line);
        uint32_t flags = st->flags;
        uint64_t captured = run->attempt->captured_bytes;
        int r = 0;

        if (!size)
                return 0;
        run->blocked = true;            /* until it has gone well */
        if (run->stale) {
                r = run_replay(run);
                if (r)
                        return error_trace(r);
        }
        r = store_begin(run->sched->store);
        if (r)
                return r;
        while (r == 0 && used < size) {
                const char *at = data + used, *newline = memchr(at, '\n', size - used);
                size_t n = newline ? (size_t)(newline - at) : size - used;

                if (flags & RUN_LINE_CUT) {
                        used += n + (newline != NULL);
                        if (newline)
                                flags &= ~RUN_LINE_CUT;
                        continue;
                }
                if (n > ADAPTER_LINE_MAX) {
                        r = run_line(run, i + 1, at, ADAPTER_LINE_MAX);
                        r = r ?: run_append_truncated(run, i + 1, "line", ADAPTER_LINE_MAX);
                        used += ADAPTER_LINE_MAX;
                        flags |= RUN_LINE_CUT;
                        continue;
                }
                if (!newline && !last)
                        break;
                r = run_line(run, i + 1, at, n);
                used += n + (newline != NULL);
        }
        if (r == 0 && used) {
                run_set_offset(run, i, st->committed + used);
                *run_flags(run, i) = flags;
                r = store_attempt_update(run->sched->store, run->attempt);
        }
        int e = store_end(run->sched->store, r == 0);
        r = r ?: e;
        if (r) {
                run_set_offset(run, i, st->committed);
                *run_flags(run, i) = st->flags;
                run->attempt->captured_bytes = captured;
                run->stale = true;
                return r;
        }
        run->blocked = false;
        if (used) {
                st->flags = flags;
                st->committed += used;
                buf_consume(&st->line, used);
                buf_trim(&st->line, KIB(16));
                run->dirty = true;
                run_commit(run);
        }
        return 0;
}

static void on_output(Worker *worker, unsigned stream, uint64_t offset, const uint8_t *data, size_t n) {
        SchedRun *run = worker->userdata;
        RunStream *st = &run->streams[stream - 1];
        int r;

        if (!run)
                return;
        metric_add(run->sched->metrics.output_bytes, (double)n);
        run_touch(run);
        if (offset != st->committed + buf_size(&st->line)) {
                log_error("output of an attempt arrived out of place: dropped until it is sent again");
                return;
        }
        /* Never full: the launcher sends at most its window beyond what was acknowledged. */
        r = buf_append(&st->line, data, n);
        if (r) {
                log_error("no memory for output: it is sent again after a reconnect");
                return;
        }
        /* While the store is full, the timer tries. */
        if (!run->blocked && run_consume(run, stream - 1, false))
                sched_retry_later(run->sched);
}

/* ---- end ---- */

static void run_add_usage(SchedRun *run, const StoreUsage *u) {
        StoreUsage *sum = &run->record->usage;

        add_usage(&sum->input_tokens, u->input_tokens);
        add_usage(&sum->cached_input_tokens, u->cached_input_tokens);
        add_usage(&sum->output_tokens, u->output_tokens);
        add_usage(&sum->reasoning_tokens, u->reasoning_tokens);
        add_usage(&sum->cost_microusd, u->cost_microusd);
}

static void run_count_usage(SchedRun *run, const StoreUsage *u) {
        const struct { const char *kind; int64_t n; } all[] = {
                { "input", u->input_tokens },
                { "cached_input", u->cached_input_tokens },
                { "output", u->output_tokens },
                { "reasoning", u->reasoning_tokens },
        };

        for (size_t i = 0; i < ELEMENTSOF(all); i++)
                if (all[i].n > 0)
                        metric_add(metric_get(run->sched->metrics.tokens, all[i].kind), (double)all[i].n);
}

static int run_set_result(SchedRun *run, const AdapterOutcome *o) {
        char *text;

        if (!o->text)
                return 0;
        text = malloc(o->n_text + 1);
        if (!text)
                return error_origin(-ENOMEM);
        memcpy(text, o->text, o->n_text);
        text[o->n_text] = 0;
        free(run->record->result);
        run->record->result = text;
        run->record->n_result = o->n_text;
        run->record->result_truncated = o->text_truncated;
        return 0;
}

/* The exit record is here: what is left of the output, then the outcome. Called again where the store was full. */
static void run_finish(SchedRun *run) {
        Sched *s = run->sched;
        AdapterOutcome outcome = {};
        RunEnd end = {};
        char detail[RUN_DETAIL_MAX];
        StoreUsage before = run->record->usage;
        int r;

        r = run_consume(run, 0, true);
        r = r ?: run_consume(run, 1, true);
        if (r) {
                sched_retry_later(s);
                return;
        }
        adapter_run_finish(run->adapter, run->exit.how == LAUNCH_HOW_EXITED ? (int)run->exit.value : -1,
                           run->exit.how == LAUNCH_HOW_SIGNALLED ? (int)run->exit.value : 0, run->exit.oom_kills,
                           &outcome);
        run->attempt->exit_code = run->exit.how == LAUNCH_HOW_EXITED ? (int32_t)run->exit.value : -1;
        run->attempt->signal = run->exit.how == LAUNCH_HOW_SIGNALLED ? (int32_t)run->exit.value : 0;
        run->attempt->memory_peak = run->exit.memory_peak;
        run->attempt->cpu_us = run->exit.cpu_us;
        run->attempt->oom_kills = run->exit.oom_kills;
        run->attempt->usage = outcome.usage;

        end.reason = outcome.reason;
        end.detail = *outcome.detail ? outcome.detail : NULL;
        end.retryable = outcome.retryable;
        end.retry_after_us = outcome.retry_after_us;
        if (run->timed_out && !(outcome.succeeded && !run->exit.killed)) {
                end.outcome = "timed_out";
                end.reason = run->timeout_reason;
                end.event = TASK_EVENT_TIME_OUT;
                snprintf(detail, sizeof(detail), streq(run->timeout_reason, "timeout") ? "it ran longer than its timeout of %llu s"
                         : "it printed nothing for %llu s", (unsigned long long)((streq(run->timeout_reason, "timeout") ?
                         run->record->timeout_us : run->inactivity_us) / USEC_PER_SEC));
                end.detail = detail;
        } else if (outcome.succeeded) {
                end.outcome = "succeeded";
                end.event = TASK_EVENT_SUCCEED;
                if (!run->has_result && outcome.text) {
                        end.text = outcome.text;
                        end.n_text = outcome.n_text;
                }
        } else {
                end.outcome = "failed";
                end.event = TASK_EVENT_FAIL;
                if (run->exit.pids_hit) {
                        snprintf(detail, sizeof(detail), "%s%sit hit its limit of processes (pids_max) %u times",
                                 outcome.detail, *outcome.detail ? "; " : "", run->exit.pids_hit);
                        end.detail = detail;
                }
        }
        r = sched_set_str(&run->attempt->session, outcome.session);
        r = r ?: run_set_result(run, &outcome);
        if (!r) {
                run_add_usage(run, &outcome.usage);
                r = run_write_end(run, &end);
        }
        if (r) {
                run->record->usage = before;
                sched_retry_later(s);
        } else
                run_count_usage(run, &outcome.usage);
}

/* An end that needs no exit record; again where the store was full. */
static void run_finish_without_record(SchedRun *run) {
        RunEnd end = run->end;
        int r;

        r = run_consume(run, 0, true);
        r = r ?: run_consume(run, 1, true);
        r = r ?: run_write_end(run, &end);
        if (r)
                sched_retry_later(run->sched);
}

static void run_end_without_record(SchedRun *run, RunEnd end) {
        snprintf(run->end_detail, sizeof(run->end_detail), "%s", end.detail ?: "");
        run->end = end;
        run->end.detail = *run->end_detail ? run->end_detail : NULL;
        run->has_end = true;
        run->phase = RUN_EXITED;
        timer_clear(&run->timeout);
        timer_clear(&run->inactivity);
        run_finish_without_record(run);
}

static void run_lost(SchedRun *run, const char *detail) {
        run->exit = (WorkerExit){ .how = LAUNCH_HOW_LOST };
        run_end_without_record(run, (RunEnd){ .outcome = "lost", .reason = "lost", .detail = detail, .event = TASK_EVENT_FAIL,
                                              .retryable = true });
}

static void on_exited(Worker *worker, const WorkerExit *exit) {
        SchedRun *run = worker->userdata;

        if (!run || run->phase >= RUN_EXITED)
                return;
        run->exit = *exit;
        run->phase = RUN_EXITED;
        timer_clear(&run->timeout);
        timer_clear(&run->inactivity);
        if (exit->how == LAUNCH_HOW_LOST)
                run_lost(run, "its process ended without a report");
        else
                run_finish(run);
}

static void on_spawned(Worker *worker, uint64_t execed_at_us) {
        SchedRun *run = worker->userdata;
        uint64_t now_us = clock_monotonic_us();

        if (!run || run->phase != RUN_SPAWNING)
                return;
        run->phase = RUN_RUNNING;
        run->attempt->execed_us = clock_realtime_us() - (now_us - MIN(now_us, execed_at_us));
        if (run->picked_us)
                metric_observe(run->sched->metrics.latency, seconds_between(run->picked_us, execed_at_us));
        adapter_command_free(run->command);
        run->command = NULL;
        run_arm(run);
        run_log(run, LOG_INFO, LOG_ID_TASK_STARTED, "started");
        /* Where the store is full, the time goes with the next write. */
        if (run_save(run) == 0) {
                run->dirty = true;
                run_commit(run);
        }
        if (run->task->cancel_requested)
                run_stop_worker(run);
}

static bool stage_is_passing(int error) {
        return error == EAGAIN || error == ENOMEM || error == EMFILE || error == ENFILE || error == ENOSPC;
}

static void on_spawn_failed(Worker *worker, const char *stage, int error, const char *text) {
        SchedRun *run = worker->userdata;

        if (!run || run->phase >= RUN_EXITED)
                return;
        run->worker = NULL;     /* the client frees it */
        run_end_without_record(run, (RunEnd){ .outcome = "spawn_failed", .event = TASK_EVENT_FAIL,
                                              .reason = streq(stage, "workspace") ? "workspace" : "spawn_failed",
                                              .detail = text, .retryable = stage_is_passing(error) });
}

/* ---- cancel, retry ---- */

void run_cancel(SchedRun *run) {
        /* EXITED and ENDING are past it. */
        if (run->phase == RUN_COMMITTING && !run->waiting)
                run_spawn(run); /* it waits for the launcher: looks at cancel_requested first */
        else
                run_stop_worker(run);
}

bool run_cancel_ending(SchedRun *run) {
        if (run->phase != RUN_ENDING)
                return false;
        run->next = TASK_CANCELLED;
        run->dirty = true;
        run_commit(run);
        return true;
}

void run_retry(SchedRun *run) {
        switch (run->phase) {
        case RUN_COMMITTING:
                if (!run->waiting)
                        run_spawn(run);
                break;
        case RUN_SPAWNING:
        case RUN_RUNNING:
                for (unsigned i = 0; i < ELEMENTSOF(run->streams); i++)
                        if (run_consume(run, i, false))
                                sched_retry_later(run->sched);
                break;
        case RUN_EXITED:
                if (run->has_end)
                        run_finish_without_record(run);
                else
                        run_finish(run);
                break;
        case RUN_ENDING:
                break;
        }
}

/* ---- recovery ---- */

static int copy_attempt(StoreAttempt *to, const StoreAttempt *from) {
        int r;

        *to = *from;
        to->outcome = to->reason = to->detail = to->session = NULL;
        r = sched_set_str(&to->outcome, from->outcome);
        r = r ?: sched_set_str(&to->reason, from->reason);
        r = r ?: sched_set_str(&to->detail, from->detail);
        return r ?: sched_set_str(&to->session, from->session);
}

int run_recover(SchedTask *task, StoreTask *record_take, const StoreAttempt *attempt) {
        char error[YAML_ERROR_MAX];
        SchedRun *run;
        int r;

        r = run_new(task, record_take, &run);
        if (r)
                return error_trace(r);
        r = copy_attempt(run->attempt, attempt);
        r = r ?: run_replay(run);
        if (r) {
                run_free(run);
                return error_trace(r);
        }
        run->streams[0].committed = attempt->stdout_offset;
        run->streams[0].flags = attempt->stdout_flags;
        run->streams[1].committed = attempt->stderr_offset;
        run->streams[1].flags = attempt->stderr_flags;
        /* Should it never have been sent, it can be rendered again; where not (a changed manifest), it is lost. */
        if (run_render(run, error) != 0)
                run->inactivity_us = 0;
        free(steal_ptr(&run->record->prompt));
        run->phase = RUN_SPAWNING;
        return 0;
}

static Worker *on_listed(LauncherClient *client, const Id *attempt, uint32_t pid) {
        Sched *s = launcher_client_userdata(client);

        list_for_each_safe(i, &s->runs) {
                SchedRun *run = container_of(i, SchedRun, link);
                if (!id_equal(&run->attempt->id, attempt))
                        continue;
                run->listed = true;
                if (!run->worker) {
                        const uint64_t offsets[2] = { run->streams[0].committed, run->streams[1].committed };
                        if (worker_adopt(client, attempt, offsets, run, &run->worker))
                                return NULL;
                        adapter_command_free(run->command);
                        run->command = NULL;
                        /* Where the store does not know of its execve, on_spawned tells. */
                        if (run->phase == RUN_SPAWNING && run->attempt->execed_us)
                                run->phase = RUN_RUNNING;
                        if (run->phase == RUN_RUNNING)
                                run_arm(run);
                        if (run->task->cancel_requested)
                                run_stop_worker(run);
                }
                return run->worker;
        }
        return NULL;
}

static void on_ready(LauncherClient *client, const Id *generation) {
        Sched *s = launcher_client_userdata(client);
        char text[ID_TEXT_MAX];

        id_format(generation, text);
        s->generation = *generation;
        log_field(LOG_INFO, ((LogField[]){ { "MESSAGE_ID", LOG_ID_LAUNCHER_READY }, { "LAUNCHER_GENERATION", text }, {} }),
                  "connected to the launcher");
        list_for_each_safe(i, &s->runs) {
                SchedRun *run = container_of(i, SchedRun, link);
                bool listed = run->listed, same = id_equal(&run->attempt->generation, generation);

                run->listed = false;
                if (listed || run->phase == RUN_ENDING)
                        continue;
                if (run->phase == RUN_EXITED) {
                        /* Its exit record was here already; only the launcher's copy is gone. */
                        continue;
                }
                if (run->worker) {
                        worker_free(run->worker);
                        run->worker = NULL;
                }
                if (run->phase == RUN_COMMITTING) {
                        if (!run->waiting)
                                run_spawn(run);
                        continue;
                }
                /*
                 * The launcher keeps an attempt until the router says FORGET, which follows the durable end: one that
                 * this very launcher does not hold was never begun, and may be. Another launcher's are lost.
                 */
                if (same && run->command && run->phase == RUN_SPAWNING) {
                        run->phase = RUN_COMMITTING;    /* its row is durable; only the SPAWN is missing */
                        run_spawn(run);
                } else
                        run_lost(run, "the launcher that ran it is gone");
        }
        sched_kick(s);
}

static void on_lost(LauncherClient *client, int error) {
        log_field(LOG_WARNING, ((LogField[]){ { "MESSAGE_ID", LOG_ID_LAUNCHER_LOST }, {} }),
                  "the connection to the launcher is lost (%s): running agents go on, new ones wait until it is back",
                  error ? strerror(-error) : "closed");
}

static void on_drain(LauncherClient *client) {
        Sched *s = launcher_client_userdata(client);

        list_for_each_safe(i, &s->runs) {
                SchedRun *run = container_of(i, SchedRun, link);
                if (run->phase == RUN_COMMITTING && !run->waiting)
                        run_spawn(run);
        }
}

const LauncherVtable sched_launcher_vtable = {
        .on_drain = on_drain,
        .on_ready = on_ready,
        .on_listed = on_listed,
        .on_spawned = on_spawned,
        .on_spawn_failed = on_spawn_failed,
        .on_output = on_output,
        .on_exited = on_exited,
        .on_lost = on_lost,
};

/*
 * run-output: an attempt's output becomes events.
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
#include "sched/run.h"

int run_append(SchedRun *run, StoreEvent *event) {
        uint64_t seq;
        int r;

        event->attempt = run->attempt->number;
        event->at_us = clock_realtime_us();
        r = store_event_append(run->sched->store, &run->task->node.id, event, &seq);
        sched_tell(run->sched);
        if (!r)
                run->attempt->captured_bytes += event->n_data + event->n_raw;
        return r;
}

/* The answer as an event, where the agent's own output had none: bounded, cut at a character's end. */
int run_append_result(SchedRun *run, const char *text, size_t n) {
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

int run_append_truncated(SchedRun *run, unsigned stream, const char *what, uint64_t limit) {
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
int run_replay(SchedRun *run) {
        AdapterRun *adapter = NULL;
        int r;

        r = adapter_run_new(&adapter, run->agent->adapter);
        if (r)
                return error_trace(r);
        adapter_run_free(run->adapter);
        run->adapter = adapter;
        run->has_result = false;
        r = store_event_list(run->sched->store, &run->task->node.id, 0, UINT32_MAX, replay_event, run);
        run->stale = r != 0;
        return error_fold(r);
}

/*
 * Turns what is buffered into events, line by line, in one store request; `last` takes an unfinished line too. The
 * adapter has seen a line before the store may refuse it (a full disk): then the adapter is made anew from what is
 * stored, and the line is offered again.
 */
int run_consume(SchedRun *run, unsigned i, bool last) {
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
        if (!run->over_budget && budget_is_over(&run->charge, &run->record->usage, adapter_run_usage(run->adapter))) {
                run->over_budget = true;
                run_stop_worker(run);
        }
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

void run_on_output(Worker *worker, unsigned stream, uint64_t offset, const uint8_t *data, size_t n) {
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

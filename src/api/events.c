/*
 * events: GET /tasks/{id}/events and GET /events as server-sent events. An EventStream reads the store from its
 * cursor in bounded chunks, sends a chunk when it is durable, and pulls the next when that is drained; a watch (of a
 * live task, or of all) says when there is more. So a reconnect is a read from the store followed by a live join,
 * without a gap or a repeat, and a slow client is simply not pulled for. After the last event of an ended task comes
 * `end`; the stream of all tasks has none. Its cursor is an event's number among all, not the sequence of its task.
 */

#include <inttypes.h>
#include <stdio.h>

#include "api/internal.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/parse.h"
#include "proto/sse.h"

#define EVENTS_CHUNK            64              /* events read at once, or fewer that come to EVENTS_QUEUED_MAX bytes */
#define EVENTS_HIDDEN           1001            /* nor that: from here on they may yet be undone */
#define EVENTS_FULL             1000            /* no store result: the chunk is large enough */
#define EVENTS_QUEUED_MAX       KIB(64)         /* not pulled while more than this waits to be sent */
#define EVENTS_HELD_RETRY_S     5               /* Retry-After where the caller has too many streams */
#define EVENTS_RETRY_MS         1000            /* the reconnect delay that the client is told */

struct EventStream {
        Conn *conn;
        Api *api;
        Id task_id;                     /* null: of all tasks that the caller may see */
        char principal[PRINCIPAL_NAME_MAX];     /* of all tasks: whose; "": everybody's */
        uint64_t after;                 /* sequence, or number, of the last event that was read */
        bool with_raw;
        bool ended;                     /* the task has ended: what the store has is all there is */
        bool more;                      /* something may be there to read */
        bool waiting;                   /* a chunk is becoming durable */
        bool at_end;                    /* that chunk is the last */
        bool watching;
        unsigned stalled;               /* heartbeats since the client last took something */
        SchedWatch watch;
        StoreWait wait;
        Defer again;                    /* many events of others were looked at: go on after what else there is to do */
        Buf out;
};

static int append_members(Buf *out, const StoreEvent *e, bool with_raw) {
        int r;

        r = buf_printf(out, "\"seq\":%" PRIu64 ",\"at\":", e->seq);
        r = r ?: json_append_time(out, e->at_us);
        r = r ?: buf_printf(out, ",\"attempt\":%u,\"type\":\"%s\",\"data\":", e->attempt, e->type);
        r = r ?: buf_append(out, e->data, e->n_data);
        if (!r && with_raw && e->raw) {
                r = buf_append_str(out, ",\"raw\":");
                r = r ?: json_append_string(out, e->raw, e->n_raw);
        }
        return r ?: buf_append_str(out, "}");
}

int event_append_json(Buf *out, const StoreEvent *e, bool with_raw) {
        return buf_append_str(out, "{") ?: append_members(out, e, with_raw);
}

EventStream *events_free(EventStream *s) {
        if (!s)
                return NULL;
        if (s->watching)
                sched_unwatch(&s->watch);
        if (s->waiting)
                store_wait_cancel(&s->wait);
        defer_cancel(&s->again);
        buf_deinit(&s->out);
        free(s);
        return NULL;
}

DEFINE_CLEANUP(EventStream, events_free);

static void events_pull(EventStream *s);

typedef struct ChunkContext {
        EventStream *stream;
        size_t n;
} ChunkContext;

static int append_event(EventStream *s, uint64_t n, const Id *task, const StoreEvent *event) {
        _cleanup_(buf_deinit) Buf data = BUF_NULL;
        char id[24], task_id[ID_TEXT_MAX];
        int r;

        if (streq(event->type, "raw") && !s->with_raw)
                return 0;
        snprintf(id, sizeof(id), "%" PRIu64, n);
        r = buf_append_str(&data, "{");
        if (!r && task) {
                id_format(task, task_id);
                r = buf_printf(&data, "\"task\":\"%s\",", task_id);
        }
        r = r ?: append_members(&data, event, s->with_raw);
        r = r ?: sse_write_event(&s->out, id, event->type, (const char *)buf_data(&data), buf_size(&data));
        return r ?: buf_size(&s->out) > EVENTS_QUEUED_MAX ? EVENTS_FULL : 0;
}

static int on_task_event(const StoreEvent *event, void *userdata) {
        ChunkContext *c = userdata;

        c->n++;
        c->stream->after = event->seq;
        return append_event(c->stream, event->seq, NULL, event);
}

static int on_any_event(uint64_t n, const Id *task, const StoreEvent *event, void *userdata) {
        ChunkContext *c = userdata;

        if (n > api_events_max(c->stream->api, c->stream->principal))
                return EVENTS_HIDDEN;
        c->stream->after = n;
        return append_event(c->stream, n, task, event);
}

static int append_end(EventStream *s) {
        _cleanup_(store_task_freep) StoreTask *task = NULL;
        char data[64];
        int r;

        r = store_task_load(s->api->store, &s->task_id, 0, &task);
        if (r)
                return r;
        snprintf(data, sizeof(data), "{\"state\":\"%s\"}", task_state_name(task->state));
        return sse_write_event(&s->out, NULL, "end", data, strlen(data));
}

static void on_chunk_durable(StoreWait *wait, int error) {
        EventStream *s = container_of(wait, EventStream, wait);

        s->waiting = false;
        if (error || conn_write_events(s->conn, buf_data(&s->out), buf_size(&s->out))) {
                conn_close(s->conn);
                return;
        }
        buf_clear(&s->out);
        buf_trim(&s->out, KIB(16));
        if (s->at_end)
                conn_end_events(s->conn);
        else
                events_pull(s);
}

/* Of one task: a chunk that holds something to send, or its end. */
static int read_task(EventStream *s) {
        ChunkContext c = { .stream = s };
        bool ended = s->ended;
        int r;

        /* A chunk of hidden events gives nothing to send. */
        do {
                c.n = 0;
                r = store_event_list(s->api->store, &s->task_id, s->after, EVENTS_CHUNK, on_task_event, &c);
        } while (!r && c.n == EVENTS_CHUNK && !buf_size(&s->out));
        if (r || c.n == EVENTS_CHUNK)
                return r;
        s->more = false;
        if (!ended)
                return 0;
        s->at_end = true;
        return append_end(s);
}

/* Of all tasks. Events of others cost the reactor's time, too: after so many it gets a turn. */
static int read_all(EventStream *s) {
        ChunkContext c = { .stream = s };
        uint64_t before = s->after, after = before;
        int r;

        r = store_event_list_all(s->api->store, before, *s->principal ? s->principal : NULL, EVENTS_CHUNK, on_any_event,
                                 &c, &after);
        if (r == EVENTS_HIDDEN) {
                s->more = false;        /* request_unhide() wakes it */
                return 0;
        }
        if (r)
                return r;
        s->after = after;
        if (after == before)
                s->more = false;
        else if (!buf_size(&s->out))
                defer_schedule(&s->again);
        return 0;
}

static void events_pull(EventStream *s) {
        int r;

        if (s->waiting || !s->more || conn_queued(s->conn) > EVENTS_QUEUED_MAX)
                return;
        r = id_is_null(&s->task_id) ? read_all(s) : read_task(s);
        if (r && r != EVENTS_FULL) {
                log_error("an event stream failed: %s", r < 0 ? strerror(-r) : "unexpected result");
                conn_close(s->conn);
                return;
        }
        if (buf_size(&s->out)) {
                s->waiting = true;
                store_wait(s->api->store, &s->wait, on_chunk_durable);
        }
}

static void on_again(Defer *defer) {
        events_pull(container_of(defer, EventStream, again));
}

static void on_watch(SchedWatch *watch, bool ended) {
        EventStream *s = container_of(watch, EventStream, watch);

        if (ended) {
                s->watching = false;
                s->ended = true;
        }
        s->more = true;
        events_pull(s);
}

void events_on_drain(EventStream *s) {
        s->stalled = 0;
        events_pull(s);
}

void events_heartbeat(EventStream *s) {
        _cleanup_(buf_deinit) Buf out = BUF_NULL;

        /* What was queued two heartbeats ago is still there: the client is gone or does not read. */
        if (conn_queued(s->conn) && ++s->stalled >= 2) {
                conn_close(s->conn);
                return;
        }
        if (conn_queued(s->conn))
                return;
        s->stalled = 0;
        if (sse_write_comment(&out, "heartbeat") || conn_write_events(s->conn, buf_data(&out), buf_size(&out)))
                conn_close(s->conn);
}

void events_stop(EventStream *s) {
        conn_end_events(s->conn);
}

/* ---- requests ---- */

/* Last-Event-ID, or after; *ret_v stays where there is neither. False: a problem was sent. */
static bool read_after(Request *q, uint64_t *ret_v) {
        bool last_id = q->last_event_id && *q->last_event_id;
        _cleanup_free_ char *after = NULL;

        /* A reconnecting client's header is newer than the URL that it began with. */
        if (last_id ? parse_u64(q->last_event_id, ret_v) : !request_query(q, "after", &after) || parse_u64(after, ret_v))
                return true;
        request_problem(q, 400, NULL, "%s: expected the id of an event", last_id ? "Last-Event-ID" : "after");
        return false;
}

static bool read_include(Request *q, bool *ret_raw) {
        _cleanup_free_ char *include = NULL;

        *ret_raw = request_query(q, "include", &include);
        if (!*ret_raw || streq(include, "raw"))
                return true;
        request_problem(q, 400, NULL, "include: expected raw");
        return false;
}

/* Answers what is no stream. NULL with 0: it was answered. */
static int events_new(Request *q, uint64_t after, bool with_raw, EventStream **ret_stream) {
        EventStream *s = NULL;

        if (q->method == API_HEAD) {
                q->content_type_out = "text/event-stream";
                request_finish(q);
        } else if (q->api->closing) {
                q->retry_after_s = 1;
                request_problem(q, 503, NULL, "the router is stopping; ask again soon");
        } else if (!conn_may_hold(q->conn, &q->principal)) {
                q->retry_after_s = EVENTS_HELD_RETRY_S;
                request_problem(q, 429, NULL, "this caller's event streams and waits already hold half of all connections "
                                "(limits.connections)");
        } else {
                s = calloc(1, sizeof(*s));
                if (!s)
                        return error_origin(-ENOMEM);
                s->api = q->api;
                s->conn = q->conn;
                s->after = after;
                s->with_raw = with_raw;
                s->more = true;
                s->watch.fn = on_watch;
                defer_init(&s->again, q->api->reactor, on_again);
        }
        *ret_stream = s;
        return 0;
}

static int events_begin(Request *q, EventStream **s) {
        int r;

        r = sse_write_retry(&(*s)->out, EVENTS_RETRY_MS);
        r = r ?: conn_begin_events(q->conn, q, *s);
        if (r)
                return error_fold(r);
        events_pull(steal_ptr(s));
        return 0;
}

int api_task_events(Request *q) {
        _cleanup_(store_task_freep) StoreTask *task = NULL;
        _cleanup_(events_freep) EventStream *s = NULL;
        uint64_t after = 0;
        bool with_raw;
        int r;

        task = request_task(q, 0);
        if (!task || !read_include(q, &with_raw) || !read_after(q, &after))
                return 0;
        /* WHATWG HTML 9.2.3: 204 tells a reconnecting client that there will be no more. */
        if (task_state_is_final(task->state) && q->last_event_id && *q->last_event_id && after >= task->last_seq) {
                q->status = 204;
                request_finish(q);
                return 0;
        }
        r = events_new(q, after, with_raw, &s);
        if (r || !s)
                return r;
        s->task_id = task->id;
        s->watching = sched_watch(q->api->sched, &task->id, &s->watch);
        s->ended = !s->watching;
        return events_begin(q, &s);
}

int api_events(Request *q) {
        _cleanup_(events_freep) EventStream *s = NULL;
        uint64_t after;
        bool with_raw;
        int r;

        r = store_event_last(q->api->store, &after);
        if (r)
                return r;
        if (!read_include(q, &with_raw) || !read_after(q, &after))
                return 0;
        r = events_new(q, after, with_raw, &s);
        if (r || !s)
                return r;
        if (q->principal.role != ROLE_ADMIN)
                memcpy(s->principal, q->principal.name, sizeof(s->principal));
        /* Where it begins, for who reconnects before the first event. */
        r = buf_printf(&s->out, "id: %" PRIu64 "\n\n", after);
        if (r)
                return r;
        sched_watch_all(q->api->sched, &s->watch);
        s->watching = true;
        return events_begin(q, &s);
}

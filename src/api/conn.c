/*
 * conn: one connection. The only file that holds both a stream and a codec.
 *
 * One request is under way at a time. What a client pipelines behind it stays in `in` (bounded: reading pauses), and is
 * fed when the response is queued. A client that goes away while its request waits is noticed by the end of its input,
 * except that a half-closed one still gets the response to what it has sent.
 *
 *   bytes → http1_feed → HTTP1_REQUEST: Request begins → HTTP1_BODY… → HTTP1_END → route_dispatch → conn_respond → next
 */

#include <stdio.h>

#include "api/internal.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/parse.h"
#include "proto/http1.h"
#include "reactor/stream.h"

#define CONN_IN_MAX             KIB(64)         /* pipelined behind a request that is under way */
#define CONN_QUEUED_MAX         MIB(64)         /* a response; the largest is a prompt of the largest body */
#define CONN_QUEUED_NEXT        KIB(64)         /* more than this unsent: a pipelined request waits */
#define CONN_RESPONSE_MAX       (CONN_QUEUED_MAX - CONN_QUEUED_NEXT - KIB(64))
#define CONN_IDLE_US            (75 * USEC_PER_SEC)     /* keep-alive without a request */
#define CONN_REQUEST_US         (30 * USEC_PER_SEC)     /* from a request's first byte to its last */
#define CONN_WRITE_US           (30 * USEC_PER_SEC)     /* a response that the client does not take */
#define CONN_LINGER_US          (2 * USEC_PER_SEC)      /* after a refused request, for the client to read the answer */
#define CONN_RESPONSE_SMALL     KIB(16)         /* up to this a response is not held against the others */
#define CONN_FULL_RETRY_S       5
#define CONN_RESERVE            16              /* beyond the limit, for the administrator on the control socket */
#define CONN_HEARTBEAT_US       (15 * USEC_PER_SEC)

typedef enum ConnPhase {
        CONN_READING,           /* between requests, or a request is coming in */
        CONN_BUSY,              /* a request is being answered */
        CONN_FLUSHING,          /* a response is going out; what is pipelined behind it waits for that */
        CONN_EVENTS,            /* a chunked response without an end so far */
        CONN_DRAINING,          /* the last response is going out; then shutdown */
        CONN_LINGERING,         /* shut down for writing; reads until the client closes (RFC 9112 §9.6) */
        CONN_CLOSED,
} ConnPhase;

struct Conn {
        ListLink link;
        Api *api;
        Stream stream;
        Http1 *http;
        Buf in;
        Request *request;       /* coming in, or being answered */
        EventStream *events;
        ConnPhase phase;
        Timer timer;
        Defer work;             /* goes on with `in` outside of the caller's stack */
        Principal peer;         /* on a Unix socket */
        size_t queued_seen;     /* unsent when the timer was set: what has become less is progress */
        char holder[PRINCIPAL_NAME_MAX];        /* who keeps it for long: events, or a wait */
        bool known;             /* a known caller has used it */
        bool eof;
        bool stopping;
        bool refused;           /* the codec has refused: feed no more */
};

static void conn_feed(Conn *c);

static void conn_set_timer(Conn *c, uint64_t us) {
        c->queued_seen = stream_queued(&c->stream);
        timer_set(&c->timer, reactor_now_us(c->api->reactor) + us);
}

static void conn_closed(Stream *stream) {
        Conn *c = container_of(stream, Conn, stream);
        Api *api = c->api;

        list_unlink(&c->link);
        api->n_conns--;
        http1_free(c->http);
        buf_deinit(&c->in);
        defer_cancel(&c->work);
        free(c);
        list_for_each_safe(i, &api->listeners)
                listener_resume(&container_of(i, ApiListener, link)->listener);
        api_maybe_closed(api);
}

void conn_close(Conn *c) {
        if (c->phase == CONN_CLOSED)
                return;
        c->phase = CONN_CLOSED;
        timer_clear(&c->timer);
        defer_cancel(&c->work);
        c->events = events_free(c->events);
        if (c->request)
                request_abandon(steal_ptr(&c->request));
        stream_close(&c->stream);
}

size_t conn_queued(const Conn *c) {
        return stream_queued(&c->stream);
}

/* ---- what connections share ---- */

bool conn_may_hold(Conn *c, const Principal *p) {
        size_t n = 0;

        if (p->role == ROLE_ADMIN)
                return true;
        list_for_each_safe(i, &c->api->conns) {
                Conn *other = container_of(i, Conn, link);
                n += other != c && (other->phase == CONN_EVENTS || other->phase == CONN_BUSY) &&
                     streq(other->holder, p->name);
        }
        if (n >= (c->api->config.connections_max + 1) / 2)
                return false;
        memcpy(c->holder, p->name, sizeof(c->holder));
        return true;
}

/*
 * Closes the oldest connection that no known caller has used, else the oldest that is idle: who only connects must not
 * keep those out who come to ask. It is gone in a moment, so there may be a few too many until then.
 */
static bool conn_evict(Api *api) {
        Conn *idle = NULL;

        list_for_each_safe(i, &api->conns) {
                Conn *c = container_of(i, Conn, link);
                if (c->phase != CONN_READING)
                        continue;
                if (!c->known) {
                        conn_close(c);
                        return true;
                }
                if (!idle && !http1_in_request(c->http) && !buf_size(&c->in) && !stream_queued(&c->stream))
                        idle = c;
        }
        if (idle)
                conn_close(idle);
        return idle;
}

static bool conn_has_room(Api *api, const Principal *peer) {
        size_t max = api->config.connections_max;

        return api->n_conns < max || (api->n_conns < 2 * max && conn_evict(api)) ||
               (peer->role == ROLE_ADMIN && api->n_conns < max + CONN_RESERVE);
}

/* ---- responses ---- */

static void conn_drain_and_close(Conn *c) {
        c->phase = CONN_DRAINING;
        conn_set_timer(c, CONN_WRITE_US);
        if (!stream_queued(&c->stream))
                conn_close(c);
        else
                stream_shutdown_write(&c->stream);
}

void conn_stop_all(Api *api, bool now) {
        list_for_each_safe(i, &api->conns) {
                Conn *c = container_of(i, Conn, link);
                c->stopping = true;
                if (now)
                        conn_close(c);
                else if (c->phase == CONN_READING && !http1_in_request(c->http) && !buf_size(&c->in))
                        conn_drain_and_close(c);
                else if (c->phase == CONN_EVENTS)
                        events_stop(c->events);
                else if (c->phase == CONN_BUSY && c->request)
                        request_stop_waiting(c->request);
        }
}

/* Any: what its body may be is known when its path is. */
static void conn_expect_request(Conn *c) {
        http1_set_body_max(c->http, MAX(c->api->config.body_max, c->api->config.batch_body_max));
}

/* A response is queued: the next request may come. */
static void conn_next(Conn *c) {
        conn_expect_request(c);
        if (http1_must_close(c->http) || c->stopping || c->refused || (c->eof && !buf_size(&c->in))) {
                conn_drain_and_close(c);
                return;
        }
        /* Or a client that asks without reading would have us hold all its answers. */
        if (stream_queued(&c->stream) > CONN_QUEUED_NEXT) {
                c->phase = CONN_FLUSHING;
                conn_set_timer(c, CONN_WRITE_US);
                return;
        }
        c->phase = CONN_READING;
        conn_set_timer(c, buf_size(&c->in) ? CONN_REQUEST_US : CONN_IDLE_US);
        stream_resume(&c->stream);
        if (buf_size(&c->in))
                defer_schedule(&c->work);
}

static int conn_write(Conn *c, const Http1Response *response) {
        Buf out = BUF_NULL;
        int r;

        r = http1_write_response(c->http, &out, response);
        r = r ?: stream_send_buf(&c->stream, &out);
        buf_deinit(&out);
        return r;
}

/* A large response only goes out where the others that are unsent leave it room: clients need not read. */
static bool conn_may_send(const Conn *c, size_t n) {
        size_t queued = 0;

        if (n <= CONN_RESPONSE_SMALL)
                return true;
        list_for_each_safe(i, &c->api->conns)
                queued += stream_queued(&container_of(i, Conn, link)->stream);
        return queued + n <= c->api->responses_max;
}

static void conn_replace_large(Request *q, unsigned status, const char *detail) {
        log_warning("a response of %zu bytes is dropped: %s", buf_size(&q->out), detail);
        request_set_problem(q, status, NULL, detail);
}

void conn_respond(Conn *c, Request *q) {
        if (buf_size(&q->out) > CONN_RESPONSE_MAX)
                conn_replace_large(q, 500, "the answer would be larger than a connection holds; ask for less at once");
        else if (!conn_may_send(c, buf_size(&q->out))) {
                q->retry_after_s = CONN_FULL_RETRY_S;
                conn_replace_large(q, 503, "too many large answers are on their way to clients; ask again soon");
        }

        HttpHeader headers[6];
        Http1Response response = {
                .status = q->status,
                .content_type = q->content_type_out ?: "application/json",
                .headers = headers,
                .body = buf_data(&q->out),
                .n_body = buf_size(&q->out),
                .close = c->stopping,
        };
        char retry_after[16];
        size_t n = 0;
        int r;

        headers[n++] = (HttpHeader){ .name = "Cache-Control", .value = "no-store" };
        if (q->location)
                headers[n++] = (HttpHeader){ .name = "Location", .value = q->location };
        if (q->allow)
                headers[n++] = (HttpHeader){ .name = "Allow", .value = q->allow };
        if (q->preference_applied)
                headers[n++] = (HttpHeader){ .name = "Preference-Applied", .value = q->preference_applied };
        if (q->status == 401)
                headers[n++] = (HttpHeader){ .name = "WWW-Authenticate", .value = "Bearer" };
        if (q->retry_after_s) {
                snprintf(retry_after, sizeof(retry_after), "%u", q->retry_after_s);
                headers[n++] = (HttpHeader){ .name = "Retry-After", .value = retry_after };
        }
        for (size_t i = 0; i < n; i++)
                headers[i].n_value = strlen(headers[i].value);
        response.n_headers = n;
        if (!response.n_body)
                response.content_type = NULL;
        r = conn_write(c, &response);
        c->known = c->known || q->principal.role != ROLE_NONE;
        *c->holder = 0;
        c->request = NULL;
        request_free(q);
        if (r) {
                log_warning("a response was dropped: %s", r < 0 ? strerror(-r) : "it is too large for the connection");
                conn_close(c);
                return;
        }
        conn_next(c);
}

/* The codec refused the request, or it took too long: says why, and closes. */
static void conn_refuse(Conn *c, unsigned status, const char *reason) {
        Buf body = BUF_NULL;
        int r;

        c->refused = true;
        metric_add(metric_get(c->api->metric.requests, status == 408 ? "408" : "refused"), 1);
        r = problem_append(&body, status, NULL, reason);
        if (!r)
                r = conn_write(c, &(Http1Response){
                        .status = status, .content_type = "application/problem+json",
                        .body = buf_data(&body), .n_body = buf_size(&body), .close = true,
                });
        buf_deinit(&body);
        c->request = request_free(c->request);
        if (r)
                conn_close(c);
        else
                conn_drain_and_close(c);
}

/* ---- requests ---- */

static int header_copy(const Http1Event *e, const char *name, char **ret_value) {
        const char *value = http1_header(e, name);

        if (!value)
                return 0;
        *ret_value = strdup(value);
        return *ret_value ? 0 : error_origin(-ENOMEM);
}

/* http1.h and internal.h list the methods in the same order. */
_Static_assert((int)API_GET == (int)HTTP_GET && (int)API_HEAD == (int)HTTP_HEAD && (int)API_POST == (int)HTTP_POST &&
                       (int)API_PUT == (int)HTTP_PUT && (int)API_DELETE == (int)HTTP_DELETE &&
                       (int)API_PATCH == (int)HTTP_PATCH && (int)API_OPTIONS == (int)HTTP_OPTIONS &&
                       (int)API_OTHER == (int)HTTP_METHOD_OTHER,
               "methods");

static int conn_begin_request(Conn *c, const Http1Event *e) {
        size_t n_path = strcspn(e->target, "?");
        const char *length;
        uint64_t n_body;
        Request *q;
        int r;

        r = request_new(c->api, c, &q);
        if (r)
                return error_trace(r);
        c->request = q;
        q->method = (ApiMethod)e->method;
        q->principal = c->peer;
        q->path = strndup(e->target, n_path);
        if (!q->path || (e->target[n_path] && !(q->query = strdup(e->target + n_path + 1))))
                return error_origin(-ENOMEM);
        q->body.max = route_body_max(q);
        http1_set_body_max(c->http, q->body.max);
        length = http1_header(e, "content-length");
        if (length && parse_u64(length, &n_body) && n_body > q->body.max)
                return BUF_E_FULL;
        r = header_copy(e, "authorization", &q->authorization);
        r = r ?: header_copy(e, "content-type", &q->content_type);
        r = r ?: header_copy(e, "idempotency-key", &q->idempotency_key);
        r = r ?: header_copy(e, "prefer", &q->prefer);
        r = r ?: header_copy(e, "last-event-id", &q->last_event_id);
        r = r ?: header_copy(e, "accept", &q->accept);
        if (!r && e->has_body)
                route_identify(q);
        if (!r && e->expect_continue && e->has_body) {
                Buf out = BUF_NULL;
                r = http1_write_continue(c->http, &out);
                r = r ?: stream_send_buf(&c->stream, &out);
                buf_deinit(&out);
        }
        return r;
}

static void conn_feed(Conn *c) {
        bool more = true;

        /* An event may need no further byte: the codec is asked until it wants some. */
        while (c->phase == CONN_READING && !c->refused && more) {
                static const uint8_t nothing[1];
                Http1Event e = {};
                size_t consumed = 0;
                int r;

                r = http1_feed(c->http, buf_size(&c->in) ? buf_data(&c->in) : nothing, buf_size(&c->in), &consumed, &e);
                if (r) {
                        conn_close(c);
                        return;
                }
                switch (e.type) {
                case HTTP1_REQUEST:
                        r = conn_begin_request(c, &e);
                        break;
                case HTTP1_BODY:
                        r = request_add_body(c->request, e.data, e.n);
                        break;
                case HTTP1_REFUSED:
                        buf_clear(&c->in);
                        conn_refuse(c, e.status, e.reason);
                        return;
                case HTTP1_NEED_MORE:
                        more = false;
                        break;
                case HTTP1_END:
                        break;
                }
                buf_consume(&c->in, consumed);
                if (r) {
                        if (r == BUF_E_FULL)
                                conn_refuse(c, 413, "the body is too large");
                        else if (r == -EDQUOT)
                                conn_refuse(c, 429, "this caller's other requests hold large bodies; send this one when they are answered");
                        else
                                conn_refuse(c, 503, "the router is out of memory");
                        return;
                }
                if (e.type == HTTP1_END) {
                        c->phase = CONN_BUSY;
                        timer_clear(&c->timer);
                        route_dispatch(c->request);
                }
        }
        buf_trim(&c->in, KIB(4));
        if (c->phase == CONN_READING && c->eof) {
                /* The client has said all: nothing to answer, or an unfinished request. */
                if (stream_queued(&c->stream))
                        conn_drain_and_close(c);
                else
                        conn_close(c);
        }
}

static void on_work(Defer *defer) {
        conn_feed(container_of(defer, Conn, work));
}

/* ---- events ---- */

int conn_begin_events(Conn *c, Request *q, EventStream *events) {
        const HttpHeader headers[] = {
                { .name = "Cache-Control", .value = "no-store", .n_value = 8 },
                { .name = "X-Accel-Buffering", .value = "no", .n_value = 2 },   /* proxies pass events on at once */
        };
        int r;

        r = conn_write(c, &(Http1Response){ .status = 200, .content_type = "text/event-stream", .headers = headers,
                       .n_headers = ELEMENTSOF(headers), .streaming = true });
        if (r)
                return r;
        metric_add(metric_get(c->api->metric.requests, "200"), 1);
        c->phase = CONN_EVENTS;
        c->events = events;
        c->known = true;
        c->request = NULL;
        request_free(q);
        conn_set_timer(c, CONN_HEARTBEAT_US);
        return 0;
}

int conn_write_events(Conn *c, const void *data, size_t n) {
        Buf out = BUF_NULL;
        int r;

        r = http1_write_chunk(c->http, &out, data, n);
        r = r ?: stream_send_buf(&c->stream, &out);
        buf_deinit(&out);
        return r;
}

void conn_end_events(Conn *c) {
        Buf out = BUF_NULL;
        int r;

        c->events = events_free(c->events);
        r = http1_write_end(c->http, &out);
        r = r ?: stream_send_buf(&c->stream, &out);
        buf_deinit(&out);
        if (r)
                conn_close(c);
        else
                conn_next(c);
}

/* ---- the stream ---- */

static void on_bytes(Stream *stream, const uint8_t *data, size_t n) {
        Conn *c = container_of(stream, Conn, stream);

        if (n == 0) {
                c->eof = true;
                stream_pause(stream);
                /* DRAINING: a half-closed client still gets its response; on_drain closes. */
                if (c->phase == CONN_EVENTS || c->phase == CONN_LINGERING ||
                    (c->phase == CONN_BUSY && c->request && request_waits_for_client(c->request)))
                        conn_close(c);
                else if (c->phase == CONN_READING)
                        conn_feed(c);
                return;
        }
        if (c->phase == CONN_DRAINING || c->phase == CONN_LINGERING || c->refused)
                return;
        if (c->phase == CONN_READING && !buf_size(&c->in) && !http1_in_request(c->http))
                conn_set_timer(c, CONN_REQUEST_US);
        if (buf_append(&c->in, data, n)) {
                conn_close(c);
                return;
        }
        if (c->phase == CONN_READING)
                conn_feed(c);
        if (c->phase != CONN_CLOSED && c->phase != CONN_READING && buf_size(&c->in) > CONN_IN_MAX) {
                if (c->phase == CONN_EVENTS)
                        conn_close(c);
                else
                        stream_pause(stream);
        }
}

static void on_drain(Stream *stream) {
        Conn *c = container_of(stream, Conn, stream);

        if (c->phase == CONN_EVENTS)
                events_on_drain(c->events);
        else if (c->phase == CONN_FLUSHING)
                conn_next(c);
        else if (c->phase == CONN_DRAINING) {
                if (c->eof) {
                        conn_close(c);
                        return;
                }
                c->phase = CONN_LINGERING;
                conn_set_timer(c, CONN_LINGER_US);
                stream_resume(stream);
        }
}

static void on_error(Stream *stream, int error) {
        conn_close(container_of(stream, Conn, stream));
}

static void on_timer(Timer *timer) {
        Conn *c = container_of(timer, Conn, timer);

        size_t queued = stream_queued(&c->stream);

        if (c->phase == CONN_EVENTS) {
                conn_set_timer(c, CONN_HEARTBEAT_US);
                events_heartbeat(c->events);
        } else if (c->phase == CONN_READING && (http1_in_request(c->http) || buf_size(&c->in)))
                conn_refuse(c, 408, "the request did not arrive in time");
        else if (queued && queued < c->queued_seen)
                conn_set_timer(c, CONN_WRITE_US);       /* slow, but it takes its response */
        else
                conn_close(c);
}

static const StreamVtable conn_stream_vtable = {
        .on_bytes = on_bytes,
        .on_drain = on_drain,
        .on_error = on_error,
        .on_closed = conn_closed,
};

void conn_accept(ApiListener *listener, int fd) {
        Api *api = listener->api;
        Principal peer = {};
        Conn *c;

        if ((listener->is_unix && auth_peer(fd, &peer)) || !conn_has_room(api, &peer)) {
                metric_add(api->metric.connections_refused, 1);
                fd_close(fd);
                return;
        }
        c = calloc(1, sizeof(*c));
        if (!c || http1_new(&c->http)) {
                free(c);
                fd_close(fd);
                return;
        }
        c->peer = peer;
        c->api = api;
        conn_expect_request(c);
        timer_init(&c->timer, api->reactor, on_timer);
        defer_init(&c->work, api->reactor, on_work);
        list_link_tail(&api->conns, &c->link);
        api->n_conns++;
        stream_init_take(&c->stream, api->reactor, fd, &conn_stream_vtable, CONN_QUEUED_MAX);
        conn_set_timer(c, CONN_REQUEST_US);
        stream_resume(&c->stream);
}

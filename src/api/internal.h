#pragma once

/* What the files of this layer share. */

#include "api/api.h"
#include "base/clock.h"
#include "base/json.h"

typedef struct ApiListener ApiListener;
typedef struct Conn Conn;
typedef struct EventStream EventStream;
typedef struct Request Request;
typedef struct Route Route;

/* What one turn of a long request may take: each of several costs the others a turn. */
typedef struct Slice {
        uint64_t until_us;              /* monotonic */
        unsigned left;                  /* tasks */
} Slice;

/* For one task more. */
static inline bool slice_has_room(Slice *s) {
        return s->left && s->left-- && clock_monotonic_us() < s->until_us;
}

/* What work of one kind has taken of this tick: the simulated clock stands still, so it is counted, too. */
typedef struct TickBudget {
        uint64_t tick;
        uint64_t spent_us;
        unsigned spent;
} TickBudget;

static inline void tick_budget_renew(TickBudget *b, const Reactor *reactor) {
        uint64_t tick = reactor_stats(reactor)->n_ticks;

        if (b->tick != tick)
                *b = (TickBudget){ .tick = tick };
}

/* As in proto/http1.h, which only conn.c includes. */
typedef enum ApiMethod {
        API_GET,
        API_HEAD,
        API_POST,
        API_PUT,
        API_DELETE,
        API_PATCH,
        API_OPTIONS,
        API_OTHER,
} ApiMethod;

struct ApiListener {
        ListLink link;
        Api *api;
        Listener listener;
        bool is_unix;
};

struct Api {
        Reactor *reactor;
        Store *store;
        Sched *sched;
        Metrics *metrics;
        ApiConfig config;
        List listeners;
        List conns;
        List sliced;                    /* requests that go on from tick to tick: jobs.c bounds them */
        Timer jobs_timer;
        TickBudget jobs_budget;
        List charged;                   /* requests that hold a body */
        size_t n_conns;
        size_t responses_max;
        size_t n_body;                  /* bytes of the bodies that requests hold */
        uint64_t started_us;            /* monotonic */
        Id instance;
        bool closing;
        void (*on_closed)(void *userdata);
        void *userdata;
        struct {
                MetricFamily *requests, *by_state;
                Metric *connections, *connections_refused, *live, *waiting, *running, *launcher_up, *store_failed,
                        *commits, *syncs, *sync_seconds, *wal_bytes, *database_bytes, *log_dropped, *uptime;
        } metric;
};

#define REQUEST_PARAMS_MAX      2
#define REQUEST_WAIT_MAX_S      300     /* Prefer: wait=N beyond this is cut to it */
/* All bodies that are held at once: less than the connections could send, or a caller could fill the memory. */
#define API_BODIES_MAX          MIB(256)
#define API_BODIES_FREE         MIB(64)         /* beyond, a caller's other bodies count */
#define API_BODIES_PRINCIPAL_MAX MIB(64)
#define API_RESPONSES_MAX       MIB(256)        /* and all that is unsent, where a large response is to be added */
#define REQUEST_IDEMPOTENCY_MAX 255     /* bytes of an Idempotency-Key */
#define LIMIT_NAME_MAX          64      /* of an agent or a group, as a task may name it */
#define API_PATH_MAX            1024    /* bytes of a request's path */
#define API_QUERY_MAX           4096

struct Request {
        Api *api;
        Conn *conn;                     /* NULL: the client is gone */
        ApiMethod method;
        char *path;                     /* without /v1 and query; not decoded */
        char *query;                    /* NULL: none */
        char *params[REQUEST_PARAMS_MAX];       /* decoded {…} of the route */
        char *authorization;            /* wiped when the principal is known */
        char *content_type;
        char *idempotency_key;
        char *prefer;
        char *last_event_id;
        char *accept;
        const Route *route;
        Principal principal;
        Buf body;
        size_t n_charged;               /* bytes of it in Api.n_body */
        ListLink charged;               /* in Api.charged */
        bool stranger;                  /* nobody that we know: a body is read, and not kept */

        /* the response */
        unsigned status;
        Buf out;
        const char *content_type_out;
        char *location;
        const char *allow;
        const char *preference_applied;
        unsigned retry_after_s;

        /* waiting for durability, or for a task's end */
        StoreWait wait;
        int (*on_durable)(Request *request);    /* after the commit, before the response; 0, or -errno */
        void *context;
        SchedWatch watch;
        Timer timer;
        Id task_id;
        /* too long for one tick: a turn is one call of slice(), until it has answered */
        ListLink sliced;                /* in Api.sliced */
        int (*slice)(Request *request, Slice *slice);
        uint64_t paused_until_us;       /* monotonic: no turn before */
        void *job;
        void (*job_free)(void *job);
        bool (*job_stop)(void *job);    /* the client is gone: true where it may end here; NULL: it goes on */
        Id hidden;                      /* a batch that it makes, and that nobody may see yet */
        uint64_t hidden_since;          /* the last event before it */

        bool watching;
        bool waiting;                   /* for the store */
        bool with_prompt, with_transcript, with_raw;
        uint64_t transcript_after;      /* events up to this one are left out */
};

/*
 * Handlers fill the response and call request_finish() or request_problem(), or keep the request for later. -errno:
 * 500.
 */
typedef int (*RouteFn)(Request *request);

struct Route {
        ApiMethod method;
        const char *pattern;            /* "/tasks/{id}/events" */
        RouteFn fn;
        Role role;
        const char *query;              /* names of query parameters, separated by blanks; NULL: none */
};

/* ---- api.c ---- */
void api_maybe_closed(Api *api);         /* calls on_closed when the last connection and listener are gone */

/* ---- route.c ---- */
extern const Route api_routes[];
extern const size_t api_n_routes;
/* Finds the route and the principal, and runs the handler. */
void route_dispatch(Request *request);
/* The same of a request whose body is still to come: who is it from? */
void route_identify(Request *request);
/* The largest body that it may have. */
uint64_t route_body_max(const Request *request);

/* ---- request.c ---- */
int request_new(Api *api, Conn *conn, Request **ret_request) _must_check_;
Request *request_free(Request *request);
int request_add_body(Request *request, const void *data, size_t n) _must_check_;
/* The response leaves when all that was written and read is durable. */
void request_finish(Request *request);
/* At once: for what is not built from the store. */
void request_send(Request *request);
/* A problem+json response; pointer NULL: no errors[]. Then as request_finish(). */
void request_problem(Request *request, unsigned status, const char *pointer, const char *format, ...) _printf_(4, 5);
/* The same without sending it: for a response that can't be given. */
void request_set_problem(Request *request, unsigned status, const char *pointer, const char *detail);
/* The document itself (RFC 9457). */
int problem_append(Buf *out, unsigned status, const char *pointer, const char *detail) _must_check_;
void request_json_problem(Request *request, const JsonError *error);
/* A store or scheduler result that no handler expects: 503 where writes are refused, else 500. */
void request_failed(Request *request, int error);
/* The client is gone: the request ends, unless something durable is still to be done. */
void request_abandon(Request *request);
/* A query parameter, decoded: true where present. The caller frees. */
bool request_query(const Request *request, const char *name, char **ret_value);
/* False: a problem was sent. */
bool request_is_json(Request *request);
/* The body as a JSON object. NULL: a problem was sent. */
json_object *request_json(Request *request);
/* The task of this id, where the caller may see it. STORE_E_NOT_FOUND. */
int request_load_task(Request *request, const Id *id, int parts, StoreTask **ret_task) _must_check_;
/* The task {id} with these parts, where the caller may see it; the caller frees. NULL: a problem was sent. */
StoreTask *request_task(Request *request, int parts);
/* Prefer: wait=N (RFC 7240 §4.3): seconds, 0 where not asked for. */
unsigned request_prefer_wait(const Request *request);
/* Answers when the task has ended or after wait_s; calls fn then. True: it waits. */
bool request_wait_for_task(Request *request, const Id *id, unsigned wait_s, void (*fn)(Request *request));
/* It is of no use without its client: a wait, or what may be asked again. */
bool request_waits_for_client(const Request *request);
/* Ends such a wait early: the answer is the task as it is. */
void request_stop_waiting(Request *request);

/* ---- jobs.c ---- */
void jobs_init(Api *api);
/*
 * Goes on with turns of slice() until it has answered, the first of them at once where the tick has room for it. Or
 * answers that the caller, or all callers, have too many. The request's job and its functions are set before.
 */
void request_start_job(Request *request, int (*slice)(Request *request, Slice *slice));
void request_leave_jobs(Request *request);
/* Nobody sees the batch request->hidden while the job goes on, until this. */
void request_unhide(Request *request);
/* It is being made, and may yet be undone. */
bool api_batch_is_hidden(const Api *api, const Id *batch);
/*
 * Events up to this number are here to stay, as far as this caller ("": an admin) may see them: those of a batch that
 * is being made are not told yet. What comes after them waits, too: a stream goes on from one number only.
 */
uint64_t api_events_max(const Api *api, const char *principal);

/* ---- conn.c ---- */
void conn_accept(ApiListener *listener, int fd);
/* The request's response is complete: send it, free the request, go on with the connection. */
void conn_respond(Conn *conn, Request *request);
/* Begins a chunked response that the EventStream feeds. */
int conn_begin_events(Conn *conn, Request *request, EventStream *events) _must_check_;
int conn_write_events(Conn *conn, const void *data, size_t n) _must_check_;
void conn_end_events(Conn *conn);
size_t conn_queued(const Conn *conn);
/* Whether this caller, who has others waiting, may keep one more connection for long. */
bool conn_may_hold(Conn *conn, const Principal *principal);
void conn_close(Conn *conn);
/* Closes each connection when it is idle, or after the response under way; `now`: at once. */
void conn_stop_all(Api *api, bool now);

/* ---- events.c ---- */
int api_task_events(Request *request);
int api_events(Request *request);
/* More may be written (all that was queued is sent). */
void events_on_drain(EventStream *events);
void events_heartbeat(EventStream *events);
void events_stop(EventStream *events);
EventStream *events_free(EventStream *events);
/* {"seq":…,"at":…,"attempt":…,"type":…,"data":…[,"raw":…]} */
int event_append_json(Buf *out, const StoreEvent *event, bool with_raw) _must_check_;

/* ---- tasks.c, batches.c, batch-submit.c, many.c, keys.c, admin.c ---- */
int api_task_post(Request *request);
int api_task_get(Request *request);
int api_task_list(Request *request);
int api_task_cancel(Request *request);
int api_task_retry(Request *request);
int api_tasks_cancel(Request *request);
int api_batch_post(Request *request);
int api_batch_list(Request *request);
int api_batch_get(Request *request);
int api_batch_tasks(Request *request);
int api_batch_cancel(Request *request);
int api_batch_retry(Request *request);
int api_key_post(Request *request);
int api_key_list(Request *request);
int api_key_delete(Request *request);
int api_agents(Request *request);
int api_agent_reset(Request *request);
int api_status(Request *request);
int api_healthz(Request *request);
int api_readyz(Request *request);
int api_metrics(Request *request);
int api_openapi(Request *request);
void api_collect_metrics(void *userdata);
void api_metrics_init(Api *api);

/* ---- limits.c ---- */
int api_limit_list(Request *request);
int api_limit_put(Request *request);
int api_limit_delete(Request *request);
int api_drain(Request *request);
int api_resume(Request *request);
int api_reload(Request *request);
/* The limit of all, in force. */
int limits_global(const Sched *sched, SchedLimitInfo *ret_info) _must_check_;

/* ---- usage.c ---- */
int api_usage(Request *request);
/* Dollars, or null where it is not known (negative). */
int json_append_usd(Buf *out, int64_t microusd) _must_check_;

/* ---- task-json.c ---- */
/* whole: with its attempts, result and dependencies. */
int task_append_json(Buf *out, Api *api, const StoreTask *task, bool whole) _must_check_;
/* ,"usage":{…} or null */
int usage_append_json(Buf *out, const StoreUsage *usage) _must_check_;
/* ,"max_tokens":…,"max_cost_usd":… */
int budget_append_json(Buf *out, uint64_t max_tokens, uint64_t max_cost_microusd) _must_check_;
int json_append_time(Buf *out, uint64_t realtime_us) _must_check_;
int json_append_str_or_null(Buf *out, const char *s) _must_check_;

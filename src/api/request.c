#include <stdio.h>
#include <strings.h>

#include "api/internal.h"
#include "base/error.h"
#include "base/log.h"
#include "base/parse.h"
#include "proto/http1.h"

static void on_timer(Timer *timer);

int request_new(Api *api, Conn *conn, Request **ret_request) {
        Request *q = calloc(1, sizeof(*q));

        if (!q)
                return error_origin(-ENOMEM);
        q->api = api;
        q->conn = conn;
        q->status = 200;
        timer_init(&q->timer, api->reactor, on_timer);
        *ret_request = q;
        return 0;
}

static void request_drop_body(Request *q) {
        q->api->n_body -= q->n_charged;
        q->n_charged = 0;
        list_unlink(&q->charged);
        buf_deinit(&q->body);
}

/* Of this caller's other requests. */
static size_t request_other_bodies(const Request *q) {
        size_t n = 0;

        list_for_each_safe(i, &q->api->charged) {
                const Request *other = container_of(i, Request, charged);
                if (other != q && streq(other->principal.name, q->principal.name))
                        n += other->n_charged;
        }
        return n;
}

int request_add_body(Request *q, const void *data, size_t n) {
        int r;

        if (q->stranger)
                return 0;
        if (n > API_BODIES_MAX - MIN(API_BODIES_MAX, q->api->n_body))
                return error_origin(-ENOMEM);
        if (q->api->n_body + n > API_BODIES_FREE && request_other_bodies(q) > API_BODIES_PRINCIPAL_MAX)
                return -EDQUOT;
        r = buf_append(&q->body, data, n);
        if (r)
                return r;
        if (!list_is_linked(&q->charged))
                list_link_tail(&q->api->charged, &q->charged);
        q->api->n_body += n;
        q->n_charged += n;
        return 0;
}

static void wipe_free(char *s) {
        if (s)
                explicit_bzero(s, strlen(s));
        free(s);
}

Request *request_free(Request *q) {
        if (!q)
                return NULL;
        if (q->waiting)
                store_wait_cancel(&q->wait);
        if (q->watching)
                sched_unwatch(&q->watch);
        timer_clear(&q->timer);
        request_leave_jobs(q);
        if (q->job)
                q->job_free(q->job);
        free(q->path);
        free(q->query);
        for (size_t i = 0; i < ELEMENTSOF(q->params); i++)
                free(q->params[i]);
        wipe_free(q->authorization);
        free(q->content_type);
        free(q->idempotency_key);
        free(q->prefer);
        free(q->last_event_id);
        free(q->accept);
        request_drop_body(q);
        buf_deinit(&q->out);
        free(q->location);
        free(q);
        return NULL;
}

void request_send(Request *q) {
        char status[8];

        snprintf(status, sizeof(status), "%u", q->status);
        metric_add(metric_get(q->api->metric.requests, status), 1);
        if (q->conn)
                conn_respond(q->conn, q);
        else
                request_free(q);
}

int problem_append(Buf *out, unsigned status, const char *pointer, const char *detail) {
        int r;

        r = buf_printf(out, "{\"type\":\"about:blank\",\"title\":\"%s\",\"status\":%u,\"detail\":", http_status_text(status),
                       status);
        r = r ?: json_append_string(out, detail, strlen(detail));
        if (!r && pointer) {
                r = buf_append_str(out, ",\"errors\":[{\"pointer\":");
                r = r ?: json_append_string(out, pointer, strlen(pointer));
                r = r ?: buf_append_str(out, ",\"detail\":");
                r = r ?: json_append_string(out, detail, strlen(detail));
                r = r ?: buf_append_str(out, "}]");
        }
        return r ?: buf_append_str(out, "}\n");
}

void request_set_problem(Request *q, unsigned status, const char *pointer, const char *detail) {
        buf_clear(&q->out);
        free(steal_ptr(&q->location));
        q->status = status;
        q->content_type_out = "application/problem+json";
        if (problem_append(&q->out, status, pointer, detail))
                buf_clear(&q->out);     /* no memory for words: the status still says it */
}

static void on_durable(StoreWait *wait, int error) {
        Request *q = container_of(wait, Request, wait);
        int (*fn)(Request *) = q->on_durable;
        char detail[SCHED_DETAIL_MAX];
        int r;

        q->waiting = false;
        q->on_durable = NULL;
        if (error) {
                /* A refusal promised nothing. */
                if (q->status < 400) {
                        snprintf(detail, sizeof(detail), "what was asked for could not be made durable, and is undone: %s",
                                 store_failure(q->api->store) ?: "the store failed");
                        q->retry_after_s = 5;
                        request_set_problem(q, 503, NULL, detail);
                }
                request_send(q);
                return;
        }
        if (fn) {
                r = fn(q);
                if (r)
                        log_error("a request failed after its commit: %s", strerror(-r));
                if (q->watching)
                        return;         /* it waits for its task's end */
        }
        request_send(q);
}

void request_finish(Request *q) {
        request_leave_jobs(q);
        q->waiting = true;
        store_wait(q->api->store, &q->wait, on_durable);
}

void request_abandon(Request *q) {
        q->conn = NULL;
        if (q->waiting && q->on_durable)
                return;         /* the commit's effect comes first */
        if (q->slice && !q->api->closing && !(q->job_stop && q->job_stop(q->job)))
                return;         /* half of it would be worse than all */
        request_free(q);
}

void request_problem(Request *q, unsigned status, const char *pointer, const char *format, ...) {
        char detail[SCHED_DETAIL_MAX];
        va_list ap;

        va_start(ap, format);
        vsnprintf(detail, sizeof(detail), format, ap);
        va_end(ap);
        request_set_problem(q, status, pointer, detail);
        q->on_durable = NULL;
        request_finish(q);
}

void request_json_problem(Request *q, const JsonError *e) {
        request_problem(q, 400, e->pointer, "%s%s%s", e->pointer, *e->pointer ? " " : "", e->detail);
}

void request_failed(Request *q, int error) {
        if (error == STORE_E_FAILED || error == STORE_E_FULL) {
                q->retry_after_s = 5;
                request_problem(q, 503, NULL, "the store takes no writes: %s", store_failure(q->api->store) ?: "the disk is full");
                return;
        }
        log_error("request failed: %s", error < 0 ? strerror(-error) : "unexpected result");
        request_problem(q, error == -ENOMEM ? 503 : 500, NULL, "the request failed inside the router; its journal says why");
}

/* application/x-www-form-urlencoded value: `+` is a blank. A malformed escape is kept as it is. */
static char *query_decode(const char *s, size_t n) {
        char *value = malloc(n + 1), *p = value;

        if (!value)
                return NULL;
        for (size_t i = 0; i < n; i++)
                if (s[i] == '%' && i + 2 < n && parse_hex_digit(s[i + 1]) >= 0 && parse_hex_digit(s[i + 2]) >= 0) {
                        *p++ = (char)(parse_hex_digit(s[i + 1]) << 4 | parse_hex_digit(s[i + 2]));
                        i += 2;
                } else
                        *p++ = s[i] == '+' ? ' ' : s[i];
        *p = 0;
        return value;
}

bool request_query(const Request *q, const char *name, char **ret_value) {
        size_t n_name = strlen(name);

        for (const char *p = q->query; p && *p;) {
                size_t n = strcspn(p, "&");
                if (n > n_name && p[n_name] == '=' && strncmp(p, name, n_name) == 0) {
                        char *value = query_decode(p + n_name + 1, n - n_name - 1);
                        if (!value)
                                return false;
                        *ret_value = value;
                        return true;
                }
                p += n + (p[n] == '&');
        }
        return false;
}

bool request_is_json(Request *q) {
        if (!q->content_type || strncasecmp(q->content_type, "application/json", 16) == 0)
                return true;
        request_problem(q, 415, NULL, "expected Content-Type: application/json");
        return false;
}

json_object *request_json(Request *q) {
        JsonError e = {};
        json_object *o;
        int r;

        if (!request_is_json(q))
                return NULL;
        r = json_parse(buf_size(&q->body) ? (const void *)buf_data(&q->body) : "", buf_size(&q->body), JSON_DEPTH_MAX,
                       &o, &e);
        if (r > 0) {
                request_json_problem(q, &e);
                return NULL;
        }
        if (r) {
                request_failed(q, r);
                return NULL;
        }
        if (!json_object_is_type(o, json_type_object)) {
                json_object_put(o);
                request_problem(q, 400, "", "expected a JSON object");
                return NULL;
        }
        return o;
}

int request_load_task(Request *q, const Id *id, int parts, StoreTask **ret_task) {
        _cleanup_(store_task_freep) StoreTask *task = NULL;
        int r;

        r = store_task_load(q->api->store, id, parts, &task);
        if (r)
                return r;
        /* Someone else's task is as good as none: its existence is not told. */
        if (q->principal.role != ROLE_ADMIN && !streq(q->principal.name, task->principal))
                return STORE_E_NOT_FOUND;
        if (api_batch_is_hidden(q->api, &task->batch))
                return STORE_E_NOT_FOUND;
        *ret_task = steal_ptr(&task);
        return 0;
}

StoreTask *request_task(Request *q, int parts) {
        StoreTask *task = NULL;
        int r = STORE_E_NOT_FOUND;

        if (id_parse(q->params[0], &q->task_id))
                r = request_load_task(q, &q->task_id, parts, &task);
        if (r == STORE_E_NOT_FOUND)
                request_problem(q, 404, NULL, "there is no such task");
        else if (r)
                request_failed(q, r);
        return task;
}

unsigned request_prefer_wait(const Request *q) {
        uint64_t v;

        for (const char *p = q->prefer; p && *p;) {
                char number[16];
                size_t n;
                p += strspn(p, " \t,;");
                n = strcspn(p, ",;");
                if (strncasecmp(p, "wait=", 5) == 0 && n > 5 && n - 5 < sizeof(number)) {
                        size_t k = n - 5;
                        memcpy(number, p + 5, k);
                        while (k > 0 && (number[k - 1] == ' ' || number[k - 1] == '\t'))
                                k--;
                        number[k] = 0;
                        if (parse_u64(number, &v))
                                return (unsigned)MIN(v, (uint64_t)REQUEST_WAIT_MAX_S);
                }
                p += n;
        }
        return 0;
}

/* ---- waiting for a task ---- */

static void wait_over(Request *q) {
        void (*fn)(Request *) = q->context;

        if (q->watching)
                sched_unwatch(&q->watch);
        q->watching = false;
        timer_clear(&q->timer);
        if (q->conn)
                fn(q);
        else
                request_free(q);
}

static void on_timer(Timer *timer) {
        wait_over(container_of(timer, Request, timer));
}

static void on_watch(SchedWatch *watch, bool ended) {
        Request *q = container_of(watch, Request, watch);

        if (ended) {
                q->watching = false;
                wait_over(q);
        }
}

bool request_wait_for_task(Request *q, const Id *id, unsigned wait_s, void (*fn)(Request *request)) {
        /* One too many is answered at once, as a router may (RFC 7240 §2). */
        if (!wait_s || q->api->closing || (q->conn && !conn_may_hold(q->conn, &q->principal)))
                return false;
        q->preference_applied = "wait";
        q->watch.fn = on_watch;
        if (!q->conn || !sched_watch(q->api->sched, id, &q->watch))
                return false;
        q->watching = true;
        request_drop_body(q);
        q->context = fn;
        timer_set(&q->timer, reactor_now_us(q->api->reactor) + wait_s * USEC_PER_SEC);
        return true;
}

bool request_waits_for_client(const Request *q) {
        return q->watching || (q->slice && q->job_stop);
}

void request_stop_waiting(Request *q) {
        if (q->watching)
                wait_over(q);
}

#include <time.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/parse.h"
#include "ctl/client.h"
#include "ctl/event-stream.h"
#include "ctl/text.h"
#include "ctl/watch.h"

#define RETRY_MIN_US (100 * USEC_PER_MSEC)
#define RETRY_MAX_US (2 * USEC_PER_SEC)

typedef struct Watching {
        Ctl *ctl;
        Watch *watch;
        EventStream stream;
        uint64_t last_id;
        bool alive;                     /* something came since the last connect */
        bool ended;
} Watching;

void watch_pause(uint64_t us) {
        struct timespec t = { .tv_sec = (time_t)(us / USEC_PER_SEC),
                              .tv_nsec = (long)(us % USEC_PER_SEC * NSEC_PER_USEC) };

        if (!client_interrupted())
                (void)nanosleep(&t, NULL);
}

bool watch_parse_patience(const char *s, uint64_t *ret_us) {
        if (parse_duration_us(s, ret_us))
                return true;
        ctl_fail(CTL_USAGE, "--patience '%s': expected a duration such as 30s or 10min", s);
        return false;
}

/* Programs get one line an event, as the router sent it. */
static void watch_print_json(const char *type, const char *data, size_t n) {
        bool end = streq(type, "end");

        if (end)
                fputs("{\"type\":\"end\",\"data\":", stdout);
        fwrite(data, 1, n, stdout);
        fputs(end ? "}\n" : "\n", stdout);
        fflush(stdout);
}

static bool watch_on_event(void *userdata, const char *id, const char *type, const char *data, size_t n) {
        Watching *w = userdata;
        json_object *o = NULL;
        uint64_t seq = 0;

        w->alive = true;
        /* What was seen before the connection broke is not shown again, even by a router that repeats it. */
        if (parse_u64(id, &seq) && !streq(type, "end")) {
                if (seq <= w->last_id)
                        return true;
                w->last_id = seq;
        }
        if (w->watch->show && w->ctl->json)
                watch_print_json(type, data, n);
        else if (w->watch->show || streq(type, "end"))
                o = client_parse(data, n);
        if (streq(type, "end")) {
                if (!o)
                        o = client_parse(data, n);
                snprintf(w->watch->state, sizeof(w->watch->state), "%s", text_member(o, "/state"));
                w->ended = true;
        } else if (o)
                show_event(w->watch->show, type, json_at(o, "/data"));
        json_object_put(o);
        return !w->ended;
}

static bool watch_on_data(void *userdata, const char *data, size_t n) {
        Watching *w = userdata;

        w->alive = true;
        return event_stream_feed(&w->stream, data, n);
}

int watch_get(Ctl *ctl, const char *id, const char *query, json_object **ret_task) {
        _cleanup_free_ char *path = NULL;
        int r;

        r = client_path("/v1/tasks/", id, query, &path);
        return r ?: client_call(ctl, &(ClientRequest){ .method = "GET", .path = path }, ret_task);
}

/* The end was before Last-Event-ID: the task itself says how it ended. */
static int watch_get_state(Ctl *ctl, Watch *w) {
        _cleanup_(json_putp) json_object *task = NULL;
        int r;

        r = watch_get(ctl, w->id, "", &task);
        if (r)
                return r;
        snprintf(w->state, sizeof(w->state), "%s", text_member(task, "/state"));
        return 0;
}

/* One connection, to its end. */
static int watch_connect(Watching *w, const char *path, ClientResponse *response) {
        ClientRequest request = {
                .method = "GET", .path = path, .headers = { "Accept: text/event-stream" },
                .on_data = watch_on_data, .userdata = w,
        };
        char last_event_id[64];

        if (w->last_id) {
                snprintf(last_event_id, sizeof(last_event_id), "Last-Event-ID: %llu", (unsigned long long)w->last_id);
                request.headers[1] = last_event_id;
        }
        event_stream_restart(&w->stream);
        return client_perform(w->ctl, &request, response);
}

static int watch_loop(Watching *w, const char *path) {
        _cleanup_(client_response_deinit) ClientResponse response = CLIENT_RESPONSE_NULL;
        uint64_t last_us = w->watch->known ? clock_monotonic_us() : 0, pause_us = RETRY_MIN_US, now;
        ClientRequest request = { .method = "GET", .path = path };
        bool told = false;
        int r;

        for (;;) {
                w->alive = false;
                r = watch_connect(w, path, &response);
                if (w->ended)
                        return 0;
                if (r == CLIENT_E_STOPPED && !client_interrupted())
                        return ctl_fail(CTL_BUSY, "an event of more than %zu bytes; is this an agent-router?", EVENT_STREAM_MAX);
                if (r < 0 || r == CLIENT_E_STOPPED || r == CLIENT_E_CONFIG)
                        return client_fail(w->ctl, &request, &response, r);
                if (r == 0 && response.status == 204)
                        return watch_get_state(w->ctl, w->watch);
                now = clock_monotonic_us();
                if (w->alive) {
                        last_us = now;
                        pause_us = RETRY_MIN_US;
                        told = false;
                }
                /* Refused, or never there: waiting would not help. Else it restarts, or is overloaded. */
                if ((r == 0 && response.status != 200 && response.status != 429 && response.status < 500) ||
                    (r == CLIENT_E_UNREACHABLE && !last_us))
                        return client_fail(w->ctl, &request, &response, r);
                last_us = last_us ?: now;
                if (now - last_us > w->watch->patience_us) {
                        fprintf(stderr, "agent-routerctl: the router did not come back; go on with: agent-routerctl follow %s\n",
                                w->watch->id);
                        return r == 0 && response.status == 200 ? CTL_UNREACHABLE
                                                                : client_fail(w->ctl, &request, &response, r);
                }
                if (!told && w->watch->show)
                        show_finish(w->watch->show);
                if (!told && pause_us > RETRY_MIN_US)
                        fprintf(stderr, "agent-routerctl: lost the connection; trying again (the task goes on)\n");
                told = told || pause_us > RETRY_MIN_US;
                watch_pause(pause_us);
                if (client_interrupted())
                        return CTL_INTERRUPTED;
                pause_us = MIN(pause_us * 2, RETRY_MAX_US);
        }
}

int watch_task(Ctl *ctl, Watch *w) {
        Watching watching = { .ctl = ctl, .watch = w, .stream = EVENT_STREAM_INIT(watch_on_event, NULL) };
        _cleanup_free_ char *path = NULL;
        int r;

        r = client_path("/v1/tasks/", w->id, "/events", &path);
        if (r)
                return error_trace(r);
        watching.stream.userdata = &watching;
        client_catch_interrupt();
        r = watch_loop(&watching, path);
        event_stream_deinit(&watching.stream);
        if (w->show)
                show_finish(w->show);
        if (r == CTL_INTERRUPTED)
                fprintf(stderr, "\nagent-routerctl: interrupted; the task goes on: agent-routerctl follow %s, or cancel %s\n",
                        w->id, w->id);
        return r;
}

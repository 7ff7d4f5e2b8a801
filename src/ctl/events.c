/*
 * events: what happens to all tasks that the caller may see, one line an event, until SIGINT. A connection that is lost
 * is made again from the last event that was seen; the router says at once where the stream begins, so that nothing is
 * missed even where the connection breaks before the first event.
 */

#include <inttypes.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/parse.h"
#include "ctl/client.h"
#include "ctl/event-stream.h"
#include "ctl/text.h"
#include "ctl/watch.h"

#define EVENTS_RETRY_MIN_US (100 * USEC_PER_MSEC)
#define EVENTS_RETRY_MAX_US (2 * USEC_PER_SEC)

typedef struct Events {
        Ctl *ctl;
        EventStream stream;
        const char *after;              /* until the stream has an id of its own; NULL: from now on */
        uint64_t patience_us;
        bool alive;                     /* something came since the last connect */
} Events;

/* What there is to say of it in a line; the caller frees. NULL: no memory. */
static char *events_summary(const char *type, json_object *data) {
        const char *state = text_member(data, "/state"), *reason = text_member(data, "/reason");
        const char *detail = text_member(data, "/detail");
        char *s = NULL;
        int n;

        if (streq(type, "state"))
                n = asprintf(&s, "%s%s%s%s%s%s", state, *reason ? " (" : "", reason, *reason ? ")" : "", *detail ? ": " : "",
                             detail);
        else if (streq(type, "usage"))
                n = asprintf(&s, "%" PRIu64 " in, %" PRIu64 " out", text_member_u64(data, "/input_tokens"),
                             text_member_u64(data, "/output_tokens"));
        else if (streq(type, "tool_call"))
                n = asprintf(&s, "%s", text_member(data, "/name"));
        else if (streq(type, "tool_result"))
                n = asprintf(&s, "%s%s", json_at(data, "/exit_code") ? "exit " : "", text_member(data, "/exit_code"));
        else if (streq(type, "warning") || streq(type, "error"))
                n = asprintf(&s, "%s", text_member(data, "/message"));
        else
                n = asprintf(&s, "%s", text_member(data, "/text"));
        return n < 0 ? NULL : s;
}

static const char *events_color(const char *type, json_object *data) {
        return streq(type, "state")     ? text_state_color(text_member(data, "/state"))
               : streq(type, "error")   ? "\033[31m"
               : streq(type, "warning") ? "\033[33m"
                                        : "";
}

static bool events_print(Ctl *ctl, const char *type, json_object *event) {
        json_object *data = json_at(event, "/data");
        _cleanup_free_ char *summary = events_summary(type, data);
        const char *color = ctl->color ? events_color(type, data) : "";
        unsigned n;

        if (!summary)
                return false;
        n = (unsigned)printf("%s  %s  %-11.32s  ", text_member(event, "/at"), text_member(event, "/task"), type);
        fputs(color, stdout);
        text_write_line(stdout, summary, ctl->width > n + 8 ? ctl->width - n : 0);
        puts(*color ? "\033[0m" : "");
        fflush(stdout);
        return true;
}

static bool on_event(void *userdata, const char *id, const char *type, const char *data, size_t n) {
        Events *e = userdata;
        json_object *event;
        bool more = true;

        if (e->ctl->json) {
                fwrite(data, 1, n, stdout);
                fputc('\n', stdout);
                fflush(stdout);
                return !ferror(stdout);
        }
        event = client_parse(data, n);
        if (event)
                more = events_print(e->ctl, type, event);
        json_object_put(event);
        return more && !ferror(stdout);
}

static bool on_data(void *userdata, const char *data, size_t n) {
        Events *e = userdata;

        e->alive = true;
        return event_stream_feed(&e->stream, data, n);
}

/* One connection, to its end. */
static int events_connect(Events *e, ClientResponse *response) {
        char last_event_id[128], path[64];
        ClientRequest request = {
                .method = "GET", .path = path, .headers = { "Accept: text/event-stream" }, .on_data = on_data, .userdata = e,
        };

        snprintf(path, sizeof(path), "/v1/events%s%s", e->after ? "?after=" : "", e->after ?: "");
        if (*e->stream.id) {
                snprintf(last_event_id, sizeof(last_event_id), "Last-Event-ID: %s", e->stream.id);
                request.headers[1] = last_event_id;
        }
        event_stream_restart(&e->stream);
        e->alive = false;
        return client_perform(e->ctl, &request, response);
}

static int events_loop(Events *e) {
        _cleanup_(client_response_deinit) ClientResponse response = CLIENT_RESPONSE_NULL;
        uint64_t last_us = 0, pause_us = EVENTS_RETRY_MIN_US, now_us;
        ClientRequest request = { .method = "GET", .path = "/v1/events" };
        bool told = false;
        int r;

        for (;;) {
                r = events_connect(e, &response);
                if (client_interrupted())
                        return CTL_INTERRUPTED;
                if (r == CLIENT_E_STOPPED)
                        return ferror(stdout) ? CTL_INTERNAL
                                              : ctl_fail(CTL_BUSY, "an event that can't be shown; is this an agent-router?");
                now_us = clock_monotonic_us();
                if (e->alive) {
                        last_us = now_us;
                        pause_us = EVENTS_RETRY_MIN_US;
                        told = false;
                }
                /* Refused, or never there: waiting would not help. */
                if (r < 0 || r == CLIENT_E_CONFIG || !last_us ||
                    (r == 0 && response.status != 200 && response.status != 429 && response.status < 500))
                        return client_fail(e->ctl, &request, &response, r);
                if (now_us - last_us > e->patience_us) {
                        fprintf(stderr, "agent-routerctl: the router did not come back; go on with: agent-routerctl events "
                                "--after %s\n", *e->stream.id ? e->stream.id : "0");
                        return r == 0 && response.status == 200 ? CTL_UNREACHABLE
                                                                : client_fail(e->ctl, &request, &response, r);
                }
                if (!told)
                        fprintf(stderr, "agent-routerctl: lost the connection; trying again\n");
                told = true;
                watch_pause(pause_us);
                if (client_interrupted())
                        return CTL_INTERRUPTED;
                pause_us = MIN(pause_us * 2, EVENTS_RETRY_MAX_US);
        }
}

int verb_events(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        const char *patience = NULL;
        Events e = { .ctl = ctl, .stream = EVENT_STREAM_INIT(on_event, &e), .patience_us = WATCH_PATIENCE_US };
        const Option options[] = {
                { "after", 0, "N", "begin after the event of this number; 0: with the first there is", .text = &e.after },
                { "patience", 0, "DURATION", "how long a router that is gone is waited for (2min)", .text = &patience },
                {},
        };
        uint64_t v;
        int n, r;

        r = ctl_parse(ctl, verb, options, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (n)
                return ctl_fail(CTL_USAGE, "events takes no arguments, got '%s'; of one task: agent-routerctl follow ID", argv[0]);
        if (e.after && !parse_u64(e.after, &v))
                return ctl_fail(CTL_USAGE, "--after '%s': expected the number of an event", e.after);
        if (patience && !watch_parse_patience(patience, &e.patience_us))
                return CTL_USAGE;
        client_catch_interrupt();
        r = events_loop(&e);
        event_stream_deinit(&e.stream);
        return r;
}

#include <inttypes.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "ctl/batch-watch.h"
#include "ctl/client.h"
#include "ctl/show.h"
#include "ctl/table.h"
#include "ctl/text.h"
#include "ctl/watch.h"

#define POLL_MIN_US (50 * USEC_PER_MSEC)
#define POLL_MAX_US USEC_PER_SEC
#define LINE_US (5 * USEC_PER_SEC)      /* between two lines where stderr is no terminal */
#define BAR_COLUMNS 30

int batch_get(Ctl *ctl, const char *id, const char *tail, json_object **ret_batch) {
        _cleanup_free_ char *path = NULL;
        int r = client_path("/v1/batches/", id, tail, &path);

        return r ?: client_call(ctl, &(ClientRequest){ .method = "GET", .path = path }, ret_batch);
}

void batch_counts(json_object *batch, char *s, size_t n) {
        json_object *counts = json_at(batch, "/counts");
        size_t k = 0;

        *s = 0;
        if (!json_object_is_type(counts, json_type_object))
                return;
        json_object_object_foreach(counts, state, count)
                if (k < n)
                        k += (size_t)snprintf(s + k, n - k, "%s%" PRIu64 " %s", k ? ", " : "", json_object_get_uint64(count),
                                              state);
}

int batch_exit(json_object *batch) {
        uint64_t succeeded = text_member_u64(batch, "/counts/succeeded");

        if (streq(text_member(batch, "/select"), "first") ? succeeded > 0 : succeeded == text_member_u64(batch, "/n_tasks"))
                return CTL_OK;
        return CTL_TASK_FAILED;
}

/* ---- progress ---- */

typedef struct Progress {
        bool terminal;
        uint64_t started_us, told_us;
        uint64_t done;
} Progress;

static void progress_tell(Progress *p, json_object *batch) {
        uint64_t done = text_member_u64(batch, "/done"), n = text_member_u64(batch, "/n_tasks"), now_us = clock_monotonic_us();
        char counts[256], waited[TEXT_DURATION_MAX];
        unsigned filled = n ? (unsigned)(done * BAR_COLUMNS / n) : 0;

        batch_counts(batch, counts, sizeof(counts));
        text_duration(now_us - p->started_us, waited);
        if (p->terminal) {
                fputs("\r\033[K[", stderr);
                for (unsigned i = 0; i < BAR_COLUMNS; i++)
                        fputc(i < filled ? '#' : '.', stderr);
                fprintf(stderr, "] %" PRIu64 "/%" PRIu64 "  %s  %s", done, n, waited, counts);
        } else if ((p->told_us == 0 || now_us - p->told_us >= LINE_US) && done != p->done) {
                fprintf(stderr, "%" PRIu64 " of %" PRIu64 " done after %s: %s\n", done, n, waited, counts);
                p->told_us = now_us;
                p->done = done;
        }
}

static void progress_end(const Progress *p) {
        if (p->terminal)
                fputs("\r\033[K", stderr);
}

int batch_watch(Ctl *ctl, const char *id, uint64_t patience_us, json_object **ret_batch) {
        Progress progress = { .terminal = isatty(STDERR_FILENO) && !ctl->json, .started_us = clock_monotonic_us(),
                              .done = UINT64_MAX };
        uint64_t pause_us = POLL_MIN_US, seen_us = clock_monotonic_us();
        _cleanup_free_ char *path = NULL;
        ClientRequest request = { .method = "GET" };
        int r;

        r = client_path("/v1/batches/", id, "", &path);
        if (r)
                return r;
        request.path = path;
        client_catch_interrupt();
        for (;;) {
                _cleanup_(client_response_deinit) ClientResponse response = CLIENT_RESPONSE_NULL;
                _cleanup_(json_putp) json_object *batch = NULL;

                r = client_perform(ctl, &request, &response);
                if (client_interrupted()) {
                        progress_end(&progress);
                        fprintf(stderr, "agent-routerctl: interrupted; the batch goes on: agent-routerctl batch show %s, or "
                                "batch cancel %s\n", id, id);
                        return CTL_INTERRUPTED;
                }
                if (r == 0 && response.status == 200)
                        batch = client_parse(buf_data(&response.body), buf_size(&response.body));
                if (batch) {
                        seen_us = clock_monotonic_us();
                        if (streq(text_member(batch, "/state"), "finished")) {
                                progress_end(&progress);
                                *ret_batch = json_object_get(batch);
                                return 0;
                        }
                        if (!ctl->json)
                                progress_tell(&progress, batch);
                } else if ((r != CLIENT_E_UNREACHABLE && r != CLIENT_E_LOST && !(r == 0 && response.status >= 429)) ||
                           clock_monotonic_us() - seen_us > patience_us) {
                        progress_end(&progress);
                        return client_fail(ctl, &request, &response, r);
                }
                watch_pause(pause_us);
                pause_us = MIN(pause_us * 5 / 4, POLL_MAX_US);
        }
}

/* ---- for people ---- */

static void line(Ctl *ctl, const char *name, const char *value) {
        if (!*value)
                return;
        printf("%s%-12s%s", ctl->color ? "\033[1m" : "", name, ctl->color ? "\033[0m" : "");
        text_write_line(stdout, value, 0);
        putchar('\n');
}

static void print_results(Ctl *ctl, json_object *tasks) {
        for (size_t i = 0; i < json_object_array_length(tasks); i++) {
                json_object *task = json_object_array_get_idx(tasks, i);
                const char *state = text_member(task, "/state"), *detail = text_member(task, "/detail");
                printf("\n%s%s%s  %s%s%s  %s\n", ctl->color ? "\033[1m" : "", text_member(task, "/agent"),
                       ctl->color ? "\033[0m" : "", ctl->color ? text_state_color(state) : "", state,
                       ctl->color ? "\033[0m" : "", text_member(task, "/id"));
                fflush(stdout);
                if (json_at(task, "/result"))
                        show_result(ctl, task);
                else if (*detail) {
                        text_write_line(stdout, detail, 0);
                        putchar('\n');
                }
        }
}

int batch_print(Ctl *ctl, json_object *batch) {
        json_object *usage = json_at(batch, "/usage"), *metadata = json_at(batch, "/metadata"), *tasks = json_at(batch, "/tasks");
        char s[512], span[TEXT_DURATION_MAX];

        line(ctl, "id", text_member(batch, "/id"));
        batch_counts(batch, s, sizeof(s));
        line(ctl, "state", text_member(batch, "/state"));
        line(ctl, "tasks", s);
        snprintf(s, sizeof(s), "%" PRIu64 " of %" PRIu64 "%s", text_member_u64(batch, "/done"), text_member_u64(batch, "/n_tasks"),
                 text_member_bool(batch, "/cancel_requested") ? ", cancelled" : "");
        line(ctl, "done", s);
        line(ctl, "select", text_member(batch, "/select"));
        line(ctl, "principal", text_member(batch, "/principal"));
        text_span(json_at(batch, "/created_at"), NULL, span);
        snprintf(s, sizeof(s), "%s (%s ago)", text_member(batch, "/created_at"), span);
        line(ctl, "created", s);
        if (json_object_is_type(metadata, json_type_object) && json_object_object_length(metadata))
                line(ctl, "metadata", json_object_to_json_string_ext(metadata, JSON_C_TO_STRING_PLAIN |
                                                                     JSON_C_TO_STRING_NOSLASHESCAPE));
        if (usage) {
                snprintf(s, sizeof(s), "%" PRIu64 " in (%" PRIu64 " cached), %" PRIu64 " out%s%s",
                         text_member_u64(usage, "/input_tokens"), text_member_u64(usage, "/cached_input_tokens"),
                         text_member_u64(usage, "/output_tokens"), json_at(usage, "/cost_usd") ? ", USD " : "",
                         text_member(usage, "/cost_usd"));
                line(ctl, "tokens", s);
        }
        line(ctl, "max tokens", text_member(batch, "/max_tokens"));
        line(ctl, "max cost", text_member(batch, "/max_cost_usd"));
        if (json_object_is_type(tasks, json_type_array))
                print_results(ctl, tasks);
        return CTL_OK;
}

/* batch submit, list, show, cancel, retry. */

#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/parse.h"
#include "ctl/batch-watch.h"
#include "ctl/client.h"
#include "ctl/send.h"
#include "ctl/table.h"
#include "ctl/text.h"
#include "ctl/watch.h"

#define FILE_MAX MIB(128)               /* the router's own limit (limits.batch_body) is at most that */
#define TASKS_MAX 10000                 /* of a batch, as the router takes it */
#define LIST_DEFAULT 50
#define LIST_PAGE_MAX 500

/* ---- submit ---- */

typedef struct BatchFile {
        const char *name;
        char *text;
        size_t n;
        size_t *lines;                  /* of each task, from 1 */
        size_t n_tasks;
} BatchFile;

static void batch_file_deinit(BatchFile *f) {
        free(f->text);
        free(f->lines);
}

static int batch_file_read(BatchFile *f, const char *path) {
        _cleanup_close_ int fd = -1;
        int r;

        f->name = streq(path, "-") ? "stdin" : path;
        if (!streq(path, "-")) {
                fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
                if (fd < 0)
                        return ctl_fail(CTL_USAGE, "cannot read %s: %s", path, strerror(errno));
        }
        r = fd_read_all(fd < 0 ? STDIN_FILENO : fd, FILE_MAX, &f->text, &f->n);
        if (r == FD_E_TOO_LARGE)
                return ctl_fail(CTL_USAGE, "%s: more than %zu MiB", f->name, FILE_MAX >> 20);
        if (r)
                return ctl_fail(CTL_USAGE, "cannot read %s: %s", f->name, strerror(-r));
        f->lines = calloc(TASKS_MAX, sizeof(*f->lines));
        return f->lines ? 0 : error_origin(-ENOMEM);
}

/* One line: a task, or nothing. */
static int batch_file_add(BatchFile *f, size_t number, const char *s, size_t n, Buf *out) {
        _cleanup_(json_putp) json_object *task = NULL;
        JsonError e = {};
        int r;

        if (strspn(s, " \t\r") >= n)
                return 0;
        r = json_parse(s, n, JSON_DEPTH_MAX, &task, &e);
        if (r == JSON_E_INVALID)
                return ctl_fail(CTL_USAGE, "%s:%zu: %s", f->name, number, e.detail);
        if (r)
                return error_trace(r);
        if (!json_object_is_type(task, json_type_object))
                return ctl_fail(CTL_USAGE, "%s:%zu: expected a JSON object: {\"prompt\": …}", f->name, number);
        if (f->n_tasks == TASKS_MAX)
                return ctl_fail(CTL_USAGE, "%s:%zu: more than %d tasks; expected at most so many in a batch", f->name, number,
                                TASKS_MAX);
        r = buf_append_str(out, f->n_tasks ? "," : "");
        r = r ?: buf_append(out, s, n);
        f->lines[f->n_tasks++] = number;
        return error_fold(r);
}

static int batch_file_tasks(BatchFile *f, Buf *out) {
        size_t number = 1;
        int r = 0;

        for (char *p = f->text, *end = f->text + f->n; p < end && !r; number++) {
                char *newline = memchr(p, '\n', (size_t)(end - p)), *stop = newline ?: end;
                *stop = 0;      /* the text has a NUL at its end */
                r = batch_file_add(f, number, p, (size_t)(stop - p), out);
                p = stop + 1;
        }
        if (!r && !f->n_tasks)
                return ctl_fail(CTL_USAGE, "%s: no task; expected one JSON object a line: {\"prompt\": …}", f->name);
        return r;
}

/* The router names a task by its index; people have a file with lines. */
static int tell_refusal(const BatchFile *f, json_object *problem, int code) {
        json_object *errors = json_at(problem, "/errors");
        const char *detail = text_member(problem, "/detail");
        bool told = false;

        for (size_t i = 0; json_object_is_type(errors, json_type_array) && i < json_object_array_length(errors); i++) {
                json_object *e = json_object_array_get_idx(errors, i);
                const char *pointer = text_member(e, "/pointer"), *what = text_member(e, "/detail");
                char number[16];
                uint64_t index;
                size_t n;
                if (!str_starts(pointer, "/tasks/"))
                        continue;
                n = strspn(pointer + 7, "0123456789");
                if (n == 0 || n >= sizeof(number))
                        continue;
                memcpy(number, pointer + 7, n);
                number[n] = 0;
                if (!parse_u64(number, &index) || index >= f->n_tasks)
                        continue;
                /* "/tasks/17/prompt is required" */
                what += str_starts(what, pointer) ? strlen(pointer) : 0;
                fprintf(stderr, "agent-routerctl: %s:%zu: ", f->name, f->lines[index]);
                text_write_line(stderr, pointer[7 + n] ? pointer + 7 + n + 1 : "", 0);
                fputs(pointer[7 + n] && *what != ' ' ? ": " : "", stderr);
                text_write_line(stderr, pointer[7 + n] ? what : what + (*what == ' '), 0);
                fputc('\n', stderr);
                told = true;
        }
        if (!told) {
                fprintf(stderr, "agent-routerctl: %s: ", f->name);
                text_write_line(stderr, *detail ? detail : text_member(problem, "/title"), 0);
                fputc('\n', stderr);
        }
        fprintf(stderr, "  none of its %zu tasks was submitted\n", f->n_tasks);
        return code;
}

typedef struct BatchOptions {
        const char *max_tokens, *max_cost, *on_denied, *key, *patience;
        OptionList metadata;
        bool wait, no_wait;
} BatchOptions;

static int append_pairs(Buf *b, const OptionList *pairs) {
        int r = buf_append_str(b, ",\"metadata\":{");

        for (size_t i = 0; i < pairs->n && !r; i++) {
                const char *s = pairs->values[i], *equals = strchr(s, '=');
                if (!equals || equals == s || !utf8_is_valid(s, strlen(s)))
                        return ctl_fail(CTL_USAGE, "--metadata '%s': expected KEY=VALUE", s);
                r = buf_append_str(b, i ? "," : "");
                r = r ?: json_append_string(b, s, (size_t)(equals - s));
                r = r ?: buf_append_str(b, ":");
                r = r ?: json_append_string(b, equals + 1, strlen(equals + 1));
        }
        return error_fold(r ?: buf_append_str(b, "}"));
}

static int append_options(Buf *b, const BatchOptions *o) {
        uint64_t tokens;
        int r = 0;

        if (o->metadata.n)
                r = append_pairs(b, &o->metadata);
        if (!r && o->max_tokens) {
                if (!parse_u64_range(o->max_tokens, 1, UINT64_C(1) << 53, &tokens))
                        return ctl_fail(CTL_USAGE, "--max-tokens '%s': expected a number of tokens", o->max_tokens);
                r = buf_printf(b, ",\"max_tokens\":%" PRIu64, tokens);
        }
        if (!r && o->max_cost) {
                if (!text_is_usd(o->max_cost))
                        return ctl_fail(CTL_USAGE, "--max-cost-usd '%s': expected dollars, such as 2.50", o->max_cost);
                r = buf_printf(b, ",\"max_cost_usd\":%s", o->max_cost);
        }
        if (!r && o->on_denied) {
                r = buf_append_str(b, ",\"on_denied\":");
                r = r ?: json_append_string(b, o->on_denied, strlen(o->on_denied));
        }
        return r;
}

static int submit_file(Ctl *ctl, const BatchOptions *o, const char *path, json_object **ret_answer) {
        _cleanup_(batch_file_deinit) BatchFile file = {};
        _cleanup_(json_putp) json_object *problem = NULL;
        _cleanup_(buf_deinit) Buf body = BUF_NULL;
        int r;

        r = batch_file_read(&file, path);
        if (r)
                return r;
        r = buf_append_str(&body, "{\"tasks\":[");
        if (r)
                return error_fold(r);
        r = batch_file_tasks(&file, &body);
        if (r)
                return r;
        r = buf_append_str(&body, "]");
        if (r)
                return error_fold(r);
        r = append_options(&body, o);
        if (r)
                return r;
        r = buf_append_str(&body, "}");
        if (r)
                return error_fold(r);
        r = send_submission_or_problem(ctl, "/v1/batches", (const char *)buf_data(&body), buf_size(&body), o->key, ret_answer,
                                       &problem);
        return problem ? tell_refusal(&file, problem, r) : r;
}

int verb_batch_submit(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        BatchOptions o = {};
        const Option options[] = {
                { "metadata", 0, "KEY=VALUE", "metadata kept with the batch (repeatable)", .list = &o.metadata },
                { "max-tokens", 0, "N", "tokens that all of it may use together", .text = &o.max_tokens },
                { "max-cost-usd", 0, "USD", "the same in dollars", .text = &o.max_cost },
                { "on-denied", 0, "WHAT", "reject (the task that a policy denies) or refuse_all", .text = &o.on_denied },
                { "idempotency-key", 0, "KEY", "the same key makes one batch, however often it is sent", .text = &o.key },
                { "wait", 'w', NULL, "wait for the end of all, with a progress bar; this is the default", .flag = &o.wait },
                { "no-wait", 0, NULL, "print the batch's id and return", .flag = &o.no_wait },
                { "patience", 0, "DURATION", "how long a router that is gone is waited for (2min)", .text = &o.patience },
                {},
        };
        _cleanup_(json_putp) json_object *answer = NULL, *batch = NULL;
        uint64_t patience_us = WATCH_PATIENCE_US;
        char counts[256];
        int n, r;

        r = ctl_parse(ctl, verb, options, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (n != 1)
                return ctl_fail(CTL_USAGE, "expected one file with a JSON object a line: agent-routerctl batch submit FILE.jsonl");
        if (o.wait && o.no_wait)
                return ctl_fail(CTL_USAGE, "--wait and --no-wait are both given; expected one of them");
        if (o.patience && !watch_parse_patience(o.patience, &patience_us))
                return CTL_USAGE;
        r = submit_file(ctl, &o, argv[0], &answer);
        if (r)
                return r;
        if (o.no_wait) {
                if (ctl->json)
                        text_print_json(answer);
                else
                        puts(text_member(answer, "/id"));
                return CTL_OK;
        }
        if (!ctl->json)
                puts(text_member(answer, "/id"));
        fflush(stdout);
        r = batch_watch(ctl, text_member(answer, "/id"), patience_us, &batch);
        if (r)
                return r;
        batch_counts(batch, counts, sizeof(counts));
        if (ctl->json)
                text_print_json(batch);
        else
                fprintf(stderr, "%s\n", counts);
        if (!ctl->json && batch_exit(batch) != CTL_OK)
                fprintf(stderr, "  those that failed: agent-routerctl list --batch %s; again: agent-routerctl batch retry %s\n",
                        text_member(batch, "/id"), text_member(batch, "/id"));
        return batch_exit(batch);
}

/* ---- list, show ---- */

static int list_print(Ctl *ctl, json_object *batches) {
        _cleanup_(table_deinit) Table t = TABLE_NULL;
        char s[256];

        table_column(&t, "id", TABLE_LEFT);
        table_column(&t, "state", TABLE_LEFT);
        table_column(&t, "done", TABLE_RIGHT);
        table_column(&t, "age", TABLE_RIGHT);
        table_column(&t, "principal", TABLE_LEFT);
        table_column(&t, "tasks", TABLE_LEFT);
        for (size_t i = 0; i < json_object_array_length(batches); i++) {
                json_object *b = json_object_array_get_idx(batches, i);
                table_add(&t, text_member(b, "/id"));
                table_add(&t, text_member(b, "/state"));
                table_addf(&t, "%" PRIu64 "/%" PRIu64, text_member_u64(b, "/done"), text_member_u64(b, "/n_tasks"));
                text_span(json_at(b, "/created_at"), NULL, s);
                table_add(&t, s);
                table_add(&t, text_member(b, "/principal"));
                batch_counts(b, s, sizeof(s));
                table_add(&t, s);
        }
        return table_print(&t, stdout, ctl->width, ctl->color);
}

int verb_batch_list(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        const char *limit = NULL;
        const Option options[] = {
                { "limit", 'n', "N", "at most so many, the newest first (50)", .text = &limit },
                {},
        };
        _cleanup_(json_putp) json_object *page = NULL;
        uint64_t v = LIST_DEFAULT;
        json_object *batches;
        char path[64];
        int n, r;

        r = ctl_parse(ctl, verb, options, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (n)
                return ctl_fail(CTL_USAGE, "batch list takes no arguments, got '%s'", argv[0]);
        if (limit && !parse_u64_range(limit, 1, LIST_PAGE_MAX, &v))
                return ctl_fail(CTL_USAGE, "--limit '%s': expected an integer from 1 to %d", limit, LIST_PAGE_MAX);
        snprintf(path, sizeof(path), "/v1/batches?limit=%" PRIu64, v);
        r = client_call(ctl, &(ClientRequest){ .method = "GET", .path = path }, &page);
        if (r)
                return r;
        batches = json_at(page, "/batches");
        if (!json_object_is_type(batches, json_type_array))
                return ctl_fail(CTL_BUSY, "the answer holds no batches; is this an agent-router?");
        if (ctl->json) {
                text_print_json(page);
                return CTL_OK;
        }
        if (!json_object_array_length(batches)) {
                puts("no batches yet; submit one with: agent-routerctl batch submit FILE.jsonl");
                return CTL_OK;
        }
        return list_print(ctl, batches);
}

int verb_batch_show(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        _cleanup_(json_putp) json_object *batch = NULL;
        int n, r;

        r = ctl_parse(ctl, verb, NULL, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (n != 1)
                return ctl_fail(CTL_USAGE, "expected the id of one batch: agent-routerctl batch show ID");
        r = batch_get(ctl, argv[0], "", &batch);
        if (r)
                return r;
        if (ctl->json) {
                text_print_json(batch);
                return CTL_OK;
        }
        r = batch_print(ctl, batch);
        if (!json_at(batch, "/tasks"))
                printf("\nits tasks: agent-routerctl list --batch %s\n", text_member(batch, "/id"));
        return r;
}

/* ---- cancel, retry ---- */

static int each_batch(Ctl *ctl, int n, char **argv, const char *action) {
        int worst = 0, r;

        for (int i = 0; i < n; i++) {
                _cleanup_(json_putp) json_object *answer = NULL;
                _cleanup_free_ char *path = NULL;
                char counts[256];

                r = client_path("/v1/batches/", argv[i], action, &path);
                r = r ?: client_call(ctl, &(ClientRequest){ .method = "POST", .path = path }, &answer);
                if (r < 0 || r == CTL_UNREACHABLE || r == CTL_USAGE)
                        return r;
                worst = MAX(worst, r);
                if (r)
                        continue;
                batch_counts(answer, counts, sizeof(counts));
                if (ctl->json)
                        text_print_json(answer);
                else if (json_at(answer, "/retried"))
                        printf("%s: %" PRIu64 " tasks run again\n", argv[i], text_member_u64(answer, "/retried"));
                else
                        printf("%s: %s\n", argv[i], counts);
                fflush(stdout);
        }
        return worst;
}

int verb_batch_cancel(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        int n, r;

        r = ctl_parse(ctl, verb, NULL, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (n == 0)
                return ctl_fail(CTL_USAGE, "expected the ids of batches: agent-routerctl batch cancel ID…");
        return each_batch(ctl, n, argv, "/cancel");
}

int verb_batch_retry(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        int n, r;

        r = ctl_parse(ctl, verb, NULL, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (n == 0)
                return ctl_fail(CTL_USAGE, "expected the ids of batches: agent-routerctl batch retry ID…");
        return each_batch(ctl, n, argv, "/retry");
}

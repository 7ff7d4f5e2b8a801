#include <inttypes.h>

#include "base/error.h"
#include "base/json.h"
#include "base/parse.h"
#include "ctl/client.h"
#include "ctl/table.h"
#include "ctl/text.h"

#define LIST_DEFAULT 50
#define LIST_MAX 1000000
#define LIST_PAGE 100                   /* tasks a request */

typedef struct ListQuery {
        const char *state, *agent, *group, *batch, *limit;
        OptionList labels;
        bool all;
} ListQuery;

static int list_path(const ListQuery *q, const char *cursor, uint64_t limit, char **ret_path) {
        const struct { const char *name, *value; } fields[] = {
                { "state", q->state }, { "agent", q->agent }, { "group", q->group }, { "batch", q->batch }, { "cursor", cursor },
        };
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        int r;

        r = buf_printf(&b, "/v1/tasks?limit=%" PRIu64, limit);
        for (size_t i = 0; !r && i < ELEMENTSOF(fields); i++)
                if (fields[i].value) {
                        r = buf_printf(&b, "&%s=", fields[i].name);
                        if (!r)
                                r = client_escape(&b, fields[i].value);
                }
        for (size_t i = 0; !r && i < q->labels.n; i++) {
                r = buf_append_str(&b, "&label=");
                if (!r)
                        r = client_escape(&b, q->labels.values[i]);
        }
        if (!r)
                r = buf_take_str(&b, ret_path);
        return error_fold(r);
}

/* Page after page, until there are enough or no more. */
static int list_collect(Ctl *ctl, const ListQuery *q, uint64_t limit, json_object *tasks, bool *ret_more) {
        _cleanup_free_ char *cursor = NULL;

        for (;;) {
                uint64_t left = limit - json_object_array_length(tasks);
                _cleanup_(json_putp) json_object *page = NULL;
                _cleanup_free_ char *path = NULL;
                json_object *items, *next;
                int r;

                r = list_path(q, cursor, MIN(left, (uint64_t)LIST_PAGE), &path);
                if (r)
                        return error_trace(r);
                r = client_call(ctl, &(ClientRequest){ .method = "GET", .path = path }, &page);
                if (r)
                        return r;
                items = json_at(page, "/tasks");
                if (!json_object_is_type(items, json_type_array))
                        return ctl_fail(CTL_BUSY, "the answer holds no tasks; is this an agent-router?");
                for (size_t i = 0; i < json_object_array_length(items); i++)
                        json_object_array_add(tasks, json_object_get(json_object_array_get_idx(items, i)));
                next = json_at(page, "/next_cursor");
                /* A page may be empty and not be the last: the router looks at so many tasks a page and no more. */
                if (!next || (cursor && streq(cursor, json_object_get_string(next))) ||
                    json_object_array_length(tasks) >= limit) {
                        *ret_more = next != NULL;
                        return 0;
                }
                free(cursor);
                cursor = strdup(json_object_get_string(next));
                if (!cursor)
                        return error_origin(-ENOMEM);
        }
}

static void list_add_labels(Table *t, json_object *labels) {
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        _cleanup_free_ char *s = NULL;

        if (json_object_is_type(labels, json_type_object)) {
                json_object_object_foreach(labels, key, value) {
                        if (buf_printf(&b, "%s%s=%s", buf_size(&b) ? " " : "", key, json_object_get_string(value))) {
                                t->failed = true;
                                return;
                        }
                }
        }
        if (buf_take_str(&b, &s))
                t->failed = true;
        else
                table_add(t, s);
}

/* Why it waits, or why it ended without success. */
static void list_add_why(Table *t, json_object *task) {
        json_object *waiting = json_at(task, "/waiting");
        const char *reason = text_member(task, "/reason");
        char s[TEXT_DURATION_MAX];

        if (waiting) {
                text_until(json_at(waiting, "/until"), s);
                table_addf(t, "%s%s%s", text_member(waiting, "/reason"), *s ? " " : "", s);
        } else
                table_add(t, streq(reason, text_member(task, "/state")) ? "" : reason);
}

static int list_print(Ctl *ctl, json_object *tasks) {
        _cleanup_(table_deinit) Table t = TABLE_NULL;

        table_column(&t, "id", TABLE_LEFT);
        table_column(&t, "state", TABLE_LEFT);
        table_column(&t, "agent", TABLE_LEFT);
        table_column(&t, "prio", TABLE_RIGHT);
        table_column(&t, "age", TABLE_RIGHT);
        table_column(&t, "ran", TABLE_RIGHT);
        table_column(&t, "principal", TABLE_LEFT);
        table_column(&t, "why", TABLE_LEFT);
        table_column(&t, "labels", TABLE_LEFT);
        for (size_t i = 0; i < json_object_array_length(tasks); i++) {
                json_object *task = json_object_array_get_idx(tasks, i);
                const char *state = text_member(task, "/state");
                char s[TEXT_DURATION_MAX];
                table_add(&t, text_member(task, "/id"));
                table_add_color(&t, state, text_state_color(state));
                table_add(&t, text_member(task, "/agent"));
                table_add(&t, text_member(task, "/priority"));
                text_span(json_at(task, "/created_at"), NULL, s);
                table_add(&t, s);
                text_span(json_at(task, "/started_at"), json_at(task, "/finished_at"), s);
                table_add(&t, s);
                table_add(&t, text_member(task, "/principal"));
                list_add_why(&t, task);
                list_add_labels(&t, json_at(task, "/labels"));
        }
        return table_print(&t, stdout, ctl->width, ctl->color);
}

int verb_list(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        ListQuery q = {};
        const Option options[] = {
                { "state", 's', "STATE", "only tasks in this state: queued, running, failed, dead, …", .text = &q.state },
                { "agent", 'a', "NAME", "only tasks of this agent", .text = &q.agent },
                { "group", 'g', "NAME", "only tasks of this group", .text = &q.group },
                { "batch", 'b', "ID", "only tasks of this batch", .text = &q.batch },
                { "label", 'l', "KEY=VALUE", "only tasks with this label (repeatable)", .list = &q.labels },
                { "limit", 'n', "N", "at most so many, the newest first (50)", .text = &q.limit },
                { "all", 'A', NULL, "all of them", .flag = &q.all },
                {},
        };
        _cleanup_(json_putp) json_object *answer = NULL;
        json_object *tasks;
        uint64_t limit = LIST_DEFAULT;
        bool more = false;
        int n, r;

        r = ctl_parse(ctl, verb, options, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (n)
                return ctl_fail(CTL_USAGE, "list takes no arguments, got '%s'; one task is shown by: agent-routerctl get ID", argv[0]);
        if (q.all && q.limit)
                return ctl_fail(CTL_USAGE, "--all and --limit are both given; expected one of them");
        if (q.limit && !parse_u64_range(q.limit, 1, LIST_MAX, &limit))
                return ctl_fail(CTL_USAGE, "--limit '%s': expected an integer from 1 to %d", q.limit, LIST_MAX);
        for (size_t i = 0; i < q.labels.n; i++)
                if (!strchr(q.labels.values[i], '='))
                        return ctl_fail(CTL_USAGE, "--label '%s': expected KEY=VALUE", q.labels.values[i]);
        answer = json_object_new_object();
        tasks = json_object_new_array();
        json_object_object_add(answer, "tasks", tasks);
        r = list_collect(ctl, &q, q.all ? LIST_MAX : limit, tasks, &more);
        if (r)
                return r;
        if (ctl->json) {
                json_object_object_add(answer, "more", json_object_new_boolean(more));
                text_print_json(answer);
                return CTL_OK;
        }
        if (!json_object_array_length(tasks)) {
                if (q.state || q.agent || q.group || q.batch || q.labels.n)
                        puts("no task matches; without the filters: agent-routerctl list");
                else
                        puts("no tasks yet; submit one with: agent-routerctl submit \"Say hello\"");
                return CTL_OK;
        }
        r = list_print(ctl, tasks);
        if (!r && more)
                fprintf(stderr, "the newest %" PRIu64 " are shown; all: agent-routerctl list --all\n", limit);
        return r;
}

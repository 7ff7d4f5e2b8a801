#include "api/batch.h"
#include "base/error.h"

static void skip_space(BatchSplit *s) {
        while (s->i < s->n && strchr(" \t\r\n", s->s[s->i]) && s->s[s->i])
                s->i++;
}

static int invalid(BatchSplit *s, JsonError *e, const char *expected) {
        json_error_set(e, "", "invalid JSON at byte %zu: expected %s", s->i, expected);
        e->offset = s->i;
        return JSON_E_INVALID;
}

/* True where the next byte is c, which is taken. */
static bool take(BatchSplit *s, char c) {
        skip_space(s);
        if (s->i == s->n || s->s[s->i] != c)
                return false;
        s->i++;
        return true;
}

/* The value at the cursor. */
static int take_value(BatchSplit *s, JsonError *e, const char **ret_value, size_t *ret_n) {
        skip_space(s);
        *ret_value = s->s + s->i;
        *ret_n = json_span(*ret_value, s->n - s->i);
        if (!*ret_n)
                return invalid(s, e, "a value");
        s->i += *ret_n;
        return 0;
}

static int next_task(BatchSplit *s, JsonError *e, BatchSpan *ret_task) {
        const char *value;
        size_t n;
        int r;

        if (s->n_tasks == 0 && take(s, ']'))
                n = 0;
        else if (s->n_tasks == BATCH_TASKS_MAX) {
                json_error_set(e, "/tasks", "expected at most %d tasks", BATCH_TASKS_MAX);
                return JSON_E_INVALID;
        } else {
                r = take_value(s, e, &value, &n);
                if (r)
                        return r;
                *ret_task = (BatchSpan){ .at = (size_t)(value - s->s), .n = n };
                s->n_tasks++;
                if (take(s, ','))
                        return 0;
                if (!take(s, ']'))
                        return invalid(s, e, "',' or ']' after a task");
        }
        s->in_tasks = false;
        s->after_member = true;
        return n ? 0 : BATCH_E_MORE;
}

/* A member of the document: the array of tasks is entered, another is copied. */
static int next_member(BatchSplit *s, JsonError *e) {
        const char *name, *value;
        size_t n_name, n;
        int r;

        skip_space(s);
        if (s->i == s->n || s->s[s->i] != '"')
                return invalid(s, e, "the name of a member");
        r = take_value(s, e, &name, &n_name);
        if (r)
                return r;
        if (!take(s, ':'))
                return invalid(s, e, "':'");
        s->after_member = true;
        if (n_name == 7 && strncmp(name, "\"tasks\"", 7) == 0) {
                if (s->has_tasks) {
                        json_error_set(e, "/tasks", "is there twice");
                        return JSON_E_INVALID;
                }
                s->has_tasks = true;
                s->in_tasks = take(s, '[');
                if (!s->in_tasks) {
                        json_error_set(e, "/tasks", "expected an array of 1 to %d tasks", BATCH_TASKS_MAX);
                        return JSON_E_INVALID;
                }
                return 0;
        }
        r = take_value(s, e, &value, &n);
        if (r)
                return r;
        r = buf_append_str(&s->rest, buf_size(&s->rest) ? "," : "{");
        r = r ?: buf_append(&s->rest, name, n_name);
        r = r ?: buf_append_str(&s->rest, ":");
        r = r ?: buf_append(&s->rest, value, n);
        if (r == BUF_E_FULL) {
                json_error_set(e, "", "expected at most %zu bytes beside the tasks", BATCH_REST_MAX);
                return JSON_E_INVALID;
        }
        return r;
}

void batch_split_init(BatchSplit *s, const char *body, size_t n) {
        *s = (BatchSplit){ .s = body, .n = n, .rest = BUF_INIT(BATCH_REST_MAX) };
}

void batch_split_deinit(BatchSplit *s) {
        buf_deinit(&s->rest);
}

int batch_split_next(BatchSplit *s, BatchSpan *ret_task, JsonError *e) {
        int r;

        if (s->in_tasks)
                return next_task(s, e, ret_task);
        if (!s->begun) {
                s->begun = true;
                if (!take(s, '{'))
                        return invalid(s, e, "an object");
                if (!take(s, '}'))
                        return next_member(s, e) ?: BATCH_E_MORE;
        } else if (s->after_member && take(s, ','))
                return next_member(s, e) ?: BATCH_E_MORE;
        else if (!take(s, '}'))
                return invalid(s, e, "',' or '}' after a member");
        skip_space(s);
        if (s->i < s->n)
                return invalid(s, e, "the document's end");
        if (!s->n_tasks) {
                json_error_set(e, "/tasks", s->has_tasks ? "expected 1 to %d tasks" : "is required: 1 to %d tasks",
                               BATCH_TASKS_MAX);
                return JSON_E_INVALID;
        }
        r = buf_append_str(&s->rest, buf_size(&s->rest) ? "}" : "{}");
        return r ? error_fold(r) : BATCH_E_END;
}

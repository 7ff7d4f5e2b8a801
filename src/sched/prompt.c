/*
 * prompt: results of earlier tasks in the prompt of one that comes after them. {{tasks.ID.result}} is the final text of
 * that task, {{after.N.result}} that of the Nth of `after`, from 0. They are put in when the attempt starts, from the
 * store; only tasks that it comes after can be named, so whoever may not see a task does not see its result this way.
 * What is put in is not searched again. Other text in double braces is left as it is.
 */

#include <stdio.h>

#include "base/error.h"
#include "base/parse.h"
#include "sched/internal.h"

#define PROMPT_RESULT_MAX       KIB(64)         /* of one result; the rest is cut, and said to be */
#define PROMPT_MAX              MIB(8)          /* what the launcher takes */
#define PROMPT_CUT              "\n[the rest of this result is left out]\n"

/* Each takes a look at what is read once: a prompt of nothing else must not hold up the reactor. */
#define PROMPT_PLACEHOLDERS_MAX 256

typedef struct After {
        Id ids[SCHED_DEPENDENCIES_MAX];
        char *results[SCHED_DEPENDENCIES_MAX];  /* read when first asked for */
        bool read[SCHED_DEPENDENCIES_MAX];
        size_t n;
} After;

static void after_deinit(After *after) {
        for (size_t i = 0; i < after->n; i++)
                free(after->results[i]);
}

static int add_after(const Id *on, TaskState state, StoreCondition condition, void *userdata) {
        After *after = userdata;

        if (after->n < ELEMENTSOF(after->ids))
                after->ids[after->n++] = *on;
        return 0;
}

/* At "{{": the placeholder's length and what it names. 0: it is none. */
static size_t placeholder(const char *p, size_t n, Id *ret_id, uint64_t *ret_index, bool *ret_by_id) {
        const char *end = memmem(p, MIN(n, (size_t)64), "}}", 2), *dot;
        char text[ID_TEXT_MAX];
        size_t n_name;

        if (!end)
                return 0;
        *ret_by_id = strncmp(p, "{{tasks.", 8) == 0;
        if (!*ret_by_id && strncmp(p, "{{after.", 8) != 0)
                return 0;
        p += 8;
        dot = memchr(p, '.', (size_t)(end - p));
        n_name = dot ? (size_t)(dot - p) : 0;
        if (!n_name || n_name >= sizeof(text) || end - dot != 7 || strncmp(dot, ".result", 7) != 0)
                return 0;
        memcpy(text, p, n_name);
        text[n_name] = 0;
        if (*ret_by_id ? !id_parse(text, ret_id) : !parse_u64(text, ret_index))
                return 0;
        return (size_t)(end + 2 - (p - 8));
}

/* Its place in `after`; after->n: none. */
static size_t named(const After *after, const Id *id, uint64_t index, bool by_id) {
        size_t i;

        if (!by_id)
                return (size_t)MIN(index, (uint64_t)after->n);
        for (i = 0; i < after->n && !id_equal(&after->ids[i], id); i++)
                ;
        return i;
}

bool prompt_check(const char *prompt, size_t n, const Id *ids, size_t n_ids, char ret_detail[static SCHED_DETAIL_MAX]) {
        After after = { .n = MIN(n_ids, (size_t)SCHED_DEPENDENCIES_MAX) };
        unsigned n_placeholders = 0;

        if (after.n)
                memcpy(after.ids, ids, after.n * sizeof(*ids));
        for (const char *p = prompt; (p = memmem(p, n - (size_t)(p - prompt), "{{", 2)); p += 2) {
                uint64_t index = 0;
                bool by_id;
                Id id;
                size_t k = placeholder(p, n - (size_t)(p - prompt), &id, &index, &by_id);
                if (k && ++n_placeholders > PROMPT_PLACEHOLDERS_MAX) {
                        snprintf(ret_detail, SCHED_DETAIL_MAX, "prompt: expected at most %d results of other tasks in it",
                                 PROMPT_PLACEHOLDERS_MAX);
                        return false;
                }
                if (k && named(&after, &id, index, by_id) == after.n) {
                        snprintf(ret_detail, SCHED_DETAIL_MAX, "prompt: %.*s names a task that this one does not come after; "
                                 "name it in 'after'", (int)k, p);
                        return false;
                }
        }
        return true;
}

/* The beginning of a result, as it goes into the prompt. */
static int result_text(const StoreTask *task, char **ret_text) {
        size_t n = MIN(task->n_result, (size_t)PROMPT_RESULT_MAX);
        Buf out = BUF_NULL;
        int r;

        /* Not in the middle of a character. */
        while (n < task->n_result && n && ((unsigned char)task->result[n] & 0xc0) == 0x80)
                n--;
        r = buf_append(&out, task->result, n);
        if (!r && n < task->n_result)
                r = buf_append_str(&out, PROMPT_CUT);
        r = r ?: buf_take_str(&out, ret_text);
        buf_deinit(&out);
        return error_fold(r);
}

static int append_result(Sched *s, Buf *out, After *after, size_t i) {
        _cleanup_(store_task_freep) StoreTask *task = NULL;
        int r;

        if (!after->read[i]) {
                r = store_task_load(s->store, &after->ids[i], STORE_TASK_RESULT, &task);
                if (!r && task->result)
                        r = result_text(task, &after->results[i]);
                if (r && r != STORE_E_NOT_FOUND)
                        return error_fold(r);
                after->read[i] = true;
        }
        return after->results[i] ? buf_append_str(out, after->results[i]) : 0;
}

int prompt_expand(Sched *s, StoreTask *record) {
        const char *at = record->prompt, *end = at + record->n_prompt, *p = at;
        Buf out = BUF_INIT(PROMPT_MAX);
        _cleanup_(after_deinit) After after = {};
        char *text = NULL;
        size_t n;
        int r;

        if (!memmem(at, record->n_prompt, "{{", 2))
                return 0;
        r = store_dependency_list(s->store, &record->id, add_after, &after);
        while (!r && (p = memmem(p, (size_t)(end - p), "{{", 2))) {
                uint64_t index = 0;
                size_t i;
                bool by_id;
                Id id;
                n = placeholder(p, (size_t)(end - p), &id, &index, &by_id);
                i = n ? named(&after, &id, index, by_id) : after.n;
                if (i == after.n) {
                        p += 2;
                        continue;
                }
                r = buf_append(&out, at, (size_t)(p - at));
                r = r ?: append_result(s, &out, &after, i);
                p += n;
                at = p;
        }
        r = r ?: buf_append(&out, at, (size_t)(end - at));
        n = buf_size(&out);
        r = r ?: buf_take_str(&out, &text);
        if (r) {
                buf_deinit(&out);
                return r == BUF_E_FULL ? SCHED_E_INVALID : error_fold(r);
        }
        free(record->prompt);
        record->prompt = text;
        record->n_prompt = n;
        return 0;
}

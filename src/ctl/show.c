#include <inttypes.h>
#include <unistd.h>

#include "base/json.h"
#include "ctl/show.h"
#include "ctl/text.h"

#define DIM "\033[2m"
#define RED "\033[31m"
#define YELLOW "\033[33m"
#define OFF "\033[0m"

void show_deinit(Show *s) {
        buf_deinit(&s->said);
}

static bool show_colors(const Show *s) {
        return s->side == stdout ? s->ctl->color : s->ctl->color_err;
}

void show_finish(Show *s) {
        if (s->in_line)
                fputc('\n', stdout);
        s->in_line = false;
        fflush(stdout);
}

/* A whole side line: a word in a colour, and text that is cut to the terminal. */
static void show_line(Show *s, const char *color, const char *head, const char *text) {
        unsigned width = s->ctl->width, n = text_width(head, strlen(head)) + 1;

        show_finish(s);
        if (show_colors(s))
                fputs(color, s->side);
        /* The name of a tool is the agent's word, too. */
        text_write_line(s->side, head, 0);
        if (*text) {
                fputc(' ', s->side);
                text_write_line(s->side, text, width > n + 8 ? width - n : 0);
        }
        if (show_colors(s))
                fputs(OFF, s->side);
        fputc('\n', s->side);
        fflush(s->side);
}

/*
 * The agent's words. An event is a whole message, on lines of its own; where its data says "delta" it goes on with the
 * one before.
 */
static void show_text(Show *s, json_object *data) {
        json_object *text = json_at(data, "/text");
        const char *p = text ? json_object_get_string(text) : "";
        size_t n = text ? (size_t)json_object_get_string_len(text) : 0;

        if (n == 0)
                return;
        if (!text_member_bool(data, "/delta")) {
                show_finish(s);
                buf_clear(&s->said);
        }
        text_write(stdout, p, n);
        fflush(stdout);
        s->in_line = p[n - 1] != '\n';
        /* Too long to be kept: then the result is shown, too. */
        if (buf_append(&s->said, p, n))
                buf_clear(&s->said);
}

/* The result's text is mostly the last message again: shown only where it is not. */
static void show_result_event(Show *s, json_object *data) {
        json_object *text = json_at(data, "/text");
        size_t n = text ? (size_t)json_object_get_string_len(text) : 0;

        if (n && (n != buf_size(&s->said) || memcmp(json_object_get_string(text), buf_data(&s->said), n) != 0))
                show_text(s, data);
}

static void show_usage(Show *s, json_object *data) {
        char line[160];

        snprintf(line, sizeof(line), "%" PRIu64 " in (%" PRIu64 " cached), %" PRIu64 " out (%" PRIu64 " reasoning)",
                 text_member_u64(data, "/input_tokens"), text_member_u64(data, "/cached_input_tokens"),
                 text_member_u64(data, "/output_tokens"), text_member_u64(data, "/reasoning_tokens"));
        show_line(s, DIM, "  tokens:", line);
}

static void show_tool_call(Show *s, json_object *data) {
        json_object *input = json_at(data, "/input");
        char head[80];

        snprintf(head, sizeof(head), "→ %.64s:", text_member(data, "/name"));
        show_line(s, DIM, head, json_object_is_type(input, json_type_string) ? json_object_get_string(input) : input ?
                  json_object_to_json_string_ext(input, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE) : "");
}

static void show_tool_result(Show *s, json_object *data) {
        json_object *exit_code = json_at(data, "/exit_code"), *output = json_at(data, "/output");
        bool bad = text_member_bool(data, "/is_error") || (exit_code && json_object_get_int(exit_code) != 0);
        char head[48] = "←";

        if (exit_code)
                snprintf(head, sizeof(head), "← exit %d:", json_object_get_int(exit_code));
        show_line(s, bad ? YELLOW : DIM, head,
                  json_object_is_type(output, json_type_string) ? json_object_get_string(output)
                  : output ? json_object_to_json_string_ext(output, JSON_C_TO_STRING_PLAIN)
                           : "");
}

static void show_state(Show *s, json_object *data) {
        const char *state = text_member(data, "/state"), *reason = text_member(data, "/reason");
        char head[80];

        if (streq(reason, state))
                reason = "";
        snprintf(head, sizeof(head), "• %.32s%s%.32s%s", state, *reason ? " (" : "", reason, *reason ? ")" : "");
        show_line(s, text_state_color(state), head, text_member(data, "/detail"));
}

void show_event(Show *s, const char *type, json_object *data) {
        if (streq(type, "text"))
                show_text(s, data);
        else if (streq(type, "result"))
                show_result_event(s, data);
        else if (streq(type, "state"))
                show_state(s, data);
        else if (streq(type, "tool_call"))
                show_tool_call(s, data);
        else if (streq(type, "tool_result"))
                show_tool_result(s, data);
        else if (streq(type, "usage"))
                show_usage(s, data);
        else if (streq(type, "warning"))
                show_line(s, YELLOW, "warning:", text_member(data, "/message"));
        else if (streq(type, "error"))
                show_line(s, RED, "error:", text_member(data, "/message"));
        else if (streq(type, "output"))
                show_line(s, DIM, streq(text_member(data, "/stream"), "stderr") ? "stderr:" : "stdout:",
                          text_member(data, "/text"));
        else if (streq(type, "truncated"))
                show_line(s, YELLOW, "truncated:", "the agent wrote more than the capture limit; the rest is not kept");
}

int show_exit(const char *state) {
        if (streq(state, "succeeded"))
                return CTL_OK;
        if (streq(state, "cancelled") || streq(state, "timed_out") || streq(state, "expired"))
                return CTL_TASK_STOPPED;
        return CTL_TASK_FAILED;
}

void show_result(Ctl *ctl, json_object *task) {
        json_object *text = json_at(task, "/result/text");
        const char *p = text ? json_object_get_string(text) : "", *state = text_member(task, "/state");
        size_t n = text ? (size_t)json_object_get_string_len(text) : 0;

        if (n) {
                text_write(stdout, p, n);
                if (p[n - 1] != '\n')
                        fputc('\n', stdout);
                fflush(stdout);
        }
        if (text_member_bool(task, "/result/truncated"))
                fprintf(stderr, "agent-routerctl: the result is cut at the router's limit\n");
        if (!streq(state, "succeeded")) {
                const char *reason = text_member(task, "/reason"), *detail = text_member(task, "/detail");
                if (streq(reason, state))
                        reason = "";
                fprintf(stderr, "agent-routerctl: task %s: %s%s%s", text_member(task, "/id"), state, *reason ? ": " : "", reason);
                if (*detail) {
                        fputs(": ", stderr);
                        text_write_line(stderr, detail, 0);
                }
                fprintf(stderr, "\n  what it did: agent-routerctl get %s --transcript\n", text_member(task, "/id"));
        }
}

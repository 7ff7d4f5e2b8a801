#include <stdio.h>

#include "adapter/internal.h"
#include "base/error.h"
#include "base/json.h"

/*
 * The output side of one attempt: lines in, events out, and what must be known at its end: the final text, the usage,
 * the session, the last error and whether the agent said that it succeeded. The last word wins: an error after a
 * success is a failure, a success after an error is one.
 */

/* What is kept of an error's text for its classification. */
#define ERROR_TEXT_MAX 1024
#define SESSION_MAX 256

struct AdapterRun {
        MapSink sink;
        Adapter *adapter;
        AdapterEventFn fn;              /* of the line at hand; may be NULL */
        void *userdata;
        Buf text;
        bool has_text;
        bool truncated;
        StoreUsage usage;
        StoreUsage before;              /* of the session, before this run */
        char *session;
        char error[ERROR_TEXT_MAX];     /* terminal */
        uint32_t status;                /* of error; 0 unknown */
        char warning[ERROR_TEXT_MAX];   /* the last one, for an agent that dies of it without a word */
        char diagnostic[ERROR_TEXT_MAX]; /* the last line of stderr; never shown, only classified */
        bool failed;
        bool succeeded;
};

static const StoreUsage usage_unknown = STORE_USAGE_UNKNOWN;

/* Cuts n back to where a UTF-8 sequence starts, for a text that is cut at n. */
static size_t utf8_floor(const char *s, size_t n) {
        while (n > 0 && ((unsigned char)s[n] & 0xc0) == 0x80)
                n--;
        return n;
}

/* A line's copy for people: bounded, without control characters. */
static void keep_text(char *to, size_t size, const char *s, size_t n) {
        if (n >= size)
                n = utf8_floor(s, size - 1);
        for (size_t i = 0; i < n; i++)
                to[i] = (unsigned char)s[i] < 0x20 || s[i] == 0x7f ? ' ' : s[i];
        to[n] = 0;
}

static int text_add(AdapterRun *run, const char *s, size_t n) {
        size_t room = ADAPTER_RESULT_MAX - buf_size(&run->text);

        run->has_text = true;
        if (run->truncated)
                return 0; /* what follows a gap would not be the answer's beginning */
        if (n > room) {
                n = utf8_floor(s, room);
                run->truncated = true;
        }
        return error_fold(buf_append(&run->text, s, n));
}

static int text_replace(AdapterRun *run, const char *s, size_t n) {
        buf_clear(&run->text);
        run->truncated = false;
        return text_add(run, s, n);
}

static int emit(AdapterRun *run, const char *type, const Buf *data) {
        return run->fn ? run->fn(run->userdata, type, (const char *)buf_data(data), buf_size(data)) : 0;
}

static int emit_output(AdapterRun *run, unsigned stream, const char *line, size_t n) {
        _cleanup_(buf_deinit) Buf data = BUF_NULL;
        int r;

        if (!run->fn)
                return 0;
        r = buf_printf(&data, "{\"stream\":\"%s\",\"text\":", stream == 2 ? "stderr" : "stdout");
        if (!r)
                r = json_append_string(&data, line, n);
        if (!r)
                r = buf_append_str(&data, "}");
        return r ? error_fold(r) : emit(run, "output", &data);
}

static int emit_text(AdapterRun *run, const char *type, const char *s, size_t n) {
        _cleanup_(buf_deinit) Buf data = BUF_NULL;
        int r;

        if (!run->fn)
                return 0;
        r = buf_append_str(&data, "{\"text\":");
        if (!r)
                r = json_append_string(&data, s, n);
        if (!r)
                r = buf_append_str(&data, "}");
        return r ? error_fold(r) : emit(run, type, &data);
}

static int emit_fields(AdapterRun *run, const EventInfo *info, json_object *const fields[static EVENT_FIELDS_MAX]) {
        _cleanup_(buf_deinit) Buf data = BUF_NULL;
        const char *separator = "{";
        int r = 0;

        if (!run->fn)
                return 0;
        for (size_t i = 0; !r && i < EVENT_FIELDS_MAX; i++) {
                bool status = info->fields[i] && streq(info->fields[i], "status");
                if (!fields[i] && !(status && run->status))
                        continue;
                r = buf_printf(&data, "%s\"%s\":", separator, info->fields[i]);
                if (!r && status && run->status)
                        r = buf_printf(&data, "%u", run->status);
                else if (!r)
                        r = json_append(&data, fields[i]);
                separator = ",";
        }
        if (!r)
                r = buf_append_str(&data, *separator == '{' ? "{}" : "}");
        return r ? error_fold(r) : emit(run, info->name, &data);
}

static const char *field_string(json_object *o, size_t *ret_n) {
        const char *s = json_object_get_string(o);

        *ret_n = json_object_is_type(o, json_type_string) ? (size_t)json_object_get_string_len(o) : s ? strlen(s) : 0;
        return s ?: "";
}

static int run_on_event(MapSink *sink, const Rule *rule, json_object *const fields[static EVENT_FIELDS_MAX]) {
        AdapterRun *run = container_of(sink, AdapterRun, sink);
        const char *s = "";
        size_t n = 0;
        int64_t status;
        int r = 0;

        if (fields[0])
                s = field_string(fields[0], &n);
        switch (rule->emit) {
        case EVENT_TEXT:
                if (rule->answer == ANSWER_LAST)
                        r = text_replace(run, s, n);
                else if (rule->answer == ANSWER_JOIN)
                        r = text_add(run, s, n);
                break;
        case EVENT_WARNING:
                keep_text(run->warning, sizeof(run->warning), s, n);
                break;
        case EVENT_ERROR:
                keep_text(run->error, sizeof(run->error), s, n);
                status = fields[1] ? json_object_get_int64(fields[1]) : 0;
                run->status = status >= 100 && status <= 599 ? (uint32_t)status : classify_status(run->error);
                run->failed = true;
                run->succeeded = false;
                break;
        case EVENT_RESULT:
                if (!fields[0])
                        return emit_text(run, event_infos[EVENT_RESULT].name, (const char *)buf_data(&run->text),
                                         buf_size(&run->text));
                r = text_replace(run, s, n);
                break;
        default:
                break;
        }
        return r ? error_trace(r) : emit_fields(run, &event_infos[rule->emit], fields);
}

static void usage_add(int64_t *total, int64_t v) {
        if (v < 0)
                return;
        if (*total < 0)
                *total = 0;
        if (__builtin_add_overflow(*total, v, total))
                *total = INT64_MAX;
}

/* One member of StoreUsage as a line and its rule give it. */
static void usage_take(int64_t *total, int64_t before, int64_t v, UsageMode mode) {
        if (v < 0)
                return;
        switch (mode) {
        case USAGE_LAST:
                *total = v;
                break;
        case USAGE_SUM:
                usage_add(total, v);
                break;
        case USAGE_CUMULATIVE:
                *total = before > 0 ? MAX(v - before, INT64_C(0)) : v;
                break;
        }
}

static int emit_usage(AdapterRun *run) {
        const struct {
                const char *name;
                int64_t v;
        } members[] = {
                { "input_tokens", run->usage.input_tokens },
                { "cached_input_tokens", run->usage.cached_input_tokens },
                { "output_tokens", run->usage.output_tokens },
                { "reasoning_tokens", run->usage.reasoning_tokens },
                { "cost_microusd", run->usage.cost_microusd },
        };
        _cleanup_(buf_deinit) Buf data = BUF_NULL;
        const char *separator = "{";
        int r = 0;

        if (!run->fn)
                return 0;
        for (size_t i = 0; !r && i < ELEMENTSOF(members); i++) {
                if (members[i].v < 0)
                        continue;
                r = buf_printf(&data, "%s\"%s\":%lld", separator, members[i].name, (long long)members[i].v);
                separator = ",";
        }
        if (!r)
                r = buf_append_str(&data, "}");
        return r ? error_fold(r) : emit(run, "usage", &data);
}

static int run_on_usage(MapSink *sink, const Rule *rule, const StoreUsage *usage) {
        AdapterRun *run = container_of(sink, AdapterRun, sink);
        const StoreUsage *before = &run->before;

        usage_take(&run->usage.input_tokens, before->input_tokens, usage->input_tokens, rule->usage_mode);
        usage_take(&run->usage.cached_input_tokens, before->cached_input_tokens, usage->cached_input_tokens,
                   rule->usage_mode);
        usage_take(&run->usage.output_tokens, before->output_tokens, usage->output_tokens, rule->usage_mode);
        usage_take(&run->usage.reasoning_tokens, before->reasoning_tokens, usage->reasoning_tokens, rule->usage_mode);
        usage_take(&run->usage.cost_microusd, before->cost_microusd, usage->cost_microusd, rule->usage_mode);
        return emit_usage(run);
}

static int run_on_session(MapSink *sink, const char *session) {
        AdapterRun *run = container_of(sink, AdapterRun, sink);
        char *copy;

        if (!*session || strlen(session) > SESSION_MAX)
                return 0;
        copy = strdup(session);
        if (!copy)
                return error_origin(-ENOMEM);
        free(run->session);
        run->session = copy;
        return 0;
}

static int run_on_success(MapSink *sink) {
        AdapterRun *run = container_of(sink, AdapterRun, sink);

        run->succeeded = true;
        run->failed = false;
        return 0;
}

int adapter_run_new(AdapterRun **ret_run, Adapter *a) {
        AdapterRun *run = calloc(1, sizeof(*run));

        if (!run)
                return error_origin(-ENOMEM);
        run->adapter = adapter_ref(a);
        run->sink = (MapSink){ run_on_event, run_on_usage, run_on_session, run_on_success };
        run->text = (Buf)BUF_INIT(ADAPTER_RESULT_MAX);
        run->usage = run->before = usage_unknown;
        *ret_run = run;
        return 0;
}

AdapterRun *adapter_run_free(AdapterRun *run) {
        if (!run)
                return NULL;
        buf_deinit(&run->text);
        free(run->session);
        adapter_free(run->adapter);
        free(run);
        return NULL;
}

void adapter_run_resume(AdapterRun *run, const StoreUsage *before) {
        run->before = *before;
}

static int run_text_line(AdapterRun *run, const char *line, size_t n) {
        int r = 0;

        if (run->has_text)
                r = text_add(run, "\n", 1);
        if (!r)
                r = text_add(run, line, n);
        return r ? error_trace(r) : emit_text(run, event_infos[EVENT_TEXT].name, line, n);
}

int adapter_run_line(AdapterRun *run, unsigned stream, const char *line, size_t n, AdapterEventFn fn, void *userdata) {
        _cleanup_(json_putp) json_object *o = NULL;
        JsonError error = {};
        size_t n_applied;
        int r;

        run->fn = fn;
        run->userdata = userdata;
        if (n > ADAPTER_LINE_MAX)
                n = utf8_floor(line, ADAPTER_LINE_MAX);
        if (stream != 1) {
                if (n > 0)
                        keep_text(run->diagnostic, sizeof(run->diagnostic), line, n);
                return emit_output(run, stream, line, n);
        }
        if (run->adapter->format == OUTPUT_TEXT)
                return run_text_line(run, line, n);
        r = json_parse(line, n, JSON_DEPTH_MAX, &o, &error);
        if (r < 0)
                return error_trace(r);
        if (r || !json_object_is_type(o, json_type_object))
                return emit_output(run, stream, line, n);
        r = map_line(run->adapter, o, &run->sink, &n_applied);
        if (r)
                return r;
        return n_applied ? 0 : emit_output(run, stream, line, n);
}

static void outcome_set(AdapterOutcome *o, Reason reason) {
        o->reason = reason_name(reason);
        o->retryable = reason_is_retryable(reason);
}

/* The agent ended without success: its own words, else the warning it died of, else stderr or the exit code. */
static void outcome_fail(const AdapterRun *run, int exit_code, AdapterOutcome *o) {
        const char *shown = *run->error ? run->error : exit_code != 0 && *run->warning ? run->warning : NULL;
        const char *text = shown ?: exit_code != 0 && *run->diagnostic ? run->diagnostic : NULL;
        Classification c;

        if (classify(run->adapter, text, run->failed ? run->status : 0, exit_code, &c)) {
                o->reason = reason_name(c.reason);
                o->retryable = c.retryable;
                o->retry_after_us = c.retry_after_us;
        } else
                outcome_set(o, run->failed ? REASON_PERMANENT : exit_code == 0 ? REASON_NO_RESULT : REASON_EXIT_STATUS);
        if (shown)
                keep_text(o->detail, sizeof(o->detail), shown, strlen(shown));
        else if (exit_code == 0)
                snprintf(o->detail, sizeof(o->detail), "the agent exited with code 0 but reported no result");
        else
                snprintf(o->detail, sizeof(o->detail), "the agent exited with code %d%s", exit_code,
                         *run->diagnostic ? "; its transcript holds what it wrote to stderr" : "");
}

const StoreUsage *adapter_run_usage(const AdapterRun *run) {
        return &run->usage;
}

void adapter_run_finish(AdapterRun *run, int exit_code, int signal, uint32_t oom_kills, AdapterOutcome *ret_outcome) {
        AdapterOutcome o = { .usage = run->usage, .session = run->session, .text_truncated = run->truncated };

        if (run->has_text) {
                o.text = buf_size(&run->text) ? (const char *)buf_data(&run->text) : "";
                o.n_text = buf_size(&run->text);
        }
        if (signal == 0 && exit_code == 0 && !run->failed && (run->succeeded || !run->adapter->needs_success)) {
                outcome_set(&o, REASON_COMPLETED);
                o.succeeded = true;
        } else if (oom_kills > 0) {
                outcome_set(&o, REASON_OUT_OF_MEMORY);
                snprintf(o.detail, sizeof(o.detail), "the sandbox's memory limit was reached and the kernel killed %s",
                         signal ? "the agent" : "a process of the agent");
        } else if (signal) {
                const char *name = sigabbrev_np(signal);
                outcome_set(&o, REASON_SIGNAL);
                snprintf(o.detail, sizeof(o.detail), "the agent was ended by signal %d%s%s%s", signal,
                         name ? " (SIG" : "", name ?: "", name ? ")" : "");
        } else
                outcome_fail(run, exit_code, &o);
        *ret_outcome = o;
}

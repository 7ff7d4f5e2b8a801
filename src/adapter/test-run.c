#include <signal.h>

#include "adapter/test-util.h"
#include "base/json.h"

#define CODEX "scripts/agent-routerd/workers/codex/agent.yaml"
#define HEAD "version: 1\nname: x\ntitle: X\ninstall: get x\ncommand: {find: [x]}\n"

/* What a run said: "type data" lines. */
typedef struct Log {
        char text[65536];
        size_t n;
        unsigned n_events;
        int fail_at;            /* the nth event is refused with -ENOSPC; 0: none */
} Log;

static int log_event(void *userdata, const char *type, const char *data, size_t n_data) {
        Log *log = userdata;
        _cleanup_(json_putp) json_object *o = NULL;
        JsonError error = {};

        assert_int_equal(json_parse(data, n_data, JSON_DEPTH_MAX, &o, &error), 0);
        assert_true(json_object_is_type(o, json_type_object));
        if (log->fail_at && (int)++log->n_events == log->fail_at)
                return -ENOSPC;
        log->n +=
                (size_t)snprintf(log->text + log->n, sizeof(log->text) - log->n, "%s %.*s\n", type, (int)n_data, data);
        assert_true(log->n < sizeof(log->text));
        return 0;
}

static void feed(AdapterRun *run, const char *text, size_t n, Log *log) {
        for (const char *end; n > 0 && (end = memchr(text, '\n', n)); n -= (size_t)(end - text) + 1, text = end + 1)
                assert_int_equal(adapter_run_line(run, 1, text, (size_t)(end - text), log ? log_event : NULL, log), 0);
}

static AdapterRun *run_new(Adapter *a) {
        AdapterRun *run = NULL;

        assert_int_equal(adapter_run_new(&run, a), 0);
        return run;
}

static AdapterRun *replay(Adapter *a, const char *capture, Log *log) {
        char path[4096], below[256];
        _cleanup_free_ char *text = NULL;
        AdapterRun *run = run_new(a);
        size_t n;

        snprintf(below, sizeof(below), "src/adapter/captures/%s.jsonl", capture);
        assert_int_equal(fd_read_file(AT_FDCWD, source_path(path, below), MIB(1), &text, &n), 0);
        feed(run, text, n, log);
        return run;
}

#define METADATA                                                                                                       \
        "warning {\"message\":\"Model metadata for `gpt-5.4` not found. Defaulting to fallback metadata; this can "    \
        "degrade "                                                                                                     \
        "performance and cause issues.\"}\n"
#define TOOL "/bin/bash -lc 'echo tool-ran-$((40+2)) > tool-proof.txt; cat tool-proof.txt'"
#define RECONNECT(n, what) "warning {\"message\":\"Reconnecting... " #n "/5 (" what ")\"}\n"
#define BUSY "We’re currently experiencing high demand, which may cause temporary errors."
#define UNAUTHORIZED                                                                                                   \
        "unexpected status 401 Unauthorized: mock: invalid api key, url: http://127.0.0.1:8765/e401/v1/responses, "    \
        "request id: "
#define LIMITED "exceeded retry limit, last status: 429 Too Many Requests, request id: req_0000000001ec"

typedef struct Capture {
        const char *name;
        const char *events;
        int exit_code, signal;
        bool succeeded;
        const char *reason;
        bool retryable;
        const char *detail;     /* must be contained */
        const char *text;
        const char *session;
        StoreUsage usage;
} Capture;

static const Capture
        captures[] = {
                { "codex-ok",
                  METADATA
                  "text {\"text\":\"MOCK-OK: hello from the mock model.\"}\n"
                  "usage "
                  "{\"input_tokens\":1234,\"cached_input_tokens\":200,\"output_tokens\":56,\"reasoning_tokens\":7}\n"
                  "result {\"text\":\"MOCK-OK: hello from the mock model.\"}\n",
                  0,
                  0,
                  true,
                  "completed",
                  false,
                  "",
                  "MOCK-OK: hello from the mock model.",
                  "01a20abb-3b43-7700-bb71-f1f81635a458",
                  { 1234, 200, 56, 7, -1 } },
                { "codex-tool",
                  METADATA
                  "tool_call {\"name\":\"shell\",\"input\":\"" TOOL "\"}\n"
                  "tool_result {\"name\":\"shell\",\"output\":\"tool-ran-42\\n\",\"exit_code\":0}\n"
                  "text {\"text\":\"MOCK-OK: hello from the mock model.\"}\n"
                  "usage "
                  "{\"input_tokens\":2468,\"cached_input_tokens\":400,\"output_tokens\":112,\"reasoning_tokens\":14}\n"
                  "result {\"text\":\"MOCK-OK: hello from the mock model.\"}\n",
                  0,
                  0,
                  true,
                  "completed",
                  false,
                  "",
                  "MOCK-OK: hello from the mock model.",
                  "01a20abc-e5da-7033-b02b-708480e3ac16",
                  { 2468, 400, 112, 14, -1 } },
                { "codex-e401",
                  METADATA RECONNECT(1, UNAUTHORIZED "req_00000000002f") RECONNECT(2, UNAUTHORIZED "req_000000000031")
                          RECONNECT(3, UNAUTHORIZED "req_000000000036") RECONNECT(4, UNAUTHORIZED "req_00000000003d")
                                  RECONNECT(5, UNAUTHORIZED "req_000000000048") "warning {\"message\":\"" UNAUTHORIZED
                                                                                "req_000000000057\"}\n"
                                                                                "error {\"message\":\"" UNAUTHORIZED
                                                                                "req_000000000057\",\"status\":401}\n",
                  1, 0, false, "authentication", false, "401 Unauthorized", NULL,
                  "01a20abe-8651-7712-943f-7f7321e85ecf", STORE_USAGE_UNKNOWN },
                { "codex-e429",
                  METADATA "warning {\"message\":\"" LIMITED "\"}\n"
                           "error {\"message\":\"" LIMITED "\",\"status\":429}\n",
                  1, 0, false, "rate_limited", true, "429 Too Many Requests", NULL,
                  "01a20ac3-7cdf-7952-84fa-fcc4eb95e3f7", STORE_USAGE_UNKNOWN },
                { "codex-e500",
                  METADATA RECONNECT(1, BUSY) RECONNECT(2, BUSY) RECONNECT(3, BUSY) RECONNECT(4, BUSY)
                          RECONNECT(5, BUSY) "warning {\"message\":\"" BUSY "\"}\n"
                                             "error {\"message\":\"" BUSY "\"}\n",
                  1, 0, false, "overloaded", true, "high demand", NULL, "01a20ac3-1b65-7372-a88b-8e1cde9d355c",
                  STORE_USAGE_UNKNOWN },
                { "codex-sigterm", METADATA, -1, SIGTERM, false, "signal", true, "signal 15 (SIGTERM)", NULL,
                  "01a20ac2-dc8e-7e53-a56e-e925be92ec02", STORE_USAGE_UNKNOWN },
                /* One line of each event type, so a failure and a later success: the last word wins. */
                { "codex-event-types",
                  METADATA RECONNECT(1, "stream disconnected before completion: stream closed before "
                                        "response.completed") "error {\"message\":\"stream disconnected before "
                                                              "completion: stream closed before response.completed\"}\n"
                                                              "text {\"text\":\"\"}\n"
                                                              "usage "
                                                              "{\"input_tokens\":1234,\"cached_input_tokens\":200,"
                                                              "\"output_tokens\":56,\"reasoning_tokens\":7}\n"
                                                              "result {\"text\":\"\"}\n"
                                                              "tool_call {\"name\":\"shell\",\"input\":\"/bin/bash -lc "
                                                              "'echo tool-ran-42 > tool-proof.txt; cat "
                                                              "tool-proof.txt'\"}\n"
                                                              "tool_result {\"name\":\"shell\",\"output\":\"/bin/bash: "
                                                              "line 1: tool-proof.txt: Read-only file "
                                                              "system\\ntool-ran-42\\n\","
                                                              "\"exit_code\":0}\n",
                  0,
                  0,
                  true,
                  "completed",
                  false,
                  "",
                  "",
                  "01a20abe-a18a-7fb3-ae81-4d2577d050c1",
                  { 1234, 200, 56, 7, -1 } },
        };

static void assert_usage(const StoreUsage *u, const StoreUsage *expected) {
        assert_int_equal(u->input_tokens, expected->input_tokens);
        assert_int_equal(u->cached_input_tokens, expected->cached_input_tokens);
        assert_int_equal(u->output_tokens, expected->output_tokens);
        assert_int_equal(u->reasoning_tokens, expected->reasoning_tokens);
        assert_int_equal(u->cost_microusd, expected->cost_microusd);
}

static void assert_outcome(const Capture *c, const AdapterOutcome *o) {
        if (o->succeeded != c->succeeded || !streq(o->reason, c->reason) || o->retryable != c->retryable ||
            !strstr(o->detail, c->detail))
                fail_msg("%s: %d %s %d \"%s\"", c->name, o->succeeded, o->reason, o->retryable, o->detail);
        if (c->text) {
                assert_int_equal(o->n_text, strlen(c->text));
                assert_memory_equal(o->text, c->text, o->n_text);
        } else
                assert_null(o->text);
        assert_string_equal(o->session, c->session);
        assert_usage(&o->usage, &c->usage);
}

static void test_captures(void **state) {
        _cleanup_(adapter_freep) Adapter *a = load_shipped(CODEX, NULL);

        for (size_t i = 0; i < ELEMENTSOF(captures); i++) {
                const Capture *c = &captures[i];
                Log log = {};
                AdapterOutcome outcome;
                _cleanup_(adapter_run_freep) AdapterRun *run = replay(a, c->name, &log),
                                                        *silent = replay(a, c->name, NULL);

                assert_string_equal(log.text, c->events);
                adapter_run_finish(run, c->exit_code, c->signal, 0, &outcome);
                assert_outcome(c, &outcome);
                /* A restarted router replays the stored lines without a listener and comes to the same end. */
                adapter_run_finish(silent, c->exit_code, c->signal, 0, &outcome);
                assert_outcome(c, &outcome);
        }
}

/* Ends that the captures do not show. */
static void test_ends(void **state) {
        _cleanup_(adapter_freep) Adapter *a = load_shipped(CODEX, NULL);
        static const char failed[] = "{\"type\":\"turn.failed\",\"error\":{\"message\":\"%s\"}}\n";
        const struct {
                const char *message;    /* of turn.failed; NULL: none */
                const char *warning;    /* of error; NULL: none */
                const char *diagnostic; /* on stderr; NULL: none */
                int exit_code, signal;
                uint32_t oom_kills;
                const char *reason;
                bool retryable;
                uint64_t retry_after_us;
                const char *detail;
        } table[] = {
                { NULL, NULL, NULL, 0, 0, 0, "no_result", true, 0, "exited with code 0 but reported no result" },
                { NULL, NULL, NULL, 3, 0, 0, "exit_status", false, 0, "exited with code 3" },
                { NULL, NULL, "secret words of the prompt", 3, 0, 0, "exit_status", false, 0,
                  "exited with code 3; its transcript" },
                { NULL, NULL, "error: 401 unauthorized, not logged in", 1, 0, 0, "authentication", false, 0,
                  "code 1; its transcript" },
                { NULL, "Reconnecting... 2/5 (unexpected status 503 x)", NULL, 1, 0, 0, "overloaded", true, 0,
                  "status 503" },
                /* A warning explains no exit code 0. */
                { NULL, "unexpected status 503", NULL, 0, 0, 0, "no_result", true, 0, "code 0" },
                { "something else", NULL, NULL, 1, 0, 0, "permanent", false, 0, "something else" },
                { "something else", NULL, NULL, 0, 0, 0, "permanent", false, 0, "something else" },
                { "You've hit your usage limit. status 429", NULL, NULL, 1, 0, 0, "quota", false, 0, "usage limit" },
                { "Rate limit reached. Please try again in 1.5s.", NULL, NULL, 1, 0, 0, "rate_limited", true, 1500000,
                  "" },
                { "Rate limit reached; try again in 300ms", NULL, NULL, 1, 0, 0, "rate_limited", true, 300000, "" },
                { "status 429: retry after 2 minutes", NULL, NULL, 1, 0, 0, "rate_limited", true, 120000000, "" },
                { "status 429: try again in 99999999999999999999 hours", NULL, NULL, 1, 0, 0, "rate_limited", true, 0,
                  "" },
                { "status 429: try again in 20", NULL, NULL, 1, 0, 0, "rate_limited", true, 20000000, "" },
                { "unexpected status 400 Bad Request", NULL, NULL, 1, 0, 0, "invalid_request", false, 0, "" },
                { "unexpected status 403 Forbidden", NULL, NULL, 1, 0, 0, "authentication", false, 0, "" },
                { "unexpected status 402 Payment Required", NULL, NULL, 1, 0, 0, "quota", false, 0, "" },
                { "unexpected status 529 busy", NULL, NULL, 1, 0, 0, "overloaded", true, 0, "" },
                { "Connection failed: error sending request", NULL, NULL, 1, 0, 0, "network", true, 0, "failed" },
                { "error sending request for url (http://127.0.0.1:1/)", NULL, NULL, 1, 0, 0, "network", true, 0, "" },
                { "status 4290", NULL, NULL, 1, 0, 0, "permanent", false, 0, "" },
                { "status 429", NULL, NULL, -1, SIGKILL, 0, "signal", true, 0, "signal 9 (SIGKILL)" },
                { NULL, NULL, NULL, -1, SIGKILL, 1, "out_of_memory", false, 0, "killed the agent" },
                { "x", NULL, NULL, 1, 0, 2, "out_of_memory", false, 0, "killed a process of the agent" },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                _cleanup_(adapter_run_freep) AdapterRun *run = run_new(a);
                AdapterOutcome o;
                char line[512];
                int n;

                if (table[i].warning) {
                        n = snprintf(line, sizeof(line), "{\"type\":\"error\",\"message\":\"%s\"}\n", table[i].warning);
                        feed(run, line, (size_t)n, NULL);
                }
                if (table[i].diagnostic)
                        assert_int_equal(
                                adapter_run_line(run, 2, table[i].diagnostic, strlen(table[i].diagnostic), NULL, NULL),
                                0);
                if (table[i].message) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
                        n = snprintf(line, sizeof(line), failed, table[i].message);
#pragma GCC diagnostic pop
                        feed(run, line, (size_t)n, NULL);
                }
                adapter_run_finish(run, table[i].exit_code, table[i].signal, table[i].oom_kills, &o);
                if (o.succeeded || !streq(o.reason, table[i].reason) || o.retryable != table[i].retryable ||
                    o.retry_after_us != table[i].retry_after_us || !strstr(o.detail, table[i].detail))
                        fail_msg("end %zu: %d %s %d %llu \"%s\"", i, o.succeeded, o.reason, o.retryable,
                                 (unsigned long long)o.retry_after_us, o.detail);
                assert_null(strstr(o.detail, "secret"));
        }
}

/* A process that the kernel killed for memory does not spoil an answer that came all the same. */
static void test_success_after_oom(void **state) {
        _cleanup_(adapter_freep) Adapter *a = load_shipped(CODEX, NULL);
        _cleanup_(adapter_run_freep) AdapterRun *run = replay(a, "codex-ok", NULL);
        AdapterOutcome o;

        adapter_run_finish(run, 0, 0, 1, &o);
        assert_true(o.succeeded);
        /* The same words with another exit code are none. */
        adapter_run_finish(run, 1, 0, 0, &o);
        assert_false(o.succeeded);
        assert_string_equal(o.reason, "exit_status");
}

static void test_resumed(void **state) {
        _cleanup_(adapter_freep) Adapter *a = load_shipped(CODEX, NULL);
        _cleanup_(adapter_run_freep) AdapterRun *run = run_new(a), *odd = run_new(a);
        static const char line[] =
                "{\"type\":\"turn.completed\",\"usage\":{\"input_tokens\":3000,\"cached_input_tokens\":500,"
                "\"output_tokens\":100,\"reasoning_output_tokens\":9}}\n";
        AdapterOutcome o;

        adapter_run_resume(run, &(StoreUsage){ 1234, 200, 56, -1, -1 });
        feed(run, line, strlen(line), NULL);
        adapter_run_finish(run, 0, 0, 0, &o);
        assert_usage(&o.usage, &(StoreUsage){ 1766, 300, 44, 9, -1 });
        /* A session that the CLI has forgotten counts from nothing: never below it. */
        adapter_run_resume(odd, &(StoreUsage){ 9999, 9999, 9999, 9999, -1 });
        feed(odd, line, strlen(line), NULL);
        adapter_run_finish(odd, 0, 0, 0, &o);
        assert_usage(&o.usage, &(StoreUsage){ 0, 0, 0, 0, -1 });
}

static void test_unmapped(void **state) {
        _cleanup_(adapter_freep) Adapter *a = load_shipped(CODEX, NULL);
        const struct {
                unsigned stream;
                const char *line;
                const char *events;
        } table[] = {
                { 1, "not json", "output {\"stream\":\"stdout\",\"text\":\"not json\"}\n" },
                { 1, "", "output {\"stream\":\"stdout\",\"text\":\"\"}\n" },
                { 1, "[1]", "output {\"stream\":\"stdout\",\"text\":\"[1]\"}\n" },
                { 1, "{\"type\":\"thread.started\"",
                  "output {\"stream\":\"stdout\",\"text\":\"{\\\"type\\\":\\\"thread.started\\\"\"}\n" },
                { 1, "{\"type\":\"new.event\"}",
                  "output {\"stream\":\"stdout\",\"text\":\"{\\\"type\\\":\\\"new.event\\\"}\"}\n" },
                /* The field that the event needs is missing, or is no text. */
                { 1, "{\"type\":\"turn.failed\"}",
                  "output {\"stream\":\"stdout\",\"text\":\"{\\\"type\\\":\\\"turn.failed\\\"}\"}\n" },
                { 1, "{\"type\":\"error\",\"message\":{\"a\":1}}", "warning {\"message\":{\"a\":1}}\n" },
                { 1, "\xff\xfe", "output {\"stream\":\"stdout\",\"text\":\"\xef\xbf\xbd\xef\xbf\xbd\"}\n" },
                { 2, "{\"type\":\"turn.completed\"}",
                  "output {\"stream\":\"stderr\",\"text\":\"{\\\"type\\\":\\\"turn.completed\\\"}\"}\n" },
                { 1, "{\"type\":\"turn.started\"}", "" },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                _cleanup_(adapter_run_freep) AdapterRun *run = run_new(a);
                Log log = {};
                AdapterOutcome o;

                assert_int_equal(
                        adapter_run_line(run, table[i].stream, table[i].line, strlen(table[i].line), log_event, &log),
                        0);
                assert_string_equal(log.text, table[i].events);
                adapter_run_finish(run, 0, 0, 0, &o);
                assert_string_equal(o.reason, "no_result");
        }
}

static void test_listener_fails(void **state) {
        _cleanup_(adapter_freep) Adapter *a = load_shipped(CODEX, NULL);
        static const char line[] = "{\"type\":\"turn.completed\",\"usage\":{\"input_tokens\":1}}";

        for (int nth = 1; nth <= 2; nth++) {
                _cleanup_(adapter_run_freep) AdapterRun *run = run_new(a);
                Log log = { .fail_at = nth };

                assert_int_equal(adapter_run_line(run, 1, line, strlen(line), log_event, &log), -ENOSPC);
        }
}

static void test_text(void **state) {
        _cleanup_(adapter_freep) Adapter *a = load_good(HEAD "output: {format: text}\n", NULL);
        _cleanup_(adapter_run_freep) AdapterRun *run = run_new(a), *silent = run_new(a);
        Log log = {};
        AdapterOutcome o;

        feed(run, "one\n\n{\"two\":2}\n", strlen("one\n\n{\"two\":2}\n"), &log);
        assert_int_equal(adapter_run_line(run, 2, "note", 4, log_event, &log), 0);
        assert_string_equal(log.text,
                            "text {\"text\":\"one\"}\ntext {\"text\":\"\"}\ntext {\"text\":\"{\\\"two\\\":2}\"}\n"
                            "output {\"stream\":\"stderr\",\"text\":\"note\"}\n");
        adapter_run_finish(run, 0, 0, 0, &o);
        assert_true(o.succeeded);
        assert_int_equal(o.n_text, 14);
        assert_memory_equal(o.text, "one\n\n{\"two\":2}", 14);
        adapter_run_finish(run, 2, 0, 0, &o);
        assert_false(o.succeeded);
        assert_string_equal(o.reason, "exit_status");
        /* Nothing said is an answer too, and no text. */
        adapter_run_finish(silent, 0, 0, 0, &o);
        assert_true(o.succeeded);
        assert_null(o.text);
}

static void test_bounds(void **state) {
        _cleanup_(adapter_freep) Adapter *a = load_good(HEAD "output: {format: text}\n", NULL);
        _cleanup_(adapter_run_freep) AdapterRun *run = run_new(a);
        const size_t n = ADAPTER_LINE_MAX + 100;
        _cleanup_free_ char *line = malloc(n);
        AdapterOutcome o;

        /* Three-byte characters: neither bound falls between two of them. */
        for (size_t i = 0; i + 3 <= n; i += 3)
                memcpy(line + i, "\xe2\x82\xac", 3);
        assert_int_equal(adapter_run_line(run, 1, "x", 1, NULL, NULL), 0);
        assert_int_equal(adapter_run_line(run, 1, line, n, NULL, NULL), 0);
        assert_int_equal(adapter_run_line(run, 1, "later", 5, NULL, NULL), 0);
        adapter_run_finish(run, 0, 0, 0, &o);
        assert_true(o.text_truncated);
        assert_true(o.n_text <= ADAPTER_RESULT_MAX && o.n_text > ADAPTER_RESULT_MAX - 3);
        assert_int_equal((o.n_text - 2) % 3, 0);
}

/* The rules beyond Codex's: joined deltas, elements of arrays, sums, costs, prefixes. */
static void test_gemini(void **state) {
        _cleanup_(adapter_freep) Adapter *a = load_shipped("scripts/agent-routerd/workers/example.yaml", NULL);
        Log log = {};
        _cleanup_(adapter_run_freep) AdapterRun *ok = replay(a, "gemini-ok", NULL),
                                                *tool = replay(a, "gemini-tool", &log),
                                                *limited = replay(a, "gemini-e429", NULL);
        AdapterOutcome o;

        adapter_run_finish(ok, 0, 0, 0, &o);
        assert_true(o.succeeded);
        assert_int_equal(o.n_text, strlen("MOCK-OK: hello from the mock model."));
        assert_memory_equal(o.text, "MOCK-OK: hello from the mock model.", o.n_text);
        assert_usage(&o.usage, &(StoreUsage){ 1234, 200, 56, -1, -1 });
        assert_string_equal(o.session, "bf0da2a5-22e4-4af8-b529-959fca4bd6fb");
        adapter_run_finish(tool, 0, 0, 0, &o);
        assert_usage(&o.usage, &(StoreUsage){ 2468, 400, 112, -1, -1 });
        assert_non_null(strstr(log.text,
                               "tool_call {\"name\":\"run_shell_command\",\"input\":{\"command\":\"echo tool-ran-42"));
        assert_non_null(strstr(log.text, "tool_result {\"output\":\"tool-ran-42\"}"));
        adapter_run_finish(limited, 173, 0, 0, &o);
        assert_false(o.succeeded);
        assert_non_null(strstr(o.detail, "rate limit exceeded"));
}

static void test_claude(void **state) {
        static const char manifest[] = HEAD
                "output:\n"
                "  format: json-lines\n"
                "  events:\n"
                "    - {match: {/type: system}, session: /session_id}\n"
                "    - {match: {/type: assistant}, each: /message/content, where: {/type: text}, emit: text, data: "
                "{text: /text}}\n"
                "    - {match: {/type: assistant}, each: /message/content, where: {/type: tool_use}, emit: tool_call,\n"
                "       data: {name: /name, input: /input/command}}\n"
                "    - {match: {/type: user}, each: /message/content, where: {/type: tool_result}, emit: tool_result,\n"
                "       data: {output: /content, is_error: /is_error}}\n"
                "    - {match: {/type: result, /is_error: false}, emit: result, data: {text: /result}, success: yes,\n"
                "       usage: {input_tokens: /usage/input_tokens, output_tokens: /usage/output_tokens, cost_usd: "
                "/total_cost_usd}}\n"
                "    - {match: {/type: result, /is_error: true}, emit: error,\n"
                "       data: {message: /result, status: /api_error_status}}\n";
        _cleanup_(adapter_freep) Adapter *a = load_good(manifest, NULL);
        Log log = {}, errors = {};
        _cleanup_(adapter_run_freep) AdapterRun *tool = replay(a, "claude-tool", &log),
                                                *denied = replay(a, "claude-e401", &errors);
        AdapterOutcome o;

        adapter_run_finish(tool, 0, 0, 0, &o);
        assert_true(o.succeeded);
        assert_memory_equal(o.text, "MOCK-OK: hello from the mock model.", o.n_text);
        assert_usage(&o.usage, &(StoreUsage){ 2468, -1, 112, -1, 9279 });
        assert_non_null(strstr(log.text, "tool_call {\"name\":\"Bash\",\"input\":\"echo tool-ran-$((40+2)) > "));
        assert_non_null(strstr(log.text, "tool_result {\"output\":\"tool-ran-42\",\"is_error\":false}"));
        assert_non_null(strstr(log.text, "usage {\"input_tokens\":2468,\"output_tokens\":112,\"cost_microusd\":9279}"));
        adapter_run_finish(denied, 1, 0, 0, &o);
        assert_string_equal(o.reason, "authentication");
        assert_non_null(strstr(errors.text, "\"status\":401}"));
}

static void test_rules(void **state) {
        static const char manifest[] = HEAD
                "output:\n"
                "  format: json-lines\n"
                "  events:\n"
                "    - {match: {/t: {prefix: [re, 'x']}}, emit: warning, data: {message: =retry}}\n"
                "    - {match: {/a~1b: [1, true]}, emit: tool_call, data: {name: =n, input: /a~1b}}\n"
                "    - {match: {/d: {exists: yes}, /e: {exists: no}}, emit: text, data: {text: /d}, answer: none}\n"
                "    - {match: {/u: {exists: yes}}, usage: {mode: sum, output_tokens: /u}}\n"
                "    - {match: {/u: {exists: yes}, /end: true}, success: yes}\n"
                "errors:\n"
                "  - {exit: [7, 8], reason: quota, retryable: yes, retry_after: 1h}\n";
        _cleanup_(adapter_freep) Adapter *a = load_good(manifest, NULL);
        _cleanup_(adapter_run_freep) AdapterRun *run = run_new(a);
        static const char lines[] = "{\"t\":\"retry 1\"}\n{\"t\":\"again\"}\n"
                                    "{\"a/b\":1}\n{\"a/b\":\"1\"}\n{\"a/b\":true}\n{\"a/b\":[1]}\n"
                                    "{\"d\":\"D\"}\n{\"d\":\"D\",\"e\":0}\n"
                                    "{\"u\":5}\n{\"u\":-1}\n{\"u\":1e300}\n{\"u\":\"6\"}\n{\"u\":9007199254740992}\n{"
                                    "\"u\":1,\"end\":true}\n";
        Log log = {};
        AdapterOutcome o;

        feed(run, lines, strlen(lines), &log);
        assert_string_equal(log.text,
                            "warning {\"message\":\"retry\"}\n"
                            "output {\"stream\":\"stdout\",\"text\":\"{\\\"t\\\":\\\"again\\\"}\"}\n"
                            "tool_call {\"name\":\"n\",\"input\":1}\n"
                            "tool_call {\"name\":\"n\",\"input\":\"1\"}\n"
                            "tool_call {\"name\":\"n\",\"input\":true}\n"
                            "output {\"stream\":\"stdout\",\"text\":\"{\\\"a/b\\\":[1]}\"}\n"
                            "text {\"text\":\"D\"}\n"
                            "output {\"stream\":\"stdout\",\"text\":\"{\\\"d\\\":\\\"D\\\",\\\"e\\\":0}\"}\n"
                            "usage {\"output_tokens\":5}\n"
                            "usage {\"output_tokens\":9007199254740997}\n"
                            "usage {\"output_tokens\":9007199254740998}\n");
        adapter_run_finish(run, 0, 0, 0, &o);
        assert_true(o.succeeded);
        assert_null(o.text);
        adapter_run_finish(run, 8, 0, 0, &o);
        assert_string_equal(o.reason, "quota");
        assert_true(o.retryable);
        assert_int_equal(o.retry_after_us, 3600 * USEC_PER_SEC);
}

/* Random bytes, and captures with random bytes in them, are lines like any others. */
static void test_fuzz(void **state) {
        _cleanup_(adapter_freep) Adapter *a = load_shipped(CODEX, NULL);
        char path[4096], line[2048];
        _cleanup_free_ char *text = NULL;
        unsigned seed = 7;
        size_t n;

        assert_int_equal(
                fd_read_file(AT_FDCWD, source_path(path, "src/adapter/captures/codex-tool.jsonl"), MIB(1), &text, &n),
                0);
        for (unsigned round = 0; round < 400; round++) {
                _cleanup_(adapter_run_freep) AdapterRun *run = run_new(a);
                AdapterOutcome o;
                Log log = {};

                for (size_t i = 0; i < sizeof(line); i++) {
                        seed = seed * 1103515245 + 12345;
                        line[i] = (char)(seed >> 16);
                }
                assert_int_equal(adapter_run_line(run, 1 + (round & 1), line, seed % sizeof(line), log_event, &log), 0);
                memcpy(line, text, MIN(n, sizeof(line)));
                for (unsigned k = 0; k < 4; k++) {
                        seed = seed * 1103515245 + 12345;
                        line[(seed >> 12) % MIN(n, sizeof(line))] = (char)(seed >> 4);
                }
                log = (Log){};
                feed(run, line, MIN(n, sizeof(line)), &log);
                adapter_run_finish(run, (int)(round % 3) - 1, round % 3 ? 0 : SIGTERM, 0, &o);
                assert_non_null(o.reason);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_captures),
                cmocka_unit_test(test_ends),
                cmocka_unit_test(test_success_after_oom),
                cmocka_unit_test(test_resumed),
                cmocka_unit_test(test_unmapped),
                cmocka_unit_test(test_listener_fails),
                cmocka_unit_test(test_text),
                cmocka_unit_test(test_bounds),
                cmocka_unit_test(test_gemini),
                cmocka_unit_test(test_claude),
                cmocka_unit_test(test_rules),
                cmocka_unit_test(test_fuzz),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

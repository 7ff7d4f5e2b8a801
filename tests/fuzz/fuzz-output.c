/*
 * An agent's output, by the manifest of codex: whatever an agent prints becomes events that are JSON objects, within
 * the bounds, and a restarted router that replays the lines without their events comes to the same end.
 *
 * The input's first byte is the exit code; then each line is of stdout, or where it begins with `!` of stderr.
 */

#include <fcntl.h>

#include "adapter/adapter.h"
#include "base/json.h"
#include "base/parse.h"
#include "fuzz.h"

static Adapter *codex(void) {
        static Adapter *adapter;
        const char *root = getenv("AR_SOURCE_ROOT");
        char path[4096], error[YAML_ERROR_MAX] = "";

        if (adapter)
                return adapter;
        snprintf(path, sizeof(path), "%s/scripts/agent-routerd/workers/codex/agent.yaml", root ? root : ".");
        if (adapter_load(&adapter, AT_FDCWD, path, &(AdapterConfig){ .name = "codex", .path = (char *)"/bin/true" }, error))
                fprintf(stderr, "%s: %s (run from the source tree, or set AR_SOURCE_ROOT)\n", path, error);
        HOLDS(adapter);
        return adapter;
}

static int on_event(void *userdata, const char *type, const char *data, size_t n_data) {
        _cleanup_(json_putp) json_object *o = NULL;
        JsonError e = {};
        size_t *n_events = userdata;

        HOLDS(type && *type);
        HOLDS(json_parse(data, n_data, JSON_DEPTH_MAX, &o, &e) == 0);
        HOLDS(json_object_is_type(o, json_type_object));
        ++*n_events;
        return 0;
}

static AdapterRun *run(const uint8_t *data, size_t n, AdapterEventFn fn, void *userdata) {
        AdapterRun *run = NULL;

        HOLDS(adapter_run_new(&run, codex()) == 0);
        while (n > 0) {
                const uint8_t *end = memchr(data, '\n', n);
                size_t n_line = end ? (size_t)(end - data) : n;
                bool err = n_line && *data == '!';

                HOLDS(adapter_run_line(run, 1 + err, (const char *)data + err, n_line - err, fn, userdata) == 0);
                n -= n_line + !!end;
                data += n_line + !!end;
        }
        return run;
}

static void check_outcome(const AdapterOutcome *o) {
        HOLDS(o->reason && *o->reason);
        HOLDS(utf8_is_valid(o->detail, strnlen(o->detail, sizeof(o->detail))));
        HOLDS(strnlen(o->detail, sizeof(o->detail)) < sizeof(o->detail));
        HOLDS(!o->text || (o->n_text <= ADAPTER_RESULT_MAX && utf8_is_valid(o->text, o->n_text)));
        HOLDS(!o->succeeded || !o->retryable);
        HOLDS(o->usage.input_tokens >= -1 && o->usage.cached_input_tokens >= -1 && o->usage.output_tokens >= -1 &&
              o->usage.reasoning_tokens >= -1 && o->usage.cost_microusd >= -1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        _cleanup_(adapter_run_freep) AdapterRun *live = NULL, *replayed = NULL;
        AdapterOutcome a, b;
        size_t n_events = 0;
        int exit_code;

        if (n == 0)
                return 0;
        exit_code = data[0] & 3;
        live = run(data + 1, n - 1, on_event, &n_events);
        replayed = run(data + 1, n - 1, NULL, NULL);
        adapter_run_finish(live, exit_code, 0, 0, &a);
        adapter_run_finish(replayed, exit_code, 0, 0, &b);
        check_outcome(&a);
        HOLDS(a.succeeded == b.succeeded && a.retryable == b.retryable && a.retry_after_us == b.retry_after_us);
        HOLDS(streq(a.reason, b.reason) && streq(a.detail, b.detail));
        HOLDS(a.n_text == b.n_text && (a.n_text == 0 || memcmp(a.text, b.text, a.n_text) == 0));
        HOLDS(streq_ptr(a.session, b.session));
        HOLDS(memcmp(&a.usage, &b.usage, sizeof(a.usage)) == 0);
        return 0;
}

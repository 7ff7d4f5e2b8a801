#include <inttypes.h>
#include <unistd.h>

#include "base/json.h"
#include "ctl/batch-watch.h"
#include "ctl/client.h"
#include "ctl/table.h"
#include "ctl/text.h"
#include "ctl/watch.h"

/* "Name:      value", where there is a value. */
static void get_line(Ctl *ctl, const char *name, const char *value, const char *color) {
        if (!*value)
                return;
        printf("%s%-12s%s%s", ctl->color ? "\033[1m" : "", name, ctl->color ? "\033[0m" : "", ctl->color ? color : "");
        text_write_line(stdout, value, 0);
        printf("%s\n", ctl->color && *color ? "\033[0m" : "");
}

/* "a=b c=d" of an object's members. */
static void get_pairs(Ctl *ctl, const char *name, json_object *pairs) {
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        _cleanup_free_ char *s = NULL;

        if (!json_object_is_type(pairs, json_type_object) || !json_object_object_length(pairs))
                return;
        json_object_object_foreach(pairs, key, value) {
                if (buf_printf(&b, "%s%s=%s", buf_size(&b) ? " " : "", key, value ? json_object_get_string(value) : "null"))
                        return;
        }
        if (!buf_take_str(&b, &s))
                get_line(ctl, name, s, "");
}

static void get_times(Ctl *ctl, json_object *task) {
        char span[TEXT_DURATION_MAX], line[128];

        text_span(json_at(task, "/created_at"), NULL, span);
        snprintf(line, sizeof(line), "%s (%s ago)", text_member(task, "/created_at"), span);
        get_line(ctl, "created", line, "");
        get_line(ctl, "not before", text_member(task, "/not_before"), "");
        get_line(ctl, "deadline", text_member(task, "/deadline"), "");
        if (!json_at(task, "/started_at"))
                return;
        get_line(ctl, "started", text_member(task, "/started_at"), "");
        text_span(json_at(task, "/started_at"), json_at(task, "/finished_at"), span);
        if (json_at(task, "/finished_at"))
                snprintf(line, sizeof(line), "%s (after %s)", text_member(task, "/finished_at"), span);
        else
                snprintf(line, sizeof(line), "running for %s", span);
        get_line(ctl, "finished", line, "");
}

static int get_attempts(Ctl *ctl, json_object *task) {
        json_object *attempts = json_at(task, "/attempts");
        _cleanup_(table_deinit) Table t = TABLE_NULL;

        if (!json_object_is_type(attempts, json_type_array) || !json_object_array_length(attempts))
                return 0;
        table_column(&t, "attempt", TABLE_RIGHT);
        table_column(&t, "agent", TABLE_LEFT);
        table_column(&t, "outcome", TABLE_LEFT);
        table_column(&t, "exit", TABLE_LEFT);
        table_column(&t, "time", TABLE_RIGHT);
        table_column(&t, "cpu", TABLE_RIGHT);
        table_column(&t, "memory", TABLE_RIGHT);
        table_column(&t, "reason", TABLE_LEFT);
        for (size_t i = 0; i < json_object_array_length(attempts); i++) {
                json_object *a = json_object_array_get_idx(attempts, i);
                const char *outcome = text_member(a, "/outcome"), *reason = text_member(a, "/reason");
                const char *detail = text_member(a, "/detail");
                char s[TEXT_DURATION_MAX], bytes[TEXT_BYTES_MAX];
                table_addf(&t, "%" PRIu64, text_member_u64(a, "/number"));
                table_add(&t, text_member(a, "/agent"));
                table_add_color(&t, *outcome ? outcome : "running", text_state_color(*outcome ? outcome : "running"));
                if (json_at(a, "/signal"))
                        table_addf(&t, "signal %s", text_member(a, "/signal"));
                else
                        table_add(&t, text_member(a, "/exit_code"));
                text_span(json_at(a, "/started_at"), json_at(a, "/finished_at"), s);
                table_add(&t, s);
                text_duration(text_member_u64(a, "/cpu_us"), s);
                table_add(&t, json_at(a, "/cpu_us") ? s : "");
                text_bytes(text_member_u64(a, "/memory_peak_bytes"), bytes);
                table_add(&t, text_member_u64(a, "/memory_peak_bytes") ? bytes : "");
                if (streq(reason, outcome))
                        reason = "";
                table_addf(&t, "%s%s%s", reason, *reason && *detail ? ": " : "", detail);
        }
        putchar('\n');
        return table_print(&t, stdout, ctl->width, ctl->color);
}

static void get_heading(Ctl *ctl, const char *heading) {
        printf("\n%s%s%s\n", ctl->color ? "\033[1m" : "", heading, ctl->color ? "\033[0m" : "");
}

static void get_text(Ctl *ctl, const char *heading, json_object *text) {
        const char *s = text ? json_object_get_string(text) : "";
        size_t n = text ? (size_t)json_object_get_string_len(text) : 0;

        if (!n)
                return;
        get_heading(ctl, heading);
        text_write(stdout, s, n);
        if (s[n - 1] != '\n')
                putchar('\n');
}

static void get_transcript(Ctl *ctl, json_object *transcript) {
        _cleanup_(show_deinit) Show show = SHOW_INIT(ctl, stdout);

        get_heading(ctl, "transcript");
        if (!json_object_is_type(transcript, json_type_array) || !json_object_array_length(transcript)) {
                puts("nothing yet");
                return;
        }
        for (size_t i = 0; i < json_object_array_length(transcript); i++) {
                json_object *e = json_object_array_get_idx(transcript, i);
                show_event(&show, text_member(e, "/type"), json_at(e, "/data"));
        }
        show_finish(&show);
}

/* Why it waits, and for what. */
static void get_waiting(Ctl *ctl, json_object *task) {
        json_object *waiting = json_at(task, "/waiting"), *after = json_at(task, "/after");
        const char *detail = text_member(waiting, "/detail");
        char until[TEXT_DURATION_MAX], line[512];

        if (waiting) {
                text_until(json_at(waiting, "/until"), until);
                snprintf(line, sizeof(line), "%s%s%s%s%s%s", text_member(waiting, "/reason"), *detail ? ": " : "", detail,
                         *until ? " (for " : "", until, *until ? ")" : "");
                get_line(ctl, "waits", line, "");
        }
        for (size_t i = 0; json_object_is_type(after, json_type_array) && i < json_object_array_length(after); i++) {
                json_object *on = json_object_array_get_idx(after, i);
                snprintf(line, sizeof(line), "%s (%s, on %s)", text_member(on, "/id"), text_member(on, "/state"), text_member(on, "/on"));
                get_line(ctl, "after", line, "");
        }
}

static void get_resources(Ctl *ctl, json_object *task) {
        uint64_t gpus = text_member_u64(task, "/resources/gpus"), memory = text_member_u64(task, "/resources/memory");
        const char *cpus = text_member(task, "/resources/cpus");
        char line[128], bytes[TEXT_BYTES_MAX];
        size_t n = 0;

        *line = 0;
        if (gpus)
                n += (size_t)snprintf(line + n, sizeof(line) - n, "%" PRIu64 " GPUs", gpus);
        if (*cpus && !streq(cpus, "0") && !streq(cpus, "0.0"))
                n += (size_t)snprintf(line + n, sizeof(line) - n, "%s%.32s CPUs", n ? ", " : "", cpus);
        text_bytes(memory, bytes);
        if (memory)
                snprintf(line + n, sizeof(line) - n, "%s%s", n ? ", " : "", bytes);
        get_line(ctl, "resources", line, "");
}

static int get_print(Ctl *ctl, json_object *task, bool transcript) {
        json_object *usage = json_at(task, "/usage");
        const char *state = text_member(task, "/state"), *reason = text_member(task, "/reason"), *detail = text_member(task, "/detail");
        char line[512];
        int r;

        if (streq(reason, state))
                reason = "";
        get_line(ctl, "id", text_member(task, "/id"), "");
        snprintf(line, sizeof(line), "%s%s%s%s%s", state, *reason ? ": " : "", reason, *detail ? ": " : "", detail);
        get_line(ctl, "state", line, text_state_color(state));
        get_waiting(ctl, task);
        get_line(ctl, "agent", text_member(task, "/agent"), "");
        get_line(ctl, "model", text_member(task, "/model"), "");
        get_line(ctl, "priority", text_member(task, "/priority"), "");
        get_line(ctl, "principal", text_member(task, "/principal"), "");
        get_line(ctl, "group", text_member(task, "/group"), "");
        get_line(ctl, "batch", text_member(task, "/batch"), "");
        get_line(ctl, "workspace", text_member(task, "/workspace"), "");
        get_resources(ctl, task);
        get_line(ctl, "max tokens", text_member(task, "/max_tokens"), "");
        get_line(ctl, "max cost", text_member(task, "/max_cost_usd"), "");
        get_pairs(ctl, "labels", json_at(task, "/labels"));
        get_pairs(ctl, "metadata", json_at(task, "/metadata"));
        get_times(ctl, task);
        if (usage) {
                snprintf(line, sizeof(line), "%" PRIu64 " in (%" PRIu64 " cached), %" PRIu64 " out (%" PRIu64 " reasoning)",
                         text_member_u64(usage, "/input_tokens"), text_member_u64(usage, "/cached_input_tokens"),
                         text_member_u64(usage, "/output_tokens"), text_member_u64(usage, "/reasoning_tokens"));
                get_line(ctl, "tokens", line, "");
        }
        r = get_attempts(ctl, task);
        if (r)
                return r;
        get_text(ctl, "prompt", json_at(task, "/prompt"));
        if (transcript)
                get_transcript(ctl, json_at(task, "/transcript"));
        else
                get_text(ctl, "result", json_at(task, "/result/text"));
        return 0;
}

int verb_get(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        bool transcript = false, prompt = false, result = false;
        const Option options[] = {
                { "transcript", 't', NULL, "all that the agent said and did", .flag = &transcript },
                { "prompt", 'p', NULL, "the prompt, too", .flag = &prompt },
                { "result", 'r', NULL, "the result's text alone; the exit code is the task's, as with submit --wait",
                  .flag = &result },
                {},
        };
        _cleanup_(json_putp) json_object *task = NULL;
        int n, r;

        r = ctl_parse(ctl, verb, options, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (n != 1)
                return ctl_fail(CTL_USAGE, "expected the id of one task: agent-routerctl get ID");
        r = watch_get(ctl, argv[0], transcript && prompt ? "?include=transcript,prompt" : transcript ? "?include=transcript" :
                      prompt ? "?include=prompt" : "", &task);
        if (r)
                return r;
        if (ctl->json) {
                text_print_json(task);
                return CTL_OK;
        }
        /* One submission to several agents. */
        if (json_at(task, "/n_tasks"))
                return result ? batch_print(ctl, task) ?: batch_exit(task) : batch_print(ctl, task);
        if (result) {
                if (!json_at(task, "/finished_at"))
                        return ctl_fail(CTL_TASK_FAILED, "task %s is %s; wait for it with: agent-routerctl follow %s", argv[0],
                                        text_member(task, "/state"), argv[0]);
                show_result(ctl, task);
                return show_exit(text_member(task, "/state"));
        }
        return get_print(ctl, task, transcript);
}

#include <inttypes.h>

#include "base/clock.h"
#include "base/json.h"
#include "ctl/agents.h"
#include "ctl/client.h"
#include "ctl/table.h"
#include "ctl/text.h"

/* "open 25s": a word, and how long it holds. */
static void add_until(Table *t, const char *word, json_object *until, const char *color) {
        uint64_t then_us, now_us = clock_realtime_us();
        char left[TEXT_DURATION_MAX] = "", cell[64];

        if (until && clock_parse_rfc3339(json_object_get_string(until), &then_us) == 0 && then_us > now_us)
                text_duration(then_us - now_us, left);
        snprintf(cell, sizeof(cell), "%.40s%s%s", word, *left ? " " : "", left);
        table_add_color(t, cell, color);
}

static void add_health(Table *t, json_object *a) {
        const char *breaker = text_member(a, "/breaker/state");
        json_object *gate = json_at(a, "/gate");

        add_until(t, streq(breaker, "half_open") ? "half-open" : breaker, json_at(a, "/breaker/until"),
                  streq(breaker, "open")        ? "\033[31m"
                  : streq(breaker, "half_open") ? "\033[33m"
                                                : NULL);
        if (gate)
                add_until(t, text_member(gate, "/reason"), json_at(gate, "/until"), "\033[33m");
        else
                table_add(t, "-");
}

int agents_print(Ctl *ctl, json_object *agents) {
        _cleanup_(table_deinit) Table t = TABLE_NULL;

        if (!json_object_is_type(agents, json_type_array) || !json_object_array_length(agents)) {
                puts("no agents; their manifests are in /usr/share/agent-router/workers and in agents.d of the configuration");
                return 0;
        }
        table_column(&t, "agent", TABLE_LEFT);
        table_column(&t, "title", TABLE_LEFT);
        table_column(&t, "state", TABLE_LEFT);
        table_column(&t, "running", TABLE_RIGHT);
        table_column(&t, "waiting", TABLE_RIGHT);
        table_column(&t, "breaker", TABLE_LEFT);
        table_column(&t, "gate", TABLE_LEFT);
        table_column(&t, "program, or how to get it", TABLE_LEFT);
        for (size_t i = 0; i < json_object_array_length(agents); i++) {
                json_object *a = json_object_array_get_idx(agents, i);
                bool installed = text_member_bool(a, "/installed"), paused = text_member_bool(a, "/paused");
                table_add(&t, text_member(a, "/name"));
                table_add(&t, text_member(a, "/title"));
                table_add_color(&t, !installed ? "not installed" : paused ? "paused" : "ready",
                                installed && !paused ? "\033[32m" : "\033[33m");
                table_addf(&t, "%" PRIu64 "/%" PRIu64, text_member_u64(a, "/running"), text_member_u64(a, "/concurrency"));
                table_addf(&t, "%" PRIu64, text_member_u64(a, "/waiting"));
                add_health(&t, a);
                table_add(&t, text_member(a, installed ? "/executable" : "/hint"));
        }
        return table_print(&t, stdout, ctl->width, ctl->color);
}

int verb_agents(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        _cleanup_(json_putp) json_object *answer = NULL;
        int n, r;

        r = ctl_parse(ctl, verb, NULL, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (n)
                return ctl_fail(CTL_USAGE, "%s takes no arguments, got '%s'", verb->name, argv[0]);
        r = client_call(ctl, &(ClientRequest){ .method = "GET", .path = "/v1/agents" }, &answer);
        if (r)
                return r;
        if (ctl->json) {
                text_print_json(answer);
                return CTL_OK;
        }
        return agents_print(ctl, json_at(answer, "/agents"));
}

int verb_agent_reset(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        _cleanup_free_ char *path = NULL;
        int n, r;

        r = ctl_parse(ctl, verb, NULL, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (n != 1)
                return ctl_fail(CTL_USAGE, "expected the name of one agent: agent-routerctl agent reset NAME");
        r = client_path("/v1/agents/", argv[0], "/reset", &path);
        r = r ?: client_call(ctl, &(ClientRequest){ .method = "POST", .path = path }, NULL);
        if (r)
                return r;
        if (ctl->json)
                puts("{\"reset\":true}");
        else {
                fputs("agent ", stdout);
                text_write_line(stdout, argv[0], 0);
                puts(": its gate and its breaker are open");
        }
        return CTL_OK;
}

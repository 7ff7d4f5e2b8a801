#include <inttypes.h>

#include "base/json.h"
#include "ctl/agents.h"
#include "ctl/client.h"
#include "ctl/text.h"

static void status_name(Ctl *ctl, const char *name) {
        printf("%s%-10s%s", ctl->color ? "\033[1m" : "", name, ctl->color ? "\033[0m" : "");
}

/* Before all else: a router that starts nothing looks broken to who does not know why. */
static void status_draining(Ctl *ctl, json_object *status) {
        uint64_t running = text_member_u64(status, "/running");

        if (!text_member_bool(status, "/draining"))
                return;
        printf("%sDRAINING%s: nothing is started; %" PRIu64 " %s; go on with: agent-routerctl resume\n",
               ctl->color ? "\033[1;33m" : "", ctl->color ? "\033[0m" : "", running, running == 1 ? "task still runs" : "tasks still run");
}

static void status_tasks(Ctl *ctl, json_object *status) {
        json_object *tasks = json_at(status, "/tasks");
        const char *separator = "";

        status_name(ctl, "tasks");
        if (json_object_is_type(tasks, json_type_object)) {
                json_object_object_foreach(tasks, state, count) {
                        if (json_object_get_int64(count) == 0)
                                continue;
                        printf("%s%" PRIi64 " %s%s%s", separator, json_object_get_int64(count),
                               ctl->color ? text_state_color(state) : "", state,
                               ctl->color && *text_state_color(state) ? "\033[0m" : "");
                        separator = ", ";
                }
        }
        puts(*separator ? "" : "none yet; submit one with: agent-routerctl submit \"Say hello\"");
        status_name(ctl, "slots");
        printf("%" PRIu64 " of %" PRIu64 " running, %" PRIu64 " of %" PRIu64 " queued\n", text_member_u64(status, "/running"),
               text_member_u64(status, "/limits/running"), text_member_u64(status, "/queued"),
               text_member_u64(status, "/limits/queued"));
}

static void status_launcher(Ctl *ctl, json_object *status) {
        json_object *absent = json_at(status, "/launcher/absent"), *capabilities = json_at(status, "/launcher/capabilities");

        status_name(ctl, "launcher");
        if (!text_member_bool(status, "/launcher/connected")) {
                printf("%snot connected%s; tasks wait: systemctl status agent-router-launcher\n", ctl->color ? "\033[31m" : "",
                       ctl->color ? "\033[0m" : "");
                return;
        }
        fputs("connected:", stdout);
        for (size_t i = 0;
             json_object_is_type(capabilities, json_type_array) && i < json_object_array_length(capabilities); i++) {
                putchar(' ');
                text_write_line(stdout, json_object_get_string(json_object_array_get_idx(capabilities, i)), 0);
        }
        putchar('\n');
        for (size_t i = 0; json_object_is_type(absent, json_type_array) && i < json_object_array_length(absent); i++) {
                status_name(ctl, i ? "" : "absent");
                text_write_line(stdout, json_object_get_string(json_object_array_get_idx(absent, i)), 0);
                putchar('\n');
        }
}

static void status_store(Ctl *ctl, json_object *status) {
        char database[TEXT_BYTES_MAX], wal[TEXT_BYTES_MAX];

        text_bytes(text_member_u64(status, "/store/database_bytes"), database);
        text_bytes(text_member_u64(status, "/store/wal_bytes"), wal);
        status_name(ctl, "store");
        if (text_member_bool(status, "/store/failed"))
                printf("%sfailed%s: nothing is written any more; see journalctl -u agent-routerd, then restart it\n",
                       ctl->color ? "\033[31m" : "", ctl->color ? "\033[0m" : "");
        else
                printf("%s, %s of it in the log; %" PRIu64 " commits\n", database, wal, text_member_u64(status, "/store/commits"));
}

static int status_print(Ctl *ctl, json_object *status) {
        const char *instance = text_member(status, "/instance");
        char uptime[TEXT_DURATION_MAX];

        status_draining(ctl, status);
        text_duration(MAX(text_member_u64(status, "/uptime_s"), UINT64_C(1)) * USEC_PER_SEC, uptime);
        status_name(ctl, "router");
        printf("agent-routerd %s, pid %" PRIu64 ", up %s%s%s\n", text_member(status, "/version"),
               text_member_u64(status, "/pid"), uptime, *instance ? ", instance " : "", instance);
        status_tasks(ctl, status);
        status_launcher(ctl, status);
        status_store(ctl, status);
        putchar('\n');
        return agents_print(ctl, json_at(status, "/agents"));
}

int verb_status(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        _cleanup_(json_putp) json_object *status = NULL;
        int n, r;

        r = ctl_parse(ctl, verb, NULL, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (n)
                return ctl_fail(CTL_USAGE, "status takes no arguments, got '%s'; one task: agent-routerctl get ID", argv[0]);
        r = client_call(ctl, &(ClientRequest){ .method = "GET", .path = "/v1/status" }, &status);
        if (r)
                return r;
        if (ctl->json) {
                puts(json_object_to_json_string_ext(status, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
                return CTL_OK;
        }
        return status_print(ctl, status);
}

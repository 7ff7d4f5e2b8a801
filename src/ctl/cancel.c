#include <unistd.h>

#include "base/error.h"
#include "base/json.h"
#include "base/parse.h"
#include "ctl/client.h"
#include "ctl/text.h"

static int cancel_one(Ctl *ctl, const char *id) {
        _cleanup_(json_putp) json_object *task = NULL;
        _cleanup_free_ char *path = NULL;
        int r;

        r = client_path("/v1/tasks/", id, "/cancel", &path);
        r = r ?: client_call(ctl, &(ClientRequest){ .method = "POST", .path = path }, &task);
        if (r)
                return r;
        if (ctl->json)
                text_print_json(task);
        else
                /* A running one is stopped first: its state changes when it is gone. */
                printf("%s %s\n", text_member(task, "/id"),
                       streq(text_member(task, "/state"), "running") ? "is being cancelled" : text_member(task, "/state"));
        fflush(stdout);
        return 0;
}

/* Those that a filter lets through, or all. */
typedef struct CancelMany {
        const char *group, *state, *agent, *label;
        bool all, yes;
} CancelMany;

static bool cancel_confirm(const CancelMany *m) {
        char answer[16] = "";

        if (m->yes || !isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
                return true;
        fprintf(stderr, "Cancel all tasks%s%s%s%s%s%s%s%s? [y/N] ", m->group ? " of group " : "", m->group ?: "",
                m->state ? " that are " : "", m->state ?: "", m->agent ? " of agent " : "", m->agent ?: "",
                m->label ? " with label " : "", m->label ?: "");
        fflush(stderr);
        return fgets(answer, sizeof(answer), stdin) && (*answer == 'y' || *answer == 'Y');
}

static int cancel_many(Ctl *ctl, const CancelMany *m) {
        const struct { const char *name, *value; } filters[] = {
                { "group", m->group }, { "state", m->state }, { "agent", m->agent }, { "label", m->label },
        };
        _cleanup_(json_putp) json_object *body = json_object_new_object(), *answer = NULL;
        ClientRequest request = { .method = "POST", .path = "/v1/tasks/cancel" };
        int r;

        for (size_t i = 0; i < ELEMENTSOF(filters); i++)
                if (filters[i].value) {
                        if (!utf8_is_valid(filters[i].value, strlen(filters[i].value)))
                                return ctl_fail(CTL_USAGE, "--%s: expected UTF-8", filters[i].name);
                        json_object_object_add(body, filters[i].name, json_object_new_string(filters[i].value));
                }
        if (!json_object_object_length(body))
                json_object_object_add(body, "all", json_object_new_boolean(true));
        if (!cancel_confirm(m))
                return ctl_fail(CTL_USAGE, "nothing is cancelled");
        request.body = json_object_to_json_string_length(body, JSON_C_TO_STRING_PLAIN, &request.n_body);
        r = client_call(ctl, &request, &answer);
        if (r)
                return r;
        if (ctl->json)
                text_print_json(answer);
        else
                printf("%s tasks cancelled\n", text_member(answer, "/cancelled"));
        return CTL_OK;
}

int verb_cancel(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        CancelMany m = {};
        const Option options[] = {
                { "all", 'A', NULL, "all tasks that have not ended", .flag = &m.all },
                { "group", 'g', "NAME", "those of this group", .text = &m.group },
                { "state", 's', "STATE", "those in this state: queued, delayed, blocked, running", .text = &m.state },
                { "agent", 'a', "NAME", "those of this agent", .text = &m.agent },
                { "label", 'l', "KEY=VALUE", "those with this label", .text = &m.label },
                { "yes", 'y', NULL, "do not ask whether that is meant", .flag = &m.yes },
                {},
        };
        int n, r, worst = 0;

        r = ctl_parse(ctl, verb, options, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (m.all || m.group || m.state || m.agent || m.label) {
                if (n)
                        return ctl_fail(CTL_USAGE, "ids and %s are both given; expected one of them", m.all ? "--all" : "a filter");
                return cancel_many(ctl, &m);
        }
        if (n == 0)
                return ctl_fail(CTL_USAGE, "expected the ids of tasks: agent-routerctl cancel ID…, or --all");
        for (int i = 0; i < n; i++) {
                r = cancel_one(ctl, argv[i]);
                if (r < 0 || r == CTL_UNREACHABLE || r == CTL_USAGE)
                        return r;
                worst = MAX(worst, r);
        }
        return worst;
}

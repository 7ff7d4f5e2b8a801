#include "base/error.h"
#include "base/json.h"
#include "ctl/client.h"
#include "ctl/text.h"

static int cancel_one(Ctl *ctl, const char *id) {
        _cleanup_(json_putp) json_object *task = NULL;
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        _cleanup_free_ char *path = NULL;
        int r;

        r = buf_append_str(&b, "/v1/tasks/");
        if (!r)
                r = client_escape(&b, id);
        if (!r)
                r = buf_append_str(&b, "/cancel");
        if (!r)
                r = buf_take_str(&b, &path);
        if (r)
                return error_fold(r);
        r = client_call(ctl, &(ClientRequest){ .method = "POST", .path = path }, &task);
        if (r)
                return r;
        if (ctl->json)
                puts(json_object_to_json_string_ext(task, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
        else
                /* A running one is stopped first: its state changes when it is gone. */
                printf("%s %s\n", text_member(task, "/id"),
                       streq(text_member(task, "/state"), "running") ? "is being cancelled" : text_member(task, "/state"));
        fflush(stdout);
        return 0;
}

int verb_cancel(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        int n, r, worst = 0;

        r = ctl_parse(ctl, verb, NULL, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (n == 0)
                return ctl_fail(CTL_USAGE, "expected the ids of tasks: agent-routerctl cancel ID…");
        for (int i = 0; i < n; i++) {
                r = cancel_one(ctl, argv[i]);
                if (r < 0 || r == CTL_UNREACHABLE || r == CTL_USAGE)
                        return r;
                worst = MAX(worst, r);
        }
        return worst;
}

#include "base/error.h"
#include "base/json.h"
#include "ctl/client.h"
#include "ctl/text.h"

static int retry_one(Ctl *ctl, const char *id) {
        _cleanup_(json_putp) json_object *task = NULL;
        _cleanup_free_ char *path = NULL;
        int r;

        r = client_path("/v1/tasks/", id, "/retry", &path);
        r = r ?: client_call(ctl, &(ClientRequest){ .method = "POST", .path = path }, &task);
        if (r)
                return r;
        if (ctl->json)
                text_print_json(task);
        else
                printf("%s %s\n", text_member(task, "/id"), text_member(task, "/state"));
        fflush(stdout);
        return 0;
}

int verb_retry(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        int n, r, worst = 0;

        r = ctl_parse(ctl, verb, NULL, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (n == 0)
                return ctl_fail(CTL_USAGE, "expected the ids of tasks: agent-routerctl retry ID…");
        for (int i = 0; i < n; i++) {
                r = retry_one(ctl, argv[i]);
                if (r < 0 || r == CTL_UNREACHABLE || r == CTL_USAGE)
                        return r;
                worst = MAX(worst, r);
        }
        return worst;
}

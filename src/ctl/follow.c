#include "ctl/client.h"
#include "ctl/watch.h"

int verb_follow(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        const char *patience = NULL;
        const Option options[] = {
                { "patience", 0, "DURATION", "how long a router that is gone is waited for (2min)", .text = &patience },
                {},
        };
        _cleanup_(show_deinit) Show show = SHOW_INIT(ctl, stderr);
        Watch w = { .show = &show, .patience_us = WATCH_PATIENCE_US };
        int n, r;

        r = ctl_parse(ctl, verb, options, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (patience && !watch_parse_patience(patience, &w.patience_us))
                return CTL_USAGE;
        if (n != 1)
                return ctl_fail(CTL_USAGE, "expected the id of one task: agent-routerctl follow ID");
        w.id = argv[0];
        r = watch_task(ctl, &w);
        return r ? r : show_exit(w.state);
}

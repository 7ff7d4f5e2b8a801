/* drain, resume, reload. */

#include <inttypes.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/parse.h"
#include "ctl/client.h"
#include "ctl/text.h"
#include "ctl/watch.h"

#define DRAIN_POLL_US (500 * USEC_PER_MSEC)

/* A line that is written over on a terminal; elsewhere one each time that the number changes. */
static void drain_progress(uint64_t running, bool terminal) {
        fprintf(stderr, "%s%" PRIu64 " %s still run%s", terminal ? "\r\033[K" : "", running, running == 1 ? "task" : "tasks",
                running == 1 ? "s" : "");
        fputs(terminal ? "" : "\n", stderr);
}

static void drain_progress_end(bool terminal) {
        if (terminal)
                fputs("\r\033[K", stderr);
}

/* Until nothing runs. */
static int drain_wait(Ctl *ctl, uint64_t deadline_us) {
        bool terminal = isatty(STDERR_FILENO);
        uint64_t start_us = clock_monotonic_us(), shown = UINT64_MAX;

        client_catch_interrupt();
        for (;;) {
                _cleanup_(json_putp) json_object *status = NULL;
                char waited[TEXT_DURATION_MAX];
                uint64_t running, now_us;
                int r;

                r = client_call(ctl, &(ClientRequest){ .method = "GET", .path = "/v1/status" }, &status);
                if (r)
                        return r;
                running = text_member_u64(status, "/running");
                if (!text_member_bool(status, "/draining")) {
                        drain_progress_end(terminal);
                        return ctl_fail(CTL_TASK_FAILED, "somebody has resumed it: it does not drain any more");
                }
                if (!running) {
                        drain_progress_end(terminal);
                        if (ctl->json)
                                puts("{\"draining\":true,\"running\":0}");
                        else
                                puts("drained: nothing runs, and nothing is started; go on with: agent-routerctl resume");
                        return CTL_OK;
                }
                now_us = clock_monotonic_us();
                if (deadline_us && now_us - start_us >= deadline_us) {
                        drain_progress_end(terminal);
                        text_duration(deadline_us, waited);
                        if (ctl->json)
                                printf("{\"draining\":true,\"running\":%" PRIu64 "}\n", running);
                        return ctl_fail(CTL_TASK_FAILED, "%" PRIu64 " %s still run%s after %s; nothing more is started\n"
                                        "  they are: agent-routerctl list --state running", running,
                                        running == 1 ? "task" : "tasks", running == 1 ? "s" : "", waited);
                }
                if (running != shown)
                        drain_progress(running, terminal);
                shown = running;
                watch_pause(deadline_us ? MIN(DRAIN_POLL_US, deadline_us - (now_us - start_us)) : DRAIN_POLL_US);
                if (client_interrupted()) {
                        drain_progress_end(terminal);
                        fprintf(stderr, "agent-routerctl: interrupted; it goes on draining until: agent-routerctl resume\n");
                        return CTL_INTERRUPTED;
                }
        }
}

int verb_drain(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        const char *deadline = NULL;
        bool wait = false;
        const Option options[] = {
                { "wait", 'w', NULL, "wait until nothing runs", .flag = &wait },
                { "deadline", 'd', "DURATION", "wait for so long at most; then the exit code is 1", .text = &deadline },
                {},
        };
        _cleanup_(json_putp) json_object *answer = NULL;
        uint64_t deadline_us = 0, running;
        int n, r;

        r = ctl_parse(ctl, verb, options, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (n)
                return ctl_fail(CTL_USAGE, "drain takes no arguments, got '%s'", argv[0]);
        if (deadline && (!parse_duration_us(deadline, &deadline_us) || !deadline_us))
                return ctl_fail(CTL_USAGE, "--deadline '%s': expected a duration such as 30s or 10min", deadline);
        r = client_call(ctl, &(ClientRequest){ .method = "POST", .path = "/v1/drain" }, &answer);
        if (r)
                return r;
        if (wait || deadline)
                return drain_wait(ctl, deadline_us);
        if (ctl->json) {
                text_print_json(answer);
                return CTL_OK;
        }
        running = text_member_u64(answer, "/running");
        printf("draining: nothing more is started; %" PRIu64 " %s\n", running, running == 1 ? "task still runs" : "tasks still run");
        return CTL_OK;
}

/* A POST that takes nothing and says so in a sentence. */
static int post(Ctl *ctl, const Verb *verb, int argc, char **argv, const char *path, const char *done) {
        _cleanup_(json_putp) json_object *answer = NULL;
        int n, r;

        r = ctl_parse(ctl, verb, NULL, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (n)
                return ctl_fail(CTL_USAGE, "%s takes no arguments, got '%s'", verb->name, argv[0]);
        r = client_call(ctl, &(ClientRequest){ .method = "POST", .path = path }, &answer);
        if (r)
                return r;
        if (ctl->json)
                text_print_json(answer);
        else
                puts(done);
        return CTL_OK;
}

int verb_resume(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        return post(ctl, verb, argc, argv, "/v1/resume", "tasks are started again");
}

int verb_reload(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        return post(ctl, verb, argc, argv, "/v1/reload", "the configuration is read again");
}

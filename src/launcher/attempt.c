#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "launcher/attempt.h"
#include "launcher/sandbox.h"
#include "launcher/spawn.h"

/* Bytes of one stream that are read in one turn, so that a chatty worker does not starve the others. */
#define ATTEMPT_READ_MAX KIB(64)
/* A cgroup whose processes are dead is empty within moments; then it is said and left to the next start. */
#define ATTEMPT_CGROUP_TRIES 20
#define ATTEMPT_CGROUP_WAIT_US (50 * USEC_PER_MSEC)

static void attempt_update(Attempt *a);

static void attempt_log(const Attempt *a, int level, const char *text) {
        char pid[16];

        snprintf(pid, sizeof(pid), "%d", (int)a->pid);
        log_field(level, ((LogField[]){ { "TASK_ID", a->task }, { "ATTEMPT_ID", a->text_id }, { "AGENT", a->agent }, { "WORKER_PID", pid }, {} }),
                  "%s", text);
}

Attempt *attempt_find(Launcher *l, const Id *id) {
        MapNode *node = map_find(&l->attempts, id, sizeof(*id));

        return node ? container_of(node, Attempt, node) : NULL;
}

static void attempt_close(Attempt *a, LoopSource *source, int *fd) {
        loop_remove(&a->launcher->loop, source);
        fd_close(*fd);
        *fd = -1;
}

/* Its end: the child is done with what it was given. */
static void attempt_close_report(Attempt *a) {
        attempt_close(a, &a->report, &a->report_fd);
        a->spawn = spawn_free(a->spawn);
}

Attempt *attempt_free(Attempt *a) {
        if (!a)
                return NULL;
        map_remove(&a->launcher->attempts, &a->node);
        list_unlink(&a->dirty);
        list_unlink(&a->listing);
        loop_timer_clear(&a->launcher->loop, &a->kill_timer);
        loop_timer_clear(&a->launcher->loop, &a->cgroup_timer);
        attempt_close(a, &a->init, &a->pidfd);
        /* Only where the loop has failed, and we end: the child may still be in what it was given. */
        if (!a->reaped)
                a->spawn = NULL;
        attempt_close_report(a);
        attempt_close(a, &a->status_source, &a->status_fd);
        for (unsigned i = 0; i < 2; i++) {
                attempt_close(a, &a->streams[i].source, &a->streams[i].fd);
                window_deinit(&a->streams[i].window);
        }
        (void)!cgroup_remove(&a->launcher->cgroups, &a->cgroup);
        fd_close(a->cgroup.fd);
        free(a);
        return NULL;
}

/* What the router does not want any more is not kept. */
static void attempt_drop_output(AttemptStream *s) {
        s->window.sent = window_end(&s->window);
        (void)window_ack(&s->window, s->window.sent);
}

/* The last process has died: what the pipe holds now is all. Whoever else has its writing end is not heard any more. */
static void attempt_measure(AttemptStream *s) {
        int n;

        s->left = s->fd >= 0 && ioctl(s->fd, FIONREAD, &n) == 0 && n > 0 ? (size_t)n : 0;
}

/* Reads until nothing is there, the window is full, or the turn is over. */
static void attempt_pump(AttemptStream *s) {
        Attempt *a = s->attempt;
        size_t n, total = 0;
        int r = 0;

        while (s->fd >= 0 && (a->dead ? s->left > 0 : total < ATTEMPT_READ_MAX)) {
                r = window_read(&s->window, s->fd, a->dead ? MIN(s->left, ATTEMPT_READ_MAX) : ATTEMPT_READ_MAX, &n);
                if (r)
                        break;
                total += n;
                if (a->dead)
                        s->left -= n;
                if (a->forgotten)
                        attempt_drop_output(s);
        }
        if (r == WINDOW_E_EOF || (a->dead && (r == WINDOW_E_AGAIN || s->left == 0)) || (r < 0 && r != -ENOMEM))
                attempt_close(a, &s->source, &s->fd);
        else if (r == WINDOW_E_FULL)
                loop_remove(&a->launcher->loop, &s->source);    /* EPOLLHUP can't be masked; ACK takes it up again */
}

static void attempt_on_output(LoopSource *source, uint32_t events) {
        AttemptStream *s = container_of(source, AttemptStream, source);

        attempt_pump(s);
        attempt_update(s->attempt);
}

static void attempt_read_report(Attempt *a) {
        while (a->report_fd >= 0) {
                SandboxReport report;
                ssize_t n = read(a->report_fd, &report, sizeof(report));

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN && !a->dead)
                        return;
                if (n != (ssize_t)sizeof(report)) {
                        attempt_close_report(a);
                        if (a->ready && !a->failure.error)
                                a->execed_at_us = a->left_at_us ?: clock_monotonic_us();
                } else if (report.kind == SANDBOX_REPORT_READY)
                        a->ready = true;
                else if (report.kind == SANDBOX_REPORT_LEFT)
                        a->left_at_us = report.at_us;
                else {
                        a->failure = report.failure;
                        a->failure.stage[sizeof(a->failure.stage) - 1] = 0;
                        a->failure.text[sizeof(a->failure.text) - 1] = 0;
                }
        }
}

static void attempt_on_report(LoopSource *source, uint32_t events) {
        Attempt *a = container_of(source, Attempt, report);

        attempt_read_report(a);
        attempt_update(a);
}

static void attempt_remove_cgroup(Attempt *a) {
        int r = cgroup_remove(&a->launcher->cgroups, &a->cgroup);

        if (r == 0)
                return;
        (void)cgroup_kill(&a->launcher->cgroups, &a->cgroup);
        if (++a->cgroup_tries < ATTEMPT_CGROUP_TRIES &&
            loop_timer_set(&a->launcher->loop, &a->cgroup_timer, clock_monotonic_us() + ATTEMPT_CGROUP_WAIT_US) == 0)
                return;
        attempt_log(a, LOG_WARNING, "the cgroup of an ended task is not empty; the next start of the launcher removes it");
}

static void attempt_on_cgroup_timer(LoopTimer *timer) {
        Attempt *a = container_of(timer, Attempt, cgroup_timer);

        attempt_remove_cgroup(a);
        attempt_update(a);
}

/* Nothing of the task runs any more: collects what there is to know. */
static void attempt_collect(Attempt *a) {
        if (a->dead)
                return;
        a->dead = true;
        loop_timer_clear(&a->launcher->loop, &a->kill_timer);
        attempt_read_report(a);
        if (read(a->status_fd, &a->status, sizeof(a->status)) != (ssize_t)sizeof(a->status))
                /* SIGKILL took init along with the agent: ours, or somebody's (the kernel's, out of memory). */
                a->status = a->killed ? (InitStatus){ .how = LAUNCH_HOW_SIGNALLED, .value = SIGKILL }
                                      : (InitStatus){ .how = LAUNCH_HOW_LOST };
        attempt_close(a, &a->status_source, &a->status_fd);
        cgroup_read_usage(&a->launcher->cgroups, &a->cgroup, &a->usage);
        if (a->usage.cpu_us == 0)
                a->usage.cpu_us = a->status.cpu_us;
        for (unsigned i = 0; i < 2; i++) {
                attempt_measure(&a->streams[i]);
                attempt_pump(&a->streams[i]);
        }
}

/* Init's last word. */
static void attempt_on_status(LoopSource *source, uint32_t events) {
        Attempt *a = container_of(source, Attempt, status_source);

        if (!(events & EPOLLIN)) {
                /* It died without one: its pidfd tells. */
                loop_remove(&a->launcher->loop, &a->status_source);
                return;
        }
        attempt_collect(a);
        attempt_update(a);
}

/* Init is gone, and with it everything in its namespace. */
static void attempt_on_init(LoopSource *source, uint32_t events) {
        Attempt *a = container_of(source, Attempt, init);
        Launcher *l = a->launcher;
        siginfo_t info = {};

        while (waitid(P_PIDFD, (id_t)a->pidfd, &info, WEXITED) < 0 && errno == EINTR)
                ;
        a->reaped = true;
        l->n_alive--;
        loop_remove(&l->loop, &a->init);
        attempt_collect(a);
        attempt_remove_cgroup(a);
        attempt_update(a);
        launcher_on_reaped(l);
}

static void attempt_fail(Attempt *a) {
        char text[FAILURE_TEXT_MAX + FAILURE_STAGE_MAX + 32];

        if (!a->failure.error && a->killed)
                (void)failure_set(&a->failure, "killed", ECANCELED, "the attempt was cancelled before its agent ran");
        else if (!a->failure.error)
                (void)failure_set(&a->failure, "sandbox", ECHILD, "the sandbox died while it was set up; memory_max may be too small for it");
        snprintf(text, sizeof(text), "agent not started, stage %s: %s", a->failure.stage, a->failure.text);
        attempt_log(a, a->killed ? LOG_INFO : LOG_WARNING, text);
        a->state = ATTEMPT_FAILED;
        home_discard(&a->launcher->homes, &a->id);
}

static void attempt_end(Attempt *a) {
        char text[96];

        snprintf(text, sizeof(text), "agent %s: %s %u%s", a->status.how == LAUNCH_HOW_LOST ? "lost" : "ended",
                 a->status.how == LAUNCH_HOW_EXITED ? "exit status" : a->status.how == LAUNCH_HOW_SIGNALLED ? "signal" : "its init was killed,",
                 a->status.value, a->usage.oom_kills ? ", out of memory" : "");
        attempt_log(a, LOG_INFO, text);
        a->state = ATTEMPT_ENDED;
}

/* Moves the state on by what is known now, and wakes the server. May free a forgotten attempt. */
static void attempt_update(Attempt *a) {
        if (a->state == ATTEMPT_STARTING && a->execed_at_us) {
                a->state = ATTEMPT_RUNNING;
                attempt_log(a, LOG_INFO, "agent started");
        }
        if (a->dead && a->state == ATTEMPT_STARTING && a->report_fd < 0)
                attempt_fail(a);
        if (a->dead && a->state == ATTEMPT_RUNNING && a->streams[0].fd < 0 && a->streams[1].fd < 0)
                attempt_end(a);
        if (a->forgotten && a->state >= ATTEMPT_ENDED && a->reaped) {
                if (a->state == ATTEMPT_ENDED)
                        home_discard(&a->launcher->homes, &a->id);
                attempt_free(a);
                return;
        }
        server_wake(&a->launcher->server, a);
}

static void attempt_kill_now(Attempt *a) {
        loop_timer_clear(&a->launcher->loop, &a->kill_timer);
        if (a->reaped || a->pidfd < 0)
                return;
        (void)cgroup_kill(&a->launcher->cgroups, &a->cgroup);
        /* Init's death is the namespace's. */
        (void)pidfd_send_signal(a->pidfd, SIGKILL, NULL, 0);
}

static void attempt_on_kill_timer(LoopTimer *timer) {
        attempt_kill_now(container_of(timer, Attempt, kill_timer));
}

void attempt_kill(Attempt *a, uint32_t grace_ms) {
        uint64_t at = clock_monotonic_us() + (uint64_t)grace_ms * USEC_PER_MSEC;

        if (a->dead || a->pidfd < 0)
                return;
        a->killed = true;
        if (grace_ms > 0 && pidfd_send_signal(a->pidfd, SIGTERM, NULL, 0) == 0) {
                /* A second KILL may shorten the grace, not lengthen it. */
                if (heap_contains(&a->kill_timer.node) && a->kill_timer.at_us <= at)
                        return;
                if (loop_timer_set(&a->launcher->loop, &a->kill_timer, at) == 0)
                        return;
        }
        attempt_kill_now(a);
}

bool attempt_ack(Attempt *a, unsigned stream, uint64_t offset) {
        AttemptStream *s = &a->streams[stream - 1];

        if (!window_ack(&s->window, offset))
                return false;
        if (s->fd < 0 || s->source.fd >= 0 || window_is_full(&s->window))
                return true;
        /* The pump had stopped. */
        if (!a->dead && loop_add(&a->launcher->loop, &s->source, s->fd, EPOLLIN) == 0)
                return true;
        attempt_pump(s);
        attempt_update(a);
        return true;
}

void attempt_forget(Attempt *a) {
        a->forgotten = true;
        attempt_kill(a, 0);
        for (unsigned i = 0; i < 2; i++) {
                AttemptStream *s = &a->streams[i];

                attempt_drop_output(s);
                if (s->fd >= 0 && a->dead)
                        attempt_pump(s);
                else if (s->fd >= 0 && s->source.fd < 0 && loop_add(&a->launcher->loop, &s->source, s->fd, EPOLLIN) < 0)
                        attempt_close(a, &s->source, &s->fd);
        }
        attempt_update(a);
}

void attempt_rewind(Attempt *a) {
        for (unsigned i = 0; i < 2; i++)
                window_rewind(&a->streams[i].window);
        a->exited_sent = false;
}

/* Registers what spawn() made with the loop. -errno leaves the rest to attempt_free(). */
static int attempt_watch(Attempt *a) {
        Loop *loop = &a->launcher->loop;
        int r;

        r = loop_add(loop, &a->init, a->pidfd, EPOLLIN);
        /* Its end alone (EPOLLHUP): what was written before is read then; a mark is not worth waking up for. */
        if (!r)
                r = loop_add(loop, &a->report, a->report_fd, 0);
        if (!r)
                r = loop_add(loop, &a->status_source, a->status_fd, EPOLLIN);
        for (unsigned i = 0; r == 0 && i < 2; i++)
                r = loop_add(loop, &a->streams[i].source, a->streams[i].fd, EPOLLIN);
        return error_trace(r);
}

int attempt_new(Launcher *l, Spec *spec, int stdin_fd, Attempt **ret_attempt) {
        _cleanup_close_ int stdin_owned = stdin_fd;
        Attempt *a = calloc(1, sizeof(*a));
        int r;

        if (!a)
                return error_origin(-ENOMEM);
        *a = (Attempt){
                .launcher = l,
                .id = spec->attempt,
                .pidfd = -1,
                .report_fd = -1,
                .status_fd = -1,
                .cgroup = CGROUP_NULL,
                .init = { .fd = -1, .on_ready = attempt_on_init },
                .report = { .fd = -1, .on_ready = attempt_on_report },
                .status_source = { .fd = -1, .on_ready = attempt_on_status },
                .kill_timer.on_timer = attempt_on_kill_timer,
                .cgroup_timer.on_timer = attempt_on_cgroup_timer,
        };
        for (unsigned i = 0; i < 2; i++)
                a->streams[i] = (AttemptStream){
                        .attempt = a,
                        .fd = -1,
                        .source = { .fd = -1, .on_ready = attempt_on_output },
                        .window = WINDOW_INIT(LAUNCH_WINDOW),
                };
        id_format(&spec->attempt, a->text_id);
        id_format(&spec->task, a->task);
        snprintf(a->agent, sizeof(a->agent), "%s", spec->agent);
        r = map_insert(&l->attempts, &a->node, &a->id, sizeof(a->id));
        if (r) {
                free(a);
                return error_trace(r);
        }
        r = spawn(a, spec, stdin_owned);
        if (r) {
                a->dead = a->reaped = true;
                attempt_fail(a);
        } else {
                l->n_alive++;
                r = attempt_watch(a);
                if (r) {
                        /* Can't be watched, so it is ended here and now. */
                        (void)pidfd_send_signal(a->pidfd, SIGKILL, NULL, 0);
                        (void)failure_set(&a->failure, "resources", -r, "the launcher can't watch the sandbox: %s", strerror(-r));
                        attempt_on_init(&a->init, 0);
                }
        }
        *ret_attempt = a;
        return 0;
}

int attempt_listed(const Attempt *a, Buf *b) {
        int r;

        r = launch_begin(b, LAUNCH_LISTED);
        if (!r)
                r = launch_add_id(b, LAUNCH_ATTR_ATTEMPT, &a->id);
        if (!r)
                r = launch_add_u32(b, LAUNCH_ATTR_PID, (uint32_t)a->pid);
        if (!r && a->execed_at_us)
                r = launch_add_u64(b, LAUNCH_ATTR_EXECED_AT, a->execed_at_us);
        return error_fold(r);
}

static int attempt_write_spawned(const Attempt *a, Buf *b) {
        int r;

        r = launch_begin(b, LAUNCH_SPAWNED);
        if (!r)
                r = launch_add_id(b, LAUNCH_ATTR_ATTEMPT, &a->id);
        if (!r)
                r = launch_add_u32(b, LAUNCH_ATTR_PID, (uint32_t)a->pid);
        if (!r)
                r = launch_add_u64(b, LAUNCH_ATTR_EXECED_AT, a->execed_at_us);
        return error_fold(r);
}

static int attempt_write_failed(const Attempt *a, Buf *b) {
        int r;

        r = launch_begin(b, LAUNCH_SPAWN_FAILED);
        if (!r)
                r = launch_add_id(b, LAUNCH_ATTR_ATTEMPT, &a->id);
        if (!r)
                r = launch_add_str(b, LAUNCH_ATTR_STAGE, a->failure.stage);
        if (!r)
                r = launch_add_u32(b, LAUNCH_ATTR_ERRNO, (uint32_t)a->failure.error);
        if (!r)
                r = launch_add_str(b, LAUNCH_ATTR_TEXT, a->failure.text);
        return error_fold(r);
}

static int attempt_write_output(Attempt *a, Buf *b, unsigned stream) {
        const Window *w = &a->streams[stream].window;
        const uint8_t *data = NULL;
        size_t n = window_peek(w, LAUNCH_OUTPUT_MAX, &data);
        int r;

        a->output_stream = stream;
        a->output_n = n;
        r = launch_begin(b, LAUNCH_OUTPUT);
        if (!r)
                r = launch_add_id(b, LAUNCH_ATTR_ATTEMPT, &a->id);
        if (!r)
                r = launch_add_u32(b, LAUNCH_ATTR_STREAM, stream + 1);
        if (!r)
                r = launch_add_u64(b, LAUNCH_ATTR_OFFSET, w->sent);
        if (!r)
                r = launch_add(b, LAUNCH_ATTR_DATA, data, n);
        return error_fold(r);
}

static int attempt_write_exited(const Attempt *a, Buf *b) {
        const struct {
                LaunchAttr attr;
                uint32_t value;
        } numbers[] = {
                { LAUNCH_ATTR_HOW, a->status.how },
                { LAUNCH_ATTR_VALUE, a->status.value },
                { LAUNCH_ATTR_OOM_KILLS, a->usage.oom_kills },
                { LAUNCH_ATTR_PIDS_HIT, a->usage.pids_hit },
                { LAUNCH_ATTR_KILLED, a->killed },
        };
        int r;

        r = launch_begin(b, LAUNCH_EXITED);
        if (!r)
                r = launch_add_id(b, LAUNCH_ATTR_ATTEMPT, &a->id);
        for (size_t i = 0; r == 0 && i < ELEMENTSOF(numbers); i++)
                r = launch_add_u32(b, numbers[i].attr, numbers[i].value);
        if (!r)
                r = launch_add_u64(b, LAUNCH_ATTR_MEMORY_PEAK, a->usage.memory_peak);
        if (!r)
                r = launch_add_u64(b, LAUNCH_ATTR_CPU_US, a->usage.cpu_us);
        if (!r)
                r = launch_add_u64(b, LAUNCH_ATTR_STDOUT_END, window_end(&a->streams[0].window));
        if (!r)
                r = launch_add_u64(b, LAUNCH_ATTR_STDERR_END, window_end(&a->streams[1].window));
        return error_fold(r);
}

int attempt_next(Attempt *a, Buf *b, AttemptMessage *ret_message, int *ret_fd) {
        *ret_fd = -1;
        *ret_message = ATTEMPT_NOTHING;
        if (a->state == ATTEMPT_STARTING || a->forgotten)
                return 0;
        if (a->state == ATTEMPT_FAILED) {
                *ret_message = ATTEMPT_SPAWN_FAILED;
                return error_trace(attempt_write_failed(a, b));
        }
        if (!a->spawned_sent) {
                *ret_message = ATTEMPT_SPAWNED;
                *ret_fd = a->pidfd;
                return error_trace(attempt_write_spawned(a, b));
        }
        for (unsigned i = 0; i < 2; i++)
                if (!window_is_sent(&a->streams[i].window)) {
                        *ret_message = ATTEMPT_OUTPUT;
                        return error_trace(attempt_write_output(a, b, i));
                }
        if (a->state == ATTEMPT_ENDED && !a->exited_sent) {
                *ret_message = ATTEMPT_EXITED;
                return error_trace(attempt_write_exited(a, b));
        }
        return 0;
}

void attempt_sent(Attempt *a, AttemptMessage message) {
        switch (message) {
        case ATTEMPT_SPAWNED:
                a->spawned_sent = true;
                break;
        case ATTEMPT_SPAWN_FAILED:
                /* Nobody asks for it any more; init may still be on its way out. */
                a->forgotten = true;
                if (a->reaped)
                        attempt_free(a);
                break;
        case ATTEMPT_OUTPUT:
                window_sent(&a->streams[a->output_stream].window, a->output_n);
                break;
        case ATTEMPT_EXITED:
                a->exited_sent = true;
                break;
        case ATTEMPT_NOTHING:
                break;
        }
}

#pragma once

/*
 * A scheduler over a real store and the simulated ring, and a launcher of the test's own at the other end of the
 * launcher's socket: it keeps its attempts over restarts of the router, as the real one does, and sends again what was
 * not acknowledged. world_crash() takes the router down as SIGKILL would: what had reached the store's files stays.
 */

#include "store/test-util.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/launch.h"
#include "reactor/ring-sim.h"
#include "sched/internal.h"

#define FAKE_ATTEMPTS_MAX 512

typedef struct FakeAttempt {
        Id id, task;
        char *agent;
        char *prompt;
        Buf out[2];                     /* all that it printed */
        uint64_t acked[2], sent[2];     /* of this connection */
        bool answered;                  /* SPAWNED or SPAWN_FAILED was said */
        bool spawned;
        bool exited;
        bool exit_said;                 /* on this connection */
        bool forgotten;
        bool killed;
        unsigned n_kills;
        uint32_t grace_ms;
        uint32_t how, value, pids_hit;
        uint64_t execed_us;
        uint64_t gpus;                  /* bit i: it holds GPU i */
        unsigned n_spawns;              /* SPAWNs heard */
} FakeAttempt;

typedef struct FakeLauncher {
        int fd;
        Id generation;
        bool down;                      /* refuses connections */
        bool silent;                    /* says nothing about attempts */
        bool auto_spawn;                /* answers a SPAWN at once */
        bool obey_kill;                 /* a killed attempt exits by SIGTERM */
        bool deaf;                      /* a SPAWN gets lost with the connection */
        bool list_unended;              /* dies before the end of its LIST */
        uint32_t n_gpus, gpu_shares;    /* the machine that it tells of */
        uint32_t cpus;
        uint64_t memory;
        size_t chunk;                   /* bytes of an OUTPUT; 0: LAUNCH_OUTPUT_MAX */
        FakeAttempt *attempts[FAKE_ATTEMPTS_MAX];       /* in the order of their first SPAWN */
        size_t n;
} FakeLauncher;

typedef struct World {
        char dir[64];
        Reactor *reactor;
        Store *store;
        Metrics *metrics;
        Sched *sched;
        LauncherClient *client;
        bool client_closed;
        FakeLauncher launcher;
        SchedConfig config;
        const char *const *manifests;   /* NULL-terminated */
        uint64_t random;
        char detail[SCHED_DETAIL_MAX];
        uint64_t monotonic_us, realtime_us;     /* when it was stopped: the time goes on from there */
        void (*poll)(struct World *w);  /* the test's own part of a step */
        void (*opened)(struct World *w);        /* the store is open, and the scheduler not yet there */
        void *userdata;
} World;

#define MANIFEST_TEXT                                                                                                  \
        "version: 1\nname: text\ntitle: Text\ninstall: none\ncapabilities: [echo]\nconcurrency: 3\n"                   \
        "command: {find: [/bin/sh]}\nlimits: {inactivity: 10min, grace: 3s}\noutput: {format: text}\n"
#define MANIFEST_JSON                                                                                                  \
        "version: 1\nname: json\ntitle: Json\ninstall: none\ncapabilities: [code]\nconcurrency: 100\n"                 \
        "command: {find: [/bin/sh]}\noutput:\n  format: json-lines\n  events:\n"                                       \
        "    - {match: {/type: session}, session: /id}\n"                                                              \
        "    - {match: {/type: text}, emit: text, data: {text: /text}, answer: join}\n"                                \
        "    - {match: {/type: tool}, emit: tool_call, data: {name: /name}}\n"                                         \
        "    - {match: {/type: error}, emit: error, data: {message: /message, status: /status}}\n"                     \
        "    - match: {/type: done}\n      usage: {input_tokens: /in, output_tokens: /out}\n      success: yes\n"

#define MANIFEST_OTHER                                                                                                 \
        "version: 1\nname: other\ntitle: Other\ninstall: none\ncapabilities: [code]\nconcurrency: 100\n"               \
        "command: {find: [/bin/sh]}\noutput: {format: text}\n"

/* The client's userdata is the Sched: its callbacks find the test by this. */
static World *the_world;

static const char *const world_manifests[] = { MANIFEST_TEXT, MANIFEST_JSON, NULL };

/* ---- the launcher ---- */

static inline void fake_send(FakeLauncher *l, Buf *message, int fd) {
        struct iovec iov = { .iov_base = buf_data(message), .iov_len = buf_size(message) };
        union { char space[CMSG_SPACE(sizeof(int))]; struct cmsghdr header; } control = {};
        struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

        if (fd >= 0) {
                m.msg_control = control.space;
                m.msg_controllen = sizeof(control.space);
                struct cmsghdr *c = CMSG_FIRSTHDR(&m);
                *c = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
                                       .cmsg_type = SCM_RIGHTS,
                                       .cmsg_len = CMSG_LEN(sizeof(int)) };
                memcpy(CMSG_DATA(c), &fd, sizeof(int));
        }
        if (l->fd >= 0 && sendmsg(l->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
                assert_true(errno == EPIPE || errno == ECONNRESET);
        buf_deinit(message);
}

static inline void fake_begin(Buf *message, LaunchType type, const FakeAttempt *a) {
        *message = (Buf)BUF_INIT(LAUNCH_MESSAGE_MAX);
        assert_int_equal(launch_begin(message, type), 0);
        if (a)
                assert_int_equal(launch_add_id(message, LAUNCH_ATTR_ATTEMPT, &a->id), 0);
}

#define add_u32(m, attr, v) assert_int_equal(launch_add_u32(&(m), (attr), (v)), 0)
#define add_u64(m, attr, v) assert_int_equal(launch_add_u64(&(m), (attr), (v)), 0)

static inline void fake_spawned(FakeLauncher *l, FakeAttempt *a) {
        Buf m;

        a->answered = a->spawned = true;
        a->execed_us = clock_monotonic_us();
        fake_begin(&m, LAUNCH_SPAWNED, a);
        add_u32(m, LAUNCH_ATTR_PID, 42);
        add_u64(m, LAUNCH_ATTR_EXECED_AT, a->execed_us);
        fake_send(l, &m, -1);
}

static inline void fake_spawn_failed(FakeLauncher *l, FakeAttempt *a, const char *stage, uint32_t error) {
        Buf m;

        a->answered = a->forgotten = true;
        fake_begin(&m, LAUNCH_SPAWN_FAILED, a);
        assert_int_equal(launch_add_str(&m, LAUNCH_ATTR_STAGE, stage), 0);
        add_u32(m, LAUNCH_ATTR_ERRNO, error);
        assert_int_equal(launch_add_str(&m, LAUNCH_ATTR_TEXT, "the test refuses it"), 0);
        fake_send(l, &m, -1);
}

static inline void fake_print(FakeAttempt *a, unsigned stream, const char *text) {
        assert_int_equal(buf_append_str(&a->out[stream - 1], text), 0);
}

static inline void fake_exit(FakeAttempt *a, LaunchHow how, uint32_t value) {
        a->exited = true;
        a->how = how;
        a->value = value;
}

/* The first that is not forgotten wins: an id is spawned anew only where the launcher knows it no more. */
static inline FakeAttempt *fake_find(FakeLauncher *l, const Id *id) {
        for (size_t i = l->n; i > 0; i--)
                if (id_equal(&l->attempts[i - 1]->id, id))
                        return l->attempts[i - 1];
        return NULL;
}

static inline void fake_say_list(FakeLauncher *l) {
        Buf m;

        for (size_t i = 0; i < l->n; i++) {
                FakeAttempt *a = l->attempts[i];
                if (a->forgotten)
                        continue;
                memcpy(a->sent, a->acked, sizeof(a->sent));
                a->exit_said = false;
                fake_begin(&m, LAUNCH_LISTED, a);
                if (a->spawned) {
                        add_u32(m, LAUNCH_ATTR_PID, 42);
                        add_u64(m, LAUNCH_ATTR_EXECED_AT, a->execed_us);
                }
                fake_send(l, &m, -1);
        }
        if (l->list_unended)
                return;
        fake_begin(&m, LAUNCH_LIST_END, NULL);
        fake_send(l, &m, -1);
}

static inline void fake_kill(FakeLauncher *l, FakeAttempt *a, uint32_t grace_ms) {
        a->n_kills++;
        a->grace_ms = grace_ms;
        if (a->exited || !l->obey_kill)
                return;
        /* Started, in any case: who asked for it hears so before it hears of the end. */
        if (!a->answered)
                fake_spawned(l, a);
        a->killed = true;
        fake_exit(a, LAUNCH_HOW_SIGNALLED, 15);
}

static inline void fake_hear(FakeLauncher *l, const uint8_t *data, size_t n, int fd) {
        _cleanup_free_ char *agent = NULL;
        uint32_t stream = 0, grace = 0;
        FakeAttempt *a = NULL;
        LaunchReader reader;
        const uint8_t *value;
        uint64_t offset = 0, gpus = 0;
        Id id = {}, task = {};
        LaunchAttr attr;
        size_t n_value;
        Buf m;

        assert_int_equal(launch_open(&reader, data, n), 0);
        while (launch_next(&reader, &attr, &value, &n_value) == 0) {
                if (attr == LAUNCH_ATTR_ATTEMPT)
                        assert_true(launch_id(value, n_value, &id));
                else if (attr == LAUNCH_ATTR_TASK)
                        assert_true(launch_id(value, n_value, &task));
                else if (attr == LAUNCH_ATTR_AGENT)
                        assert_true(launch_str(value, n_value, &agent));
                else if (attr == LAUNCH_ATTR_STREAM)
                        assert_true(launch_u32(value, n_value, &stream));
                else if (attr == LAUNCH_ATTR_OFFSET)
                        assert_true(launch_u64(value, n_value, &offset));
                else if (attr == LAUNCH_ATTR_GRACE_MS)
                        assert_true(launch_u32(value, n_value, &grace));
                else if (attr == LAUNCH_ATTR_GPU) {
                        uint32_t gpu;
                        assert_true(launch_u32(value, n_value, &gpu));
                        gpus |= UINT64_C(1) << gpu;
                }
        }
        a = fake_find(l, &id);
        switch (reader.type) {
        case LAUNCH_HELLO:
                fake_begin(&m, LAUNCH_HELLO, NULL);
                add_u32(m, LAUNCH_ATTR_VERSION, LAUNCH_VERSION);
                add_u32(m, LAUNCH_ATTR_VERSION_MIN, LAUNCH_VERSION_MIN);
                assert_int_equal(launch_add_id(&m, LAUNCH_ATTR_GENERATION, &l->generation), 0);
                for (uint32_t i = 0; i < l->n_gpus; i++)
                        assert_int_equal(launch_add_gpu(&m, &(LaunchGpu){ .index = i, .shares = l->gpu_shares ?: 1,
                                                                          .name = "a GPU" }), 0);
                if (l->cpus) {
                        add_u32(m, LAUNCH_ATTR_CPUS, l->cpus);
                        add_u64(m, LAUNCH_ATTR_MEMORY, l->memory);
                }
                fake_send(l, &m, -1);
                break;
        case LAUNCH_LIST:
                fake_say_list(l);
                break;
        case LAUNCH_SPAWN:
                if (l->deaf)
                        break;
                if (!a || a->forgotten) {
                        assert_true(l->n < FAKE_ATTEMPTS_MAX);
                        a = l->attempts[l->n++] = calloc(1, sizeof(*a));
                        a->id = id;
                        a->task = task;
                        a->agent = steal_ptr(&agent);
                        a->gpus = gpus;
                        size_t n_prompt;
                        assert_true(fd >= 0);
                        assert_int_equal(fd_read_all(fd, MIB(8), &a->prompt, &n_prompt), 0);
                }
                a->n_spawns++;
                if (l->auto_spawn && !a->answered)
                        fake_spawned(l, a);
                break;
        case LAUNCH_ACK:
                assert_non_null(a);
                /* Never of what was not sent. */
                assert_true(offset <= a->sent[stream - 1]);
                a->acked[stream - 1] = MAX(a->acked[stream - 1], offset);
                break;
        case LAUNCH_KILL:
                if (a)
                        fake_kill(l, a, grace);
                break;
        case LAUNCH_FORGET:
                assert_non_null(a);
                assert_true(a->exited);
                a->forgotten = true;
                break;
        default:
                fail_msg("unexpected message %d", reader.type);
        }
}

static inline void fake_say_output(FakeLauncher *l, FakeAttempt *a) {
        bool all = true;
        Buf m;

        for (unsigned i = 0; i < 2; i++)
                for (;;) {
                        size_t end = MIN(buf_size(&a->out[i]), a->acked[i] + LAUNCH_WINDOW);
                        size_t n = end > a->sent[i] ? end - a->sent[i] : 0;
                        int queued = 0;
                        n = MIN(n, l->chunk ?: (size_t)LAUNCH_OUTPUT_MAX);
                        if (!n) {
                                all &= a->sent[i] == buf_size(&a->out[i]);
                                break;
                        }
                        /* The real launcher waits for the socket; this one says the rest in a later step. */
                        if (ioctl(l->fd, SIOCOUTQ, &queued) < 0 || queued > 60000) {
                                all = false;
                                break;
                        }
                        fake_begin(&m, LAUNCH_OUTPUT, a);
                        add_u32(m, LAUNCH_ATTR_STREAM, i + 1);
                        add_u64(m, LAUNCH_ATTR_OFFSET, a->sent[i]);
                        assert_int_equal(launch_add(&m, LAUNCH_ATTR_DATA, buf_data(&a->out[i]) + a->sent[i], n), 0);
                        fake_send(l, &m, -1);
                        a->sent[i] += n;
                }
        if (!a->exited || !all || a->exit_said)
                return;
        a->exit_said = true;
        fake_begin(&m, LAUNCH_EXITED, a);
        add_u32(m, LAUNCH_ATTR_HOW, a->how);
        add_u32(m, LAUNCH_ATTR_VALUE, a->value);
        add_u64(m, LAUNCH_ATTR_STDOUT_END, buf_size(&a->out[0]));
        add_u64(m, LAUNCH_ATTR_STDERR_END, buf_size(&a->out[1]));
        add_u32(m, LAUNCH_ATTR_PIDS_HIT, a->pids_hit);
        add_u32(m, LAUNCH_ATTR_KILLED, a->killed);
        fake_send(l, &m, -1);
}

static inline void fake_hang_up(FakeLauncher *l) {
        fd_close(steal_fd(&l->fd));
}

/* A new launcher: the attempts of the old one died with it. */
static inline void fake_restart(FakeLauncher *l) {
        fake_hang_up(l);
        for (size_t i = 0; i < l->n; i++)
                l->attempts[i]->forgotten = true;
        l->generation = test_id();
}

static inline void fake_step(FakeLauncher *l) {
        static uint8_t data[LAUNCH_MESSAGE_MAX];

        while (l->fd >= 0) {
                union { char space[CMSG_SPACE(4 * sizeof(int))]; struct cmsghdr header; } control = {};
                struct iovec iov = { .iov_base = data, .iov_len = sizeof(data) };
                struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space,
                                    .msg_controllen = sizeof(control.space) };
                ssize_t n = recvmsg(l->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
                struct cmsghdr *c = CMSG_FIRSTHDR(&m);
                _cleanup_close_ int fd = -1;
                if (n < 0 && errno == EAGAIN)
                        break;
                if (n <= 0) {
                        fake_hang_up(l);
                        break;
                }
                if (c && c->cmsg_type == SCM_RIGHTS)
                        memcpy(&fd, CMSG_DATA(c), sizeof(fd));
                fake_hear(l, data, (size_t)n, fd);
        }
        for (size_t i = 0; l->fd >= 0 && !l->silent && i < l->n; i++)
                if (l->attempts[i]->spawned && !l->attempts[i]->forgotten)
                        fake_say_output(l, l->attempts[i]);
}

static inline int fake_connect(void *userdata) {
        FakeLauncher *l = &the_world->launcher;
        int fds[2];

        if (l->down)
                return -ECONNREFUSED;
        fake_hang_up(l);
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
        l->fd = fds[0];
        return fds[1];
}

/* ---- the router ---- */

static inline void world_step(World *w) {
        if (w->poll)
                w->poll(w);
        fake_step(&w->launcher);
        assert_int_equal(reactor_tick(w->reactor, USEC_PER_MSEC), 0);
}

/* Steps until the condition holds; five minutes of the virtual clock without it: failure. */
#define world_run_until(w, condition)                                                                   \
        do {                                                                                            \
                uint64_t _start_us = clock_monotonic_us();                                              \
                while (!(condition)) {                                                                  \
                        world_step(w);                                                                  \
                        if (clock_monotonic_us() > _start_us + 300 * USEC_PER_SEC)                     \
                                fail_msg("never: %s", #condition);                                      \
                }                                                                                       \
        } while (0)

/* Lets everything that is under way come to rest, and then time pass. */
static inline void world_pass(World *w, uint64_t us) {
        uint64_t end_us = clock_monotonic_us() + us;

        while (clock_monotonic_us() < end_us) {
                if (w->poll)
                        w->poll(w);
                fake_step(&w->launcher);
                assert_int_equal(
                        reactor_tick(w->reactor, MIN(end_us - clock_monotonic_us(), MAX(us / 64, USEC_PER_MSEC))), 0);
        }
}

static inline Adapter *load_manifest_of(const char *text, const char *account) {
        char directory[] = "/tmp/test-sched-XXXXXX", error[YAML_ERROR_MAX] = "", name[64] = "";
        _cleanup_close_ int dir_fd = -1, fd = -1;
        AdapterConfig config = { .name = name, .account = (char *)account };
        Adapter *a = NULL;

        assert_int_equal(sscanf(strstr(text, "name: "), "name: %63s", name), 1);
        assert_non_null(mkdtemp(directory));
        dir_fd = open(directory, O_DIRECTORY | O_CLOEXEC);
        fd = openat(dir_fd, "agent.yaml", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
        if (adapter_load(&a, dir_fd, "agent.yaml", &config, error))
                fail_msg("%s", error);
        assert_int_equal(adapter_probe(a), 0);
        assert_int_equal(unlinkat(dir_fd, "agent.yaml", 0), 0);
        assert_int_equal(rmdir(directory), 0);
        return a;
}

static inline Adapter *load_manifest(const char *text) {
        return load_manifest_of(text, NULL);
}

static inline void world_start(World *w) {
        char refused[STORE_REFUSED_MAX] = "";

        assert_int_equal(reactor_new(&w->reactor), 0);
        if (w->realtime_us)
                clock_freeze(w->monotonic_us, w->realtime_us);
        assert_int_equal(reactor_enable(w->reactor), 0);
        if (store_open(&w->store, w->reactor, w->dir, test_key, refused))
                fail_msg("%s", refused);
        if (w->opened)
                w->opened(w);
        assert_int_equal(metrics_new(&w->metrics), 0);
        assert_int_equal(sched_new(&w->sched, w->reactor, w->store, w->metrics, &w->config), 0);
        for (size_t i = 0; w->manifests[i]; i++)
                assert_int_equal(sched_add_agent_take(w->sched, load_manifest(w->manifests[i])), 0);
        assert_int_equal(sched_recover(w->sched), 0);
        assert_int_equal(launcher_client_new(&w->client, w->reactor, &sched_launcher_vtable, w->sched, fake_connect),
                         0);
        sched_set_launcher(w->sched, w->client);
        launcher_client_start(w->client);
}

static inline void on_world_client_closed(LauncherClient *client) {
        the_world->client_closed = true;
}

static inline void world_init(World *w, uint64_t seed) {
        const RingSimOptions options = RING_SIM_LIVELY(seed);

        *w = (World){
                .config = {
                        .running_max = 10, .queued_max = 1000, .queued_per_principal_max = 1000,
                        .timeout_us = 600 * USEC_PER_SEC, .max_attempts = 1, .backoff_us = USEC_PER_SEC,
                        .capture_max = MIB(8),
                },
                .launcher = { .fd = -1, .auto_spawn = true, .obey_kill = true },
                .manifests = world_manifests,
                .random = seed,
        };
        log_set_max_level(LOG_EMERG);
        clock_freeze(1000 * USEC_PER_SEC, UINT64_C(1700000000) * USEC_PER_SEC);
        ring_sim_configure(&options);
        w->launcher.generation = test_id();
        the_world = w;
        fixture_make_dir(w->dir);
        world_start(w);
}

/* The router's end without the store's close, where `copy` is the state of its files. */
static inline void world_stop(World *w) {
        bool down = w->launcher.down;

        fake_hang_up(&w->launcher);
        w->launcher.down = true;
        w->client_closed = false;
        sched_stop(w->sched);
        launcher_client_close(w->client, on_world_client_closed);
        while (!w->client_closed)
                assert_int_equal(reactor_tick(w->reactor, USEC_PER_MSEC), 0);
        w->store = store_close(w->store);
        w->sched = sched_free(w->sched);
        w->client = launcher_client_free(w->client);
        w->metrics = metrics_free(w->metrics);
        w->monotonic_us = clock_monotonic_us();
        w->realtime_us = clock_realtime_us();
        w->reactor = reactor_free(w->reactor);
        w->launcher.down = down;
}

static inline void world_crash(World *w) {
        char copy[64];

        fixture_make_dir(copy);
        copy_dir(w->dir, copy);
        world_stop(w);
        copy_dir(copy, w->dir);
        fixture_remove_dir(copy);
        world_start(w);
}

static inline void fake_deinit(FakeLauncher *l) {
        fake_hang_up(l);
        for (size_t i = 0; i < l->n; i++) {
                free(l->attempts[i]->agent);
                free(l->attempts[i]->prompt);
                buf_deinit(&l->attempts[i]->out[0]);
                buf_deinit(&l->attempts[i]->out[1]);
                free(l->attempts[i]);
        }
        l->n = 0;
}

static inline void world_deinit(World *w) {
        world_stop(w);
        fake_deinit(&w->launcher);
        fixture_remove_dir(w->dir);
        clock_freeze(0, 0);
        ring_sim_configure(&(RingSimOptions){ .seed = 1 });
}

/* ---- tasks ---- */

typedef struct TaskSpec {
        const char *agent;
        const char *principal;
        const char *prompt;
        uint32_t priority;
        uint64_t timeout_us;
        uint64_t delay_us;
        uint32_t max_attempts;
        uint64_t backoff_us;
        const char *request;            /* JSON, as the API stores it */
        const char *group;
        uint64_t deadline_us;           /* from now */
        const char *const *capabilities;
        Id batch;
        const Id *after;
        size_t n_after;
        StoreCondition on;
        StoreUnmet on_unmet;
        uint32_t gpus;
        uint32_t cpus_milli;
        uint64_t memory;
        uint64_t max_tokens;
} TaskSpec;

static inline StoreTask *world_task(const TaskSpec *spec) {
        StoreTask *task = calloc(1, sizeof(*task));

        task->id = test_id();
        task->principal = strdup(spec->principal ?: "uid:1");
        task->run_as_uid = -1;
        task->agent = spec->agent ? strdup(spec->agent) : NULL;
        task->priority = spec->priority;
        task->prompt = strdup(spec->prompt ?: "say hello");
        task->n_prompt = strlen(task->prompt);
        task->request = strdup(spec->request ?: "{}");
        task->timeout_us = spec->timeout_us;
        task->not_before_us = spec->delay_us ? clock_realtime_us() + spec->delay_us : 0;
        task->max_attempts = spec->max_attempts;
        task->backoff_us = spec->backoff_us;
        task->usage = (StoreUsage)STORE_USAGE_UNKNOWN;
        task->group = spec->group ? strdup(spec->group) : NULL;
        task->deadline_us = spec->deadline_us ? clock_realtime_us() + spec->deadline_us : 0;
        task->batch = spec->batch;
        task->on_unmet = (uint8_t)spec->on_unmet;
        task->gpus = spec->gpus;
        task->cpus_milli = spec->cpus_milli;
        task->memory = spec->memory;
        task->max_tokens = spec->max_tokens;
        return task;
}

static inline int world_try_submit(World *w, const TaskSpec *spec, Id *ret_id) {
        StoreTask *task = world_task(spec);
        SchedTask *t = NULL;
        int r, e;

        *ret_id = task->id;
        r = store_begin(w->store);
        if (!r) {
                const SchedRequest request = { .capabilities = spec->capabilities, .after = spec->after,
                                               .n_after = spec->n_after, .on = spec->on };
                r = sched_submit(w->sched, task, &request, &t, w->detail);
                e = store_end(w->store, r == 0);
                r = r ?: e;
        }
        if (t)
                sched_submitted(t, r == 0);
        store_task_free(task);
        return r;
}

static inline Id world_submit(World *w, const TaskSpec *spec) {
        Id id;

        assert_int_equal(world_try_submit(w, spec, &id), 0);
        return id;
}

static inline int world_cancel(World *w, const Id *id) {
        int r, e;

        r = store_begin(w->store);
        if (r)
                return r;
        r = sched_cancel(w->sched, id);
        e = store_end(w->store, r == 0);
        return r ?: e;
}

static inline StoreTask *world_load(World *w, const Id *id) {
        StoreTask *task = NULL;

        assert_int_equal(store_task_load(w->store, id, STORE_TASK_RESULT, &task), 0);
        return task;
}

static inline TaskState world_state(World *w, const Id *id) {
        _cleanup_(store_task_freep) StoreTask *task = world_load(w, id);

        return task->state;
}

static inline bool world_is_final(World *w, const Id *id) {
        return task_state_is_final(world_state(w, id));
}

static inline int describe_event(const StoreEvent *e, void *userdata) {
        return buf_printf(userdata, "%s %.*s\n", e->type, (int)e->n_data, e->data);
}

/* "type data" lines of the task's events; the caller frees. Not inlined: GCC 12 then takes it for a pointer to `s`. */
__attribute__((__noinline__)) _unused_ static char *world_events(World *w, const Id *id) {
        Buf b = BUF_NULL;
        char *s = NULL;

        assert_int_equal(store_event_list(w->store, id, 0, 100000, describe_event, &b), 0);
        assert_int_equal(buf_take_str(&b, &s), 0);
        return s;
}

/* Waits for the nth attempt's SPAWN. */
static inline FakeAttempt *world_spawned(World *w, size_t n) {
        world_run_until(w, w->launcher.n > n);
        return w->launcher.attempts[n];
}

static inline void world_finish(World *w, const Id *id) {
        world_run_until(w, world_is_final(w, id) && sched_stats(w->sched).n_live == 0);
}

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/fd.h"
#include "reactor/test-util.h"
#include "worker/internal.h"

/*
 * The client against a launcher of this test's own: the other end of a socketpair, on the same reactor. What the client
 * says is written into `heard`, what its owner is told into `told`, one word a message.
 */

#define OFFSETS_NONE ((const uint64_t[2]){ 0, 0 })

typedef struct Fixture {
        Reactor *reactor;
        LauncherClient *client;
        bool client_closed;
        /* the launcher */
        PacketSocket socket;
        bool connected;                 /* a socket is open here */
        bool gone;                      /* the client closed its end */
        unsigned n_connects;
        int refuse_connect;             /* -errno of the next connects */
        bool auto_hello, auto_list;     /* answers by itself */
        uint32_t version, version_min;
        Id generation;
        const Id *listed[4];
        uint64_t listed_execed_at;
        char heard[4096];
        int stdin_fd;
        /* the owner */
        char told[4096];
        char output[2][4096];
        size_t n_output[2];
        int lost_error;
        WorkerExit exit;
        const Id *adopt[4];
        uint64_t adopt_offset[2];
        bool forget_on_exit;
        bool free_on_failure;
} Fixture;

static void say(char *to, size_t size, const char *format, ...) _printf_(3, 4);
static void say(char *to, size_t size, const char *format, ...) {
        size_t n = strlen(to);
        va_list ap;

        va_start(ap, format);
        assert_true((size_t)vsnprintf(to + n, size - n, format, ap) < size - n);
        va_end(ap);
}

#define told(f, ...) say((f)->told, sizeof((f)->told), __VA_ARGS__)

/* ---- the launcher ---- */

static Buf message = BUF_INIT(LAUNCH_MESSAGE_MAX);

static void begin(LaunchType type, const Id *attempt) {
        buf_clear(&message);
        assert_int_equal(launch_begin(&message, type), 0);
        if (attempt)
                assert_int_equal(launch_add_id(&message, LAUNCH_ATTR_ATTEMPT, attempt), 0);
}

static void add_u32(LaunchAttr attr, uint32_t v) {
        assert_int_equal(launch_add_u32(&message, attr, v), 0);
}

static void add_u64(LaunchAttr attr, uint64_t v) {
        assert_int_equal(launch_add_u64(&message, attr, v), 0);
}

static void add_str(LaunchAttr attr, const char *s) {
        assert_int_equal(launch_add_str(&message, attr, s), 0);
}

static void finish(Fixture *f) {
        assert_int_equal(packet_send(&f->socket, buf_data(&message), buf_size(&message), NULL, 0), 0);
}

static void say_hello(Fixture *f) {
        begin(LAUNCH_HELLO, NULL);
        add_u32(LAUNCH_ATTR_VERSION, f->version);
        add_u32(LAUNCH_ATTR_VERSION_MIN, f->version_min);
        assert_int_equal(launch_add_id(&message, LAUNCH_ATTR_GENERATION, &f->generation), 0);
        add_str(LAUNCH_ATTR_CAPABILITY, "landlock.4");
        add_str(LAUNCH_ATTR_CAPABILITY, "seccomp");
        add_str(LAUNCH_ATTR_ABSENT, "cgroup: no cgroup v2 here; mount one");
        /* An attribute of a later version is skipped. */
        assert_int_equal(launch_add(&message, (LaunchAttr)300, "xyz", 3), 0);
        finish(f);
}

static void say_listed(Fixture *f, const Id *attempt) {
        begin(LAUNCH_LISTED, attempt);
        add_u32(LAUNCH_ATTR_PID, 42);
        if (f->listed_execed_at)
                add_u64(LAUNCH_ATTR_EXECED_AT, f->listed_execed_at);
        finish(f);
}

static void say_list(Fixture *f) {
        for (size_t i = 0; i < ELEMENTSOF(f->listed) && f->listed[i]; i++)
                say_listed(f, f->listed[i]);
        begin(LAUNCH_LIST_END, NULL);
        finish(f);
}

static void say_spawned(Fixture *f, const Id *attempt) {
        int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);

        assert_true(fd >= 0);
        begin(LAUNCH_SPAWNED, attempt);
        add_u32(LAUNCH_ATTR_PID, 42);
        add_u64(LAUNCH_ATTR_EXECED_AT, 7);
        assert_int_equal(packet_send(&f->socket, buf_data(&message), buf_size(&message), &fd, 1), 0);
}

static void say_output(Fixture *f, const Id *attempt, uint32_t stream, uint64_t offset, const char *data) {
        begin(LAUNCH_OUTPUT, attempt);
        add_u32(LAUNCH_ATTR_STREAM, stream);
        add_u64(LAUNCH_ATTR_OFFSET, offset);
        add_str(LAUNCH_ATTR_DATA, data);
        finish(f);
}

static void say_exited(Fixture *f, const Id *attempt, uint32_t value, uint64_t stdout_end) {
        begin(LAUNCH_EXITED, attempt);
        add_u32(LAUNCH_ATTR_HOW, LAUNCH_HOW_EXITED);
        add_u32(LAUNCH_ATTR_VALUE, value);
        add_u64(LAUNCH_ATTR_STDOUT_END, stdout_end);
        add_u64(LAUNCH_ATTR_STDERR_END, 0);
        add_u32(LAUNCH_ATTR_OOM_KILLS, 1);
        add_u64(LAUNCH_ATTR_MEMORY_PEAK, 4096);
        add_u64(LAUNCH_ATTR_CPU_US, 99);
        add_u32(LAUNCH_ATTR_KILLED, 1);
        finish(f);
}

/* "SPAWN 1", "ACK 1 stdout 5": attempts by their first byte. */
static void hear(Fixture *f, const uint8_t *data, size_t n) {
        static const char *const names[] = {
                [LAUNCH_HELLO] = "HELLO", [LAUNCH_LIST] = "LIST", [LAUNCH_SPAWN] = "SPAWN", [LAUNCH_ACK] = "ACK",
                [LAUNCH_KILL] = "KILL", [LAUNCH_FORGET] = "FORGET",
        };
        LaunchReader reader;
        const uint8_t *value;
        LaunchAttr attr;
        size_t n_value;

        assert_int_equal(launch_open(&reader, data, n), 0);
        assert_true(reader.type < ELEMENTSOF(names) && names[reader.type]);
        say(f->heard, sizeof(f->heard), "%s", names[reader.type]);
        while (launch_next(&reader, &attr, &value, &n_value) == 0) {
                uint32_t u32 = 0;
                uint64_t u64 = 0;
                switch (attr) {
                case LAUNCH_ATTR_ATTEMPT:
                        say(f->heard, sizeof(f->heard), " %u", value[0]);
                        break;
                case LAUNCH_ATTR_ARGV:
                case LAUNCH_ATTR_ENV:
                case LAUNCH_ATTR_ENV_CREDENTIAL:
                case LAUNCH_ATTR_READ_ONLY:
                case LAUNCH_ATTR_REQUIRE:
                case LAUNCH_ATTR_WORKSPACE:
                case LAUNCH_ATTR_SECCOMP:
                        say(f->heard, sizeof(f->heard), " %.*s", (int)n_value, (const char *)value);
                        break;
                case LAUNCH_ATTR_HOME_FILE:
                        assert_true(n_value > 4);
                        memcpy(&u32, value, sizeof(u32));
                        say(f->heard, sizeof(f->heard), " %o:%s:%.*s", u32, (const char *)value + 4,
                            (int)(n_value - 5 - strlen((const char *)value + 4)),
                            (const char *)value + 5 + strlen((const char *)value + 4));
                        break;
                case LAUNCH_ATTR_MEMORY_MAX:
                case LAUNCH_ATTR_OFFSET:
                        assert_true(launch_u64(value, n_value, &u64));
                        say(f->heard, sizeof(f->heard), " %llu", (unsigned long long)u64);
                        break;
                case LAUNCH_ATTR_STREAM:
                        assert_true(launch_u32(value, n_value, &u32));
                        say(f->heard, sizeof(f->heard), u32 == 1 ? " stdout" : " stderr");
                        break;
                case LAUNCH_ATTR_UID:
                case LAUNCH_ATTR_PIDS_MAX:
                case LAUNCH_ATTR_CPU_PERCENT:
                case LAUNCH_ATTR_NETWORK:
                case LAUNCH_ATTR_GRACE_MS:
                        assert_true(launch_u32(value, n_value, &u32));
                        say(f->heard, sizeof(f->heard), " %u", u32);
                        break;
                default:
                        break;
                }
        }
        say(f->heard, sizeof(f->heard), "\n");
        if (reader.type == LAUNCH_HELLO && f->auto_hello)
                say_hello(f);
        if (reader.type == LAUNCH_LIST && f->auto_list)
                say_list(f);
}

static void launcher_on_packet(PacketSocket *socket, const uint8_t *data, size_t n, int *fds, size_t n_fds) {
        Fixture *f = container_of(socket, Fixture, socket);

        if (n == 0) {
                f->gone = true;
                packet_close(socket);
                return;
        }
        if (n_fds > 0) {
                fd_close(f->stdin_fd);
                f->stdin_fd = steal_fd(&fds[0]);
        }
        hear(f, data, n);
}

static void launcher_on_error(PacketSocket *socket, int error) {
        container_of(socket, Fixture, socket)->gone = true;
        packet_close(socket);
}

static void launcher_on_closed(PacketSocket *socket) {
        container_of(socket, Fixture, socket)->connected = false;
}

static int connect_launcher(void *userdata) {
        Fixture *f = userdata;
        int fds[2];

        f->n_connects++;
        if (f->refuse_connect)
                return f->refuse_connect;
        if (f->connected)
                return -EAGAIN; /* this test's end of the old one is still closing */
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
        assert_int_equal(packet_init_take(&f->socket, f->reactor, fds[0], 0), 0);
        f->socket.on_packet = launcher_on_packet;
        f->socket.on_error = launcher_on_error;
        f->socket.on_closed = launcher_on_closed;
        f->connected = true;
        f->gone = false;
        packet_start(&f->socket);
        return fds[1];
}

/* ---- the owner ---- */

static void on_ready(LauncherClient *client, const Id *generation) {
        Fixture *f = launcher_client_userdata(client);

        told(f, "ready %u\n", generation->bytes[0]);
}

static Worker *on_listed(LauncherClient *client, const Id *attempt, uint32_t pid) {
        Fixture *f = launcher_client_userdata(client);
        Worker *w = worker_find(client, attempt);

        told(f, "listed %u\n", attempt->bytes[0]);
        for (size_t i = 0; !w && i < ELEMENTSOF(f->adopt) && f->adopt[i]; i++)
                if (id_equal(f->adopt[i], attempt))
                        assert_int_equal(worker_adopt(client, attempt, f->adopt_offset, f, &w), 0);
        return w;
}

static void on_spawned(Worker *w, uint64_t execed_at_us) {
        told((Fixture *)w->userdata, "spawned %u at %llu pid %u\n", w->attempt.bytes[0],
             (unsigned long long)execed_at_us, w->pid);
}

static void on_spawn_failed(Worker *w, const char *stage, int error, const char *text) {
        Fixture *f = w->userdata;

        told(f, "failed %u %s %d %s\n", w->attempt.bytes[0], stage, error, text);
        if (f->free_on_failure)
                worker_free(w);
}

static void on_output(Worker *w, unsigned stream, uint64_t offset, const uint8_t *data, size_t n) {
        Fixture *f = w->userdata;

        told(f, "output %u %u %llu %zu\n", w->attempt.bytes[0], stream, (unsigned long long)offset, n);
        assert_true(f->n_output[stream - 1] + n < sizeof(f->output[0]));
        memcpy(f->output[stream - 1] + f->n_output[stream - 1], data, n);
        f->n_output[stream - 1] += n;
}

static void on_exited(Worker *w, const WorkerExit *record) {
        Fixture *f = w->userdata;

        f->exit = *record;
        told(f, "exited %u %u\n", w->attempt.bytes[0], record->value);
        if (f->forget_on_exit)
                worker_forget(w);
}

static void on_lost(LauncherClient *client, int error) {
        Fixture *f = launcher_client_userdata(client);

        f->lost_error = error;
        told(f, "lost\n");
}

static const LauncherVtable vtable = {
        .on_ready = on_ready,
        .on_listed = on_listed,
        .on_spawned = on_spawned,
        .on_spawn_failed = on_spawn_failed,
        .on_output = on_output,
        .on_exited = on_exited,
        .on_lost = on_lost,
};

/* ---- the fixture ---- */

static Id attempt_id(uint8_t n) {
        Id id = {};

        memset(id.bytes, n, sizeof(id.bytes));
        return id;
}

static void fixture_init(Fixture *f) {
        *f = (Fixture){ .auto_hello = true, .auto_list = true, .version = LAUNCH_VERSION,
                        .version_min = LAUNCH_VERSION_MIN,
                        .generation = attempt_id(200), .stdin_fd = -1 };
        f->reactor = test_reactor_new(true);
        assert_int_equal(launcher_client_new(&f->client, f->reactor, &vtable, f, connect_launcher), 0);
}

static void fixture_start(Fixture *f) {
        launcher_client_start(f->client);
        test_run_until(f->reactor, launcher_client_is_ready(f->client));
        assert_string_equal(f->told, "ready 200\n");
        assert_string_equal(f->heard, "HELLO\nLIST\n");
        f->told[0] = f->heard[0] = 0;
}

static void on_client_closed(LauncherClient *client) {
        ((Fixture *)launcher_client_userdata(client))->client_closed = true;
}

static void fixture_deinit(Fixture *f) {
        launcher_client_close(f->client, on_client_closed);
        test_run_until(f->reactor, f->client_closed);
        launcher_client_free(f->client);
        if (f->connected)
                packet_close(&f->socket);
        test_run_until(f->reactor, !f->connected);
        reactor_free(f->reactor);
        fd_close(f->stdin_fd);
}

static void run_until_told(Fixture *f, const char *expected) {
        test_run_until(f->reactor, strlen(f->told) >= strlen(expected));
        assert_string_equal(f->told, expected);
        f->told[0] = 0;
}

static void run_until_heard(Fixture *f, const char *expected) {
        test_run_until(f->reactor, strlen(f->heard) >= strlen(expected));
        assert_string_equal(f->heard, expected);
        f->heard[0] = 0;
}

static const char *const argv_true[] = { "/bin/true", NULL };
static const char *const environment_home[] = { "HOME=/h", NULL };

static Worker *spawn(Fixture *f, uint8_t n) {
        const WorkerSpec spec = { .attempt = attempt_id(n),
                                  .agent = "x",
                                  .argv = argv_true,
                                  .environment = environment_home,
                                  .stdin_data = "prompt",
                                  .n_stdin = 6,
                                  .uid = -1 };
        char expected[64];
        Worker *w = NULL;

        assert_int_equal(launcher_spawn(f->client, &spec, f, &w), 0);
        snprintf(expected, sizeof(expected), "SPAWN %u /bin/true HOME=/h 0\n", n);
        run_until_heard(f, expected);
        return w;
}

static Worker *spawned(Fixture *f, uint8_t n) {
        Worker *w = spawn(f, n);
        char expected[64];

        say_spawned(f, &w->attempt);
        snprintf(expected, sizeof(expected), "spawned %u at 7 pid 42\n", n);
        run_until_told(f, expected);
        return w;
}

/* The launcher hangs up, and the client comes back. */
static void reconnect(Fixture *f) {
        unsigned n = f->n_connects;

        packet_close(&f->socket);
        test_run_until(f->reactor, f->n_connects > n && launcher_client_is_ready(f->client));
}

/* ---- tests ---- */

static void test_hello(void **state) {
        Fixture f;

        fixture_init(&f);
        assert_null(launcher_client_capabilities(f.client)[0]);
        assert_false(launcher_client_is_ready(f.client));
        fixture_start(&f);
        assert_string_equal(launcher_client_capabilities(f.client)[0], "landlock.4");
        assert_string_equal(launcher_client_capabilities(f.client)[1], "seccomp");
        assert_null(launcher_client_capabilities(f.client)[2]);
        assert_string_equal(launcher_client_absent(f.client)[0], "cgroup: no cgroup v2 here; mount one");
        assert_null(launcher_client_absent(f.client)[1]);
        fixture_deinit(&f);
}

static void test_spawn(void **state) {
        const char *const argv[] = { "/bin/x", "-a", NULL }, *const environment[] = { "A=b", "C=", NULL };
        const char *const credentials[] = { "K=x.key", NULL }, *const read_only[] = { "/opt", NULL };
        const char *const files[] = { ".x/conf", "content", NULL }, *const require[] = { "landlock", NULL };
        const WorkerSpec spec = { .attempt = attempt_id(1),
                                  .task = attempt_id(9),
                                  .agent = "x",
                                  .argv = argv,
                                  .environment = environment,
                                  .credentials = credentials,
                                  .read_only = read_only,
                                  .home_files = files,
                                  .require = require,
                                  .stdin_data = "the prompt",
                                  .n_stdin = 10,
                                  .workspace = "/srv/w",
                                  .seccomp = "agent",
                                  .uid = 1000,
                                  .memory_max = 1 << 20,
                                  .pids_max = 5,
                                  .cpu_percent = 50,
                                  .network = true };
        Fixture f;
        Worker *w = NULL;
        char data[32];

        fixture_init(&f);
        assert_int_equal(launcher_spawn(f.client, &spec, &f, &w), WORKER_E_NOT_READY);
        fixture_start(&f);
        assert_int_equal(launcher_spawn(f.client, &spec, &f, &w), 0);
        run_until_heard(&f, "SPAWN 1 /bin/x -a A=b C= K=x.key /opt landlock 1 600:.x/conf:content /srv/w agent 1000 "
                            "1048576 5 50\n");
        /* The prompt is in a memfd that nobody can change, at its start. */
        assert_int_equal(fcntl(f.stdin_fd, F_GET_SEALS), F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
        assert_int_equal(read(f.stdin_fd, data, sizeof(data)), 10);
        assert_memory_equal(data, "the prompt", 10);
        assert_int_equal(w->pidfd, -1);
        assert_false(w->spawned);
        say_spawned(&f, &w->attempt);
        run_until_told(&f, "spawned 1 at 7 pid 42\n");
        assert_true(w->spawned);
        assert_int_equal(poll(&(struct pollfd){ .fd = w->pidfd, .events = POLLIN }, 1, 0), 0); /* this test, alive */
        fixture_deinit(&f);
}

static void test_spawn_failed(void **state) {
        for (int freed = 0; freed < 2; freed++) {
                Fixture f;
                Worker *w;
                Id id = attempt_id(1);

                fixture_init(&f);
                fixture_start(&f);
                f.free_on_failure = freed;
                w = spawn(&f, 1);
                begin(LAUNCH_SPAWN_FAILED, &w->attempt);
                add_str(LAUNCH_ATTR_STAGE, "workspace");
                add_u32(LAUNCH_ATTR_ERRNO, EACCES);
                add_str(LAUNCH_ATTR_TEXT, "no way in");
                finish(&f);
                run_until_told(&f, "failed 1 workspace 13 no way in\n");
                assert_null(worker_find(f.client, &id));
                fixture_deinit(&f);
        }
}

static void test_too_large(void **state) {
        _cleanup_free_ char *large = calloc(1, LAUNCH_MESSAGE_MAX + 1);
        const char *const argv[] = { "/bin/x", NULL }, *const both[] = { "A", large, NULL };
        WorkerSpec specs[] = {
                { .argv = both, .environment = argv },
                { .argv = argv, .environment = both },
                { .argv = argv, .environment = argv, .read_only = both },
                { .argv = argv, .environment = argv, .home_files = both },
        };
        static const char *const what[] = { "the command line", "the environment", "the list of read-only paths",
                                            "the files of its home" };
        Fixture f;

        memset(large, 'x', LAUNCH_MESSAGE_MAX);
        fixture_init(&f);
        fixture_start(&f);
        for (size_t i = 0; i < ELEMENTSOF(specs); i++) {
                Worker *w = NULL;
                specs[i].attempt = attempt_id(1);
                specs[i].agent = "x";
                specs[i].stdin_data = "";
                assert_int_equal(launcher_spawn(f.client, &specs[i], &f, &w), WORKER_E_TOO_LARGE);
                assert_true(str_starts(launcher_client_too_large(f.client), what[i]));
                assert_null(w);
                assert_null(worker_find(f.client, &specs[i].attempt));
        }
        /* Nothing of it was sent. */
        spawn(&f, 2);
        fixture_deinit(&f);
}

/* A prompt of any size goes by memfd, not in the message. */
static void test_large_stdin(void **state) {
        const size_t n = MIB(8) + 3;
        _cleanup_free_ char *data = malloc(n), *back = NULL;
        WorkerSpec spec = {
                .attempt = attempt_id(1), .agent = "x", .argv = argv_true, .environment = environment_home, .uid = -1
        };
        Fixture f;
        Worker *w;
        size_t n_back;

        for (size_t i = 0; i < n; i++)
                data[i] = (char)(i * 31 >> 3);
        spec.stdin_data = data;
        spec.n_stdin = n;
        fixture_init(&f);
        fixture_start(&f);
        assert_int_equal(launcher_spawn(f.client, &spec, &f, &w), 0);
        run_until_heard(&f, "SPAWN 1 /bin/true HOME=/h 0\n");
        assert_int_equal(fd_read_all(f.stdin_fd, n, &back, &n_back), 0);
        assert_int_equal(n_back, n);
        assert_memory_equal(back, data, n);
        fixture_deinit(&f);
}

static void test_busy(void **state) {
        static char filler[KIB(48)];
        const char *const argv[] = { "/bin/x", filler, NULL };
        WorkerSpec spec = { .agent = "x", .argv = argv, .environment = environment_home, .stdin_data = "", .uid = -1 };
        Fixture f;
        Worker *w, *first = NULL;
        int r = 0;
        unsigned n = 0;

        memset(filler, 'x', sizeof(filler) - 1);
        fixture_init(&f);
        fixture_start(&f);
        /* Without a tick nothing is sent, so the queue fills. */
        while (n < 100 && r == 0) {
                spec.attempt = attempt_id((uint8_t)++n);
                r = launcher_spawn(f.client, &spec, &f, &w);
                first = first ?: w;
        }
        assert_int_equal(r, WORKER_E_BUSY);
        assert_true(n > 10 && n < 100);
        assert_null(worker_find(f.client, &spec.attempt));
        /* What must not be lost still goes. */
        worker_kill(first, 1);
        assert_true(launcher_client_is_ready(f.client));
        f.heard[0] = 0;
        packet_close(&f.socket); /* hear() has no room for them */
        run_until_told(&f, "lost\n");
        fixture_deinit(&f);
}

static void test_output(void **state) {
        Fixture f;
        Worker *w;
        Id id;

        fixture_init(&f);
        fixture_start(&f);
        w = spawned(&f, 1);
        id = w->attempt;
        say_output(&f, &id, 1, 0, "hello");
        say_output(&f, &id, 2, 0, "err");
        say_output(&f, &id, 1, 5, " world");
        run_until_told(&f, "output 1 1 0 5\noutput 1 2 0 3\noutput 1 1 5 6\n");
        /* Sent again: all known; the tail is new; an old piece. */
        say_output(&f, &id, 1, 0, "hello world");
        say_output(&f, &id, 1, 6, "world, again");
        say_output(&f, &id, 1, 2, "llo");
        say_output(&f, &id, 1, 18, "!");
        run_until_told(&f, "output 1 1 11 7\noutput 1 1 18 1\n");
        assert_memory_equal(f.output[0], "hello world, again!", 19);
        assert_int_equal(f.n_output[0], 19);
        assert_memory_equal(f.output[1], "err", 3);
        /* Acknowledged once each, never backwards. */
        worker_acked(w, 1, 11);
        worker_acked(w, 1, 11);
        worker_acked(w, 1, 5);
        worker_acked(w, 2, 3);
        run_until_heard(&f, "ACK 1 stdout 11\nACK 1 stderr 3\n");
        f.forget_on_exit = true;
        say_exited(&f, &id, 3, 19);
        test_run_until(f.reactor, f.gone); /* its stderr end does not fit what was sent: the connection is dropped */
        assert_int_equal(f.lost_error, -EBADMSG);
        fixture_deinit(&f);
}

static void test_exit(void **state) {
        Fixture f;
        Worker *w;
        Id id;

        fixture_init(&f);
        fixture_start(&f);
        w = spawned(&f, 1);
        id = w->attempt;
        say_output(&f, &id, 1, 0, "answer");
        say_exited(&f, &id, 3, 6);
        run_until_told(&f, "output 1 1 0 6\nexited 1 3\n");
        assert_int_equal(f.exit.how, LAUNCH_HOW_EXITED);
        assert_int_equal(f.exit.oom_kills, 1);
        assert_int_equal(f.exit.memory_peak, 4096);
        assert_int_equal(f.exit.cpu_us, 99);
        assert_true(f.exit.killed);
        /* Known until it is forgotten. */
        assert_ptr_equal(worker_find(f.client, &id), w);
        worker_acked(w, 1, 6);
        worker_forget(w);
        assert_null(worker_find(f.client, &id));
        run_until_heard(&f, "ACK 1 stdout 6\nFORGET 1\n");
        fixture_deinit(&f);
}

static void test_exit_without_output(void **state) {
        Fixture f;
        Worker *w;

        fixture_init(&f);
        fixture_start(&f);
        f.forget_on_exit = true;
        w = spawned(&f, 1);
        say_exited(&f, &w->attempt, 0, 0);
        run_until_told(&f, "exited 1 0\n");
        run_until_heard(&f, "FORGET 1\n");
        fixture_deinit(&f);
}

/* A gap in the output, or an exit before its last bytes: dropped, and made up for after the reconnect. */
static void test_gap(void **state) {
        for (int exit_early = 0; exit_early < 2; exit_early++) {
                Fixture f;
                Worker *w;
                Id id;

                fixture_init(&f);
                fixture_start(&f);
                w = spawned(&f, 1);
                id = w->attempt;
                f.listed[0] = &id;
                say_output(&f, &id, 1, 0, "abc");
                run_until_told(&f, "output 1 1 0 3\n");
                if (exit_early)
                        say_exited(&f, &id, 0, 6);
                else
                        say_output(&f, &id, 1, 4, "efg");
                run_until_told(&f, "lost\n");
                assert_int_equal(f.lost_error, -EBADMSG);
                test_run_until(f.reactor, launcher_client_is_ready(f.client));
                run_until_told(&f, "listed 1\nready 200\n");
                say_output(&f, &id, 1, 0, "abcdef");
                say_exited(&f, &id, 0, 6);
                run_until_told(&f, "output 1 1 3 3\nexited 1 0\n");
                assert_memory_equal(f.output[0], "abcdef", 6);
                fixture_deinit(&f);
        }
}

static void test_reconnect(void **state) {
        Fixture f;
        Worker *w, *unheard;
        Id one = attempt_id(1), two = attempt_id(2);

        fixture_init(&f);
        fixture_start(&f);
        w = spawned(&f, 1);
        unheard = spawn(&f, 2);
        say_output(&f, &one, 1, 0, "abc");
        run_until_told(&f, "output 1 1 0 3\n");
        /* What is said while the connection is away is said again. */
        f.listed[0] = &one;
        f.listed[1] = &two;
        f.listed_execed_at = 8;
        packet_close(&f.socket);
        run_until_told(&f, "lost\n");
        worker_acked(w, 1, 3);
        worker_kill(w, 250);
        test_run_until(f.reactor, launcher_client_is_ready(f.client));
        run_until_heard(&f, "HELLO\nLIST\nKILL 1 250\n");
        /* The second's SPAWNED got lost with the connection: LISTED tells. */
        run_until_told(&f, "listed 1\nlisted 2\nspawned 2 at 8 pid 42\nready 200\n");
        assert_true(w->listed && unheard->listed);
        assert_ptr_equal(worker_find(f.client, &one), w);
        /* An acknowledgement that got lost is said as what it is about comes again, and of no more than that. */
        say_output(&f, &one, 1, 0, "ab");
        say_output(&f, &one, 1, 2, "cd");
        run_until_told(&f, "output 1 1 3 1\n");
        worker_acked(w, 1, 4);
        run_until_heard(&f, "ACK 1 stdout 2\nACK 1 stdout 3\nACK 1 stdout 4\n");
        /* An exit record that was known already is not told again. */
        say_exited(&f, &one, 0, 4);
        run_until_told(&f, "exited 1 0\n");
        reconnect(&f);
        run_until_told(&f, "lost\nlisted 1\nlisted 2\nready 200\n");
        say_exited(&f, &one, 0, 4);
        say_output(&f, &two, 1, 0, "x");
        run_until_told(&f, "output 2 1 0 1\n");
        run_until_heard(&f, "HELLO\nLIST\n");
        fixture_deinit(&f);
}

/* Another launcher: nothing that was known is listed, and the owner sees it from the generation. */
static void test_other_generation(void **state) {
        Fixture f;
        Worker *w;

        fixture_init(&f);
        fixture_start(&f);
        w = spawned(&f, 1);
        f.generation = attempt_id(201);
        reconnect(&f);
        run_until_told(&f, "lost\nready 201\n");
        assert_false(w->listed);
        worker_free(w);
        fixture_deinit(&f);
}

/* A router that was restarted: adopts what it knows from its store, and has the rest killed and forgotten. */
static void test_adopt(void **state) {
        Fixture f;
        Id known = attempt_id(1), unknown = attempt_id(2);
        Worker *w;

        fixture_init(&f);
        f.listed[0] = &unknown;
        f.listed[1] = &known;
        f.adopt[0] = &known;
        f.adopt_offset[0] = 100;
        launcher_client_start(f.client);
        run_until_told(&f, "listed 2\nlisted 1\nready 200\n");
        run_until_heard(&f, "HELLO\nLIST\nKILL 2 0\n");
        w = worker_find(f.client, &known);
        assert_non_null(w);
        assert_int_equal(w->pid, 42);
        /* From the committed offset on; what the launcher still has from before it is skipped. */
        say_output(&f, &known, 1, 98, "xyz");
        run_until_told(&f, "output 1 1 100 1\n");
        assert_memory_equal(f.output[0], "z", 1);
        run_until_heard(&f, "ACK 1 stdout 100\n");
        /* The unknown one's output makes room, and its record is dropped. */
        say_output(&f, &unknown, 2, 5, "abc");
        say_exited(&f, &unknown, 0, 0);
        run_until_heard(&f, "ACK 2 stderr 8\nFORGET 2\n");
        assert_string_equal(f.told, "");
        /* One that comes to life only now is killed. */
        say_spawned(&f, &unknown);
        run_until_heard(&f, "KILL 2 0\n");
        fixture_deinit(&f);
}

static void test_versions(void **state) {
        const struct {
                uint32_t version, version_min;
                bool accepted;
        } table[] = {
                { LAUNCH_VERSION, LAUNCH_VERSION_MIN, true },
                { LAUNCH_VERSION + 1, LAUNCH_VERSION, true },   /* a newer launcher that speaks ours too */
                { LAUNCH_VERSION_MIN, LAUNCH_VERSION_MIN, true },
                { LAUNCH_VERSION_MIN - 1, LAUNCH_VERSION_MIN - 1, false },
                { LAUNCH_VERSION + 2, LAUNCH_VERSION + 1, false },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                Fixture f;

                fixture_init(&f);
                f.version = table[i].version;
                f.version_min = table[i].version_min;
                launcher_client_start(f.client);
                run_until_told(&f, table[i].accepted ? "ready 200\n" : "lost\n");
                if (!table[i].accepted) {
                        assert_int_equal(f.lost_error, -EPROTONOSUPPORT);
                        /* It tries again, says so no second time, and gets along once the launcher is replaced. */
                        f.version = LAUNCH_VERSION;
                        f.version_min = LAUNCH_VERSION_MIN;
                        run_until_told(&f, "ready 200\n");
                }
                fixture_deinit(&f);
        }
}

static void test_refused(void **state) {
        Fixture f;

        fixture_init(&f);
        f.auto_hello = false;
        launcher_client_start(f.client);
        run_until_heard(&f, "HELLO\n");
        begin(LAUNCH_REFUSED, NULL);
        add_str(LAUNCH_ATTR_TEXT, "not you");
        finish(&f);
        run_until_told(&f, "lost\n");
        assert_int_equal(f.lost_error, -EPROTONOSUPPORT);
        f.auto_hello = true;
        run_until_told(&f, "ready 200\n");
        /* Later it is a word about one message, and no reason to leave. */
        begin(LAUNCH_REFUSED, NULL);
        add_str(LAUNCH_ATTR_TEXT, "no such attempt");
        finish(&f);
        f.heard[0] = 0;
        spawned(&f, 1);
        fixture_deinit(&f);
}

static void test_connect_fails(void **state) {
        uint64_t start_us;
        Fixture f;

        fixture_init(&f);
        f.refuse_connect = -ECONNREFUSED;
        start_us = reactor_now_us(f.reactor);
        launcher_client_start(f.client);
        test_run_until(f.reactor, f.n_connects == 4);
        /* 50, 100 and 200 ms lie between four tries; the outage was told of once. */
        assert_true(reactor_now_us(f.reactor) - start_us >= 350 * USEC_PER_MSEC);
        assert_string_equal(f.told, "lost\n");
        assert_int_equal(f.lost_error, -ECONNREFUSED);
        f.refuse_connect = 0;
        run_until_told(&f, "lost\nready 200\n");
        /* The next outage begins at 50 ms again. */
        assert_int_equal(f.client->backoff_us, CLIENT_BACKOFF_MIN_US);
        f.refuse_connect = -ENOENT;
        packet_close(&f.socket);
        test_run_until(f.reactor, f.n_connects == 6);
        assert_string_equal(f.told, "lost\nlost\n"); /* closed; then another reason */
        fixture_deinit(&f);
}

typedef struct Malformed {
        const char *what;
        void (*build)(const Id *attempt);
} Malformed;

static void raw(const void *data, size_t n) {
        buf_clear(&message);
        assert_int_equal(buf_append(&message, data, n), 0);
}

static void build_garbage(const Id *attempt) { raw("garbage, and enough of it", 25); }
static void build_short(const Id *attempt) { raw("x", 1); }
static void build_type(const Id *attempt) { begin((LaunchType)99, attempt); }
static void build_ours(const Id *attempt) { begin(LAUNCH_SPAWN, attempt); }
static void build_late_hello(const Id *attempt) {
        begin(LAUNCH_HELLO, NULL);
        add_u32(LAUNCH_ATTR_VERSION, 1);
        add_u32(LAUNCH_ATTR_VERSION_MIN, 1);
        assert_int_equal(launch_add_id(&message, LAUNCH_ATTR_GENERATION, attempt), 0);
}
static void build_late_listed(const Id *attempt) { begin(LAUNCH_LISTED, attempt); }
static void build_no_attempt(const Id *attempt) { begin(LAUNCH_SPAWNED, NULL); }
static void build_attempt_twice(const Id *attempt) {
        begin(LAUNCH_SPAWNED, attempt);
        assert_int_equal(launch_add_id(&message, LAUNCH_ATTR_ATTEMPT, attempt), 0);
}
static void build_short_id(const Id *attempt) {
        begin(LAUNCH_SPAWNED, NULL);
        assert_int_equal(launch_add(&message, LAUNCH_ATTR_ATTEMPT, attempt->bytes, 15), 0);
}
static void build_short_u32(const Id *attempt) {
        begin(LAUNCH_SPAWNED, attempt);
        assert_int_equal(launch_add(&message, LAUNCH_ATTR_PID, "abc", 3), 0);
}
static void build_nul(const Id *attempt) {
        begin(LAUNCH_SPAWN_FAILED, attempt);
        assert_int_equal(launch_add(&message, LAUNCH_ATTR_STAGE, "a\0b", 3), 0);
}
static void build_no_stage(const Id *attempt) { begin(LAUNCH_SPAWN_FAILED, attempt); }
static void build_output(const Id *attempt, uint32_t stream, uint64_t offset, size_t n) {
        static char data[LAUNCH_OUTPUT_MAX + 1];

        begin(LAUNCH_OUTPUT, attempt);
        add_u32(LAUNCH_ATTR_STREAM, stream);
        add_u64(LAUNCH_ATTR_OFFSET, offset);
        assert_int_equal(launch_add(&message, LAUNCH_ATTR_DATA, data, n), 0);
}
static void build_stream_0(const Id *attempt) { build_output(attempt, 0, 0, 1); }
static void build_stream_3(const Id *attempt) { build_output(attempt, 3, 0, 1); }
static void build_empty(const Id *attempt) { build_output(attempt, 1, 0, 0); }
static void build_long(const Id *attempt) { build_output(attempt, 1, 0, LAUNCH_OUTPUT_MAX + 1); }
static void build_overflow(const Id *attempt) { build_output(attempt, 1, UINT64_MAX, 1); }
static void build_how(const Id *attempt) {
        begin(LAUNCH_EXITED, attempt);
        add_u32(LAUNCH_ATTR_HOW, 9);
        add_u32(LAUNCH_ATTR_VALUE, 0);
}
static void build_no_value(const Id *attempt) {
        begin(LAUNCH_EXITED, attempt);
        add_u32(LAUNCH_ATTR_HOW, LAUNCH_HOW_EXITED);
}

static const Malformed malformed[] = {
        { "garbage", build_garbage },
        { "a byte", build_short },
        { "an unknown type", build_type },
        { "a message of ours", build_ours },
        { "a second HELLO", build_late_hello },
        { "LISTED outside the list", build_late_listed },
        { "no attempt", build_no_attempt },
        { "two attempts", build_attempt_twice },
        { "a short id", build_short_id },
        { "a short number", build_short_u32 },
        { "NUL in a string", build_nul },
        { "SPAWN_FAILED without a stage", build_no_stage },
        { "stream 0", build_stream_0 },
        { "stream 3", build_stream_3 },
        { "empty output", build_empty },
        { "long output", build_long },
        { "an offset that overflows", build_overflow },
        { "an unknown end", build_how },
        { "an end without its value", build_no_value },
};

static void test_malformed(void **state) {
        for (size_t i = 0; i < ELEMENTSOF(malformed); i++) {
                Fixture f;
                Worker *w;
                Id id;

                fixture_init(&f);
                fixture_start(&f);
                w = spawned(&f, 1);
                id = w->attempt;
                f.listed[0] = &id;
                malformed[i].build(&id);
                finish(&f);
                run_until_told(&f, "lost\n");
                if (f.lost_error != -EBADMSG)
                        fail_msg("%s: %d", malformed[i].what, f.lost_error);
                /* The worker lives on, and so does the client. */
                run_until_told(&f, "listed 1\nready 200\n");
                assert_ptr_equal(worker_find(f.client, &id), w);
                fixture_deinit(&f);
        }
}

/* Random bytes in good messages: dropped or taken, never a crash. */
static void test_fuzz(void **state) {
        unsigned seed = 3;
        Fixture f;

        fixture_init(&f);
        for (unsigned round = 0; round < 300; round++) {
                Id id = attempt_id(1);
                Message m;
                LaunchReader reader;

                malformed[round % ELEMENTSOF(malformed)].build(&id);
                for (unsigned k = 0; k < 3; k++) {
                        seed = seed * 1103515245 + 12345;
                        buf_data(&message)[(seed >> 8) % buf_size(&message)] = (uint8_t)(seed >> 20);
                }
                if (launch_open(&reader, buf_data(&message), buf_size(&message)))
                        continue;
                int r = message_read(&reader, &m);
                assert_true(r == 0 || r == -EBADMSG);
                message_deinit(&m);
        }
        fixture_deinit(&f);
}

/* The launcher hangs up before its nth message, for every n of a whole life: the end is the same. */
static void test_disconnect_everywhere(void **state) {
        enum { STEPS = 7 };

        for (unsigned at = 0; at <= STEPS; at++) {
                Fixture f;
                Worker *w = NULL;
                Id id = attempt_id(1);
                bool cut = false;

                fixture_init(&f);
                launcher_client_start(f.client);
                if (at == 0) {
                        f.auto_hello = false;
                        test_run_until(f.reactor, f.heard[0]);
                        packet_close(&f.socket);
                        f.auto_hello = cut = true;
                        test_run_until(f.reactor, f.n_connects == 2);
                } else if (at == 1) {
                        f.auto_list = false;
                        test_run_until(f.reactor, strstr(f.heard, "LIST"));
                        packet_close(&f.socket);
                        f.auto_list = cut = true;
                        test_run_until(f.reactor, f.n_connects == 2);
                }
                test_run_until(f.reactor, launcher_client_is_ready(f.client));
                f.heard[0] = 0;
                w = spawn(&f, 1);
                f.listed[0] = &id;
                f.forget_on_exit = true;
                f.listed_execed_at = 5;
                for (unsigned step = 2; step < STEPS; step++) {
                        if (step == at) {
                                cut = true;
                                reconnect(&f);
                        }
                        /* After a reconnect the launcher begins again at what was not acknowledged: here at 0. */
                        if (step == 2)
                                say_spawned(&f, &id);
                        if (step == 3)
                                say_output(&f, &id, 1, 0, "one ");
                        if (step == 4)
                                say_output(&f, &id, 1, at == 4 ? 0 : 4, at == 4 ? "one two " : "two ");
                        if (step == 5)
                                say_output(&f, &id, 1, at == 5 ? 0 : 8, at == 5 ? "one two three" : "three");
                        if (step == 6) {
                                if (at == 6)
                                        say_output(&f, &id, 1, 0, "one two three");
                                say_exited(&f, &id, 0, 13);
                        }
                        /* Each is taken before the next may be cut off. */
                        test_run_until(f.reactor, list_is_empty(&f.socket.queue));
                        if (step == 2)
                                test_run_until(f.reactor, w->spawned);
                        else if (step < 6)
                                test_run_until(f.reactor, f.n_output[0] == (step == 3 ? 4 : step == 4 ? 8 : 13));
                        else
                                test_run_until(f.reactor, strstr(f.told, "exited 1 0\n"));
                }
                if (at == STEPS) {
                        /* Its FORGET got lost: it is listed again, and nobody knows it. */
                        cut = true;
                        test_run_until(f.reactor, strstr(f.heard, "FORGET 1\n"));
                        f.heard[0] = 0;
                        reconnect(&f);
                        run_until_heard(&f, "HELLO\nLIST\nKILL 1 0\n");
                        say_exited(&f, &id, 0, 13);
                }
                test_run_until(f.reactor, strstr(f.heard, "FORGET 1\n"));
                assert_true(cut);
                assert_memory_equal(f.output[0], "one two three", 13);
                assert_int_equal(f.n_output[0], 13);
                assert_null(worker_find(f.client, &id));
                fixture_deinit(&f);
        }
}

static void test_close_early(void **state) {
        Fixture f;

        /* Before the start; while waiting for the next try; while shaking hands. */
        fixture_init(&f);
        fixture_deinit(&f);
        fixture_init(&f);
        f.refuse_connect = -ENOENT;
        launcher_client_start(f.client);
        run_until_told(&f, "lost\n");
        fixture_deinit(&f);
        fixture_init(&f);
        f.auto_hello = false;
        launcher_client_start(f.client);
        run_until_heard(&f, "HELLO\n");
        fixture_deinit(&f);
        /* With workers: they are freed with the client. */
        fixture_init(&f);
        fixture_start(&f);
        spawned(&f, 1);
        spawn(&f, 2);
        fixture_deinit(&f);
        assert_string_equal(f.told, "");
}

static int free_message(void **state) {
        buf_deinit(&message);
        return 0;
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_hello),
                cmocka_unit_test(test_spawn),
                cmocka_unit_test(test_spawn_failed),
                cmocka_unit_test(test_too_large),
                cmocka_unit_test(test_large_stdin),
                cmocka_unit_test(test_busy),
                cmocka_unit_test(test_output),
                cmocka_unit_test(test_exit),
                cmocka_unit_test(test_exit_without_output),
                cmocka_unit_test(test_gap),
                cmocka_unit_test(test_reconnect),
                cmocka_unit_test(test_other_generation),
                cmocka_unit_test(test_adopt),
                cmocka_unit_test(test_versions),
                cmocka_unit_test(test_refused),
                cmocka_unit_test(test_connect_fails),
                cmocka_unit_test(test_malformed),
                cmocka_unit_test(test_fuzz),
                cmocka_unit_test(test_disconnect_everywhere),
                cmocka_unit_test(test_close_early),
        };

        return cmocka_run_group_tests(tests, NULL, free_message);
}

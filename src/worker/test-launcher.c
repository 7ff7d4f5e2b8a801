#include <stdio.h>
#include <sys/syscall.h>

#include "base/fd.h"
#include "worker/test-launcher.h"

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

Buf message = BUF_INIT(LAUNCH_MESSAGE_MAX);

void begin(LaunchType type, const Id *attempt) {
        buf_clear(&message);
        assert_int_equal(launch_begin(&message, type), 0);
        if (attempt)
                assert_int_equal(launch_add_id(&message, LAUNCH_ATTR_ATTEMPT, attempt), 0);
}

void add_u32(LaunchAttr attr, uint32_t v) {
        assert_int_equal(launch_add_u32(&message, attr, v), 0);
}

void add_u64(LaunchAttr attr, uint64_t v) {
        assert_int_equal(launch_add_u64(&message, attr, v), 0);
}

void add_str(LaunchAttr attr, const char *s) {
        assert_int_equal(launch_add_str(&message, attr, s), 0);
}

void finish(Fixture *f) {
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
        for (size_t i = 0; i < ELEMENTSOF(f->gpus) && f->gpus[i].name[0]; i++)
                assert_int_equal(launch_add_gpu(&message, &f->gpus[i]), 0);
        if (f->tells_machine) {
                add_u32(LAUNCH_ATTR_CPUS, 8);
                add_u64(LAUNCH_ATTR_MEMORY, UINT64_C(64) << 30);
        }
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

void say_spawned(Fixture *f, const Id *attempt) {
        int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);

        assert_true(fd >= 0);
        begin(LAUNCH_SPAWNED, attempt);
        add_u32(LAUNCH_ATTR_PID, 42);
        add_u64(LAUNCH_ATTR_EXECED_AT, 7);
        assert_int_equal(packet_send(&f->socket, buf_data(&message), buf_size(&message), &fd, 1), 0);
}

void say_output(Fixture *f, const Id *attempt, uint32_t stream, uint64_t offset, const char *data) {
        begin(LAUNCH_OUTPUT, attempt);
        add_u32(LAUNCH_ATTR_STREAM, stream);
        add_u64(LAUNCH_ATTR_OFFSET, offset);
        add_str(LAUNCH_ATTR_DATA, data);
        finish(f);
}

void say_exited(Fixture *f, const Id *attempt, uint32_t value, uint64_t stdout_end) {
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
                case LAUNCH_ATTR_GPU:
                        assert_true(launch_u32(value, n_value, &u32));
                        say(f->heard, sizeof(f->heard), " gpu%u", u32);
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

Id attempt_id(uint8_t n) {
        Id id = {};

        memset(id.bytes, n, sizeof(id.bytes));
        return id;
}

void fixture_init(Fixture *f) {
        *f = (Fixture){ .auto_hello = true, .auto_list = true, .version = LAUNCH_VERSION,
                        .version_min = LAUNCH_VERSION_MIN,
                        .generation = attempt_id(200), .stdin_fd = -1 };
        f->reactor = test_reactor_new(true);
        assert_int_equal(launcher_client_new(&f->client, f->reactor, &vtable, f, connect_launcher), 0);
}

void fixture_start(Fixture *f) {
        launcher_client_start(f->client);
        test_run_until(f->reactor, launcher_client_is_ready(f->client));
        assert_string_equal(f->told, "ready 200\n");
        assert_string_equal(f->heard, "HELLO\nLIST\n");
        f->told[0] = f->heard[0] = 0;
}

static void on_client_closed(LauncherClient *client) {
        ((Fixture *)launcher_client_userdata(client))->client_closed = true;
}

void fixture_deinit(Fixture *f) {
        launcher_client_close(f->client, on_client_closed);
        test_run_until(f->reactor, f->client_closed);
        launcher_client_free(f->client);
        if (f->connected)
                packet_close(&f->socket);
        test_run_until(f->reactor, !f->connected);
        reactor_free(f->reactor);
        fd_close(f->stdin_fd);
}

void run_until_told(Fixture *f, const char *expected) {
        test_run_until(f->reactor, strlen(f->told) >= strlen(expected));
        assert_string_equal(f->told, expected);
        f->told[0] = 0;
}

void run_until_heard(Fixture *f, const char *expected) {
        test_run_until(f->reactor, strlen(f->heard) >= strlen(expected));
        assert_string_equal(f->heard, expected);
        f->heard[0] = 0;
}

const char *const argv_true[] = { "/bin/true", NULL };
const char *const environment_home[] = { "HOME=/h", NULL };

Worker *spawn(Fixture *f, uint8_t n) {
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

Worker *spawned(Fixture *f, uint8_t n) {
        Worker *w = spawn(f, n);
        char expected[64];

        say_spawned(f, &w->attempt);
        snprintf(expected, sizeof(expected), "spawned %u at 7 pid 42\n", n);
        run_until_told(f, expected);
        return w;
}

void reconnect(Fixture *f) {
        unsigned n = f->n_connects;

        packet_close(&f->socket);
        test_run_until(f->reactor, f->n_connects > n && launcher_client_is_ready(f->client));
}

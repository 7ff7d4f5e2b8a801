#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "launcher/home.h"
#include "launcher/test-client.h"

#define DEADLINE_MS 60000       /* a busy machine, and sanitizers */

char *client_path(Client *c, const char *path) {
        static char buffers[8][256];
        static unsigned next;
        char *p = buffers[next++ % ELEMENTSOF(buffers)];

        snprintf(p, sizeof(buffers[0]), "%s/%s", c->dir, path);
        return p;
}

void client_put_file(Client *c, const char *path, const char *text, mode_t mode) {
        _cleanup_close_ int fd = open(client_path(c, path), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        assert_true(fd >= 0);
        assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
        assert_int_equal(fchmod(fd, mode), 0);
        if (c->plain && geteuid() == 0)
                assert_int_equal(fchown(fd, c->uid, c->uid), 0);
}

static int client_bind(Client *c, const char *name, int type) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

        assert_true(fd >= 0);
        snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", c->dir, name);
        assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
        assert_int_equal(chmod(address.sun_path, 0666), 0);
        return fd;
}

static bool client_bind_node(const char *dir, const char *name, const char *node) {
        char path[256], *slash;

        snprintf(path, sizeof(path), "%s/%s", dir, name);
        slash = path + strlen(dir) + 1;
        while ((slash = strchr(slash, '/'))) {
                *slash = 0;
                (void)mkdir(path, 0755);
                *slash++ = '/';
        }
        fd_close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
        return mount(node, path, NULL, MS_BIND, NULL) == 0;
}

/* Over /dev of this process's own mount namespace: the common nodes, and c->devices. */
static bool client_mount_dev(Client *c) {
        static const char *const common[] = { "null", "zero", "full", "random", "urandom", "tty" };
        const char *dir = client_path(c, "dev");
        char node[32];

        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || mkdir(dir, 0755) < 0 ||
            mount("none", dir, "tmpfs", 0, "mode=0755") < 0)
                return false;
        for (size_t i = 0; i < ELEMENTSOF(common); i++) {
                snprintf(node, sizeof(node), "/dev/%s", common[i]);
                if (!client_bind_node(dir, common[i], node))
                        return false;
        }
        for (const char *const *d = c->devices; *d; d += 2)
                if (!client_bind_node(dir, d[0], d[1]))
                        return false;
        return mount(dir, "/dev", NULL, MS_BIND | MS_REC, NULL) == 0;
}

static void client_exec(Client *c) {
        char pid[16], *environment[16];
        const char *program = getenv("AR_LAUNCHER");
        size_t n = 0;

        snprintf(pid, sizeof(pid), "%d", (int)getpid());
        for (const char *const *e = (const char *const[]){ "ASAN_OPTIONS", "UBSAN_OPTIONS", "PATH", NULL }; *e; e++)
                if (getenv(*e) && asprintf(&environment[n], "%s=%s", *e, getenv(*e)) > 0)
                        n++;
        const char *const set[][2] = {
                { "LISTEN_PID", pid }, { "LISTEN_FDS", "1" }, { "LISTEN_FDNAMES", "launcher" }, { "STATE_DIRECTORY", client_path(c, "state") },
                { "RUNTIME_DIRECTORY", client_path(c, "run") }, { "CONFIGURATION_DIRECTORY", client_path(c, "config") },
                { "CREDENTIALS_DIRECTORY", client_path(c, "credentials") }, { "NOTIFY_SOCKET", client_path(c, "notify.sock") },
                { "AGENT_ROUTER_LOG_LEVEL", getenv("TEST_VERBOSE") ? "debug" : "err" },
        };
        for (size_t i = 0; i < ELEMENTSOF(set); i++)
                if (asprintf(&environment[n], "%s=%s", set[i][0], set[i][1]) > 0)
                        n++;
        environment[n] = NULL;
        /* Opened before the change of user: the build folder may not be everybody's. */
        int fd = open(program, O_RDONLY | O_CLOEXEC);
        struct rlimit limit = { c->nofile, c->nofile };
        if (c->nofile && setrlimit(RLIMIT_NOFILE, &limit) < 0)
                _exit(126);
        if (c->masked && (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
                          mount("none", "/proc/sys", "tmpfs", MS_RDONLY, NULL) < 0))
                _exit(126);
        if (c->devices && !client_mount_dev(c))
                _exit(126);
        if (c->plain && geteuid() == 0 && (setgroups(0, NULL) < 0 || setgid(c->uid) < 0 || setuid(c->uid) < 0))
                _exit(126);
        /* After the change of user, which clears it. */
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (dup2(c->listen_fd, 3) < 0 || fcntl(3, F_SETFD, 0) < 0)
                _exit(126);
        const char *const argv[] = { "agent-router-launcher", "--seccomp-dir", client_path(c, "seccomp"), NULL };
        fexecve(fd, (char *const *)argv, environment);
        _exit(127);
}

static void client_start_launcher(Client *c) {
        struct pollfd p = { .fd = c->notify_fd, .events = POLLIN };
        char text[256] = "";

        c->pid = fork();
        assert_true(c->pid >= 0);
        if (c->pid == 0)
                client_exec(c);
        while (!strstr(text, "READY=1")) {
                ssize_t n;

                assert_int_equal(poll(&p, 1, DEADLINE_MS), 1);
                n = recv(c->notify_fd, text, sizeof(text) - 1, 0);
                assert_true(n > 0);
                text[n] = 0;
        }
}

static void client_copy_profile(Client *c) {
        _cleanup_free_ char *path = NULL, *text = NULL;
        size_t n;

        assert_true(asprintf(&path, "%s/seccomp/agent.profile", getenv("AR_SOURCE_ROOT")) > 0);
        assert_int_equal(fd_read_file(AT_FDCWD, path, MIB(1), &text, &n), 0);
        client_put_file(c, "seccomp/agent.profile", text, 0644);
}

void client_start(Client *c, bool plain, const char *extra) {
        *c = (Client){};
        client_start_limited(c, plain, extra);
}

void client_start_limited(Client *c, bool plain, const char *extra) {
        static const char *const folders[] = { "state", "run", "config", "ws", "credentials", "seccomp", "outside" };
        _cleanup_free_ char *yaml = NULL;

        /* A test that is killed takes its launchers with it, and those their sandboxes. */
        *c = (Client){
                .plain = plain || geteuid() != 0,
                .masked = c->masked,
                .nofile = c->nofile,
                .devices = c->devices,
                .fd = -1,
                .listen_fd = -1,
                .notify_fd = -1,
        };
        c->uid = geteuid() != 0 ? geteuid() : plain ? CLIENT_PLAIN_UID : 65534;
        snprintf(c->dir, sizeof(c->dir), "/tmp/test-launcher-XXXXXX");
        assert_non_null(mkdtemp(c->dir));
        assert_int_equal(chmod(c->dir, 0755), 0);
        for (size_t i = 0; i < ELEMENTSOF(folders); i++) {
                assert_int_equal(mkdir(client_path(c, folders[i]), 0755), 0);
                if (geteuid() == 0 && (c->plain || streq(folders[i], "ws")))
                        assert_int_equal(chown(client_path(c, folders[i]), c->uid, c->uid), 0);
        }
        assert_true(asprintf(&yaml, "sandbox:\n  worker_user: nobody\n  workspace_roots: [%s/ws]\n%s", c->dir, extra ?: "") > 0);
        client_put_file(c, "config/agent-router.yaml", yaml, 0644);
        client_copy_profile(c);
        c->listen_fd = client_bind(c, "launcher.sock", SOCK_SEQPACKET);
        assert_int_equal(listen(c->listen_fd, 8), 0);
        c->notify_fd = client_bind(c, "notify.sock", SOCK_DGRAM);
        client_start_launcher(c);
        client_connect(c);
}

void client_restart(Client *c) {
        client_start_launcher(c);
        client_connect(c);
}

static int client_wait_launcher(Client *c) {
        int status;

        while (waitpid(c->pid, &status, 0) < 0)
                assert_int_equal(errno, EINTR);
        c->pid = 0;
        return status;
}

void client_kill_launcher(Client *c) {
        assert_int_equal(kill(c->pid, SIGKILL), 0);
        (void)client_wait_launcher(c);
        client_disconnect(c);
}

void client_stop(Client *c) {
        int status, fd;

        assert_int_equal(kill(c->pid, SIGTERM), 0);
        status = client_wait_launcher(c);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        client_disconnect(c);
        close(c->listen_fd);
        close(c->notify_fd);
        fd = open(c->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(fd >= 0);
        assert_int_equal(home_empty(fd), 0);
        close(fd);
        assert_int_equal(rmdir(c->dir), 0);
}

void client_disconnect(Client *c) {
        fd_close(c->fd);
        c->fd = -1;
}

void client_send(Client *c, const Buf *b, int fd) {
        union {
                struct cmsghdr header;
                uint8_t space[CMSG_SPACE(sizeof(int))];
        } control = {};
        struct iovec iov = { .iov_base = buf_data(b), .iov_len = buf_size(b) };
        struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

        if (fd >= 0) {
                control.header = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
                                                   .cmsg_type = SCM_RIGHTS,
                                                   .cmsg_len = CMSG_LEN(sizeof(int)) };
                memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
                message.msg_control = &control;
                message.msg_controllen = sizeof(control);
        }
        assert_int_equal(sendmsg(c->fd, &message, MSG_NOSIGNAL), buf_size(b));
}

bool client_is_silent(Client *c, int timeout_ms) {
        struct pollfd p = { .fd = c->fd, .events = POLLIN };

        return poll(&p, 1, timeout_ms) == 0;
}

static void client_copy_str(char *to, size_t size, const uint8_t *data, size_t n) {
        snprintf(to, size, "%.*s", (int)n, (const char *)data);
}

static void client_read_attr(Client *c, Message *m, LaunchAttr attr, const uint8_t *data, size_t n) {
        const struct {
                LaunchAttr attr;
                uint32_t *value;
        } u32[] = {
                { LAUNCH_ATTR_STREAM, &m->stream },
                { LAUNCH_ATTR_HOW, &m->how },
                { LAUNCH_ATTR_VALUE, &m->value },
                { LAUNCH_ATTR_KILLED, &m->killed },
                { LAUNCH_ATTR_OOM_KILLS, &m->oom_kills },
                { LAUNCH_ATTR_PIDS_HIT, &m->pids_hit },
                { LAUNCH_ATTR_PID, &m->pid },
                { LAUNCH_ATTR_ERRNO, &m->error },
        };
        const struct {
                LaunchAttr attr;
                uint64_t *value;
        } u64[] = {
                { LAUNCH_ATTR_OFFSET, &m->offset },           { LAUNCH_ATTR_STDOUT_END, &m->stdout_end },
                { LAUNCH_ATTR_STDERR_END, &m->stderr_end },   { LAUNCH_ATTR_CPU_US, &m->cpu_us },
                { LAUNCH_ATTR_MEMORY_PEAK, &m->memory_peak }, { LAUNCH_ATTR_EXECED_AT, &m->execed_at },
        };

        for (size_t i = 0; i < ELEMENTSOF(u32); i++)
                if (attr == u32[i].attr)
                        assert_true(launch_u32(data, n, u32[i].value));
        for (size_t i = 0; i < ELEMENTSOF(u64); i++)
                if (attr == u64[i].attr)
                        assert_true(launch_u64(data, n, u64[i].value));
        if (attr == LAUNCH_ATTR_ATTEMPT)
                assert_true(launch_id(data, n, &m->attempt));
        else if (attr == LAUNCH_ATTR_GENERATION)
                assert_true(launch_id(data, n, &c->generation));
        else if (attr == LAUNCH_ATTR_GPU_INFO) {
                assert_in_range(c->n_gpus, 0, ELEMENTSOF(c->gpus) - 1);
                assert_true(launch_gpu(data, n, &c->gpus[c->n_gpus]));
                assert_int_equal(c->gpus[c->n_gpus].index, c->n_gpus);
                c->n_gpus++;
        } else if (attr == LAUNCH_ATTR_CPUS)
                assert_true(launch_u32(data, n, &c->cpus));
        else if (attr == LAUNCH_ATTR_MEMORY)
                assert_true(launch_u64(data, n, &c->memory));
        else if (attr == LAUNCH_ATTR_STAGE)
                client_copy_str(m->stage, sizeof(m->stage), data, n);
        else if (attr == LAUNCH_ATTR_TEXT)
                client_copy_str(m->text, sizeof(m->text), data, n);
        else if (attr == LAUNCH_ATTR_DATA) {
                assert_in_range(n, 1, sizeof(m->data));
                memcpy(m->data, data, n);
                m->n = n;
        } else if (attr == LAUNCH_ATTR_CAPABILITY) {
                size_t at = strlen(c->capabilities);

                snprintf(c->capabilities + at, sizeof(c->capabilities) - at, " %.*s", (int)n, (const char *)data);
        }
}

bool client_receive(Client *c, Message *m) {
        static uint8_t data[LAUNCH_MESSAGE_MAX];
        union {
                struct cmsghdr header;
                uint8_t space[CMSG_SPACE(4 * sizeof(int))];
        } control;
        struct iovec iov = { .iov_base = data, .iov_len = sizeof(data) };
        struct msghdr message = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
        };
        struct pollfd p = { .fd = c->fd, .events = POLLIN };
        LaunchReader reader;
        const uint8_t *value;
        LaunchAttr attr;
        size_t n_value;
        ssize_t n;
        int r;

        *m = (Message){};
        if (poll(&p, 1, DEADLINE_MS) != 1)
                fail_msg("no message from the launcher in %d ms", DEADLINE_MS);
        n = recvmsg(c->fd, &message, MSG_CMSG_CLOEXEC);
        if (n <= 0)
                return false;
        for (struct cmsghdr *h = CMSG_FIRSTHDR(&message); h; h = CMSG_NXTHDR(&message, h)) {
                int fd;

                memcpy(&fd, CMSG_DATA(h), sizeof(fd));
                close(fd);
        }
        assert_int_equal(launch_open(&reader, data, (size_t)n), 0);
        m->type = reader.type;
        while ((r = launch_next(&reader, &attr, &value, &n_value)) == 0)
                client_read_attr(c, m, attr, value, n_value);
        assert_int_equal(r, LAUNCH_E_END);
        return true;
}

void client_connect(Client *c) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        _cleanup_(buf_deinit) Buf b = BUF_INIT(LAUNCH_MESSAGE_MAX);
        Message m;

        c->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        assert_true(c->fd >= 0);
        snprintf(address.sun_path, sizeof(address.sun_path), "%s/launcher.sock", c->dir);
        assert_int_equal(connect(c->fd, (struct sockaddr *)&address, sizeof(address)), 0);
        c->capabilities[0] = 0;
        c->n_listed = c->n_gpus = 0;
        assert_int_equal(launch_begin(&b, LAUNCH_HELLO), 0);
        assert_int_equal(launch_add_u32(&b, LAUNCH_ATTR_VERSION_MIN, LAUNCH_VERSION_MIN), 0);
        assert_int_equal(launch_add_u32(&b, LAUNCH_ATTR_VERSION, LAUNCH_VERSION), 0);
        client_send(c, &b, -1);
        buf_clear(&b);
        assert_int_equal(launch_begin(&b, LAUNCH_LIST), 0);
        client_send(c, &b, -1);
        assert_true(client_receive(c, &m));
        assert_int_equal(m.type, LAUNCH_HELLO);
        while (client_receive(c, &m) && m.type == LAUNCH_LISTED && c->n_listed < ELEMENTSOF(c->listed))
                c->listed[c->n_listed++] = m.attempt;
        assert_int_equal(m.type, LAUNCH_LIST_END);
}

bool client_is_listed(const Client *c, const Id *attempt) {
        for (size_t i = 0; i < c->n_listed; i++)
                if (id_equal(&c->listed[i], attempt))
                        return true;
        return false;
}

bool client_has(const Client *c, const char *capability) {
        size_t n = strlen(capability);

        for (const char *p = c->capabilities; (p = strstr(p, capability)); p += n)
                if (p[-1] == ' ' && (p[n] == 0 || p[n] == ' ' || p[n] == '.'))
                        return true;
        return false;
}

void client_tell(Client *c, LaunchType type, const Id *attempt, uint32_t grace_ms) {
        _cleanup_(buf_deinit) Buf b = BUF_INIT(LAUNCH_MESSAGE_MAX);

        assert_int_equal(launch_begin(&b, type), 0);
        assert_int_equal(launch_add_id(&b, LAUNCH_ATTR_ATTEMPT, attempt), 0);
        assert_int_equal(launch_add_u32(&b, LAUNCH_ATTR_GRACE_MS, grace_ms), 0);
        client_send(c, &b, -1);
}

void client_ack(Client *c, const Id *attempt, unsigned stream, uint64_t offset) {
        _cleanup_(buf_deinit) Buf b = BUF_INIT(LAUNCH_MESSAGE_MAX);

        assert_int_equal(launch_begin(&b, LAUNCH_ACK), 0);
        assert_int_equal(launch_add_id(&b, LAUNCH_ATTR_ATTEMPT, attempt), 0);
        assert_int_equal(launch_add_u32(&b, LAUNCH_ATTR_STREAM, stream), 0);
        assert_int_equal(launch_add_u64(&b, LAUNCH_ATTR_OFFSET, offset), 0);
        client_send(c, &b, -1);
}

void client_add_str(Buf *b, LaunchAttr attr, const char *s) {
        assert_int_equal(launch_add_str(b, attr, s), 0);
}

void client_spawn_begin(Client *c, Buf *b, Id *ret_attempt, const char *script) {
        assert_int_equal(id_new(ret_attempt), 0);
        *b = (Buf)BUF_INIT(LAUNCH_MESSAGE_MAX);
        assert_int_equal(launch_begin(b, LAUNCH_SPAWN), 0);
        assert_int_equal(launch_add_id(b, LAUNCH_ATTR_ATTEMPT, ret_attempt), 0);
        assert_int_equal(launch_add_id(b, LAUNCH_ATTR_TASK, ret_attempt), 0);
        client_add_str(b, LAUNCH_ATTR_AGENT, "exec");
        client_add_str(b, LAUNCH_ATTR_ARGV, "/bin/sh");
        client_add_str(b, LAUNCH_ATTR_ARGV, "-c");
        client_add_str(b, LAUNCH_ATTR_ARGV, script);
        client_add_str(b, LAUNCH_ATTR_ENV, "PATH=/usr/local/bin:/usr/bin:/bin");
        client_add_str(b, LAUNCH_ATTR_ENV, "HOME=/home/agent");
        assert_int_equal(launch_add_u32(b, LAUNCH_ATTR_NETWORK, 1), 0);
        client_add_str(b, LAUNCH_ATTR_WORKSPACE, client_path(c, "ws"));
}

void client_spawn(Client *c, Id *ret_attempt, const char *script) {
        _cleanup_(buf_deinit) Buf b = {};

        client_spawn_begin(c, &b, ret_attempt, script);
        client_send(c, &b, -1);
}

void run_deinit(Run *r) {
        buf_deinit(&r->out);
        buf_deinit(&r->err);
}

void client_collect(Client *c, const Id *attempt, Run *ret_run) {
        Run run = { .out = BUF_INIT(MIB(8)), .err = BUF_INIT(MIB(8)) };
        uint64_t next[2] = {};
        bool first[2] = { true, true };

        for (;;) {
                if (!client_receive(c, &run.last))
                        fail_msg("the launcher closed the connection");
                if (!id_equal(&run.last.attempt, attempt))
                        continue;
                if (run.last.type == LAUNCH_OUTPUT) {
                        unsigned i = run.last.stream - 1;

                        assert_in_range(run.last.stream, 1, 2);
                        if (!first[i])
                                assert_int_equal(run.last.offset, next[i]);
                        first[i] = false;
                        next[i] = run.last.offset + run.last.n;
                        assert_int_equal(buf_append(i ? &run.err : &run.out, run.last.data, run.last.n), 0);
                        client_ack(c, attempt, i + 1, next[i]);
                }
                if (run.last.type == LAUNCH_EXITED || run.last.type == LAUNCH_SPAWN_FAILED)
                        break;
        }
        assert_int_equal(buf_append(&run.out, "", 1), 0);
        assert_int_equal(buf_append(&run.err, "", 1), 0);
        *ret_run = run;
}

void client_run(Client *c, Run *ret_run, const char *script) {
        Id attempt;

        client_spawn(c, &attempt, script);
        client_collect(c, &attempt, ret_run);
        client_tell(c, LAUNCH_FORGET, &attempt, 0);
}

static bool client_process_exists(const char *marker) {
        DIR *d = opendir("/proc");
        struct dirent *e;
        bool found = false;

        assert_non_null(d);
        while (!found && (e = readdir(d))) {
                _cleanup_free_ char *text = NULL;
                char path[300];
                size_t n;

                if (e->d_name[0] < '0' || e->d_name[0] > '9')
                        continue;
                snprintf(path, sizeof(path), "/proc/%s/cmdline", e->d_name);
                if (fd_read_file(AT_FDCWD, path, MIB(1), &text, &n))
                        continue;
                found = memmem(text, n, marker, strlen(marker));
        }
        closedir(d);
        return found;
}

void client_wait_process(const char *marker, bool exists) {
        uint64_t deadline = clock_monotonic_us() + DEADLINE_MS * USEC_PER_MSEC;

        while (client_process_exists(marker) != exists) {
                if (clock_monotonic_us() > deadline)
                        fail_msg("a process with %s in its command line %s", marker, exists ? "never came" : "is still there");
                (void)poll(NULL, 0, 5);
        }
}

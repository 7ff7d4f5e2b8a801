/* The launcher's protocol over a real socket with real sandboxes: what is sent, kept, sent again, and forgotten. */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "launcher/test-client.h"

/* RSS of the idle launcher, and with a full window beside. */
#define RSS_IDLE_MAX_KIB 4096

static int setup(void **state) {
        Client *c = calloc(1, sizeof(*c));

        assert_non_null(c);
        client_start(c, false, NULL);
        *state = c;
        return 0;
}

static int teardown(void **state) {
        Client *c = *state;

        client_stop(c);
        free(c);
        return 0;
}

static unsigned rss_kib(pid_t pid) {
        _cleanup_free_ char *text = NULL;
        char path[64], *line;
        unsigned kib = 0;
        size_t n;

        snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
        assert_int_equal(fd_read_file(AT_FDCWD, path, KIB(64), &text, &n), 0);
        line = strstr(text, "VmRSS:");
        assert_non_null(line);
        assert_int_equal(sscanf(line, "VmRSS: %u kB", &kib), 1);
        return kib;
}

/* Sanitizers have memory of their own. */
static bool is_sanitized(void) {
        return getenv("AR_SANITIZED") != NULL;
}

static void test_hello(void **state) {
        Client *c = *state;

        assert_false(id_is_null(&c->generation));
        assert_true(client_has(c, "pidns"));
        assert_true(client_has(c, "mountns"));
        assert_true(client_has(c, "seccomp"));
        if (is_sanitized())
                return;
        print_message("launcher RSS idle: %u KiB\n", rss_kib(c->pid));
        assert_in_range(rss_kib(c->pid), 1, RSS_IDLE_MAX_KIB);
}

static void test_output_and_exit(void **state) {
        Client *c = *state;
        Run run;

        client_run(c, &run, "i=0; while [ $i -lt 2000 ]; do echo line $i; echo err $i >&2; i=$((i+1)); done; exit 7");
        assert_int_equal(run.last.type, LAUNCH_EXITED);
        assert_int_equal(run.last.how, LAUNCH_HOW_EXITED);
        assert_int_equal(run.last.value, 7);
        assert_int_equal(run.last.killed, 0);
        assert_int_equal(run.last.stdout_end, buf_size(&run.out) - 1);
        assert_int_equal(run.last.stderr_end, buf_size(&run.err) - 1);
        assert_true(run.last.cpu_us > 0);
        for (unsigned i = 0, at = 0; i < 2000; i++) {
                char line[32];
                int n = snprintf(line, sizeof(line), "line %u\n", i);

                assert_memory_equal(buf_data(&run.out) + at, line, n);
                at += (unsigned)n;
        }
        run_deinit(&run);
}

static void test_signalled(void **state) {
        Client *c = *state;
        Run run;

        client_run(c, &run, "kill -SEGV $$");
        assert_int_equal(run.last.how, LAUNCH_HOW_SIGNALLED);
        assert_int_equal(run.last.value, SIGSEGV);
        run_deinit(&run);
}

static void test_spawned_says_when_it_execed(void **state) {
        Client *c = *state;
        uint64_t before = clock_monotonic_us();
        Id attempt;
        Message m;
        Run run;

        client_spawn(c, &attempt, "exit 0");
        assert_true(client_receive(c, &m));
        assert_int_equal(m.type, LAUNCH_SPAWNED);
        assert_true(id_equal(&m.attempt, &attempt));
        assert_true(m.pid > 1);
        assert_in_range(m.execed_at, before, clock_monotonic_us());
        client_collect(c, &attempt, &run);
        run_deinit(&run);
}

/* Nobody acknowledges: reading stops at a full window, and goes on by as much as is acknowledged. */
static void test_back_pressure(void **state) {
        Client *c = *state;
        uint64_t end = 0;
        Id attempt;
        Message m;
        Run run;

        client_spawn(c, &attempt, "exec yes");
        while (end < LAUNCH_WINDOW) {
                assert_true(client_receive(c, &m));
                if (m.type == LAUNCH_OUTPUT)
                        end = m.offset + m.n;
        }
        assert_int_equal(end, LAUNCH_WINDOW);
        assert_true(client_is_silent(c, 300));
        if (!is_sanitized())
                assert_in_range(rss_kib(c->pid), 1, RSS_IDLE_MAX_KIB + 2 * LAUNCH_WINDOW / 1024);
        client_ack(c, &attempt, 1, 50000);
        while (end < LAUNCH_WINDOW + 50000) {
                assert_true(client_receive(c, &m));
                assert_int_equal(m.type, LAUNCH_OUTPUT);
                end = m.offset + m.n;
        }
        assert_int_equal(end, LAUNCH_WINDOW + 50000);
        assert_true(client_is_silent(c, 100));
        /* Another attempt is not held up by it. */
        client_run(c, &run, "echo other");
        assert_string_equal((char *)buf_data(&run.out), "other\n");
        run_deinit(&run);
        client_tell(c, LAUNCH_KILL, &attempt, 0);
        client_ack(c, &attempt, 1, end);
        client_collect(c, &attempt, &run);
        assert_int_equal(run.last.how, LAUNCH_HOW_SIGNALLED);
        assert_int_equal(run.last.value, SIGKILL);
        assert_int_equal(run.last.killed, 1);
        run_deinit(&run);
        client_tell(c, LAUNCH_FORGET, &attempt, 0);
}

static void test_reconnect_resends_what_is_not_acknowledged(void **state) {
        Client *c = *state;
        Id attempt, generation = c->generation;
        Message m;
        Run run;

        client_spawn(c, &attempt, "printf abc; while [ ! -e go ]; do sleep 0.02; done; printf def; exit 7");
        do
                assert_true(client_receive(c, &m));
        while (m.type != LAUNCH_OUTPUT);
        assert_int_equal(m.offset, 0);
        assert_int_equal(m.n, 3);
        client_ack(c, &attempt, 1, 1);
        client_disconnect(c);
        client_put_file(c, "ws/go", "", 0644);
        client_connect(c);
        assert_true(id_equal(&generation, &c->generation));
        assert_true(client_is_listed(c, &attempt));
        client_collect(c, &attempt, &run);
        assert_string_equal((char *)buf_data(&run.out), "bcdef");
        assert_int_equal(run.last.value, 7);
        assert_int_equal(run.last.stdout_end, 6);
        run_deinit(&run);
        /* Everything is acknowledged, but the exit record is kept, and said again. */
        client_disconnect(c);
        client_connect(c);
        assert_true(client_is_listed(c, &attempt));
        client_collect(c, &attempt, &run);
        assert_int_equal(run.last.type, LAUNCH_EXITED);
        assert_int_equal(run.last.value, 7);
        assert_int_equal(buf_size(&run.out), 1);
        run_deinit(&run);
        client_tell(c, LAUNCH_FORGET, &attempt, 0);
        client_disconnect(c);
        client_connect(c);
        assert_false(client_is_listed(c, &attempt));
}

static void test_new_router_takes_the_place(void **state) {
        Client *c = *state;
        int old = c->fd;
        char byte;
        Run run;

        client_connect(c);
        assert_int_equal(recv(old, &byte, 1, 0), 0);
        close(old);
        client_run(c, &run, "echo new");
        assert_string_equal((char *)buf_data(&run.out), "new\n");
        run_deinit(&run);
}

static void test_spawn_is_idempotent(void **state) {
        Client *c = *state;
        _cleanup_(buf_deinit) Buf b = {};
        _cleanup_free_ char *text = NULL;
        unsigned spawned = 0;
        Id attempt;
        Message m;
        size_t n;
        Run run;

        client_spawn_begin(c, &b, &attempt, "echo x >> count; while [ ! -e stop ]; do sleep 0.02; done");
        for (unsigned i = 0; i < 3; i++)
                client_send(c, &b, -1);
        assert_true(client_receive(c, &m));
        assert_int_equal(m.type, LAUNCH_SPAWNED);
        client_send(c, &b, -1);
        while (spawned == 0) {
                assert_true(client_receive(c, &m));
                assert_int_equal(m.type, LAUNCH_SPAWNED);
                spawned++;
        }
        client_put_file(c, "ws/stop", "", 0644);
        client_collect(c, &attempt, &run);
        assert_int_equal(run.last.value, 0);
        run_deinit(&run);
        client_tell(c, LAUNCH_FORGET, &attempt, 0);
        assert_int_equal(fd_read_file(AT_FDCWD, client_path(c, "ws/count"), 100, &text, &n), 0);
        assert_string_equal(text, "x\n");
}

static void test_kill_is_graceful_first(void **state) {
        Client *c = *state;
        Id attempt;
        Message m;
        Run run;

        client_spawn(c, &attempt, "trap 'echo bye; exit 42' TERM; echo ready; while :; do sleep 0.02; done");
        do
                assert_true(client_receive(c, &m));
        while (m.type != LAUNCH_OUTPUT);
        client_tell(c, LAUNCH_KILL, &attempt, 30000);
        client_collect(c, &attempt, &run);
        assert_int_equal(run.last.how, LAUNCH_HOW_EXITED);
        assert_int_equal(run.last.value, 42);
        assert_int_equal(run.last.killed, 1);
        assert_non_null(strstr((char *)buf_data(&run.out), "bye"));
        run_deinit(&run);
        client_tell(c, LAUNCH_FORGET, &attempt, 0);
}

static void test_kill_leaves_no_survivor(void **state) {
        Client *c = *state;
        glob_t found = {};
        char text[ID_TEXT_MAX], pattern[128];
        Id attempt;
        Message m;
        Run run;

        client_spawn(c, &attempt, "trap '' TERM; (setsid sh -c \"trap '' TERM HUP; (sleep 1000.7731 & ) ; sleep 1000.7732\" >/dev/null 2>&1 & ); "
                     "echo ready; while :; do sleep 1000.7733; done");
        do
                assert_true(client_receive(c, &m));
        while (m.type != LAUNCH_OUTPUT);
        client_wait_process("1000.7731", true);
        client_wait_process("1000.7732", true);
        client_tell(c, LAUNCH_KILL, &attempt, 100);
        client_collect(c, &attempt, &run);
        assert_int_equal(run.last.killed, 1);
        run_deinit(&run);
        /* EXITED means that all are dead: no waiting here. */
        client_wait_process("1000.773", false);
        client_tell(c, LAUNCH_FORGET, &attempt, 0);
        client_run(c, &run, "true");    /* the FORGET before it was handled */
        run_deinit(&run);
        id_format(&attempt, text);
        snprintf(pattern, sizeof(pattern), "/sys/fs/cgroup/*/*/a-%s", text);
        assert_int_equal(glob(pattern, 0, NULL, &found), GLOB_NOMATCH);
        globfree(&found);
}

static void test_forget_of_a_running_attempt_ends_it(void **state) {
        Client *c = *state;
        Id attempt;
        Message m;
        Run run;

        client_spawn(c, &attempt, "trap '' TERM; yes | head -c 5000000; sleep 1000.8841");
        assert_true(client_receive(c, &m));
        assert_int_equal(m.type, LAUNCH_SPAWNED);
        client_tell(c, LAUNCH_FORGET, &attempt, 0);
        client_wait_process("1000.8841", false);
        client_run(c, &run, "echo on");
        assert_string_equal((char *)buf_data(&run.out), "on\n");
        run_deinit(&run);
        client_disconnect(c);
        client_connect(c);
        assert_false(client_is_listed(c, &attempt));
}

/* Its user may look up the attempt's only process but init, and open its pipe, as on any machine. */
static int open_stdout_of(pid_t init) {
        _cleanup_free_ char *text = NULL;
        char path[96];
        int child = 0, fd;
        size_t n;

        snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)init, (int)init);
        assert_int_equal(fd_read_file(AT_FDCWD, path, KIB(4), &text, &n), 0);
        assert_int_equal(sscanf(text, "%d", &child), 1);
        snprintf(path, sizeof(path), "/proc/%d/fd/1", child);
        fd = open(path, O_WRONLY | O_CLOEXEC);
        assert_true(fd >= 0);
        return fd;
}

/* Somebody outside writes on into the pipe of an agent that is dead: its end is told all the same. */
static void test_output_ends_with_the_agent(void **state) {
        static char zeros[MIB(1)];
        Client *c = *state;
        pid_t writer;
        Id attempt;
        Message m;
        int fd;

        client_spawn(c, &attempt, "exec sleep 1000.6621");
        assert_true(client_receive(c, &m));
        assert_int_equal(m.type, LAUNCH_SPAWNED);
        client_wait_process("1000.6621", true);
        fd = open_stdout_of((pid_t)m.pid);
        assert_true(fcntl(fd, F_SETPIPE_SZ, (int)sizeof(zeros)) > 0);
        writer = fork();
        if (writer == 0) {
                (void)signal(SIGPIPE, SIG_DFL);
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                while (write(fd, zeros, sizeof(zeros)) > 0)
                        ;
                _exit(0);
        }
        assert_true(writer > 0);
        close(fd);
        client_tell(c, LAUNCH_KILL, &attempt, 0);
        do {
                assert_true(client_receive(c, &m));
                if (m.type != LAUNCH_OUTPUT)
                        continue;
                client_ack(c, &attempt, m.stream, m.offset + m.n);
                /* A pipe and a window may have been full. */
                assert_in_range(m.offset, 0, 64 * sizeof(zeros));
        } while (m.type != LAUNCH_EXITED);
        client_tell(c, LAUNCH_FORGET, &attempt, 0);
        kill(writer, SIGKILL);
        assert_int_equal(waitpid(writer, NULL, 0), writer);
}

static bool is_empty_folder(const char *path) {
        DIR *d = opendir(path);
        unsigned n = 0;

        assert_non_null(d);
        while (readdir(d))
                n++;
        closedir(d);
        return n == 2;
}

static void wait_for_empty_folder(const char *path) {
        for (unsigned i = 0; !is_empty_folder(path); i++) {
                assert_in_range(i, 0, 2000);
                (void)poll(NULL, 0, 5);
        }
}

static void test_forget_removes_the_home(void **state) {
        Client *c = *state;
        Run run;

        client_run(c, &run, "mkdir -p a/b ~/a/b; touch ~/a/b/c; chmod 0 ~/a/b; ls -a ~; chmod 0 ~");
        assert_int_equal(run.last.value, 0);
        run_deinit(&run);
        wait_for_empty_folder(client_path(c, "state/tasks"));
        wait_for_empty_folder(client_path(c, "state/trash"));
}

/* A launcher that is killed takes its sandboxes along; the next one clears what it left and is another generation. */
static void test_death_of_the_launcher(void **state) {
        Client *c = *state;
        Id attempt, generation = c->generation;
        Message m;

        client_spawn(c, &attempt, "touch ~/x; (setsid sleep 1000.9951 &); echo ready; sleep 1000.9952");
        do
                assert_true(client_receive(c, &m));
        while (m.type != LAUNCH_OUTPUT);
        client_wait_process("1000.9952", true);
        client_kill_launcher(c);
        client_wait_process("1000.995", false);
        client_restart(c);
        assert_false(id_equal(&generation, &c->generation));
        assert_int_equal(c->n_listed, 0);
        wait_for_empty_folder(client_path(c, "state/tasks"));
        wait_for_empty_folder(client_path(c, "state/trash"));
}

static void test_stop_ends_the_agents(void **state) {
        Client *c = *state;
        Id attempt;
        Message m;

        client_spawn(c, &attempt, "echo ready; sleep 1000.6651");
        do
                assert_true(client_receive(c, &m));
        while (m.type != LAUNCH_OUTPUT);
        /* teardown's SIGTERM ends it, and asserts a clean exit. */
}

static void expect_hello_refused(Client *c, uint32_t version_min, uint32_t version, const char *text) {
        _cleanup_(buf_deinit) Buf b = BUF_INIT(LAUNCH_MESSAGE_MAX);
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        Message m;

        client_disconnect(c);
        c->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        snprintf(address.sun_path, sizeof(address.sun_path), "%s/launcher.sock", c->dir);
        assert_int_equal(connect(c->fd, (struct sockaddr *)&address, sizeof(address)), 0);
        assert_int_equal(launch_begin(&b, LAUNCH_HELLO), 0);
        assert_int_equal(launch_add_u32(&b, LAUNCH_ATTR_VERSION_MIN, version_min), 0);
        assert_int_equal(launch_add_u32(&b, LAUNCH_ATTR_VERSION, version), 0);
        client_send(c, &b, -1);
        assert_true(client_receive(c, &m));
        assert_int_equal(m.type, LAUNCH_HELLO);
        if (text) {
                assert_true(client_receive(c, &m));
                assert_int_equal(m.type, LAUNCH_REFUSED);
                assert_non_null(strstr(m.text, text));
        }
        assert_false(client_receive(c, &m));
}

static void test_versions(void **state) {
        Client *c = *state;

        expect_hello_refused(c, LAUNCH_VERSION + 1, LAUNCH_VERSION + 5, "restart agent-router-launcher");
        expect_hello_refused(c, 0, 0, NULL);    /* malformed */
        client_disconnect(c);
        client_connect(c);
}

static void test_malformed_messages_end_the_connection(void **state) {
        static const char *const junk[] = { "x", "ARL1aaaaaaaaaaaaaaaaaaaaaaaa", "1LRA\x05\0\0\0\x0c\0\0\0" };
        Client *c = *state;
        Message m;

        for (size_t i = 0; i < ELEMENTSOF(junk); i++) {
                size_t n = i == 2 ? 12 : strlen(junk[i]);

                assert_int_equal(send(c->fd, junk[i], n, MSG_NOSIGNAL), n);
                assert_false(client_receive(c, &m));
                client_disconnect(c);
                client_connect(c);
        }
        /* An acknowledgement of what was never sent. */
        Id attempt;
        client_spawn(c, &attempt, "sleep 1000");
        assert_true(client_receive(c, &m));
        client_ack(c, &attempt, 1, 1000);
        assert_false(client_receive(c, &m));
        client_disconnect(c);
        client_connect(c);
        client_tell(c, LAUNCH_FORGET, &attempt, 0);
}

static void test_strangers_are_refused(void **state) {
        Client *c = *state;
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int status;
        pid_t pid;
        Run run;

        if (geteuid() != 0) {
                print_message("skipped: needs root to be somebody else\n");
                skip();
        }
        snprintf(address.sun_path, sizeof(address.sun_path), "%s/launcher.sock", c->dir);
        pid = fork();
        if (pid == 0) {
                char byte;
                int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

                if (setgid(12345) < 0 || setuid(12345) < 0 ||
                    connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                        _exit(1);
                /* Closed, or reset, without a word. */
                _exit(recv(fd, &byte, 1, 0) <= 0 ? 0 : 2);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        client_run(c, &run, "echo still");
        assert_string_equal((char *)buf_data(&run.out), "still\n");
        run_deinit(&run);
}

/* At the limit of descriptors a spawn fails with a sentence, what runs goes on, and room that comes back is used. */
static void test_no_descriptor_left(void **state) {
        Client c = { .nofile = 48 };
        bool failed = false;
        Id attempts[32];
        Message m;
        size_t n = 0;
        Run run;

        client_start_limited(&c, false, NULL);
        while (!failed) {
                assert_in_range(n, 0, ELEMENTSOF(attempts) - 1);
                client_spawn(&c, &attempts[n++], "echo up; sleep 1000");
                do
                        assert_true(client_receive(&c, &m));
                while (m.type == LAUNCH_SPAWNED);
                failed = m.type == LAUNCH_SPAWN_FAILED;
        }
        /* Ours or the child's, which begins with copies of ours. */
        assert_int_equal(m.error, EMFILE);
        assert_true(m.text[0]);
        assert_true(n > 3);
        for (size_t i = 0; i < n - 1; i++) {
                client_tell(&c, LAUNCH_KILL, &attempts[i], 0);
                client_collect(&c, &attempts[i], &run);
                assert_int_equal(run.last.type, LAUNCH_EXITED);
                run_deinit(&run);
                client_tell(&c, LAUNCH_FORGET, &attempts[i], 0);
        }
        client_run(&c, &run, "echo again");
        assert_string_equal((char *)buf_data(&run.out), "again\n");
        run_deinit(&run);
        client_stop(&c);
}

static void test_many_at_once(void **state) {
        Client *c = *state;
        Id attempts[40];
        Message m;
        Run run;

        for (size_t i = 0; i < ELEMENTSOF(attempts); i++)
                client_spawn(c, &attempts[i], "while [ ! -e all ]; do sleep 0.05; done");
        for (size_t i = 0; i < ELEMENTSOF(attempts); i++) {
                assert_true(client_receive(c, &m));
                assert_int_equal(m.type, LAUNCH_SPAWNED);
        }
        client_put_file(c, "ws/all", "", 0644);
        client_disconnect(c);
        client_connect(c);
        for (size_t i = 0; i < ELEMENTSOF(attempts); i++) {
                /* Whatever this connection said of the others is said again on the next. */
                client_disconnect(c);
                client_connect(c);
                client_collect(c, &attempts[i], &run);
                assert_int_equal(run.last.type, LAUNCH_EXITED);
                assert_int_equal(run.last.value, 0);
                run_deinit(&run);
                client_tell(c, LAUNCH_FORGET, &attempts[i], 0);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
                TEST(test_hello),
                TEST(test_output_and_exit),
                TEST(test_signalled),
                TEST(test_spawned_says_when_it_execed),
                TEST(test_back_pressure),
                TEST(test_reconnect_resends_what_is_not_acknowledged),
                TEST(test_new_router_takes_the_place),
                TEST(test_spawn_is_idempotent),
                TEST(test_kill_is_graceful_first),
                TEST(test_kill_leaves_no_survivor),
                TEST(test_forget_of_a_running_attempt_ends_it),
                TEST(test_output_ends_with_the_agent),
                TEST(test_forget_removes_the_home),
                TEST(test_death_of_the_launcher),
                TEST(test_stop_ends_the_agents),
                TEST(test_versions),
                TEST(test_malformed_messages_end_the_connection),
                TEST(test_strangers_are_refused),
                TEST(test_many_at_once),
                cmocka_unit_test(test_no_descriptor_left),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

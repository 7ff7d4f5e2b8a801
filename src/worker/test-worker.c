/* An attempt from SPAWN to FORGET, and over lost connections. */

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>

#include "base/fd.h"
#include "worker/test-launcher.h"

static void test_spawn(void **state) {
        const char *const argv[] = { "/bin/x", "-a", NULL }, *const environment[] = { "A=b", "C=", NULL };
        const char *const credentials[] = { "K=x.key", NULL }, *const read_only[] = { "/opt", NULL };
        const char *const files[] = { ".x/conf", "content", NULL }, *const require[] = { "landlock", NULL };
        const uint32_t gpus[] = { 3, 0 };
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
                                  .gpus = gpus,
                                  .n_gpus = 2,
                                  .network = true };
        Fixture f;
        Worker *w = NULL;
        char data[32];

        fixture_init(&f);
        assert_int_equal(launcher_spawn(f.client, &spec, &f, &w), WORKER_E_NOT_READY);
        fixture_start(&f);
        assert_int_equal(launcher_spawn(f.client, &spec, &f, &w), 0);
        run_until_heard(&f, "SPAWN 1 /bin/x -a A=b C= K=x.key /opt landlock 1 600:.x/conf:content /srv/w agent 1000 "
                            "1048576 5 50 gpu3 gpu0\n");
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

static int free_message(void **state) {
        buf_deinit(&message);
        return 0;
}

int main(void) {
        const struct CMUnitTest tests[] = {
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
                cmocka_unit_test(test_disconnect_everywhere),
        };

        return cmocka_run_group_tests(tests, NULL, free_message);
}

/* The connection: handshake, versions, outages, and what a launcher must not say. */

#include <stdio.h>

#include "worker/test-launcher.h"

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

static void test_inventory(void **state) {
        const LaunchGpu *gpus;
        Fixture f;
        size_t n = 9;

        /* A launcher that is too old to tell. */
        fixture_init(&f);
        fixture_start(&f);
        (void)launcher_client_gpus(f.client, &n);
        assert_int_equal(n, 0);
        assert_int_equal(launcher_client_cpus(f.client), 0);
        assert_int_equal(launcher_client_memory(f.client), 0);
        /* The next one does. */
        f.tells_machine = true;
        f.gpus[0] = (LaunchGpu){ .index = 0, .shares = 1, .memory = UINT64_C(80) << 30, .name = "NVIDIA A100", .uuid = "GPU-1234" };
        f.gpus[1] = (LaunchGpu){ .index = 1, .shares = 4, .name = "fake" };
        reconnect(&f);
        gpus = launcher_client_gpus(f.client, &n);
        assert_int_equal(n, 2);
        assert_memory_equal(&gpus[0], &f.gpus[0], sizeof(gpus[0]));
        assert_int_equal(gpus[1].shares, 4);
        assert_string_equal(gpus[1].name, "fake");
        assert_string_equal(gpus[1].uuid, "");
        assert_int_equal(launcher_client_cpus(f.client), 8);
        assert_int_equal(launcher_client_memory(f.client), UINT64_C(64) << 30);
        /* What a later one does not have is gone. */
        f.gpus[1].name[0] = 0;
        reconnect(&f);
        (void)launcher_client_gpus(f.client, &n);
        assert_int_equal(n, 1);
        fixture_deinit(&f);
}

/* An index that is not its place, and one twice. */
static void test_inventory_malformed(void **state) {
        for (uint32_t index = 0; index < 3; index += 2) {
                Fixture f;

                fixture_init(&f);
                f.gpus[0] = (LaunchGpu){ .index = 0, .shares = 1, .name = "a" };
                f.gpus[1] = (LaunchGpu){ .index = index, .shares = 1, .name = "b" };
                launcher_client_start(f.client);
                run_until_told(&f, "lost\n");
                assert_int_equal(f.lost_error, -EBADMSG);
                fixture_deinit(&f);
        }
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
                cmocka_unit_test(test_inventory),
                cmocka_unit_test(test_inventory_malformed),
                cmocka_unit_test(test_versions),
                cmocka_unit_test(test_refused),
                cmocka_unit_test(test_connect_fails),
                cmocka_unit_test(test_malformed),
                cmocka_unit_test(test_fuzz),
                cmocka_unit_test(test_close_early),
        };

        return cmocka_run_group_tests(tests, NULL, free_message);
}

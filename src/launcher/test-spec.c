#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "launcher/spec.h"

static const Id attempt = { { 1, 2, 3 } };

static void begin(Buf *b) {
        *b = (Buf)BUF_INIT(LAUNCH_MESSAGE_MAX);
        assert_int_equal(launch_begin(b, LAUNCH_SPAWN), 0);
        assert_int_equal(launch_add_id(b, LAUNCH_ATTR_ATTEMPT, &attempt), 0);
        assert_int_equal(launch_add_str(b, LAUNCH_ATTR_AGENT, "exec"), 0);
        assert_int_equal(launch_add_str(b, LAUNCH_ATTR_ARGV, "/bin/sh"), 0);
}

static int end(Buf *b, Spec *spec, Failure *failure) {
        LaunchReader reader;
        int r;

        assert_int_equal(launch_open(&reader, buf_data(b), buf_size(b)), 0);
        r = spec_read(&reader, spec, failure);
        buf_deinit(b);
        return r;
}

static void expect_refused(LaunchAttr attr, const void *data, size_t n, const char *stage) {
        Failure failure = {};
        Spec spec;
        Buf b;

        begin(&b);
        assert_int_equal(launch_add(&b, attr, data, n), 0);
        assert_int_equal(end(&b, &spec, &failure), SPEC_E_INVALID);
        assert_string_equal(failure.stage, stage);
        assert_true(failure.error > 0 && failure.text[0]);
        assert_true(id_equal(&spec.attempt, &attempt));
        spec_deinit(&spec);
}

static void test_read(void **state) {
        static const char file[] = "\x80\x01\0\0.codex/auth.json\0{}";
        Failure failure = {};
        Spec spec;
        Buf b;

        begin(&b);
        assert_int_equal(launch_add_str(&b, LAUNCH_ATTR_ARGV, "-c"), 0);
        assert_int_equal(launch_add_str(&b, LAUNCH_ATTR_ENV, "PATH=/bin"), 0);
        assert_int_equal(launch_add_str(&b, LAUNCH_ATTR_ENV_CREDENTIAL, "KEY=codex.key"), 0);
        assert_int_equal(launch_add_u32(&b, LAUNCH_ATTR_UID, 1234), 0);
        assert_int_equal(launch_add_str(&b, LAUNCH_ATTR_WORKSPACE, "/srv/x"), 0);
        assert_int_equal(launch_add_u64(&b, LAUNCH_ATTR_MEMORY_MAX, MIB(64)), 0);
        assert_int_equal(launch_add_u32(&b, LAUNCH_ATTR_NETWORK, 1), 0);
        assert_int_equal(launch_add(&b, LAUNCH_ATTR_HOME_FILE, file, sizeof(file) - 1), 0);
        assert_int_equal(launch_add_u32(&b, LAUNCH_ATTR_GPU, 5), 0);
        assert_int_equal(launch_add_u32(&b, LAUNCH_ATTR_GPU, 0), 0);
        assert_int_equal(launch_add_u32(&b, LAUNCH_ATTR_GPU, 5), 0);
        assert_int_equal(launch_add(&b, (LaunchAttr)999, "new", 3), 0);
        assert_int_equal(end(&b, &spec, &failure), 0);
        assert_int_equal(spec.argv.n, 2);
        assert_string_equal(spec.argv.items[1], "-c");
        assert_null(spec.argv.items[2]);
        assert_int_equal(spec.uid, 1234);
        assert_string_equal(spec.workspace, "/srv/x");
        assert_int_equal(spec.memory_max, MIB(64));
        assert_true(spec.network);
        assert_int_equal(spec.n_gpus, 2);
        assert_int_equal(spec.gpus[0], 5);
        assert_int_equal(spec.gpus[1], 0);
        assert_int_equal(spec.n_files, 1);
        assert_int_equal(spec.files[0].mode, 0600);
        assert_string_equal(spec.files[0].path, ".codex/auth.json");
        assert_int_equal(spec.files[0].n, 2);
        spec_deinit(&spec);
}

static void test_defaults(void **state) {
        Failure failure = {};
        Spec spec;
        Buf b;

        begin(&b);
        assert_int_equal(end(&b, &spec, &failure), 0);
        assert_int_equal(spec.uid, -1);
        assert_false(spec.network);
        assert_null(spec.workspace);
        assert_int_equal(spec.n_gpus, 0);
        spec_deinit(&spec);
}

static void test_refusals(void **state) {
        static const char *const paths[] = { "relative", "/", "/a/../b", "/a/./b", "/a//b", "/a/", "/..", "" };
        static const char *const files[] = { "../x", "/etc/x", "a/../../x", "a//b", "", ".", "a/.." };

        for (size_t i = 0; i < ELEMENTSOF(paths); i++) {
                expect_refused(LAUNCH_ATTR_WORKSPACE, paths[i], strlen(paths[i]), "workspace");
                expect_refused(LAUNCH_ATTR_READ_ONLY, paths[i], strlen(paths[i]), "read-only");
        }
        for (size_t i = 0; i < ELEMENTSOF(files); i++) {
                uint8_t data[64] = { 0x80, 0x01 };

                memcpy(data + 4, files[i], strlen(files[i]));
                expect_refused(LAUNCH_ATTR_HOME_FILE, data, 4 + strlen(files[i]) + 1, "home");
        }
        expect_refused(LAUNCH_ATTR_HOME_FILE, "\x80\x01\0\0no-nul", 10, "home");
        expect_refused(LAUNCH_ATTR_HOME_FILE, "\xff\xff\0\0x\0", 6, "home");     /* set-id bits */
        expect_refused(LAUNCH_ATTR_HOME_FILE, "abc", 3, "home");
        expect_refused(LAUNCH_ATTR_ENV, "NOVALUE", 7, "spec");
        expect_refused(LAUNCH_ATTR_ENV, "=x", 2, "spec");
        expect_refused(LAUNCH_ATTR_ENV, "1A=x", 4, "spec");
        expect_refused(LAUNCH_ATTR_ENV_CREDENTIAL, "KEY=../store.key", 16, "credential");
        expect_refused(LAUNCH_ATTR_ENV_CREDENTIAL, "KEY=a/b", 7, "credential");
        expect_refused(LAUNCH_ATTR_SECCOMP, "../x", 4, "spec");
        expect_refused(LAUNCH_ATTR_UID, "abc", 3, "spec");
        expect_refused(LAUNCH_ATTR_GPU, "abc", 3, "gpu");
        expect_refused(LAUNCH_ATTR_AGENT, "twice", 5, "spec");
        expect_refused(LAUNCH_ATTR_ARGV, "a\0b", 3, "spec");
}

static void test_argv_must_be_absolute(void **state) {
        Buf b = BUF_INIT(LAUNCH_MESSAGE_MAX);
        Failure failure = {};
        Spec spec;

        assert_int_equal(launch_begin(&b, LAUNCH_SPAWN), 0);
        assert_int_equal(launch_add_id(&b, LAUNCH_ATTR_ATTEMPT, &attempt), 0);
        assert_int_equal(launch_add_str(&b, LAUNCH_ATTR_AGENT, "exec"), 0);
        assert_int_equal(launch_add_str(&b, LAUNCH_ATTR_ARGV, "sh"), 0);
        assert_int_equal(end(&b, &spec, &failure), SPEC_E_INVALID);
        spec_deinit(&spec);
}

static void test_no_attempt_is_malformed(void **state) {
        Buf b = BUF_INIT(LAUNCH_MESSAGE_MAX);
        Failure failure = {};
        Spec spec;

        assert_int_equal(launch_begin(&b, LAUNCH_SPAWN), 0);
        assert_int_equal(launch_add_str(&b, LAUNCH_ATTR_ARGV, "/bin/sh"), 0);
        assert_int_equal(end(&b, &spec, &failure), SPEC_E_MALFORMED);
}

static void test_path_within(void **state) {
        assert_true(spec_path_is_within("/a/b", "/a"));
        assert_true(spec_path_is_within("/a", "/a"));
        assert_false(spec_path_is_within("/ab", "/a"));
        assert_false(spec_path_is_within("/a", "/a/b"));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_read),
                cmocka_unit_test(test_defaults),
                cmocka_unit_test(test_refusals),
                cmocka_unit_test(test_argv_must_be_absolute),
                cmocka_unit_test(test_no_attempt_is_malformed),
                cmocka_unit_test(test_path_within),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

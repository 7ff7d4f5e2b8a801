#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "launcher/config.h"

static char directory[] = "/tmp/test-config-XXXXXX";
static char path[64];

static int setup(void **state) {
        assert_non_null(mkdtemp(directory));
        snprintf(path, sizeof(path), "%s/agent-router.yaml", directory);
        return 0;
}

static int teardown(void **state) {
        unlink(path);
        return rmdir(directory);
}

static void put(const char *text, mode_t mode) {
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

        assert_true(fd >= 0);
        assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
        assert_int_equal(fchmod(fd, mode), 0);
}

static void test_read(void **state) {
        char error[CONFIG_ERROR_MAX] = "";
        Config c;

        put("version: 1\nlimits: { anything: [goes, here] }\nsandbox:\n  workspace_roots: [/srv/a, /srv/b]\n  read_only: [/opt/x]\n"
            "  worker_user: nobody\n  uid_min: 500\n  memory_max: 2G\n  pids_max: 77\n  cpu_percent: 150\n  require: [landlock]\n", 0644);
        if (config_load(path, &c, error))
                fail_msg("%s", error);
        assert_int_equal(c.workspace_roots.n, 2);
        assert_string_equal(c.workspace_roots.items[1], "/srv/b");
        assert_string_equal(c.read_only.items[0], "/opt/x");
        assert_string_equal(c.worker_user, "nobody");
        assert_int_equal(c.uid_min, 500);
        assert_int_equal(c.memory_max, UINT64_C(2) << 30);
        assert_int_equal(c.pids_max, 77);
        assert_int_equal(c.cpu_percent, 150);
        config_deinit(&c);
}

static void test_defaults_without_a_file(void **state) {
        char error[CONFIG_ERROR_MAX] = "";
        Config c;

        assert_int_equal(config_load("/nonexistent/agent-router.yaml", &c, error), 0);
        assert_string_equal(c.worker_user, CONFIG_WORKER_USER);
        assert_int_equal(c.uid_min, CONFIG_UID_MIN);
        if (geteuid() == 0) {
                assert_int_equal(c.workspace_roots.n, 1);
                assert_string_equal(c.workspace_roots.items[0], CONFIG_WORKSPACE_ROOT);
        } else
                assert_int_equal(c.worker_uid, geteuid());
        config_deinit(&c);
}

static void expect_error(const char *text, mode_t mode, const char *wanted) {
        char error[CONFIG_ERROR_MAX] = "";
        Config c;

        put(text, mode);
        assert_int_equal(config_load(path, &c, error), CONFIG_E_INVALID);
        if (!strstr(error, wanted))
                fail_msg("<%s> does not hold <%s>", error, wanted);
}

static void test_errors(void **state) {
        expect_error("sandbox:\n  workspace_root: [/x]\n", 0644, ":2:3: unknown key \"workspace_root\"");
        expect_error("sandbox:\n  workspace_roots: [x]\n", 0644, ":2:21: workspace_roots: expected an absolute path");
        expect_error("sandbox:\n  read_only: [/a/../b]\n", 0644, "read_only: expected an absolute path");
        expect_error("sandbox:\n  uid_min: 0\n", 0644, "uid_min");
        expect_error("sandbox: [\n", 0644, "agent-router.yaml:");
}

static void test_others_must_not_write_it(void **state) {
        expect_error("version: 1\n", 0666, "mode 666");
        expect_error("version: 1\n", 0664, "mode 664");
}

static void test_worker_is_never_root(void **state) {
        if (geteuid() != 0) {
                print_message("skipped: worker_user counts for a root launcher only\n");
                skip();
        }
        expect_error("sandbox: { worker_user: root }\n", 0644, "root is uid 0");
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_read),
                cmocka_unit_test(test_defaults_without_a_file),
                cmocka_unit_test(test_errors),
                cmocka_unit_test(test_others_must_not_write_it),
                cmocka_unit_test(test_worker_is_never_root),
        };

        return cmocka_run_group_tests(tests, setup, teardown);
}

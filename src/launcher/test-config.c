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

static void test_gpus(void **state) {
        char error[CONFIG_ERROR_MAX] = "";
        Config c;

        put("resources:\n  gpus:\n  - { name: NVIDIA A100, devices: [/dev/nvidia3, /dev/nvidia-caps/nvidia-cap21], uuid: MIG-1-2, memory: 20G, shares: 64 }\n"
            "  - { name: b, devices: [/dev/dri/renderD128] }\n", 0644);
        if (config_load(path, &c, error))
                fail_msg("%s", error);
        assert_false(c.gpus_auto);
        assert_int_equal(c.gpus.n, 2);
        assert_string_equal(c.gpus.items[0].info.name, "NVIDIA A100");
        assert_string_equal(c.gpus.items[0].info.uuid, "MIG-1-2");
        assert_int_equal(c.gpus.items[0].info.memory, UINT64_C(20) << 30);
        assert_int_equal(c.gpus.items[0].info.shares, 64);
        assert_int_equal(c.gpus.items[0].minor, 3);
        assert_int_equal(c.gpus.items[0].devices.n, 2);
        assert_string_equal(c.gpus.items[0].devices.items[1], "/dev/nvidia-caps/nvidia-cap21");
        assert_int_equal(c.gpus.items[1].info.index, 1);
        assert_int_equal(c.gpus.items[1].info.shares, 1);
        assert_int_equal(c.gpus.items[1].minor, -1);
        config_deinit(&c);

        static const struct {
                const char *text;
                bool found;
        } table[] = {
                { "version: 1\n", true }, { "resources: {}\n", true }, { "resources:\n", true }, { "resources: { gpus: auto }\n", true },
                { "resources: { gpus: [] }\n", false }, { "", true },
        };
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                put(table[i].text, 0644);
                if (config_load(path, &c, error))
                        fail_msg("%s", error);
                assert_int_equal(c.gpus_auto, table[i].found);
                assert_int_equal(c.gpus.n, 0);
                config_deinit(&c);
        }
        assert_int_equal(config_load("/nonexistent/agent-router.yaml", &c, error), 0);
        assert_true(c.gpus_auto);
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

static void test_gpu_errors(void **state) {
        static const struct {
                const char *gpus, *wanted;
        } table[] = {
                { "all", ":2:9: resources.gpus: expected auto, or a list of {name, devices, uuid, memory, shares}" },
                { "{}", ":2:9: resources.gpus: expected auto" },
                { "[x]", ":2:10: resources.gpus: expected auto" },
                { "[{devices: [/dev/a]}]", ":2:10: resources.gpus: name: is required" },
                { "[{name: a}]", ":2:10: resources.gpus: devices: is required" },
                { "[{name: a, devices: []}]", ":2:29: devices: 0 nodes; expected 1 to 16" },
                { "[{name: a, devices: /dev/a}]", ":2:29: devices: expected" },
                { "[{name: a, devices: [/dev/a, /srv/b]}]", ":2:38: devices: expected a path below /dev" },
                { "[{name: a, devices: [/dev/../etc/shadow]}]", "expected a path below /dev" },
                { "[{name: a, devices: [/dev]}]", "expected a path below /dev" },
                { "[{name: a, devices: [/dev/null]}]", "expected a path below /dev" },
                { "[{name: a, devices: [/dev/pts/0]}]", "expected a path below /dev" },
                { "[{name: a, devices: [/dev/shm/x]}]", "expected a path below /dev" },
                { "[{name: \"\", devices: [/dev/a]}]", ":2:17: name: expected 1 to 95 printable bytes" },
                { "[{name: \"a\\nb\", devices: [/dev/a]}]", "printable bytes" },
                { "[{name: a, devices: [/dev/a]}, {name: a, devices: [/dev/b]}]", ":2:47: name: \"a\" is GPU 0 already" },
                { "[{name: a, devices: [/dev/a], uuid: \"GPU-1,GPU-2\"}]", ":2:45: uuid: expected GPU-" },
                { "[{name: a, devices: [/dev/a], memory: much}]", ":2:47: memory" },
                { "[{name: a, devices: [/dev/a], shares: 0}]", ":2:47: shares" },
                { "[{name: a, devices: [/dev/a], shares: 65}]", ":2:47: shares" },
                { "[{name: a, devices: [/dev/a], share: 2}]", ":2:39: unknown key \"share\"" },
                { "auto\n  gpu: []", ":3:3: unknown key \"gpu\"" },
        };
        char text[4096], *end;

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                snprintf(text, sizeof(text), "resources:\n  gpus: %s\n", table[i].gpus);
                expect_error(text, 0644, table[i].wanted);
        }
        expect_error("resources: []\n", 0644, ":1:12: resources: expected");
        end = text + snprintf(text, sizeof(text), "resources:\n  gpus:\n");
        for (int i = 0; i < 65; i++)
                end += snprintf(end, sizeof(text) - (size_t)(end - text), "  - {name: g%d, devices: [/dev/a]}\n", i);
        expect_error(text, 0644, ":3:3: gpus: 65 GPUs; expected at most 64");
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
                cmocka_unit_test(test_gpus),
                cmocka_unit_test(test_gpu_errors),
                cmocka_unit_test(test_others_must_not_write_it),
                cmocka_unit_test(test_worker_is_never_root),
        };

        return cmocka_run_group_tests(tests, setup, teardown);
}

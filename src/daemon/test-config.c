/* What is wrong with a configuration is said with line and column, and what was expected. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "daemon/config.h"

static char directory[] = "/tmp/test-config-XXXXXX";

static void write_file(const char *name, const char *text, char path[static 256]) {
        _cleanup_close_ int fd = -1;

        snprintf(path, 256, "%s/%s", directory, name);
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
}

static Config *load_good(const char *text) {
        char path[256], error[YAML_ERROR_MAX] = "";
        Config *c = NULL;

        write_file("c.yaml", text, path);
        if (config_load(&c, path, error))
                fail_msg("%s", error);
        return c;
}

static void test_defaults(void **state) {
        char error[YAML_ERROR_MAX] = "";
        Config *c = NULL;

        assert_int_equal(config_load(&c, NULL, error), 0);
        assert_int_equal(c->sched.running_max, 100);
        assert_int_equal(c->sched.queued_max, 100000);
        assert_int_equal(c->api.body_max, MIB(4));
        assert_string_equal(c->sched.require[0], "landlock");
        assert_null(c->sched.require[3]);
        config_free(c);
        /* An empty mapping but for the version is the same. */
        c = load_good("version: 1\n");
        assert_int_equal(c->sched.capture_max, MIB(8));
        assert_int_equal(c->sched.timeout_us, 3600 * USEC_PER_SEC);
        config_free(c);
}

static void test_all(void **state) {
        Config *c = load_good("version: 1\n"
                "limits: { running: 5, queued: 6, queued_per_principal: 7, body: 1M, connections: 8, running_per_principal: 2,\n"
                "  queued_bytes: 5M, batch_body: 2M }\n"
                "tasks: { timeout: 2min, max_attempts: 3, backoff: 4s, capture: 1M }\n"
                "sandbox: { require: [pidns], memory_max: 1G, pids_max: 9, cpu_percent: 150, workspace_roots: [/srv], read_only: [], "
                "worker_user: nobody, uid_min: 1000 }\n"
                "agents:\n"
                "  codex: { enabled: true, path: /opt/codex, search: [/a, /b], settings: {base_url: \"http://x/\"}, environment: {A: b}, "
                "credentials: {KEY: codex.key}, read_only: [/c], concurrency: 2 }\n"
                "  exec: { enabled: false }\n"
                "principals:\n"
                "  \"uid:1000\": { running: 3, queued: 9, weight: 2 }\n"
                "  \"key:ci/0123abcd\": {}\n"
                "groups:\n"
                "  slow: { running: 1, paused: yes, match: { label: \"kind=slow=er\" } }\n"
                "  fast: { queued: 7 }\n"
                "resources: { cpus: 4, memory: 8G, gpus: [ { name: a, devices: [/dev/x], uuid: GPU-1, memory: 1G, shares: 2 } ] }\n"
                "pressure: { memory: { launch: 30 }, io: { launch: 40, admit: 50 }, memory_available: 1G }\n"
                "shutdown: { drain: 90s }\n");

        assert_int_equal(c->sched.running_max, 5);
        assert_int_equal(c->sched.queued_max, 6);
        assert_int_equal(c->sched.queued_per_principal_max, 7);
        assert_int_equal(c->api.body_max, MIB(1));
        assert_int_equal(c->api.connections_max, 8);
        assert_int_equal(c->sched.timeout_us, 120 * USEC_PER_SEC);
        assert_int_equal(c->sched.max_attempts, 3);
        assert_int_equal(c->sched.backoff_us, 4 * USEC_PER_SEC);
        assert_int_equal(c->sched.capture_max, MIB(1));
        assert_string_equal(c->sched.require[0], "pidns");
        assert_null(c->sched.require[1]);
        assert_int_equal(c->sched.memory_max, UINT64_C(1) << 30);
        assert_int_equal(c->sched.pids_max, 9);
        assert_int_equal(c->sched.cpu_percent, 150);
        assert_int_equal(c->n_agents, 2);
        assert_string_equal(c->agents[0].name, "codex");
        assert_string_equal(c->agents[0].path, "/opt/codex");
        assert_string_equal(c->agents[0].search[1], "/b");
        assert_string_equal(c->agents[0].settings[0], "base_url=http://x/");
        assert_string_equal(c->agents[0].environment[0], "A=b");
        assert_string_equal(c->agents[0].credentials[0], "KEY=codex.key");
        assert_int_equal(c->agents[0].concurrency, 2);
        assert_true(c->agents[1].disabled);
        assert_int_equal(c->sched.running_per_principal_max, 2);
        assert_int_equal(c->sched.queued_bytes_max, MIB(5));
        assert_int_equal(c->api.batch_body_max, MIB(2));
        assert_int_equal(c->sched.n_limits, 4);
        const SchedLimitConfig *l = c->sched.limits;
        assert_int_equal(l[0].kind, SCHED_PRINCIPAL);
        assert_string_equal(l[0].name, "uid:1000");
        assert_int_equal(l[0].running, 3);
        assert_int_equal(l[0].queued, 9);
        assert_int_equal(l[0].weight, 2);
        assert_int_equal(l[1].running, SCHED_NO_LIMIT);
        assert_int_equal(l[2].kind, SCHED_GROUP);
        assert_string_equal(l[2].name, "slow");
        assert_int_equal(l[2].running, 1);
        assert_true(l[2].paused);
        assert_int_equal(l[3].queued, 7);
        assert_int_equal(c->sched.n_matches, 1);
        assert_string_equal(c->sched.matches[0].group, "slow");
        assert_string_equal(c->sched.matches[0].key, "kind");
        assert_string_equal(c->sched.matches[0].value, "slow=er");
        assert_int_equal(c->sched.cpus_milli, 4000);
        assert_int_equal(c->sched.memory, UINT64_C(8) << 30);
        const PressureConfig *p = &c->sched.pressure;
        assert_int_equal(p->launch[PRESSURE_MEMORY], 30);
        assert_int_equal(p->admit[PRESSURE_MEMORY], 20);
        assert_int_equal(p->launch[PRESSURE_CPU], 0);
        assert_int_equal(p->launch[PRESSURE_IO], 40);
        assert_int_equal(p->admit[PRESSURE_IO], 50);
        assert_int_equal(p->available, UINT64_C(1) << 30);
        assert_int_equal(c->drain_us, 90 * USEC_PER_SEC);
        config_free(c);
}

static void test_bad(void **state) {
        static const struct { const char *text, *at, *says; } table[] = {
                { "", ":1:1: ", "version" },
                { "limits: {}\n", ":1:1: ", "version: is required" },
                { "version: 2\n", ":1:10: ", "version" },
                { "- 1\n", ":1:1: ", "expected a mapping" },
                { "version: 1\nlimit: {}\n", ":2:1: ", "unknown key \"limit\"" },
                { "version: 1\nlimits: 5\n", ":2:9: ", "limits" },
                { "version: 1\nlimits:\n  running: 0\n", ":3:12: ", "running" },
                { "version: 1\nlimits:\n  running: many\n", ":3:12: ", "running" },
                { "version: 1\nlimits:\n  runing: 1\n", ":3:3: ", "runing" },
                { "version: 1\nlimits: { body: 100 }\n", ":2:17: ", "from 1K to 64M" },
                { "version: 1\nlimits: { body: 65M }\n", ":2:17: ", "from 1K to 64M" },
                { "version: 1\ntasks: { capture: 1K }\n", ":2:19: ", "from 4K to 256M" },
                { "version: 1\ntasks: { timeout: soon }\n", ":2:19: ", "timeout" },
                { "version: 1\ntasks: { timeout: 0s }\n", ":2:19: ", "timeout" },
                { "version: 1\ntasks: { timeout: 8d }\n", ":2:19: ", "from 1s to 7d" },
                { "version: 1\ntasks: { backoff: 2h }\n", ":2:19: ", "at most 1h" },
                { "version: 1\ntasks: { max_attempts: 21 }\n", ":2:24: ", "max_attempts" },
                { "version: 1\nsandbox: { require: landlock }\n", ":2:21: ", "require" },
                { "version: 1\nsandbox: { require: [[a]] }\n", ":2:22: ", "require" },
                { "version: 1\nsandbox: { cpu_percent: -1 }\n", ":2:25: ", "cpu_percent" },
                { "version: 1\nagents: [codex]\n", ":2:9: ", "agents" },
                { "version: 1\nagents:\n  codex: yes\n", ":3:10: ", "agents.codex: expected a mapping" },
                { "version: 1\nagents:\n  \"a b\": {}\n", ":3:10: ", "'a b' is no name" },
                { "version: 1\nagents:\n  codex: { path: codex }\n", ":3:18: ", "expected an absolute path" },
                { "version: 1\nagents:\n  codex: { enabled: perhaps }\n", ":3:21: ", "enabled" },
                { "version: 1\nagents:\n  codex: { settings: { a: [b] } }\n", ":3:27: ", "settings" },
                { "version: 1\nagents:\n  codex: { concurrency: 0 }\n", ":3:25: ", "concurrency" },
                { "version: 1\nagents:\n  codex: { colour: red }\n", ":3:12: ", "colour" },
                { "version: 1\nagents:\n  codex: {}\n  codex: {}\n", ":4:3: ", "codex" },
                { "version: 1\nagents:\n  codex: { account: a b }\n", ":3:21: ", "'a b' is no name" },
                { "version: 1\nlimits: { running_per_principal: 0 }\n", ":2:34: ", "running_per_principal" },
                { "version: 1\nlimits: { queued_bytes: 5 }\n", ":2:25: ", "at least 1M" },
                { "version: 1\nlimits: { batch_body: 1G }\n", ":2:23: ", "from 1K to 128M" },
                { "version: 1\nprincipals: [a]\n", ":2:13: ", "principals" },
                { "version: 1\nprincipals: { root: {} }\n", ":2:15: ", "expected uid:N or key:NAME" },
                { "version: 1\nprincipals: { \"uid:x\": {} }\n", ":2:15: ", "'uid:x' is no caller" },
                { "version: 1\nprincipals: { \"uid:1\": { weight: 0 } }\n", ":2:34: ", "weight" },
                { "version: 1\nprincipals: { \"uid:1\": { paused: yes } }\n", ":2:26: ", "paused" },
                { "version: 1\nprincipals: { \"uid:1\": 5 }\n", ":2:24: ", "expected a mapping" },
                { "version: 1\ngroups: { \"a b\": {} }\n", ":2:11: ", "'a b' is no name" },
                { "version: 1\ngroups: { a: { weight: 1 } }\n", ":2:16: ", "weight" },
                { "version: 1\ngroups: { a: { match: {} } }\n", ":2:23: ", "NAME=VALUE" },
                { "version: 1\ngroups: { a: { match: { label: kind } } }\n", ":2:32: ", "NAME=VALUE" },
                { "version: 1\ngroups: { a: { match: { label: a=b, x: y } } }\n", ":2:37: ", "\"x\"" },
                { "version: 1\nresources: { cpus: 0 }\n", ":2:20: ", "cpus" },
                { "version: 1\nresources: { memory: 5 }\n", ":2:22: ", "at least 1M" },
                { "version: 1\nresources: { gpus: none }\n", ":2:20: ", "expected auto" },
                { "version: 1\nresources: { gpus: [ a ] }\n", ":2:22: ", "expected a mapping" },
                { "version: 1\nresources: { gpus: [ { names: a } ] }\n", ":2:24: ", "names" },
                { "version: 1\npressure: { memory: 20 }\n", ":2:21: ", "memory" },
                { "version: 1\npressure: { memory: { launch: 101 } }\n", ":2:31: ", "launch" },
                { "version: 1\npressure: { disk: {} }\n", ":2:13: ", "disk" },
                { "version: 1\nshutdown: { drain: 2d }\n", ":2:20: ", "at most 1d" },
                { "version: 1\nshutdown: { wait: 2s }\n", ":2:13: ", "wait" },
                { "version: 1\nlimits: { running: 1\n", ":3:1: ", "" },
        };

        unsigned failed = 0;

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                char path[256], expected[300], error[YAML_ERROR_MAX] = "";
                Config *c = NULL;
                int r;
                write_file("c.yaml", table[i].text, path);
                r = config_load(&c, path, error);
                snprintf(expected, sizeof(expected), "%s%s", path, table[i].at);
                if (r != CONFIG_E_INVALID || strncmp(error, expected, strlen(expected)) != 0 ||
                    !strstr(error, table[i].says)) {
                        print_error("%s-> %d: %s (expected %s … %s)\n", table[i].text, r, error, table[i].at, table[i].says);
                        failed++;
                }
                assert_null(c);
        }
        assert_int_equal(failed, 0);
}

static void test_missing(void **state) {
        char error[YAML_ERROR_MAX] = "";
        Config *c = NULL;

        assert_int_equal(config_load(&c, "/nonexistent/c.yaml", error), CONFIG_E_INVALID);
        assert_string_equal(error, "/nonexistent/c.yaml: No such file or directory");
}

/* Configured agents first; agents.d before the shipped ones; disabled ones left out. */
static void test_agents(void **state) {
        static const char manifest[] = "version: 1\nname: %s\ntitle: %s\ninstall: none\ncommand: {find: [/bin/sh]}\noutput: {format: text}\n";
        char path[256], text[512], error[YAML_ERROR_MAX] = "", configuration[64], data[64];
        static const char *const names[] = { "zeta", "alpha", "off" };
        ConfigAdapters adapters = {};
        Config *c;

        snprintf(configuration, sizeof(configuration), "%s/etc", directory);
        snprintf(data, sizeof(data), "%s/data", directory);
        assert_int_equal(mkdir(configuration, 0700) | mkdir(data, 0700), 0);
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                snprintf(path, sizeof(path), "%s/workers", data);
                (void)mkdir(path, 0700);
                snprintf(path, sizeof(path), "%s/workers/%s", data, names[i]);
                assert_int_equal(mkdir(path, 0700), 0);
                snprintf(path, sizeof(path), "data/workers/%s/agent.yaml", names[i]);
                snprintf(text, sizeof(text), manifest, names[i], "Shipped");
                char full[256];
                write_file(path, text, full);
        }
        snprintf(path, sizeof(path), "%s/agents.d", configuration);
        assert_int_equal(mkdir(path, 0700), 0);
        snprintf(text, sizeof(text), manifest, "alpha", "Own");
        write_file("etc/agents.d/alpha.yaml", text, path);

        c = load_good("version: 1\nagents: { zeta: { concurrency: 7, account: z }, off: { enabled: no } }\n");
        if (config_load_adapters(c, configuration, data, &adapters, error))
                fail_msg("%s", error);
        assert_int_equal(adapters.n, 2);
        assert_string_equal(adapter_name(adapters.items[0]), "zeta");
        assert_int_equal(adapter_concurrency(adapters.items[0]), 7);
        assert_string_equal(adapter_account(adapters.items[0]), "z");
        assert_string_equal(adapter_name(adapters.items[1]), "alpha");
        assert_string_equal(adapter_title(adapters.items[1]), "Own");
        assert_string_equal(adapter_account(adapters.items[1]), "alpha");
        config_adapters_deinit(&adapters);
        config_free(c);

        c = load_good("version: 1\nagents: { nobody: {} }\n");
        assert_int_equal(config_load_adapters(c, configuration, data, &adapters, error), CONFIG_E_INVALID);
        assert_non_null(strstr(error, "agents.nobody: there is no manifest of this name in "));
        config_free(c);

        write_file("etc/agents.d/broken.yaml", "version: 1\nname: broken\nnonsense: 1\n", path);
        c = load_good("version: 1\n");
        assert_int_equal(config_load_adapters(c, configuration, data, &adapters, error), CONFIG_E_INVALID);
        assert_non_null(strstr(error, "agents.d/broken.yaml:"));
        config_free(c);
}

/* What a reload can't apply is named. */
static void test_launchers_part(void **state) {
        static const struct { const char *a, *b, *names; } table[] = {
                { "", "limits: { running: 1 }\n", "" },
                { "", "sandbox: { uid_min: 5 }\n", "sandbox.uid_min" },
                { "sandbox: { read_only: [/a] }\nresources: { gpus: [] }\n", "sandbox: { read_only: [/b], memory_max: 1G }\n",
                  "sandbox.read_only, resources.gpus" },
                { "resources: { gpus: [{name: a, devices: [/dev/a]}] }\n", "resources: { gpus: [{name: a, devices: [/dev/a]}] }\n", "" },
                { "resources: { gpus: [{name: a, devices: [/dev/a]}] }\n", "resources: { gpus: [{name: b, devices: [/dev/a]}] }\n",
                  "resources.gpus" },
        };
        char text[256], names[256];

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                snprintf(text, sizeof(text), "version: 1\n%s", table[i].a);
                Config *a = load_good(text);
                snprintf(text, sizeof(text), "version: 1\n%s", table[i].b);
                Config *b = load_good(text);
                assert_int_equal(config_launchers_part(a, b, names), *table[i].names != 0);
                assert_string_equal(names, table[i].names);
                config_free(a);
                config_free(b);
        }
}

static int remove_fn(const char *path, const struct stat *st, int type, struct FTW *ftw) {
        return remove(path);
}

static int make_directory(void **state) {
        return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state) {
        return nftw(directory, remove_fn, 16, FTW_DEPTH | FTW_PHYS);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_defaults),
                cmocka_unit_test(test_all),
                cmocka_unit_test(test_bad),
                cmocka_unit_test(test_missing),
                cmocka_unit_test(test_agents),
                cmocka_unit_test(test_launchers_part),
        };
        return cmocka_run_group_tests_name("daemon-config", tests, make_directory, remove_directory);
}

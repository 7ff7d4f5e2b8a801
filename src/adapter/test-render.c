#include <sys/stat.h>
#include <sys/wait.h>

#include "adapter/test-util.h"

#define HEAD "version: 1\nname: x\ntitle: X\ninstall: get x\n"
#define OUTPUT "output: {format: text}\n"


static bool has(char **list, const char *s) {
        for (; list && *list; list++)
                if (streq(*list, s))
                        return true;
        return false;
}

static bool holds(char **list, const char *s) {
        for (; list && *list; list++)
                if (strstr(*list, s))
                        return true;
        return false;
}

static AdapterCommand *render(Adapter *a, const StoreTask *task) {
        char error[YAML_ERROR_MAX] = "";
        AdapterCommand *c = NULL;
        int r;

        if (!a->executable)
                assert_int_equal(adapter_probe(a), 0);
        r = adapter_render(a, task, "/home/task", &c, error);
        if (r)
                fail_msg("%d: %s", r, error);
        return c;
}

/* argv after argv[0], joined by '|'. */
static void assert_args(char **argv, const char *expected) {
        char joined[2048] = "";

        for (char **arg = argv + 1; *arg; arg++) {
                size_t n = strlen(joined);
                snprintf(joined + n, sizeof(joined) - n, "%s%s", n ? "|" : "", *arg);
        }
        assert_string_equal(joined, expected);
}

static void test_templates(void **state) {
        static const char manifest[] = HEAD
                "settings: {url: '', model: '', note: n}\n"
                "command:\n"
                "  find: [/bin/sh]\n"
                "  args:\n"
                "    - run\n"
                "    - {when: model, args: [-m, \"${model}\"]}\n"
                "    - {when: workspace, args: [\"--dir=${workspace}/.\"]}\n"
                "    - {unless: workspace, args: [--no-dir]}\n"
                "    - {when: setting.url, args: [\"u=${setting.url}\"]}\n"
                "    - {when: [setting.url, env.KEY], args: [-k]}\n"
                "    - {when: setting.url, unless: env.KEY, args: [-n]}\n"
                "    - \"$${home}=${home}$$\"\n"
                "    - \"${setting.note}\"\n"
                OUTPUT;
        char *url[] = { (char *)"url=http://h/", NULL }, *model[] = { (char *)"model=small", NULL };
        char *environment[] = { (char *)"KEY=v", NULL }, *credentials[] = { (char *)"KEY=x.key", NULL };
        const struct {
                AdapterConfig config;
                StoreTask task;
                const char *args;
        } table[] = {
                { {}, {}, "run|--no-dir|${home}=/home/task$|n" },
                { {}, { .model = (char *)"gpt-5.4" }, "run|-m|gpt-5.4|--no-dir|${home}=/home/task$|n" },
                { {}, { .workspace = (char *)"/srv/w" }, "run|--dir=/srv/w/.|${home}=/home/task$|n" },
                { { .settings = url }, {}, "run|--no-dir|u=http://h/|-n|${home}=/home/task$|n" },
                { { .settings = url, .environment = environment },
                  {},
                  "run|--no-dir|u=http://h/|-k|${home}=/home/task$|n" },
                { { .settings = url, .credentials = credentials },
                  {},
                  "run|--no-dir|u=http://h/|-k|${home}=/home/task$|n" },
                { { .settings = model }, {}, "run|-m|small|--no-dir|${home}=/home/task$|n" },
                { { .settings = model }, { .model = (char *)"large" }, "run|-m|large|--no-dir|${home}=/home/task$|n" },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                _cleanup_(adapter_freep) Adapter *a = load_good(manifest, &table[i].config);
                _cleanup_(adapter_command_freep) AdapterCommand *c = render(a, &table[i].task);

                assert_args(c->argv, table[i].args);
        }
}

/* Whatever the prompt looks like, it is on stdin, byte for byte, and nowhere else. */
static void test_prompt(void **state) {
        static const char *const prompts[] = {
                "say hello", "-m evil", "--help", "--", "-", "${home}", "$(reboot)", "a\nb\n", "\xff\xfe invalid", "",
        };

        for (size_t i = 0; i < ELEMENTSOF(prompts); i++) {
                _cleanup_(adapter_freep) Adapter *a = NULL;
                _cleanup_(adapter_command_freep) AdapterCommand *c = NULL;
                char marked[64];
                StoreTask task = { .workspace = (char *)"/srv/w" };
                char *settings[] = { (char *)"base_url=http://127.0.0.1:1/v1", NULL };
                const AdapterConfig config = { .name = "codex", .path = (char *)"/bin/sh", .settings = settings };

                snprintf(marked, sizeof(marked), "%sQZXW", prompts[i]);
                task.prompt = marked;
                task.n_prompt = strlen(marked);
                a = load_shipped("scripts/agent-routerd/workers/codex/agent.yaml", &config);
                c = render(a, &task);
                assert_int_equal(c->n_stdin, strlen(marked));
                assert_memory_equal(c->stdin_data, marked, c->n_stdin);
                assert_false(holds(c->argv, "QZXW"));
                assert_false(holds(c->environment, "QZXW"));
                assert_false(holds(c->home_files, "QZXW"));
                assert_false(holds(c->read_only, "QZXW"));
        }
}

#define CODEX_ALWAYS \
        "exec|--json|--skip-git-repo-check|-s|danger-full-access|-c|analytics.enabled=false|" \
        "-c|features.plugins=false|-c|features.unbounded_connection_retries=false|"

static void test_codex(void **state) {
        char *settings[] = { (char *)"base_url=http://127.0.0.1:9/ok/v1", (char *)"request_max_retries=0", NULL };
        char *environment[] = { (char *)"EXTRA=1", (char *)"PATH=/opt/bin", NULL },
             *read_only[] = { (char *)"/opt/ca", NULL };
        char *credentials[] = { (char *)"CODEX_API_KEY=codex.key", NULL };
        const AdapterConfig plain = { .name = "codex", .path = (char *)"/bin/sh" };
        const AdapterConfig full = { .name = "codex", .path = (char *)"/bin/sh", .settings = settings,
                                     .environment = environment, .credentials = credentials, .read_only = read_only };
        _cleanup_(adapter_freep) Adapter *a = load_shipped("scripts/agent-routerd/workers/codex/agent.yaml", &plain);
        _cleanup_(adapter_freep) Adapter *b = load_shipped("scripts/agent-routerd/workers/codex/agent.yaml", &full);
        _cleanup_(adapter_command_freep) AdapterCommand *c = render(a, &(StoreTask){}), *d = NULL;

        assert_string_equal(c->argv[0], "/bin/sh");
        assert_args(c->argv, CODEX_ALWAYS "-");
        assert_true(has(c->environment, "HOME=/home/task"));
        assert_true(has(c->environment, "CODEX_HOME=/home/task/.codex"));
        assert_true(holds(c->environment, "PATH=/usr/local/sbin"));
        assert_string_equal(c->home_files[0], ".codex/config.toml");
        assert_true(c->network);
        assert_string_equal(c->seccomp, "agent");
        assert_int_equal(c->memory_max, (uint64_t)4 << 30);
        assert_int_equal(c->inactivity_us, 600 * USEC_PER_SEC);
        assert_int_equal(c->grace_ms, 5000);
        assert_null(c->credentials[0]);

        d = render(b, &(StoreTask){ .model = (char *)"gpt-5.4", .workspace = (char *)"/srv/w" });
        assert_args(d->argv,
                    CODEX_ALWAYS "-C|/srv/w|-m|gpt-5.4|-c|model_provider=router|-c|model_providers.router.name=router|"
                    "-c|model_providers.router.base_url=http://127.0.0.1:9/ok/v1|"
                    "-c|model_providers.router.wire_api=responses|"
                    "-c|model_providers.router.request_max_retries=0|-c|model_providers.router.stream_max_retries=2|"
                    "-c|model_providers.router.env_key=CODEX_API_KEY|-");
        assert_true(has(d->environment, "EXTRA=1"));
        assert_true(has(d->environment, "PATH=/opt/bin"));
        assert_false(holds(d->environment, "PATH=/usr/local/sbin"));
        assert_true(has(d->credentials, "CODEX_API_KEY=codex.key"));
        assert_true(has(d->read_only, "/opt/ca"));
}

static void test_check(void **state) {
        _cleanup_(adapter_freep) Adapter *codex = load_shipped("scripts/agent-routerd/workers/codex/agent.yaml", NULL);
        _cleanup_(adapter_freep) Adapter *exec = load_shipped("scripts/agent-routerd/workers/exec/agent.yaml", NULL);
        _cleanup_(adapter_freep) Adapter *off = load_shipped("scripts/agent-routerd/workers/exec/agent.yaml",
                                                            &(AdapterConfig){ .disabled = true });
        const size_t limit = 1048576;
        _cleanup_free_ char *long_prompt = malloc(2 * limit + 3);
        char error[YAML_ERROR_MAX] = "";
        static const char *const bad_models[] = { "", "-m", "--model", "a b", "a\nb", "${home}", "a=b", "é" };
        static const char *const good_models[] = { "gpt-5.4", "openai/gpt-oss:20b", "a", "claude-sonnet-4-5@20250929" };

        for (size_t i = 0; i < ELEMENTSOF(bad_models); i++)
                assert_int_equal(adapter_check(codex, &(StoreTask){ .model = (char *)bad_models[i] }, error),
                                 ADAPTER_E_UNSUPPORTED);
        for (size_t i = 0; i < ELEMENTSOF(good_models); i++)
                assert_int_equal(adapter_check(codex, &(StoreTask){ .model = (char *)good_models[i] }, error), 0);
        assert_int_equal(adapter_check(exec, &(StoreTask){ .model = (char *)"m" }, error), ADAPTER_E_UNSUPPORTED);
        assert_string_equal(error, "the agent 'exec' has no choice of model; leave 'model' out");
        assert_int_equal(adapter_check(off, &(StoreTask){}, error), ADAPTER_E_UNSUPPORTED);
        assert_string_equal(error, "the agent 'exec' is disabled in the configuration");
        assert_int_equal(adapter_check(codex, &(StoreTask){ .workspace = (char *)"w" }, error), ADAPTER_E_UNSUPPORTED);

        /* Characters are counted, not bytes: exactly the limit of two-byte ones passes, one more does not. */
        for (size_t i = 0; i < limit + 1; i++)
                memcpy(long_prompt + 2 * i, "\xc3\xa9", 2);
        assert_int_equal(adapter_check(codex, &(StoreTask){ .prompt = long_prompt, .n_prompt = 2 * limit }, error), 0);
        assert_int_equal(adapter_check(codex, &(StoreTask){ .prompt = long_prompt, .n_prompt = 2 * limit + 2 }, error),
                         ADAPTER_E_UNSUPPORTED);
        assert_string_equal(error, "the prompt has 1048577 characters; the agent 'codex' takes at most 1048576");
}

static void test_exec(void **state) {
        char *settings[] = { (char *)"command=tr a-z A-Z", NULL };
        _cleanup_(adapter_freep) Adapter *none = load_shipped("scripts/agent-routerd/workers/exec/agent.yaml", NULL);
        _cleanup_(adapter_freep) Adapter *a = load_shipped("scripts/agent-routerd/workers/exec/agent.yaml",
                                                          &(AdapterConfig){ .settings = settings });
        _cleanup_(adapter_command_freep) AdapterCommand *c = NULL, *d = NULL;
        char error[YAML_ERROR_MAX] = "";

        /* Until an administrator names a command, it is as good as not installed. */
        assert_int_equal(adapter_probe(none), ADAPTER_E_NOT_INSTALLED);
        assert_int_equal(adapter_render(none, &(StoreTask){}, "/h", &d, error), ADAPTER_E_UNSUPPORTED);
        assert_non_null(strstr(error, "set agents.exec.settings.command"));
        c = render(a, &(StoreTask){ .prompt = (char *)"; reboot", .n_prompt = 8 });
        assert_args(c->argv, "-c|tr a-z A-Z");
        assert_false(c->network);
}

/* ---- the search ---- */

static void make(const char *root, const char *below, const char *content) {
        char path[4096];

        snprintf(path, sizeof(path), "%s/%s", root, below);
        for (char *slash = strchr(path + strlen(root) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
                *slash = 0;
                assert_true(mkdir(path, 0755) == 0 || errno == EEXIST);
                *slash = '/';
        }
        _cleanup_close_ int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0755);
        assert_true(fd >= 0);
        assert_int_equal(fd_write_all(fd, content, strlen(content)), 0);
        assert_int_equal(fchmod(fd, 0755), 0);
}

static void make_link(const char *root, const char *below, const char *target) {
        char path[4096];

        make(root, below, "");
        snprintf(path, sizeof(path), "%s/%s", root, below);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(symlink(target, path), 0);
}

static void remove_tree(const char *root) {
        pid_t pid = fork();

        if (pid == 0) {
                execl("/bin/rm", "rm", "-rf", root, NULL);
                _exit(127);
        }
        assert_int_equal(waitpid(pid, NULL, 0), pid);
}

#if defined(__x86_64__)
#define NATIVE "@v/x-x64/bin/x"
#else
#define NATIVE "@v/x-arm64/bin/x"
#endif
#define WRAPPER "#!/usr/bin/env node\n"
#define ELF "\177ELF"

static const char npm_manifest[] = HEAD
        "command:\n  find: [x]\n  package: '@v/x'\n"
        "  native: {x86_64: '@v/x-x64/bin/x', aarch64: '@v/x-arm64/bin/x'}\n" OUTPUT;
static const char script_manifest[] = HEAD "command:\n  find: [x]\n  interpreter: node\n  args: [-o]\n" OUTPUT;

typedef struct Layout {
        const char *what;
        const char *manifest;
        const char *files[4][2];        /* path, content; a content of "->X" is a link to X */
        const char *path;               /* configured path below root; NULL */
        const char *search;             /* configured directory */
        const char *in_path;            /* PATH */
        const char *executable;         /* NULL: not installed */
        const char *install;
} Layout;

static const Layout layouts[] = {
        { "hoisted, from node_modules/.bin",
          npm_manifest,
          { { "p/node_modules/@v/x/bin/x.js", WRAPPER },
            { "p/node_modules/" NATIVE, ELF },
            { "p/node_modules/.bin/x", "->../@v/x/bin/x.js" } },
          NULL,
          "p/node_modules/.bin",
          NULL,
          "p/node_modules/" NATIVE,
          "p/node_modules/@v/x-x64" },
        { "global: nested below the wrapper's package, by PATH",
          npm_manifest,
          { { "g/lib/node_modules/@v/x/bin/x.js", WRAPPER },
            { "g/lib/node_modules/@v/x/node_modules/" NATIVE, ELF },
            { "g/bin/x", "->../lib/node_modules/@v/x/bin/x.js" } },
          NULL,
          NULL,
          "g/bin",
          "g/lib/node_modules/@v/x/node_modules/" NATIVE,
          "g/lib/node_modules/@v/x/node_modules/@v/x-x64" },
        { "a shim that is no link, beside lib/node_modules",
          npm_manifest,
          { { "s/bin/x", "#!/bin/sh\n" }, { "s/lib/node_modules/" NATIVE, ELF } },
          NULL,
          NULL,
          "s/bin",
          "s/lib/node_modules/" NATIVE,
          "s/lib/node_modules/@v/x-x64" },
        { "a shim in node_modules/.bin",
          npm_manifest,
          { { "s/node_modules/.bin/x", "#!/bin/sh\n" }, { "s/node_modules/" NATIVE, ELF } },
          NULL,
          NULL,
          "s/node_modules/.bin",
          "s/node_modules/" NATIVE,
          "s/node_modules/@v/x-x64" },
        { "configured path to the wrapper",
          npm_manifest,
          { { "p/node_modules/@v/x/bin/x.js", WRAPPER }, { "p/node_modules/" NATIVE, ELF } },
          "p/node_modules/@v/x/bin/x.js",
          NULL,
          NULL,
          "p/node_modules/" NATIVE,
          "p/node_modules/@v/x-x64" },
        { "configured path to the native program",
          npm_manifest,
          { { "p/node_modules/" NATIVE, ELF } },
          "p/node_modules/" NATIVE,
          NULL,
          NULL,
          "p/node_modules/" NATIVE,
          "p/node_modules/@v/x-x64" },
        { "a native program of one's own", npm_manifest, { { "opt/x", ELF } }, NULL, "opt", NULL, "opt/x", "opt/x" },
        { "a wrapper without its native package",
          npm_manifest,
          { { "p/node_modules/@v/x/bin/x.js", WRAPPER }, { "p/node_modules/.bin/x", "->../@v/x/bin/x.js" } },
          NULL,
          "p/node_modules/.bin",
          NULL,
          NULL,
          NULL },
        { "a broken wrapper first, a good one later",
          npm_manifest,
          { { "p/node_modules/@v/x/bin/x.js", WRAPPER },
            { "p/node_modules/.bin/x", "->../@v/x/bin/x.js" },
            { "opt/x", ELF } },
          NULL,
          "p/node_modules/.bin",
          "opt",
          "opt/x",
          "opt/x" },
        { "a configured path that is missing is not replaced",
          npm_manifest,
          { { "opt/x", ELF } },
          "opt/y",
          NULL,
          "opt",
          NULL,
          NULL },
        { "the configured directory before PATH",
          npm_manifest,
          { { "a/x", ELF }, { "b/x", ELF } },
          NULL,
          "a",
          "b",
          "a/x",
          "a/x" },
        { "~/.local/bin", npm_manifest, { { ".local/bin/x", ELF } }, NULL, NULL, NULL, ".local/bin/x", ".local/bin/x" },
        { "the newest of ~/.nvm",
          npm_manifest,
          { { ".nvm/versions/node/v9.1.0/bin/x", ELF }, { ".nvm/versions/node/v20.2.0/bin/x", ELF } },
          NULL,
          NULL,
          NULL,
          ".nvm/versions/node/v20.2.0/bin/x",
          ".nvm/versions/node/v20.2.0/bin/x" },
        { "a script and the interpreter beside it",
          script_manifest,
          { { "n/lib/node_modules/@v/x/x.js", WRAPPER },
            { "n/bin/x", "->../lib/node_modules/@v/x/x.js" },
            { "n/bin/node", ELF } },
          NULL,
          NULL,
          "n/bin",
          "n/lib/node_modules/@v/x/x.js",
          "n/lib/node_modules" },
        { "nothing", npm_manifest, { { "opt/y", ELF } }, NULL, "opt", NULL, NULL, NULL },
};

static void test_find(void **state) {
        _cleanup_free_ char *old_path = strdup(getenv("PATH") ?: ""), *old_home = strdup(getenv("HOME") ?: "");

        for (size_t i = 0; i < ELEMENTSOF(layouts); i++) {
                const Layout *l = &layouts[i];
                char root[] = "/tmp/test-find-XXXXXX", path[4096], search[4096], expected[4096];
                char *directories[] = { search, NULL };
                AdapterConfig config = {};
                _cleanup_(adapter_freep) Adapter *a = NULL;
                int r;

                assert_non_null(mkdtemp(root));
                for (size_t j = 0; j < 4 && l->files[j][0]; j++)
                        if (str_starts(l->files[j][1], "->"))
                                make_link(root, l->files[j][0], l->files[j][1] + 2);
                        else
                                make(root, l->files[j][0], l->files[j][1]);
                if (l->path) {
                        snprintf(path, sizeof(path), "%s/%s", root, l->path);
                        config.path = path;
                }
                if (l->search) {
                        snprintf(search, sizeof(search), "%s/%s", root, l->search);
                        config.search = directories;
                }
                snprintf(expected, sizeof(expected), "%s/%s", root, l->in_path ?: "none");
                assert_int_equal(setenv("PATH", expected, 1), 0);
                assert_int_equal(setenv("HOME", root, 1), 0);
                a = load_good(l->manifest, &config);
                r = adapter_probe(a);
                assert_int_equal(setenv("PATH", old_path, 1), 0);
                assert_int_equal(setenv("HOME", old_home, 1), 0);
                remove_tree(root);
                if (!l->executable) {
                        if (r != ADAPTER_E_NOT_INSTALLED || adapter_executable(a))
                                fail_msg("%s: %d, found %s", l->what, r, adapter_executable(a) ?: "nothing");
                        continue;
                }
                snprintf(expected, sizeof(expected), "%s/%s", root, l->executable);
                if (r || !streq(adapter_executable(a), expected))
                        fail_msg("%s: %d, found %s; expected %s", l->what, r, adapter_executable(a) ?: "nothing",
                                 expected);
                snprintf(expected, sizeof(expected), "%s/%s", root, l->install);
#if !defined(__x86_64__)
                if (strstr(expected, "x-x64"))
                        continue;
#endif
                if (!streq(a->install, expected))
                        fail_msg("%s: shows %s; expected %s", l->what, a->install, expected);
                if (a->interpreter) {
                        _cleanup_(adapter_command_freep) AdapterCommand *c = render(a, &(StoreTask){});
                        assert_true(strstr(c->argv[0], "/n/bin/node"));
                        assert_string_equal(c->argv[1], adapter_executable(a));
                        assert_string_equal(c->argv[2], "-o");
                        assert_true(has(c->read_only, c->argv[0]));
                        assert_true(has(c->read_only, expected));
                }
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_templates),
                cmocka_unit_test(test_prompt),
                cmocka_unit_test(test_codex),
                cmocka_unit_test(test_check),
                cmocka_unit_test(test_exec),
                cmocka_unit_test(test_find),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

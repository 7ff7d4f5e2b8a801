#include "adapter/test-util.h"

/* The smallest manifest; PARTS stand where a bad one differs. */
#define HEAD "version: 1\nname: x\ntitle: X\ninstall: get x\n"                          /* 4 lines */
#define COMMAND "command:\n  find: [x]\n"                                               /* 5, 6 */
#define OUTPUT "output:\n  format: text\n"

typedef struct Bad {
        const char *text;
        const char *error;      /* what it must start with */
        const char *also;       /* what it must contain; may be NULL */
} Bad;

static const Bad bad[] = {
        /* the document */
        { "", "agent.yaml:1:1: missing key 'version'", NULL },
        { "- a\n", "agent.yaml:1:1: expected a mapping", "version, name, title" },
        { "version: 1\nname: [\n", "agent.yaml:3:1: ", "expected YAML" },
        { "version: 1\nversion: 1\n", "agent.yaml:2:1: key \"version\" is here twice", "line 1" },
        { HEAD COMMAND OUTPUT "comand: 1\n", "agent.yaml:9:1: unknown key \"comand\"", "command" },
        /* identity */
        { "version: 2\nname: x\n", "agent.yaml:1:10: manifest version 2; expected 1", NULL },
        { "version: one\n", "agent.yaml:1:10: version: \"one\"; expected an integer", NULL },
        { "version:\nname: x\n", "agent.yaml:1:9: version: expected a value", NULL },
        { "version: 1\n", "agent.yaml:1:1: missing key 'name'", NULL },
        { "version: 1\nname: a b\n", "agent.yaml:2:7: 'a b' is no agent name; expected at most 64", NULL },
        { "version: 1\nname: other\n",
          "agent.yaml:2:7: the manifest is of 'other', but it was loaded for the agent 'x'", NULL },
        { "version: 1\nname: x\n", "agent.yaml:1:1: missing key 'title'", NULL },
        { "version: 1\nname: x\ntitle: X\n", "agent.yaml:1:1: missing key 'install'", NULL },
        { HEAD "capabilities: [code, 'two words']\n", "agent.yaml:5:22: 'two words' is no capability", NULL },
        { HEAD "concurrency: 0\n", "agent.yaml:5:14: concurrency: \"0\"; expected an integer from 1 to 1024", NULL },
        /* settings */
        { HEAD "settings: [a]\n", "agent.yaml:5:11: settings: expected", NULL },
        { HEAD "settings:\n", "agent.yaml:5:10: settings: expected a value", NULL },
        { HEAD "settings:\n  a: [b]\n", "agent.yaml:6:6: expected the setting's default", NULL },
        { HEAD "settings:\n  a: {defualt: b}\n", "agent.yaml:6:7: unknown key \"defualt\"", "default" },
        /* command */
        { HEAD OUTPUT, "agent.yaml:1:1: missing key 'command'", NULL },
        { HEAD "command: {}\n", "agent.yaml:5:10: missing key 'find'", NULL },
        { HEAD "command: {find: bin/x}\n", "agent.yaml:5:17: 'bin/x' is a relative path", NULL },
        { HEAD COMMAND "  native: {riscv64: a/b}\n", "agent.yaml:7:12: unknown architecture 'riscv64'", "aarch64" },
        { HEAD COMMAND "  native: {x86_64: /a/b}\n", "agent.yaml:7:20: expected a path below node_modules", NULL },
        { HEAD COMMAND "  args: -x\n", "agent.yaml:7:9: args: expected", NULL },
        { HEAD COMMAND "  args:\n    - [a]\n", "agent.yaml:8:7: expected an argument", "'when:' and 'args:'" },
        { HEAD COMMAND "  args:\n    - {args: [a]}\n", "agent.yaml:8:7: a group of arguments needs 'when:'", NULL },
        { HEAD COMMAND "  args:\n    - {when: model}\n", "agent.yaml:8:7: missing key 'args'", NULL },
        { HEAD COMMAND "  args:\n    - {when: modle, args: [a]}\n",
          "agent.yaml:8:14: unknown variable 'modle'; expected workspace", "env.NAME" },
        { HEAD COMMAND "  args: [\"${prompt}\"]\n",
          "agent.yaml:7:10: the prompt is no variable: it goes in by stdin only", NULL },
        { HEAD COMMAND "  args: [a, \"--x=${modle}\"]\n", "agent.yaml:7:13: unknown variable 'modle'", "setting.NAME" },
        { HEAD COMMAND "  args: [\"${setting.url}\"]\n", "agent.yaml:7:10: no setting 'url' is declared",
          "add it under 'settings:'" },
        { HEAD COMMAND "  args: [\"${env.KEY}\"]\n", "agent.yaml:7:10: 'env.KEY' can only be a condition", NULL },
        { HEAD COMMAND "  args: [\"$HOME\"]\n", "agent.yaml:7:10: '$' begins a variable", "'$$'" },
        { HEAD COMMAND "  args: [\"${home\"]\n", "agent.yaml:7:10: '$' begins a variable", NULL },
        /* environment, files, sandbox, limits */
        { HEAD COMMAND "environment: {A-B: c}\n", "agent.yaml:7:15: 'A-B' is no name for an environment variable",
          NULL },
        { HEAD COMMAND "environment: {PROMPT: \"${prompt}\"}\n", "agent.yaml:7:23: the prompt is no variable", NULL },
        { HEAD COMMAND "home_files: {/etc/passwd: c}\n", "agent.yaml:7:14: '/etc/passwd' is no path below HOME", NULL },
        { HEAD COMMAND "home_files: {a/../../b: c}\n", "agent.yaml:7:14: 'a/../../b' is no path below HOME", NULL },
        { HEAD COMMAND "stdin: none\n", "agent.yaml:7:8: expected 'prompt'", NULL },
        { HEAD COMMAND "sandbox: {seccomp: ../x}\n", "agent.yaml:7:20: '../x' is no profile name", NULL },
        { HEAD COMMAND "sandbox: {network: maybe}\n", "agent.yaml:7:20: network: \"maybe\"; expected true or false",
          NULL },
        { HEAD COMMAND "sandbox: {read_only: [etc]}\n", "agent.yaml:7:23: 'etc' is no absolute path", NULL },
        { HEAD COMMAND "sandbox: {memory_max: lots}\n", "agent.yaml:7:23: memory_max: \"lots\"; expected a size",
          NULL },
        { HEAD COMMAND "sandbox: {netwerk: no}\n", "agent.yaml:7:11: unknown key \"netwerk\"", "network" },
        { HEAD COMMAND "limits: {inactivity: soon}\n", "agent.yaml:7:22: inactivity: \"soon\"; expected a duration",
          NULL },
        { HEAD COMMAND "limits: {grace: 1h}\n", "agent.yaml:7:17: the grace between SIGTERM and SIGKILL is over 300 s",
          NULL },
        /* output */
        { HEAD COMMAND, "agent.yaml:1:1: missing key 'output'", NULL },
        { HEAD COMMAND "output: {format: xml}\n", "agent.yaml:7:18: expected 'json-lines'", "'text'" },
        { HEAD COMMAND "output: {format: json-lines}\n", "agent.yaml:7:9: missing key 'events'", NULL },
        { HEAD COMMAND "output:\n  format: text\n  events: []\n",
          "agent.yaml:9:11: 'events' needs 'format: json-lines'", NULL },
#define EVENTS HEAD COMMAND "output:\n  format: json-lines\n  events:\n"                 /* 9 lines */
        { EVENTS "    - emit: text\n", "agent.yaml:10:7: missing key 'match'", NULL },
        { EVENTS "    - {match: {}}\n", "agent.yaml:10:15: an empty 'match' would match every line", NULL },
        { EVENTS "    - {match: {type: a}}\n", "agent.yaml:10:16: 'type' is no JSON Pointer", "/item/text" },
        { EVENTS "    - {match: {/a~2: a}}\n", "agent.yaml:10:16: '/a~2' is no JSON Pointer", "~0" },
        { EVENTS "    - {match: {/a: {sufix: b}}}\n", "agent.yaml:10:21: unknown key \"sufix\"", "prefix" },
        { EVENTS "    - {match: {/a: b}, emit: txt}\n", "agent.yaml:10:30: unknown event 'txt'; expected text", NULL },
        { EVENTS "    - {match: {/a: b}, emit: text}\n",
          "agent.yaml:10:7: the event 'text' needs 'data: {text: /pointer}'", NULL },
        { EVENTS "    - {match: {/a: b}, emit: text, data: {text: t}}\n", "agent.yaml:10:49: expected a JSON Pointer",
          "'=text'" },
        { EVENTS "    - {match: {/a: b}, emit: text, data: {text: /t, name: /n}}\n",
          "agent.yaml:10:53: unknown key \"name\"", NULL },
        { EVENTS "    - {match: {/a: b}, emit: text, data: {text: /t}, answer: first}\n",
          "agent.yaml:10:62: expected 'last'", NULL },
        { EVENTS "    - {match: {/a: b}, emit: error, data: {message: /t}, answer: last}\n",
          "agent.yaml:10:66: 'answer' belongs to 'emit: text'", NULL },
        { EVENTS "    - {match: {/a: b}, where: {/c: d}}\n",
          "agent.yaml:10:31: 'where' is about the elements of 'each'", NULL },
        { EVENTS "    - {match: {/a: b}, usage: {mode: last}}\n", "agent.yaml:10:31: 'usage' names no number", NULL },
        { EVENTS "    - {match: {/a: b}, usage: {mode: all, input_tokens: /i}}\n", "agent.yaml:10:38: expected 'last'",
          "'cumulative'" },
        { EVENTS "    - {match: {/a: b}, usage: {input: /i}}\n", "agent.yaml:10:32: unknown key \"input\"",
          "input_tokens" },
        /* errors: */
#define ERRORS HEAD COMMAND OUTPUT "errors:\n"                                          /* 9 lines */
        { ERRORS "  - {reason: quota}\n", "agent.yaml:10:5: the entry matches nothing", NULL },
        { ERRORS "  - {status: 401}\n", "agent.yaml:10:5: missing key 'reason'", NULL },
        { ERRORS "  - {status: 999, reason: quota}\n", "agent.yaml:10:14: expected a number from 100 to 599", NULL },
        { ERRORS "  - {exit: 0, reason: quota}\n", "agent.yaml:10:12: expected a number from 1 to 255", NULL },
        { ERRORS "  - {exit: 3, reason: because}\n", "agent.yaml:10:23: expected authentication, rate_limited", NULL },
        { ERRORS "  - {exit: 3, reason: completed}\n", "agent.yaml:10:23: expected authentication, rate_limited",
          NULL },
};

static void test_bad(void **state) {
        const AdapterConfig config = { .name = "x" };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                char error[YAML_ERROR_MAX] = "";
                Adapter *a = NULL;
                int r = load_text(bad[i].text, &config, &a, error);

                if (r != ADAPTER_E_INVALID || !str_starts(error, bad[i].error) ||
                    (bad[i].also && !strstr(error, bad[i].also)))
                        fail_msg("manifest %zu: %d, \"%s\"; expected \"%s…%s\" of:\n%s", i, r, error, bad[i].error,
                                 bad[i].also ?: "", bad[i].text);
                assert_null(a);
        }
        assert_true(ELEMENTSOF(bad) >= 25);
}

/* A manifest cut anywhere, or with any byte changed, loads or says why; it never crashes or half-loads. */
static void test_damaged(void **state) {
        char path[4096], error[YAML_ERROR_MAX];
        _cleanup_free_ char *text = NULL;
        size_t n;
        unsigned seed = 1;

        assert_int_equal(fd_read_file(AT_FDCWD, source_path(path, "scripts/agent-routerd/workers/codex/agent.yaml"),
                                      MIB(1), &text, &n),
                         0);
        for (unsigned round = 0; round < 600; round++) {
                _cleanup_free_ char *copy = strdup(text);
                Adapter *a = NULL;
                int r;

                seed = seed * 1103515245 + 12345;
                if (round & 1)
                        copy[(seed >> 8) % n] = 0;
                else
                        copy[(seed >> 8) % n] = "{}[]:-#'\"&*!|>%@ \n\t$/~=0a"[round % 26];
                error[0] = 0;
                r = load_text(copy, NULL, &a, error);
                if (r == 0)
                        adapter_free(a);
                else {
                        assert_int_equal(r, ADAPTER_E_INVALID);
                        assert_true(str_starts(error, "agent.yaml:"));
                        assert_null(a);
                }
        }
}

static void test_good(void **state) {
        _cleanup_(adapter_freep) Adapter *a = NULL;
        char *settings[] = { (char *)"command=cat", NULL };
        const AdapterConfig config = { .name = "exec", .settings = settings, .concurrency = 3 };

        a = load_shipped("scripts/agent-routerd/workers/codex/agent.yaml", &(AdapterConfig){ .name = "codex" });
        assert_string_equal(adapter_name(a), "codex");
        assert_string_equal(adapter_title(a), "OpenAI Codex CLI");
        assert_int_equal(adapter_concurrency(a), 8);
        assert_true(adapter_has_capability(a, "shell"));
        assert_false(adapter_has_capability(a, "she"));
        assert_string_equal(adapter_hint(a), "npm install -g @openai/codex@0.169.0");
        assert_null(adapter_executable(a));
        adapter_free(a);
        a = load_shipped("scripts/agent-routerd/workers/exec/agent.yaml", &config);
        assert_int_equal(adapter_concurrency(a), 3);
        adapter_free(a);
        a = load_shipped("scripts/agent-routerd/workers/example.yaml", NULL);
        assert_string_equal(adapter_name(a), "gemini");
        adapter_free(a);
        /* What the manifest leaves out has a default. */
        a = load_good(HEAD COMMAND OUTPUT, NULL);
        assert_null(adapter_capabilities(a)[0]);
        assert_int_equal(adapter_concurrency(a), 4);
        assert_string_equal(a->seccomp, "agent");
        assert_int_equal(a->grace_us, 5 * USEC_PER_SEC);
}

static void test_config(void **state) {
        char *unknown[] = { (char *)"base_ur=x", NULL }, *environment[] = { (char *)"A B=x", NULL };
        const struct {
                AdapterConfig config;
                const char *error;
        } table[] = {
                { { .path = (char *)"bin/codex" }, "agents.x.path: 'bin/codex' is no absolute path" },
                { { .settings = unknown }, "agents.x.settings: no setting 'base_ur'; this agent has base_url, model" },
                { { .environment = environment },
                  "agents.x.environment: 'A B' is no name for an environment variable" },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                char error[YAML_ERROR_MAX] = "";
                Adapter *a = NULL;
                int r = load_text(HEAD "settings: {base_url: '', model: ''}\n" COMMAND OUTPUT, &table[i].config, &a,
                                  error);

                assert_int_equal(r, ADAPTER_E_INVALID);
                assert_string_equal(error, table[i].error);
        }
        char error[YAML_ERROR_MAX] = "";
        Adapter *a = NULL;
        assert_int_equal(load_text(HEAD COMMAND OUTPUT, &table[1].config, &a, error), ADAPTER_E_INVALID);
        assert_string_equal(error, "agents.x.settings: no setting 'base_ur'; this agent has none");
}

static void test_missing_file(void **state) {
        char error[YAML_ERROR_MAX];
        Adapter *a = NULL;

        assert_int_equal(adapter_load(&a, AT_FDCWD, "/nonexistent/agent.yaml", NULL, error), -ENOENT);
        assert_null(a);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_bad),
                cmocka_unit_test(test_damaged),
                cmocka_unit_test(test_good),
                cmocka_unit_test(test_config),
                cmocka_unit_test(test_missing_file),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

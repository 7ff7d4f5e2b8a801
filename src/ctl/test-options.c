#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "ctl/options.h"

#define ARGUMENTS_MAX 16

typedef struct Parsed {
        bool wait, json;
        const char *agent, *socket;
        OptionList labels;
        char error[256];
        char *argv[ARGUMENTS_MAX];
        int n, r;
} Parsed;

/* Parses a NULL-terminated command line by one table that has every kind of option. */
static void parse(Parsed *p, bool stop, const char *const *arguments) {
        const Option options[] = {
                { "wait", 'w', NULL, "wait", .flag = &p->wait },
                { "agent", 'a', "NAME", "agent", .text = &p->agent },
                { "label", 'l', "K=V", "label", .list = &p->labels },
                {},
        };
        const Option common[] = {
                { "json", 'j', NULL, "json", .flag = &p->json },
                { "socket", 0, "PATH", "socket", .text = &p->socket },
                {},
        };
        int argc = 0;

        for (; arguments[argc]; argc++)
                p->argv[argc] = (char *)arguments[argc];
        p->r = options_parse(options, common, stop, argc, p->argv, &p->n, p->error);
}

#define PARSE(p, ...) parse((p), false, (const char *const []){ __VA_ARGS__, NULL })

static void test_forms(void **state) {
        Parsed p = {};

        PARSE(&p, "--wait", "one", "--agent", "codex", "--label=a=b", "-l", "c=d", "-le=f", "two", "-j", "--socket=/x", "-");
        assert_int_equal(p.r, 0);
        assert_true(p.wait && p.json);
        assert_string_equal(p.agent, "codex");
        assert_string_equal(p.socket, "/x");
        assert_int_equal(p.labels.n, 3);
        assert_string_equal(p.labels.values[0], "a=b");
        assert_string_equal(p.labels.values[1], "c=d");
        assert_string_equal(p.labels.values[2], "e=f");
        assert_int_equal(p.n, 3);
        assert_string_equal(p.argv[0], "one");
        assert_string_equal(p.argv[1], "two");
        assert_string_equal(p.argv[2], "-");
}

static void test_end(void **state) {
        Parsed p = {};

        PARSE(&p, "--agent=", "--", "--wait", "-x", "--");
        assert_int_equal(p.r, 0);
        assert_false(p.wait);
        assert_string_equal(p.agent, "");
        assert_int_equal(p.n, 3);
        assert_string_equal(p.argv[0], "--wait");
        assert_string_equal(p.argv[1], "-x");
        assert_string_equal(p.argv[2], "--");
}

/* A value may look like an option; the last of several counts. */
static void test_values(void **state) {
        Parsed p = {};

        PARSE(&p, "--agent", "x", "--agent", "--wait");
        assert_int_equal(p.r, 0);
        assert_string_equal(p.agent, "--wait");
        assert_false(p.wait);
        assert_int_equal(p.n, 0);
}

static void test_stop(void **state) {
        Parsed p = {};

        parse(&p, true, (const char *const []){ "--json", "submit", "--wait", NULL });
        assert_int_equal(p.r, 0);
        assert_true(p.json);
        assert_false(p.wait);
        assert_int_equal(p.n, 1);
        parse(&p, true, (const char *const []){ "--json", NULL });
        assert_int_equal(p.n, 1);
}

static void test_help(void **state) {
        Parsed p = {};

        PARSE(&p, "one", "--help", "--nonsense");
        assert_int_equal(p.r, OPTIONS_E_HELP);
        PARSE(&p, "-h");
        assert_int_equal(p.r, OPTIONS_E_HELP);
        PARSE(&p, "--", "-h");
        assert_int_equal(p.r, 0);
}

static void test_errors(void **state) {
        static const struct {
                const char *arguments[4];
                const char *error;
        } cases[] = {
                { { "--lable", "x" }, "unknown option '--lable'; did you mean --label?" },
                { { "--sock=x" }, "unknown option '--sock=x'; did you mean --socket?" },
                { { "--quite-another" }, "unknown option '--quite-another'" },
                { { "-x" }, "unknown option '-x'" },
                { { "--wait=yes" }, "option --wait takes no value" },
                { { "-wx" }, "option --wait takes no value" },
                { { "--agent" }, "option --agent needs a value: --agent NAME" },
                { { "a", "-l" }, "option --label needs a value: --label K=V" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                Parsed p = { .n = 77 };

                parse(&p, false, cases[i].arguments);
                assert_int_equal(p.r, OPTIONS_E_USAGE);
                assert_string_equal(p.error, cases[i].error);
                assert_int_equal(p.n, 77);
        }
}

static void test_too_many(void **state) {
        Parsed p = {};

        for (unsigned i = 0; i < OPTION_LIST_MAX; i++) {
                PARSE(&p, "--label", "a=b");
                assert_int_equal(p.r, 0);
        }
        PARSE(&p, "--label", "a=b");
        assert_int_equal(p.r, OPTIONS_E_USAGE);
        assert_string_equal(p.error, "option --label is given more than 64 times");
}

static void test_long(void **state) {
        char word[1000] = "--";
        Parsed p = {};

        memset(word + 2, 'x', sizeof(word) - 3);
        PARSE(&p, word);
        assert_int_equal(p.r, OPTIONS_E_USAGE);
        assert_true(strlen(p.error) < sizeof(p.error));
}

static void test_nearest(void **state) {
        static const char *const words[] = { "submit", "get", "list", "status", "key create" };

        assert_string_equal(options_nearest("lsit", words, ELEMENTSOF(words)), "list");
        assert_string_equal(options_nearest("sub", words, ELEMENTSOF(words)), "submit");
        assert_string_equal(options_nearest("statsu", words, ELEMENTSOF(words)), "status");
        assert_null(options_nearest("frobnicate", words, ELEMENTSOF(words)));
        assert_null(options_nearest("", words, ELEMENTSOF(words)));
}

/* The table is the help. */
static void test_print(void **state) {
        const Option options[] = {
                { "wait", 'w', NULL, "wait for it" },
                { "socket", 0, "PATH", "a socket\nor so" },
                { "a-very-long-option-name", 0, "VALUE", "on a line of its own" },
                {},
        };
        char *text = NULL;
        size_t n = 0;
        FILE *f = open_memstream(&text, &n);

        options_print(f, options, "Options");
        fclose(f);
        assert_string_equal(text, "\nOptions:\n"
                            "  -w, --wait                wait for it\n"
                            "      --socket PATH         a socket\n"
                            "                            or so\n"
                            "      --a-very-long-option-name VALUE\n"
                            "                            on a line of its own\n");
        free(text);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_forms),
                cmocka_unit_test(test_end),
                cmocka_unit_test(test_values),
                cmocka_unit_test(test_stop),
                cmocka_unit_test(test_help),
                cmocka_unit_test(test_errors),
                cmocka_unit_test(test_too_many),
                cmocka_unit_test(test_long),
                cmocka_unit_test(test_nearest),
                cmocka_unit_test(test_print),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

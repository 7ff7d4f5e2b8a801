#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/yaml.h"

static YamlDocument *load(const char *text) {
        YamlDocument *d = NULL;

        if (yaml_load("f.yaml", text, strlen(text), &d))
                fail_msg("%s", d->error);
        assert_false(d->failed);
        return d;
}

static void assert_refused(const char *text, size_t n, const char *place, const char *says) {
        _cleanup_(yaml_freep) YamlDocument *d = NULL;

        if (yaml_load("f.yaml", text, n, &d) != YAML_E_INVALID)
                fail_msg("taken: %.60s", text);
        assert_non_null(d);
        assert_true(d->failed);
        if (!str_starts(d->error, place) || !strstr(d->error, says))
                fail_msg("%s", d->error);
}

static void test_refused(void **state) {
        static const struct {
                const char *text, *place, *says;
        } cases[] = {
                { "a: 1\na: 2\n", "f.yaml:2:1: ", "\"a\" is here twice; the first is in line 1" },
                { "a: {x: 1, y: 2, \"x\": 3}\n", "f.yaml:1:17: ", "twice" },
                { "a: &x 1\nb: *x\n", "f.yaml:2:4: ", "alias (*x)" },
                { "a: &x [*x]\n", "f.yaml:1:8: ", "alias" },
                { "&x a: 1\n*x : 2\n", "f.yaml:2:1: ", "alias" },
                { "a: !!binary aGk=\n", "f.yaml:1:4: ", "tag" },
                { "a: !x [1]\n", "f.yaml:1:4: ", "tag" },
                { "[a]: 1\n", "f.yaml:1:1: ", "expected `key: value`" },
                { "a: 1\n---\nb: 2\n", "f.yaml:2:1: ", "second document" },
                { "a:\n\t- b\n", "f.yaml:2:1: ", "cannot start any token" },
                { "a: b: c\n", "f.yaml:1:5: ", "not allowed" },
                { "ok: 1\na: \"unclosed\n", "f.yaml:3:1: ", "quoted" },
                { "a: [1, 2\n", "f.yaml:2:1: ", "expected" },
                { "a: 1\nb: \"\\0\"\n", "f.yaml:2:4: ", "NUL" },
                { "a: 1\n\xc3\xa9: \xff\n", "f.yaml:2:4: ", "UTF-8" },
                { "%YAML 3.0\n---\na: 1\n", "f.yaml:1:1: ", "YAML" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                assert_refused(cases[i].text, strlen(cases[i].text), cases[i].place, cases[i].says);
        assert_refused("a: b\0c\n", 7, "f.yaml:1:5: ", "");
}

static void test_bounds(void **state) {
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        _cleanup_(yaml_freep) YamlDocument *d = NULL;
        _cleanup_free_ char *large = calloc(1, YAML_SIZE_MAX + 1);

        /* YAML_DEPTH_MAX levels pass, one more does not. */
        for (unsigned i = 0; i < YAML_DEPTH_MAX; i++)
                assert_int_equal(buf_append_str(&b, "["), 0);
        for (unsigned i = 0; i < YAML_DEPTH_MAX; i++)
                assert_int_equal(buf_append_str(&b, "]"), 0);
        assert_int_equal(yaml_load("f.yaml", (char *)buf_data(&b), buf_size(&b), &d), 0);
        buf_clear(&b);
        for (unsigned i = 0; i < 100000; i++)
                assert_int_equal(buf_append_str(&b, "["), 0);
        assert_refused((char *)buf_data(&b), buf_size(&b), "f.yaml:1:33: ", "too deeply");

        buf_clear(&b);
        assert_int_equal(buf_append_str(&b, "["), 0);
        for (unsigned i = 0; i < YAML_NODES_MAX; i++)
                assert_int_equal(buf_append_str(&b, "a,\n"), 0);
        assert_int_equal(buf_append_str(&b, "]"), 0);
        assert_refused((char *)buf_data(&b), buf_size(&b), "f.yaml:65536:1: ", "too many nodes");

        buf_clear(&b);
        for (unsigned i = 0; i <= YAML_KEYS_MAX; i++)
                assert_int_equal(buf_printf(&b, "k%u: 1\n", i), 0);
        assert_refused((char *)buf_data(&b), buf_size(&b), "f.yaml:1025:1: ", "too many keys");

        memset(large, '#', YAML_SIZE_MAX + 1);
        assert_refused(large, YAML_SIZE_MAX + 1, "f.yaml: ", "more than 1048576 bytes");
}

static void test_tree(void **state) {
        _cleanup_(yaml_freep) YamlDocument *d = load("# head\n"
                                                     "version: 1\n"
                                                     "list: [a, \"b c\", 3]\n"
                                                     "map:\n"
                                                     "  on: yes\n"
                                                     "  time: 5min\n"
                                                     "  size: 4M\n"
                                                     "  text: |\n"
                                                     "    two\n"
                                                     "    lines\n"
                                                     "nothing:\n"
                                                     "tilde: ~\n"
                                                     "quoted: \"\"\n");
        YamlNode *list = NULL, *map = NULL, *none = NULL;
        const char *s = NULL, *untouched = "untouched";
        uint64_t v = 0, us = 0, bytes = 0;
        bool on = false;

        assert_true(yaml_get_u64(d, d->root, "version", 1, 1, &v));
        assert_true(yaml_get_sequence(d, d->root, "list", &list));
        assert_int_equal(list->n, 3);
        assert_string_equal(list->items[1]->text, "b c");
        assert_true(list->items[1]->quoted);
        assert_int_equal(list->items[2]->line, 3);
        assert_int_equal(list->items[2]->column, 18);
        assert_true(yaml_get_mapping(d, d->root, "map", &map));
        assert_true(yaml_get_bool(d, map, "on", &on) && on);
        assert_true(yaml_get_duration_us(d, map, "time", &us) && us == 300 * USEC_PER_SEC);
        assert_true(yaml_get_size(d, map, "size", &bytes) && bytes == MIB(4));
        assert_true(yaml_get_str(d, map, "text", &s));
        assert_string_equal(s, "two\nlines\n");
        assert_false(yaml_get_mapping(d, d->root, "nothing", &none));
        assert_false(yaml_get_str(d, d->root, "tilde", &untouched));
        assert_string_equal(untouched, "untouched");
        assert_true(yaml_get_str(d, d->root, "quoted", &s));
        assert_string_equal(s, "");
        assert_false(yaml_get_u64(d, d->root, "absent", 0, 9, &v));
        assert_false(yaml_get_str(d, none, "x", &s));
        yaml_end(d, map);
        yaml_end(d, d->root);
        yaml_end(d, NULL);
        assert_false(d->failed);
}

static void test_empty(void **state) {
        static const char *const texts[] = { "", "# only a comment\n", "---\n", "~\n" };

        for (size_t i = 0; i < ELEMENTSOF(texts); i++) {
                _cleanup_(yaml_freep) YamlDocument *d = load(texts[i]);

                assert_int_equal(d->root->kind, YAML_MAPPING);
                assert_int_equal(d->root->n, 0);
                yaml_end(d, d->root);
                assert_false(d->failed);
        }
}

static void test_getter_errors(void **state) {
        static const struct {
                const char *text, *error;
        } cases[] = {
                { "n: 101\n", "f.yaml:1:4: n: \"101\"; expected an integer from 1 to 100" },
                { "n: \"5\"\n", "f.yaml:1:4: n: \"5\"; expected an integer from 1 to 100, without quotes" },
                { "n: [5]\n", "f.yaml:1:4: n: expected an integer, not a list" },
                { "b: maybe\n", "f.yaml:1:4: b: \"maybe\"; expected true or false" },
                { "t: soon\n", "f.yaml:1:4: t: \"soon\"; expected a duration such as 500ms, 10s, 5min, 2h or 1d" },
                { "z: 1kb\n", "f.yaml:1:4: z: \"1kb\"; expected a size such as 64K, 512M or 2G" },
                { "s: {}\n", "f.yaml:1:4: s: expected a string, not a mapping" },
                { "m: x\n", "f.yaml:1:4: m: expected a mapping (`key: value` lines)" },
                { "l:\n  a: 1\n", "f.yaml:2:3: l: expected a list (`- item` lines or [a, b])" },
                { "n: 5\nx: 1\ny: 2\n", "f.yaml:2:1: unknown key \"x\"; expected one of: n, b, t, z, s, m, l" },
                { "n: 0\nb: maybe\n", "f.yaml:1:4: n: \"0\"; expected an integer from 1 to 100" },
                { "- 1\n", "f.yaml:1:1: expected a mapping (`key: value` lines)" },
                { "word\n", "f.yaml:1:1: expected a mapping (`key: value` lines)" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(yaml_freep) YamlDocument *d = load(cases[i].text);
                YamlNode *node = NULL;
                const char *s;
                uint64_t v;
                bool b;

                (void)yaml_get_u64(d, d->root, "n", 1, 100, &v);
                (void)yaml_get_bool(d, d->root, "b", &b);
                (void)yaml_get_duration_us(d, d->root, "t", &v);
                (void)yaml_get_size(d, d->root, "z", &v);
                (void)yaml_get_str(d, d->root, "s", &s);
                (void)yaml_get_str(d, d->root, "s", &s);
                (void)yaml_get_mapping(d, d->root, "m", &node);
                (void)yaml_get_sequence(d, d->root, "l", &node);
                yaml_end(d, d->root);
                assert_true(d->failed);
                assert_string_equal(d->error, cases[i].error);
        }
}

/* A long value is cut in the message, which stays within its array. */
static void test_long_message(void **state) {
        char text[YAML_ERROR_MAX * 4] = "n: ";
        _cleanup_(yaml_freep) YamlDocument *d = NULL;
        uint64_t v;

        memset(text + 3, 'x', sizeof(text) - 4);
        d = load(text);
        assert_false(yaml_get_u64(d, d->root, "n", 1, 2, &v));
        assert_int_equal(strlen(d->error), YAML_ERROR_MAX - 1);
}

static void test_file(void **state) {
        _cleanup_(yaml_freep) YamlDocument *d = NULL, *large = NULL, *absent = NULL;
        char dir[] = "/tmp/agent-router-test-XXXXXX";
        _cleanup_close_ int dir_fd = -1;
        _cleanup_free_ char *data = calloc(1, YAML_SIZE_MAX + 1);

        assert_non_null(mkdtemp(dir));
        dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_int_equal(fd_write_file_atomic(dir_fd, "x.yaml", "a: *b\n", 6, 0600), 0);
        assert_int_equal(yaml_load_file(dir_fd, "x.yaml", &d), YAML_E_INVALID);
        assert_true(str_starts(d->error, "x.yaml:1:4: an alias"));
        memset(data, '\n', YAML_SIZE_MAX + 1);
        assert_int_equal(fd_write_file_atomic(dir_fd, "x.yaml", data, YAML_SIZE_MAX + 1, 0600), 0);
        assert_int_equal(yaml_load_file(dir_fd, "x.yaml", &large), YAML_E_INVALID);
        assert_non_null(strstr(large->error, "more than"));
        assert_int_equal(yaml_load_file(dir_fd, "y.yaml", &absent), -ENOENT);
        assert_null(absent);
        assert_int_equal(unlinkat(dir_fd, "x.yaml", 0), 0);
        assert_int_equal(rmdir(dir), 0);
}

static void test_garbage(void **state) {
        static const char alphabet[] = "ab:-[]{},\n  \"'|>&*!#%@`?\t\\~\xc3\xa9\xff";
        unsigned seed = 5;

        for (unsigned i = 0; i < 20000; i++) {
                _cleanup_(yaml_freep) YamlDocument *d = NULL;
                char text[40];
                size_t n = (size_t)rand_r(&seed) % sizeof(text);
                int r;

                for (size_t k = 0; k < n; k++)
                        text[k] = alphabet[(size_t)rand_r(&seed) % (sizeof(alphabet) - 1)];
                r = yaml_load("f.yaml", text, n, &d);
                assert_in_range(r, 0, 1);
                assert_int_equal(d->failed, r);
                assert_int_equal(r == 0, d->root && !d->failed);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_refused),
                cmocka_unit_test(test_bounds),
                cmocka_unit_test(test_tree),
                cmocka_unit_test(test_empty),
                cmocka_unit_test(test_getter_errors),
                cmocka_unit_test(test_long_message),
                cmocka_unit_test(test_file),
                cmocka_unit_test(test_garbage),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

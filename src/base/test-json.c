#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "base/json.h"

static int parse(const char *text, json_object **ret_o, JsonError *e) {
        return json_parse(text, strlen(text), JSON_DEPTH_MAX, ret_o, e);
}

static json_object *parse_ok(const char *text) {
        json_object *o = NULL;
        JsonError e = {};

        if (parse(text, &o, &e))
                fail_msg("%s: %s", text, e.detail);
        return o;
}

static void test_valid(void **state) {
        static const char *const valid[] = {
                "{}", "[]", "null", "true", "0", "-0", "12", "1.5e+3", "\"\"", " {\"a\" : [1, 2.5, null, false]} \r\n\t",
                "\"\\u0000\\ud83d\\ude00\\/\\b\"", "{\"a\":{\"a\":1},\"b\":[{\"a\":1},{\"a\":1}]}", "{\"\":1}",
                "\"\xf0\x9f\x98\x80\"", "{\"x\":\"a:b,[{\\\"}]\"}",
        };

        for (size_t i = 0; i < ELEMENTSOF(valid); i++) {
                json_object_put(parse_ok(valid[i]));
        }
}

static void test_invalid(void **state) {
        static const struct {
                const char *text;
                size_t offset;
                const char *says;
        } invalid[] = {
                { "", 0, "empty" },
                { " \n", 0, "empty" },
                { "{", 1, "end" },
                { "[1,]", 3, "" },
                { "{\"a\":1,}", 7, "" },
                { "{\"a\" 1}", 5, "" },
                { "{a:1}", 1, "" },
                { "[1}", 2, "" },
                { "{} {}", 3, "" },
                { "{}x", 2, "" },
                { "1 2", 2, "" },
                { "tru", 3, "end" },
                { "TRUE", 0, "character" },
                { "NaN", 0, "character" },
                { "[-Infinity]", 2, "number" },
                { "01", 2, "number" },
                { "1.", 2, "number" },
                { "1e", 2, "number" },
                { ".5", 0, "character" },
                { "+1", 0, "character" },
                { "'a'", 0, "character" },
                { "/*x*/1", 0, "character" },
                { "\"abc", 0, "quote" },
                { "\"ab\\\"", 0, "quote" },
                { "\"a\tb\"", 2, "escaped" },
                { "\"a\xff\"", 2, "UTF-8" },
                { "\"\xed\xa0\x80\"", 1, "UTF-8" },
                { "\"\\x41\"", 1, "" },
                { "{\"a\\u0000b\":1}", 11, "U+0000" },
                { "{\"a\":1,\"a\":2}", 0, "same name" },
                { "[{\"x\":[{\"b\":1,\"\\u0062\":2}]}]", 0, "same name" },
        };

        for (size_t i = 0; i < ELEMENTSOF(invalid); i++) {
                json_object *o = (json_object *)state;
                JsonError e = {};

                if (parse(invalid[i].text, &o, &e) != JSON_E_INVALID)
                        fail_msg("%s was taken", invalid[i].text);
                assert_ptr_equal(o, state);
                assert_true(e.set);
                assert_string_equal(e.pointer, "");
                if (!strstr(e.detail, invalid[i].says))
                        fail_msg("%s: %s", invalid[i].text, e.detail);
                /* json-c's own offsets are near the place; ours are exact. */
                if (e.offset + 1 < invalid[i].offset || e.offset > invalid[i].offset + 1)
                        fail_msg("%s: offset %zu: %s", invalid[i].text, e.offset, e.detail);
        }
        /* NUL is no white space, and no end. */
        assert_int_equal(json_parse("{}\0", 3, 4, &(json_object *){ NULL }, NULL), JSON_E_INVALID);
        assert_int_equal(json_parse("\0", 1, 4, &(json_object *){ NULL }, NULL), JSON_E_INVALID);
}

static void test_depth(void **state) {
        char text[2 * JSON_DEPTH_MAX + 8];

        for (int depth = 1; depth <= JSON_DEPTH_MAX + 1; depth++) {
                _cleanup_(json_putp) json_object *o = NULL;
                JsonError e = {};

                memset(text, '[', (size_t)depth);
                text[depth] = '1';
                memset(text + depth + 1, ']', (size_t)depth);
                text[2 * depth + 1] = 0;
                assert_int_equal(parse(text, &o, &e), depth <= JSON_DEPTH_MAX ? 0 : JSON_E_INVALID);
        }
}

static void test_values(void **state) {
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        _cleanup_(json_putp) json_object *o = NULL;
        JsonError e = {};

        assert_int_equal(buf_append_str(&b, "[{}"), 0);
        for (unsigned i = 0; i < JSON_VALUES_MAX; i++)
                assert_int_equal(buf_append_str(&b, ",{}"), 0);
        assert_int_equal(buf_append_str(&b, "]"), 0);
        assert_int_equal(json_parse(buf_data(&b), buf_size(&b), JSON_DEPTH_MAX, &o, &e), JSON_E_INVALID);
        assert_non_null(strstr(e.detail, "too many values"));
}

/* Whatever the bytes, the answer is a tree or an error; every prefix of a document is an error. */
static void test_garbage(void **state) {
        static const char alphabet[] = "{}[]\",:\\u0a1e-+.tfn \n\x01\xff\xc3\xa9";
        static const char document[] = "{\"a\":[1,-2.5e3,\"x\\u00e9\\n\",{\"b\":null}],\"c\":true}";
        unsigned seed = 11;

        for (unsigned i = 0; i < 100000; i++) {
                _cleanup_(json_putp) json_object *o = NULL;
                char text[24];
                size_t n = (size_t)rand_r(&seed) % sizeof(text);

                for (size_t k = 0; k < n; k++)
                        text[k] = alphabet[(size_t)rand_r(&seed) % (sizeof(alphabet) - 1)];
                assert_in_range(json_parse(text, n, 8, &o, NULL), 0, 1);
        }
        for (size_t n = 0; n < sizeof(document) - 1; n++) {
                _cleanup_free_ char *exact = malloc(n ?: 1);

                memcpy(exact, document, n);
                assert_int_equal(json_parse(exact, n, 8, &(json_object *){ NULL }, NULL), JSON_E_INVALID);
        }
}

static void test_reader(void **state) {
        _cleanup_(json_putp) json_object *o = parse_ok(
                "{\"s\":\"text\",\"n\":7,\"d\":0.5,\"b\":true,\"o\":{\"x\":1},\"a\":[1,2],\"z\":null,\"big\":18446744073709551615}");
        json_object *object = NULL, *array = NULL;
        const char *s = NULL, *z = "untouched";
        uint64_t n = 0, big = 0, none = 99;
        double d = 0, whole = 0;
        bool b = false;
        JsonError e = {};
        JsonReader r = json_reader(o, "", &e);
        size_t n_s = 0;

        assert_true(json_get_string(&r, "s", JSON_REQUIRED, 1, 4, &s, &n_s));
        assert_string_equal(s, "text");
        assert_int_equal(n_s, 4);
        assert_true(json_get_u64(&r, "n", JSON_REQUIRED, 7, 7, &n));
        assert_int_equal(n, 7);
        assert_true(json_get_u64(&r, "big", 0, 0, UINT64_MAX, &big));
        assert_true(big == UINT64_MAX);
        assert_true(json_get_double(&r, "d", 0, 0, 1, &d));
        assert_true(json_get_double(&r, "n", 0, 0, 10, &whole));
        assert_true(d == 0.5 && whole == 7);
        assert_true(json_get_bool(&r, "b", 0, &b) && b);
        assert_true(json_get_object(&r, "o", 0, &object) && object);
        assert_true(json_get_array(&r, "a", 0, 2, &array) && array);
        /* null is absent, and no error; so is what isn't there. */
        assert_false(json_get_string(&r, "z", 0, 0, 9, &z, NULL));
        assert_string_equal(z, "untouched");
        assert_false(json_get_u64(&r, "absent", 0, 0, 9, &none));
        assert_int_equal(none, 99);
        assert_true(json_reader_end(&r));
        assert_false(e.set);
}

typedef bool (*Read)(JsonReader *r);

static bool read_string(JsonReader *r) {
        const char *s = NULL;
        return json_get_string(r, "v", JSON_REQUIRED, 2, 4, &s, NULL);
}
static bool read_u64(JsonReader *r) { uint64_t v; return json_get_u64(r, "v", 0, 5, 100, &v); }
static bool read_double(JsonReader *r) { double v; return json_get_double(r, "v", 0, 0, 1, &v); }
static bool read_bool(JsonReader *r) { bool v; return json_get_bool(r, "v", 0, &v); }
static bool read_object(JsonReader *r) { json_object *v; return json_get_object(r, "v", 0, &v); }
static bool read_array(JsonReader *r) { json_object *v; return json_get_array(r, "v", 0, 1, &v); }
static bool read_nothing(JsonReader *r) { return false; }

static void test_reader_errors(void **state) {
        static const struct {
                const char *text;
                Read read;
                const char *pointer, *says;
        } cases[] = {
                { "{}", read_string, "/in/v", "required" },
                { "{\"v\":null}", read_string, "/in/v", "required" },
                { "{\"v\":1}", read_string, "/in/v", "a string" },
                { "{\"v\":\"x\"}", read_string, "/in/v", "2 to 4 bytes, got 1" },
                { "{\"v\":\"xxxxx\"}", read_string, "/in/v", "2 to 4 bytes, got 5" },
                { "{\"v\":\"x\\u0000y\"}", read_string, "/in/v", "U+0000" },
                { "{\"v\":4}", read_u64, "/in/v", "from 5 to 100" },
                { "{\"v\":101}", read_u64, "/in/v", "from 5 to 100" },
                { "{\"v\":-6}", read_u64, "/in/v", "from 5 to 100" },
                { "{\"v\":99999999999999999999999}", read_u64, "/in/v", "from 5 to 100" },
                { "{\"v\":6.0}", read_u64, "/in/v", "integer" },
                { "{\"v\":\"6\"}", read_u64, "/in/v", "integer" },
                { "{\"v\":1.5}", read_double, "/in/v", "from 0 to 1" },
                { "{\"v\":1e999}", read_double, "/in/v", "from 0 to 1" },
                { "{\"v\":\"1\"}", read_double, "/in/v", "a number" },
                { "{\"v\":1}", read_bool, "/in/v", "true or false" },
                { "{\"v\":[]}", read_object, "/in/v", "an object" },
                { "{\"v\":{}}", read_array, "/in/v", "an array" },
                { "{\"v\":[1,2]}", read_array, "/in/v", "at most 1 items" },
                { "{\"x/y~z\":1}", read_nothing, "/in/x~1y~0z", "not a known" },
                { "{\"w\":null}", read_nothing, "/in/w", "not a known" },
                { "[]", read_nothing, "/in", "an object" },
                { "null", read_string, "/in", "an object" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(json_putp) json_object *o = parse_ok(cases[i].text);
                JsonError e = {};
                JsonReader r = json_reader(o, "/in", &e);

                assert_false(cases[i].read(&r));
                assert_false(json_reader_end(&r));
                assert_true(e.set);
                if (!streq(e.pointer, cases[i].pointer) || !strstr(e.detail, cases[i].says))
                        fail_msg("%s: %s %s", cases[i].text, e.pointer, e.detail);
        }
}

static void test_reader_many(void **state) {
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        _cleanup_(json_putp) json_object *more = NULL;
        _cleanup_free_ char *text = NULL;
        JsonError e = {};
        JsonReader r;
        uint64_t v;

        for (unsigned i = 0; i <= JSON_MEMBERS_MAX; i++)
                assert_int_equal(buf_printf(&b, "%s\"m%u\":%u", i ? "," : "{", i, i), 0);
        assert_int_equal(buf_append_str(&b, "}"), 0);
        assert_int_equal(buf_take_str(&b, &text), 0);
        more = parse_ok(text);
        r = json_reader(more, "", &e);
        assert_true(e.set);
        assert_false(json_get_u64(&r, "m0", 0, 0, 9, &v));

        e = (JsonError){};
        json_object_object_del(more, "m0");
        r = json_reader(more, "", &e);
        for (unsigned i = 1; i <= JSON_MEMBERS_MAX; i++) {
                char name[8];
                snprintf(name, sizeof(name), "m%u", i);
                assert_true(json_get_u64(&r, name, 0, i, i, &v));
        }
        assert_true(json_reader_end(&r));
}

/* A name longer than the pointer's room is cut, and nothing is written past it. */
static void test_long_name(void **state) {
        _cleanup_(json_putp) json_object *o = json_object_new_object();
        char name[512];
        JsonError e = {};
        JsonReader r = json_reader(o, "/deep", &e);

        memset(name, '~', sizeof(name) - 1);
        name[sizeof(name) - 1] = 0;
        json_object_object_add(o, name, json_object_new_int(1));
        assert_false(json_reader_end(&r));
        assert_true(strlen(e.pointer) < sizeof(e.pointer));
        assert_true(str_starts(e.pointer, "/deep/~0~0~0"));
}

/* RFC 6901 §5. */
static void test_pointer(void **state) {
        _cleanup_(json_putp) json_object *o = parse_ok(
                "{\"foo\":[\"bar\",\"baz\"],\"\":0,\"a/b\":1,\"c%d\":2,\"m~n\":8,\"n\":null,\"d\":{\"e\":[[5]]}}");
        static const char *const absent[] = {
                "foo", "/nope", "/foo/2", "/foo/-", "/foo/01", "/foo/+1", "/foo/0/x", "/m~n", "/m~2n", "/m~", "/n/x", "/d/e/0/0/0",
                "//", "/foo/18446744073709551616",
        };

        assert_ptr_equal(json_at(o, ""), o);
        assert_string_equal(json_object_get_string(json_at(o, "/foo/0")), "bar");
        assert_string_equal(json_object_get_string(json_at(o, "/foo/1")), "baz");
        assert_int_equal(json_object_get_int(json_at(o, "/a~1b")), 1);
        assert_int_equal(json_object_get_int(json_at(o, "/c%d")), 2);
        assert_int_equal(json_object_get_int(json_at(o, "/m~0n")), 8);
        assert_int_equal(json_object_get_int(json_at(o, "/d/e/0/0")), 5);
        assert_true(json_object_is_type(json_at(o, "/"), json_type_int));
        for (size_t i = 0; i < ELEMENTSOF(absent); i++)
                if (json_at(o, absent[i]))
                        fail_msg("\"%s\" was found", absent[i]);
}

static void assert_appends(const char *in, size_t n, const char *out) {
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        _cleanup_(json_putp) json_object *o = NULL;
        _cleanup_free_ char *s = NULL;

        assert_int_equal(json_append_string(&b, in, n), 0);
        assert_int_equal(json_parse(buf_data(&b), buf_size(&b), 2, &o, NULL), 0);
        assert_int_equal(buf_take_str(&b, &s), 0);
        assert_string_equal(s, out);
}

static void test_append(void **state) {
        _cleanup_(json_putp) json_object *o = parse_ok("{\"a\": \"x/y\", \"b\": [1, 2.50]}");
        _cleanup_(buf_deinit) Buf b = BUF_INIT(23);

        assert_appends("", 0, "\"\"");
        assert_appends("a\"b\\c/d\n\x01\x7f", 10, "\"a\\\"b\\\\c/d\\n\\u0001\\u007f\"");
        assert_appends("\0", 1, "\"\\u0000\"");
        assert_appends("\xc3\xa9\xff\xe2\x82z", 6, "\"\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz\"");

        assert_int_equal(json_append(&b, o), BUF_E_FULL);
        assert_int_equal(buf_size(&b), 0);
        b.max = 24;
        assert_int_equal(json_append(&b, o), 0);
        assert_memory_equal(buf_data(&b), "{\"a\":\"x/y\",\"b\":[1,2.50]}", 24);
        b.max = 30;
        assert_int_equal(json_append_string(&b, "a\nbcde", 6), BUF_E_FULL);
        assert_int_equal(buf_size(&b), 24);
}

static void test_span(void **state) {
        static const struct { const char *text; size_t n; } table[] = {
                { "", 0 }, { "1", 1 }, { "12,3", 2 }, { "true]", 4 }, { "null }", 4 }, { "-1e5\n", 4 },
                { "\"a\",", 3 }, { "\"a\\\"b\"]", 6 }, { "\"a\\\\\"b", 5 }, { "\"\\", 0 }, { "\"abc", 0 }, { "\"a\\\"", 0 },
                { "{}x", 2 }, { "{\"a\":[1,{\"}\":\"]\"}]},{}", 19 }, { "[[[]]", 0 }, { "{\"a", 0 }, { ",", 0 }, { "]", 0 },
        };
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                _cleanup_free_ char *exact = strndup(table[i].text, strlen(table[i].text));
                if (json_span(exact, strlen(exact)) != table[i].n)
                        fail_msg("%s: %zu", table[i].text, json_span(exact, strlen(exact)));
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_valid),
                cmocka_unit_test(test_invalid),
                cmocka_unit_test(test_depth),
                cmocka_unit_test(test_values),
                cmocka_unit_test(test_garbage),
                cmocka_unit_test(test_reader),
                cmocka_unit_test(test_reader_errors),
                cmocka_unit_test(test_reader_many),
                cmocka_unit_test(test_long_name),
                cmocka_unit_test(test_pointer),
                cmocka_unit_test(test_span),
                cmocka_unit_test(test_append),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

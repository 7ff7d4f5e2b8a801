#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/parse.h"

typedef struct NumberCase {
        const char *text;
        bool ok;
        uint64_t value;
} NumberCase;

static void check(const char *what, bool (*parse)(const char *, uint64_t *), const NumberCase *cases, size_t n) {
        for (size_t i = 0; i < n; i++) {
                uint64_t v = 4711;
                bool ok = parse(cases[i].text, &v);

                if (ok != cases[i].ok || v != (ok ? cases[i].value : 4711))
                        fail_msg("%s \"%s\": %d, %llu", what, cases[i].text, ok, (unsigned long long)v);
        }
}

static void test_u64(void **state) {
        static const NumberCase cases[] = {
                { "0", true, 0 }, { "18446744073709551615", true, UINT64_MAX }, { "007", true, 7 },
                { "18446744073709551616", false }, { "99999999999999999999999", false }, { "", false }, { " 1", false },
                { "1 ", false }, { "+1", false }, { "-1", false }, { "1x", false }, { "0x10", false }, { "1.0", false },
        };
        uint64_t v = 5;

        check("u64", parse_u64, cases, ELEMENTSOF(cases));
        assert_true(parse_u64_range("10", 10, 20, &v) && v == 10);
        assert_true(parse_u64_range("20", 10, 20, &v) && v == 20);
        assert_false(parse_u64_range("9", 10, 20, &v));
        assert_false(parse_u64_range("21", 10, 20, &v));
        assert_int_equal(v, 20);
}

static void test_duration(void **state) {
        static const NumberCase cases[] = {
                { "500ms", true, 500000 }, { "10s", true, 10000000 }, { "10", true, 10000000 }, { "5min", true, 300000000 },
                { "5m", true, 300000000 }, { "2h", true, UINT64_C(7200000000) }, { "1d", true, UINT64_C(86400000000) },
                { "250us", true, 250 }, { "0", true, 0 },
                { "", false }, { "s", false }, { "1.5s", false }, { "1 s", false }, { "1S", false }, { "-1s", false },
                { "1h30m", false }, { "213503983d", false }, { "18446744073709551615", false },
        };

        check("duration", parse_duration_us, cases, ELEMENTSOF(cases));
}

static void test_size(void **state) {
        static const NumberCase cases[] = {
                { "0", true, 0 }, { "512", true, 512 }, { "64K", true, 65536 }, { "512M", true, 536870912 },
                { "2G", true, UINT64_C(2147483648) }, { "1T", true, UINT64_C(1) << 40 },
                { "", false }, { "K", false }, { "1k", false }, { "1KB", false }, { "1 K", false }, { "-1", false },
                { "18446744073709551615K", false }, { "16777216T", false }, { "16777215T", true, UINT64_C(16777215) << 40 },
        };

        check("size", parse_size, cases, ELEMENTSOF(cases));
}

static void test_bool(void **state) {
        static const char *const words[] = { "no", "yes", "false", "true", "off", "on", "0", "1" };
        static const char *const invalid[] = { "", "y", "Yes", "TRUE", "2", "true " };
        bool v = true;

        for (size_t i = 0; i < ELEMENTSOF(words); i++) {
                assert_true(parse_bool(words[i], &v));
                assert_int_equal(v, i % 2);
        }
        for (size_t i = 0; i < ELEMENTSOF(invalid); i++)
                assert_false(parse_bool(invalid[i], &v));
}

static void test_name(void **state) {
        assert_true(parse_name("codex", 5));
        assert_true(parse_name("a", 1));
        assert_true(parse_name("Agent_2.1-x", 64));
        assert_false(parse_name("codex", 4));
        assert_false(parse_name("", 5));
        assert_false(parse_name(".hidden", 64));
        assert_false(parse_name("-x", 64));
        assert_false(parse_name("a/b", 64));
        assert_false(parse_name("a b", 64));
        assert_false(parse_name("\xc3\xa9", 64));
}

static void test_utf8(void **state) {
        static const struct {
                const char *text;
                size_t n;
                bool valid;
        } cases[] = {
                { "", 0, true }, { "plain", 5, true }, { "\0", 1, true }, { "\xc3\xa9", 2, true }, { "\xe2\x82\xac", 3, true },
                { "\xf0\x9f\x98\x80", 4, true }, { "\xf4\x8f\xbf\xbf", 4, true }, { "\xed\x9f\xbf", 3, true },
                { "\xee\x80\x80", 3, true }, { "\xef\xbf\xbf", 3, true },
                { "\x80", 1, false }, { "\xc3", 1, false }, { "\xc0\x80", 2, false }, { "\xc1\xbf", 2, false },
                { "\xe0\x9f\xbf", 3, false }, { "\xed\xa0\x80", 3, false }, { "\xf0\x8f\xbf\xbf", 4, false },
                { "\xf4\x90\x80\x80", 4, false }, { "\xf5\x80\x80\x80", 4, false }, { "\xff", 1, false },
                { "\xe2\x82", 2, false }, { "\xe2\x28\xa1", 3, false }, { "\xf0\x9f\x98", 3, false }, { "a\xe2\x82z", 4, false },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                if (utf8_is_valid(cases[i].text, cases[i].n) != cases[i].valid)
                        fail_msg("case %zu", i);
        assert_int_equal(utf8_sequence("\xe2\x82\xac", 3), 3);
        assert_int_equal(utf8_sequence("\xe2\x82\xac", 2), 0);
}

/* Each code point in its one encoding is valid; every other sequence of its length is judged by the same rule. */
static void test_utf8_all(void **state) {
        for (uint32_t c = 0; c < 0x110000; c++) {
                char s[4];
                size_t n;

                if (c < 0x80) {
                        s[0] = (char)c;
                        n = 1;
                } else if (c < 0x800) {
                        s[0] = (char)(0xc0 | c >> 6);
                        n = 2;
                } else if (c < 0x10000) {
                        s[0] = (char)(0xe0 | c >> 12);
                        n = 3;
                } else {
                        s[0] = (char)(0xf0 | c >> 18);
                        n = 4;
                }
                for (size_t i = 1; i < n; i++)
                        s[i] = (char)(0x80 | (c >> (6 * (n - 1 - i)) & 0x3f));
                if (utf8_is_valid(s, n) != (c < 0xd800 || c > 0xdfff))
                        fail_msg("U+%04X", c);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_u64),
                cmocka_unit_test(test_duration),
                cmocka_unit_test(test_size),
                cmocka_unit_test(test_bool),
                cmocka_unit_test(test_name),
                cmocka_unit_test(test_utf8),
                cmocka_unit_test(test_utf8_all),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

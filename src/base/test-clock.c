#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"

static void test_parse(void **state) {
        static const struct {
                const char *text;
                uint64_t us;
        } valid[] = {
                { "1970-01-01T00:00:00Z", 0 },
                { "1985-04-12T23:20:50.52Z", 482196050520000 },
                { "1996-12-19T16:39:57-08:00", 851042397000000 },
                { "1996-12-20t00:39:57z", 851042397000000 },
                { "1990-12-31T23:59:60Z", 662688000000000 },            /* leap second */
                { "1990-12-31T15:59:60-08:00", 662688000000000 },
                { "1937-01-01T12:00:27.87+00:20", UINT64_MAX },         /* before 1970 */
                { "1970-01-01T00:00:00+00:01", UINT64_MAX },
                { "1969-12-31T23:59:00-00:01", 0 },
                { "2024-02-29T12:00:00Z", 1709208000000000 },           /* leap day */
                { "2000-02-29T00:00:00Z", 951782400000000 },
                { "2026-01-31T09:30:00.1234567890123Z", 1769851800123456 },
                { "2026-01-31T09:30:00.000001+00:00", 1769851800000001 },
                { "2026-01-31T09:30:00-00:00", 1769851800000000 },
                { "9999-12-31T23:59:59.999999Z", 253402300799999999 },
        };

        for (size_t i = 0; i < ELEMENTSOF(valid); i++) {
                uint64_t us = 12345;
                int r = clock_parse_rfc3339(valid[i].text, &us);

                if (valid[i].us == UINT64_MAX)
                        assert_int_equal(r, CLOCK_E_INVALID);
                else if (r || us != valid[i].us)
                        fail_msg("%s: %d, %llu", valid[i].text, r, (unsigned long long)us);
        }
}

static void test_parse_invalid(void **state) {
        static const char *const invalid[] = {
                "", "Z", "2026-01-31", "2026-01-31T09:30:00", "2026-01-31 09:30:00Z", "2026-01-31T09:30Z",
                "2026-13-01T00:00:00Z", "2026-00-01T00:00:00Z", "2026-02-29T00:00:00Z", "2026-04-31T00:00:00Z",
                "1900-02-29T00:00:00Z", "2100-02-29T00:00:00Z", "2026-01-00T00:00:00Z", "2026-01-01T24:00:00Z",
                "2026-01-01T00:60:00Z", "2026-01-01T00:00:61Z", "2026-01-01T00:00:60Z", "2026-01-01T23:59:60+01:00",
                "2026-01-01T00:00:00.Z", "2026-01-01T00:00:00,5Z", "2026-01-01T00:00:00+0100", "2026-01-01T00:00:00+1:00",
                "2026-01-01T00:00:00+24:00", "2026-01-01T00:00:00+00:60", "2026-01-01T00:00:00+-1:00",
                "2026-01-01T00:00:00+ 1:00", "2026-01-01T00:00:00Zx", "2026-01-01T00:00:00Z ", " 2026-01-01T00:00:00Z",
                "+026-01-01T00:00:00Z", "20260-01-01T00:00:00Z", "2026-1-01T00:00:00Z", "2026-01-01T+1:00:00Z",
                "2026-01-01T00:00:00", "2026-01-01T00:00:00+", "2026-01-01T00:00:00+01", "2026-01-01T00:00:00+01:",
        };

        for (size_t i = 0; i < ELEMENTSOF(invalid); i++) {
                uint64_t us = 12345;

                if (clock_parse_rfc3339(invalid[i], &us) != CLOCK_E_INVALID)
                        fail_msg("\"%s\" was taken", invalid[i]);
                assert_int_equal(us, 12345);
        }
}

static void test_round_trip(void **state) {
        unsigned seed = 3;

        for (unsigned i = 0; i < 2000; i++) {
                uint64_t ms = ((uint64_t)rand_r(&seed) << 31 | (uint64_t)rand_r(&seed)) % UINT64_C(253402300799999), us;
                char text[CLOCK_RFC3339_MAX];

                clock_format_rfc3339(ms * USEC_PER_MSEC + 999, text);
                assert_int_equal(strlen(text), 24);
                assert_int_equal(clock_parse_rfc3339(text, &us), 0);
                assert_int_equal(us, ms * USEC_PER_MSEC);
        }
}

static void test_format(void **state) {
        char text[CLOCK_RFC3339_MAX];

        clock_format_rfc3339(1769851800123999, text);
        assert_string_equal(text, "2026-01-31T09:30:00.123Z");
        clock_format_rfc3339(0, text);
        assert_string_equal(text, "1970-01-01T00:00:00.000Z");
        clock_format_rfc3339(UINT64_MAX, text);        /* fits, whatever it says */
        assert_non_null(memchr(text, 0, sizeof(text)));
}

static void test_freeze(void **state) {
        uint64_t before;

        clock_freeze(5, 7);
        assert_int_equal(clock_monotonic_us(), 5);
        assert_int_equal(clock_realtime_us(), 7);
        clock_freeze(0, 0);
        before = clock_monotonic_us();
        assert_true(before > 5);
        assert_true(clock_monotonic_us() >= before);
        assert_true(clock_realtime_us() > UINT64_C(1577836800000000));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_parse),
                cmocka_unit_test(test_parse_invalid),
                cmocka_unit_test(test_round_trip),
                cmocka_unit_test(test_format),
                cmocka_unit_test(test_freeze),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/id.h"

#define MS UINT64_C(1700000000000)

static uint64_t id_ms(const Id *id) {
        uint64_t v = 0;

        for (unsigned i = 0; i < 6; i++)
                v = v << 8 | id->bytes[i];
        return v;
}

static void assert_next(Id *last) {
        char a[ID_TEXT_MAX], b[ID_TEXT_MAX];
        Id id;

        assert_int_equal(id_new(&id), 0);
        assert_int_equal(id.bytes[6] >> 4, 7);
        assert_int_equal(id.bytes[8] >> 6, 2);
        assert_true(memcmp(id.bytes, last->bytes, sizeof(id.bytes)) > 0);
        id_format(&id, a);
        id_format(last, b);
        assert_true(strcmp(a, b) > 0);
        *last = id;
}

/* More ids than a millisecond's counter holds, then a clock that steps back by an hour, then one that goes on. */
static void test_order(void **state) {
        Id last = {};

        clock_freeze(1, MS * 1000);
        for (unsigned i = 0; i < 10000; i++)
                assert_next(&last);
        /* The counter borrowed from the future, by no more than it must. */
        assert_in_range(id_ms(&last), MS + 1, MS + 3);
        clock_freeze(1, (MS - 3600000) * 1000);
        for (unsigned i = 0; i < 10000; i++)
                assert_next(&last);
        assert_in_range(id_ms(&last), MS + 3, MS + 6);
        clock_freeze(1, (MS + 1000) * 1000);
        assert_next(&last);
        assert_int_equal(id_ms(&last), MS + 1000);
        clock_freeze(0, 0);
        assert_next(&last);
}

/* A seed gives the same ids again; without one they differ. */
static void test_frozen(void **state) {
        Id first[3], again[3];

        for (unsigned seed = 1; seed < 4; seed++)
                for (unsigned round = 0; round < 2; round++) {
                        id_freeze(seed);
                        clock_freeze(1, MS * 1000);
                        for (unsigned i = 0; i < 3; i++)
                                assert_int_equal(id_new(round ? &again[i] : &first[i]), 0);
                        if (round)
                                assert_memory_equal(first, again, sizeof(first));
                }
        id_freeze(0);
        assert_int_equal(id_new(&first[0]), 0);
        id_freeze(0);
        assert_int_equal(id_new(&again[0]), 0);
        assert_false(id_equal(&first[0], &again[0]));
        clock_freeze(0, 0);
}

static void test_text(void **state) {
        static const char *const invalid[] = {
                "", "017f22e2-79b0-7cc3-98c4-dc0c0c07398", "017f22e2-79b0-7cc3-98c4-dc0c0c07398ff",
                "017f22e279b07cc398c4dc0c0c07398f", "017f22e2-79b0-7cc3-98c4-dc0c0c07398g",
                "017f22e2-79b0-7cc3-98c4_dc0c0c07398f", "{017f22e2-79b0-7cc3-98c4-dc0c0c07398f}",
                "017f22e2-79b0-7cc3-98c4-dc0c0c07398f ", "-17f22e2-79b0-7cc3-98c4-dc0c0c07398f",
        };
        const char *text = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
        char again[ID_TEXT_MAX];
        Id id, upper, untouched = { { 1 } };

        assert_true(id_parse(text, &id));
        assert_int_equal(id.bytes[0], 0x01);
        assert_int_equal(id.bytes[15], 0x8f);
        id_format(&id, again);
        assert_string_equal(again, text);
        assert_true(id_parse("017F22E2-79B0-7CC3-98C4-DC0C0C07398F", &upper));
        assert_true(id_equal(&id, &upper));
        for (size_t i = 0; i < ELEMENTSOF(invalid); i++)
                if (id_parse(invalid[i], &untouched))
                        fail_msg("\"%s\" was taken", invalid[i]);
        assert_int_equal(untouched.bytes[0], 1);
        assert_false(id_is_null(&id));
        assert_true(id_is_null(&(Id){}));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_order),
                cmocka_unit_test(test_frozen),
                cmocka_unit_test(test_text),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

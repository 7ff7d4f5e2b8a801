#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <locale.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/json.h"
#include "ctl/table.h"
#include "ctl/text.h"

static char *print(const Table *t, unsigned width, bool color) {
        char *text = NULL;
        size_t n = 0;
        FILE *f = open_memstream(&text, &n);

        assert_int_equal(table_print(t, f, width, color), 0);
        fclose(f);
        return text;
}

static void fill(Table *t) {
        table_column(t, "id", TABLE_LEFT);
        table_column(t, "prio", TABLE_RIGHT);
        table_column(t, "labels", TABLE_LEFT);
        table_add(t, "a-long-id");
        table_addf(t, "%d", 5);
        table_add(t, "team=research place=somewhere");
        table_add(t, "b");
        table_add_color(t, "100", "\033[31m");
        table_add(t, "");
}

static void test_aligned(void **state) {
        _cleanup_(table_deinit) Table t = TABLE_NULL;
        _cleanup_free_ char *whole = NULL, *cut = NULL, *narrow = NULL, *color = NULL;

        fill(&t);
        whole = print(&t, 0, false);
        assert_string_equal(whole, "id         prio  labels\n"
                            "a-long-id     5  team=research place=somewhere\n"
                            "b           100\n");
        /* The last column alone is cut, to the width and no further than its minimum. */
        cut = print(&t, 30, false);
        assert_non_null(strstr(cut, "a-long-id     5  team=researc…\n"));
        narrow = print(&t, 10, false);
        assert_non_null(strstr(narrow, "a-long-id     5  team=re…\n"));
        color = print(&t, 0, true);
        assert_true(str_starts(color, "\033[1mid\033[0m         \033[1mprio\033[0m"));
        assert_non_null(strstr(color, "\033[31m100\033[0m"));
}

/* Columns are counted as a terminal shows them: accents are one byte more, wide characters two columns. */
static void test_unicode(void **state) {
        _cleanup_(table_deinit) Table t = TABLE_NULL;
        _cleanup_free_ char *text = NULL;

        if (!setlocale(LC_CTYPE, "C.UTF-8"))
                skip();
        table_column(&t, "name", TABLE_LEFT);
        table_column(&t, "x", TABLE_LEFT);
        table_add(&t, "caf\xc3\xa9");
        table_add(&t, "1");
        table_add(&t, "\xe6\xbc\xa2\xe5\xad\x97\xe6\xbc\xa2");
        table_add(&t, "\xe6\xbc\xa2\xe5\xad\x97\xe6\xbc\xa2\xe5\xad\x97\xe6\xbc\xa2");
        text = print(&t, 16, false);
        assert_string_equal(text, "name    x\n"
                            "caf\xc3\xa9    1\n"
                            "\xe6\xbc\xa2\xe5\xad\x97\xe6\xbc\xa2  \xe6\xbc\xa2\xe5\xad\x97\xe6\xbc\xa2…\n");
}

/* What a client put into a label can't move the cursor, or break a row. */
static void test_controls(void **state) {
        _cleanup_(table_deinit) Table t = TABLE_NULL;
        _cleanup_free_ char *text = NULL;

        table_column(&t, "x", TABLE_LEFT);
        table_add(&t, "a\nb\033[2Jc\xc2\x9b" "d\xff");
        text = print(&t, 0, false);
        assert_string_equal(text, "x\na b?[2Jc?d?\n");
}

static void test_many(void **state) {
        _cleanup_(table_deinit) Table t = TABLE_NULL;
        _cleanup_free_ char *text = NULL;

        table_column(&t, "n", TABLE_RIGHT);
        for (unsigned i = 0; i < 1000; i++)
                table_addf(&t, "%u", i);
        text = print(&t, 80, false);
        assert_non_null(strstr(text, "\n 42\n"));
        assert_int_equal(strlen(text), 1001 * 4);

        for (size_t i = 1; i < TABLE_COLUMNS_MAX; i++)
                table_column(&t, "x", TABLE_LEFT);
        assert_false(t.failed);
        table_column(&t, "one too many", TABLE_LEFT);
        assert_int_equal(table_print(&t, stdout, 0, false), -ENOMEM);
}

static void test_units(void **state) {
        static const struct {
                uint64_t v;
                const char *text;
        } durations[] = {
                { 0, "0ms" }, { 850999, "850ms" }, { 1000000, "1s" }, { 59999999, "59s" }, { 185000000, "3m05s" },
                { UINT64_C(7800000000), "2h10m" }, { UINT64_C(356400000000), "4d03h" }, { UINT64_MAX, "213503982d08h" },
        }, sizes[] = {
                { 0, "0 B" }, { 1023, "1023 B" }, { 1024, "1.0 KiB" }, { 1536, "1.5 KiB" }, { 10240, "10 KiB" },
                { 12582912, "12 MiB" }, { UINT64_MAX, "16 EiB" },
        };
        char s[TEXT_DURATION_MAX];

        for (size_t i = 0; i < ELEMENTSOF(durations); i++) {
                text_duration(durations[i].v, s);
                assert_string_equal(s, durations[i].text);
        }
        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                text_bytes(sizes[i].v, s);
                assert_string_equal(s, sizes[i].text);
        }
}

static void test_span(void **state) {
        json_object *from = json_object_new_string("2026-01-31T09:30:00Z"), *to = json_object_new_string("2026-01-31T09:31:05.5Z");
        json_object *bad = json_object_new_string("yesterday");
        char s[TEXT_DURATION_MAX];

        text_span(from, to, s);
        assert_string_equal(s, "1m05s");
        text_span(to, from, s);
        assert_string_equal(s, "0ms");
        text_span(NULL, to, s);
        assert_string_equal(s, "-");
        text_span(bad, to, s);
        assert_string_equal(s, "-");
        clock_freeze(1, UINT64_C(1769851860000000));
        text_span(from, NULL, s);
        assert_string_equal(s, "1m00s");
        clock_freeze(0, 0);
        json_object_put(from);
        json_object_put(to);
        json_object_put(bad);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_aligned),
                cmocka_unit_test(test_unicode),
                cmocka_unit_test(test_controls),
                cmocka_unit_test(test_many),
                cmocka_unit_test(test_units),
                cmocka_unit_test(test_span),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "ctl/event-stream.h"

/* Events as "id|type|data\n". */
typedef struct Seen {
        Buf text;
        unsigned stop_after;
} Seen;

static bool on_event(void *userdata, const char *id, const char *type, const char *data, size_t n) {
        Seen *seen = userdata;

        assert_int_equal(buf_printf(&seen->text, "%s|%s|", id, type), 0);
        assert_int_equal(buf_append(&seen->text, data, n), 0);
        assert_int_equal(buf_append(&seen->text, "\n", 1), 0);
        return seen->stop_after == 0 || --seen->stop_after > 0;
}

static const struct {
        const char *stream, *events;
} cases[] = {
        { "id: 7\nevent: text\ndata: {\"a\":1}\n\n", "7|text|{\"a\":1}\n" },
        { "data: a\ndata: b\ndata\n\n", "|message|a\nb\n\n" },
        { "data:a\r\ndata:  b\r\n\r\n", "|message|a\n b\n" },
        { "data: a\rdata: b\r\r", "|message|a\nb\n" },
        { ": heartbeat\n\n: heartbeat\n\ndata: x\n\n", "|message|x\n" },
        { "\xef\xbb\xbfid: 1\ndata: x\n\n", "1|message|x\n" },
        { "event: text\n\ndata: x\n\n", "|message|x\n" },
        { "id: 1\ndata: a\n\ndata: b\n\nid: 2\n\ndata: c\n\n", "1|message|a\n1|message|b\n2|message|c\n" },
        { "retry: 1000\nwhatever: 1\ndatax: no\ndata: x\n\n", "|message|x\n" },
        { "event: a:b\ndata: c: d\n\n", "|a:b|c: d\n" },
        { "data:\n\n", "|message|\n" },
        { "data: unfinished\n", "" },
        { "id: 1\ndata: x\n\nid: 2\ndata: cut", "1|message|x\n" },
};

static void assert_seen(const Seen *seen, const char *events) {
        assert_int_equal(buf_size(&seen->text), strlen(events));
        if (*events)
                assert_memory_equal(buf_data(&seen->text), events, strlen(events));
}

/* Each stream whole, and cut in two at every place, and byte by byte. */
static void test_splits(void **state) {
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                size_t n = strlen(cases[i].stream);

                for (size_t cut = 0; cut <= n; cut++) {
                        Seen seen = {};
                        EventStream s = EVENT_STREAM_INIT(on_event, &seen);

                        assert_true(event_stream_feed(&s, cases[i].stream, cut));
                        assert_true(event_stream_feed(&s, cases[i].stream + cut, n - cut));
                        assert_seen(&seen, cases[i].events);
                        event_stream_deinit(&s);
                        buf_deinit(&seen.text);
                }
                Seen seen = {};
                EventStream s = EVENT_STREAM_INIT(on_event, &seen);
                for (size_t k = 0; k < n; k++)
                        assert_true(event_stream_feed(&s, cases[i].stream + k, 1));
                assert_seen(&seen, cases[i].events);
                event_stream_deinit(&s);
                buf_deinit(&seen.text);
        }
}

static void test_restart(void **state) {
        Seen seen = {};
        EventStream s = EVENT_STREAM_INIT(on_event, &seen);

        assert_true(event_stream_feed(&s, "id: 3\ndata: a\n\nid: 4\nevent: x\ndata: cut", 39));
        event_stream_restart(&s);
        assert_string_equal(s.id, "3");
        assert_true(event_stream_feed(&s, "data: b\n\n", 9));
        assert_seen(&seen, "3|message|a\n3|message|b\n");
        event_stream_deinit(&s);
        buf_deinit(&seen.text);
}

static void test_stop(void **state) {
        Seen seen = { .stop_after = 1 };
        EventStream s = EVENT_STREAM_INIT(on_event, &seen);

        assert_false(event_stream_feed(&s, "data: a\n\ndata: b\n\n", 18));
        assert_seen(&seen, "|message|a\n");
        event_stream_deinit(&s);
        buf_deinit(&seen.text);
}

static void test_bounds(void **state) {
        Seen seen = {};
        EventStream s = EVENT_STREAM_INIT(on_event, &seen);
        _cleanup_free_ char *large = malloc(MIB(1));
        char id[200] = "id: ";
        bool fed = true;

        /* An id that is too long, or holds NUL, is as if it weren't there. */
        memset(id + 4, '1', sizeof(id) - 5);
        assert_true(event_stream_feed(&s, "id: 5\nid: 6\0", 12));
        assert_true(event_stream_feed(&s, "7\n", 2));
        assert_true(event_stream_feed(&s, id, sizeof(id) - 1));
        assert_true(event_stream_feed(&s, "\ndata: x\n\n", 10));
        assert_seen(&seen, "5|message|x\n");

        memset(large, 'x', MIB(1));
        for (size_t i = 0; fed && i < 2 * EVENT_STREAM_MAX / MIB(1); i++)
                fed = event_stream_feed(&s, large, MIB(1));
        assert_false(fed);
        event_stream_deinit(&s);
        buf_deinit(&seen.text);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_splits),
                cmocka_unit_test(test_restart),
                cmocka_unit_test(test_stop),
                cmocka_unit_test(test_bounds),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

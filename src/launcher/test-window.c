#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <unistd.h>

#include "launcher/window.h"

#define WINDOW_MAX 10000     /* no power of two: the last doubling is cut */

typedef struct Fixture {
        int pipe[2];
        Window w;
} Fixture;

static int setup(void **state) {
        Fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        f->w = (Window)WINDOW_INIT(WINDOW_MAX);
        assert_int_equal(pipe2(f->pipe, O_CLOEXEC | O_NONBLOCK), 0);
        *state = f;
        return 0;
}

static int teardown(void **state) {
        Fixture *f = *state;

        window_deinit(&f->w);
        close(f->pipe[0]);
        if (f->pipe[1] >= 0)
                close(f->pipe[1]);
        free(f);
        return 0;
}

/* Byte i of the stream. */
static uint8_t pattern(uint64_t i) {
        return (uint8_t)(i * 131 + i / 256);
}

static void put(Fixture *f, uint64_t from, size_t n) {
        uint8_t b[WINDOW_MAX];

        for (size_t i = 0; i < n; i++)
                b[i] = pattern(from + i);
        assert_int_equal(write(f->pipe[1], b, n), n);
}

static void check_rest(const Window *w) {
        Window copy = *w;

        while (!window_is_sent(&copy)) {
                const uint8_t *data;
                size_t n = window_peek(&copy, 777, &data);

                assert_in_range(n, 1, 777);
                for (size_t i = 0; i < n; i++)
                        assert_int_equal(data[i], pattern(copy.sent + i));
                window_sent(&copy, n);
        }
}

static void test_order_over_many_wraps(void **state) {
        Fixture *f = *state;
        uint64_t written = 0;
        size_t n;

        for (unsigned i = 1; i < 200; i++) {
                size_t k = i * 37 % 4000 + 1;
                int r;

                put(f, written, k);
                written += k;
                while ((r = window_read(&f->w, f->pipe[0], 1234, &n)) == 0)
                        ;
                assert_true(r == WINDOW_E_AGAIN || r == WINDOW_E_FULL);
                check_rest(&f->w);
                window_sent(&f->w, (size_t)(window_end(&f->w) - f->w.sent));
                /* A part is acknowledged, so that the head walks. */
                assert_true(window_ack(&f->w, f->w.acked + f->w.n - f->w.n / 3));
                while ((r = window_read(&f->w, f->pipe[0], WINDOW_MAX, &n)) == 0)
                        ;
                assert_int_equal(r, WINDOW_E_AGAIN);
                check_rest(&f->w);
                window_sent(&f->w, (size_t)(window_end(&f->w) - f->w.sent));
        }
        assert_int_equal(window_end(&f->w), written);
}

static void test_full_stops_reading(void **state) {
        Fixture *f = *state;
        size_t n, total = 0;
        int r;

        put(f, 0, WINDOW_MAX);
        put(f, WINDOW_MAX, WINDOW_MAX);
        while ((r = window_read(&f->w, f->pipe[0], WINDOW_MAX, &n)) == 0)
                total += n;
        assert_int_equal(r, WINDOW_E_FULL);
        assert_int_equal(total, WINDOW_MAX);
        assert_true(window_is_full(&f->w));
        assert_int_equal(f->w.capacity, WINDOW_MAX);
        /* Only what was sent can be acknowledged. */
        assert_false(window_ack(&f->w, 1));
        window_sent(&f->w, 5000);
        assert_false(window_ack(&f->w, 5001));
        assert_true(window_ack(&f->w, 5000));
        assert_true(window_ack(&f->w, 4000));   /* an older one changes nothing */
        assert_int_equal(f->w.acked, 5000);
        assert_int_equal(window_read(&f->w, f->pipe[0], WINDOW_MAX, &n), 0);
        check_rest(&f->w);
}

static void test_rewind_sends_again(void **state) {
        Fixture *f = *state;
        const uint8_t *data;
        size_t n;

        put(f, 0, 300);
        assert_int_equal(window_read(&f->w, f->pipe[0], WINDOW_MAX, &n), 0);
        window_sent(&f->w, 300);
        assert_true(window_ack(&f->w, 100));
        assert_int_equal(window_peek(&f->w, WINDOW_MAX, &data), 0);
        window_rewind(&f->w);
        assert_int_equal(f->w.sent, 100);
        assert_int_equal(window_peek(&f->w, WINDOW_MAX, &data), 200);
        assert_int_equal(data[0], pattern(100));
}

static void test_empty_costs_nothing(void **state) {
        Fixture *f = *state;
        size_t n;

        assert_int_equal(window_read(&f->w, f->pipe[0], WINDOW_MAX, &n), WINDOW_E_AGAIN);
        assert_null(f->w.data);
        put(f, 0, 10);
        assert_int_equal(window_read(&f->w, f->pipe[0], WINDOW_MAX, &n), 0);
        assert_int_equal(f->w.capacity, WINDOW_CAPACITY_MIN);
        window_sent(&f->w, 10);
        assert_true(window_ack(&f->w, 10));
        assert_null(f->w.data);
        close(f->pipe[1]);
        f->pipe[1] = -1;
        assert_int_equal(window_read(&f->w, f->pipe[0], WINDOW_MAX, &n), WINDOW_E_EOF);
        assert_null(f->w.data);
        assert_int_equal(window_end(&f->w), 10);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_order_over_many_wraps, setup, teardown),
                cmocka_unit_test_setup_teardown(test_full_stops_reading, setup, teardown),
                cmocka_unit_test_setup_teardown(test_rewind_sends_again, setup, teardown),
                cmocka_unit_test_setup_teardown(test_empty_costs_nothing, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

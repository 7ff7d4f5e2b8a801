#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include "telemetry/metrics.h"

#include <cmocka.h>

static char *written(Metrics *m) {
        Buf out = BUF_NULL;
        char *s;

        assert_int_equal(metrics_write(m, &out), 0);
        assert_int_equal(buf_take_str(&out, &s), 0);
        return s;
}

static void test_families(void **state) {
        _cleanup_(metrics_freep) Metrics *m = NULL;
        _cleanup_free_ char *s = NULL;
        MetricFamily *f;

        assert_int_equal(metrics_new(&m), 0);
        metric_add(metric_get(metrics_family(m, METRIC_COUNTER, "a_total", "All.", NULL), NULL), 3);
        f = metrics_family(m, METRIC_GAUGE, "b", "By.", "agent");
        metric_set(metric_get(f, "q\"\\\n"), 1.5);
        metrics_family(m, METRIC_GAUGE, "empty", "No child, not written.", "x");
        s = written(m);
        assert_string_equal(s, "# HELP a_total All.\n# TYPE a_total counter\na_total 3\n"
                               "# HELP b By.\n# TYPE b gauge\nb{agent=\"q\\\"\\\\\\n\"} 1.5\n");
}

static void test_histogram_is_cumulative(void **state) {
        _cleanup_(metrics_freep) Metrics *m = NULL;
        _cleanup_free_ char *s = NULL;
        Metric *h;

        assert_int_equal(metrics_new(&m), 0);
        h = metric_get(metrics_family(m, METRIC_HISTOGRAM, "h", "H.", NULL), NULL);
        metric_observe(h, 0.001);
        metric_observe(h, 0.2);
        metric_observe(h, 1e9);
        s = written(m);
        assert_non_null(strstr(s, "h_bucket{le=\"0.0005\"} 0\n"));
        assert_non_null(strstr(s, "h_bucket{le=\"0.001\"} 1\n"));
        assert_non_null(strstr(s, "h_bucket{le=\"1800\"} 2\n"));
        assert_non_null(strstr(s, "h_bucket{le=\"+Inf\"} 3\n"));
        assert_non_null(strstr(s, "h_count 3\n"));
}

static void test_children_are_bounded(void **state) {
        _cleanup_(metrics_freep) Metrics *m = NULL;
        MetricFamily *f;
        char name[16];

        assert_int_equal(metrics_new(&m), 0);
        f = metrics_family(m, METRIC_COUNTER, "c_total", "C.", "name");
        for (int i = 0; i < 1000; i++) {
                snprintf(name, sizeof(name), "n%d", i);
                metric_add(metric_get(f, name), 1);
        }
        assert_true(metric_value(metric_get(f, "other")) == 1000 - METRICS_CHILDREN_MAX);
        assert_true(metric_value(metric_get(f, "n5")) == 1);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_families),
                cmocka_unit_test(test_histogram_is_cumulative),
                cmocka_unit_test(test_children_are_bounded),
        };
        return cmocka_run_group_tests_name("telemetry-metrics", tests, NULL, NULL);
}

#pragma once

/*
 * metrics: counters, gauges and histograms, written in the Prometheus text exposition format 0.0.4. A family has a
 * name, a help text and at most one label; a family without a label has one child. Children are bounded: past
 * METRICS_CHILDREN_MAX a new label value is counted under "other", so that names chosen by clients can't grow memory.
 */

#include "base/buf.h"
#include "base/macro.h"

#define METRICS_CHILDREN_MAX 64
#define METRICS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

typedef struct Metric Metric;
typedef struct MetricFamily MetricFamily;
typedef struct Metrics Metrics;

typedef enum MetricType {
        METRIC_COUNTER,
        METRIC_GAUGE,
        METRIC_HISTOGRAM,       /* of seconds */
} MetricType;

int metrics_new(Metrics **ret_metrics) _must_check_;
Metrics *metrics_free(Metrics *metrics);
DEFINE_CLEANUP(Metrics, metrics_free);

/* Name, help and label must be static. label NULL: no label. NULL: no memory. */
MetricFamily *metrics_family(Metrics *metrics, MetricType type, const char *name, const char *help, const char *label);
/* The child for a label value (copied; NULL where the family has no label). NULL where there is no memory. */
Metric *metric_get(MetricFamily *family, const char *label_value);
/* All accept NULL, so that a metric without memory is merely not counted. */
void metric_add(Metric *metric, double v);
void metric_set(Metric *metric, double v);
void metric_observe(Metric *metric, double seconds);
double metric_value(const Metric *metric);

/* Called before each write, to set gauges that are read rather than kept. */
void metrics_set_collect(Metrics *metrics, void (*collect)(void *userdata), void *userdata);
int metrics_write(Metrics *metrics, Buf *out) _must_check_;

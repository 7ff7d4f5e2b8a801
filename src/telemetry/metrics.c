#include <stdio.h>

#include "base/error.h"
#include "base/list.h"
#include "telemetry/metrics.h"

/* Seconds; from a fast commit to a long agent run. */
static const double metrics_buckets[] = {
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800,
};

struct Metric {
        ListLink link;
        const MetricFamily *family;
        char *label_value;
        double value;           /* histogram: sum */
        uint64_t count;
        uint64_t buckets[ELEMENTSOF(metrics_buckets)];
};

struct MetricFamily {
        ListLink link;
        MetricType type;
        const char *name;
        const char *help;
        const char *label;
        List children;
        size_t n_children;
};

struct Metrics {
        List families;
        void (*collect)(void *userdata);
        void *userdata;
};

int metrics_new(Metrics **ret_metrics) {
        Metrics *m = calloc(1, sizeof(*m));

        if (!m)
                return error_origin(-ENOMEM);
        list_init(&m->families);
        *ret_metrics = m;
        return 0;
}

Metrics *metrics_free(Metrics *m) {
        if (!m)
                return NULL;
        list_for_each_safe(i, &m->families) {
                MetricFamily *f = container_of(i, MetricFamily, link);
                list_for_each_safe(j, &f->children) {
                        Metric *child = container_of(j, Metric, link);
                        free(child->label_value);
                        free(child);
                }
                free(f);
        }
        free(m);
        return NULL;
}

MetricFamily *metrics_family(Metrics *m, MetricType type, const char *name, const char *help, const char *label) {
        MetricFamily *f = calloc(1, sizeof(*f));

        if (!f)
                return NULL;
        f->type = type;
        f->name = name;
        f->help = help;
        f->label = label;
        list_init(&f->children);
        list_link_tail(&m->families, &f->link);
        if (!label)
                (void)metric_get(f, NULL);
        return f;
}

Metric *metric_get(MetricFamily *f, const char *label_value) {
        Metric *child;

        if (!f)
                return NULL;
        list_for_each_safe(i, &f->children) {
                child = container_of(i, Metric, link);
                if (streq_ptr(child->label_value, label_value))
                        return child;
        }
        if (f->n_children >= METRICS_CHILDREN_MAX && !streq_ptr(label_value, "other"))
                return metric_get(f, "other");
        child = calloc(1, sizeof(*child));
        if (!child)
                return NULL;
        child->family = f;
        if (label_value) {
                child->label_value = strdup(label_value);
                if (!child->label_value) {
                        free(child);
                        return NULL;
                }
        }
        list_link_tail(&f->children, &child->link);
        f->n_children++;
        return child;
}

void metric_add(Metric *m, double v) {
        if (m)
                m->value += v;
}

void metric_set(Metric *m, double v) {
        if (m)
                m->value = v;
}

void metric_observe(Metric *m, double seconds) {
        if (!m)
                return;
        m->value += seconds;
        m->count++;
        for (size_t i = 0; i < ELEMENTSOF(metrics_buckets); i++)
                if (seconds <= metrics_buckets[i]) {
                        m->buckets[i]++;
                        break;
                }
}

double metric_value(const Metric *m) {
        return m ? m->value : 0;
}

void metrics_set_collect(Metrics *m, void (*collect)(void *userdata), void *userdata) {
        m->collect = collect;
        m->userdata = userdata;
}

/* Label values escape backslash, quote and newline (exposition format, "Comments, help text, and type information"). */
static int write_labels(Buf *out, const Metric *m, const char *le) {
        int r = 0;

        if (!m->label_value && !le)
                return 0;
        r = buf_append_str(out, "{");
        if (!r && m->label_value) {
                r = buf_printf(out, "%s=\"", m->family->label);
                for (const char *p = m->label_value; !r && *p; p++)
                        r = *p == '\n' ? buf_append_str(out, "\\n")
                          : *p == '"' || *p == '\\' ? buf_printf(out, "\\%c", *p)
                                                    : buf_append(out, p, 1);
                if (!r)
                        r = buf_append_str(out, "\"");
        }
        if (!r && le)
                r = buf_printf(out, "%sle=\"%s\"", m->label_value ? "," : "", le);
        return r ?: buf_append_str(out, "}");
}

static int write_sample(Buf *out, const Metric *m, const char *suffix, const char *le, double v) {
        int r;

        r = buf_printf(out, "%s%s", m->family->name, suffix);
        if (!r)
                r = write_labels(out, m, le);
        return r ?: buf_printf(out, " %.15g\n", v);
}

static int write_histogram(Buf *out, const Metric *m) {
        uint64_t sum = 0;
        char le[32];
        int r;

        for (size_t i = 0; i < ELEMENTSOF(metrics_buckets); i++) {
                sum += m->buckets[i];
                snprintf(le, sizeof(le), "%g", metrics_buckets[i]);
                r = write_sample(out, m, "_bucket", le, (double)sum);
                if (r)
                        return r;
        }
        r = write_sample(out, m, "_bucket", "+Inf", (double)m->count);
        if (!r)
                r = write_sample(out, m, "_sum", NULL, m->value);
        return r ?: write_sample(out, m, "_count", NULL, (double)m->count);
}

int metrics_write(Metrics *m, Buf *out) {
        static const char *const types[] = { "counter", "gauge", "histogram" };
        int r;

        if (m->collect)
                m->collect(m->userdata);
        list_for_each_safe(i, &m->families) {
                MetricFamily *f = container_of(i, MetricFamily, link);
                if (list_is_empty(&f->children))
                        continue;
                r = buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", f->name, f->help, f->name, types[f->type]);
                list_for_each_safe(j, &f->children) {
                        Metric *child = container_of(j, Metric, link);
                        if (!r)
                                r = f->type == METRIC_HISTOGRAM ? write_histogram(out, child)
                                                                : write_sample(out, child, "", NULL, child->value);
                }
                if (r)
                        return error_fold(r);
        }
        return 0;
}

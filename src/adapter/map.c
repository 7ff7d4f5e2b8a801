#include <math.h>
#include <stdio.h>

#include "adapter/internal.h"
#include "base/error.h"
#include "base/json.h"

/*
 * One parsed line against the manifest's rules. Every rule that matches applies, in the manifest's order, so a line may
 * mean several things; a rule whose needed field is missing from the line does not apply.
 */

/* Elements of one `each` array that are looked at: a message has a few parts, never thousands. */
#define EACH_MAX 1024
#define MICRO 1000000.0

static bool value_is(json_object *o, const char *expected, MatchKind kind) {
        const char *text = json_object_get_string(o);

        return text && (kind == MATCH_PREFIX ? str_starts(text, expected) : streq(text, expected));
}

/* A null member is as good as a missing one. */
static bool match_holds(const Match *match, json_object *root) {
        json_object *o = json_at(root, match->pointer);

        switch (match->kind) {
        case MATCH_EXISTS:
                return o != NULL;
        case MATCH_ABSENT:
                return o == NULL;
        case MATCH_EQUALS:
        case MATCH_PREFIX:
                break;
        }
        if (!o || json_object_is_type(o, json_type_object) || json_object_is_type(o, json_type_array))
                return false;
        for (size_t i = 0; i < match->n_values; i++)
                if (value_is(o, match->values[i], match->kind))
                        return true;
        return false;
}

static bool matches_hold(const Match *matches, size_t n, json_object *root) {
        for (size_t i = 0; i < n; i++)
                if (!match_holds(&matches[i], root))
                        return false;
        return true;
}

static bool read_usage(const Rule *rule, json_object *root, StoreUsage *ret_usage) {
        int64_t values[USAGE_FIELDS] = { -1, -1, -1, -1, -1 };
        bool any = false;

        for (size_t i = 0; i < USAGE_FIELDS; i++) {
                json_object *o = rule->usage[i] ? json_at(root, rule->usage[i]) : NULL;
                double v;
                if (!json_object_is_type(o, json_type_int) && !json_object_is_type(o, json_type_double))
                        continue;
                v = json_object_get_double(o) * (i == USAGE_FIELDS - 1 ? MICRO : 1);
                if (!isfinite(v) || v < 0 || v > (double)(INT64_C(1) << 53))
                        continue;
                values[i] = (int64_t)llround(v);
                any = true;
        }
        memcpy(ret_usage, values, sizeof(*ret_usage));
        return any;
}

/* Owns the strings made of literals; the others are borrowed from the line. */
typedef struct Fields {
        json_object *objects[EVENT_FIELDS_MAX];
        json_object *owned[EVENT_FIELDS_MAX];
} Fields;

static void fields_deinit(Fields *f) {
        for (size_t i = 0; i < EVENT_FIELDS_MAX; i++)
                json_object_put(f->owned[i]);
}

/* Whether all that the event needs is there. */
static int read_fields(const Rule *rule, json_object *root, Fields *f, bool *ret_complete) {
        const EventInfo *info = &event_infos[rule->emit];

        for (size_t i = 0; i < EVENT_FIELDS_MAX; i++) {
                const Field *field = &rule->fields[i];
                if (field->literal) {
                        f->owned[i] = json_object_new_string(field->literal);
                        if (!f->owned[i])
                                return error_origin(-ENOMEM);
                        f->objects[i] = f->owned[i];
                } else if (field->pointer)
                        f->objects[i] = json_at(root, field->pointer);
                if (i < info->n_needed && !f->objects[i]) {
                        *ret_complete = false;
                        return 0;
                }
        }
        *ret_complete = true;
        return 0;
}

static int apply(const Rule *rule, json_object *root, MapSink *sink, size_t *n_applied) {
        _cleanup_(fields_deinit) Fields fields = {};
        json_object *session;
        StoreUsage usage;
        bool complete = false;
        int r;

        r = read_fields(rule, root, &fields, &complete);
        if (r || !complete)
                return r;
        (*n_applied)++;
        session = rule->session ? json_at(root, rule->session) : NULL;
        if (json_object_is_type(session, json_type_string)) {
                r = sink->on_session(sink, json_object_get_string(session));
                if (r)
                        return error_trace(r);
        }
        if (rule->has_usage && read_usage(rule, root, &usage)) {
                r = sink->on_usage(sink, rule, &usage);
                if (r)
                        return error_trace(r);
        }
        if (rule->emit != EVENT_NONE) {
                r = sink->on_event(sink, rule, fields.objects);
                if (r)
                        return error_trace(r);
        }
        return rule->success ? sink->on_success(sink) : 0;
}

static int apply_each(const Rule *rule, json_object *line, MapSink *sink, size_t *n_applied) {
        json_object *array = json_at(line, rule->each);
        size_t n;

        if (!json_object_is_type(array, json_type_array))
                return 0;
        n = MIN(json_object_array_length(array), (size_t)EACH_MAX);
        for (size_t i = 0; i < n; i++) {
                json_object *element = json_object_array_get_idx(array, i);
                int r;
                if (!element || !matches_hold(rule->where, rule->n_where, element))
                        continue;
                r = apply(rule, element, sink, n_applied);
                if (r)
                        return r;
        }
        return 0;
}

int map_line(const Adapter *a, json_object *line, MapSink *sink, size_t *ret_n) {
        size_t n = 0;

        for (size_t i = 0; i < a->n_rules; i++) {
                const Rule *rule = &a->rules[i];
                int r;
                if (!matches_hold(rule->matches, rule->n_matches, line))
                        continue;
                r = rule->each ? apply_each(rule, line, sink, &n) : apply(rule, line, sink, &n);
                if (r)
                        return error_trace(r);
        }
        *ret_n = n;
        return 0;
}

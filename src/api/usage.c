/*
 * usage: GET /usage: what attempts have used, summed by principal, agent, batch or day (UTC, of the attempt's end), as
 * JSON or CSV (RFC 4180). The sums are kept as attempts end, so that old tasks cost nothing here.
 */

#include <inttypes.h>
#include <stdio.h>
#include <strings.h>

#include "api/internal.h"
#include "base/clock.h"
#include "base/error.h"

#define USAGE_DAYS_DEFAULT      30              /* without from=: so many days up to the last */
#define USAGE_ROWS_MAX          50000           /* of an answer: some 10 MiB, and its making holds up all else */
#define USAGE_DAY_US            (24 * 3600 * USEC_PER_SEC)
#define USAGE_TOO_MANY          1000            /* no store result: there are more rows */

typedef struct UsageContext {
        Buf *out;
        bool csv;
        unsigned n;
} UsageContext;

int json_append_usd(Buf *out, int64_t microusd) {
        return microusd < 0 ? buf_append_str(out, "null")
                            : buf_printf(out, "%" PRId64 ".%06" PRId64, microusd / 1000000, microusd % 1000000);
}

static int append_json_row(const char *key, const StoreUsage *u, uint64_t n_attempts, UsageContext *c) {
        const struct { const char *name; int64_t v; } tokens[] = {
                { "input_tokens", u->input_tokens }, { "cached_input_tokens", u->cached_input_tokens },
                { "output_tokens", u->output_tokens }, { "reasoning_tokens", u->reasoning_tokens },
        };
        int r;

        r = buf_append_str(c->out, c->n > 1 ? ",{\"key\":" : "{\"key\":");
        r = r ?: json_append_string(c->out, key, strlen(key));
        r = r ?: buf_printf(c->out, ",\"attempts\":%" PRIu64, n_attempts);
        for (size_t i = 0; i < ELEMENTSOF(tokens) && !r; i++)
                r = tokens[i].v < 0 ? buf_printf(c->out, ",\"%s\":null", tokens[i].name)
                                    : buf_printf(c->out, ",\"%s\":%" PRId64, tokens[i].name, tokens[i].v);
        r = r ?: buf_append_str(c->out, ",\"cost_usd\":");
        r = r ?: json_append_usd(c->out, u->cost_microusd);
        return r ?: buf_append_str(c->out, "}");
}

/* RFC 4180 §2: quoted where it must be, quotes doubled. */
static int append_csv_text(Buf *out, const char *s) {
        int r;

        if (!strpbrk(s, ",\"\r\n"))
                return buf_append_str(out, s);
        r = buf_append_str(out, "\"");
        for (; *s && !r; s++)
                r = *s == '"' ? buf_append_str(out, "\"\"") : buf_append(out, s, 1);
        return r ?: buf_append_str(out, "\"");
}

static int append_csv_row(const char *key, const StoreUsage *u, uint64_t n_attempts, UsageContext *c) {
        const int64_t tokens[] = { u->input_tokens, u->cached_input_tokens, u->output_tokens, u->reasoning_tokens };
        int r;

        r = append_csv_text(c->out, key);
        r = r ?: buf_printf(c->out, ",%" PRIu64, n_attempts);
        /* What is not known is an empty field, not zero. */
        for (size_t i = 0; i < ELEMENTSOF(tokens) && !r; i++)
                r = tokens[i] < 0 ? buf_append_str(c->out, ",") : buf_printf(c->out, ",%" PRId64, tokens[i]);
        r = r ?: buf_append_str(c->out, ",");
        if (!r && u->cost_microusd >= 0)
                r = json_append_usd(c->out, u->cost_microusd);
        return r ?: buf_append_str(c->out, "\r\n");
}

static int on_row(const char *key, const StoreUsage *sum, uint64_t n_attempts, void *userdata) {
        UsageContext *c = userdata;

        if (++c->n > USAGE_ROWS_MAX)
                return USAGE_TOO_MANY;
        return c->csv ? append_csv_row(key, sum, n_attempts, c) : append_json_row(key, sum, n_attempts, c);
}

/* YYYY-MM-DD, as days since 1970-01-01. False: a problem was sent. */
static bool read_day(Request *q, const char *name, uint32_t *ret_day) {
        _cleanup_free_ char *text = NULL;
        char time[CLOCK_RFC3339_MAX];
        uint64_t us;

        if (!request_query(q, name, &text))
                return true;
        snprintf(time, sizeof(time), "%.11sT00:00:00Z", text);
        if (strlen(text) != strlen("YYYY-MM-DD") || clock_parse_rfc3339(time, &us) != 0) {
                request_problem(q, 400, NULL, "%s: expected a day as YYYY-MM-DD, from 1970-01-01", name);
                return false;
        }
        *ret_day = (uint32_t)(us / USAGE_DAY_US);
        return true;
}

/* The query's word goes before the header (RFC 9110 §12.5.1), of which the type named first is taken. */
static bool read_format(Request *q, bool *ret_csv) {
        _cleanup_free_ char *format = NULL;
        const char *csv = q->accept ? strcasestr(q->accept, "text/csv") : NULL;
        const char *json = q->accept ? strcasestr(q->accept, "application/json") : NULL;

        if (!request_query(q, "format", &format)) {
                *ret_csv = csv && (!json || csv < json);
                return true;
        }
        if (!streq(format, "csv") && !streq(format, "json")) {
                request_problem(q, 400, NULL, "format: expected json or csv");
                return false;
        }
        *ret_csv = streq(format, "csv");
        return true;
}

static bool read_by(Request *q, StoreUsageBy *ret_by, const char **ret_name) {
        static const char *const names[] = { [STORE_BY_PRINCIPAL] = "principal", [STORE_BY_AGENT] = "agent",
                                             [STORE_BY_BATCH] = "batch", [STORE_BY_DAY] = "day" };
        _cleanup_free_ char *by = NULL;
        bool given = request_query(q, "by", &by);

        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                if (streq(given ? by : "principal", names[i])) {
                        *ret_by = (StoreUsageBy)i;
                        *ret_name = names[i];
                        return true;
                }
        request_problem(q, 400, NULL, "by: expected principal, agent, batch or day");
        return false;
}

static int append_day(Buf *out, const char *name, uint32_t day) {
        char text[CLOCK_RFC3339_MAX];

        clock_format_rfc3339(day * USAGE_DAY_US, text);
        return buf_printf(out, ",\"%s\":\"%.10s\"", name, text);
}

int api_usage(Request *q) {
        uint32_t to = (uint32_t)(clock_realtime_us() / USAGE_DAY_US), from;
        UsageContext c = { .out = &q->out };
        StoreUsageBy by;
        const char *name;
        int r;

        if (!read_by(q, &by, &name) || !read_format(q, &c.csv) || !read_day(q, "to", &to))
                return 0;
        from = to - MIN(to, (uint32_t)(USAGE_DAYS_DEFAULT - 1));
        if (!read_day(q, "from", &from))
                return 0;
        if (from > to) {
                request_problem(q, 400, NULL, "from: the day lies after to");
                return 0;
        }
        if (c.csv)
                r = buf_printf(&q->out, "%s,attempts,input_tokens,cached_input_tokens,output_tokens,reasoning_tokens,"
                               "cost_usd\r\n", name);
        else {
                r = buf_printf(&q->out, "{\"by\":\"%s\"", name);
                r = r ?: append_day(&q->out, "from", from);
                r = r ?: append_day(&q->out, "to", to);
                r = r ?: buf_append_str(&q->out, ",\"rows\":[");
        }
        r = r ?: store_usage_list(q->api->store, by, from, to,
                                  q->principal.role == ROLE_ADMIN ? NULL : q->principal.name, on_row, &c);
        if (r == USAGE_TOO_MANY) {
                request_problem(q, 422, NULL, "there are more than %d rows; ask for fewer days", USAGE_ROWS_MAX);
                return 0;
        }
        if (!r && !c.csv)
                r = buf_append_str(&q->out, "]}\n");
        if (r)
                return r;
        if (c.csv)
                q->content_type_out = "text/csv; charset=utf-8; header=present";
        request_finish(q);
        return 0;
}

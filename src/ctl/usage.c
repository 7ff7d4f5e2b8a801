#include <inttypes.h>

#include "base/error.h"
#include "base/json.h"
#include "ctl/client.h"
#include "ctl/table.h"
#include "ctl/text.h"

/* Members that are summed; unknown ones are null. */
static const struct { const char *pointer, *heading; } columns[] = {
        { "/attempts", "attempts" },
        { "/input_tokens", "input" },
        { "/cached_input_tokens", "cached" },
        { "/output_tokens", "output" },
        { "/reasoning_tokens", "reasoning" },
};

typedef struct Totals {
        uint64_t sums[ELEMENTSOF(columns)];
        bool known[ELEMENTSOF(columns)];
        double cost_usd;
        bool cost_known;
} Totals;

static int usage_path(const char *by, const char *from, const char *to, bool csv, char **ret_path) {
        const struct { const char *name, *value; } fields[] = { { "from", from }, { "to", to } };
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        int r;

        r = buf_append_str(&b, "/v1/usage?by=");
        r = r ?: client_escape(&b, by);
        for (size_t i = 0; i < ELEMENTSOF(fields) && !r; i++)
                if (fields[i].value) {
                        r = buf_printf(&b, "&%s=", fields[i].name);
                        r = r ?: client_escape(&b, fields[i].value);
                }
        if (!r && csv)
                r = buf_append_str(&b, "&format=csv");
        r = r ?: buf_take_str(&b, ret_path);
        return error_fold(r);
}

static int usage_print_csv(Ctl *ctl, const char *path) {
        _cleanup_(client_response_deinit) ClientResponse response = CLIENT_RESPONSE_NULL;
        ClientRequest request = { .method = "GET", .path = path };
        int r;

        r = client_perform(ctl, &request, &response);
        if (r || response.status != 200)
                return client_fail(ctl, &request, &response, r);
        fwrite(buf_data(&response.body), 1, buf_size(&response.body), stdout);
        return CTL_OK;
}

static void usage_row(Table *t, json_object *row, Totals *totals) {
        json_object *cost = json_at(row, "/cost_usd");
        const char *key = text_member(row, "/key");

        table_add(t, *key ? key : "(none)");
        for (size_t i = 0; i < ELEMENTSOF(columns); i++) {
                json_object *v = json_at(row, columns[i].pointer);
                table_add(t, v ? json_object_get_string(v) : "-");
                totals->known[i] |= v != NULL;
                totals->sums[i] += v ? json_object_get_uint64(v) : 0;
        }
        if (cost)
                table_addf(t, "%.2f", json_object_get_double(cost));
        else
                table_add(t, "-");
        totals->cost_known |= cost != NULL;
        totals->cost_usd += cost ? json_object_get_double(cost) : 0;
}

static int usage_print(Ctl *ctl, const char *by, json_object *answer) {
        _cleanup_(table_deinit) Table t = TABLE_NULL;
        json_object *rows = json_at(answer, "/rows");
        Totals totals = {};

        if (!json_object_is_type(rows, json_type_array) || !json_object_array_length(rows)) {
                printf("nothing was used from %s to %s; other days: --from YYYY-MM-DD --to YYYY-MM-DD\n",
                       text_member(answer, "/from"), text_member(answer, "/to"));
                return CTL_OK;
        }
        table_column(&t, by, TABLE_LEFT);
        for (size_t i = 0; i < ELEMENTSOF(columns); i++)
                table_column(&t, columns[i].heading, TABLE_RIGHT);
        table_column(&t, "usd", TABLE_RIGHT);
        for (size_t i = 0; i < json_object_array_length(rows); i++)
                usage_row(&t, json_object_array_get_idx(rows, i), &totals);
        table_add_color(&t, "total", "\033[1m");
        for (size_t i = 0; i < ELEMENTSOF(columns); i++)
                if (totals.known[i])
                        table_addf(&t, "%" PRIu64, totals.sums[i]);
                else
                        table_add(&t, "-");
        if (totals.cost_known)
                table_addf(&t, "%.2f", totals.cost_usd);
        else
                table_add(&t, "-");
        return table_print(&t, stdout, ctl->width, ctl->color);
}

int verb_usage(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        const char *by = "principal", *from = NULL, *to = NULL;
        bool csv = false;
        const Option options[] = {
                { "by", 'b', "WHAT", "principal, agent, batch or day; principal", .text = &by },
                { "from", 0, "DAY", "first day (UTC), as YYYY-MM-DD; 29 days before the last", .text = &from },
                { "to", 0, "DAY", "last day; today", .text = &to },
                { "csv", 0, NULL, "comma-separated values (RFC 4180)", .flag = &csv },
                {},
        };
        _cleanup_(json_putp) json_object *answer = NULL;
        _cleanup_free_ char *path = NULL;
        int n, r;

        r = ctl_parse(ctl, verb, options, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (n)
                return ctl_fail(CTL_USAGE, "usage takes no arguments, got '%s'", argv[0]);
        if (!streq(by, "principal") && !streq(by, "agent") && !streq(by, "batch") && !streq(by, "day"))
                return ctl_fail(CTL_USAGE, "--by '%s': expected principal, agent, batch or day", by);
        if (csv && ctl->json)
                return ctl_fail(CTL_USAGE, "--csv and --json are both given; expected one of them");
        r = usage_path(by, from, to, csv, &path);
        if (r)
                return error_trace(r);
        if (csv)
                return usage_print_csv(ctl, path);
        r = client_call(ctl, &(ClientRequest){ .method = "GET", .path = path }, &answer);
        if (r)
                return r;
        if (ctl->json) {
                puts(json_object_to_json_string_ext(answer, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
                return CTL_OK;
        }
        return usage_print(ctl, by, answer);
}

/* limit and group: what may run and wait at once, and pauses. A group is a limit of a kind, with verbs of its own. */

#include <inttypes.h>

#include "base/error.h"
#include "base/json.h"
#include "base/parse.h"
#include "ctl/client.h"
#include "ctl/table.h"
#include "ctl/text.h"

static const char kinds[] = "global, agent, principal or group";

static bool is_kind(const char *s) {
        return streq(s, "global") || streq(s, "agent") || streq(s, "principal") || streq(s, "group");
}

/* ---- tables ---- */

static void limit_add_most(Table *t, json_object *limit, const char *pointer) {
        const char *s = text_member(limit, pointer);

        table_add(t, *s ? s : "-");
}

static void limit_columns(Table *t) {
        table_column(t, "kind", TABLE_LEFT);
        table_column(t, "name", TABLE_LEFT);
        table_column(t, "running", TABLE_RIGHT);
        table_column(t, "waiting", TABLE_RIGHT);
        table_column(t, "queued", TABLE_RIGHT);
        table_column(t, "weight", TABLE_RIGHT);
        table_column(t, "tokens/day", TABLE_RIGHT);
        table_column(t, "usd/day", TABLE_RIGHT);
        table_column(t, "set by", TABLE_LEFT);
        table_column(t, "state", TABLE_LEFT);
}

static void limit_row(Table *t, json_object *limit) {
        const char *running = text_member(limit, "/running");
        bool global = streq(text_member(limit, "/kind"), "global"), paused = text_member_bool(limit, "/paused");

        table_add(t, text_member(limit, "/kind"));
        table_add(t, text_member(limit, "/name"));
        table_addf(t, "%" PRIu64 "/%s", text_member_u64(limit, "/running_now"), *running ? running : "-");
        table_addf(t, "%" PRIu64, text_member_u64(limit, "/waiting"));
        limit_add_most(t, limit, "/queued");
        limit_add_most(t, limit, "/weight");
        limit_add_most(t, limit, "/max_tokens_day");
        limit_add_most(t, limit, "/max_cost_usd_day");
        table_add(t, streq(text_member(limit, "/source"), "runtime") ? "admin" : "config");
        table_add_color(t, !paused ? "open" : global ? "draining" : "paused", paused ? "\033[33m" : NULL);
}

static int limit_print_one(Ctl *ctl, json_object *limit) {
        _cleanup_(table_deinit) Table t = TABLE_NULL;

        if (ctl->json) {
                text_print_json(limit);
                return CTL_OK;
        }
        limit_columns(&t);
        limit_row(&t, limit);
        return table_print(&t, stdout, ctl->width, ctl->color);
}

/* kind NULL: all. */
static int limit_list(Ctl *ctl, const char *kind) {
        _cleanup_(table_deinit) Table t = TABLE_NULL;
        _cleanup_(json_putp) json_object *answer = NULL, *shown = NULL;
        json_object *limits;
        int r;

        r = client_call(ctl, &(ClientRequest){ .method = "GET", .path = "/v1/limits" }, &answer);
        if (r)
                return r;
        limits = json_at(answer, "/limits");
        shown = json_object_new_array();
        for (size_t i = 0; json_object_is_type(limits, json_type_array) && i < json_object_array_length(limits); i++) {
                json_object *limit = json_object_array_get_idx(limits, i);
                if (!kind || streq(text_member(limit, "/kind"), kind))
                        json_object_array_add(shown, json_object_get(limit));
        }
        if (ctl->json) {
                printf("{\"limits\":%s}\n",
                       json_object_to_json_string_ext(shown, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
                return CTL_OK;
        }
        if (!json_object_array_length(shown)) {
                puts("none is set or has tasks; set one with: agent-routerctl group set NAME --running N");
                return CTL_OK;
        }
        limit_columns(&t);
        for (size_t i = 0; i < json_object_array_length(shown); i++)
                limit_row(&t, json_object_array_get_idx(shown, i));
        return table_print(&t, stdout, ctl->width, ctl->color);
}

/* ---- setting ---- */

typedef struct LimitOptions {
        const char *running, *queued, *weight, *tokens, *cost;
        bool pause, resume;
} LimitOptions;

/* An integer, or null for "none". */
static int limit_add_int(json_object *body, const char *member, const char *option, const char *value, uint64_t min,
                         uint64_t max) {
        uint64_t v = 0;

        if (!value)
                return 0;
        if (!streq(value, "none") && !parse_u64_range(value, min, max, &v))
                return ctl_fail(CTL_USAGE, "--%s '%s': expected an integer from %" PRIu64 " to %" PRIu64 ", or none", option, value,
                                min, max);
        json_object_object_add(body, member, streq(value, "none") ? NULL : json_object_new_uint64(v));
        return 0;
}

/* Dollars with at most six places: "12", "0.5". */
static int limit_add_cost(json_object *body, const char *value) {
        size_t n = value ? strspn(value, "0123456789") : 0, n_places = 0;

        if (!value)
                return 0;
        if (streq(value, "none")) {
                json_object_object_add(body, "max_cost_usd_day", NULL);
                return 0;
        }
        if (n > 0 && value[n] == '.')
                n_places = strspn(value + n + 1, "0123456789");
        if (n == 0 || n > 9 || n_places > 6 || (value[n] && (value[n] != '.' || !n_places || value[n + 1 + n_places])))
                return ctl_fail(CTL_USAGE, "--max-cost-usd-day '%s': expected dollars, such as 12.50, or none", value);
        json_object_object_add(body, "max_cost_usd_day", json_object_new_double(strtod(value, NULL)));
        return 0;
}

static int limit_body(const LimitOptions *o, json_object *body) {
        int r;

        if (o->pause && o->resume)
                return ctl_fail(CTL_USAGE, "--pause and --resume are both given; expected one of them");
        r = limit_add_int(body, "running", "running", o->running, 0, 10000);
        r = r ?: limit_add_int(body, "queued", "queued", o->queued, 0, 100000000);
        r = r ?: limit_add_int(body, "weight", "weight", o->weight, 1, 1000);
        r = r ?: limit_add_int(body, "max_tokens_day", "max-tokens-day", o->tokens, 1, UINT64_C(1) << 53);
        r = r ?: limit_add_cost(body, o->cost);
        if (!r && (o->pause || o->resume))
                json_object_object_add(body, "paused", json_object_new_boolean(o->pause));
        return r;
}

static int limit_path(const char *kind, const char *name, char **ret_path) {
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        int r;

        r = buf_printf(&b, "/v1/limits/%s/", kind);
        r = r ?: client_escape(&b, name);
        r = r ?: buf_take_str(&b, ret_path);
        return error_fold(r);
}

static int limit_put(Ctl *ctl, const char *kind, const char *name, const LimitOptions *options) {
        _cleanup_(json_putp) json_object *body = json_object_new_object(), *answer = NULL;
        ClientRequest request = { .method = "PUT" };
        _cleanup_free_ char *path = NULL;
        int r;

        r = limit_body(options, body);
        if (r)
                return r;
        if (!json_object_object_length(body))
                return ctl_fail(CTL_USAGE, "nothing to set; expected --running, --queued, --pause or the like");
        r = limit_path(kind, name, &path);
        if (r)
                return error_trace(r);
        request.path = path;
        request.body = json_object_to_json_string_length(body, JSON_C_TO_STRING_PLAIN, &request.n_body);
        r = client_call(ctl, &request, &answer);
        return r ?: limit_print_one(ctl, answer);
}

/* KIND NAME; the global limit's name may be left out. */
static int limit_arguments(const char *verb, int n, char **argv, const char **ret_name) {
        bool global = n > 0 && streq(argv[0], "global");

        if (n > 0 && !is_kind(argv[0]))
                return ctl_fail(CTL_USAGE, "'%s': expected a kind: %s", argv[0], kinds);
        if (n != 2 && !(n == 1 && global))
                return ctl_fail(CTL_USAGE, "expected a kind (%s) and a name: agent-routerctl %s KIND NAME", kinds, verb);
        *ret_name = n == 2 ? argv[1] : "all";
        return 0;
}

int verb_limit_list(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        int n, r;

        r = ctl_parse(ctl, verb, NULL, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (n > 1 || (n == 1 && !is_kind(argv[0])))
                return ctl_fail(CTL_USAGE, "expected nothing, or one kind: %s", kinds);
        return limit_list(ctl, n ? argv[0] : NULL);
}

int verb_limit_set(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        LimitOptions o = {};
        const Option options[] = {
                { "running", 'r', "N|none", "at most so many run at once", .text = &o.running },
                { "queued", 'q', "N|none", "at most so many wait and run; not of agents", .text = &o.queued },
                { "weight", 'w', "N|none", "a principal's share inside a priority; 1", .text = &o.weight },
                { "max-tokens-day", 0, "N|none", "tokens of a principal or an agent in a day (UTC)", .text = &o.tokens },
                { "max-cost-usd-day", 0, "USD|none", "dollars of a principal or an agent in a day (UTC)", .text = &o.cost },
                { "pause", 'p', NULL, "start nothing of it", .flag = &o.pause },
                { "resume", 0, NULL, "end the pause", .flag = &o.resume },
                {},
        };
        const char *name;
        int n, r;

        r = ctl_parse(ctl, verb, options, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        r = limit_arguments(verb->name, n, argv, &name);
        return r ?: limit_put(ctl, argv[0], name, &o);
}

int verb_limit_unset(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        _cleanup_free_ char *path = NULL;
        const char *name;
        int n, r;

        r = ctl_parse(ctl, verb, NULL, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        r = limit_arguments(verb->name, n, argv, &name);
        if (r)
                return r;
        r = limit_path(argv[0], name, &path);
        if (r)
                return error_trace(r);
        r = client_call(ctl, &(ClientRequest){ .method = "DELETE", .path = path }, NULL);
        if (r)
                return r;
        puts(ctl->json ? "{\"unset\":true}" : "the configuration's limit is in force again");
        return CTL_OK;
}

/* ---- groups ---- */

int verb_group_list(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        int n, r;

        r = ctl_parse(ctl, verb, NULL, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (n)
                return ctl_fail(CTL_USAGE, "group list takes no arguments, got '%s'", argv[0]);
        return limit_list(ctl, "group");
}

static int group_put(Ctl *ctl, const Verb *verb, const Option *options, int argc, char **argv, const LimitOptions *o) {
        int n, r;

        r = ctl_parse(ctl, verb, options, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (n != 1)
                return ctl_fail(CTL_USAGE, "expected the name of one group: agent-routerctl %s NAME", verb->name);
        return limit_put(ctl, "group", argv[0], o);
}

int verb_group_set(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        LimitOptions o = {};
        const Option options[] = {
                { "running", 'r', "N|none", "at most so many run at once", .text = &o.running },
                { "queued", 'q', "N|none", "at most so many wait and run", .text = &o.queued },
                {},
        };

        return group_put(ctl, verb, options, argc, argv, &o);
}

int verb_group_pause(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        return group_put(ctl, verb, NULL, argc, argv, &(LimitOptions){ .pause = true });
}

int verb_group_resume(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        return group_put(ctl, verb, NULL, argc, argv, &(LimitOptions){ .resume = true });
}

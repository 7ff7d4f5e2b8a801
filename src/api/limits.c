/*
 * limits: GET /limits, PUT and DELETE /limits/{kind}/{name}, POST /drain, POST /resume, POST /reload. What is set here
 * goes before the configuration, and outlives a restart. Draining is the global limit, paused: what runs goes on to its
 * end, and what is submitted waits.
 */

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "api/internal.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/parse.h"

#define LIMITS_RUNNING_MAX      10000           /* as limits.running of the configuration */
#define LIMITS_QUEUED_MAX       100000000       /* more tasks than a disk holds */
#define LIMITS_WEIGHT_MAX       1000            /* a share a thousand times another's */
#define LIMITS_TOKENS_MAX       (UINT64_C(1) << 53)     /* the integers that every JSON reader has */
#define LIMITS_COST_USD_MAX     1e9
#define LIMITS_SET_MAX          10000           /* set at run time, all together: each has memory of its own */

/* In a path, the global limit needs a name. */
static const char *name_shown(SchedLimitKind kind, const char *name) {
        return kind == SCHED_GLOBAL ? "all" : name;
}

/* ---- looking ---- */

static SchedLimitInfo info_configured(const SchedLimitConfig *c) {
        return (SchedLimitInfo){ .kind = c->kind, .name = c->name, .running_max = c->running, .queued_max = c->queued,
                                 .weight = c->weight ?: 1, .paused = c->paused };
}

typedef struct FindContext {
        SchedLimitKind kind;
        const char *name;
        SchedLimitInfo info;
        size_t n_set;
        bool found;
} FindContext;

static int on_find(const SchedLimitInfo *info, void *userdata) {
        FindContext *c = userdata;

        c->n_set += info->set != NULL;
        if (info->kind == c->kind && streq(info->name, c->name)) {
                c->info = *info;
                c->found = true;
        }
        return 0;
}

/* What is in force for a name, which may have no tasks and no settings. */
static int find_limit(const Sched *s, SchedLimitKind kind, const char *name, FindContext *ret_found) {
        const SchedConfig *config = sched_config(s);
        FindContext c = { .kind = kind, .name = name };
        int r;

        r = sched_limit_list(s, on_find, &c);
        if (r)
                return error_fold(r);
        for (size_t i = 0; i < config->n_limits && !c.found; i++)
                if (config->limits[i].kind == kind && streq(config->limits[i].name, name)) {
                        c.info = info_configured(&config->limits[i]);
                        c.found = true;
                }
        if (!c.found) {
                c.info = (SchedLimitInfo){ .kind = kind, .name = name, .running_max = SCHED_NO_LIMIT, .weight = 1 };
                if (kind == SCHED_PRINCIPAL) {
                        c.info.running_max = config->running_per_principal_max ?: SCHED_NO_LIMIT;
                        c.info.queued_max = config->queued_per_principal_max;
                }
        }
        *ret_found = c;
        return 0;
}

static int append_int_or_null(Buf *out, const char *name, int64_t v) {
        return v < 0 ? buf_printf(out, ",\"%s\":null", name) : buf_printf(out, ",\"%s\":%" PRId64, name, v);
}

static int append_limit(Buf *out, const SchedLimitInfo *info) {
        const StoreLimit *set = info->set;
        const char *name = name_shown(info->kind, info->name);
        int r;

        r = buf_printf(out, "{\"kind\":\"%s\",\"name\":", sched_limit_kind_name(info->kind));
        r = r ?: json_append_string(out, name, strlen(name));
        r = r ?: append_int_or_null(out, "running", info->running_max == SCHED_NO_LIMIT ? -1 : (int64_t)info->running_max);
        r = r ?: buf_printf(out, ",\"running_now\":%u,\"waiting\":%" PRIu64 ",\"paused\":%s,\"weight\":%u", info->n_running,
                            info->n_live - MIN(info->n_live, (uint64_t)info->n_running), info->paused ? "true" : "false",
                            info->weight);
        r = r ?: append_int_or_null(out, "queued", set && set->queued >= 0 ? set->queued
                                                   : info->queued_max      ? (int64_t)info->queued_max
                                                                           : -1);
        r = r ?: append_int_or_null(out, "max_tokens_day", set ? set->max_tokens_day : -1);
        r = r ?: buf_append_str(out, ",\"max_cost_usd_day\":");
        r = r ?: json_append_usd(out, set ? set->max_cost_microusd_day : -1);
        return r ?: buf_printf(out, ",\"source\":\"%s\"}", set ? "runtime" : "config");
}

typedef struct ListContext {
        Request *q;
        unsigned n;
} ListContext;

/* Who may not see others' tasks is not told who they are, nor what groups they have. */
static bool may_see(const Request *q, const SchedLimitInfo *info) {
        return q->principal.role == ROLE_ADMIN || info->kind == SCHED_GLOBAL || info->kind == SCHED_AGENT ||
               (info->kind == SCHED_PRINCIPAL && streq(info->name, q->principal.name));
}

static int on_list(const SchedLimitInfo *info, void *userdata) {
        ListContext *c = userdata;

        if (!may_see(c->q, info))
                return 0;
        return (c->n++ ? buf_append_str(&c->q->out, ",") : 0) ?: append_limit(&c->q->out, info);
}

int api_limit_list(Request *q) {
        const SchedConfig *config = sched_config(q->api->sched);
        ListContext c = { .q = q };
        int r;

        r = buf_append_str(&q->out, "{\"limits\":[");
        r = r ?: sched_limit_list(q->api->sched, on_list, &c);
        /* Those of the configuration that no task has come under so far. */
        for (size_t i = 0; i < config->n_limits && !r; i++) {
                const SchedLimitConfig *l = &config->limits[i];
                FindContext found = { .kind = l->kind, .name = l->name };
                r = sched_limit_list(q->api->sched, on_find, &found);
                if (!r && !found.found && l->kind != SCHED_AGENT) {
                        SchedLimitInfo info = info_configured(l);
                        r = on_list(&info, &c);
                }
        }
        r = r ?: buf_append_str(&q->out, "]}\n");
        if (r)
                return error_fold(r);
        request_finish(q);
        return 0;
}

int limits_global(const Sched *sched, SchedLimitInfo *ret_info) {
        FindContext found;
        int r;

        r = find_limit(sched, SCHED_GLOBAL, "", &found);
        if (r)
                return r;
        *ret_info = found.info;
        return 0;
}

/* ---- what a name may be ---- */

/* "uid:N" or "key:NAME/…": what GET /tasks shows, for a limit on anything else would have no effect. */
static bool is_principal(const char *name) {
        uint64_t uid;

        if (strlen(name) >= PRINCIPAL_NAME_MAX)
                return false;
        if (str_starts(name, "uid:"))
                return parse_u64_range(name + strlen("uid:"), 0, UINT32_MAX - 1, &uid);
        return str_starts(name, "key:") && strchr(name, '/') && utf8_is_valid(name, strlen(name));
}

/* {kind}/{name} of the path. False: a problem was sent. */
static bool read_path(Request *q, SchedLimitKind *ret_kind, const char **ret_name) {
        const char *name = q->params[1];

        if (!sched_limit_kind_parse(q->params[0], ret_kind)) {
                request_problem(q, 404, NULL, "there are limits of the kinds global, agent, principal and group");
                return false;
        }
        switch (*ret_kind) {
        case SCHED_GLOBAL:
                if (!streq(name, "all")) {
                        request_problem(q, 404, NULL, "there is one global limit; its path is /limits/global/all");
                        return false;
                }
                name = "";
                break;
        case SCHED_PRINCIPAL:
                if (!is_principal(name)) {
                        request_problem(q, 422, NULL, "expected a principal as tasks show it: uid:N, or key:NAME/… with '/' "
                                        "written as %%2F");
                        return false;
                }
                break;
        default:
                if (!parse_name(name, LIMIT_NAME_MAX)) {
                        request_problem(q, 422, NULL, "expected a name of letters, digits, '.', '_' and '-', at most %d bytes",
                                        LIMIT_NAME_MAX);
                        return false;
                }
        }
        *ret_name = name;
        return true;
}

/* ---- setting ---- */

/* An integer, or null for none of its own; where it is not there, *v stays. */
static void read_int(JsonReader *rd, const char *name, uint64_t min, uint64_t max, int64_t *v) {
        json_object *o = NULL;
        uint64_t n;

        if (json_get_u64(rd, name, 0, min, max, &n))
                *v = (int64_t)n;
        else if (json_object_object_get_ex(rd->object, name, &o) && !o)
                *v = -1;
}

/* What the kind can't have would be accepted and never looked at. */
static void refuse_without_effect(JsonReader *rd, SchedLimitKind kind, JsonError *e) {
        static const struct { const char *name; unsigned kinds; } members[] = {
                { "weight", 1 << SCHED_PRINCIPAL },
                { "queued", 1 << SCHED_GLOBAL | 1 << SCHED_PRINCIPAL | 1 << SCHED_GROUP },
                { "max_tokens_day", 1 << SCHED_PRINCIPAL | 1 << SCHED_AGENT },
                { "max_cost_usd_day", 1 << SCHED_PRINCIPAL | 1 << SCHED_AGENT },
        };
        char pointer[32];

        for (size_t i = 0; i < ELEMENTSOF(members); i++)
                if (!(members[i].kinds & 1 << kind) && json_object_object_get_ex(rd->object, members[i].name, NULL)) {
                        snprintf(pointer, sizeof(pointer), "/%s", members[i].name);
                        json_error_set(e, pointer, "a limit of kind %s has none", sched_limit_kind_name(kind));
                }
}

/* Changes what the document names. */
static void read_limit(json_object *document, SchedLimitKind kind, StoreLimit *l, JsonError *e) {
        JsonReader rd = json_reader(document, "", e);
        int64_t weight = l->weight;
        json_object *o = NULL;
        double usd;

        refuse_without_effect(&rd, kind, e);
        read_int(&rd, "running", 0, LIMITS_RUNNING_MAX, &l->running);
        read_int(&rd, "queued", 0, LIMITS_QUEUED_MAX, &l->queued);
        read_int(&rd, "weight", 1, LIMITS_WEIGHT_MAX, &weight);
        read_int(&rd, "max_tokens_day", 1, LIMITS_TOKENS_MAX, &l->max_tokens_day);
        if (json_get_double(&rd, "max_cost_usd_day", 0, 0.000001, LIMITS_COST_USD_MAX, &usd))
                l->max_cost_microusd_day = llround(usd * 1e6);
        else if (json_object_object_get_ex(document, "max_cost_usd_day", &o) && !o)
                l->max_cost_microusd_day = -1;
        (void)json_get_bool(&rd, "paused", 0, &l->paused);
        l->weight = (uint32_t)MAX(weight, INT64_C(0));
        (void)json_reader_end(&rd);
}

/* What is set at run time; else nothing but the pause that the configuration may have, which a setting would end. */
static StoreLimit limit_base(const FindContext *found) {
        StoreLimit l = { .running = -1, .queued = -1, .max_tokens_day = -1, .max_cost_microusd_day = -1,
                         .paused = found->info.paused };

        if (found->info.set)
                l = *found->info.set;
        return l;
}

static int log_changed(Request *q) {
        const char *kind = q->params[0] ?: "global", *name = q->params[1] ?: "all", *verb = q->context;

        log_field(LOG_NOTICE, ((LogField[]){ { "MESSAGE_ID", LOG_ID_LIMIT_CHANGED }, { "PRINCIPAL", q->principal.name }, {} }),
                  "limit of %s '%s': %s by %s", kind, name, verb, q->principal.name);
        return 0;
}

static void refuse_unavailable(Request *q) {
        q->retry_after_s = 5;
        request_problem(q, 503, NULL, "the store takes no writes: %s", store_failure(q->api->store) ?: "the disk is full");
}

/* In force, and durable before the answer. False: a problem was sent, or *ret_r. */
static bool limit_write(Request *q, SchedLimitKind kind, const char *name, StoreLimit *l, int *ret_r) {
        int r, end;

        l->kind = (char *)sched_limit_kind_name(kind);
        l->name = (char *)name;
        l->updated_us = clock_realtime_us();
        l->updated_by = q->principal.name;
        *ret_r = store_begin(q->api->store);
        if (*ret_r)
                return false;
        r = sched_limit_set(q->api->sched, l);
        end = store_end(q->api->store, r == 0);
        if (r == SCHED_E_NO_AGENT)
                request_problem(q, 404, NULL, "there is no agent '%s'; GET /agents lists them", name);
        else if (r == SCHED_E_UNAVAILABLE)
                refuse_unavailable(q);
        else
                *ret_r = r ? error_fold(r) : end;
        return r == 0 && end == 0;
}

int api_limit_put(Request *q) {
        _cleanup_(json_putp) json_object *document = NULL;
        SchedLimitKind kind;
        FindContext found;
        const char *name;
        JsonError e = {};
        StoreLimit l;
        int r;

        if (!read_path(q, &kind, &name))
                return 0;
        document = request_json(q);
        if (!document)
                return 0;
        r = find_limit(q->api->sched, kind, name, &found);
        if (r)
                return r;
        l = limit_base(&found);
        read_limit(document, kind, &l, &e);
        if (e.set) {
                request_json_problem(q, &e);
                return 0;
        }
        if (!found.info.set && found.n_set >= LIMITS_SET_MAX) {
                request_problem(q, 422, NULL, "%d limits are set already, the most that is allowed; delete some", LIMITS_SET_MAX);
                return 0;
        }
        if (!limit_write(q, kind, name, &l, &r))
                return r;
        r = find_limit(q->api->sched, kind, name, &found);
        r = r ?: append_limit(&q->out, &found.info);
        r = r ?: buf_append_str(&q->out, "\n");
        if (r)
                return error_fold(r);
        q->context = (char *)"set";
        q->on_durable = log_changed;
        request_finish(q);
        return 0;
}

int api_limit_delete(Request *q) {
        SchedLimitKind kind;
        const char *name;
        int r, end;

        if (!read_path(q, &kind, &name))
                return 0;
        r = store_begin(q->api->store);
        if (r)
                return r;
        r = sched_limit_unset(q->api->sched, kind, name);
        end = store_end(q->api->store, r == 0);
        if (r == SCHED_E_NOT_FOUND) {
                request_problem(q, 404, NULL, "nothing is set at run time here; GET /limits lists what is in force");
                return 0;
        }
        if (r == SCHED_E_UNAVAILABLE) {
                refuse_unavailable(q);
                return 0;
        }
        if (r || end)
                return r ? error_fold(r) : end;
        q->status = 204;
        q->context = (char *)"as the configuration has it";
        q->on_durable = log_changed;
        request_finish(q);
        return 0;
}

/* ---- drain, resume ---- */

static int set_draining(Request *q, bool draining) {
        FindContext found;
        SchedStats stats;
        StoreLimit l;
        int r;

        r = find_limit(q->api->sched, SCHED_GLOBAL, "", &found);
        if (r)
                return r;
        if (found.info.paused != draining) {
                l = limit_base(&found);
                l.paused = draining;
                if (!limit_write(q, SCHED_GLOBAL, "", &l, &r))
                        return r;
                q->context = (char *)(draining ? "drained" : "resumed");
                q->on_durable = log_changed;
        }
        stats = sched_stats(q->api->sched);
        r = buf_printf(&q->out, "{\"draining\":%s,\"running\":%u}\n", stats.draining ? "true" : "false", stats.n_running);
        if (r)
                return r;
        request_finish(q);
        return 0;
}

int api_drain(Request *q) {
        return set_draining(q, true);
}

int api_resume(Request *q) {
        return set_draining(q, false);
}

/* ---- reload ---- */

int api_reload(Request *q) {
        const ApiConfig *config = &q->api->config;
        char error[API_RELOAD_ERROR_MAX] = "";
        int r;

        if (!config->reload) {
                request_problem(q, 501, NULL, "this router can't read its configuration again: restart it");
                return 0;
        }
        r = config->reload(config->userdata, error);
        if (r > 0) {
                request_problem(q, 422, NULL, "the configuration is not valid, and nothing is changed: %s", error);
                return 0;
        }
        if (r < 0) {
                log_error("can't read the configuration again: %s", *error ? error : strerror(-r));
                request_problem(q, 500, NULL, "the configuration could not be read again: %s", *error ? error : strerror(-r));
                return 0;
        }
        r = buf_append_str(&q->out, "{\"reloaded\":true}\n");
        if (r)
                return r;
        request_send(q);
        return 0;
}

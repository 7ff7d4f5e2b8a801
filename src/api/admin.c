/* admin: /agents, /status, /healthz, /readyz, /metrics, /openapi.json. */

#include <inttypes.h>
#include <unistd.h>

#include "api/internal.h"
#include "base/error.h"
#include "base/log.h"

/* openapi.json, put into the program by the assembler. */
extern const char api_openapi_json[];
extern const char api_openapi_json_end[];

__asm__(".section .rodata\n"
        ".global api_openapi_json, api_openapi_json_end\n"
        "api_openapi_json: .incbin \"" API_OPENAPI_PATH "\"\n"
        "api_openapi_json_end: .byte 0\n"
        ".previous\n");

/* The circuit breaker, and the gate before the account (or null). */
static int append_health(Buf *out, const SchedAgentInfo *a) {
        int r;

        r = buf_printf(out, ",\"breaker\":{\"state\":\"%s\",\"failures\":%u,\"until\":", sched_breaker_name(a->breaker),
                       a->n_failures);
        r = r ?: json_append_time(out, a->breaker_until_us);
        r = r ?: buf_append_str(out, "},\"gate\":");
        if (!a->gate_until_us)
                return r ?: buf_append_str(out, "null");
        r = r ?: buf_append_str(out, "{\"until\":");
        r = r ?: json_append_time(out, a->gate_until_us);
        r = r ?: buf_append_str(out, ",\"reason\":");
        r = r ?: json_append_str_or_null(out, a->gate_reason);
        return r ?: buf_append_str(out, "}");
}

static int append_agents(Request *q) {
        Buf *out = &q->out;
        int r = buf_append_str(out, "\"agents\":[");

        for (size_t i = 0; r == 0 && i < sched_n_agents(q->api->sched); i++) {
                SchedAgentInfo a = sched_agent(q->api->sched, i);
                const char *const *c = adapter_capabilities(a.adapter);
                bool installed = adapter_executable(a.adapter) || adapter_probe((Adapter *)a.adapter) == 0;
                r = buf_append_str(out, i ? ",{\"name\":" : "{\"name\":");
                r = r ?: json_append_str_or_null(out, adapter_name(a.adapter));
                r = r ?: buf_append_str(out, ",\"title\":");
                r = r ?: json_append_str_or_null(out, adapter_title(a.adapter));
                r = r ?: buf_append_str(out, ",\"capabilities\":[");
                for (size_t j = 0; r == 0 && c && c[j]; j++) {
                        r = j ? buf_append_str(out, ",") : 0;
                        r = r ?: json_append_str_or_null(out, c[j]);
                }
                r = r ?: buf_printf(out, "],\"installed\":%s,\"executable\":", installed ? "true" : "false");
                r = r ?: json_append_str_or_null(out, adapter_executable(a.adapter));
                r = r ?: buf_append_str(out, ",\"hint\":");
                r = r ?: json_append_str_or_null(out, adapter_hint(a.adapter));
                r = r ?: buf_printf(out, ",\"concurrency\":%u,\"running\":%u,\"waiting\":%" PRIu64 ",\"paused\":%s",
                                    adapter_concurrency(a.adapter), a.n_running,
                                    a.n_live - MIN(a.n_live, (uint64_t)a.n_running), a.paused ? "true" : "false");
                r = r ?: append_health(out, &a);
                r = r ?: buf_append_str(out, "}");
        }
        return r ?: buf_append_str(out, "]");
}

int api_agents(Request *q) {
        int r;

        r = buf_append_str(&q->out, "{");
        r = r ?: append_agents(q);
        r = r ?: buf_append_str(&q->out, "}\n");
        if (r)
                return r;
        request_send(q);
        return 0;
}

int api_agent_reset(Request *q) {
        int r, end;

        r = store_begin(q->api->store);
        if (!r) {
                r = sched_agent_reset(q->api->sched, q->params[0]);
                end = store_end(q->api->store, r == 0);
                r = r ?: end;
        }
        if (r == SCHED_E_NO_AGENT) {
                request_problem(q, 404, NULL, "there is no agent of this name; GET /agents lists them");
                return 0;
        }
        if (r)
                return r;
        log_notice("agent '%s': gate and breaker are opened by %s", q->params[0], q->principal.name);
        q->status = 204;
        request_finish(q);
        return 0;
}

static int append_strings(Buf *out, const char *const *strings) {
        int r = buf_append_str(out, "[");

        for (size_t i = 0; r == 0 && strings && strings[i]; i++) {
                r = i ? buf_append_str(out, ",") : 0;
                r = r ?: json_append_str_or_null(out, strings[i]);
        }
        return r ?: buf_append_str(out, "]");
}

static int append_pressure(Buf *out, const Pressure *p) {
        int r = buf_printf(out, ",\"pressure\":{\"launch\":%s,\"admit\":%s", pressure_holds_launch(p) ? "true" : "false",
                           pressure_holds_admit(p) ? "true" : "false");

        for (PressureSource i = 0; i < PRESSURE_SOURCE_MEMINFO && !r; i++) {
                const PressureStall *s = &p->stalls[i];
                r = buf_printf(out, ",\"%s\":", pressure_source_name(i));
                if (p->present[i])
                        r = r ?: buf_printf(out, "{\"some_percent\":%u.%02u,\"full_percent\":%u.%02u}", s->some / 100,
                                            s->some % 100, s->full / 100, s->full % 100);
                else
                        r = r ?: buf_append_str(out, "null");
        }
        if (p->present[PRESSURE_SOURCE_MEMINFO])
                return r ?: buf_printf(out, ",\"memory_available_bytes\":%" PRIu64 "}", p->available);
        return r ?: buf_append_str(out, ",\"memory_available_bytes\":null}");
}

int api_status(Request *q) {
        Api *api = q->api;
        const LauncherClient *launcher = sched_launcher(api->sched);
        const Id *generation = sched_launcher_generation(api->sched);
        const ReactorFeatures *f = reactor_features(api->reactor);
        const SchedConfig *config = sched_config(api->sched);
        const StoreStats *store = store_stats(api->store);
        SchedStats sched = sched_stats(api->sched);
        SchedLimitInfo global;
        uint64_t counts[_TASK_STATE_N] = {};
        char instance[ID_TEXT_MAX], text[ID_TEXT_MAX];
        Buf *out = &q->out;
        bool first = true;
        int r;

        r = store_task_count(api->store, counts);
        r = r ?: limits_global(api->sched, &global);
        if (r)
                return r;
        id_format(&api->instance, instance);
        r = buf_printf(out, "{\"version\":\"%s\",\"instance\":\"%s\",\"pid\":%d,\"uptime_s\":%" PRIu64 ",\"tasks\":{",
                       api->config.version, instance, (int)getpid(),
                       (reactor_now_us(api->reactor) - api->started_us) / USEC_PER_SEC);
        for (unsigned i = 1; r == 0 && i < _TASK_STATE_N; i++)
                if (counts[i]) {
                        r = buf_printf(out, "%s\"%s\":%" PRIu64, first ? "" : ",", task_state_name(i), counts[i]);
                        first = false;
                }
        r = r ?: buf_printf(out, "},\"draining\":%s,\"running\":%u,\"queued\":%" PRIu64 ",\"limits\":{\"running\":%u,\"queued\":%" PRIu64
                            ",\"queued_per_principal\":%" PRIu64 "},", sched.draining ? "true" : "false",
                            sched.n_running, sched.n_waiting, global.running_max,
                            global.queued_max, config->queued_per_principal_max);
        r = r ?: append_agents(q);
        r = r ?: append_pressure(out, sched_pressure(api->sched));
        r = r ?: buf_printf(out, ",\"launcher\":{\"connected\":%s,\"generation\":", generation ? "true" : "false");
        if (!r && generation) {
                id_format(generation, text);
                r = buf_printf(out, "\"%s\"", text);
        } else
                r = r ?: buf_append_str(out, "null");
        r = r ?: buf_append_str(out, ",\"capabilities\":");
        r = r ?: append_strings(out, generation ? launcher_client_capabilities(launcher) : NULL);
        r = r ?: buf_append_str(out, ",\"absent\":");
        r = r ?: append_strings(out, generation ? launcher_client_absent(launcher) : NULL);
        r = r ?: buf_printf(out, "},\"store\":{\"failed\":%s,\"commits\":%" PRIu64 ",\"syncs\":%" PRIu64 ",\"wal_bytes\":%" PRIu64
                            ",\"database_bytes\":%" PRIu64 "}", store->failed ? "true" : "false", store->n_commits, store->n_syncs,
                            store->wal_bytes, store->database_bytes);
        r = r ?: buf_printf(out, ",\"reactor\":{\"defer_taskrun\":%s,\"buffer_ring\":%s,\"multishot_accept\":%s,\"multishot_recv\":%s,"
                            "\"restricted\":%s},\"connections\":%zu}\n",
                            f->defer_taskrun ? "true" : "false", f->buffer_ring ? "true" : "false",
                            f->multishot_accept ? "true" : "false", f->multishot_recv ? "true" : "false",
                            f->restricted ? "true" : "false", api->n_conns);
        if (r)
                return r;
        request_finish(q);
        return 0;
}

int api_healthz(Request *q) {
        int r = buf_append_str(&q->out, "{\"status\":\"ok\"}\n");

        if (r)
                return r;
        request_send(q);
        return 0;
}

int api_readyz(Request *q) {
        const char *failure = store_failure(q->api->store);

        if (failure)
                request_problem(q, 503, NULL, "the store takes no writes: %s", failure);
        else if (!sched_launcher_generation(q->api->sched))
                request_problem(q, 503, NULL, "not connected to the launcher: tasks are accepted and wait; is agent-router-launcher running?");
        else {
                int r = buf_append_str(&q->out, "{\"status\":\"ready\"}\n");
                if (r)
                        return r;
                request_send(q);
        }
        return 0;
}

int api_openapi(Request *q) {
        int r = buf_append(&q->out, api_openapi_json, (size_t)(api_openapi_json_end - api_openapi_json));

        if (r)
                return r;
        request_send(q);
        return 0;
}

/* ---- metrics ---- */

void api_metrics_init(Api *api) {
        Metrics *m = api->metrics;

        api->metric.requests = metrics_family(m, METRIC_COUNTER, "agent_router_http_requests_total", "Requests answered, by status.", "status");
        api->metric.by_state = metrics_family(m, METRIC_GAUGE, "agent_router_tasks", "Tasks in the store, by state.", "state");
#define GAUGE(member, name, help) \
        api->metric.member = metric_get(metrics_family(m, METRIC_GAUGE, name, help, NULL), NULL)
#define COUNTER(member, name, help) \
        api->metric.member = metric_get(metrics_family(m, METRIC_COUNTER, name, help, NULL), NULL)
        GAUGE(connections, "agent_router_connections", "Open connections.");
        COUNTER(connections_refused, "agent_router_connections_refused_total", "Connections closed at once for want of room.");
        GAUGE(live, "agent_router_tasks_live", "Tasks that have not ended.");
        GAUGE(waiting, "agent_router_tasks_waiting", "Tasks queued or delayed.");
        GAUGE(running, "agent_router_attempts_running", "Attempts that hold a slot.");
        GAUGE(launcher_up, "agent_router_launcher_up", "1 while connected to the launcher.");
        GAUGE(store_failed, "agent_router_store_failed", "1 where the store takes no more writes.");
        COUNTER(commits, "agent_router_store_commits_total", "Group commits.");
        COUNTER(syncs, "agent_router_store_syncs_total", "fdatasyncs of the write-ahead log.");
        COUNTER(sync_seconds, "agent_router_store_sync_seconds_total", "Time spent in them.");
        GAUGE(wal_bytes, "agent_router_store_wal_bytes", "Size of the write-ahead log.");
        GAUGE(database_bytes, "agent_router_store_database_bytes", "Size of the database.");
        COUNTER(log_dropped, "agent_router_log_dropped_total", "Journal entries dropped since its socket was full.");
        GAUGE(uptime, "agent_router_uptime_seconds", "Time since start.");
#undef GAUGE
#undef COUNTER
}

void api_collect_metrics(void *userdata) {
        Api *api = userdata;
        const StoreStats *store = store_stats(api->store);
        SchedStats sched = sched_stats(api->sched);
        uint64_t counts[_TASK_STATE_N] = {};

        if (store_task_count(api->store, counts) == 0)
                for (unsigned i = 1; i < _TASK_STATE_N; i++)
                        metric_set(metric_get(api->metric.by_state, task_state_name(i)), (double)counts[i]);
        metric_set(api->metric.connections, (double)api->n_conns);
        metric_set(api->metric.live, (double)sched.n_live);
        metric_set(api->metric.waiting, (double)sched.n_waiting);
        metric_set(api->metric.running, sched.n_running);
        metric_set(api->metric.launcher_up, sched_launcher_generation(api->sched) != NULL);
        metric_set(api->metric.store_failed, store->failed);
        metric_set(api->metric.commits, (double)store->n_commits);
        metric_set(api->metric.syncs, (double)store->n_syncs);
        metric_set(api->metric.sync_seconds, (double)store->sync_us_total / 1e6);
        metric_set(api->metric.wal_bytes, (double)store->wal_bytes);
        metric_set(api->metric.database_bytes, (double)store->database_bytes);
        metric_set(api->metric.log_dropped, (double)log_dropped());
        metric_set(api->metric.uptime, (double)((reactor_now_us(api->reactor) - api->started_us) / USEC_PER_SEC));
}

int api_metrics(Request *q) {
        int r = metrics_write(q->api->metrics, &q->out);

        if (r)
                return r;
        q->content_type_out = METRICS_CONTENT_TYPE;
        request_send(q);
        return 0;
}

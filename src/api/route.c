#include <strings.h>

#include "api/internal.h"
#include "base/error.h"
#include "proto/http1.h"

const Route api_routes[] = {
        { API_POST, "/tasks", api_task_post, ROLE_SUBMITTER, NULL },
        { API_GET, "/tasks", api_task_list, ROLE_SUBMITTER, "state agent group batch label cursor limit" },
        { API_GET, "/tasks/{id}", api_task_get, ROLE_SUBMITTER, "include after" },
        { API_POST, "/tasks/cancel", api_tasks_cancel, ROLE_SUBMITTER, NULL },
        { API_POST, "/tasks/{id}/cancel", api_task_cancel, ROLE_SUBMITTER, NULL },
        { API_POST, "/tasks/{id}/retry", api_task_retry, ROLE_SUBMITTER, NULL },
        { API_GET, "/tasks/{id}/events", api_task_events, ROLE_SUBMITTER, "after include" },
        { API_POST, "/batches", api_batch_post, ROLE_SUBMITTER, NULL },
        { API_GET, "/batches", api_batch_list, ROLE_SUBMITTER, "cursor limit" },
        { API_GET, "/batches/{id}", api_batch_get, ROLE_SUBMITTER, NULL },
        { API_GET, "/batches/{id}/tasks", api_batch_tasks, ROLE_SUBMITTER, "cursor limit" },
        { API_POST, "/batches/{id}/cancel", api_batch_cancel, ROLE_SUBMITTER, NULL },
        { API_POST, "/batches/{id}/retry", api_batch_retry, ROLE_SUBMITTER, NULL },
        { API_POST, "/keys", api_key_post, ROLE_ADMIN, NULL },
        { API_GET, "/keys", api_key_list, ROLE_ADMIN, NULL },
        { API_DELETE, "/keys/{name}", api_key_delete, ROLE_ADMIN, NULL },
        { API_GET, "/events", api_events, ROLE_SUBMITTER, "after include" },
        { API_GET, "/limits", api_limit_list, ROLE_SUBMITTER, NULL },
        { API_PUT, "/limits/{kind}/{name}", api_limit_put, ROLE_ADMIN, NULL },
        { API_DELETE, "/limits/{kind}/{name}", api_limit_delete, ROLE_ADMIN, NULL },
        { API_POST, "/drain", api_drain, ROLE_ADMIN, NULL },
        { API_POST, "/resume", api_resume, ROLE_ADMIN, NULL },
        { API_POST, "/reload", api_reload, ROLE_ADMIN, NULL },
        { API_GET, "/usage", api_usage, ROLE_SUBMITTER, "by from to format" },
        { API_GET, "/agents", api_agents, ROLE_SUBMITTER, NULL },
        { API_POST, "/agents/{name}/reset", api_agent_reset, ROLE_ADMIN, NULL },
        { API_GET, "/status", api_status, ROLE_SUBMITTER, NULL },
        { API_GET, "/metrics", api_metrics, ROLE_SUBMITTER, NULL },
        { API_GET, "/openapi.json", api_openapi, ROLE_SUBMITTER, NULL },
        { API_GET, "/healthz", api_healthz, ROLE_NONE, NULL },
        { API_GET, "/readyz", api_readyz, ROLE_NONE, NULL },
};
const size_t api_n_routes = ELEMENTSOF(api_routes);

/* Decodes one path segment; NULL where it is malformed or holds NUL. */
static char *segment_decode(const char *s, size_t n) {
        _cleanup_(buf_deinit) Buf value = BUF_NULL;
        char *text;

        return http_percent_decode(s, n, &value) && buf_take_str(&value, &text) == 0 ? text : NULL;
}

static bool route_match(const char *pattern, const char *path, char *ret_params[static REQUEST_PARAMS_MAX]) {
        size_t n_params = 0;

        for (;;) {
                size_t n_pattern, n_path;
                if (*pattern != '/' || *path != '/')
                        break;          /* one of them has ended, or the path is `*` */
                n_pattern = strcspn(pattern + 1, "/");
                n_path = strcspn(path + 1, "/");
                if (pattern[1] == '{') {
                        if (n_path == 0 || n_params == REQUEST_PARAMS_MAX)
                                break;
                        ret_params[n_params] = segment_decode(path + 1, n_path);
                        if (!ret_params[n_params++])
                                break;
                } else if (n_pattern != n_path || strncmp(pattern + 1, path + 1, n_path) != 0)
                        break;
                pattern += 1 + n_pattern;
                path += 1 + n_path;
                if (!*pattern && !*path)
                        return true;
        }
        for (size_t i = 0; i < REQUEST_PARAMS_MAX; i++)
                free(steal_ptr(&ret_params[i]));
        return false;
}

static bool name_is_listed(const char *list, const char *name, size_t n) {
        for (const char *p = list; p && *p; p += strspn(p, " ")) {
                size_t k = strcspn(p, " ");
                if (k == n && strncmp(p, name, n) == 0)
                        return true;
                p += k;
        }
        return false;
}

/* Every parameter of the query must be one that the route knows. */
static bool query_is_known(Request *q) {
        for (const char *p = q->query; p && *p;) {
                size_t n = strcspn(p, "&"), n_name = strcspn(p, "=&");
                if (n && !name_is_listed(q->route->query, p, n_name)) {
                        request_problem(q, 400, NULL, "the query parameter '%.*s' is not known here; known: %s", (int)MIN(n_name, (size_t)64), p,
                                        q->route->query ?: "none");
                        return false;
                }
                p += n + (p[n] == '&');
        }
        return true;
}

/* False: the request was answered. */
static void forget_authorization(Request *q) {
        if (q->authorization)
                explicit_bzero(q->authorization, strlen(q->authorization));
        free(steal_ptr(&q->authorization));
}

uint64_t route_body_max(const Request *q) {
        const char *path = str_starts(q->path, "/v1/") ? q->path + 3 : q->path;

        return q->method == API_POST && streq(path, "/batches") ? q->api->config.batch_body_max
                                                                : q->api->config.body_max;
}

void route_identify(Request *q) {
        Principal p = {};

        if (!q->authorization && q->principal.role != ROLE_NONE)
                return;
        q->stranger = auth_bearer(q->api->store, q->authorization, &p) != 0;
        if (q->stranger)
                return;         /* why is said in its answer */
        q->principal = p;
        forget_authorization(q);
}

static bool authenticate(Request *q, Role role) {
        int r = 0;

        if (role == ROLE_NONE)
                return true;
        if (q->authorization || q->principal.role == ROLE_NONE) {
                q->principal = (Principal){};
                r = auth_bearer(q->api->store, q->authorization, &q->principal);
        }
        forget_authorization(q);
        if (r == 0 && q->stranger)
                r = AUTH_E_DENIED;      /* a key that was made since: the body is gone */
        if (r == AUTH_E_DENIED) {
                request_problem(q, 401, NULL, "a valid API key is needed: 'Authorization: Bearer ark_…'; "
                                "make one with 'agent-routerctl key create --name NAME'");
                return false;
        }
        if (r) {
                request_failed(q, r);
                return false;
        }
        if (q->principal.role < role) {
                request_problem(q, 403, NULL, "this needs the role %s; the caller has the role %s", role_name(role),
                                role_name(q->principal.role));
                return false;
        }
        return true;
}

static const char *allow_list(const char *path) {
        /* A path has at most one of these sets: GET 1, POST 2, DELETE 4, PUT 8. */
        static const char *const sets[16] = { "", "GET, HEAD", "POST", "GET, HEAD, POST", "DELETE", "GET, HEAD, DELETE",
                                              [12] = "PUT, DELETE" };
        unsigned set = 0;

        for (size_t i = 0; i < api_n_routes; i++) {
                char *params[REQUEST_PARAMS_MAX] = {};
                if (!route_match(api_routes[i].pattern, path, params))
                        continue;
                set |= api_routes[i].method == API_GET  ? 1
                     : api_routes[i].method == API_POST ? 2
                     : api_routes[i].method == API_PUT  ? 8
                                                        : 4;
                for (size_t j = 0; j < REQUEST_PARAMS_MAX; j++)
                        free(params[j]);
        }
        return sets[set] ?: "";
}

void route_dispatch(Request *q) {
        ApiMethod method = q->method == API_HEAD ? API_GET : q->method;
        int r;

        if (str_starts(q->path, "/v1/"))
                memmove(q->path, q->path + 3, strlen(q->path + 3) + 1);
        for (size_t i = 0; i < api_n_routes && !q->route; i++)
                if (api_routes[i].method == method && route_match(api_routes[i].pattern, q->path, q->params))
                        q->route = &api_routes[i];
        /* A caller without a key is not told what there is. */
        if (!authenticate(q, q->route ? q->route->role : ROLE_SUBMITTER))
                return;
        if (!q->route) {
                const char *allow = allow_list(q->path);
                if (q->method == API_OTHER)
                        request_problem(q, 501, NULL, "this method is not implemented");
                else if (*allow) {
                        q->allow = allow;
                        request_problem(q, 405, NULL, "this method is not allowed here; allowed: %s", allow);
                } else
                        request_problem(q, 404, NULL, "there is nothing at this path; GET /openapi.json lists what there is");
                return;
        }
        if (!query_is_known(q))
                return;
        r = q->route->fn(q);
        if (r)
                request_failed(q, r);
}

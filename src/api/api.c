#include <sys/socket.h>

#include "api/internal.h"
#include "base/error.h"
#include "base/fd.h"

int api_new(Api **ret_api, Reactor *reactor, Store *store, Sched *sched, Metrics *metrics, const ApiConfig *config) {
        Api *api = calloc(1, sizeof(*api));
        int r;

        if (!api)
                return error_origin(-ENOMEM);
        api->reactor = reactor;
        api->store = store;
        api->sched = sched;
        api->metrics = metrics;
        api->config = *config;
        api->responses_max = API_RESPONSES_MAX;
        api->started_us = reactor_now_us(reactor);
        list_init(&api->listeners);
        list_init(&api->conns);
        list_init(&api->charged);
        jobs_init(api);
        r = id_new(&api->instance);
        if (r) {
                free(api);
                return error_trace(r);
        }
        api_metrics_init(api);
        metrics_set_collect(metrics, api_collect_metrics, api);
        *ret_api = api;
        return 0;
}

void api_configure(Api *api, const ApiConfig *config) {
        api->config = *config;
}

Api *api_free(Api *api) {
        if (!api)
                return NULL;
        list_for_each_safe(i, &api->listeners) {
                ApiListener *l = container_of(i, ApiListener, link);
                fd_close(l->listener.fd);
                free(l);
        }
        free(api);
        return NULL;
}

static void on_accept(Listener *listener, int fd) {
        conn_accept(container_of(listener, ApiListener, listener), fd);
}

int api_listen_take(Api *api, int fd) {
        ApiListener *l = calloc(1, sizeof(*l));
        struct sockaddr_storage address;
        socklen_t n = sizeof(address);

        if (!l)
                return error_origin(-ENOMEM);
        if (getsockname(fd, (struct sockaddr *)&address, &n) < 0) {
                free(l);
                return error_origin(-errno);
        }
        l->api = api;
        l->is_unix = address.ss_family == AF_UNIX;
        listener_init_take(&l->listener, api->reactor, fd, on_accept);
        list_link_tail(&api->listeners, &l->link);
        return 0;
}

void api_start(Api *api) {
        list_for_each_safe(i, &api->listeners)
                listener_start(&container_of(i, ApiListener, link)->listener);
}

void api_maybe_closed(Api *api) {
        if (api->n_conns == 0 && list_is_empty(&api->listeners) && api->on_closed) {
                void (*fn)(void *) = api->on_closed;
                api->on_closed = NULL;
                fn(api->userdata);
        }
}

static void on_listener_closed(Listener *listener) {
        ApiListener *l = container_of(listener, ApiListener, listener);
        Api *api = l->api;

        list_unlink(&l->link);
        free(l);
        api_maybe_closed(api);
}

void api_close(Api *api, void (*on_closed)(void *userdata), void *userdata) {
        api->closing = true;
        api->on_closed = on_closed;
        api->userdata = userdata;
        list_for_each_safe(i, &api->listeners)
                listener_close(&container_of(i, ApiListener, link)->listener, on_listener_closed);
        /* What nobody waits for any more is undone at the next start. */
        list_for_each_safe(i, &api->sliced) {
                Request *q = container_of(i, Request, sliced);
                if (!q->conn)
                        request_free(q);
        }
        conn_stop_all(api, false);
        api_maybe_closed(api);
}

void api_abort(Api *api) {
        conn_stop_all(api, true);
}

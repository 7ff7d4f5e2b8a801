#pragma once

/*
 * Api: the HTTP interface. A Conn (conn.c) holds a stream and a codec and makes Requests; route.c finds the handler; a
 * handler reads and writes the store at once and fills the response, which leaves when everything it was built from is
 * durable (request_finish()). Errors are problem details (RFC 9457).
 */

#include "auth/auth.h"
#include "base/list.h"
#include "reactor/listener.h"
#include "reactor/reactor.h"
#include "sched/sched.h"
#include "store/store.h"
#include "telemetry/metrics.h"

typedef struct Api Api;
typedef struct ApiConfig ApiConfig;

#define API_RELOAD_ERROR_MAX 512

struct ApiConfig {
        uint64_t body_max;
        uint64_t batch_body_max;        /* of POST /batches */
        uint32_t connections_max;
        const char *version;
        /* Reads the configuration again. Positive: it is not valid, ret_error says where; NULL: it can't be done. */
        int (*reload)(void *userdata, char ret_error[static API_RELOAD_ERROR_MAX]);
        void *userdata;
};

int api_new(Api **ret_api, Reactor *reactor, Store *store, Sched *sched, Metrics *metrics, const ApiConfig *config)
        _must_check_;
/* Every connection must be closed. */
Api *api_free(Api *api);
DEFINE_CLEANUP(Api, api_free);
/* Takes a listening socket. Unix sockets know their callers by peer credentials, others need a key. */
int api_listen_take(Api *api, int fd) _must_check_;
void api_start(Api *api);
/* Another configuration, for requests and connections from now on. */
void api_configure(Api *api, const ApiConfig *config);
/* Closes the listeners at once, idle connections too, the others after their response; then on_closed(userdata). */
void api_close(Api *api, void (*on_closed)(void *userdata), void *userdata);
/* After api_close(): closes what is still open, without waiting for responses. */
void api_abort(Api *api);

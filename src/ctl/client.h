#pragma once

/*
 * client: HTTP to the daemon, by libcurl: over the control socket, where the caller is known by its uid, or to a URL
 * with a key. The key comes from a file or the environment, never from the command line, and goes to no other host:
 * redirects are not followed.
 */

#include "base/buf.h"
#include "ctl/ctl.h"

typedef struct ClientRequest ClientRequest;
typedef struct ClientResponse ClientResponse;

/* of an answer: a transcript holds up to the configured capture, 8M by default */
#define CLIENT_BODY_MAX MIB(256)
#define CLIENT_HEADERS_MAX 4
/* a stream without a byte for so long is lost: heartbeats come far more often */
#define CLIENT_SILENCE_S 90

enum {
        _CLIENT_E_SUCCESS,
        CLIENT_E_UNREACHABLE,           /* no connection was made */
        CLIENT_E_LOST,                  /* it broke before the answer's end */
        CLIENT_E_STOPPED,               /* on_data said so, or client_interrupted() */
        CLIENT_E_CONFIG,                /* the socket, URL or key can't be used; said on stderr */
};

struct ClientRequest {
        const char *method;
        const char *path;               /* "/v1/tasks", with its query */
        const char *body;               /* JSON, or NULL */
        size_t n_body;
        const char *headers[CLIENT_HEADERS_MAX + 1];
        /* Takes the body of a 200 as it comes; true to go on. */
        bool (*on_data)(void *userdata, const char *data, size_t n);
        void *userdata;
};

struct ClientResponse {
        unsigned status;
        uint64_t retry_after_s;
        Buf body;
};

#define CLIENT_RESPONSE_NULL { .body = BUF_INIT(CLIENT_BODY_MAX) }

static inline void client_response_deinit(ClientResponse *r) {
        buf_deinit(&r->body);
}

Client *client_free(Client *client);

/* CLIENT_E_*, -ENOMEM. The response is the caller's to deinit in any case. */
int client_perform(Ctl *ctl, const ClientRequest *request, ClientResponse *response) _must_check_;
/* Says on stderr why a request failed (r of client_perform(), or a status from 400) and returns the exit code. */
int client_fail(Ctl *ctl, const ClientRequest *request, const ClientResponse *response, int r);
/* Both, for an answer that is JSON: 0, or an exit code. ret_json may be NULL. */
int client_call(Ctl *ctl, const ClientRequest *request, json_object **ret_json) _must_check_;
/* Parses an answer's JSON, of which only the size is bounded: it is the router's. NULL where it is none. */
json_object *client_parse(const void *data, size_t n);

/* Whether requests go to a control socket of this machine, so that its paths are ours. */
bool client_is_local(Ctl *ctl);

/* Appends a component of a path or a query's value, percent-encoded (RFC 3986 §2). */
int client_escape(Buf *out, const char *s) _must_check_;
/* A path with one component that needs escaping: before, name, after. The caller frees it. */
int client_path(const char *before, const char *name, const char *after, char **ret_path) _must_check_;

/* SIGINT ends requests (CLIENT_E_STOPPED) instead of the process, from here on. */
void client_catch_interrupt(void);
bool client_interrupted(void);

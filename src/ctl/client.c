#include <curl/curl.h>
#include <inttypes.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/parse.h"
#include "ctl/client.h"
#include "ctl/text.h"

#define KEY_MAX 512                     /* "ark_" and 43 characters, with room for other forms */
#define CONNECT_TIMEOUT_S 10L

struct Client {
        CURL *curl;
        char *base;                     /* "http://localhost" or the URL, no slash at the end */
        char *socket;                   /* NULL: TCP */
        char *authorization;            /* the header, or NULL */
        char where[256];                /* for messages */
        char error[CURL_ERROR_SIZE];
        int os_error;
};

typedef struct Transfer {
        Client *client;
        const ClientRequest *request;
        ClientResponse *response;
        bool stopped;                   /* by on_data */
        bool failed;                    /* body too large, or no memory */
} Transfer;

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signo) {
        interrupted = 1;
}

void client_catch_interrupt(void) {
        struct sigaction action = { .sa_handler = on_interrupt };

        sigaction(SIGINT, &action, NULL);
}

bool client_interrupted(void) {
        return interrupted;
}

Client *client_free(Client *client) {
        if (!client)
                return NULL;
        curl_easy_cleanup(client->curl);
        free(client->base);
        free(client->socket);
        if (client->authorization)
                explicit_bzero(client->authorization, strlen(client->authorization));
        free(client->authorization);
        free(client);
        return NULL;
}
DEFINE_CLEANUP(Client, client_free);

static void curl_url_cleanupp(CURLU **u) {
        curl_url_cleanup(*u);
}

static void curl_freep(char **p) {
        curl_free(*p);
}

static void curl_slist_freep(struct curl_slist **l) {
        curl_slist_free_all(*l);
}

static int client_set_socket(Client *c, const char *path) {
        if (strlen(path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path)) {
                ctl_fail(CTL_USAGE, "the socket's path has more than %zu bytes: %s",
                         sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1, path);
                return CLIENT_E_CONFIG;
        }
        c->socket = strdup(path);
        c->base = strdup("http://localhost");
        if (!c->socket || !c->base)
                return error_origin(-ENOMEM);
        snprintf(c->where, sizeof(c->where), "%s", path);
        return 0;
}

/* The person's own instance where it runs, else the system's. */
static int client_set_default_socket(Client *c) {
        const char *runtime = getenv("XDG_RUNTIME_DIR");

        if (runtime && *runtime) {
                _cleanup_free_ char *path = NULL;
                if (asprintf(&path, "%s/agent-router/control.sock", runtime) < 0)
                        return error_origin(-ENOMEM);
                if (access(path, F_OK) == 0)
                        return client_set_socket(c, path);
        }
        return client_set_socket(c, "/run/agent-router/control.sock");
}

static bool host_is_loopback(const char *host) {
        return streq(host, "localhost") || str_starts(host, "127.") || streq(host, "[::1]") || streq(host, "::1");
}

static int client_set_url(Client *c, const char *url, bool *ret_clear) {
        _cleanup_(curl_url_cleanupp) CURLU *u = curl_url();
        _cleanup_(curl_freep) char *scheme = NULL, *host = NULL, *user = NULL;
        size_t n = strlen(url);

        if (!u)
                return error_origin(-ENOMEM);
        if (curl_url_set(u, CURLUPART_URL, url, 0) != CURLUE_OK ||
            curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
            curl_url_get(u, CURLUPART_HOST, &host, 0) != CURLUE_OK ||
            (!streq(scheme, "http") && !streq(scheme, "https")) || strpbrk(url, "?#")) {
                ctl_fail(CTL_USAGE, "'%s' is not the URL of a router; expected one like http://127.0.0.1:8377", url);
                return CLIENT_E_CONFIG;
        }
        if (curl_url_get(u, CURLUPART_USER, &user, 0) == CURLUE_OK) {
                ctl_fail(CTL_USAGE, "the URL holds a user name; give the key in AGENT_ROUTER_KEY or by --key-file instead");
                return CLIENT_E_CONFIG;
        }
        while (n > 0 && url[n - 1] == '/')
                n--;
        c->base = strndup(url, n);
        if (!c->base)
                return error_origin(-ENOMEM);
        snprintf(c->where, sizeof(c->where), "%s", c->base);
        *ret_clear = streq(scheme, "http") && !host_is_loopback(host);
        if (host_is_loopback(host))
                curl_easy_setopt(c->curl, CURLOPT_PROXY, "");
        return 0;
}

static int client_read_key_file(const char *path, char **ret_key) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        _cleanup_free_ char *data = NULL;
        struct stat st;
        size_t n;
        int r;

        if (fd < 0 || fstat(fd, &st) < 0) {
                ctl_fail(CTL_USAGE, "cannot read the key file %s: %s", path, strerror(errno));
                return CLIENT_E_CONFIG;
        }
        if (S_ISREG(st.st_mode) && st.st_mode & 077)
                fprintf(stderr, "agent-routerctl: warning: the key file %s is open to others; close it with: chmod 600 %s\n",
                        path, path);
        r = fd_read_all(fd, KEY_MAX, &data, &n);
        if (r) {
                ctl_fail(CTL_USAGE, "cannot read the key file %s: %s", path,
                         r < 0 ? strerror(-r) : "it is too large for a key");
                return CLIENT_E_CONFIG;
        }
        *ret_key = steal_ptr(&data);
        return 0;
}

static int client_set_key(Client *c, const char *key_file, bool environment) {
        const char *e = environment ? getenv("AGENT_ROUTER_KEY") : NULL;
        _cleanup_free_ char *key = NULL;
        size_t n;
        int r;

        if (key_file) {
                r = client_read_key_file(key_file, &key);
                if (r)
                        return r;
        } else if (e && *e) {
                key = strdup(e);
                if (!key)
                        return error_origin(-ENOMEM);
        } else
                return 0;
        n = strlen(key);
        while (n > 0 && (key[n - 1] == '\n' || key[n - 1] == '\r' || key[n - 1] == ' '))
                key[--n] = 0;
        for (size_t i = 0; i < n || n == 0; i++)
                if (n == 0 || key[i] <= 0x20 || key[i] >= 0x7f) {
                        ctl_fail(CTL_USAGE, "the key in %s is not one; expected the line that `key create` printed",
                                 key_file ?: "AGENT_ROUTER_KEY");
                        return CLIENT_E_CONFIG;
                }
        if (asprintf(&c->authorization, "Authorization: Bearer %s", key) < 0) {
                c->authorization = NULL;
                return error_origin(-ENOMEM);
        }
        explicit_bzero(key, n);
        return 0;
}

/* --url or --socket, then the environment, then the default socket. */
static int client_get(Ctl *ctl, Client **ret_client) {
        const char *url = ctl->url, *path = ctl->socket;
        _cleanup_(client_freep) Client *c = NULL;
        bool clear = false;
        int r;

        if (ctl->client) {
                *ret_client = ctl->client;
                return 0;
        }
        if (url && path) {
                ctl_fail(CTL_USAGE, "--url and --socket are both given; expected one of them");
                return CLIENT_E_CONFIG;
        }
        c = calloc(1, sizeof(*c));
        if (!c)
                return error_origin(-ENOMEM);
        c->curl = curl_easy_init();
        if (!c->curl)
                return error_origin(-ENOMEM);
        if (!url && !path)
                url = getenv("AGENT_ROUTER_URL");
        if (!path && !(url && *url))
                path = getenv("AGENT_ROUTER_SOCKET");
        if (url && *url)
                r = client_set_url(c, url, &clear);
        else if (path && *path)
                r = client_set_socket(c, path);
        else
                r = client_set_default_socket(c);
        /* The control socket knows its caller; a key goes over a socket only where it is asked for. */
        if (!r)
                r = client_set_key(c, ctl->key_file, !c->socket);
        if (r)
                return r;
        if (clear && c->authorization)
                fprintf(stderr, "agent-routerctl: warning: the key goes over the network in clear text; use https://\n");
        *ret_client = ctl->client = steal_ptr(&c);
        return 0;
}

bool client_is_local(Ctl *ctl) {
        Client *c;

        return client_get(ctl, &c) == 0 && c->socket;
}

static size_t on_body(char *data, size_t size, size_t n, void *userdata) {
        Transfer *t = userdata;
        long status = 0;

        curl_easy_getinfo(t->client->curl, CURLINFO_RESPONSE_CODE, &status);
        if (t->request->on_data && status == 200) {
                t->stopped = !t->request->on_data(t->request->userdata, data, n);
                return t->stopped ? 0 : n;
        }
        t->failed = buf_append(&t->response->body, data, n) != 0;
        return t->failed ? 0 : n;
}

static int on_progress(void *userdata, curl_off_t d0, curl_off_t d1, curl_off_t u0, curl_off_t u1) {
        return interrupted;
}

static int client_set_headers(Client *c, const ClientRequest *request, struct curl_slist **list) {
        const char *headers[CLIENT_HEADERS_MAX + 4] = { "Expect:" };      /* no 100-continue: one trip more for nothing */
        size_t n = 1;

        if (c->authorization)
                headers[n++] = c->authorization;
        if (request->body)
                headers[n++] = "Content-Type: application/json";
        for (size_t i = 0; i < CLIENT_HEADERS_MAX && request->headers[i]; i++)
                headers[n++] = request->headers[i];
        for (size_t i = 0; i < n; i++) {
                struct curl_slist *longer = curl_slist_append(*list, headers[i]);
                if (!longer)
                        return error_origin(-ENOMEM);
                *list = longer;
        }
        return 0;
}

static void client_set_options(Client *c, const ClientRequest *request, Transfer *t, const char *url,
                               const struct curl_slist *headers) {
        CURL *h = c->curl;

        curl_easy_setopt(h, CURLOPT_URL, url);
        curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
        curl_easy_setopt(h, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
        curl_easy_setopt(h, CURLOPT_FOLLOWLOCATION, 0L);
        curl_easy_setopt(h, CURLOPT_USERAGENT, "agent-routerctl/" AR_VERSION);
        curl_easy_setopt(h, CURLOPT_ERRORBUFFER, c->error);
        curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT, CONNECT_TIMEOUT_S);
        curl_easy_setopt(h, CURLOPT_LOW_SPEED_LIMIT, 1L);
        curl_easy_setopt(h, CURLOPT_LOW_SPEED_TIME, (long)CLIENT_SILENCE_S);
        if (c->socket) {
                curl_easy_setopt(h, CURLOPT_UNIX_SOCKET_PATH, c->socket);
                curl_easy_setopt(h, CURLOPT_PROXY, "");
        }
        curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, request->method);
        curl_easy_setopt(h, CURLOPT_HTTPHEADER, headers);
        if (request->body) {
                curl_easy_setopt(h, CURLOPT_POSTFIELDS, request->body);
                curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->n_body);
        } else if (streq(request->method, "POST")) {
                curl_easy_setopt(h, CURLOPT_POSTFIELDS, "");
                curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)0);
        } else
                curl_easy_setopt(h, CURLOPT_HTTPGET, 1L);
        curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_body);
        curl_easy_setopt(h, CURLOPT_WRITEDATA, t);
        curl_easy_setopt(h, CURLOPT_XFERINFOFUNCTION, on_progress);
        curl_easy_setopt(h, CURLOPT_NOPROGRESS, 0L);
}

int client_perform(Ctl *ctl, const ClientRequest *request, ClientResponse *response) {
        _cleanup_(curl_slist_freep) struct curl_slist *headers = NULL;
        Transfer t = { .request = request, .response = response };
        _cleanup_free_ char *url = NULL;
        curl_off_t retry_after = 0;
        long status = 0, os_error = 0;
        CURLcode code;
        int r;

        r = client_get(ctl, &t.client);
        if (r)
                return r;
        if (asprintf(&url, "%s%s", t.client->base, request->path) < 0) {
                url = NULL;
                return error_origin(-ENOMEM);
        }
        r = client_set_headers(t.client, request, &headers);
        if (r)
                return error_trace(r);
        buf_clear(&response->body);
        t.client->error[0] = 0;
        client_set_options(t.client, request, &t, url, headers);
        code = curl_easy_perform(t.client->curl);
        curl_easy_getinfo(t.client->curl, CURLINFO_RESPONSE_CODE, &status);
        curl_easy_getinfo(t.client->curl, CURLINFO_OS_ERRNO, &os_error);
        curl_easy_getinfo(t.client->curl, CURLINFO_RETRY_AFTER, &retry_after);
        t.client->os_error = (int)os_error;
        response->status = (unsigned)status;
        response->retry_after_s = (uint64_t)retry_after;
        if (code == CURLE_OK)
                return 0;
        if (!*t.client->error)
                snprintf(t.client->error, sizeof(t.client->error), "%s", curl_easy_strerror(code));
        if (t.stopped || interrupted)
                return CLIENT_E_STOPPED;
        if (t.failed) {
                snprintf(t.client->error, sizeof(t.client->error), "the answer is too large");
                return CLIENT_E_LOST;
        }
        switch (code) {
        case CURLE_OUT_OF_MEMORY:
                return error_origin(-ENOMEM);
        case CURLE_COULDNT_CONNECT:
        case CURLE_COULDNT_RESOLVE_HOST:
        case CURLE_COULDNT_RESOLVE_PROXY:
        case CURLE_SSL_CONNECT_ERROR:
        case CURLE_PEER_FAILED_VERIFICATION:
        case CURLE_SSL_CACERT_BADFILE:
                return CLIENT_E_UNREACHABLE;
        case CURLE_OPERATION_TIMEDOUT:
                return status ? CLIENT_E_LOST : CLIENT_E_UNREACHABLE;
        default:
                return CLIENT_E_LOST;
        }
}

static int client_fail_connect(const Client *c) {
        if (!c->socket)
                return ctl_fail(CTL_UNREACHABLE, "cannot reach %s: %s\n"
                                "  is the router running there? The address is --url or AGENT_ROUTER_URL.", c->where, c->error);
        if (c->os_error == EACCES || c->os_error == EPERM)
                return ctl_fail(CTL_UNREACHABLE, "%s: permission denied\n"
                                "  only members of its group may connect: sudo usermod -aG agent-router \"$USER\", then log in again;\n"
                                "  or use your own instance: systemctl --user start agent-routerd", c->where);
        return ctl_fail(CTL_UNREACHABLE, "cannot connect to %s: %s\n"
                        "  start the router: systemctl start agent-routerd (your own instance: systemctl --user start agent-routerd);\n"
                        "  another socket: --socket PATH or AGENT_ROUTER_SOCKET; a machine that lacks something: agent-routerctl doctor",
                        c->where, c->os_error ? strerror(c->os_error) : c->error);
}

/* RFC 9457: what the router says, field by field, and what can be done about it. */
static int client_fail_status(const ClientRequest *request, const ClientResponse *response) {
        json_object *problem = client_parse(buf_data(&response->body), buf_size(&response->body));
        const char *title = text_member(problem, "/title"), *detail = text_member(problem, "/detail");
        json_object *errors = json_at(problem, "/errors");
        unsigned status = response->status;
        bool busy = status == 429 || status >= 500;

        fprintf(stderr, "agent-routerctl: %s %.*s: %u%s", request->method, (int)strcspn(request->path, "?"), request->path,
                status, *title ? " " : "");
        text_write_line(stderr, title, 0);
        if (*detail && !streq(detail, title)) {
                fputs(": ", stderr);
                text_write_line(stderr, detail, 0);
        }
        fputc('\n', stderr);
        for (size_t i = 0; json_object_is_type(errors, json_type_array) && i < json_object_array_length(errors); i++) {
                json_object *e = json_object_array_get_idx(errors, i);
                const char *pointer = text_member(e, "/pointer"), *what = text_member(e, "/detail");
                /* Where there is one error, its detail is mostly the whole's. */
                bool said = streq(what, detail);
                if (said && (!*pointer || strstr(detail, pointer)))
                        continue;
                fputs("  ", stderr);
                text_write_line(stderr, pointer, 0);
                fputs(said ? "" : ": ", stderr);
                text_write_line(stderr, said ? "" : what, 0);
                fputc('\n', stderr);
        }
        if (status == 401)
                fprintf(stderr, "  give a key in AGENT_ROUTER_KEY or by --key-file; on the router's machine root makes one: "
                        "agent-routerctl key create --name NAME\n");
        else if (status == 403)
                fprintf(stderr, "  an admin key, or root on the control socket, may do this\n");
        else if (busy && response->retry_after_s)
                fprintf(stderr, "  try again in %" PRIu64 " s\n", response->retry_after_s);
        json_object_put(problem);
        return busy ? CTL_BUSY : CTL_REFUSED;
}

int client_fail(Ctl *ctl, const ClientRequest *request, const ClientResponse *response, int r) {
        switch (r) {
        case 0:
                return client_fail_status(request, response);
        case CLIENT_E_UNREACHABLE:
                return client_fail_connect(ctl->client);
        case CLIENT_E_LOST:
                return ctl_fail(CTL_UNREACHABLE, "lost the connection to %s: %s\n"
                                "  try again; agent-routerctl status says whether the router is there", ctl->client->where,
                                ctl->client->error);
        case CLIENT_E_STOPPED:
                return CTL_INTERRUPTED;
        case CLIENT_E_CONFIG:
                return CTL_USAGE;
        default:
                return r;
        }
}

json_object *client_parse(const void *data, size_t n) {
        json_tokener *tok = n > 0 && n <= INT32_MAX ? json_tokener_new_ex(64) : NULL;
        json_object *o;

        if (!tok)
                return NULL;
        o = json_tokener_parse_ex(tok, data, (int)n);
        json_tokener_free(tok);
        return o;
}

int client_call(Ctl *ctl, const ClientRequest *request, json_object **ret_json) {
        _cleanup_(client_response_deinit) ClientResponse response = CLIENT_RESPONSE_NULL;
        json_object *o;
        int r;

        r = client_perform(ctl, request, &response);
        if (r || response.status < 200 || response.status > 299)
                return client_fail(ctl, request, &response, r);
        if (!ret_json)
                return 0;
        o = client_parse(buf_data(&response.body), buf_size(&response.body));
        if (!o)
                return ctl_fail(CTL_BUSY, "%s %s: the answer is not JSON; is %s an agent-router?", request->method,
                                request->path, ctl->client->where);
        *ret_json = o;
        return 0;
}

int client_escape(Buf *out, const char *s) {
        for (; *s; s++) {
                bool plain = (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9') ||
                        strchr("-._~", *s);
                int r = plain ? buf_append(out, s, 1) : buf_printf(out, "%%%02X", (unsigned)(uint8_t)*s);
                if (r)
                        return error_fold(r);
        }
        return 0;
}

int client_path(const char *before, const char *name, const char *after, char **ret_path) {
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        int r;

        r = buf_append_str(&b, before);
        r = r ?: client_escape(&b, name);
        r = r ?: buf_append_str(&b, after);
        r = r ?: buf_take_str(&b, ret_path);
        return error_fold(r);
}

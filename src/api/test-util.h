#pragma once

/* The API over a scheduler and a store of the test's own (sched/test-util.h), and clients at socketpairs' ends. */

#include "sched/test-util.h"

#include "api/internal.h"

#define KEY_A "ark_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define KEY_B "ark_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

typedef struct ApiWorld {
        World w;
        Api *api;
        ApiConfig config;
        ApiListener tcp, local;         /* whose connections need a key, or are known by their peer */
} ApiWorld;

typedef struct Client {
        int fd;
        Buf in;                         /* not yet taken */
        bool eof;
} Client;

typedef struct Answer {
        unsigned status;
        char *head;
        char *body;
        size_t n_body;
        bool close;
} Answer;

static inline void answer_deinit(Answer *a) {
        free(a->head);
        free(a->body);
        *a = (Answer){};
}

static inline void add_key(ApiWorld *aw, const char *text, const char *name, const char *role) {
        StoreKey key = { .name = (char *)name, .role = (char *)role, .run_as_uid = -1, .created_us = 1 };

        key.created_by = (char *)"uid:0";
        key.id = test_id();
        assert_int_equal(auth_hash(text, strlen(text), key.hash), 0);
        assert_int_equal(store_begin(aw->w.store), 0);
        assert_int_equal(store_key_insert(aw->w.store, &key), 0);
        assert_int_equal(store_end(aw->w.store, true), 0);
}

static inline void api_world_start(ApiWorld *aw) {
        assert_int_equal(api_new(&aw->api, aw->w.reactor, aw->w.store, aw->w.sched, aw->w.metrics, &aw->config), 0);
        aw->tcp = (ApiListener){ .api = aw->api };
        aw->local = (ApiListener){ .api = aw->api, .is_unix = true };
}

static inline void api_world_init(ApiWorld *aw, uint64_t seed) {
        world_init(&aw->w, seed);
        aw->config = (ApiConfig){ .body_max = KIB(64), .connections_max = 100, .version = "test" };
        api_world_start(aw);
        add_key(aw, KEY_A, "a", "submitter");
        add_key(aw, KEY_B, "b", "submitter");
}

static inline void on_api_world_closed(void *userdata) {
        *(bool *)userdata = true;
}

static inline void api_world_stop(ApiWorld *aw) {
        bool closed = false;

        api_close(aw->api, on_api_world_closed, &closed);
        api_abort(aw->api);
        world_run_until(&aw->w, closed);
        world_stop(&aw->w);
        aw->api = api_free(aw->api);
}

static inline void api_world_deinit(ApiWorld *aw) {
        api_world_stop(aw);
        fake_deinit(&aw->w.launcher);
        fixture_remove_dir(aw->w.dir);
        clock_freeze(0, 0);
        ring_sim_configure(&(RingSimOptions){ .seed = 1 });
}

/* ---- clients ---- */

static inline Client client_open(ApiListener *listener) {
        int fds[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
        conn_accept(listener, fds[1]);
        return (Client){ .fd = fds[0] };
}

static inline void client_close(Client *c) {
        fd_close(steal_fd(&c->fd));
        buf_deinit(&c->in);
}

static inline bool client_write(Client *c, const void *data, size_t n) {
        ssize_t k = send(c->fd, data, n, MSG_NOSIGNAL);

        if (k < 0)
                assert_true(errno == EPIPE || errno == ECONNRESET);
        else
                assert_int_equal(k, n);
        return k >= 0;
}

static inline void client_say(Client *c, const char *text) {
        client_write(c, text, strlen(text));
}

/* Takes at most n of what has come. */
static inline void client_read(Client *c, size_t n) {
        char data[65536];

        while (n > 0 && !c->eof) {
                ssize_t k = recv(c->fd, data, MIN(n, sizeof(data)), 0);
                if (k < 0 && errno == EAGAIN)
                        return;
                if (k <= 0) {
                        c->eof = true;
                        return;
                }
                assert_int_equal(buf_append(&c->in, data, (size_t)k), 0);
                n -= (size_t)k;
        }
}

/* A whole response at the front of c->in: takes it. `head`: of a HEAD request. */
static inline bool client_parse(Client *c, bool head, Answer *ret_answer) {
        Answer a = {};
        const char *data = (const char *)buf_data(&c->in);
        const char *end = buf_size(&c->in) ? memmem(data, buf_size(&c->in), "\r\n\r\n", 4) : NULL;
        const char *length;
        size_t n_head, n_body = 0;

        if (!end)
                return false;
        n_head = (size_t)(end - data) + 4;
        a.head = strndup(data, n_head);
        assert_int_equal(sscanf(a.head, "HTTP/1.1 %u ", &a.status), 1);
        length = strstr(a.head, "\r\nContent-Length: ");
        if (length && !head)
                assert_int_equal(sscanf(length, "\r\nContent-Length: %zu", &n_body), 1);
        if (buf_size(&c->in) < n_head + n_body) {
                free(a.head);
                return false;
        }
        a.body = strndup(data + n_head, n_body);
        a.n_body = n_body;
        a.close = strstr(a.head, "\r\nConnection: close") != NULL;
        buf_consume(&c->in, n_head + n_body);
        *ret_answer = a;
        return true;
}

static inline Answer client_answer(ApiWorld *aw, Client *c, bool head) {
        Answer a = {};

        world_run_until(&aw->w, (client_read(c, SIZE_MAX), client_parse(c, head, &a)) || c->eof);
        if (!a.head)
                fail_msg("the connection ended without an answer");
        return a;
}

/* One request and its answer; headers without the last empty line, body NULL: none. */
static inline Answer client_ask(ApiWorld *aw, Client *c, const char *request, const char *headers, const char *body) {
        char length[64] = "";

        client_say(c, request);
        client_say(c, " HTTP/1.1\r\nHost: x\r\n");
        client_say(c, headers ?: "");
        if (body)
                snprintf(length, sizeof(length), "Content-Length: %zu\r\n", strlen(body));
        client_say(c, length);
        client_say(c, "\r\n");
        client_say(c, body ?: "");
        return client_answer(aw, c, str_starts(request, "HEAD "));
}

#define AS_A "Authorization: Bearer " KEY_A "\r\n"
#define AS_B "Authorization: Bearer " KEY_B "\r\n"

/* On a connection of its own. */
static inline Answer ask(ApiWorld *aw, ApiListener *listener, const char *request, const char *headers,
                         const char *body) {
        Client c = client_open(listener);
        Answer a = client_ask(aw, &c, request, headers, body);

        client_close(&c);
        return a;
}

/* The start of what was received, as a string: sscanf() looks for its end. */
static inline void head_of(const char *data, size_t n, char ret_text[static 64]) {
        n = MIN(n, (size_t)63);
        memcpy(ret_text, data, n);
        ret_text[n] = 0;
}

/* Takes the chunked coding off; what is left of c->in is an unfinished chunk. True at the last. */
static inline bool client_chunks(Client *c, Buf *out) {
        for (;;) {
                const char *data = (const char *)buf_data(&c->in);
                const char *end = buf_size(&c->in) ? memmem(data, buf_size(&c->in), "\r\n", 2) : NULL;
                char text[64];
                unsigned n;
                if (!end)
                        return false;
                head_of(data, (size_t)(end - data), text);
                assert_int_equal(sscanf(text, "%x", &n), 1);
                if (buf_size(&c->in) < (size_t)(end - data) + 2 + n + 2)
                        return false;
                assert_int_equal(buf_append(out, end + 2, n), 0);
                buf_consume(&c->in, (size_t)(end - data) + 2 + n + 2);
                if (!n)
                        return true;
        }
}

/* A JSON string or number at a top-level name, as text. */
static inline char *body_get(const Answer *a, const char *name) {
        json_object *o = json_tokener_parse(a->body), *v = NULL;
        char *s;

        if (!o)
                fail_msg("no JSON: %s", a->body);
        json_object_object_get_ex(o, name, &v);
        s = strdup(v ? json_object_get_string(v) : "null");
        json_object_put(o);
        return s;
}

static inline void assert_member(const Answer *a, const char *name, const char *expected) {
        _cleanup_free_ char *s = body_get(a, name);

        assert_string_equal(s, expected);
}

static inline void assert_status(const Answer *a, unsigned status) {
        if (a->status != status)
                fail_msg("%u instead of %u: %s%s", a->status, status, a->head, a->body);
        if (status >= 400 && a->n_body) {
                assert_non_null(strstr(a->head, "\r\nContent-Type: application/problem+json\r\n"));
                char text[16];
                snprintf(text, sizeof(text), "%u", status);
                assert_member(a, "status", text);
        }
}

/* Asks, checks the status, and forgets the answer. */
static inline void expect(ApiWorld *aw, ApiListener *listener, unsigned status, const char *request,
                          const char *headers, const char *body) {
        _cleanup_(answer_deinit) Answer a = ask(aw, listener, request, headers, body);

        assert_status(&a, status);
}

static inline Id submit(ApiWorld *aw, const char *headers, const char *body) {
        _cleanup_(answer_deinit) Answer a = ask(aw, &aw->tcp, "POST /tasks", headers, body);
        _cleanup_free_ char *text = NULL;
        Id id;

        assert_status(&a, 201);
        text = body_get(&a, "id");
        assert_true(id_parse(text, &id));
        return id;
}

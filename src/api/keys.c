/* keys: POST /keys, GET /keys, DELETE /keys/{name}. A key's text leaves the router once, in the answer that made it. */

#include <pwd.h>
#include <stdio.h>

#include <openssl/crypto.h>

#include "api/internal.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/parse.h"

static int append_key(Buf *out, const StoreKey *k, const char *text) {
        char id[ID_TEXT_MAX];
        int r;

        id_format(&k->id, id);
        r = buf_printf(out, "{\"id\":\"%s\",\"name\":\"%s\",\"role\":\"%s\",\"run_as\":", id, k->name, k->role);
        r = r ?: k->run_as_uid < 0 ? buf_append_str(out, "null") : buf_printf(out, "%lld", (long long)k->run_as_uid);
        r = r ?: buf_append_str(out, ",\"created_at\":");
        r = r ?: json_append_time(out, k->created_us);
        r = r ?: buf_append_str(out, ",\"revoked_at\":");
        r = r ?: json_append_time(out, k->revoked_us);
        r = r ?: buf_append_str(out, ",\"created_by\":");
        r = r ?: json_append_str_or_null(out, k->created_by);
        if (!r && text)
                r = buf_printf(out, ",\"key\":\"%s\"", text);
        return r ?: buf_append_str(out, "}");
}

static void log_key(Request *q, const char *verb, const char *name) {
        log_field(LOG_NOTICE, ((LogField[]){ { "MESSAGE_ID", LOG_ID_KEY_CHANGED }, { "PRINCIPAL", q->principal.name }, { "KEY_NAME", name }, {} }),
                  "key '%s' %s by %s", name, verb, q->principal.name);
}

/* run_as: a uid, or a user's name. False: a problem was sent. */
static bool read_run_as(Request *q, JsonReader *rd, int64_t *ret_uid) {
        json_object *o = NULL;
        const char *name;
        uint64_t uid;
        struct passwd *pw;

        if (!json_object_object_get_ex(rd->object, "run_as", &o) || !o) {
                (void)json_get_bool(rd, "run_as", 0, &(bool){ false });
                return true;
        }
        /* Only root decides whose user a key's tasks run as. */
        if (!streq(q->principal.name, "uid:0")) {
                request_problem(q, 403, "/run_as", "only root, on the control socket, may choose the user that a key's tasks run as");
                return false;
        }
        if (json_object_is_type(o, json_type_int)) {
                if (!json_get_u64(rd, "run_as", 0, 1, UINT32_MAX - 1, &uid))
                        return true;    /* json_reader_end() says it */
                *ret_uid = (int64_t)uid;
                return true;
        }
        if (!json_get_string(rd, "run_as", 0, 1, 256, &name, NULL))
                return true;
        pw = getpwnam(name);
        if (!pw) {
                request_problem(q, 422, "/run_as", "there is no user '%s' on this machine", name);
                return false;
        }
        if (pw->pw_uid == 0) {
                request_problem(q, 422, "/run_as", "a task never runs as root");
                return false;
        }
        *ret_uid = pw->pw_uid;
        return true;
}

static int log_created(Request *q) {
        log_key(q, "made", q->context);
        return 0;
}

int api_key_post(Request *q) {
        _cleanup_(json_putp) json_object *document = request_json(q);
        const char *name = NULL, *role = "submitter";
        char text[AUTH_KEY_TEXT_MAX];
        StoreKey key = { .run_as_uid = -1 };
        JsonError e = {};
        JsonReader rd;
        Role ignored;
        int r, end;

        if (!document)
                return 0;
        rd = json_reader(document, "", &e);
        if (json_get_string(&rd, "name", JSON_REQUIRED, 1, AUTH_KEY_NAME_MAX, &name, NULL) &&
            !parse_name(name, AUTH_KEY_NAME_MAX))
                json_error_set(&e, "/name", "expected letters, digits, '.', '_' and '-', at most %d bytes", AUTH_KEY_NAME_MAX);
        if (json_get_string(&rd, "role", 0, 1, 32, &role, NULL) && !role_from_name(role, &ignored))
                json_error_set(&e, "/role", "expected submitter or admin");
        if (!read_run_as(q, &rd, &key.run_as_uid))
                return 0;
        if (!json_reader_end(&rd)) {
                request_json_problem(q, &e);
                return 0;
        }
        r = id_new(&key.id);
        r = r ?: auth_key_new(text, key.hash);
        if (r)
                return r;
        key.name = (char *)name;
        key.role = (char *)role;
        key.created_us = clock_realtime_us();
        key.created_by = q->principal.name;
        r = store_begin(q->api->store);
        if (!r) {
                r = store_key_insert(q->api->store, &key);
                end = store_end(q->api->store, r == 0);
                r = r ?: end;
        }
        if (r == STORE_E_EXISTS) {
                request_problem(q, 409, "/name", "there is already a key '%s'; revoke it first, or choose another name", name);
                return 0;
        }
        q->status = 201;
        r = r ?: append_key(&q->out, &key, text);
        r = r ?: buf_append_str(&q->out, "\n");
        OPENSSL_cleanse(text, sizeof(text));
        if (r)
                return r;
        if (asprintf(&q->location, "/keys/%s", name) < 0)
                return error_origin(-ENOMEM);
        q->context = q->location + strlen("/keys/");
        q->on_durable = log_created;
        request_finish(q);
        return 0;
}

typedef struct KeyContext {
        Buf *out;
        unsigned n;
} KeyContext;

static int append_listed(const StoreKey *key, void *userdata) {
        KeyContext *c = userdata;

        return (c->n++ ? buf_append_str(c->out, ",") : 0) ?: append_key(c->out, key, NULL);
}

int api_key_list(Request *q) {
        KeyContext c = { .out = &q->out };
        int r;

        r = buf_append_str(&q->out, "{\"keys\":[");
        r = r ?: store_key_list(q->api->store, append_listed, &c);
        r = r ?: buf_append_str(&q->out, "]}\n");
        if (r)
                return r;
        request_finish(q);
        return 0;
}

int api_key_delete(Request *q) {
        int r, end;

        r = store_begin(q->api->store);
        if (!r) {
                r = store_key_revoke(q->api->store, q->params[0], clock_realtime_us());
                end = store_end(q->api->store, r == 0);
                r = r ?: end;
        }
        if (r == STORE_E_NOT_FOUND) {
                request_problem(q, 404, NULL, "there is no valid key of this name; GET /keys lists them");
                return 0;
        }
        if (r)
                return r;
        q->status = 204;
        log_key(q, "revoked", q->params[0]);
        request_finish(q);
        return 0;
}

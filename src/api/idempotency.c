/*
 * idempotency: the same request under the same Idempotency-Key gets the same answer for a day. The answer is written
 * with what it promises, so that either both are durable or neither is.
 */

#include "api/submit.h"
#include "base/clock.h"
#include "base/error.h"

#define IDEMPOTENCY_TTL_US      (24 * 3600 * USEC_PER_SEC)

/* The hash of what makes two requests the same: method, path, caller and body. */
static int request_hash(Request *q, uint8_t ret_hash[static AUTH_HASH_SIZE]) {
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        int r;

        r = buf_printf(&b, "POST %s\n", q->route->pattern);
        r = r ?: buf_append(&b, buf_data(&q->body), buf_size(&q->body));
        r = r ?: auth_hash(buf_data(&b), buf_size(&b), ret_hash);
        return error_fold(r);
}

/* True where the request was answered: a replay, another body under the same key, or a failure. */
static bool replay(Request *q, const uint8_t hash[static AUTH_HASH_SIZE]) {
        _cleanup_(store_idempotency_freep) StoreIdempotency *i = NULL;
        int r;

        r = store_idempotency_find(q->api->store, q->principal.name, q->idempotency_key, clock_realtime_us(), &i);
        if (r == STORE_E_NOT_FOUND)
                return false;
        if (r) {
                request_failed(q, r);
                return true;
        }
        if (memcmp(i->request_hash, hash, AUTH_HASH_SIZE) != 0) {
                request_problem(q, 422, NULL, "this Idempotency-Key was used with another request; use a new key for a new request");
                return true;
        }
        q->status = i->status;
        q->location = steal_ptr(&i->location);
        r = buf_append(&q->out, i->body, i->n_body);
        if (r)
                request_failed(q, r);
        else
                request_finish(q);      /* joins the first request's commit where that is still under way */
        return true;
}

int idempotency_remember(Request *q, const uint8_t hash[static AUTH_HASH_SIZE]) {
        StoreIdempotency i = {
                .principal = q->principal.name,
                .key = q->idempotency_key,
                .status = q->status,
                .body = (char *)buf_data(&q->out),
                .n_body = buf_size(&q->out),
                .location = q->location,
                .expires_us = clock_realtime_us() + IDEMPOTENCY_TTL_US,
        };

        memcpy(i.request_hash, hash, AUTH_HASH_SIZE);
        return store_idempotency_insert(q->api->store, &i);
}

bool idempotency_begin(Request *q, uint8_t ret_hash[static AUTH_HASH_SIZE], int *ret_r) {
        *ret_r = 0;
        if (!q->idempotency_key)
                return true;
        if (!*q->idempotency_key || strlen(q->idempotency_key) > REQUEST_IDEMPOTENCY_MAX) {
                request_problem(q, 400, NULL, "Idempotency-Key: expected 1 to %d bytes", REQUEST_IDEMPOTENCY_MAX);
                return false;
        }
        list_for_each_safe(i, &q->api->sliced) {
                Request *other = container_of(i, Request, sliced);
                if (!other->idempotency_key || !streq(other->idempotency_key, q->idempotency_key) ||
                    !streq(other->principal.name, q->principal.name))
                        continue;
                q->retry_after_s = 1;
                request_problem(q, 409, NULL, "a request with this Idempotency-Key is under way; ask again soon");
                return false;
        }
        *ret_r = request_hash(q, ret_hash);
        return !*ret_r && !replay(q, ret_hash);
}

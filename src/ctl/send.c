#include "ctl/send.h"
#include "base/error.h"
#include "base/id.h"
#include "base/json.h"
#include "ctl/client.h"
#include "ctl/watch.h"

#define SEND_TRIES 8                    /* of a request that broke: 100 ms, doubled each time, 12.7 s in all */

int send_submission_or_problem(Ctl *ctl, const char *path, const char *body, size_t n, const char *key,
                               json_object **ret_answer, json_object **ret_problem) {
        _cleanup_(client_response_deinit) ClientResponse response = CLIENT_RESPONSE_NULL;
        char header[320], id_text[ID_TEXT_MAX];
        ClientRequest request = { .method = "POST", .path = path, .headers = { header }, .body = body, .n_body = n };
        uint64_t pause_us = 100 * USEC_PER_MSEC;
        bool lost = false;
        Id id;
        int r;

        r = id_new(&id);
        if (r)
                return error_trace(r);
        id_format(&id, id_text);
        if (key && (strlen(key) > 255 || strpbrk(key, "\r\n") || !*key))
                return ctl_fail(CTL_USAGE, "--idempotency-key: expected 1 to 255 bytes without a line break");
        snprintf(header, sizeof(header), "Idempotency-Key: %s", key ?: id_text);
        for (unsigned i = 0; ; i++) {
                r = client_perform(ctl, &request, &response);
                lost = lost || r == CLIENT_E_LOST;
                /* 409: the request that broke is still under way. */
                if (!lost || i + 1 == SEND_TRIES ||
                    (r != CLIENT_E_LOST && r != CLIENT_E_UNREACHABLE && !(r == 0 && response.status == 409)))
                        break;
                watch_pause(pause_us);
                pause_us *= 2;
        }
        if (r == 0 && response.status >= 400 && response.status < 500 && ret_problem) {
                *ret_problem = client_parse(buf_data(&response.body), buf_size(&response.body));
                if (*ret_problem)
                        return response.status == 429 ? CTL_BUSY : CTL_REFUSED;
        }
        if (r || response.status < 200 || response.status > 299)
                return client_fail(ctl, &request, &response, r);
        *ret_answer = client_parse(buf_data(&response.body), buf_size(&response.body));
        if (!json_at(*ret_answer, "/id"))
                return ctl_fail(CTL_BUSY, "the answer is no task; is this an agent-router?");
        return 0;
}

int send_submission(Ctl *ctl, const char *path, const char *body, size_t n, const char *key, json_object **ret_answer) {
        return send_submission_or_problem(ctl, path, body, n, key, ret_answer, NULL);
}

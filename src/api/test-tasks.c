/* Tasks, keys and routes as a client sees them. */

#include "api/test-util.h"
#include "base/parse.h"

#define TASK "{\"prompt\":\"hello\",\"agent\":\"text\"}"

static void test_routes(void **state) {
        static const struct { unsigned status; const char *request, *allow; } table[] = {
                { 200, "GET /healthz", NULL },
                { 200, "GET /v1/healthz", NULL },
                { 200, "HEAD /healthz", NULL },
                { 200, "GET /openapi.json", NULL },
                { 200, "GET /agents", NULL },
                { 200, "GET /status", NULL },
                { 200, "GET /metrics", NULL },
                { 200, "GET /tasks", NULL },
                { 404, "GET /", NULL },
                { 404, "GET /v1", NULL },
                { 404, "GET /tasks/", NULL },
                { 404, "GET /tasks/nonsense", NULL },
                { 404, "GET /tasks/a/events/b", NULL },
                { 404, "OPTIONS *", NULL },
                { 404, "GET /tasks/00000000-0000-7000-8000-000000000000", NULL },
                { 404, "GET /tasks/00000000-0000-7000-8000-000000000000/events", NULL },
                { 404, "POST /tasks/00000000-0000-7000-8000-000000000000/cancel", NULL },
                { 405, "PUT /tasks", "GET, HEAD, POST" },
                { 405, "DELETE /tasks/x", "GET, HEAD" },
                { 405, "GET /tasks/x/cancel", "POST" },
                { 405, "OPTIONS /keys", "GET, HEAD, POST" },
                { 405, "GET /keys/x", "DELETE" },
                { 501, "BREW /tasks", NULL },
                { 400, "GET /tasks?nonsense=1", NULL },
                { 400, "GET /tasks?state=nonsense", NULL },
                { 400, "GET /tasks?limit=0", NULL },
                { 400, "GET /tasks?limit=501", NULL },
                { 400, "GET /tasks?cursor=x", NULL },
                { 400, "GET /tasks?label=x", NULL },
                { 400, "GET /healthz?x", NULL },
                { 403, "GET /keys", NULL },
                { 403, "POST /keys", NULL },
                { 403, "DELETE /keys/a", NULL },
        };
        ApiWorld aw;

        api_world_init(&aw, 1);
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                _cleanup_(answer_deinit) Answer a = {};
                char allow[64];

                a = ask(&aw, &aw.tcp, table[i].request, AS_A, NULL);
                if (a.status != table[i].status)
                        fail_msg("%s: %u %s", table[i].request, a.status, a.body);
                if (a.status >= 400)
                        assert_status(&a, table[i].status);
                snprintf(allow, sizeof(allow), "\r\nAllow: %s\r\n", table[i].allow ?: "");
                assert_int_equal(strstr(a.head, table[i].allow ? allow : "\r\nAllow: ") != NULL, table[i].allow != NULL);
        }
        /* Without a key there is only /healthz and /readyz. */
        expect(&aw, &aw.tcp, 200, "GET /healthz", NULL, NULL);
        expect(&aw, &aw.tcp, 401, "GET /tasks", NULL, NULL);
        expect(&aw, &aw.tcp, 401, "GET /nothing", NULL, NULL);
        expect(&aw, &aw.tcp, 401, "GET /tasks", "Authorization: Basic eDp5\r\n", NULL);
        expect(&aw, &aw.tcp, 401, "GET /tasks", "Authorization: Bearer ark_\r\n", NULL);
        expect(&aw, &aw.tcp, 200, "GET /tasks", "Authorization: bearer  " KEY_A "\r\n", NULL);
        /* A HEAD has the length of the GET's body. */
        _cleanup_(answer_deinit) Answer get = ask(&aw, &aw.tcp, "GET /openapi.json", AS_A, NULL);
        _cleanup_(answer_deinit) Answer head = ask(&aw, &aw.tcp, "HEAD /openapi.json", AS_A, NULL);
        char length[64];
        snprintf(length, sizeof(length), "\r\nContent-Length: %zu\r\n", get.n_body);
        assert_non_null(strstr(head.head, length));
        assert_int_equal(head.n_body, 0);
        /* Ready only with a launcher. */
        world_run_until(&aw.w, launcher_client_is_ready(aw.w.client));
        expect(&aw, &aw.tcp, 200, "GET /readyz", NULL, NULL);
        aw.w.launcher.down = true;
        fake_hang_up(&aw.w.launcher);
        world_run_until(&aw.w, !launcher_client_is_ready(aw.w.client));
        expect(&aw, &aw.tcp, 503, "GET /readyz", NULL, NULL);
        api_world_deinit(&aw);
}

static void test_submit_refused(void **state) {
        static const struct { unsigned status; const char *body, *pointer; } table[] = {
                { 400, "", "" },
                { 400, "[]", "" },
                { 400, "{}", "/prompt" },
                { 400, "{\"prompt\":\"\"}", "/prompt" },
                { 400, "{\"prompt\":1}", "/prompt" },
                { 400, "{\"prompt\":\"x\",\"priority\":101}", "/priority" },
                { 400, "{\"prompt\":\"x\",\"agent\":\"a b\"}", "/agent" },
                { 400, "{\"prompt\":\"x\",\"model\":\"-x\"}", "/model" },
                { 400, "{\"prompt\":\"x\",\"workspace\":\"relative\"}", "/workspace" },
                { 400, "{\"prompt\":\"x\",\"labels\":{\"a\":1}}", "/labels/a" },
                { 400, "{\"prompt\":\"x\",\"capabilities\":[1]}", "/capabilities/0" },
                { 400, "{\"prompt\":\"x\",\"timeout_s\":0}", "/timeout_s" },
                { 400, "{\"prompt\":\"x\",\"not_before\":\"tomorrow\"}", "/not_before" },
                { 400, "{\"prompt\":\"x\",\"retry\":{\"max_attempts\":0}}", "/retry/max_attempts" },
                { 400, "{\"prompt\":\"x\",\"retry\":{\"x\":0}}", "/retry/x" },
                { 400, "{\"prompt\":\"x\",\"nonsense\":0}", "/nonsense" },
                { 400, "{\"prompt\":\"x\",\"deadline\":\"soon\"}", "/deadline" },
                { 400, "{\"prompt\":\"x\",\"group\":\"a b\"}", "/group" },
                { 400, "{\"prompt\":\"x\",\"resources\":[]}", "/resources" },
                { 400, "{\"prompt\":\"x\",\"resources\":{\"gpus\":65}}", "/resources/gpus" },
                { 400, "{\"prompt\":\"x\",\"resources\":{\"cpus\":-1}}", "/resources/cpus" },
                { 400, "{\"prompt\":\"x\",\"resources\":{\"memory\":\"much\"}}", "/resources/memory" },
                { 400, "{\"prompt\":\"x\",\"resources\":{\"memory\":-1}}", "/resources/memory" },
                { 400, "{\"prompt\":\"x\",\"resources\":{\"disks\":1}}", "/resources/disks" },
                { 400, "{\"prompt\":\"x\",\"max_tokens\":0}", "/max_tokens" },
                { 400, "{\"prompt\":\"x\",\"max_cost_usd\":0}", "/max_cost_usd" },
                { 400, "{\"prompt\":\"x\",\"after\":[\"x\"]}", "/after/0" },
                { 400, "{\"prompt\":\"x\",\"after\":[\"#0\"]}", "/after/0" },
                { 400, "{\"prompt\":\"x\",\"on\":\"monday\"}", "/on" },
                { 400, "{\"prompt\":\"x\",\"on_unmet\":\"panic\"}", "/on_unmet" },
                { 422, "{\"prompt\":\"x\",\"deadline\":\"2001-01-01T00:00:00Z\"}", "" },
                { 422, "{\"prompt\":\"x\",\"after\":[\"00000000-0000-7000-8000-000000000000\"]}", "/after/0" },
                { 422, "{\"prompt\":\"x\",\"agent\":\"nobody\"}", "/agent" },
                { 422, "{\"prompt\":\"x\",\"capabilities\":[\"fly\"]}", "/agent" },
        };
        ApiWorld aw;

        api_world_init(&aw, 2);
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                _cleanup_(answer_deinit) Answer a = ask(&aw, &aw.tcp, "POST /tasks", AS_A, table[i].body);
                char expected[64];
                snprintf(expected, sizeof(expected), "\"pointer\":\"%s\"", table[i].pointer);
                if (a.status != table[i].status || !strstr(a.body, expected))
                        fail_msg("%s: %u %s", table[i].body, a.status, a.body);
        }
        expect(&aw, &aw.tcp, 415, "POST /tasks", AS_A "Content-Type: text/plain\r\n", TASK);
        assert_int_equal(sched_stats(aw.w.sched).n_live, 0);
        api_world_deinit(&aw);
}

static void test_full(void **state) {
        ApiWorld aw;

        api_world_init(&aw, 3);
        aw.w.config.queued_max = 3;
        aw.w.config.queued_per_principal_max = 2;
        api_world_stop(&aw);
        world_start(&aw.w);
        api_world_start(&aw);
        submit(&aw, AS_A, TASK);
        submit(&aw, AS_A, TASK);
        _cleanup_(answer_deinit) Answer quota = ask(&aw, &aw.tcp, "POST /tasks", AS_A, TASK);
        assert_status(&quota, 429);
        assert_non_null(strstr(quota.head, "\r\nRetry-After: 10\r\n"));
        submit(&aw, AS_B, TASK);
        _cleanup_(answer_deinit) Answer full = ask(&aw, &aw.tcp, "POST /tasks", AS_B, TASK);
        assert_status(&full, 503);
        assert_non_null(strstr(full.head, "\r\nRetry-After: 10\r\n"));
        api_world_deinit(&aw);
}

static void test_idempotency(void **state) {
        ApiWorld aw;
        Client one, two;

        api_world_init(&aw, 4);
        _cleanup_(answer_deinit) Answer a = ask(&aw, &aw.tcp, "POST /tasks", AS_A "Idempotency-Key: k\r\n", TASK);
        _cleanup_(answer_deinit) Answer b = ask(&aw, &aw.tcp, "POST /tasks", AS_A "Idempotency-Key: k\r\n", TASK);
        assert_status(&a, 201);
        assert_status(&b, 201);
        assert_string_equal(a.body, b.body);
        assert_non_null(strstr(b.head, "\r\nLocation: /tasks/"));
        assert_int_equal(sched_stats(aw.w.sched).n_live, 1);
        expect(&aw, &aw.tcp, 422, "POST /tasks", AS_A "Idempotency-Key: k\r\n", "{\"prompt\":\"other\"}");
        /* Another caller's key is another key. */
        expect(&aw, &aw.tcp, 201, "POST /tasks", AS_B "Idempotency-Key: k\r\n", TASK);
        assert_int_equal(sched_stats(aw.w.sched).n_live, 2);
        expect(&aw, &aw.tcp, 400, "POST /tasks", AS_A "Idempotency-Key: \r\n", TASK);
        /* Two at once are one task. */
        one = client_open(&aw.tcp);
        two = client_open(&aw.tcp);
        for (int i = 0; i < 2; i++)
                client_say(i ? &two : &one, "POST /tasks HTTP/1.1\r\nHost: x\r\n" AS_A "Idempotency-Key: m\r\nContent-Length: 33\r\n\r\n" TASK);
        _cleanup_(answer_deinit) Answer c = client_answer(&aw, &one, false);
        _cleanup_(answer_deinit) Answer d = client_answer(&aw, &two, false);
        assert_status(&c, 201);
        assert_string_equal(c.body, d.body);
        assert_int_equal(sched_stats(aw.w.sched).n_live, 3);
        client_close(&one);
        client_close(&two);
        /* Over a restart, and for a day. */
        api_world_stop(&aw);
        world_start(&aw.w);
        api_world_start(&aw);
        _cleanup_(answer_deinit) Answer e = ask(&aw, &aw.tcp, "POST /tasks", AS_A "Idempotency-Key: k\r\n", TASK);
        assert_string_equal(a.body, e.body);
        world_pass(&aw.w, 25 * 3600 * USEC_PER_SEC);
        _cleanup_(answer_deinit) Answer f = ask(&aw, &aw.tcp, "POST /tasks", AS_A "Idempotency-Key: k\r\n", TASK);
        assert_status(&f, 201);
        assert_string_not_equal(a.body, f.body);
        api_world_deinit(&aw);
}

static void test_list(void **state) {
        char ids[25][ID_TEXT_MAX], request[256];
        _cleanup_free_ char *cursor = NULL;
        ApiWorld aw;
        size_t n = 0;

        api_world_init(&aw, 5);
        aw.w.launcher.down = true;
        fake_hang_up(&aw.w.launcher);
        world_run_until(&aw.w, !launcher_client_is_ready(aw.w.client));
        for (size_t i = 0; i < ELEMENTSOF(ids); i++) {
                Id id = submit(&aw, AS_A, i % 5 ? TASK : "{\"prompt\":\"x\",\"agent\":\"json\",\"labels\":{\"team\":\"r d\"}}");
                id_format(&id, ids[i]);
        }
        submit(&aw, AS_B, TASK);
        /* Newest first, each once, and none of another's. */
        do {
                snprintf(request, sizeof(request), "GET /tasks?limit=7%s%s", cursor ? "&cursor=" : "", cursor ?: "");
                _cleanup_(answer_deinit) Answer a = ask(&aw, &aw.tcp, request, AS_A, NULL);
                assert_status(&a, 200);
                for (const char *p = a.body; (p = strstr(p, "{\"id\":\"")); p += 8, n++) {
                        assert_true(n < ELEMENTSOF(ids));
                        assert_int_equal(strncmp(p + 7, ids[ELEMENTSOF(ids) - 1 - n], ID_TEXT_MAX - 1), 0);
                }
                free(cursor);
                cursor = body_get(&a, "next_cursor");
        } while (!streq(cursor, "null"));
        assert_int_equal(n, ELEMENTSOF(ids));
        static const struct { const char *request; unsigned n; } filters[] = {
                { "GET /tasks?agent=json", 5 }, { "GET /tasks?state=queued", 25 }, { "GET /tasks?state=running", 0 },
                { "GET /tasks?label=team=r%20d", 5 }, { "GET /tasks?label=team=r+d&agent=text", 0 }, { "GET /tasks?label=team=x", 0 },
        };
        for (size_t i = 0; i < ELEMENTSOF(filters); i++) {
                _cleanup_(answer_deinit) Answer a = ask(&aw, &aw.tcp, filters[i].request, AS_A, NULL);
                unsigned found = 0;
                assert_status(&a, 200);
                for (const char *p = a.body; (p = strstr(p, "{\"id\":\"")); p++)
                        found++;
                assert_int_equal(found, filters[i].n);
        }
        /* Others' tasks are as good as none; an administrator sees them. */
        snprintf(request, sizeof(request), "GET /tasks/%s", ids[0]);
        expect(&aw, &aw.tcp, 200, request, AS_A, NULL);
        expect(&aw, &aw.tcp, 404, request, AS_B, NULL);
        expect(&aw, &aw.local, 200, request, NULL, NULL);
        snprintf(request, sizeof(request), "GET /tasks/%s/events", ids[0]);
        expect(&aw, &aw.tcp, 404, request, AS_B, NULL);
        snprintf(request, sizeof(request), "POST /tasks/%s/cancel", ids[0]);
        expect(&aw, &aw.tcp, 404, request, AS_B, NULL);
        expect(&aw, &aw.tcp, 200, request, AS_A, NULL);
        expect(&aw, &aw.tcp, 200, request, AS_A, NULL);
        api_world_deinit(&aw);
}

/* What a task may say about when it runs, and what it shows of it. */
static void test_members(void **state) {
        char body[512], request[128], id_text[ID_TEXT_MAX];
        ApiWorld aw;
        Id first;

        api_world_init(&aw, 11);
        aw.w.launcher.down = true;
        fake_hang_up(&aw.w.launcher);
        world_run_until(&aw.w, !launcher_client_is_ready(aw.w.client));
        _cleanup_(answer_deinit) Answer plain = ask(&aw, &aw.tcp, "POST /tasks", AS_A, TASK);
        assert_status(&plain, 201);
        assert_non_null(strstr(plain.body, "\"waiting\":{\"reason\":\"launcher\",\"detail\":\""));
        assert_non_null(strstr(plain.body, "\"resources\":{\"gpus\":0,\"cpus\":0,\"memory\":null}"));
        assert_non_null(strstr(plain.body, "\"max_tokens\":null,\"max_cost_usd\":null"));
        assert_non_null(strstr(plain.body, "\"candidates\":[\"text\"]"));
        assert_non_null(strstr(plain.body, "\"after\":[]"));
        assert_member(&plain, "deadline", "null");
        assert_member(&plain, "group", "null");
        assert_member(&plain, "batch", "null");

        first = submit(&aw, AS_A, TASK);
        id_format(&first, id_text);
        snprintf(body, sizeof(body), "{\"prompt\":\"x\",\"group\":\"g\",\"deadline\":\"2100-01-01T00:00:00Z\","
                 "\"resources\":{\"cpus\":0.5,\"memory\":\"80M\"},\"max_tokens\":5,\"max_cost_usd\":0.25,"
                 "\"after\":[\"%s\",\"%s\"],\"on\":\"finish\",\"on_unmet\":\"run\"}", id_text, id_text);
        _cleanup_(answer_deinit) Answer full = ask(&aw, &aw.tcp, "POST /tasks", AS_A, body);
        assert_status(&full, 201);
        assert_member(&full, "state", "blocked");
        assert_member(&full, "group", "g");
        assert_member(&full, "on_unmet", "run");
        assert_member(&full, "deadline", "2100-01-01T00:00:00.000Z");
        assert_non_null(strstr(full.body, "\"waiting\":{\"reason\":\"dependency\""));
        assert_non_null(strstr(full.body, "\"resources\":{\"gpus\":0,\"cpus\":0.5,\"memory\":83886080}"));
        assert_non_null(strstr(full.body, "\"max_tokens\":5,\"max_cost_usd\":0.25"));
        snprintf(request, sizeof(request), "\"after\":[{\"id\":\"%s\",\"state\":\"queued\",\"on\":\"finish\"}]", id_text);
        assert_non_null(strstr(full.body, request));
        /* Whose tasks one may not see, one can't wait for. */
        _cleanup_(answer_deinit) Answer other = ask(&aw, &aw.tcp, "POST /tasks", AS_B, body);
        assert_status(&other, 422);
        assert_non_null(strstr(other.body, "\"pointer\":\"/after/0\""));
        expect(&aw, &aw.local, 201, "POST /tasks", NULL, body);
        _cleanup_(answer_deinit) Answer list = ask(&aw, &aw.tcp, "GET /tasks?group=g", AS_A, NULL);
        assert_status(&list, 200);
        assert_non_null(strstr(list.body, "\"group\":\"g\""));
        assert_null(strstr(list.body, id_text));
        expect(&aw, &aw.tcp, 400, "GET /tasks?batch=x", AS_A, NULL);
        /* It goes on when the other has ended. */
        snprintf(request, sizeof(request), "POST /tasks/%s/cancel", id_text);
        expect(&aw, &aw.tcp, 200, request, AS_A, NULL);
        world_pass(&aw.w, USEC_PER_SEC);
        list = (answer_deinit(&list), ask(&aw, &aw.tcp, "GET /tasks?group=g&state=queued", AS_A, NULL));
        assert_non_null(strstr(list.body, "\"waiting\":{\"reason\":\"launcher\""));
        api_world_deinit(&aw);
}

/* A filter that nothing matches: empty pages, with a cursor until all has been looked at. */
static void test_list_in_short_pages(void **state) {
        _cleanup_free_ char *cursor = NULL;
        unsigned n_pages = 0;
        char request[256];
        ApiWorld aw;

        api_world_init(&aw, 10);
        assert_int_equal(store_begin(aw.w.store), 0);
        for (size_t i = 0; i < STORE_EXAMINE_MAX + 5; i++) {
                StoreTask task = { .principal = (char *)"uid:1", .state = TASK_FAILED, .agent = (char *)"text",
                                   .usage = STORE_USAGE_UNKNOWN };
                assert_int_equal(id_new(&task.id), 0);
                assert_int_equal(store_task_insert(aw.w.store, &task), 0);
        }
        assert_int_equal(store_end(aw.w.store, true), 0);
        do {
                snprintf(request, sizeof(request), "GET /tasks?label=team=x%s%s", cursor ? "&cursor=" : "",
                         cursor ?: "");
                _cleanup_(answer_deinit) Answer a = ask(&aw, &aw.local, request, NULL, NULL);
                assert_status(&a, 200);
                assert_non_null(strstr(a.body, "{\"tasks\":[]"));
                free(cursor);
                cursor = body_get(&a, "next_cursor");
                n_pages++;
        } while (!streq(cursor, "null"));
        assert_int_equal(n_pages, 2);
        api_world_deinit(&aw);
}

static void test_keys(void **state) {
        _cleanup_free_ char *key = NULL;
        char as[128];
        ApiWorld aw;

        api_world_init(&aw, 6);
        _cleanup_(answer_deinit) Answer made = ask(&aw, &aw.local, "POST /keys", NULL, "{\"name\":\"ci\",\"role\":\"admin\"}");
        assert_status(&made, 201);
        key = body_get(&made, "key");
        assert_int_equal(strlen(key), 68);
        snprintf(as, sizeof(as), "Authorization: Bearer %s\r\n", key);
        expect(&aw, &aw.tcp, 200, "GET /keys", as, NULL);
        expect(&aw, &aw.local, 409, "POST /keys", NULL, "{\"name\":\"ci\"}");
        expect(&aw, &aw.local, 400, "POST /keys", NULL, "{\"name\":\"c i\"}");
        expect(&aw, &aw.local, 400, "POST /keys", NULL, "{\"name\":\"x\",\"role\":\"king\"}");
        /* Only root, on the local socket, chooses whose user tasks run as. */
        expect(&aw, &aw.tcp, 403, "POST /keys", as, "{\"name\":\"x\",\"run_as\":1000}");
        expect(&aw, &aw.local, geteuid() == 0 ? 201 : 403, "POST /keys", NULL, "{\"name\":\"as\",\"run_as\":1000}");
        if (geteuid() == 0) {
                expect(&aw, &aw.local, 422, "POST /keys", NULL, "{\"name\":\"root\",\"run_as\":\"root\"}");
                expect(&aw, &aw.local, 400, "POST /keys", NULL, "{\"name\":\"root\",\"run_as\":0}");
                expect(&aw, &aw.local, 422, "POST /keys", NULL, "{\"name\":\"root\",\"run_as\":\"no-such-user\"}");
        }
        /* The text is nowhere in the list, nor in the store's files (which are encrypted in any case). */
        _cleanup_(answer_deinit) Answer list = ask(&aw, &aw.tcp, "GET /keys", as, NULL);
        assert_null(strstr(list.body, key));
        assert_null(strstr(list.body, "ark_"));
        /* Revoked: at once, on a connection that is open too. */
        Client c = client_open(&aw.tcp);
        _cleanup_(answer_deinit) Answer before = client_ask(&aw, &c, "GET /keys", as, NULL);
        assert_status(&before, 200);
        expect(&aw, &aw.local, 204, "DELETE /keys/ci", NULL, NULL);
        _cleanup_(answer_deinit) Answer after = client_ask(&aw, &c, "GET /keys", as, NULL);
        assert_status(&after, 401);
        client_close(&c);
        expect(&aw, &aw.local, 404, "DELETE /keys/ci", NULL, NULL);
        /* The name is free again, and its tasks are another principal's. */
        expect(&aw, &aw.local, 201, "POST /keys", NULL, "{\"name\":\"ci\"}");
        api_world_deinit(&aw);
}

static void test_wait(void **state) {
        char request[256], id_text[ID_TEXT_MAX];
        ApiWorld aw;
        Client c;
        Id id;

        api_world_init(&aw, 7);
        c = client_open(&aw.tcp);
        client_say(&c, "POST /tasks HTTP/1.1\r\nHost: x\r\nPrefer: wait=30\r\n" AS_A "Content-Length: 33\r\n\r\n" TASK);
        FakeAttempt *a = world_spawned(&aw.w, 0);
        world_pass(&aw.w, 10 * USEC_PER_SEC);
        client_read(&c, SIZE_MAX);
        assert_int_equal(buf_size(&c.in), 0);
        fake_print(a, 1, "done\n");
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        _cleanup_(answer_deinit) Answer done = client_answer(&aw, &c, false);
        assert_status(&done, 201);
        assert_member(&done, "state", "succeeded");
        assert_non_null(strstr(done.head, "\r\nPreference-Applied: wait\r\n"));
        /* Not long enough. */
        client_say(&c, "POST /tasks HTTP/1.1\r\nHost: x\r\nPrefer: wait=5\r\n" AS_A "Content-Length: 33\r\n\r\n" TASK);
        a = world_spawned(&aw.w, 1);
        _cleanup_(answer_deinit) Answer late = client_answer(&aw, &c, false);
        assert_member(&late, "state", "running");
        id_format(&a->task, id_text);
        id = a->task;
        /* The client hangs up while it waits. */
        snprintf(request, sizeof(request), "GET /tasks/%s HTTP/1.1\r\nHost: x\r\nPrefer: wait=100\r\n" AS_A "\r\n", id_text);
        client_say(&c, request);
        world_pass(&aw.w, USEC_PER_SEC);
        client_close(&c);
        world_pass(&aw.w, USEC_PER_SEC);
        assert_int_equal(aw.api->n_conns, 0);
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        world_finish(&aw.w, &id);
        api_world_deinit(&aw);
}

/* A commit that fails: 503 for what was asked, tasks that were pending are forgotten, and so says /readyz. */
static void test_commit_fails(void **state) {
        const RingSimOptions broken = { .seed = 8, .sync_error_percent = 100 };
        ApiWorld aw;
        Client c[3];

        api_world_init(&aw, 8);
        world_pass(&aw.w, USEC_PER_SEC);
        api_world_stop(&aw);
        ring_sim_configure(&broken);
        world_start(&aw.w);
        api_world_start(&aw);
        for (size_t i = 0; i < ELEMENTSOF(c); i++) {
                c[i] = client_open(&aw.tcp);
                client_say(&c[i], "POST /tasks HTTP/1.1\r\nHost: x\r\n" AS_A "Idempotency-Key: z\r\nContent-Length: 33\r\n\r\n" TASK);
        }
        for (size_t i = 0; i < ELEMENTSOF(c); i++) {
                _cleanup_(answer_deinit) Answer a = client_answer(&aw, &c[i], false);
                assert_status(&a, 503);
                assert_non_null(strstr(a.head, "\r\nRetry-After: "));
                assert_null(strstr(a.head, "\r\nLocation: "));
                client_close(&c[i]);
        }
        assert_int_equal(sched_stats(aw.w.sched).n_live, 0);
        assert_int_equal(sched_stats(aw.w.sched).n_running, 0);
        expect(&aw, &aw.tcp, 503, "POST /tasks", AS_A, TASK);
        expect(&aw, &aw.tcp, 503, "GET /readyz", NULL, NULL);
        expect(&aw, &aw.tcp, 200, "GET /healthz", NULL, NULL);
        expect(&aw, &aw.tcp, 401, "GET /tasks", NULL, NULL);
        api_world_deinit(&aw);
}

/* A transcript is given in bounded pieces that join without a gap. */
static void test_transcript(void **state) {
        static char line[KIB(100)];
        char request[160], id_text[ID_TEXT_MAX];
        uint64_t next = 0, last = 0;
        unsigned n_parts = 0;
        ApiWorld aw;
        Id id;

        api_world_init(&aw, 9);
        aw.w.config.capture_max = MIB(32);
        api_world_stop(&aw);
        world_start(&aw.w);
        api_world_start(&aw);
        id = submit(&aw, AS_A, TASK);
        id_format(&id, id_text);
        FakeAttempt *a = world_spawned(&aw.w, 0);
        memset(line, '"', sizeof(line) - 2);
        line[sizeof(line) - 2] = '\n';
        for (int i = 0; i < 60; i++)
                fake_print(a, 1, line);
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        world_finish(&aw.w, &id);
        do {
                snprintf(request, sizeof(request), "GET /tasks/%s?include=transcript&after=%llu", id_text, (unsigned long long)next);
                _cleanup_(answer_deinit) Answer part = ask(&aw, &aw.tcp, request, AS_A, NULL);
                _cleanup_free_ char *text = NULL;
                assert_status(&part, 200);
                assert_true(part.n_body < MIB(12));
                for (const char *p = part.body; (p = strstr(p, "{\"seq\":")); p++) {
                        unsigned long long seq;
                        assert_int_equal(sscanf(p, "{\"seq\":%llu", &seq), 1);
                        assert_int_equal(seq, ++last);
                }
                text = body_get(&part, "transcript_next");
                next = 0;
                (void)parse_u64(text, &next);
                n_parts++;
        } while (next);
        assert_in_range(n_parts, 3, 10);
        StoreTask *task = world_load(&aw.w, &id);
        assert_int_equal(last, task->last_seq);
        store_task_free(task);
        snprintf(request, sizeof(request), "GET /tasks/%s?include=transcript&after=x", id_text);
        expect(&aw, &aw.tcp, 400, request, AS_A, NULL);
        snprintf(request, sizeof(request), "GET /tasks/%s?include=everything", id_text);
        expect(&aw, &aw.tcp, 400, request, AS_A, NULL);
        api_world_deinit(&aw);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_routes),
                cmocka_unit_test(test_submit_refused),
                cmocka_unit_test(test_full),
                cmocka_unit_test(test_idempotency),
                cmocka_unit_test(test_list),
                cmocka_unit_test(test_members),
                cmocka_unit_test(test_list_in_short_pages),
                cmocka_unit_test(test_keys),
                cmocka_unit_test(test_wait),
                cmocka_unit_test(test_commit_fails),
                cmocka_unit_test(test_transcript),
        };
        return cmocka_run_group_tests_name("api-tasks", tests, NULL, NULL);
}

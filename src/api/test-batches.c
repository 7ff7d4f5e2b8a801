/* Batches as a client sees them: all or nothing, in slices, with dependencies inside; cancelling and retrying many. */

#include "api/test-util.h"
#include "base/parse.h"

#define TASK "{\"prompt\":\"hello\",\"agent\":\"text\"}"

/* The disk is full at this event from now on; 0: not. */
static unsigned full_at;

int __real_store_event_append(Store *store, const Id *task_id, const StoreEvent *event, uint64_t *ret_seq);
int __wrap_store_event_append(Store *store, const Id *task_id, const StoreEvent *event, uint64_t *ret_seq);

int __wrap_store_event_append(Store *store, const Id *task_id, const StoreEvent *event, uint64_t *ret_seq) {
        return full_at && --full_at == 0 ? STORE_E_FULL : __real_store_event_append(store, task_id, event, ret_seq);
}

static void world_without_launcher(ApiWorld *aw, uint64_t seed) {
        api_world_init(aw, seed);
        aw->config.batch_body_max = MIB(4);
        aw->w.config.queued_max = aw->w.config.queued_per_principal_max = 30000;
        api_world_stop(aw);
        aw->w.launcher.down = true;
        world_start(&aw->w);
        api_world_start(aw);
}

/* n times the task, in a batch of its own making. The caller frees. */
static char *batch_of(size_t n, const char *task, const char *rest) {
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        char *text;

        assert_int_equal(buf_append_str(&b, "{\"tasks\":["), 0);
        for (size_t i = 0; i < n; i++)
                assert_int_equal(buf_printf(&b, "%s%s", i ? "," : "", task), 0);
        assert_int_equal(buf_printf(&b, "]%s}", rest), 0);
        assert_int_equal(buf_take_str(&b, &text), 0);
        return text;
}

/* A body that a socket's buffer does not hold. */
static Answer post_large(ApiWorld *aw, const char *headers, const char *body) {
        Client c = client_open(&aw->tcp);
        size_t n = strlen(body), at = 0;
        char head[512];
        Answer a = {};

        snprintf(head, sizeof(head), "POST /batches HTTP/1.1\r\nHost: x\r\n%sContent-Length: %zu\r\n\r\n", headers, n);
        client_say(&c, head);
        world_run_until(&aw->w, ({
                ssize_t k = at < n ? send(c.fd, body + at, n - at, MSG_NOSIGNAL) : 0;
                at += k > 0 ? (size_t)k : 0;
                client_read(&c, SIZE_MAX);
                client_parse(&c, false, &a) || c.eof;
        }));
        client_close(&c);
        return a;
}

static unsigned count_of(const Answer *a, const char *needle) {
        unsigned n = 0;

        for (const char *p = a->body; (p = strstr(p, needle)); p++)
                n++;
        return n;
}

static json_object *member(json_object *o, const char *pointer) {
        json_object *v = json_at(o, pointer);

        if (!v)
                fail_msg("no %s in %s", pointer, json_object_to_json_string(o));
        return v;
}

static uint64_t number(json_object *o, const char *pointer) {
        return json_object_get_uint64(member(o, pointer));
}

static const char *word(json_object *o, const char *pointer) {
        return json_object_get_string(member(o, pointer));
}

/* GET or POST of this path, as JSON. The caller puts it. */
static json_object *call(ApiWorld *aw, const char *method, const char *path, const char *id, const char *end) {
        _cleanup_(answer_deinit) Answer a = {};
        char request[160];
        json_object *o;

        snprintf(request, sizeof(request), "%s %s%s%s", method, path, id, end);
        a = ask(aw, &aw->tcp, request, AS_A, NULL);
        assert_status(&a, 200);
        o = json_tokener_parse(a.body);
        assert_non_null(o);
        return o;
}

static void test_refused(void **state) {
        static const struct { unsigned status; const char *body, *pointer; } table[] = {
                { 400, "", "" },
                { 400, "[]", "" },
                { 400, "{}", "/tasks" },
                { 400, "{\"tasks\":{}}", "/tasks" },
                { 400, "{\"tasks\":[]}", "/tasks" },
                { 400, "{\"tasks\":[" TASK "],\"tasks\":[" TASK "]}", "/tasks" },
                { 400, "{\"tasks\":[" TASK "]", "" },
                { 400, "{\"tasks\":[" TASK ",]}", "" },
                { 400, "{\"tasks\":[" TASK "}}", "" },
                { 400, "{\"tasks\":[" TASK "]} x", "" },
                { 400, "{\"tasks\" [" TASK "]}", "" },
                { 400, "{,\"tasks\":[" TASK "]}", "" },
                { 400, "{\"tasks\":[" TASK "],}", "" },
                { 400, "{\"tasks\":[" TASK ",{\"prompt\":x}]}", "/tasks/1" },
                { 400, "{\"tasks\":[" TASK ",1]}", "/tasks/1" },
                { 400, "{\"tasks\":[" TASK ",{}]}", "/tasks/1/prompt" },
                { 400, "{\"tasks\":[" TASK "," TASK ",{\"prompt\":\"x\",\"retry\":{\"x\":1}}]}", "/tasks/2/retry/x" },
                { 400, "{\"tasks\":[" TASK ",{\"prompt\":\"x\",\"agents\":[\"text\"]}]}", "/tasks/1/agents" },
                { 400, "{\"tasks\":[{\"prompt\":\"x\",\"after\":[\"#1\"]}]}", "/tasks/0/after/0" },
                { 400, "{\"tasks\":[{\"prompt\":\"{{tasks.#1.result}}\"}," TASK "]}", "/tasks/0/prompt" },
                { 400, "{\"tasks\":[" TASK "],\"nonsense\":1}", "/nonsense" },
                { 400, "{\"tasks\":[" TASK "],\"metadata\":[]}", "/metadata" },
                { 400, "{\"tasks\":[" TASK "],\"on_denied\":\"x\"}", "/on_denied" },
                { 400, "{\"tasks\":[" TASK "],\"max_tokens\":0}", "/max_tokens" },
                { 422, "{\"tasks\":[" TASK ",{\"prompt\":\"x\",\"agent\":\"nobody\"}]}", "/tasks/1/agent" },
                { 422, "{\"tasks\":[" TASK ",{\"prompt\":\"x\",\"deadline\":\"2001-01-01T00:00:00Z\"}]}", "/tasks/1" },
                { 422, "{\"tasks\":[{\"prompt\":\"x\",\"after\":[\"00000000-0000-7000-8000-000000000000\"]}]}", "/tasks/0/after/0" },
                { 422, "{\"tasks\":[" TASK ",{\"prompt\":\"x\",\"after\":[\"#1\"]}]}", "/tasks/1/after" },
                { 422, "{\"tasks\":[" TASK ",{\"prompt\":\"x\",\"after\":[\"#0\",\"#3\"]},{\"prompt\":\"x\",\"after\":[\"#1\"]},"
                       "{\"prompt\":\"x\",\"after\":[\"#2\"]},{\"prompt\":\"x\",\"after\":[\"#1\"]}]}", "/tasks/1/after" },
        };
        ApiWorld aw;

        world_without_launcher(&aw, 1);
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                _cleanup_(answer_deinit) Answer a = ask(&aw, &aw.tcp, "POST /batches", AS_A, table[i].body);
                char expected[64];
                snprintf(expected, sizeof(expected), "\"pointer\":\"%s\"", table[i].pointer);
                if (a.status != table[i].status || !strstr(a.body, expected))
                        fail_msg("%s: %u %s", table[i].body, a.status, a.body);
                assert_null(strstr(a.head, "\r\nLocation: "));
        }
        /* The cycle is told. */
        _cleanup_(answer_deinit) Answer cycle = ask(&aw, &aw.tcp, "POST /batches", AS_A, table[ELEMENTSOF(table) - 1].body);
        assert_non_null(strstr(cycle.body, "#1 after #3 after #2 after #1"));
        expect(&aw, &aw.tcp, 415, "POST /batches", AS_A "Content-Type: text/plain\r\n", "x");
        expect(&aw, &aw.tcp, 401, "POST /batches", NULL, "{}");
        expect(&aw, &aw.tcp, 404, "GET /batches/00000000-0000-7000-8000-000000000000", AS_A, NULL);
        expect(&aw, &aw.tcp, 404, "GET /batches/x/tasks", AS_A, NULL);
        expect(&aw, &aw.tcp, 400, "GET /batches?limit=0", AS_A, NULL);
        /* None was made. */
        _cleanup_(answer_deinit) Answer tasks = ask(&aw, &aw.tcp, "GET /tasks", AS_A, NULL);
        _cleanup_(answer_deinit) Answer batches = ask(&aw, &aw.tcp, "GET /batches", AS_A, NULL);
        assert_string_equal(tasks.body, "{\"tasks\":[],\"next_cursor\":null}\n");
        assert_string_equal(batches.body, "{\"batches\":[],\"next_cursor\":null}\n");
        assert_int_equal(sched_stats(aw.w.sched).n_live, 0);
        api_world_deinit(&aw);
}

/* In the order given, seen by its owner, in pages. */
static void test_a_batch(void **state) {
        _cleanup_(json_putp) json_object *made = NULL, *batch = NULL, *page = NULL, *next = NULL, *first = NULL;
        char request[128];
        ApiWorld aw;

        world_without_launcher(&aw, 2);
        _cleanup_(answer_deinit) Answer a = ask(&aw, &aw.tcp, "POST /batches", AS_A,
                "{\"metadata\":{\"k\":1},\"on_denied\":\"refuse_all\",\"max_tokens\":9,\"tasks\":["
                "{\"prompt\":\"{{tasks.#2.result}} {{after.1.result}}\",\"agent\":\"text\",\"after\":[\"#2\",\"#1\"]},"
                "{\"prompt\":\"b\",\"agent\":\"text\",\"after\":[\"#2\"],\"on\":\"finish\"}, {\"prompt\":\"c\",\"agent\":\"json\"} ] }");
        assert_status(&a, 201);
        made = json_tokener_parse(a.body);
        const char *id = word(made, "/id"), *ids[3];
        for (size_t i = 0; i < 3; i++)
                ids[i] = json_object_get_string(json_object_array_get_idx(member(made, "/task_ids"), i));
        snprintf(request, sizeof(request), "\r\nLocation: /batches/%s\r\n", id);
        assert_non_null(strstr(a.head, request));

        batch = call(&aw, "GET", "/batches/", id, "");
        assert_string_equal(word(batch, "/state"), "running");
        assert_int_equal(number(batch, "/n_tasks"), 3);
        assert_int_equal(number(batch, "/counts/blocked"), 2);
        assert_int_equal(number(batch, "/counts/queued"), 1);
        assert_int_equal(number(batch, "/metadata/k"), 1);
        assert_int_equal(number(batch, "/max_tokens"), 9);
        assert_int_equal(number(batch, "/done"), 0);
        assert_string_equal(word(batch, "/on_denied"), "refuse_all");
        assert_null(json_at(batch, "/select"));

        snprintf(request, sizeof(request), "/tasks?limit=2");
        page = call(&aw, "GET", "/batches/", id, request);
        assert_string_equal(word(page, "/tasks/0/id"), ids[0]);
        assert_string_equal(word(page, "/tasks/1/id"), ids[1]);
        snprintf(request, sizeof(request), "/tasks?limit=2&cursor=%s", word(page, "/next_cursor"));
        next = call(&aw, "GET", "/batches/", id, request);
        assert_string_equal(word(next, "/tasks/0/id"), ids[2]);
        assert_null(json_at(next, "/next_cursor"));

        first = call(&aw, "GET", "/tasks/", ids[0], "?include=prompt");
        assert_string_equal(word(first, "/state"), "blocked");
        assert_string_equal(word(first, "/batch"), id);
        snprintf(request, sizeof(request), "{{tasks.%s.result}} {{tasks.%s.result}}", ids[2], ids[1]);
        assert_string_equal(word(first, "/prompt"), request);

        /* Others' batches are as good as none. */
        snprintf(request, sizeof(request), "GET /batches/%s", id);
        expect(&aw, &aw.tcp, 404, request, AS_B, NULL);
        expect(&aw, &aw.local, 200, request, NULL, NULL);
        snprintf(request, sizeof(request), "POST /batches/%s/cancel", id);
        expect(&aw, &aw.tcp, 404, request, AS_B, NULL);
        snprintf(request, sizeof(request), "GET /tasks/%s", id);
        expect(&aw, &aw.tcp, 404, request, AS_A, NULL);
        _cleanup_(answer_deinit) Answer other = ask(&aw, &aw.tcp, "GET /batches", AS_B, NULL);
        assert_string_equal(other.body, "{\"batches\":[],\"next_cursor\":null}\n");
        _cleanup_(answer_deinit) Answer mine = ask(&aw, &aw.tcp, "GET /batches", AS_A, NULL);
        assert_int_equal(count_of(&mine, "\"n_tasks\":3"), 1);
        api_world_deinit(&aw);
}

/* Ten thousand, in slices: whole after a restart, replayed, cancelled and retried in slices. */
static void test_ten_thousand(void **state) {
        _cleanup_free_ char *body = batch_of(10000, TASK, ""), *id = NULL;
        _cleanup_(json_putp) json_object *batch = NULL, *cancelled = NULL, *retried = NULL, *late = NULL;
        uint64_t n_ticks;
        ApiWorld aw;

        world_without_launcher(&aw, 3);
        n_ticks = reactor_stats(aw.w.reactor)->n_ticks;
        _cleanup_(answer_deinit) Answer a = post_large(&aw, AS_A "Idempotency-Key: many\r\n", body);
        assert_status(&a, 201);
        assert_true(reactor_stats(aw.w.reactor)->n_ticks - n_ticks > 20);
        assert_int_equal(count_of(&a, "\",\""), 10000);
        id = body_get(&a, "id");
        batch = call(&aw, "GET", "/batches/", id, "");
        assert_int_equal(number(batch, "/counts/queued"), 10000);
        assert_int_equal(sched_stats(aw.w.sched).n_waiting, 10000);

        api_world_stop(&aw);
        world_start(&aw.w);
        api_world_start(&aw);
        assert_int_equal(sched_stats(aw.w.sched).n_waiting, 10000);
        _cleanup_(answer_deinit) Answer replay = post_large(&aw, AS_A "Idempotency-Key: many\r\n", body);
        assert_string_equal(replay.body, a.body);
        assert_int_equal(sched_stats(aw.w.sched).n_waiting, 10000);

        cancelled = call(&aw, "POST", "/batches/", id, "/cancel");
        assert_int_equal(number(cancelled, "/counts/cancelled"), 10000);
        assert_string_equal(word(cancelled, "/state"), "finished");
        assert_true(json_object_get_boolean(member(cancelled, "/cancel_requested")));
        assert_int_equal(sched_stats(aw.w.sched).n_live, 0);
        retried = call(&aw, "POST", "/batches/", id, "/retry");
        assert_int_equal(number(retried, "/retried"), 10000);
        assert_int_equal(sched_stats(aw.w.sched).n_waiting, 10000);
        late = call(&aw, "GET", "/batches/", id, "");
        assert_int_equal(number(late, "/counts/queued"), 10000);
        assert_false(json_object_get_boolean(member(late, "/cancel_requested")));

        _cleanup_free_ char *more = batch_of(10001, TASK, "");
        _cleanup_(answer_deinit) Answer b = post_large(&aw, AS_A, more);
        assert_status(&b, 400);
        assert_non_null(strstr(b.body, "\"pointer\":\"/tasks\""));
        api_world_deinit(&aw);
}

/* While it is made nobody sees it, the same key waits, and who leaves does not stop it. */
static void test_while_it_is_made(void **state) {
        _cleanup_free_ char *body = batch_of(3000, TASK, ""), *request = NULL;
        size_t n, at = 0;
        bool seen = false;
        ApiWorld aw;
        Client c;

        world_without_launcher(&aw, 4);
        assert_true(asprintf(&request, "POST /batches HTTP/1.1\r\nHost: x\r\n" AS_A "Idempotency-Key: k\r\nContent-Length: %zu\r\n\r\n%s",
                             strlen(body), body) > 0);
        n = strlen(request);
        c = client_open(&aw.tcp);
        world_run_until(&aw.w, ({
                ssize_t k = at < n ? send(c.fd, request + at, n - at, MSG_NOSIGNAL) : 0;
                at += k > 0 ? (size_t)k : 0;
                sched_stats(aw.w.sched).n_live > 500;
        }));
        client_close(&c);
        for (int i = 0; sched_stats(aw.w.sched).n_live < 3000; i++) {
                _cleanup_(answer_deinit) Answer tasks = ask(&aw, &aw.tcp, "GET /tasks", AS_A, NULL);
                if (sched_stats(aw.w.sched).n_live >= 3000)
                        break;
                assert_true(str_starts(tasks.body, "{\"tasks\":[],"));
                _cleanup_(answer_deinit) Answer same = ask(&aw, &aw.tcp, "POST /batches", AS_A "Idempotency-Key: k\r\n", "{}");
                if (sched_stats(aw.w.sched).n_live < 3000) {
                        assert_status(&same, 409);
                        assert_non_null(strstr(same.head, "\r\nRetry-After: 1\r\n"));
                        seen = true;
                }
        }
        assert_true(seen);
        world_pass(&aw.w, USEC_PER_SEC);
        _cleanup_(answer_deinit) Answer batches = ask(&aw, &aw.tcp, "GET /batches", AS_A, NULL);
        assert_int_equal(count_of(&batches, "\"counts\":{\"queued\":3000}"), 1);
        _cleanup_(answer_deinit) Answer replay = post_large(&aw, AS_A "Idempotency-Key: k\r\n", body);
        assert_status(&replay, 201);
        api_world_deinit(&aw);
}

/* Sends a batch but for its last byte. The caller closes. */
static Client begin_batch(ApiWorld *aw, const char *headers, const char *body) {
        size_t n = strlen(body) - 1, at = 0;
        Client c = client_open(&aw->tcp);
        char head[512];

        snprintf(head, sizeof(head), "POST /batches HTTP/1.1\r\nHost: x\r\n%sContent-Length: %zu\r\n\r\n", headers, n + 1);
        client_say(&c, head);
        world_run_until(&aw->w, ({
                ssize_t k = send(c.fd, body + at, n - at, MSG_NOSIGNAL);
                at += k > 0 ? (size_t)k : 0;
                at == n;
        }));
        return c;
}

/* Large ones of one caller share a tick's budget; one more is refused, and another's small one does not wait. */
static void test_side_by_side(void **state) {
        _cleanup_free_ char *body = batch_of(3000, TASK, ""), *small = batch_of(3, TASK, "");
        uint64_t n_live = 0;
        ApiWorld aw;
        Client c[4];

        world_without_launcher(&aw, 11);
        for (size_t i = 0; i < ELEMENTSOF(c); i++)
                c[i] = begin_batch(&aw, AS_A, body);
        for (size_t i = 0; i < ELEMENTSOF(c); i++)
                client_say(&c[i], "}");
        world_run_until(&aw.w, sched_stats(aw.w.sched).n_live > 0);
        _cleanup_(answer_deinit) Answer more = ask(&aw, &aw.tcp, "POST /batches", AS_A, small);
        assert_status(&more, 429);
        assert_non_null(strstr(more.head, "\r\nRetry-After: 1\r\n"));
        _cleanup_(answer_deinit) Answer all = ask(&aw, &aw.tcp, "POST /tasks/cancel", AS_A, "{\"all\":true}");
        assert_status(&all, 429);
        assert_true(sched_stats(aw.w.sched).n_live < 12000);
        _cleanup_(answer_deinit) Answer other = ask(&aw, &aw.tcp, "POST /batches", AS_B, small);
        assert_status(&other, 201);
        assert_true(sched_stats(aw.w.sched).n_live < 12000);
        while ((n_live = sched_stats(aw.w.sched).n_live) < 12003) {
                world_step(&aw.w);
                assert_true(sched_stats(aw.w.sched).n_live - n_live <= 500);
        }
        for (size_t i = 0; i < ELEMENTSOF(c); i++) {
                Answer a = client_answer(&aw, &c[i], false);
                assert_status(&a, 201);
                answer_deinit(&a);
                client_close(&c[i]);
        }
        expect(&aw, &aw.tcp, 201, "POST /batches", AS_A, small);
        api_world_deinit(&aw);
}

/* Who leaves stops what may be asked again; what is written anew by then is queued. */
static void test_leaves(void **state) {
        _cleanup_free_ char *body = batch_of(3000, TASK, ""), *id = NULL;
        _cleanup_(json_putp) json_object *batch = NULL;
        char request[256];
        uint64_t n;
        ApiWorld aw;
        Client c;

        world_without_launcher(&aw, 12);
        _cleanup_(answer_deinit) Answer made = post_large(&aw, AS_A, body);
        id = body_get(&made, "id");
        c = client_open(&aw.tcp);
        snprintf(request, sizeof(request), "POST /batches/%s/cancel HTTP/1.1\r\nHost: x\r\n" AS_A "\r\n", id);
        client_say(&c, request);
        world_run_until(&aw.w, sched_stats(aw.w.sched).n_live < 3000);
        client_close(&c);
        world_pass(&aw.w, USEC_PER_SEC);
        n = sched_stats(aw.w.sched).n_live;
        assert_true(n > 0);
        assert_int_equal(aw.api->n_conns, 0);
        assert_true(list_is_empty(&aw.api->sliced));
        expect(&aw, &aw.tcp, 200, "POST /tasks/cancel", AS_A, "{\"all\":true}");
        assert_int_equal(sched_stats(aw.w.sched).n_live, 0);

        c = client_open(&aw.tcp);
        snprintf(request, sizeof(request), "POST /batches/%s/retry HTTP/1.1\r\nHost: x\r\n" AS_A "\r\n", id);
        client_say(&c, request);
        world_run_until(&aw.w, sched_stats(aw.w.sched).n_live > 0);
        client_close(&c);
        world_pass(&aw.w, USEC_PER_SEC);
        n = sched_stats(aw.w.sched).n_waiting;
        assert_true(n > 0 && n < 3000);
        assert_true(list_is_empty(&aw.api->sliced));
        batch = call(&aw, "GET", "/batches/", id, "");
        assert_int_equal(number(batch, "/counts/queued"), n);
        assert_int_equal(number(batch, "/counts/cancelled"), 3000 - n);
        api_world_deinit(&aw);
}

/* A router that ends in the middle leaves nothing of it. */
static void test_ends_in_the_middle(void **state) {
        _cleanup_free_ char *body = batch_of(3000, TASK, ""), *request = NULL;
        uint64_t counts[_TASK_STATE_N];
        size_t n, at = 0;
        ApiWorld aw;
        Client c;

        world_without_launcher(&aw, 5);
        submit(&aw, AS_A, TASK);
        assert_true(asprintf(&request, "POST /batches HTTP/1.1\r\nHost: x\r\n" AS_A "Content-Length: %zu\r\n\r\n%s", strlen(body),
                             body) > 0);
        n = strlen(request);
        c = client_open(&aw.tcp);
        world_run_until(&aw.w, ({
                ssize_t k = at < n ? send(c.fd, request + at, n - at, MSG_NOSIGNAL) : 0;
                at += k > 0 ? (size_t)k : 0;
                sched_stats(aw.w.sched).n_live > 1000;
        }));
        assert_true(sched_stats(aw.w.sched).n_live < 3000);
        api_world_stop(&aw);
        client_close(&c);
        world_start(&aw.w);
        api_world_start(&aw);
        assert_int_equal(sched_stats(aw.w.sched).n_live, 1);
        assert_int_equal(store_task_count(aw.w.store, counts), 0);
        assert_int_equal(counts[TASK_QUEUED], 1);
        _cleanup_(answer_deinit) Answer batches = ask(&aw, &aw.tcp, "GET /batches", AS_A, NULL);
        assert_string_equal(batches.body, "{\"batches\":[],\"next_cursor\":null}\n");
        api_world_deinit(&aw);
}

/* The queue fills up while it is written: what was written of it is taken back. */
static void test_undone(void **state) {
        _cleanup_free_ char *body = batch_of(2000, "{\"prompt\":\"x\",\"agent\":\"text\",\"group\":\"g\"}", "");
        const StoreLimit limit = { .kind = (char *)"group", .name = (char *)"g", .running = -1, .queued = 1500,
                                   .max_tokens_day = -1, .max_cost_microusd_day = -1, .updated_us = 1,
                                   .updated_by = (char *)"uid:0" };
        uint64_t counts[_TASK_STATE_N];
        ApiWorld aw;

        world_without_launcher(&aw, 6);
        assert_int_equal(store_begin(aw.w.store), 0);
        assert_int_equal(sched_limit_set(aw.w.sched, &limit), 0);
        assert_int_equal(store_end(aw.w.store, true), 0);
        _cleanup_(answer_deinit) Answer a = post_large(&aw, AS_A "Idempotency-Key: k\r\n", body);
        assert_status(&a, 429);
        assert_non_null(strstr(a.head, "\r\nRetry-After: "));
        assert_int_equal(sched_stats(aw.w.sched).n_live, 0);
        assert_int_equal(store_task_count(aw.w.store, counts), 0);
        for (TaskState s = 1; s < _TASK_STATE_N; s++)
                assert_int_equal(counts[s], 0);
        _cleanup_(answer_deinit) Answer batches = ask(&aw, &aw.tcp, "GET /batches", AS_A, NULL);
        assert_string_equal(batches.body, "{\"batches\":[],\"next_cursor\":null}\n");
        /* More than the caller may have is refused before anything is written. */
        aw.w.config.queued_per_principal_max = 1999;
        api_world_stop(&aw);
        world_start(&aw.w);
        api_world_start(&aw);
        _cleanup_free_ char *plain = batch_of(2000, TASK, "");
        _cleanup_(answer_deinit) Answer b = post_large(&aw, AS_A, plain);
        assert_status(&b, 429);
        api_world_deinit(&aw);
}

/* A commit that fails while it is made: 503, and nothing is left of it in memory. */
static void test_commit_fails(void **state) {
        static const size_t sizes[] = { 3, 3000 };
        const RingSimOptions broken = { .seed = 8, .sync_error_percent = 100 };

        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                _cleanup_free_ char *body = batch_of(sizes[i], TASK, "");
                _cleanup_(answer_deinit) Answer a = {};
                ApiWorld aw;

                world_without_launcher(&aw, 12);
                world_pass(&aw.w, USEC_PER_SEC);
                api_world_stop(&aw);
                ring_sim_configure(&broken);
                world_start(&aw.w);
                api_world_start(&aw);
                a = post_large(&aw, AS_A "Idempotency-Key: k\r\n", body);
                assert_status(&a, 503);
                assert_non_null(strstr(a.head, "\r\nRetry-After: "));
                assert_null(strstr(a.head, "\r\nLocation: "));
                assert_int_equal(sched_stats(aw.w.sched).n_live, 0);
                api_world_deinit(&aw);
        }
}

/* Dependencies inside: they run in their order; after a failure those that were cancelled for it wait for its retry. */
static void test_chain(void **state) {
        _cleanup_(json_putp) json_object *made = NULL, *failed = NULL, *retried = NULL, *waiting = NULL, *done = NULL;
        FakeAttempt *a;
        ApiWorld aw;
        Id ids[2];

        api_world_init(&aw, 7);
        aw.config.batch_body_max = MIB(1);
        api_world_stop(&aw);
        world_start(&aw.w);
        api_world_start(&aw);
        _cleanup_(answer_deinit) Answer answer = ask(&aw, &aw.tcp, "POST /batches", AS_A,
                "{\"tasks\":[{\"prompt\":\"second\",\"agent\":\"text\",\"after\":[\"#1\"]},{\"prompt\":\"first\",\"agent\":\"text\"}]}");
        assert_status(&answer, 201);
        made = json_tokener_parse(answer.body);
        for (size_t i = 0; i < 2; i++)
                assert_true(id_parse(json_object_get_string(json_object_array_get_idx(member(made, "/task_ids"), i)), &ids[i]));
        a = world_spawned(&aw.w, 0);
        assert_memory_equal(&a->task, &ids[1], sizeof(Id));
        fake_exit(a, LAUNCH_HOW_EXITED, 3);
        world_finish(&aw.w, &ids[0]);
        failed = call(&aw, "GET", "/batches/", word(made, "/id"), "");
        assert_int_equal(number(failed, "/counts/cancelled"), 1);
        assert_int_equal(number(failed, "/done"), 2);
        assert_string_equal(word(failed, "/state"), "finished");

        /* The one that waits comes first in the batch, and is queued anew before the other. */
        retried = call(&aw, "POST", "/batches/", word(made, "/id"), "/retry");
        assert_int_equal(number(retried, "/retried"), 2);
        a = world_spawned(&aw.w, 1);
        assert_memory_equal(&a->task, &ids[1], sizeof(Id));
        waiting = call(&aw, "GET", "/batches/", word(made, "/id"), "");
        assert_int_equal(number(waiting, "/counts/blocked"), 1);
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        a = world_spawned(&aw.w, 2);
        assert_memory_equal(&a->task, &ids[0], sizeof(Id));
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        world_finish(&aw.w, &ids[0]);
        done = call(&aw, "GET", "/batches/", word(made, "/id"), "");
        assert_int_equal(number(done, "/counts/succeeded"), 2);
        api_world_deinit(&aw);
}

static void test_retry(void **state) {
        char request[128], id_text[ID_TEXT_MAX];
        FakeAttempt *a;
        ApiWorld aw;
        Id id;

        api_world_init(&aw, 8);
        id = submit(&aw, AS_A, TASK);
        id_format(&id, id_text);
        snprintf(request, sizeof(request), "POST /tasks/%s/retry", id_text);
        a = world_spawned(&aw.w, 0);
        expect(&aw, &aw.tcp, 409, request, AS_A, NULL);
        expect(&aw, &aw.tcp, 404, request, AS_B, NULL);
        expect(&aw, &aw.tcp, 400, request, AS_A, "{}");
        fake_exit(a, LAUNCH_HOW_EXITED, 3);
        world_finish(&aw.w, &id);
        _cleanup_(answer_deinit) Answer again = ask(&aw, &aw.tcp, request, AS_A, NULL);
        assert_status(&again, 200);
        assert_null(strstr(again.body, "\"state\":\"failed\""));
        a = world_spawned(&aw.w, 1);
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        world_finish(&aw.w, &id);
        expect(&aw, &aw.tcp, 409, request, AS_A, NULL);
        snprintf(request, sizeof(request), "GET /tasks/%s", id_text);
        _cleanup_(answer_deinit) Answer done = ask(&aw, &aw.tcp, request, AS_A, NULL);
        assert_member(&done, "state", "succeeded");
        assert_int_equal(count_of(&done, "\"agent\":\"text\",\"started_at\""), 2);
        api_world_deinit(&aw);
}

static void test_cancel_many(void **state) {
        static const struct { unsigned status; const char *body, *pointer; } refused[] = {
                { 400, "{}", "" },
                { 400, "{\"all\":false}", "" },
                { 400, "{\"all\":true,\"group\":\"g\"}", "/all" },
                { 400, "{\"state\":\"failed\"}", "/state" },
                { 400, "{\"label\":\"x\"}", "/label" },
                { 400, "{\"x\":1}", "/x" },
        };
        static const struct { const char *body, *n; } table[] = {
                { "{\"group\":\"none\"}", "0" },
                { "{\"label\":\"k=v\"}", "2" },
                { "{\"group\":\"g\",\"state\":\"delayed\"}", "1" },
                { "{\"group\":\"g\"}", "600" },
                { "{\"all\":true}", "3" },
                { "{\"all\":true}", "0" },
        };
        _cleanup_free_ char *body = batch_of(600, "{\"prompt\":\"x\",\"agent\":\"text\",\"group\":\"g\"}", "");
        ApiWorld aw;

        world_without_launcher(&aw, 9);
        for (size_t i = 0; i < 3; i++)
                submit(&aw, AS_A, TASK);
        submit(&aw, AS_B, TASK);
        for (size_t i = 0; i < 2; i++)
                submit(&aw, AS_A, "{\"prompt\":\"x\",\"agent\":\"text\",\"labels\":{\"k\":\"v\"}}");
        submit(&aw, AS_A, "{\"prompt\":\"x\",\"agent\":\"text\",\"group\":\"g\",\"not_before\":\"2100-01-01T00:00:00Z\"}");
        _cleanup_(answer_deinit) Answer made = post_large(&aw, AS_A, body);
        assert_status(&made, 201);
        for (size_t i = 0; i < ELEMENTSOF(refused); i++) {
                _cleanup_(answer_deinit) Answer a = ask(&aw, &aw.tcp, "POST /tasks/cancel", AS_A, refused[i].body);
                char expected[64];
                assert_status(&a, refused[i].status);
                snprintf(expected, sizeof(expected), "\"pointer\":\"%s\"", refused[i].pointer);
                assert_non_null(strstr(a.body, expected));
        }
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                _cleanup_(answer_deinit) Answer a = ask(&aw, &aw.tcp, "POST /tasks/cancel", AS_A, table[i].body);
                assert_status(&a, 200);
                assert_member(&a, "cancelled", table[i].n);
        }
        assert_int_equal(sched_stats(aw.w.sched).n_live, 1);
        _cleanup_(answer_deinit) Answer rest = ask(&aw, &aw.local, "POST /tasks/cancel", NULL, "{\"all\":true}");
        assert_member(&rest, "cancelled", "1");
        api_world_deinit(&aw);
}

/* One submission to several agents: one id, tasks side by side, and the first that succeeds ends the others. */
static void test_agents(void **state) {
        static const struct { unsigned status; const char *body, *pointer; } table[] = {
                { 400, "{\"prompt\":\"x\",\"agents\":[]}", "/agents" },
                { 400, "{\"prompt\":\"x\",\"agents\":[\"text\",\"text\"]}", "/agents/1" },
                { 400, "{\"prompt\":\"x\",\"agents\":[\"text\"],\"agent\":\"text\"}", "/agents" },
                { 400, "{\"prompt\":\"x\",\"agents\":[\"text\"],\"select\":\"last\"}", "/select" },
                { 400, "{\"prompt\":\"x\",\"select\":\"all\"}", "/select" },
                { 422, "{\"prompt\":\"x\",\"agents\":[\"text\",\"nobody\"]}", "/agents/1" },
        };
        _cleanup_(json_putp) json_object *set = NULL, *end = NULL, *cancelled = NULL;
        char request[128];
        FakeAttempt *a, *b;
        ApiWorld aw;
        Id ids[2];

        api_world_init(&aw, 10);
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                _cleanup_(answer_deinit) Answer r = ask(&aw, &aw.tcp, "POST /tasks", AS_A, table[i].body);
                char expected[64];
                assert_status(&r, table[i].status);
                snprintf(expected, sizeof(expected), "\"pointer\":\"%s\"", table[i].pointer);
                assert_non_null(strstr(r.body, expected));
        }
        _cleanup_(answer_deinit) Answer made = ask(&aw, &aw.tcp, "POST /tasks", AS_A "Idempotency-Key: k\r\n",
                                                   "{\"prompt\":\"x\",\"agents\":[\"text\",\"json\"],\"select\":\"first\"}");
        assert_status(&made, 201);
        set = json_tokener_parse(made.body);
        snprintf(request, sizeof(request), "\r\nLocation: /tasks/%s\r\n", word(set, "/id"));
        assert_non_null(strstr(made.head, request));
        assert_string_equal(word(set, "/select"), "first");
        assert_string_equal(word(set, "/tasks/0/agent"), "text");
        assert_string_equal(word(set, "/tasks/1/agent"), "json");
        assert_string_equal(word(set, "/tasks/1/batch"), word(set, "/id"));
        assert_true(id_parse(word(set, "/tasks/0/id"), &ids[0]) && id_parse(word(set, "/tasks/1/id"), &ids[1]));
        _cleanup_(answer_deinit) Answer replay = ask(&aw, &aw.tcp, "POST /tasks", AS_A "Idempotency-Key: k\r\n",
                                                     "{\"prompt\":\"x\",\"agents\":[\"text\",\"json\"],\"select\":\"first\"}");
        assert_string_equal(replay.body, made.body);
        aw.w.launcher.obey_kill = true;
        a = world_spawned(&aw.w, 0);
        b = world_spawned(&aw.w, 1);
        if (!id_equal(&a->task, &ids[0])) {
                FakeAttempt *other = a;
                a = b;
                b = other;
        }
        fake_print(a, 1, "won\n");
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        world_finish(&aw.w, &ids[0]);
        world_run_until(&aw.w, b->killed);
        world_finish(&aw.w, &ids[1]);
        end = call(&aw, "GET", "/tasks/", word(set, "/id"), "");
        assert_string_equal(word(end, "/state"), "finished");
        assert_string_equal(word(end, "/tasks/0/result/text"), "won");
        assert_string_equal(word(end, "/tasks/1/state"), "cancelled");
        snprintf(request, sizeof(request), "GET /tasks/%s", word(set, "/id"));
        expect(&aw, &aw.tcp, 404, request, AS_B, NULL);
        cancelled = call(&aw, "POST", "/tasks/", word(set, "/id"), "/cancel");
        assert_int_equal(number(cancelled, "/counts/succeeded"), 1);
        api_world_deinit(&aw);
}

/* The disk is full after some were cancelled: those are, the others wait on, and asking again does the rest. */
static void test_cancel_with_a_full_disk(void **state) {
        for (unsigned i = 0; i < 2; i++) {
                _cleanup_(json_putp) json_object *batch = NULL, *before = NULL, *cancelled = NULL, *rest = NULL;
                _cleanup_free_ char *body = batch_of(5, TASK, "");
                char request[96];
                const char *id;
                ApiWorld aw;

                world_without_launcher(&aw, 90 + i);
                _cleanup_(answer_deinit) Answer made = ask(&aw, &aw.tcp, "POST /batches", AS_A, body);
                assert_status(&made, 201);
                batch = json_tokener_parse(made.body);
                id = word(batch, "/id");
                full_at = 3;
                snprintf(request, sizeof(request), "POST /batches/%s/cancel", id);
                _cleanup_(answer_deinit) Answer refused = i ? ask(&aw, &aw.tcp, "POST /tasks/cancel", AS_A, "{\"all\":true}")
                                                            : ask(&aw, &aw.tcp, request, AS_A, NULL);
                assert_in_range(refused.status, 503, 507);
                world_pass(&aw.w, USEC_PER_SEC);
                before = call(&aw, "GET", "/batches/", id, "");
                assert_int_equal(number(before, "/counts/cancelled"), 2);
                assert_int_equal(sched_stats(aw.w.sched).n_live, 3);
                cancelled = call(&aw, "POST", "/batches/", id, "/cancel");
                world_pass(&aw.w, USEC_PER_SEC);
                rest = call(&aw, "GET", "/batches/", id, "");
                assert_int_equal(number(rest, "/counts/cancelled"), 5);
                assert_int_equal(sched_stats(aw.w.sched).n_live, 0);
                api_world_deinit(&aw);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_refused),
                cmocka_unit_test(test_a_batch),
                cmocka_unit_test(test_ten_thousand),
                cmocka_unit_test(test_while_it_is_made),
                cmocka_unit_test(test_side_by_side),
                cmocka_unit_test(test_leaves),
                cmocka_unit_test(test_ends_in_the_middle),
                cmocka_unit_test(test_undone),
                cmocka_unit_test(test_commit_fails),
                cmocka_unit_test(test_chain),
                cmocka_unit_test(test_retry),
                cmocka_unit_test(test_cancel_many),
                cmocka_unit_test(test_cancel_with_a_full_disk),
                cmocka_unit_test(test_agents),
        };
        return cmocka_run_group_tests_name("api-batches", tests, NULL, NULL);
}

/* Limits, draining and usage as a client sees them. */

#include "api/test-util.h"
#include "base/parse.h"

#define AS_ADMIN "Authorization: Bearer " KEY_ADMIN "\r\n"
#define KEY_ADMIN "ark_cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"

static void init(ApiWorld *aw, uint64_t seed) {
        api_world_init(aw, seed);
        add_key(aw, KEY_ADMIN, "root", "admin");
}

static void restart(ApiWorld *aw) {
        api_world_stop(aw);
        world_start(&aw->w);
        api_world_start(aw);
}

/* An answer's row {"kind":KIND,"name":NAME,…}; NULL: it is not there. The caller frees. */
static char *limit_row(ApiWorld *aw, const char *headers, const char *kind, const char *name) {
        _cleanup_(answer_deinit) Answer a = ask(aw, &aw->tcp, "GET /limits", headers, NULL);
        char start[128], *p, *end;

        assert_status(&a, 200);
        snprintf(start, sizeof(start), "{\"kind\":\"%s\",\"name\":\"%s\",", kind, name);
        p = strstr(a.body, start);
        if (!p)
                return NULL;
        end = strchr(p, '}');
        assert_non_null(end);
        return strndup(p + strlen(start), (size_t)(end - p) - strlen(start));
}

static void assert_limit(ApiWorld *aw, const char *kind, const char *name, const char *expected) {
        _cleanup_free_ char *row = limit_row(aw, AS_ADMIN, kind, name);

        if (!row || !streq(row, expected))
                fail_msg("%s %s: %s instead of %s", kind, name, row ?: "nothing", expected);
}

static void put(ApiWorld *aw, const char *path, const char *body) {
        char request[256];

        snprintf(request, sizeof(request), "PUT /limits/%s", path);
        expect(aw, &aw->tcp, 200, request, AS_ADMIN, body);
}

/* A task of a group, made as a submit would: its request is the API's own business. */
static Id submit_in(ApiWorld *aw, const char *group, const char *agent) {
        StoreTask task = test_task("uid:7", TASK_QUEUED);
        SchedTask *t = NULL;
        Id id = task.id;

        task.agent = strdup(agent);
        task.group = (char *)group;
        assert_int_equal(store_begin(aw->w.store), 0);
        assert_int_equal(sched_submit(aw->w.sched, &task, NULL, &t, aw->w.detail), 0);
        assert_int_equal(store_end(aw->w.store, true), 0);
        sched_submitted(t, true);
        free(task.agent);
        free(task.candidates);
        return id;
}

static void finish_all(ApiWorld *aw) {
        for (size_t i = 0; i < aw->w.launcher.n; i++)
                if (!aw->w.launcher.attempts[i]->exited)
                        fake_exit(aw->w.launcher.attempts[i], LAUNCH_HOW_EXITED, 0);
}

static size_t n_running(const ApiWorld *aw) {
        size_t n = 0;

        for (size_t i = 0; i < aw->w.launcher.n; i++)
                n += aw->w.launcher.attempts[i]->spawned && !aw->w.launcher.attempts[i]->exited;
        return n;
}

/* ---- limits ---- */

static void test_refused(void **state) {
        static const struct { unsigned status; const char *request, *body, *pointer; } table[] = {
                { 404, "PUT /limits/nonsense/x", "{}", NULL },
                { 404, "PUT /limits/global/x", "{}", NULL },
                { 404, "PUT /limits/agent/nobody", "{}", NULL },
                { 404, "PUT /limits/group/", "{}", NULL },
                { 422, "PUT /limits/group/a%20b", "{}", NULL },
                { 422, "PUT /limits/principal/alice", "{}", NULL },
                { 422, "PUT /limits/principal/uid:", "{}", NULL },
                { 422, "PUT /limits/principal/key:a", "{}", NULL },
                { 400, "PUT /limits/group/x", "", "" },
                { 400, "PUT /limits/group/x", "{\"running\":-1}", "/running" },
                { 400, "PUT /limits/group/x", "{\"running\":10001}", "/running" },
                { 400, "PUT /limits/group/x", "{\"running\":\"2\"}", "/running" },
                { 400, "PUT /limits/group/x", "{\"paused\":1}", "/paused" },
                { 400, "PUT /limits/group/x", "{\"nonsense\":1}", "/nonsense" },
                { 400, "PUT /limits/group/x", "{\"weight\":2}", "/weight" },
                { 400, "PUT /limits/agent/text", "{\"queued\":2}", "/queued" },
                { 400, "PUT /limits/global/all", "{\"max_tokens_day\":2}", "/max_tokens_day" },
                { 400, "PUT /limits/principal/uid:1", "{\"weight\":0}", "/weight" },
                { 400, "PUT /limits/principal/uid:1", "{\"max_tokens_day\":0}", "/max_tokens_day" },
                { 400, "PUT /limits/principal/uid:1", "{\"max_cost_usd_day\":-0.5}", "/max_cost_usd_day" },
                { 404, "DELETE /limits/group/x", NULL, NULL },
                { 405, "GET /limits/group/x", NULL, NULL },
                { 405, "GET /drain", NULL, NULL },
                { 501, "POST /reload", NULL, NULL },
        };
        static const char *const admin_only[] = {
                "PUT /limits/group/x", "DELETE /limits/group/x", "POST /drain", "POST /resume", "POST /reload",
        };
        ApiWorld aw;

        init(&aw, 1);
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                _cleanup_(answer_deinit) Answer a = ask(&aw, &aw.tcp, table[i].request, AS_ADMIN, table[i].body);
                char expected[64];
                snprintf(expected, sizeof(expected), "\"pointer\":\"%s\"", table[i].pointer ?: "");
                if (a.status != table[i].status || (table[i].pointer && !strstr(a.body, expected)))
                        fail_msg("%s %s: %u %s", table[i].request, table[i].body ?: "", a.status, a.body);
        }
        for (size_t i = 0; i < ELEMENTSOF(admin_only); i++)
                expect(&aw, &aw.tcp, 403, admin_only[i], AS_A, "{}");
        api_world_deinit(&aw);
}

static void test_merge(void **state) {
        ApiWorld aw;

        init(&aw, 2);
        assert_limit(&aw, "global", "all", "\"running\":10,\"running_now\":0,\"waiting\":0,\"paused\":false,\"weight\":1,"
                     "\"queued\":1000,\"max_tokens_day\":null,\"max_cost_usd_day\":null,\"source\":\"config\"");
        assert_null(limit_row(&aw, AS_ADMIN, "group", "night"));
        put(&aw, "group/night", "{\"running\":3}");
        put(&aw, "group/night", "{\"queued\":0}");
        put(&aw, "group/night", "{\"paused\":true}");
        /* Each names a part, and leaves the others. */
        assert_limit(&aw, "group", "night", "\"running\":3,\"running_now\":0,\"waiting\":0,\"paused\":true,\"weight\":1,"
                     "\"queued\":0,\"max_tokens_day\":null,\"max_cost_usd_day\":null,\"source\":\"runtime\"");
        put(&aw, "group/night", "{\"queued\":null,\"running\":null}");
        assert_limit(&aw, "group", "night", "\"running\":null,\"running_now\":0,\"waiting\":0,\"paused\":true,\"weight\":1,"
                     "\"queued\":null,\"max_tokens_day\":null,\"max_cost_usd_day\":null,\"source\":\"runtime\"");
        put(&aw, "principal/key:a%2Fx", "{\"weight\":5,\"max_tokens_day\":1000,\"max_cost_usd_day\":1.5}");
        put(&aw, "agent/text", "{\"running\":7}");
        restart(&aw);
        assert_limit(&aw, "principal", "key:a/x", "\"running\":null,\"running_now\":0,\"waiting\":0,\"paused\":false,"
                     "\"weight\":5,\"queued\":1000,\"max_tokens_day\":1000,\"max_cost_usd_day\":1.500000,"
                     "\"source\":\"runtime\"");
        assert_limit(&aw, "agent", "text", "\"running\":7,\"running_now\":0,\"waiting\":0,\"paused\":false,\"weight\":1,"
                     "\"queued\":null,\"max_tokens_day\":null,\"max_cost_usd_day\":null,\"source\":\"runtime\"");
        /* A caller is told of its own and of what is everybody's. */
        _cleanup_free_ char *shown = limit_row(&aw, AS_A, "agent", "text");
        assert_non_null(shown);
        assert_null(limit_row(&aw, AS_A, "group", "night"));
        assert_null(limit_row(&aw, AS_A, "principal", "key:a/x"));
        expect(&aw, &aw.tcp, 204, "DELETE /limits/agent/text", AS_ADMIN, NULL);
        expect(&aw, &aw.tcp, 404, "DELETE /limits/agent/text", AS_ADMIN, NULL);
        expect(&aw, &aw.tcp, 204, "DELETE /limits/group/night", AS_ADMIN, NULL);
        restart(&aw);
        assert_null(limit_row(&aw, AS_ADMIN, "group", "night"));
        assert_limit(&aw, "agent", "text", "\"running\":3,\"running_now\":0,\"waiting\":0,\"paused\":false,\"weight\":1,"
                     "\"queued\":null,\"max_tokens_day\":null,\"max_cost_usd_day\":null,\"source\":\"config\"");
        api_world_deinit(&aw);
}

/* A paused group waits while others run; over a restart, too. */
static void test_pause_group(void **state) {
        _cleanup_free_ char *row = NULL;
        ApiWorld aw;
        Id held, other;

        init(&aw, 3);
        put(&aw, "group/night", "{\"paused\":true}");
        held = submit_in(&aw, "night", "json");
        other = submit_in(&aw, "day", "json");
        world_run_until(&aw.w, n_running(&aw) == 1);
        world_pass(&aw.w, USEC_PER_SEC);
        assert_int_equal(world_state(&aw.w, &held), TASK_QUEUED);
        assert_int_equal(world_state(&aw.w, &other), TASK_RUNNING);
        assert_int_equal(aw.w.launcher.n, 1);
        row = limit_row(&aw, AS_ADMIN, "group", "night");
        assert_non_null(strstr(row, "\"running_now\":0,\"waiting\":1,\"paused\":true"));
        finish_all(&aw);
        world_run_until(&aw.w, world_is_final(&aw.w, &other));
        restart(&aw);
        world_pass(&aw.w, USEC_PER_SEC);
        assert_int_equal(world_state(&aw.w, &held), TASK_QUEUED);
        put(&aw, "group/night", "{\"paused\":false}");
        world_run_until(&aw.w, world_state(&aw.w, &held) == TASK_RUNNING);
        world_run_until(&aw.w, n_running(&aw) == 1);
        finish_all(&aw);
        world_run_until(&aw.w, world_is_final(&aw.w, &held));
        api_world_deinit(&aw);
}

/* A raised limit starts more at once; one that is lowered ends nothing. */
static void test_raise(void **state) {
        ApiWorld aw;

        init(&aw, 4);
        put(&aw, "group/g", "{\"running\":1}");
        for (unsigned i = 0; i < 5; i++)
                submit_in(&aw, "g", "json");
        world_run_until(&aw.w, n_running(&aw) == 1);
        world_pass(&aw.w, USEC_PER_SEC);
        assert_int_equal(n_running(&aw), 1);
        put(&aw, "group/g", "{\"running\":4}");
        world_run_until(&aw.w, n_running(&aw) == 4);
        world_pass(&aw.w, USEC_PER_SEC);
        assert_int_equal(n_running(&aw), 4);
        put(&aw, "group/g", "{\"running\":0}");
        world_pass(&aw.w, USEC_PER_SEC);
        assert_int_equal(n_running(&aw), 4);
        finish_all(&aw);
        world_pass(&aw.w, USEC_PER_SEC);
        assert_int_equal(n_running(&aw), 0);
        expect(&aw, &aw.tcp, 204, "DELETE /limits/group/g", AS_ADMIN, NULL);
        world_run_until(&aw.w, n_running(&aw) == 1);
        /* Of all agents' tasks, too. */
        put(&aw, "global/all", "{\"running\":2}");
        for (unsigned i = 0; i < 3; i++)
                submit_in(&aw, NULL, "json");
        world_run_until(&aw.w, n_running(&aw) == 2);
        world_pass(&aw.w, USEC_PER_SEC);
        assert_int_equal(n_running(&aw), 2);
        put(&aw, "global/all", "{\"running\":null}");
        world_run_until(&aw.w, n_running(&aw) == 4);
        _cleanup_(answer_deinit) Answer a = ask(&aw, &aw.tcp, "GET /status", AS_A, NULL);
        assert_non_null(strstr(a.body, "\"limits\":{\"running\":10,\"queued\":1000,"));
        api_world_deinit(&aw);
}

static void test_queued(void **state) {
        ApiWorld aw;

        init(&aw, 5);
        put(&aw, "global/all", "{\"paused\":true,\"queued\":2}");
        submit(&aw, AS_A, "{\"prompt\":\"x\",\"agent\":\"text\"}");
        submit(&aw, AS_B, "{\"prompt\":\"x\",\"agent\":\"text\"}");
        expect(&aw, &aw.tcp, 503, "POST /tasks", AS_A, "{\"prompt\":\"x\",\"agent\":\"text\"}");
        put(&aw, "global/all", "{\"queued\":null}");
        submit(&aw, AS_A, "{\"prompt\":\"x\",\"agent\":\"text\"}");
        api_world_deinit(&aw);
}

static void test_drain(void **state) {
        ApiWorld aw;
        Id running, waiting;

        init(&aw, 6);
        running = submit(&aw, AS_A, "{\"prompt\":\"x\",\"agent\":\"json\"}");
        world_run_until(&aw.w, n_running(&aw) == 1);
        _cleanup_(answer_deinit) Answer drain = ask(&aw, &aw.tcp, "POST /drain", AS_ADMIN, NULL);
        assert_status(&drain, 200);
        assert_string_equal(drain.body, "{\"draining\":true,\"running\":1}\n");
        expect(&aw, &aw.tcp, 200, "POST /drain", AS_ADMIN, NULL);
        /* What runs goes on; what comes is taken, and waits. */
        waiting = submit(&aw, AS_A, "{\"prompt\":\"y\",\"agent\":\"json\"}");
        finish_all(&aw);
        world_run_until(&aw.w, world_is_final(&aw.w, &running));
        restart(&aw);
        world_pass(&aw.w, 2 * USEC_PER_SEC);
        assert_int_equal(world_state(&aw.w, &waiting), TASK_QUEUED);
        assert_int_equal(n_running(&aw), 0);
        _cleanup_(answer_deinit) Answer status = ask(&aw, &aw.tcp, "GET /status", AS_A, NULL);
        assert_member(&status, "draining", "true");
        _cleanup_(answer_deinit) Answer resume = ask(&aw, &aw.tcp, "POST /resume", AS_ADMIN, NULL);
        assert_status(&resume, 200);
        assert_member(&resume, "draining", "false");
        world_run_until(&aw.w, world_state(&aw.w, &waiting) == TASK_RUNNING);
        _cleanup_(answer_deinit) Answer after = ask(&aw, &aw.tcp, "GET /status", AS_A, NULL);
        assert_member(&after, "draining", "false");
        api_world_deinit(&aw);
}

/* Draining leaves the other settings of the global limit alone. */
static void test_drain_merges(void **state) {
        ApiWorld aw;

        init(&aw, 7);
        put(&aw, "global/all", "{\"running\":4}");
        expect(&aw, &aw.tcp, 200, "POST /drain", AS_ADMIN, NULL);
        expect(&aw, &aw.tcp, 200, "POST /resume", AS_ADMIN, NULL);
        assert_limit(&aw, "global", "all", "\"running\":4,\"running_now\":0,\"waiting\":0,\"paused\":false,\"weight\":1,"
                     "\"queued\":1000,\"max_tokens_day\":null,\"max_cost_usd_day\":null,\"source\":\"runtime\"");
        api_world_deinit(&aw);
}

static int reload_result;

static int on_reload(void *userdata, char ret_error[static API_RELOAD_ERROR_MAX]) {
        assert_ptr_equal(userdata, &reload_result);
        snprintf(ret_error, API_RELOAD_ERROR_MAX, "agent-router.yaml:3:5: expected a number");
        return reload_result;
}

static void test_reload(void **state) {
        ApiWorld aw;

        init(&aw, 8);
        aw.config.reload = on_reload;
        aw.config.userdata = &reload_result;
        restart(&aw);
        reload_result = 0;
        expect(&aw, &aw.tcp, 200, "POST /reload", AS_ADMIN, NULL);
        reload_result = 1;
        _cleanup_(answer_deinit) Answer a = ask(&aw, &aw.tcp, "POST /reload", AS_ADMIN, NULL);
        assert_status(&a, 422);
        assert_non_null(strstr(a.body, "agent-router.yaml:3:5: expected a number"));
        reload_result = -EIO;
        expect(&aw, &aw.tcp, 500, "POST /reload", AS_ADMIN, NULL);
        api_world_deinit(&aw);
}

/* ---- usage ---- */

static void run_one(ApiWorld *aw, const char *headers, const char *line) {
        size_t n = aw->w.launcher.n;
        Id id = submit(aw, headers, "{\"prompt\":\"x\",\"agent\":\"json\"}");
        FakeAttempt *a = world_spawned(&aw->w, n);

        fake_print(a, 1, line);
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        world_run_until(&aw->w, world_is_final(&aw->w, &id));
}

static void assert_usage(ApiWorld *aw, const char *headers, const char *query, const char *expected) {
        char request[128];

        snprintf(request, sizeof(request), "GET /usage%s", query);
        _cleanup_(answer_deinit) Answer a = ask(aw, &aw->tcp, request, headers, NULL);
        assert_status(&a, 200);
        if (!streq(a.body, expected))
                fail_msg("%s: %s", query, a.body);
}

static void test_usage(void **state) {
        static const char *const bad[] = {
                "?by=task", "?by=", "?from=2027", "?from=2027-02-29", "?to=1969-12-31", "?from=2027-01-16&to=2027-01-15",
                "?format=xml", "?nonsense=1", "?from=2027-01-150",
        };
        ApiWorld aw;

        init(&aw, 9);
        clock_freeze(clock_monotonic_us(), UINT64_C(1800000000) * USEC_PER_SEC);
        assert_usage(&aw, AS_A, "", "{\"by\":\"principal\",\"from\":\"2026-12-17\",\"to\":\"2027-01-15\",\"rows\":[]}\n");
        run_one(&aw, AS_A, "{\"type\":\"done\",\"in\":10,\"out\":2}\n");
        run_one(&aw, AS_A, "{\"type\":\"done\",\"in\":100,\"out\":20}\n");
        run_one(&aw, AS_B, "{\"type\":\"done\",\"in\":1000}\n");
        /* The next day. */
        clock_freeze(clock_monotonic_us(), clock_realtime_us() + 86400 * USEC_PER_SEC);
        run_one(&aw, AS_B, "{\"type\":\"text\",\"text\":\"hi\"}\n");
        assert_usage(&aw, AS_ADMIN, "?by=day&from=2027-01-01",
                     "{\"by\":\"day\",\"from\":\"2027-01-01\",\"to\":\"2027-01-16\",\"rows\":["
                     "{\"key\":\"2027-01-15\",\"attempts\":3,\"input_tokens\":1110,\"cached_input_tokens\":null,"
                     "\"output_tokens\":22,\"reasoning_tokens\":null,\"cost_usd\":null},"
                     "{\"key\":\"2027-01-16\",\"attempts\":1,\"input_tokens\":null,\"cached_input_tokens\":null,"
                     "\"output_tokens\":null,\"reasoning_tokens\":null,\"cost_usd\":null}]}\n");
        /* Its own alone; of these days alone. */
        assert_usage(&aw, AS_A, "?by=agent&format=csv",
                     "agent,attempts,input_tokens,cached_input_tokens,output_tokens,reasoning_tokens,cost_usd\r\n"
                     "json,2,110,,22,,\r\n");
        assert_usage(&aw, AS_B, "?by=batch&to=2027-01-15&format=csv",
                     "batch,attempts,input_tokens,cached_input_tokens,output_tokens,reasoning_tokens,cost_usd\r\n"
                     ",1,1000,,,,\r\n");
        assert_usage(&aw, AS_B, "?by=agent&from=2027-01-17&to=2027-01-17",
                     "{\"by\":\"agent\",\"from\":\"2027-01-17\",\"to\":\"2027-01-17\",\"rows\":[]}\n");
        _cleanup_(answer_deinit) Answer csv = ask(&aw, &aw.tcp, "GET /usage", AS_A "Accept: text/csv, */*;q=0.1\r\n", NULL);
        assert_non_null(strstr(csv.head, "\r\nContent-Type: text/csv; charset=utf-8; header=present\r\n"));
        assert_true(str_starts(csv.body, "principal,attempts,"));
        assert_non_null(strstr(csv.body, "\r\nkey:a/"));
        assert_null(strstr(csv.body, "key:b/"));
        _cleanup_(answer_deinit) Answer json = ask(&aw, &aw.tcp, "GET /usage",
                                                   AS_A "Accept: application/json, text/csv\r\n", NULL);
        assert_non_null(strstr(json.head, "\r\nContent-Type: application/json\r\n"));
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                char request[128];
                snprintf(request, sizeof(request), "GET /usage%s", bad[i]);
                expect(&aw, &aw.tcp, 400, request, AS_A, NULL);
        }
        api_world_deinit(&aw);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_refused),
                cmocka_unit_test(test_merge),
                cmocka_unit_test(test_pause_group),
                cmocka_unit_test(test_raise),
                cmocka_unit_test(test_queued),
                cmocka_unit_test(test_drain),
                cmocka_unit_test(test_drain_merges),
                cmocka_unit_test(test_reload),
                cmocka_unit_test(test_usage),
        };

        if (skip_without_io_uring())
                return 0;
        return cmocka_run_group_tests_name("api-limits", tests, NULL, NULL);
}

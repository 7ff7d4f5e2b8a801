/* GET /events: events of all tasks, of several callers, over reconnects and a crash. */

#include "api/test-util.h"

#define EVENTS_MAX 4096
#define TASK_TEXT "{\"prompt\":\"x\",\"agent\":\"text\"}"

typedef struct Watcher {
        const char *headers;            /* who it is */
        Client c;
        Buf text;
        bool open, has_head;
        unsigned status;
        unsigned long long last;        /* the number of the last whole event */
        unsigned long long numbers[EVENTS_MAX];
        Id tasks[EVENTS_MAX];
        size_t n;
} Watcher;

static void watcher_open(ApiWorld *aw, Watcher *w, const char *query) {
        char request[512], last[64] = "";

        w->c = client_open(w->headers ? &aw->tcp : &aw->local);
        w->open = true;
        w->has_head = false;
        if (w->last)
                snprintf(last, sizeof(last), "Last-Event-ID: %llu\r\n", w->last);
        snprintf(request, sizeof(request), "GET /events%s HTTP/1.1\r\nHost: x\r\n%s%s\r\n", query, w->headers ?: "", last);
        client_say(&w->c, request);
}

static void watcher_close(Watcher *w) {
        if (!w->open)
                return;
        client_close(&w->c);
        buf_deinit(&w->text);
        w->open = false;
}

static void watcher_take(Watcher *w, const char *data, size_t n) {
        /* gcc with sanitizers can't know that there is some. */
        const char *task = data ? memmem(data, n, "\"task\":\"", 8) : NULL;
        unsigned long long id = 0;
        char text[64];

        head_of(data, n, text);
        if (*data == ':' || str_starts(text, "retry:"))
                return;
        assert_int_equal(sscanf(text, "id: %llu\n", &id), 1);
        /* Where the stream begins. */
        if (!memmem(data, n, "\ndata: ", 7)) {
                assert_true(w->n == 0 || w->last == id);
                w->last = id;
                return;
        }
        assert_true(id > w->last);
        assert_true(w->n < EVENTS_MAX);
        assert_non_null(task);
        head_of(task + 8, ID_TEXT_MAX - 1, text);
        assert_true(id_parse(text, &w->tasks[w->n]));
        w->numbers[w->n++] = w->last = id;
}

static void watcher_read(Watcher *w, size_t n) {
        client_read(&w->c, n);
        if (!w->has_head) {
                Answer a = {};
                if (!client_parse(&w->c, false, &a))
                        return;
                w->has_head = true;
                w->status = a.status;
                answer_deinit(&a);
        }
        if (w->status != 200)
                return;
        (void)client_chunks(&w->c, &w->text);
        for (;;) {
                const char *data = (const char *)buf_data(&w->text);
                const char *end = buf_size(&w->text) ? memmem(data, buf_size(&w->text), "\n\n", 2) : NULL;
                if (!end)
                        break;
                watcher_take(w, data, (size_t)(end - data));
                buf_consume(&w->text, (size_t)(end - data) + 2);
        }
}

/* ---- what it should have seen ---- */

typedef struct Expected {
        unsigned long long numbers[EVENTS_MAX];
        Id tasks[EVENTS_MAX];
        size_t n;
} Expected;

static int on_event(uint64_t n, const Id *task, const StoreEvent *event, void *userdata) {
        Expected *e = userdata;

        assert_true(e->n < EVENTS_MAX);
        e->numbers[e->n] = n;
        e->tasks[e->n++] = *task;
        return 0;
}

static void expect_all(ApiWorld *aw, const char *principal, Expected *ret_expected) {
        uint64_t after = 0, before;

        ret_expected->n = 0;
        do {
                before = after;
                assert_int_equal(store_event_list_all(aw->w.store, before, principal, EVENTS_MAX, on_event,
                                                      ret_expected, &after), 0);
        } while (after != before);
}

/* Each event once, in order; none of another. */
static bool saw_all(const Watcher *w, const Expected *e) {
        return w->n == e->n && memcmp(w->numbers, e->numbers, w->n * sizeof(*w->numbers)) == 0 &&
               memcmp(w->tasks, e->tasks, w->n * sizeof(*w->tasks)) == 0;
}

/* What it saw was durable: it is there after a crash, under the same number. */
static void assert_known(const Watcher *w, const Expected *e) {
        assert_true(w->n <= e->n);
        assert_memory_equal(w->numbers, e->numbers, w->n * sizeof(*w->numbers));
        assert_memory_equal(w->tasks, e->tasks, w->n * sizeof(*w->tasks));
}

static void principal_of(ApiWorld *aw, const char *headers, char ret_name[static PRINCIPAL_NAME_MAX]) {
        Principal p = {};
        char key[AUTH_KEY_TEXT_MAX + 16];

        if (!headers)
                return;
        assert_int_equal(sscanf(headers, "Authorization: %80[^\r]", key), 1);
        assert_int_equal(auth_bearer(aw->w.store, key, &p), 0);
        memcpy(ret_name, p.name, PRINCIPAL_NAME_MAX);
}

/* ---- tests ---- */

static void crash(ApiWorld *aw, Watcher *watchers, size_t n) {
        char copy[64];

        fixture_make_dir(copy);
        copy_dir(aw->w.dir, copy);
        /* What had been sent by then may still be read. */
        for (size_t i = 0; i < n; i++)
                if (watchers[i].open) {
                        watcher_read(&watchers[i], SIZE_MAX);
                        watcher_close(&watchers[i]);
                }
        api_world_stop(aw);
        copy_dir(copy, aw->w.dir);
        fixture_remove_dir(copy);
        world_start(&aw->w);
        api_world_start(aw);
}

static void poll_attempts(World *w) {
        for (size_t i = 0; i < w->launcher.n; i++) {
                FakeAttempt *a = w->launcher.attempts[i];
                if (!a->spawned || a->exited || ring_sim_random(&w->random, 8))
                        continue;
                if (ring_sim_random(&w->random, 3))
                        fake_print(a, 1, "a line of what it says\n");
                else
                        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        }
}

static void test_random(void **state) {
        uint64_t end_us;
        unsigned seed;

        clock_freeze(0, 0);
        end_us = clock_monotonic_us() + 4 * USEC_PER_SEC;
        for (seed = 1; seed <= 1000; seed++) {
                static Watcher watchers[5];
                static Expected expected;
                uint64_t random = seed;
                ApiWorld aw;

                clock_freeze(0, 0);
                if (seed > 5 && clock_monotonic_us() > end_us)
                        break;
                /* The control socket's other end is this process: an admin. */
                for (size_t i = 0; i < ELEMENTSOF(watchers); i++)
                        watchers[i] = (Watcher){ .headers = i % 3 == 0 ? NULL : i % 3 == 1 ? AS_A : AS_B };
                api_world_init(&aw, seed);
                aw.w.poll = poll_attempts;
                for (unsigned step = 0; step < 300; step++) {
                        Watcher *w = &watchers[ring_sim_random(&random, ELEMENTSOF(watchers))];
                        switch (ring_sim_random(&random, 12)) {
                        case 0:
                                if (aw.w.launcher.n < 30)
                                        submit(&aw, ring_sim_random(&random, 2) ? AS_A : AS_B, TASK_TEXT);
                                break;
                        case 1:
                                if (!w->open)
                                        watcher_open(&aw, w, "?after=0");
                                else if (ring_sim_random(&random, 4) == 0)
                                        watcher_close(w);
                                break;
                        case 2 ... 6:
                                if (w->open)
                                        watcher_read(w, 1 + ring_sim_random(&random, 900));
                                break;
                        default:
                                world_step(&aw.w);
                        }
                        if (step == 150 && seed % 2) {
                                crash(&aw, watchers, ELEMENTSOF(watchers));
                                for (size_t i = 0; i < ELEMENTSOF(watchers); i++) {
                                        char name[PRINCIPAL_NAME_MAX] = "";
                                        principal_of(&aw, watchers[i].headers, name);
                                        expect_all(&aw, *name ? name : NULL, &expected);
                                        assert_known(&watchers[i], &expected);
                                }
                        }
                }
                world_run_until(&aw.w, sched_stats(aw.w.sched).n_live == 0);
                for (size_t i = 0; i < ELEMENTSOF(watchers); i++) {
                        Watcher *w = &watchers[i];
                        char name[PRINCIPAL_NAME_MAX] = "";
                        principal_of(&aw, w->headers, name);
                        expect_all(&aw, *name ? name : NULL, &expected);
                        if (!w->open)
                                watcher_open(&aw, w, "?after=0");
                        world_run_until(&aw.w, (watcher_read(w, SIZE_MAX), w->n >= expected.n));
                        world_pass(&aw.w, USEC_PER_SEC);
                        watcher_read(w, SIZE_MAX);
                        assert_true(saw_all(w, &expected));
                        watcher_close(w);
                }
                api_world_deinit(&aw);
        }
        print_message("# %u seeds\n", seed - 1);
}

/* What does not become durable is not published: the stream ends instead. */
static void test_durable_first(void **state) {
        const RingSimOptions broken = { .seed = 8, .sync_error_percent = 100 };
        Watcher w = { .headers = AS_A };
        ApiWorld aw;

        api_world_init(&aw, 8);
        world_pass(&aw.w, USEC_PER_SEC);
        api_world_stop(&aw);
        ring_sim_configure(&broken);
        world_start(&aw.w);
        api_world_start(&aw);
        watcher_open(&aw, &w, "");
        world_run_until(&aw.w, (watcher_read(&w, SIZE_MAX), w.has_head));
        world_pass(&aw.w, USEC_PER_SEC);
        expect(&aw, &aw.tcp, 503, "POST /tasks", AS_A, TASK_TEXT);
        world_run_until(&aw.w, (watcher_read(&w, SIZE_MAX), w.c.eof));
        assert_int_equal(w.n, 0);
        watcher_close(&w);
        api_world_deinit(&aw);
}

static void test_from_now_on(void **state) {
        Watcher w = { .headers = AS_A };
        ApiWorld aw;
        Id mine;

        api_world_init(&aw, 1);
        aw.w.poll = poll_attempts;
        submit(&aw, AS_A, TASK_TEXT);
        world_run_until(&aw.w, sched_stats(aw.w.sched).n_live == 0);
        watcher_open(&aw, &w, "");
        world_run_until(&aw.w, (watcher_read(&w, SIZE_MAX), w.has_head));
        world_pass(&aw.w, USEC_PER_SEC);
        watcher_read(&w, SIZE_MAX);
        assert_int_equal(w.n, 0);
        /* Another's is not told. */
        submit(&aw, AS_B, TASK_TEXT);
        world_run_until(&aw.w, sched_stats(aw.w.sched).n_live == 0);
        mine = submit(&aw, AS_A, TASK_TEXT);
        world_run_until(&aw.w, (watcher_read(&w, SIZE_MAX), w.n >= 1));
        assert_true(id_equal(&w.tasks[0], &mine));
        watcher_close(&w);
        expect(&aw, &aw.tcp, 400, "GET /events?after=x", AS_A, NULL);
        expect(&aw, &aw.tcp, 400, "GET /events?include=all", AS_A, NULL);
        expect(&aw, &aw.tcp, 400, "GET /events", AS_A "Last-Event-ID: x\r\n", NULL);
        expect(&aw, &aw.tcp, 401, "GET /events", NULL, NULL);
        expect(&aw, &aw.tcp, 200, "HEAD /events", AS_A, NULL);
        api_world_deinit(&aw);
}

/* Many events of others are passed over a part at a time, and the stream comes to its own. */
static void test_others_first(void **state) {
        Watcher w = { .headers = AS_A };
        StoreEvent event = { .type = "text", .data = "{}", .n_data = 2, .at_us = 1 };
        ApiWorld aw;
        uint64_t seq;
        Id id;

        api_world_init(&aw, 2);
        aw.w.poll = poll_attempts;
        id = submit(&aw, AS_B, TASK_TEXT);
        assert_int_equal(store_begin(aw.w.store), 0);
        for (unsigned i = 0; i < 5 * STORE_EXAMINE_MAX; i++)
                assert_int_equal(store_event_append(aw.w.store, &id, &event, &seq), 0);
        assert_int_equal(store_end(aw.w.store, true), 0);
        id = submit(&aw, AS_A, TASK_TEXT);
        watcher_open(&aw, &w, "?after=0");
        world_run_until(&aw.w, (watcher_read(&w, SIZE_MAX), w.n >= 1));
        assert_true(id_equal(&w.tasks[0], &id));
        assert_true(w.numbers[0] > 5 * STORE_EXAMINE_MAX);
        watcher_close(&w);
        api_world_deinit(&aw);
}

/* One who reads nothing costs a bounded queue, and is let go. */
static void test_does_not_read(void **state) {
        Watcher w = { .headers = AS_A };
        static char line[KIB(100)];
        ApiWorld aw;

        api_world_init(&aw, 3);
        submit(&aw, AS_A, TASK_TEXT);
        FakeAttempt *a = world_spawned(&aw.w, 0);
        watcher_open(&aw, &w, "");
        world_run_until(&aw.w, (watcher_read(&w, SIZE_MAX), w.has_head));
        memset(line, 'x', sizeof(line) - 2);
        line[sizeof(line) - 2] = '\n';
        for (int i = 0; i < 40; i++) {
                fake_print(a, 1, line);
                world_run_until(&aw.w, a->acked[0] == buf_size(&a->out[0]));
                list_for_each_safe(c, &aw.api->conns)          /* its first member */
                        assert_true(conn_queued((Conn *)c) < KIB(400));
        }
        world_pass(&aw.w, 100 * USEC_PER_SEC);
        assert_int_equal(aw.api->n_conns, 0);
        watcher_close(&w);
        api_world_deinit(&aw);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_random),
                cmocka_unit_test(test_durable_first),
                cmocka_unit_test(test_from_now_on),
                cmocka_unit_test(test_others_first),
                cmocka_unit_test(test_does_not_read),
        };

        if (skip_without_io_uring())
                return 0;
        return cmocka_run_group_tests_name("api-events-all", tests, NULL, NULL);
}

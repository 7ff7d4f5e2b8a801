/* Connections and event streams: pieces, pipelining, half-closes, resets, slow and vanishing clients, timers. */

#include "api/test-util.h"
#include <netinet/in.h>

#define BODY "{\"prompt\":\"hello\",\"agent\":\"text\"}"
#define POST "POST /tasks HTTP/1.1\r\nHost: x\r\n" AS_A "Content-Length: 33\r\n\r\n" BODY
#define HEALTH "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

/* Several requests at once, in two pieces that meet at every byte: as many answers, in order. */
static void test_pipelining(void **state) {
        static const char requests[] = HEALTH POST "GET /nothing HTTP/1.1\r\nHost: x\r\n" AS_A "\r\n"
                "POST /tasks HTTP/1.1\r\nHost: x\r\n" AS_A "Transfer-Encoding: chunked\r\n\r\n21\r\n" BODY "\r\n0\r\n\r\n" HEALTH;
        static const unsigned expected[] = { 200, 201, 404, 201, 200 };
        ApiWorld aw;

        api_world_init(&aw, 1);
        for (size_t split = 0; split < strlen(requests); split += 1 + (split > 250) * 3) {
                Client c = client_open(&aw.tcp);
                client_write(&c, requests, split);
                for (unsigned i = 0; i < split % 4; i++)
                        world_step(&aw.w);
                client_write(&c, requests + split, strlen(requests) - split);
                for (size_t i = 0; i < ELEMENTSOF(expected); i++) {
                        _cleanup_(answer_deinit) Answer a = client_answer(&aw, &c, false);
                        assert_status(&a, expected[i]);
                        assert_false(a.close);
                }
                client_close(&c);
        }
        world_run_until(&aw.w, aw.api->n_conns == 0);
        api_world_deinit(&aw);
}

static void test_half_close(void **state) {
        ApiWorld aw;

        api_world_init(&aw, 2);
        for (unsigned steps = 0; steps < 12; steps++) {
                /* The end comes before, while and after the answer is made; a connection that closes by itself too. */
                for (unsigned old = 0; old < 2; old++) {
                        Client c = client_open(&aw.tcp);
                        Answer a = {};
                        client_say(&c, old ? "POST /tasks HTTP/1.0\r\n" AS_A "Content-Length: 33\r\n\r\n" BODY : POST);
                        for (unsigned i = 0; i < steps; i++)
                                world_step(&aw.w);
                        shutdown(c.fd, SHUT_WR);
                        world_run_until(&aw.w, (client_read(&c, SIZE_MAX), c.eof));
                        assert_true(client_parse(&c, false, &a));
                        assert_status(&a, 201);
                        answer_deinit(&a);
                        client_close(&c);
                        world_run_until(&aw.w, aw.api->n_conns == 0);
                }
        }
        api_world_deinit(&aw);
}

/* What has reached the router is done, whether or not the client stays to hear of it. */
static void test_client_vanishes(void **state) {
        ApiWorld aw;

        api_world_init(&aw, 3);
        for (unsigned steps = 0; steps < 40; steps++) {
                const struct linger reset = { .l_onoff = 1 };
                uint64_t n = sched_stats(aw.w.sched).n_live;
                Client c = client_open(&aw.tcp);
                client_say(&c, POST);
                for (unsigned i = 0; i < steps; i++)
                        world_step(&aw.w);
                assert_int_equal(setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)), 0);
                client_close(&c);
                world_run_until(&aw.w, aw.api->n_conns == 0);
                world_pass(&aw.w, USEC_PER_SEC);
                assert_int_equal(sched_stats(aw.w.sched).n_live, n + 1);
                assert_int_equal(sched_stats(aw.w.sched).n_running, MIN(n + 1, UINT64_C(3)));
        }
        api_world_deinit(&aw);
}

static void test_timers(void **state) {
        ApiWorld aw;
        uint64_t started_us;
        Client c;

        api_world_init(&aw, 4);
        /* Nothing comes. */
        c = client_open(&aw.tcp);
        started_us = clock_monotonic_us();
        world_run_until(&aw.w, (client_read(&c, SIZE_MAX), c.eof));
        assert_in_range(clock_monotonic_us() - started_us, 30 * USEC_PER_SEC, 32 * USEC_PER_SEC);
        assert_int_equal(buf_size(&c.in), 0);
        client_close(&c);
        /* A header a second. */
        c = client_open(&aw.tcp);
        client_say(&c, "GET /healthz HTTP/1.1\r\n");
        started_us = clock_monotonic_us();
        for (int i = 0; i < 40 && !buf_size(&c.in); i++) {
                client_say(&c, "X: y\r\n");
                world_pass(&aw.w, USEC_PER_SEC);
                client_read(&c, SIZE_MAX);
        }
        _cleanup_(answer_deinit) Answer slow = client_answer(&aw, &c, false);
        assert_status(&slow, 408);
        assert_true(slow.close);
        assert_in_range(clock_monotonic_us() - started_us, 30 * USEC_PER_SEC, 32 * USEC_PER_SEC);
        world_run_until(&aw.w, (client_read(&c, SIZE_MAX), c.eof));
        client_close(&c);
        /* A body that does not come. */
        c = client_open(&aw.tcp);
        client_say(&c, "POST /tasks HTTP/1.1\r\nHost: x\r\n" AS_A "Content-Length: 33\r\n\r\n{");
        _cleanup_(answer_deinit) Answer body = client_answer(&aw, &c, false);
        assert_status(&body, 408);
        client_close(&c);
        /* Kept alive for a while between requests. */
        c = client_open(&aw.tcp);
        client_say(&c, HEALTH);
        _cleanup_(answer_deinit) Answer first = client_answer(&aw, &c, false);
        assert_status(&first, 200);
        world_pass(&aw.w, 60 * USEC_PER_SEC);
        client_say(&c, HEALTH);
        _cleanup_(answer_deinit) Answer second = client_answer(&aw, &c, false);
        assert_status(&second, 200);
        started_us = clock_monotonic_us();
        world_run_until(&aw.w, (client_read(&c, SIZE_MAX), c.eof));
        assert_in_range(clock_monotonic_us() - started_us, 74 * USEC_PER_SEC, 77 * USEC_PER_SEC);
        client_close(&c);
        world_run_until(&aw.w, aw.api->n_conns == 0);
        api_world_deinit(&aw);
}

static void test_limits(void **state) {
        static char body[KIB(65)];
        Client clients[6];
        ApiWorld aw;
        Client c;

        api_world_init(&aw, 5);
        aw.api->config.connections_max = 5;
        /* Before it is sent, and while. */
        c = client_open(&aw.tcp);
        client_say(&c, "POST /tasks HTTP/1.1\r\nHost: x\r\n" AS_A "Content-Length: 65537\r\n\r\n");
        _cleanup_(answer_deinit) Answer declared = client_answer(&aw, &c, false);
        assert_status(&declared, 413);
        assert_true(declared.close);
        client_close(&c);
        c = client_open(&aw.tcp);
        client_say(&c, "POST /tasks HTTP/1.1\r\nHost: x\r\n" AS_A "Transfer-Encoding: chunked\r\n\r\n10400\r\n");
        memset(body, ' ', sizeof(body));
        client_write(&c, body, sizeof(body));
        _cleanup_(answer_deinit) Answer chunked = client_answer(&aw, &c, false);
        assert_status(&chunked, 413);
        client_close(&c);
        /* A client that waits is told not to send. */
        c = client_open(&aw.tcp);
        client_say(&c, "POST /tasks HTTP/1.1\r\nHost: x\r\n" AS_A "Expect: 100-continue\r\nContent-Length: 33\r\n\r\n");
        world_run_until(&aw.w, (client_read(&c, SIZE_MAX), buf_size(&c.in) >= 25));
        assert_memory_equal(buf_data(&c.in), "HTTP/1.1 100 Continue\r\n\r\n", 25);
        buf_consume(&c.in, 25);
        client_say(&c, BODY);
        _cleanup_(answer_deinit) Answer went_on = client_answer(&aw, &c, false);
        assert_status(&went_on, 201);
        client_close(&c);
        world_run_until(&aw.w, aw.api->n_conns == 0);
        /* One connection too many takes the place of the oldest that no known caller has used; the others live. */
        for (size_t i = 0; i < ELEMENTSOF(clients); i++) {
                clients[i] = client_open(&aw.tcp);
                if (i > 0)
                        continue;
                client_say(&clients[0], POST);
                _cleanup_(answer_deinit) Answer known = client_answer(&aw, &clients[0], false);
                assert_status(&known, 201);
        }
        world_pass(&aw.w, USEC_PER_SEC);
        for (size_t i = 0; i < ELEMENTSOF(clients); i++) {
                client_read(&clients[i], 1);
                assert_int_equal(clients[i].eof, i == 1);
        }
        client_say(&clients[5], HEALTH);
        _cleanup_(answer_deinit) Answer last = client_answer(&aw, &clients[5], false);
        assert_status(&last, 200);
        assert_int_equal(aw.api->n_conns, 5);
        for (size_t i = 0; i < ELEMENTSOF(clients); i++)
                client_close(&clients[i]);
        world_run_until(&aw.w, aw.api->n_conns == 0);
        api_world_deinit(&aw);
}

/* A client that asks and asks and does not read is not answered beyond a bound; once it reads, it gets all in order. */
static void test_does_not_read(void **state) {
        ApiWorld aw;
        Client c;
        size_t n_said = 0, n_heard = 0;

        api_world_init(&aw, 6);
        c = client_open(&aw.tcp);
        for (int i = 0; i < 400; i++) {
                static const char request[] = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n" AS_A "\r\n";
                if (send(c.fd, request, strlen(request), MSG_NOSIGNAL) == (ssize_t)strlen(request))
                        n_said++;
                world_step(&aw.w);
        }
        world_pass(&aw.w, 5 * USEC_PER_SEC);
        assert_true(n_said > 100);
        assert_true(conn_queued((Conn *)aw.api->conns.next) < KIB(400));
        while (n_heard < n_said) {
                _cleanup_(answer_deinit) Answer a = client_answer(&aw, &c, false);
                assert_status(&a, 200);
                n_heard++;
        }
        client_close(&c);
        /* Slow is fine, standing still is not. */
        c = client_open(&aw.tcp);
        for (int i = 0; i < 10; i++)
                client_say(&c, "GET /openapi.json HTTP/1.1\r\nHost: x\r\n" AS_A "\r\n");
        for (int i = 0; i < 20; i++) {
                world_pass(&aw.w, 20 * USEC_PER_SEC);
                client_read(&c, KIB(8));
                assert_false(c.eof);
        }
        world_run_until(&aw.w, aw.api->n_conns == 0);
        client_close(&c);
        api_world_deinit(&aw);
}

/* ---- random traffic ---- */

/* Nor do many who do not read have it hold all their answers. */
static void test_nobody_reads(void **state) {
        unsigned n[600] = {};
        Client clients[20];
        ApiWorld aw;

        api_world_init(&aw, 7);
        aw.api->responses_max = KIB(400);
        for (size_t i = 0; i < ELEMENTSOF(clients); i++) {
                clients[i] = client_open(&aw.tcp);
                for (unsigned j = 0; j < 100; j++)
                        client_say(&clients[i], "GET /openapi.json HTTP/1.1\r\nHost: x\r\n" AS_A "\r\n");
        }
        world_pass(&aw.w, 5 * USEC_PER_SEC);
        for (size_t i = 0; i < 100 * ELEMENTSOF(clients); i++) {
                _cleanup_(answer_deinit) Answer a = client_answer(&aw, &clients[i / 100], false);
                n[a.status]++;
        }
        assert_true(n[200] > 0);
        assert_true(n[503] > 0);
        assert_int_equal(n[200] + n[503], 100 * ELEMENTSOF(clients));
        for (size_t i = 0; i < ELEMENTSOF(clients); i++)
                client_close(&clients[i]);
        world_run_until(&aw.w, aw.api->n_conns == 0);
        api_world_deinit(&aw);
}

static void test_random(void **state) {
        uint64_t end_us;
        unsigned seed;

        clock_freeze(0, 0);
        end_us = clock_monotonic_us() + 5 * USEC_PER_SEC;
        for (seed = 1; seed <= 3000; seed++) {
                RingSimOptions options = RING_SIM_LIVELY(seed);
                uint64_t random = seed;
                Client clients[8] = {};
                unsigned asked[8] = {}, answered[8] = {};
                bool cut[8] = {};
                ApiWorld aw;

                clock_freeze(0, 0);
                if (seed > 5 && clock_monotonic_us() > end_us)
                        break;
                api_world_init(&aw, seed);
                api_world_stop(&aw);
                if (seed % 2)
                        options.reset_permille = 5;
                options.single_shot = seed % 5 == 0;
                ring_sim_configure(&options);
                world_start(&aw.w);
                api_world_start(&aw);
                for (size_t i = 0; i < ELEMENTSOF(clients); i++)
                        clients[i] = client_open(i % 2 ? &aw.tcp : &aw.local);
                for (unsigned step = 0; step < 400; step++) {
                        size_t i = ring_sim_random(&random, ELEMENTSOF(clients));
                        Client *c = &clients[i];
                        Answer a;
                        switch (ring_sim_random(&random, 12)) {
                        case 0 ... 2:
                                if (!cut[i] && asked[i] - answered[i] < 8 && client_write(c, POST, strlen(POST)))
                                        asked[i]++;
                                break;
                        case 3:
                                /* A request in two pieces. */
                                if (!cut[i] && client_write(c, HEALTH, 10)) {
                                        world_step(&aw.w);
                                        if (client_write(c, &HEALTH[10], strlen(HEALTH) - 10))
                                                asked[i]++;
                                        else
                                                cut[i] = true;
                                }
                                break;
                        case 4 ... 7:
                                client_read(c, 1 + ring_sim_random(&random, 2000));
                                while (client_parse(c, false, &a)) {
                                        assert_true(a.status == 200 || a.status == 201 || a.status == 429 ||
                                                    a.status == 503);
                                        answered[i]++;
                                        answer_deinit(&a);
                                }
                                break;
                        case 8:
                                if (ring_sim_random(&random, 10) == 0) {
                                        client_close(c);
                                        *c = client_open(i % 2 ? &aw.tcp : &aw.local);
                                        asked[i] = answered[i] = 0;
                                        cut[i] = false;
                                }
                                break;
                        case 9:
                                if (ring_sim_random(&random, 10) == 0) {
                                        shutdown(c->fd, SHUT_WR);
                                        cut[i] = true;
                                }
                                break;
                        default:
                                world_step(&aw.w);
                        }
                }
                /* Without resets, whoever stays hears an answer to each request. */
                for (size_t i = 0; i < ELEMENTSOF(clients); i++) {
                        while (!options.reset_permille && answered[i] < asked[i]) {
                                Answer a = client_answer(&aw, &clients[i], false);
                                answer_deinit(&a);
                                answered[i]++;
                        }
                        assert_true(answered[i] <= asked[i]);
                        client_close(&clients[i]);
                }
                if (seed % 3)
                        world_run_until(&aw.w, aw.api->n_conns == 0);
                api_world_deinit(&aw);
        }
        print_message("# %u seeds\n", seed - 1);
}

/* ---- event streams ---- */

typedef struct Subscriber {
        Client c;
        Buf text;
        bool open, has_head;
        unsigned long long last;        /* id of the last whole event */
        unsigned n_heartbeats, n_retries;
        bool end, gone;                 /* the end event; 204 */
} Subscriber;

static void subscriber_open(ApiWorld *aw, Subscriber *s, const Id *task) {
        char request[512], id[ID_TEXT_MAX], last[64] = "";

        id_format(task, id);
        s->c = client_open(&aw->tcp);
        s->open = true;
        s->has_head = false;
        if (s->last)
                snprintf(last, sizeof(last), "Last-Event-ID: %llu\r\n", s->last);
        snprintf(request, sizeof(request), "GET /tasks/%s/events HTTP/1.1\r\nHost: x\r\n" AS_A "%s\r\n", id, last);
        client_say(&s->c, request);
}

static void subscriber_close(Subscriber *s) {
        if (!s->open)
                return;
        client_close(&s->c);
        buf_deinit(&s->text);
        s->open = false;
}

static void subscriber_read(Subscriber *s, size_t n) {
        client_read(&s->c, n);
        if (!s->has_head) {
                Answer a = {};
                if (!client_parse(&s->c, false, &a))
                        return;
                s->has_head = true;
                assert_true(a.status == 200 || a.status == 204);
                s->gone = a.status == 204;
                if (!s->gone)
                        assert_non_null(strstr(a.head, "\r\nContent-Type: text/event-stream\r\n"));
                answer_deinit(&a);
                if (s->gone)
                        return;
        }
        (void)client_chunks(&s->c, &s->text);
        for (;;) {
                const char *data = (const char *)buf_data(&s->text);
                const char *end = buf_size(&s->text) ? memmem(data, buf_size(&s->text), "\n\n", 2) : NULL;
                unsigned long long id = 0;
                char text[64];
                if (!end)
                        break;
                if (*data == ':')
                        s->n_heartbeats++;
                else if (strncmp(data, "retry:", 6) == 0)
                        s->n_retries++;
                else if (strncmp(data, "event: end\n", 11) == 0) {
                        assert_false(s->end);
                        assert_non_null(memmem(data, (size_t)(end - data), "{\"state\":\"succeeded\"}", 21));
                        s->end = true;
                } else {
                        head_of(data, (size_t)(end - data), text);
                        assert_int_equal(sscanf(text, "id: %llu\n", &id), 1);
                        /* In order, each once, none left out; hidden ones have numbers too, but this agent has none. */
                        assert_false(s->end);
                        assert_int_equal(id, s->last + 1);
                        s->last = id;
                }
                buf_consume(&s->text, (size_t)(end - data) + 2);
        }
}

static void test_events(void **state) {
        uint64_t end_us;
        unsigned seed;

        clock_freeze(0, 0);
        end_us = clock_monotonic_us() + 4 * USEC_PER_SEC;
        for (seed = 1; seed <= 1000; seed++) {
                uint64_t random = seed;
                Subscriber subscribers[4] = {};
                ApiWorld aw;
                Id id;

                clock_freeze(0, 0);
                if (seed > 5 && clock_monotonic_us() > end_us)
                        break;
                api_world_init(&aw, seed);
                id = submit(&aw, AS_A, BODY);
                FakeAttempt *a = world_spawned(&aw.w, 0);
                for (unsigned step = 0; step < 400; step++) {
                        Subscriber *s = &subscribers[ring_sim_random(&random, ELEMENTSOF(subscribers))];
                        switch (ring_sim_random(&random, 10)) {
                        case 0 ... 1:
                                fake_print(a, 1, "a line of what it says\n");
                                break;
                        case 2:
                                if (!s->open)
                                        subscriber_open(&aw, s, &id);
                                else if (ring_sim_random(&random, 4) == 0)
                                        subscriber_close(s);
                                break;
                        case 3 ... 5:
                                if (s->open)
                                        subscriber_read(s, 1 + ring_sim_random(&random, 600));
                                break;
                        default:
                                world_step(&aw.w);
                        }
                }
                fake_exit(a, LAUNCH_HOW_EXITED, 0);
                if (seed % 2)
                        world_finish(&aw.w, &id);
                for (size_t i = 0; i < ELEMENTSOF(subscribers); i++) {
                        Subscriber *s = &subscribers[i];
                        if (!s->open)
                                subscriber_open(&aw, s, &id);
                        world_run_until(&aw.w, (subscriber_read(s, 100), s->end || s->gone));
                        subscriber_close(s);
                        /* Whoever comes back after the end is told that there is no more. */
                        s->end = false;
                        subscriber_open(&aw, s, &id);
                        world_run_until(&aw.w, (subscriber_read(s, SIZE_MAX), s->gone));
                        subscriber_close(s);
                        StoreTask *task = world_load(&aw.w, &id);
                        assert_int_equal(s->last, task->last_seq);
                        store_task_free(task);
                }
                api_world_deinit(&aw);
        }
        print_message("# %u seeds\n", seed - 1);
}

static void test_heartbeats(void **state) {
        Subscriber s = {}, deaf = {};
        ApiWorld aw;
        Id id;

        api_world_init(&aw, 7);
        id = submit(&aw, AS_A, BODY);
        FakeAttempt *a = world_spawned(&aw.w, 0);
        subscriber_open(&aw, &s, &id);
        world_run_until(&aw.w, (subscriber_read(&s, SIZE_MAX), s.last == 2));
        assert_int_equal(s.n_retries, 1);
        world_pass(&aw.w, 100 * USEC_PER_SEC);
        subscriber_read(&s, SIZE_MAX);
        assert_in_range(s.n_heartbeats, 5, 7);
        /* Large events go in pieces: more than a connection could queue at once. */
        static char line[KIB(900)];
        memset(line, '"', sizeof(line) - 2);
        line[sizeof(line) - 2] = '\n';
        for (int i = 0; i < 40; i++) {
                fake_print(a, 1, line);
                world_run_until(&aw.w, a->acked[0] == buf_size(&a->out[0]));
                subscriber_read(&s, SIZE_MAX);
        }
        /* One who reads nothing is let go. */
        subscriber_open(&aw, &deaf, &id);
        world_run_until(&aw.w, (subscriber_read(&s, SIZE_MAX), s.last > 4));
        world_pass(&aw.w, 100 * USEC_PER_SEC);
        assert_int_equal(aw.api->n_conns, 0);
        fake_exit(a, LAUNCH_HOW_EXITED, 0);
        world_finish(&aw.w, &id);
        subscriber_close(&s);
        subscriber_close(&deaf);
        /* All that is stored can be read, in one stream. */
        subscriber_open(&aw, &s, &id);
        world_run_until(&aw.w, (subscriber_read(&s, SIZE_MAX), s.end || s.gone));
        subscriber_close(&s);
        api_world_deinit(&aw);
}

/* ---- the end ---- */

static void test_close(void **state) {
        for (unsigned steps = 0; steps < 30; steps++) {
                struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
                socklen_t n_address = sizeof(address);
                Subscriber s = {};
                ApiWorld aw;
                Client clients[4];
                bool closed = false;
                int fd;
                Id id;

                api_world_init(&aw, 100 + steps);
                fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
                assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
                assert_int_equal(listen(fd, 16), 0);
                assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &n_address), 0);
                assert_int_equal(api_listen_take(aw.api, fd), 0);
                api_start(aw.api);
                for (size_t i = 0; i < ELEMENTSOF(clients); i++) {
                        clients[i] = (Client){ .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) };
                        assert_int_equal(connect(clients[i].fd, (struct sockaddr *)&address, sizeof(address)), 0);
                        assert_int_equal(fcntl(clients[i].fd, F_SETFL, O_NONBLOCK), 0);
                }
                client_say(&clients[0], HEALTH);
                _cleanup_(answer_deinit) Answer health = client_answer(&aw, &clients[0], false);
                assert_status(&health, 200);
                id = submit(&aw, AS_A, BODY);
                subscriber_open(&aw, &s, &id);
                client_say(&clients[1], POST);
                client_say(&clients[2], "POST /tasks HTTP/1.1\r\nHost: x\r\nPrefer: wait=300\r\n" AS_A "Content-Length: 33\r\n\r\n" BODY);
                for (unsigned i = 0; i < steps; i++)
                        world_step(&aw.w);
                sched_stop(aw.w.sched);
                api_close(aw.api, on_api_world_closed, &closed);
                if (steps % 3 == 2)
                        api_abort(aw.api);
                const uint64_t end_us = clock_monotonic_us() + 60 * USEC_PER_SEC;
                while (!closed && clock_monotonic_us() < end_us) {
                        world_step(&aw.w);
                        for (size_t i = 0; i < ELEMENTSOF(clients); i++)
                                client_read(&clients[i], SIZE_MAX);
                        client_read(&s.c, SIZE_MAX);
                }
                assert_true(closed);
                for (size_t i = 0; i < ELEMENTSOF(clients); i++)
                        client_close(&clients[i]);
                subscriber_close(&s);
                world_stop(&aw.w);
                aw.api = api_free(aw.api);
                fake_deinit(&aw.w.launcher);
                fixture_remove_dir(aw.w.dir);
                clock_freeze(0, 0);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_pipelining),
                cmocka_unit_test(test_half_close),
                cmocka_unit_test(test_client_vanishes),
                cmocka_unit_test(test_timers),
                cmocka_unit_test(test_limits),
                cmocka_unit_test(test_does_not_read),
                cmocka_unit_test(test_nobody_reads),
                cmocka_unit_test(test_random),
                cmocka_unit_test(test_events),
                cmocka_unit_test(test_heartbeats),
                cmocka_unit_test(test_close),
        };
        return cmocka_run_group_tests_name("api-conn", tests, NULL, NULL);
}

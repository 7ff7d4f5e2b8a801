/*
 * Durable rows a second, by how many requests share a batch: each of N clients inserts a row, waits for its
 * acknowledgement, and inserts the next. Rows are tasks with prompts of 1 KiB, and events of 1 KiB. The machine's own
 * fdatasync of a 4 KiB append is printed beside, since it bounds what a batch of one can reach.
 *
 * usage: bench-store [DIRECTORY]      (it should be on a disk; tmpfs syncs nothing)
 */

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "store/internal.h"

#define CLIENTS_MAX 64
#define ROW_BYTES 1024
#define RUN_US (USEC_PER_SEC + USEC_PER_SEC / 2)
#define SYNCS 300

typedef struct Bench Bench;

typedef struct Client {
        Bench *bench;
        StoreWait wait;
        Id task;
        uint64_t started_us;
} Client;

struct Bench {
        Reactor *reactor;
        Store *store;
        Client clients[CLIENTS_MAX];
        bool events;
        bool stopping;
        size_t n_running;
        uint64_t n_rows;
        uint64_t latency_us_total;
        char text[ROW_BYTES + 1];
};

static int compare_u64(const void *a, const void *b) {
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

        return x < y ? -1 : x > y;
}

static int measure_sync(const char *dir, uint64_t *ret_p50_us) {
        _cleanup_free_ char *path = NULL;
        _cleanup_close_ int fd = -1;
        char page[4096] = {};
        uint64_t us[SYNCS];

        if (asprintf(&path, "%s/sync", dir) < 0)
                return error_origin(-ENOMEM);
        fd = open(path, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
        if (fd < 0)
                return error_origin(-errno);
        for (size_t i = 0; i < SYNCS; i++) {
                uint64_t started_us = clock_monotonic_us();

                if (write(fd, page, sizeof(page)) != sizeof(page) || fdatasync(fd) < 0)
                        return error_origin(-errno);
                us[i] = clock_monotonic_us() - started_us;
        }
        qsort(us, SYNCS, sizeof(us[0]), compare_u64);
        *ret_p50_us = us[SYNCS / 2];
        return 0;
}

static int insert_task(Bench *bench, Id *ret_id) {
        StoreTask task = {
                .principal = (char *)"uid:1000", .run_as_uid = 1000, .state = TASK_QUEUED, .agent = (char *)"codex",
                .priority = 50, .prompt = bench->text, .n_prompt = ROW_BYTES, .request = (char *)"{\"labels\":{}}",
                .created_us = clock_realtime_us(), .max_attempts = 1, .usage = STORE_USAGE_UNKNOWN,
        };
        int r;

        r = id_new(&task.id);
        if (!r)
                r = store_task_insert(bench->store, &task);
        *ret_id = task.id;
        return r;
}

static int insert_event(Bench *bench, const Id *task) {
        StoreEvent event = { .attempt = 1, .at_us = clock_realtime_us(), .type = "text", .data = bench->text,
                             .n_data = ROW_BYTES, .stream = 1 };
        uint64_t seq;

        return store_event_append(bench->store, task, &event, &seq);
}

static void client_fail(Client *client, const char *what, int error) {
        fprintf(stderr, "%s: %d: %s\n", what, error, store_failure(client->bench->store) ?: "");
        exit(1);
}

static void client_fn(StoreWait *wait, int error);

static void client_next(Client *client) {
        Bench *bench = client->bench;
        Id ignored;
        int r;

        client->started_us = clock_monotonic_us();
        r = store_begin(bench->store);
        if (!r)
                r = bench->events ? insert_event(bench, &client->task) : insert_task(bench, &ignored);
        if (!r)
                r = store_end(bench->store, true);
        if (r)
                client_fail(client, "insert", r);
        store_wait(bench->store, &client->wait, client_fn);
}

static void client_fn(StoreWait *wait, int error) {
        Client *client = container_of(wait, Client, wait);
        Bench *bench = client->bench;

        if (error)
                client_fail(client, "wait", error);
        bench->n_rows++;
        bench->latency_us_total += clock_monotonic_us() - client->started_us;
        if (bench->stopping)
                bench->n_running--;
        else
                client_next(client);
}

/* Of the whole process, the kernel's part included: says more than a rate where the machine has other work to do. */
static uint64_t cpu_us(void) {
        struct rusage u;

        getrusage(RUSAGE_SELF, &u);
        return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * USEC_PER_SEC +
               (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static int run(Bench *bench, size_t n_clients, bool events) {
        StoreStats before = *store_stats(bench->store), after;
        uint64_t started_us, us, cpu;
        int r;

        bench->events = events;
        bench->stopping = false;
        bench->n_rows = bench->latency_us_total = 0;
        bench->n_running = n_clients;
        for (size_t i = 0; i < n_clients; i++) {
                bench->clients[i].bench = bench;
                r = store_begin(bench->store);
                if (!r)
                        r = insert_task(bench, &bench->clients[i].task);
                if (!r)
                        r = store_end(bench->store, true);
                if (r)
                        return error_fold(r);
        }
        cpu = cpu_us();
        started_us = clock_monotonic_us();
        for (size_t i = 0; i < n_clients; i++)
                client_next(&bench->clients[i]);
        while (bench->n_running > 0) {
                bench->stopping = clock_monotonic_us() - started_us > RUN_US;
                r = reactor_tick(bench->reactor, USEC_PER_SEC);
                if (r)
                        return error_trace(r);
        }
        us = clock_monotonic_us() - started_us;
        cpu = cpu_us() - cpu;
        after = *store_stats(bench->store);
        printf("store %s clients=%-2zu rows_per_s=%-6llu latency_us=%-6llu cpu_us_per_row=%.1f rows_per_sync=%.1f "
               "sync_us=%llu checkpoints=%llu checkpoint_us_max=%llu commit_us_max=%llu header_syncs=%llu "
               "header_sync_us_max=%llu\n",
               events ? "events" : "tasks ", n_clients, (unsigned long long)(bench->n_rows * USEC_PER_SEC / us),
               (unsigned long long)(bench->latency_us_total / MAX(bench->n_rows, (uint64_t)1)),
               (double)cpu / (double)MAX(bench->n_rows, (uint64_t)1),
               (double)bench->n_rows / (double)MAX(after.n_syncs - before.n_syncs, (uint64_t)1),
               (unsigned long long)((after.sync_us_total - before.sync_us_total) /
                                    MAX(after.n_syncs - before.n_syncs, (uint64_t)1)),
               (unsigned long long)(after.n_checkpoints - before.n_checkpoints),
               (unsigned long long)after.checkpoint_us_max, (unsigned long long)after.commit_us_max,
               (unsigned long long)(after.n_header_syncs - before.n_header_syncs),
               (unsigned long long)after.header_sync_us_max);
        return 0;
}

static int remove_fn(const char *path, const struct stat *st, int type, struct FTW *ftw) {
        return remove(path);
}

static int bench_main(const char *dir) {
        static const size_t clients[] = { 1, 8, 64 };
        _cleanup_(reactor_freep) Reactor *reactor = NULL;
        _cleanup_(store_closep) Store *store = NULL;
        _cleanup_free_ Bench *bench = calloc(1, sizeof(*bench));
        const uint8_t key[STORE_KEY_SIZE] = { 1 };
        char refused[STORE_REFUSED_MAX];
        uint64_t p50_us;
        int r;

        if (!bench)
                return error_origin(-ENOMEM);
        r = measure_sync(dir, &p50_us);
        if (r)
                return error_trace(r);
        printf("fdatasync_p50_us=%llu (4 KiB appends to %s)\n", (unsigned long long)p50_us, dir);
        r = reactor_new(&reactor);
        if (!r)
                r = reactor_enable(reactor);
        if (!r)
                r = store_open(&store, reactor, dir, key, refused);
        if (r)
                return error_fold(r);
        bench->reactor = reactor;
        bench->store = store;
        memset(bench->text, 'x', ROW_BYTES);
        for (size_t i = 0; i < 2 * ELEMENTSOF(clients); i++) {
                r = run(bench, clients[i % ELEMENTSOF(clients)], i >= ELEMENTSOF(clients));
                if (r)
                        return error_trace(r);
        }
        return 0;
}

int main(int argc, char **argv) {
        _cleanup_free_ char *dir = NULL;
        int r;

        if (asprintf(&dir, "%s/bench-store-XXXXXX", argc > 1 ? argv[1] : "/var/tmp") < 0 || !mkdtemp(dir)) {
                perror("bench-store");
                return 1;
        }
        r = bench_main(dir);
        if (r)
                fprintf(stderr, "bench-store: %s\n", strerror(-r));
        {
                struct rusage u;

                getrusage(RUSAGE_SELF, &u);
                printf("rss_max_kib=%ld\n", u.ru_maxrss);
        }
        (void)nftw(dir, remove_fn, 16, FTW_DEPTH | FTW_PHYS);
        return r != 0;
}

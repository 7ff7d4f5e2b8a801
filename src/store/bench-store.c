/*
 * Durable rows a second, by how many requests share a batch: each of N clients inserts a row, waits for its
 * acknowledgement, and inserts the next. Rows are tasks with prompts of 1 KiB, and events of 1 KiB. The machine's own
 * fdatasync of a 4 KiB append is printed beside, since it bounds what a batch of one can reach.
 *
 * With --rows N: what a size costs. For 1,000 and for N queued tasks, what it takes to submit one more (its row, its
 * event, the commit and the sync), how fast as many are written 500 at a time, how long one request with a batch of
 * 10,000 holds the thread, how long a start takes (opening, and store_task_list_live()), and what a call of a list
 * costs whose filter nothing matches.
 *
 * usage: bench-store [--rows N] [DIRECTORY]      (it should be on a disk; tmpfs syncs nothing)
 */

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/parse.h"
#include "store/internal.h"

#define CLIENTS_MAX 64
#define ROW_BYTES 1024
#define RUN_US (USEC_PER_SEC + USEC_PER_SEC / 2)
#define SYNCS 300
#define REQUEST                                                                                                 \
        "{\"capabilities\":[\"edit\",\"shell\"],\"labels\":{\"team\":\"infrastructure\",\"kind\":\"refactoring\"}," \
        "\"metadata\":{\"repository\":\"example/project\",\"commit\":\"0123456789abcdef0123456789abcdef01234567\"}}"

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
        size_t n_text;                  /* of text: of a prompt, of an event's data */
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

static int insert_task(Bench *bench, const Id *batch, Id *ret_id) {
        StoreTask task = {
                .principal = (char *)"uid:1000", .run_as_uid = 1000, .state = TASK_QUEUED, .agent = (char *)"codex",
                .priority = 50, .prompt = bench->text, .n_prompt = bench->n_text,
                .request = (char *)REQUEST,
                .created_us = clock_realtime_us(), .max_attempts = 1, .usage = STORE_USAGE_UNKNOWN,
        };
        int r;

        if (batch)
                task.batch = *batch;
        r = id_new(&task.id);
        if (!r)
                r = store_task_insert(bench->store, &task);
        *ret_id = task.id;
        return r;
}

static int insert_event(Bench *bench, const Id *task) {
        StoreEvent event = { .attempt = 1, .at_us = clock_realtime_us(), .type = "text", .data = bench->text,
                             .n_data = bench->n_text, .stream = 1 };
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
                r = bench->events ? insert_event(bench, &client->task) : insert_task(bench, NULL, &ignored);
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
                        r = insert_task(bench, NULL, &bench->clients[i].task);
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

/* ---- what a size costs ---- */

#define SIZE_SMALL 1000
#define SIZE_ROWS_MAX 100000000
#define SIZE_PROMPT_BYTES 128           /* what a prompt adds is the same at each size */
#define BULK 500
#define SUBMITS 2000
#define BATCH_TASKS 10000               /* as many as the API takes */
#define SIZE_ROWS_MIN (2 * (SIZE_SMALL + SUBMITS + BATCH_TASKS))

static int submit(Bench *bench, const Id *batch) {
        StoreEvent event = { .at_us = clock_realtime_us(), .type = "state", .data = "{\"state\":\"queued\"}",
                             .n_data = strlen("{\"state\":\"queued\"}") };
        uint64_t seq;
        Id id;
        int r;

        r = insert_task(bench, batch, &id);
        return r ?: store_event_append(bench->store, &id, &event, &seq);
}

typedef struct Flag {
        StoreWait wait;
        bool called;
        int error;
} Flag;

static void flag_fn(StoreWait *wait, int error) {
        Flag *flag = container_of(wait, Flag, wait);

        flag->called = true;
        flag->error = error;
}

static int submit_durably(Bench *bench, size_t n, const StoreBatch *batch, uint64_t *ret_thread_us) {
        uint64_t started_us = clock_monotonic_us();
        Flag flag = {};
        int r;

        r = store_begin(bench->store);
        if (r == 0 && batch)
                r = store_batch_insert(bench->store, batch);
        for (size_t i = 0; r == 0 && i < n; i++)
                r = submit(bench, batch ? &batch->id : NULL);
        r = r ?: store_end(bench->store, true);
        if (r)
                return error_fold(r);
        *ret_thread_us = clock_monotonic_us() - started_us;
        store_wait(bench->store, &flag.wait, flag_fn);
        while (!flag.called) {
                r = reactor_tick(bench->reactor, USEC_PER_SEC);
                if (r)
                        return error_trace(r);
        }
        return flag.error;
}

static int fill(Bench *bench, size_t n) {
        uint64_t us;
        int r = 0;

        for (size_t i = 0; r == 0 && i < n; i += BULK)
                r = submit_durably(bench, MIN(n - i, (size_t)BULK), NULL, &us);
        return r;
}

static int count_fn(const StoreTask *task, void *userdata) {
        (*(size_t *)userdata)++;
        return 0;
}

static int open_store(Bench *bench, const char *dir) {
        const uint8_t key[STORE_KEY_SIZE] = { 1 };
        char refused[STORE_REFUSED_MAX] = "";
        int r = store_open(&bench->store, bench->reactor, dir, key, refused);

        if (r)
                fprintf(stderr, "%s\n", refused);
        return error_fold(r);
}

static int measure_size(Bench *bench, const char *dir, size_t n_rows, size_t n_new) {
        static uint64_t thread_us[SUBMITS], durable_us[SUBMITS];
        const StoreTaskFilter none = { .label_name = "team", .label_value = "nobody", .limit = 100 };
        StoreBatch batch = { .principal = (char *)"uid:1000", .n_tasks = BATCH_TASKS };
        uint64_t started_us, fill_us, batch_us, open_us, list_us, filter_us;
        size_t n_live = 0, n_listed = 0;
        Id next;
        int r;

        started_us = clock_monotonic_us();
        r = fill(bench, n_new);
        fill_us = clock_monotonic_us() - started_us;
        for (size_t i = 0; r == 0 && i < SUBMITS; i++) {
                started_us = clock_monotonic_us();
                r = submit_durably(bench, 1, NULL, &thread_us[i]);
                durable_us[i] = clock_monotonic_us() - started_us;
        }
        r = r ?: id_new(&batch.id);
        r = r ?: submit_durably(bench, BATCH_TASKS, &batch, &batch_us);
        if (r)
                return error_trace(r);
        qsort(thread_us, SUBMITS, sizeof(uint64_t), compare_u64);
        qsort(durable_us, SUBMITS, sizeof(uint64_t), compare_u64);
        bench->store = store_close(bench->store);
        started_us = clock_monotonic_us();
        r = open_store(bench, dir);
        if (r)
                return error_trace(r);
        open_us = clock_monotonic_us() - started_us;
        started_us = clock_monotonic_us();
        r = store_task_list_live(bench->store, count_fn, &n_live);
        if (r)
                return error_fold(r);
        list_us = clock_monotonic_us() - started_us;
        started_us = clock_monotonic_us();
        r = store_task_list(bench->store, &none, count_fn, &n_listed, &next);
        if (r)
                return error_fold(r);
        filter_us = clock_monotonic_us() - started_us;
        printf("store size rows=%-8zu fill_rows_per_s=%-6llu submit_us_p50=%llu submit_us_p99=%llu "
               "durable_us_p50=%llu durable_us_p99=%llu batch_ms=%llu open_ms=%llu list_live_ms=%llu filter_us=%llu "
               "live=%zu database_mib=%llu\n",
               n_rows, (unsigned long long)(n_new * USEC_PER_SEC / fill_us), (unsigned long long)thread_us[SUBMITS / 2],
               (unsigned long long)thread_us[SUBMITS * 99 / 100], (unsigned long long)durable_us[SUBMITS / 2],
               (unsigned long long)durable_us[SUBMITS * 99 / 100],
               (unsigned long long)batch_us / USEC_PER_MSEC, (unsigned long long)open_us / USEC_PER_MSEC,
               (unsigned long long)list_us / USEC_PER_MSEC, (unsigned long long)filter_us, n_live,
               (unsigned long long)store_stats(bench->store)->database_bytes >> 20);
        return 0;
}

static int size_main(Bench *bench, const char *dir, size_t n_rows) {
        int r;

        r = open_store(bench, dir);
        r = r ?: measure_size(bench, dir, SIZE_SMALL, SIZE_SMALL);
        if (r == 0)
                r = measure_size(bench, dir, n_rows, n_rows - SIZE_SMALL - SUBMITS - BATCH_TASKS);
        bench->store = store_close(bench->store);
        return error_trace(r);
}

/* ---- main ---- */

static int remove_fn(const char *path, const struct stat *st, int type, struct FTW *ftw) {
        return remove(path);
}

static int rate_main(Bench *bench, const char *dir) {
        static const size_t clients[] = { 1, 8, 64 };
        uint64_t p50_us;
        int r;

        r = measure_sync(dir, &p50_us);
        if (r)
                return error_trace(r);
        printf("fdatasync_p50_us=%llu (4 KiB appends to %s)\n", (unsigned long long)p50_us, dir);
        r = open_store(bench, dir);
        for (size_t i = 0; r == 0 && i < 2 * ELEMENTSOF(clients); i++)
                r = run(bench, clients[i % ELEMENTSOF(clients)], i >= ELEMENTSOF(clients));
        bench->store = store_close(bench->store);
        return error_trace(r);
}

static int bench_main(const char *dir, size_t n_rows) {
        _cleanup_(reactor_freep) Reactor *reactor = NULL;
        _cleanup_free_ Bench *bench = calloc(1, sizeof(*bench));
        int r;

        if (!bench)
                return error_origin(-ENOMEM);
        r = reactor_new(&reactor);
        r = r ?: reactor_enable(reactor);
        if (r)
                return error_fold(r);
        bench->reactor = reactor;
        memset(bench->text, 'x', ROW_BYTES);
        bench->n_text = n_rows ? SIZE_PROMPT_BYTES : ROW_BYTES;
        return n_rows ? size_main(bench, dir, n_rows) : rate_main(bench, dir);
}

int main(int argc, char **argv) {
        _cleanup_free_ char *dir = NULL;
        uint64_t n_rows = 0;
        int i = 1, r;

        if (argc > 2 && streq(argv[1], "--rows")) {
                if (!parse_u64_range(argv[2], SIZE_ROWS_MIN, SIZE_ROWS_MAX, &n_rows)) {
                        fprintf(stderr, "bench-store: --rows: expected an integer from %d to %d\n",
                                SIZE_ROWS_MIN, SIZE_ROWS_MAX);
                        return 2;
                }
                i = 3;
        }
        if (asprintf(&dir, "%s/bench-store-XXXXXX", argc > i ? argv[i] : "/var/tmp") < 0 || !mkdtemp(dir)) {
                perror("bench-store");
                return 1;
        }
        r = bench_main(dir, (size_t)n_rows);
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

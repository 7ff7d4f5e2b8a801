/*
 * What a queued task costs, by how many there are.
 *
 *     bench-queue [DIRECTORY]        (on a disk; tmpfs syncs nothing)
 *
 * First the scheduler alone, without a store: to push a task, to pick the next one and do the books of its start (the
 * turn of its principal, its limits), and the memory of each. Then with a store: how long a start of the router takes
 * that finds them all (the database opened, every task read and queued), and what the whole process holds for each.
 * Every size is measured in a process of its own. The tasks are of eight principals and three priorities.
 */

#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/parse.h"
#include "sched/internal.h"

#define SIZES_N 4
#define SIZE_MAX_TASKS 1000000
#define PICKS_N 20000
#define BULK_N 2000                     /* tasks in one request, while the store is filled */
#define PRINCIPALS_N 8
/* The project's bounds. A pick may cost what its way through the heaps does, most of it waiting for memory. */
#define BYTES_MAX 160
#define START_SECONDS_MAX 5
#define PICK_RATIO_MAX 20

typedef struct Cost {
        double push_ns, pick_ns;
        double bytes;                   /* of the scheduler, a task */
        double fill_s, open_s, recover_s;
        double process_bytes;           /* of the whole process after a start, a task */
} Cost;

static const size_t sizes[SIZES_N] = { 1000, 10000, 100000, SIZE_MAX_TASKS };
static Cost *costs;                     /* shared with the processes that measure */

static const char manifest[] = "version: 1\nname: bench\ntitle: Bench\ninstall: none\ncommand: {find: [/bin/sh]}\n"
                               "output: {format: text}\n";

static void die(const char *what, int r) {
        fprintf(stderr, "bench-queue: %s: %s (%d)\n", what, r < 0 ? strerror(-r) : "unexpected result", r);
        exit(1);
}

static double seconds_since(uint64_t from_us) {
        return (double)(clock_monotonic_us() - from_us) / USEC_PER_SEC;
}

/* Of this process, what nothing else shares; without what free() keeps. */
static double dirty_bytes(void) {
        _cleanup_free_ char *text = NULL;
        const char *at;
        size_t n;
        uint64_t kib = 0;

        malloc_trim(0);
        if (fd_read_file(AT_FDCWD, "/proc/self/smaps_rollup", KIB(16), &text, &n))
                return 0;
        at = strstr(text, "Private_Dirty:");
        if (!at)
                return 0;
        for (at += strlen("Private_Dirty:"); *at == ' '; at++)
                ;
        for (; *at >= '0' && *at <= '9'; at++)
                kib = kib * 10 + (uint64_t)(*at - '0');
        return (double)kib * 1024;
}

/* ---- tasks ---- */

static StoreTask task_record(size_t i) {
        static const char *const principals[PRINCIPALS_N] = { "uid:1", "uid:2", "uid:3", "uid:4",
                                                              "key:a", "key:b", "key:c", "key:d" };
        StoreTask task = {
                .principal = (char *)principals[i % PRINCIPALS_N], .run_as_uid = -1, .state = TASK_QUEUED,
                .agent = (char *)"bench", .priority = (uint32_t)(i / PRINCIPALS_N % 3 * 50),
                .prompt = (char *)"say hello", .n_prompt = strlen("say hello"), .request = (char *)"{}",
                .timeout_us = USEC_PER_SEC, .created_us = clock_realtime_us(), .max_attempts = 1,
                .usage = STORE_USAGE_UNKNOWN,
        };
        int r = id_new(&task.id);

        if (r)
                die("id", r);
        return task;
}

static Adapter *load_adapter(const char *dir) {
        const AdapterConfig config = { .name = "bench" };
        _cleanup_close_ int dir_fd = open(dir, O_DIRECTORY | O_CLOEXEC), fd = -1;
        char error[YAML_ERROR_MAX] = "";
        Adapter *adapter = NULL;
        int r;

        fd = openat(dir_fd, "agent.yaml", O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
        r = fd < 0 ? -errno : fd_write_all(fd, manifest, strlen(manifest));
        r = r ?: adapter_load(&adapter, dir_fd, "agent.yaml", &config, error);
        if (r)
                die(*error ? error : "the manifest", r);
        return adapter;
}

static Sched *new_sched(Reactor *reactor, Store *store, Metrics *metrics, const char *dir) {
        const SchedConfig config = { .running_max = SCHED_NO_LIMIT, .queued_max = UINT64_MAX,
                                     .queued_per_principal_max = UINT64_MAX, .max_attempts = 1 };
        Sched *s = NULL;
        int r;

        r = sched_new(&s, reactor, store, metrics, &config);
        r = r ?: sched_add_agent_take(s, load_adapter(dir));
        if (r)
                die("the scheduler", r);
        s->agents[0].limit->config.running = SCHED_NO_LIMIT;    /* more than a manifest may say */
        return s;
}

/* ---- the scheduler alone ---- */

static void push(Sched *s, size_t i) {
        StoreTask record = task_record(i);
        SchedTask *t;
        int r;

        r = task_new(s, &record, 1, &t);
        r = r ?: task_enqueue(t);
        if (r)
                die("push", r);
        t->durable = true;
}

/* What a start does beside the store and the launcher, see run_new() and run_start(). */
static SchedTask *start(Sched *s) {
        SchedAgent *agent;
        SchedTask *t = queue_pick(s, &agent);

        if (!t)
                die("nothing to pick", 0);
        limit_take(s->global);
        limit_take(agent->limit);
        limit_take(t->flow->key.principal);
        queue_charge(t);
        task_dequeue(t);
        return t;
}

static void measure_alone(Reactor *reactor, Metrics *metrics, const char *dir, size_t n, Cost *ret) {
        static SchedTask *started[PICKS_N];
        Sched *s = new_sched(reactor, NULL, metrics, dir);
        size_t n_picks = MIN(n / 2, (size_t)PICKS_N);
        double before = dirty_bytes();
        uint64_t from_us;

        for (size_t i = 0; i < n; i++)
                push(s, i);
        ret->bytes = (dirty_bytes() - before) / (double)n;
        /* Once over, so that a small queue is not measured with cold code. */
        for (unsigned round = 0; round < 2; round++) {
                from_us = clock_monotonic_us();
                for (size_t i = 0; i < n_picks; i++)
                        started[i] = start(s);
                ret->pick_ns = seconds_since(from_us) / (double)n_picks * 1e9;
                for (size_t i = 0; i < n_picks; i++) {
                        limit_give(s, s->global);
                        limit_give(s, s->agents[0].limit);
                        limit_give(s, started[i]->flow->key.principal);
                        task_free(started[i]);
                }
                from_us = clock_monotonic_us();
                for (size_t i = 0; i < n_picks; i++)
                        push(s, i);
                ret->push_ns = seconds_since(from_us) / (double)n_picks * 1e9;
        }
        sched_free(s);
}

/* ---- with a store ---- */

static Store *open_store(Reactor *reactor, const char *dir) {
        static const uint8_t key[STORE_KEY_SIZE] = { 1 };
        char refused[STORE_REFUSED_MAX] = "";
        Store *store = NULL;
        int r;

        r = store_open(&store, reactor, dir, key, refused);
        if (r)
                die(*refused ? refused : "the store", r);
        return store;
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

static void fill(Reactor *reactor, const char *dir, size_t from, size_t to) {
        Store *store = open_store(reactor, dir);
        int r = 0;

        for (size_t at = from; at < to && !r;) {
                size_t end = MIN(to, at + BULK_N);
                Flag flag = {};
                r = store_begin(store);
                for (; at < end && !r; at++) {
                        StoreTask record = task_record(at);
                        r = store_task_insert(store, &record);
                }
                r = r ?: store_end(store, true);
                store_wait(store, &flag.wait, flag_fn);
                while (!flag.called && !r)
                        r = reactor_tick(reactor, USEC_PER_SEC);
                r = r ?: flag.error;
        }
        if (r)
                die("filling the store", r);
        store_close(store);
}

static void measure_start(Reactor *reactor, Metrics *metrics, const char *dir, size_t n, Cost *ret) {
        uint64_t from_us = clock_monotonic_us();
        double before = dirty_bytes();
        Store *store;
        Sched *s;
        int r;

        store = open_store(reactor, dir);
        ret->open_s = seconds_since(from_us);
        from_us = clock_monotonic_us();
        s = new_sched(reactor, store, metrics, dir);
        r = sched_recover(s);
        if (r)
                die("recovery", r);
        ret->recover_s = seconds_since(from_us);
        if (sched_stats(s).n_waiting != n)
                die("tasks are missing", 0);
        ret->process_bytes = (dirty_bytes() - before) / (double)n;
        sched_stop(s);
        store_close(store);
        sched_free(s);
}

/* ---- main ---- */

typedef enum Part {
        PART_ALONE,
        PART_FILL,
        PART_START,
} Part;

static void run_part(Part part, const char *dir, size_t i) {
        _cleanup_(reactor_freep) Reactor *reactor = NULL;
        _cleanup_(metrics_freep) Metrics *metrics = NULL;
        uint64_t from_us = clock_monotonic_us();
        int r;

        r = reactor_new(&reactor);
        r = r ?: reactor_enable(reactor);
        r = r ?: metrics_new(&metrics);
        if (r)
                die("the reactor", r);
        if (part == PART_ALONE)
                measure_alone(reactor, metrics, dir, sizes[i], &costs[i]);
        else if (part == PART_START)
                measure_start(reactor, metrics, dir, sizes[i], &costs[i]);
        else {
                fill(reactor, dir, i ? sizes[i - 1] : 0, sizes[i]);
                costs[i].fill_s = seconds_since(from_us);
        }
}

static bool run_child(Part part, const char *dir, size_t i) {
        int status;
        pid_t pid;

        fflush(stdout);
        pid = fork();
        if (pid == 0) {
                run_part(part, dir, i);
                exit(0);
        }
        return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool bound(const char *what, double value, double max, const char *unit) {
        printf("%s: %.2f%s (bound <= %.0f%s): %s\n", what, value, unit, max, unit, value <= max ? "met" : "MISSED");
        return value <= max;
}

static int remove_fn(const char *path, const struct stat *st, int type, struct FTW *ftw) {
        return remove(path);
}

static int bench(const char *dir) {
        const Cost *last = &costs[SIZES_N - 1];
        bool held;

        printf("%9s %9s %14s %12s | %9s %9s %10s %13s\n", "tasks", "push ns", "pick+start ns", "bytes a task",
               "fill s", "open ms", "recover ms", "bytes a task");
        for (size_t i = 0; i < SIZES_N; i++) {
                const Cost *c = &costs[i];
                for (Part part = PART_ALONE; part <= PART_START; part++)
                        if (!run_child(part, dir, i))
                                return 1;
                printf("%9zu %9.0f %14.0f %12.0f | %9.1f %9.1f %10.1f %13.0f\n", sizes[i], c->push_ns, c->pick_ns,
                       c->bytes, c->fill_s, c->open_s * 1000, c->recover_s * 1000, c->process_bytes);
        }
        printf("left: the scheduler alone; right: a start of the router's process, its store included\n");
        held = bound("pick at 1,000,000 to pick at 1,000", last->pick_ns / costs[0].pick_ns, PICK_RATIO_MAX, " x");
        held &= bound("memory of a queued task, at 1,000,000", last->process_bytes, BYTES_MAX, " bytes");
        held &= bound("start-up with 1,000,000 queued tasks", last->open_s + last->recover_s, START_SECONDS_MAX, " s");
        return held ? 0 : 1;
}

int main(int argc, char **argv) {
        _cleanup_free_ char *dir = NULL;
        int r;

        log_set_max_level(LOG_WARNING);
        costs = mmap(NULL, SIZES_N * sizeof(*costs), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (costs == MAP_FAILED || asprintf(&dir, "%s/bench-queue-XXXXXX", argc > 1 ? argv[1] : "/var/tmp") < 0 ||
            !mkdtemp(dir)) {
                perror("bench-queue");
                return 1;
        }
        r = bench(dir);
        (void)nftw(dir, remove_fn, 16, FTW_DEPTH | FTW_PHYS);
        return r;
}

/*
 * fill: puts queued tasks into the store of a router that is stopped, far faster than a client could.
 *
 *     fill DIRECTORY KEY_FILE TASKS AGENT
 *
 * DIRECTORY is the daemon's state directory, KEY_FILE its store.key. The tasks have a short prompt, and are of eight
 * principals and three priorities. Prints the seconds that it took.
 */

#include <fcntl.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/parse.h"
#include "reactor/reactor.h"
#include "store/store.h"

#define TASKS_MAX UINT64_C(10000000)
#define BULK_N 2000                     /* tasks in one request */

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

static int read_key(const char *path, uint8_t ret_key[static STORE_KEY_SIZE]) {
        _cleanup_free_ char *text = NULL;
        size_t n;
        int r;

        r = fd_read_file(AT_FDCWD, path, KIB(1), &text, &n);
        if (r)
                return error_fold(r);
        for (size_t i = 0; i < STORE_KEY_SIZE; i++) {
                int high = 2 * i + 1 < n ? parse_hex_digit(text[2 * i]) : -1;
                int low = high < 0 ? -1 : parse_hex_digit(text[2 * i + 1]);
                if (low < 0)
                        return error_origin(-EINVAL);
                ret_key[i] = (uint8_t)(high << 4 | low);
        }
        return 0;
}

static int insert(Store *store, uint64_t i, char *agent) {
        static const char *const principals[] = { "uid:1", "uid:2", "uid:3", "uid:4",
                                                  "key:a", "key:b", "key:c", "key:d" };
        StoreTask task = {
                .principal = (char *)principals[i % ELEMENTSOF(principals)], .run_as_uid = -1, .state = TASK_QUEUED,
                .agent = agent, .priority = (uint32_t)(i / ELEMENTSOF(principals) % 3 * 50), .prompt = (char *)":",
                .n_prompt = 1, .request = (char *)"{}", .timeout_us = 3600 * USEC_PER_SEC,
                .created_us = clock_realtime_us(), .max_attempts = 1, .usage = STORE_USAGE_UNKNOWN,
        };
        int r;

        task.updated_us = task.ready_us = task.created_us;
        r = id_new(&task.id);
        return r ?: store_task_insert(store, &task);
}

static int fill(Reactor *reactor, Store *store, uint64_t n, char *agent) {
        int r = 0;

        for (uint64_t at = 0; at < n && !r;) {
                uint64_t end = MIN(n, at + BULK_N);
                Flag flag = {};

                r = store_begin(store);
                for (; at < end && !r; at++)
                        r = insert(store, at, agent);
                r = r ?: store_end(store, true);
                store_wait(store, &flag.wait, flag_fn);
                while (!flag.called && !r)
                        r = reactor_tick(reactor, USEC_PER_SEC);
                r = r ?: flag.error;
        }
        return error_fold(r);
}

static int run(char **argv, uint64_t n) {
        _cleanup_(reactor_freep) Reactor *reactor = NULL;
        char refused[STORE_REFUSED_MAX] = "";
        uint8_t key[STORE_KEY_SIZE];
        Store *store = NULL;
        int r;

        r = read_key(argv[2], key);
        r = r ?: reactor_new(&reactor);
        r = r ?: reactor_enable(reactor);
        r = r ?: store_open(&store, reactor, argv[1], key, refused);
        if (r) {
                fprintf(stderr, "fill: %s\n", refused);
                return error_fold(r);
        }
        r = fill(reactor, store, n, argv[4]);
        store_close(store);
        return r;
}

int main(int argc, char **argv) {
        uint64_t n, from_us = clock_monotonic_us();
        int r;

        if (argc != 5 || !parse_u64_range(argv[3], 1, TASKS_MAX, &n)) {
                fprintf(stderr, "usage: fill DIRECTORY KEY_FILE TASKS AGENT\n");
                return 2;
        }
        r = run(argv, n);
        if (r) {
                fprintf(stderr, "fill: %s\n", strerror(-r));
                return 1;
        }
        printf("%.1f\n", (double)(clock_monotonic_us() - from_us) / USEC_PER_SEC);
        return 0;
}

#pragma once

/* A store in a directory of its own, on a real ring, and waiting for its acknowledgements without sleeping. */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "store/internal.h"

typedef struct Fixture Fixture;
typedef struct Ack Ack;

static const uint8_t test_key[STORE_KEY_SIZE] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xfe };

struct Fixture {
        char dir[64];
        Reactor *reactor;
        Store *store;
};

/* A StoreWait that remembers. */
struct Ack {
        StoreWait wait;
        bool called;
        int error;
};

static inline void ack_fn(StoreWait *wait, int error) {
        Ack *ack = container_of(wait, Ack, wait);

        assert_false(ack->called);
        ack->called = true;
        ack->error = error;
}

static inline int remove_fn(const char *path, const struct stat *st, int type, struct FTW *ftw) {
        return remove(path);
}

static inline void fixture_remove_dir(const char *dir) {
        (void)nftw(dir, remove_fn, 16, FTW_DEPTH | FTW_PHYS);
}

static inline void fixture_make_dir(char dir[static 64]) {
        const char *tmp = getenv("TMPDIR");

        /* Loops that open hundreds of stores are about the order of syncs, not about the disk: memory, if there is. */
        if (!tmp)
                tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
        snprintf(dir, 64, "%.40s/store-test-XXXXXX", tmp);
        assert_non_null(mkdtemp(dir));
}

static inline bool path_read(const char *dir, const char *name, char **ret_data, size_t *ret_n) {
        char path[512];
        _cleanup_close_ int fd = -1;

        snprintf(path, sizeof(path), "%s/%s", dir, name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return false;
        assert_int_equal(fd_read_all(fd, MIB(256), ret_data, ret_n), 0);
        return true;
}

static inline void path_write(const char *dir, const char *name, const void *data, size_t n) {
        char path[512];
        _cleanup_close_ int fd = -1;

        snprintf(path, sizeof(path), "%s/%s", dir, name);
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(fd_write_all(fd, data, n), 0);
}

static inline void path_remove(const char *dir, const char *name) {
        char path[512];

        snprintf(path, sizeof(path), "%s/%s", dir, name);
        (void)unlink(path);
}

/* Never of an open store's own directory: closing the copy's source would drop the database's locks. */
static inline void copy_dir(const char *from, const char *to) {
        static const char *const names[] = { STORE_DATABASE, STORE_WAL, STORE_MARKER };

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                _cleanup_free_ char *data = NULL;
                size_t n;

                if (path_read(from, names[i], &data, &n))
                        path_write(to, names[i], data, n);
                else
                        path_remove(to, names[i]);
        }
}

static inline void fixture_open(Fixture *f) {
        char refused[STORE_REFUSED_MAX] = "";
        int r = store_open(&f->store, f->reactor, f->dir, test_key, refused);

        if (r)
                print_error("%s\n", refused);
        assert_int_equal(r, 0);
}

static inline void fixture_close(Fixture *f) {
        f->store = store_close(f->store);
}

/* A plan of no tests, with the reason, where there is no ring to test on. */
static inline bool skip_without_io_uring(void) {
        _cleanup_(reactor_freep) Reactor *reactor = NULL;

        if (reactor_new(&reactor) != REACTOR_E_NO_IO_URING)
                return false;
        puts("1..0 # SKIP io_uring is refused on this machine");
        return true;
}

static inline int fixture_setup(void **state) {
        Fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        assert_int_equal(reactor_new(&f->reactor), 0);
        assert_int_equal(reactor_enable(f->reactor), 0);
        fixture_make_dir(f->dir);
        fixture_open(f);
        *state = f;
        return 0;
}

static inline int fixture_teardown(void **state) {
        Fixture *f = *state;

        fixture_close(f);
        reactor_free(f->reactor);
        fixture_remove_dir(f->dir);
        free(f);
        return 0;
}

static inline void fixture_run_until(Fixture *f, const bool *flag) {
        while (!*flag)
                assert_int_equal(reactor_tick(f->reactor, 5 * USEC_PER_SEC), 0);
}

/* Waits until all written so far is durable; returns what the waiter got. */
static inline int fixture_wait(Fixture *f) {
        Ack ack = {};

        store_wait(f->store, &ack.wait, ack_fn);
        fixture_run_until(f, &ack.called);
        return ack.error;
}

#define begin(f) assert_int_equal(store_begin((f)->store), 0)
#define end(f) assert_int_equal(store_end((f)->store, true), 0)

static inline Id test_id(void) {
        Id id;

        assert_int_equal(id_new(&id), 0);
        return id;
}

/* A minimal task; its strings are literals, so it is not for store_task_free(). */
static inline StoreTask test_task(const char *principal, TaskState state) {
        return (StoreTask){
                .id = test_id(),
                .principal = (char *)principal,
                .run_as_uid = -1,
                .state = state,
                .agent = (char *)"codex",
                .priority = 50,
                .prompt = (char *)"say hello",
                .n_prompt = strlen("say hello"),
                .request = (char *)"{}",
                .created_us = 1,
                .max_attempts = 1,
                .usage = STORE_USAGE_UNKNOWN,
        };
}

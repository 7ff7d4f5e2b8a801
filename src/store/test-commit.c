/* Group commit: what is acknowledged when, what one request's failure does to the others, what a failed sync means. */

#include "base/clock.h"
#include "store/test-util.h"

static StoreTask insert(Fixture *f) {
        StoreTask task = test_task("uid:1", TASK_QUEUED);

        begin(f);
        assert_int_equal(store_task_insert(f->store, &task), 0);
        end(f);
        return task;
}

static bool has(Fixture *f, const Id *id) {
        _cleanup_(store_task_freep) StoreTask *task = NULL;
        int r = store_task_load(f->store, id, 0, &task);

        assert_in_set(r, ((unsigned long[]){ 0, STORE_E_NOT_FOUND }), 2);
        return r == 0;
}

static void test_batch(void **state) {
        Fixture *f = *state;
        uint64_t n_commits = store_stats(f->store)->n_commits, n_syncs = store_stats(f->store)->n_syncs;
        Ack acks[64] = {};

        for (size_t i = 0; i < ELEMENTSOF(acks); i++) {
                (void)insert(f);
                store_wait(f->store, &acks[i].wait, ack_fn);
                assert_false(acks[i].called);
        }
        fixture_run_until(f, &acks[63].called);
        for (size_t i = 0; i < ELEMENTSOF(acks); i++) {
                assert_true(acks[i].called);
                assert_int_equal(acks[i].error, 0);
        }
        assert_int_equal(store_stats(f->store)->n_commits, n_commits + 1);
        assert_int_equal(store_stats(f->store)->n_syncs, n_syncs + 1);
        assert_int_equal(store_stats(f->store)->n_rows, 2 * 64);
}

/* ---- the order of write, sync and acknowledgement, as the VFS and the ring see it ---- */

typedef struct Order {
        Fixture *f;
        bool dirty;             /* the WAL was written since the last sync was submitted */
        bool covered;           /* a sync in flight covers all */
        bool durable;
        unsigned n_syncs;
        StoreWait wait;
        bool called;
        bool was_durable;
} Order;

static int order_hook(void *userdata, StoreVfsCall call, StoreVfsFile file, const void *data, size_t n,
                      uint64_t offset) {
        Order *o = userdata;

        if (file != STORE_VFS_WAL)
                return 0;
        if (call == STORE_VFS_WRITE) {
                o->dirty = true;
                o->covered = o->durable = false;
        } else if (call == STORE_VFS_SYNC_SUBMITTED) {
                o->covered = true;
                o->dirty = false;
        } else if (call == STORE_VFS_SYNC_COMPLETED) {
                o->durable = o->covered && !o->dirty;
                o->n_syncs++;
        }
        return 0;
}

static void order_fn(StoreWait *wait, int error) {
        Order *o = container_of(wait, Order, wait);

        assert_int_equal(error, 0);
        o->called = true;
        o->was_durable = o->durable;
}

static void test_acknowledged_after_sync(void **state) {
        Fixture *f = *state;
        Order o = { .f = f };

        store_vfs_set_hook(order_hook, &o);
        (void)insert(f);
        store_wait(f->store, &o.wait, order_fn);
        assert_false(o.called);
        fixture_run_until(f, &o.called);
        assert_true(o.was_durable);
        assert_int_equal(o.n_syncs, 1);
        store_vfs_set_hook(NULL, NULL);
}

static void test_reads_wait(void **state) {
        Fixture *f = *state;
        Ack nothing = {}, write = {}, during = {}, gathered = {};
        StoreTask first, second;
        uint64_t n_syncs;

        /* Nothing pending: at once, but not from inside store_wait(). */
        n_syncs = store_stats(f->store)->n_syncs;
        store_wait(f->store, &nothing.wait, ack_fn);
        assert_false(nothing.called);
        assert_int_equal(reactor_tick(f->reactor, 0), 0);
        assert_true(nothing.called);
        assert_int_equal(nothing.error, 0);
        assert_int_equal(store_stats(f->store)->n_syncs, n_syncs);

        /* Committed, its sync in flight: a read sees the row, and its reply waits for that sync. */
        first = insert(f);
        store_wait(f->store, &write.wait, ack_fn);
        assert_int_equal(reactor_tick(f->reactor, 0), 0);
        assert_true(f->store->wal_syncing);
        assert_true(has(f, &first.id));
        store_wait(f->store, &during.wait, ack_fn);
        assert_false(during.called);

        /* A write that gathers behind it: a reader from now on may have seen it, and waits for the next sync. */
        second = insert(f);
        assert_true(has(f, &second.id));
        store_wait(f->store, &gathered.wait, ack_fn);
        fixture_run_until(f, &write.called);
        assert_true(during.called);
        assert_false(gathered.called);
        fixture_run_until(f, &gathered.called);
        assert_int_equal(store_stats(f->store)->n_syncs, n_syncs + 2);
}

static void test_undo_leaves_the_others(void **state) {
        Fixture *f = *state;
        uint64_t counts[_TASK_STATE_N], n_commits;
        StoreTask a, b, c = test_task("uid:1", TASK_QUEUED), d = test_task("uid:1", TASK_QUEUED);

        n_commits = store_stats(f->store)->n_commits;
        a = insert(f);
        begin(f);
        assert_int_equal(store_task_insert(f->store, &c), 0);
        assert_int_equal(store_end(f->store, false), 0);
        /* A fatal error undoes its request, even where the caller asks to keep it. */
        begin(f);
        assert_int_equal(store_task_insert(f->store, &d), 0);
        d.id = test_id();
        d.principal = NULL;
        assert_int_equal(store_task_insert(f->store, &d), -EINVAL);
        assert_int_equal(store_end(f->store, true), -EINVAL);
        b = insert(f);
        assert_int_equal(fixture_wait(f), 0);
        assert_true(has(f, &a.id) && has(f, &b.id));
        assert_false(has(f, &c.id) || has(f, &d.id));
        assert_int_equal(store_stats(f->store)->n_commits, n_commits + 1);
        assert_int_equal(store_task_count(f->store, counts), 0);
        assert_int_equal(counts[TASK_QUEUED], 2);
        fixture_close(f);
        fixture_open(f);
        assert_true(has(f, &a.id) && has(f, &b.id));
        assert_int_equal(store_task_count(f->store, counts), 0);
        assert_int_equal(counts[TASK_QUEUED], 2);
}

static void test_cancelled_waits(void **state) {
        Fixture *f = *state;
        Ack a = {}, b = {}, c = {};

        (void)insert(f);
        store_wait(f->store, &a.wait, ack_fn);
        store_wait(f->store, &b.wait, ack_fn);
        store_wait_cancel(&a.wait);
        assert_int_equal(reactor_tick(f->reactor, 0), 0);
        store_wait(f->store, &c.wait, ack_fn);
        store_wait_cancel(&c.wait);
        store_wait_cancel(&c.wait);
        fixture_run_until(f, &b.called);
        assert_false(a.called || c.called);
}

/* A callback that writes and waits again gets a commit of its own. */
typedef struct Chain {
        Fixture *f;
        StoreWait wait;
        unsigned n;
        bool done;
} Chain;

static void chain_fn(StoreWait *wait, int error) {
        Chain *chain = container_of(wait, Chain, wait);

        assert_int_equal(error, 0);
        if (++chain->n == 5) {
                chain->done = true;
                return;
        }
        (void)insert(chain->f);
        store_wait(chain->f->store, &chain->wait, chain_fn);
}

static void test_writing_callbacks(void **state) {
        Fixture *f = *state;
        Chain chain = { .f = f };
        uint64_t n_syncs = store_stats(f->store)->n_syncs;

        store_wait(f->store, &chain.wait, chain_fn);
        fixture_run_until(f, &chain.done);
        assert_int_equal(store_stats(f->store)->n_syncs, n_syncs + 4);
}

static void test_large_batch_is_committed_early(void **state) {
        Fixture *f = *state;
        uint64_t n_commits = store_stats(f->store)->n_commits;
        _cleanup_free_ char *prompt = malloc(MIB(1));
        Ack ack = {};

        memset(prompt, 'x', MIB(1));
        for (size_t i = 0; i < 11; i++) {
                StoreTask task = test_task("uid:1", TASK_QUEUED);

                task.prompt = prompt;
                task.n_prompt = MIB(1);
                begin(f);
                assert_int_equal(store_task_insert(f->store, &task), 0);
                end(f);
        }
        assert_int_equal(store_stats(f->store)->n_commits, n_commits + 2);
        store_wait(f->store, &ack.wait, ack_fn);
        assert_false(ack.called);
        fixture_run_until(f, &ack.called);
        assert_int_equal(ack.error, 0);
        assert_int_equal(store_stats(f->store)->n_commits, n_commits + 3);
}

/* ---- failures ---- */

static void assert_failed(Fixture *f) {
        StoreTask task = test_task("uid:1", TASK_QUEUED);

        assert_non_null(store_failure(f->store));
        assert_true(store_stats(f->store)->failed);
        assert_int_equal(store_begin(f->store), STORE_E_FAILED);
        assert_int_equal(store_task_insert(f->store, &task), STORE_E_FAILED);
        assert_int_equal(fixture_wait(f), -EIO);
}

static void test_failed_sync(void **state) {
        Fixture *f = *state;
        Ack a = {}, b = {};
        int fds[2], good = dup(f->store->wal_fd);

        /* A pipe can't be synced (EINVAL): the kernel really fails the operation. */
        assert_int_equal(pipe(fds), 0);
        assert_true(dup2(fds[1], f->store->wal_fd) >= 0);
        (void)insert(f);
        store_wait(f->store, &a.wait, ack_fn);
        assert_int_equal(reactor_tick(f->reactor, 0), 0);
        (void)insert(f);
        store_wait(f->store, &b.wait, ack_fn);
        fixture_run_until(f, &a.called);
        fixture_run_until(f, &b.called);
        assert_int_equal(a.error, -EIO);
        assert_int_equal(b.error, -EIO);
        /* Never retried: it stays so with a descriptor that works. */
        assert_true(dup2(good, f->store->wal_fd) >= 0);
        assert_failed(f);
        close(good);
        close(fds[0]);
        close(fds[1]);
        fixture_close(f);
        fixture_open(f);
        assert_null(store_failure(f->store));
        (void)insert(f);
        assert_int_equal(fixture_wait(f), 0);
}

typedef struct Fault {
        StoreVfsCall call;
        int code;
        bool hit;
} Fault;

static int fault_hook(void *userdata, StoreVfsCall call, StoreVfsFile file, const void *data, size_t n,
                      uint64_t offset) {
        Fault *fault = userdata;

        if (call != fault->call)
                return 0;
        fault->hit = true;
        return fault->code;
}

static void test_failed_commit(void **state) {
        Fixture *f = *state;
        Fault fault = { .call = STORE_VFS_WRITE, .code = SQLITE_FULL };
        StoreTask before = insert(f), lost;
        Ack ack = {};

        assert_int_equal(fixture_wait(f), 0);
        lost = insert(f);
        store_wait(f->store, &ack.wait, ack_fn);
        store_vfs_set_hook(fault_hook, &fault);
        fixture_run_until(f, &ack.called);
        store_vfs_set_hook(NULL, NULL);
        assert_true(fault.hit);
        assert_int_equal(ack.error, -EIO);
        assert_failed(f);
        assert_non_null(strstr(store_failure(f->store), "free some space"));
        fixture_close(f);
        fixture_open(f);
        assert_true(has(f, &before.id));
        assert_false(has(f, &lost.id));
}

static void test_low_space(void **state) {
        Fixture *f = *state;
        StoreTask task = insert(f), more = test_task("uid:1", TASK_QUEUED);
        StoreEvent event = { .type = "text", .data = "{}", .n_data = 2 };
        uint64_t seq;

        /* New work is refused, the work that there is can be written down. */
        f->store->space_is_low = true;
        begin(f);
        assert_int_equal(store_task_insert(f->store, &more), STORE_E_FULL);
        assert_int_equal(store_end(f->store, true), STORE_E_FULL);
        begin(f);
        task.state = TASK_SUCCEEDED;
        assert_int_equal(store_task_update(f->store, &task), 0);
        assert_int_equal(store_event_append(f->store, &task.id, &event, &seq), 0);
        end(f);
        assert_int_equal(fixture_wait(f), 0);
        assert_true(has(f, &task.id));
        assert_false(has(f, &more.id));
}

static void test_close_flushes(void **state) {
        Fixture *f = *state;
        Ack a = {}, b = {};
        StoreTask first = insert(f), second;

        store_wait(f->store, &a.wait, ack_fn);
        assert_int_equal(reactor_tick(f->reactor, 0), 0);
        second = insert(f);
        store_wait(f->store, &b.wait, ack_fn);
        fixture_close(f);
        assert_true(a.called && b.called);
        assert_int_equal(b.error, -ECANCELED);
        fixture_open(f);
        assert_true(has(f, &first.id) && has(f, &second.id));
}

/* As in a program that fails between opening its store and enabling its ring. */
static void test_close_on_a_ring_not_enabled(void **state) {
        Fixture *f = *state, idle = {};
        Ack ack = {};
        StoreTask task;

        fixture_close(f);
        memcpy(idle.dir, f->dir, sizeof(idle.dir));
        assert_int_equal(reactor_new(&idle.reactor), 0);
        fixture_open(&idle);
        task = insert(&idle);
        store_wait(idle.store, &ack.wait, ack_fn);
        assert_int_equal(reactor_tick(idle.reactor, 0), 0);
        assert_true(idle.store->wal_syncing);
        fixture_close(&idle);
        assert_true(ack.called);
        reactor_free(idle.reactor);
        fixture_open(f);
        assert_true(has(f, &task.id));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_batch, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_acknowledged_after_sync, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_reads_wait, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_undo_leaves_the_others, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_cancelled_waits, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_writing_callbacks, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_large_batch_is_committed_early, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_failed_sync, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_failed_commit, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_low_space, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_close_flushes, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_close_on_a_ring_not_enabled, fixture_setup, fixture_teardown),
        };

        if (skip_without_io_uring())
                return 0;
        return cmocka_run_group_tests_name("store-commit", tests, NULL, NULL);
}

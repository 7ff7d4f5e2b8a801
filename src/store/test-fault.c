/*
 * The Nth step fails, for every N: each read, write, sync, truncation and opening of a file that SQLite makes, and each
 * of its allocations, once or from then on. Whatever happens on the way, a store reopened without faults is sound, has
 * each row that was acknowledged, has no half of a request, and has counts that agree with its rows. And: a file system
 * that really is full.
 */

#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "store/test-util.h"

typedef struct Plan {
        StoreVfsCall call;
        int code;
        bool persistent;
        uint64_t fail_at;       /* counts from 1; 0: none */
        uint64_t n_calls;
        bool hit;
} Plan;

/* SQLCipher loses its context where memory is short in sqlite3_key_v2(); the other tests look for leaks of ours. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
        return "leak:libsqlcipher";
}

static Plan plan;
static Plan alloc_plan;

static bool plan_fails(Plan *p) {
        if (!p->fail_at)
                return false;
        p->n_calls++;
        if (p->n_calls != p->fail_at && !(p->persistent && p->n_calls > p->fail_at))
                return false;
        p->hit = true;
        return true;
}

static int fault_hook(void *userdata, StoreVfsCall call, StoreVfsFile file, const void *data, size_t n,
                      uint64_t offset) {
        return call == plan.call && plan_fails(&plan) ? plan.code : 0;
}

static sqlite3_mem_methods real_mem;

static void *fault_malloc(int n) {
        return plan_fails(&alloc_plan) ? NULL : real_mem.xMalloc(n);
}

static void *fault_realloc(void *p, int n) {
        return plan_fails(&alloc_plan) ? NULL : real_mem.xRealloc(p, n);
}

/* ---- the scenario ---- */

typedef struct Outcome {
        bool opened;
        Id ids[3];
        bool acknowledged[3];
} Outcome;

static int scenario_request(Fixture *f, Outcome *o, size_t i) {
        StoreTask task = test_task("uid:1", TASK_QUEUED), first = test_task("uid:1", TASK_SUCCEEDED);
        StoreBatch batch = { .id = test_id(), .principal = (char *)"uid:1", .n_tasks = 2 };
        StoreEvent event = { .type = "text", .data = "{}", .n_data = 2 };
        Ack ack = {};
        uint64_t seq;
        int r;

        o->ids[i] = task.id;
        task.batch = first.batch = batch.id;
        r = store_begin(f->store);
        if (r)
                return r;
        r = store_batch_insert(f->store, &batch);
        if (!r)
                r = store_task_insert(f->store, &first);
        if (!r)
                r = store_task_insert(f->store, &task);
        if (!r)
                r = store_dependency_insert(f->store, &task.id, &first.id, STORE_ON_SUCCESS);
        if (!r)
                r = store_event_append(f->store, &task.id, &event, &seq);
        if (!r) {
                task.state = TASK_RUNNING;
                task.usage.input_tokens = 7;
                r = store_task_update(f->store, &task);
        }
        if (!r)
                r = store_usage_add(f->store, 1, "uid:1", "codex", NULL, &task.usage, 1);
        if (r) {
                assert_int_equal(store_end(f->store, false), 0);
                return r;
        }
        r = store_end(f->store, true);
        if (r)
                return r;
        store_wait(f->store, &ack.wait, ack_fn);
        fixture_run_until(f, &ack.called);
        o->acknowledged[i] = ack.error == 0;
        return ack.error;
}

static Outcome scenario(Fixture *f) {
        char refused[STORE_REFUSED_MAX] = "";
        Outcome o = {};
        int r;

        r = store_open(&f->store, f->reactor, f->dir, test_key, refused);
        if (r) {
                assert_null(f->store);
                assert_true(r < 0 || (r == STORE_E_REFUSED && *refused));
                return o;
        }
        o.opened = true;
        /* A checkpoint in every quiet tick. */
        f->store->wal_soft = 1;
        for (size_t i = 0; i < ELEMENTSOF(o.ids); i++) {
                r = scenario_request(f, &o, i);
                if (store_failure(f->store)) {
                        Ack ack = {};

                        assert_true(r != 0 || o.acknowledged[i]);
                        assert_int_equal(store_begin(f->store), STORE_E_FAILED);
                        store_wait(f->store, &ack.wait, ack_fn);
                        fixture_run_until(f, &ack.called);
                        assert_int_equal(ack.error, -EIO);
                }
        }
        fixture_close(f);
        return o;
}

static int dependency_fn(const Id *on, TaskState on_state, StoreCondition condition, void *userdata) {
        assert_int_equal(on_state, TASK_SUCCEEDED);
        (*(uint64_t *)userdata)++;
        return 0;
}

static int usage_fn(const char *key, const StoreUsage *sum, uint64_t n_attempts, void *userdata) {
        assert_int_equal(sum->input_tokens, 7 * n_attempts);
        *(uint64_t *)userdata = n_attempts;
        return 0;
}

static void assert_sound(Fixture *f, const Outcome *o) {
        uint64_t counts[_TASK_STATE_N], batch_counts[_TASK_STATE_N], n = 0, n_dependencies = 0, n_attempts = 0;
        StoreUsage usage;
        char refused[STORE_REFUSED_MAX] = "";

        fixture_open(f);
        assert_int_equal(store_verify(f->store, refused), 0);
        for (size_t i = 0; i < ELEMENTSOF(o->ids); i++) {
                _cleanup_(store_task_freep) StoreTask *task = NULL;
                int r = o->opened ? store_task_load(f->store, &o->ids[i], STORE_TASK_PROMPT, &task) : STORE_E_NOT_FOUND;

                if (o->acknowledged[i])
                        assert_int_equal(r, 0);
                if (r) {
                        assert_int_equal(r, STORE_E_NOT_FOUND);
                        continue;
                }
                n++;
                assert_non_null(task->prompt);
                assert_int_equal(task->last_seq, 1);
                assert_int_equal(task->state, TASK_RUNNING);
                assert_int_equal(store_batch_count(f->store, &task->batch, batch_counts, &usage), 0);
                assert_int_equal(batch_counts[TASK_RUNNING], 1);
                assert_int_equal(batch_counts[TASK_SUCCEEDED], 1);
                assert_int_equal(batch_counts[TASK_QUEUED], 0);
                assert_int_equal(usage.input_tokens, 7);
                assert_int_equal(store_dependency_list(f->store, &task->id, dependency_fn, &n_dependencies), 0);
                assert_int_equal(n_dependencies, n);
        }
        assert_int_equal(store_usage_list(f->store, STORE_BY_PRINCIPAL, 1, 1, NULL, usage_fn, &n_attempts), 0);
        assert_int_equal(n_attempts, n);
        assert_int_equal(store_task_count(f->store, counts), 0);
        assert_int_equal(counts[TASK_RUNNING], n);
        assert_int_equal(counts[TASK_SUCCEEDED], n);
        assert_int_equal(counts[TASK_QUEUED], 0);
        fixture_close(f);
}

static void empty_dir(Fixture *f) {
        static const char *const names[] = { STORE_DATABASE, STORE_WAL, STORE_MARKER, STORE_MARKER ".new",
                                             STORE_DATABASE "-journal" };

        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                path_remove(f->dir, names[i]);
}

/* Each N until there is no such step any more. */
static uint64_t run_plan(Fixture *f, Plan *p, Plan what, uint64_t stride) {
        uint64_t n_runs = 0, n_acknowledged = 0;

        for (uint64_t n = 1;; n += stride) {
                Outcome o;

                empty_dir(f);
                *p = what;
                p->fail_at = n;
                store_vfs_set_hook(fault_hook, NULL);
                o = scenario(f);
                store_vfs_set_hook(NULL, NULL);
                p->fail_at = 0;
                if (!p->hit) {
                        assert_true(o.opened);
                        for (size_t i = 0; i < ELEMENTSOF(o.ids); i++)
                                assert_true(o.acknowledged[i]);
                        break;
                }
                n_runs++;
                for (size_t i = 0; i < ELEMENTSOF(o.ids); i++)
                        n_acknowledged += o.acknowledged[i];
                assert_sound(f, &o);
        }
        print_message("# %llu runs, %llu rows acknowledged\n", (unsigned long long)n_runs,
                      (unsigned long long)n_acknowledged);
        return n_runs;
}

static int fault_setup(void **state) {
        int r = fixture_setup(state);

        if (!r)
                fixture_close(*state);
        return r;
}

static void test_vfs_faults(void **state) {
        static const Plan kinds[] = {
                { .call = STORE_VFS_WRITE, .code = SQLITE_IOERR_WRITE },
                { .call = STORE_VFS_WRITE, .code = SQLITE_FULL },
                { .call = STORE_VFS_SYNC, .code = SQLITE_IOERR_FSYNC },
                { .call = STORE_VFS_TRUNCATE, .code = SQLITE_IOERR_TRUNCATE },
                { .call = STORE_VFS_READ, .code = SQLITE_IOERR_READ },
                { .call = STORE_VFS_OPEN, .code = SQLITE_CANTOPEN },
        };
        Fixture *f = *state;

        for (size_t i = 0; i < 2 * ELEMENTSOF(kinds); i++) {
                Plan p = kinds[i / 2];

                p.persistent = i % 2;
                assert_true(run_plan(f, &plan, p, 1) > 0);
        }
}

static void test_alloc_faults(void **state) {
        Fixture *f = *state;

        /* A prime stride: the opening alone makes thousands of allocations. */
        assert_true(run_plan(f, &alloc_plan, (Plan){}, 41) > 0);
        assert_true(run_plan(f, &alloc_plan, (Plan){ .persistent = true }, 67) > 0);
}

/* Allocations of the requests alone, each of them. */
static void test_alloc_faults_of_requests(void **state) {
        Fixture *f = *state;
        uint64_t n_acknowledged = 0, n = 1;

        for (;; n += 3) {
                Outcome o = { .opened = true };
                bool hit;

                empty_dir(f);
                fixture_open(f);
                f->store->wal_soft = 1;
                alloc_plan = (Plan){ .fail_at = n };
                for (size_t i = 0; i < ELEMENTSOF(o.ids); i++)
                        (void)scenario_request(f, &o, i);
                hit = alloc_plan.hit;
                alloc_plan = (Plan){};
                for (size_t i = 0; i < ELEMENTSOF(o.ids); i++)
                        n_acknowledged += o.acknowledged[i];
                /* One that failed for want of memory leaves a store that goes on, or one that says that it failed. */
                if (!store_failure(f->store)) {
                        begin(f);
                        end(f);
                        assert_int_equal(fixture_wait(f), 0);
                }
                fixture_close(f);
                assert_sound(f, &o);
                if (!hit)
                        break;
        }
        print_message("# %llu runs, %llu rows acknowledged\n", (unsigned long long)n,
                      (unsigned long long)n_acknowledged);
        assert_true(n > 10);
}

/* ---- a file system that is full ---- */

/* In a child with a mount namespace of its own. 0: as it should be; else the line. */
static int full_main(const char *dir) {
#define check(condition) do {                   \
                if (!(condition))               \
                        return __LINE__ - base; \
        } while (0)
        const int base = __LINE__;
        char refused[STORE_REFUSED_MAX], filler[512];
        _cleanup_free_ char *noise = calloc(1, MIB(1));
        _cleanup_close_ int fd = -1;
        uint64_t seq;
        Fixture f = {};
        StoreTask task = test_task("uid:1", TASK_QUEUED), more = test_task("uid:1", TASK_QUEUED);
        StoreEvent event = { .type = "text", .data = "{}", .n_data = 2 };
        Ack ack = {};

        check(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
        check(mount("tmpfs", dir, "tmpfs", 0, "size=24m") == 0);
        check(reactor_new(&f.reactor) == 0 && reactor_enable(f.reactor) == 0);
        check(store_open(&f.store, f.reactor, dir, test_key, refused) == 0);
        check(store_begin(f.store) == 0 && store_task_insert(f.store, &task) == 0 && store_end(f.store, true) == 0);
        snprintf(filler, sizeof(filler), "%s/filler", dir);
        fd = open(filler, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        check(fd >= 0 && noise);
        store_wait(f.store, &ack.wait, ack_fn);
        while (!ack.called)
                check(reactor_tick(f.reactor, USEC_PER_SEC) == 0);
        check(ack.error == 0);

        /* Less than the reserve is left: new tasks are refused, what is there is written on. */
        for (int i = 0; i < 18; i++)
                check(write(fd, noise, MIB(1)) == MIB(1));
        check(store_begin(f.store) == 0);
        check(store_task_insert(f.store, &more) == STORE_E_FULL);
        check(store_end(f.store, true) == STORE_E_FULL);
        check(store_begin(f.store) == 0 && store_event_append(f.store, &task.id, &event, &seq) == 0);
        check(store_end(f.store, true) == 0);
        ack = (Ack){};
        store_wait(f.store, &ack.wait, ack_fn);
        while (!ack.called)
                check(reactor_tick(f.reactor, USEC_PER_SEC) == 0);
        check(ack.error == 0 && !store_failure(f.store));

        /* Nothing at all is left: the commit fails, and the store with it. */
        while (write(fd, noise, 4096) > 0)
                ;
        for (int i = 0; i < 2000 && !store_failure(f.store); i++) {
                check(store_begin(f.store) == 0 && store_event_append(f.store, &task.id, &event, &seq) == 0);
                check(store_end(f.store, true) == 0);
                ack = (Ack){};
                store_wait(f.store, &ack.wait, ack_fn);
                while (!ack.called)
                        check(reactor_tick(f.reactor, USEC_PER_SEC) == 0);
        }
        check(store_failure(f.store) && ack.error == -EIO && strstr(store_failure(f.store), "free some space"));
        f.store = store_close(f.store);

        /* Space is made: it opens, and has what was acknowledged (the last event was not). */
        check(ftruncate(fd, 0) == 0);
        check(store_open(&f.store, f.reactor, dir, test_key, refused) == 0);
        check(store_verify(f.store, refused) == 0);
        {
                _cleanup_(store_task_freep) StoreTask *loaded = NULL;

                check(store_task_load(f.store, &task.id, 0, &loaded) == 0);
                check(loaded->last_seq == seq - 1);
        }
        store_close(f.store);
        reactor_free(f.reactor);
        return 0;
}

static void test_full_file_system(void **state) {
        Fixture *f = *state;
        int status;
        pid_t pid;

        if (geteuid() != 0) {
                print_message("# skipped: mounting a small tmpfs needs root\n");
                skip();
        }
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                if (unshare(CLONE_NEWNS) < 0)
                        _exit(255);
                _exit(full_main(f->dir));
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        if (WEXITSTATUS(status) == 255) {
                print_message("# skipped: no mount namespace here\n");
                skip();
        }
        if (WEXITSTATUS(status))
                print_error("line %d of full_main()\n", WEXITSTATUS(status));
        assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_vfs_faults, fault_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_alloc_faults, fault_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_alloc_faults_of_requests, fault_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_full_file_system, fault_setup, fixture_teardown),
        };
        sqlite3_mem_methods mem;

        if (skip_without_io_uring())
                return 0;
        if (sqlite3_config(SQLITE_CONFIG_GETMALLOC, &real_mem) != SQLITE_OK)
                return 1;
        mem = real_mem;
        mem.xMalloc = fault_malloc;
        mem.xRealloc = fault_realloc;
        if (sqlite3_config(SQLITE_CONFIG_MALLOC, &mem) != SQLITE_OK)
                return 1;
        log_set_max_level(LOG_EMERG);
        return cmocka_run_group_tests_name("store-fault", tests, NULL, NULL);
}

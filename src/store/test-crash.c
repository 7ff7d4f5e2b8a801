/*
 * Power cuts, simulated. A hook in the VFS and at the ring's syncs keeps, for the database and for the WAL, an image of
 * what is surely on the disk, and a list of the writes since the last sync. At random moments the power is cut: each of
 * those writes has reached the disk or not, whole or in part, in any order. What is then there must open, be sound, and
 * hold every row that was acknowledged.
 *
 * Two controls cut the power of a disk that ignores syncs of the WAL, or of the database: they must lose rows, or the
 * test would prove nothing. Last, a process is killed while it writes.
 */

#include <signal.h>
#include <sys/wait.h>

#include "store/test-util.h"

#define SECTOR 512
#define N_FILES 2               /* the database, the WAL */
#define N_CLIENTS 6
#define N_ROWS_MAX 4000

typedef struct Write {
        ListLink link;
        bool truncate;
        uint64_t offset;
        size_t n;
        uint8_t data[];
} Write;

typedef struct Image {
        uint8_t *data;
        size_t n;
        List writes;            /* not known to be on the disk */
        size_t n_writes;
        size_t n_covered;       /* of them: before the sync that is in flight */
        bool ignores_sync;
} Image;

typedef struct Client {
        struct Sim *sim;
        StoreWait wait;
        Id id;
} Client;

typedef struct Sim {
        Fixture *f;
        Image images[N_FILES];
        char dir[64];           /* where what is left by a cut is put, and opened */
        char *marker;
        size_t n_marker;
        unsigned seed;
        unsigned cut_one_in;
        Client clients[N_CLIENTS];
        Id acknowledged[N_ROWS_MAX];
        size_t n_acknowledged;
        size_t n_cuts, n_lost, n_refused;
        size_t n_idle;
        bool pause;
} Sim;

static Image *sim_image(Sim *sim, StoreVfsFile file) {
        return file == STORE_VFS_DATABASE ? &sim->images[0] : file == STORE_VFS_WAL ? &sim->images[1] : NULL;
}

static void image_init(Image *image, const char *dir, const char *name) {
        char *data = NULL;

        *image = (Image){};
        list_init(&image->writes);
        if (path_read(dir, name, &data, &image->n))
                image->data = (uint8_t *)data;
}

static void image_deinit(Image *image) {
        ListLink *link;

        while ((link = list_pop(&image->writes)))
                free(container_of(link, Write, link));
        free(image->data);
}

static void image_resize(uint8_t **data, size_t *n, size_t size) {
        *data = realloc(*data, size + 1);
        assert_non_null(*data);
        if (size > *n)
                memset(*data + *n, 0, size - *n);
        *n = size;
}

static void image_apply(uint8_t **data, size_t *n, const Write *w, size_t from, size_t to) {
        if (w->truncate) {
                image_resize(data, n, w->offset);
                return;
        }
        if (*n < w->offset + to)
                image_resize(data, n, w->offset + to);
        memcpy(*data + w->offset + from, w->data + from, to - from);
}

static void image_settle(Image *image, size_t n_writes) {
        for (; n_writes > 0 && !image->ignores_sync; n_writes--) {
                Write *w = container_of(list_pop(&image->writes), Write, link);

                image_apply(&image->data, &image->n, w, 0, w->n);
                image->n_writes--;
                free(w);
        }
}

/* What the disk holds after a cut: the sure part, and of the rest, sector by sector, whatever fate decides. */
static void image_cut(Sim *sim, Image *image, const char *name) {
        uint8_t *data = malloc(image->n + 1);
        size_t n = image->n;
        /* Sometimes nothing of the rest came through, or all; else each sector has its chance. */
        unsigned mode = (unsigned)rand_r(&sim->seed) % 4;

        assert_non_null(data);
        if (n)
                memcpy(data, image->data, n);
        list_for_each_safe(i, &image->writes) {
                Write *w = container_of(i, Write, link);

                if (mode == 0)
                        break;
                for (size_t from = 0; from < w->n || w->truncate; from += SECTOR) {
                        if (mode == 1 || rand_r(&sim->seed) % 2)
                                image_apply(&data, &n, w, from, MIN(from + SECTOR, w->n));
                        if (w->truncate)
                                break;
                }
        }
        path_write(sim->dir, name, data, n);
        free(data);
}

static void sim_cut(Sim *sim);

static int sim_hook(void *userdata, StoreVfsCall call, StoreVfsFile file, const void *data, size_t n, uint64_t offset) {
        Sim *sim = userdata;
        Image *image = sim_image(sim, file);
        Write *w;

        if (!image)
                return 0;
        switch (call) {
        case STORE_VFS_WRITE:
        case STORE_VFS_TRUNCATE:
                if (sim->cut_one_in && (unsigned)rand_r(&sim->seed) % sim->cut_one_in == 0)
                        sim_cut(sim);
                w = malloc(sizeof(*w) + n);
                assert_non_null(w);
                *w = (Write){ .truncate = call == STORE_VFS_TRUNCATE, .offset = offset, .n = n };
                if (n)
                        memcpy(w->data, data, n);
                list_link_tail(&image->writes, &w->link);
                image->n_writes++;
                break;
        case STORE_VFS_SYNC:
                image_settle(image, image->n_writes);
                image->n_covered = 0;
                break;
        case STORE_VFS_SYNC_SUBMITTED:
                image->n_covered = image->n_writes;
                break;
        case STORE_VFS_SYNC_COMPLETED:
                image_settle(image, image->n_covered);
                image->n_covered = 0;
                break;
        case STORE_VFS_OPEN:
        case STORE_VFS_READ:
                break;
        }
        return 0;
}

/* Opens what a cut leaves, and looks for every acknowledged row. */
static void sim_cut(Sim *sim) {
        char refused[STORE_REFUSED_MAX] = "";
        Reactor *reactor;
        Store *store = NULL;
        int r;

        store_vfs_set_hook(NULL, NULL);
        sim->n_cuts++;
        image_cut(sim, &sim->images[0], STORE_DATABASE);
        image_cut(sim, &sim->images[1], STORE_WAL);
        path_write(sim->dir, STORE_MARKER, sim->marker, sim->n_marker);
        assert_int_equal(reactor_new(&reactor), 0);
        assert_int_equal(reactor_enable(reactor), 0);
        r = store_open(&store, reactor, sim->dir, test_key, refused);
        if (r == 0)
                r = store_verify(store, refused);
        if (r) {
                if (sim->n_refused++ == 0)
                        print_message("# first refusal: %d %s\n", r, refused);
        } else {
                uint64_t counts[_TASK_STATE_N];
                size_t n_lost = 0;

                for (size_t i = 0; i < sim->n_acknowledged; i++) {
                        _cleanup_(store_task_freep) StoreTask *task = NULL;

                        r = store_task_load(store, &sim->acknowledged[i], STORE_TASK_PROMPT, &task);
                        if (r == STORE_E_NOT_FOUND)
                                n_lost++;
                        else if (r || !task->prompt || task->last_seq != 1)
                                sim->n_refused++;
                }
                sim->n_lost += n_lost;
                assert_int_equal(store_task_count(store, counts), 0);
                if (n_lost == 0)
                        assert_true(counts[TASK_QUEUED] >= sim->n_acknowledged);
        }
        store_close(store);
        reactor_free(reactor);
        store_vfs_set_hook(sim_hook, sim);
}

static void client_insert(Client *client);

static void client_fn(StoreWait *wait, int error) {
        Client *client = container_of(wait, Client, wait);
        Sim *sim = client->sim;

        if (error == -ECANCELED)
                return;
        assert_int_equal(error, 0);
        if (sim->n_acknowledged < N_ROWS_MAX)
                sim->acknowledged[sim->n_acknowledged++] = client->id;
        if (sim->pause)
                sim->n_idle++;
        else
                client_insert(client);
}

static void client_insert(Client *client) {
        Store *store = client->sim->f->store;
        StoreTask task = test_task("uid:1", TASK_QUEUED);
        StoreEvent event = { .type = "state", .data = "{}", .n_data = 2 };
        uint64_t seq;

        client->id = task.id;
        assert_int_equal(store_begin(store), 0);
        assert_int_equal(store_task_insert(store, &task), 0);
        assert_int_equal(store_event_append(store, &task.id, &event, &seq), 0);
        assert_int_equal(store_end(store, true), 0);
        store_wait(store, &client->wait, client_fn);
}

static void sim_run(Sim *sim, Fixture *f, unsigned seed, size_t n_cuts, StoreVfsFile ignores) {
        uint64_t n_checkpoints;

        *sim = (Sim){ .f = f, .seed = seed };
        fixture_make_dir(sim->dir);
        fixture_close(f);
        assert_true(path_read(f->dir, STORE_MARKER, &sim->marker, &sim->n_marker));
        image_init(&sim->images[0], f->dir, STORE_DATABASE);
        image_init(&sim->images[1], f->dir, STORE_WAL);
        if (sim_image(sim, ignores))
                sim_image(sim, ignores)->ignores_sync = true;
        store_vfs_set_hook(sim_hook, sim);
        fixture_open(f);
        /* Small, so that there are many checkpoints, of both kinds. */
        f->store->wal_soft = KIB(120);
        f->store->wal_hard = KIB(200);
        n_checkpoints = store_stats(f->store)->n_checkpoints;
        sim->cut_one_in = 12;
        for (size_t i = 0; i < N_CLIENTS; i++) {
                sim->clients[i].sim = sim;
                client_insert(&sim->clients[i]);
        }
        while (sim->n_cuts < n_cuts && sim->n_acknowledged < N_ROWS_MAX) {
                assert_int_equal(reactor_tick(f->reactor, USEC_PER_SEC), 0);
                /* At times a pause, so that ticks without an open transaction come too, and checkpoints in them. */
                if (rand_r(&sim->seed) % 16 == 0)
                        sim->pause = true;
                if (sim->n_idle < N_CLIENTS)
                        continue;
                sim->pause = false;
                sim->n_idle = 0;
                for (size_t i = 0; i < N_CLIENTS; i++)
                        client_insert(&sim->clients[i]);
        }
        sim->pause = true;
        sim->cut_one_in = 0;
        assert_int_equal(fixture_wait(f), 0);
        print_message(
                "# %zu cuts, %zu acknowledged, %zu lost, %zu refused, %llu checkpoints, %llu syncs of the WAL on the "
                "thread\n",
                sim->n_cuts, sim->n_acknowledged, sim->n_lost, sim->n_refused,
                (unsigned long long)(store_stats(f->store)->n_checkpoints - n_checkpoints),
                (unsigned long long)store_stats(f->store)->n_header_syncs);
        assert_true(store_stats(f->store)->n_checkpoints > n_checkpoints + 2);
        fixture_close(f);
        store_vfs_set_hook(NULL, NULL);
        image_deinit(&sim->images[0]);
        image_deinit(&sim->images[1]);
        fixture_remove_dir(sim->dir);
        free(sim->marker);
}

static void test_power_cuts(void **state) {
        _cleanup_free_ Sim *sim = malloc(sizeof(*sim));

        for (unsigned seed = 1; seed <= 2; seed++) {
                sim_run(sim, *state, seed, 80, STORE_VFS_OTHER);
                assert_true(sim->n_cuts > 50);
                assert_int_equal(sim->n_refused, 0);
                assert_int_equal(sim->n_lost, 0);
        }
}

static void test_power_cuts_without_wal_sync(void **state) {
        _cleanup_free_ Sim *sim = malloc(sizeof(*sim));

        sim_run(sim, *state, 1, 80, STORE_VFS_WAL);
        assert_true(sim->n_lost + sim->n_refused > 0);
}

static void test_power_cuts_without_database_sync(void **state) {
        _cleanup_free_ Sim *sim = malloc(sizeof(*sim));

        sim_run(sim, *state, 1, 80, STORE_VFS_DATABASE);
        assert_true(sim->n_lost + sim->n_refused > 0);
}

/* ---- kill -9 ---- */

#define N_KILLS 12

/* The child prints each id once it is acknowledged, until it is killed. */
static int writer_main(const char *dir) {
        char refused[STORE_REFUSED_MAX];
        Reactor *reactor = NULL;
        Fixture f = {};

        if (reactor_new(&reactor) != 0 || reactor_enable(reactor) != 0 ||
            store_open(&f.store, reactor, dir, test_key, refused) != 0)
                return 1;
        f.store->wal_soft = KIB(120);
        for (;;) {
                StoreTask task = {
                        .principal = (char *)"uid:1", .state = TASK_QUEUED, .prompt = (char *)"p", .n_prompt = 1
                };
                Ack ack = {};

                if (id_new(&task.id) || store_begin(f.store) || store_task_insert(f.store, &task) ||
                    store_end(f.store, true))
                        return 1;
                store_wait(f.store, &ack.wait, ack_fn);
                while (!ack.called)
                        if (reactor_tick(reactor, USEC_PER_SEC))
                                return 1;
                if (ack.error || write(STDOUT_FILENO, &task.id, sizeof(task.id)) != sizeof(task.id))
                        return 1;
        }
}

static void test_kill(void **state) {
        Fixture *f = *state;
        _cleanup_free_ Id *ids = malloc(100000 * sizeof(Id));
        size_t n_ids = 0;
        unsigned seed = 7;

        for (size_t i = 0; i < N_KILLS; i++) {
                size_t n_before_kill = 1 + (size_t)rand_r(&seed) % 60;
                int fds[2], status;
                pid_t pid;

                fixture_close(f);
                assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
                pid = fork();
                assert_true(pid >= 0);
                if (pid == 0) {
                        dup2(fds[1], STDOUT_FILENO);
                        execl("/proc/self/exe", "test-store-crash", "writer", f->dir, NULL);
                        _exit(99);
                }
                close(fds[1]);
                for (size_t n = 0; read(fds[0], &ids[n_ids], sizeof(Id)) == sizeof(Id); n++) {
                        n_ids++;
                        if (n == n_before_kill)
                                kill(pid, SIGKILL);
                        assert_true(n_ids < 100000);
                }
                close(fds[0]);
                assert_int_equal(waitpid(pid, &status, 0), pid);
                assert_true(WIFSIGNALED(status));
                fixture_open(f);
                for (size_t j = 0; j < n_ids; j++) {
                        _cleanup_(store_task_freep) StoreTask *task = NULL;

                        assert_int_equal(store_task_load(f->store, &ids[j], 0, &task), 0);
                }
        }
        print_message("# %d kills, %zu rows acknowledged and found\n", N_KILLS, n_ids);
}

int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_power_cuts, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_power_cuts_without_wal_sync, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_power_cuts_without_database_sync, fixture_setup, fixture_teardown),
                cmocka_unit_test_setup_teardown(test_kill, fixture_setup, fixture_teardown),
        };

        if (argc == 3 && streq(argv[1], "writer"))
                return writer_main(argv[2]);
        if (skip_without_io_uring())
                return 0;
        log_set_max_level(LOG_EMERG);
        return cmocka_run_group_tests_name("store-crash", tests, NULL, NULL);
}

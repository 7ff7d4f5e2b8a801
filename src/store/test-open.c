/*
 * What is refused, with what sentence, and that refusing changes no byte in the directory: in one that was closed in
 * good order, and in one as a killed process leaves it, with a WAL. What is no damage (a torn tail of the WAL, a torn
 * page that the WAL has whole) opens. And: nothing that was written can be found in the files in plain.
 */

#include <dirent.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "store/test-util.h"

#define N_CHECKPOINTED 40
#define N_IN_WAL 5
#define MARK "plaintext-marker-7c1d6e3f"

/* ---- directories to break ---- */

typedef struct Scene {
        Reactor *reactor;
        char closed[64];        /* closed in good order */
        char killed[64];        /* as after kill -9: a database with N_CHECKPOINTED tasks, a WAL with N_IN_WAL more */
        char dir[64];           /* a copy, to be broken */
        Id last;
} Scene;

static Id scene_insert(Fixture *f) {
        StoreTask task = test_task("uid:1", TASK_QUEUED);
        StoreEvent event = { .type = "text", .data = "{\"text\":\"" MARK "\"}", .raw = MARK, .n_raw = strlen(MARK) };
        uint64_t seq;

        task.prompt = task.result = (char *)MARK " and more of it";
        task.n_prompt = task.n_result = strlen(task.prompt);
        task.request = (char *)"{\"metadata\":\"" MARK "\"}";
        task.detail = (char *)MARK;
        event.n_data = strlen(event.data);
        begin(f);
        assert_int_equal(store_task_insert(f->store, &task), 0);
        assert_int_equal(store_event_append(f->store, &task.id, &event, &seq), 0);
        end(f);
        return task.id;
}

/* The files of an open store are copied by a child: a close() here would drop the store's locks. */
static void copy_dir_of_open(const char *from, const char *to) {
        pid_t pid = fork();
        int status;

        assert_true(pid >= 0);
        if (pid == 0) {
                copy_dir(from, to);
                _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

static int scene_setup(void **state) {
        Scene *s = calloc(1, sizeof(*s));
        Fixture f = {};

        assert_int_equal(reactor_new(&s->reactor), 0);
        assert_int_equal(reactor_enable(s->reactor), 0);
        fixture_make_dir(s->closed);
        fixture_make_dir(s->killed);
        fixture_make_dir(s->dir);
        f.reactor = s->reactor;
        memcpy(f.dir, s->closed, sizeof(f.dir));
        fixture_open(&f);
        for (size_t i = 0; i < N_CHECKPOINTED; i++)
                (void)scene_insert(&f);
        fixture_close(&f);
        fixture_open(&f);
        for (size_t i = 0; i < N_IN_WAL; i++) {
                s->last = scene_insert(&f);
                assert_int_equal(fixture_wait(&f), 0);
        }
        copy_dir_of_open(s->closed, s->killed);
        fixture_close(&f);
        *state = s;
        return 0;
}

static int scene_teardown(void **state) {
        Scene *s = *state;

        reactor_free(s->reactor);
        fixture_remove_dir(s->closed);
        fixture_remove_dir(s->killed);
        fixture_remove_dir(s->dir);
        free(s);
        return 0;
}

static uint64_t hash_bytes(uint64_t h, const void *data, size_t n) {
        const uint8_t *p = data;

        for (size_t i = 0; i < n; i++)
                h = (h ^ p[i]) * UINT64_C(0x100000001b3);
        return h;
}

/* Names, sizes and contents of all files, in any order. */
static uint64_t hash_dir(const char *dir) {
        DIR *d = opendir(dir);
        struct dirent *e;
        uint64_t sum = 0;

        assert_non_null(d);
        while ((e = readdir(d))) {
                _cleanup_free_ char *data = NULL;
                uint64_t h;
                size_t n;

                if (e->d_name[0] == '.')
                        continue;
                assert_true(path_read(dir, e->d_name, &data, &n));
                h = hash_bytes(UINT64_C(0xcbf29ce484222325), e->d_name, strlen(e->d_name) + 1);
                h = hash_bytes(h, &n, sizeof(n));
                sum += hash_bytes(h, data, n);
        }
        closedir(d);
        return sum;
}

/* ---- ways to break them ---- */

typedef struct Breakage {
        const char *name;
        void (*apply)(Scene *s);
        const char *says;
        bool needs_wal;
} Breakage;

static void flip(Scene *s, const char *name, size_t offset) {
        _cleanup_free_ char *data = NULL;
        size_t n;

        assert_true(path_read(s->dir, name, &data, &n));
        assert_true(offset < n);
        data[offset] ^= 1;
        path_write(s->dir, name, data, n);
}

static void cut(Scene *s, const char *name, size_t n_less) {
        _cleanup_free_ char *data = NULL;
        size_t n;

        assert_true(path_read(s->dir, name, &data, &n));
        path_write(s->dir, name, data, n - MIN(n, n_less));
}

static void remove_database(Scene *s) {
        path_remove(s->dir, STORE_DATABASE);
}

static void remove_database_and_marker(Scene *s) {
        path_remove(s->dir, STORE_DATABASE);
        path_remove(s->dir, STORE_MARKER);
}

static void empty_database(Scene *s) {
        cut(s, STORE_DATABASE, SIZE_MAX);
}

static void empty_database_remove_marker(Scene *s) {
        cut(s, STORE_DATABASE, SIZE_MAX);
        path_remove(s->dir, STORE_MARKER);
}

static void halve_database(Scene *s) {
        _cleanup_free_ char *data = NULL;
        size_t n;

        assert_true(path_read(s->dir, STORE_DATABASE, &data, &n));
        path_write(s->dir, STORE_DATABASE, data, n / 2);
}

static void cut_a_byte(Scene *s) {
        cut(s, STORE_DATABASE, 1);
}

static void halve_database_remove_marker(Scene *s) {
        halve_database(s);
        path_remove(s->dir, STORE_MARKER);
}

static void flip_salt(Scene *s) {
        flip(s, STORE_DATABASE, 3);
}

static void flip_header(Scene *s) {
        flip(s, STORE_DATABASE, 30);
}

/* Page 2 is the root of the first table, and no page of the WAL's. */
static void flip_page(Scene *s) {
        flip(s, STORE_DATABASE, STORE_PAGE_SIZE * 17 + 99);
}

static void spoil_marker(Scene *s) {
        path_write(s->dir, STORE_MARKER, "hello", 5);
}

static void exchange_database(Scene *s) {
        _cleanup_free_ char *noise = malloc(MIB(1));

        memset(noise, 'z', MIB(1));
        path_write(s->dir, STORE_DATABASE, noise, MIB(1));
}

static void newer_schema(Scene *s) {
        Fixture f = { .reactor = s->reactor };

        memcpy(f.dir, s->dir, sizeof(f.dir));
        fixture_open(&f);
        assert_int_equal(store_exec(f.store, "PRAGMA user_version = 99"), 0);
        fixture_close(&f);
}

static void foreign_schema(Scene *s) {
        Fixture f = { .reactor = s->reactor };

        memcpy(f.dir, s->dir, sizeof(f.dir));
        fixture_open(&f);
        assert_int_equal(store_exec(f.store, "PRAGMA user_version = 0"), 0);
        fixture_close(&f);
        path_remove(s->dir, STORE_MARKER);
}

static const Breakage breakages[] = {
        { "missing", remove_database, "is missing" },
        { "missing, no marker, WAL", remove_database_and_marker, "is missing but its -wal", .needs_wal = true },
        { "0 bytes", empty_database, "is cut short" },
        { "0 bytes, no marker, WAL", empty_database_remove_marker, "is empty but its -wal", .needs_wal = true },
        { "half", halve_database, "is cut short" },
        { "one byte short", cut_a_byte, "is cut short" },
        { "half, no marker", halve_database_remove_marker, "is damaged" },
        { "salt", flip_salt, "can't be decrypted" },
        { "header", flip_header, "can't be decrypted" },
        { "page", flip_page, "is damaged" },
        { "marker", spoil_marker, "marker is damaged" },
        { "another file", exchange_database, "can't be decrypted" },
        { "newer schema", newer_schema, "install the newer" },
        { "foreign", foreign_schema, "is not a database of agent-router" },
};

static void assert_refused(Scene *s, const char *name, const uint8_t *key, const char *says) {
        char refused[STORE_REFUSED_MAX] = "";
        uint64_t before = hash_dir(s->dir);
        Store *store = NULL;
        int r = store_open(&store, s->reactor, s->dir, key, refused);

        if (r != STORE_E_REFUSED || !strstr(refused, says))
                print_error("%s: %d, expected \"…%s…\", got \"%s\"\n", name, r, says, refused);
        assert_int_equal(r, STORE_E_REFUSED);
        assert_non_null(strstr(refused, says));
        assert_non_null(strstr(refused, s->dir));
        assert_null(store);
        if (hash_dir(s->dir) != before)
                print_error("%s: files have changed\n", name);
        assert_true(hash_dir(s->dir) == before);
}

static void test_refusals(void **state) {
        Scene *s = *state;

        for (size_t i = 0; i < ELEMENTSOF(breakages); i++) {
                if (!breakages[i].needs_wal) {
                        copy_dir(s->closed, s->dir);
                        breakages[i].apply(s);
                        assert_refused(s, breakages[i].name, test_key, breakages[i].says);
                }
                copy_dir(s->killed, s->dir);
                breakages[i].apply(s);
                assert_refused(s, breakages[i].name, test_key, breakages[i].says);
        }
}

static void test_every_page_is_checked(void **state) {
        Scene *s = *state;
        _cleanup_free_ char *data = NULL;
        size_t n;

        assert_true(path_read(s->closed, STORE_DATABASE, &data, &n));
        for (size_t page = 1; page < n / STORE_PAGE_SIZE; page++) {
                copy_dir(s->closed, s->dir);
                flip(s, STORE_DATABASE, page * STORE_PAGE_SIZE + (page * 977) % STORE_PAGE_SIZE);
                assert_refused(s, "page", test_key, "is damaged");
        }
}

static void test_wrong_key(void **state) {
        uint8_t key[STORE_KEY_SIZE];
        Scene *s = *state;

        memcpy(key, test_key, sizeof(key));
        key[31] ^= 1;
        for (int wal = 0; wal < 2; wal++) {
                copy_dir(wal ? s->killed : s->closed, s->dir);
                assert_refused(s, "wrong key", key, "store.key is not the key");
                /* Without the marker SQLCipher finds out. */
                path_remove(s->dir, STORE_MARKER);
                assert_refused(s, "wrong key, no marker", key, "can't be decrypted");
        }
}

/* ---- what opens ---- */

static void assert_opens(Scene *s, uint64_t n_at_least, uint64_t n_at_most) {
        Fixture f = { .reactor = s->reactor };
        uint64_t counts[_TASK_STATE_N];
        char refused[STORE_REFUSED_MAX] = "";

        memcpy(f.dir, s->dir, sizeof(f.dir));
        fixture_open(&f);
        assert_int_equal(store_task_count(f.store, counts), 0);
        assert_in_range(counts[TASK_QUEUED], n_at_least, n_at_most);
        assert_int_equal(store_verify(f.store, refused), 0);
        /* It is as good as before. */
        (void)scene_insert(&f);
        assert_int_equal(fixture_wait(&f), 0);
        fixture_close(&f);
}

static void test_torn_wal_opens(void **state) {
        Scene *s = *state;
        _cleanup_free_ char *wal = NULL;
        size_t n;

        assert_true(path_read(s->killed, STORE_WAL, &wal, &n));
        copy_dir(s->killed, s->dir);
        assert_opens(s, N_CHECKPOINTED + N_IN_WAL, N_CHECKPOINTED + N_IN_WAL);
        for (size_t less = 1; less < n; less += 1111) {
                copy_dir(s->killed, s->dir);
                cut(s, STORE_WAL, less);
                assert_opens(s, N_CHECKPOINTED, N_CHECKPOINTED + N_IN_WAL - 1);
                copy_dir(s->killed, s->dir);
                flip(s, STORE_WAL, n - less);
                assert_opens(s, N_CHECKPOINTED, N_CHECKPOINTED + N_IN_WAL);
        }
}

/* A page torn by a crash in mid-checkpoint: the WAL has it. */
static void test_torn_page_in_wal_opens(void **state) {
        Scene *s = *state;
        _cleanup_free_ char *wal = NULL, *database = NULL;
        size_t n, n_database, n_torn = 0;

        assert_true(path_read(s->killed, STORE_WAL, &wal, &n));
        assert_true(path_read(s->killed, STORE_DATABASE, &database, &n_database));
        for (size_t offset = 32; offset + STORE_WAL_FRAME_SIZE <= n; offset += STORE_WAL_FRAME_SIZE) {
                const uint8_t *p = (const uint8_t *)wal + offset;
                size_t page = (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];

                /* The salt of page 1 is in the file only. */
                if (page == 1 || page * STORE_PAGE_SIZE > n_database)
                        continue;
                memset(database + (page - 1) * STORE_PAGE_SIZE, 0x5a, STORE_PAGE_SIZE / 2);
                n_torn++;
        }
        assert_true(n_torn > 0);
        copy_dir(s->killed, s->dir);
        path_write(s->dir, STORE_DATABASE, database, n_database);
        assert_opens(s, N_CHECKPOINTED + N_IN_WAL, N_CHECKPOINTED + N_IN_WAL);
}

/* As after a crash in the middle of the first opening: what has no marker, and holds nothing, is made anew. */
static void test_interrupted_creation(void **state) {
        Scene *s = *state;

        path_remove(s->dir, STORE_MARKER);
        path_remove(s->dir, STORE_WAL);
        path_write(s->dir, STORE_DATABASE, "", 0);
        assert_opens(s, 0, 0);
        /* Made, and the marker was not written yet. */
        path_remove(s->dir, STORE_MARKER);
        assert_opens(s, 1, 1);
        path_remove(s->dir, STORE_MARKER ".new");
}

static void test_marker_grows(void **state) {
        Scene *s = *state;
        StoreMarker before, after;
        int fd;

        copy_dir(s->killed, s->dir);
        fd = open(s->dir, O_RDONLY | O_DIRECTORY);
        assert_int_equal(store_marker_read(fd, &before), 0);
        for (size_t i = 0; i < 30; i++)
                assert_opens(s, 1, 1000);
        assert_int_equal(store_marker_read(fd, &after), 0);
        assert_true(after.bytes > before.bytes);
        assert_string_equal(after.key, before.key);
        close(fd);
}

static void test_modes(void **state) {
        Scene *s = *state;
        static const char *const names[] = { STORE_DATABASE, STORE_MARKER };

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                char path[512];
                struct stat st;

                snprintf(path, sizeof(path), "%s/%s", s->closed, names[i]);
                assert_int_equal(stat(path, &st), 0);
                assert_int_equal(st.st_mode & 07777, 0600);
        }
}

static void assert_no_plaintext(const char *dir) {
        DIR *d = opendir(dir);
        struct dirent *e;
        size_t n_files = 0;

        while ((e = readdir(d))) {
                _cleanup_free_ char *data = NULL;
                size_t n;

                if (e->d_name[0] == '.')
                        continue;
                assert_true(path_read(dir, e->d_name, &data, &n));
                assert_null(memmem(data, n, MARK, strlen(MARK)));
                assert_null(memmem(data, n, "CREATE TABLE", strlen("CREATE TABLE")));
                assert_null(memmem(data, n, "uid:1", strlen("uid:1")));
                n_files++;
        }
        closedir(d);
        assert_true(n_files >= 2);
}

static void test_no_plaintext(void **state) {
        Scene *s = *state;

        assert_no_plaintext(s->closed);
        assert_no_plaintext(s->killed);
}

/* ---- other processes ---- */

/* Runs this program again in a mode of child_main(); its exit code. */
static int run_self(const char *mode, const char *dir) {
        pid_t pid = fork();
        int status;

        assert_true(pid >= 0);
        if (pid == 0) {
                execl("/proc/self/exe", "test-store-open", mode, dir, NULL);
                _exit(99);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        return WEXITSTATUS(status);
}

enum { CHILD_OPENED = 10, CHILD_IN_USE, CHILD_NOT_WRITABLE, CHILD_OTHER };

/* Not as a function of cmocka's: no asserts. */
static int child_main(const char *mode, const char *dir) {
        char refused[STORE_REFUSED_MAX] = "";
        Reactor *reactor = NULL;
        Store *store = NULL;
        int r;

        if (streq(mode, "nobody") && setresuid(65534, 65534, 65534) < 0)
                return CHILD_OTHER;
        if (reactor_new(&reactor) != 0 || reactor_enable(reactor) != 0)
                return CHILD_OTHER;
        r = store_open(&store, reactor, dir, test_key, refused);
        store_close(store);
        reactor_free(reactor);
        if (r == 0)
                return CHILD_OPENED;
        return r == STORE_E_REFUSED && strstr(refused, "in use") ? CHILD_IN_USE :
               r == STORE_E_REFUSED && strstr(refused, "can't be written to") ? CHILD_NOT_WRITABLE : CHILD_OTHER;
}

static void test_in_use(void **state) {
        Scene *s = *state;
        Fixture f = { .reactor = s->reactor };
        char refused[STORE_REFUSED_MAX] = "";
        uint64_t before;
        Store *second = NULL;

        copy_dir(s->killed, s->dir);
        memcpy(f.dir, s->dir, sizeof(f.dir));
        fixture_open(&f);
        (void)scene_insert(&f);
        assert_int_equal(fixture_wait(&f), 0);
        assert_int_equal(run_self("open", f.dir), CHILD_IN_USE);
        /* Nor by this process; and trying does not drop the lock. */
        assert_int_equal(store_open(&second, s->reactor, f.dir, test_key, refused), STORE_E_REFUSED);
        assert_non_null(strstr(refused, "in use"));
        assert_int_equal(run_self("open", f.dir), CHILD_IN_USE);
        (void)scene_insert(&f);
        assert_int_equal(fixture_wait(&f), 0);
        fixture_close(&f);
        before = hash_dir(s->dir);
        assert_int_equal(run_self("open", f.dir), CHILD_OPENED);
        assert_true(hash_dir(s->dir) == before);
}

static void test_directory(void **state) {
        Scene *s = *state;
        char missing[80], refused[STORE_REFUSED_MAX];
        Store *store = NULL;

        snprintf(missing, sizeof(missing), "%s/missing", s->dir);
        assert_int_equal(store_open(&store, s->reactor, missing, test_key, refused), STORE_E_REFUSED);
        assert_non_null(strstr(refused, "create the state directory"));
        if (geteuid() != 0) {
                print_message("# skipped in part: another user's directory needs root\n");
                return;
        }
        copy_dir(s->closed, s->dir);
        assert_int_equal(chmod(s->dir, 0755), 0);
        assert_int_equal(run_self("nobody", s->dir), CHILD_NOT_WRITABLE);
}

int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_refusals, scene_setup, scene_teardown),
                cmocka_unit_test_setup_teardown(test_every_page_is_checked, scene_setup, scene_teardown),
                cmocka_unit_test_setup_teardown(test_wrong_key, scene_setup, scene_teardown),
                cmocka_unit_test_setup_teardown(test_torn_wal_opens, scene_setup, scene_teardown),
                cmocka_unit_test_setup_teardown(test_torn_page_in_wal_opens, scene_setup, scene_teardown),
                cmocka_unit_test_setup_teardown(test_interrupted_creation, scene_setup, scene_teardown),
                cmocka_unit_test_setup_teardown(test_marker_grows, scene_setup, scene_teardown),
                cmocka_unit_test_setup_teardown(test_modes, scene_setup, scene_teardown),
                cmocka_unit_test_setup_teardown(test_no_plaintext, scene_setup, scene_teardown),
                cmocka_unit_test_setup_teardown(test_in_use, scene_setup, scene_teardown),
                cmocka_unit_test_setup_teardown(test_directory, scene_setup, scene_teardown),
        };

        if (argc == 3)
                return child_main(argv[1], argv[2]);
        if (skip_without_io_uring())
                return 0;
        log_set_max_level(LOG_CRIT);
        return cmocka_run_group_tests_name("store-open", tests, NULL, NULL);
}

/*
 * Opening and closing.
 *
 * Everything that can be wrong is looked for before anything is written, in the order from cheap to dear: the
 * directory, the marker against the files' sizes, the key's fingerprint; then, by SQLite, the lock, the key, page 1,
 * the schema's number, the HMAC of all pages (of a database that is not large), and the index that the counts are read
 * from. SQLite would itself delete the WAL of a missing or empty database, and copy a WAL into a database it cannot
 * read when the connection is closed: so the former are not opened, and closing does not checkpoint until all is
 * accepted.
 *
 * locking_mode=EXCLUSIVE before the first read keeps the WAL's index in memory and other processes out. Their locks are
 * POSIX locks, which a close() of the database anywhere in the process would drop: db_fd is closed last.
 */

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "store/internal.h"

/* SQLite's reserved range for keys: "x'", 64 digits, "'", NUL. */
#define KEY_SPEC_MAX (2 + 2 * STORE_KEY_SIZE + 1 + 1)

/* What lies in the directory before anything is opened. */
typedef struct Found {
        bool has_marker;
        bool has_database;
        bool has_wal;
        uint64_t database_bytes;
        uint64_t wal_bytes;
        StoreMarker marker;
} Found;

int store_refuse(char ret_refused[static STORE_REFUSED_MAX], const char *format, ...) {
        va_list args;

        va_start(args, format);
        vsnprintf(ret_refused, STORE_REFUSED_MAX, format, args);
        va_end(args);
        return STORE_E_REFUSED;
}

static int find_file(int dir_fd, const char *name, bool *ret_found, uint64_t *ret_bytes) {
        struct stat st;

        if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
                if (errno != ENOENT)
                        return error_origin(-errno);
                *ret_found = false;
                *ret_bytes = 0;
                return 0;
        }
        if (!S_ISREG(st.st_mode))
                return error_origin(-ENOTSUP);
        *ret_found = true;
        *ret_bytes = (uint64_t)st.st_size;
        return 0;
}

static int open_look(Store *store, Found *ret_found, char *ret_refused) {
        Found f = {};
        int r;

        store->dir_fd = open(store->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (store->dir_fd < 0)
                return store_refuse(ret_refused, "%s can't be opened (%s): create the state directory, or name another",
                                    store->dir, strerror(errno));
        if (faccessat(store->dir_fd, ".", W_OK | X_OK, AT_EACCESS) < 0)
                return store_refuse(ret_refused,
                                    "%s can't be written to (%s): give it to the user that the service runs as",
                                    store->dir, strerror(errno));

        r = store_marker_read(store->dir_fd, &f.marker);
        if (r == STORE_MARKER_E_INVALID)
                return store_refuse(ret_refused,
                                    "%s/" STORE_MARKER " is damaged: if %s is known to be good, delete the "
                                    "marker and it will be made anew",
                                    store->dir, store->path);
        if (r < 0)
                return error_trace(r);
        f.has_marker = r == 0;
        r = find_file(store->dir_fd, STORE_DATABASE, &f.has_database, &f.database_bytes);
        if (!r)
                r = find_file(store->dir_fd, STORE_WAL, &f.has_wal, &f.wal_bytes);
        if (r)
                return store_refuse(ret_refused,
                                    "%s or its -wal can't be examined (%s): it should be a regular file of "
                                    "the service's user",
                                    store->path, strerror(-r));

        if (f.has_marker && !f.has_database)
                return store_refuse(ret_refused,
                                    "%s is missing, though " STORE_MARKER " says that it held data: restore it "
                                    "from a backup, or delete the marker and any -wal file to start empty",
                                    store->path);
        if (f.has_marker && f.database_bytes < f.marker.bytes)
                return store_refuse(
                        ret_refused, "%s is cut short: it has %llu bytes and had %llu: restore it from a backup",
                        store->path, (unsigned long long)f.database_bytes, (unsigned long long)f.marker.bytes);
        if (f.database_bytes == 0 && f.wal_bytes > 0)
                return store_refuse(ret_refused,
                                    "%s is %s but its -wal file holds data: restore the database from a backup, "
                                    "or delete the -wal file to start empty",
                                    store->path, f.has_database ? "empty" : "missing");
        if (f.has_database && faccessat(store->dir_fd, STORE_DATABASE, R_OK | W_OK, AT_EACCESS) < 0)
                return store_refuse(ret_refused,
                                    "%s can't be read and written (%s): give it to the user that the service "
                                    "runs as",
                                    store->path, strerror(errno));
        *ret_found = f;
        return 0;
}

static int open_key(Store *store, const uint8_t key[static STORE_KEY_SIZE]) {
        char spec[KEY_SPEC_MAX] = "x'";
        int code;

        for (size_t i = 0; i < STORE_KEY_SIZE; i++)
                snprintf(spec + 2 + 2 * i, 3, "%02x", key[i]);
        spec[KEY_SPEC_MAX - 2] = '\'';
        code = sqlite3_key_v2(store->db, "main", spec, KEY_SPEC_MAX - 1);
        explicit_bzero(spec, sizeof(spec));
        return code == SQLITE_OK ? 0 : error_origin(-EIO);
}

static int open_refuse_sqlite(Store *store, char *ret_refused) {
        switch (sqlite3_errcode(store->db)) {
        case SQLITE_BUSY:
        case SQLITE_LOCKED:
                return store_refuse(ret_refused,
                                    "%s is in use by another process: stop it first (two daemons can't share a "
                                    "state directory)",
                                    store->path);
        case SQLITE_NOTADB:
                return store_refuse(ret_refused,
                                    "%s can't be decrypted: it was made with another store.key, or its beginning "
                                    "is damaged: restore the key or the database from a backup",
                                    store->path);
        case SQLITE_CORRUPT:
        case SQLITE_ERROR:
                return store_refuse(ret_refused, "%s is damaged (%s): restore it from a backup", store->path,
                                    sqlite3_errmsg(store->db));
        case SQLITE_NOMEM:
                return error_origin(-ENOMEM);
        default:
                return store_refuse(ret_refused,
                                    "%s can't be opened (%s, %s): look at the disk and the file's permissions",
                                    store->path, sqlite3_errmsg(store->db), strerror(sqlite3_system_errno(store->db)));
        }
}

static int open_connect(Store *store, const Found *found, const uint8_t key[static STORE_KEY_SIZE], char *ret_refused) {
        int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE;
        int r;

        if (!found->has_database)
                flags |= SQLITE_OPEN_CREATE;
        r = store_vfs_new(&store->vfs);
        if (r)
                return error_trace(r);
        if (sqlite3_open_v2(store->path, &store->db, flags, store->vfs->name) != SQLITE_OK)
                return store->db ? open_refuse_sqlite(store, ret_refused) : error_origin(-ENOMEM);
        (void)sqlite3_db_config(store->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
        (void)sqlite3_db_config(store->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
        (void)sqlite3_db_config(store->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
        (void)sqlite3_limit(store->db, SQLITE_LIMIT_LENGTH, (int)STORE_VALUE_MAX);
        (void)sqlite3_limit(store->db, SQLITE_LIMIT_ATTACHED, 0);
        (void)sqlite3_wal_autocheckpoint(store->db, 0);
        r = open_key(store, key);
        if (r)
                return error_trace(r);
        /*
         * cipher_memory_security (wiping and locking all of SQLite's memory) stays off, as is SQLCipher's default: it
         * makes a row three times as dear singly and seven times in batches of 64 (249 against 34 µs). No core can be
         * made of the process, and prompts pass through other memory anyway.
         *
         * SQLCipher would print its errors on stderr; they come out of here as one sentence.
         */
        r = store_exec(store, "PRAGMA cipher_log_level = NONE;"
                              "PRAGMA locking_mode = EXCLUSIVE;"
                              "PRAGMA temp_store = MEMORY;"
                              "PRAGMA synchronous = NORMAL;"
                              "PRAGMA foreign_keys = ON;"
                              "PRAGMA secure_delete = FAST;");
        if (r)
                return open_refuse_sqlite(store, ret_refused);
        /* Decrypts page 1, takes the lock, and recovers the WAL's index (in memory). */
        r = store_exec(store, "SELECT count(*) FROM sqlite_schema");
        if (r)
                return open_refuse_sqlite(store, ret_refused);
        return 0;
}

static int open_accept(Store *store, const Found *found, uint64_t *ret_version, char *ret_refused) {
        uint64_t version, n_tables;

        if (store_query_u64(store, "PRAGMA user_version", &version) ||
            store_query_u64(store, "SELECT count(*) FROM sqlite_schema", &n_tables))
                return open_refuse_sqlite(store, ret_refused);
        if (version > store_schema_version())
                return store_refuse(ret_refused,
                                    "%s has schema %llu and this program knows up to %llu: install the newer "
                                    "agent-router again",
                                    store->path, (unsigned long long)version,
                                    (unsigned long long)store_schema_version());
        if (version == 0 && (n_tables > 0 || found->has_marker))
                return store_refuse(ret_refused,
                                    "%s is not a database of agent-router: move it away, or restore the right "
                                    "one from a backup",
                                    store->path);
        if (version > 0) {
                int r = store_verify_size(store, found->database_bytes, ret_refused);

                if (!r && found->database_bytes <= STORE_VERIFY_AT_OPEN_MAX)
                        r = store_verify_pages(store, ret_refused);
                if (r)
                        return r;
        }
        *ret_version = version;
        return 0;
}

/* The index that this scans also answers later counts, which are then kept in memory. */
static int open_load_counts(Store *store) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        bool row = true;
        int r;

        r = stmt_get(&stmt, store, STMT_UNCACHED, "SELECT state, count(*) FROM tasks GROUP BY state");
        while (!r) {
                uint64_t state;

                r = stmt_step(&stmt, &row);
                if (r || !row)
                        break;
                state = stmt_u64(&stmt);
                if (state < _TASK_STATE_N)
                        store->counts[state] = stmt_u64(&stmt);
        }
        return r;
}

static int open_prepare(Store *store, const Found *found, uint64_t version, char *ret_refused) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        _cleanup_free_ char *pragmas = NULL;
        uint64_t last_task, last_event;
        bool row;
        int r;

        r = stmt_get(&stmt, store, STMT_UNCACHED, "PRAGMA journal_mode = WAL");
        if (!r)
                r = stmt_step(&stmt, &row);
        if (r)
                return open_refuse_sqlite(store, ret_refused);
        stmt_put(&stmt);
        /* Without spilling, no statement writes to the disk: ENOSPC is met by the COMMIT only. */
        if (asprintf(&pragmas, "PRAGMA cache_size = -%d; PRAGMA cache_spill = OFF;", STORE_CACHE_KIB) < 0)
                return error_origin(-ENOMEM);
        if (store_exec(store, pragmas) || store_schema_migrate(store, version) || open_load_counts(store) ||
            store_query_u64(store, "SELECT max(n) FROM tasks", &last_task) ||
            store_query_u64(store, "SELECT max(n) FROM events", &last_event))
                return open_refuse_sqlite(store, ret_refused);
        if (found->wal_bytes > 0)
                log_notice("%s was not closed: recovered from its WAL of %llu bytes up to task row %llu and event row "
                           "%llu; if the end of the WAL was lost, what was written after these is too",
                           store->path, (unsigned long long)found->wal_bytes, (unsigned long long)last_task,
                           (unsigned long long)last_event);
        return 0;
}

/* The database is accepted: from here on it is written to. */
static int open_settle(Store *store, const Found *found, const char *fingerprint) {
        StoreMarker marker = {};
        bool has_database;
        int r;

        if (sqlite3_wal_checkpoint_v2(store->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL) != SQLITE_OK)
                return error_origin(-EIO);
        store->wal_fd = openat(store->dir_fd, STORE_WAL, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (store->wal_fd < 0)
                return error_origin(-errno);
        store->db_fd = openat(store->dir_fd, STORE_DATABASE, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (store->db_fd < 0)
                return error_origin(-errno);
        if (fsync(store->dir_fd) < 0)
                return error_origin(-errno);
        r = find_file(store->dir_fd, STORE_DATABASE, &has_database, &marker.bytes);
        if (r)
                return error_trace(r);
        memcpy(marker.key, fingerprint, sizeof(marker.key));
        if (!found->has_marker || found->marker.bytes != marker.bytes) {
                r = store_marker_write(store->dir_fd, &marker);
                if (r)
                        return error_trace(r);
        }
        (void)sqlite3_db_config(store->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
        return 0;
}

/* Leaves what was refused as it was: SQLite has made an empty WAL where there was none. */
static void open_undo(Store *store, const Found *found) {
        bool has_wal;
        uint64_t wal_bytes;

        (void)sqlite3_close(store->db);
        store->db = NULL;
        if (found->has_database && !found->has_wal &&
            find_file(store->dir_fd, STORE_WAL, &has_wal, &wal_bytes) == 0 && has_wal && wal_bytes == 0)
                (void)unlinkat(store->dir_fd, STORE_WAL, 0);
}

static Store *store_free(Store *store) {
        if (!store)
                return NULL;
        for (size_t i = 0; i < _STMT_SLOT_N; i++)
                sqlite3_finalize(store->stmts[i]);
        if (store->db && sqlite3_close(store->db) != SQLITE_OK)
                log_error("%s could not be closed: %s", store->path, sqlite3_errmsg(store->db));
        store_vfs_free(store->vfs);
        fd_close(store->wal_fd);
        fd_close(store->db_fd);
        fd_close(store->dir_fd);
        free(store->path);
        free(store->dir);
        free(store);
        return NULL;
}
DEFINE_CLEANUP(Store, store_free);

int store_open(Store **ret_store, Reactor *reactor, const char *dir, const uint8_t key[static STORE_KEY_SIZE],
               char ret_refused[static STORE_REFUSED_MAX]) {
        _cleanup_(store_freep) Store *store = NULL;
        char fingerprint[sizeof(((StoreMarker *)0)->key)];
        Found found = {};
        uint64_t version = 0;
        mode_t mask;
        int r;

        /* Without the allocator's statistics, and their lock; too late where SQLite is initialised already. */
        (void)sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
        store = calloc(1, sizeof(*store));
        if (!store)
                return error_origin(-ENOMEM);
        store->reactor = reactor;
        store->dir_fd = store->wal_fd = store->db_fd = -1;
        store->dir = strdup(dir);
        if (!store->dir || asprintf(&store->path, "%s/" STORE_DATABASE, dir) < 0)
                return error_origin(-ENOMEM);

        r = store_marker_fingerprint(key, fingerprint);
        if (!r)
                r = open_look(store, &found, ret_refused);
        if (r)
                return r;
        if (found.has_marker && !streq(found.marker.key, fingerprint))
                return store_refuse(ret_refused,
                                    "store.key is not the key that %s was made with: restore that key from "
                                    "a backup",
                                    store->path);

        mask = umask(0077);
        r = open_connect(store, &found, key, ret_refused);
        if (!r)
                r = open_accept(store, &found, &version, ret_refused);
        if (!r)
                r = open_prepare(store, &found, version, ret_refused);
        if (!r)
                r = open_settle(store, &found, fingerprint);
        (void)umask(mask);
        if (r) {
                open_undo(store, &found);
                return r < 0 ? error_trace(r) : r;
        }
        store_commit_init(store);
        *ret_store = steal_ptr(&store);
        return 0;
}

Store *store_close(Store *store) {
        StoreMarker marker = {};
        bool has_database;

        if (!store)
                return NULL;
        store_commit_deinit(store);
        if (store->failed) {
                /* What the WAL holds is for the next opening to find out. */
                (void)sqlite3_db_config(store->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
        } else if (sqlite3_wal_checkpoint_v2(store->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL) != SQLITE_OK) {
                log_error("the last checkpoint of %s: %s", store->path, sqlite3_errmsg(store->db));
        } else if (store_marker_read(store->dir_fd, &marker) == 0 &&
                   find_file(store->dir_fd, STORE_DATABASE, &has_database, &marker.bytes) == 0 && has_database &&
                   store_marker_write(store->dir_fd, &marker) < 0) {
                log_warning("%s/" STORE_MARKER " could not be written", store->dir);
        }
        return store_free(store);
}

const StoreStats *store_stats(Store *store) {
        struct stat st;

        store->stats.wal_bytes = store->wal_bytes;
        store->stats.header_sync_us_max = store->vfs->sync_us_max;
        store->stats.n_header_syncs = store->vfs->n_syncs;
        if (fstat(store->db_fd, &st) == 0)
                store->stats.database_bytes = (uint64_t)st.st_size;
        return &store->stats;
}

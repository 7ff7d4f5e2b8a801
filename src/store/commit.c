/*
 * Group commit (the model is in store.h).
 *
 * What is not yet durable is in one of three places: the open transaction (txn_open), frames of the WAL that no sync
 * covers (unsynced), or frames that the sync in flight covers (wal_syncing). A waiter is in `syncing` where that sync
 * is all it needs, else in `gathering`. Everything moves on in store_tick(), which runs at a tick's end:
 *
 *     COMMIT → (checkpoint, where one is due) → fdatasync of the WAL on the ring → waiters
 *
 * A checkpoint copies the WAL into the database and is safe only when the WAL is durable, and the WAL may be restarted
 * (by the first commit after the checkpoint) only when the database is: that is why nothing is committed while
 * db_syncing. A page of the database is thus never written before the WAL that can repeat the write is on disk, nor is
 * the WAL overwritten before the database is.
 *
 * A sync that failed is never retried: the kernel may have dropped the dirty pages and would report success (fsync(2)).
 * Waiters of the batch get -EIO, and so do all later ones, since nobody knows what the disk holds.
 */

#include <stdarg.h>
#include <stdio.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "store/internal.h"

static void store_release(List *waits, int error) {
        List ready = LIST_INIT(ready);
        ListLink *link;

        /* A callback may wait anew; that is for the next round. It may also cancel one that is in `ready`. */
        while ((link = list_pop(waits)))
                list_link_tail(&ready, link);
        while ((link = list_pop(&ready))) {
                StoreWait *wait = container_of(link, StoreWait, link);

                wait->store = NULL;
                wait->fn(wait, error);
        }
}

void store_fail(Store *store, const char *format, ...) {
        va_list args;

        /* While it is opened, an error is a refusal. */
        if (!store->tick.fn)
                return;
        if (!store->failed) {
                va_start(args, format);
                vsnprintf(store->failure, sizeof(store->failure), format, args);
                va_end(args);
                store->failed = true;
                store->stats.failed = true;
                log_field(LOG_CRIT, ((LogField[]){ { "MESSAGE_ID", LOG_ID_STORE_FAILED }, {} }),
                          "the store takes no more writes: %s", store->failure);
        }
        if (!sqlite3_get_autocommit(store->db))
                (void)sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
        store->txn_open = false;
        if (!store->closing)
                defer_schedule(&store->tick);
}

const char *store_failure(const Store *store) {
        return store->failed ? store->failure : NULL;
}

/* ---- checkpoints ---- */

/* A sync that was cancelled because the ring is not running (see store_commit_deinit()) is made on the caller. */
static int store_sync_result(const Store *store, int res, int fd) {
        if (!store->closing || res != -ECANCELED)
                return res;
        return fdatasync(fd) < 0 ? -errno : 0;
}

static void store_db_sync(Store *store) {
        store->vfs->owes_sync = false;
        store->db_syncing = true;
        (void)store_vfs_call_hook(STORE_VFS_SYNC_SUBMITTED, STORE_VFS_DATABASE, NULL, 0, 0);
        op_fdatasync(&store->db_sync, store->db_fd);
}

static void store_on_db_sync(Op *op, int res, bool more) {
        Store *store = container_of(op, Store, db_sync);

        res = store_sync_result(store, res, store->db_fd);
        (void)store_vfs_call_hook(STORE_VFS_SYNC_COMPLETED, STORE_VFS_DATABASE, NULL, 0, 0);
        store->db_syncing = false;
        if (res < 0)
                store_fail(store, "%s could not be synced (%s): look at the disk, then restart the service",
                           store->path, strerror(-res));
        if (!store->closing)
                defer_schedule(&store->tick);
}

/* No transaction and no sync is in flight. Syncs the WAL on the caller where it is not durable yet. */
static void store_checkpoint(Store *store) {
        uint64_t started_us = clock_monotonic_us(), n_syncs = store->vfs->n_syncs;
        int n_frames = 0, n_copied = 0, code;

        store->vfs->wal_is_durable = !store->unsynced;
        store->vfs->checkpointing = true;
        code = sqlite3_wal_checkpoint_v2(store->db, NULL, SQLITE_CHECKPOINT_PASSIVE, &n_frames, &n_copied);
        store->vfs->checkpointing = false;

        store->stats.n_checkpoints++;
        store->stats.checkpoint_us_max = MAX(store->stats.checkpoint_us_max, clock_monotonic_us() - started_us);
        if (code == SQLITE_OK && store->vfs->n_syncs > n_syncs)
                store->unsynced = false;
        if (code == SQLITE_OK && n_copied == n_frames) {
                /* The next commit starts at the WAL's beginning. */
                store->wal_bytes = 0;
                store->checkpoint_retry_bytes = 0;
        } else if (code == SQLITE_OK || code == SQLITE_FULL || code == SQLITE_BUSY) {
                /* The WAL still holds everything. */
                log_warning("checkpoint of %s: %s, %d of %d frames copied", store->path, sqlite3_errstr(code),
                            MAX(n_copied, 0), MAX(n_frames, 0));
                store->checkpoint_retry_bytes = store->wal_bytes + STORE_WAL_RETRY;
        } else {
                store_fail(store, "checkpoint of %s failed (%s): look at the disk, then restart the service",
                           store->path, sqlite3_errmsg(store->db));
        }
        if (store->vfs->owes_sync && !store->failed)
                store_db_sync(store);
}

static bool store_checkpoint_is_due(const Store *store, size_t limit) {
        return store->wal_bytes >= MAX(limit, store->checkpoint_retry_bytes);
}

/* ---- commits ---- */

static int store_on_wal(void *userdata, sqlite3 *db, const char *name, int n_frames) {
        Store *store = userdata;

        store->unsynced = true;
        store->wal_bytes = (size_t)n_frames * STORE_WAL_FRAME_SIZE;
        return SQLITE_OK;
}

static int store_commit(Store *store) {
        uint64_t started_us = clock_monotonic_us();
        int code;

        code = sqlite3_exec(store->db, "COMMIT", NULL, NULL, NULL);
        if (code == SQLITE_OK)
                code = store_vfs_flush(store->vfs);
        if (code != SQLITE_OK) {
                store_fail(store, "a commit to %s failed (%s): %s, then restart the service", store->path,
                           sqlite3_errstr(code), (code & 0xff) == SQLITE_FULL ? "free some space" : "look at the disk");
                return error_origin(-EIO);
        }
        store->txn_open = false;
        store->batch_bytes = 0;
        store->stats.n_commits++;
        store->stats.commit_us_max = MAX(store->stats.commit_us_max, clock_monotonic_us() - started_us);
        return 0;
}

static void store_wal_sync(Store *store) {
        ListLink *link;

        while ((link = list_pop(&store->gathering)))
                list_link_tail(&store->syncing, link);
        store->unsynced = false;
        store->wal_syncing = true;
        store->sync_started_us = clock_monotonic_us();
        (void)store_vfs_call_hook(STORE_VFS_SYNC_SUBMITTED, STORE_VFS_WAL, NULL, 0, 0);
        op_fdatasync(&store->wal_sync, store->wal_fd);
}

static void store_on_wal_sync(Op *op, int res, bool more) {
        Store *store = container_of(op, Store, wal_sync);
        uint64_t us = clock_monotonic_us() - store->sync_started_us;

        res = store_sync_result(store, res, store->wal_fd);
        (void)store_vfs_call_hook(STORE_VFS_SYNC_COMPLETED, STORE_VFS_WAL, NULL, 0, 0);
        store->wal_syncing = false;
        store->stats.n_syncs++;
        store->stats.sync_us_last = us;
        store->stats.sync_us_max = MAX(store->stats.sync_us_max, us);
        store->stats.sync_us_total += us;
        if (res < 0)
                store_fail(store, "%s-wal could not be synced (%s): look at the disk, then restart the service",
                           store->path, strerror(-res));
        if (!store->closing)
                defer_schedule(&store->tick);
        store_release(&store->syncing, res < 0 ? -EIO : 0);
}

static void store_on_tick(Defer *defer) {
        Store *store = container_of(defer, Store, tick);

        if (store->closing)
                return;
        if (!store->failed && !store->wal_syncing && !store->db_syncing) {
                bool quiet = !store->txn_open && !store->unsynced;

                if (store->txn_open)
                        (void)store_commit(store);
                if (!store->failed && store_checkpoint_is_due(store, quiet ? store->wal_soft : store->wal_hard))
                        store_checkpoint(store);
                if (!store->failed && store->unsynced)
                        store_wal_sync(store);
        }
        if (store->failed)
                store_release(&store->gathering, -EIO);
        else if (!store->txn_open && !store->unsynced && !store->wal_syncing)
                store_release(&store->gathering, 0);
}

/* ---- requests ---- */

static bool store_space_is_low(const Store *store) {
        struct statvfs s;

        return fstatvfs(store->dir_fd, &s) == 0 && (uint64_t)s.f_bavail * s.f_frsize < STORE_SPACE_RESERVE;
}

static int store_run(Store *store, StmtSlot slot, const char *sql) {
        _cleanup_(stmt_put) Stmt stmt = STMT_NULL;
        int r = stmt_get(&stmt, store, slot, sql);

        return r ? r : stmt_run(&stmt);
}

int store_begin(Store *store) {
        int r;

        assert(!store->in_request);
        if (store->failed)
                return STORE_E_FAILED;
        if (!store->txn_open) {
                r = store_run(store, STMT_BEGIN, "BEGIN IMMEDIATE");
                if (r)
                        return error_fold(r);
                store->txn_open = true;
                store->space_is_low = store_space_is_low(store);
                defer_schedule(&store->tick);
        }
        r = store_run(store, STMT_SAVEPOINT, "SAVEPOINT request");
        if (r)
                return store->failed ? STORE_E_FAILED : error_fold(r);
        store->in_request = true;
        store->request_error = 0;
        memset(store->request_counts, 0, sizeof(store->request_counts));
        return 0;
}

static void store_undo_counts(Store *store) {
        for (size_t i = 0; i < _TASK_STATE_N; i++)
                store->counts[i] -= (uint64_t)store->request_counts[i];
}

int store_end(Store *store, bool commit) {
        int error = store->request_error, r = 0;
        bool keep = commit && !error;

        assert(store->in_request);
        store->in_request = false;
        if (!keep)
                store_undo_counts(store);
        if (!store->failed && !keep)
                r = store_run(store, STMT_UNDO, "ROLLBACK TO request");
        if (!store->failed && !r)
                r = store_run(store, STMT_RELEASE, "RELEASE request");
        if (r)
                store_fail(store, "a request on %s could not be %s: %s", store->path, keep ? "kept" : "undone",
                           sqlite3_errmsg(store->db));
        if (!commit)
                return 0;
        if (error)
                return error;
        if (store->failed)
                return STORE_E_FAILED;
        if (store->batch_bytes > STORE_BATCH_BYTES_MAX && !store->db_syncing)
                (void)store_commit(store);
        return store->failed ? STORE_E_FAILED : 0;
}

int store_check_write(Store *store) {
        assert(store->in_request || store->failed);
        return store->failed ? STORE_E_FAILED : 0;
}

int store_check_insert(Store *store) {
        int r = store_check_write(store);

        if (!r && store->space_is_low)
                r = store->request_error = STORE_E_FULL;
        return r;
}

void store_count_state(Store *store, TaskState state, int64_t delta) {
        store->counts[state] += (uint64_t)delta;
        store->request_counts[state] += delta;
}

void store_wait(Store *store, StoreWait *wait, StoreWaitFn fn) {
        wait->store = store;
        wait->fn = fn;
        if (store->wal_syncing && !store->txn_open && !store->unsynced && !store->failed) {
                list_link_tail(&store->syncing, &wait->link);
        } else {
                list_link_tail(&store->gathering, &wait->link);
                defer_schedule(&store->tick);
        }
}

void store_wait_cancel(StoreWait *wait) {
        list_unlink(&wait->link);
        wait->store = NULL;
}

/* ---- life ---- */

void store_commit_init(Store *store) {
        store->wal_soft = STORE_WAL_SOFT;
        store->wal_hard = STORE_WAL_HARD;
        list_init(&store->gathering);
        list_init(&store->syncing);
        defer_init(&store->tick, store->reactor, store_on_tick);
        op_init(&store->wal_sync, store->reactor, store_on_wal_sync);
        op_init(&store->db_sync, store->reactor, store_on_db_sync);
        sqlite3_wal_hook(store->db, store_on_wal, store);
}

void store_commit_deinit(Store *store) {
        assert(!store->in_request);
        store->closing = true;
        /* A ring that was never enabled, since the program fails at its start, completes nothing. */
        if (!reactor_features(store->reactor)->restricted) {
                op_cancel(&store->wal_sync);
                op_cancel(&store->db_sync);
        }
        while (store->wal_syncing || store->db_syncing) {
                int r = reactor_tick(store->reactor, UINT64_MAX);

                if (r < 0) {
                        log_error("waiting for the store's last sync: %s", strerror(-r));
                        break;
                }
        }
        defer_cancel(&store->tick);
        if (store->txn_open)
                (void)store_commit(store);
        /* The checkpoint of the closing connection syncs the WAL, then the database, on the caller. */
        store_release(&store->syncing, -ECANCELED);
        store_release(&store->gathering, -ECANCELED);
}

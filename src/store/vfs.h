#pragma once

/*
 * StoreVfs: a shim over SQLite's default VFS. Everything is passed through, but for three things:
 *
 * - While `checkpointing` is set, xSync of the database is not done but remembered in `owes_sync`: commit.c syncs the
 *   database on the ring afterwards, before the next commit could overwrite the WAL (platform.md: a checkpoint's own
 *   sync holds the thread for 8–26 ms). xSync of the WAL is skipped then too where `wal_is_durable` says that the ring
 *   has synced all of it already.
 * - Writes to the WAL that follow each other (SQLite makes two a page) are gathered and made at once: when the buffer
 *   is full, before anything else is asked of the file, and by store_vfs_flush(), which a commit must call: until then
 *   it is not in the file.
 * - Files have I/O methods of version 1, without shared memory: WAL then works only with locking_mode=EXCLUSIVE, whose
 *   index is heap memory. No -shm file is ever made, and no second process gets in.
 *
 * SQLCipher encrypts above the VFS: whatever passes here is ciphertext.
 *
 * A test may set a hook that sees every call before it is made and may fail it.
 */

#include <sqlcipher/sqlite3.h>

#include "base/macro.h"

typedef struct StoreVfs StoreVfs;

typedef enum StoreVfsFile {
        STORE_VFS_OTHER,
        STORE_VFS_DATABASE,
        STORE_VFS_WAL,
} StoreVfsFile;

typedef enum StoreVfsCall {
        STORE_VFS_OPEN,
        STORE_VFS_READ,
        STORE_VFS_WRITE,
        STORE_VFS_TRUNCATE,             /* offset: the new size */
        STORE_VFS_SYNC,                 /* done on the caller */
        STORE_VFS_SYNC_SUBMITTED,       /* on the ring: covers what was written before */
        STORE_VFS_SYNC_COMPLETED,
} StoreVfsCall;

/* Returns 0, or an SQLite error that the call fails with (ignored for SYNC_SUBMITTED and SYNC_COMPLETED). */
typedef int (*StoreVfsHook)(void *userdata, StoreVfsCall call, StoreVfsFile file, const void *data, size_t n,
                            uint64_t offset);

struct StoreVfs {
        sqlite3_vfs vfs;
        sqlite3_vfs *real;
        char name[32];

        sqlite3_file *wal;              /* open, or NULL */
        bool checkpointing;
        bool wal_is_durable;
        bool owes_sync;

        uint64_t n_syncs;               /* done on the caller, of the WAL: its restart's header, forced checkpoints */
        uint64_t sync_us_max;
};

/* Registers a VFS of its own name, which is ret_vfs->name. */
int store_vfs_new(StoreVfs **ret_vfs) _must_check_;
/* No connection may use it any more. */
StoreVfs *store_vfs_free(StoreVfs *vfs);
DEFINE_CLEANUP(StoreVfs, store_vfs_free);

/* Writes what was gathered for the WAL: an SQLite result. */
int store_vfs_flush(StoreVfs *vfs) _must_check_;

/* For tests: sees the calls of every store from now on; NULL: none. */
void store_vfs_set_hook(StoreVfsHook hook, void *userdata);
int store_vfs_call_hook(StoreVfsCall call, StoreVfsFile file, const void *data, size_t n, uint64_t offset);

#include <stdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "store/vfs.h"

/* 31 frames: a few system calls for the largest batches, and small beside the page cache. */
#define GATHER_MAX KIB(128)

/* Writes to the WAL that were asked for and not made yet: n bytes at offset. */
typedef struct StoreVfsGather {
        uint64_t offset;
        size_t n;
        uint8_t data[GATHER_MAX];
} StoreVfsGather;

/* One open file: ours, followed in the same allocation (SQLite makes it, szOsFile bytes) by the real VFS's. */
typedef struct File {
        sqlite3_file base;
        StoreVfs *vfs;
        StoreVfsFile kind;
        StoreVfsGather *gather;         /* of the WAL */
        sqlite3_file real[];            /* the real VFS's, which is larger: as much as it asked for */
} File;

static StoreVfsHook vfs_hook;
static void *vfs_hook_userdata;

void store_vfs_set_hook(StoreVfsHook hook, void *userdata) {
        vfs_hook = hook;
        vfs_hook_userdata = userdata;
}

int store_vfs_call_hook(StoreVfsCall call, StoreVfsFile file, const void *data, size_t n, uint64_t offset) {
        return vfs_hook ? vfs_hook(vfs_hook_userdata, call, file, data, n, offset) : 0;
}

static sqlite3_file *file_real(sqlite3_file *base) {
        return container_of(base, File, base)->real;
}

static int real_write(File *file, const void *data, size_t n, uint64_t offset) {
        int r = store_vfs_call_hook(STORE_VFS_WRITE, file->kind, data, n, offset);

        return r ? r : file->real->pMethods->xWrite(file->real, data, (int)n, (sqlite3_int64)offset);
}

static int file_flush(File *file) {
        StoreVfsGather *g = file->gather;
        size_t n;

        if (!g || g->n == 0)
                return SQLITE_OK;
        n = g->n;
        g->n = 0;
        return real_write(file, g->data, n, g->offset);
}

int store_vfs_flush(StoreVfs *vfs) {
        return vfs->wal ? file_flush(container_of(vfs->wal, File, base)) : SQLITE_OK;
}

/* What is still gathered belongs to no commit. */
static int file_close(sqlite3_file *base) {
        File *file = container_of(base, File, base);

        if (file->vfs->wal == base)
                file->vfs->wal = NULL;
        free(file->gather);
        file->gather = NULL;
        return file->real->pMethods->xClose(file->real);
}

static int file_read(sqlite3_file *base, void *data, int n, sqlite3_int64 offset) {
        File *file = container_of(base, File, base);
        int r = file_flush(file);

        if (!r)
                r = store_vfs_call_hook(STORE_VFS_READ, file->kind, NULL, (size_t)n, (uint64_t)offset);
        return r ? r : file->real->pMethods->xRead(file->real, data, n, offset);
}

static int file_write(sqlite3_file *base, const void *data, int n, sqlite3_int64 offset) {
        File *file = container_of(base, File, base);
        StoreVfsGather *g = file->gather;
        int r;

        if (!g)
                return real_write(file, data, (size_t)n, (uint64_t)offset);
        if (g->n > 0 && (g->offset + g->n != (uint64_t)offset || g->n + (size_t)n > GATHER_MAX)) {
                r = file_flush(file);
                if (r)
                        return r;
        }
        if ((size_t)n > GATHER_MAX)
                return real_write(file, data, (size_t)n, (uint64_t)offset);
        if (g->n == 0)
                g->offset = (uint64_t)offset;
        memcpy(g->data + g->n, data, (size_t)n);
        g->n += (size_t)n;
        return SQLITE_OK;
}

static int file_truncate(sqlite3_file *base, sqlite3_int64 size) {
        File *file = container_of(base, File, base);
        int r = file_flush(file);

        if (!r)
                r = store_vfs_call_hook(STORE_VFS_TRUNCATE, file->kind, NULL, 0, (uint64_t)size);
        return r ? r : file_real(base)->pMethods->xTruncate(file_real(base), size);
}

static int file_sync(sqlite3_file *base, int flags) {
        File *file = container_of(base, File, base);
        StoreVfs *vfs = file->vfs;
        uint64_t started_us;
        int r;

        if (vfs->checkpointing && file->kind == STORE_VFS_DATABASE) {
                vfs->owes_sync = true;
                return SQLITE_OK;
        }
        if (vfs->checkpointing && file->kind == STORE_VFS_WAL && vfs->wal_is_durable)
                return SQLITE_OK;

        started_us = clock_monotonic_us();
        r = file_flush(file);
        if (!r)
                r = store_vfs_call_hook(STORE_VFS_SYNC, file->kind, NULL, 0, 0);
        if (!r)
                r = file_real(base)->pMethods->xSync(file_real(base), flags);
        if (file->kind == STORE_VFS_WAL) {
                vfs->n_syncs++;
                vfs->sync_us_max = MAX(vfs->sync_us_max, clock_monotonic_us() - started_us);
        }
        return r;
}

static int file_size(sqlite3_file *base, sqlite3_int64 *ret_size) {
        int r = file_flush(container_of(base, File, base));

        if (r)
                return r;
        return file_real(base)->pMethods->xFileSize(file_real(base), ret_size);
}

static int file_lock(sqlite3_file *base, int level) {
        return file_real(base)->pMethods->xLock(file_real(base), level);
}

static int file_unlock(sqlite3_file *base, int level) {
        return file_real(base)->pMethods->xUnlock(file_real(base), level);
}

static int file_check_reserved_lock(sqlite3_file *base, int *ret_reserved) {
        return file_real(base)->pMethods->xCheckReservedLock(file_real(base), ret_reserved);
}

static int file_control(sqlite3_file *base, int op, void *arg) {
        return file_real(base)->pMethods->xFileControl(file_real(base), op, arg);
}

static int file_sector_size(sqlite3_file *base) {
        return file_real(base)->pMethods->xSectorSize(file_real(base));
}

static int file_device_characteristics(sqlite3_file *base) {
        return file_real(base)->pMethods->xDeviceCharacteristics(file_real(base));
}

static const sqlite3_io_methods file_methods = {
        .iVersion = 1,
        .xClose = file_close,
        .xRead = file_read,
        .xWrite = file_write,
        .xTruncate = file_truncate,
        .xSync = file_sync,
        .xFileSize = file_size,
        .xLock = file_lock,
        .xUnlock = file_unlock,
        .xCheckReservedLock = file_check_reserved_lock,
        .xFileControl = file_control,
        .xSectorSize = file_sector_size,
        .xDeviceCharacteristics = file_device_characteristics,
};

static int vfs_open(sqlite3_vfs *base, const char *name, sqlite3_file *opened, int flags, int *ret_flags) {
        StoreVfs *vfs = container_of(base, StoreVfs, vfs);
        File *file = container_of(opened, File, base);
        int r;

        file->base.pMethods = NULL;
        file->vfs = vfs;
        file->gather = NULL;
        file->kind = flags & SQLITE_OPEN_MAIN_DB ? STORE_VFS_DATABASE :
                     flags & SQLITE_OPEN_WAL ? STORE_VFS_WAL : STORE_VFS_OTHER;
        r = store_vfs_call_hook(STORE_VFS_OPEN, file->kind, NULL, 0, 0);
        if (!r)
                r = vfs->real->xOpen(vfs->real, name, file_real(opened), flags, ret_flags);
        if (r)
                return r;
        file->base.pMethods = &file_methods;
        if (file->kind == STORE_VFS_WAL) {
                /* Without memory for it, each write is made at once. */
                file->gather = calloc(1, sizeof(*file->gather));
                vfs->wal = opened;
        }
        return SQLITE_OK;
}

int store_vfs_new(StoreVfs **ret_vfs) {
        _cleanup_(store_vfs_freep) StoreVfs *vfs = NULL;
        sqlite3_vfs *real = sqlite3_vfs_find(NULL);

        if (!real)
                return error_origin(-ENOSYS);
        vfs = calloc(1, sizeof(*vfs));
        if (!vfs)
                return error_origin(-ENOMEM);
        /* The real VFS's methods are called with ours as their self, so its members are kept, pAppData among them. */
        vfs->vfs = *real;
        vfs->real = real;
        snprintf(vfs->name, sizeof(vfs->name), "agent-router-%p", (void *)vfs);
        vfs->vfs.zName = vfs->name;
        vfs->vfs.pNext = NULL;
        vfs->vfs.szOsFile = (int)offsetof(File, real) + real->szOsFile;
        vfs->vfs.xOpen = vfs_open;
        if (sqlite3_vfs_register(&vfs->vfs, false) != SQLITE_OK)
                return error_origin(-ENOMEM);
        *ret_vfs = steal_ptr(&vfs);
        return 0;
}

StoreVfs *store_vfs_free(StoreVfs *vfs) {
        if (!vfs)
                return NULL;
        sqlite3_vfs_unregister(&vfs->vfs);
        free(vfs);
        return NULL;
}

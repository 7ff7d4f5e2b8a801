#pragma once

/* What the files of this layer share: the Store itself, and a thin layer of statements with sticky errors. */

#include <assert.h>
#include <sqlcipher/sqlite3.h>

#include "reactor/reactor.h"
#include "store/store.h"
#include "store/vfs.h"

typedef struct Stmt Stmt;
typedef struct StoreMarker StoreMarker;

#define STORE_DATABASE "agent-router.db"
#define STORE_WAL STORE_DATABASE "-wal"
#define STORE_MARKER "agent-router.db.marker"

#define STORE_PAGE_SIZE 4096            /* SQLCipher 4's default; part of the format */
#define STORE_WAL_FRAME_SIZE (24 + STORE_PAGE_SIZE)

/*
 * The WAL's bounds. From SOFT on, a checkpoint is made at the next tick that finds no transaction open and nothing to
 * sync, so that it needs no sync on the caller. Under a load that leaves no such tick, one is made at HARD at any rate,
 * with one sync of the WAL on the caller. A checkpoint copies pages on the thread, some 5 µs each: 5 and 15 ms.
 */
#define STORE_WAL_SOFT MIB(4)
#define STORE_WAL_HARD MIB(12)
/* A checkpoint that failed for want of space is tried again when the WAL has grown by this. */
#define STORE_WAL_RETRY MIB(8)
/* A transaction with more bytes than this is committed at once, though not yet synced: it is held in memory. */
#define STORE_BATCH_BYTES_MAX MIB(4)
/* New rows are refused (STORE_E_FULL) below this much free space, so that what runs can still be written down. */
#define STORE_SPACE_RESERVE MIB(8)
/* The largest value of a column: above any body (4 MiB) or capture (8 MiB) that is let in, far below SQLite's 1 GB. */
#define STORE_VALUE_MAX MIB(64)
/* Databases up to this size have each page's HMAC checked at open: some 0.2 s at most. Larger ones: store_verify(). */
#define STORE_VERIFY_AT_OPEN_MAX MIB(64)
#define STORE_CACHE_KIB 1536

/* Slots of the cache of prepared statements. */
typedef enum StmtSlot {
        STMT_BEGIN,
        STMT_COMMIT,
        STMT_SAVEPOINT,
        STMT_RELEASE,
        STMT_UNDO,
        STMT_TASK_INSERT,
        STMT_TASK_INSERT_PROMPT,
        STMT_TASK_LOAD,
        STMT_TASK_LOAD_N,
        STMT_TASK_FIND,
        STMT_TASK_UPDATE,
        STMT_TASK_UPDATE_RESULT,
        STMT_TASK_LIST_LIVE,
        STMT_TASK_PROMPT_SIZE,
        STMT_BATCH_INSERT,
        STMT_BATCH_UPDATE,
        STMT_BATCH_LOAD,
        STMT_BATCH_USAGE,
        STMT_BATCH_COUNTS,
        STMT_BATCH_ADD_COUNT,
        STMT_BATCH_ADD_USAGE,
        STMT_BATCH_TASK_LIST,
        STMT_DEPENDENCY_INSERT,
        STMT_DEPENDENCY_LIST,
        STMT_DEPENDANT_LIST,
        STMT_LIMIT_PUT,
        STMT_LIMIT_DELETE,
        STMT_LIMIT_LIST,
        STMT_GATE_PUT,
        STMT_GATE_DELETE,
        STMT_GATE_LIST,
        STMT_USAGE_ADD,
        STMT_ATTEMPT_INSERT,
        STMT_ATTEMPT_UPDATE,
        STMT_ATTEMPT_LOAD,
        STMT_ATTEMPT_LIST,
        STMT_ATTEMPT_LIST_OPEN,
        STMT_EVENT_FIND,
        STMT_EVENT_APPEND,
        STMT_EVENT_LIST,
        STMT_EVENT_LIST_ALL,
        STMT_EVENT_LAST,
        STMT_KEY_INSERT,
        STMT_KEY_FIND,
        STMT_KEY_REVOKE,
        STMT_KEY_LIST,
        STMT_IDEMPOTENCY_INSERT,
        STMT_IDEMPOTENCY_FIND,
        STMT_IDEMPOTENCY_PRUNE,
        _STMT_SLOT_N,
        STMT_UNCACHED = -1,
} StmtSlot;

struct Store {
        Reactor *reactor;
        StoreVfs *vfs;
        sqlite3 *db;
        char *dir;
        char *path;
        int dir_fd;
        int wal_fd;                     /* of the -wal file of this opening */
        int db_fd;                      /* for fdatasync; closed after the connection only, or its locks would drop */
        sqlite3_stmt *stmts[_STMT_SLOT_N];

        /* commit.c */
        Defer tick;
        Op wal_sync;
        Op db_sync;
        List gathering;                 /* waits for the transaction that is open, or for nothing */
        List syncing;                   /* waits for the WAL sync in flight */
        bool txn_open;
        bool in_request;
        bool unsynced;                  /* the WAL has frames that no sync in flight covers */
        bool wal_syncing;
        bool db_syncing;                /* nothing may be committed until it ends */
        bool closing;
        bool space_is_low;              /* at the beginning of the open transaction */
        int request_error;              /* first fatal error (or STORE_E_FULL) of the request: it will be undone */
        size_t batch_bytes;
        size_t wal_bytes;               /* in use since the WAL's last restart */
        size_t wal_soft, wal_hard;      /* STORE_WAL_SOFT, STORE_WAL_HARD; a test makes them small */
        size_t checkpoint_retry_bytes;  /* no checkpoint below this, after one that failed */
        uint64_t sync_started_us;

        uint64_t counts[_TASK_STATE_N];         /* as the open transaction sees them */
        int64_t request_counts[_TASK_STATE_N];  /* what the open request has added: taken back where it is undone */

        StoreStats stats;
        bool failed;
        char failure[STORE_REFUSED_MAX];
};

static inline void sqlite3_freep(char **p) {
        sqlite3_free(*p);
}

/* ---- stmt.c ---- */

/*
 * One use of a statement. Values are bound, and columns read, in order. The first error sticks and comes out of
 * stmt_step() or stmt_run(). Errors are mapped: -ENOMEM, -EIO… and STORE_E_EXISTS, STORE_E_NOT_FOUND (a foreign key),
 * STORE_E_FULL; one that costs the transaction fails the store.
 */
struct Stmt {
        Store *store;
        sqlite3_stmt *sqlite;
        StmtSlot slot;
        int error;
        int n_bound;
        int n_read;
};
#define STMT_NULL {}

/* The slot's statement, prepared at first use; a new one where the slot's is in use (a list within a list). */
int stmt_get(Stmt *stmt, Store *store, StmtSlot slot, const char *sql) _must_check_;
void stmt_put(Stmt *stmt);
int stmt_step(Stmt *stmt, bool *ret_row) _must_check_;
/* For statements without rows. */
int stmt_run(Stmt *stmt) _must_check_;
/* Rows changed by the last stmt_run(). */
size_t stmt_changes(const Stmt *stmt);
/* Makes it ready for new values. */
void stmt_reset(Stmt *stmt);

/* Bound memory must live until stmt_put() or stmt_reset(). NULL pointers bind NULL. */
void stmt_bind_i64(Stmt *stmt, int64_t v);
void stmt_bind_u64(Stmt *stmt, uint64_t v);
void stmt_bind_id(Stmt *stmt, const Id *id);
void stmt_bind_str(Stmt *stmt, const char *s);
void stmt_bind_text(Stmt *stmt, const char *s, size_t n);
void stmt_bind_blob(Stmt *stmt, const void *data, size_t n);
void stmt_bind_usage(Stmt *stmt, const StoreUsage *usage);

int64_t stmt_i64(Stmt *stmt);
uint64_t stmt_u64(Stmt *stmt);
uint32_t stmt_u32(Stmt *stmt);
Id stmt_id(Stmt *stmt);                         /* the null id for NULL */
/* Copies; NULL for NULL. Sets the statement's error (see stmt_error()) where memory is short. */
char *stmt_str(Stmt *stmt);
char *stmt_bytes(Stmt *stmt, size_t *ret_n);    /* with a NUL behind */
/* Points into the row: valid until the next step. */
const char *stmt_peek_text(Stmt *stmt, size_t *ret_n);
const char *stmt_peek_blob(Stmt *stmt, size_t *ret_n);
bool stmt_fixed_blob(Stmt *stmt, void *ret_data, size_t n);
StoreUsage stmt_usage(Stmt *stmt);
#define STMT_USAGE_COLUMNS "input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, cost_microusd"

/* Runs SQL without rows or values. */
int store_exec(Store *store, const char *sql) _must_check_;
/* The first column of the first row; 0 where there is none. */
int store_query_u64(Store *store, const char *sql, uint64_t *ret_v) _must_check_;

/* ---- commit.c ---- */

void store_commit_init(Store *store);
/* Waits for syncs in flight, commits what is open, and answers all waiters. */
void store_commit_deinit(Store *store);
/* Puts the store into the failed state, undoes what is open and answers its waiters at the tick's end. */
void store_fail(Store *store, const char *format, ...) _printf_(2, 3);
/* What a function that adds rows asks first. */
int store_check_write(Store *store) _must_check_;
int store_check_insert(Store *store) _must_check_;
void store_count_state(Store *store, TaskState state, int64_t delta);

/* ---- tasks.c ---- */

/* The columns of task_read(), of a table or subquery t. */
#define TASK_COLUMNS                                                                                            \
        "t.id, t.principal, t.run_as_uid, t.state, t.agent, t.candidates, t.model, t.priority, t.workspace, "   \
        "t.request, t.batch, t.group_name, t.gpus, t.cpus_milli, t.memory, t.max_tokens, t.max_cost_microusd, " \
        "t.timeout_us, t.not_before_us, t.deadline_us, t.n_blockers, t.on_unmet, t.created_us, t.updated_us, "  \
        "t.ready_us, t.started_us, t.finished_us, t.n_attempts, t.max_attempts, t.backoff_us, "                 \
        "t.cancel_requested, t.reason, t.detail, t.result_truncated, t.input_tokens, t.cached_input_tokens, "   \
        "t.output_tokens, t.reasoning_tokens, t.cost_microusd, (SELECT max(seq) FROM events WHERE task = t.n)"
int store_task_read(Stmt *stmt, StoreTask **ret_task) _must_check_;

/* ---- batches.c ---- */

/* What a task adds to the sums of its batch; old NULL where it is new. */
int store_batch_account(Store *store, const Id *batch, const TaskState *old_state, const StoreUsage *old_usage,
                        TaskState state, const StoreUsage *usage) _must_check_;

/* ---- usage.c ---- */

/* Known and within bounds: what may be added to a sum. */
static inline int64_t usage_value(int64_t v) {
        return v < 0 ? -1 : MIN(v, STORE_USAGE_MAX);
}

/* ---- schema.c ---- */

uint64_t store_schema_version(void);
/* The SQL of that version's migration; from 1. */
const char *store_schema_migration(uint64_t version);
/* Runs the migrations that are missing, in one transaction. */
int store_schema_migrate(Store *store, uint64_t from) _must_check_;

/* ---- marker.c ---- */

/* The file beside the database that says one exists, which key it has, and how large it is at least. */
struct StoreMarker {
        char key[17];                   /* fingerprint */
        uint64_t bytes;
};

enum {
        _STORE_MARKER_E_SUCCESS,
        STORE_MARKER_E_NONE,
        STORE_MARKER_E_INVALID,
};
int store_marker_read(int dir_fd, StoreMarker *ret_marker) _must_check_;
int store_marker_write(int dir_fd, const StoreMarker *marker) _must_check_;
/* 64 bits of a hash of the key: they tell a wrong key from a damaged database, and nothing of 256 random bits. */
int store_marker_fingerprint(const uint8_t key[static STORE_KEY_SIZE], char ret_fingerprint[static 17]) _must_check_;

/* ---- verify.c ---- */

/* A database file that ends early lacks pages, but for those that the WAL has. STORE_E_REFUSED. */
int store_verify_size(Store *store, uint64_t database_bytes, char ret_refused[static STORE_REFUSED_MAX]) _must_check_;
/* Checks the HMAC of every page of the file; one that the WAL replaces does not count. STORE_E_REFUSED. */
int store_verify_pages(Store *store, char ret_refused[static STORE_REFUSED_MAX]) _must_check_;

/* Writes the sentence, and returns STORE_E_REFUSED. */
int store_refuse(char ret_refused[static STORE_REFUSED_MAX], const char *format, ...) _printf_(2, 3);

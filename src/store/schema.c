/*
 * Schema: the numbered migrations. PRAGMA user_version holds the number of the last one that ran; migrations are only
 * ever added. A program that knows fewer than the database has refuses it (open.c).
 *
 * Rows have an integer key `n` of their own, which orders them as they were written and keeps references small; ids are
 * unique beside it. Prompts and results, which can be large, are tables of their own: an UPDATE of a task rewrites its
 * row, and lists read rows without them. events.n is the sequence over all tasks.
 */

#include "base/error.h"
#include "store/internal.h"

static const char *const migrations[] = {
        /* 1 */
        "CREATE TABLE tasks ("
        "  n INTEGER PRIMARY KEY,"
        "  id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),"
        "  principal TEXT NOT NULL,"
        "  run_as_uid INTEGER NOT NULL,"
        "  state INTEGER NOT NULL,"
        "  agent TEXT,"
        "  model TEXT,"
        "  priority INTEGER NOT NULL,"
        "  workspace TEXT,"
        "  request TEXT,"
        "  timeout_us INTEGER NOT NULL,"
        "  not_before_us INTEGER NOT NULL,"
        "  created_us INTEGER NOT NULL,"
        "  updated_us INTEGER NOT NULL,"
        "  started_us INTEGER NOT NULL,"
        "  finished_us INTEGER NOT NULL,"
        "  n_attempts INTEGER NOT NULL,"
        "  max_attempts INTEGER NOT NULL,"
        "  backoff_us INTEGER NOT NULL,"
        "  cancel_requested INTEGER NOT NULL,"
        "  reason TEXT,"
        "  detail TEXT,"
        "  result_truncated INTEGER NOT NULL,"
        "  input_tokens INTEGER NOT NULL,"
        "  cached_input_tokens INTEGER NOT NULL,"
        "  output_tokens INTEGER NOT NULL,"
        "  reasoning_tokens INTEGER NOT NULL,"
        "  cost_microusd INTEGER NOT NULL"
        ") STRICT;"
        "CREATE INDEX tasks_by_principal ON tasks (principal, id);"
        "CREATE INDEX tasks_by_state ON tasks (state, id);"
        "CREATE TABLE prompts ("
        "  task INTEGER PRIMARY KEY REFERENCES tasks (n) ON DELETE CASCADE,"
        "  prompt BLOB NOT NULL"
        ") STRICT;"
        "CREATE TABLE results ("
        "  task INTEGER PRIMARY KEY REFERENCES tasks (n) ON DELETE CASCADE,"
        "  result BLOB NOT NULL"
        ") STRICT;"
        "CREATE TABLE attempts ("
        "  n INTEGER PRIMARY KEY,"
        "  id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),"
        "  task INTEGER NOT NULL REFERENCES tasks (n) ON DELETE CASCADE,"
        "  number INTEGER NOT NULL,"
        "  open INTEGER NOT NULL,"
        "  generation BLOB,"
        "  started_us INTEGER NOT NULL,"
        "  execed_us INTEGER NOT NULL,"
        "  finished_us INTEGER NOT NULL,"
        "  exit_code INTEGER NOT NULL,"
        "  signal INTEGER NOT NULL,"
        "  outcome TEXT,"
        "  reason TEXT,"
        "  detail TEXT,"
        "  input_tokens INTEGER NOT NULL,"
        "  cached_input_tokens INTEGER NOT NULL,"
        "  output_tokens INTEGER NOT NULL,"
        "  reasoning_tokens INTEGER NOT NULL,"
        "  cost_microusd INTEGER NOT NULL,"
        "  stdout_offset INTEGER NOT NULL,"
        "  stderr_offset INTEGER NOT NULL,"
        "  stdout_flags INTEGER NOT NULL,"
        "  stderr_flags INTEGER NOT NULL,"
        "  captured_bytes INTEGER NOT NULL,"
        "  memory_peak INTEGER NOT NULL,"
        "  cpu_us INTEGER NOT NULL,"
        "  oom_kills INTEGER NOT NULL,"
        "  session TEXT,"
        "  UNIQUE (task, number)"
        ") STRICT;"
        "CREATE INDEX attempts_open ON attempts (n) WHERE open;"
        "CREATE TABLE events ("
        "  n INTEGER PRIMARY KEY,"
        "  task INTEGER NOT NULL REFERENCES tasks (n) ON DELETE CASCADE,"
        "  seq INTEGER NOT NULL,"
        "  attempt INTEGER NOT NULL,"
        "  at_us INTEGER NOT NULL,"
        "  type TEXT NOT NULL,"
        "  data TEXT NOT NULL,"
        "  raw BLOB,"
        "  stream INTEGER NOT NULL,"
        "  UNIQUE (task, seq)"
        ") STRICT;"
        "CREATE TABLE keys ("
        "  n INTEGER PRIMARY KEY,"
        "  id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),"
        "  name TEXT NOT NULL,"
        "  hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),"
        "  role TEXT NOT NULL,"
        "  run_as_uid INTEGER NOT NULL,"
        "  created_us INTEGER NOT NULL,"
        "  revoked_us INTEGER NOT NULL,"
        "  created_by TEXT NOT NULL"
        ") STRICT;"
        "CREATE UNIQUE INDEX keys_valid ON keys (name) WHERE revoked_us = 0;"
        "CREATE TABLE idempotency ("
        "  principal TEXT NOT NULL,"
        "  key TEXT NOT NULL,"
        "  request_hash BLOB NOT NULL CHECK (length(request_hash) = 32),"
        "  status INTEGER NOT NULL,"
        "  body BLOB NOT NULL,"
        "  location TEXT,"
        "  expires_us INTEGER NOT NULL,"
        "  PRIMARY KEY (principal, key)"
        ") STRICT;"
        "CREATE INDEX idempotency_by_expiry ON idempotency (expires_us);",

        /* 2 */
        "CREATE TABLE batches ("
        "  n INTEGER PRIMARY KEY,"
        "  id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),"
        "  principal TEXT NOT NULL,"
        "  metadata TEXT,"
        "  n_tasks INTEGER NOT NULL,"
        "  selection INTEGER NOT NULL CHECK (selection BETWEEN 0 AND 2),"
        "  cancel_requested INTEGER NOT NULL,"
        "  refuse_all INTEGER NOT NULL,"
        "  max_tokens INTEGER NOT NULL,"
        "  max_cost_microusd INTEGER NOT NULL,"
        "  created_us INTEGER NOT NULL,"
        "  input_tokens INTEGER NOT NULL DEFAULT -1,"
        "  cached_input_tokens INTEGER NOT NULL DEFAULT -1,"
        "  output_tokens INTEGER NOT NULL DEFAULT -1,"
        "  reasoning_tokens INTEGER NOT NULL DEFAULT -1,"
        "  cost_microusd INTEGER NOT NULL DEFAULT -1"
        ") STRICT;"
        "CREATE INDEX batches_by_principal ON batches (principal, id);"
        "CREATE INDEX batches_unfinished ON batches (id) WHERE n_tasks = 0;"
        "CREATE TABLE batch_counts ("
        "  batch BLOB NOT NULL REFERENCES batches (id) ON DELETE CASCADE,"
        "  state INTEGER NOT NULL,"
        "  n_tasks INTEGER NOT NULL,"
        "  PRIMARY KEY (batch, state)"
        ") STRICT, WITHOUT ROWID;"
        "ALTER TABLE tasks ADD COLUMN batch BLOB REFERENCES batches (id);"
        "ALTER TABLE tasks ADD COLUMN group_name TEXT;"
        "ALTER TABLE tasks ADD COLUMN candidates TEXT;"
        "ALTER TABLE tasks ADD COLUMN gpus INTEGER NOT NULL DEFAULT 0;"
        "ALTER TABLE tasks ADD COLUMN cpus_milli INTEGER NOT NULL DEFAULT 0;"
        "ALTER TABLE tasks ADD COLUMN memory INTEGER NOT NULL DEFAULT 0;"
        "ALTER TABLE tasks ADD COLUMN max_tokens INTEGER NOT NULL DEFAULT 0;"
        "ALTER TABLE tasks ADD COLUMN max_cost_microusd INTEGER NOT NULL DEFAULT 0;"
        "ALTER TABLE tasks ADD COLUMN deadline_us INTEGER NOT NULL DEFAULT 0;"
        "ALTER TABLE tasks ADD COLUMN ready_us INTEGER NOT NULL DEFAULT 0;"
        "ALTER TABLE tasks ADD COLUMN n_blockers INTEGER NOT NULL DEFAULT 0;"
        "ALTER TABLE tasks ADD COLUMN on_unmet INTEGER NOT NULL DEFAULT 0;"
        "UPDATE tasks SET ready_us = max(created_us, not_before_us) WHERE state = 1;"
        "CREATE INDEX tasks_by_batch ON tasks (batch, id) WHERE batch IS NOT NULL;"
        /* Has all that store_task_list_live() reads, so that a start needs neither the rows nor the ended tasks. */
        "CREATE INDEX tasks_live ON tasks (id, principal, state, agent, candidates, priority, batch, group_name, gpus,"
        "  cpus_milli, memory, max_tokens, max_cost_microusd, not_before_us, deadline_us, n_blockers, created_us,"
        "  ready_us, n_attempts, cancel_requested) WHERE state IN (1, 2, 3, 9, 10);"
        "ALTER TABLE attempts ADD COLUMN agent TEXT;"
        "ALTER TABLE attempts ADD COLUMN gpus TEXT;"
        "CREATE TABLE dependencies ("
        "  task INTEGER NOT NULL REFERENCES tasks (n) ON DELETE CASCADE,"
        "  on_task INTEGER NOT NULL REFERENCES tasks (n) ON DELETE CASCADE,"
        "  condition INTEGER NOT NULL CHECK (condition BETWEEN 1 AND 3),"
        "  PRIMARY KEY (task, on_task),"
        "  CHECK (task != on_task)"
        ") STRICT, WITHOUT ROWID;"
        "CREATE INDEX dependencies_by_on_task ON dependencies (on_task, task);"
        "CREATE TABLE limits ("
        "  kind TEXT NOT NULL CHECK (kind IN ('global', 'agent', 'principal', 'group')),"
        "  name TEXT NOT NULL,"
        "  running INTEGER NOT NULL CHECK (running >= -1),"
        "  paused INTEGER NOT NULL,"
        "  weight INTEGER NOT NULL,"
        "  queued INTEGER NOT NULL CHECK (queued >= -1),"
        "  max_tokens_day INTEGER NOT NULL CHECK (max_tokens_day >= -1),"
        "  max_cost_microusd_day INTEGER NOT NULL CHECK (max_cost_microusd_day >= -1),"
        "  updated_us INTEGER NOT NULL,"
        "  updated_by TEXT NOT NULL,"
        "  PRIMARY KEY (kind, name),"
        "  CHECK ((kind = 'global') = (name = ''))"
        ") STRICT, WITHOUT ROWID;"
        "CREATE TABLE gates ("
        "  account TEXT NOT NULL PRIMARY KEY,"
        "  until_us INTEGER NOT NULL,"
        "  reason TEXT"
        ") STRICT, WITHOUT ROWID;"
        "CREATE TABLE usage ("
        "  day INTEGER NOT NULL,"
        "  principal TEXT NOT NULL,"
        "  agent TEXT NOT NULL,"
        "  batch BLOB NOT NULL,"        /* empty: none */
        "  input_tokens INTEGER NOT NULL,"
        "  cached_input_tokens INTEGER NOT NULL,"
        "  output_tokens INTEGER NOT NULL,"
        "  reasoning_tokens INTEGER NOT NULL,"
        "  cost_microusd INTEGER NOT NULL,"
        "  n_attempts INTEGER NOT NULL,"
        "  PRIMARY KEY (day, principal, agent, batch)"
        ") STRICT, WITHOUT ROWID;",
};

uint64_t store_schema_version(void) {
        return ELEMENTSOF(migrations);
}

const char *store_schema_migration(uint64_t version) {
        assert(version >= 1 && version <= ELEMENTSOF(migrations));
        return migrations[version - 1];
}

/* On failure the transaction is left to the closing of the connection. */
int store_schema_migrate(Store *store, uint64_t from) {
        int r;

        if (from >= ELEMENTSOF(migrations))
                return 0;
        r = store_exec(store, "BEGIN IMMEDIATE");
        for (uint64_t i = from; i < ELEMENTSOF(migrations) && !r; i++) {
                _cleanup_(sqlite3_freep) char *sql = NULL;

                r = store_exec(store, store_schema_migration(i + 1));
                if (r)
                        break;
                sql = sqlite3_mprintf("PRAGMA user_version = %llu", (unsigned long long)i + 1);
                r = sql ? store_exec(store, sql) : error_origin(-ENOMEM);
        }
        if (!r)
                r = store_exec(store, "COMMIT");
        return error_fold(r);
}

#pragma once

/*
 * Logging
 *
 * One line is one journal entry. Where stderr is connected to the journal (JOURNAL_STREAM names its inode), entries go
 * by journald's native datagram protocol with structured fields; elsewhere they go to stderr as text without a
 * priority, the fields in brackets and control characters as spaces. A datagram is never waited for: a full journal
 * socket drops the entry and counts it, since nothing may block the reactor.
 *
 * Never log a prompt, a response, a key or a token: only ids, counts, names and errno texts.
 *
 *     log_field(LOG_INFO, (LogField[]){ { "TASK_ID", id }, { "AGENT", agent }, {} }, "task %s started", id);
 */

#include <stdarg.h>
#include <stdint.h>
#include <syslog.h>

#include "base/macro.h"

typedef struct LogField LogField;

/* One field. `name` is upper-case as systemd.journal-fields(7) wants it; a NULL name ends the array. */
struct LogField {
        const char *name;
        const char *value;
};

/* MESSAGE_IDs, each with an entry in units/agent-router.catalog. */
#define LOG_ID_DAEMON_READY     "7c1d6e3fb0a14d0c9d5e0a4b7be30001"
#define LOG_ID_DAEMON_STOPPING  "7c1d6e3fb0a14d0c9d5e0a4b7be30002"
#define LOG_ID_TASK_STARTED     "7c1d6e3fb0a14d0c9d5e0a4b7be30003"
#define LOG_ID_TASK_FINISHED    "7c1d6e3fb0a14d0c9d5e0a4b7be30004"
#define LOG_ID_STORE_REFUSED    "7c1d6e3fb0a14d0c9d5e0a4b7be30005"
#define LOG_ID_STORE_FAILED     "7c1d6e3fb0a14d0c9d5e0a4b7be30006"
#define LOG_ID_LAUNCHER_LOST    "7c1d6e3fb0a14d0c9d5e0a4b7be30007"
#define LOG_ID_LAUNCHER_READY   "7c1d6e3fb0a14d0c9d5e0a4b7be30008"
#define LOG_ID_ATTEMPT_LOST     "7c1d6e3fb0a14d0c9d5e0a4b7be30009"
#define LOG_ID_KEY_CHANGED      "7c1d6e3fb0a14d0c9d5e0a4b7be3000a"
#define LOG_ID_CAPABILITY_ABSENT "7c1d6e3fb0a14d0c9d5e0a4b7be3000b"
#define LOG_ID_LIMIT_CHANGED    "7c1d6e3fb0a14d0c9d5e0a4b7be3000c"
#define LOG_ID_CONFIG_LOADED    "7c1d6e3fb0a14d0c9d5e0a4b7be3000d"
#define LOG_ID_CONFIG_REFUSED   "7c1d6e3fb0a14d0c9d5e0a4b7be3000e"

/* Opens the log for a program of this name. Never fails: without a journal it is stderr. */
void log_open(const char *identifier);
/* Entries go to this datagram socket, which the log owns from then on, in journald's protocol; −1: to stderr. */
void log_take_journal(int fd);
/* Entries less urgent than this are dropped (LOG_INFO by default; AGENT_ROUTER_LOG_LEVEL=debug|info|…). */
void log_set_max_level(int level);
int log_get_max_level(void);
/* Entries dropped because the journal's socket was full, since start. */
uint64_t log_dropped(void);

void log_full(int level, const LogField *fields, const char *format, ...) _printf_(3, 4);

/* fields, format, …: not named here, since the commas of a compound literal would part it into macro arguments. */
#define log_field(level, ...)  log_full((level), __VA_ARGS__)
#define log_debug(...)   log_full(LOG_DEBUG, NULL, __VA_ARGS__)
#define log_info(...)    log_full(LOG_INFO, NULL, __VA_ARGS__)
#define log_notice(...)  log_full(LOG_NOTICE, NULL, __VA_ARGS__)
#define log_warning(...) log_full(LOG_WARNING, NULL, __VA_ARGS__)
#define log_error(...)   log_full(LOG_ERR, NULL, __VA_ARGS__)

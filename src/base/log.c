#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"

/* A whole entry; longer ones are cut. Under the 212,992 bytes that a datagram may have. */
#define LOG_ENTRY_MAX KIB(16)
#define LOG_MESSAGE_MAX KIB(4)

static struct {
        const char *identifier;
        int max_level;
        int journal_fd;
        uint64_t dropped;
} log_state = { .identifier = "agent-router", .max_level = LOG_INFO, .journal_fd = -1 };

/* sd_journal_stream semantics, systemd.exec(5) $JOURNAL_STREAM: "dev:inode" of stderr. */
static bool log_stderr_is_journal(void) {
        const char *e = getenv("JOURNAL_STREAM");
        unsigned long long dev, ino;
        struct stat st;

        if (!e || sscanf(e, "%llu:%llu", &dev, &ino) != 2)
                return false;
        return fstat(STDERR_FILENO, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

void log_open(const char *identifier) {
        static const char *const names[] = { "emerg", "alert", "crit", "err", "warning", "notice", "info", "debug" };
        static const struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "/run/systemd/journal/socket" };
        const char *level = getenv("AGENT_ROUTER_LOG_LEVEL");

        log_state.identifier = identifier;
        for (size_t i = 0; level && i < ELEMENTSOF(names); i++)
                if (streq(level, names[i]))
                        log_state.max_level = (int)i;

        if (log_state.journal_fd >= 0 || !log_stderr_is_journal())
                return;
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return;
        if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
                close(fd);
        else
                log_take_journal(fd);
}

void log_take_journal(int fd) {
        if (log_state.journal_fd >= 0)
                close(log_state.journal_fd);
        log_state.journal_fd = fd;
}

void log_set_max_level(int level) {
        log_state.max_level = level;
}

int log_get_max_level(void) {
        return log_state.max_level;
}

uint64_t log_dropped(void) {
        return log_state.dropped;
}

typedef struct LogEntry {
        char data[LOG_ENTRY_MAX];
        size_t n;
} LogEntry;

/*
 * Appends one field in the native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): `NAME=value\n`, or for a
 * value with a newline `NAME\n`, its length as 64-bit little endian, value, newline.
 */
static void log_entry_add(LogEntry *e, const char *name, const char *value) {
        size_t n_name = strlen(name), n_value = strlen(value);

        if (e->n + n_name + n_value + 10 > sizeof(e->data))
                return;
        memcpy(e->data + e->n, name, n_name);
        e->n += n_name;
        if (memchr(value, '\n', n_value)) {
                e->data[e->n++] = '\n';
                for (unsigned i = 0; i < 8; i++)
                        e->data[e->n++] = (char)((uint64_t)n_value >> (8 * i));
        } else
                e->data[e->n++] = '=';
        memcpy(e->data + e->n, value, n_value);
        e->n += n_value;
        e->data[e->n++] = '\n';
}

static void log_to_journal(int level, const LogField *fields, const char *message) {
        LogEntry e = {};
        char priority[2] = { (char)('0' + level), 0 };

        log_entry_add(&e, "MESSAGE", message);
        log_entry_add(&e, "PRIORITY", priority);
        log_entry_add(&e, "SYSLOG_IDENTIFIER", log_state.identifier);
        for (const LogField *f = fields; f && f->name; f++)
                if (f->value)
                        log_entry_add(&e, f->name, f->value);
        if (send(log_state.journal_fd, e.data, e.n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
                log_state.dropped++;
}

static void log_to_stderr(const LogField *fields, const char *message) {
        LogEntry e = {};
        int n;

        n = snprintf(e.data, sizeof(e.data), "%s: %s", log_state.identifier, message);
        e.n = MIN((size_t)n, sizeof(e.data) - 2);
        for (const LogField *f = fields; f && f->name; f++) {
                if (!f->value || streq(f->name, "MESSAGE_ID"))
                        continue;
                n = snprintf(e.data + e.n, sizeof(e.data) - e.n - 1, " [%s=%s]", f->name, f->value);
                if ((size_t)n >= sizeof(e.data) - e.n - 1)
                        break;
                e.n += (size_t)n;
        }
        /* One entry is one line, whatever a client put into a name. */
        for (size_t i = 0; i < e.n; i++)
                if ((uint8_t)e.data[i] < 0x20 || e.data[i] == 0x7f)
                        e.data[i] = ' ';
        e.data[e.n++] = '\n';
        if (write(STDERR_FILENO, e.data, e.n) < 0)
                log_state.dropped++;
}

void log_full(int level, const LogField *fields, const char *format, ...) {
        char message[LOG_MESSAGE_MAX];
        int saved = errno;
        va_list ap;

        if (level > log_state.max_level)
                return;
        va_start(ap, format);
        if (vsnprintf(message, sizeof(message), format, ap) < 0)
                message[0] = 0;
        va_end(ap);

        if (log_state.journal_fd >= 0)
                log_to_journal(level, fields, message);
        else
                log_to_stderr(fields, message);
        errno = saved;
}

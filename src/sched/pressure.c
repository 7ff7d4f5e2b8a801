#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/parse.h"
#include "sched/pressure.h"

#define PRESSURE_SLICE "agent-router.slice"

const char *pressure_source_name(PressureSource source) {
        static const char *const names[_PRESSURE_SOURCE_N] = { "memory", "cpu", "io", "slice", "meminfo" };

        return names[source];
}

/* ---- parsing ---- */

/* "12.34" as 1234, of digits that the kernel prints with two behind the point. */
static bool parse_hundredths(const char *s, uint32_t *ret_v) {
        size_t n = strspn(s, "0123456789");
        uint64_t whole, rest;
        char text[8];

        if (!n || n >= sizeof(text) || s[n] != '.')
                return false;
        memcpy(text, s, n);
        text[n] = 0;
        if (!parse_u64_range(text, 0, 100, &whole) || strspn(s + n + 1, "0123456789") != 2)
                return false;
        memcpy(text, s + n + 1, 2);
        text[2] = 0;
        if (!parse_u64(text, &rest))
                return false;
        *ret_v = (uint32_t)(whole * 100 + rest);
        return true;
}

/* The line that begins with the word, and its avg10. */
static bool parse_line(const char *text, const char *begins, uint32_t *ret_v) {
        for (const char *line = text; line && *line;) {
                if (str_starts(line, begins))
                        return parse_hundredths(line + strlen(begins), ret_v);
                line = strchr(line, '\n');
                line = line ? line + 1 : NULL;
        }
        return false;
}

bool pressure_parse(const char *text, PressureStall *ret_stall) {
        PressureStall stall = {};

        if (!parse_line(text, "some avg10=", &stall.some))
                return false;
        /* Before Linux 5.13 cpu has none. */
        if (!parse_line(text, "full avg10=", &stall.full))
                stall.full = 0;
        *ret_stall = stall;
        return true;
}

bool pressure_parse_available(const char *text, uint64_t *ret_bytes) {
        static const char name[] = "MemAvailable:";
        const char *line = str_starts(text, name) ? text : strstr(text, "\nMemAvailable:");
        char digits[21];
        uint64_t kib;
        size_t n;

        if (!line)
                return false;
        line += (*line == '\n') + strlen(name);
        line += strspn(line, " ");
        n = strspn(line, "0123456789");
        if (!n || n >= sizeof(digits) || !str_starts(line + n, " kB\n"))
                return false;
        memcpy(digits, line, n);
        digits[n] = 0;
        if (!parse_u64_range(digits, 0, UINT64_MAX / 1024, &kib))
                return false;
        *ret_bytes = kib * 1024;
        return true;
}

/* ---- the machine ---- */

static int pressure_read(Pressure *p, PressureSource source, char text[static PRESSURE_TEXT_MAX]) {
        ssize_t n;

        if (p->fds[source] < 0)
                return -ENOENT;
        n = pread(p->fds[source], text, PRESSURE_TEXT_MAX - 1, 0);
        if (n < 0)
                return error_origin(-errno);
        text[n] = 0;
        return 0;
}

void pressure_init(Pressure *p) {
        *p = (Pressure){ .read = pressure_read };
        for (size_t i = 0; i < ELEMENTSOF(p->fds); i++)
                p->fds[i] = -1;
}

/* The cgroup above ours, where it is the slice that the units put both programs and all tasks in. */
static int slice_open(void) {
        _cleanup_free_ char *text = NULL, *path = NULL;
        char *own, *slash;
        size_t n;
        int fd;

        if (fd_read_file(AT_FDCWD, "/proc/self/cgroup", KIB(4), &text, &n))
                return -1;
        own = str_starts(text, "0::/") ? text + strlen("0::") : strstr(text, "\n0::/");
        if (!own)
                return -1;
        own += *own == '\n' ? strlen("\n0::") : 0;
        own[strcspn(own, "\n")] = 0;
        slash = strrchr(own, '/');
        *slash = 0;
        slash = strrchr(own, '/');
        if (!slash || !streq(slash + 1, PRESSURE_SLICE) || strstr(own, "/../"))
                return -1;
        if (asprintf(&path, "/sys/fs/cgroup%s/memory.pressure", own) < 0) {
                path = NULL;
                return -1;
        }
        fd = open(path, O_RDONLY | O_CLOEXEC);
        return fd;
}

void pressure_open(Pressure *p) {
        static const char *const paths[] = {
                [PRESSURE_SOURCE_MEMORY] = "/proc/pressure/memory",
                [PRESSURE_SOURCE_CPU] = "/proc/pressure/cpu",
                [PRESSURE_SOURCE_IO] = "/proc/pressure/io",
                [PRESSURE_SOURCE_MEMINFO] = "/proc/meminfo",
        };
        char text[PRESSURE_TEXT_MAX];

        for (size_t i = 0; i < ELEMENTSOF(p->fds); i++) {
                p->fds[i] = i == PRESSURE_SOURCE_SLICE ? slice_open() : open(paths[i], O_RDONLY | O_CLOEXEC);
                /* A kernel booted with psi=0 has the files, which can't be read. */
                if (p->fds[i] >= 0 && p->read(p, i, text))
                        fd_close(steal_fd(&p->fds[i]));
        }
        if (p->fds[PRESSURE_SOURCE_MEMORY] < 0)
                log_field(LOG_NOTICE, (LogField[]){ { "MESSAGE_ID", LOG_ID_CAPABILITY_ABSENT }, {} },
                          "the kernel has no pressure stall information (CONFIG_PSI, psi=1): %s", p->fds[PRESSURE_SOURCE_MEMINFO] < 0
                          ? "pressure is not seen" : "only the memory that is left is looked at");
}

void pressure_deinit(Pressure *p) {
        for (size_t i = 0; i < ELEMENTSOF(p->fds); i++)
                fd_close(steal_fd(&p->fds[i]));
}

bool pressure_is_known(const Pressure *p) {
        if (p->read != pressure_read)
                return true;
        for (size_t i = 0; i < ELEMENTSOF(p->fds); i++)
                if (p->fds[i] >= 0)
                        return true;
        return false;
}

/* ---- deciding ---- */

/* The bit is set above the threshold, and cleared a quarter below it. */
static void hold_above(uint32_t *held, PressureSource source, uint64_t v, uint64_t threshold) {
        uint32_t bit = 1u << source;

        if (!threshold || v * 4 < threshold * 3)
                *held &= ~bit;
        else if (v > threshold)
                *held |= bit;
}

static void hold_below(uint32_t *held, PressureSource source, uint64_t v, uint64_t threshold) {
        uint32_t bit = 1u << source;

        if (v < threshold)
                *held |= bit;
        else if (!threshold || v - threshold >= threshold / 4)
                *held &= ~bit;
}

static void describe(Pressure *p) {
        uint32_t held = p->admit_held ?: p->launch_held;
        PressureSource source;

        *p->detail = 0;
        if (!held)
                return;
        source = (PressureSource)__builtin_ctz(held);
        if (source == PRESSURE_SOURCE_MEMINFO)
                snprintf(p->detail, sizeof(p->detail), "the machine has %llu MiB of memory left",
                         (unsigned long long)(p->available >> 20));
        else {
                bool full = p->admit_held && source != PRESSURE_SOURCE_CPU;
                uint32_t v = full ? p->stalls[source].full : p->stalls[source].some;
                snprintf(p->detail, sizeof(p->detail), "%s stood still for want of %s in %u.%02u%% of the last 10 s",
                         full ? "all" : "some", source == PRESSURE_SOURCE_CPU ? "CPU time"
                         : source == PRESSURE_SOURCE_IO ? "the disk" : "memory", v / 100, v % 100);
        }
}

void pressure_look(Pressure *p, const PressureConfig *config) {
        char text[PRESSURE_TEXT_MAX];

        for (PressureSource i = 0; i < _PRESSURE_SOURCE_N; i++) {
                PressureKind kind = i == PRESSURE_SOURCE_SLICE ? PRESSURE_MEMORY : (PressureKind)i;
                const PressureStall *stall = &p->stalls[i];
                p->present[i] = p->read(p, i, text) == 0 &&
                                (i == PRESSURE_SOURCE_MEMINFO ? pressure_parse_available(text, &p->available)
                                                              : pressure_parse(text, &p->stalls[i]));
                if (!p->present[i]) {
                        p->launch_held &= ~(1u << i);
                        p->admit_held &= ~(1u << i);
                } else if (i == PRESSURE_SOURCE_MEMINFO)
                        hold_below(&p->launch_held, i, p->available, config->available);
                else {
                        hold_above(&p->launch_held, i, stall->some, config->launch[kind] * UINT64_C(100));
                        hold_above(&p->admit_held, i, kind == PRESSURE_CPU ? stall->some : stall->full,
                                   config->admit[kind] * UINT64_C(100));
                }
        }
        describe(p);
}

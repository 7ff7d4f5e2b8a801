#pragma once

/*
 * pressure: whether the machine is short of memory, CPU time or disk. Pressure stall information (the kernel's
 * Documentation/accounting/psi.rst) says for how much of the last ten seconds some task, or all tasks, stood still for
 * want of a resource; /proc/meminfo how much memory is left.
 *
 * Two words come of it: `launch`, nothing more is started, and `admit`, nothing more is taken in. A word once said
 * holds until the number has fallen by a quarter below its threshold (memory left: has risen by one above it), so that
 * it does not flap.
 *
 * The descriptors are opened before the daemon is confined; a look at them is five preads, at most once a second.
 */

#include "base/macro.h"

typedef struct Pressure Pressure;
typedef struct PressureConfig PressureConfig;
typedef struct PressureStall PressureStall;

typedef enum PressureKind {
        PRESSURE_MEMORY,
        PRESSURE_CPU,
        PRESSURE_IO,
        _PRESSURE_KIND_N,
} PressureKind;

/* What is read. */
typedef enum PressureSource {
        PRESSURE_SOURCE_MEMORY,         /* the first are the kinds */
        PRESSURE_SOURCE_CPU,
        PRESSURE_SOURCE_IO,
        PRESSURE_SOURCE_SLICE,          /* memory, of the slice that we and the tasks are in */
        PRESSURE_SOURCE_MEMINFO,
        _PRESSURE_SOURCE_N,
} PressureSource;

struct PressureConfig {
        /* Percent of the last ten seconds; 0: never. */
        uint32_t launch[_PRESSURE_KIND_N];      /* in which some stood still */
        uint32_t admit[_PRESSURE_KIND_N];       /* in which all did; CPU: some, for the kernel has no other */
        uint64_t available;             /* bytes of memory below which nothing starts; 0: never */
};

#define PRESSURE_CONFIG_DEFAULT                                                                                        \
        { .launch = { [PRESSURE_MEMORY] = 20 }, .admit = { [PRESSURE_MEMORY] = 20 }, .available = MIB(256) }

/* avg10, in hundredths of a percent. */
struct PressureStall {
        uint32_t some;
        uint32_t full;
};

#define PRESSURE_TEXT_MAX       4096    /* of a file; what matters is at its start */
#define PRESSURE_DETAIL_MAX     128

/* Text of a source, ended by NUL; -errno where there is none. */
typedef int (*PressureReadFn)(Pressure *pressure, PressureSource source, char text[static PRESSURE_TEXT_MAX]);

struct Pressure {
        PressureReadFn read;
        void *userdata;                 /* read's */
        int fds[_PRESSURE_SOURCE_N];
        bool present[_PRESSURE_SOURCE_N];
        PressureStall stalls[_PRESSURE_SOURCE_N];       /* but for meminfo */
        uint64_t available;             /* bytes */
        uint32_t launch_held;           /* bits of sources whose thresholds are passed */
        uint32_t admit_held;
        char detail[PRESSURE_DETAIL_MAX];       /* for people, while launch or admit holds */
};

void pressure_init(Pressure *pressure);
/* Opens what there is, once, and says in the log what there is not. */
void pressure_open(Pressure *pressure);
void pressure_deinit(Pressure *pressure);
/* False where there is nothing to look at. */
bool pressure_is_known(const Pressure *pressure);
/* Looks, and decides. */
void pressure_look(Pressure *pressure, const PressureConfig *config);
static inline bool pressure_holds_launch(const Pressure *p) {
        return p->launch_held != 0;
}
static inline bool pressure_holds_admit(const Pressure *p) {
        return p->admit_held != 0;
}
/* "memory", "cpu", "io", "slice". */
const char *pressure_source_name(PressureSource source);

/* The text of a pressure file, and of /proc/meminfo. False: it is not one; ret_ is untouched. */
bool pressure_parse(const char *text, PressureStall *ret_stall) _must_check_;
bool pressure_parse_available(const char *text, uint64_t *ret_bytes) _must_check_;

#pragma once

/* Clocks, in microseconds. A test may freeze and move both. */

#include "base/macro.h"

/* CLOCK_BOOTTIME's sibling for timers: CLOCK_MONOTONIC. */
uint64_t clock_monotonic_us(void);
/* CLOCK_REALTIME since the Unix epoch. */
uint64_t clock_realtime_us(void);
/* For tests: both clocks stand still at these values until moved; 0, 0 sets them free. */
void clock_freeze(uint64_t monotonic_us, uint64_t realtime_us);

/* RFC 3339 with milliseconds in UTC: "2026-01-31T09:30:00.123Z". */
#define CLOCK_RFC3339_MAX 32
void clock_format_rfc3339(uint64_t realtime_us, char ret_s[static CLOCK_RFC3339_MAX]);
enum {
        _CLOCK_E_SUCCESS,
        CLOCK_E_INVALID,        /* not an RFC 3339 time, or before 1970 */
};
int clock_parse_rfc3339(const char *s, uint64_t *ret_realtime_us) _must_check_;

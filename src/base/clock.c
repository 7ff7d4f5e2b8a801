#include <stdio.h>
#include <time.h>

#include "base/clock.h"

static uint64_t frozen_monotonic_us, frozen_realtime_us;

static uint64_t clock_read_us(clockid_t id) {
        struct timespec ts;

        clock_gettime(id, &ts);
        return (uint64_t)ts.tv_sec * USEC_PER_SEC + (uint64_t)ts.tv_nsec / NSEC_PER_USEC;
}

uint64_t clock_monotonic_us(void) {
        return frozen_monotonic_us ?: clock_read_us(CLOCK_MONOTONIC);
}

uint64_t clock_realtime_us(void) {
        return frozen_realtime_us ?: clock_read_us(CLOCK_REALTIME);
}

void clock_freeze(uint64_t monotonic_us, uint64_t realtime_us) {
        frozen_monotonic_us = monotonic_us;
        frozen_realtime_us = realtime_us;
}

void clock_format_rfc3339(uint64_t realtime_us, char ret_s[static CLOCK_RFC3339_MAX]) {
        time_t t = (time_t)(realtime_us / USEC_PER_SEC);
        struct tm tm = {};
        size_t n;

        gmtime_r(&t, &tm);
        n = strftime(ret_s, CLOCK_RFC3339_MAX, "%Y-%m-%dT%H:%M:%S", &tm);
        snprintf(ret_s + n, CLOCK_RFC3339_MAX - n, ".%03uZ", (unsigned)(realtime_us / USEC_PER_MSEC % 1000));
}

/* Exactly n digits; false where one is missing. */
static bool clock_digits(const char **s, unsigned n, int *ret_v) {
        int v = 0;

        for (; n > 0; n--, (*s)++) {
                if (**s < '0' || **s > '9')
                        return false;
                v = v * 10 + (**s - '0');
        }
        *ret_v = v;
        return true;
}

static bool clock_separator(const char **s, char lower) {
        if ((**s | 0x20) != (lower | 0x20))
                return false;
        (*s)++;
        return true;
}

/* "Z" or "+hh:mm", in seconds east of UTC. */
static bool clock_offset(const char **s, int *ret_offset) {
        int hour, minute, sign = **s == '-' ? -1 : 1;

        if (clock_separator(s, 'z')) {
                *ret_offset = 0;
                return true;
        }
        if (**s != '+' && **s != '-')
                return false;
        (*s)++;
        if (!clock_digits(s, 2, &hour) || *(*s)++ != ':' || !clock_digits(s, 2, &minute) || hour > 23 || minute > 59)
                return false;
        *ret_offset = sign * (hour * 3600 + minute * 60);
        return true;
}

/*
 * RFC 3339 §5.6: date-time with a fraction and Z or a numeric offset. A leap second (§5.7: 23:59:60 in UTC) is the
 * second that follows it, as in POSIX.
 */
int clock_parse_rfc3339(const char *s, uint64_t *ret_realtime_us) {
        uint64_t fraction_us = 0, unit = USEC_PER_SEC / 10;
        struct tm tm = {}, check;
        int year, offset;
        bool leap;
        time_t t;

        if (!clock_digits(&s, 4, &year) || *s++ != '-' || !clock_digits(&s, 2, &tm.tm_mon) || *s++ != '-' ||
            !clock_digits(&s, 2, &tm.tm_mday) || !clock_separator(&s, 't') || !clock_digits(&s, 2, &tm.tm_hour) ||
            *s++ != ':' || !clock_digits(&s, 2, &tm.tm_min) || *s++ != ':' || !clock_digits(&s, 2, &tm.tm_sec))
                return CLOCK_E_INVALID;
        if (*s == '.') {
                if (s[1] < '0' || s[1] > '9')
                        return CLOCK_E_INVALID;
                for (s++; *s >= '0' && *s <= '9'; s++, unit /= 10)
                        fraction_us += (uint64_t)(*s - '0') * unit;
        }
        if (!clock_offset(&s, &offset) || *s)
                return CLOCK_E_INVALID;
        leap = tm.tm_sec == 60;
        tm.tm_sec -= leap;
        tm.tm_year = year - 1900;
        tm.tm_mon -= 1;
        check = tm;
        t = timegm(&check);
        /* timegm() moves what is out of range into the next field. */
        if (tm.tm_mon != check.tm_mon || tm.tm_mday != check.tm_mday || tm.tm_hour != check.tm_hour ||
            tm.tm_min != check.tm_min || tm.tm_sec != check.tm_sec)
                return CLOCK_E_INVALID;
        t -= offset;
        if (t < 0 || (leap && t % 86400 != 86399))
                return CLOCK_E_INVALID;
        *ret_realtime_us = (uint64_t)(t + leap) * USEC_PER_SEC + fraction_us;
        return 0;
}

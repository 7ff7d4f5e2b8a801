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

/* RFC 3339 §5.6: date-time with a fraction and Z or a numeric offset. */
int clock_parse_rfc3339(const char *s, uint64_t *ret_realtime_us) {
        struct tm tm = {}, check;
        uint64_t fraction_us = 0, unit = USEC_PER_SEC / 10;
        int n = 0, year, hour, minute;
        char sign[2] = "";
        time_t t;

        if (sscanf(s, "%4d-%2d-%2d%*1[Tt]%2d:%2d:%2d%n", &year, &tm.tm_mon, &tm.tm_mday,
                   &tm.tm_hour, &tm.tm_min, &tm.tm_sec, &n) != 6 || n != 19)
                return CLOCK_E_INVALID;
        for (int i = 0; i < n; i++)
                if (i == 4 || i == 7 ? s[i] != '-' : i == 10 ? (s[i] | 0x20) != 't' :
                    i == 13 || i == 16 ? s[i] != ':' : (s[i] < '0' || s[i] > '9'))
                        return CLOCK_E_INVALID;
        s += n;
        if (*s == '.') {
                if (s[1] < '0' || s[1] > '9')
                        return CLOCK_E_INVALID;
                for (s++; *s >= '0' && *s <= '9'; s++, unit /= 10)
                        fraction_us += (uint64_t)(*s - '0') * unit;
        }
        tm.tm_year = year - 1900;
        tm.tm_mon -= 1;
        check = tm;
        t = timegm(&check);
        if (tm.tm_mon != check.tm_mon || tm.tm_mday != check.tm_mday || tm.tm_hour != check.tm_hour ||
            tm.tm_min != check.tm_min || tm.tm_sec != check.tm_sec)
                return CLOCK_E_INVALID;
        if (*s == 'Z' || *s == 'z')
                s++;
        else if (sscanf(s, "%1[+-]%2d:%2d%n", sign, &hour, &minute, &n) == 3 && n == 6 && hour < 24 && minute < 60) {
                t -= (sign[0] == '-' ? -1 : 1) * (hour * 3600 + minute * 60);
                s += n;
        } else
                return CLOCK_E_INVALID;
        if (*s || t < 0)
                return CLOCK_E_INVALID;
        *ret_realtime_us = (uint64_t)t * USEC_PER_SEC + fraction_us;
        return 0;
}

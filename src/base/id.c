#include "base/clock.h"
#include "base/error.h"
#include "base/id.h"
#include "base/parse.h"
#include "base/random.h"

static uint64_t last_ms;
static unsigned sequence;

void id_freeze(uint64_t seed) {
        last_ms = 0;
        sequence = 0;
        random_freeze(seed);
}

int id_new(Id *ret_id) {
        uint64_t now_ms = clock_realtime_us() / USEC_PER_MSEC;
        Id id;
        int r;

        r = random_bytes(id.bytes, sizeof(id.bytes));
        if (r)
                return error_trace(r);
        /* RFC 9562 §6.2, method 1: a counter within the millisecond; a clock that steps back does not. */
        if (now_ms > last_ms) {
                last_ms = now_ms;
                sequence = id.bytes[7];
        } else if (++sequence > 0xfff) {
                last_ms++;
                sequence = 0;
        }
        for (unsigned i = 0; i < 6; i++)
                id.bytes[i] = (uint8_t)(last_ms >> (40 - 8 * i));
        id.bytes[6] = (uint8_t)(0x70 | sequence >> 8);
        id.bytes[7] = (uint8_t)sequence;
        id.bytes[8] = (uint8_t)((id.bytes[8] & 0x3f) | 0x80);
        *ret_id = id;
        return 0;
}

void id_format(const Id *id, char ret_s[static ID_TEXT_MAX]) {
        static const char hex[] = "0123456789abcdef";
        char *p = ret_s;

        for (unsigned i = 0; i < 16; i++) {
                if (i == 4 || i == 6 || i == 8 || i == 10)
                        *p++ = '-';
                *p++ = hex[id->bytes[i] >> 4];
                *p++ = hex[id->bytes[i] & 15];
        }
        *p = 0;
}

bool id_parse(const char *s, Id *ret_id) {
        Id id;

        for (unsigned i = 0; i < 16; i++) {
                int high, low;
                if ((i == 4 || i == 6 || i == 8 || i == 10) && *s++ != '-')
                        return false;
                high = parse_hex_digit(s[0]);
                low = high < 0 ? -1 : parse_hex_digit(s[1]);
                if (low < 0)
                        return false;
                id.bytes[i] = (uint8_t)(high << 4 | low);
                s += 2;
        }
        if (*s)
                return false;
        *ret_id = id;
        return true;
}

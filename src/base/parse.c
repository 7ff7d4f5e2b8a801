#include "base/parse.h"

typedef struct ParseUnit {
        const char *suffix;
        uint64_t factor;
} ParseUnit;

/* The digits at the start of s; false where there are none or they overflow. */
static bool parse_digits(const char *s, uint64_t *ret_v, const char **ret_rest) {
        uint64_t v = 0;
        const char *p = s;

        for (; *p >= '0' && *p <= '9'; p++)
                if (__builtin_mul_overflow(v, 10u, &v) || __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
                        return false;
        if (p == s)
                return false;
        *ret_v = v;
        *ret_rest = p;
        return true;
}

static bool parse_with_unit(const char *s, const ParseUnit *units, size_t n_units, uint64_t *ret_v) {
        const char *rest;
        uint64_t v;

        if (!parse_digits(s, &v, &rest))
                return false;
        for (size_t i = 0; i < n_units; i++)
                if (streq(rest, units[i].suffix)) {
                        if (__builtin_mul_overflow(v, units[i].factor, &v))
                                return false;
                        *ret_v = v;
                        return true;
                }
        return false;
}

bool parse_u64(const char *s, uint64_t *ret_v) {
        return parse_u64_range(s, 0, UINT64_MAX, ret_v);
}

bool parse_u64_range(const char *s, uint64_t min, uint64_t max, uint64_t *ret_v) {
        const char *rest;
        uint64_t v;

        if (!parse_digits(s, &v, &rest) || *rest || v < min || v > max)
                return false;
        *ret_v = v;
        return true;
}

bool parse_duration_us(const char *s, uint64_t *ret_us) {
        static const ParseUnit units[] = {
                { "", USEC_PER_SEC },
                { "us", 1 },
                { "ms", USEC_PER_MSEC },
                { "s", USEC_PER_SEC },
                { "m", 60 * USEC_PER_SEC },
                { "min", 60 * USEC_PER_SEC },
                { "h", 3600 * USEC_PER_SEC },
                { "d", 86400 * USEC_PER_SEC },
        };

        return parse_with_unit(s, units, ELEMENTSOF(units), ret_us);
}

bool parse_size(const char *s, uint64_t *ret_bytes) {
        static const ParseUnit units[] = {
                { "", 1 },
                { "K", UINT64_C(1) << 10 },
                { "M", UINT64_C(1) << 20 },
                { "G", UINT64_C(1) << 30 },
                { "T", UINT64_C(1) << 40 },
        };

        return parse_with_unit(s, units, ELEMENTSOF(units), ret_bytes);
}

bool parse_bool(const char *s, bool *ret_v) {
        static const char *const words[][2] = { { "no", "yes" }, { "false", "true" }, { "off", "on" }, { "0", "1" } };

        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                for (size_t v = 0; v < 2; v++)
                        if (streq(s, words[i][v])) {
                                *ret_v = v;
                                return true;
                        }
        return false;
}

static bool char_is_alnum(char c) {
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool parse_name(const char *s, size_t max) {
        size_t n = strnlen(s, max + 1);

        if (n == 0 || n > max || !char_is_alnum(s[0]))
                return false;
        for (size_t i = 1; i < n; i++)
                if (!char_is_alnum(s[i]) && s[i] != '.' && s[i] != '_' && s[i] != '-')
                        return false;
        return true;
}

/* The well-formed sequences of RFC 3629 §4: the second byte's range depends on the first. */
size_t utf8_sequence(const char *s, size_t n) {
        const uint8_t *p = (const uint8_t *)s;
        uint8_t low = 0x80, high = 0xbf;
        size_t length;

        if (n == 0)
                return 0;
        if (p[0] < 0x80)
                return 1;
        if (p[0] < 0xc2 || p[0] > 0xf4)
                return 0;
        length = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
        if (n < length)
                return 0;
        switch (p[0]) {
        case 0xe0: low = 0xa0; break;   /* overlong */
        case 0xed: high = 0x9f; break;  /* surrogates */
        case 0xf0: low = 0x90; break;   /* overlong */
        case 0xf4: high = 0x8f; break;  /* past U+10FFFF */
        }
        if (p[1] < low || p[1] > high)
                return 0;
        for (size_t i = 2; i < length; i++)
                if (p[i] < 0x80 || p[i] > 0xbf)
                        return 0;
        return length;
}

bool utf8_is_valid(const char *s, size_t n) {
        while (n > 0) {
                size_t k = utf8_sequence(s, n);
                if (k == 0)
                        return false;
                s += k;
                n -= k;
        }
        return true;
}

int parse_hex_digit(char c) {
        if (c >= '0' && c <= '9')
                return c - '0';
        c |= 0x20;      /* lower case */
        return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

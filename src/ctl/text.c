#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>
#include <wchar.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/parse.h"
#include "ctl/text.h"

void text_duration(uint64_t us, char ret_s[static TEXT_DURATION_MAX]) {
        uint64_t s = us / USEC_PER_SEC;

        if (us < USEC_PER_SEC)
                snprintf(ret_s, TEXT_DURATION_MAX, "%" PRIu64 "ms", us / USEC_PER_MSEC);
        else if (s < 60)
                snprintf(ret_s, TEXT_DURATION_MAX, "%" PRIu64 "s", s);
        else if (s < 3600)
                snprintf(ret_s, TEXT_DURATION_MAX, "%" PRIu64 "m%02us", s / 60, (unsigned)(s % 60));
        else if (s < 86400)
                snprintf(ret_s, TEXT_DURATION_MAX, "%" PRIu64 "h%02um", s / 3600, (unsigned)(s / 60 % 60));
        else
                snprintf(ret_s, TEXT_DURATION_MAX, "%" PRIu64 "d%02uh", s / 86400, (unsigned)(s / 3600 % 24));
}

void text_bytes(uint64_t bytes, char ret_s[static TEXT_BYTES_MAX]) {
        static const char units[] = "KMGTPE";
        double v = (double)bytes;
        int i = -1;

        while (v >= 1024 && units[i + 1]) {
                v /= 1024;
                i++;
        }
        if (i < 0)
                snprintf(ret_s, TEXT_BYTES_MAX, "%" PRIu64 " B", bytes);
        else
                snprintf(ret_s, TEXT_BYTES_MAX, "%.*f %ciB", v < 9.95 ? 1 : 0, v, units[i]);
}

void text_span(json_object *from, json_object *to, char ret_s[static TEXT_DURATION_MAX]) {
        uint64_t start, end = clock_realtime_us();

        snprintf(ret_s, TEXT_DURATION_MAX, "-");
        if (!from || clock_parse_rfc3339(json_object_get_string(from), &start))
                return;
        if (to && clock_parse_rfc3339(json_object_get_string(to), &end))
                return;
        text_duration(end > start ? end - start : 0, ret_s);
}

void text_until(json_object *at, char ret_s[static TEXT_DURATION_MAX]) {
        uint64_t until, now = clock_realtime_us();

        *ret_s = 0;
        if (at && clock_parse_rfc3339(json_object_get_string(at), &until) == 0 && until > now)
                text_duration(until - now, ret_s);
}

const char *text_state_color(const char *state) {
        static const struct {
                const char *state, *color;
        } colors[] = {
                { "running", "\033[36m" },
                { "succeeded", "\033[32m" },
                { "failed", "\033[31m" },
                { "dead", "\033[31m" },
                { "rejected", "\033[31m" },
                { "timed_out", "\033[33m" },
                { "cancelled", "\033[33m" },
                { "expired", "\033[33m" },
        };

        for (size_t i = 0; i < ELEMENTSOF(colors); i++)
                if (streq(colors[i].state, state))
                        return colors[i].color;
        return "";
}

const char *text_member(json_object *o, const char *pointer) {
        json_object *v = json_at(o, pointer);

        return v ? json_object_get_string(v) : "";
}

uint64_t text_member_u64(json_object *o, const char *pointer) {
        json_object *v = json_at(o, pointer);

        return json_object_is_type(v, json_type_int) && json_object_get_int64(v) > 0 ? json_object_get_uint64(v) : 0;
}

bool text_member_bool(json_object *o, const char *pointer) {
        return json_object_get_boolean(json_at(o, pointer));
}

/* C0 and C1 controls (U+0080–U+009F: ESC [ has an 8-bit form) and DEL. */
static bool is_control(const char *s, size_t k) {
        const uint8_t *p = (const uint8_t *)s;

        return k == 0 || (k == 1 && (p[0] < 0x20 || p[0] == 0x7f)) || (k == 2 && p[0] == 0xc2 && p[1] < 0xa0);
}

void text_write(FILE *f, const char *s, size_t n) {
        if (!isatty(fileno(f))) {
                fwrite(s, 1, n, f);
                return;
        }
        for (size_t i = 0; i < n; ) {
                size_t k = utf8_sequence(s + i, n - i);
                if (is_control(s + i, k) && s[i] != '\n' && s[i] != '\t')
                        fputc('?', f);
                else
                        fwrite(s + i, 1, k, f);
                i += MAX(k, (size_t)1);
        }
}

static unsigned char_width(const char *s, size_t k) {
        wchar_t c;
        int w;

        if (k <= 1)
                return 1;
        /* In a locale that is not UTF-8 a character counts as one column. */
        if (mbrtowc(&c, s, k, &(mbstate_t){}) != k)
                return 1;
        w = wcwidth(c);
        return w < 0 ? 1 : (unsigned)w;
}

unsigned text_width(const char *s, size_t n) {
        unsigned width = 0;

        for (size_t i = 0; i < n; ) {
                size_t k = MAX(utf8_sequence(s + i, n - i), (size_t)1);
                width += char_width(s + i, k);
                i += k;
        }
        return width;
}

size_t text_prefix(const char *s, size_t n, unsigned columns) {
        unsigned width = 0;
        size_t i = 0;

        while (i < n) {
                size_t k = MAX(utf8_sequence(s + i, n - i), (size_t)1);
                unsigned w = char_width(s + i, k);
                if (width + w > columns)
                        break;
                width += w;
                i += k;
        }
        return i;
}

void text_write_line(FILE *f, const char *s, unsigned columns) {
        size_t n = strlen(s), cut = n;

        if (columns && text_width(s, n) > columns)
                cut = text_prefix(s, n, columns - 1);
        for (size_t i = 0; i < cut; ) {
                size_t k = utf8_sequence(s + i, cut - i);
                if (is_control(s + i, k))
                        fputc(s[i] == '\n' || s[i] == '\t' || s[i] == '\r' ? ' ' : '?', f);
                else
                        fwrite(s + i, 1, k, f);
                i += MAX(k, (size_t)1);
        }
        if (cut < n)
                fputs("…", f);
}

bool text_is_usd(const char *s) {
        size_t n = strspn(s, "0123456789"), k;

        if (n == 0 || n > 9 || (*s == '0' && n > 1))
                return false;
        if (!s[n])
                return true;
        k = strspn(s + n + 1, "0123456789");
        return s[n] == '.' && k >= 1 && k <= 6 && !s[n + 1 + k];
}

void text_print_json(json_object *o) {
        puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
}

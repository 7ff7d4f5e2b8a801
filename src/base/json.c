#include <stdarg.h>
#include <stdio.h>

#include "base/error.h"
#include "base/json.h"
#include "base/parse.h"

/*
 * json-c builds the tree; what it lets pass is refused by a scan before it: NaN and Infinity, raw control characters in
 * strings, NUL in member names (which it cuts there), names that occur twice (it keeps the last), and documents of so
 * many values that the tree would be a hundred times the text.
 */

typedef struct JsonScan {
        size_t n_members;       /* as written; fewer in the tree means that a name occurred twice */
        size_t n_values;
        size_t depth;
} JsonScan;

void json_error_set(JsonError *error, const char *pointer, const char *format, ...) {
        va_list ap;

        if (!error || error->set)
                return;
        error->set = true;
        snprintf(error->pointer, sizeof(error->pointer), "%s", pointer);
        va_start(ap, format);
        vsnprintf(error->detail, sizeof(error->detail), format, ap);
        va_end(ap);
}

static int json_invalid(JsonError *error, size_t offset, const char *detail) {
        if (error && !error->set) {
                json_error_set(error, "", "invalid JSON at byte %zu: %s", offset, detail);
                error->offset = offset;
        }
        return JSON_E_INVALID;
}

/* From the quote at i to the byte after the closing one. */
static const char *json_scan_string(const char *s, size_t n, size_t *i, bool *ret_nul) {
        bool nul = false;
        size_t at = *i + 1;

        for (;;) {
                size_t k;
                if (at >= n)            /* past it, where a backslash is the last byte */
                        return "the string has no closing quote";
                k = utf8_sequence(s + at, n - at);
                if (k == 0) {
                        *i = at;
                        return "invalid UTF-8";
                }
                if ((uint8_t)s[at] < 0x20) {
                        *i = at;
                        return "a control character in a string must be escaped";
                }
                if (s[at] == '"')
                        break;
                if (s[at] == '\\') {
                        nul |= n - at >= 6 && memcmp(s + at, "\\u0000", 6) == 0;
                        k = 2;
                }
                at += k;
        }
        *i = at + 1;
        *ret_nul = nul;
        return NULL;
}

static size_t json_scan_digits(const char *s, size_t n, size_t i) {
        size_t start = i;

        while (i < n && s[i] >= '0' && s[i] <= '9')
                i++;
        return i - start;
}

/*
 * RFC 8259 §6: -, digits without a leading zero, fraction, exponent. Leaves *i after the number, or where it goes
 * wrong.
 */
static const char *json_scan_number(const char *s, size_t n, size_t *i) {
        static const char problem[] = "malformed number";
        size_t at = *i, digits;

        at += s[at] == '-';
        digits = json_scan_digits(s, n, at);
        *i = at + digits;
        if (digits == 0 || (digits > 1 && s[at] == '0'))
                return problem;
        at = *i;
        if (at < n && s[at] == '.') {
                digits = json_scan_digits(s, n, at + 1);
                *i = at = at + 1 + digits;
                if (digits == 0)
                        return problem;
        }
        if (at < n && (s[at] | 0x20) == 'e') {
                at++;
                at += at < n && (s[at] == '+' || s[at] == '-');
                digits = json_scan_digits(s, n, at);
                *i = at + digits;
                if (digits == 0)
                        return problem;
        }
        return NULL;
}

static const char *json_scan(const char *s, size_t n, size_t depth_max, JsonScan *scan, size_t *ret_offset) {
        bool nul = false;
        size_t i = 0;

        while (i < n) {
                const char *problem = NULL;
                *ret_offset = i;
                switch (s[i]) {
                case '"':
                case '-':
                case '0' ... '9':
                        problem = s[i] == '"' ? json_scan_string(s, n, &i, &nul) : json_scan_number(s, n, &i);
                        if (problem) {
                                *ret_offset = i;
                                return problem;
                        }
                        continue;
                case '[':
                case '{':
                        scan->n_values++;
                        if (++scan->depth > depth_max)
                                return "nested too deeply";
                        break;
                case ']':
                case '}':
                        scan->depth -= scan->depth > 0;
                        break;
                case ',':
                        scan->n_values++;
                        break;
                case ':':
                        if (nul)
                                return "U+0000 in a member's name";
                        scan->n_members++;
                        break;
                case ' ': case '\t': case '\r': case '\n':
                case 'a' ... 'z':       /* true, false, null: json-c knows them */
                        break;
                default:
                        return "unexpected character";
                }
                if (scan->n_values > JSON_VALUES_MAX)
                        return "too many values";
                i++;
        }
        return NULL;
}

static size_t json_count_members(json_object *o) {
        size_t n = 0;

        if (json_object_is_type(o, json_type_object)) {
                json_object_object_foreach(o, name, value) {
                        (void)name;
                        n += 1 + json_count_members(value);
                }
        } else if (json_object_is_type(o, json_type_array))
                for (size_t i = 0; i < json_object_array_length(o); i++)
                        n += json_count_members(json_object_array_get_idx(o, i));
        return n;
}

static void json_tokener_freep(json_tokener **tok) {
        if (*tok)
                json_tokener_free(*tok);
}

static bool json_is_space(char c) {
        return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* RFC 8259. */
int json_parse(const void *data, size_t n, int depth_max, json_object **ret_object, JsonError *error) {
        _cleanup_(json_tokener_freep) json_tokener *tok = NULL;
        _cleanup_(json_putp) json_object *o = NULL;
        const char *s = data, *problem;
        enum json_tokener_error e;
        JsonScan scan = {};
        size_t offset = 0;

        while (n > 0 && json_is_space(s[n - 1]))
                n--;
        if (n == 0)
                return json_invalid(error, 0, "the document is empty");
        if (n > INT32_MAX)
                return json_invalid(error, 0, "the document is too large");
        problem = json_scan(s, n, (size_t)depth_max, &scan, &offset);
        if (problem)
                return json_invalid(error, offset, problem);

        /* json-c counts the scalar inside the deepest container as a level, too; the scan has held the bound. */
        tok = json_tokener_new_ex(depth_max + 2);
        if (!tok)
                return error_origin(-ENOMEM);
        json_tokener_set_flags(tok, JSON_TOKENER_STRICT);
        o = json_tokener_parse_ex(tok, s, (int)n);
        e = json_tokener_get_error(tok);
        offset = json_tokener_get_parse_end(tok);
        if (e == json_tokener_continue) {
                /* A number at the top ends only where the document does. */
                o = json_tokener_parse_ex(tok, "", 1);
                e = json_tokener_get_error(tok);
                offset = n;
        }
        if (e == json_tokener_continue)
                return json_invalid(error, n, "the document ends too early");
        if (e != json_tokener_success)
                return json_invalid(error, MIN(offset, n), json_tokener_error_desc(e));
        if (offset != n)
                return json_invalid(error, offset, "content after the document's end");
        if (json_count_members(o) != scan.n_members)
                return json_invalid(error, 0, "an object has two members of the same name");
        *ret_object = steal_ptr(&o);
        return 0;
}

/* From the quote at i to the byte after the closing one; n where there is none. */
static size_t json_span_string(const char *s, size_t n, size_t i) {
        for (i++; i < n;) {
                const char *quote = memchr(s + i, '"', n - i);
                size_t end = quote ? (size_t)(quote - s) : n, backslashes = 0;

                while (end - backslashes > i && s[end - backslashes - 1] == '\\')
                        backslashes++;
                if (!quote)
                        return n + 1;
                i = end + 1;
                if (backslashes % 2 == 0)
                        return i;
        }
        return n + 1;
}

size_t json_span(const char *s, size_t n) {
        size_t depth = 0, i = 0;

        while (i < n) {
                switch (s[i]) {
                case '"':
                        i = json_span_string(s, n, i);
                        if (i > n)
                                return 0;
                        break;
                case '{':
                case '[':
                        depth++;
                        i++;
                        break;
                case '}':
                case ']':
                        if (depth == 0)
                                return i;
                        depth--;
                        i++;
                        break;
                case ',':
                        if (depth == 0)
                                return i;
                        i++;
                        continue;
                default:
                        if (depth == 0 && json_is_space(s[i]))
                                return i;
                        i++;
                        continue;
                }
                if (depth == 0)
                        return i;
        }
        return depth ? 0 : i;
}

/* Records an error at a member, whose name becomes a reference token (RFC 6901 §3). */
static bool _printf_(3, 4) json_reader_fail(JsonReader *r, const char *name, const char *format, ...) {
        char pointer[sizeof(r->error->pointer)], detail[JSON_ERROR_MAX];
        size_t n;
        va_list ap;

        if (!r->error || r->error->set)
                return false;
        n = (size_t)snprintf(pointer, sizeof(pointer), "%s/", r->pointer);
        for (const char *p = name; *p && n + 3 < sizeof(pointer); p++)
                if (*p == '~' || *p == '/') {
                        pointer[n++] = '~';
                        pointer[n++] = *p == '~' ? '0' : '1';
                } else
                        pointer[n++] = *p;
        if (n < sizeof(pointer))
                pointer[n] = 0;
        va_start(ap, format);
        vsnprintf(detail, sizeof(detail), format, ap);
        va_end(ap);
        json_error_set(r->error, pointer, "%s", detail);
        return false;
}

JsonReader json_reader(json_object *object, const char *pointer, JsonError *error) {
        JsonReader r = { .object = object, .pointer = pointer, .error = error };

        if (!json_object_is_type(object, json_type_object)) {
                json_error_set(error, pointer, "expected an object");
                r.object = NULL;
        } else if (json_object_object_length(object) > JSON_MEMBERS_MAX) {
                json_error_set(error, pointer, "expected an object of at most %d members", JSON_MEMBERS_MAX);
                r.object = NULL;
        }
        return r;
}

/* Finds a member that is not null, and marks it as asked for. */
static json_object *json_reader_find(JsonReader *r, const char *name, int flags) {
        unsigned i = 0;

        if (!r->object)
                return NULL;
        json_object_object_foreach(r->object, key, value) {
                if (streq(key, name)) {
                        r->seen |= UINT64_C(1) << i;
                        if (value)
                                return value;
                        break;
                }
                i++;
        }
        if (flags & JSON_REQUIRED)
                json_reader_fail(r, name, "is required");
        return NULL;
}

bool json_get_string(JsonReader *r, const char *name, int flags, size_t min, size_t max, const char **ret_s,
                     size_t *ret_n) {
        json_object *o = json_reader_find(r, name, flags);
        const char *s;
        size_t n;

        if (!o)
                return false;
        if (!json_object_is_type(o, json_type_string))
                return json_reader_fail(r, name, "expected a string");
        s = json_object_get_string(o);
        n = (size_t)json_object_get_string_len(o);
        if (n < min || n > max)
                return json_reader_fail(r, name, "expected a string of %zu to %zu bytes, got %zu", min, max, n);
        /* Who doesn't ask for the length would read no further than a NUL. */
        if (!ret_n && memchr(s, 0, n))
                return json_reader_fail(r, name, "expected a string without U+0000");
        *ret_s = s;
        if (ret_n)
                *ret_n = n;
        return true;
}

bool json_get_u64(JsonReader *r, const char *name, int flags, uint64_t min, uint64_t max, uint64_t *ret_v) {
        json_object *o = json_reader_find(r, name, flags);
        uint64_t v;

        if (!o)
                return false;
        /* Negative integers read as 0 by the unsigned getter; too large ones saturate in both. */
        if (!json_object_is_type(o, json_type_int) || json_object_get_int64(o) < 0 ||
            (v = json_object_get_uint64(o)) < min || v > max) {
                if (max == UINT64_MAX)
                        return json_reader_fail(r, name, "expected an integer of at least %" PRIu64, min);
                return json_reader_fail(r, name, "expected an integer from %" PRIu64 " to %" PRIu64, min, max);
        }
        *ret_v = v;
        return true;
}

bool json_get_double(JsonReader *r, const char *name, int flags, double min, double max, double *ret_v) {
        json_object *o = json_reader_find(r, name, flags);
        double v;

        if (!o)
                return false;
        if (!json_object_is_type(o, json_type_int) && !json_object_is_type(o, json_type_double))
                return json_reader_fail(r, name, "expected a number from %g to %g", min, max);
        v = json_object_get_double(o);
        if (!(v >= min && v <= max))
                return json_reader_fail(r, name, "expected a number from %g to %g", min, max);
        *ret_v = v;
        return true;
}

bool json_get_bool(JsonReader *r, const char *name, int flags, bool *ret_v) {
        json_object *o = json_reader_find(r, name, flags);

        if (!o)
                return false;
        if (!json_object_is_type(o, json_type_boolean))
                return json_reader_fail(r, name, "expected true or false");
        *ret_v = json_object_get_boolean(o);
        return true;
}

bool json_get_object(JsonReader *r, const char *name, int flags, json_object **ret_o) {
        json_object *o = json_reader_find(r, name, flags);

        if (!o)
                return false;
        if (!json_object_is_type(o, json_type_object))
                return json_reader_fail(r, name, "expected an object");
        *ret_o = o;
        return true;
}

bool json_get_array(JsonReader *r, const char *name, int flags, size_t max, json_object **ret_o) {
        json_object *o = json_reader_find(r, name, flags);

        if (!o)
                return false;
        if (!json_object_is_type(o, json_type_array) || json_object_array_length(o) > max)
                return json_reader_fail(r, name, "expected an array of at most %zu items", max);
        *ret_o = o;
        return true;
}

bool json_reader_end(JsonReader *r) {
        unsigned i = 0;

        if (!r->object)
                return false;
        json_object_object_foreach(r->object, key, value) {
                (void)value;
                if (!(r->seen >> i++ & 1))
                        return json_reader_fail(r, key, "is not a known field");
        }
        return !r->error || !r->error->set;
}

/* Unescapes one reference token (RFC 6901 §4); false where it is malformed or too long. */
static bool json_pointer_token(const char **pointer, char ret_token[static JSON_POINTER_TOKEN_MAX]) {
        const char *p = *pointer;
        size_t n = 0;

        for (; *p && *p != '/'; p++) {
                char c = *p;
                if (c == '~') {
                        p++;
                        if (*p != '0' && *p != '1')
                                return false;
                        c = *p == '0' ? '~' : '/';
                }
                if (n + 1 >= JSON_POINTER_TOKEN_MAX)
                        return false;
                ret_token[n++] = c;
        }
        ret_token[n] = 0;
        *pointer = p;
        return true;
}

json_object *json_at(json_object *o, const char *pointer) {
        char token[JSON_POINTER_TOKEN_MAX];

        while (*pointer) {
                uint64_t index;
                if (*pointer++ != '/' || !json_pointer_token(&pointer, token))
                        return NULL;
                if (json_object_is_type(o, json_type_object)) {
                        if (!json_object_object_get_ex(o, token, &o))
                                return NULL;
                } else if (json_object_is_type(o, json_type_array)) {
                        /* No leading zeros: RFC 6901 §4. */
                        if ((token[0] == '0' && token[1]) || !parse_u64(token, &index) ||
                            index >= json_object_array_length(o))
                                return NULL;
                        o = json_object_array_get_idx(o, index);
                } else
                        return NULL;
        }
        return o;
}

int json_append(Buf *out, json_object *o) {
        size_t n;
        const char *s =
                json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);

        if (!s)
                return error_origin(-ENOMEM);
        return buf_append(out, s, n);
}

/* The escape of an ASCII byte, or NULL where it stands for itself. */
static const char *json_escape(uint8_t c, char scratch[static 8]) {
        switch (c) {
        case '"': return "\\\"";
        case '\\': return "\\\\";
        case '\b': return "\\b";
        case '\f': return "\\f";
        case '\n': return "\\n";
        case '\r': return "\\r";
        case '\t': return "\\t";
        }
        if (c >= 0x20 && c != 0x7f)
                return NULL;
        snprintf(scratch, 8, "\\u%04x", c);
        return scratch;
}

int json_append_string(Buf *out, const char *s, size_t n) {
        size_t before = buf_size(out), plain = 0, i = 0;
        char scratch[8];
        int r;

        r = buf_append(out, "\"", 1);
        while (!r && i < n) {
                size_t k = utf8_sequence(s + i, n - i);
                const char *escape = k == 0 ? "\xef\xbf\xbd" : k == 1 ? json_escape((uint8_t)s[i], scratch) : NULL;
                if (escape) {
                        r = buf_append(out, s + plain, i - plain);
                        if (!r)
                                r = buf_append_str(out, escape);
                        plain = i + 1;
                }
                i += MAX(k, (size_t)1);
        }
        if (!r && plain < n)     /* s may be NULL where n is 0 */
                r = buf_append(out, s + plain, n - plain);
        if (!r)
                r = buf_append(out, "\"", 1);
        if (r)
                out->end = out->start + before;
        return r;
}

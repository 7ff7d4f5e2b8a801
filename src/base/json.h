#pragma once

/*
 * json: json-c with the strictness that an API needs. A document is UTF-8, at most max bytes, at most depth levels,
 * has no duplicate or trailing content; an object reader names the field that is wrong and what was expected, and
 * refuses fields that nobody asked for.
 *
 *     _cleanup_(json_putp) json_object *o = NULL;
 *     JsonError e = {};
 *     r = json_parse(data, n, JSON_DEPTH_MAX, &o, &e);
 *     JsonReader rd = json_reader(o, "", &e);
 *     json_get_string(&rd, "prompt", JSON_REQUIRED, 1, MIB(1), &prompt, NULL);
 *     json_get_u64(&rd, "priority", 0, 0, 100, &priority);
 *     if (!json_reader_end(&rd)) → e holds the first error
 */

#include <inttypes.h>
#include <json-c/json.h>

#include "base/buf.h"
#include "base/macro.h"

#define JSON_DEPTH_MAX 32
#define JSON_ERROR_MAX 256
#define JSON_VALUES_MAX 65536           /* an empty object costs some 800 bytes of tree, so 50 MiB at worst */
#define JSON_MEMBERS_MAX 64             /* of an object that is read by a JsonReader: the bits of `seen` */
#define JSON_POINTER_TOKEN_MAX 256      /* one reference token of json_at()'s pointers, NUL included */

typedef struct JsonError {
        bool set;
        char pointer[128];              /* JSON Pointer (RFC 6901) to the field, "" for the document */
        char detail[JSON_ERROR_MAX];    /* "expected an integer from 0 to 100" */
        size_t offset;                  /* byte in the document, for syntax errors */
} JsonError;

typedef struct JsonReader {
        json_object *object;
        const char *pointer;
        JsonError *error;               /* shared by nested readers; the first error stays */
        uint64_t seen;                  /* bit per member, in iteration order (≤ 64 members) */
} JsonReader;

enum {
        _JSON_E_SUCCESS,
        JSON_E_INVALID,                 /* error says where and why */
};

enum { JSON_REQUIRED = 1 };

static inline void json_putp(json_object **o) {
        json_object_put(*o);
}

/*
 * Parses one document (RFC 8259), at most depth_max containers deep; "null" gives a NULL object. JSON_E_INVALID with
 * error filled (error may be NULL), -ENOMEM. The caller puts the object.
 */
int json_parse(const void *data, size_t n, int depth_max, json_object **ret_object, JsonError *error) _must_check_;
/*
 * The bytes of the value that begins at s, of which n are there: brackets and strings are followed, nothing else is
 * looked at, so json_parse() of them has the last word. 0 where the value has no end. For documents that are too large
 * to be a tree as a whole.
 */
size_t json_span(const char *s, size_t n);
/* Records an error unless there is one already; error may be NULL. */
void json_error_set(JsonError *error, const char *pointer, const char *format, ...) _printf_(3, 4);

/*
 * A reader of an object's members; anything but an object of at most JSON_MEMBERS_MAX members is an error. All
 * borrowed.
 */
JsonReader json_reader(json_object *object, const char *pointer, JsonError *error);
/* Each getter returns true where the member is there and valid; ret_ is untouched otherwise. null counts as absent. */
/* min and max in bytes. U+0000 in the string is refused where the caller gives no ret_n. */
bool json_get_string(JsonReader *r, const char *name, int flags, size_t min, size_t max, const char **ret_s,
                     size_t *ret_n);
bool json_get_u64(JsonReader *r, const char *name, int flags, uint64_t min, uint64_t max, uint64_t *ret_v);
bool json_get_double(JsonReader *r, const char *name, int flags, double min, double max, double *ret_v);
bool json_get_bool(JsonReader *r, const char *name, int flags, bool *ret_v);
bool json_get_object(JsonReader *r, const char *name, int flags, json_object **ret_o);
bool json_get_array(JsonReader *r, const char *name, int flags, size_t max, json_object **ret_o);
/* Checks that every member was asked for, and that nothing failed. */
bool json_reader_end(JsonReader *r);

/* A member's text by JSON Pointer (RFC 6901), for output mappings; NULL where absent. */
json_object *json_at(json_object *o, const char *pointer);
/* Compact, without escaping of '/'. BUF_E_FULL, -ENOMEM; nothing is appended then. */
int json_append(Buf *out, json_object *o) _must_check_;
/* Appends s as a JSON string with quotes; each byte of invalid UTF-8 becomes U+FFFD. BUF_E_FULL, -ENOMEM. */
int json_append_string(Buf *out, const char *s, size_t n) _must_check_;

/*
 * JSON: what is accepted is UTF-8, within its depth, and reads the same when it is written again; any bytes can be
 * written as a string, and come back as they were where they were UTF-8; a reader never fails without saying why.
 */

#include "base/json.h"
#include "base/parse.h"
#include "fuzz.h"

static size_t depth_of(json_object *o) {
        size_t deepest = 0;

        if (json_object_is_type(o, json_type_object)) {
                json_object_object_foreach(o, name, value) {
                        (void)name;
                        deepest = MAX(deepest, depth_of(value));
                }
        } else if (json_object_is_type(o, json_type_array)) {
                for (size_t i = 0; i < json_object_array_length(o); i++)
                        deepest = MAX(deepest, depth_of(json_object_array_get_idx(o, i)));
        } else
                return 0;
        return deepest + 1;
}

static void check_tree(const uint8_t *data, size_t n, json_object *o) {
        _cleanup_(json_putp) json_object *again = NULL;
        Buf first = BUF_NULL, second = BUF_NULL;
        JsonError e = {};

        HOLDS(utf8_is_valid((const char *)data, n));
        HOLDS(depth_of(o) <= JSON_DEPTH_MAX);
        HOLDS(json_append(&first, o) == 0);
        HOLDS(json_parse(buf_data(&first), buf_size(&first), JSON_DEPTH_MAX, &again, &e) == 0);
        HOLDS(json_append(&second, again) == 0);
        HOLDS(buf_size(&first) == buf_size(&second));
        HOLDS(memcmp(buf_data(&first), buf_data(&second), buf_size(&first)) == 0);
        buf_deinit(&first);
        buf_deinit(&second);
}

/* Reads it as an API request might: each getter either gives a value within its bounds or leaves the error set. */
static void check_reader(json_object *o) {
        json_object *object = NULL, *array = NULL;
        const char *s = NULL;
        JsonError e = {};
        JsonReader r = json_reader(o, "", &e);
        double d = 0.5;
        uint64_t v = 7;
        size_t n_s = 0;
        bool b;

        if (json_get_string(&r, "prompt", JSON_REQUIRED, 1, 8, &s, &n_s))
                HOLDS(s && n_s >= 1 && n_s <= 8);
        if (json_get_u64(&r, "priority", 0, 1, 100, &v))
                HOLDS(v >= 1 && v <= 100);
        else
                HOLDS(v == 7);
        if (json_get_double(&r, "ratio", 0, 0, 1, &d))
                HOLDS(d >= 0 && d <= 1);
        (void)json_get_bool(&r, "stream", 0, &b);
        if (json_get_object(&r, "labels", 0, &object))
                HOLDS(json_object_is_type(object, json_type_object));
        if (json_get_array(&r, "capabilities", 0, 4, &array))
                HOLDS(json_object_array_length(array) <= 4);
        if (!json_reader_end(&r))
                HOLDS(e.set && e.detail[0]);
        else
                HOLDS(!e.set && s);
}

static void check_string(const uint8_t *data, size_t n) {
        _cleanup_(json_putp) json_object *o = NULL;
        JsonError e = {};
        Buf out = BUF_NULL;

        HOLDS(json_append_string(&out, (const char *)data, n) == 0);
        HOLDS(json_parse(buf_data(&out), buf_size(&out), JSON_DEPTH_MAX, &o, &e) == 0);
        HOLDS(json_object_is_type(o, json_type_string));
        if (utf8_is_valid((const char *)data, n)) {
                HOLDS((size_t)json_object_get_string_len(o) == n);
                HOLDS(memcmp(json_object_get_string(o), data, n) == 0);
        }
        buf_deinit(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        _cleanup_(json_putp) json_object *o = NULL;
        _cleanup_free_ char *pointer = NULL;
        JsonError e = {};
        int r;

        r = json_parse(data, n, JSON_DEPTH_MAX, &o, &e);
        HOLDS(r == 0 || r == JSON_E_INVALID);
        if (r == 0) {
                HOLDS(!e.set);
                check_tree(data, n, o);
                check_reader(o);
                /* A pointer that has something to do with the document: what stands between its first quotes. */
                pointer = strndup((const char *)data, n);
                HOLDS(pointer);
                (void)json_at(o, "/item/text");
                (void)json_at(o, pointer + strcspn(pointer, "/"));
        } else
                HOLDS(e.set && e.detail[0] && e.offset <= n && !o);
        check_string(data, n);
        return 0;
}

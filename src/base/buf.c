#include <stdarg.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/error.h"

#define BUF_CAPACITY_MIN 256

void buf_deinit(Buf *b) {
        if (!b)
                return;
        free(b->data);
        *b = (Buf)BUF_INIT(b->max);
}

static int buf_make_room(Buf *b, size_t n) {
        size_t size = buf_size(b), capacity;
        uint8_t *data;

        if (n <= b->capacity - b->end)
                return 0;
        if (n > SIZE_MAX / 4 - size)
                return error_origin(-ENOMEM);
        /* Move to the front only where that frees at least half, so that the cost stays linear. */
        if (n <= b->capacity - size && b->start >= b->capacity / 2) {
                memmove(b->data, b->data + b->start, size);
                b->start = 0;
                b->end = size;
                return 0;
        }
        capacity = MAX((size_t)BUF_CAPACITY_MIN, b->capacity);
        while (capacity < size + n)
                capacity *= 2;
        data = malloc(capacity);
        if (!data)
                return error_origin(-ENOMEM);
        if (size)
                memcpy(data, b->data + b->start, size);
        free(b->data);
        b->data = data;
        b->start = 0;
        b->end = size;
        b->capacity = capacity;
        return 0;
}

int buf_reserve(Buf *b, size_t n, uint8_t **ret_p) {
        int r;

        if (b->max && n > b->max - MIN(b->max, buf_size(b)))
                return BUF_E_FULL;
        r = buf_make_room(b, n);
        if (r)
                return error_trace(r);
        *ret_p = b->data ? b->data + b->end : NULL;     /* NULL only for no bytes of an empty buffer */
        return 0;
}

int buf_append(Buf *b, const void *data, size_t n) {
        uint8_t *p;
        int r;

        if (n == 0)
                return 0;
        r = buf_reserve(b, n, &p);
        if (r)
                return r;
        memcpy(p, data, n);
        buf_added(b, n);
        return 0;
}

int buf_append_str(Buf *b, const char *s) {
        return buf_append(b, s, strlen(s));
}

int buf_printf(Buf *b, const char *format, ...) {
        va_list ap, again;
        uint8_t *p;
        int n, r;

        va_start(ap, format);
        va_copy(again, ap);
        n = vsnprintf(NULL, 0, format, ap);
        va_end(ap);
        r = n < 0 ? error_origin(-EINVAL) : 0;
        /* One byte more for vsnprintf's NUL, which is not counted (and may pass max). */
        if (r == 0 && b->max && (size_t)n > b->max - MIN(b->max, buf_size(b)))
                r = BUF_E_FULL;
        if (r == 0)
                r = buf_make_room(b, (size_t)n + 1);
        if (r == 0) {
                p = b->data + b->end;
                vsnprintf((char *)p, (size_t)n + 1, format, again);
                buf_added(b, (size_t)n);
        }
        va_end(again);
        return r;
}

void buf_consume(Buf *b, size_t n) {
        b->start += n;
        if (b->start == b->end)
                b->start = b->end = 0;
}

void buf_trim(Buf *b, size_t keep) {
        if (buf_size(b) == 0 && b->capacity > keep)
                buf_deinit(b);
}

void buf_clear(Buf *b) {
        b->start = b->end = 0;
}

int buf_take_str(Buf *b, char **ret_s) {
        int r = buf_make_room(b, 1);
        if (r)
                return error_trace(r);
        b->data[b->end] = 0;
        if (b->start)
                memmove(b->data, b->data + b->start, buf_size(b) + 1);
        *ret_s = (char *)steal_ptr(&b->data);
        *b = (Buf)BUF_INIT(b->max);
        return 0;
}

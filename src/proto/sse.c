/*
 * Server-sent events as text. A line of `data` is ended by LF, CR or CRLF alike when a client reads it, so each of the
 * three splits the data here, and arrives as LF; `id` and `event` are one line each and are refused where they hold
 * one.
 */

#include "base/error.h"
#include "proto/sse.h"

static int sse_done(Buf *out, size_t n_before, int r) {
        if (r)
                out->end = out->start + n_before;
        return r == BUF_E_FULL ? error_origin(-ENOBUFS) : error_trace(r);
}

static bool one_line(const char *s) {
        return !s || !s[strcspn(s, "\r\n")];
}

static int write_line(Buf *out, const char *name, const char *text, size_t n) {
        int r;

        r = buf_append_str(out, name);
        if (r == 0)
                r = buf_append(out, text, n);
        if (r == 0)
                r = buf_append(out, "\n", 1);
        return r;
}

static int write_data(Buf *out, const char *data, size_t n) {
        const char *end = data + n;
        int r;

        for (;;) {
                const char *p = data;

                while (p < end && *p != '\n' && *p != '\r')
                        p++;
                r = write_line(out, "data: ", data, (size_t)(p - data));
                if (r || p == end)
                        return r;
                data = p + (*p == '\r' && end - p > 1 && p[1] == '\n' ? 2 : 1);
        }
}

int sse_write_event(Buf *out, const char *id, const char *event, const char *data, size_t n_data) {
        size_t n_before = buf_size(out);
        int r = 0;

        if (!one_line(id) || !one_line(event))
                return error_origin(-EINVAL);
        if (id)
                r = write_line(out, "id: ", id, strlen(id));
        if (r == 0 && event)
                r = write_line(out, "event: ", event, strlen(event));
        if (r == 0)
                r = write_data(out, data, n_data);
        if (r == 0)
                r = buf_append(out, "\n", 1);
        return sse_done(out, n_before, r);
}

int sse_write_comment(Buf *out, const char *text) {
        size_t n_before = buf_size(out);

        if (!one_line(text))
                return error_origin(-EINVAL);
        return sse_done(out, n_before, buf_printf(out, ": %s\n\n", text));
}

int sse_write_retry(Buf *out, unsigned retry_ms) {
        size_t n_before = buf_size(out);

        return sse_done(out, n_before, buf_printf(out, "retry: %u\n\n", retry_ms));
}

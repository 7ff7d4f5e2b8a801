#include "ctl/event-stream.h"

void event_stream_deinit(EventStream *s) {
        buf_deinit(&s->line);
        buf_deinit(&s->data);
}

void event_stream_restart(EventStream *s) {
        buf_clear(&s->line);
        buf_clear(&s->data);
        s->type[0] = 0;
        memcpy(s->next_id, s->id, sizeof(s->id));
        s->begun = s->after_cr = s->has_data = false;
}

static bool event_stream_dispatch(EventStream *s) {
        bool go_on = true;

        /* Only now: who reconnects in the middle of an event has not seen it. */
        memcpy(s->id, s->next_id, sizeof(s->id));
        if (s->has_data)
                go_on = s->fn(s->userdata, s->id, *s->type ? s->type : "message", (const char *)buf_data(&s->data) ?: "",
                              buf_size(&s->data));
        buf_clear(&s->data);
        s->has_data = false;
        s->type[0] = 0;
        return go_on;
}

/* Copies a field's value where it fits and holds no NUL; a longer one is as if it weren't there. */
static void event_stream_set(char *field, size_t n_field, const char *value, size_t n) {
        if (n < n_field && !memchr(value, 0, n)) {
                memcpy(field, value, n);
                field[n] = 0;
        }
}

static bool name_is(const char *name, size_t n, const char *literal) {
        return n == strlen(literal) && memcmp(name, literal, n) == 0;
}

/* One line that is not empty. */
static bool event_stream_line(EventStream *s, const char *line, size_t n) {
        const char *colon = memchr(line, ':', n);
        size_t n_name = colon ? (size_t)(colon - line) : n;
        const char *value = colon ? colon + 1 : line + n;
        size_t n_value = colon ? n - n_name - 1 : 0;

        if (n_value && *value == ' ') {
                value++;
                n_value--;
        }
        if (name_is(line, n_name, "data")) {
                if (s->has_data && buf_append(&s->data, "\n", 1))
                        return false;
                s->has_data = true;
                return buf_append(&s->data, value, n_value) == 0;
        }
        if (name_is(line, n_name, "event"))
                event_stream_set(s->type, sizeof(s->type), value, n_value);
        else if (name_is(line, n_name, "id"))
                event_stream_set(s->next_id, sizeof(s->next_id), value, n_value);
        return true;                    /* a comment, retry, or unknown */
}

bool event_stream_feed(EventStream *s, const char *data, size_t n) {
        for (size_t i = 0; i < n; ) {
                size_t k = i;
                bool go_on;

                /* LF, CR and CRLF end a line; the LF of a CRLF may come in the next piece. */
                if (s->after_cr && data[i] == '\n') {
                        s->after_cr = false;
                        i++;
                        continue;
                }
                s->after_cr = false;
                while (k < n && data[k] != '\n' && data[k] != '\r')
                        k++;
                if (buf_append(&s->line, data + i, k - i))
                        return false;
                if (k == n)
                        return true;
                s->after_cr = data[k] == '\r';
                i = k + 1;
                if (!s->begun && buf_size(&s->line) >= 3 && memcmp(buf_data(&s->line), "\xef\xbb\xbf", 3) == 0)
                        buf_consume(&s->line, 3);
                s->begun = true;
                go_on = buf_size(&s->line) == 0 ? event_stream_dispatch(s) :
                        event_stream_line(s, (const char *)buf_data(&s->line), buf_size(&s->line));
                buf_clear(&s->line);
                if (!go_on)
                        return false;
        }
        return true;
}

#include <sys/uio.h>

#include "base/error.h"
#include "launcher/window.h"

void window_deinit(Window *w) {
        free(w->data);
        w->data = NULL;
        w->capacity = w->head = w->n = 0;
}

static int window_grow(Window *w) {
        size_t capacity = w->capacity ? MIN(w->capacity * 2, w->max) : MIN(WINDOW_CAPACITY_MIN, w->max);
        size_t first = MIN(w->n, w->capacity - w->head);
        uint8_t *data = malloc(capacity);

        if (!data)
                return error_origin(-ENOMEM);
        if (w->n) {
                memcpy(data, w->data + w->head, first);
                memcpy(data + first, w->data, w->n - first);
        }
        free(w->data);
        w->data = data;
        w->capacity = capacity;
        w->head = 0;
        return 0;
}

int window_read(Window *w, int fd, size_t most, size_t *ret_n) {
        struct iovec iov[2];
        size_t tail, room;
        ssize_t k;
        int r;

        if (window_is_full(w))
                return WINDOW_E_FULL;
        if (w->n == w->capacity) {
                r = window_grow(w);
                if (r)
                        return error_trace(r);
        }
        tail = (w->head + w->n) % w->capacity;
        room = MIN(w->capacity - w->n, most);
        iov[0] = (struct iovec){ .iov_base = w->data + tail, .iov_len = MIN(room, w->capacity - tail) };
        iov[1] = (struct iovec){ .iov_base = w->data, .iov_len = room - iov[0].iov_len };
        do
                k = readv(fd, iov, iov[1].iov_len ? 2 : 1);
        while (k < 0 && errno == EINTR);
        if (k < 0 && errno == EAGAIN)
                r = WINDOW_E_AGAIN;
        else if (k < 0)
                r = error_origin(-errno);
        else if (k == 0)
                r = WINDOW_E_EOF;
        else {
                w->n += (size_t)k;
                *ret_n = (size_t)k;
                return 0;
        }
        if (w->n == 0)
                window_deinit(w);
        return r;
}

size_t window_peek(const Window *w, size_t most, const uint8_t **ret_data) {
        size_t skip = (size_t)(w->sent - w->acked), left = w->n - skip, at;

        if (left == 0)
                return 0;
        at = (w->head + skip) % w->capacity;
        *ret_data = w->data + at;
        left = MIN(left, w->capacity - at);
        return MIN(left, most);
}

void window_sent(Window *w, size_t n) {
        w->sent += n;
}

bool window_ack(Window *w, uint64_t offset) {
        size_t n;

        if (offset > w->sent)
                return false;
        if (offset <= w->acked)
                return true;
        n = (size_t)(offset - w->acked);
        w->acked = offset;
        w->n -= n;
        if (w->n == 0)
                window_deinit(w);
        else
                w->head = (w->head + n) % w->capacity;
        return true;
}

void window_rewind(Window *w) {
        w->sent = w->acked;
}

/*
 * The writing half of the HTTP/1.1 codec: one answer a request, framed by what the request was.
 *
 * Everything is checked before the first byte is written, and a failed append takes back what came before it, so `out`
 * never holds half a head.
 */

#include <strings.h>
#include <time.h>

#include "base/clock.h"
#include "base/error.h"
#include "proto/http1-private.h"

/* Is a part of the request's body still to come? */
static bool body_outstanding(const Http1 *h) {
        Http1State state = h->state == STATE_REQUEST ? h->body_state : h->state;

        return state >= STATE_BODY && state < STATE_END;
}

/* Ends an append to out: a full buffer is -ENOBUFS here, and what was appended beyond n_before bytes is taken back. */
static int write_done(Buf *out, size_t n_before, int r) {
        if (r)
                out->end = out->start + n_before;
        return r == BUF_E_FULL ? error_origin(-ENOBUFS) : error_trace(r);
}

static bool header_is_valid(const HttpHeader *f) {
        static const char *const ours[] = { "connection", "content-length", "date", "keep-alive", "transfer-encoding" };

        if (!*f->name)
                return false;
        for (const char *p = f->name; *p; p++)
                if (!char_is((uint8_t)*p, CHAR_TOKEN))
                        return false;
        for (size_t i = 0; i < f->n_value; i++)
                if (!char_is_value((uint8_t)f->value[i]))
                        return false;
        for (size_t i = 0; i < ELEMENTSOF(ours); i++)
                if (strcasecmp(f->name, ours[i]) == 0)
                        return false;
        return true;
}

static bool response_is_valid(const Http1Response *r) {
        if (r->status < 200 || r->status > 599 || (r->streaming && r->body))
                return false;
        if (r->content_type) {
                for (const char *p = r->content_type; *p; p++)
                        if (!char_is_value((uint8_t)*p))
                                return false;
        }
        for (size_t i = 0; i < r->n_headers; i++)
                if (!header_is_valid(&r->headers[i]))
                        return false;
        return true;
}

/* IMF-fixdate, RFC 9110 §5.6.7. Not strftime(): names of days and months must not follow the locale. */
static int write_date(Buf *out) {
        static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
        time_t now = (time_t)(clock_realtime_us() / USEC_PER_SEC);
        struct tm tm;

        if (!gmtime_r(&now, &tm))
                return error_origin(-errno);
        return buf_printf(out, "Date: %.3s, %02d %.3s %04d %02d:%02d:%02d GMT\r\n", days + 3 * tm.tm_wday, tm.tm_mday,
                          months + 3 * tm.tm_mon, tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
}

static int write_header(Buf *out, const HttpHeader *f) {
        int r;

        r = buf_append_str(out, f->name);
        if (r == 0)
                r = buf_append(out, ": ", 2);
        if (r == 0)
                r = buf_append(out, f->value, f->n_value);
        if (r == 0)
                r = buf_append(out, "\r\n", 2);
        return r;
}

static int write_head(Buf *out, const Http1Response *response, bool bodiless, bool chunked, const char *connection) {
        int r;

        r = buf_printf(out, "HTTP/1.1 %u %s\r\n", response->status, http_status_text(response->status));
        if (r == 0)
                r = write_date(out);
        if (r == 0 && response->content_type)
                r = buf_printf(out, "Content-Type: %s\r\n", response->content_type);
        for (size_t i = 0; r == 0 && i < response->n_headers; i++)
                r = write_header(out, &response->headers[i]);
        if (r == 0 && chunked)
                r = buf_append_str(out, "Transfer-Encoding: chunked\r\n");
        if (r == 0 && !bodiless && !response->streaming)
                r = buf_printf(out, "Content-Length: %zu\r\n", response->n_body);
        if (r == 0 && connection)
                r = buf_printf(out, "Connection: %s\r\n", connection);
        if (r == 0)
                r = buf_append(out, "\r\n", 2);
        return r;
}

int http1_write_response(Http1 *h, Buf *out, const Http1Response *response) {
        bool head = h->request.method == HTTP_HEAD;
        bool bodiless = response->status == 204 || response->status == 304;
        bool chunked = response->streaming && !bodiless && h->request.minor > 0;
        size_t n_before = buf_size(out);
        bool close;
        int r;

        if (!response_is_valid(response))
                return error_origin(-EINVAL);
        close = response->close || !h->request.keep_alive || body_outstanding(h) ||
                (response->streaming && !bodiless && !head && h->request.minor == 0);

        r = write_head(out, response, bodiless, chunked, close ? "close" : h->request.minor == 0 ? "keep-alive" : NULL);
        if (r == 0 && !bodiless && !head && !response->streaming)
                r = buf_append(out, response->body, response->n_body);
        if (r)
                return write_done(out, n_before, r);

        h->close = close;
        h->continue_due = false;
        h->framing = !response->streaming      ? FRAMING_NONE
                     : bodiless || head        ? FRAMING_BODILESS
                     : chunked                 ? FRAMING_CHUNKED
                                               : FRAMING_UNTIL_CLOSE;
        return 0;
}

int http1_write_chunk(Http1 *h, Buf *out, const void *data, size_t n) {
        size_t n_before = buf_size(out);
        int r = 0;

        if (h->framing == FRAMING_NONE)
                return error_origin(-EINVAL);
        if (n == 0 || h->framing == FRAMING_BODILESS)
                return 0;
        if (h->framing == FRAMING_CHUNKED)
                r = buf_printf(out, "%zx\r\n", n);
        if (r == 0)
                r = buf_append(out, data, n);
        if (r == 0 && h->framing == FRAMING_CHUNKED)
                r = buf_append(out, "\r\n", 2);
        return write_done(out, n_before, r);
}

int http1_write_end(Http1 *h, Buf *out) {
        size_t n_before = buf_size(out);
        int r = 0;

        if (h->framing == FRAMING_NONE)
                return error_origin(-EINVAL);
        if (h->framing == FRAMING_CHUNKED)
                r = buf_append_str(out, "0\r\n\r\n");
        if (r)
                return write_done(out, n_before, r);
        h->framing = FRAMING_NONE;
        return 0;
}

int http1_write_continue(Http1 *h, Buf *out) {
        size_t n_before = buf_size(out);
        int r;

        if (!h->continue_due)
                return 0;
        r = buf_append_str(out, "HTTP/1.1 100 Continue\r\n\r\n");
        if (r)
                return write_done(out, n_before, r);
        h->continue_due = false;
        return 0;
}

bool http1_must_close(const Http1 *h) {
        return h->close;
}

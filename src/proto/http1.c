/*
 * The reading half of the HTTP/1.1 codec.
 *
 * Head lines (the request line and the fields) are gathered in `head` and judged one by one when their CRLF is in; what
 * is kept of a field is "name\0value\0", so when the empty line comes the fields are a plain walk over `head`. Chunk
 * lines and trailers are judged byte by byte and not kept. A body is never copied: HTTP1_BODY points into the fed
 * bytes.
 *
 * Every check depends on the bytes alone and not on where they were cut: any split of the input gives the same events
 * (bodies joined). Tests and the fuzzer hold it to that.
 */

#include <assert.h>
#include <strings.h>

#include "base/error.h"
#include "proto/http1-private.h"

/* A head beyond this is given back when the next request begins, so idle connections stay small. */
#define HEAD_KEPT KIB(4)
/* Digits of a chunk size after which it can't be an uint64_t; leading zeros count, since nobody needs them. */
#define CHUNK_DIGITS_MAX 16

static_assert(HTTP1_CHUNK_LINE_MAX > CHUNK_DIGITS_MAX + 2, "a chunk line must hold a chunk size and CRLF");

int http1_new(Http1 **ret_http1) {
        Http1 *h = calloc(1, sizeof(*h));
        if (!h)
                return error_origin(-ENOMEM);
        /* A line is NUL-terminated in place of its CRLF; an absolute-form target may need two bytes more. */
        h->head.max = HTTP1_REQUEST_LINE_MAX + HTTP1_HEADER_BYTES_MAX + 16;
        h->body_max = HTTP1_BODY_MAX_DEFAULT;
        h->request.minor = 1;
        h->request.method = HTTP_METHOD_OTHER;
        *ret_http1 = h;
        return 0;
}

Http1 *http1_free(Http1 *h) {
        if (!h)
                return NULL;
        buf_deinit(&h->head);
        free(h);
        return NULL;
}

void http1_set_body_max(Http1 *h, uint64_t body_max) {
        /* UINT64_MAX stands for a length that no integer holds. */
        h->body_max = MIN(body_max, UINT64_MAX - 1);
}

bool http1_in_request(const Http1 *h) {
        return h->state != STATE_START && h->state != STATE_START_LF && h->state != STATE_REFUSED;
}

const char *http1_header(const Http1Event *e, const char *lower_name) {
        for (size_t i = 0; i < e->n_headers; i++)
                if (streq(e->headers[i].name, lower_name))
                        return e->headers[i].value;
        return NULL;
}

static void refuse(Http1 *h, unsigned status, const char *reason) {
        h->state = STATE_REFUSED;
        h->status = status;
        h->reason = reason;
        h->request.keep_alive = false;
}

/* --- between requests -------------------------------------------------------------------------------------------- */

static void request_begin(Http1 *h) {
        buf_clear(&h->head);
        buf_trim(&h->head, HEAD_KEPT);
        h->state = STATE_REQUEST_LINE;
        h->cr = false;
        h->empty_line = false;
        h->line = 0;
        h->authority = 0;
        h->n_field_bytes = 0;
        h->n_fields = 0;
        h->request = (Http1Event){ .type = HTTP1_REQUEST, .method = HTTP_METHOD_OTHER, .minor = 1 };
        h->continue_due = false;
        h->close = false;
        h->framing = FRAMING_NONE;
}

/* Takes one byte of an empty line, or leaves it and begins a request with it. */
static void feed_start(Http1 *h, const uint8_t *data, size_t *at) {
        bool second = h->empty_line;

        if (h->state == STATE_START && data[*at] == '\r' && !second) {
                (*at)++;
                h->state = STATE_START_LF;
        } else if (h->state == STATE_START_LF && data[*at] == '\n') {
                (*at)++;
                h->state = STATE_START;
                h->empty_line = true;
        } else if (h->state == STATE_START && data[*at] != '\r')
                request_begin(h);
        else {
                request_begin(h);
                refuse(h, 400, second ? "More than one empty line comes before the request." :
                                        "A CR is not followed by LF.");
        }
}

/* --- request line ------------------------------------------------------------------------------------------------- */

static HttpMethod method_of(const char *name) {
        static const char *const names[] = {
                [HTTP_GET] = "GET",       [HTTP_HEAD] = "HEAD",   [HTTP_POST] = "POST",       [HTTP_PUT] = "PUT",
                [HTTP_DELETE] = "DELETE", [HTTP_PATCH] = "PATCH", [HTTP_OPTIONS] = "OPTIONS",
        };
        static_assert(ELEMENTSOF(names) == HTTP_METHOD_OTHER, "every method has a name");

        for (HttpMethod m = 0; m < HTTP_METHOD_OTHER; m++)
                if (streq(name, names[m]))
                        return m;
        return HTTP_METHOD_OTHER;
}

/* Are all bytes of the class, and is every `%` followed by two hexadecimal digits? */
static bool text_is(const char *s, size_t n, unsigned class) {
        for (size_t i = 0; i < n; i++) {
                if (!char_is((uint8_t)s[i], class))
                        return false;
                if (s[i] == '%' && class != CHAR_TOKEN &&
                    !(n - i > 2 && char_is((uint8_t)s[i + 1], CHAR_HEX) && char_is((uint8_t)s[i + 2], CHAR_HEX)))
                        return false;
        }
        return true;
}

/* uri-host [ ":" port ] without userinfo, not empty (RFC 9112 §3.2, RFC 3986 §3.2.2). */
static bool host_is_valid(const char *s, size_t n) {
        size_t n_host, n_port;

        if (n > 0 && s[0] == '[') {
                const char *close = memchr(s, ']', n);
                if (!close || close == s + 1)
                        return false;
                for (const char *p = s + 1; p < close; p++)
                        if (!char_is((uint8_t)*p, CHAR_HEX) && *p != ':' && *p != '.')
                                return false;
                n_host = (size_t)(close - s) + 1;
        } else {
                const char *colon = memchr(s, ':', n);
                n_host = colon ? (size_t)(colon - s) : n;
                if (n_host == 0 || !text_is(s, n_host, CHAR_HOST))
                        return false;
        }
        if (n_host == n)
                return true;
        if (s[n_host] != ':')
                return false;
        n_port = n - n_host - 1;
        return n_port <= 5 && strspn(s + n_host + 1, "0123456789") >= n_port;
}

/* "http://authority/path" at t becomes "authority\0/path\0"; the space for it is that of the scheme. */
static void target_absolute(Http1 *h, char *t, size_t n_scheme) {
        char *s = t + n_scheme;
        size_t n_authority = strcspn(s, "/?");
        size_t n_rest = strlen(s + n_authority);
        char *rest = t + n_authority + 1;

        if (!host_is_valid(s, n_authority))
                return refuse(h, 400, "The authority of the request target is malformed.");
        memmove(t, s, n_authority);
        t[n_authority] = 0;
        if (s[n_authority] != '/')
                *rest++ = '/';
        memmove(rest, s + n_authority, n_rest + 1);
        h->authority = (size_t)(t - (char *)buf_data(&h->head));
        h->target = h->authority + n_authority + 1;
        h->fields = h->target + strlen(t + n_authority + 1) + 1;
}

static void parse_target(Http1 *h, char *t) {
        h->target = (size_t)(t - (char *)buf_data(&h->head));
        h->fields = h->target + strlen(t) + 1;
        if (strncasecmp(t, "http://", 7) == 0)
                target_absolute(h, t, 7);
        else if (strncasecmp(t, "https://", 8) == 0)
                target_absolute(h, t, 8);
        else if (t[0] != '/' && !(streq(t, "*") && h->request.method == HTTP_OPTIONS))
                refuse(h, 400, "The request target is neither a path nor a URI of this server.");
        if (h->state == STATE_REFUSED)
                return;
        t = (char *)buf_data(&h->head) + h->target;
        if (!text_is(t, strlen(t), CHAR_TARGET))
                refuse(h, 400, "The request target holds a character that it must not.");
}

/* method SP request-target SP HTTP-version (RFC 9112 §3); the line is NUL-terminated and holds only SP and VCHAR. */
static void parse_request_line(Http1 *h, char *line) {
        size_t n_method = 0;
        char *target, *version;

        while (char_is((uint8_t)line[n_method], CHAR_TOKEN))
                n_method++;
        if (n_method == 0 || line[n_method] != ' ')
                return refuse(h, 400, "The request line does not begin with a method and one space.");
        target = line + n_method + 1;
        version = strchr(target, ' ');
        if (!version)
                return refuse(h, 400, "The request line has no HTTP version.");
        *version++ = 0;
        if (strlen(version) != 8 || !str_starts(version, "HTTP/") || version[5] < '0' || version[5] > '9' ||
            version[6] != '.' || version[7] < '0' || version[7] > '9')
                return refuse(h, 400, "The request line does not end with HTTP/ and a version.");
        if (version[5] != '1' || version[7] > '1')
                return refuse(h, 505, "The HTTP version is neither 1.0 nor 1.1.");
        if (n_method > HTTP1_METHOD_MAX)
                return refuse(h, 501, "The method is unknown.");
        line[n_method] = 0;
        h->request.minor = (unsigned)(version[7] - '0');
        h->request.method = method_of(line);
        if (streq(line, "CONNECT"))
                return refuse(h, 501, "This server is no proxy: CONNECT is not implemented.");
        parse_target(h, target);
}

/* --- fields ------------------------------------------------------------------------------------------------------- */

/*
 * field-name ":" OWS field-value OWS (RFC 9112 §5); the line of n bytes is NUL-terminated, without control characters.
 */
static void parse_field(Http1 *h, char *line, size_t n) {
        size_t n_name = 0;
        char *value, *end;

        if (*line == ' ' || *line == '\t')
                return refuse(h, 400, h->n_fields ? "A field is folded over two lines." :
                                                    "White space comes before the first field.");
        while (char_is((uint8_t)line[n_name], CHAR_TOKEN)) {
                if (line[n_name] >= 'A' && line[n_name] <= 'Z')
                        line[n_name] = (char)(line[n_name] | 0x20);
                n_name++;
        }
        if (n_name == 0 || line[n_name] != ':')
                return refuse(h, 400, "A field has no name, or its name is not followed by a colon at once.");
        if (h->n_fields == HTTP1_HEADERS_MAX)
                return refuse(h, 431, "The request has too many fields.");
        h->n_fields++;

        value = line + n_name + 1;
        end = line + n;
        while (*value == ' ' || *value == '\t')
                value++;
        while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
                end--;
        line[n_name] = 0;
        memmove(line + n_name + 1, value, (size_t)(end - value));
        line[n_name + 1 + (size_t)(end - value)] = 0;
        h->line += n_name + 1 + (size_t)(end - value) + 1;
}

/* Walks a comma-separated list of tokens (RFC 9110 §5.6.1); false where an element is none. Empty elements are fine. */
static bool list_next(const char **p, const char **ret_token, size_t *ret_n) {
        const char *s = *p, *token;

        s += strspn(s, " \t,");
        token = s;
        while (char_is((uint8_t)*s, CHAR_TOKEN))
                s++;
        *ret_token = token;
        *ret_n = (size_t)(s - token);
        s += strspn(s, " \t");
        *p = s;
        return *s == ',' || (*s == 0);
}

static bool token_is(const char *token, size_t n, const char *lower) {
        return strlen(lower) == n && strncasecmp(token, lower, n) == 0;
}

static bool parse_connection(const char *value, bool *close, bool *keep_alive) {
        const char *token;
        size_t n;

        while (*value) {
                if (!list_next(&value, &token, &n))
                        return false;
                *close = *close || token_is(token, n, "close");
                *keep_alive = *keep_alive || token_is(token, n, "keep-alive");
        }
        return true;
}

/* 1*DIGIT; UINT64_MAX where it is more than that, which no body may have. */
static bool parse_length(const char *s, uint64_t *ret_v) {
        uint64_t v = 0;

        if (*s == 0)
                return false;
        for (; *s; s++) {
                if (*s < '0' || *s > '9')
                        return false;
                if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
                        return s[strspn(s, "0123456789")] == 0 ? (*ret_v = UINT64_MAX, true) : false;
        }
        *ret_v = v;
        return true;
}

/* What the fields mean for this message and its connection (RFC 9112 §3.2, §6, §9.3). */
static void fields_end(Http1 *h) {
        unsigned n_host = 0, n_length = 0, n_coding = 0;
        bool close = false, keep_alive = false, chunked = false, expect = false;
        char *head = (char *)buf_data(&h->head), *p = head + h->fields;
        const char *host = NULL;
        uint64_t length = 0;

        for (size_t i = 0; i < h->n_fields; i++) {
                HttpHeader *f = &h->headers[i];

                f->name = p;
                f->value = p + strlen(p) + 1;
                f->n_value = strlen(f->value);
                p = (char *)f->value + f->n_value + 1;

                if (streq(f->name, "host")) {
                        host = f->value;
                        if (++n_host > 1 || !host_is_valid(f->value, f->n_value))
                                return refuse(h, 400, "Host is given twice, or is no host.");
                } else if (streq(f->name, "content-length")) {
                        if (++n_length > 1 || !parse_length(f->value, &length))
                                return refuse(h, 400, "Content-Length is given twice, or is no decimal number.");
                } else if (streq(f->name, "transfer-encoding")) {
                        chunked = strcasecmp(f->value, "chunked") == 0;
                        if (++n_coding > 1 || !chunked)
                                return refuse(h, 400, "Transfer-Encoding is given twice, or is not chunked.");
                } else if (streq(f->name, "connection")) {
                        if (!parse_connection(f->value, &close, &keep_alive))
                                return refuse(h, 400, "Connection is not a list of tokens.");
                } else if (streq(f->name, "expect")) {
                        if (strcasecmp(f->value, "100-continue") != 0)
                                return refuse(h, 417, "The only expectation that is met is 100-continue.");
                        expect = true;
                }
        }
        if (n_host == 0 && h->request.minor > 0)
                return refuse(h, 400, "Host is missing.");
        if (host && h->authority && strcasecmp(host, head + h->authority) != 0)
                return refuse(h, 400, "Host is another than the authority of the request target.");
        if (chunked && h->request.minor == 0)
                return refuse(h, 400, "HTTP/1.0 has no Transfer-Encoding.");
        if (chunked && n_length > 0)
                return refuse(h, 400, "Content-Length and Transfer-Encoding are both given.");
        if (length > h->body_max)
                return refuse(h, 413, "The body is too large.");

        h->left = length;
        h->n_body = 0;
        h->n_digits = 0;
        h->n_chunk_line = 0;
        h->n_chunk_ext = 0;
        h->n_trailer = 0;
        h->body_state = chunked ? STATE_CHUNK_SIZE : length > 0 ? STATE_BODY : STATE_END;
        h->request.method_name = head;
        h->request.target = head + h->target;
        h->request.headers = h->headers;
        h->request.n_headers = h->n_fields;
        h->request.has_body = chunked || length > 0;
        h->request.content_length = chunked ? UINT64_MAX : length;
        h->request.keep_alive = !close && (h->request.minor > 0 || keep_alive);
        h->request.expect_continue = expect && h->request.minor > 0 && h->request.has_body;
        h->continue_due = h->request.expect_continue;
        h->state = STATE_REQUEST;
}

/* A line is complete: n bytes at `line`, without CRLF. */
static int head_line(Http1 *h) {
        size_t n = buf_size(&h->head) - h->line;
        char *line;
        int r;

        r = buf_append(&h->head, "", 1);
        if (r)
                return error_fold(r);
        line = (char *)buf_data(&h->head) + h->line;
        if (h->state == STATE_REQUEST_LINE) {
                parse_request_line(h, line);
                if (h->state == STATE_REFUSED)
                        return 0;
                h->line = h->fields;
                h->state = STATE_FIELDS;
        } else if (n == 0) {
                fields_end(h);
                return 0;
        } else {
                h->n_field_bytes += n + 2;
                parse_field(h, line, n);
        }
        h->head.end = h->head.start + h->line;
        return 0;
}

static int feed_head(Http1 *h, const uint8_t *data, size_t n, size_t *at) {
        bool fields = h->state == STATE_FIELDS;
        size_t start = *at, n_line = buf_size(&h->head) - h->line, max, run;
        uint8_t c;
        int r;

        if (h->cr) {
                h->cr = false;
                if (data[(*at)++] != '\n') {
                        refuse(h, 400, "A CR is not followed by LF.");
                        return 0;
                }
                return error_trace(head_line(h));
        }

        /* The fields' bound counts their CRLFs. */
        max = fields ? HTTP1_HEADER_BYTES_MAX - MIN(HTTP1_HEADER_BYTES_MAX, h->n_field_bytes + 2)
                     : HTTP1_REQUEST_LINE_MAX;
        max -= MIN(max, n_line);
        while (*at < n && (fields ? char_is_value(data[*at]) : data[*at] >= 0x20 && data[*at] < 0x7f)) {
                if (*at - start == max) {
                        refuse(h, fields ? 431 : 414, fields ? "The fields are too large." :
                                                               "The request line is too long.");
                        return 0;
                }
                (*at)++;
        }
        run = *at - start;
        r = buf_append(&h->head, data + start, run);
        if (r)
                return error_fold(r);
        if (*at == n)
                return 0;
        c = data[(*at)++];
        if (c == '\r')
                h->cr = true;
        else if (c == '\n')
                refuse(h, 400, "A line ends with LF alone.");
        else
                refuse(h, 400, fields ? "A field holds a control character." :
                                        "The request line holds a character that it must not.");
        return 0;
}

/* --- bodies ------------------------------------------------------------------------------------------------------- */

static void feed_body(Http1 *h, const uint8_t *data, size_t n, size_t *at, Http1Event *e) {
        size_t piece = (size_t)MIN((uint64_t)(n - *at), h->left);

        h->continue_due = false;
        e->type = HTTP1_BODY;
        e->data = data + *at;
        e->n = piece;
        *at += piece;
        h->left -= piece;
        if (h->left == 0)
                h->state = h->state == STATE_BODY ? STATE_END : STATE_CHUNK_DATA_CR;
}

/* The chunk's line is in. */
static void chunk_begin(Http1 *h) {
        h->n_chunk_line = 0;
        h->n_digits = 0;
        h->state = h->left > 0 ? STATE_CHUNK_DATA : STATE_TRAILER;
}

static void chunk_digit(Http1 *h, uint8_t c) {
        if (h->n_digits == CHUNK_DIGITS_MAX)
                return refuse(h, 400, "A chunk size has too many digits.");
        h->left = (h->n_digits++ ? h->left << 4 : 0) | char_hex(c);
}

/* The size is known: may the body hold so much more? */
static void chunk_size(Http1 *h) {
        if (h->n_digits == 0)
                return refuse(h, 400, "A chunk has no size.");
        if (h->left > h->body_max - MIN(h->body_max, h->n_body))
                return refuse(h, 413, "The body is too large.");
        h->n_body += h->left;
}

/* One byte of what is between the pieces of a chunked body (RFC 9112 §7.1). */
static void feed_chunk_line(Http1 *h, uint8_t c) {
        h->continue_due = false;
        if (++h->n_chunk_line > HTTP1_CHUNK_LINE_MAX)
                return refuse(h, 400, "A chunk's line is too long.");
        if (h->state == STATE_CHUNK_SIZE) {
                if (char_is(c, CHAR_HEX))
                        return chunk_digit(h, c);
                if (c != '\r' && c != ';')
                        return refuse(h, 400, "A chunk size is not a plain hexadecimal number.");
                chunk_size(h);
                if (h->state != STATE_REFUSED)
                        h->state = c == '\r' ? STATE_CHUNK_SIZE_LF : STATE_CHUNK_EXT;
        } else if (h->state == STATE_CHUNK_EXT) {
                if (c == '\r')
                        h->state = STATE_CHUNK_SIZE_LF;
                else if (c < 0x20 || c > 0x7e)
                        refuse(h, 400, "A chunk extension holds a character that it must not.");
                else if (++h->n_chunk_ext > HTTP1_CHUNK_EXT_MAX)
                        refuse(h, 400, "The body has too many chunk extensions.");
        } else if (c == '\n')
                chunk_begin(h);
        else
                refuse(h, 400, "A CR is not followed by LF.");
}

static void feed_chunk_end(Http1 *h, uint8_t c) {
        if (h->state == STATE_CHUNK_DATA_CR && c == '\r')
                h->state = STATE_CHUNK_DATA_LF;
        else if (h->state == STATE_CHUNK_DATA_LF && c == '\n')
                h->state = STATE_CHUNK_SIZE;
        else
                refuse(h, 400, "A chunk is not followed by CRLF.");
}

/* One byte of the trailer section (RFC 9112 §7.1.2): checked like a header, bounded, dropped. */
static void feed_trailer(Http1 *h, uint8_t c) {
        if (++h->n_trailer > HTTP1_TRAILER_BYTES_MAX)
                return refuse(h, 431, "The trailer fields are too large.");
        switch (h->state) {
        case STATE_TRAILER:
                if (c == '\r')
                        h->state = STATE_LAST_LF;
                else if (char_is(c, CHAR_TOKEN))
                        h->state = STATE_TRAILER_NAME;
                else
                        refuse(h, 400, "A trailer field has no name.");
                break;
        case STATE_TRAILER_NAME:
                if (c == ':')
                        h->state = STATE_TRAILER_VALUE;
                else if (!char_is(c, CHAR_TOKEN))
                        refuse(h, 400, "A trailer field's name is not followed by a colon at once.");
                break;
        case STATE_TRAILER_VALUE:
                if (c == '\r')
                        h->state = STATE_TRAILER_LF;
                else if (!char_is_value(c))
                        refuse(h, 400, "A trailer field holds a control character.");
                break;
        default:
                if (c != '\n')
                        return refuse(h, 400, "A CR is not followed by LF.");
                h->state = h->state == STATE_LAST_LF ? STATE_END : STATE_TRAILER;
                break;
        }
}

/* --- feeding ------------------------------------------------------------------------------------------------------ */

int http1_feed(Http1 *h, const uint8_t *data, size_t n, size_t *ret_consumed, Http1Event *ret_event) {
        Http1Event e = { .type = HTTP1_NEED_MORE };
        size_t at = 0;
        int r;

        while (e.type == HTTP1_NEED_MORE) {
                /* Events that need no further byte. */
                if (h->state == STATE_REQUEST) {
                        e = h->request;
                        h->state = h->body_state;
                        break;
                }
                if (h->state == STATE_END) {
                        e.type = HTTP1_END;
                        h->state = STATE_START;
                        break;
                }
                if (h->state == STATE_REFUSED) {
                        e = (Http1Event){ .type = HTTP1_REFUSED, .status = h->status, .reason = h->reason };
                        break;
                }
                if (at == n)
                        break;

                switch (h->state) {
                case STATE_START:
                case STATE_START_LF:
                        feed_start(h, data, &at);
                        break;
                case STATE_REQUEST_LINE:
                case STATE_FIELDS:
                        r = feed_head(h, data, n, &at);
                        if (r)
                                return error_trace(r);
                        break;
                case STATE_BODY:
                case STATE_CHUNK_DATA:
                        feed_body(h, data, n, &at, &e);
                        break;
                case STATE_CHUNK_SIZE:
                case STATE_CHUNK_EXT:
                case STATE_CHUNK_SIZE_LF:
                        feed_chunk_line(h, data[at++]);
                        break;
                case STATE_CHUNK_DATA_CR:
                case STATE_CHUNK_DATA_LF:
                        feed_chunk_end(h, data[at++]);
                        break;
                default:
                        feed_trailer(h, data[at++]);
                        break;
                }
        }
        *ret_consumed = at;
        *ret_event = e;
        return 0;
}

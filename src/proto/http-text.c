/* Tables and text of HTTP that both halves of the codec use: character classes, reason phrases, percent-decoding. */

#include "base/error.h"
#include "proto/http1-private.h"

#define T CHAR_TOKEN
#define U CHAR_TARGET
#define H CHAR_HOST
#define X CHAR_HEX

const uint8_t http1_char_class[256] = {
        ['0' ... '9'] = T | U | H | X,
        ['A' ... 'F'] = T | U | H | X,
        ['G' ... 'Z'] = T | U | H,
        ['a' ... 'f'] = T | U | H | X,
        ['g' ... 'z'] = T | U | H,
        ['-'] = T | U | H,
        ['.'] = T | U | H,
        ['_'] = T | U | H,
        ['~'] = T | U | H,
        ['!'] = T | U | H,
        ['$'] = T | U | H,
        ['%'] = T | U | H,
        ['&'] = T | U | H,
        ['\''] = T | U | H,
        ['*'] = T | U | H,
        ['+'] = T | U | H,
        ['('] = U | H,
        [')'] = U | H,
        [';'] = U | H,
        ['='] = U | H,
        [','] = U,
        [':'] = U,
        ['@'] = U,
        ['/'] = U,
        ['?'] = U,
        ['#'] = T,
        ['^'] = T,
        ['`'] = T,
        ['|'] = T,
};

#undef T
#undef U
#undef H
#undef X

const char *http_status_text(unsigned status) {
        /* RFC 9110 §15; 425, 428, 429, 431, 451, 507, 511: the IANA registry. */
        switch (status) {
        case 100:
                return "Continue";
        case 101:
                return "Switching Protocols";
        case 200:
                return "OK";
        case 201:
                return "Created";
        case 202:
                return "Accepted";
        case 204:
                return "No Content";
        case 206:
                return "Partial Content";
        case 301:
                return "Moved Permanently";
        case 302:
                return "Found";
        case 303:
                return "See Other";
        case 304:
                return "Not Modified";
        case 307:
                return "Temporary Redirect";
        case 308:
                return "Permanent Redirect";
        case 400:
                return "Bad Request";
        case 401:
                return "Unauthorized";
        case 403:
                return "Forbidden";
        case 404:
                return "Not Found";
        case 405:
                return "Method Not Allowed";
        case 406:
                return "Not Acceptable";
        case 408:
                return "Request Timeout";
        case 409:
                return "Conflict";
        case 410:
                return "Gone";
        case 411:
                return "Length Required";
        case 412:
                return "Precondition Failed";
        case 413:
                return "Content Too Large";
        case 414:
                return "URI Too Long";
        case 415:
                return "Unsupported Media Type";
        case 417:
                return "Expectation Failed";
        case 421:
                return "Misdirected Request";
        case 422:
                return "Unprocessable Content";
        case 425:
                return "Too Early";
        case 426:
                return "Upgrade Required";
        case 428:
                return "Precondition Required";
        case 429:
                return "Too Many Requests";
        case 431:
                return "Request Header Fields Too Large";
        case 500:
                return "Internal Server Error";
        case 501:
                return "Not Implemented";
        case 502:
                return "Bad Gateway";
        case 503:
                return "Service Unavailable";
        case 504:
                return "Gateway Timeout";
        case 505:
                return "HTTP Version Not Supported";
        case 507:
                return "Insufficient Storage";
        default:
                return "Unknown";
        }
}

bool http_percent_decode(const char *s, size_t n, Buf *out) {
        size_t n_before = buf_size(out);
        const uint8_t *p = (const uint8_t *)s;
        bool valid = true;

        for (size_t i = 0; i < n && valid; i++) {
                uint8_t c = p[i];

                if (c == '%') {
                        valid = n - i > 2 && char_is(p[i + 1], CHAR_HEX) && char_is(p[i + 2], CHAR_HEX);
                        if (!valid)
                                break;
                        c = (uint8_t)(char_hex(p[i + 1]) << 4 | char_hex(p[i + 2]));
                        i += 2;
                }
                valid = c != 0 && buf_append(out, &c, 1) == 0;
        }
        if (!valid)
                out->end = out->start + n_before;
        return valid;
}

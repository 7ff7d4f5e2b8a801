/* The marker is three lines of text: what it is, the key's fingerprint, the least size of the database in bytes. */

#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/parse.h"
#include "store/internal.h"

#define MARKER_MAX 4096

#define MARKER_FORMAT                                                                   \
        "agent-router store 1: " STORE_DATABASE " beside this file holds data; do not delete either\n" \
        "key %s\n"                                                                      \
        "bytes %s\n"

/* Takes the rest of a line that begins with name; false where the next line is another. */
static bool marker_line(char **s, const char *name, char **ret_value) {
        char *end = strchr(*s, '\n');

        if (!end || !str_starts(*s, name))
                return false;
        *end = 0;
        *ret_value = *s + strlen(name);
        *s = end + 1;
        return true;
}

int store_marker_read(int dir_fd, StoreMarker *ret_marker) {
        _cleanup_free_ char *text = NULL;
        char *s, *title, *key, *bytes;
        StoreMarker marker = {};
        size_t n;
        int r;

        if (faccessat(dir_fd, STORE_MARKER, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
                return errno == ENOENT ? STORE_MARKER_E_NONE : error_origin(-errno);
        r = fd_read_file(dir_fd, STORE_MARKER, MARKER_MAX, &text, &n);
        if (r > 0)
                return STORE_MARKER_E_INVALID;
        if (r)
                return error_trace(r);
        s = text;
        if (!marker_line(&s, "agent-router store 1:", &title) || !marker_line(&s, "key ", &key) ||
            !marker_line(&s, "bytes ", &bytes) || strlen(key) != sizeof(marker.key) - 1 ||
            !parse_u64(bytes, &marker.bytes))
                return STORE_MARKER_E_INVALID;
        memcpy(marker.key, key, sizeof(marker.key));
        *ret_marker = marker;
        return 0;
}

int store_marker_write(int dir_fd, const StoreMarker *marker) {
        char text[MARKER_MAX], bytes[24];
        int n;

        snprintf(bytes, sizeof(bytes), "%" PRIu64, marker->bytes);
        n = snprintf(text, sizeof(text), MARKER_FORMAT, marker->key, bytes);
        return error_trace(fd_write_file_atomic(dir_fd, STORE_MARKER, text, (size_t)n, 0600));
}

int store_marker_fingerprint(const uint8_t key[static STORE_KEY_SIZE], char ret_fingerprint[static 17]) {
        static const char domain[] = "agent-router store key fingerprint";
        uint8_t text[sizeof(domain) + STORE_KEY_SIZE], hash[EVP_MAX_MD_SIZE];
        int ok;

        memcpy(text, domain, sizeof(domain));
        memcpy(text + sizeof(domain), key, STORE_KEY_SIZE);
        ok = EVP_Digest(text, sizeof(text), hash, NULL, EVP_sha256(), NULL);
        explicit_bzero(text, sizeof(text));
        if (!ok)
                return error_origin(-EIO);
        for (size_t i = 0; i < 8; i++)
                snprintf(ret_fingerprint + 2 * i, 3, "%02x", hash[i]);
        return 0;
}

#pragma once

/*
 * Ids: UUID version 7 (RFC 9562 §5.7): 48 bits of Unix milliseconds, 12 bits that count within the millisecond,
 * 62 random bits. Ids made by one process sort by the order of their making, also as text and as blobs.
 */

#include "base/macro.h"

typedef struct Id Id;

struct Id {
        uint8_t bytes[16];
};

#define ID_TEXT_MAX 37          /* 36 characters and NUL */

/* -errno of getrandom(2). */
int id_new(Id *ret_id) _must_check_;
/* For tests: the same seed and clock give the same ids, from the first on; 0: the kernel's random numbers again. */
void id_freeze(uint64_t seed);
void id_format(const Id *id, char ret_s[static ID_TEXT_MAX]);
/* Accepts the 36-character form in either case; false where it is anything else. */
bool id_parse(const char *s, Id *ret_id);

static inline bool id_equal(const Id *a, const Id *b) {
        return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

static inline bool id_is_null(const Id *id) {
        return id_equal(id, &(Id){});
}

#pragma once

/*
 * auth: who is calling. A caller over TCP shows an API key (`Authorization: Bearer ark_…`, RFC 6750 §2.1); one on a
 * Unix control socket is known by its peer credentials (unix(7), SO_PEERCRED). Both become a Principal.
 *
 * An API key is 32 random bytes in hexadecimal behind `ark_`. With 256 bits of entropy a plain SHA-256 is enough: there
 * is nothing to guess, so nothing to slow down. Only the hash is stored, and it is what keys are looked up by.
 */

#include "base/macro.h"

typedef struct Principal Principal;
typedef struct Store Store;

#define AUTH_KEY_PREFIX         "ark_"
#define AUTH_KEY_TEXT_MAX       (4 + 64 + 1)
#define AUTH_KEY_NAME_MAX       64
#define PRINCIPAL_NAME_MAX      96
#define AUTH_HASH_SIZE          32

typedef enum Role {
        ROLE_NONE,              /* not authenticated: /healthz and /readyz */
        ROLE_SUBMITTER,         /* its own tasks only */
        ROLE_ADMIN,             /* everyone's tasks, keys */
} Role;

struct Principal {
        char name[PRINCIPAL_NAME_MAX];  /* "uid:1000", or "key:NAME/…" with the end of the key's id: names may be used again */
        Role role;
        int64_t run_as_uid;             /* -1: the worker user */
};

enum {
        _AUTH_E_SUCCESS,
        AUTH_E_DENIED,          /* no such key, or no key where one is needed */
};

const char *role_name(Role role);
bool role_from_name(const char *name, Role *ret_role);

/* SHA-256 (FIPS 180-4). -ENOMEM where libcrypto has no memory. */
int auth_hash(const void *data, size_t n, uint8_t ret_hash[static AUTH_HASH_SIZE]) _must_check_;
/* A new key's text and hash. */
int auth_key_new(char ret_text[static AUTH_KEY_TEXT_MAX], uint8_t ret_hash[static AUTH_HASH_SIZE]) _must_check_;
/* The principal that the value of an Authorization field (NULL: none) stands for. */
int auth_bearer(Store *store, const char *authorization, Principal *ret_principal) _must_check_;
/* The principal at the other end of a connected Unix socket. Root and the daemon's own user are admins. */
int auth_peer(int fd, Principal *ret_principal) _must_check_;

#include <stdio.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "auth/auth.h"
#include "base/error.h"
#include "store/store.h"

const char *role_name(Role role) {
        return role == ROLE_ADMIN ? "admin" : role == ROLE_SUBMITTER ? "submitter" : "none";
}

bool role_from_name(const char *name, Role *ret_role) {
        if (streq(name, "admin"))
                *ret_role = ROLE_ADMIN;
        else if (streq(name, "submitter"))
                *ret_role = ROLE_SUBMITTER;
        else
                return false;
        return true;
}

int auth_hash(const void *data, size_t n, uint8_t ret_hash[static AUTH_HASH_SIZE]) {
        if (EVP_Digest(data, n, ret_hash, NULL, EVP_sha256(), NULL) != 1)
                return error_origin(-ENOMEM);
        return 0;
}

int auth_key_new(char ret_text[static AUTH_KEY_TEXT_MAX], uint8_t ret_hash[static AUTH_HASH_SIZE]) {
        static const char hex[] = "0123456789abcdef";
        char text[AUTH_KEY_TEXT_MAX] = AUTH_KEY_PREFIX;
        uint8_t random[32];
        int r;

        if (getrandom(random, sizeof(random), 0) != sizeof(random))
                return error_origin(-errno);
        for (size_t i = 0; i < sizeof(random); i++) {
                text[4 + 2 * i] = hex[random[i] >> 4];
                text[4 + 2 * i + 1] = hex[random[i] & 15];
        }
        r = auth_hash(text, AUTH_KEY_TEXT_MAX - 1, ret_hash);
        if (!r)
                memcpy(ret_text, text, sizeof(text));
        OPENSSL_cleanse(text, sizeof(text));
        OPENSSL_cleanse(random, sizeof(random));
        return error_trace(r);
}

int auth_bearer(Store *store, const char *authorization, Principal *ret_principal) {
        _cleanup_(store_key_freep) StoreKey *key = NULL;
        uint8_t hash[AUTH_HASH_SIZE];
        char id[ID_TEXT_MAX];
        Principal p = {};
        int r;

        /* RFC 9110 §11.1: the scheme is case-insensitive and followed by spaces. */
        if (!authorization || strncasecmp(authorization, "Bearer ", 7) != 0)
                return AUTH_E_DENIED;
        authorization += 7;
        while (*authorization == ' ')
                authorization++;
        if (strlen(authorization) != AUTH_KEY_TEXT_MAX - 1 || !str_starts(authorization, AUTH_KEY_PREFIX))
                return AUTH_E_DENIED;
        r = auth_hash(authorization, AUTH_KEY_TEXT_MAX - 1, hash);
        if (r)
                return error_trace(r);
        r = store_key_find(store, hash, &key);
        if (r == STORE_E_NOT_FOUND)
                return AUTH_E_DENIED;
        if (r)
                return error_fold(r);
        if (!role_from_name(key->role, &p.role))
                return AUTH_E_DENIED;
        id_format(&key->id, id);
        snprintf(p.name, sizeof(p.name), "key:%.*s/%s", AUTH_KEY_NAME_MAX, key->name, id + ID_TEXT_MAX - 1 - 8);
        p.run_as_uid = key->run_as_uid;
        *ret_principal = p;
        return 0;
}

int auth_peer(int fd, Principal *ret_principal) {
        struct ucred peer;
        socklen_t n = sizeof(peer);
        Principal p = {};

        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) < 0)
                return error_origin(-errno);
        snprintf(p.name, sizeof(p.name), "uid:%u", (unsigned)peer.uid);
        p.role = peer.uid == 0 || peer.uid == geteuid() ? ROLE_ADMIN : ROLE_SUBMITTER;
        /* Root's tasks, and those of the daemon's own user, run as the worker user. */
        p.run_as_uid = p.role == ROLE_ADMIN ? -1 : (int64_t)peer.uid;
        *ret_principal = p;
        return 0;
}

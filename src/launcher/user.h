#pragma once

/*
 * user: the account that a task runs as. Local accounts are read from /etc/passwd and /etc/group directly, which costs
 * no memory that stays; an account that is not there is asked of the name service (sssd, LDAP), which a child does,
 * never the launcher's loop.
 */

#include "base/macro.h"

#define USER_GROUPS_MAX 64      /* supplementary groups; the rest are dropped */

typedef struct User User;

struct User {
        uid_t uid;
        gid_t gid;
        gid_t groups[USER_GROUPS_MAX];  /* gid among them */
        size_t n_groups;
};

/* The accounts asked for last, for a second each: the same few run all tasks. */
#define USER_CACHE_SIZE 8
#define USER_CACHE_US USEC_PER_SEC

typedef struct UserCache {
        struct {
                User user;
                uint64_t until_us;      /* CLOCK_MONOTONIC; 0: empty */
        } entries[USER_CACHE_SIZE];
        unsigned next;
} UserCache;

enum {
        _USER_E_SUCCESS,
        USER_E_UNKNOWN,         /* no such account */
};

/* From the local files alone, through the cache. -errno of reading them. */
int user_cache_get(UserCache *cache, uid_t uid, User *ret_user) _must_check_;
/* Asks the name service too, and may wait for it. */
int user_by_uid(uid_t uid, User *ret_user) _must_check_;
/* The uid of a name; the launcher asks once, at start. */
int user_by_name(const char *name, uid_t *ret_uid) _must_check_;
/* The person's folder, for a user instance's default workspace root; NULL where there is none. The caller frees. */
char *user_home(uid_t uid);

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/parse.h"
#include "launcher/user.h"

/* The account database of a large site. */
#define USER_FILE_MAX MIB(4)
#define USER_FIELDS 7

/*
 * passwd(5) and group(5) by hand: one read and one pass. fgetpwent(3) seeks before each line, which cost more than all
 * the mounts of a sandbox together.
 */
typedef struct UserLine {
        char *fields[USER_FIELDS];
} UserLine;

static int user_read_file(const char *path, char **ret_text) {
        size_t n;
        int r = fd_read_file(AT_FDCWD, path, USER_FILE_MAX, ret_text, &n);

        return r > 0 ? error_origin(-EFBIG) : error_trace(r);
}

/* Cuts the next line with n fields out of *text; false at the end. */
static bool user_next_line(char **text, size_t n, UserLine *ret_line) {
        char *line;

        while ((line = strsep(text, "\n"))) {
                size_t i = 0;

                while (i < n && line)
                        ret_line->fields[i++] = strsep(&line, ":");
                if (i == n)
                        return true;
        }
        return false;
}

static bool user_parse_id(const char *s, uint32_t *ret_id) {
        uint64_t v;

        if (!parse_u64_range(s, 0, UINT32_MAX - 1, &v))
                return false;
        *ret_id = (uint32_t)v;
        return true;
}

/* The entry with this name, or with this uid. */
static bool user_find(char *text, const char *name, uid_t uid, UserLine *ret_line) {
        uid_t id;

        while (user_next_line(&text, 7, ret_line))
                if (user_parse_id(ret_line->fields[2], &id) && (name ? streq(ret_line->fields[0], name) : id == uid))
                        return true;
        return false;
}

static void user_add_group(User *user, gid_t gid) {
        for (size_t i = 0; i < user->n_groups; i++)
                if (user->groups[i] == gid)
                        return;
        if (user->n_groups < USER_GROUPS_MAX)
                user->groups[user->n_groups++] = gid;
}

static int user_read_groups(User *user, const char *name) {
        _cleanup_free_ char *text = NULL;
        UserLine line;
        char *rest;
        gid_t gid;
        int r;

        r = user_read_file("/etc/group", &text);
        if (r)
                return error_trace(r);
        rest = text;
        while (user_next_line(&rest, 4, &line)) {
                char *members = line.fields[3], *member;

                if (!user_parse_id(line.fields[2], &gid))
                        continue;
                while ((member = strsep(&members, ",")))
                        if (streq(member, name))
                                user_add_group(user, gid);
        }
        return 0;
}

static int user_ask_name_service(uid_t uid, User *ret_user) {
        User user = { .uid = uid };
        int n = USER_GROUPS_MAX;
        struct passwd *p = getpwuid(uid);

        if (!p)
                return USER_E_UNKNOWN;
        user.gid = p->pw_gid;
        if (getgrouplist(p->pw_name, p->pw_gid, user.groups, &n) < 0)
                n = USER_GROUPS_MAX;    /* more than fit: the first ones were filled in */
        user.n_groups = (size_t)n;
        *ret_user = user;
        return 0;
}

static int user_by_uid_local(uid_t uid, User *ret_user) {
        _cleanup_free_ char *text = NULL;
        User user = { .uid = uid };
        UserLine line;
        int r;

        r = user_read_file("/etc/passwd", &text);
        if (r)
                return error_trace(r);
        if (!user_find(text, NULL, uid, &line) || !user_parse_id(line.fields[3], &user.gid))
                return USER_E_UNKNOWN;
        user_add_group(&user, user.gid);
        r = user_read_groups(&user, line.fields[0]);
        if (r)
                return error_trace(r);
        *ret_user = user;
        return 0;
}

int user_by_uid(uid_t uid, User *ret_user) {
        int r = user_by_uid_local(uid, ret_user);

        return r == USER_E_UNKNOWN ? user_ask_name_service(uid, ret_user) : error_trace(r);
}

int user_cache_get(UserCache *cache, uid_t uid, User *ret_user) {
        uint64_t now = clock_monotonic_us();
        unsigned i;
        int r;

        for (i = 0; i < USER_CACHE_SIZE; i++)
                if (cache->entries[i].user.uid == uid && cache->entries[i].until_us > now) {
                        *ret_user = cache->entries[i].user;
                        return 0;
                }
        r = user_by_uid_local(uid, ret_user);
        if (r)
                return r;
        i = cache->next++ % USER_CACHE_SIZE;
        cache->entries[i].user = *ret_user;
        cache->entries[i].until_us = now + USER_CACHE_US;
        return 0;
}

int user_by_name(const char *name, uid_t *ret_uid) {
        _cleanup_free_ char *text = NULL;
        struct passwd *p;
        UserLine line;
        int r;

        r = user_read_file("/etc/passwd", &text);
        if (r)
                return error_trace(r);
        if (user_find(text, name, 0, &line) && user_parse_id(line.fields[2], ret_uid))
                return 0;
        p = getpwnam(name);
        if (!p)
                return USER_E_UNKNOWN;
        *ret_uid = p->pw_uid;
        return 0;
}

char *user_home(uid_t uid) {
        _cleanup_free_ char *text = NULL;
        const char *home = getenv("HOME");
        UserLine line;

        if (user_read_file("/etc/passwd", &text) == 0 && user_find(text, NULL, uid, &line))
                home = line.fields[5];

        return home && home[0] == '/' && home[1] ? strdup(home) : NULL;
}

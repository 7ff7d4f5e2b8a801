#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <unistd.h>

#include "base/error.h"
#include "launcher/user.h"

static void file_closep(FILE **f) {
        if (*f)
                fclose(*f);
}

/* The entry of /etc/passwd with this uid, or with this name; the result is fgetpwent(3)'s static storage. */
static struct passwd *user_read_passwd(FILE *f, uid_t uid, const char *name) {
        struct passwd *p;

        while ((p = fgetpwent(f)))
                if (name ? streq(p->pw_name, name) : p->pw_uid == uid)
                        return p;
        return NULL;
}

static void user_add_group(User *user, gid_t gid) {
        for (size_t i = 0; i < user->n_groups; i++)
                if (user->groups[i] == gid)
                        return;
        if (user->n_groups < USER_GROUPS_MAX)
                user->groups[user->n_groups++] = gid;
}

static int user_read_groups(User *user, const char *name) {
        _cleanup_(file_closep) FILE *f = fopen("/etc/group", "re");
        struct group *g;

        if (!f)
                return error_origin(-errno);
        while ((g = fgetgrent(f)))
                for (char **m = g->gr_mem; *m; m++)
                        if (streq(*m, name))
                                user_add_group(user, g->gr_gid);
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

int user_by_uid(uid_t uid, User *ret_user) {
        _cleanup_(file_closep) FILE *f = fopen("/etc/passwd", "re");
        User user = { .uid = uid };
        struct passwd *p;
        int r;

        if (!f)
                return error_origin(-errno);
        p = user_read_passwd(f, uid, NULL);
        if (!p)
                return user_ask_name_service(uid, ret_user);
        user.gid = p->pw_gid;
        user_add_group(&user, user.gid);
        r = user_read_groups(&user, p->pw_name);
        if (r)
                return error_trace(r);
        *ret_user = user;
        return 0;
}

int user_by_name(const char *name, uid_t *ret_uid) {
        _cleanup_(file_closep) FILE *f = fopen("/etc/passwd", "re");
        struct passwd *p;

        if (!f)
                return error_origin(-errno);
        p = user_read_passwd(f, 0, name);
        if (!p)
                p = getpwnam(name);
        if (!p)
                return USER_E_UNKNOWN;
        *ret_uid = p->pw_uid;
        return 0;
}

char *user_home(uid_t uid) {
        _cleanup_(file_closep) FILE *f = fopen("/etc/passwd", "re");
        struct passwd *p = f ? user_read_passwd(f, uid, NULL) : NULL;
        const char *home = p ? p->pw_dir : getenv("HOME");

        return home && home[0] == '/' && home[1] ? strdup(home) : NULL;
}

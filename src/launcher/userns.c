#include <fcntl.h>
#include <stdio.h>
#include <sys/prctl.h>

#include "base/error.h"
#include "base/fd.h"
#include "launcher/userns.h"

static int userns_write(const char *path, const char *text) {
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

        if (fd < 0)
                return error_origin(-errno);
        return error_trace(fd_write_all(fd, text, strlen(text)));
}

int userns_map_self(uid_t uid, gid_t gid) {
        char map[64];
        int r;

        if (prctl(PR_SET_DUMPABLE, 1) < 0)
                return error_origin(-errno);
        /* user_namespaces(7): an unprivileged gid_map needs setgroups(2) given up first. */
        r = userns_write("/proc/self/setgroups", "deny");
        if (!r) {
                snprintf(map, sizeof(map), "%u %u 1\n", (unsigned)uid, (unsigned)uid);
                r = userns_write("/proc/self/uid_map", map);
        }
        if (!r) {
                snprintf(map, sizeof(map), "%u %u 1\n", (unsigned)gid, (unsigned)gid);
                r = userns_write("/proc/self/gid_map", map);
        }
        return error_trace(r);
}

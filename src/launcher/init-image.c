#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "launcher/init-image.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

static const uint8_t init_image[] = {
#include "launcher/init-image.inc"
};

int init_image_open(int *ret_fd) {
        _cleanup_close_ int fd = memfd_create("agent-init", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC), read_only = -1;
        char path[32];
        int r;

        /* Before Linux 6.3 there is no such flag, and no need of it. */
        if (fd < 0 && errno == EINVAL)
                fd = memfd_create("agent-init", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0)
                return error_origin(-errno);
        r = fd_write_all(fd, init_image, sizeof(init_image));
        if (r)
                return error_trace(r);
        if (fchmod(fd, 0111) < 0 ||
            fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
                return error_origin(-errno);
        /* A file that is open for writing can't be executed. */
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        read_only = open(path, O_PATH | O_CLOEXEC);
        if (read_only < 0)
                return error_origin(-errno);
        *ret_fd = steal_fd(&read_only);
        return 0;
}

void init_image_exec(int image_fd, pid_t agent, int status_fd) {
        char pid[16], fd[16], *argv[] = { (char *)"agent-init", pid, fd, NULL }, *environment[] = { NULL };

        snprintf(pid, sizeof(pid), "%d", (int)agent);
        snprintf(fd, sizeof(fd), "%d", status_fd);
        (void)fcntl(status_fd, F_SETFD, 0);
        (void)syscall(SYS_execveat, image_fd, "", argv, environment, AT_EMPTY_PATH);
}

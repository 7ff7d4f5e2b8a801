#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/parse.h"
#include "base/service.h"

#define SERVICE_FDS_START 3     /* SD_LISTEN_FDS_START */

static int notify_fd = -1;

static int service_set_cloexec(int fd) {
        int flags = fcntl(fd, F_GETFD);

        if (flags < 0 || fcntl(fd, F_SETFD, flags | FD_CLOEXEC) < 0)
                return error_origin(-errno);
        return 0;
}

/* Copies the next of the colon-separated names; a missing or empty one is "unknown", as sd_listen_fds_with_names(3). */
static int service_next_name(const char **names, char ret_name[static 64]) {
        const char *p = *names;
        size_t n = p ? strcspn(p, ":") : 0;

        if (n >= 64)
                return error_origin(-EINVAL);
        if (n == 0) {
                memcpy(ret_name, "unknown", sizeof("unknown"));
        } else {
                memcpy(ret_name, p, n);
                ret_name[n] = 0;
        }
        if (p)
                *names = p[n] == ':' ? p + n + 1 : NULL;
        return 0;
}

static int service_read_fds(ServiceFd ret_fds[static SERVICE_FDS_MAX], size_t *ret_n) {
        const char *pid_text = getenv("LISTEN_PID"), *n_text = getenv("LISTEN_FDS"), *names = getenv("LISTEN_FDNAMES");
        ServiceFd fds[SERVICE_FDS_MAX];
        uint64_t pid, n;
        int r;

        if (!pid_text || !n_text) {
                *ret_n = 0;
                return 0;
        }
        if (!parse_u64_range(pid_text, 1, INT32_MAX, &pid))
                return error_origin(-EINVAL);
        if ((pid_t)pid != getpid()) {
                *ret_n = 0;
                return 0;
        }
        if (!parse_u64_range(n_text, 0, SERVICE_FDS_MAX, &n))
                return error_origin(-EINVAL);
        for (size_t i = 0; i < n; i++) {
                fds[i].fd = SERVICE_FDS_START + (int)i;
                r = service_set_cloexec(fds[i].fd);
                if (r)
                        return error_trace(r);
                r = service_next_name(&names, fds[i].name);
                if (r)
                        return error_trace(r);
        }
        memcpy(ret_fds, fds, n * sizeof(*fds));
        *ret_n = n;
        return 0;
}

int service_listen_fds(ServiceFd ret_fds[static SERVICE_FDS_MAX], size_t *ret_n) {
        int r = service_read_fds(ret_fds, ret_n);

        unsetenv("LISTEN_PID");
        unsetenv("LISTEN_PIDFDID");
        unsetenv("LISTEN_FDS");
        unsetenv("LISTEN_FDNAMES");
        return error_trace(r);
}

int service_notify_open(void) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        const char *path = getenv("NOTIFY_SOCKET");
        _cleanup_close_ int fd = -1;
        size_t n;

        if (notify_fd >= 0 || !path || !*path)
                return 0;
        n = strlen(path);
        if ((path[0] != '/' && path[0] != '@') || n >= sizeof(address.sun_path))
                return error_origin(-EAFNOSUPPORT);
        memcpy(address.sun_path, path, n);
        if (path[0] == '@')             /* an abstract name: its length counts, no NUL ends it */
                address.sun_path[0] = 0;
        fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return error_origin(-errno);
        if (connect(fd, (const struct sockaddr *)&address,
                    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (path[0] == '/'))) < 0)
                return error_origin(-errno);
        notify_fd = steal_fd(&fd);
        return 0;
}

int service_notify(const char *state) {
        int r = service_notify_open();

        if (r)
                return error_trace(r);
        if (notify_fd >= 0 && send(notify_fd, state, strlen(state), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
                return error_origin(-errno);
        return 0;
}

uint64_t service_watchdog_interval_us(void) {
        const char *pid_text = getenv("WATCHDOG_PID"), *usec_text = getenv("WATCHDOG_USEC");
        uint64_t pid, usec;

        if (!usec_text || !parse_u64_range(usec_text, 1, UINT64_MAX, &usec))
                return 0;
        if (pid_text && (!parse_u64(pid_text, &pid) || pid != (uint64_t)getpid()))
                return 0;
        return usec / 2;
}

/* systemd.exec(5): several directories are joined by colons; the first is ours, so the list is cut after it. */
static const char *service_dir(const char *variable) {
        char *e = getenv(variable), *colon = e ? strchr(e, ':') : NULL;

        if (colon)
                *colon = 0;
        return e && *e ? e : NULL;
}

const char *service_state_dir(void) {
        return service_dir("STATE_DIRECTORY");
}

const char *service_runtime_dir(void) {
        return service_dir("RUNTIME_DIRECTORY");
}

const char *service_configuration_dir(void) {
        return service_dir("CONFIGURATION_DIRECTORY");
}

const char *service_credentials_dir(void) {
        return service_dir("CREDENTIALS_DIRECTORY");
}

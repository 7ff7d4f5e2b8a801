#include <fcntl.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/json.h"
#include "ctl/doctor.h"
#include "ctl/text.h"

#define KEY_HEX 64                      /* digits of store.key */

void doctor_report(Doctor *d, DoctorStatus status, const char *name, const char *remedy, const char *format, ...) {
        static const char *const words[] = { "ok", "warning", "missing" };
        static const char *const colors[] = { "\033[32m", "\033[33m", "\033[31m" };
        char detail[512];
        va_list ap;

        va_start(ap, format);
        vsnprintf(detail, sizeof(detail), format, ap);
        va_end(ap);
        d->n_warnings += status == DOCTOR_WARNING;
        d->n_missing += status == DOCTOR_MISSING;
        if (d->checks) {
                json_object *o = json_object_new_object();
                json_object_object_add(o, "name", json_object_new_string(name));
                json_object_object_add(o, "status", json_object_new_string(words[status]));
                json_object_object_add(o, "detail", json_object_new_string(detail));
                json_object_object_add(o, "remedy", remedy ? json_object_new_string(remedy) : NULL);
                json_object_array_add(d->checks, o);
                return;
        }
        printf("%s%-8s%s  %-14s  ", d->ctl->color ? colors[status] : "", words[status], d->ctl->color ? "\033[0m" : "", name);
        text_write_line(stdout, detail, 0);
        putchar('\n');
        if (remedy)
                printf("%10s  → %s\n", "", remedy);
        fflush(stdout);
}

static bool key_is_valid(const char *path) {
        _cleanup_free_ char *data = NULL;
        size_t n;

        if (fd_read_file(AT_FDCWD, path, KEY_HEX + 2, &data, &n))
                return false;
        while (n > 0 && data[n - 1] == '\n')
                n--;
        for (size_t i = 0; i < n; i++)
                if (!strchr("0123456789abcdefABCDEF", data[i]))
                        n = 0;
        explicit_bzero(data, strlen(data));
        return n == KEY_HEX;
}

/* A plain key: in a credentials directory, or of the user instance. */
static bool check_plain_key(Doctor *d, const char *directory) {
        char path[768];
        struct stat st;

        snprintf(path, sizeof(path), "%s/store.key", directory);
        if (!*directory || stat(path, &st) < 0)
                return false;
        if (access(path, R_OK) == 0 && !key_is_valid(path))
                doctor_report(d, DOCTOR_MISSING, "store key", "put the right key back from your backup: another one can't open "
                              "the store", "%s does not hold 64 hexadecimal digits", path);
        else if (st.st_mode & 077)
                doctor_report(d, DOCTOR_WARNING, "store key", "close it: chmod 600 FILE", "%s is open to others (mode %04o)", path,
                              (unsigned)st.st_mode & 07777);
        else
                doctor_report(d, DOCTOR_OK, "store key", NULL, "%s", path);
        return true;
}

static void check_store_key(Doctor *d) {
        static const char sealed[] = "/etc/credstore.encrypted/agent-router.store.key";
        const char *credentials = getenv("CREDENTIALS_DIRECTORY"), *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
        char directory[700] = "";
        struct stat st;
        bool found = false;

        if (credentials && *credentials)
                found = check_plain_key(d, credentials);
        if (config && *config)
                snprintf(directory, sizeof(directory), "%s/agent-router", config);
        else if (home && *home)
                snprintf(directory, sizeof(directory), "%s/.config/agent-router", home);
        if (!found)
                found = check_plain_key(d, directory);
        if (stat(sealed, &st) == 0)
                doctor_report(d, DOCTOR_OK, "store key", NULL, "%s (sealed to this machine)", sealed);
        else if (!found && errno == EACCES)
                doctor_report(d, DOCTOR_OK, "store key", NULL, "%s can be seen by root alone", sealed);
        else if (!found)
                doctor_report(d, DOCTOR_WARNING, "store key", "it is made at the first start: systemctl start agent-routerd",
                              "none yet");
}

/* Whether anybody answers at a socket; -errno of connect(2). */
static int try_socket(const char *path) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        _cleanup_close_ int fd = -1;

        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        memcpy(address.sun_path, path, strlen(path));
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
                return -errno;
        return 0;
}

static void check_sockets(Doctor *d) {
        const char *named = d->ctl->socket ?: getenv("AGENT_ROUTER_SOCKET"), *runtime = getenv("XDG_RUNTIME_DIR");
        char paths[2][512] = { "/run/agent-router/control.sock" };
        bool denied = false;

        if (named && *named)
                snprintf(paths[0], sizeof(paths[0]), "%s", named);
        else if (runtime && *runtime)
                snprintf(paths[1], sizeof(paths[1]), "%s/agent-router/control.sock", runtime);
        for (size_t i = 0; i < ELEMENTSOF(paths); i++) {
                int r = *paths[i] ? try_socket(paths[i]) : -ENOENT;
                if (r == 0 || r == -EAGAIN) {
                        doctor_report(d, DOCTOR_OK, "socket", NULL, "%s answers", paths[i]);
                        return;
                }
                denied = denied || r == -EACCES;
        }
        if (denied)
                doctor_report(d, DOCTOR_WARNING, "socket", "join its group: sudo usermod -aG agent-router \"$USER\", then log in again",
                              "%s: permission denied", paths[0]);
        else
                doctor_report(d, DOCTOR_WARNING, "socket", "start the router: systemctl start agent-routerd, or your own: "
                              "systemctl --user start agent-routerd", "no router answers at %s%s%s", paths[0],
                              *paths[1] ? " or " : "", paths[1]);
}

int verb_doctor(Ctl *ctl, const Verb *verb, int argc, char **argv) {
        Doctor d = { .ctl = ctl };
        int n, r;

        r = ctl_parse(ctl, verb, NULL, argc, argv, &n);
        if (r)
                return ctl_parsed(r);
        if (n)
                return ctl_fail(CTL_USAGE, "doctor takes no arguments, got '%s'", argv[0]);
        if (ctl->json) {
                d.checks = json_object_new_array();
                d.agents = json_object_new_array();
        }
        doctor_check_kernel(&d);
        doctor_check_io_uring(&d);
        doctor_check_landlock(&d);
        doctor_check_seccomp(&d);
        doctor_check_namespaces(&d);
        doctor_check_cgroups(&d);
        check_store_key(&d);
        check_sockets(&d);
        doctor_check_agents(&d);
        if (ctl->json) {
                json_object *o = json_object_new_object();
                json_object_object_add(o, "ok", json_object_new_boolean(d.n_missing == 0));
                json_object_object_add(o, "checks", d.checks);
                json_object_object_add(o, "agents", d.agents);
                text_print_json(o);
                json_object_put(o);
        } else if (d.n_missing)
                printf("\n%u missing: agent-router can't run here until that is mended\n", d.n_missing);
        else
                printf("\nall that is required is there%s\n", d.n_warnings ? "; the warnings say what works less well" : "");
        return d.n_missing ? CTL_TASK_FAILED : CTL_OK;
}

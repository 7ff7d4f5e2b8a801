#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/parse.h"
#include "launcher/cgroup.h"

/* Files of cgroupfs and proc that are read whole: a page or two; mountinfo of a machine with many containers. */
#define CGROUP_FILE_MAX KIB(64)
#define MOUNTINFO_MAX MIB(4)

#define CGROUP_ATTEMPT_PREFIX "a-"
#define CGROUP_LEAF "launcher"
/* How long to wait for what an earlier launcher left to die: it was killed already, this is the kernel's work. */
#define CGROUP_STALE_WAIT_MS 2000

static int cgroup_write(int dir_fd, const char *file, const char *value) {
        _cleanup_close_ int fd = openat(dir_fd, file, O_WRONLY | O_CLOEXEC);

        if (fd < 0)
                return error_origin(-errno);
        return error_trace(fd_write_all(fd, value, strlen(value)));
}

static int cgroup_read(int dir_fd, const char *file, char **ret_text) {
        size_t n;

        return error_fold(fd_read_file(dir_fd, file, CGROUP_FILE_MAX, ret_text, &n));
}

/* The value of "NAME VALUE" in a flat-keyed file (cgroup-v2.rst, "Flat keyed"), or of a file that is one number. */
static uint64_t cgroup_read_u64(int dir_fd, const char *file, const char *name) {
        _cleanup_free_ char *text = NULL;
        char *save = NULL;
        uint64_t v;

        if (cgroup_read(dir_fd, file, &text) < 0)
                return 0;
        for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                size_t n = name ? strlen(name) : 0;

                if (name && (strncmp(line, name, n) != 0 || line[n] != ' '))
                        continue;
                return parse_u64(name ? line + n + 1 : line, &v) ? v : 0;
        }
        return 0;
}

/* Where cgroup2 is mounted: proc(5), mountinfo; the type stands after " - ". The mount's own root is kept too. */
static int cgroup_find_mount(char **ret_mount, char **ret_root) {
        _cleanup_free_ char *text = NULL;
        char *save = NULL;
        size_t n;
        int r;

        r = fd_read_file(AT_FDCWD, "/proc/self/mountinfo", MOUNTINFO_MAX, &text, &n);
        if (r)
                return error_fold(r);
        for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                char *type = strstr(line, " - "), *field = line, *end;

                if (!type || !str_starts(type, " - cgroup2 "))
                        continue;
                for (unsigned i = 0; field && i < 3; i++) {
                        field = strchr(field, ' ');
                        field = field ? field + 1 : NULL;
                }
                end = field ? strchr(field, ' ') : NULL;
                if (!end)
                        continue;
                *ret_root = strndup(field, (size_t)(end - field));
                field = end + 1;
                end = strchr(field, ' ');
                *ret_mount = end ? strndup(field, (size_t)(end - field)) : NULL;
                return *ret_root && *ret_mount ? 0 : error_origin(-ENOMEM);
        }
        return error_origin(-ENOENT);
}

/* Our own cgroup: the line "0::PATH" of /proc/self/cgroup. */
static int cgroup_find_own(char **ret_path) {
        _cleanup_free_ char *text = NULL;
        char *save = NULL;
        int r;

        r = cgroup_read(AT_FDCWD, "/proc/self/cgroup", &text);
        if (r)
                return error_trace(r);
        for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
                if (str_starts(line, "0::")) {
                        *ret_path = strdup(line + 3);
                        return *ret_path ? 0 : error_origin(-ENOMEM);
                }
        return error_origin(-ENOENT);
}

static bool cgroup_is_empty(int dir_fd) {
        return cgroup_read_u64(dir_fd, "cgroup.events", "populated") == 0;
}

/* Kills and removes the attempts of an earlier launcher. */
static void cgroups_clean(Cgroups *c) {
        int fd = openat(c->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
        struct dirent *e;

        if (!dir) {
                fd_close(fd);
                return;
        }
        while ((e = readdir(dir))) {
                _cleanup_close_ int child = -1;
                unsigned waited_ms = 0;

                if (!str_starts(e->d_name, CGROUP_ATTEMPT_PREFIX))
                        continue;
                child = openat(c->fd, e->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC);
                if (child < 0)
                        continue;
                (void)cgroup_write(child, "cgroup.kill", "1");
                while (!cgroup_is_empty(child) && waited_ms < CGROUP_STALE_WAIT_MS) {
                        (void)poll(NULL, 0, 10);
                        waited_ms += 10;
                }
                if (unlinkat(c->fd, e->d_name, AT_REMOVEDIR) < 0)
                        log_warning("stale cgroup %s/%s can't be removed: %s", c->path, e->d_name, strerror(errno));
        }
        closedir(dir);
}

static bool cgroup_enable(Cgroups *c, const char *controller) {
        char word[16];

        snprintf(word, sizeof(word), "+%s", controller);
        return cgroup_write(c->fd, "cgroup.subtree_control", word) == 0;
}

static bool cgroup_has_word(const char *text, const char *word) {
        size_t n = strlen(word);

        for (const char *p = text; (p = strstr(p, word)); p += n)
                if ((p == text || p[-1] == ' ') && (p[n] == 0 || p[n] == ' ' || p[n] == '\n'))
                        return true;
        return false;
}

static int cgroups_enable_controllers(Cgroups *c, Caps *caps) {
        const struct {
                const char *name;
                const char *capability;
                bool *flag;
        } controllers[] = {
                { "memory", "cgroup.memory", &c->memory },
                { "pids", "cgroup.pids", &c->pids },
                { "cpu", "cgroup.cpu", &c->cpu },
        };
        _cleanup_free_ char *available = NULL;
        int r;

        if (cgroup_read(c->fd, "cgroup.controllers", &available) < 0)
                available = NULL;
        for (size_t i = 0; i < ELEMENTSOF(controllers); i++) {
                if (!available || !cgroup_has_word(available, controllers[i].name))
                        r = caps_add_absent(caps, controllers[i].capability, "the controller is not in %s/cgroup.controllers; boot with cgroup v2 alone "
                                            "(systemd.unified_cgroup_hierarchy=1) and run the launcher as a service with Delegate=yes",
                                            c->path);
                else if (!cgroup_enable(c, controllers[i].name))
                        r = caps_add_absent(caps, controllers[i].capability, "%s can't be handed on in %s (%s); run the launcher as a service of its own "
                                            "with Delegate=yes", controllers[i].name, c->path, strerror(errno));
                else {
                        *controllers[i].flag = true;
                        r = caps_add(caps, controllers[i].capability);
                }
                if (r)
                        return error_trace(r);
        }
        return 0;
}

/* Opens or makes the subtree; -errno where it is not ours to write. */
static int cgroups_open(Cgroups *c, uint64_t key) {
        _cleanup_free_ char *mount = NULL, *root = NULL, *own = NULL, *path = NULL;
        const char *below;
        int r;

        r = cgroup_find_mount(&mount, &root);
        if (!r)
                r = cgroup_find_own(&own);
        if (r)
                return error_trace(r);
        /* A bind mount of a part of the hierarchy shows paths below its root only. */
        below = own;
        if (!streq(root, "/") && str_starts(own, root))
                below = own + strlen(root);
        if (streq(below, "/") || !*below) {
                /* The root is everybody's: our subtree is made in it. */
                if (asprintf(&path, "%s/agent-router-%016llx", mount, (unsigned long long)key) < 0)
                        return error_origin(-ENOMEM);
                if (mkdir(path, 0755) < 0 && errno != EEXIST)
                        return error_origin(-errno);
                c->made = true;
        } else if (asprintf(&path, "%s%s", mount, below) < 0)
                return error_origin(-ENOMEM);
        c->fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (c->fd < 0)
                return error_origin(-errno);
        c->path = steal_ptr(&path);
        if (mkdirat(c->fd, CGROUP_LEAF, 0755) < 0 && errno != EEXIST)
                return error_origin(-errno);
        r = cgroup_write(c->fd, CGROUP_LEAF "/cgroup.procs", "0");
        return error_trace(r);
}

int cgroups_init(Cgroups *c, uint64_t key, Caps *caps) {
        static const char *const names[] = { "cgroup", "cgroup.memory", "cgroup.pids", "cgroup.cpu", "cgroup.kill" };
        int r;

        r = cgroups_open(c, key);
        if (r == -ENOMEM)
                return error_trace(r);
        if (r) {
                for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                        int k = caps_add_absent(caps, names[i], "no cgroup v2 subtree is ours to write (%s); run the launcher as a systemd service with "
                                                "Delegate=yes (a user instance: systemctl --user)", strerror(-r));
                        if (k)
                                return error_trace(k);
                }
                fd_close(c->fd);
                c->fd = -1;
                return 0;
        }
        cgroups_clean(c);
        r = caps_add(caps, "cgroup");
        if (!r)
                r = cgroups_enable_controllers(c, caps);
        if (r)
                return error_trace(r);
        c->kill = faccessat(c->fd, CGROUP_LEAF "/cgroup.kill", W_OK, AT_EACCESS) == 0;
        return error_trace(c->kill ? caps_add(caps, "cgroup.kill")
                                   : caps_add_absent(caps, "cgroup.kill", "this kernel has no cgroup.kill; Linux 5.14 or newer has it"));
}

void cgroups_deinit(Cgroups *c) {
        if (c->made && c->fd >= 0) {
                /* Leave the leaf for the root again, so that the subtree can go. */
                (void)cgroup_write(c->fd, "../cgroup.procs", "0");
                (void)unlinkat(c->fd, CGROUP_LEAF, AT_REMOVEDIR);
                (void)rmdir(c->path);
        }
        fd_close(c->fd);
        free(c->path);
        *c = (Cgroups)CGROUPS_NULL;
}

static int cgroup_set_limits(const Cgroups *c, int fd, const CgroupLimits *limits) {
        char value[64];
        int r;

        if (c->memory && limits->memory_max) {
                snprintf(value, sizeof(value), "%llu", (unsigned long long)limits->memory_max);
                r = cgroup_write(fd, "memory.max", value);
                if (r)
                        return error_trace(r);
                /* Swap would be memory beyond the limit; a kernel without swap accounting has no such file. */
                (void)cgroup_write(fd, "memory.swap.max", "0");
        }
        if (c->pids && limits->pids_max) {
                /* One more for the sandbox's init. */
                snprintf(value, sizeof(value), "%llu", (unsigned long long)limits->pids_max + 1);
                r = cgroup_write(fd, "pids.max", value);
                if (r)
                        return error_trace(r);
        }
        if (c->cpu && limits->cpu_percent) {
                /* cpu.max: quota and period in µs. */
                snprintf(value, sizeof(value), "%llu 100000", (unsigned long long)limits->cpu_percent * 1000);
                r = cgroup_write(fd, "cpu.max", value);
                if (r)
                        return error_trace(r);
        }
        return 0;
}

int cgroup_new(const Cgroups *c, const Id *attempt, const CgroupLimits *limits, Cgroup *ret_cgroup) {
        Cgroup g = CGROUP_NULL;
        char id[ID_TEXT_MAX];
        int r;

        if (c->fd >= 0) {
                id_format(attempt, id);
                snprintf(g.name, sizeof(g.name), CGROUP_ATTEMPT_PREFIX "%s", id);
                if (mkdirat(c->fd, g.name, 0755) < 0)
                        return error_origin(-errno);
                g.fd = openat(c->fd, g.name, O_PATH | O_DIRECTORY | O_CLOEXEC);
                r = g.fd < 0 ? error_origin(-errno) : cgroup_set_limits(c, g.fd, limits);
                if (r) {
                        fd_close(g.fd);
                        (void)unlinkat(c->fd, g.name, AT_REMOVEDIR);
                        return r;
                }
        }
        *ret_cgroup = g;
        return 0;
}

bool cgroup_kill(const Cgroups *c, const Cgroup *cgroup) {
        return cgroup->fd >= 0 && c->kill && cgroup_write(cgroup->fd, "cgroup.kill", "1") == 0;
}

void cgroup_read_usage(const Cgroups *c, const Cgroup *cgroup, CgroupUsage *ret_usage) {
        *ret_usage = (CgroupUsage){};
        if (cgroup->fd < 0)
                return;
        ret_usage->cpu_us = cgroup_read_u64(cgroup->fd, "cpu.stat", "usage_usec");
        if (c->memory) {
                ret_usage->oom_kills = (uint32_t)cgroup_read_u64(cgroup->fd, "memory.events", "oom_kill");
                ret_usage->memory_peak = cgroup_read_u64(cgroup->fd, "memory.peak", NULL);
        }
        if (c->pids)
                ret_usage->pids_hit = (uint32_t)cgroup_read_u64(cgroup->fd, "pids.events", "max");
}

int cgroup_remove(const Cgroups *c, Cgroup *cgroup) {
        if (cgroup->fd < 0)
                return 0;
        if (unlinkat(c->fd, cgroup->name, AT_REMOVEDIR) < 0 && errno != ENOENT)
                return error_origin(-errno);
        fd_close(cgroup->fd);
        cgroup->fd = -1;
        return 0;
}

#include <fcntl.h>
#include <malloc.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/service.h"
#include "launcher/attempt.h"
#include "launcher/init-image.h"
#include "launcher/launcher.h"
#include "launcher/nvml.h"
#include "launcher/spawn.h"

/* What agents get to finish when the launcher is stopped; the unit's TimeoutStopSec= is longer. */
#define LAUNCHER_STOP_GRACE_MS 5000

void launcher_stop(Launcher *l) {
        if (l->stopping)
                return;
        l->stopping = true;
        log_info("stopping: %zu running agents are ended", l->n_alive);
        (void)!service_notify("STOPPING=1\nSTATUS=Ending the running agents.");
        map_for_each(node, &l->attempts)
                attempt_kill(container_of(node, Attempt, node), LAUNCHER_STOP_GRACE_MS);
        launcher_on_reaped(l);
}

void launcher_on_reaped(Launcher *l) {
        if (l->stopping && l->n_alive == 0)
                loop_stop(&l->loop);
}

/* Agents' pipes: five descriptors an attempt, and some of our own. */
static void launcher_raise_nofile(void) {
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return;
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
}

/* One launcher a state directory: a second would take the first one's sandboxes for leftovers. */
static int launcher_lock(const char *state_dir, int *ret_fd, uint64_t *ret_key) {
        _cleanup_close_ int fd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0)
                return error_origin(-errno);
        if (flock(fd, LOCK_EX | LOCK_NB) < 0)
                return error_origin(-errno);
        *ret_key = (uint64_t)st.st_dev << 32 ^ st.st_ino;
        *ret_fd = steal_fd(&fd);
        return 0;
}

/* The folders of both programs, in either instance; those that this one was handed among them. */
static int launcher_protect(Launcher *l, const LauncherOptions *options) {
        const char *handed[] = {
                options->state_dir, options->runtime_dir, service_configuration_dir(), service_credentials_dir(),
                "/etc/agent-router", "/var/lib/agent-router", "/var/lib/agent-router-launcher", "/run/agent-router", "/run/agent-router-launcher",
                "/run/credentials", "/run/systemd",
        };
        const char *runtime = getenv("XDG_RUNTIME_DIR"), *home = getenv("HOME");
        static const char *const below_home[] = { ".config/agent-router", ".local/state/agent-router", ".local/state/agent-router-launcher" };
        int r = 0;

        for (size_t i = 0; r == 0 && i < ELEMENTSOF(handed); i++)
                if (handed[i])
                        r = view_protect(&l->view, handed[i]);
        if (r || geteuid() == 0)
                return error_trace(r);
        if (runtime)
                r = view_protect(&l->view, runtime);
        for (size_t i = 0; r == 0 && home && i < ELEMENTSOF(below_home); i++) {
                _cleanup_free_ char *path = NULL;

                if (asprintf(&path, "%s/%s", home, below_home[i]) < 0) {
                        path = NULL;
                        return error_origin(-ENOMEM);
                }
                r = view_protect(&l->view, path);
        }
        return error_trace(r);
}

/* Compiled before the first task waits for it. A profile that is missing is said at each spawn that wants it. */
static void launcher_prepare_filter(Launcher *l) {
        const SeccompFilter *filter;
        Failure failure = {};

        if (seccomp_cache_get(&l->filters, SPAWN_PROFILE, &filter, &failure) < 0)
                log_warning("%s", failure.text);
}

static void launcher_log_capabilities(const Launcher *l) {
        for (size_t i = 0; i < l->caps.absent.n; i++)
                log_field(LOG_NOTICE, ((LogField[]){ { "MESSAGE_ID", LOG_ID_CAPABILITY_ABSENT }, {} }), "absent: %s",
                          l->caps.absent.items[i]);
}

/* After the cgroups: a child that the driver holds must not keep this service's own cgroup from being divided. */
static int launcher_find_gpus(Launcher *l) {
        Gpus *g = &l->config.gpus;
        int r;

        if (l->config.gpus_auto) {
                r = gpus_discover(g, GPU_DEV_DIR);
                if (r)
                        return error_trace(r);
        }
        gpus_identify(g, NVML_LIBRARY, GPU_NVML_TIMEOUT_US);
        gpus_log(g, GPU_DEV_DIR);
        return 0;
}

static int launcher_fail(const char *what, int r) {
        log_error("%s: %s", what, strerror(-r));
        return error_trace(r);
}

int launcher_init(Launcher *l, const LauncherOptions *options) {
        char error[CONFIG_ERROR_MAX];
        uint64_t key = 0;
        int r;

        launcher_raise_nofile();
        seccomp_cache_init(&l->filters, options->seccomp_dir);
        r = config_load(options->config, &l->config, error);
        if (r > 0) {
                log_error("%s", error);
                return -EINVAL;
        }
        if (r)
                return launcher_fail("configuration", r);
        r = launcher_lock(options->state_dir, &l->lock_fd, &key);
        if (r) {
                log_error("state directory %s: %s", options->state_dir, r == -EWOULDBLOCK ? "another launcher uses it" : strerror(-r));
                return error_trace(r);
        }
        r = loop_init(&l->loop);
        if (!r)
                r = id_new(&l->generation);
        if (!r)
                r = caps_detect(&l->caps);
        if (!r)
                r = cgroups_init(&l->cgroups, key, &l->caps);
        if (r)
                return launcher_fail("start", r);
        r = view_init(&l->view, options->runtime_dir);
        if (!r)
                r = launcher_protect(l, options);
        if (r)
                return launcher_fail(options->runtime_dir, r);
        r = homes_init(&l->homes, &l->loop, options->state_dir);
        if (r)
                return launcher_fail(options->state_dir, r);
        r = launcher_find_gpus(l);
        if (r)
                return launcher_fail("GPUs", r);
        /* Forty calls that no sandbox has to make; we execute nothing that gains by it. */
        l->caps.unbounded = l->caps.userns || caps_drop_bounding() < 0;
        cloner_init(&l->cloner);
        r = l->cloner.usable ? init_image_open(&l->init_fd) : 0;
        if (r)
                log_debug("the sandboxes' init can't be a program of its own: %s", strerror(-r));
        r = server_init(&l->server, l, options->listen_fd, options->router_uid);
        if (r)
                return launcher_fail("launcher socket", r);
        launcher_log_capabilities(l);
        launcher_prepare_filter(l);
        /* What only the start needed, YAML trees among it, goes back to the system. */
        (void)malloc_trim(0);
        return 0;
}

void launcher_deinit(Launcher *l) {
        server_deinit(&l->server);
        map_for_each(node, &l->attempts)
                attempt_free(container_of(node, Attempt, node));
        map_deinit(&l->attempts);
        cloner_deinit(&l->cloner);
        fd_close(l->init_fd);
        homes_deinit(&l->homes);
        view_deinit(&l->view);
        cgroups_deinit(&l->cgroups);
        caps_deinit(&l->caps);
        config_deinit(&l->config);
        seccomp_cache_deinit(&l->filters);
        loop_deinit(&l->loop);
        fd_close(l->lock_fd);
}

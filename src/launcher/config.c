#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/yaml.h"
#include "launcher/config.h"
#include "launcher/spec.h"
#include "launcher/user.h"

void config_deinit(Config *c) {
        str_list_deinit(&c->workspace_roots);
        str_list_deinit(&c->read_only);
        free(c->worker_user);
        gpus_deinit(&c->gpus);
        *c = (Config){};
}

static int config_get_paths(YamlDocument *d, YamlNode *mapping, const char *key, StrList *paths) {
        YamlNode *list;
        int r;

        if (!yaml_get_sequence(d, mapping, key, &list))
                return 0;
        if (list->n > CONFIG_PATHS_MAX) {
                yaml_fail(d, list, "%s: %zu paths; expected at most %d", key, list->n, CONFIG_PATHS_MAX);
                return 0;
        }
        str_list_deinit(paths);
        for (size_t i = 0; i < list->n; i++) {
                YamlNode *item = list->items[i];

                if (item->kind != YAML_SCALAR || !spec_path_is_absolute(item->text)) {
                        yaml_fail(d, item, "%s: expected an absolute path without '.', '..', '//' and trailing '/'", key);
                        return 0;
                }
                r = str_list_add(paths, item->text);
                if (r)
                        return error_trace(r);
        }
        return 0;
}

static int config_read_sandbox(YamlDocument *d, YamlNode *sandbox, Config *c) {
        uint64_t v;
        const char *name;
        int r;

        r = config_get_paths(d, sandbox, "workspace_roots", &c->workspace_roots);
        if (!r)
                r = config_get_paths(d, sandbox, "read_only", &c->read_only);
        if (r)
                return error_trace(r);
        if (yaml_get_str(d, sandbox, "worker_user", &name)) {
                char *copy = strdup(name);

                if (!copy)
                        return error_origin(-ENOMEM);
                free(c->worker_user);
                c->worker_user = copy;
        }
        if (yaml_get_u64(d, sandbox, "uid_min", 1, UINT32_MAX - 1, &v))
                c->uid_min = (uid_t)v;
        (void)yaml_get_size(d, sandbox, "memory_max", &c->memory_max);
        if (yaml_get_u64(d, sandbox, "pids_max", 0, 1u << 22, &v))
                c->pids_max = (uint32_t)v;
        if (yaml_get_u64(d, sandbox, "cpu_percent", 0, 1000000, &v))
                c->cpu_percent = (uint32_t)v;
        (void)yaml_get(d, sandbox, "require");  /* the daemon's */
        yaml_end(d, sandbox);
        return 0;
}

/* -errno, or CONFIG_E_INVALID where somebody else could have written it. */
static int config_read_file(const char *path, char **ret_text, size_t *ret_n, char *error) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        struct stat st;
        int r;

        if (fd < 0 || fstat(fd, &st) < 0)
                return error_origin(-errno);
        if ((st.st_uid != 0 && st.st_uid != geteuid()) || (st.st_mode & 022)) {
                snprintf(error, CONFIG_ERROR_MAX, "%s: owned by uid %u with mode %03o; it decides what sandboxes may write, so expected %s as owner and nobody "
                         "else able to write: chown and chmod go-w", path, (unsigned)st.st_uid, (unsigned)st.st_mode & 0777,
                         geteuid() == 0 ? "root" : "root or yourself");
                return CONFIG_E_INVALID;
        }
        r = fd_read_all(fd, YAML_SIZE_MAX, ret_text, ret_n);
        if (r > 0) {
                snprintf(error, CONFIG_ERROR_MAX, "%s: larger than %zu bytes", path, (size_t)YAML_SIZE_MAX);
                return CONFIG_E_INVALID;
        }
        return error_trace(r);
}

static int config_read(const char *path, Config *c, char *error) {
        _cleanup_(yaml_freep) YamlDocument *d = NULL;
        _cleanup_free_ char *text = NULL;
        YamlNode *sandbox;
        size_t n;
        int r;

        r = config_read_file(path, &text, &n, error);
        if (r == -ENOENT)
                return 0;
        if (r < 0) {
                snprintf(error, CONFIG_ERROR_MAX, "%s: %s", path, strerror(-r));
                return CONFIG_E_INVALID;
        }
        if (r)
                return r;
        r = yaml_load(path, text, n, &d);
        if (r < 0)
                return error_trace(r);
        if (r == 0 && d->root && d->root->kind == YAML_MAPPING) {
                if (yaml_get_mapping(d, d->root, "sandbox", &sandbox))
                        r = config_read_sandbox(d, sandbox, c);
                if (r == 0) {
                        c->gpus_auto = false;
                        r = gpus_read_config(d, d->root, &c->gpus, &c->gpus_auto);
                }
        }
        if (r < 0)
                return error_trace(r);
        if (d->failed) {
                snprintf(error, CONFIG_ERROR_MAX, "%s", d->error);
                return CONFIG_E_INVALID;
        }
        return 0;
}

static int config_set_defaults(Config *c) {
        _cleanup_free_ char *home = NULL;
        const char *root = CONFIG_WORKSPACE_ROOT;
        int r;

        *c = (Config){ .worker_uid = -1, .uid_min = CONFIG_UID_MIN, .gpus_auto = true };
        c->worker_user = strdup(CONFIG_WORKER_USER);
        if (!c->worker_user)
                return error_origin(-ENOMEM);
        if (geteuid() != 0) {
                home = user_home(geteuid());
                root = home && spec_path_is_absolute(home) ? home : NULL;
        }
        r = root ? str_list_add(&c->workspace_roots, root) : 0;
        return error_trace(r);
}

int config_load(const char *path, Config *ret_config, char ret_error[static CONFIG_ERROR_MAX]) {
        _cleanup_(config_deinit) Config c = {};
        uid_t uid;
        int r;

        r = config_set_defaults(&c);
        if (!r && path)
                r = config_read(path, &c, ret_error);
        if (r)
                return r;
        if (geteuid() != 0)
                c.worker_uid = geteuid();
        else {
                r = user_by_name(c.worker_user, &uid);
                if (r < 0)
                        return error_trace(r);
                if (r == 0 && uid == 0) {
                        snprintf(ret_error, CONFIG_ERROR_MAX, "sandbox.worker_user: %s is uid 0; expected an unprivileged account", c.worker_user);
                        return CONFIG_E_INVALID;
                }
                if (r == 0)
                        c.worker_uid = uid;
        }
        *ret_config = c;
        c = (Config){};
        return 0;
}

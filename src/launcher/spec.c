#include <limits.h>
#include <stdio.h>

#include "base/error.h"
#include "base/parse.h"
#include "launcher/spec.h"

void spec_wipe_environment(Spec *spec) {
        for (size_t i = 0; i < spec->environment.n; i++)
                explicit_bzero(spec->environment.items[i], strlen(spec->environment.items[i]));
}

void spec_deinit(Spec *spec) {
        spec_wipe_environment(spec);
        free(spec->agent);
        free(spec->workspace);
        free(spec->seccomp);
        str_list_deinit(&spec->argv);
        str_list_deinit(&spec->environment);
        str_list_deinit(&spec->credentials);
        str_list_deinit(&spec->read_only);
        str_list_deinit(&spec->require);
        for (size_t i = 0; i < spec->n_files; i++) {
                free(spec->files[i].path);
                if (spec->files[i].content)
                        explicit_bzero(spec->files[i].content, spec->files[i].n);
                free(spec->files[i].content);
        }
        free(spec->files);
        *spec = (Spec){ .uid = -1 };
}

static bool spec_path_is_plain(const char *p) {
        if (!*p || strlen(p) >= PATH_MAX)
                return false;
        while (*p) {
                size_t n = strcspn(p, "/");

                if (n == 0 || n > NAME_MAX || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
                        return false;
                p += n;
                if (*p == '/' && !*++p)
                        return false;
        }
        return true;
}

bool spec_path_is_absolute(const char *path) {
        return path[0] == '/' && spec_path_is_plain(path + 1);
}

bool spec_path_is_relative(const char *path) {
        return path[0] != '/' && spec_path_is_plain(path);
}

bool spec_path_is_within(const char *path, const char *dir) {
        size_t n = strlen(dir);

        return strncmp(path, dir, n) == 0 && (path[n] == 0 || path[n] == '/');
}

/* "NAME=value" with a name that a shell could use. */
static bool spec_is_assignment(const char *s) {
        size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_");

        return n > 0 && s[n] == '=' && (s[0] < '0' || s[0] > '9');
}

/* u32 mode, path, NUL, content. */
static int spec_add_file(Spec *spec, const uint8_t *data, size_t n) {
        _cleanup_free_ char *path = NULL;
        _cleanup_free_ uint8_t *content = NULL;
        SpecFile *files;
        const uint8_t *nul;
        uint32_t mode;
        size_t n_content;

        if (n < 5 || !launch_u32(data, 4, &mode) || (mode & ~0777u))
                return SPEC_E_INVALID;
        nul = memchr(data + 4, 0, n - 4);
        if (!nul || !spec_path_is_relative((const char *)data + 4))
                return SPEC_E_INVALID;
        n_content = n - (size_t)(nul + 1 - data);
        path = strdup((const char *)data + 4);
        content = malloc(n_content + 1);
        files = path && content ? realloc(spec->files, (spec->n_files + 1) * sizeof(*files)) : NULL;
        if (!files)
                return error_origin(-ENOMEM);
        spec->files = files;
        memcpy(content, nul + 1, n_content);
        files[spec->n_files++] = (SpecFile){
                .path = steal_ptr(&path), .mode = (mode_t)mode, .content = steal_ptr(&content), .n = n_content,
        };
        return 0;
}

static int spec_set_str(char **s, const uint8_t *data, size_t n) {
        char *copy;

        if (*s || !launch_str(data, n, &copy))
                return SPEC_E_INVALID;
        if (!copy)
                return error_origin(-ENOMEM);
        *s = copy;
        return 0;
}

static int spec_add_str(StrList *l, const uint8_t *data, size_t n) {
        _cleanup_free_ char *copy = NULL;
        int r;

        if (!launch_str(data, n, &copy))
                return SPEC_E_INVALID;
        if (!copy)
                return error_origin(-ENOMEM);
        r = str_list_add_take(l, copy);
        if (r)
                return error_trace(r);
        copy = NULL;
        return 0;
}

static int spec_set_u32(uint32_t *v, const uint8_t *data, size_t n) {
        return launch_u32(data, n, v) ? 0 : SPEC_E_INVALID;
}

static int spec_add_gpu(Spec *spec, const uint8_t *data, size_t n) {
        uint32_t index;

        if (!launch_u32(data, n, &index))
                return SPEC_E_INVALID;
        for (size_t i = 0; i < spec->n_gpus; i++)
                if (spec->gpus[i] == index)
                        return 0;
        if (spec->n_gpus == ELEMENTSOF(spec->gpus))
                return SPEC_E_INVALID;
        spec->gpus[spec->n_gpus++] = index;
        return 0;
}

static int spec_add(Spec *spec, LaunchAttr attr, const uint8_t *data, size_t n) {
        uint32_t v;
        int r;

        switch (attr) {
        case LAUNCH_ATTR_ATTEMPT:
                return launch_id(data, n, &spec->attempt) ? 0 : SPEC_E_INVALID;
        case LAUNCH_ATTR_TASK:
                return launch_id(data, n, &spec->task) ? 0 : SPEC_E_INVALID;
        case LAUNCH_ATTR_AGENT:
                return spec_set_str(&spec->agent, data, n);
        case LAUNCH_ATTR_ARGV:
                return spec_add_str(&spec->argv, data, n);
        case LAUNCH_ATTR_ENV:
                return spec_add_str(&spec->environment, data, n);
        case LAUNCH_ATTR_ENV_CREDENTIAL:
                return spec_add_str(&spec->credentials, data, n);
        case LAUNCH_ATTR_UID:
                r = spec_set_u32(&v, data, n);
                if (r == 0)
                        spec->uid = v;
                return r;
        case LAUNCH_ATTR_WORKSPACE:
                return spec_set_str(&spec->workspace, data, n);
        case LAUNCH_ATTR_READ_ONLY:
                return spec_add_str(&spec->read_only, data, n);
        case LAUNCH_ATTR_SECCOMP:
                return spec_set_str(&spec->seccomp, data, n);
        case LAUNCH_ATTR_MEMORY_MAX:
                return launch_u64(data, n, &spec->memory_max) ? 0 : SPEC_E_INVALID;
        case LAUNCH_ATTR_PIDS_MAX:
                return spec_set_u32(&spec->pids_max, data, n);
        case LAUNCH_ATTR_CPU_PERCENT:
                return spec_set_u32(&spec->cpu_percent, data, n);
        case LAUNCH_ATTR_REQUIRE:
                return spec_add_str(&spec->require, data, n);
        case LAUNCH_ATTR_HOME_FILE:
                return spec_add_file(spec, data, n);
        case LAUNCH_ATTR_GPU:
                return spec_add_gpu(spec, data, n);
        case LAUNCH_ATTR_NETWORK:
                r = spec_set_u32(&v, data, n);
                if (r == 0)
                        spec->network = v != 0;
                return r;
        default:
                return 0;       /* a newer router's */
        }
}

static int spec_check(const Spec *spec, Failure *f) {
        if (spec->argv.n == 0 || !spec_path_is_absolute(spec->argv.items[0]))
                return failure_set(f, "spec", EINVAL, "argv[0] must be an absolute path without '..'");
        if (!spec->agent || !parse_name(spec->agent, SPEC_AGENT_MAX))
                return failure_set(f, "spec", EINVAL, "the agent's name is missing or holds characters other than letters, digits, '.', '_' and '-'");
        if (spec->seccomp && !parse_name(spec->seccomp, SPEC_AGENT_MAX))
                return failure_set(f, "spec", EINVAL, "the seccomp profile's name is not a plain name");
        for (size_t i = 0; i < spec->environment.n; i++)
                if (!spec_is_assignment(spec->environment.items[i]))
                        return failure_set(f, "spec", EINVAL, "environment entry %zu is not NAME=value", i + 1);
        for (size_t i = 0; i < spec->credentials.n; i++) {
                const char *s = spec->credentials.items[i];

                if (!spec_is_assignment(s) || !parse_name(strchr(s, '=') + 1, NAME_MAX))
                        return failure_set(f, "credential", EINVAL, "credential entry %zu is not NAME=credential with a plain file name", i + 1);
        }
        if (spec->workspace && !spec_path_is_absolute(spec->workspace))
                return failure_set(f, "workspace", EINVAL, "the workspace %s is not an absolute path without '.', '..' and '//'", spec->workspace);
        for (size_t i = 0; i < spec->read_only.n; i++)
                if (!spec_path_is_absolute(spec->read_only.items[i]))
                        return failure_set(f, "read-only", EINVAL, "the read-only path %s is not an absolute path without '.', '..' and '//'",
                                           spec->read_only.items[i]);
        return 0;
}

int spec_read(LaunchReader *reader, Spec *ret_spec, Failure *failure) {
        Spec spec = { .uid = -1 };
        LaunchAttr attr, bad = 0;
        const uint8_t *data;
        size_t n;
        int r;

        while ((r = launch_next(reader, &attr, &data, &n)) == 0) {
                r = spec_add(&spec, attr, data, n);
                if (r < 0) {
                        spec_deinit(&spec);
                        return error_trace(r);
                }
                if (r > 0 && !bad)
                        bad = attr;
        }
        if (r != LAUNCH_E_END || id_is_null(&spec.attempt)) {
                spec_deinit(&spec);
                return SPEC_E_MALFORMED;
        }
        if (bad == LAUNCH_ATTR_HOME_FILE)
                (void)failure_set(failure, "home", EINVAL, "a file to seed the home with has a path that leaves it, or is malformed");
        else if (bad == LAUNCH_ATTR_GPU)
                (void)failure_set(failure, "gpu", EINVAL, "a GPU's index is malformed, or more than %d are asked for", LAUNCH_GPUS_MAX);
        else if (bad)
                (void)failure_set(failure, "spec", EINVAL, "attribute %d of SPAWN is malformed or given twice", (int)bad);
        else if (spec_check(&spec, failure) == 0) {
                *ret_spec = spec;
                return 0;
        }
        *ret_spec = spec;
        return SPEC_E_INVALID;
}

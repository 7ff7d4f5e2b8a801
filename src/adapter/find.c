#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

#include "adapter/internal.h"
#include "base/error.h"
#include "base/fd.h"

/*
 * Where an agent's executable is. Nothing is run to find out; files are looked at.
 *
 * A CLI that npm installs is a JavaScript wrapper that starts a native program and loses signals on the way, so where
 * the manifest names that program ("native", below some node_modules), the wrapper only leads to it: from its real
 * place upwards, as Node itself would look, and from a bin directory to the lib/node_modules beside it.
 *
 * What of the installation lies outside the directories that every sandbox shows is the `install` path: the native
 * program's package, a script's outermost node_modules, or else the one file.
 */

/* A person's nvm has a handful of versions. */
#define NVM_VERSIONS_MAX 64

typedef struct Search {
        Adapter *a;
        bool found;
} Search;

static bool in_system_directory(const char *path) {
        static const char *const shown[] = { "/usr/", "/bin/", "/sbin/", "/lib/", "/lib64/" };

        for (size_t i = 0; i < ELEMENTSOF(shown); i++)
                if (str_starts(path, shown[i]))
                        return true;
        return false;
}

static bool is_executable(const char *path, int mode) {
        struct stat st;

        return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, mode) == 0;
}

static bool is_script(const char *path) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        char magic[2];

        return fd >= 0 && read(fd, magic, sizeof(magic)) == sizeof(magic) && memcmp(magic, "#!", 2) == 0;
}

static void cut_last_component(char *path) {
        char *slash = strrchr(path, '/');

        if (slash)
                *slash = 0;
}

/* The package of a path below node_modules: "@scope/name" or "name". */
static size_t package_length(const char *native) {
        size_t n = strcspn(native, "/");

        if (native[0] == '@' && native[n])
                n += 1 + strcspn(native + n + 1, "/");
        return n;
}

static int set(char **place, const char *value) {
        char *copy = strdup(value);

        if (!copy)
                return error_origin(-ENOMEM);
        free(*place);
        *place = copy;
        return 0;
}

/* Takes modules/NATIVE if it is there. */
static int try_native(Search *s, const char *modules) {
        char path[PATH_MAX], real[PATH_MAX];
        size_t n;
        int r;

        if ((size_t)snprintf(path, sizeof(path), "%s/%s", modules, s->a->native) >= sizeof(path) ||
            !is_executable(path, X_OK) || !realpath(path, real))
                return 0;
        r = set(&s->a->executable, real);
        if (r)
                return error_trace(r);
        n = strlen(modules) + 1 + package_length(s->a->native);
        path[n] = 0;
        r = set(&s->a->install, in_system_directory(real) || !realpath(path, real) ? "" : real);
        if (r)
                return error_trace(r);
        s->found = true;
        return 0;
}

/* A node_modules directory: hoisted, or inside the wrapper's package as global installs have it. */
static int try_modules(Search *s, const char *modules) {
        char path[PATH_MAX];
        int r;

        r = try_native(s, modules);
        if (r || s->found || !s->a->package)
                return r;
        if ((size_t)snprintf(path, sizeof(path), "%s/%s/node_modules", modules, s->a->package) >= sizeof(path))
                return 0;
        return try_native(s, path);
}

/* From a wrapper to the native program. */
static int follow_wrapper(Search *s, const char *path, const char *real) {
        char at[PATH_MAX], modules[PATH_MAX];
        int r;

        snprintf(at, sizeof(at), "%s", real);
        for (cut_last_component(at); *at && !s->found; cut_last_component(at)) {
                const char *slash = strrchr(at, '/');
                if (slash && streq(slash, "/node_modules"))
                        r = try_modules(s, at);
                else if ((size_t)snprintf(modules, sizeof(modules), "%s/node_modules", at) < sizeof(modules))
                        r = try_modules(s, modules);
                else
                        r = 0;
                if (r)
                        return r;
        }
        if (s->found)
                return 0;
        /* bin/NAME beside lib/node_modules; node_modules/.bin/NAME where it is no link. */
        snprintf(at, sizeof(at), "%s", path);
        cut_last_component(at);
        cut_last_component(at);
        if ((size_t)snprintf(modules, sizeof(modules), "%s/lib/node_modules", at) < sizeof(modules)) {
                r = try_modules(s, modules);
                if (r || s->found)
                        return r;
        }
        return *at ? try_modules(s, at) : 0;
}

static int find_interpreter(Search *s, const char *beside);

static int try_script(Search *s, const char *path, const char *real) {
        const char *modules = strstr(real, "/node_modules/");
        char install[PATH_MAX];
        int r;

        r = find_interpreter(s, path);
        if (r || !s->a->interpreter_path)
                return r;
        r = set(&s->a->executable, real);
        if (r)
                return r;
        snprintf(install, sizeof(install), "%.*s",
                 modules ? (int)(modules - real) + (int)strlen("/node_modules") : INT_MAX, real);
        r = set(&s->a->install, in_system_directory(real) ? "" : install);
        if (r)
                return r;
        s->found = true;
        return 0;
}

static int try_path(Search *s, const char *path) {
        Adapter *a = s->a;
        char real[PATH_MAX];
        int r;

        if (!is_executable(path, a->interpreter ? R_OK : X_OK) || !realpath(path, real))
                return 0;
        if (a->native && (strstr(real, "/node_modules/") || is_script(real))) {
                /* A wrapper whose native package is missing is an installation that failed half-way. */
                return follow_wrapper(s, path, real);
        }
        if (a->interpreter && is_script(real))
                return try_script(s, path, real);
        /* The name by which a program is called may matter to it: a link is kept where the sandbox shows both ends. */
        r = set(&a->executable, in_system_directory(path) && in_system_directory(real) ? path : real);
        if (r)
                return error_trace(r);
        r = set(&a->install, in_system_directory(real) ? "" : real);
        if (r)
                return error_trace(r);
        s->found = true;
        return 0;
}

static int try_directory(Search *s, const char *directory) {
        char path[PATH_MAX];
        int r;

        for (char **name = s->a->find; *name && !s->found; name++) {
                if ((*name)[0] == '/' ||
                    (size_t)snprintf(path, sizeof(path), "%s/%s", directory, *name) >= sizeof(path))
                        continue;
                r = try_path(s, path);
                if (r)
                        return r;
        }
        return 0;
}

/* Calls fn for each absolute directory of PATH until it fails or finds. */
static int for_each_in_path(Search *s, int (*fn)(Search *s, const char *directory)) {
        const char *at = getenv("PATH");
        char directory[PATH_MAX];
        int r = 0;

        while (at && *at && !r && !s->found) {
                size_t n = strcspn(at, ":");
                if (n > 1 && n < sizeof(directory) && at[0] == '/') {
                        memcpy(directory, at, n);
                        directory[n] = 0;
                        r = fn(s, directory);
                }
                at += n + (at[n] == ':');
        }
        return r;
}

static int interpreter_in(Search *s, const char *directory) {
        char path[PATH_MAX], real[PATH_MAX];

        if (s->a->interpreter_path ||
            (size_t)snprintf(path, sizeof(path), "%s/%s", directory, s->a->interpreter) >= sizeof(path) ||
            !is_executable(path, X_OK) || !realpath(path, real))
                return 0;
        return set(&s->a->interpreter_path, in_system_directory(path) && in_system_directory(real) ? path : real);
}

/* The one beside the script first: an nvm directory holds the version that its packages were installed for. */
static int find_interpreter(Search *s, const char *beside) {
        static const char *const directories[] = { "/usr/local/bin", "/usr/bin", "/bin" };
        char directory[PATH_MAX];
        int r;

        snprintf(directory, sizeof(directory), "%s", beside);
        cut_last_component(directory);
        r = interpreter_in(s, directory) ?: for_each_in_path(s, interpreter_in);
        for (size_t i = 0; !r && i < ELEMENTSOF(directories); i++)
                r = interpreter_in(s, directories[i]);
        return r;
}

static int compare_versions(const void *a, const void *b) {
        return strverscmp(*(char *const *)b, *(char *const *)a); /* newest first */
}

static int try_nvm(Search *s, const char *home) {
        char directory[PATH_MAX], versions[PATH_MAX];
        char *names[NVM_VERSIONS_MAX];
        size_t n = 0;
        struct dirent *entry;
        DIR *dir;
        int r = 0;

        if ((size_t)snprintf(versions, sizeof(versions), "%s/.nvm/versions/node", home) >= sizeof(versions))
                return 0;
        dir = opendir(versions);
        if (!dir)
                return 0;
        while (n < NVM_VERSIONS_MAX && (entry = readdir(dir)))
                if (entry->d_name[0] != '.') {
                        names[n] = strdup(entry->d_name);
                        if (!names[n]) {
                                r = error_origin(-ENOMEM);
                                break;
                        }
                        n++;
                }
        closedir(dir);
        qsort(names, n, sizeof(*names), compare_versions);
        for (size_t i = 0; i < n; i++) {
                if (!r && !s->found &&
                    (size_t)snprintf(directory, sizeof(directory), "%s/%s/bin", versions, names[i]) < sizeof(directory))
                        r = try_directory(s, directory);
                free(names[i]);
        }
        return r;
}

static int search(Search *s) {
        static const char *const modules[] = { "/usr/local/lib/node_modules", "/usr/lib/node_modules" };
        Adapter *a = s->a;
        const char *home = getenv("HOME");
        char directory[PATH_MAX];
        int r = 0;

        /* A configured path is the one: nothing else is tried in its place. */
        if (a->path)
                return try_path(s, a->path);
        for (char **d = a->search; !r && !s->found && d && *d; d++)
                r = try_directory(s, *d);
        for (char **name = a->find; !r && !s->found && *name; name++)
                if ((*name)[0] == '/')
                        r = try_path(s, *name);
        if (!r && !s->found)
                r = for_each_in_path(s, try_directory);
        if (!r && !s->found)
                r = try_directory(s, "/usr/local/bin");
        for (size_t i = 0; !r && !s->found && a->native && i < ELEMENTSOF(modules); i++)
                r = try_modules(s, modules[i]);
        if (r || s->found || !home || home[0] != '/')
                return r;
        if ((size_t)snprintf(directory, sizeof(directory), "%s/.local/bin", home) < sizeof(directory))
                r = try_directory(s, directory);
        if (!r && !s->found)
                r = try_nvm(s, home);
        return r;
}

int adapter_probe(Adapter *a) {
        Search s = { .a = a };
        int r;

        free(steal_ptr(&a->executable));
        free(steal_ptr(&a->interpreter_path));
        free(steal_ptr(&a->install));
        for (size_t i = 0; i < a->n_settings; i++)
                if (a->settings[i].required && !*a->settings[i].value)
                        return ADAPTER_E_NOT_INSTALLED;
        r = search(&s);
        if (r)
                return error_trace(r);
        return s.found ? 0 : ADAPTER_E_NOT_INSTALLED;
}

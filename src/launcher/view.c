#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/fd.h"
#include "launcher/spec.h"
#include "launcher/view.h"

static int view_add_entry(View *v, const char *name) {
        char path[16];
        struct stat st;
        ssize_t n;

        snprintf(path, sizeof(path), "/%s", name);
        if (lstat(path, &st) < 0)
                return errno == ENOENT ? 0 : error_origin(-errno);
        v->entries[v->n_entries].name = name;
        v->entries[v->n_entries].target[0] = 0;
        if (S_ISLNK(st.st_mode)) {
                n = readlink(path, v->entries[v->n_entries].target, sizeof(v->entries[0].target) - 1);
                if (n < 0)
                        return error_origin(-errno);
                v->entries[v->n_entries].target[n] = 0;
        } else if (!S_ISDIR(st.st_mode))
                return 0;
        v->n_entries++;
        return 0;
}

int view_init(View *v, const char *runtime_dir) {
        static const char *const names[] = { "usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32" };
        _cleanup_close_ int fd = -1;
        int r;

        _Static_assert(ELEMENTSOF(names) <= VIEW_ENTRIES_MAX, "a place for each entry");
        if (asprintf(&v->runtime_path, "%s/sandbox", runtime_dir) < 0) {
                v->runtime_path = NULL;
                return error_origin(-ENOMEM);
        }
        if (mkdir(v->runtime_path, 0700) < 0 && errno != EEXIST)
                return error_origin(-errno);
        fd = open(v->runtime_path, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0 || (mkdirat(fd, "root", 0755) < 0 && errno != EEXIST))
                return error_origin(-errno);
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                r = view_add_entry(v, names[i]);
                if (r)
                        return error_trace(r);
        }
        return error_trace(etc_init(&v->etc, fd));
}

void view_deinit(View *v) {
        free(v->runtime_path);
        v->runtime_path = NULL;
        etc_deinit(&v->etc);
        str_list_deinit(&v->protected);
}

int view_protect(View *v, const char *path) {
        _cleanup_free_ char *real = realpath(path, NULL);

        if (real && !streq(real, path)) {
                int r = str_list_add(&v->protected, real);

                if (r)
                        return error_trace(r);
        }
        return error_trace(str_list_add(&v->protected, path));
}

const char *view_protects(const View *v, const char *path) {
        for (size_t i = 0; i < v->protected.n; i++) {
                const char *p = v->protected.items[i];

                if (streq(path, "/") || spec_path_is_within(path, p) || spec_path_is_within(p, path))
                        return p;
        }
        return NULL;
}

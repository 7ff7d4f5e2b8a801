/*
 * replay: runs a fuzz target over files, where libFuzzer is not linked.
 *
 *     fuzz-NAME FILE|DIRECTORY...
 *
 * Prints TAP; a property that does not hold aborts, after the name of the file was printed.
 */

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/macro.h"
#include "fuzz.h"

#define INPUT_MAX MIB(1)

static int replay_file(int dir_fd, const char *path) {
        _cleanup_close_ int fd = -1;
        _cleanup_free_ uint8_t *data = NULL, *exact = NULL;
        size_t n = 0;
        ssize_t k;

        printf("# %s\n", path);
        fflush(stdout);
        fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return error_origin(-errno);
        data = malloc(INPUT_MAX);
        if (!data)
                return error_origin(-ENOMEM);
        do {
                k = read(fd, data + n, INPUT_MAX - n);
                if (k < 0)
                        return error_origin(-errno);
                n += (size_t)k;
        } while (k > 0);

        /* Of exactly its size, for the sanitizer; an empty input is not NULL. */
        exact = malloc(n ? n : 1);
        if (!exact)
                return error_origin(-ENOMEM);
        memcpy(exact, data, n);
        (void)LLVMFuzzerTestOneInput(exact, n);
        return 0;
}

static int visible(const struct dirent *entry) {
        return entry->d_name[0] != '.';
}

static int replay_directory(const char *path, unsigned *n_files) {
        _cleanup_close_ int fd = -1;
        struct dirent **entries = NULL;
        int n, r = 0;

        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return error_origin(-errno);
        n = scandirat(fd, ".", &entries, visible, alphasort);
        if (n < 0)
                return error_origin(-errno);
        for (int i = 0; i < n; i++) {
                if (r == 0)
                        r = replay_file(fd, entries[i]->d_name);
                free(entries[i]);
        }
        free(entries);
        *n_files += (unsigned)n;
        return error_trace(r);
}

int main(int argc, char **argv) {
        unsigned n_failed = 0;

        printf("1..%d\n", argc - 1);
        for (int i = 1; i < argc; i++) {
                unsigned n_files = 0;
                struct stat st;
                int r;

                if (stat(argv[i], &st) < 0)
                        r = -errno;
                else if (S_ISDIR(st.st_mode))
                        r = replay_directory(argv[i], &n_files);
                else
                        r = replay_file(AT_FDCWD, argv[i]);
                if (r == 0 && S_ISDIR(st.st_mode) && n_files == 0)
                        r = -ENOENT;
                printf("%sok %d - %s, %u inputs%s%s\n", r ? "not " : "", i, argv[i], n_files, r ? ": " : "",
                       r ? strerror(-r) : "");
                n_failed += r != 0;
        }
        return n_failed > 0;
}

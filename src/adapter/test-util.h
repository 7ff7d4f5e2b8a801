#pragma once

/* What this layer's tests share: loading manifests from text and from the tree, and recorded events. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "adapter/internal.h"
#include "base/fd.h"

static inline const char *source_path(char path[static 4096], const char *below) {
        const char *root = getenv("AR_SOURCE_ROOT");

        assert_non_null(root);
        snprintf(path, 4096, "%s/%s", root, below);
        return path;
}

static inline Adapter *load_shipped(const char *below, const AdapterConfig *config) {
        char path[4096], error[YAML_ERROR_MAX] = "";
        Adapter *a = NULL;
        int r = adapter_load(&a, AT_FDCWD, source_path(path, below), config, error);

        if (r)
                fail_msg("%s: %d: %s", below, r, error);
        return a;
}

/* Loads text as a file named agent.yaml. */
static inline int load_text(const char *text, const AdapterConfig *config, Adapter **ret_a,
                            char error[static YAML_ERROR_MAX]) {
        char directory[] = "/tmp/test-adapter-XXXXXX";
        _cleanup_close_ int dir_fd = -1, fd = -1;
        int r;

        assert_non_null(mkdtemp(directory));
        dir_fd = open(directory, O_DIRECTORY | O_CLOEXEC);
        assert_true(dir_fd >= 0);
        fd = openat(dir_fd, "agent.yaml", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
        r = adapter_load(ret_a, dir_fd, "agent.yaml", config, error);
        assert_int_equal(unlinkat(dir_fd, "agent.yaml", 0), 0);
        assert_int_equal(rmdir(directory), 0);
        return r;
}

static inline Adapter *load_good(const char *text, const AdapterConfig *config) {
        char error[YAML_ERROR_MAX] = "";
        Adapter *a = NULL;
        int r = load_text(text, config, &a, error);

        if (r)
                fail_msg("%d: %s", r, error);
        return a;
}

/* Finding GPUs in a /dev made here and by libraries that stand in for NVML, and what their holders are given. */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "launcher/gpu.h"
#include "launcher/nvml.h"

#define PATIENCE_US (60 * USEC_PER_SEC)         /* a busy machine, and sanitizers */

static char directory[] = "/tmp/test-gpu-XXXXXX";
static const char *libraries;                   /* the folder of test-nvml-library.c's builds */

/* A link to a character device is one. */
static void put_node(const char *name) {
        char path[128];

        snprintf(path, sizeof(path), "%s/%s", directory, name);
        assert_int_equal(symlink("/dev/null", path), 0);
}

static int setup(void **state) {
        static const char *const nodes[] = { "nvidia10", "nvidia0", "nvidia2", "nvidiactl", "nvidia-uvm", "nvidia", "nvidia1x", "nvidia-1" };
        char path[128];
        int fd;

        assert_non_null(mkdtemp(directory));
        for (size_t i = 0; i < ELEMENTSOF(nodes); i++)
                put_node(nodes[i]);
        /* Plain files and folders of that name are none. */
        snprintf(path, sizeof(path), "%s/nvidia1", directory);
        fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        close(fd);
        snprintf(path, sizeof(path), "%s/nvidia5", directory);
        return mkdir(path, 0700);
}

static int teardown(void **state) {
        static const char *const names[] = {
                "nvidia10", "nvidia0", "nvidia2", "nvidiactl", "nvidia-uvm", "nvidia", "nvidia1x", "nvidia-1", "nvidia1",
        };
        char path[128];

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                snprintf(path, sizeof(path), "%s/%s", directory, names[i]);
                unlink(path);
        }
        snprintf(path, sizeof(path), "%s/nvidia5", directory);
        return rmdir(path) ?: rmdir(directory);
}

static void test_discovery(void **state) {
        static const int minors[] = { 0, 2, 10 };
        char path[128];
        Gpus g = {};

        assert_int_equal(gpus_discover(&g, directory), 0);
        assert_int_equal(g.n, 3);
        for (size_t i = 0; i < g.n; i++) {
                assert_int_equal(g.items[i].info.index, i);
                assert_int_equal(g.items[i].info.shares, 1);
                assert_int_equal(g.items[i].minor, minors[i]);
                snprintf(path, sizeof(path), "%s/nvidia%d", directory, minors[i]);
                assert_int_equal(g.items[i].devices.n, 1);
                assert_string_equal(g.items[i].devices.items[0], path);
        }
        assert_string_equal(g.items[2].info.name, "NVIDIA GPU 10");
        gpus_deinit(&g);
        /* No folder, no GPU. */
        assert_int_equal(gpus_discover(&g, "/nonexistent/dev"), 0);
        assert_int_equal(g.n, 0);
}

static const char *library(const char *name) {
        static char path[512];

        snprintf(path, sizeof(path), "%s/libfake-nvml-%s.so", libraries, name);
        assert_int_equal(access(path, R_OK), 0);
        return path;
}

static int query(const char *name, uint64_t timeout_us, NvmlGpu *gpus, size_t *ret_n, char *text) {
        int r = nvml_query(library(name), timeout_us, gpus, ret_n, text);

        /* Nothing is left of the child. */
        assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
        assert_int_equal(errno, ECHILD);
        return r;
}

static void test_nvml(void **state) {
        NvmlGpu gpus[LAUNCH_GPUS_MAX];
        char text[NVML_TEXT_MAX];
        size_t n = 0;

        assert_int_equal(query("good", PATIENCE_US, gpus, &n, text), 0);
        assert_int_equal(n, 2);
        assert_int_equal(gpus[0].minor, 1);
        assert_string_equal(gpus[0].uuid, "GPU-0000-aaaa");
        assert_string_equal(gpus[0].name, "NVIDIA Fake A");
        assert_int_equal(gpus[0].memory, UINT64_C(24) << 30);
        assert_int_equal(gpus[1].minor, 0);
        assert_string_equal(gpus[1].uuid, "GPU-1000-aaaa");
}

static void test_nvml_fails(void **state) {
        static const struct {
                const char *name, *text;
                size_t n;
        } table[] = {
                { "old", "too old, it lacks nvmlDeviceGetUUID", 0 },
                { "no-driver", "no access to the driver (nvmlReturn_t 9)", 0 },
                { "crash", "crashed", 1 },              /* what it said before counts */
                { "crash-at-load", "crashed", 0 },
                { "noise", "spoiled", 0 },
        };
        NvmlGpu gpus[LAUNCH_GPUS_MAX];
        char text[NVML_TEXT_MAX];
        size_t n;

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                n = 9;
                if (query(table[i].name, PATIENCE_US, gpus, &n, text) != NVML_E_FAILED)
                        fail_msg("%s did not fail", table[i].name);
                if (!strstr(text, table[i].text))
                        fail_msg("%s: <%s>", table[i].name, text);
                assert_int_equal(n, table[i].n);
        }
        assert_int_equal(nvml_query("libnone-of-this-name.so.1", PATIENCE_US, gpus, &n, text), NVML_E_FAILED);
        assert_non_null(strstr(text, "libnone-of-this-name.so.1"));
}

static void test_nvml_hangs(void **state) {
        uint64_t start_us = clock_monotonic_us();
        NvmlGpu gpus[LAUNCH_GPUS_MAX];
        char text[NVML_TEXT_MAX];
        size_t n = 9;

        assert_int_equal(query("hang", 100 * USEC_PER_MSEC, gpus, &n, text), NVML_E_FAILED);
        assert_non_null(strstr(text, "in time"));
        assert_int_equal(n, 0);
        assert_in_range(clock_monotonic_us() - start_us, 100 * USEC_PER_MSEC, PATIENCE_US);
}

/* By minor number, and nothing over what a person wrote. */
static void test_identify(void **state) {
        Gpus g = {};
        Gpu *gpu;

        assert_int_equal(gpus_discover(&g, directory), 0);
        assert_int_equal(gpus_add(&g, "mine", &gpu), 0);
        assert_int_equal(gpu_add_device(gpu, "/dev/nvidia1"), 0);
        gpu->named = true;
        gpu->info.memory = 7;
        gpus_identify(&g, library("good"), PATIENCE_US);
        assert_int_equal(g.n, 4);
        assert_string_equal(g.items[0].info.name, "NVIDIA Fake B");
        assert_string_equal(g.items[0].info.uuid, "GPU-1000-aaaa");
        assert_int_equal(g.items[0].info.memory, UINT64_C(80) << 30);
        assert_string_equal(g.items[1].info.uuid, "");          /* minor 2, which NVML does not know */
        assert_string_equal(g.items[3].info.name, "mine");
        assert_string_equal(g.items[3].info.uuid, "GPU-0000-aaaa");
        assert_int_equal(g.items[3].info.memory, 7);
        gpus_deinit(&g);
        /* What is not known stays unknown. */
        assert_int_equal(gpus_discover(&g, directory), 0);
        gpus_identify(&g, library("partial"), PATIENCE_US);
        assert_string_equal(g.items[0].info.name, "NVIDIA Fake B");
        assert_string_equal(g.items[0].info.uuid, "");
        assert_int_equal(g.items[0].info.memory, 0);
        gpus_deinit(&g);
        /* Nonsense is not believed. */
        assert_int_equal(gpus_discover(&g, directory), 0);
        gpus_identify(&g, library("garbage"), PATIENCE_US);
        assert_string_equal(g.items[0].info.name, "NVIDIA GPU 0");
        assert_string_equal(g.items[0].info.uuid, "");
        gpus_deinit(&g);
}

/* Where nothing is to be learned, a library that crashes is not even loaded. */
static void test_identify_needless(void **state) {
        Gpus g = {};
        Gpu *gpu;

        assert_int_equal(gpus_add(&g, "other vendor's", &gpu), 0);
        assert_int_equal(gpu_add_device(gpu, "/dev/dri/renderD128"), 0);
        assert_int_equal(gpu->minor, -1);
        gpus_identify(&g, "/nonexistent/library", 0);
        assert_string_equal(g.items[0].info.uuid, "");
        gpus_deinit(&g);
}

static void add(Gpus *g, const char *name, const char *uuid, const char *device, const char *second) {
        Gpu *gpu;

        assert_int_equal(gpus_add(g, name, &gpu), 0);
        snprintf(gpu->info.uuid, sizeof(gpu->info.uuid), "%s", uuid);
        assert_int_equal(gpu_add_device(gpu, device), 0);
        if (second)
                assert_int_equal(gpu_add_device(gpu, second), 0);
}

static void expect_list(const StrList *l, const char *wanted) {
        char text[512] = "";

        for (size_t i = 0; i < l->n; i++)
                snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s ", l->items[i]);
        assert_string_equal(text, wanted);
        if (l->items)
                assert_null(l->items[l->n]);
}

static void test_holders(void **state) {
        static const uint32_t all[] = { 2, 0, 1 };
        StrList devices = {}, environment = {};
        char wanted[256];
        Gpus g = {};

        add(&g, "a", "GPU-a", "/dev/nvidia0", NULL);
        add(&g, "b", "", "/dev/dri/card1", "/dev/kfd");
        add(&g, "c", "", "/dev/dri/card2", "/dev/kfd");
        assert_int_equal(gpus_list_devices(&g, NULL, 0, directory, &devices), 0);
        assert_int_equal(devices.n, 0);
        /* The driver's control nodes that are there, beside its GPUs only; a node that two share comes once. */
        assert_int_equal(gpus_list_devices(&g, all, 3, directory, &devices), 0);
        snprintf(wanted, sizeof(wanted), "/dev/dri/card2 /dev/kfd /dev/nvidia0 /dev/dri/card1 %s/nvidiactl %s/nvidia-uvm ", directory, directory);
        expect_list(&devices, wanted);
        str_list_deinit(&devices);
        assert_int_equal(gpus_list_devices(&g, all, 1, directory, &devices), 0);
        expect_list(&devices, "/dev/dri/card2 /dev/kfd ");
        str_list_deinit(&devices);

        assert_int_equal(str_list_add(&environment, "CUDA_VISIBLE_DEVICES=7"), 0);
        assert_int_equal(str_list_add(&environment, "A=b"), 0);
        assert_int_equal(str_list_add(&environment, "CUDA_VISIBLE_DEVICES_X=1"), 0);
        assert_int_equal(str_list_add(&environment, "NVIDIA_VISIBLE_DEVICES=all"), 0);
        assert_int_equal(str_list_add(&environment, "CUDA_VISIBLE_DEVICES="), 0);
        assert_int_equal(gpus_set_environment(&g, all, 3, &environment), 0);
        expect_list(&environment, "A=b CUDA_VISIBLE_DEVICES_X=1 CUDA_VISIBLE_DEVICES=2,GPU-a,1 NVIDIA_VISIBLE_DEVICES=2,GPU-a,1 ");
        assert_int_equal(gpus_set_environment(&g, NULL, 0, &environment), 0);
        expect_list(&environment, "A=b CUDA_VISIBLE_DEVICES_X=1 CUDA_VISIBLE_DEVICES= NVIDIA_VISIBLE_DEVICES= ");
        str_list_deinit(&environment);
        gpus_deinit(&g);
        /* A machine without any leaves it alone. */
        assert_int_equal(str_list_add(&environment, "CUDA_VISIBLE_DEVICES=7"), 0);
        assert_int_equal(gpus_set_environment(&g, NULL, 0, &environment), 0);
        expect_list(&environment, "CUDA_VISIBLE_DEVICES=7 ");
        str_list_deinit(&environment);
}

/* The most that a task can hold fits. */
static void test_many(void **state) {
        uint32_t all[LAUNCH_GPUS_MAX];
        StrList environment = {};
        char uuid[LAUNCH_GPU_UUID_SIZE];
        Gpus g = {};

        memset(uuid, 'x', sizeof(uuid) - 1);
        uuid[sizeof(uuid) - 1] = 0;
        for (uint32_t i = 0; i < LAUNCH_GPUS_MAX; i++) {
                add(&g, "a", uuid, "/dev/kfd", NULL);
                all[i] = i;
        }
        assert_int_equal(gpus_set_environment(&g, all, LAUNCH_GPUS_MAX, &environment), 0);
        assert_int_equal(strlen(environment.items[0]), strlen("CUDA_VISIBLE_DEVICES=") + LAUNCH_GPUS_MAX * LAUNCH_GPU_UUID_SIZE - 1);
        str_list_deinit(&environment);
        gpus_deinit(&g);
}

static void test_check(void **state) {
        static const uint32_t indexes[] = { 0, 1 }, huge[] = { UINT32_MAX };
        Failure f = {};
        Gpus g = {};

        assert_int_equal(gpus_check(&g, NULL, 0, &f), 0);
        assert_int_equal(gpus_check(&g, indexes, 1, &f), -ENODEV);
        assert_string_equal(f.stage, "gpu");
        assert_non_null(strstr(f.text, "there is no GPU 0: this launcher has none"));
        add(&g, "a", "", "/dev/kfd", NULL);
        assert_int_equal(gpus_check(&g, indexes, 1, &f), 0);
        assert_int_equal(gpus_check(&g, indexes, 2, &f), -ENODEV);
        assert_non_null(strstr(f.text, "there is no GPU 1: this launcher has 1, the last is GPU 0"));
        assert_int_equal(gpus_check(&g, huge, 1, &f), -ENODEV);
        gpus_deinit(&g);
}

int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_discovery),
                cmocka_unit_test(test_nvml),
                cmocka_unit_test(test_nvml_fails),
                cmocka_unit_test(test_nvml_hangs),
                cmocka_unit_test(test_identify),
                cmocka_unit_test(test_identify_needless),
                cmocka_unit_test(test_holders),
                cmocka_unit_test(test_many),
                cmocka_unit_test(test_check),
        };

        if (argc != 2) {
                fprintf(stderr, "usage: test-launcher-gpu FOLDER-OF-LIBRARIES\n");
                return 2;
        }
        libraries = argv[1];
        return cmocka_run_group_tests(tests, setup, teardown);
}

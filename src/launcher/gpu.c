#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/parse.h"
#include "launcher/gpu.h"
#include "launcher/nvml.h"

#define GPU_NODE "nvidia"
#define GPU_UVM "nvidia-uvm"
/* Beside each /dev/nvidiaN. Some are made when the first program wants them, so they are looked for at each spawn. */
static const char *const gpu_control[] = { "nvidiactl", GPU_UVM, "nvidia-uvm-tools", "nvidia-modeset" };

void gpus_deinit(Gpus *g) {
        for (size_t i = 0; i < g->n; i++)
                str_list_deinit(&g->items[i].devices);
        free(g->items);
        *g = (Gpus){};
}

int gpus_add(Gpus *g, const char *name, Gpu **ret_gpu) {
        Gpu *items = reallocarray(g->items, g->n + 1, sizeof(*items)), *gpu;

        if (!items)
                return error_origin(-ENOMEM);
        g->items = items;
        gpu = &items[g->n];
        *gpu = (Gpu){ .info = { .index = (uint32_t)g->n, .shares = 1 }, .minor = -1 };
        snprintf(gpu->info.name, sizeof(gpu->info.name), "%s", name);
        g->n++;
        *ret_gpu = gpu;
        return 0;
}

/* The N of "nvidiaN". */
static bool gpu_parse_node(const char *name, int64_t *ret_minor) {
        uint64_t minor;

        if (!str_starts(name, GPU_NODE) || !parse_u64_range(name + strlen(GPU_NODE), 0, UINT32_MAX, &minor))
                return false;
        *ret_minor = (int64_t)minor;
        return true;
}

int gpu_add_device(Gpu *gpu, const char *path) {
        const char *slash = strrchr(path, '/');
        int64_t minor;

        if (slash && gpu->minor < 0 && gpu_parse_node(slash + 1, &minor))
                gpu->minor = minor;
        return error_trace(str_list_add(&gpu->devices, path));
}

/* ---- discovery ---- */

static int gpu_compare_minors(const void *a, const void *b) {
        const int64_t *x = a, *y = b;

        return *x < *y ? -1 : *x > *y;
}

/* The minor numbers of the nodes, ascending. A container may hold plain files of these names: no GPU. */
static size_t gpu_scan(DIR *dir, int64_t minors[static LAUNCH_GPUS_MAX]) {
        struct dirent *entry;
        struct stat st;
        size_t n = 0;

        while (n < LAUNCH_GPUS_MAX && (entry = readdir(dir)))
                if (gpu_parse_node(entry->d_name, &minors[n]) && fstatat(dirfd(dir), entry->d_name, &st, 0) == 0 &&
                    S_ISCHR(st.st_mode))
                        n++;
        qsort(minors, n, sizeof(minors[0]), gpu_compare_minors);
        return n;
}

int gpus_discover(Gpus *g, const char *dev_dir) {
        DIR *dir = opendir(dev_dir);
        int64_t minors[LAUNCH_GPUS_MAX];
        char path[512], name[32];
        size_t n;
        Gpu *gpu;
        int r;

        if (!dir)
                return 0;
        n = gpu_scan(dir, minors);
        (void)closedir(dir);
        for (size_t i = 0; i < n && g->n < LAUNCH_GPUS_MAX; i++) {
                snprintf(path, sizeof(path), "%s/" GPU_NODE "%lld", dev_dir, (long long)minors[i]);
                snprintf(name, sizeof(name), "NVIDIA GPU %lld", (long long)minors[i]);
                r = gpus_add(g, name, &gpu);
                if (!r)
                        r = gpu_add_device(gpu, path);
                if (r)
                        return error_trace(r);
        }
        return 0;
}

static bool gpu_is_known(const Gpu *gpu) {
        return gpu->minor < 0 || (gpu->named && gpu->info.uuid[0] && gpu->info.memory);
}

static void gpu_learn(Gpu *gpu, const NvmlGpu *from) {
        if (!gpu->named && launch_gpu_name_is_valid(from->name))
                memcpy(gpu->info.name, from->name, sizeof(gpu->info.name));
        if (!gpu->info.uuid[0] && parse_name(from->uuid, sizeof(gpu->info.uuid) - 1))
                memcpy(gpu->info.uuid, from->uuid, sizeof(gpu->info.uuid));
        if (!gpu->info.memory)
                gpu->info.memory = from->memory;
}

void gpus_identify(Gpus *g, const char *library, uint64_t timeout_us) {
        NvmlGpu found[LAUNCH_GPUS_MAX];
        char text[NVML_TEXT_MAX];
        size_t n, i;
        int r;

        for (i = 0; i < g->n && gpu_is_known(&g->items[i]);)
                i++;
        if (i == g->n)
                return;
        r = nvml_query(library, timeout_us, found, &n, text);
        if (r)
                log_notice("NVML does not tell of every GPU: %s; an index takes the place of a uuid that is not known: "
                           "give uuid and memory under resources.gpus in agent-router.yaml",
                           r < 0 ? strerror(-r) : text);
        if (r < 0)
                return;
        for (i = 0; i < n; i++)
                for (size_t j = 0; j < g->n; j++)
                        if (g->items[j].minor == (int64_t)found[i].minor)
                                gpu_learn(&g->items[j], &found[i]);
}

void gpus_log(const Gpus *g, const char *dev_dir) {
        bool nvidia = false;
        char text[512];

        for (size_t i = 0; i < g->n; i++) {
                const LaunchGpu *info = &g->items[i].info;

                nvidia |= g->items[i].minor >= 0;
                log_info("GPU %u: %s, %s, memory %llu MiB%s, shares %u", info->index, info->name,
                         info->uuid[0] ? info->uuid : "uuid unknown", (unsigned long long)(info->memory >> 20),
                         info->memory ? "" : " (unknown)", info->shares);
        }
        snprintf(text, sizeof(text), "%s/" GPU_UVM, dev_dir);
        if (nvidia && access(text, F_OK) < 0)
                log_notice("%s is not there, and CUDA needs it: enable nvidia-persistenced.service, or run "
                           "nvidia-modprobe -c0 -u at boot", text);
}

/* ---- what a holder gets ---- */

int gpus_check(const Gpus *g, const uint32_t *indexes, size_t n, Failure *failure) {
        for (size_t i = 0; i < n; i++) {
                if (indexes[i] < g->n)
                        continue;
                if (g->n == 0)
                        return failure_set(failure, "gpu", ENODEV, "there is no GPU %u: this launcher has none; load the "
                                           "driver, or list GPUs under resources.gpus in agent-router.yaml, and restart "
                                           "agent-router-launcher", indexes[i]);
                return failure_set(failure, "gpu", ENODEV, "there is no GPU %u: this launcher has %zu, the last is GPU %zu; "
                                   "see resources.gpus in agent-router.yaml", indexes[i], g->n, g->n - 1);
        }
        return 0;
}

static int gpu_list_device(StrList *devices, const char *path) {
        for (size_t i = 0; i < devices->n; i++)
                if (streq(devices->items[i], path))
                        return 0;
        return error_trace(str_list_add(devices, path));
}

int gpus_list_devices(const Gpus *g, const uint32_t *indexes, size_t n, const char *dev_dir, StrList *devices) {
        bool nvidia = false;
        char path[512];
        int r = 0;

        for (size_t i = 0; i < n; i++) {
                const Gpu *gpu = &g->items[indexes[i]];

                nvidia |= gpu->minor >= 0;
                for (size_t j = 0; r == 0 && j < gpu->devices.n; j++)
                        r = gpu_list_device(devices, gpu->devices.items[j]);
        }
        for (size_t i = 0; r == 0 && nvidia && i < ELEMENTSOF(gpu_control); i++) {
                snprintf(path, sizeof(path), "%s/%s", dev_dir, gpu_control[i]);
                if (access(path, F_OK) == 0)
                        r = gpu_list_device(devices, path);
        }
        return error_trace(r);
}

int gpus_set_environment(const Gpus *g, const uint32_t *indexes, size_t n, StrList *environment) {
        static const char *const names[] = { "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES" };
        char value[LAUNCH_GPUS_MAX * (LAUNCH_GPU_UUID_SIZE + 1)] = "", *line;
        size_t at = 0;
        int r;

        if (g->n == 0)
                return 0;
        for (size_t i = 0; i < n; i++) {
                const LaunchGpu *info = &g->items[indexes[i]].info;

                if (info->uuid[0])
                        at += (size_t)snprintf(value + at, sizeof(value) - at, "%s%s", i ? "," : "", info->uuid);
                else
                        at += (size_t)snprintf(value + at, sizeof(value) - at, "%s%u", i ? "," : "", info->index);
        }
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                str_list_remove_variable(environment, names[i]);
                if (asprintf(&line, "%s=%s", names[i], value) < 0)
                        return error_origin(-ENOMEM);
                r = str_list_add_take(environment, line);
                if (r) {
                        free(line);
                        return error_trace(r);
                }
        }
        return 0;
}

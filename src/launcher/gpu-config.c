#include <stdio.h>

#include "base/error.h"
#include "base/parse.h"
#include "launcher/gpu.h"
#include "launcher/spec.h"

/*
 * resources.gpus of agent-router.yaml:
 *
 *     resources:
 *       gpus: auto                              # what is found; the default
 *       gpus: []                                # none
 *       gpus:                                   # these, in the order of their index, and nothing is looked for
 *         - { name: left, devices: [/dev/nvidia0], uuid: GPU-…, memory: 80G, shares: 2 }
 */

#define GPU_EXPECTED "expected auto, or a list of {name, devices, uuid, memory, shares}"

/* What every sandbox has of its own below /dev. */
static const char *const gpu_reserved[] = {
        "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/pts", "/dev/ptmx",
        "/dev/shm", "/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr",
};

static bool gpu_device_is_valid(const YamlNode *item) {
        if (item->kind != YAML_SCALAR || !spec_path_is_absolute(item->text) || !str_starts(item->text, GPU_DEV_DIR "/"))
                return false;
        for (size_t i = 0; i < ELEMENTSOF(gpu_reserved); i++)
                if (spec_path_is_within(item->text, gpu_reserved[i]))
                        return false;
        return true;
}

static int gpu_read_devices(YamlDocument *d, YamlNode *mapping, Gpu *gpu) {
        YamlNode *list;
        int r;

        if (!yaml_get_sequence(d, mapping, "devices", &list)) {
                yaml_fail(d, mapping, "resources.gpus: devices: is required; expected a list of device nodes, such as "
                          "[/dev/nvidia0]");
                return 0;
        }
        if (list->n == 0 || list->n > GPU_DEVICES_MAX)
                yaml_fail(d, list, "devices: %zu nodes; expected 1 to %d", list->n, GPU_DEVICES_MAX);
        for (size_t i = 0; i < list->n && !d->failed; i++) {
                YamlNode *item = list->items[i];

                if (!gpu_device_is_valid(item)) {
                        yaml_fail(d, item, "devices: expected a path below /dev without '.', '..' and '//', other than what "
                                  "every sandbox has (null, zero, tty, pts, shm and the like)");
                        break;
                }
                r = gpu_add_device(gpu, item->text);
                if (r)
                        return error_trace(r);
        }
        return 0;
}

static const YamlNode *gpu_read_name(YamlDocument *d, YamlNode *mapping, const Gpus *g, const char **ret_name) {
        YamlNode *node = yaml_get(d, mapping, "name");

        if (!yaml_get_str(d, mapping, "name", ret_name)) {
                yaml_fail(d, node ?: mapping, "resources.gpus: name: is required; expected a name for people to see");
                return NULL;
        }
        if (!launch_gpu_name_is_valid(*ret_name)) {
                yaml_fail(d, node, "name: expected 1 to %d printable bytes", LAUNCH_GPU_NAME_SIZE - 1);
                return NULL;
        }
        for (size_t i = 0; i < g->n; i++)
                if (streq(g->items[i].info.name, *ret_name)) {
                        yaml_fail(d, node, "name: \"%s\" is GPU %zu already; expected another name (one GPU for several tasks "
                                  "at once: shares)", *ret_name, i);
                        return NULL;
                }
        return node;
}

static int gpu_read(YamlDocument *d, YamlNode *mapping, Gpus *g) {
        const char *name, *uuid;
        uint64_t v;
        Gpu *gpu;
        int r;

        if (mapping->kind != YAML_MAPPING) {
                yaml_fail(d, mapping, "resources.gpus: " GPU_EXPECTED);
                return 0;
        }
        if (!gpu_read_name(d, mapping, g, &name))
                return 0;
        r = gpus_add(g, name, &gpu);
        if (r)
                return error_trace(r);
        gpu->named = true;
        r = gpu_read_devices(d, mapping, gpu);
        if (r)
                return error_trace(r);
        if (yaml_get_str(d, mapping, "uuid", &uuid)) {
                if (parse_name(uuid, sizeof(gpu->info.uuid) - 1))
                        snprintf(gpu->info.uuid, sizeof(gpu->info.uuid), "%s", uuid);
                else
                        yaml_fail(d, yaml_get(d, mapping, "uuid"), "uuid: expected GPU-… or MIG-…, as nvidia-smi -L prints it");
        }
        (void)yaml_get_size(d, mapping, "memory", &gpu->info.memory);
        if (yaml_get_u64(d, mapping, "shares", 1, LAUNCH_GPU_SHARES_MAX, &v))
                gpu->info.shares = (uint32_t)v;
        yaml_end(d, mapping);
        return 0;
}

static int gpus_read_list(YamlDocument *d, YamlNode *list, Gpus *g) {
        int r;

        if (list->n > LAUNCH_GPUS_MAX)
                yaml_fail(d, list, "gpus: %zu GPUs; expected at most %d", list->n, LAUNCH_GPUS_MAX);
        for (size_t i = 0; i < list->n && !d->failed; i++) {
                r = gpu_read(d, list->items[i], g);
                if (r)
                        return error_trace(r);
        }
        return 0;
}

int gpus_read_config(YamlDocument *d, YamlNode *root, Gpus *g, bool *ret_auto) {
        YamlNode *resources = NULL, *gpus;
        int r = 0;

        if (!yaml_get_mapping(d, root, "resources", &resources)) {
                *ret_auto = true;
                return 0;
        }
        gpus = yaml_get(d, resources, "gpus");
        if (!gpus || (gpus->kind == YAML_SCALAR && streq(gpus->text, "auto")))
                *ret_auto = true;
        else if (gpus->kind == YAML_SEQUENCE)
                r = gpus_read_list(d, gpus, g);
        else
                yaml_fail(d, gpus, "resources.gpus: " GPU_EXPECTED);
        /* The daemon's. */
        (void)yaml_get(d, resources, "cpus");
        (void)yaml_get(d, resources, "memory");
        yaml_end(d, resources);
        return error_trace(r);
}

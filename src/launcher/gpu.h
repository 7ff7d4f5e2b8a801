#pragma once

/*
 * gpu: the GPUs that tasks of this machine may hold, settled at start. Either the configuration lists them
 * (`resources.gpus` in agent-router.yaml), or they are found: a node /dev/nvidiaN is one. NVML, asked in a process of
 * its own (nvml.h), adds what only it knows: uuid, name and memory.
 *
 * A GPU's place in the list is its index, by which the router names it in a SPAWN. Who holds what is the router's to
 * count; here an attempt gets the device nodes of the GPUs that it names, and none of another.
 */

#include "base/launch.h"
#include "base/yaml.h"
#include "launcher/failure.h"
#include "launcher/strlist.h"

#define GPU_DEV_DIR "/dev"
/* Of one GPU: its node, render and card nodes, MIG's capabilities. */
#define GPU_DEVICES_MAX 16
/*
 * Eight GPUs without persistence mode take NVML several seconds to wake. The router waits no longer than ten for our
 * HELLO, and comes again.
 */
#define GPU_NVML_TIMEOUT_US (15 * USEC_PER_SEC)

typedef struct Gpu Gpu;
typedef struct Gpus Gpus;

struct Gpu {
        LaunchGpu info;
        StrList devices;        /* absolute paths below /dev */
        int64_t minor;          /* N of its /dev/nvidiaN; -1: it has none */
        bool named;             /* by a person: NVML's name does not replace it */
};

struct Gpus {
        Gpu *items;
        size_t n;
};

void gpus_deinit(Gpus *g);
/* Adds one without devices, valid until the next call. The caller sees to LAUNCH_GPUS_MAX. -ENOMEM. */
int gpus_add(Gpus *g, const char *name, Gpu **ret_gpu) _must_check_;
/* Adds a device to it; a node nvidiaN gives it its minor number. -ENOMEM. */
int gpu_add_device(Gpu *gpu, const char *path) _must_check_;

/*
 * Reads `resources.gpus` of a document's root; *ret_auto is set where it is "auto" or absent, and untouched otherwise.
 * What is wrong is recorded in the document. -ENOMEM.
 */
int gpus_read_config(YamlDocument *d, YamlNode *root, Gpus *g, bool *ret_auto) _must_check_;

/* Adds a GPU for each character device dev_dir/nvidiaN, by ascending N. No folder, no GPU. -ENOMEM. */
int gpus_discover(Gpus *g, const char *dev_dir) _must_check_;
/*
 * Asks NVML (a library's name or path) about those with a minor number, and fills in what they lack. Waits so long at
 * most. What NVML can't tell is logged once, and no failure.
 */
void gpus_identify(Gpus *g, const char *library, uint64_t timeout_us);

/* Says at the start what there is, and that /dev/nvidia-uvm is missing where it is. */
void gpus_log(const Gpus *g, const char *dev_dir);

/* Refuses an index that is not there, stage "gpu". */
int gpus_check(const Gpus *g, const uint32_t *indexes, size_t n, Failure *failure) _must_check_;
/*
 * The nodes that a holder of these checked indexes needs, each once: those of the GPUs, and beside a /dev/nvidiaN the
 * driver's control nodes as far as they are there now. -ENOMEM.
 */
int gpus_list_devices(const Gpus *g, const uint32_t *indexes, size_t n, const char *dev_dir,
                      StrList *devices) _must_check_;
/*
 * Sets CUDA_VISIBLE_DEVICES and NVIDIA_VISIBLE_DEVICES in place of what is there: a list of uuids, or of indexes where
 * the uuid is not known, and an empty one for a holder of none. Without any GPU on the machine nothing is touched.
 * -ENOMEM.
 */
int gpus_set_environment(const Gpus *g, const uint32_t *indexes, size_t n, StrList *environment) _must_check_;

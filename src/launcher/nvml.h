#pragma once

/*
 * nvml: NVIDIA's management library, asked once at start. It is the vendor's code, which may crash or wait for the
 * hardware, so it is loaded by a child that lives no longer than the question and reports by a pipe: neither its memory
 * nor its faults are ours. The declarations of the few functions that are called are our own; their C ABI is public
 * (NVML API Reference Guide).
 */

#include "base/launch.h"

#define NVML_LIBRARY "libnvidia-ml.so.1"
#define NVML_TEXT_MAX 256

typedef struct NvmlGpu NvmlGpu;

/* Strings are terminated, and what the library made of them: not checked further. */
struct NvmlGpu {
        uint32_t minor;         /* /dev/nvidiaN */
        uint64_t memory;        /* bytes; 0: unknown */
        char uuid[LAUNCH_GPU_UUID_SIZE];
        char name[LAUNCH_GPU_NAME_SIZE];
};

enum {
        _NVML_E_SUCCESS,
        NVML_E_FAILED,          /* ret_text says why: not there, too old, no driver, crashed, too slow */
};

/*
 * Asks the library (a name for dlopen(3), or a path) about every GPU, for so long at most. ret_gpus and *ret_n hold
 * what was learned also where the answer broke off (NVML_E_FAILED). -errno where there is no pipe or process.
 */
int nvml_query(const char *library, uint64_t timeout_us, NvmlGpu ret_gpus[static LAUNCH_GPUS_MAX], size_t *ret_n,
               char ret_text[static NVML_TEXT_MAX]) _must_check_;

/*
 * Stands in for NVIDIA's libnvidia-ml.so.1 in test-gpu.c: two GPUs, told in the order of the bus, which is not that of
 * their minor numbers. FAKE says how it goes wrong.
 */

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FAKE_GOOD 0
#define FAKE_OLD 1              /* a function is missing */
#define FAKE_NO_DRIVER 2
#define FAKE_PARTIAL 3          /* one GPU is lost, the other has neither uuid nor memory */
#define FAKE_CRASH 4            /* at the second GPU */
#define FAKE_CRASH_AT_LOAD 5
#define FAKE_HANG 6             /* and will not be asked to end */
#define FAKE_NOISE 7            /* writes to descriptors that are not its own */
#define FAKE_GARBAGE 8          /* strings without an end, and of no sense */

#define EXPORT __attribute__((__visibility__("default")))

static int *volatile nowhere;

EXPORT int nvmlInit_v2(void);
EXPORT int nvmlDeviceGetCount_v2(unsigned *count);
EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device);
EXPORT int nvmlDeviceGetMinorNumber(void *device, unsigned *minor);
EXPORT int nvmlDeviceGetUUID(void *device, char *uuid, unsigned size);
EXPORT int nvmlDeviceGetName(void *device, char *name, unsigned size);
EXPORT int nvmlDeviceGetMemoryInfo(void *device, unsigned long long memory[3]);

#if FAKE == FAKE_CRASH_AT_LOAD
__attribute__((__constructor__)) static void crash_at_load(void) {
        *nowhere = 1;
}
#endif

int nvmlInit_v2(void) {
        if (FAKE == FAKE_NO_DRIVER)
                return 9;       /* NVML_ERROR_DRIVER_NOT_LOADED */
        for (int fd = 3; FAKE == FAKE_NOISE && fd < 64; fd++)
                (void)!write(fd, "noise", 5);
        if (FAKE == FAKE_HANG)
                signal(SIGTERM, SIG_IGN);
        while (FAKE == FAKE_HANG)
                pause();
        return 0;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
        *count = 2;
        return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
        static int devices[2];

        if (FAKE == FAKE_PARTIAL && index == 0)
                return 15;      /* NVML_ERROR_GPU_IS_LOST */
        if (FAKE == FAKE_CRASH && index == 1)
                *nowhere = 1;
        devices[index] = (int)index;
        *device = &devices[index];
        return 0;
}

int nvmlDeviceGetMinorNumber(void *device, unsigned *minor) {
        *minor = *(int *)device ? 0 : 1;
        return 0;
}

#if FAKE != FAKE_OLD
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned size) {
        if (FAKE == FAKE_PARTIAL)
                return 3;       /* NVML_ERROR_NOT_SUPPORTED */
        if (FAKE == FAKE_GARBAGE)
                memset(uuid, ',', size);
        else
                snprintf(uuid, size, "GPU-%d000-aaaa", *(int *)device);
        return 0;
}
#endif

int nvmlDeviceGetName(void *device, char *name, unsigned size) {
        if (FAKE == FAKE_GARBAGE)
                memset(name, '\n', size);
        else
                snprintf(name, size, "NVIDIA Fake %c", *(int *)device ? 'B' : 'A');
        return 0;
}

int nvmlDeviceGetMemoryInfo(void *device, unsigned long long memory[3]) {
        if (FAKE == FAKE_PARTIAL)
                return 3;
        memory[0] = 1024ull * 1024 * 1024 * (*(int *)device ? 80 : 24);
        memory[1] = memory[2] = 0;
        return 0;
}

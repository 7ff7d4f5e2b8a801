#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "launcher/nvml.h"

/* A killed child is gone within moments, unless it sleeps in the driver: then it is left behind, and nobody waits. */
#define NVML_REAP_US (500 * USEC_PER_MSEC)

typedef enum NvmlKind {
        NVML_KIND_GPU = 1,
        NVML_KIND_DONE,
        NVML_KIND_FAILED,       /* text */
} NvmlKind;

/* What the child writes: each in one atomic write. */
typedef struct NvmlReport {
        uint32_t kind;
        NvmlGpu gpu;
        char text[NVML_TEXT_MAX];
} NvmlReport;

_Static_assert(sizeof(NvmlReport) <= PIPE_BUF, "a report is written and read as a whole");

/* ---- the child ---- */

/* nvmlReturn_t and nvmlDevice_t; nvmlMemory_t. */
#define NVML_SUCCESS 0

typedef void *NvmlDevice;

typedef struct NvmlMemory {
        unsigned long long total;
        unsigned long long free;
        unsigned long long used;
} NvmlMemory;

typedef struct Nvml {
        int (*init)(void);
        int (*count)(unsigned *count);
        int (*handle)(unsigned index, NvmlDevice *device);
        int (*minor)(NvmlDevice device, unsigned *minor);
        int (*uuid)(NvmlDevice device, char *uuid, unsigned size);
        int (*name)(NvmlDevice device, char *name, unsigned size);
        int (*memory)(NvmlDevice device, NvmlMemory *memory);
} Nvml;

static const struct {
        const char *symbol;
        size_t offset;
} nvml_symbols[] = {
        { "nvmlInit_v2", offsetof(Nvml, init) },
        { "nvmlDeviceGetCount_v2", offsetof(Nvml, count) },
        { "nvmlDeviceGetHandleByIndex_v2", offsetof(Nvml, handle) },
        { "nvmlDeviceGetMinorNumber", offsetof(Nvml, minor) },
        { "nvmlDeviceGetUUID", offsetof(Nvml, uuid) },
        { "nvmlDeviceGetName", offsetof(Nvml, name) },
        { "nvmlDeviceGetMemoryInfo", offsetof(Nvml, memory) },
};

static void nvml_say(int fd, const NvmlReport *report) {
        (void)!write(fd, report, sizeof(*report));
}

static void nvml_say_failed(int fd, const char *format, ...) _printf_(2, 3);
static void nvml_say_failed(int fd, const char *format, ...) {
        NvmlReport report = { .kind = NVML_KIND_FAILED };
        va_list ap;

        va_start(ap, format);
        vsnprintf(report.text, sizeof(report.text), format, ap);
        va_end(ap);
        nvml_say(fd, &report);
}

static bool nvml_load(Nvml *nvml, const char *library, int fd) {
        void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);

        if (!handle) {
                nvml_say_failed(fd, "%s", dlerror());
                return false;
        }
        for (size_t i = 0; i < ELEMENTSOF(nvml_symbols); i++) {
                void *symbol = dlsym(handle, nvml_symbols[i].symbol);

                if (!symbol) {
                        nvml_say_failed(fd, "%s is too old, it lacks %s", library, nvml_symbols[i].symbol);
                        return false;
                }
                memcpy((char *)nvml + nvml_symbols[i].offset, &symbol, sizeof(symbol));
        }
        return true;
}

/* A GPU that does not answer (fallen off the bus, say) is passed over; so is what is not known of one. */
static void nvml_say_gpu(const Nvml *nvml, unsigned index, int fd) {
        NvmlReport report = { .kind = NVML_KIND_GPU };
        NvmlMemory memory = {};
        NvmlDevice device;
        unsigned minor;

        if (nvml->handle(index, &device) != NVML_SUCCESS || nvml->minor(device, &minor) != NVML_SUCCESS)
                return;
        report.gpu.minor = minor;
        if (nvml->uuid(device, report.gpu.uuid, sizeof(report.gpu.uuid)) != NVML_SUCCESS)
                report.gpu.uuid[0] = 0;
        if (nvml->name(device, report.gpu.name, sizeof(report.gpu.name)) != NVML_SUCCESS)
                report.gpu.name[0] = 0;
        if (nvml->memory(device, &memory) == NVML_SUCCESS)
                report.gpu.memory = memory.total;
        nvml_say(fd, &report);
}

static _noreturn_ void nvml_child(const char *library, int fd) {
        const struct rlimit none = {};
        unsigned n = 0;
        sigset_t set;
        Nvml nvml;
        int r;

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)prctl(PR_SET_NAME, "nvml");
        (void)setrlimit(RLIMIT_CORE, &none);
        for (int i = 1; i < NSIG; i++)
                (void)signal(i, SIG_DFL);
        sigemptyset(&set);
        (void)sigprocmask(SIG_SETMASK, &set, NULL);
        /* Nothing of ours is the library's to hold open: sockets, the lock of the state directory. */
        if (fd > STDERR_FILENO + 1)
                (void)syscall(SYS_close_range, STDERR_FILENO + 1, fd - 1, 0);
        (void)syscall(SYS_close_range, MAX(fd, STDERR_FILENO) + 1, ~0U, 0);
        if (!nvml_load(&nvml, library, fd))
                _exit(1);
        r = nvml.init();
        if (r == NVML_SUCCESS)
                r = nvml.count(&n);
        if (r != NVML_SUCCESS) {
                nvml_say_failed(fd, "%s has no access to the driver (nvmlReturn_t %d)", library, r);
                _exit(1);
        }
        for (unsigned i = 0; i < n && i < LAUNCH_GPUS_MAX; i++)
                nvml_say_gpu(&nvml, i, fd);
        nvml_say(fd, &(NvmlReport){ .kind = NVML_KIND_DONE });
        /* Without nvmlShutdown(): the end of the process lets go of everything. */
        _exit(0);
}

/* ---- the parent ---- */

static int nvml_left_ms(uint64_t deadline_us) {
        uint64_t now = clock_monotonic_us();

        return now >= deadline_us ? 0 : (int)MIN((deadline_us - now) / USEC_PER_MSEC + 1, (uint64_t)INT_MAX);
}

static int nvml_fail(char *text, const char *what) {
        snprintf(text, NVML_TEXT_MAX, "%s", what);
        return NVML_E_FAILED;
}

/* Until DONE. The child's death closes the pipe; so may the library, which nobody trusts. */
static int nvml_collect(int fd, uint64_t deadline_us, NvmlGpu *gpus, size_t *n, char *text) {
        for (;;) {
                struct pollfd p = { .fd = fd, .events = POLLIN };
                NvmlReport report;
                ssize_t size;

                if (poll(&p, 1, nvml_left_ms(deadline_us)) < 0) {
                        if (errno == EINTR)
                                continue;
                        return error_origin(-errno);
                }
                if (p.revents == 0)
                        return nvml_fail(text, "it does not answer in time");
                size = read(fd, &report, sizeof(report));
                if (size == 0)
                        return nvml_fail(text, "it crashed");
                if (size != (ssize_t)sizeof(report))
                        return nvml_fail(text, "it spoiled its answer");
                report.gpu.uuid[sizeof(report.gpu.uuid) - 1] = 0;
                report.gpu.name[sizeof(report.gpu.name) - 1] = 0;
                report.text[sizeof(report.text) - 1] = 0;
                if (report.kind == NVML_KIND_DONE)
                        return 0;
                if (report.kind == NVML_KIND_FAILED)
                        return nvml_fail(text, report.text);
                if (report.kind != NVML_KIND_GPU || *n == LAUNCH_GPUS_MAX)
                        return nvml_fail(text, "it spoiled its answer");
                gpus[(*n)++] = report.gpu;
        }
}

/* Ends the child whatever it does, and does not wait for one that can't be ended. */
static void nvml_reap(pid_t pid) {
        _cleanup_close_ int pidfd = pidfd_open(pid, 0);
        struct pollfd p = { .fd = pidfd, .events = POLLIN };
        uint64_t deadline_us = clock_monotonic_us() + NVML_REAP_US;

        (void)kill(pid, SIGKILL);
        while (pidfd >= 0 && poll(&p, 1, nvml_left_ms(deadline_us)) < 0 && errno == EINTR)
                ;
        (void)waitpid(pid, NULL, WNOHANG);
}

int nvml_query(const char *library, uint64_t timeout_us, NvmlGpu ret_gpus[static LAUNCH_GPUS_MAX], size_t *ret_n,
               char ret_text[static NVML_TEXT_MAX]) {
        _cleanup_close_ int from = -1;
        size_t n = 0;
        int pair[2], r;
        pid_t pid;

        if (pipe2(pair, O_CLOEXEC) < 0)
                return error_origin(-errno);
        from = pair[0];
        pid = fork();
        if (pid == 0)
                nvml_child(library, pair[1]);
        r = pid < 0 ? error_origin(-errno) : 0;
        fd_close(pair[1]);
        if (r)
                return r;
        r = nvml_collect(from, clock_monotonic_us() + timeout_us, ret_gpus, &n, ret_text);
        nvml_reap(pid);
        if (r >= 0)
                *ret_n = n;
        return error_trace(r);
}

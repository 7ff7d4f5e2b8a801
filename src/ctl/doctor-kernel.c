#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/fd.h"
#include "ctl/doctor.h"

#define KERNEL_MAJOR 6
#define KERNEL_MINOR 1

void doctor_check_kernel(Doctor *d) {
        unsigned major = 0, minor = 0;
        struct utsname u;

        if (uname(&u) < 0 || sscanf(u.release, "%u.%u", &major, &minor) != 2)
                doctor_report(d, DOCTOR_WARNING, "kernel", "expected Linux 6.1 or newer", "its version can't be read");
        else if (major < KERNEL_MAJOR || (major == KERNEL_MAJOR && minor < KERNEL_MINOR))
                doctor_report(d, DOCTOR_MISSING, "kernel", "install Linux 6.1 or newer (Debian 12 has it)", "%s", u.release);
        else
                doctor_report(d, DOCTOR_OK, "kernel", NULL, "%s", u.release);
}

static int io_uring_setup(unsigned flags) {
        struct io_uring_params params = { .flags = flags };

        return (int)syscall(SYS_io_uring_setup, 8, &params);
}

/* Who refuses, and how to make them not. */
static void doctor_io_uring_refused(Doctor *d, int error) {
        _cleanup_free_ char *disabled = NULL;
        size_t n;

        if (fd_read_file(AT_FDCWD, "/proc/sys/kernel/io_uring_disabled", 16, &disabled, &n) == 0 && disabled[0] != '0')
                doctor_report(d, DOCTOR_MISSING, "io_uring",
                              "allow it: sysctl -w kernel.io_uring_disabled=0, and the same in /etc/sysctl.d",
                              "switched off by the sysctl kernel.io_uring_disabled=%c", disabled[0]);
        else if (error == EPERM || error == EACCES)
                doctor_report(d, DOCTOR_MISSING, "io_uring",
                              "a seccomp filter refuses io_uring_setup; in a container allow it: docker or podman run "
                              "--security-opt seccomp=PROFILE, with a profile that admits io_uring_setup, io_uring_enter and "
                              "io_uring_register", "%s", strerror(error));
        else if (error == ENOSYS)
                doctor_report(d, DOCTOR_MISSING, "io_uring",
                              "use a kernel with CONFIG_IO_URING, or, in a container, a seccomp profile that admits "
                              "io_uring_setup, io_uring_enter and io_uring_register", "%s", strerror(error));
        else
                doctor_report(d, DOCTOR_MISSING, "io_uring", error == ENOMEM ? "raise RLIMIT_MEMLOCK: ulimit -l unlimited" :
                              "see dmesg", "%s", strerror(error));
}

static bool io_uring_has_buffer_ring(int fd) {
        const size_t size = (size_t)sysconf(_SC_PAGESIZE);
        void *ring = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
        struct io_uring_buf_reg reg = { .ring_addr = (uint64_t)(uintptr_t)ring, .ring_entries = 8 };
        bool has;

        if (ring == MAP_FAILED)
                return false;
        has = syscall(SYS_io_uring_register, fd, IORING_REGISTER_PBUF_RING, &reg, 1) == 0;
        if (has)
                (void)syscall(SYS_io_uring_register, fd, IORING_UNREGISTER_PBUF_RING, &reg, 1);
        munmap(ring, size);
        return has;
}

/* The raw calls: only src/reactor/ring.c uses liburing, and this program has no reactor. */
void doctor_check_io_uring(Doctor *d) {
        struct io_uring_restriction restriction = { .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_NOP };
        _cleanup_close_ int fd = -1;
        bool defer = true, buffers;

        fd = io_uring_setup(IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
        if (fd < 0 && errno == EINVAL) {
                defer = false;
                fd = io_uring_setup(IORING_SETUP_R_DISABLED);
        }
        if (fd < 0) {
                doctor_io_uring_refused(d, errno);
                return;
        }
        buffers = io_uring_has_buffer_ring(fd);
        if (syscall(SYS_io_uring_register, fd, IORING_REGISTER_RESTRICTIONS, &restriction, 1) < 0 ||
            syscall(SYS_io_uring_register, fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0) {
                doctor_report(d, DOCTOR_MISSING, "io_uring", "install Linux 6.1 or newer: the daemon confines its ring by restrictions",
                              "restrictions are refused: %s", strerror(errno));
                return;
        }
        if (!defer || !buffers)
                doctor_report(d, DOCTOR_WARNING, "io_uring", "install Linux 6.1 or newer", "restrictions; without %s%s%s",
                              defer ? "" : "defer_taskrun", defer || buffers ? "" : ", ", buffers ? "" : "buffer rings");
        else
                doctor_report(d, DOCTOR_OK, "io_uring", NULL, "restrictions, defer_taskrun, buffer rings");
}

void doctor_check_landlock(Doctor *d) {
        long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

        if (abi > 0)
                doctor_report(d, DOCTOR_OK, "landlock", NULL, "ABI %ld", abi);
        else if (errno == EOPNOTSUPP)
                doctor_report(d, DOCTOR_MISSING, "landlock",
                              "boot with it: add landlock to the lsm= list of the kernel's command line (cat /sys/kernel/security/lsm)",
                              "the kernel has it, switched off at boot");
        else
                doctor_report(d, DOCTOR_MISSING, "landlock", errno == ENOSYS ?
                              "use a kernel with CONFIG_SECURITY_LANDLOCK (Debian's has it), or, in a container, a seccomp profile "
                              "that admits landlock_create_ruleset" :
                              "in a container use a seccomp profile that admits the landlock calls", "%s", strerror(errno));
}

void doctor_check_seccomp(Doctor *d) {
        uint32_t action = SECCOMP_RET_ERRNO;

        if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0)
                doctor_report(d, DOCTOR_OK, "seccomp", NULL, "filters");
        else
                doctor_report(d, DOCTOR_MISSING, "seccomp", "use a kernel with CONFIG_SECCOMP_FILTER", "%s", strerror(errno));
}

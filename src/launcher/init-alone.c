#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launcher/init.h"

/*
 * init.c as a program of its own, without the C library: a page of code, so that to execute it costs little and every
 * sandbox's init has next to no memory. This file is what init.c asks of the C library. argv: the agent's pid, and the
 * descriptor of the status pipe.
 */

_noreturn_ void init_start(const long *stack);
void *memset(void *p, int c, size_t n);
int *__errno_location(void);

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall init_start\n");
#else
__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x0, sp\n\tbl init_start\n");
#endif

static int init_errno;

static long init_call(long call, long a, long b, long c, long d, long e) {
        long result;

#if defined(__x86_64__)
        register long r10 __asm__("r10") = d;
        register long r8 __asm__("r8") = e;

        __asm__ volatile("syscall" : "=a"(result) : "a"(call), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
#else
        register long x8 __asm__("x8") = call;
        register long x0 __asm__("x0") = a;
        register long x1 __asm__("x1") = b;
        register long x2 __asm__("x2") = c;
        register long x3 __asm__("x3") = d;
        register long x4 __asm__("x4") = e;

        __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
        result = x0;
#endif
        if (result >= 0)
                return result;
        init_errno = (int)-result;
        return -1;
}

int *__errno_location(void) {
        return &init_errno;
}

void *memset(void *p, int c, size_t n) {
        volatile uint8_t *bytes = p;

        for (size_t i = 0; i < n; i++)
                bytes[i] = (uint8_t)c;
        return p;
}

int sigfillset(sigset_t *set) {
        memset(set, 0xff, sizeof(*set));
        return 0;
}

int signalfd(int fd, const sigset_t *set, int flags) {
        /* The kernel's set is of 64 signals. */
        return (int)init_call(SYS_signalfd4, fd, (long)set, 8, flags, 0);
}

int kill(pid_t pid, int signal) {
        return (int)init_call(SYS_kill, pid, signal, 0, 0, 0);
}

int waitid(idtype_t type, id_t id, siginfo_t *info, int options) {
        return (int)init_call(SYS_waitid, (long)type, (long)id, (long)info, options, 0);
}

/* Of the timeouts, init knows "for ever" only. */
int poll(struct pollfd *fds, nfds_t n, int timeout) {
        return (int)init_call(SYS_ppoll, (long)fds, (long)n, 0, 0, 8);
}

ssize_t read(int fd, void *data, size_t n) {
        return init_call(SYS_read, fd, (long)data, (long)n, 0, 0);
}

ssize_t write(int fd, const void *data, size_t n) {
        return init_call(SYS_write, fd, (long)data, (long)n, 0, 0);
}

int getrusage(__rusage_who_t who, struct rusage *usage) {
        return (int)init_call(SYS_getrusage, who, (long)usage, 0, 0, 0);
}

void _exit(int status) {
        for (;;)
                (void)init_call(SYS_exit_group, status, 0, 0, 0, 0);
}

static int init_number(const char *text) {
        int n = 0;

        while (*text >= '0' && *text <= '9')
                n = n * 10 + (*text++ - '0');
        return n;
}

_noreturn_ void init_start(const long *stack) {
        const char *const *argv = (const char *const *)(stack + 1);

        if (stack[0] != 3)
                _exit(1);
        /* Nobody may read the file that we are executed from, so we were not dumpable before either. */
        (void)init_call(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
        (void)init_call(SYS_prctl, PR_SET_NAME, (long)argv[0], 0, 0, 0);
        init_run(init_number(argv[1]), init_number(argv[2]));
}

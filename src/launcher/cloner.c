#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "launcher/cloner.h"

/* Of a thread and its child: paths of PATH_MAX, lists of paths, a formatted failure. */
#define CLONER_THREAD_STACK KIB(256)
/* Longer than a start takes on a busy machine; then something hangs, and copying costs less than waiting. */
#define CLONER_WAIT_NS (50 * USEC_PER_MSEC * NSEC_PER_USEC)

static _Alignas(16) uint8_t cloner_stacks[CLONER_THREADS][CLONER_STACK];

/*
 * The child returns from the system call on its thread's stack, below which it then works while the thread sleeps. So
 * no function may return between the call and run(): the C library's syscall() would.
 */
static inline __attribute__((__always_inline__)) long cloner_clone3(struct clone_args *args, size_t n) {
#if defined(__x86_64__)
        long result;

        __asm__ volatile("syscall" : "=a"(result) : "a"(SYS_clone3), "D"(args), "S"(n) : "rcx", "r11", "memory");
        return result;
#else
        register long call __asm__("x8") = SYS_clone3;
        register long first __asm__("x0") = (long)args;
        register long second __asm__("x1") = (long)n;

        __asm__ volatile("svc 0" : "+r"(first) : "r"(call), "r"(second) : "memory");
        return first;
#endif
}

static _noreturn_ __attribute__((__noinline__)) void cloner_child(ClonerThread *t) {
        (void)sem_post(&t->started);
        t->run(t->userdata, cloner_stacks[t - t->cloner->threads] + CLONER_STACK, &t->alone);
        _exit(1);
}

static __attribute__((__noinline__)) void cloner_serve(ClonerThread *t) {
        long result = cloner_clone3(t->args, sizeof(*t->args));

        if (result == 0)
                cloner_child(t);
        t->error = result < 0 ? (int)-result : 0;
}

/*
 * A child that is not alone may have been killed beside one of its own, which is then still on our second stack, and
 * has our errno. It is a zombie only once its pid namespace is empty. Whoever reaps it first leaves us ECHILD.
 */
static void cloner_wait(const ClonerThread *t) {
        siginfo_t info;

        if (t->pid > 0 && !t->alone)
                (void)waitid(P_PID, (id_t)t->pid, &info, WEXITED | WNOWAIT);
}

static void *cloner_thread(void *userdata) {
        ClonerThread *t = userdata;

        for (;;) {
                while (sem_wait(&t->work) < 0)
                        ;
                if (t->stop)
                        return NULL;
                cloner_serve(t);
                /* A change of ids may have set it to fs.suid_dumpable. */
                (void)prctl(PR_SET_DUMPABLE, 0);
                (void)sem_post(&t->started);
                cloner_wait(t);
                t->busy = false;
                (void)sem_post(&t->cloner->idle);
        }
}

static int cloner_start(ClonerThread *t) {
        pthread_attr_t attr;
        sigset_t all, old;
        int r;

        (void)sem_init(&t->work, 0, 0);
        sigfillset(&all);
        if (pthread_attr_init(&attr) != 0)
                return error_origin(-ENOMEM);
        (void)pthread_attr_setstacksize(&attr, CLONER_THREAD_STACK);
        (void)pthread_sigmask(SIG_SETMASK, &all, &old);
        r = pthread_create(&t->thread, &attr, cloner_thread, t);
        (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
        (void)pthread_attr_destroy(&attr);
        t->made = r == 0;
        return error_origin(-r);
}

/* With fs.suid_dumpable=1 a change of ids in the child would make us open to the task's user. */
static bool cloner_is_safe(const Cloner *c) {
        char value = '1';

        return pread(c->suid_dumpable_fd, &value, 1, 0) == 1 && value != '1';
}

void cloner_init(Cloner *c) {
        c->suid_dumpable_fd = open("/proc/sys/fs/suid_dumpable", O_RDONLY | O_CLOEXEC);
        c->usable = c->suid_dumpable_fd >= 0 && sem_init(&c->idle, 0, CLONER_THREADS) == 0;
        for (unsigned i = 0; i < CLONER_THREADS; i++)
                c->threads[i].cloner = c;
}

void cloner_deinit(Cloner *c) {
        for (unsigned i = 0; i < CLONER_THREADS; i++) {
                ClonerThread *t = &c->threads[i];

                if (!t->made)
                        continue;
                t->stop = true;
                (void)sem_post(&t->work);
                (void)pthread_join(t->thread, NULL);
                t->made = false;
        }
        fd_close(c->suid_dumpable_fd);
        c->suid_dumpable_fd = -1;
}

/* Takes one of the threads that are not busy, waiting a moment for it. */
static ClonerThread *cloner_take(Cloner *c) {
        struct timespec until;

        if (sem_trywait(&c->idle) < 0) {
                if (c->stuck)
                        return NULL;
                (void)clock_gettime(CLOCK_MONOTONIC, &until);
                until.tv_nsec += (long)CLONER_WAIT_NS;
                if (until.tv_nsec >= 1000000000L) {
                        until.tv_nsec -= 1000000000L;
                        until.tv_sec++;
                }
                c->stuck = sem_clockwait(&c->idle, CLOCK_MONOTONIC, &until) < 0;
                if (c->stuck)
                        return NULL;
        }
        c->stuck = false;
        for (unsigned i = 0; i < CLONER_THREADS; i++)
                if (!c->threads[i].busy && (c->threads[i].made || cloner_start(&c->threads[i]) == 0))
                        return &c->threads[i];
        (void)sem_post(&c->idle);
        return NULL;
}

pid_t cloner_clone(Cloner *c, struct clone_args *args, ClonerRun run, void *userdata) {
        ClonerThread *t = c->usable && cloner_is_safe(c) ? cloner_take(c) : NULL;

        if (!t)
                return -EAGAIN;
        args->flags |= CLONE_VM | CLONE_VFORK | CLONE_PARENT_SETTID;
        args->parent_tid = (uint64_t)(uintptr_t)&t->pid;
        t->args = args;
        t->run = run;
        t->userdata = userdata;
        t->pid = 0;
        t->error = 0;
        t->alone = false;
        t->busy = true;
        (void)sem_init(&t->started, 0, 0);
        (void)sem_post(&t->work);
        while (sem_wait(&t->started) < 0)
                ;
        return t->pid ?: -t->error;
}

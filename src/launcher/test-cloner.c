/* Children that share our memory: they run, they leave it whole, and those that hang hang nobody else. */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/launch.h"
#include "launcher/cloner.h"
#include "launcher/init-image.h"
#include "launcher/init.h"

static Cloner cloner;

/* Take the kernel a while to close, between a process's leaving of its memory and the end of its namespace. */
#define PIPES 10000

typedef struct Job {
        volatile uint64_t beats;
        volatile int seen;
        volatile uintptr_t stack;
        int status_fd;
        int image_fd;
} Job;

static int teardown(void **state) {
        cloner_deinit(&cloner);
        return 0;
}

static pid_t clone_job(ClonerRun run, Job *job, int *ret_pidfd) {
        struct clone_args args = {
                .flags = CLONE_PIDFD,
                .pidfd = (uint64_t)(uintptr_t)ret_pidfd,
                .exit_signal = SIGCHLD,
        };

        return cloner_clone(&cloner, &args, run, job);
}

static int reap(pid_t pid, int pidfd) {
        siginfo_t info = {};

        assert_int_equal(waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED), 0);
        assert_int_equal(info.si_pid, pid);
        close(pidfd);
        return info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
}

static void run_writes(void *userdata, void *stack, _Atomic(bool) *alone) {
        Job *job = userdata;

        job->seen = (int)syscall(SYS_getpid);
        job->stack = (uintptr_t)stack;
        errno = ENOTTY;
        _exit(7);
}

static void test_shares_memory(void **state) {
        Job job = {};
        int pidfd = -1;
        pid_t pid;

        for (unsigned i = 0; i < 3 * CLONER_THREADS; i++) {
                errno = 0;
                pid = clone_job(run_writes, &job, &pidfd);
                assert_true(pid > 0);
                assert_int_equal(reap(pid, pidfd), 7);
                assert_int_equal(job.seen, pid);
                assert_int_equal(job.stack % 16, 0);
                /* Its errno is its thread's. */
                assert_int_equal(errno, 0);
        }
}

static void run_hangs(void *userdata, void *stack, _Atomic(bool) *alone) {
        for (;;)
                (void)pause();
}

/* A child may wait for the file system of a task's owner. All others are copied then, and soon. */
static void test_hanging_children(void **state) {
        int pidfds[CLONER_THREADS], pidfd = -1;
        pid_t pids[CLONER_THREADS], pid;
        Job job = {};
        uint64_t began;

        for (unsigned i = 0; i < CLONER_THREADS; i++) {
                pids[i] = clone_job(run_hangs, &job, &pidfds[i]);
                assert_true(pids[i] > 0);
        }
        assert_int_equal(clone_job(run_writes, &job, &pidfd), -EAGAIN);
        assert_true(cloner.stuck);
        began = clock_monotonic_us();
        for (unsigned i = 0; i < 1000; i++)
                assert_int_equal(clone_job(run_writes, &job, &pidfd), -EAGAIN);
        /* Without another wait: those would take 50 s. */
        assert_in_range(clock_monotonic_us() - began, 0, 5 * USEC_PER_SEC);
        for (unsigned i = 0; i < CLONER_THREADS; i++) {
                assert_int_equal(kill(pids[i], SIGKILL), 0);
                assert_int_equal(reap(pids[i], pidfds[i]), -SIGKILL);
        }
        while ((pid = clone_job(run_writes, &job, &pidfd)) == -EAGAIN)
                (void)sched_yield();
        assert_true(pid > 0);
        assert_int_equal(reap(pid, pidfd), 7);
        assert_false(cloner.stuck);
}

static void test_refused_clone(void **state) {
        struct clone_args args = { .flags = CLONE_SIGHAND | CLONE_CLEAR_SIGHAND };
        Job job = {};
        int pidfd = -1;

        assert_int_equal(cloner_clone(&cloner, &args, run_writes, &job), -EINVAL);
        for (unsigned i = 0; i < CLONER_THREADS; i++) {
                pid_t pid = clone_job(run_writes, &job, &pidfd);

                assert_true(pid > 0);
                assert_int_equal(reap(pid, pidfd), 7);
        }
}

static void run_init(void *userdata, void *stack, _Atomic(bool) *alone) {
        Job *job = userdata;
        pid_t agent;

        /* A child that shares memory must not go on from fork(); this one ends at once. */
        agent = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
        if (agent == 0)
                _exit(42);
        *alone = true;
        init_image_exec(job->image_fd, agent, job->status_fd);
        _exit(99);
}

static void test_init_program(void **state) {
        Job job = {};
        InitStatus status = {};
        struct clone_args args = { .flags = CLONE_NEWPID | CLONE_NEWUSER, .exit_signal = SIGCHLD };
        struct stat st;
        int pipe_fds[2], init;
        pid_t pid;

        assert_int_equal(init_image_open(&job.image_fd), 0);
        /* Who executes what it may not read can't be looked into. */
        assert_int_equal(fstat(job.image_fd, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0111);
        assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
        job.status_fd = pipe_fds[1];
        pid = cloner_clone(&cloner, &args, run_init, &job);
        if (pid == -EPERM || pid == -ENOSPC) {
                print_message("skipped: no user namespaces here\n");
                skip();
        }
        assert_true(pid > 0);
        close(pipe_fds[1]);
        assert_int_equal(read(pipe_fds[0], &status, sizeof(status)), sizeof(status));
        assert_int_equal(status.how, LAUNCH_HOW_EXITED);
        assert_int_equal(status.value, 42);
        assert_int_equal(waitpid(pid, &init, 0), pid);
        assert_true(WIFEXITED(init) && WEXITSTATUS(init) == 0);
        close(pipe_fds[0]);
        close(job.image_fd);
}

static int straggle(void *userdata) {
        Job *job = userdata;

        (void)syscall(SYS_close_range, 3, ~0U, 0);
        while (job->beats < UINT64_MAX) {
                job->beats++;
                errno = ENOTTY;
        }
        return 0;
}

static void run_straggle(void *userdata, void *stack, _Atomic(bool) *alone) {
        Job *job = userdata;
        struct rlimit limit;
        int pair[2];

        if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
                limit.rlim_cur = limit.rlim_max;
                (void)setrlimit(RLIMIT_NOFILE, &limit);
        }
        for (unsigned i = 0; i < PIPES && pipe2(pair, O_CLOEXEC) == 0; i++)
                ;
        (void)clone(straggle, stack, CLONE_VM | CLONE_VFORK | SIGCHLD, job);
        _exit(1);
}

/* Killed beside a child of its own: its thread, whose errno and stack that one has, is taken until that is gone too. */
static void test_straggler(void **state) {
        Job job = {};

        for (unsigned i = 0; i < 8; i++) {
                struct clone_args args = { .flags = CLONE_NEWPID | CLONE_NEWUSER, .exit_signal = SIGCHLD };
                ClonerThread *t = NULL;
                uint64_t beats, until;
                pid_t pid;

                job.beats = 0;
                pid = cloner_clone(&cloner, &args, run_straggle, &job);
                if (pid == -EPERM || pid == -ENOSPC) {
                        print_message("skipped: no user namespaces here\n");
                        skip();
                }
                assert_true(pid > 0);
                for (unsigned k = 0; k < CLONER_THREADS; k++)
                        if (cloner.threads[k].pid == pid)
                                t = &cloner.threads[k];
                assert_non_null(t);
                while (!job.beats)
                        (void)sched_yield();
                assert_true(t->busy);
                assert_int_equal(kill(pid, SIGKILL), 0);
                /* Without a processor of ours, which the three of them need. */
                for (unsigned k = 0; k < CLONER_THREADS; k++)
                        while (sem_wait(&cloner.idle) < 0)
                                ;
                beats = job.beats;
                until = clock_monotonic_us() + 1000;
                while (clock_monotonic_us() < until)
                        assert_int_equal(job.beats, beats);
                for (unsigned k = 0; k < CLONER_THREADS; k++)
                        (void)sem_post(&cloner.idle);
                assert_int_equal(waitpid(pid, NULL, 0), pid);
        }
}

/* The machine's setting may change at any time. */
static void test_suid_dumpable(void **state) {
        int ours = cloner.suid_dumpable_fd, pidfd = -1;
        Job job = {};

        cloner.suid_dumpable_fd = memfd_create("suid_dumpable", MFD_CLOEXEC);
        for (unsigned i = 0; i < 3; i++) {
                static const char *const values[] = { "0\n", "1\n", "2\n" };
                pid_t pid;

                assert_int_equal(pwrite(cloner.suid_dumpable_fd, values[i], 2, 0), 2);
                pid = clone_job(run_writes, &job, &pidfd);
                if (i == 1)
                        assert_int_equal(pid, -EAGAIN);
                else
                        assert_int_equal(reap(pid, pidfd), 7);
        }
        /* What can't be read is not known to be safe. */
        assert_int_equal(ftruncate(cloner.suid_dumpable_fd, 0), 0);
        assert_int_equal(clone_job(run_writes, &job, &pidfd), -EAGAIN);
        close(cloner.suid_dumpable_fd);
        cloner.suid_dumpable_fd = ours;
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_shares_memory),
                cmocka_unit_test(test_hanging_children),
                cmocka_unit_test(test_refused_clone),
                cmocka_unit_test(test_init_program),
                cmocka_unit_test(test_straggler),
                cmocka_unit_test(test_suid_dumpable),
        };

        char value = '1';

        cloner_init(&cloner);
        if (!cloner.usable || pread(cloner.suid_dumpable_fd, &value, 1, 0) != 1 || value == '1') {
                printf("1..0 # SKIP fs.suid_dumpable is 1, or can't be read\n");
                return 0;
        }
        return cmocka_run_group_tests(tests, NULL, teardown);
}

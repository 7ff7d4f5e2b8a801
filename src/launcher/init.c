#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/launch.h"
#include "launcher/init.h"

static uint64_t init_timeval_us(const struct timeval *t) {
        return (uint64_t)t->tv_sec * USEC_PER_SEC + (uint64_t)t->tv_usec;
}

static _noreturn_ void init_report(int status_fd, const siginfo_t *info) {
        InitStatus status = {
                .how = info->si_code == CLD_EXITED ? LAUNCH_HOW_EXITED : LAUNCH_HOW_SIGNALLED,
                .value = (uint32_t)info->si_status,
        };
        struct rusage usage = {};
        siginfo_t other;

        /* All but ourselves; a process that is being killed can't fork. */
        (void)kill(-1, SIGKILL);
        while (waitid(P_ALL, 0, &other, WEXITED) == 0 || errno == EINTR)
                (void)kill(-1, SIGKILL);
        (void)getrusage(RUSAGE_CHILDREN, &usage);
        status.cpu_us = init_timeval_us(&usage.ru_utime) + init_timeval_us(&usage.ru_stime);
        _exit(write(status_fd, &status, sizeof(status)) == (ssize_t)sizeof(status) ? 0 : 1);
}

static void init_reap(pid_t agent, int status_fd) {
        for (;;) {
                siginfo_t info = {};

                if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG) < 0 || info.si_pid == 0)
                        return;
                if (info.si_pid == agent)
                        init_report(status_fd, &info);
        }
}

_noreturn_ void init_run(pid_t agent, int status_fd) {
        sigset_t all;
        int signal_fd;

        sigfillset(&all);
        signal_fd = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
        if (signal_fd < 0)
                _exit(1);
        for (;;) {
                struct pollfd fds[2] = {
                        { .fd = signal_fd, .events = POLLIN },
                        { .fd = status_fd },    /* POLLERR: its reader, the launcher, is gone */
                };
                struct signalfd_siginfo signal;

                /* Before the wait too: the agent may have ended before the signalfd was there. */
                init_reap(agent, status_fd);
                if (poll(fds, ELEMENTSOF(fds), -1) < 0)
                        continue;
                if (fds[1].revents)
                        _exit(1);
                while (read(signal_fd, &signal, sizeof(signal)) == (ssize_t)sizeof(signal))
                        if (signal.ssi_signo == SIGTERM)
                                (void)kill(agent, SIGTERM);
        }
}

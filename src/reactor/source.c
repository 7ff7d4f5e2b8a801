#include <assert.h>
#include <poll.h>
#include <sys/signalfd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "reactor/source.h"

static void signal_source_read(SignalSource *s) {
        struct signalfd_siginfo info;

        while (!s->closing && read(s->fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
                s->on_signal(s, (int)info.ssi_signo, (pid_t)info.ssi_pid);
}

static void signal_source_on_readable(Op *op, int res, bool more) {
        SignalSource *s = container_of(op, SignalSource, read);

        if (res >= 0)
                signal_source_read(s);
        else if (res != -ECANCELED)
                log_error("polling for signals failed: %s", strerror(-res));
        if (s->closing)
                defer_schedule(&s->closed);
        else
                op_poll(&s->read, s->fd, POLLIN, false);
}

static void signal_source_on_closed(Defer *defer) {
        SignalSource *s = container_of(defer, SignalSource, closed);

        assert(!s->read.in_flight);
        fd_close(steal_fd(&s->fd));
        if (s->on_closed)
                s->on_closed(s);
}

int signal_source_init(SignalSource *s, Reactor *reactor, const sigset_t *mask,
                       void (*on_signal)(SignalSource *source, int signo, pid_t from)) {
        _cleanup_close_ int fd = -1;
        int r;

        r = pthread_sigmask(SIG_BLOCK, mask, NULL);
        if (r)
                return error_origin(-r);
        fd = signalfd(-1, mask, SFD_CLOEXEC | SFD_NONBLOCK);
        if (fd < 0)
                return error_origin(-errno);
        *s = (SignalSource){ .reactor = reactor, .fd = steal_fd(&fd), .on_signal = on_signal };
        op_init(&s->read, reactor, signal_source_on_readable);
        defer_init(&s->closed, reactor, signal_source_on_closed);
        op_poll(&s->read, s->fd, POLLIN, false);
        return 0;
}

void signal_source_close(SignalSource *s, void (*on_closed)(SignalSource *source)) {
        if (s->closing)
                return;
        s->closing = true;
        s->on_closed = on_closed;
        op_cancel(&s->read);
        if (!s->read.in_flight)
                defer_schedule(&s->closed);
}

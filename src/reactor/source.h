#pragma once

/* Small event sources: signals and the sd-bus pump. */

#include <signal.h>

#include "reactor/reactor.h"

typedef struct SignalSource SignalSource;
typedef struct BusPump BusPump;
struct sd_bus;

struct SignalSource {
        Reactor *reactor;
        int fd;                 /* signalfd(2), non-blocking */
        /* polls: a read on the ring would end in a kernel worker thread, whose signals are others */
        Op read;
        Defer closed;
        bool closing;
        void (*on_signal)(SignalSource *source, int signo, pid_t from);
        void (*on_closed)(SignalSource *source);
};

/*
 * Blocks the signals of mask in this thread and reads them from a signalfd. -errno. They stay blocked after the close.
 */
int signal_source_init(SignalSource *source, Reactor *reactor, const sigset_t *mask,
                       void (*on_signal)(SignalSource *source, int signo, pid_t from)) _must_check_;
void signal_source_close(SignalSource *source, void (*on_closed)(SignalSource *source));

/*
 * Drives an sd_bus by the ring: polls sd_bus_get_fd() for sd_bus_get_events(), wakes at sd_bus_get_timeout(), and
 * calls sd_bus_process() until it has nothing left. After sending on the bus from outside a callback, call
 * bus_pump_kick().
 */
struct BusPump {
        Reactor *reactor;
        struct sd_bus *bus;
        Op poll;
        Timer timer;
        Defer kick;
        bool closing;
        bool failed;            /* on_error was called; nothing is driven any more */
        uint32_t events;        /* what the poll in flight waits for */
        Defer closed;
        void (*on_error)(BusPump *pump, int error);     /* the connection is gone */
        void (*on_closed)(BusPump *pump);
};

/* Borrows the bus, which must be started and must outlive the pump's on_closed. */
void bus_pump_init(BusPump *pump, Reactor *reactor, struct sd_bus *bus, void (*on_error)(BusPump *pump, int error));
void bus_pump_kick(BusPump *pump);
void bus_pump_close(BusPump *pump, void (*on_closed)(BusPump *pump));

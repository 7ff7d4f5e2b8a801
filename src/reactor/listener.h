#pragma once

/*
 * Listener: multishot accept. At EMFILE/ENFILE/ENOMEM it pauses until listener_resume() (a descriptor was closed) or
 * a 100 ms timer, whichever is first, since a re-arm at once would spin; the pause is counted and logged once.
 *
 * A connection that the kernel had accepted before a pause took effect is still given to on_accept; one that it had
 * accepted before listener_close() is closed.
 */

#include "reactor/reactor.h"

typedef struct Listener Listener;

/* fd is the callee's: it takes it in every case. */
typedef void (*ListenerFn)(Listener *listener, int fd);

struct Listener {
        Reactor *reactor;
        int fd;
        Op accept;
        Timer retry;
        Defer closed;
        ListenerFn on_accept;
        void (*on_closed)(Listener *listener);
        bool closing;
        bool paused;            /* by listener_pause() */
        bool exhausted;         /* waiting for a descriptor */
        uint64_t n_accepted;
        uint64_t n_exhausted;
};

/* Takes fd (a listening socket). */
void listener_init_take(Listener *listener, Reactor *reactor, int fd, ListenerFn on_accept);
void listener_start(Listener *listener);
/* Stops accepting (connections wait in the kernel's backlog) and goes on; for load limits. */
void listener_pause(Listener *listener);
void listener_resume(Listener *listener);
/* Two-phase; on_closed(may be NULL) after the last completion. */
void listener_close(Listener *listener, void (*on_closed)(Listener *listener));

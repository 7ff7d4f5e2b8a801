#pragma once

/*
 * server: the launcher's end of the protocol (base/launch.h). One router at a time: a new connection takes the place of
 * the old one, since a router that was restarted is the one that counts. What attempts have to say is not queued but
 * pulled from them while the socket takes it, round robin, so a slow router costs no memory beyond the attempts'
 * windows.
 */

#include "base/buf.h"
#include "base/list.h"
#include "launcher/loop.h"

/*
 * HELLO, REFUSED and SPAWN_FAILED without an attempt wait here; a router that sends more requests without reading waits
 * too.
 */
#define SERVER_REPLIES_MAX 64
/* Requests taken in one turn of the loop, and messages sent in one, so that neither side starves the other. */
#define SERVER_BATCH 32

typedef struct Attempt Attempt;
typedef struct Launcher Launcher;
typedef struct Server Server;

struct Server {
        Launcher *launcher;
        LoopSource listener;
        LoopSource conn;
        LoopTimer retry;        /* while no descriptor is left for a new connection */
        int paused_fd;
        int64_t router_uid;     /* -1: root and ourselves only */
        uint8_t *in;            /* LAUNCH_MESSAGE_MAX bytes while connected */
        bool hello;             /* the router has said HELLO */
        bool listed;            /* and LIST: attempts may speak */
        bool list_end;          /* LIST_END is due */
        List listing;           /* attempts to be LISTED */
        List dirty;             /* attempts with something to send */
        List replies;
        size_t n_replies;
};

#define SERVER_NULL { .listener = LOOP_SOURCE_NULL, .conn = LOOP_SOURCE_NULL }

/* listen_fd is borrowed. -errno. */
int server_init(Server *s, Launcher *l, int listen_fd, int64_t router_uid) _must_check_;
void server_deinit(Server *s);
/* An attempt has something to send: tries now. */
void server_wake(Server *s, Attempt *a);

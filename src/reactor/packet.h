#pragma once

/*
 * PacketSocket: a connected SOCK_SEQPACKET Unix socket that carries whole messages with descriptors
 * (SCM_RIGHTS). One recvmsg and one sendmsg are in flight; messages queue in order with their descriptors.
 *
 * After on_error (or the end of input) nothing more is received; the owner closes. A packet that is longer than
 * PACKET_SIZE_MAX is -EMSGSIZE, one with more than PACKET_FDS_MAX descriptors -EPROTO, one whose descriptors did not
 * fit into this process -EMFILE: its content is not given out, since half of it is gone. An empty packet can't be told
 * from the end of input, and can't be sent. Close is two-phase; no other callback comes after packet_close() was
 * called.
 */

#include "reactor/reactor.h"

/* a packet over 212,992 bytes fails in the kernel; larger content goes by memfd */
#define PACKET_SIZE_MAX KIB(64)
#define PACKET_FDS_MAX 4

typedef struct PacketSocket PacketSocket;

struct PacketSocket {
        Reactor *reactor;
        int fd;
        Op recv;
        Op send;
        List queue;
        size_t queued;          /* bytes waiting */
        size_t queued_max;
        Defer closed;
        bool closing;
        bool send_failed;
        unsigned n_in_flight;
        /*
         * data and fds are valid during the call; the callee takes a descriptor by setting its slot to -1. n == 0: end.
         */
        void (*on_packet)(PacketSocket *socket, const uint8_t *data, size_t n, int *fds, size_t n_fds);
        void (*on_drain)(PacketSocket *socket);         /* may be NULL */
        void (*on_error)(PacketSocket *socket, int error);
        void (*on_closed)(PacketSocket *socket);
        void *impl;             /* receive buffer, msghdr and control space */
};

enum {
        _PACKET_E_SUCCESS,
        PACKET_E_FULL,          /* queued_max would be passed; nothing was queued, descriptors still the caller's */
};

int packet_init_take(PacketSocket *socket, Reactor *reactor, int fd, size_t queued_max) _must_check_;
void packet_start(PacketSocket *socket);
/* Copies data; takes the descriptors on success. PACKET_E_FULL; -ENOMEM; -EMSGSIZE, -EINVAL: too long, too many
 * descriptors, or empty; -EPIPE: closed or failed. */
int packet_send(PacketSocket *socket, const void *data, size_t n, const int *fds, size_t n_fds) _must_check_;
void packet_close(PacketSocket *socket);

#include <assert.h>

#include "base/error.h"
#include "base/fd.h"
#include "reactor/packet.h"

typedef struct Packet Packet;
typedef struct PacketReceiver PacketReceiver;

/* One message that waits to be sent. */
struct Packet {
        ListLink link;
        struct msghdr msg;
        struct iovec iov;
        size_t n_fds;
        int fds[PACKET_FDS_MAX];
        _Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(sizeof(int) * PACKET_FDS_MAX)];
        uint8_t data[];
};

/* PacketSocket.impl; only the pages that messages reach are ever touched. */
struct PacketReceiver {
        struct msghdr msg;
        struct iovec iov;
        /* The kernel says MSG_CTRUNC where a sender's descriptors do not fit. */
        _Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(sizeof(int) * PACKET_FDS_MAX)];
        uint8_t data[PACKET_SIZE_MAX];
};

static Packet *packet_free(Packet *p) {
        if (!p)
                return NULL;
        for (size_t i = 0; i < p->n_fds; i++)
                fd_close(p->fds[i]);
        free(p);
        return NULL;
}

static void packet_op_ended(PacketSocket *s) {
        assert(s->n_in_flight > 0);
        if (--s->n_in_flight == 0 && s->closing)
                defer_schedule(&s->closed);
}

static void packet_arm(PacketSocket *s) {
        PacketReceiver *receiver = s->impl;

        receiver->iov = (struct iovec){ receiver->data, sizeof(receiver->data) };
        receiver->msg = (struct msghdr){
                .msg_iov = &receiver->iov,
                .msg_iovlen = 1,
                .msg_control = receiver->control,
                .msg_controllen = sizeof(receiver->control),
        };
        op_recvmsg(&s->recv, s->fd, &receiver->msg, MSG_CMSG_CLOEXEC);
        s->n_in_flight++;
}

/* Takes the descriptors out of the control messages. */
static size_t packet_take_fds(struct msghdr *msg, int *ret_fds, size_t n_max) {
        size_t n_fds = 0;

        for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
                        int fd;

                        memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
                        if (n_fds < n_max)
                                ret_fds[n_fds++] = fd;
                        else
                                fd_close(fd);
                }
        }
        return n_fds;
}

static void packet_on_recv(Op *op, int res, bool more) {
        PacketSocket *s = container_of(op, PacketSocket, recv);
        PacketReceiver *receiver = s->impl;
        int fds[PACKET_FDS_MAX];
        size_t n_fds = 0;

        if (res >= 0)
                n_fds = packet_take_fds(&receiver->msg, fds, ELEMENTSOF(fds));
        if (!s->closing) {
                if (res == -EINTR || res == -EAGAIN || res == -ECANCELED)
                        packet_arm(s);
                else if (res < 0)
                        s->on_error(s, res);
                else if (receiver->msg.msg_flags & MSG_TRUNC)
                        s->on_error(s, -EMSGSIZE);
                else if (receiver->msg.msg_flags & MSG_CTRUNC)
                        s->on_error(s, n_fds == PACKET_FDS_MAX ? -EPROTO : -EMFILE);
                else {
                        s->on_packet(s, receiver->data, (size_t)res, fds, n_fds);
                        if (res > 0 && !s->closing)
                                packet_arm(s);
                }
        }
        for (size_t i = 0; i < n_fds; i++)
                fd_close(fds[i]);
        packet_op_ended(s);
}

static void packet_flush(PacketSocket *s) {
        Packet *p = list_first_entry(&s->queue, Packet, link);

        if (!p || s->send.in_flight || s->closing || s->send_failed)
                return;
        op_sendmsg(&s->send, s->fd, &p->msg, 0);
        s->n_in_flight++;
}

static void packet_on_send(Op *op, int res, bool more) {
        PacketSocket *s = container_of(op, PacketSocket, send);
        Packet *p = list_first_entry(&s->queue, Packet, link);

        packet_op_ended(s);
        if (s->closing)
                return;
        if (res < 0 && res != -EINTR && res != -EAGAIN) {
                s->send_failed = true;
                s->on_error(s, res);
                return;
        }
        if (res >= 0) {         /* a packet goes whole or not at all */
                s->queued -= p->iov.iov_len;
                list_unlink(&p->link);
                packet_free(p);
        }
        if (list_is_empty(&s->queue) && s->on_drain)
                s->on_drain(s);
        packet_flush(s);
}

int packet_send(PacketSocket *s, const void *data, size_t n, const int *fds, size_t n_fds) {
        struct cmsghdr *c;
        Packet *p;

        if (s->closing || s->send_failed)
                return error_origin(-EPIPE);
        if (n > PACKET_SIZE_MAX)
                return error_origin(-EMSGSIZE);
        if (n == 0 || n_fds > PACKET_FDS_MAX)
                return error_origin(-EINVAL);
        if (s->queued_max && n > s->queued_max - MIN(s->queued_max, s->queued))
                return PACKET_E_FULL;
        p = malloc(sizeof(*p) + n);
        if (!p)
                return error_origin(-ENOMEM);
        *p = (Packet){ .iov = { p->data, n }, .n_fds = n_fds };
        p->msg = (struct msghdr){ .msg_iov = &p->iov, .msg_iovlen = 1 };
        memcpy(p->data, data, n);
        if (n_fds > 0) {
                memcpy(p->fds, fds, n_fds * sizeof(int));
                p->msg.msg_control = p->control;
                p->msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
                c = CMSG_FIRSTHDR(&p->msg);
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
                memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
        }
        list_link_tail(&s->queue, &p->link);
        s->queued += n;
        packet_flush(s);
        return 0;
}

static void packet_on_closed(Defer *defer) {
        PacketSocket *s = container_of(defer, PacketSocket, closed);

        assert(s->n_in_flight == 0);
        fd_close(steal_fd(&s->fd));
        list_for_each_safe(i, &s->queue)
                packet_free(container_of(i, Packet, link));
        list_init(&s->queue);
        s->queued = 0;
        free(steal_ptr(&s->impl));
        s->on_closed(s);
}

int packet_init_take(PacketSocket *s, Reactor *reactor, int fd, size_t queued_max) {
        PacketReceiver *receiver = malloc(sizeof(*receiver));

        if (!receiver)
                return error_origin(-ENOMEM);
        *s = (PacketSocket){ .reactor = reactor, .fd = fd, .queued_max = queued_max, .impl = receiver };
        list_init(&s->queue);
        op_init(&s->recv, reactor, packet_on_recv);
        op_init(&s->send, reactor, packet_on_send);
        defer_init(&s->closed, reactor, packet_on_closed);
        return 0;
}

void packet_start(PacketSocket *s) {
        packet_arm(s);
}

void packet_close(PacketSocket *s) {
        if (s->closing)
                return;
        s->closing = true;
        op_cancel(&s->recv);
        op_cancel(&s->send);
        if (s->n_in_flight == 0)
                defer_schedule(&s->closed);
}

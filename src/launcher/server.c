#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/launch.h"
#include "base/log.h"
#include "launcher/attempt.h"
#include "launcher/launcher.h"
#include "launcher/server.h"

/* Descriptors that a message may bring; a SPAWN has one, the others are closed. */
#define SERVER_FDS_MAX 4
/* A descriptor was sent, but we had no room for it. */
#define SERVER_FD_LOST (-2)
#define SERVER_RETRY_US (100 * USEC_PER_MSEC)

typedef struct ServerReply {
        ListLink link;
        size_t n;
        uint8_t data[];
} ServerReply;

static void server_flush(Server *s);

static void server_disconnect(Server *s, const char *why) {
        int fd = s->conn.fd;

        if (fd < 0)
                return;
        log_info("router disconnected: %s", why);
        loop_remove(&s->launcher->loop, &s->conn);
        /* A child that is just being set up may still hold a copy. */
        (void)shutdown(fd, SHUT_RDWR);
        fd_close(fd);
        free(s->in);
        s->in = NULL;
        s->hello = s->listed = s->list_end = false;
        while (list_pop(&s->listing))
                ;
        while (list_pop(&s->dirty))
                ;
        for (ListLink *link; (link = list_pop(&s->replies));)
                free(container_of(link, ServerReply, link));
        s->n_replies = 0;
}

static int server_reply(Server *s, const Buf *b) {
        ServerReply *reply = malloc(sizeof(*reply) + buf_size(b));

        if (!reply)
                return error_origin(-ENOMEM);
        *reply = (ServerReply){ .n = buf_size(b) };
        memcpy(reply->data, buf_data(b), reply->n);
        list_link_tail(&s->replies, &reply->link);
        s->n_replies++;
        return 0;
}

static int server_reply_refused(Server *s, const char *stage, const char *text) {
        _cleanup_(buf_deinit) Buf b = BUF_INIT(LAUNCH_MESSAGE_MAX);
        int r;

        r = launch_begin(&b, LAUNCH_REFUSED);
        if (!r)
                r = launch_add_str(&b, LAUNCH_ATTR_STAGE, stage);
        if (!r)
                r = launch_add_str(&b, LAUNCH_ATTR_TEXT, text);
        return error_fold(r ? r : server_reply(s, &b));
}

static int server_reply_failed(Server *s, const Id *attempt, const Failure *f) {
        _cleanup_(buf_deinit) Buf b = BUF_INIT(LAUNCH_MESSAGE_MAX);
        int r;

        r = launch_begin(&b, LAUNCH_SPAWN_FAILED);
        if (!r)
                r = launch_add_id(&b, LAUNCH_ATTR_ATTEMPT, attempt);
        if (!r)
                r = launch_add_str(&b, LAUNCH_ATTR_STAGE, f->stage);
        if (!r)
                r = launch_add_u32(&b, LAUNCH_ATTR_ERRNO, (uint32_t)f->error);
        if (!r)
                r = launch_add_str(&b, LAUNCH_ATTR_TEXT, f->text);
        return error_fold(r ? r : server_reply(s, &b));
}

static int server_reply_hello(Server *s) {
        _cleanup_(buf_deinit) Buf b = BUF_INIT(LAUNCH_MESSAGE_MAX);
        const Launcher *l = s->launcher;
        int r;

        r = launch_begin(&b, LAUNCH_HELLO);
        if (!r)
                r = launch_add_u32(&b, LAUNCH_ATTR_VERSION_MIN, LAUNCH_VERSION_MIN);
        if (!r)
                r = launch_add_u32(&b, LAUNCH_ATTR_VERSION, LAUNCH_VERSION);
        if (!r)
                r = launch_add_id(&b, LAUNCH_ATTR_GENERATION, &l->generation);
        for (size_t i = 0; r == 0 && i < l->caps.present.n; i++)
                r = launch_add_str(&b, LAUNCH_ATTR_CAPABILITY, l->caps.present.items[i]);
        for (size_t i = 0; r == 0 && i < l->caps.absent.n; i++)
                r = launch_add_str(&b, LAUNCH_ATTR_ABSENT, l->caps.absent.items[i]);
        for (size_t i = 0; r == 0 && i < l->config.gpus.n; i++)
                r = launch_add_gpu(&b, &l->config.gpus.items[i].info);
        if (!r)
                r = launch_add_u32(&b, LAUNCH_ATTR_CPUS, l->caps.cpus);
        if (!r)
                r = launch_add_u64(&b, LAUNCH_ATTR_MEMORY, l->caps.memory);
        return error_fold(r ? r : server_reply(s, &b));
}

enum {
        _SERVER_E_SUCCESS,
        SERVER_E_PROTOCOL,      /* the peer does not keep to the protocol: the connection ends */
};

static int server_on_hello(Server *s, LaunchReader *reader) {
        uint32_t version = 0, version_min = 0;
        const uint8_t *data;
        LaunchAttr attr;
        size_t n;
        int r;

        while ((r = launch_next(reader, &attr, &data, &n)) == 0)
                if ((attr == LAUNCH_ATTR_VERSION && !launch_u32(data, n, &version)) ||
                    (attr == LAUNCH_ATTR_VERSION_MIN && !launch_u32(data, n, &version_min)))
                        return SERVER_E_PROTOCOL;
        if (r != LAUNCH_E_END || version == 0)
                return SERVER_E_PROTOCOL;
        if (version < LAUNCH_VERSION_MIN || version_min > LAUNCH_VERSION) {
                r = server_reply_refused(
                        s, "hello",
                        version < LAUNCH_VERSION_MIN
                                ? "this launcher is too new for the router's protocol version; upgrade agent-routerd"
                                : "this launcher is too old for the router's protocol version; restart "
                                  "agent-router-launcher once its tasks have ended");
                return r ? r : SERVER_E_PROTOCOL;
        }
        s->hello = true;
        return 0;
}

static int server_on_list(Server *s) {
        Launcher *l = s->launcher;

        map_for_each(node, &l->attempts) {
                Attempt *a = container_of(node, Attempt, node);

                attempt_rewind(a);
                list_unlink(&a->listing);
                list_unlink(&a->dirty);
                if (a->forgotten)
                        continue;
                list_link_tail(&s->listing, &a->listing);
                list_link_tail(&s->dirty, &a->dirty);
        }
        s->listed = s->list_end = true;
        return 0;
}

static int server_on_spawn(Server *s, LaunchReader *reader, int *fd) {
        Launcher *l = s->launcher;
        _cleanup_(spec_deinit) Spec spec = { .uid = -1 };
        Failure failure = {};
        Attempt *a;
        int r;

        r = spec_read(reader, &spec, &failure);
        if (r < 0)
                return error_trace(r);
        if (r == SPEC_E_MALFORMED)
                return SERVER_E_PROTOCOL;
        a = attempt_find(l, &spec.attempt);
        if (a) {
                /* Said before: the answer is given again if there is one, else it comes when it comes. */
                a->spawned_sent = false;
                server_wake(s, a);
                return 0;
        }
        if (r == 0 && l->stopping)
                (void)failure_set(&failure, "stopping", ESHUTDOWN, "the launcher is being stopped");
        else if (r == 0 && l->attempts.n >= LAUNCHER_ATTEMPTS_MAX)
                (void)failure_set(&failure, "limit", EAGAIN,
                                  "the launcher holds %d attempts already; lower limits.running in agent-router.yaml",
                                  LAUNCHER_ATTEMPTS_MAX);
        else if (r == 0 && *fd == SERVER_FD_LOST)
                (void)failure_set(&failure, "resources", EMFILE,
                                  "the prompt's descriptor can't be taken: the launcher has no descriptor left; raise LimitNOFILE= of its service");
        if (failure.error)
                return error_trace(server_reply_failed(s, &spec.attempt, &failure));
        r = attempt_new(l, &spec, steal_fd(fd), &a);
        if (r < 0) {
                (void)failure_set(&failure, "resources", -r, "the launcher has no memory for another attempt");
                return error_trace(server_reply_failed(s, &spec.attempt, &failure));
        }
        server_wake(s, a);
        return 0;
}

/* ACK, KILL and FORGET are about one attempt; one that is not held (any more) is nobody's error. */
static int server_on_attempt(Server *s, LaunchReader *reader) {
        uint32_t stream = 0, grace_ms = 0;
        const uint8_t *data;
        uint64_t offset = 0;
        LaunchAttr attr;
        bool good = true;
        Id id = {};
        Attempt *a;
        size_t n;
        int r;

        while ((r = launch_next(reader, &attr, &data, &n)) == 0)
                if (attr == LAUNCH_ATTR_ATTEMPT)
                        good &= launch_id(data, n, &id);
                else if (attr == LAUNCH_ATTR_STREAM)
                        good &= launch_u32(data, n, &stream);
                else if (attr == LAUNCH_ATTR_OFFSET)
                        good &= launch_u64(data, n, &offset);
                else if (attr == LAUNCH_ATTR_GRACE_MS)
                        good &= launch_u32(data, n, &grace_ms);
        if (r != LAUNCH_E_END || !good)
                return SERVER_E_PROTOCOL;
        a = attempt_find(s->launcher, &id);
        if (!a)
                return 0;
        switch (reader->type) {
        case LAUNCH_ACK:
                return (stream == 1 || stream == 2) && attempt_ack(a, stream, offset) ? 0 : SERVER_E_PROTOCOL;
        case LAUNCH_KILL:
                attempt_kill(a, grace_ms);
                return 0;
        default:
                attempt_forget(a);
                return 0;
        }
}

static int server_on_message(Server *s, const uint8_t *data, size_t n, int *fd) {
        LaunchReader reader;

        if (launch_open(&reader, data, n))
                return SERVER_E_PROTOCOL;
        if (!s->hello && reader.type != LAUNCH_HELLO)
                return SERVER_E_PROTOCOL;
        switch (reader.type) {
        case LAUNCH_HELLO:
                return error_trace(server_on_hello(s, &reader));
        case LAUNCH_LIST:
                return error_trace(server_on_list(s));
        case LAUNCH_SPAWN:
                return error_trace(server_on_spawn(s, &reader, fd));
        case LAUNCH_ACK:
        case LAUNCH_KILL:
        case LAUNCH_FORGET:
                return error_trace(server_on_attempt(s, &reader));
        default:
                return error_trace(server_reply_refused(s, "message", "this launcher does not know the message; the router may be newer"));
        }
}

/* One message, or -errno; 0 bytes is the end. *ret_fd is the caller's. */
static ssize_t server_receive(Server *s, int *ret_fd) {
        union {
                struct cmsghdr header;
                uint8_t space[CMSG_SPACE(SERVER_FDS_MAX * sizeof(int))];
        } control;
        struct iovec iov = { .iov_base = s->in, .iov_len = LAUNCH_MESSAGE_MAX };
        struct msghdr message = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
        };
        ssize_t n = recvmsg(s->conn.fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

        *ret_fd = -1;
        if (n < 0)
                return -errno;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
                int fds[SERVER_FDS_MAX];
                size_t n_fds = c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS
                                       ? (c->cmsg_len - CMSG_LEN(0)) / sizeof(int)
                                       : 0;

                memcpy(fds, CMSG_DATA(c), n_fds * sizeof(int));
                for (size_t i = 0; i < n_fds; i++)
                        if (*ret_fd < 0)
                                *ret_fd = fds[i];
                        else
                                fd_close(fds[i]);
        }
        if (message.msg_flags & MSG_CTRUNC && *ret_fd < 0)
                *ret_fd = SERVER_FD_LOST;
        return message.msg_flags & MSG_TRUNC ? -EMSGSIZE : n;
}

static void server_on_conn(LoopSource *source, uint32_t events) {
        Server *s = container_of(source, Server, conn);

        for (unsigned i = 0; i < SERVER_BATCH && s->n_replies < SERVER_REPLIES_MAX; i++) {
                _cleanup_close_ int fd = -1;
                ssize_t n = server_receive(s, &fd);
                int r;

                if (n == -EAGAIN || n == -EINTR)
                        break;
                if (n <= 0) {
                        server_disconnect(s, n == 0 ? "it closed the connection" : strerror((int)-n));
                        return;
                }
                r = server_on_message(s, s->in, (size_t)n, &fd);
                if (r) {
                        server_flush(s);
                        server_disconnect(s, r > 0 ? "it does not keep to the protocol" : strerror(-r));
                        return;
                }
        }
        server_flush(s);
}

/* -errno; -EAGAIN where the socket is full. */
static int server_send(Server *s, const uint8_t *data, size_t n, int fd) {
        union {
                struct cmsghdr header;
                uint8_t space[CMSG_SPACE(sizeof(int))];
        } control = {};
        struct iovec iov = { .iov_base = (void *)data, .iov_len = n };
        struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

        if (fd >= 0) {
                control.header = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
                                                   .cmsg_type = SCM_RIGHTS,
                                                   .cmsg_len = CMSG_LEN(sizeof(int)) };
                memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
                message.msg_control = &control;
                message.msg_controllen = sizeof(control);
        }
        while (sendmsg(s->conn.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
                if (errno != EINTR)
                        return -errno;
        return 0;
}

static int server_send_replies(Server *s) {
        while (!list_is_empty(&s->replies)) {
                ServerReply *reply = list_first_entry(&s->replies, ServerReply, link);
                int r = server_send(s, reply->data, reply->n, -1);

                if (r)
                        return r;
                list_unlink(&reply->link);
                free(reply);
                s->n_replies--;
        }
        return 0;
}

static int server_send_list(Server *s, Buf *b) {
        int r;

        while (!list_is_empty(&s->listing)) {
                Attempt *a = list_first_entry(&s->listing, Attempt, listing);

                buf_clear(b);
                r = attempt_listed(a, b);
                if (!r)
                        r = server_send(s, buf_data(b), buf_size(b), a->reaped ? -1 : a->pidfd);
                if (r)
                        return r;
                list_unlink(&a->listing);
        }
        if (!s->list_end)
                return 0;
        buf_clear(b);
        r = launch_begin(b, LAUNCH_LIST_END);
        if (!r)
                r = server_send(s, buf_data(b), buf_size(b), -1);
        if (!r)
                s->list_end = false;
        return r;
}

/* One message of the first attempt that has something to say, which then goes to the end of the line. */
static int server_send_attempt(Server *s, Buf *b) {
        Attempt *a = list_first_entry(&s->dirty, Attempt, dirty);
        AttemptMessage message;
        int r, fd;

        buf_clear(b);
        r = attempt_next(a, b, &message, &fd);
        if (r)
                return r;
        if (message == ATTEMPT_NOTHING) {
                list_unlink(&a->dirty);
                return 0;
        }
        r = server_send(s, buf_data(b), buf_size(b), fd);
        if (r)
                return r;
        list_unlink(&a->dirty);
        list_link_tail(&s->dirty, &a->dirty);
        attempt_sent(a, message);
        return 0;
}

/* Sends what is due until the socket is full or the turn is over, and asks to be called again accordingly. */
static void server_flush(Server *s) {
        _cleanup_(buf_deinit) Buf b = BUF_INIT(LAUNCH_MESSAGE_MAX);
        uint32_t events;
        int r;

        if (s->conn.fd < 0)
                return;
        r = server_send_replies(s);
        if (!r)
                r = server_send_list(s, &b);
        for (unsigned i = 0; r == 0 && s->listed && i < SERVER_BATCH && !list_is_empty(&s->dirty); i++)
                r = server_send_attempt(s, &b);
        if (r < 0 && r != -EAGAIN && r != -ENOBUFS && r != -ENOMEM) {
                server_disconnect(s, strerror(-r));
                return;
        }
        events = s->n_replies < SERVER_REPLIES_MAX ? EPOLLIN : 0;
        if (r < 0 || (s->listed && !list_is_empty(&s->dirty)))
                events |= EPOLLOUT;
        (void)!loop_modify(&s->launcher->loop, &s->conn, events);
}

void server_wake(Server *s, Attempt *a) {
        if (s->conn.fd < 0 || !s->listed)
                return;
        if (!list_is_linked(&a->dirty))
                list_link_tail(&s->dirty, &a->dirty);
        /* Sent in the next turn, together with what else is due by then. */
        (void)!loop_modify(&s->launcher->loop, &s->conn, s->conn.events | EPOLLOUT);
}

/* Root, ourselves, or the router's own user. */
static bool server_peer_is_allowed(const Server *s, int fd, uid_t *ret_uid) {
        struct ucred peer;
        socklen_t n = sizeof(peer);

        *ret_uid = (uid_t)-1;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) < 0)
                return false;
        *ret_uid = peer.uid;
        return peer.uid == 0 || peer.uid == geteuid() || (s->router_uid >= 0 && peer.uid == (uid_t)s->router_uid);
}

/* The connection that can't be taken stays in the queue, and would wake us at once. */
static void server_pause_listener(Server *s) {
        int fd = s->listener.fd;

        log_warning("a router's connection waits: %s", strerror(errno));
        if (loop_timer_set(&s->launcher->loop, &s->retry, clock_monotonic_us() + SERVER_RETRY_US) < 0)
                return;
        loop_remove(&s->launcher->loop, &s->listener);
        s->paused_fd = fd;
}

static void server_on_retry(LoopTimer *timer) {
        Server *s = container_of(timer, Server, retry);

        if (loop_add(&s->launcher->loop, &s->listener, s->paused_fd, EPOLLIN) < 0)
                (void)!loop_timer_set(&s->launcher->loop, timer, clock_monotonic_us() + SERVER_RETRY_US);
}

static void server_on_listener(LoopSource *source, uint32_t events) {
        Server *s = container_of(source, Server, listener);
        _cleanup_close_ int fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        uid_t uid;

        if (fd < 0) {
                if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
                        server_pause_listener(s);
                return;
        }
        if (!server_peer_is_allowed(s, fd, &uid)) {
                log_warning("connection of uid %d refused: neither root, nor this launcher's user, nor --router-user", (int)uid);
                return;
        }
        server_disconnect(s, "a new router took its place");
        s->in = malloc(LAUNCH_MESSAGE_MAX);
        if (!s->in || loop_add(&s->launcher->loop, &s->conn, fd, EPOLLIN) < 0) {
                log_warning("router refused: %s", strerror(errno));
                free(s->in);
                s->in = NULL;
                return;
        }
        fd = -1;
        log_info("router connected");
        if (server_reply_hello(s) < 0)
                server_disconnect(s, "no memory");
        server_flush(s);
}

int server_init(Server *s, Launcher *l, int listen_fd, int64_t router_uid) {
        *s = (Server){
                .launcher = l,
                .router_uid = router_uid,
                .listener = { .fd = -1, .on_ready = server_on_listener },
                .conn = { .fd = -1, .on_ready = server_on_conn },
                .retry.on_timer = server_on_retry,
        };
        list_init(&s->listing);
        list_init(&s->dirty);
        list_init(&s->replies);
        return error_trace(loop_add(&l->loop, &s->listener, listen_fd, EPOLLIN));
}

void server_deinit(Server *s) {
        if (!s->launcher)
                return;
        server_disconnect(s, "the launcher ends");
        loop_timer_clear(&s->launcher->loop, &s->retry);
        loop_remove(&s->launcher->loop, &s->listener);
}

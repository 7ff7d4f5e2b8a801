#include <assert.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "worker/internal.h"

/*
 * The connection's life:
 *
 *     IDLE → WAITING → HELLO → LIST → READY
 *                ↑________|______|_______|
 *                         DROPPING           whatever fails drops the connection; it is made again after a pause
 *                                            that doubles from 50 ms to 2 s
 *
 * Nothing that is said needs to arrive: what a broken connection swallowed is made up for by the next LIST, where each
 * worker's acknowledgements and kills are said again and what nobody knows is killed and forgotten.
 */

static char *const no_strings[] = { NULL };

static void client_on_closed(PacketSocket *socket);
static void client_on_error(PacketSocket *socket, int error);
static void client_on_packet(PacketSocket *socket, const uint8_t *data, size_t n, int *fds, size_t n_fds);
static void client_on_drain(PacketSocket *socket);

/* Tells the owner of an outage once, and again where its reason changes. */
static void client_report(LauncherClient *client, int error) {
        if (client->reported == error || client->closing)
                return;
        client->reported = error;
        client->vtable->on_lost(client, error);
}

static void client_retry(LauncherClient *client) {
        if (client->closing)
                return;
        client->state = CLIENT_WAITING;
        timer_set(&client->timer, reactor_now_us(client->reactor) + client->backoff_us);
        client->backoff_us = MIN(client->backoff_us * 2, CLIENT_BACKOFF_MAX_US);
}

void client_drop(LauncherClient *client, int error) {
        if (client->state != CLIENT_HELLO && client->state != CLIENT_LIST && client->state != CLIENT_READY)
                return;
        client->state = CLIENT_DROPPING;
        timer_clear(&client->timer);
        packet_close(&client->socket);
        map_for_each(node, &client->workers)
                container_of(node, Worker, node)->listed = false;
        client_report(client, error);
}

static void client_on_closed(PacketSocket *socket) {
        LauncherClient *client = container_of(socket, LauncherClient, socket);

        client->state = CLIENT_IDLE;
        if (client->closing)
                client->on_closed(client);
        else
                client_retry(client);
}

static void client_on_error(PacketSocket *socket, int error) {
        client_drop(container_of(socket, LauncherClient, socket), error);
}

static void client_on_drain(PacketSocket *socket) {
        LauncherClient *client = container_of(socket, LauncherClient, socket);

        if (client->state == CLIENT_READY && client->vtable->on_drain)
                client->vtable->on_drain(client);
}

int client_begin(LauncherClient *client, LaunchType type, const Id *attempt) {
        int r;

        buf_clear(&client->message);
        r = launch_begin(&client->message, type);
        if (!r && attempt)
                r = launch_add_id(&client->message, LAUNCH_ATTR_ATTEMPT, attempt);
        return error_fold(r);
}

void client_send(LauncherClient *client) {
        int r = packet_send(&client->socket, buf_data(&client->message), buf_size(&client->message), NULL, 0);

        if (r)
                client_drop(client, r > 0 ? -ENOBUFS : r);
}

void client_say(LauncherClient *client, LaunchType type, const Id *attempt, uint32_t stream, uint64_t offset,
                uint32_t grace_ms) {
        int r;

        r = client_begin(client, type, attempt);
        if (!r && stream)
                r = launch_add_u32(&client->message, LAUNCH_ATTR_STREAM, stream) ?:
                    launch_add_u64(&client->message, LAUNCH_ATTR_OFFSET, offset);
        if (!r && type == LAUNCH_KILL)
                r = launch_add_u32(&client->message, LAUNCH_ATTR_GRACE_MS, grace_ms);
        if (r)
                client_drop(client, r > 0 ? -EMSGSIZE : r);
        else
                client_send(client);
}

/* ---- the handshake ---- */

static void client_connect(LauncherClient *client) {
        int fd, r;

        fd = client->connect(client->userdata);
        if (fd < 0) {
                client_report(client, fd);
                client_retry(client);
                return;
        }
        r = packet_init_take(&client->socket, client->reactor, fd, CLIENT_QUEUE_MAX);
        if (r) {
                fd_close(fd);
                client_report(client, r);
                client_retry(client);
                return;
        }
        client->socket.on_packet = client_on_packet;
        client->socket.on_error = client_on_error;
        client->socket.on_drain = client_on_drain;
        client->socket.on_closed = client_on_closed;
        client->state = CLIENT_HELLO;
        packet_start(&client->socket);
        timer_set(&client->timer, reactor_now_us(client->reactor) + CLIENT_HANDSHAKE_US);
        r = client_begin(client, LAUNCH_HELLO, NULL);
        if (!r)
                r = launch_add_u32(&client->message, LAUNCH_ATTR_VERSION, LAUNCH_VERSION) ?:
                    launch_add_u32(&client->message, LAUNCH_ATTR_VERSION_MIN, LAUNCH_VERSION_MIN);
        if (r)
                client_drop(client, error_fold(r));
        else
                client_send(client);
}

static void client_on_timer(Timer *timer) {
        LauncherClient *client = container_of(timer, LauncherClient, timer);

        if (client->state == CLIENT_WAITING)
                client_connect(client);
        else
                client_drop(client, -ETIMEDOUT);
}

static void strings_replace(char ***place, char ***value) {
        for (char **s = *place; s && *s; s++)
                free(*s);
        free(*place);
        *place = steal_ptr(value);
}

static int client_on_hello(LauncherClient *client, const Message *m, int *fds, size_t n_fds) {
        Message *owned = (Message *)m; /* its lists are taken over */
        int r;

        if (m->version < LAUNCH_VERSION_MIN || m->version_min > LAUNCH_VERSION)
                return error_origin(-EPROTONOSUPPORT);
        client->generation = m->generation;
        strings_replace(&client->capabilities, &owned->capabilities);
        strings_replace(&client->absent, &owned->absent);
        free(client->gpus);
        client->gpus = steal_ptr(&owned->gpus);
        client->n_gpus = m->n_gpus;
        client->cpus = m->cpus;
        client->memory = m->memory;
        client->state = CLIENT_LIST;
        r = client_begin(client, LAUNCH_LIST, NULL);
        if (r)
                return error_trace(r);
        client_send(client);
        return 0;
}

static int client_on_list_end(LauncherClient *client, const Message *m, int *fds, size_t n_fds) {
        timer_clear(&client->timer);
        client->state = CLIENT_READY;
        client->backoff_us = CLIENT_BACKOFF_MIN_US;
        client->reported = 0;
        client->vtable->on_ready(client, &client->generation);
        return 0;
}

static int client_on_refused(LauncherClient *client, const Message *m, int *fds, size_t n_fds) {
        /* A refused HELLO ends the connection; anything else that is refused had no effect, and needs none here. */
        log_debug("the launcher refused a message: %s", m->text);
        return client->state == CLIENT_HELLO ? error_origin(-EPROTONOSUPPORT) : 0;
}

#define BIT(n) (UINT64_C(1) << (n))

/* In which states a message may come, what it must have, and who takes it. */
static const struct {
        uint64_t states;
        uint64_t needed;
        int (*fn)(LauncherClient *client, const Message *m, int *fds, size_t n_fds);
} messages[] = {
        [LAUNCH_HELLO] = { BIT(CLIENT_HELLO),
                           BIT(LAUNCH_ATTR_VERSION) | BIT(LAUNCH_ATTR_VERSION_MIN) | BIT(LAUNCH_ATTR_GENERATION),
                           client_on_hello },
        [LAUNCH_LISTED] = { BIT(CLIENT_LIST), BIT(LAUNCH_ATTR_ATTEMPT), worker_on_listed },
        [LAUNCH_LIST_END] = { BIT(CLIENT_LIST), 0, client_on_list_end },
        [LAUNCH_SPAWNED] = { BIT(CLIENT_READY), BIT(LAUNCH_ATTR_ATTEMPT), worker_on_spawned },
        [LAUNCH_SPAWN_FAILED] = { BIT(CLIENT_READY), BIT(LAUNCH_ATTR_ATTEMPT) | BIT(LAUNCH_ATTR_STAGE),
                                  worker_on_spawn_failed },
        [LAUNCH_OUTPUT] = { BIT(CLIENT_READY),
                            BIT(LAUNCH_ATTR_ATTEMPT) | BIT(LAUNCH_ATTR_STREAM) | BIT(LAUNCH_ATTR_OFFSET) |
                                    BIT(LAUNCH_ATTR_DATA),
                            worker_on_output },
        [LAUNCH_EXITED] = { BIT(CLIENT_READY), BIT(LAUNCH_ATTR_ATTEMPT) | BIT(LAUNCH_ATTR_HOW) | BIT(LAUNCH_ATTR_VALUE),
                            worker_on_exited },
        [LAUNCH_REFUSED] = { BIT(CLIENT_HELLO) | BIT(CLIENT_LIST) | BIT(CLIENT_READY), BIT(LAUNCH_ATTR_TEXT),
                             client_on_refused },
};

static int client_dispatch(LauncherClient *client, const uint8_t *data, size_t n, int *fds, size_t n_fds) {
        _cleanup_(message_deinit) Message m = {};
        LaunchReader reader;
        int r;

        r = launch_open(&reader, data, n);
        if (r)
                return error_origin(-EBADMSG);
        if (reader.type >= ELEMENTSOF(messages) || !(messages[reader.type].states & BIT(client->state)))
                return error_origin(-EBADMSG);
        r = message_read(&reader, &m);
        if (r)
                return error_trace(r);
        if ((m.present & messages[reader.type].needed) != messages[reader.type].needed)
                return error_origin(-EBADMSG);
        return messages[reader.type].fn(client, &m, fds, n_fds);
}

static void client_on_packet(PacketSocket *socket, const uint8_t *data, size_t n, int *fds, size_t n_fds) {
        LauncherClient *client = container_of(socket, LauncherClient, socket);
        int r;

        if (n == 0) {
                client_drop(client, -ECONNRESET);
                return;
        }
        r = client_dispatch(client, data, n, fds, n_fds);
        if (r)
                client_drop(client, r);
}

/* ---- the client's life ---- */

static void client_on_closed_idle(Defer *defer) {
        LauncherClient *client = container_of(defer, LauncherClient, closed);

        client->on_closed(client);
}

int launcher_client_new(LauncherClient **ret_client, Reactor *reactor, const LauncherVtable *vtable, void *userdata,
                        LauncherConnectFn connect) {
        LauncherClient *client = calloc(1, sizeof(*client));

        if (!client)
                return error_origin(-ENOMEM);
        client->reactor = reactor;
        client->vtable = vtable;
        client->userdata = userdata;
        client->connect = connect;
        client->message = (Buf)BUF_INIT(LAUNCH_MESSAGE_MAX);
        client->backoff_us = CLIENT_BACKOFF_MIN_US;
        timer_init(&client->timer, reactor, client_on_timer);
        defer_init(&client->closed, reactor, client_on_closed_idle);
        *ret_client = client;
        return 0;
}

void launcher_client_start(LauncherClient *client) {
        assert(client->state == CLIENT_IDLE && !client->closing);
        client->state = CLIENT_WAITING;
        timer_set(&client->timer, reactor_now_us(client->reactor));
}

void launcher_client_close(LauncherClient *client, void (*on_closed)(LauncherClient *client)) {
        assert(!client->closing);
        client->closing = true;
        client->on_closed = on_closed;
        timer_clear(&client->timer);
        if (client->state == CLIENT_IDLE || client->state == CLIENT_WAITING) {
                client->state = CLIENT_IDLE;
                defer_schedule(&client->closed);
        } else
                client_drop(client, -ECANCELED);
}

LauncherClient *launcher_client_free(LauncherClient *client) {
        char **none = NULL;

        if (!client)
                return NULL;
        assert(client->state == CLIENT_IDLE);
        map_for_each(node, &client->workers)
                worker_free(container_of(node, Worker, node));
        map_deinit(&client->workers);
        buf_deinit(&client->message);
        strings_replace(&client->capabilities, &none);
        strings_replace(&client->absent, &none);
        free(client->gpus);
        free(client);
        return NULL;
}

bool launcher_client_is_ready(const LauncherClient *client) {
        return client->state == CLIENT_READY;
}

void *launcher_client_userdata(const LauncherClient *client) {
        return client->userdata;
}

const char *const *launcher_client_capabilities(const LauncherClient *client) {
        return (const char *const *)(client->capabilities ?: (char **)no_strings);
}

const char *const *launcher_client_absent(const LauncherClient *client) {
        return (const char *const *)(client->absent ?: (char **)no_strings);
}

const LaunchGpu *launcher_client_gpus(const LauncherClient *client, size_t *ret_n) {
        *ret_n = client->n_gpus;
        return client->gpus;
}

uint32_t launcher_client_cpus(const LauncherClient *client) {
        return client->cpus;
}

uint64_t launcher_client_memory(const LauncherClient *client) {
        return client->memory;
}

const char *launcher_client_too_large(const LauncherClient *client) {
        return client->too_large;
}

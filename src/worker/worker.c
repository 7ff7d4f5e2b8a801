#include "base/error.h"
#include "base/fd.h"
#include "worker/internal.h"

/*
 * One attempt that the launcher holds. What the launcher says about an attempt that nobody here knows (its task is long
 * ended, or a FORGET was lost with a connection) is answered so that it goes away: a live one is killed, its output
 * acknowledged unread, its exit record forgotten.
 */

Worker *worker_find(LauncherClient *client, const Id *attempt) {
        MapNode *node = map_find(&client->workers, attempt->bytes, sizeof(attempt->bytes));

        return node ? container_of(node, Worker, node) : NULL;
}

static int worker_new(LauncherClient *client, const Id *attempt, void *userdata, Worker **ret_worker) {
        Worker *w = calloc(1, sizeof(*w));
        int r;

        if (!w)
                return error_origin(-ENOMEM);
        w->client = client;
        w->attempt = *attempt;
        w->pidfd = -1;
        w->userdata = userdata;
        r = map_insert(&client->workers, &w->node, w->attempt.bytes, sizeof(w->attempt.bytes));
        if (r) {
                free(w);
                return error_trace(r);
        }
        *ret_worker = w;
        return 0;
}

Worker *worker_free(Worker *w) {
        if (!w)
                return NULL;
        map_remove(&w->client->workers, &w->node);
        fd_close(w->pidfd);
        free(w);
        return NULL;
}

int launcher_spawn(LauncherClient *client, const WorkerSpec *spec, void *userdata, Worker **ret_worker) {
        _cleanup_close_ int stdin_fd = -1;
        Worker *w;
        int r;

        if (client->state != CLIENT_READY)
                return WORKER_E_NOT_READY;
        if (client->socket.queued > CLIENT_QUEUE_SPAWN_MAX)
                return WORKER_E_BUSY;
        r = message_write_spawn(&client->message, spec, client->too_large, sizeof(client->too_large));
        if (r)
                return r;
        r = fd_new_sealed_memfd("agent-router-stdin", spec->stdin_data, spec->n_stdin, &stdin_fd);
        if (r)
                return error_trace(r);
        r = worker_new(client, &spec->attempt, userdata, &w);
        if (r)
                return error_trace(r);
        r = packet_send(&client->socket, buf_data(&client->message), buf_size(&client->message), &stdin_fd, 1);
        if (r) {
                worker_free(w);
                /* A socket that failed says so by itself, after this tick. */
                return r == PACKET_E_FULL ? WORKER_E_BUSY : r == -EPIPE ? WORKER_E_NOT_READY : error_fold(r);
        }
        stdin_fd = -1;
        *ret_worker = w;
        return 0;
}

int worker_adopt(LauncherClient *client, const Id *attempt, const uint64_t offset[static 2], void *userdata,
                 Worker **ret_worker) {
        Worker *w;
        int r;

        r = worker_new(client, attempt, userdata, &w);
        if (r)
                return error_trace(r);
        w->offset[0] = w->acked[0] = offset[0];
        w->offset[1] = w->acked[1] = offset[1];
        *ret_worker = w;
        return 0;
}

void worker_kill(Worker *w, uint32_t grace_ms) {
        w->killing = true;
        w->grace_ms = grace_ms;
        if (w->client->state == CLIENT_READY)
                client_say(w->client, LAUNCH_KILL, &w->attempt, 0, 0, grace_ms);
}

/*
 * A new connection brings again what was not acknowledged on the last one, durable here or not. An acknowledgement is
 * about what came by this connection: the launcher takes one of what it has not sent for a confused peer.
 */
static void worker_say_ack(Worker *w, unsigned stream) {
        uint64_t offset = MIN(w->acked[stream - 1], w->seen[stream - 1]);

        if (w->client->state != CLIENT_READY || offset <= w->said[stream - 1])
                return;
        w->said[stream - 1] = offset;
        client_say(w->client, LAUNCH_ACK, &w->attempt, stream, offset, 0);
}

void worker_acked(Worker *w, unsigned stream, uint64_t offset) {
        w->acked[stream - 1] = MAX(w->acked[stream - 1], offset);
        worker_say_ack(w, stream);
}

void worker_forget(Worker *w) {
        /* Without a connection it stays with the launcher until the next LIST, whose answer makes it forgotten. */
        if (w->client->state == CLIENT_READY)
                client_say(w->client, LAUNCH_FORGET, &w->attempt, 0, 0, 0);
        worker_free(w);
}

/* ---- what arrives ---- */

static void worker_take_process(Worker *w, const Message *m, int *fds, size_t n_fds) {
        if (message_has(m, LAUNCH_ATTR_PID))
                w->pid = m->pid;
        if (n_fds > 0) {
                fd_close(w->pidfd);
                w->pidfd = steal_fd(&fds[0]);
        }
}

static void worker_is_spawned(Worker *w, uint64_t execed_at_us) {
        if (w->spawned)
                return;
        w->spawned = true;
        w->client->vtable->on_spawned(w, execed_at_us);
}

int worker_on_listed(LauncherClient *client, const Message *m, int *fds, size_t n_fds) {
        Worker *w = client->vtable->on_listed(client, &m->attempt, m->pid);

        if (!w) {
                client_say(client, LAUNCH_KILL, &m->attempt, 0, 0, 0);
                return 0;
        }
        w->listed = true;
        worker_take_process(w, m, fds, n_fds);
        for (unsigned i = 0; i < ELEMENTSOF(w->seen); i++)
                w->seen[i] = w->said[i] = 0;
        /* What was said into a connection that broke may never have arrived. */
        if (w->killing && !w->exited)
                client_say(client, LAUNCH_KILL, &w->attempt, 0, 0, w->grace_ms);
        if (m->execed_at)
                worker_is_spawned(w, m->execed_at);
        return 0;
}

int worker_on_spawned(LauncherClient *client, const Message *m, int *fds, size_t n_fds) {
        Worker *w = worker_find(client, &m->attempt);

        if (!w) {
                client_say(client, LAUNCH_KILL, &m->attempt, 0, 0, 0);
                return 0;
        }
        worker_take_process(w, m, fds, n_fds);
        worker_is_spawned(w, m->execed_at);
        return 0;
}

int worker_on_spawn_failed(LauncherClient *client, const Message *m, int *fds, size_t n_fds) {
        Worker *w = worker_find(client, &m->attempt);
        Id attempt = m->attempt;

        if (!w)
                return 0;
        client->vtable->on_spawn_failed(w, m->stage, (int)m->error, m->text ?: "");
        /* The owner may have freed it, or even have begun another try of the same attempt. */
        if (worker_find(client, &attempt) == w)
                worker_free(w);
        return 0;
}

int worker_on_output(LauncherClient *client, const Message *m, int *fds, size_t n_fds) {
        Worker *w = worker_find(client, &m->attempt);
        uint64_t end, skip;

        if (m->stream < 1 || m->stream > 2 || m->n_data == 0 || m->n_data > LAUNCH_OUTPUT_MAX ||
            __builtin_add_overflow(m->offset, m->n_data, &end))
                return error_origin(-EBADMSG);
        if (!w) {
                client_say(client, LAUNCH_ACK, &m->attempt, m->stream, end, 0);
                return 0;
        }
        uint64_t *offset = &w->offset[m->stream - 1];
        if (m->offset > *offset)
                return error_origin(-EBADMSG); /* bytes are missing */
        w->seen[m->stream - 1] = MAX(w->seen[m->stream - 1], end);
        worker_say_ack(w, m->stream);
        if (end <= *offset)
                return 0; /* sent again after a reconnect, and known */
        skip = *offset - m->offset;
        *offset = end;
        client->vtable->on_output(w, m->stream, end - (m->n_data - skip), m->data + skip, m->n_data - skip);
        return 0;
}

int worker_on_exited(LauncherClient *client, const Message *m, int *fds, size_t n_fds) {
        Worker *w = worker_find(client, &m->attempt);
        WorkerExit record = {
                .how = (LaunchHow)m->how,
                .value = m->value,
                .oom_kills = m->oom_kills,
                .pids_hit = m->pids_hit,
                .memory_peak = m->memory_peak,
                .cpu_us = m->cpu_us,
                .killed = m->killed,
        };

        if (m->how < LAUNCH_HOW_EXITED || m->how > LAUNCH_HOW_LOST)
                return error_origin(-EBADMSG);
        if (!w) {
                client_say(client, LAUNCH_FORGET, &m->attempt, 0, 0, 0);
                return 0;
        }
        if (w->exited)
                return 0; /* said again after a reconnect */
        if ((message_has(m, LAUNCH_ATTR_STDOUT_END) && m->stdout_end != w->offset[0]) ||
            (message_has(m, LAUNCH_ATTR_STDERR_END) && m->stderr_end != w->offset[1]))
                return error_origin(-EBADMSG); /* its last output has not come */
        w->exited = true;
        client->vtable->on_exited(w, &record);
        return 0;
}

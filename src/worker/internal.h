#pragma once

/* What client.c (the connection) and worker.c (one attempt) share. */

#include "worker/worker.h"

/*
 * What may wait for the launcher. Acknowledgements, kills and forgets are small and must not be lost, so a new SPAWN is
 * refused (WORKER_E_BUSY) long before there is no room for them; where even that is used up, the launcher has stopped
 * reading and the connection is made anew.
 */
#define CLIENT_QUEUE_SPAWN_MAX  MIB(1)
#define CLIENT_QUEUE_MAX        MIB(4)
/* From connecting to the end of the LIST: a launcher that answers more slowly is stuck. */
#define CLIENT_HANDSHAKE_US     (10 * USEC_PER_SEC)
#define CLIENT_BACKOFF_MIN_US   (50 * USEC_PER_MSEC)
#define CLIENT_BACKOFF_MAX_US   (2 * USEC_PER_SEC)

typedef struct Message Message;

typedef enum ClientState {
        CLIENT_IDLE,            /* not started, or closed */
        CLIENT_WAITING,         /* for the time of the next try */
        CLIENT_HELLO,           /* HELLO was sent */
        CLIENT_LIST,            /* LIST was sent */
        CLIENT_READY,
        CLIENT_DROPPING,        /* the socket is being closed */
        _CLIENT_STATE_N,
} ClientState;

struct LauncherClient {
        Reactor *reactor;
        const LauncherVtable *vtable;
        void *userdata;
        LauncherConnectFn connect;
        ClientState state;
        PacketSocket socket;
        Timer timer;            /* WAITING: the next try; HELLO, LIST: the end of patience */
        uint64_t backoff_us;
        int reported;           /* the error that the owner was told of this outage; 0: none yet */
        Buf message;            /* scratch */
        Map workers;            /* by attempt */
        Id generation;
        char **capabilities;    /* NULL-terminated */
        char **absent;
        LaunchGpu *gpus;
        size_t n_gpus;
        uint32_t cpus;
        uint64_t memory;
        char too_large[128];
        bool closing;
        Defer closed;
        void (*on_closed)(LauncherClient *client);
};

/* A message, read as a whole; strings are NUL-terminated copies. */
struct Message {
        uint64_t present;       /* bit per LaunchAttr */
        Id attempt;
        Id generation;
        uint32_t version, version_min;
        uint32_t pid;
        uint32_t error;
        uint32_t stream;
        uint32_t how, value, oom_kills, pids_hit, killed;
        uint64_t execed_at, offset, memory_peak, cpu_us, stdout_end, stderr_end;
        const uint8_t *data;
        size_t n_data;
        char *stage;
        char *text;
        char **capabilities;    /* NULL-terminated, or NULL */
        char **absent;
        LaunchGpu *gpus;
        size_t n_gpus;
        uint32_t cpus;
        uint64_t memory;
};

/* ---- message.c ---- */

/* -EBADMSG where an attribute is malformed or given twice; -ENOMEM. Deinit in any case. */
int message_read(LaunchReader *reader, Message *m) _must_check_;
void message_deinit(Message *m);
static inline bool message_has(const Message *m, LaunchAttr attr) {
        return m->present & UINT64_C(1) << attr;
}
/* Encodes a SPAWN into b. WORKER_E_TOO_LARGE with ret_text, -ENOMEM. */
int message_write_spawn(Buf *b, const WorkerSpec *spec, char *ret_text, size_t n_text) _must_check_;

/* ---- client.c ---- */

/* Ends the connection; it is made again unless the client is closing. */
void client_drop(LauncherClient *client, int error);
/* Sends client->message; a failure drops the connection, whose next LIST makes up for it. */
void client_send(LauncherClient *client);
/* Starts client->message as one about an attempt. */
int client_begin(LauncherClient *client, LaunchType type, const Id *attempt) _must_check_;
/* One small message about an attempt; attributes of 0 are left out. */
void client_say(LauncherClient *client, LaunchType type, const Id *attempt, uint32_t stream, uint64_t offset,
                uint32_t grace_ms);

/* ---- worker.c: what arrives for an attempt ---- */

Worker *worker_find(LauncherClient *client, const Id *attempt);
int worker_on_listed(LauncherClient *client, const Message *m, int *fds, size_t n_fds) _must_check_;
int worker_on_spawned(LauncherClient *client, const Message *m, int *fds, size_t n_fds) _must_check_;
int worker_on_spawn_failed(LauncherClient *client, const Message *m, int *fds, size_t n_fds) _must_check_;
int worker_on_output(LauncherClient *client, const Message *m, int *fds, size_t n_fds) _must_check_;
int worker_on_exited(LauncherClient *client, const Message *m, int *fds, size_t n_fds) _must_check_;

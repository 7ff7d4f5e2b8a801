#pragma once

/*
 * worker: the router's side of the launcher protocol (base/launch.h). A LauncherClient owns the connection: it says
 * HELLO and LIST, then spawns, kills, acknowledges and forgets attempts. A connection that is lost is made again (the
 * connected socket comes from `connect`, since the confined reactor can't make one by itself on the ring); workers stay
 * known across it. A Worker is one attempt that the launcher holds.
 *
 * Flow: launcher_spawn() → on_spawned | on_spawn_failed; on_output … → the owner commits and then calls worker_acked();
 * on_exited (after the last output) → the owner commits and then calls worker_forget(), which ends the Worker.
 */

#include "base/id.h"
#include "base/launch.h"
#include "base/map.h"
#include "base/macro.h"
#include "reactor/packet.h"
#include "reactor/reactor.h"

typedef struct LauncherClient LauncherClient;
typedef struct LauncherVtable LauncherVtable;
typedef struct Worker Worker;
typedef struct WorkerExit WorkerExit;
typedef struct WorkerSpec WorkerSpec;

struct WorkerExit {
        LaunchHow how;
        uint32_t value;                 /* exit code or signal */
        uint32_t oom_kills;
        uint32_t pids_hit;
        uint64_t memory_peak;
        uint64_t cpu_us;
        bool killed;                    /* by KILL */
};

/* Borrowed during launcher_spawn(). */
struct WorkerSpec {
        Id attempt;
        Id task;
        const char *agent;
        const char *const *argv;        /* NULL-terminated, argv[0] absolute */
        const char *const *environment;
        const char *const *credentials; /* "NAME=credential"; may be NULL */
        const char *const *read_only;   /* may be NULL */
        const char *const *home_files;  /* pairs: path, content; may be NULL */
        const char *const *require;     /* capabilities; may be NULL */
        const void *stdin_data;         /* put into a sealed memfd */
        size_t n_stdin;
        const char *workspace;          /* may be NULL */
        const char *seccomp;
        int64_t uid;                    /* −1: the worker user */
        uint64_t memory_max;            /* 0: none */
        uint32_t pids_max;
        uint32_t cpu_percent;
        /*
         * Indexes into launcher_client_gpus(): the attempt sees these and no others. One that the launcher does not
         * know (any more) ends in on_spawn_failed() with stage "gpu". May be NULL.
         */
        const uint32_t *gpus;
        size_t n_gpus;
        bool network;
};

struct Worker {
        MapNode node;                   /* by attempt */
        LauncherClient *client;
        Id attempt;
        int pidfd;                      /* −1 until SPAWNED; liveness only */
        uint32_t pid;
        void *userdata;                 /* the owner's */
        uint64_t offset[2];             /* next byte expected, stdout and stderr */
        uint64_t acked[2];              /* everything before is durable here */
        uint64_t seen[2];               /* what this connection has brought ends here */
        uint64_t said[2];               /* acknowledged on this connection */
        uint32_t grace_ms;              /* of the kill */
        bool killing;                   /* said again after a reconnect */
        bool spawned;
        bool exited;
        bool listed;                    /* seen in the LIST of this connection */
};

struct LauncherVtable {
        /*
         * LIST is complete. For each attempt that the launcher holds, on_listed was called before; workers that the
         * owner knows but the launcher does not are gone (lost). generation tells whether it is the same launcher as
         * before.
         */
        void (*on_ready)(LauncherClient *client, const Id *generation);
        /* An attempt that the launcher holds: its Worker (by worker_adopt()), or NULL: killed and forgotten. */
        Worker *(*on_listed)(LauncherClient *client, const Id *attempt, uint32_t pid);
        void (*on_spawned)(Worker *worker, uint64_t execed_at_us);
        /* The worker is ended and freed after the call. */
        void (*on_spawn_failed)(Worker *worker, const char *stage, int error, const char *text);
        /* stream 1 or 2; bytes [offset, offset + n) of it, in order, never repeated within a Worker. */
        void (*on_output)(Worker *worker, unsigned stream, uint64_t offset, const uint8_t *data, size_t n);
        void (*on_exited)(Worker *worker, const WorkerExit *exit);
        /*
         * The connection is lost, or could not be made; it is retried. Called once an outage, and again where the
         * reason changes:
         * -EPROTONOSUPPORT where launcher and router share no version, -EBADMSG where the launcher broke the protocol.
         */
        void (*on_lost)(LauncherClient *client, int error);
        /* All that was queued is sent: WORKER_E_BUSY is over. May be NULL. */
        void (*on_drain)(LauncherClient *client);
};

/* A connected SOCK_SEQPACKET socket to the launcher, or -errno (tried again with back-off, 50 ms to 2 s). */
typedef int (*LauncherConnectFn)(void *userdata);

int launcher_client_new(LauncherClient **ret_client, Reactor *reactor, const LauncherVtable *vtable, void *userdata,
                        LauncherConnectFn connect) _must_check_;
/* Two-phase: on_closed after the last completion; then launcher_client_free(). */
void launcher_client_close(LauncherClient *client, void (*on_closed)(LauncherClient *client));
LauncherClient *launcher_client_free(LauncherClient *client);
void launcher_client_start(LauncherClient *client);
bool launcher_client_is_ready(const LauncherClient *client);
void *launcher_client_userdata(const LauncherClient *client);
/* "NAME" that the launcher has; NULL-terminated strings of its HELLO, valid until the next connection. */
const char *const *launcher_client_capabilities(const LauncherClient *client);
const char *const *launcher_client_absent(const LauncherClient *client);
/*
 * The machine, as the launcher's HELLO tells of it; valid until the next connection, and kept while there is none. A
 * GPU's place in the array is its index. None, and 0, before the first connection and of a launcher that is too old to
 * tell. CPUs are those that the launcher may use, memory is the machine's RAM in bytes.
 */
const LaunchGpu *launcher_client_gpus(const LauncherClient *client, size_t *ret_n);
uint32_t launcher_client_cpus(const LauncherClient *client);
uint64_t launcher_client_memory(const LauncherClient *client);

enum {
        _WORKER_E_SUCCESS,
        WORKER_E_NOT_READY,             /* no launcher now */
        WORKER_E_TOO_LARGE,             /* the message has no room for it: launcher_client_too_large() says what */
        WORKER_E_BUSY,                  /* the socket's queue is full: try again after on_drain */
};

/* 0, or a WORKER_E_; -errno where there is no memory or descriptor for it. */
int launcher_spawn(LauncherClient *client, const WorkerSpec *spec, void *userdata, Worker **ret_worker) _must_check_;
/* What did not fit, after WORKER_E_TOO_LARGE: one sentence, valid until the next launcher_spawn(). */
const char *launcher_client_too_large(const LauncherClient *client);
/* A Worker for an attempt found in the LIST; output starts at these committed offsets. */
int worker_adopt(LauncherClient *client, const Id *attempt, const uint64_t offset[static 2], void *userdata,
                 Worker **ret_worker) _must_check_;
void worker_kill(Worker *worker, uint32_t grace_ms);
/* Everything before offset is durable. */
void worker_acked(Worker *worker, unsigned stream, uint64_t offset);
/* The exit record is durable; frees the worker. */
void worker_forget(Worker *worker);
/* Frees the worker without a word to the launcher (a lost one). */
Worker *worker_free(Worker *worker);

#pragma once

/*
 * The tests' router: starts a real agent-router-launcher in a folder of its own, as root or as a plain user, and speaks
 * the protocol to it. Every wait has a deadline; nothing sleeps to synchronise.
 */

#include "base/buf.h"
#include "base/id.h"
#include "base/launch.h"

/* A uid that no passwd file knows, for the plain-user instance. */
#define CLIENT_PLAIN_UID 54321

typedef struct Client {
        char dir[64];           /* holds state run config ws credentials seccomp */
        bool plain;             /* as CLIENT_PLAIN_UID, or as whoever runs the test */
        bool masked;            /* behind an over-mounted /proc, as in a container */
        unsigned nofile;        /* descriptors that the launcher may have; 0: as we may */
        /* Pairs: a name below /dev, and the node that stands there; the launcher gets a /dev with these. Needs root. */
        const char *const *devices;
        uid_t uid;              /* of tasks */
        pid_t pid;              /* the launcher */
        int listen_fd;
        int notify_fd;
        int fd;                 /* the connection; -1: none */
        char capabilities[1024];
        Id generation;
        LaunchGpu gpus[8];
        size_t n_gpus;
        uint32_t cpus;
        uint64_t memory;
        Id listed[64];
        size_t n_listed;
} Client;

typedef struct Message {
        LaunchType type;
        Id attempt;
        uint32_t stream, how, value, killed, oom_kills, pids_hit, pid;
        uint64_t offset, stdout_end, stderr_end, cpu_us, memory_peak, execed_at;
        char stage[32];
        char text[1024];
        uint32_t error;
        uint8_t data[LAUNCH_OUTPUT_MAX];
        size_t n;
} Message;

/* What a whole run said. */
typedef struct Run {
        Message last;           /* EXITED or SPAWN_FAILED */
        Buf out;                /* stdout and stderr, NUL-terminated */
        Buf err;
} Run;

/* Makes the folders and starts the launcher; extra is YAML below `sandbox:`, indented by two. */
void client_start(Client *c, bool plain, const char *extra);
/* The same with c->masked, c->nofile and c->devices set before; the other fields are overwritten. */
void client_start_limited(Client *c, bool plain, const char *extra);
/* Starts it again in the same folders. */
void client_restart(Client *c);
/* SIGTERM and the folders removed; the exit status must be 0. */
void client_stop(Client *c);
void client_kill_launcher(Client *c);
/* HELLO and LIST; fills capabilities, generation, listed. */
void client_connect(Client *c);
void client_disconnect(Client *c);
bool client_has(const Client *c, const char *capability);
bool client_is_listed(const Client *c, const Id *attempt);

void client_send(Client *c, const Buf *b, int fd);
/* false: the launcher closed the connection. Fails the test after the deadline. */
bool client_receive(Client *c, Message *m);
/* True where nothing arrives for so long. */
bool client_is_silent(Client *c, int timeout_ms);
void client_ack(Client *c, const Id *attempt, unsigned stream, uint64_t offset);
void client_tell(Client *c, LaunchType type, const Id *attempt, uint32_t grace_ms);

/* A SPAWN of `/bin/sh -c script` in the workspace as the client's uid; more may be added before it is sent. */
void client_spawn_begin(Client *c, Buf *b, Id *ret_attempt, const char *script);
void client_add_str(Buf *b, LaunchAttr attr, const char *s);
/* The same, sent. */
void client_spawn(Client *c, Id *ret_attempt, const char *script);
/* Receives and acknowledges until EXITED or SPAWN_FAILED of this attempt. */
void client_collect(Client *c, const Id *attempt, Run *ret_run);
/* Spawns, collects, forgets; the caller run_deinit()s. */
void client_run(Client *c, Run *ret_run, const char *script);
void run_deinit(Run *r);

void client_put_file(Client *c, const char *path, const char *text, mode_t mode);
char *client_path(Client *c, const char *path);
/* Waits until a process with this text in its command line exists, or no longer does. */
void client_wait_process(const char *marker, bool exists);

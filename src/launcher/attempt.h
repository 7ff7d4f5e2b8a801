#pragma once

/*
 * attempt: one sandbox and what comes out of it, from SPAWN to FORGET.
 *
 *     starting ──(report pipe closes on execve)──► running ──(all dead, streams drained)──► ended ──FORGET──► gone
 *         └────────(failure, or death before it)──► failed ──SPAWN_FAILED sent──► gone
 *
 * Output is read into a Window a stream, and read no further while that is full. Nothing is ever queued for the router:
 * attempt_next() looks at the state and writes the next message that is due; attempt_sent() takes note that it left.
 */

#include "base/id.h"
#include "base/launch.h"
#include "base/map.h"
#include "launcher/cgroup.h"
#include "launcher/failure.h"
#include "launcher/init.h"
#include "launcher/launcher.h"
#include "launcher/spec.h"
#include "launcher/window.h"

typedef struct AttemptStream AttemptStream;
typedef struct Spawn Spawn;

typedef enum AttemptState {
        ATTEMPT_STARTING,
        ATTEMPT_RUNNING,
        ATTEMPT_ENDED,
        ATTEMPT_FAILED,
} AttemptState;

/* What attempt_next() wrote. */
typedef enum AttemptMessage {
        ATTEMPT_NOTHING,
        ATTEMPT_SPAWNED,
        ATTEMPT_SPAWN_FAILED,
        ATTEMPT_OUTPUT,
        ATTEMPT_EXITED,
} AttemptMessage;

struct AttemptStream {
        Attempt *attempt;
        LoopSource source;
        int fd;                 /* -1: ended */
        size_t left;            /* bytes of the pipe to be read yet, once the last process has died */
        Window window;
};

struct Attempt {
        MapNode node;
        ListLink dirty;         /* Server.dirty */
        ListLink listing;       /* Server.listing */
        Launcher *launcher;
        Id id;
        char task[ID_TEXT_MAX];
        char text_id[ID_TEXT_MAX];
        char agent[SPEC_AGENT_MAX + 1];
        AttemptState state;

        pid_t pid;              /* init's */
        LoopSource init;        /* pidfd */
        int pidfd;
        LoopSource report;
        int report_fd;
        Spawn *spawn;           /* what the child was given; NULL once the report pipe has closed */
        LoopSource status_source;
        int status_fd;
        AttemptStream streams[2];
        Cgroup cgroup;
        LoopTimer kill_timer;
        LoopTimer cgroup_timer; /* removal is tried again */
        unsigned cgroup_tries;

        bool ready;             /* the agent stood before its execve */
        bool dead;              /* nothing of the task runs any more: init has said so, or is gone */
        bool reaped;            /* init is gone */
        bool killed;            /* by KILL */
        bool forgotten;         /* FORGET came before the end */
        bool spawned_sent;
        bool exited_sent;       /* on this connection */
        unsigned output_stream; /* of the OUTPUT that attempt_next() wrote last */
        size_t output_n;
        uint64_t left_at_us;    /* when the agent left the memory that it shared with init: its execve, if it was one */
        uint64_t execed_at_us;
        InitStatus status;      /* how 0: init died without a word */
        CgroupUsage usage;
        Failure failure;
};

/* Starts an attempt; the spec and stdin (or -1) are taken in any case. -errno: no memory, nothing was made. */
int attempt_new(Launcher *l, Spec *spec, int stdin_fd, Attempt **ret_attempt) _must_check_;
Attempt *attempt_free(Attempt *a);
Attempt *attempt_find(Launcher *l, const Id *id);

void attempt_kill(Attempt *a, uint32_t grace_ms);
/* stream 1 or 2. false: the offset is beyond what was sent. */
bool attempt_ack(Attempt *a, unsigned stream, uint64_t offset);
/* The attempt may be gone afterwards. */
void attempt_forget(Attempt *a);
/* A new connection: everything that was not acknowledged is sent again. */
void attempt_rewind(Attempt *a);

int attempt_listed(const Attempt *a, Buf *b) _must_check_;
/* Writes the next message that is due into the empty b; *ret_fd is a descriptor to pass along (borrowed) or -1. */
int attempt_next(Attempt *a, Buf *b, AttemptMessage *ret_message, int *ret_fd) _must_check_;
/* The message that attempt_next() wrote last has left. The attempt may be gone afterwards. */
void attempt_sent(Attempt *a, AttemptMessage message);

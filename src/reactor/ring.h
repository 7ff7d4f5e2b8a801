#pragma once

/*
 * Ring: what the reactor needs of an io_uring; private to this layer. ring.c implements it by liburing, ring-sim.c by a
 * seeded simulation. A program links one of the two (reactor_dep or reactor_sim_dep).
 */

#include "reactor/reactor.h"

typedef struct Ring Ring;
typedef struct RingCompletion RingCompletion;

/*
 * Receive buffers shared by all streams: a buffer is held only while its callback runs, so this bounds what one tick
 * can receive, not the number of streams. 512 KiB of lazily touched memory, of the daemon's 5 MiB.
 */
#define RING_BUFFER_SIZE        KIB(4)
#define RING_N_BUFFERS          128

struct RingCompletion {
        Op *op;
        int res;
        bool more;
        bool has_buffer;
        uint16_t buffer_id;
};

/* Starts disabled. REACTOR_E_NO_IO_URING (logged), -errno. */
int ring_new(Ring **ret_ring, ReactorFeatures *ret_features) _must_check_;
Ring *ring_free(Ring *ring);
DEFINE_CLEANUP(Ring, ring_free);

/* Locks the ring to the reactor's operations and enables it. */
int ring_enable(Ring *ring) _must_check_;
/* Queues an operation, or the cancellation of a running one. false: no room even after handing the queue over. */
bool ring_push(Ring *ring, Op *op) _must_check_;
bool ring_push_cancel(Ring *ring, Op *op) _must_check_;

enum {
        _RING_E_SUCCESS,
        RING_E_BUSY,            /* the kernel took nothing for now; completions can be reaped all the same */
};

/* Submits and waits for a completion, at most timeout_us (0: not at all; UINT64_MAX: for ever). */
int ring_wait(Ring *ring, uint64_t timeout_us) _must_check_;
/* Takes at most n completions. */
size_t ring_reap(Ring *ring, RingCompletion *ret_completions, size_t n);

const uint8_t *ring_buffer(const Ring *ring, uint16_t buffer_id);
void ring_buffer_return(Ring *ring, uint16_t buffer_id);

/* reactor.c's, for the other files of this layer and its tests. */
Ring *reactor_ring(Reactor *reactor);
void reactor_count_enobufs(Reactor *reactor);
void reactor_count_exhausted(Reactor *reactor);

/* For tests, real ring only: features that the next rings do without (all true: as the kernel has them). */
void ring_limit_features(const ReactorFeatures *most);
/* For tests, real ring only: submits one raw SQE of this opcode and returns its result. */
int ring_submit_raw(Ring *ring, int opcode);

#pragma once

/*
 * The simulated twin of the ring, for unit tests (link reactor_sim_dep in the place of reactor_dep).
 *
 * It is one thread's io_uring in user space: operations are tried without blocking on real descriptors (socketpairs,
 * loopback listeners, files), in an order, with sizes, delays and errors that a seed decides. So a test drives the far
 * end of a socketpair with plain read(2) and write(2), or with another Stream of the same reactor. The clock is virtual
 * (clock_freeze()): it stands still while anything can happen and jumps to the next timer when nothing can; waiting for
 * ever with nothing to come is -EDEADLK. Anything else that a run depends on must come from the test: the same seed and
 * the same calls give the same run.
 */

#include "reactor/reactor.h"

#define RING_SIM_N_BUFFERS_MAX 16

typedef struct RingSimOptions RingSimOptions;

struct RingSimOptions {
        uint64_t seed;
        /* of the buffer ring, 1 to RING_SIM_N_BUFFERS_MAX; 0: 4, so that it runs dry often */
        unsigned n_buffers;
        unsigned delay_percent;         /* an operation that could go on does so in a later wait */
        unsigned short_percent;         /* a send, receive, read or write moves a random part */
        unsigned enobufs_percent;       /* a multishot receive ends with -ENOBUFS */
        unsigned end_percent;           /* a multishot operation ends after a completion, as when the queue overflows */
        unsigned full_percent;          /* the submission queue has no room left */
        unsigned busy_percent;          /* RING_E_BUSY */
        unsigned reset_permille;        /* a send or receive fails with -ECONNRESET, and the connection with it */
        unsigned emfile_percent;        /* an accept fails with -EMFILE; the connection stays in the backlog */
        unsigned sync_error_percent;    /* fdatasync fails with -EIO */
        bool single_shot;               /* features of an old kernel: no buffer ring, no multishot */
};

/* A lively ring without errors: what a correct owner must not notice. */
#define RING_SIM_LIVELY(s) {                                                                            \
                .seed = (s), .delay_percent = 20, .short_percent = 50, .enobufs_percent = 10,           \
                .end_percent = 5, .full_percent = 5, .busy_percent = 1,                                 \
        }

/* For the reactor_new() calls from now on; without it, a quiet ring with seed 1. */
void ring_sim_configure(const RingSimOptions *options);
/*
 * A number below n from a generator of the caller's (splitmix64; its state is any seed): for the test's own decisions.
 */
static inline uint64_t ring_sim_random(uint64_t *state, uint64_t n) {
        uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        return (z ^ (z >> 31)) % n;
}

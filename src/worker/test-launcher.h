#pragma once

/*
 * The client's tests run it against a launcher of their own: the other end of a socketpair, on the same reactor. What
 * the client says is written into `heard`, what its owner is told into `told`, one line a message.
 */

#include "reactor/test-util.h"
#include "worker/internal.h"

typedef struct Fixture {
        Reactor *reactor;
        LauncherClient *client;
        bool client_closed;
        /* the launcher */
        PacketSocket socket;
        bool connected;                 /* a socket is open here */
        bool gone;                      /* the client closed its end */
        unsigned n_connects;
        int refuse_connect;             /* -errno of the next connects */
        bool auto_hello, auto_list;     /* answers by itself */
        uint32_t version, version_min;
        LaunchGpu gpus[2];              /* told in HELLO up to the first without a name */
        bool tells_machine;
        Id generation;
        const Id *listed[4];
        uint64_t listed_execed_at;
        char heard[4096];
        int stdin_fd;
        /* the owner */
        char told[4096];
        char output[2][4096];
        size_t n_output[2];
        int lost_error;
        WorkerExit exit;
        const Id *adopt[4];
        uint64_t adopt_offset[2];
        bool forget_on_exit;
        bool free_on_failure;
} Fixture;

/* ---- what the launcher says: begin, add, finish; or whole messages ---- */

extern Buf message;
void begin(LaunchType type, const Id *attempt);
void add_u32(LaunchAttr attr, uint32_t v);
void add_u64(LaunchAttr attr, uint64_t v);
void add_str(LaunchAttr attr, const char *s);
void finish(Fixture *f);
void say_spawned(Fixture *f, const Id *attempt);
void say_output(Fixture *f, const Id *attempt, uint32_t stream, uint64_t offset, const char *data);
void say_exited(Fixture *f, const Id *attempt, uint32_t value, uint64_t stdout_end);

/* ---- the fixture ---- */

extern const char *const argv_true[];
extern const char *const environment_home[];
/* An id of sixteen times this byte. */
Id attempt_id(uint8_t n);
/* Skips the test where there is no io_uring. */
void fixture_init(Fixture *f);
/* Connects and shakes hands. */
void fixture_start(Fixture *f);
void fixture_deinit(Fixture *f);
/* Ticks until so much was told or heard, which must then be just this; what was recorded is cleared. */
void run_until_told(Fixture *f, const char *expected);
void run_until_heard(Fixture *f, const char *expected);
/* An attempt whose SPAWN the launcher has heard; the same, and its SPAWNED told. */
Worker *spawn(Fixture *f, uint8_t n);
Worker *spawned(Fixture *f, uint8_t n);
/* The launcher hangs up, and the client comes back. */
void reconnect(Fixture *f);

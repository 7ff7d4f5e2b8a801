#pragma once

/*
 * launch: the launcher protocol, used by agent-router-launcher (server) and src/worker (client).
 *
 * SOCK_SEQPACKET on a Unix socket; one packet is one message: a LaunchHeader and then attributes
 * {u16 type, u16 reserved, u32 length, bytes padded to 4}. Integers are little endian (both ends are one machine).
 * A reader skips attributes that it does not know, so fields can be added; LAUNCH_VERSION grows when a message is
 * added or changes meaning, and both ends speak the lower version of the two HELLOs (N−1 accepted; older refused).
 *
 *   router → launcher                            launcher → router
 *   HELLO  version_min, version, instance        HELLO  version_min, version, generation, capabilities…, the machine
 *   LIST                                         LISTED … one per attempt it holds, LIST_END
 *   SPAWN  attempt, spec… [fd: stdin memfd]      SPAWNED attempt, pid [fd: pidfd]
 *                                                | SPAWN_FAILED attempt, stage, errno, text
 *   ACK    attempt, stream, offset               OUTPUT attempt, stream, offset, data
 *   KILL   attempt, grace_ms                     EXITED attempt, how, value, usage…
 *   FORGET attempt (exit record is durable)      REFUSED type, text
 *
 * SPAWN is idempotent by attempt id. OUTPUT carries the byte offset in its stream; the launcher keeps bytes until they
 * are acknowledged (window LAUNCH_WINDOW a stream), stops reading the pipe when the window is full, and after a
 * reconnect (LIST) sends again from the first unacknowledged byte. EXITED comes after the last OUTPUT byte of both
 * streams was sent, is sent again after each reconnect, and is kept until FORGET.
 */

#include "base/buf.h"
#include "base/id.h"
#include "base/macro.h"

#define LAUNCH_VERSION          1
#define LAUNCH_VERSION_MIN      1
#define LAUNCH_MESSAGE_MAX      KIB(64)
#define LAUNCH_OUTPUT_MAX       KIB(32)         /* data bytes of one OUTPUT */
/*
 * Unacknowledged bytes kept for each stream of an attempt: the longest line that the adapter joins (ADAPTER_LINE_MAX)
 * and a quarter; the router acknowledges at line ends.
 */
#define LAUNCH_WINDOW           (MIB(1) + KIB(256))
#define LAUNCH_MAGIC            0x41524c31u     /* "ARL1" */
/* GPUs of one machine: what a task may ask for at most, and some 14 KiB of HELLO. */
#define LAUNCH_GPUS_MAX         64
/* Attempts on one GPU: far more than its memory holds. */
#define LAUNCH_GPU_SHARES_MAX   64
/* Bytes with the NUL, as NVML's own buffers for the two (NVML_DEVICE_NAME_V2_, _UUID_V2_BUFFER_SIZE). */
#define LAUNCH_GPU_NAME_SIZE    96
#define LAUNCH_GPU_UUID_SIZE    96

typedef struct LaunchGpu LaunchGpu;
typedef struct LaunchHeader LaunchHeader;
typedef struct LaunchReader LaunchReader;

typedef enum LaunchType {
        LAUNCH_HELLO = 1,
        LAUNCH_LIST,
        LAUNCH_LISTED,
        LAUNCH_LIST_END,
        LAUNCH_SPAWN,
        LAUNCH_SPAWNED,
        LAUNCH_SPAWN_FAILED,
        LAUNCH_OUTPUT,
        LAUNCH_ACK,
        LAUNCH_KILL,
        LAUNCH_EXITED,
        LAUNCH_FORGET,
        LAUNCH_REFUSED,
} LaunchType;

typedef enum LaunchAttr {
        /* any message about an attempt */
        LAUNCH_ATTR_ATTEMPT = 1,        /* Id, 16 bytes */
        LAUNCH_ATTR_TASK,               /* Id; for the journal */
        /* HELLO */
        LAUNCH_ATTR_VERSION,            /* u32 */
        LAUNCH_ATTR_VERSION_MIN,        /* u32 */
        LAUNCH_ATTR_GENERATION,         /* Id; new at every start of the launcher */
        LAUNCH_ATTR_CAPABILITY,         /* string, repeated: "cgroup.memory", "landlock.4", "pidns", "userns", "proc.fresh"… */
        LAUNCH_ATTR_ABSENT,             /* string, repeated: "NAME: reason and remedy" */
        /* SPAWN */
        LAUNCH_ATTR_ARGV,               /* string, repeated; argv[0] is an absolute path */
        LAUNCH_ATTR_ENV,                /* "NAME=value", repeated; the whole environment */
        LAUNCH_ATTR_ENV_CREDENTIAL,     /* "NAME=credential", repeated: value read by the launcher from its credentials */
        LAUNCH_ATTR_UID,                /* u32; absent: the worker user */
        /* absolute path, opened under UID, mounted read-write at its own path; absent: none */
        LAUNCH_ATTR_WORKSPACE,
        LAUNCH_ATTR_READ_ONLY,          /* absolute path, repeated: also visible, read-only */
        LAUNCH_ATTR_SECCOMP,            /* name of a profile under the seccomp directory */
        LAUNCH_ATTR_MEMORY_MAX,         /* u64 bytes */
        LAUNCH_ATTR_PIDS_MAX,           /* u32 */
        LAUNCH_ATTR_CPU_PERCENT,        /* u32; 100 is one CPU */
        LAUNCH_ATTR_REQUIRE,            /* string, repeated: a capability without which the spawn must fail */
        /* u32 mode, then path below HOME, NUL, content; repeated: seeds the task's home */
        LAUNCH_ATTR_HOME_FILE,
        LAUNCH_ATTR_NETWORK,            /* u32: 0 none (own network namespace), 1 the host's */
        LAUNCH_ATTR_AGENT,              /* string, for the journal and the cgroup's name */
        /* SPAWNED, LISTED */
        LAUNCH_ATTR_PID,                /* u32, in the launcher's pid namespace */
        /* u64, CLOCK_MONOTONIC µs at which the sandbox execve'd (close of the CLOEXEC pipe) */
        LAUNCH_ATTR_EXECED_AT,
        /* SPAWN_FAILED, REFUSED */
        LAUNCH_ATTR_STAGE,              /* string: "cgroup", "workspace", "mount", "landlock", "seccomp", "exec"… */
        LAUNCH_ATTR_ERRNO,              /* u32, positive */
        LAUNCH_ATTR_TEXT,               /* one sentence for a person, with the way out */
        /* OUTPUT, ACK */
        LAUNCH_ATTR_STREAM,             /* u32: 1 stdout, 2 stderr */
        LAUNCH_ATTR_OFFSET,             /* u64; ACK: everything before it is durable */
        LAUNCH_ATTR_DATA,               /* bytes */
        /* KILL */
        LAUNCH_ATTR_GRACE_MS,           /* u32; 0: at once */
        /* EXITED */
        LAUNCH_ATTR_HOW,                /* u32: LaunchHow */
        LAUNCH_ATTR_VALUE,              /* u32: exit code or signal */
        LAUNCH_ATTR_OOM_KILLS,          /* u32, of the cgroup */
        LAUNCH_ATTR_MEMORY_PEAK,        /* u64 bytes, 0 unknown */
        LAUNCH_ATTR_CPU_US,             /* u64 */
        LAUNCH_ATTR_STDOUT_END,         /* u64: total bytes of stdout */
        LAUNCH_ATTR_STDERR_END,         /* u64 */
        LAUNCH_ATTR_PIDS_HIT,           /* u32: times pids.max refused a fork */
        LAUNCH_ATTR_KILLED,             /* u32: 1 where KILL (not the agent itself) ended it */
        /* HELLO of the launcher: the machine */
        LAUNCH_ATTR_GPU_INFO,           /* LaunchGpu by launch_add_gpu(), repeated, in the order of its index from 0 */
        LAUNCH_ATTR_CPUS,               /* u32: CPUs that the launcher may use */
        LAUNCH_ATTR_MEMORY,             /* u64: bytes of RAM */
        /* SPAWN */
        LAUNCH_ATTR_GPU,                /* u32, repeated: index of a GPU that it holds; said twice, it counts once */
        _LAUNCH_ATTR_N,
} LaunchAttr;

typedef enum LaunchHow {
        LAUNCH_HOW_EXITED = 1,
        LAUNCH_HOW_SIGNALLED,
        LAUNCH_HOW_LOST,                /* init died without a report */
} LaunchHow;

/* One GPU of the machine, or what the configuration declares as one. */
struct LaunchGpu {
        uint32_t index;                         /* from 0; what SPAWN's GPU names */
        uint32_t shares;                        /* attempts that may hold it at once, at least 1: the router counts */
        uint64_t memory;                        /* bytes; 0: unknown */
        char name[LAUNCH_GPU_NAME_SIZE];        /* for people; never empty */
        char uuid[LAUNCH_GPU_UUID_SIZE];        /* "GPU-…"; empty: unknown */
};

struct LaunchHeader {
        uint32_t magic;
        uint16_t type;
        uint16_t flags;         /* none yet: written as 0, ignored */
        uint32_t length;        /* of the whole message, so that a cut one is known even at an attribute's end */
};

/*
 * Starts a message in b, which must be empty; every launch_add() leaves a whole message there. LAUNCH_E_FULL where the
 * message would pass LAUNCH_MESSAGE_MAX or b's own bound (nothing is added then), -ENOMEM.
 */
int launch_begin(Buf *b, LaunchType type) _must_check_;
int launch_add(Buf *b, LaunchAttr attr, const void *data, size_t n) _must_check_;
int launch_add_u32(Buf *b, LaunchAttr attr, uint32_t v) _must_check_;
int launch_add_u64(Buf *b, LaunchAttr attr, uint64_t v) _must_check_;
int launch_add_str(Buf *b, LaunchAttr attr, const char *s) _must_check_;
int launch_add_id(Buf *b, LaunchAttr attr, const Id *id) _must_check_;
/* GPU_INFO: u32 index, u32 shares, u64 memory, name, NUL, uuid. */
int launch_add_gpu(Buf *b, const LaunchGpu *gpu) _must_check_;

enum {
        _LAUNCH_E_SUCCESS,
        LAUNCH_E_MALFORMED,     /* not a message of this protocol */
        LAUNCH_E_END,           /* no attribute left */
        LAUNCH_E_FULL,          /* the message would be too long */
};

struct LaunchReader {
        const uint8_t *data;
        size_t n;
        size_t at;
        LaunchType type;
};

int launch_open(LaunchReader *reader, const void *data, size_t n) _must_check_;
/* The next attribute, pointing into the message. LAUNCH_E_END, LAUNCH_E_MALFORMED. Unknown ones are returned too. */
int launch_next(LaunchReader *reader, LaunchAttr *ret_attr, const uint8_t **ret_data, size_t *ret_n) _must_check_;
/* Typed readers: false where the length is wrong (or a string holds NUL). */
bool launch_u32(const uint8_t *data, size_t n, uint32_t *ret_v);
bool launch_u64(const uint8_t *data, size_t n, uint64_t *ret_v);
bool launch_id(const uint8_t *data, size_t n, Id *ret_id);
/* Copies into a new string. false: holds NUL; *ret_s NULL: no memory. */
bool launch_str(const uint8_t *data, size_t n, char **ret_s);
/*
 * false: a field out of its bounds, a name that is no printable UTF-8, a uuid of other than letters, digits, '.', '_'
 * and '-'.
 */
bool launch_gpu(const uint8_t *data, size_t n, LaunchGpu *ret_gpu);
/* Printable UTF-8 of 1 to LAUNCH_GPU_NAME_SIZE − 1 bytes. */
bool launch_gpu_name_is_valid(const char *name);

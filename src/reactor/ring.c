/*
 * The real ring. It starts disabled, so that what needs registering (the receive buffers, the probe, the restrictions)
 * is registered before the kernel locks both the operations and the registrations.
 *
 * With DEFER_TASKRUN completions appear only within io_uring_enter(IORING_ENTER_GETEVENTS): ring_wait() always asks for
 * them, and nothing else looks for completions in between.
 */

#include <liburing.h>
#include <sys/mman.h>
#include <time.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "reactor/ring.h"

/* Submissions of one tick beyond this take one more enter; completions beyond this are kept by the kernel (NODROP). */
#define RING_N_SUBMISSIONS 256
#define RING_N_COMPLETIONS 2048
#define RING_BUFFER_GROUP 0
/* The kernel is out of memory: asking again at once would only take it more time. */
#define RING_BUSY_PAUSE_NS 1000000

struct Ring {
        struct io_uring uring;
        struct io_uring_buf_ring *buffers;      /* one page of ring, then the buffers themselves */
        size_t n_mapped;
        bool has_uring;
        bool said_busy;
};

static ReactorFeatures ring_features_most = { true, true, true, true, true };

static const uint8_t ring_opcodes[_OP_VERB_N] = {
        [OP_POLL]               = IORING_OP_POLL_ADD,
        [OP_POLL_MULTISHOT]     = IORING_OP_POLL_ADD,
        [OP_READ]               = IORING_OP_READ,
        [OP_WRITE]              = IORING_OP_WRITE,
        [OP_SEND]               = IORING_OP_SEND,
        [OP_RECV]               = IORING_OP_RECV,
        [OP_RECV_MULTISHOT]     = IORING_OP_RECV,
        [OP_RECVMSG]            = IORING_OP_RECVMSG,
        [OP_SENDMSG]            = IORING_OP_SENDMSG,
        [OP_ACCEPT]             = IORING_OP_ACCEPT,
        [OP_ACCEPT_MULTISHOT]   = IORING_OP_ACCEPT,
        [OP_FDATASYNC]          = IORING_OP_FSYNC,
        [OP_SHUTDOWN]           = IORING_OP_SHUTDOWN,
};

void ring_limit_features(const ReactorFeatures *most) {
        ring_features_most = *most;
}

/* io_uring is there, but not for us: why, and what to do. */
static int ring_refused(int error) {
        _cleanup_free_ char *text = NULL;
        char disabled = '0';
        size_t n;

        if (error == ENOSYS) {
                log_error("io_uring is not available: the kernel is older than 5.11, built without CONFIG_IO_URING, or a "
                          "seccomp filter hides it; allow io_uring_setup, io_uring_enter and io_uring_register there "
                          "(containers: a seccomp profile that admits them)");
                return REACTOR_E_NO_IO_URING;
        }
        if (fd_read_file(AT_FDCWD, "/proc/sys/kernel/io_uring_disabled", 16, &text, &n) == 0 && n > 0)
                disabled = text[0];
        if (disabled == '2')
                log_error("io_uring is disabled on this machine (kernel.io_uring_disabled=2); "
                          "set it to 0 by sysctl, or to 1 together with kernel.io_uring_group");
        else if (disabled == '1')
                log_error("io_uring is reserved to a group on this machine (kernel.io_uring_disabled=1); put the service's "
                          "user into the group that kernel.io_uring_group names, or set kernel.io_uring_disabled=0");
        else
                log_error("io_uring is refused (%s), most likely by a seccomp filter or a security module; allow "
                          "io_uring_setup, io_uring_enter and io_uring_register for this service", strerror(error));
        return REACTOR_E_NO_IO_URING;
}

static int ring_setup(Ring *ring, ReactorFeatures *features) {
        const unsigned base = IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
        const unsigned best = IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
        /* 6.1, 5.19, 5.11. */
        const unsigned attempts[] = { base | best, base | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN, base };
        struct io_uring_params params;
        int r = -EINVAL;

        for (size_t i = ring_features_most.defer_taskrun ? 0 : 1; i < ELEMENTSOF(attempts) && r == -EINVAL; i++) {
                params = (struct io_uring_params){ .flags = attempts[i], .cq_entries = RING_N_COMPLETIONS };
                r = io_uring_queue_init_params(RING_N_SUBMISSIONS, &ring->uring, &params);
        }
        if (r == -ENOSYS || r == -EPERM || r == -EACCES)
                return ring_refused(-r);
        if (r < 0)
                return error_origin(r);
        ring->has_uring = true;
        /* Waiting with a timeout takes no operation of its own; completions are never dropped. */
        if (!(params.features & IORING_FEAT_EXT_ARG) || !(params.features & IORING_FEAT_NODROP))
                return ring_refused(ENOSYS);
        features->defer_taskrun = params.flags & IORING_SETUP_DEFER_TASKRUN;
        return 0;
}

static int ring_setup_buffers(Ring *ring, ReactorFeatures *features) {
        struct io_uring_buf_reg reg = { .ring_entries = RING_N_BUFFERS, .bgid = RING_BUFFER_GROUP };
        size_t n = KIB(4) + RING_N_BUFFERS * RING_BUFFER_SIZE;
        void *p;
        int r;

        _Static_assert(RING_N_BUFFERS * sizeof(struct io_uring_buf) <= KIB(4), "the ring of buffers fits one page");
        _Static_assert((RING_N_BUFFERS & (RING_N_BUFFERS - 1)) == 0, "the kernel wants a power of two");
        p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
                return error_origin(-errno);
        ring->buffers = p;
        ring->n_mapped = n;
        reg.ring_addr = (uintptr_t)p;
        r = io_uring_register_buf_ring(&ring->uring, &reg, 0);
        if (r < 0)              /* before 5.19: receive into the streams' own memory */
                return 0;
        io_uring_buf_ring_init(ring->buffers);
        for (uint16_t i = 0; i < RING_N_BUFFERS; i++)
                ring_buffer_return(ring, i);
        features->buffer_ring = true;
        return 0;
}

int ring_new(Ring **ret_ring, ReactorFeatures *ret_features) {
        _cleanup_(ring_freep) Ring *ring = calloc(1, sizeof(*ring));
        ReactorFeatures f = {};
        struct io_uring_probe *probe;
        int r;

        if (!ring)
                return error_origin(-ENOMEM);
        r = ring_setup(ring, &f);
        if (r)
                return r > 0 ? r : error_trace(r);
        /* Multishot is a flag, which can't be probed for: an operation of the same release stands for it. */
        probe = io_uring_get_probe_ring(&ring->uring);
        if (!probe)
                return error_origin(-ENOMEM);
        f.multishot_accept = ring_features_most.multishot_accept && io_uring_opcode_supported(probe, IORING_OP_SOCKET);
        f.multishot_recv = ring_features_most.multishot_recv && io_uring_opcode_supported(probe, IORING_OP_SEND_ZC);
        io_uring_free_probe(probe);
        if (ring_features_most.buffer_ring) {
                r = ring_setup_buffers(ring, &f);
                if (r)
                        return error_trace(r);
        }
        f.multishot_recv = f.multishot_recv && f.buffer_ring;
        if (!f.defer_taskrun || !f.multishot_recv || !f.multishot_accept)
                log_notice("io_uring of this kernel lacks%s%s%s%s: it works, with more system calls",
                           f.defer_taskrun ? "" : " DEFER_TASKRUN (Linux 6.1)",
                           f.multishot_recv ? "" : " multishot receive (6.0)",
                           f.buffer_ring ? "" : " buffer rings (5.19)",
                           f.multishot_accept ? "" : " multishot accept (5.19)");
        *ret_features = f;
        *ret_ring = steal_ptr(&ring);
        return 0;
}

Ring *ring_free(Ring *ring) {
        if (!ring)
                return NULL;
        if (ring->has_uring)
                io_uring_queue_exit(&ring->uring);
        if (ring->n_mapped)
                munmap(ring->buffers, ring->n_mapped);
        free(ring);
        return NULL;
}

/* The allow-list is the table of what the reactor submits, and cancelling it. No registration is allowed any more. */
int ring_enable(Ring *ring) {
        struct io_uring_restriction rules[_OP_VERB_N + 2] = {};
        unsigned n = 0;
        int r;

        for (size_t i = 0; i < _OP_VERB_N; i++) {
                rules[n].opcode = IORING_RESTRICTION_SQE_OP;
                rules[n++].sqe_op = ring_opcodes[i];
        }
        rules[n].opcode = IORING_RESTRICTION_SQE_OP;
        rules[n++].sqe_op = IORING_OP_ASYNC_CANCEL;
        rules[n].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
        rules[n++].sqe_flags = IOSQE_BUFFER_SELECT;
        r = io_uring_register_restrictions(&ring->uring, rules, n);
        if (r < 0) {
                log_error("the kernel refuses to restrict the ring (%s): not starting without it", strerror(-r));
                return error_origin(r);
        }
        r = io_uring_enable_rings(&ring->uring);
        return r < 0 ? error_origin(r) : 0;
}

static struct io_uring_sqe *ring_get_sqe(Ring *ring) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);

        if (!sqe) {
                (void)io_uring_submit(&ring->uring);    /* an error shows again in ring_wait() */
                sqe = io_uring_get_sqe(&ring->uring);
        }
        return sqe;
}

bool ring_push(Ring *ring, Op *op) {
        struct io_uring_sqe *sqe = ring_get_sqe(ring);

        if (!sqe)
                return false;
        switch (op->verb) {
        case OP_POLL:
                io_uring_prep_poll_add(sqe, op->fd, op->flags);
                break;
        case OP_POLL_MULTISHOT:
                io_uring_prep_poll_multishot(sqe, op->fd, op->flags);
                break;
        case OP_READ:
                io_uring_prep_read(sqe, op->fd, op->data, (unsigned)op->n, op->offset);
                break;
        case OP_WRITE:
                io_uring_prep_write(sqe, op->fd, op->data, (unsigned)op->n, op->offset);
                break;
        case OP_SEND:
                io_uring_prep_send(sqe, op->fd, op->data, op->n, (int)op->flags);
                break;
        case OP_RECV:
                io_uring_prep_recv(sqe, op->fd, op->data, op->n, (int)op->flags);
                break;
        case OP_RECV_MULTISHOT:
                io_uring_prep_recv_multishot(sqe, op->fd, NULL, 0, (int)op->flags);
                io_uring_sqe_set_flags(sqe, IOSQE_BUFFER_SELECT);
                sqe->buf_group = RING_BUFFER_GROUP;
                break;
        case OP_RECVMSG:
                io_uring_prep_recvmsg(sqe, op->fd, op->data, op->flags);
                break;
        case OP_SENDMSG:
                io_uring_prep_sendmsg(sqe, op->fd, op->data, op->flags);
                break;
        case OP_ACCEPT:
                io_uring_prep_accept(sqe, op->fd, NULL, NULL, (int)op->flags);
                break;
        case OP_ACCEPT_MULTISHOT:
                io_uring_prep_multishot_accept(sqe, op->fd, NULL, NULL, (int)op->flags);
                break;
        case OP_FDATASYNC:
                io_uring_prep_fsync(sqe, op->fd, IORING_FSYNC_DATASYNC);
                break;
        case OP_SHUTDOWN:
                io_uring_prep_shutdown(sqe, op->fd, (int)op->flags);
                break;
        case _OP_VERB_N:
                abort();
        }
        io_uring_sqe_set_data(sqe, op);
        return true;
}

bool ring_push_cancel(Ring *ring, Op *op) {
        struct io_uring_sqe *sqe = ring_get_sqe(ring);

        if (!sqe)
                return false;
        io_uring_prep_cancel(sqe, op, 0);
        io_uring_sqe_set_data(sqe, NULL);
        return true;
}

int ring_wait(Ring *ring, uint64_t timeout_us) {
        struct __kernel_timespec ts = {
                .tv_sec = (long long)(timeout_us / USEC_PER_SEC),
                .tv_nsec = (long long)(timeout_us % USEC_PER_SEC * NSEC_PER_USEC),
        };
        struct io_uring_cqe *cqe;
        int r;

        if (timeout_us == 0)
                r = io_uring_submit_and_get_events(&ring->uring);
        else if (timeout_us == UINT64_MAX)
                r = io_uring_submit_and_wait(&ring->uring, 1);
        else
                r = io_uring_submit_and_wait_timeout(&ring->uring, &cqe, 1, &ts, NULL);
        if (r == -EAGAIN || r == -EBUSY) {
                if (!ring->said_busy)
                        log_warning("io_uring takes no submissions for the moment (%s); trying again", strerror(-r));
                ring->said_busy = true;
                clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){ .tv_nsec = RING_BUSY_PAUSE_NS }, NULL);
                return RING_E_BUSY;
        }
        if (r < 0 && r != -ETIME && r != -EINTR)
                return error_origin(r);
        return 0;
}

size_t ring_reap(Ring *ring, RingCompletion *ret_completions, size_t n) {
        struct io_uring_cqe *cqe;
        unsigned head, n_seen = 0;
        size_t n_completions = 0;

        io_uring_for_each_cqe(&ring->uring, head, cqe) {
                if (n_completions == n)
                        break;
                n_seen++;
                if (!cqe->user_data)            /* a cancellation's own result says nothing that the op's does not */
                        continue;
                ret_completions[n_completions++] = (RingCompletion){
                        .op = io_uring_cqe_get_data(cqe),
                        .res = cqe->res,
                        .more = cqe->flags & IORING_CQE_F_MORE,
                        .has_buffer = cqe->flags & IORING_CQE_F_BUFFER,
                        .buffer_id = (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT),
                };
        }
        io_uring_cq_advance(&ring->uring, n_seen);
        return n_completions;
}

const uint8_t *ring_buffer(const Ring *ring, uint16_t buffer_id) {
        return (const uint8_t *)ring->buffers + KIB(4) + buffer_id * RING_BUFFER_SIZE;
}

void ring_buffer_return(Ring *ring, uint16_t buffer_id) {
        io_uring_buf_ring_add(ring->buffers, (void *)ring_buffer(ring, buffer_id), RING_BUFFER_SIZE, buffer_id,
                              io_uring_buf_ring_mask(RING_N_BUFFERS), 0);
        io_uring_buf_ring_advance(ring->buffers, 1);
}

int ring_submit_raw(Ring *ring, int opcode) {
        struct io_uring_sqe *sqe = ring_get_sqe(ring);
        struct io_uring_cqe *cqe;
        int r;

        if (!sqe)
                return -EBUSY;
        io_uring_prep_rw(opcode, sqe, -1, NULL, 0, 0);
        io_uring_sqe_set_data(sqe, NULL);
        r = io_uring_submit_and_wait(&ring->uring, 1);
        if (r < 0)
                return r;
        r = io_uring_wait_cqe(&ring->uring, &cqe);
        if (r < 0)
                return r;
        r = cqe->res;
        io_uring_cqe_seen(&ring->uring, cqe);
        return r;
}

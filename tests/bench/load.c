/*
 * load: closed-loop load over keep-alive connections, for benchmarks that compare three servers in one run.
 *
 *     load PROTOCOL ADDR PORT CONNECTIONS REQUESTS BODY_FILE [PATH TOKEN]
 *
 * PROTOCOL is `http` (POST PATH with `Authorization: Bearer TOKEN`), `beanstalk` (put) or `resp` (XADD). Each of the
 * connections has one request in flight; the next goes out when the answer has come, until REQUESTS were answered. One
 * thread, epoll, so that the generator's own cost is small and the same for all three.
 *
 * Prints one JSON line: {"requests", "errors", "seconds", "per_second", "p50_us", "p99_us", "max_us"}. Only loopback
 * addresses are accepted, and both count and time are bounded.
 */

#include <arpa/inet.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/parse.h"

#define CONNECTIONS_MAX 1024
#define REQUESTS_MAX    UINT64_C(5000000)       /* 20 MB of latencies */
#define SECONDS_MAX     120
#define BODY_MAX        MIB(1)
#define ANSWER_MAX      KIB(64)                 /* far above any of the answers */
#define EVENTS_N        64

typedef struct Connection Connection;
typedef struct Load Load;
typedef struct Protocol Protocol;

/* Looks at the answer's bytes so far: true once it is whole, with its size and whether it says yes. */
typedef bool (*AnswerFn)(const char *data, size_t n, size_t *ret_n, bool *ret_good);

struct Protocol {
        const char *name;
        int (*request)(Buf *b, const char *body, size_t n_body, const char *path, const char *token);
        AnswerFn answer;
};

struct Connection {
        int fd;
        size_t sent;            /* bytes of the request */
        uint64_t sent_at;       /* µs */
        char *in;               /* ANSWER_MAX + 1 bytes */
        size_t n_in;
        bool idle;
};

struct Load {
        const Protocol *protocol;
        int epoll_fd;
        const uint8_t *request;
        size_t n_request;
        Connection *connections;
        size_t n_connections;
        uint32_t *latencies;
        uint64_t n_wanted;
        uint64_t n_started;
        uint64_t n_answered;
        uint64_t n_errors;
};

static int http_request(Buf *b, const char *body, size_t n_body, const char *path, const char *token) {
        int r;

        r = buf_printf(b, "POST %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n"
                          "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n", path, token, n_body);
        return r ? error_fold(r) : error_fold(buf_append(b, body, n_body));
}

static bool http_answer(const char *data, size_t n, size_t *ret_n, bool *ret_good) {
        const char *end = memmem(data, n, "\r\n\r\n", 4), *field;
        uint64_t length = 0;

        if (!end)
                return false;
        field = strcasestr(data, "\r\nContent-Length: ");
        if (field && field < end) {
                char digits[24] = {};

                field += strlen("\r\nContent-Length: ");
                for (size_t i = 0; i + 1 < sizeof(digits) && field[i] >= '0' && field[i] <= '9'; i++)
                        digits[i] = field[i];
                if (!parse_u64(digits, &length))
                        return false;
        }
        if (n < (size_t)(end + 4 - data) + length)
                return false;
        *ret_n = (size_t)(end + 4 - data) + length;
        *ret_good = n > 9 && data[9] == '2';
        return true;
}

static int beanstalk_request(Buf *b, const char *body, size_t n_body, const char *path, const char *token) {
        int r;

        r = buf_printf(b, "put 50 0 60 %zu\r\n", n_body);
        if (!r)
                r = buf_append(b, body, n_body);
        return r ? error_fold(r) : error_fold(buf_append(b, "\r\n", 2));
}

static bool beanstalk_answer(const char *data, size_t n, size_t *ret_n, bool *ret_good) {
        const char *end = memmem(data, n, "\r\n", 2);

        if (!end)
                return false;
        *ret_n = (size_t)(end + 2 - data);
        *ret_good = str_starts(data, "INSERTED ");
        return true;
}

static int resp_request(Buf *b, const char *body, size_t n_body, const char *path, const char *token) {
        int r;

        r = buf_printf(b, "*5\r\n$4\r\nXADD\r\n$5\r\ntasks\r\n$1\r\n*\r\n$4\r\nbody\r\n$%zu\r\n", n_body);
        if (!r)
                r = buf_append(b, body, n_body);
        return r ? error_fold(r) : error_fold(buf_append(b, "\r\n", 2));
}

/* "$LENGTH\r\nID\r\n", or "-error\r\n". */
static bool resp_answer(const char *data, size_t n, size_t *ret_n, bool *ret_good) {
        const char *end = memmem(data, n, "\r\n", 2), *second;

        if (!end)
                return false;
        if (data[0] != '$') {
                *ret_n = (size_t)(end + 2 - data);
                *ret_good = false;
                return true;
        }
        second = memmem(end + 2, n - (size_t)(end + 2 - data), "\r\n", 2);
        if (!second)
                return false;
        *ret_n = (size_t)(second + 2 - data);
        *ret_good = true;
        return true;
}

static const Protocol protocols[] = {
        { "http", http_request, http_answer },
        { "beanstalk", beanstalk_request, beanstalk_answer },
        { "resp", resp_request, resp_answer },
};

static int connection_open(Load *load, Connection *c, const struct sockaddr_in *address) {
        struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c };
        int one = 1;

        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (c->fd < 0)
                return error_origin(-errno);
        if (connect(c->fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
                return error_origin(-errno);
        if (setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0)
                return error_origin(-errno);
        if (fcntl(c->fd, F_SETFL, O_NONBLOCK) < 0)
                return error_origin(-errno);
        c->in = malloc(ANSWER_MAX + 1);
        if (!c->in)
                return error_origin(-ENOMEM);
        c->idle = true;
        if (epoll_ctl(load->epoll_fd, EPOLL_CTL_ADD, c->fd, &event) < 0)
                return error_origin(-errno);
        return 0;
}

/* Starts the next request where none is in flight, and sends what the socket takes. */
static int connection_send(Load *load, Connection *c) {
        if (c->idle) {
                if (load->n_started == load->n_wanted)
                        return 0;
                load->n_started++;
                c->idle = false;
                c->sent = 0;
                c->sent_at = clock_monotonic_us();
        }
        while (c->sent < load->n_request) {
                ssize_t n = send(c->fd, load->request + c->sent, load->n_request - c->sent, MSG_NOSIGNAL);

                if (n < 0)
                        return errno == EAGAIN ? 0 : error_origin(-errno);
                c->sent += (size_t)n;
        }
        return 0;
}

static int connection_receive(Load *load, Connection *c) {
        for (;;) {
                size_t n_answer;
                bool good;
                ssize_t n;

                n = recv(c->fd, c->in + c->n_in, ANSWER_MAX - c->n_in, 0);
                if (n < 0)
                        return errno == EAGAIN ? 0 : error_origin(-errno);
                if (n == 0)
                        return error_origin(-ECONNRESET);
                c->n_in += (size_t)n;
                c->in[c->n_in] = 0;
                if (!load->protocol->answer(c->in, c->n_in, &n_answer, &good)) {
                        if (c->n_in == ANSWER_MAX)
                                return error_origin(-EMSGSIZE);
                        continue;
                }
                if (n_answer != c->n_in || c->idle)
                        return error_origin(-EPROTO);   /* more than was asked for */
                if (!good && load->n_errors++ == 0)
                        fprintf(stderr, "load: first refusal: %.200s\n", c->in);
                load->latencies[load->n_answered++] =
                        (uint32_t)MIN(clock_monotonic_us() - c->sent_at, (uint64_t)UINT32_MAX);
                c->n_in = 0;
                c->idle = true;
                int r = connection_send(load, c);
                if (r)
                        return error_trace(r);
        }
}

static int load_run(Load *load) {
        uint64_t deadline = clock_monotonic_us() + SECONDS_MAX * USEC_PER_SEC;
        int r;

        while (load->n_answered < load->n_wanted) {
                struct epoll_event events[EVENTS_N];
                int n;

                n = epoll_wait(load->epoll_fd, events, EVENTS_N, 1000);
                if (n < 0 && errno != EINTR)
                        return error_origin(-errno);
                for (int i = 0; i < n; i++) {
                        r = connection_send(load, events[i].data.ptr);
                        if (!r)
                                r = connection_receive(load, events[i].data.ptr);
                        if (r)
                                return error_trace(r);
                }
                if (clock_monotonic_us() > deadline)
                        return error_origin(-ETIMEDOUT);
        }
        return 0;
}

static int compare_u32(const void *a, const void *b) {
        uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

        return (x > y) - (x < y);
}

static void load_print(Load *load, uint64_t took_us) {
        uint64_t n = load->n_answered;

        qsort(load->latencies, n, sizeof(*load->latencies), compare_u32);
        printf("{\"requests\": %" PRIu64 ", \"errors\": %" PRIu64 ", \"seconds\": %.3f, \"per_second\": %.1f, "
               "\"p50_us\": %u, \"p99_us\": %u, \"max_us\": %u}\n",
               n, load->n_errors, (double)took_us / USEC_PER_SEC, (double)n * USEC_PER_SEC / (double)MAX(took_us, 1u),
               load->latencies[n / 2], load->latencies[n - 1 - n / 100], load->latencies[n - 1]);
}

static void load_deinit(Load *load) {
        for (size_t i = 0; load->connections && i < load->n_connections; i++) {
                fd_close(load->connections[i].fd);
                free(load->connections[i].in);
        }
        free(load->connections);
        free(load->latencies);
        fd_close(load->epoll_fd);
}

static int usage(void) {
        fprintf(stderr, "usage: load http|beanstalk|resp ADDR PORT CONNECTIONS REQUESTS BODY_FILE [PATH TOKEN]\n");
        return 2;
}

int main(int argc, char **argv) {
        _cleanup_(load_deinit) Load load = { .epoll_fd = -1 };
        _cleanup_(buf_deinit) Buf request = BUF_NULL;
        _cleanup_free_ char *body = NULL;
        struct sockaddr_in address = { .sin_family = AF_INET };
        uint64_t port, n_connections, started;
        size_t n_body;
        int r;

        if (argc < 7)
                return usage();
        for (size_t i = 0; i < ELEMENTSOF(protocols); i++)
                if (streq(protocols[i].name, argv[1]))
                        load.protocol = &protocols[i];
        if (!load.protocol || (load.protocol == &protocols[0] && argc != 9) ||
            inet_pton(AF_INET, argv[2], &address.sin_addr) != 1 ||
            (ntohl(address.sin_addr.s_addr) >> 24) != 127 ||
            !parse_u64_range(argv[3], 1, UINT16_MAX, &port) ||
            !parse_u64_range(argv[4], 1, CONNECTIONS_MAX, &n_connections) ||
            !parse_u64_range(argv[5], 1, REQUESTS_MAX, &load.n_wanted))
                return usage();
        address.sin_port = htons((uint16_t)port);
        r = fd_read_file(AT_FDCWD, argv[6], BODY_MAX, &body, &n_body);
        if (!r)
                r = load.protocol->request(&request, body, n_body, argc > 7 ? argv[7] : NULL,
                                           argc > 8 ? argv[8] : NULL);
        if (!r) {
                load.request = buf_data(&request);
                load.n_request = buf_size(&request);
                load.n_connections = n_connections;
                load.connections = calloc(n_connections, sizeof(*load.connections));
                load.latencies = calloc(load.n_wanted, sizeof(*load.latencies));
                load.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
                r = load.connections && load.latencies && load.epoll_fd >= 0 ? 0 : -ENOMEM;
                for (size_t i = 0; load.connections && i < n_connections; i++)
                        load.connections[i].fd = -1;
        }
        for (size_t i = 0; !r && i < n_connections; i++)
                r = connection_open(&load, &load.connections[i], &address);
        started = clock_monotonic_us();
        if (!r)
                r = load_run(&load);
        if (r) {
                fprintf(stderr, "load: %s\n", r < 0 ? strerror(-r) : "the body is too large");
                return 1;
        }
        load_print(&load, clock_monotonic_us() - started);
        return load.n_errors ? 1 : 0;
}

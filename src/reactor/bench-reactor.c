/*
 * What the reactor alone costs: echo round trips over 64 loopback TCP connections, and connections accepted, echoed to
 * once and closed. The clients are a second process on a reactor of its own, so both sides together are measured; the
 * server's own CPU time a round trip is printed beside it, and its memory.
 */

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "reactor/listener.h"
#include "reactor/source.h"
#include "reactor/stream.h"

#define N_CONNECTIONS 64
#define N_BYTES 512
#define DURATION_US USEC_PER_SEC

static void die(const char *what, int error) {
        fprintf(stderr, "%s: %s\n", what, strerror(-error));
        exit(EXIT_FAILURE);
}

/* --- server --- */

static void server_on_bytes(Stream *stream, const uint8_t *data, size_t n) {
        if (n == 0 || stream_send(stream, data, n) != 0)
                stream_close(stream);
}

static void server_on_drain(Stream *stream) {
}

static void server_on_error(Stream *stream, int error) {
        stream_close(stream);
}

static void server_on_closed(Stream *stream) {
        free(stream);
}

static const StreamVtable server_vtable = { server_on_bytes, server_on_drain, server_on_error, server_on_closed };

static void server_on_accept(Listener *listener, int fd) {
        Stream *stream = malloc(sizeof(*stream));

        if (!stream)
                die("malloc", -ENOMEM);
        stream_init_take(stream, listener->reactor, fd, &server_vtable, 0);
        stream_resume(stream);
}

static void server_print_memory(const char *when) {
        char *text, *rest, *line;
        size_t n;

        if (fd_read_file(AT_FDCWD, "/proc/self/smaps_rollup", KIB(16), &text, &n) != 0)
                return;
        rest = text;
        while ((line = strsep(&rest, "\n")))
                if (str_starts(line, "Rss:") || str_starts(line, "Private_Dirty:"))
                        printf("# server %s: %s\n", when, line);
        free(text);
}

static uint64_t cpu_us(void) {
        struct rusage usage;

        getrusage(RUSAGE_SELF, &usage);
        return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * USEC_PER_SEC +
               (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void server_on_signal(SignalSource *source, int signo, pid_t from) {
        reactor_exit(source->reactor, 0);
}

static int server_run(int fd, uint64_t *ret_cpu_us) {
        const ReactorFeatures *f;
        SignalSource signals;
        Listener listener;
        Reactor *reactor;
        sigset_t mask;
        int r;

        r = reactor_new(&reactor);
        if (r == REACTOR_E_NO_IO_URING)
                exit(77);
        if (r)
                die("reactor_new", r);
        sigemptyset(&mask);
        sigaddset(&mask, SIGCHLD);
        r = signal_source_init(&signals, reactor, &mask, server_on_signal);
        if (r)
                die("signal_source_init", r);
        listener_init_take(&listener, reactor, fd, server_on_accept);
        listener_start(&listener);
        r = reactor_enable(reactor);
        if (r)
                die("reactor_enable", r);
        f = reactor_features(reactor);
        printf("# defer_taskrun %d, buffer_ring %d, multishot_accept %d, multishot_recv %d, restricted %d\n",
               f->defer_taskrun, f->buffer_ring, f->multishot_accept, f->multishot_recv, f->restricted);
        server_print_memory("idle");
        *ret_cpu_us = cpu_us();
        r = reactor_run(reactor);
        *ret_cpu_us = cpu_us() - *ret_cpu_us;
        server_print_memory("after");
        return r;       /* the process ends: what is open is the kernel's to close */
}

/* --- clients --- */

typedef struct Client {
        Stream stream;
        size_t n_missing;
} Client;

static struct sockaddr_in address;
static uint64_t n_echoed;
static bool reconnecting;
static uint8_t payload[N_BYTES];

static void client_connect(Client *c, Reactor *reactor);

static void client_send(Client *c) {
        c->n_missing = N_BYTES;
        if (stream_send(&c->stream, payload, N_BYTES) != 0)
                die("stream_send", -ENOMEM);
}

static void client_on_bytes(Stream *stream, const uint8_t *data, size_t n) {
        Client *c = container_of(stream, Client, stream);

        if (n == 0)
                die("server", -ECONNRESET);
        c->n_missing -= n;
        if (c->n_missing > 0)
                return;
        n_echoed++;
        if (reconnecting)
                stream_close(stream);
        else
                client_send(c);
}

static void client_on_error(Stream *stream, int error) {
        die("client", error);
}

static void client_on_closed(Stream *stream) {
        client_connect(container_of(stream, Client, stream), stream->reactor);
}

static const StreamVtable client_vtable = { client_on_bytes, server_on_drain, client_on_error, client_on_closed };

static void client_connect(Client *c, Reactor *reactor) {
        struct linger no_time_wait = { .l_onoff = 1 };          /* keeps the ports free */
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                die("connect", -errno);
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &no_time_wait, sizeof(no_time_wait));
        stream_init_take(&c->stream, reactor, fd, &client_vtable, 0);
        stream_resume(&c->stream);
        client_send(c);
}

static double clients_measure(Reactor *reactor) {
        uint64_t start_us = clock_monotonic_us(), before = n_echoed, now_us;

        do {
                if (reactor_tick(reactor, USEC_PER_SEC) != 0)
                        die("reactor_tick", -EIO);
                now_us = clock_monotonic_us();
        } while (now_us < start_us + DURATION_US);
        return (double)(n_echoed - before) * USEC_PER_SEC / (double)(now_us - start_us);
}

static void clients_run(void) {
        static Client clients[N_CONNECTIONS];
        Reactor *reactor;

        if (reactor_new(&reactor) != 0 || reactor_enable(reactor) != 0)
                die("reactor_new", -EIO);
        for (size_t i = 0; i < N_CONNECTIONS; i++)
                client_connect(&clients[i], reactor);
        printf("echo: %.0f round trips/s of %u bytes over %u connections\n", clients_measure(reactor), N_BYTES,
               N_CONNECTIONS);
        reconnecting = true;
        printf("accept: %.0f connections/s, each with one round trip\n", clients_measure(reactor));
        printf("clients: %llu round trips in all\n", (unsigned long long)n_echoed);
        fflush(stdout);
        _exit(0);
}

int main(void) {
        socklen_t n = sizeof(address);
        uint64_t server_cpu_us;
        sigset_t mask;
        pid_t pid;
        int fd, r;

        log_open("bench-reactor");
        setlinebuf(stdout);
        address = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || bind(fd, (struct sockaddr *)&address, n) < 0 || listen(fd, 1024) < 0 ||
            getsockname(fd, (struct sockaddr *)&address, &n) < 0)
                die("listen", -errno);
        /* Before the fork: the child's end is not missed. */
        sigemptyset(&mask);
        sigaddset(&mask, SIGCHLD);
        sigprocmask(SIG_BLOCK, &mask, NULL);
        pid = fork();
        if (pid < 0)
                die("fork", -errno);
        if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                close(fd);
                clients_run();
        }
        r = server_run(fd, &server_cpu_us);
        if (r)
                die("server", r);
        printf("server: %llu ms of CPU\n", (unsigned long long)(server_cpu_us / USEC_PER_MSEC));
        if (waitpid(pid, &r, 0) != pid || !WIFEXITED(r) || WEXITSTATUS(r) != 0)
                return EXIT_FAILURE;
        return EXIT_SUCCESS;
}

/*
 * submit: submit load inside a VM whose power is going to be cut, and the list of what is there afterwards.
 *
 *     submit load SOCKET PORT CONNECTIONS    POSTs tasks over keep-alive connections for as long as it lives; the id of
 *                                            each that was answered with 201 goes to PORT at once, a line each
 *     submit list SOCKET                     prints the ids of all tasks, page by page
 *
 * The tasks are due in the far future, so that none runs. One thread a connection: what it has read of an answer is
 * what the server had acknowledged, and the line is in the host's hands once write() has returned, since a virtio port
 * has no cache. It ends by itself after SECONDS_MAX.
 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/macro.h"
#include "base/parse.h"

#define CONNECTIONS_MAX 64
#define SECONDS_MAX     300
#define ANSWER_MAX      (1024 * 1024)   /* a page of the list, far above what 100 tasks take */
#define ID_N            36
#define PROMPT          "Write a haiku about durability. "  /* repeated to some 1 KiB */
#define PROMPT_N        32

typedef struct Client {
        const char *socket_path;
        int port_fd;
        int fd;
        char answer[ANSWER_MAX + 1];
        const char *body;               /* within answer */
        int status;
} Client;

static int client_connect(Client *c) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        if (strlen(c->socket_path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        memcpy(address.sun_path, c->socket_path, strlen(c->socket_path) + 1);
        c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (c->fd < 0 || connect(c->fd, (struct sockaddr *) &address, sizeof(address)) < 0)
                return -errno;
        return 0;
}

/* Sends one request and reads one answer with a Content-Length. */
static int client_request(Client *c, const char *request, size_t n_request) {
        size_t n = 0, n_whole = 0;

        if (send(c->fd, request, n_request, MSG_NOSIGNAL) != (ssize_t) n_request)
                return -EIO;
        c->body = NULL;
        while (!c->body || n < n_whole) {
                ssize_t r = recv(c->fd, c->answer + n, ANSWER_MAX - n, 0);
                char *end, *length;
                uint64_t n_body;

                if (r <= 0)
                        return -ECONNRESET;
                n += (size_t) r;
                c->answer[n] = '\0';
                if (c->body || !(end = strstr(c->answer, "\r\n\r\n")))
                        continue;
                *end = '\0';
                length = strcasestr(c->answer, "\r\nContent-Length:");
                if (!length || strlen(c->answer) < 12 || memcmp(c->answer, "HTTP/1.1 ", 9) != 0)
                        return -EBADMSG;
                length += sizeof("\r\nContent-Length:") - 1;
                length += strspn(length, " ");
                length[strcspn(length, "\r")] = '\0';
                if (!parse_u64_range(length, 0, ANSWER_MAX, &n_body))
                        return -EBADMSG;
                c->status = (c->answer[9] - '0') * 100 + (c->answer[10] - '0') * 10 + (c->answer[11] - '0');
                c->body = end + 4;
                n_whole = (size_t) (c->body - c->answer) + n_body;
                if (n_whole > ANSWER_MAX)
                        return -EMSGSIZE;
        }
        return 0;
}

/* The id after the next `"id":"`, or NULL; *text moves behind it. */
static const char *next_id(const char **text) {
        const char *id = strstr(*text, "\"id\":\"");

        if (!id || strlen(id) < 6 + ID_N)
                return NULL;
        *text = id + 6 + ID_N;
        return id + 6;
}

static void *load_main(void *userdata) {
        Client *c = userdata;
        char body[2048], request[4096], line[ID_N + 1];
        char prompt[PROMPT_N * PROMPT_N + 1] = "";
        int n_body, n;

        for (size_t i = 0; i < PROMPT_N; i++)
                memcpy(prompt + i * PROMPT_N, PROMPT, PROMPT_N + 1);
        n_body = snprintf(body, sizeof(body), "{\"prompt\":\"%s\",\"agent\":\"shell\",\"not_before\":\"2099-01-01T00:00:00Z\"}", prompt);
        n = snprintf(request, sizeof(request), "POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                     "Content-Length: %d\r\n\r\n%s", n_body, body);
        for (;;) {
                const char *text, *id;

                if (client_request(c, request, (size_t) n) < 0) {
                        fprintf(stderr, "submit: the connection ended\n");
                        return NULL;
                }
                text = c->body;
                id = next_id(&text);
                if (c->status != 201 || !id) {
                        fprintf(stderr, "submit: status %d: %.200s\n", c->status, c->body);
                        return NULL;
                }
                memcpy(line, id, ID_N);
                line[ID_N] = '\n';
                if (write(c->port_fd, line, sizeof(line)) != (ssize_t) sizeof(line))
                        return NULL;
        }
}

static int run_load(const char *socket_path, const char *port, size_t n_connections) {
        pthread_t threads[CONNECTIONS_MAX];
        int port_fd = open(port, O_WRONLY | O_CLOEXEC);

        if (port_fd < 0) {
                perror(port);
                return EXIT_FAILURE;
        }
        alarm(SECONDS_MAX);
        for (size_t i = 0; i < n_connections; i++) {
                Client *c = calloc(1, sizeof(*c));

                if (!c)
                        return EXIT_FAILURE;
                c->socket_path = socket_path;
                c->port_fd = port_fd;
                if (client_connect(c) < 0 || pthread_create(&threads[i], NULL, load_main, c) != 0) {
                        perror(socket_path);
                        return EXIT_FAILURE;
                }
        }
        for (size_t i = 0; i < n_connections; i++)
                pthread_join(threads[i], NULL);
        return EXIT_FAILURE;    /* it is meant to be cut off, not to end */
}

static int run_list(const char *socket_path) {
        static Client c;
        char cursor[256] = "", request[512];

        c.socket_path = socket_path;
        if (client_connect(&c) < 0) {
                perror(socket_path);
                return EXIT_FAILURE;
        }
        for (;;) {
                int n = snprintf(request, sizeof(request), "GET /tasks?limit=100%s%s HTTP/1.1\r\nHost: localhost\r\n\r\n",
                                 *cursor ? "&cursor=" : "", cursor);
                const char *text, *id, *next;
                size_t n_cursor;

                if (client_request(&c, request, (size_t) n) < 0 || c.status != 200) {
                        fprintf(stderr, "submit: list: status %d: %.200s\n", c.status, c.body ? c.body : "");
                        return EXIT_FAILURE;
                }
                text = c.body;
                while ((id = next_id(&text)))
                        printf("%.*s\n", ID_N, id);
                next = strstr(c.body, "\"next_cursor\":\"");
                if (!next)
                        return EXIT_SUCCESS;
                next += sizeof("\"next_cursor\":\"") - 1;
                n_cursor = strcspn(next, "\"");
                if (n_cursor >= sizeof(cursor))
                        return EXIT_FAILURE;
                memcpy(cursor, next, n_cursor);
                cursor[n_cursor] = '\0';
        }
}

int main(int argc, char **argv) {
        uint64_t n_connections;

        if (argc == 5 && strcmp(argv[1], "load") == 0 && parse_u64_range(argv[4], 1, CONNECTIONS_MAX, &n_connections))
                return run_load(argv[2], argv[3], n_connections);
        if (argc == 3 && strcmp(argv[1], "list") == 0)
                return run_list(argv[2]);
        fprintf(stderr, "usage: submit load SOCKET PORT CONNECTIONS | submit list SOCKET\n");
        return EXIT_FAILURE;
}

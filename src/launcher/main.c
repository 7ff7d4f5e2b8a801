#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/service.h"
#include "launcher/launcher.h"
#include "launcher/user.h"

/*
 * agent-router-launcher: makes the sandboxes that agents run in. It is told what to run over one Unix socket, hands the
 * output back, and knows nothing of HTTP or of the store. See ARCHITECTURE.md, "Launcher protocol".
 */

#define MAIN_CONFIG "/etc/agent-router/agent-router.yaml"

typedef struct Program {
        Launcher launcher;
        LoopSource signals;
        LauncherOptions options;
        const char *router_user;
        char *config_path;      /* owned, where it was put together here */
} Program;

static void main_help(void) {
        printf("agent-router-launcher [OPTION…]\n\n"
               "Makes the sandboxes that agent-routerd's agents run in. Its listening SOCK_SEQPACKET socket comes by\n"
               "LISTEN_FDS under the name \"launcher\", its folders by STATE_DIRECTORY and RUNTIME_DIRECTORY.\n\n"
               "      --config FILE        agent-router.yaml; only its sandbox: section is read\n"
               "      --router-user NAME   a user that may connect, beside root and this program's own\n"
               "      --seccomp-dir DIR    where NAME.profile files are\n"
               "      --version            print the version\n"
               "  -h, --help               print this\n");
}

enum {
        MAIN_DONE = 1,          /* --help, --version: nothing more to do */
        MAIN_USAGE,
};

static int main_parse(int argc, char **argv, Program *p) {
        enum { OPT_CONFIG = 256, OPT_ROUTER_USER, OPT_SECCOMP_DIR, OPT_VERSION };
        static const struct option options[] = {
                { "config", required_argument, NULL, OPT_CONFIG }, { "router-user", required_argument, NULL, OPT_ROUTER_USER },
                { "seccomp-dir", required_argument, NULL, OPT_SECCOMP_DIR }, { "version", no_argument, NULL, OPT_VERSION },
                { "help", no_argument, NULL, 'h' }, {},
        };
        int c;

        while ((c = getopt_long(argc, argv, "h", options, NULL)) >= 0)
                switch (c) {
                case OPT_CONFIG:
                        p->options.config = optarg;
                        break;
                case OPT_ROUTER_USER:
                        p->router_user = optarg;
                        break;
                case OPT_SECCOMP_DIR:
                        p->options.seccomp_dir = optarg;
                        break;
                case OPT_VERSION:
                        printf("agent-router-launcher %s\n", AR_VERSION);
                        return MAIN_DONE;
                case 'h':
                        main_help();
                        return MAIN_DONE;
                default:
                        return MAIN_USAGE;
                }
        if (optind < argc) {
                fprintf(stderr, "agent-router-launcher: unexpected argument '%s'; try --help\n", argv[optind]);
                return MAIN_USAGE;
        }
        return 0;
}

static int main_find_socket(int *ret_fd) {
        ServiceFd fds[SERVICE_FDS_MAX];
        int r, type, listening;
        socklen_t n_type = sizeof(type), n_listening = sizeof(listening);
        size_t n;

        r = service_listen_fds(fds, &n);
        if (r) {
                log_error("LISTEN_FDS is malformed");
                return error_trace(r);
        }
        for (size_t i = 0; i < n; i++) {
                if (!streq(fds[i].name, "launcher"))
                        continue;
                if (getsockopt(fds[i].fd, SOL_SOCKET, SO_TYPE, &type, &n_type) < 0 || type != SOCK_SEQPACKET ||
                    getsockopt(fds[i].fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &n_listening) < 0 || !listening) {
                        log_error("the socket \"launcher\" is not a listening SOCK_SEQPACKET socket; use ListenSequentialPacket=");
                        return error_origin(-EPROTOTYPE);
                }
                /* epoll says when to accept; a client that is gone again must not block us. */
                r = fd_set_nonblock(fds[i].fd, true);
                if (r)
                        return error_trace(r);
                *ret_fd = fds[i].fd;
                return 0;
        }
        log_error("no socket named \"launcher\" came by LISTEN_FDS; start agent-router-launcher.socket, or use scripts/agent-routerd/dev/run-local");
        return error_origin(-ENOTCONN);
}

static int main_find_router(const char *name, int64_t *ret_uid) {
        uid_t uid;
        int r;

        if (!name)
                return 0;
        r = user_by_name(name, &uid);
        if (r) {
                log_error("--router-user %s: %s", name, r > 0 ? "no such user" : strerror(-r));
                return r > 0 ? error_origin(-ENOENT) : error_trace(r);
        }
        *ret_uid = uid;
        return 0;
}

static int main_find_dirs(Program *p) {
        const char *configuration = service_configuration_dir();

        p->options.state_dir = service_state_dir();
        p->options.runtime_dir = service_runtime_dir();
        if (!p->options.state_dir || !p->options.runtime_dir) {
                log_error("STATE_DIRECTORY and RUNTIME_DIRECTORY must be set, as a unit's StateDirectory= and RuntimeDirectory= do");
                return error_origin(-ENOENT);
        }
        if (p->options.config)
                return 0;
        if (!configuration) {
                p->options.config = MAIN_CONFIG;
                return 0;
        }
        if (asprintf(&p->config_path, "%s/agent-router.yaml", configuration) < 0) {
                p->config_path = NULL;
                return error_origin(-ENOMEM);
        }
        p->options.config = p->config_path;
        return 0;
}

static void main_on_signal(LoopSource *source, uint32_t events) {
        Program *p = container_of(source, Program, signals);
        struct signalfd_siginfo info;

        while (read(source->fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
                if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT)
                        launcher_stop(&p->launcher);
}

static int main_open_signals(Program *p, int *ret_fd) {
        sigset_t set;
        int fd;

        sigemptyset(&set);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGINT);
        sigaddset(&set, SIGHUP);        /* means nothing here, and must not end us */
        /* Whoever started us may have had some ignored, which agents would inherit. */
        for (int i = 1; i < NSIG; i++)
                (void)signal(i, SIG_DFL);
        (void)signal(SIGPIPE, SIG_IGN);
        if (sigprocmask(SIG_BLOCK, &set, &p->launcher.signals) < 0)
                return error_origin(-errno);
        fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        if (fd < 0)
                return error_origin(-errno);
        *ret_fd = fd;
        return 0;
}

static int main_run(Program *p) {
        _cleanup_close_ int signal_fd = -1;
        int r;

        r = main_find_dirs(p);
        if (!r)
                r = main_find_socket(&p->options.listen_fd);
        if (!r)
                r = main_find_router(p->router_user, &p->options.router_uid);
        if (!r)
                r = main_open_signals(p, &signal_fd);
        if (!r)
                r = launcher_init(&p->launcher, &p->options);
        if (!r)
                r = loop_add(&p->launcher.loop, &p->signals, signal_fd, EPOLLIN);
        if (r)
                return error_trace(r);
        log_field(LOG_INFO, ((LogField[]){ { "MESSAGE_ID", LOG_ID_LAUNCHER_READY }, {} }), "ready, %zu capabilities, %zu absent",
                  p->launcher.caps.present.n, p->launcher.caps.absent.n);
        r = service_notify("READY=1\nSTATUS=Ready to make sandboxes.");
        if (r)
                log_warning("READY=1 can't be sent: %s", strerror(-r));
        return error_trace(loop_run(&p->launcher.loop));
}

int main(int argc, char **argv) {
        Program p = {
                .launcher = LAUNCHER_NULL,
                .signals = { .fd = -1, .on_ready = main_on_signal },
                .options = { .seccomp_dir = AR_SECCOMP_DIR, .listen_fd = -1, .router_uid = -1 },
        };
        int r;

        log_open("agent-router-launcher");
        r = main_parse(argc, argv, &p);
        if (r)
                return r == MAIN_DONE ? EXIT_SUCCESS : 2;
        /* Credentials pass through this memory: no core, no look from outside. */
        (void)prctl(PR_SET_DUMPABLE, 0);
        /*
         * What is private is made with its own mode; the sandboxes' /etc is for others to read, whatever UMask= says.
         */
        (void)umask(0022);
        r = main_run(&p);
        launcher_deinit(&p.launcher);
        fd_close(p.options.listen_fd);
        free(p.config_path);
        return r ? EXIT_FAILURE : EXIT_SUCCESS;
}

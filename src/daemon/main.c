/*
 * agent-routerd: reads its configuration, takes its sockets from LISTEN_FDS, opens the store, and runs the reactor
 * until SIGTERM or SIGINT; SIGHUP reads the configuration again. Running agents are the launcher's children: they go on
 * without us.
 */

#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <openssl/crypto.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/parse.h"
#include "base/service.h"
#include "daemon/config.h"
#include "daemon/confine.h"
#include "reactor/source.h"

#define MAIN_STOP_US            (5 * USEC_PER_SEC)      /* for responses under way, at a stop */
#define MAIN_STOP_MARGIN_US     (30 * USEC_PER_SEC)     /* the service manager's patience beyond the drain */
#define MAIN_KEY_TEXT           (2 * STORE_KEY_SIZE)    /* hexadecimal digits of the credential store.key */

#define EXIT_CONFIG 78          /* EX_CONFIG, sysexits(3): a restart does not help */

#ifndef AR_DATA_DIR
#define AR_DATA_DIR "/usr/share/agent-router"
#endif

typedef struct Daemon {
        Reactor *reactor;
        Config *config;
        Store *store;
        Metrics *metrics;
        Sched *sched;
        Api *api;
        LauncherClient *launcher;
        SignalSource signals;
        bool has_signals;
        Timer watchdog;
        Timer stop;
        uint64_t watchdog_us;
        bool draining;                  /* a stop waits for running tasks */
        bool stopping;
        const char *config_path;        /* NULL: the default one, where it is there */
        char *default_config_path;      /* NULL: there is no configuration directory */
        const char *launcher_path;
        int exit_code;
} Daemon;

typedef struct Arguments {
        const char *config;
        const char *launcher;
        bool check_config;
} Arguments;

static void print_help(void) {
        puts("Usage: agent-routerd [OPTION]…\n"
             "Queues, polices and observes agent CLIs. Takes its sockets from LISTEN_FDS (names http, control), its\n"
             "directories from STATE_DIRECTORY, CONFIGURATION_DIRECTORY and CREDENTIALS_DIRECTORY (store.key).\n"
             "\n"
             "  --config FILE     configuration (default: agent-router.yaml in CONFIGURATION_DIRECTORY, if there)\n"
             "  --launcher PATH   the launcher's socket (default: /run/agent-router-launcher/launcher.sock)\n"
             "  --check-config    read configuration and manifests, say what is wrong, and exit\n"
             "  --version         print the version and exit\n"
             "  --help            print this and exit\n"
             "\n"
             "Exit status: 0 after a stop or a good check, 1 for a failure, 2 for a wrong command line, 78 for a\n"
             "configuration, key or store that a restart can't mend.");
}

/* 0: go on; positive: exit with this status less one. */
static int parse_arguments(int argc, char **argv, Arguments *a) {
        enum { ARG_CONFIG = 256, ARG_LAUNCHER, ARG_CHECK, ARG_VERSION, ARG_HELP };
        static const struct option options[] = {
                { "config", required_argument, NULL, ARG_CONFIG },
                { "launcher", required_argument, NULL, ARG_LAUNCHER },
                { "check-config", no_argument, NULL, ARG_CHECK },
                { "version", no_argument, NULL, ARG_VERSION },
                { "help", no_argument, NULL, ARG_HELP },
                {},
        };
        int c;

        while ((c = getopt_long(argc, argv, "h", options, NULL)) >= 0)
                switch (c) {
                case ARG_CONFIG:
                        a->config = optarg;
                        break;
                case ARG_LAUNCHER:
                        a->launcher = optarg;
                        break;
                case ARG_CHECK:
                        a->check_config = true;
                        break;
                case ARG_VERSION:
                        puts("agent-routerd " AR_VERSION);
                        return 1;
                case 'h':
                case ARG_HELP:
                        print_help();
                        return 1;
                default:
                        fprintf(stderr, "Try 'agent-routerd --help'.\n");
                        return 3;
                }
        if (optind < argc) {
                fprintf(stderr, "agent-routerd: unexpected argument '%s'\nTry 'agent-routerd --help'.\n", argv[optind]);
                return 3;
        }
        return 0;
}

/* ---- the store's key ---- */

/* False: said in the log. */
static bool read_store_key(uint8_t ret_key[static STORE_KEY_SIZE]) {
        const char *dir = service_credentials_dir();
        _cleanup_free_ char *path = NULL;
        char *text = NULL;
        uint8_t key[STORE_KEY_SIZE];
        bool good;
        size_t n;
        int r;

        if (!dir) {
                log_error("CREDENTIALS_DIRECTORY is not set: the store's key comes from the credential store.key "
                          "(LoadCredentialEncrypted= in the unit)");
                return false;
        }
        if (asprintf(&path, "%s/store.key", dir) < 0) {
                path = NULL;
                return false;
        }
        r = fd_read_file(AT_FDCWD, path, 256, &text, &n);
        if (r) {
                log_error("can't read the store's key %s: %s; make one with 'openssl rand -hex 32'", path, r < 0 ? strerror(-r) : "too long");
                return false;
        }
        while (n && (text[n - 1] == '\n' || text[n - 1] == ' '))
                n--;
        good = n == MAIN_KEY_TEXT;
        for (size_t i = 0; good && i < STORE_KEY_SIZE; i++) {
                int high = parse_hex_digit(text[2 * i]), low = parse_hex_digit(text[2 * i + 1]);
                good = high >= 0 && low >= 0;
                key[i] = (uint8_t)((unsigned)high << 4 | (unsigned)low);
        }
        OPENSSL_cleanse(text, n);
        free(text);
        if (good)
                memcpy(ret_key, key, sizeof(key));
        else
                log_error("the store's key %s is malformed; expected %d hexadecimal digits", path, MAIN_KEY_TEXT);
        OPENSSL_cleanse(key, sizeof(key));
        return good;
}

/* ---- life ---- */

static void notify(const char *state) {
        int r = service_notify(state);

        if (r)
                log_debug("the service manager was not told '%s': %s", state, strerror(-r));
}

static void on_signals_closed(SignalSource *source) {
        Daemon *d = container_of(source, Daemon, signals);

        d->has_signals = false;
        reactor_exit(d->reactor, d->exit_code);
}

/* The launcher client's callbacks carry the scheduler; what they need of the daemon is here. */
static Daemon *the_daemon;

static void on_client_closed(LauncherClient *client) {
        Daemon *d = the_daemon;

        sched_set_launcher(d->sched, NULL);
        signal_source_close(&d->signals, on_signals_closed);
}

static void on_api_closed(void *userdata) {
        Daemon *d = userdata;

        timer_clear(&d->stop);
        timer_clear(&d->watchdog);
        launcher_client_close(d->launcher, on_client_closed);
}

static void daemon_finish(Daemon *d) {
        SchedStats stats = sched_stats(d->sched);

        d->stopping = true;
        log_field(LOG_INFO, (LogField[]){ { "MESSAGE_ID", LOG_ID_DAEMON_STOPPING }, {} },
                  "%u running agents are left to the launcher and go on, %llu tasks wait in the store", stats.n_running,
                  (unsigned long long)stats.n_waiting);
        sched_stop(d->sched);
        timer_set(&d->stop, reactor_now_us(d->reactor) + MAIN_STOP_US);
        api_close(d->api, on_api_closed, d);
}

static void on_stop_deadline(Timer *timer) {
        Daemon *d = container_of(timer, Daemon, stop);

        if (!d->stopping) {
                log_notice("shutdown.drain is over");
                daemon_finish(d);
                return;
        }
        log_warning("some responses did not end in time: their connections are closed");
        api_abort(d->api);
}

static void on_drained(void *userdata) {
        Daemon *d = userdata;

        if (!d->stopping)
                daemon_finish(d);
}

/* Starts nothing more, and waits for what runs: so long, or until a second signal. */
static void daemon_drain(Daemon *d) {
        char text[96];

        d->draining = true;
        snprintf(text, sizeof(text), "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=%llu",
                 (unsigned long long)(d->config->drain_us + MAIN_STOP_MARGIN_US));
        notify(text);
        timer_set(&d->stop, reactor_now_us(d->reactor) + d->config->drain_us);
        sched_drain(d->sched, on_drained, d);
}

static void daemon_stop(Daemon *d, int signo) {
        bool drains = !d->draining && d->config->drain_us && sched_stats(d->sched).n_running;

        if (d->stopping)
                return;
        log_info("stopping on signal %d%s", signo,
                 drains ? ", when running tasks have ended: at most for the time of shutdown.drain" : "");
        if (drains) {
                daemon_drain(d);
                return;
        }
        notify("STOPPING=1");
        daemon_finish(d);
}

/* ---- configuration ---- */

static void daemon_use_config(Daemon *d, Config *c);

static const char *daemon_config_path(const Daemon *d) {
        if (d->config_path || !d->default_config_path)
                return d->config_path;
        return access(d->default_config_path, F_OK) == 0 ? d->default_config_path : NULL;
}

static const char *data_dir(void) {
        return getenv("AGENT_ROUTER_DATA_DIR") ?: AR_DATA_DIR;
}

/* Positive: ret_error says what is wrong; what was in force still is. */
static int daemon_reload(Daemon *d, char ret_error[static YAML_ERROR_MAX]) {
        _cleanup_(config_adapters_deinit) ConfigAdapters adapters = {};
        _cleanup_(config_freep) Config *c = NULL;
        char launchers[256];
        int r;

        r = config_load(&c, daemon_config_path(d), ret_error);
        r = r ?: config_load_adapters(c, service_configuration_dir(), data_dir(), &adapters, ret_error);
        if (r)
                return r;
        r = sched_configure(d->sched, &c->sched, adapters.items, adapters.n);
        if (r == -E2BIG) {
                snprintf(ret_error, YAML_ERROR_MAX, "agents: expected at most %d, those included that are no longer "
                         "configured and still run", CONFIG_AGENTS_MAX);
                return CONFIG_E_INVALID;
        }
        if (r)
                return error_fold(r);
        if (config_launchers_part(d->config, c, launchers))
                log_notice("%s: has changed, and takes effect when the launcher is started again (which ends running agents)",
                           launchers);
        daemon_use_config(d, c);
        api_configure(d->api, &c->api);
        config_free(d->config);
        d->config = steal_ptr(&c);
        log_field(LOG_INFO, (LogField[]){ { "MESSAGE_ID", LOG_ID_CONFIG_LOADED }, {} },
                  "the configuration is read again: %zu agents", sched_n_agents(d->sched));
        return 0;
}

static int on_reload(void *userdata, char ret_error[static API_RELOAD_ERROR_MAX]) {
        _Static_assert(API_RELOAD_ERROR_MAX >= YAML_ERROR_MAX, "an error fits");
        Daemon *d = userdata;
        char text[64];
        int r;

        if (d->draining || d->stopping) {
                snprintf(ret_error, API_RELOAD_ERROR_MAX, "the daemon is stopping");
                return CONFIG_E_INVALID;
        }
        snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)clock_monotonic_us());
        notify(text);
        r = daemon_reload(d, ret_error);
        notify("READY=1");
        if (r)
                log_field(LOG_ERR, (LogField[]){ { "MESSAGE_ID", LOG_ID_CONFIG_REFUSED }, {} },
                          "the configuration is not taken, the one so far stays in force: %s", r > 0 ? ret_error : strerror(-r));
        return r;
}

static void daemon_use_config(Daemon *d, Config *c) {
        c->api.version = AR_VERSION;
        c->api.reload = on_reload;
        c->api.userdata = d;
}

static void on_signal(SignalSource *source, int signo, pid_t from) {
        Daemon *d = container_of(source, Daemon, signals);
        char error[API_RELOAD_ERROR_MAX] = "";

        if (signo == SIGTERM || signo == SIGINT)
                daemon_stop(d, signo);
        else
                (void)on_reload(d, error);
}

static void on_watchdog(Timer *timer) {
        Daemon *d = container_of(timer, Daemon, watchdog);

        notify("WATCHDOG=1");
        timer_set(timer, reactor_now_us(d->reactor) + d->watchdog_us);
}

static int launcher_connect(void *userdata) {
        Daemon *d = the_daemon;
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        _cleanup_close_ int fd = -1;

        if (strlen(d->launcher_path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        memcpy(address.sun_path, d->launcher_path, strlen(d->launcher_path));
        fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
                return -errno;
        return steal_fd(&fd);
}

/* ---- start ---- */

static int daemon_listen(Daemon *d) {
        ServiceFd fds[SERVICE_FDS_MAX];
        size_t n = 0, used = 0;
        int r;

        r = service_listen_fds(fds, &n);
        if (r) {
                log_error("LISTEN_FDS is malformed: %s", strerror(-r));
                return r;
        }
        for (size_t i = 0; i < n; i++)
                if (str_starts(fds[i].name, "http") || str_starts(fds[i].name, "control")) {
                        r = api_listen_take(d->api, fds[i].fd);
                        if (r)
                                return r;
                        used++;
                } else {
                        log_warning("a socket named '%s' was passed; expected http or control: closed", fds[i].name);
                        fd_close(fds[i].fd);
                }
        if (!used) {
                log_error("no sockets were passed (LISTEN_FDS): start the daemon by its socket units, or by the development runner");
                return error_origin(-ENOTCONN);
        }
        return 0;
}

static void log_features(const Daemon *d) {
        const ReactorFeatures *f = reactor_features(d->reactor);

        if (!f->restricted)
                log_field(LOG_WARNING, (LogField[]){ { "MESSAGE_ID", LOG_ID_CAPABILITY_ABSENT }, {} },
                          "the kernel can't restrict the ring's operations");
}

static void say_ready(Daemon *d) {
        SchedStats stats = sched_stats(d->sched);

        log_features(d);
        log_field(LOG_INFO, (LogField[]){ { "MESSAGE_ID", LOG_ID_DAEMON_READY }, {} },
                  "agent-routerd " AR_VERSION " is ready: %zu agents, %llu tasks wait, %u run", sched_n_agents(d->sched),
                  (unsigned long long)stats.n_waiting, stats.n_running);
        notify("READY=1\nSTATUS=ready");
}

static int daemon_start(Daemon *d, const Arguments *a) {
        _cleanup_(config_adapters_deinit) ConfigAdapters adapters = {};
        const char *state_dir = service_state_dir();
        char refused[STORE_REFUSED_MAX] = "", error[YAML_ERROR_MAX] = "";
        uint8_t key[STORE_KEY_SIZE];
        sigset_t mask;
        int r;

        if (!state_dir) {
                log_error("STATE_DIRECTORY is not set: where is the store to live?");
                d->exit_code = EXIT_CONFIG;
                return error_origin(-ENOENT);
        }
        r = reactor_new(&d->reactor);
        if (r) {
                if (r < 0)
                        log_error("the reactor can't start: %s", strerror(-r));
                d->exit_code = r > 0 ? EXIT_CONFIG : EXIT_FAILURE;
                return r > 0 ? error_origin(-ENOSYS) : r;
        }
        timer_init(&d->watchdog, d->reactor, on_watchdog);
        timer_init(&d->stop, d->reactor, on_stop_deadline);
        sigemptyset(&mask);
        sigaddset(&mask, SIGTERM);
        sigaddset(&mask, SIGINT);
        sigaddset(&mask, SIGHUP);
        r = signal_source_init(&d->signals, d->reactor, &mask, on_signal);
        if (r)
                return error_trace(r);
        d->has_signals = true;

        if (!read_store_key(key)) {
                d->exit_code = EXIT_CONFIG;
                return error_origin(-ENOKEY);
        }
        r = store_open(&d->store, d->reactor, state_dir, key, refused);
        OPENSSL_cleanse(key, sizeof(key));
        if (r) {
                log_field(LOG_ERR, (LogField[]){ { "MESSAGE_ID", LOG_ID_STORE_REFUSED }, {} }, "the store can't be opened: %s",
                          r > 0 ? refused : strerror(-r));
                d->exit_code = r > 0 ? EXIT_CONFIG : EXIT_FAILURE;
                return error_origin(-EIO);
        }
        r = metrics_new(&d->metrics);
        r = r ?: sched_new(&d->sched, d->reactor, d->store, d->metrics, &d->config->sched);
        r = r ?: api_new(&d->api, d->reactor, d->store, d->sched, d->metrics, &d->config->api);
        if (r)
                return error_fold(r);
        r = config_load_adapters(d->config, service_configuration_dir(), data_dir(), &adapters, error);
        r = r ?: sched_configure(d->sched, &d->config->sched, adapters.items, adapters.n);
        if (r) {
                log_error("%s", r > 0 ? error : strerror(-r));
                d->exit_code = EXIT_CONFIG;
                return error_origin(-EINVAL);
        }
        r = sched_recover(d->sched);
        r = r ?: daemon_listen(d);
        r = r ?: launcher_client_new(&d->launcher, d->reactor, &sched_launcher_vtable, d->sched, launcher_connect);
        if (r)
                return error_fold(r);
        sched_set_launcher(d->sched, d->launcher);
        sched_open_pressure(d->sched);

        r = service_notify_open();
        if (r)
                log_warning("the service manager can't be notified: %s", strerror(-r));
        r = reactor_enable(d->reactor);
        if (r)
                return error_fold(r);
        r = confine();
        if (r) {
                log_error("the seccomp filter can't be loaded: %s; the daemon does not run unconfined", strerror(-r));
                return r;
        }
        api_start(d->api);
        launcher_client_start(d->launcher);
        d->watchdog_us = service_watchdog_interval_us();
        if (d->watchdog_us)
                on_watchdog(&d->watchdog);
        say_ready(d);
        return 0;
}

static void daemon_deinit(Daemon *d) {
        /*
         * The store first: whoever still waits for it is told so and must be there. Runs own their Workers: before the
         * client.
         */
        store_close(d->store);
        sched_free(d->sched);
        launcher_client_free(d->launcher);
        api_free(d->api);
        metrics_free(d->metrics);
        config_free(d->config);
        reactor_free(d->reactor);
}

static const char *default_launcher(void) {
        const char *runtime = getenv("XDG_RUNTIME_DIR");
        static char path[108];

        if (geteuid() != 0 && runtime && (size_t)snprintf(path, sizeof(path), "%s/agent-router-launcher/launcher.sock", runtime) < sizeof(path) &&
            access(path, F_OK) == 0)
                return path;
        return "/run/agent-router-launcher/launcher.sock";
}

static int check_config(Daemon *d) {
        _cleanup_(config_adapters_deinit) ConfigAdapters adapters = {};
        char error[YAML_ERROR_MAX] = "";
        int r;

        r = config_load_adapters(d->config, service_configuration_dir(), data_dir(), &adapters, error);
        if (r) {
                fprintf(stderr, "%s\n", r > 0 ? error : strerror(-r));
                return EXIT_CONFIG;
        }
        printf("configuration is valid: %zu agents\n", adapters.n);
        return EXIT_SUCCESS;
}

int main(int argc, char **argv) {
        static Daemon d = { .exit_code = EXIT_SUCCESS };
        char error[YAML_ERROR_MAX] = "";
        _cleanup_free_ char *default_config = NULL;
        Arguments a = {};
        int r;

        r = parse_arguments(argc, argv, &a);
        if (r)
                return r - 1;
        log_open("agent-routerd");
        umask(0077);
        the_daemon = &d;
        if (service_configuration_dir() &&
            asprintf(&default_config, "%s/agent-router.yaml", service_configuration_dir()) < 0)
                return EXIT_FAILURE;
        d.config_path = a.config;
        d.default_config_path = default_config;
        r = config_load(&d.config, daemon_config_path(&d), error);
        if (r) {
                log_error("%s", r > 0 ? error : strerror(-r));
                return EXIT_CONFIG;
        }
        daemon_use_config(&d, d.config);
        if (a.check_config) {
                r = check_config(&d);
                config_free(d.config);
                return r;
        }
        d.launcher_path = a.launcher ?: getenv("AGENT_ROUTER_LAUNCHER_SOCKET") ?: default_launcher();
        r = daemon_start(&d, &a);
        if (r)
                /* Operations may be in flight already: the process ends without unwinding them. */
                _exit(d.exit_code ?: EXIT_FAILURE);
        r = reactor_run(d.reactor);
        if (r < 0) {
                log_error("the reactor failed: %s", strerror(-r));
                _exit(EXIT_FAILURE);
        }
        daemon_deinit(&d);
        return r;
}

#pragma once

/*
 * launcher: the object that ties the program together. One loop, one server, the attempts by id, and what is settled at
 * start: configuration, capabilities, cgroups, the view of the machine, the seccomp profiles.
 */

#include <signal.h>

#include "base/id.h"
#include "base/map.h"
#include "launcher/caps.h"
#include "launcher/cgroup.h"
#include "launcher/cloner.h"
#include "launcher/config.h"
#include "launcher/home.h"
#include "launcher/loop.h"
#include "launcher/seccomp.h"
#include "launcher/server.h"
#include "launcher/user.h"
#include "launcher/view.h"

/* Each holds five descriptors and, at worst, two windows of output. */
#define LAUNCHER_ATTEMPTS_MAX 1024

typedef struct Launcher Launcher;
typedef struct LauncherOptions LauncherOptions;

/* All borrowed for the launcher's life. */
struct LauncherOptions {
        const char *config;     /* agent-router.yaml; need not exist */
        const char *seccomp_dir;
        const char *state_dir;
        const char *runtime_dir;
        int listen_fd;          /* listening, SOCK_SEQPACKET */
        int64_t router_uid;     /* -1: root and ourselves only */
};

struct Launcher {
        Loop loop;
        Server server;
        Map attempts;
        size_t n_alive;         /* attempts whose init has not been reaped */
        Config config;
        Caps caps;
        Cgroups cgroups;
        View view;
        Homes homes;
        SeccompCache filters;
        UserCache users;
        Cloner cloner;
        int init_fd;            /* the program that a sandbox's first process becomes; -1: none, it is a copy of us */
        Id generation;          /* new at every start */
        sigset_t signals;       /* our mask before we blocked ours: what agents start with */
        int lock_fd;            /* of the state directory */
        bool stopping;
};

#define LAUNCHER_NULL {                                                                                         \
                .loop = { .epoll_fd = -1 }, .cgroups = CGROUPS_NULL, .view = VIEW_NULL, .homes = HOMES_NULL,    \
                .server = SERVER_NULL, .cloner = { .suid_dumpable_fd = -1 }, .init_fd = -1, .lock_fd = -1,      \
        }

/* Errors are logged here. Deinit takes an object that init has failed on. */
int launcher_init(Launcher *l, const LauncherOptions *options) _must_check_;
void launcher_deinit(Launcher *l);

/* Ends every attempt; the loop stops when the last is gone. */
void launcher_stop(Launcher *l);
/* Called by an attempt whose init was reaped. */
void launcher_on_reaped(Launcher *l);

#pragma once

/*
 * service: what a program is handed by its service manager, or by the runner that stands in for one.
 * LISTEN_FDS (sd_listen_fds(3)), NOTIFY_SOCKET (sd_notify(3)), WATCHDOG_USEC, and the directories of systemd.exec(5).
 * Our own few lines rather than libsystemd, since the launcher must stay small (its memory bound) and the wire formats
 * are stable by systemd's interface promise.
 */

#include "base/macro.h"

#define SERVICE_FDS_MAX 16

typedef struct ServiceFd {
        int fd;
        char name[64];          /* FileDescriptorName=, "unknown" where none */
} ServiceFd;

/*
 * Takes LISTEN_FDS over (sets CLOEXEC, removes the variables). 0 descriptors where none were passed or LISTEN_PID is
 * another's. -EINVAL for malformed variables.
 */
int service_listen_fds(ServiceFd ret_fds[static SERVICE_FDS_MAX], size_t *ret_n) _must_check_;

/* Sends "READY=1\n…"; 0 where there is no NOTIFY_SOCKET. -errno. Never blocks. */
int service_notify(const char *state) _must_check_;
/* Opens the notify socket now, for use after confinement; service_notify() then needs no new socket. */
int service_notify_open(void) _must_check_;
/* Half of WATCHDOG_USEC as the interval to say WATCHDOG=1, or 0. */
uint64_t service_watchdog_interval_us(void);

/*
 * Directories: the first entry of STATE_DIRECTORY, RUNTIME_DIRECTORY, CONFIGURATION_DIRECTORY, CREDENTIALS_DIRECTORY;
 * NULL where unset. The string is the environment's.
 */
const char *service_state_dir(void);
const char *service_runtime_dir(void);
const char *service_configuration_dir(void);
const char *service_credentials_dir(void);

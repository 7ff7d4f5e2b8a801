#pragma once

/*
 * etc: the /etc that sandboxes see: one folder in our runtime directory that holds copies of the few files programs
 * need, kept current, and bound read-only into each sandbox (one mount instead of twenty). Only what every local user
 * may read is copied; never our own configuration, shadow, or anything with a secret. Two folders of the host are bound
 * over it.
 */

#include <sys/stat.h>

#include "base/macro.h"

#define ETC_FILE_MAX MIB(4)     /* passwd of a large site; ld.so.cache is some 50 KiB */
#define ETC_FILES 32

typedef struct Etc Etc;

struct Etc {
        int fd;                 /* O_PATH of the folder */
        uint64_t refreshed_us;  /* CLOCK_MONOTONIC */
        struct {
                dev_t device;
                ino_t inode;
                off_t size;
                struct timespec changed;
                bool there;
        } stamps[ETC_FILES];
};

#define ETC_NULL { .fd = -1 }

/* Folders of the host below /etc that are bound, relative; NULL-terminated. The mount points exist in the folder. */
extern const char *const etc_bound[];

/* Makes the folder "etc" in runtime_fd and fills it. -errno. */
int etc_init(Etc *etc, int runtime_fd) _must_check_;
/* Copies again what has changed on the host, looking at most once a second; what can't be copied keeps its old text. */
void etc_refresh(Etc *etc);
void etc_deinit(Etc *etc);

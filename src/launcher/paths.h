#pragma once

/*
 * paths: the folders that one task asks for, opened in the child with the rights of the task's own user (its effective
 * ids), so that nothing is shown that the user could not reach by itself. A workspace must lie below a configured root,
 * and is walked from there with openat2(2): a link that leads out of the root ends the walk.
 */

#include "base/macro.h"
#include "launcher/config.h"
#include "launcher/failure.h"
#include "launcher/spec.h"
#include "launcher/view.h"

#define PATHS_MAX 160           /* 64 configured, and what a SPAWN of 64 KiB sensibly carries */

typedef struct Paths Paths;
typedef struct PathsBind PathsBind;

struct PathsBind {
        const char *path;       /* borrowed; where it is mounted */
        int fd;                 /* O_PATH */
        bool writable;
};

struct Paths {
        PathsBind binds[PATHS_MAX];
        size_t n;
};

/* With the launcher's own ids: opens what the administrator shows to every task. -errno with the failure filled. */
int paths_open_configured(Paths *p, const Config *config, Failure *failure) _must_check_;
/* With the task's effective ids: opens the workspace and the read-only paths that the router asks for. The same. */
int paths_open(Paths *p, const Spec *spec, const Config *config, Failure *failure) _must_check_;
/* With our own ids again: refuses what touches a protected folder, by its real path. */
int paths_check(const Paths *p, const View *view, Failure *failure) _must_check_;
/* Adds an open folder. Only fails where the array is full. */
int paths_add(Paths *p, const char *path, int fd, bool writable, Failure *failure) _must_check_;
/* Parents before what lies below them, as they must be mounted. */
void paths_sort(Paths *p);

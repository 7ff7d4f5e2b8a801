#pragma once

/*
 * home: a folder for each attempt, STATE_DIRECTORY/tasks/<attempt>, owned by the task's user and mounted as its
 * HOME. It lives until the router forgets the attempt; then it is moved to STATE_DIRECTORY/trash at once, and a janitor
 * process empties the trash in its own time, since a home may hold a hundred thousand files. It starts a moment later,
 * for all that ended until then: a fork costs more than a start of an agent, and makes the next one dearer. What an
 * earlier launcher left goes the same way at start.
 */

#include "base/id.h"
#include "launcher/failure.h"
#include "launcher/loop.h"
#include "launcher/spec.h"

typedef struct Homes Homes;

struct Homes {
        Loop *loop;
        char *tasks_path;       /* a child opens it anew, in its own mount namespace */
        int tasks_fd;
        int trash_fd;
        LoopSource janitor;     /* a pidfd while one runs */
        LoopTimer janitor_timer; /* armed while there is something for the next one */
        bool again;             /* something was thrown away since it started */
};

#define HOMES_NULL { .tasks_fd = -1, .trash_fd = -1, .janitor = LOOP_SOURCE_NULL }

/* Makes the folders in state_dir and throws away what is there. -errno. */
int homes_init(Homes *h, Loop *loop, const char *state_dir) _must_check_;
/* Waits for a running janitor. */
void homes_deinit(Homes *h);

/* In the child, with our own ids: makes the home and gives it to the user. */
int home_new(const char *tasks_path, const Id *attempt, uid_t uid, gid_t gid, int *ret_fd, Failure *failure)
        _must_check_;
/* In the child, with the task's effective ids: writes the seed files. */
int home_seed(int home_fd, const Spec *spec, Failure *failure) _must_check_;
/* The attempt is forgotten. */
void home_discard(Homes *h, const Id *attempt);

/* Empties a folder, of any depth, without recursion and without following links; used by the janitor. -errno. */
int home_empty(int dir_fd) _must_check_;

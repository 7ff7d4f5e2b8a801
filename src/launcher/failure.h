#pragma once

/*
 * Failure: why an attempt could not be started, in the words that SPAWN_FAILED carries: the stage (a stable word), the
 * errno, and one sentence for a person that names the way out. It is filled on the launcher's side of the fork or on
 * the child's, and crosses the report pipe as it is.
 */

#include "base/macro.h"

#define FAILURE_STAGE_MAX 24
#define FAILURE_TEXT_MAX 640    /* a sentence and two paths that are cut if need be */

typedef struct Failure Failure;

struct Failure {
        int error;              /* positive errno; 0: no failure */
        char stage[FAILURE_STAGE_MAX];
        char text[FAILURE_TEXT_MAX];
};

/* Records the failure and returns -error, so that a caller can say `return failure_set(…)`. */
int failure_set(Failure *f, const char *stage, int error, const char *format, ...) _printf_(4, 5);

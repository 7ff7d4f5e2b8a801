#pragma once

/*
 * send: submissions. They go with an idempotency key, the caller's or one of our own: where the connection breaks
 * before the answer, nobody knows whether the task is there, and sending again makes at most one.
 */

#include "ctl/ctl.h"

/* POST; 0 with the answer's JSON, or an exit code. key NULL: one of our own. */
int send_submission(Ctl *ctl, const char *path, const char *body, size_t n, const char *key, json_object **ret_answer)
        _must_check_;
/* The same where the caller tells of a refusal: *ret_problem is the router's, or NULL, and the exit code is not 0. */
int send_submission_or_problem(Ctl *ctl, const char *path, const char *body, size_t n, const char *key,
                               json_object **ret_answer, json_object **ret_problem) _must_check_;

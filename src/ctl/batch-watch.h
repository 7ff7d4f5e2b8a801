#pragma once

/* batch-watch: waiting for a batch, with its progress on stderr: a bar on a terminal, else a line now and then. */

#include "ctl/ctl.h"

/*
 * Until it has ended: 0 with the batch, or an exit code. A router that is gone is waited for as long as patience_us.
 * CTL_INTERRUPTED at SIGINT; the batch goes on.
 */
int batch_watch(Ctl *ctl, const char *id, uint64_t patience_us, json_object **ret_batch) _must_check_;
/* GET of a batch: 0 or an exit code. */
int batch_get(Ctl *ctl, const char *id, const char *tail, json_object **ret_batch) _must_check_;
/* Its states in words: "3 running, 1 failed". */
void batch_counts(json_object *batch, char *s, size_t n);
/* The batch for people: what it is, how far, and the tasks of several agents with their results. */
int batch_print(Ctl *ctl, json_object *batch) _must_check_;
/* Of a command that waited: all succeeded, or with select first one did. */
int batch_exit(json_object *batch);

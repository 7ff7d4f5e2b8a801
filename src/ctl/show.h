#pragma once

/*
 * show: a task and its events, for people. What the agent says goes to stdout; states, tool calls, usage and errors go
 * to stderr, so that `submit --follow > answer.txt` keeps the answer alone.
 */

#include "base/buf.h"
#include "ctl/ctl.h"

typedef struct Show Show;

struct Show {
        Ctl *ctl;
        /* where all but the agent's own text goes: stderr, or stdout for a transcript */
        FILE *side;
        Buf said;                       /* the message being said, to know it again in the result */
        bool in_line;                   /* stdout is in the middle of a line */
};

#define SHOW_SAID_MAX MIB(2)            /* the daemon keeps 1 MiB of a result */
#define SHOW_INIT(ctl_, side_) { .ctl = (ctl_), .side = (side_), .said = BUF_INIT(SHOW_SAID_MAX) }

void show_deinit(Show *s);
/* One event: its type, and its data member. */
void show_event(Show *s, const char *type, json_object *data);
/* Ends a line of stdout that is open. */
void show_finish(Show *s);
/* The result's text on stdout, or why there is none on stderr. */
void show_result(Ctl *ctl, json_object *task);
/* The exit code of a command that waited for a task which ended in this state. */
int show_exit(const char *state);

#pragma once

/*
 * watch: a task's events until its end. A connection that is lost is made again with Last-Event-ID, so that a restart
 * of the router is seen as a pause and nothing is missed or told twice.
 */

#include "ctl/ctl.h"
#include "ctl/show.h"

#define WATCH_PATIENCE_US (120 * USEC_PER_SEC)

typedef struct Watch {
        const char *id;
        Show *show;                     /* NULL: events are not shown, only waited for */
        uint64_t patience_us;           /* how long a router that is gone is waited for */
        bool known;                     /* the router was there a moment ago: even the first connect is tried again */
        char state[32];                 /* set at the end */
} Watch;

/* 0 with w->state set; else an exit code, with the reason said on stderr. CTL_INTERRUPTED at SIGINT. */
int watch_task(Ctl *ctl, Watch *w) _must_check_;
/* GET of a task: 0 or an exit code. */
int watch_get(Ctl *ctl, const char *id, const char *query, json_object **ret_task) _must_check_;
/* Parses --patience; false after saying what was expected. */
bool watch_parse_patience(const char *s, uint64_t *ret_us);
/* Pauses for so long, or until SIGINT. */
void watch_pause(uint64_t us);

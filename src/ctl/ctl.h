#pragma once

/*
 * ctl: agent-routerctl, a client of the daemon's HTTP API. One file is one verb; a verb returns an exit code (CtlExit)
 * or a negative errno, and has said on stderr what went wrong. stdout holds the answer and nothing else, so that it can
 * be piped.
 */

#include <json-c/json.h>
#include <stdio.h>

#include "base/macro.h"
#include "ctl/options.h"

typedef struct Ctl Ctl;
typedef struct Client Client;

/* Exit codes, as in --help and agent-routerctl(1). */
typedef enum CtlExit {
        CTL_OK,
        /* the task that was waited for did not succeed; doctor: something required is missing */
        CTL_TASK_FAILED,
        CTL_USAGE,              /* the command line, or a file that it names */
        CTL_UNREACHABLE,        /* no connection, or it was lost for good */
        CTL_REFUSED,            /* the router refused the request: 4xx */
        CTL_TASK_STOPPED,       /* the task that was waited for was cancelled, or timed out */
        CTL_BUSY,               /* the router is overloaded or failing: 429, 5xx */
        CTL_INTERNAL,           /* no memory and the like */
        CTL_INTERRUPTED = 130,  /* SIGINT while waiting; the task goes on */
} CtlExit;

struct Ctl {
        /* options of every verb */
        const char *socket;
        const char *url;
        const char *key_file;
        bool json;
        Client *client;         /* made at the first request */
        bool color;             /* stdout is a terminal, and NO_COLOR is not set */
        bool color_err;
        unsigned width;         /* columns of the terminal that stdout is, 0: none, lines are never cut */
};

/* "agent-routerctl: …" on stderr. Returns code, for `return ctl_fail(CTL_USAGE, …)`. */
int ctl_fail(int code, const char *format, ...) _printf_(2, 3);

/*
 * The options of a verb with those of every verb; *ret_n positional arguments are left at the front of argv. What is
 * not 0 goes to ctl_parsed(), which gives the exit code: the help was printed, or what was wrong was said.
 */
int ctl_parse(Ctl *ctl, const Verb *verb, const Option *options, int argc, char **argv, int *ret_n) _must_check_;
int ctl_parsed(int r);

/* Verbs. */
int verb_submit(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_get(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_list(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_cancel(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_retry(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_batch_submit(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_batch_list(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_batch_show(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_batch_cancel(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_batch_retry(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_follow(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_key_create(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_key_list(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_key_revoke(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_status(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_limit_list(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_limit_set(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_limit_unset(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_group_list(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_group_set(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_group_pause(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_group_resume(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_drain(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_resume(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_reload(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_usage(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_events(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_agents(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_agent_reset(Ctl *ctl, const Verb *verb, int argc, char **argv);
int verb_doctor(Ctl *ctl, const Verb *verb, int argc, char **argv);

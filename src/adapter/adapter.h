#pragma once

/*
 * adapter: a CLI is data. A YAML manifest says how to find and run it, how its output maps to normalised events, how
 * its end is classified, and what its sandbox needs. This layer knows no process: it renders a launch specification and
 * turns complete output lines into events.
 *
 * Normalised events (type, JSON data):
 *   text        {"text": …}                       what the agent says, as it says it
 *   tool_call   {"name": …, "input": …}
 *   tool_result {"name": …, "output": …, "exit_code": …, "is_error": …}
 *   usage       {"input_tokens": …, "cached_input_tokens": …, "output_tokens": …, "reasoning_tokens": …}
 *   warning     {"message": …}                    e.g. a reconnect
 *   error       {"message": …, "status": …}
 *   result      {"text": …}
 *   output      {"stream": "stdout"|"stderr", "text": …}   a line that maps to nothing
 */

#include "base/buf.h"
#include "base/macro.h"
#include "base/yaml.h"
#include "store/store.h"

typedef struct Adapter Adapter;                 /* one agent: a loaded manifest with the configuration's settings */
typedef struct AdapterCommand AdapterCommand;   /* what to launch for one task */
typedef struct AdapterRun AdapterRun;           /* the output side of one attempt */
typedef struct AdapterOutcome AdapterOutcome;

#define ADAPTER_LINE_MAX MIB(1) /* a longer line is cut: the rest is dropped up to its newline, with a marker event */
#define ADAPTER_RESULT_MAX      MIB(1)          /* final text kept */

enum {
        _ADAPTER_E_SUCCESS,
        ADAPTER_E_INVALID,              /* the manifest; the message says file:line:column */
        ADAPTER_E_NOT_INSTALLED,        /* no executable found; adapter_hint() says how to install it */
        ADAPTER_E_UNSUPPORTED,          /* the task asks for something the agent can't: detail says what */
};

/* Configuration of one agent (agents.NAME of the daemon's configuration). */
typedef struct AdapterConfig {
        const char *name;
        char *path;                     /* executable; overrides the manifest's search; may be NULL */
        char **search;                  /* directories searched before the manifest's, NULL-terminated; may be NULL */
        char **settings; /* "name=value" for ${setting.name} in the manifest, NULL-terminated; may be NULL */
        char **environment;             /* "NAME=value" added, NULL-terminated; may be NULL */
        char **credentials;             /* "NAME=credential": the launcher reads the credential; may be NULL */
        char **read_only;               /* further paths that the sandbox shows read-only; may be NULL */
        uint32_t concurrency;           /* 0: the manifest's */
        char *account;                  /* who pays; NULL: one of the agent's own, by its name */
        bool disabled;
} AdapterConfig;

int adapter_load(Adapter **ret_adapter, int dir_fd, const char *manifest_path, const AdapterConfig *config,
                 char ret_error[static YAML_ERROR_MAX]) _must_check_;
/* One more holder; each calls adapter_free(). */
Adapter *adapter_ref(Adapter *adapter);
Adapter *adapter_free(Adapter *adapter);
DEFINE_CLEANUP(Adapter, adapter_free);

const char *adapter_name(const Adapter *a);
const char *adapter_title(const Adapter *a);
/* Agents of the same account share what its vendor allows. */
const char *adapter_account(const Adapter *a);
uint32_t adapter_concurrency(const Adapter *a);
bool adapter_has_capability(const Adapter *a, const char *capability);
/* NULL-terminated, the manifest's. */
const char *const *adapter_capabilities(const Adapter *a);
/* Finds the executable (again): 0 or ADAPTER_E_NOT_INSTALLED. */
int adapter_probe(Adapter *a) _must_check_;
/* Found executable, or NULL. */
const char *adapter_executable(const Adapter *a);
/* "npm install -g @openai/codex@0.169.0" and the like, one sentence. */
const char *adapter_hint(const Adapter *a);

/* Everything the launcher needs for one attempt. */
struct AdapterCommand {
        char **argv;                    /* NULL-terminated; argv[0] absolute */
        char **environment;             /* NULL-terminated, whole */
        char **credentials;             /* "NAME=credential", NULL-terminated */
        char **read_only;               /* NULL-terminated */
        char **home_files;              /* pairs: path below HOME, content; NULL-terminated */
        char *stdin_data;               /* the prompt (and template), to be put in a sealed memfd */
        size_t n_stdin;
        const char *seccomp;            /* profile name */
        bool network;                   /* the host's network */
        uint64_t memory_max;            /* 0: default */
        uint32_t pids_max;              /* 0: default */
        uint32_t cpu_percent;           /* 0: no limit */
        uint64_t inactivity_us;         /* 0: none */
        uint32_t grace_ms;              /* SIGTERM to SIGKILL */
};
AdapterCommand *adapter_command_free(AdapterCommand *command);
DEFINE_CLEANUP(AdapterCommand, adapter_command_free);

/* home: the path of HOME as the task sees it. ADAPTER_E_UNSUPPORTED with ret_error. */
int adapter_render(const Adapter *a, const StoreTask *task, const char *home, AdapterCommand **ret_command,
                   char ret_error[static YAML_ERROR_MAX]) _must_check_;
/* The same checks at submit time, without rendering. */
int adapter_check(const Adapter *a, const StoreTask *task, char ret_error[static YAML_ERROR_MAX]) _must_check_;

/* Receives each event of a line, in order; 0 to go on. data is a JSON object. */
typedef int (*AdapterEventFn)(void *userdata, const char *type, const char *data, size_t n_data);

/* Holds the adapter until it is freed. */
int adapter_run_new(AdapterRun **ret_run, Adapter *a) _must_check_;
AdapterRun *adapter_run_free(AdapterRun *run);
DEFINE_CLEANUP(AdapterRun, adapter_run_free);
/* The run resumes a session that had used this much: a CLI that counts a whole session is charged the difference. */
void adapter_run_resume(AdapterRun *run, const StoreUsage *before);
/*
 * One complete line (without its newline) of stream 1 or 2. It updates the run's accumulated text, usage, session and
 * error, and calls fn (NULL while a restarted router replays stored raw lines) for each normalised event.
 */
int adapter_run_line(AdapterRun *run, unsigned stream, const char *line, size_t n, AdapterEventFn fn, void *userdata)
        _must_check_;

/* What it has used so far, as far as its lines have told. */
const StoreUsage *adapter_run_usage(const AdapterRun *run);

struct AdapterOutcome {
        bool succeeded;
        const char *reason;             /* "completed", "authentication", "rate_limited", "quota", "overloaded",
                                           "invalid_request", "network", "out_of_memory", "no_result", "exit_status",
                                           "signal", "permanent" */
        bool retryable;
        uint64_t retry_after_us;        /* 0: unknown */
        char detail[256];               /* for people; never content of the prompt */
        const char *text;               /* final text, the run's; NULL where none */
        size_t n_text;
        bool text_truncated;
        StoreUsage usage;
        const char *session;            /* the run's; may be NULL */
};
/* exit_code −1 where it was killed by signal. */
void adapter_run_finish(AdapterRun *run, int exit_code, int signal, uint32_t oom_kills, AdapterOutcome *ret_outcome);

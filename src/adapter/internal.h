#pragma once

/*
 * What the files of this layer share: the loaded manifest.
 *
 *   adapter.c          an Adapter's life, and the configuration laid over its manifest
 *   manifest.c         the document's top level: command, environment, sandbox, limits
 *   manifest-output.c  its output mapping and error table
 *   template.c         ${variables} and the conditions on them
 *   find.c             the executable's search
 *   render.c           Adapter + task → AdapterCommand
 *   map.c              one parsed JSON line → events, by the rules
 *   classify.c         exit and error text → reason
 *   run.c              the output side of one attempt
 */

#include <json-c/json.h>

#include "adapter/adapter.h"

/* Bounds of a manifest: far above what a CLI needs, and a rendered command stays within one launcher message. */
#define MANIFEST_NAME_MAX         64    /* of an agent, setting, capability, profile */
#define MANIFEST_ARGS_MAX         256
#define MANIFEST_ENVIRONMENT_MAX  128
#define MANIFEST_SETTINGS_MAX     32
#define MANIFEST_RULES_MAX        64    /* every line is tried against each */
#define MANIFEST_MATCHES_MAX      8
#define MANIFEST_VALUES_MAX       32
#define MANIFEST_LIST_MAX         64
#define MANIFEST_HOME_FILES_MAX   16
#define MANIFEST_TEXT_MAX         KIB(16) /* any one text: an argument, a file's content */
#define MANIFEST_CONCURRENCY_MAX  1024

typedef struct Condition Condition;
typedef struct ErrorRule ErrorRule;
typedef struct Field Field;
typedef struct Group Group;
typedef struct Match Match;
typedef struct NamedTemplate NamedTemplate;
typedef struct RenderContext RenderContext;
typedef struct Rule Rule;
typedef struct Setting Setting;
typedef struct Template Template;
typedef struct TemplatePart TemplatePart;
typedef struct Variable Variable;

/* ---- template.c ---- */

typedef enum VariableKind {
        VARIABLE_LITERAL,       /* only in a TemplatePart: text that stands for itself */
        VARIABLE_WORKSPACE,     /* absolute path, "" without one */
        VARIABLE_HOME,          /* HOME as the task sees it */
        VARIABLE_MODEL,         /* the task's, else the setting "model" */
        VARIABLE_INSTALL,       /* what of the installation the sandbox must show */
        VARIABLE_SETTING,       /* a declared setting */
        VARIABLE_ENV,           /* conditions only: the configuration gives this environment variable or credential */
} VariableKind;

struct Variable {
        VariableKind kind;
        size_t setting;         /* index */
        char *name;             /* VARIABLE_ENV */
};

struct TemplatePart {
        Variable variable;
        char *literal;          /* VARIABLE_LITERAL */
};

struct Template {
        TemplatePart *parts;
        size_t n;
};

/* Holds where every `when` variable is set and no `unless` variable is. */
struct Condition {
        Variable *when;
        size_t n_when;
        Variable *unless;
        size_t n_unless;
};

struct RenderContext {
        const Adapter *adapter;
        const char *workspace;
        const char *home;
        const char *model;
};

/* Parses the scalar; an error is recorded in d and the result is false. */
bool template_parse(Adapter *a, YamlDocument *d, const YamlNode *node, Template *ret_template);
void template_deinit(Template *t);
int template_render(const Template *t, const RenderContext *context, char **ret_s) _must_check_;
bool template_uses(const Template *t, VariableKind kind);
/* Reads `when` and `unless` of a mapping. */
bool condition_parse(Adapter *a, YamlDocument *d, YamlNode *mapping, Condition *ret_condition);
void condition_deinit(Condition *c);
bool condition_holds(const Condition *c, const RenderContext *context);

/* ---- the manifest ---- */

struct Setting {
        char *name;
        char *value;            /* the configuration's, else the default; never NULL */
        bool required;
};

/* Arguments that come and go together. */
struct Group {
        Condition condition;
        Template *args;
        size_t n_args;
};

struct NamedTemplate {
        char *name;             /* of a variable, or a path below HOME */
        Condition condition;
        Template value;
};

typedef enum MatchKind {
        MATCH_EQUALS,           /* one of the values */
        MATCH_PREFIX,           /* starts with one of the values */
        MATCH_EXISTS,
        MATCH_ABSENT,
} MatchKind;

struct Match {
        char *pointer;          /* RFC 6901 */
        MatchKind kind;
        char **values;          /* a JSON number or boolean is compared as its text */
        size_t n_values;
};

typedef enum EventType {
        EVENT_NONE,
        EVENT_TEXT,
        EVENT_TOOL_CALL,
        EVENT_TOOL_RESULT,
        EVENT_WARNING,
        EVENT_ERROR,
        EVENT_RESULT,
        _EVENT_N,
} EventType;

#define EVENT_FIELDS_MAX 4

/* The event types' names and fields; the first `n_needed` must be found for the rule to apply. */
typedef struct EventInfo {
        const char *name;
        const char *fields[EVENT_FIELDS_MAX];   /* NULL-padded */
        size_t n_needed;
} EventInfo;
extern const EventInfo event_infos[_EVENT_N];

struct Field {
        char *pointer;          /* NULL: not given */
        char *literal;          /* instead of a pointer */
};

typedef enum AnswerMode {
        ANSWER_NONE,
        ANSWER_LAST,            /* the last text is the final one */
        ANSWER_JOIN,            /* the texts are deltas of it */
} AnswerMode;

typedef enum UsageMode {
        USAGE_LAST,             /* a line's numbers are the run's so far */
        USAGE_SUM,              /* a line's numbers are one message's */
        USAGE_CUMULATIVE,       /* a line's numbers are the session's, earlier runs included */
} UsageMode;

/* In the order of StoreUsage. */
#define USAGE_FIELDS 5
extern const char *const usage_field_names[USAGE_FIELDS];

struct Rule {
        Match *matches;
        size_t n_matches;
        char *each; /* pointer to an array: the rule applies to each element, whose root is then the element */
        Match *where;           /* on the element */
        size_t n_where;
        EventType emit;
        Field fields[EVENT_FIELDS_MAX];
        AnswerMode answer;
        char *session;          /* pointer */
        bool success;
        bool has_usage;
        UsageMode usage_mode;
        char *usage[USAGE_FIELDS]; /* pointers */
};

typedef enum Reason {
        REASON_COMPLETED,
        REASON_AUTHENTICATION,
        REASON_RATE_LIMITED,
        REASON_QUOTA,
        REASON_OVERLOADED,
        REASON_INVALID_REQUEST,
        REASON_NETWORK,
        REASON_OUT_OF_MEMORY,
        REASON_NO_RESULT,
        REASON_EXIT_STATUS,
        REASON_SIGNAL,
        REASON_PERMANENT,
        _REASON_N,
} Reason;

/* Matches where any of its conditions does; the first that matches classifies. */
struct ErrorRule {
        uint32_t *status;       /* HTTP status */
        size_t n_status;
        char **contains;        /* in the error's text, ASCII case ignored */
        size_t n_contains;
        uint32_t *exit;         /* exit codes, only where nothing better is known */
        size_t n_exit;
        Reason reason;
        bool retryable;
        uint64_t retry_after_us;
};

typedef enum OutputFormat {
        OUTPUT_TEXT,            /* stdout is the answer */
        OUTPUT_JSON_LINES,
} OutputFormat;

struct Adapter {
        unsigned n_refs;
        /* manifest */
        char *name;
        char *title;
        char **tested;
        char **capabilities;
        char *hint;
        char **find;            /* names or absolute paths */
        char *package;          /* npm package of the wrapper; may be NULL */
        char *native; /* the native executable of this machine's architecture, below node_modules; may be NULL */
        char *interpreter;      /* name of the program that runs a script; may be NULL */
        Setting *settings;
        size_t n_settings;
        Group *groups;
        size_t n_groups;
        NamedTemplate *environment;
        size_t n_environment;
        NamedTemplate *home_files;
        size_t n_home_files;
        char *seccomp;
        bool network;
        Template *read_only;
        size_t n_read_only;
        uint64_t memory_max;
        uint32_t pids_max;
        uint32_t cpu_percent;
        uint64_t inactivity_us;
        uint64_t grace_us;
        uint64_t prompt_chars_max; /* Unicode code points; 0: no limit */
        uint32_t concurrency;
        bool takes_model;
        OutputFormat format;
        Rule *rules;
        size_t n_rules;
        bool needs_success;     /* some rule has `success` */
        ErrorRule *errors;
        size_t n_errors;

        /* configuration */
        char *path;
        char **search;
        char **extra_environment;
        char **credentials;
        char **extra_read_only;
        char *account;          /* NULL: its name */
        bool disabled;

        /* probe */
        char *executable;       /* absolute; the script where there is an interpreter */
        char *interpreter_path;
        char *install;          /* "" where the system directories hold it */
};

/* ---- manifest.c and manifest-output.c: false is an error recorded in d ---- */

/* Fills a; d->failed says whether it could. config may be NULL. */
void manifest_load(Adapter *a, YamlDocument *d, const AdapterConfig *config);
/* Whether any template or condition has ${model}. */
bool manifest_uses_model(const Adapter *a);
/* Letters, digits and '_', first no digit. */
bool manifest_is_env_name(const char *s);
/* Wraps a typed getter of a key that is there: the getters take null for absent, which here is an error. */
bool manifest_got(YamlDocument *d, YamlNode *mapping, const char *key, bool got);
/* A typed getter of a key that may be absent. */
#define manifest_optional(getter, d, mapping, key, ...)                                                                \
        (!yaml_get((d), (mapping), (key)) ||                                                                           \
         manifest_got((d), (mapping), (key), getter((d), (mapping), (key), __VA_ARGS__)))
bool manifest_dup(YamlDocument *d, const YamlNode *node, char **ret_s);
/* A scalar or a sequence of scalars as a NULL-terminated array. */
bool manifest_list(YamlDocument *d, YamlNode *node, size_t max, char ***ret_list, size_t *ret_n);
/* Allocates n zeroed elements; n may be 0. NULL: recorded in d. */
void *manifest_array(YamlDocument *d, const YamlNode *at, size_t n, size_t max, size_t size, const char *what);
bool manifest_output(Adapter *a, YamlDocument *d, YamlNode *root);
void rule_deinit(Rule *rule);
void error_rule_deinit(ErrorRule *rule);

char **strv_free(char **v);
/* n strings and NULL; v NULL gives NULL. */
int strv_copy(char **v, char ***ret_copy) _must_check_;
size_t strv_length(char **v);

/* ---- map.c ---- */

/* What a line changes beside its events. */
typedef struct MapSink {
        int (*on_event)(struct MapSink *sink, const Rule *rule, json_object *const fields[static EVENT_FIELDS_MAX]);
        int (*on_usage)(struct MapSink *sink, const Rule *rule, const StoreUsage *usage);
        int (*on_session)(struct MapSink *sink, const char *session);
        int (*on_success)(struct MapSink *sink);
} MapSink;

/* Applies every rule that matches, in order; *ret_n is how many did. */
int map_line(const Adapter *a, json_object *line, MapSink *sink, size_t *ret_n) _must_check_;

/* ---- classify.c ---- */

const char *reason_name(Reason reason);
/* _REASON_N where there is none of that name. */
Reason reason_from_name(const char *name);
bool reason_is_retryable(Reason reason);

typedef struct Classification {
        Reason reason;
        bool retryable;
        uint64_t retry_after_us;
} Classification;

/* The HTTP status that a text names ("status 401", "status: 429"…), 0 where it names none. text may be NULL. */
uint32_t classify_status(const char *text);
/* text may be NULL; status 0: taken from the text where it says one; exit_code −1: none. */
bool classify(const Adapter *a, const char *text, uint32_t status, int exit_code, Classification *ret_c);

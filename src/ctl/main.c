#include <locale.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/parse.h"
#include "ctl/client.h"
#include "ctl/ctl.h"

#define WIDTH_MIN 40
#define WIDTH_MAX 1000

static const Verb verbs[] = {
        { "submit", "[PROMPT | --file FILE | -]", "submit a task",
          "Prints the task's id. The prompt is the argument, a file, or stdin. With --wait it prints the result's text at the\n"
          "end, with --follow what the agent says as it says it; the exit code is then the task's. With --json: the task,\n"
          "or with --follow one event a line.\n\n"
          "With --agents several agents get the same task, under one id; with --wait their results are printed one after\n"
          "another. The prompt may hold {{tasks.ID.result}}: the result of a task that it comes after.", verb_submit },
        { "get", "ID", "show a task, its attempts and its result", NULL, verb_get },
        { "list", "", "list tasks, the newest first", NULL, verb_list },
        { "cancel", "ID… | --all", "cancel tasks",
          "A queued task is cancelled at once; a running one is asked to end, then killed. --all cancels all of the caller's\n"
          "tasks (an admin's: everybody's), --group, --state, --agent and --label those that they let through.", verb_cancel },
        { "retry", "ID…", "run tasks again that ended without success",
          "They are queued anew, with as many attempts as at first. What is dead is listed by: list --state dead.", verb_retry },
        { "batch submit", "FILE.jsonl | -", "submit many tasks as one, and wait for them",
          "One JSON object a line, each a task as in the API: {\"prompt\": …, \"agent\": …}. All of them are submitted or none; what\n"
          "is wrong is named by its line. \"after\": [\"#3\"] is the fourth task of the file. stdout is the batch's id; the exit\n"
          "code is 0 where all succeeded, else 1. With --json: the batch at its end.", verb_batch_submit },
        { "batch list", "", "list batches, the newest first", NULL, verb_batch_list },
        { "batch show", "ID", "show a batch: its states, usage and progress", NULL, verb_batch_show },
        { "batch cancel", "ID…", "cancel the tasks of batches", NULL, verb_batch_cancel },
        { "batch retry", "ID…", "run those tasks of batches again that ended without success", NULL, verb_batch_retry },
        { "follow", "ID", "print what a task's agent says, until its end",
          "Starts with what was said already. A lost connection is made again, and nothing is missed. The agent's words go\n"
          "to stdout, the rest (states, tools, tokens) to stderr. The exit code is the task's. With --json: one event a line.",
          verb_follow },
        { "key create", "--name NAME", "make an API key, and print it (admin)",
          "stdout is the key and nothing else. It is shown this once: the router keeps a hash alone.", verb_key_create },
        { "key list", "", "list API keys (admin)", NULL, verb_key_list },
        { "key revoke", "NAME", "revoke an API key (admin)", NULL, verb_key_revoke },
        { "events", "", "print what happens to all tasks, as it happens",
          "One line an event, from now on, until SIGINT: the caller's own tasks, or all of an admin's. A lost connection is\n"
          "made again, and nothing is missed. With --json: one event a line.", verb_events },
        { "limit list", "[KIND]", "list the limits that are in force", NULL, verb_limit_list },
        { "limit set", "KIND NAME", "set a limit, or a part of it (admin)",
          "KIND is global, agent, principal or group; the global limit needs no name. It goes before the configuration, at\n"
          "once and over restarts. What is not named stays as it is; none takes back what was set here.", verb_limit_set },
        { "limit unset", "KIND NAME", "back to the configuration's limit (admin)", NULL, verb_limit_unset },
        { "group list", "", "list the groups that have tasks or limits", NULL, verb_group_list },
        { "group set", "NAME", "set how many of a group may run (admin)", NULL, verb_group_set },
        { "group pause", "NAME", "start nothing more of a group (admin)",
          "What runs goes on to its end; the others wait.", verb_group_pause },
        { "group resume", "NAME", "end a group's pause (admin)", NULL, verb_group_resume },
        { "drain", "", "start nothing more (admin)",
          "What runs goes on to its end; what is submitted is accepted, and waits, over restarts too. With --wait it returns\n"
          "when nothing runs any more.", verb_drain },
        { "resume", "", "start tasks again after a drain (admin)", NULL, verb_resume },
        { "reload", "", "have the router read its configuration again (admin)",
          "A configuration that is not valid changes nothing, and is said.", verb_reload },
        { "usage", "", "show the tokens and the money that were used",
          "Sums over the attempts that ended on these days, of the caller's own tasks, or of all for an admin.", verb_usage },
        { "status", "", "show the router: tasks, launcher, store, agents", NULL, verb_status },
        { "agent list", "", "list the agents, and how to get those that are missing",
          "With the circuit breaker of each (open after failures in a row: nothing is started until it closes), and the gate\n"
          "before its account (rate-limited, or its quota used up).", verb_agents },
        { "agents", "", "the same", NULL, verb_agents },
        { "agent reset", "NAME", "start an agent's tasks again",
          "Opens the gate before its account and its circuit breaker, where you know that what closed them is over.",
          verb_agent_reset },
        { "doctor", "", "check this machine, without a router",
          "Checks the kernel (io_uring, cgroups, namespaces, Landlock, seccomp), the store key, the sockets, and which agent\n"
          "CLIs are found, with their versions and logins. What is missing is said with its remedy. Exit code 1 where\n"
          "something is missing that the router can't do without.", verb_doctor },
};

static const char exit_codes[] =
        "Exit codes: 0 ok; 1 the task failed (doctor: something is missing; drain: the deadline passed); 2 usage;\n"
        "3 no connection; 4 refused by the router; 5 the task was cancelled, timed out or expired;\n"
        "6 the router is overloaded or failing; 7 internal error; 130 interrupted while waiting (the task goes on).\n";

int ctl_fail(int code, const char *format, ...) {
        va_list ap;

        fputs("agent-routerctl: ", stderr);
        va_start(ap, format);
        vfprintf(stderr, format, ap);
        va_end(ap);
        fputc('\n', stderr);
        return code;
}

/* The options of every verb; targets only where they are parsed, not for the help. */
static void ctl_common(Ctl *ctl, bool *version, Option options[static 6]) {
        size_t n = 0;

        options[n++] = (Option){ "json", 'j', NULL, "the router's JSON, for programs", .flag = &ctl->json };
        options[n++] = (Option){ "socket", 0, "PATH", "control socket of the router (AGENT_ROUTER_SOCKET)", .text = &ctl->socket };
        options[n++] = (Option){ "url", 0, "URL", "router at an address (AGENT_ROUTER_URL), with the key in\n"
                                 "AGENT_ROUTER_KEY or a file", .text = &ctl->url };
        options[n++] = (Option){ "key-file", 0, "FILE", "file with the API key", .text = &ctl->key_file };
        if (version)
                options[n++] = (Option){ "version", 'V', NULL, "print the version", .flag = version };
        options[n] = (Option){};
}

static void print_verb_help(Ctl *ctl, const Verb *verb, const Option *options) {
        Option common[6];

        ctl_common(ctl, NULL, common);
        printf("usage: agent-routerctl %s [OPTION…]%s%s\n\n%s.\n", verb->name, *verb->arguments ? " " : "", verb->arguments,
               verb->summary);
        if (verb->details)
                printf("\n%s\n", verb->details);
        options_print(stdout, options, "Options");
        options_print(stdout, common, "Options of every command");
        printf("\n%s", exit_codes);
}

int ctl_parse(Ctl *ctl, const Verb *verb, const Option *options, int argc, char **argv, int *ret_n) {
        char error[256];
        Option common[6];
        int r;

        ctl_common(ctl, NULL, common);
        r = options_parse(options, common, false, argc, argv, ret_n, error);
        if (r == OPTIONS_E_HELP)
                print_verb_help(ctl, verb, options);
        else if (r == OPTIONS_E_USAGE)
                ctl_fail(CTL_USAGE, "%s: %s\n  the options are listed by: agent-routerctl %s --help", verb->name, error, verb->name);
        return r;
}

int ctl_parsed(int r) {
        return r == OPTIONS_E_HELP ? CTL_OK : CTL_USAGE;
}

static void print_help(Ctl *ctl) {
        Option common[6];
        bool version;

        ctl_common(ctl, &version, common);
        printf("usage: agent-routerctl [OPTION…] COMMAND [ARGUMENT…]\n\n"
               "Submit tasks to agent CLIs through agent-routerd, watch them, and manage the router.\n\nCommands:\n");
        for (size_t i = 0; i < ELEMENTSOF(verbs); i++)
                printf("  %-12s %s\n", verbs[i].name, verbs[i].summary);
        options_print(stdout, common, "Options");
        printf("\nWithout --socket or --url the router is the one at $XDG_RUNTIME_DIR/agent-router/control.sock where that is\n"
               "there (your own instance), else at /run/agent-router/control.sock. NO_COLOR turns colours off.\n\n"
               "%s\nMore: agent-routerctl COMMAND --help, man agent-routerctl.\n", exit_codes);
}

/* "submit", or "key" and "create": the verb, and how many words it took. */
static const Verb *find_verb(int argc, char **argv, int *ret_words) {
        for (size_t i = 0; i < ELEMENTSOF(verbs); i++) {
                const char *space = strchr(verbs[i].name, ' ');
                if (!space && streq(verbs[i].name, argv[0])) {
                        *ret_words = 1;
                        return verbs + i;
                }
                if (space && argc > 1 && strlen(argv[0]) == (size_t)(space - verbs[i].name) &&
                    str_starts(verbs[i].name, argv[0]) && streq(space + 1, argv[1])) {
                        *ret_words = 2;
                        return verbs + i;
                }
        }
        return NULL;
}

/* "key" alone, or with a word that is none of its: they are listed. False: it begins no verb. */
static bool verb_group(int argc, char **argv, int *ret_code) {
        bool help = argc > 1 && (streq(argv[1], "--help") || streq(argv[1], "-h"));
        FILE *f = help ? stdout : stderr;
        size_t n_word = strlen(argv[0]);
        bool found = false;

        for (size_t i = 0; i < ELEMENTSOF(verbs); i++)
                if (str_starts(verbs[i].name, argv[0]) && verbs[i].name[n_word] == ' ') {
                        fprintf(f, found ? "|%s%s" : "usage: agent-routerctl %s %s", found ? "" : argv[0],
                                verbs[i].name + n_word + 1);
                        found = true;
                }
        if (found)
                fputc('\n', f);
        for (size_t i = 0; i < ELEMENTSOF(verbs); i++)
                if (str_starts(verbs[i].name, argv[0]) && verbs[i].name[n_word] == ' ')
                        fprintf(f, "  %-12s %s\n", verbs[i].name, verbs[i].summary);
        *ret_code = help ? CTL_OK : CTL_USAGE;
        return found;
}

static int unknown_verb(int argc, char **argv) {
        const char *names[ELEMENTSOF(verbs)], *nearest;
        int code;

        if (verb_group(argc, argv, &code))
                return code;
        for (size_t i = 0; i < ELEMENTSOF(verbs); i++)
                names[i] = verbs[i].name;
        nearest = options_nearest(argv[0], names, ELEMENTSOF(names));
        return ctl_fail(CTL_USAGE, "unknown command '%s'%s%s%s\n  the commands are listed by: agent-routerctl --help", argv[0],
                        nearest ? "; did you mean " : "", nearest ?: "", nearest ? "?" : "");
}

/* Where stdout is no terminal, lines are never cut; COLUMNS overrides what the terminal says. */
static unsigned terminal_width(void) {
        const char *columns = getenv("COLUMNS");
        struct winsize size;
        uint64_t width;

        if (!isatty(STDOUT_FILENO))
                return 0;
        if (columns && parse_u64_range(columns, WIDTH_MIN, WIDTH_MAX, &width))
                return (unsigned)width;
        if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
                return 80;
        return MAX((unsigned)size.ws_col, (unsigned)WIDTH_MIN);
}

static bool wants_color(int fd) {
        const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");

        return isatty(fd) && !(no_color && *no_color) && !(term && streq(term, "dumb"));
}

static int run(Ctl *ctl, int argc, char **argv) {
        bool version = false;
        char error[256];
        const Verb *verb;
        Option common[6];
        int n, words = 0, r;

        ctl_common(ctl, &version, common);
        r = options_parse(common, NULL, true, argc, argv, &n, error);
        if (r == OPTIONS_E_USAGE)
                return ctl_fail(CTL_USAGE, "%s\n  the options are listed by: agent-routerctl --help", error);
        if (r == 0 && n + 1 < argc && streq(argv[n], "help")) {
                verb = find_verb(argc - n - 1, argv + n + 1, &words);
                if (!verb)
                        return unknown_verb(argc - n - 1, argv + n + 1);
                return verb->run(ctl, verb, 1, (char *[]){ (char *)"--help", NULL });
        }
        if (r == OPTIONS_E_HELP || (n < argc && streq(argv[n], "help"))) {
                print_help(ctl);
                return CTL_OK;
        }
        if (version) {
                puts("agent-routerctl " AR_VERSION);
                return CTL_OK;
        }
        if (n == argc)
                return ctl_fail(CTL_USAGE, "expected a command\n  they are listed by: agent-routerctl --help");
        verb = find_verb(argc - n, argv + n, &words);
        if (!verb)
                return unknown_verb(argc - n, argv + n);
        return verb->run(ctl, verb, argc - n - words, argv + n + words);
}

int main(int argc, char **argv) {
        Ctl ctl = {};
        int r;

        /* For the width of characters; the program speaks English in every locale. */
        if (!setlocale(LC_CTYPE, "C.UTF-8"))
                setlocale(LC_CTYPE, "");
        ctl.width = terminal_width();
        ctl.color = wants_color(STDOUT_FILENO);
        ctl.color_err = wants_color(STDERR_FILENO);
        r = run(&ctl, MAX(argc - 1, 0), argv + 1);
        client_free(ctl.client);
        if (r < 0)
                r = ctl_fail(CTL_INTERNAL, "%s", strerror(-r));
        if (fflush(stdout) != 0 || ferror(stdout))
                r = ctl_fail(CTL_INTERNAL, "cannot write to stdout");
        return r;
}

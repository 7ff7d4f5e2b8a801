#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"
#include "ctl/doctor.h"
#include "ctl/text.h"

#define VERSION_TIMEOUT_US (10 * USEC_PER_SEC)  /* Gemini takes 1.3 s on an idle machine */
#define VERSION_OUTPUT_MAX KIB(4)
#define VERSION_MAX 64
#define DIRECTORIES_MAX 128                     /* PATH, and a Node version manager's versions */

typedef struct AgentCli AgentCli;
typedef struct Directories Directories;

/* What is known of a CLI; the package and its login files as they were observed. */
struct AgentCli {
        const char *name;
        const char *title;
        const char *package;
        const char *login_files[3];     /* below HOME */
        const char *login_variables[5];
        const char *login_remedy;
};

static const AgentCli clis[] = {
        { "codex", "OpenAI Codex", "@openai/codex", { ".codex/auth.json" }, { "CODEX_API_KEY", "OPENAI_API_KEY" },
          "codex login, or CODEX_API_KEY" },
        { "gemini", "Gemini CLI", "@google/gemini-cli", { ".gemini/oauth_creds.json" }, { "GEMINI_API_KEY", "GOOGLE_API_KEY" },
          "start gemini once and log in, or GEMINI_API_KEY" },
        { "copilot", "GitHub Copilot CLI", "@github/copilot", { ".copilot/config.json", ".config/github-copilot/apps.json" },
          { "COPILOT_GITHUB_TOKEN", "GH_TOKEN", "GITHUB_TOKEN", "COPILOT_PROVIDER_API_KEY" },
          "start copilot once and /login, or COPILOT_GITHUB_TOKEN" },
        { "claude", "Claude Code", "@anthropic-ai/claude-code", { ".claude/.credentials.json" }, { "ANTHROPIC_API_KEY" },
          "start claude once and log in, or ANTHROPIC_API_KEY" },
};

struct Directories {
        char *paths[DIRECTORIES_MAX];
        size_t n;
};

static void directories_deinit(Directories *d) {
        for (size_t i = 0; i < d->n; i++)
                free(d->paths[i]);
}

static void directories_add(Directories *d, const char *path, size_t n_path, const char *suffix) {
        char *joined;

        /* A relative one (an empty element of PATH) depends on where doctor is run; the daemon would not find it. */
        if (n_path == 0 || path[0] != '/' || d->n == DIRECTORIES_MAX)
                return;
        if (asprintf(&joined, "%.*s%s", (int)n_path, path, suffix) < 0)
                return;
        for (size_t i = 0; i < d->n; i++)
                if (streq(d->paths[i], joined)) {
                        free(joined);
                        return;
                }
        d->paths[d->n++] = joined;
}

/* prefix= of ~/.npmrc: where npm install -g puts programs. */
static void directories_add_npmrc(Directories *d, const char *home) {
        _cleanup_free_ char *path = NULL, *data = NULL;
        const char *prefix;
        size_t n;

        if (asprintf(&path, "%s/.npmrc", home) < 0)
                return;
        if (fd_read_file(AT_FDCWD, path, KIB(64), &data, &n))
                return;
        prefix = str_starts(data, "prefix=") ? data : strstr(data, "\nprefix=");
        if (prefix) {
                prefix = strchr(prefix, '=') + 1;
                directories_add(d, prefix, strcspn(prefix, "\r\n"), "/bin");
        }
}

static void directories_add_home(Directories *d, const char *home) {
        static const char *const places[] = { "/.local/bin", "/.npm-global/bin", "/.volta/bin", "/.bun/bin", "/bin" };
        _cleanup_free_ char *nvm = NULL;
        DIR *versions;

        for (size_t i = 0; i < ELEMENTSOF(places); i++)
                directories_add(d, home, strlen(home), places[i]);
        directories_add_npmrc(d, home);
        if (asprintf(&nvm, "%s/.nvm/versions/node/", home) < 0) {
                nvm = NULL;
                return;
        }
        versions = opendir(nvm);
        if (!versions)
                return;
        for (struct dirent *e; (e = readdir(versions)); )
                if (e->d_name[0] == 'v') {
                        char suffix[NAME_MAX + 8];
                        snprintf(suffix, sizeof(suffix), "%s/bin", e->d_name);
                        directories_add(d, nvm, strlen(nvm), suffix);
                }
        closedir(versions);
}

/* The home of who runs doctor; behind sudo, of who ran that. */
static void find_home(char ret_home[static 512]) {
        const char *home = getenv("HOME"), *sudo_user = geteuid() == 0 ? getenv("SUDO_USER") : NULL;
        struct passwd *p = sudo_user ? getpwnam(sudo_user) : home && *home ? NULL : getpwuid(getuid());

        snprintf(ret_home, 512, "%s", p ? p->pw_dir : home ?: "");
}

static void directories_collect(Directories *d, const char *home) {
        static const char *const places[] = { "/usr/local/bin", "/usr/bin", "/opt/agent-router/bin" };
        const char *path = getenv("PATH"), *prefix = getenv("NPM_CONFIG_PREFIX");

        for (const char *p = path; p && *p; ) {
                size_t n = strcspn(p, ":");
                directories_add(d, p, n, "");
                p += n + (p[n] == ':');
        }
        if (prefix)
                directories_add(d, prefix, strlen(prefix), "/bin");
        directories_add_home(d, home);
        for (size_t i = 0; i < ELEMENTSOF(places); i++)
                directories_add(d, places[i], strlen(places[i]), "");
}

static bool find_executable(const Directories *d, const char *name, char **ret_path) {
        for (size_t i = 0; i < d->n; i++) {
                _cleanup_free_ char *path = NULL;
                struct stat st;

                if (asprintf(&path, "%s/%s", d->paths[i], name) < 0) {
                        path = NULL;
                        return false;
                }
                if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0) {
                        *ret_path = steal_ptr(&path);
                        return true;
                }
        }
        return false;
}

/*
 * In the child: NAME --version with nothing on stdin. Root does not run a program that is another user's: it becomes
 * that user first. The program's own directory leads PATH, since npm's wrappers look for node there.
 */
_noreturn_ static void exec_version(const char *path, int out) {
        _cleanup_free_ char *search = NULL;
        const char *slash = strrchr(path, '/'), *old = getenv("PATH");
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        struct stat st;

        setpgid(0, 0);
        if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 || dup2(null, STDERR_FILENO) < 0)
                _exit(127);
        if (stat(path, &st) < 0)
                _exit(127);
        if (geteuid() == 0 && st.st_uid != 0) {
                struct passwd *p = getpwuid(st.st_uid);
                if (setgroups(0, NULL) < 0 || setgid(p ? p->pw_gid : st.st_gid) < 0 || setuid(st.st_uid) < 0)
                        _exit(127);
                if (p)
                        setenv("HOME", p->pw_dir, 1);
        }
        if (asprintf(&search, "%.*s:%s", (int)(slash - path), path, old ?: "/usr/local/bin:/usr/bin:/bin") < 0)
                _exit(127);
        setenv("PATH", search, 1);
        setenv("DISABLE_AUTOUPDATER", "1", 1);
        setenv("NO_COLOR", "1", 1);
        if (chdir("/") < 0)
                _exit(127);
        execl(path, path, "--version", NULL);
        _exit(127);
}

/* Reads the first line; less where the end, the bound or the deadline comes before. */
static void read_line(int fd, Buf *out) {
        uint64_t end = clock_monotonic_us() + VERSION_TIMEOUT_US;

        for (;;) {
                uint64_t now = clock_monotonic_us();
                struct pollfd p = { .fd = fd, .events = POLLIN };
                char data[512];
                ssize_t n;

                if (now >= end || poll(&p, 1, (int)((end - now) / USEC_PER_MSEC + 1)) <= 0)
                        return;
                n = read(fd, data, sizeof(data));
                if (n <= 0 || buf_append(out, data, (size_t)n) || memchr(buf_data(out), '\n', buf_size(out)))
                        return;
        }
}

/* The first word with a digit of the first line: "codex-cli 0.169.0", "2.1.330 (Claude Code)", "0.61.0". */
static bool parse_version(const char *s, size_t n, char ret_version[static VERSION_MAX]) {
        for (size_t i = 0; i < n && s[i] != '\n'; ) {
                size_t k = i;
                while (k < n && s[k] > ' ' && s[k] < 0x7f)
                        k++;
                if (k > i && k - i < VERSION_MAX && (s[i + (s[i] == 'v')] >= '0' && s[i + (s[i] == 'v')] <= '9')) {
                        memcpy(ret_version, s + i, k - i);
                        ret_version[k - i] = 0;
                        return true;
                }
                i = k + 1;
        }
        return false;
}

static bool ask_version(const char *path, char ret_version[static VERSION_MAX]) {
        _cleanup_(buf_deinit) Buf out = BUF_INIT(VERSION_OUTPUT_MAX);
        _cleanup_close_ int in = -1;
        int pipe_fds[2];
        pid_t pid;

        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                return false;
        in = pipe_fds[0];
        pid = fork();
        if (pid == 0)
                exec_version(path, pipe_fds[1]);
        close(pipe_fds[1]);
        if (pid < 0)
                return false;
        read_line(in, &out);
        (void)kill(-pid, SIGKILL);      /* ESRCH where it had no time to make its group */
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
        return parse_version((const char *)buf_data(&out), buf_size(&out), ret_version);
}

/* Where a login is found: a file or a variable's name, never what is in it. */
static bool find_login(const AgentCli *cli, const char *home, char ret_login[static 64]) {
        for (size_t i = 0; i < ELEMENTSOF(cli->login_variables) && cli->login_variables[i]; i++) {
                const char *v = getenv(cli->login_variables[i]);
                if (v && *v) {
                        snprintf(ret_login, 64, "%s", cli->login_variables[i]);
                        return true;
                }
        }
        for (size_t i = 0; i < ELEMENTSOF(cli->login_files) && cli->login_files[i]; i++) {
                char path[768];
                struct stat st;
                snprintf(path, sizeof(path), "%s/%s", home, cli->login_files[i]);
                if (*home && stat(path, &st) == 0 && st.st_size > 0) {
                        snprintf(ret_login, 64, "~/%s", cli->login_files[i]);
                        return true;
                }
        }
        return false;
}

static void add_json(Doctor *d, const AgentCli *cli, const char *path, const char *version, const char *login) {
        json_object *o;

        if (!d->agents)
                return;
        o = json_object_new_object();
        json_object_object_add(o, "name", json_object_new_string(cli->name));
        json_object_object_add(o, "title", json_object_new_string(cli->title));
        json_object_object_add(o, "executable", path ? json_object_new_string(path) : NULL);
        json_object_object_add(o, "version", version ? json_object_new_string(version) : NULL);
        json_object_object_add(o, "login", login ? json_object_new_string(login) : NULL);
        json_object_array_add(d->agents, o);
}

static bool check_agent(Doctor *d, const AgentCli *cli, const Directories *directories, const char *home) {
        char version[VERSION_MAX], login[64], remedy[160];
        _cleanup_free_ char *path = NULL;
        bool has_version, has_login;

        if (!find_executable(directories, cli->name, &path)) {
                snprintf(remedy, sizeof(remedy), "if you want it: npm install -g %s", cli->package);
                doctor_report(d, DOCTOR_WARNING, cli->name, remedy, "%s is not found", cli->title);
                add_json(d, cli, NULL, NULL, NULL);
                return false;
        }
        has_version = ask_version(path, version);
        has_login = find_login(cli, home, login);
        add_json(d, cli, path, has_version ? version : NULL, has_login ? login : NULL);
        if (!has_version) {
                snprintf(remedy, sizeof(remedy), "it does not run: try it, or install it again: npm install -g %s", cli->package);
                doctor_report(d, DOCTOR_WARNING, cli->name, remedy, "%s says no version", path);
                return false;
        }
        if (!has_login)
                doctor_report(d, DOCTOR_WARNING, cli->name, cli->login_remedy, "%s at %s, no login found", version, path);
        else
                doctor_report(d, DOCTOR_OK, cli->name, NULL, "%s at %s, login: %s", version, path, login);
        return true;
}

void doctor_check_agents(Doctor *d) {
        _cleanup_(directories_deinit) Directories directories = {};
        char home[512];

        find_home(home);
        directories_collect(&directories, home);
        for (size_t i = 0; i < ELEMENTSOF(clis); i++)
                (void)check_agent(d, clis + i, &directories, home);
}

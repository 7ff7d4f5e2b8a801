#include <linux/sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/parse.h"
#include "launcher/profile.h"

#define PROFILE_LINE_MAX 1024
#define PROFILE_WORDS_MAX 64

typedef struct ProfileParser {
        const char *name;
        unsigned line;
        Profile profile;
        size_t capacity;
        bool has_default;
        char *error;
} ProfileParser;

static const struct {
        const char *name;
        int value;
} profile_errnos[] = {
        { "ENOSYS", ENOSYS }, { "EPERM", EPERM }, { "EACCES", EACCES }, { "EINVAL", EINVAL },
        { "EAFNOSUPPORT", EAFNOSUPPORT }, { "ENOENT", ENOENT }, { "EOPNOTSUPP", EOPNOTSUPP }, { "ENODEV", ENODEV },
};

static const struct {
        const char *name;
        uint64_t value;
} profile_constants[] = {
        { "AF_UNIX", AF_UNIX }, { "AF_INET", AF_INET }, { "AF_INET6", AF_INET6 }, { "AF_NETLINK", AF_NETLINK },
        { "CLONE_NEWNS", CLONE_NEWNS }, { "CLONE_NEWUSER", CLONE_NEWUSER }, { "CLONE_NEWPID", CLONE_NEWPID },
        { "CLONE_NEWNET", CLONE_NEWNET }, { "CLONE_NEWIPC", CLONE_NEWIPC }, { "CLONE_NEWUTS", CLONE_NEWUTS },
        { "CLONE_NEWCGROUP", CLONE_NEWCGROUP }, { "CLONE_NEWTIME", CLONE_NEWTIME },
        { "TIOCSTI", TIOCSTI }, { "TIOCLINUX", TIOCLINUX },
};

static const struct {
        const char *name;
        ProfileOp op;
} profile_ops[] = {
        { "==", PROFILE_EQ }, { "!=", PROFILE_NE }, { "<", PROFILE_LT },
        { "<=", PROFILE_LE }, { ">", PROFILE_GT }, { ">=", PROFILE_GE },
};

static int _printf_(2, 3) profile_fail(ProfileParser *p, const char *format, ...) {
        int n = snprintf(p->error, PROFILE_ERROR_MAX, "%s:%u: ", p->name, p->line);
        va_list ap;

        va_start(ap, format);
        if (n >= 0 && n < PROFILE_ERROR_MAX)
                vsnprintf(p->error + n, PROFILE_ERROR_MAX - (size_t)n, format, ap);
        va_end(ap);
        return PROFILE_E_INVALID;
}

void profile_deinit(Profile *p) {
        free(p->rules);
        *p = (Profile){};
}

static int profile_get_errno(ProfileParser *p, const char *word, int *ret_error) {
        for (size_t i = 0; word && i < ELEMENTSOF(profile_errnos); i++)
                if (streq(word, profile_errnos[i].name)) {
                        *ret_error = profile_errnos[i].value;
                        return 0;
                }
        return profile_fail(p, "'%s' is no errno that a profile may use; expected ENOSYS, EPERM, EACCES, EINVAL, EAFNOSUPPORT, ENOENT, EOPNOTSUPP or ENODEV",
                            word ? word : "");
}

static bool profile_get_hex(const char *s, uint64_t *ret_v) {
        static const char digits[] = "0123456789abcdef";
        uint64_t v = 0;

        if (!*s || strlen(s) > 16)
                return false;
        for (; *s; s++) {
                const char *d = strchr(digits, *s >= 'A' && *s <= 'F' ? *s - 'A' + 'a' : *s);

                if (!d)
                        return false;
                v = v << 4 | (uint64_t)(d - digits);
        }
        *ret_v = v;
        return true;
}

static int profile_get_value(ProfileParser *p, const char *word, uint64_t *ret_v) {
        for (size_t i = 0; i < ELEMENTSOF(profile_constants); i++)
                if (streq(word, profile_constants[i].name)) {
                        *ret_v = profile_constants[i].value;
                        return 0;
                }
        if (str_starts(word, "0x") ? profile_get_hex(word + 2, ret_v) : parse_u64(word, ret_v))
                return 0;
        return profile_fail(p, "'%s' is no value; expected a number, 0x…, or a constant such as AF_UNIX or CLONE_NEWUSER", word);
}

/* words: ARG OP VALUE | ARG & MASK == VALUE */
static int profile_get_condition(ProfileParser *p, char **words, size_t n, ProfileRule *rule) {
        const char *op;
        int r;

        if ((n != 3 && n != 5) || strlen(words[0]) != 4 || !str_starts(words[0], "arg") || words[0][3] < '0' ||
            words[0][3] > '5')
                return profile_fail(p, "expected `if argN OP VALUE` or `if argN & MASK == VALUE` with N from 0 to 5");
        rule->arg = (unsigned)(words[0][3] - '0');
        if (n == 5) {
                if (!streq(words[1], "&") || !streq(words[3], "=="))
                        return profile_fail(p, "expected `if argN & MASK == VALUE`");
                rule->op = PROFILE_MASKED_EQ;
                r = profile_get_value(p, words[2], &rule->mask);
                return r ? r : profile_get_value(p, words[4], &rule->value);
        }
        op = words[1];
        for (size_t i = 0; i < ELEMENTSOF(profile_ops); i++)
                if (streq(op, profile_ops[i].name)) {
                        rule->op = profile_ops[i].op;
                        return profile_get_value(p, words[2], &rule->value);
                }
        return profile_fail(p, "'%s' is no comparison; expected == != < <= > >= or &", op);
}

static int profile_add(ProfileParser *p, const ProfileRule *rule) {
        Profile *profile = &p->profile;

        for (size_t i = 0; i < profile->n; i++)
                if (rule->op == PROFILE_ALWAYS && profile->rules[i].op == PROFILE_ALWAYS &&
                    streq(rule->call, profile->rules[i].call))
                        return profile_fail(p, "%s was named before, in line %u", rule->call, profile->rules[i].line);
        if (profile->n == PROFILE_RULES_MAX)
                return profile_fail(p, "more than %d rules", PROFILE_RULES_MAX);
        if (profile->n == p->capacity) {
                size_t capacity = p->capacity ? p->capacity * 2 : 64;
                ProfileRule *rules = realloc(profile->rules, capacity * sizeof(*rules));

                if (!rules)
                        return error_origin(-ENOMEM);
                profile->rules = rules;
                p->capacity = capacity;
        }
        profile->rules[profile->n++] = *rule;
        return 0;
}

static int profile_set_call(ProfileParser *p, ProfileRule *rule, const char *word) {
        if (strlen(word) >= PROFILE_NAME_MAX || strspn(word, "abcdefghijklmnopqrstuvwxyz0123456789_") != strlen(word))
                return profile_fail(p, "'%s' is no system call's name", word);
        snprintf(rule->call, sizeof(rule->call), "%s", word);
        return 0;
}

static int profile_parse_default(ProfileParser *p, char **words, size_t n) {
        int r;

        if (p->has_default || p->profile.n)
                return profile_fail(p, "`default` stands once, before every other rule");
        if (n != 3 || !streq(words[1], "errno"))
                return profile_fail(p, "expected `default errno NAME`");
        r = profile_get_errno(p, words[2], &p->profile.default_error);
        p->has_default = r == 0;
        return r;
}

static int profile_parse_rule(ProfileParser *p, char **words, size_t n) {
        ProfileRule rule = { .line = p->line };
        size_t i = 1;
        int r;

        if (!p->has_default)
                return profile_fail(p, "the first rule must be `default errno NAME`");
        if (streq(words[0], "deny")) {
                r = profile_get_errno(p, n > 1 ? words[1] : NULL, &rule.error);
                if (r)
                        return r;
                i = 2;
        } else if (!streq(words[0], "allow"))
                return profile_fail(p, "'%s' is no rule; expected default, allow or deny", words[0]);
        if (i >= n)
                return profile_fail(p, "expected the name of a system call");
        if (i + 1 < n && streq(words[i + 1], "if")) {
                if (rule.error == 0)
                        return profile_fail(p, "a condition belongs to a deny; allow the call and deny what is not wanted");
                r = profile_get_condition(p, words + i + 2, n - i - 2, &rule);
                if (!r)
                        r = profile_set_call(p, &rule, words[i]);
                return r ? r : profile_add(p, &rule);
        }
        for (; i < n; i++) {
                r = profile_set_call(p, &rule, words[i]);
                if (!r)
                        r = profile_add(p, &rule);
                if (r)
                        return r;
        }
        return 0;
}

static int profile_parse_line(ProfileParser *p, const char *text, size_t n) {
        char line[PROFILE_LINE_MAX], *words[PROFILE_WORDS_MAX], *save = NULL, *hash;
        size_t n_words = 0;

        if (n >= sizeof(line) || memchr(text, 0, n))
                return profile_fail(p, "the line is longer than %d bytes or holds NUL", PROFILE_LINE_MAX - 1);
        memcpy(line, text, n);
        line[n] = 0;
        hash = strchr(line, '#');
        if (hash)
                *hash = 0;
        for (char *w = strtok_r(line, " \t", &save); w; w = strtok_r(NULL, " \t", &save)) {
                if (n_words == PROFILE_WORDS_MAX)
                        return profile_fail(p, "more than %d words in a line", PROFILE_WORDS_MAX);
                words[n_words++] = w;
        }
        if (n_words == 0)
                return 0;
        return streq(words[0], "default") ? profile_parse_default(p, words, n_words) : profile_parse_rule(p, words, n_words);
}

int profile_parse(const char *name, const char *text, size_t n, Profile *ret_profile,
                  char ret_error[static PROFILE_ERROR_MAX]) {
        ProfileParser p = { .name = name, .error = ret_error };
        int r = 0;

        if (n > PROFILE_SIZE_MAX)
                r = profile_fail(&p, "the profile has more than %zu bytes", (size_t)PROFILE_SIZE_MAX);
        for (size_t at = 0; r == 0 && at < n;) {
                const char *end = memchr(text + at, '\n', n - at);
                size_t length = end ? (size_t)(end - text) - at : n - at;

                p.line++;
                r = profile_parse_line(&p, text + at, length);
                at += length + 1;
        }
        if (r == 0 && !p.has_default)
                r = profile_fail(&p, "the profile is empty; expected `default errno NAME`");
        if (r) {
                profile_deinit(&p.profile);
                return r;
        }
        *ret_profile = p.profile;
        return 0;
}

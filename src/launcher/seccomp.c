#include <fcntl.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/parse.h"
#include "launcher/seccomp.h"

void seccomp_cache_init(SeccompCache *c, const char *directory) {
        c->directory = directory;
        list_init(&c->filters);
}

static void seccomp_filter_free(SeccompFilter *f) {
        list_unlink(&f->link);
        free(f->program.filter);
        free(f);
}
DEFINE_CLEANUP(SeccompFilter, seccomp_filter_free);

void seccomp_cache_deinit(SeccompCache *c) {
        list_for_each_safe(i, &c->filters)
                seccomp_filter_free(container_of(i, SeccompFilter, link));
}

static struct scmp_arg_cmp seccomp_comparison(const ProfileRule *rule) {
        static const enum scmp_compare ops[] = {
                [PROFILE_EQ] = SCMP_CMP_EQ,
                [PROFILE_NE] = SCMP_CMP_NE,
                [PROFILE_LT] = SCMP_CMP_LT,
                [PROFILE_LE] = SCMP_CMP_LE,
                [PROFILE_GT] = SCMP_CMP_GT,
                [PROFILE_GE] = SCMP_CMP_GE,
                [PROFILE_MASKED_EQ] = SCMP_CMP_MASKED_EQ,
        };
        bool masked = rule->op == PROFILE_MASKED_EQ;

        return (struct scmp_arg_cmp){
                .arg = rule->arg, .op = ops[rule->op],
                .datum_a = masked ? rule->mask : rule->value, .datum_b = masked ? rule->value : 0,
        };
}

static int seccomp_compile_half(const Profile *profile, bool conditional, int fd) {
        uint32_t action = conditional ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO((unsigned)profile->default_error);
        scmp_filter_ctx ctx = seccomp_init(action);
        int r;

        if (!ctx)
                return error_origin(-ENOMEM);
        /*
         * Calls of another ABI get the default too, instead of death by SIGSYS; a binary tree keeps the program short
         * to walk.
         */
        r = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO((unsigned)profile->default_error));
        if (!r)
                r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
        for (size_t i = 0; r == 0 && i < profile->n; i++) {
                const ProfileRule *rule = &profile->rules[i];
                uint32_t verdict = rule->error ? SCMP_ACT_ERRNO((unsigned)rule->error) : SCMP_ACT_ALLOW;
                int call = seccomp_syscall_resolve_name(rule->call);

                if ((rule->op != PROFILE_ALWAYS) != conditional || call == __NR_SCMP_ERROR || verdict == action)
                        continue;
                if (conditional) {
                        struct scmp_arg_cmp comparison = seccomp_comparison(rule);

                        r = seccomp_rule_add_array(ctx, verdict, call, 1, &comparison);
                } else
                        r = seccomp_rule_add_array(ctx, verdict, call, 0, NULL);
        }
        if (!r)
                r = seccomp_export_bpf(ctx, fd);
        seccomp_release(ctx);
        return error_trace(r);
}

/* Compiles in a child. The programs arrive in the memfds. */
static int seccomp_compile_apart(const Profile *profile, const int fds[static 2]) {
        int status;
        pid_t pid = fork();

        if (pid < 0)
                return error_origin(-errno);
        if (pid == 0) {
                int r = seccomp_compile_half(profile, true, fds[0]);

                if (!r)
                        r = seccomp_compile_half(profile, false, fds[1]);
                _exit(MIN(-r, 255));
        }
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return error_origin(-errno);
        if (!WIFEXITED(status))
                return error_origin(-ECHILD);
        return error_origin(-WEXITSTATUS(status));
}

/* Joins the halves: what the first would allow, the second decides. */
static int seccomp_filter_load(SeccompFilter *f, const int fds[static 2]) {
        size_t n[2], total;

        for (unsigned i = 0; i < 2; i++) {
                struct stat st;

                if (fstat(fds[i], &st) < 0)
                        return error_origin(-errno);
                n[i] = (size_t)st.st_size / sizeof(struct sock_filter);
        }
        total = n[0] + n[1];
        if (n[0] == 0 || n[1] == 0 || total > BPF_MAXINSNS)
                return error_origin(-E2BIG);
        f->program.filter = calloc(total, sizeof(struct sock_filter));
        if (!f->program.filter)
                return error_origin(-ENOMEM);
        f->program.len = (unsigned short)total;
        for (size_t i = 0, at = 0; i < 2; at += n[i++]) {
                size_t bytes = n[i] * sizeof(struct sock_filter);

                if (pread(fds[i], f->program.filter + at, bytes, 0) != (ssize_t)bytes)
                        return error_origin(-EIO);
        }
        for (size_t i = 0; i < n[0]; i++) {
                struct sock_filter *code = &f->program.filter[i];

                if (code->code == (BPF_RET | BPF_K) && code->k == SECCOMP_RET_ALLOW)
                        *code = (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, (uint32_t)(n[0] - i - 1));
        }
        return 0;
}

static int seccomp_cache_load(SeccompCache *c, const char *name, SeccompFilter **ret_filter, Failure *failure) {
        _cleanup_(seccomp_filter_freep) SeccompFilter *f = NULL;
        _cleanup_free_ char *path = NULL, *text = NULL;
        _cleanup_close_ int allowed = -1, denied = -1;
        _cleanup_(profile_deinit) Profile profile = {};
        char error[PROFILE_ERROR_MAX];
        size_t n;
        int r;

        if (!parse_name(name, sizeof(f->name) - 1))
                return failure_set(failure, "seccomp", EINVAL, "'%s' is no profile's name", name);
        if (asprintf(&path, "%s/%s.profile", c->directory, name) < 0) {
                path = NULL;
                return failure_set(failure, "seccomp", ENOMEM, "no memory for the seccomp profile");
        }
        r = fd_read_file(AT_FDCWD, path, PROFILE_SIZE_MAX, &text, &n);
        if (r)
                return failure_set(failure, "seccomp", r > 0 ? EFBIG : -r,
                                   "the seccomp profile %s can't be read (%s); install it, or name another in the "
                                   "agent's manifest",
                                   path, r > 0 ? "larger than 64 KiB" : strerror(-r));
        r = profile_parse(path, text, n, &profile, error);
        if (r)
                return failure_set(failure, "seccomp", r > 0 ? EINVAL : -r, "%s", r > 0 ? error : "no memory for the seccomp profile");
        f = calloc(1, sizeof(*f));
        allowed = memfd_create("seccomp", MFD_CLOEXEC);
        denied = memfd_create("seccomp", MFD_CLOEXEC);
        if (!f || allowed < 0 || denied < 0)
                return failure_set(failure, "seccomp", f ? errno : ENOMEM, "no resources to compile the seccomp profile %s", path);
        snprintf(f->name, sizeof(f->name), "%s", name);
        r = seccomp_compile_apart(&profile, (int[]){ denied, allowed });
        if (!r)
                r = seccomp_filter_load(f, (int[]){ denied, allowed });
        if (r)
                return failure_set(failure, "seccomp", -r, "the seccomp profile %s can't be compiled: %s", path, strerror(-r));
        list_link_tail(&c->filters, &f->link);
        *ret_filter = steal_ptr(&f);
        return 0;
}

int seccomp_cache_get(SeccompCache *c, const char *name, const SeccompFilter **ret_filter, Failure *failure) {
        SeccompFilter *f;
        int r;

        list_for_each_safe(i, &c->filters) {
                f = container_of(i, SeccompFilter, link);
                if (streq(f->name, name)) {
                        *ret_filter = f;
                        return 0;
                }
        }
        r = seccomp_cache_load(c, name, &f, failure);
        if (r)
                return error_trace(r);
        *ret_filter = f;
        return 0;
}

int seccomp_filter_install(const SeccompFilter *filter) {
        if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter->program) < 0)
                return error_origin(-errno);
        return 0;
}

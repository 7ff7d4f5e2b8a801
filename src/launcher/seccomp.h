#pragma once

/*
 * seccomp: profiles compiled to BPF, once each. libseccomp can't put an unconditional allow and a masked denial of the
 * same call into one filter, so a profile becomes two programs, both installed: the first holds the default, the
 * allowed calls and the calls that are always refused; the second passes everything but the conditional denials. The
 * kernel takes the stricter answer of the two (seccomp(2)), and its bitmap of always-allowed calls covers both.
 *
 * A profile is compiled in a child process that hands back the finished programs: libseccomp's working memory never
 * becomes the launcher's.
 */

#include <linux/filter.h>

#include "base/list.h"
#include "base/macro.h"
#include "launcher/failure.h"
#include "launcher/profile.h"

typedef struct SeccompCache SeccompCache;
typedef struct SeccompFilter SeccompFilter;

struct SeccompFilter {
        ListLink link;
        char name[64];
        struct sock_filter *code;       /* both programs, one after the other */
        struct sock_fprog programs[2];
};

struct SeccompCache {
        const char *directory;          /* borrowed */
        List filters;
};

/* Programs longer than this are not the kernel's (BPF_MAXINSNS). */
#define SECCOMP_CODE_MAX 4096

void seccomp_cache_init(SeccompCache *c, const char *directory);
void seccomp_cache_deinit(SeccompCache *c);
/* The compiled profile DIRECTORY/NAME.profile; it stays the cache's. -errno with the failure filled. */
int seccomp_cache_get(SeccompCache *c, const char *name, const SeccompFilter **ret_filter, Failure *failure)
        _must_check_;
/* Confines the calling thread; no_new_privs must be set. -errno of seccomp(2). */
int seccomp_filter_install(const SeccompFilter *filter) _must_check_;

/* Compiles into two BPF programs written to fds[0] and fds[1]; runs in a child. -errno. */
int seccomp_compile(const Profile *profile, const int fds[static 2]) _must_check_;

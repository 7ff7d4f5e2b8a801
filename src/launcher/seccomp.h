#pragma once

/*
 * seccomp: profiles compiled to BPF, once each. libseccomp can't put an unconditional allow and a masked denial of the
 * same call into one filter, so a profile is compiled in two halves: one passes everything but the conditional denials,
 * the other holds the default, the allowed calls and the calls that are always refused. They are joined into one
 * program, in which the first half goes on to the second where it would have allowed: a second filter would cost each
 * task another half millisecond of the kernel's compiler.
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
        struct sock_fprog program;
};

struct SeccompCache {
        const char *directory;          /* borrowed */
        List filters;
};

void seccomp_cache_init(SeccompCache *c, const char *directory);
void seccomp_cache_deinit(SeccompCache *c);
/* The compiled profile DIRECTORY/NAME.profile; it stays the cache's. -errno with the failure filled. */
int seccomp_cache_get(SeccompCache *c, const char *name, const SeccompFilter **ret_filter, Failure *failure)
        _must_check_;
/* Confines the calling thread; no_new_privs must be set. -errno of seccomp(2). */
int seccomp_filter_install(const SeccompFilter *filter) _must_check_;

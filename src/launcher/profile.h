#pragma once

/*
 * profile: a seccomp filter as text, one rule a line; `#` begins a comment.
 *
 *     default errno ENOSYS                     what every call that is not named answers; the first rule
 *     allow read write close …                 these calls pass
 *     deny EPERM ptrace bpf …                  these answer this errno
 *     deny EPERM clone if arg0 & CLONE_NEWUSER == CLONE_NEWUSER
 *     deny EAFNOSUPPORT socket if arg0 > AF_NETLINK
 *
 * A condition is `if ARG OP VALUE` or `if ARG & MASK == VALUE`, OP one of == != < <= > >=; values are decimal, 0x…, or
 * one of the constants in profile.c. A deny with a condition wins over an allow of the same call; a call may stand once
 * without a condition. Names that this machine's libseccomp does not know are skipped (they are other architectures' or
 * newer than it), and calls of other ABIs (x32, i386) answer the default.
 */

#include "base/macro.h"

#define PROFILE_SIZE_MAX KIB(64)        /* ten times the one that ships */
#define PROFILE_RULES_MAX 1024          /* more than there are system calls */
#define PROFILE_NAME_MAX 32
#define PROFILE_ERROR_MAX 256

typedef enum ProfileOp {
        PROFILE_ALWAYS,                 /* no condition */
        PROFILE_EQ,
        PROFILE_NE,
        PROFILE_LT,
        PROFILE_LE,
        PROFILE_GT,
        PROFILE_GE,
        PROFILE_MASKED_EQ,
} ProfileOp;

typedef struct Profile Profile;
typedef struct ProfileRule ProfileRule;

struct ProfileRule {
        char call[PROFILE_NAME_MAX];
        int error;                      /* 0: allow */
        ProfileOp op;
        unsigned arg;                   /* 0 to 5 */
        uint64_t mask;
        uint64_t value;
        unsigned line;
};

struct Profile {
        int default_error;
        ProfileRule *rules;
        size_t n;
};

enum {
        _PROFILE_E_SUCCESS,
        PROFILE_E_INVALID,              /* ret_error: "NAME:LINE: what, expected what" */
};

int profile_parse(const char *name, const char *text, size_t n, Profile *ret_profile,
                  char ret_error[static PROFILE_ERROR_MAX]) _must_check_;
void profile_deinit(Profile *p);

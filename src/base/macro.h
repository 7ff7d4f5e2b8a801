#pragma once

/*
 * Small helpers that every file uses: cleanup attributes, container_of, bounds.
 *
 * The cleanup idiom: `_cleanup_(buf_freep) Buf *b = NULL;` frees on every way out; `steal_ptr(&b)` or
 * `steal_fd(&fd)` hands the object over on the last lines of a constructor.
 */

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#define _cleanup_(f)            __attribute__((__cleanup__(f)))
#define _printf_(fmt, first)    __attribute__((__format__(printf, fmt, first)))
#define _unused_                __attribute__((__unused__))
#define _noreturn_              __attribute__((__noreturn__))
#define _pure_                  __attribute__((__pure__))
/* The caller must look at the result. */
#define _must_check_            __attribute__((__warn_unused_result__))

#define container_of(ptr, type, member) \
        ((type *)((char *)(ptr) - offsetof(type, member)))

#define ELEMENTSOF(x) (sizeof(x) / sizeof((x)[0]))

#define MIN(a, b) ({ __typeof__(a) _a = (a); __typeof__(b) _b = (b); _a < _b ? _a : _b; })
#define MAX(a, b) ({ __typeof__(a) _c = (a); __typeof__(b) _d = (b); _c > _d ? _c : _d; })

#define KIB(n) ((size_t)(n) << 10)
#define MIB(n) ((size_t)(n) << 20)
#define GIB(n) ((size_t)(n) << 30)

#define USEC_PER_MSEC UINT64_C(1000)
#define USEC_PER_SEC  UINT64_C(1000000)
#define NSEC_PER_USEC UINT64_C(1000)

/* Takes the pointer out of *pp and leaves NULL there. */
#define steal_ptr(pp) ({ __typeof__(*(pp)) _p = *(pp); *(pp) = NULL; _p; })

/* Defines `static inline void namep(type **p)` for _cleanup_(). `func` accepts NULL. */
#define DEFINE_CLEANUP(type, func)                      \
        static inline void func##p(type **p) {          \
                if (*p)                                 \
                        func(*p);                       \
        }                                               \
        struct swallow_semicolon

static inline void freep(void *p) {
        free(*(void **)p);
}
#define _cleanup_free_ _cleanup_(freep)

static inline bool streq(const char *a, const char *b) {
        return strcmp(a, b) == 0;
}

/* True where both are NULL or both are equal. */
static inline bool streq_ptr(const char *a, const char *b) {
        return a && b ? strcmp(a, b) == 0 : a == b;
}

static inline bool str_starts(const char *s, const char *prefix) {
        return strncmp(s, prefix, strlen(prefix)) == 0;
}

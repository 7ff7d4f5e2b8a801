#include <stdio.h>

#include "base/error.h"
#include "base/macro.h"

#ifndef AR_TRACE
#define AR_TRACE 0
#endif

static void error_print(int error, const char *verb, const char *file, int line, const char *func) {
        if (AR_TRACE && getenv("AGENT_ROUTER_TRACE"))
                fprintf(stderr, "%s %s @ %s:%d %s()\n", verb, strerror(-error), file, line, func);
}

int error_origin_at(int error, const char *file, int line, const char *func) {
        if (error < 0)
                error_print(error, "error", file, line, func);
        return error;
}

int error_trace_at(int error, const char *file, int line, const char *func) {
        if (error < 0)
                error_print(error, " from", file, line, func);
        return error;
}

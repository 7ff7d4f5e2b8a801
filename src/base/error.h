#pragma once

/*
 * Errors
 *
 * Every function that can fail returns int:
 *
 *   0         success
 *   negative  a fatal error, a negative errno. It is only forwarded, never interpreted: `return error_trace(r);`.
 *             The place that first sees it says `return error_origin(-errno);`.
 *   positive  a result of the module that was called (its `MODULE_E_REASON` enum). The caller *must* handle
 *             it, or turn it into a fatal one by `error_fold(r)`; it is never forwarded across a module.
 *
 * ret_ parameters are untouched on failure. Destructors accept NULL and half-built objects.
 *
 * Debug builds (-DAR_TRACE=1) print origin and trace lines on stderr, so a fatal error carries its path.
 */

int error_origin_at(int error, const char *file, int line, const char *func);
int error_trace_at(int error, const char *file, int line, const char *func);

/* The first sight of a fatal error. */
#define error_origin(e) error_origin_at((e), __FILE__, __LINE__, __func__)
/* Forwards a fatal error (or 0) of a callee. */
#define error_trace(e)  error_trace_at((e), __FILE__, __LINE__, __func__)
/* Turns a positive result that the caller does not expect into -ENOTRECOVERABLE; leaves others alone. */
#define error_fold(e)   ({ int _e = (e); _e > 0 ? error_origin(-ENOTRECOVERABLE) : error_trace(_e); })

#pragma once

/* sse: the text/event-stream encoding of server-sent events (WHATWG HTML, section 9.2.6). */

#include "base/buf.h"

/*
 * All return 0, -ENOMEM, -ENOBUFS where out is full, or -EINVAL where id, event or a comment is not one line; out is
 * unchanged on failure.
 */

/*
 * One event: `id:`, `event:` and `data:` lines, then an empty line. data is split at LF, CR and CRLF; id and event
 * may be NULL.
 */
int sse_write_event(Buf *out, const char *id, const char *event, const char *data, size_t n_data) _must_check_;
/* `: heartbeat`, which keeps proxies and clients from giving up. */
int sse_write_comment(Buf *out, const char *text) _must_check_;
int sse_write_retry(Buf *out, unsigned retry_ms) _must_check_;

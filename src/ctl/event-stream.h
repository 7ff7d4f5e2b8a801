#pragma once

/* event-stream: the reading side of server-sent events (WHATWG HTML, section 9.2.6): bytes in, events out. */

#include "base/buf.h"
#include "base/macro.h"

typedef struct EventStream EventStream;

#define EVENT_STREAM_MAX MIB(8)         /* of a line, and of an event's data; the router's own limit is far below */

/* An event: type is "message" where none was named; id is the last that the stream named, "" for none. false stops. */
typedef bool (*EventFn)(void *userdata, const char *id, const char *type, const char *data, size_t n);

struct EventStream {
        Buf line;
        Buf data;
        char id[64];                    /* of the last whole event, or where the stream said that it begins */
        char next_id[64];
        char type[64];
        bool begun;                     /* past the byte order mark that may be there */
        bool after_cr;
        bool has_data;
        EventFn fn;
        void *userdata;
};

#define EVENT_STREAM_INIT(fn_, userdata_) \
        { .line = BUF_INIT(EVENT_STREAM_MAX), .data = BUF_INIT(EVENT_STREAM_MAX), .fn = (fn_), .userdata = (userdata_) }

void event_stream_deinit(EventStream *s);
/* A new connection: what is half-read is dropped, the last id stays. */
void event_stream_restart(EventStream *s);
/* false: fn said so, or a line or event passed EVENT_STREAM_MAX. */
bool event_stream_feed(EventStream *s, const char *data, size_t n) _must_check_;

#pragma once

/* text: how times, counts and states are shown to people, and what may reach a terminal. */

#include <json-c/json.h>
#include <stdio.h>

#include "base/macro.h"

#define TEXT_DURATION_MAX 16
#define TEXT_BYTES_MAX 16

/* "850ms", "12s", "3m05s", "2h10m", "4d03h". */
void text_duration(uint64_t us, char ret_s[static TEXT_DURATION_MAX]);
/* "512 B", "1.5 KiB", "12 MiB". */
void text_bytes(uint64_t bytes, char ret_s[static TEXT_BYTES_MAX]);
/* Time from an RFC 3339 member to another (or to now, where the second is null); "-" where the first is null. */
void text_span(json_object *from, json_object *to, char ret_s[static TEXT_DURATION_MAX]);
/* How long until an RFC 3339 member, "4m10s"; "" where that is null or over. */
void text_until(json_object *at, char ret_s[static TEXT_DURATION_MAX]);
/* SGR code of a task's state, "" for none. */
const char *text_state_color(const char *state);

/* A member as text: "" for null and absent; numbers and booleans in JSON's form. */
const char *text_member(json_object *o, const char *pointer);
uint64_t text_member_u64(json_object *o, const char *pointer);
bool text_member_bool(json_object *o, const char *pointer);

/* An amount such as "2.50", to a millionth, in JSON's form. */
bool text_is_usd(const char *s);
/* The document and a newline, on stdout. */
void text_print_json(json_object *o);

/*
 * Writes what others said. On a terminal, control characters but newline and tab become '?', so that an agent can't
 * move the cursor or set the title; elsewhere the bytes are written as they are.
 */
void text_write(FILE *f, const char *s, size_t n);
/* One line of it: newlines become spaces, cut after `columns` with "…" (0: not cut). */
void text_write_line(FILE *f, const char *s, unsigned columns);
/* Columns that a UTF-8 string takes; n bytes. */
unsigned text_width(const char *s, size_t n);
/* Bytes of the longest prefix that takes at most `columns`. */
size_t text_prefix(const char *s, size_t n, unsigned columns);

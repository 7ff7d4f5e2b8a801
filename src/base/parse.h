#pragma once

/* Strict parsing of what people and peers write: no white space, no sign, no overflow, no trailing bytes. */

#include "base/macro.h"

bool parse_u64(const char *s, uint64_t *ret_v);
/* Within [min, max]. */
bool parse_u64_range(const char *s, uint64_t min, uint64_t max, uint64_t *ret_v);
/* "250us", "500ms", "10s", "5min" (or "5m"), "2h", "1d"; a bare number is seconds. In µs. */
bool parse_duration_us(const char *s, uint64_t *ret_us);
/* "64K", "512M", "2G", "1T" (powers of 1024), or bytes. */
bool parse_size(const char *s, uint64_t *ret_bytes);
/* yes/no, true/false, on/off, 1/0. */
bool parse_bool(const char *s, bool *ret_v);
/* Letters, digits, '.', '_', '-', first a letter or digit; 1 to max bytes: names of agents, keys, policies. */
bool parse_name(const char *s, size_t max);
/* 0 to 15, or -1 where c is no hexadecimal digit. */
int parse_hex_digit(char c);
/* Bytes of the well-formed UTF-8 character at s (RFC 3629 §4), which has n bytes; 0 where there is none. */
size_t utf8_sequence(const char *s, size_t n);
bool utf8_is_valid(const char *s, size_t n);

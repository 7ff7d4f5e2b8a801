#pragma once

/*
 * A fuzz target is one function over bytes that people, peers or agents control. It holds more than "no crash": what is
 * accepted can be written again and reads the same, and it does not matter how the bytes were cut.
 *
 * With -Dfuzz=true and clang each target links libFuzzer; otherwise replay.c, and its corpus is run as a unit test.
 */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* A property that must hold; unlike assert() it is never compiled out, and it tells which one. */
#define HOLDS(condition)                                                                         \
        do {                                                                                     \
                if (!(condition)) {                                                              \
                        fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
                        abort();                                                                 \
                }                                                                                \
        } while (0)

#pragma once

/* Random numbers of the kernel. A test may have them made from a seed, so that a run can be had again. */

#include "base/macro.h"

/* n up to 256, which is never cut short. -errno of getrandom(2). */
int random_bytes(void *ret, size_t n) _must_check_;
/* For tests: from now on they follow from the seed (splitmix64); 0 goes back to the kernel's. */
void random_freeze(uint64_t seed);

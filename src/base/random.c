#include <sys/random.h>

#include "base/error.h"
#include "base/random.h"

static bool frozen;
static uint64_t frozen_state;

void random_freeze(uint64_t seed) {
        frozen = seed != 0;
        frozen_state = seed;
}

static uint64_t random_next(void) {
        uint64_t z = frozen_state += UINT64_C(0x9e3779b97f4a7c15);

        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        return z ^ (z >> 31);
}

int random_bytes(void *ret, size_t n) {
        ssize_t got;

        if (frozen) {
                for (size_t at = 0; at < n; at += sizeof(uint64_t)) {
                        uint64_t v = random_next();
                        memcpy((uint8_t *)ret + at, &v, MIN(n - at, sizeof(v)));
                }
                return 0;
        }
        got = getrandom(ret, n, 0);
        if (got != (ssize_t)n)
                return error_origin(got < 0 ? -errno : -EIO);
        return 0;
}

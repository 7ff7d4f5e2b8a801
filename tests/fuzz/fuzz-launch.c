/*
 * The launcher protocol: a message that is read to its end holds attributes within its bytes, and written again it
 * reads the same.
 */

#include "base/launch.h"
#include "fuzz.h"

static void check_value(const uint8_t *data, size_t n) {
        char *s = NULL;
        uint32_t v32;
        uint64_t v64;
        LaunchGpu gpu;
        Id id;

        if (launch_gpu(data, n, &gpu))
                HOLDS(n == 17 + strlen(gpu.name) + strlen(gpu.uuid) && launch_gpu_name_is_valid(gpu.name));
        HOLDS(launch_u32(data, n, &v32) == (n == 4));
        HOLDS(launch_u64(data, n, &v64) == (n == 8));
        HOLDS(launch_id(data, n, &id) == (n == 16));
        if (launch_str(data, n, &s))
                HOLDS(s && strlen(s) == n);
        else
                HOLDS(memchr(data, 0, n));
        free(s);
}

/* Reads all attributes, writing them to `again` where that is given. False: malformed. */
static bool walk(const uint8_t *data, size_t n, Buf *again) {
        const uint8_t *value = NULL;
        LaunchReader reader = {};
        LaunchAttr attr = 0;
        size_t n_value = 0;
        int r;

        r = launch_open(&reader, data, n);
        HOLDS(r == 0 || r == LAUNCH_E_MALFORMED);
        if (r)
                return false;
        HOLDS(n <= LAUNCH_MESSAGE_MAX);
        if (again)
                HOLDS(launch_begin(again, reader.type) == 0);
        while ((r = launch_next(&reader, &attr, &value, &n_value)) == 0) {
                HOLDS(value >= data && n_value <= n && value <= data + n - n_value);
                check_value(value, n_value);
                if (again)
                        HOLDS(launch_add(again, attr, value, n_value) == 0);
        }
        HOLDS(r == LAUNCH_E_END || r == LAUNCH_E_MALFORMED);
        return r == LAUNCH_E_END;
}

static void check_same(const uint8_t *a, size_t n_a, const uint8_t *b, size_t n_b) {
        const uint8_t *value_a, *value_b;
        LaunchReader reader_a, reader_b;
        LaunchAttr attr_a, attr_b;
        size_t n_value_a, n_value_b;
        int r;

        HOLDS(launch_open(&reader_a, a, n_a) == 0 && launch_open(&reader_b, b, n_b) == 0);
        HOLDS(reader_a.type == reader_b.type);
        do {
                r = launch_next(&reader_a, &attr_a, &value_a, &n_value_a);
                HOLDS(launch_next(&reader_b, &attr_b, &value_b, &n_value_b) == r);
                HOLDS(r || (attr_a == attr_b && n_value_a == n_value_b &&
                            (n_value_a == 0 || memcmp(value_a, value_b, n_value_a) == 0)));
        } while (r == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        Buf again = BUF_NULL;

        if (walk(data, n, NULL)) {
                HOLDS(walk(data, n, &again));
                HOLDS(buf_size(&again) == n);
                HOLDS(walk(buf_data(&again), buf_size(&again), NULL));
                check_same(data, n, buf_data(&again), buf_size(&again));
        }
        buf_deinit(&again);
        return 0;
}

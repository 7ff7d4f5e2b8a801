#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/launch.h"

static const Id attempt = { { 1, 2, 3, 4, 5, 6, 0x77, 8, 0x89, 10, 11, 12, 13, 14, 15, 16 } };

/* A SPAWN with an attribute of every kind and every padding. */
static void make(Buf *b) {
        assert_int_equal(launch_begin(b, LAUNCH_SPAWN), 0);
        assert_int_equal(launch_add_id(b, LAUNCH_ATTR_ATTEMPT, &attempt), 0);
        assert_int_equal(launch_add_str(b, LAUNCH_ATTR_ARGV, "/bin/true"), 0);
        assert_int_equal(launch_add_str(b, LAUNCH_ATTR_ARGV, ""), 0);
        assert_int_equal(launch_add_str(b, LAUNCH_ATTR_ENV, "A=b"), 0);
        assert_int_equal(launch_add_u32(b, LAUNCH_ATTR_UID, 1000), 0);
        assert_int_equal(launch_add_u64(b, LAUNCH_ATTR_MEMORY_MAX, UINT64_C(1) << 33), 0);
        assert_int_equal(launch_add(b, LAUNCH_ATTR_DATA, "\0\1", 2), 0);
}

static void test_round_trip(void **state) {
        static const LaunchAttr expected[] = {
                LAUNCH_ATTR_ATTEMPT, LAUNCH_ATTR_ARGV, LAUNCH_ATTR_ARGV, LAUNCH_ATTR_ENV, LAUNCH_ATTR_UID,
                LAUNCH_ATTR_MEMORY_MAX, LAUNCH_ATTR_DATA,
        };
        static const char *const strings[] = { [1] = "/bin/true", [2] = "", [3] = "A=b" };
        _cleanup_(buf_deinit) Buf b = BUF_INIT(LAUNCH_MESSAGE_MAX);
        LaunchReader reader;
        const uint8_t *data;
        LaunchAttr attr;
        size_t n;

        make(&b);
        assert_int_equal(buf_size(&b) % 4, 0);
        assert_int_equal(launch_open(&reader, buf_data(&b), buf_size(&b)), 0);
        assert_int_equal(reader.type, LAUNCH_SPAWN);
        for (size_t i = 0; i < ELEMENTSOF(expected); i++) {
                assert_int_equal(launch_next(&reader, &attr, &data, &n), 0);
                assert_int_equal(attr, expected[i]);
                if (attr == LAUNCH_ATTR_ATTEMPT) {
                        Id id;
                        assert_true(launch_id(data, n, &id));
                        assert_true(id_equal(&id, &attempt));
                } else if (attr == LAUNCH_ATTR_UID) {
                        uint32_t v;
                        assert_true(launch_u32(data, n, &v));
                        assert_int_equal(v, 1000);
                } else if (attr == LAUNCH_ATTR_MEMORY_MAX) {
                        uint64_t v;
                        assert_true(launch_u64(data, n, &v));
                        assert_true(v == UINT64_C(1) << 33);
                } else if (attr == LAUNCH_ATTR_DATA) {
                        assert_int_equal(n, 2);
                        assert_memory_equal(data, "\0\1", 2);
                } else {
                        _cleanup_free_ char *s = NULL;
                        assert_true(launch_str(data, n, &s));
                        assert_string_equal(s, strings[i]);
                }
        }
        assert_int_equal(launch_next(&reader, &attr, &data, &n), LAUNCH_E_END);
        assert_int_equal(launch_next(&reader, &attr, &data, &n), LAUNCH_E_END);
}

static void test_header_only(void **state) {
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        LaunchReader reader;
        const uint8_t *data;
        LaunchAttr attr;
        size_t n;

        assert_int_equal(launch_begin(&b, LAUNCH_LIST), 0);
        assert_int_equal(launch_open(&reader, buf_data(&b), buf_size(&b)), 0);
        assert_int_equal(launch_next(&reader, &attr, &data, &n), LAUNCH_E_END);
        /* Never a second message in one packet. */
        assert_int_equal(launch_begin(&b, LAUNCH_LIST), -EINVAL);
}

/* Every prefix, in an allocation of exactly its size; and a byte too many. */
static void test_truncated(void **state) {
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        LaunchReader reader;

        make(&b);
        for (size_t n = 0; n < buf_size(&b); n++) {
                _cleanup_free_ uint8_t *copy = malloc(n ?: 1);
                memcpy(copy, buf_data(&b), n);
                assert_int_equal(launch_open(&reader, copy, n), LAUNCH_E_MALFORMED);
        }
        assert_int_equal(launch_open(&reader, buf_data(&b), buf_size(&b)), 0);
        assert_int_equal(buf_append_str(&b, "x"), 0);
        assert_int_equal(launch_open(&reader, buf_data(&b), buf_size(&b)), LAUNCH_E_MALFORMED);
}

static size_t walk(const uint8_t *message, size_t n_message) {
        LaunchReader reader;
        const uint8_t *data;
        LaunchAttr attr;
        size_t n, count = 0, sum = 0;

        if (launch_open(&reader, message, n_message))
                return 0;
        while (launch_next(&reader, &attr, &data, &n) == 0) {
                assert_true(data >= message && n <= n_message && data + n <= message + n_message);
                for (size_t i = 0; i < n; i++)
                        sum += data[i];
                count++;
        }
        return count + (sum == SIZE_MAX);
}

/*
 * Random bytes behind a good header, and flipped bytes of a good message: no read leaves the message, no loop is
 * endless.
 */
static void test_garbage(void **state) {
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        unsigned seed = 9;

        make(&b);
        for (unsigned i = 0; i < 20000; i++) {
                size_t n = i % 2 ? buf_size(&b) : sizeof(LaunchHeader) + (size_t)rand_r(&seed) % 64;
                _cleanup_free_ uint8_t *copy = malloc(n);
                LaunchHeader header = { .magic = LAUNCH_MAGIC, .type = LAUNCH_OUTPUT, .length = (uint32_t)n };

                if (i % 2) {
                        memcpy(copy, buf_data(&b), n);
                        for (unsigned k = 0; k < 3; k++)
                                copy[(size_t)rand_r(&seed) % n] = (uint8_t)rand_r(&seed);
                } else {
                        for (size_t k = 0; k < n; k++)
                                copy[k] = rand_r(&seed) % 3 ? 0 : (uint8_t)rand_r(&seed);
                        memcpy(copy, &header, sizeof(header));
                }
                assert_true(walk(copy, n) <= n / 8);
        }
}

static void test_malformed(void **state) {
        static const struct {
                size_t at;
                uint8_t value;
        } flips[] = {
                { 0, 0 }, { 4, 0 },             /* magic; type 0 */
                { 12, 0 },                      /* attribute type 0 */
                { 16, 255 }, { 19, 255 },       /* lengths past the end, the second near UINT32_MAX */
        };

        for (size_t i = 0; i < ELEMENTSOF(flips); i++) {
                _cleanup_(buf_deinit) Buf b = BUF_NULL;
                LaunchReader reader;
                const uint8_t *data = NULL;
                LaunchAttr attr;
                size_t n;
                int r;

                assert_int_equal(launch_begin(&b, LAUNCH_HELLO), 0);
                assert_int_equal(launch_add_u32(&b, LAUNCH_ATTR_VERSION, 1), 0);
                buf_data(&b)[flips[i].at] = flips[i].value;
                r = launch_open(&reader, buf_data(&b), buf_size(&b));
                if (!r)
                        r = launch_next(&reader, &attr, &data, &n);
                assert_int_equal(r, LAUNCH_E_MALFORMED);
                assert_null(data);
        }
}

static void test_unknown(void **state) {
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        LaunchReader reader;
        const uint8_t *data;
        LaunchAttr attr;
        size_t n;

        assert_int_equal(launch_begin(&b, (LaunchType)999), 0);
        assert_int_equal(launch_add_u32(&b, (LaunchAttr)4711, 1), 0);
        assert_int_equal(launch_open(&reader, buf_data(&b), buf_size(&b)), 0);
        assert_int_equal(reader.type, 999);
        assert_int_equal(launch_next(&reader, &attr, &data, &n), 0);
        assert_int_equal(attr, 4711);
        assert_int_equal(launch_next(&reader, &attr, &data, &n), LAUNCH_E_END);
}

static void test_full(void **state) {
        static uint8_t big[LAUNCH_MESSAGE_MAX + 1];
        _cleanup_(buf_deinit) Buf b = BUF_NULL, tiny = BUF_INIT(20), none = BUF_INIT(4);
        LaunchReader reader;
        size_t before;

        assert_int_equal(launch_begin(&b, LAUNCH_OUTPUT), 0);
        assert_int_equal(launch_add(&b, LAUNCH_ATTR_DATA, big, LAUNCH_OUTPUT_MAX), 0);
        before = buf_size(&b);
        assert_int_equal(launch_add(&b, LAUNCH_ATTR_DATA, big, LAUNCH_MESSAGE_MAX - before - 7), LAUNCH_E_FULL);
        assert_int_equal(launch_add(&b, LAUNCH_ATTR_DATA, big, sizeof(big)), LAUNCH_E_FULL);
        assert_int_equal(launch_add(&b, LAUNCH_ATTR_DATA, big, SIZE_MAX), LAUNCH_E_FULL);
        assert_int_equal(buf_size(&b), before);
        assert_int_equal(launch_add(&b, LAUNCH_ATTR_DATA, big, LAUNCH_MESSAGE_MAX - before - 8), 0);
        assert_int_equal(buf_size(&b), LAUNCH_MESSAGE_MAX);
        assert_int_equal(launch_open(&reader, buf_data(&b), buf_size(&b)), 0);

        assert_int_equal(launch_begin(&none, LAUNCH_OUTPUT), LAUNCH_E_FULL);
        assert_int_equal(launch_begin(&tiny, LAUNCH_OUTPUT), 0);
        assert_int_equal(launch_add_u32(&tiny, LAUNCH_ATTR_STREAM, 1), LAUNCH_E_FULL);
        assert_int_equal(launch_open(&reader, buf_data(&tiny), buf_size(&tiny)), 0);
}

static void test_typed(void **state) {
        const uint8_t bytes[20] = { 'a', 0, 'b' };
        char *s = (char *)state;
        uint32_t v = 5;
        uint64_t w = 6;
        Id id = { { 7 } };

        assert_false(launch_u32(bytes, 3, &v));
        assert_false(launch_u32(bytes, 5, &v));
        assert_false(launch_u64(bytes, 4, &w));
        assert_false(launch_id(bytes, 15, &id));
        assert_false(launch_id(bytes, 17, &id));
        assert_false(launch_str(bytes, 3, &s));
        assert_ptr_equal(s, state);
        assert_int_equal(v, 5);
        assert_int_equal(w, 6);
        assert_int_equal(id.bytes[0], 7);
}

static void test_gpu(void **state) {
        LaunchGpu gpu = { .index = 63, .shares = 64, .memory = UINT64_C(80) << 30, .uuid = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6" }, again;
        _cleanup_(buf_deinit) Buf b = BUF_INIT(LAUNCH_MESSAGE_MAX);
        const uint8_t *data;
        LaunchReader reader;
        LaunchAttr attr;
        size_t n;

        memset(gpu.name, 'x', sizeof(gpu.name) - 1);
        assert_int_equal(launch_begin(&b, LAUNCH_HELLO), 0);
        assert_int_equal(launch_add_gpu(&b, &gpu), 0);
        assert_int_equal(launch_open(&reader, buf_data(&b), buf_size(&b)), 0);
        assert_int_equal(launch_next(&reader, &attr, &data, &n), 0);
        assert_int_equal(attr, LAUNCH_ATTR_GPU_INFO);
        memset(&again, 0xff, sizeof(again));
        assert_true(launch_gpu(data, n, &again));
        assert_memory_equal(&again, &gpu, sizeof(gpu));
}

static void test_gpu_refused(void **state) {
        static const struct {
                const char *data;
                size_t n;
        } table[] = {
                { "\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0", 16 },
                { "\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0name", 20 },                /* no NUL */
                { "\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0uuid", 21 },              /* no name */
                { "\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0a\nb\0", 20 },
                { "\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0a\xff\0", 19 },
                { "\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0a\0a,b", 21 },
                { "\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0a\0u\0", 20 },              /* NUL in the uuid */
                { "\100\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0a\0", 18 },               /* index 64 */
                { "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0a\0", 18 },                 /* no share */
                { "\0\0\0\0\101\0\0\0\0\0\0\0\0\0\0\0a\0", 18 },               /* 65 shares */
        };
        uint8_t data[16 + LAUNCH_GPU_NAME_SIZE + 1] = { [4] = 1 };
        LaunchGpu gpu = { .index = 9 };

        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                assert_false(launch_gpu((const uint8_t *)table[i].data, table[i].n, &gpu));
        memset(data + 16, 'x', LAUNCH_GPU_NAME_SIZE);
        assert_false(launch_gpu(data, sizeof(data), &gpu));
        assert_int_equal(gpu.index, 9);
        assert_true(launch_gpu((const uint8_t *)"\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0a\0", 18, &gpu));
        assert_int_equal(gpu.index, 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_round_trip),
                cmocka_unit_test(test_header_only),
                cmocka_unit_test(test_truncated),
                cmocka_unit_test(test_garbage),
                cmocka_unit_test(test_malformed),
                cmocka_unit_test(test_unknown),
                cmocka_unit_test(test_full),
                cmocka_unit_test(test_typed),
                cmocka_unit_test(test_gpu),
                cmocka_unit_test(test_gpu_refused),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

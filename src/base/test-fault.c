#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/heap.h"
#include "base/json.h"
#include "base/launch.h"
#include "base/map.h"
#include "base/yaml.h"

/*
 * The Nth allocation fails, for every N that an operation comes to: it answers -ENOMEM, leaves what it was given as it
 * was, and loses nothing (the sanitizer's leak check sees to that). The linker leads this layer's allocations here
 * (--wrap); those inside libyaml and json-c are their own.
 */

static long fail_at = -1;               /* allocations until the one that fails; below 0: none does */

static bool fails(void) {
        return fail_at >= 0 && fail_at-- == 0;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_reallocarray(void *p, size_t n, size_t size);
char *__real_strdup(const char *s);
char *__real_strndup(const char *s, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_reallocarray(void *p, size_t n, size_t size);
char *__wrap_strdup(const char *s);
char *__wrap_strndup(const char *s, size_t n);

void *__wrap_malloc(size_t n) { return fails() ? NULL : __real_malloc(n); }
void *__wrap_calloc(size_t n, size_t size) { return fails() ? NULL : __real_calloc(n, size); }
void *__wrap_realloc(void *p, size_t n) { return fails() ? NULL : __real_realloc(p, n); }
void *__wrap_reallocarray(void *p, size_t n, size_t size) { return fails() ? NULL : __real_reallocarray(p, n, size); }
char *__wrap_strdup(const char *s) { return fails() ? NULL : __real_strdup(s); }
char *__wrap_strndup(const char *s, size_t n) { return fails() ? NULL : __real_strndup(s, n); }

/* Runs an operation with its first, second, … allocation failing until none is left to fail: returns how many. */
static long each_failure(int (*operation)(void)) {
        for (long n = 0; ; n++) {
                int r;

                fail_at = n;
                r = operation();
                if (fail_at >= 0) {
                        fail_at = -1;
                        assert_int_equal(r, 0);
                        return n;
                }
                assert_int_equal(r, -ENOMEM);
        }
}

static int load_yaml(void) {
        static const char text[] = "a: [1, 2, 3]\nb: {c: d, e: [f, {g: h}]}\n1: a\n2: a\n3: a\n4: a\n5: a\n6: a\n7: a\n8: a\n9: a\n";
        YamlDocument *d = NULL;
        int r;

        r = yaml_load("f.yaml", text, sizeof(text) - 1, &d);
        assert_int_equal(r == 0, d != NULL);
        yaml_free(d);
        return r;
}

static int refuse_yaml(void) {
        YamlDocument *d = NULL;
        int r;

        r = yaml_load("f.yaml", "a: {b: [c, *d]}", 15, &d);
        assert_int_equal(r == YAML_E_INVALID, d != NULL);
        yaml_free(d);
        return r == YAML_E_INVALID ? 0 : r;
}

static int use_buf(void) {
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        char *s = NULL;
        int r;

        r = buf_append_str(&b, "x");
        for (unsigned i = 0; !r && i < 100; i++) {
                size_t before = buf_size(&b);
                r = i % 2 ? buf_printf(&b, "%0100u", i) : json_append_string(&b, "a\nb", 3);
                if (r)
                        assert_int_equal(buf_size(&b), before);
        }
        if (!r)
                r = buf_take_str(&b, &s);
        assert_int_equal(r == 0, s != NULL);
        free(s);
        return r;
}

static int use_launch(void) {
        _cleanup_(buf_deinit) Buf b = BUF_NULL;
        LaunchReader reader;
        int r;

        r = launch_begin(&b, LAUNCH_SPAWN);
        for (unsigned i = 0; !r && i < 50; i++) {
                r = launch_add_str(&b, LAUNCH_ATTR_ENV, "NAME=a value of some length");
                /* What is there is still a whole message. */
                assert_int_equal(launch_open(&reader, buf_data(&b), buf_size(&b)), 0);
        }
        return r;
}

static bool never_less(const HeapNode *a, const HeapNode *b) {
        return false;
}

static int use_heap(void) {
        _cleanup_(heap_deinit) Heap h = HEAP_INIT(never_less);
        static HeapNode nodes[100];
        int r = 0;

        memset(nodes, 0, sizeof(nodes));
        for (size_t i = 0; !r && i < ELEMENTSOF(nodes); i++) {
                r = heap_push(&h, nodes + i);
                assert_int_equal(heap_contains(nodes + i), r == 0);
        }
        return r;
}

static int use_map(void) {
        static MapNode nodes[100];
        static uint32_t keys[100];
        Map m = MAP_NULL;
        size_t n = 0;
        int r = 0;

        memset(nodes, 0, sizeof(nodes));
        while (!r && n < ELEMENTSOF(nodes)) {
                keys[n] = (uint32_t)n;
                r = map_insert(&m, nodes + n, keys + n, sizeof(*keys));
                assert_int_equal(nodes[n].linked, r == 0);
                n += r == 0;
        }
        /* What was in before is found still. */
        for (size_t i = 0; i < n; i++)
                assert_ptr_equal(map_find(&m, keys + i, sizeof(*keys)), nodes + i);
        map_deinit(&m);
        return r;
}

static int use_fd(void) {
        _cleanup_close_ int fd = -1;
        char *data = NULL;
        size_t n = 0;
        int r;

        r = fd_new_sealed_memfd("x", "0123456789", 10, &fd);
        if (!r)
                r = fd_read_all(fd, 100, &data, &n);
        assert_int_equal(r == 0, data != NULL);
        free(data);
        return r;
}

static void test_each(void **state) {
        assert_in_range(each_failure(load_yaml), 30, 200);
        assert_in_range(each_failure(refuse_yaml), 8, 50);
        assert_in_range(each_failure(use_buf), 3, 20);
        assert_in_range(each_failure(use_launch), 3, 20);
        assert_in_range(each_failure(use_heap), 4, 8);
        assert_in_range(each_failure(use_map), 3, 8);
        assert_int_equal(each_failure(use_fd), 1);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_each),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

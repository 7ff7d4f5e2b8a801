/* GPUs in sandboxes: harmless nodes under other names stand for them, in a /dev that only the launcher has. */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <unistd.h>

#include "base/buf.h"
#include "launcher/test-client.h"

/* Told apart by their device numbers: zero is 1:5, full 1:7, random 1:8, urandom 1:9, null 1:3. */
static const char *const devices[] = {
        "fake-gpu0", "/dev/zero", "fake-gpu1", "/dev/full", "fake/extra", "/dev/random", "nvidia0", "/dev/urandom", "nvidia7", "/dev/zero",
        "nvidiactl", "/dev/null", "nvidia-uvm", "/dev/null", NULL,
};

static const char declared[] =
        "resources:\n"
        "  gpus:\n"
        "    - { name: left, devices: [/dev/fake-gpu0] }\n"
        "    - { name: the right one, devices: [/dev/fake-gpu1, /dev/fake/extra], uuid: GPU-right, memory: 24G, shares: 2 }\n"
        "    - { name: nvidia, devices: [/dev/nvidia0], uuid: GPU-nvidia, memory: 80G }\n"
        "    - { name: gone, devices: [/dev/gone] }\n"
        "    - { name: folder, devices: [/dev/fake] }\n";

/* What there is of them, and that they can be opened for both; the environment. */
static const char look[] =
        "cd /dev; for n in fake-gpu0 fake-gpu1 fake/extra nvidia0 nvidia7 nvidiactl nvidia-uvm nvidia-uvm-tools gone; do "
        "[ -e $n ] && stat -c '%n %t:%T' $n && true <>$n; done; ls | wc -l; "
        "echo \"<${CUDA_VISIBLE_DEVICES-unset}|${NVIDIA_VISIBLE_DEVICES-unset}>\"";

/* What every sandbox has in /dev: null zero full random urandom tty pts ptmx shm fd stdin stdout stderr. */
#define ALWAYS "13"

static Client client;

static const char *out(const Run *run) {
        return (const char *)run->out.data + run->out.start;
}

static void run_with(Client *c, const uint32_t *gpus, size_t n, const char *script, Run *ret_run) {
        Buf b = {};
        Id attempt;

        client_spawn_begin(c, &b, &attempt, script);
        client_add_str(&b, LAUNCH_ATTR_ENV, "CUDA_VISIBLE_DEVICES=0,1,2");
        for (size_t i = 0; i < n; i++)
                assert_int_equal(launch_add_u32(&b, LAUNCH_ATTR_GPU, gpus[i]), 0);
        client_add_str(&b, LAUNCH_ATTR_ENV_CREDENTIAL, "NVIDIA_VISIBLE_DEVICES=all");
        client_send(c, &b, -1);
        buf_deinit(&b);
        client_collect(c, &attempt, ret_run);
        client_tell(c, LAUNCH_FORGET, &attempt, 0);
}

static void expect(Client *c, const uint32_t *gpus, size_t n, const char *wanted) {
        Run run;

        run_with(c, gpus, n, look, &run);
        if (run.last.type != LAUNCH_EXITED)
                fail_msg("%s: %s", run.last.stage, run.last.text);
        if (!streq(out(&run), wanted))
                fail_msg("said <%s>%s, not <%s>", out(&run), (char *)buf_data(&run.err), wanted);
        run_deinit(&run);
}

static void expect_failed(Client *c, uint32_t gpu, const char *text) {
        const uint32_t gpus[] = { 0, gpu };
        Run run;

        run_with(c, gpus, 2, "echo must not run", &run);
        assert_int_equal(run.last.type, LAUNCH_SPAWN_FAILED);
        assert_string_equal(run.last.stage, "gpu");
        if (!strstr(run.last.text, text))
                fail_msg("<%s> does not hold <%s>", run.last.text, text);
        assert_string_equal(out(&run), "");
        run_deinit(&run);
}

static void start(Client *c, bool plain, const char *resources) {
        *c = (Client){ .devices = devices };
        client_start_limited(c, plain, resources);
        client_put_file(c, "credentials/all", "all", 0400);
}

static int setup_root(void **state) {
        start(&client, false, declared);
        *state = &client;
        return 0;
}

static int setup_plain(void **state) {
        start(&client, true, declared);
        *state = &client;
        return 0;
}

static int teardown(void **state) {
        client_stop(*state);
        return 0;
}

static void test_inventory(void **state) {
        Client *c = *state;

        assert_int_equal(c->n_gpus, 5);
        assert_string_equal(c->gpus[0].name, "left");
        assert_string_equal(c->gpus[0].uuid, "");
        assert_int_equal(c->gpus[0].shares, 1);
        assert_int_equal(c->gpus[0].memory, 0);
        assert_string_equal(c->gpus[1].name, "the right one");
        assert_string_equal(c->gpus[1].uuid, "GPU-right");
        assert_int_equal(c->gpus[1].shares, 2);
        assert_int_equal(c->gpus[1].memory, UINT64_C(24) << 30);
        assert_in_range(c->cpus, 1, sysconf(_SC_NPROCESSORS_CONF));
        assert_int_equal(c->memory, (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE));
}

static void test_none(void **state) {
        expect(*state, NULL, 0, ALWAYS "\n<|>\n");
}

static void test_each_its_own(void **state) {
        static const uint32_t left[] = { 0 }, right[] = { 1 }, nvidia[] = { 2 }, several[] = { 2, 0, 2, 1, 0 };
        Client *c = *state;

        expect(c, left, 1, "fake-gpu0 1:5\n14\n<0|0>\n");
        expect(c, right, 1, "fake-gpu1 1:7\nfake/extra 1:8\n15\n<GPU-right|GPU-right>\n");
        /* The driver's control nodes come with its GPUs; what the machine does not have, not. */
        expect(c, nvidia, 1, "nvidia0 1:9\nnvidiactl 1:3\nnvidia-uvm 1:3\n16\n<GPU-nvidia|GPU-nvidia>\n");
        expect(c, several, 5, "fake-gpu0 1:5\nfake-gpu1 1:7\nfake/extra 1:8\nnvidia0 1:9\nnvidiactl 1:3\nnvidia-uvm 1:3\n19\n"
                              "<GPU-nvidia,0,GPU-right|GPU-nvidia,0,GPU-right>\n");
}

/* Nodes are all there is: none can be made, and another's is not found by another way. */
static void test_no_way_around(void **state) {
        static const uint32_t left[] = { 0 };
        Client *c = *state;
        Run run;

        run_with(c, left, 1,
                 "mknod /tmp/gpu1 c 1 7 2>/dev/null && : </tmp/gpu1 && echo made; mknod /dev/fake-gpu1 c 1 7 2>/dev/null && echo made; "
                 "rm /dev/fake-gpu0 2>/dev/null && echo removed; for p in /proc/[0-9]*; do [ -e $p/root/dev/fake-gpu1 ] && echo seen; done; "
                 "head -c 2 /dev/fake-gpu0 | wc -c",
                 &run);
        assert_string_equal(out(&run), "2\n");
        run_deinit(&run);
}

static void test_refused(void **state) {
        uint32_t many[LAUNCH_GPUS_MAX + 1];
        Client *c = *state;
        Run run;

        expect_failed(c, 5, "there is no GPU 5: this launcher has 5, the last is GPU 4");
        expect_failed(c, UINT32_MAX, "there is no GPU 4294967295");
        expect_failed(c, 3, "/dev/gone can't be found");
        expect_failed(c, 4, "/dev/fake is no character device");
        for (uint32_t i = 0; i < ELEMENTSOF(many); i++)
                many[i] = i;
        run_with(c, many, ELEMENTSOF(many), "echo must not run", &run);
        assert_int_equal(run.last.type, LAUNCH_SPAWN_FAILED);
        assert_string_equal(run.last.stage, "gpu");
        assert_non_null(strstr(run.last.text, "more than 64"));
        run_deinit(&run);
}

/* Found by their nodes; without NVML (of which this machine must have none that works) by index. */
static void test_auto(void **state) {
        static const uint32_t second[] = { 1 };
        Client c;

        start(&c, false, NULL);
        assert_int_equal(c.n_gpus, 2);
        assert_int_equal(c.gpus[0].shares, 1);
        if (c.gpus[1].uuid[0]) {
                client_stop(&c);
                print_message("skipped: this machine has a driver and GPUs of its own\n");
                skip();
        }
        assert_string_equal(c.gpus[0].name, "NVIDIA GPU 0");
        assert_string_equal(c.gpus[1].name, "NVIDIA GPU 7");
        expect(&c, second, 1, "nvidia7 1:5\nnvidiactl 1:3\nnvidia-uvm 1:3\n16\n<1|1>\n");
        expect(&c, NULL, 0, ALWAYS "\n<|>\n");
        client_stop(&c);
}

/* An empty list: the machine's GPUs are nobody's, and the environment stays what it is. */
static void test_empty(void **state) {
        Client c;

        start(&c, false, "resources: { gpus: [] }\n");
        assert_int_equal(c.n_gpus, 0);
        expect(&c, NULL, 0, ALWAYS "\n<0,1,2|all>\n");
        expect_failed(&c, 0, "there is no GPU 0: this launcher has none");
        client_stop(&c);
}

int main(int argc, char **argv) {
        const struct CMUnitTest root[] = {
                cmocka_unit_test(test_inventory),
                cmocka_unit_test(test_none),
                cmocka_unit_test(test_each_its_own),
                cmocka_unit_test(test_refused),
                cmocka_unit_test(test_no_way_around),
                cmocka_unit_test(test_auto),
                cmocka_unit_test(test_empty),
        };
        const struct CMUnitTest plain[] = {
                cmocka_unit_test(test_none), cmocka_unit_test(test_each_its_own), cmocka_unit_test(test_refused),
                cmocka_unit_test(test_no_way_around),
        };

        if (geteuid() != 0) {
                printf("1..0 # SKIP a /dev of its own needs root\n");
                return 0;
        }
        if (argc > 1 && streq(argv[1], "plain"))
                return cmocka_run_group_tests_name("plain", plain, setup_plain, teardown);
        return cmocka_run_group_tests_name("root", root, setup_root, teardown);
}

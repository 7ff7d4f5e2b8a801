/*
 * Sandbox set-up and exec of /bin/true, against bubblewrap doing the same, in pairs within one run: for each pair the
 * time from SPAWN to EXITED over the socket, and the time from fork to the end of `bwrap`. Prints medians and their
 * ratio. The aim is 0.5; the benchmark fails only where it can't measure.
 */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "launcher/test-client.h"

#define PAIRS 200

static int compare_u64(const void *a, const void *b) {
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

        return (x > y) - (x < y);
}

static double percentile_ms(uint64_t *us, size_t n, unsigned percent) {
        qsort(us, n, sizeof(*us), compare_u64);
        return (double)us[n * percent / 100] / 1000;
}

static uint64_t bench_ours(Client *c, bool network, uint64_t *ret_exec_us) {
        _cleanup_(buf_deinit) Buf b = BUF_INIT(LAUNCH_MESSAGE_MAX);
        uint64_t began;
        Id attempt;
        Message m;

        assert_int_equal(id_new(&attempt), 0);
        assert_int_equal(launch_begin(&b, LAUNCH_SPAWN), 0);
        assert_int_equal(launch_add_id(&b, LAUNCH_ATTR_ATTEMPT, &attempt), 0);
        client_add_str(&b, LAUNCH_ATTR_AGENT, "bench");
        client_add_str(&b, LAUNCH_ATTR_ARGV, "/bin/true");
        client_add_str(&b, LAUNCH_ATTR_ENV, "PATH=/usr/bin");
        client_add_str(&b, LAUNCH_ATTR_WORKSPACE, client_path(c, "ws"));
        assert_int_equal(launch_add_u32(&b, LAUNCH_ATTR_NETWORK, network), 0);
        began = clock_monotonic_us();
        client_send(c, &b, -1);
        do {
                assert_true(client_receive(c, &m));
                if (m.type == LAUNCH_SPAWNED)
                        *ret_exec_us = m.execed_at - began;
        } while (m.type != LAUNCH_EXITED);
        began = clock_monotonic_us() - began;
        assert_int_equal(m.value, 0);
        client_tell(c, LAUNCH_FORGET, &attempt, 0);
        return began;
}

static uint64_t bench_bwrap(Client *c, bool network) {
        const char *workspace = client_path(c, "ws"), *home = client_path(c, "outside");
        const char *const argv[] = {
                "bwrap", "--unshare-all", "--new-session", "--die-with-parent", "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin",
                "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", "--ro-bind", "/etc", "/etc", "--proc", "/proc", "--dev", "/dev",
                "--tmpfs", "/tmp", "--tmpfs", "/run", "--bind", home, "/home/agent", "--bind", workspace, workspace, "--chdir", workspace,
                "/bin/true", NULL,
        };
        const char *const shared[] = { "--share-net" };
        const char *all[ELEMENTSOF(argv) + 1];
        uint64_t began = clock_monotonic_us();
        int status;
        pid_t pid;

        memcpy(all, argv, 2 * sizeof(*argv));
        memcpy(all + 2, shared, network * sizeof(*argv));
        memcpy(all + 2 + network, argv + 2, sizeof(argv) - 2 * sizeof(*argv));
        pid = fork();
        if (pid == 0) {
                if (c->plain && geteuid() == 0 && (setgid(c->uid) < 0 || setuid(c->uid) < 0))
                        _exit(126);
                execv("/usr/bin/bwrap", (char *const *)all);
                _exit(127);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        return clock_monotonic_us() - began;
}

static void bench(bool plain, bool network) {
        static uint64_t ours[PAIRS], execs[PAIRS], theirs[PAIRS];
        Client c;
        double us, them, to_exec;

        client_start(&c, plain, NULL);
        for (unsigned i = 0; i < 5; i++) {
                (void)bench_ours(&c, network, &execs[0]);
                (void)bench_bwrap(&c, network);
        }
        for (unsigned i = 0; i < PAIRS; i++) {
                ours[i] = bench_ours(&c, network, &execs[i]);
                theirs[i] = bench_bwrap(&c, network);
        }
        us = percentile_ms(ours, PAIRS, 50);
        them = percentile_ms(theirs, PAIRS, 50);
        to_exec = percentile_ms(execs, PAIRS, 50);
        printf("sandbox %-6s %-12s launcher p50 %.2f ms (to execve %.2f, p99 %.2f)  bwrap p50 %.2f ms (p99 %.2f)  ratio %.2f (aim 0.50)\n",
               c.plain ? "plain" : "root", network ? "host network" : "no network", us, to_exec, percentile_ms(ours, PAIRS, 99), them,
               percentile_ms(theirs, PAIRS, 99), us / them);
        fflush(stdout);
        client_stop(&c);
}

static void test_bench(void **state) {
        if (access("/usr/bin/bwrap", X_OK) < 0) {
                printf("skipped: no bwrap to compare with (apt-get install bubblewrap)\n");
                skip();
        }
        if (geteuid() == 0) {
                bench(false, false);
                bench(false, true);
        }
        bench(true, false);
        bench(true, true);
}

int main(void) {
        const struct CMUnitTest tests[] = { cmocka_unit_test(test_bench) };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

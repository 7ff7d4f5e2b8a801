#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "launcher/profile.h"
#include "launcher/seccomp.h"

static int parse(const char *text, Profile *p, char *error) {
        return profile_parse("t", text, strlen(text), p, error);
}

static void expect_error(const char *text, const char *wanted) {
        char error[PROFILE_ERROR_MAX] = "";
        Profile p = {};

        assert_int_equal(parse(text, &p, error), PROFILE_E_INVALID);
        if (!strstr(error, wanted))
                fail_msg("for <%s>: <%s> does not hold <%s>", text, error, wanted);
}

static void test_parse(void **state) {
        char error[PROFILE_ERROR_MAX] = "";
        Profile p;

        assert_int_equal(parse("# head\n\ndefault errno ENOSYS\nallow read write # both\n\tdeny EPERM ptrace\n"
                               "deny EAFNOSUPPORT socket if arg0 > AF_NETLINK\ndeny EPERM ioctl if arg1 & 0xFFffffff == TIOCSTI", &p, error), 0);
        assert_int_equal(p.default_error, ENOSYS);
        assert_int_equal(p.n, 5);
        assert_string_equal(p.rules[1].call, "write");
        assert_int_equal(p.rules[1].error, 0);
        assert_int_equal(p.rules[1].line, 4);
        assert_int_equal(p.rules[2].error, EPERM);
        assert_int_equal(p.rules[3].op, PROFILE_GT);
        assert_int_equal(p.rules[3].value, AF_NETLINK);
        assert_int_equal(p.rules[4].op, PROFILE_MASKED_EQ);
        assert_int_equal(p.rules[4].arg, 1);
        assert_int_equal(p.rules[4].mask, 0xffffffff);
        assert_int_equal(p.rules[4].value, TIOCSTI);
        profile_deinit(&p);
}

static void test_errors_name_the_line(void **state) {
        expect_error("", "t:0: the profile is empty");
        expect_error("# nothing\n", "t:1: the profile is empty");
        expect_error("allow read\n", "t:1: the first rule must be");
        expect_error("default errno ENOSYS\ndefault errno EPERM\n", "t:2: `default` stands once");
        expect_error("default ENOSYS\n", "t:1: expected `default errno NAME`");
        expect_error("default errno EFOO\n", "t:1: 'EFOO' is no errno");
        expect_error("default errno ENOSYS\npermit read\n", "t:2: 'permit' is no rule");
        expect_error("default errno ENOSYS\nallow\n", "t:2: expected the name");
        expect_error("default errno ENOSYS\ndeny EPERM\n", "t:2: expected the name");
        expect_error("default errno ENOSYS\ndeny ptrace\n", "t:2: 'ptrace' is no errno");
        expect_error("default errno ENOSYS\nallow Read\n", "t:2: 'Read' is no system call");
        expect_error("default errno ENOSYS\nallow read\n\nallow write read\n", "t:4: read was named before, in line 2");
        expect_error("default errno ENOSYS\nallow socket if arg0 == 1\n", "t:2: a condition belongs to a deny");
        expect_error("default errno ENOSYS\ndeny EPERM socket if arg6 == 1\n", "t:2: expected `if argN");
        expect_error("default errno ENOSYS\ndeny EPERM socket if arg0 = 1\n", "t:2: '=' is no comparison");
        expect_error("default errno ENOSYS\ndeny EPERM socket if arg0 == AF_FOO\n", "t:2: 'AF_FOO' is no value");
        expect_error("default errno ENOSYS\ndeny EPERM socket if arg0 == 0xg\n", "t:2: '0xg' is no value");
        expect_error("default errno ENOSYS\ndeny EPERM socket if arg0 & 1 != 1\n", "t:2: expected `if argN & MASK == VALUE`");
}

static void test_bytes_are_bounded(void **state) {
        char error[PROFILE_ERROR_MAX] = "", text[2048] = "default errno ENOSYS\nallow ";
        Profile p = {};

        memset(text + strlen(text), 'a', 1200);
        assert_int_equal(profile_parse("t", text, strlen(text), &p, error), PROFILE_E_INVALID);
        assert_non_null(strstr(error, "t:2: the line is longer"));
        assert_int_equal(profile_parse("t", "default errno ENOSYS\nallow re\0ad\n", 33, &p, error), PROFILE_E_INVALID);
        assert_non_null(strstr(error, "holds NUL"));
}

/* A small machine for classic BPF, enough for what libseccomp writes. */
static uint32_t bpf_run(const struct sock_fprog *prog, const struct seccomp_data *data) {
        uint32_t a = 0;

        for (size_t pc = 0; pc < prog->len; pc++) {
                const struct sock_filter *i = &prog->filter[pc];

                switch (i->code) {
                case BPF_LD | BPF_W | BPF_ABS:
                        memcpy(&a, (const uint8_t *)data + i->k, sizeof(a));
                        break;
                case BPF_ALU | BPF_AND | BPF_K:
                        a &= i->k;
                        break;
                case BPF_JMP | BPF_JA:
                        pc += i->k;
                        break;
                case BPF_JMP | BPF_JEQ | BPF_K:
                        pc += a == i->k ? i->jt : i->jf;
                        break;
                case BPF_JMP | BPF_JGE | BPF_K:
                        pc += a >= i->k ? i->jt : i->jf;
                        break;
                case BPF_JMP | BPF_JGT | BPF_K:
                        pc += a > i->k ? i->jt : i->jf;
                        break;
                case BPF_JMP | BPF_JSET | BPF_K:
                        pc += a & i->k ? i->jt : i->jf;
                        break;
                case BPF_RET | BPF_K:
                        return i->k;
                default:
                        fail_msg("unexpected BPF code %x", i->code);
                }
        }
        fail();
        return 0;
}

#if defined(__x86_64__)
#define TEST_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define TEST_ARCH AUDIT_ARCH_AARCH64
#endif

/* The errno that a call gets; 0: it passes. */
static int verdict(const SeccompFilter *f, int call, uint64_t arg0, uint64_t arg1) {
        struct seccomp_data data = { .nr = call, .arch = TEST_ARCH, .args = { arg0, arg1 } };

        uint32_t action = bpf_run(&f->program, &data);

        if ((action & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_ERRNO)
                return (int)(action & SECCOMP_RET_DATA);
        assert_int_equal(action, SECCOMP_RET_ALLOW);
        return 0;
}

static void test_shipped_profile(void **state) {
        static const int refused[] = {
                SYS_io_uring_setup,
                SYS_io_uring_enter,
                SYS_io_uring_register,
                SYS_ptrace,
                SYS_bpf,
                SYS_keyctl,
                SYS_add_key,
                SYS_request_key,
                SYS_userfaultfd,
                SYS_mount,
                SYS_umount2,
                SYS_pivot_root,
                SYS_chroot,
                SYS_unshare,
                SYS_setns,
                SYS_process_vm_readv,
                SYS_process_vm_writev,
                SYS_kexec_load,
                SYS_init_module,
                SYS_perf_event_open,
                SYS_open_by_handle_at,
                SYS_swapon,
                SYS_reboot,
                SYS_settimeofday,
                SYS_open_tree,
                SYS_move_mount,
                SYS_fsopen,
                SYS_mount_setattr,
                SYS_pidfd_getfd,
        };
        static const int allowed[] = { SYS_read,  SYS_write, SYS_openat, SYS_execve, SYS_clone,
                                       SYS_futex, SYS_mmap,  SYS_socket, SYS_ioctl,  SYS_statx };
        static const uint64_t namespaces[] = { CLONE_NEWNS,  CLONE_NEWUSER, CLONE_NEWPID,   CLONE_NEWNET,
                                               CLONE_NEWIPC, CLONE_NEWUTS,  CLONE_NEWCGROUP };
        const SeccompFilter *f;
        Failure failure = {};
        char directory[4096];
        SeccompCache c;

        snprintf(directory, sizeof(directory), "%s/seccomp", getenv("AR_SOURCE_ROOT"));
        seccomp_cache_init(&c, directory);
        if (seccomp_cache_get(&c, "agent", &f, &failure))
                fail_msg("%s", failure.text);
        for (size_t i = 0; i < ELEMENTSOF(refused); i++)
                assert_int_equal(verdict(f, refused[i], 0, 0), EPERM);
        for (size_t i = 0; i < ELEMENTSOF(allowed); i++)
                assert_int_equal(verdict(f, allowed[i], 1, 0), 0);
        assert_int_equal(verdict(f, SYS_clone3, 0, 0), ENOSYS);
        assert_int_equal(verdict(f, 9999, 0, 0), ENOSYS);
        for (size_t i = 0; i < ELEMENTSOF(namespaces); i++)
                assert_int_equal(verdict(f, SYS_clone, namespaces[i] | SIGCHLD, 0), EPERM);
        assert_int_equal(verdict(f, SYS_clone,
                                 CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, 0),
                         0);
        for (uint64_t family = 0; family < 50; family++)
                assert_int_equal(verdict(f, SYS_socket, family, 0),
                                 family == AF_UNIX || family == AF_INET || family == AF_INET6 || family == AF_NETLINK
                                         ? 0
                                         : EAFNOSUPPORT);
        assert_int_equal(verdict(f, SYS_socket, UINT64_C(1) << 32 | 38, 0), EAFNOSUPPORT);
        assert_int_equal(verdict(f, SYS_ioctl, 0, TIOCSTI), EPERM);
        assert_int_equal(verdict(f, SYS_ioctl, 0, UINT64_C(7) << 32 | TIOCSTI), EPERM);
        assert_int_equal(verdict(f, SYS_ioctl, 0, TIOCLINUX), EPERM);
        assert_int_equal(verdict(f, SYS_ioctl, 0, TIOCGWINSZ), 0);
        seccomp_cache_deinit(&c);
}

static void test_other_abis_get_the_default(void **state) {
        struct seccomp_data data = { .nr = 1, .arch = AUDIT_ARCH_I386 };
        const SeccompFilter *f;
        Failure failure = {};
        char directory[4096];
        SeccompCache c;

        snprintf(directory, sizeof(directory), "%s/seccomp", getenv("AR_SOURCE_ROOT"));
        seccomp_cache_init(&c, directory);
        assert_int_equal(seccomp_cache_get(&c, "agent", &f, &failure), 0);
        assert_int_equal(bpf_run(&f->program, &data), SECCOMP_RET_ERRNO | ENOSYS);
        data.arch = TEST_ARCH;
        data.nr = 0x40000000 | 1;       /* x32 */
        assert_int_equal(bpf_run(&f->program, &data), SECCOMP_RET_ERRNO | ENOSYS);
        seccomp_cache_deinit(&c);
}

static void test_missing_profile_is_explained(void **state) {
        const SeccompFilter *f;
        Failure failure = {};
        SeccompCache c;

        seccomp_cache_init(&c, "/nonexistent");
        assert_int_equal(seccomp_cache_get(&c, "agent", &f, &failure), -ENOENT);
        assert_string_equal(failure.stage, "seccomp");
        assert_non_null(strstr(failure.text, "/nonexistent/agent.profile"));
        assert_int_equal(seccomp_cache_get(&c, "../agent", &f, &failure), -EINVAL);
        seccomp_cache_deinit(&c);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_parse),
                cmocka_unit_test(test_errors_name_the_line),
                cmocka_unit_test(test_bytes_are_bounded),
                cmocka_unit_test(test_shipped_profile),
                cmocka_unit_test(test_other_abis_get_the_default),
                cmocka_unit_test(test_missing_profile_is_explained),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

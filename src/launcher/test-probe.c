/*
 * Runs inside a sandbox and prints what the kernel answers to what must be refused, one "NAME=ERRNO" a line (0: it worked).
 * Static, so that it needs nothing of the sandbox but itself.
 */

#include <fcntl.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/macro.h"

static void say(const char *name, long r) {
        printf("%s=%d\n", name, r < 0 ? errno : 0);
}

static void say_clone3(void) {
        struct clone_args args = { .exit_signal = SIGCHLD };
        long r = syscall(SYS_clone3, &args, sizeof(args));

        if (r == 0)
                _exit(0);
        say("clone3", r);
}

static void say_clone(const char *name, unsigned long flags) {
        long r = syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);

        if (r == 0)
                _exit(0);
        say(name, r);
        if (r > 0)
                (void)waitpid((pid_t)r, NULL, 0);
}

static void say_socket(const char *name, int family) {
        int fd = socket(family, SOCK_DGRAM, 0);

        say(name, fd);
        if (fd >= 0)
                close(fd);
}

/* An abstract socket of the host, whose name is the argument. */
static void say_abstract(const char *name) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);

        memcpy(address.sun_path + 1, name, strlen(name));
        say("abstract", connect(fd, (struct sockaddr *)&address,
                                (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name))));
        close(fd);
}

int main(int argc, char **argv) {
        char byte = 0;

        say("io_uring_setup", syscall(SYS_io_uring_setup, 1, NULL));
        say("ptrace", syscall(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0));
        say("bpf", syscall(SYS_bpf, 0, NULL, 0));
        say("keyctl", syscall(SYS_keyctl, 0, 0, 0, 0, 0));
        say("add_key", syscall(SYS_add_key, "user", "x", "y", 1, -4));
        say("userfaultfd", syscall(SYS_userfaultfd, 0));
        say("mount", mount("none", "/tmp", "tmpfs", 0, NULL));
        say("umount", umount2("/tmp", MNT_DETACH));
        say("unshare", unshare(CLONE_NEWUSER));
        say("setns", syscall(SYS_setns, 0, 0));
        say("open_by_handle_at", syscall(SYS_open_by_handle_at, 0, NULL, 0));
        say("perf_event_open", syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0));
        say("chroot", syscall(SYS_chroot, "/tmp"));
        say("process_vm_readv", syscall(SYS_process_vm_readv, 1, NULL, 0, NULL, 0, 0));
        say("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
        say("unknown", syscall(2000));
        say_clone3();
        say_clone("clone", 0);
        say_clone("clone_newuser", CLONE_NEWUSER);
        say_clone("clone_newns", CLONE_NEWNS);
        say_socket("af_unix", AF_UNIX);
        say_socket("af_inet", AF_INET);
        say_socket("af_packet", AF_PACKET);
        say_socket("af_alg", 38);
        say_socket("af_vsock", 40);
        say("tiocsti", ioctl(0, TIOCSTI, &byte));
        say("tiocsti_high", syscall(SYS_ioctl, 0, 1UL << 32 | TIOCSTI, &byte));
        say("kill_init", kill(1, SIGKILL));
        say("init_mem", open("/proc/1/mem", O_RDONLY));
        say("setuid", setuid(0));
        say("mknod", syscall(SYS_mknodat, AT_FDCWD, "/tmp/node", 0020666, 0x103));
        if (argc > 1)
                say_abstract(argv[1]);
        return 0;
}

/* What a sandbox shows and refuses, seen from inside by real programs; as root's launcher and as a plain user's. */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "launcher/test-client.h"

static Client client;

static int setup_root(void **state) {
        client_start(&client, false, "  uid_min: 1000\n");
        *state = &client;
        return 0;
}

static int setup_plain(void **state) {
        client_start(&client, true, NULL);
        *state = &client;
        return 0;
}

static int teardown(void **state) {
        client_stop(*state);
        return 0;
}

static const char *out(const Run *run) {
        return (const char *)run->out.data + run->out.start;
}

/* Runs the script, which must succeed; the output is the caller's until the next call. */
static const char *run_ok(Client *c, const char *script) {
        static Run run;

        run_deinit(&run);
        client_run(c, &run, script);
        if (run.last.type != LAUNCH_EXITED)
                fail_msg("%s: %s", run.last.stage, run.last.text);
        if (run.last.how != LAUNCH_HOW_EXITED || run.last.value != 0)
                fail_msg("<%s> ended with %u %u: %s%s", script, run.last.how, run.last.value, out(&run), (char *)buf_data(&run.err));
        return out(&run);
}

static void expect(Client *c, const char *script, const char *wanted) {
        const char *said = run_ok(c, script);

        if (!streq(said, wanted))
                fail_msg("<%s> said <%s>, not <%s>", script, said, wanted);
}

static void test_identity(void **state) {
        Client *c = *state;
        char wanted[80];

        snprintf(wanted, sizeof(wanted), "%u %u\n", (unsigned)c->uid, (unsigned)c->uid);
        expect(c, "echo $(id -u) $(id -ru)", wanted);
        snprintf(wanted, sizeof(wanted), "%s/ws\n", c->dir);
        expect(c, "pwd", wanted);
        expect(c, "echo $HOME; stat -c '%a %u' ~ | sed \"s/ $(id -u)$/ me/\"", "/home/agent\n700 me\n");
        expect(c, "umask; ulimit -c; ps ax -o comm | grep -c .; echo $$", "0022\n0\n4\n2\n");
}

static void test_no_privileges(void **state) {
        expect(*state, "sed -n 's/^\\(Cap[A-Z][a-z]*\\|NoNewPrivs\\|Seccomp\\):[[:space:]]*/\\1 /p' /proc/self/status",
               "CapInh 0000000000000000\nCapPrm 0000000000000000\nCapEff 0000000000000000\nCapBnd 0000000000000000\nCapAmb 0000000000000000\n"
               "NoNewPrivs 1\nSeccomp 2\n");
}

static void test_descriptors(void **state) {
        /* 3 is ls's own. */
        expect(*state, "ls /proc/self/fd | tr '\\n' ' '", "0 1 2 3 ");
}

static void test_view(void **state) {
        Client *c = *state;
        char script[1024], wanted[256];

        expect(c, "ls -A / | tr '\\n' ' ' | sed 's/lib[^ ]* //g; s/tmp .*usr/tmp usr/'", "bin dev etc home proc run sbin tmp usr ");
        expect(c,
               "for p in /root /var /boot /sys /srv /opt /etc/shadow /etc/gshadow /etc/agent-router /etc/sudoers "
               "/run/systemd /run/user /dev/sda /dev/kmsg /dev/mem; "
               "do [ -e $p ] && echo $p; done; ls /home",
               "agent\n");
        snprintf(script, sizeof(script), "ls -A %s; ls -A /run /dev/shm; ls -A /tmp", c->dir);
        snprintf(wanted, sizeof(wanted), "ws\n/dev/shm:\n\n/run:\n%s\n", c->dir + strlen("/tmp/"));
        expect(c, script, wanted);
}

static void test_read_only_system(void **state) {
        expect(*state,
               "for d in / /usr /usr/bin /etc /etc/ssl /home /dev /proc; do touch $d/x 2>/dev/null && echo wrote $d; "
               "done; echo x 2>/dev/null > /etc/hosts && echo hosts; "
               "rm -f /etc/passwd 2>/dev/null; test -s /etc/passwd && echo kept",
               "kept\n");
}

static void test_writable_places(void **state) {
        Client *c = *state;
        struct stat st;

        expect(c, "for d in . ~ /tmp /run /dev/shm; do echo x > $d/file && mkdir $d/dir && mv $d/file $d/dir/file && cat $d/dir/file; done; "
               "printf '#!/bin/sh\\necho ran' > /tmp/p; chmod +x /tmp/p; /tmp/p; echo x > /dev/null; head -c 3 /dev/zero | wc -c", "x\nx\nx\nx\nx\nran\n3\n");
        assert_int_equal(stat(client_path(c, "ws/dir/file"), &st), 0);
        assert_int_equal(st.st_uid, c->uid);
        /* The next task sees the workspace, but neither home nor scratch of the last. */
        expect(c, "ls dir; ls -A ~ /tmp/dir /run /dev/shm 2>/dev/null; true", "file\n/dev/shm:\n\n/home/agent:\n\n/run:\n");
}

static void test_homes_are_apart(void **state) {
        Client *c = *state;
        Id attempt;
        Message m;
        Run run;

        client_spawn(c, &attempt, "echo secret > ~/token; echo ready; while [ ! -e done ]; do sleep 0.02; done");
        do
                assert_true(client_receive(c, &m));
        while (m.type != LAUNCH_OUTPUT);
        client_ack(c, &attempt, 1, m.n);
        expect(c, "find / -name token -not -path '/proc/*' 2>/dev/null; for p in /proc/[0-9]*; do cat $p/root/home/agent/token 2>/dev/null; done; true", "");
        client_put_file(c, "ws/done", "", 0644);
        client_collect(c, &attempt, &run);
        run_deinit(&run);
        client_tell(c, LAUNCH_FORGET, &attempt, 0);
}

static void test_stdin(void **state) {
        Client *c = *state;
        _cleanup_(buf_deinit) Buf b = {};
        _cleanup_close_ int sealed = -1, open_fd = memfd_create("open", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        Id attempt;
        Run run;

        assert_int_equal(fd_new_sealed_memfd("prompt", "a prompt\nof two lines", 21, &sealed), 0);
        client_spawn_begin(c, &b, &attempt, "cat; echo .");
        client_send(c, &b, sealed);
        client_collect(c, &attempt, &run);
        assert_string_equal(out(&run), "a prompt\nof two lines.\n");
        run_deinit(&run);
        client_tell(c, LAUNCH_FORGET, &attempt, 0);
        buf_deinit(&b);
        client_spawn_begin(c, &b, &attempt, "cat");
        client_send(c, &b, open_fd);
        client_collect(c, &attempt, &run);
        assert_int_equal(run.last.type, LAUNCH_SPAWN_FAILED);
        assert_string_equal(run.last.stage, "stdin");
        run_deinit(&run);
        expect(c, "cat; echo empty", "empty\n");
}

/* The number after NAME= in the probe's output. */
static int said(const char *text, const char *name) {
        char key[64];
        const char *at;
        int v = 0;

        snprintf(key, sizeof(key), "\n%s=", name);
        at = strstr(text, key);
        if (!at || sscanf(at + strlen(key), "%d", &v) != 1)
                fail_msg("the probe did not say %s: %s", name, text);
        return v;
}

static void copy_probe(Client *c) {
        _cleanup_free_ char *data = NULL;
        _cleanup_close_ int fd = open(client_path(c, "ws/probe"), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
        size_t n;

        assert_true(fd >= 0);
        assert_int_equal(fd_read_file(AT_FDCWD, getenv("AR_PROBE"), MIB(16), &data, &n), 0);
        assert_int_equal(fd_write_all(fd, data, n), 0);
}

static void test_refused_calls(void **state) {
        static const char *const refused[] = {
                "io_uring_setup", "ptrace", "bpf", "keyctl", "add_key", "userfaultfd", "mount", "umount", "unshare", "setns", "open_by_handle_at",
                "perf_event_open", "chroot", "process_vm_readv", "fsopen", "clone_newuser", "clone_newns", "tiocsti", "tiocsti_high",
        };
        Client *c = *state;
        const char *text;

        copy_probe(c);
        text = run_ok(c, "echo; ./probe");
        for (size_t i = 0; i < ELEMENTSOF(refused); i++)
                if (said(text, refused[i]) != EPERM)
                        fail_msg("%s answers %d", refused[i], said(text, refused[i]));
        assert_int_equal(said(text, "clone3"), ENOSYS);
        assert_int_equal(said(text, "unknown"), ENOSYS);
        assert_int_equal(said(text, "clone"), 0);
        assert_int_equal(said(text, "af_unix"), 0);
        assert_int_equal(said(text, "af_inet"), 0);
        assert_int_equal(said(text, "af_packet"), EAFNOSUPPORT);
        assert_int_equal(said(text, "af_alg"), EAFNOSUPPORT);
        assert_int_equal(said(text, "af_vsock"), EAFNOSUPPORT);
        /* In a user namespace root is not mapped. */
        assert_true(said(text, "setuid") == EPERM || said(text, "setuid") == EINVAL);
        assert_true(said(text, "init_mem") == ENOENT || said(text, "init_mem") == EACCES);
        assert_true(said(text, "mknod") == EPERM || said(text, "mknod") == EACCES);
}

/* A socket of the host in the abstract namespace, which no mount hides. */
static void test_abstract_sockets(void **state) {
        Client *c = *state;
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        char name[64], script[128];
        const char *text, *at = strstr(c->capabilities, " landlock.");
        int abi = at ? at[10] - '0' : 0;

        snprintf(name, sizeof(name), "test-launcher-%d", (int)getpid());
        memcpy(address.sun_path + 1, name, strlen(name));
        assert_int_equal(bind(fd, (struct sockaddr *)&address,
                              (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name))),
                         0);
        assert_int_equal(listen(fd, 8), 0);
        copy_probe(c);
        snprintf(script, sizeof(script), "echo; ./probe %s", name);
        text = run_ok(c, script);
        if (abi < 6) {
                print_message("skipped: Landlock ABI %d does not scope abstract sockets\n", abi);
                skip();
        }
        assert_int_equal(said(text, "abstract"), EPERM);
}

static void test_no_network(void **state) {
        Client *c = *state;
        Buf b = BUF_INIT(LAUNCH_MESSAGE_MAX);
        Id attempt;
        Run run;

        /* Without LAUNCH_ATTR_NETWORK there is none. */
        assert_int_equal(id_new(&attempt), 0);
        assert_int_equal(launch_begin(&b, LAUNCH_SPAWN), 0);
        assert_int_equal(launch_add_id(&b, LAUNCH_ATTR_ATTEMPT, &attempt), 0);
        client_add_str(&b, LAUNCH_ATTR_AGENT, "exec");
        client_add_str(&b, LAUNCH_ATTR_ARGV, "/bin/sh");
        client_add_str(&b, LAUNCH_ATTR_ARGV, "-c");
        client_add_str(&b, LAUNCH_ATTR_ARGV, "pwd; sed 1,2d /proc/net/dev | cut -d: -f1 | tr -d ' '; cat /proc/net/route | wc -l");
        client_add_str(&b, LAUNCH_ATTR_ENV, "PATH=/usr/bin:/bin");
        client_send(c, &b, -1);
        buf_deinit(&b);
        client_collect(c, &attempt, &run);
        assert_string_equal(out(&run), "/home/agent\nlo\n1\n");
        run_deinit(&run);
        client_tell(c, LAUNCH_FORGET, &attempt, 0);
}

static void test_tools(void **state) {
        Client *c = *state;

        if (access("/usr/bin/node", X_OK) == 0)
                expect(c, "node -e 'const {Worker}=require(\"worker_threads\"); new Worker(\"console.log(6*7)\",{eval:true})'", "42\n");
        else
                print_message("no node here\n");
        if (access("/usr/bin/python3", X_OK) == 0)
                expect(c,
                       "/usr/bin/python3 -c 'import threading,subprocess; t=threading.Thread(target=lambda: "
                       "print(subprocess.check_output([\"echo\",\"42\"]).decode(),end=\"\")); "
                       "t.start(); t.join()'",
                       "42\n");
        else
                print_message("no python3 here\n");
        if (access("/usr/bin/git", X_OK) == 0)
                expect(c,
                       "git init -q r && cd r && echo x > f && git add f && git -c user.name=a -c user.email=b commit "
                       "-q -m first && git log --format=%s",
                       "first\n");
}

static void expect_failed(Client *c, LaunchAttr attr, const void *data, size_t n, const char *stage, const char *text) {
        _cleanup_(buf_deinit) Buf b = {};
        Id attempt;
        Run run;

        client_spawn_begin(c, &b, &attempt, "echo must not run > ran");
        /* The workspace of client_spawn_begin() may stand once only. */
        if (attr == LAUNCH_ATTR_WORKSPACE) {
                buf_deinit(&b);
                b = (Buf)BUF_INIT(LAUNCH_MESSAGE_MAX);
                assert_int_equal(launch_begin(&b, LAUNCH_SPAWN), 0);
                assert_int_equal(launch_add_id(&b, LAUNCH_ATTR_ATTEMPT, &attempt), 0);
                client_add_str(&b, LAUNCH_ATTR_AGENT, "exec");
                client_add_str(&b, LAUNCH_ATTR_ARGV, "/bin/true");
        }
        assert_int_equal(launch_add(&b, attr, data, n), 0);
        client_send(c, &b, -1);
        client_collect(c, &attempt, &run);
        if (run.last.type != LAUNCH_SPAWN_FAILED || !streq(run.last.stage, stage) || !strstr(run.last.text, text))
                fail_msg("attribute %d: type %d, stage <%s>, text <%s>; expected <%s>, <%s>", attr, run.last.type, run.last.stage, run.last.text, stage, text);
        run_deinit(&run);
        assert_int_equal(access(client_path(c, "ws/ran"), F_OK), -1);
}

static void expect_workspace_failed(Client *c, const char *path, const char *text) {
        expect_failed(c, LAUNCH_ATTR_WORKSPACE, path, strlen(path), "workspace", text);
}

static void test_workspaces(void **state) {
        Client *c = *state;

        expect_workspace_failed(c, client_path(c, "outside"), "not below a workspace root");
        expect_workspace_failed(c, "/etc", "not below a workspace root");
        expect_workspace_failed(c, client_path(c, "ws/none"), "does not exist");
        expect_workspace_failed(c, client_path(c, "ws/../outside"), "not an absolute path");
        assert_int_equal(symlink("../outside", client_path(c, "ws/link")), 0);
        expect_workspace_failed(c, client_path(c, "ws/link"), "leads out of its root");
        assert_int_equal(symlink("/", client_path(c, "ws/rootlink")), 0);
        expect_workspace_failed(c, client_path(c, "ws/rootlink"), "leads out of its root");
        assert_int_equal(symlink("/proc/self/root", client_path(c, "ws/magic")), 0);
        expect_workspace_failed(c, client_path(c, "ws/magic"), "ws/magic");
        client_put_file(c, "ws/file", "", 0644);
        expect_workspace_failed(c, client_path(c, "ws/file"), "not a folder");
        if (geteuid() == 0) {
                assert_int_equal(mkdir(client_path(c, "ws/locked"), 0755), 0);  /* root's */
                expect_workspace_failed(c, client_path(c, "ws/locked"), "may not read and write");
        } else
                print_message("needs root: a folder of somebody else\n");
}

static void test_read_only_paths(void **state) {
        Client *c = *state;
        _cleanup_(buf_deinit) Buf b = {};
        char script[512];
        Id attempt;
        Run run;

        client_put_file(c, "outside/data", "shown", 0644);
        snprintf(script, sizeof(script), "cat %s/outside/data; touch %s/outside/x 2>/dev/null || echo refused; touch here && echo wrote", c->dir, c->dir);
        client_spawn_begin(c, &b, &attempt, script);
        client_add_str(&b, LAUNCH_ATTR_READ_ONLY, client_path(c, "outside"));
        client_send(c, &b, -1);
        client_collect(c, &attempt, &run);
        assert_string_equal(out(&run), "shownrefused\nwrote\n");
        run_deinit(&run);
        client_tell(c, LAUNCH_FORGET, &attempt, 0);

        static const char *const ours[] = { "state", "state/tasks", "run", "config", "config/agent-router.yaml", "credentials" };
        for (size_t i = 0; i < ELEMENTSOF(ours); i++) {
                const char *path = client_path(c, ours[i]);

                expect_failed(c, LAUNCH_ATTR_READ_ONLY, path, strlen(path), "read-only", "");
        }
        /* Around one of ours, and through a link. */
        expect_failed(c, LAUNCH_ATTR_READ_ONLY, c->dir, strlen(c->dir), "read-only", "belongs to agent-router itself");
        assert_int_equal(symlink("../config", client_path(c, "outside/link")), 0);
        expect_failed(c, LAUNCH_ATTR_READ_ONLY, client_path(c, "outside/link"), strlen(client_path(c, "outside/link")),
                      "read-only", "belongs to agent-router itself");
        expect_failed(c, LAUNCH_ATTR_READ_ONLY, "/proc/self", 10, "read-only", "");
        expect_failed(c, LAUNCH_ATTR_READ_ONLY, "/nonexistent", 12, "read-only", "No such file");
}

static void test_home_files(void **state) {
        Client *c = *state;
        _cleanup_(buf_deinit) Buf b = {};
        static const char seed[] = "\x80\x01\0\0.codex/auth.json\0{\"k\":1}", escape[] = "\x80\x01\0\0../../escape\0x";
        Id attempt;
        Run run;

        client_spawn_begin(c, &b, &attempt, "cat ~/.codex/auth.json; stat -c ' %a' ~/.codex/auth.json; echo more >> ~/.codex/auth.json && echo mine");
        assert_int_equal(launch_add(&b, LAUNCH_ATTR_HOME_FILE, seed, sizeof(seed) - 1), 0);
        client_send(c, &b, -1);
        client_collect(c, &attempt, &run);
        assert_string_equal(out(&run), "{\"k\":1} 600\nmine\n");
        run_deinit(&run);
        client_tell(c, LAUNCH_FORGET, &attempt, 0);
        expect_failed(c, LAUNCH_ATTR_HOME_FILE, escape, sizeof(escape) - 1, "home", "leaves it");
}

static void test_users(void **state) {
        Client *c = *state;
        uint32_t uids[] = { 0, 1, 999, 4000000000u };

        if (c->plain) {
                expect_failed(c, LAUNCH_ATTR_UID, &uids[0], 4, "user", "can't run a task as uid 0");
                expect_failed(c, LAUNCH_ATTR_UID, &uids[3], 4, "user", "can't run a task as");
                return;
        }
        expect_failed(c, LAUNCH_ATTR_UID, &uids[0], 4, "user", "never runs as root");
        expect_failed(c, LAUNCH_ATTR_UID, &uids[1], 4, "user", "below sandbox.uid_min");
        expect_failed(c, LAUNCH_ATTR_UID, &uids[2], 4, "user", "below sandbox.uid_min");
        expect_failed(c, LAUNCH_ATTR_UID, &uids[3], 4, "user", "no account");
}

static void test_credentials(void **state) {
        Client *c = *state;
        _cleanup_(buf_deinit) Buf b = {};
        Id attempt;
        Run run;

        client_put_file(c, "credentials/codex.key", "s3cret value\n", 0400);
        client_spawn_begin(c, &b, &attempt, "echo \"<$CODEX_API_KEY>\"; ls -a /run");
        client_add_str(&b, LAUNCH_ATTR_ENV_CREDENTIAL, "CODEX_API_KEY=codex.key");
        client_send(c, &b, -1);
        client_collect(c, &attempt, &run);
        assert_string_equal(out(&run), "<s3cret value>\n.\n..\n");
        run_deinit(&run);
        client_tell(c, LAUNCH_FORGET, &attempt, 0);
        expect_failed(c, LAUNCH_ATTR_ENV_CREDENTIAL, "K=none.key", 10, "credential", "LoadCredential=none.key");
        expect_failed(c, LAUNCH_ATTR_ENV_CREDENTIAL, "K=../x", 6, "credential", "plain file name");
}

static void test_failures_name_the_way_out(void **state) {
        Client *c = *state;
        Buf b = BUF_INIT(LAUNCH_MESSAGE_MAX);
        Id attempt;
        Run run;

        expect_failed(c, LAUNCH_ATTR_REQUIRE, "gpu.nvidia", 10, "require", "sandbox.require wants gpu.nvidia");
        expect_failed(c, LAUNCH_ATTR_SECCOMP, "none", 4, "seccomp", "none.profile");
        if (!client_has(c, "cgroup.memory"))
                expect_failed(c, LAUNCH_ATTR_REQUIRE, "cgroup.memory", 13, "require", "Delegate=yes");
        assert_int_equal(id_new(&attempt), 0);
        assert_int_equal(launch_begin(&b, LAUNCH_SPAWN), 0);
        assert_int_equal(launch_add_id(&b, LAUNCH_ATTR_ATTEMPT, &attempt), 0);
        client_add_str(&b, LAUNCH_ATTR_AGENT, "exec");
        client_add_str(&b, LAUNCH_ATTR_ARGV, "/opt/none/bin/agent");
        client_add_str(&b, LAUNCH_ATTR_REQUIRE, "seccomp");
        client_send(c, &b, -1);
        buf_deinit(&b);
        client_collect(c, &attempt, &run);
        assert_int_equal(run.last.type, LAUNCH_SPAWN_FAILED);
        assert_string_equal(run.last.stage, "exec");
        assert_int_equal(run.last.error, ENOENT);
        assert_non_null(strstr(run.last.text, "read_only"));
        run_deinit(&run);
}

/* Wherever the two processes stand that share the launcher's memory: it goes on, and others' starts are whole. */
static void test_kill_at_every_stage(void **state) {
        Client *c = *state;

        for (unsigned i = 0; i < 150; i++) {
                uint64_t until;
                Id killed, other;
                Run run;

                client_spawn(c, &killed, "sleep 1000.9951");
                until = clock_monotonic_us() + (uint64_t)i * 40;
                while (clock_monotonic_us() < until)
                        ;
                client_tell(c, LAUNCH_KILL, &killed, 0);
                client_spawn(c, &other, "echo whole");
                client_collect(c, &other, &run);
                assert_int_equal(run.last.type, LAUNCH_EXITED);
                assert_string_equal((char *)buf_data(&run.out), "whole\n");
                run_deinit(&run);
                client_tell(c, LAUNCH_FORGET, &killed, 0);
                client_tell(c, LAUNCH_FORGET, &other, 0);
        }
        client_wait_process("1000.9951", false);
        client_disconnect(c);
        client_connect(c);
        assert_int_equal(c->n_listed, 0);
}

/* A container's /proc, masked: a plain user gets no fresh one. It is said, and what is shown instead is closed. */
static void test_masked_proc(void **state) {
        static const char *const environment[] = { "SECRET=of-the-host", NULL };
        Client c = { .masked = true };
        char script[256];
        const char *text;
        pid_t pid;

        if (geteuid() != 0) {
                print_message("skipped: needs root to mask /proc\n");
                skip();
        }
        client_start_limited(&c, true, NULL);
        if (client_has(&c, "proc.fresh")) {
                /* Any other proc that is mounted in full, such as a chroot's, makes up for the masked one. */
                client_stop(&c);
                print_message("skipped: another /proc is mounted on this machine\n");
                skip();
        }
        expect_failed(&c, LAUNCH_ATTR_REQUIRE, "proc.fresh", 10, "require", "masked");
        pid = fork();
        if (pid == 0) {
                if (setgid(c.uid) < 0 || setuid(c.uid) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
                        _exit(126);
                execle("/bin/sleep", "sleep", "1000.4477", NULL, environment);
                _exit(127);
        }
        assert_true(pid > 0);
        client_wait_process("1000.4477", true);
        snprintf(script, sizeof(script),
                 "cat /proc/%d/environ 2>/dev/null; ls /proc/%d/cwd/ 2>/dev/null; readlink /proc/%d/fd/0; "
                 "grep -c '^Name:' /proc/self/status; kill %d 2>/dev/null; node -v >/dev/null 2>&1; echo done",
                 pid, pid, pid, pid);
        text = run_ok(&c, script);
        if (client_has(&c, "landlock"))
                assert_string_equal(text, "1\ndone\n");
        else
                assert_null(strstr(text, "SECRET"));
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        client_stop(&c);
}

int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_identity),         cmocka_unit_test(test_no_privileges),
                cmocka_unit_test(test_descriptors),      cmocka_unit_test(test_view),
                cmocka_unit_test(test_read_only_system), cmocka_unit_test(test_writable_places),
                cmocka_unit_test(test_homes_are_apart),  cmocka_unit_test(test_stdin),
                cmocka_unit_test(test_refused_calls),    cmocka_unit_test(test_abstract_sockets),
                cmocka_unit_test(test_no_network),       cmocka_unit_test(test_tools),
                cmocka_unit_test(test_workspaces),       cmocka_unit_test(test_read_only_paths),
                cmocka_unit_test(test_home_files),       cmocka_unit_test(test_users),
                cmocka_unit_test(test_credentials),      cmocka_unit_test(test_failures_name_the_way_out),
                cmocka_unit_test(test_kill_at_every_stage), cmocka_unit_test(test_masked_proc),
        };

        if (argc > 1 && streq(argv[1], "plain"))
                return cmocka_run_group_tests_name("plain", tests, setup_plain, teardown);
        if (geteuid() != 0) {
                printf("1..0 # SKIP the system instance needs root\n");
                return 0;
        }
        return cmocka_run_group_tests_name("root", tests, setup_root, teardown);
}

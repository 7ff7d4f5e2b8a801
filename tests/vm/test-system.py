#!/usr/bin/env python3
"""agent-router as an administrator has it: the package, installed on Debian with systemd as PID 1.

One boot serves all cases; they come in the order of a machine's life, from the installation to the purge.
"""

import json
import re
import sys

import deb
import guest
from guest import CONTROL, TICKING, finish, get, main_pid, submit, ticks_are_whole, wait_for, wait_for_tick
from image import image
from tap import Failed, expect, main
from vm import Vm, make_payload

WORK = "/srv/agent-router/work"
UNITS = "agent-routerd.service agent-router-launcher.service agent-routerd-http.socket agent-routerd-control.socket " \
        "agent-router-launcher.socket agent-router-key.service"


class System:
    def __init__(self, vm, tap):
        self.vm, self.tap = vm, tap

    def run(self, script, **options):
        return self.vm.run(script, **options)

    def ticking(self, *options):
        self.run(f"rm -f {WORK}/go", check=True)
        task = submit(self.vm, TICKING, "--workspace", WORK, *options)
        wait_for_tick(self.vm, task)
        return task

    def release(self):
        self.run(f"touch {WORK}/go", check=True)

    # ---- installation ----

    def test_the_package_installs(self):
        status, out = self.run("dpkg -i /payload/agent-router.deb", seconds=300)
        expect(status == 0, out)
        guest.configure(self.vm)
        status, out = self.run("systemctl is-active agent-routerd agent-router-launcher "
                               "agent-routerd-http.socket agent-routerd-control.socket agent-router-launcher.socket")
        expect(status == 0, out + self.run("journalctl -b -u 'agent-router*' --no-pager | tail -40")[1])

    def test_users_sockets_and_a_sealed_key(self):
        _, out = self.run("getent passwd agent-router agent-router-worker | wc -l; stat -c '%U:%G %a' "
                          f"{CONTROL} /run/agent-router-launcher/launcher.sock /var/lib/agent-router "
                          "/etc/credstore.encrypted/agent-router.store.key")
        expect(out.split("\n")[:5] == ["2", "root:agent-router 660", "agent-router:agent-router 600",
                                       "agent-router:agent-router 700", "root:root 600"], out)
        _, out = self.run("head -c 300 /etc/credstore.encrypted/agent-router.store.key | grep -cE '^[0-9a-f]{64}'; "
                          "systemd-creds decrypt --name=store.key /etc/credstore.encrypted/agent-router.store.key - 2>/dev/null"
                          " | grep -cxE '[0-9a-f]{64}'")
        expect(out.split() == ["0", "1"], f"the key is not sealed, or not a key: {out}")

    def test_the_key_is_nowhere_in_the_clear(self):
        _, out = self.run(
            "key=$(systemd-creds decrypt --name=store.key /etc/credstore.encrypted/agent-router.store.key - 2>/dev/null)\n"
            "pid=$(systemctl show --value -p MainPID agent-routerd)\n"
            "cat /proc/$pid/cmdline /proc/$pid/environ | tr '\\0' '\\n' | grep -c $key\n"
            "grep -rlF $key /var/lib/agent-router /etc | wc -l\n"
            "head -c 16 /var/lib/agent-router/agent-router.db | grep -c 'SQLite format 3'")
        expect(out.split() == ["0", "0", "0"], out)

    def test_units_verify_and_score(self):
        _, out = self.run(f"systemd-analyze verify --man=no {UNITS} 2>&1 | grep agent-router")
        expect(out == "", out)
        _, out = self.run("systemd-analyze security --no-pager agent-routerd.service | tail -1")
        score = re.search(r"(\d+\.\d+)", out)
        self.tap.note(f"systemd-analyze security agent-routerd.service: {score[1] if score else out}")
        expect(score and float(score[1]) <= 1.5, out)

    def test_the_daemon_is_ready_and_unprivileged(self):
        _, out = self.run("curl -s -o /dev/null -w '%{http_code}\\n' http://127.0.0.1:8377/readyz; "
                          "curl -s -o /dev/null -w '%{http_code}\\n' http://127.0.0.1:8377/tasks; "
                          "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/$(systemctl show --value -p MainPID agent-routerd)/status"
                          " | tr -s '\\t' ' '")
        expect(out.splitlines()[:2] == ["200", "401"], out)
        expect({"CapEff: 0000000000000000", "CapBnd: 0000000000000000", "NoNewPrivs: 1", "Seccomp: 2"} <= set(out.splitlines()), out)

    # ---- a task's life ----

    def test_submit_and_wait(self):
        status, out = self.run("echo 'echo hello from $(id -un) in $(pwd)' | agent-routerctl submit --agent shell --wait -", seconds=120)
        expect(status == 0 and "hello from agent-router-worker" in out, f"{status}: {out}")

    def test_a_key_opens_the_rest_api(self):
        status, out = self.run(
            "key=$(agent-routerctl key create --name vm) && curl -s -H \"Authorization: Bearer $key\" "
            "-H 'Content-Type: application/json' -d '{\"prompt\":\"echo over $((40 + 2))\",\"agent\":\"shell\"}' http://127.0.0.1:8377/tasks")
        expect(status == 0, out)
        task = finish(self.vm, json.loads(out)["id"])
        expect(task["state"] == "succeeded" and task["principal"].startswith("key:vm/") and task["result"]["text"].strip() == "over 42", f"{task}")

    def test_the_journal_has_fields_and_explanations(self):
        task = submit(self.vm, "echo secret-of-the-prompt")
        finish(self.vm, task)
        wait_for(self.vm, f"journalctl --sync; journalctl -o cat TASK_ID={task} MESSAGE_ID=7c1d6e3fb0a14d0c9d5e0a4b7be30004 | grep -q .")
        _, out = self.run(f"journalctl -o json TASK_ID={task}")
        entries = [json.loads(line) for line in out.splitlines()]
        for message_id in ("7c1d6e3fb0a14d0c9d5e0a4b7be30003", "7c1d6e3fb0a14d0c9d5e0a4b7be30004"):
            entry = next((e for e in entries if e.get("MESSAGE_ID") == message_id), None)
            expect(entry, f"no entry with MESSAGE_ID {message_id}:\n{out}")
            expect(entry.get("AGENT") == "shell" and entry.get("PRINCIPAL") == "uid:0", f"{entry}")
        expect("secret-of-the-prompt" not in self.run("journalctl -b -o json | grep secret-of-the-prompt")[1],
               "a prompt is in the journal")
        _, out = self.run(f"journalctl -x TASK_ID={task}")
        expect(f"Subject: Task {task} has ended" in out, out)

    # ---- users ----

    def test_two_users_can_not_reach_each_other(self):
        self.run("for u in alice bob; do useradd -m -G agent-router $u && chmod 0700 /home/$u && "
                 "runuser -u $u -- sh -c 'echo secret-of-'$u' >~/secret'; done", check=True)
        task = submit(self.vm, "id -un; cat secret; cat /home/bob/secret; ls /home/bob", "--workspace", "/home/alice", user="alice")
        done = finish(self.vm, task)
        text = json.dumps(done)
        expect("secret-of-alice" in text and "alice\\n" in text, f"alice's task does not reach her own home: {text}")
        expect("secret-of-bob" not in text, f"alice's task read bob's file: {text}")
        status, out = self.run("runuser -u bob -- agent-routerctl get " + task)
        expect(status != 0 and "secret-of-alice" not in out, f"bob reads alice's task: {out}")
        _, out = self.run(f"runuser -u bob -- curl -s -o /dev/null -w '%{{http_code}}' --unix-socket {CONTROL} http://localhost/tasks/{task}")
        expect(out == "404", out)
        _, out = self.run("runuser -u bob -- agent-routerctl list --json")
        expect(task not in out, "bob sees alice's task in his list")

    def test_another_users_workspace_is_refused(self):
        status, out = self.run("echo 'cat secret' | runuser -u alice -- agent-routerctl submit --agent shell --workspace /home/bob --wait --json -",
                               seconds=120)
        expect(status != 0 and "secret-of-bob" not in out, f"{status}: {out}")
        expect("/home/bob" in out or "workspace" in out, f"the refusal does not say what is wrong: {out}")
        self.tap.note("refused: " + (re.search(r'"detail":\s*"([^"]+)"', out) or [None, out.strip()[-300:]])[1])

    def test_a_stranger_has_no_control_socket(self):
        status, out = self.run("useradd -m mallory; runuser -u mallory -- agent-routerctl list")
        expect(status != 0, out)

    # ---- limits ----

    def test_a_memory_hog_is_stopped(self):
        pids = main_pid(self.vm, "agent-routerd"), main_pid(self.vm, "agent-router-launcher")
        task = finish(self.vm, submit(self.vm, "exec tail /dev/zero"), 180)
        expect(task["reason"] == "out_of_memory", f"{task['state']} {task['reason']} {task['detail']}")
        self.tap.note(f"memory hog: {task['reason']}: {task['detail']}; peak {task['attempts'][0].get('memory_peak_bytes')}")
        expect(pids == (main_pid(self.vm, "agent-routerd"), main_pid(self.vm, "agent-router-launcher")), "a service died of it")

    def test_a_fork_bomb_is_stopped(self):
        # As many as it can get at once, each of which would go on; then the count that it got to.
        task = submit(self.vm, "f() { f & f & wait; }; f 2>/dev/null; exit 3", "--timeout", "20s")
        wait_for(self.vm, f"agent-routerctl get --json {task} | grep -q '\"running\"\\|finished'", 60)
        done = finish(self.vm, task, 120)
        self.tap.note(f"fork bomb: {done['state']}, {done['reason']}: {done['detail']}")
        expect(done["state"] in ("failed", "timed_out", "dead"), done["state"])
        expect("process" in json.dumps(done), f"nothing says that it hit its limit of processes: {done}")
        wait_for(self.vm, "[ $(pgrep -c -u agent-router-worker) = 0 ]")
        status, out = self.run("echo 'echo alive' | agent-routerctl submit --agent shell --wait -", seconds=120)
        expect(status == 0 and "alive" in out, f"no task runs after it: {out}")

    # ---- restarts ----

    def test_a_restart_leaves_the_task_alone(self):
        task, pid = self.ticking(), main_pid(self.vm, "agent-router-launcher")
        before = main_pid(self.vm, "agent-routerd")
        self.run("systemctl restart agent-routerd", check=True, seconds=120)
        expect(before != main_pid(self.vm, "agent-routerd"), "the daemon was not restarted")
        self.release()
        done = finish(self.vm, task)
        ticks_are_whole(done)
        expect(len(done["attempts"]) == 1 and pid == main_pid(self.vm, "agent-router-launcher"), f"{done['attempts']}")

    def test_a_sigkill_leaves_the_task_alone(self):
        task = self.ticking()
        for _ in range(6):  # more than systemd's default start limit
            before = main_pid(self.vm, "agent-routerd")
            self.run("systemctl kill -s KILL agent-routerd", check=True)
            wait_for(self.vm, f"systemctl is-active -q agent-routerd && [ $(systemctl show --value -p MainPID agent-routerd) != {before} ]", 90)
        self.release()
        ticks_are_whole(finish(self.vm, task))

    def test_a_stop_leaves_the_agents_and_says_so(self):
        task = self.ticking()
        self.run("systemctl stop agent-routerd-http.socket agent-routerd-control.socket agent-routerd", check=True, seconds=90)
        _, out = self.run("systemctl is-active agent-routerd; pgrep -u agent-router-worker -c sh")
        expect(out.split()[0] == "inactive" and int(out.split()[1]) > 0, f"the agent is gone: {out}")
        _, out = self.run("journalctl -b -o cat MESSAGE_ID=7c1d6e3fb0a14d0c9d5e0a4b7be30002 | tail -1")
        expect(re.search(r"agent|task", out), f"the journal does not say that agents go on: {out}")
        self.tap.note("journal at the stop: " + out.strip())
        self.run("systemctl start agent-routerd", check=True, seconds=120)
        self.release()
        ticks_are_whole(finish(self.vm, task))

    def test_an_upgrade_in_mid_task(self):
        task = self.ticking()
        daemon, launcher = main_pid(self.vm, "agent-routerd"), main_pid(self.vm, "agent-router-launcher")
        status, out = self.run("dpkg -i /payload/agent-router-next.deb", seconds=300)
        expect(status == 0, out)
        expect(self.run("dpkg-query -W -f '${Version}' agent-router")[1] == "99.0", "the upgrade did not take")
        expect(main_pid(self.vm, "agent-routerd") not in ("0", daemon), "the daemon was not restarted")
        expect(main_pid(self.vm, "agent-router-launcher") == launcher, "the launcher was restarted: " + out)
        self.release()
        done = finish(self.vm, task)
        ticks_are_whole(done)
        expect(len(done["attempts"]) == 1, f"{done['attempts']}")

    def test_stopping_the_launcher_ends_the_agents(self):
        task = self.ticking()
        self.run("systemctl stop agent-router-launcher", check=True, seconds=90)
        _, out = self.run("pgrep -u agent-router-worker -a")
        expect(out == "", f"agents are left: {out}")
        done = finish(self.vm, task)
        expect(done["state"] in ("failed", "dead"), f"{done['state']}: {done['reason']}")
        self.tap.note(f"launcher stopped: {done['state']}, {done['reason']}: {done['detail']}")
        # Its socket starts it again for the next task.
        status, out = self.run("echo 'echo again' | agent-routerctl submit --agent shell --wait -", seconds=120)
        expect(status == 0 and "again" in out, out)

    def test_a_launcher_that_dies_is_an_attempt_lost_and_tried_again(self):
        task = self.ticking("--max-attempts", "2", "--backoff", "1s")
        self.run("systemctl kill -s KILL --kill-who=all agent-router-launcher", check=True)
        wait_for(self.vm, f"agent-routerctl get --json {task} | jq -e '.attempts | length == 2' >/dev/null", 90)
        self.release()
        done = finish(self.vm, task)
        expect(done["state"] == "succeeded" and [a["outcome"] for a in done["attempts"]] == ["lost", "succeeded"], f"{done}")

    # ---- a daemon in trouble ----

    def test_no_core_can_be_made(self):
        before = main_pid(self.vm, "agent-routerd")
        self.run("mkdir -p -m 1777 /var/cores; echo /var/cores/%p >/proc/sys/kernel/core_pattern; "
                 "systemctl kill -s SEGV agent-routerd; kill -SEGV $(systemctl show --value -p MainPID agent-router-launcher)", check=True)
        wait_for(self.vm, f"systemctl is-active -q agent-routerd && [ $(systemctl show --value -p MainPID agent-routerd) != {before} ]", 90)
        _, out = self.run("ls /var/cores")
        expect(out == "", f"a core: {out}")

    def test_the_watchdog_ends_a_daemon_that_hangs(self):
        self.run("mkdir -p /run/systemd/system/agent-routerd.service.d && printf '[Service]\\nWatchdogSec=8\\n' "
                 ">/run/systemd/system/agent-routerd.service.d/vm.conf && systemctl daemon-reload && systemctl restart agent-routerd",
                 check=True, seconds=120)
        before = main_pid(self.vm, "agent-routerd")
        self.run("systemctl kill -s STOP agent-routerd", check=True)
        wait_for(self.vm, f"systemctl is-active -q agent-routerd && [ $(systemctl show --value -p MainPID agent-routerd) != {before} ]", 120)
        _, out = self.run("systemctl show --value -p NRestarts agent-routerd; journalctl -b -u agent-routerd -o cat | grep -ci watchdog")
        expect(int(out.split()[1]) > 0, out)
        self.run("rm -r /run/systemd/system/agent-routerd.service.d; systemctl daemon-reload; systemctl restart agent-routerd",
                 check=True, seconds=120)

    def test_a_lost_store_is_refused(self):
        self.run("systemctl stop agent-routerd-http.socket agent-routerd-control.socket agent-routerd", check=True, seconds=90)
        # Not the marker beside it, which says that there is one.
        self.run("mkdir /root/kept && cd /var/lib/agent-router && for f in agent-router.db agent-router.db-wal agent-router.db-shm; "
                 "do [ ! -e $f ] || mv $f /root/kept/; done", check=True)
        self.run("timeout 30 systemctl start agent-routerd", seconds=60)
        _, out = self.run("journalctl -b -o cat MESSAGE_ID=7c1d6e3fb0a14d0c9d5e0a4b7be30005 | tail -1; "
                          "ls /var/lib/agent-router/agent-router.db")
        expect("No such file" in out, f"a store was made in place of the lost one: {out}")
        self.tap.note("refused: " + out.splitlines()[0])
        self.run("systemctl stop agent-routerd; mv /root/kept/* /var/lib/agent-router/; systemctl reset-failed; systemctl start agent-routerd",
                 check=True, seconds=120)
        _, out = self.run("agent-routerctl list --json | head -c 200000 | grep -c succeeded")
        expect(int(out) > 0, "the store that came back has no tasks")

    # ---- the user instance ----

    def test_the_user_instance(self):
        user = "runuser -u alice -- env XDG_RUNTIME_DIR=/run/user/$(id -u alice) DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/$(id -u alice)/bus "
        self.run("loginctl enable-linger alice", check=True, seconds=90)
        try:
            wait_for(self.vm, "[ -S /run/user/$(id -u alice)/systemd/private ]", 90)
        except Failed:
            raise Failed(self.run("systemctl status --no-pager user@$(id -u alice); journalctl -b --no-pager | tail -30")[1]) from None
        self.run("install -d -o alice -g alice /home/alice/.config /home/alice/.config/agent-router /home/alice/.config/agent-router/agents.d && "
                 "install -o alice -g alice -m 0644 /etc/agent-router/agents.d/shell.yaml /home/alice/.config/agent-router/agents.d/", check=True)
        status, out = self.run(user + "systemctl --user start agent-routerd", seconds=120)
        if status != 0:
            raise Failed(out + self.run("journalctl -b --no-pager _UID=$(id -u alice) | tail -40")[1])
        _, out = self.run("stat -c '%a' /home/alice/.config/agent-router/store.key; ls /run/user/$(id -u alice)/agent-router; "
                          "ls /home/alice/.local/state/agent-router; ss -H -ltnp 2>/dev/null | wc -l")
        expect(out.split()[:3] == ["600", "control.sock", "http.sock"] and "agent-router.db" in out, out)
        status, out = self.run("echo 'id -un; echo $((6 * 7))' | " + user +
                               "agent-routerctl submit --agent shell --wait --socket /run/user/$(id -u alice)/agent-router/control.sock -", seconds=120)
        expect(status == 0 and out.split() == ["alice", "42"],
               f"{status}: {out}\n" + self.run("journalctl -b --no-pager _UID=$(id -u alice) | tail -20")[1])
        self.run(user + "systemctl --user stop agent-routerd agent-router-launcher; loginctl disable-linger alice", seconds=90)

    # ---- the end ----

    def test_removal_keeps_and_purge_removes(self):
        status, out = self.run("dpkg -r agent-router", seconds=180)
        expect(status == 0, out)
        _, out = self.run("ls /var/lib/agent-router/agent-router.db /etc/credstore.encrypted/agent-router.store.key; "
                          "pgrep -a -f /usr/lib/agent-router")
        expect("No such" not in out and "/usr/lib/agent-router/" not in out, out)
        status, out = self.run("dpkg -P agent-router", seconds=180)
        expect(status == 0, out)
        _, out = self.run("ls -d /var/lib/agent-router* /etc/credstore.encrypted/agent-router* /run/agent-router* /lib/systemd/system/agent-router* 2>/dev/null")
        expect(out == "", f"left behind: {out}")


def suite(tap):
    cache, source = sys.argv[1], sys.argv[2]
    only = sys.argv[3:]
    folder = image(cache)
    package = deb.build(source, cache, tap.note)
    following = deb.with_version(package, "99.0", cache)
    payload = make_payload(cache, [(package, "agent-router.deb"), (following, "agent-router-next.deb")])
    following.unlink()
    try:
        with Vm(folder, cache, payload=payload) as vm:
            tap.note(f"booted in {vm.boot_seconds:.1f} s")
            system = System(vm, tap)
            cases = [name for name in vars(System) if name.startswith("test_")]
            for name in cases:
                # The installation comes first whatever is asked for.
                if only and name != cases[0] and not any(word in name for word in only):
                    continue
                tap.case(name.removeprefix("test_").replace("_", " "), getattr(system, name))
                if name == cases[0] and tap.n_failed:
                    tap.note("the rest needs an installed package")
                    break
    finally:
        payload.unlink()


main(suite)

"""What the VM tests do with agent-router inside the guest: configure, submit, read back."""

import json
import shlex

from tap import expect

CONTROL = "/run/agent-router/control.sock"
CONFIG = """\
version: 1
limits: { running: 8 }
sandbox:
  require: [landlock, seccomp, pidns, mountns, cgroup.memory, cgroup.pids, cgroup.kill]
  workspace_roots: [/srv/agent-router, /home]
"""
# An agent that runs its prompt as a shell script: everything that an agent could try, a test can.
MANIFEST = """\
version: 1
name: shell
title: Shell
install: it is part of every Debian
capabilities: [exec]
concurrency: 8
command: { find: [/bin/sh] }
sandbox: { seccomp: agent, network: no, memory_max: 96M, pids_max: 48 }
limits: { inactivity: 10min, grace: 2s }
output: { format: text }
"""
# Prints ticks until the file `go` is in its workspace: a task that is in the middle for as long as a test wants.
TICKING = """\
n=0
until [ -e go ]; do n=$((n + 1)); echo "tick $n"; sleep 0.1; done
echo done
"""


def configure(vm):
    vm.run(f"cat >/etc/agent-router/agent-router.yaml <<'END'\n{CONFIG}END\n"
           f"cat >/etc/agent-router/agents.d/shell.yaml <<'END'\n{MANIFEST}END\n"
           "install -d -o agent-router-worker /srv/agent-router/work && systemctl restart agent-router-launcher agent-routerd",
           check=True, seconds=240)


def as_user(user, command):
    return command if user is None else f"runuser -u {user} -- {command}"


def submit(vm, prompt, *options, user=None):
    """Submits to the agent `shell`, by ctl over the control socket; the task's id."""
    command = as_user(user, "agent-routerctl submit --agent shell " + shlex.join(options) + " -")
    status, out = vm.run(f"{command} <<'END_OF_PROMPT'\n{prompt}\nEND_OF_PROMPT", seconds=120)
    expect(status == 0 and len(out.split()) == 1, f"submit ended with {status}: {out}")
    return out.strip()


def get(vm, task, user=None):
    status, out = vm.run(as_user(user, f"agent-routerctl get --json {task}") + " 2>&1")
    expect(status == 0, f"get ended with {status}: {out}")
    return json.loads(out)


def finish(vm, task, seconds=120):
    """Waits for the task's end (the last event of its stream) and returns it."""
    vm.run(f"agent-routerctl follow {task} >/dev/null 2>&1", seconds=seconds)
    return get(vm, task)


def wait_for(vm, condition, seconds=60):
    """Waits in the guest until a shell condition holds."""
    status, out = vm.run(f"until {condition}; do sleep 0.2; done", seconds=seconds)
    expect(status == 0, f"waited {seconds} s in vain for: {condition}\n{out}")


def wait_for_tick(vm, task):
    """Until the ticking task runs and some of its output has been stored."""
    wait_for(vm, f"curl -s --unix-socket {CONTROL} 'http://localhost/tasks/{task}?include=transcript' | grep -q 'tick 3'", 90)


def ticks_are_whole(task):
    """Every line of a ticking task once, in order."""
    lines = (task["result"] or {}).get("text", "").splitlines()
    expect(task["state"] == "succeeded", f"{task['state']}: {task['reason']}, {task['detail']}")
    expect(len(lines) > 3 and lines[-1] == "done" and lines[:-1] == [f"tick {i + 1}" for i in range(len(lines) - 1)],
           f"output lost or repeated: {lines}")


def main_pid(vm, unit):
    return vm.run(f"systemctl show --value -p MainPID {unit}")[1].strip()

#!/usr/bin/python3
"""No-op tasks from end to end: 10,000 tasks of an agent that is /bin/true, submitted in batches of 1,000, until the
last result is durable; beside `xargs -P`, which runs the same command and keeps nothing. Each task has a sandbox, a
home, its events and its result; a run of xargs is a fork and an execve. Where the machine is busy, the processor time
of each says more than the rates.
"""

import os
import resource
import subprocess
import sys
import time

import common
from common import harness

TASKS, BATCH, SLOTS = 10000, 1000, 16
XARGS_RUNS, SECONDS_MAX = 2000, 300
MANIFEST = '''\
version: 1
name: noop
title: Nothing
install: It is in every system.
concurrency: 200
command: { find: [/bin/true] }
output: { format: text }
'''
CONFIG = harness.CONFIG + f'limits: {{ running: {SLOTS} }}\n'


def xargs():
    """Runs a second, and processor time of one in milliseconds."""
    lines = '\n'.join(map(str, range(XARGS_RUNS))) + '\n'
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(['xargs', f'-P{SLOTS}', '-n1', '/bin/true'], input=lines, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return XARGS_RUNS / (time.monotonic() - start), used / XARGS_RUNS * 1e3


def cpu_s(pid):
    fields = open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf('SC_CLK_TCK')      # its own and its children's


def main():
    with harness.Instance(CONFIG, manifests={'noop': MANIFEST}) as it:
        it.client.submit('warm', agent='noop', wait=30)
        connection = common.Connection(it)
        pids = {name: it.pid(name) for name in ('daemon', 'launcher')}
        cpu = {name: cpu_s(pid) for name, pid in pids.items()}
        start = time.monotonic()
        for _ in range(TASKS // BATCH):
            connection.request('POST', '/batches', {'tasks': [{'prompt': 'x', 'agent': 'noop'}] * BATCH})
        submitted = time.monotonic() - start

        succeeded = 0
        while succeeded < TASKS + 1:
            time.sleep(0.1)
            counts = connection.request('GET', '/status')['tasks']
            succeeded = counts.get('succeeded', 0)
            assert not counts.get('failed') and time.monotonic() - start < SECONDS_MAX, counts
        seconds = time.monotonic() - start
        used = {name: (cpu_s(pid) - cpu[name]) / TASKS * 1e3 for name, pid in pids.items()}
    rate, used_by_xargs = xargs()
    print(f'{TASKS} no-op tasks, {SLOTS} at a time: submitted in {submitted:.1f} s, all results durable after '
          f'{seconds:.1f} s; processor time a task: daemon {used["daemon"]:.2f} ms, launcher and what it starts '
          f'{used["launcher"]:.2f} ms')
    print(f'xargs -P{SLOTS} /bin/true: {rate:.0f}/s, processor time a run {used_by_xargs:.2f} ms; '
          f'to it {TASKS / seconds / rate:.2f} x')
    return 0 if common.bound('tasks from end to end', TASKS / seconds, 300, '/s', at_least=True) else 1


if __name__ == '__main__':
    sys.exit(main())

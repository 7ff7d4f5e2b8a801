#!/usr/bin/python3
"""A batch of 100 tasks to an idle router with 100 slots, of an agent that sleeps: from the client sending POST /batches
to the last of them having passed its execve (the attempts' execed_at, by the launcher's clock, to the millisecond).
"""

import datetime
import statistics
import sys
import time

import common
from common import harness

TASKS, ROUNDS = 100, 5
CONFIG = harness.CONFIG + f'limits: {{ running: {TASKS} }}\n'


def epoch(text):
    return datetime.datetime.fromisoformat(text.replace('Z', '+00:00')).timestamp()


def main():
    with common.scratch() as directory, harness.Instance(CONFIG) as it:
        sync_ms = common.fdatasync_p50_us(directory) / 1000
        connection, all_of = common.Connection(it), []
        body = {'tasks': [{'prompt': 'exec sleep 1000', 'agent': 'sh'}] * TASKS}
        for number in range(ROUNDS + 1):
            start = time.time()
            batch = connection.request('POST', '/batches', body)
            answered = (time.time() - start) * 1000
            execs = {}
            while len(execs) < TASKS:
                time.sleep(0.2)                                 # not to take part in what is measured
                assert time.time() - start < harness.DEADLINE_S, f'{len(execs)} of {TASKS} run'
                for id in set(batch['task_ids']) - execs.keys():
                    for attempt in connection.request('GET', f'/tasks/{id}')['attempts']:
                        if attempt['execed_at']:
                            execs[id] = (epoch(attempt['execed_at']) - start) * 1000
            if number:                                          # the first warms the instance up
                all_of.append(max(execs.values()))
                print(f'round {number}: answered after {answered:.0f} ms, first execve {min(execs.values()):.0f} ms, '
                      f'half {common.percentile(execs.values(), .5):.0f} ms, all {TASKS} {all_of[-1]:.0f} ms',
                      flush=True)
            connection.request('POST', f'/batches/{batch["id"]}/cancel')
            harness.wait_for(lambda: connection.request('GET', '/status')['running'] == 0, 'all are cancelled')
        print(f'one fdatasync: p50 {sync_ms:.1f} ms')
        return 0 if common.bound(f'all {TASKS} execve\'d, median', statistics.median(all_of), 300, ' ms') else 1


if __name__ == '__main__':
    sys.exit(main())

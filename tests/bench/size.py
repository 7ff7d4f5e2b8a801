#!/usr/bin/python3
"""What 1,000,000 queued tasks cost a router, beside one that has 1,000: durable submits over HTTP (POST /tasks, the two
take turns on the same disk, and the ratio of each round's pair counts), the daemon's own memory for each task, and how
long it takes to start. The store is filled directly while the router is stopped (fill.c); nothing runs meanwhile, for
both are drained.
"""

import json
import os
import statistics
import subprocess
import sys
import time

import common
from common import harness

SMALL, LARGE = 1000, 1000000
CONNECTIONS, REQUESTS, ROUNDS = 8, 1000, 7
CONFIG = harness.CONFIG + 'limits: { queued: 3000000, queued_per_principal: 3000000 }\n'


def filled(n):
    """An instance with n queued tasks, none of which starts; and the seconds until it is ready."""
    it = harness.Instance(CONFIG)
    it.admin.post('/drain').expect(200)
    it.client                                                   # its key is in the store, too
    it.stop()
    argv = [os.environ['AR_FILL'], str(it.dir / 'state'), str(it.dir / 'credentials/store.key'), str(n), 'sh']
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    start = time.monotonic()
    it.start()
    it.await_ready()
    seconds = time.monotonic() - start
    it.client.url = it.url                                      # another port
    queued = it.client.get('/status').json['queued']
    assert queued == n, f'{queued} of {n} tasks are queued'
    return it, seconds


def load(it, body):
    numbers = [it.url.rpartition(':')[2], str(CONNECTIONS), str(REQUESTS)]
    argv = [os.environ['AR_LOAD'], 'http', '127.0.0.1', *numbers, body, '/tasks', it.client.key]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, f'{done.stderr}{done.stdout}'
    return json.loads(done.stdout)


def main():
    with common.scratch() as directory:
        body = os.path.join(directory, 'body')
        with open(body, 'w') as f:
            json.dump({'prompt': ':', 'agent': 'sh'}, f)
        small, start_small = filled(SMALL)
        large, start_large = filled(LARGE)
        try:
            idle, full = (common.memory(it.pid('daemon'))['Private_Dirty'] for it in (small, large))
            rounds = [(load(small, body), load(large, body)) for _ in range(ROUNDS)]
        finally:
            for it in (small, large):
                it.close()
    for number, (n, seconds) in enumerate(((SMALL, start_small), (LARGE, start_large))):
        print(f'{n} queued: ready after {seconds:.2f} s, daemon Private_Dirty {(idle, full)[number] / 2**20:.1f} MiB; '
              f'submit p50 {statistics.median(r[number]["p50_us"] for r in rounds) / 1000:.2f} ms, '
              f'p99 {statistics.median(r[number]["p99_us"] for r in rounds) / 1000:.2f} ms, '
              f'{statistics.median(r[number]["per_second"] for r in rounds):.0f}/s over {CONNECTIONS} connections')
    ratio = statistics.median(b['p99_us'] / a['p99_us'] for a, b in rounds)
    held = [common.bound(f'submit p99, {LARGE} queued to {SMALL}', ratio, 1.5, ' x'),
            common.bound('memory of a queued task over idle', (full - idle) / (LARGE - SMALL), 160, ' bytes'),
            common.bound(f'start-up with {LARGE} queued', start_large, 5, ' s')]
    return 0 if all(held) else 1


if __name__ == '__main__':
    sys.exit(main())

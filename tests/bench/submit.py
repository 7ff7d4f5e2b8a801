#!/usr/bin/python3
"""Durable submits: POST /tasks with a prompt of 1 KiB over 64 keep-alive connections, against beanstalkd (-b DIR -f0)
and Redis (appendfsync always, XADD) with a body of the same size over as many connections. The three take turns, on the
same disk; the ratio of each round's pair is taken, and the median printed. One load generator drives them all (load.c).

The tasks wait for a time far off (`not_before`), so that what is measured is accepting them durably, as with the two
others, and not running them.
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys

import common
from common import harness

CONNECTIONS, ROUNDS = 64, 3
REQUESTS = {'http': 30000, 'beanstalk': 5000, 'resp': 20000}
CONFIG = harness.CONFIG + 'limits: { queued: 2000000, queued_per_principal: 2000000 }\n'


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def load(protocol, port, body, *more):
    numbers = [str(port), str(CONNECTIONS), str(REQUESTS[protocol])]
    argv = [os.environ['AR_LOAD'], protocol, '127.0.0.1', *numbers, body, *more]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, f'{" ".join(argv)}: {done.stderr}{done.stdout}'
    return json.loads(done.stdout)


class Server:
    """beanstalkd or Redis on a port of its own, ended by its handle."""

    def __init__(self, argv, port):
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        self.port = port
        harness.wait_for(self.answers, f'{argv[0]} answers')

    def answers(self):
        assert self.process.poll() is None, 'the server ended'
        with socket.socket() as s:
            return s.connect_ex(('127.0.0.1', self.port)) == 0

    def close(self):
        self.process.terminate()
        self.process.wait()


def main():
    for program in ('beanstalkd', 'redis-server'):
        if not shutil.which(program):
            print(f'{program} is not installed (scripts/deps bench)')
            return 77
    with common.scratch() as directory, harness.Instance(CONFIG) as it:
        body = os.path.join(directory, 'body')
        with open(body, 'w') as f:
            json.dump({'prompt': 'p' * 1024, 'agent': 'sh', 'not_before': '2100-01-01T00:00:00Z'}, f)
        for name in ('beanstalkd', 'redis'):
            os.mkdir(os.path.join(directory, name))
        port = free_port()
        beanstalkd = Server(['beanstalkd', '-l', '127.0.0.1', '-p', str(port), '-b', f'{directory}/beanstalkd', '-f0'],
                            port)
        port = free_port()
        redis = Server(['redis-server', '--bind', '127.0.0.1', '--port', str(port), '--dir', f'{directory}/redis',
                        '--save', '', '--appendonly', 'yes', '--appendfsync', 'always'], port)
        results = {'http': [], 'beanstalk': [], 'resp': []}
        syncs = []
        try:
            for _ in range(ROUNDS):
                syncs.append(common.fdatasync_p50_us(directory))
                results['http'].append(load('http', it.url.rpartition(':')[2], body, '/tasks', it.client.key))
                results['beanstalk'].append(load('beanstalk', beanstalkd.port, body))
                results['resp'].append(load('resp', redis.port, body))
        finally:
            beanstalkd.close()
            redis.close()

        size = os.path.getsize(body)
        print(f'{CONNECTIONS} connections, body {size} bytes, {ROUNDS} rounds; '
              f'fdatasync of 4 KiB appends: p50 {statistics.median(syncs):.0f} us')
        labels = {'http': 'agent-router POST /tasks', 'beanstalk': 'beanstalkd -b -f0', 'resp': 'Redis XADD, always'}
        for name, label in labels.items():
            rates = [r['per_second'] for r in results[name]]
            print(f'{label}: {statistics.median(rates):.0f}/s ({" ".join(f"{r:.0f}" for r in rates)}), '
                  f'p50 {statistics.median(r["p50_us"] for r in results[name]) / 1000:.1f} ms, '
                  f'p99 {statistics.median(r["p99_us"] for r in results[name]) / 1000:.1f} ms')

        def ratio(other):
            return statistics.median(a['per_second'] / b['per_second'] for a, b in zip(results['http'], results[other]))
        print(f'to Redis: {ratio("resp"):.2f} x')
        return 0 if common.bound('to beanstalkd', ratio('beanstalk'), 1.5, ' x', at_least=True) else 1


if __name__ == '__main__':
    sys.exit(main())

"""What the benchmarks share: an instance on a real disk, the disk's own speed, and how results are printed."""

import http.client
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'integration'))
import harness                                                          # noqa: E402 (the path comes first)

# The build directory is on a disk, where /tmp may be memory and make every fsync free.
os.environ.setdefault('AR_TMPDIR', str(harness.BUILD))


class Connection:
    """One keep-alive connection as the instance's submitter: a curl for each request would cost as much as a task."""

    def __init__(self, instance):
        address = urllib.parse.urlsplit(instance.url)
        self.key = instance.client.key
        self.http = http.client.HTTPConnection(address.hostname, address.port)

    def request(self, method, path, body=None):
        headers = {'Authorization': f'Bearer {self.key}', 'Content-Type': 'application/json'}
        self.http.request(method, path, json.dumps(body) if body else None, headers)
        response = self.http.getresponse()
        text = response.read()
        assert response.status in (200, 201), f'{method} {path}: {response.status} {text[:1000]}'
        return json.loads(text)


def scratch():
    return tempfile.TemporaryDirectory(prefix='bench.', dir=os.environ['AR_TMPDIR'])


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def fdatasync_p50_us(directory, rounds=200):
    """Of appends of 4 KiB, as a write-ahead log makes them."""
    times = []
    fd = os.open(os.path.join(directory, 'fdatasync'), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for _ in range(rounds):
        os.write(fd, b'x' * 4096)
        start = time.perf_counter()
        os.fdatasync(fd)
        times.append((time.perf_counter() - start) * 1e6)
    os.close(fd)
    return statistics.median(times)


def memory(pid):
    """Of a process, in bytes, by the names of smaps_rollup."""
    values = {}
    for line in open(f'/proc/{pid}/smaps_rollup'):
        name, _, rest = line.partition(':')
        if rest.strip().endswith('kB'):
            values[name] = int(rest.split()[0]) * 1024
    return values


def bound(what, value, limit, unit, at_least=False):
    """One line of result; true where the bound holds."""
    held = value >= limit if at_least else value <= limit
    sign = '>=' if at_least else '<='
    print(f'{what}: {value:.2f}{unit} (bound {sign} {limit}{unit}): {"met" if held else "MISSED"}', flush=True)
    return held

#!/usr/bin/python3
"""From a submit's acknowledgement to the agent's execve, for tasks that arrive one at a time (20 a second) while 100
others run. The end is the attempt's execed_at (the launcher's clock at execve, to the millisecond), the start the
client's clock once the 201 has been read; both are this machine's.
"""

import datetime
import http.client
import json
import sys
import time
import urllib.parse

import common
from common import harness

RUNNING, RATE, ARRIVALS = 100, 20, 300
CONFIG = harness.CONFIG + 'limits: { running: 200 }\n'


def epoch(text):
    return datetime.datetime.fromisoformat(text.replace('Z', '+00:00')).timestamp()


def main():
    with common.scratch() as directory, harness.Instance(CONFIG) as it:
        sync_ms = common.fdatasync_p50_us(directory) / 1000
        client = it.client
        sleepers = [client.submit('exec sleep 1000', agent='sh')['id'] for _ in range(RUNNING)]
        harness.wait_for(lambda: client.get('/status').json['running'] == RUNNING, f'{RUNNING} tasks run')
        address = urllib.parse.urlsplit(it.url)
        connection = http.client.HTTPConnection(address.hostname, address.port)
        headers = {'Authorization': f'Bearer {client.key}', 'Content-Type': 'application/json'}
        acknowledged = {}
        start = time.monotonic()
        for n in range(ARRIVALS):
            time.sleep(max(0, start + n / RATE - time.monotonic()))     # the arrival rate is the experiment
            connection.request('POST', '/tasks', json.dumps({'prompt': ':', 'agent': 'sh'}), headers)
            response = connection.getresponse()
            body = response.read()
            now = time.time()
            assert response.status == 201, body
            acknowledged[json.loads(body)['id']] = now
        waits = []
        harness.wait_for(lambda: client.get('/status').json['tasks'].get('succeeded') == ARRIVALS, 'all have ended')
        for id, at in acknowledged.items():
            connection.request('GET', f'/tasks/{id}', headers=headers)
            task = json.loads(connection.getresponse().read())
            waits.append((epoch(task['attempts'][0]['execed_at']) - at) * 1000)
        still = client.get('/status').json['running']
        assert still == RUNNING, f'{still} of {RUNNING} still run'
        for id in sleepers:
            client.cancel(id)
        print(f'{len(waits)} tasks at {RATE}/s with {RUNNING} running: submit acknowledged -> execve, ms: '
              f'p50 {common.percentile(waits, .5):.1f}, p90 {common.percentile(waits, .9):.1f}, '
              f'p99 {common.percentile(waits, .99):.1f}, max {max(waits):.1f}; '
              f'one fdatasync, which each start waits for: p50 {sync_ms:.1f}')
        held = [common.bound('p50', common.percentile(waits, .5), 3, ' ms'),
                common.bound('p99', common.percentile(waits, .99), 20, ' ms')]
        return 0 if all(held) else 1


if __name__ == '__main__':
    sys.exit(main())

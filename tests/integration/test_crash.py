#!/usr/bin/python3
"""kill -9 of the daemon at random moments under submit load: no task that was acknowledged is lost.

AR_CRASHES sets how many times (default 50), AR_SEED repeats a run. (That acknowledged means on the disk, power cuts of
a virtual machine show, in suite vm; a killed process can not.)
"""

import http.client
import json
import os
import random
import signal
import threading
import time
import urllib.parse

import harness
from harness import SANITIZED, equal

CRASHES = int(os.environ.get('AR_CRASHES') or (15 if SANITIZED else 50))
SUBMITTERS = 8
CONFIG = harness.CONFIG + 'limits: { queued: 1000000, queued_per_principal: 1000000, running: 4 }\n'


class Submitter(threading.Thread):
    """Submits over one connection, again and again; keeps what was acknowledged. Every hundredth task runs, the others
    wait. Every second carries an Idempotency-Key, and is sent again after its connection broke, under the same name: it
    must not make a second task."""

    def __init__(self, it, key, number):
        super().__init__(daemon=True)
        self.address = urllib.parse.urlsplit(it.url)
        self.headers = {'Authorization': f'Bearer {key}', 'Content-Type': 'application/json'}
        self.number, self.count = number, 0
        self.acknowledged, self.stop, self.unexpected = {}, False, []

    def run(self):
        while not self.stop:
            connection = http.client.HTTPConnection(self.address.hostname, self.address.port,
                                                    timeout=harness.DEADLINE_S)
            try:
                while not self.stop:
                    self.submit(connection)
            except (OSError, http.client.HTTPException):
                pass                    # the daemon died under us
            finally:
                connection.close()

    def submit(self, connection):
        name = f'{self.number}-{self.count}'
        body = {'prompt': 'true', 'agent': 'sh', 'labels': {'name': name}}
        if self.count % 100:
            body['not_before'] = '2100-01-01T00:00:00Z'
        headers = dict(self.headers)
        if self.count % 2:
            headers['Idempotency-Key'] = name
        connection.request('POST', '/tasks', json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read()
        if response.status == 201:
            self.acknowledged[name] = json.loads(text)['id']
            self.count += 1
        elif response.status != 503:
            self.unexpected.append((response.status, text[:300]))
            self.stop = True


def test_no_acknowledged_task_is_lost(it):
    seed = int(os.environ.get('AR_SEED') or time.time_ns() % 1000000)
    harness.diagnose(f'AR_SEED={seed} AR_CRASHES={CRASHES}')
    chance = random.Random(seed)
    client = it.key('crash')
    submitters = [Submitter(it, client.key, n) for n in range(SUBMITTERS)]
    for s in submitters:
        s.start()
    for _ in range(CRASHES):
        before = sum(len(s.acknowledged) for s in submitters)
        harness.wait_for(lambda: sum(len(s.acknowledged) for s in submitters) > before, 'submits go on')
        time.sleep(chance.random() * 0.1)       # the random moment itself
        it.kill('daemon', signal.SIGKILL)
    for s in submitters:
        s.stop = True
    for s in submitters:
        s.join()
    equal([u for s in submitters for u in s.unexpected], [], 'answers that are neither 201 nor 503')
    it.await_ready()

    stored, cursor = {}, ''
    while cursor is not None:
        page = client.tasks(limit=500, **({'cursor': cursor} if cursor else {}))
        for task in page['tasks']:
            stored.setdefault(task['labels']['name'], []).append(task['id'])
        cursor = page['next_cursor']
    acknowledged = {n: id for s in submitters for n, id in s.acknowledged.items()}
    lost = [n for n, id in acknowledged.items() if id not in stored.get(n, [])]
    equal(lost, [], f'of {len(acknowledged)} acknowledged tasks, lost')
    twice = [n for n, ids in stored.items() if len(ids) > 1 and int(n.split('-')[1]) % 2]
    equal(twice, [], 'tasks made twice under one Idempotency-Key')
    harness.diagnose(f'{CRASHES} kills, {len(acknowledged)} acknowledged, {len(stored)} stored, 0 lost')
    assert len(acknowledged) > CRASHES, 'too little load to mean anything'


def test_the_queue_is_worked_off_afterwards(it):
    def states():
        return it.admin.get('/status').expect(200).json['tasks']
    harness.wait_for(lambda: not states().get('queued') and not states().get('running'), 'nothing is queued or running')
    equal(states().get('failed', 0), 0, 'failed tasks')


if __name__ == '__main__':
    harness.main(globals(), config=CONFIG)

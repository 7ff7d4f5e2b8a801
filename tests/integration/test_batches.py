#!/usr/bin/python3
"""Batches over the real daemon: all or nothing, dependencies, sets of agents, many at once, restarts in between."""

import json
import threading
import time

import harness
from harness import equal, wait_for

CONFIG = harness.CONFIG + '''\
limits: { running: 4, queued: 40000, queued_per_principal: 40000 }
'''
SLOW_MANIFEST = harness.SH_MANIFEST.replace('name: sh', 'name: slow').replace(
    'command: { find: [/bin/sh] }', 'command: { find: [/bin/sleep], args: ["600"] }')
FAR = '2100-01-01T00:00:00Z'


def batch(client, tasks, **members):
    headers = members.pop('headers', ())
    return client.post('/batches', {'tasks': tasks, **members}, headers=headers)


def get(client, id):
    return client.get(f'/batches/{id}').expect(200).json


def finished(client, id):
    return wait_for(lambda: (b := get(client, id))['state'] == 'finished' and b, f'batch {id} has ended')


def sh(script, **members):
    return {'prompt': script, 'agent': 'sh', **members}


def ids_of(client, id):
    ids, cursor = [], ''
    while True:
        page = client.get(f'/batches/{id}/tasks?limit=500' + (f'&cursor={cursor}' if cursor else '')).expect(200).json
        ids += [t['id'] for t in page['tasks']]
        cursor = page['next_cursor']
        if not cursor:
            return ids


def test_all_run(it):
    client = it.key('all-run')
    answer = batch(client, [sh(f'echo {i}') for i in range(12)], metadata={'why': 'test'}).expect(201)
    equal(answer.headers['location'], f'/batches/{answer.json["id"]}')
    end = finished(client, answer.json['id'])
    equal((end['counts'], end['done'], end['progress'], end['n_tasks']), ({'succeeded': 12}, 12, 1, 12))
    equal(end['metadata'], {'why': 'test'})
    equal([client.task(i)['result']['text'].strip() for i in answer.json['task_ids']], [str(i) for i in range(12)])
    equal(ids_of(client, end['id']), answer.json['task_ids'], 'in the order given')
    equal([b['id'] for b in client.get('/batches').json['batches']], [end['id']])


def test_none_is_made_of_a_refused_one(it):
    client = it.key('refused')
    good = [sh('true') for _ in range(300)]
    batch(client, [*good, sh('true', agent='nobody')]).problem(422, '/tasks/300/agent')
    batch(client, [*good, sh('true', priority=101)]).problem(400, '/tasks/300/priority')
    batch(client, [sh('true', after=['#1']), sh('true', after=['#0'])]).problem(422, '/tasks/0/after')
    batch(client, []).problem(400, '/tasks')
    equal(client.tasks()['tasks'], [])
    equal(client.get('/batches').json['batches'], [])


def test_dependencies(it):
    client = it.key('dependencies')
    # The last one first: each names those that come later in the batch.
    tasks = [sh('echo "<{{tasks.#1.result}}|{{after.1.result}}>"', after=['#1', '#2']), sh('echo one', after=['#2']),
             sh('echo two')]
    ids = batch(client, tasks).expect(201).json['task_ids']
    last = client.finish(ids[0], 'succeeded')
    equal(''.join(last['result']['text'].split()), '<one|two>')
    equal([(a['state'], a['on']) for a in last['after']], [('succeeded', 'success')] * 2)
    # One fails: those after it are cancelled, but where they want that.
    tasks = [sh('exit 3'), sh('echo no', after=['#0']), sh('echo cleanup', after=['#0'], on='failure'),
             sh('echo anyway', after=['#0'], on_unmet='run')]
    answer = batch(client, tasks).expect(201).json
    end = finished(client, answer['id'])
    equal(end['counts'], {'failed': 1, 'cancelled': 1, 'succeeded': 2})
    cancelled = client.task(answer['task_ids'][1])
    equal((cancelled['reason'], answer['task_ids'][0] in cancelled['detail']), ('dependency', True))
    # Only tasks that the caller may see.
    stranger = it.key('stranger')
    stranger.post('/tasks', sh('true', after=[ids[0]])).problem(422, '/after/0')


def test_retry(it):
    client = it.key('retry')
    shared = it.workspace()
    script = 'test -e fixed || exit 3; echo fine'
    answer = batch(client, [sh(script, workspace=str(shared), after=['#1']), sh(script, workspace=str(shared)),
                            sh('echo ok')]).expect(201).json
    equal(finished(client, answer['id'])['counts'], {'failed': 1, 'cancelled': 1, 'succeeded': 1})
    (shared / 'fixed').touch()
    equal(client.post(f'/batches/{answer["id"]}/retry').expect(200).json, {'retried': 2})
    equal(finished(client, answer['id'])['counts'], {'succeeded': 3})
    task = client.task(answer['task_ids'][1])
    equal([a['outcome'] for a in task['attempts']], ['failed', 'succeeded'])
    client.post(f'/tasks/{task["id"]}/retry').problem(409)
    # One task by itself.
    (shared / 'fixed').unlink()
    one = client.submit(script, agent='sh', workspace=str(shared), wait=30)
    equal(one['state'], 'failed')
    (shared / 'fixed').touch()
    client.post(f'/tasks/{one["id"]}/retry').expect(200)
    equal(client.finish(one['id'], 'succeeded')['n_attempts'], 2)


def test_idempotent(it):
    client = it.key('idempotent')
    tasks = [sh('echo x') for _ in range(20)]
    first = batch(client, tasks, headers={'Idempotency-Key': 'k'}).expect(201)
    again = batch(client, tasks, headers={'Idempotency-Key': 'k'}).expect(201)
    equal(first.json, again.json)
    batch(client, tasks[1:], headers={'Idempotency-Key': 'k'}).problem(422)
    finished(client, first.json['id'])
    equal(len(client.tasks(limit=500)['tasks']), 20)


def test_agents(it):
    client = it.key('agents')
    answer = client.post('/tasks', {'prompt': 'echo won', 'agents': ['sh', 'slow'], 'select': 'first'}).expect(201)
    id = answer.json['id']
    equal(answer.headers['location'], f'/tasks/{id}')
    end = finished(client, id)
    equal([(t['agent'], t['state']) for t in end['tasks']], [('sh', 'succeeded'), ('slow', 'cancelled')])
    equal(client.get(f'/tasks/{id}').expect(200).json, end)
    both = client.post('/tasks', {'prompt': 'echo won', 'agents': ['sh', 'slow']}).expect(201).json
    equal(both['select'], 'all')
    client.post(f'/tasks/{both["id"]}/cancel').expect(200)
    finished(client, both['id'])
    client.post('/tasks', {'prompt': 'x', 'agents': ['sh', 'nobody']}).problem(422, '/agents/1')


def test_ctl(it):
    good = '\n'.join(json.dumps(t) for t in [sh('echo one'), sh('echo two', after=['#0']), sh('echo three')])
    done = it.ctl('batch', 'submit', '-', input=good, check=True)
    id = done.stdout.strip()
    assert '3 succeeded' in done.stderr, done.stderr
    assert '3 succeeded' in it.ctl('batch', 'show', id, check=True).stdout
    equal(len(it.ctl('list', '--batch', id, check=True).stdout.splitlines()), 4)
    bad = it.ctl('batch', 'submit', '-', input=good + '\n\n' + json.dumps(sh('x', agent='nobody')))
    equal((bad.returncode, bad.stdout), (4, ''))
    assert 'stdin:5: agent: there is no agent' in bad.stderr, bad.stderr
    failed = it.ctl('batch', 'submit', '-', input=json.dumps(sh('exit 3')))
    equal(failed.returncode, 1)
    task = it.admin.get(f'/batches/{failed.stdout.strip()}/tasks').json['tasks'][0]
    assert task['id'] in it.ctl('list', '--state', 'failed', check=True).stdout
    equal(it.ctl('retry', task['id'], check=True).stdout.split()[0], task['id'])
    it.admin.finish(task['id'], 'failed')
    both = it.ctl('submit', '--agents', 'sh,slow', '--select', 'first', '--wait', 'echo won', check=True)
    assert 'won' in both.stdout and 'slow' in both.stdout, both.stdout
    held = it.ctl('submit', '--agent', 'sh', '--group', 'ctl', '--not-before', FAR, 'true', check=True).stdout.strip()
    assert 'delayed' in it.ctl('list', '--group', 'ctl', check=True).stdout
    assert 'waits       delayed' in it.ctl('get', held, check=True).stdout
    equal(it.ctl('cancel', '--group', 'ctl', check=True).stdout, '1 tasks cancelled\n')


def test_ten_thousand(it):
    """Durable as one, across a restart; the router answers others meanwhile."""
    client = it.key('many')
    body = json.dumps({'tasks': [sh('true', not_before=FAR, labels={'n': str(i)}) for i in range(10000)]}).encode()
    times, stop = [], threading.Event()

    def ask_meanwhile():
        # Answered at once by the reactor, without the store: what it waits for is a slice of the batch.
        with it.connect() as connection:
            while not stop.is_set():
                started = time.monotonic()
                connection.sendall(b'GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n')
                assert connection.recv(65536).startswith(b'HTTP/1.1 200 '), 'healthz'
                times.append(time.monotonic() - started)
    prober = threading.Thread(target=ask_meanwhile)
    prober.start()
    started = time.monotonic()
    answer = client.request('POST', '/batches', data=body, headers={'Idempotency-Key': 'many'}).expect(201).json
    took = time.monotonic() - started
    stop.set()
    prober.join()
    times.sort()
    print(f'# 10,000 tasks, {len(body) >> 10} KiB: 201 after {took * 1000:.0f} ms; {len(times)} GET /healthz meanwhile: '
          f'p50 {times[len(times) // 2] * 1000:.1f} ms, max {times[-1] * 1000:.1f} ms')
    equal((len(answer['task_ids']), len(set(answer['task_ids']))), (10000, 10000))
    it.kill('daemon')
    it.await_ready()
    equal(get(client, answer['id'])['counts'], {'delayed': 10000})
    equal(client.request('POST', '/batches', data=body, headers={'Idempotency-Key': 'many'}).expect(201).json, answer)
    task = client.task(answer['task_ids'][1234])
    equal((task['labels'], task['batch'], task['waiting']['reason']), ({'n': '1234'}, answer['id'], 'delayed'))
    equal(client.post(f'/batches/{answer["id"]}/cancel').expect(200).json['counts'], {'cancelled': 10000})
    many = [sh('true', not_before=FAR, group='many') for _ in range(1500)]
    batch(client, many).expect(201)
    equal(client.post('/tasks/cancel', {'group': 'many'}).expect(200).json, {'cancelled': 1500})
    equal(client.post('/tasks/cancel', {'all': True}).expect(200).json, {'cancelled': 0})


def test_killed_in_the_middle(it):
    """A router that dies while it makes a batch has made none of it."""
    client = it.key('killed')
    body = json.dumps({'tasks': [sh('true', not_before=FAR) for _ in range(10000)]}).encode()
    status = {}

    def submit():
        try:
            status['answer'] = client.request('POST', '/batches', data=body)
        except AssertionError as e:
            status['lost'] = e
    submitter = threading.Thread(target=submit)
    before = it.admin.get('/status').expect(200).json['tasks'].get('delayed', 0)
    submitter.start()
    wait_for(lambda: it.admin.get('/status').expect(200).json['tasks'].get('delayed', 0) > before, 'some of it is written')
    it.kill('daemon')
    submitter.join()
    it.await_ready()
    made = client.get('/batches').json['batches']
    if 'answer' in status:              # it was quicker than the kill
        equal([b['counts'] for b in made], [{'delayed': 10000}])
        return
    equal(made, [])
    equal(client.tasks()['tasks'], [])
    equal(it.admin.get('/status').expect(200).json['tasks'].get('delayed', 0), before)


if __name__ == '__main__':
    harness.main(globals(), config=CONFIG, manifests={'slow': SLOW_MANIFEST})

#!/usr/bin/python3
"""What runs when: priority, limits, back-pressure, cancel in every state, time-outs, not_before, retries."""

import datetime
import json
import time

import harness
from harness import equal, wait_for

CONFIG = harness.CONFIG + '''\
limits: { running: 2, queued: 30, queued_per_principal: 10 }
tasks: { backoff: 50ms }
'''
HOLD = 'while [ ! -e go ]; do sleep 0.02; done; '
FAR = '2100-01-01T00:00:00Z'


def hold(it, n=2):
    """Fills the running slots; returns the workspace whose file `go` lets them end, and their ids."""
    path = it.workspace()
    holder = it.key(f'holder-{time.monotonic_ns()}')
    ids = [holder.submit(HOLD + 'echo held', agent='sh', workspace=str(path))['id'] for _ in range(n)]
    for id in ids:
        holder.await_state(id, 'running')
    return holder, path, ids


def release(holder, path, ids):
    (path / 'go').touch()
    for id in ids:
        holder.finish(id, 'succeeded')


def test_priority_then_order_of_submission(it):
    holder, path, ids = hold(it)
    client = it.key('priority')
    shared = it.workspace()
    order = [('a', 10), ('b', 90), ('c', 50), ('d', 90), ('e', None)]
    tasks = {}
    for name, priority in order:
        members = {} if priority is None else {'priority': priority}
        tasks[name] = client.submit(f'echo {name} >> order', agent='sh', workspace=str(shared), **members)['id']
    equal({client.task(i)['state'] for i in tasks.values()}, {'queued'})
    holder.cancel(ids[0]).expect(200)           # the other slot stays taken, so that these run one after another
    for id in tasks.values():
        client.finish(id, 'succeeded')
    equal((shared / 'order').read_text().split(), ['b', 'd', 'c', 'e', 'a'], 'order of execution (the default is 50)')
    release(holder, path, ids[1:])


def test_no_more_run_than_allowed(it):
    holder, path, ids = hold(it)
    waiting = it.key('waiting').submit('echo later', agent='sh')
    equal(waiting['state'], 'queued')
    status = it.admin.get('/status').expect(200).json
    equal((status['running'], status['limits']['running']), (2, 2), 'running')
    release(holder, path, ids)
    it.admin.finish(waiting['id'], 'succeeded')


def test_back_pressure(it):
    ids = []
    for owner in ('full-a', 'full-b', 'full-c'):
        client = it.key(owner)
        while (response := client.post('/tasks', {'prompt': 'true', 'agent': 'sh', 'not_before': FAR})).status == 201:
            ids.append((client, response.json['id']))
        if response.status == 429:
            response.problem(429)
            assert int(response.headers['retry-after']) >= 1, response.headers
    equal(len(ids), 30, 'tasks admitted: 10 for each of three principals')
    response = it.key('full-d').post('/tasks', {'prompt': 'true', 'agent': 'sh'})
    response.problem(503)
    assert int(response.headers['retry-after']) >= 1, response.headers
    for client, id in ids:
        client.cancel(id).expect(200)
    it.key('full-e').submit('true', agent='sh', wait=30)


def test_cancel_while_delayed_queued_and_running(it):
    client = it.key('cancel')
    delayed = client.submit('true', agent='sh', not_before=FAR)['id']
    equal(client.cancel(delayed).expect(200).json['state'], 'cancelled')
    holder, path, ids = hold(it)
    queued = client.submit('true', agent='sh')['id']
    equal(client.cancel(queued).expect(200).json['state'], 'cancelled')
    equal(client.task(queued)['attempts'], [], 'attempts of a task that never ran')
    for id in ids:
        holder.cancel(id).expect(200)
        holder.finish(id, 'cancelled')


def test_cancel_ends_the_whole_process_tree(it):
    client = it.key('tree')
    path = it.workspace()
    script = ('trap "" TERM; (trap "" TERM; setsid sleep 4711 & echo; sleep 4711) & '
              'setsid sh -c \'trap "" TERM; sleep 4711\' & touch up; while :; do sleep 0.1; done')
    id = client.submit(script, agent='sh', workspace=str(path))['id']
    wait_for(lambda: (path / 'up').exists(), 'the script runs')
    wait_for(lambda: processes('4711'), 'its children')
    client.cancel(id).expect(200)
    client.finish(id, 'cancelled')
    equal(processes('4711'), [], 'processes left')


def processes(word):
    found = []
    for path in harness.pathlib.Path('/proc').glob('[0-9]*/cmdline'):
        try:
            if path.read_bytes() == b'sleep\0' + word.encode() + b'\0':
                found.append(int(path.parent.name))
        except OSError:
            pass
    return found


def test_cancel_of_what_has_ended(it):
    task = it.client.submit('echo done', agent='sh', wait=30)
    response = it.client.cancel(task['id'])
    assert response.status in (200, 409), response
    equal(it.client.task(task['id'])['state'], 'succeeded')


def test_a_task_runs_out_of_time(it):
    start = time.monotonic()
    task = it.client.submit('echo begun; exec sleep 100', agent='sh', timeout_s=1)
    task = it.client.finish(task['id'], 'timed_out')
    assert 1 <= time.monotonic() - start < 30, 'the time it took'
    equal(len(task['attempts']), 1)


def after(seconds):
    due = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    due = due.replace(microsecond=due.microsecond // 1000 * 1000)      # as precise as what is sent and compared
    return due, due.isoformat(timespec='milliseconds').replace('+00:00', 'Z')


def test_not_before_is_held_and_then_run(it):
    due, text = after(1.5)
    task = it.client.submit('echo now', agent='sh', not_before=text)
    equal(task['state'], 'delayed')
    task = it.client.finish(task['id'], 'succeeded')
    started = datetime.datetime.fromisoformat(task['started_at'].replace('Z', '+00:00'))
    assert due <= started <= due + datetime.timedelta(seconds=20), f'due {due}, started {started}'


def test_not_before_survives_a_restart(it):
    task = it.client.submit('echo now', agent='sh', not_before=after(2)[1])
    it.kill('daemon')
    it.client.finish(task['id'], 'succeeded')


def test_retries(it):
    path = it.workspace()
    script = 'echo x >> tries; [ $(wc -l < tries) = 3 ] || exit 75; echo third'
    task = it.client.submit(script, agent='sh', workspace=str(path), retry={'max_attempts': 5, 'backoff_s': 0.05})
    task = it.client.finish(task['id'], 'succeeded')
    equal(len(task['attempts']), 3, json.dumps(task['attempts']))
    equal([a['exit_code'] for a in task['attempts']], [75, 75, 0])
    equal(task['result']['text'], 'third')


def test_attempts_are_used_up(it):
    task = it.client.submit('exit 75', agent='sh', retry={'max_attempts': 2, 'backoff_s': 0.05})
    task = it.client.finish(task['id'], 'dead')
    equal(len(task['attempts']), 2)
    equal(task['reason'], 'overloaded')
    task = it.client.submit('exit 4', agent='sh', retry={'max_attempts': 3, 'backoff_s': 0.05})
    task = it.client.finish(task['id'])
    equal(len(task['attempts']), 1, 'attempts at what can not succeed')


if __name__ == '__main__':
    harness.main(globals(), config=CONFIG)

#!/usr/bin/python3
"""What an administrator does while tasks run: limits, groups, draining; and the events of all tasks."""

import contextlib
import json
import os
import signal
import subprocess
import time

import harness
from harness import equal, wait_for

CONFIG = harness.CONFIG + 'limits: { running: 20 }\n'
HOLD = 'while [ ! -e go ]; do sleep 0.02; done; echo held'


def running(it, group):
    """How many of a group run now, as GET /limits says."""
    return {l['name']: l['running_now'] for l in it.admin.get('/limits').expect(200).json['limits']
            if l['kind'] == 'group'}.get(group, 0)


def put(it, path, **members):
    return it.admin.request('PUT', f'/limits/{path}', members).expect(200).json


def test_a_paused_group_waits_while_others_run(it):
    client = it.key('pauser')
    out = it.ctl('group', 'pause', 'night', check=True).stdout
    assert 'night' in out and 'paused' in out, out
    waiting = client.submit('echo late', agent='sh', group='night')['id']
    equal(client.submit('echo now', agent='sh', group='day', wait=30)['state'], 'succeeded')
    equal(client.submit('echo now', agent='sh', wait=30)['state'], 'succeeded')
    equal(client.task(waiting)['state'], 'queued')
    # SIGKILL: what was answered is durable.
    it.kill('daemon')
    it.await_ready()
    equal(client.submit('echo now', agent='sh', wait=30)['state'], 'succeeded')
    equal(client.task(waiting)['state'], 'queued')
    row = json.loads(it.ctl('group', 'list', '--json', check=True).stdout)['limits']
    equal([(l['name'], l['paused'], l['waiting'], l['source']) for l in row if l['name'] == 'night'],
          [('night', True, 1, 'runtime')])
    it.ctl('group', 'resume', 'night', check=True)
    client.finish(waiting, 'succeeded')


def test_a_raised_limit_starts_more_at_once(it):
    client, path = it.key('raiser'), it.workspace()
    put(it, 'group/few', running=1)
    ids = [client.submit(HOLD, agent='sh', group='few', workspace=str(path))['id'] for _ in range(5)]
    wait_for(lambda: running(it, 'few') == 1, 'one runs')
    equal([client.task(i)['state'] for i in ids].count('running'), 1)
    it.ctl('group', 'set', 'few', '--running', '4', check=True)
    wait_for(lambda: running(it, 'few') == 4, 'four run')
    equal([client.task(i)['state'] for i in ids].count('running'), 4)
    it.ctl('limit', 'set', 'group', 'few', '--running', 'none', check=True)
    wait_for(lambda: running(it, 'few') == 5, 'all run')
    (path / 'go').touch()
    for id in ids:
        client.finish(id, 'succeeded')
    it.ctl('limit', 'unset', 'group', 'few', check=True)
    it.admin.delete('/limits/group/few').problem(404)


def test_limits_of_agents_and_principals(it):
    client, path = it.key('limited'), it.workspace()
    first = client.submit(HOLD, agent='sh', workspace=str(path))
    client.await_state(first['id'], 'running')
    name = first['principal'].replace('/', '%2F')
    put(it, f'principal/{name}', running=1)
    second = client.submit(HOLD, agent='sh', workspace=str(path))['id']
    equal(it.client.submit('echo other', agent='sh', wait=30)['state'], 'succeeded')
    equal(client.task(second)['state'], 'queued')
    put(it, 'agent/sh', paused=True)
    third = it.client.submit('echo held', agent='sh')['id']
    agent = {a['name']: a for a in it.admin.get('/agents').expect(200).json['agents']}['sh']
    equal((agent['paused'], agent['running']), (True, 1))
    assert 'paused' in it.ctl('agent', 'list', check=True).stdout
    it.admin.delete('/limits/agent/sh').expect(204)
    it.client.finish(third, 'succeeded')
    # It sees its own limit, and nobody else's.
    seen = client.get('/limits').expect(200).json['limits']
    equal([l['name'] for l in seen if l['kind'] == 'principal'], [first['principal']])
    it.admin.delete(f'/limits/principal/{name}').expect(204)
    client.await_state(second, 'running')
    (path / 'go').touch()
    for id in (first['id'], second):
        client.finish(id, 'succeeded')
    client.request('PUT', '/limits/global/all', {'running': 1}).problem(403)
    it.admin.request('PUT', '/limits/agent/sh', {'running': 'many'}).problem(400, '/running')
    it.admin.request('PUT', '/limits/agent/nobody', {'running': 1}).problem(404)


def test_drain(it):
    client, path = it.key('drained'), it.workspace()
    ids = [client.submit(HOLD, agent='sh', workspace=str(path))['id'] for _ in range(2)]
    for id in ids:
        client.await_state(id, 'running')
    late = it.ctl('drain', '--wait', '--deadline', '300ms')
    equal(late.returncode, 1)
    assert '2 tasks still run after 300ms' in late.stderr and late.stdout == '', late
    waiting = client.submit('echo late', agent='sh')['id']
    assert it.ctl('status', check=True).stdout.startswith('DRAINING: nothing is started; 2 tasks still run'), 'status'
    waiter = subprocess.Popen([str(harness.BUILD / 'src/ctl/agent-routerctl'), 'drain', '--wait'], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, env={**os.environ, 'AGENT_ROUTER_SOCKET': str(it.control)})
    equal(waiter.stderr.readline(), '2 tasks still run\n')
    (path / 'go').touch()
    out, _ = waiter.communicate(timeout=harness.DEADLINE_S)
    equal(waiter.returncode, 0)
    assert out.startswith('drained: nothing runs'), out
    for id in ids:
        equal(client.task(id)['state'], 'succeeded')
    it.kill('daemon')
    it.await_ready()
    status = it.admin.get('/status').expect(200).json
    equal((status['draining'], status['running'], client.task(waiting)['state']), (True, 0, 'queued'))
    it.ctl('resume', check=True)
    client.finish(waiting, 'succeeded')
    equal(it.admin.get('/status').expect(200).json['draining'], False)
    assert 'DRAINING' not in it.ctl('status', check=True).stdout
    client.post('/drain').problem(403)


# ---- events of all tasks ----

def all_events(client, after, until):
    """GET /events after this number, until the function says of one that it is the last."""
    argv = client.command('GET', f'/events?after={after}', extra=['--no-buffer', '--fail'])
    curl = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    events = []
    try:
        for event in harness.parse_events(curl.stdout):
            events.append(event)
            if until(event):
                return events
        raise AssertionError(f'the stream ended: {events}')
    finally:
        curl.kill()
        curl.wait()
        curl.stdout.close()


def test_events_of_all_tasks(it):
    a, b = it.key('events-a'), it.key('events-b')
    first = a.submit('echo one', agent='sh', wait=30)['id']
    other = b.submit('echo two', agent='sh', wait=30)['id']
    last = a.submit('echo three', agent='sh', wait=30)['id']
    final = lambda event: event['data']['task'] == last and event['data'].get('data', {}).get('state') == 'succeeded'
    everything, own = all_events(it.admin, 0, final), all_events(a, 0, final)
    numbers = [int(e['id']) for e in everything]
    equal(numbers, sorted(set(numbers)), 'numbers of events')
    assert {first, other, last} <= {e['data']['task'] for e in everything}, everything
    equal({e['data']['task'] for e in own}, {first, last}, 'whose events a submitter sees')
    equal(own, [e for e in everything if e['data']['task'] in (first, last)])
    for id in (first, last):
        equal([(e['data']['seq'], e['data']['type'], e['data']['data']) for e in own if e['data']['task'] == id],
              [(e['data']['seq'], e['data']['type'], e['data']['data']) for e in a.events(id) if e['event'] != 'end'])
    equal(all_events(a, own[2]['id'], final), own[3:], 'events after one')
    a.get('/events?after=x').problem(400)


def test_ctl_follows_events_over_a_restart(it):
    env = {**os.environ, 'AGENT_ROUTER_SOCKET': str(it.control)}
    ctl = subprocess.Popen([str(harness.BUILD / 'src/ctl/agent-routerctl'), 'events', '--json', '--after', '0'],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        seen = [json.loads(ctl.stdout.readline())]
        first = it.client.submit('echo one', agent='sh', wait=30)['id']
        it.kill('daemon')
        it.await_ready()
        last = it.client.submit('echo two', agent='sh', wait=30)['id']
        while not (seen[-1]['task'] == last and seen[-1]['data'].get('state') == 'succeeded'):
            seen.append(json.loads(ctl.stdout.readline()))
        ctl.send_signal(signal.SIGINT)
        equal(ctl.wait(timeout=harness.DEADLINE_S), 130)
    finally:
        ctl.kill()
        ctl.wait()
        ctl.stdout.close()
        ctl.stderr.close()
    expected = all_events(it.admin, 0, lambda e: e['data']['task'] == last and e['data']['data'].get('state') == 'succeeded')
    equal([(e['task'], e['seq']) for e in seen], [(e['data']['task'], e['data']['seq']) for e in expected],
          'what ctl printed, each once and in order')
    assert first in {e['task'] for e in seen}


def test_ctl_prints_events_for_people(it):
    ctl = subprocess.Popen([str(harness.BUILD / 'src/ctl/agent-routerctl'), 'events', '--after', '0'], stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, text=True,
                           env={**os.environ, 'AGENT_ROUTER_SOCKET': str(it.control)})
    with contextlib.ExitStack() as stack:
        stack.callback(ctl.stdout.close)
        stack.callback(ctl.wait)
        stack.callback(ctl.kill)
        id = it.client.submit('echo a readable line', agent='sh', wait=30)['id']
        deadline = time.monotonic() + harness.DEADLINE_S
        for line in ctl.stdout:
            words = line.split()
            if words[1] == id and words[2:] == ['text', 'a', 'readable', 'line']:
                break
            assert time.monotonic() < deadline, line
        else:
            raise AssertionError('the stream ended')


if __name__ == '__main__':
    harness.main(globals(), config=CONFIG)

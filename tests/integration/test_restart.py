#!/usr/bin/python3
"""Restarts while tasks run: the agents go on, none of their output is lost or repeated, their tasks end normally."""

import contextlib
import json
import signal

import harness
from harness import equal, wait_for

LINES = 2000
# Lines in bursts, with a pause that a restart falls into as well.
TALK = f'i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo line $i; [ $((i % 50)) != 0 ] || sleep 0.02; done'


def spoken(client, id):
    events = [e['data']['data'] for e in client.events(id) if e['event'] in ('text', 'output')]
    out = ''.join(data.get('text', '') + '\n' for data in events)
    return [int(w) for w in out.split() if w.isdigit()]


def test_kills_while_an_agent_talks(it):
    ids = [it.client.submit(TALK, agent='sh')['id'] for _ in range(4)]
    for id in ids:
        it.client.await_state(id, 'running')
    launcher = it.pid('launcher')
    for n in range(4):
        if all(it.client.task(id)['state'] != 'running' for id in ids):
            break
        it.kill('daemon', signal.SIGTERM if n == 2 else signal.SIGKILL)
        it.await_ready()
    assert n >= 1, 'the tasks ended before the second kill'
    for id in ids:
        task = it.client.finish(id, 'succeeded')
        equal(len(task['attempts']), 1, 'attempts')
        equal(spoken(it.client, id), list(range(1, LINES + 1)), 'lines')
    equal(it.pid('launcher'), launcher, 'the launcher')


def test_an_agent_that_ends_while_no_daemon_is_there(it):
    path = it.workspace()
    id = it.client.submit('touch up; while [ ! -e go ]; do sleep 0.01; done; echo said; exit 7', agent='sh',
                          workspace=str(path))['id']
    wait_for(lambda: (path / 'up').exists(), 'the agent runs')
    daemon = it.pid('daemon')
    harness.os.kill(daemon, signal.SIGSTOP)
    (path / 'go').touch()
    wait_for(lambda: not agents_of(path), 'the agent has ended')
    it.kill('daemon')
    task = it.client.finish(id, 'failed')
    equal(task['attempts'][0]['exit_code'], 7, 'the exit code, told to the next daemon')
    assert any('said' in json.dumps(e['data']) for e in it.client.events(id)), 'its last words'


def agents_of(path):
    """Processes whose working directory is this workspace."""
    found = []
    for proc in harness.pathlib.Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            if harness.os.readlink(proc / 'cwd') == str(path):
                found.append(proc.name)
    return found


def test_a_stream_goes_on_over_a_restart(it):
    path = it.workspace()
    script = 'echo first; while [ ! -e go ]; do sleep 0.01; done; echo second'
    id = it.client.submit(script, agent='sh', workspace=str(path))['id']
    last = None
    with contextlib.closing(it.client.events(id)) as events:
        for event in events:
            last = event['id']
            if 'first' in json.dumps(event['data']):
                break
    it.kill('daemon')
    it.await_ready()
    (path / 'go').touch()
    rest = list(it.client.events(id, headers={'Last-Event-ID': last}))
    text = json.dumps([event for event in rest if event['event'] == 'text'])
    assert 'second' in text and 'first' not in text, text
    equal(rest[-1]['data']['state'], 'succeeded')


def test_a_lost_launcher_without_retries(it):
    path = it.workspace()
    id = it.client.submit('touch up; exec sleep 4712', agent='sh', workspace=str(path), retry={'max_attempts': 1})['id']
    wait_for(lambda: (path / 'up').exists(), 'the agent runs')
    it.kill('launcher')
    task = it.client.finish(id)
    assert task['state'] in ('failed', 'dead'), task
    equal(task['attempts'][0]['outcome'], 'lost')
    wait_for(lambda: not agents_of(path), 'the agent is gone with its launcher')


def test_a_lost_launcher_with_a_retry(it):
    path = it.workspace()
    script = 'echo x >> tries; [ $(wc -l < tries) = 1 ] && exec sleep 4712; echo again'
    id = it.client.submit(script, agent='sh', workspace=str(path), retry={'max_attempts': 2, 'backoff_s': 0.05})['id']
    wait_for(lambda: (path / 'tries').exists(), 'the agent runs')
    it.kill('launcher')
    task = it.client.finish(id, 'succeeded')
    equal([a['outcome'] for a in task['attempts']], ['lost', 'succeeded'], 'outcomes')
    equal(task['result']['text'], 'again')


def test_both_lost_at_once(it):
    path = it.workspace()
    script = 'echo x >> tries; [ $(wc -l < tries) = 1 ] && exec sleep 4712; echo again'
    id = it.client.submit(script, agent='sh', workspace=str(path), retry={'max_attempts': 2, 'backoff_s': 0.05})['id']
    wait_for(lambda: (path / 'tries').exists(), 'the agent runs')
    harness.os.kill(it.pid('daemon'), signal.SIGSTOP)
    it.kill('launcher')
    it.kill('daemon')
    it.client.finish(id, 'succeeded')


def test_stop_and_start_of_everything_keeps_what_was_stored(it):
    done = it.client.submit('echo kept', agent='sh', wait=30)['id']
    waiting = it.client.submit('echo later', agent='sh', not_before='2100-01-01T00:00:00Z')['id']
    key = it.client.key
    equal(it.stop(), 0, 'status of run-local')
    it.start()
    client = harness.Client(it.url, key=key)
    equal(client.task(done)['result']['text'], 'kept')
    equal(client.task(waiting)['state'], 'delayed')
    client.cancel(waiting).expect(200)


if __name__ == '__main__':
    harness.main(globals())

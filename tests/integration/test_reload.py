#!/usr/bin/python3
"""The configuration read again while everything runs, by SIGHUP and POST /reload, and a stop that waits."""

import contextlib
import os
import pathlib
import signal
import threading

import harness
from harness import equal, wait_for

HOLD = 'touch up; while [ ! -e go ]; do sleep 0.02; done; echo held'
MANIFEST = '''\
version: 1
name: {name}
title: {title}
install: None.
command: {{ find: [/bin/sh] }}
output: {{ format: text }}
'''


class Configured:
    """An instance's configuration: its own text, and what a test adds; put back at the end."""

    def __init__(self, it):
        self.it = it
        argv = pathlib.Path(f'/proc/{it.pid("daemon")}/cmdline').read_text().split('\0')
        self.path = pathlib.Path(argv[argv.index('--config') + 1])
        self.text = self.path.read_text()
        self.agents = it.dir / 'config/agents.d'
        self.names = []

    def write(self, extra=''):
        new = self.path.with_suffix('.new')
        new.write_text(self.text + extra)
        new.replace(self.path)

    def manifest(self, name, title='T'):
        (self.agents / f'{name}.yaml').write_text(MANIFEST.format(name=name, title=title))
        self.names.append(name)

    def reload(self):
        return self.it.admin.post('/reload')

    def load(self, extra=''):
        self.write(extra)
        self.reload().expect(200)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in self.names:
            (self.agents / f'{name}.yaml').unlink(missing_ok=True)
        self.load()


def hold(it, agent='sh', **members):
    path = it.workspace()
    id = it.client.submit(HOLD, agent=agent, workspace=str(path), **members)['id']
    return id, path


def agents(it):
    return {a['name']: a for a in it.admin.get('/agents').expect(200).json['agents']}


def test_limits_by_signal_with_a_connection_open(it):
    with Configured(it) as c:
        c.load('limits: { running: 1 }\n')
        first, path = hold(it)
        wait_for(lambda: (path / 'up').exists(), 'the first runs')
        second, other = hold(it)
        equal(it.client.task(second)['state'], 'queued')
        daemon, launcher = it.pid('daemon'), it.pid('launcher')
        kept = it.connect()
        with contextlib.closing(it.client.events(first)) as events:
            next(events)
            c.write('limits: { running: 2, connections: 100 }\n')
            os.kill(daemon, signal.SIGHUP)
            wait_for(lambda: (other / 'up').exists(), 'the second runs too')
            (path / 'go').touch()
            equal([e['event'] for e in events][-1], 'end', 'the stream from before the reload ends as it should')
        kept.sendall(b'GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
        assert kept.recv(100).startswith(b'HTTP/1.1 200'), 'a connection from before the reload'
        kept.close()
        (other / 'go').touch()
        for id in (first, second):
            it.client.finish(id, 'succeeded')
        equal((it.pid('daemon'), it.pid('launcher')), (daemon, launcher), 'pids')
        status = it.admin.get('/status').json
        equal(status['limits']['running'], 2)
        equal(status['reactor']['restricted'], True)
        assert 'Seccomp:\t2' in pathlib.Path(f'/proc/{daemon}/status').read_text(), 'it is confined'


def test_an_invalid_one_changes_nothing(it):
    with Configured(it) as c:
        c.load('limits: { running: 7 }\n')
        for extra, says in (('limits: { running: 8, runing: 9 }\n', 'runing'), ('agents: { nobody: {} }\n', 'agents.nobody'),
                            ('limits: {\n', '')):
            c.write(extra)
            detail = c.reload().problem(422)['detail']
            assert says in detail, detail
            if says == 'runing':
                line = c.text.count('\n') + 1
                assert f'{c.path}:{line}:23:' in detail, detail
            size = len(it.logs())
            os.kill(it.pid('daemon'), signal.SIGHUP)
            wait_for(lambda: 'stays in force' in it.logs()[size:], 'the journal says so')
            assert says in it.logs()[size:], it.logs()[size:]
            equal(it.admin.get('/status').json['limits']['running'], 7)
        c.write('')
        (c.agents / 'broken.yaml').write_text('version: 1\nname: broken\nnonsense: 1\n')
        c.names.append('broken')
        assert 'broken.yaml:' in c.reload().problem(422)['detail']
        it.client.submit('true', agent='sh', wait=60)


def test_only_an_administrator_may(it):
    it.client.post('/reload').problem(403)


def test_agents_come_change_and_go(it):
    with Configured(it) as c:
        it.client.post('/tasks', {'prompt': 'x', 'agent': 'guest'}).problem(422)
        c.manifest('guest', 'First')
        c.load('agents: { guest: { concurrency: 1 } }\n')
        equal((agents(it)['guest']['title'], agents(it)['guest']['concurrency']), ('First', 1))
        running, path = hold(it, 'guest')
        wait_for(lambda: (path / 'up').exists(), 'the guest runs')
        waiting, _ = hold(it, 'guest')
        c.manifest('guest', 'Second')
        c.load('agents: { guest: { concurrency: 1 } }\n')
        equal(agents(it)['guest']['title'], 'Second')
        equal(it.client.task(waiting)['state'], 'queued')

        # It goes: what waits for it fails, what runs goes on.
        (c.agents / 'guest.yaml').unlink()
        c.load()
        assert 'guest' not in agents(it)
        equal(it.client.finish(waiting, 'failed')['reason'], 'no_agent')
        it.client.post('/tasks', {'prompt': 'x', 'agent': 'guest'}).problem(422)
        equal(it.client.task(running)['state'], 'running')
        (path / 'go').touch()
        equal(it.client.finish(running, 'succeeded')['result']['text'].strip(), 'held')

        c.manifest('guest', 'Third')
        c.load()
        it.client.finish(it.client.submit('echo back', agent='guest')['id'], 'succeeded')


def test_groups_by_label(it):
    with Configured(it) as c:
        groups = 'groups: {{ nightly: {{ running: 1, paused: {paused}, match: {{ label: "when=night" }} }} }}\n'
        c.load(groups.format(paused='yes'))
        task = it.client.submit('echo moon', agent='sh', labels={'when': 'night'})
        equal((task['state'], task['group']), ('queued', 'nightly'))
        equal(it.client.task(task['id'])['waiting']['reason'], 'paused')
        it.client.finish(it.client.submit('echo sun', agent='sh', labels={'when': 'day'})['id'], 'succeeded')
        c.load(groups.format(paused='no'))
        it.client.finish(task['id'], 'succeeded')


def test_what_a_restart_needs_is_named(it):
    with Configured(it) as c:
        size = len(it.logs())
        c.load('resources: { gpus: [], cpus: 2 }\n')
        assert 'resources.gpus: has changed' in it.logs()[size:], it.logs()[size:]


def test_reloads_while_tasks_come(it):
    with Configured(it) as c:
        ids, stop = [], threading.Event()

        def submit():
            client = it.key('busy')
            while not stop.is_set():
                ids.append(client.submit('echo x', agent='sh')['id'])

        thread = threading.Thread(target=submit)
        thread.start()
        for n in range(20):
            c.manifest('other', f'Title {n}')
            c.load(f'limits: {{ running: {1 + n % 3} }}\n')
        stop.set()
        thread.join()
        assert ids
        for id in ids:
            it.admin.finish(id, 'succeeded')


def test_a_stop_waits_for_what_runs(it):
    with Configured(it) as c:
        c.load('limits: { running: 1 }\nshutdown: { drain: 1h }\n')
        running, path = hold(it)
        wait_for(lambda: (path / 'up').exists(), 'the task runs')
        daemon = it.pid('daemon')
        os.kill(daemon, signal.SIGTERM)
        wait_for(lambda: it.admin.get('/status').json['draining'], 'it drains')
        waiting = it.client.submit('echo later', agent='sh')
        equal(waiting['state'], 'queued', 'a task is still taken, and not started')
        c.reload().problem(422)
        equal((it.client.task(waiting['id'])['waiting']['reason'], it.pid('daemon')), ('draining', daemon))
        (path / 'go').touch()
        wait_for(lambda: it.pid('daemon') not in (0, daemon), 'it stops when the task has ended, and is started again')
        it.await_ready()
        equal(it.client.task(running)['state'], 'succeeded')
        it.client.finish(waiting['id'], 'succeeded')


def test_a_second_signal_ends_the_wait(it):
    with Configured(it) as c:
        c.load('shutdown: { drain: 1h }\n')
        running, path = hold(it)
        wait_for(lambda: (path / 'up').exists(), 'the task runs')
        daemon = it.pid('daemon')
        os.kill(daemon, signal.SIGTERM)
        wait_for(lambda: it.admin.get('/status').json['draining'], 'it drains')
        os.kill(daemon, signal.SIGTERM)
        wait_for(lambda: it.pid('daemon') not in (0, daemon), 'it stops at once')
        it.await_ready()
        equal(it.client.task(running)['state'], 'running', 'the agent goes on')
        (path / 'go').touch()
        it.client.finish(running, 'succeeded')


def test_the_wait_is_bounded(it):
    with Configured(it) as c:
        c.load('shutdown: { drain: 100ms }\n')
        running, path = hold(it)
        wait_for(lambda: (path / 'up').exists(), 'the task runs')
        it.kill('daemon', signal.SIGTERM)
        it.await_ready()
        (path / 'go').touch()
        it.client.finish(running, 'succeeded')


if __name__ == '__main__':
    harness.main(globals())

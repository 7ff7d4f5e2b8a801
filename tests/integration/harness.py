"""Harness of the integration and end-to-end tests: a private instance by run-local, and clients that are not ours.

A test file defines test_* functions that take an Instance (or nothing), and ends with `harness.main(globals())`, which
prints TAP: one line a test. Requests go by curl over real sockets. Nothing here sleeps to synchronise: tests wait on
`Prefer: wait`, on the event stream, or on wait_for(), which polls a condition with a deadline.
"""

import contextlib
import inspect
import json
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.parse

SOURCE = pathlib.Path(__file__).resolve().parents[2]
RUN_LOCAL = SOURCE / 'scripts/agent-routerd/dev/run-local'
BUILD = pathlib.Path(os.environ.get('AR_BUILD', SOURCE / 'build'))
SANITIZED = os.environ.get('AR_SANITIZE', 'none') not in ('', 'none')
DEADLINE_S = 120 if SANITIZED else 60      # for anything awaited; far above what a loaded machine needs
FINAL = ('succeeded', 'failed', 'cancelled', 'timed_out', 'rejected', 'expired', 'dead')


# The agent of most tests: its prompt is a shell script.
SH_MANIFEST = '''\
version: 1
name: sh
title: A shell script
install: Install dash.
capabilities: [shell]
concurrency: 200
command: { find: [/bin/sh] }
output: { format: text }
errors:
  - { exit: [75], reason: overloaded, retry_after: 10ms }
'''
CONFIG = '''\
version: 1
sandbox: { workspace_roots: ["{dir}/workspaces"] }
'''
WORKER = pwd.getpwnam('nobody') if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


class Skip(Exception):
    """A test that this machine can't run; the text says why."""


def wait_for(condition, what, deadline_s=DEADLINE_S):
    """Polls until condition() is true and returns its value."""
    deadline = time.monotonic() + deadline_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f'not within {deadline_s} s: {what}')
        time.sleep(0.02)
    return value


def equal(actual, expected, what=''):
    assert actual == expected, f'{what or "value"}: expected {expected!r}, got {actual!r}'


class Response:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f'{self.status} {self.headers} {self.body[:2000]!r}'

    def expect(self, status):
        assert self.status == status, f'expected status {status}, got {self!r}'
        return self

    def problem(self, status, pointer=None):
        """A problem+json error (RFC 9457) of this status, naming this field where one is given."""
        self.expect(status)
        equal(self.headers.get('content-type'), 'application/problem+json', 'content type of an error')
        value = self.json
        equal(value['status'], status, 'status member')
        for member in ('type', 'title', 'detail'):
            assert isinstance(value[member], str) and value[member], f'{member} in {value}'
        if pointer is not None:
            assert pointer in [e['pointer'] for e in value['errors']], f'{pointer} not named in {value}'
            assert all(e['detail'] for e in value['errors']), value
        return value


class Client:
    """One principal over one address. Each request is one run of curl."""

    def __init__(self, url, key=None, unix=None, uid=None):
        self.url, self.key, self.unix, self.uid = url, key, unix, uid

    def command(self, method, path, headers=(), body=None, extra=()):
        argv = ['curl', '--silent', '--show-error', '--http1.1', '--max-time', str(DEADLINE_S), *extra]
        argv += ['--head'] if method == 'HEAD' else ['--request', method]
        if self.unix:
            argv += ['--unix-socket', str(self.unix)]
        if self.key:
            argv += ['--header', f'Authorization: Bearer {self.key}']
        for name, value in dict(headers).items():
            argv += ['--header', f'{name}: {value}']
        if body is not None:
            argv += ['--header', 'Expect:', '--data-binary', '@-']
            if not any(n.lower() == 'content-type' for n in dict(headers)):
                argv += ['--header', 'Content-Type: application/json']
        if self.uid is not None:
            argv = ['setpriv', f'--reuid={self.uid}', f'--regid={self.uid}', '--clear-groups', *argv]
        return argv + ['--', self.url + path]

    def request(self, method, path, body=None, headers=(), data=None):
        if body is not None:
            data = json.dumps(body).encode()
        argv = self.command(method, path, headers, data, ['--include'] if method != 'HEAD' else [])
        done = subprocess.run(argv, input=data if data is not None else b'', capture_output=True)
        assert done.returncode == 0, f'curl {method} {path}: status {done.returncode}: {done.stderr.decode()}'
        return parse_response(done.stdout)

    def get(self, path, **kw):
        return self.request('GET', path, **kw)

    def post(self, path, body=None, **kw):
        return self.request('POST', path, body, **kw)

    def delete(self, path, **kw):
        return self.request('DELETE', path, **kw)

    # Tasks

    def submit(self, prompt='x', wait=None, headers=(), **members):
        headers = dict(headers) | ({'Prefer': f'wait={wait}'} if wait else {})
        response = self.post('/tasks', {'prompt': prompt, **members}, headers=headers).expect(201)
        equal(response.headers['location'].removeprefix('/v1'), f'/tasks/{response.json["id"]}', 'Location')
        return response.json

    def task(self, id, include=None):
        return self.get(f'/tasks/{id}' + (f'?include={include}' if include else '')).expect(200).json

    def tasks(self, **query):
        return self.get('/tasks?' + urllib.parse.urlencode(query)).expect(200).json

    def cancel(self, id):
        return self.post(f'/tasks/{id}/cancel')

    def finish(self, id, state=None):
        """Waits on the event stream for the end of a task; returns the task."""
        for _ in self.events(id):
            pass
        task = self.task(id)
        assert task['state'] in FINAL, f'the stream ended and the task is {task}'
        if state:
            assert task['state'] == state, f'expected {state}: {json.dumps(task, indent=1)}'
        return task

    def await_state(self, id, state):
        """Waits on the event stream until the task is in this state."""
        with contextlib.closing(self.events(id)) as events:
            for event in events:
                if event['event'] in ('state', 'end') and event['data'].get('data', event['data'])['state'] == state:
                    return
        raise AssertionError(f'the task never was {state}: {self.task(id)}')

    def events(self, id, after=None, headers=()):
        """Generator of the task's events as {id, event, data}, to the end of the stream; its curl ends with it."""
        path = f'/tasks/{id}/events' + (f'?after={after}' if after is not None else '')
        argv = self.command('GET', path, headers, extra=['--no-buffer', '--fail'])
        curl = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            yield from parse_events(curl.stdout)
            assert curl.wait() == 0, f'curl of events: {curl.returncode}: {curl.stderr.read().decode()}'
        finally:
            if curl.poll() is None:
                curl.kill()
            curl.wait()
            curl.stdout.close()
            curl.stderr.close()


def parse_response(raw):
    while True:
        head, _, body = raw.partition(b'\r\n\r\n')
        lines = head.decode('latin-1').split('\r\n')
        status = int(lines[0].split()[1])
        if status >= 200:
            break
        raw = body
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(':')
        headers[name.strip().lower()] = value.strip()
    return Response(status, headers, body)


def parse_events(lines):
    event = {}
    for line in lines:
        line = line.decode().rstrip('\r\n')
        if not line:
            if event.get('data') is not None:
                yield event
            event = {}
        elif not line.startswith(':'):
            name, _, value = line.partition(':')
            value = value.removeprefix(' ')
            event[name] = json.loads(value) if name == 'data' else value


class Instance:
    """run-local over a temporary directory. `config` is YAML; {dir} in it is the instance's directory."""

    def __init__(self, config=None, directory=None, build=None, environment=None, manifests=None,
                 prepare=None):
        self.temporary = directory is None
        self.dir = pathlib.Path(directory or tempfile.mkdtemp(prefix='agent-router.', dir=os.environ.get('AR_TMPDIR')))
        self.log = pathlib.Path(f'{self.dir}.log')
        self.argv = [str(RUN_LOCAL), '--dir', str(self.dir), '--http', '127.0.0.1:0']
        agents = self.dir / 'config/agents.d'
        agents.mkdir(parents=True, exist_ok=True)
        for name, text in ({'sh': SH_MANIFEST} | (manifests or {})).items():
            (agents / f'{name}.yaml').write_text(text)
        if prepare:
            prepare(self.dir)
        if config is not None:
            (self.dir / 'test.yaml').write_text(config.replace('{dir}', str(self.dir)))
            self.argv += ['--config', str(self.dir / 'test.yaml')]
        self.environment = {**os.environ, 'AR_BUILD': str(build or BUILD), **(environment or {})}
        self.process = None
        self.start()

    def start(self, ready=True):
        with open(self.log, 'ab') as log:
            self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                                            env=self.environment, text=True)
        line = self.process.stdout.readline() if ready else ''
        if not ready:
            return
        if not line.startswith('ready '):
            self.process.wait()
            raise AssertionError(f'run-local is not ready ({line!r}, status {self.process.returncode}):\n{self.logs()}')
        values = dict(word.split('=', 1) for word in line.split()[1:])
        self.url, self.control = values['http'], pathlib.Path(values['control'])
        self.admin = Client('http://localhost', unix=self.control)
        self._key_client = None

    def stop(self):
        """SIGTERM to the runner; asserts that it ends well."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=DEADLINE_S)
        self.process.stdout.close()
        return self.process.returncode

    def close(self):
        self.stop()
        if self.temporary:
            shutil.rmtree(self.dir, ignore_errors=True)
        self.log.unlink(missing_ok=True)

    def logs(self):
        return self.log.read_text(errors='replace') if self.log.exists() else ''

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind and kind is not Skip:
            diagnose_logs(self)
        self.close()

    def workspace(self):
        """A fresh directory that tasks may use, owned by their user."""
        path = pathlib.Path(tempfile.mkdtemp(prefix='w.', dir=self.dir / 'workspaces'))
        os.chown(path, WORKER.pw_uid, WORKER.pw_gid)
        return path

    # Clients

    def key(self, name, role='submitter', **members):
        value = self.admin.post('/keys', {'name': name, 'role': role, **members}).expect(201).json
        return Client(self.url, key=value['key'])

    @property
    def client(self):
        """A submitter over TCP, the usual caller."""
        if not self._key_client:
            self._key_client = self.key(f'test-{time.monotonic_ns()}')
        return self._key_client

    def anonymous(self):
        return Client(self.url)

    def connect(self):
        """A raw TCP connection to the API."""
        address = urllib.parse.urlsplit(self.url)
        return socket.create_connection((address.hostname, address.port), timeout=DEADLINE_S)

    def ctl(self, *args, input=None, environment=None, check=False):
        ctl = BUILD / 'src/ctl/agent-routerctl'
        done = subprocess.run([str(ctl), *args], input=input, capture_output=True, text=True, timeout=DEADLINE_S * 2,
                              env={**os.environ, 'AGENT_ROUTER_SOCKET': str(self.control), **(environment or {})})
        if check:
            assert done.returncode == 0, f'ctl {args}: {done.returncode}: {done.stderr}'
        return done

    # Processes

    def pid(self, name):
        """Of 'daemon' or 'launcher' as run-local noted it; 0 while it is between two lives."""
        try:
            return int((self.dir / f'run/{name}.pid').read_text())
        except (OSError, ValueError):
            return 0

    def kill(self, name, number=signal.SIGKILL):
        """Kills a program and waits until run-local started it anew; returns its new pid."""
        old = wait_for(lambda: self.pid(name), f'a running {name}')
        os.kill(old, number)
        return wait_for(lambda: self.pid(name) not in (0, old) and self.pid(name), f'{name} started again')

    def await_ready(self):
        wait_for(lambda: self.anonymous().get('/readyz').status == 200, '/readyz answers 200')


def test_functions(namespace):
    return [f for n, f in namespace.items() if n.startswith('test_') and inspect.isfunction(f)]


def main(namespace, config=None, manifests=None):
    """Runs the file's tests over one instance (made where a test takes one) and prints TAP; exits by the result."""
    only = sys.argv[1:]
    tests = [f for f in test_functions(namespace) if not only or f.__name__ in only]
    print('TAP version 13')
    print(f'1..{len(tests)}', flush=True)
    instance, failed = None, 0
    for number, test in enumerate(tests, 1):
        name = test.__name__.removeprefix('test_').replace('_', ' ')
        start, takes_instance = time.monotonic(), bool(inspect.signature(test).parameters)
        try:
            if takes_instance and instance is None:
                instance = Instance(config or CONFIG, manifests=manifests)
            test(*([instance] if takes_instance else []))
            print(f'ok {number} - {name}', flush=True)
            diagnose(f'{time.monotonic() - start:.2f} s')
        except Skip as e:
            print(f'ok {number} - {name} # SKIP {e}', flush=True)
        except BaseException as e:
            failed += 1
            print(f'not ok {number} - {name}', flush=True)
            diagnose(traceback.format_exc())
            if instance:
                diagnose_logs(instance)
            if isinstance(e, KeyboardInterrupt) or (instance is None and takes_instance):
                print('Bail out! no instance', flush=True)
                break
    if instance:
        instance.close()
    sys.exit(1 if failed else 0)


def diagnose_logs(instance):
    diagnose('instance log (its end):\n' + '\n'.join(line[:300] for line in instance.logs().splitlines()[-40:]))


def diagnose(text):
    for line in text.rstrip().splitlines():
        print(f'# {line}', flush=True)

"""agent-routerctl against a router that is played by this file: what it sends, what it prints, how it exits.

The router is a threaded HTTP server on a Unix socket (and, for --url, on a port of loopback that the kernel chooses);
each test gives it the answers. Prints TAP; `AR_BUILD=build python3 tests/integration/test_ctl.py [NAME…]` runs it alone.
"""

import contextlib
import http.server
import json
import os
import pathlib
import pty
import re
import select
import signal
import socket
import socketserver
import subprocess
import tempfile
import threading

import harness
from harness import equal

CTL = harness.BUILD / 'src/ctl/agent-routerctl'
REFUSE_IO_URING = harness.BUILD / 'tests/integration/refuse-io-uring'
TASK = '0190b3a4-0000-7000-8000-000000000001'


def task(**changes):
    return {'id': TASK, 'state': 'queued', 'agent': 'codex', 'model': None, 'priority': 50, 'principal': 'uid:0',
            'workspace': None, 'labels': {}, 'metadata': {}, 'capabilities': [], 'timeout_s': 3600, 'not_before': None,
            'created_at': '2026-01-31T09:30:00.000Z', 'updated_at': '2026-01-31T09:30:00.000Z', 'started_at': None,
            'finished_at': None, 'reason': None, 'detail': None, 'attempts': [], 'result': None, 'usage': None, **changes}


def finished(state='succeeded', text='forty-two', **changes):
    return task(state=state, started_at='2026-01-31T09:30:01Z', finished_at='2026-01-31T09:30:13Z',
                result={'text': text, 'truncated': False} if text is not None else None, **changes)


def event(seq, kind, data, attempt=1):
    body = json.dumps({'seq': seq, 'at': '2026-01-31T09:30:02Z', 'attempt': attempt, 'type': kind, 'data': data})
    return f'id: {seq}\nevent: {kind}\ndata: {body}\n\n'


def end(state):
    return f'event: end\ndata: {json.dumps({"state": state})}\n\n'


def problem(status, title, detail, errors=()):
    return status, {'type': 'about:blank', 'title': title, 'status': status, 'detail': detail,
                    'errors': [{'pointer': p, 'detail': d} for p, d in errors]}


CUT = object()      # as an answer: the connection is closed without one; in a stream: it ends there


class Stream(list):
    """The pieces of an event stream."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def handle_one(self):
        length = int(self.headers.get('content-length', 0))
        body = self.rfile.read(length)
        request = {'method': self.command, 'path': self.path, 'headers': {k.lower(): v for k, v in self.headers.items()},
                   'body': json.loads(body) if body else None}
        self.server.requests.append(request)
        answer = self.server.answer(request)
        if answer is CUT:
            self.close_connection = True
            return
        if isinstance(answer, Stream):
            self.send_response(200)
            self.send_header('Content-Type', 'text/event-stream')
            self.send_header('Transfer-Encoding', 'chunked')
            self.end_headers()
            for piece in answer:
                if piece is CUT:
                    self.close_connection = True
                    return
                if callable(piece):
                    piece()
                    continue
                data = piece.encode()
                self.wfile.write(b'%x\r\n%s\r\n' % (len(data), data))
            self.wfile.write(b'0\r\n\r\n')
            return
        status, value, *more = answer
        data = b'' if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header('Content-Type', 'application/problem+json' if status >= 400 else 'application/json')
        for name, header in (more[0] if more else {}).items():
            self.send_header(name, header)
        if status != 204:
            self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = handle_one

    def log_message(self, *args):
        pass


class Quiet(socketserver.ThreadingMixIn):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that has seen enough goes away in the middle of an answer."""


class UnixServer(Quiet, socketserver.UnixStreamServer):
    def get_request(self):
        connection, _ = super().get_request()
        return connection, ('local', 0)


class TcpServer(Quiet, http.server.HTTPServer):
    pass


class Router:
    """Answers by path (without its query): a value or a list of them, taken one after the other; the last one stays."""

    def __init__(self, server, answers):
        self.server = server
        self.answers = {k: list(v) if isinstance(v, list) and not isinstance(v, Stream) else [v] for k, v in answers.items()}
        self.lock = threading.Lock()
        server.requests = self.requests = []
        server.answer = self.answer
        self.thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True)
        self.thread.start()

    def answer(self, request):
        key = f'{request["method"]} {request["path"].partition("?")[0]}'
        with self.lock:
            if key not in self.answers:
                return problem(404, 'Not Found', f'no route for {key}')
            answers = self.answers[key]
            return answers.pop(0) if len(answers) > 1 else answers[0]

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory(prefix='agent-router-ctl-') as path:
        yield pathlib.Path(path)


@contextlib.contextmanager
def router(answers):
    """A router on a Unix socket; yields (router, run), where run() is the program with that socket."""
    with folder() as directory:
        path = directory / 'control.sock'
        r = Router(UnixServer(str(path), Handler), answers)
        try:
            yield r, lambda *arguments, **options: ctl(*arguments, socket=path, **options)
        finally:
            r.close()


def environment(socket=None, **variables):
    """Nothing of the machine's but PATH: no home, no proxy, no login."""
    e = {'PATH': os.environ['PATH'], 'HOME': '/nonexistent', 'TERM': 'xterm'}
    e.update({k: v for k, v in os.environ.items() if k.endswith('SAN_OPTIONS')})
    if socket:
        e['AGENT_ROUTER_SOCKET'] = str(socket)
    e.update(variables)
    return e


def ctl(*arguments, socket=None, stdin=None, env=None, wrap=(), cwd=None):
    return subprocess.run([*wrap, CTL, *arguments], input=stdin, env=environment(socket, **(env or {})), cwd=cwd,
                          stdin=subprocess.DEVNULL if stdin is None else None,
                          capture_output=True, text=True, timeout=harness.DEADLINE_S)


def expect(result, code, stdout=None, stderr=()):
    what = f'exit {result.returncode}\nstdout: {result.stdout}\nstderr: {result.stderr}'
    assert result.returncode == code, f'expected exit {code}, got {what}'
    if stdout is not None:
        equal(result.stdout, stdout, 'stdout')
    for text in [stderr] if isinstance(stderr, str) else stderr:
        assert text in result.stderr, f'"{text}" is not on stderr; {what}'
    return result


# ---- submit ----

def test_submit_sends_what_is_asked():
    with router({'POST /v1/tasks': (201, task())}) as (r, run):
        expect(run('submit', '--agent', 'codex', '-m', 'gpt', '--priority=70', '--workspace', '/srv/x', '-l', 'team=ci',
                   '--label', 'url=a=b', '--metadata', 'n=1', '--capability', 'shell', '--timeout', '90s', '--not-before',
                   '2026-02-01T00:00:00+01:00', '--max-attempts', '3', '--backoff', '1500ms', 'Say "hello"'), 0, TASK + '\n')
        sent, = r.requests
        equal(sent['body'], {
            'prompt': 'Say "hello"', 'agent': 'codex', 'model': 'gpt', 'priority': 70, 'workspace': '/srv/x',
            'labels': {'team': 'ci', 'url': 'a=b'}, 'metadata': {'n': '1'}, 'capabilities': ['shell'], 'timeout_s': 90,
            'not_before': '2026-02-01T00:00:00+01:00', 'retry': {'max_attempts': 3, 'backoff_s': 2}})
        equal(sent['headers']['content-type'], 'application/json')
        assert re.fullmatch(r'[0-9a-f-]{36}', sent['headers']['idempotency-key']), sent
        assert 'authorization' not in sent['headers'], 'a key was sent to the control socket'


def test_submit_sends_no_defaults():
    with router({'POST /v1/tasks': (201, task())}) as (r, run):
        expect(run('submit', '--', '--starts-with-a-dash'), 0)
        equal(r.requests[0]['body'], {'prompt': '--starts-with-a-dash'})
        expect(run('submit', '--json', 'x'), 0, json.dumps(task(), separators=(',', ':')) + '\n')
        expect(run('submit', '--idempotency-key', 'mine', 'x'), 0)
        equal(r.requests[-1]['headers']['idempotency-key'], 'mine')


def test_submit_reads_the_prompt():
    with router({'POST /v1/tasks': (201, task())}) as (r, run), folder() as d:
        text = 'line\n\ttwo é "quoted" \\ ' + 'x' * 200000
        (d / 'prompt').write_text(text)
        expect(run('submit', '--file', str(d / 'prompt')), 0)
        expect(run('submit', '-', stdin=text), 0)
        expect(run('submit', '-f', '-', stdin=text), 0)
        expect(run('submit', stdin=text), 0)
        assert all(q['body']['prompt'] == text for q in r.requests) and len(r.requests) == 4
        expect(run('submit', '--workspace', 'sub', 'x', cwd=d), 2, '', 'No such file')
        (d / 'sub').mkdir()
        expect(run('submit', '--workspace', 'sub', 'x', cwd=d), 0)
        equal(r.requests[-1]['body']['workspace'], os.path.realpath(d / 'sub'))
        expect(run('submit', '--not-before', '+10min', 'x'), 0)
        assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z', r.requests[-1]['body']['not_before'])


def test_usage_errors_exit_2_and_send_nothing():
    with router({}) as (r, run), folder() as d:
        (d / 'binary').write_bytes(b'\xff\xfe')
        for name, text in [('empty', '\n \n'), ('wrong', '{"prompt":"x"}\n\n{"prompt":x}\n'), ('number', '{}\n1\n'),
                           ('many', '{}\n' * 10001), ('good', '{"prompt":"x"}\n')]:
            (d / name).write_text(text)
        for arguments, says in [
            ([], 'expected a command'),
            (['frobnicate'], "unknown command 'frobnicate'"),
            (['lits'], 'did you mean list?'),
            (['key'], 'usage: agent-routerctl key create|list|revoke'),
            (['key', 'make'], 'usage: agent-routerctl key create|list|revoke'),
            (['submit', 'a', 'b'], 'put it in quotes'),
            (['submit', 'a', '--file', 'b'], 'expected one of them'),
            (['submit', ''], 'the prompt is empty'),
            (['submit', '--file', str(d / 'absent')], 'No such file'),
            (['submit', '--file', str(d)], 'Is a directory'),
            (['submit', '--file', str(d / 'binary')], 'not UTF-8'),
            (['submit', '--priority', '101', 'x'], 'expected an integer from 0 to 100'),
            (['submit', '--priority', 'high', 'x'], 'expected an integer from 0 to 100'),
            (['submit', '--timeout', 'soon', 'x'], 'expected a duration'),
            (['submit', '--not-before', 'tomorrow', 'x'], 'expected a time such as'),
            (['submit', '--label', 'x', 'x'], 'expected KEY=VALUE'),
            (['submit', '--label', 'a=1', '--label', 'a=2', 'x'], "'a' is given twice"),
            (['submit', '--idempotency-key', 'a\nX: y', 'x'], 'without a line break'),
            (['submit', '--patience', 'x', 'x'], '--patience'),
            (['submit', '--nonsense', 'x'], 'agent-routerctl submit --help'),
            (['get'], 'agent-routerctl get ID'),
            (['get', 'a', 'b'], 'agent-routerctl get ID'),
            (['submit', '--deadline', 'tomorrow', 'x'], 'expected a time such as'),
            (['submit', '--gpus', '65', 'x'], 'expected an integer from 0 to 64'),
            (['submit', '--cpus', 'many', 'x'], 'expected a number such as'),
            (['submit', '--memory', 'much', 'x'], 'expected a size such as'),
            (['submit', '--max-tokens', 'x', 'x'], '--max-tokens'),
            (['submit', '--max-cost-usd', '1,50', 'x'], 'expected dollars'),
            (['submit', '--agents', 'a,,b', 'x'], 'names with commas between'),
            (['submit', '--agents', 'a,b', '--follow', 'x'], 'use --wait'),
            (['cancel'], 'agent-routerctl cancel ID'),
            (['cancel', 'a', '--all'], 'expected one of them'),
            (['retry'], 'agent-routerctl retry ID'),
            (['batch'], 'usage: agent-routerctl batch submit|list|show|cancel|retry'),
            (['batch', 'submit'], 'batch submit FILE.jsonl'),
            (['batch', 'submit', str(d / 'absent')], 'No such file'),
            (['batch', 'submit', str(d / 'binary')], 'binary:1: '),
            (['batch', 'submit', str(d / 'empty')], 'no task; expected one JSON object a line'),
            (['batch', 'submit', str(d / 'wrong')], 'wrong:3: '),
            (['batch', 'submit', str(d / 'number')], 'number:2: expected a JSON object'),
            (['batch', 'submit', str(d / 'many')], 'many:10001: more than 10000 tasks'),
            (['batch', 'submit', '--wait', '--no-wait', 'x'], 'expected one of them'),
            (['batch', 'submit', '--metadata', 'x', str(d / 'good')], 'expected KEY=VALUE'),
            (['batch', 'submit', '--max-cost-usd', 'x', str(d / 'good')], 'expected dollars'),
            (['batch', 'show'], 'batch show ID'),
            (['batch', 'cancel'], 'batch cancel ID'),
            (['batch', 'retry'], 'batch retry ID'),
            (['batch', 'list', '--limit', '501'], 'expected an integer from 1 to 500'),
            (['follow'], 'agent-routerctl follow ID'),
            (['list', 'x'], 'agent-routerctl get ID'),
            (['list', '--limit', '0'], 'expected an integer from 1'),
            (['list', '--all', '--limit', '5'], 'expected one of them'),
            (['list', '--label', 'x'], 'expected KEY=VALUE'),
            (['key', 'create'], '--name NAME'),
            (['key', 'create', '--name', 'x', '--role', 'root'], 'expected submitter or admin'),
            (['key', 'revoke'], 'key revoke NAME'),
            (['status', 'x'], 'status takes no arguments'),
            (['--url', 'http://127.0.0.1:1', '--socket', '/x', 'status'], 'expected one of them'),
            (['--url', 'ftp://127.0.0.1', 'status'], 'is not the URL of a router'),
            (['--url', 'http://me:secret@127.0.0.1', 'status'], 'the URL holds a user name'),
            (['--url', 'http://127.0.0.1:1', '--key-file', str(d / 'absent'), 'status'], 'cannot read the key file'),
            (['--socket', '/' + 'x' * 200, 'status'], "the socket's path has more than 107 bytes"),
        ]:
            expect(run(*arguments), 2, '', says)
        equal(r.requests, [])


def test_submit_is_sent_again_where_the_connection_breaks():
    with router({'POST /v1/tasks': [CUT, CUT, (201, task())]}) as (r, run):
        expect(run('submit', 'x'), 0, TASK + '\n')
        equal(len(r.requests), 3)
        equal(len({q['headers']['idempotency-key'] for q in r.requests}), 1, 'idempotency keys of one task')


def test_wait_prints_the_result_and_exits_by_outcome():
    for state, code in [('succeeded', 0), ('failed', 1), ('dead', 1), ('rejected', 1), ('cancelled', 5), ('timed_out', 5),
                        ('expired', 5)]:
        with router({'POST /v1/tasks': (201, task()),
                     f'GET /v1/tasks/{TASK}/events': Stream([event(1, 'text', {'text': 'unseen'}), ': heartbeat\n\n', end(state)]),
                     f'GET /v1/tasks/{TASK}': (200, finished(state, reason='authentication', detail='the key is refused'))}
                    ) as (r, run):
            result = expect(run('submit', '--wait', 'x'), code, 'forty-two\n')
            if code:
                for text in (TASK, state, 'authentication', 'the key is refused', f'agent-routerctl get {TASK} --transcript'):
                    assert text in result.stderr, result
            else:
                equal(result.stderr, '')
            equal(json.loads(run('submit', '--wait', '--json', 'x').stdout)['state'], state)


# ---- follow ----

EVENTS = [
    event(1, 'state', {'state': 'running', 'reason': None, 'detail': None}),
    event(2, 'text', {'text': 'Looking.'}),
    event(3, 'tool_call', {'name': 'shell', 'input': {'command': 'ls -la'}}),
    event(4, 'tool_result', {'name': 'shell', 'output': 'a\nb', 'exit_code': 2, 'is_error': False}),
    event(5, 'warning', {'message': 'reconnecting'}),
    event(6, 'output', {'stream': 'stderr', 'text': 'raw line'}),
    event(7, 'text', {'text': 'All '}),
    event(8, 'text', {'text': 'done.', 'delta': True}),
    event(9, 'result', {'text': 'All done.'}),
    event(10, 'usage', {'input_tokens': 1234, 'cached_input_tokens': 200, 'output_tokens': 56, 'reasoning_tokens': 7}),
]


def test_follow_parts_the_answer_from_the_rest():
    with router({'POST /v1/tasks': (201, task()),
                 f'GET /v1/tasks/{TASK}/events': Stream([*EVENTS, end('succeeded')])}) as (r, run):
        for result in (run('follow', TASK), run('submit', '--follow', 'x')):
            expect(result, 0, 'Looking.\nAll done.\n', ['• running', '→ shell: {"command":"ls -la"}', '← exit 2: a b',
                   'warning: reconnecting', 'stderr: raw line', '1234 in (200 cached), 56 out (7 reasoning)'])
            assert '\033' not in result.stdout + result.stderr, 'colour outside a terminal'
        equal(r.requests[0]['headers']['accept'], 'text/event-stream')
        lines = [json.loads(line) for line in run('follow', '--json', TASK).stdout.splitlines()]
        equal([e['type'] for e in lines], ['state', 'text', 'tool_call', 'tool_result', 'warning', 'output', 'text', 'text',
                                           'result', 'usage', 'end'])
        equal(lines[-1], {'type': 'end', 'data': {'state': 'succeeded'}})


def test_follow_shows_a_result_that_was_not_said():
    with router({f'GET /v1/tasks/{TASK}/events': Stream([event(1, 'text', {'text': 'one'}), event(2, 'result', {'text': 'two'}),
                                                         end('failed')])}) as (r, run):
        expect(run('follow', TASK), 1, 'one\ntwo\n')


def test_follow_shows_no_control_characters():
    evil = 'a\x1b]52;c;cm0=\x07\x9b2J'
    with router({f'GET /v1/tasks/{TASK}/events': Stream([event(1, 'tool_call', {'name': evil, 'input': evil}), event(2, 'error', {'message': evil}),
                                                         end('failed')])}) as (r, run):
        err = run('follow', TASK).stderr
        assert '→ a?]52;c;cm0=??2J:' in err, err
        assert not set(err) & {'\x1b', '\x07', '\x9b'}, err


def test_follow_goes_on_after_a_lost_connection():
    with router({f'GET /v1/tasks/{TASK}/events': [
        Stream([event(1, 'text', {'text': 'one'}), event(2, 'text', {'text': 'two'}), 'id: 3\nevent: text\ndata: {"se', CUT]),
        CUT,
        problem(503, 'Service Unavailable', 'starting'),
        Stream([event(2, 'text', {'text': 'two'}), event(3, 'text', {'text': 'three'})]),
        Stream([end('succeeded')]),
    ]}) as (r, run):
        expect(run('follow', TASK), 0, 'one\ntwo\nthree\n', 'lost the connection; trying again')
        equal([q['headers'].get('last-event-id') for q in r.requests], [None, '2', '2', '2', '3'])


def test_follow_outlives_a_restart_of_the_router():
    with folder() as d:
        path = d / 'control.sock'
        first = Router(UnixServer(str(path), Handler),
                       {f'GET /v1/tasks/{TASK}/events': Stream([event(1, 'text', {'text': 'one'}), CUT])})
        with subprocess.Popen([CTL, 'follow', TASK], env=environment(path), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True) as p:
            equal(p.stdout.readline(), 'one\n')
            first.close()
            path.unlink()
            assert 'lost the connection' in p.stderr.readline()
            second = Router(UnixServer(str(path), Handler),
                            {f'GET /v1/tasks/{TASK}/events': Stream([event(2, 'text', {'text': 'two'}), end('cancelled')])})
            try:
                equal(p.communicate(timeout=harness.DEADLINE_S)[0], 'two\n')
                equal(p.returncode, 5)
                equal(second.requests[0]['headers']['last-event-id'], '1')
            finally:
                second.close()


def test_follow_gives_up_in_the_end():
    with router({f'GET /v1/tasks/{TASK}/events': [Stream([event(1, 'text', {'text': 'one'}), CUT]), CUT]}) as (r, run):
        expect(run('follow', '--patience', '500ms', TASK), 3, 'one\n', [f'go on with: agent-routerctl follow {TASK}'])


def test_follow_past_the_end_asks_for_the_state():
    with router({f'GET /v1/tasks/{TASK}/events': [Stream([event(1, 'text', {'text': 'one'}), CUT]), (204, None)],
                 f'GET /v1/tasks/{TASK}': (200, finished('timed_out'))}) as (r, run):
        expect(run('follow', TASK), 5, 'one\n')


def test_follow_of_what_is_not_there():
    with router({f'GET /v1/tasks/{TASK}/events': problem(404, 'Not Found', 'there is no such task')}) as (r, run):
        expect(run('follow', TASK), 4, '', 'there is no such task')
        equal(len(r.requests), 1, 'a refusal is not tried again')


def test_interrupted_wait_leaves_the_task():
    ready = threading.Event()
    with router({'POST /v1/tasks': (201, task()),
                 f'GET /v1/tasks/{TASK}/events': Stream([event(1, 'text', {'text': 'one'}), ready.set, threading.Event().wait])}
                ) as (r, run):
        with subprocess.Popen([CTL, 'submit', '--wait', 'x'], env=environment(r.server.server_address), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as p:
            assert ready.wait(harness.DEADLINE_S)
            p.send_signal(signal.SIGINT)
            out, err = p.communicate(timeout=harness.DEADLINE_S)
            equal((p.returncode, out), (130, ''))
            assert f'agent-routerctl follow {TASK}' in err, err


# ---- errors ----

def test_refusals_carry_the_way_out():
    for answer, code, says in [
        (problem(422, 'Unprocessable Content', 'the task is not valid', [('/priority', 'expected an integer from 0 to 100'),
                                                                        ('/agent', 'is not installed: npm install it')]),
         4, ['422 Unprocessable Content: the task is not valid', '  /priority: expected an integer from 0 to 100\n',
             '  /agent: is not installed: npm install it\n']),
        (problem(422, 'Unprocessable Content', 'no such agent', [('/agent', 'no such agent')]), 4,
         ['422 Unprocessable Content: no such agent\n  /agent\n']),
        (problem(400, 'Bad Request', '/x is not a known field', [('/x', '/x is not a known field')]), 4,
         ['400 Bad Request: /x is not a known field\n']),
        (problem(401, 'Unauthorized', 'a key is needed'), 4, ['AGENT_ROUTER_KEY', 'key create --name NAME']),
        (problem(403, 'Forbidden', 'not yours'), 4, ['an admin key, or root on the control socket']),
        (problem(404, 'Not Found', 'no such task'), 4, ['404 Not Found: no such task']),
        ((*problem(429, 'Too Many Requests', 'the queue is full'), {'Retry-After': '7'}), 6, ['the queue is full', 'try again in 7 s']),
        (problem(503, 'Service Unavailable', 'the store failed'), 6, ['the store failed']),
        ((500, None), 6, ['500']),
        ((302, None, {'Location': 'http://127.0.0.1:1/'}), 4, ['302']),
        ((201, {'unexpected': True}), 6, ['is this an agent-router?']),
        ((422, {'title': 'a\033[2Jb', 'detail': 'c\nd'}), 4, ['a?[2Jb: c d\n']),
    ]:
        with router({'POST /v1/tasks': answer}) as (r, run):
            expect(run('submit', 'x'), code, '', says)
            equal(len(r.requests), 1)


def test_no_router():
    with folder() as d:
        expect(ctl('status', socket=d / 'absent.sock'), 3, '', ['No such file or directory', 'systemctl start agent-routerd',
               '--socket PATH', 'agent-routerctl doctor'])
        dead = socket.socket(socket.AF_UNIX)
        dead.bind(str(d / 'dead.sock'))
        expect(ctl('submit', 'x', '--wait', socket=d / 'dead.sock'), 3, '', 'Connection refused')
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            expect(ctl('--url', f'http://127.0.0.1:{s.getsockname()[1]}', 'status'), 3, '', ['cannot reach http://127.0.0.1:'])
        dead.close()


def test_the_default_socket_is_the_persons_own():
    with folder() as d:
        (d / 'agent-router').mkdir()
        r = Router(UnixServer(str(d / 'agent-router/control.sock'), Handler), {'GET /v1/agents': (200, {'agents': []})})
        try:
            expect(ctl('agents', env={'XDG_RUNTIME_DIR': str(d)}), 0)
            equal(len(r.requests), 1)
        finally:
            r.close()
    with folder() as d:
        expect(ctl('--socket', str(d / 'x'), 'status', env={'AGENT_ROUTER_SOCKET': '/y', 'AGENT_ROUTER_URL': 'http://127.0.0.1:1'}),
               3, '', str(d / 'x'))


# ---- keys over TCP ----

@contextlib.contextmanager
def tcp_router(answers):
    r = Router(TcpServer(('127.0.0.1', 0), Handler), answers)
    try:
        yield r, f'http://127.0.0.1:{r.server.server_address[1]}'
    finally:
        r.close()


def test_the_key_comes_from_the_environment_or_a_file():
    with tcp_router({'GET /v1/status': (200, {}), 'GET /base/v1/status': (200, {})}) as (r, url), folder() as d:
        key_file = d / 'key'
        key_file.write_text('ark_from_file\n')
        key_file.chmod(0o600)
        sent = lambda: r.requests[-1]['headers'].get('authorization')
        proxy = {'http_proxy': 'http://127.0.0.1:1', 'ALL_PROXY': 'http://127.0.0.1:1'}
        expect(ctl('--json', 'status', env={'AGENT_ROUTER_URL': url + '/', 'AGENT_ROUTER_KEY': 'ark_x', **proxy}), 0, '{}\n')
        equal(sent(), 'Bearer ark_x')
        expect(ctl('--url', url + '/base/', '--key-file', key_file, 'status', '--json', env={'AGENT_ROUTER_KEY': 'ark_x'}), 0, '{}\n')
        equal((sent(), r.requests[-1]['path']), ('Bearer ark_from_file', '/base/v1/status'))
        expect(ctl('--url', url, 'status', '--json'), 0)
        equal(sent(), None)
        key_file.chmod(0o644)
        expect(ctl('--url', url, '--key-file', key_file, 'status', '--json'), 0, '{}\n', f'chmod 600 {key_file}')
        count = len(r.requests)
        for bad in ('a b', 'a\r\nX-Evil: 1', '\n', 'é'):
            expect(ctl('--url', url, 'status', env={'AGENT_ROUTER_KEY': bad}), 2, '', 'is not one')
        equal(len(r.requests), count)
        expect(ctl('--url', url, 'submit', '--workspace', 'relative', 'x'), 2, '', 'absolute path on the router')


# ---- get, list, cancel ----

def test_get():
    attempt = {'number': 1, 'id': 'a', 'started_at': '2026-01-31T09:30:01Z', 'execed_at': None, 'finished_at': '2026-01-31T09:30:13Z',
               'outcome': 'failed', 'reason': 'rate_limited', 'detail': '429', 'exit_code': 1, 'signal': None, 'usage': None,
               'memory_peak_bytes': 150 << 20, 'cpu_us': 1500000}
    full = finished(attempts=[attempt, {**attempt, 'number': 2, 'exit_code': None, 'signal': 9, 'outcome': 'succeeded'}],
                    labels={'team': 'ci', 'n': '2'}, usage={'input_tokens': 1234, 'cached_input_tokens': 200,
                                                            'output_tokens': 56, 'reasoning_tokens': 7})
    events = [json.loads(re.search(r'data: (.*)', e).group(1)) for e in EVENTS]
    with router({f'GET /v1/tasks/{TASK}': (200, {**full, 'prompt': 'Why?', 'transcript': events})}) as (r, run):
        out = expect(run('get', TASK), 0).stdout
        for text in (TASK, 'succeeded', 'team=ci n=2', '2026-01-31T09:30:13Z (after 12s)', 'rate_limited: 429', 'signal 9',
                     '150 MiB', '1s', '1234 in (200 cached), 56 out (7 reasoning)', 'forty-two', 'Why?'):
            assert text in out, out
        equal(r.requests[-1]['path'], f'/v1/tasks/{TASK}')
        out = expect(run('get', TASK, '--transcript', '--prompt'), 0).stdout
        for text in ('Looking.\n', '→ shell: {"command":"ls -la"}', '← exit 2: a b', 'All done.\n'):
            assert text in out, out
        equal(r.requests[-1]['path'], f'/v1/tasks/{TASK}?include=transcript,prompt')
        expect(run('get', TASK, '--result'), 0, 'forty-two\n')
        equal(json.loads(run('get', TASK, '--json').stdout)['id'], TASK)
        expect(run('get', '../keys'), 4)
        equal(r.requests[-1]['path'], '/v1/tasks/..%2Fkeys')
    with router({f'GET /v1/tasks/{TASK}': (200, task())}) as (r, run):
        expect(run('get', TASK, '--result'), 1, '', f'agent-routerctl follow {TASK}')
        assert 'nothing yet' in run('get', TASK, '--transcript').stdout


def page(first, n, cursor):
    return 200, {'tasks': [task(id=f'0190b3a4-0000-7000-8000-{i:012d}', labels={'i': str(i)}) for i in range(first, first + n)],
                 'next_cursor': cursor}


def test_list():
    with router({'GET /v1/tasks': [page(0, 100, 'c/1+'), page(0, 0, 'c/2'), page(100, 50, None), page(0, 50, 'more'), page(0, 3, None),
                                   page(0, 0, None), page(0, 0, None), page(0, 2, 'x')]}) as (r, run):
        lines = expect(run('list', '--all', '--state', 'queued', '--agent', 'codex', '--label', 'team=a&b', '-l', 'x=ä'), 0).stdout.splitlines()
        equal(len(lines), 151)
        equal([q['path'] for q in r.requests],
              ['/v1/tasks?limit=100&state=queued&agent=codex&label=team%3Da%26b&label=x%3D%C3%A4',
               '/v1/tasks?limit=100&state=queued&agent=codex&cursor=c%2F1%2B&label=team%3Da%26b&label=x%3D%C3%A4',
               '/v1/tasks?limit=100&state=queued&agent=codex&cursor=c%2F2&label=team%3Da%26b&label=x%3D%C3%A4'])
        equal(lines[0].split(), ['id', 'state', 'agent', 'prio', 'age', 'ran', 'principal', 'why', 'labels'])
        assert re.fullmatch(r'\S{36}  queued  codex    50 +\d+d\d\dh +-  uid:0 +i=149', lines[-1]), lines[-1]
        equal(len({line.index('queued') for line in lines[1:]}), 1, 'alignment')
        expect(run('list'), 0, stderr='agent-routerctl list --all')
        equal(r.requests[-1]['path'], '/v1/tasks?limit=50')
        equal(len(run('list', '--limit', '3').stdout.splitlines()), 4)
        expect(run('list'), 0, 'no tasks yet; submit one with: agent-routerctl submit "Say hello"\n')
        expect(run('list', '--state', 'dead'), 0, 'no task matches; without the filters: agent-routerctl list\n')
        value = json.loads(run('list', '--json', '--limit', '2').stdout)
        equal((len(value['tasks']), value['more']), (2, True))


BATCH = '0190b3a4-0000-7000-8000-00000000000b'


def batch(done=0, n=4, **changes):
    return {'id': BATCH, 'principal': 'uid:0', 'metadata': {}, 'select': None, 'on_denied': 'reject', 'cancel_requested': False,
            'created_at': '2026-01-31T09:30:00Z', 'n_tasks': n, 'counts': {'queued': n - done} | ({'succeeded': done} if done else {}),
            'done': done, 'progress': done / n, 'state': 'finished' if done == n else 'running', 'usage': None,
            'max_tokens': None, 'max_cost_usd': None, **changes}


def test_submit_with_all_that_a_queue_needs():
    with router({'POST /v1/tasks': (201, task())}) as (r, run):
        expect(run('submit', '--group', 'g', '--deadline', '2026-02-01T00:00:00Z', '--gpus', '2', '--cpus', '0.5', '--memory', '8G',
                   '--after', 'a', '--after', 'b', '--on', 'finish', '--on-unmet', 'run', '--max-tokens', '100', '--max-cost-usd', '2.50',
                   'x'), 0)
        equal(r.requests[0]['body'], {
            'prompt': 'x', 'group': 'g', 'deadline': '2026-02-01T00:00:00Z', 'resources': {'gpus': 2, 'cpus': 0.5, 'memory': 8 << 30},
            'after': ['a', 'b'], 'on': 'finish', 'on_unmet': 'run', 'max_tokens': 100, 'max_cost_usd': 2.5})


def test_submit_to_several_agents():
    tasks = [finished(agent='codex', text='one'), task(agent='claude', state='cancelled', detail='another was first')]
    with router({'POST /v1/tasks': (201, batch(n=2, select='first')),
                 f'GET /v1/batches/{BATCH}': [(200, batch(n=2, select='first')),
                                              (200, batch(n=2, done=2, counts={'succeeded': 1, 'cancelled': 1}, select='first', tasks=tasks))],
                 f'GET /v1/tasks/{BATCH}': (200, batch(n=2, done=2, select='all', tasks=tasks))}) as (r, run):
        expect(run('submit', '--agents', 'codex,claude', '--select', 'first', 'x'), 0, BATCH + '\n')
        equal(r.requests[0]['body'], {'prompt': 'x', 'agents': ['codex', 'claude'], 'select': 'first'})
        out = expect(run('submit', '--agents', 'codex,claude', '--select', 'first', '--wait', 'x'), 0).stdout
        assert re.search(r'codex +succeeded.*\none\n.*claude +cancelled.*\nanother was first\n', out, re.S), out
        assert 'claude' in expect(run('get', BATCH), 0).stdout


def test_batch_submit():
    lines = [{'prompt': 'a', 'agent': 'codex'}, {'prompt': 'b', 'after': ['#0']}]
    with router({'POST /v1/batches': [(201, {'id': BATCH, 'task_ids': ['x', 'y']})],
                 f'GET /v1/batches/{BATCH}': [(200, batch(n=2)), CUT, (200, batch(n=2, done=1)), (200, batch(n=2, done=2))]}) as (r, run), \
            folder() as d:
        (d / 'f').write_text(json.dumps(lines[0]) + '\n\n' + json.dumps(lines[1]))
        result = expect(run('batch', 'submit', '--metadata', 'k=v', '--max-tokens', '9', '--max-cost-usd', '1.5', '--on-denied', 'refuse_all',
                            '--idempotency-key', 'mine', str(d / 'f')), 0, BATCH + '\n', ['0 of 2 done after', '2 succeeded'])
        assert '\r' not in result.stderr, ascii(result.stderr)
        equal(r.requests[0]['body'], {'tasks': lines, 'metadata': {'k': 'v'}, 'max_tokens': 9, 'max_cost_usd': 1.5, 'on_denied': 'refuse_all'})
        equal(r.requests[0]['headers']['idempotency-key'], 'mine')
        n = len(r.requests)
        expect(run('batch', 'submit', '--no-wait', '-', stdin='{"prompt":"a"}\r\n'), 0, BATCH + '\n')
        equal((len(r.requests) - n, r.requests[-1]['body']), (1, {'tasks': [{'prompt': 'a'}]}))
        equal(json.loads(run('batch', 'submit', '--json', '-', stdin='{"prompt":"a"}').stdout), batch(n=2, done=2))


def test_batch_submit_tells_the_line():
    with router({'POST /v1/batches': [problem(400, 'Bad Request', '/tasks/1/prompt is required', [('/tasks/1/prompt', '/tasks/1/prompt is required')]),
                                      problem(422, 'Unprocessable', 'there is no agent', [('/tasks/0/agent', 'there is no agent')]),
                                      problem(429, 'Too Many', 'this caller has too many'), CUT, problem(409, 'Conflict', 'under way'),
                                      (201, {'id': BATCH, 'task_ids': []})],
                 f'GET /v1/batches/{BATCH}': (200, batch(done=4, counts={'succeeded': 3, 'failed': 1}))}) as (r, run):
        text = '\n{"prompt":"a"}\n\n{}\n'
        expect(run('batch', 'submit', '-', stdin=text), 4, '', ['stdin:4: prompt is required', 'none of its 2 tasks was submitted'])
        expect(run('batch', 'submit', '-', stdin=text), 4, '', 'stdin:2: agent: there is no agent')
        expect(run('batch', 'submit', '-', stdin=text), 6, '', 'this caller has too many')
        # A connection that breaks is made again, and its request may still be under way; one task failed: exit code 1.
        expect(run('batch', 'submit', '-', stdin=text), 1, BATCH + '\n', ['3 succeeded, 1 failed', 'batch retry'])
        equal(len({q['headers']['idempotency-key'] for q in r.requests[3:6]}), 1)


def test_batch_progress_on_a_terminal():
    with router({'POST /v1/batches': (201, {'id': BATCH, 'task_ids': []}),
                 f'GET /v1/batches/{BATCH}': [(200, batch(done=2)), (200, batch(done=4))]}) as (r, run), folder() as d:
        (d / 'f').write_text('{"prompt":"a"}')
        code, out = on_terminal(['batch', 'submit', str(d / 'f')], environment(r.server.server_address))
        equal(code, 0)
        assert '[###############...............] 2/4' in out and '\r\033[K' in out, ascii(out)


def test_batches():
    with router({'GET /v1/batches': [(200, {'batches': [batch(done=1)], 'next_cursor': None}), (200, {'batches': [], 'next_cursor': None})],
                 f'GET /v1/batches/{BATCH}': (200, batch(done=1, metadata={'k': 'v'}, max_tokens=9)),
                 f'POST /v1/batches/{BATCH}/cancel': (200, batch(done=4, counts={'cancelled': 4})),
                 f'POST /v1/batches/{BATCH}/retry': (200, {'retried': 3})}) as (r, run):
        out = expect(run('batch', 'list'), 0).stdout
        assert re.search(rf'{BATCH} +running +1/4 .* 3 queued, 1 succeeded', out), out
        expect(run('batch', 'list'), 0, 'no batches yet; submit one with: agent-routerctl batch submit FILE.jsonl\n')
        out = expect(run('batch', 'show', BATCH), 0).stdout
        assert '3 queued, 1 succeeded' in out and '{"k":"v"}' in out and f'list --batch {BATCH}' in out, out
        expect(run('batch', 'cancel', BATCH), 0, f'{BATCH}: 4 cancelled\n')
        expect(run('batch', 'retry', BATCH), 0, f'{BATCH}: 3 tasks run again\n')
        expect(run('batch', 'retry', 'gone', BATCH), 4, f'{BATCH}: 3 tasks run again\n')


def test_why():
    waiting = {'reason': 'limit', 'detail': "group 'g' runs 2", 'since': '2026-01-31T09:30:00Z', 'until': None}
    gate = {'reason': 'gate', 'detail': 'rate-limited', 'since': '2026-01-31T09:30:00Z', 'until': '2126-01-31T09:30:00Z'}
    full = task(waiting=waiting, group='g', resources={'gpus': 1, 'cpus': 0.5, 'memory': 8 << 30}, deadline='2026-02-01T00:00:00Z',
                after=[{'id': 'x', 'state': 'running', 'on': 'finish'}], batch=BATCH, max_tokens=7, max_cost_usd=0.5)
    with router({'GET /v1/tasks': (200, {'tasks': [full, task(waiting=gate), task(state='dead', reason='rate_limited', waiting=None)],
                                         'next_cursor': None}),
                 f'GET /v1/tasks/{TASK}': (200, full)}) as (r, run):
        lines = expect(run('list', '--state', 'dead', '--group', 'g', '--batch', BATCH), 0).stdout.splitlines()
        equal(r.requests[0]['path'], f'/v1/tasks?limit=50&state=dead&group=g&batch={BATCH}')
        assert re.search(r'uid:0 +limit *$', lines[1]) and re.search(r'gate \d+d\d\dh', lines[2]) and 'rate_limited' in lines[3], lines
        out = expect(run('get', TASK), 0).stdout
        for text in ["limit: group 'g' runs 2", '1 GPUs, 0.5 CPUs, 8.0 GiB', 'x (running, on finish)', '2026-02-01T00:00:00Z', BATCH, 'max cost    0.5']:
            assert text in out, out


def test_cancel_and_retry_many():
    with router({'POST /v1/tasks/cancel': (200, {'cancelled': 7}), 'POST /v1/tasks/a/retry': (200, task(id='a')),
                 'POST /v1/tasks/b/retry': problem(409, 'Conflict', 'it has not ended')}) as (r, run), folder():
        expect(run('cancel', '--all'), 0, '7 tasks cancelled\n')
        expect(run('cancel', '--group', 'g', '--state', 'queued', '--agent', 'codex', '--label', 'a=b'), 0, '7 tasks cancelled\n')
        equal([q['body'] for q in r.requests], [{'all': True}, {'group': 'g', 'state': 'queued', 'agent': 'codex', 'label': 'a=b'}])
        # On a terminal it asks; what it reads there is not a yes.
        env = environment(r.server.server_address)
        code, out = on_terminal(['cancel', '--all', '--yes'], env)
        equal((code, '[y/N]' in out), (0, False))
        n = len(r.requests)
        code, out = on_terminal(['cancel', '--group', 'g'], env, typed=b'n\n')
        assert code == 2 and 'Cancel all tasks of group g? [y/N]' in out and len(r.requests) == n, out
        code, out = on_terminal(['cancel', '--all'], env, typed=b'y\n')
        assert code == 0 and '7 tasks cancelled' in out, out
        expect(run('retry', 'b', 'a'), 4, 'a queued\n', 'it has not ended')


def test_cancel():
    with router({'POST /v1/tasks/a/cancel': (200, task(id='a', state='cancelled')),
                 'POST /v1/tasks/b/cancel': problem(404, 'Not Found', 'there is no such task'),
                 'POST /v1/tasks/c/cancel': (200, task(id='c', state='running'))}) as (r, run):
        expect(run('cancel', 'a', 'b', 'c'), 4, 'a cancelled\nc is being cancelled\n', 'there is no such task')
        equal([q['path'] for q in r.requests], [f'/v1/tasks/{i}/cancel' for i in 'abc'])
        equal(r.requests[0]['body'], None)
        equal([json.loads(line)['id'] for line in run('cancel', '--json', 'a', 'c').stdout.splitlines()], ['a', 'c'])


# ---- keys, status, agents ----

def test_keys():
    key = {'id': 'k', 'name': 'ci', 'role': 'submitter', 'run_as': None}
    with router({'POST /v1/keys': (201, {**key, 'key': 'ark_secret'}),
                 'GET /v1/keys': [(200, {'keys': [{**key, 'created_at': '2026-01-31T09:30:00Z', 'revoked_at': None, 'created_by': 'root'},
                                                  {**key, 'name': 'old', 'role': 'admin', 'run_as': 'build',
                                                   'created_at': '2026-01-31T09:30:00Z', 'revoked_at': '2026-02-01T00:00:00Z',
                                                   'created_by': 'root'}]}), (200, {'keys': []})],
                 'DELETE /v1/keys/a%20b': (204, None)}) as (r, run):
        result = expect(run('key', 'create', '--name', 'ci'), 0, 'ark_secret\n')
        equal(result.stderr, '')
        equal(r.requests[-1]['body'], {'name': 'ci', 'role': 'submitter'})
        expect(run('key', 'create', '--name', 'ci', '--role', 'admin', '--run-as', 'build'), 0)
        equal(r.requests[-1]['body'], {'name': 'ci', 'role': 'admin', 'run_as': 'build'})
        out = expect(run('key', 'list'), 0).stdout
        assert 'valid' in out and 'revoked 2026-02-01T00:00:00Z' in out and 'build' in out, out
        expect(run('key', 'list'), 0, 'no keys yet; make one with: agent-routerctl key create --name NAME\n')
        expect(run('key', 'revoke', 'a b'), 0, 'key a b is revoked\n')
        expect(run('key', 'revoke', 'a b', '--json'), 0, '{"revoked":true}\n')
        expect(run('key', 'revoke', 'gone'), 4)


AGENTS = [{'name': 'codex', 'title': 'OpenAI Codex', 'capabilities': [], 'installed': True, 'executable': '/usr/bin/codex',
           'hint': 'npm', 'concurrency': 8, 'running': 2},
          {'name': 'claude', 'title': 'Claude Code', 'capabilities': [], 'installed': False, 'executable': None,
           'hint': 'npm install -g @anthropic-ai/claude-code', 'concurrency': 8, 'running': 0}]


def test_status_and_agents():
    status = {'version': '0.1.0', 'instance': '0190b3a4', 'pid': 77, 'uptime_s': 7800, 'tasks': {'queued': 3, 'running': 2, 'failed': 0},
              'running': 2, 'queued': 3, 'limits': {'running': 100, 'queued': 100000}, 'agents': AGENTS,
              'launcher': {'connected': True, 'generation': 'g', 'capabilities': ['landlock.7', 'seccomp'],
                           'absent': ['cgroup: not writable; run under systemd']},
              'store': {'failed': False, 'commits': 12, 'wal_bytes': 4096, 'database_bytes': 1 << 20}, 'reactor': {}}
    with router({'GET /v1/status': [(200, status), (200, {**status, 'tasks': {}, 'launcher': {'connected': False},
                                                         'store': {'failed': True}})],
                 'GET /v1/agents': [(200, {'agents': AGENTS}), (200, {'agents': []})]}) as (r, run):
        out = expect(run('status'), 0).stdout
        for text in ('agent-routerd 0.1.0, pid 77, up 2h10m, instance 0190b3a4', '3 queued, 2 running\n', '2 of 100 running, 3 of 100000 queued',
                     'connected: landlock.7 seccomp', 'cgroup: not writable; run under systemd', '1.0 MiB, 4.0 KiB of it in the log',
                     '2/8 ', '/usr/bin/codex', 'not installed', 'npm install -g @anthropic-ai/claude-code'):
            assert text in out, out
        out = expect(run('status'), 0).stdout
        for text in ('none yet; submit one', 'not connected', 'nothing is written any more'):
            assert text in out, out
        assert '/usr/bin/codex' in expect(run('agents'), 0).stdout
        assert 'no agents' in expect(run('agents'), 0).stdout


# ---- terminals ----

def on_terminal(arguments, env, columns=100, typed=b''):
    """Runs the program on a terminal of this width, where this is typed; what it wrote there."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.clear()
        os.environ.update(env)
        import fcntl, struct, termios
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
        os.execv(CTL, [str(CTL), *arguments])
    out = b''
    os.write(fd, typed)
    with contextlib.suppress(OSError):      # EIO: the other end is closed
        while select.select([fd], [], [], harness.DEADLINE_S)[0] and (data := os.read(fd, 65536)):
            out += data
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), out.decode()


def test_terminal():
    bad = 'title \033]0;x\007 clear \033[2J \u009b2J é'
    with router({'GET /v1/tasks': (200, {'tasks': [task(labels={'x': 'y' * 100})], 'next_cursor': None}),
                 f'GET /v1/tasks/{TASK}': (200, finished(text=bad)),
                 f'GET /v1/tasks/{TASK}/events': Stream([event(1, 'text', {'text': bad}), end('succeeded')])}) as (r, run):
        env = environment(r.server.server_address)
        code, out = on_terminal(['list'], env, 100)
        equal(code, 0)
        assert '\033[1mid\033[0m' in out and '…' in out, out
        assert all(len(re.sub('\033\\[[0-9]*m', '', line)) <= 100 for line in out.splitlines()), out
        code, out = on_terminal(['list'], {**env, 'NO_COLOR': '1'}, 100)
        assert '\033' not in out, out
        for arguments in (['get', TASK, '--result'], ['follow', TASK], ['get', TASK]):
            code, out = on_terminal(arguments, {**env, 'NO_COLOR': '1'})
            assert '\033' not in out and '\007' not in out and '\u009b' not in out, ascii(out)
            assert 'title ?]0;x? clear ?[2J ?2J é' in out, ascii(out)
        equal(run('get', TASK, '--result').stdout, bad + '\n', 'bytes through a pipe')


# ---- doctor ----

def test_doctor_where_io_uring_is_refused():
    if not REFUSE_IO_URING.exists():
        raise harness.Skip('tests/integration/refuse-io-uring is not built')
    result = ctl('doctor', wrap=[REFUSE_IO_URING])
    assert re.search(r'^missing +io_uring +Operation not permitted\n +→ .*io_uring_setup', result.stdout, re.M), result.stdout
    equal(result.returncode, 1)
    value = json.loads(ctl('doctor', '--json', wrap=[REFUSE_IO_URING]).stdout)
    equal(value['ok'], False)
    check, = [c for c in value['checks'] if c['name'] == 'io_uring']
    equal(check['status'], 'missing')
    assert 'seccomp' in check['remedy'], check


def test_doctor_is_sure_of_each_check():
    result = ctl('doctor', '--json')
    value = json.loads(result.stdout)
    names = [c['name'] for c in value['checks']]
    for name in ('kernel', 'io_uring', 'landlock', 'seccomp', 'namespaces', 'cgroup v2', 'store key', 'socket', 'codex', 'gemini',
                 'copilot', 'claude'):
        equal(names.count(name), 1, name)
    for c in value['checks']:
        assert c['status'] in ('ok', 'warning', 'missing') and c['detail'], c
        equal(c['remedy'] is None, c['status'] == 'ok', f'remedy of {c}')
    equal(result.returncode, 1 if any(c['status'] == 'missing' for c in value['checks']) else 0)
    equal(value['ok'], result.returncode == 0)


def test_doctor_finds_clis_and_logins():
    with folder() as d:
        nvm, local = d / '.nvm/versions/node/v20.1.0/bin', d / '.local/bin'
        for directory in (nvm, local, d / '.codex', d / 'npm/bin', d / '.config/agent-router'):
            directory.mkdir(parents=True)
        os.chmod(d, 0o755)

        def program(path, text):
            path.write_text('#!/bin/sh\n' + text)
            path.chmod(0o755)
        program(nvm / 'codex', 'read line && exit 9\n[ "$1" = --version ] && echo "codex-cli 0.169.0"\n')
        program(local / 'gemini', 'echo broken >&2; exit 1\n')
        program(d / 'npm/bin/claude', 'echo "2.1.330 (Claude Code)"; exec sleep 1000\n')   # says it, and stays
        (d / '.npmrc').write_text(f'audit=false\nprefix={d}/npm\n')
        (d / '.codex/auth.json').write_text('{"token": "s3cret"}')
        (d / '.config/agent-router/store.key').write_text('ab' * 32 + '\n')
        (d / '.config/agent-router/store.key').chmod(0o600)
        env = {'HOME': str(d), 'PATH': '/usr/bin:/bin', 'ANTHROPIC_API_KEY': 's3cret-too'}
        result = ctl('doctor', '--json', env=env)
        agents = {a['name']: a for a in json.loads(result.stdout)['agents']}
        equal(agents['codex'], {'name': 'codex', 'title': 'OpenAI Codex', 'executable': str(nvm / 'codex'),
                                'version': '0.169.0', 'login': '~/.codex/auth.json'})
        equal((agents['gemini']['executable'], agents['gemini']['version'], agents['gemini']['login']), (str(local / 'gemini'), None, None))
        equal((agents['claude']['version'], agents['claude']['login']), ('2.1.330', 'ANTHROPIC_API_KEY'))
        checks = {c['name']: c for c in json.loads(result.stdout)['checks']}
        equal([checks[n]['status'] for n in ('codex', 'gemini', 'claude', 'store key')], ['ok', 'warning', 'ok', 'ok'])
        text = ctl('doctor', env=env).stdout
        assert 's3cret' not in result.stdout + text, 'a login was printed'
        program(local / 'gemini', 'exec sleep 1000\n')       # is not waited for, beyond some seconds
        (d / '.config/agent-router/store.key').write_text('short')
        result = ctl('doctor', '--json', env=env)
        checks = {c['name']: c for c in json.loads(result.stdout)['checks']}
        equal((result.returncode, checks['store key']['status'], checks['gemini']['status']), (1, 'missing', 'warning'))


def test_doctor_as_root_runs_no_program_of_others_as_root():
    if os.geteuid() != 0:
        raise harness.Skip('this is not root')
    with folder() as d:
        os.chmod(d, 0o755)
        (d / 'bin').mkdir(mode=0o755)
        codex = d / 'bin/codex'
        codex.write_text('#!/bin/sh\necho "codex 1.$(id -u).$(id -G | tr " " -)"\n')
        codex.chmod(0o755)
        env = {'PATH': f'{d}/bin:/usr/bin:/bin'}
        version = lambda: json.loads(ctl('doctor', '--json', env=env).stdout)['agents'][0]['version']
        equal(version(), '1.0.' + '-'.join(map(str, dict.fromkeys([os.getegid(), *os.getgroups()]))))
        os.chown(codex, 65534, 65534)
        equal(version(), '1.65534.65534')


# ---- help, manual, completions ----

VERBS = ['submit', 'get', 'list', 'cancel', 'retry', 'batch submit', 'batch list', 'batch show', 'batch cancel', 'batch retry', 'follow', 'key create', 'key list', 'key revoke', 'events', 'limit list',
         'limit set', 'limit unset', 'group list', 'group set', 'group pause', 'group resume', 'drain', 'resume', 'reload', 'usage',
         'status', 'agent list', 'agents', 'doctor']


def test_help_manual_and_completions_agree():
    manual = (harness.SOURCE / 'packaging/man/agent-routerctl.1').read_text().replace('\\-', '-')
    completions = {shell: (harness.SOURCE / 'scripts/agent-routerd/ctl' / name).read_text() for shell, name in
                   [('bash', 'agent-routerctl.bash'), ('zsh', '_agent-routerctl'), ('fish', 'agent-routerctl.fish')]}
    general = expect(ctl('--help'), 0).stdout
    equal(re.fullmatch(r'agent-routerctl \d+\.\d+\.\d+\n', ctl('--version').stdout) is not None, True)
    for verb in VERBS:
        assert re.search(rf'^  {verb} ', general, re.M), f'{verb} in --help'
        text = expect(ctl(*verb.split(), '--help'), 0).stdout
        equal(ctl(*verb.split(), '-h').stdout, text)
        equal(ctl('help', *verb.split()).stdout, text)
        assert text.startswith(f'usage: agent-routerctl {verb} '), text
        assert 'Exit codes: 0 ok' in text
        for option in re.findall(r'^  (?:-\w, |    )--([\w-]+)', text, re.M):
            assert f'--{option}' in manual, f'--{option} in the manual'
            for shell, script in completions.items():
                assert re.search(rf'(--|-l ){option}\b', script), f'--{option} in the completion of {shell}'
        for shell, script in completions.items():
            assert verb.split()[-1] in script, f'{verb} in the completion of {shell}'


def test_completions_load():
    scripts = harness.SOURCE / 'scripts/agent-routerd/ctl'
    script = f'source {scripts}/agent-routerctl.bash; complete -p agent-routerctl; ' \
             'COMP_WORDS=(agent-routerctl key cr); COMP_CWORD=2; _agent_routerctl; echo "${COMPREPLY[@]}"; ' \
             'COMP_WORDS=(agent-routerctl group pa); COMP_CWORD=2; _agent_routerctl; echo "${COMPREPLY[@]}"; ' \
             'COMP_WORDS=(agent-routerctl limit set --run); COMP_CWORD=3; _agent_routerctl; echo "${COMPREPLY[@]}"; ' \
             'COMP_WORDS=(agent-routerctl submit --wo); COMP_CWORD=2; _agent_routerctl; echo "${COMPREPLY[@]}"; ' \
             'COMP_WORDS=(agent-routerctl --socket /x st); COMP_CWORD=3; _agent_routerctl; echo "${COMPREPLY[@]}"'
    out = subprocess.run(['bash', '--norc', '-c', script], capture_output=True, text=True, check=True).stdout.splitlines()
    equal(out[1:], ['create', 'pause', '--running', '--workspace', 'status'])


if __name__ == '__main__':
    harness.main(globals())

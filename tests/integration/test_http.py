"""The daemon's HTTP/1.1 by raw sockets and by curl: what is refused and closed, what is kept open, what times out.

The codec's own tests hold every rule; here it is the whole server that must answer, in order, and close where it must.
"""

import contextlib
import pathlib
import select
import socket
import subprocess
import tempfile
import time

import harness
from harness import DEADLINE_S, equal

BODY_MAX = 64 * 1024
CONFIG = harness.CONFIG + f'limits: {{ body: {BODY_MAX // 1024}K }}\n'
REQUEST_S = 30      # CONN_REQUEST_US of src/api/conn.c


def read_to_end(s):
    out = b''
    while True:
        try:
            data = s.recv(65536)
        except ConnectionResetError:
            return out      # closed with bytes of ours unread
        if not data:
            return out
        out += data


class Reader:
    """Reads answers one by one from a connection that stays open."""

    def __init__(self, s):
        self.file = s.makefile('rb')

    def head(self):
        status = self.file.readline()
        assert status.startswith(b'HTTP/1.1 '), f'no answer but {status!r}'
        headers = {}
        while (line := self.file.readline()) != b'\r\n':
            assert line, 'the connection ended in a head'
            name, _, value = line.decode('latin-1').partition(':')
            headers[name.lower()] = value.strip()
        return int(status.split()[1]), headers

    def answer(self, head=False):
        status, headers = self.head()
        n = 0 if head or status in (204, 304) else int(headers['content-length'])
        body = self.file.read(n)
        equal(len(body), n, 'body of an answer')
        return harness.Response(status, headers, body)


def get(path='/healthz', *lines):
    return '\r\n'.join([f'GET {path} HTTP/1.1', 'Host: test', *lines, '', '']).encode()


def refused(it, data, status, what):
    """These bytes get exactly one answer, a problem of this status, and the connection is closed."""
    with it.connect() as s:
        s.sendall(data)
        raw = read_to_end(s)
    assert raw.startswith(b'HTTP/1.1 '), f'{what}: no answer but {raw[:200]!r}'
    equal(raw.count(b'HTTP/1.1 '), 1, f'{what}: number of answers in {raw!r}')
    response = harness.parse_response(raw)
    equal(response.status, status, what)
    equal(response.headers.get('connection'), 'close', f'{what}: Connection')
    equal(response.headers['content-type'], 'application/problem+json', f'{what}: Content-Type')
    equal(response.json['status'], status, f'{what}: status in the problem')
    assert response.json['detail'], what


SMUGGLED = b'GET /healthz HTTP/1.1\r\nHost: smuggled\r\n\r\n'


def test_smuggling_is_refused_and_closed(it):
    def post(*lines, body=b''):
        return '\r\n'.join(['POST /tasks HTTP/1.1', 'Host: test', *lines, '', '']).encode() + body + SMUGGLED
    chunked = 'Transfer-Encoding: chunked'
    cases = {
        'CL and TE': post('Content-Length: 5', chunked, body=b'0\r\n\r\n'),
        'TE and CL': post(chunked, 'Content-Length: 5', body=b'0\r\n\r\n'),
        'TE twice': post(chunked, chunked, body=b'0\r\n\r\n'),
        'TE chunked, identity': post('Transfer-Encoding: chunked, identity', body=b'0\r\n\r\n'),
        'TE xchunked': post('Transfer-Encoding: xchunked', body=b'0\r\n\r\n'),
        'TE with a vertical tab': post('Transfer-Encoding: \x0bchunked', body=b'0\r\n\r\n'),
        'TE with a space before the colon': post('Transfer-Encoding : chunked', body=b'0\r\n\r\n'),
        'TE folded': post('Transfer-Encoding:', ' chunked', body=b'0\r\n\r\n'),
        'TE in HTTP/1.0': b'POST /tasks HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n' + SMUGGLED,
        'CL twice': post('Content-Length: 2', 'Content-Length: 3', body=b'{}'),
        'CL twice, equal': post('Content-Length: 2', 'Content-Length: 2', body=b'{}'),
        'CL a list': post('Content-Length: 2, 2', body=b'{}'),
        'CL signed': post('Content-Length: +2', body=b'{}'),
        'CL hexadecimal': post('Content-Length: 0x2', body=b'{}'),
        'bare LF': b'GET /healthz HTTP/1.1\nHost: test\n\n' + SMUGGLED,
        'bare CR': b'GET /healthz HTTP/1.1\r\nHost: test\rX: y\r\n\r\n' + SMUGGLED,
        'NUL': get('/healthz', 'X: \0') + SMUGGLED,
        'obs-fold': get('/healthz', 'X: a', '\tb') + SMUGGLED,
        'a space before the first field': b'GET /healthz HTTP/1.1\r\n Host: test\r\n\r\n' + SMUGGLED,
        'no Host': b'GET /healthz HTTP/1.1\r\n\r\n' + SMUGGLED,
        'two Hosts': get('/healthz', 'Host: other') + SMUGGLED,
        'chunk size with a space': post(chunked, body=b'2 \r\n{}\r\n0\r\n\r\n'),
        'chunk size 0x2': post(chunked, body=b'0x2\r\n{}\r\n0\r\n\r\n'),
        'junk where a chunk ends': post(chunked, body=b'2\r\n{}XX0\r\n\r\n'),
        'LF in a chunk extension': post(chunked, body=b'2;a\nb\r\n{}\r\n0\r\n\r\n'),
        'a lower-case version': b'GET /healthz http/1.1\r\nHost: test\r\n\r\n' + SMUGGLED,
        'a tab in the request line': b'GET\t/healthz HTTP/1.1\r\nHost: test\r\n\r\n' + SMUGGLED,
        'authority-form': b'GET test:80 HTTP/1.1\r\nHost: test:80\r\n\r\n' + SMUGGLED,
        'a TLS hello': b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03' + bytes(64),
    }
    for what, data in cases.items():
        refused(it, data, 400, what)


def test_other_refusals(it):
    refused(it, b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 505, 'the preface of HTTP/2')
    refused(it, b'CONNECT test:80 HTTP/1.1\r\nHost: test:80\r\n\r\n', 501, 'CONNECT')
    refused(it, get('/' + 'a' * 9000), 414, 'a long request line')
    refused(it, get('/healthz', 'X: ' + 'a' * 33000), 431, 'a long field')
    refused(it, get('/healthz', *['X: y'] * 64), 431, 'many fields')
    refused(it, get('/healthz', 'Content-Length: 1', 'Expect: 200-maybe'), 417, 'an unknown expectation')
    refused(it, get('/healthz', 'Content-Length: 99999999999999999999999999'), 413, 'a length of no machine')


def test_what_came_before_a_refusal_is_answered(it):
    with it.connect() as s:
        s.sendall(get() + get() + b'GET / HTTP/1.1\r\nHost : x\r\n\r\n' + SMUGGLED)
        reader = Reader(s)
        equal([reader.answer().status for _ in range(3)], [200, 200, 400], 'statuses')
        equal(reader.file.read(), b'', 'after the refusal')


def test_pipelining_keeps_the_order(it):
    paths = ['/healthz', '/nothing', '/readyz', '/tasks', '/healthz']
    it.await_ready()
    with it.connect() as s:
        s.sendall(b''.join(get(path, f'X-Number: {i}') for i, path in enumerate(paths)))
        reader = Reader(s)
        answers = [reader.answer() for _ in paths]
    # Without a key, what exists and what does not look the same.
    equal([a.status for a in answers], [200, 401, 200, 401, 200], 'statuses')


def test_pipelined_submits_are_all_kept(it):
    submitter = it.key('pipeline')
    body = b'{"prompt": "true", "agent": "sh"}'
    one = (f'POST /tasks HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {submitter.key}\r\n'
           f'Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n').encode() + body
    with it.connect() as s:
        s.sendall(one * 20)
        reader = Reader(s)
        ids = [reader.answer().expect(201).json['id'] for _ in range(20)]
    equal(len(set(ids)), 20, 'tasks')
    equal(sorted(ids), ids, 'ids in the order of the requests')
    for id in ids:
        submitter.finish(id, 'succeeded')


def test_a_request_byte_by_byte(it):
    with it.connect() as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b'\r\n' + get():
            s.send(bytes([byte]))
        equal(Reader(s).answer().status, 200)


def test_keep_alive_and_close(it):
    with it.connect() as s:
        reader = Reader(s)
        for _ in range(5):
            s.sendall(get())
            assert 'connection' not in reader.answer().expect(200).headers
        s.sendall(get('/healthz', 'Connection: close'))
        equal(reader.answer().expect(200).headers['connection'], 'close')
        equal(reader.file.read(), b'', 'after Connection: close')
    with it.connect() as s:
        s.sendall(b'GET /healthz HTTP/1.0\r\n\r\n')
        reader = Reader(s)
        equal(reader.answer().expect(200).headers['connection'], 'close', 'HTTP/1.0')
        equal(reader.file.read(), b'', 'after HTTP/1.0')
    with it.connect() as s:
        reader = Reader(s)
        for _ in range(2):
            s.sendall(b'GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n')
            equal(reader.answer().expect(200).headers['connection'], 'keep-alive', 'HTTP/1.0 with keep-alive')


def test_head(it):
    with it.connect() as s:
        reader = Reader(s)
        s.sendall(get())
        whole = reader.answer().expect(200)
        s.sendall(get().replace(b'GET', b'HEAD'))
        empty = reader.answer(head=True).expect(200)
        equal(empty.headers['content-length'], whole.headers['content-length'], 'Content-Length of HEAD')
        s.sendall(get())
        reader.answer().expect(200)     # nothing of a body stood between
    equal(it.anonymous().request('HEAD', '/healthz').status, 200, 'HEAD by curl')


def test_a_half_closed_client_is_answered(it):
    with it.connect() as s:
        s.sendall(get())
        s.shutdown(socket.SHUT_WR)
        equal(harness.parse_response(read_to_end(s)).status, 200)


def test_a_client_that_leaves_in_the_middle_harms_nobody(it):
    for data in (b'', b'GE', get()[:-2], b'POST /tasks HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n{"pro',
                 b'POST /tasks HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{'):
        with it.connect() as s:
            s.sendall(data)
    it.anonymous().get('/healthz').expect(200)


def curl(it, client, *args, input=b''):
    argv = ['curl', '--silent', '--show-error', '--include', '--http1.1', '--max-time', str(DEADLINE_S),
            '--header', f'Authorization: Bearer {client.key}', '--header', 'Content-Type: application/json', *args]
    return subprocess.run(argv + ['--', it.url + '/tasks'], input=input, capture_output=True)


def test_a_chunked_upload_by_curl(it):
    body = b'{"agent": "sh", "prompt": "true # %s"}' % (b'x' * 50000)
    done = curl(it, it.client, '--header', 'Transfer-Encoding: chunked', '--data-binary', '@-', input=body)
    equal(done.returncode, 0, done.stderr.decode())
    it.client.finish(harness.parse_response(done.stdout).expect(201).json['id'], 'succeeded')


def test_expect_100_continue_by_curl(it):
    body = b'{"agent": "sh", "prompt": "true"}'
    done = curl(it, it.client, '--verbose', '--header', 'Expect: 100-continue', '--expect100-timeout', str(DEADLINE_S),
                '--data-binary', '@-', input=body)
    equal(done.returncode, 0, done.stderr.decode())
    assert b'HTTP/1.1 100 Continue' in done.stdout, done.stdout
    it.client.finish(harness.parse_response(done.stdout).expect(201).json['id'], 'succeeded')


def test_a_body_over_the_limit(it):
    """413 before a byte of it where Content-Length tells, and at the chunk that passes the limit where not."""
    length = f'POST /tasks HTTP/1.1\r\nHost: test\r\nContent-Length: {BODY_MAX + 1}\r\n\r\n'
    refused(it, length.encode(), 413, 'by Content-Length')
    refused(it, length.replace('Content-Length', 'Expect: 100-continue\r\nContent-Length').encode(), 413, 'with Expect')
    chunk = b'%x\r\n' % 4096 + b'x' * 4096 + b'\r\n'
    refused(it, b'POST /tasks HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n' + chunk * (BODY_MAX // 4096) +
            b'1\r\n', 413, 'by chunks')
    # curl, which sends on while it is refused, still gets the answer.
    with tempfile.NamedTemporaryFile() as file:
        file.write(b'x' * 3 * 1024 * 1024)
        file.flush()
        done = curl(it, it.client, '--header', 'Expect:', '--data-binary', f'@{file.name}')
    equal(harness.parse_response(done.stdout).status, 413, f'curl ({done.stderr.decode()})')


def test_slow_requests_time_out(it):
    """A head that never ends, one that drips in, and a body that never comes: 408 each, on time, and closed."""
    start = time.monotonic()
    with it.connect() as head, it.connect() as drip, it.connect() as body, it.connect() as other:
        head.sendall(b'GET /healthz HTTP/1.1\r\nHost: test\r\n')
        drip.sendall(b'GET /healthz HTTP/1.1\r\nHost: test\r\nX: ')
        body.sendall(b'POST /tasks HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n{')
        idle = Reader(other)
        other.sendall(get())
        equal(idle.answer().status, 200, 'before')
        waiting, answers = {head: b'', drip: b'', body: b''}, {}
        while waiting:
            readable, _, _ = select.select(list(waiting), [], [], 0.5)
            for s in readable:
                data = s.recv(65536)
                waiting[s] += data
                if not data:
                    answers[s] = (waiting.pop(s), time.monotonic() - start)
            if drip in waiting and drip not in readable:
                drip.send(b'x')
            assert time.monotonic() - start < REQUEST_S + DEADLINE_S, 'the slow requests are still open'
        for name, s in (('head', head), ('drip', drip), ('body', body)):
            response = harness.parse_response(answers[s][0])
            equal(response.status, 408, name)
            equal(response.headers['connection'], 'close', name)
            assert answers[s][1] > REQUEST_S - 1, f'{name}: after {answers[s][1]} s'
        # A connection between two requests is idle, not slow.
        other.sendall(get())
        equal(idle.answer().status, 200, 'the idle connection')


LIMITED = harness.CONFIG + 'limits: { connections: 8 }\n'


def test_strangers_keep_nobody_out():
    """Who only connects, or drips, fills the limit of connections, and others are still answered."""
    with harness.Instance(LIMITED) as it, contextlib.ExitStack() as stack:
        key = it.key('one')
        for i in range(24):
            s = stack.enter_context(it.connect())
            if i % 2:
                s.sendall(b'POST /tasks HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n{')
        for _ in range(3):
            key.get('/agents').expect(200)
            it.admin.get('/status').expect(200)


def test_a_caller_holds_no_more_than_half_of_the_connections():
    with harness.Instance(LIMITED) as it, contextlib.ExitStack() as stack:
        greedy = it.key('greedy')
        task = greedy.post('/tasks', {'agent': 'sh', 'prompt': 'true', 'not_before': '2090-01-01T00:00:00Z'}).expect(201).json
        request = get(f'/tasks/{task["id"]}/events', f'Authorization: Bearer {greedy.key}')
        for _ in range(4):
            s = stack.enter_context(it.connect())
            s.sendall(request)
            equal(Reader(s).head()[0], 200, 'a stream')
        equal(greedy.get(f'/tasks/{task["id"]}/events').problem(429)['status'], 429)
        # Its wait is over at once instead.
        equal(greedy.get(f'/tasks/{task["id"]}', headers={'Prefer': 'wait=300'}).expect(200).json['state'], 'delayed')
        it.key('other').get('/agents').expect(200)
        # Idle connections of known callers are no property either.
        for _ in range(12):
            s = stack.enter_context(it.connect())
            s.sendall(get('/agents', f'Authorization: Bearer {greedy.key}'))
            Reader(s).answer()
        it.admin.get('/status').expect(200)
        it.key('third').get('/agents').expect(200)


def test_bodies_of_strangers_are_not_kept():
    """Nor are more kept of a caller than all callers may send together."""
    def rss_kib(it):
        status = pathlib.Path(f'/proc/{it.pid("daemon")}/status').read_text()
        return int(status.split('VmRSS:')[1].split()[0])

    with harness.Instance(harness.CONFIG) as it:
        mib, before = 1 << 20, rss_kib(it)
        with contextlib.ExitStack() as stack:
            for i in range(24):
                s = stack.enter_context(it.connect())
                s.sendall(f'POST /tasks HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer ark_{i:064x}\r\n'
                          f'Content-Length: {4 * mib}\r\n\r\n'.encode() + bytes(4 * mib - 1))
            it.admin.get('/status').expect(200)
            grown = rss_kib(it) - before
            assert grown < 32 * 1024, f'{grown} KiB for 96 MiB of strangers\' bodies'
            s.sendall(b'x')
            equal(Reader(s).answer().status, 401, 'a stranger')


if __name__ == '__main__':
    harness.main(globals(), CONFIG)

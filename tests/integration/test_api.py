#!/usr/bin/python3
"""The API as its users see it: submit, read, list, cancel, errors, keys and who may see what, idempotency, metrics."""

import concurrent.futures
import json
import re
import shutil
import subprocess

import harness
from harness import FINAL, Skip, equal, wait_for

RFC3339 = re.compile(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z')
FAR = '2100-01-01T00:00:00Z'


def test_a_task_runs_and_is_read_back(it):
    task = it.client.submit('echo hello; echo world', agent='sh')
    equal(task['agent'], 'sh')
    assert re.fullmatch(r'[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}', task['id']), task['id']
    task = it.client.finish(task['id'], 'succeeded')
    equal(task['result'], {'text': 'hello\nworld', 'truncated': False}, 'result')
    equal(len(task['attempts']), 1, 'attempts')
    attempt = task['attempts'][0]
    equal((attempt['number'], attempt['exit_code'], attempt['signal']), (1, 0, None), 'attempt')
    for field in ('created_at', 'updated_at', 'started_at', 'finished_at'):
        assert RFC3339.fullmatch(task[field]), f'{field}: {task[field]}'
    for field in ('started_at', 'execed_at', 'finished_at'):
        assert RFC3339.fullmatch(attempt[field]), f'{field} of the attempt: {attempt[field]}'
    assert task['created_at'] <= task['started_at'] <= task['finished_at'], task


def test_what_was_asked_for_is_answered(it):
    asked = {'agent': 'sh', 'priority': 73, 'labels': {'team': 'a', 'ci': '1'}, 'metadata': {'n': [1, {'deep': None}]},
             'capabilities': ['shell'], 'timeout_s': 77, 'not_before': FAR,
             'retry': {'max_attempts': 3, 'backoff_s': 7}}
    task = it.client.submit('true', **asked)
    for field, value in asked.items():
        if field == 'not_before':
            assert task[field].startswith('2100-01-01T00:00:00'), task[field]
        else:
            equal(task[field], value, field)
    equal(task['state'], 'delayed')
    equal((task['started_at'], task['finished_at'], task['result']), (None, None, None), 'what is not there yet')
    equal(it.client.task(task['id']), task, 'GET after POST')
    it.client.cancel(task['id']).expect(200)


def test_waiting_by_prefer(it):
    body = {'prompt': 'echo waited', 'agent': 'sh'}
    response = it.client.post('/tasks', body, headers={'Prefer': 'wait=30'}).expect(201)
    equal(response.headers.get('preference-applied', '').split('=')[0], 'wait', 'Preference-Applied')
    equal(response.json['state'], 'succeeded')
    equal(response.json['result']['text'], 'waited')


def test_a_failing_agent(it):
    task = it.client.submit('echo told; exit 3', agent='sh', wait=30)
    equal(task['state'], 'failed')
    equal(task['attempts'][0]['exit_code'], 3)
    task = it.client.submit('kill -9 $$', agent='sh', wait=30)
    equal((task['state'], task['attempts'][0]['signal']), ('failed', 9))


def test_the_transcript(it):
    id = it.client.submit('echo one; echo two >&2; echo three', agent='sh', wait=30)['id']
    assert 'transcript' not in it.client.task(id)
    task = it.client.task(id, include='transcript,prompt')
    equal(task['prompt'], 'echo one; echo two >&2; echo three')
    events = [e for e in it.client.events(id) if e['event'] != 'end']
    equal([e['seq'] for e in task['transcript']], [int(e['id']) for e in events], 'sequence numbers')
    equal([e['type'] for e in task['transcript']], [e['event'] for e in events], 'types')
    text = json.dumps(task['transcript'])
    for word in ('one', 'two', 'three'):
        assert word in text, f'{word} is not in the transcript'


def test_fields_are_checked_and_named(it):
    base = {'prompt': 'true', 'agent': 'sh'}
    for change, pointer in [
            ({'prompt': ''}, '/prompt'), ({'prompt': 5}, '/prompt'), ({'prompt': None}, '/prompt'),
            ({'priority': 101}, '/priority'), ({'priority': -1}, '/priority'), ({'priority': 1.5}, '/priority'),
            ({'priority': '5'}, '/priority'), ({'labels': {'a': 1}}, '/labels/a'), ({'labels': []}, '/labels'),
            ({'metadata': []}, '/metadata'), ({'capabilities': 'shell'}, '/capabilities'),
            ({'capabilities': [1]}, '/capabilities/0'), ({'timeout_s': 0}, '/timeout_s'),
            ({'timeout_s': 'x'}, '/timeout_s'), ({'not_before': 'tomorrow'}, '/not_before'),
            ({'workspace': 'relative'}, '/workspace'),
            ({'retry': {'max_attempts': 0}}, '/retry/max_attempts'), ({'retry': {'often': 1}}, '/retry/often'),
            ({'unknown': 1}, '/unknown'), ({'agent': 'nobody-has-this'}, '/agent')]:
        response = it.client.post('/tasks', {k: v for k, v in (base | change).items()})
        assert 400 <= response.status < 500, f'{change} was answered {response}'
        response.problem(response.status, pointer)
    response = it.client.post('/tasks', {'agent': 'sh'})
    response.problem(response.status, '/prompt')


def test_bodies_that_are_no_request(it):
    client = it.client
    for data, statuses in [(b'', {400}), (b'{', {400}), (b'[]', {400, 422}), (b'{"prompt":"x"} x', {400}),
                           (b'{"prompt":"\xff"}', {400}), (b'{"prompt":"a","prompt":"b"}', {400, 422}),
                           (b'{"prompt":"x","metadata":' + b'{"a":' * 200 + b'1' + b'}' * 201, {400, 422})]:
        response = client.request('POST', '/tasks', data=data)
        assert response.status in statuses, f'{data[:60]!r}: {response}'
        response.problem(response.status)
    large = b'{"prompt":"' + b'x' * (5 << 20) + b'"}'
    equal(client.request('POST', '/tasks', data=large).status, 413, 'a body over the limit')
    client.request('POST', '/tasks', data=b'prompt=x',
                   headers={'Content-Type': 'application/x-www-form-urlencoded'}).problem(415)


def test_a_large_prompt_arrives_whole(it):
    line = '# ' + 'x' * 98 + '\n'
    task = it.client.submit(line * 20000 + 'echo end', agent='sh', wait=60)
    equal((task['state'], task['result'] and task['result']['text']), ('succeeded', 'end'))


def test_paths_methods_and_head(it):
    client = it.client
    client.get('/nothing').problem(404)
    client.get('/tasks/not-an-id').problem(404)
    client.get('/tasks/01890000-0000-7000-8000-000000000000').problem(404)
    response = client.delete('/tasks')
    response.problem(405)
    equal({m.strip() for m in response.headers['allow'].split(',')} >= {'GET', 'POST'}, True, 'Allow')
    id = client.submit('true', agent='sh', wait=30)['id']
    for path in (f'/tasks/{id}', '/tasks', '/status', '/agents', '/metrics', '/healthz', '/openapi.json'):
        head, get = client.request('HEAD', path), client.get(path)
        equal(head.status, get.status, f'HEAD {path}')
        equal(head.headers.get('content-type'), get.headers.get('content-type'), f'HEAD {path}: content type')
        equal(head.body, b'', f'HEAD {path}: body')
    equal(client.get(f'/v1/tasks/{id}').expect(200).json, client.task(id), '/v1')


def test_pages_and_filters(it):
    client = it.key('pages')
    ids = [client.submit('true', agent='sh', not_before=FAR, labels={'n': str(i % 2)})['id'] for i in range(7)]
    got, cursor, pages = [], None, 0
    while True:
        page = client.tasks(limit=3, **({'cursor': cursor} if cursor else {}))
        got += [t['id'] for t in page['tasks']]
        assert len(page['tasks']) <= 3
        pages += 1
        cursor = page['next_cursor']
        if cursor is None:
            break
    equal(sorted(got), sorted(ids), 'all pages together')
    equal(len(got), len(set(got)), 'tasks listed twice')
    assert pages >= 3, pages
    equal(sorted(t['id'] for t in client.tasks(label='n=1')['tasks']), sorted(ids[1::2]), 'label filter')
    equal(client.tasks(state='succeeded')['tasks'], [], 'state filter')
    equal(len(client.tasks(state='delayed', agent='sh')['tasks']), 7, 'state and agent filter')
    equal(client.tasks(agent='other')['tasks'], [], 'agent filter')
    for query in ('limit=0', 'limit=x', 'state=odd', 'cursor=zz', 'unknown=1', 'label=novalue'):
        response = client.get('/tasks?' + query)
        equal(response.status, 400, query)
        response.problem(400)
    for id in ids:
        client.cancel(id).expect(200)


def test_who_may_do_what(it):
    alice, bob, admin = it.key('alice'), it.key('bob'), it.key('root-like', role='admin')
    anonymous = it.anonymous()
    for path in ('/healthz', '/readyz'):
        equal(anonymous.get(path).status, 200, path)
    for path in ('/tasks', '/metrics', '/status', '/keys', '/openapi.json', '/nothing'):
        response = anonymous.get(path)
        response.problem(401)
        assert response.headers.get('www-authenticate', '').startswith('Bearer'), response
    harness.Client(it.url, key='ark_' + '0' * 40).get('/tasks').problem(401)
    for header in ('Basic Zm9vOmJhcg==', 'Bearer', 'Bearer  x', alice.key):
        anonymous.get('/tasks', headers={'Authorization': header}).problem(401)

    id = alice.submit('echo secret', agent='sh', wait=30)['id']
    bob.get(f'/tasks/{id}').problem(404)
    bob.get(f'/tasks/{id}/events').problem(404)
    bob.cancel(id).problem(404)
    equal([t for t in bob.tasks()['tasks'] if t['id'] == id], [], 'bob\'s list')
    equal(admin.task(id)['id'], id, 'an admin sees it')
    equal(it.admin.task(id)['id'], id, 'root on the control socket sees it')

    alice.get('/keys').problem(403)
    alice.post('/keys', {'name': 'more', 'role': 'admin'}).problem(403)
    alice.delete('/keys/bob').problem(403)
    admin.post('/keys', {'name': 'as-root', 'role': 'submitter', 'run_as': 'root'}).problem(403)
    listed = {k['name']: k for k in admin.get('/keys').expect(200).json['keys']}
    equal(listed['alice']['role'], 'submitter')
    assert 'key' not in listed['alice'] and alice.key not in json.dumps(listed), 'a key was listed'
    it.admin.post('/keys', {'name': 'alice', 'role': 'submitter'}).problem(409)
    admin.delete('/keys/bob').expect(204)
    bob.get('/tasks').problem(401)
    admin.delete('/keys/never-was').problem(404)


def test_the_control_socket_knows_its_callers(it):
    if harness.os.geteuid() != 0:
        raise Skip('only root can become another user')
    if not shutil.which('setpriv'):
        raise Skip('setpriv is not installed')
    # Closed to others by the modes of the runner's directory and of the socket itself; opened for a caller that is not root.
    it.control.parent.chmod(0o711)
    it.control.chmod(0o666)
    try:
        outsider = harness.Client('http://localhost', unix=it.control, uid=harness.WORKER.pw_uid)
        outsider.get('/keys').problem(403)
        outsider.post('/keys', {'name': 'mine', 'role': 'submitter'}).problem(403)
        task = outsider.submit('id -u', agent='sh', wait=30)
        equal(task['principal'], f'uid:{harness.WORKER.pw_uid}')
        equal(task['result']['text'], str(harness.WORKER.pw_uid), 'whom its task ran as')
        equal([t['id'] for t in outsider.tasks()['tasks']], [task['id']], 'what it sees')
        it.client.get(f'/tasks/{task["id"]}').problem(404)
    finally:
        it.control.chmod(0o660)
        it.control.parent.chmod(0o700)
    argv = outsider.command('GET', '/status')
    equal(subprocess.run(argv, capture_output=True).returncode, 7, 'connecting as another user')


def test_idempotency(it):
    client, other = it.key('idem-a'), it.key('idem-b')
    body, headers = {'prompt': 'true', 'agent': 'sh', 'not_before': FAR}, {'Idempotency-Key': 'one'}
    first = client.post('/tasks', body, headers=headers).expect(201)
    again = client.post('/tasks', body, headers=headers).expect(201)
    equal(again.json, first.json, 'the replay\'s body')
    equal(again.headers['location'], first.headers['location'])
    client.post('/tasks', body | {'prompt': 'false'}, headers=headers).problem(422)
    others = other.post('/tasks', body, headers=headers).expect(201).json['id']
    assert others != first.json['id'], 'keys are per principal'
    assert client.submit('true', agent='sh', not_before=FAR)['id'] != first.json['id']
    it.kill('daemon')
    equal(client.post('/tasks', body, headers=headers).expect(201).json['id'], first.json['id'], 'after a kill -9')
    for bad in ('', 'x' * 300):
        if bad:
            client.post('/tasks', body, headers={'Idempotency-Key': bad}).problem(400)


def test_idempotency_joins_what_is_in_flight(it):
    client = it.key('idem-flight')
    headers = {'Idempotency-Key': 'many'}
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        body = {'prompt': 'true', 'agent': 'sh'}
        answers = list(pool.map(lambda _: client.post('/tasks', body, headers=headers), range(16)))
    equal({a.status for a in answers}, {201})
    equal(len({a.json['id'] for a in answers}), 1, 'distinct tasks')
    equal(len(client.tasks()['tasks']), 1, 'tasks stored')


def test_an_agent_that_is_not_installed_is_refused_with_the_way(it):
    agents = {a['name']: a for a in it.client.get('/agents').expect(200).json['agents']}
    equal(agents['sh']['installed'], True)
    assert agents['sh']['executable'].startswith('/'), agents['sh']
    equal(agents['missing']['installed'], False)
    problem = it.client.post('/tasks', {'prompt': 'x', 'agent': 'missing'})
    assert problem.status in (409, 422, 503), problem
    assert 'install-the-missing-agent' in json.dumps(problem.problem(problem.status)), problem


def test_a_workspace_is_the_place_of_work(it):
    path = it.workspace()
    task = it.client.submit('pwd; echo made > file; id -u', agent='sh', workspace=str(path), wait=30)
    equal(task['state'], 'succeeded', json.dumps(task))
    equal(task['result']['text'].split(), [str(path), str(harness.WORKER.pw_uid)])
    equal((path / 'file').read_text(), 'made\n')
    equal((path / 'file').stat().st_uid, harness.WORKER.pw_uid, 'owner of what it made')


def test_a_workspace_that_can_not_be_used_is_refused(it):
    closed = it.workspace()
    harness.os.chown(closed, 0, 0)
    closed.chmod(0o700)
    for path in ('/etc', str(closed), str(it.dir / 'workspaces/absent'), str(it.dir / 'workspaces') + '/../state'):
        body = {'prompt': 'ls', 'agent': 'sh', 'workspace': path}
        response = it.client.post('/tasks', body, headers={'Prefer': 'wait=30'})
        if response.status == 201:
            task = response.json
            equal(task['state'], 'failed', path)
            assert task['detail'], task
        else:
            response.problem(response.status, '/workspace')


def test_status_and_metrics(it):
    status = it.client.get('/status').expect(200).json
    for field in ('version', 'instance', 'pid', 'uptime_s', 'tasks', 'running', 'queued', 'limits', 'launcher', 'store',
                  'reactor'):
        assert field in status, f'{field} in {status}'
    equal(status['pid'], it.pid('daemon'))
    equal(status['launcher']['connected'], True)
    equal(status['reactor']['restricted'], True, 'the ring is restricted')
    metrics = it.client.get('/metrics').expect(200)
    assert metrics.headers['content-type'].startswith(('text/plain', 'application/openmetrics-text')), metrics.headers
    if not shutil.which('promtool'):
        raise Skip('promtool is not installed')
    done = subprocess.run(['promtool', 'check', 'metrics'], input=metrics.body, capture_output=True)
    equal((done.returncode, done.stdout + done.stderr), (0, b''), 'promtool check metrics')


def test_the_openapi_document(it):
    document = it.client.get('/openapi.json').expect(200).json
    assert document['openapi'].startswith('3.1'), document['openapi']
    paths = {re.sub(r'^/v1', '', p) for p in document['paths']}
    for path in ('/tasks', '/tasks/{id}', '/tasks/{id}/cancel', '/tasks/{id}/events', '/keys', '/keys/{name}', '/agents',
                 '/status', '/healthz', '/readyz', '/metrics', '/openapi.json'):
        assert path in paths, f'{path} in {sorted(paths)}'

    def references(value):
        if isinstance(value, dict):
            for k, v in value.items():
                yield from [v] if k == '$ref' else references(v)
        elif isinstance(value, list):
            for v in value:
                yield from references(v)
    for reference in references(document):
        at = document
        for part in reference.removeprefix('#/').split('/'):
            assert part in at, f'{reference} leads nowhere'
            at = at[part]


def test_nothing_readable_is_on_the_disk(it):
    word = 'plaintext-marker-4711'
    it.client.submit(f'echo {word}', agent='sh', labels={'l': word}, wait=30)
    for path in (it.dir / 'state').rglob('*'):
        if path.is_file():
            assert word.encode() not in path.read_bytes(), f'{path} holds the prompt in clear'
    assert word not in it.logs(), 'the log holds the prompt'
    assert it.client.key not in it.logs(), 'the log holds a key'


MISSING = (harness.SH_MANIFEST.replace('name: sh', 'name: missing').replace('/bin/sh', 'agent-router-no-such-cli')
           .replace('Install dash.', 'Run install-the-missing-agent.'))

if __name__ == '__main__':
    harness.main(globals(), manifests={'missing': MISSING})

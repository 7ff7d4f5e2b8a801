#!/usr/bin/python3
"""The real Codex CLI, in the sandbox, behind the API, against the mock model API in each of its modes.

Codex retries by itself (facts of its version: five reconnects, with back-off); its own retries are turned down by the
manifest's settings, so that a failing mode ends within seconds.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'integration'))
import harness                                                          # noqa: E402 (the path comes first)
from harness import Skip, equal                                         # noqa: E402

MODES = ('ok', 'slow', 'tool', 'e401', 'e429', 'e500', 'hang', 'drop')
TEXT = 'MOCK-OK: hello from the mock model.'
WORDS = 12


class Mock:
    def __init__(self):
        script = harness.SOURCE / 'tests/mock/model-api.mjs'
        self.process = subprocess.Popen(['node', str(script), '0'], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        text=True, env={**os.environ, 'SLOW_MS': '150', 'SLOW_WORDS': str(WORDS)})
        line = self.process.stdout.readline()
        assert line.startswith('ready '), line
        self.url = line.split()[1]

    def requests(self):
        return harness.Client(self.url).get('/requests').json

    def close(self):
        self.process.terminate()
        self.process.wait()


def codex_path():
    script = '. "$0"/scripts/lib.sh && cli_codex'
    done = subprocess.run(['bash', '-c', script, str(harness.SOURCE)], capture_output=True, text=True)
    return done.stdout.strip()


def config(mock, codex, mode):
    return harness.CONFIG + f'''\
agents:
  codex:
    path: {codex}
    settings: {{ base_url: "{mock.url}/{mode}/v1" }}
    credentials: {{ CODEX_API_KEY: codex.key }}
'''


class Codex:
    """An instance a mode: the base URL is configuration, not something that a task may choose."""

    def __init__(self, mode):
        codex = codex_path()
        if not codex:
            raise Skip('the Codex CLI is not installed (scripts/deps cli)')
        self.mock = Mock()
        try:
            self.it = harness.Instance(config(self.mock, codex, mode), prepare=self.prepare)
        except BaseException:
            self.mock.close()
            raise

    @staticmethod
    def prepare(directory):
        (directory / 'agent-credentials').mkdir(mode=0o700)
        key = directory / 'agent-credentials/codex.key'
        key.write_text('mock-key')
        key.chmod(0o600)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.it.__exit__(kind)
        self.mock.close()

    def run(self, prompt='Say hello.', limit_s=100, **members):
        id = self.it.client.submit(prompt, agent='codex', timeout_s=limit_s, **members)['id']
        events = list(self.it.client.events(id))
        task = self.it.client.task(id)
        harness.diagnose(f'{task["state"]}, {task["reason"]}: {task["detail"]}')
        return task, events


def test_ok():
    with Codex('ok') as codex:
        task, events = codex.run()
        equal(task['state'], 'succeeded', json.dumps(task))
        equal(task['result'], {'text': TEXT, 'truncated': False})
        usage = {'input_tokens': 1234, 'cached_input_tokens': 200, 'output_tokens': 56, 'reasoning_tokens': 7}
        equal({name: task['usage'][name] for name in usage}, usage, 'usage')
        types = [e['event'] for e in events]
        for type in ('state', 'text', 'usage', 'end'):
            assert type in types, f'{type} in {types}'
        equal(codex.mock.requests(), {'ok': 1}, 'requests to the model')


def test_slow_text_is_waited_for_and_a_restart_survived():
    with Codex('slow') as codex:
        client = codex.it.client
        id = client.submit('Count.', agent='codex')['id']
        client.await_state(id, 'running')
        harness.wait_for(lambda: codex.mock.requests().get('slow'), 'Codex asks its model')
        codex.it.kill('daemon')
        codex.it.await_ready()
        task = client.finish(id, 'succeeded')
        equal(task['result']['text'].split(), [f'word{i}' for i in range(WORDS)])
        equal((len(task['attempts']), codex.mock.requests()), (1, {'slow': 1}), 'attempts and requests')


def test_tool_runs_in_the_sandbox():
    with Codex('tool') as codex:
        path = codex.it.workspace()
        task, events = codex.run('Run the tool.', workspace=str(path))
        equal(task['state'], 'succeeded', json.dumps(task))
        equal((path / 'tool-proof.txt').read_text(), 'tool-ran-42\n', 'what the tool wrote')
        equal((path / 'tool-proof.txt').stat().st_uid, harness.WORKER.pw_uid, 'as whom')
        calls = [e['data']['data'] for e in events if e['event'] == 'tool_call']
        results = [e['data']['data'] for e in events if e['event'] == 'tool_result']
        assert 'tool-ran' in json.dumps(calls) and 'tool-ran-42' in json.dumps(results), (calls, results)
        equal(task['usage']['input_tokens'], 2468, 'usage of both turns')


def test_e401_is_told_as_authentication():
    with Codex('e401') as codex:
        task, _ = codex.run(retry={'max_attempts': 3, 'backoff_s': 0.1})
        equal((task['state'], task['reason']), ('failed', 'authentication'))
        equal(len(task['attempts']), 1, 'a wrong key is not tried again')


def test_e429_is_retried_as_the_task_says():
    with Codex('e429') as codex:
        task, _ = codex.run(retry={'max_attempts': 2, 'backoff_s': 0.1})
        equal((task['state'], task['reason']), ('dead', 'rate_limited'))
        equal(len(task['attempts']), 2)


def test_e500_is_told_and_retryable():
    with Codex('e500') as codex:
        task, _ = codex.run(retry={'max_attempts': 1})
        equal(task['state'], 'failed')
        assert task['reason'] in ('overloaded', 'network'), task['reason']
        equal(task['usage'] and task['usage']['output_tokens'] or 0, 0)


def test_hang_is_ended_by_the_time_limit():
    with Codex('hang') as codex:
        start = time.monotonic()
        task, _ = codex.run(limit_s=3)
        equal(task['state'], 'timed_out')
        assert time.monotonic() - start < 30, 'the time it took'
        equal(codex_processes(codex), [], 'processes left')


def test_hang_is_ended_by_a_cancel():
    with Codex('hang') as codex:
        client = codex.it.client
        id = client.submit('Hang.', agent='codex')['id']
        harness.wait_for(lambda: codex.mock.requests().get('hang'), 'Codex asks its model')
        client.cancel(id).expect(200)
        client.finish(id, 'cancelled')
        equal(codex_processes(codex), [], 'processes left')


def test_drop_is_told():
    with Codex('drop') as codex:
        task, _ = codex.run(retry={'max_attempts': 1})
        equal(task['state'], 'failed')
        assert task['reason'] in ('network', 'overloaded', 'no_result'), task['reason']


def test_refused_connection_ends():
    with Codex('ok') as codex:
        codex.mock.close()              # nobody listens there any more
        task, events = codex.run(retry={'max_attempts': 1})
        equal((task['state'], task['reason']), ('failed', 'network'))


def codex_processes(codex):
    """Of this instance: those below its launcher, but for the janitor that removes an ended task's home."""
    pid = codex.it.pid('launcher')
    found = []
    for child in open(f'/proc/{pid}/task/{pid}/children').read().split():
        try:
            name = pathlib.Path(f'/proc/{child}/comm').read_text().strip()
        except OSError:
            continue                    # ended since
        if name != 'agent-janitor':
            found.append((child, name))
    return found


if __name__ == '__main__':
    harness.main(globals())

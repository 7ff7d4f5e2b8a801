#!/usr/bin/python3
"""The event stream: order, what a client that comes back gets, and many readers at once."""

import concurrent.futures
import contextlib
import json

import harness
from harness import equal

LINES = 200


def texts(events):
    return ''.join(e['data']['data'].get('text', '') + '\n' for e in events if e['event'] in ('text', 'output'))


def test_the_stream_of_a_task(it):
    id = it.client.submit('for i in 1 2 3; do echo line $i; done', agent='sh')['id']
    events = list(it.client.events(id))
    equal(events[-1]['event'], 'end')
    equal(events[-1]['data']['state'], 'succeeded')
    numbered = events[:-1]
    ids = [int(e['id']) for e in numbered]
    equal(ids, sorted(set(ids)), 'sequence numbers rise')
    for e in numbered:
        equal(e['data']['seq'], int(e['id']))
        equal(e['data']['type'], e['event'])
    states = [e['data']['data']['state'] for e in numbered if e['event'] == 'state']
    equal(states, ['queued', 'running', 'succeeded'], 'states')
    assert 'line 1' in texts(numbered) and 'line 3' in texts(numbered), texts(numbered)
    equal(list(it.client.events(id)), events, 'the same again, from the store')


def test_a_client_that_comes_back_misses_and_repeats_nothing(it):
    path = it.workspace()
    script = f'for i in $(seq {LINES}); do echo number $i; [ $((i % 20)) != 0 ] || sleep 0.05; done'
    id = it.client.submit(script, agent='sh', workspace=str(path))['id']
    got, last, visits = [], None, 0
    while not got or got[-1]['event'] != 'end':
        visits += 1
        headers = {'Last-Event-ID': last} if last else {}
        with contextlib.closing(it.client.events(id, headers=headers)) as events:
            for n, event in enumerate(events):
                got.append(event)
                last = event.get('id', last)
                if n == 12:
                    break               # hang up in the middle
    assert visits > 5, f'{visits} visits only'
    equal(got[:-1], list(it.client.events(id))[:-1], 'all visits together')
    numbers = [w for w in texts(got).split() if w.isdigit()]
    equal(numbers, [str(i) for i in range(1, LINES + 1)], 'what the agent said')


def test_after_and_past_the_end(it):
    id = it.client.submit('echo a; echo b', agent='sh', wait=30)['id']
    events = list(it.client.events(id))
    middle = len(events) // 2
    equal(list(it.client.events(id, after=events[middle]['id'])), events[middle + 1:], 'events ?after=')
    last = [e['id'] for e in events if 'id' in e][-1]
    equal(it.client.get(f'/tasks/{id}/events', headers={'Last-Event-ID': last}).status, 204, 'past the end')
    for bad in ('x', '-1', '99999999999999999999999'):
        it.client.get(f'/tasks/{id}/events?after={bad}').problem(400)


def test_many_readers_see_the_same(it):
    path = it.workspace()
    id = it.client.submit('while [ ! -e go ]; do sleep 0.02; done; seq 300', agent='sh', workspace=str(path))['id']
    it.client.await_state(id, 'running')
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        readers = [pool.submit(lambda: list(it.client.events(id))) for _ in range(20)]
        (path / 'go').touch()
        streams = [r.result() for r in readers]
    assert all(s == streams[0] for s in streams), 'streams differ'
    equal([w for w in texts(streams[0]).split()], [str(i) for i in range(1, 301)])


def test_output_over_the_limit_is_cut_and_said(it):
    script = 'head -c 3000000 /dev/zero | tr "\\0" "\\n" | sed s/^/xxxxxxxxx/; echo after'
    id = it.client.submit(script, agent='sh', wait=60)['id']
    types = [e['event'] for e in it.client.events(id)]
    equal(types.count('truncated'), 1, 'truncated events')
    task = it.client.task(id)
    equal(task['state'], 'succeeded')
    equal(task['result']['truncated'], True, 'the result is marked')


def test_a_long_line_and_bytes_that_are_no_text(it):
    script = 'head -c 3000000 /dev/zero | tr "\\0" x; echo; printf "\\377\\376 \\000 end\\n"'
    task = it.client.submit(script, agent='sh', wait=60)
    equal(task['state'], 'succeeded')
    raw = it.client.get(f'/tasks/{task["id"]}?include=transcript').expect(200)
    raw.body.decode('utf-8')
    assert ' end' in json.dumps(raw.json['transcript'][-5:]), 'the line after it'


if __name__ == '__main__':
    harness.main(globals(), config=harness.CONFIG + 'tasks: { capture: 4M }\n')

#!/usr/bin/python3
"""GET /usage and agent-routerctl usage: every attempt counts once, over crashes too, and to whom it belongs."""

import csv
import datetime
import io
import json

import harness
from harness import equal

# The prompt is a shell script that prints the agent's JSON lines.
MANIFEST = '''\
version: 1
name: meter
title: A meter
install: Install dash.
capabilities: [meter]
concurrency: 20
command: { find: [/bin/sh] }
output:
  format: json-lines
  events:
    - { match: {/type: text}, emit: text, data: {text: /text}, answer: last }
    - { match: {/type: done}, usage: {input_tokens: /in, output_tokens: /out}, success: yes }
'''
MANIFESTS = {'meter': MANIFEST}
TODAY = lambda: datetime.datetime.now(datetime.timezone.utc).date()


def spend(n_in, n_out, before=''):
    return f'{before}echo \'{{"type":"done","in":{n_in},"out":{n_out}}}\''


def rows(client, query=''):
    return {row['key']: row for row in client.get('/usage' + query).expect(200).json['rows']}


def numbers(row):
    return row['attempts'], row['input_tokens'], row['output_tokens']


def test_sums(it):
    a, b = it.key('sums-a'), it.key('sums-b')
    tasks = [a.submit(spend(10, 1), agent='meter', wait=30), a.submit(spend(100, 2), agent='meter', wait=30),
             b.submit(spend(1000, 3), agent='meter', wait=30), b.submit('echo hello', agent='sh', wait=30)]
    equal({t['state'] for t in tasks}, {'succeeded'}, json.dumps(tasks))
    principals = [t['principal'] for t in tasks]
    by_principal = rows(it.admin, '?by=principal')
    equal(numbers(by_principal[principals[0]]), (2, 110, 3))
    equal(numbers(by_principal[principals[2]]), (2, 1000, 3))
    equal(numbers(rows(b, '?by=agent')['meter']), (1, 1000, 3))
    equal(numbers(rows(b, '?by=agent')['sh']), (1, None, None), 'an agent that tells nothing')
    # Its own alone.
    equal(set(rows(a)), {principals[0]})
    equal(set(rows(a, '?by=agent')), {'meter'})
    equal(sum(row['attempts'] for row in rows(a, '?by=day').values()), 2)
    equal(rows(a, f'?to={TODAY() - datetime.timedelta(days=2)}'), {})
    a.get('/usage?by=nonsense').problem(400)
    a.get('/usage?from=yesterday').problem(400)


def test_a_crash_counts_nothing_twice(it):
    client, path = it.key('crash'), it.workspace()
    ids = [client.submit(spend(7, 1, 'while [ ! -e go ]; do sleep 0.02; done; '), agent='meter', workspace=str(path))['id']
           for _ in range(8)]
    for id in ids:
        client.await_state(id, 'running')
    (path / 'go').touch()
    it.kill('daemon')
    it.await_ready()
    for id in ids:
        client.finish(id, 'succeeded')
    attempts = sum(len(client.task(id)['attempts']) for id in ids)
    equal(numbers(rows(client, '?by=agent')['meter']), (attempts, 56, 8))


def test_csv_and_ctl(it):
    client = it.key('table')
    client.submit(spend(12, 34), agent='meter', wait=30)
    response = client.get('/usage?by=agent', headers={'Accept': 'text/csv'}).expect(200)
    assert response.headers['content-type'].startswith('text/csv'), response
    table = list(csv.DictReader(io.StringIO(response.body.decode())))
    equal([(r['agent'], r['attempts'], r['input_tokens'], r['output_tokens'], r['cost_usd']) for r in table],
          [('meter', '1', '12', '34', '')])
    equal(client.get('/usage?by=agent&format=csv').expect(200).body, response.body)
    # All of it, as root.
    whole = rows(it.admin, '?by=agent')
    out = it.ctl('usage', '--by', 'agent', check=True).stdout
    lines = [line.split() for line in out.splitlines()]
    equal(lines[0][:4], ['agent', 'attempts', 'input', 'cached'])
    meter = next(line for line in lines if line[0] == 'meter')
    equal((int(meter[1]), int(meter[2])), numbers(whole['meter'])[:2])
    equal(lines[-1][:3], ['total', str(sum(r['attempts'] for r in whole.values())),
                          str(sum(r['input_tokens'] or 0 for r in whole.values()))])
    equal(json.loads(it.ctl('usage', '--by', 'agent', '--json', check=True).stdout)['by'], 'agent')
    equal(it.ctl('usage', '--by', 'day', '--csv', check=True).stdout.splitlines()[0].split(',')[:2], ['day', 'attempts'])
    assert 'nothing was used' in it.ctl('usage', '--to', '2001-01-01', check=True).stdout
    equal(it.ctl('usage', '--by', 'color').returncode, 2)
    equal(it.ctl('usage', '--from', 'yesterday').returncode, 4)


if __name__ == '__main__':
    harness.main(globals(), manifests=MANIFESTS)

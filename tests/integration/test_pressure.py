#!/usr/bin/python3
"""A machine that is short of memory: by a floor that no machine has, since no test may make the real one short."""

import harness
from harness import equal, wait_for
from test_reload import Configured, hold

SHORT = 'pressure: { memory_available: 1000T }\n'


def test_one_at_a_time_and_then_all(it):
    with Configured(it) as c:
        c.load(SHORT)
        tasks = [hold(it) for _ in range(3)]
        wait_for(lambda: (tasks[0][1] / 'up').exists(), 'the first runs: one always may')
        for id, _ in tasks[1:]:
            waiting = it.client.task(id)['waiting']
            equal(waiting['reason'], 'pressure')
            assert 'MiB of memory left' in waiting['detail'], waiting
        (tasks[0][1] / 'go').touch()
        wait_for(lambda: (tasks[1][1] / 'up').exists(), 'the second runs when the first has ended')
        assert not (tasks[2][1] / 'up').exists(), 'the third waits'
        c.load('pressure: { memory_available: 0 }\n')
        wait_for(lambda: (tasks[2][1] / 'up').exists(), 'the third runs when the pressure is gone')
        for _, path in tasks:
            (path / 'go').touch()
        for id, _ in tasks:
            it.client.finish(id, 'succeeded')


def test_it_is_shown(it):
    with Configured(it) as c:
        c.load(SHORT)
        it.client.submit('true', agent='sh', wait=60)
        pressure = it.admin.get('/status').json['pressure']
        equal((pressure['launch'], pressure['admit']), (True, False))
        assert pressure['memory_available_bytes'] > 0, pressure
        has_psi = harness.pathlib.Path('/proc/pressure/memory').exists()
        equal(pressure['memory'] is not None, has_psi, 'the kernel has PSI')
        if has_psi:
            metrics = it.admin.get('/metrics').body.decode()
            assert 'agent_router_pressure{resource="memory"} ' in metrics, metrics


if __name__ == '__main__':
    harness.main(globals())

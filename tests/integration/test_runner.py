#!/usr/bin/python3
"""The development runner itself, over stand-ins for daemon and launcher: what it hands over, restarts and leaves."""

import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile

import harness
from harness import equal, wait_for

# Says what it was handed in DIR/NAME.json (DIR: its STATE_DIRECTORY), says READY=1, and stays until SIGTERM.
STAND_IN = '''\
#!/usr/bin/python3
import json, os, pathlib, signal, socket, subprocess, sys, time
state = pathlib.Path(os.environ['STATE_DIRECTORY'])
if (state / 'fail').exists():
    sys.exit(3)
names = os.environ['LISTEN_FDNAMES'].split(':')
sockets = [socket.socket(fileno=3 + i) for i in range(len(names))]
if (state / 'child').exists():
    subprocess.Popen(['sleep', '1000'], start_new_session=True)
told = {'pid': os.getpid(), 'environment': dict(os.environ), 'argv': sys.argv,
        'fds': sorted(int(n) for n in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + n)),
        'sockets': {n: [s.family, s.type, s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)]
                    for n, s in zip(names, sockets)}}
(state / 'told.new').write_text(json.dumps(told))
(state / 'told.new').rename(state / 'told.json')
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect(os.environ['NOTIFY_SOCKET'])
notify.send(b'STATUS=up\\nREADY=1')
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while True:
    signal.pause()
'''


def stand_in_build(directory):
    build = pathlib.Path(directory) / 'build'
    for layer, name in (('daemon', 'agent-routerd'), ('launcher', 'agent-router-launcher')):
        path = build / 'src' / layer / name
        path.parent.mkdir(parents=True)
        path.write_text(STAND_IN)
        path.chmod(0o755)
    return build


class StandIn(harness.Instance):
    def __init__(self, config=None, environment=None):
        self.scratch = tempfile.TemporaryDirectory(prefix='agent-router-stand-in.')
        super().__init__(config, build=stand_in_build(self.scratch.name), environment=environment)

    def told(self, name):
        path = self.dir / {'daemon': 'state', 'launcher': 'launcher'}[name] / 'told.json'
        return json.loads(path.read_text())

    def __exit__(self, *_):
        self.close()
        self.scratch.cleanup()


def alive(pid):
    try:
        return open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[0] not in 'ZX'
    except OSError:
        return False


def test_hands_over_sockets_directories_and_key():
    with StandIn(environment={'CODEX_API_KEY': 'secret'}) as it:
        daemon, launcher = it.told('daemon'), it.told('launcher')
        stream, packet = 1, 5
        equal(daemon['sockets'], {'http': [2, stream, 1], 'control': [1, stream, 1]}, 'daemon sockets')
        equal(launcher['sockets'], {'launcher': [1, packet, 1]}, 'launcher sockets')
        for told in (daemon, launcher):
            equal(told['environment']['LISTEN_PID'], str(told['pid']), 'LISTEN_PID')
            assert 'CODEX_API_KEY' not in told['environment'], 'the caller\'s token was handed on'
        equal(daemon['environment']['CREDENTIALS_DIRECTORY'], str(it.dir / 'credentials'))
        assert (it.dir / 'run/launcher.sock').samefile(daemon['argv'][daemon['argv'].index('--launcher') + 1])
        key = it.dir / 'credentials/store.key'
        assert re.fullmatch(r'[0-9a-f]{64}\n', key.read_text()), 'store key'
        equal(key.stat().st_mode & 0o7777, 0o600, 'mode of the key')
        for path in it.dir.iterdir():
            if path.is_dir() and path.name != 'workspaces':
                equal(path.stat().st_mode & 0o7777, 0o700, f'mode of {path}')
        equal(it.dir.stat().st_mode & 0o066, 0, 'rights of others to list or change the directory')
        equal(it.control.stat().st_mode & 0o777, 0o660, 'mode of the control socket')
        first = key.read_text()
        equal(it.stop(), 0, 'status of run-local')
        it.start()
        equal(key.read_text(), first, 'the key of the second start')


def test_a_daemon_that_dies_is_started_again_and_the_launcher_left():
    with StandIn() as it:
        launcher, url = it.pid('launcher'), it.url
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            it.kill('daemon', number)
            # The socket never closed, so a connection is taken while the daemon is away.
            it.connect().close()
        equal(it.pid('launcher'), launcher, 'the launcher')
        equal(it.url, url)


def test_a_launcher_that_dies_is_started_again_without_its_processes():
    with StandIn() as it:
        (it.dir / 'launcher/child').touch()
        it.kill('launcher')
        pid = it.pid('launcher')
        children = wait_for(lambda: open(f'/proc/{pid}/task/{pid}/children').read().split(), 'a child of the stand-in')
        it.kill('launcher')
        if cgroup_of(pid := it.pid('launcher')):
            wait_for(lambda: not alive(int(children[0])), 'the first launcher\'s child is gone')


def cgroup_of(pid):
    return 'agent-router-run-local' in open(f'/proc/{pid}/cgroup').read()


def test_leaves_nothing_behind():
    with StandIn() as it:
        (it.dir / 'launcher/child').touch()
        it.kill('launcher')
        launcher = it.pid('launcher')
        children = wait_for(lambda: open(f'/proc/{launcher}/task/{launcher}/children').read().split(), 'a child')
        pids = [it.pid('daemon'), launcher, *map(int, children)]
        equal(it.stop(), 0, 'status of run-local')
        equal([p for p in pids if alive(p)], [], 'processes left')
        equal(os.listdir(it.dir / 'run'), [], 'files left in the run directory')
        equal(subprocess.run(['find', '/sys/fs/cgroup', '-name', f'agent-router-run-local-{it.process.pid}'],
                             capture_output=True, text=True).stdout, '', 'cgroups left')


def test_ends_its_programs_when_killed():
    with StandIn() as it:
        pids = [it.pid('daemon'), it.pid('launcher')]
        it.process.kill()
        it.process.wait()
        wait_for(lambda: not any(map(alive, pids)), 'the programs ended')
        for path in pathlib.Path('/sys/fs/cgroup').rglob(f'agent-router-run-local-{it.process.pid}'):
            path.rmdir()


def test_a_first_start_that_fails_is_reported():
    with StandIn() as it:
        it.stop()
        (it.dir / 'state/fail').touch()
        it.start(ready=False)
        equal(it.process.wait(timeout=harness.DEADLINE_S), 1, 'status of run-local')
        assert 'daemon exited with status 3 before it was ready' in it.logs(), it.logs()
        equal(os.listdir(it.dir / 'run'), [], 'files left in the run directory')


def test_two_runners_do_not_share_a_directory():
    with StandIn() as it:
        done = subprocess.run(it.argv, env=it.environment, capture_output=True, text=True)
        equal(done.returncode, 1, 'status of the second run-local')
        assert 'another run-local uses' in done.stderr, done.stderr


def test_the_worker_user_is_filled_in_for_root():
    if os.geteuid() != 0:
        raise harness.Skip('only root runs tasks as another user')
    texts = {'version: 1\n': 'version: 1\nsandbox: { worker_user: nobody }\n',
             'sandbox: {pids_max: 5}\n': 'sandbox: {"worker_user": "nobody", pids_max: 5}\n',
             'sandbox:  # ours\n  # more\n  pids_max: 5\n':
                 'sandbox:  # ours\n  # more\n  worker_user: nobody\n  pids_max: 5\n',
             '{"version": 1}': '{"sandbox": {"worker_user": "nobody"}, "version": 1}',
             'sandbox:\n  worker_user: daemon\n': None}
    for text, expected in texts.items():
        with StandIn(config=text) as it:
            path = pathlib.Path(it.told('daemon')['argv'][it.told('daemon')['argv'].index('--config') + 1])
            equal(path.read_text(), expected or text, 'the configuration handed on')


if __name__ == '__main__':
    harness.main(globals())

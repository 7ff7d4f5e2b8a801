#!/usr/bin/python3
"""What the daemon can no longer do once it runs, and what a task in its sandbox can not do or see."""

import re
import socket

import harness
from harness import Skip, equal


def status_of(pid):
    return dict(line.split(':\t', 1) for line in open(f'/proc/{pid}/status').read().splitlines() if ':\t' in line)


def test_the_daemon_is_confined(it):
    status = status_of(it.pid('daemon'))
    equal(status['Seccomp'].strip(), '2', 'Seccomp: a filter')
    equal(status['NoNewPrivs'].strip(), '1', 'NoNewPrivs')
    for field in ('CapEff', 'CapPrm', 'CapInh', 'CapAmb'):
        equal(int(status[field], 16), 0, field)
    equal(status['Threads'].strip(), '1', 'Threads')
    equal(it.admin.get('/status').json['reactor']['restricted'], True)


def test_the_daemon_has_no_child_and_little_open(it):
    pid = it.pid('daemon')
    equal(open(f'/proc/{pid}/task/{pid}/children').read(), '', 'children')


def task(it, script, **members):
    value = it.client.submit(script, agent='sh', wait=60, **members)
    assert value['state'] == 'succeeded', value
    return value['result']['text'] if value['result'] else ''


def test_a_task_has_no_privileges(it):
    status = dict(line.split(':\t', 1) for line in task(it, 'cat /proc/self/status').splitlines() if ':\t' in line)
    for field in ('CapEff', 'CapPrm', 'CapInh', 'CapAmb', 'CapBnd'):
        equal(int(status[field], 16), 0, field)
    equal(status['NoNewPrivs'].strip(), '1')
    equal(status['Seccomp'].strip(), '2')
    equal(status['Uid'].split(), [str(harness.WORKER.pw_uid)] * 4)


def test_a_task_has_only_its_streams_open(it):
    fds = task(it, 'ls /proc/self/fd').split()
    equal(set(fds) - {'3'}, {'0', '1', '2'}, 'descriptors (3 is the directory that ls reads)')


def test_a_task_sees_no_other_process(it):
    pids = [int(w) for w in task(it, 'cd /proc && echo [0-9]*').split()]
    assert max(pids) < 50, pids         # a pid namespace of its own; its init belongs to another user and is hidden


def test_a_task_sees_no_state(it):
    for path in (it.dir / 'state', it.dir / 'credentials/store.key', it.dir / 'launcher', it.dir / 'agent-credentials',
                 it.control, '/etc/shadow'):
        out = task(it, f'cat {path} >/dev/null 2>&1 && echo SEEN; ls {path}/* 2>/dev/null; true')
        assert 'SEEN' not in out and 'store' not in out, f'{path}: {out}'


def test_a_task_writes_only_where_it_may(it):
    path = it.workspace()
    script = ('for d in / /usr /etc /var /home /root /dev /proc/sys/kernel "$HOME" /tmp .; do '
              'touch $d/probe 2>/dev/null && echo $d; done; true')
    out = task(it, script, workspace=str(path)).split('\n')
    home = task(it, 'echo "$HOME"')
    equal(sorted(set(out) - {'/dev'}), sorted({home, '/tmp', '.'}), 'places that can be written')
    assert not harness.pathlib.Path('/tmp/probe').exists(), '/tmp is the task\'s own'


def test_two_tasks_share_nothing(it):
    word = 'share-probe-17'
    task(it, f'echo {word} > /tmp/{word}; echo {word} > "$HOME/{word}"')
    out = task(it, f'ls /tmp "$HOME"; find / -name "{word}" 2>/dev/null; true')
    assert word not in out, out


def test_forbidden_calls(it):
    python = '/usr/bin/python3'
    probes = {'unshare': '272, 0x10000000', 'ptrace': '101, 0, 0, 0, 0', 'io_uring_setup': '425, 8, 0',
              'bpf': '321, 0, 0, 0', 'keyctl': '250, 0, 0', 'userfaultfd': '323, 0', 'mount': '165, 0, 0, 0, 0, 0',
              'clone3': '435, 0, 0'}
    if harness.os.uname().machine != 'x86_64':
        raise Skip('the call numbers are those of x86-64')
    lines = '\n'.join(f'print("{name}", libc.syscall({arguments}), ctypes.get_errno())'
                      for name, arguments in probes.items())
    script = f"{python} - <<'EOF'\nimport ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n{lines}\nEOF\n"
    for line in task(it, script).splitlines():
        name, result, number = line.split()
        equal(result, '-1', name)
        equal(int(number) in ({38} if name == 'clone3' else {1, 38}), True, f'{name}: errno {number}')


def test_the_prompt_is_not_in_any_command_line(it):
    path = it.workspace()
    word = 'prompt-in-argv-probe'
    script = f': {word}; touch up; while [ ! -e go ]; do sleep 0.02; done'
    id = it.client.submit(script, agent='sh', workspace=str(path))['id']
    harness.wait_for(lambda: (path / 'up').exists(), 'the task runs')
    for proc in harness.pathlib.Path('/proc').glob('[0-9]*'):
        for name in ('cmdline', 'environ'):
            try:
                assert word.encode() not in (proc / name).read_bytes(), f'{proc}/{name}'
            except OSError:
                pass
    (path / 'go').touch()
    it.client.finish(id, 'succeeded')


def test_no_network_where_the_agent_has_none(it):
    server = socket.create_server(('127.0.0.1', 0))
    port = server.getsockname()[1]
    python = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
    out = task(it, f'/usr/bin/python3 -c "{python}" 2>&1 | tail -1; true')
    server.close()
    assert re.search('refused|unreachable|denied|permitted', out), f'connected, or: {out}'


if __name__ == '__main__':
    harness.main(globals())

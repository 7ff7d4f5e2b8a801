#!/usr/bin/python3
"""The instance of a plain user: no privileges, agents run as the person, in a user namespace."""

import os
import pathlib
import shutil
import tempfile

import harness
from harness import Skip, equal

PERSON = harness.WORKER


class UserInstance(harness.Instance):
    """run-local as a plain user, in a directory of theirs; we talk to it as root and as that user."""

    def __init__(self):
        if os.geteuid() != 0:
            raise Skip('the other tests run as a plain user already')
        if not shutil.which('setpriv'):
            raise Skip('setpriv is not installed')
        for path in (harness.BUILD / 'src', harness.RUN_LOCAL):
            for parent in (path, *path.parents):
                if not parent.stat().st_mode & 0o001 and parent.is_dir():
                    raise Skip(f'{parent} is closed to other users, and what is built lies below it')
        top = pathlib.Path(tempfile.mkdtemp(prefix='agent-router-user.'))
        top.chmod(0o755)
        self.home = top / 'home'
        self.home.mkdir(mode=0o700)
        super().__init__(harness.CONFIG, directory=self.home / 'instance', environment={'HOME': str(self.home)},
                         prepare=self.prepare)

    def prepare(self, directory):
        for path in (self.home, *self.home.rglob('*')):
            os.chown(path, PERSON.pw_uid, PERSON.pw_gid)
        self.log = self.home.parent / 'log'

    def start(self, ready=True):
        plain = [f'--reuid={PERSON.pw_uid}', f'--regid={PERSON.pw_gid}', '--clear-groups']
        if self.argv[0] != 'setpriv':
            os.chown(self.dir / 'test.yaml', PERSON.pw_uid, PERSON.pw_gid)
            self.argv = ['setpriv', *plain, '--bounding-set=-all', '--no-new-privs', *self.argv]
        super().start(ready)

    def close(self):
        super().close()
        shutil.rmtree(self.home.parent, ignore_errors=True)


def test_a_task_of_a_plain_user():
    with UserInstance() as it:
        person = harness.Client('http://localhost', unix=it.control, uid=PERSON.pw_uid)
        absent = person.get('/status').expect(200).json['launcher']['absent']
        if any(a.startswith(('pidns:', 'userns:')) for a in absent):
            raise Skip('; '.join(a for a in absent if a.startswith(('pidns:', 'userns:'))))
        path = it.workspace()
        script = 'id -u; pwd; echo made > file; ls /proc | grep -c "^[0-9]"'
        task = person.submit(script, agent='sh', workspace=str(path), wait=30)
        equal(task['state'], 'succeeded', str(task))
        uid, place, processes = task['result']['text'].split()
        equal((uid, place), (str(PERSON.pw_uid), str(path)), 'uid and place')
        assert int(processes) < 20, 'processes that it sees'
        equal((path / 'file').stat().st_uid, PERSON.pw_uid, 'owner of what it made')


def test_the_person_administers_their_own_instance():
    with UserInstance() as it:
        person = harness.Client('http://localhost', unix=it.control, uid=PERSON.pw_uid)
        key = person.post('/keys', {'name': 'mine', 'role': 'submitter'}).expect(201).json['key']
        task = harness.Client(it.url, key=key).submit('id -u', agent='sh', wait=30)
        equal(task['result']['text'], str(PERSON.pw_uid), 'whom a key\'s task runs as')


def test_nothing_is_left():
    with UserInstance() as it:
        pids = [it.pid('daemon'), it.pid('launcher')]
        equal(it.stop(), 0, 'status of run-local')
        equal([p for p in pids if pathlib.Path(f'/proc/{p}').exists()], [], 'processes left')


if __name__ == '__main__':
    harness.main(globals())

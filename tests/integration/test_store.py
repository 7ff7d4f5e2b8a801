#!/usr/bin/python3
"""A store that can not be opened is refused with one clear message, and nothing of it is changed."""

import hashlib
import os
import secrets

import harness
from harness import equal


def digest(directory):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(directory.iterdir()) if p.is_file()}


def refused(change, what):
    """Starts once, stops, changes the state directory, and expects a refusal that leaves it as it is."""
    with harness.Instance(harness.CONFIG) as it:
        id = it.client.submit('echo kept', agent='sh', wait=30)['id']
        key = it.client.key
        equal(it.stop(), 0)
        state = it.dir / 'state'
        saved = {p: p.read_bytes() for p in [*state.iterdir(), it.dir / 'credentials/store.key'] if p.is_file()}
        change(it, max(state.iterdir(), key=lambda p: p.stat().st_size))
        before = digest(state)
        it.log.write_text('')
        it.start(ready=False)
        equal(it.process.wait(timeout=harness.DEADLINE_S), 1, 'status of run-local')
        equal(digest(state), before, f'{what}: the state directory')
        lines = [line for line in it.logs().splitlines() if 'run-local:' not in line and 'store' in line.lower()]
        equal(len(lines), 1, f'{what}: messages about the store in\n{it.logs()}')
        harness.diagnose(f'{what}: {lines[0]}')
        for path, data in saved.items():
            path.write_bytes(data)
        it.start()
        equal(harness.Client(it.url, key=key).task(id)['result']['text'], 'kept', 'with the right files again')


def test_another_key():
    refused(lambda it, db: (it.dir / 'credentials/store.key').write_text(secrets.token_hex(32) + '\n'), 'another key')


def test_a_missing_database():
    refused(lambda it, db: db.unlink(), 'a missing database')


def test_an_empty_database():
    refused(lambda it, db: os.truncate(db, 0), 'an empty database')


def test_half_a_database():
    refused(lambda it, db: os.truncate(db, db.stat().st_size // 2 // 4096 * 4096), 'half a database')


def test_a_corrupted_database():
    def corrupt(it, db):
        data = bytearray(db.read_bytes())
        for at in range(4096, len(data), 4096):
            data[at + 100] ^= 0xff
        db.write_bytes(data)
    refused(corrupt, 'a corrupted database')


def test_a_missing_and_a_malformed_key():
    for text in (None, '', 'zz' * 32, '00' * 31):
        with harness.Instance(harness.CONFIG) as it:
            equal(it.stop(), 0)
            before = digest(it.dir / 'state')
            key = it.dir / 'credentials/store.key'
            if text is None:
                key.unlink()
                key.mkdir()             # so that run-local makes no new one
            else:
                key.write_text(text)
            it.start(ready=False)
            equal(it.process.wait(timeout=harness.DEADLINE_S), 1, 'status of run-local')
            assert 'store.key' in it.logs(), it.logs()
            equal(digest(it.dir / 'state'), before, 'the state directory')


if __name__ == '__main__':
    harness.main(globals())

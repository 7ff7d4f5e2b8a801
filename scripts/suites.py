"""suites: builds each configuration and runs its suites; the second half of scripts/test.

Counts test cases rather than programs: meson's own JUnit file leaves out those that crashed or timed out, so the counts
come from testlog.json, whose `stdout` is the TAP of each program.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

SOURCE = pathlib.Path(__file__).resolve().parent.parent
SANITIZERS = 'address,undefined'
# It emulates a machine on one processor for minutes, so it runs beside the others.
BESIDE = 'vm'
# Build directory below build/: environment, meson options, the suites that run there (all compile without a warning).
BUILDS = {
    'gcc': ({'CC': 'gcc'}, [], ['tidy', 'unit', 'sim', 'fuzz', 'integration', 'e2e', 'vm']),
    'clang': ({'CC': 'clang'}, [], ['unit']),
    'asan': ({'CC': 'gcc'}, [f'-Db_sanitize={SANITIZERS}'], ['unit', 'integration']),
}
PROGRESS_S = 30
PASSED, FAILED, SKIPPED = 'passed', 'failed', 'skipped'


def say(text):
    print(text, flush=True)


def run(argv, what, environment=None):
    """Quiet on success; a failure shows all output and ends the run. Progress lines where it takes long."""
    start = time.monotonic()
    process = subprocess.Popen(argv, cwd=SOURCE, env={**os.environ, **(environment or {})}, text=True,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, told = [], start
    for line in process.stdout:
        output.append(line)
        if time.monotonic() - told > PROGRESS_S:
            told = time.monotonic()
            say(f'  … {what}: {told - start:.0f} s, {line.strip()[:80]}')
    if process.wait() != 0:
        say(f'{what}: failed\n' + ''.join(output[-200:]))
        say('0 passed, 1 failed')
        sys.exit(1)
    return time.monotonic() - start


def build(name):
    environment, options, _ = BUILDS[name]
    directory = SOURCE / 'build' / name
    start = time.monotonic()
    if not (directory / 'build.ninja').exists():
        argv = ['meson', 'setup', str(directory), '-Dwerror=true', '-Dtests=enabled', *options]
        run(argv, f'setup {name}', environment)
    run(['ninja', '-C', str(directory)], f'build {name}')
    say(f'build {name:<16} {time.monotonic() - start:7.1f} s')
    return directory


def count(record):
    """(passed, failed, skipped, names of failed cases) of one test program."""
    out, result = record.get('stdout') or '', record['result']
    cases = re.findall(r'^(not )?ok\b(.*)$', out, re.M)
    plan = re.search(r'^1\.\.(\d+)', out, re.M)
    if not plan and not cases:
        kind = {'OK': PASSED, 'EXPECTEDFAIL': PASSED, 'SKIP': SKIPPED}.get(result, FAILED)
        return (kind == PASSED, kind == FAILED, kind == SKIPPED, [])
    counts, names = {PASSED: 0, FAILED: 0, SKIPPED: 0}, []
    for bad, rest in cases:
        kind = SKIPPED if re.search(r'#\s*skip', rest, re.I) else FAILED if bad else PASSED
        counts[kind] += 1
        if kind == FAILED:
            names.append(rest.strip(' -'))
    missing = max(0, (int(plan.group(1)) if plan else 0) - len(cases))
    if not cases and missing == 0:
        counts[SKIPPED] += 1
    if result not in ('OK', 'EXPECTEDFAIL', 'SKIP') and (missing or not counts[FAILED]):
        counts[FAILED] += max(1, missing)       # crashed, timed out, or a sanitizer's complaint at the end
        names.append(f'{result.lower()} ({record.get("returncode")})')
    return counts[PASSED], counts[FAILED], counts[SKIPPED], names


def watch(process, label, total):
    """Waits for meson, whose result lines count what is done; a progress line where nothing was said for long."""
    start, done = time.monotonic(), []

    def read():
        for line in process.stdout:
            if re.match(r'\s*\d+/\d+\s+\S', line):
                done.append(line)
    reader = threading.Thread(target=read)
    reader.start()
    while reader.is_alive():
        reader.join(PROGRESS_S)
        if reader.is_alive():
            say(f'  … {label}: {len(done)} of {total} programs after {time.monotonic() - start:.0f} s')
    process.wait()
    return time.monotonic() - start


def tests_of(directory):
    argv = ['meson', 'introspect', str(directory), '--tests']
    listing = subprocess.run(argv, capture_output=True, text=True, check=True)
    suites = {}
    for test in json.loads(listing.stdout):
        for suite in test['suite']:
            suites.setdefault(suite.rpartition(':')[2], []).append(test['name'])
    return suites


def run_suite(directory, name, suite, total):
    label = f'{suite} ({name})'
    environment = {**os.environ, 'AR_SANITIZE': SANITIZERS if name == 'asan' else 'none'}
    base = f'suite-{suite}'
    # The programs' own time limits are those of an idle machine; sanitizers take three times as long.
    patience = '6' if name == 'asan' else '2'
    argv = ['meson', 'test', '-C', str(directory), '--no-rebuild', '--suite', suite, '--logbase', base,
            '--timeout-multiplier', patience]
    if suite in ('unit', 'fuzz'):
        argv += ['--timeout-multiplier', '5']   # their limits are for a machine of one's own; the vm suite runs beside
    process = subprocess.Popen(argv, cwd=SOURCE, env=environment, text=True, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    seconds = watch(process, label, total)
    log = directory / 'meson-logs' / f'{base}.json'
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    sums, failures, skips = [0, 0, 0], [], []
    for record in records:
        *numbers, names = count(record)
        sums = [a + b for a, b in zip(sums, numbers)]
        if numbers[1]:
            failures.append((record, names))
        skips += re.findall(r'#\s*SKIP\s*(.*)', record.get('stdout') or '', re.I)
    if not records:
        sums[1] += 1
        failures.append(({'name': label, 'stdout': 'meson wrote no test log', 'stderr': ''}, []))
    skipped = f', {sums[2]} skipped' if sums[2] else ''
    say(f'{label:<22} {seconds:7.1f} s  {sums[0]} passed, {sums[1]} failed{skipped}')
    for reason in sorted(set(filter(None, skips))):
        say(f'  skipped: {reason}')
    for record, names in failures:
        say(f'--- {record["name"]}: {"; ".join(names)}')
        text = (record.get('stdout') or '') + (record.get('stderr') or '')
        say('\n'.join(text.splitlines()[-150:]))
    return sums


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--fast', action='store_true')
    parser.add_argument('--bench', action='store_true')
    parser.add_argument('suites', nargs='*')
    args = parser.parse_args()
    start, sums, beside = time.monotonic(), [], []
    for name in ['gcc'] if args.fast else BUILDS:
        wanted = [s for s in BUILDS[name][2] if s in args.suites]
        if not wanted:
            continue
        directory = build(name)
        there = tests_of(directory)
        for suite in sorted(filter(there.get, wanted), key=lambda s: s != BESIDE):
            work = threading.Thread(target=lambda *of: sums.append(run_suite(*of)),
                                    args=(directory, name, suite, len(there[suite])))
            work.start()
            if suite == BESIDE:
                beside.append(work)
            else:
                work.join()
    for work in beside:
        work.join()
    totals = [sum(s[i] for s in sums) for i in range(3)]
    if args.bench:
        subprocess.run(['meson', 'test', '-C', str(SOURCE / 'build/gcc'), '--benchmark', '--verbose'], cwd=SOURCE)
    say(f'all of it in {time.monotonic() - start:.0f} s')
    say(f'{totals[0]} passed, {totals[1]} failed' + (f', {totals[2]} skipped' if totals[2] else ''))
    return 1 if totals[1] or not totals[0] else 0


if __name__ == '__main__':
    sys.exit(main())

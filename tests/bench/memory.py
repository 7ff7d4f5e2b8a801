#!/usr/bin/python3
"""Memory of an idle instance: Private_Dirty and RSS of the daemon, RSS of the launcher (smaps_rollup)."""

import sys

import common
from common import harness


def rollup(pid):
    return {name: n / 2**20 for name, n in common.memory(pid).items()}


def main():
    with harness.Instance(harness.CONFIG) as it:
        it.client.submit('echo warm', agent='sh', wait=30)      # each path has been taken once
        daemon, launcher = rollup(it.pid('daemon')), rollup(it.pid('launcher'))
        held = [common.bound('daemon Private_Dirty', daemon['Private_Dirty'], 5, ' MiB'),
                common.bound('daemon RSS', daemon['Rss'], 20, ' MiB'),
                common.bound('launcher RSS', launcher['Rss'], 4, ' MiB')]
        print(f'launcher Private_Dirty: {launcher["Private_Dirty"]:.2f} MiB')
        return 0 if all(held) else 1


if __name__ == '__main__':
    sys.exit(main())

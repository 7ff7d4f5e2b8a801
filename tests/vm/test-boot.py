#!/usr/bin/env python3
"""The harness itself: the image boots as the machine that the other VM tests take for granted."""

import sys

from image import image
from tap import expect, main
from vm import Vm


def suite(tap):
    cache = sys.argv[1]
    folder = image(cache)
    with Vm(folder, cache) as vm:
        tap.note(f"booted in {vm.boot_seconds:.1f} s")

        def systemd_is_pid_1():
            _, out = vm.run("cat /proc/1/comm; systemctl --version | head -1; uname -r")
            tap.note(out)
            expect(out.startswith("systemd\n"), out)

        def cgroup_controllers():
            _, out = vm.run("cat /sys/fs/cgroup/cgroup.controllers; stat -fc %T /sys/fs/cgroup")
            expect({"cpu", "memory", "pids", "cgroup2fs"} <= set(out.split()), out)

        def status_and_output():
            status, out = vm.run("echo to stderr >&2; echo to stdout; exit 7")
            expect((status, out) == (7, "to stderr\nto stdout\n"), f"{status} {out!r}")
            status, out = vm.run("sleep 100", seconds=1)
            expect(status == 124, f"a script that ran too long ended with {status}")
            status, out = vm.run("head -c 300000 /dev/zero | tr '\\0' x")
            expect((status, len(out)) == (0, 262144), f"{status} {len(out)}")

        def powers_off():
            vm.shutdown()
            expect(vm.process.returncode == 0, f"qemu ended with {vm.process.returncode}")

        tap.case("systemd is PID 1", systemd_is_pid_1)
        tap.case("all cgroup v2 controllers are there", cgroup_controllers)
        tap.case("a command's status and output come back", status_and_output)
        tap.case("powers off", powers_off)


main(suite)

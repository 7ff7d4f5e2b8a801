#!/usr/bin/env python3
"""Power cuts: no task that was acknowledged may be missing afterwards.

    power_cut.py CACHE SOURCE SUBMIT [CUTS [SEED]]

A VM runs agent-routerd under submit load; each id that was answered with 201 is recorded here, on the host, the moment
it is. Then qemu is killed with SIGKILL: the guest's memory, its page cache with it, is gone, what it wrote to its disk
is not. The next boot lists the tasks that are there; every recorded one must be among them.

That such a test can see a missing fsync is shown by a control beside it: the same package on the same kind of disk, its
state directory on an overlay mounted `volatile`, where every fsync succeeds and does nothing. It must lose some.
"""

import random
import subprocess
import sys
import threading
import time

import deb
import guest
from image import image
from tap import Failed, expect, main
from vm import Disk, Vm, make_payload

CUTS = 11
CONTROL_CUTS = 2
CONNECTIONS = 8
ACKS_RANGE = (60, 900)      # acknowledged tasks before a cut
LOAD_SECONDS_MAX = 60
STATE = "/var/lib/agent-router"


class Acks:
    """Ids as they come in; a test waits for the n-th."""

    def __init__(self):
        self.ids, self.changed = [], threading.Condition()

    def on_line(self, line):
        if len(line) == 36:
            with self.changed:
                self.ids.append(line)
                self.changed.notify_all()

    def wait(self, n, seconds):
        with self.changed:
            return self.changed.wait_for(lambda: len(self.ids) >= n, seconds)


class Machine:
    """One disk, booted and cut again and again."""

    def __init__(self, folder, cache, payload, rng, log, volatile=False):
        self.folder, self.cache, self.payload, self.rng, self.log = folder, cache, payload, rng, log
        self.volatile, self.disk = volatile, Disk(folder, cache)
        self.acknowledged, self.n_lost, self.n_cuts, self.refused = set(), 0, 0, 0

    def boot(self, on_line=None):
        # writeback: a flush of the guest is a flush here; qemu's death loses neither, only what the guest still held.
        return Vm(self.folder, self.cache, disk=self.disk, payload=self.payload, cpus=1, memory_mib=768, on_line=on_line,
                  cache="writeback")

    def provision(self):
        with self.boot() as vm:
            status, out = vm.run("dpkg -i /payload/agent-router.deb", seconds=300)
            expect(status == 0, out)
            guest.configure(vm)
            vm.run("cp /payload/submit /usr/local/bin/submit; chmod 0755 /usr/local/bin/submit; "
                   "systemctl restart agent-routerd", seconds=180, check=True)
            vm.run("systemctl stop agent-routerd-http.socket agent-routerd-control.socket agent-routerd; sync", seconds=120, check=True)
            vm.shutdown()

    def start_daemon(self, vm):
        """In the control, with an overlay over the state directory whose fsync does nothing; /var/upper is the store."""
        if self.volatile:
            vm.run(f"systemctl stop agent-routerd; mkdir -p /var/work /var/lower; [ -d /var/upper ] || cp -a {STATE} /var/upper; "
                   f"rm -rf /var/work/*; sync; mount -t overlay overlay -o lowerdir=/var/lower,upperdir=/var/upper,workdir=/var/work,"
                   f"volatile {STATE}", check=True, seconds=120)
        status, out = vm.run("systemctl start agent-routerd", seconds=180)
        return status == 0, out

    def verify(self, vm):
        """How many of the recorded tasks are missing. A control whose store is refused goes on with a new one."""
        started, out = self.start_daemon(vm)
        if not started:
            if not self.volatile:
                raise Failed(out + vm.run("journalctl -b -u agent-routerd -o cat --no-pager | tail -20")[1])
            # Refusing what the cut left of the store loses all of it; any other failure would be no proof.
            _, out = vm.run("journalctl -b -o cat MESSAGE_ID=7c1d6e3fb0a14d0c9d5e0a4b7be30005 | tail -1")
            expect(out, "the control's daemon did not start, and not for its store: " +
                   vm.run("journalctl -b -u agent-routerd -o cat --no-pager | tail -20")[1])
            self.log(f"control: {out.strip()}")
            self.refused += 1
            vm.run(f"systemctl stop agent-routerd; umount {STATE}; rm -rf /var/upper", check=True, seconds=120)
            started, out = self.start_daemon(vm)
            expect(started, out)
            return len(self.acknowledged)
        status, out = vm.run(f"submit list {guest.CONTROL} >/run/ids && wc -l </run/ids", seconds=180)
        expect(status == 0, out)
        return len(self.acknowledged - set(vm.run("sort -u /run/ids", seconds=60)[1].split()))

    def cut(self):
        """Boot, check what earlier cuts left, load, cut."""
        acks = Acks()
        with self.boot(acks.on_line) as vm:
            lost = self.verify(vm)
            self.account(lost)
            n = self.rng.randint(*ACKS_RANGE)
            vm.send(f"exec submit load {guest.CONTROL} /dev/virtio-ports/lines {CONNECTIONS}", seconds=LOAD_SECONDS_MAX * 2)
            began = time.monotonic()
            enough = acks.wait(n, LOAD_SECONDS_MAX)
            # Not at an acknowledgement always: a little later is in the middle of whatever comes.
            time.sleep(self.rng.random() * 0.2)
            vm.power_cut()
            self.n_cuts += 1
            seconds = time.monotonic() - began
        expect(acks.ids, f"no task was acknowledged in {LOAD_SECONDS_MAX} s")
        self.log(f"cut {self.n_cuts}{' (control)' if self.volatile else ''}: {len(acks.ids)} acknowledged in {seconds:.1f} s"
                 + ("" if enough else f" (fewer than the {n} that were meant)"))
        self.acknowledged |= set(acks.ids)

    def account(self, lost):
        self.n_lost += lost
        if lost:
            self.log(f"after cut {self.n_cuts}{' (control)' if self.volatile else ''}: {lost} of {len(self.acknowledged)} are missing")
            self.acknowledged.clear()  # counted once

    def last_check(self):
        with self.boot() as vm:
            self.account(self.verify(vm))


def suite(tap):
    cache, source, submit = sys.argv[1:4]
    cuts = int(sys.argv[4]) if len(sys.argv) > 4 else CUTS
    seed = int(sys.argv[5]) if len(sys.argv) > 5 else random.SystemRandom().randrange(1 << 32)
    folder = image(cache)
    package = deb.build(source, cache, tap.note)
    payload = make_payload(cache, [(package, "agent-router.deb"), (submit, "submit")])
    tap.note(f"seed {seed}")
    real = Machine(folder, cache, payload, random.Random(seed), tap.note)
    control = Machine(folder, cache, payload, random.Random(seed + 1), tap.note, volatile=True)
    failure = []

    def run_control():
        try:
            for _ in range(CONTROL_CUTS):
                control.cut()
            control.last_check()
        except Exception as e:
            failure.append(e)

    try:
        real.provision()
        subprocess.run(["cp", "--sparse=always", real.disk.path, control.disk.path], check=True)
        beside = threading.Thread(target=run_control)
        beside.start()
        try:
            def nothing_is_lost():
                for _ in range(cuts):
                    real.cut()
                real.last_check()
                tap.note(f"{real.n_cuts} power cuts, {real.n_lost} acknowledged tasks lost")
                expect(real.n_lost == 0, f"{real.n_lost} acknowledged tasks are lost")

            tap.case(f"no acknowledged task is lost over {cuts} power cuts", nothing_is_lost)
        finally:
            beside.join()

        def control_loses():
            if failure:
                raise failure[0]
            tap.note(f"control without fsync: {control.n_cuts} power cuts, {control.n_lost} acknowledged tasks lost"
                     + (f", store refused {control.refused} times" if control.refused else ""))
            expect(control.n_lost > 0, "the control lost nothing, so the test above could not have seen a missing fsync")

        tap.case("the same without fsync loses some", control_loses)
    finally:
        payload.unlink()
        real.disk.remove()
        control.disk.remove()


main(suite)

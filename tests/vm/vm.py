"""A virtual machine under qemu (no KVM needed) and the way to run commands in it.

    with Vm(image_folder, payload=[deb, script]) as vm:
        status, output = vm.run("systemctl is-system-running")

The guest's agent (guest-agent) reads commands from one virtio port and answers with status and output; a second port
carries lines from the guest to on_line() as they are written, which is how a test learns of something before it cuts
the power. The payload is a read-only second disk, mounted at /payload.
"""

import base64
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
BOOT_SECONDS_MAX = 240  # 13 s on an idle machine; a CI host may be busy with other tests
PATIENCE = 3            # the seconds that tests give are an idle machine's many times over; they are there for hangs
CONSOLE_TAIL = 4000


libc = ctypes.CDLL(None)


class VmError(Exception):
    pass


class Disk:
    """A writable copy of an image, which outlives the VMs that boot from it (a power cut keeps its disk)."""

    def __init__(self, folder, scratch):
        self.path = Path(scratch) / f"disk-{os.getpid()}-{id(self):x}.img"
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", Path(folder) / "root.img", self.path], check=True)

    def remove(self):
        self.path.unlink(missing_ok=True)


def make_payload(scratch, files):
    """An ext4 image with these files at its top level; a pair is (source, name)."""
    top = Path(tempfile.mkdtemp(prefix="payload-", dir=scratch))
    size = 8 << 20
    for entry in files:
        source, name = entry if isinstance(entry, tuple) else (entry, Path(entry).name)
        shutil.copy(source, top / name)
        size += (top / name).stat().st_size * 11 // 10 + 8192
    path = top.with_suffix(".img")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", "-d", top, path,
                    f"{size // 1024}k"], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(top)
    return path


class Vm:
    def __init__(self, folder, scratch, disk=None, payload=None, memory_mib=1024, cpus=2, on_line=None, cache="unsafe"):
        self.folder, self.scratch = Path(folder), Path(tempfile.mkdtemp(prefix="vm-", dir=scratch))
        self.own_disk = disk is None
        self.disk = disk or Disk(folder, self.scratch)
        self.payload, self.memory_mib, self.cpus, self.cache = payload, memory_mib, cpus, cache
        self.on_line = on_line
        self.console = self.scratch / "console.log"
        self.process, self.command, self.pending = None, None, b""
        self.n_commands = 0
        self.boot_seconds = None

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def start(self):
        listeners = {}
        for name in ("command", "lines"):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(self.scratch / name))
            listener.listen(1)
            listeners[name] = listener
        args = [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-M", "pc", "-m", f"{self.memory_mib}M",
            "-smp", str(self.cpus), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-kernel", self.folder / "vmlinuz", "-initrd", self.folder / "initrd.img",
            "-append", "root=/dev/vda rw console=ttyS0 quiet loglevel=4 mitigations=off random.trust_cpu=on "
                       "systemd.show_status=no fsck.mode=skip",
            "-serial", f"file:{self.console}",
            "-drive", f"file={self.disk.path},if=virtio,format=raw,cache={self.cache}",
            "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
        ]
        if self.payload:
            args += ["-drive", f"file={self.payload},if=virtio,format=raw,readonly=on,cache=unsafe"]
        for name in listeners:
            args += ["-chardev", f"socket,id={name},path={self.scratch / name}",
                     "-device", f"virtserialport,chardev={name},name={name}"]
        began = time.monotonic()
        # Its own session: a Ctrl-C at the tests' terminal reaches the harness first, which then ends it.
        self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=open(self.scratch / "qemu.log", "wb"),
                                        stderr=subprocess.STDOUT, start_new_session=True,
                                        # However the harness dies, its machine goes with it.
                                        preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
        for name, listener in listeners.items():
            listener.settimeout(30)
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                raise VmError("qemu did not start: " + (self.scratch / "qemu.log").read_text()[-CONSOLE_TAIL:]) from None
            listener.close()
            if name == "command":
                self.command = connection
            else:
                threading.Thread(target=self._read_lines, args=(connection,), daemon=True).start()
        self._read_answer("ready", BOOT_SECONDS_MAX)
        self.boot_seconds = time.monotonic() - began

    def _read_lines(self, connection):
        pending = b""
        while True:
            try:
                data = connection.recv(65536)
            except OSError:
                return
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            if self.on_line:
                for line in lines:
                    self.on_line(line.decode(errors="replace"))

    def _read_answer(self, key, seconds):
        deadline = time.monotonic() + seconds
        while True:
            *lines, self.pending = self.pending.split(b"\n")
            for i, line in enumerate(lines):
                parts = line.decode().split(" ", 2)
                if parts[0] == key:
                    self.pending = b"\n".join([*lines[i + 1:], self.pending])
                    return parts
            left = deadline - time.monotonic()
            if left <= 0:
                raise VmError(f"the guest did not answer within {seconds:.0f} s; its console ends:\n{self.console_tail()}")
            self.command.settimeout(left)
            try:
                data = self.command.recv(65536)
            except TimeoutError:
                continue
            if not data:
                raise VmError(f"the guest went away; its console ends:\n{self.console_tail()}")
            self.pending += data

    def run(self, script, seconds=60, check=False):
        """Runs a bash script as root; (exit status, output). With check a status other than 0 raises."""
        self.n_commands += 1
        seconds *= PATIENCE
        key = f"c{self.n_commands}"
        encoded = base64.b64encode(script.encode()).decode()
        self.command.sendall(f"{key} {seconds} {encoded}\n".encode())
        _, status, output = self._read_answer(key, seconds * 1.5 + 30)
        text = "" if output == "-" else base64.b64decode(output).decode(errors="replace")
        if check and int(status) != 0:
            raise VmError(f"exit status {status} of:\n{script}\n{text}")
        return int(status), text

    def send(self, script, seconds=600):
        """Starts a script and does not wait: the guest answers nothing else until it ends (or the power is cut)."""
        encoded = base64.b64encode(script.encode()).decode()
        self.command.sendall(f"background {seconds} {encoded}\n".encode())

    def console_tail(self):
        return self.console.read_text(errors="replace")[-CONSOLE_TAIL:] if self.console.exists() else ""

    def power_cut(self):
        """SIGKILL: what the guest had not flushed is gone, what it had written to its disk is kept."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def shutdown(self, seconds=120):
        """A clean power-off."""
        self.command.sendall(b"off 30 " + base64.b64encode(b"systemctl poweroff --no-block") + b"\n")
        self.process.wait(timeout=seconds)

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.command:
            self.command.close()
        if self.own_disk:
            self.disk.remove()
        shutil.rmtree(self.scratch, ignore_errors=True)

#!/usr/bin/env python3
"""The units say what systemd understands, and what they promise.

`systemd-analyze verify` and `security` read them from a root made here, with empty programs at their ExecStart= paths,
so nothing has to be installed. The rest holds text to text: every MESSAGE_ID to the catalog, every address to one place.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

source, build, libexecdir = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
SECURITY_MAX = 15  # tenths: agent-routerd.service scores at most 1.5
n = 0
n_failed = 0


def result(ok, name, text=""):
    global n, n_failed
    n += 1
    n_failed += not ok
    print(f"{'ok' if ok else 'not ok'} {n} - {name}")
    if not ok:
        for line in text.splitlines():
            print(f"# {line}")


def skip(name, reason):
    global n
    n += 1
    print(f"ok {n} - {name} # SKIP {reason}")


def make_root(top):
    """A root folder with our units, the system's own, and a file wherever an ExecStart= points."""
    system, user = top / "usr/lib/systemd/system", top / "usr/lib/systemd/user"
    for kind, folder, installed in (("system", system, ("/usr/lib", "/lib")), ("user", user, ("/usr/lib",))):
        for lib in installed:
            if not folder.exists() and Path(f"{lib}/systemd/{kind}").is_dir():
                shutil.copytree(f"{lib}/systemd/{kind}", folder, symlinks=True, dirs_exist_ok=True)
    for unit in [*source.glob("*.socket"), *source.glob("*.slice"), *build.glob("agent-router*.service")]:
        shutil.copy(unit, system)
    for unit in [*source.glob("user/*.socket"), *source.glob("user/*.slice")]:
        shutil.copy(unit, user)
    for unit in build.glob("user-*.service"):
        shutil.copy(unit, user / unit.name.removeprefix("user-"))
    for name in ("agent-routerd", "agent-router-launcher", "make-store-key", "/bin/sh"):
        program = top / os.path.join(libexecdir, name).lstrip("/")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    return system, user


def ours(folder):
    return sorted(str(p) for p in folder.glob("agent-router*") if p.is_file())


def settings(path):
    """[(section, name, value)] of a unit."""
    section, out = None, []
    for line in path.read_text().splitlines():
        if m := re.fullmatch(r"\[(\w+)\]", line):
            section = m[1]
        elif line and line[0] not in "#;":
            name, _, value = line.partition("=")
            out.append((section, name, value))
    return out


def analyze(top):
    system, user = make_root(top)
    if shutil.which("systemd-analyze") is None:
        for name in ("system units verify", "user units verify", "agent-routerd.service is locked down"):
            skip(name, "systemd-analyze is not installed")
        return
    # With --user there is no --root=: there the units name the programs of the root by their whole path.
    for unit in user.glob("agent-router*.service"):
        unit.write_text(unit.read_text().replace(f"={libexecdir}/", f"={top}{libexecdir}/"))
    names = [str(Path("/") / Path(p).relative_to(top)) for p in ours(system)]
    for name, arguments in (("system", ["--system", f"--root={top}", *names]), ("user", ["--user", *ours(user)])):
        r = subprocess.run(["systemd-analyze", "verify", "--man=no", "--generators=no", *arguments], capture_output=True,
                           text=True, env={**os.environ, "XDG_RUNTIME_DIR": str(top), "HOME": str(top),
                                           **({"SYSTEMD_UNIT_PATH": str(user)} if name == "user" else {})})
        # Only what is said of our units: the machine's own are not ours to mend.
        lines = [line for line in (r.stdout + r.stderr).splitlines() if "agent-router" in line]
        result(not lines and r.returncode == 0, f"{name} units verify in silence", "\n".join(lines) or r.stderr)
    r = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={SECURITY_MAX}",
                        f"--root={top}", str(Path("/") / (system / "agent-routerd.service").relative_to(top))],
                       capture_output=True, text=True)
    score = next((line for line in r.stdout.splitlines() if "Overall exposure" in line), r.stderr)
    result(r.returncode == 0, f"agent-routerd.service is locked down ({' '.join(score.split()[1:])})",
           "\n".join(line for line in r.stdout.splitlines() if line.startswith("✗")) or r.stderr)


def catalog():
    header = (source.parent / "src/base/log.h").read_text()
    wanted = dict(re.findall(r'#define (LOG_ID_\w+)\s+"([0-9a-f]{32})"', header))
    text = (source / "agent-router.catalog").read_text()
    have = re.findall(r"^-- ([0-9a-f]{32})$", text, re.M)
    missing = [name for name, value in wanted.items() if value not in have]
    extra = [value for value in have if value not in wanted.values()]
    result(wanted and not missing, "every MESSAGE_ID has a catalog entry", " ".join(missing))
    result(not extra and len(have) == len(set(have)), "the catalog has no other entry", " ".join(extra))
    entries = re.split(r"^-- [0-9a-f]{32}$", text, flags=re.M)[1:]
    result(all(re.match(r"\nSubject: \S.*\nDefined-By: agent-router\n", e) for e in entries),
           "every catalog entry has a subject and says whose it is")


def sockets():
    for where, listens in ((source, {"http": "127.0.0.1:8377", "control": "/run/agent-router/control.sock",
                                     "launcher": "/run/agent-router-launcher/launcher.sock"}),
                           (source / "user", {"http": "%t/agent-router/http.sock",
                                              "control": "%t/agent-router/control.sock",
                                              "launcher": "%t/agent-router-launcher/launcher.sock"})):
        have, runtime = {}, []
        for path in where.glob("*.socket"):
            unit = {name: value for _, name, value in settings(path)}
            have[unit["FileDescriptorName"]] = unit.get("ListenStream") or unit.get("ListenSequentialPacket")
        result(have == listens, f"{where.name}: sockets have their names and addresses", f"{have}")
        # A service's RuntimeDirectory is removed when it stops, with every socket in it.
        for path in where.glob("*.service.in"):
            runtime += [value for _, name, value in settings(path) if name == "RuntimeDirectory"]
        result(runtime and not any(f"/{name}/" in address for name in runtime for address in listens.values()),
               f"{where.name}: no socket lies in a directory that goes with a service", f"{runtime} {listens}")


with tempfile.TemporaryDirectory(prefix="units-") as folder:
    analyze(Path(folder))
catalog()
sockets()
print(f"1..{n}")
sys.exit(n_failed != 0)

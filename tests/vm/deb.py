"""The package that the VM tests install, built from this tree once for each state of it."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path


def tree_files(source):
    """What goes into the package: git's files and new ones, or everything but build folders where this is no clone."""
    r = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=source,
                       capture_output=True, text=True)
    if r.returncode == 0:
        return sorted(set(filter(None, r.stdout.split("\0"))))
    return sorted(str(p.relative_to(source)) for p in Path(source).rglob("*")
                  if not p.relative_to(source).parts[0].startswith(("build", ".git")))


def build(source, cache, progress):
    """The package's path. Tests of the tree run in their own suite, so they are left out here."""
    digest = hashlib.sha256()
    for name in tree_files(source):
        path = Path(source) / name
        if name.startswith("tests/") or not path.is_file():
            continue
        digest.update(name.encode() + b"\0" + path.read_bytes())
    folder = Path(cache) / f"deb-{digest.hexdigest()[:16]}"
    if not list(folder.glob("*.deb")):
        for old in Path(cache).glob("deb-*"):
            shutil.rmtree(old)
        progress("building the Debian package")
        subprocess.run([Path(source) / "packaging/build-deb", folder], check=True, stdout=subprocess.DEVNULL,
                       stdin=subprocess.DEVNULL, env={**os.environ, "DEB_BUILD_OPTIONS": "nocheck"})
    return next(folder.glob("agent-router_*.deb"))


def with_version(deb, version, folder):
    """The same package under another version, as an upgrade sees it: dpkg unpacks every file anew and runs the scripts."""
    with tempfile.TemporaryDirectory(dir=folder) as top:
        tree = Path(top) / "tree"
        subprocess.run(["dpkg-deb", "-R", deb, tree], check=True)
        control = tree / "DEBIAN/control"
        control.write_text("".join(f"Version: {version}\n" if line.startswith("Version:") else line
                                   for line in control.read_text().splitlines(keepends=True)))
        out = Path(folder) / f"agent-router_{version}.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, out], check=True, stdout=subprocess.DEVNULL)
    return out

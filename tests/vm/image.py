"""The disk image that the VM tests boot: a small Debian of this machine's own release.

Everything comes from the package sources that this machine already uses: they are read from apt's own view of them
(`apt-get indextargets`), so no mirror is named here. A release that lacks SQLCipher 4.6 takes it from its backports,
at the same address.

The image is made once and kept in a cache folder under a name that holds the hash of all that goes into it. It has no
agent-router: the tests install the package themselves, which is a part of what they test.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent

# The kernel for virtual machines is the release's own without the drivers that no VM has: a quarter of the download.
PACKAGES = [
    "apt", "passwd", "systemd", "systemd-sysv", "dbus", "polkitd", "libpam-systemd", "curl", "jq", "procps", "kmod",
    "initramfs-tools", "linux-image-cloud-amd64", "zstd",
    # What the package depends on, so that dpkg alone can install it in a VM that has no network.
    "libsqlcipher1", "libjson-c5", "libyaml-0-2", "libseccomp2", "libsystemd0", "libssl3",
]
DISK_SIZE = "3G"  # sparse; the installed system takes some 300 MB
INITRAMFS_CONF = "MODULES=list\\nBUSYBOX=n\\nCOMPRESS=zstd\\nFSTYPE=ext4\\n"
INITRAMFS_MODULES = "virtio_pci\\nvirtio_blk\\nvirtio_console\\next4\\ncrc32c_generic\\n"
# Units that cost boot time and serve nothing in a VM that lives for minutes.
MASKED = [
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
    "fstrim.timer", "getty@tty1.service", "serial-getty@ttyS0.service", "systemd-tmpfiles-clean.timer",
    "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "keyboard-setup.service",
    "systemd-random-seed.service", "systemd-pstore.service",
]
MISSING_TOOLS_HINT = "apt-get install mmdebstrap e2fsprogs qemu-system-x86"


class Unavailable(Exception):
    """This machine can't make or boot the image; the text says why and what to do."""


def release():
    fields = {}
    for line in Path("/etc/os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        fields[name] = value.strip('"')
    if fields.get("ID") != "debian" or not fields.get("VERSION_CODENAME"):
        raise Unavailable("this machine is not a Debian release, and the image is made from its own package sources")
    return fields["VERSION_CODENAME"]


def sources(codename):
    """One-line apt sources for the release, its updates, security and backports, as this machine has them."""
    out = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)|$(CODENAME)|$(COMPONENT)",
         "Created-By: Packages"], check=True, capture_output=True, text=True).stdout
    lines, main = [], None
    for row in dict.fromkeys(out.splitlines()):
        uri, name, component = row.split("|")
        base = name.removesuffix("-security").removesuffix("-updates").removesuffix("-backports")
        if base != codename or component != "main":
            continue
        if name == codename:
            main = main or uri
        lines.append(f"deb {uri} {name} main")
    if main is None:
        raise Unavailable(f"apt knows no source for {codename}: run apt-get update")
    if codename == "bookworm":
        lines.append(f"deb {main} {codename}-backports main")
    return list(dict.fromkeys(lines))


def image(cache, progress=lambda text: print(f"# {text}", flush=True)):
    """Returns the folder that holds root.img, vmlinuz and initrd.img, made now where the cache has none."""
    for tool in ("mmdebstrap", "mke2fs", "qemu-system-x86_64"):
        if shutil.which(tool) is None:
            raise Unavailable(f"{tool} is not installed: {MISSING_TOOLS_HINT}")
    codename = release()
    guest = (HERE / "guest-agent").read_text()
    stamp = hashlib.sha256("\n".join(
        [codename, *PACKAGES, *MASKED, INITRAMFS_CONF, INITRAMFS_MODULES, DISK_SIZE, guest,
         Path(__file__).read_text()]).encode()).hexdigest()[:16]
    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"image-{codename}-{stamp}"
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # suites that run side by side make it once
        if (folder / "root.img").exists():
            return folder
        if os.geteuid() != 0:
            raise Unavailable("making the image needs root (mmdebstrap's chroot keeps the owners of files)")
        for old in cache.glob("image-*"):
            shutil.rmtree(old, ignore_errors=True)
        progress(f"making the VM image of Debian {codename} (once; some two minutes)")
        work = Path(tempfile.mkdtemp(prefix="work-", dir=cache))
        try:
            make(work, codename)
            work.chmod(0o755)
            work.rename(folder)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
    return folder


def make(work, codename):
    root = work / "root"
    hook_essential = (
        f'mkdir -p "$1/etc/initramfs-tools/conf.d" && printf "{INITRAMFS_CONF}" > "$1/etc/initramfs-tools/conf.d/vm" && '
        f'printf "{INITRAMFS_MODULES}" > "$1/etc/initramfs-tools/modules"')
    hook_customize = " && ".join([
        f'install -m 0755 "{HERE}/guest-agent" "$1/usr/local/sbin/guest-agent"',
        f'install -m 0644 "{HERE}/guest-agent.service" "$1/etc/systemd/system/guest-agent.service"',
        'mkdir -p "$1/payload" "$1/etc/systemd/system/multi-user.target.wants"',
        'ln -sf /etc/systemd/system/guest-agent.service "$1/etc/systemd/system/multi-user.target.wants/"',
        'echo vm > "$1/etc/hostname"',
        # An id of its own, so that a first boot is not "first boot" with its presets; no password is needed anywhere.
        'echo uninitialized > "$1/etc/machine-id"',
        'printf "/dev/vda / ext4 defaults 0 0\\n" > "$1/etc/fstab"',
        *[f'ln -sf /dev/null "$1/etc/systemd/system/{unit}"' for unit in MASKED],
    ])
    log = work / "mmdebstrap.log"
    with open(log, "w") as out:
        r = subprocess.run(
            ["mmdebstrap", "--variant=essential", "--mode=root", "--skip=check/qemu", "--include=" + ",".join(PACKAGES),
             '--aptopt=Acquire::Check-Valid-Until "false"', '--aptopt=APT::Install-Recommends "false"',
             "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
             "--dpkgopt=path-exclude=/usr/share/locale/*", f"--essential-hook={hook_essential}",
             f"--customize-hook={hook_customize}", codename, str(root), "-"],
            input="\n".join(sources(codename)) + "\n", text=True, stdout=out, stderr=subprocess.STDOUT)
    if r.returncode != 0:
        sys.stderr.write(log.read_text()[-4000:])
        raise Unavailable("mmdebstrap failed; its last lines are above")
    for name in ("vmlinuz", "initrd.img"):
        shutil.copy((root / name).resolve() if (root / name).exists() else root / os.readlink(root / name), work / name)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0", "-L", "root", "-d", str(root),
                    str(work / "root.img"), DISK_SIZE], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(root)


if __name__ == "__main__":
    try:
        print(image(sys.argv[1]))
    except Unavailable as e:
        sys.exit(f"image: {e}")

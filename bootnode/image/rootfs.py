"""The root file system of an image in a folder: what is done with it, whatever the distribution.

The distribution's own module (debian.py, rocky.py) installs the packages; then the overlay is put
over them and the recipe's script runs inside. Programs run in a mount and PID namespace of their
own that ends with us, whatever ends us: no mount is ever seen outside, and nothing that was started
stays.

Rules: nothing in a root file system names this machine: its name, resolver and machine-id are
taken out. Files younger than the newest package get that package's time, so that the same packages
give the same tree.

Limits: an hour for the script; only root can do it.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from bootnode.errors import ImageError
from bootnode.image.ramdisk import whole_pages
from bootnode.image.run import run

CUSTOMISE_TIMEOUT_S = 3600.0
COPY_TIMEOUT_S = 600.0
FOLDER_DEPTH = 3
MAX_LINKS = 40
"""How many symbolic links a path may lead through, as in Linux."""
INSTALL_TIME = "946684800"
"""2000-01-01: what programs that ask for SOURCE_DATE_EPOCH take for now while a root file system is
made. Packages bring their own times; this is what accounts and package databases say, so that the
same packages give the same files whenever they are installed."""

NAMESPACE = (
    *("unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc", "--"),
)
"""The namespace ends with the program that run.py starts, and with it all that runs inside."""
MOUNTS = """\
set -eu
cd "$1"
mount -t proc -o nosuid,nodev,noexec proc proc
echo localhost >proc/sys/kernel/hostname
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -t tmpfs -o mode=0755 tmpfs dev
for device in null zero full random urandom tty; do
    : >"dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
mkdir -m 1777 dev/shm
mount -t tmpfs -o mode=0755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
"""
"""How a shell script in NAMESPACE begins that then runs programs in the root file system $1."""
# The resolver's file may be a link that leads into /run, which is empty here: `readlink` inside
# finds its place. It is a copy, because who writes to it must not change this machine's. Debian's
# packages ask policy-rc.d whether to start their daemons: 101 is no, for they would run here.
PREPARE = (
    MOUNTS
    + """\
if [ -e /etc/resolv.conf ]; then
    cp -L /etc/resolv.conf run/.resolv.conf
    if [ -L etc/resolv.conf ]; then
        chroot . /bin/sh -c 'cd /etc; to=$(readlink resolv.conf); mkdir -p "${to%/*}"
            cp /run/.resolv.conf "$to"; rm /run/.resolv.conf'
    else
        [ -e etc/resolv.conf ] || : >etc/resolv.conf
        mount --bind run/.resolv.conf etc/resolv.conf
        rm run/.resolv.conf
    fi
fi
if [ -d usr/sbin ]; then
    [ -e usr/sbin/policy-rc.d ] || : >usr/sbin/policy-rc.d
    printf '#!/bin/sh\\nexit 101\\n' >run/.policy-rc.d
    chmod 755 run/.policy-rc.d
    mount --bind run/.policy-rc.d usr/sbin/policy-rc.d
    rm run/.policy-rc.d
fi
"""
)
"""How it begins if people's own programs run there, with the network."""
PLACES = ("etc/resolv.conf", "usr/sbin/policy-rc.d")
"""What PREPARE makes where it is missing, to mount something there."""
# $2 is the script, $3 a folder that it finds as /run/bootnode, or nothing.
_ENTER = (
    PREPARE
    + """\
if [ -n "$3" ]; then
    mkdir run/bootnode
    mount --bind "$3" run/bootnode
    mount -o remount,bind,ro run/bootnode
fi
cp "$2" tmp/customise
chmod 755 tmp/customise
exec chroot . /tmp/customise
"""
)
ENVIRONMENT = (
    *("env", "-i", "HOME=/root", "TERM=dumb", "LC_ALL=C.UTF-8"),
    *("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",),
    *("DEBIAN_FRONTEND=noninteractive", "INITRD=No"),
)
# The kernel and what boots with it: they are beside the root file system, not in it.
_BOOT_FILES = ("vmlinuz", "initrd.img", "initramfs")
_RESCUE_KERNEL = "vmlinuz-0-rescue-"
"""A copy that Rocky boots with a ramdisk for any machine."""
_OF_THIS_MACHINE = ("etc/hostname", "etc/resolv.conf", "var/lib/dbus/machine-id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """The packages in a root file system."""

    packages: dict[str, str]
    """Their versions."""
    newest: int
    """When the youngest was made, in seconds since 1970; 0 without packages."""


def check_is_root() -> None:
    """Raises ImageError unless this process may make file systems that belong to root."""
    if os.geteuid() != 0:
        raise ImageError("an image with an operating system is built by root: use sudo")


def forget_machine(root: Path) -> None:
    """Take out of `root` what names the machine on which it was made."""
    for name in _OF_THIS_MACHINE:
        file = root / name
        # A link is the distribution's own, which leads to where a running system has the file.
        if not file.is_symlink():
            file.unlink(missing_ok=True)
    # Empty, systemd makes one for the boot; missing, it would ask first-boot questions.
    (root / "etc/machine-id").write_bytes(b"")


def copy_root(source: Path, target: Path, *, log: IO[bytes]) -> None:
    """Copy a root file system with all that its files have."""
    command = ["cp", "-a", "--reflink=auto", "-T", str(source), str(target)]
    run(command, log=log, timeout_s=COPY_TIMEOUT_S)


def put_overlay(overlay: Path, root: Path) -> None:
    """Copy the files of `overlay` over `root`; they belong to root, folders keep what they have."""
    for path in sorted(overlay.rglob("*")):
        relative = path.relative_to(overlay)
        target = inside(root, relative.parent) / relative.name
        if path.is_dir() and not path.is_symlink():
            target = inside(root, relative)
            if not target.is_dir():
                target.mkdir()
                target.chmod(0o755)
            continue
        if target.is_symlink() or target.is_file():
            target.unlink()
        shutil.copy(path, target, follow_symlinks=False)
        if not path.is_symlink():
            target.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def inside(root: Path, path: Path) -> Path:
    """Where `path` leads for whoever has `root` as its root: links never lead out.

    Raises:
        ImageError: the links go round in a circle.
    """
    waiting = list(reversed(PurePosixPath(path).parts))
    at = root
    links = 0
    while waiting:
        part = waiting.pop()
        if part == "/":
            at = root
        elif part == "..":
            at = at.parent if at != root else root
        elif (at / part).is_symlink():
            links += 1
            if links > MAX_LINKS:
                raise ImageError(f"/{path} in the root file system leads round in a circle")
            waiting += reversed((at / part).readlink().parts)
        else:
            at /= part
    return at


def customise(root: Path, script: Path, *, log: IO[bytes], provided: Path | None = None) -> None:
    """Run `script` inside `root`, with the network that this machine has.

    It finds the folder `provided` as /run/bootnode, and may only read it.

    Raises:
        ImageError: the script fails, and its last words.
    """
    places = [root / name for name in PLACES if not os.path.lexists(root / name)]
    # Resolved, because the command goes to another folder.
    folder = str(provided.resolve()) if provided is not None else ""
    arguments = ("customise", str(root.resolve()), str(script.resolve()), folder)
    now = f"SOURCE_DATE_EPOCH={os.environ.get('SOURCE_DATE_EPOCH', INSTALL_TIME)}"
    command = [*NAMESPACE, *ENVIRONMENT, now, "sh", "-c", _ENTER, *arguments]
    run(command, log=log, timeout_s=CUSTOMISE_TIMEOUT_S, name=str(script))
    for place in places:
        place.unlink(missing_ok=True)


def take_boot_files(root: Path, boot: Path) -> None:
    """Move the kernels out of `root` into `boot`, and remove the ramdisks that came with them."""
    boot.mkdir(parents=True)
    for file in [*(root / "boot").glob("*"), *root.iterdir()]:
        is_kernel = file.name.startswith("vmlinuz-") and not file.name.startswith(_RESCUE_KERNEL)
        if is_kernel and not file.is_symlink():
            # Not Path.rename: nothing says that both are on one file system.
            shutil.move(file, boot / file.name)
        elif file.name.startswith(_BOOT_FILES):
            file.unlink()
    # Rocky's packages have it here, from where an installed system copies it to /boot.
    for file in (root / "lib/modules").glob("*/vmlinuz"):
        target = boot / f"vmlinuz-{file.parent.name}"
        if target.exists():
            file.unlink()
        else:
            shutil.move(file, target)


def limit_times(root: Path, newest: int) -> None:
    """Give everything in `root` that is younger than `newest` that time."""
    for path, status in walk(root):
        if status.st_mtime > newest:
            os.utime(path, (newest, newest), follow_symlinks=False)


def walk(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Everything in a folder with what lstat says of it, what is in a folder before it."""
    for folder, folders, files in os.walk(root, topdown=False):
        for name in (*files, *(name for name in folders if (Path(folder) / name).is_symlink())):
            path = Path(folder) / name
            yield path, path.lstat()
        yield Path(folder), Path(folder).lstat()


def biggest_folders(root: Path, count: int) -> list[tuple[str, int]]:
    """The folders up to three levels deep that hold most, with their bytes, the biggest first."""
    sizes: Counter[str] = Counter()
    for path, status in walk(root):
        if stat.S_ISREG(status.st_mode):
            sizes["/" + "/".join(path.relative_to(root).parts[:-1][:FOLDER_DEPTH])] += (
                status.st_size
            )
    return sizes.most_common(count)


def unpacked_bytes(root: Path) -> int:
    """The memory that the files of `root` take in a tmpfs: whole pages, each file once."""
    total = 0
    seen: set[tuple[int, int]] = set()
    for _, status in walk(root):
        if not stat.S_ISDIR(status.st_mode) and (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            total += whole_pages(status.st_size)
    return total

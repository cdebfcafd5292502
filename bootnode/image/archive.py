"""A root file system as one file, in each of the formats.

squashfs and erofs are mounted as they are; a tar is unpacked into memory by init, a cpio by the
kernel. All are reproducible: sorted by name, with the times that the tree has (rootfs.py limits
them), and with nothing of this machine.

Limits: an hour for each; a file in a cpio is below 4 GiB; busybox reads no extended attributes out
of a tar, so capabilities of programs get lost there and in a cpio.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO

from bootnode.image import cpio
from bootnode.image.keys import Fetch, RootFormat
from bootnode.image.ramdisk import whole_pages
from bootnode.image.rootfs import unpacked_bytes, walk
from bootnode.image.run import run
from bootnode.image.store import RootFile, file_sha256

ARCHIVE_TIMEOUT_S = 3600.0
RAMDISK_FILE = "root.img"
CPIO_FOLDER = "root"
"""Where in memory the kernel unpacks a cpio, below /."""
# Higher levels take minutes of building for some percent; these are about even with squashfs.
ZSTD = "zstd -12 -T2"
# One check that busybox knows. -T2 and more cut the file into the same blocks on every machine.
XZ = "xz -6 -T2 --check=crc32"
# Any fixed number will do; without one mkfs.erofs draws it by lot.
EROFS_UUID = "b007b007-0000-4000-8000-000000000001"

MODULES: Mapping[RootFormat, tuple[str, ...]] = MappingProxyType(
    {
        RootFormat.SQUASHFS: ("loop", "overlay", "squashfs"),
        RootFormat.EROFS: ("erofs", "loop", "overlay"),
    }
)
"""The kernel modules that a node needs to mount each format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    root: Path
    file: Path
    epoch: int
    kernel_options: Collection[str]
    log: IO[bytes]

    def run(self, *command: str) -> None:
        # Whoever has a time of its own to write takes it from here.
        environment = {"SOURCE_DATE_EPOCH": str(self.epoch)}
        run(command, log=self.log, timeout_s=ARCHIVE_TIMEOUT_S, env=environment)


def write_root(
    root: Path,
    output: Path,
    root_format: RootFormat,
    fetch: Fetch,
    *,
    epoch: int,
    kernel_options: Collection[str],
    log: IO[bytes],
) -> RootFile:
    """Write the archive of `root` into the folder `output`, as the one file that nodes get.

    What the kernel is to read is compressed by zstd if `kernel_options` (kernel.py) has it.

    Raises:
        ImageError: a program fails or is missing.
    """
    name = f"root.{root_format}"
    archive = output / name
    job = _Job(root=root, file=archive, epoch=epoch, kernel_options=kernel_options, log=log)
    _WRITERS[root_format](job)
    size_bytes, sha256 = archive.stat().st_size, file_sha256(archive)
    is_mounted = root_format in MODULES
    file = name
    if root_format is RootFormat.CPIO:
        archive.rename(output / RAMDISK_FILE)
        file = f"/{CPIO_FOLDER}"
    elif fetch is Fetch.RAMDISK:
        _wrap(archive, output / RAMDISK_FILE, epoch)
        archive.unlink()
        file = f"/{name}"
    return RootFile(
        format=root_format,
        fetch=fetch,
        file=file,
        size_bytes=size_bytes,
        sha256=sha256,
        ram_bytes=whole_pages(size_bytes) if is_mounted else unpacked_bytes(root),
    )


def _write_squashfs(job: _Job) -> None:
    job.run(
        *("mksquashfs", str(job.root), str(job.file), "-noappend", "-no-progress", "-quiet"),
        *("-comp", "zstd" if "SQUASHFS_ZSTD" in job.kernel_options else "xz"),
    )


def _write_erofs(job: _Job) -> None:
    # Lz4 is what a kernel from 5.10 on reads; erofs is the fastest to read and not the smallest.
    options = ("-zlz4hc,12", "-C65536", f"-U{EROFS_UUID}")
    job.run("mkfs.erofs", *options, str(job.file), str(job.root))


def _write_tar(job: _Job, compressor: str) -> None:
    job.run(
        *("tar", "--create", "--file", str(job.file), f"--use-compress-program={compressor}"),
        # Busybox knows the GNU format with its long names, and skips what pax says.
        *("--format=gnu", "--sort=name", "--numeric-owner", "--directory", str(job.root), "."),
    )


def _write_tar_xz(job: _Job) -> None:
    _write_tar(job, XZ)


def _write_tar_zst(job: _Job) -> None:
    _write_tar(job, ZSTD)


def _write_cpio(job: _Job) -> None:
    raw = job.file.with_suffix(".raw")
    _write_entries(raw, _entries(job.root), job.epoch)
    # The kernel unpacks it by itself, and zstd quicker than any other.
    is_known = "RD_ZSTD" in job.kernel_options
    compressor, suffix = (f"{ZSTD} --rm", ".zst") if is_known else (XZ, ".xz")
    job.run(*compressor.split(), "--quiet", str(raw))
    Path(f"{raw}{suffix}").rename(job.file)


_WRITERS: Mapping[RootFormat, Callable[[_Job], None]] = MappingProxyType(
    {
        RootFormat.SQUASHFS: _write_squashfs,
        RootFormat.EROFS: _write_erofs,
        RootFormat.TAR_XZ: _write_tar_xz,
        RootFormat.TAR_ZST: _write_tar_zst,
        RootFormat.CPIO: _write_cpio,
    }
)


def _wrap(archive: Path, ramdisk: Path, epoch: int) -> None:
    entry = cpio.Entry(path=archive.name, mode=stat.S_IFREG | 0o644, source=archive)
    _write_entries(ramdisk, iter([entry]), epoch)


def _write_entries(file: Path, entries: Iterator[cpio.Entry], epoch: int) -> None:
    with file.open("wb") as raw:
        raw.writelines(cpio.serialize(entries, mtime=epoch))


def _entries(root: Path) -> Iterator[cpio.Entry]:
    """The tree below CPIO_FOLDER, with owners, permissions, times and devices."""
    for path, status in walk(root):
        kind = stat.S_IFMT(status.st_mode)
        is_device = kind in (stat.S_IFCHR, stat.S_IFBLK)
        device = (os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else (0, 0)
        yield cpio.Entry(
            path=str(CPIO_FOLDER / path.relative_to(root)),
            mode=status.st_mode,
            data=os.fsencode(path.readlink()) if kind == stat.S_IFLNK else b"",
            source=path if kind == stat.S_IFREG else None,
            device=device,
            owner=(status.st_uid, status.st_gid),
            mtime=int(status.st_mtime),
        )

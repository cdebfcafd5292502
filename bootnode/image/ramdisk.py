"""A folder as a ramdisk: a newc archive.

It is not compressed as a whole: its bulk are modules, each compressed on its own (modules.py), of
which a node unpacks only those it loads.

Rules: the same tree gives the same bytes, whoever checked it out and built it: owners, times and
permissions of the folder count for nothing, except whether a file is executable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bootnode.image import cpio

PAGE_BYTES = 4096

# The kernel opens /dev/console for process 1 before anything could mount devtmpfs.
DEVICES = (
    cpio.character_device("dev/console", 5, 1),
    cpio.character_device("dev/null", 1, 3, 0o666),
)
MOUNT_POINTS = ("dev", "proc", "root", "run", "sys", "tmp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramdisk:
    """What was written."""

    size_bytes: int
    ram_bytes: int
    """Memory that the unpacked files take, in whole pages."""


def write_ramdisk(tree: Path, file: Path, *, mtime: int) -> Ramdisk:
    """Pack `tree` and the devices that init needs into `file`."""
    entries = [
        *DEVICES,
        *(cpio.folder(name) for name in MOUNT_POINTS if not (tree / name).exists()),
        *read_tree(tree),
    ]
    with file.open("wb") as raw:
        raw.writelines(cpio.serialize(entries, mtime=mtime))
    return Ramdisk(size_bytes=file.stat().st_size, ram_bytes=ram_bytes(entries))


def read_tree(tree: Path) -> Iterator[cpio.Entry]:
    """What is in a folder, as archive entries."""
    for path in sorted(tree.rglob("*")):
        name = str(path.relative_to(tree))
        if path.is_symlink():
            yield cpio.symlink(name, str(path.readlink()))
        elif path.is_dir():
            yield cpio.folder(name)
        elif path.is_file():
            executable = bool(path.stat().st_mode & 0o100)
            yield cpio.file(name, path.read_bytes(), executable=executable)
        else:
            raise ValueError(f"{path} is neither file, folder nor link")


def ram_bytes(entries: Iterable[cpio.Entry]) -> int:
    """The memory that the entries take once unpacked: whole pages, as tmpfs gives them out."""
    return sum(whole_pages(entry.size_bytes) for entry in entries)


def whole_pages(size_bytes: int) -> int:
    """The memory that a file of this size takes."""
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES

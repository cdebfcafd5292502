"""The newc cpio archive, as the kernel unpacks it from a ramdisk.

Format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel; `cpio -H newc`.

Rules: the same entries give the same bytes. Entries are sorted by path, inodes are numbered from 1,
every owner is root and every entry has the one modification time that is asked for unless the entry
says otherwise, and no file has a second link. Missing parent folders are added: the kernel drops a
file without one in silence.

Limits: a file below 4 GiB, times below 2^32 seconds. An entry holds its bytes, or names a file that
is read whole when its turn comes.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MAX_FIELD = 0xFFFF_FFFF
_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
_BLOCK = 512
"""Archives are padded to this, as cpio(1) does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file, folder, link or device of an archive."""

    path: str
    """Relative to the top of the archive, without `.` or `..`."""
    mode: int
    """Type and permissions as in `st_mode`."""
    data: bytes = b""
    """What a file holds, or where a symbolic link points."""
    device: tuple[int, int] = (0, 0)
    """Major and minor number of a device node."""
    source: Path | None = None
    """The file whose bytes this one holds, instead of `data`."""
    owner: tuple[int, int] = (0, 0)
    """User and group."""
    mtime: int | None = None
    """Seconds since 1970; None for the time of the whole archive."""

    def __post_init__(self) -> None:
        path = PurePosixPath(self.path)
        if path.is_absolute() or not path.parts or ".." in path.parts or str(path) != self.path:
            raise ValueError(f"'{self.path}' is not a plain relative path")
        if "\0" in self.path or self.path == _TRAILER:
            raise ValueError(f"{self.path!r} cannot be a name in a cpio archive")
        if self.size_bytes > MAX_FIELD:
            raise ValueError(f"'{self.path}' is 4 GiB or larger, more than a cpio archive can hold")

    @property
    def size_bytes(self) -> int:
        """How much the file holds."""
        return self.source.stat().st_size if self.source is not None else len(self.data)

    def read(self) -> bytes:
        """What the file holds."""
        return self.source.read_bytes() if self.source is not None else self.data


def file(path: str, data: bytes, *, executable: bool = False) -> Entry:
    """A regular file, readable by all."""
    return Entry(path=path, mode=stat.S_IFREG | (0o755 if executable else 0o644), data=data)


def folder(path: str, permissions: int = 0o755) -> Entry:
    """A directory."""
    return Entry(path=path, mode=stat.S_IFDIR | permissions)


def symlink(path: str, target: str) -> Entry:
    """A symbolic link to `target`."""
    return Entry(path=path, mode=stat.S_IFLNK | 0o777, data=target.encode())


def character_device(path: str, major: int, minor: int, permissions: int = 0o600) -> Entry:
    """A device node, which needs no mknod (and so no root) to be in an archive."""
    return Entry(path=path, mode=stat.S_IFCHR | permissions, device=(major, minor))


def serialize(entries: Iterable[Entry], *, mtime: int = 0) -> Iterator[bytes]:
    """The archive, in pieces; `mtime` in seconds since 1970.

    Raises:
        ValueError: a path comes twice, something lies below a file, or `mtime` does not fit.
    """
    if not 0 <= mtime <= MAX_FIELD:
        raise ValueError(f"modification time {mtime} does not fit a cpio archive")
    length = 0
    for inode, entry in enumerate(_in_order(entries), start=1):
        piece = _serialize_entry(entry, inode, mtime)
        length += len(piece)
        yield piece
    trailer = _header(_TRAILER, inode=0, mode=0, links=1, mtime=0, size=0)
    length += len(trailer)
    yield trailer + bytes(-length % _BLOCK)


def _in_order(entries: Iterable[Entry]) -> list[Entry]:
    by_path: dict[str, Entry] = {}
    for entry in entries:
        if entry.path in by_path:
            raise ValueError(f"'{entry.path}' is in the archive twice")
        by_path[entry.path] = entry
    for entry in list(by_path.values()):
        for parent in list(PurePosixPath(entry.path).parents)[:-1]:
            above = by_path.setdefault(str(parent), folder(str(parent)))
            if not stat.S_ISDIR(above.mode):
                raise ValueError(f"'{entry.path}' lies below '{parent}', which is not a folder")
    # By parts and not by text: a folder comes before what is in it, whatever the names hold.
    return sorted(by_path.values(), key=lambda entry: PurePosixPath(entry.path).parts)


def _serialize_entry(entry: Entry, inode: int, mtime: int) -> bytes:
    data = entry.read()
    header = _header(
        entry.path,
        inode=inode,
        mode=entry.mode,
        owner=entry.owner,
        links=2 if stat.S_ISDIR(entry.mode) else 1,
        mtime=mtime if entry.mtime is None else entry.mtime,
        size=len(data),
        device=entry.device,
    )
    return header + data + _padding(len(data))


def _header(
    path: str,
    *,
    inode: int,
    mode: int,
    links: int,
    mtime: int,
    size: int,
    owner: tuple[int, int] = (0, 0),
    device: tuple[int, int] = (0, 0),
) -> bytes:
    # A name is whatever bytes the file system has, not always text.
    name = path.encode("utf-8", "surrogateescape") + b"\0"
    checksum = 0
    fields = (inode, mode, *owner, links, mtime, size, 0, 0, *device, len(name), checksum)
    head = _MAGIC + b"".join(b"%08X" % value for value in fields) + name
    return head + _padding(len(head))


def _padding(length: int) -> bytes:
    return bytes(-length % 4)

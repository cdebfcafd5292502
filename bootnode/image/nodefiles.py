"""The tree of files for each node that an image version brings: as folders of a recipe, and as a
tar archive among the files of the version. boot/nodefiles.py renders it for a node.

Rules: the same tree gives the same bytes, whoever checked it out: owners, times and permissions
count for nothing, except whether a file is executable. Of folders only those with files count.
"""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from bootnode.boot.nodefiles import FileTree
from bootnode.errors import ImageError, NodeFilesError
from bootnode.image import cpio
from bootnode.image.ramdisk import read_tree
from bootnode.image.store import ImageVersion

FILE = "node-files.tar"
"""What the archive is called in a version."""
TREES_KEPT = 16
"""Versions whose templates stay in memory; a version never changes, so none of them gets old."""
TREE_MAX_BYTES = 16 << 20
"""All of a tree together: the daemon holds it in memory."""


def read(folders: Iterable[Path]) -> list[cpio.Entry]:
    """The files of a tree; where several folders have a path, the last one's counts.

    Raises:
        ImageError: something in them cannot be a node's file, or a template is none.
    """
    found: dict[str, cpio.Entry] = {}
    places: dict[str, Path] = {}
    for folder in folders:
        try:
            entries = [entry for entry in read_tree(folder) if not stat.S_ISDIR(entry.mode)]
        except ValueError as error:
            raise ImageError(f"{error}: take it away") from error
        found |= {entry.path: entry for entry in entries}
        places |= {entry.path: folder for entry in entries}
    try:
        FileTree(found.values())
    except NodeFilesError as error:
        problems = (f"{places.get(problem.name, '.')}/{problem}" for problem in error.problems)
        raise ImageError("\n".join(problems)) from None
    size = sum(len(entry.data) for entry in found.values())
    if size > TREE_MAX_BYTES:
        raise ImageError(f"the files of each node are {size} bytes (want {TREE_MAX_BYTES} at most)")
    return [found[path] for path in sorted(found)]


def write(entries: Iterable[cpio.Entry], file: Path) -> None:
    """Write the files of a tree as an archive."""
    with tarfile.open(file, "w:", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            header = tarfile.TarInfo(entry.path)
            header.mode = stat.S_IMODE(entry.mode)
            if stat.S_ISLNK(entry.mode):
                header.type, header.linkname = tarfile.SYMTYPE, entry.data.decode()
                archive.addfile(header)
            else:
                header.size = len(entry.data)
                archive.addfile(header, io.BytesIO(entry.data))


def load(version: ImageVersion) -> FileTree | None:
    """The tree of a version; None if it brings none.

    Raises:
        ImageError: it cannot be read.
    """
    name = version.manifest.node_files
    return _load(version.folder / name) if name is not None else None


@lru_cache(maxsize=TREES_KEPT)
def _load(file: Path) -> FileTree:
    try:
        with tarfile.open(file, "r:") as archive:
            return FileTree([_entry(archive, member) for member in archive])
    except (OSError, tarfile.TarError, ValueError, NodeFilesError) as error:
        raise ImageError(f"{file} cannot be read: build the image again ({error})") from error


def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo) -> cpio.Entry:
    if member.issym():
        return cpio.symlink(member.name, member.linkname)
    content = archive.extractfile(member)
    if content is None:
        raise tarfile.TarError(f"'{member.name}' is neither file nor link")
    return cpio.file(member.name, content.read(), executable=bool(member.mode & 0o100))

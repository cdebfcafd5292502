"""What changed in a root file system: read from an overlay, stored as a tar, put into another root.

The upper folder of an overlayfs has what was written, a character device 0:0 for each name that was
removed, and a mark on folders that hide what is below them. Out of that and the folders below we
make three lists of paths, and a tar of the files that are new or other than before. So what is
stored is no overlay any more, and goes into a root whose packages are newer, too.

Rules: a file counts as changed by its kind, content, owner, permissions and extended attributes,
not by its times. What belongs to the machine where it was made, what programs remember of who used
them, and the caches of package managers are left out, and so are sockets. Hard links stay links
among the files that are stored.

Limits: a change below a folder that has become something else meanwhile is an error when applied.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import IO

from bootnode.errors import ImageError
from bootnode.image.rootfs import PLACES
from bootnode.image.run import run

TAR_TIMEOUT_S = 3600.0
LEFT_OUT = frozenset(
    {
        *PLACES,
        *("etc/machine-id", "var/lib/dbus/machine-id"),
        *("var/cache/apt", "var/lib/apt/lists", "var/cache/dnf"),
        *("root/.bash_history", "root/.lesshst", "root/.python_history", "root/.viminfo"),
    }
)
"""Paths that are never taken for a change, nor anything below them."""
_OVERLAY_PREFIX = "trusted.overlay."
_OPAQUE = f"{_OVERLAY_PREFIX}opaque"
# ACLs are no extended attributes for tar, and overlayfs's own attributes mean nothing elsewhere.
_TAR = (
    *("tar", "--xattrs", "--xattrs-include=*", f"--xattrs-exclude={_OVERLAY_PREFIX}*", "--acls"),
    "--numeric-owner",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Paths in the root file system, without the first slash, in order of their names."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    """A folder stands for all in it."""

    def __len__(self) -> int:
        return len(self.added) + len(self.changed) + len(self.removed)

    def summary(self) -> list[tuple[str, str]]:
        """The same, with the new ones last, of which a folder stands for all in it."""
        new = frozenset(self.added)
        tops = (path for path in new if new.isdisjoint(map(str, PurePosixPath(path).parents)))
        others = [pair for pair in self.letters() if pair[0] != "A"]
        return [*others, *(("A", path) for path in sorted(tops))]

    def letters(self) -> list[tuple[str, str]]:
        """Each path after an A, M or D, in order of the paths."""
        lists = (("A", self.added), ("M", self.changed), ("D", self.removed))
        found = ((letter, path) for letter, paths in lists for path in paths)
        return sorted(found, key=lambda pair: pair[1])


def compare(upper: Path, lowers: Sequence[Path]) -> Difference:
    """What an overlay of `upper` over `lowers`, the first one on top, changed."""
    found: dict[str, list[str]] = {"A": [], "M": [], "D": []}
    for letter, path in _walk("", upper, lowers, is_all=False):
        found[letter].append(path)
    return Difference(added=tuple(found["A"]), changed=tuple(found["M"]), removed=tuple(found["D"]))


def _walk(
    folder: str, upper: Path, lowers: Sequence[Path], *, is_all: bool
) -> Iterator[tuple[str, str]]:
    """A letter and a path for each change; with `is_all` nothing but `upper` is in the folder."""
    here = os.listdir(upper)
    gone = {name for lower in lowers for name in os.listdir(lower)}.difference(here)
    for name in sorted([*here, *(gone if is_all else ())]):
        path = f"{folder}/{name}".lstrip("/")
        if path in LEFT_OUT:
            continue
        below = [lower / name for lower in lowers if os.path.lexists(lower / name)]
        if name in gone:
            yield "D", path
        else:
            yield from _of_one(path, upper / name, below, is_all=is_all)


def _of_one(
    path: str, new: Path, below: Sequence[Path], *, is_all: bool
) -> Iterator[tuple[str, str]]:
    status = new.lstat()
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        if below:
            yield "D", path
        return
    if stat.S_ISSOCK(status.st_mode):
        return
    if not below:
        yield "A", path
    elif not _is_same(new, below[0]):
        yield "M", path
    if stat.S_ISDIR(status.st_mode):
        # A file on top of folders hides them.
        folders = list(takewhile(lambda lower: lower.is_dir() and not lower.is_symlink(), below))
        is_all = is_all or _attributes(new, own=True).get(_OPAQUE) == b"y"
        yield from _walk(path, new, folders, is_all=is_all)


def _is_same(new: Path, old: Path) -> bool:
    now, before = new.lstat(), old.lstat()
    if (now.st_mode, now.st_uid, now.st_gid) != (before.st_mode, before.st_uid, before.st_gid):
        return False
    if _attributes(new) != _attributes(old):
        return False
    if stat.S_ISREG(now.st_mode):
        return filecmp.cmp(new, old, shallow=False)
    if stat.S_ISLNK(now.st_mode):
        return new.readlink() == old.readlink()
    return now.st_rdev == before.st_rdev


def _attributes(path: Path, *, own: bool = False) -> dict[str, bytes]:
    """The extended attributes; with `own` those of the overlay, without it all others."""
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
        if name.startswith(_OVERLAY_PREFIX) == own
    }


def store(difference: Difference, upper: Path, tar: Path, *, log: IO[bytes]) -> None:
    """Write the new and changed files of `upper` into a tar.

    Raises:
        ImageError: tar fails.
    """
    names = tar.with_suffix(".names")
    paths = sorted([*difference.added, *difference.changed])
    names.write_bytes(b"".join(os.fsencode(path) + b"\0" for path in paths))
    command = [*_TAR, "--create", "--file", str(tar), "--directory", str(upper)]
    # Only what is named, and no name taken for an option.
    command += ["--no-recursion", "--null", "--verbatim-files-from", "--files-from", str(names)]
    # When a file was read is nobody's business.
    command += ["--format=posix", "--pax-option=delete=atime,delete=ctime"]
    run(command, log=log, timeout_s=TAR_TIMEOUT_S)
    names.unlink()


def apply(difference: Difference, tar: Path, root: Path, *, log: IO[bytes]) -> None:
    """Change `root` as `difference` says, with the files in `tar`.

    Raises:
        ImageError: a folder has become something else, or tar fails.
    """
    for path in difference.removed:
        _check_parents(root, path)
        _remove(root / path)
    with tarfile.open(tar) as archive:
        for member in archive:
            _check_parents(root, member.name)
            place = root / member.name
            is_folder = place.is_dir() and not place.is_symlink()
            if os.path.lexists(place) and not (is_folder and member.isdir()):
                _remove(place)
    command = [*_TAR, "--extract", "--preserve-permissions", "--same-owner"]
    command += ["--file", str(tar), "--directory", str(root)]
    run(command, log=log, timeout_s=TAR_TIMEOUT_S)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _check_parents(root: Path, path: str) -> None:
    """Raises ImageError if the way to `path` leads through a link, which may lead out of `root`."""
    at = root
    for part in PurePosixPath(path).parts[:-1]:
        at /= part
        if at.is_symlink() or (os.path.lexists(at) and not at.is_dir()):
            raise ImageError(f"/{path} cannot be changed: /{at.relative_to(root)} is no folder now")

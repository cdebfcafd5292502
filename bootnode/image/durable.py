"""Changes on disk that are whole whenever they are interrupted: made aside, synced, renamed in."""

from __future__ import annotations

import os
import stat
from pathlib import Path

NEW_SUFFIX = ".new"
"""What a hidden file is called that is about to replace another, and is left behind by a kill."""


def replace_text(file: Path, text: str) -> None:
    """Give a file, readable by all, another content, or its first."""
    new = _aside(file)
    new.write_text(text, encoding="ascii")
    new.chmod(0o644)
    sync(new)
    new.replace(file)
    sync(file.parent)


def replace_link(link: Path, target: str) -> None:
    """Let a symbolic link lead elsewhere; this needs no free space."""
    new = _aside(link)
    new.symlink_to(target)
    new.replace(link)
    sync(link.parent)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}{NEW_SUFFIX}")


def seal(folder: Path) -> None:
    """Make files readable by all and writable by none, and be sure that they are on the disk."""
    for file in folder.iterdir():
        file.chmod(0o444)
        sync(file)
    folder.chmod(0o755)
    sync(folder)


def make_readable_folder(folder: Path) -> None:
    """Make a folder that others may enter, if it is not there; whatever the umask."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        folder.chmod(0o755)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def freed_bytes(file: Path) -> int:
    """What removing this file frees: nothing if it has another name elsewhere."""
    status = file.lstat()
    return status.st_size if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 else 0

"""Changes to images that people made in a shell and that every build puts in: kept, recorded.

`NAME/0001/` holds `files.tar` with the files that are new or changed, and `record.json`: who
changed what, when, and with which commands. Later numbers are changes on top of the earlier ones.

Rules: a change appears whole, by one rename, and is never changed afterwards. Only the holder of
the store's lock writes. Only root reads: commands and files may hold secrets.

Limits: 99 changes of an image; what is kept for longer belongs into the recipe.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import IO, Any

from bootnode.config import check_image_name
from bootnode.errors import ImageError
from bootnode.image.difference import Difference, apply, store
from bootnode.image.store import file_sha256

MAX_CHANGES = 99
"""Of one image."""
FILES = "files.tar"
RECORD = "record.json"
_NUMBER_PATTERN = re.compile(r"[0-9]{4}")
_NEW_PREFIX = ".new-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What somebody changed in one shell."""

    folder: Path
    number: int
    made_at: int
    """Seconds since 1970."""
    by: str
    """The user's name."""
    commands: tuple[str, ...]
    difference: Difference
    sha256: str
    """Of the files."""

    def apply(self, root: Path, *, log: IO[bytes]) -> None:
        """Put it into the root file system `root`.

        Raises:
            ImageError: it is damaged, or does not fit `root` any more.
        """
        try:
            if file_sha256(self.folder / FILES) != self.sha256:
                raise ImageError(f"{self.folder / FILES} is damaged")
            apply(self.difference, self.folder / FILES, root, log=log)
        except ImageError as error:
            raise ImageError(
                f"change {self.number} of '{self.folder.parent.name}': {error} (drop it: "
                f"`bootnode image changes {self.folder.parent.name} --drop {self.number}`)"
            ) from error


class Changes:
    """The kept changes of all images, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, name: str) -> list[Change]:
        """The changes of an image in the order in which they were made.

        Raises:
            ImageError: the name cannot be an image's, or a record is damaged.
        """
        folder = self._folder(name)
        if not folder.is_dir():
            return []
        numbered = [entry for entry in folder.iterdir() if _NUMBER_PATTERN.fullmatch(entry.name)]
        return [_load(entry) for entry in sorted(numbered)]

    def keep(
        self,
        name: str,
        difference: Difference,
        upper: Path,
        *,
        by: str,
        commands: Sequence[str],
        log: IO[bytes],
    ) -> Change:
        """Keep what was changed; the new files are in `upper`.

        Raises:
            ImageError: there are too many already, or they cannot be written.
        """
        folder = self._folder(name)
        number = max((change.number for change in self.of(name)), default=0) + 1
        if number > MAX_CHANGES:
            raise ImageError(f"{MAX_CHANGES} changes of '{name}' are kept: put some in the recipe")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        _remove_leftovers(folder)
        new = Path(mkdtemp(dir=folder, prefix=_NEW_PREFIX))
        try:
            store(difference, upper, new / FILES, log=log)
            record = {
                "made_at": int(time.time()),
                "by": by,
                **asdict(difference),
                "commands": commands,
                "sha256": file_sha256(new / FILES),
            }
            (new / RECORD).write_text(json.dumps(record, indent=1) + "\n")
            _sync(new / FILES, new / RECORD, new)
            new.rename(folder / f"{number:04}")
            _sync(folder)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        return _load(folder / f"{number:04}")

    def drop(self, change: Change) -> None:
        """Forget a change: the next build is without it."""
        # Out of sight by one rename, so that nobody sees half a change.
        doomed = Path(mkdtemp(dir=change.folder.parent, prefix=_NEW_PREFIX))
        change.folder.rename(doomed / change.folder.name)
        shutil.rmtree(doomed)

    def _folder(self, name: str) -> Path:
        try:
            return self.folder / check_image_name(name)
        except ValueError as error:
            raise ImageError(str(error)) from error


def _load(folder: Path) -> Change:
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_bytes())
        return Change(
            folder=folder,
            number=int(folder.name),
            made_at=record["made_at"],
            by=record["by"],
            commands=tuple(record["commands"]),
            difference=Difference(
                **{kind: tuple(record[kind]) for kind in ("added", "changed", "removed")}
            ),
            sha256=record["sha256"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ImageError(
            f"{folder / RECORD} cannot be read: remove {folder} ({type(error).__name__}: {error})"
        ) from error


def _remove_leftovers(folder: Path) -> None:
    for leftover in folder.glob(f"{_NEW_PREFIX}*"):
        shutil.rmtree(leftover)


def _sync(*paths: Path) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

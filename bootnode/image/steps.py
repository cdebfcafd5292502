"""The steps of a build, each skipped when nothing that it is made from has changed.

A step makes one folder from its inputs. It is made under another name and appears by a rename, so
a step that fails, is interrupted or killed leaves nothing half made, and the last good result stays
until a new one is whole. Each result gets a mark of its own; steps that build on it name that mark
among their inputs, and so follow when it is made anew.

Limits: one result of each step of each image is kept.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import IO, Any

from bootnode.errors import ImageError
from bootnode.image.rootfs import unpacked_bytes

RESULT_FILE = "step.json"
_TEMPORARY_PREFIX = ".step-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A step of a build that begins (`seconds` is None) or has ended."""

    step: str
    detail: str
    seconds: float | None = None
    is_skipped: bool = False
    """Nothing had changed: the result was there already."""
    size_bytes: int | None = None
    """Of what a step that has ended made."""


Report = Callable[[Progress], None]
Facts = Mapping[str, Any]
"""What a step has to say about what it made, as plain JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a step made."""

    folder: Path
    mark: str
    """Another one each time that the step is made."""
    facts: Facts
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Stored:
    """A result as it is on disk."""

    key: str
    """The hash of what it was made from."""
    result: Result


@dataclass(slots=True, kw_only=True)
class Ended:
    """What is known of a step when it has ended."""

    size_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The steps of one image; only the holder of the store's lock may run them."""

    cache: Path
    """Where the results are, a folder a step."""
    log: IO[bytes]
    report: Report
    anew: frozenset[str] = frozenset()
    """Names of steps to make even if nothing has changed."""
    only: str | None = None
    """The one step to make; the results of all others are taken as they are."""

    def make(self, step: str, detail: str, inputs: Facts, maker: Callable[[Path], Facts]) -> Result:
        """The result of `step` for `inputs`; `maker` is called to fill an empty folder if needed.

        The folder holds `output` of the maker and our own file beside it, so names cannot clash.

        Raises:
            ImageError: the step is not the `only` one, and was never made.
        """
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        target = self.cache / step
        found = _load(target)
        if self.only not in (None, step):
            return self._as_it_is(step, detail, found)
        if found is not None and found.key == key and step not in self.anew:
            self._skip(step, detail, found.result, "nothing changed")
            return found.result
        with self.step(step, detail) as ended:
            self._replace(target, key, maker)
            made = _load(target)
            if made is None:
                raise FileNotFoundError(2, "the result of a step is gone", str(target))
            ended.size_bytes = made.result.size_bytes
        return made.result

    def _as_it_is(self, step: str, detail: str, found: _Stored | None) -> Result:
        if found is None:
            raise ImageError(f"the step '{step}' was never made: build without --only first")
        self._skip(step, detail, found.result, "as it is")
        return found.result

    def _skip(self, step: str, detail: str, result: Result, why: str) -> None:
        self.log.write(f"== {step}: {detail} (skipped, {why})\n".encode())
        size = result.size_bytes
        self.report(Progress(step=step, detail=why, seconds=0.0, is_skipped=True, size_bytes=size))

    @contextmanager
    def step(self, step: str, detail: str) -> Iterator[Ended]:
        """Report and time what is done inside, which may tell the size of what it made."""
        self.log.write(f"== {step}: {detail}\n".encode())
        self.report(Progress(step=step, detail=detail))
        begin = time.monotonic()
        ended = Ended()
        yield ended
        seconds = time.monotonic() - begin
        self.report(
            Progress(step=step, detail=detail, seconds=seconds, size_bytes=ended.size_bytes)
        )

    def remove_leftovers(self) -> None:
        """Remove what a build that was killed left behind, of whatever image."""
        self.cache.mkdir(parents=True, exist_ok=True)
        # Programs that belong to root and run as root for everybody may be in there.
        self.cache.chmod(0o700)
        for leftover in self.cache.parent.glob(f"*/{_TEMPORARY_PREFIX}*"):
            shutil.rmtree(leftover)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A new folder beside the results, gone afterwards."""
        folder = Path(mkdtemp(dir=self.cache, prefix=_TEMPORARY_PREFIX))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def _replace(self, target: Path, key: str, maker: Callable[[Path], Facts]) -> None:
        with self.scratch() as temporary:
            new = temporary / "new"
            (new / "output").mkdir(parents=True)
            facts = maker(new / "output")
            size = unpacked_bytes(new / "output")
            described = {
                "inputs": key,
                "mark": uuid.uuid4().hex,
                "facts": facts,
                "size_bytes": size,
            }
            (new / RESULT_FILE).write_text(json.dumps(described))
            if target.exists():
                target.rename(temporary / "old")
            new.rename(target)


def _load(folder: Path) -> _Stored | None:
    try:
        described = json.loads((folder / RESULT_FILE).read_bytes())
        result = Result(
            folder=folder / "output",
            mark=described["mark"],
            facts=described["facts"],
            size_bytes=described["size_bytes"],
        )
        return _Stored(described["inputs"], result)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError):
        # Cut short by a power failure, or of an older bootnode: making it again is all we lose.
        return None

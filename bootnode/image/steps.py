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


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The steps of one image; only the holder of the store's lock may run them."""

    cache: Path
    """Where the results are, a folder a step."""
    log: IO[bytes]
    report: Report
    anew: frozenset[str] = frozenset()
    """Names of steps to make even if nothing has changed."""

    def make(self, step: str, detail: str, inputs: Facts, maker: Callable[[Path], Facts]) -> Result:
        """The result of `step` for `inputs`; `maker` is called to fill an empty folder if needed.

        The folder holds `output` of the maker and our own file beside it, so names cannot clash.
        """
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        target = self.cache / step
        if step not in self.anew and (result := _load(target, key)):
            self.log.write(f"== {step}: {detail} (skipped, nothing changed)\n".encode())
            self.report(Progress(step=step, detail=detail, seconds=0.0, is_skipped=True))
            return result
        with self.step(step, detail):
            self._replace(target, key, maker)
        made = _load(target, key)
        if made is None:
            raise FileNotFoundError(2, "the result of a step is gone", str(target))
        return made

    @contextmanager
    def step(self, step: str, detail: str) -> Iterator[None]:
        """Report and time what is done inside."""
        self.log.write(f"== {step}: {detail}\n".encode())
        self.report(Progress(step=step, detail=detail))
        begin = time.monotonic()
        yield
        self.report(Progress(step=step, detail=detail, seconds=time.monotonic() - begin))

    def remove_leftovers(self) -> None:
        """Remove what a build that was killed left behind."""
        self.cache.mkdir(parents=True, exist_ok=True)
        # Programs that belong to root and run as root for everybody may be in there.
        self.cache.chmod(0o700)
        for leftover in self.cache.glob(f"{_TEMPORARY_PREFIX}*"):
            shutil.rmtree(leftover)

    def _replace(self, target: Path, key: str, maker: Callable[[Path], Facts]) -> None:
        temporary = Path(mkdtemp(dir=self.cache, prefix=_TEMPORARY_PREFIX))
        try:
            new = temporary / "new"
            (new / "output").mkdir(parents=True)
            facts = maker(new / "output")
            described = {"inputs": key, "mark": uuid.uuid4().hex, "facts": facts}
            (new / RESULT_FILE).write_text(json.dumps(described))
            if target.exists():
                target.rename(temporary / "old")
            new.rename(target)
        finally:
            shutil.rmtree(temporary)


def _load(folder: Path, key: str) -> Result | None:
    try:
        described = json.loads((folder / RESULT_FILE).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        # Cut short by a power failure; making it again is all that is lost.
        return None
    if described["inputs"] != key:
        return None
    return Result(folder=folder / "output", mark=described["mark"], facts=described["facts"])

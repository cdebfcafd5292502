"""Building an image: the steps from a recipe to a published version.

A ramdisk alone: packages → kernel → ramdisk → publish. With an operating system:
rootfs → customise → archive → kernel → ramdisk → publish, with `bootnode` before customise
where the recipe asks for it.

Each step is skipped when what it is made from has not changed (steps.py). What is published appears
by one rename, so a build that fails, is interrupted or killed leaves the published versions as they
were. Nothing is installed on this machine; root is needed for an operating system only.

The same packages, recipe and init give the same files: times are SOURCE_DATE_EPOCH or, without it,
0 in a ramdisk and the newest package's in a root file system.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bootnode.errors import ImageError
from bootnode.image import rootfs
from bootnode.image.changes import Changes
from bootnode.image.foreign import own_architecture
from bootnode.image.making import Build, known_step, steps_of
from bootnode.image.packages import DOWNLOAD_PREFIX, Packages
from bootnode.image.spec import Recipe
from bootnode.image.steps import Progress, Report, Steps
from bootnode.image.store import ImageStore, ImageVersion

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def no_report(_progress: Progress) -> None:
    """For whoever does not want to know."""


def build_image(
    recipe: Recipe,
    store: ImageStore,
    *,
    cache: Path,
    changes: Path | None = None,
    report: Report = no_report,
    begin: str | None = None,
) -> ImageVersion:
    """Build `recipe`, publish it in `store` and return the version; `cache` keeps what was made.

    `changes` is the folder with what was changed in shells; without it nothing of that is put in.

    The step `begin` and those after it are done even if nothing has changed. The log of all that
    was run is `cache/NAME.log`.

    Raises:
        ImageError: a step failed; what was published before is untouched.
    """
    known = steps_of(recipe)
    anew = known[known.index(known_step(recipe, begin)) :] if begin is not None else ()
    with _workshop(recipe, store, cache, changes, report, anew=frozenset(anew)) as build:
        return build.publish(store)


def build_step(
    recipe: Recipe,
    store: ImageStore,
    step: str,
    *,
    cache: Path,
    changes: Path | None = None,
    report: Report = no_report,
) -> ImageVersion | None:
    """Do one step alone, on the results of the others as they are; `publish` returns a version.

    Raises:
        ImageError: it failed, or a step before it was never made.
    """
    only = known_step(recipe, step)
    anew = frozenset({only})
    with _workshop(recipe, store, cache, changes, report, anew=anew, only=only) as build:
        return build.do(only, store)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRoot:
    """A root file system that somebody looks into."""

    tree: Path
    """`root` and, taken out of it, `kernels`: not to be changed."""
    scratch: Path
    """An empty folder."""
    log: IO[bytes]


@contextmanager
def open_root(
    recipe: Recipe,
    store: ImageStore,
    *,
    cache: Path,
    changes: Path,
    report: Report = no_report,
) -> Iterator[OpenRoot]:
    """The root file system as a build would pack it; nobody else builds meanwhile.

    Raises:
        ImageError: a step failed, or the image has no root file system.
    """
    with _workshop(recipe, store, cache, changes, report, anew=frozenset()) as build:
        tree = build.customised
        with build.steps.scratch() as scratch:
            yield OpenRoot(tree=tree.folder, scratch=scratch, log=build.log)


@contextmanager
def _workshop(
    recipe: Recipe,
    store: ImageStore,
    cache: Path,
    changes: Path | None,
    report: Report,
    *,
    anew: frozenset[str],
    only: str | None = None,
) -> Iterator[Build]:
    """A build of `recipe`, the only one in this store, with its log open and leftovers gone."""
    if recipe.system is not None:
        rootfs.check_is_root()
    try:
        with store.staging(recipe.name) as staging:
            cache.mkdir(parents=True, exist_ok=True)
            for leftover in cache.glob(f"{DOWNLOAD_PREFIX}*"):
                shutil.rmtree(leftover)
            with (cache / f"{recipe.name}.log").open("wb") as log:
                steps = Steps(
                    cache=cache / recipe.name, log=log, report=report, anew=anew, only=only
                )
                steps.remove_leftovers()
                if recipe.system is not None:
                    _check_is_own(recipe, log)
                yield Build(
                    recipe=recipe,
                    steps=steps,
                    apt=Packages.of(recipe.architecture, cache, log=log),
                    log=log,
                    changes=Changes(changes).of(recipe.name) if changes is not None else [],
                    staged=staging / "version",
                )
    except OSError as error:
        raise ImageError(
            f"building '{recipe.name}' failed: {_disk_reason(error, store, cache)}"
        ) from error


def _disk_reason(error: OSError, store: ImageStore, cache: Path) -> str:
    if error.errno in _FULL:
        # The file that is named may be the one that was read.
        return (
            f"no space left in {cache.parent}: make room there, for example by "
            "`bootnode image prune`"
        )
    return f"{error.strerror or error} ({error.filename or store.folder})"


def _check_is_own(recipe: Recipe, log: IO[bytes]) -> None:
    """See that what an operating system installs can run here."""
    own = own_architecture(log)
    if recipe.architecture != own:
        raise ImageError(
            f"'{recipe.name}' is an operating system for {recipe.architecture}, and this machine "
            f"is {own}, so nothing of it could run here: build it on a machine of its own "
            "architecture (only a ramdisk alone, without a `distribution`, is built anywhere)"
        )

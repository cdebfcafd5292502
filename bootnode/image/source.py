"""bootnode itself for the root file system of a head node: its sources, and all of it as wheels.

The recipe's script runs `make install` inside the root, as an administrator would on a machine.
What pip fetches for that is fetched out here, by the configuration that pip has here; inside,
nothing is.

Limits: wheels are for the Python that runs here, so the root must have the same; half an hour.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bootnode.errors import ImageError
from bootnode.image.rootfs import inside
from bootnode.image.run import run
from bootnode.image.store import file_sha256

SOURCES = (
    *("CHANGELOG.md", "LICENSE", "Makefile", "README.md", "pyproject.toml"),
    *("bootnode", "config", "docs", "images", "systemd"),
)
"""What `make install` needs and keeps."""
SOURCE = "source"
WHEELS = "wheels"
"""What `provide` makes; a script sees both below /run/bootnode."""
PIP_TIMEOUT_S = 1800.0
_COMPILED = "__pycache__"
_PYTHON = re.compile(r"python(3\.[0-9]+)")


def source_folder() -> Path:
    """The sources of the bootnode that runs: a checkout, or what `make install` keeps.

    Raises:
        ImageError: it was installed otherwise.
    """
    places = (Path(__file__).parents[2], Path(sys.prefix) / "src")
    for place in places:
        if all((place / name).exists() for name in SOURCES):
            return place
    raise ImageError(
        f"there are no sources of bootnode in {' or '.join(map(str, places))} to put into the "
        "image: use a checkout, or a bootnode that `make install` installed"
    )


def fingerprint(source: Path) -> dict[str, str]:
    """What the sources are, file by file."""
    return {
        str(path.relative_to(source)): f"{path.stat().st_mode & 0o100} {file_sha256(path)}"
        for path in _files(source)
    }


def _files(source: Path) -> Iterator[Path]:
    for name in SOURCES:
        top = source / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and _COMPILED not in path.parts:
                yield path


def provide(source: Path, root: Path, output: Path, *, log: IO[bytes]) -> list[str]:
    """Put sources and wheels into `output`, for the Python in `root`; the wheels' names.

    Raises:
        ImageError: that Python is another one than ours, or pip fails.
    """
    _check_python(root)
    for path in _files(source):
        target = output / SOURCE / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    wheels = output / WHEELS
    command = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check"]
    command += ["--quiet", "--wheel-dir", str(wheels), str(output / SOURCE)]
    run(command, log=log, timeout_s=PIP_TIMEOUT_S, name="pip wheel")
    return sorted(os.listdir(wheels))


def _check_python(root: Path) -> None:
    match = _PYTHON.fullmatch(inside(root, Path("/usr/bin/python3")).name)
    if match is None:
        raise ImageError("the image has no Python 3 for bootnode: add `python3-venv` to `packages`")
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    if match[1] != ours:
        raise ImageError(
            f"the image has Python {match[1]}, and bootnode runs on {ours} here: build it with a "
            f"bootnode that was installed by Python {match[1]}, or choose another `release`"
        )

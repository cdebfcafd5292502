"""bootnode itself, as sources and wheels for a root file system."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from bootnode.errors import ImageError
from bootnode.image import source
from bootnode.image.source import SOURCES, fingerprint, provide, source_folder

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "bootnode"
version = "5"
[tool.hatch.build.targets.wheel]
packages = ["bootnode"]
"""


@pytest.fixture
def log(tmp_path: Path) -> Iterator[IO[bytes]]:
    with (tmp_path / "log").open("wb") as file:
        yield file


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """What `make install` would keep of a tiny bootnode."""
    folder = tmp_path / "prefix" / "src"
    for name in SOURCES:
        if "." in name or name.isupper() or name == "Makefile":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(PYPROJECT if name == "pyproject.toml" else "text\n")
        else:
            (folder / name / "__pycache__").mkdir(parents=True)
            (folder / name / "__pycache__" / "compiled.pyc").write_bytes(b"x")
            (folder / name / "__init__.py").write_text("")
    return folder


def root_with(folder: Path, python: str | None) -> Path:
    root = folder / "root"
    (root / "usr/bin").mkdir(parents=True)
    if python is not None:
        (root / "usr/bin" / python).touch()
        (root / "usr/bin/python3").symlink_to(python)
    return root


def test_make_install_keeps_the_same_sources() -> None:
    checkout = Path(__file__).parents[3]
    (kept,) = re.findall(
        r"^SOURCES := (.*)$", (checkout / "Makefile").read_text(), flags=re.MULTILINE
    )
    assert tuple(kept.split()) == SOURCES
    assert source_folder() == checkout


def test_the_sources_of_an_installed_one_are_found(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "__file__", str(sources.parent / "lib/bootnode/image/source.py"))
    with pytest.raises(ImageError, match=r"there are no sources of bootnode in .*make install"):
        source_folder()
    monkeypatch.setattr(sys, "prefix", str(sources.parent))
    assert source_folder() == sources


def test_the_fingerprint_follows_what_is_installed(sources: Path) -> None:
    first = fingerprint(sources)
    (sources / "bootnode/__pycache__/more.pyc").touch()
    (sources / "unrelated").touch()
    assert fingerprint(sources) == first
    (sources / "images/__init__.py").chmod(0o755)
    second = fingerprint(sources)
    assert second != first
    (sources / "docs/new.md").touch()
    assert fingerprint(sources) != second


def test_sources_and_wheels_are_provided(sources: Path, tmp_path: Path, log: IO[bytes]) -> None:
    version = f"python3.{sys.version_info.minor}"
    output = tmp_path / "output"
    wheels = provide(sources, root_with(tmp_path, version), output, log=log)
    assert wheels == ["bootnode-5-py2.py3-none-any.whl"]
    assert (output / "wheels" / wheels[0]).exists()
    assert fingerprint(output / "source") == fingerprint(sources)
    assert not list(output.rglob("__pycache__"))


@pytest.mark.parametrize(
    ("python", "message"),
    [
        (None, r"^the image has no Python 3 for bootnode: add `python3-venv` to `packages`$"),
        ("python3.6", r"^the image has Python 3\.6, and bootnode runs on 3\.\d+ here: build it"),
    ],
)
def test_another_python_is_refused(
    sources: Path, tmp_path: Path, log: IO[bytes], python: str | None, message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        provide(sources, root_with(tmp_path, python), tmp_path / "output", log=log)

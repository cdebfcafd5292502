"""Kept changes: numbered, whole or not there, and damaged ones named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from bootnode.errors import ImageError
from bootnode.image.changes import FILES, MAX_CHANGES, RECORD, Change, Changes
from bootnode.image.difference import Difference

ODD = "odd\n\udcff"
DIFFERENCE = Difference(added=("new", ODD), changed=("motd",), removed=("issue",))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[IO[bytes]]:
    with (tmp_path / "build.log").open("wb") as file:
        yield file


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    folder = tmp_path / "upper"
    folder.mkdir()
    for name in ("new", "motd", ODD):
        (folder / name).write_text("new")
    return folder


@pytest.fixture
def changes(tmp_path: Path) -> Changes:
    return Changes(tmp_path / "state" / "changes")


def keep(changes: Changes, upper: Path, log: IO[bytes], name: str = "tiny") -> Change:
    return changes.keep(name, DIFFERENCE, upper, by="somebody", commands=["vi /motd"], log=log)


def test_a_change_is_kept(changes: Changes, upper: Path, tmp_path: Path, log: IO[bytes]) -> None:
    assert changes.of("tiny") == []
    kept = keep(changes, upper, log)
    assert changes.of("tiny") == [kept]
    assert changes.of("other") == []
    assert (kept.number, kept.by, kept.commands) == (1, "somebody", ("vi /motd",))
    assert kept.difference == DIFFERENCE
    assert changes.folder.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in kept.folder.iterdir()) == [FILES, RECORD]
    root = tmp_path / "root"
    root.mkdir()
    for name in ("issue", "motd"):
        (root / name).write_text("old")
    kept.apply(root, log=log)
    assert {path.name: path.read_text() for path in root.iterdir()} == dict.fromkeys(
        ("new", "motd", ODD), "new"
    )


def test_changes_are_numbered_and_dropped(changes: Changes, upper: Path, log: IO[bytes]) -> None:
    one, two = keep(changes, upper, log), keep(changes, upper, log)
    other = keep(changes, upper, log, "other")
    changes.drop(one)
    assert changes.of("tiny") == [two]
    assert keep(changes, upper, log).number == 3
    for change in changes.of("tiny"):
        changes.drop(change)
    assert changes.of("tiny") == []
    assert changes.of("other") == [other]
    assert list((changes.folder / "tiny").iterdir()) == []


def test_there_is_a_limit(
    changes: Changes, upper: Path, log: IO[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(changes, upper, log).folder.rename(changes.folder / "tiny" / f"{MAX_CHANGES:04}")
    with pytest.raises(ImageError, match="99 changes of 'tiny' are kept: put some in the recipe"):
        keep(changes, upper, log)


def test_what_cannot_be_written_leaves_nothing(
    changes: Changes, upper: Path, log: IO[bytes]
) -> None:
    (upper / "motd").unlink()
    with pytest.raises(ImageError, match=r"tar .* failed"):
        keep(changes, upper, log)
    assert list((changes.folder / "tiny").iterdir()) == []


def test_leftovers_are_removed(changes: Changes, upper: Path, log: IO[bytes]) -> None:
    leftover = changes.folder / "tiny" / ".new-killed"
    leftover.mkdir(parents=True)
    assert changes.of("tiny") == []
    keep(changes, upper, log)
    assert not leftover.exists()


def test_damage_is_named(changes: Changes, upper: Path, tmp_path: Path, log: IO[bytes]) -> None:
    kept = keep(changes, upper, log)
    with (kept.folder / FILES).open("ab") as file:
        file.write(b"more")
    with pytest.raises(
        ImageError,
        match=r"^change 1 of 'tiny': .*files\.tar is damaged \(drop it: "
        r"`bootnode image changes tiny --drop 1`\)$",
    ):
        kept.apply(tmp_path, log=log)
    record = json.loads((kept.folder / RECORD).read_text())
    for text in ("", "[]", json.dumps({**record, "added": 1}), json.dumps({"by": "me"})):
        (kept.folder / RECORD).write_text(text)
        with pytest.raises(ImageError, match=r"record\.json cannot be read: remove .*/0001 \("):
            changes.of("tiny")


def test_the_name_is_an_images(changes: Changes) -> None:
    with pytest.raises(ImageError, match=r"\.\./etc"):
        changes.of("../etc")

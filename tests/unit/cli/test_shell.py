"""`bootnode image changes`, and what `shell` says; a shell is tested where it is opened."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootnode.cli.shell import _say_what_changed, split_command
from bootnode.image.changes import Change, Changes
from bootnode.image.difference import Difference
from bootnode.image.shell import Visit

Run = Callable[..., Any]


@pytest.fixture
def kept(folder: Path) -> list[Change]:
    """Two changes of an image."""
    (folder / "upper").mkdir()
    for name in ("a", "b\n"):
        (folder / "upper" / name).touch()
    changes = Changes(folder / "state/changes")
    differences = (
        Difference(added=("a", "b\n"), removed=("c",)),
        Difference(changed=("a",)),
    )
    with (folder / "log").open("wb") as log:
        return [
            changes.keep("tiny", each, folder / "upper", by="me", commands=["vi /a"], log=log)
            for each in differences
        ]


def test_list(run: Run, kept: list[Change]) -> None:
    assert kept
    lines = run("image", "changes", "tiny").out.splitlines()
    assert lines[0].split() == ["NUMBER", "MADE", "BY", "ADDED", "CHANGED", "REMOVED"]
    rows = [re.split(r"\s{2,}", line) for line in lines[1:]]
    assert [[row[0], *row[2:]] for row in rows] == [
        ["1", "me", "2", "0", "1"],
        ["2", "me", "0", "1", "0"],
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", row[1]) for row in rows)


def test_one(run: Run, kept: list[Change]) -> None:
    head, *lines = run("image", "changes", "tiny", "1").out.split("\n")
    assert re.fullmatch(r"change 1, made .* UTC by me", head)
    assert lines == ["$ vi /a", "A /a", "A /b", "", "D /c", ""]
    (plain,) = json.loads(run("image", "changes", "tiny", "2", "--json").out)
    assert plain == {
        "number": 2,
        "made_at": kept[1].made_at,
        "by": "me",
        "commands": ["vi /a"],
        "added": [],
        "changed": ["a"],
        "removed": [],
        "sha256": kept[1].sha256,
    }
    outcome = run("image", "changes", "tiny", "7")
    assert (outcome.status, outcome.err) == (
        1,
        "bootnode: 'tiny' has no change 7 (there are: 1, 2)\n",
    )


def test_drop(run: Run, kept: list[Change]) -> None:
    assert len(kept) == 2
    outcome = run("image", "changes", "tiny", "--drop", "1")
    assert outcome.out.splitlines() == [
        "change 1 of 'tiny' is dropped",
        "`bootnode image build tiny` builds it without",
    ]
    assert [c["number"] for c in json.loads(run("image", "changes", "tiny", "--json").out)] == [2]
    assert run("image", "changes", "tiny", "--drop", "1").status == 1
    assert run("image", "changes", "tiny", "--drop-all").status == 0
    assert run("image", "changes", "tiny", "--drop-all").out == "'tiny' has no changes\n"
    assert json.loads(run("image", "changes", "tiny", "--json").out) == []


@pytest.mark.parametrize(
    ("words", "before", "command"),
    [
        ("image shell x -- ls -l -- -c", "image shell x", "ls -l -- -c"),
        ("image shell x -c y --", "image shell x -c y", ""),
        ("image shell x", "image shell x", None),
        ("lab exec -- ls", "lab exec -- ls", None),
    ],
)
def test_a_command_comes_after_two_dashes(words: str, before: str, command: str | None) -> None:
    expected = None if command is None else command.split()
    assert split_command(words.split()) == (before.split(), expected)


def test_a_recipe_that_is_not_there(run: Run) -> None:
    outcome = run("image", "shell", "nonesuch")
    assert outcome.status == 1
    assert outcome.err.startswith("bootnode: there is no recipe 'nonesuch' (there are: ")


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        (Difference(), "nothing changed\n"),
        (
            Difference(
                added=("d", "d/e", "d/e/f", "d.txt"), changed=("d/é",), removed=("x\udcff",)
            ),
            "M /d/é\nD /x\\xff\nA /d\nA /d.txt\nnothing is kept\n",
        ),
        (
            Difference(added=tuple(f"{n:03}" for n in range(50))),
            "".join(f"A /{n:03}\n" for n in range(40)) + "… and 10 more\nnothing is kept\n",
        ),
    ],
)
def test_what_changed_is_said(
    capsys: pytest.CaptureFixture[str], difference: Difference, said: str
) -> None:
    _say_what_changed("tiny", Visit(difference=difference, kept=None))
    assert capsys.readouterr() == ("", said)


def test_what_is_kept_is_said(capsys: pytest.CaptureFixture[str], kept: list[Change]) -> None:
    _say_what_changed("tiny", Visit(difference=kept[1].difference, kept=kept[1]))
    assert capsys.readouterr().err == (
        "M /a\n"
        "kept as change 2: `bootnode image build tiny` puts it in, "
        "`bootnode image changes tiny --drop 2` forgets it\n"
    )

"""How a build's progress looks in a pipe and on a terminal."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from bootnode.cli import progress
from bootnode.cli.progress import show_progress
from bootnode.image.steps import Progress

STEPS = ("rootfs", "customise", "archive")
REPORTS = (
    Progress(step="rootfs", detail="debian"),
    Progress(step="rootfs", detail="debian", seconds=38.04, size_bytes=595_000_000),
    Progress(step="customise", detail="as [it] is", seconds=0.0, is_skipped=True, size_bytes=5),
    Progress(step="archive", detail="root.squashfs"),
)


def test_a_pipe_gets_a_line_for_each_step_that_has_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with show_progress(STEPS) as report:
        for told in REPORTS:
            report(told)
    assert capsys.readouterr().out.splitlines() == [
        "   38.0 s   595.0 MB  rootfs: debian",
        "      -          5 B  customise: skipped, as [it] is",
    ]


def test_a_terminal_shows_every_step_of_the_build() -> None:
    board = progress._Board((*STEPS, "publish"))
    for told in REPORTS:
        board.note(told)
    console = Console(file=io.StringIO(), width=100)
    console.print(board.table())
    assert isinstance(console.file, io.StringIO)
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert lines[:2] == ["✓ rootfs 38.0 s 595.0 MB debian", "✓ customise 5 B skipped, as [it] is"]
    assert re.fullmatch(r"▶ archive \d+ s root\.squashfs", lines[2])
    assert lines[3:] == ["· publish"]


def test_a_terminal_is_given_the_live_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    with show_progress(STEPS) as report:
        for told in REPORTS:
            report(told)
    assert "rootfs" in capsys.readouterr().out

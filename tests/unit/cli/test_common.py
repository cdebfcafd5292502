"""What the commands share: exit statuses, tables, sizes and times for people."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootnode.cli import main
from bootnode.cli.common import ago, print_table, rich_table, size

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (14_200_000, "14.2 MB"),
        (999_999_999, "1000.0 MB"),
        (3_500_000_000_000, "3500.0 GB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (0, "0 s"), (59.4, "59 s"), (60, "1 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_times(seconds: float, text: str) -> None:
    assert ago(seconds) == text


def test_a_table_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "LONG"), (row for row in [("value", "x"), ("y", "")]))
    assert capsys.readouterr().out == "A      LONG\nvalue  x\ny\n"


def test_a_table_on_a_terminal_takes_words_for_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table(("A",), [("[red]not markup[/red]",)])
    assert "[red]not markup[/red]" in capsys.readouterr().out
    assert rich_table(("A",), [("up",)]).row_count == 1


@pytest.mark.parametrize("words", [[], ["nonsense"], ["node"], ["status", "--jsno"]])
def test_usage_is_exit_status_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(words)
    assert exited.value.code == 2
    assert "usage: bootnode" in capsys.readouterr().err


VERBS = [
    ["check"],
    *(["image", verb] for verb in ("build", "list", "show", "delete")),
    *(["node", verb] for verb in ("list", "show")),
    *(["status"], ["watch"]),
    *(["lab", verb] for verb in ("up", "boot", "console", "exec", "list", "down", "demo")),
]


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_help_of_each_verb_shows_an_example(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        main([*words, "-h"])
    assert exited.value.code == 0
    assert f"example: bootnode {' '.join(words)}" in " ".join(capsys.readouterr().out.split())


def test_a_missing_configuration_is_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["node", "list", "-c", str(tmp_path / "none.yaml")])
    assert exited.value.code == 1
    assert capsys.readouterr().err == (
        f"bootnode: {tmp_path}/none.yaml: cannot be read: No such file or directory\n"
    )


def test_interrupted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bootnode.cli.node.load_nodes", interrupt)
    outcome = run("node", "list")
    assert (outcome.status, outcome.err) == (130, "bootnode: interrupted\n")


def test_a_reader_that_has_enough_is_no_trouble(folder: Path) -> None:
    """`bootnode node list | head -0`: no traceback, no complaint of Python's at its end."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", "from bootnode.cli import main; main()"]
    try:
        ended = subprocess.run(
            [*command, "node", "list", "-c", str(folder / "bootnoded.yaml")],
            stdout=writing,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"]},  # without PYTHONUNBUFFERED, which hides the trouble
            timeout=30,
            check=False,
        )
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_what_is_copied_from_a_table_is_in_one_piece(width: int) -> None:
    from rich.console import Console

    version, node = "0123456789abcdef", "a-node-with-quite-a-long-name"
    table = rich_table(("NODE", "VERSION", "DETAIL"), [(node, version, "words " * 20)])
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    assert version in console.file.getvalue()
    assert "…" not in console.file.getvalue()

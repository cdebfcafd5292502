"""How far a build is: a live table on a terminal, a line for each step that has ended elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TextIO

from bootnode.cli.common import size

if TYPE_CHECKING:
    from rich.table import Table

    from bootnode.image.steps import Progress

REFRESHES_PER_S = 8


@contextmanager
def show_progress(
    steps: Sequence[str], *, out: TextIO | None = None
) -> Iterator[Callable[[Progress], None]]:
    """What a build with these `steps` is to report to; it is shown on `out`, or on stdout."""
    out = out or sys.stdout
    if not out.isatty():
        yield partial(print_line, out=out)
        return
    from rich.console import Console
    from rich.live import Live

    board = _Board(steps)
    console = Console(file=out)
    with Live(get_renderable=board.table, refresh_per_second=REFRESHES_PER_S, console=console):
        yield board.note


def print_line(progress: Progress, *, out: TextIO | None = None) -> None:
    """A line for a step that has ended: seconds, bytes, what was done."""
    if progress.seconds is None:
        return
    seconds = "      -  " if progress.is_skipped else f"{progress.seconds:7.1f} s"
    skipped = "skipped, " if progress.is_skipped else ""
    line = f"{seconds}  {_size(progress):>9}  {progress.step}: {skipped}{progress.detail}"
    print(line, file=out, flush=True)


def _size(progress: Progress) -> str:
    return "" if progress.size_bytes is None else size(progress.size_bytes)


class _Board:
    """The steps in their order, with what was reported last of each."""

    def __init__(self, steps: Sequence[str]) -> None:
        self._latest: dict[str, Progress | None] = dict.fromkeys(steps)
        self._began: dict[str, float] = {}

    def note(self, progress: Progress) -> None:
        self._latest[progress.step] = progress
        self._began.setdefault(progress.step, time.monotonic())

    def table(self) -> Table:
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        for justify in ("left", "left", "right", "right", "left"):
            table.add_column(justify=justify)
        for step, progress in self._latest.items():
            table.add_row(*self._cells(step, progress))
        return table

    def _cells(self, step: str, progress: Progress | None) -> tuple[str, ...]:
        if progress is None:
            return "[dim]·[/]", f"[dim]{step}[/]", "", "", ""
        from rich.markup import escape

        detail = escape(progress.detail)
        if progress.is_skipped:
            return "[dim]✓[/]", step, "", _size(progress), f"[dim]skipped, {detail}[/]"
        if progress.seconds is not None:
            seconds = f"{progress.seconds:.1f} s"
            return "[green]✓[/]", step, seconds, _size(progress), f"[dim]{detail}[/]"
        elapsed = time.monotonic() - self._began[step]
        return "[yellow]▶[/]", f"[bold]{step}[/]", f"{elapsed:.0f} s", "", detail

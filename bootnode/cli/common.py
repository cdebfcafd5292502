"""What the commands share: options, the configuration, tables."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from bootnode.config import DEFAULT_CONFIG, Config, load_config
from bootnode.errors import ImageError

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    help: str,  # noqa: A002  # argparse's own word for it
    example: str,
    table: bool = False,
) -> argparse.ArgumentParser:
    """A verb with the options that every verb has; `table` adds --json."""
    parser = commands.add_parser(
        name, help=help, description=help[:1].upper() + help[1:] + ".", epilog=f"example: {example}"
    )
    add_config_options(parser)
    if table:
        parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.set_defaults(run=run)
    return parser


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Which configuration, and where its state is: the same for the daemon and every verb."""
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        type=Path,
        default=DEFAULT_CONFIG,
        help="the configuration (default: %(default)s)",
    )
    parser.add_argument(
        "--state-dir", metavar="DIR", type=Path, help="where state is, whatever the file says"
    )


def read_config(arguments: argparse.Namespace) -> Config:
    """The configuration that the options name.

    Raises:
        ConfigError: it has problems.
    """
    return load_config(arguments.config, state_dir=arguments.state_dir)


def recipe_folder(name: str, config: Path) -> Path:
    """A path as it is; a name from `images/` beside the configuration, then from ours."""
    from bootnode.image.spec import find_recipes, recipes_folder

    if "/" in name:
        return Path(name)
    places = [config.absolute().parent / "images", recipes_folder()]
    for place in places:
        if place / name in find_recipes([place]):
            return place / name
    known = sorted({folder.name for folder in find_recipes(places)})
    raise ImageError(f"there is no recipe '{name}' (there are: {', '.join(known) or 'none'})")


def print_json(value: Any) -> None:
    """For programs."""
    print(json.dumps(value, indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Colours and rules on a terminal, aligned plain text in a pipe."""
    rows = [list(row) for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(rich_table(columns, rows))
        return
    table = [list(columns), *rows]
    widths = [max(len(row[index]) for row in table) for index in range(len(columns))]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def rich_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Any:
    """A rich table; cells are text, never markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        # Folded rather than cut: what is read here is typed there.
        table.add_column(column, overflow="fold", no_wrap=column in _WHOLE)
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    return table


_WHOLE = {"MAC", "VERSION"}
"""Columns to copy from, which stay in one piece on a narrow terminal."""
_STYLES = {"up": "bold green", "failed": "bold red", "never": "dim", "-": "dim"}


def size(count: int) -> str:
    """Bytes for people: `14.2 MB`."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def when(seconds: int) -> str:
    """A time, in seconds since 1970, for people: `2026-11-23 21:49 UTC`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def ago(seconds: float) -> str:
    """How long ago, for people: `12 s`, `5 min`, `3 h`, `2 d`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"

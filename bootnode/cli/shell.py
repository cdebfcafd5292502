"""`bootnode image shell` and `changes`: change an image by hand, and see what was changed.

What we say goes to stderr: stdout belongs to the shell.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bootnode.cli.common import (
    Commands,
    add_command,
    print_json,
    print_table,
    read_config,
    recipe_folder,
    when,
)
from bootnode.errors import ImageError

if TYPE_CHECKING:
    from bootnode.image.changes import Change, Changes
    from bootnode.image.shell import Task, Visit

SHOWN_PATHS = 40
"""How many changed paths are named after a shell."""
STEPS = ("rootfs", "customise")


def add_commands(verbs: Commands) -> None:
    """Add the verbs to `image`."""
    shell = add_command(
        verbs,
        "shell",
        run_shell,
        help="open a shell in the root file system of an image; what changes there is kept for "
        "the next builds. In a pipe, stdin is the script. A script or COMMAND that fails keeps "
        "nothing",
        example="bootnode image shell compute -- apt-get --yes purge nano",
    )
    shell.add_argument("name", metavar="NAME", help="the recipe's name, or the path of its folder")
    shell.add_argument("--discard", action="store_true", help="keep nothing of what changes")
    shell.usage = f"{shell.prog} [OPTION ...] NAME [-- COMMAND ...]"
    shell.set_defaults(command=[])
    changes = add_command(
        verbs,
        "changes",
        run_changes,
        help="list what was changed in shells, or one change with its files and commands",
        example="bootnode image changes compute 1",
        table=True,
    )
    changes.add_argument("name", metavar="NAME")
    changes.add_argument("number", metavar="NUMBER", type=int, nargs="?")
    which = changes.add_mutually_exclusive_group()
    which.add_argument("--drop", metavar="NUMBER", type=int, help="forget this change")
    which.add_argument("--drop-all", action="store_true", help="forget all changes of this image")


def split_command(words: Sequence[str]) -> tuple[Sequence[str], list[str] | None]:
    """What stands before `--` and after it, for `image shell`; all other verbs as they are.

    Argparse would end a positional argument that takes several words at the first option.
    """
    if list(words[:2]) != ["image", "shell"] or "--" not in words:
        return words, None
    end = words.index("--")
    return words[:end], list(words[end + 1 :])


def run_shell(arguments: argparse.Namespace) -> int:
    """Make the root file system if needed, go inside, say what changed."""
    from bootnode.cli.progress import show_progress
    from bootnode.image.build import open_root
    from bootnode.image.changes import Changes
    from bootnode.image.shell import open_shell
    from bootnode.image.spec import load_recipe
    from bootnode.image.store import ImageStore

    config = read_config(arguments)
    recipe = load_recipe(recipe_folder(arguments.name, arguments.config))
    task = _task(arguments.command)
    with ExitStack() as stack:
        with show_progress(STEPS, out=sys.stderr) as report:
            opened = stack.enter_context(
                open_root(
                    recipe,
                    ImageStore(config.images),
                    cache=config.cache,
                    changes=config.changes,
                    report=report,
                )
            )
        if task.is_interactive:
            fate = "is kept for the next builds" if not arguments.discard else "is not kept"
            _say(f"a shell in '{recipe.name}': what changes {fate}; `exit` ends it")
        kept_in = None if arguments.discard else Changes(config.changes)
        visit = open_shell(recipe.name, opened, task, kept_in)
    _say_what_changed(recipe.name, visit)
    return 0


def _task(command: list[str]) -> Task:
    from bootnode.image.shell import Task

    if command:
        return Task(command=tuple(command))
    return Task() if sys.stdin.isatty() else Task(script=sys.stdin.buffer.read())


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _say_what_changed(name: str, visit: Visit) -> None:
    lines = _lines(visit.difference.summary())
    for line in lines[:SHOWN_PATHS]:
        _say(line)
    if len(lines) > SHOWN_PATHS:
        _say(f"… and {len(lines) - SHOWN_PATHS} more")
    if visit.kept is not None:
        _say(
            f"kept as change {visit.kept.number}: `bootnode image build {name}` puts it in, "
            f"`bootnode image changes {name} --drop {visit.kept.number}` forgets it"
        )
    else:
        _say("nothing is kept" if lines else "nothing changed")


def _lines(letters: Iterable[tuple[str, str]]) -> list[str]:
    # Not every name is text.
    return [
        f"{letter} /{path.encode(errors='surrogateescape').decode(errors='backslashreplace')}"
        for letter, path in letters
    ]


def run_changes(arguments: argparse.Namespace) -> int:
    """List the changes of an image, show one, or forget some."""
    from bootnode.image.changes import Changes

    changes = Changes(read_config(arguments).changes)
    if arguments.drop is not None or arguments.drop_all:
        return _drop(arguments, changes)
    found = changes.of(arguments.name)
    if arguments.number is not None:
        found = [_find(found, arguments.name, arguments.number)]
    if arguments.json:
        print_json([_plain(change) for change in found])
    elif arguments.number is not None:
        _show(found[0])
    else:
        print_table(("NUMBER", "MADE", "BY", "ADDED", "CHANGED", "REMOVED"), map(_row, found))
    return 0


def _drop(arguments: argparse.Namespace, changes: Changes) -> int:
    from bootnode.image.store import ImageStore

    name = arguments.name
    # No build may read what goes.
    with ImageStore(read_config(arguments).images).staging(name):
        found = changes.of(name)
        doomed = found if arguments.drop_all else [_find(found, name, arguments.drop)]
        for change in reversed(doomed):
            changes.drop(change)
            print(f"change {change.number} of '{name}' is dropped")
    print(
        f"`bootnode image build {name}` builds it without" if doomed else f"'{name}' has no changes"
    )
    return 0


def _find(changes: list[Change], name: str, number: int) -> Change:
    for change in changes:
        if change.number == number:
            return change
    known = ", ".join(str(change.number) for change in changes)
    raise ImageError(f"'{name}' has no change {number} (there are: {known or 'none'})")


def _show(change: Change) -> None:
    print(f"change {change.number}, made {when(change.made_at)} by {change.by}")
    for command in change.commands:
        print(f"$ {command}")
    for line in _lines(change.difference.letters()):
        print(line)


def _row(change: Change) -> tuple[str, ...]:
    difference = change.difference
    counts = (len(difference.added), len(difference.changed), len(difference.removed))
    return (str(change.number), when(change.made_at), change.by, *map(str, counts))


def _plain(change: Change) -> dict[str, Any]:
    return {
        "number": change.number,
        "made_at": change.made_at,
        "by": change.by,
        "commands": change.commands,
        **asdict(change.difference),
        "sha256": change.sha256,
    }

"""`bootnode check`: is the configuration right, before the daemon reads it?"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from bootnode.cli.common import Commands, add_command, print_json
from bootnode.config import Config
from bootnode.errors import ConfigError, Problem
from bootnode.nodes import Loader, NodeTable, load_site

if TYPE_CHECKING:
    from bootnode.boot.plan import ImageFiles


def add_commands(commands: Commands) -> None:
    """Add `check`."""
    add_command(
        commands,
        "check",
        run,
        help="find what is wrong with the configuration, all of it at once",
        example="bootnode check -c config/bootnoded.yaml",
        table=True,
    )


def run(arguments: argparse.Namespace) -> int:
    """Print each problem on a line of its own; exit status 1 if there is one."""
    problems: list[Problem] = []
    summary = ""
    try:
        config, table = load_site(arguments.config, state_dir=arguments.state_dir)
        problems += _missing_images(config, table)
        problems += _wrong_templates(config, table)
        summary = f"ok: {len(table)} nodes on {len(config.networks)} network(s)"
    except ConfigError as error:
        problems += error.problems
    if arguments.json:
        print_json(
            [
                {
                    "file": p.file,
                    "line": p.line,
                    "column": p.column,
                    "key": p.key,
                    "text": p.message,
                }
                for p in problems
            ]
        )
    else:
        for problem in problems:
            print(problem, file=sys.stderr)
        if not problems:
            print(summary)
    return 1 if problems else 0


def _missing_images(config: Config, table: NodeTable) -> Iterator[Problem]:
    from bootnode.image.served import current_files
    from bootnode.image.store import ImageStore

    store = ImageStore(config.images)
    wanted: defaultdict[str | None, set[Loader | None]] = defaultdict(set)
    for node in table:
        wanted[node.image].add(node.loader)
    for use in table.image_uses:
        found = current_files(store, use.image)
        if isinstance(found, str):
            yield replace(use.problem, message=found)
            continue
        if Loader.UKI in wanted[use.image] and found.without_stub is not None:
            yield replace(use.problem, message=found.without_stub)
        by_grub = Loader.GRUB in {loader or found.loader for loader in wanted[use.image]}
        if by_grub and (message := _without_grub(config, found)) is not None:
            yield replace(use.problem, message=message)


def _without_grub(config: Config, image: ImageFiles) -> str | None:
    """A sentence that says so, and the remedy; None where there is GRUB for its machines."""
    from bootnode.boot.plan import GRUBS, MACHINES
    from bootnode.daemon import file_roots, find_loaders

    machines = (machine for machine, name in MACHINES.items() if name == image.architecture)
    names = [name for machine in machines for name in GRUBS.get(machine, ())]
    if not find_loaders(file_roots(config)).isdisjoint(names):
        return None
    return (
        f"image '{image.name}' is to boot by `loader: grub`, and there is no {' or '.join(names)}: "
        f"put one of Debian's package grub-efi-{image.architecture}-signed into the folder that "
        "`files` names (docs/booting.md says how)"
    )


def _wrong_templates(config: Config, table: NodeTable) -> Iterator[Problem]:
    from bootnode.cli.nodefiles import find_problems

    yield from find_problems(config, table)

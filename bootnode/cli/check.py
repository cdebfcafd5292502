"""`bootnode check`: is the configuration right, before the daemon reads it?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace

from bootnode.cli.common import Commands, add_command, print_json
from bootnode.config import Config
from bootnode.errors import ConfigError, Problem
from bootnode.nodes import Loader, NodeTable, load_site


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
    unified = {node.image for node in table if node.loader is Loader.UKI}
    for use in table.image_uses:
        found = current_files(store, use.image)
        if isinstance(found, str):
            yield replace(use.problem, message=found)
        elif use.image in unified and found.without_stub is not None:
            yield replace(use.problem, message=found.without_stub)


def _wrong_templates(config: Config, table: NodeTable) -> Iterator[Problem]:
    from bootnode.cli.nodefiles import find_problems

    yield from find_problems(config, table)

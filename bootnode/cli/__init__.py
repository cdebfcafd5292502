"""The command `bootnode`: one function a verb, which parses, calls and prints.

Exit status: 0 done, 1 failed, 2 usage. Only this package prints or exits.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from bootnode import __version__
from bootnode.cli import check, image, lab, lease, node, shell, status
from bootnode.errors import BootnodeError


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit."""
    parser = argparse.ArgumentParser(
        prog="bootnode",
        description="Look after a netboot server: its configuration, images, nodes and lab.",
        epilog="`bootnode COMMAND -h` shows an example of each.",
    )
    parser.add_argument("--version", action="version", version=f"bootnode {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (check, image, node, lease, status, lab):
        module.add_commands(commands)
    words, command = shell.split_command(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(words)
    if command is not None:
        arguments.command = command
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    try:
        exit_status = arguments.run(arguments)
        sys.stdout.flush()
    except BootnodeError as error:
        print(f"bootnode: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        # `bootnode status | head`: whoever read us has enough. What is left goes nowhere, or
        # Python would complain about it while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print("bootnode: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(exit_status)

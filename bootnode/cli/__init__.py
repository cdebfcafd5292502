"""The command `bootnode`: one function a verb, which parses, calls and prints.

Exit status: 0 done, 1 failed, 2 usage. Only this package prints or exits.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from bootnode import __version__
from bootnode.cli import check, image, lab, node, status
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
    for module in (check, image, node, status, lab):
        module.add_commands(commands)
    arguments = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    try:
        sys.exit(arguments.run(arguments))
    except BootnodeError as error:
        print(f"bootnode: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        # `bootnode status | head`: whoever read us has enough.
        sys.stderr.close()
        sys.exit(1)
    except KeyboardInterrupt:
        print("bootnode: interrupted", file=sys.stderr)
        sys.exit(130)

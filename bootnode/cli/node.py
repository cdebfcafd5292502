"""`bootnode node`: the node table as it is understood."""

from __future__ import annotations

import argparse
from typing import Any

from bootnode.cli.common import Commands, add_command, print_json, print_table, read_config
from bootnode.errors import BootnodeError
from bootnode.nodes import Node, load_nodes


def add_commands(commands: Commands) -> None:
    """Add `node list` and `node show`."""
    verbs = commands.add_parser("node", help="look at the node table").add_subparsers(
        metavar="VERB", required=True
    )
    add_command(
        verbs, "list", run_list, help="list the nodes", example="bootnode node list", table=True
    )
    show = add_command(
        verbs,
        "show",
        run_show,
        help="show one node, with defaults and profiles merged",
        example="bootnode node show node-000",
        table=True,
    )
    show.add_argument("node", metavar="NODE", help="its name or its MAC")


def run_list(arguments: argparse.Namespace) -> int:
    """Print a line a node."""
    table = load_nodes(read_config(arguments).nodes)
    if arguments.json:
        print_json([_plain(node) for node in table])
        return 0
    print_table(
        ("NODE", "MAC", "ADDRESS", "IMAGE", "BOOT"),
        (
            (
                node.name,
                " ".join(map(str, node.macs)),
                " ".join(map(str, node.addresses.values())) or "pool",
                node.boot_file or node.image or "-",
                node.boot.value,
            )
            for node in table
        ),
    )
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """Print all that is known of one node."""
    table = load_nodes(read_config(arguments).nodes)
    node = table.find(arguments.node)
    if node is None:
        raise BootnodeError(
            f"there is no node '{arguments.node}': `bootnode node list` shows those there are"
        )
    plain = _plain(node)
    if arguments.json:
        print_json(plain)
    else:
        print_table(("KEY", "VALUE"), ((key, _text(value)) for key, value in plain.items()))
    return 0


def _plain(node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "mac": [str(mac) for mac in node.macs],
        "ip": [str(address) for address in node.addresses.values()],
        "image": node.image,
        "kernel_args": list(node.kernel_args),
        "boot": node.boot.value,
        "boot_file": node.boot_file,
        "vars": dict(node.vars),
    }


def _text(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "-"
    return "-" if value in (None, {}) else str(value)

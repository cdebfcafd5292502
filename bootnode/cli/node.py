"""`bootnode node`: the node table as it is understood."""

from __future__ import annotations

import argparse
import stat
import sys
from typing import TYPE_CHECKING, Any

from bootnode.cli.common import Commands, add_command, print_json, print_table, read_config, size
from bootnode.errors import BootnodeError
from bootnode.nodes import Node, NodeTable, load_nodes

if TYPE_CHECKING:
    from bootnode.boot.nodefiles import NodeFile


def add_commands(commands: Commands) -> None:
    """Add `node list`, `node show` and `node files`."""
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
    files = add_command(
        verbs,
        "files",
        run_files,
        help="list the files that its image makes for one node alone, or print one of them",
        example="bootnode node files node-000 /etc/hosts",
        table=True,
    )
    files.add_argument("node", metavar="NODE", help="its name or its MAC")
    files.add_argument("path", metavar="PATH", nargs="?", help="the file to print")


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
    plain = _plain(_find(load_nodes(read_config(arguments).nodes), arguments.node))
    if arguments.json:
        print_json(plain)
    else:
        print_table(("KEY", "VALUE"), ((key, _text(value)) for key, value in plain.items()))
    return 0


def run_files(arguments: argparse.Namespace) -> int:
    """Print a line a file, or the content of one."""
    from bootnode.cli.nodefiles import render

    config = read_config(arguments)
    table = load_nodes(config.nodes)
    node = _find(table, arguments.node)
    files = render(config, table, node)
    if arguments.path is not None:
        wanted = arguments.path.lstrip("/")
        contents = [file.entry.data for file in files if file.entry.path == wanted]
        if not contents:
            raise BootnodeError(f"{node.name} has no file /{wanted} of its own")
        sys.stdout.buffer.write(contents[0])
        return 0
    if arguments.json:
        print_json([_plain_file(file) for file in files])
        return 0
    print_table(
        ("MODE", "SIZE", "PATH"),
        (
            (
                stat.filemode(file.entry.mode),
                size(len(file.entry.data)),
                f"/{file.entry.path}",
            )
            for file in files
        ),
    )
    return 0


def _plain_file(file: NodeFile) -> dict[str, Any]:
    return {
        "path": f"/{file.entry.path}",
        "mode": stat.filemode(file.entry.mode),
        "size_bytes": len(file.entry.data),
        "is_secret": file.is_secret,
    }


def _find(table: NodeTable, name: str) -> Node:
    node = table.find(name)
    if node is None:
        raise BootnodeError(
            f"there is no node '{name}': `bootnode node list` shows those there are"
        )
    return node


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

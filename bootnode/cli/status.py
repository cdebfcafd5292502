"""`bootnode status` and `bootnode watch`: where each node is."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bootnode.cli.common import (
    Commands,
    add_command,
    ago,
    print_json,
    print_table,
    read_config,
    rich_table,
)
from bootnode.control import fetch_status

COLUMNS = ("NODE", "MAC", "ADDRESS", "STAGE", "IMAGE", "LAST SEEN", "DETAIL")
WATCH_S = 0.5
"""Seconds between two looks."""


def add_commands(commands: Commands) -> None:
    """Add `status` and `watch`."""
    add_command(
        commands,
        "status",
        run_status,
        help="show where each node is",
        example="bootnode status",
        table=True,
    )
    add_command(
        commands,
        "watch",
        run_watch,
        help="show where each node is, live, until Ctrl-C",
        example="bootnode watch",
    )


def run_status(arguments: argparse.Namespace) -> int:
    """Print a line a node."""
    status = fetch_status(read_config(arguments).socket)
    if arguments.json:
        print_json(status)
    else:
        print_table(COLUMNS, _rows(status))
        for line in _network_lines(status):
            print(line)
    return 0


def run_watch(arguments: argparse.Namespace) -> int:
    """Show the table live on a terminal; in a pipe, a line for each change."""
    socket = read_config(arguments).socket
    try:
        if sys.stdout.isatty():
            _watch_live(socket)
        else:
            _watch_lines(socket)
    except KeyboardInterrupt:
        pass  # the way to end it
    return 0


def _watch_live(socket: Path) -> None:
    from rich.live import Live

    with Live(rich_table(COLUMNS, _rows(fetch_status(socket))), auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_S)
            live.update(rich_table(COLUMNS, _rows(fetch_status(socket))), refresh=True)


def _watch_lines(socket: Path) -> None:
    seen: dict[str, tuple[str, str]] = {}
    while True:
        for node in fetch_status(socket)["nodes"]:
            state = (node["stage"], node["detail"])
            if seen.get(node["name"], ("-", "")) != state:
                print(f"{node['name']} {node['stage']} {node['detail']}".rstrip(), flush=True)
            seen[node["name"]] = state
        time.sleep(WATCH_S)


def _network_lines(status: dict[str, Any]) -> Iterator[str]:
    """What `dhcp: auto` decided, and the DHCP servers that are not as they should be."""
    for network in status.get("networks", ()):
        if network["dhcp"] == "auto":
            yield f"{network['network']}: dhcp auto, acts as {network['acts_as']}: {network['why']}"
        for other in network["other_servers"]:
            if other["is_news"]:
                seen = ago(other["heard_s_ago"])
                yield f"{network['network']}: {other['offer']} ({seen} ago)"


def _rows(status: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for node in status["nodes"]:
        seen = ago(status["now"] - node["last_seen"]) if node["last_seen"] else "never"
        yield (
            node["name"],
            node["mac"],
            node["address"] or "-",
            node["stage"],
            node["image"] or "-",
            seen,
            node["detail"],
        )

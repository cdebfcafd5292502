"""`bootnode lease`: who has which address, as the running daemon knows it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

from bootnode.cli.common import (
    Commands,
    add_command,
    ago,
    print_json,
    print_table,
    read_config,
)
from bootnode.control import end_lease, fetch_leases
from bootnode.errors import BootnodeError

COLUMNS = ("ADDRESS", "MAC", "NODE", "STATE", "FOR", "HOST NAME", "NETWORK")


def add_commands(commands: Commands) -> None:
    """Add `lease list` and `lease release`."""
    verbs = commands.add_parser("lease", help="look at leases, end them").add_subparsers(
        metavar="VERB", required=True
    )
    add_command(
        verbs, "list", run_list, help="list the leases", example="bootnode lease list", table=True
    )
    release = add_command(
        verbs,
        "release",
        run_release,
        help="end leases, so that others may get their addresses; or end their quarantine",
        example="bootnode lease release 10.77.0.131",
    )
    release.add_argument("address", metavar="ADDRESS", nargs="+", help="the address lent")


def run_list(arguments: argparse.Namespace) -> int:
    """Print a line a lease."""
    told = fetch_leases(read_config(arguments).socket)
    if arguments.json:
        print_json(told["leases"])
    else:
        print_table(COLUMNS, _rows(told))
    return 0


def run_release(arguments: argparse.Namespace) -> int:
    """End each lease named."""
    socket = read_config(arguments).socket
    for text in arguments.address:
        try:
            address = IPv4Address(text)
        except ValueError:
            raise BootnodeError(f"'{text}' is not an IPv4 address (want 10.77.0.131)") from None
        if not end_lease(socket, address):
            raise BootnodeError(
                f"{address} is lent to nobody: `bootnode lease list` shows what there is"
            )
        print(f"{address} released")
    return 0


def _rows(told: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for lease in told["leases"]:
        yield (
            lease["address"],
            lease["mac"],
            lease["node"] if lease["node"] != lease["mac"] else "-",
            lease["state"],
            _left(lease["expires_s"], told["now"]),
            _printable(lease["hostname"]) or "-",
            lease["network"],
        )


def _left(expires_s: float | None, now: float) -> str:
    if expires_s is None:
        return "ever"
    return ago(expires_s - now) if expires_s > now else "-"


def _printable(text: str) -> str:
    """A client's words made safe for a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)

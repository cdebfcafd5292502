"""`bootnode lease`, against the routes of the daemon on a socket of the test's own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bootnode.web.leases import lease_routes

Run = Callable[..., Any]
NOW = 1_700_000_000.0
LEASES = [
    {
        "address": "10.77.0.131",
        "mac": "fc:ab:14:e8:66:01",
        "node": "node-000",
        "network": "tap0",
        "state": "bound",
        "expires_s": NOW + 1800,
        "client_id": None,
        "hostname": "caf\x1b",
    },
    {
        "address": "10.77.0.132",
        "mac": "02:00:00:00:00:99",
        "node": "02:00:00:00:00:99",
        "network": "tap0",
        "state": "ended",
        "expires_s": NOW - 1,
        "client_id": "01",
        "hostname": "",
    },
    {
        "address": "10.77.0.133",
        "mac": "02:00:00:00:00:98",
        "node": "old",
        "network": "tap0",
        "state": "bound",
        "expires_s": None,
        "client_id": None,
        "hostname": "",
    },
]


async def serve(
    path: Path, released: list[str], ready: threading.Event, end: asyncio.Event
) -> None:
    async def release(address: IPv4Address) -> bool:
        released.append(str(address))
        return str(address) == "10.77.0.131"

    app = web.Application()
    app.add_routes(lease_routes(lambda: {"now": NOW, "leases": LEASES}, release))
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    ready.set()
    await end.wait()
    await runner.cleanup()


@pytest.fixture
def released(folder: Path) -> Iterator[list[str]]:
    """The addresses that the daemon was asked to release."""
    (folder / "state").mkdir(exist_ok=True)
    addresses: list[str] = []
    ready, loop, end = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    path = folder / "state" / "bootnoded.sock"
    thread = threading.Thread(
        target=loop.run_until_complete, args=(serve(path, addresses, ready, end),)
    )
    thread.start()
    assert ready.wait(10)
    yield addresses
    loop.call_soon_threadsafe(end.set)
    thread.join(10)
    loop.close()


def test_list_in_a_pipe(run: Run, released: list[str]) -> None:
    outcome = run("lease", "list")
    assert (outcome.status, outcome.err) == (0, "")
    assert [line.split() for line in outcome.out.splitlines()] == [
        ["ADDRESS", "MAC", "NODE", "STATE", "FOR", "HOST", "NAME", "NETWORK"],
        *(
            line.split()
            for line in (
                "10.77.0.131 fc:ab:14:e8:66:01 node-000 bound 30 min caf? tap0",
                "10.77.0.132 02:00:00:00:00:99 - ended - - tap0",
                "10.77.0.133 02:00:00:00:00:98 old bound ever - tap0",
            )
        ),
    ]


def test_list_for_programs(run: Run, released: list[str]) -> None:
    assert json.loads(run("lease", "list", "--json").out) == LEASES


def test_release(run: Run, released: list[str]) -> None:
    outcome = run("lease", "release", "10.77.0.131", "10.77.0.140")
    assert (outcome.status, outcome.out) == (1, "10.77.0.131 released\n")
    assert outcome.err == (
        "bootnode: 10.77.0.140 is lent to nobody: `bootnode lease list` shows what there is\n"
    )
    assert released == ["10.77.0.131", "10.77.0.140"]


def test_release_of_what_is_no_address(run: Run, released: list[str]) -> None:
    outcome = run("lease", "release", "node-000")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == "bootnode: 'node-000' is not an IPv4 address (want 10.77.0.131)\n"


def test_without_a_daemon(run: Run) -> None:
    for words in (("lease", "list"), ("lease", "release", "10.77.0.131")):
        outcome = run(*words)
        assert outcome.status == 1
        assert outcome.err.startswith("bootnode: no bootnoded answers on ")

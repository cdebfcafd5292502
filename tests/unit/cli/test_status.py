"""`bootnode status` and `watch`, against a daemon's socket that the test itself serves."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from bootnode.addresses import MacAddress
from bootnode.boot.journal import Journal, Stage
from bootnode.cli.status import _network_lines

Run = Callable[..., Any]
NOW = 1_700_000_000.0
MAC = MacAddress.parse("fc:ab:14:e8:66:01")
STRANGER = MacAddress.parse("02:00:00:00:00:99")


def test_status_in_a_pipe(run: Run, journal: Journal) -> None:
    journal.locate(MAC, IPv4Address("10.77.0.10"), now=NOW - 90)
    journal.reach(MAC, Stage.UP, now=NOW - 90, detail="in 7 s")
    journal.use_image(MAC, "failsafe/1")
    journal.reach(STRANGER, Stage.FAILED, now=NOW, detail="its MAC is not in the node table")
    outcome = run("status")
    assert (outcome.status, outcome.err) == (0, "")
    rows = [
        [cell.strip() for cell in line.split("  ") if cell] for line in outcome.out.splitlines()
    ]
    assert rows == [
        ["NODE", "MAC", "ADDRESS", "STAGE", "IMAGE", "LAST SEEN", "DETAIL"],
        ["node-000", str(MAC), "10.77.0.10", "up", "failsafe/1", "2 min", "in 7 s"],
        ["node-001", "fc:ab:14:e8:66:02", "-", "-", "-", "never"],
        ["node-002", "fc:ab:14:e8:66:04", "-", "-", "-", "never"],
        [
            str(STRANGER),
            str(STRANGER),
            "-",
            "failed",
            "-",
            "0 s",
            "its MAC is not in the node table",
        ],
    ]


def test_networks_that_are_worth_a_line() -> None:
    def network(dhcp: str, *, is_news: bool) -> dict[str, Any]:
        other = {"offer": "DHCP server 10.77.0.5 offered …", "heard_s_ago": 4.2, "is_news": is_news}
        told = {"network": "tap0", "dhcp": dhcp, "acts_as": "proxy", "why": "it is there"}
        return {**told, "other_servers": [other]}

    quiet, loud = network("proxy", is_news=False), network("auto", is_news=True)
    assert [*_network_lines({"networks": [quiet, loud]})] == [
        "tap0: dhcp auto, acts as proxy: it is there",
        "tap0: DHCP server 10.77.0.5 offered … (4 s ago)",
    ]


def test_status_for_programs(run: Run, journal: Journal) -> None:
    journal.count("dhcp.ack")
    status = json.loads(run("status", "--json").out)
    assert status["counters"] == {"dhcp.ack": 1}
    assert [node["name"] for node in status["nodes"]] == ["node-000", "node-001", "node-002"]


def test_without_a_daemon(run: Run, folder: Path) -> None:
    outcome = run("status")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.startswith(
        f"bootnode: no bootnoded answers on {folder}/state/bootnoded.sock ("
    )


def test_watch_in_a_pipe_prints_changes(
    run: Run, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens between two looks is played in place of the wait."""
    looks = 0

    def sleep(_seconds: float) -> None:
        nonlocal looks
        looks += 1
        match looks:
            case 1:
                journal.reach(MAC, Stage.KERNEL, now=NOW, detail="failsafe/1")
            case 2:
                pass
            case 3:
                journal.reach(MAC, Stage.UP, now=NOW)
            case _:
                raise KeyboardInterrupt

    monkeypatch.setattr("bootnode.cli.status.time.sleep", sleep)
    outcome = run("watch")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == "node-000 kernel failsafe/1\nnode-000 up\n"

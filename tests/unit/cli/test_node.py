"""`bootnode node`: the table as it is understood."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]


def test_list_in_a_pipe(run: Run) -> None:
    outcome = run("node", "list")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == (
        "NODE      MAC                                  ADDRESS     IMAGE        BOOT\n"
        "node-000  fc:ab:14:e8:66:01                    10.77.0.10  failsafe     network\n"
        "node-001  fc:ab:14:e8:66:02 fc:ab:14:e8:66:03  pool        compute      once\n"
        "node-002  fc:ab:14:e8:66:04                    pool        grubx64.efi  network\n"
    )


NODE_000 = {
    "name": "node-000",
    "mac": ["fc:ab:14:e8:66:01"],
    "ip": ["10.77.0.10"],
    "image": "failsafe",
    "kernel_args": ["console=ttyS0"],
    "boot": "network",
    "boot_file": None,
    "vars": {"rack": 7},
}


def test_list_for_programs(run: Run) -> None:
    nodes = json.loads(run("node", "list", "--json").out)
    assert nodes[0] == NODE_000
    assert [node["name"] for node in nodes] == ["node-000", "node-001", "node-002"]


@pytest.mark.parametrize("name", ["node-002", "NODE-002", "fc-ab-14-e8-66-04"])
def test_show(run: Run, name: str) -> None:
    outcome = run("node", "show", name)
    assert outcome.status == 0
    assert outcome.out == (
        "KEY          VALUE\n"
        "name         node-002\n"
        "mac          fc:ab:14:e8:66:04\n"
        "ip           -\n"
        "image        failsafe\n"
        "kernel_args  console=ttyS0 quiet\n"
        "boot         network\n"
        "boot_file    grubx64.efi\n"
        "vars         -\n"
    )


def test_show_for_programs(run: Run) -> None:
    assert json.loads(run("node", "show", "--json", "node-000").out) == NODE_000


def test_a_node_that_is_not_there(run: Run) -> None:
    outcome = run("node", "show", "node-999")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == (
        "bootnode: there is no node 'node-999': `bootnode node list` shows those there are\n"
    )

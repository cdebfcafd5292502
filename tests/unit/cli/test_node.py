"""`bootnode node`: the table as it is understood."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootnode.nodekeys import NodeKeys

Run = Callable[..., Any]
Publish = Callable[..., str]


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


TEMPLATES = {
    "etc/hostname.j2": "{{ node.name }}\n",
    "etc/key.j2": "{{ ssh_host_key() }}",
    "etc/machine-id.j2": "{{ machine_id() }}\n",
    "etc/server.j2": "{{ network.server }}\n",
}


def test_files_of_a_node(run: Run, publish: Publish) -> None:
    publish("failsafe", b"1", TEMPLATES)
    outcome = run("node", "files", "node-000")
    assert outcome.status == 0
    assert outcome.out == (
        "MODE        SIZE  PATH\n"
        "-rw-r--r--  9 B   /etc/hostname\n"
        "-rw-------  39 B  /etc/key\n"
        "-rw-r--r--  33 B  /etc/machine-id\n"
        "-rw-r--r--  10 B  /etc/server\n"
    )
    (first, second, *_) = json.loads(run("node", "files", "--json", "node-000").out)
    assert first == {
        "path": "/etc/hostname",
        "mode": "-rw-r--r--",
        "size_bytes": 9,
        "is_secret": False,
    }
    assert second["is_secret"]


def test_one_file_of_a_node(run: Run, publish: Publish, folder: Path) -> None:
    publish("failsafe", b"1", TEMPLATES)
    for path in ("/etc/hostname", "etc/hostname"):
        outcome = run("node", "files", "node-000", path)
        assert (outcome.status, outcome.out) == (0, "node-000\n")
    # What stands for what is not here is said to do so.
    assert outcome.err.splitlines() == [
        (
            "bootnode: machine ids and host keys are not the node's own: "
            f"{folder}/state/node-secret, which node keys are made from: No such file or directory"
        ),
        (
            "bootnode: this machine lacks an interface that bootnoded.yaml names: "
            "192.0.2.1/24 stands for it"
        ),
    ]
    (folder / "state/node-secret").write_text("0" * 64)
    keys = NodeKeys(folder / "state/node-secret", may_make=False)
    outcome = run("node", "files", "node-000", "/etc/machine-id")
    assert outcome.out == f"{keys.machine_id('node-000')}\n"
    assert run("node", "files", "node-000", "/etc/key").out == (
        "(the private ssh host key of node-000)\n"
    )


def test_a_file_that_a_node_has_not(run: Run, publish: Publish) -> None:
    publish("failsafe", b"1", TEMPLATES)
    outcome = run("node", "files", "node-000", "/etc/none")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.splitlines()[-1] == "bootnode: node-000 has no file /etc/none of its own"


def test_files_of_nodes_without_any(run: Run, publish: Publish) -> None:
    publish("failsafe", b"1")
    assert run("node", "files", "node-000").out == "MODE  SIZE  PATH\n"
    outcome = run("node", "files", "node-001")
    assert "image 'compute' is not built" in outcome.err


def test_files_that_cannot_be_made(run: Run, publish: Publish) -> None:
    publish("failsafe", b"1", {"a.j2": "{{ b }}", "c.j2": "{{ vars.d }}"})
    outcome = run("node", "files", "node-000")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.endswith(
        "bootnode: a.j2:1: 'b' is undefined; c.j2:1: there is no 'd' (there is: rack)\n"
    )

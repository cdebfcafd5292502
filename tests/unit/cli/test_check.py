"""`bootnode check`: what it finds, and how it says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]
Publish = Callable[..., str]

NOT_BUILT = "is not built: run `bootnode image build"


def test_all_is_well(run: Run, publish: Publish) -> None:
    publish("failsafe", b"1")
    publish("compute", b"2")
    outcome = run("check")
    assert (outcome.status, outcome.out) == (0, "ok: 3 nodes on 1 network(s)\n")
    assert outcome.err == ""
    assert json.loads(run("check", "--json").out) == []


def test_an_image_that_is_not_built(run: Run, publish: Publish, folder: Path) -> None:
    publish("failsafe", b"1")
    outcome = run("check")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == (
        f"{folder}/nodes.yaml:4:78: nodes.node-001.image: image 'compute' {NOT_BUILT} compute`\n"
    )


def test_problems_of_a_file_all_at_once(run: Run, folder: Path) -> None:
    (folder / "nodes.yaml").write_text("nodes: {a: {mac: aa:bb, ip: x}}\n")
    outcome = run("check")
    assert outcome.status == 1
    assert outcome.err.splitlines() == [
        (
            f"{folder}/nodes.yaml:1:18: nodes.a.mac: "
            "'aa:bb' is not a MAC address (want aa:bb:cc:dd:ee:ff)"
        ),
        f"{folder}/nodes.yaml:1:29: nodes.a.ip: 'x' is not an IPv4 address (want 10.77.0.1)",
    ]


def test_json_for_programs(run: Run, folder: Path) -> None:
    (folder / "bootnoded.yaml").write_text("networks: []\n")
    outcome = run("check", "--json")
    assert (outcome.status, outcome.err) == (1, "")
    assert json.loads(outcome.out) == [
        {
            "file": f"{folder}/bootnoded.yaml",
            "line": 1,
            "column": 11,
            "key": "networks",
            "text": "a list is too short (want 1 or more)",
        }
    ]


def test_state_dir_of_the_command_line(run: Run, publish: Publish, folder: Path) -> None:
    publish("failsafe", b"1")
    publish("compute", b"2")
    assert run("check", "--state-dir", str(folder / "elsewhere")).status == 1
    assert run("check", "--state-dir", str(folder / "state")).status == 0

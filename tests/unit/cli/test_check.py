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


TEMPLATES = {
    "etc/hostname.j2": "{{ node.name }} {{ network.server }} {{ machine_id() }}\n",
    "etc/rack.j2": "\n{{ vars.rack }}\n{{ ssh_host_key() }}{{ ssh_host_public_key() }}",
}


def test_templates_are_rendered_for_every_node(run: Run, publish: Publish, folder: Path) -> None:
    publish("compute", b"2", {"etc/fine.j2": "{{ node.name }}"})
    version = publish("failsafe", b"1", TEMPLATES)
    outcome = run("check")
    assert (outcome.status, outcome.out) == (1, "")
    rack = f"failsafe/{version}/etc/rack.j2:2: node-002: there is no 'rack' (there is: nothing)\n"
    assert outcome.err == rack
    # Neither a secret nor anything else is made by looking.
    assert {path.name for path in (folder / "state").iterdir()} == {"images"}
    nodes = folder / "nodes.yaml"
    nodes.write_text(nodes.read_text().replace("vars: {rack: 7}", "vars: {room: 7}"))
    assert run("check").err.splitlines() == [
        f"failsafe/{version}/etc/rack.j2:2: node-000: there is no 'rack' (there is: room)",
        rack.rstrip(),
    ]


def test_a_fault_of_many_nodes_is_said_once(run: Run, publish: Publish, folder: Path) -> None:
    version = publish("failsafe", b"1", TEMPLATES)
    (folder / "nodes.yaml").write_text(
        "defaults: {image: failsafe}\n"
        "nodes: {'n[000-499]': {mac: 02:00:00:00:01:00}}\nunknown: {image: failsafe}\n"
    )
    assert run("check").err == (
        f"failsafe/{version}/etc/rack.j2:2: n000 and 500 more: "
        "there is no 'rack' (there is: nothing)\n"
    )


def test_templates_that_cannot_be_read(run: Run, publish: Publish, folder: Path) -> None:
    publish("compute", b"2")
    version = publish("failsafe", b"1", TEMPLATES)
    file = folder / "state/images/failsafe" / version / "node-files.tar"
    file.chmod(0o644)
    file.write_bytes(b"damaged" * 1000)
    outcome = run("check")
    assert outcome.status == 1
    assert outcome.err.startswith(f"failsafe/{version}: {file} cannot be read: build the image")


def test_a_unified_kernel_image_needs_a_stub(run: Run, publish: Publish, folder: Path) -> None:
    publish("failsafe", b"1")
    publish("compute", b"2")
    nodes = (folder / "nodes.yaml").read_text()
    (folder / "nodes.yaml").write_text(nodes.replace("defaults: {", "defaults: {loader: ipxe, "))
    assert run("check").status == 0
    (folder / "nodes.yaml").write_text(nodes.replace("boot: once", "loader: uki"))
    outcome = run("check")
    assert outcome.status == 1
    assert outcome.err == (
        f"{folder}/nodes.yaml:4:79: nodes.node-001.image: image 'compute' has no UEFI stub for "
        "`loader: uki`, it is of an old build: run `bootnode image build compute`\n"
    )


def test_grub_is_to_be_there(run: Run, publish: Publish, folder: Path) -> None:
    publish("failsafe", b"1")
    publish("compute", b"2")
    nodes = (folder / "nodes.yaml").read_text()
    (folder / "nodes.yaml").write_text(nodes.replace("boot: once", "loader: grub"))
    with (folder / "bootnoded.yaml").open("a") as file:
        file.write("files: files\n")
    (folder / "files").mkdir()
    outcome = run("check")
    assert outcome.status == 1
    assert outcome.err == (
        f"{folder}/nodes.yaml:4:80: nodes.node-001.image: image 'compute' is to boot by "
        "`loader: grub`, and there is no grubnetx64.efi.signed or grubnetx64.efi: put one of "
        "Debian's package grub-efi-amd64-signed into the folder that `files` names "
        "(docs/booting.md says how)\n"
    )
    (folder / "files/grubnetx64.efi").touch()
    assert run("check").status == 0

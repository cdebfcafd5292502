"""The head node as in the classic picture: netbooted itself, it boots a diskless node behind it.

    this machine ── net0 ── head ── net1 ── leaf

Everything on the head node is as `make install` and systemd have it: nothing is set up by hand.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from bootnode.addresses import MacAddress
from bootnode.image.build import build_image
from bootnode.image.spec import load_recipe
from bootnode.image.store import ImageStore
from bootnode.lab import Lab, LabConfig, NodeVm, RunningVm

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.timeout(1500)]

OUTSIDE = IPv4Interface("172.31.6.1/24")
# Of this machine on the head node's network: the lab wants one, and nothing serves there.
BYSTANDER = IPv4Interface("10.77.0.250/24")
HEAD_MAC = MacAddress.parse("02:ab:cd:00:06:01")
CLUSTER_MAC = MacAddress.parse("02:ab:cd:00:06:02")
LEAF_MAC = MacAddress.parse("02:ab:cd:00:06:03")
BOOT_TIMEOUT_S = 240.0
COMMAND_TIMEOUT_S = 60.0
CAPABILITIES = 1 << 10 | 1 << 13
"""CAP_NET_BIND_SERVICE and CAP_NET_RAW."""

RECIPE = """
description: a head node with the failsafe image in it
base: headnode
overlay: overlay
"""
LEAVES = f"""
defaults: {{image: failsafe, kernel_args: [console=ttyS0]}}
nodes:
  leaf: {{mac: {LEAF_MAC}, ip: 10.77.0.10}}
"""
HEADS = f"""
nodes:
  head:
    mac: {HEAD_MAC}
    ip: 172.31.6.10
    image: head
    kernel_args: [console=ttyS0, "ifname=cluster:{CLUSTER_MAC}"]
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, built: Path) -> Path:
    """A state folder with the image of a head node, which has the failsafe image to serve."""
    folder = tmp_path_factory.mktemp("head")
    recipe = folder / "recipes" / "head"
    overlay = recipe / "overlay"
    images = overlay / "var" / "lib" / "bootnode" / "images"
    shutil.copytree(built / "images" / "failsafe", images / "failsafe", symlinks=True)
    (overlay / "etc" / "bootnode").mkdir(parents=True)
    (overlay / "etc" / "bootnode" / "nodes.yaml").write_text(LEAVES)
    (recipe / "image.yaml").write_text(RECIPE)
    state = folder / "state"
    build_image(load_recipe(recipe), ImageStore(state / "images"), cache=folder / "cache")
    return state


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The head node, and its lab."""

    lab: Lab
    machine: RunningVm

    def run(self, command: str) -> str:
        """What a command wrote that did what it was told."""
        done = self.machine.run(command, COMMAND_TIMEOUT_S)
        assert done.returncode == 0, f"{command}: status {done.returncode}\n{done.stdout}"
        return done.stdout

    def show(self, *properties: str) -> dict[str, str]:
        """What systemd knows of bootnoded."""
        lines = self.run(f"systemctl show bootnoded -p {','.join(properties)}").splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    @property
    def journal(self) -> str:
        """What bootnoded and systemd said about it."""
        return self.run("journalctl --no-pager -o cat -u bootnoded")


@pytest.fixture(scope="module")
def head(served: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head node that is up."""
    folder = tmp_path_factory.mktemp("site")
    config = folder / "site.yaml"
    config.write_text(
        f"state_dir: {served}\nnodes: machines.yaml\nnetworks: [{{interface: net0, dhcp: full}}]\n"
    )
    (folder / "machines.yaml").write_text(HEADS)
    taps = (("net0", OUTSIDE), ("net1", BYSTANDER))
    with Lab.up(LabConfig(folder=folder / "lab", taps=taps, accel="tcg")) as lab:
        lab.start_daemon([sys.executable, "-m", "bootnode.daemon", "-c", str(config)])
        card = f"virtio-net-pci,netdev=cluster,mac={CLUSTER_MAC},romfile="
        switch = lab.config.switch_socket("net1")
        machine = lab.boot(
            NodeVm(
                name="head",
                mac=HEAD_MAC,
                memory_mib=1536,
                arguments=("-netdev", f"vde,id=cluster,sock={switch}", "-device", card),
            )
        )
        found = machine.wait_console(r"bootnode: (up|failed) head .*", BOOT_TIMEOUT_S)
        machine.wait_console(r"root@head", BOOT_TIMEOUT_S)
        assert found[1] == "up", machine.console_text[-4000:]
        yield Head(lab=lab, machine=machine)


def test_systemd_starts_bootnoded_as_installed(head: Head) -> None:
    found = head.show("ActiveState", "UnitFileState", "NRestarts", "MainPID", "WatchdogUSec")
    process = f"/proc/{found.pop('MainPID')}"
    assert found == {
        "ActiveState": "active",
        "UnitFileState": "enabled",
        "NRestarts": "0",
        "WatchdogUSec": "30s",
    }
    assert "bootnoded: ready" in head.journal
    assert head.run(f"stat -c %U {process}") == "bootnode\n"
    lines = head.run(f"cat {process}/status").splitlines()
    facts = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == CAPABILITIES
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")


def test_each_card_has_its_address(head: Head) -> None:
    addresses = head.run("ip -4 -brief address")
    assert re.search(r"^eth0 +UP +172\.31\.6\.10/24", addresses, re.MULTILINE)
    assert re.search(r"^cluster +UP +10\.77\.0\.1/24", addresses, re.MULTILINE)


def test_systemctl_starts_reloads_and_stops_it(head: Head) -> None:
    head.run("systemctl stop bootnoded")
    assert head.show("ActiveState", "Result", "ExecMainStatus") == {
        "ActiveState": "inactive",
        "Result": "success",
        "ExecMainStatus": "0",
    }
    head.run("systemctl start bootnoded")
    before = head.show("ActiveState", "MainPID")
    assert before["ActiveState"] == "active"
    head.run("systemctl reload bootnoded")
    assert head.show("ActiveState", "MainPID") == before
    assert "reload: 1 nodes in the table" in head.journal
    head.run("systemctl restart bootnoded")
    assert head.show("MainPID")["MainPID"] != before["MainPID"]
    # At boot, by `start` and by `restart`.
    assert head.journal.count("bootnoded: ready") == 3


def test_a_diskless_node_boots_from_the_head_node(head: Head) -> None:
    leaf = head.lab.boot(NodeVm(name="leaf", mac=LEAF_MAC, firmware="uefi", tap="net1"))
    leaf.wait_console(r"bootnode: up leaf ", BOOT_TIMEOUT_S)
    assert "10.77.0.10" in leaf.console_text
    (known,) = json.loads(head.run("bootnode status --json"))["nodes"]
    assert (known["name"], known["stage"], known["address"]) == ("leaf", "up", "10.77.0.10")
    assert "loader" in known["stages"]  # by TFTP, from port 69
    assert head.run("systemctl is-system-running") == "running\n"
    head.run("bootnode check")


def test_systemd_hears_again_and_again_that_it_lives(head: Head) -> None:
    heard = "systemctl show bootnoded -P WatchdogTimestampMonotonic"
    head.run(f"first=$({heard}); until [ $({heard}) -gt $first ]; do sleep 1; done")
    assert head.show("NRestarts") == {"NRestarts": "0"}

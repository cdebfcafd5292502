"""The compute image as its recipe says it, on a node that has nothing but a network card."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from bootnode.addresses import MacAddress
from bootnode.control import fetch_status
from bootnode.image.store import ImageStore
from bootnode.lab import Lab, LabConfig, NodeVm, RunningVm

pytestmark = [
    pytest.mark.root,
    pytest.mark.lab,
    pytest.mark.timeout(1500),
]

SERVER = IPv4Interface("192.168.213.1/24")
MAC = MacAddress.parse("02:ab:cd:00:03:01")
MEMORY_MIB = 640
BOOT_TIMEOUT_S = 400.0
COMMAND_TIMEOUT_S = 60.0
NODES = f"""
defaults: {{image: compute, kernel_args: [console=ttyS0]}}
nodes:
  cedar:
    mac: {MAC}
    ip: 192.168.213.77
    vars: {{authorized_keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG9r someone]}}
  larch: {{mac: 02:ab:cd:00:03:02, ip: 192.168.213.78}}
"""


@pytest.fixture(scope="module")
def cedar(compute: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningVm]:
    """A node that bootnoded booted, up and with a shell on its console."""
    folder = tmp_path_factory.mktemp("compute")
    config = folder / "bootnoded.yaml"
    network = f"interface: net0, dhcp: full, router: {SERVER.ip}, dns: {SERVER.ip}"
    config.write_text(f"state_dir: {compute}\nnetworks: [{{{network}}}]\n")
    (folder / "nodes.yaml").write_text(NODES)
    lab_config = LabConfig(folder=folder / "lab", taps=(("net0", SERVER),), accel="tcg")
    with Lab.up(lab_config) as lab:
        lab.start_daemon([sys.executable, "-m", "bootnode.daemon", "-c", str(config)])
        node = lab.boot(NodeVm(name="cedar", mac=MAC, memory_mib=MEMORY_MIB))
        found = node.wait_console(r"bootnode: (up|failed) cedar .*", BOOT_TIMEOUT_S)
        assert found[1] == "up", node.console_text[-4000:]
        node.wait_console(r"root@cedar", BOOT_TIMEOUT_S)
        yield node


def said(node: RunningVm, command: str) -> str:
    """What a command says on the node."""
    done = node.run(command, COMMAND_TIMEOUT_S)
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


def test_systemd_runs_out_of_ram(cedar: RunningVm) -> None:
    assert said(cedar, "systemctl is-system-running") == "running"
    assert said(cedar, "findmnt -no SOURCE,FSTYPE /").split() == ["squashfs", "overlay"]
    assert said(cedar, "lsblk --noheadings --output TYPE | grep -vc loop; true") == "0"
    assert said(cedar, "touch /written && cat /written") == ""


def test_the_root_leaves_most_of_a_small_node_free(cedar: RunningVm, compute: Path) -> None:
    root = ImageStore(compute / "images").current("compute").manifest.root
    assert root is not None
    available = int(said(cedar, "free -m | awk '/^Mem:/ { print $7 }'"))
    assert available > MEMORY_MIB - (root.ram_bytes >> 20) - 256


def test_the_kernel_has_its_modules(cedar: RunningVm) -> None:
    assert said(cedar, "modprobe dummy && lsmod | grep -c ^dummy") == "1"


def test_the_node_is_itself(cedar: RunningVm) -> None:
    assert said(cedar, "hostname") == "cedar"
    assert said(cedar, "getent hosts larch").split() == ["192.168.213.78", "larch"]
    assert len(said(cedar, "cat /etc/machine-id")) == 32
    assert said(cedar, "cat /root/.ssh/authorized_keys").endswith(" someone")
    addresses = said(
        cedar, f"ip -4 -brief address | grep -c '192.168.213.77/{SERVER.network.prefixlen}'"
    )
    assert addresses == "1"
    assert said(cedar, "resolvectl dns | grep -c 192.168.213.1") == "1"


def test_every_stage_was_reported(cedar: RunningVm, compute: Path) -> None:
    deadline = time.monotonic() + COMMAND_TIMEOUT_S
    while True:
        nodes = fetch_status(compute / "bootnoded.sock")["nodes"]
        status = next(node for node in nodes if node["name"] == "cedar")
        if status["stage"] == "up" or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    stages = "discover offer request ack script kernel initrd init root switch up"
    assert [*sorted(status["stages"], key=status["stages"].get)] == stages.split()
    assert status["image"].startswith("compute/")

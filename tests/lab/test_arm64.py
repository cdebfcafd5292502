"""An arm64 machine boots from the real daemon to the failsafe shell, with and without GRUB.

The image and GRUB come from Debian's archive for arm64; this machine needs none of them installed.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Collection, Iterator
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from bootnode.addresses import MacAddress
from bootnode.control import fetch_status
from bootnode.lab import Firmware, Lab, LabConfig, NodeVm

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.timeout(400)]

SERVER = IPv4Interface("172.31.7.1/24")
MAC = MacAddress.parse("02:ab:cd:00:00:17")
BOOT_TIMEOUT_S = 180.0
UNIFIED_STAGES = "discover offer request ack loader kernel initrd init up"
GRUB_STAGES = UNIFIED_STAGES.replace("kernel", "script kernel")
# The double quotes are GRUB's own way of the same.
ARGUMENTS = {"uki": 'x="a $b;c"', "grub": '"x=a $b;c"'}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    config = LabConfig(folder=tmp_path / "lab", taps=(("net0", SERVER),))
    with Lab.up(config) as lab:
        yield lab


def wait_up(socket: Path, stages: Collection[str]) -> dict[str, Any]:
    """What the daemon knows of the node once it is up and all these stages are noted."""
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while True:
        status: dict[str, Any] = fetch_status(socket)["nodes"][0]
        if status["stage"] == "up" and status["stages"].keys() == set(stages):
            return status
        assert time.monotonic() < deadline, status
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("firmware", "loader", "stages"),
    [
        ("uefi-arm64", "uki", UNIFIED_STAGES),
        ("uefi-arm64-http", "uki", UNIFIED_STAGES),
        ("uefi-arm64", "grub", GRUB_STAGES),
    ],
)
def test_an_arm64_machine_boots(
    lab: Lab,
    tmp_path: Path,
    built_arm64: Path,
    grub: Path,
    firmware: Firmware,
    loader: str,
    stages: str,
) -> None:
    state, config = tmp_path / "state", tmp_path / "site.yaml"
    shutil.copytree(built_arm64 / "images", state / "images", symlinks=True)
    config.write_text(
        f"state_dir: {state}\nnodes: machines.yaml\nfiles: {grub}\nhttp: {{port: 8123}}\n"
        "networks: [{interface: net0, dhcp: full}]\n"
    )
    (tmp_path / "machines.yaml").write_text(
        f"defaults: {{image: failsafe-arm64, loader: {loader}, boot: once}}\n"
        f"nodes: {{alder: {{mac: {MAC}, ip: 172.31.7.61,"
        """ kernel_args: [console=ttyAMA0, 'x="a $b;c"']}}\n"""
    )
    daemon = lab.start_daemon([sys.executable, "-m", "bootnode.daemon", "-c", str(config)])
    machine = lab.boot(NodeVm(name="alder", mac=MAC, firmware=firmware))
    machine.wait_console("bootnode: up alder ", BOOT_TIMEOUT_S)
    status = wait_up(state / "bootnoded.sock", stages.split())
    reached = sorted(status["stages"], key=lambda stage: status["stages"][stage])
    # Firmware that starts what it has loaded may drop its last ACK, and then TFTP says seconds
    # later that the file was sent.
    by_tftp = {"loader", "kernel", "initrd"}
    assert [each for each in reached if each not in by_tftp] == [
        each for each in stages.split() if each not in by_tftp
    ]
    assert (status["address"], status["image"].partition("/")[0]) == (
        "172.31.7.61",
        "failsafe-arm64",
    )
    machine.wait_console("root@alder", BOOT_TIMEOUT_S)
    command_line = machine.run("cat /proc/cmdline; uname -m", BOOT_TIMEOUT_S).stdout
    assert ARGUMENTS[loader] in command_line
    assert command_line.split()[-1] == "aarch64"
    assert "node=alder has had its `boot: once`" in daemon.log_text

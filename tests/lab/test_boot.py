"""Real firmware boots from the real daemon to the failsafe shell, and every stage is reported.

Nothing here has the addresses, names or folders of the examples in config/.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from bootnode.addresses import MacAddress
from bootnode.control import fetch_status
from bootnode.image import cpio, nodefiles
from bootnode.image.store import Contents, ImageStore, Provenance
from bootnode.lab import Firmware, Lab, LabConfig, LabProcess, NodeVm, RunningVm

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.timeout(300)]

SERVER = IPv4Interface("172.31.5.1/25")
BOOT_TIMEOUT_S = 150.0
MACS = {
    "alder": MacAddress.parse("02:ab:cd:00:00:11"),
    "birch": MacAddress.parse("02:ab:cd:00:00:12"),
}
NODES = """
defaults: {{image: failsafe, kernel_args: [console=ttyS0]}}
nodes:
  alder: {{mac: 02:ab:cd:00:00:11, ip: 172.31.5.61, {extra}}}
  birch: {{mac: 02:ab:cd:00:00:12, {extra}}}
"""


class Site:
    """A lab with a daemon of its own configuration."""

    def __init__(self, lab: Lab, folder: Path, built: Path) -> None:
        self.lab = lab
        self.state = folder / "state"
        self.state.mkdir()
        shutil.copytree(built / "images", self.state / "images", symlinks=True)
        self.config = folder / "site.yaml"
        self.nodes = folder / "machines.yaml"

    def serve(self, network: str, *, extra: str = "boot: network") -> LabProcess:
        """Start bootnoded."""
        self.config.write_text(
            f"state_dir: {self.state}\n"
            f"nodes: {self.nodes.name}\n"
            f"http: {{port: 8123}}\n"
            f"networks: [{{interface: net0, {network}}}]\n"
        )
        self.nodes.write_text(NODES.format(extra=extra))
        command = [sys.executable, "-m", "bootnode.daemon", "-c", str(self.config)]
        return self.lab.start_daemon(command)

    def boot(self, name: str, firmware: Firmware) -> RunningVm:
        """Switch a node on."""
        return self.lab.boot(NodeVm(name=name, mac=MACS[name], firmware=firmware))

    def status(self, name: str) -> dict[str, Any]:
        """What the daemon knows of a node."""
        nodes = fetch_status(self.state / "bootnoded.sock")["nodes"]
        found: dict[str, Any] = next(node for node in nodes if node["name"] == name)
        return found

    def wait_stage(self, name: str, stage: str) -> dict[str, Any]:
        """The status of a node once it has reached a stage."""
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while (status := self.status(name))["stage"] != stage:
            assert time.monotonic() < deadline, f"{name} is still at {status}"
            time.sleep(0.2)
        return status


@pytest.fixture
def site(tmp_path: Path, built: Path) -> Iterator[Site]:
    config = LabConfig(folder=tmp_path / "lab", taps=(("net0", SERVER),), accel="tcg")
    with Lab.up(config) as lab:
        yield Site(lab, tmp_path, built)


BIOS_STAGES = "discover offer request ack script kernel initrd init up"
UEFI_STAGES = "discover offer request ack loader script kernel initrd init up"
UNIFIED_STAGES = UEFI_STAGES.replace("script ", "")
# The other server's ACK is its own; so is its offer, but ours is a ProxyDHCP one.
BIOS_PROXY_STAGES = BIOS_STAGES.replace("ack ", "")
UEFI_PROXY_STAGES = UEFI_STAGES.replace("ack ", "")


def assert_is_up(site: Site, machine: RunningVm, stages: str) -> dict[str, Any]:
    """The node says on its console, and the daemon knows, that it came all the way."""
    machine.wait_console(rf"bootnode: up {machine.name} ", BOOT_TIMEOUT_S)
    status = site.wait_stage(machine.name, "up")
    in_order = sorted(status["stages"], key=lambda stage: status["stages"][stage])
    assert in_order == stages.split()
    assert f"bootnode: init {machine.name} " in machine.console_text
    machine.wait_console(rf"root@{machine.name}", BOOT_TIMEOUT_S)
    assert status["image"].startswith("failsafe/")
    assert status["address"] in machine.console_text
    assert "Invalid ELF header" not in machine.console_text  # nothing that looks like a fault
    return status


@pytest.mark.parametrize(
    ("name", "firmware", "stages"),
    [
        ("alder", "bios", BIOS_STAGES),
        ("birch", "uefi", UEFI_STAGES),
        ("alder", "uefi-http", UEFI_STAGES),
    ],
)
def test_a_node_boots_in_full_mode(site: Site, name: str, firmware: Firmware, stages: str) -> None:
    site.serve("dhcp: full, pool: 172.31.5.90-172.31.5.95")
    status = assert_is_up(site, site.boot(name, firmware), stages)
    if name == "alder":
        assert status["address"] == "172.31.5.61"
    else:
        assert status["address"] in [f"172.31.5.{last}" for last in range(90, 96)]


@pytest.mark.parametrize(
    ("name", "firmware", "stages"),
    [("alder", "bios", BIOS_PROXY_STAGES), ("birch", "uefi", UEFI_PROXY_STAGES)],
)
def test_a_node_boots_in_proxy_mode_beside_dnsmasq(
    site: Site, tmp_path: Path, name: str, firmware: Firmware, stages: str
) -> None:
    other = site.lab.add_host("dhcp", address=IPv4Interface("172.31.5.2/25"))
    dnsmasq = other.spawn(
        [
            *("dnsmasq", "--keep-in-foreground", "--user=root", "--log-facility=-", "--port=0"),
            *("--no-ping", "--conf-file=/dev/null", f"--dhcp-leasefile={tmp_path / 'leases'}"),
            *("--interface=eth0", "--dhcp-range=172.31.5.100,172.31.5.109"),
        ],
        name="dnsmasq",
    )
    dnsmasq.wait_log("IP range", timeout_s=20)
    site.serve("dhcp: proxy")
    status = assert_is_up(site, site.boot(name, firmware), stages)
    assert status["address"] in [f"172.31.5.{last}" for last in range(100, 110)]
    assert f"DHCPACK(eth0) {status['address']} {MACS[name]}" in dnsmasq.log_text


PROFILE = """\
PS1='root@\\h:\\w# '
echo "NODE: {{ node.name }} in {{ vars.room }} asks {{ network.server }}"
"""


# One file holds all, and its last byte says that kernel and ramdisk are there.
UNIFIED_STAGES = UEFI_STAGES.replace("script ", "")


@pytest.mark.parametrize(
    ("name", "firmware", "loader", "stages"),
    [
        ("alder", "bios", "ipxe", BIOS_STAGES),
        ("birch", "uefi", "ipxe", UEFI_STAGES),
        # No ramdisk can be added for the node: init fetches its files.
        ("alder", "uefi-http", "uki", UNIFIED_STAGES),
    ],
)
def test_a_node_gets_files_of_its_own(
    site: Site, name: str, firmware: Firmware, loader: str, stages: str
) -> None:
    with_node_files(ImageStore(site.state / "images"), {"etc/profile.j2": PROFILE})
    network = "dhcp: full, pool: 172.31.5.90-172.31.5.95"
    site.serve(network, extra=f"loader: {loader}, vars: {{room: the-{name}-room}}")
    machine = site.boot(name, firmware)
    assert_is_up(site, machine, stages)
    machine.wait_console(f"NODE: {name} in the-{name}-room asks 172.31.5.1", BOOT_TIMEOUT_S)


@pytest.mark.parametrize(
    ("firmware", "stages"),
    [
        ("uefi", UNIFIED_STAGES),
        ("uefi-http", UNIFIED_STAGES),
        # A BIOS machine of the same table is helped by iPXE.
        ("bios", BIOS_STAGES),
    ],
)
def test_a_node_boots_without_a_boot_loader(site: Site, firmware: Firmware, stages: str) -> None:
    daemon = site.serve("dhcp: full", extra="loader: uki, boot: once")
    machine = site.boot("alder", firmware)
    assert_is_up(site, machine, stages)
    assert ("iPXE" in machine.console_text) == (firmware == "bios")
    assert "node=alder has had its `boot: once`" in daemon.log_text


def test_a_unified_kernel_image_brings_files_of_the_nodes_own(site: Site) -> None:
    with_node_files(ImageStore(site.state / "images"), {"etc/profile.j2": PROFILE})
    site.serve("dhcp: full", extra="loader: uki, vars: {room: attic}")
    machine = site.boot("alder", "uefi-http")
    assert_is_up(site, machine, UNIFIED_STAGES)
    machine.wait_console("NODE: alder in attic asks 172.31.5.1", BOOT_TIMEOUT_S)


def test_ipxe_holds_what_no_unified_kernel_image_can_boot_yet(site: Site) -> None:
    hidden = site.state / "elsewhere"
    (site.state / "images" / "failsafe").rename(hidden)
    site.serve("dhcp: full", extra="loader: uki")
    machine = site.boot("alder", "uefi")
    machine.wait_console("alder waits: image 'failsafe' is not built", BOOT_TIMEOUT_S)
    hidden.rename(site.state / "images" / "failsafe")
    machine.wait_console("bootnode: init alder ", BOOT_TIMEOUT_S)


def with_node_files(store: ImageStore, files: Mapping[str, str]) -> None:
    """Publish the failsafe image again, with templates."""
    image = store.current("failsafe")
    entries = [cpio.file(path, text.encode()) for path, text in files.items()]
    with store.staging("failsafe") as staging:
        staged = staging / "version"
        staged.mkdir()
        for entry in image.manifest.files:
            (staged / entry.name).hardlink_to(image.folder / entry.name)
        nodefiles.write(entries, staged / nodefiles.FILE)
        contents = image.manifest.model_dump(include=set(Contents.model_fields))
        contents["node_files"] = nodefiles.FILE
        provenance = Provenance(recipe_sha256="", packages={})
        store.publish("failsafe", staged, Contents(**contents), provenance)


def test_boot_once_boots_once_and_then_from_the_disk(site: Site) -> None:
    site.serve("dhcp: full", extra="boot: once")
    machine = site.boot("alder", "bios")
    machine.wait_console("bootnode: init alder ", BOOT_TIMEOUT_S)
    machine.reset()
    machine.wait_console("alder boots from its local disk", BOOT_TIMEOUT_S)


def test_a_node_whose_image_is_missing_says_so_and_goes_on_once_it_is_there(site: Site) -> None:
    hidden = site.state / "elsewhere"
    (site.state / "images" / "failsafe").rename(hidden)
    site.serve("dhcp: full")
    machine = site.boot("alder", "bios")
    machine.wait_console("alder waits: image 'failsafe' is not built", BOOT_TIMEOUT_S)
    assert site.wait_stage("alder", "failed")["detail"].startswith("image 'failsafe' is not built")
    hidden.rename(site.state / "images" / "failsafe")
    machine.wait_console("bootnode: init alder ", BOOT_TIMEOUT_S)


def test_a_node_gets_over_a_server_that_dies_in_the_middle(site: Site) -> None:
    daemon = site.serve("dhcp: full")
    machine = site.boot("alder", "bios")
    site.wait_stage("alder", "script")
    daemon.send_signal(signal.SIGKILL)
    machine.wait_console("fetch failed, trying again", BOOT_TIMEOUT_S)
    site.serve("dhcp: full")
    machine.wait_console("bootnode: init alder ", BOOT_TIMEOUT_S)

"""Every kind of firmware in every mode of DHCP, to its kernel, with one address all the way.

One daemon serves four networks, a mode each. A kind of node is a line of KINDS; its nodes of two
modes boot at once, which hides the seconds that UEFI spends waiting.

    full0      we give the addresses
    direct0    dnsmasq on another machine does, and our offer names the boot file
    port4011   dnsmasq on this machine does, and firmware asks port 4011 for the boot file
    far0       behind a router that relays DHCP; this machine has no address of that network
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from bootnode.addresses import MacAddress
from bootnode.control import fetch_status
from bootnode.lab import Firmware, Host, Lab, LabConfig, NodeVm, RunningVm

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.timeout(400)]

BOOT_TIMEOUT_S = 180.0
START_TIMEOUT_S = 20.0
IPXE_ROM = Path("/usr/lib/ipxe/ipxe.lkrn")
# What many a ROM or USB stick has in it: it knows no server, and loads the site's own iPXE.
EMBEDDED = "#!ipxe\ndhcp\nchain tftp://${next-server}/undionly.kpxe\n"
POOR_IPXE = "ipxe-poor.efi"
# Feature tags as iPXE has them in option 175: code, length, version. 19 is HTTP, 22 FTP.
_FEATURES = re.compile(rb"(?:[\x10-\x2b]\x01[\x00-\x0f]){4,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One network."""

    name: str
    tap: str
    subnet: IPv4Network
    is_proxy: bool = False


FULL = Mode(name="full", tap="full0", subnet=IPv4Network("172.31.5.0/24"))
DIRECT = Mode(name="direct", tap="direct0", subnet=IPv4Network("172.31.6.0/24"), is_proxy=True)
PORT4011 = Mode(name="port4011", tap="port4011", subnet=IPv4Network("172.31.7.0/24"), is_proxy=True)
RELAYED = Mode(name="relayed", tap="far0", subnet=IPv4Network("172.31.8.0/24"))
MODES = (FULL, DIRECT, PORT4011, RELAYED)
PAIRS = ((FULL, PORT4011), (DIRECT, RELAYED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of firmware and what it is told to boot by."""

    name: str
    firmware: Firmware
    voices: tuple[str, ...]
    """Who asks DHCP until the kernel is there, in order."""
    path: str
    """The stages behind the first ACK."""
    keys: str = "loader: ipxe"
    """What nodes.yaml says of it."""
    image: str = "failsafe"
    asks_port_4011: bool = False
    """HTTP Boot has no such step, and iPXE takes what the first offer says."""
    arguments: tuple[str, ...] = ()
    modes: tuple[Mode, ...] = MODES

    def stages(self, mode: Mode) -> str:
        """The journal's stages; beside another DHCP server we acknowledge only on port 4011."""
        has_ack = not mode.is_proxy or (mode is PORT4011 and self.asks_port_4011)
        return f"discover offer request {'ack ' if has_ack else ''}{self.path}"


IPXE, UNIFIED = "loader script kernel", "loader kernel initrd"
KINDS = (
    Kind(
        name="bios",
        firmware="bios",
        voices=("ipxe", "os"),
        path="script kernel initrd init up",
    ),
    Kind(
        name="undionly",
        firmware="bios",
        voices=("ipxe", "ipxe"),
        path=IPXE,
        arguments=("-kernel", str(IPXE_ROM), "-initrd", "{folder}/embedded.ipxe"),
    ),
    Kind(name="uefi", firmware="uefi", voices=("firmware", "ipxe"), path=IPXE, asks_port_4011=True),
    Kind(
        name="uefi-chained",
        firmware="uefi",
        voices=("firmware", "ipxe", "ipxe"),
        path=IPXE,
        keys=f"boot_file: {POOR_IPXE}",
        asks_port_4011=True,
    ),
    Kind(
        name="uefi-uki",
        firmware="uefi",
        voices=("firmware",),
        path=UNIFIED,
        keys="loader: uki",
        asks_port_4011=True,
    ),
    Kind(name="http", firmware="uefi-http", voices=("http boot", "ipxe"), path=IPXE),
    Kind(
        name="http-uki",
        firmware="uefi-http",
        voices=("http boot",),
        path=UNIFIED,
        keys="loader: uki",
    ),
    Kind(
        name="arm64-uki",
        firmware="uefi-arm64",
        voices=("firmware",),
        path=UNIFIED,
        keys="loader: uki",
        image="failsafe-arm64",
        asks_port_4011=True,
    ),
    Kind(
        name="arm64-grub",
        firmware="uefi-arm64",
        voices=("firmware",),
        path=IPXE,
        keys="loader: grub",
        image="failsafe-arm64",
        asks_port_4011=True,
        # It asks the server that gave the address for grub.cfg; see docs/firmware.md.
        modes=(FULL, PORT4011, RELAYED),
    ),
)


def mac_of(kind: Kind, mode: Mode) -> MacAddress:
    number = MODES.index(mode) << 8 | KINDS.index(kind)
    return MacAddress.parse(f"02:ab:cd:07:{number >> 8:02x}:{number & 0xFF:02x}")


def name_of(kind: Kind, mode: Mode) -> str:
    return f"{kind.name}-{mode.name}"


def nodes() -> str:
    """The node table: every kind in every mode."""
    lines = ["defaults: {kernel_args: [console=ttyS0]}", "nodes:"]
    lines += [
        f"  {name_of(kind, mode)}: {{mac: {mac_of(kind, mode)}, image: {kind.image}, {kind.keys}}}"
        for kind in KINDS
        for mode in MODES
    ]
    return "\n".join(lines) + "\n"


def poor_ipxe() -> bytes:
    """Our iPXE, but saying of itself that it has no HTTP, as that of some ROMs has not."""
    ours = Path("/usr/lib/ipxe/snponly.efi").read_bytes()
    (found,) = [match for match in _FEATURES.finditer(ours) if b"\x13\x01\x01" in match[0]]
    poor = found[0].replace(b"\x13\x01\x01", b"\x16\x01\x01")
    return ours[: found.start()] + poor + ours[found.end() :]


def dnsmasq(folder: Path, mode: Mode, interface: str) -> list[str]:
    """A DHCP server that knows nothing of booting."""
    return [
        *("dnsmasq", "--keep-in-foreground", "--user=root", "--log-facility=-", "--port=0"),
        *("--no-ping", "--conf-file=/dev/null", "--bind-interfaces", "--pid-file="),
        f"--dhcp-leasefile={folder / mode.name}.leases",
        f"--interface={interface}",
        f"--dhcp-range={mode.subnet[100]},{mode.subnet[150]}",
    ]


class Site:
    """The lab with its four networks, and who serves them."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        other = lab.add_host("dhcp", tap=DIRECT.tap, address=IPv4Interface("172.31.6.2/24"))
        self.others = {
            DIRECT: other.spawn(dnsmasq(folder, DIRECT, "eth0"), name="dhcp-elsewhere"),
            PORT4011: lab.spawn(dnsmasq(folder, PORT4011, PORT4011.tap), name="dhcp-here"),
        }
        for server in self.others.values():
            server.wait_log("sockets bound", timeout_s=START_TIMEOUT_S)
        self._add_relay(
            lab.add_host("router", tap=FULL.tap, address=IPv4Interface("172.31.5.2/24"))
        )
        command = [sys.executable, "-m", "bootnode.daemon", "-c", str(folder / "site.yaml")]
        self.daemon = lab.start_daemon(command)

    def _add_relay(self, router: Host) -> None:
        self._run(None, "ip", "route", "add", str(RELAYED.subnet), "via", "172.31.5.2")
        switch = self.lab.config.switch_socket(RELAYED.tap)
        router.spawn(["vde_plug2tap", "-s", switch, "eth1"], name="router-far")
        self._run(router, "sh", "-c", "until ip link show eth1; do sleep 0.1; done")
        for address in ("172.31.8.1/24", "fd00:8::1/64"):
            self._run(router, "ip", "addr", "add", address, "dev", "eth1")
        self._run(router, "ip", "link", "set", "eth1", "up")
        self._run(router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        # It advertises itself, as a site's router does: without that iPXE waits for 16 s.
        relay = router.spawn(
            [
                *("dnsmasq", "--keep-in-foreground", "--port=0", "--conf-file=/dev/null"),
                *("--user=root", "--log-facility=-", "--pid-file=", "--interface=eth1"),
                f"--dhcp-relay=172.31.8.1,{FULL.subnet[1]}",
                *("--enable-ra", "--dhcp-range=fd00:8::,ra-stateless"),
            ],
            name="relay",
        )
        relay.wait_log("DHCP relay from", timeout_s=START_TIMEOUT_S)

    def _run(self, host: Host | None, *command: str) -> None:
        done = (host or self.lab).run(command, START_TIMEOUT_S)
        assert done.returncode == 0, done.stderr

    def boot(self, kind: Kind, mode: Mode) -> RunningVm:
        """Switch the node of this kind and mode on."""
        return self.lab.boot(
            NodeVm(
                name=name_of(kind, mode),
                mac=mac_of(kind, mode),
                firmware=kind.firmware,
                tap=mode.tap,
                arguments=tuple(word.format(folder=self.folder) for word in kind.arguments),
            )
        )

    def wait_stage(self, machine: RunningVm, stage: str) -> dict[str, Any]:
        """What the daemon knows of a node once it has reached a stage."""
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while True:
            known = fetch_status(self.folder / "state" / "bootnoded.sock")["nodes"]
            status: dict[str, Any] = next(n for n in known if n["name"] == machine.name)
            if stage in status["stages"]:
                return status
            assert time.monotonic() < deadline, f"{status}\n{machine.console_text[-3000:]}"
            time.sleep(0.1)

    def voices(self, mac: MacAddress, mode: Mode) -> list[str]:
        """Who of this node asked for an address, in order; port 4011 gives none."""
        answer = "ignored: " if mode.is_proxy else "ack address"
        return re.findall(rf"mac={mac} request by=(.+?) {answer}", self.daemon.log_text)

    def addresses(self, mac: MacAddress, mode: Mode) -> list[str]:
        """The address of each ACK that the node got, whoever gave it."""
        if mode.is_proxy:
            return re.findall(rf"DHCPACK\(\w+\) (\S+) {mac}", self.others[mode].log_text)
        return re.findall(rf"mac={mac} request .* ack address=(\S+)", self.daemon.log_text)


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, built: Path, built_arm64: Path, grub: Path
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("modes")
    for state in (built, built_arm64):
        shutil.copytree(
            state / "images", folder / "state" / "images", symlinks=True, dirs_exist_ok=True
        )
    shutil.copytree(grub, folder / "files")
    (folder / "files" / POOR_IPXE).write_bytes(poor_ipxe())
    (folder / "embedded.ipxe").write_text(EMBEDDED)
    (folder / "nodes.yaml").write_text(nodes())
    (folder / "site.yaml").write_text(
        "state_dir: state\nnodes: nodes.yaml\nfiles: files\nnetworks:\n"
        f"  - {{interface: {FULL.tap}, dhcp: full, pool: 172.31.5.100-172.31.5.150}}\n"
        f"  - {{interface: {DIRECT.tap}, dhcp: proxy}}\n"
        f"  - {{interface: {PORT4011.tap}, dhcp: proxy, proxy_style: port4011}}\n"
        f"  - {{subnet: {RELAYED.subnet}, dhcp: full, pool: 172.31.8.100-172.31.8.150,"
        " router: 172.31.8.1}\n"
    )
    served = [
        (mode.tap, IPv4Interface(f"{mode.subnet[1]}/24")) for mode in (FULL, DIRECT, PORT4011)
    ]
    # The lab wants an address on every switch; nobody uses this one.
    taps = (*served, (RELAYED.tap, IPv4Interface("192.0.2.1/32")))
    with Lab.up(LabConfig(folder=folder / "lab", taps=taps, accel="tcg")) as lab:
        yield Site(lab, folder)


@pytest.mark.parametrize("modes", PAIRS, ids=lambda pair: "+".join(mode.name for mode in pair))
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_node_gets_its_kernel(site: Site, kind: Kind, modes: Sequence[Mode]) -> None:
    modes = [mode for mode in modes if mode in kind.modes]
    machines = [site.boot(kind, mode) for mode in modes]
    goal = kind.path.split()[-1]
    for mode, machine in zip(modes, machines, strict=True):
        status = site.wait_stage(machine, goal)
        machine.power_off()
        check(site, kind, mode, status)


def check(site: Site, kind: Kind, mode: Mode, status: dict[str, Any]) -> None:
    """The stages, who asked, and that each of them was given the same address."""
    mac = mac_of(kind, mode)
    reached = sorted(status["stages"], key=lambda stage: status["stages"][stage])
    expected = kind.stages(mode).split()
    # Who starts what it has loaded may drop its last ACK, and then TFTP says seconds later that the
    # file was sent: that a loader came is told by those who ask after it.
    reached, expected = ([s for s in each if s != "loader"] for each in (reached, expected))
    assert reached[: len(expected)] == expected
    # Who is kept waiting asks again, with the same voice.
    asking = [voice for voice, _ in groupby(site.voices(mac, mode))]
    assert asking == [voice for voice, _ in groupby(kind.voices)]
    # The log is whole only once all is said: dnsmasq writes what it did.
    addresses = site.addresses(mac, mode)
    assert len(addresses) >= len(kind.voices)
    assert set(addresses) == {status["address"]}
    assert IPv4Address(status["address"]) in mode.subnet
    asked = re.findall(
        rf"mac={mac} request by=(.+?) ack address=\S+ boot_file=\S+", site.daemon.log_text
    )
    if mode is PORT4011:
        assert set(asked) == ({"firmware"} if kind.asks_port_4011 else set())
    assert (mode is DIRECT) <= (not asked)

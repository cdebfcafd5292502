"""A lab with the real daemon in it and other machines on its switch.

`bench` gives every test namespaces of its own, with addresses that are not the examples'.
Skipped, with the reason, without root or without what the lab needs.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import bind_layers
from scapy.utils import wrpcap

from bootnode.control import fetch_status
from bootnode.image import cpio, nodefiles
from bootnode.image.store import Contents, ImageStore, ImageVersion, Provenance
from bootnode.lab import Host, Lab, LabConfig, LabProcess

CAPTURES = Path(__file__).parents[1] / "captures"
INTERFACE = "srv0"
SERVER = IPv4Interface("192.168.44.1/25")
SECOND_INTERFACE = "srv1"
SECOND_SERVER = IPv4Interface("172.29.3.1/26")
POOL = "192.168.44.20-192.168.44.119"
COMMAND_TIMEOUT_S = 20.0
REPLY_TIMEOUT_S = 5.0
KERNEL, INITRD = bytes(range(256)) * 4000, b"initrd" * 50_000

OS = "windows_msft5_discover"
LAB_TOOLS = ("vde_switch", "vde_plug2tap", "ip", "nsenter", "unshare")
BROADCAST_MAC = "ff:ff:ff:ff:ff:ff"

# Opens a raw socket where it runs, and hands it to whoever listens on the path it is given.
_GIVE_SOCKET = """
import array, socket, sys
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
raw.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE: it hears whole downloads too
raw.bind(("eth0", 3))
with socket.socket(socket.AF_UNIX) as way:
    way.connect(sys.argv[1])
    rights = array.array("i", [raw.fileno()])
    way.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
"""

bind_layers(UDP, BOOTP, sport=4011)  # PXE 2.1's port, which scapy does not know


class Wire:
    """The cable of a host: frames sent as they are, and every frame heard, read by scapy."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.heard: list[Any] = []
        self.addresses: dict[IPv4Address, str] = {}
        """Addresses for which ARP requests are answered, each with its MAC."""

    def send(self, frame: Any) -> None:
        """Put a frame on the wire."""
        self._sock.send(bytes(frame))

    def wait_for(
        self, wanted: Callable[[Any], bool], timeout_s: float = REPLY_TIMEOUT_S
    ) -> Any | None:
        """The next frame that is wanted; None if none comes in time."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            self._sock.settimeout(left)
            try:
                frame = Ether(self._sock.recv(65536))
            except TimeoutError:
                break
            self.heard.append(frame)
            self._answer_arp(frame)
            if wanted(frame):
                return frame
        return None

    def _answer_arp(self, frame: Any) -> None:
        if ARP not in frame or frame[ARP].op != 1:
            return
        mac = self.addresses.get(IPv4Address(frame[ARP].pdst))
        if mac is not None:
            reply = ARP(op=2, hwsrc=mac, psrc=frame.pdst, hwdst=frame.hwsrc, pdst=frame.psrc)
            self.send(Ether(src=mac, dst=frame.src) / reply)

    def save(self, path: Path, *, source: str) -> int:
        """Write the frames heard from a MAC to a pcap file; how many."""
        frames = [frame for frame in self.heard if frame.src == source]
        wrpcap(str(path), frames)
        return len(frames)


class Machine:
    """A machine that is nothing but a MAC and what it says on a wire."""

    def __init__(self, wire: Wire, mac: str, capture: str) -> None:
        """`capture` names the recorded DISCOVER that it speaks with."""
        self.wire = wire
        self.mac = mac
        self._capture = capture
        self._xid = 0x1000

    def message(self, kind: str, capture: str | None = None, **options: Any) -> Any:
        """A recorded message, made this machine's own, with other options by scapy's names."""
        message = BOOTP(read_capture(capture or self._capture))
        raw = bytes.fromhex(self.mac.replace(":", ""))
        self._xid += 1
        message.xid, message.flags, message.hlen = self._xid, 0, 6
        message.chaddr = raw + bytes(10)
        changed = {"message-type": kind, **options}
        kept = [
            item
            for item in message[DHCP].options
            if isinstance(item, tuple) and item[0] not in changed
        ]
        own_id = [("client_id", b"\1" + raw) if item[0] == "client_id" else item for item in kept]
        given = [(name, value) for name, value in changed.items() if value is not None]
        message[DHCP].options = [*given, *own_id, "end"]
        return message

    def broadcast(self, message: Any, *, port: int = 67) -> None:
        """Send as a machine without an address does."""
        ip = IP(src="0.0.0.0", dst="255.255.255.255")
        frame = Ether(src=self.mac, dst=BROADCAST_MAC) / ip / UDP(sport=68, dport=port)
        self.wire.send(frame / message)

    def unicast(
        self, message: Any, source: str, server: str, server_mac: str, ports: tuple[int, int]
    ) -> None:
        """Send as a machine with an address does; `ports` are its own and the server's."""
        ip, udp = IP(src=source, dst=server), UDP(sport=ports[0], dport=ports[1])
        self.wire.send(Ether(src=self.mac, dst=server_mac) / ip / udp / message)

    def reply(
        self, kind: int | None = None, timeout_s: float = REPLY_TIMEOUT_S, *, sent_by: str = ""
    ) -> Any | None:
        """The next DHCP reply to this machine; `kind` and server identifier if given."""
        raw = bytes.fromhex(self.mac.replace(":", ""))

        def wanted(frame: Any) -> bool:
            # From us comes what the host's own kernel says of ports where nobody listens.
            if frame.src == self.mac or DHCP not in frame:
                return False
            if frame[BOOTP].op != 2 or frame[BOOTP].chaddr[:6] != raw:
                return False
            told = dhcp_options(frame)
            return (kind is None or told["message-type"] == kind) and (
                not sent_by or told.get("server_id") == sent_by
            )

        return self.wire.wait_for(wanted, timeout_s)

    def discover(self, **options: Any) -> Any:
        """Send a DISCOVER and return the OFFER."""
        self.broadcast(self.message("discover", **options))
        offer = self.reply(2)
        assert offer is not None, f"no OFFER for {self.mac}"
        return offer

    def request(self, address: str, server: str | None, **options: Any) -> Any | None:
        """Send a REQUEST for what was offered, or without a server an INIT-REBOOT; the reply."""
        message = self.message("request", requested_addr=address, server_id=server, **options)
        self.broadcast(message)
        return self.reply()

    def lease(self) -> str:
        """DISCOVER to ACK: the address."""
        offer = self.discover()
        address = str(offer[BOOTP].yiaddr)
        ack = self.request(address, dhcp_options(offer)["server_id"])
        assert ack is not None
        assert dhcp_options(ack)["message-type"] == 5
        assert ack[BOOTP].yiaddr == address
        self.take(address)
        return address

    def take(self, address: str) -> None:
        """Have an address from now on, and answer ARP for it."""
        self.wire.addresses[IPv4Address(address)] = self.mac


class Bench:
    """A server's folder, its lab, and clients."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.state = folder / "state"
        self.config = folder / "bootnoded.yaml"
        self.nodes = folder / "nodes.yaml"
        self.files = folder / "files"
        self.server = str(SERVER.ip)
        self._sockets: list[socket.socket] = []

    # The server

    def configure(
        self,
        nodes: str = "unknown: address\n",
        *,
        dhcp: str = "full",
        pool: str | None = POOL,
        networks: str = "",
        more: str = "",
    ) -> None:
        """Write both files; `networks` and `more` are YAML of the test's own."""
        pool_line = f", pool: {pool}" if pool is not None and dhcp == "full" else ""
        self.config.write_text(
            f"state_dir: {self.state}\nnodes: {self.nodes}\n"
            f"networks:\n  - {{interface: {INTERFACE}, dhcp: {dhcp}{pool_line}}}\n{networks}{more}"
        )
        self.nodes.write_text(nodes)

    def command(self) -> list[str | Path]:
        """The daemon's command line."""
        return [sys.executable, "-m", "bootnode.daemon", "-c", self.config]

    def start(self, *before: str, name: str = "bootnoded") -> LabProcess:
        """Start the daemon and wait until it serves; `before` is put before its command."""
        return self.lab.start_daemon([*before, *self.command()], name=name)

    def fail_to_start(self, *before: str) -> str:
        """Start a daemon that must end with status 1; what it said."""
        done = self.lab.run([*before, *self.command()], COMMAND_TIMEOUT_S)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    def status(self) -> dict[str, Any]:
        """What the daemon says of itself."""
        return fetch_status(self.state / "bootnoded.sock")

    def node(self, name: str) -> dict[str, Any]:
        """What the daemon says of a node; a MAC names one outside the table."""
        (found,) = [node for node in self.status()["nodes"] if node["name"] == name]
        return dict(found)

    def publish(
        self, name: str = "tiny", node_files: Mapping[str, str] = MappingProxyType({})
    ) -> ImageVersion:
        """Put an image into the store that looks like any other, and boots nothing."""
        store = ImageStore(self.state / "images")
        contents = Contents(
            kernel="vmlinuz",
            initrds=("initrd.img",),
            kernel_args=("quiet",),
            kernel_release="6.1.0",
            ram_bytes=len(INITRD),
            node_files=nodefiles.FILE if node_files else None,
        )
        with store.staging(name) as work:
            staged = work / "image"
            staged.mkdir()
            (staged / "vmlinuz").write_bytes(KERNEL)
            (staged / "initrd.img").write_bytes(INITRD)
            if node_files:
                entries = [cpio.file(path, text.encode()) for path, text in node_files.items()]
                nodefiles.write(entries, staged / nodefiles.FILE)
            provenance = Provenance(recipe_sha256="0" * 64, packages={})
            return store.publish(name, staged, contents, provenance)

    # Clients

    def host(self, name: str, *, mac: str | None = None, address: str | None = None) -> Host:
        """Another machine on the server's switch."""
        interface = IPv4Interface(address) if address is not None else None
        host = self.lab.add_host(name, address=interface)
        if mac is not None:
            self.run(host, "ip", "link", "set", "eth0", "address", mac)
        return host

    def run(self, host: Host, *command: str | Path, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run a command that must succeed on a host; its output."""
        done = host.run(command, timeout_s)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def wire(self, host: Host) -> Wire:
        """A raw socket on the host's NIC, that this process may use."""
        path = self.folder / f"{host.name}.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(1)
            listener.settimeout(COMMAND_TIMEOUT_S)
            self.run(host, sys.executable, "-c", _GIVE_SOCKET, path)
            way, _ = listener.accept()
            with way:
                _, descriptors, _, _ = socket.recv_fds(way, 1, 1)
        sock = socket.socket(fileno=descriptors[0])
        self._sockets.append(sock)
        return Wire(sock)

    def machine(self, host_or_wire: Host | Wire, mac: str, capture: str = OS) -> Machine:
        """A machine on that wire."""
        wire = host_or_wire if isinstance(host_or_wire, Wire) else self.wire(host_or_wire)
        return Machine(wire, mac, capture)

    def server_mac(self) -> str:
        """The MAC of the server's interface."""
        path = f"/sys/class/net/{INTERFACE}/address"
        return self.lab.run(["cat", path], COMMAND_TIMEOUT_S).stdout.strip()

    def close(self) -> None:
        """Close what the wires hold."""
        for sock in self._sockets:
            sock.close()


def read_capture(name: str) -> bytes:
    """A recorded UDP payload."""
    lines = (CAPTURES / f"{name}.hex").read_text().splitlines()
    return bytes.fromhex("".join(line for line in lines if line[0] != "#"))


def dhcp_options(frame: Any) -> dict[Any, Any]:
    """The options of a DHCP message, as scapy names them."""
    return {item[0]: item[1] for item in frame[DHCP].options if isinstance(item, tuple)}


@pytest.fixture
def need() -> Callable[..., None]:
    """Skips the test when a program is missing."""

    def check(*programs: str) -> None:
        for program in programs:
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not installed: `make setup` installs it")

    return check


@pytest.fixture
def bench(need: Callable[..., None]) -> Iterator[Bench]:
    """A lab of the test's own, its daemon configured but not started."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for network namespaces: run `make check`")
    need(*LAB_TOOLS)
    # Not tmp_path: Unix sockets need short paths, and a daemon that is not root has to get in.
    folder = Path(tempfile.mkdtemp(prefix="bootnode-e2e-"))
    folder.chmod(0o755)
    taps = ((INTERFACE, SERVER), (SECOND_INTERFACE, SECOND_SERVER))
    try:
        with Lab.up(LabConfig(folder=folder / "lab", taps=taps)) as lab:
            bench = Bench(lab, folder)
            bench.configure()
            try:
                yield bench
            finally:
                bench.close()
    finally:
        shutil.rmtree(folder)

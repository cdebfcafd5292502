"""What boot ROMs, UEFI and iPXE hear: recorded questions, and the frames that come back.

Read by scapy, and by tshark as a second opinion.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6ND_RS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

if TYPE_CHECKING:
    from tests.e2e.conftest import Bench, Machine, Wire

pytestmark = pytest.mark.root

MAC, NODE_IP = "52:54:00:44:00:0a", "192.168.44.10"
NODES = f"nodes:\n  alpha: {{mac: '{MAC}', ip: {NODE_IP}, image: tiny}}\nunknown: address\n"
SCRIPT_URL = b"http://192.168.44.1:8080/boot/52-54-00-44-00-0a.ipxe"
VOICES = {
    "asrock_bios_pxe_discover": b"undionly.kpxe",
    "dell_uefi_x64_pxe_discover": b"snponly.efi",
    "ovmf_2022_x64_pxe_discover": b"snponly.efi",
    "ovmf_2022_x64_http_discover": b"http://192.168.44.1:8080/loaders/snponly.efi",
    "ipxe_2019_bios_virtio_discover": SCRIPT_URL,
    "ipxe_2019_uefi_x64_discover": SCRIPT_URL,
}
IPXE = "ipxe_2019_bios_virtio_discover"
SILENCE_S = 1.0
TSHARK_TIMEOUT_S = 30.0


def options(frame: Any) -> dict[Any, Any]:
    return {item[0]: item[1] for item in frame[DHCP].options if isinstance(item, tuple)}


def recomputed(frame: Any) -> Any:
    """The same frame with its checksums and lengths as scapy works them out."""
    copy = Ether(bytes(frame))
    del copy[IP].chksum, copy[IP].len, copy[UDP].chksum, copy[UDP].len
    return Ether(bytes(copy))


def check_with_tshark(wire: Wire, server_mac: str, pcap: Path) -> None:
    """tshark finds nothing malformed in what the server sent."""
    assert wire.save(pcap, source=server_mac) > 0
    done = subprocess.run(
        [
            *("tshark", "-n", "-r", str(pcap)),
            *("-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"),
            *("-Y", '_ws.malformed || _ws.expert.severity >= "Warning"'),
        ],
        capture_output=True,
        text=True,
        timeout=TSHARK_TIMEOUT_S,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def is_arp_for_node(frame: Any) -> bool:
    return ARP in frame and frame[ARP].pdst == NODE_IP


@pytest.mark.parametrize("voice", VOICES)
def test_a_machine_without_an_address_is_answered_at_its_mac(
    bench: Bench, need: Callable[..., None], voice: str
) -> None:
    need("tshark")
    bench.configure(NODES)
    bench.start()
    wire = bench.wire(bench.host("node"))
    machine = bench.machine(wire, MAC, voice)
    offer = machine.discover()
    ack = machine.request(NODE_IP, options(offer)["server_id"])
    assert ack is not None
    for reply, kind in ((offer, 2), (ack, 5)):
        check_reply(reply, bench.server_mac(), kind)
        assert options(reply)["boot-file-name"].rstrip(b"\0") == VOICES[voice]
        assert reply[BOOTP].file.rstrip(b"\0") == VOICES[voice]
        assert reply[BOOTP].siaddr == bench.server
    assert not [frame for frame in wire.heard if is_arp_for_node(frame)]
    check_with_tshark(wire, bench.server_mac(), bench.folder / "heard.pcap")


def check_reply(reply: Any, server_mac: str, kind: int) -> None:
    """A unicast frame, from port 67 to port 68, right down to its checksums."""
    assert (reply.dst, reply.src) == (MAC, server_mac)
    assert (reply[IP].src, reply[IP].dst) == ("192.168.44.1", NODE_IP)
    assert (reply[UDP].sport, reply[UDP].dport) == (67, 68)
    assert reply[UDP].chksum != 0
    assert bytes(recomputed(reply)) == bytes(reply)
    assert reply[BOOTP].yiaddr == NODE_IP
    assert len(reply[BOOTP]) >= 300
    told = options(reply)
    assert (told["message-type"], told["server_id"]) == (kind, "192.168.44.1")
    assert (told["subnet_mask"], told["hostname"]) == ("255.255.255.128", b"alpha")
    assert "end" in reply[DHCP].options


def test_the_broadcast_flag_is_obeyed(bench: Bench) -> None:
    bench.configure(NODES)
    bench.start()
    machine = bench.machine(bench.host("node"), MAC, IPXE)
    message = machine.message("discover")
    message.flags = "B"
    machine.broadcast(message)
    offer = machine.reply(2)
    assert offer is not None
    assert (offer.dst, offer[IP].dst) == ("ff:ff:ff:ff:ff:ff", "255.255.255.255")
    assert (offer[UDP].sport, offer[UDP].dport) == (67, 68)


def test_the_wrong_address_is_refused_to_all_who_hear(bench: Bench) -> None:
    bench.configure(NODES)
    bench.start()
    machine = bench.machine(bench.host("node"), MAC)
    # A node that was never here before, on an address of another network, then of this one.
    for wrong in ("10.9.9.9", "192.168.44.77"):
        nak = machine.request(wrong, None)
        assert nak is not None
        assert (nak.dst, nak[IP].dst) == ("ff:ff:ff:ff:ff:ff", "255.255.255.255")
        told = options(nak)
        assert (told["message-type"], told["server_id"]) == (6, bench.server)
        assert set(told) <= {"message-type", "server_id", "error_message", "client_id"}
        assert (nak[BOOTP].yiaddr, nak[BOOTP].siaddr) == ("0.0.0.0", "0.0.0.0")
    ack = machine.request(NODE_IP, None)
    assert ack is not None
    assert options(ack)["message-type"] == 5


def test_clients_never_share_an_address(bench: Bench) -> None:
    bench.configure(NODES, pool="192.168.44.20-192.168.44.39")
    bench.start()
    wire = bench.wire(bench.host("many"))
    machines = [bench.machine(wire, f"52:54:00:45:00:{n:02x}") for n in range(24)]
    # All ask before any is answered.
    for machine in machines:
        machine.broadcast(machine.message("discover", requested_addr="192.168.44.25"))
    wire.wait_for(lambda _: False, SILENCE_S)
    offered = [
        (frame[BOOTP].yiaddr, options(frame)["server_id"], frame.dst)
        for frame in wire.heard
        if BOOTP in frame and frame[BOOTP].op == 2
    ]
    assert len(offered) == 20
    by_mac = {mac: address for address, _, mac in offered}
    assert len(set(by_mac.values())) == 20
    for machine in machines:
        if machine.mac in by_mac:
            ack = machine.request(by_mac[machine.mac], bench.server)
            assert ack is not None
            assert ack[BOOTP].yiaddr == by_mac[machine.mac]


@pytest.mark.parametrize("port", [4011, 68])
def test_port_4011_answers_the_port_that_asked(
    bench: Bench, need: Callable[..., None], port: int
) -> None:
    need("tshark")
    bench.configure(NODES)
    bench.start()
    wire = bench.wire(bench.host("node"))
    machine = bench.machine(wire, MAC, "ovmf_2022_x64_pxe_discover")
    address = machine.lease()
    message = machine.message("request", capture="edk2_port4011_request")
    message.ciaddr = address
    machine.unicast(message, address, bench.server, bench.server_mac(), (port, 4011))
    reply = machine.reply(5)
    assert reply is not None
    assert (reply[UDP].sport, reply[UDP].dport) == (4011, port)
    assert (reply.dst, reply[IP].dst) == (MAC, NODE_IP)
    assert reply[BOOTP].yiaddr == "0.0.0.0"
    assert reply[BOOTP].file.rstrip(b"\0") == b"snponly.efi"
    check_with_tshark(wire, bench.server_mac(), bench.folder / "heard.pcap")


# IPv6 routers


def solicit(machine: Machine) -> None:
    """Ask for a router, as iPXE does."""
    source = link_local(machine.mac)
    frame = Ether(src=machine.mac, dst="33:33:00:00:00:02") / IPv6(src=source, dst="ff02::2")
    machine.wire.send(frame / ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(lladdr=machine.mac))


def link_local(mac: str) -> str:
    a, b, c, d, e, f = (int(octet, 16) for octet in mac.split(":"))
    return str(IPv6Address(f"fe80::{a ^ 2:02x}{b:02x}:{c:02x}ff:fe{d:02x}:{e:02x}{f:02x}"))


def advertisement(machine: Machine, timeout_s: float = 5.0) -> Any | None:
    def wanted(frame: Any) -> bool:
        return ICMPv6ND_RA in frame and frame.dst == machine.mac

    # It may have come before the reply that was waited for last.
    early = [frame for frame in machine.wire.heard if wanted(frame)]
    return early[0] if early else machine.wire.wait_for(wanted, timeout_s)


def test_a_booting_node_is_told_that_there_is_no_router(
    bench: Bench, need: Callable[..., None]
) -> None:
    need("tshark")
    bench.configure(NODES)
    bench.start()
    wire = bench.wire(bench.host("node"))
    machine = bench.machine(wire, MAC, IPXE)
    machine.lease()
    solicit(machine)
    told = advertisement(machine)
    assert told is not None
    assert (told.src, told[IPv6].dst, told[IPv6].hlim) == (
        *(bench.server_mac(), link_local(MAC), 255),
    )
    assert (told[ICMPv6ND_RA].routerlifetime, told[ICMPv6ND_RA].M, told[ICMPv6ND_RA].O) == (0, 0, 0)
    assert not told[ICMPv6ND_RA].payload
    check_with_tshark(wire, bench.server_mac(), bench.folder / "heard.pcap")


def test_a_question_from_before_the_address_is_answered_late(bench: Bench) -> None:
    bench.configure(NODES)
    bench.start()
    machine = bench.machine(bench.host("node"), MAC, IPXE)
    solicit(machine)
    machine.discover()
    assert advertisement(machine) is not None


def test_nobody_else_is_told_about_routers(bench: Bench) -> None:
    bench.configure(NODES)
    bench.start()
    wire = bench.wire(bench.host("node"))
    stranger = bench.machine(wire, "52:54:00:44:00:99", "windows_msft5_discover")
    stranger.lease()  # an address, but no boot
    solicit(stranger)
    assert advertisement(stranger, SILENCE_S) is None
    booting = bench.machine(wire, MAC, IPXE)
    booting.lease()
    router = bench.wire(bench.host("router"))
    mac = "52:54:00:44:00:fe"
    router.send(
        Ether(src=mac, dst="33:33:00:00:00:01")
        / IPv6(src=link_local(mac), dst="ff02::1", hlim=255)
        / ICMPv6ND_RA(routerlifetime=1800)
    )
    wire.wait_for(lambda frame: ICMPv6ND_RA in frame and frame.src == mac)
    solicit(booting)
    assert advertisement(booting, SILENCE_S) is None
    assert "ndp.answered" not in bench.status()["counters"]


def test_the_second_network_is_served_beside_the_first(bench: Bench) -> None:
    bench.configure(
        "nodes:\n"
        f"  alpha: {{mac: '{MAC}', ip: 172.29.3.20, image: tiny}}\n"
        "  beta: {mac: '52:54:00:44:00:0b', image: tiny}\n",
        networks="  - {interface: srv1, dhcp: full, pool: 172.29.3.40-172.29.3.50}\n",
    )
    bench.start()
    host = bench.lab.add_host("second", tap="srv1")
    wire = bench.wire(host)
    assert bench.machine(wire, MAC, IPXE).lease() == "172.29.3.20"
    other = bench.machine(wire, "52:54:00:44:00:0b", IPXE)
    offer = other.discover()
    assert IPv4Address("172.29.3.40") <= IPv4Address(offer[BOOTP].yiaddr)
    assert offer[BOOTP].file.startswith(b"http://172.29.3.1:8080/boot/")
    assert options(offer)["server_id"] == "172.29.3.1"

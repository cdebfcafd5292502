"""Every recorded request, and the whole of what it is answered: each header field, each option.

tests/captures/replies has a file for each client; `UPDATE_GOLDEN=1` writes them anew, to be read
before they are committed. The server stands where the capture says: on the network of the address
that the client asks for or has, under the server identifier that it names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Interface
from typing import Final, Literal

import pytest

from bootnode.addresses import AddressRange, MacAddress
from bootnode.dhcp import options as opt
from bootnode.dhcp.options import MessageType
from bootnode.dhcp.packet import BOOTREQUEST, PXE_PORT, UNSPECIFIED, Packet
from bootnode.dhcp.replies import BROADCAST, Arrival, Ignored, Reply
from bootnode.dhcp.responder import Responder
from tests.unit.dhcp.test_packet import CAPTURES, NAMES, describe
from tests.unit.dhcp.test_packet import capture as recorded
from tests.unit.dhcp.test_responder import NOW, node, responder, settings

Mode = Literal["full", "proxy"]

REPLIES: Final = CAPTURES / "replies"
REQUESTS: Final = [name for name in NAMES if Packet.parse(recorded(name)).op == BOOTREQUEST]
PORT_4011: Final = {
    "edk2_port4011_request": PXE_PORT,
    "ipxe_port4011_boot_item_request": 68,
    "ipxe_port4011_request": 68,
}
"""Who asks port 4011, and from which port of its own."""
NODE: Final = IPv4Address("10.77.0.10")


def place_of(packet: Packet) -> tuple[IPv4Address, IPv4Interface]:
    """The client's address, and ours beside it."""
    address = packet.requested_address or packet.ciaddr
    if packet.giaddr != UNSPECIFIED:
        # What it asks for may lie elsewhere: that is refused.
        network = IPv4Interface(f"{packet.giaddr}/24").network
        address = address if address in network else packet.giaddr + 10
    if address == UNSPECIFIED:
        address = NODE
    network = IPv4Interface(f"{address}/24").network
    named = packet.get(opt.SERVER_ID) or packet.siaddr
    is_near = named in network and named != address
    server = named if is_near else network.network_address + 1
    if server == packet.giaddr:
        server += 1
    return address, IPv4Interface(f"{server}/24")


def server_for(packet: Packet, mac: MacAddress, mode: Mode) -> Responder:
    """A server that has this client in its table, with the one address that it means."""
    address, ours = place_of(packet)
    pool = (AddressRange(first=address, last=address),) if mode == "full" else ()
    network = settings(mode, pool=pool, router=ours.ip, dns=(ours.ip,))
    return responder(node(mac, ip=None), network=network, address=str(ours))


def arrival_of(name: str, packet: Packet) -> Arrival:
    address, ours = place_of(packet)
    if name in PORT_4011:
        return Arrival(
            source=address, source_port=PORT_4011[name], destination=ours.ip, port=PXE_PORT
        )
    if packet.giaddr != UNSPECIFIED:
        return Arrival(source=packet.giaddr, source_port=67, destination=ours.ip, port=67)
    if packet.ciaddr != UNSPECIFIED:
        return Arrival(source=packet.ciaddr, source_port=68, destination=ours.ip, port=67)
    return Arrival(source=UNSPECIFIED, source_port=68, destination=BROADCAST, port=67)


def outcomes(name: str) -> Iterator[tuple[Mode, Reply | Ignored]]:
    """What comes of a recorded request in full and in proxy mode."""
    packet = Packet.parse(recorded(name))
    assert packet.mac is not None
    modes: tuple[Mode, ...] = ("full", "proxy")
    for mode in modes:
        served = server_for(packet, packet.mac, mode)
        yield mode, served.handle(packet, arrival_of(name, packet), now=NOW)


def told(outcome: Reply | Ignored) -> str:
    """All of an outcome, as it is on the wire."""
    if isinstance(outcome, Ignored):
        return f"ignored: {outcome.reason}\n"
    data = outcome.packet.fit(outcome.size_max).serialize()
    port = PXE_PORT if outcome.is_from_pxe_port else 67
    by_mac = f" by its MAC {outcome.mac}" if outcome.is_unconfigured else ""
    lines = [f"from {port} to {outcome.destination}:{outcome.port}{by_mac}, {len(data)} bytes"]
    if outcome.no_boot:
        lines.append(f"no boot file: {outcome.no_boot}")
    return "\n".join(lines) + "\n" + describe(Packet.parse(data))


@pytest.mark.parametrize("name", REQUESTS)
def test_whole_reply(name: str) -> None:
    golden = REPLIES / f"{name}.txt"
    text = "\n".join(f"== {mode}\n{told(outcome)}" for mode, outcome in outcomes(name))
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert golden.read_text() == text


def test_nothing_lies_about_that_is_not_tested() -> None:
    assert {path.stem for path in REPLIES.iterdir()} == set(REQUESTS)
    assert {path.stem for path in CAPTURES.glob("*.txt")} == set(NAMES)
    assert {path.suffix for path in CAPTURES.iterdir() if path.is_file()} == {".hex", ".txt"}


@pytest.mark.parametrize("name", REQUESTS)
def test_what_every_reply_holds(name: str, capture: Callable[[str], Packet]) -> None:
    request = capture(name)
    _, ours = place_of(request)
    for mode, outcome in outcomes(name):
        if isinstance(outcome, Ignored):
            continue
        sent = Packet.parse(outcome.packet.fit(outcome.size_max).serialize())
        assert (sent.op, sent.htype, sent.hlen, sent.hops, sent.secs) == (2, 1, 6, 0, 0)
        assert (sent.xid, sent.chaddr, sent.giaddr) == (
            *(request.xid, request.chaddr),
            request.giaddr,
        )
        assert sent.problems == ()
        assert sent.get(opt.SERVER_ID) == ours.ip
        assert sent.options.get(opt.CLIENT_ID.code) == request.options.get(opt.CLIENT_ID.code)
        has_address = request.message_type is not MessageType.INFORM
        has_address &= mode == "full" and name not in PORT_4011
        has_address &= sent.message_type is not MessageType.NAK
        assert (sent.yiaddr != UNSPECIFIED) == has_address
        assert (opt.LEASE_TIME.code in sent.options) == has_address
        names_a_file = opt.BOOT_FILE.code in sent.options
        assert names_a_file == bool(sent.file)
        if sent.get(opt.VENDOR_CLASS) == "HTTPClient":
            assert sent.file.startswith(b"http://")

"""Who is answered, when, and who never: played over a pair of sockets, by a clock of the test's."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Address

import pytest

from bootnode.addresses import Interface, MacAddress
from bootnode.boot.journal import Journal
from bootnode.ndp import server as module
from bootnode.ndp.packet import RouterAdvertisement, parse_frame
from bootnode.ndp.server import BOOTING_S, ROUTER_S, WAITING_S, RouterSolicitationServer

NODE = MacAddress.parse("fc:ab:14:e8:66:01")
ROUTER = MacAddress.parse("02:00:00:00:00:77")
OURS = MacAddress.parse("02:00:00:00:00:01")
LINK_LOCAL = IPv6Address("fe80::1")
INTERFACE = Interface(
    name="tap0",
    index=7,
    mac=OURS,
    address=IPv4Interface("10.77.0.1/24"),
    link_local=LINK_LOCAL,
    mtu=1500,
)
SOLICITATION = b"\x85" + bytes(7)
ADVERTISEMENT = b"\x86\0\0\0\x40\0\x07\x08" + bytes(8)


def frame(message: bytes, mac: MacAddress) -> bytes:
    """An ICMPv6 message from that MAC to all routers or all nodes, with its checksum."""
    source = IPv6Address(b"\xfe\x80" + bytes(8) + mac)
    destination = IPv6Address("ff02::2")
    pseudo = source.packed + destination.packed + len(message).to_bytes(4, "big") + b"\0\0\0\x3a"
    words = pseudo + message
    total = sum(int.from_bytes(words[at : at + 2], "big") for at in range(0, len(words), 2))
    checksum = ~(total % 0xFFFF) & 0xFFFF
    return (
        (b"\x33\x33\0\0\0\2" + mac + b"\x86\xdd" + b"\x60\0\0\0")
        + (len(message).to_bytes(2, "big") + b"\x3a\xff" + source.packed + destination.packed)
        + (message[:2] + checksum.to_bytes(2, "big") + message[4:])
    )


@dataclass(slots=True, kw_only=True)
class Wire:
    """The far end of the server's socket, and its clock."""

    far: socket.socket
    near: socket.socket
    journal: Journal = field(default_factory=Journal)
    now: float = 1000.0

    async def send(self, message: bytes, mac: MacAddress = NODE) -> None:
        self.far.send(frame(message, mac))
        for _ in range(3):  # the loop polls, then calls the reader
            await asyncio.sleep(0)

    def received(self) -> list[bytes]:
        frames = []
        while True:
            try:
                frames.append(self.far.recv(2048))
            except BlockingIOError:
                return frames


@pytest.fixture
def wire() -> Iterator[Wire]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        yield Wire(far=far, near=near)


@pytest.fixture
async def server(wire: Wire) -> RouterSolicitationServer:
    server = RouterSolicitationServer(
        interface=INTERFACE,
        frames=wire.near,
        journal=wire.journal,
        clock=lambda: wire.now,
    )
    server.start()
    return server


async def test_a_node_that_boots_is_answered(server: RouterSolicitationServer, wire: Wire) -> None:
    server.boots(NODE)
    await wire.send(SOLICITATION)
    (answer,) = wire.received()
    assert answer[:12] == NODE + OURS
    # No router: lifetime 0.
    assert parse_frame(answer) == RouterAdvertisement(
        source_mac=OURS, source_address=LINK_LOCAL, router_lifetime_s=0
    )
    assert wire.journal.counters == {"ndp.answered": 1}
    server.close()


async def test_asked_before_the_address_answered_after_it(
    server: RouterSolicitationServer, wire: Wire
) -> None:
    await wire.send(SOLICITATION)
    assert wire.received() == []
    wire.now += WAITING_S
    server.boots(NODE)
    assert len(wire.received()) == 1
    server.boots(NODE)  # the ACK after the OFFER: the question is answered already
    assert wire.received() == []
    server.close()


async def test_a_question_does_not_wait_for_ever(
    server: RouterSolicitationServer, wire: Wire
) -> None:
    await wire.send(SOLICITATION)
    wire.now += WAITING_S + 0.1
    server.boots(NODE)
    assert wire.received() == []
    server.close()


async def test_a_node_does_not_boot_for_ever(server: RouterSolicitationServer, wire: Wire) -> None:
    server.boots(NODE)
    wire.now += BOOTING_S
    await wire.send(SOLICITATION)
    assert len(wire.received()) == 1
    wire.now += 0.1
    await wire.send(SOLICITATION)
    assert wire.received() == []
    server.close()


async def test_who_does_not_boot_is_never_answered(
    server: RouterSolicitationServer, wire: Wire
) -> None:
    server.boots(NODE)
    await wire.send(SOLICITATION, NODE.plus(1))
    assert wire.received() == []
    server.close()


async def test_silence_where_a_router_advertises(
    server: RouterSolicitationServer, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.boots(NODE)
    await wire.send(ADVERTISEMENT, ROUTER)
    await wire.send(ADVERTISEMENT, ROUTER)
    await wire.send(SOLICITATION)
    assert wire.received() == []
    assert caplog.messages == [
        "interface=tap0 router=02:00:00:00:00:77 advertises: no solicitation is answered here"
    ]
    wire.now += ROUTER_S
    server.boots(NODE)
    await wire.send(SOLICITATION)
    assert len(wire.received()) == 1
    server.close()


async def test_our_own_advertisement_silences_nobody(
    server: RouterSolicitationServer, wire: Wire
) -> None:
    server.boots(NODE)
    await wire.send(ADVERTISEMENT, OURS)
    await wire.send(SOLICITATION)
    assert len(wire.received()) == 1
    server.close()


async def test_other_frames_are_passed_over(server: RouterSolicitationServer, wire: Wire) -> None:
    server.boots(NODE)
    wire.far.send(b"x" * 100)
    await wire.send(SOLICITATION)
    assert len(wire.received()) == 1
    server.close()


async def test_memory_is_bounded(
    server: RouterSolicitationServer, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NODES_MAX", 3)
    for number in range(5):
        await wire.send(SOLICITATION, NODE.plus(number))
    for number in range(5):
        server.boots(NODE.plus(number))
    assert [answer[:6] for answer in wire.received()] == [NODE.plus(n) for n in (2, 3, 4)]
    await wire.send(SOLICITATION, NODE)
    assert wire.received() == []
    server.close()


async def test_a_flood_leaves_the_loop_its_turn(
    server: RouterSolicitationServer, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_MAX", 2)
    server.boots(NODE)
    for _ in range(5):
        wire.far.send(frame(SOLICITATION, NODE))
    server._read()
    assert len(wire.received()) == 2
    server.close()


async def test_an_answer_that_cannot_be_sent_costs_a_line(
    server: RouterSolicitationServer, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    server.boots(NODE)
    wire.far.send(frame(SOLICITATION, NODE))
    wire.far.close()
    server._read()
    assert caplog.messages == [f"mac={NODE} advertisement not sent: [Errno 111] Connection refused"]
    assert not wire.journal.counters
    server.close()


class Failing(socket.socket):
    """An interface that went down."""

    def recv(self, *_arguments: object) -> bytes:
        raise OSError(100, "Network is down")


async def test_an_interface_that_goes_down_costs_a_line(caplog: pytest.LogCaptureFixture) -> None:
    server = RouterSolicitationServer(
        interface=INTERFACE,
        frames=Failing(socket.AF_UNIX, socket.SOCK_DGRAM),
        journal=Journal(),
        clock=lambda: 0.0,
    )
    server.start()
    server._read()
    assert caplog.messages == ["interface=tap0 [Errno 100] Network is down"]
    server.close()

"""What is made of other servers; the wire is a pair of sockets here, a real one in tests/e2e."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address

import pytest

from bootnode.addresses import AddressRange, Interface, MacAddress
from bootnode.boot.journal import Journal
from bootnode.config import NetworkSettings
from bootnode.dhcp import options as opt
from bootnode.dhcp import watch
from bootnode.dhcp.foreign import read_frame
from bootnode.dhcp.leases import LeaseTable
from bootnode.dhcp.packet import Packet
from bootnode.dhcp.subnet import Subnet
from bootnode.dhcp.watch import ForeignWatch
from tests.unit.dhcp.test_foreign import ADDRESS, CHOSEN, MAC, SERVER, SERVER_MAC, choice, frame
from tests.unit.dhcp.test_foreign import reply as offer

US = Interface(
    name="tap0",
    index=1,
    mac=MacAddress.parse("02:00:00:00:00:01"),
    address=IPv4Interface("10.77.0.1/24"),
    link_local=IPv6Address("fe80::1"),
    mtu=1500,
)
NETWORK = IPv4Network("10.77.0.0/24")
OUR_OTHER = IPv4Address("10.78.0.1")


@pytest.fixture
def wire() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


def made(
    frames: socket.socket | None, dhcp: str = "auto", pool: str | None = "10.77.0.100-10.77.0.199"
) -> tuple[ForeignWatch, Subnet, Journal]:
    given = {"pool": pool} if pool is not None and dhcp != "proxy" else {}
    settings = NetworkSettings.model_validate({"interface": "tap0", "dhcp": dhcp, **given})
    ranges = [AddressRange.parse(pool)] if pool is not None else []
    leases = LeaseTable(subnet=NETWORK, pool=ranges)
    subnet, journal = Subnet(settings=settings, network=NETWORK, leases=leases), Journal()
    seen = ForeignWatch(
        interface=US,
        frames=frames,
        subnet=subnet,
        own_addresses={US.address.ip, OUR_OTHER},
        is_listed=lambda mac: mac == MAC,
        journal=journal,
        clock=lambda: 1000.0,
        steady_clock=lambda: 5.0,
    )
    return seen, subnet, journal


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "ASK_AT_S", (0.0, 0.01))
    monkeypatch.setattr(watch, "ASK_S", 0.05)


async def test_auto_by_an_answer(wire: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = wire
    seen, subnet, _ = made(ours)
    seen.start()
    deciding = asyncio.create_task(seen.decide(None))
    asked = await asyncio.get_running_loop().sock_recv(theirs, 2000)
    assert asked[:12] == b"\xff" * 6 + US.mac
    assert asked[26:34] == bytes(4) + b"\xff" * 4
    assert Packet.parse(asked[42:]).mac == US.mac
    assert read_frame(asked) is None
    theirs.send(frame(offer()))
    await deciding
    seen.close()
    assert subnet.is_proxy
    assert seen.status()["why"].startswith(f"DHCP server {SERVER} (mac {SERVER_MAC}) offered")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("pool", "is_proxy", "why"),
    [
        ("10.77.0.100-10.77.0.199", False, "no other DHCP server answers within 0.05 s"),
        (None, True, "there is neither a `pool` nor a node with an `ip`"),
    ],
)
async def test_auto_without_an_answer(
    wire: tuple[socket.socket, socket.socket], pool: str | None, is_proxy: bool, why: str
) -> None:
    seen, subnet, _ = made(wire[0], pool=pool)
    assert subnet.is_proxy  # until we know
    await seen.decide(None)
    assert subnet.is_proxy is is_proxy
    assert why in seen.status()["why"]


@pytest.mark.parametrize(
    ("holder", "why"),
    [
        ("dnsmasq (pid 5)", "dnsmasq (pid 5) on this machine has UDP port 67"),
        (None, "without CAP_NET_RAW we cannot ask for other servers"),
    ],
)
async def test_auto_without_a_question(holder: str | None, why: str) -> None:
    seen, subnet, _ = made(None)
    seen.start()
    await seen.decide(holder)
    seen.close()
    assert (subnet.is_proxy, seen.status()["why"]) == (True, why)


@pytest.mark.usefixtures("quick")
async def test_a_question_that_cannot_be_sent_is_said(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    theirs.close()
    with ours:
        seen, _, _ = made(ours)
        await seen.decide(None)
    assert "interface=tap0 not asked: [Errno 111] Connection refused" in caplog.messages


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("by", ["the server's offer", "a client's choice"])
async def test_auto_stands_back(
    wire: tuple[socket.socket, socket.socket], by: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = wire
    seen, subnet, journal = made(ours)
    await seen.decide(None)
    seen.start()
    if by == "a client's choice":
        seen.hear_request(choice(*CHOSEN))
    else:
        theirs.send(frame(replace(offer(), yiaddr=IPv4Address("0.0.0.0"))))
        theirs.send(b"no frame")
        theirs.send(frame(offer())[:6] + US.mac + frame(offer())[12:])  # ours, by a bridge
        await asyncio.sleep(0.01)
        assert not subnet.is_proxy
        theirs.send(frame(offer()))
        theirs.send(frame(offer()))
        await asyncio.sleep(0.01)
    seen.close()
    assert subnet.is_proxy
    assert not subnet.is_authoritative
    assert journal.counters["dhcp.stood_back"] == 1
    assert sum("acts_as=proxy from now on" in line for line in caplog.messages) == 1


@pytest.mark.parametrize("dhcp", ["full", "auto"])
async def test_our_own_offers_by_a_relay_or_another_interface_are_nobody_elses(
    wire: tuple[socket.socket, socket.socket], dhcp: str
) -> None:
    ours, theirs = wire
    seen, subnet, journal = made(ours, dhcp)
    subnet.is_proxy = False
    seen.start()
    for own in (US.address.ip, OUR_OTHER):
        theirs.send(frame(offer(opt.SERVER_ID.item(own))))
    await asyncio.sleep(0.01)
    seen.close()
    assert not subnet.is_proxy
    assert journal.counters["dhcp.foreign_offer"] == 0
    assert seen.status()["other_servers"] == []


async def test_full_does_not_stand_back_and_tells_the_node(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen, subnet, journal = made(None, "full")
    assert not seen.is_to_decide
    for mac in (MAC, MAC.plus(1), MAC):
        seen.hear_request(replace(choice(*CHOSEN), chaddr=mac + bytes(10)))
    seen.hear_request(choice(*dict([*CHOSEN, (54, US.address.ip.packed)]).items()))
    assert not subnet.is_proxy
    assert [mac for mac, _ in journal] == [MAC]
    record = journal.get(MAC)
    assert record is not None
    assert [note.text for note in record.notes] == [
        (
            f"DHCP server {SERVER} offered {MAC} address {ADDRESS}: "
            "two servers of addresses harm a network, turn one off"
        )
    ]
    assert len(caplog.messages) == 1
    assert journal.counters["dhcp.foreign_offer"] == 3
    (told,) = seen.status()["other_servers"]
    assert (told["server"], told["mac"], told["is_news"]) == (str(SERVER), None, True)


@pytest.mark.parametrize("dhcp", ["full", "auto"])
async def test_the_mac_of_a_server_known_by_a_client_only_is_asked_for_once(
    wire: tuple[socket.socket, socket.socket], dhcp: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = wire
    seen, subnet, _ = made(ours, dhcp)
    subnet.is_proxy = False
    seen.start()
    for _ in range(3):
        seen.hear_request(choice(*CHOSEN))
    assert Packet.parse(theirs.recv(2000)[42:]).mac == US.mac
    with pytest.raises(BlockingIOError):
        theirs.recv(2000)
    for _ in range(3):
        theirs.send(frame(replace(offer(), chaddr=US.mac + bytes(10))))
    await asyncio.sleep(0.01)
    seen.close()
    line = f"interface=tap0 DHCP server {SERVER} (mac {SERVER_MAC}) offered {US.mac}"
    assert sum(said.startswith(line) for said in caplog.messages) == 1
    (told,) = seen.status()["other_servers"]
    assert told["mac"] == str(SERVER_MAC)


async def test_clients_that_nobody_answers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen, _, journal = made(None, "proxy")
    times = iter((0.0, 4.0, 12.0, 28.0, 60.0))
    monkeypatch.setattr(seen, "_steady_clock", lambda: next(times))
    discover = choice((53, b"\1"))
    seen.hear_request(replace(discover, giaddr=SERVER))  # not on this wire
    for _ in range(5):
        seen.hear_request(discover)
    assert journal.counters["dhcp.no_other_server"] == 1
    assert [line for line in caplog.messages if "no DHCP server gives them one" in line]


async def test_clients_that_a_server_on_this_machine_answers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen, _, _ = made(None, "proxy")
    times = iter(range(0, 1000, 10))
    monkeypatch.setattr(seen, "_steady_clock", lambda: float(next(times)))
    for _ in range(20):
        seen.hear_request(choice((53, b"\1")))
        seen.hear_request(choice(*dict([*CHOSEN, (54, US.address.ip.packed)]).items()))
    assert caplog.messages == []
    assert seen.status()["other_servers"] == []


async def test_an_interface_that_went_down_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as unconnected:
        made(unconnected)[0]._read(unconnected)
    assert "interface=tap0 offers: [Errno 107] Transport endpoint is not connected" in (
        caplog.messages
    )

"""What any client may send to the server: no reply to a reply, and nobody else's lease changed."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from bootnode.addresses import MacAddress
from bootnode.boot.plan import LOADER_NAMES, Policy, Site
from bootnode.config import NetworkSettings
from bootnode.dhcp import options as opt
from bootnode.dhcp.leases import Lease, LeaseTable
from bootnode.dhcp.options import MessageType
from bootnode.dhcp.packet import BOOTREPLY, BOOTREQUEST, UNSPECIFIED, Packet
from bootnode.dhcp.replies import BROADCAST, Arrival, Reply
from bootnode.dhcp.responder import Responder
from bootnode.dhcp.subnet import Subnet
from bootnode.errors import PacketError
from bootnode.nodes import NodeTable

CAPTURES = Path(__file__).parents[1] / "captures"
NOW = 1_700_000_000.0
SERVER = IPv4Address("10.77.0.1")
VICTIM = MacAddress.parse("02:00:00:00:00:01")
NETWORK = {"interface": "tap0", "dhcp": "full", "pool": "10.77.0.100-10.77.0.103"}
NEAR = IPv4Network("10.77.0.0/24")
ADDRESSES = st.sampled_from(
    [
        *(IPv4Address(f"10.77.0.{octet}") for octet in (0, 1, 99, 100, 101, 102, 103, 255)),
        *(UNSPECIFIED, BROADCAST, IPv4Address("192.0.2.1")),
    ]
)
MACS = st.sampled_from([MacAddress(bytes((2, 0, 0, 0, 0, number))) for number in range(2, 8)])
ARRIVALS = st.builds(
    Arrival,
    source=ADDRESSES,
    source_port=st.sampled_from([67, 68, 4011, 9]),
    destination=st.sampled_from([BROADCAST, SERVER]),
    port=st.sampled_from([67, 67, 67, 4011]),
)


def read(path: Path) -> bytes:
    lines = path.read_text().splitlines()
    return bytes.fromhex("".join(line for line in lines if line[0] != "#"))


SEEDS = [read(path) for path in sorted(CAPTURES.glob("*.hex"))]


def server() -> Responder:
    plain = NetworkSettings.model_validate(NETWORK)
    leases = LeaseTable(subnet=NEAR, pool=plain.pool, excluded=frozenset({SERVER}))
    return Responder(
        site=Site(address=SERVER, http_port=8080),
        local=Subnet(settings=plain, network=NEAR, leases=leases),
        policy=Policy(table=NodeTable((), "address"), loaders=LOADER_NAMES),
    )


@st.composite
def messages(draw: st.DrawFn) -> Packet:
    """A message of any kind by any client but the victim, about any address."""
    options = {53: bytes((draw(st.integers(1, 9)),))} if draw(st.booleans()) else {}
    for code in (opt.REQUESTED_ADDRESS, opt.SERVER_ID, opt.SUBNET_SELECTION):
        if draw(st.booleans()):
            options[code.code] = draw(ADDRESSES).packed
    for code_number in (opt.CLIENT_ID.code, opt.RELAY_AGENT_INFO.code, opt.VENDOR_CLASS.code):
        if draw(st.booleans()):
            # The client identifier of the victim is no way to its lease.
            options[code_number] = draw(st.sampled_from([b"\1" + VICTIM, b"\5\4\x0a\x4d\0\1"]))
    if draw(st.booleans()):
        options[opt.LEASE_TIME.code] = draw(st.integers(0, 0xFFFFFFFF)).to_bytes(4, "big")
    return Packet(
        op=BOOTREQUEST,
        xid=draw(st.integers(0, 0xFFFFFFFF)),
        flags=draw(st.sampled_from([0, 0x8000])),
        ciaddr=draw(ADDRESSES),
        giaddr=draw(st.sampled_from([UNSPECIFIED, UNSPECIFIED, IPv4Address("10.77.0.9"), SERVER])),
        chaddr=draw(MACS) + bytes(10),
        options=options,
    )


@given(st.lists(st.tuples(messages(), ARRIVALS, st.sampled_from([0.0, 1.0, 61.0])), max_size=12))
@settings(max_examples=300, deadline=None)
def test_no_client_changes_anothers_lease(
    history: list[tuple[Packet, Arrival, float]],
) -> None:
    served, now = server(), NOW
    leases = served.local.leases
    address = IPv4Address("10.77.0.101")
    lease = leases.commit(
        *(VICTIM, address), lease_time_s=9999, client_id=b"\1" + VICTIM, hostname="", now=now
    )
    assert isinstance(lease, Lease)
    for request, arrival, passed in history:
        now += passed
        outcome = served.handle(request, arrival, now=now)
        assert leases.lookup(VICTIM) == leases.lookup_address(address) == lease
        assert outcome.lease is None or outcome.lease.mac == request.mac
        if isinstance(outcome, Reply):
            assert outcome.packet.yiaddr != address
            assert (outcome.packet.op, outcome.mac) == (BOOTREPLY, request.mac)


@given(st.sampled_from(SEEDS), st.binary(max_size=80), ARRIVALS)
@settings(max_examples=400, deadline=None)
@example(SEEDS[0], b"", Arrival(source=SERVER, source_port=67, destination=BROADCAST, port=67))
def test_no_reply_to_a_reply(seed: bytes, tail: bytes, arrival: Arrival) -> None:
    """Neither to a recorded one, nor to what we send ourselves, whatever stands in it."""
    data = bytes((BOOTREPLY,)) + seed[1:] + tail
    served = server()
    try:
        packet = Packet.parse(data)
    except PacketError:
        return
    assert not isinstance(served.handle(packet, arrival, now=NOW), Reply)
    asked = Packet.parse(bytes((BOOTREQUEST,)) + data[1:])
    answer = served.handle(asked, arrival, now=NOW)
    if isinstance(answer, Reply):
        ours = Packet.parse(answer.packet.fit(answer.size_max).serialize())
        assert not isinstance(served.handle(ours, arrival, now=NOW), Reply)


@given(st.sampled_from(SEEDS), st.lists(st.integers(0, 5000), max_size=6), ARRIVALS)
@settings(max_examples=400, deadline=None)
def test_whatever_is_read_is_handled(seed: bytes, bits: list[int], arrival: Arrival) -> None:
    """No exception, and every reply can be written and fits."""
    data = bytearray(seed)
    for bit in bits:
        data[bit // 8 % len(data)] ^= 1 << bit % 8
    try:
        packet = Packet.parse(bytes(data))
    except PacketError:
        return
    outcome = server().handle(packet, arrival, now=NOW)
    if isinstance(outcome, Reply):
        sent = outcome.packet.fit(outcome.size_max).serialize()
        assert 300 <= len(sent) <= 1472
        assert Packet.parse(sent).problems == ()
        assert outcome.destination != UNSPECIFIED
        assert Packet.parse(sent).message_type is not MessageType.DISCOVER

"""Coverage-guided fuzzing, by Atheris (libFuzzer for Python): one target each run.

    python -m tests.fuzz.guided TARGET [CORPUS] [-max_total_time=600 and other libFuzzer options]

With a file in place of the corpus it runs that one input: so a crash is reproduced.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from itertools import product
from pathlib import Path
from types import MappingProxyType

import atheris

with atheris.instrument_imports(include=["bootnode", "tests.fuzz"]):
    from bootnode.dhcp import options as opt
    from bootnode.dhcp.leases import Lease
    from bootnode.dhcp.options import MessageType
    from bootnode.dhcp.packet import (
        BOOTREPLY,
        BOOTREQUEST,
        PXE_PORT,
        SERVER_PORT,
        UNSPECIFIED,
        Packet,
    )
    from bootnode.dhcp.replies import BROADCAST, Arrival, Reply
    from bootnode.dhcp.responder import Responder
    from bootnode.errors import PacketError
    from bootnode.files import BytesSource
    from bootnode.tftp.packet import ReadRequest, parse
    from bootnode.tftp.transfer import Transfer
    from tests.fuzz.test_dhcp import COOKIE, SEEDS, check
    from tests.fuzz.test_dhcp_server import NOW, SERVER, VICTIM, server

HEADER = SEEDS[0][:236] + COOKIE
ADDRESS = IPv4Address("10.77.0.101")
SOURCES = (UNSPECIFIED, IPv4Address("10.77.0.102"), SERVER, IPv4Address("192.0.2.1"))
STRANGER = b"\2\0\0\0\0\2" + bytes(10)
TFTP_CAPTURES = Path(__file__).parents[1] / "captures" / "tftp"


def fuzz_packet(data: bytes) -> None:
    """A whole DHCP message: read or refused, and written as it was read."""
    check(data)


def fuzz_options(data: bytes) -> None:
    """The options field alone, where nearly everything is decided."""
    check(HEADER + data)


def datagrams(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Cut an input into datagrams: each has a byte for how it came, and two for its length."""
    at = 0
    while at + 3 <= len(data):
        size = int.from_bytes(data[at + 1 : at + 3], "big")
        yield data[at], data[at + 3 : at + 3 + size]
        at += 3 + size


def joined(*parts: tuple[int, bytes]) -> bytes:
    """What `datagrams` cuts."""
    return b"".join(bytes((how,)) + len(data).to_bytes(2, "big") + data for how, data in parts)


def arrival_of(how: int) -> Arrival:
    """Four bits of an input's byte: whence, to whom, and to which port."""
    return Arrival(
        source=SOURCES[how & 3],
        source_port=68,
        destination=BROADCAST if how & 4 else SERVER,
        port=PXE_PORT if how & 8 else SERVER_PORT,
    )


def fuzz_responder(data: bytes) -> None:
    """A history of messages: no reply to a reply, nobody else's lease, replies well formed."""
    served, now = server(), NOW
    leases = served.local.leases
    lease = leases.commit(
        *(VICTIM, ADDRESS), lease_time_s=9999, client_id=b"\1" + VICTIM, hostname="", now=now
    )
    assert isinstance(lease, Lease)
    for how, datagram in datagrams(data):
        try:
            request = Packet.parse(datagram)
        except PacketError:
            continue
        if request.mac == VICTIM:
            continue
        now += 61.0 if how & 16 else 1.0
        outcome = served.handle(request, arrival_of(how), now=now)
        assert leases.lookup(VICTIM) == leases.lookup_address(ADDRESS) == lease
        assert outcome.lease is None or outcome.lease.mac == request.mac
        if isinstance(outcome, Reply):
            check_reply(served, request, outcome, now)


def check_reply(served: Responder, request: Packet, reply: Reply, now: float) -> None:
    """It answers a request, is well formed, and is itself answered by nobody."""
    assert request.op == BOOTREQUEST
    sent = Packet.parse(reply.packet.fit(reply.size_max).serialize())
    assert (sent.xid, sent.chaddr, sent.problems) == (request.xid, request.chaddr, ())
    assert sent.yiaddr != ADDRESS
    assert sent.message_type is None or sent.message_type in (
        *(MessageType.OFFER, MessageType.ACK),
        MessageType.NAK,
    )
    assert not isinstance(served.handle(sent, arrival_of(4), now=now), Reply)


def fuzz_tftp(data: bytes) -> None:
    """A TFTP request: read or refused, then what it negotiates and what the client says next."""
    first, _, second = data.partition(b"\xff\xff\xff")
    try:
        packet = parse(first)
    except PacketError:
        return
    assert parse(packet.serialize()) == packet
    if not isinstance(packet, ReadRequest):
        return
    source = BytesSource(bytes(3000))
    transfer = Transfer(packet, source, now=0.0, max_blksize=1468, max_windowsize=16)
    sent = transfer.datagrams_to_send()
    assert len(sent) <= 1, "a stranger's address may be forged: one datagram until it is heard"
    assert all(len(datagram) <= 1472 for datagram in sent)
    try:
        transfer.receive_datagram(second, now=0.1)
    except PacketError:
        return
    assert all(len(datagram) <= 1472 for datagram in transfer.datagrams_to_send())


def fuzz_planted(data: bytes) -> None:
    """A fault that only coverage leads to: four bytes, each behind the one before."""
    if len(data) > 3 and data[0] == 0x62 and data[1] == 0x6F and data[2] == 0x6F:
        assert data[3] != 0x74, "the planted fault"


TARGETS: Mapping[str, Callable[[bytes], None]] = MappingProxyType(
    {
        "packet": fuzz_packet,
        "options": fuzz_options,
        "responder": fuzz_responder,
        "tftp": fuzz_tftp,
        "planted": atheris.instrument_func(fuzz_planted),
    }
)


def near(seed: bytes) -> bytes:
    """A recorded message whose addresses are the server's and, where it means its own, ADDRESS."""
    packet = Packet.parse(seed)
    meant = {opt.SERVER_ID.code: SERVER, opt.REQUESTED_ADDRESS.code: ADDRESS}
    options = {
        code: meant[code].packed if code in meant else raw for code, raw in packet.options.items()
    }
    ciaddr = packet.ciaddr if packet.ciaddr == UNSPECIFIED else ADDRESS
    return replace(packet, ciaddr=ciaddr, giaddr=UNSPECIFIED, options=options).serialize()


def every_type() -> Iterator[bytes]:
    """A request and a reply of each type about ADDRESS, by a client that has no part in it."""
    about = dict([opt.REQUESTED_ADDRESS.item(ADDRESS), opt.SERVER_ID.item(SERVER)])
    for op, number in product((BOOTREQUEST, BOOTREPLY), range(1, 9)):
        options = {opt.MESSAGE_TYPE.code: bytes((number,)), **about}
        message = Packet(op=op, xid=1, chaddr=STRANGER, ciaddr=ADDRESS, options=options)
        yield message.serialize()


def words(target: str) -> list[bytes]:
    """Bytes that mean something to this target, and that chance would hardly hit upon."""
    if target == "tftp":
        names = (b"blksize", b"tsize", b"timeout", b"windowsize", b"octet", b"netascii")
        # Digits to Python, and to nobody else.
        return [*(b"\0" + name + b"\0" for name in names), b"\xc2\xb2", b"\xd9\xa1", b"65464"]
    types = [bytes((opt.MESSAGE_TYPE.code, 1, number)) for number in range(1, 9)]
    addresses = [ADDRESS.packed, SERVER.packed, bytes(VICTIM), COOKIE]
    named = [bytes((code, 4)) + SERVER.packed for code in (50, 54, 118)]
    return [*types, *addresses, *named, bytes((opt.OVERLOAD.code, 1, 3))]


def seeds(target: str) -> list[bytes]:
    """What a run of this target starts from: the captures, in its own format."""
    match target:
        case "packet":
            return SEEDS
        case "options":
            return [seed[240:] for seed in SEEDS]
        case "responder":
            # Each once alone, and once as a client that asks, takes and renews what is here.
            alone = [joined((4, seed)) for seed in SEEDS]
            asked = [joined((4, near(seed)), (1, near(seed)), (9, near(seed))) for seed in SEEDS]
            return [*alone, *asked, *(joined((4, message)) for message in every_type())]
        case "tftp":
            lines = [path.read_text().splitlines() for path in TFTP_CAPTURES.glob("*.hex")]
            raw = [bytes.fromhex("".join(x for x in each if x[0] != "#")) for each in lines]
            return raw + [request + b"\xff\xff\xff\0\4\0\0" for request in raw]
    return [b"\0\0\0\0"]


def main() -> None:
    """Fuzz one target until libFuzzer ends the process."""
    target = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()

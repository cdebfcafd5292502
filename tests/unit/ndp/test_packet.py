"""Router solicitations and advertisements, frame by frame."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootnode.addresses import MacAddress
from bootnode.ndp.packet import (
    RouterAdvertisement,
    RouterSolicitation,
    parse_frame,
    serialize_router_advertisement,
)

NODE = MacAddress.parse("fc:ab:14:e8:66:01")
SERVER = MacAddress.parse("02:00:00:00:00:01")
NODE_ADDRESS = IPv6Address("fe80::feab:14ff:fee8:6601")
SERVER_ADDRESS = IPv6Address("fe80::ff:fe00:1")
ALL_ROUTERS = IPv6Address("ff02::2")


def frame(
    message: bytes,
    *,
    source: IPv6Address = NODE_ADDRESS,
    destination: IPv6Address = ALL_ROUTERS,
    ethertype: int = 0x86DD,
    version: int = 6,
    next_header: int = 58,
    hop_limit: int = 255,
    size: int | None = None,
    trailer: bytes = b"",
) -> bytes:
    """A frame from the node, its checksum put into bytes 2 and 3 of the message."""
    pseudo = source.packed + destination.packed + len(message).to_bytes(4, "big") + b"\0\0\0\x3a"
    words = pseudo + message[:2] + b"\0\0" + message[4:]
    total = sum(int.from_bytes(words[at : at + 2], "big") for at in range(0, len(words), 2))
    checksum = ~(total % 0xFFFF) & 0xFFFF
    return (
        (b"\x33\x33\0\0\0\2" + NODE + ethertype.to_bytes(2, "big"))
        + bytes((version << 4, 0, 0, 0))
        + (len(message) if size is None else size).to_bytes(2, "big")
        + bytes((next_header, hop_limit))
        + (source.packed + destination.packed)
        + (message[:2] + checksum.to_bytes(2, "big") + message[4:] + trailer)
    )


SOLICITATION = b"\x85" + bytes(7)
LINK_LAYER_OPTION = b"\x01\x01" + NODE
ADVERTISEMENT = b"\x86\0\0\0\x40\xc0\x07\x08" + bytes(8)
PREFIX_OPTION = b"\x03\x04" + bytes(30)


@pytest.mark.parametrize("source", [NODE_ADDRESS, IPv6Address("::")])
@pytest.mark.parametrize("options", [b"", LINK_LAYER_OPTION])
@pytest.mark.parametrize("trailer", [b"", bytes(4)])
def test_solicitation(source: IPv6Address, options: bytes, trailer: bytes) -> None:
    data = frame(SOLICITATION + options, source=source, trailer=trailer)
    assert parse_frame(data) == RouterSolicitation(source_mac=NODE, source_address=source)


@pytest.mark.parametrize("options", [b"", LINK_LAYER_OPTION + PREFIX_OPTION])
def test_advertisement(options: bytes) -> None:
    assert parse_frame(frame(ADVERTISEMENT + options)) == RouterAdvertisement(
        source_mac=NODE, source_address=NODE_ADDRESS, router_lifetime_s=1800
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        frame(SOLICITATION, ethertype=0x0800),
        frame(SOLICITATION, version=4),
        frame(SOLICITATION, next_header=17),
        frame(SOLICITATION, hop_limit=64),  # It came through a router.
        frame(SOLICITATION, size=9),
        frame(SOLICITATION, size=7),
        frame(b"\x85\x01" + bytes(6)),
        frame(b"\x87" + bytes(7)),
        frame(SOLICITATION)[:-1] + b"\1",
        frame(SOLICITATION + b"\x01\x00" + bytes(6)),
        frame(SOLICITATION + b"\x01\x02" + bytes(6)),
        frame(ADVERTISEMENT + b"\x01\x00" + bytes(6)),
        frame(ADVERTISEMENT[:8]),
        frame(ADVERTISEMENT, source=IPv6Address("2001:db8::1")),
    ],
)
def test_not_a_valid_message(data: bytes) -> None:
    assert parse_frame(data) is None


def test_an_option_cut_after_its_type() -> None:
    message = SOLICITATION + LINK_LAYER_OPTION + b"\x01\x01"
    assert parse_frame(frame(message)) is None


@pytest.mark.parametrize("message", [SOLICITATION + LINK_LAYER_OPTION, ADVERTISEMENT])
def test_every_prefix_is_nothing(message: bytes) -> None:
    data = frame(message)
    assert [parse_frame(data[:size]) for size in range(len(data))] == [None] * len(data)


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_random_bytes_are_nothing_or_a_message(data: bytes) -> None:
    parse_frame(data)
    parse_frame(frame(SOLICITATION + data.ljust(len(data) + len(data) % 2, b"\0")))


@given(st.integers(0, 8 * (54 + 16) - 1))
@settings(deadline=None)
def test_a_flipped_bit_changes_the_meaning_or_ends_it(position: int) -> None:
    data = bytearray(frame(SOLICITATION + LINK_LAYER_OPTION))
    data[position // 8] ^= 1 << position % 8
    meaning = parse_frame(bytes(data))
    # Only what no checksum covers may change unnoticed: the Ethernet addresses and the flow label.
    in_free_bits = position // 8 < 12 or 14 <= position // 8 < 18
    assert meaning is None or in_free_bits


def test_our_answer_promises_nothing() -> None:
    data = serialize_router_advertisement(
        source_mac=SERVER,
        source_address=SERVER_ADDRESS,
        destination_mac=NODE,
        destination_address=NODE_ADDRESS,
    )
    assert data[:14] == NODE + SERVER + b"\x86\xdd"
    assert data[14:22] == b"\x60\0\0\0\0\x10\x3a\xff"
    assert data[22:54] == SERVER_ADDRESS.packed + NODE_ADDRESS.packed
    assert (data[54:56], data[58:]) == (b"\x86\0", bytes(12))
    assert parse_frame(data) == RouterAdvertisement(
        source_mac=SERVER, source_address=SERVER_ADDRESS, router_lifetime_s=0
    )


def test_a_node_without_an_address_is_answered_at_all_nodes() -> None:
    data = serialize_router_advertisement(
        source_mac=SERVER,
        source_address=SERVER_ADDRESS,
        destination_mac=NODE,
        destination_address=IPv6Address("::"),
    )
    assert data[:6] == NODE
    assert IPv6Address(data[38:54]) == IPv6Address("ff02::1")
    assert parse_frame(data) is not None

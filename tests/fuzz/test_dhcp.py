"""DHCP messages nobody would send: read, or refused with PacketError, and nothing else.

What has been read can be read out with every option's codec, and written again unless a value has
grown too long to send.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bootnode.dhcp import options as opt
from bootnode.dhcp import pxe
from bootnode.dhcp.packet import FILE_SIZE_MAX, SNAME_SIZE_MAX, Packet
from bootnode.errors import PacketError

CAPTURES = Path(__file__).parents[1] / "captures"


def read(path: Path) -> bytes:
    lines = path.read_text().splitlines()
    return bytes.fromhex("".join(line for line in lines if line[0] != "#"))


SEEDS = [read(path) for path in sorted(CAPTURES.glob("*.hex"))]
COOKIE = bytes.fromhex("63825363")


def check(data: bytes) -> None:
    try:
        packet = Packet.parse(data)
    except PacketError:
        return
    for option in opt.OPTIONS:
        _check_value(packet, option)
    pxe.PxeOptions.parse(packet.get(opt.VENDOR_ENCAPSULATED) or b"")
    assert packet.fit(300).size <= packet.size
    if _can_be_sent(packet):
        again = Packet.parse(packet.serialize())
        assert (again.options, again.file, again.sname) == (
            packet.options,
            packet.file,
            packet.sname,
        )
        assert again.problems == ()


def _check_value(packet: Packet, option: opt.Option[Any]) -> None:
    try:
        value = packet.get(option)
    except PacketError:
        assert option in (opt.DOMAIN_SEARCH, opt.CLASSLESS_ROUTES)
    else:
        assert (value is None) == (option.code not in packet.options)


def _can_be_sent(packet: Packet) -> bool:
    return (
        len(packet.file) <= FILE_SIZE_MAX
        and len(packet.sname) <= SNAME_SIZE_MAX
        and all(len(value) <= opt.VALUE_SIZE_MAX for value in packet.options.values())
        and packet.size <= 9000
    )


@given(st.binary(max_size=600))
@settings(max_examples=300, deadline=None)
def test_random_bytes(data: bytes) -> None:
    check(data)


@given(st.sampled_from(SEEDS), st.binary(max_size=600))
@settings(max_examples=500, deadline=None)
def test_random_options_in_a_real_message(seed: bytes, area: bytes) -> None:
    check(seed[:236] + COOKIE + area)


@given(
    st.sampled_from(SEEDS),
    st.integers(1, 3),
    st.binary(max_size=64),
    st.binary(max_size=128),
)
@settings(max_examples=300, deadline=None)
def test_random_overloaded_fields(seed: bytes, which: int, sname: bytes, file: bytes) -> None:
    fields = sname.ljust(64, b"\0") + file.ljust(128, b"\0")
    check(seed[:44] + fields + COOKIE + bytes((opt.OVERLOAD.code, 1, which)))


@given(st.sampled_from(SEEDS), st.lists(st.integers(0, 10_000), min_size=1, max_size=8))
@settings(max_examples=500, deadline=None)
def test_flipped_bits(seed: bytes, positions: list[int]) -> None:
    data = bytearray(seed)
    for position in positions:
        data[position // 8 % len(data)] ^= 1 << position % 8
    check(bytes(data))


@given(st.sampled_from(SEEDS), st.integers(0, 600), st.integers(0, 20))
@settings(max_examples=300, deadline=None)
def test_cut_out_of_the_middle(seed: bytes, at: int, size: int) -> None:
    check(seed[:at] + seed[at + size :])

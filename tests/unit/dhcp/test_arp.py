"""The ARP probe and its answer; that other implementations agree is tested against scapy."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from bootnode.addresses import MacAddress
from bootnode.dhcp import arp

OURS = MacAddress.parse("02:00:00:00:00:01")
THEIRS = MacAddress.parse("02:00:00:00:00:99")
ADDRESS = IPv4Address("10.77.0.100")
ANSWER = bytes.fromhex(
    "020000000001 020000000099 0806 0001 0800 06 04 0002020000000099 0a4d0064 020000000001 00000000"
)


def test_probe_names_no_sender_address() -> None:
    assert arp.serialize_probe(OURS, ADDRESS) == bytes.fromhex(
        "ffffffffffff 020000000001 0806 0001 0800 06 04 0001"
        "020000000001 00000000 000000000000 0a4d0064"
    ).ljust(60, b"\0")


def test_answer() -> None:
    assert arp.parse_reply(ANSWER) == (ADDRESS, THEIRS)
    assert arp.parse_reply(ANSWER.ljust(60, b"\0")) == (ADDRESS, THEIRS)


@pytest.mark.parametrize("size", range(len(ANSWER)))
def test_what_is_cut_short_is_no_answer(size: int) -> None:
    assert arp.parse_reply(ANSWER[:size]) is None


@pytest.mark.parametrize("at", range(12, 22))
def test_what_is_something_else_is_no_answer(at: int) -> None:
    other = bytearray(ANSWER)
    other[at] ^= 0x40
    assert arp.parse_reply(bytes(other)) is None


def test_our_own_probe_is_no_answer() -> None:
    assert arp.parse_reply(arp.serialize_probe(OURS, ADDRESS)) is None

"""ARP, as far as it takes to find out whether an address is in use: a probe, and its answer.

RFC 826; RFC 5227 section 1.1: a probe names no sender address, so that it changes nobody's cache.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from bootnode.addresses import MacAddress

ETHERTYPE = 0x0806
_BROADCAST = b"\xff" * 6
_FRAME = struct.Struct("!6s6sHHHBBH6s4s6s4s")
_FRAME_SIZE_MIN = 60
_REQUEST = 1
_REPLY = 2
_ETHERNET_AND_IPV4 = (1, 0x0800, 6, 4)


def serialize_probe(sender: MacAddress, address: IPv4Address) -> bytes:
    """An Ethernet frame that asks everybody who has an address."""
    frame = _FRAME.pack(
        *(_BROADCAST, sender, ETHERTYPE, *_ETHERNET_AND_IPV4, _REQUEST),
        *(sender, bytes(4), bytes(6), address.packed),
    )
    return frame.ljust(_FRAME_SIZE_MIN, b"\0")


def parse_reply(frame: bytes) -> tuple[IPv4Address, MacAddress] | None:
    """Who answers for which address; None if the frame is no ARP reply."""
    if len(frame) < _FRAME.size:
        return None
    _, _, ethertype, *kinds, operation, mac, address, _, _ = _FRAME.unpack_from(frame)
    if ethertype != ETHERTYPE or tuple(kinds) != _ETHERNET_AND_IPV4 or operation != _REPLY:
        return None
    return IPv4Address(address), MacAddress(mac)

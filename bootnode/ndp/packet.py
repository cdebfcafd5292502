"""IPv6 neighbour discovery as far as netboot needs it: router solicitations and advertisements.

RFC 4861 sections 4.1, 4.2 and 6.1 (the messages and what makes them valid), RFC 4443 (ICMPv6 and
its checksum). A frame is everything from the Ethernet destination on, without the checksum.

iPXE asks for IPv6 routers beside DHCPv4 and waits for an answer. The advertisement written here
answers and does nothing else: router lifetime 0 (we are no router), no prefix (no address follows),
neither the managed nor the other-configuration flag (there is no DHCPv6).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

from bootnode.addresses import MacAddress
from bootnode.checksum import internet_checksum

ETHERTYPE_IPV6: Final = 0x86DD
_NEXT_HEADER_ICMPV6 = 58
# A router does not forward such a message, so 255 on arrival proves that it is from this link.
_HOP_LIMIT = 255
_ROUTER_SOLICITATION = 133
_ROUTER_ADVERTISEMENT = 134

_HEADERS = struct.Struct("!6s6sHIHBB16s16s")
"""Ethernet and IPv6: MACs, type; version and flow, payload length, next header, hop limit."""
_PSEUDO_HEADER = struct.Struct("!16s16sI3xB")
_SOLICITATION = struct.Struct("!BBH4x")
_ADVERTISEMENT = struct.Struct("!BBHBBHII")
_IPV6_VERSION_6 = 6 << 28
_ALL_NODES = IPv6Address("ff02::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSolicitation:
    """A host asks for routers."""

    source_mac: MacAddress
    source_address: IPv6Address
    """`::` when the host has no address yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterAdvertisement:
    """A router makes itself known."""

    source_mac: MacAddress
    source_address: IPv6Address
    router_lifetime_s: int
    """0 when it is no default router, and yet may announce prefixes."""


def parse_frame(frame: bytes) -> RouterSolicitation | RouterAdvertisement | None:
    """Read a frame that may be a valid router solicitation or advertisement; None if neither."""
    if len(frame) < _HEADERS.size + _SOLICITATION.size:
        return None
    _, mac, ethertype, version, size, next_header, hop_limit, source, destination = (
        _HEADERS.unpack_from(frame)
    )
    if (ethertype, version >> 28, next_header) != (ETHERTYPE_IPV6, 6, _NEXT_HEADER_ICMPV6):
        return None
    message = frame[_HEADERS.size : _HEADERS.size + size]
    if len(message) < max(size, _SOLICITATION.size) or hop_limit != _HOP_LIMIT:
        return None
    message_type, code, _ = _SOLICITATION.unpack_from(message)
    if code or message_type not in (_ROUTER_SOLICITATION, _ROUTER_ADVERTISEMENT):
        return None
    if _checksum(source, destination, message):
        return None
    source_mac, source_address = MacAddress(mac), IPv6Address(source)
    if message_type == _ROUTER_SOLICITATION:
        if not _are_options(message[_SOLICITATION.size :]):
            return None
        return RouterSolicitation(source_mac=source_mac, source_address=source_address)
    return _parse_advertisement(message, source_mac, source_address)


def serialize_router_advertisement(
    *,
    source_mac: MacAddress,
    source_address: IPv6Address,
    destination_mac: MacAddress,
    destination_address: IPv6Address,
) -> bytes:
    """Write the whole frame of the advertisement that promises nothing.

    `source_address` must be link-local. Where the host asked from `::`, the answer is addressed to
    all nodes (RFC 4861 section 6.2.6), and still goes to the host's MAC alone.
    """
    if destination_address.is_unspecified:
        destination_address = _ALL_NODES
    source, destination = source_address.packed, destination_address.packed
    message = _ADVERTISEMENT.pack(_ROUTER_ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0)
    checksum = _checksum(source, destination, message)
    message = _ADVERTISEMENT.pack(_ROUTER_ADVERTISEMENT, 0, checksum, 0, 0, 0, 0, 0)
    headers = _HEADERS.pack(
        destination_mac,
        source_mac,
        ETHERTYPE_IPV6,
        _IPV6_VERSION_6,
        len(message),
        _NEXT_HEADER_ICMPV6,
        _HOP_LIMIT,
        source,
        destination,
    )
    return headers + message


def _parse_advertisement(
    message: bytes, source_mac: MacAddress, source_address: IPv6Address
) -> RouterAdvertisement | None:
    # RFC 4861 section 6.1.2: valid from a link-local address only.
    if len(message) < _ADVERTISEMENT.size or not source_address.is_link_local:
        return None
    if not _are_options(message[_ADVERTISEMENT.size :]):
        return None
    lifetime_s = _ADVERTISEMENT.unpack_from(message)[5]
    return RouterAdvertisement(
        source_mac=source_mac, source_address=source_address, router_lifetime_s=lifetime_s
    )


def _are_options(area: bytes) -> bool:
    """Whether these are whole options: a type, a length in units of 8 bytes, never zero."""
    at = 0
    while at < len(area):
        length = area[at + 1] * 8 if at + 1 < len(area) else 0
        if not length:
            return False
        at += length
    return at == len(area)


def _checksum(source: bytes, destination: bytes, message: bytes) -> int:
    """The ICMPv6 checksum over the pseudo-header and the message; 0 over a message that has it."""
    header = _PSEUDO_HEADER.pack(source, destination, len(message), _NEXT_HEADER_ICMPV6)
    return internet_checksum(header + message)

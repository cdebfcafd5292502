"""What stands inside DHCP options: numbers, text, addresses and the composed values.

RFC 2132, and 3004 (user class), 3046 (relay agent), 3397 (domain search), 3442 (routes). Each
`parse_` reads any bytes of a length that its option allows, except the two that can be wrong at
the right length and raise PacketError: `parse_domains` and `parse_routes`. Each `serialize_`
raises ValueError (OverflowError for a number) when the value cannot be written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network

from bootnode.errors import PacketError


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A static route of option 121."""

    network: IPv4Network
    gateway: IPv4Address


class RelaySubOption(IntEnum):
    """Sub-options of option 82."""

    CIRCUIT_ID = 1
    REMOTE_ID = 2
    LINK_SELECTION = 5
    SERVER_ID_OVERRIDE = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayAgentInfo:
    """Option 82 taken apart. To echo it, copy the raw value: relays compare it byte for byte."""

    sub_options: tuple[tuple[int, bytes], ...]

    def get(self, code: RelaySubOption) -> bytes | None:
        """The first sub-option of that code."""
        return next((value for number, value in self.sub_options if number == code), None)

    @property
    def link_selection(self) -> IPv4Address | None:
        """An address of the client's subnet, which then decides instead of giaddr (RFC 3527)."""
        return self._address(RelaySubOption.LINK_SELECTION)

    @property
    def server_id_override(self) -> IPv4Address | None:
        """The server identifier that the client should see (RFC 5107)."""
        return self._address(RelaySubOption.SERVER_ID_OVERRIDE)

    def _address(self, code: RelaySubOption) -> IPv4Address | None:
        value = self.get(code)
        return IPv4Address(value) if value is not None and len(value) == 4 else None


def parse_text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("latin-1")


def serialize_text(text: str) -> bytes:
    return text.encode("latin-1")


def serialize_text_nul(text: str) -> bytes:
    # EDK2 reads option 67 as a C string; unterminated, it overwrites the byte behind the value.
    return text.encode("latin-1") + b"\0"


def parse_addresses(raw: bytes) -> tuple[IPv4Address, ...]:
    return tuple(IPv4Address(raw[at : at + 4]) for at in range(0, len(raw), 4))


def serialize_addresses(addresses: Iterable[IPv4Address]) -> bytes:
    return b"".join(address.packed for address in addresses)


def serialize_uint8(number: int) -> bytes:
    return bytes((number,))


def serialize_uint16(number: int) -> bytes:
    return number.to_bytes(2, "big")


def serialize_uint32(number: int) -> bytes:
    return number.to_bytes(4, "big")


def parse_uint(raw: bytes) -> int:
    return int.from_bytes(raw, "big")


def parse_uint16s(raw: bytes) -> tuple[int, ...]:
    return struct.unpack(f"!{len(raw) // 2}H", raw)


def serialize_uint16s(numbers: Sequence[int]) -> bytes:
    return struct.pack(f"!{len(numbers)}H", *numbers)


def parse_user_class(raw: bytes) -> tuple[bytes, ...]:
    """RFC 3004 frames each class with its length; iPXE sends its one class bare."""
    classes, at = [], 0
    while at < len(raw):
        length = raw[at]
        classes.append(raw[at + 1 : at + 1 + length])
        at += 1 + length
        if not length or at > len(raw):
            return (raw.rstrip(b"\0"),)
    return tuple(classes)


def serialize_user_class(classes: Sequence[bytes]) -> bytes:
    """One class goes bare, as iPXE sends it and servers expect it; several are framed."""
    if len(classes) == 1:
        return classes[0]
    return b"".join(bytes((len(name),)) + name for name in classes)


def parse_relay_agent_info(raw: bytes) -> RelayAgentInfo:
    """Sub-options up to the first that runs past the end; there is no PAD or END inside."""
    sub_options, at = [], 0
    while at + 2 <= len(raw) and at + 2 + raw[at + 1] <= len(raw):
        value_at = at + 2
        at = value_at + raw[value_at - 1]
        sub_options.append((raw[value_at - 2], raw[value_at:at]))
    return RelayAgentInfo(sub_options=tuple(sub_options))


def serialize_relay_agent_info(info: RelayAgentInfo) -> bytes:
    return b"".join(bytes((code, len(value))) + value for code, value in info.sub_options)


def parse_domains(raw: bytes) -> tuple[str, ...]:
    """Names in DNS form, in which a pointer may stand for the rest of a name (RFC 3397)."""
    domains, at = [], 0
    while at < len(raw):
        labels, at = _parse_labels(raw, at)
        domains.append(".".join(labels))
    return tuple(domains)


def _parse_labels(raw: bytes, at: int) -> tuple[list[str], int]:
    """The labels of the name at `at`, and where the next name begins."""
    labels: list[str] = []
    next_name_at = 0
    while True:
        length = raw[at] if at < len(raw) else 0x80
        if length & 0xC0 == 0xC0 and at + 1 < len(raw):
            target = int.from_bytes(raw[at : at + 2], "big") & 0x3FFF
            # Only backwards, so that no chain of pointers can run in a circle.
            if target >= at:
                raise PacketError("option 119 (domain-search) has a pointer that leads forward")
            next_name_at, at = next_name_at or at + 2, target
        elif length & 0xC0:
            raise PacketError("option 119 (domain-search) breaks off within a name")
        elif not length:
            return labels, next_name_at or at + 1
        else:
            labels.append(raw[at + 1 : at + 1 + length].decode("latin-1"))
            at += 1 + length


def serialize_domains(domains: Iterable[str]) -> bytes:
    """Without pointers: some clients cannot follow them."""
    return b"".join(_serialize_name(domain) for domain in domains)


def _serialize_name(domain: str) -> bytes:
    labels = [label.encode("latin-1") for label in domain.rstrip(".").split(".")]
    if not all(1 <= len(label) <= 63 for label in labels):
        raise ValueError(f"'{domain}' is not a domain name (want labels of 1 to 63 characters)")
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def parse_routes(raw: bytes) -> tuple[Route, ...]:
    """Prefix length, the network's significant bytes only, gateway (RFC 3442)."""
    routes, at = [], 0
    while at < len(raw):
        gateway_at = at + 1 + (raw[at] + 7) // 8
        if raw[at] > 32 or gateway_at + 4 > len(raw):
            raise PacketError("option 121 (classless-static-route) breaks off within a route")
        network = raw[at + 1 : gateway_at].ljust(4, b"\0")
        routes.append(
            Route(
                network=IPv4Network((network, raw[at]), strict=False),
                gateway=IPv4Address(raw[gateway_at : gateway_at + 4]),
            )
        )
        at = gateway_at + 4
    return tuple(routes)


def serialize_routes(routes: Iterable[Route]) -> bytes:
    return b"".join(
        bytes((route.network.prefixlen,))
        + route.network.network_address.packed[: (route.network.prefixlen + 7) // 8]
        + route.gateway.packed
        for route in routes
    )

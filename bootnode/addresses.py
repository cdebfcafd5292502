"""Address values: MAC addresses, address ranges, and a network interface as we serve on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from typing import Final, Self

ADDRESSES_MAX: Final = 4096
"""IPv4 addresses that are kept at hand: making one takes longer than a packet's whole header."""

_MAC_PATTERNS = (
    re.compile(r"(?:[0-9a-f]{2}([:-]))(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}"),
    re.compile(r"[0-9a-f]{4}\.[0-9a-f]{4}\.[0-9a-f]{4}"),
    re.compile(r"[0-9a-f]{12}"),
)
# pxelinux and BOOTIF= write the hardware type, 01 for Ethernet, in front of the address.
_HARDWARE_TYPE_PREFIX = re.compile(r"01[:-](?=(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}$)")


class MacAddress(bytes):
    """A 48-bit Ethernet address: six bytes on the wire, `aa:bb:cc:dd:ee:ff` as text."""

    def __new__(cls, raw: bytes) -> Self:
        if len(raw) != 6:
            raise ValueError(f"a MAC address has 6 bytes, not {len(raw)}")
        return super().__new__(cls, raw)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the usual spellings: colons, hyphens, Cisco dots, bare hex, pxelinux `01-`.

        Raises:
            ValueError: the text is none of them.
        """
        folded = _HARDWARE_TYPE_PREFIX.sub("", text.strip().lower())
        if not any(pattern.fullmatch(folded) for pattern in _MAC_PATTERNS):
            raise ValueError(f"'{text}' is not a MAC address (want aa:bb:cc:dd:ee:ff)")
        return cls(bytes.fromhex(re.sub(r"[:.-]", "", folded)))

    def plus(self, offset: int) -> Self:
        """The address `offset` further, as a node range counts up."""
        value = int.from_bytes(self, "big") + offset
        if value >= 1 << 48:
            raise ValueError(f"counting {offset} up from {self!s} leaves the MAC address space")
        return type(self)(value.to_bytes(6, "big"))

    @property
    def hyphenated(self) -> str:
        """`aa-bb-cc-dd-ee-ff`, the form that URLs and file names take."""
        return self.hex("-")

    @property
    def is_group(self) -> bool:
        """Whether this is a broadcast or multicast address, which no node can have."""
        return bool(self[0] & 1)

    def __str__(self) -> str:
        return self.hex(":")

    def __repr__(self) -> str:
        return f"MacAddress('{self}')"


@lru_cache(maxsize=ADDRESSES_MAX)
def parse_address(raw: bytes | str) -> IPv4Address:
    """An address out of a packet: its four bytes, or the text that a socket gives.

    Raises:
        ValueError: it is neither.
    """
    return IPv4Address(raw)


@dataclass(frozen=True, slots=True)
class AddressRange:
    """IPv4 addresses from `first` to `last`, both included."""

    first: IPv4Address
    last: IPv4Address

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `10.77.0.100-10.77.0.199`.

        Raises:
            ValueError: it is not two addresses in ascending order.
        """
        first_text, _, last_text = text.partition("-")
        try:
            first, last = IPv4Address(first_text.strip()), IPv4Address(last_text.strip())
        except ValueError:
            raise ValueError(
                f"'{text}' is not an address range (want 10.77.0.100-10.77.0.199)"
            ) from None
        if last < first:
            raise ValueError(f"'{text}' runs backwards (want the lower address first)")
        return cls(first, last)

    def __len__(self) -> int:
        return int(self.last) - int(self.first) + 1

    def __contains__(self, address: object) -> bool:
        return isinstance(address, IPv4Address) and self.first <= address <= self.last

    def __iter__(self) -> Iterator[IPv4Address]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> IPv4Address:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.first + index

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """A network interface of this server, as it was when the daemon started."""

    name: str
    index: int
    mac: MacAddress
    address: IPv4Interface
    """Our address there with its prefix; the server identifier in every DHCP reply."""
    link_local: IPv6Address
    """Our IPv6 link-local address, the only source a router advertisement may have (RFC 4861)."""
    mtu: int
    """Largest IP datagram in bytes."""

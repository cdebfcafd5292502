"""DHCP options: one constant each, with its name, its codec and the lengths it may have.

RFC 2132, and 3004 (77), 3011 (118), 3046 (82), 3397 (119), 3442 (121), 4578 (93, 94, 97), 5071
(208-211), 5859 (150). Rules:

- `SUBNET_MASK.item(mask)` makes the entry for `Packet.options`; `packet.get(SUBNET_MASK)` reads it.
- A wrong value is found by its length alone; every codec here reads any value of a valid length,
  but DOMAIN_SEARCH and CLASSLESS_ROUTES, which raise PacketError (only servers send them).
- Text is Latin-1, which holds any byte; trailing NULs, as Windows sends them, are stripped.
- Names are RFC 2132's, in lower case with hyphens: `OPTIONS_BY_NAME["domain-name-server"]`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address
from typing import Any, Generic, TypeVar

from bootnode.addresses import parse_address
from bootnode.dhcp import values
from bootnode.dhcp.values import RelayAgentInfo, Route

T = TypeVar("T")

PAD = 0
END = 255
VALUE_SIZE_MAX = 255
"""Bytes one option can carry; we never split a longer value (iPXE reads the first part only)."""


class MessageType(IntEnum):
    """Option 53 (RFC 2132 section 9.6 and the IANA registry)."""

    UNKNOWN = 0
    """Not assigned on the wire: stands for every number this table does not have."""
    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8
    FORCERENEW = 9
    LEASEQUERY = 10
    LEASEUNASSIGNED = 11
    LEASEUNKNOWN = 12
    LEASEACTIVE = 13

    @classmethod
    def _missing_(cls, _value: object) -> MessageType:
        return cls.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Option(Generic[T]):
    """One DHCP option: how it is numbered, called, read and written."""

    code: int
    name: str
    parse: Callable[[bytes], T]
    serialize: Callable[[T], bytes]
    length_min: int
    length_multiple: int = 1
    length_max: int = 0xFFFF
    """Longer than VALUE_SIZE_MAX where a client may split the value (RFC 3396)."""

    @property
    def lengths(self) -> range:
        """The lengths in bytes that a value may have."""
        return range(self.length_min, self.length_max + 1, self.length_multiple)

    @property
    def is_fixed_length(self) -> bool:
        """Whether a value can have one length only, so that it cannot come in parts."""
        return self.length_min == self.length_max

    def item(self, value: T) -> tuple[int, bytes]:
        """The code and the serialized value, as `dict()` takes them for `Packet.options`."""
        return self.code, self.serialize(value)


def scan(area: bytes, into: dict[int, bytes]) -> int | None:
    """Read code-length-value triples up to END into `into`, joining repeated codes (RFC 3396).

    Returns the code of an option that runs past the end of the area, which also ends the reading;
    None when all is well. PXE's option 43 and iPXE's option 175 have this grammar inside, too.
    """
    at, size = 0, len(area)
    while at < size:
        code = area[at]
        if code == PAD:
            at += 1
            continue
        if code == END:
            return None
        value_at = at + 2
        if value_at > size:
            return code
        at = value_at + area[at + 1]
        if at > size:
            return code
        value = area[value_at:at]
        into[code] = into[code] + value if code in into else value
    return None


MESSAGE_TYPES = tuple(map(MessageType, range(256)))
"""What each byte of option 53 means."""


def _parse_message_type(raw: bytes) -> MessageType:
    return MESSAGE_TYPES[raw[0]]


def _address(code: int, name: str) -> Option[IPv4Address]:
    return Option(
        code=code,
        name=name,
        parse=parse_address,
        serialize=lambda address: address.packed,
        length_min=4,
        length_max=4,
    )


def _addresses(code: int, name: str) -> Option[tuple[IPv4Address, ...]]:
    return Option(
        code=code,
        name=name,
        parse=values.parse_addresses,
        serialize=values.serialize_addresses,
        length_min=4,
        length_multiple=4,
    )


def _text(code: int, name: str, *, nul_terminated: bool = False) -> Option[str]:
    serialize = values.serialize_text_nul if nul_terminated else values.serialize_text
    return Option(code=code, name=name, parse=values.parse_text, serialize=serialize, length_min=1)


def _raw(code: int, name: str, *, length_min: int = 1, length_max: int = 0xFFFF) -> Option[bytes]:
    return Option(
        code=code,
        name=name,
        parse=bytes,
        serialize=bytes,
        length_min=length_min,
        length_max=length_max,
    )


_SERIALIZE_UINT = {
    1: values.serialize_uint8,
    2: values.serialize_uint16,
    4: values.serialize_uint32,
}


def _uint(code: int, name: str, *, length: int) -> Option[int]:
    return Option(
        code=code,
        name=name,
        parse=values.parse_uint,
        serialize=_SERIALIZE_UINT[length],
        length_min=length,
        length_max=length,
    )


SUBNET_MASK = _address(1, "subnet-mask")
ROUTERS = _addresses(3, "router")
DNS_SERVERS = _addresses(6, "domain-name-server")
HOST_NAME = _text(12, "host-name")
BOOT_FILE_SIZE = _uint(13, "boot-file-size", length=2)
"""In blocks of 512 bytes. Never sent: EDK2 would trust it instead of TFTP's tsize."""
DOMAIN_NAME = _text(15, "domain-name")
ROOT_PATH = _text(17, "root-path")
INTERFACE_MTU = _uint(26, "interface-mtu", length=2)
BROADCAST = _address(28, "broadcast-address")
NTP_SERVERS = _addresses(42, "ntp-servers")
VENDOR_ENCAPSULATED = _raw(43, "vendor-specific-information")
"""What it means depends on option 60; `pxe.PxeOptions` reads the PXEClient's."""
REQUESTED_ADDRESS = _address(50, "requested-ip-address")
LEASE_TIME = _uint(51, "ip-address-lease-time", length=4)
"""In seconds; 0xFFFFFFFF is for ever."""
OVERLOAD = _uint(52, "option-overload", length=1)
"""Only ever inside `Packet.parse`, which merges the fields it speaks of; never sent."""
MESSAGE_TYPE: Option[MessageType] = Option(
    code=53,
    name="dhcp-message-type",
    parse=_parse_message_type,
    serialize=values.serialize_uint8,
    length_min=1,
    length_max=1,
)
SERVER_ID = _address(54, "server-identifier")
PARAMETER_LIST: Option[tuple[int, ...]] = Option(
    code=55, name="parameter-request-list", parse=tuple, serialize=bytes, length_min=1
)
MESSAGE = _text(56, "message")
MAX_MESSAGE_SIZE = _uint(57, "maximum-dhcp-message-size", length=2)
"""In bytes, the IP and UDP headers included."""
RENEWAL_TIME = _uint(58, "renewal-time-value", length=4)
REBINDING_TIME = _uint(59, "rebinding-time-value", length=4)
VENDOR_CLASS = _text(60, "vendor-class-identifier")
# RFC 2132 wants two bytes at least; the echo of RFC 6842 needs no more than one.
CLIENT_ID = _raw(61, "client-identifier")
TFTP_SERVER = _text(66, "tftp-server-name", nul_terminated=True)
BOOT_FILE = _text(67, "bootfile-name", nul_terminated=True)
USER_CLASS: Option[tuple[bytes, ...]] = Option(
    code=77,
    name="user-class",
    parse=values.parse_user_class,
    serialize=values.serialize_user_class,
    length_min=1,
)
RELAY_AGENT_INFO: Option[RelayAgentInfo] = Option(
    code=82,
    name="relay-agent-information",
    parse=values.parse_relay_agent_info,
    serialize=values.serialize_relay_agent_info,
    length_min=2,
)
ARCHITECTURES: Option[tuple[int, ...]] = Option(
    code=93,
    name="client-system-architecture",
    parse=values.parse_uint16s,
    serialize=values.serialize_uint16s,
    length_min=2,
    length_multiple=2,
)
NIC_INTERFACE = _raw(94, "client-network-interface", length_min=3, length_max=3)
MACHINE_UUID = _raw(97, "client-machine-identifier")
"""Raw, since firmware puts other things than a UUID there; `pxe.machine_uuid` reads it."""
SUBNET_SELECTION = _address(118, "subnet-selection")
DOMAIN_SEARCH: Option[tuple[str, ...]] = Option(
    code=119,
    name="domain-search",
    parse=values.parse_domains,
    serialize=values.serialize_domains,
    length_min=2,
)
CLASSLESS_ROUTES: Option[tuple[Route, ...]] = Option(
    code=121,
    name="classless-static-route",
    parse=values.parse_routes,
    serialize=values.serialize_routes,
    length_min=5,
)
VENDOR_IDENTIFYING_CLASS = _raw(124, "vendor-identifying-vendor-class")
VENDOR_IDENTIFYING = _raw(125, "vendor-identifying-vendor-specific-information")
TFTP_SERVERS_150 = _addresses(150, "tftp-server-address")
IPXE_ENCAPSULATED = _raw(175, "ipxe-encapsulated", length_min=0)
PXELINUX_MAGIC = _raw(208, "pxelinux-magic", length_min=4, length_max=4)
PXELINUX_CONFIG_FILE = _text(209, "pxelinux-config-file")
PXELINUX_PATH_PREFIX = _text(210, "pxelinux-path-prefix")
PXELINUX_REBOOT_TIME = _uint(211, "pxelinux-reboot-time", length=4)

PXELINUX_MAGIC_VALUE = bytes.fromhex("f100747e")

OPTIONS: tuple[Option[Any], ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Option)
)
OPTIONS_BY_CODE = {option.code: option for option in OPTIONS}
OPTIONS_BY_NAME = {option.name: option for option in OPTIONS}


def label(code: int) -> str:
    """The option as messages call it: `option 1 (subnet-mask)`, or `option 224`."""
    option = OPTIONS_BY_CODE.get(code)
    return f"option {code} ({option.name})" if option else f"option {code}"

"""The DHCP message: bytes to `Packet` and back.

RFC 2131 and 951 (the fixed fields), 2132 (options), 3396 (long options), 1542 (padding), 6842
(client identifier in replies). Rules:

- Reading is liberal: no minimum of 300 bytes, no END needed, PAD anywhere, options in `file` and
  `sname` merged in (overload), a message without the cookie is BOOTP. An option that is malformed
  is left out and named in `problems`; what cannot be a message at all raises PacketError.
- Writing is strict, for firmware is not: see optionfield; and there is no overload.
- A message is at most PACKET_SIZE_MAX bytes, and an option value 255 when written.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import Final, Self, TypeVar

from bootnode.addresses import MacAddress, parse_address
from bootnode.dhcp import options as known
from bootnode.dhcp.optionfield import USUAL_ORDER, Template, options_size, serialize_options
from bootnode.dhcp.options import (
    OPTIONS_BY_CODE,
    VALUE_SIZE_MAX,
    MessageType,
    Option,
    label,
)
from bootnode.errors import PacketError

T = TypeVar("T")

SERVER_PORT: Final = 67
CLIENT_PORT: Final = 68
PXE_PORT: Final = 4011
"""Where PXE boot servers answer (PXE 2.1 section 2.2.5)."""

BOOTREQUEST = 1
BOOTREPLY = 2
FLAG_BROADCAST = 0x8000
HTYPE_ETHERNET = 1

PACKET_SIZE_MAX: Final = 9216
"""Bytes of UDP payload that we read; a jumbo frame holds less."""
PACKET_SIZE_MIN: Final = 300
"""Bytes we send at least: old relays and Linux's ip=dhcp drop shorter ones (RFC 1542)."""
SNAME_SIZE_MAX: Final = 63
FILE_SIZE_MAX: Final = 127
"""Bytes that fit before the NUL; a longer boot file goes into option 67 alone."""

REPLY_SIZE_DEFAULT: Final = 548
"""UDP payload that every client takes: 576 less the IP and UDP headers (RFC 2131 section 2)."""
REPLY_SIZE_MAX: Final = 1472
"""EDK2 ignores longer replies, whatever option 57 says."""
_IP_AND_UDP_SIZE = 28

UNSPECIFIED: Final = IPv4Address(0)

_FIELDS = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s")
_HEADER = struct.Struct("!BBBBIHHIIII16s64s128s4s")
_COOKIE = bytes.fromhex("63825363")
_COOKIE_AT = _FIELDS.size
_OPTIONS_AT = _HEADER.size
_ZERO4 = bytes(4)

_OVERLOADS_FILE = 1
_OVERLOADS_SNAME = 2

_ANY_LENGTH = range(PACKET_SIZE_MAX)
_LENGTHS = tuple(
    OPTIONS_BY_CODE[code].lengths if code in OPTIONS_BY_CODE else _ANY_LENGTH for code in range(256)
)

# What a reply can do without when it does not fit, the most dispensable first. Before these go
# the extras: everything that is not in the usual order either.
_DROP_IN_ORDER = tuple(
    option.code
    for option in (
        *(known.DOMAIN_SEARCH, known.NTP_SERVERS, known.DOMAIN_NAME),
        *(known.HOST_NAME, known.CLASSLESS_ROUTES, known.MACHINE_UUID),
        known.RELAY_AGENT_INFO,
    )
)
_NOT_EXTRA = frozenset((*USUAL_ORDER, *_DROP_IN_ORDER, known.CLIENT_ID.code))

_MESSAGE_TYPE = known.MESSAGE_TYPE.code
_ECHOED = (known.CLIENT_ID.code, known.RELAY_AGENT_INFO.code)


# Not frozen, though nobody changes one: that would take longer than all the reading.
@dataclass(slots=True, kw_only=True)
class Packet:
    """One BOOTP or DHCP message. `op` is BOOTREQUEST or BOOTREPLY."""

    op: int
    htype: int = HTYPE_ETHERNET
    hlen: int = 6
    hops: int = 0
    xid: int
    secs: int = 0
    flags: int = 0
    ciaddr: IPv4Address = UNSPECIFIED
    yiaddr: IPv4Address = UNSPECIFIED
    siaddr: IPv4Address = UNSPECIFIED
    giaddr: IPv4Address = UNSPECIFIED
    chaddr: bytes
    """All 16 bytes; the address is the first `hlen`."""
    sname: bytes = b""
    """Up to its first NUL; empty when it held options."""
    file: bytes = b""
    """Up to its first NUL; empty when it held options."""
    options: Mapping[int, bytes] = field(default_factory=dict)
    """Each value by its code, parts joined; PAD, END and OVERLOAD never among them."""
    problems: tuple[str, ...] = ()
    """What was malformed and left out when the message was read, a sentence each."""

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the payload of a UDP datagram.

        Raises:
            PacketError: these bytes are no BOOTP or DHCP message.
        """
        size = len(data)
        if not _COOKIE_AT <= size <= PACKET_SIZE_MAX:
            raise PacketError(
                f"{size} bytes cannot be DHCP (want {_COOKIE_AT} to {PACKET_SIZE_MAX})"
            )
        op, htype, hlen, hops, xid, secs, flags, ci, yi, si, gi, chaddr, sname, file = (
            _FIELDS.unpack_from(data)
        )
        if op not in (BOOTREQUEST, BOOTREPLY):
            raise PacketError(f"op is {op} (want 1 for a request or 2 for a reply)")
        if hlen > 16 or (hlen and not htype):
            raise PacketError(f"a hardware address of type {htype} cannot have {hlen} bytes")
        options: dict[int, bytes] = {}
        problems: list[str] = []
        if data[_COOKIE_AT:_OPTIONS_AT] == _COOKIE:
            sname, file = _read_options(data, sname, file, options, problems)
        return cls(
            op=op,
            htype=htype,
            hlen=hlen,
            hops=hops,
            xid=xid,
            secs=secs,
            flags=flags,
            ciaddr=UNSPECIFIED if ci == _ZERO4 else parse_address(ci),
            yiaddr=UNSPECIFIED if yi == _ZERO4 else parse_address(yi),
            siaddr=UNSPECIFIED if si == _ZERO4 else parse_address(si),
            giaddr=UNSPECIFIED if gi == _ZERO4 else parse_address(gi),
            chaddr=chaddr,
            sname=sname.partition(b"\0")[0],
            file=file.partition(b"\0")[0],
            options=options,
            problems=tuple(problems),
        )

    @classmethod
    def reply_to(
        cls,
        request: Packet,
        *,
        options: Mapping[int, bytes],
        ciaddr: IPv4Address = UNSPECIFIED,
        yiaddr: IPv4Address = UNSPECIFIED,
        siaddr: IPv4Address = UNSPECIFIED,
        file: bytes = b"",
        template: Template | None = None,
    ) -> Self:
        """The reply to a request, with what it must copy (RFC 2131 table 3).

        The client identifier and the relay agent information are echoed when the request has
        them (RFC 6842, RFC 3046). With a template, `options` are the client's own.
        """
        echoes = {
            code: value
            for code in _ECHOED
            # A longer one was split by the client; we never split (RFC 3396 lets us leave it out).
            if (value := request.options.get(code)) is not None and len(value) <= VALUE_SIZE_MAX
        }
        own = {**options, **echoes}
        return cls(
            op=BOOTREPLY,
            htype=request.htype,
            hlen=request.hlen,
            xid=request.xid,
            flags=request.flags,
            giaddr=request.giaddr,
            chaddr=request.chaddr,
            ciaddr=ciaddr,
            yiaddr=yiaddr,
            siaddr=siaddr,
            file=file,
            options=own if template is None else template.fill(own),
        )

    def serialize(self, *, min_size: int = PACKET_SIZE_MIN) -> bytes:
        """Write the payload of a UDP datagram, zeros behind END up to `min_size` bytes.

        Raises:
            ValueError: a value is too long for its field or option.
        """
        if len(self.sname) > SNAME_SIZE_MAX or len(self.file) > FILE_SIZE_MAX:
            raise ValueError(
                f"sname has {len(self.sname)} bytes and file {len(self.file)} "
                f"(want at most {SNAME_SIZE_MAX} and {FILE_SIZE_MAX})"
            )
        header = _HEADER.pack(
            self.op,
            self.htype,
            self.hlen,
            self.hops,
            self.xid,
            self.secs,
            self.flags,
            int(self.ciaddr),
            int(self.yiaddr),
            int(self.siaddr),
            int(self.giaddr),
            self.chaddr,
            self.sname,
            self.file,
            _COOKIE,
        )
        return (header + serialize_options(self.options)).ljust(min_size, b"\0")

    def fit(self, size_max: int) -> Self:
        """This reply without as many dispensable options as it takes to fit `size_max` bytes.

        What a boot cannot do without stays, so the result may still be longer.
        """
        excess = self.size - size_max
        if excess <= 0:
            return self
        extras = [code for code in self.options if code not in _NOT_EXTRA]
        kept = dict(self.options)
        for code in (*extras, *_DROP_IN_ORDER):
            if excess > 0 and code in kept:
                excess -= 2 + len(kept.pop(code))
        return replace(self, options=kept)

    def get(self, option: Option[T]) -> T | None:
        """The value of an option; None when the message does not have it."""
        raw = self.options.get(option.code)
        return None if raw is None else option.parse(raw)

    @property
    def size(self) -> int:
        """Bytes that `serialize` writes before padding."""
        return _OPTIONS_AT + options_size(self.options)

    @property
    def message_type(self) -> MessageType | None:
        """What kind of DHCP message this is; None for plain BOOTP."""
        raw = self.options.get(_MESSAGE_TYPE)
        return None if raw is None else known.MESSAGE_TYPES[raw[0]]

    @property
    def mac(self) -> MacAddress | None:
        """The client's Ethernet address; None when its hardware is something else."""
        if self.htype != HTYPE_ETHERNET or self.hlen != 6:
            return None
        return MacAddress(self.chaddr[:6])

    @property
    def is_broadcast(self) -> bool:
        """Whether the client asks for its reply by broadcast."""
        return bool(self.flags & FLAG_BROADCAST)

    @property
    def requested_address(self) -> IPv4Address | None:
        """Option 50; embedded clients write 0.0.0.0 there when they mean none."""
        requested = self.get(known.REQUESTED_ADDRESS)
        return None if requested == UNSPECIFIED else requested

    @property
    def reply_size_max(self) -> int:
        """Bytes of UDP payload that a reply to this request may have (option 57)."""
        datagram = self.get(known.MAX_MESSAGE_SIZE) or 0
        return min(max(datagram - _IP_AND_UDP_SIZE, REPLY_SIZE_DEFAULT), REPLY_SIZE_MAX)


def _read_options(
    data: bytes, sname: bytes, file: bytes, options: dict[int, bytes], problems: list[str]
) -> tuple[bytes, bytes]:
    """Fill `options` and `problems`; returns sname and file, emptied if they held options."""
    _scan_field(data[_OPTIONS_AT:], "options field", options, problems)
    overload = options.pop(known.OVERLOAD.code, None)
    if overload is not None:
        if overload[0:1] not in (b"\1", b"\2", b"\3"):
            problems.append(f"{label(known.OVERLOAD.code)} is not 1, 2 or 3: ignored")
            overload = b"\0"
        # RFC 3396 section 5: the options field, then file, then sname.
        if overload[0] & _OVERLOADS_FILE:
            _scan_field(file, "file field", options, problems)
            file = b""
        if overload[0] & _OVERLOADS_SNAME:
            _scan_field(sname, "sname field", options, problems)
            sname = b""
        options.pop(known.OVERLOAD.code, None)
    wrong = [code for code, value in options.items() if len(value) not in _LENGTHS[code]]
    for code in wrong:
        _repair_or_drop(code, options, problems)
    return sname, file


def _scan_field(area: bytes, where: str, options: dict[int, bytes], problems: list[str]) -> None:
    overrun = known.scan(area, options)
    if overrun is not None:
        problems.append(f"{label(overrun)} runs past the end of the {where}: ignored from there")


def _repair_or_drop(code: int, options: dict[int, bytes], problems: list[str]) -> None:
    """Keep the first of repeated fixed-length values, drop any other malformed one.

    Raises:
        PacketError: it is the message type, without which nothing else has a meaning.
    """
    option, value = OPTIONS_BY_CODE[code], options[code]
    want = option.length_min
    complaint = f"{label(code)} has {len(value)} bytes"
    if option.is_fixed_length and len(value) > want and len(value) % want == 0:
        options[code] = value[:want]
        problems.append(f"{complaint} (want {want}): the first {want} count")
    elif code == known.MESSAGE_TYPE.code:
        raise PacketError(f"{complaint} (want {want})")
    else:
        del options[code]
        wanted = f"at least {want}" if not option.is_fixed_length else f"{want}"
        if option.length_multiple > 1:
            wanted = f"a multiple of {option.length_multiple}"
        problems.append(f"{complaint} (want {wanted}): ignored")

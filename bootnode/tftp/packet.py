"""The TFTP packets: RRQ, WRQ, DATA, ACK, ERROR and OACK.

RFC 1350; options by RFC 2347, blksize 2348, timeout and tsize 2349, windowsize 7440.

Rules:
- `parse` is total: any bytes become a packet or a PacketError.
- What boot ROMs really send is accepted: a missing final NUL, a stray byte after the last option,
  NUL padding, option and mode names in any case (they come out in lower case).
- Text is UTF-8 with surrogate escapes, as Python spells file names, so a name in any other
  encoding still finds its file. Escape it before it goes into a log.

Limits: a request or OACK has at most MAX_REQUEST bytes (RFC 2347 says 512; some clients send more).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Self, TypeAlias

from bootnode.errors import PacketError

MAX_REQUEST = 2048

Options: TypeAlias = tuple[tuple[str, str], ...]
"""Pairs of lower-case option name and value, in the order they were asked."""

_HEADER = Struct("!HH")  # opcode, then block number or error code
_OPCODE = Struct("!H")


class Opcode(IntEnum):
    """What a packet is (RFC 1350 section 5, RFC 2347)."""

    RRQ = 1
    WRQ = 2
    DATA = 3
    ACK = 4
    ERROR = 5
    OACK = 6


class ErrorCode(IntEnum):
    """Why a transfer ends early (RFC 1350 appendix, RFC 2347)."""

    UNDEFINED = 0
    NOT_FOUND = 1
    ACCESS_VIOLATION = 2
    DISK_FULL = 3
    ILLEGAL_OPERATION = 4
    UNKNOWN_TID = 5
    FILE_EXISTS = 6
    NO_SUCH_USER = 7
    OPTION_REFUSED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """RRQ: a client asks for a file."""

    filename: str
    """As sent: it may hold backslashes, `..` or nothing at all."""
    mode: str
    """Lower case: `octet`, `netascii`, or anything else a client made up."""
    options: Options = ()

    def serialize(self) -> bytes:
        """The packet as bytes."""
        return _serialize_request(Opcode.RRQ, self.filename, self.mode, self.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRequest:
    """WRQ: a client wants to leave a file here."""

    filename: str
    mode: str
    options: Options = ()

    def serialize(self) -> bytes:
        """The packet as bytes."""
        return _serialize_request(Opcode.WRQ, self.filename, self.mode, self.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """DATA: one block; a payload shorter than blksize is the last one."""

    block: int
    """0 to 65535, as on the wire."""
    payload: bytes

    def serialize(self) -> bytes:
        """The packet as bytes."""
        return serialize_data(self.block, self.payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """ACK: everything up to this block has arrived; block 0 accepts an OACK."""

    block: int
    """0 to 65535, as on the wire."""

    def serialize(self) -> bytes:
        """The packet as bytes."""
        return _HEADER.pack(Opcode.ACK, self.block)


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """ERROR: the sender has ended the transfer; nobody answers it."""

    code: int
    """An ErrorCode, or whatever number the peer made up."""
    message: str

    def serialize(self) -> bytes:
        """The packet as bytes."""
        return _HEADER.pack(Opcode.ERROR, self.code) + _encode(self.message) + b"\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionAck:
    """OACK: the options the server agrees to."""

    options: Options

    @classmethod
    def parse_body(cls, body: bytes) -> Self:
        """Read what follows the opcode."""
        return cls(options=_options(_fields(body)))

    def serialize(self) -> bytes:
        """The packet as bytes."""
        return _OPCODE.pack(Opcode.OACK) + _serialize_options(self.options)


Packet: TypeAlias = ReadRequest | WriteRequest | Data | Ack | Error | OptionAck


def parse(data: bytes) -> Packet:
    """Read one datagram.

    Raises:
        PacketError: it is no TFTP packet; the message says what is wrong.
    """
    if len(data) < _OPCODE.size:
        raise PacketError(f"{len(data)} bytes are too short for a TFTP packet")
    (opcode,) = _OPCODE.unpack_from(data)
    body = data[_OPCODE.size :]
    match opcode:
        case Opcode.RRQ | Opcode.WRQ:
            return _parse_request(opcode, body)
        case Opcode.DATA | Opcode.ACK | Opcode.ERROR:
            return _parse_numbered(opcode, data)
        case Opcode.OACK:
            return OptionAck.parse_body(body)
    raise PacketError(f"{opcode} is not a TFTP opcode (want 1 to 6)")


def serialize_data(block: int, payload: bytes) -> bytes:
    """A DATA packet, without making a Data first: the way each block of a transfer takes."""
    return _HEADER.pack(3, block) + payload


def ack_block(data: bytes) -> int | None:
    """The block number if this datagram is an ACK, without making an Ack first; else None."""
    if len(data) >= 4 and data[0] == 0 and data[1] == 4:
        return data[2] << 8 | data[3]
    return None


def _parse_request(opcode: int, body: bytes) -> ReadRequest | WriteRequest:
    fields = _fields(body)
    if len(fields) < 2 or not fields[1]:
        raise PacketError("the request has no transfer mode after its file name")
    kind = ReadRequest if opcode == Opcode.RRQ else WriteRequest
    return kind(
        filename=_decode(fields[0]),
        mode=_decode(fields[1].lower()),
        options=_options(fields[2:]),
    )


def _parse_numbered(opcode: int, data: bytes) -> Data | Ack | Error:
    if len(data) < _HEADER.size:
        raise PacketError(f"{Opcode(opcode).name} has {len(data)} bytes (want 4 or more)")
    _, number = _HEADER.unpack_from(data)
    rest = data[_HEADER.size :]
    if opcode == Opcode.DATA:
        return Data(block=number, payload=rest)
    if opcode == Opcode.ACK:
        return Ack(block=number)
    return Error(code=number, message=_decode(rest.partition(b"\0")[0]))


def _fields(body: bytes) -> list[bytes]:
    """The NUL-ended strings of a request; the last may lack its NUL."""
    if len(body) > MAX_REQUEST - _OPCODE.size:
        raise PacketError(f"a request of {len(body) + 2} bytes is over the limit of {MAX_REQUEST}")
    fields = body.split(b"\0")
    if not fields[-1]:
        fields.pop()
    return fields


def _options(fields: list[bytes]) -> Options:
    """Name and value pairs; a name left without value (a stray byte) is no option."""
    return tuple(
        (_decode(name.lower()), _decode(value))
        for name, value in zip(fields[::2], fields[1::2], strict=False)
        if name
    )


def _serialize_request(opcode: Opcode, filename: str, mode: str, options: Options) -> bytes:
    names = _encode(filename) + b"\0" + _encode(mode) + b"\0"
    return _OPCODE.pack(opcode) + names + _serialize_options(options)


def _serialize_options(options: Options) -> bytes:
    return b"".join(_encode(text) + b"\0" for option in options for text in option)


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")

"""The options of a message as they are written, and templates of it.

RFC 2132 and 3046; the order is what firmware has been seen to want. Rules:

- Message type first, relay agent information last, END always there, no option split in two, no PAD
  between options but one: behind option 60 of an HTTP client.
- What all clients of a kind are told is written once, as a `Template`; what is each client's own is
  filled in: its host name, its boot file, and what it said of itself and hears again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final

from bootnode.dhcp import options as known
from bootnode.dhcp.options import END, PAD, VALUE_SIZE_MAX, label

ORDERS_MAX: Final = 1024
"""Sets of options whose order is remembered; a site sends some dozens."""

USUAL_ORDER: Final = tuple(
    option.code
    for option in (
        *(known.MESSAGE_TYPE, known.SERVER_ID, known.LEASE_TIME),
        *(known.RENEWAL_TIME, known.REBINDING_TIME, known.SUBNET_MASK),
        *(known.ROUTERS, known.DNS_SERVERS, known.HOST_NAME, known.DOMAIN_NAME),
        *(known.INTERFACE_MTU, known.BROADCAST, known.NTP_SERVERS),
        *(known.VENDOR_CLASS, known.MACHINE_UUID, known.VENDOR_ENCAPSULATED),
        *(known.TFTP_SERVER, known.BOOT_FILE),
    )
)
"""Codes in the order in which they are written; others follow by number."""
# RFC 3046 section 2.1: relays look for their option at the end.
_LAST = known.RELAY_AGENT_INFO.code
_SEND_RANK = [256 if code == _LAST else code for code in range(256)]
for _rank, _code in enumerate(USUAL_ORDER):
    _SEND_RANK[_code] = _rank - len(USUAL_ORDER)

_NEVER_SENT = frozenset((PAD, END, known.OVERLOAD.code))
_BYTES = tuple(bytes((number,)) for number in range(256))

# GRUB compares option 60 as a C string, without its length: the byte behind it must be zero.
_VENDOR_CLASS = known.VENDOR_CLASS.code
_HTTP_CLIENT = b"HTTPClient"

_OWN: Final = tuple(
    sorted(
        (
            option.code
            for option in (
                *(known.HOST_NAME, known.MACHINE_UUID, known.BOOT_FILE),
                *(known.CLIENT_ID, known.RELAY_AGENT_INFO),
            )
        ),
        key=_SEND_RANK.__getitem__,
    )
)
"""What a template leaves out, in the order in which it is written."""


def options_size(options: Mapping[int, bytes]) -> int:
    """Bytes that `serialize_options` writes."""
    values = sum(2 + len(value) for value in options.values())
    return values + (options.get(_VENDOR_CLASS) == _HTTP_CLIENT) + 1


def serialize_options(options: Mapping[int, bytes]) -> bytes:
    """Write options, and END.

    Raises:
        ValueError: a value is too long, or a code is never sent.
    """
    if isinstance(options, FilledTemplate):
        return options.serialize()
    return b"".join((*_parts(options), _BYTES[END]))


def _parts(options: Mapping[int, bytes]) -> Iterator[bytes]:
    for code in _send_order(tuple(options)):
        value = options[code]
        if len(value) > VALUE_SIZE_MAX:
            raise ValueError(
                f"{label(code)} with {len(value)} bytes cannot be sent (want at most "
                f"{VALUE_SIZE_MAX})"
            )
        yield from (_BYTES[code], _BYTES[len(value)], value)
        if code == _VENDOR_CLASS and value == _HTTP_CLIENT:
            yield _BYTES[PAD]


@lru_cache(maxsize=ORDERS_MAX)
def _send_order(codes: tuple[int, ...]) -> tuple[int, ...]:
    for code in codes:
        if code in _NEVER_SENT:
            raise ValueError(f"{label(code)} cannot be sent (want neither PAD, END nor overload)")
    return tuple(sorted(codes, key=_SEND_RANK.__getitem__))


class Template:
    """What all clients of a kind are told."""

    def __init__(self, shared: Mapping[int, bytes]) -> None:
        """`shared` may hold a host name, which then is everybody's.

        Raises:
            ValueError: an option cannot be written.
        """
        self.shared = dict(shared)
        # What stands before the first option of `_OWN`, between two of them, and behind the last.
        pieces: list[bytes] = []
        rest = dict(shared)
        for own in _OWN:
            before = {c: rest.pop(c) for c in tuple(rest) if _SEND_RANK[c] < _SEND_RANK[own]}
            pieces.append(b"".join(_parts(before)))
            rest.pop(own, None)
        self._first, *self._later = (*pieces, serialize_options(rest))
        self._gaps = tuple(zip(_OWN, self._later, strict=True))

    def fill(self, own: Mapping[int, bytes]) -> FilledTemplate:
        """The options of one client; `own` are its own, of those that a template leaves out."""
        return FilledTemplate(self, own)

    def serialize(self, own: Mapping[int, bytes]) -> bytes:
        """Write the options of one client, and END."""
        parts = [self._first]
        for code, piece in self._gaps:
            value = own.get(code) or self.shared.get(code)
            if value is not None:
                parts += (_BYTES[code], _BYTES[len(value)], value)
            parts.append(piece)
        return b"".join(parts)


class FilledTemplate(Mapping[int, bytes]):
    """The options of one client's reply; its own come before those of the template."""

    __slots__ = ("_own", "_template")

    def __init__(self, template: Template, own: Mapping[int, bytes]) -> None:
        self._template = template
        self._own = own

    def __getitem__(self, code: int) -> bytes:
        value = self._own.get(code)
        return self._template.shared[code] if value is None else value

    def __iter__(self) -> Iterator[int]:
        return iter({**self._template.shared, **self._own})

    def __len__(self) -> int:
        return len(self._template.shared.keys() | self._own.keys())

    def serialize(self) -> bytes:
        """Write them, and END."""
        return self._template.serialize(self._own)

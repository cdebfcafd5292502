"""One TFTP read transfer: what to send, when to send it again, when to stop.

RFC 1350 with the options of RFC 2347 to 2349 and 7440, as a machine without socket or clock: feed
it datagrams and time, send what it hands out, wake it when it asks.

    OFFERED    our OACK is out, nothing heard yet   -- ACK 0 --> SENDING or FINISHING
    OPENING    DATA 1 is out, nothing heard yet     -- ACK 1 --> SENDING or FINISHING
    SENDING    a window is out, more will follow    -- ACK   --> SENDING or FINISHING
    FINISHING  the last block is out                -- ACK   --> Completed

Rules:
- Only the timer repeats a packet, never an ACK: otherwise one delayed ACK doubles every packet from
  there on (the Sorcerer's Apprentice, RFC 1123 section 4.2.3.1).
- An ACK inside the window means the rest was lost: the next window starts behind it (RFC 7440).
- Block numbers roll over from 65535 to 0 on the wire; in here they count on without end.
- An OACK holds only what was asked, in that order, and never a bigger number than was asked.
- An ERROR from the client ends the transfer without a word; EDK2 ends its size probes that way.

Limits: the first packet goes out at most 1 + FIRST_RETRIES times, the last block 1 + LAST_RETRIES
times, and after IDLE_LIMIT_S without progress the transfer ends. Before the client has answered
once, a single packet is out, so a forged request cannot draw a burst.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from bootnode.errors import PacketError
from bootnode.tftp.packet import (
    Error,
    ErrorCode,
    OptionAck,
    Options,
    ReadRequest,
    ack_block,
    parse,
    serialize_data,
)

DEFAULT_BLKSIZE = 512
MIN_BLKSIZE = 8
MAX_WINDOWSIZE_OPTION = 65535
FIRST_TIMEOUT_S = 1.0
LONGEST_TIMEOUT_S = 8.0
IDLE_LIMIT_S = 60.0
FIRST_RETRIES = 4
LAST_RETRIES = 3
MAX_TIMEOUT_OPTION_S = 30
"""A longer `timeout` is left out of the OACK: our idle limit would strike before it."""
MAX_NUMBER_DIGITS = 20
"""Longer option values are no numbers: Python's int() is slow on thousands of digits."""


class FileSource(Protocol):
    """A file to send. Whoever opened it closes it."""

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset`; fewer than `length` only where the file ends."""

    def close(self) -> None:
        """Give back what it holds; a second call does nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    bytes_sent: int
    """File bytes that went out, each counted once."""
    blocks: int
    """Blocks that went out, each counted once."""
    retransmits: int
    """DATA and OACK packets that the timer sent again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed(_Ended):
    """The whole file was sent."""

    acknowledged: bool
    """False when the ACK of the last block never came; some clients leave it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aborted(_Ended):
    """The client ended it, went away or began anew: its own decision, no fault."""

    size_probe: bool
    """It only wanted to know the size, and asks again for the content."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(_Ended):
    """The file could not be sent."""

    reason: str


Outcome = Completed | Aborted | Failed


class _State(Enum):
    OFFERED = auto()
    OPENING = auto()
    SENDING = auto()
    FINISHING = auto()


_MAX_RETRIES = {
    _State.OFFERED: FIRST_RETRIES,
    _State.OPENING: FIRST_RETRIES,
    _State.FINISHING: LAST_RETRIES,
}


class Transfer:
    """Sends one file to one client.

    Time is given as `now`, in seconds of any clock that never runs backwards. After each call, send
    `datagrams_to_send()`, then call `handle_timer` at `get_timer()`, until there is an `outcome`.
    """

    def __init__(
        self,
        request: ReadRequest,
        source: FileSource,
        *,
        now: float,
        max_blksize: int = 1468,
        max_windowsize: int = 16,
    ) -> None:
        self._terms = _negotiate(request, source.size, max_blksize, max_windowsize)
        blocks = _NetasciiBlocks if request.mode == "netascii" else _OctetBlocks
        self._blocks: _Blocks = blocks(source, self._terms.blksize)
        self._state = _State.OFFERED if self._terms.oack else _State.OPENING
        self._outcome: Outcome | None = None
        self._outbox: list[bytes] = []
        self._heard = False
        # Blocks are counted from 1 and never roll over here.
        self._acked = 0
        self._sent = 0
        self._retries = 0
        self._retransmits = 0
        self._timeout_s = self._terms.timeout_s
        self._deadline = now + self._timeout_s
        self._idle_deadline = now + IDLE_LIMIT_S
        self._send_first(request.mode)

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it runs."""
        return self._outcome

    @property
    def heard(self) -> bool:
        """Whether the client has answered; until then it may be repeating its request."""
        return self._heard

    def datagrams_to_send(self) -> list[bytes]:
        """The datagrams to send now, in order; each is handed out once."""
        datagrams, self._outbox = self._outbox, []
        return datagrams

    def get_timer(self) -> float | None:
        """When `handle_timer` is due; None once the transfer has ended."""
        return None if self._outcome else self._deadline

    def receive_datagram(self, data: bytes, *, now: float) -> None:
        """Take one datagram from the client.

        Raises:
            PacketError: no reader of files sends this; the transfer goes on undisturbed.
        """
        if self._outcome:
            return
        block = ack_block(data)
        if block is None:
            self._receive_other(data)
        elif self._state is _State.OFFERED:
            if block == 0:
                self._advance(0, now)
        else:
            advance = (block - self._acked) & 0xFFFF
            # Zero is a duplicate, more was never sent: answering either doubles the traffic.
            if 0 < advance <= self._sent - self._acked:
                self._advance(advance, now)

    def handle_timer(self, *, now: float) -> None:
        """Send again what is unanswered, or give up; before `get_timer()` it does nothing."""
        if self._outcome or now < self._deadline:
            return
        if now >= self._idle_deadline or self._retries == _MAX_RETRIES.get(self._state):
            self._give_up()
            return
        self._retries += 1
        longest = max(LONGEST_TIMEOUT_S, self._terms.timeout_s)
        self._timeout_s = min(self._timeout_s * 2, longest)
        self._deadline = min(now + self._timeout_s, self._idle_deadline)
        if self._state is _State.OFFERED:
            self._send_oack()
        else:
            self._send_window()
        self._retransmits += len(self._outbox)

    def abort(self, reason: str) -> None:
        """End it from outside and send nothing: the client is gone or has begun anew."""
        if self._outcome:
            return
        if self._state is _State.FINISHING and self._heard:
            self._complete(acknowledged=False)
        else:
            self._abort(reason, size_probe=False)

    def _send_first(self, mode: str) -> None:
        if mode not in ("octet", "netascii"):
            reason = f"transfer mode {mode[:32]!a} is unknown (want octet or netascii)"
            self._fail(reason, ErrorCode.ILLEGAL_OPERATION)
        elif self._state is _State.OFFERED:
            self._send_oack()
        else:
            self._send_window()

    def _advance(self, blocks: int, now: float) -> None:
        """The client has taken `blocks` more, or the OACK: go on behind them."""
        self._heard = True
        self._acked += blocks
        if self._acked == self._blocks.last:
            self._complete(acknowledged=True)
            return
        self._state = _State.SENDING
        self._restart_timers(now)
        self._send_window()

    def _restart_timers(self, now: float) -> None:
        self._retries = 0
        self._timeout_s = self._terms.timeout_s
        self._deadline = now + self._timeout_s
        self._idle_deadline = now + IDLE_LIMIT_S

    def _send_oack(self) -> None:
        self._outbox.append(OptionAck(options=self._terms.oack).serialize())

    def _send_window(self) -> None:
        first = self._acked + 1
        try:
            payloads = self._blocks.read(first, self._terms.windowsize)
        except OSError as error:
            self._fail(f"the file cannot be read: {error}")
            return
        for block, payload in enumerate(payloads, first):
            self._outbox.append(serialize_data(block & 0xFFFF, payload))
        self._sent = self._acked + len(payloads)
        if self._sent == self._blocks.last:
            self._state = _State.FINISHING

    def _receive_other(self, data: bytes) -> None:
        packet = parse(data)
        if not isinstance(packet, Error):
            raise PacketError(f"{type(packet).__name__} is not what a reader of files sends")
        offered_size = any(name == "tsize" for name, _ in self._terms.oack)
        # EDK2 sends 8, Intel's ROMs, iPXE and GRUB send 0, once they have seen the size.
        wants_no_more = packet.code in (ErrorCode.OPTION_REFUSED, ErrorCode.UNDEFINED)
        self._abort(
            f"the client sent ERROR {packet.code}: {packet.message[:128]!a}",
            size_probe=self._state is _State.OFFERED and offered_size and wants_no_more,
        )

    def _give_up(self) -> None:
        if self._state is _State.FINISHING:
            # Some clients close as soon as they have the last block.
            self._complete(acknowledged=False)
        elif self._heard:
            self._fail_silently(f"block {self._acked + 1} is unanswered for {IDLE_LIMIT_S:.0f} s")
        else:
            self._fail_silently(f"no answer to the first packet, sent {self._retries + 1} times")

    def _complete(self, *, acknowledged: bool) -> None:
        self._outcome = Completed(**self._counts(), acknowledged=acknowledged)

    def _abort(self, reason: str, *, size_probe: bool) -> None:
        self._outcome = Aborted(**self._counts(), size_probe=size_probe, reason=reason)

    def _fail(self, reason: str, code: ErrorCode = ErrorCode.UNDEFINED) -> None:
        """Tell the client, too: whatever else was about to go out makes no sense now."""
        self._outbox = [Error(code=code, message=reason).serialize()]
        self._fail_silently(reason)

    def _fail_silently(self, reason: str) -> None:
        self._outcome = Failed(**self._counts(), reason=reason)

    def _counts(self) -> dict[str, int]:
        return {
            "bytes_sent": self._blocks.bytes_up_to(self._sent),
            "blocks": self._sent,
            "retransmits": self._retransmits,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Terms:
    """What client and server agree on for one transfer."""

    oack: Options
    """Empty when no option was understood: then there is no OACK (RFC 2347)."""
    blksize: int
    windowsize: int
    timeout_s: float


def _negotiate(request: ReadRequest, size: int, max_blksize: int, max_windowsize: int) -> _Terms:
    agreed: dict[str, int] = {}
    for name, text in request.options:
        value = _number(text)
        if name in agreed or value is None:
            continue
        octet = request.mode == "octet"
        if name == "blksize" and value >= MIN_BLKSIZE:
            agreed[name] = min(value, max_blksize)
        elif name == "timeout" and 1 <= value <= MAX_TIMEOUT_OPTION_S:
            agreed[name] = value
        elif name == "tsize" and octet:
            agreed[name] = size
        elif name == "windowsize" and octet and 1 <= value <= MAX_WINDOWSIZE_OPTION:
            agreed[name] = min(value, max_windowsize)
    return _Terms(
        oack=tuple((name, str(value)) for name, value in agreed.items()),
        blksize=agreed.get("blksize", DEFAULT_BLKSIZE),
        windowsize=agreed.get("windowsize", 1),
        timeout_s=agreed.get("timeout", FIRST_TIMEOUT_S),
    )


def _number(text: str) -> int | None:
    if len(text) > MAX_NUMBER_DIGITS or not (text.isascii() and text.isdigit()):
        return None
    return int(text)


class _Blocks(ABC):
    """The file cut into blocks, counted from 1. The last one is shorter than the others."""

    last: int | None
    """Number of the last block; None while it is not known."""

    def __init__(self, source: FileSource, blksize: int) -> None:
        self._source = source
        self._blksize = blksize
        self._total = source.size

    @abstractmethod
    def read(self, first: int, count: int) -> list[bytes]:
        """Payloads of up to `count` blocks.

        Raises:
            OSError: the file is shorter than it was, or the disk fails.
        """

    def bytes_up_to(self, block: int) -> int:
        """Payload bytes in the blocks from the first to this one."""
        return self._total if block == self.last else block * self._blksize

    def _read_source(self, offset: int, length: int) -> bytes:
        length = min(length, self._source.size - offset)
        content = self._source.read(offset, length)
        if len(content) < length:
            raise OSError(f"it became shorter, {offset + len(content)} bytes, while being sent")
        return content


class _OctetBlocks(_Blocks):
    """The bytes as they are; any block at any time, a window in one read."""

    def __init__(self, source: FileSource, blksize: int) -> None:
        super().__init__(source, blksize)
        self.last: int = source.size // blksize + 1

    def read(self, first: int, count: int) -> list[bytes]:
        blksize = self._blksize
        count = min(count, self.last - first + 1)
        content = self._read_source((first - 1) * blksize, count * blksize)
        if count == 1:
            return [content]
        return [content[start : start + blksize] for start in range(0, count * blksize, blksize)]


class _NetasciiBlocks(_Blocks):
    """Lines ending CR LF, a lone CR as CR NUL (RFC 764); in order only, so windows are of one.

    The size after conversion is not known before the end: no tsize.
    """

    def __init__(self, source: FileSource, blksize: int) -> None:
        super().__init__(source, blksize)
        self.last = None
        self._current = 0
        self._payload = b""
        self._converted = bytearray()
        self._offset = 0

    def read(self, first: int, count: int) -> list[bytes]:
        del count
        if first != self._current:
            self._payload = self._next_payload()
            self._current = first
            if len(self._payload) < self._blksize:
                self.last = first
                self._total = (first - 1) * self._blksize + len(self._payload)
        return [self._payload]

    def _next_payload(self) -> bytes:
        converted = self._converted
        while len(converted) < self._blksize and self._offset < self._source.size:
            content = self._read_source(self._offset, self._blksize)
            self._offset += len(content)
            converted += content.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")
        payload = bytes(converted[: self._blksize])
        del converted[: self._blksize]
        return payload

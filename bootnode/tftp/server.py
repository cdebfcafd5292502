"""The TFTP server: sockets, clock and limits round `Transfer`.

RFC 1350. One listening socket per server address; each transfer gets a socket of its own, bound to
the address that was asked (its port is our transfer identifier, TID) and connected to the client.

Rules:
- Reading only: WRQ is refused, no file is ever created.
- A request from an address and port that has a transfer ends that one: a Raspberry Pi fetches file
  after file from one port. If the old one had not been answered, the request is a repeat, and the
  socket stays: the client may have taken to that TID already.
- A packet from a wrong TID never gets here: the socket is connected, so the kernel drops it and
  answers with ICMP port unreachable where RFC 1350 wants ERROR 5. Packets of no transfer that come
  to the listening port do get ERROR 5.
- Over a limit there is no answer, only a log line and an event. Boot ROMs ask again for half a
  minute, so silence delays a boot where an ERROR would end it.
- A bad packet costs one log line and a counter, an exception costs its own transfer.

Limits: MAX_TRANSFERS at once, MAX_TRANSFERS_PER_CLIENT of them for one address.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import NamedTuple

from bootnode.errors import PacketError
from bootnode.net import udp_socket
from bootnode.tftp.packet import (
    Ack,
    Data,
    Error,
    ErrorCode,
    OptionAck,
    ReadRequest,
    WriteRequest,
    parse,
)
from bootnode.tftp.transfer import Aborted, Completed, Failed, FileSource, Outcome, Transfer

logger = logging.getLogger(__name__)

MAX_TRANSFERS = 500
MAX_TRANSFERS_PER_CLIENT = 64
MAX_REQUESTS_PER_WAKE = 16
"""Requests taken from a listening socket before everything else in the loop gets its turn."""
MAX_BLKSIZE = 1468
"""Fits an Ethernet frame; boot ROMs cannot put fragments together."""
MAX_WINDOWSIZE = 16

_SHOWN_NAME = 255
_RECEIVE_SIZE = 4096
_HEADERS_SIZE = 20 + 8 + 4  # IPv4, UDP, DATA
# linux/in.h; the socket module does not name them.
_IP_MTU = 14

_MESSAGES = {
    ErrorCode.NOT_FOUND: "file not found",
    ErrorCode.ACCESS_VIOLATION: "access violation",
}


class Endpoint(NamedTuple):
    """The address and UDP port of a client."""

    host: IPv4Address
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The file was found and its first packet sent."""

    size: int
    """Bytes in the file."""


class UsualMissError(FileNotFoundError):
    """There is no such file, and clients ask for it as a matter of course."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The request led to no transfer."""

    code: ErrorCode | None
    """What the client was told; None when a limit was reached and it got no answer."""
    reason: str
    is_usual: bool = False
    """Whether the client does without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferEvent:
    """What became of a request, for whoever follows the nodes."""

    client: Endpoint
    server: IPv4Address
    """The address of ours that was asked."""
    filename: str
    """As the client sent it, control characters and bytes that are no UTF-8 escaped."""
    outcome: Started | Refused | Outcome
    seconds: float
    """Since the request came."""

    @property
    def bytes_sent(self) -> int:
        """File bytes that went out, each counted once."""
        return 0 if isinstance(self.outcome, Started | Refused) else self.outcome.bytes_sent

    def __str__(self) -> str:
        end = self.outcome
        text = f"client={self.client} server={self.server} file={self.filename}"
        text += f" tftp={type(end).__name__.lower()} bytes={self.bytes_sent}"
        text += f" seconds={self.seconds:.3f}"
        return text if isinstance(end, Started | Completed) else f"{text} reason={end.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arrival:
    """A datagram on a listening socket: where, from whom, when."""

    sock: socket.socket
    server: IPv4Address
    client: Endpoint
    now: float

    def answer(self, code: ErrorCode, message: str) -> None:
        """Send an ERROR back from the listening port; it is sent once and never again."""
        packet = Error(code=code, message=message).serialize()
        try:
            self.sock.sendto(packet, (str(self.client.host), self.client.port))
        except OSError as error:
            logger.warning("client=%s cannot send ERROR %d: %s", self.client, code, error)


class TftpServer:
    """Serves files to many clients from inside the running event loop."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        open_file: Callable[[ReadRequest, Endpoint, IPv4Address], FileSource],
        on_event: Callable[[TransferEvent], None],
    ) -> None:
        """Take over `sockets`: IPv4 UDP, each bound to one address of this server.

        `open_file` is told which address of ours was asked, and gives the content or raises
        UsualMissError, FileNotFoundError, PermissionError or another OSError. It runs in the
        event loop, and so does `on_event`: neither may wait.
        """
        self._sockets = tuple(sockets)
        self._open_file = open_file
        self._on_event = on_event
        self._transfers: dict[tuple[IPv4Address, Endpoint], _Connection] = {}
        self._per_client: Counter[IPv4Address] = Counter()
        self.counters: Counter[str] = Counter()
        """Since the start: `malformed` and `stray` datagrams, `wire_errors`, internal `errors`,
        and every outcome by its name in lower case, such as `completed`."""

    def start(self) -> None:
        """Begin to answer; needs a running event loop."""
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            sock.setblocking(False)
            loop.add_reader(sock, self._on_readable, sock, loop)

    async def aclose(self) -> None:
        """Stop: tell the clients whose transfers run, close all sockets and files."""
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            if sock.fileno() >= 0:
                loop.remove_reader(sock)
                sock.close()
        for connection in list(self._transfers.values()):
            connection.shut_down()

    def _on_readable(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        server = IPv4Address(sock.getsockname()[0])
        for _ in range(MAX_REQUESTS_PER_WAKE):
            try:
                data, (host, port) = sock.recvfrom(_RECEIVE_SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                self.counters["errors"] += 1
                logger.warning("server=%s cannot receive: %s", server, error)
                return
            client = Endpoint(IPv4Address(host), port)
            arrival = _Arrival(sock=sock, server=server, client=client, now=loop.time())
            try:
                self._receive(data, arrival)
            except Exception:
                self.counters["errors"] += 1
                logger.exception("client=%s request failed inside the server", client)

    def _receive(self, data: bytes, arrival: _Arrival) -> None:
        try:
            packet = parse(data)
        except PacketError as error:
            self.counters["malformed"] += 1
            logger.warning("client=%s malformed packet: %s", arrival.client, error)
            return
        match packet:
            case ReadRequest():
                refused = self._read(packet, arrival)
                if refused:
                    self._refuse(packet, refused, arrival)
            case WriteRequest():
                refused = Refused(code=ErrorCode.ACCESS_VIOLATION, reason="the server is read-only")
                self._refuse(packet, refused, arrival)
            case Data() | Ack() | OptionAck():
                self.counters["stray"] += 1
                arrival.answer(ErrorCode.UNKNOWN_TID, "no transfer runs on this port")
            case Error():
                self.counters["stray"] += 1

    def _read(self, request: ReadRequest, arrival: _Arrival) -> Refused | None:
        """Begin a transfer, or say why there is none."""
        old = self._transfers.get((arrival.server, arrival.client))
        if old is None and (limit := self._reached_limit(arrival.client)):
            return Refused(code=None, reason=limit)
        try:
            source = self._open_file(request, arrival.client, arrival.server)
        except FileNotFoundError as error:
            is_usual = isinstance(error, UsualMissError)
            return Refused(code=ErrorCode.NOT_FOUND, reason=str(error), is_usual=is_usual)
        except PermissionError as error:
            return Refused(code=ErrorCode.ACCESS_VIOLATION, reason=str(error))
        except OSError as error:
            return Refused(code=ErrorCode.UNDEFINED, reason=f"the file cannot be opened: {error}")
        with ExitStack() as undo:
            undo.callback(source.close)
            try:
                inherited = old.supersede(request) if old else None
                sock = inherited or _transfer_socket(arrival)
            except OSError as error:
                reason = f"no socket for a transfer: {error}"
                return Refused(code=ErrorCode.UNDEFINED, reason=reason)
            undo.callback(sock.close)
            self._begin(_Connection(self, arrival, request, source, sock))
            undo.pop_all()
        return None

    def _reached_limit(self, client: Endpoint) -> str | None:
        if len(self._transfers) >= MAX_TRANSFERS:
            return f"{MAX_TRANSFERS} transfers are running, the limit"
        if self._per_client[client.host] >= MAX_TRANSFERS_PER_CLIENT:
            return f"{MAX_TRANSFERS_PER_CLIENT} transfers to this address are running, the limit"
        return None

    def _begin(self, connection: _Connection) -> None:
        arrival = connection.arrival
        self._transfers[arrival.server, arrival.client] = connection
        self._per_client[arrival.client.host] += 1
        self.emit(connection.request, Started(size=connection.source.size), arrival)
        connection.start()

    def forget(self, connection: _Connection) -> None:
        """A transfer has ended: make room for another."""
        arrival = connection.arrival
        del self._transfers[arrival.server, arrival.client]
        self._per_client[arrival.client.host] -= 1
        if not self._per_client[arrival.client.host]:
            del self._per_client[arrival.client.host]

    def _refuse(
        self, request: ReadRequest | WriteRequest, refused: Refused, arrival: _Arrival
    ) -> None:
        if refused.code is not None:
            arrival.answer(refused.code, _MESSAGES.get(refused.code, "the server has a problem"))
        self.emit(request, refused, arrival)

    def emit(
        self,
        request: ReadRequest | WriteRequest,
        outcome: Started | Refused | Outcome,
        arrival: _Arrival,
        *,
        seconds: float = 0.0,
    ) -> None:
        """Log and count what happened, and tell whoever listens."""
        event = TransferEvent(
            client=arrival.client,
            server=arrival.server,
            filename=_printable(request.filename),
            outcome=outcome,
            seconds=seconds,
        )
        self.counters[type(outcome).__name__.lower()] += 1
        logger.log(_log_level(outcome), "%s", event)
        try:
            self._on_event(event)
        except Exception:
            self.counters["errors"] += 1
            logger.exception("client=%s the listener failed on a transfer event", event.client)


class _Connection:
    """One Transfer with its socket, its file and its timer."""

    def __init__(
        self,
        server: TftpServer,
        arrival: _Arrival,
        request: ReadRequest,
        source: FileSource,
        sock: socket.socket,
    ) -> None:
        self.arrival = arrival
        self.request = request
        self.source = source
        self._server = server
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._malformed = 0
        self._ended = False
        self._transfer = Transfer(
            request,
            source,
            now=arrival.now,
            max_blksize=min(MAX_BLKSIZE, _path_mtu(sock) - _HEADERS_SIZE),
            max_windowsize=MAX_WINDOWSIZE,
        )

    def start(self) -> None:
        """Send the first packet and wait for the client."""
        self._loop.add_reader(self._sock, self._guard, self._on_readable)
        self._guard(self._flush)

    def supersede(self, request: ReadRequest) -> socket.socket | None:
        """End this transfer for a new request; give its socket if that is only a repeat."""
        repeated = request == self.request and not self._transfer.heard
        self._transfer.abort("the client asked again from the same port")
        self._end(keep_socket=repeated)
        return self._sock if repeated else None

    def shut_down(self) -> None:
        """End this transfer because the server stops."""
        self._send(Error(code=ErrorCode.UNDEFINED, message="the server is stopping").serialize())
        self._transfer.abort("the server is stopping")
        self._end()

    def _guard(self, step: Callable[[], None]) -> None:
        """A fault in here ends this transfer, and no other."""
        try:
            step()
        except Exception as error:
            self._server.counters["errors"] += 1
            logger.exception("client=%s transfer failed inside the server", self.arrival.client)
            self._end(Failed(bytes_sent=0, blocks=0, retransmits=0, reason=f"internal: {error!r}"))

    def _on_readable(self) -> None:
        try:
            data = self._sock.recv(_RECEIVE_SIZE)
        except OSError as error:
            self._on_wire_error(error)
        else:
            try:
                self._transfer.receive_datagram(data, now=self._loop.time())
            except PacketError as error:
                self._count_malformed(error)
        self._flush()

    def _on_timer(self) -> None:
        self._timer = None
        self._transfer.handle_timer(now=self._loop.time())
        self._flush()

    def _flush(self) -> None:
        """Send what the transfer has for us, then end or wait on."""
        for datagram in self._transfer.datagrams_to_send():
            self._send(datagram)
        deadline = self._transfer.get_timer()
        if deadline is None:
            self._end()
        # Answers push the deadline back all the time: leave an earlier timer, it arms the next.
        elif self._timer is None or deadline < self._timer.when():
            if self._timer:
                self._timer.cancel()
            self._timer = self._loop.call_at(deadline, self._guard, self._on_timer)

    def _send(self, datagram: bytes) -> None:
        try:
            self._sock.send(datagram)
        except OSError as error:
            self._on_wire_error(error)

    def _on_wire_error(self, error: OSError) -> None:
        if isinstance(error, ConnectionRefusedError):
            self._transfer.abort("the client has closed its port")
            return
        # Anything else passes (a full queue, a Raspberry Pi 3 that stops answering ARP for a
        # while): the datagram is lost like on any wire, and the timer sends it again.
        self._server.counters["wire_errors"] += 1
        logger.debug("client=%s cannot send or receive: %s", self.arrival.client, error)

    def _count_malformed(self, error: PacketError) -> None:
        self._server.counters["malformed"] += 1
        self._malformed += 1
        # One line for each transfer: a babbling client must not fill the log.
        if self._malformed == 1:
            logger.warning("client=%s malformed packet: %s", self.arrival.client, error)

    def _end(self, outcome: Outcome | None = None, *, keep_socket: bool = False) -> None:
        if self._ended:
            return
        self._ended = True
        self._loop.remove_reader(self._sock)
        if self._timer:
            self._timer.cancel()
        if not keep_socket:
            self._sock.close()
        self.source.close()
        self._server.forget(self)
        outcome = outcome or self._transfer.outcome
        if outcome:
            seconds = self._loop.time() - self.arrival.now
            self._server.emit(self.request, outcome, self.arrival, seconds=seconds)


def _transfer_socket(arrival: _Arrival) -> socket.socket:
    """A socket from the address that was asked to the client, on a port of its own."""
    sock = udp_socket()
    try:
        sock.bind((str(arrival.server), 0))
        sock.connect((str(arrival.client.host), arrival.client.port))
    except OSError:
        sock.close()
        raise
    return sock


def _path_mtu(sock: socket.socket) -> int:
    """Bytes of the largest IP packet on the way to the client, as far as the kernel knows."""
    return sock.getsockopt(socket.IPPROTO_IP, _IP_MTU)


def _printable(filename: str) -> str:
    """The name with everything escaped that would disturb a log, a terminal or UTF-8."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in filename[:_SHOWN_NAME])
    return shown + "..." if len(filename) > _SHOWN_NAME else shown


def _log_level(outcome: Started | Refused | Outcome) -> int:
    match outcome:
        case Started() | Aborted(size_probe=True) | Refused(is_usual=True):
            return logging.DEBUG
        case Completed() | Aborted() | Refused(code=ErrorCode.NOT_FOUND):
            return logging.INFO
        case Refused() | Failed():
            return logging.WARNING

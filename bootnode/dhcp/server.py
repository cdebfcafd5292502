"""The DHCP server's I/O: datagrams in, the responder asked, leases stored, replies out.

Rules: a bad packet costs one log line and a counter; of what strangers can send as often as they
like, a few lines and then how many more. A reply that gives a lease waits until the lease is on
disk; while one commit runs, the next ones gather and share a single commit. The offer of an address
that was never lent waits until it was tried on the wire, and nothing else does.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sqlite3
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from ipaddress import IPv4Address

from bootnode import net
from bootnode.addresses import Interface, MacAddress, parse_address
from bootnode.boot.client import Client, Speaker
from bootnode.boot.journal import Journal, Stage
from bootnode.dhcp import options as opt
from bootnode.dhcp.leases import Lease
from bootnode.dhcp.options import MessageType
from bootnode.dhcp.packet import (
    PACKET_SIZE_MAX,
    PXE_PORT,
    SERVER_PORT,
    UNSPECIFIED,
    Packet,
)
from bootnode.dhcp.prober import Prober
from bootnode.dhcp.replies import BROADCAST, Arrival, Ignored, Reply
from bootnode.dhcp.responder import Responder
from bootnode.dhcp.throttle import Throttle
from bootnode.dhcp.watch import ForeignWatch
from bootnode.errors import PacketError

log = logging.getLogger(__name__)

BATCH_MAX = 64
"""Datagrams handled before the event loop gets its turn again. With fewer, downloads that have
their turn each time leave DHCP behind."""
STRANGERS_MAX = 1000
"""Messages of clients outside the node table that the journal hears of, each 10 s."""
LINES_MAX = 3000
"""Lines about single messages, each 10 s: of more than 10,000 in 30 s, journald loses whatever
comes, and writing them takes longer than answering."""
GATHER_S = 0.001
"""Seconds from one commit to the next: each costs as much as storing fifty leases."""
WAITING_MAX = 65536
"""Leases that wait for the disk; beyond that a client has to ask again."""
_PKTINFO = struct.Struct("=i4s4s")

_STAGES = {
    MessageType.OFFER: Stage.OFFER,
    MessageType.ACK: Stage.ACK,
}


class LeaseWriter:
    """Stores leases in a thread, many in one commit, and says when each is on disk."""

    def __init__(self, save: Callable[[Sequence[Lease]], None], executor: Executor) -> None:
        self._save = save
        self._executor = executor
        self._waiting: list[tuple[Lease, Callable[[bool], None]]] = []
        self._task: asyncio.Task[None] | None = None

    def store(self, lease: Lease, when_done: Callable[[bool], None]) -> None:
        """Store a lease; `when_done` is called with whether that succeeded."""
        if len(self._waiting) >= WAITING_MAX:
            log.error("mac=%s not stored: %d leases wait for the disk", lease.mac, WAITING_MAX)
            when_done(False)
            return
        self._waiting.append((lease, when_done))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._commit())

    async def aclose(self) -> None:
        """Wait until everything handed in is stored."""
        if self._task is not None:
            await self._task

    async def _commit(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                is_stored = await self._store_batch([lease for lease, _ in batch])
                for _, when_done in batch:
                    try:
                        when_done(is_stored)
                    except Exception:
                        # Whatever one does, the others and the next batch go on.
                        log.exception("a reply could not be sent after its lease was stored")
                if self._waiting:
                    await asyncio.sleep(GATHER_S)
        finally:
            self._task = None

    async def _store_batch(self, leases: Sequence[Lease]) -> bool:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._executor, self._save, leases)
        except (sqlite3.Error, OSError) as error:
            log.error("leases=%d not stored: %s", len(leases), error)
            return False
        return True


class DhcpServer:
    """DHCP on one interface."""

    def __init__(
        self,
        *,
        interface: Interface,
        server_socket: socket.socket,
        pxe_socket: socket.socket,
        unicast_socket: socket.socket | None,
        prober: Prober | None,
        watch: ForeignWatch | None,
        responder: Responder,
        is_listed: Callable[[MacAddress], bool],
        writer: LeaseWriter,
        journal: Journal,
        clock: Callable[[], float],
        steady_clock: Callable[[], float],
        on_boot: Callable[[MacAddress], None],
    ) -> None:
        """`clock` is Unix time, and `steady_clock` too, but never set back.

        `is_listed` says whether the node table has a MAC; `on_boot` is called when a client that
        boots was answered.
        """
        self._interface = interface
        self._address = interface.address.ip
        self._sockets = {SERVER_PORT: server_socket, PXE_PORT: pxe_socket}
        self._unicast = unicast_socket
        self._prober = prober
        self._responder = responder
        self._watch = watch
        self._is_listed = is_listed
        self._writer = writer
        self._journal = journal
        self._clock = clock
        self._steady_clock = steady_clock
        self._on_boot = on_boot
        self._lines = Throttle(self._summarize)
        self._packet_lines = Throttle(self._summarize, lines_max=LINES_MAX)
        self._strangers = Throttle(lines_max=STRANGERS_MAX)

    def start(self) -> None:
        """Begin to read; needs a running event loop."""
        loop = asyncio.get_running_loop()
        for port, sock in self._sockets.items():
            loop.add_reader(sock, self._read, sock, port)
        if self._prober is not None:
            self._prober.start()
        if self._watch is not None:
            self._watch.start()

    def close(self) -> None:
        """Stop reading and close the sockets."""
        loop = asyncio.get_running_loop()
        if self._prober is not None:
            self._prober.close()
        if self._watch is not None:
            self._watch.close()
        for sock in self._sockets.values():
            loop.remove_reader(sock)
            sock.close()
        if self._unicast is not None:
            self._unicast.close()

    def _read(self, sock: socket.socket, port: int) -> None:
        for _ in range(BATCH_MAX):
            try:
                data, ancillary, _, source = sock.recvmsg(PACKET_SIZE_MAX + 1, 64)
            except BlockingIOError:
                return
            except OSError as error:
                # The interface went down, or an ICMP error of an earlier reply came in.
                log.warning("interface=%s port=%d %s", self._interface.name, port, error)
                return
            arrival = Arrival(
                source=parse_address(source[0]),
                source_port=source[1],
                destination=_destination(ancillary),
                port=port,
            )
            self._handle(data, arrival)

    def _handle(self, data: bytes, arrival: Arrival) -> None:
        if arrival.source == self._address:
            return  # our own broadcast, come back through a bridge
        try:
            request = Packet.parse(data)
        except PacketError as error:
            self._say_seldom("malformed", "from=%s %s", arrival.source, error)
            return
        for problem in request.problems:
            self._say_seldom("malformed_option", "mac=%s %s", request.mac, problem)
        self._journal.count(f"dhcp.{_name(request)}")
        self._answer(request, arrival)

    def _answer(self, request: Packet, arrival: Arrival) -> None:
        try:
            outcome = self._responder.handle(request, arrival, now=self._steady_clock())
        except Exception:
            # Whatever one packet brings about, the next one is still answered.
            self._journal.count("dhcp.error")
            log.exception("mac=%s xid=%08x could not be handled", request.mac, request.xid)
            return
        if self._watch is not None and (outcome.is_proxy or isinstance(outcome, Ignored)):
            self._watch.hear_request(request)
        if (
            isinstance(outcome, Ignored)
            or outcome.untried is None
            or not self._is_tried_first(request, arrival, outcome, outcome.untried)
        ):
            self._follow(request, outcome, self._clock())
            self._act(outcome)

    # Trying addresses

    def _is_tried_first(
        self, request: Packet, arrival: Arrival, reply: Reply, address: IPv4Address
    ) -> bool:
        """Whether the reply now waits for the wire to say that its address is free."""
        prober = self._prober
        if prober is None:
            return False

        def when_tried(holder: MacAddress | None) -> None:
            leases = self._responder.local.leases
            if holder is None or holder == reply.mac:
                leases.found_free(address)
                self._follow(request, reply, self._clock())
                self._act(reply)
                return
            found = leases.set_aside(address, holder, now=self._steady_clock())
            if isinstance(found, Lease):
                self._say_seldom(
                    "conflict",
                    "address=%s is in the pool and in use by mac=%s: left alone for now; give that "
                    "machine another address, or take this one out of the pool",
                    *(address, holder),
                )
                self._writer.store(found, lambda _stored: None)
            else:
                line = "address=%s was found in use by mac=%s, which does not count: %s"
                self._say_seldom("not_believed", line, address, holder, found.reason)
                leases.found_free(address)
            self._answer(request, arrival)

        return prober.try_address(address, when_tried)

    # Sending

    def _act(self, outcome: Reply | Ignored) -> None:
        """Store what is to be stored, then send."""
        if isinstance(outcome, Ignored):
            if outcome.lease is not None:
                self._writer.store(outcome.lease, lambda _stored: None)
            return
        reply, lease = outcome, outcome.lease
        if lease is None:
            self._send(reply)
            return

        def when_done(is_stored: bool) -> None:
            # A fixed address stands in the node table and needs no record to be safe; one from
            # the pool must not be promised before it is written down (RFC 2131 section 4.3.1).
            if is_stored or reply.is_fixed:
                self._send(reply)
            else:
                self._journal.count("dhcp.not_stored")

        self._writer.store(lease, when_done)

    def _send(self, reply: Reply) -> None:
        try:
            payload = reply.packet.serialize()
            if len(payload) > reply.size_max:
                payload = reply.packet.fit(reply.size_max).serialize()
            self._transmit(reply, payload)
        except (OSError, ValueError) as error:
            self._journal.count("dhcp.not_sent")
            log.warning("mac=%s to=%s not sent: %s", reply.mac, reply.destination, error)

    def _transmit(self, reply: Reply, payload: bytes) -> None:
        destination = reply.destination
        if reply.is_unconfigured:
            if self._unicast is not None:
                net.send_unicast(self._unicast, self._interface, payload, destination, reply.mac)
                return
            destination = BROADCAST
        sock = self._sockets[PXE_PORT if reply.is_from_pxe_port else SERVER_PORT]
        sock.sendto(payload, (socket.inet_ntoa(destination.packed), reply.port))

    # Telling

    def _say_seldom(self, topic: str, line: str, *arguments: object) -> bool:
        """Count something that strangers can bring about, and log it while there is not much of it.

        Whether it was logged.
        """
        self._journal.count(f"dhcp.{topic}")
        if not self._lines.admit(topic, self._steady_clock()):
            return False
        log.warning(f"interface=%s {line}", self._interface.name, *arguments)
        return True

    def _summarize(self, topic: str, count: int) -> None:
        log.warning(
            "interface=%s %s: %d more like it went unsaid", self._interface.name, topic, count
        )

    def _is_said(self) -> bool:
        """Whether this message gets its line in the log."""
        return self._packet_lines.admit("messages", self._steady_clock())

    def _follow(self, request: Packet, outcome: Reply | Ignored, now: float) -> None:
        """Tell the journal and the log what was asked and what comes of it."""
        asked, name = request.message_type, _name(request)
        if outcome.client is None:
            log.debug("chaddr=%s %s ignored: %s", request.chaddr.hex(":"), name, outcome.reason)
            return
        client, mac = outcome.client, outcome.client.mac
        if isinstance(outcome, Reply):
            answer = outcome.packet.message_type
            self._journal.count(f"dhcp.{_name(outcome.packet)}")
            if client.boots and answer in _STAGES:
                self._on_boot(mac)
        if not self._is_told(outcome, client, name):
            return
        if asked is MessageType.DISCOVER:
            self._journal.discover(mac, client.speaker, now=now)
            if client.is_circling:
                reason = outcome.reason if isinstance(outcome, Ignored) else outcome.no_boot
                self._say_seldom("chain_loop", "mac=%s told no boot file: %s", mac, reason)
        elif asked is MessageType.REQUEST:
            self._follow_request(request, outcome, mac, now)
        if isinstance(outcome, Reply):
            self._follow_reply(outcome, name, now)
        elif client.boots and (client.is_circling or not outcome.is_proxy):
            self._journal.note(mac, f"{name} ignored: {outcome.reason}", now=now)

    def _is_told(self, outcome: Reply | Ignored, client: Client, name: str) -> bool:
        """Log a message without a reply; whether the journal hears of this message."""
        if isinstance(outcome, Ignored):
            line = "mac=%s %s by=%s ignored: %s"
            words = (client.mac, name, client.speaker.value, outcome.reason)
            if not outcome.topic:
                if self._is_said():
                    log.info(line, *words)
            elif not self._say_seldom(outcome.topic, line, *words):
                return False
        # A flood of invented MACs must not drive the nodes out of the journal.
        return self._is_listed(client.mac) or self._strangers.admit(
            "stranger", self._steady_clock()
        )

    def _follow_request(
        self, request: Packet, outcome: Reply | Ignored, mac: MacAddress, now: float
    ) -> None:
        """A REQUEST is progress if it is answered; in proxy mode the other server answers."""
        boots = outcome.client is not None and outcome.client.boots
        if boots and (outcome.is_proxy or isinstance(outcome, Reply)):
            self._journal.reach(mac, Stage.REQUEST, now=now)
        address = request.requested_address or request.ciaddr
        if outcome.is_proxy and address != UNSPECIFIED:
            # The only word that we hear of the address which the other server gave.
            self._journal.locate(mac, address, now=now)

    def _follow_reply(self, reply: Reply, asked: str, now: float) -> None:
        mac, packet, speaker = reply.mac, reply.packet, reply.client.speaker
        answer = packet.message_type
        address = packet.yiaddr if packet.yiaddr != UNSPECIFIED else packet.ciaddr
        boot_file = packet.get(opt.BOOT_FILE) or ""
        if answer is MessageType.NAK:
            reason = packet.get(opt.MESSAGE) or ""
            if self._is_said():
                log.info("mac=%s %s by=%s nak: %s", mac, asked, speaker.value, reason)
            self._journal.note(mac, f"{asked} refused: {reason}", now=now)
            return
        if self._is_said():
            log.info(
                "mac=%s %s by=%s %s address=%s boot_file=%s%s",
                *(mac, asked, speaker.value, _name(packet), address, boot_file),
                f" (none: {reply.no_boot})" if reply.no_boot else "",
            )
        if reply.no_boot and answer is MessageType.OFFER:
            self._journal.note(mac, f"no boot file: {reply.no_boot}", now=now)
        # The Pi 2 and 3 never ask for what they were offered, they use it.
        is_taken = answer is not MessageType.OFFER or speaker is Speaker.RASPBERRY_PI
        if is_taken and address != UNSPECIFIED:
            self._journal.locate(mac, address, now=now)
        if reply.client.boots and answer in _STAGES:
            self._journal.reach(mac, _STAGES[answer], now=now, detail=boot_file or str(address))


_NAMES: dict[MessageType | None, str] = {kind: kind.name.lower() for kind in MessageType}
_NAMES[None] = "bootp"


def _name(message: Packet) -> str:
    """What kind of message it is, for the log."""
    return _NAMES[message.message_type]


def _destination(ancillary: list[tuple[int, int, bytes]]) -> IPv4Address:
    """Where a datagram was sent to: ip(7), IP_PKTINFO."""
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_IP and kind == net.IP_PKTINFO and len(value) >= _PKTINFO.size:
            return parse_address(_PKTINFO.unpack_from(value)[2])
    return UNSPECIFIED

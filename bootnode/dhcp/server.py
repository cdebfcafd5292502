"""The DHCP server's I/O: datagrams in, the responder asked, leases stored, replies out.

Rules: a bad packet costs one log line and a counter. A reply that gives a lease waits until the
lease is on disk; while one commit runs, the next ones gather and share a single commit.
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
from bootnode.addresses import Interface, MacAddress
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
from bootnode.dhcp.responder import BROADCAST, Arrival, Ignored, Reply, Responder
from bootnode.errors import PacketError

log = logging.getLogger(__name__)

BATCH_MAX = 64
"""Datagrams handled before the event loop gets its turn again."""
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
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                is_stored = await self._store_batch([lease for lease, _ in batch])
                for _, when_done in batch:
                    # Each on its own: whatever one does, the others and the next batch go on.
                    loop.call_soon(when_done, is_stored)
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
        responder: Responder,
        is_proxy: bool,
        writer: LeaseWriter,
        journal: Journal,
        clock: Callable[[], float],
        on_boot: Callable[[MacAddress], None],
    ) -> None:
        """`clock` is Unix time; `on_boot` is called when a client that boots was answered."""
        self._interface = interface
        self._sockets = {SERVER_PORT: server_socket, PXE_PORT: pxe_socket}
        self._unicast = unicast_socket
        self._responder = responder
        self._is_proxy = is_proxy
        self._writer = writer
        self._journal = journal
        self._clock = clock
        self._on_boot = on_boot

    def start(self) -> None:
        """Begin to read; needs a running event loop."""
        loop = asyncio.get_running_loop()
        for port, sock in self._sockets.items():
            loop.add_reader(sock, self._read, sock, port)

    def close(self) -> None:
        """Stop reading and close the sockets."""
        loop = asyncio.get_running_loop()
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
                source=IPv4Address(source[0]),
                source_port=source[1],
                destination=_destination(ancillary),
                port=port,
            )
            self._handle(data, arrival)

    def _handle(self, data: bytes, arrival: Arrival) -> None:
        if arrival.source == self._interface.address.ip:
            return  # our own broadcast, come back through a bridge
        try:
            request = Packet.parse(data)
        except PacketError as error:
            self._journal.count("dhcp.malformed")
            log.warning("interface=%s from=%s %s", self._interface.name, arrival.source, error)
            return
        now = self._clock()
        try:
            outcome = self._responder.handle(request, arrival, now=now)
        except Exception:
            # Whatever one packet brings about, the next one is still answered.
            self._journal.count("dhcp.error")
            log.exception("mac=%s xid=%08x could not be handled", request.mac, request.xid)
            return
        for problem in request.problems:
            self._journal.count("dhcp.malformed_option")
            log.warning("mac=%s xid=%08x %s", request.mac, request.xid, problem)
        self._follow(request, outcome, now)
        self._act(outcome)

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
        is_fixed = self._responder.leases.is_reserved(lease.mac, lease.address)

        def when_done(is_stored: bool) -> None:
            # A fixed address stands in the node table and needs no record to be safe; one from
            # the pool must not be promised before it is written down (RFC 2131 section 4.3.1).
            if is_stored or is_fixed:
                self._send(reply)
            else:
                self._journal.count("dhcp.not_stored")

        self._writer.store(lease, when_done)

    def _send(self, reply: Reply) -> None:
        try:
            self._transmit(reply, reply.packet.fit(reply.size_max).serialize())
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
        sock.sendto(payload, (str(destination), reply.port))

    def _follow(self, request: Packet, outcome: Reply | Ignored, now: float) -> None:
        """Tell the journal and the log what was asked and what comes of it."""
        asked = request.message_type
        name = asked.name.lower() if asked is not None else "bootp"
        self._journal.count(f"dhcp.{name}")
        if outcome.client is None:
            log.info("chaddr=%s %s ignored: %s", request.chaddr.hex(":"), name, outcome.reason)
            return
        client, mac = outcome.client, outcome.client.mac
        if asked is MessageType.DISCOVER:
            self._journal.discover(mac, client.speaker, now=now)
        elif asked is MessageType.REQUEST:
            self._follow_request(request, outcome, mac, now)
        if isinstance(outcome, Ignored):
            log.info("mac=%s %s by=%s ignored: %s", mac, name, client.speaker.value, outcome.reason)
            if client.boots and not self._is_proxy:
                self._journal.note(mac, f"{name} ignored: {outcome.reason}", now=now)
            return
        self._follow_reply(outcome, name, now)

    def _follow_request(
        self, request: Packet, outcome: Reply | Ignored, mac: MacAddress, now: float
    ) -> None:
        """A REQUEST is progress if it is answered; in proxy mode the other server answers."""
        boots = outcome.client is not None and outcome.client.boots
        if boots and (self._is_proxy or isinstance(outcome, Reply)):
            self._journal.reach(mac, Stage.REQUEST, now=now)
        address = request.requested_address or request.ciaddr
        if self._is_proxy and address != UNSPECIFIED:
            # The only word that we hear of the address which the other server gave.
            self._journal.locate(mac, address, now=now)

    def _follow_reply(self, reply: Reply, asked: str, now: float) -> None:
        mac, packet = reply.mac, reply.packet
        answer = packet.message_type or MessageType.UNKNOWN
        address = packet.yiaddr if packet.yiaddr != UNSPECIFIED else packet.ciaddr
        boot_file = packet.get(opt.BOOT_FILE) or ""
        self._journal.count(f"dhcp.{answer.name.lower()}")
        if answer is MessageType.NAK:
            reason = packet.get(opt.MESSAGE) or ""
            log.info("mac=%s %s by=%s nak: %s", mac, asked, reply.client.speaker.value, reason)
            self._journal.note(mac, f"{asked} refused: {reason}", now=now)
            return
        log.info(
            "mac=%s %s by=%s %s address=%s boot_file=%s",
            *(mac, asked, reply.client.speaker.value, answer.name.lower(), address, boot_file),
        )
        if answer is MessageType.ACK and address != UNSPECIFIED:
            self._journal.locate(mac, address, now=now)
        if reply.client.boots and answer in _STAGES:
            self._journal.reach(mac, _STAGES[answer], now=now, detail=boot_file or str(address))
            self._on_boot(mac)


def _destination(ancillary: list[tuple[int, int, bytes]]) -> IPv4Address:
    """Where a datagram was sent to: ip(7), IP_PKTINFO."""
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_IP and kind == net.IP_PKTINFO and len(value) >= _PKTINFO.size:
            return IPv4Address(_PKTINFO.unpack_from(value)[2])
    return UNSPECIFIED

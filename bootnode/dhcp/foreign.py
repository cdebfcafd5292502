"""Other DHCP servers on the wire: what they offer, to whom, and when that is worth saying.

RFC 2131 knows several servers on one network only if they agree; two that do not are the hardest
fault to find. Rules:

- A server is its address. Where another one gives the addresses (ProxyDHCP), its plain offers are
  expected: news is only what would boot our nodes in our stead, and a second server of addresses.
- One line a server and one note a node in REPEAT_S. SERVERS_MAX servers are remembered, and
  NOTED_MAX nodes of each, so a flood of forged offers costs a counter.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import Final

from bootnode.addresses import MacAddress
from bootnode.dhcp import options as opt
from bootnode.dhcp import pxe
from bootnode.dhcp.options import MessageType
from bootnode.dhcp.packet import (
    BOOTREPLY,
    BOOTREQUEST,
    CLIENT_PORT,
    FLAG_BROADCAST,
    SERVER_PORT,
    UNSPECIFIED,
    Packet,
)
from bootnode.errors import PacketError

REPEAT_S: Final = 600.0
"""Seconds after which the same server is named again."""
SERVERS_MAX: Final = 16
"""When so many are known, one that was silent for REPEAT_S makes room for a new one."""
NOTED_MAX: Final = 64
"""Nodes for each server, in REPEAT_S."""
UNANSWERED_MIN: Final = 4
"""DISCOVERs without a sign of the other server, and ..."""
UNANSWERED_S: Final = 15.0
"""... the seconds that they take at least, until it counts as silent."""
_TEXT_MAX: Final = 80
_ETHERNET_SIZE: Final = 14
_PORTS = struct.Struct("!HHH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What another server gives a client, as far as we heard."""

    server: IPv4Address
    server_mac: MacAddress | None
    """None if we know of it only by the client's word."""
    mac: MacAddress
    """The client's."""
    xid: int
    address: IPv4Address
    """0.0.0.0 from a ProxyDHCP server."""
    boot_file: str = ""
    next_server: IPv4Address = UNSPECIFIED
    is_pxe: bool = False
    """Whether it says that it is for PXE or HTTP Boot clients (option 60)."""

    @property
    def boots(self) -> bool:
        """Whether a client may boot by it."""
        return bool(self.boot_file) or self.is_pxe

    def __str__(self) -> str:
        words = [f"DHCP server {self.server}"]
        words += [f"(mac {self.server_mac})"] if self.server_mac is not None else []
        gives = [f"address {self.address}"] if self.address != UNSPECIFIED else []
        # What comes from the wire may hold anything.
        gives += [f"boot file {self.boot_file[:_TEXT_MAX]!a}"] if self.boot_file else []
        gives += ["a PXE boot server"] if self.is_pxe and not self.boot_file else []
        gives += [f"next server {self.next_server}"] if self.next_server != UNSPECIFIED else []
        return " ".join([*words, "offered", f"{self.mac}", ", ".join(gives) or "nothing"])


def read_frame(frame: bytes) -> Offer | None:
    """The offer in an Ethernet frame; None if it holds none. Never raises."""
    ip_size = (frame[_ETHERNET_SIZE] & 15) * 4 if len(frame) > _ETHERNET_SIZE else 0
    udp_at = _ETHERNET_SIZE + ip_size
    if ip_size < 20 or len(frame) < udp_at + 8 or frame[_ETHERNET_SIZE + 9] != 17:
        return None
    source_port, port, length = _PORTS.unpack_from(frame, udp_at)
    if (source_port, port) != (SERVER_PORT, CLIENT_PORT):
        return None
    try:
        reply = Packet.parse(frame[udp_at + 8 : udp_at + max(length, 8)])
    except PacketError:
        return None
    source = IPv4Address(frame[_ETHERNET_SIZE + 12 : _ETHERNET_SIZE + 16])
    return read_reply(reply, source, MacAddress(frame[6:12]))


def read_reply(reply: Packet, source: IPv4Address, source_mac: MacAddress) -> Offer | None:
    """What an OFFER or ACK gives; None for other messages."""
    mac = reply.mac
    if reply.op != BOOTREPLY or mac is None:
        return None
    if reply.message_type not in (MessageType.OFFER, MessageType.ACK):
        return None
    header_file = reply.file.partition(b"\0")[0].decode("latin-1")
    vendor_class = reply.get(opt.VENDOR_CLASS) or ""
    return Offer(
        server=reply.get(opt.SERVER_ID) or source,
        server_mac=source_mac,
        mac=mac,
        xid=reply.xid,
        address=reply.yiaddr,
        boot_file=reply.get(opt.BOOT_FILE) or header_file,
        next_server=reply.siaddr,
        is_pxe=vendor_class.startswith((pxe.PXE_CLIENT, pxe.HTTP_CLIENT)),
    )


def read_choice(request: Packet) -> Offer | None:
    """What a client took of which server, as its REQUEST says; None if it says nothing of that.

    What comes by a relay tells nothing of this wire.
    """
    server, mac = request.get(opt.SERVER_ID), request.mac
    is_choice = request.op == BOOTREQUEST and request.message_type is MessageType.REQUEST
    if not is_choice or server is None or mac is None or request.giaddr != UNSPECIFIED:
        return None
    address = request.requested_address
    if address is None:
        return None
    return Offer(server=server, server_mac=None, mac=mac, xid=request.xid, address=address)


def question(mac: MacAddress, xid: int) -> Packet:
    """A DISCOVER that asks who is there; what is offered for it is never taken.

    It is the interface's own: switches drop what names another card, and the answer finds its way
    to us even if the server pays no heed to the broadcast flag.
    """
    return Packet(
        op=BOOTREQUEST,
        xid=xid,
        flags=FLAG_BROADCAST,
        chaddr=mac + bytes(10),
        options=dict([opt.MESSAGE_TYPE.item(MessageType.DISCOVER)]),
    )


@dataclass(slots=True, kw_only=True)
class ForeignServer:
    """One of them."""

    last: Offer
    """Its last offer; its MAC is kept when a client's word comes later."""
    heard: float
    gave_address: float | None = None
    """When it last gave an address."""
    said: float | None = None
    """When it was last named in the log."""
    noted: set[MacAddress] = field(default_factory=set)
    """Nodes that have their note, since it was last named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What is worth saying of one offer."""

    text: str
    is_for_log: bool
    is_for_node: bool


class ForeignServers:
    """Those heard on one network. Every `now` is of a clock that only goes forward."""

    def __init__(self) -> None:
        self._servers: dict[IPv4Address, ForeignServer] = {}
        self._crowd_said: float | None = None
        self._unanswered = 0
        self._asked_since = 0.0
        self._silence_said: float | None = None

    def __iter__(self) -> Iterator[ForeignServer]:
        return iter(self._servers.values())

    def hear(self, offer: Offer, *, is_proxy: bool, now: float) -> News | None:
        """Take an offer in; None if nothing is to be said of it now.

        `is_proxy`: another server is to give the addresses here.
        """
        if offer.address != UNSPECIFIED:
            self.note_answer()
        server = self._enter(offer, now)
        if server is None:
            return self._crowd(now)
        reason = self._reason(offer, is_proxy=is_proxy, now=now)
        if reason is None:
            return None
        is_for_log = _is_due(server.said, now)
        if is_for_log:
            server.said = now
            server.noted.clear()
        is_for_node = offer.mac not in server.noted and len(server.noted) < NOTED_MAX
        if is_for_node:
            server.noted.add(offer.mac)
        return News(text=f"{server.last}: {reason}", is_for_log=is_for_log, is_for_node=is_for_node)

    def note_answer(self) -> None:
        """A client is given an address by another server."""
        self._unanswered = 0

    def ask(self, *, now: float) -> bool:
        """A client asks for the address that another server is to give; whether to say that none
        of them has been answered for a while."""
        if self._unanswered == 0:
            self._asked_since = now
        self._unanswered += 1
        is_silent = self._unanswered >= UNANSWERED_MIN and now - self._asked_since >= UNANSWERED_S
        if not is_silent or not _is_due(self._silence_said, now):
            return False
        self._silence_said = now
        return True

    def _enter(self, offer: Offer, now: float) -> ForeignServer | None:
        """Its record; None when there is no room for one more."""
        server = self._servers.get(offer.server)
        if server is None:
            if len(self._servers) >= SERVERS_MAX:
                oldest = min(self._servers, key=lambda key: self._servers[key].heard)
                if now - self._servers[oldest].heard < REPEAT_S:
                    return None
                del self._servers[oldest]
            server = self._servers[offer.server] = ForeignServer(last=offer, heard=now)
        elif offer.server_mac is None:
            # The client's word is no more than a part of what was heard from the server itself.
            offer = replace(server.last, mac=offer.mac, xid=offer.xid, address=offer.address)
        server.last, server.heard = offer, now
        if offer.address != UNSPECIFIED:
            server.gave_address = now
        return server

    def _reason(self, offer: Offer, *, is_proxy: bool, now: float) -> str | None:
        """Why that is not right here."""
        gives = offer.address != UNSPECIFIED
        others = [
            server.last.server
            for server in self._servers.values()
            if server.last.server != offer.server and not _is_due(server.gave_address, now)
        ]
        if gives and not is_proxy:
            return "two servers of addresses harm a network, turn one off"
        if gives and others:
            return f"{others[0]} gives addresses too: turn one off, unless they share their leases"
        return _BOOTS if offer.boots else None

    def _crowd(self, now: float) -> News | None:
        if not _is_due(self._crowd_said, now):
            return None
        self._crowd_said = now
        text = f"more than {SERVERS_MAX} DHCP servers are heard: somebody forges offers"
        return News(text=text, is_for_log=True, is_for_node=False)


_BOOTS: Final = "nodes may boot by that instead of by us"


def _is_due(last: float | None, now: float) -> bool:
    return last is None or now - last >= REPEAT_S

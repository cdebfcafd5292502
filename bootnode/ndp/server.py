"""The one IPv6 answer that a netboot server owes: it tells a booting node to stop waiting.

iPXE tries IPv6 beside DHCPv4 and waits 16 s for a router that may not exist. A router
advertisement with lifetime 0, no prefix and no flags says "no router, no addresses here", and the
boot goes on. It is sent only to a node that is booting, only to its own MAC, and only on a wire
on which no real router advertises; it makes nobody a router and gives nobody an address.
RFC 4861 sections 4.1, 4.2 and 6.2.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from bootnode.addresses import Interface, MacAddress
from bootnode.boot.journal import Journal
from bootnode.ndp.packet import (
    RouterAdvertisement,
    RouterSolicitation,
    parse_frame,
    serialize_router_advertisement,
)

log = logging.getLogger(__name__)

_Value = TypeVar("_Value")

FRAME_SIZE_MAX = 2048
BATCH_MAX = 64
"""Frames handled before the event loop gets its turn again."""
BOOTING_S = 60.0
"""Seconds after a DHCP answer during which a node counts as booting."""
WAITING_S = 8.0
"""Seconds that a solicitation waits for its node to show by DHCP that it is booting."""
ROUTER_S = 1800.0
"""Seconds that a router's advertisement keeps us silent (RFC 4861: the default lifetime)."""
NODES_MAX = 4096
"""Solicitations and booting nodes remembered; the oldest go first."""


class RouterSolicitationServer:
    """Answers router solicitations on one interface."""

    def __init__(
        self,
        *,
        interface: Interface,
        frames: socket.socket,
        journal: Journal,
        clock: Callable[[], float],
    ) -> None:
        self._interface = interface
        self._frames = frames
        self._journal = journal
        self._clock = clock
        self._booting: OrderedDict[MacAddress, float] = OrderedDict()
        self._waiting: OrderedDict[MacAddress, tuple[float, RouterSolicitation]] = OrderedDict()
        self._router_until = 0.0

    def start(self) -> None:
        """Begin to read; needs a running event loop."""
        asyncio.get_running_loop().add_reader(self._frames, self._read)

    def close(self) -> None:
        """Stop reading and close the socket."""
        asyncio.get_running_loop().remove_reader(self._frames)
        self._frames.close()

    def boots(self, mac: MacAddress) -> None:
        """DHCP has just answered this node, so it is booting; answer what it asked before."""
        now = self._clock()
        _remember(self._booting, mac, now + BOOTING_S)
        until, solicitation = self._waiting.pop(mac, (0.0, None))
        if solicitation is not None and now <= until:
            self._answer(solicitation, now)

    def _read(self) -> None:
        for _ in range(BATCH_MAX):
            try:
                frame = self._frames.recv(FRAME_SIZE_MAX)
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("interface=%s %s", self._interface.name, error)
                return
            match parse_frame(frame):
                case RouterSolicitation() as solicitation:
                    self._solicited(solicitation)
                case RouterAdvertisement() as advertisement:
                    self._advertised(advertisement)

    def _solicited(self, solicitation: RouterSolicitation) -> None:
        now = self._clock()
        if self._booting.get(solicitation.source_mac, 0.0) >= now:
            self._answer(solicitation, now)
        else:
            # iPXE often asks for a router before it asks for an address.
            _remember(self._waiting, solicitation.source_mac, (now + WAITING_S, solicitation))

    def _advertised(self, advertisement: RouterAdvertisement) -> None:
        if advertisement.source_mac == self._interface.mac:
            return
        if self._router_until < self._clock():
            log.info(
                "interface=%s router=%s advertises: no solicitation is answered here",
                *(self._interface.name, advertisement.source_mac),
            )
        self._router_until = self._clock() + ROUTER_S

    def _answer(self, solicitation: RouterSolicitation, now: float) -> None:
        if now < self._router_until:
            return
        frame = serialize_router_advertisement(
            source_mac=self._interface.mac,
            source_address=self._interface.link_local,
            destination_mac=solicitation.source_mac,
            destination_address=solicitation.source_address,
        )
        try:
            self._frames.send(frame)
        except OSError as error:
            log.warning("mac=%s advertisement not sent: %s", solicitation.source_mac, error)
            return
        self._journal.count("ndp.answered")
        log.debug("mac=%s router solicitation answered", solicitation.source_mac)


def _remember(table: OrderedDict[MacAddress, _Value], mac: MacAddress, value: _Value) -> None:
    table[mac] = value
    table.move_to_end(mac)
    if len(table) > NODES_MAX:
        table.popitem(last=False)

"""Trying addresses before they are offered: an ARP probe, and a short wait for an answer.

RFC 2131 section 3.1 (a server should), RFC 5227 (how). Rules:

- Nothing waits for a probe but the offer of that one address; PROBE_S is within the patience of
  every client (iPXE repeats its DISCOVER after 1 s, U-Boot and Linux later).
- Under load it is left out: PROBES_MAX are on their way at most.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import TypeAlias

from bootnode.addresses import Interface, MacAddress
from bootnode.dhcp import arp

log = logging.getLogger(__name__)

PROBE_S = 0.4
"""Seconds until an address that nobody answered for counts as free."""
PROBES_MAX = 64
"""Addresses tried at the same time."""
FRAMES_MAX = 64
"""Frames read before the event loop gets its turn again."""
_FRAME_BYTES = 128

WhenTried: TypeAlias = Callable[[MacAddress | None], None]
"""Called with the MAC that has the address, or None if nobody has."""


class Prober:
    """Tries addresses on one interface."""

    def __init__(self, interface: Interface, frames: socket.socket) -> None:
        """`frames` is a raw socket that hears ARP replies."""
        self._interface = interface
        self._frames = frames
        self._waiting: dict[IPv4Address, tuple[WhenTried, asyncio.TimerHandle]] = {}

    def start(self) -> None:
        """Begin to listen; needs a running event loop."""
        asyncio.get_running_loop().add_reader(self._frames, self._read)

    def close(self) -> None:
        """Stop, and forget the probes on their way."""
        asyncio.get_running_loop().remove_reader(self._frames)
        for _, timer in self._waiting.values():
            timer.cancel()
        self._waiting.clear()

    def try_address(self, address: IPv4Address, when_tried: WhenTried) -> bool:
        """Ask who has an address; False if that is not possible now.

        A client that asks again while its address is being tried takes the place of its first call.
        """
        if address in self._waiting:
            _, timer = self._waiting[address]
            self._waiting[address] = (when_tried, timer)
            return True
        if len(self._waiting) >= PROBES_MAX:
            return False
        try:
            self._frames.send(arp.serialize_probe(self._interface.mac, address))
        except OSError as error:
            log.warning("interface=%s address=%s not tried: %s", *self._label(address), error)
            return False
        timer = asyncio.get_running_loop().call_later(PROBE_S, self._finish, address, None)
        self._waiting[address] = (when_tried, timer)
        return True

    def _label(self, address: IPv4Address) -> tuple[str, IPv4Address]:
        return self._interface.name, address

    def _read(self) -> None:
        for _ in range(FRAMES_MAX):
            try:
                frame = self._frames.recv(_FRAME_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("interface=%s ARP: %s", self._interface.name, error)
                return
            answer = arp.parse_reply(frame)
            if answer is not None and answer[0] in self._waiting:
                self._finish(*answer)

    def _finish(self, address: IPv4Address, holder: MacAddress | None) -> None:
        when_tried, timer = self._waiting.pop(address)
        timer.cancel()
        when_tried(holder)

"""Watching for other DHCP servers on one interface, and asking whether there is one.

A raw socket hears OFFERs and ACKs that are broadcast or reach this port; a switch keeps the rest
away, so the REQUESTs of clients, which name the server they chose, count too. Of a server that is
known by them alone, a question brings the MAC to light.

With `dhcp: auto` the wire is asked once, when the daemon starts: DISCOVERs at ASK_AT_S, and an
answer waited for until ASK_S. dnsmasq pings an address for up to 3 s before it offers it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable, Collection
from ipaddress import IPv4Address
from typing import Any, Final

from bootnode import net
from bootnode.addresses import Interface, MacAddress
from bootnode.boot.journal import Journal
from bootnode.dhcp.foreign import (
    SERVERS_MAX,
    ForeignServers,
    News,
    Offer,
    question,
    read_choice,
    read_frame,
)
from bootnode.dhcp.options import MessageType
from bootnode.dhcp.packet import PACKET_SIZE_MAX, UNSPECIFIED, Packet
from bootnode.dhcp.subnet import Subnet

log = logging.getLogger(__name__)

ASK_AT_S: Final = (0.0, 0.7, 1.6)
"""Seconds at which the question is put."""
ASK_S: Final = 3.2
"""Seconds until no answer is an answer."""
FRAMES_MAX: Final = 64
"""Frames read before the event loop gets its turn again."""


class ForeignWatch:
    """The other DHCP servers on one interface, and what is made of them."""

    def __init__(
        self,
        *,
        interface: Interface,
        frames: socket.socket | None,
        subnet: Subnet,
        own_addresses: Collection[IPv4Address],
        is_listed: Callable[[MacAddress], bool],
        journal: Journal,
        clock: Callable[[], float],
        steady_clock: Callable[[], float],
    ) -> None:
        """`frames` hears offers, None without CAP_NET_RAW; `clock` is Unix time for the journal."""
        self._interface = interface
        self._frames = frames
        self._subnet = subnet
        self._own_addresses = own_addresses
        self._is_listed = is_listed
        self._journal = journal
        self._clock = clock
        self._steady_clock = steady_clock
        self._servers = ForeignServers()
        self._is_asking = False
        self._nameless: set[IPv4Address] = set()
        """Servers that were asked for because their MAC is not known; as few as get a line."""
        self._answer: Offer | None = None
        self._answered = asyncio.Event()
        self._why = "bootnoded.yaml says so"

    def start(self) -> None:
        """Begin to listen; needs a running event loop."""
        if self._frames is not None:
            asyncio.get_running_loop().add_reader(self._frames, self._read, self._frames)

    def close(self) -> None:
        """Stop listening."""
        if self._frames is not None:
            asyncio.get_running_loop().remove_reader(self._frames)

    @property
    def is_to_decide(self) -> bool:
        """Whether this network is served as `decide` finds out."""
        return self._subnet.settings.dhcp == "auto"

    def status(self) -> dict[str, Any]:
        """How this network is served and why, and the servers heard, for the status."""
        now = self._steady_clock()
        return {
            "network": self._subnet.settings.name,
            "dhcp": self._subnet.settings.dhcp,
            "acts_as": "proxy" if self._subnet.is_proxy else "full",
            "why": self._why,
            "other_servers": [
                {
                    "server": str(each.last.server),
                    "mac": str(each.last.server_mac) if each.last.server_mac is not None else None,
                    "heard_s_ago": round(now - each.heard, 1),
                    "offer": str(each.last),
                    "is_news": each.said is not None,
                }
                for each in self._servers
            ],
        }

    def hear_request(self, request: Packet) -> None:
        """Take in what a client says, which was not answered or gets its address elsewhere."""
        choice = read_choice(request)
        if choice is not None:
            if choice.server not in self._own_addresses:
                self._hear(choice)
            elif self._subnet.is_proxy:
                # Of a server on this machine, which has our address too, we hear nothing else.
                self._servers.note_answer()
            return
        is_here = request.giaddr == UNSPECIFIED
        if request.message_type is not MessageType.DISCOVER or not is_here or self._is_asking:
            return
        if self._subnet.is_proxy and self._servers.ask(now=self._steady_clock()):
            self._journal.count("dhcp.no_other_server")
            log.warning(
                "interface=%s clients ask for an address and no DHCP server gives them one: "
                "start it, or have bootnode give addresses (`dhcp: full`)",
                self._interface.name,
            )

    def _read(self, frames: socket.socket) -> None:
        for _ in range(FRAMES_MAX):
            try:
                frame = frames.recv(PACKET_SIZE_MAX)
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("interface=%s offers: %s", self._interface.name, error)
                return
            offer = read_frame(frame)
            # Our own come back through a bridge, and under another MAC by a relay or from another
            # interface of ours on the same wire.
            if (
                offer is not None
                and offer.server_mac != self._interface.mac
                and offer.server not in self._own_addresses
            ):
                self._hear(offer)

    def _hear(self, offer: Offer) -> None:
        self._journal.count("dhcp.foreign_offer")
        if offer.server_mac is not None and offer.server in self._nameless:
            self._nameless.discard(offer.server)
            log.warning("interface=%s %s", self._interface.name, offer)
        gives = offer.address != UNSPECIFIED
        if gives and self._is_asking:
            self._answer = offer
            self._answered.set()
        elif gives and not self._subnet.is_proxy and self._subnet.settings.dhcp == "auto":
            self._stand_back(offer)
        is_proxy = self._subnet.is_proxy
        news = self._servers.hear(offer, is_proxy=is_proxy, now=self._steady_clock())
        if news is not None:
            self._tell(news, offer)

    def _tell(self, news: News, offer: Offer) -> None:
        mac = offer.mac
        if news.is_for_log:
            log.warning("interface=%s %s", self._interface.name, news.text)
            self._find_mac(offer)
        # Only nodes: forged offers to invented MACs must not drive them out of the journal.
        if news.is_for_node and self._is_listed(mac):
            self._journal.note(mac, news.text, now=self._clock())

    def _find_mac(self, offer: Offer) -> None:
        """Ask everybody, so that a server known by a client's word shows itself."""
        is_known = any(
            each.last.server == offer.server and each.last.server_mac is not None
            for each in self._servers
        )
        if self._frames is None or is_known or len(self._nameless) >= SERVERS_MAX:
            return
        self._nameless.add(offer.server)
        self._put_question(self._frames, secrets.randbits(32))

    def _put_question(self, frames: socket.socket, xid: int) -> None:
        try:
            payload = question(self._interface.mac, xid).serialize()
            net.send_question(frames, self._interface, payload)
        except OSError as error:
            log.warning("interface=%s not asked: %s", self._interface.name, error)

    # dhcp: auto

    async def decide(self, local_server: str | None) -> None:
        """Find out whether another server gives addresses here, and act accordingly.

        `local_server` is the program on this machine that has the port already.
        """
        if local_server is not None:
            self._act(is_proxy=True, why=f"{local_server} on this machine has UDP port 67")
        elif self._frames is None:
            self._act(is_proxy=True, why="without CAP_NET_RAW we cannot ask for other servers")
        elif (answer := await self._ask(self._frames)) is not None:
            self._act(is_proxy=True, why=str(answer))
        elif not self._subnet.leases.lends:
            why = "no other server answers, but there is neither a `pool` nor a node with an `ip`"
            self._act(is_proxy=True, why=why)
        else:
            self._act(is_proxy=False, why=f"no other DHCP server answers within {ASK_S} s")

    async def _ask(self, frames: socket.socket) -> Offer | None:
        """The first offer of an address; None if there is none in time."""
        xid, loop = secrets.randbits(32), asyncio.get_running_loop()
        self._is_asking = True
        timers = [loop.call_later(at_s, self._put_question, frames, xid) for at_s in ASK_AT_S]
        try:
            async with asyncio.timeout(ASK_S):
                await self._answered.wait()
        except TimeoutError:
            pass
        finally:
            self._is_asking = False
            for timer in timers:
                timer.cancel()
        return self._answer

    def _act(self, *, is_proxy: bool, why: str) -> None:
        self._subnet.is_proxy, self._why = is_proxy, why
        log.info("interface=%s dhcp=auto acts_as=%s: %s", *self._label(), why)

    def _stand_back(self, offer: Offer) -> None:
        self._journal.count("dhcp.stood_back")
        self._subnet.is_proxy, self._why = True, f"{offer} while we gave addresses"
        log.error(
            "interface=%s dhcp=auto acts_as=%s from now on: %s, and two servers harm a network. "
            "Who has an address of ours keeps it; restart bootnoded to ask anew, or write `full`",
            *(*self._label(), offer),
        )
        self._find_mac(offer)

    def _label(self) -> tuple[str, str]:
        return self._interface.name, "proxy" if self._subnet.is_proxy else "full"

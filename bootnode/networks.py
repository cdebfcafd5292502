"""DHCP on every network of the configuration: sockets, subnets and servers put together.

Each interface has a server of its own; subnets behind relays are known to all of them. Where DHCP
is off, a server listens all the same if relays may reach us there.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from ipaddress import IPv4Network
from itertools import product
from typing import Any

from bootnode import net
from bootnode.addresses import Interface, MacAddress
from bootnode.boot.journal import Journal
from bootnode.boot.plan import Policy, Site
from bootnode.clock import SteadyClock
from bootnode.config import Config, NetworkSettings
from bootnode.dhcp.leases import Lease, LeaseTable
from bootnode.dhcp.packet import PXE_PORT, SERVER_PORT
from bootnode.dhcp.prober import Prober
from bootnode.dhcp.responder import Responder
from bootnode.dhcp.server import DhcpServer, LeaseWriter
from bootnode.dhcp.subnet import Subnet
from bootnode.dhcp.watch import ForeignWatch
from bootnode.errors import StartError
from bootnode.ndp.server import RouterSolicitationServer

log = logging.getLogger(__name__)


class Networks:
    """The networks of one daemon."""

    def __init__(
        self, *, config: Config, policy: Policy, journal: Journal, clock: SteadyClock
    ) -> None:
        self._config = config
        self._policy = policy
        self._journal = journal
        self._clock = clock
        self.subnets: list[Subnet] = []
        """Those with `dhcp: full` or `auto`."""
        self._sites: list[Site] = []
        self._watches: list[tuple[ForeignWatch, str | None]] = []
        """Each with the program on this machine that has its DHCP port, if one has."""

    def open(
        self,
        networks: Sequence[tuple[NetworkSettings, Interface]],
        stored: Sequence[Lease],
        writer: LeaseWriter,
        stack: AsyncExitStack,
    ) -> list[DhcpServer | RouterSolicitationServer]:
        """Take the sockets of every network; what serves there has not begun yet.

        Raises:
            StartError: a port is in use, or the configuration does not fit the interfaces.
        """
        remote = [
            self.add_subnet(settings, settings.subnet, stored)
            for settings in self._config.networks
            if settings.subnet is not None
        ]
        addresses = frozenset(interface.address.ip for _, interface in networks)
        for subnet, (_, interface) in product(remote, networks):
            if subnet.network.overlaps(interface.address.network):
                raise StartError(
                    f"the subnet {subnet.network} is on {interface.name} ({interface.address}): "
                    "take it out of `networks` in bootnoded.yaml, or the interface's entry"
                )
        servers: list[DhcpServer | RouterSolicitationServer] = []
        for settings, interface in networks:
            site = Site(address=interface.address.ip, http_port=self._config.http.port)
            self._sites.append(site)
            responder = Responder(
                site=site,
                local=self.add_subnet(settings, interface.address.network, stored, interface),
                remote=remote,
                policy=self._policy,
                own_addresses=addresses,
            )
            # Also where DHCP is off, if relays may reach us there.
            if settings.dhcp != "off" or remote:
                servers += self._dhcp(interface, responder, writer, stack)
        return servers

    async def decide(self) -> None:
        """Find out where another server gives the addresses, for `dhcp: auto`.

        All networks at once; those that need no decision are served meanwhile.
        """
        await asyncio.gather(
            *(watch.decide(holder) for watch, holder in self._watches if watch.is_to_decide)
        )

    def status(self) -> list[dict[str, Any]]:
        """What each network does, and which other servers were heard there."""
        return [watch.status() for watch, _ in self._watches]

    def reserve(self) -> None:
        """Give each network the fixed addresses that lie in it; say which lie in none."""
        table = self._policy.table
        homeless = dict(table.reservations)
        own = {site.address for site in self._sites}
        for subnet in self.subnets:
            here = {m: a for m, a in homeless.items() if a in subnet and a not in own}
            subnet.leases.reserve(here, table.macs)
            homeless = {mac: address for mac, address in homeless.items() if mac not in here}
        for mac, address in homeless.items() if self.subnets else ():
            log.error(
                "mac=%s node=%s its ip %s is this server's own, or in no network with "
                "`dhcp: full` or `auto`: mend nodes.yaml",
                *(mac, self._policy.name(mac), address),
            )

    def _dhcp(
        self,
        interface: Interface,
        responder: Responder,
        writer: LeaseWriter,
        stack: AsyncExitStack,
    ) -> Iterator[DhcpServer | RouterSolicitationServer]:
        """DHCP on one interface, and the answer to router solicitations where we may give it."""
        settings = responder.local.settings
        solicitations = self._solicitations(interface, stack)
        if solicitations is not None:
            yield solicitations
        unicast = net.unicast_socket(interface)
        lends = settings.dhcp in ("full", "auto")
        arp = net.arp_socket(interface) if lends and settings.probe else None
        server_socket, holder = _server_socket(interface, settings)
        net.keep_open(stack, server_socket)
        watch = self._watch(interface, responder, stack) if settings.dhcp != "off" else None
        if watch is not None:
            self._watches.append((watch, holder))
        yield DhcpServer(
            interface=interface,
            server_socket=server_socket,
            # Never shared: of two boot servers here, only one would hear what is sent to it.
            pxe_socket=net.keep_open(stack, net.dhcp_socket(interface, PXE_PORT, is_shared=False)),
            unicast_socket=net.keep_open(stack, unicast) if unicast is not None else None,
            prober=Prober(interface, net.keep_open(stack, arp)) if arp is not None else None,
            watch=watch,
            responder=responder,
            is_listed=self._is_listed,
            writer=writer,
            journal=self._journal,
            clock=time.time,
            steady_clock=self._clock,
            on_boot=solicitations.boots if solicitations is not None else lambda _mac: None,
        )

    def _is_listed(self, mac: MacAddress) -> bool:
        return self._policy.table.by_mac(mac) is not None

    def _watch(
        self, interface: Interface, responder: Responder, stack: AsyncExitStack
    ) -> ForeignWatch:
        """Who looks out for other DHCP servers there."""
        frames = net.offer_socket(interface)
        return ForeignWatch(
            interface=interface,
            frames=net.keep_open(stack, frames) if frames is not None else None,
            subnet=responder.local,
            own_addresses=responder.own_addresses,
            is_listed=self._is_listed,
            journal=self._journal,
            clock=time.time,
            steady_clock=self._clock,
        )

    def _solicitations(
        self, interface: Interface, stack: AsyncExitStack
    ) -> RouterSolicitationServer | None:
        """None, and said so, where we may not open a raw socket."""
        frames = net.neighbour_socket(interface)
        if frames is None:
            log.warning(
                "interface=%s no CAP_NET_RAW: replies to new clients go by broadcast, and iPXE "
                "will wait 16 s for an IPv6 router",
                interface.name,
            )
            return None
        return RouterSolicitationServer(
            interface=interface,
            frames=net.keep_open(stack, frames),
            journal=self._journal,
            clock=time.time,
        )

    def add_subnet(
        self,
        settings: NetworkSettings,
        network: IPv4Network,
        stored: Iterable[Lease],
        interface: Interface | None = None,
    ) -> Subnet:
        """A subnet with its stored leases; the interface is None where only relays lead.

        Raises:
            StartError: its pool is not within it.
        """
        for pool in settings.pool:
            if not (pool.first in network and pool.last in network):
                where = f" ({interface.address})" if interface is not None else ""
                raise StartError(
                    f"the pool {pool} is not within {network}, the network of "
                    f"{settings.name}{where}: mend `pool` in bootnoded.yaml, or the interface's "
                    "address"
                )
        taken = {*settings.dns, *settings.ntp, *settings.relays}
        taken |= {settings.router} if settings.router is not None else set()
        taken |= {interface.address.ip} if interface is not None else set()
        leases = LeaseTable(subnet=network, pool=settings.pool, excluded=frozenset(taken))
        leases.restore(stored, now=self._clock(), lease_time_s=settings.lease_time)
        subnet = Subnet(settings=settings, network=network, leases=leases)
        if settings.dhcp in ("full", "auto"):
            self.subnets.append(subnet)
        return subnet


def _server_socket(
    interface: Interface, settings: NetworkSettings
) -> tuple[socket.socket, str | None]:
    """The DHCP port, and the other program that has it too, as far as `auto` needs to know.

    Ours alone if we give addresses, so that a second server here cannot start.

    Raises:
        StartError: it is taken, or we may not bind it.
    """
    is_shared = settings.dhcp not in ("full", "auto")
    try:
        return net.dhcp_socket(interface, SERVER_PORT, is_shared=is_shared), None
    except StartError:
        if settings.dhcp != "auto":
            raise
    sock = net.dhcp_socket(interface, SERVER_PORT, is_shared=True)
    return sock, net.port_holder(SERVER_PORT, is_udp=True)

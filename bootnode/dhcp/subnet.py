"""One subnet as DHCP serves it: its leases, its relays, and what every client there is told."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from bootnode.addresses import MacAddress
from bootnode.boot.client import Client, Speaker
from bootnode.config import LEASE_TIME_MIN_S, NetworkSettings
from bootnode.dhcp import options as opt
from bootnode.dhcp.leases import LeaseState, LeaseTable
from bootnode.dhcp.options import MessageType
from bootnode.dhcp.packet import Packet
from bootnode.dhcp.values import Route

BOOT_LEASE_TIME_MIN_S: Final = 600
"""Firmware and loaders do not renew: their address must outlive the download of a big image."""
_BOOT_CODES: Final = (43, 60, 66, 67)
"""Options that tell firmware what to boot; what people set them to is for all other clients."""
_OF_A_LEASE: Final = (MessageType.REQUEST, MessageType.RELEASE, MessageType.DECLINE)
_DEFAULT_ROUTE: Final = IPv4Network("0.0.0.0/0")


class Subnet:
    """The subnet of an interface, or one that relays lead to."""

    def __init__(
        self, *, settings: NetworkSettings, network: IPv4Network, leases: LeaseTable
    ) -> None:
        self.settings = settings
        self.network = network
        self.leases = leases
        self.is_proxy = settings.dhcp in ("proxy", "auto")
        """Whether another server gives the addresses; `auto` finds out, and may change it."""
        self.options = network_options(settings, network)
        """What every client is told, serialized once."""
        self._relays = frozenset(settings.relays)
        self._number = int(network.network_address)
        self._mask = int(network.netmask)

    def __contains__(self, address: IPv4Address) -> bool:
        return int(address) & self._mask == self._number

    @property
    def is_authoritative(self) -> bool:
        """Whether we may say that an address is wrong here: never where we give none."""
        return self.settings.authoritative and self.leases.lends and not self.is_proxy

    def keeps(self, request: Packet, mac: MacAddress, *, now: float) -> bool:
        """Whether a message is about a lease that we gave before we stood back for another server.

        An address that was lent stays lent: its client renews it until it asks anew.
        """
        is_about_lease = request.message_type in _OF_A_LEASE
        if self.settings.dhcp != "auto" or not is_about_lease:
            return False
        lease = self.leases.lookup(mac)
        return lease is not None and (lease.is_active(now) or lease.state is LeaseState.OFFERED)

    def trusts(self, relay: IPv4Address, *, is_ours: bool) -> bool:
        """Whether a relay may speak for clients here; `is_ours`: it is within a subnet of ours.

        Replies go to whatever address stands in giaddr, which anyone can write there.
        """
        return relay in self._relays if self._relays else is_ours

    def options_for(self, speaker: Speaker, node: Mapping[int, bytes]) -> dict[int, bytes]:
        """What is set here and for a node, as far as it is for this kind of client."""
        options = {**self.options, **node}
        if opt.CLASSLESS_ROUTES.code in node:
            options = with_default_route(options)
        if speaker not in (Speaker.OS, Speaker.UBOOT):
            for code in _BOOT_CODES:
                options.pop(code, None)
        return options

    def lease_time_s(self, request: Packet, client: Client) -> int:
        """How long an address is lent to this client: as it asks (option 51), within limits."""
        longest = self.settings.lease_time
        asked = request.get(opt.LEASE_TIME)
        if asked is not None:
            longest = min(max(asked, LEASE_TIME_MIN_S), longest)
        return max(longest, BOOT_LEASE_TIME_MIN_S) if client.boots else longest


def network_options(settings: NetworkSettings, network: IPv4Network) -> dict[int, bytes]:
    """What every client of a network is told; `options` count before the keys with a name."""
    options = dict(
        [opt.SUBNET_MASK.item(network.netmask), opt.BROADCAST.item(network.broadcast_address)]
    )
    if settings.router is not None:
        options.update([opt.ROUTERS.item((settings.router,))])
    if settings.dns:
        options.update([opt.DNS_SERVERS.item(settings.dns)])
    if settings.domain is not None:
        options.update([opt.DOMAIN_NAME.item(settings.domain)])
    if settings.ntp:
        options.update([opt.NTP_SERVERS.item(settings.ntp)])
    if settings.mtu is not None:
        options.update([opt.INTERFACE_MTU.item(settings.mtu)])
    options.update(settings.options)
    return with_default_route(options)


def with_default_route(options: dict[int, bytes]) -> dict[int, bytes]:
    """The options with the router among the routes: who is given routes ignores option 3.

    RFC 3442. Routes with a default route of their own stay as they are.
    """
    raw, routers = options.get(opt.CLASSLESS_ROUTES.code), options.get(opt.ROUTERS.code)
    if raw is None or routers is None:
        return options
    routes = opt.CLASSLESS_ROUTES.parse(raw)
    if any(route.network == _DEFAULT_ROUTE for route in routes):
        return options
    default = Route(network=_DEFAULT_ROUTE, gateway=IPv4Address(routers[:4]))
    longer = opt.CLASSLESS_ROUTES.serialize((*routes, default))
    return {**options, opt.CLASSLESS_ROUTES.code: longer}

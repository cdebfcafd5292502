"""What to answer to a DHCP message: full DHCP, ProxyDHCP, and PXE's boot server on port 4011.

RFC 2131 section 4.3 (the server's behaviour), section 4.1 (where the reply goes); PXE 2.1
section 2 (ProxyDHCP, port 4011); UEFI 2.10 section 24.7 (HTTP Boot). Rules:

- A message in, a `Reply` or an `Ignored` with its reason out; no socket, no clock.
- The boot parameters stand in the header and in the options alike: iPXE reads the header first,
  EDK2 the options, shim nothing but the header.
- The offer carries all of them already: EDK2 boots by what the offer said, not the ACK.
- A reply that names a lease must not leave before that lease is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from bootnode.addresses import Interface, MacAddress
from bootnode.boot.client import Client, Speaker, classify
from bootnode.boot.plan import BootFile, Policy, Site
from bootnode.config import NetworkSettings
from bootnode.dhcp import options as opt
from bootnode.dhcp import pxe
from bootnode.dhcp.leases import Lease, LeaseTable, Refusal
from bootnode.dhcp.options import MessageType
from bootnode.dhcp.packet import (
    BOOTREQUEST,
    CLIENT_PORT,
    FILE_SIZE_MAX,
    FLAG_BROADCAST,
    PXE_PORT,
    SERVER_PORT,
    UNSPECIFIED,
    Packet,
)

BROADCAST: Final = IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """How a message came in."""

    source: IPv4Address
    source_port: int
    destination: IPv4Address
    """The address it was sent to: ours, or a broadcast."""
    port: int
    """The port it came in on: 67 or 4011."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A message to send."""

    packet: Packet
    destination: IPv4Address
    port: int
    size_max: int
    """Bytes of UDP payload that the client takes."""
    mac: MacAddress
    client: Client
    is_from_pxe_port: bool = False
    """Send from port 4011, where the question came in, rather than from 67."""
    is_unconfigured: bool = False
    """The destination is being given to the client just now: send to its MAC without ARP."""
    lease: Lease | None = None
    """To be stored before this leaves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignored:
    """Nothing to send, and why."""

    reason: str
    client: Client | None = None
    lease: Lease | None = None
    """A lease that the message changed, to be stored."""


class Responder:
    """Answers for one network."""

    def __init__(
        self,
        *,
        settings: NetworkSettings,
        interface: Interface,
        site: Site,
        leases: LeaseTable,
        policy: Policy,
    ) -> None:
        self.leases = leases
        self._settings = settings
        self._subnet: IPv4Network = interface.address.network
        self._address = interface.address.ip
        self._site = site
        self._policy = policy
        self._network_options = _network_options(settings, self._subnet)

    def handle(self, request: Packet, arrival: Arrival, *, now: float) -> Reply | Ignored:
        """Decide on one message; `now` is Unix time."""
        if request.op != BOOTREQUEST:
            return Ignored(reason="it is a reply, not a request")
        mac = request.mac
        if mac is None or mac.is_group or not any(mac):
            return Ignored(reason="its hardware address is not that of an Ethernet card")
        client = classify(request, mac)
        if request.giaddr != UNSPECIFIED and not self._serves_link(request):
            return Ignored(
                reason=f"relayed by {request.giaddr} from a subnet that no network here serves",
                client=client,
            )
        if arrival.port == PXE_PORT:
            return self._boot_server(request, arrival, client)
        if self._settings.dhcp == "proxy":
            return self._proxy(request, client)
        return self._full(request, arrival, client, now)

    def _serves_link(self, request: Packet) -> bool:
        """Whether a relayed message comes from our subnet (RFC 3527, RFC 3011, then giaddr)."""
        relay = request.get(opt.RELAY_AGENT_INFO)
        selected = relay.link_selection if relay is not None else None
        return (selected or request.get(opt.SUBNET_SELECTION) or request.giaddr) in self._subnet

    # Full DHCP

    def _full(
        self, request: Packet, arrival: Arrival, client: Client, now: float
    ) -> Reply | Ignored:
        if not self._policy.table.may_have_address(client.mac):
            return Ignored(reason="its MAC is not in the node table", client=client)
        match request.message_type:
            case MessageType.DISCOVER:
                return self._discover(request, client, now)
            case MessageType.REQUEST:
                return self._request(request, arrival, client, now)
            case MessageType.DECLINE:
                return self._decline(request, client, now)
            case MessageType.RELEASE:
                lease = self.leases.release(client.mac, request.ciaddr, now=now)
                return Ignored(reason=f"it released {request.ciaddr}", client=client, lease=lease)
            case MessageType.INFORM:
                return self._inform(request, client)
            case None:
                return Ignored(reason="plain BOOTP is not served", client=client)
            case other:
                return Ignored(reason=f"{other.name} is not for a server", client=client)

    def _discover(self, request: Packet, client: Client, now: float) -> Reply | Ignored:
        address = self.leases.offer(client.mac, requested=request.requested_address, now=now)
        if isinstance(address, Refusal):
            return Ignored(reason=address.reason, client=client)
        return self._lend(MessageType.OFFER, request, client, address)

    def _request(
        self, request: Packet, arrival: Arrival, client: Client, now: float
    ) -> Reply | Ignored:
        """RFC 2131 section 4.3.2: the four states are told apart by options 54 and 50."""
        server_id, requested = request.get(opt.SERVER_ID), request.requested_address
        if server_id is not None and server_id not in (self._address, self._identity(request)):
            self.leases.forget_offer(client.mac)
            return Ignored(reason=f"it chose another DHCP server, {server_id}", client=client)
        # Some clients fill ciaddr in beside option 50; option 50 is what they mean.
        address = requested or request.ciaddr
        if address == UNSPECIFIED:
            return Ignored(reason="its REQUEST names no address", client=client)
        if address not in self._subnet:
            return self._nak(request, client, f"{address} is not an address of this network")
        # A relay sends to us what the client broadcast.
        is_broadcast = arrival.destination == BROADCAST or request.giaddr != UNSPECIFIED
        is_renewing = requested is None and not is_broadcast
        if server_id is None and not is_renewing and not self._knows(client.mac):
            # INIT-REBOOT or REBINDING of a lease that may be another server's.
            return Ignored(reason=f"we know nothing of its lease on {address}", client=client)
        lease = self.leases.commit(
            client.mac,
            address,
            lease_time_s=self._settings.lease_time,
            client_id=request.get(opt.CLIENT_ID),
            hostname=request.get(opt.HOST_NAME) or "",
            now=now,
        )
        if isinstance(lease, Refusal):
            return self._nak(request, client, lease.reason)
        return self._lend(MessageType.ACK, request, client, address, lease)

    def _knows(self, mac: MacAddress) -> bool:
        """Whether we have a say in what address this client has."""
        node = self._policy.table.by_mac(mac)
        return self.leases.lookup(mac) is not None or (node is not None and mac in node.addresses)

    def _decline(self, request: Packet, client: Client, now: float) -> Ignored:
        address = request.requested_address or request.ciaddr
        lease = self.leases.decline(client.mac, address, now=now)
        return Ignored(
            reason=f"it declined {address}: another machine on the network uses that address",
            client=client,
            lease=lease,
        )

    def _inform(self, request: Packet, client: Client) -> Reply | Ignored:
        if request.ciaddr == UNSPECIFIED:
            return Ignored(reason="its INFORM names no address", client=client)
        if client.boots:
            # Intel's ROM takes an ACK on port 67 without an address for its lease.
            return Ignored(reason="firmware asks on port 4011, not by INFORM on 67", client=client)
        packet = Packet.reply_to(
            request,
            ciaddr=request.ciaddr,
            options=dict(
                [self._type(MessageType.ACK), self._server_id(request), *self._network_options]
            ),
        )
        return self._send(request, client, packet)

    def _lend(
        self,
        message_type: MessageType,
        request: Packet,
        client: Client,
        address: IPv4Address,
        lease: Lease | None = None,
    ) -> Reply:
        """An OFFER or ACK of an address, with what to boot."""
        lease_time_s = self._settings.lease_time
        options = dict(
            [
                self._type(message_type),
                self._server_id(request),
                opt.LEASE_TIME.item(lease_time_s),
                opt.RENEWAL_TIME.item(lease_time_s // 2),
                opt.REBINDING_TIME.item(lease_time_s * 7 // 8),
                *self._network_options,
            ]
        )
        node = self._policy.table.by_mac(client.mac)
        if node is not None:
            options[opt.HOST_NAME.code] = opt.HOST_NAME.serialize(node.name)
        boot = self._policy.boot_file(client, self._site)
        boots = isinstance(boot, BootFile)
        if isinstance(boot, BootFile):
            options.update(_boot_options(client, boot, self._address, request))
        packet = Packet.reply_to(
            request,
            ciaddr=_kept_address(message_type, request),
            yiaddr=address,
            siaddr=self._address if boots else UNSPECIFIED,
            file=_header_file(boot) if isinstance(boot, BootFile) else b"",
            options=options,
        )
        return self._send(request, client, packet, lease)

    def _nak(self, request: Packet, client: Client, reason: str) -> Reply:
        packet = Packet.reply_to(
            request,
            options=dict(
                [
                    self._type(MessageType.NAK),
                    self._server_id(request),
                    opt.MESSAGE.item(reason[:200]),
                ]
            ),
        )
        return self._send(request, client, _with_broadcast(packet))

    # ProxyDHCP

    def _proxy(self, request: Packet, client: Client) -> Reply | Ignored:
        """The boot half of an offer; addresses are another server's business."""
        if request.message_type is not MessageType.DISCOVER:
            return Ignored(reason="the other DHCP server answers that", client=client)
        if not client.boots:
            # Only firmware joins two offers into one; to all others this would be a broken one.
            return Ignored(reason="it does not ask to boot", client=client)
        boot = self._policy.boot_file(client, self._site)
        if not isinstance(boot, BootFile):
            return Ignored(reason=boot.reason, client=client)
        # There is no address to send it to: broadcast, whatever the client asked for.
        packet = _with_broadcast(self._boot_packet(MessageType.OFFER, request, client, boot))
        return self._send(request, client, packet)

    def _boot_server(self, request: Packet, arrival: Arrival, client: Client) -> Reply | Ignored:
        """PXE 2.1 section 2.2.5: the second question, asked of port 4011 by a bound client."""
        if request.message_type not in (MessageType.REQUEST, MessageType.INFORM):
            return Ignored(reason="port 4011 answers REQUEST and INFORM only", client=client)
        if arrival.source == UNSPECIFIED:
            return Ignored(reason="it asks port 4011 without an address", client=client)
        boot = self._policy.boot_file(client, self._site)
        if not isinstance(boot, BootFile):
            return Ignored(reason=boot.reason, client=client)
        return Reply(
            packet=self._boot_packet(MessageType.ACK, request, client, boot),
            # EDK2 listens on 4011, ROMs and iPXE on 68: answer the port that asked.
            destination=arrival.source,
            port=arrival.source_port,
            size_max=request.reply_size_max,
            mac=client.mac,
            client=client,
            is_from_pxe_port=True,
        )

    def _boot_packet(
        self, message_type: MessageType, request: Packet, client: Client, boot: BootFile
    ) -> Packet:
        """A reply that says what to boot and gives no address."""
        options = dict([self._type(message_type), self._server_id(request)])
        options.update(_boot_options(client, boot, self._address, request))
        if client.speaker is Speaker.IPXE:
            options.update(_IPXE_PROXY_OPTIONS)
        return Packet.reply_to(
            request,
            ciaddr=_kept_address(message_type, request),
            siaddr=self._address,
            file=_header_file(boot),
            options=options,
        )

    # Both

    def _type(self, message_type: MessageType) -> tuple[int, bytes]:
        return opt.MESSAGE_TYPE.item(message_type)

    def _server_id(self, request: Packet) -> tuple[int, bytes]:
        return opt.SERVER_ID.item(self._identity(request))

    def _identity(self, request: Packet) -> IPv4Address:
        """Who we are to this client: ourselves, or the relay in our stead (RFC 5107)."""
        relay = request.get(opt.RELAY_AGENT_INFO) if request.giaddr != UNSPECIFIED else None
        return (relay.server_id_override if relay is not None else None) or self._address

    def _send(
        self, request: Packet, client: Client, packet: Packet, lease: Lease | None = None
    ) -> Reply:
        """RFC 2131 section 4.1: the relay, the client's own address, everybody, or its MAC."""
        is_unconfigured = False
        port = CLIENT_PORT
        if request.giaddr != UNSPECIFIED:
            destination, port = request.giaddr, SERVER_PORT
        elif packet.ciaddr != UNSPECIFIED:
            destination = packet.ciaddr
        elif packet.is_broadcast:
            destination = BROADCAST
        else:
            destination, is_unconfigured = packet.yiaddr, True
        return Reply(
            packet=packet,
            destination=destination,
            port=port,
            size_max=request.reply_size_max,
            mac=client.mac,
            client=client,
            is_unconfigured=is_unconfigured,
            lease=lease,
        )


def _kept_address(message_type: MessageType, request: Packet) -> IPv4Address:
    """The reply's ciaddr: only an ACK repeats the address that a renewing client has already.

    Some clients fill it in beside option 50, when they have no address to be reached at.
    """
    is_kept = message_type is MessageType.ACK and request.requested_address is None
    return request.ciaddr if is_kept else UNSPECIFIED


def _network_options(
    settings: NetworkSettings, subnet: IPv4Network
) -> tuple[tuple[int, bytes], ...]:
    """What every client of a network is told, serialized once."""
    items = [opt.SUBNET_MASK.item(subnet.netmask), opt.BROADCAST.item(subnet.broadcast_address)]
    if settings.router is not None:
        items.append(opt.ROUTERS.item((settings.router,)))
    if settings.dns:
        items.append(opt.DNS_SERVERS.item(settings.dns))
    if settings.domain is not None:
        items.append(opt.DOMAIN_NAME.item(settings.domain))
    if settings.ntp:
        items.append(opt.NTP_SERVERS.item(settings.ntp))
    if settings.mtu is not None:
        items.append(opt.INTERFACE_MTU.item(settings.mtu))
    return tuple(items)


def _boot_options(
    client: Client, boot: BootFile, server: IPv4Address, request: Packet
) -> dict[int, bytes]:
    """The boot parameters as this kind of client reads them."""
    options = dict([opt.BOOT_FILE.item(boot.name)])
    match client.speaker:
        case Speaker.IPXE:
            # No option 43 or 60: iPXE would look for a PXE boot menu. And without the word that
            # there is no ProxyDHCP, it waits seconds for one.
            options.update([opt.IPXE_ENCAPSULATED.item(pxe.IPXE_NO_PXEDHCP)])
            return options
        case Speaker.OS:
            options.update([opt.TFTP_SERVER.item(str(server))])
            return options
        case Speaker.HTTP_BOOT:
            # EDK2 takes an offer for HTTP Boot only if it says so itself.
            options.update([opt.VENDOR_CLASS.item(pxe.HTTP_CLIENT)])
        case _:
            options.update(
                [
                    opt.TFTP_SERVER.item(str(server)),
                    # Exactly this text: EDK2 and ROMs compare nine bytes.
                    opt.VENDOR_CLASS.item(pxe.PXE_CLIENT),
                    # Skip the discovery of boot servers, boot this file. Without it EDK2 would
                    # ask port 4011 before it believes an offer that says PXEClient.
                    opt.VENDOR_ENCAPSULATED.item(pxe.BOOT_THIS_FILE),
                ]
            )
    uuid = request.options.get(opt.MACHINE_UUID.code)
    if uuid is not None and len(uuid) <= opt.VALUE_SIZE_MAX:
        options[opt.MACHINE_UUID.code] = uuid
    return options


def _header_file(boot: BootFile) -> bytes:
    """The header's file field; empty when the name does not fit, and option 67 has it alone."""
    name = boot.name.encode("ascii")
    return name if len(name) <= FILE_SIZE_MAX else b""


def _with_broadcast(packet: Packet) -> Packet:
    """The reply with its broadcast flag set, which relays obey as well."""
    return replace(packet, flags=packet.flags | FLAG_BROADCAST)


_IPXE_PROXY_OPTIONS = dict(
    [
        # iPXE looks for a ProxyDHCP offer by its vendor class.
        opt.VENDOR_CLASS.item(pxe.PXE_CLIENT),
        # Above the DHCP server's own settings, should it send a boot file as well.
        opt.IPXE_ENCAPSULATED.item(pxe.IPXE_PROXY_FIRST),
    ]
)

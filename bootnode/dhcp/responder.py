"""What to answer to a DHCP message: full DHCP, ProxyDHCP, BOOTP, PXE's boot server on port 4011.

RFC 2131 section 4.3 (the server's behaviour), section 4.1 (where the reply goes); RFC 1534 and 1542
(BOOTP); RFC 3046, 3011, 3527 and 5107 (relays); PXE 2.1 section 2 (ProxyDHCP, port 4011); UEFI 2.10
section 24.7 (HTTP Boot). Rules:

- A message in, a `Reply` or an `Ignored` with its reason out; no socket, no clock.
- The boot parameters stand in the header and in the options alike: iPXE reads the header first,
  EDK2 the options, shim nothing but the header.
- The offer carries all of them already: EDK2 boots by what the offer said, not the ACK.
- A reply that names a lease must not leave before that lease is stored.
- What a relay adds counts only in a message that came by a relay (giaddr is set); it is echoed in
  any case, for some switches add it and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from math import inf
from typing import Final

from bootnode.addresses import MacAddress
from bootnode.boot.client import Client, Speaker, classify
from bootnode.boot.plan import BootFile, NoBoot, Policy, Site
from bootnode.config import ProxyStyle
from bootnode.dhcp import options as opt
from bootnode.dhcp.leases import Lease, Refusal
from bootnode.dhcp.options import MessageType
from bootnode.dhcp.packet import (
    BOOTREQUEST,
    CLIENT_PORT,
    PACKET_SIZE_MIN,
    PXE_PORT,
    SERVER_PORT,
    UNSPECIFIED,
    Packet,
)
from bootnode.dhcp.replies import (
    BROADCAST,
    Arrival,
    Ignored,
    Reply,
    with_boot_item,
    with_broadcast,
    without_discovery_control,
)
from bootnode.dhcp.subnet import Subnet
from bootnode.dhcp.writer import ReplyWriter

RASPBERRY_PI_HOLD_S: Final = 600.0
"""The Pi 2 and 3 never ask for what they were offered, they use it."""


class Responder:
    """Answers on one interface."""

    def __init__(
        self,
        *,
        site: Site,
        local: Subnet,
        remote: Sequence[Subnet] = (),
        policy: Policy,
        own_addresses: Collection[IPv4Address] = frozenset(),
    ) -> None:
        """`local` is the interface's own subnet; relays lead to the `remote` ones.

        `own_addresses` are this server's on other interfaces.
        """
        self.local = local
        self._subnets = (local, *remote)
        self._address = site.address
        self.own_addresses = frozenset({site.address, *own_addresses})
        self._site = site
        self._policy = policy
        self._writer = ReplyWriter(site, policy)

    def handle(self, request: Packet, arrival: Arrival, *, now: float) -> Reply | Ignored:
        """Decide on one message; `now` is Unix time that is never set back."""
        if request.op != BOOTREQUEST:
            return Ignored(reason="it is a reply, not a request")
        mac = request.mac
        if mac is None or mac.is_group or not any(mac):
            return Ignored(reason="its hardware address is not that of an Ethernet card")
        client = classify(request, mac)
        if arrival.port == PXE_PORT:
            return self._boot_server(request, arrival, client)
        subnet = self._subnet_of(request, arrival, client)
        if isinstance(subnet, Ignored):
            return subnet
        if subnet.is_proxy:
            keeps = subnet.keeps(request, mac, now=now)
            outcome = (
                self._full(request, arrival, client, subnet, now)
                if keeps
                else self._proxy(request, client, subnet, now)
            )
            return replace(outcome, is_proxy=True)
        if subnet.settings.dhcp == "off":
            return Ignored(reason="DHCP is off on this network", client=client)
        return self._full(request, arrival, client, subnet, now)

    # Which subnet

    def _subnet_of(self, request: Packet, arrival: Arrival, client: Client) -> Subnet | Ignored:
        """The subnet that the client is in, as its relay says, or its own address."""
        if request.giaddr != UNSPECIFIED:
            return self._relayed_subnet(request, client)
        if arrival.destination != BROADCAST and request.ciaddr != UNSPECIFIED:
            # A client that has its address already sends to ours, through a router if need be.
            return self._find(request.ciaddr) or self.local
        return self.local

    def _relayed_subnet(self, request: Packet, client: Client) -> Subnet | Ignored:
        """RFC 3527's sub-option, then RFC 3011's option, then the relay's own address."""
        giaddr = request.giaddr
        if giaddr in self.own_addresses:
            reason = f"it claims to be relayed by {giaddr}, which is this server"
            return Ignored(reason=reason, client=client, topic="relay_refused")
        info = request.get(opt.RELAY_AGENT_INFO)
        selected = info.link_selection if info is not None else None
        subnet = self._find(selected or request.get(opt.SUBNET_SELECTION) or giaddr)
        if subnet is None:
            reason = f"relayed by {giaddr} from a subnet that no network here serves"
            return Ignored(reason=reason, client=client, topic="relay_refused")
        if not subnet.trusts(giaddr, is_ours=self._find(giaddr) is not None):
            reason = f"relayed by {giaddr}, which is not among `relays` of {subnet.settings.name}"
            return Ignored(reason=reason, client=client, topic="relay_refused")
        return subnet

    def _find(self, address: IPv4Address) -> Subnet | None:
        for subnet in self._subnets:
            if address in subnet:
                return subnet
        return None

    # Full DHCP

    def _full(
        self, request: Packet, arrival: Arrival, client: Client, subnet: Subnet, now: float
    ) -> Reply | Ignored:
        if not self._policy.table.may_have_address(client.mac):
            reason = "its MAC is not in the node table"
            return Ignored(reason=reason, client=client, topic="unknown_client")
        match request.message_type:
            case MessageType.DISCOVER:
                return self._discover(request, client, subnet, now)
            case MessageType.REQUEST:
                return self._request(request, arrival, client, subnet, now)
            case MessageType.DECLINE:
                return self._decline(request, client, subnet, now)
            case MessageType.RELEASE:
                return self._release(request, client, subnet, now)
            case MessageType.INFORM:
                return self._inform(request, client, subnet)
            case None:
                return self._bootp(request, client, subnet, now)
            case other:
                return Ignored(reason=f"{other.name} is not for a server", client=client)

    def _discover(
        self, request: Packet, client: Client, subnet: Subnet, now: float
    ) -> Reply | Ignored:
        is_pi = client.speaker is Speaker.RASPBERRY_PI
        address = subnet.leases.offer(
            client.mac,
            requested=request.requested_address,
            now=now,
            hold_s=RASPBERRY_PI_HOLD_S if is_pi else None,
        )
        if isinstance(address, Refusal):
            topic = "no_address" if address.is_dry else ""
            return Ignored(reason=address.reason, client=client, topic=topic)
        reply = self._lend(MessageType.OFFER, request, client, subnet, address, now)
        # A relayed client's wire is out of our reach.
        may_try = subnet.settings.probe and request.giaddr == UNSPECIFIED
        if may_try and subnet.leases.is_untried(client.mac, address):
            return replace(reply, untried=address)
        return reply

    def _request(
        self, request: Packet, arrival: Arrival, client: Client, subnet: Subnet, now: float
    ) -> Reply | Ignored:
        """RFC 2131 section 4.3.2: the four states are told apart by options 54 and 50."""
        server_id, requested = request.get(opt.SERVER_ID), request.requested_address
        if not self._is_us(server_id, request):
            subnet.leases.forget_offer(client.mac)
            return Ignored(reason=f"it chose another DHCP server, {server_id}", client=client)
        # Some clients fill ciaddr in beside option 50; option 50 is what they mean.
        address = requested or request.ciaddr
        if address == UNSPECIFIED:
            return Ignored(reason="its REQUEST names no address", client=client)
        if address not in subnet:
            reason = f"{address} is not an address of this network"
            return self._nak(request, client, subnet, reason)
        # SELECTING, and RENEWING, which is sent to us alone, are ours to answer. The others are
        # sent to every server, and may speak of another one's lease.
        is_to_all = arrival.destination == BROADCAST or request.giaddr != UNSPECIFIED
        is_ours = server_id is not None or (requested is None and not is_to_all)
        if not is_ours and not self._knows(client.mac, subnet):
            unknown = Ignored(reason=f"we know nothing of its lease on {address}", client=client)
            if requested is not None or not subnet.is_authoritative:
                return unknown
            # REBINDING, its lease not in our table: we have lost it, and it may have it back.
            lease = self._commit(request, client, subnet, address, now)
            if isinstance(lease, Refusal):
                return unknown
        else:
            lease = self._commit(request, client, subnet, address, now)
        if isinstance(lease, Refusal):
            return self._nak(request, client, subnet, lease.reason)
        return self._lend(MessageType.ACK, request, client, subnet, address, now, lease)

    def _commit(
        self, request: Packet, client: Client, subnet: Subnet, address: IPv4Address, now: float
    ) -> Lease | Refusal:
        is_bootp = request.message_type is None
        return subnet.leases.commit(
            client.mac,
            address,
            lease_time_s=inf if is_bootp else subnet.lease_time_s(request, client),
            client_id=request.get(opt.CLIENT_ID),
            hostname=request.get(opt.HOST_NAME) or "",
            now=now,
        )

    def _knows(self, mac: MacAddress, subnet: Subnet) -> bool:
        """Whether we have a say in what address this client has."""
        node = self._policy.table.by_mac(mac)
        return subnet.leases.lookup(mac) is not None or (node is not None and mac in node.addresses)

    def _decline(self, request: Packet, client: Client, subnet: Subnet, now: float) -> Ignored:
        server_id = request.get(opt.SERVER_ID)
        if not self._is_us(server_id, request):
            return Ignored(reason=f"it declined an address of {server_id}", client=client)
        address = request.requested_address or request.ciaddr
        lease = subnet.leases.decline(client.mac, address, now=now)
        if isinstance(lease, Refusal):
            reason = f"it declined {address}, which stays: {lease.reason}"
            return Ignored(reason=reason, client=client)
        return Ignored(
            reason=f"it declined {address}: another machine on the network uses that address",
            client=client,
            lease=lease,
        )

    def _release(self, request: Packet, client: Client, subnet: Subnet, now: float) -> Ignored:
        server_id = request.get(opt.SERVER_ID)
        if not self._is_us(server_id, request):
            return Ignored(reason=f"it released an address of {server_id}", client=client)
        lease = subnet.leases.release(client.mac, request.ciaddr, now=now)
        return Ignored(reason=f"it released {request.ciaddr}", client=client, lease=lease)

    def _inform(self, request: Packet, client: Client, subnet: Subnet) -> Reply | Ignored:
        if request.ciaddr == UNSPECIFIED:
            return Ignored(reason="its INFORM names no address", client=client)
        if client.boots:
            # Intel's ROM takes an ACK on port 67 without an address for its lease.
            return Ignored(reason="firmware asks on port 4011, not by INFORM on 67", client=client)
        return self._send(request, client, self._writer.inform(request, client, subnet))

    def _bootp(
        self, request: Packet, client: Client, subnet: Subnet, now: float
    ) -> Reply | Ignored:
        """RFC 1534: an address for ever, and so for nodes of the table only."""
        if self._policy.table.by_mac(client.mac) is None:
            reason = "plain BOOTP, and its MAC is not in the node table"
            return Ignored(reason=reason, client=client, topic="unknown_client")
        offered = subnet.leases.offer(client.mac, requested=request.requested_address, now=now)
        lease = (
            offered
            if isinstance(offered, Refusal)
            else self._commit(request, client, subnet, offered, now)
        )
        if isinstance(lease, Refusal):
            topic = "no_address" if lease.is_dry else ""
            return Ignored(reason=lease.reason, client=client, topic=topic)
        client, boot = self._boot(request, client, now)
        packet = self._writer.bootp(request, client, subnet, lease.address, boot)
        # RFC 951 has 64 bytes for options, and nothing says that a client reads more.
        return replace(
            self._send(
                *(request, client, packet, lease),
                is_fixed=subnet.leases.is_reserved(client.mac, lease.address),
            ),
            size_max=PACKET_SIZE_MIN,
        )

    def _lend(
        self,
        message_type: MessageType,
        request: Packet,
        client: Client,
        subnet: Subnet,
        address: IPv4Address,
        now: float,
        lease: Lease | None = None,
    ) -> Reply:
        """An OFFER or ACK of an address, with what to boot."""
        client, boot = self._boot(request, client, now)
        packet = self._writer.lend(message_type, request, client, subnet, address, boot)
        is_fixed = lease is not None and subnet.leases.is_reserved(client.mac, address)
        reply = self._send(request, client, packet, lease, is_fixed=is_fixed)
        if client.boots and not isinstance(boot, BootFile):
            return replace(reply, no_boot=boot.reason)
        return reply

    def _nak(self, request: Packet, client: Client, subnet: Subnet, reason: str) -> Reply | Ignored:
        if not subnet.is_authoritative:
            return Ignored(reason=f"{reason}, and we are not authoritative", client=client)
        packet = self._writer.nak(request, reason)
        return self._send(request, client, packet)

    # ProxyDHCP

    def _proxy(
        self, request: Packet, client: Client, subnet: Subnet, now: float
    ) -> Reply | Ignored:
        """The boot half of an offer; addresses are another server's business."""
        if request.message_type is MessageType.REQUEST:
            self._policy.chains.hear_request(client.mac)
        if request.message_type is not MessageType.DISCOVER:
            return Ignored(reason="the other DHCP server answers that", client=client)
        if not client.joins_offers:
            # Only firmware joins two offers into one; to all others this would be a broken one.
            what = "makes no one offer of two" if client.boots else "does not ask to boot"
            return Ignored(reason=f"it {what}", client=client)
        client, boot = self._boot(request, client, now)
        if not isinstance(boot, BootFile):
            return Ignored(reason=boot.reason, client=client)
        # There is no address to send it to: broadcast, whatever the client asked for.
        packet = with_broadcast(self._writer.boot(MessageType.OFFER, request, client, boot, subnet))
        if client.knows_port_4011 and self._proxy_style(client, subnet) is ProxyStyle.PORT4011:
            packet = without_discovery_control(packet)
        return self._send(request, client, packet)

    def _proxy_style(self, client: Client, subnet: Subnet) -> ProxyStyle:
        node = self._policy.table.to_boot(client.mac)
        own = node.proxy_style if node is not None else None
        return own or subnet.settings.proxy_style

    def _boot_server(self, request: Packet, arrival: Arrival, client: Client) -> Reply | Ignored:
        """PXE 2.1 section 2.2.5: the second question, asked of port 4011 by a bound client."""
        if request.message_type not in (MessageType.REQUEST, MessageType.INFORM):
            return Ignored(reason="port 4011 answers REQUEST and INFORM only", client=client)
        if arrival.source == UNSPECIFIED:
            return Ignored(reason="it asks port 4011 without an address", client=client)
        subnet = self._find(arrival.source)
        if subnet is None or subnet.settings.dhcp == "off":
            reason = f"{arrival.source} is in no network that is served here"
            return Ignored(reason=reason, client=client, topic="port_4011_refused")
        # Part of a conversation on port 67, though with an xid of its own: nothing to count.
        boot = self._policy.boot_file(client, self._site)
        if not isinstance(boot, BootFile):
            return Ignored(reason=boot.reason, client=client, is_proxy=subnet.is_proxy)
        packet = self._writer.boot(MessageType.ACK, request, client, boot, subnet)
        return Reply(
            packet=with_boot_item(packet, request),
            # EDK2 listens on 4011, ROMs and iPXE on 68: answer the port that asked.
            destination=arrival.source,
            port=arrival.source_port,
            size_max=request.reply_size_max,
            mac=client.mac,
            client=client,
            is_from_pxe_port=True,
            is_proxy=subnet.is_proxy,
        )

    # Both

    def _boot(
        self, request: Packet, client: Client, now: float
    ) -> tuple[Client, BootFile | NoBoot]:
        """What to boot, for the answer to this message, and the client as that leaves it."""
        is_discover = request.message_type is MessageType.DISCOVER
        return self._policy.follow_chain(
            client, self._site, xid=request.xid, is_discover=is_discover, now=now
        )

    def _is_us(self, server_id: IPv4Address | None, request: Packet) -> bool:
        """Whether a client means us: by an address of ours, or by that of its relay."""
        return (
            server_id is None
            or server_id in self.own_addresses
            or server_id == self._writer.identity(request)
        )

    def _send(
        self,
        request: Packet,
        client: Client,
        packet: Packet,
        lease: Lease | None = None,
        *,
        is_fixed: bool = False,
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
            is_fixed=is_fixed,
        )

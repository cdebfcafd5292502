"""Replies as one interface writes them; who gets which address is decided elsewhere.

RFC 2131 table 3 (what stands in which reply), RFC 5107 (the server identifier behind a relay), PXE
2.1 section 2.4. What the whole of a client's kind is told is kept ready as a `Template`.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address
from typing import Final

from bootnode.addresses import MacAddress
from bootnode.boot.client import Client, Speaker
from bootnode.boot.plan import BootFile, NoBoot, Policy, Site
from bootnode.dhcp import options as opt
from bootnode.dhcp import pxe
from bootnode.dhcp.optionfield import Template
from bootnode.dhcp.options import MessageType
from bootnode.dhcp.packet import UNSPECIFIED, Packet
from bootnode.dhcp.replies import (
    IPXE_PROXY_OPTIONS,
    header_file,
    kept_address,
    lease_options,
    speaker_options,
    with_broadcast,
)
from bootnode.dhcp.subnet import Subnet

TEMPLATES_MAX: Final = 1024
"""Kinds of replies that are kept ready; with ten networks of BIOS and UEFI nodes there are some
hundred, and one more for each set of options that nodes have and each lease time they ask for."""
REASON_MAX: Final = 200
"""Characters of a NAK's reason."""
_PXELINUX_CODES: Final = frozenset(range(208, 212))
"""Options that pxelinux finds in what the ROM was told, beside the boot file (RFC 5071)."""
_WITHOUT_UUID: Final = frozenset({Speaker.IPXE, Speaker.UBOOT, Speaker.OS})
"""Who does not look for its option 97 in what it is offered."""


class ReplyWriter:
    """Writes the replies of one interface."""

    def __init__(self, site: Site, policy: Policy) -> None:
        self._address = site.address
        self._policy = policy
        self._speaker_options = {
            speaker: speaker_options(speaker, str(site.address)) for speaker in Speaker
        }
        self._template = lru_cache(maxsize=TEMPLATES_MAX)(self._make_template)

    def lend(
        self,
        message_type: MessageType,
        request: Packet,
        client: Client,
        subnet: Subnet,
        address: IPv4Address,
        boot: BootFile | NoBoot,
    ) -> Packet:
        """An OFFER or ACK of an address, with what to boot."""
        node = self._policy.table.to_boot(client.mac)
        file = boot if isinstance(boot, BootFile) else None
        template = self._template(
            message_type,
            self.identity(request),
            subnet.lease_time_s(request, client),
            subnet,
            client.speaker,
            client.has_length_bug,
            file is not None,
            tuple(node.options.items()) if node is not None else (),
        )
        own = self._own_boot_options(client, request, file) if file is not None else {}
        name = self._host_name(client.mac)
        if name is not None and opt.HOST_NAME.code not in template.shared:
            own[opt.HOST_NAME.code] = name
        return Packet.reply_to(
            request,
            ciaddr=kept_address(message_type, request),
            yiaddr=address,
            siaddr=self._address if file is not None else UNSPECIFIED,
            file=header_file(file) if file is not None else b"",
            options=own,
            template=template,
        )

    def inform(self, request: Packet, client: Client, subnet: Subnet) -> Packet:
        """The answer to an INFORM: what is configured, and no address."""
        options = dict([opt.MESSAGE_TYPE.item(MessageType.ACK), self._server_id(request)])
        options |= self._own_options(client, subnet)
        return Packet.reply_to(request, ciaddr=request.ciaddr, options=options)

    def bootp(
        self,
        request: Packet,
        client: Client,
        subnet: Subnet,
        address: IPv4Address,
        boot: BootFile | NoBoot,
    ) -> Packet:
        """A BOOTREPLY, which has no message type (RFC 1534)."""
        file = boot if isinstance(boot, BootFile) else None
        return Packet.reply_to(
            request,
            ciaddr=request.ciaddr,
            yiaddr=address,
            siaddr=self._address if file is not None else UNSPECIFIED,
            file=header_file(file) if file is not None else b"",
            options=self._own_options(client, subnet),
        )

    def nak(self, request: Packet, reason: str) -> Packet:
        """A NAK: nothing but who says it and why, and always by broadcast (section 4.1)."""
        items = [
            opt.MESSAGE_TYPE.item(MessageType.NAK),
            self._server_id(request),
            opt.MESSAGE.item(reason[:REASON_MAX]),
        ]
        return with_broadcast(Packet.reply_to(request, options=dict(items)))

    def boot(
        self,
        message_type: MessageType,
        request: Packet,
        client: Client,
        boot: BootFile,
        subnet: Subnet,
    ) -> Packet:
        """A reply that says what to boot and gives no address."""
        # Ourselves, also behind a relay that wants to be named (RFC 5107): iPXE asks port 4011 of
        # the server identifier, and takes an ACK from nobody else.
        options = dict([opt.MESSAGE_TYPE.item(message_type), opt.SERVER_ID.item(self._address)])
        options |= self._boot_options(client.speaker, client.has_length_bug)
        options |= self._own_boot_options(client, request, boot)
        own = self._own_options(client, subnet)
        options.update({code: own[code] for code in _PXELINUX_CODES & own.keys()})
        if client.speaker is Speaker.IPXE:
            options.update(IPXE_PROXY_OPTIONS)
        return Packet.reply_to(
            request,
            ciaddr=kept_address(message_type, request),
            siaddr=self._address,
            file=header_file(boot),
            options=options,
        )

    def identity(self, request: Packet) -> IPv4Address:
        """Who we are to this client: ourselves, or the relay in our stead (RFC 5107)."""
        if opt.RELAY_AGENT_INFO.code not in request.options or request.giaddr == UNSPECIFIED:
            return self._address
        relay = request.get(opt.RELAY_AGENT_INFO)
        return (relay.server_id_override if relay is not None else None) or self._address

    def _make_template(
        self,
        message_type: MessageType,
        server_id: IPv4Address,
        lease_time_s: int,
        subnet: Subnet,
        speaker: Speaker,
        has_length_bug: bool,
        is_boot: bool,
        node_options: tuple[tuple[int, bytes], ...],
    ) -> Template:
        """What all clients of a kind are told beside their address."""
        options = lease_options(message_type, server_id, lease_time_s)
        options |= subnet.options_for(speaker, dict(node_options))
        if is_boot:
            options |= self._boot_options(speaker, has_length_bug)
        return Template(options)

    def _own_options(self, client: Client, subnet: Subnet) -> dict[int, bytes]:
        """What the configuration says: the network's, then the node's."""
        node = self._policy.table.to_boot(client.mac)
        own = node.options if node is not None else {}
        options = subnet.options_for(client.speaker, own)
        name = self._host_name(client.mac)
        if name is not None:
            options.setdefault(opt.HOST_NAME.code, name)
        return options

    def _host_name(self, mac: MacAddress) -> bytes | None:
        node = self._policy.table.by_mac(mac)
        return node.name.encode() if node is not None else None

    def _boot_options(self, speaker: Speaker, has_length_bug: bool) -> dict[int, bytes]:
        """What goes beside the boot file for this kind of client."""
        options = {**self._speaker_options[speaker]}
        if has_length_bug:
            options[opt.VENDOR_ENCAPSULATED.code] = pxe.RASPBERRY_PI_3_MENU
        return options

    def _own_boot_options(
        self, client: Client, request: Packet, boot: BootFile
    ) -> dict[int, bytes]:
        """The boot file, and option 97, which PXE wants back (PXE 2.1 section 2.4.4)."""
        options: dict[int, bytes] = {}
        if boot.name:
            options[opt.BOOT_FILE.code] = opt.BOOT_FILE.serialize(boot.name)
        uuid = request.options.get(opt.MACHINE_UUID.code)
        is_heard = client.speaker not in _WITHOUT_UUID
        if is_heard and uuid is not None and len(uuid) <= opt.VALUE_SIZE_MAX:
            options[opt.MACHINE_UUID.code] = uuid
        return options

    def _server_id(self, request: Packet) -> tuple[int, bytes]:
        return opt.SERVER_ID.item(self.identity(request))

"""What comes of a DHCP message, and the parts that replies are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Final, NamedTuple

from bootnode.addresses import MacAddress
from bootnode.boot.client import Client, Speaker
from bootnode.boot.plan import BootFile
from bootnode.dhcp import options as opt
from bootnode.dhcp import pxe
from bootnode.dhcp.leases import Lease
from bootnode.dhcp.options import MessageType
from bootnode.dhcp.packet import FILE_SIZE_MAX, FLAG_BROADCAST, UNSPECIFIED, Packet

BROADCAST: Final = IPv4Address("255.255.255.255")


class Arrival(NamedTuple):
    """How a message came in."""

    source: IPv4Address
    source_port: int
    destination: IPv4Address
    """The address it was sent to: ours, or a broadcast."""
    port: int
    """The port it came in on: 67 or 4011."""


@dataclass(slots=True, kw_only=True)  # not frozen: see Packet
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
    is_fixed: bool = False
    """Whether the lease is of an address that stands in the node table, the better record."""
    no_boot: str = ""
    """Why a client that wants to boot is told of no boot file."""
    untried: IPv4Address | None = None
    """The address on offer, if it was never lent: to be tried for another machine first."""
    is_proxy: bool = False
    """Whether another server gives the addresses in the client's subnet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignored:
    """Nothing to send, and why."""

    reason: str
    client: Client | None = None
    lease: Lease | None = None
    """A lease that the message changed, to be stored."""
    topic: str = ""
    """What many such messages are counted as together; empty for what happens one by one."""
    is_proxy: bool = False
    """As in Reply; false too when no subnet was found for the client."""


def kept_address(message_type: MessageType, request: Packet) -> IPv4Address:
    """The reply's ciaddr: only an ACK repeats the address that a renewing client has already.

    Some clients fill it in beside option 50, when they have no address to be reached at.
    """
    is_kept = message_type is MessageType.ACK and request.requested_address is None
    return request.ciaddr if is_kept else UNSPECIFIED


def lease_options(
    message_type: MessageType, server_id: IPv4Address, lease_time_s: int
) -> dict[int, bytes]:
    """What every reply with an address begins with."""
    return dict(
        [
            opt.MESSAGE_TYPE.item(message_type),
            opt.SERVER_ID.item(server_id),
            opt.LEASE_TIME.item(lease_time_s),
            opt.RENEWAL_TIME.item(lease_time_s // 2),
            opt.REBINDING_TIME.item(lease_time_s * 7 // 8),
        ]
    )


def speaker_options(speaker: Speaker, server: str) -> dict[int, bytes]:
    """What goes beside the boot file for this kind of client."""
    options: dict[int, bytes] = {}
    match speaker:
        case Speaker.IPXE:
            # No option 43 or 60: iPXE would look for a PXE boot menu. And without the word that
            # there is no ProxyDHCP, it waits seconds for one.
            options.update([opt.IPXE_ENCAPSULATED.item(pxe.IPXE_NO_PXEDHCP)])
        case Speaker.OS:
            options.update([opt.TFTP_SERVER.item(server)])
        case Speaker.UBOOT:
            pass  # it reads siaddr, and takes its file from option 67 or the header
        case Speaker.RASPBERRY_PI:
            options.update(
                [
                    opt.TFTP_SERVER.item(server),
                    opt.VENDOR_CLASS.item(pxe.PXE_CLIENT),
                    # Its ROM looks for this menu and for nothing else.
                    opt.VENDOR_ENCAPSULATED.item(pxe.RASPBERRY_PI_MENU),
                ]
            )
        case Speaker.HTTP_BOOT:
            # EDK2 takes an offer for HTTP Boot only if it says so itself.
            options.update([opt.VENDOR_CLASS.item(pxe.HTTP_CLIENT)])
        case _:
            options.update(
                [
                    opt.TFTP_SERVER.item(server),
                    # Exactly this text: EDK2 and ROMs compare nine bytes.
                    opt.VENDOR_CLASS.item(pxe.PXE_CLIENT),
                    # Skip the discovery of boot servers, boot this file. Without it EDK2 would
                    # ask port 4011 before it believes an offer that says PXEClient.
                    opt.VENDOR_ENCAPSULATED.item(pxe.BOOT_THIS_FILE),
                ]
            )
    return options


def header_file(boot: BootFile) -> bytes:
    """The header's file field; empty when the name does not fit, and option 67 has it alone."""
    name = boot.name.encode("ascii")
    return name if len(name) <= FILE_SIZE_MAX else b""


def with_broadcast(packet: Packet) -> Packet:
    """The reply with its broadcast flag set, which relays obey as well."""
    return replace(packet, flags=packet.flags | FLAG_BROADCAST)


def without_discovery_control(offer: Packet) -> Packet:
    """A ProxyDHCP offer whose boot file counts only when port 4011 has named it.

    Option 60 without 43 tells PXE ROMs and EDK2 to ask there (PXE 2.1 section 2.2.3). The file
    stays in the offer, for firmware that boots by what it sees.
    """
    code = opt.VENDOR_ENCAPSULATED.code
    options = {key: raw for key, raw in offer.options.items() if key != code}
    return replace(offer, options=options)


def with_boot_item(ack: Packet, request: Packet) -> Packet:
    """The boot server's ACK with the menu item that the client chose, as PXE 2.1 wants it."""
    raw = request.options.get(opt.VENDOR_ENCAPSULATED.code)
    item = pxe.PxeOptions.parse(raw).boot_item if raw is not None else None
    if item is None:
        return ack
    chosen = opt.VENDOR_ENCAPSULATED.item(pxe.PxeOptions(boot_item=item).serialize())
    return replace(ack, options={**ack.options, **dict([chosen])})


IPXE_PROXY_OPTIONS: Final = dict(
    [
        # iPXE looks for a ProxyDHCP offer by its vendor class.
        opt.VENDOR_CLASS.item(pxe.PXE_CLIENT),
        # Above the DHCP server's own settings, should it send a boot file as well.
        opt.IPXE_ENCAPSULATED.item(pxe.IPXE_PROXY_FIRST),
    ]
)
"""What iPXE finds a ProxyDHCP offer by."""

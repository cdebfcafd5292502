"""Our codecs and scapy's read each other's packets.

The one place that imports scapy, which takes long.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6ND_RS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Ether

from bootnode.addresses import MacAddress
from bootnode.dhcp import options as opt
from bootnode.dhcp import pxe
from bootnode.dhcp.options import MessageType
from bootnode.dhcp.packet import BOOTREPLY, Packet
from bootnode.dhcp.values import Route
from bootnode.ndp import packet as ndp

CAPTURES = Path(__file__).parents[1] / "captures"
NAMES = sorted(path.stem for path in CAPTURES.glob("*.hex"))

MAC = MacAddress.parse("fc:ab:14:e8:66:01")
SERVER = MacAddress.parse("02:00:00:00:00:01")
NODE_ADDRESS = IPv6Address("fe80::feab:14ff:fee8:6601")
SERVER_ADDRESS = IPv6Address("fe80::ff:fe00:1")


def capture(name: str) -> bytes:
    lines = (CAPTURES / f"{name}.hex").read_text().splitlines()
    return bytes.fromhex("".join(line for line in lines if line[0] != "#"))


def scapy_fields(message: Any) -> tuple[object, ...]:
    return (
        *(message.op, message.htype, message.hlen, message.hops),
        *(message.xid, message.secs, int(message.flags)),
        *(message.ciaddr, message.yiaddr, message.siaddr, message.giaddr),
        *(message.chaddr, message.sname.rstrip(b"\0"), message.file.rstrip(b"\0")),
    )


def our_fields(packet: Packet) -> tuple[object, ...]:
    return (
        *(packet.op, packet.htype, packet.hlen, packet.hops),
        *(packet.xid, packet.secs, packet.flags),
        *(str(packet.ciaddr), str(packet.yiaddr), str(packet.siaddr), str(packet.giaddr)),
        *(packet.chaddr, packet.sname, packet.file),
    )


OVERLOADED = "release_overloaded_sname_and_file"
"""scapy knows nothing of option 52, by which sname and file hold options too."""


@pytest.mark.parametrize("name", [name for name in NAMES if name != OVERLOADED])
def test_scapy_reads_a_capture_as_we_do(name: str) -> None:
    data = capture(name)
    message, packet = BOOTP(data), Packet.parse(data)
    assert scapy_fields(message) == our_fields(packet)
    told = [item for item in message[DHCP].options if isinstance(item, tuple)]
    assert [item[1] for item in told if item[0] == "message-type"] == [packet.message_type]
    assert len(told) == len(packet.options)


@pytest.mark.parametrize("name", NAMES)
def test_scapy_reads_what_we_write(name: str) -> None:
    packet = Packet.parse(capture(name))
    message = BOOTP(packet.serialize())
    assert scapy_fields(message) == our_fields(packet)
    assert message[DHCP].options[0] == ("message-type", packet.message_type)
    assert len([item for item in message[DHCP].options if isinstance(item, tuple)]) == len(
        packet.options
    )


def test_scapy_reads_every_value_of_an_offer() -> None:
    server = IPv4Address("10.77.0.1")
    offer = Packet(
        op=BOOTREPLY,
        xid=1,
        chaddr=MAC + bytes(10),
        options=dict(
            [
                opt.MESSAGE_TYPE.item(MessageType.OFFER),
                opt.SERVER_ID.item(server),
                opt.LEASE_TIME.item(3600),
                opt.SUBNET_MASK.item(IPv4Address("255.255.255.0")),
                opt.ROUTERS.item((server,)),
                opt.DNS_SERVERS.item((server, IPv4Address("10.77.0.2"))),
                opt.HOST_NAME.item("node-000"),
                opt.DOMAIN_NAME.item("lab"),
                opt.INTERFACE_MTU.item(1500),
                opt.VENDOR_CLASS.item("PXEClient"),
                opt.VENDOR_ENCAPSULATED.item(pxe.BOOT_THIS_FILE),
                opt.BOOT_FILE.item("undionly.kpxe"),
                opt.CLASSLESS_ROUTES.item(
                    (Route(network=IPv4Network("10.0.0.0/8"), gateway=server),)
                ),
            ]
        ),
    )
    told = BOOTP(offer.serialize())[DHCP].options
    assert told[: told.index("end")] == [
        ("message-type", 2),
        ("server_id", "10.77.0.1"),
        ("lease_time", 3600),
        ("subnet_mask", "255.255.255.0"),
        ("router", "10.77.0.1"),
        ("name_server", "10.77.0.1", "10.77.0.2"),
        ("hostname", b"node-000"),
        ("domain", b"lab"),
        ("interface-mtu", 1500),
        ("vendor_class_id", b"PXEClient"),
        ("vendor_specific", pxe.BOOT_THIS_FILE),
        ("boot-file-name", b"undionly.kpxe\0"),
        ("classless_static_routes", ["10.0.0.0/8:10.77.0.1"]),
    ]


def test_we_read_what_scapy_writes() -> None:
    options = [
        ("message-type", "request"),
        ("requested_addr", "10.77.0.10"),
        ("server_id", "10.77.0.1"),
        ("max_dhcp_size", 1472),
        ("param_req_list", [1, 3, 67]),
        ("vendor_class_id", b"PXEClient:Arch:00007:UNDI:003016"),
        ("client_id", b"\1" + MAC),
        "end",
    ]
    message = BOOTP(chaddr=MAC, xid=7, flags="B", giaddr="10.9.9.9", hops=1) / DHCP(options=options)
    packet = Packet.parse(bytes(message))
    assert our_fields(packet) == scapy_fields(BOOTP(bytes(message)))
    assert packet.problems == ()
    assert packet.mac == MAC
    assert packet.is_broadcast
    assert packet.message_type is MessageType.REQUEST
    assert packet.requested_address == IPv4Address("10.77.0.10")
    assert packet.get(opt.SERVER_ID) == IPv4Address("10.77.0.1")
    assert packet.get(opt.PARAMETER_LIST) == (1, 3, 67)
    assert packet.get(opt.VENDOR_CLASS) == "PXEClient:Arch:00007:UNDI:003016"
    assert packet.get(opt.CLIENT_ID) == b"\1" + MAC
    assert packet.reply_size_max == 1444


def ethernet_and_ipv6(source: str) -> Any:
    return Ether(src=str(MAC), dst="33:33:00:00:00:02") / IPv6(src=source, dst="ff02::2", hlim=255)


def test_we_read_scapys_solicitations() -> None:
    asked = ethernet_and_ipv6(str(NODE_ADDRESS)) / ICMPv6ND_RS()
    expected = ndp.RouterSolicitation(source_mac=MAC, source_address=NODE_ADDRESS)
    assert ndp.parse_frame(bytes(asked)) == expected
    assert ndp.parse_frame(bytes(asked / ICMPv6NDOptSrcLLAddr(lladdr=str(MAC)))) == expected


def test_we_read_scapys_advertisements() -> None:
    told = ethernet_and_ipv6(str(NODE_ADDRESS)) / ICMPv6ND_RA(routerlifetime=1800, M=1)
    assert ndp.parse_frame(bytes(told)) == ndp.RouterAdvertisement(
        source_mac=MAC, source_address=NODE_ADDRESS, router_lifetime_s=1800
    )


def test_scapy_reads_our_advertisement() -> None:
    data = ndp.serialize_router_advertisement(
        source_mac=SERVER,
        source_address=SERVER_ADDRESS,
        destination_mac=MAC,
        destination_address=NODE_ADDRESS,
    )
    read = Ether(data)
    assert (read.src, read.dst) == (str(SERVER), str(MAC))
    assert (read[IPv6].src, read[IPv6].dst) == (str(SERVER_ADDRESS), str(NODE_ADDRESS))
    assert (read[IPv6].hlim, read[IPv6].plen, read[IPv6].nh) == (255, 16, 58)
    told = read[ICMPv6ND_RA]
    assert (told.routerlifetime, told.M, told.O, told.prf) == (0, 0, 0, 0)
    assert (told.reachabletime, told.retranstimer, len(told.payload)) == (0, 0, 0)
    # Left to itself, scapy computes the same checksum.
    del told.cksum
    assert bytes(read) == data

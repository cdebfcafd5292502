"""The responder: recorded messages in, whole replies out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, Literal

import pytest

from bootnode.addresses import AddressRange, MacAddress
from bootnode.boot.plan import LOADER_NAMES, Policy, Site
from bootnode.config import NetworkSettings, ProxyStyle
from bootnode.dhcp import options as opt
from bootnode.dhcp.leases import Lease, LeaseState, LeaseTable
from bootnode.dhcp.options import MessageType
from bootnode.dhcp.packet import BOOTREPLY, BOOTREQUEST, UNSPECIFIED, Packet
from bootnode.dhcp.replies import BROADCAST, Arrival, Ignored, Reply
from bootnode.dhcp.responder import Responder
from bootnode.dhcp.subnet import Subnet
from bootnode.dhcp.values import RelayAgentInfo, RelaySubOption
from bootnode.nodes import Boot, Node, NodeTable

Capture = Callable[[str], Packet]

NOW = 1_700_000_000.0
SERVER = IPv4Address("10.77.0.1")
FIXED = IPv4Address("10.77.0.10")
STRANGER = MacAddress.parse("52:54:00:99:99:99")
LENT = (
    "54 10.77.0.1 51 3600 58 1800 59 3150"
    " 1 255.255.255.0 3 10.77.0.1 6 10.77.0.1 12 n1 28 10.77.0.255"
)
"""What every OFFER and ACK of an address holds."""
TO_ALL = "to 255.255.255.255:68 flags=8000"
TO_MAC = "to 10.77.0.10:68 by MAC flags=0000"


def node(mac: MacAddress, *, ip: IPv4Address | None = FIXED, **changes: Any) -> Node:
    plain = Node(
        name="n1",
        macs=(mac,),
        addresses={mac: ip} if ip is not None else {},
        image="failsafe",
        kernel_args=(),
        boot=Boot.NETWORK,
        boot_file=None,
        vars={},
    )
    return replace(plain, **changes)


def settings(
    mode: Literal["full", "proxy", "auto", "off"] = "full", **changes: Any
) -> NetworkSettings:
    pool = {"pool": "10.77.0.100-10.77.0.199"} if mode == "full" else {}
    plain = NetworkSettings.model_validate(
        {"interface": "tap0", "dhcp": mode, "router": "10.77.0.1", "dns": "10.77.0.1", **pool}
    )
    return plain.model_copy(update=changes)


def responder(
    *nodes: Node,
    unknown: Literal["ignore", "address"] | Node = "ignore",
    network: NetworkSettings | None = None,
    address: str = "10.77.0.1/24",
    loaders: frozenset[str] = LOADER_NAMES,
    remote: Iterable[NetworkSettings] = (),
    own_addresses: Iterable[IPv4Address] = (),
) -> Responder:
    network = network or settings()
    interface = IPv4Interface(address)
    table = NodeTable(nodes, unknown)

    def subnet(each: NetworkSettings, where: IPv4Network) -> Subnet:
        leases = LeaseTable(subnet=where, pool=each.pool, excluded=frozenset({interface.ip}))
        leases.reserve(table.reservations, table.macs)
        return Subnet(settings=each, network=where, leases=leases)

    return Responder(
        site=Site(address=interface.ip, http_port=8080),
        local=subnet(network, interface.network),
        remote=[subnet(each, each.subnet) for each in remote if each.subnet is not None],
        policy=Policy(table=table, loaders=loaders),
        own_addresses=frozenset(own_addresses),
    )


def broadcast(port: int = 67) -> Arrival:
    return Arrival(source=UNSPECIFIED, source_port=68, destination=BROADCAST, port=port)


def unicast(source: str = "10.77.0.10", source_port: int = 68, port: int = 67) -> Arrival:
    return Arrival(
        source=IPv4Address(source), source_port=source_port, destination=SERVER, port=port
    )


def message(mac: MacAddress, *items: tuple[int, bytes], **fields: Any) -> Packet:
    """A request of an operating system, which sends few options."""
    return Packet(op=BOOTREQUEST, xid=7, chaddr=mac + bytes(10), options=dict(items), **fields)


def kind(message_type: MessageType) -> tuple[int, bytes]:
    return opt.MESSAGE_TYPE.item(message_type)


def asks_for(address: IPv4Address | str) -> tuple[int, bytes]:
    return opt.REQUESTED_ADDRESS.item(IPv4Address(address))


def chose(server: IPv4Address | str) -> tuple[int, bytes]:
    return opt.SERVER_ID.item(IPv4Address(server))


def described(outcome: Reply | Ignored) -> str:
    """All of an outcome on one line, the options in the order in which they are sent."""
    if isinstance(outcome, Ignored):
        return f"ignored: {outcome.reason}"
    sent = Packet.parse(outcome.packet.fit(outcome.size_max).serialize())
    assert sent.message_type is not None
    words = [sent.message_type.name, "from", "4011" if outcome.is_from_pxe_port else "67"]
    words += ["to", f"{outcome.destination}:{outcome.port}"]
    words += ["by", "MAC"] if outcome.is_unconfigured else []
    words += [f"flags={sent.flags:04x}"]
    for name in ("ciaddr", "yiaddr", "siaddr", "giaddr"):
        if getattr(sent, name) != UNSPECIFIED:
            words.append(f"{name}={getattr(sent, name)}")
    words += [f"file={sent.file.decode()}"] if sent.file else []
    for code in sent.options:
        if code != opt.MESSAGE_TYPE.code:
            words += [str(code), _value(code, sent)]
    return " ".join(words)


def _value(code: int, packet: Packet) -> str:
    value = packet.get(opt.OPTIONS_BY_CODE[code])
    match value:
        case bytes():
            return value.hex()
        case tuple():
            return ",".join(map(str, value))
        case RelayAgentInfo():
            return packet.options[code].hex()
    return str(value)


def reply(outcome: Reply | Ignored) -> Reply:
    assert isinstance(outcome, Reply), outcome
    return outcome


def ignored(outcome: Reply | Ignored) -> str:
    assert isinstance(outcome, Ignored), outcome
    return outcome.reason


def mac_of(packet: Packet) -> MacAddress:
    assert packet.mac is not None
    return packet.mac


def one_line(text: str) -> str:
    return " ".join(text.split())


BIOS_UUID = "0000020003000400050006000700080009"
HYPERV_UUID = "0086257cde4edc8a4e8940a4847f362d09"
DELL_UUID = "0044454c4c4c0010578039b7c04f535931"
ZERO_UUID = "00" * 17
PI_3_UUID = "00d4659bbdd4659bbdd4659bbdd4659bbd"
PI_4_UUID = "00525069343031c00032ecfc3cda06ffe0"
PI_MENU = "0601030a04005058450914000011" + b"Raspberry Pi Boot".hex() + "ff"
PI_3_MENU = "0601030a04005058450917000014" + b"Raspberry Pi Boot   ".hex() + "ff"
LOADER_URL = "http://10.77.0.1:8080/loaders/snponly.efi"
QEMU_SCRIPT = "http://10.77.0.1:8080/boot/52-54-00-12-34-56.ipxe"
UEFI_SCRIPT = "http://10.77.0.1:8080/boot/fc-ab-14-e8-66-02.ipxe"
DELL_SCRIPT = "http://10.77.0.1:8080/boot/f0-1f-af-45-86-5a.ipxe"

FULL_OFFERS = {
    "asrock_bios_pxe_discover": f"""
        OFFER from 67 {TO_ALL} yiaddr=10.77.0.10 siaddr=10.77.0.1 file=undionly.kpxe {LENT}
        60 PXEClient 97 {BIOS_UUID} 43 060108ff 66 10.77.0.1 67 undionly.kpxe""",
    "hyperv_gen1_bios_pxe_discover": f"""
        OFFER from 67 {TO_ALL} yiaddr=10.77.0.10 siaddr=10.77.0.1 file=undionly.kpxe {LENT}
        60 PXEClient 97 {HYPERV_UUID} 43 060108ff 66 10.77.0.1 67 undionly.kpxe""",
    "dell_uefi_x64_pxe_discover": f"""
        OFFER from 67 {TO_ALL} yiaddr=10.77.0.10 siaddr=10.77.0.1 file=snponly.efi {LENT}
        60 PXEClient 97 {DELL_UUID} 43 060108ff 66 10.77.0.1 67 snponly.efi""",
    "ovmf_2022_x64_pxe_discover": f"""
        OFFER from 67 {TO_ALL} yiaddr=10.77.0.10 siaddr=10.77.0.1 file=snponly.efi {LENT}
        60 PXEClient 97 {ZERO_UUID} 43 060108ff 66 10.77.0.1 67 snponly.efi""",
    "edk2_x64_http_discover": f"""
        OFFER from 67 {TO_ALL} yiaddr=10.77.0.10 siaddr=10.77.0.1 file={LOADER_URL} {LENT}
        60 HTTPClient 97 {BIOS_UUID} 67 {LOADER_URL}""",
    "ovmf_2022_x64_http_discover": f"""
        OFFER from 67 {TO_ALL} yiaddr=10.77.0.10 siaddr=10.77.0.1 file={LOADER_URL} {LENT}
        60 HTTPClient 97 {ZERO_UUID} 67 {LOADER_URL}""",
    "ipxe_2.0.0_bios_qemu_discover": f"""
        OFFER from 67 {TO_MAC} yiaddr=10.77.0.10 siaddr=10.77.0.1 file={QEMU_SCRIPT} {LENT}
        67 {QEMU_SCRIPT} 61 01525400123456 175 b00101""",
    "ipxe_2019_uefi_x64_discover": f"""
        OFFER from 67 {TO_MAC} yiaddr=10.77.0.10 siaddr=10.77.0.1 file={UEFI_SCRIPT} {LENT}
        67 {UEFI_SCRIPT} 61 01fcab14e86602 175 b00101""",
    "windows_msft5_discover": f"""
        OFFER from 67 {TO_MAC} yiaddr=10.77.0.10 {LENT} 61 01a497b139a387""",
    "arista_eos_ztp_discover": f"""
        OFFER from 67 {TO_MAC} yiaddr=10.77.0.10 {LENT} 61 000044010000""",
    # It takes a file of its own choice from the server that is named.
    "uboot_riscv64_discover_without_arch": f"""
        OFFER from 67 {TO_MAC} yiaddr=10.77.0.10 siaddr=10.77.0.1 {LENT}""",
    "embedded_discover_requested_zero": f"""
        OFFER from 67 {TO_MAC} yiaddr=10.77.0.10 {LENT} 61 01000b8201fc42""",
    "raspberrypi_3_rom_discover": f"""
        OFFER from 67 {TO_MAC} yiaddr=10.77.0.10 siaddr=10.77.0.1 {LENT}
        60 PXEClient 97 {PI_3_UUID} 43 {PI_3_MENU} 66 10.77.0.1""",
    "raspberrypi_4_eeprom_discover": f"""
        OFFER from 67 {TO_MAC} yiaddr=10.77.0.10 siaddr=10.77.0.1 {LENT}
        60 PXEClient 97 {PI_4_UUID} 43 {PI_MENU} 66 10.77.0.1""",
}


@pytest.mark.parametrize("name", FULL_OFFERS)
def test_full_mode_offers(capture: Capture, name: str) -> None:
    request = capture(name)
    outcome = responder(node(mac_of(request))).handle(request, broadcast(), now=NOW)
    assert described(outcome) == one_line(FULL_OFFERS[name])


def test_full_mode_acknowledges_what_it_offered(capture: Capture) -> None:
    """EDK2 boots by the OFFER, iPXE by the ACK: both hold the same."""
    uefi = capture("ovmf_2022_x64_pxe_discover")
    served = responder(node(mac_of(uefi), ip=IPv4Address("10.77.0.140")))
    offer = described(served.handle(uefi, broadcast(), now=NOW))
    outcome = served.handle(capture("ovmf_2022_x64_pxe_request"), broadcast(), now=NOW + 4)
    assert described(outcome) == offer.replace("OFFER", "ACK")
    assert isinstance(outcome, Reply)
    assert outcome.lease == Lease(
        address=IPv4Address("10.77.0.140"),
        mac=mac_of(uefi),
        state=LeaseState.BOUND,
        expires_s=NOW + 4 + 3600,
    )


def test_ipxe_is_acknowledged_at_the_address_of_its_offer(capture: Capture) -> None:
    """Recorded: the REQUEST that answers our offer of 10.77.0.139."""
    request = capture("ipxe_2019_bios_virtio_request")
    served = responder(node(mac_of(request), ip=None))
    outcome = served.handle(request, broadcast(), now=NOW)
    url = "http://10.77.0.1:8080/boot/fc-ab-14-e8-66-01.ipxe"
    assert described(outcome) == one_line(
        f"""ACK from 67 to 10.77.0.139:68 by MAC flags=0000 yiaddr=10.77.0.139 siaddr=10.77.0.1
        file={url} {LENT} 67 {url} 61 01fcab14e86601 175 b00101"""
    )


PROXY_OFFERS = {
    "asrock_bios_pxe_discover": f"""
        OFFER from 67 {TO_ALL} siaddr=10.77.0.1 file=undionly.kpxe
        54 10.77.0.1 60 PXEClient 97 {BIOS_UUID} 43 060108ff 66 10.77.0.1 67 undionly.kpxe""",
    "dell_uefi_x64_pxe_discover": f"""
        OFFER from 67 {TO_ALL} siaddr=10.77.0.1 file=snponly.efi
        54 10.77.0.1 60 PXEClient 97 {DELL_UUID} 43 060108ff 66 10.77.0.1 67 snponly.efi""",
    "edk2_x64_http_discover": f"""
        OFFER from 67 {TO_ALL} siaddr=10.77.0.1 file={LOADER_URL}
        54 10.77.0.1 60 HTTPClient 97 {BIOS_UUID} 67 {LOADER_URL}""",
    # iPXE's own flag is clear, but it has no address yet: the reply is a broadcast all the same.
    "ipxe_2.0.0_bios_qemu_discover": f"""
        OFFER from 67 {TO_ALL} siaddr=10.77.0.1 file={QEMU_SCRIPT}
        54 10.77.0.1 60 PXEClient 67 {QEMU_SCRIPT} 61 01525400123456 175 010101""",
    "ipxe_1.0.0_uefi_x64_dell_discover": f"""
        OFFER from 67 {TO_ALL} siaddr=10.77.0.1 file={DELL_SCRIPT}
        54 10.77.0.1 60 PXEClient 67 {DELL_SCRIPT} 61 01f01faf45865a 175 010101""",
    "windows_msft5_discover": "ignored: it does not ask to boot",
    "arista_eos_ztp_discover": "ignored: it does not ask to boot",
    "raspberrypi_3_rom_discover": f"""
        OFFER from 67 {TO_ALL} siaddr=10.77.0.1
        54 10.77.0.1 60 PXEClient 97 {PI_3_UUID} 43 {PI_3_MENU} 66 10.77.0.1""",
    "raspberrypi_4_eeprom_discover": f"""
        OFFER from 67 {TO_ALL} siaddr=10.77.0.1
        54 10.77.0.1 60 PXEClient 97 {PI_4_UUID} 43 {PI_MENU} 66 10.77.0.1""",
    "uboot_riscv64_discover_without_arch": "ignored: it makes no one offer of two",
    "ovmf_2022_x64_pxe_request": "ignored: the other DHCP server answers that",
    "windows_msft5_inform": "ignored: the other DHCP server answers that",
    "windows_release": "ignored: the other DHCP server answers that",
}


@pytest.mark.parametrize("name", PROXY_OFFERS)
def test_proxy_mode(capture: Capture, name: str) -> None:
    request = capture(name)
    served = responder(node(mac_of(request)), network=settings("proxy"))
    outcome = served.handle(request, broadcast(), now=NOW)
    assert described(outcome) == one_line(PROXY_OFFERS[name])
    assert not [*served.local.leases]


THROUGH_4011 = {
    **PROXY_OFFERS,
    "asrock_bios_pxe_discover": f"""
        OFFER from 67 {TO_ALL} siaddr=10.77.0.1 file=undionly.kpxe
        54 10.77.0.1 60 PXEClient 97 {BIOS_UUID} 66 10.77.0.1 67 undionly.kpxe""",
    "dell_uefi_x64_pxe_discover": f"""
        OFFER from 67 {TO_ALL} siaddr=10.77.0.1 file=snponly.efi
        54 10.77.0.1 60 PXEClient 97 {DELL_UUID} 66 10.77.0.1 67 snponly.efi""",
}
"""Firmware is sent to port 4011; the others know no such step, and get what they always get."""


@pytest.mark.parametrize("of_node", [None, *ProxyStyle])
@pytest.mark.parametrize("of_network", ProxyStyle)
@pytest.mark.parametrize("name", PROXY_OFFERS)
def test_proxy_style(
    capture: Capture, name: str, of_network: ProxyStyle, of_node: ProxyStyle | None
) -> None:
    """The node's own counts before its network's."""
    request = capture(name)
    network = settings("proxy", proxy_style=of_network)
    listed = node(mac_of(request), proxy_style=of_node)
    is_direct = (of_node or of_network) is ProxyStyle.DIRECT
    expected = one_line((PROXY_OFFERS if is_direct else THROUGH_4011)[name])
    for served in (
        responder(listed, network=network),
        responder(unknown=replace(listed, name="unknown", macs=()), network=network),
    ):
        assert described(served.handle(request, broadcast(), now=NOW)) == expected


@pytest.mark.parametrize(
    "name",
    ["raspberrypi_4_eeprom_discover", "hyperv_gen1_bios_pxe_discover"],
)
def test_who_is_sent_to_port_4011_with_a_boot_file_of_its_own(capture: Capture, name: str) -> None:
    request = capture(name)
    network = settings("proxy", proxy_style=ProxyStyle.PORT4011)
    served = responder(node(mac_of(request), boot_file="own.bin"), network=network)
    outcome = reply(served.handle(request, broadcast(), now=NOW))
    is_sent = opt.VENDOR_ENCAPSULATED.code not in outcome.packet.options
    assert is_sent is (name == "hyperv_gen1_bios_pxe_discover")


def test_full_mode_knows_no_proxy_style(capture: Capture) -> None:
    request = capture("dell_uefi_x64_pxe_discover")
    served = responder(node(mac_of(request), proxy_style=ProxyStyle.PORT4011))
    expected = one_line(FULL_OFFERS["dell_uefi_x64_pxe_discover"])
    assert described(served.handle(request, broadcast(), now=NOW)) == expected


def test_proxy_offer_is_a_broadcast_whatever_ciaddr_says(capture: Capture) -> None:
    """Protocol bug of clients: an old address in the ciaddr of a DISCOVER."""
    request = replace(capture("asrock_bios_pxe_discover"), ciaddr=IPv4Address("10.77.0.77"))
    served = responder(node(mac_of(request)), network=settings("proxy"))
    expected = one_line(PROXY_OFFERS["asrock_bios_pxe_discover"])
    assert described(served.handle(request, broadcast(), now=NOW)) == expected


BOOT_SERVER = {
    # EDK2 asks from port 4011 and listens there.
    ("edk2_port4011_request", 4011): f"""
        ACK from 4011 to 192.168.1.50:4011 flags=0000 ciaddr=192.168.1.50 siaddr=192.168.1.1
        file=snponly.efi 54 192.168.1.1 60 PXEClient 97 {DELL_UUID}
        43 060108ff 66 192.168.1.1 67 snponly.efi""",
    # This iPXE says nothing of what it can do: it gets the loader by a whole URI.
    ("ipxe_port4011_boot_item_request", 68): """
        ACK from 4011 to 192.168.1.50:68 flags=8000 ciaddr=192.168.1.181 siaddr=192.168.1.1
        file=tftp://192.168.1.1/undionly.kpxe 54 192.168.1.1 60 PXEClient 43 470480000000ff
        67 tftp://192.168.1.1/undionly.kpxe 61 01bc24119e9169 175 010101""",
    ("windows_msft5_inform", 68): "ignored: it does not ask to boot",
    ("windows_msft5_discover", 68): "ignored: port 4011 answers REQUEST and INFORM only",
}


@pytest.mark.parametrize("mode", ["full", "proxy"])
@pytest.mark.parametrize(("name", "port"), BOOT_SERVER)
def test_port_4011(capture: Capture, name: str, port: int, mode: Literal["full", "proxy"]) -> None:
    request = capture(name)
    network = settings(mode, pool=())
    served = responder(node(mac_of(request), ip=None), network=network, address="192.168.1.1/24")
    outcome = served.handle(request, unicast("192.168.1.50", port, port=4011), now=NOW)
    assert described(outcome) == one_line(BOOT_SERVER[name, port])


def test_port_4011_wants_a_client_that_has_an_address(capture: Capture) -> None:
    request = capture("edk2_port4011_request")
    served = responder(node(mac_of(request)))
    outcome = served.handle(request, unicast("0.0.0.0", port=4011), now=NOW)
    assert described(outcome) == "ignored: it asks port 4011 without an address"


# Who is served at all


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"op": BOOTREPLY}, "it is a reply, not a request"),
        ({"htype": 32}, "its hardware address is not that of an Ethernet card"),
        ({"chaddr": bytes(16)}, "its hardware address is not that of an Ethernet card"),
        ({"chaddr": b"\xff" * 16}, "its hardware address is not that of an Ethernet card"),
        (
            {"giaddr": IPv4Address("10.99.0.1")},
            "relayed by 10.99.0.1 from a subnet that no network here serves",
        ),
    ],
)
def test_not_for_us(capture: Capture, changes: dict[str, Any], reason: str) -> None:
    request = capture("ovmf_2022_x64_pxe_discover")
    served = responder(node(mac_of(request)))
    assert ignored(served.handle(replace(request, **changes), broadcast(), now=NOW)) == reason


@pytest.mark.parametrize("number", [2, 5, 6, 9, 10, 11, 12, 13, 99])
def test_message_types_that_no_client_sends(number: int) -> None:
    mac = MacAddress.parse("fc:ab:14:e8:66:01")
    outcome = responder(node(mac)).handle(
        message(mac, (opt.MESSAGE_TYPE.code, bytes((number,)))), broadcast(), now=NOW
    )
    assert ignored(outcome) == f"{MessageType(number).name} is not for a server"


@pytest.mark.parametrize("ip", [FIXED, None], ids=["fixed", "from the pool"])
def test_bootp_gets_an_address_for_ever(ip: IPv4Address | None) -> None:
    """RFC 1534; no message type in the reply, and no more than the 64 bytes of RFC 951."""
    served = responder(node(MAC, ip=ip, boot_file="boot/xterm"))
    outcome = reply(served.handle(message(MAC), broadcast(), now=NOW))
    sent = Packet.parse(outcome.packet.fit(outcome.size_max).serialize())
    assert len(outcome.packet.fit(outcome.size_max).serialize()) == 300
    assert sorted(sent.options) == [1, 3, 6, 12, 28]
    assert (sent.file, sent.siaddr) == (b"boot/xterm", SERVER)
    assert outcome.lease is not None
    assert (outcome.lease.address, outcome.lease.expires_s) == (sent.yiaddr, math.inf)
    assert ip is None or sent.yiaddr == ip
    later = served.handle(message(MAC), broadcast(), now=NOW + 1e9)
    assert reply(later).packet.yiaddr == sent.yiaddr


def test_bootp_is_for_nodes_of_the_table() -> None:
    served = responder(unknown="address")
    outcome = served.handle(message(STRANGER), broadcast(), now=NOW)
    assert ignored(outcome) == "plain BOOTP, and its MAC is not in the node table"
    full = responder(node(MAC, ip=None), network=settings(pool=()))
    outcome = full.handle(message(MAC), broadcast(), now=NOW)
    assert ignored(outcome) == f"{MAC} has no fixed address, and there is no pool"


UNKNOWN_PATTERN = node(STRANGER, ip=None, name="unknown", macs=())
UNKNOWN = {
    ("ignore", "full"): "ignored: its MAC is not in the node table",
    ("ignore", "proxy"): "ignored: it is not in the node table",
    ("address", "full"): f"""
        OFFER from 67 {TO_ALL} yiaddr=10.77.0.ANY {LENT.replace(" 12 n1", "")}""",
    ("address", "proxy"): "ignored: it is not in the node table",
    ("image", "full"): f"""
        OFFER from 67 {TO_ALL} yiaddr=10.77.0.ANY siaddr=10.77.0.1 file=snponly.efi
        {LENT.replace(" 12 n1", "")}
        60 PXEClient 97 {DELL_UUID} 43 060108ff 66 10.77.0.1 67 snponly.efi""",
    ("image", "proxy"): PROXY_OFFERS["dell_uefi_x64_pxe_discover"],
}


@pytest.mark.parametrize(("policy", "mode"), UNKNOWN)
def test_unknown_macs(
    capture: Capture,
    policy: Literal["ignore", "address", "image"],
    mode: Literal["full", "proxy"],
) -> None:
    unknown = UNKNOWN_PATTERN if policy == "image" else policy
    served = responder(unknown=unknown, network=settings(mode))
    outcome = served.handle(capture("dell_uefi_x64_pxe_discover"), broadcast(), now=NOW)
    given = outcome.packet.yiaddr if isinstance(outcome, Reply) else None
    expected = UNKNOWN[policy, mode].replace("10.77.0.ANY", str(given))
    assert described(outcome) == one_line(expected)
    assert (
        mode == "proxy"
        or policy == "ignore"
        or given in AddressRange.parse("10.77.0.100-10.77.0.199")
    )


LOCAL = {
    ("dell_uefi_x64_pxe_discover", "full"): f"""
        OFFER from 67 {TO_ALL} yiaddr=10.77.0.10 {LENT}""",
    ("dell_uefi_x64_pxe_discover", "proxy"): "ignored: it boots from its local disk",
    ("edk2_x64_http_discover", "full"): f"OFFER from 67 {TO_ALL} yiaddr=10.77.0.10 {LENT}",
    # At iPXE's stage only a script can start the disk.
    ("ipxe_2019_uefi_x64_discover", "full"): FULL_OFFERS["ipxe_2019_uefi_x64_discover"],
}


@pytest.mark.parametrize("boot", [Boot.LOCAL, Boot.ONCE])
@pytest.mark.parametrize(("name", "mode"), LOCAL)
def test_local_boot(
    capture: Capture, name: str, mode: Literal["full", "proxy"], boot: Boot
) -> None:
    request = capture(name)
    there = node(mac_of(request), boot=boot)
    served = responder(there, network=settings(mode))
    served._policy.spent.add((there.name, "failsafe"))
    outcome = served.handle(request, broadcast(), now=NOW)
    assert described(outcome) == one_line(LOCAL[name, mode])


def test_boot_once_goes_by_network_until_it_is_spent(capture: Capture) -> None:
    request = capture("dell_uefi_x64_pxe_discover")
    served = responder(node(mac_of(request), boot=Boot.ONCE))
    outcome = served.handle(request, broadcast(), now=NOW)
    assert described(outcome) == one_line(FULL_OFFERS["dell_uefi_x64_pxe_discover"])


def test_boot_file_overrides_the_loader(capture: Capture) -> None:
    request = capture("dell_uefi_x64_pxe_discover")
    served = responder(node(mac_of(request), boot_file="grub/grubx64.efi"))
    outcome = served.handle(request, broadcast(), now=NOW)
    expected = FULL_OFFERS["dell_uefi_x64_pxe_discover"].replace("snponly.efi", "grub/grubx64.efi")
    assert described(outcome) == one_line(expected)


def test_a_boot_file_too_long_for_the_header_stands_in_option_67(capture: Capture) -> None:
    """Cut short in the header it would win over option 67 in iPXE."""
    url = "http://10.77.0.1/" + "x" * 111
    request = capture("edk2_x64_http_discover")
    served = responder(node(mac_of(request), boot_file=url))
    outcome = served.handle(request, broadcast(), now=NOW)
    assert described(outcome) == one_line(
        f"""OFFER from 67 {TO_ALL} yiaddr=10.77.0.10 siaddr=10.77.0.1 {LENT}
        60 HTTPClient 97 {BIOS_UUID} 67 {url}"""
    )


def test_without_a_loader_there_is_an_address_but_no_boot(capture: Capture) -> None:
    request = capture("dell_uefi_x64_pxe_discover")
    served = responder(node(mac_of(request)), loaders=frozenset({"undionly.kpxe"}))
    outcome = served.handle(request, broadcast(), now=NOW)
    assert described(outcome) == f"OFFER from 67 {TO_ALL} yiaddr=10.77.0.10 {LENT}"


# What firmware demands of the bytes


@pytest.mark.parametrize("name", FULL_OFFERS)
@pytest.mark.parametrize("mode", ["full", "proxy"])
def test_bytes_that_firmware_demands(
    capture: Capture, name: str, mode: Literal["full", "proxy"]
) -> None:
    request = capture(name)
    served = responder(node(mac_of(request)), network=settings(mode))
    outcome = served.handle(request, broadcast(), now=NOW)
    if isinstance(outcome, Ignored):
        assert mode == "proxy"
        return
    packet = outcome.packet.fit(outcome.size_max)
    data = packet.serialize()
    assert 300 <= len(data) <= outcome.size_max <= 1472
    assert data[packet.size - 1] == 255
    assert not any(data[packet.size :])
    assert (packet.xid, packet.chaddr, packet.hops) == (request.xid, request.chaddr, 0)
    assert packet.options[opt.SERVER_ID.code] == SERVER.packed
    boot_file = packet.options.get(opt.BOOT_FILE.code)
    if boot_file is not None:
        assert boot_file == packet.file + b"\0"
    if packet.get(opt.VENDOR_CLASS) == "HTTPClient":
        # GRUB reads option 60 as a C string.
        at = data.index(b"HTTPClient", 240)
        assert data[at + 10] == 0
    assert (opt.CLIENT_ID.code in packet.options) == (opt.CLIENT_ID.code in request.options)


def test_a_bare_network_and_a_rom_that_tells_no_uuid(capture: Capture) -> None:
    request = capture("asrock_bios_pxe_discover")
    options = {code: raw for code, raw in request.options.items() if code != opt.MACHINE_UUID.code}
    network = NetworkSettings.model_validate({"interface": "tap0", "dhcp": "full"})
    served = responder(node(mac_of(request)), network=network)
    outcome = served.handle(replace(request, options=options), broadcast(), now=NOW)
    assert described(outcome) == one_line(
        f"""OFFER from 67 {TO_ALL} yiaddr=10.77.0.10 siaddr=10.77.0.1 file=undionly.kpxe
        54 10.77.0.1 51 3600 58 1800 59 3150 1 255.255.255.0 12 n1 28 10.77.0.255
        60 PXEClient 43 060108ff 66 10.77.0.1 67 undionly.kpxe"""
    )


def test_all_network_options() -> None:
    mac = MacAddress.parse("fc:ab:14:e8:66:01")
    network = NetworkSettings.model_validate(
        {
            "interface": "tap0",
            "dhcp": "full",
            "lease_time": "2h",
            "dns": ["10.77.0.2", "10.77.0.3"],
            "domain": "lab.example",
            "ntp": "10.77.0.4",
            "mtu": 9000,
        }
    )
    served = responder(node(mac), network=network)
    outcome = served.handle(message(mac, kind(MessageType.DISCOVER)), broadcast(), now=NOW)
    assert described(outcome) == one_line(
        f"""OFFER from 67 {TO_MAC} yiaddr=10.77.0.10 54 10.77.0.1 51 7200 58 3600 59 6300
        1 255.255.255.0 6 10.77.0.2,10.77.0.3 12 n1 15 lab.example 26 9000 28 10.77.0.255
        42 10.77.0.4"""
    )


# One machine, many voices


def test_one_address_from_rom_to_linux(capture: Capture) -> None:
    """Another client identifier at every stage: none, 01+MAC, a DUID, a bare MAC."""
    firmware = capture("dell_uefi_x64_pxe_discover")
    ipxe = capture("ipxe_1.0.0_uefi_x64_dell_discover")
    mac = mac_of(firmware)
    assert mac_of(ipxe) == mac
    linux = message(mac, kind(MessageType.DISCOVER), opt.CLIENT_ID.item(b"\xff\0\0\0\1duid"))
    switch = message(mac, kind(MessageType.DISCOVER), opt.CLIENT_ID.item(bytes(mac)))
    served = responder(node(mac, ip=None))
    given = set()
    for at, discover in enumerate([firmware, ipxe, linux, switch]):
        offer = reply(served.handle(discover, broadcast(), now=NOW + 100 * at))
        request = replace(
            discover,
            options={
                **discover.options,
                **dict([kind(MessageType.REQUEST), asks_for(offer.packet.yiaddr), chose(SERVER)]),
            },
        )
        ack = reply(served.handle(request, broadcast(), now=NOW + 100 * at + 1))
        given |= {offer.packet.yiaddr, ack.packet.yiaddr}
        for answer in (offer.packet, ack.packet):
            assert answer.get(opt.CLIENT_ID) == discover.get(opt.CLIENT_ID)
    assert len(given) == 1


# REQUEST in its four states (RFC 2131 section 4.3.2)

MAC = MacAddress.parse("fc:ab:14:e8:66:01")
OTHER = MacAddress.parse("fc:ab:14:e8:66:02")
DYNAMIC = IPv4Address("10.77.0.150")
ACK = "ACK from 67 to {to} flags=0000 {ciaddr}yiaddr={ip} " + LENT
NAK = "NAK from 67 to 255.255.255.255:68 flags=8000 54 10.77.0.1 56 {text}"


def request_of(mac: MacAddress, *items: tuple[int, bytes], **fields: Any) -> Packet:
    return message(mac, kind(MessageType.REQUEST), *items, **fields)


def bound(address: IPv4Address = DYNAMIC, mac: MacAddress = MAC) -> Responder:
    """A server that has lent `address` to the MAC, of two nodes without a fixed one."""
    served = responder(node(MAC, ip=None), node(OTHER, ip=None, name="n2"))
    request = request_of(mac, asks_for(address), chose(SERVER))
    assert isinstance(served.handle(request, broadcast(), now=NOW), Reply)
    return served


def by_mac(address: IPv4Address) -> str:
    return ACK.format(to=f"{address}:68 by MAC", ciaddr="", ip=address)


REQUESTS = {
    "SELECTING what was offered or is free": (
        (asks_for("10.77.0.151"), chose(SERVER)),
        broadcast(),
        by_mac(IPv4Address("10.77.0.151")),
    ),
    "SELECTING another server": (
        (asks_for(DYNAMIC), chose("10.77.0.99")),
        broadcast(),
        "ignored: it chose another DHCP server, 10.77.0.99",
    ),
    "SELECTING outside the pool": (
        (asks_for("10.77.0.20"), chose(SERVER)),
        broadcast(),
        NAK.format(text="10.77.0.20 is not an address that the pool gives out"),
    ),
    "SELECTING outside the subnet": (
        (asks_for("192.168.5.5"), chose(SERVER)),
        broadcast(),
        NAK.format(text="192.168.5.5 is not an address of this network"),
    ),
    "INIT-REBOOT of an address that may be another server's": (
        (asks_for(DYNAMIC),),
        broadcast(),
        "ignored: we know nothing of its lease on 10.77.0.150",
    ),
    "INIT-REBOOT on the wrong network": (
        (asks_for("192.168.5.5"),),
        broadcast(),
        NAK.format(text="192.168.5.5 is not an address of this network"),
    ),
    "no address at all": (
        (chose(SERVER),),
        broadcast(),
        "ignored: its REQUEST names no address",
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_request_of_a_client_without_a_lease(name: str) -> None:
    items, arrival, expected = REQUESTS[name]
    served = responder(node(MAC, ip=None))
    assert described(served.handle(request_of(MAC, *items), arrival, now=NOW)) == expected


def test_init_reboot_of_a_known_client() -> None:
    served = bound()
    again = served.handle(request_of(MAC, asks_for(DYNAMIC)), broadcast(), now=NOW + 9)
    assert described(again) == by_mac(DYNAMIC)
    other = served.handle(request_of(MAC, asks_for("10.77.0.151")), broadcast(), now=NOW + 9)
    text = "fc:ab:14:e8:66:01 has 10.77.0.150, not 10.77.0.151"
    assert described(other) == NAK.format(text=text)


def test_init_reboot_of_a_node_with_a_fixed_address() -> None:
    """It is known by the table, whatever became of the leases."""
    served = responder(node(MAC))
    same = served.handle(request_of(MAC, asks_for(FIXED)), broadcast(), now=NOW)
    assert described(same) == by_mac(FIXED)
    moved = served.handle(request_of(MAC, asks_for(DYNAMIC)), broadcast(), now=NOW)
    text = "fc:ab:14:e8:66:01 has the fixed address 10.77.0.10, not 10.77.0.150"
    assert described(moved) == NAK.format(text=text)


@pytest.mark.parametrize("flags", [0, 0x8000])
def test_renewing_is_acknowledged_at_the_clients_own_address(flags: int) -> None:
    """RFC 2131 section 4.1: ciaddr counts before the broadcast flag."""
    renew = request_of(MAC, ciaddr=DYNAMIC, flags=flags)
    for served in (bound(), responder(node(MAC, ip=None))):  # also when the leases are lost
        outcome = served.handle(renew, unicast(str(DYNAMIC)), now=NOW + 1800)
        expected = ACK.format(to="10.77.0.150:68", ciaddr="ciaddr=10.77.0.150 ", ip=DYNAMIC)
        assert described(outcome) == expected.replace("flags=0000", f"flags={flags:04x}")
        assert reply(outcome).lease is not None


def test_renewing_what_another_client_has_is_refused_to_all() -> None:
    outcome = bound(mac=OTHER).handle(
        request_of(MAC, ciaddr=DYNAMIC), unicast(str(DYNAMIC)), now=NOW + 9
    )
    text = "10.77.0.150 is leased to fc:ab:14:e8:66:02"
    assert described(outcome) == NAK.format(text=text)


def test_rebinding() -> None:
    rebind = request_of(MAC, ciaddr=DYNAMIC)
    outcome = bound().handle(rebind, broadcast(), now=NOW + 3000)
    expected = ACK.format(to="10.77.0.150:68", ciaddr="ciaddr=10.77.0.150 ", ip=DYNAMIC)
    assert described(outcome) == expected


def test_rebinding_of_a_lease_that_we_know_nothing_of() -> None:
    """Lost with our table, or another server's: only who has a say here takes it up."""
    rebind = request_of(MAC, ciaddr=DYNAMIC)
    unknown = "we know nothing of its lease on 10.77.0.150"
    lost = responder(node(MAC, ip=None)).handle(rebind, broadcast(), now=NOW)
    assert reply(lost).lease is not None
    modest = responder(node(MAC, ip=None), network=settings(authoritative=False))
    assert ignored(modest.handle(rebind, broadcast(), now=NOW)) == unknown
    # Not ours to give, or given to another: it may be another server's still.
    beside = request_of(MAC, ciaddr=IPv4Address("10.77.0.20"))
    outcome = responder(node(MAC, ip=None)).handle(beside, broadcast(), now=NOW)
    assert ignored(outcome) == "we know nothing of its lease on 10.77.0.20"
    assert ignored(bound(mac=OTHER).handle(rebind, broadcast(), now=NOW)) == unknown


NAKED = {
    "SELECTING": (asks_for("10.77.0.20"), chose(SERVER)),
    "INIT-REBOOT": (asks_for("192.168.5.5"),),
}


@pytest.mark.parametrize("items", NAKED.values(), ids=NAKED)
def test_not_authoritative_is_silent_where_it_would_refuse(
    items: tuple[tuple[int, bytes], ...],
) -> None:
    request = request_of(MAC, *items)
    for network in (settings(authoritative=False), settings(pool=())):
        served = responder(node(MAC, ip=None), network=network)
        outcome = served.handle(request, broadcast(), now=NOW)
        assert ignored(outcome).endswith(", and we are not authoritative")


def test_ciaddr_beside_option_50_does_not_count() -> None:
    """Buggy clients fill in an address that nothing can reach them at."""
    request = request_of(MAC, asks_for(DYNAMIC), chose(SERVER), ciaddr=IPv4Address("10.77.0.77"))
    outcome = responder(node(MAC, ip=None)).handle(request, broadcast(), now=NOW)
    assert described(outcome) == by_mac(DYNAMIC)


def test_a_client_that_chose_another_server_frees_our_offer() -> None:
    served = responder(node(MAC, ip=None))
    served.handle(message(MAC, kind(MessageType.DISCOVER)), broadcast(), now=NOW)
    assert served.local.leases.lookup(MAC) is not None
    elsewhere = request_of(MAC, asks_for("10.77.0.9"), chose("10.77.0.99"))
    assert isinstance(served.handle(elsewhere, broadcast(), now=NOW), Ignored)
    assert served.local.leases.lookup(MAC) is None


def test_nak_echoes_the_client_identifier_and_nothing_else(capture: Capture) -> None:
    request = capture("ipxe_2019_bios_virtio_request")
    served = responder(node(mac_of(request)))
    outcome = served.handle(request, broadcast(), now=NOW)
    assert described(outcome) == one_line(
        """NAK from 67 to 255.255.255.255:68 flags=8000 54 10.77.0.1
        56 fc:ab:14:e8:66:01 has the fixed address 10.77.0.10, not 10.77.0.139
        61 01fcab14e86601"""
    )


def test_no_address_left() -> None:
    network = settings(pool=(AddressRange.parse("10.77.0.150-10.77.0.150"),))
    served = responder(node(MAC, ip=None), node(OTHER, ip=None, name="n2"), network=network)
    discover = kind(MessageType.DISCOVER)
    assert reply(served.handle(message(MAC, discover), broadcast(), now=NOW)).packet.yiaddr
    outcome = served.handle(message(OTHER, discover), broadcast(), now=NOW)
    assert ignored(outcome) == "every address of 10.77.0.150-10.77.0.150 is in use"


# DECLINE, RELEASE, INFORM


def test_decline_puts_the_address_aside_and_the_client_gets_another() -> None:
    served = bound()
    decline = message(MAC, kind(MessageType.DECLINE), asks_for(DYNAMIC), chose(SERVER))
    outcome = served.handle(decline, broadcast(), now=NOW)
    assert isinstance(outcome, Ignored)
    assert outcome.reason == (
        "it declined 10.77.0.150: another machine on the network uses that address"
    )
    assert outcome.lease is not None
    assert outcome.lease.state is LeaseState.DECLINED
    offer = served.handle(message(MAC, kind(MessageType.DISCOVER)), broadcast(), now=NOW)
    assert reply(offer).packet.yiaddr != DYNAMIC


def test_release_gives_the_address_back() -> None:
    served = bound()
    release = message(MAC, kind(MessageType.RELEASE), chose(SERVER), ciaddr=DYNAMIC)
    outcome = served.handle(release, unicast(str(DYNAMIC)), now=NOW + 5)
    assert isinstance(outcome, Ignored)
    assert outcome.reason == "it released 10.77.0.150"
    assert outcome.lease is not None
    assert outcome.lease.state is LeaseState.RELEASED
    again = served.handle(release, unicast(str(DYNAMIC)), now=NOW + 6)
    assert again == replace(outcome, lease=None)


def test_inform_gets_options_and_no_address(capture: Capture) -> None:
    """The recorded Windows client has an address of another subnet, and is told all the same."""
    request = capture("windows_msft5_inform")
    outcome = responder(node(mac_of(request))).handle(request, unicast("172.17.2.32"), now=NOW)
    assert described(outcome) == one_line(
        """ACK from 67 to 172.17.2.32:68 flags=0000 ciaddr=172.17.2.32 54 10.77.0.1
        1 255.255.255.0 3 10.77.0.1 6 10.77.0.1 12 n1 28 10.77.0.255 61 01485b3902a59d"""
    )


def test_inform_that_is_not_answered(capture: Capture) -> None:
    served = responder(node(MAC))
    outcome = served.handle(message(MAC, kind(MessageType.INFORM)), broadcast(), now=NOW)
    assert ignored(outcome) == "its INFORM names no address"
    firmware = capture("edk2_port4011_request")
    inform = replace(firmware, options={**firmware.options, **dict([kind(MessageType.INFORM)])})
    served = responder(node(mac_of(firmware)))
    outcome = served.handle(inform, unicast(), now=NOW)
    assert ignored(outcome) == "firmware asks on port 4011, not by INFORM on 67"


# Relays


def relayed(mac: MacAddress, *, relays: tuple[IPv4Address, ...] = ()) -> Responder:
    network = settings(pool=(AddressRange.parse("172.16.1.100-172.16.1.199"),), relays=relays)
    return responder(node(mac, ip=None), network=network, address="172.16.1.1/24")


RELAY = Arrival(
    source=IPv4Address("172.16.1.2"),
    source_port=67,
    destination=IPv4Address("172.16.1.1"),
    port=67,
)
RELAY_LENT = "51 3600 58 1800 59 3150 1 255.255.255.0 3 10.77.0.1 6 10.77.0.1 12 n1 28 172.16.1.255"


def test_relayed_perfdhcp(capture: Capture) -> None:
    """253 and 265 bytes without END or padding; the reply goes to the relay's port 67."""
    discover = capture("perfdhcp_relayed_discover_short")
    served = relayed(mac_of(discover))
    offer = served.handle(discover, RELAY, now=NOW)
    address = reply(offer).packet.yiaddr
    head = f"from 67 to 172.16.1.2:67 flags=0000 yiaddr={address} giaddr=172.16.1.2 54 172.16.1.1"
    assert described(offer) == f"OFFER {head} {RELAY_LENT}"
    request = capture("perfdhcp_relayed_request_short")
    request = replace(request, options={**request.options, **dict([asks_for(address)])})
    ack = served.handle(request, RELAY, now=NOW)
    assert described(ack) == f"ACK {head} {RELAY_LENT}"


CIRCUIT = (RelaySubOption.CIRCUIT_ID, b"port 7")


def test_relay_agent_information_is_echoed_last_byte_for_byte(capture: Capture) -> None:
    info = RelayAgentInfo(sub_options=(CIRCUIT, (99, b"")))
    discover = capture("perfdhcp_relayed_discover_short")
    discover = replace(
        discover, options={**dict([opt.RELAY_AGENT_INFO.item(info)]), **discover.options}
    )
    outcome = relayed(mac_of(discover)).handle(discover, RELAY, now=NOW)
    assert described(outcome).endswith(" 82 0106706f727420376300")


def test_nak_through_a_relay_is_a_broadcast_there(capture: Capture) -> None:
    request = capture("perfdhcp_relayed_request_short")
    request = replace(request, options={**request.options, **dict([asks_for("172.16.1.9")])})
    outcome = relayed(mac_of(request)).handle(request, RELAY, now=NOW)
    assert described(outcome) == one_line(
        """NAK from 67 to 172.16.1.2:67 flags=8000 giaddr=172.16.1.2 54 172.16.1.1
        56 172.16.1.9 is not an address that the pool gives out"""
    )


def test_relayed_init_reboot_of_a_stranger_is_left_to_its_server() -> None:
    """A relay sends to us what the client broadcast."""
    request = request_of(MAC, asks_for("172.16.1.150"), giaddr=IPv4Address("172.16.1.2"))
    outcome = relayed(MAC).handle(request, RELAY, now=NOW)
    assert ignored(outcome) == "we know nothing of its lease on 172.16.1.150"


@pytest.mark.parametrize(
    "item",
    [
        opt.RELAY_AGENT_INFO.item(
            RelayAgentInfo(
                sub_options=((RelaySubOption.LINK_SELECTION, IPv4Address("172.16.1.0").packed),)
            )
        ),
        opt.SUBNET_SELECTION.item(IPv4Address("172.16.1.0")),
    ],
    ids=["link selection", "subnet selection"],
)
def test_the_relay_says_which_subnet_is_meant(item: tuple[int, bytes]) -> None:
    relay = IPv4Address("192.0.2.1")
    discover = message(MAC, kind(MessageType.DISCOVER), item, giaddr=relay)
    outcome = relayed(MAC, relays=(relay,)).handle(discover, RELAY, now=NOW)
    assert reply(outcome).destination == relay
    outcome = relayed(MAC).handle(discover, RELAY, now=NOW)
    assert ignored(outcome) == "relayed by 192.0.2.1, which is not among `relays` of tap0"


def test_relays_that_are_not_listed_are_refused() -> None:
    served = relayed(MAC, relays=(IPv4Address("172.16.1.2"),))
    for giaddr, reason in {
        "172.16.1.3": "relayed by 172.16.1.3, which is not among `relays` of tap0",
        "172.16.1.1": "it claims to be relayed by 172.16.1.1, which is this server",
    }.items():
        discover = message(MAC, kind(MessageType.DISCOVER), giaddr=IPv4Address(giaddr))
        outcome = served.handle(discover, RELAY, now=NOW)
        assert isinstance(outcome, Ignored)
        assert (outcome.reason, outcome.topic) == (reason, "relay_refused")


def test_relay_as_server_identifier() -> None:
    """RFC 5107: clients renew through the relay, which names itself to them."""
    relay = IPv4Address("172.16.1.2")
    info = opt.RELAY_AGENT_INFO.item(
        RelayAgentInfo(sub_options=((RelaySubOption.SERVER_ID_OVERRIDE, relay.packed),))
    )
    served = relayed(MAC)
    discover = message(MAC, kind(MessageType.DISCOVER), info, giaddr=relay)
    offer = reply(served.handle(discover, RELAY, now=NOW)).packet
    assert offer.get(opt.SERVER_ID) == relay
    request = request_of(MAC, asks_for(offer.yiaddr), chose(relay), info, giaddr=relay)
    ack = reply(served.handle(request, RELAY, now=NOW)).packet
    assert (ack.message_type, ack.get(opt.SERVER_ID)) == (MessageType.ACK, relay)
    unrelayed = request_of(MAC, asks_for(offer.yiaddr), chose(relay), info)
    outcome = served.handle(unrelayed, broadcast(), now=NOW)
    assert ignored(outcome) == "it chose another DHCP server, 172.16.1.2"


# Option 82 without a relay (some switches add it), and subnets behind relays


def test_what_only_a_relay_may_say_does_not_count_without_one() -> None:
    """It is echoed, for switches look for it; but it chooses no subnet and no server identifier."""
    info = RelayAgentInfo(
        sub_options=(
            (RelaySubOption.LINK_SELECTION, IPv4Address("192.0.2.0").packed),
            (RelaySubOption.SERVER_ID_OVERRIDE, IPv4Address("192.0.2.9").packed),
        )
    )
    items = (opt.RELAY_AGENT_INFO.item(info), opt.SUBNET_SELECTION.item(IPv4Address("192.0.2.0")))
    served = responder(node(MAC))
    outcome = reply(
        served.handle(message(MAC, kind(MessageType.DISCOVER), *items), broadcast(), now=NOW)
    )
    assert outcome.packet.yiaddr == FIXED
    assert outcome.packet.get(opt.SERVER_ID) == SERVER
    assert outcome.packet.get(opt.RELAY_AGENT_INFO) == info


FAR = NetworkSettings.model_validate(
    {"subnet": "10.78.0.0/24", "dhcp": "full", "pool": "10.78.0.100-10.78.0.199"}
    | {"router": "10.78.0.1", "lease_time": "2h"}
)
FAR_RELAY = IPv4Address("10.78.0.1")
FROM_FAR = Arrival(source=FAR_RELAY, source_port=67, destination=SERVER, port=67)


def test_a_subnet_behind_a_relay() -> None:
    served = responder(node(MAC, ip=None), remote=[FAR])
    discover = message(MAC, kind(MessageType.DISCOVER), giaddr=FAR_RELAY)
    offer = served.handle(discover, FROM_FAR, now=NOW)
    address = reply(offer).packet.yiaddr
    assert address in FAR.pool[0]
    assert reply(offer).untried is None  # its wire is out of reach
    assert described(offer) == one_line(
        f"""OFFER from 67 to 10.78.0.1:67 flags=0000 yiaddr={address} giaddr=10.78.0.1
        54 10.77.0.1 51 7200 58 3600 59 6300 1 255.255.255.0 3 10.78.0.1 12 n1 28 10.78.0.255"""
    )
    request = request_of(MAC, asks_for(address), chose(SERVER), giaddr=FAR_RELAY)
    assert reply(served.handle(request, FROM_FAR, now=NOW)).packet.yiaddr == address
    # It renews by itself, through its router: from its address to ours.
    renew = request_of(MAC, ciaddr=address)
    ack = reply(served.handle(renew, unicast(str(address)), now=NOW + 9))
    assert (ack.destination, ack.packet.yiaddr) == (address, address)
    release = message(MAC, kind(MessageType.RELEASE), chose(SERVER), ciaddr=address)
    outcome = served.handle(release, unicast(str(address)), now=NOW + 10)
    assert isinstance(outcome, Ignored)
    assert outcome.lease is not None
    # Moved to the wire of the server, it is refused its old address and gets one from here.
    moved = served.handle(request_of(MAC, asks_for(address)), broadcast(), now=NOW + 11)
    assert described(moved) == NAK.format(text=f"{address} is not an address of this network")


@pytest.mark.parametrize("near", ["full", "proxy", "off"])
@pytest.mark.parametrize("far", ["full", "proxy"])
def test_an_outcome_is_of_the_mode_of_the_clients_subnet(
    near: Literal["full", "proxy", "off"], far: Literal["full", "proxy"]
) -> None:
    behind = NetworkSettings.model_validate({"subnet": "10.78.0.0/24", "dhcp": far})
    served = responder(node(MAC), network=settings(near), remote=[behind])
    for kind_ in (MessageType.DISCOVER, MessageType.REQUEST):
        asked = message(MAC, kind(kind_))
        here = served.handle(asked, broadcast(), now=NOW)
        there = served.handle(replace(asked, giaddr=FAR_RELAY), FROM_FAR, now=NOW)
        assert (here.is_proxy, there.is_proxy) == (near == "proxy", far == "proxy")


def test_a_question_to_port_4011_is_of_the_mode_of_the_clients_subnet(capture: Capture) -> None:
    asked = capture("edk2_port4011_request")
    behind = NetworkSettings.model_validate({"subnet": "10.78.0.0/24", "dhcp": "proxy"})
    for table in ((), (node(mac_of(asked)),)):
        served = responder(*table, remote=[behind])
        for source, is_proxy in (("10.77.0.50", False), ("10.78.0.50", True)):
            outcome = served.handle(asked, unicast(source, 4011, port=4011), now=NOW)
            assert outcome.is_proxy is is_proxy


def test_one_client_has_a_lease_in_each_subnet() -> None:
    served = responder(node(MAC, ip=None), remote=[FAR])
    discover = message(MAC, kind(MessageType.DISCOVER))
    near = reply(served.handle(discover, broadcast(), now=NOW)).packet.yiaddr
    far = reply(served.handle(replace(discover, giaddr=FAR_RELAY), FROM_FAR, now=NOW)).packet.yiaddr
    assert (str(near)[:6], str(far)[:6]) == ("10.77.", "10.78.")


@pytest.mark.parametrize("style", ProxyStyle)
def test_proxydhcp_through_a_relay(capture: Capture, style: ProxyStyle) -> None:
    """The relay sends its clients' requests to two servers: theirs, and this one."""
    # A relay that wants renewals for itself (RFC 5107) gets none of a server without leases, and
    # who asks port 4011 asks us.
    info = RelayAgentInfo(sub_options=((RelaySubOption.SERVER_ID_OVERRIDE, FAR_RELAY.packed),))
    request = capture("dell_uefi_x64_pxe_discover")
    request = replace(
        request,
        giaddr=FAR_RELAY,
        options={**request.options, **dict([opt.RELAY_AGENT_INFO.item(info)])},
    )
    far = NetworkSettings.model_validate(
        {"subnet": "10.78.0.0/24", "dhcp": "proxy", "proxy_style": style}
    )
    served = responder(node(mac_of(request)), remote=[far])
    offer = reply(served.handle(request, FROM_FAR, now=NOW))
    assert (offer.destination, offer.port) == (FAR_RELAY, 67)
    assert (offer.packet.yiaddr, offer.packet.file) == (UNSPECIFIED, b"snponly.efi")
    assert offer.packet.get(opt.SERVER_ID) == SERVER
    is_direct = opt.VENDOR_ENCAPSULATED.code in offer.packet.options
    assert is_direct is (style is ProxyStyle.DIRECT)
    # From then on the client has an address, and a router leads its question here.
    asked = replace(capture("edk2_port4011_request"), chaddr=request.chaddr)
    ack = reply(served.handle(asked, unicast("10.78.0.50", 4011, port=4011), now=NOW))
    assert (str(ack.destination), ack.port, ack.is_from_pxe_port) == ("10.78.0.50", 4011, True)
    assert ack.packet.file == b"snponly.efi"


def test_port_4011_pays_no_heed_to_giaddr(capture: Capture) -> None:
    request = replace(capture("edk2_port4011_request"), giaddr=FAR_RELAY)
    served = responder(node(mac_of(request), ip=None), network=settings("proxy"))
    ack = reply(served.handle(request, unicast("10.77.0.50", 4011, port=4011), now=NOW))
    assert (str(ack.destination), ack.port) == ("10.77.0.50", 4011)


def test_port_4011_is_closed_where_dhcp_is_off(capture: Capture) -> None:
    request = capture("edk2_port4011_request")
    served = responder(node(mac_of(request)), network=settings("off", pool=()), remote=[FAR])
    outcome = served.handle(request, unicast("10.77.0.50", 4011, port=4011), now=NOW)
    assert ignored(outcome) == "10.77.0.50 is in no network that is served here"


def test_dhcp_off_answers_nobody_but_relays() -> None:
    served = responder(node(MAC, ip=None), network=settings("off", pool=()), remote=[FAR])
    discover = message(MAC, kind(MessageType.DISCOVER))
    assert ignored(served.handle(discover, broadcast(), now=NOW)) == "DHCP is off on this network"
    far = served.handle(replace(discover, giaddr=FAR_RELAY), FROM_FAR, now=NOW)
    assert reply(far).packet.yiaddr in FAR.pool[0]


def test_auto_that_stood_back_renews_its_leases_and_gives_no_new_ones() -> None:
    served = responder(unknown="address", network=settings("auto", pool=settings().pool))
    discover = message(MAC, kind(MessageType.DISCOVER))
    assert ignored(served.handle(discover, broadcast(), now=NOW)) == "it does not ask to boot"
    served.local.is_proxy = False
    address = reply(served.handle(discover, broadcast(), now=NOW)).packet.yiaddr
    served.local.is_proxy = True
    # What was on offer is still lent, and what was lent is renewed, released, or runs out.
    selecting = request_of(MAC, asks_for(address), chose(SERVER))
    assert reply(served.handle(selecting, broadcast(), now=NOW)).lease is not None
    renewal = message(MAC, kind(MessageType.REQUEST), ciaddr=address)
    renewed = reply(served.handle(renewal, unicast(str(address)), now=NOW + 1800))
    assert renewed.packet.message_type is MessageType.ACK
    assert ignored(served.handle(discover, broadcast(), now=NOW)) == "it does not ask to boot"
    # Never a NAK, and nothing to whom we lent nothing.
    for wrong in (
        request_of(MAC, asks_for("10.99.0.1")),
        request_of(MAC, asks_for(address), chose("10.77.0.5")),
        request_of(STRANGER, asks_for("10.77.0.150"), chose(SERVER)),
        message(STRANGER, kind(MessageType.REQUEST), ciaddr=address),
    ):
        assert isinstance(served.handle(wrong, broadcast(), now=NOW), Ignored)
    late = served.handle(renewal, unicast(str(address)), now=NOW + 10_000)
    assert ignored(late) == "the other DHCP server answers that"
    release = message(MAC, kind(MessageType.RELEASE), chose(SERVER), ciaddr=address)
    released = served.handle(release, unicast(str(address)), now=NOW + 1900)
    assert isinstance(released, Ignored)
    assert released.lease is not None
    again = served.handle(renewal, unicast(str(address)), now=NOW + 1901)
    assert ignored(again) == "the other DHCP server answers that"


def test_every_address_of_this_server_means_us() -> None:
    other = IPv4Address("172.29.3.1")
    served = responder(node(MAC, ip=None), own_addresses=[other])
    request = request_of(MAC, asks_for(DYNAMIC), chose(other))
    assert described(served.handle(request, broadcast(), now=NOW)) == by_mac(DYNAMIC)


def test_port_4011_answers_only_our_networks(capture: Capture) -> None:
    request = capture("edk2_port4011_request")
    served = responder(node(mac_of(request), ip=None))
    outcome = served.handle(request, unicast("192.0.2.50", 4011, port=4011), now=NOW)
    assert ignored(outcome) == "192.0.2.50 is in no network that is served here"


# Lease times


@pytest.mark.parametrize(
    ("asked", "given"), [(None, 3600), (1, 120), (900, 900), (3601, 3600), (0xFFFFFFFF, 3600)]
)
def test_a_client_may_ask_for_less_time(asked: int | None, given: int) -> None:
    items = [opt.LEASE_TIME.item(asked)] if asked is not None else []
    served = responder(node(MAC))
    offer = reply(
        served.handle(message(MAC, kind(MessageType.DISCOVER), *items), broadcast(), now=NOW)
    )
    times = [opt.LEASE_TIME, opt.RENEWAL_TIME, opt.REBINDING_TIME]
    assert [offer.packet.get(each) for each in times] == [given, given // 2, given * 7 // 8]
    ack = reply(
        served.handle(request_of(MAC, asks_for(FIXED), *items, chose(SERVER)), broadcast(), now=NOW)
    )
    assert ack.lease is not None
    assert ack.lease.expires_s == NOW + given


def test_firmware_does_not_renew_and_gets_ten_minutes(capture: Capture) -> None:
    request = capture("dell_uefi_x64_pxe_discover")
    served = responder(node(mac_of(request)), network=settings(lease_time=120))
    offer = reply(served.handle(request, broadcast(), now=NOW))
    assert offer.packet.get(opt.LEASE_TIME) == 600


def test_a_raspberry_pi_keeps_what_it_was_offered(capture: Capture) -> None:
    """The Pi 2 and 3 never send a REQUEST."""
    request = capture("raspberrypi_3_rom_discover")
    served = responder(node(mac_of(request), ip=None), node(OTHER, ip=None, name="n2"))
    address = reply(served.handle(request, broadcast(), now=NOW)).packet.yiaddr
    taken = request_of(OTHER, asks_for(address), chose(SERVER))
    refused = served.handle(taken, broadcast(), now=NOW + 599)
    assert described(refused) == NAK.format(text=f"{address} is on offer to another client")
    assert reply(served.handle(taken, broadcast(), now=NOW + 601)).lease is not None


# Probing


def test_an_address_that_was_never_lent_is_tried_first() -> None:
    served = responder(node(MAC, ip=None), node(OTHER, ip=FIXED, name="n2"))
    discover = message(MAC, kind(MessageType.DISCOVER))
    first = reply(served.handle(discover, broadcast(), now=NOW))
    assert first.untried == first.packet.yiaddr
    served.local.leases.found_free(first.packet.yiaddr)
    assert reply(served.handle(discover, broadcast(), now=NOW + 1)).untried is None
    # It lapses with the offer.
    assert reply(served.handle(discover, broadcast(), now=NOW + 100)).untried is not None
    request = request_of(MAC, asks_for(first.packet.yiaddr), chose(SERVER))
    assert isinstance(served.handle(request, broadcast(), now=NOW + 101), Reply)
    assert reply(served.handle(discover, broadcast(), now=NOW + 9999)).untried is None
    fixed = message(OTHER, kind(MessageType.DISCOVER))
    assert reply(served.handle(fixed, broadcast(), now=NOW)).untried is None


def test_probing_can_be_switched_off() -> None:
    served = responder(node(MAC, ip=None), network=settings(probe=False))
    discover = message(MAC, kind(MessageType.DISCOVER))
    assert reply(served.handle(discover, broadcast(), now=NOW)).untried is None


# DECLINE and RELEASE meant for another server


@pytest.mark.parametrize("message_type", [MessageType.DECLINE, MessageType.RELEASE])
def test_what_is_meant_for_another_server_changes_nothing(message_type: MessageType) -> None:
    served = bound()
    items = (kind(message_type), asks_for(DYNAMIC), chose("10.77.0.99"))
    outcome = served.handle(message(MAC, *items, ciaddr=DYNAMIC), broadcast(), now=NOW)
    assert isinstance(outcome, Ignored)
    assert outcome.lease is None
    assert outcome.reason.endswith("an address of 10.77.0.99")
    lease = served.local.leases.lookup(MAC)
    assert lease is not None
    assert lease.is_active(NOW)


def test_who_declines_everything_is_stopped() -> None:
    served = responder(node(MAC, ip=None))
    reasons = []
    for _ in range(9):
        offer = reply(served.handle(message(MAC, kind(MessageType.DISCOVER)), broadcast(), now=NOW))
        decline = kind(MessageType.DECLINE), asks_for(offer.packet.yiaddr), chose(SERVER)
        reasons.append(ignored(served.handle(message(MAC, *decline), broadcast(), now=NOW)))
    assert "which stays: it has declined 8 addresses: the fault is its own" in reasons[-1]
    assert "another machine" in reasons[-2]


# Options of people


def test_options_by_network_and_node() -> None:
    network = settings(options={42: b"\x0a\x4d\0\1", 15: b"net.example"})
    there = node(MAC, options={15: b"node.example", 12: b"other-name", 224: b"\1"})
    served = responder(there, node(OTHER, ip=None, name="n2"), network=network)
    told = reply(served.handle(message(MAC, kind(MessageType.DISCOVER)), broadcast(), now=NOW))
    options = told.packet.options
    assert (options[15], options[12], options[224]) == (b"node.example", b"other-name", b"\1")
    assert options[42] == b"\x0a\x4d\0\1"
    other = reply(served.handle(message(OTHER, kind(MessageType.DISCOVER)), broadcast(), now=NOW))
    assert (other.packet.options[15], other.packet.options[12]) == (b"net.example", b"n2")
    assert 224 not in other.packet.options


def test_options_for_boot_files_are_not_for_those_that_boot(capture: Capture) -> None:
    """A foreign option 43 beside PXEClient sends EDK2 to port 4011."""
    own = {43: b"\1\2", 60: b"UniFi", 66: b"10.9.9.9\0", 67: b"ztp.sh\0"}
    request = capture("dell_uefi_x64_pxe_discover")
    served = responder(node(mac_of(request)), network=settings(options=own))
    outcome = served.handle(request, broadcast(), now=NOW)
    assert described(outcome) == one_line(FULL_OFFERS["dell_uefi_x64_pxe_discover"])
    local = responder(node(mac_of(request), boot=Boot.LOCAL), network=settings(options=own))
    told = reply(local.handle(request, broadcast(), now=NOW)).packet.options
    assert own.keys().isdisjoint(told)
    system = responder(node(MAC), network=settings(options=own))
    told = reply(
        system.handle(message(MAC, kind(MessageType.DISCOVER)), broadcast(), now=NOW)
    ).packet.options
    assert {code: told[code] for code in own} == own


@pytest.mark.parametrize("mode", ["full", "proxy"])
def test_pxelinux_is_told_its_configuration(
    capture: Capture, mode: Literal["full", "proxy"]
) -> None:
    """RFC 5071, read from what the ROM was told: the boot file's offer, also by ProxyDHCP."""
    own = {
        208: bytes.fromhex("f100747e"),
        209: b"nodes/n1.cfg",
        210: b"http://10.77.0.1:8080/files/",
        211: b"\0\0\0\x1e",
        # Nothing that belongs beside an address has a place in an offer without one.
        42: SERVER.packed,
    }
    request = capture("asrock_bios_pxe_discover")
    there = node(mac_of(request), boot_file="lpxelinux.0", options=own)
    served = responder(there, network=settings(mode))
    told = reply(served.handle(request, broadcast(), now=NOW)).packet
    assert told.file == b"lpxelinux.0"
    assert {code: told.options.get(code) for code in (208, 209, 210, 211)} == {
        code: own[code] for code in (208, 209, 210, 211)
    }
    assert (42 in told.options) == (mode == "full")


# Clients that our boot file brings back as they were


STRIPPED = "ipxe_port4011_boot_item_request"
UNDIONLY = "tftp://10.77.0.1/undionly.kpxe"


def stripped(capture: Capture, xid: int, message_type: MessageType, *items: Any) -> Packet:
    """An iPXE that says nothing of what it can do, in its next conversation."""
    recorded = capture(STRIPPED)
    options = {**recorded.options, **dict([kind(message_type), *items])}
    return replace(recorded, xid=xid, ciaddr=UNSPECIFIED, options=options)


@pytest.mark.parametrize("mode", ["full", "proxy"])
@pytest.mark.parametrize("boot_file", [None, "tools/other.efi"])
def test_a_chain_load_in_circles_is_broken(
    capture: Capture, mode: Literal["full", "proxy"], boot_file: str | None
) -> None:
    """Our loader, or a node's boot file that is an iPXE and does not look like one."""
    mac = mac_of(capture(STRIPPED))
    served = responder(node(mac, boot_file=boot_file), network=settings(mode))
    told = boot_file or UNDIONLY

    def boots(xid: int, now: float) -> Reply | Ignored:
        offer = served.handle(stripped(capture, xid, MessageType.DISCOVER), broadcast(), now=now)
        items = asks_for(FIXED), chose(SERVER)
        request = stripped(capture, xid, MessageType.REQUEST, *items)
        ack = served.handle(request, broadcast(), now=now + 1)
        if mode == "full":
            assert reply(ack).packet.file == reply(offer).packet.file
        return offer

    for xid, now in ((1, NOW), (2, NOW + 10)):
        assert reply(boots(xid, now)).packet.file == told.encode()
    broken = boots(3, NOW + 20)
    assert broken.client is not None
    assert broken.client.is_circling
    if mode == "full":
        sent = reply(broken)
        assert (sent.packet.yiaddr, sent.packet.file) == (FIXED, b"")
        assert opt.BOOT_FILE.code not in sent.packet.options
        reason = sent.no_boot
    else:
        reason = ignored(broken)
    assert reason.startswith(f"it was sent {told} 2 times and each time came back as it was")
    assert "nodes.yaml" in reason
    # A minute later somebody may have mended it.
    assert reply(boots(4, NOW + 90)).packet.file == told.encode()


def test_an_ipxe_that_got_on_may_be_chained_again(capture: Capture) -> None:
    mac = mac_of(capture(STRIPPED))
    able = replace(capture("ipxe_2.0.0_bios_qemu_discover"), chaddr=mac + bytes(10))
    served = responder(node(mac))
    for xid in range(1, 9):
        asked = stripped(capture, xid, MessageType.DISCOVER)
        offer = reply(served.handle(asked, broadcast(), now=NOW + xid))
        assert offer.packet.file == UNDIONLY.encode()
        script = reply(served.handle(able, broadcast(), now=NOW + xid)).packet.file
        assert script.endswith(b".ipxe")


@pytest.mark.parametrize("boot_file", ["menu.ipxe", "pxelinux.0", "http://10.77.0.9/go.cfg"])
def test_what_is_no_ipxe_goes_in_no_circles(capture: Capture, boot_file: str) -> None:
    """A virtual machine that reboots every few seconds, from a script or another's program."""
    served = responder(node(mac_of(capture(STRIPPED)), boot_file=boot_file))
    for xid in range(5):
        asked = stripped(capture, xid, MessageType.DISCOVER)
        offer = reply(served.handle(asked, broadcast(), now=NOW + 5 * xid))
        assert offer.packet.file == boot_file.encode()


@pytest.mark.parametrize("mode", ["full", "proxy"])
def test_only_what_is_answered_counts_for_circles(
    capture: Capture, mode: Literal["full", "proxy"]
) -> None:
    mac = mac_of(capture(STRIPPED))
    served = responder(node(mac), network=settings(mode))

    def hear(xid: int, message_type: MessageType, arrival: Arrival, **fields: Any) -> None:
        asked = stripped(capture, xid, message_type, chose("10.77.0.99"))
        served.handle(replace(asked, **fields), arrival, now=NOW)

    for xid in range(0, 80, 10):
        hear(xid, MessageType.RELEASE, broadcast())
        hear(xid + 1, MessageType.REQUEST, broadcast())
        hear(xid + 2, MessageType.DISCOVER, broadcast(), giaddr=IPv4Address("192.0.2.1"))
        hear(xid + 3, MessageType.INFORM, broadcast())
        hear(xid + 4, MessageType.REQUEST, unicast(port=4011), ciaddr=FIXED)
        hear(xid + 5, MessageType.DISCOVER, unicast(port=4011))
    asked = stripped(capture, 99, MessageType.DISCOVER)
    assert reply(served.handle(asked, broadcast(), now=NOW)).packet.file == UNDIONLY.encode()


def test_a_question_on_port_4011_is_part_of_the_conversation(capture: Capture) -> None:
    """It has an xid of its own: two boots were counted as four."""
    mac = mac_of(capture(STRIPPED))
    served = responder(node(mac), network=settings("proxy"))
    for xid in (1, 2):
        asked = stripped(capture, xid, MessageType.DISCOVER)
        offer = reply(served.handle(asked, broadcast(), now=NOW + xid))
        assert offer.packet.file == UNDIONLY.encode()
        taken = stripped(capture, xid, MessageType.REQUEST, chose("10.77.0.99"))
        served.handle(taken, broadcast(), now=NOW + xid)
        item = replace(stripped(capture, 90 + xid, MessageType.REQUEST), ciaddr=FIXED)
        served.handle(item, unicast(port=4011), now=NOW + xid)


def test_why_there_is_no_boot_file(capture: Capture) -> None:
    request = capture("dell_uefi_x64_pxe_discover")
    local = responder(node(mac_of(request), boot=Boot.LOCAL))
    outcome = reply(local.handle(request, broadcast(), now=NOW))
    assert outcome.no_boot == "it boots from its local disk"
    system = responder(node(MAC)).handle(
        message(MAC, kind(MessageType.DISCOVER)), broadcast(), now=NOW
    )
    assert reply(system).no_boot == ""


def test_routes_hold_the_router_too() -> None:
    """RFC 3442: who is told routes does not look at option 3."""
    route = bytes((8, 10, 10, 77, 0, 9))
    for there, network in (
        (node(MAC, options={121: route}), settings()),
        (node(MAC), settings(options={121: route})),
    ):
        served = responder(there, network=network)
        told = reply(served.handle(message(MAC, kind(MessageType.DISCOVER)), broadcast(), now=NOW))
        assert told.packet.options[121] == route + bytes((0, 10, 77, 0, 1))

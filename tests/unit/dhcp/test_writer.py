"""Replies as they are written: what a template holds, and what is the client's own."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from bootnode.addresses import AddressRange, MacAddress
from bootnode.boot.client import classify
from bootnode.boot.plan import BootFile, NoBoot, Policy, Site
from bootnode.config import NetworkSettings
from bootnode.dhcp import options as opt
from bootnode.dhcp.leases import LeaseTable
from bootnode.dhcp.options import MessageType
from bootnode.dhcp.packet import BOOTREQUEST, Packet
from bootnode.dhcp.subnet import Subnet
from bootnode.dhcp.writer import REASON_MAX, ReplyWriter
from bootnode.nodes import Boot, Node, NodeTable

SERVER = IPv4Address("10.77.0.1")
ADDRESS = IPv4Address("10.77.0.9")
NETWORK = IPv4Network("10.77.0.0/24")
MACS = tuple(MacAddress(bytes((2, 0, 0, 0, 0, card))) for card in range(4))


def node(card: int, options: dict[int, bytes] | None = None) -> Node:
    return Node(
        name=f"n{card}",
        macs=(MACS[card],),
        addresses={},
        image=None,
        kernel_args=(),
        boot=Boot.NETWORK,
        boot_file=None,
        vars={},
        options=options or {},
    )


@pytest.fixture
def policy() -> Policy:
    return Policy(table=NodeTable((node(0), node(1), node(2))), loaders=frozenset())


@pytest.fixture
def writer(policy: Policy) -> ReplyWriter:
    return ReplyWriter(Site(address=SERVER, http_port=80), policy)


@pytest.fixture
def subnet() -> Subnet:
    settings = NetworkSettings(interface="tap0", dhcp="full", domain="example.net")
    pool = (AddressRange.parse("10.77.0.100-10.77.0.199"),)
    return Subnet(settings=settings, network=NETWORK, leases=LeaseTable(subnet=NETWORK, pool=pool))


def request(card: int, *more: tuple[int, bytes]) -> Packet:
    items = [opt.MESSAGE_TYPE.item(MessageType.DISCOVER), opt.VENDOR_CLASS.item("PXEClient"), *more]
    chaddr = bytes(MACS[card]).ljust(16, b"\0")
    return Packet(op=BOOTREQUEST, xid=card, chaddr=chaddr, options=dict(items))


def lend(
    writer: ReplyWriter, subnet: Subnet, asked: Packet, boot: BootFile | NoBoot | None = None
) -> Packet:
    assert asked.mac is not None
    client = classify(asked, asked.mac)
    boot = boot or BootFile(name="snponly.efi")
    packet = writer.lend(MessageType.OFFER, asked, client, subnet, ADDRESS, boot)
    return Packet.parse(packet.serialize())


def test_a_kind_of_clients_shares_a_template_and_each_keeps_its_own(
    writer: ReplyWriter, subnet: Subnet
) -> None:
    uuid = (opt.MACHINE_UUID.code, bytes(range(17)))
    first, second = lend(writer, subnet, request(0, uuid)), lend(writer, subnet, request(1))
    stranger = lend(writer, subnet, request(3, opt.CLIENT_ID.item(b"\1me")))
    assert [each.get(opt.HOST_NAME) for each in (first, second, stranger)] == ["n0", "n1", None]
    assert [each.options.get(97) for each in (first, second, stranger)] == [uuid[1], None, None]
    assert [each.get(opt.CLIENT_ID) for each in (first, second, stranger)] == [None, None, b"\1me"]
    own = {12, 61, 97}
    shared = [
        {code: raw for code, raw in each.options.items() if code not in own}
        for each in (first, second, stranger)
    ]
    assert shared[0] == shared[1] == shared[2]
    assert shared[0][opt.DOMAIN_NAME.code] == b"example.net"


def test_a_thousand_boot_files_are_one_template(writer: ReplyWriter, subnet: Subnet) -> None:
    names = [f"http://10.77.0.1/boot/{number}.ipxe" for number in range(50)]
    told = [lend(writer, subnet, request(0), BootFile(name=name)) for name in names]
    assert [each.get(opt.BOOT_FILE) for each in told] == names
    assert writer._template.cache_info().misses == 1


def test_a_reply_follows_the_table_and_the_decision(
    writer: ReplyWriter, policy: Policy, subnet: Subnet
) -> None:
    before = lend(writer, subnet, request(0))
    policy.table = NodeTable((node(0, {opt.DOMAIN_NAME.code: b"lab.net", 224: b"x"}),))
    after = lend(writer, subnet, request(0), BootFile(name="other.efi"))
    assert (before.get(opt.DOMAIN_NAME), after.get(opt.DOMAIN_NAME)) == ("example.net", "lab.net")
    assert (before.file, after.file) == (b"snponly.efi", b"other.efi")
    assert after.options[224] == b"x"
    local = lend(writer, subnet, request(0), NoBoot(reason="local"))
    assert (local.file, local.siaddr) == (b"", IPv4Address(0))
    assert not {43, 60, 66, 67, 97} & local.options.keys()


def test_a_host_name_set_for_all_is_not_the_nodes(
    writer: ReplyWriter, policy: Policy, subnet: Subnet
) -> None:
    policy.table = NodeTable((node(0, {opt.HOST_NAME.code: b"alias"}),))
    assert lend(writer, subnet, request(0)).get(opt.HOST_NAME) == "alias"


def test_the_reason_of_a_nak_is_bounded(writer: ReplyWriter) -> None:
    nak = writer.nak(request(0), "why " * 200)
    assert nak.is_broadcast
    assert set(nak.options) == {53, 54, 56}
    assert len(nak.options[56]) == REASON_MAX

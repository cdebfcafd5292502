"""Options: each constant read and written by one table, and the registry over all of them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootnode.dhcp import options as opt
from bootnode.dhcp.options import MessageType, Option
from bootnode.dhcp.values import RelayAgentInfo, Route
from bootnode.errors import PacketError

ONE = IPv4Address("10.77.0.1")
TWO = IPv4Address("10.77.0.2")

TABLE: list[tuple[Option[Any], Any, str]] = [
    (opt.SUBNET_MASK, IPv4Address("255.255.255.0"), "01 ffffff00"),
    (opt.ROUTERS, (ONE,), "03 0a4d0001"),
    (opt.DNS_SERVERS, (ONE, TWO), "06 0a4d00010a4d0002"),
    (opt.HOST_NAME, "node-000", "0c 6e6f64652d303030"),
    (opt.BOOT_FILE_SIZE, 1000, "0d 03e8"),
    (opt.DOMAIN_NAME, "lab", "0f 6c6162"),
    (opt.ROOT_PATH, "iscsi:x", "11 69736373693a78"),
    (opt.INTERFACE_MTU, 1500, "1a 05dc"),
    (opt.BROADCAST, IPv4Address("10.77.0.255"), "1c 0a4d00ff"),
    (opt.NTP_SERVERS, (ONE,), "2a 0a4d0001"),
    (opt.VENDOR_ENCAPSULATED, b"\x06\x01\x08\xff", "2b 060108ff"),
    (opt.REQUESTED_ADDRESS, ONE, "32 0a4d0001"),
    (opt.LEASE_TIME, 3600, "33 00000e10"),
    (opt.OVERLOAD, 3, "34 03"),
    (opt.MESSAGE_TYPE, MessageType.ACK, "35 05"),
    (opt.SERVER_ID, ONE, "36 0a4d0001"),
    (opt.PARAMETER_LIST, (1, 3, 67), "37 010343"),
    (opt.MESSAGE, "no", "38 6e6f"),
    (opt.MAX_MESSAGE_SIZE, 1472, "39 05c0"),
    (opt.RENEWAL_TIME, 1800, "3a 00000708"),
    (opt.REBINDING_TIME, 3150, "3b 00000c4e"),
    (opt.VENDOR_CLASS, "PXEClient", "3c 505845436c69656e74"),
    (opt.CLIENT_ID, b"\1\xfc\xab", "3d 01fcab"),
    (opt.TFTP_SERVER, "10.1.1.1", "42 31302e312e312e3100"),
    (opt.BOOT_FILE, "a.efi", "43 612e65666900"),
    (opt.USER_CLASS, (b"iPXE",), "4d 69505845"),
    (opt.RELAY_AGENT_INFO, RelayAgentInfo(sub_options=((1, b"p7"),)), "52 01027037"),
    (opt.ARCHITECTURES, (7, 16), "5d 00070010"),
    (opt.NIC_INTERFACE, b"\1\3\x10", "5e 010310"),
    (opt.MACHINE_UUID, bytes(17), "61 " + "00" * 17),
    (opt.SUBNET_SELECTION, ONE, "76 0a4d0001"),
    (opt.DOMAIN_SEARCH, ("a.lab",), "77 0161036c616200"),
    (
        opt.CLASSLESS_ROUTES,
        (Route(network=IPv4Network("10.0.0.0/8"), gateway=ONE),),
        "79 080a0a4d0001",
    ),
    (opt.VENDOR_IDENTIFYING_CLASS, b"\0\0\1\x57\1x", "7c 000001570178"),
    (opt.VENDOR_IDENTIFYING, b"\0\0\1\x57\0", "7d 0000015700"),
    (opt.TFTP_SERVERS_150, (ONE, TWO), "96 0a4d00010a4d0002"),
    (opt.IPXE_ENCAPSULATED, b"\xb0\1\1", "af b00101"),
    (opt.PXELINUX_MAGIC, opt.PXELINUX_MAGIC_VALUE, "d0 f100747e"),
    (opt.PXELINUX_CONFIG_FILE, "cfg", "d1 636667"),
    (opt.PXELINUX_PATH_PREFIX, "/p/", "d2 2f702f"),
    (opt.PXELINUX_REBOOT_TIME, 60, "d3 0000003c"),
]


@pytest.mark.parametrize(("option", "value", "wire"), TABLE, ids=lambda item: str(item)[:40])
def test_table_both_ways(option: Option[Any], value: Any, wire: str) -> None:
    code, raw = wire.split()
    assert option.item(value) == (int(code, 16), bytes.fromhex(raw))
    assert option.parse(bytes.fromhex(raw)) == value
    assert len(bytes.fromhex(raw)) in option.lengths


def test_table_has_every_option() -> None:
    assert {option.code for option, _, _ in TABLE} == set(opt.OPTIONS_BY_CODE)


def test_no_two_options_share_a_code_or_a_name() -> None:
    assert len(opt.OPTIONS) == len(opt.OPTIONS_BY_CODE) == len(opt.OPTIONS_BY_NAME)
    assert opt.OPTIONS_BY_NAME["domain-name-server"] is opt.DNS_SERVERS


@given(st.sampled_from(opt.OPTIONS), st.binary(min_size=1, max_size=300))
@settings(deadline=None)
def test_any_value_of_a_valid_length_reads(option: Option[Any], raw: bytes) -> None:
    if len(raw) not in option.lengths:
        return
    try:
        option.parse(raw)
    except PacketError:
        assert option in (opt.DOMAIN_SEARCH, opt.CLASSLESS_ROUTES)


def test_a_fixed_length_option_cannot_come_in_parts() -> None:
    assert opt.MESSAGE_TYPE.is_fixed_length
    assert not opt.MESSAGE.is_fixed_length


def test_unassigned_message_types_are_told_apart_from_none() -> None:
    assert opt.MESSAGE_TYPE.parse(b"\0") is MessageType.UNKNOWN
    assert opt.MESSAGE_TYPE.parse(b"\xff") is MessageType.UNKNOWN


def test_label_names_what_we_know() -> None:
    assert opt.label(1) == "option 1 (subnet-mask)"
    assert opt.label(224) == "option 224"


@pytest.mark.parametrize(
    ("area", "found", "overrun"),
    [
        ("", {}, None),
        ("ff 0101aa", {}, None),
        ("0000 0101aa 00 0201bb ff", {1: b"\xaa", 2: b"\xbb"}, None),
        ("0101aa 0101bb", {1: b"\xaa\xbb"}, None),
        ("0100", {1: b""}, None),
        ("0101aa 02", {1: b"\xaa"}, 2),
        ("0101aa 0202bb", {1: b"\xaa"}, 2),
    ],
)
def test_scan(area: str, found: dict[int, bytes], overrun: int | None) -> None:
    into: dict[int, bytes] = {}
    assert opt.scan(bytes.fromhex(area), into) == overrun
    assert into == found

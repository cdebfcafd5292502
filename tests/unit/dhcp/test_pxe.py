"""PXE and iPXE: the architecture table, options 43, 94, 97 and 175, from captures and by hand."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootnode.dhcp import options as opt
from bootnode.dhcp import pxe
from bootnode.dhcp.packet import Packet
from bootnode.dhcp.pxe import (
    Architecture,
    BootItem,
    Discovery,
    IpxeFeature,
    MenuItem,
    MenuPrompt,
    PxeOptions,
)

CAPTURES = Path(__file__).parents[2] / "captures"


def capture(name: str) -> Packet:
    lines = (CAPTURES / f"{name}.hex").read_text().splitlines()
    return Packet.parse(bytes.fromhex("".join(line for line in lines if line[0] != "#")))


HTTP = {15, 16, 17, 18, 19, 20, 23, 24, 26, 28, 30, 38, 40}
UEFI = {6, 7, 8, 9, 10, 11, *range(15, 20), *range(25, 31), *range(33, 41)}


@pytest.mark.parametrize("architecture", Architecture)
def test_architecture_kinds(architecture: Architecture) -> None:
    assert architecture.is_http == (architecture in HTTP)
    assert architecture.is_uefi == (architecture in UEFI)
    assert architecture.is_bios == (architecture in {0, 20})
    assert architecture.is_uboot == (architecture in {21, 22, 23, 24})
    assert not architecture.base.is_http


@pytest.mark.parametrize(
    ("number", "base"), [(0, 0), (7, 7), (9, 7), (16, 7), (17, 7), (19, 11), (20, 0), (24, 22)]
)
def test_http_and_ebc_boot_the_same_files(number: int, base: int) -> None:
    assert Architecture(number).base == base


@pytest.mark.parametrize(
    ("numbers", "known"),
    [((), None), ((999,), None), ((999, 7, 0), Architecture.X64_UEFI), ((0,), 0)],
)
def test_first_known_architecture(numbers: tuple[int, ...], known: Architecture | None) -> None:
    assert pxe.known_architecture(numbers) == known


PXE_TABLE = [
    (PxeOptions(), "ff"),
    (PxeOptions(discovery_control=Discovery.BOOT_FILE_ONLY), "060108 ff"),
    (
        PxeOptions(
            discovery_control=Discovery.NO_BROADCAST | Discovery.NO_MULTICAST,
            prompt=MenuPrompt(timeout_s=10, text="Boot"),
            menu=(
                MenuItem(server_type=0, text="disk"),
                MenuItem(server_type=0x8000, text="net"),
            ),
        ),
        "060103 0a050a426f6f74 090d 0000046469736b 8000036e6574 ff",
    ),
    (PxeOptions(boot_item=BootItem(server_type=0x8000, layer=1)), "470480000001 ff"),
]


@pytest.mark.parametrize(("options", "wire"), PXE_TABLE)
def test_option_43_both_ways(options: PxeOptions, wire: str) -> None:
    assert options.serialize() == bytes.fromhex(wire)
    assert PxeOptions.parse(bytes.fromhex(wire)) == options


def test_boot_this_file_is_four_bytes() -> None:
    assert bytes.fromhex("060108ff") == pxe.BOOT_THIS_FILE


def test_raspberry_pi_gets_what_dnsmasq_sends_it() -> None:
    recorded = capture("dnsmasq_proxy_offer_raspberrypi_4").options[opt.VENDOR_ENCAPSULATED.code]
    assert recorded == pxe.RASPBERRY_PI_MENU


def test_raspberry_pi_3_gets_three_blanks() -> None:
    assert pxe.RASPBERRY_PI_3_MENU.endswith(b"\x09\x17\0\0\x14Raspberry Pi Boot   \xff")


def test_recorded_menu_and_boot_item() -> None:
    offer = capture("pixiecore_proxy_offer_bios_menu").get(opt.VENDOR_ENCAPSULATED)
    assert offer is not None
    assert PxeOptions.parse(offer) == PxeOptions(
        discovery_control=3,
        prompt=MenuPrompt(timeout_s=0, text="Pixiecore"),
        menu=(MenuItem(server_type=0x8000, text="Pixiecore"),),
    )
    asked = capture("ipxe_port4011_boot_item_request").get(opt.VENDOR_ENCAPSULATED)
    assert asked is not None
    assert PxeOptions.parse(asked).boot_item == BootItem(server_type=0x8000, layer=0)


@pytest.mark.parametrize(
    "wire",
    [
        "dc034e4150",  # What a Windows DHCP server puts there.
        "0600 4702ffff 0a00",
        "0902 8000",
        "0905 8000ff6162",
        "06",
    ],
)
def test_malformed_sub_options_are_left_out(wire: str) -> None:
    assert PxeOptions.parse(bytes.fromhex(wire)) == PxeOptions()


def test_a_menu_too_long_to_send() -> None:
    menu = tuple(MenuItem(server_type=0, text="x" * 100) for _ in range(3))
    with pytest.raises(ValueError, match="sub-option 9 has 309 bytes"):
        PxeOptions(menu=menu).serialize()


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_reading_never_fails(raw: bytes) -> None:
    PxeOptions.parse(raw)
    pxe.ipxe_features(raw)
    pxe.ipxe_version(raw)
    pxe.machine_uuid(raw)


def test_ipxe_names_its_features() -> None:
    encapsulated = capture("ipxe_2.0.0_bios_qemu_discover").get(opt.IPXE_ENCAPSULATED)
    assert encapsulated is not None
    features = pxe.ipxe_features(encapsulated)
    assert features == {16, 17, 18, 19, 20, 21, 23, 24, 25, 33, 34, 38, 39, 41}
    assert IpxeFeature.HTTP in features
    assert IpxeFeature.EFI not in features
    assert pxe.ipxe_version(encapsulated) == "2.0.0"


def test_a_feature_of_value_zero_is_absent() -> None:
    assert pxe.ipxe_features(bytes.fromhex("130100 180101 b10401020304")) == {IpxeFeature.BZIMAGE}
    assert pxe.ipxe_version(b"") == ""


def test_option_175_in_replies() -> None:
    assert bytes.fromhex("b00101") == pxe.IPXE_NO_PXEDHCP
    assert bytes.fromhex("010101") == pxe.IPXE_PROXY_FIRST
    assert pxe.ipxe_options(priority=-1) == bytes.fromhex("0101ff b00101")


@pytest.mark.parametrize(
    ("raw", "uuid"),
    [
        ("00 44454c4c4c0010578039b7c04f535931", "4c4c4544-004c-5710-8039-b7c04f535931"),
        ("00 00000000000000000000000000000000", None),
        ("00 ffffffffffffffffffffffffffffffff", None),
        ("00 00020003000400050006000700080009", None),
        ("00 03000200040005000006000700080009", None),
        ("01 44454c4c4c0010578039b7c04f535931", None),
        ("00 44454c4c", None),
        ("", None),
    ],
)
def test_machine_uuid(raw: str, uuid: str | None) -> None:
    assert pxe.machine_uuid(bytes.fromhex(raw)) == (None if uuid is None else UUID(uuid))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("010310", "type 1 version 3.16 (EDK2)"),
        ("01030a", "type 1 version 3.10 (iPXE for UEFI)"),
        ("020909", "type 2 version 9.9"),
    ],
)
def test_nic_interface_in_words(raw: str, words: str) -> None:
    assert pxe.nic_interface(bytes.fromhex(raw)) == words


# Who these captures come from: xid, architectures, vendor class and client identifier.
HIGHLIGHTS = {
    "asrock_bios_pxe_discover": (0x9B4E0557, (0,), "PXEClient:Arch:00000:UNDI:002001", None),
    "edk2_x64_http_discover": (0x9D9FF879, (16,), "HTTPClient:Arch:00016:UNDI:003016", None),
    "arista_eos_ztp_discover": (0x796A827D, None, "Arista", "000044010000"),
    "ipxe_2.0.0_bios_qemu_discover": (
        *(0x39C5D66F, (0,), "PXEClient:Arch:00000:UNDI:002001", "01525400123456"),
    ),
}


@pytest.mark.parametrize("name", HIGHLIGHTS)
def test_identity_in_captures(name: str) -> None:
    packet = capture(name)
    client_id = packet.get(opt.CLIENT_ID)
    found = (
        packet.xid,
        packet.get(opt.ARCHITECTURES),
        packet.get(opt.VENDOR_CLASS),
        None if client_id is None else client_id.hex(),
    )
    assert found == HIGHLIGHTS[name]


def test_hyperv_counts_hops_without_a_relay() -> None:
    packet = capture("hyperv_gen1_bios_pxe_discover")
    assert packet.hops == 2
    assert packet.giaddr.is_unspecified

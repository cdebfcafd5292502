"""Telling clients apart, from recorded messages of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from bootnode.addresses import MacAddress
from bootnode.boot.client import Client, Speaker, classify
from bootnode.dhcp import options as opt
from bootnode.dhcp.packet import BOOTREQUEST, Packet
from bootnode.dhcp.pxe import Architecture, IpxeFeature

Capture = Callable[[str], Packet]
MAC = MacAddress.parse("52:54:00:12:34:56")

CAPTURED = {
    "asrock_bios_pxe_discover": (Speaker.FIRMWARE, Architecture.X86_BIOS),
    "hyperv_gen1_bios_pxe_discover": (Speaker.FIRMWARE, Architecture.X86_BIOS),
    "virtualbox_bios_pxe_discover": (Speaker.FIRMWARE, Architecture.X86_BIOS),
    "dell_uefi_x64_pxe_discover": (Speaker.FIRMWARE, Architecture.X64_UEFI),
    "ovmf_2022_x64_pxe_discover": (Speaker.FIRMWARE, Architecture.X64_UEFI),
    "ovmf_2022_x64_pxe_request": (Speaker.FIRMWARE, Architecture.X64_UEFI),
    "edk2_port4011_request": (Speaker.FIRMWARE, Architecture.X64_UEFI),
    "edk2_x64_http_discover": (Speaker.HTTP_BOOT, Architecture.X64_UEFI_HTTP),
    "ovmf_2022_x64_http_discover": (Speaker.HTTP_BOOT, Architecture.X64_UEFI_HTTP),
    "ipxe_1.0.0_uefi_x64_dell_discover": (Speaker.IPXE, Architecture.X64_UEFI),
    "ipxe_2.0.0_bios_qemu_discover": (Speaker.IPXE, Architecture.X86_BIOS),
    "ipxe_2019_bios_virtio_request": (Speaker.IPXE, Architecture.X86_BIOS),
    "ipxe_2019_uefi_x64_discover": (Speaker.IPXE, Architecture.X64_UEFI),
    "ipxe_port4011_boot_item_request": (Speaker.IPXE, Architecture.X86_BIOS),
    # They say that they are PC BIOSes.
    "raspberrypi_3_rom_discover": (Speaker.RASPBERRY_PI, Architecture.ARM_RPIBOOT),
    "raspberrypi_4_eeprom_discover": (Speaker.RASPBERRY_PI, Architecture.ARM_RPIBOOT),
    "raspberrypi_4_eeprom_request": (Speaker.RASPBERRY_PI, Architecture.ARM_RPIBOOT),
    "uboot_arm64_request": (Speaker.UBOOT, Architecture.ARM64_UBOOT),
    "uboot_riscv64_discover_without_arch": (Speaker.UBOOT, None),
    "arista_eos_ztp_discover": (Speaker.OS, None),
    "esp32_request": (Speaker.OS, None),
    "linux_request_relayed": (Speaker.OS, None),
    "windows_msft5_discover": (Speaker.OS, None),
    "windows_msft5_inform": (Speaker.OS, None),
}


def classified(packet: Packet) -> Client:
    return classify(packet, packet.mac or MAC)


def client_of(*items: tuple[int, bytes]) -> Client:
    return classified(Packet(op=BOOTREQUEST, xid=1, chaddr=MAC + bytes(10), options=dict(items)))


@pytest.mark.parametrize("name", CAPTURED)
def test_captures(capture: Capture, name: str) -> None:
    packet = capture(name)
    client = classified(packet)
    assert (client.speaker, client.architecture) == CAPTURED[name]
    assert client.mac == packet.mac
    assert client.boots == (client.speaker is not Speaker.OS)
    assert client.vendor_class == (packet.get(opt.VENDOR_CLASS) or "")
    assert client.is_uefi == (client.architecture in (7, 16))


@pytest.mark.parametrize(
    ("name", "can"),
    [
        ("ipxe_1.0.0_uefi_x64_dell_discover", True),
        ("ipxe_2.0.0_bios_qemu_discover", True),
        ("ipxe_2019_bios_virtio_discover", True),
        ("ipxe_2019_uefi_x64_discover", True),
        ("ipxe_port4011_boot_item_request", False),
        ("asrock_bios_pxe_discover", False),
    ],
)
def test_which_ipxe_runs_our_scripts(capture: Capture, name: str, can: bool) -> None:
    assert classified(capture(name)).can_run_our_scripts is can


def encapsulated(*features: IpxeFeature) -> tuple[int, bytes]:
    raw = b"".join(bytes((feature, 1, 1)) for feature in features)
    return opt.IPXE_ENCAPSULATED.item(raw)


BIOS = opt.ARCHITECTURES.item((0,))
UEFI = opt.ARCHITECTURES.item((7,))


@pytest.mark.parametrize(
    ("items", "is_uefi", "can"),
    [
        # VirtualBox's ROM holds an iPXE that cannot start Linux.
        ([BIOS, encapsulated(IpxeFeature.HTTP)], False, False),
        ([BIOS, encapsulated(IpxeFeature.BZIMAGE)], False, False),
        ([BIOS, encapsulated(IpxeFeature.HTTP, IpxeFeature.BZIMAGE)], False, True),
        ([UEFI, encapsulated(IpxeFeature.HTTP, IpxeFeature.BZIMAGE)], True, False),
        ([encapsulated(IpxeFeature.HTTP, IpxeFeature.EFI)], True, True),
        ([encapsulated()], False, False),
    ],
)
def test_features_of_ipxe(items: list[tuple[int, bytes]], is_uefi: bool, can: bool) -> None:
    client = client_of(*items)
    assert client.speaker is Speaker.IPXE
    assert (client.is_uefi, client.can_run_our_scripts) == (is_uefi, can)


VENDOR_PXE = opt.VENDOR_CLASS.item("PXEClient:Arch:00007:UNDI:003016")
VENDOR_HTTP = opt.VENDOR_CLASS.item("HTTPClient:Arch:00016:UNDI:003016")


@pytest.mark.parametrize(
    ("items", "speaker", "architecture"),
    [
        # The number in option 60 does not count: U-Boot writes it in hexadecimal.
        ([VENDOR_PXE], Speaker.FIRMWARE, Architecture.X86_BIOS),
        ([VENDOR_PXE, opt.ARCHITECTURES.item((9,))], Speaker.FIRMWARE, Architecture.EBC),
        ([VENDOR_PXE, opt.ARCHITECTURES.item((999, 6))], Speaker.FIRMWARE, Architecture.X86_UEFI),
        ([VENDOR_PXE, opt.ARCHITECTURES.item((999,))], Speaker.FIRMWARE, None),
        ([VENDOR_HTTP], Speaker.HTTP_BOOT, None),
        ([opt.ARCHITECTURES.item((16,))], Speaker.HTTP_BOOT, Architecture.X64_UEFI_HTTP),
        ([VENDOR_PXE, opt.ARCHITECTURES.item((16,))], Speaker.HTTP_BOOT, 16),
        ([opt.VENDOR_CLASS.item("U-Boot"), opt.ARCHITECTURES.item((24,))], Speaker.HTTP_BOOT, 24),
        ([opt.VENDOR_CLASS.item("U-Boot")], Speaker.UBOOT, None),
        ([opt.ARCHITECTURES.item((21,))], Speaker.UBOOT, Architecture.ARM32_UBOOT),
        # U-Boot that plays UEFI is UEFI.
        ([VENDOR_PXE, opt.ARCHITECTURES.item((27,))], Speaker.FIRMWARE, Architecture.RISCV64_UEFI),
        ([opt.VENDOR_CLASS.item("pxeclient")], Speaker.OS, None),
        ([opt.VENDOR_CLASS.item("AAPLBSDPC/i386/iMac4,1")], Speaker.OS, None),
        ([], Speaker.OS, None),
        # FlexBoot sends option 175 and no user class, some forks the other way round.
        ([VENDOR_PXE, UEFI, encapsulated()], Speaker.IPXE, Architecture.X64_UEFI),
        ([VENDOR_PXE, UEFI, opt.USER_CLASS.item((b"iPXE",))], Speaker.IPXE, 7),
        ([VENDOR_PXE, UEFI, (opt.USER_CLASS.code, b"\4iPXE")], Speaker.IPXE, 7),
        ([VENDOR_PXE, UEFI, opt.USER_CLASS.item((b"gPXE",))], Speaker.FIRMWARE, 7),
        ([VENDOR_HTTP, encapsulated()], Speaker.IPXE, None),
    ],
)
def test_speaker_and_architecture(
    items: list[tuple[int, bytes]], speaker: Speaker, architecture: Architecture | None
) -> None:
    client = client_of(*items)
    assert (client.speaker, client.architecture) == (speaker, architecture)


def test_only_firmware_of_a_raspberry_pi_is_told_by_its_card(capture: Capture) -> None:
    pi = MacAddress.parse("dc:a6:32:ec:fc:3c")
    for name in ("ipxe_2019_uefi_x64_discover", "windows_msft5_discover"):
        packet = replace(capture(name), chaddr=pi + bytes(10))
        assert classified(packet).architecture is not Architecture.ARM_RPIBOOT
    uefi = replace(capture("ovmf_2022_x64_pxe_discover"), chaddr=pi + bytes(10))
    arm = replace(uefi, options={**uefi.options, **dict([opt.ARCHITECTURES.item((11,))])})
    assert classified(arm).speaker is Speaker.FIRMWARE


def test_a_raspberry_pi_is_told_by_its_identifier_too(capture: Capture) -> None:
    """Of a card whose first half we don't know; and only the ROM of the 2 and 3 has the bug."""
    new = capture("raspberrypi_4_eeprom_discover")
    new = replace(new, chaddr=MAC + bytes(10))
    assert classified(new).speaker is Speaker.RASPBERRY_PI
    assert not classified(new).has_length_bug
    assert classified(capture("raspberrypi_3_rom_discover")).has_length_bug


@pytest.mark.parametrize(
    ("name", "joins"),
    [
        ("dell_uefi_x64_pxe_discover", True),
        ("edk2_x64_http_discover", True),
        ("ipxe_2.0.0_bios_qemu_discover", True),
        ("raspberrypi_3_rom_discover", True),
        ("uboot_arm64_request", False),
        ("uboot_2023_arm64_uefi_discover", False),
        ("windows_msft5_discover", False),
    ],
)
def test_who_makes_one_offer_of_two(capture: Capture, name: str, joins: bool) -> None:
    assert classified(capture(name)).joins_offers is joins


def test_uboot_over_http_makes_no_one_offer_of_two() -> None:
    client = client_of(opt.VENDOR_CLASS.item("U-Boot"), opt.ARCHITECTURES.item((24,)))
    assert (client.speaker, client.joins_offers) == (Speaker.HTTP_BOOT, False)


def test_hostile_text_stays_text() -> None:
    client = client_of((opt.VENDOR_CLASS.code, b"PXEClient\n\xff\x1b[2J\0"))
    assert client.vendor_class == "PXEClient\n\xff\x1b[2J"
    assert client.speaker is Speaker.FIRMWARE

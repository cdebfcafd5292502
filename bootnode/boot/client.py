"""What is asking: the firmware, loader or operating system behind a DHCP message.

One machine speaks with several voices during a boot: its PXE ROM or UEFI, then iPXE, then Linux,
each with options of its own but one hardware address. `classify` reads from the options which
voice this is; whom it belongs to is the node table's business.

Sources: RFC 4578 (PXE options), RFC 3004 (user class), the iPXE option space (175).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final, TypeAlias

from bootnode.addresses import MacAddress
from bootnode.dhcp import options, pxe
from bootnode.dhcp.packet import Packet
from bootnode.dhcp.pxe import Architecture

RASPBERRY_PI_OUIS = frozenset(
    bytes.fromhex(oui) for oui in ("28cdc1", "2ccf67", "b827eb", "d83add", "dca632", "e45f01")
)
"""The first half of the MAC addresses of Raspberry Pis."""
RASPBERRY_PI_UUID = b"RPi"
"""How option 97 begins behind its type byte, from a Raspberry Pi 4 or later."""

UBOOT: Final = "U-Boot"
"""Start of option 60 from U-Boot, unless it plays UEFI: `U-Boot.armv8`, `U-Boot`."""

VOICES_MAX: Final = 1024
"""Combinations of options that are remembered with what they mean; a site has some dozens."""


class Speaker(Enum):
    """Which program on the machine sent this message."""

    FIRMWARE = "firmware"
    """A PXE ROM or UEFI's PXE client: it loads a boot file by TFTP."""
    HTTP_BOOT = "http boot"
    """UEFI HTTP Boot: it loads a boot file from a URL."""
    RASPBERRY_PI = "raspberry pi"
    """The boot ROM or EEPROM of a Raspberry Pi: it loads files of its own choice by TFTP."""
    UBOOT = "u-boot"
    """U-Boot as itself: it loads the file it is told by TFTP, and knows no ProxyDHCP."""
    IPXE = "ipxe"
    """iPXE, in the ROM or loaded by firmware: it runs a boot script."""
    OS = "os"
    """Anything that only wants an address: our init, an installed system, a switch."""


@dataclass(slots=True, kw_only=True)  # not frozen: see Packet
class Client:
    """One voice of one machine."""

    mac: MacAddress
    speaker: Speaker
    architecture: Architecture | None
    """The first architecture of option 93 that we know; None for an operating system."""
    features: frozenset[int]
    """iPXE's feature tags (option 175); empty for everyone else."""
    vendor_class: str
    """Option 60 as text, for the log."""
    is_circling: bool = False
    """Whether what it was told to boot brought it back as it was, again and again."""
    is_uboot: bool = False
    """Whether this is U-Boot, also where it says that it is UEFI."""
    has_length_bug: bool = False
    """Whether this is the ROM of a Raspberry Pi 2 or 3, which wants blanks behind its menu text."""

    @property
    def boots(self) -> bool:
        """Whether this voice wants something to boot."""
        return self.speaker is not Speaker.OS

    @property
    def joins_offers(self) -> bool:
        """Whether it makes one offer of two, an address and, from a ProxyDHCP server, a file.

        To all others an offer without an address is a broken one, and U-Boot pays no heed to it.
        """
        return self.boots and not self.is_uboot

    @property
    def is_uefi(self) -> bool:
        """Whether the machine runs UEFI rather than a PC BIOS."""
        if self.speaker is Speaker.IPXE and pxe.IpxeFeature.EFI in self.features:
            return True
        return self.architecture is not None and self.architecture.is_uefi

    @property
    def knows_port_4011(self) -> bool:
        """Whether this voice, sent to port 4011, asks there: PXE ROMs and UEFI's PXE client.

        HTTP Boot has no such step. iPXE could, but boots by any offer that names a file, and a
        U-Boot or a Raspberry Pi by nothing else.
        """
        architecture = self.architecture
        return (
            self.speaker is Speaker.FIRMWARE
            and architecture is not None
            and (architecture.is_uefi or architecture.is_bios)
        )

    @property
    def can_run_our_scripts(self) -> bool:
        """Whether this iPXE can fetch by HTTP and start a Linux kernel.

        Some ROMs hold an iPXE stripped of one or the other (VirtualBox lacks bzImage).
        """
        needed = pxe.IpxeFeature.EFI if self.is_uefi else pxe.IpxeFeature.BZIMAGE
        return {pxe.IpxeFeature.HTTP, needed} <= self.features


def classify(packet: Packet, mac: MacAddress) -> Client:
    """Tell from a DHCP request which voice is speaking; never raises."""
    raw = packet.options
    speaker, architecture, features, vendor_class = _voice(
        raw.get(options.VENDOR_CLASS.code),
        raw.get(options.ARCHITECTURES.code),
        raw.get(options.USER_CLASS.code),
        raw.get(options.IPXE_ENCAPSULATED.code),
    )
    has_length_bug = False
    if speaker is Speaker.FIRMWARE and architecture in _SAID_BY_RASPBERRY_PIS:
        uuid = raw.get(options.MACHINE_UUID.code, b"")
        says_so = uuid[1:].startswith(RASPBERRY_PI_UUID)
        if says_so or mac[:3] in RASPBERRY_PI_OUIS:
            speaker, architecture = Speaker.RASPBERRY_PI, Architecture.ARM_RPIBOOT
            has_length_bug = not says_so
    return Client(
        mac=mac,
        speaker=speaker,
        architecture=architecture,
        features=features,
        vendor_class=vendor_class,
        is_uboot=(
            speaker is Speaker.UBOOT
            or (architecture is not None and architecture.is_uboot)
            or raw.get(options.NIC_INTERFACE.code) == _UBOOT_NIC
        ),
        has_length_bug=has_length_bug,
    )


_UBOOT_NIC = b"\1\0\0"
"""Option 94 from U-Boot: an UNDI of version 0.0, which nobody has."""


_SAID_BY_RASPBERRY_PIS = frozenset({None, Architecture.X86_BIOS, Architecture.ARM_RPIBOOT})
"""Even the Pi 5 says that it is a PC BIOS. UEFI on a Pi says what it is, and is no boot ROM."""


_Voice: TypeAlias = tuple[Speaker, Architecture | None, frozenset[int], str]


@lru_cache(maxsize=VOICES_MAX)
def _voice(
    raw_class: bytes | None,
    raw_architectures: bytes | None,
    raw_user_class: bytes | None,
    raw_ipxe: bytes | None,
) -> _Voice:
    """What the options say without the MAC: the same for a whole rack of one model."""
    vendor_class = options.VENDOR_CLASS.parse(raw_class) if raw_class is not None else ""
    # Never option 60's number: U-Boot prints it in hexadecimal.
    numbers = None
    if raw_architectures is not None:
        numbers = options.ARCHITECTURES.parse(raw_architectures)
    architecture = pxe.known_architecture(numbers or ())
    features = pxe.ipxe_features(raw_ipxe) if raw_ipxe else frozenset[int]()
    user_classes = options.USER_CLASS.parse(raw_user_class) if raw_user_class is not None else ()
    # Mellanox FlexBoot sends option 175 but no user class; a few forks the other way round.
    if raw_ipxe is not None or pxe.IPXE_USER_CLASS in user_classes:
        speaker = Speaker.IPXE
    elif vendor_class.startswith(pxe.HTTP_CLIENT) or (
        architecture is not None and architecture.is_http
    ):
        speaker = Speaker.HTTP_BOOT
    elif vendor_class.startswith(pxe.PXE_CLIENT):
        speaker = Speaker.FIRMWARE
    elif vendor_class.startswith(UBOOT) or (architecture is not None and architecture.is_uboot):
        speaker = Speaker.UBOOT
    else:
        speaker = Speaker.OS
    if vendor_class.startswith(pxe.PXE_CLIENT) and numbers is None:
        # Old ROMs leave option 93 out; all of them are PC BIOSes.
        architecture = Architecture.X86_BIOS
    return speaker, architecture, features, vendor_class

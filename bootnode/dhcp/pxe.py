"""What PXE, UEFI and iPXE clients say beyond plain DHCP: architecture, UUID, options 43 and 175.

RFC 4578 and the IANA registry (architectures, machine identifier), the PXE 2.1 specification
(option 43 for a PXEClient), the iPXE option space (175). Rules:

- `PxeOptions` holds only what we send or answer; other sub-options are skipped when read.
- Reading is total: what is malformed is left out, as a ROM's odd option 43 must not cost its boot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self
from uuid import UUID

from bootnode.dhcp.options import END, VALUE_SIZE_MAX, scan

PXE_CLIENT: Final = "PXEClient"
"""Start of option 60 from a PXE ROM, and the whole of it in a reply to one."""
HTTP_CLIENT: Final = "HTTPClient"
"""The same for UEFI HTTP Boot."""
IPXE_USER_CLASS: Final = b"iPXE"


class Architecture(IntEnum):
    """Option 93: the processor and firmware that a boot file must suit (IANA registry).

    RFC 4578 itself has 7 and 9 the wrong way round; x64 firmware sends 7, a few machines 9.
    """

    X86_BIOS = 0
    NEC_PC98 = 1
    ITANIUM = 2
    DEC_ALPHA = 3
    ARC_X86 = 4
    INTEL_LEAN = 5
    X86_UEFI = 6
    X64_UEFI = 7
    XSCALE_UEFI = 8
    EBC = 9
    ARM32_UEFI = 10
    ARM64_UEFI = 11
    POWER_OPEN_FIRMWARE = 12
    POWER_EPAPR = 13
    POWER_OPAL = 14
    X86_UEFI_HTTP = 15
    X64_UEFI_HTTP = 16
    EBC_HTTP = 17
    ARM32_UEFI_HTTP = 18
    ARM64_UEFI_HTTP = 19
    X86_BIOS_HTTP = 20
    ARM32_UBOOT = 21
    ARM64_UBOOT = 22
    ARM32_UBOOT_HTTP = 23
    ARM64_UBOOT_HTTP = 24
    RISCV32_UEFI = 25
    RISCV32_UEFI_HTTP = 26
    RISCV64_UEFI = 27
    RISCV64_UEFI_HTTP = 28
    RISCV128_UEFI = 29
    RISCV128_UEFI_HTTP = 30
    S390_BASIC = 31
    S390_EXTENDED = 32
    MIPS32_UEFI = 33
    MIPS64_UEFI = 34
    SUNWAY32_UEFI = 35
    SUNWAY64_UEFI = 36
    LOONGARCH32_UEFI = 37
    LOONGARCH32_UEFI_HTTP = 38
    LOONGARCH64_UEFI = 39
    LOONGARCH64_UEFI_HTTP = 40
    ARM_RPIBOOT = 41

    @property
    def is_http(self) -> bool:
        """Whether this client loads its boot file from a URL."""
        return self.name.endswith("_HTTP")

    @property
    def is_uefi(self) -> bool:
        """Whether this firmware runs EFI programs."""
        return "_UEFI" in self.name or self.base is Architecture.X64_UEFI

    @property
    def is_bios(self) -> bool:
        """Whether this is a PC BIOS, which runs a raw network bootstrap program."""
        return self.base is Architecture.X86_BIOS

    @property
    def is_uboot(self) -> bool:
        """Whether this is U-Boot outside of its EFI mode."""
        return "_UBOOT" in self.name

    @property
    def base(self) -> Architecture:
        """The architecture whose boot files suit: HTTP folded away, and EBC meaning x64."""
        return _BASES[self]


def _base(architecture: Architecture) -> Architecture:
    base = Architecture[architecture.name.removesuffix("_HTTP")]
    return Architecture.X64_UEFI if base is Architecture.EBC else base


_BASES = {architecture: _base(architecture) for architecture in Architecture}


def known_architecture(numbers: Iterable[int]) -> Architecture | None:
    """The first of option 93's numbers that the registry has."""
    return next((Architecture(n) for n in numbers if n in _ARCHITECTURE_NUMBERS), None)


_ARCHITECTURE_NUMBERS = frozenset(Architecture)


def _sub_options(raw: bytes) -> dict[int, bytes]:
    """The options inside an option; one that runs past the end is left out."""
    found: dict[int, bytes] = {}
    scan(raw, found)
    return found


def _sub_option(tag: int, value: bytes) -> bytes:
    if len(value) > VALUE_SIZE_MAX:
        raise ValueError(f"sub-option {tag} has {len(value)} bytes (want at most {VALUE_SIZE_MAX})")
    return bytes((tag, len(value))) + value


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("latin-1")


def _uint16(raw: bytes) -> int:
    return int.from_bytes(raw, "big")


class _Tag(IntEnum):
    """Sub-options of option 43 in the PXE 2.1 specification."""

    DISCOVERY_CONTROL = 6
    BOOT_MENU = 9
    MENU_PROMPT = 10
    BOOT_ITEM = 71


class Discovery(IntEnum):
    """Bits of the discovery control. With SERVER_LIST_ONLY alone Intel ROMs stop with PXE-E77."""

    NO_BROADCAST = 1
    NO_MULTICAST = 2
    SERVER_LIST_ONLY = 4
    BOOT_FILE_ONLY = 8
    """Search no boot server: load the file that this very offer names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MenuItem:
    """A line of the boot menu. Server type 0 is the local disk."""

    server_type: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MenuPrompt:
    """What stands above the menu."""

    timeout_s: int
    """0 takes the first item at once, 255 waits for ever."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BootItem:
    """The menu item that a client asks port 4011 for."""

    server_type: int
    layer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PxeOptions:
    """Option 43 between a PXEClient and its servers."""

    discovery_control: int | None = None
    """Bits of `Discovery`."""
    prompt: MenuPrompt | None = None
    menu: tuple[MenuItem, ...] = ()
    boot_item: BootItem | None = None

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read what is well formed of a value of VENDOR_ENCAPSULATED."""
        found = _sub_options(raw)
        control = found.get(_Tag.DISCOVERY_CONTROL, b"")
        prompt = found.get(_Tag.MENU_PROMPT, b"")
        item = found.get(_Tag.BOOT_ITEM, b"")
        return cls(
            discovery_control=control[0] if len(control) == 1 else None,
            prompt=MenuPrompt(timeout_s=prompt[0], text=_text(prompt[1:])) if prompt else None,
            menu=_parse_menu(found.get(_Tag.BOOT_MENU, b"")),
            boot_item=(
                BootItem(server_type=_uint16(item[:2]), layer=_uint16(item[2:]))
                if len(item) == 4
                else None
            ),
        )

    def serialize(self) -> bytes:
        """Write a value for VENDOR_ENCAPSULATED.

        Raises:
            ValueError: the menu does not fit.
        """
        parts = []
        if self.discovery_control is not None:
            parts.append(_sub_option(_Tag.DISCOVERY_CONTROL, bytes((self.discovery_control,))))
        if self.prompt is not None:
            prompt = bytes((self.prompt.timeout_s,)) + self.prompt.text.encode("latin-1")
            parts.append(_sub_option(_Tag.MENU_PROMPT, prompt))
        if self.menu:
            parts.append(_sub_option(_Tag.BOOT_MENU, b"".join(map(_serialize_item, self.menu))))
        if self.boot_item is not None:
            item = self.boot_item.server_type.to_bytes(2, "big")
            parts.append(
                _sub_option(_Tag.BOOT_ITEM, item + self.boot_item.layer.to_bytes(2, "big"))
            )
        return b"".join(parts) + bytes((END,))


BOOT_THIS_FILE: Final = PxeOptions(discovery_control=Discovery.BOOT_FILE_ONLY).serialize()
"""The value of option 43 that sends a PXE client straight to the boot file beside it.

Without it EDK2 takes option 60 = PXEClient to mean: ask port 4011, whatever the offer names.
"""


def _parse_menu(raw: bytes) -> tuple[MenuItem, ...]:
    items, at = [], 0
    while at + 3 <= len(raw) and at + 3 + raw[at + 2] <= len(raw):
        text_at = at + 3
        end = text_at + raw[text_at - 1]
        items.append(MenuItem(server_type=_uint16(raw[at : at + 2]), text=_text(raw[text_at:end])))
        at = end
    return tuple(items)


def _serialize_item(item: MenuItem) -> bytes:
    text = item.text.encode("latin-1")
    return item.server_type.to_bytes(2, "big") + bytes((len(text),)) + text


def _raspberry_pi_menu(text: str) -> bytes:
    return PxeOptions(
        discovery_control=Discovery.NO_BROADCAST | Discovery.NO_MULTICAST,
        prompt=MenuPrompt(timeout_s=0, text="PXE"),
        menu=(MenuItem(server_type=0, text=text),),
    ).serialize()


RASPBERRY_PI_MENU: Final = _raspberry_pi_menu("Raspberry Pi Boot")
"""The value of option 43 without which a Raspberry Pi ignores the offer."""
RASPBERRY_PI_3_MENU: Final = _raspberry_pi_menu("Raspberry Pi Boot   ")
"""The same for the ROM of the Pi 2 and 3, whose length bug costs the text its last three bytes."""


class IpxeFeature(IntEnum):
    """Sub-options of option 175 by which iPXE says what it was built with; more may come."""

    PXE_EXTENSIONS = 16
    ISCSI = 17
    AOE = 18
    HTTP = 19
    HTTPS = 20
    TFTP = 21
    FTP = 22
    DNS = 23
    BZIMAGE = 24
    MULTIBOOT = 25
    SLAM = 26
    SRP = 27
    NBI = 32
    PXE = 33
    ELF = 34
    COMBOOT = 35
    EFI = 36
    FCOE = 37
    VLAN = 38
    MENU = 39
    SDI = 40
    NFS = 41


class _IpxeTag(IntEnum):
    """Sub-options of option 175 that are settings."""

    PRIORITY = 1
    NO_PXEDHCP = 176
    VERSION = 235


_FEATURE_TAGS = range(16, 80)


def ipxe_features(encapsulated: bytes) -> frozenset[int]:
    """The feature tags in a value of IPXE_ENCAPSULATED, unknown ones included."""
    found = _sub_options(encapsulated)
    return frozenset(tag for tag, value in found.items() if tag in _FEATURE_TAGS and any(value))


def ipxe_version(encapsulated: bytes) -> str:
    """`1.21.1`, or nothing when iPXE does not say. For the log only."""
    return ".".join(map(str, _sub_options(encapsulated).get(_IpxeTag.VERSION, b"")))


def ipxe_options(*, no_pxedhcp: bool = True, priority: int | None = None) -> bytes:
    """A value for IPXE_ENCAPSULATED in a reply.

    `no_pxedhcp` spares iPXE two seconds of waiting for a ProxyDHCP server. `priority` (-128 to
    127) above 0 makes a ProxyDHCP offer win over the boot file of the real DHCP server.
    """
    parts = []
    if priority is not None:
        parts.append(_sub_option(_IpxeTag.PRIORITY, priority.to_bytes(1, "big", signed=True)))
    if no_pxedhcp:
        parts.append(_sub_option(_IpxeTag.NO_PXEDHCP, b"\1"))
    return b"".join(parts)


IPXE_NO_PXEDHCP: Final = ipxe_options()
"""The value of option 175 for a reply from the only boot server there is."""
IPXE_PROXY_FIRST: Final = ipxe_options(no_pxedhcp=False, priority=1)
"""The value of option 175 for a ProxyDHCP offer."""

_UUID_PLACEHOLDERS = frozenset(
    bytes.fromhex(text)
    for text in (
        "00000000000000000000000000000000",
        "ffffffffffffffffffffffffffffffff",
        # American Megatrends' sample UUID, which boards are shipped with, in both byte orders.
        "00020003000400050006000700080009",
        "03000200040005000006000700080009",
    )
)


def machine_uuid(raw: bytes) -> UUID | None:
    """The UUID in a value of MACHINE_UUID, read as SMBIOS 2.6 and iPXE order its bytes.

    None when it is no UUID or one that many machines share. Older firmware orders the bytes of
    the first three fields the other way: `UUID(bytes=uuid.bytes_le)` is that reading. A UUID is
    no identity on its own: identical boards may have identical ones.
    """
    if len(raw) != 17 or raw[0] or raw[1:] in _UUID_PLACEHOLDERS:
        return None
    return UUID(bytes_le=raw[1:])


_UNDI_SPEAKERS = {
    (1, 2, 1): "BIOS UNDI 2.1",
    (1, 3, 10): "iPXE for UEFI",
    (1, 3, 16): "EDK2",
    (1, 0, 0): "U-Boot",
}


def nic_interface(raw: bytes) -> str:
    """A value of NIC_INTERFACE in words. For the log: it tells iPXE from firmware."""
    kind, major, minor = raw
    known = _UNDI_SPEAKERS.get((kind, major, minor))
    return f"type {kind} version {major}.{minor}" + (f" ({known})" if known else "")

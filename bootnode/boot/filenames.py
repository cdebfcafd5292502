"""The file names that firmware and loaders make up by themselves when they ask TFTP.

A Raspberry Pi puts its serial number or its MAC before each name, and asks for many files that need
not exist; so do pxelinux, GRUB, shim and iPXE. Sources: Raspberry Pi's documentation of its boot
EEPROM (TFTP_PREFIX), syslinux, GRUB's `grub_net_search_config_file`, shim, iPXE (autoexec.ipxe).
"""

from __future__ import annotations

import re

_PI_PREFIX = re.compile(r"(?:[0-9a-f]{8}|(?:[0-9a-f]{2}-){5}[0-9a-f]{2})/(.+)", re.IGNORECASE)
_PI_NEEDS = re.compile(r"(?:.*/)?(?:bootcode\.bin|start\w*\.elf)", re.IGNORECASE)
"""A Pi 2 or 3 goes no further without the one, none without the other: start.elf, start4.elf."""
_USUAL_MISSES = re.compile(
    r"(?:.*/)?(?:"
    r"pxelinux\.cfg/(?!default$).*"  # ends with `default`, whose lack is worth knowing
    r"|grub\.cfg-.*|[\w-]+-efi/\w+\.lst"
    r"|revocations\w*\.efi|shim_certificate\w*\.efi"
    r"|autoexec\.ipxe|bootsig\.bin)",
    re.IGNORECASE,
)


def places(name: str, *, node: str | None, is_raspberry_pi: bool) -> tuple[str, ...]:
    """Where a file that a client asks for may lie, the best place first.

    For a Raspberry Pi: the very path it names, then the folder of its node, then the top; `node`
    is the node's name, if it is known who asks.
    """
    asked = _normal(name)
    prefixed = _PI_PREFIX.fullmatch(asked)
    if prefixed is None and not is_raspberry_pi:
        return (name,)
    rest = prefixed[1] if prefixed is not None else asked
    own = (f"{node}/{rest}",) if node is not None else ()
    return (asked, *own, rest) if prefixed is not None else (*own, rest)


def is_usual_miss(name: str, *, is_raspberry_pi: bool) -> bool:
    """Whether clients ask for this file as a matter of course and do without it."""
    asked = _normal(name)
    if is_raspberry_pi or _PI_PREFIX.fullmatch(asked):
        return _PI_NEEDS.fullmatch(asked) is None
    return _USUAL_MISSES.fullmatch(asked) is not None


def _normal(name: str) -> str:
    return name.replace("\\", "/").lstrip("/")

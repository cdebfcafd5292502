"""File names that firmware makes up: where they lie, and which nobody misses."""

from __future__ import annotations

import pytest

from bootnode.boot.filenames import is_usual_miss, places


@pytest.mark.parametrize(
    ("name", "node", "is_pi", "expected"),
    [
        ("snponly.efi", "n1", False, ["snponly.efi"]),
        (r"\Boot\BCD", None, False, [r"\Boot\BCD"]),
        # A Raspberry Pi 4: its serial number, or its MAC with TFTP_PREFIX=2.
        ("9b65d4bd/start4.elf", "pi", True, ["9b65d4bd/start4.elf", "pi/start4.elf", "start4.elf"]),
        (
            "DC-A6-32-EC-FC-3C/overlays/vc4.dtbo",
            "pi",
            True,
            ["DC-A6-32-EC-FC-3C/overlays/vc4.dtbo", "pi/overlays/vc4.dtbo", "overlays/vc4.dtbo"],
        ),
        # Nobody knows yet whose address that is.
        ("9b65d4bd/start4.elf", None, False, ["9b65d4bd/start4.elf", "start4.elf"]),
        # A Pi 3 asks without a prefix first; so does a Pi that found no start file behind one.
        ("bootcode.bin", "pi", True, ["pi/bootcode.bin", "bootcode.bin"]),
        ("/config.txt", None, True, ["config.txt"]),
        # Too long, too short, or nothing behind it.
        ("9b65d4bd1/start4.elf", "n1", False, ["9b65d4bd1/start4.elf"]),
        ("9b65d4b/start4.elf", "n1", False, ["9b65d4b/start4.elf"]),
        ("9b65d4bd/", "n1", False, ["9b65d4bd/"]),
        # Whatever stands behind the prefix is judged like any name, where the file is opened.
        ("9b65d4bd/../x", "pi", True, ["9b65d4bd/../x", "pi/../x", "../x"]),
    ],
)
def test_places(name: str, node: str | None, is_pi: bool, expected: list[str]) -> None:
    assert list(places(name, node=node, is_raspberry_pi=is_pi)) == expected


@pytest.mark.parametrize(
    ("name", "is_pi", "is_usual"),
    [
        ("snponly.efi", False, False),
        ("autoexec.ipxe", False, True),
        ("boot/autoexec.ipxe", False, True),
        ("pxelinux.cfg/01-52-54-00-12-34-56", False, True),
        ("arch/pxelinux.cfg/0A4D0", False, True),
        ("pxelinux.cfg/default", False, False),
        ("/grub/grub.cfg-01-52-54-00-12-34-56", False, True),
        ("/grub/grub.cfg", False, False),
        ("/grub/x86_64-efi/command.lst", False, True),
        ("revocations_sbat.efi", False, True),
        ("shim_certificate_0.efi", False, True),
        ("grubx64.efi", False, False),
        # A Pi reads what it finds; without these it reads nothing.
        ("9b65d4bd/recovery.elf", False, True),
        ("9b65d4bd/start4.elf", False, False),
        ("start.elf", True, False),
        ("bootcode.bin", True, False),
        ("bootsig.bin", True, True),
        ("config.txt", True, True),
    ],
)
def test_usual_misses(name: str, is_pi: bool, is_usual: bool) -> None:
    assert is_usual_miss(name, is_raspberry_pi=is_pi) is is_usual

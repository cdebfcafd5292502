"""What tests of several modules share."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from bootnode.dhcp.packet import Packet

CAPTURES = Path(__file__).parent / "captures"


@pytest.fixture
def capture() -> Callable[[str], Packet]:
    """Reads a recorded DHCP message by the name of its file in tests/captures."""

    def read(name: str) -> Packet:
        lines = (CAPTURES / f"{name}.hex").read_text().splitlines()
        return Packet.parse(bytes.fromhex("".join(line for line in lines if line[0] != "#")))

    return read


def make_stub(
    *,
    machine: int = 0x8664,
    sections: int = 2,
    alignment: int = 0x200,
    headers: int = 0x400,
    optional: int = 240,
    symbols: bytes = b"symbols",
) -> bytes:
    """A PE program laid out as systemd's stub for x64 is; each section holds its number."""
    raw_bytes, pe_at = 0x200, 0x80
    dos = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", pe_at)
    end = headers + sections * raw_bytes
    coff = struct.pack("<HHIIIHH", machine, sections, 0, end, 1, optional, 0x22E)
    fields = bytearray(optional)
    struct.pack_into("<HBBIII", fields, 0, 0x20B, 2, 39, raw_bytes, (sections - 1) * raw_bytes, 0)
    struct.pack_into("<IIQII", fields, 16, 0x4000, 0x4000, 0, alignment, 0x200)
    image = 0x4000 + sections * 0x1000
    struct.pack_into("<IIIHH", fields, 56, image, headers, 0x1234, 10, 0)
    struct.pack_into("<I", fields, 108, (optional - 112) // 8)
    table = b"".join(
        struct.pack(
            *("<8sIIIIIIHHI", f".s{index}".encode(), 0x180, 0x4000 + index * 0x1000),
            *(raw_bytes, headers + index * raw_bytes, 0, 0, 0, 0, 0x60000020),
        )
        for index in range(sections)
    )
    head = (dos.ljust(pe_at, b"\0") + b"PE\0\0" + coff + bytes(fields) + table).ljust(
        headers, b"\0"
    )
    return head + b"".join(bytes([index + 1]) * raw_bytes for index in range(sections)) + symbols


@pytest.fixture
def stub() -> Callable[..., bytes]:
    """Makes UEFI stubs: see `make_stub`."""
    return make_stub

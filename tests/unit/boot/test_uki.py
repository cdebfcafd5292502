"""Unified kernel images: what is put together is what other readers of PE files find."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pefile
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bootnode.boot.uki import (
    COMMAND_LINE_MAX,
    STUB_MAX,
    Part,
    StoredFile,
    Stub,
    assemble,
)
from bootnode.errors import ImageError

MakeStub = Callable[..., bytes]

DEBIAN_STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
KERNEL = StoredFile(name="vmlinuz", size_bytes=5001)
RAMDISKS = (
    StoredFile(name="initrd.img", size_bytes=333),
    StoredFile(name="root.cpio", size_bytes=1000),
)
CONTENT = {"vmlinuz": b"k", "initrd.img": b"i", "root.cpio": b"r"}


def assembled(
    stub: bytes, command_line: str = "a=1 b", ramdisks: Sequence[StoredFile] = RAMDISKS
) -> tuple[Part, ...]:
    return assemble(
        Stub.parse(stub),
        command_line=command_line,
        kernel=KERNEL,
        ramdisks=ramdisks,
        release="6.1.0-test",
        title="failsafe 0123",
    )


def as_bytes(parts: Sequence[Part]) -> bytes:
    return b"".join(
        CONTENT[part.name] * part.size_bytes if isinstance(part, StoredFile) else part
        for part in parts
    )


def sections_of(data: bytes) -> dict[str, bytes]:
    """The sections as firmware puts them into memory, read by pefile."""
    program = pefile.PE(data=data)
    return {
        section.Name.rstrip(b"\0").decode(): section.get_data()[: section.Misc_VirtualSize]
        for section in program.sections
    }


X64 = {"sections": 8}
ARM64 = {"machine": 0xAA64, "sections": 2, "alignment": 0x1000, "headers": 0x1000, "optional": 160}


@pytest.mark.parametrize("shape", [X64, ARM64, {"alignment": 0x10000}], ids=["x64", "arm64", "64K"])
def test_pefile_finds_what_was_put_in(stub: MakeStub, shape: dict[str, int]) -> None:
    raw = stub(**shape)
    data = as_bytes(assembled(raw))
    sections = sections_of(data)
    added = dict(list(sections.items())[-5:])
    assert added == {
        ".osrel": b'ID=bootnode\nPRETTY_NAME="failsafe 0123"\n',
        ".cmdline": b"a=1 b",
        ".uname": b"6.1.0-test",
        ".linux": b"k" * 5001,
        # The second ramdisk begins at a multiple of 4.
        ".initrd": b"i" * 333 + bytes(3) + b"r" * 1000,
    }
    assert {name: sections[name] for name in sections if name not in added} == sections_of(raw)
    check_layout(raw, data)


def check_layout(raw: bytes, data: bytes) -> None:
    """The rules of PE that loaders rely on, and that nothing of the stub was moved."""
    before, after = pefile.PE(data=raw), pefile.PE(data=data)
    # Its statistics of bytes aside: our kernel is 5001 times the same one.
    new_warnings = {*after.get_warnings()} - {*before.get_warnings()}
    assert [warning for warning in new_warnings if "makes up" not in warning] == []
    optional = after.OPTIONAL_HEADER
    alignment = max(optional.SectionAlignment, 0x1000)
    own, added = after.sections[:-5], after.sections[-5:]
    for section in added:
        assert section.VirtualAddress % alignment == 0
        assert section.PointerToRawData % optional.FileAlignment == 0
        assert section.SizeOfRawData % optional.FileAlignment == 0
        assert section.SizeOfRawData >= section.Misc_VirtualSize
    ends = [s.VirtualAddress + s.Misc_VirtualSize for s in after.sections]
    assert all(s.VirtualAddress >= end for s, end in zip(after.sections[1:], ends, strict=False))
    assert optional.SizeOfImage == -(-ends[-1] // alignment) * alignment
    grown = optional.SizeOfInitializedData - before.OPTIONAL_HEADER.SizeOfInitializedData
    assert grown == sum(section.SizeOfRawData for section in added)
    assert (after.FILE_HEADER.PointerToSymbolTable, after.FILE_HEADER.NumberOfSymbols) == (0, 0)
    assert optional.CheckSum == 0
    assert after.get_overlay_data_start_offset() is None
    assert [s.PointerToRawData for s in own] == [s.PointerToRawData for s in before.sections]


@pytest.mark.skipif(not DEBIAN_STUB.exists(), reason="needs the package systemd-boot-efi")
def test_debians_own_stub() -> None:
    raw = DEBIAN_STUB.read_bytes()
    data = as_bytes(assembled(raw))
    assert sections_of(data)[".cmdline"] == b"a=1 b"
    check_layout(raw, data)


def test_only_the_head_differs_from_node_to_node(stub: MakeStub) -> None:
    one, other = (assembled(stub(), line) for line in ("short", "x" * COMMAND_LINE_MAX))
    assert isinstance(one[0], bytes)
    assert one[0] != other[0]
    assert one[1:] == other[1:]
    assert len(as_bytes(one)) == len(as_bytes(other))
    assert [part.name for part in one if isinstance(part, StoredFile)] == [*CONTENT]


def test_an_image_without_a_ramdisk(stub: MakeStub) -> None:
    assert sections_of(as_bytes(assembled(stub(), ramdisks=())))[".initrd"] == b""


def test_a_command_line_that_the_kernel_would_cut_off(stub: MakeStub) -> None:
    with pytest.raises(ImageError, match=r"has 2048 bytes \(want at most 2047\): shorten"):
        assembled(stub(), "x" * (COMMAND_LINE_MAX + 1))


def test_a_header_without_room(stub: MakeStub) -> None:
    with pytest.raises(ImageError, match="no room for more sections"):
        assembled(stub(sections=11))


def changed(raw: bytes, at: int, *values: int) -> bytes:
    return raw[:at] + struct.pack(f"<{len(values)}I", *values) + raw[at + 4 * len(values) :]


OPTIONAL_AT = 0x80 + 24


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _: b"", "it is cut short"),
        (lambda raw: raw[:300], "it is cut short"),
        (lambda raw: b"ELF" + raw[3:], "it is no PE program"),
        (lambda raw: changed(raw, 0x3C, 0x40), "it is no PE program"),
        (lambda raw: changed(raw, 0x3C, 1 << 30), "it is no PE program"),
        (lambda raw: changed(raw, OPTIONAL_AT, 0x10B), "it is no 64-bit PE program"),
        (lambda raw: raw[:-100], "its sections are damaged"),
        (lambda raw: changed(raw, OPTIONAL_AT + 32, 0, 0x200), "its sections are damaged"),
        (lambda raw: changed(raw, OPTIONAL_AT + 32, 0x1000, 3), "its sections are damaged"),
        (lambda raw: raw + bytes(STUB_MAX), "it has "),
    ],
)
def test_what_is_no_stub(stub: MakeStub, change: Callable[[bytes], bytes], reason: str) -> None:
    with pytest.raises(ImageError, match=f"not a UEFI stub: {reason}"):
        Stub.parse(change(stub()))


def test_a_stub_whose_sections_are_empty(stub: MakeStub) -> None:
    raw = bytearray(stub())
    raw[0x188 : 0x188 + 2 * 40] = bytes(2 * 40)
    with pytest.raises(ImageError, match="no room for more sections"):
        assembled(bytes(raw))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_found_or_does_no_harm(stub: MakeStub, data: st.DataObject) -> None:
    raw = bytearray(stub())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, 0x400))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    try:
        assembled(bytes(raw[:cut] if data.draw(st.booleans()) else raw))
    except ImageError:
        return

"""Unified kernel images: systemd's UEFI stub with command line, kernel and ramdisks behind it.

A PE/COFF program (Microsoft's PE format, UEFI 2.10 section 2.1.1) to which sections are added, as
the UAPI group's specification of unified kernel images names them. UEFI starts it without any boot
loader; the stub hands the rest to the kernel.

What differs from node to node, the headers and the command line, comes first and is small. Kernel
and ramdisks follow as whole files, so that they can be sent as they lie on disk. The size of the
whole depends on the image only: the command line has a slot of its own, always as long.

Limits: a command line of COMMAND_LINE_MAX bytes, of which x86 and arm64 kernels read no more; a
stub of STUB_MAX bytes, with room for our sections in its header.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bootnode.errors import ImageError

COMMAND_LINE_MAX = 2047
STUB_MAX = 1 << 20
_SLOT_BYTES = 4096
"""What the command line takes in the file, however long it is."""
_PAGE_BYTES = 4096
_RAMDISK_ALIGNMENT = 4
"""The kernel looks for the next of several ramdisks at multiples of this."""

_DOS_MAGIC, _PE_MAGIC, _PE32_PLUS = b"MZ", b"PE\0\0", 0x20B
_PE_AT = 0x3C
_COFF = struct.Struct("<HHIIIHH")  # machine, sections, time, symbols at, symbols, optional, flags
_SECTION = struct.Struct("<8sIIIIIIHHI")
_READABLE_DATA = 0x40000040
# In the optional header, the same for PE32+ of every machine.
_INITIALIZED_AT, _SECTION_ALIGNMENT_AT, _FILE_ALIGNMENT_AT = 8, 32, 36
_IMAGE_AT, _HEADERS_AT, _CHECKSUM_AT = 56, 60, 64
_OPTIONAL_MIN = 112


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file of the image, in the place where its bytes go."""

    name: str
    size_bytes: int


Part = bytes | StoredFile
"""A run of bytes in a unified kernel image: made for the node, or a file as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    name: bytes
    size_bytes: int
    """In memory."""
    address: int
    raw_bytes: int
    """In the file."""
    raw_at: int
    flags: int = _READABLE_DATA

    def serialize(self) -> bytes:
        place = (self.size_bytes, self.address, self.raw_bytes, self.raw_at)
        return _SECTION.pack(self.name, *place, 0, 0, 0, 0, self.flags)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stub:
    """A UEFI stub as its package has it, ready to take sections."""

    raw: bytes
    """Its headers and sections; without a symbol table behind them."""
    coff_at: int
    sections_at: int
    sections: tuple[_Section, ...]
    section_alignment: int
    file_alignment: int
    headers_bytes: int

    @property
    def alignment(self) -> int:
        """Of a new section in memory.

        Debian's stub for x64 aligns to 512; firmware that protects memory does so by pages.
        """
        return max(self.section_alignment, _PAGE_BYTES)

    @classmethod
    def parse(cls, raw: bytes) -> Stub:
        """Read a stub.

        Raises:
            ImageError: it is no PE32+ program, or is cut short.
        """
        try:
            return _parse(raw)
        except struct.error:
            raise _no_stub("it is cut short") from None


def _no_stub(why: str) -> ImageError:
    return ImageError(f"not a UEFI stub: {why} (want linux*.efi.stub of systemd-boot-efi)")


def _parse(raw: bytes) -> Stub:
    if len(raw) > STUB_MAX:
        raise _no_stub(f"it has {len(raw)} bytes")
    (pe_at,) = struct.unpack_from("<I", raw, _PE_AT)
    if raw[:2] != _DOS_MAGIC or raw[pe_at : pe_at + 4] != _PE_MAGIC:
        raise _no_stub("it is no PE program")
    coff_at = pe_at + len(_PE_MAGIC)
    optional_at = coff_at + _COFF.size
    _, count, _, _, _, optional_bytes, _ = _COFF.unpack_from(raw, coff_at)
    (magic,) = struct.unpack_from("<H", raw, optional_at)
    if magic != _PE32_PLUS or optional_bytes < _OPTIONAL_MIN:
        raise _no_stub("it is no 64-bit PE program")
    section_alignment, file_alignment = struct.unpack_from(
        "<II", raw, optional_at + _SECTION_ALIGNMENT_AT
    )
    (headers_bytes,) = struct.unpack_from("<I", raw, optional_at + _HEADERS_AT)
    sections_at = optional_at + optional_bytes
    sections = tuple(
        _parse_section(raw, sections_at + index * _SECTION.size) for index in range(count)
    )
    end = max((s.raw_at + s.raw_bytes for s in sections), default=0)
    if not sections or end > len(raw) or not _is_power_of_two(section_alignment, file_alignment):
        raise _no_stub("its sections are damaged")
    return Stub(
        raw=raw[:end],
        coff_at=coff_at,
        sections_at=sections_at,
        sections=sections,
        section_alignment=section_alignment,
        file_alignment=file_alignment,
        headers_bytes=headers_bytes,
    )


def _parse_section(raw: bytes, at: int) -> _Section:
    name, size, address, raw_bytes, raw_at, _, _, _, _, flags = _SECTION.unpack_from(raw, at)
    return _Section(
        name=name,
        size_bytes=size,
        address=address,
        raw_bytes=raw_bytes,
        raw_at=raw_at,
        flags=flags,
    )


def _is_power_of_two(*numbers: int) -> bool:
    return all(number > 0 and number & (number - 1) == 0 for number in numbers)


def _aligned(number: int, alignment: int) -> int:
    return -(-number // alignment) * alignment


def assemble(
    stub: Stub,
    *,
    command_line: str,
    kernel: StoredFile,
    ramdisks: Sequence[StoredFile],
    release: str,
    title: str,
) -> tuple[Part, ...]:
    """The parts of a unified kernel image, in their order; the first is the node's own.

    `release` is the kernel's, as `uname -r` says it, and `title` is shown by tools that look at it.

    Raises:
        ImageError: the command line is too long, or the stub has no room for more sections.
    """
    text = command_line.encode()
    if len(text) > COMMAND_LINE_MAX:
        raise ImageError(
            f"the kernel command line has {len(text)} bytes (want at most {COMMAND_LINE_MAX}): "
            "shorten `kernel_args` of the node or its image"
        )
    os_release = f'ID=bootnode\nPRETTY_NAME="{title}"\n'.encode()
    together, initrd_bytes = _ramdisk_parts(ramdisks)
    contents: list[tuple[bytes, int, int, Sequence[Part]]] = [
        # Name, bytes in memory, least bytes in the file, what they are.
        (b".osrel", len(os_release), 0, (os_release,)),
        (b".cmdline", len(text), _SLOT_BYTES, (text,)),
        (b".uname", len(release), 0, (release.encode(),)),
        (b".linux", kernel.size_bytes, 0, (kernel,)),
        (b".initrd", initrd_bytes, 0, together),
    ]
    sections = list(_place(stub, [(name, size, least) for name, size, least, _ in contents]))
    head = _headers(stub, sections) + bytes(_aligned_end(stub) - len(stub.raw))
    parts: list[Part] = [head]
    for section, (_, size, _, what) in zip(sections, contents, strict=True):
        parts += [*what, bytes(section.raw_bytes - size)]
    return tuple(_joined(parts))


def _aligned_end(stub: Stub) -> int:
    return _aligned(len(stub.raw), stub.file_alignment)


def _ramdisk_parts(ramdisks: Sequence[StoredFile]) -> tuple[list[Part], int]:
    """Ramdisks one behind the other, and the bytes that they take."""
    parts: list[Part] = []
    size = 0
    for ramdisk in ramdisks:
        gap = bytes(_aligned(size, _RAMDISK_ALIGNMENT) - size)
        parts += [gap, ramdisk]
        size += len(gap) + ramdisk.size_bytes
    return parts, size


def _place(stub: Stub, contents: Sequence[tuple[bytes, int, int]]) -> Iterator[_Section]:
    """Where each new section lies in memory and in the file: behind all that are there."""
    address = max(s.address + s.size_bytes for s in stub.sections)
    raw_at = _aligned_end(stub)
    for name, size, least in contents:
        address = _aligned(address, stub.alignment)
        raw_bytes = _aligned(max(size, least), stub.file_alignment)
        yield _Section(
            name=name, size_bytes=size, address=address, raw_bytes=raw_bytes, raw_at=raw_at
        )
        address += size
        raw_at += raw_bytes


def _headers(stub: Stub, added: Sequence[_Section]) -> bytes:
    """The stub with headers that know of the new sections."""
    table_end = stub.sections_at + (len(stub.sections) + len(added)) * _SECTION.size
    first_raw = min((s.raw_at for s in stub.sections if s.raw_bytes), default=0)
    if table_end > min(stub.headers_bytes, first_raw):
        raise _no_stub("its header has no room for more sections")
    raw = bytearray(stub.raw)
    machine, count, time, _, _, optional_bytes, flags = _COFF.unpack_from(raw, stub.coff_at)
    # The symbols stood behind the sections, where ours are now.
    coff = (machine, count + len(added), time, 0, 0, optional_bytes, flags)
    _COFF.pack_into(raw, stub.coff_at, *coff)
    optional_at = stub.coff_at + _COFF.size
    (initialized,) = struct.unpack_from("<I", raw, optional_at + _INITIALIZED_AT)
    last = added[-1]
    for at, value in (
        (_INITIALIZED_AT, initialized + sum(s.raw_bytes for s in added)),
        (_IMAGE_AT, _aligned(last.address + last.size_bytes, stub.alignment)),
        (_CHECKSUM_AT, 0),  # UEFI does not look at it
    ):
        struct.pack_into("<I", raw, optional_at + at, value)
    table_at = stub.sections_at + len(stub.sections) * _SECTION.size
    raw[table_at:table_end] = b"".join(section.serialize() for section in added)
    return bytes(raw)


def _joined(parts: Sequence[Part]) -> Iterator[Part]:
    """The same with bytes that follow one another made one part."""
    held = b""
    for part in parts:
        if isinstance(part, StoredFile):
            yield from [held] if held else []
            held = b""
            yield part
        else:
            held += part
    if held:
        yield held

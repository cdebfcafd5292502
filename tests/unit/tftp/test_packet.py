"""The TFTP codec: one table used both ways, what real clients send, and anything at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootnode.errors import PacketError
from bootnode.tftp.packet import (
    MAX_REQUEST,
    Ack,
    Data,
    Error,
    ErrorCode,
    OptionAck,
    Options,
    Packet,
    ReadRequest,
    WriteRequest,
    ack_block,
    parse,
    serialize_data,
)

CAPTURES = Path(__file__).parents[2] / "captures" / "tftp"


def rrq(filename: str, *options: tuple[str, str], mode: str = "octet") -> ReadRequest:
    return ReadRequest(filename=filename, mode=mode, options=options)


def parse_or_refuse(data: bytes) -> Packet | None:
    try:
        return parse(data)
    except PacketError:
        return None


CASES: list[tuple[bytes, Packet]] = [
    (b"\0\1file1\0octet\0", rrq("file1")),
    (b"\0\1text\0netascii\0", rrq("text", mode="netascii")),
    (b"\0\1f\0octet\0blksize\0001428\0tsize\0000\0", rrq("f", ("blksize", "1428"), ("tsize", "0"))),
    (b"\0\1\0octet\0", rrq("")),
    (b"\0\1\\Boot\\BCD\0octet\0", rrq("\\Boot\\BCD")),
    (b"\0\1g\xc3\xbcn\xff\0octet\0", rrq("gün\udcff")),
    (b"\0\2new\0octet\0", WriteRequest(filename="new", mode="octet")),
    (
        b"\0\2new\0octet\0tsize\0009\0",
        WriteRequest(filename="new", mode="octet", options=(("tsize", "9"),)),
    ),
    (b"\0\3\0\1payload", Data(block=1, payload=b"payload")),
    (b"\0\3\xff\xff", Data(block=65535, payload=b"")),
    (b"\0\4\0\0", Ack(block=0)),
    (b"\0\4\x12\x34", Ack(block=0x1234)),
    (b"\0\5\0\1File not found\0", Error(code=ErrorCode.NOT_FOUND, message="File not found")),
    (b"\0\5\1\0\0", Error(code=256, message="")),
    (b"\0\6", OptionAck(options=())),
    (b"\0\6blksize\0001468\0", OptionAck(options=(("blksize", "1468"),))),
]


@pytest.mark.parametrize(("data", "packet"), CASES)
def test_serialize_and_parse_are_inverse(data: bytes, packet: Packet) -> None:
    assert parse(data) == packet
    assert packet.serialize() == data


@pytest.mark.parametrize(("data", "packet"), CASES)
def test_every_prefix_parses_or_is_refused(data: bytes, packet: Packet) -> None:
    for end in range(len(data)):
        parsed = parse_or_refuse(data[:end])
        assert parsed is None or type(parsed) is type(packet)


FROM_CAPTURES: dict[str, Packet] = {
    "tcpdump_plain_rrq": rrq("file1"),
    "edk2_size_probe_rrq": rrq(
        "ipxe.efi", ("tsize", "0"), ("blksize", "1468"), ("windowsize", "4")
    ),
    "ovmf_2022_size_probe_rrq": rrq(
        "ipxe.efi", ("tsize", "0"), ("blksize", "1468"), ("windowsize", "4")
    ),
    "edk2_read_rrq": rrq("ipxe.efi", ("blksize", "1468"), ("windowsize", "4")),
    "ovmf_2022_read_rrq": rrq("ipxe.efi", ("blksize", "1468"), ("windowsize", "4")),
    "edk2_size_probe_error": Error(code=8, message="User aborted the transfer"),
    "ovmf_2022_size_probe_error": Error(code=8, message="User aborted the transfer"),
    "ipxe_rrq": rrq("boot.ipxe", ("blksize", "1432"), ("tsize", "0")),
    "uboot_rrq": rrq("0A000013.img", ("timeout", "5"), ("tsize", "0"), ("blksize", "1468")),
    "raspberrypi_4_rrq": rrq("d9780558/start.elf", ("tsize", "0"), ("blksize", "1024")),
    "raspberrypi_2_tsize_only_rrq": rrq("fixup.dat", ("tsize", "0")),
    "uboot_2023_rrq": rrq("boot.scr.uimg", ("timeout", "5"), ("blksize", "1468")),
    "grub_rrq": rrq("/grub/grub.cfg", ("blksize", "1024"), ("tsize", "0")),
    "curl_8_rrq": rrq("file", ("tsize", "0"), ("blksize", "512"), ("timeout", "6")),
}


def capture(name: str) -> bytes:
    lines = (CAPTURES / f"{name}.hex").read_text().splitlines()
    return bytes.fromhex("".join(line for line in lines if not line.startswith("#")))


@pytest.mark.parametrize("name", FROM_CAPTURES)
def test_captures_parse_and_serialize_to_the_same_bytes(name: str) -> None:
    data = capture(name)
    assert parse(data) == FROM_CAPTURES[name]
    assert FROM_CAPTURES[name].serialize() == data
    for end in range(len(data)):
        parsed = parse_or_refuse(data[:end])
        assert parsed is None or type(parsed) is type(FROM_CAPTURES[name])


def test_every_capture_has_its_case() -> None:
    assert {path.stem for path in CAPTURES.glob("*.hex")} == set(FROM_CAPTURES)


TOLERATED: list[tuple[str, bytes, Packet]] = [
    ("no final NUL after the mode", b"\0\1f\0octet", rrq("f")),
    ("no final NUL after an option", b"\0\1f\0octet\0tsize\0000", rrq("f", ("tsize", "0"))),
    ("a stray byte at the end", b"\0\1f\0octet\0\xff\0", rrq("f")),
    ("a stray byte after options", b"\0\1f\0octet\0tsize\0000\0\xff", rrq("f", ("tsize", "0"))),
    ("padding with NUL", b"\0\1f\0octet\0\0\0\0\0\0", rrq("f")),
    ("mode in any case", b"\0\1f\0OcTeT\0", rrq("f")),
    ("options in any case", b"\0\1f\0octet\0BlkSize\0008\0", rrq("f", ("blksize", "8"))),
    (
        "no Unicode folding",
        b"\0\1f\0octet\0bl\xe2\x84\xaasize\0008\0",
        rrq("f", ("bl\u212asize", "8")),
    ),
    ("an unknown mode", b"\0\1f\0mail\0", rrq("f", mode="mail")),
    ("an empty option value", b"\0\1f\0octet\0tsize\0\0", rrq("f", ("tsize", ""))),
    ("bytes behind an ACK", b"\0\4\0\1\0\0", Ack(block=1)),
    ("ERROR without text", b"\0\5\0\0", Error(code=0, message="")),
    ("ERROR without NUL", b"\0\5\0\0stop", Error(code=0, message="stop")),
    ("ERROR with bytes behind", b"\0\5\0\0stop\0junk", Error(code=0, message="stop")),
]


@pytest.mark.parametrize(("data", "packet"), [case[1:] for case in TOLERATED], ids=str)
def test_sloppy_packets_are_understood(data: bytes, packet: Packet) -> None:
    assert parse(data) == packet


REFUSED = [
    (b"", "0 bytes are too short"),
    (b"\0", "1 bytes are too short"),
    (b"\0\0\0\0", "0 is not a TFTP opcode"),
    (b"\0\7\0\0", "7 is not a TFTP opcode"),
    (b"\1\1f\0octet\0", "257 is not a TFTP opcode"),
    (b"\0\1", "no transfer mode"),
    (b"\0\1file", "no transfer mode"),
    (b"\0\1file\0", "no transfer mode"),
    (b"\0\1file\0\0", "no transfer mode"),
    (b"\0\1file\0\0tsize\0000\0", "no transfer mode"),
    (b"\0\3\0", "DATA has 3 bytes"),
    (b"\0\4\0", "ACK has 3 bytes"),
    (b"\0\5", "ERROR has 2 bytes"),
    (b"\0\1" + b"f" * MAX_REQUEST + b"\0octet\0", "over the limit of 2048"),
    (b"\0\6" + b"f" * MAX_REQUEST, "over the limit of 2048"),
]


@pytest.mark.parametrize(("data", "message"), REFUSED)
def test_nonsense_is_refused_in_words(data: bytes, message: str) -> None:
    with pytest.raises(PacketError, match=message):
        parse(data)


def test_a_request_of_exactly_the_limit_is_read() -> None:
    data = b"\0\1" + b"f" * (MAX_REQUEST - 9) + b"\0octet\0"
    assert len(data) == MAX_REQUEST
    assert parse(data) == rrq("f" * (MAX_REQUEST - 9))


@pytest.mark.parametrize(
    ("data", "block"),
    [
        (b"\0\4\0\0", 0),
        (b"\0\4\xff\xfe", 65534),
        (b"\0\4\0\1junk", 1),
        (b"\0\4\0", None),
        (b"\1\4\0\0", None),
        (b"\0\5\0\0", None),
        (b"", None),
    ],
)
def test_ack_block_reads_acks_only(data: bytes, block: int | None) -> None:
    assert ack_block(data) == block


def test_serialize_data_is_data_serialized() -> None:
    assert serialize_data(258, b"abc") == Data(block=258, payload=b"abc").serialize()


@given(st.binary(max_size=3000))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    packet = parse_or_refuse(data)
    assert packet is None or parse(packet.serialize()) == packet


@given(st.sampled_from(CASES), st.data())
def test_changed_bytes_parse_or_are_refused(
    case: tuple[bytes, Packet], data: st.DataObject
) -> None:
    changed = bytearray(case[0])
    position = data.draw(st.integers(0, len(changed) - 1))
    changed[position] = data.draw(st.integers(0, 255))
    packet = parse_or_refuse(bytes(changed))
    assert packet is None or parse(packet.serialize()) == packet


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)
NAME = st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=20)
OPTIONS: st.SearchStrategy[Options] = st.lists(
    st.tuples(NAME.map(str.lower), TEXT), max_size=6
).map(tuple)
BLOCKS = st.integers(0, 65535)
PACKETS: st.SearchStrategy[Packet] = st.one_of(
    st.builds(ReadRequest, filename=TEXT, mode=NAME.map(str.lower), options=OPTIONS),
    st.builds(WriteRequest, filename=TEXT, mode=NAME.map(str.lower), options=OPTIONS),
    st.builds(Data, block=BLOCKS, payload=st.binary(max_size=2000)),
    st.builds(Ack, block=BLOCKS),
    st.builds(Error, code=BLOCKS, message=TEXT),
    st.builds(OptionAck, options=OPTIONS),
)


@given(PACKETS)
def test_any_packet_survives_the_wire(packet: Packet) -> None:
    assert parse(packet.serialize()) == packet

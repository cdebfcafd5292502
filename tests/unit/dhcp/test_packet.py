"""The DHCP message: one table read and written, captures of real devices, and what is malformed."""

from __future__ import annotations

import os
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootnode.addresses import MacAddress
from bootnode.dhcp import options as opt
from bootnode.dhcp import pxe
from bootnode.dhcp.options import MessageType
from bootnode.dhcp.packet import (
    BOOTREPLY,
    BOOTREQUEST,
    FILE_SIZE_MAX,
    PACKET_SIZE_MAX,
    SNAME_SIZE_MAX,
    UNSPECIFIED,
    Packet,
)
from bootnode.dhcp.values import RelayAgentInfo
from bootnode.errors import PacketError

CAPTURES = Path(__file__).parents[2] / "captures"
NAMES = sorted(path.stem for path in CAPTURES.glob("*.hex"))

MAC = MacAddress.parse("fc:ab:14:e8:66:01")
CHADDR = MAC + bytes(10)
COOKIE = "63825363"


def capture(name: str) -> bytes:
    lines = (CAPTURES / f"{name}.hex").read_text().splitlines()
    return bytes.fromhex("".join(line for line in lines if not line.startswith("#")))


def message(options_hex: str, *, sname: bytes = b"", file: bytes = b"", op: int = 1) -> bytes:
    """A message of that MAC with these options, written by hand."""
    fixed = bytes((op, 1, 6, 0)) + b"\x0c\x9e\x43\x48" + bytes(20) + CHADDR
    return fixed + sname.ljust(64, b"\0") + file.ljust(128, b"\0") + bytes.fromhex(options_hex)


def request(**changes: object) -> Packet:
    return replace(Packet(op=BOOTREQUEST, xid=0x0C9E4348, chaddr=CHADDR), **changes)  # type: ignore[arg-type]  # test values by name


TABLE = {
    "bare DISCOVER": (
        request(options=dict([opt.MESSAGE_TYPE.item(MessageType.DISCOVER)])),
        message(COOKIE + "350101 ff"),
    ),
    "no options at all": (request(), message(COOKIE + "ff")),
    "file and sname": (
        request(sname=b"server", file=b"undionly.kpxe"),
        message(COOKIE + "ff", sname=b"server", file=b"undionly.kpxe"),
    ),
    "OFFER in the usual order": (
        request(
            op=BOOTREPLY,
            options=dict(
                [
                    opt.RELAY_AGENT_INFO.item(RelayAgentInfo(sub_options=((1, b"p7"),))),
                    opt.PXELINUX_CONFIG_FILE.item("c"),
                    opt.BOOT_FILE.item("a"),
                    opt.VENDOR_CLASS.item("PXEClient"),
                    opt.ROUTERS.item((IPv4Address("10.77.0.1"),)),
                    opt.SUBNET_MASK.item(IPv4Address("255.255.255.0")),
                    opt.LEASE_TIME.item(3600),
                    opt.SERVER_ID.item(IPv4Address("10.77.0.1")),
                    opt.MESSAGE_TYPE.item(MessageType.OFFER),
                ]
            ),
        ),
        message(
            COOKIE
            + "350102 36040a4d0001 330400000e10 0104ffffff00 03040a4d0001"
            + "3c09505845436c69656e74 43026100 d10163 5204 01027037 ff",
            op=2,
        ),
    ),
    "a zero behind HTTPClient": (
        request(options=dict([opt.VENDOR_CLASS.item("HTTPClient"), opt.BOOT_FILE.item("u")])),
        message(COOKIE + "3c0a48545450436c69656e74 00 43027500 ff"),
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_table_both_ways(name: str) -> None:
    packet, data = TABLE[name]
    assert Packet.parse(data) == packet
    assert packet.serialize(min_size=0) == data
    assert packet.size == len(data)


def test_addresses_and_counters_both_ways() -> None:
    packet = request(
        hops=2,
        secs=4,
        flags=0x8000,
        ciaddr=IPv4Address("10.0.0.1"),
        yiaddr=IPv4Address("10.0.0.2"),
        siaddr=IPv4Address("10.0.0.3"),
        giaddr=IPv4Address("10.0.0.4"),
    )
    data = packet.serialize(min_size=0)
    assert data[:28].hex(" ", 4) == (
        "01010602 0c9e4348 00048000 0a000001 0a000002 0a000003 0a000004"
    )
    assert Packet.parse(data) == packet


@pytest.mark.parametrize("name", NAMES)
def test_capture_decodes_as_recorded(name: str) -> None:
    golden = CAPTURES / f"{name}.txt"
    text = describe(Packet.parse(capture(name)))
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert golden.read_text() == text


@pytest.mark.parametrize("name", NAMES)
def test_capture_survives_writing(name: str) -> None:
    packet = replace(Packet.parse(capture(name)), problems=())
    assert Packet.parse(packet.serialize()) == packet


@pytest.mark.parametrize("name", NAMES)
def test_every_prefix_parses_or_is_a_packet_error(name: str) -> None:
    data = capture(name)
    for size in range(len(data)):
        try:
            assert Packet.parse(data[:size]).xid == int.from_bytes(data[4:8], "big")
        except PacketError:
            assert size < 236


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "0 bytes cannot be DHCP (want 236 to 9216)"),
        (message("")[:235], "235 bytes cannot be DHCP (want 236 to 9216)"),
        (bytes(PACKET_SIZE_MAX + 1), "9217 bytes cannot be DHCP (want 236 to 9216)"),
        (message(COOKIE, op=3), "op is 3 (want 1 for a request or 2 for a reply)"),
        (b"\1\1\x11" + message("")[3:], "a hardware address of type 1 cannot have 17 bytes"),
        (b"\1\0\6" + message("")[3:], "a hardware address of type 0 cannot have 6 bytes"),
        (message(COOKIE + "3500 ff"), "option 53 (dhcp-message-type) has 0 bytes (want 1)"),
    ],
)
def test_not_a_message(data: bytes, complaint: str) -> None:
    with pytest.raises(PacketError) as caught:
        Packet.parse(data)
    assert str(caught.value) == complaint


@pytest.mark.parametrize(
    ("options_hex", "found", "problem"),
    [
        (
            "350101 0c04 6162",
            {53: b"\1"},
            "option 12 (host-name) runs past the end of the options field: ignored from there",
        ),
        (
            "350101 e0",
            {53: b"\1"},
            "option 224 runs past the end of the options field: ignored from there",
        ),
        (
            "350101 0103ffffff ff",
            {53: b"\1"},
            "option 1 (subnet-mask) has 3 bytes (want 4): ignored",
        ),
        (
            "350101 06050a00000101 ff",
            {53: b"\1"},
            "option 6 (domain-name-server) has 5 bytes (want a multiple of 4): ignored",
        ),
        (
            "350101 0c00 ff",
            {53: b"\1"},
            "option 12 (host-name) has 0 bytes (want at least 1): ignored",
        ),
        (
            "350103 350101 ff",
            {53: b"\3"},
            "option 53 (dhcp-message-type) has 2 bytes (want 1): the first 1 count",
        ),
        (
            "350101 340104 ff",
            {53: b"\1"},
            "option 52 (option-overload) is not 1, 2 or 3: ignored",
        ),
        (
            "350101 3400 ff",
            {53: b"\1"},
            "option 52 (option-overload) is not 1, 2 or 3: ignored",
        ),
    ],
)
def test_malformed_option_is_left_out_and_named(
    options_hex: str, found: dict[int, bytes], problem: str
) -> None:
    packet = Packet.parse(message(COOKIE + options_hex))
    assert packet.options == found
    assert packet.problems == (problem,)


def test_padding_may_stand_anywhere() -> None:
    # A NetworkManager REQUEST was seen with a zero right behind the cookie.
    packet = Packet.parse(message(COOKIE + "00 350103 0000 32040a000001 00 ff 0101"))
    assert packet.message_type is MessageType.REQUEST
    assert packet.requested_address == IPv4Address("10.0.0.1")
    assert packet.problems == ()


def test_parts_join_from_options_then_file_then_sname() -> None:
    packet = Packet.parse(
        message(
            COOKIE + "350105 340103 3803616263 ff",
            file=bytes.fromhex("3803646566 ff"),
            sname=bytes.fromhex("3803676869 0c0168 ff"),
        )
    )
    assert packet.get(opt.MESSAGE) == "abcdefghi"
    assert packet.get(opt.HOST_NAME) == "h"
    assert (packet.file, packet.sname) == (b"", b"")
    assert opt.OVERLOAD.code not in packet.options


@pytest.mark.parametrize(
    ("overload", "file", "sname"), [("01", b"", b"s"), ("02", b"f", b""), ("03", b"", b"")]
)
def test_overload_says_which_field_holds_options(overload: str, file: bytes, sname: bytes) -> None:
    data = message(COOKIE + f"3401{overload} ff", file=file or b"\xff", sname=sname or b"\xff")
    packet = Packet.parse(data)
    assert (packet.file, packet.sname) == (file, sname)


def test_overrun_in_an_overloaded_field_is_named() -> None:
    packet = Packet.parse(message(COOKIE + "340101 ff", file=b"\x0c\xff"))
    assert packet.problems == (
        "option 12 (host-name) runs past the end of the file field: ignored from there",
    )


@pytest.mark.parametrize("tail", ["", "00000000", "63825362 350101 ff"])
def test_bootp_has_no_options(tail: str) -> None:
    packet = Packet.parse(message(tail, file=b"boot"))
    assert packet.message_type is None
    assert packet.options == {}
    assert packet.file == b"boot"


def test_file_ends_at_its_first_nul() -> None:
    assert Packet.parse(message(COOKIE + "ff", file=b"a.efi\0rubbish")).file == b"a.efi"


def test_unknown_message_type_is_not_bootp() -> None:
    assert Packet.parse(message(COOKIE + "3501c8 ff")).message_type is MessageType.UNKNOWN


def test_reply_is_padded_to_300_bytes() -> None:
    data = request().serialize()
    assert len(data) == 300
    assert data[240:] == b"\xff" + bytes(59)


@pytest.mark.parametrize(
    ("packet", "complaint"),
    [
        (
            request(options={43: bytes(256)}),
            "option 43 (vendor-specific-information) with 256 bytes cannot be sent",
        ),
        (request(options={52: b"\1"}), "option 52 (option-overload) cannot be sent"),
        (request(options={0: b""}), "option 0 cannot be sent"),
        (request(options={255: b""}), "option 255 cannot be sent"),
        (request(file=bytes(FILE_SIZE_MAX + 1)), "sname has 0 bytes and file 128"),
        (request(sname=bytes(SNAME_SIZE_MAX + 1)), "sname has 64 bytes and file 0"),
    ],
)
def test_what_cannot_be_written(packet: Packet, complaint: str) -> None:
    with pytest.raises(ValueError, match=r"want (at most|neither)") as caught:
        packet.serialize()
    assert str(caught.value).startswith(complaint)


def test_reply_copies_what_it_must() -> None:
    asked = Packet.parse(capture("relayed_offer_relay_agent_echo"))
    asked = replace(asked, op=BOOTREQUEST, hops=3, secs=9, flags=0x8000)
    reply = Packet.reply_to(
        asked,
        options=dict([opt.MESSAGE_TYPE.item(MessageType.ACK)]),
        yiaddr=IPv4Address("10.0.0.9"),
        siaddr=IPv4Address("10.0.0.1"),
        file=b"x",
    )
    assert reply == Packet(
        op=BOOTREPLY,
        xid=asked.xid,
        flags=0x8000,
        chaddr=asked.chaddr,
        giaddr=asked.giaddr,
        yiaddr=IPv4Address("10.0.0.9"),
        siaddr=IPv4Address("10.0.0.1"),
        file=b"x",
        options={53: b"\5", 61: asked.options[61], 82: asked.options[82]},
    )
    assert reply.serialize(min_size=0).endswith(asked.options[82] + b"\xff")


def test_reply_echoes_only_what_was_there() -> None:
    assert Packet.reply_to(request(), options={}).options == {}


ALL_BUT_VITAL = {
    224: bytes(5),
    **dict([opt.DOMAIN_SEARCH.item(("lab",)), opt.NTP_SERVERS.item((UNSPECIFIED,))]),
    **dict([opt.DOMAIN_NAME.item("lab"), opt.HOST_NAME.item("node-000")]),
    121: bytes(9),
    97: bytes(17),
    82: bytes(6),
}
VITAL = dict(
    [
        *(opt.MESSAGE_TYPE.item(MessageType.OFFER), opt.SERVER_ID.item(UNSPECIFIED)),
        *(opt.LEASE_TIME.item(60), opt.VENDOR_CLASS.item("PXEClient"), opt.BOOT_FILE.item("x")),
        *(opt.VENDOR_ENCAPSULATED.item(pxe.BOOT_THIS_FILE), opt.CLIENT_ID.item(b"\1abcdef")),
    ]
)
DROPPED_IN_ORDER = [224, 119, 42, 15, 12, 121, 97, 82]


@pytest.mark.parametrize("count", range(len(DROPPED_IN_ORDER) + 1))
def test_fit_drops_the_dispensable_first(count: int) -> None:
    packet = request(options={**ALL_BUT_VITAL, **VITAL})
    gone = DROPPED_IN_ORDER[:count]
    limit = packet.size - sum(2 + len(ALL_BUT_VITAL[code]) for code in gone)
    fitted = packet.fit(limit)
    assert fitted.options.keys() == packet.options.keys() - set(gone)
    assert fitted.size == len(fitted.serialize(min_size=0)) == limit


def test_fit_keeps_what_a_boot_needs() -> None:
    assert request(options={**ALL_BUT_VITAL, **VITAL}).fit(100).options == VITAL


@pytest.mark.parametrize(
    ("option", "limit"),
    [(None, 548), (300, 548), (576, 548), (1260, 1232), (1500, 1472), (9000, 1472)],
)
def test_reply_size(option: int | None, limit: int) -> None:
    options = {} if option is None else dict([opt.MAX_MESSAGE_SIZE.item(option)])
    assert request(options=options).reply_size_max == limit


def test_requested_zero_means_none() -> None:
    assert Packet.parse(capture("embedded_discover_requested_zero")).requested_address is None
    assert request().requested_address is None


def test_mac_is_of_ethernet_only() -> None:
    assert request().mac == MAC
    assert request(htype=32, hlen=0).mac is None
    assert request(hlen=16).mac is None


def test_broadcast_flag() -> None:
    assert request(flags=0x8000).is_broadcast
    assert not request(flags=0x7FFF).is_broadcast


ADDRESSES = st.builds(IPv4Address, st.integers(0, 2**32 - 1))
# Any value of a length that its option allows; 52 is never sent, 53 always is one byte.
OPTION_MAPS = st.dictionaries(
    st.integers(1, 254).filter(lambda code: code != opt.OVERLOAD.code), st.binary(max_size=255)
).map(
    lambda options: {
        code: value
        for code, value in options.items()
        if code not in opt.OPTIONS_BY_CODE or len(value) in opt.OPTIONS_BY_CODE[code].lengths
    }
)
PACKETS = st.builds(
    Packet,
    op=st.sampled_from((BOOTREQUEST, BOOTREPLY)),
    htype=st.integers(1, 255),
    hlen=st.integers(0, 16),
    hops=st.integers(0, 255),
    xid=st.integers(0, 2**32 - 1),
    secs=st.integers(0, 2**16 - 1),
    flags=st.integers(0, 2**16 - 1),
    ciaddr=ADDRESSES,
    yiaddr=ADDRESSES,
    siaddr=ADDRESSES,
    giaddr=ADDRESSES,
    chaddr=st.binary(min_size=16, max_size=16),
    sname=st.binary(max_size=SNAME_SIZE_MAX).filter(lambda text: b"\0" not in text),
    file=st.binary(max_size=FILE_SIZE_MAX).filter(lambda text: b"\0" not in text),
    options=OPTION_MAPS,
)


@given(PACKETS)
@settings(deadline=None)
def test_parse_undoes_serialize(packet: Packet) -> None:
    data = packet.serialize()
    if len(data) <= PACKET_SIZE_MAX:
        assert Packet.parse(data) == packet


def describe(packet: Packet) -> str:
    """The message as text, for the golden files."""
    p = packet
    lines = [
        f"op={p.op} htype={p.htype} hlen={p.hlen} hops={p.hops}",
        f"xid={p.xid:08x} secs={p.secs} flags={p.flags:04x}",
        f"ciaddr={p.ciaddr} yiaddr={p.yiaddr} siaddr={p.siaddr} giaddr={p.giaddr}",
        f"chaddr={p.chaddr.hex()}",
        f"sname={p.sname!r} file={p.file!r}",
    ]
    lines += [f"{opt.label(code)}: {_value(packet, code)}" for code in packet.options]
    lines += [f"problem: {problem}" for problem in packet.problems]
    return "\n".join(lines) + "\n"


def _value(packet: Packet, code: int) -> str:
    raw = packet.options[code]
    if code == opt.ARCHITECTURES.code:
        return " ".join(pxe.Architecture(n).name for n in packet.get(opt.ARCHITECTURES) or ())
    if code == opt.NIC_INTERFACE.code:
        return pxe.nic_interface(raw)
    if code == opt.MACHINE_UUID.code:
        return f"{raw.hex()} = {pxe.machine_uuid(raw)}"
    if code == opt.IPXE_ENCAPSULATED.code:
        features = sorted(pxe.ipxe_features(raw))
        return f"{raw.hex()} = version {pxe.ipxe_version(raw)} features {features}"
    if code == opt.VENDOR_ENCAPSULATED.code:
        return f"{raw.hex()} = {pxe.PxeOptions.parse(raw)}"
    option = opt.OPTIONS_BY_CODE.get(code)
    value = raw if option is None else option.parse(raw)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return value.name if isinstance(value, MessageType) else str(value)


@pytest.mark.parametrize("code", [61, 82])
def test_a_value_that_the_client_split_is_not_echoed(code: int) -> None:
    half = bytes((code, 200)) + b"x" * 200
    request = Packet.parse(
        Packet(op=1, xid=1, chaddr=bytes(16)).serialize()[:240] + half + half + b"\xff"
    )
    assert len(request.options[code]) == 400
    reply = Packet.reply_to(request, options={53: b"\5"})
    assert Packet.parse(reply.serialize()).options == {53: b"\5"}

"""What stands inside options, where it is more than the table of options shows."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from bootnode.dhcp import values
from bootnode.dhcp.values import RelayAgentInfo, RelaySubOption, Route
from bootnode.errors import PacketError

GATEWAY = IPv4Address("10.77.0.1")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"MSFT 5.0\0", "MSFT 5.0"),  # Windows terminates its strings.
        (b"caf\xe9", "café"),
        (b"\xff\xfe", "\xff\xfe"),
        (b"\0\0", ""),
        (b"a\0b", "a\0b"),
    ],
)
def test_text_reads_any_bytes(raw: bytes, text: str) -> None:
    assert values.parse_text(raw) == text


def test_text_beyond_latin1_cannot_be_written() -> None:
    with pytest.raises(UnicodeEncodeError):
        values.serialize_text("λ")


@pytest.mark.parametrize(
    ("raw", "classes"),
    [
        (b"iPXE", (b"iPXE",)),
        (b"iPXE\0", (b"iPXE",)),
        (b"\x04iPXE", (b"iPXE",)),
        (b"\x03abc\x01d\x02ef", (b"abc", b"d", b"ef")),
        (b"\x03ab", (b"\x03ab",)),  # Frames that do not add up are no frames.
        (b"\x02ab\0", (b"\x02ab",)),
    ],
)
def test_user_class_framed_or_bare(raw: bytes, classes: tuple[bytes, ...]) -> None:
    assert values.parse_user_class(raw) == classes


def test_several_user_classes_are_framed() -> None:
    assert values.serialize_user_class((b"iPXE", b"x")) == b"\x04iPXE\x01x"


def test_relay_agent_info() -> None:
    info = values.parse_relay_agent_info(bytes.fromhex("0102aabb 0501cc 05040a000001 0b040a000002"))
    assert info.get(RelaySubOption.CIRCUIT_ID) == b"\xaa\xbb"
    assert info.get(RelaySubOption.REMOTE_ID) is None
    # The first counts, and one byte is no address.
    assert info.link_selection is None
    assert info.server_id_override == IPv4Address("10.0.0.2")


def test_relay_agent_info_link_selection() -> None:
    info = values.parse_relay_agent_info(bytes.fromhex("05040a000001"))
    assert info.link_selection == IPv4Address("10.0.0.1")
    assert info.server_id_override is None


@pytest.mark.parametrize("raw", ["0101aa 02", "0101aa 0205bb", "0101aa 0201"])
def test_relay_agent_info_up_to_what_breaks_off(raw: str) -> None:
    expected = RelayAgentInfo(sub_options=((1, b"\xaa"),))
    assert values.parse_relay_agent_info(bytes.fromhex(raw)) == expected


@pytest.mark.parametrize(
    ("raw", "domains"),
    [
        (b"\x01a\x03lab\0\x01b\x03lab\0", ("a.lab", "b.lab")),
        (b"\x01a\x03lab\0\x01b\xc0\x02", ("a.lab", "b.lab")),
        (b"\x01a\x03lab\0\xc0\x00\x01c\0", ("a.lab", "a.lab", "c")),
        (b"\x01a\x03lab\0\x01b\xc0\x02\xc0\x07", ("a.lab", "b.lab", "b.lab")),
    ],
)
def test_domain_search_follows_pointers(raw: bytes, domains: tuple[str, ...]) -> None:
    assert values.parse_domains(raw) == domains


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"\xc0\x00", "has a pointer that leads forward"),
        (b"\x01a\xc0\x09", "has a pointer that leads forward"),
        (b"\x01a", "breaks off within a name"),
        (b"\x05a", "breaks off within a name"),
        (b"\x01a\xc0", "breaks off within a name"),
        (b"\x40a", "breaks off within a name"),
    ],
)
def test_domain_search_that_cannot_be_read(raw: bytes, complaint: str) -> None:
    with pytest.raises(PacketError) as caught:
        values.parse_domains(raw)
    assert str(caught.value) == f"option 119 (domain-search) {complaint}"


def test_domain_names_are_written_whole() -> None:
    assert values.serialize_domains(("a.lab", "lab.")) == b"\x01a\x03lab\0\x03lab\0"


@pytest.mark.parametrize("domain", ["", "a..b", "a" * 64])
def test_not_a_domain_name(domain: str) -> None:
    with pytest.raises(ValueError, match="is not a domain name"):
        values.serialize_domains((domain,))


@pytest.mark.parametrize(
    ("raw", "network"),
    [
        ("00 0a4d0001", "0.0.0.0/0"),
        ("01 80 0a4d0001", "128.0.0.0/1"),
        ("18 0a4d02 0a4d0001", "10.77.2.0/24"),
        ("19 0a4d0280 0a4d0001", "10.77.2.128/25"),
        ("20 0a4d0203 0a4d0001", "10.77.2.3/32"),
    ],
)
def test_routes_both_ways(raw: str, network: str) -> None:
    routes = (Route(network=IPv4Network(network), gateway=GATEWAY),)
    assert values.parse_routes(bytes.fromhex(raw) * 2) == routes * 2
    assert values.serialize_routes(routes) == bytes.fromhex(raw)


def test_route_with_host_bits_is_read_as_its_network() -> None:
    (route,) = values.parse_routes(bytes.fromhex("04 ff 0a4d0001"))
    assert route.network == IPv4Network("240.0.0.0/4")


@pytest.mark.parametrize("raw", ["21 0a4d0203ff 0a4d0001", "18 0a4d02 0a4d00", "18"])
def test_routes_that_break_off(raw: str) -> None:
    with pytest.raises(PacketError, match="breaks off within a route"):
        values.parse_routes(bytes.fromhex(raw))

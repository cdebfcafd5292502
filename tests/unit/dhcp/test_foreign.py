"""Other DHCP servers: what is read of their offers, and what of it is said when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootnode import net
from bootnode.addresses import MacAddress
from bootnode.dhcp import foreign
from bootnode.dhcp import options as opt
from bootnode.dhcp.foreign import ForeignServers, Offer, question, read_choice, read_frame
from bootnode.dhcp.options import MessageType
from bootnode.dhcp.packet import BOOTREPLY, BOOTREQUEST, UNSPECIFIED, Packet

Capture = Callable[[str], Packet]

SERVER, SECOND = IPv4Address("10.77.0.5"), IPv4Address("10.77.0.6")
SERVER_MAC = MacAddress.parse("02:00:00:00:00:05")
MAC = MacAddress.parse("52:54:00:00:00:01")
ADDRESS = IPv4Address("10.77.0.60")
OFFER = Offer(server=SERVER, server_mac=SERVER_MAC, mac=MAC, xid=7, address=ADDRESS)
BOOT = replace(OFFER, address=UNSPECIFIED, boot_file="evil.efi", next_server=SERVER)


def frame(
    reply: Packet, *, ports: tuple[int, int] = (67, 68), server: IPv4Address = SERVER
) -> bytes:
    everybody = IPv4Address("255.255.255.255")
    packet = net.udp_packet(server, ports[0], everybody, ports[1], reply.serialize())
    return b"\xff" * 6 + SERVER_MAC + b"\x08\0" + packet


def reply(*items: tuple[int, bytes], **fields: Any) -> Packet:
    kind = opt.MESSAGE_TYPE.item(MessageType.OFFER)
    whole = {"yiaddr": ADDRESS, "chaddr": MAC + bytes(10), **fields}
    return Packet(op=BOOTREPLY, xid=7, options=dict([kind, *items]), **whole)


FRAMES: dict[str, tuple[bytes, Offer | None]] = {
    "a plain offer": (frame(reply(opt.SERVER_ID.item(SERVER))), OFFER),
    "without a server identifier": (frame(reply()), OFFER),
    "the identifier counts, not the source": (
        frame(reply(opt.SERVER_ID.item(SECOND))),
        replace(OFFER, server=SECOND),
    ),
    "a boot file in the header": (
        frame(reply(yiaddr=UNSPECIFIED, file=b"evil.efi", siaddr=SERVER)),
        BOOT,
    ),
    "a boot file in option 67": (
        frame(reply(opt.BOOT_FILE.item("evil.efi"), yiaddr=UNSPECIFIED, siaddr=SERVER)),
        BOOT,
    ),
    "a PXE server": (
        frame(reply(opt.VENDOR_CLASS.item("PXEClient"))),
        replace(OFFER, is_pxe=True),
    ),
    "an ACK": (frame(reply(opt.MESSAGE_TYPE.item(MessageType.ACK))), OFFER),
    "a NAK": (frame(reply(opt.MESSAGE_TYPE.item(MessageType.NAK))), None),
    "a request": (frame(replace(reply(), op=BOOTREQUEST)), None),
    "no Ethernet card": (frame(reply(htype=32)), None),
    "other ports": (frame(reply(), ports=(68, 67)), None),
    "no UDP": (frame(reply())[:23] + b"\x06" + frame(reply())[24:], None),
    "a broken header": (frame(reply())[:14] + b"\x41" + frame(reply())[15:], None),
    "cut short": (frame(reply())[:100], None),
    "empty": (b"", None),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames(name: str) -> None:
    raw, expected = FRAMES[name]
    assert read_frame(raw) == expected


@given(st.binary(max_size=400), st.integers(0, 300))
def test_no_frame_raises(noise: bytes, at: int) -> None:
    read_frame(noise)
    whole = frame(reply())
    read_frame(whole[:at] + noise + whole[at + len(noise) :])
    read_frame(whole[:at])


def test_recorded_offers(capture: Capture) -> None:
    for name in ("dnsmasq_proxy_offer_raspberrypi_4", "home_router_offer_broadcast"):
        read = read_frame(frame(capture(name)))
        assert read is not None
        assert read.is_pxe is (name == "dnsmasq_proxy_offer_raspberrypi_4")


def choice(*items: tuple[int, bytes], **fields: Any) -> Packet:
    kind = opt.MESSAGE_TYPE.item(MessageType.REQUEST)
    chaddr = MAC + bytes(10)
    return Packet(op=BOOTREQUEST, xid=7, chaddr=chaddr, options=dict([kind, *items]), **fields)


CHOSEN = (opt.SERVER_ID.item(SERVER), opt.REQUESTED_ADDRESS.item(ADDRESS))


@pytest.mark.parametrize(
    ("request_", "is_choice"),
    [
        (choice(*CHOSEN), True),
        (choice(CHOSEN[0]), False),
        (choice(CHOSEN[1]), False),
        (choice(*CHOSEN, opt.MESSAGE_TYPE.item(MessageType.DECLINE)), False),
        (choice(*CHOSEN, giaddr=SECOND), False),
        (choice(*CHOSEN, htype=32), False),
    ],
)
def test_choices(request_: Packet, is_choice: bool) -> None:
    expected = replace(OFFER, server_mac=None) if is_choice else None
    assert read_choice(request_) == expected


@pytest.mark.parametrize(
    ("offer", "text"),
    [
        (OFFER, f"DHCP server 10.77.0.5 (mac {SERVER_MAC}) offered {MAC} address 10.77.0.60"),
        (
            BOOT,
            (
                f"DHCP server 10.77.0.5 (mac {SERVER_MAC}) offered {MAC} boot file 'evil.efi', "
                "next server 10.77.0.5"
            ),
        ),
        (
            replace(OFFER, server_mac=None, address=UNSPECIFIED, is_pxe=True),
            f"DHCP server 10.77.0.5 offered {MAC} a PXE boot server",
        ),
        (
            replace(OFFER, server_mac=None, address=UNSPECIFIED),
            f"DHCP server 10.77.0.5 offered {MAC} nothing",
        ),
        (
            replace(OFFER, server_mac=None, address=UNSPECIFIED, boot_file="\n\x1b[2J" + "x" * 200),
            f"DHCP server 10.77.0.5 offered {MAC} boot file '\\n\\x1b[2J{'x' * 75}'",
        ),
    ],
)
def test_what_it_looks_like_in_the_log(offer: Offer, text: str) -> None:
    assert str(offer) == text


# What is news


def said(servers: ForeignServers, offer: Offer, now: float, *, is_proxy: bool) -> str:
    news = servers.hear(offer, is_proxy=is_proxy, now=now)
    return (
        "-" if news is None else f"{'log ' * news.is_for_log}{'note ' * news.is_for_node}".strip()
    )


def test_where_we_give_addresses_every_offer_is_news() -> None:
    servers = ForeignServers()
    assert said(servers, OFFER, 0, is_proxy=False) == "log note"
    assert said(servers, OFFER, 5, is_proxy=False) == ""
    assert said(servers, replace(OFFER, mac=MAC.plus(1)), 6, is_proxy=False) == "note"
    assert said(servers, BOOT, foreign.REPEAT_S, is_proxy=False) == "log note"


def test_an_answer_to_an_inform_is_no_news() -> None:
    assert said(ForeignServers(), replace(OFFER, address=UNSPECIFIED), 0, is_proxy=False) == "-"


def test_where_another_gives_them_only_boot_offers_are() -> None:
    servers = ForeignServers()
    assert said(servers, OFFER, 0, is_proxy=True) == "-"
    assert said(servers, BOOT, 1, is_proxy=True) == "log note"
    news = ForeignServers().hear(replace(OFFER, is_pxe=True), is_proxy=True, now=0)
    assert news is not None
    assert news.text.endswith("a PXE boot server: nodes may boot by that instead of by us")


def test_two_servers_of_addresses_are_news_everywhere() -> None:
    servers = ForeignServers()
    assert said(servers, OFFER, 0, is_proxy=True) == "-"
    news = servers.hear(replace(OFFER, server=SECOND), is_proxy=True, now=1)
    assert news is not None
    assert news.text.endswith(
        "10.77.0.5 gives addresses too: turn one off, unless they share their leases"
    )
    # One that has been silent for long was replaced by the other.
    assert said(servers, OFFER, 1 + foreign.REPEAT_S, is_proxy=True) == "-"


def test_a_clients_word_adds_to_what_the_server_said() -> None:
    servers = ForeignServers()
    servers.hear(replace(OFFER, boot_file="evil.efi"), is_proxy=True, now=0)
    word = replace(OFFER, server_mac=None, mac=MAC.plus(1), address=ADDRESS + 1)
    servers.hear(word, is_proxy=True, now=1)
    (server,) = servers
    assert server.last == replace(word, server_mac=SERVER_MAC, boot_file="evil.efi")


def test_a_flood_is_bounded_and_the_old_make_room() -> None:
    servers = ForeignServers()
    lines = [
        said(servers, replace(OFFER, server=SERVER + n, mac=MAC.plus(n)), n / 1000, is_proxy=False)
        for n in range(3000)
    ]
    assert len([*servers]) == foreign.SERVERS_MAX
    assert lines.count("log note") == foreign.SERVERS_MAX
    assert lines.count("log") == 1
    assert set(lines[foreign.SERVERS_MAX + 1 :]) == {"-"}
    late = replace(OFFER, server=SERVER + 9999)
    assert said(servers, late, 10 + foreign.REPEAT_S, is_proxy=False) == "log note"
    assert len([*servers]) == foreign.SERVERS_MAX


def test_notes_of_one_server_are_bounded() -> None:
    servers = ForeignServers()
    lines = [said(servers, replace(OFFER, mac=MAC.plus(n)), 1, is_proxy=False) for n in range(1000)]
    assert sum("note" in line for line in lines) == foreign.NOTED_MAX


def test_silence_is_said_once_in_a_while() -> None:
    servers = ForeignServers()
    assert [servers.ask(now=now) for now in (0, 1, 2, 3)] == [False] * 4
    assert [servers.ask(now=now) for now in (15, 16, 17)] == [True, False, False]
    assert servers.ask(now=15 + foreign.REPEAT_S)
    servers.hear(replace(OFFER, server_mac=None), is_proxy=True, now=700)
    assert [servers.ask(now=now) for now in (701, 702, 703, 704)] == [False] * 4
    assert not servers.ask(now=720)  # said not long ago
    servers.hear(BOOT, is_proxy=True, now=721)  # gives no address
    assert servers.ask(now=16 + 2 * foreign.REPEAT_S)


def test_the_question() -> None:
    asked = question(SERVER_MAC, 7)
    assert (asked.mac, asked.is_broadcast) == (SERVER_MAC, True)
    assert asked.message_type is MessageType.DISCOVER
    # Firmware's options would be missing: nobody is to take this for a boot.
    assert {*asked.options} == {opt.MESSAGE_TYPE.code}

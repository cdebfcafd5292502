"""Every kind of reply that we send, read by scapy and by tshark: nothing malformed, no warning."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP
from scapy.utils import wrpcap

from bootnode.dhcp import options as opt
from bootnode.dhcp.options import MessageType
from bootnode.dhcp.packet import Packet
from bootnode.dhcp.replies import Reply
from bootnode.dhcp.values import RelayAgentInfo, RelaySubOption
from bootnode.net import udp_packet
from tests.unit.dhcp.test_reply_matrix import REQUESTS, outcomes
from tests.unit.dhcp.test_responder import (
    BOOT_SERVER,
    DYNAMIC,
    FULL_OFFERS,
    MAC,
    NOW,
    PROXY_OFFERS,
    RELAY,
    SERVER,
    asks_for,
    bound,
    broadcast,
    chose,
    kind,
    mac_of,
    message,
    node,
    relayed,
    request_of,
    responder,
    settings,
    unicast,
)

Capture = Callable[[str], Packet]
TSHARK_TIMEOUT_S = 50
WARNING = 0x600000
"""Of tshark's severities: chat, note, warning, error."""
ECHOED = {"Trailing stray characters": "arista_eos_ztp_discover"}
"""What tshark says of a client identifier of its client's making; RFC 6842 has us send it back."""


def answers() -> Iterator[tuple[str, Any]]:
    """What each recorded request is answered, in full and in proxy mode."""
    for name in REQUESTS:
        for mode, outcome in outcomes(name):
            if isinstance(outcome, Reply):
                yield f"{mode} answer to {name}", outcome


def offers(capture: Capture) -> Iterator[tuple[str, Any]]:
    """What firmware, iPXE and systems are offered, in full and in proxy mode, and on port 4011."""
    for name in FULL_OFFERS:
        request = capture(name)
        for ip in (IPv4Address("10.77.0.10"), None):
            served = responder(node(mac_of(request), ip=ip))
            offer = served.handle(request, broadcast(), now=NOW)
            yield f"full {name}", offer
            assert isinstance(offer, Reply)
            items = dict([kind(MessageType.REQUEST), chose(SERVER)])
            items |= dict([asks_for(offer.packet.yiaddr)])
            asked = Packet(op=1, xid=8, chaddr=request.chaddr, options={**request.options, **items})
            yield f"ack {name}", served.handle(asked, broadcast(), now=NOW)
    for name, told in PROXY_OFFERS.items():
        if "ignored" not in told:
            request = capture(name)
            served = responder(node(mac_of(request)), network=settings("proxy"))
            yield f"proxy {name}", served.handle(request, broadcast(), now=NOW)
    for (name, port), told in BOOT_SERVER.items():
        if "ignored" not in told:
            request = capture(name)
            served = responder(
                node(mac_of(request), ip=None),
                network=settings("proxy"),
                address="192.168.1.1/24",
            )
            arrival = unicast("192.168.1.50", port, port=4011)
            yield f"4011 {name}", served.handle(request, arrival, now=NOW)


def others(capture: Capture) -> Iterator[tuple[str, Any]]:
    """NAK, INFORM, BOOTP, relays, and options that people set."""
    served = bound()
    yield "renew", served.handle(request_of(MAC, ciaddr=DYNAMIC), unicast(str(DYNAMIC)), now=NOW)
    yield "nak", served.handle(request_of(MAC, asks_for("10.77.0.151")), broadcast(), now=NOW)
    inform = capture("windows_msft5_inform")
    served = responder(node(mac_of(inform)))
    yield "inform", served.handle(inform, unicast("172.17.2.32"), now=NOW)
    yield "bootp", responder(node(MAC)).handle(message(MAC), broadcast(), now=NOW)
    info = RelayAgentInfo(
        sub_options=(
            (RelaySubOption.CIRCUIT_ID, b"port 7"),
            (RelaySubOption.LINK_SELECTION, IPv4Address("172.16.1.0").packed),
            (RelaySubOption.SERVER_ID_OVERRIDE, IPv4Address("172.16.1.2").packed),
        )
    )
    item = opt.RELAY_AGENT_INFO.item(info)
    relay = IPv4Address("172.16.1.2")
    discover = message(MAC, kind(MessageType.DISCOVER), item, giaddr=relay)
    yield "relayed", relayed(MAC).handle(discover, RELAY, now=NOW)
    refused = request_of(MAC, asks_for("172.16.1.9"), chose(relay), item, giaddr=relay)
    yield "relayed nak", relayed(MAC, relays=(relay,)).handle(refused, RELAY, now=NOW)
    own = {
        **dict([opt.DOMAIN_SEARCH.item(("lab.example", "example"))]),
        2: b"\0\0\x0e\x10",
        19: b"\1",
        33: bytes((10, 0, 0, 9, 10, 77, 0, 1)),
        42: SERVER.packed,
        43: b"\1\4\x0a\x4d\0\1",
        100: b"UTC",
        121: bytes((8, 10, 10, 77, 0, 1)),
    }
    told = responder(node(MAC, options=own))
    yield "options", told.handle(message(MAC, kind(MessageType.DISCOVER)), broadcast(), now=NOW)


@pytest.fixture
def replies(capture: Capture) -> dict[str, tuple[Reply, bytes]]:
    """Each reply by what it is, and as bytes."""
    found = {}
    for name, outcome in [*answers(), *offers(capture), *others(capture)]:
        assert isinstance(outcome, Reply), (name, outcome)
        found[name] = outcome, outcome.packet.fit(outcome.size_max).serialize()
    return found


def test_scapy_reads_every_reply(replies: dict[str, tuple[Reply, bytes]]) -> None:
    for name, (reply, data) in replies.items():
        read = BOOTP(data)
        sent = reply.packet.fit(reply.size_max)
        if sent.message_type is None:
            assert read.yiaddr == str(sent.yiaddr), name
            continue
        told = read[DHCP].options
        ours = [item for item in told if isinstance(item, tuple)]
        assert len(ours) == len(sent.options), name
        assert told[: len(ours) + 1].count("end") == 1 or "end" in told, name
        assert ("message-type", int(sent.message_type)) == told[0], name


def test_tshark_warns_of_nothing(replies: dict[str, tuple[Reply, bytes]], tmp_path: Path) -> None:
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed: `make setup` installs it")
    capture = tmp_path / "replies.pcap"
    frames = [
        IP(udp_packet(SERVER, 4011 if r.is_from_pxe_port else 67, r.destination, r.port, data))
        for r, data in replies.values()
    ]
    wrpcap(str(capture), frames)
    wanted = ["frame.number", "dhcp.type", "_ws.expert.message", "_ws.expert.severity"]
    fields = [word for field in wanted for word in ("-e", field)]
    done = subprocess.run(
        # Port 4011 is DHCP to nobody but PXE.
        ["tshark", "-n", "-r", capture, "-d", "udp.port==4011,dhcp", "-T", "fields", *fields],
        capture_output=True,
        text=True,
        check=True,
        timeout=TSHARK_TIMEOUT_S,
    )
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[1] for line in lines] == ["2"] * len(replies), "read as BOOTP replies"
    complaints = {
        name: line[2:]
        for name, line in zip(replies, lines, strict=True)
        if any(int(each, 0) >= WARNING for each in line[3].split(",") if each)
        and not name.endswith(ECHOED.get(line[2], "nobody"))
    }
    assert complaints == {}

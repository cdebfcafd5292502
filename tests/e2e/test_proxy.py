"""ProxyDHCP beside a real DHCP server that knows nothing of booting: dnsmasq."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from bootnode.dhcp.foreign import SERVERS_MAX
from tests.e2e.conftest import BROADCAST_MAC, POOL

if TYPE_CHECKING:
    from bootnode.lab import LabProcess
    from tests.e2e.conftest import Bench, Machine

pytestmark = pytest.mark.root

MAC = "52:54:00:44:00:0a"
NODES = f"nodes:\n  alpha: {{mac: '{MAC}', image: tiny}}\nunknown: {{image: tiny}}\n"
OTHER_SERVER, OTHER_MAC = "192.168.44.5", "02:00:00:44:00:05"
LEASED = "192.168.44.60"
SILENCE_S = 1.0
EVENT_TIMEOUT_S = 10.0
VOICES = {
    "virtualbox_bios_pxe_discover": b"undionly.kpxe",
    "ovmf_2022_x64_pxe_discover": b"snponly.efi",
    "ipxe_2019_bios_virtio_discover": b"http://192.168.44.1:8080/boot/52-54-00-44-00-0a.ipxe",
}
SCRIPT = """#!/bin/sh
echo "event $1 ${ip:-none} ${boot_file:-none} ${siaddr:-none}"
case $1 in bound|renew) ip addr replace "$ip/$mask" dev "$interface" ;; esac
"""


def dnsmasq(bench: Bench, interface: str) -> list[str]:
    """Addresses and nothing else; `-p 0` leaves names to others."""
    return [
        *("dnsmasq", "--keep-in-foreground", "--user=root", "--log-facility=-", "--port=0"),
        *("--no-ping", "--conf-file=/dev/null", f"--dhcp-leasefile={bench.folder / 'leases'}"),
        *("--bind-interfaces", f"--interface={interface}", "--log-dhcp"),
        f"--dhcp-range={LEASED},{LEASED},255.255.255.128,2m",
    ]


def other_machine(bench: Bench, *more: str, name: str = "dnsmasq", last: int = 5) -> LabProcess:
    """dnsmasq on a host of its own, at 192.168.44.`last`."""
    host = bench.host(name, mac=f"02:00:00:44:00:{last:02x}", address=f"192.168.44.{last}/25")
    process = host.spawn([*dnsmasq(bench, "eth0"), *more], name=name)
    wait_dnsmasq(process)
    return process


def network(bench: Bench) -> dict[str, Any]:
    """What the daemon's status says of the first network."""
    return dict(bench.status()["networks"][0])


def wait_dnsmasq(process: LabProcess) -> None:
    process.wait_log("DHCP, sockets bound", timeout_s=EVENT_TIMEOUT_S)


def options(frame: Any) -> dict[Any, Any]:
    return {item[0]: item[1] for item in frame[DHCP].options if isinstance(item, tuple)}


def collect_offers(machine: Machine) -> list[Any]:
    machine.broadcast(machine.message("discover"))
    offers = []
    while (offer := machine.reply(2, SILENCE_S)) is not None:
        offers.append(offer)
    return offers


@pytest.mark.parametrize("place", ["another machine", "this machine"])
@pytest.mark.parametrize("voice", VOICES)
def test_the_address_comes_from_the_other_server_and_the_boot_from_us(
    bench: Bench, need: Callable[..., None], voice: str, place: str
) -> None:
    need("dnsmasq")
    bench.configure(NODES, dhcp="proxy")
    if place == "this machine":
        address_server = bench.server
        wait_dnsmasq(bench.lab.spawn(dnsmasq(bench, "srv0"), name="dnsmasq"))
    else:
        address_server = OTHER_SERVER
        host = bench.host("dnsmasq", address=f"{OTHER_SERVER}/25")
        wait_dnsmasq(host.spawn(dnsmasq(bench, "eth0"), name="dnsmasq"))
    bench.start()
    machine = bench.machine(bench.host("node"), MAC, voice)
    offers = collect_offers(machine)
    assert len(offers) == 2
    (ours,) = [offer for offer in offers if offer[BOOTP].yiaddr == "0.0.0.0"]
    (theirs,) = [offer for offer in offers if offer is not ours]
    assert options(theirs)["server_id"] == address_server
    assert theirs[BOOTP].yiaddr == LEASED
    assert theirs[BOOTP].file.rstrip(b"\0") == b""
    assert options(ours)["server_id"] == bench.server
    assert options(ours)["vendor_class_id"] == b"PXEClient"
    assert ours[BOOTP].file.rstrip(b"\0") == VOICES[voice]
    assert ours[BOOTP].siaddr == bench.server
    assert "lease_time" not in options(ours)

    ack = machine.request(LEASED, address_server)
    assert ack is not None
    assert (options(ack)["message-type"], ack[BOOTP].yiaddr) == (5, LEASED)
    # An ACK of ours, without an address, would be taken for the lease.
    assert machine.reply(None, SILENCE_S) is None
    assert bench.node("alpha")["address"] == LEASED


@pytest.mark.parametrize("asks", ["as bootnoded offers", "as dnsmasq offers"])
def test_firmware_asks_port_4011_after_it_has_its_address(
    bench: Bench, need: Callable[..., None], asks: str
) -> None:
    """Sent there by our offer, or by a server on this machine that says no more than PXEClient."""
    need("dnsmasq")
    is_ours = asks == "as bootnoded offers"
    bench.configure(NODES, dhcp=f"proxy, proxy_style: {'port4011' if is_ours else 'direct'}")
    more = [] if is_ours else ["--dhcp-option=vendor:PXEClient,60,PXEClient"]
    wait_dnsmasq(bench.lab.spawn([*dnsmasq(bench, "srv0"), *more], name="dnsmasq"))
    bench.start()
    machine = bench.machine(bench.host("node"), MAC, "ovmf_2022_x64_pxe_discover")
    offers = {offer[BOOTP].yiaddr: options(offer) for offer in collect_offers(machine)}
    assert [*sorted(offers)] == ["0.0.0.0", LEASED]
    assert "vendor_class_id" in offers["0.0.0.0"]
    assert ("vendor_specific" in offers["0.0.0.0"]) is not is_ours
    assert ("vendor_class_id" in offers[LEASED]) is not is_ours
    assert machine.request(LEASED, bench.server) is not None
    machine.take(LEASED)
    message = machine.message("request", capture="edk2_port4011_request")
    message.ciaddr = LEASED
    machine.unicast(message, LEASED, bench.server, bench.server_mac(), (4011, 4011))
    reply = machine.reply(5)
    assert reply is not None
    assert (reply.sport, reply.dport) == (4011, 4011)
    assert reply[IP].src == bench.server
    assert reply[BOOTP].file.rstrip(b"\0") == b"snponly.efi"
    assert bench.node("alpha")["stage"] == "ack"


@pytest.mark.parametrize("first", ["dnsmasq", "bootnoded"])
def test_an_operating_system_has_no_business_with_us(
    bench: Bench, need: Callable[..., None], first: str
) -> None:
    """Its renewals, sent to the one address, reach the server that lent it its own."""
    need("dnsmasq", "busybox")
    bench.configure(NODES, dhcp="proxy")
    if first == "bootnoded":
        bench.start()
    other = bench.lab.spawn(dnsmasq(bench, "srv0"), name="dnsmasq")
    wait_dnsmasq(other)
    if first == "dnsmasq":
        bench.start()
    script = bench.folder / "script"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    host = bench.host("system", mac=MAC)
    client = host.spawn(
        ["busybox", "udhcpc", "-i", "eth0", "-f", "-s", script, "-t", "4", "-T", "3"],
        name="udhcpc",
    )
    client.wait_log(rf"^event bound {LEASED} none", timeout_s=EVENT_TIMEOUT_S)
    client.send_signal(signal.SIGUSR1)
    client.wait_log(rf"^event renew {LEASED} none", timeout_s=EVENT_TIMEOUT_S)
    # What was broadcast both heard, and the renewal, which was not, only the other.
    counters = bench.status()["counters"]
    assert other.log_text.count("DHCPREQUEST(") == counters["dhcp.request"] + 1
    assert "dhcp.offer" not in counters
    assert "dhcp.ack" not in counters


# Other servers, and `dhcp: auto`

AUTO = f"auto, pool: {POOL}, probe: false"


@pytest.mark.parametrize("pings", ["quick", "pings"])
def test_auto_beside_another_server_acts_as_proxy(
    bench: Bench, need: Callable[..., None], pings: str
) -> None:
    """dnsmasq's own ping takes up to 3 s."""
    need("dnsmasq")
    bench.configure(NODES, dhcp=AUTO)
    host = bench.host("dnsmasq", mac=OTHER_MAC, address=f"{OTHER_SERVER}/25")
    left_out = "--no-ping" if pings == "pings" else ""
    wait_dnsmasq(
        host.spawn([word for word in dnsmasq(bench, "eth0") if word != left_out], name="d")
    )
    daemon = bench.start()
    told = network(bench)
    assert (told["dhcp"], told["acts_as"]) == ("auto", "proxy")
    assert told["why"].startswith(f"DHCP server {OTHER_SERVER} (mac {OTHER_MAC}) offered ")
    assert "acts_as=proxy: DHCP server" in daemon.log_text
    machine = bench.machine(bench.host("node"), MAC, "ovmf_2022_x64_pxe_discover")
    offers = collect_offers(machine)
    assert sorted(offer[BOOTP].yiaddr for offer in offers) == ["0.0.0.0", LEASED]
    # What is expected is no news.
    assert "two harm" not in daemon.log_text
    # The address that was offered to the question was not taken.
    assert machine.request(LEASED, OTHER_SERVER) is not None


def test_auto_alone_gives_addresses_and_stands_back_when_another_comes(
    bench: Bench, need: Callable[..., None]
) -> None:
    need("dnsmasq")
    bench.configure(NODES, dhcp=AUTO)
    daemon = bench.start()
    assert network(bench)["acts_as"] == "full"
    old = bench.machine(bench.host("old"), "52:54:00:44:00:0b")
    address = old.lease()
    other_machine(bench)
    new = bench.machine(bench.host("node"), MAC, "ovmf_2022_x64_pxe_discover")
    assert LEASED in [offer[BOOTP].yiaddr for offer in collect_offers(new)]
    # Seen at the latest when the client chooses the other.
    new.request(LEASED, OTHER_SERVER)
    told = network(bench)
    assert told["acts_as"] == "proxy"
    assert OTHER_SERVER in told["why"]
    assert daemon.log_text.count("acts_as=proxy from now on") == 1
    assert sorted(offer[BOOTP].yiaddr for offer in collect_offers(new)) == ["0.0.0.0", LEASED]
    # Who has an address of ours keeps it.
    renewal = old.message("request", requested_addr=None, server_id=None)
    renewal.ciaddr = address
    old.unicast(renewal, address, bench.server, bench.server_mac(), (68, 67))
    ack = old.reply(5)
    assert ack is not None
    assert ack[BOOTP].yiaddr == address
    assert bench.status()["counters"]["dhcp.stood_back"] == 1


def test_auto_beside_a_server_on_this_machine(bench: Bench, need: Callable[..., None]) -> None:
    need("dnsmasq")
    bench.configure(NODES, dhcp=AUTO)
    wait_dnsmasq(bench.lab.spawn(dnsmasq(bench, "srv0"), name="dnsmasq"))
    bench.start()
    told = network(bench)
    assert told["acts_as"] == "proxy"
    assert re.fullmatch(r"dnsmasq \(pid \d+\) on this machine has UDP port 67", told["why"])
    machine = bench.machine(bench.host("node"), MAC, "ovmf_2022_x64_pxe_discover")
    offers = collect_offers(machine)
    assert sorted(offer[BOOTP].yiaddr for offer in offers) == ["0.0.0.0", LEASED]


def test_a_server_that_comes_to_this_machine_later_cannot_start_beside_auto(
    bench: Bench, need: Callable[..., None]
) -> None:
    need("dnsmasq")
    bench.configure(NODES, dhcp=AUTO)
    bench.start()
    other = bench.lab.spawn(dnsmasq(bench, "srv0"), name="dnsmasq")
    other.wait_log("Address already in use", timeout_s=EVENT_TIMEOUT_S)
    assert network(bench)["acts_as"] == "full"


def test_auto_with_nothing_to_give_stays_proxy_and_says_when_nobody_gives(bench: Bench) -> None:
    bench.configure(NODES, dhcp="auto")
    bench.start()
    told = network(bench)
    assert told["acts_as"] == "proxy"
    assert "neither a `pool` nor a node with an `ip`" in told["why"]


def test_another_boot_server_and_a_second_server_of_addresses_are_named(
    bench: Bench, need: Callable[..., None]
) -> None:
    need("dnsmasq")
    bench.configure(NODES, dhcp="proxy")
    daemon = bench.start()
    other_machine(bench)
    machine = bench.machine(bench.host("node"), MAC, "ovmf_2022_x64_pxe_discover")
    collect_offers(machine)
    machine.request(LEASED, OTHER_SERVER)
    assert bench.status()["counters"]["dhcp.foreign_offer"] >= 1
    assert "WARNING" not in daemon.log_text
    other_machine(bench, "--dhcp-boot=evil.efi", name="second", last=6)
    # Told by broadcast, so that we hear of it too.
    discover = machine.message("discover")
    discover.flags = 0x8000
    machine.broadcast(discover)
    while machine.reply(2, SILENCE_S) is not None:
        pass
    machine.request(LEASED, "192.168.44.6")
    assert daemon.log_text.count("DHCP server 192.168.44.6") == 1
    assert f"DHCP server 192.168.44.6 (mac 02:00:00:44:00:06) offered {MAC}" in daemon.log_text
    assert "boot file 'evil.efi'" in daemon.log_text
    assert [note for note in bench.node("alpha")["notes"] if "192.168.44.6" in note]


def test_a_flood_of_forged_offers_costs_a_few_lines(bench: Bench) -> None:
    bench.configure(NODES)
    daemon = bench.start()
    wire = bench.wire(bench.host("rogue"))
    for number in range(2000):
        client = f"02:01:00:00:{number >> 8:02x}:{number & 255:02x}"
        forged = BOOTP(op=2, chaddr=bytes.fromhex(client.replace(":", "")), yiaddr="10.9.9.9")
        server = f"10.66.{number >> 8}.{number & 255}"
        ip = IP(src=server, dst="255.255.255.255") / UDP(sport=67, dport=68)
        said = DHCP(options=[("message-type", "offer"), ("server_id", server), "end"])
        wire.send(Ether(src="02:00:00:00:00:66", dst=BROADCAST_MAC) / ip / forged / said)
    machine = bench.machine(wire, MAC)
    machine.lease()
    assert bench.status()["counters"]["dhcp.foreign_offer"] > 1000
    assert daemon.log_text.count("10.66.") <= SERVERS_MAX
    assert daemon.log_text.count("somebody forges offers") == 1
    assert len(network(bench)["other_servers"]) == SERVERS_MAX
    assert len(bench.status()["nodes"]) == 1

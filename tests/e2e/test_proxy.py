"""ProxyDHCP beside a real DHCP server that knows nothing of booting: dnsmasq."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP

if TYPE_CHECKING:
    from bootnode.lab import LabProcess
    from tests.e2e.conftest import Bench, Machine

pytestmark = pytest.mark.root

MAC = "52:54:00:44:00:0a"
NODES = f"nodes:\n  alpha: {{mac: '{MAC}', image: tiny}}\nunknown: {{image: tiny}}\n"
OTHER_SERVER = "192.168.44.5"
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

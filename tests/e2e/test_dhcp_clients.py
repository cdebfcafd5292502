"""Other people's DHCP clients, from their first address to the last, against the real daemon."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bootnode.lab import Host, LabProcess
    from tests.e2e.conftest import Bench

pytestmark = pytest.mark.root

NODE_MAC, OTHER_MAC, STRANGER_MAC = "02:44:00:00:00:0a", "02:44:00:00:00:0b", "02:44:00:00:00:99"
NODE_IP = "192.168.44.10"
NODES = f"nodes:\n  alpha: {{mac: '{NODE_MAC}', ip: {NODE_IP}, image: tiny}}\n"
POOL = [IPv4Address("192.168.44.20") + index for index in range(100)]
SUBNET = IPv4Network("192.168.44.0/25")
CLIENT_TIMEOUT_S = 20.0
EVENT_TIMEOUT_S = 10.0
# dhclient waits up to 10 s between two REQUESTs, and its timers jitter.
REBIND_TIMEOUT_S = 40.0

DHCLIENT_SCRIPT = """#!/bin/sh
echo "event $reason ${new_ip_address:-none} ${new_host_name:-none} ${new_filename:-none}"
case $reason in
BOUND|RENEW|REBIND|REBOOT) ip addr replace "$new_ip_address/25" dev "$interface" ;;
RELEASE|EXPIRE|FAIL) ip addr flush dev "$interface" ;;
esac
"""
UDHCPC_SCRIPT = """#!/bin/sh
echo "event $1 ${ip:-none} ${hostname:-none} ${boot_file:-none}"
case $1 in
bound|renew) ip addr replace "$ip/$mask" dev "$interface" ;;
deconfig) ip addr flush dev "$interface" ;;
esac
"""


def dhclient(bench: Bench, host: Host, *options: str) -> list[str | Path]:
    """The command line of ISC's client."""
    script = bench.folder / "dhclient-script"
    script.write_text(DHCLIENT_SCRIPT)
    script.chmod(0o755)
    files = bench.folder / host.name
    return [
        *("dhclient", "-4", "-v", "-sf", script, "-cf", "/dev/null"),
        *("-lf", f"{files}.leases", "-pf", f"{files}.pid", *options, "eth0"),
    ]


def udhcpc(bench: Bench, host: Host, *options: str) -> list[str | Path]:
    """The command line of busybox's client."""
    script = bench.folder / "udhcpc-script"
    script.write_text(UDHCPC_SCRIPT)
    script.chmod(0o755)
    base = ["busybox", "udhcpc", "-i", "eth0", "-f", "-t", "4", "-T", "1"]
    return [*base, "-s", script, *options]


def address_of(bench: Bench, host: Host) -> IPv4Address | None:
    """The address that the host's NIC has now."""
    found = re.search(r"inet ([\d.]+)", bench.run(host, "ip", "-4", "addr", "show", "eth0"))
    return IPv4Address(found[1]) if found else None


def wait_event(client: LabProcess, name: str) -> re.Match[str]:
    """Wait for a line of a client's script."""
    return client.wait_log(rf"^event {name} (\S+) (\S+)", timeout_s=EVENT_TIMEOUT_S)


def test_dhclient_gets_reboots_and_releases(bench: Bench, need: Callable[..., None]) -> None:
    need("dhclient")
    bench.configure(NODES)
    daemon = bench.start()
    host = bench.host("alpha", mac=NODE_MAC)
    client = host.spawn(dhclient(bench, host, "-d", "-1"), name="dhclient")
    assert wait_event(client, "BOUND").groups() == (NODE_IP, "alpha")
    client.wait_log("bound to", timeout_s=EVENT_TIMEOUT_S)  # now its lease is on file
    client.send_signal(signal.SIGKILL)
    client.wait(EVENT_TIMEOUT_S)
    # With its lease on file it asks for the same address at once: INIT-REBOOT.
    client = host.spawn(dhclient(bench, host, "-d", "-1"), name="dhclient")
    assert wait_event(client, "REBOOT").groups() == (NODE_IP, "alpha")
    client.wait_log("bound to", timeout_s=EVENT_TIMEOUT_S)  # what -r reads is on file again
    bench.run(host, *dhclient(bench, host, "-r"))
    daemon.wait_log(f"mac={NODE_MAC} release .*it released {NODE_IP}", timeout_s=EVENT_TIMEOUT_S)
    assert address_of(bench, host) is None
    client = host.spawn(dhclient(bench, host, "-d", "-1"), name="dhclient-again")
    assert wait_event(client, "BOUND")[1] == NODE_IP
    assert not re.search("WARNING|ERROR", daemon.log_text)


def test_dhclient_renews_and_rebinds_by_its_own_timers(
    bench: Bench, need: Callable[..., None]
) -> None:
    """Our times are minutes at least: the client is told to take shorter ones."""
    need("dhclient")
    bench.configure(NODES)
    daemon = bench.start()
    times = bench.folder / "dhclient.conf"
    times.write_text("supersede dhcp-renewal-time 3;\nsupersede dhcp-rebinding-time 6;\n")
    host = bench.host("alpha", mac=NODE_MAC)
    client = host.spawn(dhclient(bench, host, "-d", "-cf", str(times)), name="dhclient")
    assert wait_event(client, "BOUND")[1] == NODE_IP
    assert wait_event(client, "RENEW")[1] == NODE_IP
    # Nothing that it sends to the server alone gets there any more.
    bench.run(host, "ip", "neigh", "replace", bench.server, "lladdr", STRANGER_MAC, "dev", "eth0")
    rebind = r"event RENEW(?s:.*)REQUEST for \S+ on eth0 to 255\.255\.255\.255 port 67\nDHCPACK of "
    client.wait_log(rebind + re.escape(NODE_IP), timeout_s=REBIND_TIMEOUT_S)
    assert not re.search("WARNING|ERROR| nak", daemon.log_text)


def test_udhcpc_gets_renews_and_releases(bench: Bench, need: Callable[..., None]) -> None:
    need("busybox")
    bench.configure(NODES + "unknown: address\n")
    daemon = bench.start()
    host = bench.host("stranger", mac=STRANGER_MAC)
    client = host.spawn(udhcpc(bench, host, "-R"), name="udhcpc")
    address = IPv4Address(wait_event(client, "bound")[1])
    assert address in POOL
    client.send_signal(signal.SIGUSR1)
    assert wait_event(client, "renew")[1] == str(address)
    client.send_signal(signal.SIGUSR2)
    released = f"mac={STRANGER_MAC} release .*it released {address}"
    daemon.wait_log(released, timeout_s=EVENT_TIMEOUT_S)
    client.send_signal(signal.SIGUSR1)
    client.wait_log(rf"(?s)deconfig.*bound {address}.*deconfig.*bound {address}", timeout_s=10)
    assert not re.search("WARNING|ERROR", daemon.log_text)


def test_a_stranger_gets_nothing_where_unknown_is_ignored(
    bench: Bench, need: Callable[..., None]
) -> None:
    need("busybox")
    bench.configure(NODES + "unknown: ignore\n")
    daemon = bench.start()
    host = bench.host("stranger", mac=STRANGER_MAC)
    done = host.run(udhcpc(bench, host, "-n", "-q", "-t", "2"), CLIENT_TIMEOUT_S)
    assert done.returncode == 1
    assert "no lease" in done.stderr + done.stdout
    assert "ignored: its MAC is not in the node table" in daemon.log_text
    assert address_of(bench, host) is None


def test_addresses_outlive_the_daemon(bench: Bench, need: Callable[..., None]) -> None:
    need("busybox")
    bench.configure()
    daemon = bench.start()
    hosts = [bench.host(f"host{n}", mac=f"02:44:00:00:01:{n:02x}") for n in range(2)]

    def get(host: Host) -> IPv4Address | None:
        bench.run(host, "ip", "addr", "flush", "dev", "eth0")
        bench.run(host, *udhcpc(bench, host, "-n", "-q"))
        return address_of(bench, host)

    first = [get(host) for host in hosts]
    assert len({*first}) == 2
    assert all(address in POOL for address in first)
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(5) == 0
    daemon = bench.start()
    assert [get(host) for host in reversed(hosts)] == first[::-1]
    daemon.send_signal(signal.SIGKILL)
    assert daemon.wait(5) == -signal.SIGKILL
    bench.start()
    assert [get(host) for host in hosts] == first


def test_perfdhcp_gets_hundreds_of_answers(bench: Bench, need: Callable[..., None]) -> None:
    need("perfdhcp")
    bench.configure(pool="192.168.44.10-192.168.44.119")
    daemon = bench.start()
    host = bench.host("relay", address="192.168.44.9/25")
    # It plays a relay. Once with a client for each exchange, so that no address may come twice.
    said = bench.run(
        host,
        *("perfdhcp", "-4", "-u", "-n", "100", "-r", "100", "-R", "100", "-W", "3000000"),
        *("-l", "192.168.44.9", bench.server),
    )
    assert re.findall(r"(?:sent|received) packets: (\d+)", said) == ["100"] * 4
    assert set(re.findall(r"drops: (\d+)", said)) == {"0"}
    assert "non unique addresses: 0" in said
    said = bench.run(
        host,
        *("perfdhcp", "-4", "-n", "400", "-r", "300", "-R", "100", "-W", "3000000"),
        *("-l", "192.168.44.9", bench.server),
    )
    assert re.findall(r"(?:sent|received) packets: (\d+)", said) == ["400"] * 4
    counters = bench.status()["counters"]
    assert (counters["dhcp.discover"], counters["dhcp.ack"]) == (500, 500)
    assert not re.search("WARNING|ERROR", daemon.log_text)

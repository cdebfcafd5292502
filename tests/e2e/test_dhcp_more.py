"""More DHCP against the daemon: other people's clients and relay, conflicts, floods, losses."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from scapy.layers.dhcp import BOOTP
from scapy.layers.l2 import ARP, Ether

from tests.e2e.conftest import SERVER, dhcp_options

if TYPE_CHECKING:
    from bootnode.lab import Host, LabProcess
    from tests.e2e.conftest import Bench

pytestmark = pytest.mark.root

MAC, STRANGER_MAC = "02:44:00:00:00:0a", "02:44:00:00:00:99"
NODES = f"nodes:\n  alpha: {{mac: '{MAC}', image: tiny}}\n"
EVENT_TIMEOUT_S = 15.0
POOL = [IPv4Address("192.168.44.20") + index for index in range(100)]

DHCPCD_SCRIPT = """#!/bin/sh
echo "event $reason ${new_ip_address:-none} ${new_host_name:-none}"
"""
NETWORKD_UNIT = """[Match]
Name=eth0
[Network]
DHCP=ipv4
LinkLocalAddressing=no
IPv6AcceptRA=no
[DHCPv4]
ClientIdentifier=mac
"""
# systemd-networkd alone: nothing of this machine's but a network stack, and a /sys that, being
# read-only, tells it not to wait for udev.
NETWORKD = """
mount -t tmpfs none /run && mount -o remount,bind,ro /sys &&
mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases &&
chown -R systemd-network: /run/systemd/netif && cp "$0" /run/systemd/network/eth0.network &&
exec env SYSTEMD_LOG_TARGET=console SYSTEMD_LOG_LEVEL=debug /lib/systemd/systemd-networkd
"""


def pool_address(text: str) -> IPv4Address:
    address = IPv4Address(text)
    assert address in POOL
    return address


def restart(bench: Bench, daemon: LabProcess, how: signal.Signals) -> LabProcess:
    daemon.send_signal(how)
    daemon.wait(EVENT_TIMEOUT_S)
    return bench.start()


def test_dhcpcd_binds_renews_and_releases(bench: Bench, need: Callable[..., None]) -> None:
    need("dhcpcd")
    bench.configure(NODES)
    daemon = bench.start()
    host = bench.host("alpha", mac=MAC)
    script = bench.folder / "dhcpcd-script"
    script.write_text(DHCPCD_SCRIPT)
    script.chmod(0o755)
    folder = bench.folder / "dhcpcd"
    folder.mkdir()
    setup = "mount -t tmpfs none /run && mount --bind $0 /var/lib/dhcpcd 2>/dev/null; exec $@"
    command: list[str | Path] = [
        "dhcpcd",
        "-4",
        "-B",
        "-d",
        "-f",
        "/dev/null",
        "-c",
        script,
        "eth0",
    ]
    client = host.spawn(["sh", "-c", setup, folder, *command], name="dhcpcd")
    bound = client.wait_log(r"event BOUND (\S+) (\S+)", timeout_s=EVENT_TIMEOUT_S)
    address = pool_address(bound[1])
    assert bound[2] == "alpha"
    daemon = restart(bench, daemon, signal.SIGKILL)
    client.send_signal(signal.SIGUSR1)
    client.wait_log(rf"event RENEW {address}", timeout_s=EVENT_TIMEOUT_S)
    client.send_signal(signal.SIGALRM)  # release
    released = f"mac={MAC} release .*it released {address}"
    daemon.wait_log(released, timeout_s=EVENT_TIMEOUT_S)
    assert not re.search("WARNING|ERROR", daemon.log_text)


def test_systemd_networkd_gets_one_address_and_releases_it(
    bench: Bench, need: Callable[..., None]
) -> None:
    need("/lib/systemd/systemd-networkd")
    bench.configure(NODES)
    daemon = bench.start()
    host = bench.host("alpha", mac=MAC)
    unit = bench.folder / "eth0.network"
    unit.write_text(NETWORKD_UNIT)
    client = host.spawn(["sh", "-c", NETWORKD, unit], name="networkd")
    acked = daemon.wait_log(rf"mac={MAC} request .* ack address=(\S+)", timeout_s=EVENT_TIMEOUT_S)
    address = pool_address(acked[1])
    client.wait_log(f"DHCPv4 address {address}/25", timeout_s=EVENT_TIMEOUT_S)
    client.send_signal(signal.SIGKILL)
    client.wait(EVENT_TIMEOUT_S)
    daemon = restart(bench, daemon, signal.SIGKILL)
    # With another client identifier, it gets the same address.
    unit.write_text(NETWORKD_UNIT.replace("mac", "duid"))
    client = host.spawn(["sh", "-c", NETWORKD, unit], name="networkd-again")
    client.wait_log(f"DHCPv4 address {address}/25", timeout_s=EVENT_TIMEOUT_S)
    client.send_signal(signal.SIGTERM)
    released = f"mac={MAC} release .*it released {address}"
    daemon.wait_log(released, timeout_s=EVENT_TIMEOUT_S)
    assert not re.search("WARNING|ERROR", daemon.log_text)


def test_a_lost_table_is_rebuilt_by_who_comes(bench: Bench) -> None:
    """REBINDING finds a server that knows nothing any more; the file is set aside."""
    bench.configure("unknown: address\n")
    daemon = bench.start()
    wire = bench.wire(bench.host("client"))
    machine = bench.machine(wire, MAC)
    address = machine.lease()
    daemon.send_signal(signal.SIGKILL)
    daemon.wait(EVENT_TIMEOUT_S)
    for companion in ("-wal", "-shm"):  # from these alone SQLite would restore it
        (bench.state / f"state.sqlite{companion}").unlink()
    (bench.state / "state.sqlite").write_bytes(b"not a database" * 1000)
    daemon = bench.start(name="bootnoded-again")
    daemon.wait_log(r"moved to \S*damaged-1", timeout_s=EVENT_TIMEOUT_S)
    rebind = machine.message("request", requested_addr=None, server_id=None)
    rebind.ciaddr = address
    machine.broadcast(rebind)
    ack = machine.reply(5)
    assert ack is not None
    assert ack[BOOTP].yiaddr == address


def test_lease_commands(bench: Bench) -> None:
    bench.configure("unknown: address\n")
    bench.start()
    address = bench.machine(bench.wire(bench.host("client")), MAC).lease()

    def bootnode(*words: str) -> str:
        command = [sys.executable, "-c", "from bootnode.cli import main; main()"]
        done = bench.lab.run([*command, *words, "-c", bench.config], EVENT_TIMEOUT_S)
        assert done.returncode == 0, done.stderr
        return done.stdout

    (lease,) = json.loads(bootnode("lease", "list", "--json"))
    assert (lease["address"], lease["mac"], lease["state"]) == (address, MAC, "bound")
    assert bootnode("lease", "release", address) == f"{address} released\n"
    assert re.search(rf"{address} +{MAC} +- +released", bootnode("lease", "list"))


def test_a_client_behind_dnsmasqs_relay(bench: Bench, need: Callable[..., None]) -> None:
    """Its network is nowhere near the server: the relay's address says which one it is."""
    need("dnsmasq", "busybox")
    bench.configure(
        NODES,
        networks="  - {subnet: 10.78.0.0/24, dhcp: full, pool: 10.78.0.50-10.78.0.60, "
        "router: 10.78.0.1}\n",
    )
    daemon = bench.start()
    bench.lab.run(["ip", "route", "add", "10.78.0.0/24", "via", "192.168.44.2"], 5)
    router = bench.host("router", address="192.168.44.2/25")
    # A veth pair leads on to the client, in a namespace that the router holds.
    inner = "ip netns add far && ip link add far0 type veth peer name eth0 netns far"
    bench.run(router, "sh", "-c", f"mount -t tmpfs none /run && {inner}")
    bench.run(router, "ip", "addr", "add", "10.78.0.1/24", "dev", "far0")
    bench.run(router, "ip", "link", "set", "far0", "up")
    bench.run(router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    far = ("ip", "netns", "exec", "far")
    bench.run(router, *far, "ip", "link", "set", "eth0", "address", MAC, "up")
    router.spawn(
        [
            *("dnsmasq", "--keep-in-foreground", "--port=0", "--conf-file=/dev/null", "--log-dhcp"),
            *("--user=root", "--log-facility=-", "--pid-file="),
            f"--dhcp-relay=10.78.0.1,{SERVER.ip}",
        ],
        name="relay",
    ).wait_log("DHCP relay from 10.78.0.1", timeout_s=EVENT_TIMEOUT_S)
    script = bench.folder / "script"
    script.write_text(
        '#!/bin/sh\necho "event $1 $ip ${router:-none} ${hostname:-none}"\n'
        '[ "$1" = bound ] || exit 0\n'
        "ip addr replace $ip/24 dev eth0 && ip route add default via $router\n"
    )
    script.chmod(0o755)
    udhcpc: list[str | Path] = [
        "busybox",
        "udhcpc",
        "-i",
        "eth0",
        "-f",
        "-R",
        "-t",
        "5",
        "-T",
        "2",
        "-s",
        script,
    ]
    client = router.spawn([*far, *udhcpc], name="udhcpc")
    bound = client.wait_log(
        r"event bound (10\.78\.0\.\d+) 10\.78\.0\.1 alpha", timeout_s=EVENT_TIMEOUT_S
    )
    client.send_signal(signal.SIGUSR1)  # renew: past the relay, through the router
    client.wait_log(rf"event renew {bound[1]}", timeout_s=EVENT_TIMEOUT_S)
    client.send_signal(signal.SIGTERM)
    released = f"mac={MAC} release .*it released {bound[1]}"
    daemon.wait_log(released, timeout_s=EVENT_TIMEOUT_S)
    assert not re.search("WARNING|ERROR", daemon.log_text)


def squatter(bench: Bench, address: str) -> Host:
    """A machine that was given an address by hand."""
    return bench.host("squatter", mac="02:44:00:00:00:77", address=f"{address}/25")


def test_an_address_in_use_is_not_offered(bench: Bench) -> None:
    bench.configure("unknown: address\n", pool="192.168.44.20-192.168.44.21")
    daemon = bench.start()
    squatter(bench, "192.168.44.20")
    wire = bench.wire(bench.host("client"))
    machine = bench.machine(wire, MAC)
    offer = machine.discover(requested_addr="192.168.44.20")
    assert offer[BOOTP].yiaddr == "192.168.44.21"
    daemon.wait_log(
        r"WARNING .*address=192\.168\.44\.20 is in the pool and in use by mac=02:44:00:00:00:77",
        timeout_s=EVENT_TIMEOUT_S,
    )
    assert bench.status()["counters"]["dhcp.conflict"] == 1
    # Nothing is left for another.
    other = bench.machine(wire, STRANGER_MAC)
    other.broadcast(other.message("discover"))
    assert other.reply(2, 1.0) is None


def test_probes_name_nobody(bench: Bench) -> None:
    bench.configure("unknown: address\n")
    bench.start()
    wire = bench.wire(bench.host("client"))
    machine = bench.machine(wire, MAC)
    machine.broadcast(machine.message("discover"))
    machine.broadcast(machine.message("discover"))
    offer = machine.reply(2)
    assert offer is not None
    assert machine.reply(2, 0.6) is None
    probes = [f for f in wire.heard if ARP in f and f[ARP].pdst == offer[BOOTP].yiaddr]
    assert len(probes) == 1
    assert (probes[0][ARP].psrc, probes[0][Ether].dst) == ("0.0.0.0", "ff:ff:ff:ff:ff:ff")


FLOOD = """
import random, socket, sys, time
chance = random.Random(1)
message = bytearray.fromhex(sys.argv[1])
raw = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
raw.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
for count in range(int(sys.argv[2])):
    message[4:8] = chance.randbytes(4)
    message[28:34] = b"\\x06" + chance.randbytes(5)
    raw.sendto(message, ("255.255.255.255", 67))
    if count % 20 == 0:
        time.sleep(0.005)
"""


@pytest.mark.parametrize("unknown", ["ignore", "address"])
def test_a_flood_of_invented_macs(bench: Bench, unknown: str) -> None:
    """Known nodes get their addresses meanwhile, from a pool that is dry; the log stays short."""
    nodes = "".join(
        f"  n{number}: {{mac: '02:44:00:00:01:{number:02x}', image: tiny}}\n" for number in range(6)
    )
    bench.configure(f"nodes:\n{nodes}unknown: {unknown}\n", pool="192.168.44.20-192.168.44.27")
    daemon = bench.start()
    wire = bench.wire(bench.host("client"))
    sticky = bench.machine(wire, "02:44:00:00:01:00").lease()
    foe = bench.host("foe", address="192.168.44.99/25")
    message = bytes(bench.machine(wire, MAC).message("discover")).hex()
    flood = foe.spawn([sys.executable, "-c", FLOOD, message, "6000"], name="flood")
    served = [bench.machine(wire, f"02:44:00:00:01:{number:02x}").lease() for number in range(6)]
    assert flood.wait(40) == 0
    assert served[0] == sticky
    assert len(set(served)) == 6
    counters = bench.status()["counters"]
    topic = {"ignore": "dhcp.unknown_client", "address": "dhcp.no_address"}[unknown]
    assert counters[topic] > 1000
    assert daemon.log_text.count("\n") < 500
    assert "Traceback" not in daemon.log_text


def test_restarts_keep_the_address(bench: Bench) -> None:
    bench.configure("unknown: address\n")
    daemon = bench.start()
    machine = bench.machine(bench.wire(bench.host("client")), MAC)
    address = machine.lease()
    for how in (signal.SIGKILL, signal.SIGTERM):
        daemon = restart(bench, daemon, how)
        reboot = machine.request(address, None)  # INIT-REBOOT
        assert reboot is not None
        assert dhcp_options(reboot)["message-type"] == 5
        assert machine.lease() == address

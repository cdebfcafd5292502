"""What keeps the daemon from starting: status 1, a message that helps, and nothing left behind."""

from __future__ import annotations

import re
import signal
import sqlite3
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bootnode.lab import LabProcess
    from tests.e2e.conftest import Bench

pytestmark = pytest.mark.root

MAC = "52:54:00:44:00:0a"
TIMEOUT_S = 10.0
HOLD = """
import socket, sys, time
kind = socket.SOCK_STREAM if sys.argv[1] == "tcp" else socket.SOCK_DGRAM
sock = socket.socket(socket.AF_INET, kind)
sock.bind((sys.argv[2], int(sys.argv[3])))
if sys.argv[1] == "tcp":
    sock.listen()
print("held", flush=True)
time.sleep(600)
"""


def hold(bench: Bench, protocol: str, address: str, port: int) -> LabProcess:
    """Another program that has a port of ours."""
    holder = bench.lab.spawn(
        [sys.executable, "-c", HOLD, protocol, address, str(port)], name="holder"
    )
    holder.wait_log("^held", timeout_s=TIMEOUT_S)
    return holder


def open_sockets(bench: Bench) -> list[str]:
    """What listens in the lab."""
    said = bench.lab.run(["ss", "-H", "-l", "-n", "-t", "-u", "-0"], TIMEOUT_S)
    assert said.returncode == 0, said.stderr
    return [line.split()[4] for line in said.stdout.splitlines()]


PORTS = (
    ("udp", "0.0.0.0", 67),
    ("udp", "0.0.0.0", 4011),
    ("udp", "0.0.0.0", 69),
    ("udp", "172.29.3.1", 69),
    ("tcp", "0.0.0.0", 8080),
    ("tcp", "172.29.3.1", 8080),
    ("tcp", "127.0.0.1", 8080),
)


@pytest.mark.parametrize("dhcp", ["full", "proxy"])
def test_a_port_in_use(bench: Bench, dhcp: str) -> None:
    bench.configure(dhcp=dhcp, networks=f"  - {{interface: srv1, dhcp: {dhcp}}}\n")
    for protocol, address, port in PORTS:
        holder = hold(bench, protocol, address, port)
        before = open_sockets(bench)
        said = bench.fail_to_start()
        in_use = (
            rf"{protocol.upper()} port {port} .*is in use by python\S* \(pid \d+\): stop that, or"
        )
        assert re.search(in_use, said), said
        assert "ready" not in said
        assert open_sockets(bench) == before
        assert not (bench.state / "bootnoded.sock").exists()
        holder.send_signal(signal.SIGKILL)
        holder.wait(TIMEOUT_S)
    bench.start()


def test_interfaces_that_will_not_do(bench: Bench) -> None:
    bench.lab.run(["ip", "tuntap", "add", "bare0", "mode", "tap"], TIMEOUT_S)
    text = bench.config.read_text()
    for name, complaint in (
        ("gone0", "there is no interface 'gone0' (this machine has: bare0, lo, srv0, srv1)"),
        ("bare0", "interface 'bare0' has no IPv4 address: give it one"),
        ("lo", "interface 'lo' is no Ethernet"),
    ):
        bench.config.write_text(text.replace("srv0", name))
        assert complaint in bench.fail_to_start()
    assert not (bench.state / "bootnoded.sock").exists()


def test_a_pool_of_another_network(bench: Bench) -> None:
    bench.configure(pool="192.168.44.100-192.168.44.200")
    said = bench.fail_to_start()
    assert "the pool 192.168.44.100-192.168.44.200 is not within 192.168.44.0/25" in said
    assert "mend `pool`" in said


def test_no_boot_loader(bench: Bench) -> None:
    hide = 'mount -t tmpfs none /usr/lib/ipxe; mount --bind /dev/null /boot/ipxe.efi; exec "$@"'
    said = bench.fail_to_start("unshare", "--mount", "sh", "-c", hide, "sh")
    assert "apt install ipxe" in said


def test_a_state_folder_that_cannot_be_written(bench: Bench) -> None:
    bench.state.write_text("a file")
    said = bench.fail_to_start()
    assert f"state_dir {bench.state}" in said
    bench.state.unlink()
    bench.state.mkdir()
    read_only = f'mount -t tmpfs -o ro none {bench.state}; exec "$@"'
    said = bench.fail_to_start("unshare", "--mount", "sh", "-c", read_only, "sh")
    assert str(bench.state) in said
    assert re.search("may write|user that runs", said)
    assert open_sockets(bench) == []


@pytest.mark.parametrize("damage", ["text", "torn"])
def test_damaged_leases_are_set_aside(bench: Bench, damage: str) -> None:
    daemon = bench.start()
    machine = bench.machine(bench.host("client"), MAC)
    machine.lease()
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(TIMEOUT_S) == 0
    database = bench.state / "state.sqlite"
    raw = database.read_bytes()
    database.write_bytes(b"no database\n" * 99 if damage == "text" else raw[: len(raw) // 2])
    daemon = bench.start()
    assert re.search(r"ERROR .*state\.sqlite.* moved to (\S+)", daemon.log_text)
    assert len(list(bench.state.glob("state.sqlite*damaged*"))) == 1
    assert machine.lease()
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        assert connection.execute("SELECT mac FROM lease").fetchall() == [(MAC,)]
    connection.close()


def test_a_second_daemon_on_the_same_state(bench: Bench) -> None:
    bench.start()
    first = bench.config.read_text()
    bench.config.write_text(
        first.replace("srv0", "srv1").replace(
            "192.168.44.20-192.168.44.119", "172.29.3.9-172.29.3.20"
        )
        + "http: {port: 8081}\n"
    )
    before = open_sockets(bench)
    said = bench.fail_to_start()
    assert "another bootnoded is running: it listens on" in said
    assert open_sockets(bench) == before
    assert bench.status()["nodes"] == []  # the first one still answers there
    machine = bench.machine(bench.host("client"), MAC)
    assert machine.lease()


def test_a_socket_left_behind_by_a_killed_daemon(bench: Bench) -> None:
    daemon = bench.start()
    daemon.send_signal(signal.SIGKILL)
    daemon.wait(TIMEOUT_S)
    assert (bench.state / "bootnoded.sock").exists()
    daemon = bench.start()
    assert bench.status()["nodes"] == []
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(TIMEOUT_S) == 0
    assert not (bench.state / "bootnoded.sock").exists()


def test_every_mistake_is_named_with_its_place(bench: Bench) -> None:
    bench.nodes.write_text(
        "nodes:\n"
        "  alpha: {mac: aa:bb, image: tiny}\n"
        "  beta: {mac: 52:54:00:12:34:56, imag: tiny}\n"
        "  gamma: {mac: 52:54:00:12:34:57, image: tiny}\n"
        "  gamma: {mac: 52:54:00:12:34:57, image: tiny, ip: 192.168.44.300}\n"
    )
    said = bench.fail_to_start()
    for place, complaint in (
        ("2:16", "nodes.alpha.mac: 'aa:bb' is not a MAC address"),
        ("3:34", "nodes.beta.imag: "),
        ("5:3", "nodes.gamma: duplicate key (it is on line 4 already)"),
        ("5:52", "'192.168.44.300' is not an IPv4 address"),
    ):
        assert re.search(rf"{bench.nodes}:{place}: .*{re.escape(complaint)}", said), said
    assert len(said.splitlines()) == 4
    bench.configure(dhcp="half", more="htp: {port: 80}\ntftp: {port: 99999}\n")
    said = bench.fail_to_start()
    assert len(re.findall(rf"{bench.config}:\d+:\d+: ", said)) == 3, said
    assert "http" in said
    bench.config.unlink()
    assert str(bench.config) in bench.fail_to_start()
    assert not bench.state.exists()

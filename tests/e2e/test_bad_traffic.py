"""Junk on every port while a client is served: the daemon counts it, and goes on."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from scapy.layers.dhcp import BOOTP, DHCP

if TYPE_CHECKING:
    from bootnode.lab import LabProcess
    from tests.e2e.conftest import Bench

pytestmark = pytest.mark.root

CAPTURES = Path(__file__).parents[1] / "captures"
DHCP_DATAGRAMS, TFTP_DATAGRAMS = 3000, 1000
SEED = 20260807
MAC = "52:54:00:44:00:0a"
NODES = f"nodes:\n  alpha: {{mac: '{MAC}', image: tiny}}\nunknown: address\n"
FLOOD_TIMEOUT_S = 40.0
SERVER = "192.168.44.1"

# Sends lines of hex as datagrams, a few at a time: what overflows a buffer tests nothing.
FLOOD = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for count, line in enumerate(open(sys.argv[3])):
    sock.sendto(bytes.fromhex(line), (sys.argv[1], int(sys.argv[2])))
    if count % 20 == 0:
        time.sleep(0.004)
"""
# Sends lines of hex, each on a connection of its own; prints the first line of every answer.
CONNECT = """
import socket, sys
for line in open(sys.argv[1]):
    with socket.create_connection(("192.168.44.1", 8080), timeout=1) as sock:
        sock.sendall(bytes.fromhex(line))
        answer = b""
        try:
            while piece := sock.recv(4096):
                answer += piece
        except (ConnectionResetError, TimeoutError):
            pass
        print(answer.split(b"\\r")[0].decode("latin-1"))
"""
REQUESTS = (
    b"GET / HTTP/9.9\r\n\r\n",
    b"GARBAGE\r\n\r\n",
    b"\0\1\2\3" * 100,
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 20_000 + b"\r\n\r\n",
    b"POST /report/52-54-00-44-00-0a HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /report/52-54-00-44-00-0a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nup",
    b"POST /report/52-54-00-44-00-0a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n\xff\xfe\n\n",
    b"GET /boot/nonsense.ipxe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /images/../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /images/%00/%ff/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /loaders/undionly.kpxe HTTP/1.0\r\nHost: x\r\nRange: bytes=9-1,x\r\n\r\n",
    b"DELETE / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
)


def read(path: Path) -> bytes:
    lines = path.read_text().splitlines()
    return bytes.fromhex("".join(line for line in lines if line[0] != "#"))


def mutated(seeds: list[bytes], count: int) -> list[bytes]:
    """Real messages with something wrong, the same ones each time."""
    chance = random.Random(SEED)
    found = []
    for _ in range(count):
        data = bytearray(chance.choice(seeds))
        match chance.randrange(4):
            case 0:
                del data[chance.randrange(len(data)) :]
            case 1:
                for _ in range(chance.randint(1, 12)):
                    data[chance.randrange(len(data))] = chance.randrange(256)
            case 2:
                start = chance.randrange(len(data))
                data[start:start] = chance.randbytes(chance.randint(1, 40))
            case _:
                data = bytearray(chance.randbytes(chance.randint(1, 700)))
        found.append(bytes(data))
    return found


def write(path: Path, datagrams: list[bytes]) -> Path:
    path.write_text("".join(f"{data.hex()}\n" for data in datagrams))
    return path


def test_junk_does_not_keep_a_client_waiting(bench: Bench) -> None:
    bench.configure(NODES)
    daemon = bench.start()
    seeds = [read(path) for path in sorted(CAPTURES.glob("*.hex"))]
    dhcp = write(bench.folder / "dhcp", mutated(seeds, DHCP_DATAGRAMS))
    requests = [read(path) for path in sorted((CAPTURES / "tftp").glob("*.hex"))]
    tftp = write(bench.folder / "tftp", mutated(requests, TFTP_DATAGRAMS))
    foe = bench.host("foe", address="192.168.44.99/25")
    floods = [
        foe.spawn([sys.executable, "-c", FLOOD, SERVER, port, file], name=f"flood-{port}")
        for port, file in (("67", dhcp), ("4011", dhcp), ("69", tftp))
    ]
    wire = bench.wire(bench.host("client"))
    served = 0
    while any(flood.poll() is None for flood in floods):
        machine = bench.machine(wire, f"52:54:00:46:00:{served % 8:02x}")
        machine.lease()
        served += 1
    assert [flood.wait(FLOOD_TIMEOUT_S) for flood in floods] == [0, 0, 0]
    assert served > 0
    check_log(daemon)
    counters = bench.status()["counters"]
    assert counters["dhcp.malformed"] > DHCP_DATAGRAMS / 4
    assert counters["dhcp.malformed_option"] > 0
    assert counters["tftp.malformed"] > TFTP_DATAGRAMS / 10
    assert {name for name in counters if "error" in name} == set()
    # One log line a packet, and some more for options that make no sense in it.
    assert daemon.log_text.count("\n") < 3 * (2 * DHCP_DATAGRAMS + TFTP_DATAGRAMS)


def check_log(daemon: LabProcess) -> None:
    """No fault of our own, and nothing that a terminal would take for a command."""
    assert daemon.poll() is None
    assert "Traceback" not in daemon.log_text
    assert all(c.isprintable() or c == "\n" for c in daemon.log_text)


def test_junk_by_http_is_answered_and_counted(bench: Bench) -> None:
    bench.configure(NODES)
    daemon = bench.start()
    host = bench.host("foe", address="192.168.44.99/25")
    said = bench.run(
        *(host, sys.executable, "-c", CONNECT, write(bench.folder / "http", list(REQUESTS)))
    )
    answers = said.splitlines()
    assert len(answers) == len(REQUESTS)
    assert answers[-1] == "HTTP/1.1 200 OK"
    assert all(re.match(r"(HTTP/1\.[01] (4\d\d|505) |$)", answer) for answer in answers[:-1])
    check_log(daemon)
    counters = bench.status()["counters"]
    assert counters["http.malformed"] == 6
    assert counters["report.malformed"] == 1


def test_a_client_id_of_400_bytes_harms_nobody(bench: Bench) -> None:
    """Split over two options it is legal (RFC 3396), and longer than a reply can echo."""
    bench.configure(NODES)
    daemon = bench.start()
    wire = bench.wire(bench.host("many"))
    odd = bench.machine(wire, "52:54:00:44:00:0b")
    message = odd.message("discover", client_id=None)
    half = ("client_id", b"\0" + b"x" * 199)
    message[DHCP].options = [message[DHCP].options[0], half, half, "end"]
    odd.broadcast(message)
    offer = odd.reply(2)
    assert offer is not None
    message[DHCP].options = [
        *(("message-type", "request"), ("requested_addr", offer[BOOTP].yiaddr)),
        *(("server_id", SERVER), half, half, "end"),
    ]
    odd.broadcast(message)
    assert odd.reply(5) is not None
    assert bench.machine(wire, MAC).lease()
    assert not re.search("Traceback|ERROR", daemon.log_text)

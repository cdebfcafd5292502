"""DHCP under load: dnsmasq, Kea and bootnode, each with the same simulated clients.

    make bench
    .venv/bin/python -m benchmarks.dhcp
    .venv/bin/python -m benchmarks.dhcp --seconds 2 --only bootnode

perfdhcp plays NODES PXE clients, each of which does DISCOVER and REQUEST, over a veth pair between
two network namespaces. The rate is the greatest number of four-way exchanges a second at which less
than 1 % of each half went unanswered, found by doubling and halving. Every server writes each lease
down before it acknowledges it: dnsmasq into its lease file, Kea (one thread, memfile) into its CSV
file, neither of which is flushed to the disk; bootnode into SQLite, flushed. bootnode has all
clients in its node table, as it would, and answers out of its pool like the others.

Then, of bootnode alone: the same with a small table and an empty database; how long it takes to
start with the large one, and its memory; and how long clients wait for an answer at half of the
rate while eight downloads from its HTTP server take all they can get of a 1 Gbit/s link.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from benchmarks.servers import BUILD, unpacked
from bootnode.addresses import MacAddress
from bootnode.dhcp.leases import Lease, LeaseState
from bootnode.image.store import Contents, ImageStore, Provenance
from bootnode.state import LeaseStore

NODES = 10_000
NODES_FEW = 500
LEASES = 60_000
DOWNLOADS = 8
LINK = "1gbit"
DROPS_MAX = 0.01
STEPS = 4
"""Halvings of the interval in which the rate is: the last one is 4 % wide."""
START_S = 60.0
STOP_S = 10.0
FIRST_MAC = MacAddress.parse("00:0c:01:02:03:04")
SERVER = IPv4Interface("10.64.0.1/12")
CLIENT = IPv4Interface("10.64.0.2/12")
POOL_FIRST, POOL_LAST = IPv4Address("10.65.0.0"), IPv4Address("10.67.255.255")
# Option 60 and 93 of an x64 machine with UEFI.
PXE_OPTIONS = ("-o", f"60,{b'PXEClient:Arch:00007:UNDI:003016'.hex()}", "-o", "93,0007")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What perfdhcp says of one run."""

    sent: int
    drops: float
    """The larger share of unanswered DISCOVERs and REQUESTs."""
    delays_s: tuple[float, ...]
    """From question to answer, of every pair."""


class Wire:
    """Two hosts, the server's and the clients', and the cable between them."""

    def __init__(self, stack: ExitStack) -> None:
        tag = f"{time.monotonic_ns():x}"[-6:]
        self._hosts = [f"bench-{role}-{tag}" for role in ("server", "client")]
        for host in self._hosts:
            _ip("netns", "add", host)
            stack.callback(_ip, "netns", "delete", host)
        server, client = self._hosts
        peer = ("type", "veth", "peer", "name", "eth0", "netns", client)
        _ip("link", "add", "eth0", "netns", server, *peer)
        for host, address in zip(self._hosts, (SERVER, CLIENT), strict=True):
            _ip("-n", host, "address", "add", str(address), "dev", "eth0")
            for name in ("lo", "eth0"):
                _ip("-n", host, "link", "set", name, "up")

    def on_server(self, *command: str | Path) -> list[str]:
        """The command as run on the server's host; it ends with us, however that may be."""
        return self._on(self._hosts[0], command)

    def on_client(self, *command: str | Path) -> list[str]:
        """The command as run on the clients' host."""
        return self._on(self._hosts[1], command)

    def _on(self, host: str, command: Sequence[str | Path]) -> list[str]:
        enter = ["ip", "netns", "exec", host, "setpriv", "--pdeathsig", "KILL"]
        return [*enter, *map(str, command)]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@contextmanager
def running(command: list[str], log: Path, ready: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server, from the time it says that it is ready until it is stopped."""
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
        try:
            deadline = time.monotonic() + START_S
            while ready not in log.read_text(errors="replace"):
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"{command} did not start:\n{log.read_text(errors='replace')}")
                time.sleep(0.01)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


# The servers

Started = Callable[[Wire, Path], tuple[list[str], str]]
"""The command of a server and what it says when it is ready; the folder is its own."""


def dnsmasq(wire: Wire, folder: Path) -> tuple[list[str], str]:
    """dnsmasq as its manual has it for iPXE, without the pings that would delay each offer."""
    command = wire.on_server(
        *("dnsmasq", "--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null"),
        *("--port=0", "--interface=eth0", "--bind-interfaces", "--user=root", "--no-ping"),
        f"--dhcp-leasefile={folder / 'leases'}",
        f"--dhcp-range={POOL_FIRST},{POOL_LAST},{SERVER.netmask},1h",
        *("--dhcp-lease-max=200000", "--dhcp-authoritative", "--dhcp-boot=ipxe.efi"),
        "--quiet-dhcp",
    )
    return command, "DHCP, IP range"


def kea(wire: Wire, folder: Path) -> tuple[list[str], str]:
    """Kea with its leases in a CSV file, one thread, and no line for each packet."""
    config = folder / "kea.json"
    levels = {"kea-dhcp4": "INFO", "kea-dhcp4.leases": "WARN", "kea-dhcp4.packets": "WARN"}
    loggers = [
        f'{{"name": "{name}", "severity": "{level}", "output_options": [{{"output": "stderr"}}]}}'
        for name, level in levels.items()
    ]
    config.write_text(
        '{"Dhcp4": {"interfaces-config": {"interfaces": ["eth0"], "dhcp-socket-type": "udp"},\n'
        f'"lease-database": {{"type": "memfile", "name": "{folder / "leases.csv"}"}},\n'
        '"multi-threading": {"enable-multi-threading": false}, "valid-lifetime": 3600,\n'
        f'"subnet4": [{{"subnet": "{SERVER.network}",\n'
        f'  "pools": [{{"pool": "{POOL_FIRST} - {POOL_LAST}"}}],\n'
        f'  "next-server": "{SERVER.ip}", "boot-file-name": "ipxe.efi"}}],\n'
        f'"loggers": [{", ".join(loggers)}]}}}}\n'
    )
    folders = [f"KEA_PIDFILE_DIR={folder}", f"KEA_LOCKFILE_DIR={folder}"]
    root = unpacked("kea-dhcp4-server", "usr/sbin/kea-dhcp4")
    libraries = f"LD_LIBRARY_PATH={root}/usr/lib/x86_64-linux-gnu"
    command = wire.on_server(
        "env", *folders, libraries, root / "usr" / "sbin" / "kea-dhcp4", "-c", config
    )
    return command, "DHCP4_STARTED"


def bootnode(nodes: int, leases: int) -> Started:
    """bootnoded with so many nodes in its table, and leases of others on disk."""

    def start(wire: Wire, folder: Path) -> tuple[list[str], str]:
        (folder / "files").mkdir(exist_ok=True)
        with (folder / "files" / "big").open("wb") as big:
            big.truncate(1 << 30)
        config = folder / "bootnoded.yaml"
        config.write_text(
            f"state_dir: {folder / 'state'}\nfiles: files\nnetworks:\n"
            f"  - {{interface: eth0, dhcp: full, probe: false, pool: {POOL_FIRST}-{POOL_LAST}}}\n"
        )
        macs = (FIRST_MAC.plus(number) for number in range(nodes))
        lines = (f"  node-{number:05}: {{mac: {mac}}}\n" for number, mac in enumerate(macs))
        table = "defaults: {image: failsafe}\nunknown: address\nnodes:\n" + "".join(lines)
        (folder / "nodes.yaml").write_text(table)
        _store_leases(folder / "state", leases)
        _publish(folder / "state" / "images")
        # No write-back of those while the server is measured.
        subprocess.run(["sync", "--file-system", str(folder)], check=True)
        python = [sys.executable, "-m", "bootnode.daemon"]
        return wire.on_server(*python, "-c", config), "bootnoded: ready"

    return start


def _store_leases(state: Path, count: int) -> None:
    state.mkdir()
    store = LeaseStore(state / "state.sqlite")
    store.save(
        [
            Lease(
                # From the far end: the clients that are measured find their own addresses free.
                address=POOL_LAST - number - 1,
                mac=MacAddress.parse("52:54:00:00:00:00").plus(number),
                state=LeaseState.BOUND,
                expires_s=time.time() + 3600,
            )
            for number in range(count)
        ]
    )
    store.close()


def _publish(images: Path) -> None:
    """Something to boot; nobody fetches it."""
    store = ImageStore(images)
    with store.staging("failsafe") as staging:
        staged = staging / "files"
        staged.mkdir()
        for name in ("vmlinuz", "initrd.img"):
            (staged / name).write_bytes(name.encode())
        contents = Contents(
            kernel="vmlinuz",
            initrds=("initrd.img",),
            kernel_args=("quiet",),
            kernel_release="6.1",
            ram_bytes=1,
        )
        provenance = Provenance(recipe_sha256="", packages={})
        store.publish("failsafe", staged, contents, provenance)


# Measuring


def load(wire: Wire, rate: int, seconds: float, nodes: int) -> Load:
    """One run of perfdhcp."""
    command = wire.on_client(
        *("perfdhcp", "-4", "-l", "eth0", "-r", str(rate), "-R", str(nodes)),
        *("-b", f"mac={FIRST_MAC}", *PXE_OPTIONS, "-p", f"{seconds:g}", "-W", "1000000"),
        *("-x", "t", str(SERVER.ip)),
    )
    # It exits with 3 when an exchange was not completed.
    result = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=seconds + 120
    )
    sent = [int(number) for number in re.findall(r"sent packets: (\d+)", result.stdout)]
    received = [int(number) for number in re.findall(r"received packets: (\d+)", result.stdout)]
    if result.returncode not in (0, 3) or len(sent) != 2 or not sent[0]:
        sys.exit(f"perfdhcp failed:\n{result.stdout[:2000]}{result.stderr[:2000]}")
    pairs = re.findall(r"sent / received: ([\d.]+) / ([\d.]+)", result.stdout)
    return Load(
        sent=sent[0],
        drops=max(1 - got / max(asked, 1) for asked, got in zip(sent, received, strict=True)),
        delays_s=tuple(float(answer) - float(question) for question, answer in pairs),
    )


def greatest_rate(wire: Wire, seconds: float, nodes: int, first: int) -> int:
    """The greatest rate that is kept up, within STEPS halvings."""

    def is_kept_up(rate: int) -> bool:
        # Twice, for a machine that does something else in between.
        for _ in range(2):
            run = load(wire, rate, seconds, nodes)
            if run.drops < DROPS_MAX and run.sent > 0.95 * rate * seconds:
                return True
        return False

    low = high = first
    if is_kept_up(first):
        while is_kept_up(high := low * 2):
            low = high
    else:
        while not is_kept_up(low := high // 2):
            high = low
            if low < 10:
                sys.exit("not even 10 exchanges a second")
    for _ in range(STEPS):
        middle = round(math.sqrt(low * high))
        low, high = (middle, high) if is_kept_up(middle) else (low, middle)
    return low


@contextmanager
def downloads(wire: Wire) -> Iterator[None]:
    """Downloads without an end over a link of LINK, with a queue as network cards have it."""
    server = ("tc", "qdisc", "add", "dev", "eth0")
    shape = ("root", "handle", "1:", "tbf", "rate", LINK, "burst", "256k", "latency", "50ms")
    subprocess.run(wire.on_server(*server, *shape), check=True)
    for queue in ("fq_codel", "pfifo_fast"):  # Debian's, and the kernel's where that is all it has
        inner = wire.on_server(*server, "parent", "1:", queue)
        if not subprocess.run(inner, check=False, capture_output=True).returncode:
            break
    url = f"http://{SERVER.ip}:8080/files/big"
    again = f"while curl --silent --output /dev/null {url}; do :; done"
    processes = [
        subprocess.Popen(wire.on_client("timeout", "300", "sh", "-c", again))
        for _ in range(DOWNLOADS)
    ]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.wait()
        subprocess.run(wire.on_server("tc", "qdisc", "delete", "dev", "eth0", "root"), check=True)


def _sent_bytes(wire: Wire) -> int:
    command = wire.on_server("cat", "/sys/class/net/eth0/statistics/tx_bytes")
    return int(subprocess.run(command, check=True, capture_output=True).stdout)


def _memory_mb(process: subprocess.Popen[bytes]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(peak) / 1000


# Telling


def measure_rate(start: Started, seconds: float, nodes: int, first: int) -> int:
    """The greatest rate of one server."""
    with _started(start) as (wire, _, _):
        return greatest_rate(wire, seconds, nodes, first)


@contextmanager
def _started(start: Started) -> Iterator[tuple[Wire, subprocess.Popen[bytes], float]]:
    """A server on a wire of its own, and the seconds it took to start."""
    with ExitStack() as stack:
        wire = Wire(stack)
        # Where `make` builds, and so on a disk: what is in memory costs nothing to flush.
        BUILD.mkdir(exist_ok=True)
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="dhcp-", dir=BUILD.absolute()))
        )
        command, ready = start(wire, folder)
        began = time.monotonic()
        process = stack.enter_context(running(command, folder / "log", ready))
        yield wire, process, time.monotonic() - began


def main() -> None:
    """Measure, and print a line for each server, then one for each figure of ours."""
    parser = argparse.ArgumentParser(description="DHCP under load: dnsmasq, Kea, bootnode.")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run (default 5)")
    parser.add_argument("--only", choices=("rates", "bootnode"), help="leave out the rest")
    arguments = parser.parse_args()
    print("command: python -m benchmarks.dhcp " + " ".join(sys.argv[1:]))
    ours = bootnode(NODES, LEASES)
    rate = measure_rate(ours, arguments.seconds, NODES, 2000)
    few = measure_rate(bootnode(NODES_FEW, 0), arguments.seconds, NODES_FEW, 2000)
    if arguments.only != "bootnode":
        theirs = {
            "dnsmasq": measure_rate(dnsmasq, arguments.seconds, NODES, 100),
            "Kea, one thread, memfile": measure_rate(kea, arguments.seconds, NODES, 2000),
        }
        print(f"{'exchanges a second':40} {'theirs':>7} {'ours':>7} {'ratio':>6}")
        for name, their_rate in theirs.items():
            print(f"{name:40} {their_rate:7} {rate:7} {rate / their_rate:6.2f}", flush=True)
    print(f"{f'{NODES_FEW} nodes, no leases':40} {few:7} {rate:7} {rate / few:6.2f}", flush=True)
    if arguments.only != "rates":
        measure_latency(ours, rate // 2, arguments.seconds)


def measure_latency(start: Started, rate: int, seconds: float) -> None:
    """How long answers take beside downloads, after how long a start, with how much memory."""
    with _started(start) as (wire, process, start_s):
        print(f"start with {NODES} nodes and {LEASES} leases: {start_s:.2f} s")
        load(wire, rate, 2, NODES)  # a daemon that has just started has its caches to fill
        alone = load(wire, rate, seconds, NODES)
        with downloads(wire):
            time.sleep(1)
            sent, began = _sent_bytes(wire), time.monotonic()
            beside = load(wire, rate, seconds, NODES)
            megabits = 8e-6 * (_sent_bytes(wire) - sent) / (time.monotonic() - began)
        print(f"memory at its peak: {_memory_mb(process):.0f} MB")
    print(f"at {rate} exchanges a second: {_delays(alone)}")
    print(f"beside {DOWNLOADS} downloads ({megabits:.0f} Mbit/s): {_delays(beside)}")


def _delays(run: Load) -> str:
    median, p99 = statistics.median(run.delays_s), statistics.quantiles(run.delays_s, n=100)[98]
    worst = max(run.delays_s)
    return (
        f"median {1000 * median:.2f} ms, p99 {1000 * p99:.2f} ms, worst {1000 * worst:.1f} ms, "
        f"{100 * run.drops:.2f} % unanswered"
    )


if __name__ == "__main__":
    main()

"""Signals, systemd, privileges: the daemon from READY=1 to its end, with clients at work."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from scapy.layers.dhcp import BOOTP

if TYPE_CHECKING:
    from bootnode.lab import LabProcess
    from tests.e2e.conftest import Bench

pytestmark = pytest.mark.root

MAC, NEW_MAC = "52:54:00:44:00:0a", "52:54:00:44:00:0b"
NODES = f"nodes:\n  alpha: {{mac: '{MAC}', ip: 192.168.44.10, image: tiny}}\n"
NEW_NODE = f"  beta: {{mac: '{NEW_MAC}', ip: 192.168.44.11, image: tiny}}\n"
TIMEOUT_S = 10.0
# The contract says 2 s; the machine that runs the tests may be busy.
STOP_TIMEOUT_S = 3.0
# One takes TFTP's small blocks seconds, the other is too big for the buffers of two kernels.
BIG = random.Random(5).randbytes(6_000_000)
CONTENTS = {"tftp": BIG, "http": BIG * 8}
HTTP_RATE = "12M"
IPXE = "ipxe_2019_bios_virtio_discover"


def stop(daemon: LabProcess) -> None:
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(STOP_TIMEOUT_S) == 0


# Reload


def test_a_new_node_is_served_after_a_reload(bench: Bench) -> None:
    bench.configure(NODES)
    daemon = bench.start()
    machine = bench.machine(bench.host("node"), NEW_MAC, IPXE)
    machine.broadcast(machine.message("discover"))
    daemon.wait_log(f"mac={NEW_MAC} discover .*not in the node table", timeout_s=TIMEOUT_S)
    bench.nodes.write_text(NODES + NEW_NODE)
    daemon.send_signal(signal.SIGHUP)
    daemon.wait_log("reload: 2 nodes", timeout_s=TIMEOUT_S)
    offer = machine.discover()
    assert offer[BOOTP].yiaddr == "192.168.44.11"
    # And its address changes with the table, whatever was lent to it before.
    assert machine.lease() == "192.168.44.11"
    bench.nodes.write_text(NODES + NEW_NODE.replace("44.11", "44.12"))
    daemon.send_signal(signal.SIGHUP)
    daemon.wait_log("(?s)reload: 2 nodes.*reload: 2 nodes", timeout_s=TIMEOUT_S)
    assert machine.lease() == "192.168.44.12"


def test_a_broken_table_keeps_the_old_one(bench: Bench) -> None:
    bench.configure(NODES)
    daemon = bench.start()
    bench.nodes.write_text(NODES + NEW_NODE.replace("image: tiny", "imge: tiny, ip: nowhere"))
    daemon.send_signal(signal.SIGHUP)
    daemon.wait_log(r"reload: \d problems, the old table stays", timeout_s=TIMEOUT_S)
    assert f"{bench.nodes}:3:" in daemon.log_text
    assert "imge" in daemon.log_text
    assert [node["name"] for node in bench.status()["nodes"]] == ["alpha"]
    machine = bench.machine(bench.host("node"), MAC, IPXE)
    assert machine.lease() == "192.168.44.10"
    bench.nodes.unlink()
    daemon.send_signal(signal.SIGHUP)
    daemon.wait_log(r"(?s)old table stays.*old table stays", timeout_s=TIMEOUT_S)
    assert machine.lease() == "192.168.44.10"


# Downloads under way


@pytest.fixture
def downloads(bench: Bench, need: Callable[..., None]) -> tuple[Bench, LabProcess]:
    """A daemon with a file that takes seconds to fetch."""
    need("curl")
    bench.files.mkdir()
    for name, content in CONTENTS.items():
        (bench.files / name).write_bytes(content)
    bench.configure(NODES, more=f"files: {bench.files}\n")
    return bench, bench.start()


def begin(bench: Bench) -> dict[Path, LabProcess]:
    """Fetch a file by HTTP and one by TFTP, each held up half-way; `go_on` lets them end."""
    host = bench.host("slow", address="192.168.44.10/25")
    fetches = {}
    urls = {"http": f"http://{bench.server}:8080/files/http", "tftp": f"tftp://{bench.server}/tftp"}
    for name, url in urls.items():
        target = bench.folder / f"{name}.got"
        fetches[target] = host.spawn(
            ["curl", "-sS", "--max-time", "30", "--limit-rate", HTTP_RATE, "-o", target, url],
            name=name,
        )
        wait_until_begun(target)
        # Held up, and not only slowed down: on a busy machine the other may take long to begin.
        fetches[target].send_signal(signal.SIGSTOP)
    return fetches


def go_on(fetches: dict[Path, LabProcess]) -> None:
    for fetch in fetches.values():
        assert fetch.poll() is None
        fetch.send_signal(signal.SIGCONT)


def wait_until_begun(target: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not (target.exists() and target.stat().st_size > 0):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_downloads_survive_a_reload(downloads: tuple[Bench, LabProcess]) -> None:
    bench, daemon = downloads
    fetches = begin(bench)
    bench.nodes.write_text(NODES + NEW_NODE)
    daemon.send_signal(signal.SIGHUP)
    daemon.wait_log("reload: 2 nodes", timeout_s=TIMEOUT_S)
    go_on(fetches)
    for target, fetch in fetches.items():
        assert fetch.wait(30) == 0, fetch.log_text
        assert target.read_bytes() == CONTENTS[fetch.name]


def test_the_end_does_not_wait_for_downloads(downloads: tuple[Bench, LabProcess]) -> None:
    bench, daemon = downloads
    fetches = begin(bench)
    stop(daemon)
    assert "Traceback" not in daemon.log_text
    assert not (bench.state / "bootnoded.sock").exists()
    # The clients are told, rather than left to wait.
    for fetch in fetches.values():
        fetch.send_signal(signal.SIGCONT)
        assert fetch.wait(TIMEOUT_S) != 0


# systemd


def test_systemd_is_told_everything(bench: Bench) -> None:
    bench.configure(NODES)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = bench.folder / "notify"
        manager.bind(str(path))
        manager.settimeout(TIMEOUT_S)
        daemon = bench.start("env", f"NOTIFY_SOCKET={path}", "WATCHDOG_USEC=400000")

        def wait_told(wanted: str) -> list[str]:
            told: list[str] = []
            while not told or wanted not in told[-1].splitlines():
                told.append(manager.recv(4096).decode())
            return told

        assert wait_told("READY=1") == ["READY=1"]
        for _ in range(3):
            assert wait_told("WATCHDOG=1") == ["WATCHDOG=1"]
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        daemon.send_signal(signal.SIGHUP)
        reloading = wait_told("RELOADING=1")[-1].splitlines()
        assert int(reloading[1].removeprefix("MONOTONIC_USEC=")) >= before
        wait_told("READY=1")
        daemon.send_signal(signal.SIGTERM)
        wait_told("STOPPING=1")
        assert daemon.wait(STOP_TIMEOUT_S) == 0


# Without root

CAPABILITIES = "-all,+net_bind_service,+net_raw"
AS_NOBODY = [
    *("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--no-new-privs"),
    *(f"--inh-caps={CAPABILITIES}", f"--ambient-caps={CAPABILITIES}"),
    f"--bounding-set={CAPABILITIES}",
]


@pytest.fixture
def python_of_nobody(need: Callable[..., None]) -> list[str]:
    """A Python of our version that a user without rights can run, with our packages."""
    need("setpriv")
    paths = f"PYTHONPATH={os.pathsep.join(path for path in sys.path if path)}"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for command in ([sys.executable], ["env", paths, shutil.which(version, path="/usr/bin") or ""]):
        trial = [*AS_NOBODY, *command, "-c", "import bootnode.daemon"]
        if command[-1] and subprocess.run(trial, capture_output=True).returncode == 0:
            return command
    pytest.skip(f"the user nobody may not read {sys.executable} or what it imports")


def test_two_capabilities_are_enough(bench: Bench, python_of_nobody: list[str]) -> None:
    bench.configure(NODES)
    bench.state.mkdir()
    shutil.chown(bench.state, "nobody", "nogroup")
    image = bench.publish()
    daemon = bench.lab.start_daemon(
        [*AS_NOBODY, *python_of_nobody, "-m", "bootnode.daemon", "-c", bench.config]
    )
    said = bench.lab.run(["cat", f"/proc/{daemon.status.pid}/status"], TIMEOUT_S).stdout
    assert "Uid:\t65534\t65534\t65534\t65534" in said
    assert f"CapEff:\t{1 << 10 | 1 << 13:016x}" in said
    assert "WARNING" not in daemon.log_text
    host = bench.host("node", address="192.168.44.10/25")
    machine = bench.machine(host, MAC, IPXE)
    offer = machine.discover()
    assert (offer.dst, offer[BOOTP].yiaddr) == (MAC, "192.168.44.10")  # unicast, without ARP
    assert machine.lease() == "192.168.44.10"
    for url in (
        f"http://{bench.server}:8080/images/tiny/{image.version}/vmlinuz",
        f"tftp://{bench.server}/undionly.kpxe",
    ):
        bench.run(host, "curl", "-sS", "-f", "-o", "/dev/null", url)
    daemon.send_signal(signal.SIGHUP)
    daemon.wait_log("reload: 1 nodes", timeout_s=TIMEOUT_S)
    stop(daemon)


def test_without_capabilities_it_says_what_to_do(bench: Bench, python_of_nobody: list[str]) -> None:
    bench.state.mkdir()
    shutil.chown(bench.state, "nobody", "nogroup")
    nobody = [word.replace(",+net_bind_service,+net_raw", "") for word in AS_NOBODY]
    done = bench.lab.run(
        [*nobody, *python_of_nobody, "-m", "bootnode.daemon", "-c", bench.config], TIMEOUT_S
    )
    assert done.returncode == 1
    assert "may not be bound" in done.stderr
    assert "CAP_NET_BIND_SERVICE" in done.stderr
    assert "Traceback" not in done.stderr

"""A whole boot, step by step by other people's clients, and what `boot: once` makes of it."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from scapy.layers.dhcp import BOOTP

if TYPE_CHECKING:
    import subprocess

    from bootnode.lab import Host, LabProcess
    from tests.e2e.conftest import Bench, Machine

pytestmark = pytest.mark.root

MAC, NODE_IP = "52:54:00:44:00:0a", "192.168.44.10"
NODES = f"nodes:\n  alpha: {{mac: '{MAC}', ip: {NODE_IP}, image: tiny, boot: %s}}\n"
SCRIPT = "http://192.168.44.1:8080/boot/52-54-00-44-00-0a.ipxe"
IPXE, FIRMWARE = "ipxe_2019_bios_virtio_discover", "ovmf_2022_x64_pxe_discover"
TIMEOUT_S = 10.0


class Node:
    """A host whose raw wire speaks DHCP and whose curl plays iPXE."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.host: Host = bench.host("alpha", mac=MAC, address=f"{NODE_IP}/25")
        wire = bench.wire(self.host)
        self.firmware: Machine = bench.machine(wire, MAC, FIRMWARE)
        self.ipxe: Machine = bench.machine(wire, MAC, IPXE)

    def curl(self, *arguments: str) -> str:
        return self.bench.run(self.host, "curl", "-sS", "-f", "--max-time", "10", *arguments)

    def script(self) -> str:
        """What iPXE is given, after its DHCP."""
        assert self.ipxe.lease() == NODE_IP
        return self.curl(SCRIPT)

    def boot(self) -> None:
        """From DISCOVER to the last byte of the ramdisk."""
        urls = re.findall(r"http://\S+/(?:vmlinuz|initrd\.img)", self.script())
        assert len(urls) == 2
        for url in urls:
            self.curl("-o", "/dev/null", url)


def boots_locally(script: str) -> bool:
    assert script.startswith("#!ipxe\n")
    return "/images/" not in script and re.search("sanboot|exit", script) is not None


def reload(daemon: LabProcess, bench: Bench, boot: str, count: int) -> None:
    bench.nodes.write_text(NODES % boot)
    daemon.send_signal(signal.SIGHUP)
    daemon.wait_log(r"(?s)" + "reload: 1 nodes.*" * count, timeout_s=TIMEOUT_S)


def test_once_is_once_also_after_a_restart(bench: Bench, need: Callable[..., None]) -> None:
    need("curl")
    bench.configure(NODES % "once")
    bench.publish()
    daemon = bench.start()
    node = Node(bench)
    # Retries of the first steps use nothing up.
    assert node.firmware.discover()[BOOTP].file.rstrip(b"\0") == b"snponly.efi"
    assert not boots_locally(node.script())
    assert not boots_locally(node.script())
    node.boot()
    daemon.wait_log("node=alpha has had its `boot: once`", timeout_s=TIMEOUT_S)
    assert boots_locally(node.script())
    # Firmware is given an address and no file, and goes on to its disk.
    assert node.firmware.discover()[BOOTP].file.rstrip(b"\0") == b""

    daemon.send_signal(signal.SIGKILL)
    daemon.wait(TIMEOUT_S)
    daemon = bench.start()
    assert boots_locally(node.script())

    reload(daemon, bench, "once", 1)
    assert boots_locally(node.script())  # nothing has changed for this node
    reload(daemon, bench, "network", 2)
    assert not boots_locally(node.script())
    reload(daemon, bench, "once", 3)
    assert not boots_locally(node.script())
    node.boot()
    assert boots_locally(node.script())
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(TIMEOUT_S) == 0
    bench.start()
    assert boots_locally(node.script())


def test_a_broken_download_is_no_boot(bench: Bench, need: Callable[..., None]) -> None:
    need("curl")
    bench.configure(NODES % "once")
    image = bench.publish()
    bench.start()
    node = Node(bench)
    assert not boots_locally(node.script())
    initrd = f"http://{bench.server}:8080/images/tiny/{image.version}/initrd.img"
    node.curl("-r", "0-1000", "-o", "/dev/null", initrd)
    node.curl("-I", initrd)
    assert not boots_locally(node.script())
    node.curl("-r", "1001-", "-o", "/dev/null", initrd)  # resumed, and now all of it is there
    assert boots_locally(node.script())


def command(bench: Bench, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command `bootnode` with our configuration."""
    return bench.lab.run(
        [Path(sys.executable).with_name("bootnode"), *arguments, "-c", bench.config], TIMEOUT_S
    )


def test_the_stages_are_seen_from_outside(bench: Bench, need: Callable[..., None]) -> None:
    need("curl")
    bench.configure(NODES % "network")
    assert command(bench, "check").returncode == 1
    assert "bootnode image build tiny" in command(bench, "check").stderr
    image = bench.publish()
    done = command(bench, "check")
    assert (done.returncode, done.stdout) == (0, "ok: 1 nodes on 1 network(s)\n"), done.stderr

    done = command(bench, "status")
    assert done.returncode == 1
    assert "systemctl start bootnoded" in done.stderr
    bench.start()
    node = Node(bench)
    node.firmware.lease()
    bench.run(node.host, "curl", "-sS", "-o", "/dev/null", f"tftp://{bench.server}/snponly.efi")
    node.boot()
    node.curl("-d", "init alpha", f"http://{bench.server}:8080/report/52-54-00-44-00-0a")
    node.curl("-d", "up alpha shell", f"http://{bench.server}:8080/report/52-54-00-44-00-0a")
    done = command(bench, "status", "--json")
    assert done.returncode == 0
    (told,) = json.loads(done.stdout)["nodes"]
    assert list(told["stages"]) == [
        *("discover", "offer", "request", "ack", "loader"),
        *("script", "kernel", "initrd", "init", "up"),
    ]
    assert (told["name"], told["address"], told["stage"]) == ("alpha", NODE_IP, "up")
    assert told["image"] == f"tiny/{image.version}"
    assert re.search(rf"alpha +{MAC} +{NODE_IP} +up ", command(bench, "status").stdout)

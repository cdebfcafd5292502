"""Clients that are no PC: a Raspberry Pi served from a folder, an iPXE that gets nowhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from scapy.layers.dhcp import BOOTP

from tests.e2e.conftest import dhcp_options

if TYPE_CHECKING:
    from tests.e2e.conftest import Bench

pytestmark = pytest.mark.root

PI_MAC, PI_IP = "b8:27:eb:9b:65:d4", "192.168.44.10"
IPXE_MAC, IPXE_IP = "bc:24:11:9e:91:69", "192.168.44.11"
NODES = (
    f"defaults: {{image: tiny}}\nnodes:\n  pi-1: {{mac: '{PI_MAC}', ip: {PI_IP}}}\n"
    f"  poor: {{mac: '{IPXE_MAC}', ip: {IPXE_IP}}}\n"
)


def test_a_raspberry_pi_3_boots_from_the_files_folder(
    bench: Bench, need: Callable[..., None]
) -> None:
    """Its ROM sends DISCOVER, uses what it is offered, and asks for many files in vain."""
    need("curl")
    own = bench.files / "pi-1"
    own.mkdir(parents=True)
    (own / "config.txt").write_text("kernel=vmlinuz\n")
    (bench.files / "bootcode.bin").write_bytes(b"code" * 3000)
    bench.configure(NODES, more=f"files: {bench.files}\n")
    daemon = bench.start()
    host = bench.host("pi", mac=PI_MAC, address=f"{PI_IP}/25")
    machine = bench.machine(host, PI_MAC, "raspberrypi_3_rom_discover")
    offer = machine.discover()
    told = dhcp_options(offer)
    assert (offer[BOOTP].yiaddr, offer[BOOTP].siaddr) == (PI_IP, bench.server)
    assert b"Raspberry Pi Boot   " in told["vendor_specific"]
    assert "boot-file-name" not in told

    def fetch(name: str) -> tuple[int, bytes]:
        out = bench.folder / "fetched"
        out.unlink(missing_ok=True)
        url = f"tftp://{bench.server}/{name}"
        done = host.run(["curl", "-s", "-m", "10", "-o", out, url], 20.0)
        return done.returncode, out.read_bytes() if done.returncode == 0 else b""

    assert fetch("bootcode.bin") == (0, b"code" * 3000)
    assert fetch("bdd45b9b/config.txt") == (0, b"kernel=vmlinuz\n")
    for missing in ("bootsig.bin", "bdd45b9b/cmdline.txt", "bdd45b9b/start.elf"):
        assert fetch(missing)[0] == 68, missing  # TFTP's "file not found", as curl says it
    said = daemon.log_text
    assert "bootsig.bin" not in said
    assert "cmdline.txt" not in said
    assert "start.elf" in said
    node = bench.node("pi-1")
    assert node["stage"] == "loader"


def test_a_chain_load_in_circles_is_broken_and_said(bench: Bench) -> None:
    bench.configure(NODES)
    daemon = bench.start()
    machine = bench.machine(bench.host("poor"), IPXE_MAC, "ipxe_port4011_boot_item_request")
    told = []
    for _ in range(3):
        offer = machine.discover()
        ack = machine.request(IPXE_IP, bench.server)
        assert ack is not None
        assert ack[BOOTP].yiaddr == IPXE_IP
        assert ack[BOOTP].file == offer[BOOTP].file
        told.append(ack[BOOTP].file.rstrip(b"\0").decode())
    loader = f"tftp://{bench.server}/undionly.kpxe"
    assert told == [loader, loader, ""]
    lines = [line for line in daemon.log_text.splitlines() if "told no boot file" in line]
    assert len(lines) == 1
    assert f"mac={IPXE_MAC} told no boot file: it was sent {loader} 2 times" in lines[0]
    assert "put an iPXE with HTTP and bzImage into the `files` folder" in lines[0]
    assert bench.status()["counters"]["dhcp.chain_loop"] == 1

"""The daemon's own decisions: loaders, reloads, boot-once marks, and how it fails to start.

Starting, serving and stopping for real is tested with real sockets elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from pathlib import Path

import pytest

from bootnode import daemon as module
from bootnode import net
from bootnode.addresses import Interface, MacAddress
from bootnode.boot.journal import Stage
from bootnode.boot.plan import LOADER_NAMES, UnifiedPath
from bootnode.daemon import Daemon, available_loaders, file_roots, main
from bootnode.dhcp.leases import Lease, LeaseState
from bootnode.errors import ConfigError, StartError
from bootnode.files import FileRoots
from bootnode.state import LeaseStore
from bootnode.tftp.packet import ErrorCode, ReadRequest
from bootnode.tftp.server import Endpoint, Refused, TransferEvent, UsualMissError
from bootnode.tftp.transfer import Aborted, Completed, Failed, Outcome

MAC = MacAddress.parse("fc:ab:14:e8:66:01")
OTHER = MacAddress.parse("fc:ab:14:e8:66:02")
ADDRESS = IPv4Address("10.77.0.10")
INTERFACE = Interface(
    name="tap0",
    index=7,
    mac=MacAddress.parse("02:00:00:00:00:01"),
    address=IPv4Interface("10.77.0.1/24"),
    link_local=IPv6Address("fe80::1"),
    mtu=1500,
)
CONFIG = """\
state_dir: state
files: files
networks:
  - interface: nonesuch0
    dhcp: full
    pool: 10.77.0.100-10.77.0.199
    router: 10.77.0.101
    dns: 10.77.0.102
    ntp: 10.77.0.103
"""
NODES = """\
defaults: {image: failsafe}
nodes:
  node-000: {mac: fc:ab:14:e8:66:01, ip: 10.77.0.10, boot: once}
  node-001: {mac: fc:ab:14:e8:66:02}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration, and loaders of the test's own in place of the distribution's."""
    (tmp_path / "bootnoded.yaml").write_text(CONFIG)
    (tmp_path / "nodes.yaml").write_text(NODES)
    (tmp_path / "files").mkdir()
    (tmp_path / "ipxe").mkdir()
    (tmp_path / "ipxe" / "undionly.kpxe").write_bytes(b"distribution's")
    monkeypatch.setattr(module, "LOADER_FOLDERS", (tmp_path / "ipxe",))
    monkeypatch.setattr(module, "LOADER_FILES", {"ipxe.efi": tmp_path / "boot.efi"})
    return tmp_path


def make(folder: Path) -> Daemon:
    return Daemon(folder / "bootnoded.yaml")


def make_on_loopback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """One that can start anywhere: without DHCP, on ports that are free."""
    loopback = replace(INTERFACE, address=IPv4Interface("127.0.0.2/24"))
    http_socket = net.http_socket
    monkeypatch.setattr(net, "find_interface", lambda _name: loopback)
    monkeypatch.setattr(net, "http_socket", lambda address, _port: http_socket(address, 0))
    monkeypatch.setattr(net, "tftp_socket", lambda _interface, _port: net.udp_socket())
    monkeypatch.setattr(module, "_settle", lambda: None)
    daemon = make(folder)
    monkeypatch.setattr(daemon._networks, "open", lambda *_arguments: [])
    return daemon


@pytest.fixture
async def daemon(folder: Path) -> AsyncIterator[Daemon]:
    """A daemon with its state open, and no sockets."""
    daemon = make(folder)
    async with AsyncExitStack() as stack:
        daemon._open_state(stack)
        yield daemon


def stored_marks(folder: Path) -> set[tuple[str, str]]:
    """What a daemon that starts now would know of used up boots."""
    store = LeaseStore(folder / "state" / "state.sqlite")
    try:
        return store.spent_boots()
    finally:
        store.close()


def settle(daemon: Daemon) -> None:
    """Wait for the thread of the database."""
    daemon._executor.submit(lambda: None).result(10)


# Loaders


def test_loaders_are_the_users_first_then_the_distributions(folder: Path) -> None:
    roots = file_roots(make(folder).config)
    assert available_loaders(roots) == {"undionly.kpxe"}
    (folder / "files" / "undionly.kpxe").write_bytes(b"mine")
    (folder / "files" / "snponly.efi").write_bytes(b"mine")
    (folder / "boot.efi").write_bytes(b"elsewhere")
    (folder / "ipxe" / "ipxe.efi").symlink_to(folder / "boot.efi")  # as Debian has it
    (folder / "ipxe" / "ipxe.pxe").symlink_to("nowhere")
    assert available_loaders(roots) == {"undionly.kpxe", "snponly.efi", "ipxe.efi"}
    assert roots.resolve("undionly.kpxe").read_bytes() == b"mine"
    assert roots.resolve("ipxe.efi") == folder / "boot.efi"


def test_without_a_folder_of_the_users(folder: Path) -> None:
    (folder / "bootnoded.yaml").write_text(CONFIG.replace("files: files\n", ""))
    assert available_loaders(file_roots(make(folder).config)) == {"undionly.kpxe"}


def test_no_loader_at_all(tmp_path: Path) -> None:
    with pytest.raises(StartError) as caught:
        available_loaders(FileRoots([tmp_path]))
    assert str(caught.value) == (
        "there is no boot loader: install the package ipxe (`apt install ipxe`), "
        "or put undionly.kpxe and snponly.efi into the folder that `files` names"
    )


# Starting


def test_a_wrong_configuration(folder: Path) -> None:
    (folder / "nodes.yaml").write_text("nodes: {a: {}}\n")
    with pytest.raises(ConfigError, match=r"nodes\.yaml:1:12: nodes\.a\.mac: is missing"):
        make(folder)


async def test_a_missing_interface_leaves_nothing_behind(folder: Path) -> None:
    with pytest.raises(StartError, match="there is no interface 'nonesuch0'"):
        await make(folder).run()
    assert [path.name for path in (folder / "state").iterdir()] == ["state.sqlite"]


async def test_state_dir_that_cannot_be_made(folder: Path) -> None:
    (folder / "state").write_text("a file")
    with pytest.raises(StartError) as caught:
        await make(folder).run()
    assert str(caught.value) == (
        f"state_dir {folder}/state cannot be made: File exists: "
        "create it for the user that runs bootnoded, or name another one"
    )


async def test_damaged_state_is_set_aside_and_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "state").mkdir()
    (folder / "state" / "state.sqlite").write_bytes(b"no database" * 1000)
    async with AsyncExitStack() as stack:
        make(folder)._open_state(stack)
    assert "starting without leases and boot-once marks" in caplog.text


async def test_a_pool_outside_of_the_network(daemon: Daemon) -> None:
    (settings,) = daemon.config.networks
    elsewhere = Interface(
        name="eth0",
        index=2,
        mac=INTERFACE.mac,
        address=IPv4Interface("192.168.5.1/24"),
        link_local=INTERFACE.link_local,
        mtu=1500,
    )
    with pytest.raises(StartError) as caught:
        daemon._networks.add_subnet(settings, elsewhere.address.network, [], elsewhere)
    assert str(caught.value) == (
        "the pool 10.77.0.100-10.77.0.199 is not within 192.168.5.0/24, the network of nonesuch0 "
        "(192.168.5.1/24): mend `pool` in bootnoded.yaml, or the interface's address"
    )


async def test_leases_come_back_and_servers_addresses_are_not_lent(daemon: Daemon) -> None:
    lease = Lease(
        address=IPv4Address("10.77.0.150"), mac=OTHER, state=LeaseState.BOUND, expires_s=2e9
    )
    (settings,) = daemon.config.networks
    leases = daemon._networks.add_subnet(
        settings, INTERFACE.address.network, [lease], INTERFACE
    ).leases
    daemon._networks.reserve()
    assert leases.lookup(OTHER) is not None
    assert leases.is_reserved(MAC, ADDRESS)
    for taken in ("10.77.0.101", "10.77.0.102", "10.77.0.103"):
        given = leases.offer(OTHER.plus(1), requested=IPv4Address(taken), now=1e9)
        assert isinstance(given, IPv4Address)
        assert given != IPv4Address(taken)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("networks: []\n", "bootnoded.yaml:1:11: networks: a list is too short (want 1 or more)"),
        (CONFIG, "there is no interface 'nonesuch0'"),
    ],
)
def test_what_keeps_it_from_starting_is_said_in_a_line(
    folder: Path,
    text: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (folder / "bootnoded.yaml").write_text(text)
    monkeypatch.setattr(sys, "argv", ["bootnoded", "-c", str(folder / "bootnoded.yaml")])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 1
    (line,) = caplog.messages
    assert message in line
    assert "Traceback" not in caplog.text


async def test_the_end_does_not_wait_for_an_answer_about_other_servers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def ask() -> None:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    daemon = make_on_loopback(folder, monkeypatch)
    monkeypatch.setattr(daemon._networks, "decide", ask)
    running = asyncio.create_task(daemon.run())
    async with asyncio.timeout(10):
        await asked.wait()
        daemon.stop()
        await running
    assert left.is_set()


async def test_a_fault_in_asking_for_other_servers_ends_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> None:
        raise StartError("no wire")

    daemon = make_on_loopback(folder, monkeypatch)
    monkeypatch.setattr(daemon._networks, "decide", ask)
    with pytest.raises(StartError, match="no wire"):
        await daemon.run()


# Reload


async def test_reload_replaces_the_table(
    daemon: Daemon, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (settings,) = daemon.config.networks
    leases = daemon._networks.add_subnet(settings, INTERFACE.address.network, [], INTERFACE).leases
    (folder / "nodes.yaml").write_text(
        "defaults: {image: failsafe}\n"
        "nodes: {new: {mac: fc:ab:14:e8:66:02, ip: 10.77.0.20}}\n"
        "unknown: address\n"
    )
    (folder / "files" / "snponly.efi").write_bytes(b"put there since")
    await daemon.reload()
    assert [node.name for node in daemon.policy.table] == ["new"]
    assert daemon.policy.table.unknown == "address"
    assert daemon.policy.loaders == {"undionly.kpxe", "snponly.efi"}
    assert leases.is_reserved(OTHER, IPv4Address("10.77.0.20"))
    assert not leases.is_reserved(MAC, ADDRESS)
    assert caplog.messages == ["reload: 1 nodes in the table"]


async def test_reload_with_errors_keeps_the_old_table(
    daemon: Daemon, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = daemon.policy.table
    (folder / "nodes.yaml").write_text("nodes: {a: {mac: x}, b: {}}\n")
    await daemon.reload()
    assert daemon.policy.table is before
    assert caplog.messages == [
        f"{folder}/nodes.yaml:1:18: nodes.a.mac: 'x' is not a MAC address (want aa:bb:cc:dd:ee:ff)",
        f"{folder}/nodes.yaml:1:25: nodes.b.mac: is missing",
        "reload: 2 problems, the old table stays",
    ]
    (folder / "nodes.yaml").unlink()
    await daemon.reload()
    assert daemon.policy.table is before


async def test_what_needs_a_restart_is_said(
    daemon: Daemon, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "bootnoded.yaml").write_text(CONFIG + "http: {port: 80}\n")
    await daemon.reload()
    assert caplog.messages == [
        (
            f"reload: {folder}/bootnoded.yaml has changed beyond `nodes`: "
            "restart bootnoded for that to count"
        )
    ]
    assert daemon.config.http.port == 8080


async def test_another_node_table_needs_no_restart(
    daemon: Daemon, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "bootnoded.yaml").write_text(CONFIG + "nodes: others.yaml\n")
    (folder / "others.yaml").write_text("nodes: {}\n")
    await daemon.reload()
    assert len(daemon.policy.table) == 0
    assert caplog.messages == []


async def test_a_reload_without_loaders_keeps_those_of_the_start(
    daemon: Daemon, folder: Path
) -> None:
    daemon.policy.loaders = LOADER_NAMES
    (folder / "ipxe" / "undionly.kpxe").unlink()
    await daemon.reload()
    assert daemon.policy.loaders == LOADER_NAMES


# boot: once


async def test_boot_once_is_spent_when_the_image_is_there(
    daemon: Daemon, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for mac in (MAC, MAC, OTHER, OTHER.plus(1)):  # a second time; not on `once`; a stranger
        daemon._on_delivered(mac)
    assert daemon.policy.spent == {("node-000", "failsafe")}
    assert caplog.messages == [
        "node=node-000 has had its `boot: once`: from now on it boots locally"
    ]
    settle(daemon)
    assert stored_marks(folder) == {("node-000", "failsafe")}
    again = make(folder)
    async with AsyncExitStack() as stack:
        again._open_state(stack)
        assert again.policy.spent == {("node-000", "failsafe")}


@pytest.mark.parametrize(
    ("nodes", "is_kept"),
    [
        (NODES, True),
        (NODES.replace("failsafe", "compute"), True),  # put back, failsafe is still spent
        (NODES.replace("boot: once", "boot: network"), False),
        (NODES.replace("node-000", "renamed"), False),
    ],
)
async def test_boot_once_is_armed_again_by_taking_it_out(
    daemon: Daemon, folder: Path, nodes: str, is_kept: bool
) -> None:
    daemon._on_delivered(MAC)
    (folder / "nodes.yaml").write_text(nodes)
    await daemon.reload()
    settle(daemon)
    marks = {("node-000", "failsafe")} if is_kept else set()
    assert daemon.policy.spent == marks
    assert stored_marks(folder) == marks


async def test_a_mark_that_cannot_be_stored_counts_and_is_said(
    daemon: Daemon, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_node: str, _image: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(daemon._store, "spend_boot", fail)
    daemon._on_delivered(MAC)
    settle(daemon)
    assert daemon.policy.spent == {("node-000", "failsafe")}
    assert caplog.messages == ["node-000 failsafe not stored: [Errno 28] No space left on device"]


# TFTP


COMPLETED = Completed(bytes_sent=9, blocks=1, retransmits=0, acknowledged=True)


def event(
    outcome: Refused | Outcome, host: IPv4Address = ADDRESS, filename: str = "snponly.efi"
) -> TransferEvent:
    return TransferEvent(
        client=Endpoint(host, 2070),
        server=IPv4Address("10.77.0.1"),
        filename=filename,
        outcome=outcome,
        seconds=0.1,
    )


async def test_what_a_node_does_by_tftp_is_in_its_journal(daemon: Daemon) -> None:
    daemon.journal.locate(MAC, ADDRESS, now=1.0)
    record = daemon.journal.get(MAC)
    assert record is not None
    daemon._on_transfer(event(Refused(code=ErrorCode.NOT_FOUND, reason="not there")))
    daemon._on_transfer(event(Failed(bytes_sent=0, blocks=0, retransmits=5, reason="no answer")))
    assert not record.boots
    assert [note.text for note in record.notes] == [
        *("tftp snponly.efi: not there", "tftp snponly.efi: no answer"),
    ]
    daemon._on_transfer(event(COMPLETED))
    assert [(boot.stage, boot.detail) for boot in record.boots] == [(Stage.LOADER, "snponly.efi")]


async def test_a_unified_kernel_image_by_tftp_is_a_whole_delivery(daemon: Daemon) -> None:
    daemon.journal.locate(MAC, ADDRESS, now=1.0)
    path = UnifiedPath(mac=MAC, version="0123456789abcdef")
    aborted = Aborted(bytes_sent=0, blocks=0, retransmits=0, reason="size probe", size_probe=True)
    daemon._on_transfer(event(aborted, filename=str(path)))
    assert daemon.policy.spent == set()
    daemon._on_transfer(event(COMPLETED, filename=f"/{path}"))
    assert daemon.policy.spent == {("node-000", "failsafe")}
    record = daemon.journal.get(MAC)
    assert record is not None
    assert [[*boot.stages] for boot in record.boots] == [[Stage.LOADER, Stage.KERNEL, Stage.INITRD]]
    settle(daemon)


async def test_a_unified_kernel_image_by_tftp_is_the_nodes_own(daemon: Daemon) -> None:
    daemon.journal.locate(MAC, ADDRESS, now=1.0)
    path = UnifiedPath(mac=MAC, version="0123456789abcdef")
    request = ReadRequest(filename=str(path), mode="octet")
    server = IPv4Address("10.77.0.1")
    with pytest.raises(PermissionError, match="is not its address"):
        daemon._open_file(request, Endpoint(IPv4Address("10.77.0.99"), 1), server)
    with pytest.raises(FileNotFoundError, match="image 'failsafe' has no version"):
        daemon._open_file(request, Endpoint(ADDRESS, 1), server)


async def test_a_raspberry_pi_is_served_from_its_nodes_folder_or_the_top(folder: Path) -> None:
    """By the serial number that it puts before each name, or without."""
    pi = "dc:a6:32:ec:fc:3c"
    text = f"defaults: {{image: failsafe}}\nnodes:\n  pi-1: {{mac: '{pi}'}}\n"
    (folder / "nodes.yaml").write_text(text)
    files = folder / "files"
    (files / "pi-1").mkdir()
    (files / "start4.elf").write_bytes(b"everyone's")
    (files / "pi-1" / "config.txt").write_bytes(b"its own")
    daemon = make(folder)
    daemon.journal.locate(MacAddress.parse(pi), ADDRESS, now=1.0)

    def fetch(name: str, host: IPv4Address = ADDRESS) -> bytes:
        request = ReadRequest(filename=name, mode="octet")
        source = daemon._open_file(request, Endpoint(host, 1), IPv4Address("10.77.0.1"))
        with closing(source):
            return source.read(0, 99)

    assert fetch("9b65d4bd/start4.elf") == b"everyone's"
    assert fetch("dc-a6-32-ec-fc-3c/config.txt") == fetch("config.txt") == b"its own"
    with pytest.raises(UsualMissError, match=r"'9b65d4bd/cmdline\.txt' does not exist"):
        fetch("9b65d4bd/cmdline.txt")
    with pytest.raises(FileNotFoundError, match=r"'9b65d4bd/start\.elf' does not exist") as needed:
        fetch("9b65d4bd/start.elf")
    assert not isinstance(needed.value, UsualMissError)
    with pytest.raises(PermissionError, match="leads upwards"):
        fetch("9b65d4bd/../../bootnoded.yaml")
    # Another machine has no part in the node's folder.
    with pytest.raises(FileNotFoundError):
        fetch("9b65d4bd/config.txt", IPv4Address("10.77.0.99"))


async def test_a_usual_miss_is_no_note(daemon: Daemon) -> None:
    daemon.journal.locate(MAC, ADDRESS, now=1.0)
    usual = Refused(code=ErrorCode.NOT_FOUND, reason="not there", is_usual=True)
    daemon._on_transfer(event(usual))
    record = daemon.journal.get(MAC)
    assert record is not None
    assert not record.notes


async def test_a_stranger_by_tftp_is_nobodys_business(daemon: Daemon) -> None:
    daemon._on_transfer(event(COMPLETED, IPv4Address("10.77.0.99")))
    assert list(daemon.journal) == []


# The watchdog


async def test_watchdog_without_systemd_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    await module._watchdog()


async def test_watchdog_says_that_the_loop_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    async def sleep(seconds: float) -> None:
        assert seconds == 15.0
        if len(said) == 3:
            raise TimeoutError

    monkeypatch.setattr(module, "notify", said.append)
    monkeypatch.setattr(module, "watchdog_interval_s", lambda: 15.0)
    monkeypatch.setattr("bootnode.daemon.asyncio.sleep", sleep)
    with pytest.raises(TimeoutError):
        await module._watchdog()
    assert said == ["WATCHDOG=1"] * 3


def test_a_node_that_runs_its_script_goes_in_no_circle(folder: Path) -> None:
    """A virtual machine behind a loader of ours, that reboots every few seconds."""
    daemon = Daemon(folder / "bootnoded.yaml")
    for xid in range(5):
        assert not daemon.policy.chains.is_circle(
            MAC, "undionly.kpxe", xid=xid, is_discover=True, now=float(xid)
        )
        daemon.journal.reach(MAC, Stage.SCRIPT, now=float(xid))

"""The lab itself: real namespaces, firmware, a stranger's DHCP server, and nothing left over."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from bootnode.addresses import MacAddress
from bootnode.errors import LabError
from bootnode.lab import Lab, LabConfig, LabProcess, NodeVm
from bootnode.lab.acceleration import probe
from bootnode.lab.config import FOLDER_LENGTH_MAX
from bootnode.lab.qemu import NAME_LENGTH_MAX

pytestmark = pytest.mark.root

END_TIMEOUT_S = 10.0
SCRIPT = "#!ipxe\necho hello ${net0/mac} from ${platform}\nsleep 60\n"


@pytest.fixture
def config(tmp_path: Path) -> LabConfig:
    return LabConfig(folder=tmp_path / "lab", accel="tcg")


@pytest.fixture
def lab(config: LabConfig) -> Iterator[Lab]:
    with Lab.up(config) as lab:
        yield lab


def processes_of(folder: Path) -> dict[int, str]:
    """Every process of this machine with the folder on its command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode().replace("\0", " ")
        except (OSError, UnicodeDecodeError):
            continue  # no process, or one that just ended
        if str(folder) in words:
            found[int(entry.name)] = words
    return found


def namespaces() -> set[int]:
    """The network and process namespaces that any process of this machine is in."""
    found = set()
    for kind in ("net", "pid"):
        for link in Path("/proc").glob(f"[0-9]*/ns/{kind}"):
            try:
                found.add(link.stat().st_ino)
            except OSError:
                continue  # it just ended
    return found


def supervisor_of(folder: Path) -> int:
    """The lab's process 1 (not `unshare` above it)."""
    (pid,) = [
        pid
        for pid, words in processes_of(folder).items()
        if "bootnode.lab.supervisor" in words and not words.startswith("unshare")
    ]
    return pid


def wait_until_gone(folder: Path) -> None:
    deadline = time.monotonic() + END_TIMEOUT_S
    while (left := processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == {}


def dnsmasq(folder: Path, *arguments: str) -> list[str]:
    """A DHCP server that knows only what its command line says."""
    return [
        *("dnsmasq", "--keep-in-foreground", "--user=root", "--log-facility=-", "--port=0"),
        "--no-ping",  # else it pings each address for 3 s before it offers it
        *("--conf-file=/dev/null", f"--dhcp-leasefile={folder / 'leases'}", "--bind-interfaces"),
        *arguments,
    ]


def test_a_lab_has_its_tap_and_nothing_of_the_machine(lab: Lab) -> None:
    addresses = lab.run(["ip", "-brief", "addr"], 5).stdout
    assert [line.split()[0] for line in addresses.splitlines()] == ["lo", "tap0"]
    assert "10.77.0.1/24" in addresses
    assert "fe80::" in addresses  # usable at once: no duplicate address detection
    assert sorted(lab.run(["ls", "/sys/class/net"], 5).stdout.split()) == ["lo", "tap0"]
    assert [p.name for p in lab.processes()] == ["plug-tap0", "switch-tap0"]


def test_two_labs_with_the_same_addresses_run_side_by_side(lab: Lab, tmp_path: Path) -> None:
    with Lab.up(LabConfig(folder=tmp_path / "other")) as other:
        assert other.run(["ip", "addr", "show", "tap0"], 5).returncode == 0
    assert lab.is_up
    assert not other.is_up


def test_the_longest_folder_and_node_name_fit_into_socket_paths(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * (FOLDER_LENGTH_MAX - len(str(tmp_path)) - 1))
    with Lab.up(LabConfig(folder=folder, accel="tcg")) as lab:
        host = lab.add_host("other", address=IPv4Interface("10.77.0.9/24"))
        assert host.run(["busybox", "ping", "-c1", "-W5", "10.77.0.1"], 10).returncode == 0
        mac = MacAddress.parse("52:54:00:00:00:01")
        assert lab.boot(NodeVm(name="n" * NAME_LENGTH_MAX, mac=mac)).is_on


def test_commands_run_in_the_callers_folder_and_report_their_status(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = lab.run(["sh", "-c", "pwd; echo no >&2; exit 3"], 5)
    assert (done.returncode, done.stdout, done.stderr) == (3, f"{tmp_path}\n", "no\n")


def test_a_command_that_takes_too_long_is_killed(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"still running after 0\.2 s\nbegun"):
        lab.run(["sh", "-c", f"echo begun; sleep 60; : {tmp_path}/sleeper"], 0.2)
    wait_until_gone(tmp_path / "sleeper")


def test_processes_are_reaped_and_their_status_is_kept(lab: Lab, tmp_path: Path) -> None:
    process = lab.spawn(["sh", "-c", "echo $GREETING; exit 4"], name="p", env={"GREETING": "hi"})
    assert process.wait(5) == 4
    assert process.log_text == "hi\n"
    again = lab.spawn(["sh", "-c", "echo again; sleep 60"], name="p")
    again.wait_log("^again$", timeout_s=5)
    assert again.log_text == "again\n"
    with pytest.raises(LabError, match="'p' runs already in this lab"):
        lab.spawn(["true"], name="p")
    again.send_signal(signal.SIGTERM)
    assert again.wait(5) == -signal.SIGTERM
    with pytest.raises(LabError, match="started again"):
        process.poll()


@pytest.mark.parametrize(
    ("command", "name", "complaint"),
    [
        (["/no/such/program"], "p", "cannot start /no/such/program: .*No such file"),
        (["true"], "../p", "cannot name a process"),
        (["true"], "", "cannot name a process"),
    ],
)
def test_what_cannot_be_started_says_why(
    lab: Lab, command: list[str], name: str, complaint: str
) -> None:
    with pytest.raises(LabError, match=complaint):
        lab.spawn(command, name=name)
    assert lab.is_up


def test_a_daemon_that_ends_early_is_reported_with_its_words(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"(?s)'bootnoded': .* it ended, status 1.*no such file"):
        lab.start_daemon(["sh", "-c", "echo no such file; exit 1"])


def test_a_host_has_a_network_stack_of_its_own(lab: Lab) -> None:
    host = lab.add_host("other", address=IPv4Interface("10.77.0.9/24"))
    assert host.run(["busybox", "ping", "-c1", "-W5", "10.77.0.1"], 10).returncode == 0
    assert sorted(host.run(["ls", "/sys/class/net"], 5).stdout.split()) == ["eth0", "lo"]
    assert host.spawn(["ip", "link", "show", "tap0"], name="p").wait(5) == 1
    assert subprocess.run(host.command(["true"])).returncode == 0


def test_a_host_gets_its_address_from_a_server_in_the_lab(lab: Lab, tmp_path: Path) -> None:
    server = dnsmasq(tmp_path, "--interface=tap0", "--dhcp-range=10.77.0.50,10.77.0.50")
    lab.start_daemon(server, "started, version", name="dnsmasq")
    client = lab.add_host("client")
    found = client.run(["busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-s", "/bin/true"], 20)
    assert "lease of 10.77.0.50 obtained" in found.stdout + found.stderr


def test_each_tap_has_a_switch_of_its_own(config: LabConfig, tmp_path: Path) -> None:
    taps = (("west", IPv4Interface("10.1.0.1/24")), ("east", IPv4Interface("10.2.0.1/24")))
    with Lab.up(LabConfig(folder=tmp_path / "lab", taps=taps)) as lab:
        host = lab.add_host("other", tap="east", address=IPv4Interface("10.2.0.2/24"))
        ping = ["busybox", "ping", "-c1", "-W1"]
        assert host.run([*ping, "10.2.0.1"], 10).returncode == 0
        host.run(["ip", "addr", "add", "10.1.0.2/24", "dev", "eth0"], 5)
        assert host.run([*ping, "10.1.0.1", "-I", "10.1.0.2"], 10).returncode != 0


def test_down_takes_everything_and_is_harmless_twice(lab: Lab, config: LabConfig) -> None:
    before = namespaces()
    inside = {
        os.stat(f"/proc/{supervisor_of(config.folder)}/ns/{k}").st_ino for k in ("net", "pid")
    }
    assert inside <= before
    lab.add_host("other")
    lab.spawn(["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], name="stubborn")
    lab.down()
    assert processes_of(config.folder) == {}
    assert namespaces() & inside == set()
    assert sorted(p.name for p in config.folder.iterdir()) == ["consoles", "lab.json", "logs"]
    lab.down()
    with pytest.raises(LabError, match="bootnode lab up"):
        lab.spawn(["true"], name="late")


def test_killing_the_supervisor_leaves_nothing(lab: Lab, config: LabConfig) -> None:
    pid = supervisor_of(config.folder)
    inside = {os.stat(f"/proc/{pid}/ns/{kind}").st_ino for kind in ("net", "pid")}
    lab.add_host("other")
    lab.spawn(["sleep", "600"], name="sleeper")
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(config.folder)
    assert namespaces() & inside == set()
    assert not lab.is_up
    lab.down()


def test_a_lab_goes_when_its_switch_does(lab: Lab, config: LabConfig) -> None:
    switch = next(p for p in lab.processes() if p.name == "switch-tap0")
    switch.send_signal(signal.SIGKILL)
    wait_until_gone(config.folder)
    assert "switch-tap0 ended with status -9" in config.log("supervisor").read_text()


def start_in_another_process(config: LabConfig, *, detach: bool) -> None:
    """Have a process start the lab and die by SIGKILL."""
    program = (
        "import os, sys; from pathlib import Path; from bootnode.lab import Lab, LabConfig;"
        f"lab = Lab.up(LabConfig(folder=Path(sys.argv[1])), detach={detach});"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(config.folder)], timeout=30)
    assert done.returncode == -signal.SIGKILL


def test_a_lab_ends_with_the_process_that_started_it(config: LabConfig) -> None:
    start_in_another_process(config, detach=False)
    wait_until_gone(config.folder)


def test_a_detached_lab_is_found_again_by_its_folder(config: LabConfig) -> None:
    start_in_another_process(config, detach=True)
    lab = Lab.attach(config.folder)
    try:
        assert lab.run(["ip", "link", "show", "tap0"], 5).returncode == 0
        with pytest.raises(LabError, match="a lab runs here already"):
            Lab.up(config)
    finally:
        lab.down()
    wait_until_gone(config.folder)
    with pytest.raises(LabError, match="the lab is down"):
        Lab.attach(config.folder)


def test_a_lab_that_cannot_come_up_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    config = LabConfig(folder=tmp_path / "lab", taps=(("lo", IPv4Interface("10.1.0.1/24")),))
    with pytest.raises(LabError, match=r"(?s)does not come up:.*plug-lo ended"):
        Lab.up(config)
    wait_until_gone(config.folder)


def test_emulation_passes_the_trial_that_kvm_has_to_pass() -> None:
    assert probe("tcg", timeout_s=30)
    assert not probe("tcg", timeout_s=0.001)


def test_a_node_that_cannot_start_says_why(lab: Lab) -> None:
    mac = MacAddress.parse("52:54:00:00:00:01")
    with pytest.raises(LabError, match=r"(?s)node 'n' does not start \(status 1\):.*-nonsense"):
        lab.boot(NodeVm(name="n", mac=mac, arguments=("-nonsense",)))
    with pytest.raises(LabError, match="'n2' is no node of this lab"):
        lab.vm("n2")


def serve_ipxe(lab: Lab, folder: Path) -> LabProcess:
    """A stranger's server: DHCP, TFTP, and a router's answer, without which iPXE waits for 16 s."""
    root = folder / "tftp"
    root.mkdir()
    shutil.copy("/usr/lib/ipxe/snponly.efi", root)
    (root / "hello.ipxe").write_text(SCRIPT)
    lab.run(["ip", "addr", "add", "fd00:77::1/64", "dev", "tap0"], 5)
    server = dnsmasq(
        folder,
        *("--interface=tap0", "--dhcp-range=10.77.0.100,10.77.0.150"),
        *("--enable-ra", "--dhcp-range=fd00:77::,ra-stateless"),
        *("--dhcp-userclass=set:ipxe,iPXE", "--dhcp-boot=tag:ipxe,hello.ipxe"),
        *("--dhcp-boot=tag:!ipxe,snponly.efi", "--enable-tftp", f"--tftp-root={root}"),
    )
    return lab.start_daemon(server, "started, version", name="dnsmasq")


@pytest.mark.lab
@pytest.mark.timeout(120)
def test_bios_and_uefi_nodes_boot_from_a_strangers_server(lab: Lab, tmp_path: Path) -> None:
    serve_ipxe(lab, tmp_path)
    bios = lab.boot(NodeVm(name="bios", mac=MacAddress.parse("52:54:00:00:00:01")))
    uefi = lab.boot(NodeVm(name="uefi", mac=MacAddress.parse("52:54:00:00:00:02"), firmware="uefi"))
    bios.wait_console("SeaBIOS", 30)
    bios.wait_console("hello 52:54:00:00:00:01 from pcbios", 60)
    bios.reset()
    bios.wait_console(r"(?s)hello .*SeaBIOS", 30)
    bios.power_off()
    assert not bios.is_on
    with pytest.raises(LabError, match=r"it ended, status -9; its last lines:\n(?s:.*)SeaBIOS"):
        bios.wait_console("nothing like this", 5)
    with pytest.raises(LabError, match="is it switched on"):
        bios.reset()
    lab.boot(NodeVm(name="bios", mac=MacAddress.parse("52:54:00:00:00:01"))).reset()
    with pytest.raises(LabError, match="'bios' runs already in this lab"):
        lab.boot(NodeVm(name="bios", mac=MacAddress.parse("52:54:00:00:00:01")))
    uefi.wait_console("Start PXE over IPv4", 60)
    uefi.wait_console("hello 52:54:00:00:00:02 from efi", 90)
    assert lab.vm("uefi").is_on


@pytest.mark.lab
@pytest.mark.timeout(120)
def test_a_uefi_http_node_asks_for_http_boot(lab: Lab, tmp_path: Path) -> None:
    server = dnsmasq(tmp_path, "--interface=tap0", "--log-dhcp", "--dhcp-range=10.77.0.9,10.77.0.9")
    log = lab.start_daemon(server, "started, version", name="dnsmasq")
    mac = MacAddress.parse("52:54:00:00:00:03")
    node = lab.boot(NodeVm(name="http", mac=mac, firmware="uefi-http"))
    node.wait_console("Start HTTP Boot over IPv4", 60)
    log.wait_log("vendor class: HTTPClient:Arch:00016", timeout_s=60)

"""The failsafe image on a virtual machine that gets kernel and ramdisk directly, without firmware.

The machine's network is qemu's own, where 10.0.2.15 is the machine and 10.0.2.2 our loopback.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bootnode.image import cpio
from bootnode.image.store import ImageStore, ImageVersion

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="needs qemu-system-x86_64"),
]

MAC = "52:54:00:ab:cd:01"
HYPHENATED = MAC.replace(":", "-")
DEADLINE_S = 150.0
CARD = ["-netdev", "user,id=net", "-device", f"virtio-net-pci,netdev=net,mac={MAC},romfile="]


class Reports:
    """The server's end of the stage reports."""

    def __init__(self, refuse: int) -> None:
        """`refuse` is how many posts are answered with 503 before one is taken."""
        self.taken: list[tuple[str, str]] = []
        self.refused = 0
        reports = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                if reports.refused < refuse:
                    reports.refused += 1
                    self.send_response(503)
                else:
                    reports.taken.append((self.path, body))
                    self.send_response(204)
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                """Be quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://10.0.2.2:{self.server.server_address[1]}"

    def aclose(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Vm:
    """One machine, its console, and the monitor of its emulator."""

    def __init__(
        self, folder: Path, image: ImageVersion, arguments: str, *, hardware: list[str]
    ) -> None:
        command = ["qemu-system-x86_64", "-accel", "tcg", "-machine", "pc,graphics=off"]
        command += ["-m", "1024", "-display", "none", "-no-reboot", "-nodefaults", "-S", *hardware]
        command += ["-kernel", str(image.folder / image.kernel)]
        command += ["-initrd", str(folder / "initrd.img"), "-append", arguments]
        for name in ("console", "monitor"):
            command += ["-chardev", f"socket,id={name},path={folder / name},server=on,wait=off"]
        command += ["-serial", "chardev:console", "-mon", "chardev=monitor,mode=readline"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self.console = self._connect(folder / "console")
        self.monitor = self._connect(folder / "monitor")
        self.heard = bytearray()
        # Someone has to listen, or the serial port stops the machine.
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        while data := self.console.recv(4096):
            self.heard += data

    def _connect(self, path: Path) -> socket.socket:
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end and self.process.poll() is None:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                connection.close()
                time.sleep(0.05)
            else:
                return connection
        raise AssertionError(f"qemu does not listen at {path}")

    def type(self, line: str) -> None:
        self.console.sendall(line.encode() + b"\n")

    def tell_qemu(self, line: str) -> None:
        self.monitor.sendall(line.encode() + b"\n")

    def said(self) -> str:
        return self.heard.decode(errors="replace").replace("\r", "")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until a line of the console fits."""
        self.wait_until(lambda: re.search(pattern, self.said(), re.M), f"'{pattern}'")
        match = re.search(pattern, self.said(), re.M)
        assert match
        return match

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, f"no {what} on the console:\n{self.said()[-4000:]}"
            assert self.process.poll() is None, f"qemu ended:\n{self.said()[-4000:]}"
            time.sleep(0.1)

    def aclose(self) -> None:
        self.process.kill()
        self.process.wait()
        self.listener.join()
        self.console.close()
        self.monitor.close()


class Bench:
    """Where a test starts its machine."""

    def __init__(self, folder: Path, image: ImageVersion) -> None:
        self.folder = folder
        self.image = image
        self.reports = Reports(refuse=0)
        self.vm: Vm | None = None

    def power_on(
        self, arguments: str = "", *, hardware: list[str] | None = None, overlay: bytes = b""
    ) -> Vm:
        """Start the machine, with another archive behind the ramdisk if there is one."""
        initrd = (self.image.folder / self.image.initrds[0]).read_bytes()
        # The kernel looks for the next archive at a multiple of four bytes.
        padding = bytes(-len(initrd) % 4)
        (self.folder / "initrd.img").write_bytes(initrd + padding + overlay)
        ours = f"console=ttyS0 bootnode.node=alder bootnode.server={self.reports.url} "
        ours += f"bootnode.image={self.image.name}/{self.image.version} "
        self.vm = Vm(self.folder, self.image, ours + arguments, hardware=hardware or CARD)
        self.vm.tell_qemu("cont")
        return self.vm

    def aclose(self) -> None:
        if self.vm:
            self.vm.aclose()
        self.reports.aclose()


@pytest.fixture
def bench(tmp_path: Path, built: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, ImageStore(built / "images").current("failsafe"))
    yield bench
    bench.aclose()


def test_it_boots_to_a_shell_says_who_it_is_and_reports(bench: Bench) -> None:
    vm = bench.power_on(f"BOOTIF=01-{HYPHENATED.upper()}")
    release = re.escape(bench.image.manifest.kernel_release)
    vm.wait_for(rf"^bootnode: init alder linux {release}$")
    vm.wait_for(r"^bootnode: up alder 10\.0\.2\.15/24 on eth0, image failsafe/[0-9a-f]{16}$")
    vm.wait_for(r"^root@alder:")
    for line in (
        "node     alder",
        f"mac      {MAC}",
        "address  10.0.2.15/24 on eth0",
        f"server   {bench.reports.url}",
        f"image    failsafe/{bench.image.version}",
        f"kernel   {bench.image.manifest.kernel_release}",
    ):
        vm.wait_for(rf"^ +{re.escape(line)}$")
    vm.wait_until(lambda: len(bench.reports.taken) == 2, "two reports")
    (init_path, init), (up_path, up) = bench.reports.taken
    assert init_path == up_path == f"/report/{HYPHENATED}"
    assert init == f"init alder linux {bench.image.manifest.kernel_release}"
    assert up == f"up alder 10.0.2.15/24 on eth0, image failsafe/{bench.image.version}"


def test_the_shell_has_a_terminal_and_all_devices_their_drivers(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "disk").write_bytes(b"a disk" + bytes(1 << 20))
    disk = ["-drive", f"file={tmp_path}/disk,format=raw,if=virtio"]
    usb = ["-device", "qemu-xhci", "-device", "usb-kbd"]
    vm = bench.power_on(hardware=[*CARD, *disk, *usb])
    vm.wait_for(r"^root@alder:")
    # Ctrl-C ends a command only where the shell has a controlling terminal.
    vm.type("sleep 1000")
    vm.wait_until(lambda: "sleep 1000" in vm.said().rpartition("root@alder")[2], "echo")
    time.sleep(1)
    vm.console.sendall(b"\x03")
    vm.type("echo interrupted=$?")
    vm.wait_for(r"^interrupted=130$")
    vm.type("until [ -e /dev/vda ]; do sleep 1; done; echo disk=$(head -c 6 /dev/vda)")
    vm.wait_for(r"^disk=a disk$")
    vm.type("until grep -q usbhid /proc/modules; do sleep 1; done; echo keyboard=there")
    vm.wait_for(r"^keyboard=there$")
    vm.type("hostname; tty; cat /etc/resolv.conf; ip route")
    vm.wait_for(r"^alder\n/dev/ttyS0\nnameserver 10\.0\.2\.3\ndefault via 10\.0\.2\.2 dev eth0")
    vm.type("poweroff")
    assert vm.process.wait(timeout=DEADLINE_S) == 0


def test_without_bootif_the_card_with_a_link_and_a_lease_is_found(bench: Bench) -> None:
    other = ["-netdev", "user,id=dead", "-device", "e1000,netdev=dead,romfile="]
    cards = ["-netdev", "user,id=net", "-device", f"e1000,netdev=net,mac={MAC},romfile="]
    vm = bench.power_on(hardware=[*other, *cards])
    vm.wait_for(r"^bootnode: up alder 10\.0\.2\.15/24 on eth[01]")


def test_a_cable_that_is_plugged_in_late_is_noticed(bench: Bench) -> None:
    bench.reports.aclose()
    bench.reports = Reports(refuse=2)
    vm = bench.power_on(f"BOOTIF=01-{HYPHENATED}")
    vm.tell_qemu("set_link net off")
    vm.wait_for(rf"^bootnode: failed alder no link on eth0 \({MAC}\): look at the cable")
    vm.wait_for(r"^root@alder:")
    assert "bootnode: up" not in vm.said()
    vm.tell_qemu("set_link net on")
    vm.wait_for(r"^(root@.*)?bootnode: up alder 10\.0\.2\.15/24")
    vm.wait_until(lambda: len(bench.reports.taken) == 3, "three reports")
    stages = [body.split()[0] for _, body in bench.reports.taken]
    assert stages == ["init", "failed", "up"]
    assert bench.reports.refused == 2


def test_without_a_network_card_there_is_a_shell(bench: Bench) -> None:
    vm = bench.power_on(hardware=["-nic", "none"])
    vm.wait_for(r"^bootnode: failed alder no network card found")
    vm.wait_for(r"^root@alder:")
    assert not bench.reports.taken


def test_a_silent_dhcp_server_is_named_and_a_shell_given(bench: Bench) -> None:
    hub = ["-netdev", "hubport,hubid=1,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]
    vm = bench.power_on(hardware=hub)
    vm.wait_for(r"^bootnode: failed alder no DHCP server answered on eth0 \(52:54:")
    vm.wait_for(r"^root@alder:")


def test_an_init_that_fails_says_so_and_never_panics(bench: Bench) -> None:
    broken = cpio.file("lib/bootnode/filesystems.sh", b"mount_kernel_filesystems() { false; }\n")
    vm = bench.power_on(overlay=b"".join(cpio.serialize([broken])))
    vm.wait_for(r"^init: boot\.sh ended with status 1, see above; here is a shell$")
    vm.type("echo still=$((40 + 2))")
    vm.wait_for(r"^still=42$")
    assert "Kernel panic" not in vm.said()

"""Root file systems of every format, set up by init on a virtual machine that has no firmware.

The root is a handful of files with a shell script for /sbin/init, which says where it is and
switches the machine off. The machine's network is qemu's own, where 10.0.2.2 is our loopback.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import stat
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

import pytest

from bootnode.boot.nodefiles import NodeFile, archive
from bootnode.image import cpio
from bootnode.image.build import build_image
from bootnode.image.ramdisk import read_tree
from bootnode.image.spec import load_recipe, recipes_folder
from bootnode.image.store import ImageStore, ImageVersion

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="needs qemu-system-x86_64"),
]

# The last line before the prompt.
SHELL = "^  reboot starts the node anew"
MAC = "52:54:00:ab:cd:02"
BOOT_TIMEOUT_S = 60.0
PACK_TIMEOUT_S = 60.0
RECIPE = """
description: a ramdisk for tests, with the modules that roots need
kernel:
  package: linux-image-cloud-amd64
  modules: [virtio_net, virtio_pci, loop, overlay, squashfs, erofs]
"""
# The machine's memory is small, so what nobody may write into the ramdisk is small too.
PAYLOAD = os.urandom(8 << 20)
PAYLOAD_SUM = hashlib.sha256(PAYLOAD).hexdigest()

NEW_INIT = """#!/bin/busybox sh
say() { echo "ROOT: $*"; }
export PATH=/bin
/bin/busybox --install -s /bin
say pid $$
say mount $(awk '$2 == "/"' /proc/mounts)
say payload $(sha256sum /payload | cut -c 1-64)
echo written >/new && say writes $(cat /new)
card=/sys/class/net/eth0
say address $(ip -4 -o addr show dev eth0 | awk '{ print $4 }') link $(cat $card/carrier)
say hostname $(cat /etc/hostname) machine-id $(stat -c %s /etc/machine-id)
say identity $(tr '\\n' ' ' </run/bootnode/identity)
say networkd $(ls /run/systemd/network)
say processes $(for p in /proc/[0-9]*; do [ -e $p/exe ] && basename $p; done | wc -l)
say setuid $(stat -c %a /bin/setuid)
for file in /etc/machine-id /private /private/key /etc/replaced /run/marker /etc/link /new/tool; do
    [ ! -e $file ] || say file $file $(stat -c '%a %u:%g %F' $file) $(head -c 40 $file | head -n 1)
done
say done
poweroff -f
"""


class Server:
    """Takes reports and serves the root file, as badly as a test asks for."""

    def __init__(self) -> None:
        self.content = b""
        self.refuse = 0
        """How many requests are answered with 503 before one is served."""
        self.cut_at = 0
        """Where the first answer with content breaks off; 0 for nowhere."""
        self.is_stuck = False
        """Whether it breaks off without closing the connection."""
        self.let_go = threading.Event()
        self.requests: list[str] = []
        """The `Range` header of each request that was served."""
        self.reports: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                server.reports.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
                self.send_response(204)
                self.end_headers()

            def do_GET(self) -> None:
                if server.refuse:
                    server.refuse -= 1
                    self.send_error(503)
                    return
                wanted = self.headers.get("Range", "")
                start = int(wanted.removeprefix("bytes=").rstrip("-") or 0)
                server.requests.append(wanted)
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(server.content) - start))
                if start:
                    last, total = len(server.content) - 1, len(server.content)
                    self.send_header("Content-Range", f"bytes {start}-{last}/{total}")
                self.end_headers()
                end = server.cut_at or len(server.content)
                server.cut_at = 0
                self.wfile.write(server.content[start:end])
                if server.is_stuck and end < len(server.content):
                    server.let_go.wait(BOOT_TIMEOUT_S)

            def log_message(self, *_arguments: object) -> None:
                """Be quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://10.0.2.2:{self.http.server_address[1]}"

    def aclose(self) -> None:
        self.let_go.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What the tests boot: a ramdisk, a root to archive, and who serves it."""

    folder: Path
    image: ImageVersion
    tree: Path
    server: Server

    def boot(self, arguments: str, *, extra: bytes = b"", until: str, memory_mib: int = 512) -> str:
        """What the machine says until a line fits; `extra` is an archive behind the ramdisk."""
        initrd = (self.image.folder / self.image.initrds[0]).read_bytes()
        # The kernel looks for the next archive at a multiple of four bytes.
        (self.folder / "initrd.img").write_bytes(initrd + bytes(-len(initrd) % 4) + extra)
        ours = f"console=ttyS0 loglevel=4 bootnode.node=alder bootnode.server={self.server.url} "
        ours += f"bootnode.image=tiny/1 BOOTIF=01-{MAC.replace(':', '-')} "
        command = ["qemu-system-x86_64", "-accel", "tcg", "-machine", "pc,graphics=off"]
        command += ["-m", str(memory_mib), "-display", "none", "-no-reboot", "-nodefaults"]
        command += ["-netdev", "user,id=net", "-device", f"virtio-net-pci,netdev=net,mac={MAC}"]
        command += ["-kernel", str(self.image.folder / self.image.kernel), "-serial", "stdio"]
        command += ["-initrd", str(self.folder / "initrd.img"), "-append", ours + arguments]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        # Ends the machine, and with it what we read.
        alarm = threading.Timer(BOOT_TIMEOUT_S, process.kill)
        alarm.start()
        try:
            return _heard(process, until)
        finally:
            alarm.cancel()
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()

    def fetched(self, root_format: str, *, size: int | None = None, digest: str = "") -> str:
        """The kernel command line for a root that init fetches."""
        content = self.server.content
        digest = digest or hashlib.sha256(content).hexdigest()
        return (
            f"bootnode.root={root_format} bootnode.root_ram={len(PAYLOAD) + (4 << 20)} "
            f"bootnode.root_url={self.server.url}/images/tiny/1/root.{root_format} "
            f"bootnode.root_size={size or len(content)} bootnode.root_sha256={digest}"
        )

    def archive(self, root_format: str) -> bytes:
        """The root in one of the formats that are a file."""
        file = self.folder / f"root.{root_format}"
        match root_format:
            case "squashfs":
                _pack("mksquashfs", str(self.tree), str(file), "-quiet", "-all-root")
            case "erofs":
                _pack("mkfs.erofs", "--all-root", str(file), str(self.tree))
            case "tar.zst":
                (self.folder / "root.tar").write_bytes(_tar(self.tree, "w:"))
                _pack("zstd", "-q", str(self.folder / "root.tar"), "-o", str(file))
            case _:
                return _tar(self.tree, "w:xz", preset=0)
        return file.read_bytes()


def _pack(*command: str) -> None:
    if not shutil.which(command[0]):
        pytest.skip(f"needs {command[0]}")
    subprocess.run(command, check=True, capture_output=True, timeout=PACK_TIMEOUT_S)


def _tar(tree: Path, mode: Literal["w:", "w:xz"], **options: int) -> bytes:
    def owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        return entry

    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode, **options) as archive:  # type: ignore[call-overload]
        archive.add(tree, arcname=".", filter=owned_by_root)
    return content.getvalue()


def _zstd() -> bytes:
    """This machine's zstd with its libraries, as an archive for behind the ramdisk."""
    zstd = shutil.which("zstd")
    if not zstd:
        pytest.skip("needs zstd")
    ldd = subprocess.run(["ldd", zstd], check=True, capture_output=True, text=True, timeout=10)
    libraries = re.findall(r"(/lib\S+) \(0x", ldd.stdout)
    entries = [cpio.file("bin/zstd", Path(zstd).read_bytes(), executable=True)]
    for path in libraries:
        entries.append(cpio.file(path[1:], Path(path).read_bytes(), executable=True))
    return b"".join(cpio.serialize(entries))


def _heard(process: subprocess.Popen[bytes], until: str) -> str:
    said = ""
    assert process.stdout
    for line in process.stdout:
        said += line.decode(errors="replace").replace("\r", "")
        if re.search(until, said, re.M):
            return said
    raise AssertionError(f"no '{until}' on the console:\n{said[-4000:]}")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> ImageVersion:
    """A ramdisk of our init with few modules."""
    folder = tmp_path_factory.mktemp("tiny")
    recipe = folder / "recipes" / "tiny"
    recipe.mkdir(parents=True)
    (recipe / "image.yaml").write_text(RECIPE)
    (folder / "recipes" / "init").symlink_to(recipes_folder() / "init")
    store = ImageStore(folder / "images")
    return build_image(load_recipe(recipe), store, cache=folder / "cache")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, image: ImageVersion) -> Path:
    """The root file system that all formats are made of."""
    tree = tmp_path_factory.mktemp("root")
    for name in ("bin", "sbin", "etc", "dev", "proc", "sys", "run", "usr/lib/boot", "private"):
        (tree / name).mkdir(parents=True)
    (tree / "private").chmod(0o700)
    (tree / "var").mkdir()
    (tree / "var/run").symlink_to("/run")
    (tree / "etc/replaced").symlink_to("/payload")
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    (tree / "bin/setuid").write_text("")
    (tree / "bin/setuid").chmod(0o4755)
    # Absolute, as in Debian: it must be looked up in the new root and not in the ramdisk.
    (tree / "sbin/init").symlink_to("/usr/lib/boot/start")
    start = tree / "usr/lib/boot/start"
    start.write_text(NEW_INIT)
    start.chmod(0o755)
    (tree / "payload").write_bytes(PAYLOAD)
    return tree


@pytest.fixture
def bench(tmp_path: Path, image: ImageVersion, tree: Path) -> Iterator[Bench]:
    server = Server()
    yield Bench(folder=tmp_path, image=image, tree=tree, server=server)
    server.aclose()


def assert_is_in(said: str, root_format: str, mount: str) -> None:
    """The new root runs, is of the right kind, and has all that it should have been given."""
    for line in (
        r"pid 1",
        rf"mount {mount}.*",
        rf"payload {PAYLOAD_SUM}",
        r"writes written",
        r"address 10\.0\.2\.15/24 link 1",
        r"hostname alder machine-id 0",
        rf"identity NODE=alder SERVER=http://\S+ IMAGE=tiny/1 ROOT_FORMAT={root_format} MAC={MAC}",
        r"networkd 10-bootnode\.link 10-bootnode\.network",
        r"setuid 4755",
    ):
        assert re.search(rf"^ROOT: {line} *$", said, re.M), f"no '{line}' in:\n{said}"
    assert re.search(
        rf"^bootnode: root alder {re.escape(root_format)}, \d+ of \d+ MiB left$", said, re.M
    )
    assert "bootnode: switch alder /sbin/init of tiny/1" in said


def stages(bench: Bench) -> list[str]:
    return [report.split()[0] for report in bench.server.reports]


CPIO_ARGUMENTS = "bootnode.root=cpio bootnode.root_file=/root bootnode.root_ram=11000000"
MOUNTS = {
    "squashfs": "squashfs / overlay rw,",
    "erofs": "erofs / overlay rw,",
    "tar.xz": "root / tmpfs rw,",
    "tar.zst": "root / tmpfs rw,",
}


@pytest.mark.parametrize("root_format", MOUNTS)
def test_a_root_is_fetched_and_runs(bench: Bench, root_format: str) -> None:
    bench.server.content = bench.archive(root_format)
    extra = _zstd() if root_format == "tar.zst" else b""
    said = bench.boot(bench.fetched(root_format), extra=extra, until="^ROOT: done$")
    assert_is_in(said, root_format, MOUNTS[root_format])
    assert stages(bench) == ["init", "root", "switch"]
    assert bench.server.requests == [""]


def test_a_root_that_came_with_the_ramdisk_runs(bench: Bench) -> None:
    entry = cpio.file("root.squashfs", bench.archive("squashfs"))
    said = bench.boot(
        "bootnode.root=squashfs bootnode.root_file=/root.squashfs bootnode.root_ram=9000000",
        extra=b"".join(cpio.serialize([entry])),
        until="^ROOT: done$",
    )
    assert_is_in(said, "squashfs", MOUNTS["squashfs"])
    assert stages(bench) == ["init", "root", "switch"]


def test_a_root_that_the_kernel_unpacked_runs(bench: Bench) -> None:
    said = bench.boot(CPIO_ARGUMENTS, extra=_cpio_root(bench.tree), until="^ROOT: done$")
    assert_is_in(said, "cpio", "(none|rootfs) / rootfs rw,?")


def _cpio_root(tree: Path) -> bytes:
    # The archive of a ramdisk has no permissions but the executable one.
    entries = [
        cpio.Entry(path=f"root/{entry.path}", mode=_mode(entry), data=entry.data)
        for entry in read_tree(tree)
    ]
    return b"".join(cpio.serialize(entries))


def _mode(entry: cpio.Entry) -> int:
    if entry.path == "private":
        return stat.S_IFDIR | 0o700
    return entry.mode | 0o4111 if entry.path == "bin/setuid" else entry.mode


NODE_FILES = archive(
    (
        NodeFile(entry=cpio.file("etc/hostname", b"birch\n")),
        NodeFile(entry=cpio.file("etc/machine-id", b"0123456789abcdef0123456789abcdef\n")),
        NodeFile(entry=cpio.file("etc/replaced", b"regular\n")),
        NodeFile(entry=cpio.symlink("etc/link", "../private/key")),
        NodeFile(entry=cpio.file("new/tool", b"run me\n", executable=True)),
        NodeFile(entry=cpio.Entry(path="private/key", mode=stat.S_IFREG | 0o600, data=b"secret\n")),
        NodeFile(entry=cpio.file("var/run/marker", b"moved along\n")),
    ),
    mtime=1_700_000_000,
)


@pytest.mark.parametrize("root_format", ["squashfs", "tar.xz", "cpio"])
def test_files_of_the_node_are_put_over_its_root(bench: Bench, root_format: str) -> None:
    extra, arguments = NODE_FILES, "bootnode.node_files=yes "
    if root_format == "cpio":
        extra = _cpio_root(bench.tree) + extra
        arguments += CPIO_ARGUMENTS
    else:
        bench.server.content = bench.archive(root_format)
        arguments += bench.fetched(root_format)
    said = bench.boot(arguments, extra=extra, until="^ROOT: done$")
    for line in (
        "hostname birch machine-id 33",
        "file /etc/machine-id 644 0:0 regular file 0123456789abcdef0123456789abcdef",
        # Folders that were there keep what they had.
        "file /private 700 0:0 directory",
        "file /private/key 600 0:0 regular file secret",
        # A link in the place of a file is replaced, and what it led to stays as it was.
        "file /etc/replaced 644 0:0 regular file regular",
        f"payload {PAYLOAD_SUM}",
        # A link on the way to a file is followed, inside the new root.
        "file /run/marker 644 0:0 regular file moved along",
        "file /etc/link 777 0:0 symbolic link secret",
        "file /new/tool 755 0:0 regular file run me",
    ):
        assert re.search(rf"^ROOT: {line} *$", said, re.M), f"no '{line}' in:\n{said}"
    assert stages(bench) == ["init", "root", "switch"]


def test_files_of_the_node_are_put_over_a_ramdisk_that_is_all_there_is(bench: Bench) -> None:
    profile = cpio.file("etc/profile", b"echo ROOT: $(cat /etc/mine)\n")
    mine = cpio.file("etc/mine", b"is of this node\n")
    extra = archive([NodeFile(entry=profile), NodeFile(entry=mine)], mtime=0)
    said = bench.boot("bootnode.node_files=yes", extra=extra, until="^ROOT: is of this node$")
    assert "bootnode: up alder" in said


def test_a_node_without_the_files_it_should_have_does_not_run(bench: Bench) -> None:
    bench.server.content = bench.archive("squashfs")
    said = bench.boot("bootnode.node_files=yes " + bench.fetched("squashfs"), until=SHELL)
    assert "bootnode: failed alder the ramdisk with the files of alder did not arrive" in said
    assert stages(bench) == ["init", "root", "failed"]


def test_a_file_of_the_node_that_cannot_be_put_is_named(bench: Bench) -> None:
    bench.server.content = bench.archive("squashfs")
    extra = archive([NodeFile(entry=cpio.file("payload/below", b""))], mtime=0)
    arguments = "bootnode.node_files=yes " + bench.fetched("squashfs")
    said = bench.boot(arguments, extra=extra, until=SHELL)
    assert re.search(
        r"^bootnode: failed alder cannot put a file of alder: .*/payload.*", said, re.M
    )


def test_a_server_that_refuses_and_then_breaks_off_is_asked_for_the_rest(bench: Bench) -> None:
    bench.server.content = bench.archive("squashfs")
    bench.server.refuse, bench.server.cut_at = 2, 3_000_000
    said = bench.boot(bench.fetched("squashfs"), until="^ROOT: done$")
    assert (
        len(re.findall(r"^init: fetching \S+ failed \(.*503.*\), trying again$", said, re.M)) == 2
    )
    assert bench.server.requests == ["", "bytes=3000000-"]
    assert f"ROOT: payload {PAYLOAD_SUM}" in said


def test_a_connection_that_stands_still_is_given_up(bench: Bench) -> None:
    bench.server.content = bench.archive("squashfs")
    bench.server.cut_at, bench.server.is_stuck = 3_000_000, True
    said = bench.boot(bench.fetched("squashfs"), until="^ROOT: done$")
    assert re.search(r"^init: fetched 2 of \d+ MiB$", said, re.M)
    assert re.search(r"^init: fetching \S+ failed \(nothing came for 15 s\), trying", said, re.M)
    assert bench.server.requests == ["", "bytes=3000000-"]


def test_a_corrupt_root_is_fetched_three_times_and_then_there_is_a_shell(bench: Bench) -> None:
    bench.server.content = b"not what was built" * 1000
    said = bench.boot(bench.fetched("squashfs", digest="0" * 64), until=SHELL)
    assert re.search(r"^bootnode: failed alder the SHA-256 of \S+ is wrong, 3 times: ", said, re.M)
    assert (
        len(re.findall(r"^init: the SHA-256 of \S+ is wrong, fetching it again$", said, re.M)) == 2
    )
    assert bench.server.requests == ["", "", ""]
    assert stages(bench) == ["init", "failed"]
    assert "bootnode: up" not in said


def test_a_root_that_does_not_fit_the_memory_is_not_even_asked_for(bench: Bench) -> None:
    said = bench.boot(bench.fetched("squashfs", size=400 << 20), until=SHELL)
    found = re.search(
        r"^bootnode: failed alder needs (\d+) MiB, this node has (\d+) MiB$", said, re.M
    )
    assert found
    assert 500 < int(found[1]) < 650
    assert 400 < int(found[2]) < 512
    assert bench.server.requests == []
    assert "init: this is the failsafe shell instead of tiny/1" in said


def test_a_ramdisk_too_large_to_unpack_is_named(bench: Bench) -> None:
    entry = cpio.file("root.squashfs", bytes(150 << 20))
    said = bench.boot(
        "bootnode.root=squashfs bootnode.root_file=/root.squashfs",
        extra=b"".join(cpio.serialize([entry])),
        memory_mib=350,
        until=SHELL,
    )
    assert (
        "bootnode: failed alder the ramdisk did not unpack (write error): it may fill half" in said
    )


@pytest.mark.parametrize(
    ("root_format", "content", "reason"),
    [
        ("tar.xz", b"garbage", "cannot set up the root: tar.xz of tiny/1, "),
        ("squashfs", b"garbage" * 1000, "cannot set up the root: squashfs of tiny/1, "),
    ],
)
def test_a_root_that_cannot_be_set_up_leaves_a_shell(
    bench: Bench, root_format: str, content: bytes, reason: str
) -> None:
    bench.server.content = content
    said = bench.boot(bench.fetched(root_format), until=SHELL)
    assert f"bootnode: failed alder {reason}" in said

"""Every format, read back by the tool that knows it."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from bootnode.errors import ImageError
from bootnode.image import cpio
from bootnode.image.archive import MODULES, write_root
from bootnode.image.keys import Fetch, RootFormat
from bootnode.image.rootfs import unpacked_bytes

EPOCH = 1_000_000_000
NEW = frozenset({"RD_ZSTD", "SQUASHFS_ZSTD"})
"""What a kernel can do that reads everything compressed by zstd."""
TOOLS = ("mksquashfs", "unsquashfs", "mkfs.erofs", "fsck.erofs", "tar", "xz", "zstd", "cpio")
MISSING = [tool for tool in TOOLS if not shutil.which(tool, path=f"{os.defpath}:/usr/sbin:/sbin")]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
    pytest.mark.root,
]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[IO[bytes]]:
    with (tmp_path / "build.log").open("wb") as file:
        yield file


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files, a folder, links, a device and a named pipe, all of the same time."""
    root = tmp_path / "tree"
    (root / "etc/empty").mkdir(parents=True)
    (root / "etc/text").write_text("text\n" * 2000)
    (root / "etc/secret").write_text("secret")
    (root / "etc/secret").chmod(0o600)
    os.chown(root / "etc/secret", 7, 8)
    (root / "bin").mkdir()
    (root / "bin/su").write_bytes(b"\x7fELF")
    (root / "bin/su").chmod(0o4755)
    (root / "bin/another").hardlink_to(root / "bin/su")
    (root / "lib").symlink_to("usr/lib")
    (root / "name ü").write_text("")
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(root / "pipe")
    for path in (*root.rglob("*"), root):
        os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)
    return root


def unsquash(file: Path, to: Path) -> None:
    _run("unsquashfs", "-quiet", "-no-progress", "-dest", str(to), str(file))


def unerofs(file: Path, to: Path) -> None:
    # The tool of Debian 12 checks and lists, but does not unpack: the kernel's own does it all.
    to.mkdir()
    mount = f'mount -t erofs -o loop,ro "{file}" "{to}.mnt" && cp -a "{to}.mnt/." "{to}"'
    Path(f"{to}.mnt").mkdir()
    _run("unshare", "--mount", "sh", "-c", mount)


def untar(file: Path, to: Path) -> None:
    to.mkdir()
    _run("tar", "-xpf", str(file), "-C", str(to))


def uncpio(file: Path, to: Path) -> None:
    above = to.with_suffix(".above")
    above.mkdir()
    tool = "zstd" if file.read_bytes().startswith(b"\x28\xb5\x2f\xfd") else "xz"
    raw = subprocess.run([tool, "-dc", str(file)], check=True, capture_output=True).stdout
    command = ["cpio", "-idm", "--quiet", "--no-absolute-filenames"]
    subprocess.run(command, input=raw, cwd=above, check=True, capture_output=True)
    (above / "root").rename(to)


def _run(*command: str) -> None:
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    subprocess.run(command, check=True, capture_output=True, env=environment)


def described(root: Path) -> dict[str, tuple[object, ...]]:
    """All that a root file system says of each of its files."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content: object = status.st_rdev
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            content = path.read_bytes()
        owner = (status.st_uid, status.st_gid)
        time = int(status.st_mtime) if path.is_file() and not path.is_symlink() else None
        # cpio(1) gives folders the time at which it unpacked them.
        found[str(path.relative_to(root))] = (oct(status.st_mode), owner, time, content)
    return found


def has_erofs() -> bool:
    return "\terofs" in Path("/proc/filesystems").read_text()


READERS: dict[RootFormat, Callable[[Path, Path], None]] = {
    RootFormat.SQUASHFS: unsquash,
    RootFormat.TAR_XZ: untar,
    RootFormat.TAR_ZST: untar,
    RootFormat.CPIO: uncpio,
}
if has_erofs():
    READERS[RootFormat.EROFS] = unerofs


@pytest.mark.parametrize("root_format", READERS)
def test_what_goes_in_comes_out(
    root_format: RootFormat, tree: Path, tmp_path: Path, log: IO[bytes]
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    fetch = Fetch.RAMDISK if root_format is RootFormat.CPIO else Fetch.INIT
    written = write_root(tree, output, root_format, fetch, epoch=EPOCH, kernel_options=NEW, log=log)
    (file,) = output.iterdir()
    READERS[root_format](file, tmp_path / "back")
    assert described(tmp_path / "back") == described(tree)
    assert written.size_bytes == file.stat().st_size
    assert written.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    expected_ram = -(-written.size_bytes // 4096) * 4096
    if root_format not in MODULES:
        expected_ram = unpacked_bytes(tree)
    assert written.ram_bytes == expected_ram


@pytest.mark.parametrize(
    ("root_format", "head"),
    [(RootFormat.SQUASHFS, b"hsqs"), (RootFormat.CPIO, b"\xfd7zXZ\0\0\1")],
)
def test_an_old_kernel_gets_what_it_can_read(
    root_format: RootFormat, head: bytes, tree: Path, tmp_path: Path, log: IO[bytes]
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    write_root(
        *(tree, output, root_format, Fetch.RAMDISK),
        epoch=EPOCH,
        kernel_options={"SQUASHFS_XZ", "RD_XZ"},
        log=log,
    )
    raw = (output / "root.img").read_bytes()
    at = raw.index(head)
    if root_format is RootFormat.SQUASHFS:
        xz = 4
        assert struct.unpack_from("<H", raw, at + 20) == (xz,)
    else:
        READERS[root_format](output / "root.img", tmp_path / "back")
        assert described(tmp_path / "back") == described(tree)


@pytest.mark.parametrize("root_format", RootFormat)
def test_the_same_tree_gives_the_same_bytes(
    root_format: RootFormat, tree: Path, tmp_path: Path, log: IO[bytes]
) -> None:
    again = tmp_path / "again"
    subprocess.run(["cp", "-a", "-T", str(tree), str(again)], check=True)
    made = set()
    for root in (tree, again):
        output = tmp_path / f"{root.name}-out"
        output.mkdir()
        made.add(
            write_root(
                root, output, root_format, Fetch.RAMDISK, epoch=EPOCH, kernel_options=NEW, log=log
            )
        )
    assert len(made) == 1


@pytest.mark.parametrize("root_format", [f for f in RootFormat if f is not RootFormat.CPIO])
def test_a_root_in_the_ramdisk(
    root_format: RootFormat, tree: Path, tmp_path: Path, log: IO[bytes]
) -> None:
    for fetch in Fetch:
        (tmp_path / fetch).mkdir()
        written = write_root(
            tree, tmp_path / fetch, root_format, fetch, epoch=EPOCH, kernel_options=NEW, log=log
        )
    name = f"root.{root_format}"
    assert written.file == f"/{name}"
    alone = (tmp_path / Fetch.INIT / name).read_bytes()
    entry = cpio.file(name, alone)
    ramdisk = b"".join(cpio.serialize([entry], mtime=EPOCH))
    assert (tmp_path / Fetch.RAMDISK / "root.img").read_bytes() == ramdisk
    assert [path.name for path in (tmp_path / Fetch.RAMDISK).iterdir()] == ["root.img"]


def test_erofs_is_sound(tree: Path, tmp_path: Path, log: IO[bytes]) -> None:
    output = tmp_path / "out"
    output.mkdir()
    write_root(tree, output, RootFormat.EROFS, Fetch.INIT, epoch=EPOCH, kernel_options=NEW, log=log)
    _run("fsck.erofs", str(output / "root.erofs"))


def test_a_tool_that_fails_is_named(tmp_path: Path, log: IO[bytes]) -> None:
    with pytest.raises(ImageError, match="mksquashfs"):
        write_root(
            *(tmp_path / "nowhere", tmp_path, RootFormat.SQUASHFS, Fetch.INIT),
            epoch=0,
            kernel_options=NEW,
            log=log,
        )


def test_memory_is_counted_once_for_each_file(tree: Path) -> None:
    # text 3 pages, secret 1, su and its other name 1, the link 1
    assert unpacked_bytes(tree) == 6 * 4096

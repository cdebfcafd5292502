from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from bootnode.image import cpio
from bootnode.image.ramdisk import ram_bytes, read_tree, write_ramdisk


def make_tree(folder: Path, mode: int) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/tool").write_bytes(b"x" * 5000)
    (folder / "bin/tool").chmod(mode | 0o100)
    (folder / "etc").mkdir(mode=0o700)
    (folder / "etc/conf").write_text("a\n")
    (folder / "etc/conf").chmod(mode)
    (folder / "sbin").symlink_to("bin")
    return folder


def test_a_tree_is_read_without_its_owners_times_and_permissions(tmp_path: Path) -> None:
    entries = list(read_tree(make_tree(tmp_path / "a", 0o600)))
    assert entries == [
        cpio.folder("bin"),
        cpio.file("bin/tool", b"x" * 5000, executable=True),
        cpio.folder("etc"),
        cpio.file("etc/conf", b"a\n"),
        cpio.symlink("sbin", "bin"),
    ]


def test_a_ramdisk_is_the_same_wherever_it_was_made(tmp_path: Path) -> None:
    first = make_tree(tmp_path / "a", 0o600)
    second = make_tree(tmp_path / "b", 0o664)
    os.utime(second / "etc/conf", (1, 1))
    for tree in (first, second):
        write_ramdisk(tree, tree.with_suffix(".img"), mtime=0)
    assert first.with_suffix(".img").read_bytes() == second.with_suffix(".img").read_bytes()


def test_a_ramdisk_holds_the_tree_and_what_init_needs(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "a", 0o600)
    file = tmp_path / "initrd.img"
    ramdisk = write_ramdisk(tree, file, mtime=0)
    assert ramdisk.size_bytes == file.stat().st_size
    assert ramdisk.ram_bytes == 3 * 4096 + 4096  # bin/tool 2, etc/conf 1, the link 1
    raw = file.read_bytes()
    for name in (b"dev/console\0", b"dev/null\0", b"proc\0", b"sys\0", b"bin/tool\0"):
        assert name in raw


def test_sockets_have_no_place_in_a_ramdisk(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        with pytest.raises(ValueError, match="is neither file, folder nor link"):
            list(read_tree(tmp_path))


@pytest.mark.parametrize(("size", "pages"), [(0, 0), (1, 1), (4096, 1), (4097, 2)])
def test_memory_is_counted_in_whole_pages(size: int, pages: int) -> None:
    assert ram_bytes([cpio.file("a", bytes(size))]) == pages * 4096
    assert stat.S_ISREG(cpio.file("a", b"").mode)

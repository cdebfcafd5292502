from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from bootnode.image import cpio

TREE = [
    cpio.file("init", b"#!/bin/sh\n", executable=True),
    cpio.file("etc/b/empty", b""),
    cpio.file("etc/a.conf", b"odd length"),
    cpio.file("etc-old", b"sorts after what is in etc/"),
    cpio.file("ümlaut", b"\x00\xff"),
    cpio.symlink("sbin", "bin"),
    cpio.folder("bin"),
    cpio.folder("tmp", 0o1777),
    cpio.character_device("dev/console", 5, 1),
    cpio.character_device("dev/null", 1, 3, 0o666),
]

needs_cpio = pytest.mark.skipif(not shutil.which("cpio"), reason="needs cpio(1)")


def archive(*entries: cpio.Entry, mtime: int = 0) -> bytes:
    return b"".join(cpio.serialize(entries, mtime=mtime))


def run_cpio(folder: Path, raw: bytes, *arguments: str) -> str:
    command = ["cpio", "--quiet", *arguments]
    result = subprocess.run(
        command,
        input=raw,
        cwd=folder,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        check=True,
    )
    assert not result.stderr, result.stderr
    return result.stdout.decode()


def test_one_file_byte_for_byte() -> None:
    raw = archive(cpio.file("a", b"hello"), mtime=0x5F)
    header = (
        "070701"
        "00000001"  # inode
        "000081A4"  # mode
        "0000000000000000"  # uid gid
        "00000001"  # links
        "0000005F"  # mtime
        "00000005"  # size
        "0000000000000000"  # device that holds the file
        "0000000000000000"  # device that the node stands for
        "00000002"  # length of the name with its NUL
        "00000000"  # checksum
    )
    trailer = "070701" + "00000000" * 4 + "00000001" + "00000000" * 6 + "0000000B" + "00000000"
    expected = f"{header}a\0hello\0\0\0{trailer}TRAILER!!!\0\0\0\0".encode()
    assert raw == expected.ljust(512, b"\0")


def test_the_order_of_entries_counts_for_nothing() -> None:
    assert archive(*TREE) == archive(*reversed(TREE))
    assert archive(*TREE, mtime=1) != archive(*TREE)


@needs_cpio
def test_cpio_lists_parents_before_what_is_in_them(tmp_path: Path) -> None:
    listed = run_cpio(tmp_path, archive(*TREE), "-it").splitlines()
    assert listed == [
        "bin",
        "dev",
        "dev/console",
        "dev/null",
        "etc",
        "etc/a.conf",
        "etc/b",
        "etc/b/empty",
        "etc-old",
        "init",
        "sbin",
        "tmp",
        "ümlaut",
    ]


@needs_cpio
def test_cpio_extracts_what_was_put_in(tmp_path: Path) -> None:
    entries = [entry for entry in TREE if not stat.S_ISCHR(entry.mode)]
    run_cpio(tmp_path, archive(*entries, mtime=1_000_000), "-idm")
    assert (tmp_path / "init").read_bytes() == b"#!/bin/sh\n"
    assert stat.S_IMODE((tmp_path / "init").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "etc/a.conf").stat().st_mode) == 0o644
    assert (tmp_path / "etc/a.conf").stat().st_mtime == 1_000_000
    assert (tmp_path / "ümlaut").read_bytes() == b"\x00\xff"
    assert (tmp_path / "sbin").readlink() == Path("bin")
    assert stat.S_IMODE((tmp_path / "tmp").stat().st_mode) == 0o1777


@needs_cpio
def test_device_nodes_need_no_mknod(tmp_path: Path) -> None:
    lines = run_cpio(tmp_path, archive(*TREE), "-itvn").splitlines()
    nodes = {line.split()[-1]: line for line in lines if line.startswith("c")}
    assert nodes["dev/console"].startswith("crw-------   1 0        0          5,   1")
    assert nodes["dev/null"].startswith("crw-rw-rw-   1 0        0          1,   3")


def test_an_empty_archive_is_its_trailer() -> None:
    assert len(archive()) == 512
    assert b"TRAILER!!!" in archive()


@pytest.mark.parametrize(
    "path", ["", "/etc", "..", "a/../b", ".", "./a", "a/", "a//b", "a\0b", "TRAILER!!!"]
)
def test_paths_stay_plain_and_inside(path: str) -> None:
    with pytest.raises(ValueError, match=r"path|name in a cpio archive"):
        cpio.folder(path)


def test_a_path_is_there_once() -> None:
    with pytest.raises(ValueError, match="'a' is in the archive twice"):
        archive(cpio.file("a", b"1"), cpio.file("a", b"2"))


def test_nothing_lies_below_a_file() -> None:
    with pytest.raises(ValueError, match="'a/b' lies below 'a', which is not a folder"):
        archive(cpio.file("a", b"1"), cpio.file("a/b", b"2"))


@pytest.mark.parametrize("mtime", [-1, 1 << 32])
def test_times_fit_the_format(mtime: int) -> None:
    with pytest.raises(ValueError, match="does not fit a cpio archive"):
        archive(mtime=mtime)


def test_files_of_4_gib_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpio, "MAX_FIELD", 3)
    with pytest.raises(ValueError, match="'a' is 4 GiB or larger"):
        cpio.file("a", b"1234")


def test_an_entry_may_say_whose_it_is_and_how_old(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"from a file")
    entry = cpio.Entry(
        path="a",
        mode=stat.S_IFREG | 0o600,
        source=tmp_path / "source",
        owner=(7, 8),
        mtime=0x5F,
    )
    assert entry.size_bytes == 11
    raw = archive(entry, cpio.file("b", b""), mtime=0x60)
    fields = [raw[at : at + 8] for at in range(6, 62, 8)]
    assert fields == [b"%08X" % value for value in (1, 0o100600, 7, 8, 1, 0x5F, 11)]
    assert b"a\0" in raw
    assert b"from a file" in raw
    assert raw.count(b"00000060") == 1


def test_a_name_is_bytes_and_not_always_text() -> None:
    name = os.fsdecode(b"latin \xfc")
    assert b"latin \xfc\0" in archive(cpio.file(name, b""))

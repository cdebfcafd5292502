"""Kernels: which one is found where, and that one whose modules do not fit is named."""

from __future__ import annotations

import lzma
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from bootnode.errors import ImageError
from bootnode.image.kernel import boot_release, kernel_of_package, kernel_of_root, pack_modules
from bootnode.image.rootfs import take_boot_files

RELEASE = "6.1.0-1-test"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[IO[bytes]]:
    with (tmp_path / "build.log").open("wb") as file:
        yield file


def x86(release: str) -> bytes:
    head = bytearray(0x400)
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x20E, 0x100)
    head[0x300 : 0x300 + len(release)] = release.encode()
    return bytes(head)


@pytest.mark.parametrize(
    ("raw", "release"),
    [
        (x86("6.1.0-56-amd64 (debian-kernel@lists.debian.org) gcc"), "6.1.0-56-amd64"),
        (x86("6.1.0"), "6.1.0"),
        (x86(""), None),
        (b"the kernel", None),
        (bytes(0x400), None),
        (x86("6.1.0")[:0x20F], None),
        (b"", None),
    ],
    ids=["debian", "bare", "nameless", "text", "zeros", "cut short", "empty"],
)
def test_a_kernel_says_what_it_is(tmp_path: Path, raw: bytes, release: str | None) -> None:
    (tmp_path / "vmlinuz").write_bytes(raw)
    assert boot_release(tmp_path / "vmlinuz") == release


def tree(folder: Path, kernels: dict[str, bytes], modules: list[str]) -> tuple[Path, Path]:
    """A root file system's /boot, and the root with its modules."""
    boot, root = folder / "boot", folder / "root"
    boot.mkdir()
    for name, raw in kernels.items():
        (boot / name).write_bytes(raw)
    for release in modules:
        (root / "lib/modules" / release).mkdir(parents=True)
        (root / "lib/modules" / release / "modules.dep").touch()
    return boot, root


@pytest.mark.parametrize("raw", [x86("6.1.0-a"), b"of another kind"])
def test_the_kernel_of_a_root(tmp_path: Path, raw: bytes) -> None:
    boot, root = tree(tmp_path, {"vmlinuz-6.1.0-a": raw}, ["6.1.0-a"])
    (root / "lib/modules/empty").mkdir()
    kernel = kernel_of_root(boot, root)
    assert (kernel.release, kernel.vmlinuz.name) == ("6.1.0-a", "vmlinuz-6.1.0-a")
    assert kernel.modules_folder == root / "lib/modules/6.1.0-a"


@pytest.mark.parametrize(
    ("kernels", "modules", "message"),
    [
        ({}, [], "holds no kernel in /boot, and no modules"),
        ({}, ["6.1.0-a"], "holds no kernel in /boot, and modules of 6.1.0-a"),
        ({"vmlinuz-a": b"", "vmlinuz-b": b""}, ["a", "b"], "holds vmlinuz-a, vmlinuz-b in /boot"),
        ({"vmlinuz-a": b""}, [], "vmlinuz-a, which is a, and no modules"),
        ({"vmlinuz-a": b""}, ["b"], "vmlinuz-a, which is a, and modules of b: they must match"),
        ({"vmlinuz-a": x86("b")}, ["a"], "vmlinuz-a, which is b, and modules of a"),
        ({"vmlinuz-a": b""}, ["a", "b"], "vmlinuz-a, which is a, and modules of a, b"),
    ],
)
def test_a_kernel_that_does_not_fit_is_named(
    tmp_path: Path, kernels: dict[str, bytes], modules: list[str], message: str
) -> None:
    boot, root = tree(tmp_path, kernels, modules)
    with pytest.raises(ImageError, match=message):
        kernel_of_root(boot, root)


def test_modules_of_a_package_may_be_below_usr(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/vmlinuz-a").touch()
    (tmp_path / "usr/lib/modules/a").mkdir(parents=True)
    assert kernel_of_package(tmp_path, "linux").top == tmp_path / "usr"
    (tmp_path / "lib/modules/a").mkdir(parents=True)
    assert kernel_of_package(tmp_path, "linux").top == tmp_path


def test_modules_are_packed_with_what_they_need(
    small_root: Path, tmp_path: Path, log: IO[bytes]
) -> None:
    take_boot_files(small_root, tmp_path / "boot")
    kernel = kernel_of_root(tmp_path / "boot", small_root)
    pack_modules(kernel, ["squashfs", "loop"], tmp_path / "tree", log=log)
    folder = tmp_path / "tree/lib/modules" / RELEASE
    packed = sorted(path.name for path in folder.rglob("*") if path.is_file())
    assert packed == [
        "loop.ko.xz",
        "modules.alias",
        "modules.builtin",
        "modules.dep",
        "modules.softdep",
        "squashfs.ko.xz",
    ]
    assert b"alias=fs-squashfs" in lzma.decompress(
        (folder / "kernel/fs/squashfs/squashfs.ko.xz").read_bytes()
    )
    assert "loop.ko.xz:" in (folder / "modules.dep").read_text()

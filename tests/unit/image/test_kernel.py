"""Kernels: which one is found where, and that one whose modules do not fit is named."""

from __future__ import annotations

import lzma
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from bootnode.errors import ImageError
from bootnode.image.kernel import (
    boot_release,
    depmod,
    kernel_of_package,
    kernel_of_root,
    kernel_options,
    pack_modules,
)
from bootnode.image.modules import UnknownModulesError
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


CONFIG = """\
# CONFIG_SQUASHFS_ZSTD is not set
CONFIG_SQUASHFS_XZ=y
CONFIG_SQUASHFS=m
CONFIG_LOG_BUF_SHIFT=20
"""


@pytest.mark.parametrize("place", ["boot/config-4.18.0", "lib/modules/4.18.0/config"])
def test_a_kernel_says_what_it_can_do(tmp_path: Path, place: str) -> None:
    assert kernel_options(tmp_path) == frozenset()
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text(CONFIG)
    assert kernel_options(tmp_path) == {"SQUASHFS", "SQUASHFS_XZ"}


def test_of_several_kernels_what_all_can_do(tmp_path: Path) -> None:
    for release, options in {"a": ["X", "Y"], "b": ["Y", "Z"]}.items():
        (tmp_path / "lib/modules" / release).mkdir(parents=True)
        text = "".join(f"CONFIG_{option}=y\n" for option in options)
        (tmp_path / "lib/modules" / release / "config").write_text(text)
    assert kernel_options(tmp_path) == {"Y"}


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


def test_modules_that_are_compressed_already_stay_as_they_are(
    small_root: Path, tmp_path: Path, log: IO[bytes]
) -> None:
    """As in Rocky 8, whose kernel is too old for a modules.builtin.modinfo, too."""
    take_boot_files(small_root, tmp_path / "boot")
    modules = small_root / "lib/modules" / RELEASE
    (modules / "modules.builtin.modinfo").unlink()
    for file in modules.rglob("*.ko"):
        file.with_suffix(".ko.xz").write_bytes(lzma.compress(file.read_bytes()))
        file.unlink()
    depmod(small_root, RELEASE, log=log)
    kernel = kernel_of_root(tmp_path / "boot", small_root)
    pack_modules(kernel, ["squashfs", "drivers/block/*"], tmp_path / "tree", log=log)
    folder = tmp_path / "tree/lib/modules" / RELEASE
    packed = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.xz")}
    assert packed == {
        path: (modules / path).read_bytes()
        for path in ("kernel/drivers/block/loop.ko.xz", "kernel/fs/squashfs/squashfs.ko.xz")
    }
    assert "loop.ko.xz:" in (folder / "modules.dep").read_text()


def test_a_module_that_the_kernel_lacks_is_named(
    small_root: Path, tmp_path: Path, log: IO[bytes]
) -> None:
    take_boot_files(small_root, tmp_path / "boot")
    kernel = kernel_of_root(tmp_path / "boot", small_root)
    with pytest.raises(UnknownModulesError, match=r"^the kernel has no module 'zfs'"):
        pack_modules(kernel, ["loop", "zfs"], tmp_path / "tree", log=log)

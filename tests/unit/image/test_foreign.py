"""Packages of another architecture, beside an apt that knows nothing of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

import pytest

from bootnode.errors import ImageError
from bootnode.image.build import build_image
from bootnode.image.foreign import apt_options, own_architecture
from bootnode.image.packages import Packages
from bootnode.image.spec import load_recipe
from bootnode.image.store import ImageStore

OTHER = {"bin/busybox": b"the busybox of another machine"}


class Archive(Protocol):
    """What these tests use of the archive of conftest."""

    top: Path

    def add(
        self, name: str, files: dict[str, bytes], *, depends: str = "", architecture: str = "amd64"
    ) -> None: ...
    def update(self) -> None: ...


@pytest.fixture
def log(tmp_path: Path) -> Iterator[IO[bytes]]:
    with (tmp_path / "log").open("wb") as file:
        yield file


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "the cache"
    folder.mkdir()
    return folder


def test_packages_of_another_architecture(
    archive: Archive, cache: Path, log: IO[bytes], tmp_path: Path
) -> None:
    archive.add("busybox-static", OTHER, architecture="arm64")
    archive.update()
    packages = Packages.of("arm64", cache, log=log)
    package = packages.fetch("busybox-static")
    assert package.file.name == "busybox-static_1.0_arm64.deb"
    packages.unpack(package, tmp_path / "out")
    assert (tmp_path / "out/bin/busybox").read_bytes() == OTHER["bin/busybox"]
    # The machine's own apt has not heard of it.
    own = Packages.of(own_architecture(log), cache, log=log)
    assert own.options == ()
    assert own.fetch("busybox-static").file.name == "busybox-static_1.0_amd64.deb"
    assert packages.state() != own.state()
    with pytest.raises(ImageError, match="apt knows no package 'linux-image-test'"):
        packages.fetch_kernel("linux-image-test")


def test_lists_are_as_new_as_the_machines_own(
    archive: Archive, cache: Path, log: IO[bytes], tmp_path: Path
) -> None:
    def updates() -> int:
        log.flush()
        return (tmp_path / "log").read_text().count("apt.conf' update\n")

    folder = cache / "apt-arm64"
    options = apt_options("arm64", folder, log=log)
    assert (options, updates()) == (("-c", str(folder / "apt.conf")), 1)
    assert apt_options("arm64", folder, log=log) == options
    assert updates() == 1
    os.utime(archive.top / "apt/state/lists", (4e9, 4e9))
    apt_options("arm64", folder, log=log)
    assert updates() == 2


def test_an_archive_that_is_gone_is_said(archive: Archive, cache: Path, log: IO[bytes]) -> None:
    (archive.top / "pool/Packages").unlink()
    (archive.top / "pool").rename(archive.top / "gone")
    with pytest.raises(ImageError, match="the package lists for arm64 cannot be fetched: `apt-get"):
        apt_options("arm64", cache / "apt-arm64", log=log)
    assert not (cache / "apt-arm64/updated").exists()


def test_no_operating_system_is_installed_for_another_machine(
    archive: Archive, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root installs an operating system")
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "image.yaml").write_text(
        "description: x\narchitecture: arm64\ndistribution: debian\nrelease: bookworm\n"
        "kernel: {package: linux-image-arm64, modules: [virtio_net]}\n"
    )
    store = ImageStore(tmp_path / "images")
    with pytest.raises(ImageError, match="is an operating system for arm64, and this machine is"):
        build_image(load_recipe(folder), store, cache=tmp_path / "cache")
    assert store.names() == []


def test_a_ramdisk_for_another_machine(archive: Archive, tmp_path: Path) -> None:
    pool = archive.top / "pool"
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "image.yaml").write_text(
        "description: x\narchitecture: arm64\n"
        "kernel: {package: linux-image-test, modules: [virtio_net]}\n"
    )
    for deb in sorted(pool.glob("*_amd64.deb")):
        name = deb.name.partition("_")[0]
        tree = tmp_path / name
        subprocess.run(["dpkg-deb", "-x", str(deb), str(tree)], check=True)
        files = {str(p.relative_to(tree)): p.read_bytes() for p in tree.rglob("*") if p.is_file()}
        depends = "linux-image-6.1.0-1-test" if name == "linux-image-test" else ""
        archive.add(name, files, depends=depends, architecture="arm64")
        deb.unlink()
    archive.update()
    store = ImageStore(tmp_path / "images")
    image = build_image(load_recipe(folder), store, cache=tmp_path / "cache")
    assert image.manifest.architecture == "arm64"

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from bootnode.errors import ImageError
from bootnode.image import packages as packages_module
from bootnode.image.packages import Packages


class Archive(Protocol):
    """What these tests use of the archive of conftest."""

    top: Path

    def add(self, name: str, files: dict[str, bytes], *, depends: str = "") -> None: ...
    def update(self) -> None: ...


@pytest.fixture
def packages(tmp_path: Path) -> Iterator[Packages]:
    (tmp_path / "cache").mkdir()
    with (tmp_path / "log").open("wb") as log:
        yield Packages(cache=tmp_path / "cache", log=log)


def cached(packages: Packages) -> list[str]:
    return sorted(path.name for path in packages.cache.iterdir())


def test_a_package_is_fetched_once_and_checked(archive: Archive, packages: Packages) -> None:
    package = packages.fetch("busybox-static")
    assert (package.name, package.version) == ("busybox-static", "1.0")
    assert package.sha256 == hashlib.sha256(package.file.read_bytes()).hexdigest()
    (archive.top / "pool" / package.file.name).unlink()
    assert packages.fetch("busybox-static") == package
    assert cached(packages) == ["busybox-static_1.0_amd64.deb"]


def test_a_damaged_file_in_the_cache_is_fetched_again(archive: Archive, packages: Packages) -> None:
    package = packages.fetch("busybox-static")
    package.file.write_bytes(b"damaged")
    assert packages.fetch("busybox-static") == package
    assert hashlib.sha256(package.file.read_bytes()).hexdigest() == package.sha256


@pytest.mark.parametrize("name", ["linux-image-test", "linux-image-6.1.0-1-test"])
def test_the_kernel_is_found_through_the_package_that_follows_it(
    archive: Archive, packages: Packages, name: str
) -> None:
    assert packages.fetch_kernel(name).name == "linux-image-6.1.0-1-test"


def test_a_package_is_unpacked_and_not_installed(
    archive: Archive, packages: Packages, tmp_path: Path
) -> None:
    packages.unpack(packages.fetch("busybox-static"), tmp_path / "out")
    assert (tmp_path / "out/bin/busybox").read_bytes() == b"the busybox"


def test_an_unknown_package_is_named(archive: Archive, packages: Packages) -> None:
    with pytest.raises(ImageError, match="apt knows no package 'linux-image-amd46': correct the"):
        packages.fetch_kernel("linux-image-amd46")


def test_empty_lists_are_recognised(empty_archive: Archive, packages: Packages) -> None:
    with pytest.raises(ImageError, match="apt's package lists are empty: run `apt-get update`"):
        packages.fetch("busybox-static")


def test_a_package_that_is_gone_from_the_archive_fails(
    archive: Archive, packages: Packages
) -> None:
    for deb in (archive.top / "pool").glob("*.deb"):
        deb.unlink()
    with pytest.raises(ImageError, match="apt-get download"):
        packages.fetch("busybox-static")
    assert cached(packages) == []


def test_the_cache_has_an_end(
    archive: Archive, packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages_module, "MAX_CACHED_PACKAGES", 2)
    for age, name in enumerate(("oldest", "old", "recent")):
        file = packages.cache / f"{name}_1_amd64.deb"
        file.touch()
        os.utime(file, (age, age))
    packages.fetch("busybox-static")
    assert cached(packages) == ["busybox-static_1.0_amd64.deb", "recent_1_amd64.deb"]

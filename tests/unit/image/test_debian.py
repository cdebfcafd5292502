"""Debian by mmdebstrap: what it is asked for, and what its words mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from bootnode.errors import ImageError
from bootnode.image import debian
from bootnode.image.keys import Fetch, RootFormat
from bootnode.image.rootfs import INSTALL_TIME, Installed
from bootnode.image.spec import System

PACKAGE_TIME = 1_000_000_000
SYSTEM = System(
    distribution="debian",
    release="bookworm",
    mirror=None,
    repositories=(),
    packages=(),
    overlays=(),
    scripts=(),
    format=RootFormat.SQUASHFS,
    fetch=Fetch.INIT,
)


NO_RELEASE = "E: The repository 'http://m/debian bookworm Release' does not have a Release file."


@pytest.fixture
def log(tmp_path: Path) -> Iterator[IO[bytes]]:
    with (tmp_path / "build.log").open("wb") as file:
        yield file


@pytest.mark.root
@pytest.mark.parametrize("mirror", [None, "http://mirror.example/debian"])
def test_the_packages_and_the_mirror_go_to_mmdebstrap(
    mmdebstrap: Path,
    tmp_path: Path,
    log: IO[bytes],
    mirror: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    root = tmp_path / "root"
    system = replace(SYSTEM, mirror=mirror)
    debian.bootstrap(system, ("linux-image-test", "systemd"), root, log=log)
    words = mmdebstrap.read_text().split()
    # Whatever is asked for the image: what was installed does not depend on it.
    assert words[0] == f"SOURCE_DATE_EPOCH={INSTALL_TIME}"
    assert "--include=linux-image-test,systemd" in words
    at = words.index("bookworm")
    assert words[at:] == ["bookworm", str(root), *([mirror] if mirror else [])]
    assert not (root / "etc/hostname").exists()
    assert not (root / "etc/resolv.conf").exists()
    assert (root / "etc/machine-id").read_bytes() == b""
    packages = {"base": "1.0", "linux-image-test": "6.1.0-1"}
    assert debian.installed(root, log) == Installed(packages=packages, newest=PACKAGE_TIME)


@pytest.mark.root
@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("E: Unable to locate package cutl", "^bookworm has no package cutl: correct the recipe$"),
        (
            "E: Failed to fetch http://mirror.example/InRelease  Temporary failure resolving 'm'",
            "^cannot fetch http://mirror.example/InRelease: Temporary failure resolving 'm' ",
        ),
        (
            f"Err:2 http://m/debian bookworm Release\n  Could not connect\n{NO_RELEASE}",
            r"^cannot fetch http://m/debian: Could not connect \(check this machine's network",
        ),
        (
            f"Err:2 http://m/debian bookworm Release\n  404  Not Found [IP: ::1]\n{NO_RELEASE}",
            "^the mirror has no release 'bookworm': correct `release` or `mirror` in the recipe$",
        ),
        ("tar: ./usr: No space left on device", "^no space left on device while installing book"),
        ("E: something else", "^`mmdebstrap` failed with exit status 25:\n    E: something else"),
    ],
)
def test_what_apt_says_is_explained(
    mmdebstrap: Path, tmp_path: Path, log: IO[bytes], said: str, message: str
) -> None:
    tool = tmp_path / "bin/mmdebstrap"
    tool.write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 25\n')
    with pytest.raises(ImageError, match=message):
        debian.bootstrap(SYSTEM, ("systemd",), tmp_path / "root", log=log)


CHECKING = """\
#!/bin/sh
export MMDEBSTRAP_APT_CONFIG="$APT_CONFIG"
unset APT_CONFIG
for word; do case $word in
    --setup-hook=*) hook=${word#*=} ;;
    --include=*) export MMDEBSTRAP_INCLUDE="${word#*=}" ;;
esac; done
touch "$TMPDIR/left-behind"
sh -c "$hook" || { echo "E: command failed: $hook" >&2; exit 25; }
for target; do :; done
mkdir -p "$target/etc"
"""


@pytest.mark.root
def test_packages_are_looked_up_before_anything_is_installed(
    mmdebstrap: Path, tmp_path: Path, log: IO[bytes]
) -> None:
    assert mmdebstrap
    (tmp_path / "bin/mmdebstrap").write_text(CHECKING)
    folder = tmp_path / "output"
    folder.mkdir()
    with pytest.raises(ImageError, match=r"^bookworm has no package nonesuch: correct the recipe$"):
        debian.bootstrap(SYSTEM, ("busybox-static", "nonesuch"), folder / "root", log=log)
    assert list(folder.iterdir()) == []
    debian.bootstrap(SYSTEM, ("busybox-static",), folder / "root", log=log)
    assert [path.name for path in folder.iterdir()] == ["root"]


def test_a_root_without_packages(tmp_path: Path, log: IO[bytes]) -> None:
    assert debian.installed(tmp_path, log) == Installed(packages={}, newest=0)

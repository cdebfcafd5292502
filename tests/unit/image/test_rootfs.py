"""Root file systems: the overlay, the script inside, and what is left afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from bootnode.errors import ImageError
from bootnode.image import rootfs

PACKAGE_TIME = 1_000_000_000


@pytest.fixture
def log(tmp_path: Path) -> Iterator[IO[bytes]]:
    with (tmp_path / "build.log").open("wb") as file:
        yield file


def mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines if line.split()[4].startswith(str(folder))]


def script(folder: Path, text: str) -> Path:
    path = folder / "customise"
    path.write_text(f"#!/bin/sh\n{text}")
    return path


@pytest.mark.root
def test_the_script_runs_inside(small_root: Path, tmp_path: Path, log: IO[bytes]) -> None:
    text = """\
set -eu
id -u >/made
echo "$HOME $DEBIAN_FRONTEND" >>/made
echo from-nobody >/dev/null
cat /etc/resolv.conf >/resolver
[ -e /proc/self/status ]
[ -e /sys/kernel ]
touch /run/gone /tmp/gone /dev/shm/gone
echo broken >/etc/resolv.conf
busybox hostname >/name
/usr/sbin/policy-rc.d || echo $? >/policy
"""
    (small_root / "usr/sbin").mkdir()
    resolver = Path("/etc/resolv.conf").read_text()
    (small_root / "etc/resolv.conf").unlink()
    rootfs.customise(small_root, script(tmp_path, text), log=log)
    assert (small_root / "made").read_text() == "0\n/root noninteractive\n"
    assert (small_root / "resolver").read_text() == resolver == Path("/etc/resolv.conf").read_text()
    assert (small_root / "name").read_text() == "localhost\n"
    assert (small_root / "policy").read_text() == "101\n"
    for folder in ("run", "tmp", "dev", "proc", "sys", "usr/sbin"):
        assert list((small_root / folder).iterdir()) == []
    assert not (small_root / "etc/resolv.conf").exists()
    assert mounts_below(small_root) == []


@pytest.mark.root
@pytest.mark.parametrize(("wanted", "told"), [(None, rootfs.INSTALL_TIME), ("5", "5")])
def test_a_script_is_told_what_time_to_take_for_now(
    small_root: Path,
    tmp_path: Path,
    log: IO[bytes],
    monkeypatch: pytest.MonkeyPatch,
    wanted: str | None,
    told: str,
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    if wanted is not None:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", wanted)
    rootfs.customise(small_root, script(tmp_path, "echo $SOURCE_DATE_EPOCH >/made\n"), log=log)
    assert (small_root / "made").read_text() == f"{told}\n"


@pytest.mark.root
def test_the_script_may_read_what_is_provided(
    small_root: Path, tmp_path: Path, log: IO[bytes]
) -> None:
    provided = tmp_path / "provided"
    provided.mkdir()
    (provided / "fact").write_text("known\n")
    text = "cp /run/bootnode/fact /fact; touch /run/bootnode/more || touch /refused\n"
    rootfs.customise(small_root, script(tmp_path, text), log=log, provided=provided)
    assert (small_root / "fact").read_text() == "known\n"
    assert (small_root / "refused").exists()
    assert [path.name for path in provided.iterdir()] == ["fact"]
    assert mounts_below(small_root) == []


@pytest.mark.root
def test_a_script_may_be_named_from_here(
    small_root: Path, tmp_path: Path, log: IO[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path, "echo made >/made\n")
    monkeypatch.chdir(tmp_path)
    rootfs.customise(Path("small-root"), Path("customise"), log=log)
    assert (small_root / "made").read_text() == "made\n"


@pytest.mark.root
@pytest.mark.parametrize("target", ["../run/systemd/resolve/stub.conf", "/run/resolv.conf"])
def test_a_resolver_that_is_a_link_stays_one(
    small_root: Path, tmp_path: Path, log: IO[bytes], target: str
) -> None:
    resolver = small_root / "etc/resolv.conf"
    resolver.unlink()
    resolver.symlink_to(target)
    rootfs.customise(small_root, script(tmp_path, "cat /etc/resolv.conf >/resolver\n"), log=log)
    assert (small_root / "resolver").read_text() == Path("/etc/resolv.conf").read_text()
    assert str(resolver.readlink()) == target


@pytest.mark.root
def test_a_script_that_fails_says_why(small_root: Path, tmp_path: Path, log: IO[bytes]) -> None:
    with pytest.raises(
        ImageError, match=r"^`.*/customise` failed with exit status 3:\n +no such package$"
    ):
        rootfs.customise(small_root, script(tmp_path, "echo no such package; exit 3"), log=log)
    assert mounts_below(small_root) == []


KILLED = """\
import sys
from pathlib import Path
from bootnode.image.rootfs import customise
with open(sys.argv[3], "wb") as log:
    customise(Path(sys.argv[1]), Path(sys.argv[2]), log=log)
"""


@pytest.mark.root
def test_a_killed_build_leaves_no_mount_and_no_process(small_root: Path, tmp_path: Path) -> None:
    slow = script(tmp_path, "echo $$ >/started; sleep 1000 & sleep 1000\n")
    arguments = [str(small_root), str(slow), str(tmp_path / "log")]
    with subprocess.Popen([sys.executable, "-c", KILLED, *arguments]) as process:
        wait_for(small_root / "started", process)
        process.send_signal(signal.SIGKILL)
    assert mounts_below(small_root) == []
    for _ in range(100_000):
        if not with_root(small_root):
            break
        os.sched_yield()
    assert with_root(small_root) == []


def wait_for(file: Path, process: subprocess.Popen[bytes]) -> None:
    while not file.exists() or not file.read_text():
        assert process.poll() is None
        os.sched_yield()


def with_root(root: Path) -> list[str]:
    """The processes that run inside `root`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/root"):
        try:
            if entry.readlink() == root:
                found.append(entry.parent.name)
        except OSError:
            continue  # it has ended
    return found


def test_the_overlay_goes_over_the_root(tmp_path: Path) -> None:
    root, overlay = tmp_path / "root", tmp_path / "overlay"
    (root / "usr/lib").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    (root / "var").mkdir()
    (root / "var/run").symlink_to("/run")
    (root / "run").mkdir()
    (root / "root").mkdir(mode=0o700)
    (root / "etc").mkdir()
    (root / "etc/old").symlink_to("/etc/passwd")
    for name in ("lib/unit", "var/run/file", "root/.profile", "etc/old", "etc/new/deep/script"):
        (overlay / name).parent.mkdir(parents=True, exist_ok=True)
        (overlay / name).write_text(name)
        (overlay / name).chmod(0o666)
    (overlay / "etc/new/deep/script").chmod(0o700)
    (overlay / "etc/link").symlink_to("new")
    rootfs.put_overlay(overlay, root)
    assert (root / "usr/lib/unit").read_text() == "lib/unit"
    assert (root / "run/file").read_text() == "var/run/file"
    assert (root / "root").stat().st_mode & 0o777 == 0o700
    assert (root / "root/.profile").stat().st_mode & 0o777 == 0o644
    assert not (root / "etc/old").is_symlink()
    assert (root / "etc/new/deep/script").stat().st_mode & 0o777 == 0o755
    assert (root / "etc/new/deep").stat().st_mode & 0o777 == 0o755
    assert str((root / "etc/link").readlink()) == "new"
    assert (root / "lib").is_symlink()


def test_links_never_lead_out(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("../../../b")
    (tmp_path / "b").symlink_to("/c/./d")
    (tmp_path / "x").symlink_to("y")
    (tmp_path / "y").symlink_to("x")
    assert rootfs.inside(tmp_path, Path("a/e")) == tmp_path / "c/d/e"
    with pytest.raises(ImageError, match="/x/z in the root file system leads round in a circle"):
        rootfs.inside(tmp_path, Path("x/z"))


def test_kernels_are_taken_out(small_root: Path, tmp_path: Path) -> None:
    rootfs.take_boot_files(small_root, tmp_path / "boot")
    assert [path.name for path in (tmp_path / "boot").iterdir()] == ["vmlinuz-6.1.0-1-test"]
    assert [path.name for path in (small_root / "boot").iterdir()] == ["config-6.1.0-1-test"]
    assert not (small_root / "vmlinuz").is_symlink()


@pytest.mark.parametrize(
    "copied",
    [
        [],
        ["vmlinuz-4.18.0", "initramfs-4.18.0.img", "vmlinuz-0-rescue-0123456789abcdef"],
    ],
    ids=["a package unpacked", "kernel-install"],
)
def test_kernels_of_rocky_are_taken_out(tmp_path: Path, copied: list[str]) -> None:
    root = tmp_path / "root"
    (root / "boot").mkdir(parents=True)
    (root / "lib/modules/4.18.0").mkdir(parents=True)
    (root / "lib/modules/4.18.0/vmlinuz").write_text("the kernel")
    for name in copied:
        (root / "boot" / name).write_text("the kernel")
    rootfs.take_boot_files(root, tmp_path / "boot")
    assert [path.name for path in (tmp_path / "boot").iterdir()] == ["vmlinuz-4.18.0"]
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_nothing_is_younger_than_its_packages(small_root: Path) -> None:
    (small_root / "etc/new").write_text("made just now")
    (small_root / "etc/link").symlink_to("new")
    os.utime(small_root / "usr", (1, 1))
    rootfs.limit_times(small_root, PACKAGE_TIME)
    times = {int(path.lstat().st_mtime) for path in (*small_root.rglob("*"), small_root)}
    assert times == {1, PACKAGE_TIME}


def test_only_root_builds_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ImageError, match="is built by root: use sudo"):
        rootfs.check_is_root()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    rootfs.check_is_root()

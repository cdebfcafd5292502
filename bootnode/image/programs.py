"""The programs that init needs in the ramdisk: busybox, and what busybox cannot do itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import IO

from bootnode.errors import ImageError
from bootnode.image.packages import Package, Packages
from bootnode.image.rootfs import NAMESPACE, inside
from bootnode.image.run import run

BUSYBOX_PACKAGE = "busybox-static"
UNPACKER = "usr/bin/zstd"
"""What init unpacks a tar.zst with: busybox cannot."""
UNPACKER_PACKAGE = "zstd"
LDD_TIMEOUT_S = 60.0


def add_busybox(package: Package, tree: Path, apt: Packages) -> None:
    """Put busybox out of its package into the ramdisk's `tree`, and the folders of its links.

    Raises:
        ImageError: the package holds none.
    """
    folder = tree.with_name("busybox")
    apt.unpack(package, folder)
    found = [path for path in (folder / "bin", folder / "usr/bin") if (path / "busybox").exists()]
    if not found:
        raise ImageError(f"the package {package.name} holds no busybox")
    (tree / "bin").mkdir(parents=True)
    shutil.copy(found[0] / "busybox", tree / "bin" / "busybox")
    shutil.rmtree(folder)
    # For the shell of last resort; init makes all the other links to busybox, in these folders.
    (tree / "bin" / "sh").symlink_to("busybox")
    (tree / "usr").mkdir()
    for path, target in (("sbin", "bin"), ("usr/bin", "../bin"), ("usr/sbin", "../bin")):
        (tree / path).symlink_to(target)


def add_unpacker(root: Path, tree: Path, *, log: IO[bytes]) -> None:
    """Copy zstd out of `root` into the ramdisk's `tree`, and the libraries that it names."""
    command = [*NAMESPACE, "chroot", str(root), "ldd", f"/{UNPACKER}"]
    said = run(command, log=log, timeout_s=LDD_TIMEOUT_S)
    libraries = [word for word in said.split() if word.startswith("/")]
    shutil.copy(root / UNPACKER, tree / "bin" / Path(UNPACKER).name)
    for library in libraries:
        target = tree / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(inside(root, Path(library)), target)

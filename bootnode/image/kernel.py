"""The kernel of an image, and those of its modules that go into the ramdisk.

The kernel comes out of a package, or out of the root file system that it boots. Either way its
modules lie beside it, so they match; where somebody has put another kernel into a root file system,
that is found here and not on the node.
"""

from __future__ import annotations

import lzma
import re
import shutil
import struct
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bootnode.errors import ImageError
from bootnode.image.modules import ModuleIndex
from bootnode.image.run import run

XZ_PRESET = 0
"""Preset 6 makes the failsafe's modules 10 % smaller and takes seven times as long."""
DEPMOD_TIMEOUT_S = 300.0
_DEPMOD_READS = ("modules.builtin", "modules.builtin.modinfo", "modules.order")
# Of what depmod writes, what busybox modprobe reads.
_MODPROBE_FILES = ("modules.dep", "modules.alias", "modules.builtin", "modules.softdep")
_OPTION = re.compile(r"^CONFIG_(\w+)=[ym]$", re.M)
# The x86 boot protocol (Documentation/arch/x86/boot.rst): a mark, and where the version text is.
_MAGIC_AT, _MAGIC = 0x202, b"HdrS"
_VERSION_AT, _VERSION_BASE, _VERSION_MAX = 0x20E, 0x200, 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel and the modules that were built with it."""

    release: str
    """What `uname -r` says on the node."""
    vmlinuz: Path
    top: Path
    """The folder that holds its `lib/modules/RELEASE`."""

    @property
    def modules_folder(self) -> Path:
        """Where the modules and depmod's files are."""
        return self.top / "lib" / "modules" / self.release


def kernel_of_package(folder: Path, package: str) -> Kernel:
    """The kernel in the unpacked Debian package.

    Raises:
        ImageError: it holds no kernel, several, or no modules for it.
    """
    found = sorted((folder / "boot").glob("vmlinuz-*"))
    if len(found) != 1:
        raise ImageError(f"the package {package} holds {len(found)} kernels, not one")
    # Newer packages have their modules below usr, where /lib leads on a merged system.
    release = found[0].name.removeprefix("vmlinuz-")
    for top in (folder, folder / "usr"):
        if (top / "lib" / "modules" / release).is_dir():
            return Kernel(release=release, vmlinuz=found[0], top=top)
    raise ImageError(f"the package {package} holds no modules for {release}")


def kernel_of_root(boot: Path, root: Path) -> Kernel:
    """The one kernel that was taken out of a root file system into `boot`, if its modules fit.

    Raises:
        ImageError: there is no kernel, or there are several, or it is not the modules' one.
    """
    kernels = sorted(boot.glob("vmlinuz-*"))
    modules = sorted((root / "lib" / "modules").glob("*/modules.dep"))
    found = ", ".join(file.name for file in kernels) or "no kernel"
    releases = [file.parent.name for file in modules]
    beside = f"modules of {', '.join(releases)}" if releases else "no modules"
    if len(kernels) != 1:
        raise ImageError(f"the root file system holds {found} in /boot, and {beside} (want one)")
    release = boot_release(kernels[0]) or kernels[0].name.removeprefix("vmlinuz-")
    if releases != [release]:
        raise ImageError(
            f"the root file system holds {found}, which is {release}, and {beside}: they must match"
        )
    return Kernel(release=release, vmlinuz=kernels[0], top=root)


def kernel_options(root: Path) -> frozenset[str]:
    """What the kernels in `root` can do: the options they were built with, without `CONFIG_`.

    Those of all kernels if there are several; none where no configuration lies beside them.
    """
    files = [*(root / "boot").glob("config-*"), *(root / "lib" / "modules").glob("*/config")]
    found = [frozenset(_OPTION.findall(file.read_text())) for file in files]
    return frozenset.intersection(*found) if found else frozenset()


def boot_release(vmlinuz: Path) -> str | None:
    """The release that an x86 kernel says it is; None if it is of another kind."""
    with vmlinuz.open("rb") as file:
        head = file.read(_VERSION_AT + 2)
        if head[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] != _MAGIC or len(head) < _VERSION_AT + 2:
            return None
        (at,) = struct.unpack_from("<H", head, _VERSION_AT)
        file.seek(_VERSION_BASE + at)
        text = file.read(_VERSION_MAX).partition(b"\0")[0]
    words = text.decode("ascii", "replace").split()
    return words[0] if words else None


def pack_modules(kernel: Kernel, wanted: Iterable[str], tree: Path, *, log: IO[bytes]) -> None:
    """Put the `wanted` modules of `kernel` and what they need into the ramdisk's `tree`.

    Raises:
        UnknownModulesError: the kernel has none of a name.
        ImageError: depmod fails.
    """
    selected = _read_index(kernel.modules_folder).select(wanted)
    target = tree / "lib" / "modules" / kernel.release
    copy_modules(kernel.modules_folder, target, selected)
    for name in _DEPMOD_READS:
        # Kernels before Linux 5.2 have no modules.builtin.modinfo.
        if (kernel.modules_folder / name).exists():
            shutil.copyfile(kernel.modules_folder / name, target / name)
    depmod(tree, kernel.release, log=log)
    for file in target.glob("modules.*"):
        if file.name not in _MODPROBE_FILES:
            file.unlink()


def depmod(top: Path, release: str, *, log: IO[bytes]) -> None:
    """Write the indexes of the modules below `top`."""
    run(["depmod", "-b", str(top), release], log=log, timeout_s=DEPMOD_TIMEOUT_S)


def copy_modules(source: Path, target: Path, paths: Iterable[str]) -> None:
    """Copy modules, each compressed by xz; one that is compressed already stays as it is.

    A node unpacks only the few that it loads. Unpacking all of them with the ramdisk takes five
    times the memory and a second of every boot.
    """
    target.mkdir(parents=True)

    def copy(path: str) -> None:
        raw = (source / path).read_bytes()
        file = target / path
        if file.suffix == ".ko":
            # crc32 is the only check that busybox's decoder knows.
            raw = lzma.compress(raw, check=lzma.CHECK_CRC32, preset=XZ_PRESET)
            file = file.with_suffix(".ko.xz")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(raw)

    with ThreadPoolExecutor() as threads:
        for _ in threads.map(copy, paths):
            pass  # raises what a thread raised


def _read_index(folder: Path) -> ModuleIndex:
    return ModuleIndex.parse(
        dep=(folder / "modules.dep").read_text(),
        alias=(folder / "modules.alias").read_text(),
        softdep=(folder / "modules.softdep").read_text(),
        builtin=(folder / "modules.builtin").read_text(),
    )

"""Building an image: the steps from a recipe to a published version.

Steps: packages → kernel → modules → ramdisk → publish. Everything is made in a staging folder of
the store and appears by one rename, so a build that fails, is interrupted or killed leaves the
published versions as they were. Nothing is installed on this machine and no root is needed.

The same packages, recipe and init give the same files: times are SOURCE_DATE_EPOCH or 0.
"""

from __future__ import annotations

import lzma
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bootnode.errors import ImageError
from bootnode.image.modules import ModuleIndex, UnknownModulesError
from bootnode.image.packages import DOWNLOAD_PREFIX, Package, Packages
from bootnode.image.ramdisk import Ramdisk, write_ramdisk
from bootnode.image.run import run
from bootnode.image.spec import RECIPE_FILE, Recipe, init_folder
from bootnode.image.store import Contents, ImageStore, ImageVersion, Provenance, hash_tree

KERNEL_FILE = "vmlinuz"
XZ_PRESET = 0
"""Preset 6 makes the failsafe's modules 10 % smaller and takes seven times as long."""
INITRD_FILE = "initrd.img"
BUSYBOX_PACKAGE = "busybox-static"
DEPMOD_TIMEOUT_S = 300.0
# Of what depmod writes, what busybox modprobe reads.
_MODPROBE_FILES = ("modules.dep", "modules.alias", "modules.builtin", "modules.softdep")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A step of a build that begins (`seconds` is None) or has ended."""

    step: str
    detail: str
    seconds: float | None = None


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel package, taken apart."""

    release: str
    vmlinuz: Path
    top: Path
    """The folder that holds its `lib/modules/RELEASE`."""

    @property
    def modules_folder(self) -> Path:
        """Where the modules and depmod's files are."""
        return self.top / "lib" / "modules" / self.release


def build_image(
    recipe: Recipe, store: ImageStore, *, cache: Path, report: Report = lambda _progress: None
) -> ImageVersion:
    """Build `recipe`, publish it in `store` and return the version; packages stay in `cache`.

    The log of all that was run is `cache/NAME.log`.

    Raises:
        ImageError: a step failed; what was published before is untouched.
    """
    try:
        with store.staging(recipe.name) as staging:
            cache.mkdir(parents=True, exist_ok=True)
            for leftover in cache.glob(f"{DOWNLOAD_PREFIX}*"):
                shutil.rmtree(leftover)
            with (cache / f"{recipe.name}.log").open("wb") as log:
                build = _Build(recipe=recipe, work=staging / "work", log=log, report=report)
                return build.run(store, Packages(cache=cache, log=log), staging / "version")
    except OSError as error:
        place = error.filename or store.folder
        raise ImageError(
            f"building '{recipe.name}' failed: {error.strerror or error} ({place})"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Build:
    recipe: Recipe
    work: Path
    log: IO[bytes]
    report: Report

    def run(self, store: ImageStore, packages: Packages, staged: Path) -> ImageVersion:
        self.work.mkdir()
        staged.mkdir()
        spec = self.recipe.kernel
        with self._step("packages", f"{spec.package} and {BUSYBOX_PACKAGE}"):
            kernel_package = packages.fetch_kernel(spec.package)
            busybox_package = packages.fetch(BUSYBOX_PACKAGE)
        with self._step("kernel", f"{kernel_package.name} {kernel_package.version}"):
            kernel = self._unpack_kernel(packages, kernel_package)
            shutil.copyfile(kernel.vmlinuz, staged / KERNEL_FILE)
        tree = self.work / "ramdisk"
        with self._step("modules", kernel.release):
            self._add_modules(kernel, tree)
        with self._step("ramdisk", INITRD_FILE):
            self._add_busybox(packages, busybox_package, tree)
            self._add_init(tree)
            ramdisk = write_ramdisk(tree, staged / INITRD_FILE, mtime=source_date_epoch())
        with self._step("publish", self.recipe.name):
            return store.publish(
                self.recipe.name,
                staged,
                self._contents(kernel, ramdisk),
                self._provenance(kernel_package, busybox_package),
            )

    @contextmanager
    def _step(self, step: str, detail: str) -> Iterator[None]:
        self.log.write(f"== {step}: {detail}\n".encode())
        self.report(Progress(step=step, detail=detail))
        begin = time.monotonic()
        yield
        self.report(Progress(step=step, detail=detail, seconds=time.monotonic() - begin))

    def _unpack_kernel(self, packages: Packages, package: Package) -> Kernel:
        folder = self.work / "kernel"
        packages.unpack(package, folder)
        found = sorted((folder / "boot").glob("vmlinuz-*"))
        if len(found) != 1:
            raise ImageError(f"the package {package.name} holds {len(found)} kernels, not one")
        # Newer packages have their modules below usr, where /lib leads on a merged system.
        release = found[0].name.removeprefix("vmlinuz-")
        for top in (folder, folder / "usr"):
            if (top / "lib" / "modules" / release).is_dir():
                return Kernel(release=release, vmlinuz=found[0], top=top)
        raise ImageError(f"the package {package.name} holds no modules for {release}")

    def _add_modules(self, kernel: Kernel, tree: Path) -> None:
        self._depmod(kernel.top, kernel.release)
        spec = self.recipe.kernel
        try:
            selected = _read_index(kernel.modules_folder).select((*spec.modules, *spec.load))
        except UnknownModulesError as error:
            raise ImageError(f"{self.recipe.folder / RECIPE_FILE}: {error}") from error
        target = tree / "lib" / "modules" / kernel.release
        copy_modules(kernel.modules_folder, target, selected)
        for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
            shutil.copyfile(kernel.modules_folder / name, target / name)
        self._depmod(tree, kernel.release)
        for file in target.glob("modules.*"):
            if file.name not in _MODPROBE_FILES:
                file.unlink()

    def _depmod(self, top: Path, release: str) -> None:
        run(["depmod", "-b", str(top), release], log=self.log, timeout_s=DEPMOD_TIMEOUT_S)

    def _add_busybox(self, packages: Packages, package: Package, tree: Path) -> None:
        folder = self.work / "busybox"
        packages.unpack(package, folder)
        found = [
            path for path in (folder / "bin", folder / "usr/bin") if (path / "busybox").exists()
        ]
        if not found:
            raise ImageError(f"the package {package.name} holds no busybox")
        (tree / "bin").mkdir()
        shutil.copy(found[0] / "busybox", tree / "bin" / "busybox")
        # For the shell of last resort; init makes all the other links to busybox, in these folders.
        (tree / "bin" / "sh").symlink_to("busybox")
        (tree / "usr").mkdir()
        for path, target in (("sbin", "bin"), ("usr/bin", "../bin"), ("usr/sbin", "../bin")):
            (tree / path).symlink_to(target)

    def _add_init(self, tree: Path) -> None:
        shutil.copytree(init_folder(self.recipe), tree, symlinks=True, dirs_exist_ok=True)
        (tree / "init").chmod(0o755)
        settings = tree / "etc" / "bootnode"
        settings.mkdir(parents=True, exist_ok=True)
        (settings / "modules").write_text("".join(f"{m}\n" for m in self.recipe.kernel.load))

    def _contents(self, kernel: Kernel, ramdisk: Ramdisk) -> Contents:
        return Contents(
            kernel=KERNEL_FILE,
            initrds=(INITRD_FILE,),
            kernel_args=self.recipe.kernel_args,
            kernel_release=kernel.release,
            ram_bytes=ramdisk.ram_bytes,
        )

    def _provenance(self, *packages: Package) -> Provenance:
        return Provenance(
            recipe_sha256=hash_tree(self.recipe.folder, init_folder(self.recipe)),
            packages={package.name: package.version for package in packages},
        )


def copy_modules(source: Path, target: Path, paths: Iterable[str]) -> None:
    """Copy modules, each compressed by xz.

    A node unpacks only the few that it loads. Unpacking all of them with the ramdisk takes five
    times the memory and a second of every boot.
    """

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


def source_date_epoch() -> int:
    """The time that everything in an image gets: SOURCE_DATE_EPOCH, else 0.

    Raises:
        ImageError: SOURCE_DATE_EPOCH is not a number of seconds.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH", "0")
    if not text.isascii() or not text.isdigit():
        raise ImageError(f"SOURCE_DATE_EPOCH is '{text}' (want seconds since 1970)")
    return int(text)


def _read_index(folder: Path) -> ModuleIndex:
    return ModuleIndex.parse(
        dep=(folder / "modules.dep").read_text(),
        alias=(folder / "modules.alias").read_text(),
        softdep=(folder / "modules.softdep").read_text(),
        builtin=(folder / "modules.builtin").read_text(),
    )

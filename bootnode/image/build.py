"""Building an image: the steps from a recipe to a published version.

A ramdisk alone: packages → kernel → ramdisk → publish. With an operating system:
rootfs → customise → archive → kernel → ramdisk → publish.

Each step is skipped when what it is made from has not changed (steps.py). What is published appears
by one rename, so a build that fails, is interrupted or killed leaves the published versions as they
were. Nothing is installed on this machine; root is needed for an operating system only.

The same packages, recipe and init give the same files: times are SOURCE_DATE_EPOCH or, without it,
0 in a ramdisk and the newest package's in a root file system.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bootnode.errors import ImageError
from bootnode.image import archive, debian, rootfs
from bootnode.image.kernel import (
    Kernel,
    depmod,
    kernel_of_package,
    kernel_of_root,
    pack_modules,
)
from bootnode.image.modules import UnknownModulesError
from bootnode.image.packages import DOWNLOAD_PREFIX, Package, Packages
from bootnode.image.ramdisk import write_ramdisk
from bootnode.image.run import run
from bootnode.image.spec import RECIPE_FILE, Fetch, Recipe, RootFormat, System, init_folder
from bootnode.image.steps import Facts, Report, Result, Steps
from bootnode.image.store import (
    Contents,
    ImageStore,
    ImageVersion,
    Provenance,
    RootFile,
    hash_tree,
)

KERNEL_FILE = "vmlinuz"
INITRD_FILE = "initrd.img"
BUSYBOX_PACKAGE = "busybox-static"
UNPACKER = "usr/bin/zstd"
"""What init unpacks a tar.zst with: busybox cannot."""
UNPACKER_PACKAGE = "zstd"
LDD_TIMEOUT_S = 60.0
RAMDISK_STEPS = ("packages", "kernel", "ramdisk")
SYSTEM_STEPS = ("rootfs", "customise", "archive", "kernel", "ramdisk")


def build_image(
    recipe: Recipe,
    store: ImageStore,
    *,
    cache: Path,
    report: Report = lambda _progress: None,
    begin: str | None = None,
) -> ImageVersion:
    """Build `recipe`, publish it in `store` and return the version; `cache` keeps what was made.

    The step `begin` and those after it are done even if nothing has changed. The log of all that
    was run is `cache/NAME.log`.

    Raises:
        ImageError: a step failed; what was published before is untouched.
    """
    anew = _steps_from(recipe, begin)
    if recipe.system is not None:
        rootfs.check_is_root()
    try:
        with store.staging(recipe.name) as staging:
            cache.mkdir(parents=True, exist_ok=True)
            for leftover in cache.glob(f"{DOWNLOAD_PREFIX}*"):
                shutil.rmtree(leftover)
            with (cache / f"{recipe.name}.log").open("wb") as log:
                steps = Steps(cache=cache / recipe.name, log=log, report=report, anew=anew)
                steps.remove_leftovers()
                packages = Packages(cache=cache, log=log)
                build = _Build(recipe=recipe, steps=steps, packages=packages, log=log)
                return build.run(store, staging / "version")
    except OSError as error:
        place = error.filename or store.folder
        raise ImageError(
            f"building '{recipe.name}' failed: {error.strerror or error} ({place})"
        ) from error


def _steps_from(recipe: Recipe, begin: str | None) -> frozenset[str]:
    known = SYSTEM_STEPS if recipe.system is not None else RAMDISK_STEPS
    if begin is None:
        return frozenset()
    if begin not in known:
        raise ImageError(f"'{recipe.name}' has no step '{begin}' (want one of {', '.join(known)})")
    return frozenset(known[known.index(begin) :])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What every image is made of, whichever way it was made."""

    kernel: Result
    """`vmlinuz`, and the modules for the ramdisk in `tree`."""
    programs: Result
    """`tree` with busybox, and what else init needs."""
    root: Result | None
    """The root file system's archive, with a RootFile as its facts."""
    packages: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Build:
    recipe: Recipe
    steps: Steps
    packages: Packages
    log: IO[bytes]

    def run(self, store: ImageStore, staged: Path) -> ImageVersion:
        system = self.recipe.system
        parts = self._ramdisk_parts() if system is None else self._system_parts(system)
        ramdisk = self._ramdisk(parts)
        with self.steps.step("publish", self.recipe.name):
            staged.mkdir()
            for file in _published(parts, ramdisk):
                _place(file, staged / file.name)
            contents = self._contents(parts, ramdisk)
            provenance = Provenance(
                recipe_sha256=hash_tree(self.recipe.folder, init_folder(self.recipe)),
                packages=parts.packages,
            )
            return store.publish(self.recipe.name, staged, contents, provenance)

    # A ramdisk alone

    def _ramdisk_parts(self) -> _Parts:
        with self.steps.step("packages", f"{self.recipe.kernel.package} and {BUSYBOX_PACKAGE}"):
            package = self.packages.fetch_kernel(self.recipe.kernel.package)
            busybox = self.packages.fetch(BUSYBOX_PACKAGE)

        def make(output: Path) -> Facts:
            folder = output / "unpacked"
            self.packages.unpack(package, folder)
            kernel = kernel_of_package(folder, package.name)
            depmod(kernel.top, kernel.release, log=self.log)
            facts = self._pack(kernel, self._modules(), output)
            shutil.rmtree(folder)
            self._add_busybox(busybox, output / "tree")
            return facts

        inputs = {"packages": [package.sha256, busybox.sha256], "modules": self._modules()}
        made = self.steps.make("kernel", f"{package.name} {package.version}", inputs, make)
        versions = {package.name: package.version, busybox.name: busybox.version}
        return _Parts(kernel=made, programs=made, root=None, packages=versions)

    # An operating system

    def _system_parts(self, system: System) -> _Parts:
        base = self._rootfs(system)
        tree = self._customise(system, base)
        root = self._archive(system, tree)
        kernel = self._kernel(system, tree)
        return _Parts(kernel=kernel, programs=base, root=root, packages=tree.facts["packages"])

    def _rootfs(self, system: System) -> Result:
        names = {*system.packages, self.recipe.kernel.package}
        if system.format is RootFormat.TAR_ZST:
            names.add(UNPACKER_PACKAGE)
        packages = tuple(sorted(names))

        def make(output: Path) -> Facts:
            root = output / "root"
            debian.bootstrap(system, packages, root, log=self.log)
            busybox = self.packages.fetch(BUSYBOX_PACKAGE)
            self._add_busybox(busybox, output / "tree")
            if system.format is RootFormat.TAR_ZST:
                self._add_unpacker(root, output / "tree")
            return {}

        inputs = {
            "system": [system.distribution, system.release, system.mirror],
            "packages": packages,
            "unpacker": system.format is RootFormat.TAR_ZST,
        }
        detail = f"{system.distribution} {system.release}, {len(packages)} packages and their needs"
        return self.steps.make("rootfs", detail, inputs, make)

    def _customise(self, system: System, base: Result) -> Result:
        epoch = source_date_epoch() if "SOURCE_DATE_EPOCH" in os.environ else None

        def make(output: Path) -> Facts:
            root = output / "root"
            rootfs.copy_root(base.folder / "root", root, log=self.log)
            if system.overlay is not None:
                rootfs.put_overlay(system.overlay, root)
            if system.customise is not None:
                rootfs.customise(root, system.customise, log=self.log)
            rootfs.take_boot_files(root, output / "boot")
            installed = debian.installed(root, self.log)
            newest = installed.newest if epoch is None else epoch
            rootfs.limit_times(root, newest)
            return {"packages": installed.packages, "epoch": newest}

        script = system.customise.read_bytes() if system.customise is not None else b""
        inputs = {
            "base": base.mark,
            "overlay": hash_tree(system.overlay) if system.overlay is not None else None,
            "script": hashlib.sha256(script).hexdigest(),
            "epoch": epoch,
        }
        named = [path.name for path in (system.overlay, system.customise) if path is not None]
        return self.steps.make("customise", " and ".join(named) or "nothing", inputs, make)

    def _archive(self, system: System, tree: Result) -> Result:
        def make(output: Path) -> Facts:
            root = tree.folder / "root"
            epoch = tree.facts["epoch"]
            written = archive.write_root(
                root, output, system.format, system.fetch, epoch=epoch, log=self.log
            )
            return written.model_dump()

        inputs = {"tree": tree.mark, "format": system.format, "fetch": system.fetch}
        return self.steps.make("archive", f"root.{system.format}", inputs, make)

    def _kernel(self, system: System, tree: Result) -> Result:
        modules = [*self._modules(), *archive.MODULES.get(system.format, ())]

        def make(output: Path) -> Facts:
            kernel = kernel_of_root(tree.folder / "boot", tree.folder / "root")
            return self._pack(kernel, modules, output)

        inputs = {"tree": tree.mark, "modules": modules}
        return self.steps.make("kernel", self.recipe.kernel.package, inputs, make)

    # What both have

    def _modules(self) -> list[str]:
        return [*self.recipe.kernel.modules, *self.recipe.kernel.load]

    def _pack(self, kernel: Kernel, modules: Iterable[str], output: Path) -> Facts:
        shutil.copyfile(kernel.vmlinuz, output / KERNEL_FILE)
        try:
            pack_modules(kernel, modules, output / "tree", log=self.log)
        except UnknownModulesError as error:
            raise ImageError(f"{self.recipe.folder / RECIPE_FILE}: {error}") from error
        return {"release": kernel.release}

    def _add_busybox(self, package: Package, tree: Path) -> None:
        folder = tree.with_name("busybox")
        self.packages.unpack(package, folder)
        found = [
            path for path in (folder / "bin", folder / "usr/bin") if (path / "busybox").exists()
        ]
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

    def _add_unpacker(self, root: Path, tree: Path) -> None:
        """Copy zstd out of `root`, and the libraries that it names."""
        command = [*rootfs.NAMESPACE, "chroot", str(root), "ldd", f"/{UNPACKER}"]
        said = run(command, log=self.log, timeout_s=LDD_TIMEOUT_S)
        libraries = [word for word in said.split() if word.startswith("/")]
        shutil.copy(root / UNPACKER, tree / "bin" / Path(UNPACKER).name)
        for library in libraries:
            target = tree / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(rootfs.inside(root, Path(library)), target)

    def _ramdisk(self, parts: _Parts) -> Result:
        init = init_folder(self.recipe)
        load = self.recipe.kernel.load
        epoch = source_date_epoch()

        def make(output: Path) -> Facts:
            tree = output / "tree"
            # Both are one for a ramdisk alone; copied twice it would meet its own links.
            for source in dict.fromkeys((parts.programs.folder, parts.kernel.folder)):
                _copy(source / "tree", tree)
            _copy(init, tree)
            (tree / "init").chmod(0o755)
            settings = tree / "etc" / "bootnode"
            settings.mkdir(parents=True, exist_ok=True)
            (settings / "modules").write_text("".join(f"{m}\n" for m in load))
            written = write_ramdisk(tree, output / INITRD_FILE, mtime=epoch)
            shutil.rmtree(tree)
            return {"ram_bytes": written.ram_bytes}

        inputs = {
            "kernel": parts.kernel.mark,
            "programs": parts.programs.mark,
            "init": hash_tree(init),
            "load": load,
            "epoch": epoch,
        }
        return self.steps.make("ramdisk", INITRD_FILE, inputs, make)

    def _contents(self, parts: _Parts, ramdisk: Result) -> Contents:
        root = RootFile.model_validate(parts.root.facts) if parts.root is not None else None
        in_ramdisk = root is not None and root.fetch == Fetch.RAMDISK
        return Contents(
            kernel=KERNEL_FILE,
            initrds=(INITRD_FILE, archive.RAMDISK_FILE) if in_ramdisk else (INITRD_FILE,),
            kernel_args=self.recipe.kernel_args,
            kernel_release=parts.kernel.facts["release"],
            ram_bytes=ramdisk.facts["ram_bytes"] + (root.ram_bytes if root is not None else 0),
            root=root,
        )


def _published(parts: _Parts, ramdisk: Result) -> Iterable[Path]:
    yield parts.kernel.folder / KERNEL_FILE
    yield ramdisk.folder / INITRD_FILE
    if parts.root is not None:
        yield from parts.root.folder.iterdir()


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)


def _place(file: Path, target: Path) -> None:
    """Link `file` to `target`, or copy it where the file system cannot: a root is big."""
    try:
        target.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, target)


def source_date_epoch() -> int:
    """The time that everything in a ramdisk gets: SOURCE_DATE_EPOCH, else 0.

    Raises:
        ImageError: SOURCE_DATE_EPOCH is not a number of seconds.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH", "0")
    if not text.isascii() or not text.isdigit():
        raise ImageError(f"SOURCE_DATE_EPOCH is '{text}' (want seconds since 1970)")
    return int(text)

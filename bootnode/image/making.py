"""What each step of a build makes, and from what.

A result is made when it is first asked for, after those that it needs; whether it is made anew or
the last one is good is decided in steps.py.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

from bootnode.boot.plan import STUBS
from bootnode.boot.uki import Stub
from bootnode.errors import ImageError
from bootnode.image import archive, nodefiles, programs, rootfs, source
from bootnode.image.changes import Change
from bootnode.image.distributions import DISTRIBUTIONS
from bootnode.image.kernel import (
    Kernel,
    depmod,
    kernel_of_package,
    kernel_of_root,
    kernel_options,
    pack_modules,
)
from bootnode.image.keys import RECIPE_FILE, Fetch, RootFormat
from bootnode.image.modules import UnknownModulesError
from bootnode.image.packages import Package, Packages
from bootnode.image.ramdisk import write_ramdisk
from bootnode.image.spec import Recipe, Repository, System, init_folder
from bootnode.image.steps import Facts, Result, Steps
from bootnode.image.store import (
    Contents,
    ImageStore,
    ImageVersion,
    KeptChange,
    Provenance,
    RootFile,
    file_sha256,
    hash_tree,
)

KERNEL_FILE = "vmlinuz"
INITRD_FILE = "initrd.img"
KERNELS = "kernels/boot"
"""Where the step customise puts the kernels: in a tree, so that a shell can see them in /boot."""
PUBLISH = "publish"
STUB_PACKAGE = "systemd-boot-efi"
BOOTNODE = "bootnode"
RAMDISK_STEPS = ("packages", "kernel", "ramdisk", "stub", PUBLISH)
SYSTEM_STEPS = (
    *("rootfs", BOOTNODE, "customise", "archive", "kernel", "ramdisk", "stub"),
    PUBLISH,
)
BIGGEST_FOLDERS = 5
"""How many an error names when a tree is over its limit."""


def steps_of(recipe: Recipe) -> tuple[str, ...]:
    """The names of the steps, in their order."""
    if recipe.system is None:
        return RAMDISK_STEPS
    return tuple(step for step in SYSTEM_STEPS if step != BOOTNODE or recipe.system.has_bootnode)


def known_step(recipe: Recipe, step: str) -> str:
    """The step of that name.

    Raises:
        ImageError: the recipe has none, with the names of those it has.
    """
    known = steps_of(recipe)
    if step not in known:
        raise ImageError(f"'{recipe.name}' has no step '{step}' (want one of {', '.join(known)})")
    return step


@dataclass(frozen=True, kw_only=True)
class Build:
    """The results of the steps, each made when it is first asked for, after those it needs."""

    recipe: Recipe
    steps: Steps
    apt: Packages
    log: IO[bytes]
    changes: Sequence[Change]
    staged: Path
    """A folder that is not there yet, on the file system of the store."""

    def do(self, step: str, store: ImageStore) -> ImageVersion | None:
        """Have the result of one step."""
        if step == PUBLISH:
            return self.publish(store)
        getattr(self, step)
        return None

    def publish(self, store: ImageStore) -> ImageVersion:
        """Make what the steps made the current version."""
        # Before the long steps: a template may be wrong.
        node_files = nodefiles.read(self.recipe.node_files)
        files = list(self._files())
        contents = self._contents()
        self._check_limit("ram", contents.ram_bytes, "takes")
        with self.steps.step(PUBLISH, self.recipe.name) as ended:
            self.staged.mkdir()
            for file in files:
                _place(file, self.staged / file.name)
            if node_files:
                nodefiles.write(node_files, self.staged / nodefiles.FILE)
                contents = contents.model_copy(update={"node_files": nodefiles.FILE})
            provenance = Provenance(
                recipe_sha256=hash_tree(
                    *self.recipe.bases, self.recipe.folder, init_folder(self.recipe)
                ),
                packages=self._installed(),
                changes=tuple(
                    KeptChange(number=c.number, by=c.by, made_at=c.made_at, sha256=c.sha256)
                    for c in self.changes
                ),
            )
            ended.size_bytes = sum(file.stat().st_size for file in files)
            return store.publish(self.recipe.name, self.staged, contents, provenance)

    @property
    def _system(self) -> System:
        if self.recipe.system is None:
            raise ImageError(f"'{self.recipe.name}' is a ramdisk alone: it has no root file system")
        return self.recipe.system

    def _check_limit(self, name: str, size_bytes: int, takes: str, detail: str = "") -> None:
        limit = getattr(self.recipe.limits, name)
        if limit is not None and size_bytes > limit:
            raise ImageError(
                f"'{self.recipe.name}' {takes} {mib(size_bytes)}, "
                f"over limits.{name} of {mib(limit)}{detail}"
            )

    # A ramdisk alone

    @cached_property
    def packages(self) -> Result:
        """Kernel and busybox as packages: facts of each under `kernel` and `busybox`."""
        kernel, busybox = self.recipe.kernel.package, programs.BUSYBOX_PACKAGE

        def make(output: Path) -> Facts:
            found = {
                "kernel": self.apt.fetch_kernel(kernel),
                "busybox": self.apt.fetch(busybox),
            }
            for package in found.values():
                _place(package.file, output / package.file.name)
            return {
                role: {**asdict(package), "file": package.file.name}
                for role, package in found.items()
            }

        inputs = {
            "names": [kernel, busybox],
            "architecture": self.recipe.architecture,
            "apt": self.apt.state(),
        }
        return self.steps.make("packages", f"{kernel} and {busybox}", inputs, make)

    def _package(self, role: str) -> Package:
        step = self.packages
        facts = step.facts[role]
        return Package(**{**facts, "file": step.folder / facts["file"]})

    def _kernel_of_package(self) -> Result:
        package, busybox = self._package("kernel"), self._package("busybox")

        def make(output: Path) -> Facts:
            folder = output / "unpacked"
            self.apt.unpack(package, folder)
            kernel = kernel_of_package(folder, package.name)
            depmod(kernel.top, kernel.release, log=self.log)
            facts = self._pack(kernel, self._modules(), output)
            shutil.rmtree(folder)
            programs.add_busybox(busybox, output / "tree", self.apt)
            return facts

        inputs = {
            "packages": [package.sha256, busybox.sha256],
            "modules": self._modules(),
        }
        return self.steps.make("kernel", f"{package.name} {package.version}", inputs, make)

    # An operating system

    @cached_property
    def rootfs(self) -> Result:
        """`root` as the distribution installs it, and `tree` with the programs that init needs."""
        system = self._system
        distribution = DISTRIBUTIONS[system.distribution]
        names = {*system.packages, self.recipe.kernel.package}
        if system.format is RootFormat.TAR_ZST:
            names.add(programs.UNPACKER_PACKAGE)
        packages = tuple(sorted(names))

        def make(output: Path) -> Facts:
            root = output / "root"
            distribution.bootstrap(system, packages, root, log=self.log)
            busybox = self.apt.fetch(programs.BUSYBOX_PACKAGE)
            programs.add_busybox(busybox, output / "tree", self.apt)
            if system.format is RootFormat.TAR_ZST:
                programs.add_unpacker(root, output / "tree", log=self.log)
            return {}

        inputs = {
            "system": [system.distribution, system.release, system.mirror],
            "repositories": [_identity(repository) for repository in system.repositories],
            "packages": packages,
            "unpacker": system.format is RootFormat.TAR_ZST,
            "time": rootfs.INSTALL_TIME,
        }
        detail = f"{system.distribution} {system.release}, {len(packages)} packages and their needs"
        return self.steps.make("rootfs", detail, inputs, make)

    @cached_property
    def bootnode(self) -> Result:
        """This bootnode as `source`, and in `wheels` with all that it needs, for the scripts."""
        root, folder = self.rootfs, source.source_folder()

        def make(output: Path) -> Facts:
            wheels = source.provide(folder, root.folder / "root", output, log=self.log)
            return {"wheels": wheels}

        inputs = {
            "rootfs": root.mark,
            "source": source.fingerprint(folder),
            "python": sys.version_info[:2],
        }
        return self.steps.make(BOOTNODE, f"the sources in {folder} and wheels", inputs, make)

    @cached_property
    def customise(self) -> Result:
        """What is `customised`, unless it is too big."""
        self._check_tree(self.customised)
        return self.customised

    @cached_property
    def customised(self) -> Result:
        """`root` with overlays, scripts and kept changes, and its kernels in `kernels/boot`."""
        system, base = self._system, self.rootfs
        distribution = DISTRIBUTIONS[system.distribution]
        provided = self.bootnode if system.has_bootnode else None
        folder = provided.folder if provided is not None else None
        epoch = source_date_epoch() if "SOURCE_DATE_EPOCH" in os.environ else None

        def make(output: Path) -> Facts:
            root = output / "root"
            rootfs.copy_root(base.folder / "root", root, log=self.log)
            for overlay in system.overlays:
                rootfs.put_overlay(overlay, root)
            for script in system.scripts:
                rootfs.customise(root, script, log=self.log, provided=folder)
            for change in self.changes:
                change.apply(root, log=self.log)
            rootfs.take_boot_files(root, output / KERNELS)
            installed = distribution.installed(root, self.log)
            newest = installed.newest if epoch is None else epoch
            rootfs.limit_times(root, newest)
            return {
                "packages": installed.packages,
                "epoch": newest,
                "tree_bytes": rootfs.unpacked_bytes(root),
            }

        inputs = {
            "base": base.mark,
            "bootnode": provided.mark if provided is not None else None,
            "overlays": [hash_tree(overlay) for overlay in system.overlays],
            "scripts": [file_sha256(script) for script in system.scripts],
            "changes": [[change.sha256, change.difference.removed] for change in self.changes],
            "epoch": epoch,
        }
        named = [path.name for path in (*system.overlays, *system.scripts)]
        named += [f"change {change.number}" for change in self.changes]
        return self.steps.make("customise", ", ".join(named) or "nothing", inputs, make)

    def _check_tree(self, tree: Result) -> None:
        size, limit = tree.facts["tree_bytes"], self.recipe.limits.tree
        if limit is None or size <= limit:
            return
        biggest = rootfs.biggest_folders(tree.folder / "root", BIGGEST_FOLDERS)
        named = ", ".join(f"{folder} {mib(size_bytes)}" for folder, size_bytes in biggest)
        self._check_limit("tree", size, "unpacked takes", f" (the biggest: {named})")

    @cached_property
    def archive(self) -> Result:
        """The root file system as the one file that nodes get, with a RootFile as its facts."""
        system, tree = self._system, self.customise

        def make(output: Path) -> Facts:
            root = tree.folder / "root"
            epoch = tree.facts["epoch"]
            written = archive.write_root(
                *(root, output, system.format, system.fetch),
                epoch=epoch,
                kernel_options=kernel_options(root),
                log=self.log,
            )
            return written.model_dump()

        inputs = {"tree": tree.mark, "format": system.format, "fetch": system.fetch}
        made = self.steps.make("archive", f"root.{system.format}", inputs, make)
        self._check_limit("file", made.facts["size_bytes"], "packed takes")
        return made

    def _kernel_of_root(self, system: System) -> Result:
        tree = self.customise
        modules = [*self._modules(), *archive.MODULES.get(system.format, ())]

        def make(output: Path) -> Facts:
            kernel = kernel_of_root(tree.folder / KERNELS, tree.folder / "root")
            return self._pack(kernel, modules, output)

        inputs = {"tree": tree.mark, "modules": modules}
        return self.steps.make("kernel", self.recipe.kernel.package, inputs, make)

    # What both have

    @cached_property
    def kernel(self) -> Result:
        """`vmlinuz`, and the modules for the ramdisk in `tree`."""
        system = self.recipe.system
        return self._kernel_of_package() if system is None else self._kernel_of_root(system)

    def _modules(self) -> list[str]:
        return [*self.recipe.kernel.modules, *self.recipe.kernel.load]

    def _pack(self, kernel: Kernel, modules: Iterable[str], output: Path) -> Facts:
        shutil.copyfile(kernel.vmlinuz, output / KERNEL_FILE)
        try:
            pack_modules(kernel, modules, output / "tree", log=self.log)
        except UnknownModulesError as error:
            raise ImageError(f"{self.recipe.folder / RECIPE_FILE}: {error}") from error
        return {"release": kernel.release}

    @cached_property
    def ramdisk(self) -> Result:
        """`initrd.img`: init, its programs, and the modules that reach the network."""
        init = init_folder(self.recipe)
        load = self.recipe.kernel.load
        epoch = source_date_epoch()
        brought = self.kernel if self.recipe.system is None else self.rootfs
        kernel = self.kernel

        def make(output: Path) -> Facts:
            tree = output / "tree"
            # Both are one for a ramdisk alone; copied twice it would meet its own links.
            for folder in dict.fromkeys((brought.folder, kernel.folder)):
                _copy(folder / "tree", tree)
            _copy(init, tree)
            (tree / "init").chmod(0o755)
            settings = tree / "etc" / "bootnode"
            settings.mkdir(parents=True, exist_ok=True)
            (settings / "modules").write_text("".join(f"{m}\n" for m in load))
            written = write_ramdisk(tree, output / INITRD_FILE, mtime=epoch)
            shutil.rmtree(tree)
            return {"ram_bytes": written.ram_bytes}

        inputs = {
            "kernel": kernel.mark,
            "programs": brought.mark,
            "init": hash_tree(init),
            "load": load,
            "epoch": epoch,
        }
        return self.steps.make("ramdisk", INITRD_FILE, inputs, make)

    @cached_property
    def stub(self) -> Result:
        """systemd's UEFI stub, by which nodes start a unified kernel image."""

        def make(output: Path) -> Facts:
            package = self.apt.fetch(STUB_PACKAGE)
            folder = output / "unpacked"
            self.apt.unpack(package, folder)
            found = [file for file in folder.rglob("*.efi.stub") if file.name in STUBS.values()]
            if len(found) != 1:
                raise ImageError(f"the package {package.name} holds {len(found)} stubs, not one")
            stub = output / found[0].name
            shutil.copyfile(found[0], stub)
            Stub.parse(stub.read_bytes())  # not first when a node asks for it
            shutil.rmtree(folder)
            return {"file": stub.name}

        inputs = {"architecture": self.recipe.architecture, "apt": self.apt.state()}
        return self.steps.make("stub", STUB_PACKAGE, inputs, make)

    def _root(self) -> Result | None:
        return self.archive if self.recipe.system is not None else None

    def _files(self) -> Iterator[Path]:
        """The files of a version, in the order in which the steps make them."""
        if (root := self._root()) is not None:
            yield from root.folder.iterdir()
        yield self.kernel.folder / KERNEL_FILE
        yield self.ramdisk.folder / INITRD_FILE
        yield self.stub.folder / self.stub.facts["file"]

    def _installed(self) -> dict[str, str]:
        """The version of each package that the image is made of."""
        if self.recipe.system is not None:
            installed: dict[str, str] = self.customise.facts["packages"]
            return installed
        found = (self._package("kernel"), self._package("busybox"))
        return {package.name: package.version for package in found}

    def _contents(self) -> Contents:
        made = self._root()
        root = RootFile.model_validate(made.facts) if made is not None else None
        in_ramdisk = root is not None and root.fetch == Fetch.RAMDISK
        return Contents(
            architecture=self.recipe.architecture,
            kernel=KERNEL_FILE,
            initrds=(INITRD_FILE, archive.RAMDISK_FILE) if in_ramdisk else (INITRD_FILE,),
            kernel_args=self.recipe.kernel_args,
            kernel_release=self.kernel.facts["release"],
            loader=self.recipe.loader,
            stub=self.stub.facts["file"],
            ram_bytes=self.ramdisk.facts["ram_bytes"] + (root.ram_bytes if root is not None else 0),
            root=root,
        )


def _identity(repository: Repository) -> list[str | None]:
    key = repository.key
    return [
        *(repository.name, repository.url),
        file_sha256(key) if isinstance(key, Path) else key,
    ]


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


def mib(size_bytes: int) -> str:
    """A size as recipes write it, rounded up."""
    return f"{-(-size_bytes // (1 << 20))} MiB"

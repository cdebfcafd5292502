"""Image recipes: what a person writes in `images/NAME/image.yaml`.

A recipe with a `distribution` is of a whole operating system, one without is a ramdisk alone.
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from bootnode.config import KernelArgs, Settings, check_image_name
from bootnode.errors import ConfigError, Problem
from bootnode.yamlmarks import Document, load_yaml, validate

RECIPE_FILE = "image.yaml"
_PACKAGE_PATTERN = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_MODULE_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./*?\[\]-]*")
_RELEASE_PATTERN = re.compile(r"[a-z][a-z0-9.-]*")
_MIRROR_PATTERN = re.compile(r"(https?://|file:/)[!-~]+")


def _check_package(name: str) -> str:
    if not _PACKAGE_PATTERN.fullmatch(name):
        raise ValueError(f"'{name}' is not a package name (want one such as linux-image-amd64)")
    return name


def _check_module(name: str) -> str:
    if not _MODULE_PATTERN.fullmatch(name):
        raise ValueError(
            f"'{name}' is not a module name or pattern (want e1000 or drivers/net/ethernet/*)"
        )
    return name


def _check_release(name: str) -> str:
    if not _RELEASE_PATTERN.fullmatch(name):
        raise ValueError(f"'{name}' is not a release of Debian (want one such as bookworm)")
    return name


def _check_mirror(url: str) -> str:
    if not _MIRROR_PATTERN.fullmatch(url):
        raise ValueError(f"'{url}' is not a mirror (want one such as http://deb.debian.org/debian)")
    return url


def _check_path(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or not path.parts or ".." in path.parts:
        raise ValueError(f"'{text}' is not a path beside {RECIPE_FILE} (want one such as overlay)")
    return text


Package = Annotated[str, AfterValidator(_check_package)]
Module = Annotated[str, AfterValidator(_check_module)]
PathBeside = Annotated[str, AfterValidator(_check_path)]


class RootFormat(StrEnum):
    """How a root file system reaches a node, by what its file is called."""

    SQUASHFS = "squashfs"
    EROFS = "erofs"
    CPIO = "cpio"
    TAR_XZ = "tar.xz"
    TAR_ZST = "tar.zst"


class Fetch(StrEnum):
    """Who fetches the root file system."""

    INIT = "init"
    """init, when the ramdisk has started."""
    RAMDISK = "ramdisk"
    """The boot loader, as a second ramdisk."""


class KernelSpec(Settings):
    """Which kernel an image has, and what of its modules."""

    package: Package
    """The Debian package that holds it, or one that depends on that package."""
    modules: tuple[Module, ...] = Field(min_length=1)
    """Module names, or patterns of paths below `kernel/`; dependencies come with them."""
    load: tuple[Module, ...] = ()
    """Names of modules to load on every node, though no device asks for them."""


class RootSpec(Settings):
    """How the root file system of an image is stored and fetched."""

    format: RootFormat = RootFormat.SQUASHFS
    """squashfs and erofs stay compressed in memory, the others are unpacked there."""
    fetch: Fetch | None = None
    """`init` unless told otherwise; only the kernel unpacks a cpio, so that is a `ramdisk`."""


class RecipeFile(Settings):
    """The keys of image.yaml."""

    description: str
    kernel: KernelSpec
    kernel_args: KernelArgs = ()
    """For the kernel command line, before those of the node."""
    distribution: Literal["debian"] | None = None
    """The operating system; without it the image is a ramdisk alone."""
    release: Annotated[str, AfterValidator(_check_release)] | None = None
    """The release of the distribution, such as `bookworm`."""
    mirror: Annotated[str, AfterValidator(_check_mirror)] | None = None
    """Where packages come from; without it Debian's own, with its updates and security fixes."""
    packages: tuple[Package, ...] = ()
    """What is installed besides what every Debian system has."""
    overlay: PathBeside | None = None
    """A folder beside image.yaml whose files are put over the root file system."""
    customise: PathBeside | None = None
    """A script beside image.yaml that is run inside the root file system."""
    root: RootSpec = RootSpec()
    """How the root file system is stored and fetched."""


_SYSTEM_KEYS = ("release", "mirror", "packages", "overlay", "customise", "root")
"""Keys that mean something only for an operating system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """The operating system that a recipe describes."""

    distribution: str
    release: str
    mirror: str | None
    packages: tuple[str, ...]
    overlay: Path | None
    """A folder whose files are put over the root file system."""
    customise: Path | None
    """A script that is run inside the root file system."""
    format: RootFormat
    fetch: Fetch


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A recipe as read from its folder."""

    name: str
    folder: Path
    description: str
    kernel: KernelSpec
    kernel_args: tuple[str, ...]
    system: System | None
    """None for a ramdisk alone."""


def load_recipe(folder: Path) -> Recipe:
    """The recipe in `folder`, which names the image.

    Raises:
        ConfigError: everything that is wrong with it, each at its line.
    """
    document = load_yaml(folder / RECIPE_FILE)
    written = validate(RecipeFile, document)
    problems = list(_problems(written, folder, document))
    try:
        name = check_image_name(folder.resolve().name)
    except ValueError as error:
        problems.append(document.problem((), f"the folder {error}"))
    if problems:
        raise ConfigError(problems)
    return Recipe(
        name=name,
        folder=folder,
        description=written.description,
        kernel=written.kernel,
        kernel_args=written.kernel_args,
        system=_system(written, folder),
    )


def _problems(written: RecipeFile, folder: Path, document: Document) -> Iterator[Problem]:
    """What no key can know alone."""
    if written.distribution is None:
        for key in _SYSTEM_KEYS:
            if key in written.model_fields_set:
                message = "needs a `distribution` (without one the image is a ramdisk alone)"
                yield document.problem((key,), message, at_key=True)
        return
    if written.release is None:
        yield document.problem(("release",), "is missing (want one such as bookworm)")
    if written.overlay is not None and not (folder / written.overlay).is_dir():
        yield document.problem(("overlay",), f"there is no folder {folder / written.overlay}")
    if written.customise is not None and not (folder / written.customise).is_file():
        yield document.problem(("customise",), f"there is no file {folder / written.customise}")
    if written.root.format is RootFormat.CPIO and written.root.fetch is Fetch.INIT:
        message = "only the kernel unpacks a cpio, from a ramdisk (want ramdisk)"
        yield document.problem(("root", "fetch"), message)


def _system(written: RecipeFile, folder: Path) -> System | None:
    if written.distribution is None or written.release is None:
        return None
    root = written.root
    by_format = Fetch.RAMDISK if root.format is RootFormat.CPIO else Fetch.INIT
    return System(
        distribution=written.distribution,
        release=written.release,
        mirror=written.mirror,
        packages=written.packages,
        overlay=folder / written.overlay if written.overlay is not None else None,
        customise=folder / written.customise if written.customise is not None else None,
        format=root.format,
        fetch=root.fetch or by_format,
    )


def recipes_folder() -> Path:
    """The recipes that come with bootnode: the checkout's, or those that were installed with it."""
    checkout = Path(__file__).parents[2] / "images"
    if checkout.is_dir():
        return checkout
    return Path(sysconfig.get_path("data")) / "share" / "bootnode" / "images"


def init_folder(recipe: Recipe) -> Path:
    """What runs in the ramdisk: the `init` beside the recipe, else the one that bootnode brings."""
    beside = recipe.folder.resolve().parent / "init"
    return beside if beside.is_dir() else recipes_folder() / "init"

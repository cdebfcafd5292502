"""The keys of a recipe's image.yaml, and what each may be by itself.

What keys mean together, and with those of a base, is for spec.py.
"""

from __future__ import annotations

import re
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator

from bootnode.config import ImageName, KernelArgs, Settings
from bootnode.nodes import Loader

RECIPE_FILE = "image.yaml"
_PACKAGE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]+")
_MODULE_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./*?\[\]-]*")
_RELEASE_PATTERN = re.compile(r"[a-z0-9][a-z0-9.-]*")
_SIZE_PATTERN = re.compile(r"([1-9][0-9]*)(MiB|GiB)")
_SIZE_UNITS = MappingProxyType({"MiB": 1 << 20, "GiB": 1 << 30})
_MIRROR_PATTERN = re.compile(r"(https?://|file:/)[!-~]+")
_URL_PATTERN = re.compile(r"(https?://|file:///)[!-~]+")
_REPOSITORY_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
NO_KEY = "none"
"""The `key` of a repository whose packages nobody signed."""


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
        raise ValueError(f"'{name}' is not a release (want one such as bookworm)")
    return name


def _check_mirror(url: str) -> str:
    if not _MIRROR_PATTERN.fullmatch(url):
        raise ValueError(f"'{url}' is not a mirror (want one such as http://deb.debian.org/debian)")
    return url


def is_url(text: str) -> bool:
    """Whether it is what packages and keys can be fetched from."""
    return bool(_URL_PATTERN.fullmatch(text))


def _check_url(url: str) -> str:
    if not is_url(url):
        raise ValueError(f"'{url}' is not a URL (want https://…, http://… or file:///…)")
    return url


def _check_repository(name: str) -> str:
    if not _REPOSITORY_PATTERN.fullmatch(name):
        raise ValueError(f"'{name}' cannot name a repository (want one such as baseos)")
    return name


def _check_key(text: str) -> str:
    return text if text == NO_KEY or is_url(text) else _check_path(text)


def _check_path(text: str) -> str:
    parts = text.split("/")
    if not parts[0] or ".." in parts or set(parts) == {"."}:
        raise ValueError(f"'{text}' is not a path beside {RECIPE_FILE} (want one such as overlay)")
    return text


def _parse_size(value: Any) -> int:
    match = _SIZE_PATTERN.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"'{value}' is not a size (want one such as 600MiB or 2GiB)")
    return int(match[1]) * _SIZE_UNITS[match[2]]


Size = Annotated[int, BeforeValidator(_parse_size)]
"""In bytes; written with its unit."""
Package = Annotated[str, AfterValidator(_check_package)]
Module = Annotated[str, AfterValidator(_check_module)]
PathBeside = Annotated[str, AfterValidator(_check_path)]


class Architecture(StrEnum):
    """Which machines an image is for, as Debian calls them."""

    AMD64 = "amd64"
    ARM64 = "arm64"


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


class KernelKeys(Settings):
    """Which kernel an image has, and what of its modules."""

    package: Package | None = None
    """The package that holds it, or one that depends on that package."""
    modules: tuple[Module, ...] = ()
    """Module names, or patterns of paths below `kernel/`; dependencies come with them."""
    without: tuple[Module, ...] = ()
    """Of the modules that a base names, those that this kernel lacks."""
    load: tuple[Module, ...] = ()
    """Names of modules to load on every node, though no device asks for them."""


class RootKeys(Settings):
    """How the root file system of an image is stored and fetched."""

    format: RootFormat = RootFormat.SQUASHFS
    """squashfs and erofs stay compressed in memory, the others are unpacked there."""
    fetch: Fetch | None = None
    """`init` unless told otherwise; only the kernel unpacks a cpio, so that is a `ramdisk`."""


class RepositoryKeys(Settings):
    """A place that rpm packages come from."""

    name: Annotated[str, AfterValidator(_check_repository)]
    """What messages call it."""
    url: Annotated[str, AfterValidator(_check_url)]
    """The folder that holds its `repodata`."""
    key: Annotated[str, AfterValidator(_check_key)]
    """The key that signed its packages: a file beside image.yaml, a URL, or `none` for no check."""


class LimitKeys(Settings):
    """Sizes beyond which a build fails instead of surprising a rack of nodes."""

    tree: Size | None = None
    """Of the files of the root file system as they are, before it is packed."""
    file: Size | None = None
    """Of the root file system as the one file that nodes fetch."""
    ram: Size | None = None
    """Of a node's memory that the image takes, without what the node writes."""


class RecipeFile(Settings):
    """The keys of image.yaml."""

    description: str
    base: ImageName | None = None
    """The name of another recipe, which this one adds to."""
    architecture: Architecture = Architecture.AMD64
    """Of the machines that it is for; kernel and programs come from Debian's packages for it."""
    kernel: KernelKeys = KernelKeys()
    kernel_args: KernelArgs = ()
    """For the kernel command line, before those of the node."""
    loader: Loader | None = None
    """How nodes that don't say otherwise get to the kernel: `ipxe`, `uki` or `grub`."""
    node_files: PathBeside | None = None
    """A folder beside image.yaml with files and templates for each node."""
    limits: LimitKeys = LimitKeys()
    distribution: Literal["debian", "rocky"] | None = None
    """The operating system; without it the image is a ramdisk alone."""
    release: Annotated[str, AfterValidator(_check_release)] | None = None
    """The release of the distribution, such as `bookworm` or `"8"`."""
    mirror: Annotated[str, AfterValidator(_check_mirror)] | None = None
    """Where Debian comes from; without it Debian's own, with its updates and security fixes."""
    repositories: tuple[RepositoryKeys, ...] = ()
    """Where Rocky comes from."""
    packages: tuple[Package, ...] = ()
    """What is installed besides what every Debian system has, or all there is of Rocky."""
    overlay: PathBeside | None = None
    """A folder beside image.yaml whose files are put over the root file system."""
    customise: PathBeside | None = None
    """A script beside image.yaml that is run inside the root file system."""
    bootnode: bool = False
    """Whether scripts find this bootnode below /run/bootnode, to install it in the root."""
    root: RootKeys = RootKeys()
    """How the root file system is stored and fetched."""

"""Image recipes: what a person writes in `images/NAME/image.yaml`.

A recipe with a `distribution` is of a whole operating system, one without is a ramdisk alone. A
recipe with a `base` is that recipe and what it says itself: single values replace the base's, lists
are added to them, overlays and scripts come after them.
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator

from bootnode.config import ImageName, KernelArgs, Settings, check_image_name
from bootnode.errors import ConfigError, Problem
from bootnode.yamlmarks import Document, load_yaml, validate

RECIPE_FILE = "image.yaml"
MAX_BASES = 8
"""How many recipes may be based on one another."""
_PACKAGE_PATTERN = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_MODULE_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./*?\[\]-]*")
_RELEASE_PATTERN = re.compile(r"[a-z][a-z0-9.-]*")
_SIZE_PATTERN = re.compile(r"([1-9][0-9]*)(MiB|GiB)")
_SIZE_UNITS = MappingProxyType({"MiB": 1 << 20, "GiB": 1 << 30})
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
    load: tuple[Module, ...] = ()
    """Names of modules to load on every node, though no device asks for them."""


class RootKeys(Settings):
    """How the root file system of an image is stored and fetched."""

    format: RootFormat = RootFormat.SQUASHFS
    """squashfs and erofs stay compressed in memory, the others are unpacked there."""
    fetch: Fetch | None = None
    """`init` unless told otherwise; only the kernel unpacks a cpio, so that is a `ramdisk`."""


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
    kernel: KernelKeys = KernelKeys()
    kernel_args: KernelArgs = ()
    """For the kernel command line, before those of the node."""
    limits: LimitKeys = LimitKeys()
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
    root: RootKeys = RootKeys()
    """How the root file system is stored and fetched."""


_SYSTEM_KEYS = ("release", "mirror", "packages", "overlay", "customise", "root")
"""Keys that mean something only for an operating system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSpec:
    """Which kernel an image has, and what of its modules."""

    package: str
    modules: tuple[str, ...]
    load: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most bytes that each may take; None for no limit."""

    tree: int | None = None
    file: int | None = None
    ram: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """The operating system that a recipe describes."""

    distribution: str
    release: str
    mirror: str | None
    packages: tuple[str, ...]
    overlays: tuple[Path, ...]
    """Folders whose files are put over the root file system, in this order."""
    scripts: tuple[Path, ...]
    """Scripts that are then run inside the root file system, in this order."""
    format: RootFormat
    fetch: Fetch


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A recipe as read from its folder, with what it is based on."""

    name: str
    folder: Path
    bases: tuple[Path, ...]
    """The folders of the recipes it is based on, the first one first."""
    description: str
    kernel: KernelSpec
    kernel_args: tuple[str, ...]
    limits: Limits
    system: System | None
    """None for a ramdisk alone."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """One image.yaml of a recipe and those it is based on."""

    folder: Path
    written: RecipeFile
    document: Document

    def problem(self, *path: str, message: str, at_key: bool = False) -> Problem:
        return self.document.problem(path, message, at_key=at_key)


def load_recipe(folder: Path) -> Recipe:
    """The recipe in `folder`, which names the image.

    Raises:
        ConfigError: everything that is wrong with it, each at its line.
    """
    layers = _read_layers(folder)
    own = layers[-1]
    problems = [problem for layer in layers for problem in _problems_of_one(layer)]
    problems += _problems_of_all(layers)
    try:
        name = check_image_name(folder.resolve().name)
    except ValueError as error:
        problems.append(own.problem(message=f"the folder {error}"))
    if problems:
        raise ConfigError(problems)
    return Recipe(
        name=name,
        folder=folder,
        bases=tuple(layer.folder for layer in layers[:-1]),
        description=own.written.description,
        kernel=KernelSpec(
            package=_value(layers, "kernel", "package"),
            modules=_together(layers, "kernel", "modules"),
            load=_together(layers, "kernel", "load"),
        ),
        kernel_args=_together(layers, "kernel_args"),
        limits=Limits(**{name: _value(layers, "limits", name) for name in LimitKeys.model_fields}),
        system=_system(layers),
    )


def _read_layers(folder: Path) -> list[_Layer]:
    """The recipe in `folder` after all that it is based on."""
    layers: list[_Layer] = []
    at = folder
    while len(layers) <= MAX_BASES:
        document = load_yaml(at / RECIPE_FILE)
        layer = _Layer(at, validate(RecipeFile, document), document)
        layers.insert(0, layer)
        if layer.written.base is None:
            return layers
        at = _find_base(layer, layer.written.base)
        if any(at.samefile(known.folder) for known in layers):
            message = f"'{layer.written.base}' is based on this recipe itself"
            raise ConfigError([layer.problem("base", message=message)])
    message = f"more than {MAX_BASES} recipes are based on one another"
    raise ConfigError([layers[0].problem("base", message=message)])


def _find_base(layer: _Layer, name: str) -> Path:
    """A recipe beside this one, else of those that bootnode brings."""
    places = [layer.folder.resolve().parent, recipes_folder()]
    for place in places:
        if (place / name / RECIPE_FILE).is_file():
            return place / name
    known = sorted(recipe.name for recipe in find_recipes(places))
    message = f"there is no recipe '{name}' (there are: {', '.join(known) or 'none'})"
    raise ConfigError([layer.problem("base", message=message)])


def find_recipes(places: Iterable[Path]) -> set[Path]:
    """The folders in `places` that hold a recipe."""
    return {file.parent for place in places for file in place.glob(f"*/{RECIPE_FILE}")}


def _is_written(keys: Settings, path: Sequence[str]) -> bool:
    for name in path[:-1]:
        keys = getattr(keys, name)
    return path[-1] in keys.model_fields_set


def _get(keys: Settings, path: Sequence[str]) -> Any:
    found: Any = keys
    for name in path:
        found = getattr(found, name)
    return found


def _value(layers: Sequence[_Layer], *path: str) -> Any:
    """What the last recipe that says it says, else the default."""
    said = [layer.written for layer in layers if _is_written(layer.written, path)]
    return _get(said[-1] if said else layers[-1].written, path)


def _together(layers: Sequence[_Layer], *path: str) -> tuple[str, ...]:
    """What all of them say, each word once."""
    return tuple(dict.fromkeys(word for layer in layers for word in _get(layer.written, path)))


def _problems_of_one(layer: _Layer) -> Iterator[Problem]:
    """What is missing beside an image.yaml."""
    written, folder = layer.written, layer.folder
    if written.overlay is not None and not (folder / written.overlay).is_dir():
        yield layer.problem("overlay", message=f"there is no folder {folder / written.overlay}")
    if written.customise is not None and not (folder / written.customise).is_file():
        yield layer.problem("customise", message=f"there is no file {folder / written.customise}")


def _problems_of_all(layers: Sequence[_Layer]) -> Iterator[Problem]:
    """What no key can know alone."""
    own = layers[-1]
    if _value(layers, "kernel", "package") is None:
        yield own.problem("kernel", "package", message="is missing (want a package's name)")
    if not _together(layers, "kernel", "modules"):
        message = "is missing (want the modules that reach the network)"
        yield own.problem("kernel", "modules", message=message)
    if _value(layers, "distribution") is None:
        for key in _SYSTEM_KEYS:
            if _is_written(own.written, [key]):
                message = "needs a `distribution` (without one the image is a ramdisk alone)"
                yield own.problem(key, message=message, at_key=True)
        return
    if _value(layers, "release") is None:
        yield own.problem("release", message="is missing (want one such as bookworm)")
    is_cpio = _value(layers, "root", "format") is RootFormat.CPIO
    if is_cpio and _value(layers, "root", "fetch") is Fetch.INIT:
        message = "only the kernel unpacks a cpio, from a ramdisk (want ramdisk)"
        yield own.problem("root", "fetch", message=message)


def _system(layers: Sequence[_Layer]) -> System | None:
    if _value(layers, "distribution") is None:
        return None
    root_format = _value(layers, "root", "format")
    by_format = Fetch.RAMDISK if root_format is RootFormat.CPIO else Fetch.INIT
    return System(
        distribution=_value(layers, "distribution"),
        release=_value(layers, "release"),
        mirror=_value(layers, "mirror"),
        packages=_together(layers, "packages"),
        overlays=tuple(
            layer.folder / layer.written.overlay
            for layer in layers
            if layer.written.overlay is not None
        ),
        scripts=tuple(
            layer.folder / layer.written.customise
            for layer in layers
            if layer.written.customise is not None
        ),
        format=root_format,
        fetch=_value(layers, "root", "fetch") or by_format,
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

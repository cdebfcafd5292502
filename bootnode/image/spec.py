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
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bootnode.config import Settings, check_image_name
from bootnode.errors import ConfigError, Problem
from bootnode.image.keys import (
    NO_KEY,
    RECIPE_FILE,
    Fetch,
    LimitKeys,
    RecipeFile,
    RepositoryKeys,
    RootFormat,
    is_url,
)
from bootnode.nodes import Loader
from bootnode.yamlmarks import Document, load_yaml, validate

MAX_BASES = 8
"""How many recipes may be based on one another."""
_SYSTEM_KEYS = (
    *("release", "mirror", "repositories", "packages"),
    *("overlay", "customise", "bootnode", "root"),
)
"""Keys that mean something only for an operating system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    """What is true of one distribution's recipes."""

    release: re.Pattern[str]
    example: str
    """A release, as it is written."""
    source: str
    """The key that says where packages come from."""


_SOURCE_KEYS = ("mirror", "repositories")
_RULES = MappingProxyType(
    {
        "debian": _Rules(release=re.compile(r"[a-z].*"), example="bookworm", source="mirror"),
        "rocky": _Rules(
            release=re.compile(r"[1-9][0-9]*(\.[0-9]+)?"), example='"8"', source="repositories"
        ),
    }
)


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
class Repository:
    """A place that rpm packages come from."""

    name: str
    url: str
    key: Path | str | None
    """The key that signed its packages, as a file or a URL; None to take them unsigned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """The operating system that a recipe describes."""

    distribution: str
    release: str
    mirror: str | None
    repositories: tuple[Repository, ...]
    packages: tuple[str, ...]
    overlays: tuple[Path, ...]
    """Folders whose files are put over the root file system, in this order."""
    scripts: tuple[Path, ...]
    """Scripts that are then run inside the root file system, in this order."""
    has_bootnode: bool = False
    """Whether they find this bootnode there."""
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
    architecture: str = "amd64"
    """Of the machines that it is for, as Debian calls it."""
    kernel: KernelSpec
    kernel_args: tuple[str, ...]
    loader: Loader | None
    node_files: tuple[Path, ...]
    """Folders of files and templates for each node; what a later one has replaces an earlier's."""
    limits: Limits
    system: System | None
    """None for a ramdisk alone."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """One image.yaml of a recipe and those it is based on."""

    folder: Path
    written: RecipeFile
    document: Document

    def problem(self, *path: str | int, message: str, at_key: bool = False) -> Problem:
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
        architecture=_value(layers, "architecture"),
        kernel=KernelSpec(
            package=_value(layers, "kernel", "package"),
            modules=_modules(layers),
            load=_together(layers, "kernel", "load"),
        ),
        kernel_args=_together(layers, "kernel_args"),
        loader=_value(layers, "loader"),
        node_files=_beside(layers, "node_files"),
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
    return _get(_sayer(layers, *path).written, path)


def _sayer(layers: Sequence[_Layer], *path: str) -> _Layer:
    """The last recipe that says it, else the last one."""
    said = [layer for layer in layers if _is_written(layer.written, path)]
    return said[-1] if said else layers[-1]


def _together(layers: Sequence[_Layer], *path: str) -> tuple[str, ...]:
    """What all of them say, each word once."""
    return tuple(dict.fromkeys(word for layer in layers for word in _get(layer.written, path)))


def _modules(layers: Sequence[_Layer]) -> tuple[str, ...]:
    """What all of them name, each without what it leaves out of those before it."""
    modules: tuple[str, ...] = ()
    for layer in layers:
        kernel = layer.written.kernel
        kept = [module for module in modules if module not in kernel.without]
        modules = tuple(dict.fromkeys((*kept, *kernel.modules)))
    return modules


def _beside(layers: Sequence[_Layer], key: str) -> tuple[Path, ...]:
    """What each of them has beside its image.yaml under this key."""
    named = ((layer.folder, _get(layer.written, [key])) for layer in layers)
    return tuple(folder / name for folder, name in named if name is not None)


def _problems_of_one(layer: _Layer) -> Iterator[Problem]:
    """What is missing beside an image.yaml."""
    written, folder = layer.written, layer.folder
    for named in ("overlay", "node_files"):
        path = _get(written, [named])
        if path is not None and not (folder / path).is_dir():
            yield layer.problem(named, message=f"there is no folder {folder / path}")
    if written.customise is not None and not (folder / written.customise).is_file():
        yield layer.problem("customise", message=f"there is no file {folder / written.customise}")
    for number, repository in enumerate(written.repositories):
        key = _key(repository, folder)
        if isinstance(key, Path) and not key.is_file():
            yield layer.problem("repositories", number, "key", message=f"there is no file {key}")


def _problems_of_all(layers: Sequence[_Layer]) -> Iterator[Problem]:
    """What no key can know alone."""
    own = layers[-1]
    if _value(layers, "kernel", "package") is None:
        yield own.problem("kernel", "package", message="is missing (want a package's name)")
    inherited = _modules(layers[:-1])
    for number, module in enumerate(own.written.kernel.without):
        if module not in inherited:
            message = f"no base names a module '{module}' (want one of its `kernel.modules`)"
            yield own.problem("kernel", "without", number, message=message)
    if not _modules(layers):
        message = "is missing (want the modules that reach the network)"
        yield own.problem("kernel", "modules", message=message)
    if _value(layers, "distribution") is None:
        for key in _SYSTEM_KEYS:
            if _is_written(own.written, [key]):
                message = "needs a `distribution` (without one the image is a ramdisk alone)"
                yield own.problem(key, message=message, at_key=True)
        return
    yield from _problems_of_distribution(layers)
    is_cpio = _value(layers, "root", "format") is RootFormat.CPIO
    if is_cpio and _value(layers, "root", "fetch") is Fetch.INIT:
        message = "only the kernel unpacks a cpio, from a ramdisk (want ramdisk)"
        yield own.problem("root", "fetch", message=message)


def _problems_of_distribution(layers: Sequence[_Layer]) -> Iterator[Problem]:
    """What does not go together with the distribution."""
    own, distribution = layers[-1], _value(layers, "distribution")
    rules = _RULES[distribution]
    release = _value(layers, "release")
    if release is None:
        yield own.problem("release", message=f"is missing (want one such as {rules.example})")
    elif not rules.release.fullmatch(release):
        message = f"'{release}' is no release of {distribution} (want one such as {rules.example})"
        yield _sayer(layers, "release").problem("release", message=message)
    for key in _SOURCE_KEYS:
        if key != rules.source and _is_written(own.written, [key]):
            message = f"means nothing for {distribution} (want `{rules.source}`)"
            yield own.problem(key, message=message, at_key=True)
    if rules.source == "repositories":
        yield from _problems_of_repositories(layers)


def _problems_of_repositories(layers: Sequence[_Layer]) -> Iterator[Problem]:
    seen: set[str] = set()
    for layer in layers:
        for number, repository in enumerate(layer.written.repositories):
            if repository.name in seen:
                message = f"'{repository.name}' is the name of another repository"
                yield layer.problem("repositories", number, "name", message=message)
            seen.add(repository.name)
    if not seen:
        message = "is missing (want a list, each with name, url and key)"
        yield layers[-1].problem("repositories", message=message)


def _key(repository: RepositoryKeys, folder: Path) -> Path | str | None:
    if repository.key == NO_KEY:
        return None
    return repository.key if is_url(repository.key) else folder / repository.key


def _system(layers: Sequence[_Layer]) -> System | None:
    if _value(layers, "distribution") is None:
        return None
    root_format = _value(layers, "root", "format")
    by_format = Fetch.RAMDISK if root_format is RootFormat.CPIO else Fetch.INIT
    return System(
        distribution=_value(layers, "distribution"),
        release=_value(layers, "release"),
        mirror=_value(layers, "mirror"),
        repositories=tuple(
            Repository(name=written.name, url=written.url, key=_key(written, layer.folder))
            for layer in layers
            for written in layer.written.repositories
        ),
        packages=_together(layers, "packages"),
        overlays=_beside(layers, "overlay"),
        scripts=_beside(layers, "customise"),
        has_bootnode=_value(layers, "bootnode"),
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

"""Image recipes: what a person writes in `images/NAME/image.yaml`."""

from __future__ import annotations

import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from bootnode.config import KernelArgs, Settings, check_image_name
from bootnode.errors import ConfigError
from bootnode.yamlmarks import load_yaml, validate

RECIPE_FILE = "image.yaml"
_PACKAGE_PATTERN = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_MODULE_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./*?\[\]-]*")


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


Module = Annotated[str, AfterValidator(_check_module)]


class KernelSpec(Settings):
    """Which kernel an image has, and what of its modules."""

    package: Annotated[str, AfterValidator(_check_package)]
    """The Debian package that holds it, or one that depends on that package."""
    modules: tuple[Module, ...] = Field(min_length=1)
    """Module names, or patterns of paths below `kernel/`; dependencies come with them."""
    load: tuple[Module, ...] = ()
    """Names of modules to load on every node, though no device asks for them."""


class RecipeFile(Settings):
    """The keys of image.yaml."""

    description: str
    kernel: KernelSpec
    kernel_args: KernelArgs = ()
    """For the kernel command line, before those of the node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A recipe as read from its folder."""

    name: str
    folder: Path
    description: str
    kernel: KernelSpec
    kernel_args: tuple[str, ...]


def load_recipe(folder: Path) -> Recipe:
    """The recipe in `folder`, which names the image.

    Raises:
        ConfigError: everything that is wrong with it, each at its line.
    """
    document = load_yaml(folder / RECIPE_FILE)
    written = validate(RecipeFile, document)
    try:
        name = check_image_name(folder.resolve().name)
    except ValueError as error:
        raise ConfigError([document.problem((), f"the folder {error}")]) from error
    return Recipe(
        name=name,
        folder=folder,
        description=written.description,
        kernel=written.kernel,
        kernel_args=written.kernel_args,
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

"""`bootnode image`: from recipes to versions that nodes boot."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bootnode.cli.common import (
    Commands,
    add_command,
    print_json,
    print_table,
    read_config,
    size,
)
from bootnode.errors import ImageError

if TYPE_CHECKING:
    from bootnode.image.store import ImageStore, ImageVersion


def add_commands(commands: Commands) -> None:
    """Add the verbs of `image`."""
    verbs = commands.add_parser("image", help="build and look after images").add_subparsers(
        metavar="VERB", required=True
    )
    build = add_command(
        verbs,
        "build",
        run_build,
        help="build an image from its recipe and make it the one that nodes get",
        example="bootnode image build failsafe",
    )
    build.add_argument("name", metavar="NAME", help="the recipe's name, or the path of its folder")
    steps = build.add_mutually_exclusive_group()
    steps.add_argument(
        "--from",
        dest="begin",
        metavar="STEP",
        help="do this step and those after it even if nothing has changed; "
        "`--from rootfs` takes the newest packages",
    )
    steps.add_argument(
        "--only",
        metavar="STEP",
        help="do this step alone, on the results of the others as they are",
    )
    add_command(
        verbs,
        "list",
        run_list,
        help="list images and their versions",
        example="bootnode image list",
        table=True,
    )
    show = add_command(
        verbs,
        "show",
        run_show,
        help="show the current version of an image",
        example="bootnode image show failsafe",
        table=True,
    )
    show.add_argument("name", metavar="NAME")
    delete = add_command(
        verbs,
        "delete",
        run_delete,
        help="remove one version of an image; the current one only if it is the last",
        example="bootnode image delete failsafe 0123456789abcdef",
    )
    delete.add_argument("name", metavar="NAME")
    delete.add_argument("version", metavar="VERSION")


def _store(arguments: argparse.Namespace) -> ImageStore:
    from bootnode.image.store import ImageStore

    return ImageStore(read_config(arguments).images)


def run_build(arguments: argparse.Namespace) -> int:
    """Build, showing how far it is."""
    from bootnode.cli.progress import show_progress
    from bootnode.image.build import build_image, build_step, steps_of
    from bootnode.image.spec import load_recipe

    config = read_config(arguments)
    recipe = load_recipe(_recipe_folder(arguments.name, arguments.config))
    store, cache = _store(arguments), config.state_dir / "cache"
    version: ImageVersion | None
    try:
        with show_progress(steps_of(recipe)) as report:
            if arguments.only is not None:
                version = build_step(recipe, store, arguments.only, cache=cache, report=report)
            else:
                version = build_image(
                    recipe, store, cache=cache, report=report, begin=arguments.begin
                )
    finally:
        # Also when it failed: that is when somebody wants to read it.
        if (log := cache / f"{recipe.name}.log").exists():
            print(f"the whole log: {log}", file=sys.stderr)
    if version is not None:
        print(f"{version.name} {version.version} is what nodes get now, in {version.folder}")
    else:
        print(f"{arguments.only} is done; nodes get what they got before")
    return 0


def _recipe_folder(name: str, config: Path) -> Path:
    """A path as it is; a name from `images/` beside the configuration, then from ours."""
    from bootnode.image.spec import find_recipes, recipes_folder

    if "/" in name:
        return Path(name)
    places = [config.absolute().parent / "images", recipes_folder()]
    for place in places:
        if place / name in find_recipes([place]):
            return place / name
    known = sorted({folder.name for folder in find_recipes(places)})
    raise ImageError(f"there is no recipe '{name}' (there are: {', '.join(known) or 'none'})")


def run_list(arguments: argparse.Namespace) -> int:
    """Print a line a version."""
    store = _store(arguments)
    rows = []
    for name in store.names():
        current = store.current(name).version
        rows += [(image, image.version == current) for image in store.versions(name)]
    if arguments.json:
        print_json([{**_plain(image), "current": current} for image, current in rows])
        return 0
    print_table(
        ("IMAGE", "VERSION", "", "KERNEL", "SIZE", "IN RAM", "BUILT"),
        (
            (
                image.name,
                image.version,
                "current" if current else "",
                image.manifest.kernel_release,
                size(sum(file.size_bytes for file in image.manifest.files)),
                size(image.manifest.ram_bytes),
                _when(image),
            )
            for image, current in rows
        ),
    )
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """Print the manifest."""
    image = _store(arguments).current(arguments.name)
    plain = _plain(image)
    if arguments.json:
        print_json(plain)
        return 0
    files = [
        (file.name, f"{size(file.size_bytes)}  sha256 {file.sha256}")
        for file in image.manifest.files
    ]
    packages = [(name, version) for name, version in sorted(image.manifest.packages.items())]
    print_table(
        ("KEY", "VALUE"),
        [
            ("image", image.name),
            ("version", image.version),
            ("folder", str(image.folder)),
            ("built", _when(image)),
            ("kernel", image.manifest.kernel_release),
            ("kernel_args", " ".join(image.kernel_args) or "-"),
            ("in RAM", size(image.manifest.ram_bytes)),
            ("root", _root(image)),
            *files,
            *packages,
        ],
    )
    return 0


def run_delete(arguments: argparse.Namespace) -> int:
    """Remove a version."""
    _store(arguments).delete(arguments.name, arguments.version)
    print(f"{arguments.name} {arguments.version} is deleted")
    return 0


def _root(image: ImageVersion) -> str:
    root = image.manifest.root
    if root is None:
        return "- (the ramdisk is all there is)"
    by = "init" if root.fetch == "init" else "the boot loader"
    return f"{root.format}, fetched by {by}, {size(root.ram_bytes)} in RAM"


def _plain(image: ImageVersion) -> dict[str, Any]:
    return image.manifest.model_dump(mode="json")


def _when(image: ImageVersion) -> str:
    return datetime.fromtimestamp(image.manifest.built_at, UTC).strftime("%Y-%m-%d %H:%M UTC")

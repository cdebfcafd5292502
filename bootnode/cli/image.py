"""`bootnode image`: from recipes to versions that nodes boot; versions.py has what comes after."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from bootnode.cli import shell, versions
from bootnode.cli.common import Commands, add_command, read_config, recipe_folder

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
    shell.add_commands(verbs)
    versions.add_commands(verbs)


def _store(arguments: argparse.Namespace) -> ImageStore:
    from bootnode.image.store import ImageStore

    return ImageStore(read_config(arguments).images)


def run_build(arguments: argparse.Namespace) -> int:
    """Build, showing how far it is."""
    from bootnode.cli.progress import show_progress
    from bootnode.image.build import build_image, build_step
    from bootnode.image.making import steps_of
    from bootnode.image.spec import load_recipe

    config = read_config(arguments)
    recipe = load_recipe(recipe_folder(arguments.name, arguments.config))
    store, cache, changes = _store(arguments), config.cache, config.changes
    version: ImageVersion | None
    try:
        with show_progress(steps_of(recipe)) as report:
            if arguments.only is not None:
                version = build_step(
                    recipe, store, arguments.only, cache=cache, changes=changes, report=report
                )
            else:
                version = build_image(
                    recipe,
                    store,
                    cache=cache,
                    changes=changes,
                    report=report,
                    begin=arguments.begin,
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

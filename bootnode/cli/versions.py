"""`bootnode image list`, `show`, `delete`, `prune`, `rollback`: versions, and who uses them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bootnode.boot.journal import FETCH_SILENCE_S
from bootnode.boot.usage import ImageUsage
from bootnode.cli.common import (
    Commands,
    add_command,
    print_json,
    print_table,
    read_config,
    size,
    when,
)
from bootnode.cli.users import Users, users_to_show, users_to_spare
from bootnode.config import Config
from bootnode.errors import ImageError
from bootnode.nodes import fold_names

if TYPE_CHECKING:
    from bootnode.image.store import DamagedVersion, ImageStore, ImageVersion

KEEP = 3
"""How many versions of an image `prune` keeps unless told otherwise."""
NOT_KNOWN = "?"


def add_commands(verbs: Commands) -> None:
    """Add the verbs to `image`."""
    add_command(
        verbs,
        "list",
        run_list,
        help="list images, their versions, and the nodes that use them",
        example="bootnode image list",
        table=True,
    )
    show = add_command(
        verbs,
        "show",
        run_show,
        help="show one version of an image, the current one unless another is named",
        example="bootnode image show failsafe",
        table=True,
    )
    delete = add_command(
        verbs,
        "delete",
        run_delete,
        help="remove one version of an image, or all of it, unless a node needs it",
        example="bootnode image delete failsafe 0123456789abcdef",
    )
    rollback = add_command(
        verbs,
        "rollback",
        run_rollback,
        help="let nodes get the version that was current before, or the one that is named",
        example="bootnode image rollback compute",
    )
    for parser in (show, delete, rollback):
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("version", metavar="VERSION", nargs="?")
    prune = add_command(
        verbs,
        "prune",
        run_prune,
        help="remove old versions, never one that is current or that a node boots from",
        example="bootnode image prune compute --keep 2",
        table=True,
    )
    prune.add_argument("names", metavar="NAME", nargs="*", help="default: every image")
    prune.add_argument(
        "--keep",
        metavar="N",
        type=_count,
        default=KEEP,
        help="how many of the newest versions of each image stay (default: %(default)s)",
    )


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a count (want 1 or more)")
    return int(text)


def _store(config: Config) -> ImageStore:
    from bootnode.image.store import ImageStore

    return ImageStore(config.images)


# Looking


def run_list(arguments: argparse.Namespace) -> int:
    """Print a line a version."""
    config = read_config(arguments)
    store = _store(config)
    users = users_to_show(config)
    images = [
        (image, image.version == store.current_name(name))
        for name in store.names()
        for image in store.versions(name)
    ]
    if arguments.json:
        print_json([_described(image, users, is_current=current) for image, current in images])
    else:
        print_table(
            ("IMAGE", "VERSION", "", "SIZE", "IN RAM", "BUILT", "USED BY"),
            (_row(image, users, is_current=current) for image, current in images),
        )
    _print_remarks(users)
    return 0


_USES = {"next_boot": "next boot", "booting": "booting", "running": "running"}
"""The keys of JSON, and what people read."""


def _uses(image: ImageVersion | DamagedVersion, users: Users, *, is_current: bool) -> Any:
    """The nodes by the keys of _USES; None is not known."""
    full_name = f"{image.name}/{image.version}"
    next_boot = users.next_boot if is_current else {}
    return {
        "next_boot": None if next_boot is None else [*next_boot.get(image.name, ())],
        "booting": None if users.booting is None else [*users.booting.get(full_name, ())],
        "running": None if users.running is None else [*users.running.get(full_name, ())],
    }


def _described(
    image: ImageVersion | DamagedVersion, users: Users, *, is_current: bool
) -> dict[str, Any]:
    manifest = getattr(image, "manifest", None)
    plain = asdict(image) if manifest is None else manifest.model_dump(mode="json")
    return {**plain, "current": is_current, **_uses(image, users, is_current=is_current)}


def _row(
    image: ImageVersion | DamagedVersion, users: Users, *, is_current: bool
) -> tuple[str, ...]:
    manifest = getattr(image, "manifest", None)
    facts: tuple[str, ...] = ("damaged", "-", "-")
    if manifest is not None:
        sizes = (sum(file.size_bytes for file in manifest.files), manifest.ram_bytes)
        facts = (*map(size, sizes), when(manifest.built_at))
    uses = _uses(image, users, is_current=is_current)
    used_by = "; ".join(f"{_USES[key]} {_names(nodes)}" for key, nodes in uses.items() if nodes)
    if not used_by:
        used_by = NOT_KNOWN if None in uses.values() else "-"
    return (image.name, image.version, "current" if is_current else "", *facts, used_by)


def _names(nodes: Iterable[str] | None) -> str:
    return NOT_KNOWN if nodes is None else ",".join(fold_names(nodes)) or "-"


def _print_remarks(users: Users) -> None:
    for remark in users.remarks:
        print(f"bootnode: {remark}", file=sys.stderr)


def run_show(arguments: argparse.Namespace) -> int:
    """Print the manifest, and who uses it."""
    config = read_config(arguments)
    store, name = _store(config), arguments.name
    current = store.current_name(name)
    image = (
        store.current(name) if arguments.version is None else store.load(name, arguments.version)
    )
    users = users_to_show(config)
    if arguments.json:
        print_json(_described(image, users, is_current=image.version == current))
    else:
        uses = _uses(image, users, is_current=image.version == current)
        print_table(
            ("KEY", "VALUE"),
            [
                ("image", image.name),
                ("version", image.version + (" (current)" if image.version == current else "")),
                ("folder", str(image.folder)),
                *((word, _names(uses[key])) for key, word in _USES.items()),
                *_facts(image),
            ],
        )
    _print_remarks(users)
    return 0


def _facts(image: ImageVersion) -> Iterator[tuple[str, str]]:
    manifest = image.manifest
    yield "built", when(manifest.built_at)
    yield "architecture", manifest.architecture
    yield "kernel", manifest.kernel_release
    yield "kernel_args", " ".join(image.kernel_args) or "-"
    yield "in RAM", size(manifest.ram_bytes)
    yield "root", _root(image)
    for file in manifest.files:
        yield file.name, f"{size(file.size_bytes)}  sha256 {file.sha256}"
    for change in manifest.changes:
        yield f"change {change.number}", f"{when(change.made_at)} by {change.by}"
    yield from sorted(manifest.packages.items())


def _root(image: ImageVersion) -> str:
    root = image.manifest.root
    if root is None:
        return "- (the ramdisk is all there is)"
    by = "init" if root.fetch == "init" else "the boot loader"
    return f"{root.format}, fetched by {by}, {size(root.ram_bytes)} in RAM"


def run_delete(arguments: argparse.Namespace) -> int:
    """Remove a version, or without one the whole image."""
    config = read_config(arguments)
    store, name, version = _store(config), arguments.name, arguments.version
    with store.changing():
        versions = store.version_names(name)
        # Asked with the lock held: from here on, no version becomes current that was not.
        usage = users_to_spare(config)
        if version is None or versions == [version]:
            _refuse_image_in_use(name, versions, usage)
            freed = store.delete_all(name)
            versions = [f"with all its versions ({', '.join(versions)})"]
        else:
            _refuse_version_in_use(store, name, version, usage)
            freed = store.delete(name, version)
            versions = [version]
    print(f"{name} {versions[0]} is deleted, which frees {size(freed)}")
    return 0


def _refuse_image_in_use(name: str, versions: Iterable[str], usage: ImageUsage) -> None:
    """Raises ImageError if a node has this image, or boots any version of it."""
    if nodes := usage.next_boot.get(name):
        raise ImageError(
            f"'{name}' is the image of {_names(nodes)}: give them another one in the node table, "
            "and reload, before you delete it"
        )
    for version in versions:
        _refuse_version_booting(name, version, usage)


def _refuse_version_in_use(store: ImageStore, name: str, version: str, usage: ImageUsage) -> None:
    """Raises ImageError if nodes get this version, or boot it."""
    if version == store.current_name(name) and (nodes := usage.next_boot.get(name)):
        raise ImageError(
            f"version {version} is what {_names(nodes)} get as '{name}' now: build or roll back "
            "to another one first"
        )
    _refuse_version_booting(name, version, usage)


def _refuse_version_booting(name: str, version: str, usage: ImageUsage) -> None:
    if nodes := usage.booting.get(f"{name}/{version}"):
        raise ImageError(
            f"version {version} of '{name}' is being booted by {_names(nodes)}: wait until "
            "`bootnode status` says `up` (one that was switched off meanwhile counts for "
            f"{FETCH_SILENCE_S // 60} min)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pruned:
    """What became of a version."""

    name: str
    version: str
    kept_because: str | None
    """None when it was removed."""
    freed_bytes: int


def run_prune(arguments: argparse.Namespace) -> int:
    """Remove old versions, and say what became of each."""
    config = read_config(arguments)
    store = _store(config)
    with store.changing():
        names = list(dict.fromkeys(arguments.names)) or store.names()
        for name in names:
            # A name that is wrong is found before anything is removed.
            if not store.version_names(name):
                raise ImageError(f"image '{name}' has no versions: `bootnode image list`")
        usage = users_to_spare(config)
        pruned = [
            outcome for name in names for outcome in _prune(store, name, arguments.keep, usage)
        ]
    if arguments.json:
        print_json([asdict(outcome) for outcome in pruned])
        return 0
    print_table(
        ("IMAGE", "VERSION", "", ""),
        (
            (p.name, p.version, "kept", p.kept_because)
            if p.kept_because is not None
            else (p.name, p.version, "removed", f"{size(p.freed_bytes)} freed")
            for p in pruned
        ),
    )
    removed = [p for p in pruned if p.kept_because is None]
    freed = size(sum(p.freed_bytes for p in removed))
    print(f"{len(removed)} of {len(pruned)} versions removed, {freed} freed")
    return 0


def _prune(store: ImageStore, name: str, keep: int, usage: ImageUsage) -> Iterator[_Pruned]:
    from bootnode.image.retention import reasons_to_keep

    versions = [image.version for image in store.versions(name)]
    needed = {
        version: f"booted by {_names(nodes)}"
        for version in versions
        if (nodes := usage.booting.get(f"{name}/{version}"))
    }
    if (current := store.current_name(name)) is not None:
        needed[current] = "current"
    reasons = reasons_to_keep(versions, keep=keep, needed=needed)
    for version in versions:
        reason = reasons.get(version)
        freed = store.delete(name, version) if reason is None else 0
        yield _Pruned(name=name, version=version, kept_because=reason, freed_bytes=freed)


# Going back


def run_rollback(arguments: argparse.Namespace) -> int:
    """Move `current`, and say who gets what now."""
    config = read_config(arguments)
    store, name = _store(config), arguments.name
    with store.changing():
        before = store.current_name(name)
        if arguments.version is None:
            image = store.roll_back(name)
        else:
            image = store.make_current(name, arguments.version)
    users = users_to_show(config)
    built = f"built {when(image.manifest.built_at)}"
    if image.version == before:
        print(f"{name} {image.version} ({built}) is what nodes get already")
        return 0
    print(f"{name} {image.version} ({built}) is what nodes get now, from their next boot on")
    nodes = None if users.next_boot is None else users.next_boot.get(name, ())
    print(f"nodes that have this image: {_names(nodes)}")
    if before is not None:
        print(f"to return: bootnode image rollback {name} {before}")
    _print_remarks(users)
    return 0

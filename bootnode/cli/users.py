"""Who uses which image: what the node table says, and what the running daemon knows.

A daemon that answers wrongly, or not to us, is no reason to show nothing, but one to remove
nothing. Without a daemon nothing is served, so nobody is in the middle of a boot that could go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bootnode.boot.usage import ImageUsage, next_images
from bootnode.config import Config
from bootnode.control import NoDaemonError, fetch_status
from bootnode.errors import BootnodeError, ConfigError
from bootnode.nodes import load_nodes

Nodes = Mapping[str, Sequence[str]]
"""Names of nodes, by image or by NAME/VERSION."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """What could be found out; None is not known."""

    next_boot: Nodes | None
    booting: Nodes | None
    running: Nodes | None
    remarks: tuple[str, ...]
    """Why something is not known."""


def users_to_show(config: Config) -> Users:
    """Who uses which image; never an error, for the images are there all the same."""
    usage, remarks = None, []
    try:
        usage = _ask_daemon(config)
        if usage is None:
            remarks.append(
                f"no bootnoded answers on {config.socket}: the next boots are from the node "
                "table, and what nodes boot and run at this moment is not known"
            )
    except BootnodeError as error:
        remarks.append(str(error))
    if usage is not None:
        return Users(
            next_boot=usage.next_boot, booting=usage.booting, running=usage.running, remarks=()
        )
    table = None
    try:
        table = next_images(load_nodes(config.nodes))
    except ConfigError:
        remarks.append(f"{config.nodes} has errors: `bootnode check` shows them")
    return Users(next_boot=table, booting=None, running=None, remarks=tuple(remarks))


def users_to_spare(config: Config) -> ImageUsage:
    """Everyone who may need a version, by the table on disk or by the one that the daemon has.

    Raises:
        ConfigError: the table has errors.
        BootnodeError: a daemon runs, but does not tell.
    """
    table = next_images(load_nodes(config.nodes))
    usage = _ask_daemon(config) or ImageUsage(next_boot={}, booting={}, running={})
    named = {
        name: list(dict.fromkeys([*table.get(name, ()), *usage.next_boot.get(name, ())]))
        for name in {*table, *usage.next_boot}
    }
    return ImageUsage(next_boot=named, booting=usage.booting, running=usage.running)


def _ask_daemon(config: Config) -> ImageUsage | None:
    """What the running daemon knows; None without one."""
    try:
        status = fetch_status(config.socket)
    except NoDaemonError:
        return None
    try:
        return ImageUsage(**status["images"])
    except (KeyError, TypeError):
        raise BootnodeError(
            f"{config.socket}: bootnoded is of another version, which does not tell who uses which "
            "image: restart it"
        ) from None

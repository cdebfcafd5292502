"""The files of each node, as the commands see them without the daemon."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Interface

from bootnode.addresses import MacAddress
from bootnode.boot.nodefiles import FileTree, Keys, NodeFile, NodeNetwork, Renderer, node_networks
from bootnode.config import Config
from bootnode.errors import ImageError, KeysError, NodeFilesError, Problem, StartError
from bootnode.image import nodefiles
from bootnode.image.store import ImageStore
from bootnode.net import find_interface
from bootnode.nodekeys import ShownKeys, StandInKeys
from bootnode.nodes import Node, NodeTable

STAND_IN = IPv4Interface("192.0.2.1/24")
"""For a network whose interface is not on this machine: addresses for documentation (RFC 5737)."""
ANY_MAC = MacAddress.parse("02:00:00:00:00:00")
"""A machine outside the table."""


def find_problems(config: Config, table: NodeTable) -> Iterator[Problem]:
    """What is wrong with the templates of the images for the nodes that boot them.

    A fault that many nodes have alike is one problem. An image that is not built has no templates.
    """
    nodes = [*table, *_unknown(table)]
    renderer = Renderer(table=table, networks=_networks(config), keys=StandInKeys())
    store = ImageStore(config.images)
    for name in dict.fromkeys(node.image for node in nodes if node.image is not None):
        try:
            version = store.current(name)
        except ImageError:
            continue  # said of each place that names it
        image = f"{version.name}/{version.version}"
        try:
            tree = nodefiles.load(version)
        except ImageError as error:
            yield Problem(file=image, line=0, column=0, key="", message=str(error))
            continue
        if tree is not None:
            yield from _faults(renderer, tree, image, [n for n in nodes if n.image == name])


def _unknown(table: NodeTable) -> list[Node]:
    """A machine outside the table, if such machines boot an image."""
    node = table.to_boot(ANY_MAC)
    return [node] if node is not None and table.by_mac(ANY_MAC) is None else []


def _faults(
    renderer: Renderer, tree: FileTree, image: str, nodes: Iterable[Node]
) -> Iterator[Problem]:
    faults: dict[tuple[str, int, str], list[str]] = {}
    for node in nodes:
        try:
            renderer.render(tree, node, image=image)
        except NodeFilesError as error:
            for problem in error.problems:
                fault = (problem.name, problem.line, problem.message)
                faults.setdefault(fault, []).append(node.name)
    for (name, line, message), names in faults.items():
        named = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        yield Problem(file=f"{image}/{name}", line=line, column=0, key=named, message=message)


def render(config: Config, table: NodeTable, node: Node) -> list[NodeFile]:
    """The files of one node; what a person at a terminal may not see is replaced, and said so.

    Raises:
        ImageError: the node's image is not built.
        NodeFilesError: all that is wrong with its templates for this node.
    """
    if node.image is None:
        return []
    version = ImageStore(config.images).current(node.image)
    tree = nodefiles.load(version)
    if tree is None:
        return []
    keys: Keys = ShownKeys(config.node_secret, may_make=False)
    try:
        keys.machine_id(node.name)
    except KeysError as error:
        _say(f"machine ids and host keys are not the node's own: {error}")
        keys = StandInKeys()
    networks = _networks(config)
    if any(network.server == STAND_IN.ip for network in networks):
        _say(f"this machine lacks an interface that bootnoded.yaml names: {STAND_IN} stands for it")
    renderer = Renderer(table=table, networks=networks, keys=keys)
    return renderer.render(tree, node, image=f"{version.name}/{version.version}")


def _networks(config: Config) -> list[NodeNetwork]:
    addresses = {
        network.interface: _address(network.interface)
        for network in config.networks
        if network.interface is not None
    }
    return node_networks(config, addresses)


def _address(interface: str) -> IPv4Interface:
    try:
        return find_interface(interface).address
    except StartError:
        return STAND_IN


def _say(text: str) -> None:
    print(f"bootnode: {text}", file=sys.stderr)

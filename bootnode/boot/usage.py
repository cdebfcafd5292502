"""Who uses which image: nodes that get it at their next boot, that boot from it, that run it.

A node that runs an image has all of it in memory and asks for nothing more. One in the middle of
its boot may yet ask for any file of the version that its boot script named: such a version must
stay, which Boot.may_fetch decides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bootnode.boot.journal import Boot, Journal
from bootnode.nodes import UNKNOWN_PREFIX, Node, NodeTable

UNKNOWN_MACHINES = f"{UNKNOWN_PREFIX}*"
"""Stands for every machine outside the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageUsage:
    """Names of nodes, in the order of the table."""

    next_boot: Mapping[str, Sequence[str]]
    """By image: the nodes that the table gives it, which get `current` when they boot."""
    booting: Mapping[str, Sequence[str]]
    """By NAME/VERSION: the nodes that may still fetch files of it."""
    running: Mapping[str, Sequence[str]]
    """By NAME/VERSION: the nodes that were last heard of when it ran on them."""


def next_images(table: NodeTable) -> dict[str, list[str]]:
    """The nodes that the table gives each image."""
    named: defaultdict[str, list[str]] = defaultdict(list)
    for node in table:
        if node.image is not None:
            named[node.image].append(node.name)
    if isinstance(table.unknown, Node) and table.unknown.image is not None:
        named[table.unknown.image].append(UNKNOWN_MACHINES)
    return dict(named)


def image_usage(table: NodeTable, journal: Journal, *, now: float) -> ImageUsage:
    """Who uses what, as far as table and journal know."""
    booting: defaultdict[str, list[str]] = defaultdict(list)
    running: defaultdict[str, list[str]] = defaultdict(list)
    for name, boot in _last_boots(table, journal):
        if boot.may_fetch(now):
            booting[boot.image].append(name)
        elif boot.is_running:
            running[boot.image].append(name)
    return ImageUsage(next_boot=next_images(table), booting=dict(booting), running=dict(running))


def _last_boots(table: NodeTable, journal: Journal) -> Iterator[tuple[str, Boot]]:
    """The last boot from an image of each node of the table, then of every other MAC."""
    for node in table:
        records = (journal.get(mac) for mac in node.macs)
        boots = [record.boot for record in records if record is not None and record.boot]
        # One machine boots by one card at a time: a later boot ended the one by another card.
        with_image = [boot for boot in boots if boot.image]
        if with_image:
            yield node.name, max(with_image, key=lambda boot: boot.began)
    for mac, record in journal:
        if table.by_mac(mac) is None and record.boot is not None and record.boot.image:
            yield str(mac), record.boot

"""The files of each node, rendered when they are asked for: nothing is kept that could get old.

Rendering happens in threads: a template may take its time, and DHCP must not wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Address

from bootnode.boot.nodefiles import Keys, NodeFile, NodeNetwork, Renderer, archive
from bootnode.boot.plan import Policy
from bootnode.errors import ImageError, NodeFilesError
from bootnode.image import nodefiles
from bootnode.image.store import ImageVersion
from bootnode.nodes import Node


class NodeFiles:
    """What nodes get of their own, by the tables as they are now."""

    def __init__(self, *, policy: Policy, networks: Sequence[NodeNetwork], keys: Keys) -> None:
        self._policy = policy
        self._networks = networks
        self._keys = keys
        self._renderer: Renderer | None = None

    async def problem(self, version: ImageVersion, node: Node, server: IPv4Address) -> str | None:
        """Why the files of this node cannot be made, in a sentence; None when they can."""
        if version.manifest.node_files is None:
            return None
        try:
            await asyncio.to_thread(self._render, version, node, server)
        except ImageError as error:
            return str(error)
        except NodeFilesError as error:
            more = len(error.problems) - 1
            return f"its files cannot be made: {error.problems[0]}" + (
                f" (and {more} more: see `bootnode check`)" if more else ""
            )
        return None

    async def archive(
        self, version: ImageVersion, node: Node, server: IPv4Address, *, mtime: int
    ) -> bytes:
        """The ramdisk with this node's files; `mtime` in seconds since 1970.

        Raises:
            ImageError: the version cannot be read.
            NodeFilesError: all that is wrong with its templates for this node.
        """
        files = await asyncio.to_thread(self._render, version, node, server)
        return await asyncio.to_thread(archive, files, mtime=mtime)

    def _render(self, version: ImageVersion, node: Node, server: IPv4Address) -> list[NodeFile]:
        tree = nodefiles.load(version)
        if tree is None:
            return []
        table, renderer = self._policy.table, self._renderer
        if renderer is None or renderer.table is not table:
            renderer = Renderer(table=table, networks=self._networks, keys=self._keys)
            self._renderer = renderer
        image = f"{version.name}/{version.version}"
        return renderer.render(tree, node, image=image, server=server)

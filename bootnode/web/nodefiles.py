"""The files of each node, rendered when they are asked for: nothing is kept that could get old.

Rendering happens in a thread, since DHCP must not wait for it; in one only, since Python runs one
at a time: several would do no more, and keep the event loop waiting longer for its turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from bootnode.boot.nodefiles import Asked, Keys, NodeFile, NodeNetwork, Renderer, archive
from bootnode.boot.plan import Policy
from bootnode.errors import ImageError, NodeFilesError
from bootnode.image import nodefiles
from bootnode.image.store import ImageVersion
from bootnode.nodes import Node

T = TypeVar("T")


class NodeFiles:
    """What nodes get of their own, by the tables as they are now."""

    def __init__(self, *, policy: Policy, networks: Sequence[NodeNetwork], keys: Keys) -> None:
        self._policy = policy
        self._networks = networks
        self._keys = keys
        self._renderer: Renderer | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="node-files")

    def close(self) -> None:
        """Give up what waits to be rendered."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def problem(self, version: ImageVersion, node: Node, asked: Asked | None) -> str | None:
        """Why the files of this node cannot be made, in a sentence; None when they can."""
        if version.manifest.node_files is None:
            return None
        try:
            await self._in_thread(self._render, version, node, asked)
        except ImageError as error:
            return str(error)
        except NodeFilesError as error:
            more = len(error.problems) - 1
            return f"its files cannot be made: {error.problems[0]}" + (
                f" (and {more} more: see `bootnode check`)" if more else ""
            )
        return None

    async def archive(
        self, version: ImageVersion, node: Node, asked: Asked | None, *, mtime: int
    ) -> bytes:
        """The ramdisk with this node's files; `mtime` in seconds since 1970.

        Raises:
            ImageError: the version cannot be read.
            NodeFilesError: all that is wrong with its templates for this node.
        """

        def make() -> bytes:
            return archive(self._render(version, node, asked), mtime=mtime)

        return await self._in_thread(make)

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, work, *arguments)

    def _render(self, version: ImageVersion, node: Node, asked: Asked | None) -> list[NodeFile]:
        tree = nodefiles.load(version)
        if tree is None:
            return []
        table, renderer = self._policy.table, self._renderer
        if renderer is None or renderer.table is not table:
            renderer = Renderer(table=table, networks=self._networks, keys=self._keys)
            self._renderer = renderer
        image = f"{version.name}/{version.version}"
        return renderer.render(tree, node, image=image, asked=asked)

"""The distributions that an image can be of, and what a build asks of each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Protocol

from bootnode.image import debian, rocky
from bootnode.image.rootfs import Installed
from bootnode.image.spec import System


class Distribution(Protocol):
    """A module that can put a distribution into a folder."""

    def bootstrap(
        self, system: System, packages: tuple[str, ...], root: Path, *, log: IO[bytes]
    ) -> None:
        """Install `packages` and all they need into the folder `root`.

        Raises:
            ImageError: it fails, and why.
        """

    def installed(self, root: Path, log: IO[bytes], /) -> Installed:
        """What is installed in `root`."""


DISTRIBUTIONS: Mapping[str, Distribution] = MappingProxyType({"debian": debian, "rocky": rocky})

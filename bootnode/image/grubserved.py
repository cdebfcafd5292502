"""What GRUB fetches by TFTP: its configuration, kernel and ramdisks.

Rules: a `grub/grub.cfg` of the user's own goes before ours, and is found before this is asked. A
MAC in a name is a claim, and counts for the journal only from the address that the node has. The
script names one version of the image, and of that alone is all that follows.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address

from bootnode.addresses import MacAddress
from bootnode.boot import grub
from bootnode.boot.journal import Journal, Stage
from bootnode.boot.plan import Policy, Site, decide_script
from bootnode.errors import ImageError
from bootnode.files import BytesSource, OpenFile
from bootnode.image.store import ImageStore, ImageVersion


class GrubFiles:
    """What nodes with `loader: grub` fetch."""

    def __init__(
        self,
        *,
        policy: Policy,
        journal: Journal,
        images: ImageStore,
        clock: Callable[[], float],
        on_delivered: Callable[[MacAddress], None],
    ) -> None:
        """`on_delivered` is called when a node has its image."""
        self._policy = policy
        self._journal = journal
        self._images = images
        self._clock = clock
        self._on_delivered = on_delivered

    def open(self, name: str, peer: IPv4Address, site: Site) -> BytesSource | OpenFile | None:
        """What the client at `peer` asks for; None if it is nothing of GRUB's.

        Raises:
            FileNotFoundError: there is no such image, version or file.
            OSError: the disk failed.
        """
        if name.lstrip("/").lower() == grub.CONFIG:
            return BytesSource(grub.LOOP.encode())
        mac = grub.script_mac(name)
        if mac is not None:
            return BytesSource(self._script(mac, peer, site).encode())
        version = self._version_of(name)
        if version is None:
            return None
        asker = self._journal.at(peer)
        if asker is not None:
            self._journal.fetch(asker, f"{version.name}/{version.version}", now=self._clock())
        return OpenFile(version.folder / name.rpartition("/")[2])

    def deliver(self, name: str, mac: MacAddress) -> bool:
        """Note that the node has all of what it asked for; False if that is nothing of GRUB's."""
        if grub.script_mac(name) is not None:
            return True
        try:
            version = self._version_of(name)
        except FileNotFoundError:
            return True  # deleted since
        if version is None:
            return False
        now, detail = self._clock(), f"{version.name}/{version.version}"
        self._journal.fetch(mac, detail, now=now)
        file = name.rpartition("/")[2]
        if file == version.kernel:
            self._journal.reach(mac, Stage.KERNEL, now=now, detail=detail)
        if file in version.initrds[-1:]:
            self._journal.reach(mac, Stage.INITRD, now=now, detail=detail)
            self._on_delivered(mac)
        return True

    def _script(self, mac: MacAddress, peer: IPv4Address, site: Site) -> str:
        node = self._policy.table.to_boot(mac)
        image = node.image if node is not None else None
        plan = decide_script(
            node,
            mac,
            site,
            image="the node has no image" if image is None else self._policy.images(image),
            is_spent=self._policy.is_spent(node),
        )
        if self._journal.is_from(mac, peer, now=self._clock()):
            self._journal.give_script(mac, plan, now=self._clock())
        return grub.render(plan)

    def _version_of(self, name: str) -> ImageVersion | None:
        """The version whose kernel or ramdisk this is."""
        parts = grub.image_file(name)
        if parts is None:
            return None
        try:
            version = self._images.load(parts[0], parts[1])
        except ImageError as error:
            raise FileNotFoundError(str(error)) from None
        if parts[2] not in (version.kernel, *version.initrds):
            raise FileNotFoundError(f"{name!a} is no kernel and no ramdisk")
        return version

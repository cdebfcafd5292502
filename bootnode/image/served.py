"""Images as nodes get them: what a boot script names, and unified kernel images made for one node.

A unified kernel image is put together for each request: a small head of the node's own, then kernel
and ramdisks as they lie in the store. Nothing big is copied or kept. TFTP and HTTP both ask here.

Rules: only the node itself gets its image, as far as its address can tell; and only the version
that it was told of by DHCP, for firmware asks for the size first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import IPv4Address
from typing import Final
from zlib import crc32

from bootnode.addresses import MacAddress
from bootnode.boot.ipxe import kernel_command_line
from bootnode.boot.journal import Journal, Stage
from bootnode.boot.plan import (
    ImageBoot,
    ImageFiles,
    Policy,
    RootFile,
    Site,
    UnifiedPath,
    decide_script,
)
from bootnode.boot.uki import StoredFile, Stub, assemble
from bootnode.errors import ImageError
from bootnode.files import BytesSource, JoinedFiles, OpenFile
from bootnode.image.store import ImageStore, ImageVersion

LOOK_S: Final = 0.1
"""Seconds after which a new version is noticed; a rack that boots asks thousands of times each."""


def current_files(store: ImageStore, name: str) -> ImageFiles | str:
    """The current version of an image, or a sentence that says why there is none."""
    try:
        return image_files(store.current(name))
    except ImageError as error:
        return str(error)


class CurrentImages:
    """Finds the current version of an image, as DHCP asks for each packet of firmware and iPXE.

    Which version is current is read every LOOK_S; what is in it once, for a version never changes.
    """

    def __init__(self, store: ImageStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        # By the names that the node table has: what was found, and when.
        self._found: dict[str, tuple[ImageFiles | str, float]] = {}

    def __call__(self, name: str) -> ImageFiles | str:
        """The current version of an image, or a sentence that says why there is none."""
        now = self._clock()
        found, at = self._found.get(name, ("", -LOOK_S))
        if now - at < LOOK_S:
            return found
        if isinstance(found, str) or self._store.current_name(name) != found.version:
            found = current_files(self._store, name)
        self._found[name] = (found, now)
        return found


def image_files(version: ImageVersion) -> ImageFiles:
    """A version as decisions about boots need it."""
    manifest = version.manifest
    root = manifest.root
    return ImageFiles(
        name=version.name,
        version=version.version,
        architecture=manifest.architecture,
        kernel=version.kernel,
        initrds=version.initrds,
        kernel_args=version.kernel_args,
        kernel_release=manifest.kernel_release,
        has_node_files=manifest.node_files is not None,
        loader=manifest.loader,
        stub=manifest.stub,
        root=None
        if root is None
        else RootFile(
            format=root.format,
            file=root.file,
            is_fetched=root.fetch == "init",
            size_bytes=root.size_bytes,
            sha256=root.sha256,
            ram_bytes=root.ram_bytes,
        ),
    )


def open_unified(version: ImageVersion, plan: ImageBoot) -> JoinedFiles:
    """The unified kernel image of one node; its size depends on the version only.

    Raises:
        ImageError: the version has no stub, or the command line is too long.
        OSError: a file cannot be read.
    """
    image = plan.image
    if image.stub is None:
        raise ImageError(image.without_stub)
    files_url = plan.site.node_files_url(plan.mac, f"{image.name}/{image.version}")
    stub = Stub.parse((version.folder / image.stub).read_bytes())
    with ExitStack() as undo:
        files: dict[str, OpenFile] = {}
        for name in (image.kernel, *image.initrds):
            files[name] = OpenFile(version.folder / name)
            undo.callback(files[name].close)
        stored = {name: StoredFile(name=name, size_bytes=file.size) for name, file in files.items()}
        parts = assemble(
            stub,
            # Rendering them may take its time, and would change the size of the whole.
            command_line=kernel_command_line(plan, node_files=files_url),
            kernel=stored[image.kernel],
            ramdisks=[stored[name] for name in image.initrds],
            release=image.kernel_release,
            title=f"{image.name} {image.version}",
        )
        undo.pop_all()
    head = parts[0]
    own = crc32(head) if isinstance(head, bytes) else 0
    return JoinedFiles(
        [files[part.name] if isinstance(part, StoredFile) else BytesSource(part) for part in parts],
        tag=f"{image.version}-{own:08x}",
    )


class UnifiedImages:
    """What nodes with `loader: uki` fetch, by whichever protocol."""

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

    def open(self, path: UnifiedPath, peer: IPv4Address | None, site: Site) -> JoinedFiles:
        """The image of the node that asks from the address `peer`.

        Raises:
            FileNotFoundError: there is no such node or version, or it cannot be made.
            PermissionError: it is another node's.
            OSError: the disk failed.
        """
        if not self._journal.is_from(path.mac, peer, now=self._clock()):
            raise PermissionError(f"{path} is for {path.mac} only, and {peer} is not its address")
        node = self._policy.table.to_boot(path.mac)
        if node is None or node.image is None:
            raise FileNotFoundError(f"{path.mac} has no image")
        try:
            version = self._images.load(node.image, path.version)
            plan = decide_script(node, path.mac, site, image=image_files(version), is_spent=False)
            if not isinstance(plan, ImageBoot):
                raise FileNotFoundError(f"{node.name} boots from its local disk")
            opened = open_unified(version, plan)
        except ImageError as error:
            self._journal.reach(path.mac, Stage.FAILED, now=self._clock(), detail=str(error))
            raise FileNotFoundError(str(error)) from error
        image = f"{version.name}/{version.version}"
        self._journal.fetch(path.mac, image, now=self._clock(), first=Stage.LOADER)
        return opened

    def deliver(self, path: UnifiedPath) -> None:
        """The node has its image to the last byte: loader, kernel and ramdisk in one."""
        node = self._policy.table.to_boot(path.mac)
        detail = f"{node.image if node is not None else ''}/{path.version}"
        self._journal.fetch(path.mac, detail, now=self._clock(), first=Stage.LOADER)
        for stage in (Stage.KERNEL, Stage.INITRD):
            self._journal.reach(path.mac, stage, now=self._clock(), detail=detail)
        self._on_delivered(path.mac)

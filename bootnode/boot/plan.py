"""What a client gets: the one place where boot decisions are made.

`decide_boot` answers DHCP: which boot file this voice of the machine is told about.
`decide_script` answers HTTP: what the node's iPXE script shall do. Both are pure; who the node is
and which image version is current are handed in.

Sources: protocol notes of RFC 4578, the UEFI specification 2.10 section 24 (HTTP Boot), iPXE.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from types import MappingProxyType

from bootnode.addresses import MacAddress
from bootnode.boot.chains import CHAINS_MAX, ChainLoads
from bootnode.boot.client import Client, Speaker
from bootnode.dhcp.pxe import Architecture, IpxeFeature
from bootnode.nodes import Boot, Loader, Node, NodeTable

LOADERS: Mapping[Architecture, tuple[str, ...]] = MappingProxyType(
    {
        # undionly uses the ROM's own network driver, the one that has just proved to work.
        Architecture.X86_BIOS: ("undionly.kpxe", "ipxe.pxe"),
        Architecture.X86_UEFI: ("snponly-ia32.efi", "ipxe-ia32.efi"),
        # snponly uses the firmware's driver too, and is 4 s quicker than ipxe.efi's own ones.
        Architecture.X64_UEFI: ("snponly.efi", "ipxe.efi"),
        Architecture.ARM64_UEFI: ("snponly-arm64.efi", "ipxe-arm64.efi"),
        Architecture.ARM32_UEFI: ("snponly-arm32.efi", "ipxe-arm32.efi"),
        Architecture.RISCV32_UEFI: ("snponly-riscv32.efi", "ipxe-riscv32.efi"),
        Architecture.RISCV64_UEFI: ("snponly-riscv64.efi", "ipxe-riscv64.efi"),
        Architecture.LOONGARCH64_UEFI: ("snponly-loong64.efi", "ipxe-loong64.efi"),
    }
)
"""The boot loaders for each architecture by file name, the better one first."""

GRUBS: Mapping[Architecture, tuple[str, ...]] = MappingProxyType(
    {
        # The signed ones also start where Secure Boot is on.
        Architecture.X64_UEFI: ("grubnetx64.efi.signed", "grubnetx64.efi"),
        Architecture.ARM64_UEFI: ("grubnetaa64.efi.signed", "grubnetaa64.efi"),
    }
)
"""Debian's GRUBs that load by network, for each architecture by file name, the better one first."""

MACHINES: Mapping[Architecture, str] = MappingProxyType(
    {
        # Firmware of 32 bits on a machine of 64, as far as anybody can tell.
        Architecture.X86_BIOS: "amd64",
        Architecture.X86_UEFI: "amd64",
        Architecture.X64_UEFI: "amd64",
        Architecture.ARM64_UEFI: "arm64",
    }
)
"""What Debian, and so an image, calls the machines with firmware of each architecture."""

STUBS: Mapping[Architecture, str] = MappingProxyType(
    {
        Architecture.X64_UEFI: "linuxx64.efi.stub",
        Architecture.ARM64_UEFI: "linuxaa64.efi.stub",
    }
)
"""systemd's UEFI stub for each architecture that can boot a unified kernel image."""

LOADER_NAMES = frozenset(name for names in (*LOADERS.values(), *GRUBS.values()) for name in names)
NODE_FILES = "node.cpio"
"""What the ramdisk with a node's own files is called."""
HOLD_S = 15
"""Seconds a node waits before it asks again when its boot cannot go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """This server as a client on one network sees it."""

    address: IPv4Address
    """Ours on that network: TFTP server and DHCP server identifier."""
    http_port: int

    @property
    def url(self) -> str:
        """`http://10.77.0.1:8080`, without a slash at its end."""
        port = "" if self.http_port == 80 else f":{self.http_port}"
        return f"http://{self.address}{port}"

    def script_url(self, mac: MacAddress, machine: str = "") -> str:
        """Where the boot script of this MAC is; `machine` is one of MACHINES, where it matters."""
        query = f"?machine={machine}" if machine else ""
        return f"{self.url}/boot/{mac.hyphenated}.ipxe{query}"

    def node_files_url(self, mac: MacAddress, image: str) -> str:
        """Where the ramdisk of this MAC's own files is; `image` is NAME/VERSION."""
        return f"{self.url}/boot/{mac.hyphenated}/{image}/{NODE_FILES}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnifiedPath:
    """Where the unified kernel image of one node is, by TFTP and behind the URL of its `Site`.

    The version stands in it: firmware asks for the size before it asks for the file, and both
    have to be of the same image though another was published in between.
    """

    mac: MacAddress
    version: str

    def __str__(self) -> str:
        return f"boot/{self.mac.hyphenated}/{self.version}.efi"

    @classmethod
    def parse(cls, name: str) -> UnifiedPath | None:
        """Read what a client asks for; None if it is something else."""
        match = _UNIFIED_PATH.fullmatch(name.replace("\\", "/").lstrip("/").lower())
        return cls(mac=MacAddress.parse(match[1]), version=match[2]) if match else None


_UNIFIED_PATH = re.compile(r"boot/((?:[0-9a-f]{2}-){5}[0-9a-f]{2})/([0-9a-f]+)\.efi")


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFile:
    """What DHCP tells a client to boot."""

    name: str
    """A TFTP path, or a URL; empty for who asks our TFTP server for names of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoBoot:
    """The client gets no boot file, and why."""

    reason: str


def decide_boot(
    client: Client,
    node: Node | None,
    site: Site,
    *,
    loaders: Collection[str],
    images: ImageFinder,
    is_spent: bool,
) -> BootFile | NoBoot:
    """The boot file for this voice of this machine.

    `loaders` are the names in LOADER_NAMES that can be served; `images` finds images; `is_spent`
    says that the node's `boot: once` was used up.
    """
    if node is None:
        return NoBoot(reason="it is not in the node table")
    is_local = boots_locally(node, is_spent=is_spent)
    if not client.boots:
        # A switch looks for its set-up script in option 67, and says nothing of booting.
        if node.boot_file is None or is_local:
            return NoBoot(reason="it does not ask to boot")
        return BootFile(name=node.boot_file)
    if client.speaker is Speaker.IPXE and (is_local or _is_past_boot_file(node)):
        # A script can start the local disk; an empty answer would leave iPXE at its prompt.
        return _for_ipxe(client, site, loaders, None if is_local else _image(client, node, images))
    if is_local:
        # Without a boot file every firmware goes on to its next boot device.
        return NoBoot(reason="it boots from its local disk")
    return _named(client, node, site) or _from_image(client, node, site, loaders, images)


def _from_image(
    client: Client, node: Node, site: Site, loaders: Collection[str], images: ImageFinder
) -> BootFile | NoBoot:
    """What firmware loads to get at the node's image: a unified kernel image, or a loader."""
    image = _image(client, node, images)
    if isinstance(image, NoBoot):
        return image
    unified = _unified(client, node, site, image)
    if isinstance(unified, BootFile):
        return unified
    # iPXE can start what is no unified kernel image, or wait for one with the reason on its screen.
    wanted = node.loader or (image.loader if isinstance(image, ImageFiles) else None)
    loader = _loader(client, site, loaders, wanted=wanted)
    if isinstance(loader, NoBoot) and unified is not None:
        return NoBoot(reason=f"{unified.reason}; {loader.reason}")
    return loader


def _named(client: Client, node: Node, site: Site) -> BootFile | None:
    """What the node's own entry names, or nothing at all for who names it himself."""
    if client.speaker is Speaker.RASPBERRY_PI:
        # It reads no file name: start4.elf, config.txt and the kernel are its own choice.
        return BootFile(name="")
    if node.boot_file is not None:
        return BootFile(name=_as_client_reads(node.boot_file, client, site))
    if client.speaker is Speaker.UBOOT:
        # Its own script looks for pxelinux.cfg/… or boot.scr on the server that siaddr names.
        return BootFile(name="")
    return None


def _image(client: Client, node: Node, images: ImageFinder) -> ImageFiles | NoBoot | str | None:
    """What the client would start in the end, or why there is no such image.

    NoBoot if it is for other machines; None where that cannot be told.
    """
    machine = _machine(client)
    if not machine or node.image is None:
        return None
    image = images(node.image)
    if isinstance(image, ImageFiles) and image.architecture != machine:
        return NoBoot(reason=_misfit_reason(image, machine, node))
    return image


def _machine(client: Client) -> str:
    """What the machine is, one of MACHINES; empty if that is unknown."""
    return MACHINES.get(client.architecture.base, "") if client.architecture is not None else ""


def _misfit_reason(image: ImageFiles, machine: str, node: Node) -> str:
    return (
        f"image '{image.name}' is for {image.architecture}, and this machine is {machine}: "
        f"give {node.name} an image for {machine}"
    )


def _unified(
    client: Client, node: Node, site: Site, image: ImageFiles | str | None
) -> BootFile | NoBoot | None:
    """The node's unified kernel image, or why it has none; None if it needs none."""
    stub = STUBS.get(client.architecture.base) if client.architecture is not None else None
    if stub is None or image is None or node.loader is Loader.IPXE:
        return None
    if isinstance(image, str):
        return NoBoot(reason=image) if node.loader is Loader.UKI else None
    if (node.loader or image.loader) is not Loader.UKI:
        return None
    if image.stub != stub:
        return NoBoot(reason=image.without_stub or f"its UEFI stub is {image.stub}, not {stub}")
    path = str(UnifiedPath(mac=client.mac, version=image.version))
    is_http = client.speaker is Speaker.HTTP_BOOT
    return BootFile(name=f"{site.url}/{path}" if is_http else path)


def boots_locally(node: Node, *, is_spent: bool) -> bool:
    """Whether the node's next boot is from its own disk."""
    return node.boot is Boot.LOCAL or (node.boot is Boot.ONCE and is_spent)


# A loader by its file name: ipxe.efi, undionly.kpxe, ipxe-arm64.efi; not menu.ipxe.
_IPXE_BINARY = re.compile(r"(ipxe|undionly|snponly)[^/]*\.(efi|k*pxe|0|lkrn)", re.IGNORECASE)
_PROGRAM = re.compile(r"\.(efi|k*pxe|0|lkrn)$", re.IGNORECASE)


def _is_past_boot_file(node: Node) -> bool:
    """Whether iPXE gets a script rather than the node's own boot file.

    A boot file that is itself an iPXE has done its work once iPXE speaks; naming it again would
    load it for ever.
    """
    return node.boot_file is None or bool(_IPXE_BINARY.fullmatch(node.boot_file.rpartition("/")[2]))


def _for_ipxe(
    client: Client,
    site: Site,
    loaders: Collection[str],
    image: ImageFiles | NoBoot | str | None,
) -> BootFile | NoBoot:
    is_misfit = isinstance(image, NoBoot)
    if client.can_run_our_scripts:
        # Why it cannot boot stands on its screen only if a script says so.
        return BootFile(name=site.script_url(client.mac, _machine(client) if is_misfit else ""))
    if isinstance(image, NoBoot):
        return image
    loader = _loader(client, site, loaders, wanted=Loader.IPXE)
    if isinstance(loader, NoBoot):
        return loader
    # A stripped iPXE reads a bare path relative to what it loaded last; a whole URI is safe.
    if client.features and IpxeFeature.TFTP not in client.features:
        if IpxeFeature.HTTP not in client.features:
            return NoBoot(reason="this iPXE was built without TFTP and HTTP: it can fetch nothing")
        return BootFile(name=f"{site.url}/loaders/{loader.name}")
    return BootFile(name=f"tftp://{site.address}/{loader.name}")


# Programs that are no iPXE, whatever they are told to load next.
_NO_IPXE = re.compile(r"l?pxelinux|syslinux|grub|core\.|shim|wdsnbp|bootmgfw", re.IGNORECASE)


def _may_circle(boot: BootFile, node: Node, script_url: str) -> bool:
    """Whether an iPXE that loads this may come back as it was: it may itself be an iPXE."""
    if boot.name != node.boot_file:
        return not boot.name.startswith(script_url)
    file = boot.name.rpartition("/")[2]
    return bool(_PROGRAM.search(file)) and not _NO_IPXE.match(file)


def circle_reason(boot: BootFile, node: Node) -> str:
    """Why a client that this boot file brings back as it was is sent it no more."""
    what = f"it was sent {boot.name} {CHAINS_MAX} times and each time came back as it was"
    if node.boot_file == boot.name:
        return (
            f"{what}: if that is an iPXE, give it a name that begins with ipxe; if not, name "
            f"another boot_file for {node.name} in nodes.yaml"
        )
    return (
        f"{what}, an iPXE that cannot run our scripts: put an iPXE with HTTP and bzImage into the "
        f"`files` folder under that name, or name another boot_file for {node.name} in nodes.yaml"
    )


def _as_client_reads(name: str, client: Client, site: Site) -> str:
    """A file of ours as this client is told of it: HTTP Boot takes nothing but a URL."""
    if client.speaker is not Speaker.HTTP_BOOT or "://" in name:
        return name
    folder = "loaders" if name in LOADER_NAMES else "files"
    return f"{site.url}/{folder}/{name.lstrip('/')}"


def _loader(
    client: Client, site: Site, loaders: Collection[str], *, wanted: Loader | None
) -> BootFile | NoBoot:
    """GRUB where it is wanted and can be, else iPXE; GRUB where there is no iPXE."""
    if client.architecture is None:
        return NoBoot(reason=f"its architecture is unknown ({client.vendor_class!r})")
    names, grubs = (kinds.get(client.architecture.base, ()) for kinds in (LOADERS, GRUBS))
    if wanted is Loader.GRUB and grubs:
        if client.speaker is Speaker.HTTP_BOOT:
            return NoBoot(reason="GRUB boots by PXE only: switch HTTP Boot off, or `loader: uki`")
        names = grubs
    elif wanted is not Loader.IPXE and client.speaker is not Speaker.HTTP_BOOT:
        names += grubs
    for name in names:
        if name in loaders:
            return BootFile(name=_as_client_reads(name, client, site))
    folder = "into the `files` folder"
    remedy = f"put {' or '.join(names)} {folder}"
    if not names:
        remedy = f"put one {folder} and name it as the node's boot_file"
    return NoBoot(reason=f"there is no boot loader for {client.architecture.name}: {remedy}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RootFile:
    """The root file system of an image, as init needs to know it."""

    format: str
    """What init makes of it: `squashfs`, `erofs`, `tar.xz`, `tar.zst`, `cpio`."""
    file: str
    """The file beside the kernel that init fetches, or the path where the ramdisk has it."""
    is_fetched: bool
    """Whether init fetches it."""
    size_bytes: int
    sha256: str
    ram_bytes: int
    """Memory that it takes, without what the node writes."""

    @property
    def is_file(self) -> bool:
        """Whether init sees a file; a cpio is a folder by then."""
        return self.format != "cpio"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles:
    """One version of an image, as a boot script needs it."""

    name: str
    version: str
    architecture: str = "amd64"
    """Of the machines that it is for, as Debian calls it."""
    kernel: str
    """File name of the kernel."""
    initrds: tuple[str, ...]
    """File names of the ramdisks, in the order they are unpacked."""
    kernel_args: tuple[str, ...]
    kernel_release: str = ""
    """What `uname -r` says on the node."""
    root: RootFile | None = None
    """None when the ramdisk is all there is."""
    has_node_files: bool = False
    """Whether a ramdisk with files of the node's own follows."""
    loader: Loader | None = None
    """How nodes that don't say otherwise get to the kernel."""
    stub: str | None = None
    """File name of the UEFI stub for unified kernel images."""

    @property
    def without_stub(self) -> str | None:
        """A sentence that says so, and the remedy; None for an image that has its stub."""
        if self.stub is not None:
            return None
        return (
            f"image '{self.name}' has no UEFI stub for `loader: uki`, it is of an old build: "
            f"run `bootnode image build {self.name}`"
        )


ImageFinder = Callable[[str], ImageFiles | str]
"""The current version of an image, or a sentence that says why there is none."""


def no_images(name: str) -> str:
    """The finder where there is no store of images."""
    return f"there is no image '{name}'"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBoot:
    """Start this image."""

    node: str
    mac: MacAddress
    site: Site
    image: ImageFiles
    kernel_args: tuple[str, ...]
    """The node's own, after those of the image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalBoot:
    """Start the local disk."""

    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Say why nothing can be started, wait, and ask again."""

    node: str
    mac: MacAddress
    site: Site
    reason: str
    machine: str = ""
    """What the machine said that it is, one of MACHINES."""


ScriptPlan = ImageBoot | LocalBoot | Hold


def decide_script(
    node: Node | None,
    mac: MacAddress,
    site: Site,
    *,
    image: ImageFiles | str,
    is_spent: bool,
    machine: str = "",
) -> ScriptPlan:
    """What the boot script of this MAC does.

    `image` is the current version of the node's image, or a sentence that says why there is none;
    `machine` is one of MACHINES if the client was told to say so, for the image may be for others.
    """
    if node is None:
        return Hold(node="unknown", mac=mac, site=site, reason=f"{mac} is not in the node table")
    if boots_locally(node, is_spent=is_spent):
        return LocalBoot(node=node.name)
    if not isinstance(image, str) and machine not in ("", image.architecture):
        image = _misfit_reason(image, machine, node)
    if isinstance(image, str):
        return Hold(node=node.name, mac=mac, site=site, reason=image, machine=machine)
    return ImageBoot(node=node.name, mac=mac, site=site, image=image, kernel_args=node.kernel_args)


@dataclass(slots=True, kw_only=True)
class Policy:
    """What every protocol asks: the decisions above, over the tables as they are now."""

    table: NodeTable
    """Replaced as a whole by a reload."""
    loaders: frozenset[str]
    """The names in LOADER_NAMES that can be served."""
    images: ImageFinder = no_images
    spent: set[tuple[str, str]] = field(default_factory=set)
    """(node, image) of each `boot: once` that was used up."""
    chains: ChainLoads = field(default_factory=ChainLoads)
    """Who was sent a boot program lately."""

    def boot_file(self, client: Client, site: Site) -> BootFile | NoBoot:
        """The boot file for this client; see `decide_boot`."""
        node = self.table.to_boot(client.mac)
        return decide_boot(
            client,
            node,
            site,
            loaders=self.loaders,
            images=self.images,
            is_spent=self.is_spent(node),
        )

    def follow_chain(
        self, client: Client, site: Site, *, xid: int, is_discover: bool, now: float
    ) -> tuple[Client, BootFile | NoBoot]:
        """The boot file for an answer, and the client: marked if that file sends it in circles.

        To be asked once for each message that is answered.
        """
        boot, mac = self.boot_file(client, site), client.mac
        node = self.table.to_boot(mac)
        if client.speaker is not Speaker.IPXE or node is None:
            return client, boot
        if isinstance(boot, NoBoot) or not _may_circle(boot, node, site.script_url(mac)):
            self.chains.forget(mac)
            return client, boot
        if not self.chains.is_circle(mac, boot.name, xid=xid, is_discover=is_discover, now=now):
            return client, boot
        return replace(client, is_circling=True), NoBoot(reason=circle_reason(boot, node))

    def is_spent(self, node: Node | None) -> bool:
        """Whether this node's `boot: once` was used up for its image; never for no node."""
        if node is None or node.boot is not Boot.ONCE:
            return False
        return (node.name, node.image or "") in self.spent

    def name(self, mac: MacAddress) -> str:
        """The node's name, or the MAC of one outside the table."""
        node = self.table.by_mac(mac)
        return node.name if node is not None else str(mac)

"""Boot decisions: what each voice of a node is told, and what its script shall do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from bootnode.addresses import MacAddress
from bootnode.boot import ipxe
from bootnode.boot.client import Client, Speaker, classify
from bootnode.boot.plan import (
    LOADER_NAMES,
    BootFile,
    Hold,
    ImageBoot,
    ImageFiles,
    LocalBoot,
    NoBoot,
    Policy,
    Site,
    UnifiedPath,
    decide_boot,
    decide_script,
    no_images,
)
from bootnode.dhcp.packet import Packet
from bootnode.dhcp.pxe import Architecture, IpxeFeature
from bootnode.nodes import Boot, Loader, Node, NodeTable

Capture = Callable[[str], Packet]

MAC = MacAddress.parse("52:54:00:12:34:56")
SITE = Site(address=IPv4Address("10.77.0.1"), http_port=8080)
SCRIPT = "http://10.77.0.1:8080/boot/52-54-00-12-34-56.ipxe"
NODE = Node(
    name="n1",
    macs=(MAC,),
    addresses={},
    image="failsafe",
    kernel_args=("quiet",),
    boot=Boot.NETWORK,
    boot_file=None,
    vars={},
)
IMAGE = ImageFiles(
    name="failsafe",
    version="0123456789abcdef",
    kernel="vmlinuz",
    initrds=("initrd.img",),
    kernel_args=("console=ttyS0",),
)

BIOS = "asrock_bios_pxe_discover"
UEFI = "dell_uefi_x64_pxe_discover"
HTTP = "edk2_x64_http_discover"
IPXE_BIOS = "ipxe_2.0.0_bios_qemu_discover"
IPXE_UEFI = "ipxe_2019_uefi_x64_discover"
IPXE_STRIPPED = "ipxe_port4011_boot_item_request"
WINDOWS = "windows_msft5_discover"
UNDIONLY = "tftp://10.77.0.1/undionly.kpxe"


def client_of(packet: Packet) -> Client:
    return classify(packet, MAC)


def decided(client: Client, node: Node | None, **changes: Any) -> str:
    """The boot file, or the reason why there is none in brackets."""
    arguments: dict[str, Any] = {"loaders": LOADER_NAMES, "images": no_images, "is_spent": False}
    arguments |= changes
    boot = decide_boot(client, node, SITE, **arguments)
    return boot.name if isinstance(boot, BootFile) else f"({boot.reason})"


LOCAL = "(it boots from its local disk)"


@pytest.mark.parametrize(
    ("changes", "is_spent", "expected"),
    [
        (
            {},
            False,
            {
                BIOS: "undionly.kpxe",
                UEFI: "snponly.efi",
                HTTP: "http://10.77.0.1:8080/loaders/snponly.efi",
                IPXE_BIOS: SCRIPT,
                IPXE_UEFI: SCRIPT,
                IPXE_STRIPPED: UNDIONLY,
                WINDOWS: "(it does not ask to boot)",
            },
        ),
        (
            {"boot": Boot.LOCAL},
            False,
            {BIOS: LOCAL, UEFI: LOCAL, HTTP: LOCAL, IPXE_BIOS: SCRIPT, IPXE_STRIPPED: UNDIONLY},
        ),
        ({"boot": Boot.ONCE}, False, {BIOS: "undionly.kpxe", IPXE_UEFI: SCRIPT}),
        ({"boot": Boot.ONCE}, True, {BIOS: LOCAL, HTTP: LOCAL, IPXE_UEFI: SCRIPT}),
        # `spent` says nothing about a node that is not on `once`.
        ({"boot": Boot.NETWORK}, True, {BIOS: "undionly.kpxe"}),
        (
            {"boot_file": "http://boot/grubx64.efi"},
            False,
            {
                UEFI: "http://boot/grubx64.efi",
                HTTP: "http://boot/grubx64.efi",
                IPXE_UEFI: "http://boot/grubx64.efi",
                IPXE_STRIPPED: "http://boot/grubx64.efi",
                WINDOWS: "http://boot/grubx64.efi",
            },
        ),
        # iPXE that was told to load an iPXE would load it for ever.
        (
            {"boot_file": "custom/IPXE-arm.efi"},
            False,
            {UEFI: "custom/IPXE-arm.efi", IPXE_UEFI: SCRIPT},
        ),
        (
            {"boot_file": "/grub/grubx64.efi"},
            False,
            {
                UEFI: "/grub/grubx64.efi",
                HTTP: "http://10.77.0.1:8080/files/grub/grubx64.efi",
            },
        ),
        (
            {"boot_file": "ipxe.efi"},
            False,
            {UEFI: "ipxe.efi", HTTP: "http://10.77.0.1:8080/loaders/ipxe.efi"},
        ),
        ({"boot_file": "undionly.0"}, False, {BIOS: "undionly.0", IPXE_BIOS: SCRIPT}),
        ({"boot_file": "menu.ipxe"}, False, {BIOS: "menu.ipxe", IPXE_BIOS: "menu.ipxe"}),
        ({"boot_file": "ipxe-menu.ipxe"}, False, {IPXE_BIOS: "ipxe-menu.ipxe"}),
        ({"boot_file": "http://ipxe/a.efi"}, False, {IPXE_UEFI: "http://ipxe/a.efi"}),
        # The local disk goes before the boot file.
        (
            {"boot": Boot.LOCAL, "boot_file": "grubx64.efi"},
            False,
            {UEFI: LOCAL, IPXE_UEFI: SCRIPT},
        ),
    ],
)
def test_boot_file_of_each_client(
    capture: Capture, changes: dict[str, Any], is_spent: bool, expected: dict[str, str]
) -> None:
    node = replace(NODE, **changes)
    got = {name: decided(client_of(capture(name)), node, is_spent=is_spent) for name in expected}
    assert got == expected


def test_a_stranger_boots_nothing(capture: Capture) -> None:
    assert decided(client_of(capture(BIOS)), None) == "(it is not in the node table)"


NO_LOADER = "there is no boot loader for"
IN_FILES = "into the `files` folder"


def firmware(architecture: Architecture | None, speaker: Speaker = Speaker.FIRMWARE) -> Client:
    return Client(
        mac=MAC,
        speaker=speaker,
        architecture=architecture,
        features=frozenset(),
        vendor_class="PXEClient\n",
    )


@pytest.mark.parametrize(
    ("architecture", "loaders", "expected"),
    [
        (Architecture.X86_BIOS, {"undionly.kpxe", "ipxe.pxe"}, "undionly.kpxe"),
        (Architecture.X86_BIOS, {"ipxe.pxe", "ipxe.efi"}, "ipxe.pxe"),
        (Architecture.X64_UEFI, {"ipxe.efi", "undionly.kpxe"}, "ipxe.efi"),
        (Architecture.EBC, {"snponly.efi", "ipxe.efi"}, "snponly.efi"),
        (Architecture.X86_UEFI, LOADER_NAMES, "snponly-ia32.efi"),
        (Architecture.ARM64_UEFI, LOADER_NAMES, "snponly-arm64.efi"),
        (Architecture.ARM32_UEFI, {"ipxe-arm32.efi"}, "ipxe-arm32.efi"),
        (Architecture.RISCV64_UEFI, LOADER_NAMES, "snponly-riscv64.efi"),
        (Architecture.LOONGARCH64_UEFI, LOADER_NAMES, "snponly-loong64.efi"),
        (
            Architecture.ARM64_UEFI,
            {"snponly.efi"},
            (
                f"({NO_LOADER} ARM64_UEFI: put snponly-arm64.efi or ipxe-arm64.efi or "
                f"grubnetaa64.efi.signed or grubnetaa64.efi {IN_FILES})"
            ),
        ),
        (
            Architecture.ITANIUM,
            LOADER_NAMES,
            f"({NO_LOADER} ITANIUM: put one {IN_FILES} and name it as the node's boot_file)",
        ),
        (None, LOADER_NAMES, "(its architecture is unknown ('PXEClient\\n'))"),
    ],
)
def test_loader_for_an_architecture(
    architecture: Architecture | None, loaders: frozenset[str], expected: str
) -> None:
    assert decided(firmware(architecture), NODE, loaders=loaders) == expected


def test_a_stripped_ipxe_without_a_loader_boots_nothing() -> None:
    client = firmware(Architecture.X86_BIOS, Speaker.IPXE)
    assert decided(client, NODE, loaders=set()) == (
        f"({NO_LOADER} X86_BIOS: put undionly.kpxe or ipxe.pxe {IN_FILES})"
    )


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ((), "tftp://10.77.0.1/undionly.kpxe"),
        ((IpxeFeature.TFTP,), "tftp://10.77.0.1/undionly.kpxe"),
        ((IpxeFeature.HTTP, IpxeFeature.TFTP), "tftp://10.77.0.1/undionly.kpxe"),
        ((IpxeFeature.HTTP,), "http://10.77.0.1:8080/loaders/undionly.kpxe"),
        (
            (IpxeFeature.BZIMAGE,),
            "(this iPXE was built without TFTP and HTTP: it can fetch nothing)",
        ),
        ((IpxeFeature.HTTP, IpxeFeature.BZIMAGE), SCRIPT),
    ],
)
def test_how_a_stripped_ipxe_gets_ours(features: tuple[int, ...], expected: str) -> None:
    client = replace(
        firmware(Architecture.X86_BIOS, Speaker.IPXE), features=frozenset(map(int, features))
    )
    assert decided(client, NODE) == expected


@pytest.mark.parametrize(
    ("speaker", "changes", "expected"),
    [
        # "" is an offer that names our TFTP server and no file.
        (Speaker.RASPBERRY_PI, {}, ""),
        (Speaker.RASPBERRY_PI, {"boot_file": "a.efi"}, ""),
        (Speaker.RASPBERRY_PI, {"boot": Boot.LOCAL}, LOCAL),
        (Speaker.UBOOT, {}, ""),
        (Speaker.UBOOT, {"boot_file": "boot.scr.uimg"}, "boot.scr.uimg"),
        (Speaker.UBOOT, {"boot": Boot.LOCAL}, LOCAL),
    ],
)
def test_who_looks_for_files_of_its_own(
    speaker: Speaker, changes: dict[str, Any], expected: str
) -> None:
    assert decided(firmware(None, speaker), replace(NODE, **changes)) == expected


@pytest.mark.parametrize(
    ("port", "url"), [(80, "http://10.77.0.1"), (8080, "http://10.77.0.1:8080")]
)
def test_site(port: int, url: str) -> None:
    site = Site(address=IPv4Address("10.77.0.1"), http_port=port)
    assert site.url == url
    assert site.script_url(MAC) == f"{url}/boot/52-54-00-12-34-56.ipxe"


IMAGE_BOOT = ImageBoot(node="n1", mac=MAC, site=SITE, image=IMAGE, kernel_args=("quiet",))


@pytest.mark.parametrize(
    ("changes", "image", "is_spent", "expected"),
    [
        ({}, IMAGE, False, IMAGE_BOOT),
        ({"boot": Boot.ONCE}, IMAGE, False, IMAGE_BOOT),
        ({"boot": Boot.ONCE}, IMAGE, True, LocalBoot(node="n1")),
        ({"boot": Boot.LOCAL}, IMAGE, False, LocalBoot(node="n1")),
        # A node that boots locally needs no image.
        ({"boot": Boot.LOCAL}, "not built", False, LocalBoot(node="n1")),
        ({}, "not built", False, Hold(node="n1", mac=MAC, site=SITE, reason="not built")),
    ],
)
def test_script(
    changes: dict[str, Any], image: ImageFiles | str, is_spent: bool, expected: object
) -> None:
    node = replace(NODE, **changes)
    assert decide_script(node, MAC, SITE, image=image, is_spent=is_spent) == expected


def test_script_of_a_stranger() -> None:
    reason = "52:54:00:12:34:56 is not in the node table"
    assert decide_script(None, MAC, SITE, image=IMAGE, is_spent=False) == Hold(
        node="unknown", mac=MAC, site=SITE, reason=reason
    )


def test_policy_asks_the_table_as_it_is_now(capture: Capture) -> None:
    client = client_of(capture(BIOS))
    policy = Policy(table=NodeTable(), loaders=LOADER_NAMES)
    assert policy.boot_file(client, SITE) == NoBoot(reason="it is not in the node table")
    assert policy.name(MAC) == "52:54:00:12:34:56"
    policy.table = NodeTable((replace(NODE, boot=Boot.ONCE),))
    assert policy.boot_file(client, SITE) == BootFile(name="undionly.kpxe")
    assert policy.name(MAC) == "n1"
    policy.spent.add(("n1", "failsafe"))
    assert policy.boot_file(client, SITE) == NoBoot(reason="it boots from its local disk")


@pytest.mark.parametrize(
    ("changes", "is_spent"),
    [
        ({"boot": Boot.ONCE}, True),
        ({"boot": Boot.ONCE, "image": "another"}, False),  # a new image boots once more
        ({"boot": Boot.NETWORK}, False),
        ({"boot": Boot.ONCE, "image": None}, False),
    ],
)
def test_boot_once_is_spent_for_one_image(changes: dict[str, Any], is_spent: bool) -> None:
    policy = Policy(table=NodeTable(), loaders=LOADER_NAMES, spent={("n1", "failsafe")})
    assert policy.is_spent(replace(NODE, **changes)) is is_spent


# Unified kernel images

UNIFIED = "boot/52-54-00-12-34-56/0123456789abcdef.efi"
X64_IMAGE = replace(IMAGE, stub="linuxx64.efi.stub")
ARM64_IMAGE = replace(IMAGE, stub="linuxaa64.efi.stub", architecture="arm64")
ARM64_HTTP = firmware(Architecture.ARM64_UEFI_HTTP, Speaker.HTTP_BOOT)


@pytest.mark.parametrize(
    ("wanted", "image", "is_unified"),
    [
        (Loader.UKI, X64_IMAGE, True),
        (None, replace(X64_IMAGE, loader=Loader.UKI), True),
        (Loader.UKI, replace(X64_IMAGE, loader=Loader.IPXE), True),
        (Loader.IPXE, replace(X64_IMAGE, loader=Loader.UKI), False),
        (None, replace(X64_IMAGE, loader=Loader.IPXE), False),
        (None, X64_IMAGE, False),
        # iPXE starts these all the same, or says on the screen what they wait for.
        (Loader.UKI, IMAGE, False),
        (Loader.UKI, replace(X64_IMAGE, stub="linuxaa64.efi.stub"), False),
        (Loader.UKI, "image 'failsafe' is not built", False),
        (None, "image 'failsafe' is not built", False),
    ],
)
def test_who_boots_a_unified_kernel_image(
    capture: Capture, wanted: Loader | None, image: ImageFiles | str, is_unified: bool
) -> None:
    names = (UEFI, HTTP, BIOS, IPXE_UEFI, IPXE_BIOS, WINDOWS)
    node = replace(NODE, loader=wanted)
    got = [decided(client_of(capture(name)), node, images=lambda _: image) for name in names]
    own = [decided(client_of(capture(name)), NODE) for name in names]
    if is_unified:
        own[:2] = [UNIFIED, f"http://10.77.0.1:8080/{UNIFIED}"]
    assert got == own


@pytest.mark.parametrize(
    ("client", "image", "expected"),
    [
        (firmware(Architecture.EBC), X64_IMAGE, UNIFIED),
        (firmware(Architecture.ARM64_UEFI), ARM64_IMAGE, UNIFIED),
        (ARM64_HTTP, ARM64_IMAGE, f"http://10.77.0.1:8080/{UNIFIED}"),
        (firmware(Architecture.X86_UEFI), X64_IMAGE, "snponly-ia32.efi"),
    ],
)
def test_unified_kernel_images_by_architecture(
    client: Client, image: ImageFiles, expected: str
) -> None:
    node = replace(NODE, loader=Loader.UKI)
    assert decided(client, node, images=lambda _: image) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"boot": Boot.LOCAL}, LOCAL),
        ({"boot_file": "grubx64.efi"}, "grubx64.efi"),
        ({"image": None}, "snponly.efi"),
    ],
)
def test_what_goes_before_a_unified_kernel_image(changes: dict[str, Any], expected: str) -> None:
    node = replace(NODE, loader=Loader.UKI, **changes)
    assert decided(firmware(Architecture.X64_UEFI), node, images=lambda _: X64_IMAGE) == expected


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (
            replace(IMAGE, architecture="arm64"),
            (
                "image 'failsafe' has no UEFI stub for `loader: uki`, it is of an old build: run "
                "`bootnode image build failsafe`"
            ),
        ),
        (
            replace(X64_IMAGE, architecture="arm64"),
            "its UEFI stub is linuxx64.efi.stub, not linuxaa64.efi.stub",
        ),
        ("image 'failsafe' is not built", "image 'failsafe' is not built"),
    ],
)
def test_with_neither_image_nor_ipxe_both_reasons_are_given(
    image: ImageFiles | str, reason: str
) -> None:
    node = replace(NODE, loader=Loader.UKI)
    got = decided(ARM64_HTTP, node, images=lambda _: image, loaders=())
    assert got.startswith(f"({reason}; {NO_LOADER} ARM64_UEFI_HTTP: put ")


ARM64 = firmware(Architecture.ARM64_UEFI)
X64 = firmware(Architecture.X64_UEFI)


@pytest.mark.parametrize("wanted", [None, *Loader])
def test_an_image_for_other_machines_is_given_to_none(wanted: Loader | None) -> None:
    node = replace(NODE, loader=wanted)
    assert decided(ARM64, node, images=lambda _: X64_IMAGE) == (
        "(image 'failsafe' is for amd64, and this machine is arm64: give n1 an image for arm64)"
    )
    assert decided(X64, node, images=lambda _: ARM64_IMAGE).startswith("(image 'failsafe' is for")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (BIOS, "(image"),
        (UEFI, "(image"),
        (HTTP, "(image"),
        (IPXE_STRIPPED, "(image"),
        # Its screen can say why.
        (IPXE_BIOS, f"{SCRIPT}?machine=amd64"),
        (IPXE_UEFI, f"{SCRIPT}?machine=amd64"),
    ],
)
def test_who_is_told_that_an_image_is_for_other_machines(
    capture: Capture, name: str, expected: str
) -> None:
    client = client_of(capture(name))
    assert decided(client, NODE, images=lambda _: ARM64_IMAGE).startswith(expected)
    assert "machine" not in decided(client, NODE, images=lambda _: X64_IMAGE)
    local = replace(NODE, boot=Boot.LOCAL)
    assert "machine" not in decided(client, local, images=lambda _: ARM64_IMAGE)


def test_an_image_for_other_machines_reaches_no_firmware_of_32_bits() -> None:
    reason = decided(firmware(Architecture.X86_UEFI), NODE, images=lambda _: ARM64_IMAGE)
    assert reason.startswith("(image 'failsafe' is for arm64, and this machine is amd64: ")


@pytest.mark.parametrize(("machine", "fits"), [("", True), ("arm64", True), ("amd64", False)])
def test_a_script_for_another_machine_says_so(machine: str, fits: bool) -> None:
    plan = decide_script(NODE, MAC, SITE, image=ARM64_IMAGE, is_spent=False, machine=machine)
    assert isinstance(plan, ImageBoot if fits else Hold)
    if isinstance(plan, Hold):
        assert plan.reason.startswith("image 'failsafe' is for arm64, and this machine is amd64")
        # It asks again by the same name: else the next script would be of the image.
        assert f"chain --replace --autofree {SCRIPT}?machine=amd64 " in ipxe.render(plan)


# GRUB

ARM64_GRUBS = {"grubnetaa64.efi", "grubnetaa64.efi.signed"}


@pytest.mark.parametrize(
    ("client", "wanted", "loaders", "expected"),
    [
        (X64, Loader.GRUB, LOADER_NAMES, "grubnetx64.efi.signed"),
        (X64, Loader.GRUB, {"grubnetx64.efi", "snponly.efi"}, "grubnetx64.efi"),
        (ARM64, Loader.GRUB, LOADER_NAMES, "grubnetaa64.efi.signed"),
        # Who asks for GRUB has a reason, Secure Boot for one: nothing takes its place.
        (
            X64,
            Loader.GRUB,
            {"snponly.efi"},
            f"({NO_LOADER} X64_UEFI: put grubnetx64.efi.signed or grubnetx64.efi {IN_FILES})",
        ),
        # There is none for a PC BIOS.
        (firmware(Architecture.X86_BIOS), Loader.GRUB, LOADER_NAMES, "undionly.kpxe"),
        (
            ARM64_HTTP,
            Loader.GRUB,
            LOADER_NAMES,
            "(GRUB boots by PXE only: switch HTTP Boot off, or `loader: uki`)",
        ),
        # It takes iPXE's place where there is none and nobody insists.
        (ARM64, None, ARM64_GRUBS, "grubnetaa64.efi.signed"),
        (ARM64, Loader.UKI, ARM64_GRUBS, "grubnetaa64.efi.signed"),
        (ARM64, None, {*ARM64_GRUBS, "ipxe-arm64.efi"}, "ipxe-arm64.efi"),
        (
            ARM64,
            Loader.IPXE,
            ARM64_GRUBS,
            f"({NO_LOADER} ARM64_UEFI: put snponly-arm64.efi or ipxe-arm64.efi {IN_FILES})",
        ),
        (
            ARM64_HTTP,
            None,
            ARM64_GRUBS,
            f"({NO_LOADER} ARM64_UEFI_HTTP: put snponly-arm64.efi or ipxe-arm64.efi {IN_FILES})",
        ),
    ],
)
def test_who_boots_by_grub(
    client: Client, wanted: Loader | None, loaders: set[str], expected: str
) -> None:
    assert decided(client, replace(NODE, loader=wanted), loaders=loaders) == expected


def test_an_image_may_ask_for_grub() -> None:
    image = replace(ARM64_IMAGE, loader=Loader.GRUB)
    assert decided(ARM64, NODE, images=lambda _: image) == "grubnetaa64.efi.signed"
    node = replace(NODE, loader=Loader.IPXE)
    assert decided(ARM64, node, images=lambda _: image) == "snponly-arm64.efi"


PATH = UnifiedPath(mac=MAC, version="0123456789abcdef")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (UNIFIED, PATH),
        (f"/{UNIFIED}", PATH),
        (f"//{UNIFIED}", PATH),
        (UNIFIED.replace("/", "\\").upper(), PATH),
        (f"x/{UNIFIED}", None),
        (f"{UNIFIED}.sig", None),
        (UNIFIED.replace("-", ":"), None),
        ("boot/52-54-00-12-34-56/current.efi", None),
        ("boot/52-54-00-12-34-56/../x.efi", None),
        ("", None),
    ],
)
def test_names_of_unified_kernel_images(name: str, path: UnifiedPath | None) -> None:
    assert UnifiedPath.parse(name) == path

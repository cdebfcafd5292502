"""Boot scripts, compared as whole texts, and what hostile words make of them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from bootnode.addresses import MacAddress
from bootnode.boot.ipxe import kernel_command_line, render
from bootnode.boot.plan import Hold, ImageBoot, ImageFiles, LocalBoot, RootFile, Site

MAC = MacAddress.parse("52:54:00:12:34:56")
SITE = Site(address=IPv4Address("10.77.0.1"), http_port=8080)
PLAN = ImageBoot(
    node="node-000",
    mac=MAC,
    site=SITE,
    image=ImageFiles(
        name="failsafe",
        version="0123456789abcdef",
        kernel="vmlinuz",
        initrds=("initrd.img",),
        kernel_args=("console=ttyS0",),
    ),
    kernel_args=("quiet", "root=LABEL=my disk"),
)

IMAGE_SCRIPT = """\
#!ipxe
echo bootnode: node-000 boots failsafe 0123456789abcdef
set tries:int32 0
:fetch
imgfree
kernel --name vmlinuz http://10.77.0.1:8080/images/failsafe/0123456789abcdef/vmlinuz \
initrd=initrd.img bootnode.server=http://10.77.0.1:8080 bootnode.node=node-000 \
bootnode.image=failsafe/0123456789abcdef BOOTIF=01-52-54-00-12-34-56 \
console=ttyS0 quiet root=LABEL=my disk || goto again
initrd --name initrd.img http://10.77.0.1:8080/images/failsafe/0123456789abcdef/initrd.img \
|| goto again
boot || goto again
:again
inc tries
iseq ${tries} 5 && goto anew ||
echo bootnode: fetch failed, trying again in 3 s
sleep 3
goto fetch
:anew
imgfree
echo bootnode: asking again in 15 s
sleep 15
chain --replace --autofree http://10.77.0.1:8080/boot/52-54-00-12-34-56.ipxe || goto anew
goto anew
"""

HOLD_SCRIPT = """\
#!ipxe
echo bootnode: node-000 waits: image 'failsafe' is not built: run `bootnode image build failsafe`
:anew
imgfree
echo bootnode: asking again in 15 s
sleep 15
chain --replace --autofree http://10.77.0.1:8080/boot/52-54-00-12-34-56.ipxe || goto anew
goto anew
"""

LOCAL_SCRIPT = """\
#!ipxe
echo bootnode: node-000 boots from its local disk
iseq ${platform} efi && exit ||
sanboot --no-describe --drive 0x80 || exit
"""

REASON = "image 'failsafe' is not built: run `bootnode image build failsafe`"


@pytest.mark.parametrize(
    ("plan", "script"),
    [
        (PLAN, IMAGE_SCRIPT),
        (Hold(node="node-000", mac=MAC, site=SITE, reason=REASON), HOLD_SCRIPT),
        (LocalBoot(node="node-000"), LOCAL_SCRIPT),
    ],
    ids=["image", "hold", "local"],
)
def test_whole_script(plan: ImageBoot | Hold | LocalBoot, script: str) -> None:
    assert render(plan) == script


def test_several_ramdisks_are_named_and_fetched_in_order() -> None:
    image = replace(PLAN.image, initrds=("a.img", "b.img"))
    plan = replace(PLAN, image=image)
    assert " initrd=a.img initrd=b.img bootnode.server=" in render(plan)
    assert kernel_command_line(plan).startswith("bootnode.server=")
    fetches = [line.split()[2] for line in render(plan).splitlines() if line.startswith("initrd")]
    assert fetches == ["a.img", "b.img"]


def test_files_of_the_node_come_last() -> None:
    plan = replace(PLAN, image=replace(PLAN.image, has_node_files=True))
    assert " initrd=initrd.img initrd=node.cpio bootnode.server=" in render(plan)
    assert " bootnode.node_files=yes console=ttyS0 " in kernel_command_line(plan)
    assert " bootnode.node_files=http://x " in kernel_command_line(plan, node_files="http://x")
    assert "node_files" not in kernel_command_line(PLAN)
    fetches = [line for line in render(plan).splitlines() if line.startswith("initrd")]
    url = "http://10.77.0.1:8080/boot/52-54-00-12-34-56/failsafe/0123456789abcdef/node.cpio"
    assert fetches[1:] == [f"initrd --name node.cpio {url} || goto again"]


def test_an_image_without_a_ramdisk() -> None:
    plan = replace(PLAN, image=replace(PLAN.image, initrds=(), kernel_args=()), kernel_args=())
    assert kernel_command_line(plan) == (
        "bootnode.server=http://10.77.0.1:8080 bootnode.node=node-000 "
        "bootnode.image=failsafe/0123456789abcdef BOOTIF=01-52-54-00-12-34-56"
    )
    assert "\ninitrd" not in render(plan)


ROOT = RootFile(
    format="squashfs",
    file="root.squashfs",
    is_fetched=True,
    size_bytes=1000,
    sha256="ab" * 32,
    ram_bytes=4096,
)
ROOT_URL = "http://10.77.0.1:8080/images/failsafe/0123456789abcdef/root.squashfs"


@pytest.mark.parametrize(
    ("root", "words"),
    [
        (
            ROOT,
            [
                "bootnode.root=squashfs",
                "bootnode.root_ram=4096",
                f"bootnode.root_url={ROOT_URL}",
                f"bootnode.root_sha256={ROOT.sha256}",
                "bootnode.root_size=1000",
            ],
        ),
        (
            replace(ROOT, file="/root.squashfs", is_fetched=False),
            [
                "bootnode.root=squashfs",
                "bootnode.root_ram=4096",
                "bootnode.root_file=/root.squashfs",
                f"bootnode.root_sha256={ROOT.sha256}",
                "bootnode.root_size=1000",
            ],
        ),
        (
            replace(ROOT, format="cpio", file="/root", is_fetched=False),
            ["bootnode.root=cpio", "bootnode.root_ram=4096", "bootnode.root_file=/root"],
        ),
    ],
    ids=["fetched by init", "in the ramdisk", "unpacked by the kernel"],
)
def test_init_is_told_of_the_root_file_system(root: RootFile, words: list[str]) -> None:
    line = kernel_command_line(replace(PLAN, image=replace(PLAN.image, root=root)))
    assert f"BOOTIF=01-52-54-00-12-34-56 {' '.join(words)} console=ttyS0" in line
    assert "bootnode.root" not in kernel_command_line(PLAN)


@pytest.mark.parametrize("plan", [PLAN, Hold(node="n", mac=MAC, site=SITE, reason=REASON)])
def test_no_script_leaves_a_dead_prompt(plan: ImageBoot | Hold) -> None:
    """Every label that is gone to is there, and the last line goes on."""
    lines = render(plan).splitlines()
    targets = {line.rpartition("goto ")[2].split()[0] for line in lines if "goto " in line}
    assert targets <= {line[1:] for line in lines if line.startswith(":")}
    assert lines[-1].startswith("goto ")
    for line in lines:
        if line.startswith(("kernel", "initrd", "boot", "chain")):
            assert "|| goto " in line


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("two\nlines\r\nshell", "two?lines??shell"),
        ("${net0/mac} $x", "?{net0/mac} ?x"),
        ("a || shell && reboot ; exit", "a ?? shell ?? reboot ? exit"),
        ("end of line \\", "end of line ?"),
        ("# comment", "? comment"),
        ("\x1b[2J\0bell\x07", "?[2J?bell?"),
        ("Grüße, 図書", "Gr??e, ??"),
        ("  many   blanks ", "many blanks"),
    ],
)
def test_a_hostile_reason_stays_an_echo(reason: str, shown: str) -> None:
    script = render(Hold(node="n", mac=MAC, site=SITE, reason=reason))
    assert script.splitlines()[1] == f"echo bootnode: n waits: {shown}"
    calm = render(Hold(node="n", mac=MAC, site=SITE, reason="x"))
    assert script.splitlines()[2:] == calm.splitlines()[2:]
    assert script.isascii()

"""A whole operating system out of RAM: power-on to systemd's `up`, memory, and rebuilds.

    make bench
    .venv/bin/python -m benchmarks.image --rounds 3
    .venv/bin/python -m benchmarks.image --formats

Three ways, one node at a time, taking turns, with the same packages, kernel and init:

- the classic recipe, served by dnsmasq and nginx: an archive of the root (tar.xz) in the ramdisk,
  unpacked by busybox;
- bootnode's own: squashfs, fetched by init from bootnoded;
- the same image given to qemu directly (`-kernel`, `-initrd`): no firmware, no boot loader, no DHCP
  before the kernel; init fetches the root as ever.

The clock runs from the start of qemu to the line `bootnode: up` on the serial console. `--formats`
builds compute in each root format and boots it once by bootnoded.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.servers import ADDRESS, BUILD, fresh_lab, start_bootnode, start_classic
from bootnode.addresses import MacAddress
from bootnode.boot import nodefiles
from bootnode.errors import ImageError
from bootnode.image.build import build_image
from bootnode.image.making import mib
from bootnode.image.rootfs import unpacked_bytes
from bootnode.image.spec import load_recipe, recipes_folder
from bootnode.image.steps import Progress
from bootnode.image.store import ImageStore, ImageVersion, RootFile
from bootnode.lab import Lab, NodeVm

MAC = MacAddress.parse("52:54:00:78:00:03")
KERNEL_ARGS = "console=ttyS0"
TIMEOUT_S = 400.0
# The classic recipe holds ramdisk, archive and what is in it at the same time.
MEMORY_MIB = 3072
CLASSIC = """\
description: the classic recipe
base: compute
root: {format: tar.xz, fetch: ramdisk}
"""
_KERNEL_LINE = re.compile(r"^kernel --name \S+ \S+ (.*?) \|\|", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """Recipes of our own, and what was built from them."""

    recipes: Path
    state: Path

    def build(
        self, name: str, seconds: dict[str, float] | None = None, begin: str | None = None
    ) -> ImageVersion:
        """Build it, from the step `begin` in any case; `seconds` gets those of each step."""

        def note(progress: Progress) -> None:
            if seconds is not None and progress.seconds is not None:
                seconds[progress.step] = progress.seconds

        recipe, cache = load_recipe(self.recipes / name), self.state / "cache"
        store = ImageStore(self.state / "images")
        return build_image(recipe, store, cache=cache, report=note, begin=begin)

    def choose_format(self, name: str) -> None:
        """Have compute's root in this format."""
        recipe = self.recipes / "compute" / "image.yaml"
        text = recipe.read_text()
        recipe.write_text(re.sub(r"(?m)^  format: .*$", f"  format: {name}", text))

    def seconds(self) -> float:
        """How long the command takes to build compute again."""
        folder = self.recipes.parent
        (folder / "bootnoded.yaml").write_text("networks: [{interface: lo, dhcp: off}]\n")
        began = time.monotonic()
        subprocess.run(
            [
                *(
                    sys.executable,
                    "-c",
                    "import sys; from bootnode.cli import main; sys.exit(main())",
                ),
                *("image", "build", str(self.recipes / "compute")),
                *("-c", str(folder / "bootnoded.yaml"), "--state-dir", str(self.state)),
            ],
            check=True,
            capture_output=True,
            timeout=TIMEOUT_S,
        )
        return time.monotonic() - began


def workshop() -> Workshop:
    """The recipes as they are now, copied so that a benchmark may change them."""
    recipes = BUILD.absolute() / "recipes"
    shutil.rmtree(recipes, ignore_errors=True)
    for name in ("compute", "init"):
        shutil.copytree(recipes_folder() / name, recipes / name)
    (recipes / "classic").mkdir()
    (recipes / "classic" / "image.yaml").write_text(CLASSIC)
    return Workshop(recipes=recipes, state=BUILD.absolute() / "state")


def main() -> None:
    """Measure, and print what came out."""
    parser = argparse.ArgumentParser(description="Power-on to up, memory, rebuilds.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto")
    parser.add_argument("--cpus", type=int, default=1, help="of the node")
    parser.add_argument("--formats", action="store_true", help="compare the root formats instead")
    arguments = parser.parse_args()
    # Minutes lie between two lines, also for who reads them from a file.
    print("command: python -m benchmarks.image " + " ".join(sys.argv[1:]), flush=True)
    shop = workshop()
    if arguments.formats:
        formats(shop, arguments)
        return
    classic, ours = shop.build("classic"), shop.build("compute")
    boots(classic, ours, arguments)
    memory(shop, ours)
    rebuilds(shop)


def boots(classic: ImageVersion, ours: ImageVersion, arguments: argparse.Namespace) -> None:
    """Print the seconds of each way, and the ratios."""
    ways: dict[str, Callable[[Lab], NodeVm]] = {
        "tar.xz in the ramdisk, dnsmasq+nginx": lambda lab: boot_classic(lab, classic),
        "squashfs, bootnode": lambda lab: boot_ours(lab, ours),
        "squashfs, qemu -kernel -initrd": lambda lab: boot_directly(lab, ours),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(arguments.rounds):
        for way, start in ways.items():
            taken[way].append(measure(start, arguments.accel, arguments.cpus))
            print(f"    {way}: {taken[way][-1]:.1f} s", flush=True)
    print(
        f"{arguments.rounds} rounds, taking turns, {arguments.cpus} CPUs; "
        "median seconds from power-on to systemd's `up`"
    )
    for way, seconds in taken.items():
        each = " ".join(f"{value:.1f}" for value in seconds)
        print(f"{way:40} {statistics.median(seconds):7.1f}   (each: {each})")
    theirs, mine, direct = (statistics.median(seconds) for seconds in taken.values())
    print(f"classic / bootnode: {theirs / mine:.2f}   bootnode / direct: {mine / direct:.2f}")


def measure(start: Callable[[Lab], NodeVm], accel: str, cpus: int) -> float:
    """Seconds from power-on to `up` of the node that `start` has made servers for."""
    with fresh_lab(accel) as lab:
        machine = lab.boot(replace(start(lab), cpus=cpus))
        machine.wait_console(r"bootnode: up ", TIMEOUT_S)
        return machine.seconds


def boot_classic(lab: Lab, image: ImageVersion) -> NodeVm:
    """dnsmasq and nginx; the script tells init what it unpacks, and no SHA-256 to check."""
    root = _root(image)
    told = (
        f"bootnode.root={root.format} bootnode.root_file={root.file} "
        f"bootnode.root_ram={root.ram_bytes}"
    )
    start_classic(lab, "undionly.kpxe", image, f"{told} {KERNEL_ARGS}")
    return NodeVm(name="node", mac=MAC, memory_mib=MEMORY_MIB)


def boot_ours(lab: Lab, image: ImageVersion) -> NodeVm:
    """bootnoded, and a node with nothing but its network card."""
    start_bootnode(lab, MAC, image, KERNEL_ARGS)
    return NodeVm(name="node", mac=MAC, memory_mib=MEMORY_MIB)


def boot_directly(lab: Lab, image: ImageVersion) -> NodeVm:
    """The kernel and its arguments from qemu instead of from the boot script."""
    start_bootnode(lab, MAC, image, KERNEL_ARGS)
    url = f"http://{ADDRESS.ip}:8080/boot/{MAC.hyphenated}.ipxe"
    script = lab.run(["curl", "--silent", "--show-error", "--fail", url], TIMEOUT_S).stdout
    line = _KERNEL_LINE.search(script)
    if line is None:
        raise ImageError(f"the boot script starts no kernel:\n{script}")
    # The ramdisk with the node's own files is for its address only, which nobody has yet.
    ramdisk = (image.folder / image.initrds[0]).read_bytes()
    initrd = lab.config.folder / "initrd.img"
    initrd.write_bytes(ramdisk + bytes(-len(ramdisk) % 4) + nodefiles.archive([], mtime=0))
    arguments = (
        *("-kernel", str(image.folder / image.kernel)),
        *("-initrd", str(initrd), "-append", line[1]),
    )
    return NodeVm(name="node", mac=MAC, memory_mib=MEMORY_MIB, arguments=arguments)


def formats(shop: Workshop, arguments: argparse.Namespace) -> None:
    """Print for each format what it costs to build, to hold and to boot."""
    print(f"{'format':10} {'archive':>9} {'file':>9} {'memory':>9} {'up':>8}")
    # tar.zst takes one package more, so it is not in the middle.
    for name in ("squashfs", "erofs", "cpio", "tar.xz", "tar.zst"):
        shop.choose_format(name)
        seconds: dict[str, float] = {}
        image = shop.build("compute", seconds, "archive")
        root = _root(image)
        up = measure(partial(boot_ours, image=image), arguments.accel, arguments.cpus)
        print(
            f"{name:10} {seconds['archive']:7.1f} s {mib(root.size_bytes):>9} "
            f"{mib(root.ram_bytes):>9} {up:6.1f} s",
            flush=True,
        )


def memory(shop: Workshop, image: ImageVersion) -> None:
    """Print what the root takes of a node's memory, beside what is in it."""
    tree = unpacked_bytes(shop.state / "cache" / image.name / "customise" / "output" / "root")
    ram = _root(image).ram_bytes
    print(f"root in memory: {mib(ram)} of a tree of {mib(tree)}: {ram / tree:.0%}")


def rebuilds(shop: Workshop) -> None:
    """Print how long the command takes when nothing has changed, and when init has."""
    print(f"a rebuild with nothing changed: {shop.seconds():.2f} s")
    with (shop.recipes / "init" / "init").open("a") as init:
        init.write("# changed\n")
    print(f"a rebuild with init changed: {shop.seconds():.2f} s")


def _root(image: ImageVersion) -> RootFile:
    if image.manifest.root is None:
        raise ImageError(f"'{image.name}' has no root file system")
    return image.manifest.root


if __name__ == "__main__":
    main()

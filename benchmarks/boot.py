"""Power-on to our init, by dnsmasq and nginx and by bootnode, on the same virtual machines.

    make bench
    .venv/bin/python -m benchmarks.boot --rounds 3
    .venv/bin/python -m benchmarks.boot --rounds 1 --only uki-http

Both serve the same kernel and ramdisk with the same kernel arguments on a VDE switch of their own,
one node at a time, taking turns. The clock runs from the start of qemu to the line `bootnode: init`
on the node's serial console. dnsmasq does DHCP and TFTP as its manual shows it for iPXE; nginx
serves script, kernel and ramdisk. nginx is unpacked from its package, never installed. Against our
unified kernel images stands the same machine with ipxe.efi, also where ours uses UEFI HTTP Boot.

Two images: Debian's kernel for virtual machines with the modules they need, and the failsafe as it
comes, with Debian's kernel for metal, which is packed by xz: under emulation it takes 3 s to unpack
itself, whoever sent it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.servers import BUILD, fresh_lab, start_bootnode, start_classic
from bootnode.addresses import MacAddress
from bootnode.image.build import build_image
from bootnode.image.spec import Recipe, load_recipe, recipes_folder
from bootnode.image.store import ImageStore, ImageVersion
from bootnode.lab import Firmware, Lab, NodeVm

TIMEOUT_S = 180.0
KERNEL_ARGS = "console=ttyS0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kind of node."""

    name: str
    firmware: Firmware
    """As bootnode's node has it; dnsmasq's has PXE."""
    loader: str
    """What dnsmasq names."""
    own_loader: str
    """What our node table names."""
    mac: MacAddress
    image: ImageVersion


BIOS = ("BIOS, iPXE in the ROM", "bios", "undionly.kpxe", "ipxe", "52:54:00:78:00:01")
# dnsmasq users take ipxe.efi, the loader of the manuals; ours chooses for itself.
UEFI = ("UEFI PXE, then iPXE", "uefi", "ipxe.efi", "ipxe", "52:54:00:78:00:02")
UKI_PXE = ("UEFI PXE, no loader", "uefi", "ipxe.efi", "uki", "52:54:00:78:00:03")
UKI_HTTP = ("UEFI HTTP, no loader", "uefi-http", "ipxe.efi", "uki", "52:54:00:78:00:04")
KINDS = {"bios": BIOS, "uefi": UEFI, "uki-pxe": UKI_PXE, "uki-http": UKI_HTTP}
CLOUD_MODULES = ("virtio_net", "virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "ext4")


def recipes() -> tuple[Recipe, Recipe]:
    """The failsafe with Debian's kernel for virtual machines, and as it comes."""
    metal = load_recipe(recipes_folder() / "failsafe")
    spec = replace(metal.kernel, package="linux-image-cloud-amd64", modules=CLOUD_MODULES)
    cloud = replace(metal, name="failsafe-cloud", kernel=spec)
    return cloud, metal


def cases(kinds: Sequence[str]) -> list[Case]:
    """Build both images, and name what is measured."""
    store = ImageStore(BUILD.absolute() / "state" / "images")
    images = [build_image(recipe, store, cache=BUILD / "cache") for recipe in recipes()]
    return [
        Case(
            name=f"{name}: {image.name}",
            firmware=firmware,  # type: ignore[arg-type]  # one of those above
            loader=loader,
            own_loader=own_loader,
            mac=MacAddress.parse(mac),
            image=image,
        )
        for name, firmware, loader, own_loader, mac in (KINDS[kind] for kind in kinds)
        for image in images
    ]


def main() -> None:
    """Measure, and print a line for each case."""
    parser = argparse.ArgumentParser(description="Power-on to init: dnsmasq and nginx, bootnode.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto")
    parser.add_argument("--only", choices=KINDS, nargs="+", default=list(KINDS), metavar="KIND")
    arguments = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    to_measure = cases(arguments.only)
    print("command: python -m benchmarks.boot " + " ".join(sys.argv[1:]))
    print(f"{arguments.rounds} rounds, taking turns; median seconds from power-on to init")
    print(f"{'':38} {'dnsmasq+nginx':>14} {'bootnode':>9} {'ratio':>6}")
    for case in to_measure:
        theirs: list[float] = []
        ours: list[float] = []
        for _ in range(arguments.rounds):
            pxe = replace(case, firmware=case.firmware if case.firmware == "bios" else "uefi")
            theirs.append(measure(pxe, arguments.accel, start_theirs))
            ours.append(measure(case, arguments.accel, start_ours))
        one, other = statistics.median(theirs), statistics.median(ours)
        print(f"{case.name:38} {one:14.1f} {other:9.1f} {one / other:6.2f}", flush=True)
        print(f"    each: {_list(theirs)}; {_list(ours)}", flush=True)


def _list(seconds: list[float]) -> str:
    return " ".join(f"{value:.1f}" for value in seconds)


def start_ours(lab: Lab, case: Case) -> None:
    """bootnoded."""
    start_bootnode(lab, case.mac, case.image, KERNEL_ARGS, loader=case.own_loader)


def start_theirs(lab: Lab, case: Case) -> None:
    """dnsmasq and nginx."""
    start_classic(lab, case.loader, case.image, KERNEL_ARGS)


def measure(case: Case, accel: str, start: Callable[[Lab, Case], None]) -> float:
    """Seconds from power-on to init of one node, with servers that `start` brings up."""
    with fresh_lab(accel) as lab:
        start(lab, case)
        vm = NodeVm(name="node", mac=case.mac, firmware=case.firmware)
        machine = lab.boot(vm)
        machine.wait_console(r"bootnode: init ", TIMEOUT_S)
        return machine.seconds


if __name__ == "__main__":
    main()

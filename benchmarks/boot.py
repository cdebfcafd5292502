"""Power-on to our init, by dnsmasq and nginx and by bootnode, on the same virtual machines.

    make bench
    .venv/bin/python -m benchmarks.boot --rounds 3

Both serve the same kernel and ramdisk with the same kernel arguments on a VDE switch of their own,
one node at a time, taking turns. The clock runs from the start of qemu to the line `bootnode: init`
on the node's serial console. dnsmasq does DHCP and TFTP as its manual shows it for iPXE; nginx
serves script, kernel and ramdisk. nginx is unpacked from its package, never installed.

Two images: Debian's kernel for virtual machines with the modules they need, and the failsafe as it
comes, with Debian's kernel for metal, which is packed by xz: under emulation it takes 3 s to unpack
itself, whoever sent it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface
from pathlib import Path

from bootnode.addresses import MacAddress
from bootnode.image.build import build_image
from bootnode.image.packages import Packages
from bootnode.image.spec import Recipe, load_recipe, recipes_folder
from bootnode.image.store import ImageStore, ImageVersion
from bootnode.lab import Firmware, Lab, LabConfig, NodeVm

BUILD = Path(".build")
ADDRESS = IPv4Interface("10.78.0.1/24")
TIMEOUT_S = 180.0
KERNEL_ARGS = "console=ttyS0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kind of node."""

    name: str
    firmware: Firmware
    loader: str
    """What dnsmasq names."""
    mac: MacAddress
    image: ImageVersion


BIOS = ("BIOS, iPXE in the ROM", "bios", "undionly.kpxe", MacAddress.parse("52:54:00:78:00:01"))
# dnsmasq users take ipxe.efi, the loader of the manuals; ours chooses for itself.
UEFI = ("UEFI PXE, then iPXE", "uefi", "ipxe.efi", MacAddress.parse("52:54:00:78:00:02"))
CLOUD_MODULES = ("virtio_net", "virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "ext4")


def recipes() -> tuple[Recipe, Recipe]:
    """The failsafe with Debian's kernel for virtual machines, and as it comes."""
    metal = load_recipe(recipes_folder() / "failsafe")
    spec = replace(metal.kernel, package="linux-image-cloud-amd64", modules=CLOUD_MODULES)
    cloud = replace(metal, name="failsafe-cloud", kernel=spec)
    return cloud, metal


def cases() -> list[Case]:
    """Build both images, and name what is measured."""
    store = ImageStore(BUILD.absolute() / "state" / "images")
    images = [build_image(recipe, store, cache=BUILD / "cache") for recipe in recipes()]
    return [
        Case(
            name=f"{name}: {image.name}",
            firmware=firmware,  # type: ignore[arg-type]  # one of the two above
            loader=loader,
            mac=mac,
            image=image,
        )
        for name, firmware, loader, mac in (BIOS, UEFI)
        for image in images
    ]


def main() -> None:
    """Measure, and print a line for each case."""
    parser = argparse.ArgumentParser(description="Power-on to init: dnsmasq and nginx, bootnode.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto")
    arguments = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    to_measure = cases()
    print("command: python -m benchmarks.boot " + " ".join(sys.argv[1:]))
    print(f"{arguments.rounds} rounds, taking turns; median seconds from power-on to init")
    print(f"{'':38} {'dnsmasq+nginx':>14} {'bootnode':>9} {'ratio':>6}")
    for case in to_measure:
        theirs: list[float] = []
        ours: list[float] = []
        for _ in range(arguments.rounds):
            theirs.append(measure(case, arguments.accel, start_theirs))
            ours.append(measure(case, arguments.accel, start_ours))
        one, other = statistics.median(theirs), statistics.median(ours)
        print(f"{case.name:38} {one:14.1f} {other:9.1f} {one / other:6.2f}", flush=True)
        print(f"    each: {_list(theirs)}; {_list(ours)}", flush=True)


def _list(seconds: list[float]) -> str:
    return " ".join(f"{value:.1f}" for value in seconds)


def measure(case: Case, accel: str, start: Callable[[Lab, Case], None]) -> float:
    """Seconds from power-on to init of one node, with servers that `start` brings up."""
    with fresh_lab(accel) as lab:
        start(lab, case)
        vm = NodeVm(name="node", mac=case.mac, firmware=case.firmware)
        machine = lab.boot(vm)
        machine.wait_console(r"bootnode: init ", TIMEOUT_S)
        return machine.seconds


@contextmanager
def fresh_lab(accel: str) -> Iterator[Lab]:
    """A switch of its own, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        config = LabConfig(
            folder=Path(folder),
            taps=(("tap0", ADDRESS),),
            accel=accel,  # type: ignore[arg-type]  # argparse has checked it
        )
        with Lab.up(config) as lab:
            yield lab


def start_ours(lab: Lab, case: Case) -> None:
    """bootnoded with one node."""
    folder = lab.config.folder
    (folder / "bootnoded.yaml").write_text(
        f"state_dir: {BUILD.absolute() / 'state'}\n"
        "networks:\n"
        f"  - {{interface: tap0, dhcp: full, router: {ADDRESS.ip}}}\n"
    )
    (folder / "nodes.yaml").write_text(
        f"defaults: {{image: {case.image.name}, kernel_args: [{KERNEL_ARGS}]}}\n"
        f"nodes: {{node: {{mac: {case.mac}, ip: {ADDRESS.ip + 9}}}}}\n"
    )
    command = [sys.executable, "-m", "bootnode.daemon", "-c", str(folder / "bootnoded.yaml")]
    lab.start_daemon(command)


def start_theirs(lab: Lab, case: Case) -> None:
    """dnsmasq for DHCP and TFTP, nginx for HTTP."""
    folder = lab.config.folder
    _start_nginx(lab, folder, case.image)
    tftp = folder / "tftp"
    tftp.mkdir()
    for source in (Path("/usr/lib/ipxe/undionly.kpxe"), Path("/boot/ipxe.efi")):
        (tftp / source.name).write_bytes(source.read_bytes())
    lab.start_daemon(
        [
            *("dnsmasq", "--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null"),
            *("--port=0", "--interface=tap0", "--bind-interfaces", "--user=root"),
            f"--dhcp-leasefile={folder / 'dnsmasq.leases'}",
            f"--dhcp-range={ADDRESS.ip + 9},{ADDRESS.ip + 99},1h",
            *("--enable-tftp", f"--tftp-root={tftp}"),
            "--dhcp-match=set:ipxe,175",
            f"--dhcp-boot=tag:!ipxe,{case.loader}",
            f"--dhcp-boot=tag:ipxe,http://{ADDRESS.ip}:8080/boot.ipxe",
        ],
        "DHCP, IP range",
        name="dnsmasq",
    )


def _start_nginx(lab: Lab, folder: Path, image: ImageVersion) -> None:
    root = folder / "www"
    root.mkdir()
    for name in (image.kernel, *image.initrds):
        (root / name).symlink_to(image.folder / name)
    base = f"http://{ADDRESS.ip}:8080"
    arguments = " ".join([*image.kernel_args, KERNEL_ARGS])
    (root / "boot.ipxe").write_text(
        "#!ipxe\n"
        f"kernel {base}/{image.kernel} initrd={image.initrds[0]} {arguments}\n"
        f"initrd {base}/{image.initrds[0]}\n"
        "boot\n"
    )
    (folder / "nginx.conf").write_text(
        "daemon off; worker_processes 1; user root; error_log stderr notice;\n"
        f"pid {folder}/nginx.pid; events {{}}\n"
        f"http {{ access_log off; sendfile on; client_body_temp_path {folder}/t;\n"
        + "".join(
            f"{kind}_temp_path {folder}/t;\n" for kind in ("proxy", "fastcgi", "uwsgi", "scgi")
        )
        + f"server {{ listen {ADDRESS.ip}:8080; root {root}; }} }}\n"
    )
    lab.start_daemon(
        [_nginx(), "-p", folder, "-c", folder / "nginx.conf"], "start worker process", name="nginx"
    )


def _nginx() -> Path:
    """nginx of its package, unpacked where nothing starts it."""
    binary = BUILD.absolute() / "nginx" / "usr" / "sbin" / "nginx"
    if not binary.exists():
        with (BUILD / "nginx.log").open("wb") as log:
            packages = Packages(cache=BUILD.absolute() / "cache", log=log)
            packages.unpack(packages.fetch("nginx"), BUILD.absolute() / "nginx")
    return binary


if __name__ == "__main__":
    main()

"""What benchmarks compare: bootnoded, and dnsmasq with nginx, each in a lab of its own.

dnsmasq does DHCP and TFTP as its manual shows it for iPXE; nginx serves script, kernel, ramdisks.
nginx is unpacked from its package, never installed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface
from pathlib import Path

from bootnode.addresses import MacAddress
from bootnode.image.packages import Packages
from bootnode.image.store import ImageVersion
from bootnode.lab import Lab, LabConfig

BUILD = Path(".build")
ADDRESS = IPv4Interface("10.78.0.1/24")


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


def start_bootnode(
    lab: Lab, mac: MacAddress, image: ImageVersion, kernel_args: str, *, loader: str = "ipxe"
) -> None:
    """bootnoded with one node, which boots `image`."""
    folder = lab.config.folder
    (folder / "bootnoded.yaml").write_text(
        f"state_dir: {BUILD.absolute() / 'state'}\n"
        "networks:\n"
        f"  - {{interface: tap0, dhcp: full, router: {ADDRESS.ip}}}\n"
    )
    (folder / "nodes.yaml").write_text(
        f"defaults: {{image: {image.name}, kernel_args: [{kernel_args}], loader: {loader}}}\n"
        f"nodes: {{node: {{mac: {mac}, ip: {ADDRESS.ip + 9}}}}}\n"
    )
    command = [sys.executable, "-m", "bootnode.daemon", "-c", str(folder / "bootnoded.yaml")]
    lab.start_daemon(command)


def start_classic(lab: Lab, loader: str, image: ImageVersion, kernel_args: str) -> None:
    """dnsmasq for DHCP and TFTP of iPXE's `loader`, nginx for the files of `image` by HTTP."""
    folder = lab.config.folder
    _start_nginx(lab, folder, image, kernel_args)
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
            f"--dhcp-boot=tag:!ipxe,{loader}",
            f"--dhcp-boot=tag:ipxe,http://{ADDRESS.ip}:8080/boot.ipxe",
        ],
        "DHCP, IP range",
        name="dnsmasq",
    )


def _start_nginx(lab: Lab, folder: Path, image: ImageVersion, kernel_args: str) -> None:
    root = folder / "www"
    root.mkdir()
    for name in (image.kernel, *image.initrds):
        (root / name).symlink_to(image.folder / name)
    base = f"http://{ADDRESS.ip}:8080"
    names = " ".join(f"initrd={name}" for name in image.initrds)
    arguments = " ".join([names, *image.kernel_args, kernel_args])
    initrds = "".join(f"initrd {base}/{name}\n" for name in image.initrds)
    (root / "boot.ipxe").write_text(
        f"#!ipxe\nkernel {base}/{image.kernel} {arguments}\n{initrds}boot\n"
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
    nginx = unpacked("nginx", "usr/sbin/nginx") / "usr/sbin/nginx"
    command: list[str | Path] = [nginx, "-p", folder, "-c", folder / "nginx.conf"]
    lab.start_daemon(command, "start worker process", name="nginx")


def unpacked(package: str, binary: str) -> Path:
    """The root of a package that has `binary`, unpacked where nothing starts what is in it."""
    root = BUILD.absolute() / package
    if not (root / binary).exists():
        (BUILD / "cache").mkdir(parents=True, exist_ok=True)
        with (BUILD / f"{package}.log").open("wb") as log:
            packages = Packages(cache=BUILD.absolute() / "cache", log=log)
            packages.unpack(packages.fetch(package), root)
    return root

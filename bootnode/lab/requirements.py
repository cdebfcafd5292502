"""What the lab needs of this machine, and the Debian package that brings it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from bootnode.errors import LabError

OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
AAVMF_CODE = Path("/usr/share/AAVMF/AAVMF_CODE.fd")
AAVMF_VARS = Path("/usr/share/AAVMF/AAVMF_VARS.fd")
TUN_DEVICE = Path("/dev/net/tun")

PACKAGES = {
    "ip": "iproute2",
    "mount": "mount",
    "nsenter": "util-linux",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-system-x86_64": "qemu-system-x86",
    "unshare": "util-linux",
    "vde_plug2tap": "vde2",
    "vde_switch": "vde2",
    str(AAVMF_CODE): "qemu-efi-aarch64",
    str(AAVMF_VARS): "qemu-efi-aarch64",
    str(OVMF_CODE): "ovmf",
    str(OVMF_VARS): "ovmf",
}
NETWORK_TOOLS = ("ip", "mount", "nsenter", "unshare", "vde_plug2tap", "vde_switch")
BIOS_FILES = ("qemu-system-x86_64",)
UEFI_FILES = (*BIOS_FILES, str(OVMF_CODE), str(OVMF_VARS))
ARM64_FILES = ("qemu-system-aarch64", str(AAVMF_CODE), str(AAVMF_VARS))


def require(tools: Iterable[str]) -> None:
    """See that each program (by PATH) or file (by absolute path) is there.

    Raises:
        LabError: naming every missing one and how to install them.
    """
    missing = [tool for tool in tools if not _is_there(tool)]
    if missing:
        packages = " ".join(sorted({PACKAGES[tool] for tool in missing}))
        raise LabError(f"{', '.join(missing)}: not found; install: apt-get install {packages}")


def require_network() -> None:
    """See that this process may make a lab's network.

    Raises:
        LabError: it lacks root, a program or the tun device.
    """
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces and needs root; run it with sudo")
    require(NETWORK_TOOLS)
    if not TUN_DEVICE.exists():
        raise LabError(f"{TUN_DEVICE}: not found; load the kernel module: modprobe tun")


def _is_there(tool: str) -> bool:
    return Path(tool).exists() if tool.startswith("/") else shutil.which(tool) is not None

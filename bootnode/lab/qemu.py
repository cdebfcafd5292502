"""A node of the lab as a qemu command line.

Kinds of firmware, as real machines have them: `bios` is SeaBIOS with iPXE in the NIC's ROM, `uefi`
is OVMF with its own PXE (the NIC has no ROM), `uefi-http` is OVMF with UEFI HTTP Boot; `uefi-arm64`
and `uefi-arm64-http` are the same two on an arm64 machine, by AAVMF.
All of them talk to the serial line, which goes to the console log and to a socket for people.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, get_args

from bootnode.addresses import MacAddress
from bootnode.errors import LabError
from bootnode.lab.config import LabConfig
from bootnode.lab.requirements import (
    AAVMF_CODE,
    AAVMF_VARS,
    ARM64_FILES,
    BIOS_FILES,
    OVMF_CODE,
    OVMF_VARS,
    UEFI_FILES,
)

Firmware = Literal["bios", "uefi", "uefi-http", "uefi-arm64", "uefi-arm64-http"]

NAME_LENGTH_MAX = 63
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_LENGTH_MAX - 1}}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeVm:
    """A diskless machine with one NIC."""

    name: str
    """A host name; also names its console log."""
    mac: MacAddress
    firmware: Firmware = "bios"
    memory_mib: int = 1024
    cpus: int = 1
    tap: str | None = None
    """The tap whose switch it is plugged into; None: the lab's first."""
    ends_on_reboot: bool = False
    """Whether a reboot ends qemu instead of booting again."""
    arguments: tuple[str, ...] = ()
    """More qemu arguments, after ours."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise LabError(
                f"'{self.name}' cannot name a node (want 1 to {NAME_LENGTH_MAX} letters, digits,"
                " dots and hyphens)"
            )
        if self.firmware not in get_args(Firmware):
            raise LabError(
                f"firmware '{self.firmware}' is unknown (want {', '.join(get_args(Firmware))})"
            )

    @property
    def is_uefi(self) -> bool:
        """Whether its firmware is UEFI, with variables to keep."""
        return self.firmware != "bios"

    @property
    def is_arm64(self) -> bool:
        """Whether its processor is one of arm64, which is always emulated."""
        return self.firmware.startswith("uefi-arm64")

    @property
    def requirements(self) -> tuple[str, ...]:
        """The programs and files that it needs of this machine."""
        if self.is_arm64:
            return ARM64_FILES
        return UEFI_FILES if self.is_uefi else BIOS_FILES


@dataclass(frozen=True, slots=True, kw_only=True)
class VmFiles:
    """Where one node's sockets and files are; relative ones start at the lab's folder."""

    switch: Path
    console_socket: Path
    console_log: Path
    monitor_socket: Path
    firmware_vars: Path

    @classmethod
    def of(cls, vm: NodeVm, config: LabConfig) -> Self:
        """The files of `vm` in the lab `config`.

        Raises:
            LabError: the lab has no such tap.
        """
        return cls(
            switch=config.switch_socket(vm.tap),
            # Absolute they would be too long for a socket; qemu runs in the lab's folder.
            console_socket=config.console_socket(vm.name).relative_to(config.folder),
            console_log=config.console(vm.name),
            monitor_socket=config.monitor_socket(vm.name).relative_to(config.folder),
            firmware_vars=config.run / f"{vm.name}.vars",
        )


def prepare_files(vm: NodeVm, files: VmFiles) -> None:
    """Give the node fresh firmware variables and an empty console."""
    files.console_log.write_bytes(b"")
    if vm.is_uefi:
        shutil.copyfile(AAVMF_VARS if vm.is_arm64 else OVMF_VARS, files.firmware_vars)


def qemu_command(vm: NodeVm, *, accel: Literal["tcg", "kvm"], files: VmFiles) -> list[str]:
    """The command line that runs `vm` in the lab's folder."""
    if vm.is_arm64:
        program, cpu, machine = "qemu-system-aarch64", "cortex-a57", "virt"
    else:
        # Without svm: every node would load KVM, for machines that nobody starts in it.
        # graphics=off is what makes SeaBIOS, and by it iPXE, use the serial line.
        program, cpu, machine = "qemu-system-x86_64", "qemu64,-svm", "pc,graphics=off"
    return [
        *(program, "-name", vm.name, "-no-user-config", "-nodefaults"),
        *("-accel", accel, "-cpu", cpu),
        *("-smp", str(vm.cpus), "-m", str(vm.memory_mib)),
        *("-machine", machine, "-display", "none"),
        *_console(files),
        *_firmware(vm, files),
        *_network(vm, files),
        *(["-no-reboot"] if vm.ends_on_reboot else []),
        *vm.arguments,
    ]


def _console(files: VmFiles) -> list[str]:
    console = f"path={_escape(files.console_socket)},logfile={_escape(files.console_log)}"
    monitor = f"path={_escape(files.monitor_socket)}"
    return [
        *("-chardev", f"socket,id=console,server=on,wait=off,{console}"),
        *("-serial", "chardev:console"),
        *("-chardev", f"socket,id=monitor,server=on,wait=off,{monitor}"),
        *("-mon", "chardev=monitor,mode=control"),
    ]


def _firmware(vm: NodeVm, files: VmFiles) -> list[str]:
    if not vm.is_uefi:
        return ["-boot", "n"]
    code = AAVMF_CODE if vm.is_arm64 else OVMF_CODE
    flash = [
        *("-drive", f"if=pflash,format=raw,readonly=on,file={_escape(code)}"),
        *("-drive", f"if=pflash,format=raw,file={_escape(files.firmware_vars)}"),
    ]
    if not vm.firmware.endswith("-http"):
        return flash
    # The firmware tries PXE before HTTP Boot, and waits minutes for each.
    return [
        *flash,
        *("-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=no"),
        *("-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=no"),
    ]


def _network(vm: NodeVm, files: VmFiles) -> list[str]:
    # An empty romfile takes iPXE away, so that UEFI's own network stack boots.
    rom = ",romfile=" if vm.is_uefi else ""
    # AAVMF would begin with its shell.
    order = ",bootindex=1" if vm.is_arm64 else ""
    return [
        *("-netdev", f"vde,id=net,sock={_escape(files.switch)}"),
        *("-device", f"virtio-net-pci,netdev=net,mac={vm.mac}{rom}{order}"),
    ]


def _escape(path: Path) -> str:
    """A path as a value in qemu's comma-separated options."""
    return str(path).replace(",", ",,")

"""The qemu command line of each kind of node."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootnode.addresses import MacAddress
from bootnode.errors import LabError
from bootnode.lab.config import LabConfig
from bootnode.lab.qemu import Firmware, NodeVm, VmFiles, prepare_files, qemu_command

MAC = MacAddress.parse("fc:ab:14:e8:66:01")
CONFIG = LabConfig(folder=Path("/lab,1"))


def command_line(vm: NodeVm) -> str:
    return " ".join(qemu_command(vm, accel="tcg", files=VmFiles.of(vm, CONFIG)))


def test_a_bios_node_boots_from_the_ipxe_in_its_nic() -> None:
    assert command_line(NodeVm(name="node-000", mac=MAC)) == (
        "qemu-system-x86_64 -name node-000 -no-user-config -nodefaults"
        " -accel tcg -cpu qemu64,-svm -smp 1 -m 1024"
        " -machine pc,graphics=off -display none"
        " -chardev socket,id=console,server=on,wait=off,"
        "path=run/node-000.console,logfile=/lab,,1/consoles/node-000.log"
        " -serial chardev:console"
        " -chardev socket,id=monitor,server=on,wait=off,path=run/node-000.monitor"
        " -mon chardev=monitor,mode=control"
        " -boot n"
        " -netdev vde,id=net,sock=/lab,,1/run/0.ctl"
        " -device virtio-net-pci,netdev=net,mac=fc:ab:14:e8:66:01"
    )


@pytest.mark.parametrize(
    ("firmware", "has", "has_not"),
    [
        ("bios", ["-boot n"], ["pflash", "romfile", "fw_cfg"]),
        ("uefi", ["readonly=on,file=/usr/share/OVMF/", "run/n.vars", "romfile="], ["fw_cfg"]),
        ("uefi-http", ["IPv4PXESupport,string=no", "IPv6PXESupport,string=no"], ["-boot n"]),
        (
            "uefi-arm64",
            ["-machine virt", "readonly=on,file=/usr/share/AAVMF/", "run/n.vars", "bootindex=1"],
            ["fw_cfg", "OVMF", "x86"],
        ),
        (
            "uefi-arm64-http",
            ["qemu-system-aarch64", "IPv4PXESupport,string=no", "romfile="],
            ["-boot n", "OVMF"],
        ),
    ],
)
def test_firmware_kinds_differ_as_they_should(
    firmware: Firmware, has: list[str], has_not: list[str]
) -> None:
    line = command_line(NodeVm(name="n", mac=MAC, firmware=firmware))
    assert [part for part in has if part not in line] == []
    assert [part for part in has_not if part in line] == []


def test_kvm_memory_reboot_and_own_arguments_are_passed_on() -> None:
    vm = NodeVm(name="n", mac=MAC, memory_mib=2048, ends_on_reboot=True, arguments=("-cpu", "host"))
    command = qemu_command(vm, accel="kvm", files=VmFiles.of(vm, CONFIG))
    assert command[command.index("-accel") + 1] == "kvm"
    assert command[command.index("-m") + 1] == "2048"
    assert command[-3:] == ["-no-reboot", "-cpu", "host"]


@pytest.mark.parametrize("name", ["", "../x", "a b", "-n", "n" * 64])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(LabError, match="cannot name a node"):
        NodeVm(name=name, mac=MAC)


def test_unknown_firmware_is_refused() -> None:
    with pytest.raises(LabError, match="want bios, uefi, uefi-http"):
        NodeVm(name="n", mac=MAC, firmware="coreboot")  # type: ignore[arg-type]  # the point


def test_an_unknown_tap_is_refused() -> None:
    with pytest.raises(LabError, match="no tap of the lab"):
        VmFiles.of(NodeVm(name="n", mac=MAC, tap="tap9"), CONFIG)


def test_power_on_begins_with_an_empty_console(tmp_path: Path) -> None:
    config = LabConfig(folder=tmp_path)
    config.save()
    vm = NodeVm(name="n", mac=MAC)
    config.console("n").write_text("of another boot")
    prepare_files(vm, VmFiles.of(vm, config))
    assert config.console("n").read_text() == ""

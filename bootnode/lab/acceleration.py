"""Hardware acceleration, tried before it is trusted.

That /dev/kvm opens says little: on some machines qemu aborts, on others a machine starts and then
crawls, a thousand times slower than emulation, once a kernel turns paging on (seen under a cloud's
hypervisor). So a trial machine does what a kernel does: it enters 64-bit mode with page tables of
its own and touches 60 MiB of memory. Emulation needs 0.4 s for that, qemu's start included.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Literal

from bootnode.errors import LabError
from bootnode.lab.config import LabConfig

# Well above what emulation needs on a busy machine; what is slower than that is no acceleration.
TRIAL_TIMEOUT_S = 3.0
# isa-debug-exit turns a byte N written to its port into exit status 2 N + 1.
_PORT, _BYTE = 0xF4, 0x2A
_SUCCESS = 2 * _BYTE + 1
_SECTOR_BYTES = 512

_BOOT_SECTOR = bytes.fromhex(
    # 16 bit, at 0x7c00: clear 12 KiB at 0x10000 for three levels of page tables
    "fa 31ff b80010 8ec0 b90018 31c0 fc f3ab"
    # PML4[0] = 0x11000, PDPT[0] = 0x12000, both present and writable
    "26 66 c7060000 03100100  26 66 c7060010 03200100"
    # page directory: 32 pages of 2 MiB
    "bf0020 66b883000000 b92000  26668905 660500002000 83c708 e2f1"
    # load the GDT; CR4.PAE; CR3 = 0x10000; EFER.LME; CR0.PG and PE; jump to 64-bit code
    "31c0 8ed8 0f0116b27c  66b820000000 0f22e0  66b800000100 0f22d8"
    "66b9800000c0 0f32 80cc01 0f30  0f20c0 660d01000080 0f22c0  ea787c0800"
    # 64 bit: from 2 MiB on, store 0x780000 quadwords
    "b810000000 8ed8 bf00002000 b900007800  48893f 83c708 ffc9 75f6"
    # out 0xf4, 0x2a; halt
    "b02a e6f4 f4 ebfd"
    # at 0x7c9a: GDT with null, 64-bit code, data; then its limit and address
    "0000000000000000 ffff0000009baf00 ffff00000093cf00 1700 9a7c0000"
)


def boot_sector() -> bytes:
    """The trial machine's whole disk: 512 bytes that end by the debug port if all is well."""
    return _BOOT_SECTOR.ljust(_SECTOR_BYTES - 2, b"\0") + b"\x55\xaa"


def probe(accel: Literal["tcg", "kvm"], *, timeout_s: float = TRIAL_TIMEOUT_S) -> bool:
    """Whether a trial machine runs to its end in time under `accel`."""
    with tempfile.NamedTemporaryFile(prefix="bootnode-trial-") as disk:
        disk.write(boot_sector())
        disk.flush()
        command = [
            *("qemu-system-x86_64", "-accel", accel, "-cpu", "qemu64", "-m", "64"),
            *("-no-user-config", "-nodefaults", "-display", "none", "-boot", "a"),
            *("-drive", f"if=floppy,format=raw,file={disk.name}"),
            *("-device", f"isa-debug-exit,iobase={_PORT:#x},iosize=1"),
        ]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == _SUCCESS


def probe_kvm() -> bool:
    """Whether KVM is there and really runs a machine."""
    return Path("/dev/kvm").exists() and probe("kvm")


def choose_accel(config: LabConfig) -> Literal["tcg", "kvm"]:
    """What the lab's machines run under; the answer to `auto` is kept while the lab is up.

    Raises:
        LabError: KVM was asked for by name and does not work.
    """
    if config.accel == "tcg":
        return "tcg"
    cache = config.run / "kvm-works"
    if not cache.exists():
        answer = cache.with_suffix(".new")
        answer.write_text("yes" if probe_kvm() else "no")
        answer.rename(cache)  # a second `lab boot` must not read half of it
    works = cache.read_text() == "yes"
    if config.accel == "kvm" and not works:
        raise LabError(
            "accel: kvm: a trial machine does not run under KVM here; use accel auto or tcg"
        )
    return "kvm" if works else "tcg"

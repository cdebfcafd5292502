"""The choice between KVM and emulation; the trial machine itself runs in tests/lab."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootnode.errors import LabError
from bootnode.lab import acceleration
from bootnode.lab.acceleration import boot_sector, choose_accel
from bootnode.lab.config import LabConfig


def test_the_trial_disk_is_a_boot_sector() -> None:
    assert len(boot_sector()) == 512
    assert boot_sector()[-2:] == b"\x55\xaa"
    # lgdt's operand and the GDT's base are addresses in the sector as it lies at 0x7c00.
    code = boot_sector()
    gdt_register = int.from_bytes(code[0x46:0x48], "little") - 0x7C00
    gdt = int.from_bytes(code[gdt_register + 2 : gdt_register + 6], "little") - 0x7C00
    assert code[gdt : gdt + 8] == bytes(8)
    assert gdt + int.from_bytes(code[gdt_register : gdt_register + 2], "little") == gdt_register - 1


@pytest.mark.parametrize(
    ("accel", "kvm_works", "chosen"),
    [("auto", True, "kvm"), ("auto", False, "tcg"), ("kvm", True, "kvm"), ("tcg", True, "tcg")],
)
def test_the_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accel: str, kvm_works: bool, chosen: str
) -> None:
    monkeypatch.setattr(acceleration, "probe_kvm", lambda: kvm_works)
    config = LabConfig(folder=tmp_path, accel=accel)  # type: ignore[arg-type]  # from a table
    config.run.mkdir()
    assert choose_accel(config) == chosen


def test_the_trial_runs_once_a_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials: list[bool] = []

    def trial() -> bool:
        trials.append(True)
        return False

    monkeypatch.setattr(acceleration, "probe_kvm", trial)
    config = LabConfig(folder=tmp_path)
    config.run.mkdir()
    assert [choose_accel(config), choose_accel(config)] == ["tcg", "tcg"]
    assert len(trials) == 1


def test_kvm_by_name_is_refused_where_it_does_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceleration, "probe_kvm", lambda: False)
    config = LabConfig(folder=tmp_path, accel="kvm")
    config.run.mkdir()
    with pytest.raises(LabError, match="use accel auto or tcg"):
        choose_accel(config)

"""Missing programs are named together with the package that brings them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bootnode.errors import LabError
from bootnode.lab import requirements
from bootnode.lab.requirements import (
    ARM64_FILES,
    BIOS_FILES,
    NETWORK_TOOLS,
    PACKAGES,
    UEFI_FILES,
    require,
)


def test_every_requirement_has_a_package() -> None:
    assert set(PACKAGES) == {*NETWORK_TOOLS, *BIOS_FILES, *UEFI_FILES, *ARM64_FILES}


def test_all_missing_programs_are_named_with_their_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError) as caught:
        require(("vde_switch", "vde_plug2tap", "ip"))
    assert str(caught.value) == (
        "vde_switch, vde_plug2tap, ip: not found; install: apt-get install iproute2 vde2"
    )


def test_what_is_there_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ip"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    require(("ip", "/"))


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="needs root; run it with sudo"):
        requirements.require_network()


def test_without_tun_device_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(requirements, "NETWORK_TOOLS", ())
    monkeypatch.setattr(requirements, "TUN_DEVICE", tmp_path / "tun")
    with pytest.raises(LabError, match="modprobe tun"):
        requirements.require_network()
    (tmp_path / "tun").touch()
    requirements.require_network()

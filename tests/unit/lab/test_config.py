"""A lab's configuration: what is refused, and that it survives its file."""

from __future__ import annotations

from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from bootnode.errors import LabError
from bootnode.lab.config import FOLDER_LENGTH_MAX, Accel, LabConfig

TAP0 = ("tap0", IPv4Interface("10.77.0.1/24"))
TAP1 = ("tap1", IPv4Interface("192.168.5.1/16"))


def test_saved_configuration_is_loaded_again(tmp_path: Path) -> None:
    config = LabConfig(folder=tmp_path / "lab", taps=(TAP0, TAP1), accel="tcg")
    config.save()
    assert LabConfig.load(tmp_path / "lab") == config
    assert config.log("x").parent.is_dir()
    assert config.console("x").parent.is_dir()


@pytest.mark.parametrize(
    ("folder", "taps", "accel", "complaint"),
    [
        ("relative", (TAP0,), "auto", "absolute"),
        ("/" + "x" * FOLDER_LENGTH_MAX, (TAP0,), "auto", "too long for the Unix sockets"),
        ("/lab", (), "auto", "taps: none"),
        ("/lab", (TAP0, TAP0), "auto", "each name once"),
        ("/lab", (("t" * 16, TAP0[1]),), "auto", "no interface name"),
        ("/lab", (("", TAP0[1]),), "auto", "no interface name"),
        ("/lab", (("../x", TAP0[1]),), "auto", "no interface name"),
        ("/lab", (TAP0,), "xen", "want auto, tcg or kvm"),
    ],
)
def test_refusals_say_what_is_wanted(
    folder: str, taps: tuple[tuple[str, IPv4Interface], ...], accel: Accel, complaint: str
) -> None:
    with pytest.raises(LabError, match=complaint):
        LabConfig(folder=Path(folder), taps=taps, accel=accel)


def test_every_tap_has_a_switch_and_the_first_is_the_default() -> None:
    config = LabConfig(folder=Path("/lab"), taps=(TAP0, TAP1))
    assert config.switch_socket() == config.switch_socket("tap0") == Path("/lab/run/0.ctl")
    assert config.switch_socket("tap1") == Path("/lab/run/1.ctl")
    with pytest.raises(LabError, match="want one of tap0, tap1"):
        config.switch_socket("tap2")


def test_a_folder_without_lab_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="bootnode lab up"):
        LabConfig.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"taps": [["tap0", "x"]], "accel": "auto"}'])
def test_a_spoilt_file_is_reported_with_its_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "lab.json").write_text(text)
    with pytest.raises(LabError, match=r"lab\.json: not a lab's file"):
        LabConfig.load(tmp_path)

"""`bootnode lab`: what it works out before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from bootnode.cli import lab as module
from bootnode.cli.lab import server_address
from bootnode.config import NetworkSettings
from bootnode.errors import LabError
from bootnode.lab import Firmware

Run = Callable[..., Any]


def network(**settings: object) -> NetworkSettings:
    return NetworkSettings.model_validate({"interface": "tap0", "dhcp": "full", **settings})


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({"router": "10.77.0.254", "pool": "10.77.0.1-10.77.0.9"}, "10.77.0.254/24"),
        ({"router": "192.168.5.1"}, "192.168.5.1/24"),
        ({"pool": "10.77.0.100-10.77.0.199"}, "10.77.0.1/24"),
        # Beside the pool, not in it.
        ({"pool": "10.77.0.1-10.77.0.99"}, "10.77.0.100/24"),
        ({"pool": "10.77.0.0-10.77.0.255"}, "10.77.0.0/24"),
    ],
)
def test_server_address(settings: dict[str, object], address: str) -> None:
    assert str(server_address(network(**settings))) == address


def test_server_address_that_nothing_tells() -> None:
    with pytest.raises(LabError) as caught:
        server_address(network())
    assert str(caught.value) == (
        "network tap0 names neither a router nor a pool: "
        "say with --address what this server's address there is, such as 10.77.0.1/24"
    )


def test_every_firmware_of_the_lab_can_be_asked_for() -> None:
    assert get_args(Firmware) == module.FIRMWARES


class FakeLab:
    """Takes down what it was asked for; nothing is started."""

    def __init__(self) -> None:
        self.config = self
        self.machines: list[tuple[str, str, str, int]] = []
        self.words: list[str] = []

    def attach(self, _folder: Path) -> FakeLab:
        return self

    def console(self, name: str) -> Path:
        return Path(f"/lab/{name}.log")

    def boot(self, machine: Any) -> None:
        self.machines.append((machine.name, str(machine.mac), machine.firmware, machine.memory_mib))

    def command(self, words: list[str]) -> list[str]:
        self.words = words
        return ["true"]


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> FakeLab:
    fake = FakeLab()
    monkeypatch.setattr("bootnode.lab.Lab", fake)
    return fake


def test_boot(run: Run, lab: FakeLab) -> None:
    outcome = run("lab", "boot", "node-000", "NODE-001:uefi", "--memory", "2048")
    assert (outcome.status, outcome.err) == (0, "")
    assert lab.machines == [
        ("node-000", "fc:ab:14:e8:66:01", "bios", 2048),
        ("node-001", "fc:ab:14:e8:66:02", "uefi", 2048),
    ]
    assert outcome.out == (
        "node-000 is on; its console: /lab/node-000.log\n"
        "node-001 is on; its console: /lab/node-001.log\n"
    )


def test_boot_with_the_usual_memory(run: Run, lab: FakeLab) -> None:
    assert run("lab", "boot", "node-002:uefi-http").status == 0
    assert lab.machines == [
        ("node-002", "fc:ab:14:e8:66:04", "uefi-http", module.MEMORY_MIB),
    ]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("x", "there is no node 'x': `bootnode node list` shows those there are"),
        (
            "node-000:coreboot",
            "'coreboot' is no firmware (want bios, uefi, uefi-http, uefi-arm64, uefi-arm64-http)",
        ),
    ],
)
def test_boot_of_what_there_is_not(run: Run, lab: FakeLab, word: str, message: str) -> None:
    outcome = run("lab", "boot", "node-000", word)
    assert (outcome.status, outcome.err) == (1, f"bootnode: {message}\n")
    assert lab.machines == []


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ([], ["sh"]),
        (["ip", "address"], ["ip", "address"]),
        (["--", "ls", "-l"], ["ls", "-l"]),
        (["--", "sh", "-c", "echo $1", "--", "x"], ["sh", "-c", "echo $1", "--", "x"]),
    ],
)
def test_exec(lab: FakeLab, words: list[str], command: list[str]) -> None:
    from bootnode.cli import main

    with pytest.raises(SystemExit) as exited:
        main(["lab", "exec", *words])
    assert exited.value.code == 0
    assert lab.words == command
